"""The work that every library does: base vectors, queries, and the exact answers that judge them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]

HEADER_BYTES = 8  # u32 rows, u32 columns
TRUTH_K = 10


@dataclass(frozen=True)
class Workload:
    """Vectors to index, vectors to look for, and the distance that decides whether an answer counts.

    Attributes:
        base_path: u8bin file with exactly `base`; what the libraries build from.
        query_path: u8bin file with `queries`.
        base: (rows, dims) uint8, mapped from the file.
        queries: (queries, dims) uint8.
        limits: (queries,) int64; the exact squared distance of the `TRUTH_K`-th neighbour.
    """

    base_path: Path
    query_path: Path
    base: Bytes
    queries: Bytes
    limits: NDArray[np.int64]

    def recall(self, ids: NDArray[np.generic]) -> float:
        """Return recall@10 of the answers `ids` (queries, 10) to the first `len(ids)` queries.

        Ties count: an id is right if its distance, computed here from the vectors, is at most
        that of the exact tenth neighbour. An id outside the base or given twice is wrong.
        """
        found = np.sort(ids.astype(np.int64), axis=1)
        known = (found >= 0) & (found < len(self.base))
        known[:, 1:] &= found[:, 1:] != found[:, :-1]
        right = 0
        for start in range(0, len(found), 1000):
            rows = slice(start, start + 1000)
            vectors = self.base[np.where(known[rows], found[rows], 0)].astype(np.int32)
            distances = ((vectors - self.queries[rows, None].astype(np.int32)) ** 2).sum(axis=2)
            limits = self.limits[start : start + len(distances), None]
            right += int(np.count_nonzero(known[rows] & (distances <= limits)))
        return right / (len(found) * TRUTH_K)


def read_u8bin(path: Path) -> Bytes:
    """Map a u8bin file as a (rows, dims) array."""
    rows, dims = (int(number) for number in np.fromfile(path, np.uint32, 2))
    return np.memmap(path, np.uint8, "r", HEADER_BYTES, (rows, dims))


def load(data: Path, work: Path, rows: int | None) -> Workload:
    """Load the folder `data`; with `rows`, only its first so many base vectors, with their own exact answers."""
    base_path, query_path = data / "base.u8bin", data / "query.u8bin"
    base, queries = read_u8bin(base_path), np.array(read_u8bin(query_path))
    if rows is None or rows >= len(base):
        return Workload(base_path, query_path, base, queries, _published_limits(data / "gt100.bin", len(queries)))
    subset_path = work / f"base-{rows}.u8bin"
    if not subset_path.exists():
        _write_u8bin(subset_path, base[:rows])
    base, limits_path = read_u8bin(subset_path), work / f"limits-{rows}.npy"
    if not limits_path.exists():
        np.save(limits_path, _exact_limits(base, queries))
    return Workload(subset_path, query_path, base, queries, np.load(limits_path))


def _write_u8bin(path: Path, vectors: Bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.array(vectors.shape, np.uint32).tofile(file)
        vectors.tofile(file)
    partial.replace(path)


def _published_limits(path: Path, queries: int) -> NDArray[np.int64]:
    """Read the tenth distance of each query from a ground-truth file: u32 nq, u32 k, ids u32, distances f32."""
    count, k = (int(number) for number in np.fromfile(path, np.uint32, 2))
    if count != queries or k < TRUTH_K:
        raise SystemExit(f"{path}: holds {k} neighbours of {count} queries; wanted {TRUTH_K} of {queries}")
    distances = np.fromfile(path, np.float32, count * k, offset=HEADER_BYTES + 4 * count * k).reshape(count, k)
    return np.rint(distances[:, TRUTH_K - 1]).astype(np.int64)


def _exact_limits(base: Bytes, queries: Bytes) -> NDArray[np.int64]:
    """Compute the tenth distance of each query by brute force; float32 holds these whole numbers exactly."""
    vectors = base.astype(np.float32)
    squares = (vectors**2).sum(axis=1)
    limits = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), 250):
        block = queries[start : start + 250].astype(np.float32)
        distances = squares - 2 * (block @ vectors.T) + (block**2).sum(axis=1)[:, None]
        limits[start : start + 250] = np.partition(distances, TRUTH_K - 1, axis=1)[:, TRUTH_K - 1]
    return limits
