"""How a build stays inside its memory budget, and how sizes are written."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tenfold.core.errors import InputError
from tenfold.search.formats.source import VectorSource

__all__ = ["LEAST_BLOCK_ROWS", "MemoryPlan", "fitting_code_bytes", "parse_size", "resident_bytes"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_INTERPRETER = 44 << 20  # Python, NumPy and Tenfold, before any vectors
_ROOM = 10 << 20  # for what is not counted below: thread stacks, the allocator's slack
_ENTRIES_PER_ROW = 1.25  # a row's own code, replicas, and what fills the last block of a list
_ENTRIES_IN_TWO_LISTS = 2.15
_NUMBERS_PER_ENTRY = 4
_SAMPLE_PER_LIST = 64
_FEWEST_SAMPLE_PER_LIST = 12
_MOST_BLOCK_ROWS = 32768
LEAST_BLOCK_ROWS = 256


def parse_size(text: str | int) -> int:
    """Bytes from "64MB", "1.5 GiB", "4096"; K, M, G, T count in powers of 1,024. InputError otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE | re.ASCII)
    if not match:
        raise InputError(f"size {text!r} is not understood; write for instance 64MB or 2GB")
    size = float(match[1]) * _UNITS[match[2].upper()]
    if size >= 1 << 63:
        raise InputError(f"size {text!r} is more than any machine has")
    return int(size)


def resident_bytes() -> int:
    """Memory this process holds now, in bytes (0 where the system does not tell)."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def fitting_code_bytes(
    wanted: int,
    fewest: int,
    budget: int,
    source: VectorSource,
    space_dim: int,
    rows_per_list: int,
    second_lists: bool,
) -> int:
    """`wanted` bytes of code per row, or fewer where the finished index would not fit the budget.

    Raises InputError, naming the least budget, where less than `fewest` would be left.
    """
    free = budget - _INTERPRETER - _ROOM
    entries = _ENTRIES_IN_TWO_LISTS if second_lists else _ENTRIES_PER_ROW
    # Calibration holds the index: centroids and edges of the lists, row numbers, entries.
    fixed = source.rows / rows_per_list * (4 * space_dim + 4 * 32 + 32) + (8.2 if second_lists else 4.2) * source.rows
    per_row = max(0.0, free - fixed) / max(1, source.rows) / entries
    code_bytes = min(wanted, int(per_row) - _NUMBERS_PER_ENTRY)
    if code_bytes < fewest:
        least = source.rows * entries * (fewest + _NUMBERS_PER_ENTRY) + fixed
        least = max(1.05 * least, 2 * _Costs.of(source, space_dim, wanted).least())
        raise InputError(
            f"memory budget of {budget / 2**20:.4g} MB is too small for codes of {source.rows:,} vectors; "
            f"give at least {_megabytes(budget - free + least)} MB"
        )
    return code_bytes


@dataclass(frozen=True)
class _Costs:
    """What a build holds, in bytes."""

    list: float
    sample_row: float
    block_row: float
    training_row: float

    @classmethod
    def of(cls, source: VectorSource, space_dim: int, code_bytes: int) -> "_Costs":
        row_bytes, float_bytes = source.dim * source.dtype.itemsize, 4 * space_dim
        return cls(
            # A list: its centroid thrice (tree node, centroid, a copy while refining), 64 neighbours, 32 edges.
            list=3 * float_bytes + 8 * (64 + 32),
            # A sample row that founds it: as stored, as floats, and half of that again while split.
            sample_row=row_bytes + 1.5 * float_bytes + 16,
            # A row on its way: as stored thrice, as floats thrice, its entry with two copies.
            block_row=3 * row_bytes + 3 * float_bytes + 6 * (code_bytes + 16) + 64,
            # A row that trains the codec: as stored, as floats, its residual, its code unpacked, its terms.
            training_row=row_bytes + 2.5 * float_bytes + 2 * code_bytes + 96,
        )

    def least(self) -> float:
        """A single list and the smallest block."""
        return LEAST_BLOCK_ROWS * self.block_row + self.list + _FEWEST_SAMPLE_PER_LIST * self.sample_row


def _megabytes(size: float) -> int:
    return -(-int(size) // (1 << 20))


@dataclass(frozen=True)
class MemoryPlan:
    """How large the pieces of a build may be."""

    lists: int
    sample_rows: int
    training_rows: int  # of the sample, for the codec
    block_rows: int
    ranges: int  # files that rows and list entries are spilled to
    range_rows: int  # of such a file, or of a part of it, that are sorted in memory; of entries twice as many

    @classmethod
    def make(
        cls, budget: int, source: VectorSource, space_dim: int, rows_per_list: int, code_bytes: int
    ) -> "MemoryPlan":
        """Divide `budget` bytes, less the interpreter's share; what else the caller's process holds is not counted.

        Raises InputError, naming the least budget, where it does not suffice.
        """
        held = _INTERPRETER + _ROOM
        row_bytes = source.dim * source.dtype.itemsize
        costs = _Costs.of(source, space_dim, code_bytes)
        free = budget - held
        wanted = max(1, source.rows // rows_per_list)
        if free < 2 * costs.least():
            needed = _megabytes(held + 2 * costs.least())
            raise InputError(f"memory budget of {budget / 2**20:.4g} MB is too small; this build needs {needed} MB")
        lists = min(wanted, int(0.7 * free / (costs.list + _FEWEST_SAMPLE_PER_LIST * costs.sample_row)))
        lists = max(1, lists)
        sample = int(min(source.rows, _SAMPLE_PER_LIST * lists, (0.8 * free - lists * costs.list) / costs.sample_row))
        while_streaming = free - lists * costs.list
        # A multiple, so that the sample, drawn from pieces of that size, does not depend on it.
        block = int(min(_MOST_BLOCK_ROWS, 0.4 * while_streaming / costs.block_row))
        block -= block % LEAST_BLOCK_ROWS
        per_spilled = 2 * max(row_bytes + 8, 2 * (code_bytes + 16))  # read, then sorted
        range_rows = max(LEAST_BLOCK_ROWS, int(0.5 * while_streaming / per_spilled))
        ranges = -(-source.rows // range_rows)
        if ranges > 1:  # some get more than their share
            ranges = -(-source.rows * 5 // (4 * range_rows))
        training = min(sample, 65536, max(LEAST_BLOCK_ROWS, int(0.8 * while_streaming / costs.training_row)))
        return cls(lists, max(1, sample), training, max(LEAST_BLOCK_ROWS, block), max(1, ranges), range_rows)
