// Exact search, one block of rows at a time: the ground truth.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metric.h"

namespace tenfold {

// Merges rows first_id .. first_id + count into each query's k best (ascending by distance, then id;
// start from +inf and -1).
void search_exact(const Scorer&, const void* rows, size_t count, int64_t first_id, const void* queries,
                  size_t query_count, size_t k, size_t threads, float* distances, int64_t* ids);

}  // namespace tenfold
