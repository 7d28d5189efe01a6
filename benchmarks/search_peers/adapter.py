"""What adapters have in common."""

import numpy as np
from numpy.typing import NDArray

from search_peers.vectors import Vectors

Found = tuple[NDArray[np.generic], float | None]
"""Ids (queries, k), and the pages read per query by the library's own count, where it has one."""


class Library:
    """A library that takes float32 and remembers nothing from one search to the next; others say so.

    An adapter adds `build(base, folder, **options)`, which makes an index of the vector file `base` with
    two threads; `open(folder, **options)`; and `search(queries, k, threads, setting)` for one query or many.
    """

    def prepare(self, queries: Vectors) -> NDArray[np.generic]:
        """Return the queries in the type that the library takes."""
        return queries.astype(np.float32)

    def forget(self) -> None:
        """Drop what a search left in memory for the next; called before each measurement."""
