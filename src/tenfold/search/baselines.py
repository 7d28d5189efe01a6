"""What the paper compares with: SPANN, and RUMMY's traffic.

SPANN (arXiv 2111.08566) keeps whole vectors in its lists, copies included, and reads a list at once: `ListIndex`.
RUMMY (NSDI 2024) keeps vectors in main memory and moves the lists of a batch to the GPU; `moved_rows` counts them.

n rows · L lists · D dimension of search space · q queries
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tenfold.search import _native
from tenfold.search.clustering import NEIGHBOURS, grow_tree
from tenfold.search.exact import check_queries
from tenfold.search.index import Index
from tenfold.search.storage import PAGE

__all__ = ["NO_LIST", "ListIndex", "ListStats", "Lists", "moved_rows"]

NO_LIST = 0xFFFFFFFF
_BLOCK_ROWS = 1 << 16
_BLOCK_LISTS = 512
_SAMPLE_ROWS = 2_000_000  # that lists are grown from, at most
_COPIES = 7  # besides the row's own list: SPANN's limit of 8
_EPSILON = 10.0  # SPANN's: in effect only `spacing` and the number limit the copies


@dataclass(frozen=True)
class Lists:
    """Lists over the rows of an index, in its search space.

    Attributes:
        centroids: (L, D) float32.
        graph: Over the centroids, (L, degree) uint32, padded with 2^32 - 1.
        neighbours: The nearest other lists of each, (L, 64) uint32, padded alike.
        own: The nearest list of the row at each position, (n,) uint32.
    """

    centroids: np.ndarray
    graph: np.ndarray
    neighbours: np.ndarray
    own: np.ndarray

    @classmethod
    def of_index(cls, index: Index, threads: int) -> "Lists":
        """The lists that the index itself uses."""
        centroids, graph = index.centroids()
        sizes = np.diff(index.list_starts()).astype(np.int64)
        own = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
        return cls(centroids, graph, _native.nearest_points(centroids, graph, NEIGHBOURS, threads), own)

    @classmethod
    def grown(cls, index: Index, rows_per_list: float, seed: int, threads: int) -> "Lists":
        """Other lists: more and shorter ones than those of the index, as SPANN has them."""
        rng = np.random.default_rng(seed)
        share = min(1.0, _SAMPLE_ROWS / max(1, index.rows))
        blocks = (index.space.rows(block, threads) for block in index.stored.blocks(_BLOCK_ROWS))
        sample = np.concatenate([block[rng.random(len(block)) < share] if share < 1 else block for block in blocks])
        tree = grow_tree(sample, max(1, round(index.rows / rows_per_list)), seed, threads)
        del sample
        rows = (index.space.rows(block, threads) for block in index.stored.blocks(_BLOCK_ROWS))
        own = np.concatenate([tree.assign(block, threads) for block in rows])
        return cls(tree.centroids, tree.graph, tree.neighbours, own)


@dataclass(frozen=True)
class ListStats:
    """What each query cost: arrays (queries,), uint32. A read is a list, of one page or several."""

    reads: np.ndarray
    pages: np.ndarray
    rows_scored: np.ndarray


class ListIndex:
    """SPANN: posting lists of whole vectors in one file, read at once.

    Attributes:
        copies: Entries per row.
        file_bytes: Size of the lists on disk.
        memory_bytes: Of centroids, their graph and where the lists lie, which stay in memory.
    """

    def __init__(
        self,
        index: Index,
        lists: Lists,
        path: Path,
        *,
        spacing: float = 1.0,
        page_limit: int | None = None,
        threads: int = 1,
    ) -> None:
        """Write the lists to the file `path` and open it.

        Args:
            index: Gives the vectors and their search space.
            lists: What is written.
            path: File to write.
            spacing: A further list of a row must be this many times farther from the lists chosen before than from the
                row; 1 is SPANN's rule, more gives more copies, infinity as many as allowed (8 lists).
            page_limit: Pages of a list at most (SPANN: 3 for byte vectors, 12 for floats); the rows farthest from its
                centroid are left out. None: no limit.
            threads: Used for writing.
        """
        self._index = index
        entry_bytes = 4 + index.dim * index.dtype.itemsize
        most = page_limit and page_limit * PAGE // entry_bytes
        numbers, positions = _list_entries(index, lists, spacing, most, threads)
        entries = np.bincount(numbers, minlength=len(lists.centroids)).astype(np.uint32)
        pages = -(-entries.astype(np.int64) * entry_bytes // PAGE)
        offsets = (PAGE * np.concatenate([[0], np.cumsum(pages)])).astype(np.uint64)
        _write_lists(index, path, positions, entries, offsets)
        self.copies = len(positions) / max(1, index.rows)
        self.file_bytes = int(offsets[-1])
        self.memory_bytes = sum(part.nbytes for part in (lists.centroids, lists.graph, offsets, entries))
        self._searcher = _native.ListSearcher(
            str(path), index.dtype.name, index.metric, index.dim, lists.centroids, lists.graph, offsets[:-1].copy(),
            entries, "auto",
        )  # fmt: skip

    def route(self, queries: np.ndarray, probes: int, slack: float, threads: int) -> np.ndarray:
        """The lists that `search` reads, (q, probes) uint32, the nearest first; `NO_LIST` where one is left out."""
        exact = check_queries(queries, self._index.dim, self._index.dtype)
        distances, lists = self._searcher.route(self._index.space.queries(exact, threads).space, probes, threads)
        lists[distances > (1 + slack) ** 2 * distances[:, :1]] = NO_LIST
        return lists

    def search(
        self, queries: np.ndarray, k: int, probes: int, slack: float, threads: int
    ) -> tuple[np.ndarray, np.ndarray, ListStats]:
        """Read the nearest lists of each query and score all they hold.

        Args:
            queries: (q, dim).
            k: Results per query.
            probes: Lists per query, at most.
            slack: Lists farther than 1 + slack times the nearest are left out, by true distance: SPANN's query-aware
                pruning (its equation 3).
            threads: Used.

        Returns:
            Distances (q, k) float32, ids (q, k) int64, and what each query cost.
        """
        exact = check_queries(queries, self._index.dim, self._index.dtype)
        found, ids, stats = self._searcher.search(exact, self.route(exact, probes, slack, threads), k, threads)
        return found, ids, ListStats(*np.ascontiguousarray(stats.T))


def moved_rows(index: Index, routes: np.ndarray, batch: int) -> float:
    """Vectors per query that go to a GPU where each batch of queries moves its lists once, without copies of rows.

    Args:
        index: Whose lists are moved.
        routes: Lists of each query, (q, probes) uint32.
        batch: Queries that share what was moved.
    """
    sizes = np.diff(index.list_starts()).astype(np.int64)
    moved = [int(sizes[np.unique(routes[at : at + batch])].sum()) for at in range(0, len(routes), batch)]
    return sum(moved) / len(routes)


def _list_entries(
    index: Index, lists: Lists, spacing: float, most: int | None, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """(list, position) of all entries by list, the nearest to its centroid first, `most` of each."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    first = 0
    for block in index.stored.blocks(_BLOCK_ROWS):
        rows, own = index.space.rows(block, threads), lists.own[first : first + len(block)]
        copies = _native.replicate(rows, own, lists.centroids, lists.neighbours, _COPIES, _EPSILON, spacing, threads)
        row, place = np.nonzero(copies != NO_LIST)
        which, numbers = np.concatenate([np.arange(len(rows)), row]), np.concatenate([own, copies[row, place]])
        parts.append((numbers, (first + which).astype(np.uint32), _gaps(rows, lists.centroids, which, numbers)))
        first += len(rows)
    numbers, positions, gaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((gaps, numbers))
    numbers, positions = numbers[order], positions[order]
    if most is not None:
        kept = np.arange(len(numbers)) - np.searchsorted(numbers, numbers, "left") < most
        numbers, positions = numbers[kept], positions[kept]
    return numbers, positions


