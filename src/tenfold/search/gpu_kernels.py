"""The scan on one device: Triton kernels, the lists they read, and the scratch of batches in flight.

The one file that imports torch and triton; `gpu.py` imports it when a device is asked for. With
TRITON_INTERPRET=1 in the environment the kernels run in Triton's interpreter on the CPU, for tests.

Every float operation is that of native/quantizer.cpp and native/kernels_scalar.cpp, in the same order and
without fused multiply-add, so estimates equal the CPU's bit for bit.

Q queries · R routes, a query's way to a list · M sub-quantisers of 4 bits · W widest sub-quantiser
D dimension of search space · L lists · S slots, one per list entry, BLOCK_ROWS to a block · N candidates
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from tenfold.core.errors import InputError
from tenfold.search.codec import BLOCK_ROWS
from tenfold.search.gpu import LIST_BYTES

__all__ = ["INTERPRETED", "NOTHING", "DeviceLists", "ListParts", "Ticket", "devices", "free_bytes"]

ROWS, PAIRS, WARPS = 32, 32, 1  # of a step of the scan: entries, one to a thread; bytes of their codes; warps
_SUBS = 32  # sub-quantisers that a step of the tables takes
_LANES = 32  # queries whose tables are scaled together
_UPLOAD = 64 << 20  # bytes of codes on their way to the device
_ALIGNED = 16  # bytes; Triton compiles anew for a pointer that is aligned less

# What stands for no entry: estimate inf, position 2^32 - 1. It is above every key.
NOTHING = 0x7F800000_FFFFFFFF
_INFINITY = tl.constexpr(float("inf"))
_FLIP = tl.constexpr(0x7FFFFFFF)
_BLOCK = tl.constexpr(BLOCK_ROWS)

_Plan = dict[str, tuple[tuple[int, ...], Any]]  # shapes and types by name

_LAUNCH = Lock()  # Triton's interpreter and its compiler want one thread at a time


# --- kernels ------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count"])
def _products(queries, codebook, values, lows, spans, count, D: tl.constexpr, M: tl.constexpr, W: tl.constexpr,
              BITS: tl.constexpr, SUBS: tl.constexpr):  # fmt: skip
    """-2 <q, v> of the 16 codes of SUBS sub-quantisers of a query: values (Q, M, 16); least and range (M, Q)."""
    query = tl.program_id(0)
    subs = tl.program_id(1) * SUBS + tl.arange(0, SUBS)
    codes = tl.arange(0, 16)
    real = subs < M
    row = queries + query.to(tl.int64) * D
    total = tl.zeros([SUBS, 16], tl.float32)
    if BITS == 0:
        begin = (subs.to(tl.int64) * D) // M
        end = ((subs + 1).to(tl.int64) * D) // M
        for j in range(W):
            part = tl.load(row + begin + j, mask=real & (begin + j < end), other=0.0)
            entry = (subs.to(tl.int64)[:, None] * 16 + codes[None, :]) * W + j
            total += part[:, None] * tl.load(codebook + entry, mask=real[:, None], other=0.0)
        total = total * -2.0
    else:
        group, bit = subs % (M // BITS), subs // (M // BITS)
        for j in range(4):
            part = tl.load(row + 4 * group + j, mask=real & (4 * group + j < D), other=0.0)
            total += tl.where(((codes >> j) & 1)[None, :] != 0, part[:, None], 0.0)
        total = total * -2.0 * (1 << bit).to(tl.float32)[:, None]
    low, high = tl.min(total, axis=1), tl.max(total, axis=1)
    slots = (query.to(tl.int64) * M + subs)[:, None] * 16 + codes[None, :]
    tl.store(values + slots, total, mask=real[:, None])
    tl.store(lows + subs.to(tl.int64) * count + query, low, mask=real)
    tl.store(spans + subs.to(tl.int64) * count + query, high - low, mask=real)


@triton.jit(do_not_specialize=["count"])
def _scales(queries, lows, spans, offsets, steps, count, D: tl.constexpr, M: tl.constexpr, BITS: tl.constexpr,
            LANES: tl.constexpr):  # fmt: skip
    """Offset and step of each query's table (Q,): sums in float64, one sub-quantiser after the other."""
    query = tl.program_id(0) * LANES + tl.arange(0, LANES)
    real = query < count
    base = tl.zeros([LANES], tl.float64)
    if BITS > 0:
        for j in range(D):
            base += tl.load(queries + query.to(tl.int64) * D + j, mask=real, other=0.0).to(tl.float64)
        base = base * ((1 << BITS) - 1)
    total = tl.zeros([LANES], tl.float64)
    widest = tl.zeros([LANES], tl.float32)
    for m in range(M):
        at = m * count + query
        base += tl.load(lows + at, mask=real, other=0.0).to(tl.float64)
        span = tl.load(spans + at, mask=real, other=0.0)
        total += span.to(tl.float64)
        widest = tl.where(span > widest, span, widest)
    mean = (total / (65535.0 - M)).to(tl.float32)
    most = tl.div_rn(widest, tl.full([LANES], 255.0, tl.float32))
    tl.store(offsets + query, base.to(tl.float32), mask=real)
    tl.store(steps + query, tl.where(most < mean, mean, most), mask=real)


