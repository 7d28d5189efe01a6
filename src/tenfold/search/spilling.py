"""What does not fit into memory on its way from phase to phase: files of records in the folder `spill` of a build."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tenfold.search.storage import sync_folder, write_all

__all__ = ["Spill", "entry_record", "in_list_order", "read_chunks", "row_record", "spilled_sizes", "whole_blocks"]

# What a phase leaves for the next ones.
_LEFT = {"assign": ("rows-*", "counts.npy"), "layout": ("entries-*", "counts.npy")}


def row_record(dim: int, dtype: np.dtype) -> np.dtype:
    """A row on its way from `assign` to `layout`."""
    return np.dtype([("label", "<u4"), ("list", "<u4"), ("vector", dtype, (dim,))])


def entry_record(subs: int) -> np.dtype:
    """A list entry on its way from `layout` to `pack`; its codes two to a byte."""
    numbers = [("replica", "u1"), ("error", "u1"), ("scale", "u1"), ("shift", "<u2")]
    return np.dtype([("list", "<u4"), ("row", "<u4"), *numbers, ("codes", "u1", (subs // 2,))])


class Spill:
    """Appends records to one file per range, made anew and, when the block ends well, on disk."""

    def __init__(self, folder: Path, name: str, ranges: int) -> None:
        self._folder, self._paths = folder, [folder / f"{name}-{number}" for number in range(ranges)]

    def __enter__(self) -> "Spill":
        self._files = [path.open("wb", buffering=0) for path in self._paths]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files:
            with file:
                if kind is None:
                    os.fsync(file.fileno())
        if kind is None:
            sync_folder(self._folder)

    def write(self, ranges: np.ndarray, records: np.ndarray) -> None:
        """Append each record to the file of its range. Raises OSError with the system's reason."""
        order = np.argsort(ranges, kind="stable")
        ends = np.cumsum(np.bincount(ranges, minlength=len(self._files)))
        for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if stop > start:
                write_all(self._files[number], records[order[start:stop]])


def read_chunks(path: Path, dtype: np.dtype, rows: int) -> Iterator[np.ndarray]:
    """The records of a file, so many at a time."""
    with path.open("rb") as file:
        while len(chunk := np.fromfile(file, dtype, rows)):
            yield chunk


def in_list_order(path: Path, dtype: np.dtype, most: int) -> Iterator[np.ndarray]:
    """The records of a file list by list, a list's own before its replicas, else as they stand in the file.

    In pieces of whole lists, of up to `most` records. What a single list has beyond that comes in further pieces.
    """
    rows = path.stat().st_size // dtype.itemsize
    if rows == 0:
        return
    if rows <= most:
        records = np.fromfile(path, dtype)
        yield records[np.argsort(_ranks(records), kind="stable")]
        return
    counts = np.zeros(0, np.int64)
    for chunk in read_chunks(path, dtype, most // 4 + 1):
        found = np.bincount(_ranks(chunk), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    for first, last in _groups(counts, most):
        inside = (chunk[(first <= _ranks(chunk)) & (_ranks(chunk) < last)] for chunk in
                  read_chunks(path, dtype, most // 4 + 1))  # fmt: skip
        if last == first + 1:
            yield from (part for part in inside if len(part))
            continue
        piece, filled = np.empty(counts[first:last].sum(), dtype), 0
        for part in inside:
            piece[filled : filled + len(part)] = part
            filled += len(part)
        yield piece[np.argsort(_ranks(piece), kind="stable")]


def _ranks(records: np.ndarray) -> np.ndarray:
    ranks = 2 * records["list"].astype(np.int64)
    return ranks + records["replica"] if "replica" in (records.dtype.names or ()) else ranks


def _groups(counts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of up to `most` in all, or of one."""
    ends = np.cumsum(counts)
    first = int(np.searchsorted(ends, 0, side="right"))
    while first < len(counts):
        before = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield first, last
        first = int(np.searchsorted(ends, ends[last - 1], side="right"))


def whole_blocks(pieces: Iterator[np.ndarray], block_rows: int) -> Iterator[np.ndarray]:
    """The same records, cut only between lists and after whole blocks of a list."""
    rest: np.ndarray | None = None
    for piece in pieces:
        records = piece if rest is None else np.concatenate([rest, piece])
        begun = int(np.searchsorted(records["list"], records["list"][-1]))
        whole = begun + (len(records) - begun) // block_rows * block_rows
        rest = records[whole:]
        if whole:
            yield records[:whole]
    if rest is not None and len(rest):
        yield rest


def spilled_sizes(folder: Path, phase: str) -> dict[str, int]:
    """Name and bytes of each file that a phase left there for the next ones."""
    files = [path for pattern in _LEFT.get(phase, ()) for path in folder.glob(pattern)]
    return {path.name: path.stat().st_size for path in files}
