"""The parts of a search: routes miss few of the nearest lists; scan and re-ranking add up to a search."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.search import Index
from tenfold.search.calibration import Calibration


def nearest_lists(centroids: np.ndarray, queries: np.ndarray, probes: int) -> np.ndarray:
    """Squared distances (q, probes) by brute force, ascending."""
    squares = (centroids.astype(np.float64) ** 2).sum(axis=1)
    distances = squares - 2.0 * queries.astype(np.float64) @ centroids.T.astype(np.float64)
    return np.sort(distances + (queries.astype(np.float64) ** 2).sum(axis=1)[:, None], axis=1)[:, :probes]


def routes(index: Index, queries: np.ndarray, probes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances and lists that the engine finds, and the true distances."""
    space = index.space.queries(queries).space
    distances, lists = index.engine.route(space, probes, 2)
    centroids = index._files["graph.bin"].array("centroids", "<f4", None)
    return distances, lists, nearest_lists(centroids, space, probes)


@pytest.mark.parametrize(
    ("rows", "dim", "rows_per_list"),
    [(6000, 24, 10), (4000, 3, 4), (34_000, 6, 1)],
    ids=["bytes", "few dimensions, graph", "many lists, graph"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e12])
def test_nearest_lists_are_found(
    rows: int, dim: int, rows_per_list: int, scale: float, tmp_path: Path, uncalibrated: None
) -> None:
    """At least 97 % of the true ones, first the nearest, for a few and for many; also with a long first axis."""
    if rows > 30_000 and scale != 1:
        pytest.skip("the graph compares float distances; one scale tells enough")
    rng = np.random.default_rng(3)
    spread = np.geomspace(20, 1, dim)
    centres = rng.normal(size=(60, dim)) * spread
    base = (scale * (centres[rng.integers(0, 60, rows)] + rng.normal(size=(rows, dim)))).astype(np.float32)
    index = Index.build(base, tmp_path / "index", rows_per_list=rows_per_list)
    assert (index.lists > 1 << 15) == (rows > 30_000)
    queries = base[:200] + (0.1 * scale * rng.normal(size=(200, dim))).astype(np.float32)
    for probes in (1, 10, index.lists // 20):
        distances, lists, true = routes(index, queries, probes)
        assert (np.diff(distances, axis=1) >= 0).all()
        assert all(len(set(row)) == probes for row in lists.tolist())
        assert (distances <= true[:, -1:] * (1 + 1e-5)).mean() > 0.97


@pytest.mark.parametrize(("rows", "dim"), [(6000, 24), (4000, 3), (34_000, 6)], ids=["bytes", "floats", "graph"])
def test_a_margin_leaves_far_lists_out(rows: int, dim: int, tmp_path: Path, uncalibrated: None) -> None:
    """The lists of rank i at d_i with d_i - d_1 <= margin d_2 / i^0.2; of bytes and graph nearly all."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(rows, dim)).astype(np.float32)
    index = Index.build(base, tmp_path / "index", rows_per_list=1 if rows > 30_000 else 10)
    assert (index.engine.memory_bytes > 8 * index.lists) == (dim == 24), "whether there are centroids as bytes"
    assert (index.lists > 1 << 15) == (rows > 30_000)
    queries = np.concatenate([base[:100] + 0.1, rng.normal(size=(50, dim)), index.centroids()[0][:20]])
    space = index.space.queries(queries.astype(np.float32)).space
    far = nearest_lists(index.centroids()[0], space, index.lists)
    ranks = np.arange(1, index.lists + 1)
    for probes in (12, 100, 500):
        for margin in (0.0, 0.3, 3.0, 30.0):
            within = far - far[:, :1] <= margin * far[:, 1:2] * ranks**-0.2 + 1e-9 * far[:, 1:2]
            wanted = np.minimum(within.cumprod(axis=1).sum(axis=1), probes)
            distances, lists = index.engine.route(space, probes, 2, margin)
            found = (lists < index.lists).sum(axis=1)
            for row, count in enumerate(found):
                assert (lists[row, count:] == 0xFFFFFFFF).all()
                np.testing.assert_array_equal(distances[row, count:], np.inf)
                assert (np.diff(distances[row, :count]) >= 0).all()
                assert count >= 1
                if dim == 3:
                    assert count == wanted[row]
                    np.testing.assert_allclose(distances[row, :count], far[row, :count], rtol=1e-4, atol=1e-4)
            assert 0.9 * wanted.sum() <= found.sum() <= 1.01 * wanted.sum()
            reach = np.take_along_axis(far, found[:, None] - 1, axis=1)[:, 0]
            assert np.isclose(np.take_along_axis(distances, found[:, None] - 1, axis=1)[:, 0], reach, 0.03).mean() > 0.9


@pytest.fixture(scope="module")
def random_index(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Index]:
    """An index of 3,000 x 20 by its metric, each built once; without recall settings, which nothing here asks for."""
    built: dict[str, Index] = {}

    def get(metric: str) -> Index:
        if metric not in built:
            base = np.random.default_rng(7).normal(size=(3000, 20)).astype(np.float32)
            place = tmp_path_factory.mktemp("routing") / metric
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tenfold.search.index.calibrate", lambda *arguments: Calibration())
                built[metric] = Index.build(base, place, rows_per_list=20, metric=metric)  # type: ignore[arg-type]
        return built[metric]

    return get


def test_queries_in_a_batch_are_answered_as_alone(random_index: Callable[[str], Index]) -> None:
    """The order in which a batch is worked off, its groups of 16 and its threads change no answer."""
    rng, index = np.random.default_rng(5), random_index("l2")
    queries = rng.normal(size=(83, 20)).astype(np.float32)
    distances, ids = index.search(queries, 5, probes=12, candidates=100, threads=2)
    for number, query in enumerate(queries):
        alone = index.search(query[None], 5, probes=12, candidates=100)
        np.testing.assert_array_equal(alone[1][0], ids[number])
        np.testing.assert_array_equal(alone[0][0], distances[number])


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize(("margin", "rows"), [(np.inf, 0), (0.3, 0), (0.3, 90)], ids=["all", "near", "enough rows"])
def test_an_itinerary_is_the_routes_without_gaps(
    count: int, margin: float, rows: int, random_index: Callable[[str], Index]
) -> None:
    """In the order of the nearest lists; slots are blocks of 32 that hold a list's rows and replicas."""
    index, rng = random_index("l2"), np.random.default_rng(5)
    space = index.space.queries(rng.normal(size=(count, index.dim)).astype(np.float32)).space
    distances, lists = index.engine.route(space, 12, 2, margin, rows)
    order, starts, sizes, *found = index.engine.itinerary(space, 12, 2, margin, rows)
    np.testing.assert_array_equal(order, np.argsort(lists[:, 0], kind="stable"))
    there = lists[order] < index.lists
    np.testing.assert_array_equal(starts, np.append(0, np.cumsum(there.sum(axis=1))))
    np.testing.assert_array_equal(found[0], distances[order][there])
    np.testing.assert_array_equal(found[1], lists[order][there])
    np.testing.assert_array_equal(found[2], np.nonzero(there)[0])
    own, copies = (
        np.diff(index._files["lists.bin"].array(name, "<u8").astype(int)) for name in ("starts", "replica_offsets")
    )
    entries = np.where(there, (own + copies)[np.minimum(lists[order], index.lists - 1)], 0)
    slots = -(-entries // 32) * 32
    np.testing.assert_array_equal(sizes, np.stack([slots.sum(axis=1), entries.sum(axis=1)], axis=1))
    np.testing.assert_array_equal(found[3], (np.cumsum(slots, axis=1) - slots)[there])
    assert margin == np.inf or count < 2 or there.sum() < there.size


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("rule", ["bound", "paper"])
@pytest.mark.parametrize("whole_pages", [True, False])
def test_a_scan_and_a_reranking_are_a_search(
    metric: str, rule: str, whole_pages: bool, random_index: Callable[[str], Index]
) -> None:
    """The same ids, distances and reads, also where there are fewer candidates than asked for."""
    index = random_index(metric)
    exact = np.random.default_rng(8).normal(size=(50, 20)).astype(np.float32)
    queries = index.space.queries(exact)
    for probes, candidates in ((8, 40), (2, 300)):
        whole = index.engine.search(
            exact, *queries, 10, probes, np.inf, candidates, -0.3, rule, whole_pages, 2
        )  # fmt: skip
        found = index.engine.scan(queries.space, probes, candidates, 2)
        assert (np.diff(found[1][np.isfinite(found[1]).all(axis=1)], axis=1) >= 0).all()
        distances, ids, stats = index.engine.rerank(exact, *queries, *found, 10, -0.3, rule, whole_pages, 2)
        np.testing.assert_array_equal(whole[1], ids)
        np.testing.assert_array_equal(whole[0], distances)
        np.testing.assert_array_equal(whole[2][:, [2, 3, 5]], stats[:, [2, 3, 5]])


def test_copies_of_a_row_do_not_end_a_search_that_has_too_few(tmp_path: Path, uncalibrated: None) -> None:
    """By the paper's rule a batch that changes nothing is the last; one of nothing but copies says nothing."""
    base = np.random.default_rng(8).normal(size=(100, 6)).astype(np.float32)
    index = Index.build(base, tmp_path / "index")
    queries = index.space.queries(base[:1])
    position = int(np.flatnonzero(index.stored.labels() == 0)[0])
    rows = np.array([[position] * 4 + [(position + 50) % 100]], np.uint32)
    found = rows, np.zeros((1, 5), np.float32), np.zeros((1, 5), np.uint8)
    _, ids, _ = index.engine.rerank(base[:1], *queries, *found, 2, 0.0, "paper", False, 1)
    assert ids.tolist() == [[0, int(index.stored.labels()[rows[0, -1]])]]


def test_a_reranking_checks_what_it_is_given(tmp_path: Path, uncalibrated: None) -> None:
    base = np.random.default_rng(8).normal(size=(100, 6)).astype(np.float32)
    index = Index.build(base, tmp_path / "index")
    queries = index.space.queries(base[:2])
    found = np.full((2, 3), 100, np.uint32), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8)
    with pytest.raises(InputError, match="row 100 is asked for, the index holds 100"):
        index.engine.rerank(base[:2], *queries, *found, 2, 0.0, "bound", True, 1)
    with pytest.raises(InputError, match="do not fit each other"):
        index.engine.rerank(base[:2], *queries, found[0][:1], *found[1:], 2, 0.0, "bound", True, 1)
