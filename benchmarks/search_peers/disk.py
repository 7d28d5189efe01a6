"""What the disk gives right now: random 4 KiB reads past the page cache, a fixed number in flight.

Uses the kernel's own asynchronous reads (`io_submit`), called without a library.
"""

import ctypes
import mmap
import os
import platform
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 4096
CALLS = {  # io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}


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


def random_read_iops(path: Path, depth: int, seconds: float = 2.0, seed: int = 0) -> float | None:
    """Return reads per second of random pages of `path` with `depth` in flight.

    Returns None where O_DIRECT or the system call is refused (tmpfs, containers, other processors).
    """
    if platform.machine() not in CALLS or path.stat().st_size < PAGE_BYTES:
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        pages = np.random.default_rng(seed).integers(0, path.stat().st_size // PAGE_BYTES, 200_000)
        return _read_for(seconds, file, depth, pages)
    except OSError:
        return None
    finally:
        os.close(file)


def _call(number: int, *arguments: object) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "asynchronous reads are refused")
    return result


def _read_for(seconds: float, file: int, depth: int, pages: NDArray[np.int64]) -> float:
    """Keep `depth` reads in flight for so many seconds."""
    setup, destroy, getevents, submit = CALLS[platform.machine()]
    context = ctypes.c_uint64(0)
    _call(setup, ctypes.c_uint(depth), ctypes.byref(context))
    buffer = mmap.mmap(-1, depth * PAGE_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    requests = [
        Request(data=slot, file=file, buffer=address + slot * PAGE_BYTES, size=PAGE_BYTES) for slot in range(depth)
    ]
    events, free, done, issued = (Event * depth)(), list(range(depth)), 0, 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for slot in free:
            requests[slot].offset = int(pages[issued % len(pages)]) * PAGE_BYTES
            issued += 1
        batch = (ctypes.POINTER(Request) * len(free))(*(ctypes.pointer(requests[slot]) for slot in free))
        _call(submit, context, ctypes.c_long(len(free)), batch)
        count = _call(getevents, context, ctypes.c_long(1), ctypes.c_long(depth), events, None)
        free = [int(events[number].data) for number in range(count)]
        done += count
    elapsed = time.perf_counter() - start
    _call(destroy, context)  # waits for the reads still in flight
    return done / elapsed
