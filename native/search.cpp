#include "search.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "checksum.h"
#include "errors.h"
#include "parallel.h"
#include "worker.h"

namespace tenfold {
namespace {

constexpr size_t kRouteBytes = 8 << 20;  // what the lists of a batch of queries may take
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kMostShare = 64;             // queries that a worker takes at a time
constexpr std::chrono::seconds kPatience(1);  // with a worker that nobody needs

std::atomic<size_t> forks{0};  // on the way from the first process to this one
[[maybe_unused]] const int counted = pthread_atfork(nullptr, nullptr, [] { ++forks; });

}  // namespace

// Workers at rest. A forked process has none of its parent's threads, shares its rings, and finds its locks as they
// were: there these workers are not touched, nor destroyed.
struct Searcher::Idle {
    struct Resting {
        std::unique_ptr<Worker> worker;
        std::chrono::steady_clock::time_point since;
    };
    const size_t generation = forks;
    std::mutex lock;
    std::vector<Resting> workers;  // the last is taken first
};

Searcher::Searcher(const IndexView& view, const std::string& path, const std::string& io, size_t cache_bytes,
                   const std::function<void()>& poll)
    : view_(view),
      router_(view_.graph),
      tables_(view_.codec),
      file_(path, io == "memory" ? "buffered" : io),
      cache_bytes_(cache_bytes) {
    const auto damaged = [](const std::string& what) {
        return InputError(what + "; the index is damaged, run `tenfold search verify`");
    };
    for (size_t code = 0; code < 256; ++code) errors_[code] = std::exp(view.error_low + view.error_step * float(code));
    uint64_t offset = 0;
    const size_t bytes = block_bytes(view.codec.subs / 2);
    for (size_t list = 0; list < view.graph.count; ++list) {
        block_starts_.push_back(offset);
        if (view.starts[list] > view.starts[list + 1] || view.starts[list + 1] > view.rows ||
            view.replica_offsets[list] > view.replica_offsets[list + 1])
            throw damaged("lists.bin: the offsets of list " + std::to_string(list) + " go backwards");
        const uint64_t entries =
            view.starts[list + 1] - view.starts[list] + view.replica_offsets[list + 1] - view.replica_offsets[list];
        offset += (entries + kBlockRows - 1) / kBlockRows * bytes;
    }
    block_starts_.push_back(offset);
    if (offset != view.blocks_size)
        throw damaged("codes.bin holds " + std::to_string(view.blocks_size) + " bytes, the lists need " +
                      std::to_string(offset));
    if (io == "memory") load(poll);
}

Searcher::~Searcher() {
    Idle* const idle = idle_;
    if (idle && idle->generation == forks) delete idle;
}

// Reads all pages once and for good, comparing each with its checksum.
void Searcher::load(const std::function<void()>& poll) {
    constexpr size_t kPiece = 1 << 20, kPolled = 256;
    const size_t bytes = view_.pages * view_.page_stride, room = round_up(std::max<size_t>(1, bytes), kHugePage);
    resident_ = aligned_bytes(kHugePage, room);
#if defined(MADV_HUGEPAGE)
    madvise(resident_.get(), room, MADV_HUGEPAGE);
#endif
    const std::unique_ptr<PageReader> reader = file_.reader(1);
    std::vector<Completion> done;
    for (size_t start = 0; start < bytes; start += kPiece) {
        const size_t size = std::min(kPiece, bytes - start);
        done.clear();
        reader->queue({0, view_.pages_offset + start, uint32_t(round_up(size, kAlignment)), resident_.get() + start});
        reader->submit();
        reader->reap(done, true);
        if (done.front().result < int64_t(size)) throw unreadable(start / view_.page_stride, done.front().result);
        poll();
    }
    for (size_t page = 0; page < view_.pages; ++page) {
        if (page % kPolled == 0) poll();
        const std::byte* data = resident_.get() + page * view_.page_stride;
        if (crc32c(data, view_.page_stride) != view_.page_crc[page]) throw damaged(page);
    }
}

InputError Searcher::unreadable(uint64_t page, int64_t result) const {
    const std::string reason = result < 0 ? std::strerror(int(-result)) : "the file ends";
    return InputError(file_.path() + ": page " + std::to_string(page) + " cannot be read: " + reason);
}

InputError Searcher::damaged(uint64_t page) const {
    return InputError(file_.path() + ": page " + std::to_string(page) +
                      " does not match its checksum; the file is damaged, run `tenfold search verify`");
}

Searcher::Idle& Searcher::idle() {
    Idle* known = idle_.load();
    if (known && known->generation == forks) return *known;
    auto fresh = std::make_unique<Idle>();
    return idle_.compare_exchange_strong(known, fresh.get()) ? *fresh.release() : *known;
}

std::unique_ptr<Worker> Searcher::borrow() {
    Idle& idle = this->idle();
    {
        const std::lock_guard<std::mutex> guard(idle.lock);
        if (!idle.workers.empty()) {
            std::unique_ptr<Worker> worker = std::move(idle.workers.back().worker);
            idle.workers.pop_back();
            return worker;
        }
    }
    return std::make_unique<Worker>(*this);
}

// For it another may go, which has memory and a ring, and which the searches of late were too few to need.
void Searcher::give_back(std::unique_ptr<Worker> worker) {
    Idle& idle = this->idle();
    const auto now = std::chrono::steady_clock::now();
    std::unique_ptr<Worker> spare;  // destroyed after the lock is free again
    const std::lock_guard<std::mutex> guard(idle.lock);
    idle.workers.push_back({std::move(worker), now});
    if (now - idle.workers.front().since < kPatience) return;
    spare = std::move(idle.workers.front().worker);
    idle.workers.erase(idle.workers.begin());
}

// All queries of a batch are routed, then answered in the order of their nearest lists, so that neighbours share codes
// in the processor's cache and pages on their way.
void Searcher::in_batches(Batch& batch, size_t threads, const std::function<void(size_t threads)>& work) const {
    const size_t most = std::max(Router::kGroup, kRouteBytes / (sizeof(Route) * std::max<size_t>(1, batch.probes)));
    for (; batch.first < batch.queries.count; batch.first += batch.order.size()) {
        const size_t count = std::min(most, batch.queries.count - batch.first);
        const size_t busy = std::max<size_t>(1, std::min(threads, (count + 7) / 8));
        begin(batch, count, busy);
        work(busy);
    }
}

void Searcher::answer(const Batch& batch, size_t threads, float* distances, int64_t* ids, QueryStats* stats,
                      Hooks& hooks) {
    if (hooks.poll) hooks.poll();
    std::atomic<size_t> next{0};
    parallel_for(threads, 1, threads, [&](size_t, size_t, size_t thread) {
        std::unique_ptr<Worker> worker = borrow();
        Hooks none;
        worker->run(batch, next, distances, ids, stats, thread == 0 ? hooks : none);
        give_back(std::move(worker));
    });
}

void Searcher::search(const Queries& queries, const SearchOptions& options, float* distances, int64_t* ids,
                      QueryStats* stats, Hooks hooks) {
    Batch batch{queries, options, std::min(options.probes, view_.graph.count), 0, {}, {}, 0, nullptr};
    in_batches(batch, options.threads, [&](size_t threads) { answer(batch, threads, distances, ids, stats, hooks); });
}

void Searcher::scan(const Queries& queries, size_t probes, size_t threads, const Shortlist& found) {
    const SearchOptions options{};
    Batch batch{queries, options, std::min(probes, view_.graph.count), 0, {}, {}, 0, nullptr};
    in_batches(batch, threads, [&](size_t busy) {
        std::atomic<size_t> next{0};
        parallel_for(busy, 1, busy, [&](size_t, size_t, size_t) {
            std::unique_ptr<Worker> worker = borrow();
            worker->list(batch, next, found);
            give_back(std::move(worker));
        });
    });
}

// In the order of their first rows, for the same reason as `in_batches`.
void Searcher::rerank(const Queries& queries, const Shortlist& found, const SearchOptions& options, float* distances,
                      int64_t* ids, QueryStats* stats, Hooks hooks) {
    const size_t threads = std::max<size_t>(1, std::min(options.threads, (queries.count + 7) / 8));
    Batch batch{queries, options, 0, 0, {}, std::vector<size_t>(queries.count), 0, &found};
    const auto first_row = [&](size_t query) { return found.width ? found.positions[query * found.width] : kNone; };
    std::iota(batch.order.begin(), batch.order.end(), size_t(0));
    std::stable_sort(batch.order.begin(), batch.order.end(),
                     [&](size_t a, size_t b) { return first_row(a) < first_row(b); });
    batch.share = std::clamp<size_t>(queries.count / (8 * threads), 1, kMostShare);
    if (queries.count > 0) answer(batch, threads, distances, ids, stats, hooks);
}

void Searcher::route_some(const float* space, size_t count, size_t probes, float margin, size_t rows,
                          Route* routes) const {
    router_.route(space, count, probes, margin, routes);
    if (std::isinf(margin)) return;
    for (size_t q = 0; q < count; ++q) widen(space + q * view_.graph.dim, probes, rows, routes + q * probes);
}

void Searcher::route(const float* space, size_t count, size_t probes, float margin, size_t rows, size_t threads,
                     Route* routes) const {
    parallel_for(count, Router::kGroup, threads, [&](size_t first, size_t last, size_t) {
        route_some(space + first * view_.graph.dim, last - first, probes, margin, rows, routes + first * probes);
    });
}

void Searcher::route(const float* space, size_t count, size_t probes, float margin, size_t rows, size_t threads,
                     std::vector<std::vector<Route>>& routes) const {
    parallel_for(count, Router::kGroup, threads, [&](size_t first, size_t last, size_t) {
        std::vector<Route> found((last - first) * probes);
        route_some(space + first * view_.graph.dim, last - first, probes, margin, rows, found.data());
        for (size_t q = first; q < last; ++q) {
            const auto own = found.begin() + std::ptrdiff_t((q - first) * probes);
            const auto end = own + std::ptrdiff_t(probes);
            routes[q].assign(own, std::find_if(own, end, [](const Route& route) { return route.list == kNone; }));
        }
    });
}

// Where the lists within a margin hold too few rows, as in a small dense cluster, the next nearest follow.
void Searcher::widen(const float* query, size_t probes, size_t rows, Route* routes) const {
    const auto lists_of = [&] {
        size_t at = 0;
        for (size_t held = 0; at < probes && routes[at].list != kNone && held < rows; ++at)
            held += view_.starts[routes[at].list + 1] - view_.starts[routes[at].list];
        return at;
    };
    const size_t within = lists_of();
    if (within == probes || routes[within].list != kNone) return;
    router_.route(query, 1, probes, INFINITY, routes);
    std::fill(routes + std::max(within, lists_of()), routes + probes, Route{INFINITY, kNone});
}

// Routes the next `count` queries and puts them in order.
void Searcher::begin(Batch& batch, size_t count, size_t threads) const {
    if (batch.routes.size() < count * batch.probes) batch.routes = Buffer<Route>(count * batch.probes);
    batch.order.resize(count);
    route(batch.queries.space + batch.first * view_.graph.dim, count, batch.probes, batch.options.margin,
          batch.options.candidates, threads, batch.routes.data());
    std::iota(batch.order.begin(), batch.order.end(), batch.first);
    std::stable_sort(batch.order.begin(), batch.order.end(),
                     [&](size_t a, size_t b) { return batch.routes_of(a)->list < batch.routes_of(b)->list; });
    batch.share = std::clamp<size_t>(count / (8 * threads), 1, kMostShare);
}

void Searcher::prefetch(uint32_t list) const {
    const uint8_t* const first = view_.blocks + block_starts_[list];
    const uint8_t* const last = view_.blocks + block_starts_[list + 1];
    for (const uint8_t* line = first; line < last; line += 64) __builtin_prefetch(line);
}

ScanTable Searcher::scan_table(const QueryTable& table) const {
    return {table.even.data(), table.odd.data(), view_.codec.subs / 2, table.offset,    table.step,
            view_.shift_low,   view_.shift_step, view_.scale_low,      view_.scale_step};
}

void Searcher::estimate(const Queries& queries, const uint32_t* positions, size_t width, size_t threads,
                        float* estimates, float* errors) const {
    const Graph& graph = view_.graph;
    const size_t bytes = block_bytes(view_.codec.subs / 2);
    parallel_for(queries.count, 8, threads, [&](size_t first, size_t last, size_t) {
        QueryTable table;
        Hit hits[kBlockRows];
        for (size_t q = first; q < last; ++q) {
            const float* query = queries.space + q * graph.dim;
            tables_.fill(query, table);
            const ScanTable scan_table = this->scan_table(table);
            for (size_t i = 0; i < width; ++i) {
                const uint32_t position = positions[q * width + i];
                estimates[q * width + i] = errors[q * width + i] = NAN;
                if (position >= view_.rows) continue;
                const size_t list =
                    size_t(std::upper_bound(view_.starts, view_.starts + graph.count + 1, uint64_t(position)) -
                           view_.starts) -
                    1;
                const size_t rank = position - view_.starts[list], block = rank / kBlockRows;
                const float list_term = kernels().l2_f32(query, graph.points + list * graph.dim, graph.dim);
                const size_t valid =
                    std::min<size_t>(kBlockRows, view_.starts[list + 1] - view_.starts[list] - block * kBlockRows);
                const size_t found = kernels().scan(view_.blocks + block_starts_[list] + block * bytes, valid,
                                                    scan_table, list_term, INFINITY, hits);
                for (size_t h = 0; h < found; ++h)
                    if (hits[h].slot == rank % kBlockRows) {
                        estimates[q * width + i] = hits[h].estimate;
                        errors[q * width + i] = errors_[hits[h].error];
                    }
            }
        }
    });
}

}  // namespace tenfold
