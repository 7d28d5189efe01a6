"""Drives diskannpy's disk index."""

from pathlib import Path
from typing import Any

import diskannpy
import numpy as np
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library
from search_peers.vectors import Vectors

GIB = 2**30


class Adapter(Library):
    """DiskANN: PQ codes (and cached nodes) in memory, graph and vectors on disk, read with O_DIRECT."""

    def build(self, base: Path, folder: Path, degree: int, complexity: int, code_bytes: int) -> None:
        """Build with two threads; the memory limit for searching is what sets the size of the codes."""
        rows, _ = vectors.shape(base)
        diskannpy.build_disk_index(
            str(base),
            "l2",
            str(folder),
            complexity=complexity,
            graph_degree=degree,
            search_memory_maximum=(code_bytes + 0.5) * rows / GIB,
            build_memory_maximum=8,
            num_threads=2,
            vector_dtype=vectors.DTYPES[base.suffix].type,
        )
        (folder / "ann_mem.index.data").unlink(missing_ok=True)  # a search does not read it

    def open(self, folder: Path, cached_nodes: int, threads: int) -> None:
        """Open; the nodes to cache are chosen with the sample that the build kept."""
        self._index = diskannpy.StaticDiskIndex(
            str(folder), num_threads=threads, num_nodes_to_cache=cached_nodes, cache_mechanism=1 if cached_nodes else 0
        )

    def prepare(self, queries: Vectors) -> NDArray[np.generic]:
        """Return the queries as they are: their type is the index's."""
        return queries

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids; the library counts reads but does not show them in Python."""
        width, complexity = setting["beam_width"], setting["complexity"]
        if len(queries) == 1:
            return self._index.search(queries[0], k, complexity, width).identifiers[None], None
        return self._index.batch_search(queries, k, complexity, threads, width).identifiers, None
