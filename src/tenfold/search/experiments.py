"""What the claims are measured with: trade-offs of recall and cost, of Tenfold and of what the paper compares with.

n rows · q queries · k results
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tenfold.core.progress import Progress
from tenfold.search.baselines import NO_LIST, ListIndex, Lists, moved_rows
from tenfold.search.calibration import EVERYTHING, Tuning
from tenfold.search.exact import recall_at_k
from tenfold.search.index import Index, Rerank, SearchStats
from tenfold.search.pages import page_layout
from tenfold.search.workload import Workload

__all__ = [
    "OWN_LISTS",
    "Curve",
    "Point",
    "ReadRules",
    "SpannConfig",
    "alternate",
    "id_bytes",
    "latencies",
    "layout_pages",
    "moved_bytes",
    "open_spann",
    "pages",
    "read_rules",
    "seconds",
    "shared_pages",
    "shortfall",
    "spann_curve",
    "spann_lists",
    "tenfold_curve",
    "whole_page_gain",
]

_RECALLS = (0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995)
_SPANN_SLACKS = (0.3, 0.6, 10.0)  # the last one in effect prunes nothing
_SPANN_PAGES = 3  # of a list at most, times the bytes of a number: SPANN's own limits, 3 and 12
_SPANN_TUNED = 500  # queries
_SPANN_NEAR = 4  # settings on either side of a recall that are measured with all: 500 queries rank them roughly
_SPANN_READ = 8192  # pages, 32 MiB, for one query: more lists than that are not probed
_BEHIND = 3.0  # times as many pages and as slow as known settings: more probes will not make up for that
_SHORTLIST = 512
_ID_BYTES = 4  # of a list entry, sent to the device
_REPEATS = 5
_ALL = -1e6  # as z: every candidate is read, in two rounds as with our bound


class SpannConfig(NamedTuple):
    """How SPANN's lists are made: rows per list before copies (None: the lists of our index), and spacing.

    A list has room for `room` times SPANN's own limit of pages (None: no limit); `slacks` are tried when lists are
    pruned.
    """

    rows_per_list: int | None
    spacing: float
    room: int | None = 1
    slacks: tuple[float, ...] = _SPANN_SLACKS

    def __str__(self) -> str:
        lists = "our lists" if self.rows_per_list is None else f"{self.rows_per_list} rows per list"
        room = "" if self.room in (None, 1) else f", {self.room} times the room"
        return f"{lists}, spacing {self.spacing:g}{room}"


OWN_LISTS = SpannConfig(None, 1.0, None)


class Point(NamedTuple):
    """One setting: recall, what a query costs on average, and how to run it again."""

    recall: float
    pages: float
    reads: float
    qps: float
    codes: float
    method: str
    setting: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """Settings of one method."""

    name: str
    points: list[Point]

    def of(self, method: str) -> "Curve":
        """The settings of one way."""
        return Curve(method, [point for point in self.points if point.method == method])

    def front(self, cost: Callable[[Point], float]) -> list[Point]:
        """The settings that no other beats in both recall and cost, by recall."""
        front: list[Point] = []
        for point in sorted(self.points, key=lambda point: (-point.recall, cost(point))):
            if not front or cost(point) < cost(front[-1]):
                front.append(point)
        return front[::-1]

    def cost_at(self, recall: float, cost: Callable[[Point], float]) -> float | None:
        """The cost at a recall, between two settings by its logarithm; None where it is not reached."""
        front = self.front(cost)
        if not front or recall > front[-1].recall:
            return None
        costs = np.log([cost(point) for point in front])
        return float(np.exp(np.interp(recall, [point.recall for point in front], costs)))

    def around(self, recall: float, cost: Callable[[Point], float], each: int) -> list[Point]:
        """So many settings of the front on either side of a recall."""
        front = self.front(cost)
        at = bisect_left([point.recall for point in front], recall)
        return front[max(0, at - each) : at + each]

    def cheapest(self, recall: float, cost: Callable[[Point], float]) -> Point | None:
        """The cheapest setting that reaches a recall."""
        return min((point for point in self.points if point.recall >= recall), key=cost, default=None)


def pages(point: Point) -> float:
    """4 KiB pages per query."""
    return point.pages


def seconds(point: Point) -> float:
    """Per query."""
    return 1 / point.qps


def tenfold_curve(index: Index, work: Workload, threads: int) -> Curve:
    """Our index, by its one knob; pages that another query of the batch had read already count too."""
    points = []
    for wanted in _RECALLS:
        start = time.perf_counter()
        distances, _, stats = index.search(work.queries, work.k, recall=wanted, threads=threads, return_stats=True)
        qps = len(work.queries) / (time.perf_counter() - start)
        pages = _mean(stats.pages_read) + _mean(stats.pages_cached)
        recall = recall_at_k(distances, work.true_distances, work.k, work.metric)
        points.append(Point(recall, pages, pages, qps, _mean(stats.codes_scanned), "Tenfold", (wanted,)))
    return Curve("Tenfold", points)


def open_spann(index: Index, config: SpannConfig, lists: Lists, path: Path, threads: int) -> ListIndex:
    """Write SPANN's lists of the vectors of an index to a file and open it; `lists` are those of `spann_lists`."""
    limit = config.room and config.room * _SPANN_PAGES * index.dtype.itemsize
    return ListIndex(index, lists, path, spacing=config.spacing, page_limit=limit, threads=threads)


