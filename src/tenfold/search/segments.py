"""Segments of a living index: sealed indexes whose rows carry the user's ids, less the rows deleted since.

In a segment rows are labelled in the order of their ids, so `ids.bin` needs two sections: `ids`, rising, by label, and
`positions` by label. An id is found by bisection, and ties among labels are ties among ids. Deleted rows are bits by
position that are not set; a set of bits is never changed, only replaced, so that a search keeps the one it began with.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.calibration import Tuning
from tenfold.search.columns import Columns, Values, read_columns
from tenfold.search.filters import Filter
from tenfold.search.index import Index, IoBackend, Rerank, SearchStats
from tenfold.search.manifest import read_manifest
from tenfold.search.storage import REPAIR, SectionFile, SectionWriter

__all__ = ["IDS_FILE", "Sealed", "Segment", "bits_of", "clear", "is_set", "read_hidden", "write_hidden", "write_ids"]

IDS_FILE = "ids.bin"
_RESIDENT_BYTES = 16 << 20  # of vectors; smaller segments are kept in memory, where a search of several costs no reads
_CHUNK = 1 << 20
# Microseconds: a page read from disk, a row in memory compared with, a code scanned.
_PAGE_COST, _ROW_COST, _CODE_COST = 20.0, 0.3, 0.003
_KEPT = 16  # choices of late filters, some 1.2 bytes per row each
_UNEVEN = 2.0  # variance of a list's share of the rows that may be found, in that of a random choice
_FURTHER = 4  # so many times as many rows are looked at where a query's own neighbourhood has few of them
_ROUTED = 1 << 22  # numbers of lists at a time


class Choice(NamedTuple):
    """Rows of a segment that a search may find.

    Attributes:
        bits: By position.
        counts: How many of each list's own rows, (lists,).
        is_even: Whether they lie about as dense everywhere as a random choice would.
    """

    bits: np.ndarray
    counts: np.ndarray
    is_even: bool

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.counts.sum())


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
        if io == "auto" and _vector_bytes(folder) <= _RESIDENT_BYTES:
            io, cache = "memory", "0"
        self.index = sealed = Index.open(folder, io=io, cache=cache)
        file = SectionFile(folder / IDS_FILE, "ids")
        for name in file.names():
            file.check(name)
        self.ids, self.positions = file.array("ids", "<i8"), file.array("positions", "<u4")
        if not len(self.ids) == len(self.positions) == sealed.rows:
            raise InputError(f"{folder / IDS_FILE}: belongs to another index than the files beside it; {REPAIR}")
        _check_places(folder / IDS_FILE, self.positions, sealed.rows)
        _check_places(folder / "vectors.bin", sealed.stored.labels(), sealed.rows)
        self.columns = read_columns(folder, columns, sealed.rows)
        self._starts = sealed.list_starts().astype(np.int64)
        self._chosen: OrderedDict[str, tuple[np.ndarray | None, Choice]] = OrderedDict()
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

    def choice(self, bits: np.ndarray) -> Choice:
        """The rows whose bits are set."""
        below = np.concatenate([[0], np.cumsum(_mask_of(bits, self.index.rows))])
        return self._choice(bits, np.diff(below[self._starts]))

    def less(self, before: Choice | None, positions: np.ndarray) -> Choice:
        """Those of before (None: all) without the rows at some positions (n,), which are among them."""
        lists = np.searchsorted(self._starts, positions, "right") - 1
        counts = np.diff(self._starts) if before is None else before.counts
        bits = clear(None if before is None else before.bits, positions, self.index.rows)
        return self._choice(bits, counts - np.bincount(lists, minlength=len(counts)))

    def matching(self, chosen: Filter, among: Choice | None) -> Choice:
        """Those of some rows (None: all) that match a filter; remembered for the filters of late."""
        bits = None if among is None else among.bits
        of, found = self._chosen.pop(chosen.text, (None, None))
        if found is None or of is not bits:
            mask = chosen.mask(self.columns, self.index.rows)
            found = self.choice(bits_of(mask) if bits is None else bits_of(mask) & bits)
        self._chosen[chosen.text] = bits, found
        while len(self._chosen) > _KEPT:
            self._chosen.popitem(last=False)
        return found

    def _choice(self, bits: np.ndarray, counts: np.ndarray) -> Choice:
        sizes = np.diff(self._starts)
        share = counts.sum() / max(1, self.index.rows)
        variances = np.maximum(sizes * share * (1 - share), 1e-9)
        spread = ((counts - sizes * share) ** 2 / variances).mean() if 0 < share < 1 else 0.0
        return Choice(bits, counts, bool(spread < _UNEVEN))

    def probes_outside(self, queries: np.ndarray, some: Choice, tuning: Tuning, threads: int) -> np.ndarray:
        """How many lists to probe for each query (q,) that lies outside of some rows; 0 for those among them.

        A query is outside where its nearest lists hold less than half as many of the rows as lists do on average. Then
        many of the rows, those at the edge, are about equally near.
        """
        index, counts = self.index, np.append(some.counts, 0)  # the last one for lists that there are not
        space = index.space.queries(queries, threads)[0]

        def held(part: np.ndarray, probes: int) -> np.ndarray:
            lists = np.minimum(index.engine.route(space[part], probes, threads)[1], index.lists)
            return np.cumsum(counts[lists], axis=1)

        near, needed = min(tuning.probes, index.lists), np.zeros(len(queries), np.int64)
        few = held(np.arange(len(queries)), near)[:, -1] < near * some.rows / index.lists / 2
        step = max(1, _ROUTED // index.lists)
        for start in range(0, few.sum(), step):
            part = np.flatnonzero(few)[start : start + step]
            below = held(part, index.lists)
            enough = np.minimum(_FURTHER * near * self.index.rows / index.lists, below[:, -1:])
            needed[part] = 1 << np.ceil(np.log2(1 + (below < enough).sum(axis=1))).astype(np.int64)
        return needed

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
        left: The rows that are not deleted; None: all.
        hidden: The file that says so, if there is one.
        is_saved: Whether that file says what `left` does.
    """

    segment: Segment
    left: Choice | None = None
    hidden: str | None = None
    is_saved: bool = True

    @property
    def rows(self) -> int:
        """Of the segment, deleted ones included."""
        return self.segment.index.rows

    @property
    def bits(self) -> np.ndarray | None:
        """Which rows are not deleted, by position; None: all."""
        return None if self.left is None else self.left.bits

    @property
    def alive(self) -> int:
        """How many are not deleted."""
        return self.rows if self.left is None else self.left.rows

    def without(self, positions: np.ndarray) -> "Sealed":
        """Less rows at further positions (n,), none of which is deleted yet."""
        return self._replace(left=self.segment.less(self.left, positions), is_saved=False)

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
        self,
        queries: np.ndarray,
        k: int,
        tuning: Tuning,
        rerank: Rerank,
        chosen: Filter | None,
        threads: int,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """Distances and labels of the nearest of its rows, those that match a filter, with settings for all rows.

        The k nearest of a share s of the rows are among about k / s nearest of all: so many more lists are probed;
        and where the rows lie unevenly, as many as it takes for each query. Where few rows match, they are all read
        instead. What is to be done `meanwhile` is, or not, while it waits for the disk.
        """
        index, some = self.segment.index, self.left
        if chosen is not None:
            some = self.segment.matching(chosen, some)
        k = min(k, self.rows if some is None else some.rows)
        if k == 0:
            nothing = np.zeros((len(queries), 0))
            free = (np.zeros(len(queries), np.uint32) for _ in fields(SearchStats))
            return nothing.astype(np.float32), nothing.astype(np.int64), SearchStats(*free)
        if some is None:
            return index.search_filled(queries, k, tuning, threads, rerank, meanwhile=meanwhile)
        settings = _Settings(k, tuning, rerank, threads, index.lists, meanwhile)
        even = settings if chosen is None else settings.probing(-(-tuning.probes * self.rows // some.rows))
        if some.is_even or self._is_read_sooner(some, even):
            return self._search_some(queries, some, even)
        needed = self.segment.probes_outside(queries, some, tuning, threads)
        distances, labels = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        costs = np.empty((len(fields(SearchStats)), len(queries)), np.uint32)
        for probes in np.unique(needed).tolist():
            part = np.flatnonzero(needed == probes)
            found = self._search_some(queries[part], some, settings.outside(probes) if probes else even)
            distances[part], labels[part] = found[:2]
            costs[:, part] = [getattr(found[2], field.name) for field in fields(SearchStats)]
        return distances, labels, SearchStats(*costs)

    def _search_some(
        self, queries: np.ndarray, some: Choice, settings: "_Settings"
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """The same among some rows, with the same settings for each query."""
        index, (k, tuning, rerank, threads, _, meanwhile) = self.segment.index, settings
        if self._is_read_sooner(some, settings):
            return index.score(queries, k, np.flatnonzero(_mask_of(some.bits, self.rows)), threads)
        return index.search_filled(queries, k, tuning, threads, rerank, allowed=some.bits, meanwhile=meanwhile)

    def _is_read_sooner(self, some: Choice, settings: "_Settings") -> bool:
        """Whether to read all of some rows takes less time than to look for the nearest."""
        page = _PAGE_COST if self.segment.index.engine.backend != "memory" else _ROW_COST
        scanned = self.rows * settings.tuning.probes / settings.lists
        return page * some.rows <= page * settings.tuning.candidates + _CODE_COST * scanned


class _Settings(NamedTuple):
    """Of one search, in an index of so many lists."""

    k: int
    tuning: Tuning
    rerank: Rerank
    threads: int
    lists: int
    meanwhile: Callable[[], None] | None

    def probing(self, probes: int) -> "_Settings":
        """With a number of probes, the same for every query."""
        return self._replace(tuning=self.tuning.scanning(min(probes, self.lists)))

    def outside(self, probes: int) -> "_Settings":
        """For a query outside of the rows: distances differ less there, and estimates tell less."""
        further = self.probing(probes)
        return further._replace(tuning=further.tuning._replace(candidates=2 * self.tuning.candidates))


def _vector_bytes(folder: Path) -> int:
    """What the vectors of an index take."""
    manifest = read_manifest(folder)
    return int(manifest["rows"] * manifest["dim"] * np.dtype(manifest["dtype"]).itemsize)


def _check_places(path: Path, places: np.ndarray, rows: int) -> None:
    """InputError where a file names positions or labels (n,) that so many rows do not have."""
    if int(places.max(initial=0)) >= max(1, rows):
        raise InputError(f"{path}: names rows that are not there; {REPAIR}")


def bits_of(mask: np.ndarray) -> np.ndarray:
    """Bits (ceil(n / 64),) uint64 of booleans (n,), the lowest first."""
    packed = np.packbits(mask, bitorder="little")
    return np.concatenate([packed, np.zeros(-len(packed) % 8, np.uint8)]).view("<u8")


def _mask_of(bits: np.ndarray, rows: int) -> np.ndarray:
    """Booleans (rows,) of bits."""
    return np.unpackbits(bits.view(np.uint8), count=rows, bitorder="little").view(bool)


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

    Raises InputError where there is no such label.
    """
    _check_places(folder / "vectors.bin", labels, len(labels))
    with SectionWriter(folder / IDS_FILE, "ids") as file:
        file.begin("ids", "<i8")
        for piece in ids:
            file.write(piece)
        file.end()
        positions = np.zeros(len(labels), np.uint32)
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
