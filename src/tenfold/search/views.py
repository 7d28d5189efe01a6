"""What a search of a living index looks into, and how: all parts together, the next while one waits for the disk.

q queries · k results
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from tenfold.search import _native
from tenfold.search.delta import DeltaView
from tenfold.search.filters import Filter
from tenfold.search.index import Rerank, SearchStats
from tenfold.search.segments import Sealed
from tenfold.search.space import Metric

__all__ = ["Asked", "View"]


class Asked(NamedTuple):
    """What is asked of every segment, as for `LivingIndex.search`; checked."""

    k: int
    recall: float
    probes: int | None
    candidates: int | None
    rerank: Rerank
    chosen: Filter | None
    threads: int


class View(NamedTuple):
    """Segments, the largest first, and deltas, at one moment; nothing changes them any more."""

    parts: tuple[Sealed, ...] = ()
    deltas: tuple[DeltaView, ...] = ()

    def search(self, queries: np.ndarray, metric: Metric, asked: Asked) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """The nearest rows of all parts: distances (q, k) float32, numbers of rows (q, k) int64, and what it cost.

        Args:
            queries: (q, dim), as `check_queries` gives them.
            metric: Of the index.
            asked: Of every segment.
        """
        distances = np.full((len(queries), asked.k), np.inf, np.float32)
        numbers = np.full((len(queries), asked.k), -1, np.int64)
        costs = []
        parts: Iterator[Sealed | DeltaView] = iter([*self.parts, *self.deltas])

        def search_rest() -> None:
            for part in parts:  # of which there are none left where it was called meanwhile
                if isinstance(part, DeltaView):
                    part.search(queries, metric, distances, numbers, asked.threads, asked.chosen)
                    continue
                tuning = part.segment.index.tuning(*asked[:5])
                found, labels, cost = part.search(
                    queries, asked.k, tuning, asked.rerank, asked.chosen, asked.threads, meanwhile=search_rest
                )
                _native.merge(distances, numbers, found, labels, part.segment.ids, asked.threads)
                costs.append(cost)

        search_rest()
        return distances, numbers, _together(costs, len(queries))


def _together(costs: list[SearchStats], queries: int) -> SearchStats:
    """What each query cost in all segments."""
    nothing = np.zeros(queries, np.uint32)
    return SearchStats(*(sum((getattr(one, field.name) for one in costs), nothing) for field in fields(SearchStats)))
