"""Drives hnswlib: a graph and float32 vectors, in memory."""

from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray


class Adapter:
    """Hierarchical navigable small world graph."""

    def build(self, base: Path, folder: Path, links: int, complexity: int) -> None:
        """Insert with two threads."""
        rows, dims = (int(number) for number in np.fromfile(base, np.uint32, 2))
        vectors = np.fromfile(base, np.uint8, offset=8).reshape(rows, dims)
        index = hnswlib.Index("l2", dims)
        index.init_index(rows, M=links, ef_construction=complexity, random_seed=100)
        for start in range(0, rows, 100_000):
            index.add_items(vectors[start : start + 100_000].astype(np.float32), num_threads=2)
        index.save_index(str(folder / "hnsw.index"))
        (folder / "dims.txt").write_text(str(dims))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = hnswlib.Index("l2", int((folder / "dims.txt").read_text()))
        self._index.load_index(str(folder / "hnsw.index"))

    def prepare(self, queries: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return the queries in the type that the library takes."""
        return queries.astype(np.float32)

    def forget(self) -> None:
        """Do nothing: everything is in memory."""

    def search(
        self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]
    ) -> tuple[NDArray[np.generic], float | None]:
        """Return ids."""
        self._index.set_ef(max(k, setting["ef"]))
        return self._index.knn_query(queries, k, num_threads=threads)[0], None
