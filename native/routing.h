// Which lists are nearest to a query. Up to some ten thousand centroids all are compared: in bytes first, then the best
// of them exactly. That reads memory in order and shares it between queries; more are searched through the graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph.h"
#include "kernels.h"

namespace tenfold {

class Router {
  public:
    explicit Router(const Graph&);

    static constexpr size_t kGroup = 16;  // queries that share a pass over the centroids

    // The `probes` nearest lists of each query, ascending: routes (count, probes), kNone after the last where fewer are
    // found. For the queries (count, dim) of one thread; count at most kGroup.
    void route(const float* queries, size_t count, size_t probes, Route* routes) const;

    size_t memory_bytes() const { return blocks_.size() + norms_.size() * 2 * sizeof(float); }

  private:
    bool bytes_suffice() const;
    void compare_all(const float* queries, size_t count, size_t width, std::vector<Route>* found) const;

    const Graph& graph_;
    std::vector<uint32_t> entries_;  // where searches of the graph begin
    std::vector<int8_t> blocks_;     // value = round(centroid / step)
    std::vector<float> norms_;
    std::vector<int32_t> sums_;
    float step_ = 1;
};

}  // namespace tenfold
