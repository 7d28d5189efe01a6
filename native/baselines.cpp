#include "baselines.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>

#include "buffer.h"
#include "errors.h"
#include "graph.h"
#include "parallel.h"

namespace tenfold {
namespace {

constexpr size_t kDepth = 64;    // reads under way per thread, as in worker.h
constexpr size_t kFlights = 32;  // queries under way per thread
constexpr size_t kShare = 16;    // queries that a thread takes at a time

struct Flight {
    size_t query, next_list, pending;
    float query_norm;
    Best best;
    ListStats stats;
};

struct Slot {
    Flight* flight;
    uint32_t list;
};

}  // namespace

class ListSearcher::Worker {
  public:
    Worker(const ListSearcher& searcher, const std::byte* queries, const uint32_t* lists, size_t probes, size_t k)
        : searcher_(searcher),
          view_(searcher.view_),
          queries_(queries),
          lists_(lists),
          probes_(probes),
          k_(k),
          memory_(aligned_bytes(kAlignment, kDepth * searcher.longest_)),
          reader_(searcher.file_.reader(kDepth)),
          flights_(kFlights),
          slots_(kDepth) {
        for (Flight& flight : flights_) idle_.push_back(&flight);
        for (uint32_t slot = 0; slot < kDepth; ++slot) free_.push_back(slot);
    }

    ~Worker() {
        if (!reader_->settle()) memory_.release();
    }

    void run(size_t count, std::atomic<size_t>& next, float* distances, int64_t* ids, ListStats* stats,
             const std::function<void()>& poll) {
        std::vector<Completion> done;
        size_t at = 0, stop = 0;
        for (bool more = true; more || !active_.empty();) {
            if (poll) poll();
            while (more && !idle_.empty()) {
                if (at == stop) {
                    at = std::min(count, next.fetch_add(kShare));
                    stop = std::min(count, at + kShare);
                }
                more = at < stop;
                if (more) start(at++);
            }
            for (Flight* flight : active_) issue(*flight);
            reader_->submit();
            done.clear();
            if (free_.size() < kDepth) reader_->reap(done, true);
            for (const Completion& completion : done) free_.push_back(completion.tag);
            for (const Completion& completion : done) score(completion);
            std::erase_if(active_, [&](Flight* flight) {
                if (flight->pending > 0 || flight->next_list < probes_) return false;
                flight->best.write(distances + flight->query * k_, ids + flight->query * k_);
                stats[flight->query] = flight->stats;
                idle_.push_back(flight);
                return true;
            });
        }
    }

  private:
    const std::byte* query(const Flight& flight) const {
        return queries_ + flight.query * view_.scorer.dim * query_type_size(view_.scorer.type);
    }

    void start(size_t number) {
        Flight& flight = *idle_.back();
        idle_.pop_back();
        flight.query = number;
        flight.next_list = flight.pending = 0;
        flight.query_norm = view_.scorer.query_norm(query(flight));
        flight.best.start(k_);
        flight.stats = {};
        active_.push_back(&flight);
    }

    void issue(Flight& flight) {
        for (; flight.next_list < probes_; ++flight.next_list) {
            const uint32_t list = lists_[flight.query * probes_ + flight.next_list];
            if (list == kNone || view_.entries[list] == 0) continue;
            if (free_.empty()) return;
            const uint32_t slot = free_.back();
            free_.pop_back();
            slots_[slot] = {&flight, list};
            const size_t bytes = searcher_.read_bytes(list);
            reader_->queue({slot, view_.offsets[list], uint32_t(bytes), memory_.get() + slot * searcher_.longest_});
            ++flight.pending;
            ++flight.stats.reads;
            flight.stats.pages += uint32_t(bytes / kAlignment);
        }
    }

    void score(const Completion& completion) {
        const Slot& slot = slots_[completion.tag];
        Flight& flight = *slot.flight;
        const size_t row_bytes = view_.scorer.dim * type_size(view_.scorer.type);
        const size_t entry_bytes = sizeof(uint32_t) + row_bytes, entries = view_.entries[slot.list];
        if (completion.result < int64_t(entries * entry_bytes))
            throw InputError(searcher_.file_.path() + ": list " + std::to_string(slot.list) + " cannot be read");
        const std::byte* entry = memory_.get() + completion.tag * searcher_.longest_;
        for (size_t i = 0; i < entries; ++i, entry += entry_bytes) {
            uint32_t id;
            std::memcpy(&id, entry, sizeof id);
            const float distance = view_.scorer.distance(query(flight), flight.query_norm, entry + sizeof id);
            if (distance > flight.best.worst()) continue;
            const auto& known = flight.best.items();  // a replica of it may have been found
            if (std::any_of(known.begin(), known.end(), [&](const Best::Result& result) { return result.id == id; }))
                continue;
            flight.best.add({distance, id});
        }
        flight.stats.rows_scored += uint32_t(entries);
        --flight.pending;
    }

    const ListSearcher& searcher_;
    const ListView& view_;
    const std::byte* queries_;
    const uint32_t* lists_;
    size_t probes_, k_;
    AlignedBytes memory_;
    std::unique_ptr<PageReader> reader_;
    std::vector<Flight> flights_;
    std::vector<Flight*> idle_, active_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;  // numbers of slots
};

ListSearcher::ListSearcher(const ListView& view, const std::string& path, const std::string& io)
    : view_(view), router_(view_.graph), file_(path, io) {
    for (size_t list = 0; list < lists(); ++list) longest_ = std::max(longest_, read_bytes(list));
}

size_t ListSearcher::read_bytes(size_t list) const {
    const size_t bytes = view_.entries[list] * (sizeof(uint32_t) + view_.scorer.dim * type_size(view_.scorer.type));
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void ListSearcher::route(const float* space, size_t count, size_t probes, size_t threads, Route* routes) const {
    parallel_for(count, Router::kGroup, threads, [&](size_t first, size_t last, size_t) {
        router_.route(space + first * view_.graph.dim, last - first, probes, INFINITY, routes + first * probes);
    });
}

void ListSearcher::search(const std::byte* queries, size_t count, const uint32_t* lists, size_t probes, size_t k,
                          size_t threads, float* distances, int64_t* ids, ListStats* stats,
                          const std::function<void()>& poll) const {
    if (std::any_of(lists, lists + count * probes,
                    [&](uint32_t list) { return list != kNone && list >= this->lists(); }))
        throw InputError("a list is asked for that does not exist");
    threads = std::max<size_t>(1, std::min(threads, (count + kShare - 1) / kShare));
    std::atomic<size_t> next{0};
    parallel_for(threads, 1, threads, [&](size_t, size_t, size_t thread) {
        Worker worker(*this, queries, lists, probes, k);
        worker.run(count, next, distances, ids, stats, thread == 0 ? poll : nullptr);
    });
}

}  // namespace tenfold
