"""Search space: where every metric is squared L2 distance between float32 rows.

    l2       y = x
    cosine   y = x / |x|                              |y_q - y_x|^2 = 2 (1 - cos)
    ip       y = [x, sqrt(R^2 - |x|^2)], y_q = [q, 0]  |y_q - y_x|^2 = |q|^2 + R^2 - 2 <q, x>,  R = max |x|

Lists, graph and codes live there; exact distances are computed on the vectors as they were given.
The origin is moved to the mean of a sample of rows.
Codec "rabitq" wants residuals without preferred axes, so its space is also rotated (by Hadamard
transforms with random signs: d log d operations and no matrix to store); "pq" wants the axes along
which they vary independently, a matrix found by the build.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.storage import SectionFile

__all__ = ["Dtype", "Metric", "QueryRows", "Space", "open_space"]

Metric = Literal["l2", "ip", "cosine"]
Dtype = Literal["float32", "float16", "uint8", "int8"]  # of vectors in an index

_MATRIX_DIM = 1024
_CACHED_ROWS = 256  # rows that stay in the processor's cache while they are transformed
_ROUNDS = 4  # of signs and Hadamard transforms; enough to spread a single coordinate over all


class QueryRows(NamedTuple):
    """Queries in search space: |q - x|^2 there = base + slope * distance."""

    space: np.ndarray  # (queries, space.dim) float32
    base: np.ndarray  # (queries,) float32
    slope: np.ndarray  # (queries,) float32


@dataclass(frozen=True)
class Space:
    """The map from vectors of dimension `vector_dim` to search space."""

    metric: Metric
    vector_dim: int
    radius: float  # R of metric ip; 0 otherwise
    rotation_seed: int | None = None  # of random axes
    center: np.ndarray | None = None  # (dim,) float32, the origin: near the rows, so that no precision is lost
    axes: np.ndarray | None = None  # (dim, dim) float32, orthonormal: chosen axes

    @property
    def dim(self) -> int:
        """Dimension of search space."""
        return self.vector_dim + (self.metric == "ip")

    def rows(self, block: np.ndarray, threads: int = 1) -> np.ndarray:
        """Base vectors (b, vector_dim) of any dtype -> (b, dim) float32."""
        values = block.astype(np.float32)
        if self.metric == "cosine":
            values /= _safe_norms(values)
        elif self.metric == "ip":
            squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
            rest = np.sqrt(np.maximum(self.radius**2 - squares, 0)).astype(np.float32)
            values = np.concatenate([values, rest[:, None]], axis=1)
        return self._move(values, threads)

    def queries(self, block: np.ndarray, threads: int = 1) -> QueryRows:
        """Query vectors (q, vector_dim) -> their rows and how distances translate."""
        values = _native.empty_rows(*block.shape)
        values[...] = block
        ones = np.ones(len(values), np.float32)
        if self.metric == "l2":
            return QueryRows(self._move(values, threads), 0 * ones, ones)
        if self.metric == "cosine":
            values /= _safe_norms(values)
            return QueryRows(self._move(values, threads), 0 * ones, 2 * ones)
        base = np.einsum("ij,ij->i", values, values) + np.float32(self.radius**2)
        augmented = np.concatenate([values, np.zeros((len(values), 1), np.float32)], axis=1)
        return QueryRows(self._move(augmented, threads), base.astype(np.float32), 2 * ones)

    def _move(self, values: np.ndarray, threads: int) -> np.ndarray:
        """Rows of search space; `values` are the caller's no more."""
        if self.center is not None:
            values -= self.center
        if self.axes is not None:
            return _native.turn(values, self.axes, threads)
        if self.rotation_seed is None:
            return np.ascontiguousarray(values)
        if self.dim <= _MATRIX_DIM:
            return _native.turn(values, _rotation(self.dim, self.rotation_seed), threads)
        return _spread(values, self.rotation_seed)


def open_space(manifest: dict[str, Any], file: SectionFile | None) -> Space:
    """The search space of an index: its center and axes are sections of `file`, if they are chosen yet."""
    seed = manifest["seed"] if manifest["codec"] == "rabitq" else None
    space = Space(manifest["metric"], manifest["dim"], manifest["radius"], seed)
    if file is None:
        return space
    center, axes = (np.array(file.array(name, "<f4", None)) for name in ("center", "axes"))
    if center.size != space.dim or axes.shape not in ((0, space.dim), (space.dim, space.dim)):
        raise InputError(f"{file.path}: its center or axes do not fit the dimension; the index is damaged")
    return replace(space, center=center.reshape(-1), axes=axes if len(axes) else None)


@lru_cache(maxsize=8)
def _rotation(dim: int, seed: int) -> np.ndarray:
    """`_spread` as a matrix: a product with it is faster while it is small."""
    return _spread(np.eye(dim, dtype=np.float32), seed)


def _spread(values: np.ndarray, seed: int) -> np.ndarray:
    """Rows (n, dim) rotated by rounds of random signs and Hadamard transforms of the first and last 2^m values."""
    dim = values.shape[1]
    width = 1 << (dim.bit_length() - 1)
    for signs in _random_signs(_ROUNDS * dim, seed).reshape(_ROUNDS, dim):
        values = values * signs
        values[:, :width] = _hadamard(values[:, :width])
        if width < dim:
            values[:, -width:] = _hadamard(values[:, -width:])
    return values


def _random_signs(count: int, seed: int) -> np.ndarray:
    """SplitMix64's top bits as +1 and -1: written out here, since an index must mean the same for ever."""
    state = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return np.where(state >> np.uint64(63), np.float32(-1), np.float32(1))


def _safe_norms(values: np.ndarray) -> np.ndarray:
    pieces = (values[start : start + _CACHED_ROWS] for start in range(0, len(values), _CACHED_ROWS))
    norms = np.concatenate([np.zeros((0, 1), np.float32), *(np.linalg.norm(p, axis=1, keepdims=True) for p in pieces)])
    norms[norms == 0] = 1
    return norms


def _hadamard(values: np.ndarray) -> np.ndarray:
    """Orthonormal Walsh-Hadamard transform of rows whose length is a power of two."""
    width = values.shape[1]
    values = values / np.float32(np.sqrt(width))
    for start in range(0, len(values), _CACHED_ROWS):
        part = values[start : start + _CACHED_ROWS]
        half = 1
        while half < width:
            pairs = part.reshape(len(part), width // (2 * half), 2, half)
            first = pairs[:, :, 0].copy()
            pairs[:, :, 0] += pairs[:, :, 1]
            np.subtract(first, pairs[:, :, 1], out=pairs[:, :, 1])
            half *= 2
    return values
