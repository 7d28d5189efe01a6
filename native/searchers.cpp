#include "searchers.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <utility>
#include <vector>

#include "arrays.h"
#include "baselines.h"
#include "parallel.h"
#include "search.h"

using namespace nanobind::literals;

namespace tenfold {
namespace {

// Lets Ctrl-C end a long search: asks Python for signals every now and then.
class SignalCheck {
  public:
    void operator()() {
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        const nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw Interrupted();
    }

  private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// `find` fills in the routes of all queries, (count, probes).
template <typename Find>
nb::tuple routes(const In2<float>& space, size_t dim, size_t probes, const Find& find) {
    require(space.shape(1) == dim, "the queries do not have the dimension of search space");
    std::vector<Route> found(space.shape(0) * probes);
    {
        const nb::gil_scoped_release release;
        find(found.data());
    }
    Out<float, 2> distances({space.shape(0), probes});
    Out<uint32_t, 2> lists({space.shape(0), probes});
    for (size_t i = 0; i < found.size(); ++i) {
        distances.data[i] = found[i].distance;
        lists.data[i] = found[i].list;
    }
    return nb::make_tuple(distances.array, lists.array);
}

// A Searcher and the arrays it looks into.
class BoundSearcher {
  public:
    BoundSearcher(const nb::dict& arrays, const nb::dict& numbers, const std::filesystem::path& path,
                  const std::string& type, const std::string& metric, const std::string& io, size_t cache_bytes) {
        const auto number = [&](const char* key) { return nb::cast<size_t>(numbers[key]); };
        const auto scale = [&](const char* key) { return nb::cast<float>(numbers[key]); };
        IndexView view{};
        view.scorer = {parse_type(type), parse_metric(metric), number("dim")};
        view.rows = number("rows");
        view.rows_per_page = number("rows_per_page");
        view.page_stride = number("page_stride");
        view.pages_offset = number("pages_offset");
        const auto crc = keep<In1<uint32_t>>(arrays["page_crc"]);
        view.page_crc = crc.data();
        view.pages = crc.shape(0);
        const auto centroids = keep<In2<float>>(arrays["centroids"]);
        const auto neighbours = keep<In2<uint32_t>>(arrays["neighbours"]);
        view.graph = {centroids.data(), neighbours.data(), centroids.shape(0), centroids.shape(1), neighbours.shape(1)};
        const auto starts = keep<In1<uint64_t>>(arrays["starts"]);
        const auto replica_offsets = keep<In1<uint64_t>>(arrays["replica_offsets"]);
        const auto replicas = keep<In1<uint32_t>>(arrays["replicas"]);
        const auto blocks = keep<Bytes>(arrays["blocks"]);
        view.starts = starts.data();
        view.replica_offsets = replica_offsets.data();
        view.replicas = replicas.data();
        view.blocks = blocks.data();
        view.blocks_size = blocks.size();
        const auto labels = keep<In1<uint32_t>>(arrays["labels"]);
        view.labels = labels.data();
        const auto codebook = keep<In3<float>>(arrays["codebook"]);
        view.codec = make_codec(view.graph.dim, number("bits"), codebook);
        view.shift_low = scale("shift_low");
        view.shift_step = scale("shift_step");
        view.scale_low = scale("scale_low");
        view.scale_step = scale("scale_step");
        view.error_low = scale("error_low");
        view.error_step = scale("error_step");
        const size_t lists = view.graph.count;
        require(lists > 0 && neighbours.shape(0) == lists && starts.shape(0) == lists + 1 &&
                    replica_offsets.shape(0) == lists + 1 && view.starts[0] == 0 && view.starts[lists] == view.rows &&
                    view.replica_offsets[0] == 0 && view.replica_offsets[lists] == replicas.shape(0) &&
                    labels.shape(0) == view.rows,
                "the index's sections do not fit each other; the index is damaged, run `tenfold search verify`");
        require(view.rows_per_page > 0 && view.pages == (view.rows + view.rows_per_page - 1) / view.rows_per_page &&
                    view.rows_per_page * view.scorer.dim * type_size(view.scorer.type) <= view.page_stride,
                "the index's page layout does not fit its rows; the index is damaged, run `tenfold search verify`");
        {
            const nb::gil_scoped_release release;
            searcher_ = std::make_unique<Searcher>(view, path.string(), io, cache_bytes, SignalCheck());
        }
        lists_ = lists;
        rows_ = view.rows;
        dim_ = view.scorer.dim;
        space_dim_ = view.graph.dim;
        query_dtype_ = query_dtype_of(view.scorer.type);
    }

