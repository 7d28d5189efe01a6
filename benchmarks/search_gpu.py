"""The scan on an NVIDIA GPU against the CPU: same answers? how fast? In one run, without a network.

    python benchmarks/search_gpu.py --out build/gpu [--data DIR] [--rows 1000000 10000000]
    TRITON_INTERPRET=1 python benchmarks/search_gpu.py --out build/gpu --interpret

DIR holds base.u8bin and query.u8bin; without it clustered vectors of 128 bytes are made (seed 0). Every size
is measured step by step while --limit seconds allow; results are written after each: search_gpu.md and .json.
--interpret runs every step on a few vectors in Triton's interpreter; its times mean nothing.
"""

import argparse
import importlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from search_peers import machine
from search_peers.vectors import mapped

from tenfold.core.errors import InputError
from tenfold.core.reports import Table
from tenfold.search import Index, as_source, exact_search, recall_at_k

DIM, LATENT, K = 128, 24, 10
LEVELS = (0.9, 0.95, 0.99)
SHAPES = ((32, 8, 1), (32, 16, 1), (32, 32, 1), (64, 32, 1), (64, 32, 2), (128, 32, 4))
FEW_CORES, ENOUGH_SECONDS = 2, 3.0
START = time.monotonic()


def main() -> None:
    """Measure every size that the time allows."""
    options = parse()
    if options.interpret and os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("--interpret wants TRITON_INTERPRET=1 in the environment")
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine.describe(), "versions": versions(), "sizes": []}
    results["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    there = len(mapped(options.data / "base.u8bin")) if options.data else max(options.rows)
    for rows in dict.fromkeys(min(rows, there) for rows in options.rows):
        try:
            measure(rows, options, results)
        except InputError as error:
            kept = [f"{size['rows']:,}" for size in results["sizes"] if "same" in size]
            where = f"; what was measured of {', '.join(kept)} is in {options.out / 'search_gpu.md'}" if kept else ""
            sys.exit(f"{rows:,} rows: {error}{where}")
    say(f"wrote {options.out / 'search_gpu.md'}" if results["sizes"] else "nothing measured: --limit is too short")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results, vectors and indexes")
    parser.add_argument("--data", type=Path, help="folder with base.u8bin and query.u8bin")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes, smallest first")
    parser.add_argument("--queries", type=int, default=10_000, help="queries of a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs; the median counts")
    parser.add_argument("--callers", type=int, default=64, help="threads that ask one query at a time")
    parser.add_argument("--limit", type=float, default=570, help="seconds for all")
    parser.add_argument("--interpret", action="store_true", help="a few vectors in Triton's interpreter")
    options = parser.parse_args()
    if options.interpret:
        options.rows, options.queries, options.repeats, options.callers = [1500, 3000], 12, 1, 4
    return options


def measure(rows: int, options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Everything about one size, step by step while time is left; results are written after every step."""
    size: dict[str, Any] = {"rows": rows, "data": str(options.data or "synthetic"), "seconds": {}, "left_out": []}

    def step(name: str, work: Callable[[], Any]) -> Any:
        if time.monotonic() - START + expected(name, rows, results["sizes"]) > options.limit:
            say(f"{rows:,} rows: {name} left out, the time is up")
            size["left_out"].append(name)
            return None
        begun = time.monotonic()
        answer = work()
        size["seconds"][name] = time.monotonic() - begun
        return answer

    prepared = step("index", lambda: prepare(rows, options, size))
    if prepared is None:
        return
    base, queries, cpu, gpu = prepared
    results.setdefault("card", card(options.interpret))
    results["sizes"].append(size)
    truth = step("truth", lambda: exact_search(as_source(base), queries[:1000], K, "l2")[0])
    steps: dict[str, Callable[[], Any]] = {
        "same": lambda: compare(cpu, gpu, queries[:512]),
        "scan": lambda: scans(cpu, gpu, queries, options),
        "search": lambda: searches(cpu.path, truth, queries, options),
        "callers": lambda: callers(cpu, gpu, queries, options),
        "kernels": lambda: kernel_seconds(gpu, queries, options.interpret),
        "peers": lambda: peers(base, truth, queries, options),
        "shapes": lambda: sweep(gpu, queries, options),
    }
    for name, work in steps.items():
        if truth is not None or name not in ("search", "peers"):
            size[name] = step(name, work)
        else:
            size["left_out"].append(name)
        (options.out / "search_gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "search_gpu.md").write_text(page(results))
    say(f"{rows:,} rows: {size['same']}")


def expected(name: str, rows: int, sizes: list[dict[str, Any]]) -> float:
    """Seconds of a step, from the size before; what goes through all vectors in proportion to their number."""
    before = next((size for size in reversed(sizes) if size["rows"] != rows and name in size["seconds"]), None)
    if before is None:
        return 0.0
    seconds: float = before["seconds"][name]
    return seconds * rows / before["rows"] if name in ("index", "truth", "peers") else seconds


def prepare(
    rows: int, options: argparse.Namespace, size: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, Index, Index]:
    """Vectors, queries, and their index, built where it is missing, on the CPU and on the GPU."""
    base, queries = vectors(rows, options)
    path = options.out / f"index-{len(base)}"
    size |= {"rows": len(base), "queries": len(queries)}
    if not (path / "manifest.json").exists():
        say(f"{len(base):,} rows: building")
        size["build_seconds"], _ = timed(lambda: Index.build(base, path, memory_budget="16GB"), 1)
    cpu = Index.open(path)
    size["open_seconds"], gpu = timed(lambda: Index.open(path, device="cuda"), 1)
    size |= {name: gpu.stats()[name] for name in ("lists", "code_bytes", "entries_per_row", "device", "device_bytes")}
    say(f"{len(base):,} rows: on {size['device']}, {size['device_bytes'] / 1e9:.2f} GB there")
    return base, queries, cpu, gpu


# --- work ---------------------------------------------------------------------------------------------------


def vectors(rows: int, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Base (rows, d) and queries uint8: given, or clustered ones in a space of fewer dimensions."""
    if options.data:
        base, queries = (mapped(options.data / name) for name in ("base.u8bin", "query.u8bin"))
        return base[:rows], np.ascontiguousarray(queries[: options.queries])
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(LATENT, DIM)).astype(np.float32) / np.sqrt(LATENT)
    centers = rng.normal(size=(max(10, rows // 1000), LATENT)).astype(np.float32) * 30

    def draw(count: int) -> np.ndarray:
        latent = centers[rng.integers(0, len(centers), count)]
        latent = latent + rng.normal(size=latent.shape).astype(np.float32) * 10
        noise = rng.normal(size=(count, DIM)).astype(np.float32) * 2
        return np.clip(latent @ axes + noise + 128, 0, 255).astype(np.uint8)

    base = np.empty((rows, DIM), np.uint8)
    for start in range(0, rows, 100_000):
        base[start : start + 100_000] = draw(min(100_000, rows - start))
    return base, draw(options.queries)


# --- measurements -------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds, and what the last run returned; fewer runs where they take long."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < repeats and sum(seconds) < ENOUGH_SECONDS):
        start = time.perf_counter()
        answer = work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), answer


def compare(cpu: Index, gpu: Index, queries: np.ndarray) -> dict[str, int]:
    """How many estimates and answers differ; zero is what must come out."""
    assert gpu.device is not None
    tuning = cpu.calibration.tuning(K, 0.95, cpu.lists, cpu.rows)
    probes, candidates = min(tuning.probes, cpu.lists), min(tuning.candidates, cpu.rows)
    space, threads = cpu.space.queries(queries).space, os.cpu_count() or 1
    expected = cpu.engine.scan(space, probes, candidates, threads)
    found = gpu.device.scan(space, probes, candidates, threads)
    surely = expected[1] < expected[1][:, -1:]  # the last among equals may be any
    answers = [index.search(queries, K, recall=0.95) for index in (cpu, gpu)]
    return {
        "estimates_differ": int((expected[1] != found[1]).sum()),
        "positions_differ": int((expected[0] != found[0])[surely].sum()),
        "ids_differ": int((answers[0][1] != answers[1][1]).sum()),
        "distances_differ": int((answers[0][0] != answers[1][0]).sum()),
        "compared": int(found[1].size),
    }


def scans(cpu: Index, gpu: Index, queries: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Codes per second of the scan alone: routing is timed apart and taken off. The bus is in the GPU's times."""
    space, threads, found = cpu.space.queries(queries).space, os.cpu_count() or 1, []
    assert gpu.device is not None
    for recall in LEVELS:
        tuning = cpu.calibration.tuning(K, recall, cpu.lists, cpu.rows)
        probes, candidates = min(tuning.probes, cpu.lists), min(tuning.candidates, cpu.rows)
        if options.interpret:
            probes = min(probes, 3)
        route, found_routes = timed(lambda p=probes: cpu.engine.itinerary(space, p, threads), options.repeats)  # type: ignore[misc]
        codes = int(found_routes[2][:, 1].sum())
        row: dict[str, Any] = {"recall": recall, "probes": probes, "candidates": candidates, "route_seconds": route}
        row["codes_per_query"] = codes / len(queries)
        for name, scan in (("cpu", cpu.engine.scan), ("gpu", gpu.device.scan)):
            whole, _ = timed(lambda s=scan, p=probes, c=candidates: s(space, p, c, threads), options.repeats)  # type: ignore[misc]
            row[f"{name}_codes_per_second"] = codes / max(1e-9, whole - route)
        found.append(row)
        say(f"  scan at {recall}: CPU {row['cpu_codes_per_second']:.3g}, GPU {row['gpu_codes_per_second']:.3g} codes/s")
    return found


def kernel_seconds(gpu: Index, queries: np.ndarray, interpret: bool) -> dict[str, Any]:
    """Seconds of each kernel for one pass over the queries, by torch's profiler; bytes of codes by the scan's."""
    import torch  # noqa: PLC0415 - reported as missing by then

    assert gpu.device is not None
    tuning = gpu.calibration.tuning(K, 0.95, gpu.lists, gpu.rows)
    probes, candidates = min(tuning.probes, gpu.lists, 3 if interpret else gpu.lists), min(tuning.candidates, gpu.rows)
    space, threads = gpu.space.queries(queries).space, os.cpu_count() or 1
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU if interpret else activity.CUDA]) as profile:
        gpu.device.scan(space, probes, candidates, threads)
    seconds = {
        event.key: 1e-6 * (event.cpu_time_total if interpret else event.device_time_total)
        for event in profile.key_averages()
    }
    codes = int(gpu.engine.itinerary(space, probes, threads)[2][:, 1].sum())
    largest = dict(sorted(seconds.items(), key=lambda item: -item[1])[:8])
    scan = sum(value for name, value in seconds.items() if name.startswith("_scan"))
    rate = codes * (gpu.stats()["code_bytes"] + 4) / scan / 1e9 if scan else None
    return {"seconds": largest, "codes": codes, "scan_gigabytes_per_second": rate}


def sweep(gpu: Index, queries: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a whole scan by shape of the kernel's steps."""
    kernels, space = importlib.import_module("tenfold.search.gpu_kernels"), gpu.space.queries(queries).space
    before, found = (kernels.ROWS, kernels.PAIRS, kernels.WARPS), []
    assert gpu.device is not None
    tuning = gpu.calibration.tuning(K, 0.95, gpu.lists, gpu.rows)
    probes, candidates = min(tuning.probes, gpu.lists, 3 if options.interpret else gpu.lists), tuning.candidates
    for shape in SHAPES[:2] if options.interpret else SHAPES:
        kernels.ROWS, kernels.PAIRS, kernels.WARPS = shape
        gpu.device.scan(space[:256], probes, candidates, 1)  # compiles
        seconds, _ = timed(lambda: gpu.device.scan(space, probes, candidates, os.cpu_count() or 1), options.repeats)  # type: ignore[union-attr]
        found.append({"rows": shape[0], "pairs": shape[1], "warps": shape[2], "seconds": seconds})
    kernels.ROWS, kernels.PAIRS, kernels.WARPS = before
    return found


def searches(path: Path, truth: np.ndarray, queries: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Queries per second of whole searches, vectors on disk and in memory, with all cores and with few."""
    found = []
    for io, threads in (("auto", os.cpu_count() or 1), ("memory", os.cpu_count() or 1), ("memory", FEW_CORES)):
        opened = {device: Index.open(path, io=io, device=device) for device in ("cpu", "cuda")}  # type: ignore[arg-type]
        for recall in LEVELS:
            row: dict[str, Any] = {"io": opened["cpu"].engine.backend, "threads": threads, "recall": recall}
            asked = queries if threads > FEW_CORES else queries[: max(len(queries) // 2, len(truth))]
            for device, index in opened.items():
                work = lambda i=index, r=recall: i.search(asked, K, recall=r, threads=threads)  # noqa: E731, B023
                seconds, (distances, _) = timed(work, options.repeats)
                row[f"{device}_qps"] = len(asked) / seconds
                row["reached"] = recall_at_k(distances[:1000], truth, K, "l2")
            row["cuda / cpu"] = row["cuda_qps"] / row["cpu_qps"]
            found.append(row)
            rates = f"CPU {row['cpu_qps']:,.0f}, GPU {row['cuda_qps']:,.0f} per second"
            say(f"  search {row['io']}, {threads} threads, {recall}: {rates}")
    return found


def callers(cpu: Index, gpu: Index, queries: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Many threads with one query each at a time: throughput and latency."""
    found = []
    for name, index in (("cpu", cpu), ("cuda", gpu)):
        seconds = np.zeros(len(queries))
        gate = threading.Barrier(options.callers + 1)

        def ask(first: int, index: Index = index, seconds: np.ndarray = seconds, gate: Any = gate) -> None:
            gate.wait()
            for number in range(first, len(queries), options.callers):
                start = time.perf_counter()
                index.search(queries[number : number + 1], K, recall=0.95, threads=1)
                seconds[number] = time.perf_counter() - start

        with ThreadPoolExecutor(options.callers) as pool:
            waiting = [pool.submit(ask, first) for first in range(options.callers)]
            gate.wait()
            start = time.perf_counter()
            for one in waiting:
                one.result()
            whole = time.perf_counter() - start
        p50, p99 = 1e3 * np.quantile(seconds, (0.5, 0.99))
        row = {"device": name, "threads": options.callers, "qps": len(queries) / whole}
        found.append(row | {"p50_ms": p50, "p99_ms": p99})
    return found


def peers(
    base: np.ndarray, truth: np.ndarray, queries: np.ndarray, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Everything in the GPU's memory: all distances by torch, and faiss and cuVS where they are installed."""
    found, asked = [], queries[: len(truth), None].astype(np.float32)
    for name, search in (("torch", torch_settings), ("faiss", faiss_settings), ("cuvs", cuvs_settings)):
        try:
            for setting, work in search(base, queries):
                seconds, ids = timed(work, options.repeats)
                apart = base[np.clip(ids[: len(truth)], 0, None)].astype(np.float32) - asked
                distances = np.sort((apart**2).sum(axis=2), axis=1)
                recall = recall_at_k(distances, truth, K, "l2")
                found.append({"peer": setting, "recall": recall, "qps": len(queries) / seconds})
                if recall >= max(LEVELS):
                    break
        except Exception as error:  # a library that is missing or fails is named and left out
            say(f"  {name}: left out ({' '.join(str(error).split())[:120]})")
    return found


def torch_settings(base: np.ndarray, queries: np.ndarray) -> Any:
    """Exact search: products of matrices. Of bytes they are exact in TF32, with float32 sums, too."""
    import torch  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    rows, asked = (torch.from_numpy(np.array(values)).to(device).float() for values in (base, queries))
    norms, batch = (rows**2).sum(dim=1), max(1, (4 << 30) // (4 * len(rows)))

    def search() -> np.ndarray:
        parts = (norms - 2 * (part @ rows.T) for part in asked.split(batch))
        return torch.cat([torch.topk(part, K, dim=1, largest=False).indices for part in parts]).cpu().numpy()

    yield f"torch {torch.__version__}, all distances", search


def faiss_settings(base: np.ndarray, queries: np.ndarray) -> Any:
    """IVF with whole vectors, by number of probes."""
    faiss = importlib.import_module("faiss")
    whole, lists = faiss.index_factory(base.shape[1], "IVF4096,Flat"), queries.astype(np.float32)
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, whole)
    index.train(base[:: max(1, len(base) // 300_000)].astype(np.float32))
    for start in range(0, len(base), 500_000):
        index.add(base[start : start + 500_000].astype(np.float32))
    for probes in (4, 8, 16, 32, 64, 128):
        index.nprobe = probes
        yield f"faiss {faiss.__version__} IVF4096,Flat nprobe {probes}", lambda: index.search(lists, K)[1]


def cuvs_settings(base: np.ndarray, queries: np.ndarray) -> Any:
    """CAGRA, by breadth of the search."""
    import torch  # noqa: PLC0415

    cuvs, cagra = importlib.import_module("cuvs"), importlib.import_module("cuvs.neighbors").cagra
    rows, asked = (torch.from_numpy(np.array(values, np.float32)).cuda() for values in (base, queries))
    index = cagra.build(cagra.IndexParams(), rows)
    for breadth in (16, 32, 64, 128, 256):
        options = cagra.SearchParams(itopk_size=breadth)
        yield (
            f"cuVS {cuvs.__version__} CAGRA itopk {breadth}",
            lambda options=options: cagra.search(options, index, asked, K)[1].copy_to_host().astype(np.int64),
        )


# --- what it was measured on --------------------------------------------------------------------------------


def card(interpret: bool) -> dict[str, Any]:
    """Name, memory and the bandwidth of copies within the card."""
    import torch  # noqa: PLC0415

    if interpret:
        return {"name": "none: Triton's interpreter", "memory_gb": 0.0, "copy_gigabytes_per_second": 0.0}
    about = torch.cuda.get_device_properties(0)
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda:0")
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(20):
            target.copy_(source)
        torch.cuda.synchronize()

    copy()
    seconds, _ = timed(copy, 3)
    return {
        "name": about.name,
        "memory_gb": about.total_memory / 1e9,
        "copy_gigabytes_per_second": 2 * 20 * source.numel() / seconds / 1e9,
        "cuda": torch.version.cuda,
    }


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {"python": sys.version.split()[0]}
    for name in ("tenfold", "numpy", "torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    named = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    about, cores = results["card"], results["machine"]["cores"]
    parts = [
        f"# The scan on a GPU\n\n{results['date']}; {about['name']}, {about['memory_gb']:.0f} GB, copies within it "
        f"{about['copy_gigabytes_per_second']:,.0f} GB/s; {results['machine']['processor']}, {cores} cores; {named}.\n"
    ]
    for size in results["sizes"]:
        parts.append(
            f"## {size['rows']:,} vectors ({size['data']}), {size['queries']:,} queries\n\n"
            f"{size['lists']:,} lists, {size['code_bytes']} bytes of code, {size['entries_per_row']:.2f} entries per "
            f"vector; {size['device_bytes'] / 1e9:.2f} GB on {size['device']}. " + " ".join(remarks(size)) + "\n"
        )
        titles = {
            "scan": "Scan alone",
            "search": "Whole searches",
            "callers": "One query at a time, many threads",
            "shapes": "Shapes of the scan kernel",
            "peers": "Other libraries, everything in GPU memory",
        }
        for name, title in titles.items():
            if size.get(name):
                rows = [list(row.values()) for row in size[name]]
                parts.append(Table(title, [key.replace("_", " ") for key in size[name][0]], rows).to_markdown())
        if size.get("kernels"):
            seconds = size["kernels"]["seconds"].items()
            kernels = [[re.split(r"[<(]", name.removeprefix("void "))[0], 1e3 * value] for name, value in seconds]
            parts.append(Table("Kernels, all queries once", ["kernel", "ms"], kernels).to_markdown())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def remarks(size: dict[str, Any]) -> list[str]:
    """What else there is to say of a size."""
    found = []
    if size.get("same"):
        found.append(f"Against the CPU: {', '.join(f'{name} {value:,}' for name, value in size['same'].items())}.")
    rate = size["kernels"]["scan_gigabytes_per_second"] if size.get("kernels") else None
    if rate is not None:
        found.append(f"The scan kernel reads {rate:,.1f} GB/s of codes.")
    if size["left_out"]:
        found.append(f"Left out, because the time was up: {', '.join(size['left_out'])}.")
    return found


def say(text: str) -> None:
    """Progress, at once."""
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
