#include <immintrin.h>

#include <cstring>

#include "float_kernels.h"
#include "kernels.h"

namespace tenfold {
namespace {

struct Unsigned {
    static __m512i widen(const uint8_t* values) {
        return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
    }
    static __m512i widen_tail(const uint8_t* values, size_t count) {
        return _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8((1u << count) - 1, values));
    }
};

struct Signed {
    static __m512i widen(const int8_t* values) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
    }
    static __m512i widen_tail(const int8_t* values, size_t count) {
        return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8((1u << count) - 1, values));
    }
};

inline __m512i square(__m512i a, __m512i b) {
    const __m512i difference = _mm512_sub_epi16(a, b);
    return _mm512_madd_epi16(difference, difference);
}

inline __m512i product(__m512i a, __m512i b) { return _mm512_madd_epi16(a, b); }

// A madd adds two products of at most 2^16 to a lane: 2^13 steps stay below 2^31.
constexpr size_t kSafeValues = 32 * (1 << 13);

template <typename Lane, typename T, __m512i (*term)(__m512i, __m512i)>
float integer_sum(const T* a, const T* b, size_t d) {
    int64_t total = 0;
    for (size_t start = 0; start < d || start == 0; start += kSafeValues) {
        const size_t stop = d < start + kSafeValues ? d : start + kSafeValues;
        __m512i sum = _mm512_setzero_si512();
        size_t i = start;
        for (; i + 32 <= stop; i += 32) sum = _mm512_add_epi32(sum, term(Lane::widen(a + i), Lane::widen(b + i)));
        if (i < stop)
            sum = _mm512_add_epi32(sum, term(Lane::widen_tail(a + i, stop - i), Lane::widen_tail(b + i, stop - i)));
        total += _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum)),
                                                          _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sum, 1))));
    }
    return float(total);
}

struct Widening {
    static __m512i add(__m512i sum, __m512i values, __m512i row) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(values, row), _mm512_set1_epi16(1)));
    }
};

// One instruction for the same sums; written out, so that the rest of the file need not ask for VNNI.
struct Vnni {
    static __m512i add(__m512i sum, __m512i values, __m512i row) {
        asm("vpdpbusd %[row], %[values], %[sum]" : [sum] "+v"(sum) : [values] "v"(values), [row] "v"(row));
        return sum;
    }
};

// <q, c> of the rows of `some` consecutive blocks; several at a time hide the additions' latency.
template <typename Products, size_t some>
inline void byte_products(const ByteQuery& query, const int8_t* blocks, __m512i* sums) {
    for (size_t b = 0; b < some; ++b) sums[b] = _mm512_setzero_si512();
    for (size_t quad = 0; quad < query.quads; ++quad) {
        int32_t bits;
        std::memcpy(&bits, query.values + 4 * quad, sizeof bits);
        const __m512i values = _mm512_set1_epi32(bits);
        for (size_t b = 0; b < some; ++b)
            sums[b] = Products::add(sums[b], values, _mm512_loadu_si512(blocks + (b * query.quads + quad) * 64));
    }
}

template <typename Products>
size_t compare_bytes(const ByteQuery& query, const ByteRows& rows, size_t count, float limit, Route* routes) {
    constexpr size_t kTogether = 4;
    const __m512 scale = _mm512_set1_ps(query.scale), below = _mm512_set1_ps(limit);
    size_t found = 0;
    for (size_t block = 0; block < count;) {
        const size_t some = count - block < kTogether ? 1 : kTogether;
        const int8_t* blocks = rows.blocks + block * query.quads * 64;
        __m512i sums[kTogether];
        if (some == kTogether)
            byte_products<Products, kTogether>(query, blocks, sums);
        else
            byte_products<Products, 1>(query, blocks, sums);
        for (size_t b = 0; b < some; ++b, ++block) {
            const size_t first = kRoutedRows * block;
            const __m512i product = _mm512_sub_epi32(sums[b], _mm512_loadu_si512(rows.sums + first));
            const __m512 distance =
                _mm512_sub_ps(_mm512_loadu_ps(rows.norms + first), _mm512_mul_ps(scale, _mm512_cvtepi32_ps(product)));
            uint32_t mask = _mm512_cmp_ps_mask(distance, below, _CMP_LT_OQ);
            if (mask == 0) continue;
            alignas(64) float values[kRoutedRows];
            _mm512_store_ps(values, distance);
            for (; mask; mask &= mask - 1) {
                const auto row = uint32_t(__builtin_ctz(mask));
                routes[found++] = {values[row], uint32_t(first) + row};
            }
        }
    }
    return found;
}

