"""One library in a process of its own: reads orders as JSON lines on stdin, answers as JSON lines.

The answers leave through what stdout was at the start; whatever the library prints goes to stderr.
"""

import ctypes
import faulthandler
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from search_peers import vectors

K = 10
PAGE_BYTES = 4096
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def status_bytes(field: str) -> int:
    """Return a size that the kernel keeps about this process, such as `VmRSS` or `VmHWM`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


@dataclass(frozen=True)
class Reads:
    """Reads of this process so far.

    Attributes:
        fetched: 4 KiB pages that the kernel fetched from a disk.
        asked: Reads that the process asked for, page cache or not; one of several pages counts as so many.
    """

    fetched: float
    asked: float

    @classmethod
    def so_far(cls) -> "Reads":
        """Return what the kernel has counted."""
        lines = (line.split(":") for line in Path("/proc/self/io").read_text().splitlines())
        counted = {name: int(number) for name, number in lines}
        asked = max(counted["syscr"], counted["rchar"] / PAGE_BYTES)
        return cls(counted["read_bytes"] / PAGE_BYTES, asked)

    def since(self, before: "Reads", queries: int) -> dict[str, float]:
        """Return what was read per query since `before`."""
        return {"pages": (self.fetched - before.fetched) / queries, "asked": (self.asked - before.asked) / queries}


def cpu_seconds() -> float:
    """Return the processor time of all threads of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Worker:
    """Carries out orders with one adapter; each public method is an order, its result the answer."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._queries = np.empty((0, 0), np.uint8)
        self._start_rss = 0

    def hello(self, distribution: str) -> dict[str, Any]:
        """Say which versions run here."""
        return {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "version": _version(distribution),
        }

    def build(self, base: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
        """Build an index and say what it cost."""
        before, cpu_before, rss_before = time.perf_counter(), cpu_seconds(), status_bytes("VmRSS")
        self._adapter.build(Path(base), Path(folder), **options)
        return {
            "seconds": time.perf_counter() - before,
            "cpu_seconds": cpu_seconds() - cpu_before,
            "peak_rss_growth": status_bytes("VmHWM") - rss_before,
        }

    def open(self, folder: str, queries: str, options: dict[str, Any]) -> dict[str, Any]:
        """Load the queries, then open the index; memory is counted from between the two."""
        self._load(queries)
        before = time.perf_counter()
        self._adapter.open(Path(folder), **options)
        return {"seconds": time.perf_counter() - before, "rss_growth": self._rss_growth("VmRSS")}

    def batch(self, setting: dict[str, Any], queries: int, threads: int, ids: str) -> dict[str, Any]:
        """Answer the first `queries` at once, save the ids to the file `ids`, and say what it cost."""
        self._adapter.forget()
        asked = self._queries[:queries]
        Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from here
        before, cpu_before, reads_before = time.perf_counter(), cpu_seconds(), Reads.so_far()
        found, own_pages = self._adapter.search(asked, K, threads, setting)
        seconds = time.perf_counter() - before
        cpu, reads = cpu_seconds() - cpu_before, Reads.so_far().since(reads_before, len(asked))
        np.save(ids, found)
        return {
            "qps": len(asked) / seconds,
            "seconds": seconds,
            "cpu_us": 1e6 * cpu / len(asked),
            **reads,
            "own_pages": own_pages,
            "rss_growth": self._rss_growth("VmRSS"),
            "peak_rss_growth": self._rss_growth("VmHWM"),
        }

    def single(self, setting: dict[str, Any], queries: int) -> dict[str, Any]:
        """Answer the first `queries` one after another with one thread and say how long each took."""
        self._adapter.forget()
        asked = self._queries[:queries]
        times = np.empty(len(asked))
        reads_before = Reads.so_far()
        for number in range(len(asked)):
            before = time.perf_counter_ns()
            self._adapter.search(asked[number : number + 1], K, 1, setting)
            times[number] = (time.perf_counter_ns() - before) / 1000
        return {
            "p50_us": float(np.percentile(times, 50)),
            "p99_us": float(np.percentile(times, 99)),
            **Reads.so_far().since(reads_before, len(asked)),
        }

    def first(self, folder: str, queries: str, options: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
        """Open and answer one query, in a process that has done nothing yet."""
        self._load(queries)
        reads_before, before = Reads.so_far(), time.perf_counter()
        self._adapter.open(Path(folder), **options)
        self._adapter.search(self._queries[:1], K, 1, setting)
        return {"seconds": time.perf_counter() - before, "pages": Reads.so_far().since(reads_before, 1)["pages"]}

    def _load(self, queries: str) -> None:
        self._queries = self._adapter.prepare(vectors.loaded(Path(queries)))
        self._start_rss = status_bytes("VmRSS")

    def _rss_growth(self, field: str) -> int:
        return status_bytes(field) - self._start_rss


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(distribution), "__version__", "not installed, imported from source"))


def serve(worker: Worker, orders: TextIO, answers: TextIO) -> None:
    """Carry out orders until stdin ends; an exception is an answer too."""
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Keep two cores, give stdout away to stderr, load the adapter, and serve."""
    faulthandler.enable()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a library that builds would not notice a closed stdin
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    adapter = importlib.import_module(f"search_peers.{sys.argv[1]}").Adapter()
    serve(Worker(adapter), sys.stdin, answers)


if __name__ == "__main__":
    main()
