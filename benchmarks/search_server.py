"""The server under load, beside the same index in the same process: many clients, one query at a time each.

    python benchmarks/search_server.py --data DIR [--clients 64] [--seconds 60] [--rows 100000]

DIR holds base.* and query.* of one format, and perhaps about.json, as benchmarks/README.md describes. The index is
built in --work once and served read-only by `tenfold search serve`, on loopback. The clients are threads of a process
of its own with plain sockets: they send requests made beforehand and look only at the status and the number of results,
so that most of the time of the machine is the server's. Batches of the size that the server gathered on average are
also searched for without a server, one after the other.
"""

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from search_peers import machine

from tenfold.core.progress import no_progress
from tenfold.core.reports import Table
from tenfold.search import Index
from tenfold.search.bodies import NPY, pack, unpack
from tenfold.search.workload import Workload, load_workload

MOST_QUERIES = 10_000
IN_PROCESS_SECONDS = 10.0


def main() -> None:
    """Build, serve, load, compare."""
    options = parse()
    if options.load:
        print(json.dumps(load(options)))
        return
    work = load_workload(options.data, options.rows, MOST_QUERIES, no_progress)
    folder = options.work / f"server-{work.name}-{work.base.rows}"
    index = Index.open(folder) if folder.exists() else Index.build(work.base, folder, metric=work.metric)
    np.save(options.work / "queries.npy", work.queries)
    measured = {kind: serve_and_load(kind, folder, options) for kind in options.formats}
    batches = sorted({1, options.clients, *(round(found["batch"]) for found in measured.values())})
    alone = {size: search_in_process(index, work, size, options) for size in batches}
    results = {"machine": machine.describe(), "rows": work.base.rows, "server": measured, "in_process": alone}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    show(measured, alone, work, options)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required="--load" not in sys.argv, help="folder with base.* and query.*")
    parser.add_argument("--rows", type=int, help="only the first so many base vectors")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, for each format")
    parser.add_argument("--formats", nargs="+", choices=["json", "npy"], default=["json", "npy"])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="the index and its queries, kept")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--load", nargs=2, metavar=("URL", "FORMAT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def serve_and_load(kind: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start the server and the clients; what the clients saw, and the server's mean batch."""
    command = [sys.executable, "-m", "tenfold", "search", "serve", str(folder), "--read-only", "--port", "0"]
    log = (options.work / "server.log").open("w+")
    with log, subprocess.Popen(command, stderr=log) as server:
        try:
            url = wait_for(server, Path(log.name))
            passed_on = ["--work", options.work, "--clients", options.clients, "--seconds", options.seconds]
            passed_on += ["--k", options.k, "--recall", options.recall]
            load_by = [sys.executable, __file__, "--load", f"{url}/v1/indexes/{folder.name}/search", kind]
            found: dict[str, Any] = json.loads(subprocess.check_output([*load_by, *map(str, passed_on)]))
            metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    queries, batches = (read_metric(metrics, f"tenfold_{name}_total") for name in ("queries", "batches"))
    failed = len(re.findall(r'status="[45]\d\d"', metrics))
    return found | {"batch": queries / batches, "errors": found["errors"] + failed}


def wait_for(server: subprocess.Popen[bytes], log: Path) -> str:
    """The server's URL, once it listens."""
    while not (said := re.search(r"^tenfold: serving .* at (http://\S+)$", log.read_text(), re.MULTILINE)):
        if server.poll() is not None:
            sys.exit(f"the server did not start: {log.read_text()}")
        time.sleep(0.05)
    return said[1]


def read_metric(text: str, name: str) -> float:
    """The value of a metric with one sample."""
    found = re.search(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])


