// Exact search, one block of rows at a time: the ground truth; and the merging of what searches found.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metric.h"

namespace tenfold {

// Rows that are compared with: their ids are first_id, first_id + 1, ... or those given; where `allowed` is given, only
// rows whose bits are set count.
struct ExactRows {
    const void* data;
    size_t count;
    int64_t first_id;
    const int64_t* ids = nullptr;
    const uint64_t* allowed = nullptr;

    bool allows(size_t row) const { return !allowed || (allowed[row / 64] >> row % 64 & 1); }
    int64_t id(size_t row) const { return ids ? ids[row] : first_id + int64_t(row); }
};

// Merges rows into each query's k best (ascending by distance, then id; start from +inf and -1).
void search_exact(const Scorer&, const ExactRows&, const void* queries, size_t query_count, size_t k, size_t threads,
                  float* distances, int64_t* ids);

// What a search found: (queries, width), the nearest first, -1 fills up; `ids` by label.
struct Found {
    const float* distances;
    const int64_t* labels;
    size_t width;
    const int64_t* ids;
    size_t count;  // of ids
};

// Merges it into each query's k best, as above.
void merge_found(const Found&, size_t query_count, size_t k, size_t threads, float* distances, int64_t* ids);

}  // namespace tenfold
