"""Tenfold and other vector-search libraries on the same work, in one run.

    python benchmarks/search.py --data DIR [--rows 50000] [--peers tenfold faiss] [--out PAGE]

DIR holds base.u8bin or base.fbin, query likewise, gt100.bin and perhaps about.json. Every library runs in
a process of its own, in an environment of its own, and is tuned over its own parameters.
`benchmarks/README.md` says more.
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

import numpy as np
from search_peers import disk, machine, measuring, plots, report, workload
from search_peers.building import Store, largest_file
from search_peers.catalogue import Kind, catalogue
from search_peers.peer import Peer
from search_peers.process import PeerError

TARGETS = (0.90, 0.95, 0.99)
PROBE_DEPTHS = (1, 32)


def main() -> None:
    """Parse, build what is missing, measure, write the page."""
    options = parse()
    if options.render:
        publish(json.loads(options.render.read_text()), options.out)
        return
    options.work = options.work.absolute()  # the libraries' processes run in it
    options.work.mkdir(parents=True, exist_ok=True)
    work = workload.load(options.data, options.work, options.rows)
    store = Store(options.work, work)
    peers = chosen(options, work)
    show_plan(peers, store, options)
    failures = build_all(peers, store, options)
    if options.build_only:
        return
    results = measure_all([peer for peer in peers if store.cost(peer)], store, options, failures)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    publish(results, options.out)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with base.u8bin or base.fbin, query, gt100.bin")
    parser.add_argument("--out", type=Path, help="the page (Markdown); without it, a file in --work called as DIR")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="environments and indexes, kept")
    parser.add_argument("--rows", type=int, help="only the first so many base vectors (their truth is computed)")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds, each of all libraries and recalls")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these: " + ", ".join(names()))
    parser.add_argument("--build-only", action="store_true", help="build what is missing, then stop")
    parser.add_argument("--rebuild", nargs="+", default=[], metavar="NAME", help="build these again")
    parser.add_argument("--tenfold-build", type=json.loads, default={}, metavar="JSON", help="for Index.build")
    parser.add_argument("--tenfold-open", type=json.loads, default={}, metavar="JSON", help="for Index.open")
    parser.add_argument("--render", type=Path, metavar="JSON", help="write the page of an earlier run again")
    options = parser.parse_args()
    if not options.data and not options.render:
        parser.error("--data DIR is missing; DIR holds base.u8bin or base.fbin, query likewise, and gt100.bin")
    unknown = {*(options.peers or []), *options.rebuild} - set(names())
    if unknown:
        parser.error(f"no library is called {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    options.out = options.out or options.work / f"{(options.render or options.data).resolve().stem}.md"
    return options


def names() -> list[str]:
    """Return what `--peers` knows; one of them is there from 256 dimensions on only."""
    return [peer.name for peer in catalogue(Kind(dims=256))]


def available(options: argparse.Namespace, work: workload.Workload) -> tuple[Peer, ...]:
    """Return all peers there are for this work."""
    rows, dims = work.base.shape
    return catalogue(
        Kind(
            rows=rows,
            dims=dims,
            is_bytes=work.base.dtype == np.uint8,
            metric=work.metric,
            tenfold_build=options.tenfold_build,
            tenfold_open=options.tenfold_open,
        )
    )


def chosen(options: argparse.Namespace, work: workload.Workload) -> list[Peer]:
    """Return the peers of this run."""
    peers = [peer for peer in available(options, work) if options.peers is None or peer.name in options.peers]
    absent = {*(options.peers or [])} - {peer.name for peer in peers}
    if absent:
        dims = work.base.shape[1]
        raise SystemExit(f"--peers {' '.join(sorted(absent))}: not there for {dims} dimensions; leave it out")
    return peers


def show_plan(peers: Sequence[Peer], store: Store, options: argparse.Namespace) -> None:
    """Say what will be built and measured, and about how long it takes."""
    total, planned = 0.0, set()
    say(f"plan for {len(store.workload.base):,} vectors, {len(store.workload.queries):,} queries:")
    for peer in peers:
        folder = store.folder(peer)
        ready = folder in planned or (store.cost(peer) is not None and peer.name not in options.rebuild)
        planned.add(folder)
        build = 0.0 if ready else peer.build_estimate
        measure = 0.0 if options.build_only else peer.measure_estimate
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
            failures.append(measuring.complain("not built", error))
    return failures


def measure_all(
    peers: Sequence[Peer], store: Store, options: argparse.Namespace, failures: list[str]
) -> dict[str, Any]:
    """Open, tune and measure all peers; return everything that is known about the run as JSON values."""
    start, work = time.perf_counter(), store.workload
    described, commit = machine.describe(), machine.commit()
    known = [peer.name for peer in available(options, work)]
    with ExitStack() as stack:
        contestants = enter_all(peers, store, stack, failures)
        probes = probe_disk("before the rounds", contestants, store)
        failures += measuring.rounds(contestants, work, TARGETS, options.repeats)
        probes += probe_disk("after the rounds", contestants, store)
    failures += measuring.cold(contestants, store, TARGETS)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": time.perf_counter() - start,
        "machine": described,
        "commit": commit,
        "work": {
            "name": work.name,
            "metric": work.metric,
            "dtype": work.base.dtype.name,
            "rows": len(work.base),
            "dims": work.base.shape[1],
            "queries": len(work.queries),
            "repeats": options.repeats,
            "targets": [f"{target:.2f}" for target in TARGETS],
            "filesystem": machine.filesystem(options.work),
        },
        "peers": {
            one.peer.name: one.result(store.cost(one.peer)) | {"disk_iops": most_reads(probes, one.peer.name)}
            for one in contestants
        },
        "disk": probes,
        "not_asked": [name for name in known if options.peers and name not in options.peers],
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
            failures.append(measuring.complain("not opened or tuned", error))
    return contestants


def probe_disk(when: str, contestants: Sequence[measuring.Contestant], store: Store) -> list[dict[str, Any]]:
    """Measure random reads on the files of the disk indexes; libraries that share an index share the figures."""
    folders: dict[Path, list[str]] = {}
    for one in contestants:
        if one.peer.on_disk:
            folders.setdefault(store.folder(one.peer), []).append(one.peer.name)
    return [
        {
            "when": when,
            "peers": peers,
            "iops": {depth: disk.random_read_iops(largest_file(folder), depth) for depth in PROBE_DEPTHS},
            "two_rounds_us": disk.two_round_micros(largest_file(folder)),
        }
        for folder, peers in folders.items()
    ]


def most_reads(probes: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the most random reads per second of the probes of this peer's file."""
    known = [probe["iops"][max(PROBE_DEPTHS)] for probe in probes if name in probe["peers"]]
    return max((iops for iops in known if iops is not None), default=None)


def publish(results: dict[str, Any], page: Path) -> None:
    """Write the page and its plots beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    drawings = plots.draw(results, page)
    page.write_text(report.markdown(results, drawings))
    say(f"wrote {', '.join(str(path) for path in (page, *drawings.values()))}")


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