def spann_lists(index: Index, rows_per_list: int | None, seed: int, threads: int) -> Lists:
    """The lists of the index itself (None), or lists grown for SPANN."""
    return Lists.of_index(index, threads) if rows_per_list is None else Lists.grown(index, rows_per_list, seed, threads)


def spann_curve(
    index: Index, work: Workload, configs: Sequence[SpannConfig], probed: Sequence[int], recalls: Sequence[float],
    path: Path, seed: int, threads: int, progress: Progress,
) -> Curve:  # fmt: skip
    """SPANN tuned over how its lists are made, how many are probed and how hard they are pruned.

    Tuned with the first 500 queries; the best settings near the recalls that matter, and the best over the lists of our
    index, are measured with all. Settings that come to the same lists for every query, because nothing more was pruned,
    are measured once. More lists are probed until the highest recall is passed, or a query reads 32 MiB, or the setting
    is far behind known ones.

    Args:
        index: Gives vectors, search space and I/O back end.
        work: What is searched.
        configs: Ways to make the lists; those of equal lists side by side.
        probed: Numbers of lists to probe, rising.
        recalls: That matter, rising.
        path: File that the lists are written to, one way after the other; removed.
        seed: Of the lists.
        threads: Used.
        progress: Called after each way.
    """
    grown = lru_cache(maxsize=1)(partial(spann_lists, index, seed=seed, threads=threads))

    def opened(config: SpannConfig) -> ListIndex:
        lists = open_spann(index, config, grown(config.rows_per_list), path, threads)
        path.unlink()
        return lists

    some, curve = work.part(slice(0, _SPANN_TUNED)), Curve("SPANN", [])
    for number, config in enumerate(configs):
        _try_spann(curve, opened(config), some, config, probed, recalls[-1], threads)
        progress("tuning SPANN", number + 1, len(configs))
    if len(some.queries) == len(work.queries):
        return curve
    curves, costs = (curve, curve.of(str(OWN_LISTS))), (pages, seconds)
    best = {
        point for of, recall, cost in product(curves, recalls, costs) for point in of.around(recall, cost, _SPANN_NEAR)
    }
    found = Curve("SPANN", [])
    for config in configs:
        if chosen := sorted(point for point in best if point.method == str(config)):
            lists = opened(config)
            found.points.extend(_spann_point(lists, work, point.method, point.setting, threads) for point in chosen)
    return found


def _try_spann(
    curve: Curve, lists: ListIndex, work: Workload, config: SpannConfig, probed: Sequence[int], enough: float,
    threads: int,
) -> None:  # fmt: skip
    """Add to the curve what one way to make lists gives."""
    known: dict[bytes, Point] = {}  # by the lists that are read
    for slack in config.slacks:
        for probes in probed:
            read = lists.route(work.queries, probes, slack, threads)
            key = b"".join(own[own != NO_LIST].tobytes() + b"," for own in read)
            if key not in known:
                known[key] = _spann_point(lists, work, str(config), (probes, slack), threads)
                curve.points.append(known[key])
            if known[key].recall > enough or known[key].pages > _SPANN_READ or _is_behind(known[key], curve):
                break


