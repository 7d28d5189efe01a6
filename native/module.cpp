// The Python face of the native core: arrays in, arrays out, the GIL released while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <system_error>
#include <vector>

#include "arranging.h"
#include "arrays.h"
#include "checksum.h"
#include "clustering.h"
#include "errors.h"
#include "exact.h"
#include "graph.h"
#include "kernels.h"
#include "machine.h"
#include "parallel.h"
#include "quantizer.h"
#include "searchers.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tenfold {
namespace {

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
    bind_searchers(m);
}
