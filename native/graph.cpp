#include "graph.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels.h"
#include "parallel.h"

namespace tenfold {
namespace {

constexpr float kAlphaSquared = 1.2f * 1.2f;  // Vamana's alpha, for squared distances

// Vamana's RobustPrune: nearest first, skipping what an already chosen neighbour is much closer to.
void prune(const float* points, size_t dim, size_t degree, std::vector<Near>& candidates, uint32_t node,
           uint32_t* chosen) {
    std::sort(candidates.begin(), candidates.end(), nearer);
    const auto l2 = kernels().l2_f32;
    size_t count = 0;
    for (size_t i = 0; i < candidates.size() && count < degree; ++i) {
        const Near& candidate = candidates[i];
        if (candidate.id == node || (i > 0 && candidates[i - 1].id == candidate.id)) continue;
        const float* point = points + candidate.id * dim;
        bool covered = false;
        for (size_t j = 0; j < count && !covered; ++j)
            covered = kAlphaSquared * l2(points + chosen[j] * dim, point, dim) < candidate.distance;
        if (!covered) chosen[count++] = candidate.id;
    }
    std::fill(chosen + count, chosen + degree, kNone);
}

struct Edge {
    uint32_t target, source;
    bool operator<(const Edge& other) const {
        return target != other.target ? target < other.target : source < other.source;
    }
};

// Adds `sources` to the neighbours of `target`, pruning when they no longer fit.
void link_back(const float* points, size_t dim, size_t degree, uint32_t target, const Edge* first, const Edge* last,
               uint32_t* list) {
    size_t count = std::find(list, list + degree, kNone) - list;
    if (count + (last - first) <= degree) {
        for (const Edge* edge = first; edge != last; ++edge)
            if (std::find(list, list + count, edge->source) == list + count) list[count++] = edge->source;
        return;
    }
    const auto l2 = kernels().l2_f32;
    std::vector<Near> candidates;
    const auto add = [&](uint32_t id) {
        candidates.push_back({l2(points + target * dim, points + id * dim, dim), id, false});
    };
    std::for_each(list, list + count, add);
    for (const Edge* edge = first; edge != last; ++edge) add(edge->source);
    prune(points, dim, degree, candidates, target, list);
}

std::vector<uint32_t> shuffled(size_t count) {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    uint64_t state = 0x9E3779B97F4A7C15;  // xorshift: the same order on every platform
    for (size_t i = count; i > 1; --i) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::swap(order[i - 1], order[state % i]);
    }
    return order;
}

}  // namespace

std::vector<uint32_t> entry_points(size_t count) {
    std::vector<uint32_t> entries;
    const size_t step = std::max<size_t>(1, size_t(std::sqrt(double(count))));
    for (size_t id = 0; id < count; id += step) entries.push_back(uint32_t(id));
    return entries;
}

void search_all(const float* points, size_t count, size_t dim, const float* query, size_t width,
                std::vector<Near>& found) {
    found.resize(count);
    float distances[256];
    for (size_t first = 0; first < count; first += 256) {
        const size_t some = std::min<size_t>(256, count - first);
        kernels().l2_many(query, points + first * dim, nullptr, some, dim, distances);
        for (size_t i = 0; i < some; ++i) found[first + i] = {distances[i], uint32_t(first + i), false};
    }
    width = std::min(width, count);
    std::nth_element(found.begin(), found.begin() + (width ? width - 1 : 0), found.end(), nearer);
    found.resize(width);
    std::sort(found.begin(), found.end(), nearer);
}

void search_graph(const Graph& graph, const float* query, size_t width, const std::vector<uint32_t>& entries,
                  Visited& visited, std::vector<Near>& found) {
    visited.start(graph.count);
    found.clear();
    std::vector<float>& distances = visited.distances;
    std::vector<uint32_t>& fresh = visited.fresh;
    const auto measure = [&](const std::vector<uint32_t>& ids) {
        distances.resize(ids.size());
        kernels().l2_many(query, graph.points, ids.data(), ids.size(), graph.dim, distances.data());
    };
    measure(entries);
    Near best{INFINITY, kNone, false};
    for (size_t i = 0; i < entries.size(); ++i) {
        const Near here{distances[i], entries[i], false};
        if (best.id == kNone || nearer(here, best)) best = here;
    }
    if (best.id == kNone) return;
    visited.first_time(best.id);
    found.push_back(best);
    for (size_t at = 0; at < found.size();) {
        if (found[at].expanded) {
            ++at;
            continue;
        }
        found[at].expanded = true;
        size_t lowest = at + 1;
        const uint32_t* neighbours = graph.neighbours + size_t(found[at].id) * graph.degree;
        fresh.clear();
        for (size_t j = 0; j < graph.degree && neighbours[j] < graph.count; ++j)
            if (visited.first_time(neighbours[j])) fresh.push_back(neighbours[j]);
        measure(fresh);
        for (size_t j = 0; j < fresh.size(); ++j) {
            const Near here{distances[j], fresh[j], false};
            if (found.size() == width && !nearer(here, found.back())) continue;
            const auto place = std::upper_bound(found.begin(), found.end(), here, nearer);
            const size_t index = size_t(place - found.begin());
            lowest = std::min(lowest, index);
            if (found.size() == width) found.pop_back();
            found.insert(found.begin() + std::ptrdiff_t(index), here);
        }
        at = std::min(lowest, at + 1);
    }
}

std::vector<uint32_t> build_graph(const float* points, size_t count, size_t dim, size_t degree, size_t width,
                                  size_t threads) {
    std::vector<uint32_t> neighbours(count * degree, kNone);
    if (count == 0) return neighbours;
    const std::vector<uint32_t> order = shuffled(count);
    const std::vector<uint32_t> entries(order.begin(), order.begin() + entry_points(count).size());
    const Graph graph{points, neighbours.data(), count, dim, degree};
    std::vector<Visited> visited(std::max<size_t>(1, threads));
    std::vector<Edge> edges;
    // Batches: all members search the graph as it was before the batch, so threads don't change the outcome.
    for (size_t start = 1; start < count;) {
        const size_t stop = std::min(count, start + std::max<size_t>(1, std::min(start, count / 50 + 1)));
        parallel_for(stop - start, 16, threads, [&](size_t first, size_t last, size_t thread) {
            std::vector<Near> found;
            std::vector<uint32_t> known(entries.begin(), entries.begin() + std::min(start, entries.size()));
            for (size_t i = start + first; i < start + last; ++i) {
                search_graph(graph, points + order[i] * dim, width, known, visited[thread], found);
                prune(points, dim, degree, found, order[i], &neighbours[order[i] * degree]);
            }
        });
        edges.clear();
        for (size_t i = start; i < stop; ++i)
            for (size_t j = 0; j < degree && neighbours[order[i] * degree + j] != kNone; ++j)
                edges.push_back({neighbours[order[i] * degree + j], order[i]});
        std::sort(edges.begin(), edges.end());
        std::vector<size_t> groups;
        for (size_t i = 0; i < edges.size(); ++i)
            if (i == 0 || edges[i].target != edges[i - 1].target) groups.push_back(i);
        groups.push_back(edges.size());
        parallel_for(groups.size() - 1, 16, threads, [&](size_t first, size_t last, size_t) {
            for (size_t g = first; g < last; ++g) {
                const uint32_t target = edges[groups[g]].target;
                link_back(points, dim, degree, target, &edges[groups[g]], edges.data() + groups[g + 1],
                          &neighbours[target * degree]);
            }
        });
        start = stop;
    }
    return neighbours;
}

}  // namespace tenfold
