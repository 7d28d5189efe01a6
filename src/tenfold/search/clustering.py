"""Lists: a balanced k-means tree over a sample, its leaves in an order in which neighbours stay close.

S sample rows · L lists · T tree nodes · D dimension of search space
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tenfold.search import _native

__all__ = ["GRAPH_DEGREE", "NEIGHBOURS", "Tree", "grow_tree", "with_graph"]

NEIGHBOURS = 64  # lists that a row near a border may move or be copied to (SPANN's 64)
GRAPH_DEGREE = 32
_GRAPH_WIDTH = 64
_BRANCHES = 32
_ITERATIONS = 6
_ROWS_PER_BRANCH = 256  # a k-means trains on at most this many rows per cluster
_CHUNK = 4096


@dataclass(frozen=True)
class Tree:
    """The lists and how to find the nearest one.

    Children of node t are the nodes begin[t] .. end[t]; a leaf (begin == end) is list list[t].
    """

    nodes: np.ndarray  # (T, D) float32
    begin: np.ndarray  # (T,) uint32
    end: np.ndarray  # (T,) uint32
    list: np.ndarray  # (T,) uint32
    centroids: np.ndarray  # (L, D) float32
    neighbours: np.ndarray  # (L, 64) uint32: nearest other lists, ascending; padded with 2^32 - 1
    graph: np.ndarray  # (L, 32) uint32: navigation graph, padded alike

    def assign(self, rows: np.ndarray, threads: int) -> np.ndarray:
        """The nearest list of each row of search space, (n,) uint32."""
        return _native.assign(
            rows, self.nodes, self.begin, self.end, self.list, self.centroids, self.neighbours, threads
        )

    def turned(self, axes: np.ndarray) -> "Tree":
        """The same tree in coordinates along `axes`, (D, D) orthonormal."""
        return replace(self, nodes=self.nodes @ axes, centroids=self.centroids @ axes)


def grow_tree(
    sample: np.ndarray,
    lists: int,
    seed: int,
    threads: int,
    refinements: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tree:
    """Cluster (S, D) float32 rows into about `lists` lists of similar size.

    A cluster is split for as long as it holds more than about S / lists rows, into as many parts as
    it needs (at most 32); clusters under a quarter of that are dissolved. Then each refinement moves
    every centroid to the mean of the sample rows nearest to it.
    """
    nodes, begin, end, order = _split_all(sample, lists, np.random.default_rng(seed), progress)
    numbers = np.full(len(nodes), 0xFFFFFFFF, np.uint32)
    numbers[order] = np.arange(len(order), dtype=np.uint32)
    tree = with_graph(nodes, begin, end, numbers, np.ascontiguousarray(nodes[order]), threads)
    for _ in range(refinements):
        centroids = _means(sample, tree.assign(sample, threads), tree.centroids)
        nodes[order] = centroids
        tree = with_graph(nodes, begin, end, numbers, centroids, threads)
    return tree


def with_graph(
    nodes: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    numbers: np.ndarray,
    centroids: np.ndarray,
    threads: int,
) -> Tree:
    """A tree, and around its lists the graph and the nearest others of each; all arrays as in `Tree`."""
    graph = _native.make_graph(centroids, GRAPH_DEGREE, _GRAPH_WIDTH, threads)
    neighbours = _native.nearest_points(centroids, graph, NEIGHBOURS, threads)
    return Tree(nodes, begin, end, numbers, centroids, neighbours, graph)


def _split_all(
    sample: np.ndarray, lists: int, rng: np.random.Generator, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Nodes, child ranges, and the leaves in depth-first order, siblings chained nearest-first."""
    fair_size = max(1.0, len(sample) / lists)
    nodes = [sample.mean(axis=0) if len(sample) else np.zeros(sample.shape[1], np.float32)]
    begin, end, leaves = [0], [0], []
    stack = [(0, np.arange(len(sample)))]
    last = nodes[0]
    while stack:
        node, members = stack.pop()
        parts = min(_BRANCHES, round(len(members) / fair_size))
        centroids = _kmeans(sample, members, parts, fair_size / 4, rng) if parts > 1 else nodes[node][None]
        if len(centroids) < 2:
            leaves.append(node)
            last = nodes[node]
            progress(len(leaves), lists)
            continue
        centroids = centroids[_chain(centroids, last)]
        labels = _nearest(sample, members, centroids)
        begin[node], end[node] = len(nodes), len(nodes) + len(centroids)
        nodes.extend(centroids)
        begin.extend([0] * len(centroids))
        end.extend([0] * len(centroids))
        for child in reversed(range(len(centroids))):
            stack.append((begin[node] + child, members[labels == child]))
    return (
        np.asarray(nodes, np.float32),
        np.asarray(begin, np.uint32),
        np.asarray(end, np.uint32),
        leaves,
    )


def _kmeans(
    sample: np.ndarray, members: np.ndarray, parts: int, smallest: float, rng: np.random.Generator
) -> np.ndarray:
    """Centroids of at most `parts` clusters; those with too few rows are dissolved."""
    most = parts * _ROWS_PER_BRANCH
    training = members if len(members) <= most else rng.choice(members, most, replace=False)
    training = np.sort(training)
    rows = sample[training]
    centroids: np.ndarray = rows[np.sort(rng.choice(len(rows), parts, replace=False))]
    smallest *= len(training) / len(members)
    for iteration in range(_ITERATIONS):
        labels = _nearest_rows(rows, centroids)
        centroids = _means(rows, labels, centroids)
        sizes = np.bincount(labels, minlength=len(centroids))
        keep = sizes >= (smallest if iteration == _ITERATIONS - 2 else 1)
        if keep.any():
            centroids = centroids[keep]
    return centroids


def _nearest(sample: np.ndarray, members: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    labels = [
        _nearest_rows(sample[members[start : start + _CHUNK]], centroids) for start in range(0, len(members), _CHUNK)
    ]
    return np.concatenate(labels) if labels else np.zeros(0, np.int64)


def _nearest_rows(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    scores = rows @ centroids.T
    scores *= -2
    scores += np.einsum("ij,ij->i", centroids, centroids)
    labels: np.ndarray = scores.argmin(axis=1)
    return labels


def _means(rows: np.ndarray, labels: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Mean row per label; the old centroid where a label has none."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=len(fallback))
    means = fallback.copy()
    filled = np.flatnonzero(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])[filled]
    for first in range(0, len(filled), _CHUNK):
        some = filled[first : first + _CHUNK]
        begin, stop = starts[first], starts[first] + sizes[some].sum()
        sums = np.add.reduceat(rows[order[begin:stop]], starts[first : first + _CHUNK] - begin, axis=0)
        means[some] = sums / sizes[some, None]
    return means


def _chain(centroids: np.ndarray, start: np.ndarray) -> np.ndarray:
    """An order that begins nearest to `start` and goes on to the nearest not yet visited."""
    left = list(range(len(centroids)))
    here, order = start, []
    while left:
        distances = ((centroids[left] - here) ** 2).sum(axis=1)
        order.append(left.pop(int(distances.argmin())))
        here = centroids[order[-1]]
    return np.asarray(order)
