"""The vectors of an index: `vectors.bin`, written page by page, read by place.

A row's place, its position, counts rows in the order of lists on disk; its label is the id it had in the source.
"""

import os
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.exact import check_queries
from tenfold.search.formats.source import VectorSource
from tenfold.search.space import Metric
from tenfold.search.storage import PAGE, REPAIR, SectionFile, SectionWriter

__all__ = ["PageWriter", "StoredRows", "distances_to", "page_layout"]

_SECTOR = 512


def page_layout(row_bytes: int) -> tuple[int, int]:
    """(rows per page, bytes per page): many rows to 4,096 bytes, or one row on a 512-byte boundary."""
    if row_bytes <= PAGE:
        return PAGE // row_bytes, PAGE
    return 1, -(-row_bytes // _SECTOR) * _SECTOR


class PageWriter:
    """Rows into pages: sections `pages` and `page_crc` of the vector file."""

    def __init__(self, file: SectionWriter, dim: int, dtype: np.dtype) -> None:
        self._file, self._row_bytes = file, dim * dtype.itemsize
        self.per_page, self._stride = page_layout(self._row_bytes)
        self._rest = np.zeros((0, self._row_bytes), np.uint8)
        self._crc: list[np.ndarray] = []
        file.begin("pages", "|u1", self._stride)

    def write(self, vectors: np.ndarray) -> None:
        """Append vectors (n, dim)."""
        rows = np.concatenate([self._rest, vectors.view(np.uint8).reshape(len(vectors), self._row_bytes)])
        whole = len(rows) // self.per_page * self.per_page
        self._rest = rows[whole:].copy()
        self._put(rows[:whole])

    def _put(self, rows: np.ndarray) -> None:
        pages = np.zeros((len(rows) // self.per_page, self._stride), np.uint8)
        used = self.per_page * self._row_bytes
        pages[:, :used] = rows.reshape(len(pages), used)
        self._crc.append(_native.page_checksums(pages.reshape(-1), self._stride))
        self._file.write(pages)

    def finish(self) -> None:
        """Write the page begun last and the checksums of all."""
        if len(self._rest):
            last = np.zeros((self.per_page, self._row_bytes), np.uint8)
            last[: len(self._rest)] = self._rest
            self._put(last)
        self._file.end()
        self._file.add("page_crc", np.concatenate([*self._crc, np.zeros(0, np.uint32)]))


class StoredRows(VectorSource):
    """The vectors of an index in their order on disk: a source for exact search, and rows by position.

    Reading raises InputError at a page that does not match its checksum. The file is open as long as this object is
    there, so that who removes or replaces it takes nothing from those who read.
    """

    def __init__(self, file: SectionFile, rows: int, dim: int, dtype: np.dtype) -> None:
        super().__init__(str(file.path), rows, dim, dtype)
        self._pages_offset = file.section("pages").offset
        self._labels, self._page_crc = file.array("labels", "<u4"), file.array("page_crc", "<u4")
        self._per_page, self._stride = page_layout(dim * dtype.itemsize)
        self._file = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) by position."""
        rows = np.empty((len(positions), self.dim), self.dtype)
        for number, position in enumerate(positions.tolist()):
            rows[number] = self._pages(position // self._per_page, 1)[position % self._per_page]
        return rows

    def labels(self) -> np.ndarray:
        """Labels (rows,) by position, uint32, a memory map."""
        return self._labels

    def distances_to(self, queries: np.ndarray, ids: np.ndarray, metric: Metric) -> np.ndarray:
        """Exact distances (q, n) float32, ascending, of each query to the rows of the given ids; inf for -1.

        Raises InputError for an id that the index does not hold.
        """
        exact, wanted = check_queries(queries, self.dim, self.dtype), np.unique(ids[ids >= 0])
        positions = np.flatnonzero(np.isin(self.labels(), wanted))
        positions = positions[np.argsort(self.labels()[positions])]
        if len(positions) != len(wanted):
            raise InputError(f"the ids go up to {ids.max():,}, but the index holds {self.rows:,} rows; another base?")
        return distances_to(exact, ids, metric, lambda some: self.at(positions[np.searchsorted(wanted, some)]))

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        last = -(-self.rows // self._per_page)
        while start < self.rows:
            first = start // self._per_page
            pages = self._pages(first, min(max(1, block_rows // self._per_page), last - first))
            rows = pages[start % self._per_page : self.rows - first * self._per_page]
            yield from (rows[at : at + block_rows] for at in range(0, len(rows), block_rows))
            start += len(rows)

    def _pages(self, first: int, count: int) -> np.ndarray:
        raw = self._read(self._pages_offset + first * self._stride, count * self._stride)
        wanted = self._page_crc[first : first + count]
        whole = raw.size == count * self._stride
        if not whole or not np.array_equal(_native.page_checksums(raw, self._stride), wanted):
            raise InputError(f"{self.name}: a page does not match its checksum; it is damaged: {REPAIR}")
        used = self._per_page * self.dim * self.dtype.itemsize
        rows = np.ascontiguousarray(raw.reshape(-1, self._stride)[:, :used])
        found: np.ndarray = rows.view(self.dtype).reshape(-1, self.dim)
        return found

    def _read(self, offset: int, size: int) -> np.ndarray:
        """Bytes of the file, (size,) or fewer where it ends."""
        raw, done = np.empty(size, np.uint8), 0
        while done < size and (count := os.preadv(self._file, [raw[done:].data], offset + done)):
            done += count
        return raw[:done]


def distances_to(
    queries: np.ndarray, ids: np.ndarray, metric: Metric, vectors_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Exact distances (q, n) float32, ascending, of each query to the rows of ids (q, n); inf for -1.

    Queries are as `check_queries` gives them; `vectors_of` gives vectors (m, dim) of ids (m,).
    """
    distances = np.full(ids.shape, np.inf, np.float32)
    for number, known in enumerate(ids >= 0):
        row, scratch = slice(number, number + 1), np.full((1, ids.shape[1]), -1, np.int64)
        found = vectors_of(ids[number, known])
        _native.exact(found, found.dtype.name, metric, queries[row], 0, distances[row], scratch)
    return distances
