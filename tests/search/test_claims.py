"""`tenfold reproduce search` from end to end, and the arithmetic of its curves."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors

from tenfold.cli import main
from tenfold.core.progress import no_progress
from tenfold.search import claims, experiments
from tenfold.search.baselines import NO_LIST, ListIndex
from tenfold.search.calibration import Tuning
from tenfold.search.data import write_vectors
from tenfold.search.experiments import (
    Curve,
    Point,
    SpannConfig,
    moved_bytes,
    open_spann,
    shared_pages,
    spann_curve,
    spann_lists,
)
from tenfold.search.index import Index
from tenfold.search.workload import Workload, load_workload, mixed_queries

CURVE = Curve(
    "curve",
    [Point(recall, pages, 0, 0, 0, "m", ()) for recall, pages in ((0.9, 10), (0.98, 40), (0.95, 50), (0.99, 160))],
)


def pages(point: Point) -> float:
    return point.pages


def write(path: Path, vectors: np.ndarray) -> None:
    write_vectors(path, [vectors], *vectors.shape, vectors.dtype, overwrite=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "base.u8bin", make_vectors(2500, 16, "uint8"))
    write(tmp_path / "query.u8bin", make_vectors(120, 16, "uint8", seed=5))
    return tmp_path


def test_front_leaves_out_settings_that_another_beats() -> None:
    assert [point.recall for point in CURVE.front(pages)] == [0.9, 0.98, 0.99]


def test_costs_between_settings_are_geometric() -> None:
    """Half-way between .90 at 10 and .98 at 40 lies 20."""
    assert math.isclose(CURVE.cost_at(0.94, pages) or 0, 20)
    assert CURVE.cost_at(0.995, pages) is None
    cheapest = CURVE.cheapest(0.94, pages)
    assert cheapest is not None and cheapest.pages == 40


def test_settings_around_a_recall_are_the_best_on_either_side() -> None:
    assert [point.recall for point in CURVE.around(0.95, pages, 1)] == [0.9, 0.98]
    assert [point.recall for point in CURVE.around(0.95, pages, 2)] == [0.9, 0.98, 0.99]
    assert [point.recall for point in CURVE.around(0.995, pages, 1)] == [0.99]


def test_moved_bytes_are_those_of_the_lists_that_hold_the_neighbours(folder: Path) -> None:
    """Recall 1 by brute force: probes are set so that the worst neighbour's list is still reached."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    routes = index.engine.route(index.space.queries(work.queries).space, index.lists, 1)[1]
    list_of = np.empty(index.rows, np.int64)
    list_of[index.stored.labels()] = np.repeat(np.arange(index.lists), np.diff(index.list_starts()).astype(int))
    probes = max(routes[query].tolist().index(list_of[row]) + 1 for query in range(120) for row in work.true_ids[query])
    sizes = np.diff(index.list_starts())
    expected = np.mean([sizes[routes[query, :probes]].sum() for query in range(120)]) * 16
    assert math.isclose(moved_bytes(index, work, 1.0, 1, 2), expected)


def test_spann_reads_the_same_lists_only_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slacks that prune nothing more are one setting; what is left gives the same trade-off as all would."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    config, probed, searches = SpannConfig(None, 1.0, None, (0.1, 50.0, 100.0)), (1, 2, 4, 8), []
    search = ListIndex.search

    def counted(lists: ListIndex, *given: Any) -> Any:
        searches.append(given)
        return search(lists, *given)

    monkeypatch.setattr(ListIndex, "search", counted)
    curve = spann_curve(index, work, [config], probed, (1.0,), folder / "spann", 0, 1, no_progress)
    assert not (folder / "spann").exists()
    lists = open_spann(index, config, spann_lists(index, None, 0, 1), folder / "spann", 1)
    settings = {
        (probes, slack): lists.route(work.queries, probes, slack, 1) for slack in config.slacks for probes in probed
    }
    read = {setting: [own[own != NO_LIST].tolist() for own in routes] for setting, routes in settings.items()}
    assert read[8, 50.0] == read[8, 100.0] != read[8, 0.1]  # what the test is about occurs
    assert len(searches) == len(curve.points) == len({str(own) for own in read.values()})
    monkeypatch.undo()
    for (probes, slack), own in read.items():
        pages = lists.search(work.queries, work.k, probes, slack, 1)[2].pages.mean()
        assert any(str(read[point.setting]) == str(own) and point.pages == pages for point in curve.points)


