"""Making a segment of a living index: from rows in memory, or from other segments less their deleted rows.

It is the build of any index, in a process of its own at low priority, so that searches of the living index keep their
processor and their interpreter. What it is to do stands in a file, `JOB.json`:

    python -m tenfold.search.sealing JOB.json

n rows of all inputs that are not deleted
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.calibration import Calibration
from tenfold.search.columns import Column, Columns, Values, merged, sorted_column, write_columns
from tenfold.search.formats.source import ArrayVectors, VectorSource
from tenfold.search.index import Index
from tenfold.search.manifest import read_manifest
from tenfold.search.relisting import Heritage
from tenfold.search.segments import Segment, is_set, read_hidden, write_ids
from tenfold.search.storage import replace_file, scratch_array

__all__ = ["Job", "MergedRows", "run_job"]

_CHUNK = 1 << 18
_NICE = 10
# NumPy would use every core for its products, whatever the job may.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What is to become a segment: paths relative to the folder of the living index, and how to build it.

    Attributes:
        target: The segment's folder.
        rows: Arrays `ROWS.npy` and `ROWS-ids.npy`, ids rising, and `ROWS-columns.json`, their attributes; or None.
        inputs: Else segments, each with the file of its deleted rows, or None.
        like: A segment of about the same size, whose calibration may hold; or None.
        columns: Of the attributes.
        settings: Of `Index.build`.
        threads: How many it may use.
        anew: Make new lists and a new codec, even where most of the rows are in one segment.
    """

    target: str
    rows: str | None
    inputs: Sequence[tuple[str, str | None]]
    like: str | None
    columns: Columns
    settings: dict[str, Any]
    threads: int
    anew: bool


class MergedRows(VectorSource):
    """The rows of several segments that are not deleted, one segment after the other, numbered by their ids.

    What grows with the rows lies in files in `work`.
    """

    def __init__(self, segments: Sequence[tuple[Segment, np.ndarray | None]], work: Path) -> None:
        first = segments[0][0].index
        self._segments = segments
        counts = [int(_alive(segment, bits).sum()) for segment, bits in segments]
        super().__init__(f"{work}: merged segments", sum(counts), first.dim, first.dtype)
        self.ids = scratch_array(work / "ids.npy", "<i8", self.rows)
        self._numbers = scratch_array(work / "numbers.npy", "<u4", self.rows)
        self._number(work)

    def _number(self, work: Path) -> None:
        """The rank of every id among all, for the row in the order of reading."""
        below = [_counted(work / f"below-{at}.npy", *of) for at, of in enumerate(self._segments)]
        start = 0
        for segment, bits in self._segments:
            alive = _alive(segment, bits)
            order = np.cumsum(alive, dtype=np.uint32) - np.uint32(1)  # by position: which row of those that are read
            for first in range(0, len(segment.ids), _CHUNK):
                part = slice(first, first + _CHUNK)
                positions = segment.positions[part]
                kept = alive[positions]
                ids = segment.ids[part][kept]
                ranks = sum(
                    many[np.searchsorted(other.ids, ids)]
                    for many, (other, _) in zip(below, self._segments, strict=True)
                )
                self._numbers[start + order[positions[kept]].astype(np.int64)] = ranks
                self.ids[ranks] = ids
            start += int(alive.sum())

    def columns(self, columns: Columns, positions: np.ndarray) -> Iterator[tuple[str, Column]]:
        """Their columns, once it is known at which positions (rows,) their numbers come to lie."""
        for name, kind in columns.items():
            start, parts = 0, []
            for segment, bits in self._segments:
                alive = _alive(segment, bits)
                kept = np.flatnonzero(alive)
                places = np.full(len(alive), self.rows, np.int64)
                places[kept] = positions[self._numbers[start : start + len(kept)]]
                parts.append((segment.columns[name], places))
                start += len(kept)
            yield name, merged(kind, parts, self.rows)

    def heritage(self) -> Heritage:
        """The segment with the most of the rows, and which those are."""
        alive = [_alive(segment, bits) for segment, bits in self._segments]
        counts = [int(some.sum()) for some in alive]
        most = int(np.argmax(counts))
        radius = max(segment.index.space.radius for segment, _ in self._segments)
        return Heritage(self._segments[most][0].index, sum(counts[:most]), alive[most], radius)

    def row_numbers(self, start: int, stop: int) -> np.ndarray:
        """Ranks of ids."""
        return np.asarray(self._numbers[start:stop])

    def files(self) -> list[Path]:
        """The segments' vectors."""
        return [segment.folder / "vectors.bin" for segment, _ in self._segments]

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        skip = start
        for segment, bits in self._segments:
            alive, position = _alive(segment, bits), 0
            for block in segment.index.stored.blocks(block_rows):
                kept = block[alive[position : position + len(block)]]
                position += len(block)
                if skip < len(kept):
                    yield kept[skip:]
                skip = max(0, skip - len(kept))


