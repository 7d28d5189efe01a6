"""Drives scalable-vs (SVS): a graph and its vectors in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import svs
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library
from search_peers.vectors import Vectors

TYPES = {"uint8": svs.DataType.uint8, "float16": svs.DataType.float16}


class Adapter(Library):
    """Vamana graph over bytes as they are, or half floats.

    The library's compressed vectors (LVQ, LeanVec) end the process on processors that are not Intel's.
    """

    def build(self, base: Path, folder: Path, degree: int, window: int) -> None:
        """Build with two threads."""
        points = self.prepare(vectors.mapped(base))
        parameters = svs.VamanaBuildParameters(graph_max_degree=degree, window_size=window)
        index = svs.Vamana.build(parameters, points, svs.DistanceType.L2, num_threads=2)
        index.save(*(str(folder / part) for part in ("config", "graph", "vectors")))
        (folder / "type.txt").write_text(points.dtype.name)

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        kind = TYPES[(folder / "type.txt").read_text()]
        self._index = svs.Vamana(
            str(folder / "config"),
            svs.GraphLoader(str(folder / "graph")),
            svs.VectorDataLoader(str(folder / "vectors"), kind),
            svs.DistanceType.L2,
            query_type=kind,
        )

    def prepare(self, queries: Vectors) -> NDArray[np.generic]:
        """Return vectors in the type of the index."""
        return np.ascontiguousarray(queries if queries.dtype == np.uint8 else queries.astype(np.float16))

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        if self._index.num_threads != threads:
            self._index.num_threads = threads
        self._index.search_window_size = setting["search_window_size"]
        return self._index.search(queries, k)[0], None
