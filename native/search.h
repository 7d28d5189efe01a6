// A query's way: graph -> lists -> codes -> candidates -> pages -> exact distances.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "buffer.h"
#include "errors.h"
#include "graph.h"
#include "metric.h"
#include "pages.h"
#include "quantizer.h"
#include "routing.h"

namespace tenfold {

// Everything a search reads. The arrays belong to the caller (memory-mapped files) and are not trusted: ids are
// checked where they are used.
struct IndexView {
    Scorer scorer;
    size_t rows;
    size_t rows_per_page, page_stride;  // a page is `stride` bytes in the file
    uint64_t pages_offset;
    size_t pages;
    const uint32_t* page_crc;
    const uint32_t* labels;  // ids by position

    Graph graph;                      // over the list centroids, in search space
    const uint64_t* starts;           // (lists + 1): positions of each list's own rows
    const uint64_t* replica_offsets;  // (lists + 1)
    const uint32_t* replicas;         // positions of rows replicated into each list
    const uint8_t* blocks;
    size_t blocks_size;
    Codec codec;
    float shift_low, shift_step, scale_low, scale_step, error_low, error_step;
};

enum class Rule { bound, paper };

struct SearchOptions {
    size_t k, probes;
    float margin = INFINITY;  // of routing: for all `probes` lists
    size_t candidates;
    float z;  // a candidate is read while estimate + z sqrt(estimate * error) < k-th exact distance; -inf: always
    Rule rule;
    bool score_whole_pages;
    size_t threads;
    const uint64_t* allowed = nullptr;  // bits by position: only these rows may be found; null: all

    bool allows(uint64_t position) const { return !allowed || (allowed[position / 64] >> position % 64 & 1); }
};

struct QueryStats {
    uint32_t pages_read, pages_cached, candidates, rows_scored, codes_scanned, rounds;
};

// What a scan finds for each query: positions of rows, their estimates and the codes of their errors, nearest estimate
// first; kNone fills up. Each is (queries, width).
struct Shortlist {
    uint32_t* positions;
    float* estimates;
    uint8_t* errors;
    size_t width;
};

// Queries twice: as exact distances need them, and as float rows of search space, in which
// |q - x|^2 = base + slope * distance(q, x).
struct Queries {
    const std::byte* exact;
    const float* space;
    const float* base;
    const float* slope;
    size_t count;
};

// What the calling thread does between its steps; what either throws ends the search.
struct Hooks {
    std::function<void()> poll;       // often
    std::function<void()> meanwhile;  // at most once: when it would first wait for the disk
};

class Worker;
struct Batch;

class Searcher {
  public:
    // With io "memory" it reads all pages; what `poll` throws meanwhile ends that.
    Searcher(const IndexView&, const std::string& path, const std::string& io, size_t cache_bytes,
             const std::function<void()>& poll);
    ~Searcher();

    std::string backend() const { return resident_ ? "memory" : file_.backend(); }
    size_t memory_bytes() const { return router_.memory_bytes() + (resident_ ? view_.pages * view_.page_stride : 0); }
    // distances and ids (count, k), stats (count). Any number of threads may call at once.
    void search(const Queries&, const SearchOptions&, float* distances, int64_t* ids, QueryStats* stats, Hooks);
    // The first half of a search, and the second from what the first or another device has found.
    void scan(const Queries&, size_t probes, size_t threads, const Shortlist& found);
    void rerank(const Queries&, const Shortlist& found, const SearchOptions&, float* distances, int64_t* ids,
                QueryStats* stats, Hooks);
    // The nearest lists of each query of search space, as by a Router, but no fewer than hold so many rows: routes
    // (count, probes).
    void route(const float* space, size_t count, size_t probes, float margin, size_t rows, size_t threads,
               Route* routes) const;
    // The same, only those there are: routes (count).
    void route(const float* space, size_t count, size_t probes, float margin, size_t rows, size_t threads,
               std::vector<std::vector<Route>>& routes) const;
    // Of a list, replicas included.
    size_t entries(uint32_t list) const {
        return size_t(view_.starts[list + 1] - view_.starts[list] + view_.replica_offsets[list + 1] -
                      view_.replica_offsets[list]);
    }
    // Estimates and squared residual errors of the codes of given positions, one row per query: (count, width).
    // NaN where a position's own list does not hold it.
    void estimate(const Queries&, const uint32_t* positions, size_t width, size_t threads, float* estimates,
                  float* errors) const;

  private:
    void begin(Batch&, size_t count, size_t threads) const;
    void route_some(const float* space, size_t count, size_t probes, float margin, size_t rows, Route* routes) const;
    void widen(const float* query, size_t probes, size_t rows, Route* routes) const;
    void in_batches(Batch&, size_t threads, const std::function<void(size_t threads)>& work) const;
    void answer(const Batch&, size_t threads, float* distances, int64_t* ids, QueryStats* stats, Hooks&);
    void load(const std::function<void()>& poll);
    InputError unreadable(uint64_t page, int64_t result) const;
    InputError damaged(uint64_t page) const;
    void prefetch(uint32_t list) const;  // its codes, into the processor's cache
    ScanTable scan_table(const QueryTable&) const;
    struct Idle;
    Idle& idle();
    std::unique_ptr<Worker> borrow();
    void give_back(std::unique_ptr<Worker>);

    IndexView view_;
    std::vector<uint64_t> block_starts_;  // byte offset of each list's first block, and of their end
    Router router_;
    QueryTables tables_;
    float errors_[256];  // squared residual error by code
    PageFile file_;
    size_t cache_bytes_;
    AlignedBytes resident_;  // io "memory": all pages
    std::atomic<Idle*> idle_{nullptr};
    friend class Worker;
};

}  // namespace tenfold
