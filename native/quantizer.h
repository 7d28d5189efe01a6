// The two codecs. Both store a residual r = x - c as 4-bit codes of a vector v, and both estimate
//   |q - x|^2  ~  |q - c|^2 - |r|^2 + 2 s <x, v> - 2 s <q, v>,   s = |r|^2 / <r, v> rounded,
// which is exact for q = x (RaBitQ's estimator); `pq` decodes v from trained tables, `rabitq` from the signs and
// magnitudes of the rotated residual. So one scan kernel, with one table per query, serves both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tenfold {

struct Codec {
    size_t dim;             // of search space
    size_t subs;            // 4-bit codes per vector, even
    size_t bits;            // rabitq: bits per dimension; 0 means pq
    const float* codebook;  // pq: (subs, 16, sub_dim), zero beyond a sub-quantiser's own dimensions

    size_t sub_dim() const { return bits ? 4 : (dim + subs - 1) / subs; }  // of the widest
    // Sub-quantiser m has the dimensions sub_begin(m) .. sub_begin(m + 1): equal shares, as near as can be.
    size_t sub_begin(size_t m) const { return m * dim / subs; }
};

// What a code's list entry is made from: |r|^2, <r, v>, |v|^2, <c, v>.
struct CodeTerms {
    float residual_norm, residual_code, code_norm, centroid_code;
};

// codebook (subs, 16, sub_dim) from residual rows (count, dim), by k-means in each subspace.
void train_pq(const float* residuals, size_t count, size_t dim, size_t subs, size_t iterations, size_t threads,
              float* codebook);

// codes (count, subs), values 0..15, of rows[i] - centroids[list[i]].
void encode(const Codec&, const float* rows, const uint32_t* list, const float* centroids, size_t count, size_t threads,
            uint8_t* codes, CodeTerms* terms);

// A value for each of the 16 codes of one sub-quantiser.
constexpr size_t kCodes = 16;
typedef float CodeRow __attribute__((vector_size(kCodes * sizeof(float))));

// A query's table of -2 <q, v> per code, quantised to bytes: even and odd sub-quantisers apart, each table twice.
struct QueryTable {
    std::vector<CodeRow> values;
    std::vector<float> lows;
    std::vector<uint8_t> even, odd;
    float offset, step;
};

class QueryTables {
  public:
    explicit QueryTables(const Codec&);
    void fill(const float* query, QueryTable&) const;

  private:
    double products(const float* query, std::vector<CodeRow>& values) const;

    Codec codec_;
    std::vector<CodeRow> by_dimension_;  // pq: the codebook, a row per dimension
};

}  // namespace tenfold
