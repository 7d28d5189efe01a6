// Queries under way: what one thread does with its share of a batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "buffer.h"
#include "checksum.h"
#include "errors.h"
#include "page_cache.h"
#include "search.h"

namespace tenfold {

constexpr size_t kQueueDepth = 64;        // reads under way per worker
constexpr size_t kFlightBytes = 4 << 20;  // what the candidates of a worker's queries may take
constexpr size_t kMostFlights = 32;       // queries under way per worker, at most
constexpr double kChangeRate = 0.1;       // paper, algorithm 1: epsilon; its beta is 1, its batch size k

inline size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

struct Candidate {
    float estimate;
    uint32_t position;
    uint8_t error;
};

inline bool better(const Candidate& a, const Candidate& b) {
    return a.estimate != b.estimate ? a.estimate < b.estimate : a.position < b.position;
}

// One query between its first scan and its answer.
struct Flight {
    size_t query = 0;
    float query_norm = 0;
    std::vector<Candidate> candidates;
    std::vector<uint32_t> positions;  // theirs in rising order, each once; empty where whole pages are scored
    size_t requested = 0;             // candidates whose pages were asked for: the first `requested`
    std::vector<uint64_t> todo, seen;
    size_t next_page = 0, pending = 0;
    bool finished = false;
    Best best;
    std::vector<int64_t> previous;  // the paper's rule: ids after the last batch
    QueryStats stats{};
};

// Queries under way together, the lists nearest to each, and the order in which they are answered.
struct Batch {
    const Queries& queries;
    const SearchOptions& options;
    size_t probes;
    size_t first;               // of the queries
    Buffer<Route> routes;       // (order.size(), probes)
    std::vector<size_t> order;  // numbers of queries
    size_t share;               // how many a worker takes at a time
    const Shortlist* found;     // where the scan is done already, instead of routes

    const Route* routes_of(size_t query) const { return routes.data() + (query - first) * probes; }
};

// Answers queries one thread at a time: scans for one while the disk reads for others. After an exception it must be
// destroyed.
class Worker {
  public:
    Worker(const Searcher& searcher)
        : searcher_(searcher),
          view_(searcher.view_),
          // A page may start anywhere on a 512-byte boundary; the read covers whole 4,096-byte units.
          buffer_bytes_(round_up(view_.page_stride, kAlignment) + (view_.page_stride % kAlignment ? kAlignment : 0)),
          cache_(std::max(kQueueDepth, searcher.cache_bytes_ / buffer_bytes_), buffer_bytes_),
          reader_(searcher.file_.reader(kQueueDepth)) {}

    ~Worker() {
        if (!reader_->settle()) cache_.leak();
    }

    void run(const Batch& batch, std::atomic<size_t>& next, float* distances, int64_t* ids, QueryStats* stats,
             Hooks& hooks) {
        batch_ = &batch;
        queries_ = &batch.queries;
        options_ = &batch.options;
        const SearchOptions& options = batch.options;
        const size_t affordable = kFlightBytes / (sizeof(Candidate) * std::max<size_t>(1, options.candidates));
        const size_t count = batch.order.size();
        flights_.resize(std::min(std::clamp<size_t>(affordable, 1, kMostFlights), count));
        std::vector<uint32_t> idle;
        for (uint32_t f = 0; f < flights_.size(); ++f) idle.push_back(f);
        try {
            bool more = true;
            size_t at = 0, stop = 0;
            while (more || idle.size() < flights_.size()) {
                if (hooks.poll) hooks.poll();
                if (more && !idle.empty()) {
                    if (at == stop) {
                        at = std::min(count, next.fetch_add(batch.share));
                        stop = std::min(count, at + batch.share);
                    }
                    more = at < stop;
                    if (more) {
                        begin(flights_[idle.back()], at++);
                        idle.pop_back();
                    }
                }
                step(!more || idle.empty(), hooks);
                for (uint32_t f = 0; f < flights_.size(); ++f) {
                    Flight& flight = flights_[f];
                    if (!flight.finished) continue;
                    flight.best.write(distances + flight.query * options.k, ids + flight.query * options.k);
                    stats[flight.query] = flight.stats;
                    flight.finished = false;
                    idle.push_back(f);
                }
            }
        } catch (...) {
            next.store(count);  // the other workers stop too
            throw;
        }
    }

