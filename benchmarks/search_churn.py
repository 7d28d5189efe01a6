"""Churn: an index whose rows come and go while one thread searches; recall, size and p99 round by round.

    python benchmarks/search_churn.py --data DIR [--rows 200000] [--rounds 10]

DIR holds base.u8bin and query.u8bin, as benchmarks/README.md describes. Each round deletes a tenth of the rows and adds
as many, 500 of each in turn, while another thread asks one query after the other; the round is over when nothing is
left to seal or merge. Recall@10 is against brute force over the rows of that moment, and in the end beside a build of
its own.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tenfold.search import Index, LivingIndex, as_source, exact_search, open_vectors, recall_at_k

K, PIECE, QUERIES, IDLE = 10, 500, 1000, 4000


def read(path: Path) -> np.ndarray:
    """All vectors of a file."""
    return np.concatenate(list(open_vectors(path).blocks(1 << 17)))


def size_of(folder: Path) -> int:
    """Bytes of all files there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def ask(index: LivingIndex, queries: np.ndarray, stop: threading.Event, most: int | None = None) -> np.ndarray:
    """Milliseconds of single queries, until told to stop, or so many."""
    times: list[float] = []
    while not stop.is_set() and (most is None or len(times) < most):
        at = len(times) % len(queries)
        start = time.perf_counter()
        index.search(queries[at : at + 1], K, threads=1)
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


def shown(times: np.ndarray) -> str:
    """Median and p99."""
    return f"p50 {np.percentile(times, 50):.2f} p99 {np.percentile(times, 99):.2f} ms"


def change(index: LivingIndex, base: np.ndarray, gone: np.ndarray, new: np.ndarray) -> None:
    """Delete some rows and add others, in turn, and wait for what is sealed and merged."""
    for start in range(0, len(new), PIECE):
        part = slice(start, start + PIECE)
        index.delete(gone[part])
        index.add(base[new[part]], new[part])
    while index.stats()["maintenance"] != "idle":
        time.sleep(0.5)  # asked more often, it would slow down the searches


def main() -> None:
    """Print a line per round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    base, queries = read(options.data / "base.u8bin"), read(options.data / "query.u8bin")[:QUERIES]
    rng, alive, following = np.random.default_rng(0), np.arange(options.rows), options.rows
    if len(base) < options.rows + options.rounds * (options.rows // 10):
        parser.error(f"{len(base):,} rows are too few for so many rounds")
    with tempfile.TemporaryDirectory(prefix="churn-", dir=options.data) as folder:
        place, never = Path(folder) / "index", threading.Event()
        Index.build(base[alive], place)
        size = size_of(place)

        def recall(of: Index | LivingIndex) -> float:
            truth = exact_search(as_source(base[alive]), queries, K, "l2")[0]
            return recall_at_k(of.search(queries, K)[0], truth, K)

        with LivingIndex.open(place, durability="batch") as index:
            ask(index, queries, never, 300)
            idle = ask(index, queries, never, IDLE)
            print(f"idle: {shown(idle)}, recall {recall(index):.4f}", flush=True)
            for number in range(options.rounds):
                gone = rng.choice(alive, options.rows // 10, replace=False)
                new = np.arange(following, following + len(gone))
                stop, during = threading.Event(), list[np.ndarray]()
                searcher = threading.Thread(target=lambda: during.append(ask(index, queries, stop)))  # noqa: B023
                searcher.start()
                change(index, base, gone, new)
                stop.set()
                searcher.join()
                alive, following = np.sort(np.concatenate([np.setdiff1d(alive, gone), new])), following + len(new)
                ratio = np.percentile(during[0], 99) / np.percentile(idle, 99)
                print(
                    f"round {number}: {shown(during[0])}, {ratio:.2f} times idle; recall {recall(index):.4f}, size "
                    f"{size_of(place) / size:.2f}, segments {len(index.stats()['segments'])}",
                    flush=True,
                )
        fresh = Index.build(base[alive], Path(folder) / "fresh")
        print(f"a build of its own: recall {recall(fresh):.4f}")


if __name__ == "__main__":
    main()
