"""Plain binary vector files, little-endian throughout.

fvecs bvecs ivecs              every row: i32 dim, then dim values          (TEXMEX)
fbin u8bin i8bin f16bin ibin   u32 rows, u32 dim, then all values           (big-ann-benchmarks, DiskANN)
spacev                         i32 rows, i32 dim, then all int8 values; may be split over vectors_1.bin, ...
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.files import PIECE_BYTES, JoinedFiles, file_size, open_raw, read_array, system_errors
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.source import VectorSource

VECS: dict[str, np.dtype] = {"fvecs": np.dtype("<f4"), "bvecs": np.dtype("u1"), "ivecs": np.dtype("<i4")}
BINS: dict[str, np.dtype] = {
    "fbin": np.dtype("<f4"),
    "u8bin": np.dtype("u1"),
    "i8bin": np.dtype("i1"),
    "f16bin": np.dtype("<f2"),
    "ibin": np.dtype("<i4"),
    "spacev": np.dtype("i1"),
}


class PackedVectors(VectorSource):
    """Rows one after another, from byte `offset` of what `open_stream` opens."""

    def __init__(
        self, name: str, rows: int, dim: int, stored: np.dtype, open_stream: Callable[[], io.RawIOBase], offset: int
    ) -> None:
        super().__init__(name, rows, dim, stored)
        self._stored, self._open, self._offset = stored, open_stream, offset

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        with self._open() as stream:
            stream.seek(self._offset + start * self.dim * self._stored.itemsize)
            for row in range(start, self.rows, block_rows):
                yield read_array(stream, (min(block_rows, self.rows - row), self.dim), self._stored, self.name)


class VecsVectors(VectorSource):
    """fvecs, bvecs, ivecs: the dimension stands before every row, and is checked at every row."""

    def __init__(self, path: Path, stored: np.dtype) -> None:
        size = file_size(path)
        with open_raw(path) as file:
            head = read_array(file, (1,), np.dtype("<i4"), str(path))
        super().__init__(str(path), 0, int(head[0]), stored)
        self._path, self._stored = path, stored
        self._record = np.dtype([("dim", "<i4"), ("values", stored, (self.dim,))])
        self._piece_rows = max(1, PIECE_BYTES // self._record.itemsize)
        self.rows, rest = divmod(size, self._record.itemsize)
        if rest:
            for _ in self._stored_blocks(self._piece_rows, 0):
                pass  # a row of another dimension in the middle explains more than the size does
            raise InputError(
                f"{path}: {size:,} bytes are {self.rows:,} rows of {self._record.itemsize:,} bytes "
                f"(dimension {self.dim}) and {rest:,} bytes more; the file is cut; fetch or write it again"
            )

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        with open_raw(self._path) as file:
            file.seek(start * self._record.itemsize)
            for row in range(start, self.rows, block_rows):
                yield self._read_block(file, row, min(block_rows, self.rows - row))

    def _read_block(self, file: io.RawIOBase, row: int, count: int) -> np.ndarray:
        block = np.empty((count, self.dim), self._stored)
        for begin in range(0, count, self._piece_rows):
            self._read_piece(file, block[begin : begin + self._piece_rows], row + begin)
        return block

    def _read_piece(self, file: io.RawIOBase, out: np.ndarray, first_row: int) -> None:
        piece = read_array(file, (len(out),), self._record, self.name)
        other = np.flatnonzero(piece["dim"] != self.dim)
        if len(other):
            raise InputError(
                f"{self.name}: row {first_row + other[0]} says dimension {piece['dim'][other[0]]}, "
                f"the rows before it {self.dim}; the file is cut or mixed"
            )
        out[:] = piece["values"]


def open_vecs(path: Path, format: str) -> VectorSource:
    """Open fvecs, bvecs or ivecs."""
    return VecsVectors(path, VECS[format])


def open_bin(path: Path, format: str) -> VectorSource:
    """Open fbin, u8bin, i8bin, f16bin, ibin, or spacev: one file, or the folder of its parts."""
    paths = _parts(path) if format == "spacev" and os.path.isdir(path) else [path]
    stream = JoinedFiles(paths)
    rows, dim = read_header(stream, str(path), signed=format == "spacev")
    source = PackedVectors(str(path), rows, dim, BINS[format], lambda: JoinedFiles(paths), 8)
    _check_size(source, BINS[format], stream.size)
    return source


def read_header(stream: io.RawIOBase, name: str, signed: bool) -> tuple[int, int]:
    """The two 32-bit counts at the start of big-ann (unsigned) and SPACEV (signed) files."""
    header = read_array(stream, (2,), np.dtype("<i4" if signed else "<u4"), name)
    return int(header[0]), int(header[1])


def _parts(folder: Path) -> list[Path]:
    """vectors_1.bin, vectors_2.bin, ... in the order of their numbers; InputError for a gap."""
    with system_errors(folder):
        matches = [re.fullmatch(r"vectors_([1-9]\d{0,5})\.bin", entry.name) for entry in folder.iterdir()]
    found = {int(match[1]): folder / match[0] for match in matches if match}
    if not found:
        raise InputError(f"{folder}: a folder without vectors_1.bin, ...; give a file, or SPACEV's folder")
    for number in range(1, max(found) + 1):
        if number not in found:
            raise InputError(f"{folder}: vectors_{number}.bin is missing beside vectors_{max(found)}.bin; fetch it too")
    return [found[number] for number in sorted(found)]


def _check_size(source: VectorSource, stored: np.dtype, size: int) -> None:
    rows, dim, wanted = source.rows, source.dim, 8 + source.rows * source.dim * stored.itemsize
    if wanted == size:
        return
    said = f"{source.name}: its header says {rows:,} rows of {dim:,} {source.dtype} values, {wanted:,} bytes"
    fitting = [format for format, other in BINS.items() if rows and 8 + rows * dim * other.itemsize == size]
    if fitting:
        raise InputError(f"{said}, but it has {size:,}, which fits {' or '.join(fitting)}; rename it")
    if size < wanted:
        raise InputError(f"{said}, but it has {size:,}: {wanted - size:,} are missing; it is cut, fetch it again")
    raise InputError(f"{said}, but it has {size:,}: {size - wanted:,} too many; its header or its suffix is wrong")


def write_vecs(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write fvecs, bvecs or ivecs. InputError for no rows: such a file could not say its dimension."""
    stored = layout.dtype.newbyteorder("<")
    record = np.dtype([("dim", "<i4"), ("values", stored, (layout.dim,))])
    piece_rows, rows = max(1, PIECE_BYTES // record.itemsize), 0
    for block in blocks:
        rows += len(block)
        for begin in range(0, len(block), piece_rows):
            values = block[begin : begin + piece_rows]
            piece = np.empty(len(values), record)
            piece["dim"], piece["values"] = layout.dim, values
            file.write(piece.data)
    if not rows:
        raise InputError(f"{layout.name}: there are no rows, and this format cannot say so; use .fbin, .npy or .hdf5")


def write_bin(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write fbin, u8bin, i8bin, f16bin or ibin."""
    _write_counted(file, blocks, layout, (1 << 32) - 1)


def write_spacev(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write a single SPACEV file; its counts are signed."""
    _write_counted(file, blocks, layout, (1 << 31) - 1)


def _write_counted(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout, most: int) -> None:
    rows = 0
    file.write(bytes(8))
    for block in blocks:
        file.write(block.astype(layout.dtype.newbyteorder("<"), copy=False).data)
        rows += len(block)
    if rows > most:
        raise InputError(f"{layout.name}: {rows:,} rows, the format counts to {most:,}; use .npy or .hdf5")
    file.seek(0)
    file.write(np.array([rows, layout.dim], "<u4").tobytes())
