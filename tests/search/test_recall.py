"""Recall: the default finds 95 % of the true neighbours of real descriptors, and the knob means what it says."""

import gc
import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.core.progress import no_progress
from tenfold.search import Index, LivingIndex, as_source, exact_search, open_vectors, read_ground_truth, recall_at_k
from tenfold.search.calibration import EVERYTHING, Calibration, Tuning, calibrate
from tenfold.search.evaluation import evaluate
from tenfold.search.manifest import read_manifest
from tenfold.search.space import Metric


@pytest.fixture(scope="module")
def bigann(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Index]:
    """The 9,000 real rows under both codecs."""
    folder = tmp_path_factory.mktemp("bigann")
    source = real_data / "bigann9k_base.u8bin"
    return {codec: Index.build(source, folder / codec, codec=codec) for codec in ("pq", "rabitq")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def queries(real_data: Path) -> np.ndarray:
    """500 real queries, none of them in the base."""
    return next(open_vectors(real_data / "bigann9k_query.u8bin").blocks(500))


@pytest.fixture(scope="module")
def truth(real_data: Path) -> np.ndarray:
    """Distances to the 100 true neighbours."""
    distances = read_ground_truth(real_data / "bigann9k_gt100.bin").distances
    assert distances is not None
    return distances


@pytest.mark.parametrize("codec", ["pq", "rabitq"])
def test_default_recall_of_real_vectors(
    codec: str, bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray
) -> None:
    distances, _ = bigann[codec].search(queries)
    assert recall_at_k(distances, truth, 10) >= 0.95


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("recall", [0.9, 0.95, 0.99])
def test_recall_is_reached_on_unseen_queries(
    recall: float, k: int, bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray
) -> None:
    """At most 0.01 under what was asked for; 500 queries with one neighbour each say so to two deviations only."""
    distances, _ = bigann["pq"].search(queries, k, recall=recall)
    noise = 2 * (recall * (1 - recall) / len(queries)) ** 0.5 if k == 1 else 0
    assert recall_at_k(distances, truth, k) >= recall - 0.01 - noise


def test_second_lists_reach_recall_with_fewer_lists(
    bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray, real_data: Path, tmp_path: Path
) -> None:
    """A third fewer at least, as measured for 0.95; scanning equally many finds more of the true neighbours."""
    source = real_data / "bigann9k_base.u8bin"
    second = Index.build(source, tmp_path / "index", codec="pq", second_lists=True)
    for recall in (0.9, 0.95, 0.99):
        assert recall_at_k(second.search(queries, recall=recall)[0], truth, 10) >= recall - 0.01
    probes = {
        name: index.calibration.memory[10][2][1].probes for name, index in (("one", bigann["pq"]), ("two", second))
    }
    assert 3 * probes["two"] <= 2 * probes["one"]
    few = [
        recall_at_k(index.search(queries, probes=3, candidates=200)[0], truth, 10) for index in (bigann["pq"], second)
    ]
    assert few[1] > few[0] + 0.02


def test_all_is_exact(bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray, real_data: Path) -> None:
    """recall=1 gives the published distances, and ids with ties by id."""
    distances, ids = bigann["pq"].search(queries, 100, recall=1.0)
    np.testing.assert_array_equal(distances, truth)
    np.testing.assert_array_equal(ids, read_ground_truth(real_data / "bigann9k_gt100.bin").ids)


def test_more_recall_costs_more(bigann: dict[str, Index], queries: np.ndarray) -> None:
    """Pages asked for and codes scanned rise with the knob; two rounds of reading at most."""
    pages, codes = [], []
    for recall in (0.8, 0.9, 0.95, 0.99, 1.0):
        *_, stats = bigann["pq"].search(queries, recall=recall, threads=1, return_stats=True)
        pages.append(float((stats.pages_read + stats.pages_cached).mean()))
        codes.append(float(stats.codes_scanned.mean()))
        assert (stats.rounds <= 2).all()
    assert pages == sorted(pages)
    assert codes[:-1] == sorted(codes[:-1])
    assert codes[-1] == 0 < codes[0] < bigann["pq"].rows  # all vectors are read, whatever their codes say


def test_whole_pages_never_lower_recall(bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray) -> None:
    """Scoring the neighbours on pages that are read anyway can only improve each single result.

    Where the second round leaves candidates out, what is found in the first spares some of it: recall still gains.
    """
    for z in (EVERYTHING, 0.0):
        with_pages, without = (
            bigann["pq"].search_tuned(queries, 10, Tuning(8, 20, z), score_whole_pages=whole)[0]
            for whole in (True, False)
        )
        assert recall_at_k(with_pages, truth, 10) > recall_at_k(without, truth, 10)
        assert z == 0.0 or (with_pages <= without).all()


def test_calibrating_with_real_queries(index_copy: Callable[..., Path]) -> None:
    """Kept in the folder, not as from own rows; searches go by it at once; the index still opens and verifies."""
    folder = index_copy(2000, 20, "float32", "l2")
    index = Index.open(folder)
    assert index.calibration.own_rows
    before = index.tuning(10, 0.9)
    assert index.tuning(10, 0.9) == before
    index.calibrate(10 * make_vectors(100, 20, "float32", seed=6))
    again = Index.open(folder)
    assert index.tuning(10, 0.9) == again.tuning(10, 0.9) != before
    assert not again.calibration.own_rows
    assert again.calibration == index.calibration
    assert again.verify() == []
    with pytest.raises(InputError):
        index.calibrate(np.zeros((3, 19), np.float32))


NO_QUERIES: list[tuple[Any, str]] = [
    (np.empty((0, 8), np.uint8), "no queries to calibrate with"),
    ([], "queries have shape"),
    ([[1, 2, 3]], "queries have shape"),
    ([[1] * 8, [2] * 7], "queries are no array"),
    ([[0.5] * 8], "query 0 holds values that uint8 cannot"),
]


@pytest.mark.parametrize(("queries", "said"), NO_QUERIES, ids=[said for _, said in NO_QUERIES])
def test_what_cannot_be_calibrated_with_changes_nothing(
    queries: Any, said: str, index_copy: Callable[..., Path], tmp_path: Path
) -> None:
    """Refused in one line, by an index and by one that takes updates; what was measured before is kept."""
    folder = index_copy(300, 8, "uint8", "l2")
    index, before = Index.open(folder), read_manifest(folder)["calibration"]
    with pytest.raises(InputError, match=said):
        index.calibrate(queries)
    assert read_manifest(folder)["calibration"] == index.calibration.to_json() == before
    with LivingIndex.create(tmp_path / "living", 8, dtype="uint8") as living:
        living.add(make_vectors(300, 8, "uint8"))
        living.compact()
        [part] = living._stack.parts
        with pytest.raises(InputError, match=said):
            living.calibrate(queries)
        assert part.segment.index.calibration.levels


def test_a_build_lets_go_of_what_it_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are in memory, which the collector of cycles knows nothing of: it may come late."""
    calibrated: list[weakref.ref[Index]] = []

    def watched(index: Index, *others: Any) -> Calibration:
        calibrated.append(weakref.ref(index))
        return calibrate(index, *others)

    monkeypatch.setattr("tenfold.search.index.calibrate", watched)
    gc.disable()
    try:
        Index.build(make_vectors(500, 8, "float32"), tmp_path / "index")
        assert [index() for index in calibrated] == [None]
    finally:
        gc.enable()


def test_queries_to_calibrate_with_may_be_lists(index_copy: Callable[..., Path]) -> None:
    folder, queries = index_copy(300, 8, "uint8", "l2"), make_vectors(40, 8, "uint8", seed=3)
    of_array, of_lists = Index.open(folder), Index.open(folder)
    of_array.calibrate(queries)
    of_lists.calibrate(queries.tolist())  # type: ignore[arg-type]
    assert of_lists.calibration == of_array.calibration and not of_lists.calibration.own_rows


def test_levels_rise_and_settings_fit_the_index(index_cache: Callable[..., Path]) -> None:
    index = Index.open(index_cache(2000, 20, "float32", "l2"))
    for entries in index.calibration.levels.values():
        levels = [level for level, _ in entries]
        assert levels == sorted(levels)
        assert all(1 <= t.probes <= index.lists and 1 <= t.candidates <= index.rows and t.z <= 0 for _, t in entries)


def test_tuning_between_and_beyond_levels() -> None:
    """Between two levels in proportion to the logarithm of the misses; beyond all everything; a larger k likewise."""
    levels = {10: [(0.9, Tuning(3, 50, -0.5)), (0.99, Tuning(12, 90, -0.1))], 100: [(0.9, Tuning(5, 300, -0.4))]}
    calibration = Calibration(levels, {10: [(0.9, Tuning(2, 50, -0.9))]})
    assert calibration.tuning(10, 0.5, 40, 1000) == Tuning(3, 50, -0.5)
    assert calibration.tuning(10, 0.9, 40, 1000) == Tuning(3, 50, -0.5)
    assert calibration.tuning(10, 0.99, 40, 1000) == Tuning(12, 90, -0.1)
    halfway = calibration.tuning(10, 1 - 0.1**1.5, 40, 1000)
    assert halfway[:2] == (6, 68)
    assert halfway.z == pytest.approx(-0.3)
    assert calibration.tuning(4, 0.98, 40, 1000) == Tuning(12, 90, -0.1)
    assert calibration.tuning(10, 0.9, 40, 1000, in_memory=True) == Tuning(2, 50, -0.9)
    assert calibration.tuning(11, 0.9, 40, 1000) == Tuning(5, 50, -0.4)
    assert calibration.tuning(50, 0.9, 40, 1000) == Tuning(5, 150, -0.4)
    assert calibration.tuning(100, 0.9, 40, 1000) == Tuning(5, 300, -0.4)
    assert calibration.tuning(200, 0.9, 40, 1000) == Tuning(10, 600, -0.4)
    assert calibration.tuning(10, 0.999, 40, 1000)[:2] == (40, 1000)
    assert Calibration().tuning(10, 0.1, 40, 1000)[:2] == (40, 1000)
    reached = Calibration({10: [(0.99, Tuning(4, 20, -0.2)), (0.995, Tuning(8, 30, 0.0))]}, {})
    assert reached.tuning(10, 0.9975, 40, 1000) == Tuning(16, 45, -0.2), "beyond the highest level: on as before"
    assert reached.tuning(10, 1.0, 40, 1000)[:2] == (40, 1000)
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_margins_between_and_beyond_levels() -> None:
    """As probes, by their logarithms; a larger k widens them; where the next level scans all lists, so does this."""
    less, more = Tuning(4, 20, -0.2, 0.5), Tuning(16, 40, -0.2, 2.0)
    calibration = Calibration({10: [(0.9, less), (0.99, more), (0.995, Tuning(40, 50, 0.0))]}, {})
    assert calibration.tuning(10, 0.9, 40, 1000) == less
    assert calibration.tuning(10, 1 - 0.1**1.5, 40, 1000) == Tuning(8, 29, -0.2, pytest.approx(1.0))  # type: ignore[arg-type]
    between = calibration.tuning(10, 0.992, 40, 1000)
    assert (between.probes, between.candidates, between.margin) == (40, 43, math.inf)
    beyond = calibration.tuning(10, 0.9975, 40, 1000)
    assert (beyond.probes, beyond.candidates, beyond.margin) == (40, 63, math.inf)
    wider = calibration.tuning(20, 0.9, 40, 1000)
    assert (wider.probes, wider.candidates) == (8, 40)
    assert less.margin < wider.margin < 2 * less.margin
    assert less.wider(10, 40) == Tuning(40, 20, -0.2)
    assert less._replace(margin=0.0).wider(2, 40) == Tuning(8, 20, -0.2)
    assert less.scanning(7) == Tuning(7, 20, -0.2)
    assert Tuning(7, 20, -0.2).most_probes == 7 < less.most_probes


def test_calibrations_are_read_with_and_without_margins() -> None:
    """Those of older indexes have none: a fixed number of lists."""
    calibration = Calibration({10: [(0.9, Tuning(4, 20, -0.2, 0.5)), (0.99, Tuning(9, 20, -0.2))]}, {})
    written = calibration.to_json()
    assert [len(entry) for entry in written["levels"]["10"]] == [5, 4]
    assert Calibration.from_json(json.loads(json.dumps(written))) == calibration
    for margin in (-1, math.nan, "much"):
        written["levels"]["10"][0][4] = margin
        with pytest.raises(InputError, match="its calibration is not readable"):
            Calibration.from_json(written)


@pytest.mark.parametrize("levels", [(0.995, 0.995), (0.995, 0.99), (0.99499999, 0.995), (1e-200, 1e-100)])
def test_levels_that_do_not_rise_are_refused(levels: tuple[float, float]) -> None:
    """Nothing could be told of what lies between them, or beyond."""
    written = {"levels": {"10": [[level, 1, 1, 0] for level in levels]}, "memory": {}, "own_rows": True}
    with pytest.raises(InputError, match="its calibration is not readable"):
        Calibration.from_json(written)


@pytest.mark.parametrize("margins", [(), (1e-300, 1e300)])
def test_settings_far_beyond_the_levels_are_numbers(margins: tuple[float, ...]) -> None:
    """However much the highest level takes, and however many results and much recall are asked for."""
    entries = [[0.99, 1, 1, 0, *margins[:1]], [0.995, 8e9, 8e9, 0, *margins[1:]]]
    calibration = Calibration.from_json({"levels": {"1": entries}, "memory": {}, "own_rows": True})
    for k, recall in ((1, 0.9951), (1, 1 - 2**-53), (1 << 24, 1 - 2**-53), (1 << 24, 0.993)):
        tuning = calibration.tuning(k, recall, 40, 1000)
        assert min(tuning.probes, tuning.candidates, tuning.most_probes) >= 1 and tuning.margin > 0


def test_enough_lists_for_k_are_scanned(tmp_path: Path) -> None:
    """In small dense clusters the other lists are all far, and yet no query gets fewer than k."""
    rng = np.random.default_rng(4)
    centres = 10 * rng.normal(size=(130, 32))
    base, queries = (
        (centres[np.arange(count) % 130] + 0.1 * rng.normal(size=(count, 32))).astype(np.float32)
        for count in (7800, 130)
    )
    index = Index.build(base, tmp_path / "index")
    lists = index.engine.route(index.space.queries(queries).space, index.lists, 1, 0.01, 100)[1]
    sizes = np.append(np.diff(index.list_starts().astype(np.int64)), 0)
    held = sizes[np.minimum(lists, index.lists)]
    assert (held.sum(axis=1) >= 100).all(), "so many rows were asked for"
    last = (lists < index.lists).sum(axis=1) - 1
    assert (held.sum(axis=1) - held[np.arange(130), last] < 100).all(), "and no list more"
    for k in (10, 100, 300):
        for recall in (0.8, 0.9, 0.95):
            assert (index.search(queries, k, recall=recall)[1] >= 0).all()


def test_a_margin_finds_more_than_as_many_lists_for_every_query(
    bigann: dict[str, Index], queries: np.ndarray, truth: np.ndarray
) -> None:
    """Queries whose neighbours are scattered scan more lists, others fewer: on average what the calibration says."""
    index = bigann["pq"]
    space = index.space.queries(queries).space
    for _, tuning in index.calibration.levels[10]:
        lists = index.engine.route(space, tuning.most_probes, 2, tuning.margin)[1]
        counts = (lists < index.lists).sum(axis=1)
        assert 0.85 * tuning.probes <= counts.mean() <= 1.15 * tuning.probes
        assert counts.min() < tuning.probes < counts.max()
        generous = tuning._replace(candidates=400, z=-1.0)
        by_margin, fixed = (
            recall_at_k(index.search_tuned(queries, 10, some)[0], truth, 10)
            for some in (generous, generous.scanning(round(counts.mean())))
        )
        assert by_margin > fixed


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_recall_of_every_metric(metric: str, tmp_path: Path) -> None:
    """Clustered vectors of unequal length, unseen queries: the default keeps its promise."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(60, 32)) * rng.uniform(0.5, 2, (60, 1))
    rows = (centres[rng.integers(0, 60, 6300)] + rng.normal(scale=0.4, size=(6300, 32))).astype(np.float32)
    base, queries = rows[:6000], rows[6000:]
    index = Index.build(base, tmp_path / "index", metric=metric)  # type: ignore[arg-type]
    true_distances, _ = exact_search(as_source(base), queries, 10, metric)  # type: ignore[arg-type]
    distances, _ = index.search(queries)
    assert recall_at_k(distances, true_distances, 10) >= 0.94


def test_recall_counts_ties_by_distance() -> None:
    """Another row at the same distance is a hit, a padded place is none, rows that do not exist are not missed."""
    truth = np.array([[1, 2, 2, 5], [1, 2, np.inf, np.inf]], np.float32)
    assert recall_at_k(np.array([[1, 2, 2]], np.float32), truth[:1], 3) == 1
    assert recall_at_k(np.array([[1, 2, 5]], np.float32), truth[:1], 3) == pytest.approx(2 / 3)
    assert recall_at_k(np.array([[1, 2, np.inf]], np.float32), truth[1:], 3) == 1
    assert recall_at_k(np.array([[1, np.inf, np.inf]], np.float32), truth[1:], 3) == 0.5
    assert recall_at_k(np.zeros((0, 3), np.float32), truth[:0], 3) == 1


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1e15])
def test_recall_does_not_depend_on_scale(metric: Metric, scale: float) -> None:
    """Random answers are as bad for vectors of any length."""
    recalls = []
    for factor in (1, scale):
        base, queries = (factor * make_vectors(count, 16, "float32", seed=count) for count in (500, 20))
        true_distances, _ = exact_search(as_source(base), queries, 10, metric)
        distances, _ = exact_search(as_source(base[::2]), queries, 10, metric)
        recalls.append(recall_at_k(distances, true_distances, 10, metric))
    assert recalls[0] == recalls[1] < 0.8


