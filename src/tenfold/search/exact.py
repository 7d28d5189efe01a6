"""Exact search over any source: ground truth, and the yardstick of every test."""

import operator

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search import _native
from tenfold.search.formats.source import VectorSource
from tenfold.search.space import Metric

__all__ = [
    "MOST_RESULTS",
    "check_count",
    "check_lengths",
    "check_queries",
    "check_vectors",
    "exact_search",
    "merge_nearest",
    "recall_at_k",
]

MOST_RESULTS = 1 << 24
"""Of a query."""

_MOST_THREADS = 4096
"""Of a search."""

_BLOCK_BYTES = 2 << 20
_MOST_LENGTH = 3e18  # the square of twice that is a float32
_LEAST_LENGTH = 1e-15  # squares of a thousandth of that still are
# Truth files round differently: by parts of the distance and, where that is 1 - cos, of 1.
_SLACK, _COSINE_SLACK = 1e-5, 1e-7


def exact_search(
    source: VectorSource,
    queries: np.ndarray,
    k: int,
    metric: Metric = "l2",
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each query by comparing with every row, ties by lower row number.

    Args:
        source: Base vectors; streamed, never held whole.
        queries: (q, dim), values that the base dtype can hold.
        k: Results per query.
        metric: "l2" (squared distance), "ip" (minus the inner product) or "cosine" (1 - cos).
        threads: Default: all usable cores.
        progress: Called with the rows done.

    Returns:
        distances (q, k) float32, ascending, and row numbers (q, k) int64; inf and -1 where there
        are fewer than k rows.
    """
    k = check_count("k", k, MOST_RESULTS)
    threads = count_threads(threads)
    queries = check_queries(queries, source.dim, source.dtype)
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    block_rows = max(1, _BLOCK_BYTES // (source.dim * source.dtype.itemsize))
    row = 0
    for block in source.blocks(block_rows):
        check_lengths(block, f"{source.name}: row", row)
        _native.exact(block, source.dtype.name, metric, queries, row, distances, ids, threads)
        row += len(block)
        progress("exact", row, source.rows)
    return distances, ids


def merge_nearest(k: int, *found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The k best of several results of the same queries, each distances (q, n) and ids (q, n); ties by lower id."""
    distances, ids = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    best = (np.take_along_axis(values, order, axis=1) for values in (distances, ids))
    near, named = (np.ascontiguousarray(values) for values in best)
    return near, named


def check_count(name: str, value: object, most: int | None = None) -> int:
    """`value`, a whole number of any type, as an int; InputError for others, and those below 1 or above `most`."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1 or (most is not None and count > most):
        limits = "at least 1" if most is None else f"1 to {most:,}"
        raise InputError(f"{name} is {value!r}; it must be a whole number, {limits}")
    return count


def count_threads(threads: int | None) -> int:
    """So many, or for None all usable cores; InputError as `check_count`."""
    return _native.usable_cores() if threads is None else check_count("threads", threads, _MOST_THREADS)


def check_queries(queries: np.ndarray, dim: int, dtype: np.dtype) -> np.ndarray:
    """Queries as the exact kernels take them: C-contiguous (q, dim), float32 for float16 bases.

    Raises InputError for a wrong shape, NaN or infinity, vectors too long or too short for float32
    distances, or values that the base's integer type cannot hold.
    """
    return _check_rows(queries, dim, dtype, "query", "queries")


def check_vectors(vectors: np.ndarray, dim: int, dtype: np.dtype) -> np.ndarray:
    """Vectors to be stored in a base, C-contiguous (n, dim) of its dtype; InputError as for queries."""
    rows = _check_rows(vectors, dim, dtype, "vector", "vectors")
    if rows.dtype == dtype:
        return rows
    with np.errstate(over="ignore"):
        halves = rows.astype(dtype)
    if not np.isfinite(halves).all():
        row = int(np.flatnonzero(~np.isfinite(halves).all(axis=1))[0])
        raise InputError(f"vector {row} holds values beyond the range of {dtype}")
    return halves


def _check_rows(rows: np.ndarray, dim: int, dtype: np.dtype, one: str, many: str) -> np.ndarray:
    try:
        rows = np.asarray(rows)
    except ValueError:
        raise InputError(f"{many} are no array: their rows differ in length") from None
    if rows.ndim == 1 and rows.shape[0] == dim:
        raise InputError(f"{many} have shape {rows.shape}; one {one} is a row: {one[0]}.reshape(1, -1)")
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InputError(f"{many} have shape {rows.shape}, but this base holds vectors of dimension {dim}")
    if rows.dtype.kind not in "fiu":
        raise InputError(f"{many} hold {rows.dtype} values; numbers are needed")
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(f"{one} {row} holds NaN or infinity; remove or repair it")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            floats = np.ascontiguousarray(rows, np.float32)
        check_lengths(floats, one, 0)
        return floats
    with np.errstate(invalid="ignore"):
        exact = np.ascontiguousarray(rows, dtype)
    if rows.dtype != dtype and not np.array_equal(exact, rows):
        row = int(np.flatnonzero((exact != rows).any(axis=1))[0])
        raise InputError(f"{one} {row} holds values that {dtype} cannot; this base is {dtype}, so {many} must be too")
    return exact


def check_lengths(rows: np.ndarray, name: str, first: int) -> None:
    """InputError where a float32 row of (n, dim) is so long or short that distances leave the range of float32.

    A row of zeros may stay.
    """
    if rows.dtype != np.float32:
        return
    with np.errstate(over="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
    if len(rows) and not squares.max() <= _MOST_LENGTH**2:
        row = int(np.flatnonzero(~(squares <= _MOST_LENGTH**2))[0])
        raise InputError(f"{name} {first + row} is longer than {_MOST_LENGTH:g}; scale the vectors down")
    short = np.flatnonzero(squares < _LEAST_LENGTH**2)
    short = short[rows[short].any(axis=1)]
    if len(short):
        raise InputError(
            f"{name} {first + short[0]} is shorter than {_LEAST_LENGTH:g}, but not zero; scale the vectors up"
        )


def recall_at_k(distances: np.ndarray, true_distances: np.ndarray, k: int, metric: Metric = "l2") -> float:
    """Mean share of the first k results that are as near as the true k-th neighbour.

    Counted by distance, so that a tie for the k-th place is a hit whichever row is named
    (the ann-benchmarks rule). Where there are no neighbours, none is missed.

    Args:
        distances: (q, >= k) float, ascending; inf where there is no result.
        true_distances: (q, >= k) float, ascending; inf where there is no neighbour.
        k: Results per query that count.
        metric: Of the distances. A hundred-thousandth of the k-th distance is taken for rounding; for
            "cosine" 1e-7 more, since 1 - cos is rounded as numbers near 1 are.
    """
    if len(distances) != len(true_distances) or min(distances.shape[1], true_distances.shape[1]) < k:
        raise InputError(
            f"recall at {k} compares (queries, {k} or more) distances with as many true ones, "
            f"not {distances.shape} with {true_distances.shape}"
        )
    if len(distances) == 0:
        return 1.0
    limit = true_distances[:, k - 1 : k]
    slack = _SLACK * np.abs(limit) + (_COSINE_SLACK if metric == "cosine" else 0)
    found = ((distances[:, :k] <= limit + slack) & np.isfinite(distances[:, :k])).sum(axis=1)
    possible = np.isfinite(true_distances[:, :k]).sum(axis=1)
    return float(np.where(possible, found / np.maximum(possible, 1), 1).mean())
