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

    // The nearest lists of each query, ascending: routes (count, probes), kNone after the last where fewer are found or
    // within the margin: the distances d_1, d_2, ... belong to lists while d_i - d_1 <= margin d_2 / i^0.2. For the
    // queries (count, dim) of one thread; count at most kGroup.
    void route(const float* queries, size_t count, size_t probes, float margin, Route* routes) const;

    size_t memory_bytes() const { return all_.memory_bytes() + some_.memory_bytes() + closer_.size() * sizeof(float); }

  private:
    // Centroids as bytes, value = round(centroid / step).
    struct Packed {
        std::vector<int8_t> blocks;
        std::vector<float> norms;
        std::vector<int32_t> sums;

        size_t memory_bytes() const { return blocks.size() + norms.size() * 2 * sizeof(float); }
    };

    bool bytes_suffice() const;
    Packed pack(const std::vector<uint32_t>& ids) const;
    void compare_all(const float* queries, size_t count, size_t width, size_t probes, float margin,
                     std::vector<Route>* found) const;
    void compare(const ByteQuery&, const Packed&, size_t first, float limit, std::vector<Route>& found) const;
    void compare_floats(const float* query, size_t width, std::vector<Route>& found) const;
    float first_limit(const ByteQuery&, size_t width) const;
    size_t within(float margin, const std::vector<Route>& routes) const;
    float reach(float margin, float query_norm, size_t probes, const std::vector<Route>& found) const;

    const Graph& graph_;
    std::vector<uint32_t> entries_;  // where searches of the graph begin
    Packed all_, some_;              // `some_` is a sample: what is near to a query, it tells beforehand
    float step_ = 1;
    std::vector<float> closer_;  // by rank, how much closer a list must be than the first of them: i^-0.2
};

}  // namespace tenfold
