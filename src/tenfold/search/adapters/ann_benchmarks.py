"""ann-benchmarks: the class that its runner drives.

It has the methods of `BaseANN` without inheriting them, so that it needs nothing of that project; what goes there lies
in `benchmarks/ann_benchmarks`.

q queries · dim numbers each
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.adapters.folders import TemporaryFolder
from tenfold.search.data import as_source
from tenfold.search.index import Index, SearchStats
from tenfold.search.memory import resident_bytes
from tenfold.search.space import Metric

__all__ = ["Tenfold", "metric_named", "split_options", "sum_up"]

_METRICS: dict[str, Metric] = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}
_OPENING = ("io", "cache", "device")


def metric_named(distance: str) -> Metric:
    """The metric of a distance as the benchmarks call it; InputError for others than euclidean, angular and ip."""
    if distance not in _METRICS:
        raise InputError(f"distance {distance!r} is none that Tenfold measures; choose {', '.join(_METRICS)}")
    return _METRICS[distance]


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a configuration file: those of `Index.build`, and those of `Index.open` (io, cache, device)."""
    building = {name: value for name, value in options.items() if name not in _OPENING}
    return building, {name: value for name, value in options.items() if name in _OPENING}


def sum_up(stats: Sequence[SearchStats]) -> tuple[int, float]:
    """Exact distances of some searches in all, and pages read per query."""
    pages = np.concatenate([np.zeros(0), *(one.pages_read for one in stats)])
    return sum(int(one.rows_scored.sum()) for one in stats), float(pages.mean()) if len(pages) else 0.0


class Tenfold:
    """A disk index as an algorithm of ann-benchmarks: built in a temporary folder, one thread for a single query.

    Args:
        metric: "euclidean" or "angular".
        options: Of `Index.build` and `Index.open`, such as `{"io": "memory", "code_bytes": 32}`.
    """

    def __init__(self, metric: str, options: Mapping[str, Any] | None = None) -> None:
        """Raises InputError for another metric."""
        self._metric, self._options = metric_named(metric), dict(options or {})
        self._recall, self._found = 0.95, np.empty((0, 0), np.int64)
        self._stats: list[SearchStats] = []

    def fit(self, X: np.ndarray) -> None:
        """Build from rows X (rows, dim)."""
        building, opening = split_options(self._options)
        self._folder = TemporaryFolder()
        path = self._folder.path / "index"
        Index.build(as_source(np.asarray(X)), path, metric=self._metric, **building)
        self._index = Index.open(path, **opening)

    def set_query_arguments(self, recall: float) -> None:
        """From now on ask for this recall."""
        self._recall = recall
        self._stats.clear()

    def query(self, v: np.ndarray, n: int) -> np.ndarray:
        """Row numbers, up to (n,) int64, of the nearest of v (dim,)."""
        _, ids, stats = self._index.search(v[None], n, recall=self._recall, threads=1, return_stats=True)
        self._stats.append(stats)
        found: np.ndarray = ids[0][ids[0] >= 0]
        return found

    def batch_query(self, X: np.ndarray, n: int) -> None:
        """Find the nearest of each of X (q, dim) with all usable cores, for `get_batch_results`."""
        _, self._found, stats = self._index.search(X, n, recall=self._recall, return_stats=True)
        self._stats.append(stats)

    def get_batch_results(self) -> list[np.ndarray]:
        """Row numbers of each query of the last batch, up to (n,) int64."""
        return [ids[ids >= 0] for ids in self._found]

    def get_additional(self) -> dict[str, Any]:
        """Exact distances since `set_query_arguments`, in all, and pages read per query."""
        scored, pages = sum_up(self._stats)
        return {"dist_comps": scored, "pages_read": pages}

    def get_memory_usage(self) -> float:
        """Memory of this process, in KiB."""
        return resident_bytes() / 1024

    def done(self) -> None:
        """Close the index and remove it."""
        if hasattr(self, "_folder"):
            self.__dict__.pop("_index", None)
            self._folder.remove()

    def __str__(self) -> str:
        settings = "".join(f", {name}={value}" for name, value in self._options.items())
        return f"Tenfold(recall={self._recall}{settings})"
