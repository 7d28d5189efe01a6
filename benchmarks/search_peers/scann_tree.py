"""Drives ScaNN: a tree of lists, 4-bit codes, re-ranking, in memory."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scann import scann_ops_pybind
from scann.scann_ops.py.scann_builder import ReorderType

from search_peers import vectors
from search_peers.adapter import Found, Library

DIMS_PER_CODE = 2
RERANKED = 100  # replaced by every search


class Adapter(Library):
    """Partitions, asymmetric hashing, exact re-ranking: bytes in bfloat16, which holds them exactly.

    Vectors of unit length get what the library offers for inner products: codes that err along the
    vector least, and a second list for each (SOAR).
    """

    def build(self, base: Path, folder: Path, leaves: int, metric: str) -> None:
        """Train and add with two threads."""
        points = vectors.mapped(base)
        exact = ReorderType.BFLOAT16 if points.dtype == np.uint8 else ReorderType.FLOAT32
        is_angular = metric == "cosine"
        measure, threshold = ("dot_product", 0.2) if is_angular else ("squared_l2", float("nan"))
        spilling = {"soar_lambda": 1.5, "overretrieve_factor": 2.0} if is_angular else {}
        builder = scann_ops_pybind.builder(points.astype(np.float32), 10, measure)
        builder.set_n_training_threads(2)
        builder = builder.tree(leaves, 1, training_sample_size=250_000, spherical=is_angular, **spilling)
        builder = builder.score_ah(DIMS_PER_CODE, anisotropic_quantization_threshold=threshold)
        builder.reorder(RERANKED, quantize=exact).build().serialize(str(folder), relative_path=True)

    def open(self, folder: Path) -> None:
        """Read the index into memory."""
        self._index = scann_ops_pybind.load_searcher(str(folder))

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids."""
        reranked, leaves = max(k, setting["reorder"]), setting["leaves"]
        if len(queries) == 1:
            return self._index.search(queries[0], k, reranked, leaves)[0][None], None
        self._index.set_num_threads(threads)
        return self._index.search_batched_parallel(queries, k, reranked, leaves)[0], None