def _alive(segment: Segment, bits: np.ndarray | None) -> np.ndarray:
    """Which rows are not deleted, by position, (rows,) bool."""
    rows = segment.index.rows
    if bits is None:
        return np.ones(rows, bool)
    return np.unpackbits(bits.view(np.uint8), count=rows, bitorder="little").view(bool)


def _counted(path: Path, segment: Segment, bits: np.ndarray | None) -> np.ndarray:
    """How many of the rows before each label are not deleted, (rows + 1,)."""
    counts = scratch_array(path, "<i8", len(segment.ids) + 1)
    for first in range(0, len(segment.ids), _CHUNK):
        kept = is_set(bits, segment.positions[first : first + _CHUNK])
        counts[first + 1 : first + 1 + len(kept)] = counts[first] + np.cumsum(kept)
    return counts


def run_job(folder: Path, job: Job) -> None:
    """Run a job in a process of its own until it ends. InputError says why it failed."""
    place = folder / f"{job.target}.json"
    with replace_file(place) as file:
        file.write(json.dumps(asdict(job)).encode())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tenfold.search.sealing", str(place)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=os.environ | dict.fromkeys(_BLAS_THREADS, str(job.threads)),
        )  # fmt: skip
    finally:
        place.unlink(missing_ok=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise InputError(lines[-1] if lines else f"{folder / job.target}: its build was stopped")


def _run(place: Path) -> None:
    job, folder = Job(**json.loads(place.read_text())), place.parent
    target = folder / job.target
    if job.rows is not None:
        rows = ArrayVectors(np.load(folder / f"{job.rows}.npy", mmap_mode="r"), job.rows)
        ids = np.load(folder / f"{job.rows}-ids.npy", mmap_mode="r")
        positions = _build(job, target, rows, ids)
        values: Values = json.loads((folder / f"{job.rows}-columns.json").read_text())
        write_columns(
            target, {name: sorted_column(kind, values[name], positions) for name, kind in job.columns.items()}
        )
        return
    work = folder / f"{job.target}.work"
    work.mkdir(exist_ok=True)
    segments = [Segment(folder / name, job.columns, "buffered") for name, _ in job.inputs]
    bits = [
        None if file is None else read_hidden(folder / file, segment.index.rows)
        for segment, (_, file) in zip(segments, job.inputs, strict=True)
    ]
    together = MergedRows(list(zip(segments, bits, strict=True)), work)
    heritage = None if job.anew else together.heritage()
    positions = _build(job, target, together, together.ids, heritage)
    write_columns(target, dict(together.columns(job.columns, positions)))


def _build(job: Job, target: Path, rows: VectorSource, ids: np.ndarray, heritage: Heritage | None = None) -> np.ndarray:
    """Build the index and its ids; the positions of rows by their numbers, (rows,)."""
    parent = os.getppid()

    def watch(phase: str, done: int, total: int) -> None:
        if os.getppid() != parent:
            raise InputError(f"{target}: its index was closed meanwhile")

    like = None if job.like is None else read_manifest(target.parent / job.like)
    calibration = None if like is None else Calibration.from_json(like["calibration"])
    built = Index.build(
        rows, target, threads=job.threads, overwrite=True, heritage=heritage, calibration=calibration, progress=watch,
        **job.settings,
    )  # fmt: skip
    pieces = (np.asarray(ids[at : at + _CHUNK]) for at in range(0, len(ids), _CHUNK))
    return write_ids(target, pieces, built.stored.labels())


def main() -> None:
    """Do what a job file says; one line on stderr and exit status 2 where that cannot be done."""
    try:
        os.nice(_NICE)
        _run(Path(sys.argv[1]))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"{error.filename or sys.argv[1]}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
