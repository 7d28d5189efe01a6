"""Filtered search: this package and its peers on the same vectors, attributes and queries, in one run.

    python benchmarks/search_filters.py --data DIR [--rows 200000] [--queries 500] [--json run.json]

DIR holds base.u8bin and query.u8bin, or .fbin, as benchmarks/README.md describes. Every vector gets a number below
1,000 at random; a filter asks for numbers below 500, 100, 10 or 1: half, a tenth, a hundredth or a thousandth of the
rows. Recall@10 is against brute force over the rows that match, ties by distance. Each library runs in a process of its
own, tries its settings, and is shown with the fastest that reaches --recall, or else the one that comes nearest.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from search_peers import vectors
from search_peers.environments import interpreter
from search_peers.vectors import Vectors

K, KINDS = 10, 1000
BELOW = (500, 100, 10, 1)  # of KINDS
BLOCK = 100_000
SLOW_SECONDS = 20.0  # a setting slower than that is the last one tried with that filter
THREADS = 2
Ids = NDArray[np.generic]


class Tenfold:
    """An index that takes updates, with a column; vectors on disk, or in memory."""

    requirements: tuple[str, ...] = ()
    settings = tuple({"recall": recall} for recall in (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99))
    io = "auto"

    def build(self, base: Vectors, kinds: Ids, folder: Path) -> None:
        """Add, and make one segment."""
        from tenfold.search import LivingIndex  # noqa: PLC0415 - other libraries' environments have no tenfold

        made = LivingIndex.create(
            folder / "index", base.shape[1], dtype=base.dtype, columns={"kind": "int"}, durability="none"
        )
        with made as index:
            for start in range(0, len(base), BLOCK):
                part = slice(start, start + BLOCK)
                index.add(base[part], np.arange(len(base))[part], {"kind": kinds[part].tolist()})
            index.compact()

    def open(self, folder: Path) -> None:
        """For reading."""
        from tenfold.search import LivingIndex  # noqa: PLC0415

        self._index = LivingIndex.open(folder / "index", read_only=True, io=self.io)  # type: ignore[arg-type]

    def search(self, queries: Vectors, below: int, setting: dict[str, Any]) -> Ids:
        """Ids (q, K), -1 where there are fewer."""
        wanted = {"kind": {"$lt": below}}
        return self._index.search(queries, K, recall=setting["recall"], filter=wanted, threads=THREADS)[1]


class TenfoldInMemory(Tenfold):
    """The same with `io="memory"`."""

    io = "memory"


class Hnswlib:
    """A graph that asks a Python function whether a row may be found; with one thread, as its authors advise."""

    requirements = ("hnswlib==0.8.0", "numpy==2.4.6")
    settings = tuple({"ef": ef} for ef in (10, 20, 40, 80, 160, 320, 640, 1280, 5000))

    def build(self, base: Vectors, kinds: Ids, folder: Path) -> None:
        """M 16, efConstruction 200."""
        import hnswlib  # noqa: PLC0415

        index = hnswlib.Index("l2", base.shape[1])
        index.init_index(len(base), M=16, ef_construction=200, random_seed=100)
        for start in range(0, len(base), BLOCK):
            index.add_items(base[start : start + BLOCK].astype(np.float32), num_threads=THREADS)
        index.save_index(str(folder / "hnsw.index"))
        np.save(folder / "kinds.npy", kinds)
        (folder / "dims.txt").write_text(str(base.shape[1]))

    def open(self, folder: Path) -> None:
        """Into memory."""
        import hnswlib  # noqa: PLC0415

        self._index = hnswlib.Index("l2", int((folder / "dims.txt").read_text()))
        self._index.load_index(str(folder / "hnsw.index"))
        self._kinds = np.load(folder / "kinds.npy")

    def search(self, queries: Vectors, below: int, setting: dict[str, Any]) -> Ids:
        """As above; -1 throughout where it finds fewer than K, which it refuses to return."""
        self._index.set_ef(setting["ef"])
        allowed = (self._kinds < below).tolist()
        found = np.full((len(queries), K), -1, np.int64)
        for number, query in enumerate(queries.astype(np.float32)):
            try:
                found[number] = self._index.knn_query(query, K, num_threads=1, filter=allowed.__getitem__)[0]
            except RuntimeError:
                continue
        return found


class Usearch:
    """A graph without filters in Python: more is asked for, and what does not match is dropped."""

    requirements = ("usearch==2.26.6", "numpy==2.4.6")
    settings = tuple({"more": more} for more in (1.0, 1.5, 2.0, 3.0, 5.0))

    def build(self, base: Vectors, kinds: Ids, folder: Path) -> None:
        """M 16, expansion 128; bytes shifted to int8, floats in half precision."""
        from usearch.index import Index  # noqa: PLC0415

        dtype = "i8" if base.dtype == np.uint8 else "f16"
        index = Index(ndim=base.shape[1], metric="l2sq", dtype=dtype, connectivity=16, expansion_add=128)
        for start in range(0, len(base), BLOCK):
            block = self._typed(base[start : start + BLOCK])
            index.add(np.arange(start, start + len(block)), block, threads=THREADS)
        index.save(str(folder / "usearch.index"))
        np.save(folder / "kinds.npy", kinds)

    def open(self, folder: Path) -> None:
        """Into memory."""
        from usearch.index import Index  # noqa: PLC0415

        self._index = Index.restore(str(folder / "usearch.index"))
        self._kinds = np.load(folder / "kinds.npy")

    def search(self, queries: Vectors, below: int, setting: dict[str, Any]) -> Ids:
        """As above."""
        count = min(len(self._kinds), int(K * KINDS / below * setting["more"]))
        self._index.expansion_search = max(64, count)
        near = self._index.search(self._typed(queries), count, threads=THREADS).keys.reshape(len(queries), count)
        near = near.astype(np.int64)
        matches = self._kinds[near] < below
        found = np.full((len(queries), K), -1, np.int64)
        for number in range(len(queries)):
            some = near[number, matches[number]][:K]
            found[number, : len(some)] = some
        return found

    def _typed(self, rows: Vectors) -> Ids:
        return (rows.astype(np.int16) - 128).astype(np.int8) if rows.dtype == np.uint8 else rows.astype(np.float16)


class LanceDb:
    """An inverted file of product codes on disk, and a B-tree over the column."""

    requirements = ("lancedb==0.40.0", "numpy==2.4.6")
    settings = tuple({"nprobes": p, "refine_factor": f} for p in (4, 8, 16, 32, 64, 128, 256) for f in (4, 10))

    def build(self, base: Vectors, kinds: Ids, folder: Path) -> None:
        """About a list per 256 rows, codes of a quarter of the dimension."""
        import lancedb  # noqa: PLC0415
        import pyarrow  # noqa: PLC0415
        from lancedb.index import BTree, IvfPq  # noqa: PLC0415

        values = pyarrow.array(base.astype(np.float32).reshape(-1))
        columns = {"vector": pyarrow.FixedSizeListArray.from_arrays(values, base.shape[1]), "kind": kinds}
        table = lancedb.connect(folder).create_table("vectors", pyarrow.table(columns))
        table.create_index("vector", config=IvfPq(num_partitions=len(base) // 256, num_sub_vectors=base.shape[1] // 4))
        table.create_index("kind", config=BTree())

    def open(self, folder: Path) -> None:
        """The table."""
        import lancedb  # noqa: PLC0415

        self._table = lancedb.connect(folder).open_table("vectors")

    def search(self, queries: Vectors, below: int, setting: dict[str, Any]) -> Ids:
        """As above, one query at a time: batches with a filter are refused by some versions."""
        found = np.full((len(queries), K), -1, np.int64)
        for number, query in enumerate(queries.astype(np.float32)):
            asked = self._table.search(query).where(f"kind < {below}", prefilter=True).select(["_distance"]).limit(K)
            rows = (
                asked.with_row_id(True).nprobes(setting["nprobes"]).refine_factor(setting["refine_factor"]).to_arrow()
            )
            found[number, : len(rows)] = rows["_rowid"].to_numpy()
        return found


PEERS: dict[str, Any] = {
    "tenfold": Tenfold, "tenfold-memory": TenfoldInMemory, "lancedb": LanceDb, "hnswlib": Hnswlib, "usearch": Usearch,
}  # fmt: skip


def work(name: str, folder: Path, base_path: Path, query_path: Path, queries: int) -> None:
    """The work of one library: a JSON line on stdout for the build and for each setting tried."""
    peer, base = PEERS[name](), vectors.mapped(base_path)
    asked = vectors.loaded(query_path)[:queries]
    if not (folder / "built").exists():
        folder.mkdir(parents=True, exist_ok=True)
        peer.build(base, kinds_of(len(base)), folder)
        (folder / "built").touch()
    peer.open(folder)
    for below in BELOW:
        for setting in peer.settings:
            peer.search(asked[:20], below, setting)
            start = time.perf_counter()
            found = peer.search(asked, below, setting)
            seconds = time.perf_counter() - start
            print(
                json.dumps({"below": below, "setting": setting, "qps": queries / seconds, "ids": found.tolist()}),
                flush=True,
            )
            if seconds > SLOW_SECONDS:
                break


def kinds_of(rows: int) -> Ids:
    """The number of each row."""
    return np.random.default_rng(0).integers(0, KINDS, rows)


def main() -> None:
    """Run every peer and print what came of it."""
    options = parse()
    if options.worker:
        work(options.worker, options.folder, options.data, options.queries_path, options.queries)
        return
    from tenfold.core.reports import Table  # noqa: PLC0415
    from tenfold.search import as_source, exact_search  # noqa: PLC0415

    base_path, query_path, folder = prepare(options)
    base, asked = vectors.loaded(base_path), vectors.loaded(query_path)[: options.queries]
    kinds = kinds_of(len(base))
    limits = {
        below: exact_search(as_source(np.ascontiguousarray(base[kinds < below])), asked, K)[0][:, -1] for below in BELOW
    }
    rows: list[list[Any]] = []
    for name in options.peers:
        for below, one in best_of(
            run(name, folder, base_path, query_path, len(asked)), base, asked, limits, options.recall
        ):
            rows.append([name, f"{100 * below / KINDS:g} %", one["recall"], one["qps"], json.dumps(one["setting"])])
    header = ["library", "rows that match", f"recall@{K}", "queries per second", "setting"]
    notes = [
        f"{THREADS} threads; hnswlib and lancedb one query at a time; the fastest setting with recall {options.recall}"
    ]
    table = Table(f"{base_path.name}: {len(base):,} vectors, {len(asked):,} queries", header, rows, notes)
    table.print()
    if options.json:
        options.json.write_text(json.dumps(table.to_json()))


def parse() -> argparse.Namespace:
    """The command line; --worker and what stands behind it are for the processes of the libraries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--work", type=Path, default=Path("build/bench-filters"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--queries-path", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The files of base and queries, and a folder for the indexes of that base."""
    suffix = next((suffix for suffix in vectors.DTYPES if (options.data / f"base{suffix}").exists()), None)
    if suffix is None:
        raise SystemExit(f"{options.data}: holds neither base.u8bin nor base.fbin; see benchmarks/README.md")
    base = vectors.mapped(options.data / f"base{suffix}")
    folder = options.work / f"{options.data.resolve().name}-{min(options.rows, len(base))}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"base{suffix}"
    if not path.exists():
        vectors.write(path, base[: options.rows])
    return path, options.data / f"query{suffix}", folder


def run(name: str, folder: Path, base: Path, queries: Path, count: int) -> list[dict[str, Any]]:
    """What a library answered, in a process of its own; nothing where it fails, which its last line on stderr says."""
    try:
        python = interpreter(PEERS[name].requirements, folder.parent)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return []
    own = folder / name.removesuffix("-memory")
    words = [python, __file__, "--worker", name, "--folder", own, "--data", base, "--queries-path", queries]
    print(f"{name} ...", file=sys.stderr, flush=True)
    done = subprocess.run([*map(str, words), "--queries", str(count)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['ended without a word'])[-1]}", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"below"')]


def best_of(
    tried: list[dict[str, Any]], base: Vectors, asked: Vectors, limits: dict[int, Ids], wanted: float
) -> list[tuple[int, dict[str, Any]]]:
    """By filter, the fastest setting that reaches the recall, or the one that comes nearest."""
    for one in tried:
        one["recall"] = recall(np.array(one.pop("ids")), one["below"], base, asked, limits[one["below"]])
    best = []
    for below in BELOW:
        some = [one for one in tried if one["below"] == below]
        good = [one for one in some if one["recall"] >= wanted]
        if some:
            best.append(
                (below, max(good, key=lambda one: one["qps"]) if good else max(some, key=lambda one: one["recall"]))
            )
    return best


def recall(ids: Ids, below: int, base: Vectors, asked: Vectors, limit: Ids) -> float:
    """Share of K answers that match the filter and are as near as the true tenth of those that do."""
    ids = np.sort(ids, axis=1)
    known = (ids >= 0) & (kinds_of(len(base))[ids] < below)
    known[:, 1:] &= ids[:, 1:] != ids[:, :-1]  # an id given twice counts once
    away = base[np.where(known, ids, 0)].astype(np.float64) - asked[:, None].astype(np.float64)
    return float((known & (np.einsum("qkd,qkd->qk", away, away) <= limit[:, None] * (1 + 1e-5))).mean())


if __name__ == "__main__":
    main()
