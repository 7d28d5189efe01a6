#include "arranging.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace tenfold {
namespace {

constexpr int kPowerIterations = 4;

// Cuts a list where pages end, again and again, across the direction in which its rows vary most.
class Arranger {
  public:
    Arranger(const float* rows, size_t dim, size_t rows_per_page)
        : rows_(rows), dim_(dim), rows_per_page_(rows_per_page), mean_(dim), axis_(dim) {}

    // order[0 .. count) goes to the places position .. position + count on disk.
    void arrange(uint32_t* order, size_t count, uint64_t position) {
        const uint64_t first_page = position / rows_per_page_, last_page = (position + count - 1) / rows_per_page_;
        if (count == 0 || first_page == last_page) {
            std::sort(order, order + count);
            return;
        }
        const size_t left = size_t(((first_page + last_page + 1) / 2) * rows_per_page_ - position);
        project(order, count);
        std::nth_element(along_.begin(), along_.begin() + std::ptrdiff_t(left), along_.end());
        for (size_t i = 0; i < count; ++i) order[i] = along_[i].second;
        arrange(order, left, position);
        arrange(order + left, count - left, position + left);
    }

  private:
    // Fills `along_` with the rows' places on their first principal axis.
    void project(const uint32_t* order, size_t count) {
        std::fill(mean_.begin(), mean_.end(), 0.0f);
        for (size_t i = 0; i < count; ++i) add(1.0f / float(count), row(order[i]), mean_);
        std::copy_n(row(order[0]), dim_, axis_.begin());
        add(-1.0f, row(order[count - 1]), axis_);
        shrink(axis_);
        along_.resize(count);
        for (int iteration = 0; iteration <= kPowerIterations; ++iteration) {
            const auto dot = kernels().dot_f32;
            const float middle = dot(mean_.data(), axis_.data(), dim_);
            for (size_t i = 0; i < count; ++i) along_[i] = {dot(row(order[i]), axis_.data(), dim_) - middle, order[i]};
            if (iteration == kPowerIterations) return;
            float furthest = 0, total = 0;
            for (const auto& [place, id] : along_) furthest = std::max(furthest, std::abs(place));
            if (furthest == 0) return;  // no row differs along the axis
            std::fill(axis_.begin(), axis_.end(), 0.0f);
            for (const auto& [place, id] : along_) {
                add(place / furthest, row(id), axis_);
                total += place / furthest;
            }
            add(-total, mean_.data(), axis_);
            shrink(axis_);
        }
    }

    // To a largest value of 1: long rows must not leave the range of float.
    static void shrink(std::vector<float>& values) {
        float most = 0;
        for (float value : values) most = std::max(most, std::abs(value));
        if (most > 0)
            for (float& value : values) value /= most;
    }

    void add(float weight, const float* row, std::vector<float>& to) const {
        for (size_t j = 0; j < dim_; ++j) to[j] += weight * row[j];
    }

    const float* row(uint32_t id) const { return rows_ + size_t(id) * dim_; }

    const float* rows_;
    size_t dim_;
    uint64_t rows_per_page_;
    std::vector<float> mean_, axis_;
    std::vector<std::pair<float, uint32_t>> along_;
};

}  // namespace

void arrange(const float* rows, const uint32_t* list, size_t count, size_t dim, uint64_t position, size_t rows_per_page,
             size_t threads, uint32_t* order) {
    std::iota(order, order + count, 0);
    std::vector<size_t> starts;
    for (size_t i = 0; i < count; ++i)
        if (i == 0 || list[i] != list[i - 1]) starts.push_back(i);
    starts.push_back(count);
    parallel_for(starts.size() - 1, 8, threads, [&](size_t first, size_t last, size_t) {
        Arranger arranger(rows, dim, rows_per_page);
        for (size_t l = first; l < last; ++l)
            arranger.arrange(order + starts[l], starts[l + 1] - starts[l], position + starts[l]);
    });
}

}  // namespace tenfold
