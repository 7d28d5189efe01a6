"""Builds that take over the lists and the codec of an index which holds most of their rows."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import check_exact, make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index, LivingIndex, _native, maintaining
from tenfold.search.exact import exact_search, recall_at_k
from tenfold.search.formats.source import ArrayVectors
from tenfold.search.manifest import read_manifest
from tenfold.search.relisting import Heritage


def squares(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    gaps: np.ndarray = ((rows[:, None] - others[None]) ** 2).sum(axis=2)
    return gaps


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 5))
def test_rows_look_for_another_list_by_lires_conditions(seed: int, former_lists: int, dim: int) -> None:
    """Against the two conditions written out: who may move goes to the nearest list, everybody else stays."""
    rng = np.random.default_rng(seed)
    former = rng.integers(-9, 9, (former_lists, dim)).astype(np.float32)
    counts = rng.integers(0, 4, former_lists)
    counts[rng.integers(former_lists)] = 1
    end = np.cumsum(counts)
    begin = end - counts
    dissolved, parts = counts == 0, counts > 1
    centroids = rng.integers(-9, 9, (end[-1], dim)).astype(np.float32) + np.float32(0.25)
    kept = counts == 1
    centroids[begin[kept]] = former[kept]
    fresh = np.ones(len(centroids), bool)
    fresh[begin[kept]] = False
    heir = int(np.flatnonzero(~dissolved)[0])
    begin[dissolved], end[dissolved] = begin[heir], end[heir]
    rows = rng.integers(-12, 12, (40, dim)).astype(np.float32)
    before = rng.integers(0, former_lists, len(rows)).astype(np.uint32)
    order = np.argsort(squares(centroids, centroids), axis=1, kind="stable")
    order = np.stack([row[row != number] for number, row in enumerate(order)])  # all others: the walk sees every list
    neighbours = np.full((len(centroids), 64), 0xFFFFFFFF, np.uint32)
    neighbours[:, : order.shape[1]] = order

    found = _native.relist(
        rows, before, begin.astype(np.uint32), end.astype(np.uint32), former, dissolved.astype(np.uint8), centroids,
        neighbours, fresh.astype(np.uint8),
    )  # fmt: skip

    gaps, gaps_before = squares(rows, centroids), squares(rows, former)
    for row, mine in enumerate(before.tolist()):
        own = range(int(begin[mine]), int(end[mine]))
        nearest = min(own, key=lambda number: (gaps[row, number], number))
        drawn = bool((gaps[row, fresh] < gaps[row, nearest]).any())
        may = dissolved[mine] or (parts[mine] and gaps_before[row, mine] <= gaps[row, nearest]) or drawn
        assert found[row] == (gaps[row].argmin() if may else nearest) or (
            may and gaps[row, found[row]] == gaps[row].min()
        )


def build_heir(
    folder: Path, base: np.ndarray, kept: np.ndarray, added: np.ndarray, first: int = 0, **settings: Any
) -> tuple[Index, np.ndarray]:
    """An index of `added[:first]`, the kept rows of an index of `base`, and the rest of `added`; and its rows."""
    parent = Index.build(base, folder / "parent", **settings)
    labels = parent.stored.labels()
    alive = np.isin(labels, kept)
    rows = np.concatenate([added[:first], base[labels[alive]], added[first:]])
    heritage = Heritage(parent, first, alive, parent.space.radius)
    return Index.build(rows, folder / "heir", heritage=heritage, **settings), rows


@pytest.mark.parametrize(
    ("dtype", "metric", "codec", "second"),
    [
        ("uint8", "l2", "pq", False),
        ("float32", "ip", "pq", False),
        ("float32", "cosine", "rabitq", False),
        ("float32", "l2", "rabitq", True),
    ],
)
def test_every_row_is_found(tmp_path: Path, dtype: str, metric: str, codec: str, second: bool) -> None:
    """All lists searched is exact search; what it knows of its codec is what the other index knew."""
    base = make_vectors(1500, 12, dtype)
    added = base[::3] if metric == "ip" else make_vectors(500, 12, dtype, seed=5)
    settings = {"metric": metric, "codec": codec, "code_bytes": 4, "rows_per_list": 40, "second_lists": second}
    index, rows = build_heir(tmp_path, base, np.arange(200, 1400), added, first=70, **settings)
    check_exact(index.search(base[:40], 7, recall=1.0), rows, base[:40], metric)
    assert index.verify() == []
    heir, parent = (read_manifest(tmp_path / name) for name in ("heir", "parent"))
    assert (parent["untrained_rows"], heir["untrained_rows"]) == (0, 500)
    assert heir["codec_numbers"] == parent["codec_numbers"]
    assert (index.stats()["entries_per_row"] == 2) is second
    assert not any((tmp_path / "heir" / name).exists() for name in ("own.npy", "tree.bin", "spill"))


def test_lists_are_split_and_dissolved_where_rows_come_and_go(tmp_path: Path) -> None:
    """Four bunches, one of which goes while another grows threefold: lists follow, and rows are in the nearest."""
    rng = np.random.default_rng(0)
    bunches = [rng.normal(0, 1, (1000, 8)) + 40 * np.eye(8)[number] for number in range(4)]
    more = (rng.normal(0, 1, (1900, 8)) + 40 * np.eye(8)[2]).astype(np.float32)
    base = np.concatenate(bunches).astype(np.float32)
    index, _ = build_heir(tmp_path, base, np.arange(1000, 4000), more, rows_per_list=50)
    parent = Index.open(tmp_path / "parent")

    def lists_by_bunch(of: Index) -> np.ndarray:
        centers = np.stack([bunch.mean(axis=0) for bunch in bunches]).astype(np.float32)
        return np.bincount(squares(of.centroids()[0], of.space.rows(centers)).argmin(axis=1), minlength=4)

    before, now = lists_by_bunch(parent), lists_by_bunch(index)
    assert now[0] == 0
    assert now[2] >= 2 * before[2]
    np.testing.assert_array_equal(now[[1, 3]], before[[1, 3]])
    sizes = np.diff(index.list_starts().astype(np.int64))
    assert sizes.max() <= 2 * 50 * 1.2
    rows = index.space.rows(index.stored.at(np.arange(index.rows)))
    own = np.repeat(np.arange(len(sizes)), sizes)
    assert (squares(rows, index.centroids()[0]).argmin(axis=1) == own).mean() > 0.99


def test_a_list_of_most_of_the_rows_is_split(tmp_path: Path) -> None:
    """Where new rows are far from all there were, or many are equal and cannot be split: the others can."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, (3000, 8)).astype(np.float32)
    far = (rng.normal(0, 1, (2500, 8)) + 30).astype(np.float32)
    index, _ = build_heir(tmp_path, base, np.arange(3000), far)
    assert np.diff(index.list_starts().astype(np.int64)).max() <= 2 * 128 * 1.2
    base[:1500] = 7
    (tmp_path / "equal").mkdir()
    index, rows = build_heir(tmp_path / "equal", base, np.arange(3000), far)
    assert sorted(np.diff(index.list_starts().astype(np.int64)))[-2] <= 2 * 128 * 1.2
    check_exact(index.search(rows[::300], 7, recall=1.0), rows, rows[::300], "l2")


