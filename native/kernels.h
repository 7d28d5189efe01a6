// The inner loops of search, one table of functions per instruction set, chosen once at run time.
//
// Every path returns bit-identical results: integer sums are exact, and float sums run over the same 32 virtual
// lanes, added in the same order, without fused multiply-add (the build sets -ffp-contract=off).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tenfold {

constexpr size_t kBlockRows = 32;   // vectors in one fast-scan block
constexpr size_t kRoutedRows = 16;  // centroids in one block of bytes

// One query's lookup table for the 4-bit codes: `even` holds the tables of sub-quantisers 0, 2, 4, ..., `odd` those
// of 1, 3, 5, ...; each 16-entry table is stored twice in a row so that a 32-byte load fills both lanes.
struct ScanTable {
    const uint8_t* even;
    const uint8_t* odd;
    size_t pairs;                 // sub-quantisers / 2
    float offset, step;           // inner product term = offset + step * (sum of table entries)
    float shift_low, shift_step;  // A = shift_low + shift_step * u16
    float scale_low, scale_step;  // s = scale_low + scale_step * u8
};

struct Hit {
    float estimate;  // approximate squared distance in search space
    uint32_t slot;   // position in the list
    uint8_t error;   // log-coded squared residual error
};

// A list and the squared distance to its centroid.
struct Route {
    float distance;
    uint32_t list;
};

// Centroids as bytes within -127..127, in blocks of 16: 4 values of each row in turn. By row: |c|^2, and 64 times the
// sum of the bytes.
struct ByteRows {
    const int8_t* blocks;
    const float* norms;
    const int32_t* sums;
};

// A query as bytes from 1 to 127, each 64 more than the value; distances, less |q|^2, are norm - scale * <q, c>.
struct ByteQuery {
    const uint8_t* values;
    size_t quads;  // number of values / 4
    float scale;
};

struct Kernels {
    const char* name;
    // Squared L2 distances of one row to `count` rows of `base`: those of the given ids, or the first ones if null.
    void (*l2_many)(const float*, const float* base, const uint32_t* ids, size_t count, size_t d, float* out);
    // `count` rows of d values times a d x d matrix.
    void (*turn)(const float* rows, size_t count, const float* axes, size_t d, float* out);
    // Squared L2 distance and inner product of two rows of d values.
    float (*l2_f32)(const float*, const float*, size_t d);
    float (*dot_f32)(const float*, const float*, size_t d);
    float (*l2_f16)(const float*, const uint16_t*, size_t d);
    float (*dot_f16)(const float*, const uint16_t*, size_t d);
    float (*l2_u8)(const uint8_t*, const uint8_t*, size_t d);
    float (*dot_u8)(const uint8_t*, const uint8_t*, size_t d);
    float (*l2_i8)(const int8_t*, const int8_t*, size_t d);
    float (*dot_i8)(const int8_t*, const int8_t*, size_t d);
    // Writes the centroids in `count` consecutive blocks whose distance is < limit to `routes` (room for 16 per block),
    // counted from the first, and returns how many.
    size_t (*compare_bytes)(const ByteQuery&, const ByteRows&, size_t count, float limit, Route* routes);
    // Scores `count` entries stored in consecutive blocks; writes those whose estimate is < threshold to `hits`
    // (room for `count` rounded up to 32) and returns how many. `list_term` is |q - c|^2.
    size_t (*scan)(const uint8_t* blocks, size_t count, const ScanTable&, float list_term, float threshold, Hit* hits);
};

// Bytes of one block: 16 per sub-quantiser (32 rows x 4 bits), then u16 shifts, u8 scales, u8 errors.
constexpr size_t block_bytes(size_t pairs) { return 32 * pairs + 32 * 4; }

const Kernels& kernels();                     // the level in use: TENFOLD_SIMD, else the best supported
std::vector<std::string> supported_levels();  // from "scalar" up
void use_level(const std::string& name);      // throws InputError for a level this machine lacks

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#elif defined(__aarch64__)
const Kernels& neon_kernels();
#endif

}  // namespace tenfold
