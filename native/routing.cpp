#include "routing.h"

#include <algorithm>
#include <cmath>

namespace tenfold {
namespace {

constexpr size_t kMostCompared = 1 << 15;  // centroids; with more of them the graph is faster
constexpr size_t kFew = 1024;              // with fewer than these the graph is slower than looking at all
constexpr size_t kTileRows = 256;          // of bytes that stay in the nearest cache while a group of queries passes
constexpr double kMostNoise = 0.15;        // parts of the squared distance of neighbours
constexpr int kQueryTop = 63, kQueryZero = 64, kRowTop = 127;

size_t quads(size_t dim) { return (dim + 3) / 4; }

float largest(const float* values, size_t count) {
    float most = 0;
    for (size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
    return most > 0 ? most : 1;
}

bool nearer_route(const Route& a, const Route& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.list < b.list;
}

// More than wanted: the order by bytes, or of the graph, is not quite the order by distance.
size_t generous(size_t probes) { return probes + std::max<size_t>(16, probes / 8); }

void keep_best(std::vector<Route>& routes, size_t width) {
    if (routes.size() <= width) return;
    std::nth_element(routes.begin(), routes.begin() + std::ptrdiff_t(width - 1), routes.end(),
                     [](const Route& a, const Route& b) { return a.distance < b.distance; });
    routes.resize(width);
}

// Squared distance between neighbouring centroids: the median of some.
float spacing(const Graph& graph) {
    std::vector<float> nearest;
    const size_t stride = std::max<size_t>(1, graph.count / 512);
    for (size_t row = 0; row < graph.count; row += stride) {
        float distance = INFINITY;
        for (size_t j = 0; j < graph.degree; ++j) {
            const uint32_t other = graph.neighbours[row * graph.degree + j];
            if (other >= graph.count) break;
            const float* points = graph.points;
            distance =
                std::min(distance, kernels().l2_f32(points + row * graph.dim, points + other * graph.dim, graph.dim));
        }
        nearest.push_back(distance);
    }
    const auto middle = nearest.begin() + std::ptrdiff_t(nearest.size() / 2);
    std::nth_element(nearest.begin(), middle, nearest.end());
    return *middle;
}

}  // namespace

Router::Router(const Graph& graph) : graph_(graph), entries_(entry_points(graph.count)) {
    if (graph.count == 0 || graph.count > kMostCompared) return;
    step_ = largest(graph.points, graph.count * graph.dim) / kRowTop;
    if (!bytes_suffice()) return;
    const size_t width = quads(graph.dim) * 4;
    const size_t rows = (graph.count + kRoutedRows - 1) / kRoutedRows * kRoutedRows;
    blocks_.resize(rows * width);
    norms_.resize(rows, INFINITY);
    sums_.resize(rows);
    for (size_t row = 0; row < graph.count; ++row) {
        const float* point = graph.points + row * graph.dim;
        int8_t* block = &blocks_[row / kRoutedRows * kRoutedRows * width];
        for (size_t i = 0; i < graph.dim; ++i) {
            const auto value = int8_t(std::lround(point[i] / step_));
            block[(i / 4 * kRoutedRows + row % kRoutedRows) * 4 + i % 4] = value;
            sums_[row] += kQueryZero * value;
        }
        norms_[row] = kernels().dot_f32(point, point, graph.dim);
    }
}

// Rounding must not mix up neighbours, as it does with few dimensions or where a few values are much larger than all
// others. It changes 2 <q, c> by about 2 |c| step / sqrt(12), with a query's step as that of a value of its length.
bool Router::bytes_suffice() const {
    double squares = 0;
    for (size_t row = 0; row < graph_.count; ++row) {
        const float* point = graph_.points + row * graph_.dim;
        squares += kernels().dot_f32(point, point, graph_.dim);
    }
    const double length = std::sqrt(squares / double(graph_.count)), query_step = step_ * kRowTop / kQueryTop;
    return 2 * length * query_step / std::sqrt(12.0) < kMostNoise * spacing(graph_);
}

// The `width` nearest by bytes: |c|^2 - 2 <q, c> with rounded q and c, which is the distance less |q|^2.
void Router::compare_all(const float* queries, size_t count, size_t width, std::vector<Route>* found) const {
    const size_t dim = graph_.dim, row_bytes = quads(dim) * 4;
    std::vector<uint8_t> bytes(count * row_bytes, kQueryZero);
    float scales[kGroup], limits[kGroup];
    for (size_t q = 0; q < count; ++q) {
        const float* query = queries + q * dim;
        const float step = largest(query, dim) / kQueryTop;
        for (size_t i = 0; i < dim; ++i) bytes[q * row_bytes + i] = uint8_t(std::lround(query[i] / step) + kQueryZero);
        scales[q] = 2 * step * step_;
        limits[q] = INFINITY;
        found[q].clear();
    }
    Route routes[kTileRows];
    for (size_t first = 0; first < norms_.size(); first += kTileRows) {
        const ByteRows rows{&blocks_[first * row_bytes], &norms_[first], &sums_[first]};
        const size_t blocks = std::min(kTileRows, norms_.size() - first) / kRoutedRows;
        for (size_t q = 0; q < count; ++q) {
            const ByteQuery query{&bytes[q * row_bytes], quads(dim), scales[q]};
            const size_t near = kernels().compare_bytes(query, rows, blocks, limits[q], routes);
            for (size_t i = 0; i < near; ++i)
                found[q].push_back({routes[i].distance, uint32_t(first) + routes[i].list});
            if (found[q].size() > 2 * width) {
                keep_best(found[q], width);
                limits[q] = found[q][width - 1].distance;
            }
        }
    }
    for (size_t q = 0; q < count; ++q) keep_best(found[q], width);
}

void Router::route(const float* queries, size_t count, size_t probes, Route* routes) const {
    const size_t dim = graph_.dim, width = generous(probes);
    static thread_local std::vector<Route> found[kGroup];
    static thread_local std::vector<Near> nearest;
    static thread_local std::vector<uint32_t> ids;
    static thread_local std::vector<float> distances;
    static thread_local Visited visited;
    const bool by_bytes = !blocks_.empty() && 2 * width < graph_.count;
    if (by_bytes) compare_all(queries, count, width, found);
    for (size_t q = 0; q < count; ++q) {
        const float* query = queries + q * dim;
        std::vector<Route>& here = found[q];
        if (by_bytes) {
            ids.clear();
            for (const Route& route : here) ids.push_back(route.list);
            distances.resize(ids.size());
            kernels().l2_many(query, graph_.points, ids.data(), ids.size(), dim, distances.data());
            for (size_t i = 0; i < here.size(); ++i) here[i].distance = distances[i];
        } else {
            if (blocks_.empty() && graph_.count > kFew && probes <= graph_.count / 8)
                search_graph(graph_, query, width, entries_, visited, nearest);
            else
                search_all(graph_.points, graph_.count, dim, query, probes, nearest);
            here.clear();
            for (const Near& near : nearest) here.push_back({near.distance, near.id});
        }
        std::sort(here.begin(), here.end(), nearer_route);
        here.resize(probes, {INFINITY, kNone});
        std::copy(here.begin(), here.end(), routes + q * probes);
    }
}

}  // namespace tenfold
