// SPANN's way of searching, to compare with: whole vectors in lists on disk, each list read at once, replicas and all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "graph.h"
#include "metric.h"
#include "pages.h"
#include "routing.h"

namespace tenfold {

// A file of posting lists: list i holds entries[i] times a u32 id and a vector, from the page at offsets[i] on.
struct ListView {
    Scorer scorer;
    Graph graph;  // over the centroids, in search space
    const uint64_t* offsets;
    const uint32_t* entries;
};

struct ListStats {
    uint32_t reads, pages, rows_scored;
};

class ListSearcher {
  public:
    ListSearcher(const ListView&, const std::string& path, const std::string& io);

    std::string backend() const { return file_.backend(); }
    size_t lists() const { return view_.graph.count; }
    void route(const float* space, size_t count, size_t probes, size_t threads, Route* routes) const;
    // `lists` is (count, probes): the lists to read for each query; kNone stands for none. Several queries are under
    // way per thread, and all lists of a query are asked for at once.
    void search(const std::byte* queries, size_t count, const uint32_t* lists, size_t probes, size_t k, size_t threads,
                float* distances, int64_t* ids, ListStats* stats, const std::function<void()>& poll) const;

  private:
    class Worker;
    size_t read_bytes(size_t list) const;

    ListView view_;
    Router router_;
    PageFile file_;
    size_t longest_ = kAlignment;
};

}  // namespace tenfold