def test_recall_forgives_rounding() -> None:
    """A part of the distance, and of 1 where the distance is 1 - cos."""
    near, nearer = np.array([[1 + 5e-6]]), np.array([[1.0]])
    assert recall_at_k(near, nearer, 1) == recall_at_k(1e-20 * near, 1e-20 * nearer, 1) == 1
    assert recall_at_k(np.array([[6e-8]]), np.array([[0.0]]), 1, "cosine") == 1
    assert recall_at_k(np.array([[6e-8]]), np.array([[0.0]]), 1) == 0


def test_where_there_are_no_neighbours_none_is_missed() -> None:
    nothing = np.full((2, 3), np.inf)
    assert recall_at_k(nothing, nothing, 3) == 1
    assert recall_at_k(nothing, np.array([[1, 2, np.inf], [np.inf] * 3]), 3) == 0.5


@pytest.mark.parametrize(("found", "true"), [((2, 3), (2, 2)), ((2, 2), (2, 3)), ((2, 3), (1, 3))])
def test_recall_of_too_few_distances_is_refused(found: tuple[int, int], true: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"recall at 3 compares \(queries, 3 or more\)"):
        recall_at_k(np.zeros(found), np.zeros(true), 3)


def test_an_empty_index_misses_nothing(tmp_path: Path) -> None:
    index = Index.build(np.zeros((0, 4), np.float32), tmp_path / "index")
    assert evaluate(index, np.ones((3, 4), np.float32)).recall == 1


