"""The files of an index: sections of numbers behind a checked header.

Header (4,096 bytes, little-endian): magic `TENFOLD\\0`, u32 format version, u32 CRC-32C of the
header (itself counted as 0), 16-byte kind, u64 file size, u32 number of sections; from byte 64 on
one 64-byte entry per section: 16-byte name, 8-byte dtype (`<f4`), u64 offset, u64 rows, u64
columns, u32 CRC-32C of the section. Sections start on 4,096-byte boundaries. Nothing in a header
is believed before it has been checked against the file.
"""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native

__all__ = [
    "FORMAT_VERSION",
    "INDEX_FILES",
    "LIVING_FILE",
    "NO_ROOM",
    "PAGE",
    "REPAIR",
    "SHARDS_FILE",
    "SectionFile",
    "SectionWriter",
    "as_bytes",
    "is_section_file",
    "replace_file",
    "save_array",
    "sync_folder",
    "write_all",
]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk on which making room helps."""

INDEX_FILES = {"vectors.bin": "vectors", "codes.bin": "codes", "lists.bin": "lists", "graph.bin": "graph",
               "codebook.bin": "codebook"}  # fmt: skip
"""The section files of an index and their kinds."""

LIVING_FILE = "living.json"
"""Of what an index that takes updates consists."""

SHARDS_FILE = "shards.json"
"""Of what an index in shards consists."""

FORMAT_VERSION = 1
PAGE = 4096
REPAIR = "restore it from a copy or build the index again"
_MAGIC = b"TENFOLD\0"
_HEADER = struct.Struct("<8sII16sQI")
_ENTRY = struct.Struct("<16s8sQQQI")
_DTYPES = ("<f4", "<f8", "<u4", "<u8", "<i8", "|u1")
_CHUNK = 1 << 20
_MOST_SECTIONS = (PAGE - 64) // 64


@dataclass(frozen=True)
class _Section:
    dtype: np.dtype
    offset: int
    rows: int
    columns: int
    crc: int

    @property
    def nbytes(self) -> int:
        return self.rows * self.columns * self.dtype.itemsize


class SectionWriter:
    """Writes a section file beside its place and moves it there when complete; use as a context."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._partial = path.with_name(path.name + ".partial")
        self._sections: dict[str, _Section] = {}

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._partial.open("wb")
        self._file.write(b"\0" * PAGE)
        self._end = PAGE
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            with self._file:
                if kind is None:
                    self._file.seek(0)
                    self._file.write(self._header())
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._partial.replace(self._path)
        finally:
            with suppress(OSError):  # where it did not become the file: its room may be what is missing
                self._partial.unlink()
        if kind is None:
            sync_folder(self._path.parent)

    def begin(self, name: str, dtype: str, columns: int = 1) -> None:
        """Start a section whose rows follow by `write`."""
        self._sections[name] = _Section(np.dtype(dtype), self._end, 0, columns, 0)
        self._current = name

    def write(self, rows: np.ndarray) -> None:
        """Append rows to the section begun last."""
        section = self._sections[self._current]
        data = as_bytes(np.ascontiguousarray(rows, section.dtype))
        self._file.write(data.data)
        crc = _native.crc32c(data, section.crc)
        count = section.rows + data.size // (section.columns * section.dtype.itemsize)
        self._sections[self._current] = _Section(section.dtype, section.offset, count, section.columns, crc)

    def end(self) -> None:
        """Finish the section, filling its last page."""
        section = self._sections[self._current]
        self._end = section.offset + -(-section.nbytes // PAGE) * PAGE
        self._file.write(b"\0" * (self._end - section.offset - section.nbytes))

    def add(self, name: str, array: np.ndarray) -> None:
        """Write a whole section; columns are the product of all dimensions but the first."""
        array = np.ascontiguousarray(array)
        columns = int(np.prod(array.shape[1:], dtype=np.int64)) if array.ndim > 1 else 1
        self.begin(name, array.dtype.newbyteorder("<").str, columns)
        self.write(array)
        self.end()

    def _header(self) -> bytes:
        def pack(crc: int) -> bytes:
            start = _HEADER.pack(_MAGIC, FORMAT_VERSION, crc, self._kind.encode(), self._end, len(self._sections))
            entries = [
                _ENTRY.pack(n.encode(), s.dtype.str.encode(), s.offset, s.rows, s.columns, s.crc).ljust(64, b"\0")
                for n, s in self._sections.items()
            ]
            return (start.ljust(64, b"\0") + b"".join(entries)).ljust(PAGE, b"\0")

        return pack(_native.crc32c(np.frombuffer(pack(0), np.uint8), 0))


class SectionFile:
    """A section file opened for reading; InputError where the header does not hold."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                header = file.read(PAGE)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror}); {REPAIR}") from None
        self._sections = _parse_header(path, kind, header, size)
        self.checksum: int = _HEADER.unpack_from(header)[2]
        """Of the header, which holds those of the sections: tells this file from others of the same shape."""

    def array(self, name: str, dtype: str, columns: int | None = 1) -> np.ndarray:
        """A section as a read-only memory map, (rows,) or (rows, columns); `columns=None` takes any.

        Raises InputError if the section is missing or of another type.
        """
        section = self.section(name)
        if section.dtype != np.dtype(dtype) or (columns is not None and section.columns != columns):
            raise InputError(
                f"{self.path}: section {name} holds {section.columns} x {section.dtype}, "
                f"not {columns} x {np.dtype(dtype)}; {REPAIR}"
            )
        shape = (section.rows,) if columns == 1 else (section.rows, section.columns)
        if section.nbytes == 0:
            return np.zeros(shape, section.dtype)
        mapped = np.memmap(self.path, section.dtype, "r", section.offset, shape)
        return mapped.view(np.ndarray)

    def section(self, name: str) -> _Section:
        """Where a section lies; InputError if there is none of that name."""
        if name not in self._sections:
            raise InputError(f"{self.path}: has no section {name}; {REPAIR}")
        return self._sections[name]

    def names(self) -> list[str]:
        """The sections' names, in file order."""
        return list(self._sections)

    def check(self, name: str) -> None:
        """Read a section (not through the memory map) and compare its checksum; InputError if it differs.

        The zeros that fill its last page are compared too, so that no byte of the file can change unseen.
        """
        section = self.section(name)
        crc = 0
        for chunk in self.chunks(name):
            crc = _native.crc32c(np.frombuffer(chunk, np.uint8), crc)
        if crc != section.crc or any(self._filling(section)):
            raise InputError(f"{self.path}: section {name} does not match its checksum; it is damaged: {REPAIR}")

    def _filling(self, section: _Section) -> bytes:
        with self.path.open("rb") as file:
            file.seek(section.offset + section.nbytes)
            return file.read(-section.nbytes % PAGE)

    def chunks(self, name: str, chunk_bytes: int = _CHUNK) -> Iterator[bytes]:
        """The bytes of a section in pieces."""
        section = self.section(name)
        with self.path.open("rb") as file:
            file.seek(section.offset)
            left = section.nbytes
            while left > 0:
                chunk = file.read(min(left, chunk_bytes))
                if not chunk:
                    raise InputError(f"{self.path}: ends inside section {name}; {REPAIR}")
                left -= len(chunk)
                yield chunk


def as_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a C-contiguous array as a flat uint8 view."""
    return array.reshape(-1).view(np.uint8)


def is_section_file(path: Path) -> bool:
    """Whether it begins as a file of an index does, damaged or not."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
    return False


def _parse_header(path: Path, kind: str, header: bytes, size: int) -> dict[str, _Section]:
    if len(header) < PAGE or header[:8] != _MAGIC:
        raise InputError(f"{path}: is not a file of a Tenfold index; {REPAIR}")
    _, version, crc, found_kind, stated_size, count = _HEADER.unpack_from(header)
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: has format version {version}, this Tenfold reads up to {FORMAT_VERSION}; upgrade Tenfold"
        )
    blank = header[:12] + b"\0" * 4 + header[16:]
    if _native.crc32c(np.frombuffer(blank, np.uint8), 0) != crc:
        raise InputError(f"{path}: its header does not match its checksum; it is damaged: {REPAIR}")
    if found_kind.rstrip(b"\0") != kind.encode():
        raise InputError(f"{path}: holds {found_kind.rstrip(bytes(1)).decode('ascii', 'replace')!r}, not {kind!r}")
    if stated_size != size:
        raise InputError(f"{path}: has {size:,} bytes, its header says {stated_size:,}; it is cut or mixed: {REPAIR}")
    if count > _MOST_SECTIONS:
        raise InputError(f"{path}: says it has {count:,} sections; it is damaged: {REPAIR}")
    sections = {}
    for number in range(count):
        name, dtype, offset, rows, columns, section_crc = _ENTRY.unpack_from(header, 64 + 64 * number)
        text = dtype.rstrip(b"\0").decode("ascii", "replace")
        fits = text in _DTYPES and rows * columns * np.dtype(text).itemsize <= size - offset <= size - PAGE
        if not fits or offset % PAGE or not 0 < columns < 1 << 32:
            raise InputError(f"{path}: section {number} lies outside the file; it is damaged: {REPAIR}")
        sections[name.rstrip(b"\0").decode("ascii", "replace")] = _Section(
            np.dtype(text), offset, rows, columns, section_crc
        )
    return sections


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes `path`'s place only when the block ends well: written beside, synced, renamed."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def write_all(file: IO[bytes], array: np.ndarray) -> None:
    """Append a C-contiguous array to a file, also an unbuffered one.

    Raises OSError with the system's reason, which `ndarray.tofile` does not tell.
    """
    left = as_bytes(array).data
    while len(left):
        left = left[file.write(left) :]


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a C-contiguous array for `numpy.load`, whole or not at all. Raises OSError with the system's reason."""
    with replace_file(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        write_all(file, array)


def scratch_array(path: Path, dtype: str, rows: int) -> np.ndarray:
    """Zeros (rows,) in a file; an array in memory where there are none. Raises OSError."""
    if rows == 0:
        return np.zeros(0, dtype)
    mapped = np.lib.format.open_memmap(path, "w+", dtype, (rows,))
    with path.open("r+b") as file:  # a full disk shows now; at the first write to the map it would end the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped
