"""The write-ahead log of a living index: what was added and deleted since its segments were sealed.

A file begins with magic `TENFLOG\\0` and u32 format version, filled up to 16 bytes; records follow, little-endian:
u32 length of the payload, u32 CRC-32C of what comes behind it, u64 sequence, u64 how many bytes of the file were known
to be on disk when the record was written, u8 operation, payload. A record counts only whole, and only behind whole
ones: what a crash left of unsynced writes, in whatever order they reached the disk, is cut off. A broken record that a
later one says was on disk is damage.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.storage import sync_folder

__all__ = ["ADD", "DELETE", "LOG_START", "Durability", "Log", "Record", "read_log"]

Durability = Literal["always", "batch", "none"]
"""When a change is on disk: before the call returns; when a batch is full or flushed; when the system likes."""

ADD, DELETE = 1, 2
_ADVICE = "restore the file from a copy, or move it away to go on without the changes in it"
_MAGIC = b"TENFLOG\0"
_VERSION = 1
_START = struct.Struct("<8sI4x")
LOG_START = _START.size
"""Where the first record of a log begins."""

_HEAD = struct.Struct("<IIQQB")
_BODY = struct.Struct("<QQB")
_BATCH_BYTES, _BATCH_RECORDS = 4 << 20, 1024
_SEARCHED = 64 << 20  # bytes behind a broken record
_CHUNK = 1 << 20


class Record(NamedTuple):
    """One change: its number, what it does, and to what."""

    sequence: int
    operation: int
    payload: bytes

    @property
    def size(self) -> int:
        """Its bytes in the log."""
        return _HEAD.size + len(self.payload)


class Log:
    """A log open for writing; made if it is not there. Not for several threads at once.

    Attributes:
        path: The file.
        durability: When a record is on disk.
        synced: How many bytes of the file are known to be.
    """

    def __init__(self, path: Path, durability: Durability) -> None:
        """Goes on behind the last whole record of an existing file. Raises OSError, and InputError for damage."""
        self.path, self.durability = path, durability
        self._waiting = self._waiting_bytes = 0
        whole = _whole_bytes(path) if path.exists() else 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(self._file, whole)
            self._end = whole
            if whole == 0:
                self._write(_START.pack(_MAGIC, _VERSION))
            os.fsync(self._file)
            self.synced = self._end
            sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, sequence: int, operation: int, payload: bytes) -> None:
        """Write a record; on disk when this returns if the durability is "always".

        Raises OSError, after which the log is as it was before.
        """
        body = _BODY.pack(sequence, self.synced, operation) + payload
        start = self._end
        try:
            self._write(struct.pack("<II", len(payload), _crc(body)) + body)
            self._waiting, self._waiting_bytes = self._waiting + 1, self._waiting_bytes + len(body)
            full = self._waiting >= _BATCH_RECORDS or self._waiting_bytes >= _BATCH_BYTES
            if self.durability == "always" or (self.durability == "batch" and full):
                self.sync()
        except OSError:
            self._end = start
            with suppress(OSError):
                os.ftruncate(self._file, start)
            raise

    def sync(self) -> None:
        """Wait until all that was written is on disk. Raises OSError."""
        if self._waiting:
            os.fdatasync(self._file)
            self.synced, self._waiting, self._waiting_bytes = self._end, 0, 0

    def close(self) -> None:
        """Write out what waits and close. Raises OSError."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._file, left, self._end)
            self._end += written
            left = left[written:]


