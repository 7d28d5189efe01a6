"""Searching everything gives what comparing with every row gives: distances and ids, ties by id.

Two oracles: NumPy in float64, and `exact_search`, whose distances must be the same to the last bit.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import BACKENDS, DTYPES, check_exact, make_vectors, open_with

from tenfold.core.errors import InputError
from tenfold.search import Index, _native, as_source, exact_search
from tenfold.search.calibration import Tuning
from tenfold.search.manifest import read_manifest

METRICS = ("l2", "ip", "cosine")
DIMS = (1, 2, 3, 7, 8, 9, 31, 32, 33, 100, 128, 129, 784, 1024, 1025, 4097)
ROWS = (0, 1, 2, 31, 32, 33, 255, 256, 1000, 9000)
RERANKS = ("bound", "paper")
IndexCache = Callable[..., Path]


def search_all(index: Index, queries: np.ndarray, k: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    found = index.search(queries, k, probes=index.lists, candidates=max(1, index.rows), **options)  # type: ignore[call-overload]
    return found[0], found[1]


def assert_same(found: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(found[0].view(np.uint32), truth[0].view(np.uint32))
    np.testing.assert_array_equal(found[1], truth[1])


@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_vectors_come_back_by_id(chunk: int, index_cache: IndexCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.search.index._CHUNK_ROWS", chunk)
    base, index = make_vectors(700, 33, "uint8"), Index.open(index_cache(700, 33, "uint8", "l2"))
    ids = np.random.default_rng(0).integers(0, 700, 900)  # some of them more than once
    np.testing.assert_array_equal(index.get(ids), base[ids])
    assert index.get([]).shape == (0, 33)
    for wrong, complaint in (([3, 700, 800], "id 700 is not there"), ([-1], "whole numbers from 0"), ([0.5], "whole")):
        with pytest.raises(InputError, match=complaint):
            index.get(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("io", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_path_equals_brute_force(
    dtype: str, metric: str, io: str, index_cache: IndexCache, simd_level: None
) -> None:
    """Every instruction set, rule, way of scoring pages and number of threads, through each I/O back end."""
    base, queries, k = make_vectors(700, 33, dtype), make_vectors(40, 33, dtype, seed=1), 13
    index = open_with(index_cache(700, 33, dtype, metric), io)
    assert index.stats()["io_backend"] == io
    truth = exact_search(as_source(base), queries, k, metric)  # type: ignore[arg-type]
    check_exact(truth, base, queries, metric)
    for level, rerank, pages, threads in product(_native.simd_levels(), RERANKS, (True, False), (1, 2)):
        _native.use_simd_level(level)
        found = search_all(index, queries, k, rerank=rerank, score_whole_pages=pages, threads=threads)
        assert_same(found, truth)


@pytest.mark.parametrize("dim", DIMS)
def test_every_dimension(dim: int, tmp_path: Path, uncalibrated: None) -> None:
    """Rows that fill a page, leave some of it, or need several; dtype, metric and codec take turns."""
    turn = DIMS.index(dim)
    dtype, metric = DTYPES[turn % 4], METRICS[turn % 3]
    base, queries = make_vectors(150, dim, dtype), make_vectors(9, dim, dtype, seed=1)
    for codec in ("pq", "rabitq"):
        index = Index.build(base, tmp_path / codec, metric=metric, codec=codec, rows_per_list=40)  # type: ignore[arg-type]
        for k, pages in ((10, True), (150, False)):
            found = search_all(index, queries, k, score_whole_pages=pages)
            check_exact(found, base, queries, metric)
            assert_same(found, exact_search(as_source(base), queries, k, metric))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", ROWS)
def test_every_number_of_rows(rows: int, tmp_path: Path, uncalibrated: None) -> None:
    """No row, one row, a list with one row more than a block; asking for more rows than there are pads with -1."""
    base, queries = make_vectors(rows, 20, "uint8"), make_vectors(7, 20, "uint8", seed=1)
    index = Index.build(base, tmp_path / "index")
    for k in (1, 10, rows + 5) if rows <= 1000 else (1, 100):
        check_exact(search_all(index, queries, k), base, queries, "l2")
        check_exact(index.search(queries, k, recall=1.0), base, queries, "l2")


@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("rerank", RERANKS)
@pytest.mark.parametrize("codec", ["pq", "rabitq"])
def test_all_rows_in_order(codec: str, rerank: str, pages: bool, tmp_path: Path, uncalibrated: None) -> None:
    """k = N finds every row, though rows near a border have codes in several lists."""
    base = np.random.default_rng(3).normal(size=(1200, 12)).astype(np.float32)
    index = Index.build(base, tmp_path / "index", codec=codec, rows_per_list=20)  # type: ignore[arg-type]
    assert index.stats()["entries_per_row"] > 1.01
    found = search_all(index, base[:5], 1200, rerank=rerank, score_whole_pages=pages)
    check_exact(found, base, base[:5], "l2")


@pytest.mark.parametrize("codec", ["pq", "rabitq"])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_with_a_second_list_are_found_once(metric: str, codec: str, tmp_path: Path, uncalibrated: None) -> None:
    """Each has two codes then, and appears once in results; where there is one list only there is no second."""
    base, queries = make_vectors(700, 33, "float32"), make_vectors(9, 33, "float32", seed=1)
    options = {"metric": metric, "codec": codec, "rows_per_list": 40, "second_lists": True}
    index = Index.build(base, tmp_path / "index", **options)  # type: ignore[arg-type]
    assert index.stats()["entries_per_row"] == 2
    assert read_manifest(tmp_path / "index")["second_lists"] is True
    for k, pages, rerank in product((13, 700), (True, False), RERANKS):
        found = search_all(index, queries, k, score_whole_pages=pages, rerank=rerank)
        check_exact(found, base, queries, metric)
    alone = Index.build(base[:30], tmp_path / "alone", **options)  # type: ignore[arg-type]
    assert (alone.lists, alone.stats()["entries_per_row"]) == (1, 1)
    check_exact(search_all(alone, queries, 30), base[:30], queries, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_vectors_equal(dtype: str, metric: str, tmp_path: Path, uncalibrated: None) -> None:
    """Nothing but ties: the lowest ids win."""
    base = np.full((400, 6), 3, dtype)
    index = Index.build(base, tmp_path / "index", metric=metric, rows_per_list=50)  # type: ignore[arg-type]
    distances, ids = search_all(index, base[:3], 20)
    np.testing.assert_array_equal(ids, np.tile(np.arange(20), (3, 1)))
    assert (distances == distances[0, 0]).all()


@pytest.mark.parametrize("codec", ["pq", "rabitq"])
@pytest.mark.parametrize("metric", METRICS)
def test_zero_vectors(metric: str, codec: str, tmp_path: Path, uncalibrated: None) -> None:
    """A zero vector has cosine distance 1 to everything, itself included, in the base and as a query."""
    base = make_vectors(300, 16, "float32")
    base[::7] = 0
    queries = base[:10]
    index = Index.build(base, tmp_path / "index", metric=metric, codec=codec)  # type: ignore[arg-type]
    found = search_all(index, queries, 300)
    check_exact(found, base, queries, metric)
    if metric == "cosine":
        assert (found[0][0] == 1).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e15])
def test_fractions_of_every_size(scale: float, metric: str, tmp_path: Path, uncalibrated: None) -> None:
    """Normal numbers, small and large: within float32 rounding of NumPy, and equal to exact search."""
    rng = np.random.default_rng(5)
    base = (rng.normal(size=(400, 24)) * scale).astype(np.float32)
    queries = (rng.normal(size=(8, 24)) * scale).astype(np.float32)
    index = Index.build(base, tmp_path / "index", metric=metric, rows_per_list=30)  # type: ignore[arg-type]
    found = search_all(index, queries, 25)
    assert_same(found, exact_search(as_source(base), queries, 25, metric))  # type: ignore[arg-type]
    unit = 1 if metric == "cosine" else float(np.square(scale, dtype=np.float64))
    distances = (found[0] / np.float64(unit)).astype(np.float32)
    check_exact((distances, found[1]), base / np.float64(scale), queries / np.float64(scale), metric)


@pytest.mark.parametrize("codec", ["pq", "rabitq"])
def test_many_queries_at_once_equal_one_at_a_time(codec: str, index_cache: IndexCache) -> None:
    """Also with default settings: what else is in a batch changes no answer."""
    index = Index.open(index_cache(700, 33, "uint8", "l2", codec))
    queries = make_vectors(500, 33, "uint8", seed=2)
    for options in ({}, {"recall": 1.0}, {"rerank": "paper"}, {"probes": 2, "candidates": 30}):
        batch = index.search(queries, 10, threads=2, **options)  # type: ignore[call-overload]
        single = [index.search(query[None], 10, threads=1, **options) for query in queries[:60]]  # type: ignore[call-overload]
        for part in (0, 1):
            np.testing.assert_array_equal(batch[part][:60], np.concatenate([found[part] for found in single]))


@pytest.mark.parametrize("cache", ["0", "1MB"])
def test_searching_again_with_a_cache(cache: str, index_cache: IndexCache) -> None:
    """Pages kept from earlier queries give the same results, and with room for all of them nothing is read twice."""
    index = Index.open(index_cache(700, 33, "float32", "l2"), cache=cache)
    queries = make_vectors(50, 33, "float32", seed=1)
    first = index.search(queries, 5, recall=1.0, threads=1, return_stats=True)
    second = index.search(queries, 5, recall=1.0, threads=1, return_stats=True)
    assert_same(first[:2], second[:2])
    assert second[2].pages_read.sum() == 0
    assert (second[2].pages_cached > 0).all()


def test_a_calibrated_search_never_reads_everything(tmp_path: Path) -> None:
    """Also where the index has fewer rows than candidates are allowed: few pages, unless recall is 1."""
    rows = make_vectors(500, 1024, "float32")  # a page each
    index = Index.build(rows, tmp_path / "index")
    *_, few = index.search(rows[:20], 5, recall=0.8, return_stats=True)
    *_, every = index.search(rows[:20], 5, recall=1.0, return_stats=True)
    assert few.pages_read.mean() < 100
    assert (every.pages_read + every.pages_cached == 500).all()


def test_rows_far_from_the_origin_cost_no_more(tmp_path: Path) -> None:
    """Search space has its origin among the rows: a shift by a thousand changes neither codes nor reads much."""
    rows = make_vectors(4000, 32, "float32")
    scale = float(rows.std())
    pages = []
    for number, shift in enumerate((0.0, 1000 * scale)):
        index = Index.build(rows + np.float32(shift), tmp_path / f"{number}")
        *_, stats = index.search(rows[:200] + np.float32(shift), 10, probes=20, candidates=100, return_stats=True)
        pages.append(float(stats.pages_read.mean() + stats.pages_cached.mean()))
    assert pages[1] < 1.3 * pages[0]


@settings(max_examples=80)
@given(k=st.integers(1, 6), widths=st.lists(st.integers(0, 7), max_size=3), seed=st.integers(0, 2**32 - 1))
def test_results_are_merged_as_by_sorting_all(k: int, widths: list[int], seed: int) -> None:
    """Ties and gaps among any number of results: the k least by (distance, id), inf and -1 where there are fewer."""
    rng, queries = np.random.default_rng(seed), 4
    distances, ids = np.full((queries, k), np.inf, np.float32), np.full((queries, k), -1, np.int64)
    wanted: list[list[tuple[float, int]]] = [[] for _ in range(queries)]
    for part, width in enumerate(widths):
        names = np.sort(rng.permutation(50)[:10] + 100 * part)
        labels = np.stack([rng.permutation(10)[:width] for _ in range(queries)]).astype(np.int64)
        found = np.sort(rng.integers(0, 4, (queries, width)).astype(np.float32), axis=1)
        for query in range(queries):
            have = int(rng.integers(0, width + 1))
            found[query, have:], labels[query, have:] = np.inf, -1
            wanted[query] += zip(found[query, :have].tolist(), names[labels[query, :have]].tolist(), strict=True)
        _native.merge(distances, ids, found, labels, names, 2)
    for query, pairs in enumerate(wanted):
        least = (sorted(pairs) + [(np.inf, -1)] * k)[:k]
        assert list(zip(distances[query].tolist(), ids[query].tolist(), strict=True)) == least


def test_a_merge_refuses_rows_that_are_not_there() -> None:
    """A label beyond the names is damage, not a read out of bounds; shapes have to fit."""
    distances, ids, names = np.full((1, 2), np.inf, np.float32), np.full((1, 2), -1, np.int64), np.arange(3)
    with pytest.raises(InputError, match=r"row 3 of 3.*damaged"):
        _native.merge(distances, ids, np.zeros((1, 1), np.float32), np.array([[3]]), names)
    with pytest.raises(InputError, match="do not fit"):
        _native.merge(distances, ids, np.zeros((1, 1), np.float32), np.array([[1, 2]]), names)


def test_a_search_that_found_too_few_is_made_again(index_cache: IndexCache) -> None:
    """One list holds fewer rows than are wanted; what the second search costs is added, for those queries only."""
    index, queries = Index.open(index_cache(700, 33, "uint8", "l2")), make_vectors(20, 33, "uint8", seed=1)
    narrow = Tuning(1, 700, 0.0)
    k = int((index.search_tuned(queries, 700, narrow, threads=1)[1] >= 0).sum(axis=1).max())
    few = index.search_tuned(queries, k, narrow, threads=1)
    short = few[1][:, -1] < 0
    assert short.any() and not short.all()
    found = index.search_filled(queries.tolist(), k, narrow, threads=1)  # type: ignore[arg-type]
    assert (found[1] >= 0).all()
    assert all(len(set(ids)) == k for ids in found[1].tolist())
    np.testing.assert_array_equal(found[1][~short], few[1][~short])
    scanned = found[2].codes_scanned - few[2].codes_scanned
    assert (scanned[short] >= 700).all() and not scanned[~short].any()
    assert (index.search_filled(queries, 701, narrow)[1][:, -1] < 0).all()  # there are no more