def _is_behind(point: Point, curve: Curve) -> bool:
    """Whether other settings reach its recall at a fraction of its pages, and of its time."""
    costs = [(curve.cost_at(point.recall, cost), cost(point)) for cost in (pages, seconds)]
    return all(known is not None and _BEHIND * known < own for known, own in costs)


def _spann_point(lists: ListIndex, work: Workload, method: str, setting: tuple[float, ...], threads: int) -> Point:
    start = time.perf_counter()
    distances, _, stats = lists.search(work.queries, work.k, int(setting[0]), setting[1], threads)
    qps = len(work.queries) / (time.perf_counter() - start)
    recall = recall_at_k(distances, work.true_distances, work.k, work.metric)
    read, reads, scored = _mean(stats.pages), _mean(stats.reads), _mean(stats.rows_scored)
    return Point(recall, read, reads, qps, scored, method, setting)


def alternate(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each run, turn by turn, so that what else the machine does falls on all of them."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for own, run in zip(seconds, runs, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return seconds


def latencies(search: Callable[[np.ndarray], object], queries: np.ndarray) -> np.ndarray:
    """Milliseconds of each query, one at a time."""
    found = []
    for number in range(len(queries)):
        start = time.perf_counter()
        search(queries[number : number + 1])
        found.append(1000 * (time.perf_counter() - start))
    return np.array(found)


def moved_bytes(index: Index, work: Workload, recall: float, batch: int, threads: int) -> float:
    """Bytes per query that RUMMY moves to the device: whole vectors of as many lists as the recall needs.

    Vectors are compared exactly, so a neighbour is found where its own list is probed.
    """
    routes = index.engine.route(index.space.queries(work.queries, threads).space, index.lists, threads)[1]
    position_of = np.argsort(index.stored.labels())
    own = np.searchsorted(index.list_starts(), position_of[work.true_ids], "right") - 1
    ranks = np.full((len(routes), index.lists), index.lists, np.int64)
    rows, ranked = np.nonzero(routes < index.lists)
    ranks[rows, routes[rows, ranked]] = ranked
    needed = np.sort(np.take_along_axis(ranks, own, 1).ravel())
    probes = int(needed[int(np.ceil(recall * len(needed))) - 1]) + 1
    row_bytes: int = index.dim * index.dtype.itemsize
    return row_bytes * moved_rows(index, routes[:, :probes], batch)


def id_bytes(curve: Curve, recall: float) -> float | None:
    """Bytes per query that we move there: an id for each list entry that is scanned."""
    codes = curve.cost_at(recall, lambda point: point.codes)
    return None if codes is None else _ID_BYTES * codes


class ReadRules(NamedTuple):
    """Vectors asked for per query under three rules, and recalls, on the same candidates.

    A fixed number and the paper's rule score what they asked for. The paper's rule once more and our bound score all
    rows of the pages that were read, as our index does. `faster`: queries per second of whole searches, our bound with
    as many candidates as the fixed number's recall takes, against the fixed number. `third_rounds`: share of queries
    for which our bound reads in more than two rounds.
    """

    fixed: float
    fixed_recall: float
    paper: float
    paper_recall: float
    paper_whole: float
    paper_whole_recall: float
    bound: float
    bound_recall: float
    third_rounds: float
    faster: float


@dataclass(frozen=True)
class _Shortlist:
    """Candidates of each query, the nearest by their codes first, and how to re-rank them."""

    index: Index
    work: Workload
    threads: int
    found: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def scanned(cls, index: Index, work: Workload, probes: int, threads: int) -> "_Shortlist":
        wanted = min(_SHORTLIST, index.rows)
        space = index.space.queries(work.queries, threads).space
        return cls(index, work, threads, index.engine.scan(space, probes, wanted, threads))

    def rerank(self, most: int, z: float, rule: Rerank, *, whole: bool = False) -> tuple[float, SearchStats]:
        """Recall, and what each query cost, with at most the `most` nearest of the candidates."""
        work, parts = self.work, (np.ascontiguousarray(part[:, :most]) for part in self.found)
        queries = self.index.space.queries(work.queries, self.threads)
        distances, _, stats = self.index.engine.rerank(
            work.queries, *queries, *parts, work.k, z, rule, whole, self.threads
        )
        recall = recall_at_k(distances, work.true_distances, work.k, work.metric)
        return recall, SearchStats(*np.ascontiguousarray(stats.T))


def read_rules(index: Index, work: Workload, probes: int, z: float, threads: int) -> ReadRules:
    """The paper's rule against a fixed number on the safe side, and our bound against the paper's rule.

    The fixed number is the smallest multiple of k that loses at most 0.1 points of recall against reading all
    512 candidates. The bound gets as many candidates, nearest by their codes, as it needs to find as many neighbours
    as the paper's rule.
    """
    shortlist = _Shortlist.scanned(index, work, probes, threads)
    ceiling, _ = shortlist.rerank(_SHORTLIST, EVERYTHING, "bound")
    for most in range(work.k, _SHORTLIST + 1, work.k):
        fixed_recall, fixed = shortlist.rerank(most, EVERYTHING, "bound")
        if fixed_recall >= ceiling - 0.001:
            break
    paper_recall, paper = shortlist.rerank(most, 0.0, "paper")

    whole_recall, whole = shortlist.rerank(most, 0.0, "paper", whole=True)

    def needed(wanted: float) -> int:
        """Candidates that our bound finds so many neighbours with."""
        return work.k + bisect_left(
            range(work.k, most), wanted, key=lambda count: shortlist.rerank(count, z, "bound", whole=True)[0]
        )

    bound_recall, bound = shortlist.rerank(needed(whole_recall), z, "bound", whole=True)

    def search(candidates: int, z: float, whole: bool) -> None:
        index.search_tuned(work.queries, work.k, Tuning(probes, candidates, z), threads, score_whole_pages=whole)

    ours, theirs = alternate(
        [partial(search, needed(fixed_recall), z, True), partial(search, most, _ALL, False)], _REPEATS
    )
    return ReadRules(
        _mean(fixed.candidates), fixed_recall, _mean(paper.candidates), paper_recall,
        _mean(whole.candidates), whole_recall, _mean(bound.candidates), bound_recall, _mean(bound.rounds > 2),
        float(np.median(theirs) / np.median(ours)),
    )  # fmt: skip


def shared_pages(index: Index, work: Workload, recall: float, threads: int) -> float:
    """Share of the pages of a batch that another of its queries had read."""
    fresh = Index.open(index.path)  # no earlier search has left pages behind
    stats = fresh.search(work.queries, work.k, recall=recall, threads=threads, return_stats=True)[2]
    return _mean(stats.pages_cached) / (_mean(stats.pages_read) + _mean(stats.pages_cached))


def layout_pages(index: Index, work: Workload, probes: int, most: int, threads: int) -> tuple[float, float]:
    """Pages per query on which the `most` nearest candidates lie: in our order on disk, and in order of ids."""
    positions = index.engine.scan(index.space.queries(work.queries, threads).space, probes, most, threads)[0]
    per_page = page_layout(index.dim * index.dtype.itemsize)[0]
    labels = index.stored.labels()
    rows = [np.unique(own[own < index.rows]) for own in positions]
    return _mean_distinct(own // per_page for own in rows), _mean_distinct(labels[own] // per_page for own in rows)


def whole_page_gain(index: Index, work: Workload, threads: int) -> float:
    """The least that scoring the other rows of read pages adds to recall, over all settings of the knob."""
    gains = []
    for wanted in _RECALLS:
        recalls = []
        for whole in (False, True):
            distances, _ = index.search(work.queries, work.k, recall=wanted, score_whole_pages=whole, threads=threads)
            recalls.append(recall_at_k(distances, work.true_distances, work.k, work.metric))
        gains.append(recalls[1] - recalls[0])
    return min(gains)


def shortfall(index: Index, work: Workload, recalls: Sequence[float], threads: int) -> float:
    """The most by which the recall that was asked for is missed."""
    missed = []
    for wanted in recalls:
        distances, _ = index.search(work.queries, work.k, recall=wanted, threads=threads)
        missed.append(wanted - recall_at_k(distances, work.true_distances, work.k, work.metric))
    return max(missed)


def _mean_distinct(groups: Iterable[np.ndarray]) -> float:
    return float(np.mean([len(np.unique(group)) for group in groups]))


def _mean(values: np.ndarray) -> float:
    return float(values.mean())