@triton.jit(do_not_specialize=["count"])
def _bytes(values, lows, steps, table, count, M: tl.constexpr, SUBS: tl.constexpr):
    """The table as the scan reads it: (Q, M, 16) bytes."""
    query = tl.program_id(0)
    subs = tl.program_id(1) * SUBS + tl.arange(0, SUBS)
    real = subs < M
    step = tl.load(steps + query) + tl.zeros([SUBS], tl.float32)
    inverse = tl.div_rn(tl.full([SUBS], 1.0, tl.float32), tl.where(step > 0.0, step, 1.0))
    inverse = tl.where(step > 0.0, inverse, 0.0)
    low = tl.load(lows + subs.to(tl.int64) * count + query, mask=real, other=0.0)
    slots = (query.to(tl.int64) * M + subs)[:, None] * 16 + tl.arange(0, 16)[None, :]
    value = tl.load(values + slots, mask=real[:, None], other=0.0)
    scaled = (value - low[:, None]) * inverse[:, None] + 0.5
    scaled = tl.where(scaled < 255.0, scaled, 255.0)
    tl.store(table + slots, scaled.to(tl.int32).to(tl.uint8), mask=real[:, None])


@triton.jit
def _add(total, code, tables, real, first, PAIRS: tl.constexpr):
    """`total` and the table's entries for PAIRS bytes of code, from byte `first` on; each is two codes."""
    for j in tl.static_range(PAIRS):
        pair = first + j
        both = tl.load(code + pair * _BLOCK, mask=real, other=0).to(tl.int32)
        total += tl.load(tables + pair * 32 + (both & 15)).to(tl.int32)
        total += tl.load(tables + pair * 32 + 16 + (both >> 4)).to(tl.int32)
    return total


