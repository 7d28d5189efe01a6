#include "clustering.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "errors.h"
#include "graph.h"
#include "kernels.h"
#include "parallel.h"

namespace tenfold {
namespace {

constexpr size_t kBeam = 12;  // with 2 every twentieth row of text misses its nearest list, with 8 one in 300
constexpr size_t kGrain = 64;
constexpr size_t kSecondWidth = 64;  // lists that a second one is chosen from

struct Scratch {
    std::vector<Near> frontier, next;
    std::vector<float> distances;
};

// The leaf list a beam search down the tree ends in.
Near descend(const Tree& tree, const float* row, Scratch& scratch) {
    auto& [frontier, next, distances] = scratch;
    if (tree.child_begin[0] == tree.child_end[0]) return {INFINITY, tree.list[0], false};  // one list only
    Near best{INFINITY, kNone, false};
    frontier.assign(1, {0.0f, 0, false});
    while (!frontier.empty()) {
        next.clear();
        for (const Near& node : frontier) {
            const uint32_t begin = tree.child_begin[node.id], end = tree.child_end[node.id];
            distances.resize(end - begin);
            kernels().l2_many(row, tree.points + begin * tree.dim, nullptr, end - begin, tree.dim, distances.data());
            for (uint32_t child = begin; child < end; ++child) {
                const float distance = distances[child - begin];
                if (tree.child_begin[child] < tree.child_end[child])
                    next.push_back({distance, child, false});
                else if (best.id == kNone || nearer({distance, tree.list[child], false}, best))
                    best = {distance, tree.list[child], false};
            }
        }
        const size_t keep = std::min(kBeam, next.size());
        std::partial_sort(next.begin(), next.begin() + keep, next.end(), nearer);
        next.resize(keep);
        frontier.swap(next);
    }
    return best;
}

// Distances of a row to the neighbours of a list; how many there are.
size_t distances_around(const Lists& lists, const float* row, uint32_t list, std::vector<float>& distances) {
    const uint32_t* neighbours = lists.neighbours + list * lists.width;
    const size_t count = size_t(std::find(neighbours, neighbours + lists.width, kNone) - neighbours);
    distances.resize(count);
    kernels().l2_many(row, lists.centroids, neighbours, count, lists.dim, distances.data());
    return count;
}

Near walk(const Lists& lists, const float* row, Near best, std::vector<float>& distances) {
    for (uint32_t from = kNone; from != best.id;) {
        from = best.id;
        const size_t count = distances_around(lists, row, from, distances);
        for (size_t j = 0; j < count; ++j) {
            const Near here{distances[j], lists.neighbours[from * lists.width + j], false};
            if (nearer(here, best)) best = here;
        }
    }
    return best;
}

}  // namespace

void assign(const Tree& tree, const Lists& lists, const float* rows, size_t count, size_t threads, uint32_t* primary) {
    if (tree.nodes == 0) throw InputError("assign: the tree has no nodes");
    parallel_for(count, kGrain, threads, [&](size_t first, size_t last, size_t) {
        Scratch scratch;
        for (size_t i = first; i < last; ++i) {
            const float* row = rows + i * lists.dim;
            primary[i] = walk(lists, row, descend(tree, row, scratch), scratch.distances).id;
        }
    });
}

void relist(const Succession& change, const Lists& lists, const float* rows, size_t count, size_t threads,
            uint32_t* list) {
    const auto l2 = kernels().l2_f32;
    parallel_for(count, kGrain, threads, [&](size_t first, size_t last, size_t) {
        std::vector<float> distances;
        for (size_t i = first; i < last; ++i) {
            const float* row = rows + i * lists.dim;
            const uint32_t before = list[i];
            Near best{INFINITY, kNone, false};
            for (uint32_t part = change.begin[before]; part < change.end[before]; ++part) {
                const Near here{l2(row, lists.centroids + part * lists.dim, lists.dim), part, false};
                if (best.id == kNone || nearer(here, best)) best = here;
            }
            const uint32_t* neighbours = lists.neighbours + best.id * lists.width;
            const auto draws = [&](uint32_t other) {
                return other != kNone && change.fresh[other] &&
                       l2(row, lists.centroids + other * lists.dim, lists.dim) < best.distance;
            };
            const bool split = change.end[before] - change.begin[before] > 1;
            const bool may_move = change.dissolved[before] ||
                                  (split && l2(row, change.former + before * lists.dim, lists.dim) <= best.distance) ||
                                  std::any_of(neighbours, neighbours + lists.width, draws);
            list[i] = may_move ? walk(lists, row, best, distances).id : best.id;
        }
    });
}

void replicate(const Lists& lists, const float* rows, const uint32_t* primary, size_t count, size_t most, float epsilon,
               float spacing, size_t threads, uint32_t* replicas) {
    if (std::any_of(primary, primary + count, [&](uint32_t list) { return list >= lists.count; }))
        throw InputError("replicate: no such list");
    const auto l2 = kernels().l2_f32;
    const float stretch = (1 + epsilon) * (1 + epsilon);
    parallel_for(count, kGrain, threads, [&](size_t first, size_t last, size_t) {
        std::vector<Near> near;
        std::vector<float> distances;
        for (size_t i = first; i < last; ++i) {
            const float* row = rows + i * lists.dim;
            const auto centroid = [&](uint32_t list) { return lists.centroids + list * lists.dim; };
            const float limit = stretch * l2(row, centroid(primary[i]), lists.dim);
            near.clear();
            const size_t around = distances_around(lists, row, primary[i], distances);
            for (size_t j = 0; j < around; ++j)
                if (distances[j] <= limit)
                    near.push_back({distances[j], lists.neighbours[primary[i] * lists.width + j], false});
            std::sort(near.begin(), near.end(), nearer);
            uint32_t* chosen = replicas + i * most;
            size_t kept = 0;
            for (const Near& candidate : near) {
                if (kept == most) break;
                const auto covers = [&](uint32_t list) {
                    const float gap = l2(centroid(list), centroid(candidate.id), lists.dim);
                    return spacing * spacing * gap <= candidate.distance;
                };
                const bool covered = covers(primary[i]) || std::any_of(chosen, chosen + kept, covers);
                if (!covered) chosen[kept++] = candidate.id;
            }
            std::fill(chosen + kept, chosen + most, kNone);
        }
    });
}

void second_lists(const Graph& graph, const float* rows, const uint32_t* primary, size_t count, size_t threads,
                  uint32_t* second) {
    if (std::any_of(primary, primary + count, [&](uint32_t list) { return list >= graph.count; }))
        throw InputError("second_lists: no such list");
    const auto dot = kernels().dot_f32;
    std::vector<Visited> visited(std::max<size_t>(1, threads));
    parallel_for(count, kGrain, threads, [&](size_t first, size_t last, size_t thread) {
        std::vector<Near> found;
        std::vector<uint32_t> start;
        std::vector<float> offset(graph.dim);
        for (size_t i = first; i < last; ++i) {
            const float* row = rows + i * graph.dim;
            const float* own = graph.points + primary[i] * graph.dim;
            for (size_t d = 0; d < graph.dim; ++d) offset[d] = row[d] - own[d];
            const float length = dot(offset.data(), offset.data(), graph.dim),
                        along = dot(offset.data(), row, graph.dim);
            start.assign(1, primary[i]);
            search_graph(graph, row, kSecondWidth, start, visited[thread], found);
            Near best{INFINITY, kNone, false};
            for (const Near& near : found) {
                if (near.id == primary[i]) continue;
                const float parallel = along - dot(offset.data(), graph.points + near.id * graph.dim, graph.dim);
                const float loss = near.distance + (length > 0 ? parallel * (parallel / length) : 0);
                if (best.id == kNone || nearer({loss, near.id, false}, best)) best = {loss, near.id, false};
            }
            second[i] = best.id;
        }
    });
}

}  // namespace tenfold