def test_recall_and_cost_are_those_of_a_build_of_its_own(tmp_path: Path, real_data: Path) -> None:
    """Real descriptors, a third of which are other ones than before."""
    base, queries = (
        np.fromfile(real_data / f"bigann9k_{name}.u8bin", np.uint8, offset=8).reshape(-1, 128)
        for name in ("base", "query")
    )
    heir, rows = build_heir(tmp_path, base[:6000], np.arange(2000, 6000), base[6000:8000])
    own = Index.build(rows, tmp_path / "own")
    truth = exact_search(ArrayVectors(rows, "rows"), queries, 10, "l2")[0]
    recalls, costs = [], []
    for index in (heir, own):
        distances, _, stats = index.search(queries, 10, recall=0.95, return_stats=True)
        recalls.append(recall_at_k(distances, truth, 10, "l2"))
        costs.append(float((stats.pages_read + stats.pages_cached).mean()))
    assert recalls[0] > 0.94
    assert abs(recalls[0] - recalls[1]) < 0.02
    assert costs[0] < 1.15 * costs[1]


def test_only_an_index_that_fits_is_taken_over(tmp_path: Path) -> None:
    """Not one that was built otherwise, nor one of few of the rows or far more, or whose search space is too small."""
    base, settings = make_vectors(1000, 8, "float32"), dict[str, Any](metric="ip", rows_per_list=50)
    parent = Index.build(base, tmp_path / "parent", **settings)
    labels = parent.stored.labels()

    def untrained(kept: int, radius: float = 0.0, **other: Any) -> int:
        rows = np.concatenate([base[labels[labels < kept]], base[kept:]])
        Index.build(rows, tmp_path / "heir", overwrite=True, heritage=Heritage(parent, 0, labels < kept, radius),
                    **(settings | other))  # fmt: skip
        return int(read_manifest(tmp_path / "heir")["untrained_rows"])

    longest = parent.space.radius
    assert untrained(600, longest) == 400
    assert untrained(499, longest) == 0
    assert untrained(600, 1.01 * longest) == 0
    assert untrained(600, longest, rows_per_list=60) == 0
    assert untrained(600, longest, seed=1) == 0
    few, lone = labels < 400, labels < 0
    for alive in (few, lone):
        heir = Index.build(base[labels[alive]], tmp_path / "heir", overwrite=True,
                           heritage=Heritage(parent, 0, alive, longest), **settings)  # fmt: skip
        assert heir.rows == alive.sum()
        assert heir.lists < parent.lists / 2