    // Scans only: the queries from `next` on, as many as there are.
    void list(const Batch& batch, std::atomic<size_t>& next, const Shortlist& found) {
        batch_ = &batch;
        const size_t count = batch.order.size();
        for (size_t at = next.fetch_add(batch.share); at < count; at = next.fetch_add(batch.share)) {
            for (size_t place = at; place < std::min(count, at + batch.share); ++place) {
                const size_t query = batch.order[place], start = query * found.width;
                scan(batch.queries.space + query * view_.graph.dim, batch.routes_of(query), found.width);
                std::sort(scanned_.begin(), scanned_.end(), better);
                for (size_t i = 0; i < found.width; ++i) {
                    const Candidate row = i < scanned_.size() ? scanned_[i] : Candidate{INFINITY, kNone, 0};
                    found.positions[start + i] = row.position;
                    found.estimates[start + i] = row.estimate;
                    found.errors[start + i] = row.error;
                }
            }
        }
    }

  private:
    // --- scanning -------------------------------------------------------------------------------------------

    void begin(Flight& flight, size_t place) {
        const size_t query = batch_->order[place];
        flight.query = query;
        flight.stats = {};
        flight.best.start(options_->k);
        flight.requested = flight.next_page = flight.pending = 0;
        flight.todo.clear();
        flight.seen.clear();
        flight.previous.clear();
        flight.query_norm = view_.scorer.query_norm(exact_query(query));
        active_.push_back(&flight);
        flight.candidates.clear();
        if (takes_all_pages()) {  // without a candidate for each row in memory
            flight.todo.resize(view_.pages);
            std::iota(flight.todo.begin(), flight.todo.end(), 0);
            flight.stats.rounds = 1;
            return;
        }
        if (batch_->found) {
            take(query, *batch_->found);
        } else {
            // All candidates means all: a row and its replicas are several.
            const size_t wanted = reads_everything() ? SIZE_MAX : options_->candidates;
            flight.stats.codes_scanned =
                scan(queries_->space + query * view_.graph.dim, batch_->routes_of(query), wanted);
        }
        if (options_->rule == Rule::paper) {
            std::sort(scanned_.begin(), scanned_.end(), better);
        } else {
            const auto rest = scanned_.begin() + std::ptrdiff_t(first_batch(scanned_.size()));
            std::nth_element(scanned_.begin(), rest, scanned_.end(), better);
        }
        flight.candidates.assign(scanned_.begin(), scanned_.end());
        flight.positions.clear();
        if (!options_->score_whole_pages) {
            for (const Candidate& candidate : flight.candidates) flight.positions.push_back(candidate.position);
            std::sort(flight.positions.begin(), flight.positions.end());
            flight.positions.erase(std::unique(flight.positions.begin(), flight.positions.end()),
                                   flight.positions.end());
        }
        next_round(flight);
    }

    bool takes_all_pages() const {
        return reads_everything() && batch_->probes == view_.graph.count && options_->score_whole_pages &&
               !options_->allowed && !batch_->found;
    }

    const std::byte* exact_query(size_t query) const {
        return queries_->exact + query * view_.scorer.dim * query_type_size(view_.scorer.type);
    }

    // Fills `scanned_` with the `wanted` entries of smallest estimate, in any order; returns how many it looked at.
    uint32_t scan(const float* query, const Route* routes, size_t wanted) {
        searcher_.tables_.fill(query, table_);
        const ScanTable scan_table = searcher_.scan_table(table_);
        uint32_t looked_at = 0;
        float threshold = INFINITY;
        scanned_.clear();
        const Route* const last =
            std::find_if(routes, routes + batch_->probes, [](const Route& route) { return route.list == kNone; });
        for (const Route* route = routes; route != last; ++route) {
            if (route + 1 != last) searcher_.prefetch(route[1].list);
            const size_t list = route->list;
            const size_t own = view_.starts[list + 1] - view_.starts[list];
            const size_t copies = view_.replica_offsets[list + 1] - view_.replica_offsets[list];
            const uint8_t* blocks = view_.blocks + searcher_.block_starts_[list];
            hits_.resize(round_up(own + copies, kBlockRows));
            const size_t found =
                kernels().scan(blocks, own + copies, scan_table, route->distance, threshold, hits_.data());
            looked_at += uint32_t(own + copies);
            for (size_t i = 0; i < found; ++i) {
                const Hit& hit = hits_[i];
                const uint64_t position = hit.slot < own ? view_.starts[list] + hit.slot
                                                         : view_.replicas[view_.replica_offsets[list] + hit.slot - own];
                if (position >= view_.rows)
                    throw InputError("lists.bin: list " + std::to_string(list) + " names row " +
                                     std::to_string(position) + " of " + std::to_string(view_.rows) +
                                     "; the index is damaged, run `tenfold search verify`");
                if (batch_->options.allows(position)) scanned_.push_back({hit.estimate, uint32_t(position), hit.error});
            }
            if (scanned_.size() / 2 > wanted) threshold = cut(scanned_, wanted);
        }
        if (scanned_.size() > wanted) cut(scanned_, wanted);
        return looked_at;
    }

