// The reference path: plain loops that say what every other path must compute, bit for bit.
#include "float_kernels.h"
#include "kernels.h"

namespace tenfold {
namespace {

template <typename T>
float l2_int(const T* a, const T* b, size_t d) {
    int64_t sum = 0;
    for (size_t i = 0; i < d; ++i) {
        const int32_t difference = int32_t(a[i]) - int32_t(b[i]);
        sum += difference * difference;
    }
    return float(sum);
}

template <typename T>
float dot_int(const T* a, const T* b, size_t d) {
    int64_t sum = 0;
    for (size_t i = 0; i < d; ++i) sum += int32_t(a[i]) * int32_t(b[i]);
    return float(sum);
}

size_t compare_bytes(const ByteQuery& query, const ByteRows& rows, size_t count, float limit, Route* routes) {
    size_t found = 0;
    for (size_t row = 0; row < kRoutedRows * count; ++row) {
        const int8_t* values = rows.blocks + (row / kRoutedRows * query.quads * kRoutedRows + row % kRoutedRows) * 4;
        int32_t product = -rows.sums[row];
        for (size_t i = 0; i < 4 * query.quads; ++i)
            product += query.values[i] * values[i / 4 * 4 * kRoutedRows + i % 4];
        const float distance = rows.norms[row] - query.scale * float(product);
        if (distance < limit) routes[found++] = {distance, uint32_t(row)};
    }
    return found;
}

size_t scan(const uint8_t* blocks, size_t count, const ScanTable& table, float list_term, float threshold, Hit* hits) {
    size_t found = 0;
    const size_t stride = block_bytes(table.pairs);
    for (size_t first = 0; first < count; first += kBlockRows, blocks += stride) {
        const size_t rows = count - first < kBlockRows ? count - first : kBlockRows;
        const uint8_t* shifts = blocks + 32 * table.pairs;
        for (size_t row = 0; row < rows; ++row) {
            uint32_t sum = 0;
            for (size_t p = 0; p < table.pairs; ++p) {
                const uint8_t code = blocks[32 * p + row];
                sum += table.even[32 * p + (code & 15)] + table.odd[32 * p + (code >> 4)];
            }
            const float shift_code = float(uint32_t(shifts[2 * row]) | uint32_t(shifts[2 * row + 1]) << 8);
            const float shift = table.shift_low + table.shift_step * shift_code;
            const float scale = table.scale_low + table.scale_step * float(shifts[64 + row]);
            const float estimate = (list_term + shift) + scale * (table.offset + table.step * float(sum & 0xFFFF));
            if (estimate < threshold) hits[found++] = {estimate, uint32_t(first + row), shifts[96 + row]};
        }
    }
    return found;
}

}  // namespace

const Kernels& scalar_kernels() {
    static const Kernels table{"scalar",
                               lanes::l2_many,
                               lanes::turn,
                               lanes::l2<float>,
                               lanes::dot<float>,
                               lanes::l2<uint16_t>,
                               lanes::dot<uint16_t>,
                               l2_int<uint8_t>,
                               dot_int<uint8_t>,
                               l2_int<int8_t>,
                               dot_int<int8_t>,
                               compare_bytes,
                               scan};
    return table;
}

}  // namespace tenfold
