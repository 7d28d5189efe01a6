"""From a wanted recall to settings: measured on queries whose true neighbours are known.

The truth comes from exact search. A candidate with estimate e and squared residual error r is worth
a disk read while e + z sqrt(e r) is below the k-th exact distance; (d - e) / sqrt(e r) over true
neighbours says which z loses how many. Then, for every level of recall, the cheapest pair of probes
and z that reaches it is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.exact import check_queries, exact_search, recall_at_k
from tenfold.search.formats.source import VectorSource
from tenfold.search.progress import Progress

if TYPE_CHECKING:
    from tenfold.search.index import Index

__all__ = ["Calibration", "StoredRows", "Tuning", "calibrate"]

_LEVELS = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
_QUERIES = {10: 500, 100: 150}  # by k: a query tells k things about recall
_QUANTILES = (0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002)
_CANDIDATES_PER_RESULT = 60
_TRUTH = 101
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
        usable = [known for known in sorted(self.levels) if known >= k] or sorted(self.levels)[-1:]
        for known in usable[:1]:
            for level, tuning in self.levels[known]:
                if level >= recall - 1e-9:
                    stretch = max(1.0, k / known)  # beyond the largest measured k: in proportion
                    return Tuning(int(tuning.probes * stretch), int(tuning.candidates * stretch), tuning.z)
        return Tuning(lists, max(1, rows), -1.0)

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
            return cls(levels, bool(data["own_rows"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError("manifest.json: its calibration is not readable; run `tenfold search tune`") from None


class StoredRows(VectorSource):
    """The vectors of an index in their order on disk: what exact search over the index reads."""

    def __init__(self, index: "Index") -> None:
        super().__init__(str(index.path / "vectors.bin"), index.rows, index.dim, index.dtype)
        self._index = index

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        for pages in self._index.page_chunks(start, block_rows):
            yield from (pages[first : first + block_rows] for first in range(0, len(pages), block_rows))


def calibrate(index: "Index", queries: np.ndarray | None, threads: int, progress: Progress) -> Calibration:
    """Measure on `queries`, or on rows of the index itself, each of which then ignores its own match."""
    if index.rows < 2 or (queries is not None and len(queries) == 0):
        return Calibration()
    own = None
    if queries is None:
        count = min(max(_QUERIES.values()), index.rows)
        own = np.sort(np.random.default_rng(1).choice(index.rows, count, replace=False))
        queries = index.rows_at(own)
    trial = _Trial(index, check_queries(queries, index.dim, index.dtype), own, threads, progress)
    levels = {}
    for number, k in enumerate(_QUERIES):
        if k < index.rows:
            levels[k] = trial.levels(k)
        progress("calibrate", number + 1, len(_QUERIES))
    return Calibration(levels, own is not None)


class _Trial:
    """The calibration queries, their truth, and searches with chosen settings."""

    def __init__(
        self, index: "Index", queries: np.ndarray, own: np.ndarray | None, threads: int, progress: Progress
    ) -> None:
        self.index, self.queries, self.own, self.threads = index, queries, own, threads
        width = min(_TRUTH, index.rows)
        distances, positions = exact_search(
            StoredRows(index), queries, width, index.metric, threads=threads, progress=progress
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
            ratios = (exact - estimates) / np.sqrt(np.maximum(estimates, 0) * errors)
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
            distances, _ = _without(distances, ids, self.index.labels_at(self.own[some]))
        pages = float((stats.pages_read + stats.pages_cached).mean())
        codes = float(stats.codes_scanned.mean())
        cost = _PAGE_COST * pages + _CODE_COST * codes + _PROBE_COST * probes
        return recall_at_k(distances, self.truth[some], min(k, self.truth.shape[1])), cost

    def levels(self, k: int) -> list[tuple[float, Tuning]]:
        candidates = min(self.index.rows, _CANDIDATES_PER_RESULT * k)
        found: list[tuple[float, Tuning]] = []
        for level in _LEVELS:
            best = self._cheapest(k, level, candidates)
            while best is None and candidates < self.index.rows and candidates < 100 * _CANDIDATES_PER_RESULT * k:
                candidates = min(self.index.rows, 4 * candidates)
                best = self._cheapest(k, level, candidates)
            if best is None:
                break
            found.append((level, best))
        return found

    def _cheapest(self, k: int, level: float, candidates: int) -> Tuning | None:
        """The cheapest settings that reach the level, over the three smallest numbers of probes that can."""
        options: list[tuple[float, Tuning]] = []
        tried = 0
        for probes in _probe_steps(self.index.lists):
            if self.search(k, probes, candidates, self.zs[-1])[0] < level:
                continue
            loose, tight = 0, len(self.zs) - 1  # zs fall: later ones lose fewer neighbours
            while loose < tight:
                middle = (loose + tight) // 2
                if self.search(k, probes, candidates, self.zs[middle])[0] >= level:
                    tight = middle
                else:
                    loose = middle + 1
            z = self.zs[tight]
            options.append((self.search(k, probes, candidates, z)[1], Tuning(probes, candidates, z)))
            tried += 1
            if tried == 3:
                break
        return min(options)[1] if options else None


def _probe_steps(lists: int) -> list[int]:
    steps = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384]
    while steps[-1] < lists:
        steps.append(steps[-1] * 5 // 4)
    return [*(step for step in steps if step < lists), lists]


def _without(distances: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each query's own row from its results, or the last result where it is not among them."""
    hit = ids == own[:, None]
    hit[:, -1] |= ~hit.any(axis=1)
    keep = ~hit
    shape = (len(ids), ids.shape[1] - 1)
    return distances[keep].reshape(shape), ids[keep].reshape(shape)
