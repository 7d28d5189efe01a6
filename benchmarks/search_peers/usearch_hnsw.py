"""Drives usearch: a graph and its vectors in memory."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from search_peers import vectors
from search_peers.adapter import Found, Library
from search_peers.vectors import Vectors

BLOCK = 100_000


class Adapter(Library):
    """Hierarchical navigable small world graph.

    Bytes are shifted to int8, which keeps their distances (the library's own uint8 kernels give wrong
    answers on processors with AVX-512); floats are held in half precision.
    """

    def build(self, base: Path, folder: Path, links: int, complexity: int) -> None:
        """Insert with two threads."""
        points = vectors.mapped(base)
        rows, dims = points.shape
        dtype = "i8" if points.dtype == np.uint8 else "f16"
        index = Index(ndim=dims, metric="l2sq", dtype=dtype, connectivity=links, expansion_add=complexity)
        for start in range(0, rows, BLOCK):
            block = self.prepare(points[start : start + BLOCK])
            index.add(np.arange(start, start + len(block)), block, threads=2)
        index.save(str(folder / "usearch.index"))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = Index.restore(str(folder / "usearch.index"))

    def prepare(self, queries: Vectors) -> NDArray[np.generic]:
        """Return vectors in the type of the index."""
        if queries.dtype == np.uint8:
            return (queries.astype(np.int16) - 128).astype(np.int8)
        return queries.astype(np.float16)

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        self._index.expansion_search = setting["expansion_search"]
        return self._index.search(queries, k, threads=threads).keys.reshape(len(queries), k), None
