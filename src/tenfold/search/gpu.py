"""The scan of a search on NVIDIA GPUs: which are used, how lists are split, how batches follow one another.

The CPU routes queries and re-ranks candidates; what lies between, the scan of the codes, runs on the device.
Only queries, numbers of lists and the candidates cross the bus. torch and triton are imported when a device is
asked for, by `gpu_kernels.py` alone. Answers are the CPU's.

Q queries · R routes, a query's way to a list · N candidates · D dimension of search space
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.gathering import Gatherer
from tenfold.search.space import QueryRows

__all__ = ["LEAST_SCRATCH", "LIST_BYTES", "Device", "DeviceSearch", "find_kernels", "open_device"]

Device = Literal["auto", "cpu", "cuda"]
Shortlist = tuple[np.ndarray, np.ndarray, np.ndarray]
_Rerank = Callable[[np.ndarray, Shortlist], None]  # numbers of queries and their candidates
_Settings = tuple[int, int, float, int, float, str, bool]  # as `engine.search` takes them, from k on
_Answers = tuple[np.ndarray, np.ndarray, np.ndarray]

_BATCH = 4096  # queries in flight together; with few, re-ranking lacks reads to put in order and to share
_FEW = 256  # queries of one thread; with more they are searched on their own
_FLIGHTS = 2  # batches on the way at once, of different callers
_MOST_SCRATCH = 4 << 30  # bytes on each device, for batches in flight
LEAST_SCRATCH = 32 << 20
LIST_BYTES = 32  # of a list on a device: three numbers of 8 bytes and two of 4, as `DeviceLists` sends them
_NO_ROW = 0xFFFFFFFF


def find_kernels(device: Device) -> Any:
    """The module `gpu_kernels` where a GPU is to be used, None where the CPU is.

    Args:
        device: "cuda" insists; "auto" takes a GPU that is there; "cpu" means none.

    Raises:
        InputError: "cuda", and a package or a GPU is missing; or a device that is not known.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device!r} is not known; choose auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not _driver_is_there()):
        return None
    try:
        kernels = _import_kernels()
        if not kernels.devices():
            raise InputError(
                f"device 'cuda': torch {kernels.torch.__version__} finds no NVIDIA GPU that it can use; "
                "install the CUDA build of torch, or take device='cpu'"
            )
    except InputError:
        if device == "auto":
            return None
        raise
    return None if device == "auto" and kernels.INTERPRETED else kernels


def open_device(device: Device, parts: Callable[[Any], Any], engine: Any) -> "DeviceSearch | None":
    """The scan of an index on the devices of this machine; None where that is the CPU.

    Args:
        device: As for `find_kernels`; "auto" also wants room on the GPU.
        parts: Given the module `gpu_kernels`, makes the ListParts of the index.
        engine: The native Searcher, which routes and re-ranks.

    Raises:
        InputError: "cuda", and something is missing: a package, a GPU, its memory, a compiler.
    """
    kernels = find_kernels(device)
    if kernels is None:
        return None
    try:
        return DeviceSearch(kernels, parts(kernels), kernels.devices(), engine, forced=device == "cuda")
    except InputError:
        if device == "auto":
            return None
        raise


def _driver_is_there() -> bool:
    """Whether importing torch, which takes seconds, can be worth it."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))


def _import_kernels() -> Any:
    try:
        return importlib.import_module("tenfold.search.gpu_kernels")
    except ImportError as error:
        raise InputError(
            f"device 'cuda' needs torch and triton: {error}; install the extra `gpu` (pip install 'tenfold[gpu]'), "
            "or take device='cpu'"
        ) from None


class _Asked(NamedTuple):
    """Queries, twice as in `engine.search`, and how to search for them."""

    exact: np.ndarray
    queries: QueryRows
    settings: _Settings
    threads: int


@dataclass(frozen=True)
class _Scan:
    """A batch to scan. A query's routes lie together; its slots, which estimates will fill, are numbered from 0."""

    space_QD: np.ndarray
    starts: np.ndarray  # (Q + 1,), of each query's routes
    slots_Q: np.ndarray
    distances_R: np.ndarray
    lists_R: np.ndarray
    queries_R: np.ndarray
    places_R: np.ndarray  # the first slot of each list
    candidates: int

    @property
    def width(self) -> int:
        """Slots of the query that has most of them."""
        return int(self.slots_Q.max(initial=0))

    @property
    def routes(self) -> int:
        """Routes of the query that has most of them."""
        return int((self.starts[1:] - self.starts[:-1]).max(initial=0))

    def part(self, first: int, last: int) -> "_Scan":
        """Some of its queries."""
        starts, own = self.starts[first : last + 1], slice(self.starts[first], self.starts[last])
        routes = self.distances_R[own], self.lists_R[own], self.queries_R[own] - np.int32(first), self.places_R[own]
        return _Scan(self.space_QD[first:last], starts - starts[0], self.slots_Q[first:last], *routes, self.candidates)


