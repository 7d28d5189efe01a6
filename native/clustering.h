// Which lists a vector belongs to.
#pragma once

#include <cstddef>
#include <cstdint>

#include "graph.h"

namespace tenfold {

// A k-means tree. Children of node t are the nodes child_begin[t] .. child_end[t]; a leaf has none and names its list.
struct Tree {
    const float* points;  // (nodes, dim)
    const uint32_t* child_begin;
    const uint32_t* child_end;
    const uint32_t* list;  // list number of a leaf
    size_t nodes, dim;
};

struct Lists {
    const float* centroids;      // (count, dim)
    const uint32_t* neighbours;  // (count, width): the nearest other lists of each list, ascending; kNone pads
    size_t count, dim, width;
};

// The nearest list of each row: down the tree with a beam, then along neighbouring lists while that gets nearer.
void assign(const Tree&, const Lists&, const float* rows, size_t count, size_t threads, uint32_t* primary);

// What became of lists whose rows came and went: list l of before is now the lists begin[l] .. end[l], several where it
// was split; where it was dissolved, those of a list nearby.
struct Succession {
    const uint32_t* begin;
    const uint32_t* end;
    const float* former;       // (lists before, dim): their centroids
    const uint8_t* dissolved;  // (lists before)
    const uint8_t* fresh;      // (lists now): whether they come of a split
};

// The list of each row now, from that before (`list`, in place). Along neighbouring lists go, by LIRE's two necessary
// conditions (SPFresh, SOSP 2023, section 3.3), only rows of a split list whose former centroid is nearer than the
// centroids of its parts, and rows to which a neighbouring fresh centroid is nearer than their own; and all rows of
// dissolved lists.
void relist(const Succession&, const Lists&, const float* rows, size_t count, size_t threads, uint32_t* list);

// Boundary replication (paper eq. 2) under SPANN's RNG rule: further lists c of each row, nearest first, with
// |x - c| <= (1 + epsilon) |x - c1| and no chosen list s with spacing |s - c| <= |x - c|; SPANN's spacing is 1, with
// infinity the rule is off. Writes (count, most), kNone pads.
void replicate(const Lists&, const float* rows, const uint32_t* primary, size_t count, size_t most, float epsilon,
               float spacing, size_t threads, uint32_t* replicas);

// A second list of each row, kNone where there is only one: the one with the least |x - c|^2 + <x - c, u>^2, where u is
// the direction from the row's own centroid to it, among those that a walk over the graph finds near. A query that is
// nearer to other centroids because of that offset finds the row in a list whose own offset is across it (SOAR, arXiv
// 2404.00774, eq. 9 with lambda 1).
void second_lists(const Graph&, const float* rows, const uint32_t* primary, size_t count, size_t threads,
                  uint32_t* second);

}  // namespace tenfold
