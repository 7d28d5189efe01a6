#include <immintrin.h>

#include <cstring>

#include "float_kernels.h"
#include "kernels.h"

namespace tenfold {
namespace {

struct Unsigned {
    static __m256i widen(const uint8_t* values) {
        return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }
};

struct Signed {
    static __m256i widen(const int8_t* values) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }
};

inline __m256i square(__m256i a, __m256i b) {
    const __m256i difference = _mm256_sub_epi16(a, b);
    return _mm256_madd_epi16(difference, difference);
}

inline __m256i product(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }

// A madd adds two products of at most 2^16 to a lane: 2^13 steps stay below 2^31.
constexpr size_t kSafeValues = 16 * (1 << 13);

inline int64_t add_lanes(__m256i sum) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    int64_t total = 0;
    for (int32_t lane : lanes) total += lane;
    return total;
}

template <typename Lane, typename T, __m256i (*term)(__m256i, __m256i)>
float integer_sum(const T* a, const T* b, size_t d) {
    int64_t total = 0;
    for (size_t start = 0; start < d || start == 0; start += kSafeValues) {
        const size_t stop = d < start + kSafeValues ? d : start + kSafeValues;
        __m256i sum = _mm256_setzero_si256();
        size_t i = start;
        for (; i + 16 <= stop; i += 16) sum = _mm256_add_epi32(sum, term(Lane::widen(a + i), Lane::widen(b + i)));
        if (i < stop) {
            T padded_a[16] = {}, padded_b[16] = {};
            std::memcpy(padded_a, a + i, stop - i);
            std::memcpy(padded_b, b + i, stop - i);
            sum = _mm256_add_epi32(sum, term(Lane::widen(padded_a), Lane::widen(padded_b)));
        }
        total += add_lanes(sum);
    }
    return float(total);
}

size_t compare_bytes(const ByteQuery& query, const ByteRows& rows, size_t count, float limit, Route* routes) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256 scale = _mm256_set1_ps(query.scale), below = _mm256_set1_ps(limit);
    const int8_t* blocks = rows.blocks;
    size_t found = 0;
    for (size_t block = 0; block < count; ++block) {
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};  // rows 0..7 and 8..15
        for (size_t quad = 0; quad < query.quads; ++quad, blocks += 64) {
            int32_t bits;
            std::memcpy(&bits, query.values + 4 * quad, sizeof bits);
            const __m256i values = _mm256_set1_epi32(bits);
            for (size_t half = 0; half < 2; ++half) {
                const __m256i row = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks + 32 * half));
                sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(_mm256_maddubs_epi16(values, row), ones));
            }
        }
        for (size_t half = 0; half < 2; ++half) {
            const size_t first = kRoutedRows * block + 8 * half;
            const __m256i product =
                _mm256_sub_epi32(sums[half], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.sums + first)));
            const __m256 distance =
                _mm256_sub_ps(_mm256_loadu_ps(rows.norms + first), _mm256_mul_ps(scale, _mm256_cvtepi32_ps(product)));
            auto mask = uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(distance, below, _CMP_LT_OQ)));
            if (mask == 0) continue;
            alignas(32) float values[8];
            _mm256_store_ps(values, distance);
            for (; mask; mask &= mask - 1) {
                const auto row = uint32_t(__builtin_ctz(mask));
                routes[found++] = {values[row], uint32_t(first) + row};
            }
        }
    }
    return found;
}

// The u16 table sums of one block: rows 0..15 in `low`, rows 16..31 in `high`.
inline void block_sums(const uint8_t* codes, const ScanTable& table, __m256i& low_rows, __m256i& high_rows) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i even = _mm256_setzero_si256(), odd = even;
    for (size_t p = 0; p < table.pairs; ++p) {
        const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * p));
        const __m256i table_even = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.even + 32 * p));
        const __m256i table_odd = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.odd + 32 * p));
        const __m256i low = _mm256_shuffle_epi8(table_even, _mm256_and_si256(code, nibble));
        const __m256i high = _mm256_shuffle_epi8(table_odd, _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble));
        even = _mm256_add_epi16(even, _mm256_add_epi16(low, high));
        odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8)));
    }
    even = _mm256_sub_epi16(even, _mm256_slli_epi16(odd, 8));  // the odd bytes had been added 256-fold
    const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
    low_rows = _mm256_permute2x128_si256(low, high, 0x20);
    high_rows = _mm256_permute2x128_si256(low, high, 0x31);
}

size_t scan(const uint8_t* blocks, size_t count, const ScanTable& table, float list_term, float threshold, Hit* hits) {
    const size_t stride = block_bytes(table.pairs);
    const __m256 list = _mm256_set1_ps(list_term), limit = _mm256_set1_ps(threshold);
    const __m256 offset = _mm256_set1_ps(table.offset), step = _mm256_set1_ps(table.step);
    const __m256 shift_low = _mm256_set1_ps(table.shift_low), shift_step = _mm256_set1_ps(table.shift_step);
    const __m256 scale_low = _mm256_set1_ps(table.scale_low), scale_step = _mm256_set1_ps(table.scale_step);
    size_t found = 0;
    for (size_t first = 0; first < count; first += kBlockRows, blocks += stride) {
        alignas(32) __m256i rows[2];
        block_sums(blocks, table, rows[0], rows[1]);
        const uint8_t* shifts = blocks + 32 * table.pairs;
        for (size_t part = 0; part < kBlockRows && first + part < count; part += 8) {
            const __m128i sum16 = reinterpret_cast<const __m128i*>(rows)[part / 8];
            const __m256 sum = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sum16));
            const __m256 shift_code = _mm256_cvtepi32_ps(
                _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(shifts + 2 * part))));
            const __m256 scale_code = _mm256_cvtepi32_ps(
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(shifts + 64 + part))));
            const __m256 shift = _mm256_add_ps(shift_low, _mm256_mul_ps(shift_step, shift_code));
            const __m256 scale = _mm256_add_ps(scale_low, _mm256_mul_ps(scale_step, scale_code));
            const __m256 inner = _mm256_add_ps(offset, _mm256_mul_ps(step, sum));
            const __m256 estimate = _mm256_add_ps(_mm256_add_ps(list, shift), _mm256_mul_ps(scale, inner));
            const size_t left = count - first - part;
            uint32_t mask = uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(estimate, limit, _CMP_LT_OQ)));
            if (left < 8) mask &= (1u << left) - 1;
            if (mask == 0) continue;
            alignas(32) float values[8];
            _mm256_store_ps(values, estimate);
            for (; mask; mask &= mask - 1) {
                const uint32_t row = uint32_t(__builtin_ctz(mask));
                hits[found++] = {values[row], uint32_t(first + part + row), shifts[96 + part + row]};
            }
        }
    }
    return found;
}

}  // namespace

const Kernels& avx2_kernels() {
    static const Kernels table{"avx2",
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
                               compare_bytes,
                               scan};
    return table;
}

}  // namespace tenfold