@pytest.mark.parametrize("last", ["inherit", "assign", "calibrate"])
def test_a_build_that_takes_over_goes_on_where_it_stopped(tmp_path: Path, last: str) -> None:
    """Bit by bit as one that was not stopped; from the beginning where other rows are left of the index."""
    base = make_vectors(900, 8, "int8")
    parent = Index.build(base, tmp_path / "parent", rows_per_list=50)
    labels = parent.stored.labels()

    def build(name: str, gone: int, stop: str | None = None) -> dict[str, bytes]:
        def interrupt(phase: str, done: int, total: int) -> None:
            if phase == stop:
                raise KeyboardInterrupt

        alive = labels % 10 != gone
        rows = np.concatenate([base[labels[alive]], base[labels[~alive]][:20]])
        heir = Index.build(rows, tmp_path / name, rows_per_list=50, heritage=Heritage(parent, 0, alive, 0.0),
                           progress=interrupt)  # fmt: skip
        return {path.name: path.read_bytes() for path in heir.path.iterdir()}

    expected = build("whole", 3)
    for gone in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            build(f"stopped-{gone}", gone, last)
        assert build(f"stopped-{gone}", 3) == expected


def test_an_index_that_goes_while_it_is_taken_over_is_missed_in_one_sentence(tmp_path: Path) -> None:
    """Nothing half made gets the name."""
    base = make_vectors(900, 8, "int8")
    parent = Index.build(base, tmp_path / "parent", rows_per_list=50)

    def remove(phase: str, done: int, total: int) -> None:
        if phase == "inherit" and parent.path.exists():
            shutil.rmtree(parent.path)

    rows = base[parent.stored.labels()]
    heritage = Heritage(parent, 0, np.ones(900, bool), 0.0)
    with pytest.raises(InputError, match="parent"):
        Index.build(rows, tmp_path / "heir", rows_per_list=50, heritage=heritage, progress=remove)
    assert not (tmp_path / "heir").exists()


def test_merging_takes_over_the_largest_segment_and_compacting_builds_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does its calibration, where a user gave the queries; strangers count from merge to merge."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 200)
    base, queries = make_vectors(3000, 8, "uint8"), make_vectors(50, 8, "uint8", seed=9)
    Index.build(base[:2000], tmp_path / "index", rows_per_list=50)
    with LivingIndex.open(tmp_path / "index") as index:
        index.calibrate(queries)
        chosen = index._stack.parts[0].segment.index.calibration
        for start in (0, 450):
            index.delete(range(start, start + 450))
            index.add(base[2000 + start : 2450 + start], range(2000 + start, 2450 + start))
            index._maintainer.wait()
        parts = sorted(index._stack.parts, key=lambda part: -part.rows)
        manifest = read_manifest(parts[0].segment.folder)
        assert 400 <= manifest["untrained_rows"] <= 900
        assert not manifest["calibration"]["own_rows"]
        assert parts[0].segment.index.calibration == chosen
        for last in (2900, 2910):
            distances, ids = index.search(queries, 5, recall=1.0)
            check_exact((distances, ids - 900), base[900:last], queries, "l2")
            index.add(base[last : last + 10], range(last, last + 10))
            index.compact()
        assert read_manifest(index._stack.parts[0].segment.folder)["untrained_rows"] == 0
