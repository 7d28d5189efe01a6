// Float distances over 32 virtual lanes. The same source is compiled once per instruction set; with
// -ffp-contract=off the compiler may not reorder or fuse, so every path rounds alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace tenfold {
namespace {
namespace lanes {

constexpr size_t kLanes = 32;
#if defined(__AVX512F__)
constexpr size_t kWidth = 16;  // floats per register
#elif defined(__AVX2__)
constexpr size_t kWidth = 8;
#else
constexpr size_t kWidth = 4;
#endif
constexpr size_t kRegisters = kLanes / kWidth;

template <size_t width>
struct Floats {
    typedef float Vector __attribute__((vector_size(width * sizeof(float))));
};
using Vector = Floats<kWidth>::Vector;

inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000 | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float value = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24: subnormal halves are exact floats
        std::memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline Vector load(const float* values) {
    Vector out;
    std::memcpy(&out, values, sizeof out);
    return out;
}

inline Vector load(const uint16_t* halves) {
    Vector out;
#if defined(__AVX512F__)
    const __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
    std::memcpy(&out, &wide, sizeof out);
#elif defined(__F16C__)
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    std::memcpy(&out, &wide, sizeof out);
#else
    for (size_t i = 0; i < kWidth; ++i) out[i] = half_to_float(halves[i]);
#endif
    return out;
}

// Lane i + lane i + half, for half = width / 2, width / 4, ..., 1.
template <size_t width>
inline float add_lanes(typename Floats<width>::Vector sum) {
    if constexpr (width == 2) {
        return sum[0] + sum[1];
    } else {
        typename Floats<width / 2>::Vector low, high;
        std::memcpy(&low, &sum, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&sum) + sizeof low, sizeof high);
        return add_lanes<width / 2>(low + high);
    }
}

// Sums term(a_i, b_i), value i in lane i mod 32; the last step is filled up with zeros.
template <typename T, typename Term>
inline float accumulate(const float* a, const T* b, size_t d, Term term) {
    Vector sums[kRegisters] = {};
    const auto step = [&](const float* x, const T* y) {
        for (size_t r = 0; r < kRegisters; ++r) sums[r] += term(load(x + r * kWidth), load(y + r * kWidth));
    };
    size_t i = 0;
    for (; i + kLanes <= d; i += kLanes) step(a + i, b + i);
    if (i < d) {
        float last_a[kLanes] = {};
        T last_b[kLanes] = {};
        std::memcpy(last_a, a + i, (d - i) * sizeof(float));
        std::memcpy(last_b, b + i, (d - i) * sizeof(T));
        step(last_a, last_b);
    }
    for (size_t count = kRegisters / 2; count > 0; count /= 2)
        for (size_t r = 0; r < count; ++r) sums[r] += sums[r + count];
    return add_lanes<kWidth>(sums[0]);
}

template <typename T>
float l2(const float* a, const T* b, size_t d) {
    return accumulate(a, b, d, [](Vector x, Vector y) {
        const Vector difference = x - y;
        return difference * difference;
    });
}

template <typename T>
float dot(const float* a, const T* b, size_t d) {
    return accumulate(a, b, d, [](Vector x, Vector y) { return x * y; });
}

// Several rows at a time: their sums hide each other's latency, and each still adds up as in l2().
template <size_t group>
inline void l2_group(const float* a, const float* const* rows, size_t d, float* out) {
    Vector sums[group][kRegisters] = {};
    const auto step = [&](const float* x, size_t i, const float (*tails)[kLanes]) {
        for (size_t r = 0; r < kRegisters; ++r) {
            const Vector here = load(x + r * kWidth);
            for (size_t g = 0; g < group; ++g) {
                const Vector difference = here - load((tails ? tails[g] : rows[g] + i) + r * kWidth);
                sums[g][r] += difference * difference;
            }
        }
    };
    size_t i = 0;
    for (; i + kLanes <= d; i += kLanes) step(a + i, i, nullptr);
    if (i < d) {
        float last[kLanes] = {}, tails[group][kLanes] = {};
        std::memcpy(last, a + i, (d - i) * sizeof(float));
        for (size_t g = 0; g < group; ++g) std::memcpy(tails[g], rows[g] + i, (d - i) * sizeof(float));
        step(last, 0, tails);
    }
    for (size_t g = 0; g < group; ++g) {
        for (size_t count = kRegisters / 2; count > 0; count /= 2)
            for (size_t r = 0; r < count; ++r) sums[g][r] += sums[g][r + count];
        out[g] = add_lanes<kWidth>(sums[g][0]);
    }
}

inline void l2_many(const float* a, const float* base, const uint32_t* ids, size_t count, size_t d, float* out) {
    constexpr size_t kGroup = kWidth == 16 ? 4 : 2;
    const auto row = [&](size_t i) { return base + (ids ? ids[i] : i) * d; };
    size_t i = 0;
    for (; i + kGroup <= count; i += kGroup) {
        const float* rows[kGroup];
        for (size_t g = 0; g < kGroup; ++g) rows[g] = row(i + g);
        l2_group<kGroup>(a, rows, d, out + i);
    }
    for (; i < count; ++i) out[i] = l2(a, row(i), d);
}

// Columns j .. j + 32 of `group` rows times a d x d matrix, each sum in the order of the matrix' rows.
template <size_t group>
inline void turn_columns(const float* rows, const float* axes, size_t d, size_t j, float* out) {
    const size_t columns = d - j < kLanes ? d - j : kLanes;
    Vector sums[group][kRegisters] = {};
    float last[kLanes] = {};
    for (size_t i = 0; i < d; ++i) {
        const float* row = axes + i * d + j;
        if (columns < kLanes) row = static_cast<const float*>(std::memcpy(last, row, columns * sizeof(float)));
        for (size_t r = 0; r < kRegisters; ++r) {
            const Vector here = load(row + r * kWidth);
            for (size_t g = 0; g < group; ++g) sums[g][r] += here * rows[g * d + i];
        }
    }
    for (size_t g = 0; g < group; ++g) std::memcpy(out + g * d + j, sums[g], columns * sizeof(float));
}

inline void turn(const float* rows, size_t count, const float* axes, size_t d, float* out) {
    constexpr size_t kGroup = kWidth == 16 ? 4 : 2;
    for (size_t j = 0; j < d; j += kLanes) {
        size_t i = 0;
        for (; i + kGroup <= count; i += kGroup) turn_columns<kGroup>(rows + i * d, axes, d, j, out + i * d);
        for (; i < count; ++i) turn_columns<1>(rows + i * d, axes, d, j, out + i * d);
    }
}

}  // namespace lanes
}  // namespace
}  // namespace tenfold
