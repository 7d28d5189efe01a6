#include "quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.h"

namespace tenfold {
namespace {

typedef int32_t CodeInts __attribute__((vector_size(kCodes * sizeof(int32_t))));
typedef uint8_t CodeBytes __attribute__((vector_size(kCodes)));

// The centroid nearest to `value` among 16, `stride` values apart; ties go to the lower code.
uint8_t nearest_code(const float* table, size_t stride, const float* value, size_t dim, float* distance = nullptr) {
    float best = std::numeric_limits<float>::infinity();
    uint8_t code = 0;
    for (size_t c = 0; c < kCodes; ++c) {
        float sum = 0;
        for (size_t j = 0; j < dim; ++j) {
            const float difference = value[j] - table[c * stride + j];
            sum += difference * difference;
        }
        if (sum < best) best = sum, code = uint8_t(c);
    }
    if (distance) *distance = best;
    return code;
}

std::pair<float, float> extremes(CodeRow row) {
    CodeRow low = row, high = row;
    for (size_t half = kCodes / 2; half > 0; half /= 2)
        for (size_t c = 0; c < half; ++c) {
            low[c] = low[c + half] < low[c] ? low[c + half] : low[c];
            high[c] = high[c + half] > high[c] ? high[c + half] : high[c];
        }
    return {low[0], high[0]};
}

// Lloyd's algorithm for one subspace; an emptied cluster restarts at the point that is worst served.
void train_subspace(const std::vector<float>& points, size_t count, size_t dim, size_t iterations, float* table) {
    for (size_t c = 0; c < kCodes; ++c)
        std::memcpy(table + c * dim, &points[(c * count / kCodes) * dim], dim * sizeof(float));
    std::vector<double> sums(kCodes * dim);
    std::vector<size_t> sizes(kCodes);
    for (size_t iteration = 0; iteration < iterations; ++iteration) {
        std::fill(sums.begin(), sums.end(), 0);
        std::fill(sizes.begin(), sizes.end(), 0);
        float worst_distance = 0;
        size_t worst = 0;
        for (size_t i = 0; i < count; ++i) {
            float distance;
            const uint8_t code = nearest_code(table, dim, &points[i * dim], dim, &distance);
            if (distance > worst_distance) worst_distance = distance, worst = i;
            ++sizes[code];
            for (size_t j = 0; j < dim; ++j) sums[code * dim + j] += points[i * dim + j];
        }
        bool restarted = false;
        for (size_t c = 0; c < kCodes; ++c) {
            if (sizes[c] > 0) {
                for (size_t j = 0; j < dim; ++j) table[c * dim + j] = float(sums[c * dim + j] / double(sizes[c]));
            } else if (!restarted) {
                std::memcpy(table + c * dim, &points[worst * dim], dim * sizeof(float));
                restarted = true;
            }
        }
    }
}

// RaBitQ with more than one bit: the grid is stretched so that the code points most nearly along the residual.
void encode_rabitq(const Codec& codec, const float* residual, uint8_t* codes, float* decoded) {
    const int top = (1 << codec.bits) - 1;
    float largest = 0;
    for (size_t j = 0; j < codec.dim; ++j) largest = std::max(largest, std::fabs(residual[j]));
    const auto level = [&](float value, float stretch) {
        const float place = std::floor(value * stretch + float(top + 1) / 2);
        return int(std::min(std::max(0.0f, place), float(top)));  // beyond an int where all is tiny; NaN becomes 0
    };
    float best_stretch = 0, best_cosine = -1;
    const int trials = codec.bits == 1 || largest == 0 ? 1 : 24;
    for (int trial = 0; trial < trials; ++trial) {
        const float stretch = largest == 0 ? 0 : float(top + 1) / 2 * (1 + 0.25f * float(trial)) / largest;
        double along = 0, norm = 0;
        for (size_t j = 0; j < codec.dim; ++j) {
            const float value = float(level(residual[j], stretch)) - float(top) / 2;
            along += double(value) * residual[j];
            norm += double(value) * value;
        }
        const float cosine = float(along / std::sqrt(norm));
        if (cosine > best_cosine) best_cosine = cosine, best_stretch = stretch;
    }
    const size_t groups = codec.subs / codec.bits;
    std::memset(codes, 0, codec.subs);
    for (size_t j = 0; j < codec.dim; ++j) {
        const int value = level(residual[j], best_stretch);
        decoded[j] = float(value) - float(top) / 2;
        for (size_t bit = 0; bit < codec.bits; ++bit)
            codes[bit * groups + j / 4] |= uint8_t((value >> bit & 1) << (j % 4));
    }
}

void encode_pq(const Codec& codec, const float* residual, uint8_t* codes, float* decoded) {
    const size_t width = codec.sub_dim();
    for (size_t m = 0; m < codec.subs; ++m) {
        const float* table = codec.codebook + m * kCodes * width;
        const size_t begin = codec.sub_begin(m), own = codec.sub_begin(m + 1) - begin;
        codes[m] = nearest_code(table, width, residual + begin, own);
        std::memcpy(decoded + begin, table + codes[m] * width, own * sizeof(float));
    }
}

}  // namespace

void train_pq(const float* residuals, size_t count, size_t dim, size_t subs, size_t iterations, size_t threads,
              float* codebook) {
    const Codec shape{dim, subs, 0, nullptr};
    const size_t width = shape.sub_dim();
    std::fill(codebook, codebook + subs * kCodes * width, 0.0f);
    if (count == 0) return;
    parallel_for(subs, 1, threads, [&](size_t m, size_t, size_t) {
        const size_t begin = shape.sub_begin(m), own = shape.sub_begin(m + 1) - begin;
        std::vector<float> points(count * width, 0.0f);
        for (size_t i = 0; i < count; ++i)
            for (size_t j = 0; j < own; ++j) points[i * width + j] = residuals[i * dim + begin + j];
        train_subspace(points, count, width, iterations, codebook + m * kCodes * width);
    });
}

void encode(const Codec& codec, const float* rows, const uint32_t* list, const float* centroids, size_t count,
            size_t threads, uint8_t* codes, CodeTerms* terms) {
    const size_t padded = codec.bits ? codec.subs / codec.bits * 4 : codec.dim;
    parallel_for(count, 64, threads, [&](size_t first, size_t last, size_t) {
        std::vector<float> residual(padded, 0.0f), decoded(padded, 0.0f);
        for (size_t i = first; i < last; ++i) {
            const float* centroid = centroids + size_t(list[i]) * codec.dim;
            for (size_t j = 0; j < codec.dim; ++j) residual[j] = rows[i * codec.dim + j] - centroid[j];
            uint8_t* code = codes + i * codec.subs;
            if (codec.bits)
                encode_rabitq(codec, residual.data(), code, decoded.data());
            else
                encode_pq(codec, residual.data(), code, decoded.data());
            double rr = 0, rv = 0, vv = 0, cv = 0;
            for (size_t j = 0; j < codec.dim; ++j) {
                rr += double(residual[j]) * residual[j];
                rv += double(residual[j]) * decoded[j];
                vv += double(decoded[j]) * decoded[j];
                cv += double(centroid[j]) * decoded[j];
            }
            terms[i] = {float(rr), float(rv), float(vv), float(cv)};
        }
    });
}

QueryTables::QueryTables(const Codec& codec) : codec_(codec) {
    if (codec.bits) return;
    const size_t width = codec.sub_dim();
    by_dimension_.resize(codec.dim);
    for (size_t m = 0; m < codec.subs; ++m)
        for (size_t j = codec.sub_begin(m); j < codec.sub_begin(m + 1); ++j)
            for (size_t c = 0; c < kCodes; ++c)
                by_dimension_[j][c] = codec.codebook[(m * kCodes + c) * width + j - codec.sub_begin(m)];
}

// -2 <q, v> of every code of every sub-quantiser; returns what all of them lack.
double QueryTables::products(const float* query, std::vector<CodeRow>& values) const {
    if (!codec_.bits) {
        for (size_t m = 0; m < codec_.subs; ++m) {
            CodeRow sum{};
            for (size_t j = codec_.sub_begin(m); j < codec_.sub_begin(m + 1); ++j) sum += query[j] * by_dimension_[j];
            values[m] = -2 * sum;
        }
        return 0;
    }
    const size_t groups = codec_.subs / codec_.bits;
    double query_sum = 0;
    for (size_t g = 0; g < groups; ++g) {
        float parts[4] = {};
        for (size_t j = 0; j < 4 && 4 * g + j < codec_.dim; ++j) query_sum += parts[j] = query[4 * g + j];
        CodeRow sum{};
        for (size_t c = 0; c < kCodes; ++c)
            for (size_t j = 0; j < 4; ++j) sum[c] += c >> j & 1 ? parts[j] : 0.0f;
        for (size_t bit = 0; bit < codec_.bits; ++bit) values[bit * groups + g] = -2 * sum * float(1 << bit);
    }
    return query_sum * ((1 << codec_.bits) - 1);  // v = code - (2^bits - 1) / 2
}

void QueryTables::fill(const float* query, QueryTable& table) const {
    table.values.resize(codec_.subs);
    table.lows.resize(codec_.subs);
    double base = products(query, table.values), total = 0;
    float widest = 0;
    for (size_t m = 0; m < codec_.subs; ++m) {
        const auto [low, high] = extremes(table.values[m]);
        table.lows[m] = low;
        base += low;
        widest = std::max(widest, high - low);
        total += high - low;
    }
    // Bytes must not overflow, nor the sum of `subs` rounded bytes its 16 bits.
    table.step = std::max(widest / 255, float(total / (65535 - double(codec_.subs))));
    table.offset = float(base);
    table.even.resize(codec_.subs * kCodes);
    table.odd.resize(codec_.subs * kCodes);
    const CodeRow top = CodeRow{} + 255.0f;
    const float inverse = table.step > 0 ? 1 / table.step : 0;
    for (size_t m = 0; m < codec_.subs; ++m) {
        const CodeRow scaled = (table.values[m] - table.lows[m]) * inverse + 0.5f;
        uint8_t* bytes = (m % 2 ? table.odd : table.even).data() + m / 2 * 32;
        // Numbers of a damaged codebook may be so large that differences are none, or below 0.
        const CodeRow most = scaled < top ? scaled : top, within = most > 0 ? most : CodeRow{};
        const auto values = __builtin_convertvector(__builtin_convertvector(within, CodeInts), CodeBytes);
        std::memcpy(bytes, &values, kCodes);
        std::memcpy(bytes + kCodes, &values, kCodes);
    }
}

}  // namespace tenfold
