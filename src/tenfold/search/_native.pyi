"""Native core of tenfold.search: arrays in, arrays out; C-contiguous, the GIL released meanwhile."""

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np

def simd_level() -> str:
    """The instruction set in use: "scalar", "avx2", "avx512" or "neon"."""

def simd_levels() -> list[str]:
    """The instruction sets this machine offers, the reference first, the best last."""

def use_simd_level(name: str) -> None:
    """Use another one from now on; InputError if this machine lacks it."""

def probe_io_uring() -> str:
    """Empty where io_uring works, otherwise why it does not."""

def usable_cores() -> int:
    """Cores that affinity and cgroup quota leave to this process."""

def release_memory() -> None:
    """Give freed memory back to the system, where the allocator keeps it."""

def crc32c(data: np.ndarray, start: int = 0) -> int:
    """CRC-32C of (n,) uint8, going on from `start`."""

def page_checksums(data: np.ndarray, page_bytes: int, threads: int = 1) -> np.ndarray:
    """CRC-32C of every page, (pages,) uint32."""

def empty_rows(count: int, dim: int) -> np.ndarray:
    """Rows (n, d) float32 not filled in; where they are large, their memory goes back to the system with them."""

def turn(rows: np.ndarray, axes: np.ndarray, threads: int = 1) -> np.ndarray:
    """Rows (n, d) float32 @ axes (d, d) float32, the same bits whatever a row's company and the instruction set."""