@triton.jit(do_not_specialize=["width"])
def _scan(codes, first_blocks, starts, own_counts, entry_counts, replica_starts, replicas,
          table, offsets, steps, distances, lists, owners, places, keys, errors, width,
          shift_low, shift_step, scale_low, scale_step,
          M: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr):  # fmt: skip
    """A program per route: keys (Q, S) int64 and codes of errors (Q, S) uint8 of a list's entries.

    A key orders by estimate, then by position: the float's bits in ascending order above, the position below.
    """
    route = tl.program_id(0)
    query = tl.load(owners + route).to(tl.int64)
    out = query * width + tl.load(places + route)
    HALF: tl.constexpr = M // 2
    STRIDE: tl.constexpr = _BLOCK * (HALF + 4)
    number = tl.load(lists + route)
    entries = tl.load(entry_counts + number)
    own = tl.load(own_counts + number)
    first_block = tl.load(first_blocks + number)
    start = tl.load(starts + number)
    replica_start = tl.load(replica_starts + number)
    list_term = tl.load(distances + route)
    offset, step = tl.load(offsets + query), tl.load(steps + query)
    tables = table + query * (M * 16)
    for first in range(0, entries, ROWS):
        rows = first + tl.arange(0, ROWS)
        real = rows < entries
        slot = rows % _BLOCK
        block = codes + (first_block + rows // _BLOCK) * STRIDE
        total = tl.zeros([ROWS], tl.int32)
        for some in range(0, HALF // PAIRS):
            total = _add(total, block + slot, tables, real, some * PAIRS, PAIRS)
        total = _add(total, block + slot, tables, real, HALF // PAIRS * PAIRS, HALF % PAIRS)
        terms = block + _BLOCK * HALF
        low_byte = tl.load(terms + 2 * slot, mask=real, other=0).to(tl.int32)
        high_byte = tl.load(terms + 2 * slot + 1, mask=real, other=0).to(tl.int32)
        scale_code = tl.load(terms + 2 * _BLOCK + slot, mask=real, other=0).to(tl.float32)
        error = tl.load(terms + 3 * _BLOCK + slot, mask=real, other=0)
        shift = shift_low + shift_step * (low_byte | (high_byte << 8)).to(tl.float32)
        scale = scale_low + scale_step * scale_code
        estimate = (list_term + shift) + scale * (offset + step * (total & 0xFFFF).to(tl.float32))
        copy = tl.load(replicas + replica_start + (rows - own), mask=real & (rows >= own), other=0)
        position = tl.where(rows < own, start + rows, copy.to(tl.int64) & 0xFFFFFFFF)
        bits = tl.where(estimate == 0.0, 0.0, estimate).to(tl.int32, bitcast=True)  # -0 is 0
        ordered = tl.where(bits >= 0, bits, bits ^ _FLIP)
        found = real & (estimate < _INFINITY)
        tl.store(keys + out + rows, (ordered.to(tl.int64) << 32) | position, mask=found)
        tl.store(errors + out + rows, error, mask=found)


INTERPRETED = not isinstance(_scan, triton.runtime.JITFunction)


def devices() -> list[str]:
    """The NVIDIA GPUs that torch can use; with Triton's interpreter, the CPU in their place."""
    if INTERPRETED:
        return ["cpu"]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def free_bytes(device: str) -> int:
    """Memory that is free on a device."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else 4 << 30


# --- what lies on a device ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListParts:
    """What a scan reads of an index: NumPy arrays as its files hold them."""

    blocks: np.ndarray  # (blocks, BLOCK_ROWS (M / 2 + 4)) uint8
    starts: np.ndarray  # (L + 1,) uint64, positions of each list's own rows
    replica_offsets: np.ndarray  # (L + 1,) uint64
    replicas: np.ndarray  # (replicas,) uint32, positions
    codebook: np.ndarray  # pq: (M, 16, W) float32
    dim: int  # D
    bits: int  # rabitq: bits per dimension; 0 means pq
    numbers: tuple[float, float, float, float]  # shift_low, shift_step, scale_low, scale_step

    @property
    def subs(self) -> int:
        """M."""
        return int(2 * (self.blocks.shape[1] // BLOCK_ROWS - 4))

    @property
    def own_L(self) -> np.ndarray:
        """Rows of each list, (L,) int64, without replicas."""
        return np.diff(self.starts.astype(np.int64))

    @property
    def entries_L(self) -> np.ndarray:
        """Entries of each list, (L,) int64, replicas included."""
        return self.own_L + np.diff(self.replica_offsets.astype(np.int64))

    def list_bytes(self) -> int:
        """What lists and codebook take on each device, besides its share of the codes."""
        return int(self.replicas.nbytes + self.codebook.nbytes + LIST_BYTES * len(self.starts))


@dataclass
class _Scratch:
    """Memory of one batch in flight, on the device and, for what crosses the bus, beside it."""

    device: Any
    sent: Any
    returned: Any
    stream: Any


@dataclass
class Ticket:
    """A batch on its way through a device."""

    keys_QN: Any
    errors_QN: Any
    event: Any

    def collect(self) -> tuple[np.ndarray, np.ndarray]:
        """Wait; keys int64 ascending, `NOTHING` after the last, and codes of errors uint8: (Q, N) each."""
        if self.event is not None:
            self.event.synchronize()
        return self.keys_QN.numpy().copy(), self.errors_QN.numpy().copy()


class DeviceLists:
    """The lists with number % shares == share on one device, and scratch for `flights` batches.

    Attributes:
        device: Its name, as torch calls it.
        held_bytes: Codes, lists and codebook there.
        scratch_bytes: What batches in flight may take there, all together.
    """

    def __init__(
        self, parts: ListParts, device: str, scratch_bytes: int, flights: int, share: int = 0, shares: int = 1
    ) -> None:
        self.device, self.parts, self.scratch_bytes = device, parts, scratch_bytes
        mine = np.arange(len(parts.starts) - 1) % shares == share
        blocks = -(-parts.entries_L // BLOCK_ROWS)
        here = np.where(mine, blocks, 0)
        first = np.cumsum(here) - here
        self._most_slots = np.append(0, np.cumsum(np.sort(blocks)[::-1]) * BLOCK_ROWS)
        self._codes = self._upload(np.repeat(mine, blocks))
        self._lists = [
            self._send(array)
            for array in (
                first,
                parts.starts.astype(np.int64),
                np.where(mine, parts.own_L, 0).astype(np.int32),
                np.where(mine, parts.entries_L, 0).astype(np.int32),
                parts.replica_offsets.astype(np.int64),
                np.append(parts.replicas, np.uint32(0)).view(np.int32),
            )
        ]
        self._codebook = self._send(parts.codebook.reshape(-1).astype(np.float32))
        self._scratch = [self._make_scratch(scratch_bytes // flights) for _ in range(flights)]
        held = [self._codes, self._codebook, *self._lists]
        self.held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
        if self._on_gpu:
            torch.cuda.synchronize(device)

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _send(self, array: np.ndarray) -> Any:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _upload(self, mine: np.ndarray) -> Any:
        """The blocks of this share, in order, in pieces: codes may be larger than memory."""
        stride = self.parts.blocks.shape[1]
        codes = torch.empty(max(1, int(mine.sum()) * stride), dtype=torch.uint8, device=self.device)
        at, piece = 0, max(1, _UPLOAD // stride)
        for start in range(0, len(mine), piece):
            part = self.parts.blocks[start : start + piece][mine[start : start + piece]]
            codes[at : at + part.size].copy_(torch.from_numpy(part.reshape(-1)))
            at += part.size
        return codes

    def _make_scratch(self, size: int) -> _Scratch:
        memory = torch.empty(size, dtype=torch.uint8, device=self.device)
        stream = torch.cuda.Stream(self.device) if self._on_gpu else None
        return _Scratch(memory, self._pinned(1 << 16), self._pinned(1 << 16), stream)

    def _pinned(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)

    def query_bytes(self, routes: int, width: int, candidates: int) -> int:
        """Scratch of one query with so many routes and slots; the plan of `launch`."""
        return _bytes_of(self._plan(1, routes, width, candidates))

    def most_bytes(self, probes: int, candidates: int) -> int:
        """The same where its lists are the longest."""
        most = int(self._most_slots[min(probes, len(self._most_slots) - 1)])
        return self.query_bytes(probes, most, candidates)

    def _plan(self, count: int, routes: int, width: int, candidates: int) -> _Plan:
        """Shape and type of everything in a batch's scratch; what is sent comes first."""
        subs, kept = self.parts.subs, min(candidates, width)
        return self._sent(count, routes) | {
            "keys": ((count, width), torch.int64),
            "best": ((count, kept), torch.int64),
            "chosen": ((count, kept), torch.int64),
            "values": ((count, subs, 16), torch.float32),
            "lows": ((subs, count), torch.float32),
            "spans": ((subs, count), torch.float32),
            "offsets": ((count,), torch.float32),
            "steps": ((count,), torch.float32),
            "table": ((count, subs, 16), torch.uint8),
            "errors": ((count, width), torch.uint8),
            "best_errors": ((count, kept), torch.uint8),
        }

    def _sent(self, count: int, routes: int) -> _Plan:
        """What crosses to the device, as it lies there."""
        return {
            "space": ((count, self.parts.dim), torch.float32),
            "distances": ((routes,), torch.float32),
            "lists": ((routes,), torch.int32),
            "queries": ((routes,), torch.int32),
            "places": ((routes,), torch.int32),
        }

    def launch(self, flight: int, scan: Any) -> Ticket:
        """Start a batch in scratch `flight`, which must be free until the ticket is collected.

        Args:
            flight: Number of the scratch.
            scan: Queries and their lists, a `_Scan`; fewer than its candidates come back where the lists of no
                query hold as many.

        Raises:
            InputError: The device has no memory left.
        """
        sizes = len(scan.space_QD), len(scan.lists_R)
        try:
            with self._in_flight(flight) as scratch:
                memory = _carve(scratch.device, self._plan(*sizes, scan.width, scan.candidates))
                self._cross(scratch, self._sent(*sizes), scan)
                self._make_tables(memory)
                self._find(memory, scan.width)
                return self._bring_back(scratch, memory["best"], memory["best_errors"])
        except torch.OutOfMemoryError as error:
            raise InputError(f"{self.device} has no memory left ({error}); search fewer queries at a time") from None

    @contextmanager
    def _in_flight(self, flight: int) -> Iterator[_Scratch]:
        scratch = self._scratch[flight]
        on_stream = torch.cuda.stream(scratch.stream) if self._on_gpu else nullcontext()
        with _LAUNCH, torch.cuda.device(self.device) if self._on_gpu else nullcontext(), on_stream:
            try:
                yield scratch
            except BaseException:
                if scratch.stream is not None:
                    scratch.stream.synchronize()  # what was begun reads and writes the scratch
                raise

    def _cross(self, scratch: _Scratch, plan: _Plan, scan: Any) -> None:
        """What is sent, to the beginning of the scratch, through pinned memory and all at once."""
        needed = _bytes_of(plan)
        if scratch.sent.numel() < needed:
            scratch.sent = self._pinned(needed)
        arrays = scan.space_QD, scan.distances_R, scan.lists_R, scan.queries_R, scan.places_R
        for staged, array in zip(_carve(scratch.sent, plan).values(), arrays, strict=True):
            staged.numpy()[...] = array
        scratch.device[:needed].copy_(scratch.sent[:needed], non_blocking=True)

    def _make_tables(self, memory: dict[str, Any]) -> None:
        parts, count = self.parts, len(memory["space"])
        shape = {"D": parts.dim, "M": parts.subs, "BITS": parts.bits}
        steps = (count, triton.cdiv(parts.subs, _SUBS))
        _products[steps](
            memory["space"], self._codebook, memory["values"], memory["lows"], memory["spans"], count, **shape,
            W=parts.codebook.shape[2], SUBS=_SUBS, enable_fp_fusion=False,
        )  # fmt: skip
        _scales[(triton.cdiv(count, _LANES),)](
            memory["space"], memory["lows"], memory["spans"], memory["offsets"], memory["steps"], count, **shape,
            LANES=_LANES, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        _bytes[steps](
            memory["values"], memory["lows"], memory["steps"], memory["table"], count, M=parts.subs, SUBS=_SUBS,
            enable_fp_fusion=False,
        )  # fmt: skip

    def _find(self, memory: dict[str, Any], width: int) -> None:
        """Estimates of all entries of the probed lists, and of each query the best."""
        memory["keys"].fill_(NOTHING)
        if width == 0:
            return
        _scan[(len(memory["lists"]),)](
            self._codes, *self._lists, memory["table"], memory["offsets"], memory["steps"], memory["distances"],
            memory["lists"], memory["queries"], memory["places"], memory["keys"], memory["errors"], width,
            *self.parts.numbers, M=self.parts.subs, ROWS=ROWS, PAIRS=PAIRS, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
        kept = memory["best"].shape[1]
        torch.topk(memory["keys"], kept, dim=1, largest=False, out=(memory["best"], memory["chosen"]))
        torch.gather(memory["errors"], 1, memory["chosen"], out=memory["best_errors"])

    def _bring_back(self, scratch: _Scratch, keys: Any, errors: Any) -> Ticket:
        plan = {"keys": (tuple(keys.shape), keys.dtype), "errors": (tuple(errors.shape), errors.dtype)}
        if scratch.returned.numel() < _bytes_of(plan):
            scratch.returned = self._pinned(_bytes_of(plan))
        staged = _carve(scratch.returned, plan)
        staged["keys"].copy_(keys, non_blocking=True)
        staged["errors"].copy_(errors, non_blocking=True)
        event = torch.cuda.Event() if self._on_gpu else None
        if event is not None:
            event.record()
        return Ticket(staged["keys"], staged["errors"], event)


def _bytes_of(plan: _Plan) -> int:
    """Of memory for arrays of these shapes and types, each from a multiple of `_ALIGNED` on."""
    return sum(-(-prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED for shape, dtype in plan.values())


def _carve(memory: Any, plan: _Plan) -> dict[str, Any]:
    """The arrays, one behind the other in flat bytes."""
    made, at = {}, 0
    for name, (shape, dtype) in plan.items():
        size = prod(shape) * dtype.itemsize
        made[name] = memory[at : at + size].view(dtype).view(shape)
        at += -(-size // _ALIGNED) * _ALIGNED
    return made
