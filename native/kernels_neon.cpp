#include <arm_neon.h>

#include <cstring>

#include "float_kernels.h"
#include "kernels.h"

namespace tenfold {
namespace {

inline int16x8_t widen(const uint8_t* values) { return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(values))); }
inline int16x8_t widen(const int8_t* values) { return vmovl_s8(vld1_s8(values)); }

inline int32x4_t square(int32x4_t sum, int16x8_t a, int16x8_t b) {
    const int16x8_t difference = vsubq_s16(a, b);
    sum = vmlal_s16(sum, vget_low_s16(difference), vget_low_s16(difference));
    return vmlal_high_s16(sum, difference, difference);
}

inline int32x4_t product(int32x4_t sum, int16x8_t a, int16x8_t b) {
    sum = vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b));
    return vmlal_high_s16(sum, a, b);
}

// A step adds two products of at most 2^16 to a lane: 2^13 steps stay below 2^31.
constexpr size_t kSafeValues = 8 * (1 << 13);

template <typename T, int32x4_t (*term)(int32x4_t, int16x8_t, int16x8_t)>
float integer_sum(const T* a, const T* b, size_t d) {
    int64_t total = 0;
    for (size_t start = 0; start < d; start += kSafeValues) {
        const size_t stop = d < start + kSafeValues ? d : start + kSafeValues;
        int32x4_t sum = vdupq_n_s32(0);
        size_t i = start;
        for (; i + 8 <= stop; i += 8) sum = term(sum, widen(a + i), widen(b + i));
        if (i < stop) {
            T padded_a[8] = {}, padded_b[8] = {};
            std::memcpy(padded_a, a + i, stop - i);
            std::memcpy(padded_b, b + i, stop - i);
            sum = term(sum, widen(padded_a), widen(padded_b));
        }
        total += vaddlvq_s32(sum);
    }
    return float(total);
}

size_t compare_bytes(const ByteQuery& query, const ByteRows& rows, size_t count, float limit, Route* routes) {
    const int8_t* blocks = rows.blocks;
    size_t found = 0;
    for (size_t block = 0; block < count; ++block) {
        int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        for (size_t quad = 0; quad < query.quads; ++quad, blocks += 64) {
            uint32_t bits;
            std::memcpy(&bits, query.values + 4 * quad, sizeof bits);
            const int8x8_t values = vreinterpret_s8_u32(vdup_n_u32(bits));  // at most 127: signed bytes as well
            for (size_t part = 0; part < 4; ++part) {
                const int8x16_t row = vld1q_s8(blocks + 16 * part);
                const int32x4_t low = vpaddlq_s16(vmull_s8(values, vget_low_s8(row)));
                const int32x4_t high = vpaddlq_s16(vmull_s8(values, vget_high_s8(row)));
                sums[part] = vaddq_s32(sums[part], vpaddq_s32(low, high));
            }
        }
        int32_t products[kRoutedRows];
        for (size_t part = 0; part < 4; ++part) vst1q_s32(products + 4 * part, sums[part]);
        for (size_t row = kRoutedRows * block; row < kRoutedRows * (block + 1); ++row) {
            const int32_t product = products[row % kRoutedRows] - rows.sums[row];
            const float distance = rows.norms[row] - query.scale * float(product);
            if (distance < limit) routes[found++] = {distance, uint32_t(row)};
        }
    }
    return found;
}

// The u16 table sums of one block, rows 0..31 in order.
inline void block_sums(const uint8_t* codes, const ScanTable& table, uint16x8_t rows[4]) {
    const uint8x16_t nibble = vdupq_n_u8(15);
    for (size_t i = 0; i < 4; ++i) rows[i] = vdupq_n_u16(0);
    for (size_t p = 0; p < table.pairs; ++p) {
        const uint8x16_t even = vld1q_u8(table.even + 32 * p), odd = vld1q_u8(table.odd + 32 * p);
        for (size_t half = 0; half < 2; ++half) {
            const uint8x16_t code = vld1q_u8(codes + 32 * p + 16 * half);
            const uint8x16_t low = vqtbl1q_u8(even, vandq_u8(code, nibble));
            const uint8x16_t high = vqtbl1q_u8(odd, vshrq_n_u8(code, 4));
            rows[2 * half] = vaddq_u16(rows[2 * half], vaddl_u8(vget_low_u8(low), vget_low_u8(high)));
            rows[2 * half + 1] = vaddq_u16(rows[2 * half + 1], vaddl_high_u8(low, high));
        }
    }
}

size_t scan(const uint8_t* blocks, size_t count, const ScanTable& table, float list_term, float threshold, Hit* hits) {
    const size_t stride = block_bytes(table.pairs);
    size_t found = 0;
    for (size_t first = 0; first < count; first += kBlockRows, blocks += stride) {
        uint16x8_t rows[4];
        block_sums(blocks, table, rows);
        uint16_t sums[kBlockRows];
        for (size_t i = 0; i < 4; ++i) vst1q_u16(sums + 8 * i, rows[i]);
        const uint8_t* shifts = blocks + 32 * table.pairs;
        const size_t valid = count - first < kBlockRows ? count - first : kBlockRows;
        for (size_t row = 0; row < valid; ++row) {
            const float shift_code = float(uint32_t(shifts[2 * row]) | uint32_t(shifts[2 * row + 1]) << 8);
            const float shift = table.shift_low + table.shift_step * shift_code;
            const float scale = table.scale_low + table.scale_step * float(shifts[64 + row]);
            const float estimate = (list_term + shift) + scale * (table.offset + table.step * float(sums[row]));
            if (estimate < threshold) hits[found++] = {estimate, uint32_t(first + row), shifts[96 + row]};
        }
    }
    return found;
}

}  // namespace

const Kernels& neon_kernels() {
    static const Kernels table{"neon",
                               lanes::l2_many,
                               lanes::turn,
                               lanes::l2<float>,
                               lanes::dot<float>,
                               lanes::l2<uint16_t>,
                               lanes::dot<uint16_t>,
                               integer_sum<uint8_t, square>,
                               integer_sum<uint8_t, product>,
                               integer_sum<int8_t, square>,
                               integer_sum<int8_t, product>,
                               compare_bytes,
                               scan};
    return table;
}

}  // namespace tenfold
