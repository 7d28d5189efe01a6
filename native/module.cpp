// The Python face of the native core: arrays in, arrays out, the GIL released while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "arranging.h"
#include "baselines.h"
#include "buffer.h"
#include "checksum.h"
#include "clustering.h"
#include "errors.h"
#include "exact.h"
#include "graph.h"
#include "kernels.h"
#include "machine.h"
#include "parallel.h"
#include "quantizer.h"
#include "search.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tenfold {
namespace {

template <typename T>
using In1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In3 = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A NumPy array of our own, filled by the caller.
template <typename T, size_t Dims>
struct Out {
    using Array = nb::ndarray<nb::numpy, T, nb::ndim<Dims>>;
    T* data;
    Array array;

    explicit Out(std::array<size_t, Dims> shape) {
        size_t size = 1;
        for (size_t extent : shape) size *= extent;
        auto buffer = std::make_unique<Buffer<T>>(size);
        data = buffer->data();
        nb::capsule owner(buffer.get(), [](void* memory) noexcept { delete static_cast<Buffer<T>*>(memory); });
        buffer.release();
        array = Array(data, Dims, shape.data(), owner);
    }
};

// One bit per row, the lowest first; none: all rows.
using Bits = std::optional<In1<uint64_t>>;

void require(bool condition, const char* what) {
    if (!condition) throw InputError(what);
}

const uint64_t* bits_of(const Bits& bits, size_t rows) {
    require(!bits || bits->shape(0) == (rows + 63) / 64, "there is not one bit per row");
    return bits ? bits->data() : nullptr;
}

Metric parse_metric(const std::string& name) {
    if (name == "l2") return Metric::l2;
    if (name == "ip") return Metric::ip;
    if (name == "cosine") return Metric::cosine;
    throw InputError("metric '" + name + "' is not known; choose l2, ip or cosine");
}

Type parse_type(const std::string& name) {
    if (name == "float32") return Type::f32;
    if (name == "float16") return Type::f16;
    if (name == "uint8") return Type::u8;
    if (name == "int8") return Type::i8;
    throw InputError("dtype '" + name + "' is not supported; choose float32, float16, uint8 or int8");
}

// Of stored rows; those of queries differ for float16.
nb::dlpack::dtype dtype_of(Type type) {
    if (type == Type::f32) return nb::dtype<float>();
    if (type == Type::f16) return {uint8_t(nb::dlpack::dtype_code::Float), 16, 1};
    return type == Type::u8 ? nb::dtype<uint8_t>() : nb::dtype<int8_t>();
}
nb::dlpack::dtype query_dtype_of(Type type) { return dtype_of(type == Type::f16 ? Type::f32 : type); }

uint32_t checksum(const Bytes& data, uint32_t start) {
    const nb::gil_scoped_release release;
    return crc32c(data.data(), data.size(), start);
}

Out<uint32_t, 1>::Array page_checksums(const Bytes& data, size_t page_bytes, size_t threads) {
    require(page_bytes > 0 && data.size() % page_bytes == 0, "page_checksums: data is not a whole number of pages");
    const size_t pages = data.size() / page_bytes;
    Out<uint32_t, 1> out({pages});
    const nb::gil_scoped_release release;
    parallel_for(pages, 64, threads, [&](size_t first, size_t last, size_t) {
        for (size_t page = first; page < last; ++page)
            out.data[page] = crc32c(data.data() + page * page_bytes, page_bytes);
    });
    return out.array;
}

Out<float, 2>::Array empty_rows(size_t count, size_t dim) { return Out<float, 2>({count, dim}).array; }

Out<float, 2>::Array turn_rows(const In2<float>& rows, const In2<float>& axes, size_t threads) {
    const size_t count = rows.shape(0), dim = rows.shape(1);
    require(axes.shape(0) == dim && axes.shape(1) == dim, "turn: the matrix does not fit the rows");
    Out<float, 2> out({count, dim});
    const nb::gil_scoped_release release;
    parallel_for(count, 64, threads, [&](size_t first, size_t last, size_t) {
        kernels().turn(rows.data() + first * dim, last - first, axes.data(), dim, out.data + first * dim);
    });
    return out.array;
}

void exact(const Rows& rows, const std::string& type, const std::string& metric, const Rows& queries, int64_t first_id,
           nb::ndarray<float, nb::ndim<2>, nb::c_contig> distances, nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig> ids,
           size_t threads, const std::optional<In1<int64_t>>& row_ids, const Bits& allowed) {
    const Scorer scorer{parse_type(type), parse_metric(metric), rows.shape(1)};
    require(rows.dtype() == dtype_of(scorer.type) && queries.dtype() == query_dtype_of(scorer.type) &&
                queries.shape(1) == rows.shape(1) && distances.shape(0) == queries.shape(0) &&
                ids.shape(0) == queries.shape(0) && ids.shape(1) == distances.shape(1) &&
                (!row_ids || row_ids->shape(0) == rows.shape(0)),
            "exact: the arrays' shapes or types do not fit each other");
    const ExactRows among{rows.data(), rows.shape(0), first_id, row_ids ? row_ids->data() : nullptr,
                          bits_of(allowed, rows.shape(0))};
    const nb::gil_scoped_release release;
    search_exact(scorer, among, queries.data(), queries.shape(0), ids.shape(1), threads, distances.data(), ids.data());
}

void merge(nb::ndarray<float, nb::ndim<2>, nb::c_contig> distances, nb::ndarray<int64_t, nb::ndim<2>, nb::c_contig> ids,
           const In2<float>& found, const In2<int64_t>& labels, const In1<int64_t>& names, size_t threads) {
    require(distances.shape(0) == ids.shape(0) && distances.shape(1) == ids.shape(1) &&
                found.shape(0) == ids.shape(0) && labels.shape(0) == ids.shape(0) && labels.shape(1) == found.shape(1),
            "merge: the arrays' shapes do not fit each other");
    const Found part{found.data(), labels.data(), labels.shape(1), names.data(), names.shape(0)};
    const nb::gil_scoped_release release;
    merge_found(part, ids.shape(0), ids.shape(1), threads, distances.data(), ids.data());
}

Out<uint32_t, 2>::Array make_graph(const In2<float>& points, size_t degree, size_t width, size_t threads) {
    Out<uint32_t, 2> out({points.shape(0), degree});
    const nb::gil_scoped_release release;
    const auto built = build_graph(points.data(), points.shape(0), points.shape(1), degree, width, threads);
    std::copy(built.begin(), built.end(), out.data);
    return out.array;
}

Out<uint32_t, 2>::Array nearest_points(const In2<float>& points, const In2<uint32_t>& neighbours, size_t width,
                                       size_t threads) {
    const size_t count = points.shape(0), dim = points.shape(1);
    require(neighbours.shape(0) == count, "nearest_points: points and graph differ in length");
    Out<uint32_t, 2> out({count, width});
    const nb::gil_scoped_release release;
    const Graph graph{points.data(), neighbours.data(), count, dim, neighbours.shape(1)};
    const std::vector<uint32_t> entries = entry_points(count);
    parallel_for(count, 16, threads, [&](size_t first, size_t last, size_t) {
        Visited visited;
        std::vector<Near> found;
        for (size_t i = first; i < last; ++i) {
            const float* point = points.data() + i * dim;
            if (count <= 4 * width)
                search_all(graph.points, count, dim, point, width + 1, found);
            else
                search_graph(graph, point, width + width / 2, entries, visited, found);
            std::erase_if(found, [&](const Near& near) { return near.id == i; });
            for (size_t j = 0; j < width; ++j) out.data[i * width + j] = j < found.size() ? found[j].id : kNone;
        }
    });
    return out.array;
}

Lists make_lists(const In2<float>& centroids, const In2<uint32_t>& neighbours) {
    require(neighbours.shape(0) == centroids.shape(0), "centroids and neighbours differ in length");
    return {centroids.data(), neighbours.data(), centroids.shape(0), centroids.shape(1), neighbours.shape(1)};
}

Out<uint32_t, 1>::Array assign_rows(const In2<float>& rows, const In2<float>& nodes, const In1<uint32_t>& begin,
                                    const In1<uint32_t>& end, const In1<uint32_t>& list, const In2<float>& centroids,
                                    const In2<uint32_t>& neighbours, size_t threads) {
    require(nodes.shape(0) == begin.shape(0) && nodes.shape(0) == end.shape(0) && nodes.shape(0) == list.shape(0) &&
                nodes.shape(1) == rows.shape(1) && centroids.shape(1) == rows.shape(1),
            "assign: the arrays' shapes do not fit each other");
    Out<uint32_t, 1> out({rows.shape(0)});
    const Tree tree{nodes.data(), begin.data(), end.data(), list.data(), nodes.shape(0), nodes.shape(1)};
    const Lists lists = make_lists(centroids, neighbours);
    const nb::gil_scoped_release release;
    assign(tree, lists, rows.data(), rows.shape(0), threads, out.data);
    return out.array;
}

Out<uint32_t, 1>::Array relist_rows(const In2<float>& rows, const In1<uint32_t>& before, const In1<uint32_t>& begin,
                                    const In1<uint32_t>& end, const In2<float>& former, const In1<uint8_t>& dissolved,
                                    const In2<float>& centroids, const In2<uint32_t>& neighbours,
                                    const In1<uint8_t>& fresh, size_t threads) {
    const Lists lists = make_lists(centroids, neighbours);
    const size_t count = former.shape(0);
    require(before.shape(0) == rows.shape(0) && rows.shape(1) == lists.dim && former.shape(1) == lists.dim &&
                begin.shape(0) == count && end.shape(0) == count && dissolved.shape(0) == count &&
                fresh.shape(0) == lists.count,
            "relist: the arrays' shapes do not fit each other");
    for (size_t list = 0; list < count; ++list)
        require(begin.data()[list] < end.data()[list] && end.data()[list] <= lists.count,
                "relist: a list has no successor");
    for (size_t i = 0; i < before.shape(0); ++i) require(before.data()[i] < count, "relist: no such list");
    Out<uint32_t, 1> out({rows.shape(0)});
    std::copy(before.data(), before.data() + before.shape(0), out.data);
    const nb::gil_scoped_release release;
    const Succession change{begin.data(), end.data(), former.data(), dissolved.data(), fresh.data()};
    relist(change, lists, rows.data(), rows.shape(0), threads, out.data);
    return out.array;
}

Out<uint32_t, 2>::Array replicate_rows(const In2<float>& rows, const In1<uint32_t>& primary,
                                       const In2<float>& centroids, const In2<uint32_t>& neighbours, size_t most,
                                       float epsilon, float spacing, size_t threads) {
    require(primary.shape(0) == rows.shape(0) && centroids.shape(1) == rows.shape(1),
            "replicate: the arrays' shapes do not fit each other");
    Out<uint32_t, 2> out({rows.shape(0), most});
    const Lists lists = make_lists(centroids, neighbours);
    const nb::gil_scoped_release release;
    replicate(lists, rows.data(), primary.data(), rows.shape(0), most, epsilon, spacing, threads, out.data);
    return out.array;
}

Out<uint32_t, 1>::Array second_of_rows(const In2<float>& rows, const In1<uint32_t>& primary,
                                       const In2<float>& centroids, const In2<uint32_t>& neighbours, size_t threads) {
    require(primary.shape(0) == rows.shape(0) && centroids.shape(1) == rows.shape(1) &&
                neighbours.shape(0) == centroids.shape(0),
            "second_lists: the arrays' shapes do not fit each other");
    Out<uint32_t, 1> out({rows.shape(0)});
    const Graph graph{centroids.data(), neighbours.data(), centroids.shape(0), centroids.shape(1), neighbours.shape(1)};
    const nb::gil_scoped_release release;
    second_lists(graph, rows.data(), primary.data(), rows.shape(0), threads, out.data);
    return out.array;
}

Out<uint32_t, 1>::Array arrange_rows(const In2<float>& rows, const In1<uint32_t>& list, uint64_t position,
                                     size_t rows_per_page, size_t threads) {
    require(list.shape(0) == rows.shape(0) && rows_per_page > 0, "arrange: the arrays' shapes do not fit each other");
    Out<uint32_t, 1> out({rows.shape(0)});
    const nb::gil_scoped_release release;
    arrange(rows.data(), list.data(), rows.shape(0), rows.shape(1), position, rows_per_page, threads, out.data);
    return out.array;
}

Out<float, 3>::Array train(const In2<float>& residuals, size_t subs, size_t iterations, size_t threads) {
    const size_t dim = residuals.shape(1);
    Out<float, 3> out({subs, 16, Codec{dim, subs, 0, nullptr}.sub_dim()});
    const nb::gil_scoped_release release;
    train_pq(residuals.data(), residuals.shape(0), dim, subs, iterations, threads, out.data);
    return out.array;
}

Codec make_codec(size_t dim, size_t bits, const In3<float>& codebook) {
    const Codec codec{dim, bits ? (dim + 7) / 8 * 2 * bits : codebook.shape(0), bits, codebook.data()};
    require(codec.subs >= 2 && codec.subs % 2 == 0,
            "codebook.bin: a codec has an even number of sub-quantisers; the index is damaged");
    require(bits <= 4 && (bits > 0 || (codebook.shape(1) == 16 && codebook.shape(2) == codec.sub_dim())),
            "codebook.bin: its shape does not fit the dimension; the index is damaged");
    return codec;
}

nb::tuple encode_rows(const In2<float>& rows, const In1<uint32_t>& list, const In2<float>& centroids, size_t bits,
                      const In3<float>& codebook, size_t threads) {
    require(list.shape(0) == rows.shape(0) && centroids.shape(1) == rows.shape(1),
            "encode: the arrays' shapes do not fit each other");
    const Codec codec = make_codec(rows.shape(1), bits, codebook);
    Out<uint8_t, 2> codes({rows.shape(0), codec.subs});
    Out<float, 2> terms({rows.shape(0), 4});
    static_assert(sizeof(CodeTerms) == 16);
    {
        const nb::gil_scoped_release release;
        encode(codec, rows.data(), list.data(), centroids.data(), rows.shape(0), threads, codes.data,
               reinterpret_cast<CodeTerms*>(terms.data));
    }
    return nb::make_tuple(codes.array, terms.array);
}

struct Interrupted {};

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

void set_input_error(const std::string& what) {
    const nb::object type = nb::module_::import_("tenfold.core.errors").attr("InputError");
    // As Python decodes the names of files, which it quotes.
    const nb::object text = nb::steal(PyUnicode_DecodeFSDefaultAndSize(what.data(), Py_ssize_t(what.size())));
    if (text.is_valid()) PyErr_SetObject(type.ptr(), text.ptr());
}

void translate(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const InputError& error) {
        set_input_error(error.what());
    } catch (const Interrupted&) {  // Python's error is set
    } catch (const std::system_error& error) {
        set_input_error(std::string(error.what()) + ": refused by the system; try io='direct'");
    }
}

}  // namespace
}  // namespace tenfold