def test_an_earlier_calibration_is_kept_where_it_holds(bigann: dict[str, Index], tmp_path: Path) -> None:
    """Of like rows it is; one that finds too little, searches far too much or lacks a level is not.

    One that was measured on a user's queries may search as much as it wants to, but must not find far too little.
    """
    index = bigann["pq"]
    chosen = Calibration({10: [(0.5, Tuning(3, 30, -1.0))]}, own_rows=False)
    other = Index.build(index.stored.at(np.arange(500)), tmp_path / "other", calibration=chosen)
    assert other.calibration == chosen

    def changed(probes: float, own_rows: bool = True) -> Calibration:
        def times(levels: dict[int, list[tuple[float, Tuning]]]) -> dict[int, list[tuple[float, Tuning]]]:
            return {
                k: [(level, some.wider(probes, index.lists)) for level, some in entries]
                for k, entries in levels.items()
            }

        return Calibration(times(index.calibration.levels), times(index.calibration.memory), own_rows)

    def kept(earlier: Calibration) -> bool:
        return calibrate(index, None, 1, no_progress, earlier) is earlier

    assert kept(changed(1))
    assert not kept(changed(0.5))
    assert not kept(changed(20))
    assert not kept(Calibration({10: index.calibration.levels[10][:-1]}, index.calibration.memory))
    assert kept(changed(1, own_rows=False))
    assert kept(changed(20, own_rows=False))
    assert not kept(changed(0.3, own_rows=False))