    void take(size_t query, const Shortlist& found) {
        scanned_.clear();
        for (size_t i = query * found.width; i < (query + 1) * found.width; ++i) {
            const uint32_t position = found.positions[i];
            if (position == kNone) break;
            if (position >= view_.rows)
                throw InputError("row " + std::to_string(position) + " is asked for, the index holds " +
                                 std::to_string(view_.rows));
            if (options_->allows(position)) scanned_.push_back({found.estimates[i], position, found.errors[i]});
        }
    }

    // Keeps the `wanted` best; returns the estimate that later candidates must beat, those that tie with the last
    // included: lower positions win a tie, whatever the order of the lists, as on a GPU.
    static float cut(std::vector<Candidate>& candidates, size_t wanted) {
        if (wanted == 0) {
            candidates.clear();
            return -INFINITY;
        }
        std::nth_element(candidates.begin(), candidates.begin() + std::ptrdiff_t(wanted - 1), candidates.end(), better);
        candidates.resize(wanted);
        return std::nextafterf(candidates.back().estimate, INFINITY);
    }

    // --- re-ranking -----------------------------------------------------------------------------------------

    // The first of the two rounds: five of eight, which are enough for a threshold and nearly all that is needed. With
    // fewer, more queries wait for a second round; with more, candidates are read that the threshold would have spared.
    size_t first_batch(size_t available) const {
        return std::min(available, std::max(options_->k, available - available * 3 / 8));
    }

    bool reads_everything() const { return std::isinf(options_->z); }

    // Fills `todo` with the pages of the next round, or marks the flight finished.
    void next_round(Flight& flight) {
        flight.todo.clear();
        flight.next_page = 0;
        while (flight.todo.empty() && !flight.finished) {
            const bool more = options_->rule == Rule::paper ? paper_round(flight) : bound_round(flight);
            if (!more) flight.finished = true;
            std::sort(flight.todo.begin(), flight.todo.end());
            flight.todo.erase(std::unique(flight.todo.begin(), flight.todo.end()), flight.todo.end());
            std::vector<uint64_t> fresh, seen;
            std::set_difference(flight.todo.begin(), flight.todo.end(), flight.seen.begin(), flight.seen.end(),
                                std::back_inserter(fresh));
            std::merge(fresh.begin(), fresh.end(), flight.seen.begin(), flight.seen.end(), std::back_inserter(seen));
            flight.todo.swap(fresh);
            flight.seen.swap(seen);
        }
        if (!flight.finished) ++flight.stats.rounds;
    }

    void request(Flight& flight, const Candidate& candidate) {
        flight.todo.push_back(candidate.position / view_.rows_per_page);
        ++flight.stats.candidates;
    }

    bool bound_round(Flight& flight) {
        const size_t available = flight.candidates.size();
        if (flight.requested == available) return false;
        if (flight.requested == 0) {
            flight.requested = first_batch(available);
            for (size_t i = 0; i < flight.requested; ++i) request(flight, flight.candidates[i]);
            return true;
        }
        const float kth = space_distance(flight.query, flight.best.worst());
        for (size_t i = flight.requested; i < available; ++i)
            if (reads_everything() || bound(flight.candidates[i]) < kth) request(flight, flight.candidates[i]);
        flight.requested = available;
        return true;
    }

    // What a candidate's distance in search space hardly ever is below.
    float bound(const Candidate& candidate) const {
        const float estimate = std::max(0.0f, candidate.estimate);
        return estimate + options_->z * std::sqrt(estimate) * std::sqrt(searcher_.errors_[candidate.error]);
    }

    // Paper, algorithm 1: batches of k until a batch changes at most a tenth of the answer.
    bool paper_round(Flight& flight) {
        const size_t available = flight.candidates.size();
        if (flight.requested > 0) {
            std::vector<int64_t> current;
            for (const Best::Result& result : flight.best.items()) current.push_back(result.id);
            std::sort(current.begin(), current.end());
            std::vector<int64_t> fresh;
            std::set_difference(current.begin(), current.end(), flight.previous.begin(), flight.previous.end(),
                                std::back_inserter(fresh));
            // A batch may hold nothing but copies of rows that are in the answer already, which is not full then.
            const bool settled =
                current.size() == options_->k && double(fresh.size()) <= kChangeRate * double(options_->k);
            flight.previous.swap(current);
            if (settled && !reads_everything()) return false;
        }
        if (flight.requested == available) return false;
        const size_t stop = std::min(available, flight.requested + options_->k);
        for (; flight.requested < stop; ++flight.requested) request(flight, flight.candidates[flight.requested]);
        return true;
    }

    float space_distance(size_t query, float distance) const {
        return queries_->base[query] + queries_->slope[query] * distance;
    }

