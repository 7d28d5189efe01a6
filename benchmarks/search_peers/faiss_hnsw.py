"""Drives faiss's graph index."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library


class Adapter(Library):
    """Hierarchical navigable small world graph over float32 vectors, in memory."""

    def build(self, base: Path, folder: Path, links: int, complexity: int) -> None:
        """Insert with two threads."""
        faiss.omp_set_num_threads(2)
        index = faiss.IndexHNSWFlat(vectors.shape(base)[1], links)
        index.hnsw.efConstruction = complexity
        index.add(vectors.mapped(base).astype(np.float32))
        faiss.write_index(index, str(folder / "faiss.index"))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = faiss.read_index(str(folder / "faiss.index"))

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        faiss.omp_set_num_threads(threads)
        self._index.hnsw.efSearch = setting["efSearch"]
        return self._index.search(queries, k)[1], None
