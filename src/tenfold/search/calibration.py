"""From a wanted recall to settings: measured on queries whose true neighbours are known.

The truth comes from exact search. A candidate with estimate e and squared residual error r is worth
a disk read while e + z sqrt(e r) is below the k-th exact distance; (d - e) / sqrt(e r) over true
neighbours says which z loses how many. Then, for every level of recall, the cheapest pair of probes
and z that reaches it is kept.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.exact import check_queries, exact_search, recall_at_k
from tenfold.search.progress import Progress

if TYPE_CHECKING:
    from tenfold.search.index import Index

__all__ = ["EVERYTHING", "Calibration", "Tuning", "calibrate"]

EVERYTHING = -math.inf  # as z: every row that was scanned is read
_LEVELS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_QUERIES = {10: 500, 100: 150}  # by k: a query tells k things about recall
_FEWEST_QUERIES = 100  # where the index has no more than 2,000 rows
_QUANTILES = (0.5, 0.3, 0.2, 0.13, 0.09, 0.06, 0.03, 0.01)
_CANDIDATES_PER_RESULT = 12
_TRUTH = 101
_MOST = 1 << 33  # nothing counted here is larger, and it times any k is still a number
_MORE_STEPS = (2, 7)  # of probes: a little more than can just do, and half as many again
# What things cost, in microseconds, where settings compete: a page from disk at depth, a code, a list.
_PAGE_COST, _CODE_COST, _PROBE_COST = 20.0, 0.003, 0.8


class Tuning(NamedTuple):
    """Settings of one search."""

    probes: int
    candidates: int
    z: float


@dataclass
class Calibration:
    """For k = 10 and 100: levels of recall, rising, each with the settings that reach it."""

    levels: dict[int, list[tuple[float, Tuning]]] = field(default_factory=dict)
    own_rows: bool = True  # measured on rows of the index, not on queries given by the user

    def tuning(self, k: int, recall: float, lists: int, rows: int) -> Tuning:
        """Settings for `recall`; the whole index where no measured level suffices."""
        if k < min(self.levels, default=k):
            # A single nearest neighbour is lost or found whole: recall of so few differs more between sets of
            # queries than it was measured to on ten. Half the misses are asked for.
            recall = 1 - (1 - recall) / 2
        usable = [known for known in sorted(self.levels) if known >= k] or sorted(self.levels)[-1:]
        for known in usable[:1]:
            for level, tuning in self.levels[known]:
                if level >= recall - 1e-9:
                    stretch = max(1.0, k / known)  # beyond the largest measured k: in proportion
                    return Tuning(int(tuning.probes * stretch), int(tuning.candidates * stretch), tuning.z)
        return Tuning(lists, max(1, rows), EVERYTHING)

    def to_json(self) -> dict[str, Any]:
        """As kept in the manifest."""
        levels = {str(k): [[level, *tuning] for level, tuning in entries] for k, entries in self.levels.items()}
        return {"levels": levels, "own_rows": self.own_rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Calibration":
        """Read back; InputError where the content is not a calibration."""
        try:
            levels = {
                int(k): [(float(level), Tuning(int(p), int(c), float(z))) for level, p, c, z in entries]
                for k, entries in data["levels"].items()
            }
            settings = [(k, tuning) for k, entries in levels.items() for _, tuning in entries]
            counts = [count for k, tuning in settings for count in (k, tuning.probes, tuning.candidates)]
            if not all(1 <= count < _MOST for count in counts) or not all(-1e6 < t.z < 1e6 for _, t in settings):
                raise ValueError("out of range")
            return cls(levels, bool(data["own_rows"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise InputError("manifest.json: its calibration is not readable; run `tenfold search tune`") from None


def calibrate(index: "Index", queries: np.ndarray | None, threads: int, progress: Progress) -> Calibration:
    """Measure on `queries`, or on rows of the index itself, each of which then ignores its own match."""
    if index.rows < 2 or (queries is not None and len(queries) == 0):
        return Calibration()
    own = None
    if queries is None:
        count = min(max(_QUERIES.values()), max(_FEWEST_QUERIES, index.rows // 20), index.rows)
        own = np.sort(np.random.default_rng(1).choice(index.rows, count, replace=False))
        queries = index.stored.at(own)
    else:
        most = max(_QUERIES.values())
        queries = queries[np.linspace(0, len(queries) - 1, min(most, len(queries))).astype(np.int64)]
    trial = _Trial(index, check_queries(queries, index.dim, index.dtype), own, threads, progress)
    levels = {k: trial.levels(k) for k in _QUERIES if k < index.rows}
    return Calibration(levels, own is not None)


class _Trial:
    """The calibration queries, their truth, and searches with chosen settings."""

    def __init__(
        self, index: "Index", queries: np.ndarray, own: np.ndarray | None, threads: int, progress: Progress
    ) -> None:
        self.index, self.queries, self.own, self.threads = index, queries, own, threads
        self.progress, self.done = progress, 0
        width = min(_TRUTH, index.rows)
        distances, positions = exact_search(
            index.stored, queries, width, index.metric, threads=threads, progress=progress
        )
        if own is not None:
            distances, positions = _without(distances, positions, own)
        self.truth = distances
        self.zs = self._bound_quantiles(distances, positions)
        self.search = lru_cache(maxsize=None)(self._search)

    def _bound_quantiles(self, distances: np.ndarray, positions: np.ndarray) -> list[float]:
        estimates, errors, base, slope = self.index.estimates(self.queries, positions, self.threads)
        exact = base[:, None] + slope[:, None] * distances
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (exact - estimates) / (np.sqrt(np.maximum(estimates, 0)) * np.sqrt(errors))
        ratios = ratios[np.isfinite(ratios)]
        if len(ratios) == 0:
            return [-1.0]
        return [min(0.0, float(np.quantile(ratios, q))) for q in _QUANTILES]

    def _search(self, k: int, probes: int, candidates: int, z: float) -> tuple[float, float]:
        """(recall, cost) of the calibration queries with these settings."""
        more = 0 if self.own is None else 1
        some = slice(_QUERIES[k])
        distances, ids, stats = self.index.search_tuned(
            self.queries[some], k + more, Tuning(probes, candidates, z), self.threads
        )
        if self.own is not None:
            distances, _ = _without(distances, ids, self.index.stored.labels()[self.own[some]])
        pages = float((stats.pages_read + stats.pages_cached).mean())
        codes = float(stats.codes_scanned.mean())
        cost = _PAGE_COST * pages + _CODE_COST * codes + _PROBE_COST * probes
        recall = recall_at_k(distances, self.truth[some], min(k, self.truth.shape[1]), self.index.metric)
        return recall, cost

    def levels(self, k: int) -> list[tuple[float, Tuning]]:
        candidates = min(self.index.rows, _CANDIDATES_PER_RESULT * k)
        most = min(self.index.rows, 100 * candidates)
        found: list[tuple[float, Tuning]] = []
        for level in _LEVELS:
            self.progress("calibrate", self.done, len(_LEVELS) * len(_QUERIES))
            self.done += 1
            while (best := self._cheapest(k, level, candidates)) is None and candidates < most:
                candidates = min(most, 4 * candidates)
            if best is None:
                break
            found.append((level, best))
        return found

    def _cheapest(self, k: int, level: float, candidates: int) -> Tuning | None:
        """The cheaper of two settings: about the fewest probes that reach the level, or more and a tighter z."""
        steps, loosest = _probe_steps(self.index.lists), self.zs[-1]
        # Half a standard error more, so that chance in the choice of queries does not eat into the level.
        wanted = min(1.0, level + 0.5 * float(np.sqrt(level * (1 - level) / len(self.queries[: _QUERIES[k]]))))

        def reached(probes: int, z: float) -> bool:
            return self.search(k, probes, candidates, z)[0] >= wanted

        fewest = bisect_left(steps, True, key=lambda probes: reached(probes, loosest))
        if fewest == len(steps):
            return None
        options = []
        for probes in {steps[min(fewest + more, len(steps) - 1)] for more in _MORE_STEPS}:
            # zs fall: later ones lose fewer neighbours
            z = self.zs[min(bisect_left(self.zs, True, key=lambda z: reached(probes, z)), len(self.zs) - 1)]
            options.append((self.search(k, probes, candidates, z)[1], Tuning(probes, candidates, z)))
        return min(options)[1]


def _probe_steps(lists: int) -> list[int]:
    """1, 2, 3, ... then 6 % apart, up to all lists."""
    steps = [1]
    while steps[-1] < lists:
        steps.append(min(lists, max(steps[-1] + 1, int(steps[-1] * 1.06))))
    return steps


def _without(distances: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each query's own row from its results, or the last result where it is not among them."""
    hit = ids == own[:, None]
    hit[:, -1] |= ~hit.any(axis=1)
    keep = ~hit
    shape = (len(ids), ids.shape[1] - 1)
    return distances[keep].reshape(shape), ids[keep].reshape(shape)