def test_spann_is_tuned_with_some_queries_and_measured_with_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the settings found with 20 queries the best are left, and have the recall and pages of all 120."""
    monkeypatch.setattr(experiments, "seconds", lambda point: 1 + point.codes)  # the same in every run
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    ways = [experiments.OWN_LISTS, SpannConfig(8, 1.5)]

    def curve() -> Curve:
        return spann_curve(index, work, ways, (1, 2, 4, 8, 16, 32), (0.9, 0.999), folder / "spann", 0, 1, no_progress)

    whole = {(point.method, point.setting): point for point in curve().points}
    monkeypatch.setattr(experiments, "_SPANN_TUNED", 20)
    found = curve().points
    assert 2 <= len(found) < len(whole) and {point.method for point in found} == set(map(str, ways))
    for point in found:
        assert (point.recall, point.pages) == whole[point.method, point.setting][:2]
    assert not (folder / "spann").exists()


def test_spann_stops_where_more_lists_cannot_help(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pruning of a way gets one number of lists where that is too much already, all numbers where not."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    config = SpannConfig(None, 1.0, None, (50.0,))
    for most, tried in ((8192, [1, 2, 4, 8]), (0, [1])):
        monkeypatch.setattr(experiments, "_SPANN_READ", most)
        curve = spann_curve(index, work, [config], (1, 2, 4, 8), (1.0,), folder / "spann", 0, 1, no_progress)
        assert [point.setting[0] for point in curve.points] == tried


@pytest.mark.parametrize(
    ("recall", "pages", "qps", "behind"),
    [(0.94, 61, 16, True), (0.94, 59, 16, False), (0.94, 61, 17, False), (0.985, 1000, 1, False)],
    ids=["three times both", "in time only", "in pages only", "nobody gets there"],
)
def test_a_setting_is_behind_in_pages_and_in_time(recall: float, pages: float, qps: float, behind: bool) -> None:
    """Known settings reach .94 with 20 pages, 50 times a second."""
    known = [Point(0.9, 10, 0, 100, 0, "m", ()), Point(0.98, 40, 0, 25, 0, "m", ())]
    assert experiments._is_behind(Point(recall, pages, 0, qps, 0, "n", ()), Curve("SPANN", known)) == behind


def test_spanns_room_is_its_own_limit(folder: Path) -> None:
    """3 pages of lists of bytes, and multiples of that; copies beyond it are left out."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    lists = spann_lists(index, 200, 0, 1)
    longest = {}
    for room in (1, 3, None):
        spann = open_spann(index, SpannConfig(200, math.inf, room), lists, folder / "spann", 1)
        longest[room] = int(spann.search(work.queries, 10, 1, 1e9, 1)[2].pages.max())
    assert longest[1] == 3 < longest[3] <= 9 and longest[3] <= longest[None]


