// The navigation graph over list centroids: one layer, fixed degree, pruned as in Vamana (DiskANN, alg. 2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tenfold {

constexpr uint32_t kNone = 0xFFFFFFFF;

struct Near {
    float distance;
    uint32_t id;
    bool expanded;
};

inline bool nearer(const Near& a, const Near& b) {
    return a.distance != b.distance ? a.distance < b.distance : a.id < b.id;
}

struct Graph {
    const float* points;         // (count, dim)
    const uint32_t* neighbours;  // (count, degree), kNone after the last
    size_t count, dim, degree;
};

// Which points one search has seen: a stamp per point, so that starting anew costs nothing; and its scratch space.
struct Visited {
    std::vector<uint32_t> stamps, fresh;
    std::vector<float> distances;
    uint32_t now = 0;

    void start(size_t count) {
        if (stamps.size() < count || ++now == 0) {
            stamps.assign(count, 0);
            now = 1;
        }
    }
    bool first_time(uint32_t id) { return stamps[id] == now ? false : (stamps[id] = now, true); }
};

// The `width` points nearest to the query, by best-first search from the nearest of `entries`; ascending.
void search_graph(const Graph&, const float* query, size_t width, const std::vector<uint32_t>& entries, Visited&,
                  std::vector<Near>& found);

// About sqrt(count) points spread evenly over the ids.
std::vector<uint32_t> entry_points(size_t count);

// All points sorted by distance, cut to `width`.
void search_all(const float* points, size_t count, size_t dim, const float* query, size_t width,
                std::vector<Near>& found);

// (count, degree) neighbours; the same for any number of threads.
std::vector<uint32_t> build_graph(const float* points, size_t count, size_t dim, size_t degree, size_t width,
                                  size_t threads);

}  // namespace tenfold
