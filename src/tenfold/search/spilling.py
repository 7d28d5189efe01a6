"""What does not fit into memory on its way from phase to phase: files of records in the folder `spill` of a build."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tenfold.search.storage import sync_folder, write_all

__all__ = ["Spill", "read_chunks", "spilled_sizes"]

# What a phase leaves for the next ones.
_LEFT = {"assign": ("rows-*", "counts.npy"), "layout": ("entries-*", "counts.npy")}


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


def spilled_sizes(folder: Path, phase: str) -> dict[str, int]:
    """Name and bytes of each file that a phase left there for the next ones."""
    files = [path for pattern in _LEFT.get(phase, ()) for path in folder.glob(pattern)]
    return {path.name: path.stat().st_size for path in files}