    std::string backend() const { return searcher_->backend(); }
    size_t memory_bytes() const { return searcher_->memory_bytes(); }

    nb::tuple search(const Rows& exact, const In2<float>& space, const In1<float>& base, const In1<float>& slope,
                     size_t k, size_t probes, float margin, size_t candidates, float z, const std::string& rule,
                     bool score_whole_pages, size_t threads, const Bits& allowed,
                     const std::optional<nb::callable>& meanwhile) {
        const Queries queries = view_queries(exact, space, base, slope);
        const SearchOptions options{
            k, probes, margin, candidates, z, parse_rule(rule), score_whole_pages, threads, bits_of(allowed, rows_)};
        Hooks hooks{SignalCheck(), nullptr};
        if (meanwhile)
            hooks.meanwhile = [&] {
                const nb::gil_scoped_acquire acquire;
                (*meanwhile)();
            };
        return answers(queries.count, k, [&](float* distances, int64_t* ids, QueryStats* stats) {
            searcher_->search(queries, options, distances, ids, stats, hooks);
        });
    }

    nb::tuple scan(const In2<float>& space, size_t probes, size_t candidates, size_t threads) {
        require(space.shape(1) == space_dim_, "the queries do not have the dimension of search space");
        const Queries queries{nullptr, space.data(), nullptr, nullptr, space.shape(0)};
        Out<uint32_t, 2> positions({queries.count, candidates});
        Out<float, 2> estimates({queries.count, candidates});
        Out<uint8_t, 2> errors({queries.count, candidates});
        {
            const nb::gil_scoped_release release;
            searcher_->scan(queries, probes, threads, {positions.data, estimates.data, errors.data, candidates});
        }
        return nb::make_tuple(positions.array, estimates.array, errors.array);
    }

    nb::tuple rerank(const Rows& exact, const In2<float>& space, const In1<float>& base, const In1<float>& slope,
                     const In2<uint32_t>& positions, const In2<float>& estimates, const In2<uint8_t>& errors, size_t k,
                     float z, const std::string& rule, bool score_whole_pages, size_t threads) {
        const Queries queries = view_queries(exact, space, base, slope);
        const size_t width = positions.shape(1);
        require(positions.shape(0) == queries.count && estimates.shape(0) == queries.count &&
                    errors.shape(0) == queries.count && estimates.shape(1) == width && errors.shape(1) == width,
                "queries and candidates do not fit each other");
        // Read only: a shortlist is filled in by a scan alone.
        const Shortlist found{const_cast<uint32_t*>(positions.data()), const_cast<float*>(estimates.data()),
                              const_cast<uint8_t*>(errors.data()), width};
        const SearchOptions options{k, 0, INFINITY, width, z, parse_rule(rule), score_whole_pages, threads};
        return answers(queries.count, k, [&](float* distances, int64_t* ids, QueryStats* stats) {
            searcher_->rerank(queries, found, options, distances, ids, stats, {SignalCheck(), nullptr});
        });
    }

    nb::tuple route(const In2<float>& space, size_t probes, size_t threads, float margin, size_t rows) const {
        const size_t most = std::min(probes, lists_);
        return routes(space, space_dim_, most, [&](Route* found) {
            searcher_->route(space.data(), space.shape(0), most, margin, rows, threads, found);
        });
    }

