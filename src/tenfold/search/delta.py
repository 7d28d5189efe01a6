"""Rows of a living index that are in no segment yet: in memory, compared one by one.

Rows are only ever appended, and a set of deleted rows is replaced, never changed; so a `DeltaView` stays as it was
while the delta goes on.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tenfold.search import _native
from tenfold.search.columns import Column, Columns, Values, sorted_column
from tenfold.search.filters import Filter
from tenfold.search.segments import bits_of
from tenfold.search.space import Metric

__all__ = ["Delta", "DeltaView"]

_LEAST_ROOM = 256


class _SortedColumns(dict[str, Column]):
    """Columns of the first rows of a delta, each sorted when a filter asks for it."""

    def __init__(self, columns: Columns, attributes: Values, rows: int) -> None:
        super().__init__()
        self._columns, self._attributes, self._rows = columns, attributes, rows

    def __missing__(self, name: str) -> Column:
        values = self._attributes[name][: self._rows]
        self[name] = column = sorted_column(self._columns[name], values, np.arange(self._rows))
        return column


class DeltaView(NamedTuple):
    """A delta at one moment.

    Attributes:
        vectors: (n, dim).
        ids: (n,) int64, in the order of their coming.
        alive: Which are not deleted, (n,) bool.
        bits: The same as bits.
        columns: Of the rows, by name.
    """

    vectors: np.ndarray
    ids: np.ndarray
    alive: np.ndarray
    bits: np.ndarray
    columns: dict[str, Column]

    def search(
        self,
        queries: np.ndarray,
        metric: Metric,
        distances: np.ndarray,
        ids: np.ndarray,
        threads: int,
        chosen: Filter | None = None,
    ) -> None:
        """Merge its rows into each query's k best, (q, k), in place; queries as `check_queries` gives them."""
        bits = self.bits if chosen is None else bits_of(self.alive & chosen.mask(self.columns, len(self.ids)))
        _native.exact(
            self.vectors, self.vectors.dtype.name, metric, queries, 0, distances, ids, threads,
            row_ids=self.ids, allowed=bits,
        )  # fmt: skip

    def blocks(self, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (n,) and vectors (n, dim) of the rows that are not deleted, up to `rows` at a time."""
        alive = np.flatnonzero(self.alive)
        for start in range(0, len(alive), rows):
            some = alive[start : start + rows]
            yield self.ids[some], self.vectors[some]


class Delta:
    """What is added to and deleted from; by one thread at a time."""

    def __init__(self, dim: int, dtype: np.dtype, columns: Columns) -> None:
        self._vectors, self._ids = np.empty((_LEAST_ROOM, dim), dtype), np.empty(_LEAST_ROOM, np.int64)
        self._alive = np.zeros(0, bool)
        self._columns = columns
        self._attributes: Values = {name: [] for name in columns}
        self._row_of: dict[int, int] = {}
        self.rows = 0

    def __len__(self) -> int:
        """Rows that are not deleted."""
        return len(self._row_of)

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids (n,) it holds, (n,) bool."""
        return np.fromiter((number in self._row_of for number in ids.tolist()), bool, len(ids))

    def add(self, vectors: np.ndarray, ids: np.ndarray, attributes: Values) -> None:
        """Append rows (n, dim) with ids that it does not hold, and attributes as `check_values` gives them."""
        stop = self.rows + len(ids)
        if stop > len(self._ids):
            room = max(stop, 2 * len(self._ids))
            grown, numbers = np.empty((room, self._vectors.shape[1]), self._vectors.dtype), np.empty(room, np.int64)
            grown[: self.rows], numbers[: self.rows] = self._vectors[: self.rows], self._ids[: self.rows]
            self._vectors, self._ids = grown, numbers
        self._vectors[self.rows : stop], self._ids[self.rows : stop] = vectors, ids
        for name, values in self._attributes.items():
            values += attributes.get(name) or [None] * len(ids)
        self._row_of.update(zip(ids.tolist(), range(self.rows, stop), strict=True))
        self._alive = np.concatenate([self._alive, np.ones(len(ids), bool)])
        self.rows = stop

    def delete(self, ids: np.ndarray) -> None:
        """Delete rows by ids, all of which it holds."""
        if len(ids):
            alive = self._alive.copy()
            alive[[self._row_of.pop(number) for number in ids.tolist()]] = False
            self._alive = alive

    def view(self) -> DeltaView:
        """As it is now."""
        part = slice(0, self.rows)
        columns = _SortedColumns(self._columns, self._attributes, self.rows)
        return DeltaView(self._vectors[part], self._ids[part], self._alive, bits_of(self._alive), columns)

    def at(self, ids: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) of ids (n,), all of which it holds."""
        found: np.ndarray = self._vectors[[self._row_of[number] for number in ids.tolist()]]
        return found

    def attributes_of(self, ids: np.ndarray) -> Values:
        """Attributes of ids (n,), all of which it holds."""
        return self._attributes_at([self._row_of[number] for number in ids.tolist()])

    def sorted_rows(self) -> tuple[np.ndarray, np.ndarray, Values]:
        """Vectors (n, dim), ids (n,) and attributes of what is not deleted, ids rising."""
        rows = np.flatnonzero(self._alive)
        rows = rows[np.argsort(self._ids[rows])]
        return self._vectors[rows], self._ids[rows], self._attributes_at(rows.tolist())

    def _attributes_at(self, rows: list[int]) -> Values:
        return {name: [values[row] for row in rows] for name, values in self._attributes.items()}