def read_log(path: Path, start: int = LOG_START) -> Iterator[Record]:
    """The whole records of a log, in order, from the byte `start` on, where one begins.

    Raises InputError where it is no log, of a newer version, not readable, or damaged before its end.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_start(path, file.read(_START.size), size)
            file.seek(start)
            while (record := _next(file, size)) is not None:
                start = file.tell()
                yield record
            file.seek(start)
            if _was_synced(
                file.read(max(0, min(_SEARCHED, size - start))), start
            ):  # not what a writer appends meanwhile
                raise InputError(f"{path}: the record at byte {start:,} is damaged; {_ADVICE}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _whole_bytes(path: Path) -> int:
    """Up to where a log is whole."""
    if path.stat().st_size < _START.size:
        return 0  # a crash right after it was made
    return LOG_START + sum(record.size for record in read_log(path))


def _check_start(path: Path, start: bytes, size: int) -> None:
    if size < _START.size:
        return
    magic, version = _START.unpack(start)
    if magic != _MAGIC:
        raise InputError(f"{path}: is no log of a Tenfold index; {_ADVICE}")
    if version > _VERSION:
        raise InputError(f"{path}: has format version {version}, this Tenfold reads up to {_VERSION}; upgrade Tenfold")


def _next(file: IO[bytes], size: int) -> Record | None:
    """The record that begins here, if it is whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, crc, sequence, _, operation = _HEAD.unpack(head)
    if length > size - file.tell():
        return None
    payload = file.read(length)
    return Record(sequence, operation, payload) if _crc(head[8:] + payload) == crc else None


def _was_synced(rest: bytes, broken: int) -> bool:
    """Whether a whole record in `rest`, behind a broken one, says that the file was on disk beyond `broken`.

    A record may begin at any byte. What each would hold is not read for itself, which might take the square of the
    bytes: its checksum follows from those of all bytes up to its start and up to its end.
    """
    starts, ends, wanted = _possible_records(rest, broken)
    places, data = np.unique(np.concatenate([starts, ends])), np.frombuffer(rest, np.uint8)
    crc, before, sums = 0, 0, np.empty(len(places), np.uint32)
    for number, place in enumerate(places.tolist()):
        crc = int(_native.crc32c(data[before:place], crc))
        before, sums[number] = place, crc
    until_start, until_end = (sums[np.searchsorted(places, some)] for some in (starts, ends))
    return bool((until_end ^ _followed(until_start, ends - starts) == wanted).any())


def _possible_records(rest: bytes, broken: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where what the checksums of records in `rest` are of begins and ends, (n,) int64, and the checksums, (n,) uint32.

    Of those whose other numbers may be right: no record knows of bytes of the file behind its own start.
    """
    found = [np.zeros((0, 3), np.int64)]
    for first in range(0, len(rest) - _HEAD.size + 1, _CHUNK):
        shape = min(_CHUNK, len(rest) - _HEAD.size + 1 - first)
        length, crc, synced, operation = (
            np.ndarray(shape, dtype, rest, first + at, (1,))  # at every byte
            for dtype, at in (("<u4", 0), ("<u4", 4), ("<u8", 16), ("|u1", 24))
        )
        start = np.arange(first, first + shape)
        end = start + _HEAD.size + length
        fits = ((operation == ADD) | (operation == DELETE)) & (end <= len(rest))
        fits &= (synced > broken) & (synced <= broken + start.astype(np.uint64))
        found.append(np.stack([start[fits] + 8, end[fits], crc[fits]], axis=1))
    starts, ends, wanted = np.concatenate(found).T
    return starts, ends, wanted.astype(np.uint32)


def _followed(sums: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """What checksums (n,) uint32 add to those of so many bytes (n,) that follow, as in zlib's crc32_combine.

    That is linear in their bits: `columns` is what each bit becomes over 1, 2, 4, ... bytes.
    """

    def moved(sums: np.ndarray) -> np.ndarray:
        found = np.zeros_like(sums)
        for bit, column in enumerate(columns):
            found ^= (sums >> np.uint32(bit) & np.uint32(1)) * column
        return found

    zero = np.zeros(1, np.uint8)
    columns = np.array([_native.crc32c(zero, 1 << bit) ^ _native.crc32c(zero) for bit in range(32)], np.uint32)
    while lengths.any():
        odd = lengths % 2 == 1
        sums = np.where(odd, moved(sums), sums)
        columns, lengths = moved(columns), lengths // 2
    return sums


def _crc(data: bytes) -> int:
    return int(_native.crc32c(np.frombuffer(data, np.uint8)))