    // The same as a device wants it: no gaps, queries in the order of their nearest lists.
    nb::tuple itinerary(const In2<float>& space, size_t probes, size_t threads, float margin, size_t rows) const {
        require(space.shape(1) == space_dim_, "the queries do not have the dimension of search space");
        const size_t count = space.shape(0);
        Out<int64_t, 1> order({count}), starts({count + 1});
        Out<int32_t, 2> sizes({count, 2});
        std::vector<std::vector<Route>> found(count);
        {
            const nb::gil_scoped_release release;
            searcher_->route(space.data(), count, std::min(probes, lists_), margin, rows, threads, found);
            std::vector<std::pair<uint32_t, int64_t>> nearest;
            for (size_t q = 0; q < count; ++q)
                nearest.emplace_back(found[q].empty() ? kNone : found[q][0].list, int64_t(q));
            std::sort(nearest.begin(), nearest.end());
            for (size_t i = 0; i < count; ++i) order.data[i] = nearest[i].second;
            starts.data[0] = 0;
            for (size_t i = 0; i < count; ++i)
                starts.data[i + 1] = starts.data[i] + int64_t(found[size_t(order.data[i])].size());
        }
        const auto routes = size_t(starts.data[count]);
        Out<float, 1> distances({routes});
        Out<int32_t, 1> lists({routes}), queries({routes}), slots({routes});
        const auto write = [&](size_t first, size_t last, size_t) {
            for (size_t i = first; i < last; ++i) {
                auto at = size_t(starts.data[i]);
                size_t slot = 0, entries = 0;
                for (const Route& route : found[size_t(order.data[i])]) {
                    distances.data[at] = route.distance;
                    lists.data[at] = int32_t(route.list);
                    queries.data[at] = int32_t(i);
                    slots.data[at++] = int32_t(slot);
                    const size_t held = searcher_->entries(route.list);
                    entries += held;
                    slot += (held + kBlockRows - 1) / kBlockRows * kBlockRows;
                }
                sizes.data[2 * i] = int32_t(slot);
                sizes.data[2 * i + 1] = int32_t(entries);
            }
        };
        {
            const nb::gil_scoped_release release;
            parallel_for(count, 64, threads, write);
        }
        return nb::make_tuple(order.array, starts.array, sizes.array, distances.array, lists.array, queries.array,
                              slots.array);
    }

    nb::tuple estimate(const In2<float>& space, const In2<uint32_t>& positions, size_t threads) const {
        require(space.shape(1) == space_dim_ && positions.shape(0) == space.shape(0),
                "queries and positions do not fit each other");
        Out<float, 2> estimates({positions.shape(0), positions.shape(1)});
        Out<float, 2> errors({positions.shape(0), positions.shape(1)});
        {
            const nb::gil_scoped_release release;
            searcher_->estimate({nullptr, space.data(), nullptr, nullptr, space.shape(0)}, positions.data(),
                                positions.shape(1), threads, estimates.data, errors.data);
        }
        return nb::make_tuple(estimates.array, errors.array);
    }

  private:
    template <typename Array>
    Array keep(const nb::handle& given) {
        const auto array = nb::cast<Array>(given);
        kept_.emplace_back(array);
        return array;
    }

    static Rule parse_rule(const std::string& rule) {
        require(rule == "bound" || rule == "paper", "rerank is not known; choose 'bound' or 'paper'");
        return rule == "paper" ? Rule::paper : Rule::bound;
    }

    // What `work` fills in: distances, ids and counts of every query.
    template <typename Work>
    static nb::tuple answers(size_t queries, size_t k, const Work& work) {
        Out<float, 2> distances({queries, k});
        Out<int64_t, 2> ids({queries, k});
        Out<uint32_t, 2> stats({queries, 6});
        static_assert(sizeof(QueryStats) == 24);
        {
            const nb::gil_scoped_release release;
            work(distances.data, ids.data, reinterpret_cast<QueryStats*>(stats.data));
        }
        return nb::make_tuple(distances.array, ids.array, stats.array);
    }

    Queries view_queries(const Rows& exact, const In2<float>& space, const In1<float>& base,
                         const In1<float>& slope) const {
        require(exact.shape(1) == dim_ && exact.dtype() == query_dtype_ && space.shape(1) == space_dim_ &&
                    space.shape(0) == exact.shape(0) && base.shape(0) == exact.shape(0) &&
                    slope.shape(0) == exact.shape(0),
                "the query arrays' shapes or types do not fit each other");
        return {static_cast<const std::byte*>(exact.data()), space.data(), base.data(), slope.data(), exact.shape(0)};
    }

    std::vector<nb::ndarray<nb::ro>> kept_;  // what the searcher looks into: those given, or copies of another type
    std::unique_ptr<Searcher> searcher_;
    size_t lists_ = 0, rows_ = 0, dim_ = 0, space_dim_ = 0;
    nb::dlpack::dtype query_dtype_{};
};

// A ListSearcher and the arrays it looks into.
class BoundListSearcher {
  public:
    BoundListSearcher(const std::filesystem::path& path, const std::string& type, const std::string& metric, size_t dim,
                      const In2<float>& centroids, const In2<uint32_t>& neighbours, const In1<uint64_t>& offsets,
                      const In1<uint32_t>& entries, const std::string& io)
        : centroids_(centroids),
          neighbours_(neighbours),
          offsets_(offsets),
          entries_(entries),
          scorer_{parse_type(type), parse_metric(metric), dim} {
        const size_t lists = centroids.shape(0);
        require(neighbours.shape(0) == lists && offsets.shape(0) == lists && entries.shape(0) == lists,
                "centroids, graph, offsets and entries differ in length");
        const Graph graph{centroids.data(), neighbours.data(), lists, centroids.shape(1), neighbours.shape(1)};
        const nb::gil_scoped_release release;
        searcher_ =
            std::make_unique<ListSearcher>(ListView{scorer_, graph, offsets.data(), entries.data()}, path.string(), io);
    }

