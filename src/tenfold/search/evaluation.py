"""How well and how fast an index answers: recall against exact search, throughput, latency, pages, memory."""

import time
from dataclasses import asdict, dataclass

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search.exact import check_count, count_threads, exact_search, recall_at_k
from tenfold.search.index import Index, Rerank, SearchStats
from tenfold.search.living import LivingIndex
from tenfold.search.memory import resident_bytes

__all__ = ["Evaluation", "evaluate"]

_SINGLE_QUERIES = 1000  # asked one at a time for the latency


@dataclass(frozen=True)
class Evaluation:
    """The figures of one run.

    Attributes:
        queries: How many were asked.
        k: Results per query.
        recall: recall@k; ties with the k-th distance count.
        qps: Queries per second, all in one batch, with `threads` threads.
        latency_ms: "p50" and "p99" of single queries, one at a time with one thread, in milliseconds.
        pages_per_query: 4 KiB pages read from disk.
        candidates_per_query: List entries whose vectors were asked for; a row in two lists counts twice.
        codes_per_query: List entries whose codes were scanned.
        rounds_per_query: Rounds of reading.
        rss_bytes: What the whole process holds after the batch.
        index_bytes: Size of all files.
        io_backend: How pages are read.
        simd: Instruction set of the kernels.
        threads: Of the batch.
    """

    queries: int
    k: int
    recall: float
    qps: float
    latency_ms: dict[str, float]
    pages_per_query: float
    candidates_per_query: float
    codes_per_query: float
    rounds_per_query: float
    rss_bytes: int
    index_bytes: int
    io_backend: str
    simd: str
    threads: int

    def to_json(self) -> dict[str, object]:
        """As `evaluate --json` prints it."""
        return asdict(self)


def evaluate(
    index: Index | LivingIndex,
    queries: np.ndarray,
    true_distances: np.ndarray | None = None,
    k: int = 10,
    *,
    recall: float = 0.95,
    probes: int | None = None,
    candidates: int | None = None,
    rerank: Rerank = "bound",
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Search all queries in one batch, then up to 1,000 one at a time.

    Args:
        index: An open index.
        queries: (q, dim), at least one.
        true_distances: (q, >= min(k, rows)) float32, distances of the exact neighbours, ascending; default:
            found by exact search over the index. Recall counts ties by distance.
        k: Results per query.
        recall: Wanted recall, as for `Index.search`.
        probes: As for `Index.search`.
        candidates: As for `Index.search`.
        rerank: As for `Index.search`.
        threads: Default: all usable cores.
        progress: Called while exact search runs.

    Raises:
        InputError: No queries, or none of the index's dimension; a setting out of range.
    """
    if len(queries) == 0:
        raise InputError("there are no queries to evaluate; give at least 1")
    k, threads = check_count("k", k), count_threads(threads)
    width = min(k, max(1, index.rows))  # there are no further neighbours that could be found or missed

    def search(rows: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        return index.search(
            rows, width, recall=recall, probes=probes, candidates=candidates, rerank=rerank, threads=threads,
            return_stats=True,
        )  # fmt: skip

    if true_distances is None:
        true_distances = (
            index.search(queries, width, recall=1.0, threads=threads)[0]
            if isinstance(index, LivingIndex)
            else exact_search(index.stored, queries, width, index.metric, threads=threads, progress=progress)[0]
        )

    start = time.perf_counter()
    distances, _, stats = search(queries, threads)
    seconds = time.perf_counter() - start
    rss = resident_bytes()

    singles = []
    for number in range(min(len(queries), _SINGLE_QUERIES)):
        start = time.perf_counter()
        search(queries[number : number + 1], 1)
        singles.append(1000 * (time.perf_counter() - start))
    sizes = index.stats()
    return Evaluation(
        queries=len(queries),
        k=k,
        recall=recall_at_k(distances, true_distances, width, index.metric),
        qps=len(queries) / seconds,
        latency_ms={"p50": float(np.percentile(singles, 50)), "p99": float(np.percentile(singles, 99))},
        pages_per_query=float(stats.pages_read.mean()),
        candidates_per_query=float(stats.candidates.mean()),
        codes_per_query=float(stats.codes_scanned.mean()),
        rounds_per_query=float(stats.rounds.mean()),
        rss_bytes=rss,
        index_bytes=sizes["index_bytes"],
        io_backend=sizes["io_backend"],
        simd=sizes["simd"],
        threads=threads,
    )
