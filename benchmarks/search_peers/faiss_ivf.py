"""Drives faiss: an inverted file of 4-bit codes with exact re-ranking, in memory."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


class Adapter:
    """Inverted file, fast-scan product codes, re-ranking with the vectors' own bytes."""

    def build(self, base: Path, folder: Path, description: str) -> None:
        """Train and add with two threads."""
        faiss.omp_set_num_threads(2)
        rows, dims = (int(number) for number in np.fromfile(base, np.uint32, 2))
        vectors = np.fromfile(base, np.uint8, offset=8).reshape(rows, dims).astype(np.float32)
        index = faiss.index_factory(dims, description)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(folder / "faiss.index"))

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = faiss.read_index(str(folder / "faiss.index"))
        self._lists = faiss.extract_index_ivf(self._index)

    def prepare(self, queries: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return the queries in the type that the library takes."""
        return queries.astype(np.float32)

    def forget(self) -> None:
        """Do nothing: everything is in memory."""

    def search(
        self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]
    ) -> tuple[NDArray[np.generic], float | None]:
        """Return ids."""
        faiss.omp_set_num_threads(threads)
        self._index.k_factor = setting["k_factor"]
        self._lists.nprobe = setting["nprobe"]
        return self._index.search(queries, k)[1], None
