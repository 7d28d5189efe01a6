"""Drives faiss's inverted files: short codes with re-ranking, in memory."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library


class Adapter(Library):
    """Inverted file, fast-scan codes, re-ranking with the vectors' own bytes or half floats."""

    def build(self, base: Path, folder: Path, description: str) -> None:
        """Train and add with two threads."""
        faiss.omp_set_num_threads(2)
        points = vectors.mapped(base).astype(np.float32)
        index = faiss.index_factory(points.shape[1], description)
        index.train(points)
        index.add(points)
        faiss.write_index(index, str(folder / "faiss.index"))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = faiss.read_index(str(folder / "faiss.index"))
        self._lists = faiss.extract_index_ivf(self._index)

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        faiss.omp_set_num_threads(threads)
        self._index.k_factor = setting["k_factor"]
        self._lists.nprobe = setting["nprobe"]
        return self._index.search(queries, k)[1], None
