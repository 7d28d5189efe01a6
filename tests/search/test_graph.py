"""Lists and the graph over them: every row in a near list, every list reachable, the same for any number of threads."""

from dataclasses import replace

import numpy as np
import pytest
from oracles import numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import Index, _native
from tenfold.search.clustering import NEIGHBOURS, Tree, grow_tree

NONE = 0xFFFFFFFF


def clusters(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(40, dim))
    return (centres[rng.integers(0, 40, rows)] + rng.normal(size=(rows, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return clusters(6000, 24)


@pytest.fixture(scope="module")
def tree(sample: np.ndarray) -> Tree:
    return grow_tree(sample, 300, 0, 2)


def test_lists_are_balanced(tree: Tree, sample: np.ndarray) -> None:
    """About as many as were asked for, none empty by far, none much larger than the mean."""
    sizes = np.bincount(tree.assign(sample, 1), minlength=len(tree.centroids))
    assert 200 <= len(tree.centroids) <= 420
    assert sizes.max() <= 8 * sizes.mean()
    assert (sizes > 0).mean() > 0.95


def test_rows_go_to_near_lists(tree: Tree) -> None:
    """Also rows unlike the sample: nearly always the nearest of all centroids, and never one much farther."""
    rows = clusters(1000, 24, seed=1)
    distances = numpy_distances(tree.centroids, rows, "l2")
    found = np.take_along_axis(distances, tree.assign(rows, 1)[:, None].astype(np.int64), axis=1)[:, 0]
    best = distances.min(axis=1)
    assert (found <= best * 1.0001).mean() > 0.995
    assert (found / best).max() < 1.5


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
@pytest.mark.parametrize("lists", [1, 2, 50])
def test_small_trees(rows: int, lists: int) -> None:
    """A single list, more lists than rows, rows that are all equal: every row gets a list that exists."""
    for sample in (clusters(rows, 5), np.ones((rows, 5), np.float32)):
        tree = grow_tree(sample, lists, 0, 1)
        assert len(tree.centroids) >= 1
        assert np.isfinite(tree.centroids).all()
        assigned = tree.assign(clusters(100, 5, seed=3), 2)
        assert (assigned < len(tree.centroids)).all()


def test_threads_change_nothing(sample: np.ndarray, tree: Tree) -> None:
    other = grow_tree(sample, 300, 0, 1)
    for name in ("nodes", "begin", "end", "list", "centroids", "neighbours", "graph"):
        np.testing.assert_array_equal(getattr(tree, name), getattr(other, name))


def test_neighbours_are_the_nearest_lists(tree: Tree) -> None:
    """Ascending, not the list itself, and nearly all of the true ones."""
    distances = numpy_distances(tree.centroids, tree.centroids, "l2")
    np.fill_diagonal(distances, np.inf)
    truth = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
    hits = [len(set(mine.tolist()) & set(true.tolist())) for mine, true in zip(tree.neighbours, truth, strict=True)]
    assert np.mean(hits) / NEIGHBOURS > 0.95
    for number, row in enumerate(tree.neighbours):
        near = distances[number][row[row != NONE]]
        assert number not in row
        assert (np.diff(near) >= -1e-3).all()


@pytest.mark.parametrize("count", [1, 2, 33, 500])
def test_every_point_of_the_graph_can_be_reached(count: int) -> None:
    """From the entry points, along edges that name other points and none twice."""
    points = clusters(count, 12)
    graph = _native.make_graph(points, 32, 64, 2)
    reached = set(range(0, count, max(1, int(count**0.5))))
    frontier = list(reached)
    while frontier:
        edges = graph[frontier.pop()]
        fresh = {int(edge) for edge in edges[edges != NONE]} - reached
        reached |= fresh
        frontier += fresh
    assert len(reached) >= 0.99 * count
    for number, edges in enumerate(graph):
        named = edges[edges != NONE].tolist()
        assert len(set(named)) == len(named)
        assert number not in named
        assert all(edge < count for edge in named)
        assert (edges[len(named) :] == NONE).all()


def test_equal_points_make_a_graph() -> None:
    """Distances of 0 everywhere."""
    points = np.ones((200, 4), np.float32)
    graph = _native.make_graph(points, 32, 64, 1)
    neighbours = _native.nearest_points(points, graph, NEIGHBOURS, 1)
    assert ((neighbours < 200) | (neighbours == NONE)).all()


def test_replicas_keep_the_rules(tree: Tree) -> None:
    """At most 1 + epsilon times as far as the own centroid, and never behind a list already chosen (RNG rule)."""
    rows = clusters(400, 24, seed=5)
    own = tree.assign(rows, 1)
    epsilon, most = 0.3, 5
    copies = _native.replicate(rows, own, tree.centroids, tree.neighbours, most, epsilon, 1.0, 2)
    to_lists = np.sqrt(np.maximum(numpy_distances(tree.centroids, rows, "l2"), 0))
    between = np.sqrt(np.maximum(numpy_distances(tree.centroids, tree.centroids, "l2"), 0))
    assert copies.shape == (400, most)
    assert (copies != NONE).any()
    for row, lists in enumerate(copies):
        chosen = [int(own[row])]
        for number in lists[lists != NONE].tolist():
            assert to_lists[row, number] <= (1 + epsilon) * to_lists[row, own[row]] + 1e-3
            assert all(between[number, other] > to_lists[row, number] - 1e-3 for other in chosen)
            chosen.append(number)


def test_second_lists_have_the_least_loss_of_soar(tree: Tree) -> None:
    """|x - c|^2 + <x - c, u>^2, u along x less its own centroid: against all lists but its own (SOAR, eq. 9)."""
    rows = clusters(400, 24, seed=5)
    own = tree.assign(rows, 1)
    second = _native.second_lists(rows, own, tree.centroids, tree.graph, 2)
    offsets = (rows[:, None] - tree.centroids[None]).astype(np.float64)
    first = offsets[np.arange(len(rows)), own]
    along = np.einsum("rld,rd->rl", offsets, first / np.linalg.norm(first, axis=1, keepdims=True))
    losses = (offsets**2).sum(axis=2) + along**2
    losses[np.arange(len(rows)), own] = np.inf
    chosen = losses[np.arange(len(rows)), second]
    assert (second != own).all()
    assert np.isclose(chosen, losses.min(axis=1), rtol=1e-4).mean() > 0.97
    assert (second != np.where(np.isinf(losses), np.inf, (offsets**2).sum(axis=2)).argmin(axis=1)).mean() > 0.1
    np.testing.assert_array_equal(second, _native.second_lists(rows, own, tree.centroids, tree.graph, 1))


def test_a_row_on_its_centroid_has_the_nearest_other_list_as_second(tree: Tree) -> None:
    """There is no direction then; and where there is one list only, no second."""
    own = np.arange(len(tree.centroids), dtype=np.uint32)
    second = _native.second_lists(tree.centroids, own, tree.centroids, tree.graph, 1)
    distances = numpy_distances(tree.centroids, tree.centroids, "l2")
    np.fill_diagonal(distances, np.inf)
    assert (second == distances.argmin(axis=1)).mean() > 0.97
    alone = grow_tree(clusters(40, 5), 1, 0, 1)
    assert (_native.second_lists(clusters(9, 5), np.zeros(9, np.uint32), alone.centroids, alone.graph, 1) == NONE).all()


def test_lists_and_nodes_that_are_not_there_are_refused(tree: Tree) -> None:
    rows, own = clusters(3, 24), np.array([0, 1, len(tree.centroids)], np.uint32)
    with pytest.raises(InputError, match="no such list"):
        _native.replicate(rows, own, tree.centroids, tree.neighbours, 5, 0.3, 1.0, 1)
    with pytest.raises(InputError, match="no such list"):
        _native.second_lists(rows, own, tree.centroids, tree.graph, 1)
    for arrays in ((rows[:2], own, tree.centroids, tree.graph), (rows[:, :23], own, tree.centroids, tree.graph),
                   (rows, own, tree.centroids, tree.graph[:-1])):  # fmt: skip
        with pytest.raises(InputError, match="shapes do not fit"):
            _native.second_lists(*map(np.ascontiguousarray, arrays), 1)
    none = np.zeros(0, np.uint32)
    with pytest.raises(InputError, match="the tree has no nodes"):
        replace(tree, nodes=tree.nodes[:0], begin=none, end=none, list=none).assign(rows, 1)


def test_routing_by_graph_finds_what_a_full_look_finds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """More than 1,024 lists, so that the graph is used: recall stays where looking at all lists would put it."""
    base, queries = clusters(6000, 16), clusters(200, 16, seed=9)
    index = Index.build(base, tmp_path_factory.mktemp("graph") / "index", rows_per_list=4)
    assert index.lists > 1024
    truth = index.search(queries, 10, recall=1.0)[1]
    by_graph = index.search(queries, 10, probes=index.lists // 9, candidates=1000)[1]
    by_all = index.search(queries, 10, probes=index.lists // 7, candidates=1000)[1]
    found, possible = (
        np.mean([len(set(a) & set(b)) for a, b in zip(ids, truth, strict=True)]) for ids in (by_graph, by_all)
    )
    assert found >= possible - 0.1
