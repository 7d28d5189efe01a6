"""Tenfold and other vector-search libraries on the same work, in one run.

    python benchmarks/search.py --data DIR [--rows 50000] [--peers tenfold faiss]

DIR holds base.u8bin, query.u8bin and gt100.bin. Every library runs in a process of its own, in an
environment of its own, and is tuned over its own parameters. `benchmarks/README.md` says more.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search_peers import disk, machine, measuring, report, workload
from search_peers.building import Store, largest_file
from search_peers.catalogue import Peer, catalogue
from search_peers.process import PeerError

TARGETS = (0.90, 0.95, 0.99)
PROBE_DEPTHS = (1, 32)
MILLION = 1_000_000


def main() -> None:
    """Parse, build what is missing, measure, write the page."""
    options = parse()
    if options.render:
        options.out.write_text(report.markdown(json.loads(options.render.read_text())))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    work = workload.load(options.data, options.work, options.rows)
    store = Store(options.work, work)
    peers = chosen(options, len(work.base))
    show_plan(peers, store, options)
    failures = build_all(peers, store, options)
    if options.build_only:
        return
    results = measure_all([peer for peer in peers if store.cost(peer)], store, options, failures)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report.markdown(results))
    say(f"wrote {options.out}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with base.u8bin, query.u8bin, gt100.bin")
    parser.add_argument("--out", type=Path, default=Path("docs/results/search.md"), help="the page (Markdown)")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="environments and indexes, kept")
    parser.add_argument("--rows", type=int, help="only the first so many base vectors (their truth is computed)")
    parser.add_argument("--repeats", type=int, default=3, help="timed batches per library and recall")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these: " + ", ".join(names()))
    parser.add_argument("--build-only", action="store_true", help="build what is missing, then stop")
    parser.add_argument("--rebuild", nargs="+", default=[], metavar="NAME", help="build these again")
    parser.add_argument("--diskann-graph", nargs=2, type=int, default=(32, 64), metavar=("R", "L"))
    parser.add_argument("--tenfold-build", type=json.loads, default={}, metavar="JSON", help="for Index.build")
    parser.add_argument("--tenfold-open", type=json.loads, default={}, metavar="JSON", help="for Index.open")
    parser.add_argument("--render", type=Path, metavar="JSON", help="write the page of an earlier run again")
    options = parser.parse_args()
    if not options.data and not options.render:
        parser.error("--data DIR is missing; DIR holds base.u8bin, query.u8bin and gt100.bin")
    unknown = {*(options.peers or []), *options.rebuild} - set(names())
    if unknown:
        parser.error(f"no library is called {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    return options


def names() -> list[str]:
    """Return what `--peers` knows."""
    return [peer.name for peer in catalogue(MILLION, (32, 64), {}, {})]


def chosen(options: argparse.Namespace, rows: int) -> list[Peer]:
    """Return the peers of this run."""
    everything = catalogue(rows, tuple(options.diskann_graph), options.tenfold_build, options.tenfold_open)
    return [peer for peer in everything if options.peers is None or peer.name in options.peers]


def show_plan(peers: Sequence[Peer], store: Store, options: argparse.Namespace) -> None:
    """Say what will be built and measured, and about how long it takes."""
    scale, total, planned = len(store.workload.base) / MILLION, 0.0, set()
    say(f"plan for {len(store.workload.base):,} vectors, {len(store.workload.queries):,} queries:")
    for peer in peers:
        folder = store.folder(peer)
        ready = folder in planned or (store.cost(peer) is not None and peer.name not in options.rebuild)
        planned.add(folder)
        build = 0.0 if ready else peer.build_estimate * (0.1 + 0.9 * scale)
        measure = 0.0 if options.build_only else peer.measure_estimate * (0.3 + 0.7 * min(1.0, scale**0.3))
        total += build + measure
        say(f"  {peer.name:16} build {'kept' if ready else f'{build:.0f} s':>6}, measure {measure:4.0f} s")
    say(f"  together about {total / 60:.0f} minutes on two free cores")


def build_all(peers: Sequence[Peer], store: Store, options: argparse.Namespace) -> list[str]:
    """Build what is missing; return why what failed did."""
    failures, done = [], set()
    for peer in peers:
        folder = store.folder(peer)
        again = peer.name in options.rebuild and folder not in done
        done.add(folder)
        try:
            store.build(peer, again)
        except PeerError as error:
            failures.append(complain(error))
    return failures


def measure_all(
    peers: Sequence[Peer], store: Store, options: argparse.Namespace, failures: list[str]
) -> dict[str, Any]:
    """Open, tune and measure all peers; return everything that is known about the run as JSON values."""
    start, described = time.perf_counter(), machine.describe()
    with ExitStack() as stack:
        contestants = enter_all(peers, store, stack, failures)
        probes = probe_disk("before the rounds", contestants, store)
        failures += measuring.rounds(contestants, store.workload, TARGETS, options.repeats)
        probes += probe_disk("after the rounds", contestants, store)
        measured = {one.peer.name: one.result(store.cost(one.peer)) for one in contestants}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": time.perf_counter() - start,
        "machine": described,
        "work": {
            "rows": len(store.workload.base),
            "dims": store.workload.base.shape[1],
            "queries": len(store.workload.queries),
            "repeats": options.repeats,
            "targets": [f"{target:.2f}" for target in TARGETS],
            "filesystem": machine.filesystem(options.work),
        },
        "peers": measured,
        "disk": probes,
        "failures": failures,
    }


def enter_all(peers: Sequence[Peer], store: Store, stack: ExitStack, failures: list[str]) -> list[measuring.Contestant]:
    """Open and tune each peer; those that fail are left out."""
    contestants = []
    for peer in peers:
        try:
            contestant = measuring.Contestant.enter(peer, store)
            stack.callback(contestant.process.close)
            say(f"tuning {peer.title}")
            contestant.tune(store.workload, TARGETS)
            contestant.ask(store.workload, TARGETS)
            contestants.append(contestant)
        except PeerError as error:
            failures.append(complain(error))
    return contestants


def probe_disk(when: str, contestants: Sequence[measuring.Contestant], store: Store) -> list[dict[str, Any]]:
    """Measure random reads on the files of the disk indexes."""
    folders: dict[Path, str] = {}
    for one in contestants:
        if one.peer.on_disk:
            folders.setdefault(store.folder(one.peer), one.peer.name)
    return [
        {"when": when, "file": name, "depth": depth, "iops": disk.random_read_iops(largest_file(folder), depth)}
        for folder, name in folders.items()
        for depth in PROBE_DEPTHS
    ]


def complain(error: PeerError) -> str:
    """Show why a peer is left out, and return it for the page."""
    say(f"left out: {error}")
    return str(error)


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
