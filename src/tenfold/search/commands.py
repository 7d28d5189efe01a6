"""The verbs of `tenfold search`."""

import json as json_format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Table
from tenfold.search.data import convert as convert_file
from tenfold.search.data import metric_of, open_vectors, read_ground_truth
from tenfold.search.evaluation import evaluate as evaluate_index
from tenfold.search.gpu import Device
from tenfold.search.index import Index, IoBackend, Rerank
from tenfold.search.living import LivingIndex, verify_living
from tenfold.search.planning import IndexPlan, parse_count, plan_index
from tenfold.search.serving import serve
from tenfold.search.sharding import ShardedIndex, build_shards, describe_shards
from tenfold.search.shards import is_sharded, verify_shards
from tenfold.search.snapshot import is_living
from tenfold.search.space import Dtype, Metric
from tenfold.search.updating import add, compact, create, delete, runbook
from tenfold.search.verifying import verify_index

__all__ = ["COMMANDS"]

Size = Annotated[str, tyro.conf.arg(metavar="SIZE")]
_MOST_QUERIES = 1_000_000
_BLOCK_QUERIES, _BLOCK_RESULTS = 10_000, 1 << 20  # that `query` holds at a time


def build(
    base: Path,
    index: Path,
    metric: Literal["auto", "l2", "ip", "cosine"] = "auto",
    memory_budget: Size = "1GB",
    codec: Literal["auto", "pq", "rabitq"] = "auto",
    code_bytes: int = 0,
    rows_per_list: int = 128,
    second_lists: bool = False,
    seed: int = 0,
    threads: int = 0,
    overwrite: bool = False,
    key: str = "",
    shards: int = 0,
    ray: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "",
    json: bool = False,
) -> None:
    """Build an index folder from a file of vectors.

    A build that was interrupted goes on where it stopped when the same command is given again.

    Example: tenfold search build base.fvecs my_index --metric l2 --memory-budget 512MB

    Args:
        base: File of vectors (fvecs, bvecs, fbin, u8bin, i8bin, f16bin, npy, npz, hdf5, parquet, text, ...).
        index: Folder to make.
        metric: How nearness is measured; auto takes what the file says (hdf5 may), else l2.
        memory_budget: What the whole process may hold while building.
        codec: Codes kept in memory; auto takes rabitq from dimension 256 on, else pq.
        code_bytes: Bytes of code per vector; 0 chooses by dimension.
        rows_per_list: Mean number of vectors per list.
        second_lists: A code of every vector in a second list too: faster in memory, for nearly twice the codes.
        seed: Makes the build repeatable.
        threads: 0 means all usable cores.
        overwrite: Replace an index that is already there.
        key: Data set, array or column in files that hold several.
        shards: Parts to divide the index into; 0 leaves it in one.
        ray: Ray cluster whose machines build the shards: HOST:PORT, auto (that of this machine), or local (one that
            is started here). Without it, this process builds one after the other.
        json: Print one JSON object instead of a table.
    """
    source = open_vectors(base, key=key or None)
    settings: dict[str, Any] = {
        "metric": metric_of(source) if metric == "auto" else metric,
        "codec": None if codec == "auto" else codec,
        "code_bytes": code_bytes or None,
        "memory_budget": memory_budget,
        "rows_per_list": rows_per_list,
        "second_lists": second_lists,
        "seed": seed,
        "threads": threads or None,
    }
    _check_sharding(index, shards, ray, overwrite)
    try:
        with progress_bar() as progress:
            if not shards:
                built = Index.build(source, index, overwrite=overwrite, progress=progress, **settings)
            else:
                build_shards(base, index, shards, ray=ray or None, key=key or None, progress=progress, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on behind the last finished phase") from None
    if shards:
        _print_shards(index, json)
    else:
        _print_info(built, json)


def _check_sharding(index: Path, shards: int, ray: str, overwrite: bool) -> None:
    """InputError for options that do not go together."""
    if ray and not shards:
        raise InputError(f"--ray {ray}: a cluster builds indexes in shards; say how many with --shards")
    if shards and overwrite:
        raise InputError(f"{index}: --overwrite does not go with --shards; remove what is there yourself")


def query(
    index: Path,
    queries: Path,
    k: int = 10,
    recall: float = 0.95,
    probes: int = 0,
    candidates: int = 0,
    filter: Annotated[str, tyro.conf.arg(metavar="JSON")] = "",
    rerank: Rerank = "bound",
    io: IoBackend = "auto",
    cache: Size = "0",
    device: Device = "cpu",
    threads: int = 0,
    key: str = "",
    json: bool = False,
) -> None:
    """Find the nearest vectors of every query.

    Prints one line per query: id and distance of its neighbours. With --json one object per line.

    Example: tenfold search query my_index queries.fvecs --k 10 --recall 0.95

    Args:
        index: Index folder.
        queries: File of query vectors.
        k: Neighbours per query.
        recall: Wanted share of true neighbours found; 1 searches everything.
        probes: Lists to scan, instead of what recall chooses; 0 leaves it to recall.
        candidates: Codes to keep for re-ranking; 0 leaves it to recall.
        filter: Of an index with attributes: find only vectors that match, such as '{"year": {"$gte": 2020}}'.
        rerank: When to stop reading vectors: bound, or the paper's rule.
        io: How pages are read from disk; memory reads all of them once, when the index is opened.
        cache: Memory for pages read lately, for each thread.
        device: What scans the codes: cpu, cuda (an NVIDIA GPU), or auto.
        threads: 0 means all usable cores.
        key: Data set, array or column in files that hold several.
        json: Print JSON lines instead of text.
    """
    if is_sharded(index) and not filter and device != "cuda":
        opened: Index | LivingIndex | ShardedIndex = ShardedIndex.open(index, io=io, cache=cache)
        chosen: dict[str, Any] = {}
    else:
        opened = _open(index, io, cache, device)
        chosen = _filter_of(opened, filter)
    source = open_vectors(queries, key=key or None)
    number = 0
    width = min(k, max(1, opened.rows))  # there are no further neighbours
    for block in source.blocks(max(1, min(_BLOCK_QUERIES, _BLOCK_RESULTS // max(1, width)))):
        distances, ids = opened.search(
            block,
            width,
            recall=recall,
            probes=probes or None,
            candidates=candidates or None,
            rerank=rerank,
            threads=threads or None,
            **chosen,
        )[:2]
        for row in range(len(block)):
            _print_neighbours(number, distances[row], ids[row], json)
            number += 1


def evaluate(
    index: Path,
    queries: Path,
    truth: Annotated[Path | None, tyro.conf.Positional] = None,
    k: int = 10,
    recall: float = 0.95,
    probes: int = 0,
    candidates: int = 0,
    rerank: Rerank = "bound",
    io: IoBackend = "auto",
    cache: Size = "0",
    device: Device = "cpu",
    threads: int = 0,
    key: str = "",
    json: bool = False,
) -> None:
    """Measure recall, throughput, latency, pages read and memory.

    Without TRUTH, exact search over the index makes it.

    Example: tenfold search evaluate my_index queries.fvecs truth.bin --k 10 --recall 0.95 --json

    Args:
        index: Index folder.
        queries: File of query vectors.
        truth: Ground truth: true ids and, where the format has them, distances.
        k: Neighbours per query.
        recall: Wanted share of true neighbours found; 1 searches everything.
        probes: Lists to scan, instead of what recall chooses; 0 leaves it to recall.
        candidates: Codes to keep for re-ranking; 0 leaves it to recall.
        rerank: When to stop reading vectors: bound, or the paper's rule.
        io: How pages are read from disk; memory reads all of them once, when the index is opened.
        cache: Memory for pages read lately, for each thread.
        device: What scans the codes: cpu, cuda (an NVIDIA GPU), or auto.
        threads: 0 means all usable cores.
        key: Data set, array or column of QUERIES.
        json: Print one JSON object instead of a table.
    """
    opened = _open(index, io, cache, device)
    rows = _read_queries(queries, key)
    true_distances = None if truth is None else _true_distances(opened, rows, truth, k)
    with progress_bar() as progress:
        result = evaluate_index(
            opened,
            rows,
            true_distances,
            k,
            recall=recall,
            probes=probes or None,
            candidates=candidates or None,
            rerank=rerank,
            threads=threads or None,
            progress=progress,
        )
    if json:
        print(json_format.dumps(result.to_json()))
        return
    facts = [
        [f"recall@{k}", f"{result.recall:.4f}"],
        ["queries per second", f"{result.qps:,.0f} ({result.threads} threads)"],
        ["latency p50 / p99", f"{result.latency_ms['p50']:.2f} / {result.latency_ms['p99']:.2f} ms"],
        ["pages read per query", f"{result.pages_per_query:.1f}"],
        ["candidates per query", f"{result.candidates_per_query:.1f}"],
        ["memory of the process", _size(result.rss_bytes)],
        ["index on disk", _size(result.index_bytes)],
        ["I/O back end, SIMD", f"{result.io_backend}, {result.simd}"],
    ]
    Table(f"{index}: {result.queries:,} queries", ["what", "measured"], facts).print()


def info(index: Path, json: bool = False) -> None:
    """Say what an index holds, how large it is, and what its recall settings are.

    Example: tenfold search info my_index

    Args:
        index: Index folder.
        json: Print one JSON object instead of a table.
    """
    if is_sharded(index):
        _print_shards(index, json)
    else:
        _print_info(_open(index), json)


def verify(index: Path, json: bool = False) -> None:
    """Compare every byte of an index with its checksums; exit status 1 if anything is damaged.

    Example: tenfold search verify my_index

    Args:
        index: Index folder.
        json: Print one JSON object instead of lines.
    """
    check = verify_living if is_living(index) else verify_shards if is_sharded(index) else verify_index
    damaged = check(index)
    if json:
        print(json_format.dumps({"ok": not damaged, "damaged": damaged}))
    else:
        print("\n".join(damaged) or f"{index}: every checksum holds")
    if damaged:
        raise SystemExit(1)


def tune(
    index: Path,
    queries: Annotated[Path | None, tyro.conf.Positional] = None,
    threads: int = 0,
    key: str = "",
    json: bool = False,
) -> None:
    """Measure anew which settings reach which recall, best with real queries, and keep the result.

    Example: tenfold search tune my_index queries.fvecs

    Args:
        index: Index folder.
        queries: A few hundred typical queries; default: rows of the index itself.
        threads: 0 means all usable cores.
        key: Data set, array or column of QUERIES.
        json: Print one JSON object instead of a table.
    """
    opened = LivingIndex.open(index) if is_living(index) else Index.open(index)
    rows = None if queries is None else _read_queries(queries, key)
    with progress_bar() as progress:
        opened.calibrate(rows, threads=threads or None, progress=progress)
    _print_info(opened, json)


def convert(a: Path, b: Path, key: str = "", overwrite: bool = False) -> None:
    """Write vectors from one format to another, chosen by suffix; no value may change.

    Example: tenfold search convert sift.hdf5 sift.fvecs --key train

    Args:
        a: File to read.
        b: File to write.
        key: Data set, array or column in files that hold several.
        overwrite: Replace B if it is there.
    """
    with progress_bar() as progress:
        convert_file(
            a, b, key=key or None, overwrite=overwrite, progress=lambda done, rows: progress("convert", done, rows)
        )


def plan(
    rows: Annotated[str, tyro.conf.arg(metavar="COUNT")] = "1M",
    dim: int = 128,
    dtype: Dtype = "uint8",
    metric: Metric = "l2",
    memory_budget: Annotated[str, tyro.conf.arg(metavar="auto|SIZE")] = "auto",
    codec: Literal["auto", "pq", "rabitq"] = "auto",
    code_bytes: int = 0,
    rows_per_list: int = 128,
    second_lists: bool = False,
    entries_per_row: float = 0.0,
    recall: float = 0.95,
    reads_per_second: Annotated[str, tyro.conf.arg(metavar="COUNT")] = "500k",
    cores: int = 0,
    json: bool = False,
) -> None:
    """Say what an index would take before it is built: memory, disk, time, page reads.

    Nothing is read or written. Sizes are computed, the rest is estimated from measurements on SIFT vectors.

    Example: tenfold search plan --rows 1e9 --dim 128 --dtype uint8

    Args:
        rows: Number of vectors, such as 20000, 1e9 or 100M.
        dim: Their dimension.
        dtype: Their type.
        metric: How nearness is measured.
        memory_budget: What the build may hold; auto is 1GB, doubled until codes of full length fit.
        codec: Codes kept in memory; auto takes rabitq from dimension 256 on, else pq.
        code_bytes: Bytes of code per vector; 0 chooses by dimension.
        rows_per_list: Mean number of vectors per list.
        second_lists: A code of every vector in a second list too.
        entries_per_row: List entries per vector, as `info` says of an index over some of them; 0: as of SIFT.
        recall: Wanted recall@10, 0.9 to 0.99.
        reads_per_second: Random reads that the disk can do in a second.
        cores: Cores of the machine that builds; 0 means all usable cores here.
        json: Print one JSON object instead of a table.
    """
    planned = plan_index(
        parse_count(rows),
        dim,
        dtype,
        metric=metric,
        codec=None if codec == "auto" else codec,
        code_bytes=code_bytes or None,
        memory_budget=None if memory_budget == "auto" else memory_budget,
        rows_per_list=rows_per_list,
        second_lists=second_lists,
        entries_per_row=entries_per_row or None,
        recall=recall,
        reads_per_second=parse_count(reads_per_second),
        cores=cores or None,
    )
    if json:
        print(json_format.dumps(planned.to_json()))
    else:
        _print_plan(planned)


COMMANDS: dict[str, Callable[..., None]] = {
    "build": build,
    "create": create,
    "add": add,
    "delete": delete,
    "compact": compact,
    "query": query,
    "evaluate": evaluate,
    "info": info,
    "verify": verify,
    "tune": tune,
    "convert": convert,
    "plan": plan,
    "serve": serve,
    "runbook": runbook,
}


def _open(path: Path, io: IoBackend = "auto", cache: Size = "0", device: Device = "cpu") -> Index | LivingIndex:
    """An index to look into, of either kind."""
    if not is_living(path):
        return Index.open(path, io=io, cache=cache, device=device)
    if device == "cuda":
        raise InputError(f"{path}: takes updates, and such indexes are searched on the CPU; leave out --device")
    return LivingIndex.open(path, read_only=True, io=io, cache=cache)


def _filter_of(index: Index | LivingIndex, text: str) -> dict[str, Any]:
    """The argument of `search` that a filter makes."""
    if not text:
        return {}
    if isinstance(index, Index):
        raise InputError(f"{index.path}: has no attributes, so nothing can be filtered; `create --columns` makes some")
    try:
        return {"filter": json_format.loads(text)}
    except (ValueError, RecursionError) as error:
        raise InputError(f"--filter is no JSON: {error}") from None


def _read_queries(path: Path, key: str) -> np.ndarray:
    source = open_vectors(path, key=key or None)
    if not 1 <= source.rows <= _MOST_QUERIES:
        raise InputError(f"{path}: holds {source.rows:,} queries; give 1 to {_MOST_QUERIES:,}")
    return np.concatenate(list(source.blocks(source.rows)))


def _true_distances(index: Index | LivingIndex, queries: np.ndarray, path: Path, k: int) -> np.ndarray:
    """Distances of the true neighbours, computed from the ids: the file may have none, or in another measure."""
    truth, needed = read_ground_truth(path), min(k, max(1, index.rows))
    if truth.ids.shape[0] != len(queries) or truth.ids.shape[1] < needed:
        raise InputError(
            f"{path}: has {truth.ids.shape[1]} neighbours of {truth.ids.shape[0]:,} queries; "
            f"{needed} of {len(queries):,} are needed"
        )
    ids = truth.ids[:, :needed]
    if isinstance(index, LivingIndex):
        return index.distances_to(queries, ids)
    return index.stored.distances_to(queries, ids, index.metric)


def _print_neighbours(number: int, distances: np.ndarray, ids: np.ndarray, json: bool) -> None:
    found = np.isfinite(distances)
    if json:
        pairs = {"query": number, "ids": ids[found].tolist(), "distances": distances[found].tolist()}
        sys.stdout.write(json_format.dumps(pairs) + "\n")
    else:
        shown = "  ".join(f"{i}:{d:.6g}" for i, d in zip(ids[found], distances[found], strict=True))
        sys.stdout.write(f"{number}\t{shown}\n")


def _print_info(index: Index | LivingIndex, json: bool) -> None:
    stats: dict[str, Any] = index.stats()
    if json:
        print(json_format.dumps(stats))
        return
    if isinstance(index, LivingIndex):
        _print_living(stats)
        return
    facts = [
        ["vectors", f"{stats['rows']:,} x {stats['dim']} {stats['dtype']}, metric {stats['metric']}"],
        ["lists", f"{stats['lists']:,}, {stats['entries_per_row']:.2f} entries per vector"],
        ["codes", f"{stats['codec']}, {stats['code_bytes']} bytes per vector"],
        ["vectors alone", _size(stats["vector_bytes"])],
        ["index on disk", _size(stats["index_bytes"])],
        ["needed in memory", _size(stats["memory_bytes"])],
        ["I/O back end, SIMD", f"{stats['io_backend']}, {stats['simd']}"],
    ]
    for level, probes, candidates, z, *margin in stats["calibration"]["levels"].get("10", []):
        lists = f"probes {probes:,}" + "".join(f" (margin {most:.2f})" for most in margin)
        facts.append([f"recall@10 {level:g}", f"{lists}, candidates {candidates:,}, z {z:.2f}"])
    Table(stats["path"], ["what", "value"], facts).print()


def _print_living(stats: dict[str, Any]) -> None:
    facts = [
        ["vectors", f"{stats['rows']:,} x {stats['dim']} {stats['dtype']}, metric {stats['metric']}"],
        ["not sealed yet", f"{stats['rows_in_memory']:,}"],
        ["index on disk", _size(stats["index_bytes"])],
        ["needed in memory", _size(stats["memory_bytes"])],
        ["I/O back end, SIMD", f"{stats['io_backend']}, {stats['simd']}"],
        *([f"  {s['folder']}", f"{s['rows']:,} vectors, {s['deleted']:,} deleted"] for s in stats["segments"]),
    ]
    Table(f"{stats['path']}, takes updates", ["what", "value"], facts).print()


def _print_shards(path: Path, json: bool) -> None:
    stats = describe_shards(path)
    if json:
        print(json_format.dumps(stats))
        return
    facts = [
        ["vectors", f"{stats['rows']:,} x {stats['dim']} {stats['dtype']}, metric {stats['metric']}"],
        ["index on disk", _size(stats["index_bytes"])],
        *([f"  {shard['shard']}", f"{shard['rows']:,} vectors"] for shard in stats["shards"]),
    ]
    Table(f"{path}, in shards", ["what", "value"], facts).print()


def _print_plan(plan: IndexPlan) -> None:
    facts = [
        ["vectors alone", _size(plan.vector_bytes)],
        ["index on disk", _size(plan.index_bytes)],
        *([f"  {name}", _size(size)] for name, size in plan.files.items()),
        ["codes", f"{plan.codec}, {plan.code_bytes} bytes, {plan.entries_per_row:.2f} entries per vector (estimate)"],
        ["lists", f"{plan.lists:,} (estimate)"],
        ["needed in memory", _size(plan.memory_bytes)],
        ["with the vectors in memory", _size(plan.memory_bytes_with_vectors)],
        ["on a GPU, at least", _size(plan.device_bytes)],
        ["memory to build with", _size(plan.memory_budget)],
        ["disk while building", _size(plan.build_disk_bytes)],
        [f"hours to build, {plan.cores} cores", f"{plan.build_hours:.2g} (estimate)"],
        [f"pages per query, recall@10 {plan.recall:g}", f"{plan.pages_per_query:.1f} (estimate)"],
        [
            f"queries per second, {plan.reads_per_second:,} reads per second",
            f"{plan.most_queries_per_second:,.0f} at most",
        ],
    ]
    Table(f"{plan.rows:,} x {plan.dim} {plan.dtype}, metric {plan.metric}", ["what", "plan"], facts).print()


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MB"