def exact(
    rows: np.ndarray,
    dtype: str,
    metric: str,
    queries: np.ndarray,
    first_id: int,
    distances: np.ndarray,
    ids: np.ndarray,
    threads: int = 1,
    row_ids: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> None:
    """Merge rows (n, d) into each query's k best, (q, k), in place: C-contiguous float32 and int64, or TypeError.

    Their ids count from `first_id` or are `row_ids`, (n,) int64; of rows whose bits in `allowed`,
    (ceil(n / 64),) uint64, are not set none is taken.
    """

def merge(
    distances: np.ndarray,
    ids: np.ndarray,
    found: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
    threads: int = 1,
) -> None:
    """Merge a search's results (q, n), their ids being `names[labels]`, into each query's k best, (q, k), in place.

    Those are as for `exact`. Rows of `found` rise and have a label of -1 where there are fewer; ids in place are
    -1 alike.
    """

def make_graph(points: np.ndarray, degree: int, width: int, threads: int = 1) -> np.ndarray:
    """Navigation graph over (n, d) float32 points: (n, degree) uint32, padded with 2^32 - 1."""

def nearest_points(points: np.ndarray, neighbours: np.ndarray, width: int, threads: int = 1) -> np.ndarray:
    """The `width` nearest other points of each point, found along the graph, ascending, padded alike."""

def assign(
    rows: np.ndarray,
    nodes: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    list: np.ndarray,
    centroids: np.ndarray,
    neighbours: np.ndarray,
    threads: int = 1,
) -> np.ndarray:
    """The nearest list of each row (n, d) float32, (n,) uint32."""

def relist(
    rows: np.ndarray,
    before: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    former: np.ndarray,
    dissolved: np.ndarray,
    centroids: np.ndarray,
    neighbours: np.ndarray,
    fresh: np.ndarray,
    threads: int = 1,
) -> np.ndarray:
    """The list now of each row (n, d) float32, (n,) uint32, from the one `before`, (n,) uint32.

    List l of before is now the lists begin[l] .. end[l], (L,) uint32 each, at least one; `former` (L, d) are the
    centroids before, `dissolved` (L,) uint8 tells lists that are gone, `fresh` (K,) uint8 those that come of a split.
    """

def replicate(
    rows: np.ndarray,
    primary: np.ndarray,
    centroids: np.ndarray,
    neighbours: np.ndarray,
    most: int,
    epsilon: float,
    spacing: float,
    threads: int = 1,
) -> np.ndarray:
    """Further lists of each row under the RNG rule, (n, most) uint32, padded with 2^32 - 1."""

def second_lists(
    rows: np.ndarray, primary: np.ndarray, centroids: np.ndarray, neighbours: np.ndarray, threads: int = 1
) -> np.ndarray:
    """A second list of each row by SOAR's loss, (n,) uint32, 2^32 - 1 where there is only one; `neighbours` (L, degree)
    are of the navigation graph."""

def arrange(rows: np.ndarray, list: np.ndarray, position: int, rows_per_page: int, threads: int = 1) -> np.ndarray:
    """Order (n,) uint32 of rows (n, d) float32, sorted by list, to be stored from `position` on: near rows
    of a list come to share pages."""

def train_pq(residuals: np.ndarray, subs: int, iterations: int, threads: int = 1) -> np.ndarray:
    """Codebook (subs, 16, ceil(d / subs)) float32 of (n, d) float32 residuals."""

def encode(
    rows: np.ndarray,
    list: np.ndarray,
    centroids: np.ndarray,
    bits: int,
    codebook: np.ndarray,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, subs) uint8 and terms |r|^2, <r, v>, |v|^2, <c, v> (n, 4) float32 of each row's residual."""

class Searcher:
    """An open index; keeps the arrays it was given alive."""

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        numbers: dict[str, Any],
        path: str | PathLike[str],
        dtype: str,
        metric: str,
        io: str,
        cache_bytes: int,
    ) -> None: ...
    @property
    def backend(self) -> str:
        """How pages are read: "uring", "direct", "buffered", or "memory"."""

    @property
    def memory_bytes(self) -> int:
        """What it holds besides its arrays: centroids as bytes, and with "memory" the vectors."""

    def search(
        self,
        exact: np.ndarray,
        space: np.ndarray,
        base: np.ndarray,
        slope: np.ndarray,
        k: int,
        probes: int,
        margin: float,
        candidates: int,
        z: float,
        rule: str,
        score_whole_pages: bool,
        threads: int,
        allowed: np.ndarray | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances (q, k) float32, ids (q, k) int64 and the six counts of SearchStats (q, 6) uint32.

        Only rows are found whose bits are set in `allowed`, by position, (ceil(rows / 64),) uint64. `meanwhile` is
        called at most once, by the calling thread, when that first waits for the disk; what it raises ends the search.
        """

    def scan(
        self, space: np.ndarray, probes: int, candidates: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first half of a search: positions uint32, estimates float32, codes of errors uint8, (q, candidates).

        The nearest estimates first, ties by position; 2^32 - 1, inf and 0 fill up.
        """

    def rerank(
        self,
        exact: np.ndarray,
        space: np.ndarray,
        base: np.ndarray,
        slope: np.ndarray,
        positions: np.ndarray,
        estimates: np.ndarray,
        errors: np.ndarray,
        k: int,
        z: float,
        rule: str,
        score_whole_pages: bool,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The second half, from what `scan` or another device has found; returns what `search` does."""

    def route(
        self, space: np.ndarray, probes: int, threads: int, margin: float = ..., rows: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances (q, probes) float32 and numbers uint32 of each query's nearest lists, nearest first.

        Of the distances d_1, d_2, ... only while d_i - d_1 <= margin d_2 / i^0.2, or until
        they hold so many rows. Where fewer lists are found, inf and
        2^32 - 1 follow.
        """

    def itinerary(
        self, space: np.ndarray, probes: int, threads: int, margin: float = ..., rows: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The same as a device wants it: no gaps, queries in the order of their nearest lists.

        Returns this order (q,) int64; of the queries, so ordered, where the r routes of each begin and end
        (q + 1,) int64, and the slots (32 to a block) and entries of their lists (q, 2) int32; of each route
        distance float32, and int32 the number of the list, that of the query in this order, and the slots of the
        query's lists before this one.
        """

    def estimate(self, space: np.ndarray, positions: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Estimates and squared residual errors (q, n) float32 of rows by position; NaN where out of range."""

class ListSearcher:
    """SPANN's way of searching: posting lists of whole vectors on disk, each read at once."""

    def __init__(
        self,
        path: str | PathLike[str],
        dtype: str,
        metric: str,
        dim: int,
        centroids: np.ndarray,
        neighbours: np.ndarray,
        offsets: np.ndarray,
        entries: np.ndarray,
        io: str,
    ) -> None:
        """Centroids (lists, D) float32 and a graph over them (lists, degree) uint32.

        List i holds entries[i] (uint32) times a u32 id and a vector, from byte offsets[i] (uint64) on.
        """

    @property
    def backend(self) -> str:
        """How lists are read: "uring", "direct" or "buffered"."""

    def route(self, space: np.ndarray, probes: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Searcher.route`."""

    def search(
        self, queries: np.ndarray, lists: np.ndarray, k: int, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads the given lists (q, probes) uint32, 2^32 - 1 for none, of each query.

        Returns distances (q, k) float32, ids (q, k) int64, and reads, pages and rows scored (q, 3) uint32.
        """
