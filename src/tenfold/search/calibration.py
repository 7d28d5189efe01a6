"""From a wanted recall to settings: measured on queries whose true neighbours are known.

The truth comes from exact search. A candidate with estimate e and squared residual error r is worth
a disk read while e + z sqrt(e r) is below the k-th exact distance; (d - e) / sqrt(e r) over true
neighbours says which z loses how many. A list is scanned while its centroid is not much farther than
the nearest: queries in sparse places, whose neighbours are scattered, scan more lists than others.
Then, for every level of recall, the cheapest of some settings of probes, candidates and z that reach
it is kept.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress
from tenfold.search.exact import check_queries, exact_search, recall_at_k
from tenfold.search.settings import MOST_COPIES

if TYPE_CHECKING:
    from tenfold.search.index import Index

__all__ = ["EVERYTHING", "Calibration", "Tuning", "calibrate"]

EVERYTHING = -math.inf  # as z: every row that was scanned is read
_LEVELS = (0.8, 0.9, 0.95, 0.99, 0.995)
_LEAST_STEP = 1e-3  # from level to level: what is missed must differ, also as rounded
_QUERIES = {10: 500, 100: 150}  # by k: a query tells k things about recall
_FEWEST_QUERIES = 100  # where the index has no more than 2,000 rows
_LOST = (0.5, 0.2)  # of the true neighbours, by z, among the candidates that are not read at once
_CANDIDATES_PER_RESULT = (1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.8, 3.2, 3.6, 4.0, 4.4, 4.8, 5.6, 6.4, 8.0)
_TRUTH = 101
_MOST = 1 << 33  # nothing counted here is larger, and it times any k is still a number
_CHECKED_K, _CHECKED_LEVELS = 10, (0.95, 0.99)  # of an earlier calibration
_OFF = (0.0, 0.5)  # of what a level misses: how much less and more an earlier calibration may find
_OFF_GIVEN = (0.5, 1.0)  # one that was measured on a user's queries: rows need not be like those
_REFERENCE, _CLOSER = 1, 0.2  # of a margin, as in native/routing
_ROUTED, _FEWEST_ROUTED = 1 << 20, 20  # lists and queries that a margin is chosen by
_SPREAD = (2, 40)  # the most lists a query may scan, times the mean and some: the tail of its time is their number
_WIDENING = 0.6  # of the margin, for a factor of lists: measured on text, docstrings and SIFT, 0.5 to 0.75
_MORE_STEPS = (2, 8)  # of probes: a little more than can just do, and half as many again


class _Work(NamedTuple):
    """Of one query, on average; or what each costs, in microseconds, where settings compete."""

    pages: float
    rounds: float
    codes: float
    probes: float

    def of(self, work: "_Work") -> float:
        return sum(cost * count for cost, count in zip(self, work, strict=True))


# A page costs a read from disk at depth, or the scoring of its rows. A round costs a batch nothing, and a single query
# the wait for a read: something between.
_MEDIA = {"disk": _Work(30.0, 20.0, 0.003, 0.2), "memory": _Work(0.8, 0.0, 0.003, 0.2)}


class Tuning(NamedTuple):
    """Settings of one search.

    Attributes:
        probes: Lists that a query scans: on average, or with an infinite margin always.
        candidates: Most codes to keep for re-ranking.
        z: How far below its estimate the distance of a candidate is reckoned with.
        margin: The lists, at distances d_1, d_2, ... in rising order, are scanned while
            d_i - d_1 <= margin d_2 / i^0.2: less far the more of them there are.
    """

    probes: int
    candidates: int
    z: float
    margin: float = math.inf

    @property
    def most_probes(self) -> int:
        """No query scans more lists."""
        times, some = _SPREAD
        return self.probes if math.isinf(self.margin) else times * self.probes + some

    def scanning(self, probes: int) -> "Tuning":
        """With this number of lists for every query."""
        return self._replace(probes=probes, margin=math.inf)

    def wider(self, factor: float, lists: int) -> "Tuning":
        """With about `factor` times as many lists, all of them at most."""
        probes = math.ceil(factor * self.probes)
        if probes >= lists or self.margin == 0:
            return self.scanning(min(probes, lists))
        return self._replace(probes=probes, margin=self.margin * factor**_WIDENING)


Levels = dict[int, list[tuple[float, Tuning]]]


@dataclass
class Calibration:
    """For k = 10 and 100: levels of recall, rising, each with the settings that reach it at the least cost.

    Attributes:
        levels: Where vectors are read from disk: few pages, for more lists scanned.
        memory: Where they are in memory: few lists, for more pages scored.
        own_rows: Measured on rows of the index, not on queries given by the user.
    """

    levels: Levels = field(default_factory=dict)
    memory: Levels = field(default_factory=dict)
    own_rows: bool = True

    def tuning(self, k: int, recall: float, lists: int, rows: int, *, in_memory: bool = False) -> Tuning:
        """Settings for `recall`, between levels in proportion; the whole index where no measured level suffices."""
        levels = self.memory if in_memory else self.levels
        if k < min(levels, default=k):
            # A single nearest neighbour is lost or found whole: recall of so few differs more between sets of
            # queries than it was measured to on ten. Half the misses are asked for.
            recall = 1 - (1 - recall) / 2
        known = next((known for known in sorted(levels) if known >= k), max(levels, default=0))
        tuning = _at(levels.get(known, []), recall)
        if tuning is None:
            return Tuning(lists, max(1, rows), EVERYTHING)
        if k > known:  # beyond the largest measured k: in proportion
            return tuning.wider(k / known, lists)._replace(candidates=int(tuning.candidates * k / known))
        # Fewer results need fewer candidates; as many as the next smaller k that was measured.
        fewer = (_at(levels[smaller], recall) for smaller in sorted(levels, reverse=True) if smaller < k)
        least = next((some.candidates for some in fewer if some), tuning.candidates)
        return tuning._replace(candidates=min(tuning.candidates, max(least, math.ceil(tuning.candidates * k / known))))

    def to_json(self) -> dict[str, Any]:
        """As kept in the manifest."""

        def written(levels: Levels) -> dict[str, Any]:
            return {str(k): [_written(*entry) for entry in entries] for k, entries in levels.items()}

        return {"levels": written(self.levels), "memory": written(self.memory), "own_rows": self.own_rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Calibration":
        """Read back; InputError where the content is not a calibration."""
        try:
            return cls(_read_levels(data["levels"]), _read_levels(data["memory"]), bool(data["own_rows"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise InputError("manifest.json: its calibration is not readable; run `tenfold search tune`") from None


def _written(level: float, tuning: Tuning) -> list[float]:
    probes, candidates, z, margin = tuning
    return [level, probes, candidates, z] if math.isinf(margin) else [level, probes, candidates, z, margin]


def _read_levels(data: dict[str, Any]) -> Levels:
    levels = {
        int(k): [(float(level), Tuning(int(p), int(c), float(z), *map(float, m))) for level, p, c, z, *m in entries]
        for k, entries in data.items()
    }
    for k, entries in levels.items():
        recalls = [level for level, _ in entries]
        counts = [k, *(count for _, tuning in entries for count in (tuning.probes, tuning.candidates))]
        whole = all(1 <= count < _MOST for count in counts) and all(-1e6 < t.z < 1e6 for _, t in entries)
        whole = whole and all(tuning.margin >= 0 for _, tuning in entries)
        rising = all(higher - lower >= _LEAST_STEP for lower, higher in itertools.pairwise(recalls))
        if not whole or not rising or not all(0 < level < 1 for level in recalls):
            raise ValueError("out of range")
    return levels


def _at(entries: list[tuple[float, Tuning]], recall: float) -> Tuning | None:
    """Settings for `recall`: of the first level that suffices, or between it and the one before.

    Beyond the highest level, on from the last two. None where that level was not reached, and for all of it.
    """
    at = bisect_left([level for level, _ in entries], recall - 1e-9)
    if at == len(entries):
        if len(entries) < 2 or entries[-1][0] != _LEVELS[-1] or recall == 1:
            return None
        below, highest = entries[-2:]
        return _between(below, highest, recall)._replace(z=min(below[1].z, highest[1].z))
    level, tuning = entries[at]
    return _between(entries[at - 1], entries[at], recall) if at and recall < level - 1e-9 else tuning


def _between(lower: tuple[float, Tuning], upper: tuple[float, Tuning], recall: float) -> Tuning:
    """Settings between two levels: what is missed falls by about the same factor for every factor of probes."""
    (low, less), (high, more) = lower, upper
    share = math.log((1 - low) / (1 - recall)) / math.log((1 - low) / (1 - high))
    probes, candidates = (
        math.ceil(min(_grown(few, many, share) - 1e-9, _MOST)) for few, many in zip(less[:2], more[:2], strict=True)
    )
    z = less.z + share * (more.z - less.z)
    if math.isinf(less.margin) != math.isinf(more.margin) or less.margin == 0:  # as many lists, of two kinds
        return Tuning(more.probes, candidates, z, more.margin)
    if math.isinf(more.margin):
        return Tuning(probes, candidates, z)
    return Tuning(probes, candidates, z, _grown(less.margin, more.margin, share))


def _grown(few: float, many: float, share: float) -> float:
    """A share of the way, beyond 1 too, from one number to the other: by the same factor for every step."""
    try:
        return float(few * (many / few) ** share)
    except OverflowError:  # far beyond the highest level, where that took very many times more than the one before
        return math.inf


def calibrate(
    index: "Index", queries: np.ndarray | None, threads: int, progress: Progress, earlier: Calibration | None = None
) -> Calibration:
    """Measure on `queries`, or on rows of the index itself, each of which then ignores its own match.

    What was measured `earlier`, on an index of like rows and size, is kept where it holds here too.

    Raises InputError for an array of no queries, and for what `check_queries` refuses.
    """
    if queries is not None:
        queries = check_queries(queries, index.dim, index.dtype)
        if len(queries) == 0:
            raise InputError("no queries to calibrate with; give a few hundred, or leave them out to take own rows")
    if index.rows < 2:
        return Calibration()
    own = None
    if queries is None:
        count = min(max(_QUERIES.values()), max(_FEWEST_QUERIES, index.rows // 20), index.rows)
        own = _spread(index.rows, count)
        queries = check_queries(index.stored.at(own), index.dim, index.dtype)
    else:
        queries = queries[_spread(len(queries), max(_QUERIES.values()))]
    trial = _Trial(index, queries, own, threads, progress)
    if earlier is not None and trial.confirms(earlier):
        return earlier
    found = {k: trial.levels(k) for k in _QUERIES if k < index.rows}
    levels, memory = ({k: found[k][medium] for k in found} for medium in _MEDIA)
    return Calibration(levels, memory, own is not None)


class _Trial:
    """The calibration queries, their truth, and searches with chosen settings."""

    def __init__(
        self, index: "Index", queries: np.ndarray, own: np.ndarray | None, threads: int, progress: Progress
    ) -> None:
        self.index, self.queries, self.own, self.threads = index, queries, own, threads
        self.progress, self.done = progress, 0
        self.fewest_of: dict[float, int] = {}  # by level, for the last k
        width = min(_TRUTH, index.rows)
        distances, positions = exact_search(
            index.stored, queries, width, index.metric, threads=threads, progress=progress
        )
        if own is not None:
            distances, positions = _without(distances, positions, own)
        self.truth = distances
        self.asked = {k: _spread(len(queries), count) for k, count in _QUERIES.items()}
        self.zs = self._bound_quantiles(distances, positions)
        # Not `lru_cache`: a method kept in its object would keep the index alive, until the collector comes.
        self._known_margins: dict[int, float] = {}
        self._known: dict[tuple[int, int, int, float, float], tuple[float, _Work]] = {}

    def _bound_quantiles(self, distances: np.ndarray, positions: np.ndarray) -> list[float]:
        estimates, errors, base, slope = self.index.estimates(self.queries, positions, self.threads)
        exact = base[:, None] + slope[:, None] * distances
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (exact - estimates) / (np.sqrt(np.maximum(estimates, 0)) * np.sqrt(errors))
        ratios = ratios[np.isfinite(ratios)]
        if len(ratios) == 0:
            return [-1.0]
        return sorted({min(0.0, float(np.quantile(ratios, lost))) for lost in _LOST})

    def margin(self, probes: int) -> float:
        """With which the calibration queries scan that many lists on average."""
        if probes not in self._known_margins:
            self._known_margins[probes] = self._margin(probes)
        return self._known_margins[probes]

    def _margin(self, probes: int) -> float:
        if probes >= self.index.lists:
            return math.inf
        most = min(Tuning(probes, 1, 0, 0).most_probes, self.index.lists)
        some = self.queries[_spread(len(self.queries), max(_FEWEST_ROUTED, _ROUTED // most))]
        space = self.index.space.queries(some, self.threads).space
        margins = _margins(self.index.engine.route(space, most, self.threads)[0]).ravel()
        last = len(some) * probes - 1
        margins.partition(last)
        return float(margins[last])

    def search(self, k: int, probes: int, candidates: int, z: float, margin: float) -> tuple[float, _Work]:
        """Recall and mean work of the calibration queries with these settings."""
        settings = k, probes, candidates, z, margin
        if settings not in self._known:
            self._known[settings] = self._search(*settings)
        return self._known[settings]

    def _search(self, k: int, probes: int, candidates: int, z: float, margin: float) -> tuple[float, _Work]:
        more = 0 if self.own is None else 1
        some = self.asked[k]
        distances, ids, stats = self.index.search_tuned(
            self.queries[some], k + more, Tuning(probes, candidates, z, margin), self.threads
        )
        if self.own is not None:
            distances, _ = _without(distances, ids, self.index.stored.labels()[self.own[some]])
        pages = float((stats.pages_read + stats.pages_cached).mean())
        recall = recall_at_k(distances, self.truth[some], min(k, self.truth.shape[1]), self.index.metric)
        return recall, _Work(pages, float(stats.rounds.mean()), float(stats.codes_scanned.mean()), probes)

    def confirms(self, earlier: Calibration) -> bool:
        """Whether settings that were chosen earlier still reach their levels, and not much more.

        Those chosen on a user's queries, which are not at hand, stay unless they find far too little of rows.
        """
        media = earlier.levels, earlier.memory
        measured = {k: list(_LEVELS) for k in _QUERIES if k < self.index.rows}
        same = all({k: [level for level, _ in entries] for k, entries in some.items()} == measured for some in media)
        less, more = _OFF if earlier.own_rows else _OFF_GIVEN
        return (same or not earlier.own_rows) and all(
            -less * (1 - level) <= self.search(_CHECKED_K, *tuning)[0] - level <= more * (1 - level)
            for some in media
            for level, tuning in some.get(_CHECKED_K, [])
            if level in _CHECKED_LEVELS
        )

    def levels(self, k: int) -> dict[str, list[tuple[float, Tuning]]]:
        """By medium: the levels that can be reached, with the cheapest settings."""
        counts = sorted({min(self.index.rows, math.ceil(share * k)) for share in _CANDIDATES_PER_RESULT})
        most = min(MOST_COPIES * self.index.rows, 500 * counts[-1])  # a row is a candidate once for each of its codes
        found: dict[str, list[tuple[float, Tuning]]] = {medium: [] for medium in _MEDIA}
        self.fewest, self.enough = 0, dict[tuple[int, float], int]()
        for level in _LEVELS:
            self.progress("calibrate", self.done, len(_LEVELS) * len(_QUERIES))
            self.done += 1
            self.fewest = max(self.fewest, self.fewest_of.get(level, 0))  # more results need no fewer lists
            while not (options := self._options(k, level, counts)) and counts[-1] < most:
                counts += [min(most, 2 * counts[-1]), min(most, 4 * counts[-1])]
            if not options:
                break
            self.fewest_of[level] = self.fewest
            for medium, costs in _MEDIA.items():
                best = min(options, key=lambda option: (costs.of(option[1]), option[0]))
                found[medium].append((level, best[0]))
        return found

    def _options(self, k: int, level: float, counts: list[int]) -> list[tuple[Tuning, _Work]]:
        """Settings that reach the level: about the fewest probes that do, and more of them with fewer candidates."""
        steps = _probe_steps(self.index.lists)
        # More, so that chance in the choice of queries does not eat into the level: about two standard errors, which
        # for queries spread over all lists, with k results each, are half of those for one result of any queries.
        wanted = min(1.0, level + 0.5 * float(np.sqrt(level * (1 - level) / len(self.asked[k]))))

        def reached(probes: int, candidates: int, z: float) -> bool:
            return self.search(k, probes, candidates, z, self.margin(probes))[0] >= wanted

        self.fewest = _first(len(steps), self.fewest, lambda step: reached(steps[step], counts[-1], self.zs[0]))
        if self.fewest == len(steps):
            self.fewest = 0  # perhaps with more candidates
            return []
        options = []
        for more, z in itertools.product(_MORE_STEPS, self.zs):
            probes = steps[min(self.fewest + more, len(steps) - 1)]
            least = self.enough.get((more, z), 0)  # at the level before: a higher one takes no fewer
            at = bisect_left(counts, True, least, len(counts) - 1, key=lambda count: reached(probes, count, z))
            self.enough[more, z] = at
            tuning = Tuning(probes, counts[at], z, self.margin(probes))
            recall, work = self.search(k, *tuning)
            if recall >= wanted:
                options.append((tuning, work))
        return options


def _first(count: int, start: int, holds: Callable[[int], bool]) -> int:
    """The first of start, start + 1, ... for which a rising condition holds, or `count`; tries little beyond it."""
    stride, at = 1, start
    while at < count - 1 and not holds(at):
        start, at, stride = at + 1, min(at + stride, count - 1), 2 * stride
    return bisect_left(range(at + 1), True, start, key=holds)


def _probe_steps(lists: int) -> list[int]:
    """1, 2, 3, ... then 6 % apart, up to all lists."""
    steps = [1]
    while steps[-1] < lists:
        steps.append(min(lists, max(steps[-1] + 1, int(steps[-1] * 1.06))))
    return steps


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers below `count`, evenly: rows in their order on disk come from all places then.

    Recall differs from place to place, so that these tell more of it than as many by chance: as twice as many, of text.
    """
    most = min(most, count)
    return ((np.arange(most) + 0.5) * count / max(1, most)).astype(np.int64)


def _margins(distances: np.ndarray) -> np.ndarray:
    """The margins that just include lists at rising distances (q, p); inf where there is no list."""
    reference = distances[:, min(_REFERENCE, distances.shape[1] - 1), None]
    ranks = np.arange(1, distances.shape[1] + 1, dtype=np.float32)
    rise = (distances - distances[:, :1]) * ranks**_CLOSER
    known = np.isfinite(distances) & (reference > 0)
    return np.where(np.isfinite(distances), np.divide(rise, reference, out=np.zeros_like(rise), where=known), np.inf)


def _without(distances: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each query's own row from its results, or the last result where it is not among them."""
    hit = ids == own[:, None]
    hit[:, -1] |= ~hit.any(axis=1)
    keep = ~hit
    shape = (len(ids), ids.shape[1] - 1)
    return distances[keep].reshape(shape), ids[keep].reshape(shape)
