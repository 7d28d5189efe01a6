"""Segments of a living index: sealed indexes whose rows carry the user's ids, less the rows deleted since.

In a segment rows are labelled in the order of their ids, so `ids.bin` needs two sections: `ids`, rising, by label, and
`positions` by label. An id is found by bisection, and ties among labels are ties among ids. Deleted rows are bits by
position that are not set; a set of bits is never changed, only replaced, so that a search keeps the one it began with.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.calibration import Tuning
from tenfold.search.columns import Columns, Values, read_columns
from tenfold.search.filters import Filter
from tenfold.search.index import Index, IoBackend, Rerank, SearchStats
from tenfold.search.storage import REPAIR, SectionFile, SectionWriter

__all__ = ["IDS_FILE", "Sealed", "Segment", "bits_of", "clear", "is_set", "read_hidden", "write_hidden", "write_ids"]

IDS_FILE = "ids.bin"
_RESIDENT_BYTES = 16 << 20  # of vectors; smaller segments are kept in memory, where a search of several costs no reads
_CHUNK = 1 << 20
# Microseconds: a page read from disk, a row in memory compared with, a code scanned.
_PAGE_COST, _ROW_COST, _CODE_COST = 20.0, 0.3, 0.003
_MASKS = 16  # of late filters, a byte per row each


class Segment:
    """A sealed index within a living one.

    Attributes:
        folder: Where it lies.
        index: The sealed index; its labels count rows by id.
        ids: Ids by label, rising, (rows,) int64, a memory map.
        positions: Positions by label, (rows,) uint32, a memory map.
        columns: Of the rows, by name; memory maps.
    """

    def __init__(self, folder: Path, columns: Columns, io: IoBackend = "auto", cache: str | int = "0") -> None:
        """Open and check. Raises InputError where the index, its ids or its columns are damaged."""
        self.folder = folder
        sealed = Index.open(folder, io=io, cache=cache)
        if io == "auto" and sealed.rows * sealed.dim * sealed.dtype.itemsize <= _RESIDENT_BYTES:
            sealed = Index.open(folder, io="memory")
        self.index = sealed
        file = SectionFile(folder / IDS_FILE, "ids")
        for name in file.names():
            file.check(name)
        self.ids, self.positions = file.array("ids", "<i8"), file.array("positions", "<u4")
        if not len(self.ids) == len(self.positions) == sealed.rows:
            raise InputError(f"{folder / IDS_FILE}: belongs to another index than the files beside it; {REPAIR}")
        if sealed.rows and int(self.positions.max()) >= sealed.rows:
            raise InputError(f"{folder / IDS_FILE}: names rows that are not there; {REPAIR}")
        self.columns = read_columns(folder, columns, sealed.rows)
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()
        self._file = (folder / IDS_FILE).stat().st_ino

    def lies_there(self) -> bool:
        """Whether it is still this one that lies in its folder. Raises OSError."""
        return (self.folder / IDS_FILE).stat().st_ino == self._file

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Positions (n,) int64 of ids (n,) int64; -1 for those that it does not hold."""
        labels = np.searchsorted(self.ids, ids)
        found = np.full(len(ids), -1, np.int64)
        inside = np.flatnonzero(labels < len(self.ids))
        inside = inside[self.ids[labels[inside]] == ids[inside]]
        found[inside] = self.positions[labels[inside]]
        return found

    def mask(self, chosen: Filter) -> np.ndarray:
        """Which rows match a filter, by position, (rows,) bool; remembered for the filters of late."""
        masks = self._masks
        if (found := masks.pop(chosen.text, None)) is None:
            found = chosen.mask(self.columns, self.index.rows)
        masks[chosen.text] = found
        while len(masks) > _MASKS:
            masks.popitem(last=False)
        return found

    def attributes_at(self, positions: np.ndarray) -> Values:
        """Attributes of rows by position (n,), None where a row has none."""
        found: Values = {name: [None] * len(positions) for name in self.columns}
        place = {position: at for at, position in enumerate(positions.tolist())}
        for name, column in self.columns.items():
            for at in np.flatnonzero(np.isin(column.order, positions)).tolist():
                found[name][place[int(column.order[at])]] = column.shown(at)
        return found

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        """Ids (n,) int64 of rows by position."""
        found: np.ndarray = self.ids[self.index.stored.labels()[positions]]
        return found


