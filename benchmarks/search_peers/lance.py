"""Drives LanceDB: a table on disk with an inverted file of product codes."""

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfPq
from numpy.typing import NDArray

from search_peers import vectors
from search_peers.adapter import Found, Library

BATCH = 50  # vectors per request: the fastest of 1, 10, 50, 100 and 500


class Adapter(Library):
    """Lists of codes, cached in memory, and vectors read through the system's page cache for re-ranking.

    Bytes are stored as float32: the library indexes no bytes with this metric, and in half floats their squared
    distances overflow.
    """

    def build(self, base: Path, folder: Path, lists: int, code_bytes: int) -> None:
        """Write the table and build the index on all cores of the process."""
        points = vectors.mapped(base)
        values = points.astype(np.float32, copy=False).reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values), points.shape[1])
        table = lancedb.connect(folder).create_table("vectors", pa.table({"vector": column}))
        table.create_index("vector", config=IvfPq(num_partitions=lists, num_sub_vectors=code_bytes))

    def open(self, folder: Path) -> None:
        """Open the table."""
        self._table = lancedb.connect(folder).open_table("vectors")

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids; the threads are the library's own."""
        blocks = [self._ask(queries[start : start + BATCH], k, setting) for start in range(0, len(queries), BATCH)]
        return np.concatenate(blocks), None

    def _ask(self, queries: NDArray[np.generic], k: int, setting: dict[str, Any]) -> NDArray[np.generic]:
        query = self._table.search(queries if len(queries) > 1 else queries[0]).select(["_distance"]).with_row_id(True)
        rows = query.limit(k).nprobes(setting["nprobes"]).refine_factor(setting["refine_factor"]).to_arrow()
        owners = rows["query_index"].to_numpy() if len(queries) > 1 else np.zeros(len(rows), np.int32)
        ids = np.full((len(queries), k), -1, np.int64)
        ids[owners, np.arange(len(owners)) - np.searchsorted(owners, owners)] = rows["_rowid"].to_numpy()
        return ids
