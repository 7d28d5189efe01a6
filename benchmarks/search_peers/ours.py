"""Drives Tenfold itself."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_peers.adapter import Found, Library
from search_peers.vectors import Vectors
from tenfold.search import Index


class Adapter(Library):
    """Tenfold's disk index; its one search parameter is `recall`."""

    def build(self, base: Path, folder: Path, **options: Any) -> None:
        """Build from the vector file `base` below `folder`."""
        Index.build(base, folder / "index", **options)

    def open(self, folder: Path, **options: Any) -> None:
        """Open the index that `build` wrote."""
        self._path, self._options = folder / "index", options
        self._index = Index.open(self._path, **options)

    def prepare(self, queries: Vectors) -> NDArray[np.generic]:
        """Return the queries as they are."""
        return queries

    def forget(self) -> None:
        """Open the index anew, so that no page read for one run serves the next."""
        self._index = Index.open(self._path, **self._options)

    def search(self, queries: NDArray[np.generic], k: int, threads: int, setting: dict[str, Any]) -> Found:
        """Return ids and pages read per query by the library's own count."""
        _, ids, stats = self._index.search(queries, k=k, threads=threads, return_stats=True, **setting)
        return ids, float(np.mean(stats.pages_read))