class Sealed(NamedTuple):
    """A segment less its deleted rows.

    Attributes:
        segment: All of it.
        bits: Which rows are not deleted, by position; None: all.
        alive: How many.
        hidden: The file that says so, if there is one.
        is_saved: Whether that file says what `bits` does.
    """

    segment: Segment
    bits: np.ndarray | None = None
    alive: int = 0
    hidden: str | None = None
    is_saved: bool = True

    @property
    def rows(self) -> int:
        """Of the segment, deleted ones included."""
        return self.segment.index.rows

    def without(self, positions: np.ndarray) -> "Sealed":
        """Less rows at further positions (n,), none of which is deleted yet."""
        bits = clear(self.bits, positions, self.rows)
        return self._replace(bits=bits, alive=self.alive - len(positions), is_saved=False)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Positions (n,) int64 of ids (n,); -1 for those that it does not hold, or no longer."""
        positions = self.segment.find(ids)
        known = np.flatnonzero(positions >= 0)
        positions[known[~is_set(self.bits, positions[known])]] = -1
        return positions

    def less(self, ids: np.ndarray) -> "Sealed":
        """Less the rows of these ids (n,) that it holds."""
        positions = self.find(ids)
        positions = positions[positions >= 0]
        return self.without(positions) if len(positions) else self

    def alive_ids(self) -> np.ndarray:
        """Ids of the rows that are not deleted, rising, (n,) int64."""
        segment = self.segment
        found: np.ndarray = segment.ids[is_set(self.bits, segment.positions)]
        return found

    def blocks(self, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (n,) and vectors (n, dim) of the rows that are not deleted, up to `rows` at a time."""
        positions = np.flatnonzero(is_set(self.bits, np.arange(self.rows)))
        for start in range(0, len(positions), rows):
            some = positions[start : start + rows]
            yield self.segment.ids_at(some), self.segment.index.stored.at(some)

    def search(
        self, queries: np.ndarray, k: int, tuning: Tuning, rerank: Rerank, chosen: Filter | None, threads: int
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """Distances and labels of the nearest of its rows, those that match a filter, with settings for all rows.

        The k nearest of a share s of the rows are among about k / s nearest of all: so many more lists are probed.
        Where few rows match, they are all read instead.
        """
        index, bits, matching = self.segment.index, self.bits, self.alive
        if chosen is not None:
            mask = self.segment.mask(chosen) & is_set(self.bits, np.arange(self.rows))
            bits, matching = bits_of(mask), int(mask.sum())
        k = min(k, matching)
        if k == 0:
            nothing = np.zeros((len(queries), 0))
            costs = (np.zeros(len(queries), np.uint32) for _ in fields(SearchStats))
            return nothing.astype(np.float32), nothing.astype(np.int64), SearchStats(*costs)
        if chosen is None:
            return index.search_tuned(queries, k, tuning, threads, rerank, allowed=bits)
        probes = min(index.lists, -(-tuning.probes * self.rows // matching))
        page = _PAGE_COST if index.engine.backend != "memory" else _ROW_COST
        if page * matching <= page * tuning.candidates + _CODE_COST * self.rows * probes / index.lists:
            return index.score(queries, k, np.flatnonzero(mask), threads)
        found = index.search_tuned(queries, k, tuning._replace(probes=probes), threads, rerank, allowed=bits)
        short = np.flatnonzero(found[1][:, -1] < 0)
        if len(short):  # there are more, in lists that were not probed
            again = index.score(queries[short], k, np.flatnonzero(mask), threads)
            for some, all_of in zip(again[:2], found[:2], strict=True):
                all_of[short] = some
        return found


def bits_of(mask: np.ndarray) -> np.ndarray:
    """Bits (ceil(n / 64),) uint64 of booleans (n,), the lowest first."""
    packed = np.packbits(mask, bitorder="little")
    return np.concatenate([packed, np.zeros(-len(packed) % 8, np.uint8)]).view("<u8")


def is_set(bits: np.ndarray | None, places: np.ndarray) -> np.ndarray:
    """Which of the places (n,) have their bit set, (n,) bool; all where there are no bits."""
    if bits is None:
        return np.ones(len(places), bool)
    places = places.astype(np.uint64)
    found: np.ndarray = (bits[places >> np.uint64(6)] >> (places & np.uint64(63)) & np.uint64(1)).astype(bool)
    return found


def clear(bits: np.ndarray | None, places: np.ndarray, rows: int) -> np.ndarray:
    """A copy of the bits of `rows` rows with those at the places (n,) not set."""
    cleared = bits_of(np.ones(rows, bool)) if bits is None else bits.copy()
    places = places.astype(np.uint64)
    np.bitwise_and.at(cleared, places >> np.uint64(6), ~(np.uint64(1) << (places & np.uint64(63))))
    return cleared


def write_ids(folder: Path, ids: Iterator[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Write `ids.bin` beside a sealed index; the positions by label, (rows,) uint32.

    Args:
        folder: The sealed index.
        ids: By label, rising, in pieces.
        labels: By position, (rows,) uint32.
    """
    with SectionWriter(folder / IDS_FILE, "ids") as file:
        file.begin("ids", "<i8")
        for piece in ids:
            file.write(piece)
        file.end()
        positions = np.empty(len(labels), np.uint32)
        for start in range(0, len(labels), _CHUNK):
            some = labels[start : start + _CHUNK]
            positions[some] = np.arange(start, start + len(some), dtype=np.uint32)
        file.add("positions", positions)
    return positions


def write_hidden(path: Path, bits: np.ndarray) -> None:
    """Write the bits of a segment to a file."""
    with SectionWriter(path, "hidden") as file:
        file.add("allowed", bits)


def read_hidden(path: Path, rows: int) -> np.ndarray:
    """Read them back; InputError where the file is damaged or of another segment."""
    file = SectionFile(path, "hidden")
    file.check("allowed")
    bits = np.array(file.array("allowed", "<u8"))
    if len(bits) != -(-rows // 64):
        raise InputError(f"{path}: belongs to another segment; {REPAIR}")
    return bits
