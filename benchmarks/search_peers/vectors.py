"""Vector files: u32 rows, u32 dimensions, then the rows, of the type that the suffix says."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 8
DTYPES: dict[str, np.dtype[Any]] = {".u8bin": np.dtype(np.uint8), ".fbin": np.dtype(np.float32)}

Vectors = NDArray[np.uint8] | NDArray[np.float32]


def shape(path: Path) -> tuple[int, int]:
    """Return (rows, dims) of a file."""
    rows, dims = (int(number) for number in np.fromfile(path, np.uint32, 2))
    return rows, dims


def mapped(path: Path) -> Vectors:
    """Map a file as a (rows, dims) array."""
    return np.memmap(path, DTYPES[path.suffix], "r", HEADER_BYTES, shape(path))


def loaded(path: Path) -> Vectors:
    """Read a file into memory as a (rows, dims) array."""
    return np.fromfile(path, DTYPES[path.suffix], offset=HEADER_BYTES).reshape(shape(path))


def write(path: Path, vectors: Vectors) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.array(vectors.shape, np.uint32).tofile(file)
        vectors.tofile(file)
    partial.replace(path)
