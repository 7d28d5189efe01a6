// Exact distances between a query and stored rows: smaller is nearer for every metric.
//   l2: squared distance; ip: minus the inner product; cosine: 1 - cos (1 where a vector is zero).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"

namespace tenfold {

enum class Metric { l2, ip, cosine };
enum class Type { f32, f16, u8, i8 };

inline size_t type_size(Type type) { return type == Type::f32 ? 4 : type == Type::f16 ? 2 : 1; }
// Queries of float16 rows are float32.
inline size_t query_type_size(Type type) { return type == Type::f16 ? 4 : type_size(type); }

struct Scorer {
    Type type;
    Metric metric;
    size_t dim;

    float l2(const void* query, const void* row) const {
        const Kernels& k = kernels();
        switch (type) {
            case Type::f32:
                return k.l2_f32(static_cast<const float*>(query), static_cast<const float*>(row), dim);
            case Type::f16:
                return k.l2_f16(static_cast<const float*>(query), static_cast<const uint16_t*>(row), dim);
            case Type::u8:
                return k.l2_u8(static_cast<const uint8_t*>(query), static_cast<const uint8_t*>(row), dim);
            default:
                return k.l2_i8(static_cast<const int8_t*>(query), static_cast<const int8_t*>(row), dim);
        }
    }

    float dot(const void* query, const void* row) const {
        const Kernels& k = kernels();
        switch (type) {
            case Type::f32:
                return k.dot_f32(static_cast<const float*>(query), static_cast<const float*>(row), dim);
            case Type::f16:
                return k.dot_f16(static_cast<const float*>(query), static_cast<const uint16_t*>(row), dim);
            case Type::u8:
                return k.dot_u8(static_cast<const uint8_t*>(query), static_cast<const uint8_t*>(row), dim);
            default:
                return k.dot_i8(static_cast<const int8_t*>(query), static_cast<const int8_t*>(row), dim);
        }
    }

    // <row, row>; for half-precision rows as the distance from zero, since queries are floats there.
    float norm(const void* row) const {
        if (type != Type::f16) return dot(row, row);
        thread_local std::vector<float> zeros;
        if (zeros.size() < dim) zeros.assign(dim, 0.0f);
        return l2(zeros.data(), row);
    }

    float query_norm(const void* query) const {
        if (type != Type::f16) return dot(query, query);
        const auto* values = static_cast<const float*>(query);
        return kernels().dot_f32(values, values, dim);
    }

    // `norm_of_query` = query_norm(query), used by cosine only.
    float distance(const void* query, float norm_of_query, const void* row) const {
        if (metric == Metric::l2) return l2(query, row);
        if (metric == Metric::ip) return -dot(query, row);
        return cosine(query, norm_of_query, row, norm(row));
    }

    // `norm_of_row` = norm(row).
    float cosine(const void* query, float norm_of_query, const void* row, float norm_of_row) const {
        const float product = std::sqrt(norm_of_query) * std::sqrt(norm_of_row);
        return product > 0 ? 1 - dot(query, row) / product : 1;
    }
};

// The k best results so far; ties go to the lower id.
class Best {
  public:
    struct Result {
        float distance;
        int64_t id;
        bool operator<(const Result& other) const {
            return distance != other.distance ? distance < other.distance : id < other.id;
        }
    };

    void start(size_t k) {
        k_ = k;
        heap_.clear();
    }
    bool full() const { return heap_.size() == k_; }
    float worst() const { return full() && k_ > 0 ? heap_.front().distance : std::numeric_limits<float>::infinity(); }
    void add(Result result);
    const std::vector<Result>& items() const { return heap_; }
    void write(float* distances, int64_t* ids);  // ascending, padded with inf and -1

  private:
    size_t k_ = 0;
    std::vector<Result> heap_;
};

}  // namespace tenfold