class _Flight:
    """A batch on its way through the devices.

    Its scratch is its own until it has landed.
    """

    def __init__(self, free: "SimpleQueue[int]", shares: list[Any], scan: _Scan) -> None:
        self._free, self.scan = free, scan
        self._tickets: list[Any] = []
        self._number = free.get()
        try:
            for share in shares:
                self._tickets.append(share.launch(self._number, scan))
        except BaseException:
            self.land()
            raise

    def land(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Wait for it; what each device has found, once. Of several errors the first is raised."""
        try:
            return [self._tickets.pop(0).collect() for _ in range(len(self._tickets))]
        except BaseException:
            while self._tickets:  # the scratch is theirs until they are through
                with suppress(Exception):
                    self._tickets.pop(0).collect()
            raise
        finally:
            if self._number >= 0:
                self._free.put(self._number)
                self._number = -1


class DeviceSearch:
    """An index whose codes lie on one or more devices; any number of threads may search at once.

    Where one device lacks the memory, lists are dealt out to several; each scans its share of the lists that a
    query probes.

    Attributes:
        names: The devices, as torch calls them.
    """

    def __init__(self, kernels: Any, parts: Any, names: list[str], engine: Any, forced: bool = True) -> None:
        self._kernels, self._engine, self._forced = kernels, engine, forced
        if len(parts.replicas) and int(parts.replicas.max()) >= int(parts.starts[-1]):
            raise InputError("lists.bin: a list names a row beyond the last; run `tenfold search verify`")
        self._flights: SimpleQueue[int] = SimpleQueue()
        for flight in range(_FLIGHTS):
            self._flights.put(flight)
        self._gatherer: Gatherer[_Asked, _Answers] = Gatherer(self._search_together, _BATCH)
        try:
            self._fill(parts, names)
            self.scan(np.zeros((1, parts.dim), np.float32), 1, 1, 1)  # compiles: what is missing for it shows now
        except InputError:
            raise
        except Exception as error:  # of torch, triton, the compiler or the driver
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the scan does not run on {', '.join(names)}: {reason}; take device='cpu'") from error

    def _fill(self, parts: Any, names: list[str]) -> None:
        """Put codes and lists on as many devices as they need."""
        free = {name: self._kernels.free_bytes(name) for name in names}
        self.names, scratch = _choose(parts.blocks.nbytes, parts.list_bytes(), free)
        self._shares = [
            self._kernels.DeviceLists(parts, name, scratch, _FLIGHTS, share, len(self.names))
            for share, name in enumerate(self.names)
        ]

    def stats(self) -> dict[str, Any]:
        """`device`, its name or names, and `device_bytes`: what codes, lists and scratch take there."""
        held = sum(share.held_bytes + share.scratch_bytes for share in self._shares)
        return {"device": ", ".join(self.names), "device_bytes": held}

    def has_room(self, probes: int, candidates: int) -> bool:
        """Whether a query with these settings fits into the scratch.

        Raises:
            InputError: It does not, and device="cuda" was asked for.
        """
        fits = self._fit(probes, candidates)
        if not fits and self._forced:
            raise self._no_room(probes, candidates)
        return fits

    def _no_room(self, probes: int, candidates: int) -> InputError:
        needed = max(share.most_bytes(probes, candidates) for share in self._shares)
        there = self._shares[0].scratch_bytes // _FLIGHTS
        return InputError(
            f"one query with {probes:,} probes and {candidates:,} candidates takes {_gigabytes(needed)} on the "
            f"device, {_gigabytes(there)} are there; ask for fewer, or take device='cpu'"
        )

    def scan(self, space_QD: np.ndarray, probes: int, candidates: int, threads: int) -> Shortlist:
        """What `engine.scan` returns: positions uint32, estimates float32, codes of errors uint8, (Q, N) each.

        Entries of equal estimate come by position. A row and its replica with equal estimates may change
        places, as on the CPU.

        Raises:
            InputError: Not even one query fits into the scratch.
        """
        if not self._fit(probes, candidates):
            raise self._no_room(probes, candidates)
        if len(space_QD) == 0:
            none = (0, candidates)
            return np.empty(none, np.uint32), np.empty(none, np.float32), np.empty(none, np.uint8)
        order, _, scan = self._routed(space_QD, candidates, probes, threads)
        back = np.argsort(order)
        positions, estimates, errors = self._scan(scan)
        return positions[back], estimates[back], errors[back]

    def search(
        self,
        exact: np.ndarray,
        queries: QueryRows,
        k: int,
        probes: int,
        margin: float,
        candidates: int,
        z: float,
        rule: str,
        score_whole_pages: bool,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `engine.search` returns: distances and ids (Q, k), and the six counts of SearchStats (Q, 6).

        Fewer than `_FEW` queries are searched together with those of other threads that ask for the same.
        """
        settings = (k, probes, margin, candidates, z, rule, score_whole_pages)
        if len(exact) >= _FEW:
            return self._search(exact, queries, settings, threads)
        self._gatherer.enter()
        try:
            return self._gatherer.ask(_Asked(exact, queries, settings, threads), settings, len(exact))
        finally:
            self._gatherer.leave()

    def _search_together(self, asked: list[_Asked]) -> list[_Answers]:
        if len(asked) == 1:
            return [self._search(*asked[0])]
        exact = np.concatenate([one.exact for one in asked])
        queries = QueryRows(*(np.concatenate(forms) for forms in zip(*(one.queries for one in asked), strict=True)))
        wishes = [one.threads for one in asked]
        threads = max(*wishes, min(sum(wishes), _native.usable_cores()))
        found = self._search(exact, queries, asked[0].settings, threads)
        stops = np.cumsum([len(one.exact) for one in asked])[:-1]
        parts = zip(*(np.split(values, stops) for values in found), strict=True)
        return [(distances.copy(), ids.copy(), stats.copy()) for distances, ids, stats in parts]

    def _search(self, exact: np.ndarray, queries: QueryRows, settings: _Settings, threads: int) -> _Answers:
        k, probes, margin, candidates, *rules = settings
        count, forms = len(exact), (exact, *queries)
        distances, ids = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        stats, scanned = np.empty((count, 6), np.uint32), np.empty(count, np.uint32)

        def rerank(rows: np.ndarray, found: Shortlist) -> None:
            part = (values.take(rows, axis=0) for values in forms)
            distances[rows], ids[rows], stats[rows] = self._engine.rerank(*part, *found, k, *rules, threads)

        def batches() -> Iterator[tuple[np.ndarray, _Scan]]:
            for start in range(0, count, _BATCH):
                space_QD = queries.space[start : start + _BATCH]
                order, entries_Q, scan = self._routed(space_QD, candidates, probes, threads, margin, candidates)
                scanned[start + order] = entries_Q
                yield start + order, scan

        self._pipelined(batches(), rerank)
        stats[:, 4] = scanned
        return distances, ids, stats

    def _routed(self, space_QD: np.ndarray, candidates: int, *settings: Any) -> tuple[np.ndarray, np.ndarray, _Scan]:
        """The order of the queries by their nearest lists, the entries of each one's lists, and the scan of these."""
        order, starts, sizes, distances_R, lists_R, queries_R, places_R = self._engine.itinerary(space_QD, *settings)
        space_QD, routes = space_QD.take(order, axis=0), (distances_R, lists_R, queries_R, places_R)
        return order, sizes[:, 1], _Scan(space_QD, starts, sizes[:, 0], *routes, candidates)

    # --- batches --------------------------------------------------------------------------------------------

    def _fit(self, probes: int, candidates: int) -> bool:
        """Whether a query finds room in the scratch of a flight even where its lists are the longest."""
        return all(share.most_bytes(probes, candidates) <= share.scratch_bytes // _FLIGHTS for share in self._shares)

    def _batch(self, scan: _Scan) -> int:
        """How many queries like these fit into the scratch of a flight together, 1 at least."""
        most = max(share.query_bytes(scan.routes, scan.width, scan.candidates) for share in self._shares)
        return max(1, int(self._shares[0].scratch_bytes // _FLIGHTS // most))

    def _pieces(self, scan: _Scan) -> Iterator[tuple[slice, _Scan]]:
        """A scan in as many pieces as the scratch wants."""
        count, batch = len(scan.space_QD), self._batch(scan)
        for first in range(0, count, batch):
            last = min(count, first + batch)
            yield slice(first, last), scan if batch >= count else scan.part(first, last)

    def _scan(self, scan: _Scan) -> Shortlist:
        """A scan, one piece after the other."""
        found = [self._landed(self._launched(piece)) for _, piece in self._pieces(scan)]
        if len(found) == 1:
            return found[0]
        positions, estimates, errors = zip(*found, strict=True)
        return np.concatenate(positions), np.concatenate(estimates), np.concatenate(errors)

    def _pipelined(self, batches: Iterator[tuple[np.ndarray, _Scan]], rerank: _Rerank) -> None:
        """Many queries: the device scans one piece while the CPU re-ranks the one before and routes the next batch.

        They come in the order of their nearest lists, so that neighbours find codes in the device's cache and
        share pages when they are re-ranked.
        """
        flying: tuple[np.ndarray, _Flight] | None = None
        try:
            for rows, scan in batches:
                for own, piece in self._pieces(scan):
                    last = (flying[0], self._landed(flying[1])) if flying else None
                    flying = None
                    flying = rows[own], self._launched(piece)
                    if last is not None:
                        rerank(*last)
            if flying:
                rerank(flying[0], self._landed(flying[1]))
        finally:
            if flying:
                flying[1].land()

    def _launched(self, scan: _Scan) -> _Flight:
        return _Flight(self._flights, self._shares, scan)

    def _landed(self, flight: _Flight) -> Shortlist:
        return self._shortlist(flight.land(), flight.scan.candidates)

    def _shortlist(self, parts: list[tuple[np.ndarray, np.ndarray]], candidates: int) -> Shortlist:
        """Keys and errors of each share, merged and read: the N best of each query."""
        keys, errors = parts[0]
        if len(parts) > 1:
            keys, errors = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
            order = np.argsort(keys, axis=1, kind="stable")
            keys, errors = np.take_along_axis(keys, order, axis=1), np.take_along_axis(errors, order, axis=1)
        keys, errors = keys[:, :candidates], errors[:, :candidates]
        missing = ((0, 0), (0, candidates - keys.shape[1]))
        if missing[1][1] > 0:
            keys = np.pad(keys, missing, constant_values=self._kernels.NOTHING)
            errors = np.pad(errors, missing)
        positions, ordered = (keys & _NO_ROW).astype(np.uint32), (keys >> 32).astype(np.int32)
        estimates = (ordered ^ (ordered >> 31 & np.int32(0x7FFFFFFF))).view(np.float32)
        return positions, estimates, errors * (positions != _NO_ROW)


def _choose(codes: int, lists: int, free: dict[str, int]) -> tuple[list[str], int]:
    """The devices that hold the codes together, and the scratch on each; all in bytes.

    The first alone if it can, else as few as possible of those with most room.
    """
    roomiest = sorted(free, key=lambda name: -free[name])
    for names in ([next(iter(free))], *(roomiest[:count] for count in range(1, len(free) + 1))):
        left = min(free[name] for name in names) - lists - codes // len(names)
        if left // 4 >= LEAST_SCRATCH:
            return names, min(_MOST_SCRATCH, left // 4)
    raise InputError(
        f"codes and lists take {_gigabytes(codes + lists)} and {_gigabytes(4 * LEAST_SCRATCH)} for queries, "
        + ", ".join(f"{name} has {_gigabytes(size)} free" for name, size in free.items())
        + "; build with fewer code_bytes, use more devices, or take device='cpu'"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GB"