    void score(Flight& flight, uint64_t page, const std::byte* data) {
        const size_t first = page * view_.rows_per_page;
        const size_t last = std::min(view_.rows, first + view_.rows_per_page);
        const size_t row_bytes = view_.scorer.dim * type_size(view_.scorer.type);
        const std::byte* query = exact_query(flight.query);
        const auto score_row = [&](size_t position) {
            if (!options_->allows(position)) return;
            const float distance =
                view_.scorer.distance(query, flight.query_norm, data + (position - first) * row_bytes);
            ++flight.stats.rows_scored;
            if (distance <= flight.best.worst()) flight.best.add({distance, view_.labels[position]});
        };
        if (options_->score_whole_pages) {
            for (size_t position = first; position < last; ++position) score_row(position);
            return;
        }
        for (auto wanted = std::lower_bound(flight.positions.begin(), flight.positions.end(), first);
             wanted != flight.positions.end() && *wanted < last; ++wanted)
            score_row(*wanted);
    }

    // --- reading --------------------------------------------------------------------------------------------

    uint64_t page_offset(uint64_t page) const { return view_.pages_offset + page * view_.page_stride; }

    const std::byte* page_data(uint32_t slot) {
        return cache_.buffer(slot) + page_offset(cache_.slot(slot).page) % kAlignment;
    }

    // Asks for as many of a flight's pages as there is room for; scores those already here.
    void issue(Flight& flight) {
        while (flight.next_page < flight.todo.size()) {
            const uint64_t page = flight.todo[flight.next_page];
            if (searcher_.resident_) {
                score(flight, page, searcher_.resident_.get() + page * view_.page_stride);
                ++flight.stats.pages_cached;
                ++flight.next_page;
                continue;
            }
            uint32_t slot = cache_.find(page);
            if (slot != PageCache::kNoSlot && cache_.slot(slot).state == PageCache::State::ready) {
                score(flight, page, page_data(slot));
                ++flight.stats.pages_cached;
            } else if (slot != PageCache::kNoSlot) {
                cache_.slot(slot).waiting.push_back(uint32_t(&flight - flights_.data()));
                ++flight.pending;
                ++flight.stats.pages_cached;
            } else {
                if (reading_ == kQueueDepth || (slot = cache_.claim(page)) == PageCache::kNoSlot) return;
                start_read(slot, page);
                cache_.slot(slot).waiting.push_back(uint32_t(&flight - flights_.data()));
                ++flight.pending;
                ++flight.stats.pages_read;
            }
            ++flight.next_page;
        }
    }

    void start_read(uint32_t slot, uint64_t page) {
        const uint64_t start = page_offset(page) / kAlignment * kAlignment;
        const uint64_t stop = round_up(page_offset(page) + view_.page_stride, kAlignment);
        reader_->queue({slot, start, uint32_t(stop - start), cache_.buffer(slot)});
        ++reading_;
    }

    // Starts what can be started, takes in what has arrived, and moves every flight whose round is complete.
    void step(bool wait, Hooks& hooks) {
        for (Flight* flight : active_) advance(*flight);
        std::erase_if(active_, [](const Flight* flight) { return flight->finished; });
        reader_->submit();
        done_.clear();
        wait = wait && !active_.empty();
        if (wait && reading_ > 0 && hooks.meanwhile) std::exchange(hooks.meanwhile, nullptr)();
        if (reading_ > 0) reader_->reap(done_, wait);
        reading_ -= done_.size();
        for (const Completion& completion : done_) deliver(completion);
    }

    void advance(Flight& flight) {
        while (!flight.finished) {
            issue(flight);
            if (flight.pending > 0 || flight.next_page < flight.todo.size()) return;
            next_round(flight);
        }
    }

    void deliver(const Completion& completion) {
        PageCache::Slot& slot = cache_.slot(completion.tag);
        const uint64_t page = slot.page;
        const uint64_t lead = page_offset(page) % kAlignment;
        if (completion.result < int64_t(lead + view_.page_stride)) throw searcher_.unreadable(page, completion.result);
        const std::byte* data = page_data(completion.tag);
        if (crc32c(data, view_.page_stride) != view_.page_crc[page]) throw searcher_.damaged(page);
        slot.state = PageCache::State::ready;
        for (uint32_t number : slot.waiting) {
            score(flights_[number], page, data);
            --flights_[number].pending;
        }
        slot.waiting.clear();
    }

    const Searcher& searcher_;
    const IndexView& view_;
    size_t buffer_bytes_;
    PageCache cache_;
    std::unique_ptr<PageReader> reader_;
    const Batch* batch_ = nullptr;
    const Queries* queries_ = nullptr;
    const SearchOptions* options_ = nullptr;
    std::vector<Flight> flights_;
    std::vector<Flight*> active_;
    std::vector<Hit> hits_;
    std::vector<Candidate> scanned_;
    std::vector<Completion> done_;
    QueryTable table_;
    size_t reading_ = 0;
};

}  // namespace tenfold
