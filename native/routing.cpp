#include "routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tenfold {
namespace {

constexpr size_t kMostCompared = 1 << 15;  // centroids; with more of them the graph is faster
constexpr size_t kFew = 1024;              // with fewer than these the graph is slower than looking at all
constexpr size_t kTileRows = 128;          // of bytes that stay in the nearest cache while a group of queries passes
constexpr size_t kSample = 256;
constexpr double kMostNoise = 0.15;  // parts of the squared distance of neighbours
constexpr double kCloser = 0.2;
constexpr size_t kUsual = 2;  // with a margin, most queries want less than half of the lists
constexpr int kQueryTop = 63, kQueryZero = 64, kRowTop = 127;

size_t quads(size_t dim) { return (dim + 3) / 4; }

float largest(const float* values, size_t count) {
    float most = 0;
    for (size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
    return most > 0 ? most : 1;
}

// The nearest whole number from -top to top, as lround has it: what a damaged file makes of a query may be infinite, or
// no number. With the float below 1/2 the sum of no number below a half is rounded up to the next whole one.
inline int whole_number(float value, int top) {
    const float within = std::max(float(-top), std::min(value, float(top)));
    return int(within + std::copysign(0x1.fffffep-2f, within));
}

bool nearer_route(const Route& a, const Route& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.list < b.list;
}

// More than wanted: the order by bytes, or of the graph, is not quite the order by distance.
size_t generous(size_t probes) { return probes + std::max<size_t>(16, probes / 8); }

void keep_best(std::vector<Route>& routes, size_t width) {
    if (routes.size() <= width) return;
    // The one of rank `width` comes last of those kept.
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
    for (size_t rank = 1; rank <= graph.count; ++rank) closer_.push_back(float(std::pow(double(rank), -kCloser)));
    if (graph.count == 0 || graph.count > kMostCompared) return;
    step_ = largest(graph.points, graph.count * graph.dim) / kRowTop;
    if (!bytes_suffice()) return;
    std::vector<uint32_t> ids(graph.count), sample;
    std::iota(ids.begin(), ids.end(), 0);
    for (size_t i = 0; i < kSample; ++i) sample.push_back(uint32_t(i * graph.count / kSample));
    all_ = pack(ids);
    some_ = pack(sample);
}

Router::Packed Router::pack(const std::vector<uint32_t>& ids) const {
    const size_t row_bytes = quads(graph_.dim) * 4;
    const size_t rows = (ids.size() + kRoutedRows - 1) / kRoutedRows * kRoutedRows;
    Packed packed{std::vector<int8_t>(rows * row_bytes), std::vector<float>(rows, INFINITY),
                  std::vector<int32_t>(rows)};
    for (size_t row = 0; row < ids.size(); ++row) {
        const float* point = graph_.points + ids[row] * graph_.dim;
        int8_t* block = &packed.blocks[row / kRoutedRows * kRoutedRows * row_bytes];
        for (size_t i = 0; i < graph_.dim; ++i) {
            const auto value = int8_t(whole_number(point[i] / step_, kRowTop));
            block[(i / 4 * kRoutedRows + row % kRoutedRows) * 4 + i % 4] = value;
            packed.sums[row] += kQueryZero * value;
        }
        packed.norms[row] = kernels().dot_f32(point, point, graph_.dim);
    }
    return packed;
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

// Appends the rows of a tile whose distance is below the limit.
void Router::compare(const ByteQuery& query, const Packed& packed, size_t first, float limit,
                     std::vector<Route>& found) const {
    Route routes[kTileRows];
    const size_t blocks = std::min(kTileRows, packed.norms.size() - first) / kRoutedRows;
    const ByteRows rows{&packed.blocks[first * query.quads * 4], &packed.norms[first], &packed.sums[first]};
    const size_t near = kernels().compare_bytes(query, rows, blocks, limit, routes);
    for (size_t i = 0; i < near; ++i) found.push_back({routes[i].distance, uint32_t(first) + routes[i].list});
}

// A distance that somewhat more than `width` centroids are below, judged by the sample.
float Router::first_limit(const ByteQuery& query, size_t width) const {
    static thread_local std::vector<Route> near;
    const size_t rank = 2 * width * kSample / graph_.count + 3;
    if (rank >= kSample) return INFINITY;
    near.clear();
    for (size_t first = 0; first < kSample; first += kTileRows) compare(query, some_, first, INFINITY, near);
    if (near.size() < rank) return INFINITY;  // the others are infinitely far, or at no distance that is a number
    keep_best(near, rank);
    return near[rank - 1].distance;
}

// How many of the routes, which ascend, are within the margin.
size_t Router::within(float margin, const std::vector<Route>& routes) const {
    if (routes.size() < 2 || std::isinf(margin)) return routes.size();
    const float nearest = routes[0].distance, second = routes[1].distance;
    if (second <= 0) return routes.size();  // the query is two centroids, which tells nothing about the others
    size_t count = 1;
    while (count < routes.size() && routes[count].distance - nearest <= margin * second * closer_[count]) ++count;
    return count;
}

// The distance up to which lists are within the margin, as by bytes; where more of them are beyond those given, more.
float Router::reach(float margin, float query_norm, size_t probes, const std::vector<Route>& found) const {
    float nearest = INFINITY, second = INFINITY;
    for (const Route& route : found) {
        second = std::min(second, std::max(nearest, route.distance));
        nearest = std::min(nearest, route.distance);
    }
    const float unit = margin * (second + query_norm);
    if (second + query_norm <= 0) return INFINITY;
    const auto up_to = [&](size_t count) { return nearest + unit * closer_[count - 1]; };
    const auto all_within = [&](size_t count) {
        const float most = up_to(count);
        size_t below = 0;
        for (const Route& route : found) below += route.distance <= most;
        return below >= count;
    };
    size_t least = 1, most = std::min(probes, found.size());  // the further, the less far
    while (least < most) {
        const size_t middle = (least + most + 1) / 2;
        all_within(middle) ? least = middle : most = middle - 1;
    }
    return up_to(least);
}

// The `width` nearest by bytes, and more: |c|^2 - 2 <q, c> with rounded q and c, which is the distance less |q|^2. With
// a margin those within it, the first `probes` among them.
void Router::compare_all(const float* queries, size_t count, size_t width, size_t probes, float margin,
                         std::vector<Route>* found) const {
    const size_t dim = graph_.dim, row_bytes = quads(dim) * 4;
    std::vector<uint8_t> bytes(count * row_bytes, kQueryZero);
    std::vector<ByteQuery> rounded;
    std::vector<float> limits;
    for (size_t q = 0; q < count; ++q) {
        const float* query = queries + q * dim;
        const float step = largest(query, dim) / kQueryTop;
        for (size_t i = 0; i < dim; ++i)
            bytes[q * row_bytes + i] = uint8_t(whole_number(query[i] / step, kQueryTop) + kQueryZero);
        rounded.push_back({&bytes[q * row_bytes], quads(dim), 2 * step * step_});
        limits.push_back(first_limit(rounded[q], width));
        found[q].clear();
    }
    const auto pass = [&](size_t q, size_t first) {
        compare(rounded[q], all_, first, limits[q], found[q]);
        if (found[q].size() <= 4 * width) return;
        keep_best(found[q], width);
        limits[q] = found[q][width - 1].distance;
    };
    for (size_t first = 0; first < graph_.count; first += kTileRows)
        for (size_t q = 0; q < count; ++q) pass(q, first);
    for (size_t q = 0; q < count; ++q) {
        if (found[q].size() < width) {  // the sample misled
            limits[q] = INFINITY;
            found[q].clear();
            for (size_t first = 0; first < graph_.count; first += kTileRows) pass(q, first);
        }
        if (std::isinf(margin)) continue;
        const float* query = queries + q * dim;
        const float norm = kernels().dot_f32(query, query, dim);
        float most = reach(margin, norm, probes, found[q]);
        if (most > limits[q]) {
            found[q].clear();
            for (size_t first = 0; first < graph_.count; first += kTileRows)
                compare(rounded[q], all_, first, most, found[q]);
            most = reach(margin, norm, probes, found[q]);
        }
        std::erase_if(found[q], [&](const Route& route) { return route.distance > most; });
    }
}

// The `width` nearest, ascending; with many lists about those.
void Router::compare_floats(const float* query, size_t width, std::vector<Route>& found) const {
    static thread_local std::vector<Near> nearest;
    static thread_local Visited visited;
    if (all_.blocks.empty() && graph_.count > kFew && width <= graph_.count / 8)
        search_graph(graph_, query, width, entries_, visited, nearest);
    else
        search_all(graph_.points, graph_.count, graph_.dim, query, width, nearest);
    found.clear();
    for (const Near& near : nearest) found.push_back({near.distance, near.id});
}

void Router::route(const float* queries, size_t count, size_t probes, float margin, Route* routes) const {
    const size_t dim = graph_.dim, width = generous(probes);
    const bool bounded = !std::isinf(margin);
    const size_t usual = bounded ? generous(std::max<size_t>(1, probes / kUsual)) : width;
    static thread_local std::vector<Route> found[kGroup];
    static thread_local std::vector<uint32_t> ids;
    static thread_local std::vector<float> distances;
    // Bytes only say which lists to compare with exactly: without a margin, as many as asked for.
    const bool by_bytes = !all_.blocks.empty() && (bounded ? usual : 2 * usual) < graph_.count;
    if (by_bytes) compare_all(queries, count, usual, probes, margin, found);
    for (size_t q = 0; q < count; ++q) {
        const float* query = queries + q * dim;
        std::vector<Route>& here = found[q];
        if (by_bytes) {
            keep_best(here, width);
            ids.clear();
            for (const Route& route : here) ids.push_back(route.list);
            distances.resize(ids.size());
            kernels().l2_many(query, graph_.points, ids.data(), ids.size(), dim, distances.data());
            for (size_t i = 0; i < here.size(); ++i) here[i].distance = distances[i];
        } else {
            compare_floats(query, usual, here);
            if (usual < width && within(margin, here) == here.size()) compare_floats(query, width, here);
        }
        std::sort(here.begin(), here.end(), nearer_route);
        here.resize(std::min(probes, here.size()));
        here.resize(within(margin, here));
        here.resize(probes, {INFINITY, kNone});
        std::copy(here.begin(), here.end(), routes + q * probes);
    }
}

}  // namespace tenfold
