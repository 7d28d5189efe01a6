"""The work that every library does: base vectors, queries, and the exact answers that judge them."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.vectors import Vectors

Floats = NDArray[np.float64]

TRUTH_K = 10
HASHED_BYTES = 1 << 20
BLOCK = 250  # queries at once
RIVALS = 64  # nearest by float32 arithmetic, of which the exact tenth is chosen
FLOAT_TIES = 1e-5  # relative; libraries round sums of floats differently


@dataclass(frozen=True)
class Workload:
    """Vectors to index, vectors to look for, and the distance that decides whether an answer counts.

    Attributes:
        name: What the vectors are, for the page.
        metric: "l2", or "cosine" of vectors of unit length: squared L2 gives the same order.
        base_path: u8bin or fbin file with exactly `base`; what the libraries build from.
        query_path: The same kind of file with `queries`.
        base: (rows, dims) uint8 or float32, mapped from the file.
        queries: (queries, dims), of the same type.
        limits: (queries,) float64; the greatest squared distance that is among the `TRUTH_K` smallest.
    """

    name: str
    metric: str
    base_path: Path
    query_path: Path
    base: Vectors
    queries: Vectors
    limits: Floats

    def recall(self, ids: NDArray[np.generic]) -> float:
        """Return recall@10 of the answers `ids` (queries, 10) to the first `len(ids)` queries.

        Ties count: an id is right if its distance, computed here from the vectors, is at most
        that of the exact tenth neighbour. An id outside the base or given twice is wrong.
        """
        found = np.sort(ids.astype(np.int64), axis=1)
        known = (found >= 0) & (found < len(self.base))
        known[:, 1:] &= found[:, 1:] != found[:, :-1]
        near = _squared_distances(self.base, self.queries, np.where(known, found, 0)) <= self.limits[: len(found), None]
        return int(np.count_nonzero(known & near)) / (len(found) * TRUTH_K)

    def fingerprint(self) -> str:
        """Return what tells this base from others."""
        return _fingerprint(self.base_path)


def load(data: Path, work: Path, rows: int | None) -> Workload:
    """Load the folder `data`; with `rows`, only its first so many base vectors, with their own exact answers."""
    suffix = next((suffix for suffix in vectors.DTYPES if (data / f"base{suffix}").exists()), None)
    if suffix is None:
        raise SystemExit(f"{data}: holds neither base.u8bin nor base.fbin; see benchmarks/README.md")
    about_path, base_path, query_path = data / "about.json", data / f"base{suffix}", data / f"query{suffix}"
    about = json.loads(about_path.read_text()) if about_path.exists() else {}
    name, metric = about.get("name", data.resolve().name), about.get("metric", "l2")
    base, queries = vectors.mapped(base_path), vectors.loaded(query_path)
    _check_metric(metric, base, queries, about_path)
    if rows is None or rows >= len(base):
        limits = _limits(base, queries, _published_ids(data / "gt100.bin", len(queries)))
    else:
        subset_path = work / f"base-{rows}-{_fingerprint(base_path)}{suffix}"
        if not subset_path.exists():
            vectors.write(subset_path, base[:rows])
        base_path, base = subset_path, vectors.mapped(subset_path)
        limits_path = subset_path.with_suffix(".limits.npy")
        if not limits_path.exists():
            np.save(limits_path, _limits(base, queries, _nearest_ids(base, queries)))
        limits = np.load(limits_path)
    return Workload(name, metric, base_path, query_path, base, queries, limits)


def _check_metric(metric: str, base: Vectors, queries: Vectors, about: Path) -> None:
    if metric not in ("l2", "cosine"):
        raise SystemExit(f"{about}: says metric {metric!r}; known are 'l2' and 'cosine'")
    for some in (base[:1000], queries[:1000]):
        lengths = np.linalg.norm(some.astype(np.float64), axis=1)
        if metric == "cosine" and np.abs(lengths - 1).max() > 1e-3:
            raise SystemExit(f"{about}: says metric 'cosine', but a vector has length {lengths[0]:.4g}; wanted is 1")


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return f"{zlib.crc32(file.read(HASHED_BYTES)):08x}"


def _published_ids(path: Path, queries: int) -> NDArray[np.int64]:
    """Read the nearest ids of each query from a ground-truth file: u32 nq, u32 k, ids u32, then distances."""
    count, k = vectors.shape(path)
    if count != queries or k < TRUTH_K:
        raise SystemExit(f"{path}: holds {k} neighbours of {count} queries; wanted {TRUTH_K} of {queries}")
    ids = np.fromfile(path, np.uint32, count * k, offset=vectors.HEADER_BYTES).reshape(count, k)
    return ids[:, :TRUTH_K].astype(np.int64)


def _nearest_ids(base: Vectors, queries: Vectors) -> NDArray[np.int64]:
    """Find ids among which the nearest of each query are, by brute force in float32."""
    points = base.astype(np.float32)
    squares, few = (points**2).sum(axis=1), min(RIVALS, len(points)) - 1
    blocks = []
    for start in range(0, len(queries), BLOCK):
        distances = squares - 2 * (queries[start : start + BLOCK].astype(np.float32) @ points.T)
        blocks.append(np.argpartition(distances, few, axis=1)[:, : few + 1])
    return np.concatenate(blocks)


def _limits(base: Vectors, queries: Vectors, ids: NDArray[np.int64]) -> Floats:
    """Return the tenth smallest exact distance of each query to the vectors `ids`, for floats a little more."""
    slack = FLOAT_TIES if base.dtype.kind == "f" else 0.0
    return np.sort(_squared_distances(base, queries, ids), axis=1)[:, TRUTH_K - 1] * (1 + slack)


def _squared_distances(base: Vectors, queries: Vectors, ids: NDArray[np.int64]) -> Floats:
    """Return the squared distance of each of the first `len(ids)` queries to the vectors `ids` (queries, n)."""
    distances = np.empty(ids.shape, np.float64)
    for start in range(0, len(ids), BLOCK):
        rows = slice(start, start + BLOCK)
        some = ids[rows]
        differences = base[some].astype(np.float64) - queries[start : start + len(some), None]
        distances[rows] = np.einsum("qnd,qnd->qn", differences, differences)
    return distances
