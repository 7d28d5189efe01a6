"""Drives hnswlib: a graph and float32 vectors, in memory."""

from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library

BLOCK = 100_000


class Adapter(Library):
    """Hierarchical navigable small world graph."""

    def build(self, base: Path, folder: Path, links: int, complexity: int) -> None:
        """Insert with two threads."""
        points = vectors.mapped(base)
        rows, dims = points.shape
        index = hnswlib.Index("l2", dims)
        index.init_index(rows, M=links, ef_construction=complexity, random_seed=100)
        for start in range(0, rows, BLOCK):
            index.add_items(points[start : start + BLOCK].astype(np.float32), num_threads=2)
        index.save_index(str(folder / "hnsw.index"))
        (folder / "dims.txt").write_text(str(dims))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = hnswlib.Index("l2", int((folder / "dims.txt").read_text()))
        self._index.load_index(str(folder / "hnsw.index"))

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        self._index.set_ef(max(k, setting["ef"]))
        return self._index.knn_query(queries, k, num_threads=threads)[0], None
