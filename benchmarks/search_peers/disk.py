"""What the disk gives right now: random 4 KiB reads past the page cache, by number in flight and by delay.

Uses the kernel's own asynchronous reads (`io_submit`), called without a library.
"""

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 4096
ROUND_READS = 5
CALLS = {  # io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
LIBC = ctypes.CDLL(None, use_errno=True)


class Request(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h (little endian); opcode 0 is a read."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("file", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64 * 2),
    )


class Event(ctypes.Structure):
    """`struct io_event`: `data` is the request's own."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("more", ctypes.c_int64),
    )


Prepared = ctypes.Array[Any]  # of pointers to requests


class Reader:
    """Asynchronous reads of pages of one file with O_DIRECT; a context manager.

    Raises:
        OSError: O_DIRECT or the system calls are refused (tmpfs, containers, other processors).
    """

    def __init__(self, path: Path, slots: int) -> None:
        if platform.machine() not in CALLS or path.stat().st_size < PAGE_BYTES:
            raise OSError(f"{path}: no asynchronous reads here")
        self._setup, self._destroy, self._getevents, self._submit = CALLS[platform.machine()]
        self._file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self._context = ctypes.c_uint64(0)
        self._buffer = mmap.mmap(-1, slots * PAGE_BYTES)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._requests = [
            Request(data=slot, file=self._file, buffer=address + slot * PAGE_BYTES, size=PAGE_BYTES)
            for slot in range(slots)
        ]
        self._events = (Event * slots)()
        try:
            _call(self._setup, ctypes.c_uint(slots), ctypes.byref(self._context))
        except OSError:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _call(self._destroy, self._context)  # waits for the reads still in flight
        os.close(self._file)

    def prepare(self, slots: Sequence[int], pages: NDArray[np.int64]) -> Prepared:
        """Return what `submit` takes, for one page per slot."""
        for slot, page in zip(slots, pages, strict=True):
            self._requests[slot].offset = int(page) * PAGE_BYTES
        return (ctypes.POINTER(Request) * len(slots))(*(ctypes.pointer(self._requests[slot]) for slot in slots))

    def submit(self, prepared: Prepared) -> None:
        """Start the reads."""
        _call(self._submit, self._context, ctypes.c_long(len(prepared)), prepared)

    def wait(self, fewest: int) -> list[int]:
        """Wait for so many reads; return the slots of all that are done."""
        most = ctypes.c_long(len(self._requests))
        count = _call(self._getevents, self._context, ctypes.c_long(fewest), most, self._events, None)
        return [int(self._events[number].data) for number in range(count)]


def random_read_iops(path: Path, depth: int, seconds: float = 2.0, seed: int = 0) -> float | None:
    """Return reads per second of random pages of `path` with `depth` in flight; None where they are refused."""
    try:
        with Reader(path, depth) as reader:
            return _read_for(seconds, reader, depth, _random_pages(path, 200_000, seed))
    except OSError:
        return None


def two_round_micros(path: Path, repetitions: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """Return p50 and p99, in microseconds, of two dependent rounds of five random pages of `path` each.

    The five of a round are read at once, and nothing is computed between the rounds: no method that
    reads in two rounds can answer a query sooner. None where such reads are refused.
    """
    pages = _random_pages(path, repetitions * 2 * ROUND_READS, seed).reshape(repetitions, 2, ROUND_READS)
    first, second = range(ROUND_READS), range(ROUND_READS, 2 * ROUND_READS)
    try:
        with Reader(path, 2 * ROUND_READS) as reader:
            times = [_two_rounds(reader, reader.prepare(first, a), reader.prepare(second, b)) for a, b in pages]
    except OSError:
        return None
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def _random_pages(path: Path, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, max(1, path.stat().st_size // PAGE_BYTES), count)


def _two_rounds(reader: Reader, *rounds: Prepared) -> float:
    before = time.perf_counter_ns()
    for prepared in rounds:
        reader.submit(prepared)
        reader.wait(ROUND_READS)
    return (time.perf_counter_ns() - before) / 1000


def _read_for(seconds: float, reader: Reader, depth: int, pages: NDArray[np.int64]) -> float:
    """Keep `depth` reads in flight for so many seconds."""
    free, done, issued = list(range(depth)), 0, 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        wanted = pages[np.arange(issued, issued + len(free)) % len(pages)]
        issued += len(free)
        reader.submit(reader.prepare(free, wanted))
        free = reader.wait(1)
        done += len(free)
    return done / (time.perf_counter() - start)


def _call(number: int, *arguments: object) -> int:
    result = int(LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "asynchronous reads are refused")
    return result