def load(options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: all clients, for the given time."""
    queries = np.load(options.work / "queries.npy")
    requests = make_requests(queries, options)
    deadline = time.perf_counter() + options.seconds
    times: list[list[float]] = [[] for _ in range(options.clients)]
    errors: list[str] = []
    threads = [
        threading.Thread(target=be_client, args=[number, requests, deadline, times[number], errors, options])
        for number in range(options.clients)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, all_times = time.perf_counter() - start, np.concatenate([np.array(some) for some in times])
    p50, p99 = np.percentile(all_times, [50, 99]) * 1000
    return {"qps": len(all_times) / seconds, "p50": p50, "p99": p99, "errors": len(errors), "error": errors[:1]}


def make_requests(queries: np.ndarray, options: argparse.Namespace) -> list[bytes]:
    """A request per query, ready to be sent."""
    url, kind = options.load
    host, _, path = url.removeprefix("http://").partition("/")
    requests = []
    for query in queries:
        if kind == "npy":
            target, media, body = f"/{path}?k={options.k}&recall={options.recall}", NPY, pack(query[None])
        else:
            fields = {"queries": [query.tolist()], "k": options.k, "recall": options.recall}
            target, media, body = f"/{path}", "application/json", json.dumps(fields).encode()
        head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media}\r\nAccept: {media}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


def be_client(
    number: int, requests: list[bytes], deadline: float, times: list[float], errors: list[str],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Ask one query after the other until time is up, each client beginning at another."""
    host, _, _ = options.load[0].removeprefix("http://").partition("/")
    address, at = host.split(":"), number * len(requests) // options.clients
    try:
        with socket.create_connection((address[0], int(address[1])), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (start := time.perf_counter()) < deadline:
                connection.sendall(requests[at % len(requests)])
                head, body = receive(connection)
                times.append(time.perf_counter() - start)
                found = (
                    unpack(body)[1].shape[1] if options.load[1] == "npy" else body.count(b",", body.index(b'"ids"')) + 1
                )
                if not head.startswith(b"HTTP/1.1 200 ") or found != options.k:
                    raise ValueError(f"answered {head[:40]!r} with {found} results")
                at += 1
    except (OSError, ValueError) as error:
        errors.append(str(error))


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an answer."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += more(connection)
    length = re.search(rb"content-length: (\d+)", data[:end], re.IGNORECASE)
    size = end + 4 + int(length[1] if length else 0)
    while len(data) < size:
        data += more(connection)
    return data[:end], data[end + 4 :]


def more(connection: socket.socket) -> bytes:
    """The next bytes, one at least."""
    piece = connection.recv(1 << 16)
    if not piece:
        raise OSError("the server closed the connection")
    return piece


def search_in_process(index: Index, work: Workload, size: int, options: argparse.Namespace) -> dict[str, float]:
    """The same queries in batches of one size, one batch after the other, without a server."""
    times: list[float] = []
    begun, at = time.perf_counter(), 0
    while time.perf_counter() - begun < min(options.seconds, IN_PROCESS_SECONDS):
        some = np.take(work.queries, np.arange(at, at + size), axis=0, mode="wrap")
        start = time.perf_counter()
        index.search(some, options.k, recall=options.recall)
        times.append(time.perf_counter() - start)
        at += size
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"qps": size * len(times) / sum(times), "p50": p50, "p99": p99}


def show(
    measured: dict[str, dict[str, Any]], alone: dict[int, dict[str, float]], work: Workload, options: argparse.Namespace
) -> None:
    """Print the table."""
    rows: list[list[str | float | int | None]] = [
        [
            f"server, {options.clients} clients, {kind}",
            found["batch"],
            found["qps"],
            found["p50"],
            found["p99"],
            found["errors"],
        ]
        for kind, found in measured.items()
    ]
    rows += [
        [f"in process, batches of {size}", size, one["qps"], one["p50"], one["p99"], None]
        for size, one in alone.items()
    ]
    name = (
        f"{work.name}: {work.base.rows:,} x {work.base.dim} {work.base.dtype}, k {options.k}, recall {options.recall}"
    )
    facts = machine.describe()
    notes = [f"{facts['processor']}, {facts['cores']} cores for server and clients; {options.seconds:g} s of load each"]
    Table(name, ["what", "mean batch", "queries/s", "p50 [ms]", "p99 [ms]", "errors"], rows, notes).print()
    for found in measured.values():
        for error in found["error"]:
            print("error:", error, file=sys.stderr)


if __name__ == "__main__":
    main()
