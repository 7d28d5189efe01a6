"""NumPy's own files: `npy` read by offset, `npz` streamed out of the zip archive. Pickled objects are never loaded."""

import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

import numpy as np
from numpy.lib import format as npy_format

from tenfold.core.errors import InputError
from tenfold.search.formats.binary import PackedVectors
from tenfold.search.formats.files import (
    PIECE_BYTES,
    ReadableInto,
    decoding,
    file_size,
    open_raw,
    read_array,
    read_exactly,
)
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.source import ArrayVectors, VectorSource


@dataclass(frozen=True)
class NpyHeader:
    """What an npy header says, and the `offset` of the first value after it."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    offset: int

    @property
    def content_bytes(self) -> int:
        """Bytes that the values must take."""
        values = 1
        for length in self.shape:
            values *= length
        return values * self.dtype.itemsize


def read_npy_header(stream: io.RawIOBase | IO[bytes], name: str, size: int) -> NpyHeader:
    """Read and check the header at the start of an npy stream of `size` bytes."""
    with decoding(name, "npy"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged header may hold odd Python literals; they are refused below
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{name}: npy version {version}; save it again with numpy.save")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
        header = NpyHeader(shape, fortran_order, dtype, stream.tell())
    if dtype.hasobject:
        raise InputError(f"{name}: holds pickled Python objects, which are never loaded; save a plain numeric array")
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise InputError(f"{name}: its header says shape {shape}; it is damaged")
    wanted = header.offset + header.content_bytes
    if wanted != size:
        difference = f"{wanted - size:,} are missing" if size < wanted else f"{size - wanted:,} too many"
        raise InputError(
            f"{name}: its header says shape {shape} of {dtype}, {wanted:,} bytes in all, but it has {size:,}: "
            f"{difference}; it is cut or damaged, write or fetch it again"
        )
    return header


def _refuse_shape(header: NpyHeader, name: str) -> None:
    """Refuse all but (rows, dim), in the words used for arrays in memory."""
    if len(header.shape) != 2:
        ArrayVectors(np.broadcast_to(np.zeros(1, header.dtype), header.shape), name)


class FortranVectors(VectorSource):
    """An npy file in Fortran order: a block takes one short read per column."""

    def __init__(self, path: Path, header: NpyHeader) -> None:
        super().__init__(str(path), header.shape[0], header.shape[1], header.dtype)
        self._path, self._header = path, header

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        with open_raw(self._path) as file:
            for row in range(start, self.rows, block_rows):
                yield self._read_block(file, row, min(block_rows, self.rows - row))

    def _read_block(self, file: io.RawIOBase, row: int, count: int) -> np.ndarray:
        columns = np.empty((self.dim, count), self._header.dtype)
        for column in range(self.dim):
            file.seek(self._header.offset + (column * self.rows + row) * self._header.dtype.itemsize)
            read_exactly(file, columns[column], self.name)
        return columns.T


class NpzVectors(VectorSource):
    """One array of an npz archive, unpacked as it is read."""

    def __init__(self, path: Path, member: str, header: NpyHeader) -> None:
        super().__init__(f"{path}[{member.removesuffix('.npy')}]", header.shape[0], header.shape[1], header.dtype)
        self._path, self._member, self._header = path, member, header

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        header = self._header
        with npz_stream(self._path, self._member, header.offset + start * self.dim * header.dtype.itemsize) as stream:
            for row in range(start, self.rows, block_rows):
                yield read_array(stream, (min(block_rows, self.rows - row), self.dim), header.dtype, self.name)


@contextmanager
def npz_stream(path: Path, member: str, offset: int) -> Iterator[ReadableInto]:
    """The unpacked bytes of a member, from `offset` on."""
    with ExitStack() as stack:
        with decoding(f"{path}[{member}]", "npz"):
            stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
            stream.seek(offset)
        yield cast(zipfile.ZipExtFile, stream)


def open_npy(path: Path) -> VectorSource:
    """Open a 2-D npy file."""
    size = file_size(path)
    with open_raw(path) as file:
        header = read_npy_header(file, str(path), size)
    _refuse_shape(header, str(path))
    if header.fortran_order:
        return FortranVectors(path, header)
    return PackedVectors(
        str(path), header.shape[0], header.shape[1], header.dtype, lambda: open_raw(path), header.offset
    )


def open_npz(path: Path, key: str | None) -> VectorSource:
    """Open member `key` of an npz archive; without a key, its only member."""
    member, header = npz_member(path, key)
    name = f"{path}[{member.removesuffix('.npy')}]"
    _refuse_shape(header, name)
    if header.fortran_order:
        raise InputError(f"{name}: in Fortran order, which npz cannot stream; save it as .npy")
    return NpzVectors(path, member, header)


def npz_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an npz archive by their key."""
    file_size(path)
    with decoding(str(path), "npz"), zipfile.ZipFile(path) as archive:
        return {
            info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")
        }


def npz_member(path: Path, key: str | None) -> tuple[str, NpyHeader]:
    """File name in the archive, and header, of the array called `key`; None takes the only array."""
    members = npz_members(path)
    if key is None and len(members) == 1:
        key = next(iter(members))
    if key is None or key not in members:
        asked = "no key was given" if key is None else f"there is no array {key!r}"
        raise InputError(f"{path}: {asked}; choose by key: {', '.join(sorted(members)) or '(it holds no arrays)'}")
    info = members[key]
    with decoding(f"{path}[{key}]", "npz"), zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        return info.filename, read_npy_header(stream, f"{path}[{key}]", info.file_size)


def read_npy_values(stream: ReadableInto, header: NpyHeader, name: str) -> np.ndarray:
    """All values after an npy header, of any shape."""
    with decoding(name, "npy"):
        flat = np.empty(header.content_bytes // max(1, header.dtype.itemsize), header.dtype)
    read_exactly(stream, flat, name)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def read_npz_array(path: Path, key: str | None) -> np.ndarray:
    """A whole array of an npz archive, of any shape."""
    member, header = npz_member(path, key)
    with npz_stream(path, member, header.offset) as stream:
        return read_npy_values(stream, header, f"{path}[{member.removesuffix('.npy')}]")


def write_npy(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write npy version 1.0; the header is written again at the end, when the rows are counted."""
    _write_header(file, 0, layout)
    rows = 0
    for block in blocks:
        file.write(block.data)
        rows += len(block)
    file.seek(0)
    _write_header(file, rows, layout)


def _write_header(file: IO[bytes], rows: int, layout: Layout) -> None:
    description = npy_format.dtype_to_descr(layout.dtype)
    npy_format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": (rows, layout.dim)})


def write_npz(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write an npz archive of one array, `layout.key` or "vectors", stored without compression."""
    with TemporaryFile(dir=Path(layout.name).parent) as array:  # a zip member cannot be patched when the rows are known
        write_npy(array, blocks, layout)
        size = array.seek(0, io.SEEK_END)
        array.seek(0)
        member = f"{layout.key or 'vectors'}.npy"
        with zipfile.ZipFile(file, "w") as archive, archive.open(member, "w", force_zip64=size >= 1 << 31) as target:
            while piece := array.read(PIECE_BYTES):
                target.write(piece)