def _gaps(rows: np.ndarray, centroids: np.ndarray, which: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Squared distances of rows[which] to centroids[lists], in pieces."""
    parts = []
    for at in range(0, len(which), _BLOCK_ROWS):
        piece = slice(at, at + _BLOCK_ROWS)
        gaps = rows[which[piece]] - centroids[lists[piece]]
        parts.append(np.einsum("ij,ij->i", gaps, gaps))
    return np.concatenate(parts)


def _write_lists(index: Index, path: Path, positions: np.ndarray, entries: np.ndarray, offsets: np.ndarray) -> None:
    """Entries of consecutive lists as (u32 label, vector), each list from its offset on."""
    vectors = np.concatenate([block.copy() for block in index.stored.blocks(_BLOCK_ROWS)])
    raw = vectors.view(np.uint8).reshape(len(vectors), -1)
    labels = np.ascontiguousarray(index.stored.labels()).view(np.uint8).reshape(-1, 4)
    firsts = np.concatenate([[0], np.cumsum(entries, dtype=np.int64)])
    entry_bytes = 4 + raw.shape[1]
    with path.open("wb") as file:
        for low in range(0, len(entries), _BLOCK_LISTS):
            high = min(len(entries), low + _BLOCK_LISTS)
            pages = np.zeros(int(offsets[high] - offsets[low]), np.uint8)
            for number in range(low, high):
                rows = positions[firsts[number] : firsts[number + 1]]
                at = int(offsets[number] - offsets[low])
                place = pages[at : at + len(rows) * entry_bytes].reshape(len(rows), entry_bytes)
                place[:, :4], place[:, 4:] = labels[rows], raw[rows]
            file.write(pages.data)