// The u16 table sums of one block, rows 0..31 in order. Lanes 0-1 take pair p, lanes 2-3 pair p + 1.
inline __m512i block_sums(const uint8_t* codes, const ScanTable& table) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i even = _mm512_setzero_si512(), odd = even;
    size_t p = 0;
    for (; p + 2 <= table.pairs; p += 2) {
        const __m512i code = _mm512_loadu_si512(codes + 32 * p);
        const __m512i low =
            _mm512_shuffle_epi8(_mm512_loadu_si512(table.even + 32 * p), _mm512_and_si512(code, nibble));
        const __m512i high = _mm512_shuffle_epi8(_mm512_loadu_si512(table.odd + 32 * p),
                                                 _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble));
        even = _mm512_add_epi16(even, _mm512_add_epi16(low, high));
        odd = _mm512_add_epi16(odd, _mm512_add_epi16(_mm512_srli_epi16(low, 8), _mm512_srli_epi16(high, 8)));
    }
    if (p < table.pairs) {
        const __mmask8 half = 15;
        const __m512i code = _mm512_maskz_loadu_epi64(half, codes + 32 * p);
        const __m512i low = _mm512_maskz_shuffle_epi8(0xFFFFFFFF, _mm512_maskz_loadu_epi64(half, table.even + 32 * p),
                                                      _mm512_and_si512(code, nibble));
        const __m512i high = _mm512_maskz_shuffle_epi8(0xFFFFFFFF, _mm512_maskz_loadu_epi64(half, table.odd + 32 * p),
                                                       _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble));
        even = _mm512_add_epi16(even, _mm512_add_epi16(low, high));
        odd = _mm512_add_epi16(odd, _mm512_add_epi16(_mm512_srli_epi16(low, 8), _mm512_srli_epi16(high, 8)));
    }
    even = _mm512_sub_epi16(even, _mm512_slli_epi16(odd, 8));  // the odd bytes had been added 256-fold
    const __m256i rows_even = _mm256_add_epi16(_mm512_castsi512_si256(even), _mm512_extracti64x4_epi64(even, 1));
    const __m256i rows_odd = _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1));
    const __m256i low = _mm256_unpacklo_epi16(rows_even, rows_odd), high = _mm256_unpackhi_epi16(rows_even, rows_odd);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_permute2x128_si256(low, high, 0x20)),
                              _mm256_permute2x128_si256(low, high, 0x31), 1);
}

size_t scan(const uint8_t* blocks, size_t count, const ScanTable& table, float list_term, float threshold, Hit* hits) {
    const size_t stride = block_bytes(table.pairs);
    const __m512 list = _mm512_set1_ps(list_term), limit = _mm512_set1_ps(threshold);
    const __m512 offset = _mm512_set1_ps(table.offset), step = _mm512_set1_ps(table.step);
    const __m512 shift_low = _mm512_set1_ps(table.shift_low), shift_step = _mm512_set1_ps(table.shift_step);
    const __m512 scale_low = _mm512_set1_ps(table.scale_low), scale_step = _mm512_set1_ps(table.scale_step);
    size_t found = 0;
    for (size_t first = 0; first < count; first += kBlockRows, blocks += stride) {
        const __m512i sums = block_sums(blocks, table);
        const uint8_t* shifts = blocks + 32 * table.pairs;
        for (size_t half = 0; half < kBlockRows && first + half < count; half += 16) {
            const __m256i sum16 = half ? _mm512_extracti64x4_epi64(sums, 1) : _mm512_castsi512_si256(sums);
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sum16));
            const __m512 shift_code = _mm512_cvtepi32_ps(
                _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(shifts + 2 * half))));
            const __m512 scale_code = _mm512_cvtepi32_ps(
                _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(shifts + 64 + half))));
            const __m512 shift = _mm512_add_ps(shift_low, _mm512_mul_ps(shift_step, shift_code));
            const __m512 scale = _mm512_add_ps(scale_low, _mm512_mul_ps(scale_step, scale_code));
            const __m512 inner = _mm512_add_ps(offset, _mm512_mul_ps(step, sum));
            const __m512 estimate = _mm512_add_ps(_mm512_add_ps(list, shift), _mm512_mul_ps(scale, inner));
            const size_t left = count - first - half;
            uint32_t mask = _mm512_cmp_ps_mask(estimate, limit, _CMP_LT_OQ);
            if (left < 16) mask &= (1u << left) - 1;
            if (mask == 0) continue;
            alignas(64) float values[16];
            _mm512_store_ps(values, estimate);
            for (; mask; mask &= mask - 1) {
                const uint32_t row = uint32_t(__builtin_ctz(mask));
                hits[found++] = {values[row], uint32_t(first + half + row), shifts[96 + half + row]};
            }
        }
    }
    return found;
}

}  // namespace

const Kernels& avx512_kernels() {
    static const Kernels table{"avx512",
                               lanes::l2_many,
                               lanes::turn,
                               lanes::l2<float>,
                               lanes::dot<float>,
                               lanes::l2<uint16_t>,
                               lanes::dot<uint16_t>,
                               integer_sum<Unsigned, uint8_t, square>,
                               integer_sum<Unsigned, uint8_t, product>,
                               integer_sum<Signed, int8_t, square>,
                               integer_sum<Signed, int8_t, product>,
                               __builtin_cpu_supports("avx512vnni") ? compare_bytes<Vnni> : compare_bytes<Widening>,
                               scan};
    return table;
}

}  // namespace tenfold