NB_MODULE(_native, m) {
    using namespace tenfold;
    m.doc() = "Native core of tenfold.search.";
    nb::register_exception_translator(translate);
    m.def("simd_level", [] { return std::string(kernels().name); });
    m.def("simd_levels", &supported_levels);
    m.def("use_simd_level", &use_level, "name"_a);
    m.def("probe_io_uring", &probe_io_uring);
    m.def("usable_cores", &usable_cores);
    m.def("release_memory", &release_memory);
    m.def("crc32c", &checksum, "data"_a, "start"_a = 0);
    m.def("page_checksums", &page_checksums, "data"_a, "page_bytes"_a, "threads"_a = 1);
    m.def("empty_rows", &empty_rows, "count"_a, "dim"_a);
    m.def("turn", &turn_rows, "rows"_a, "axes"_a, "threads"_a = 1);
    // What is written to must not be converted: the results would be in a copy.
    m.def("exact", &exact, "rows"_a, "dtype"_a, "metric"_a, "queries"_a, "first_id"_a, "distances"_a.noconvert(),
          "ids"_a.noconvert(), "threads"_a = 1, "row_ids"_a = nb::none(), "allowed"_a = nb::none());
    m.def("merge", &merge, "distances"_a.noconvert(), "ids"_a.noconvert(), "found"_a, "labels"_a, "names"_a,
          "threads"_a = 1);
    m.def("make_graph", &make_graph, "points"_a, "degree"_a, "width"_a, "threads"_a = 1);
    m.def("nearest_points", &nearest_points, "points"_a, "neighbours"_a, "width"_a, "threads"_a = 1);
    m.def("assign", &assign_rows, "rows"_a, "nodes"_a, "begin"_a, "end"_a, "list"_a, "centroids"_a, "neighbours"_a,
          "threads"_a = 1);
    m.def("relist", &relist_rows, "rows"_a, "before"_a, "begin"_a, "end"_a, "former"_a, "dissolved"_a, "centroids"_a,
          "neighbours"_a, "fresh"_a, "threads"_a = 1);
    m.def("replicate", &replicate_rows, "rows"_a, "primary"_a, "centroids"_a, "neighbours"_a, "most"_a, "epsilon"_a,
          "spacing"_a, "threads"_a = 1);
    m.def("second_lists", &second_of_rows, "rows"_a, "primary"_a, "centroids"_a, "neighbours"_a, "threads"_a = 1);
    m.def("arrange", &arrange_rows, "rows"_a, "list"_a, "position"_a, "rows_per_page"_a, "threads"_a = 1);
    m.def("train_pq", &train, "residuals"_a, "subs"_a, "iterations"_a, "threads"_a = 1);
    m.def("encode", &encode_rows, "rows"_a, "list"_a, "centroids"_a, "bits"_a, "codebook"_a, "threads"_a = 1);
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
