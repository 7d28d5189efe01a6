// The order of rows within their lists: near rows share pages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

// rows (count, dim), sorted by list; their places on disk begin at `position`. Writes a permutation of 0 .. count - 1
// that moves rows within their lists only.
void arrange(const float* rows, const uint32_t* list, size_t count, size_t dim, uint64_t position, size_t rows_per_page,
             size_t threads, uint32_t* order);

}  // namespace tenfold