def test_a_fixed_number_reads_all_its_candidates_and_no_more(folder: Path) -> None:
    """What B5 is measured against, as whole searches; rows that lie in two of the lists are scored once."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    stats = index.search_tuned(work.queries, 10, Tuning(8, 40, experiments._ALL), 1, score_whole_pages=False)[2]
    assert set(stats.candidates.tolist()) == {40}
    assert stats.rows_scored.min() > 30 and stats.rows_scored.max() == 40


def test_pages_that_a_batch_shares_are_counted_without_those_of_earlier_searches(folder: Path) -> None:
    """Fifty queries alike share 49 of 50 pages; a single query shares none, however often it is asked."""
    work = load_workload(folder, None, 1000, no_progress)
    index = Index.build(work.base, folder / "index")
    alone = work.part(slice(0, 1))
    assert shared_pages(index, alone, 0.95, 1) == shared_pages(index, alone, 0.95, 1) == 0
    alike = replace(alone, queries=np.repeat(alone.queries, 50, 0))
    assert shared_pages(index, alike, 0.95, 1) == pytest.approx(0.98)


def test_later_seeds_try_what_was_best_on_both_sides_of_a_recall() -> None:
    """.90 lies between .89 by one pruning and .97 by another: both stay; the way that is never best goes."""
    good, bad = SpannConfig(8, 1.0), SpannConfig(16, 1.0)
    settings = [(good, 0.3, 0.89, 10), (good, 0.6, 0.97, 20), (good, 10.0, 0.99, 90), (bad, 0.6, 0.99, 1000)]
    points = [Point(recall, cost, 0, 1 / cost, 0, str(way), (4, slack)) for way, slack, recall, cost in settings]
    assert claims._chosen(Curve("SPANN", points), [good, bad]) == (good,)
    assert claims._chosen(Curve("SPANN", points[:2]), [good, bad]) == (good._replace(slacks=(0.3, 0.6)),)


def test_mixed_queries_are_middles() -> None:
    queries = np.array([[0, 10], [4, 20], [8, 30]], np.uint8)
    mixed = mixed_queries(queries)
    assert mixed.shape == (6, 2) and mixed.dtype == np.uint8
    middles = {tuple(np.rint((a.astype(float) + b) / 2)) for a in queries for b in queries}
    assert {tuple(row) for row in mixed.astype(float)} <= middles


def test_the_command_measures_every_claim_and_writes_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_REPEATS", 1)
    out = folder / "out"
    arguments = ["reproduce", "search", "--data", str(folder), "--quick", "--seeds", "2", "--out", str(out), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    found = {row["claim"]: row for row in report["tables"][0]["rows"]}
    assert set(found) == set(claims.CLAIMS)
    assert {row["verdict"] for row in found.values()} <= {"holds", "refuted", "undecided"}
    assert found["B4"]["mean"] == 0 and found["C2"]["mean"] >= 0
    assert sorted(path.name for path in out.iterdir()) == [
        "search-1.svg", "search-2.svg", "search-3.svg", "search.html", "search.json", "search.md",
    ]  # fmt: skip
    assert (out / "search.html").read_text().count("<svg") == 3
    assert json.loads((out / "search.json").read_text()) == report


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "query.u8bin").unlink(), "0 files are called query"),
        (lambda folder: write(folder / "base.u8bin", make_vectors(9, 16, "uint8")[:0]), "base holds no vectors"),
        (lambda folder: write(folder / "base.fbin", make_vectors(9, 16, "float32")), "2 files are called base"),
        (lambda folder: write(folder / "query.u8bin", make_vectors(120, 8, "uint8")), "must be alike"),
        (lambda folder: write(folder / "query.u8bin", make_vectors(9, 16, "uint8")), "give 100 or more"),
        (lambda folder: (folder / "about.json").write_text("[1]"), "no JSON object"),
        (lambda folder: (folder / "about.json").write_text('{"metric": "dice"}'), "'dice'"),
    ],
)
def test_folders_that_hold_no_workload(folder: Path, spoil: object, said: str, capsys: pytest.CaptureFixture) -> None:
    assert callable(spoil)
    spoil(folder)
    assert main(["reproduce", "search", "--data", str(folder), "--out", str(folder / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not list((folder / "out").iterdir())


@pytest.mark.parametrize("seeds", ["0", "17"])
def test_seeds_out_of_range(folder: Path, seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "search", "--data", str(folder), "--out", str(folder / "out"), "--seeds", seeds]) == 2
    assert "from 1 to 16" in capsys.readouterr().err


def test_asking_other_queries_keeps_the_vectors(folder: Path) -> None:
    work: Workload = load_workload(folder, 1000, 100, no_progress)
    assert work.base.rows == 1000 and len(work.queries) == 100
    part = work.asked(mixed_queries(work.queries), no_progress).part(slice(0, 50))
    assert part.true_ids.shape == (50, work.k) and part.base is work.base