    std::string backend() const { return searcher_->backend(); }

    nb::tuple route(const In2<float>& space, size_t probes, size_t threads) const {
        const size_t most = std::min(probes, searcher_->lists());
        return routes(space, centroids_.shape(1), most,
                      [&](Route* found) { searcher_->route(space.data(), space.shape(0), most, threads, found); });
    }

    nb::tuple search(const Rows& queries, const In2<uint32_t>& lists, size_t k, size_t threads) const {
        const size_t count = queries.shape(0), probes = lists.shape(1);
        require(queries.shape(1) == scorer_.dim && queries.dtype() == query_dtype_of(scorer_.type) &&
                    lists.shape(0) == count,
                "queries and lists do not fit each other");
        Out<float, 2> distances({count, k});
        Out<int64_t, 2> ids({count, k});
        Out<uint32_t, 2> stats({count, 3});
        static_assert(sizeof(ListStats) == 12);
        {
            const nb::gil_scoped_release release;
            searcher_->search(static_cast<const std::byte*>(queries.data()), count, lists.data(), probes, k, threads,
                              distances.data, ids.data, reinterpret_cast<ListStats*>(stats.data), SignalCheck());
        }
        return nb::make_tuple(distances.array, ids.array, stats.array);
    }

  private:
    In2<float> centroids_;
    In2<uint32_t> neighbours_;
    In1<uint64_t> offsets_;
    In1<uint32_t> entries_;
    Scorer scorer_;
    std::unique_ptr<ListSearcher> searcher_;
};

}  // namespace

void bind_searchers(nb::module_& m) {
    nb::class_<BoundSearcher>(m, "Searcher")
        .def(nb::init<const nb::dict&, const nb::dict&, const std::filesystem::path&, const std::string&,
                      const std::string&, const std::string&, size_t>(),
             "arrays"_a, "numbers"_a, "path"_a, "dtype"_a, "metric"_a, "io"_a, "cache_bytes"_a)
        .def_prop_ro("backend", &BoundSearcher::backend)
        .def_prop_ro("memory_bytes", &BoundSearcher::memory_bytes)
        .def("search", &BoundSearcher::search, "exact"_a, "space"_a, "base"_a, "slope"_a, "k"_a, "probes"_a, "margin"_a,
             "candidates"_a, "z"_a, "rule"_a, "score_whole_pages"_a, "threads"_a, "allowed"_a = nb::none(),
             "meanwhile"_a = nb::none())
        .def("scan", &BoundSearcher::scan, "space"_a, "probes"_a, "candidates"_a, "threads"_a)
        .def("rerank", &BoundSearcher::rerank, "exact"_a, "space"_a, "base"_a, "slope"_a, "positions"_a, "estimates"_a,
             "errors"_a, "k"_a, "z"_a, "rule"_a, "score_whole_pages"_a, "threads"_a)
        .def("route", &BoundSearcher::route, "space"_a, "probes"_a, "threads"_a, "margin"_a = INFINITY, "rows"_a = 0)
        .def("itinerary", &BoundSearcher::itinerary, "space"_a, "probes"_a, "threads"_a, "margin"_a = INFINITY,
             "rows"_a = 0)
        .def("estimate", &BoundSearcher::estimate, "space"_a, "positions"_a, "threads"_a = 1);
    nb::class_<BoundListSearcher>(m, "ListSearcher")
        .def(nb::init<const std::filesystem::path&, const std::string&, const std::string&, size_t, const In2<float>&,
                      const In2<uint32_t>&, const In1<uint64_t>&, const In1<uint32_t>&, const std::string&>(),
             "path"_a, "dtype"_a, "metric"_a, "dim"_a, "centroids"_a, "neighbours"_a, "offsets"_a, "entries"_a, "io"_a)
        .def_prop_ro("backend", &BoundListSearcher::backend)
        .def("route", &BoundListSearcher::route, "space"_a, "probes"_a, "threads"_a)
        .def("search", &BoundListSearcher::search, "queries"_a, "lists"_a, "k"_a, "threads"_a);
}

}  // namespace tenfold
