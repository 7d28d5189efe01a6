"""The result page: absolute figures, then ratios against Tenfold."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from search_peers.tables import (
    MISSING,
    OURS,
    OURS_FROM_DISK,
    OURS_IN_MEMORY,
    Column,
    Result,
    Rows,
    Value,
    absolute,
    number,
    ratios,
    table,
)

METRICS = {"l2": "squared L2", "cosine": "cosine of vectors of unit length"}


def _repeated(title: str, name: str, high_wins: bool = False) -> Column:
    """A figure of every round: the median, and the smallest and largest beside it."""
    return Column(
        title,
        lambda _, part: statistics.median(part[name]),
        high_wins=high_wins,
        spread=lambda part: (min(part[name]), max(part[name])),
    )


def _allowed(peer: Result, part: Result) -> float | None:
    """Return the disk's random reads per second by the reads of a query."""
    return peer["disk_iops"] / part["pages"] if peer["disk_iops"] and part["pages"] else None


def _scaled(name: str, factor: float) -> Value:
    return lambda _, part: None if part[name] is None else part[name] * factor


AT_RECALL = (
    Column("recall", lambda _, part: part["recall"], 4, compared=False),
    _repeated("QPS", "qps", high_wins=True),
    Column("disk allows", _allowed, compared=False, disk_only=True),
    _repeated("p50 µs", "p50_us"),
    _repeated("p99 µs", "p99_us"),
    Column("CPU µs/query", lambda _, part: part["cpu_us"]),
    Column("pages/query, batch", lambda _, part: part["pages"], 1, disk_only=True),
    Column("pages/query, single", lambda _, part: part["single_pages"], 1, disk_only=True),
)
ONCE = (
    Column("RAM MB", _scaled("rss_growth", 1e-6)),
    Column("RAM peak MB", _scaled("peak_rss_growth", 1e-6)),
    Column("disk MB", lambda peer, _: peer["build"]["disk_bytes"] / 1e6),
    Column("build s", lambda peer, _: peer["build"]["seconds"]),
    Column("build CPU s", lambda peer, _: peer["build"]["cpu_seconds"]),
    Column("build RAM peak MB", lambda peer, _: peer["build"]["peak_rss_growth"] / 1e6),
)
COLD = (
    Column("s to the first answer", _scaled("first_answer_seconds", 1), 3),
    Column("MB read until then", _scaled("first_answer_pages", 4096e-6), 1),
    Column("p50 µs", lambda _, part: part["p50_us"]),
    Column("p99 µs", lambda _, part: part["p99_us"]),
    Column("pages/query fetched, single", _scaled("pages", 1), 1, disk_only=True),
    Column("QPS, batch of 1,000", _scaled("qps", 1), high_wins=True),
)


def markdown(results: Result, drawings: Mapping[str, Path]) -> str:
    """Return the page for what a run of the harness measured; `drawings` lie beside it."""
    peers: dict[str, Result] = results["peers"]
    targets: list[str] = results["work"]["targets"]
    at = [{name: (peer, peer["targets"].get(target)) for name, peer in peers.items()} for target in targets]
    whole: Rows = {name: (peer, peer) for name, peer in peers.items()}
    sections = [
        f"# Vector search beside other libraries: {results['work']['name']}",
        "Made by `benchmarks/search.py`; do not edit. How it measures: `benchmarks/README.md`.",
        _circumstances(results),
        *(f"![{title}]({path.name})" for title, path in drawings.items()),
        "The plots show all settings that were tried while tuning and that no other beats; whole lines read vectors "
        "from disk, dashed ones hold them in memory. Names as in [Settings](#settings).",
        _how_to_read(peers),
    ]
    for target, rows in zip(targets, at, strict=True):
        sections += [f"## recall@10 ≥ {target}", absolute(rows, AT_RECALL)]
    sections += ["## Memory, disk, build", absolute(whole, ONCE), *_cold(at, targets)]
    if OURS in peers:
        sections += [*_ratio_sections(at, whole, targets), "## What `recall=` gives", _asked(peers[OURS])]
    sections += ["## Settings", _settings(peers, targets), *_disk(results["disk"])]
    return "\n\n".join(sections) + "\n"


def _circumstances(results: Result) -> str:
    work, machine = results["work"], results["machine"]
    lines = [
        f"Work: {work['name']}: {work['rows']:,} base vectors of {work['dims']} dimensions, {work['dtype']}, "
        f"{METRICS[work['metric']]}; {work['queries']:,} queries that are not in the base, k = 10. "
        "Recall counts ties by exact distance.",
        f"Machine: {machine['processor']} (family/model {machine['family_model']}; "
        f"{', '.join(machine['simd']) or 'no SIMD named'}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB memory, {machine['system']}, indexes on {work['filesystem']}.",
        f"Load average at the start {machine['load'][0]}: near 0 nobody else used the machine.",
        f"Date {results['date']}, {work['repeats']} rounds turn by turn (QPS, p50, p99: median, smallest..largest), "
        f"took {results['seconds'] / 60:.0f} minutes without what was built before.",
        f"Source tree: git {results['commit'] or 'unknown'}{_built(results['peers'])}; versions of all libraries in "
        "[Settings](#settings).",
        "Seeds: hnswlib 100, disk probes 0; the others as their libraries set them.",
        *([f"Not asked for in this run: {', '.join(results['not_asked'])}."] if results["not_asked"] else []),
        *(f"Incomplete, {reason}" for reason in results["failures"]),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _built(peers: Mapping[str, Result]) -> str:
    """Return from which commits Tenfold's indexes are, where it is known."""
    built = sorted(
        {
            peers[name]["build"].get("commit") or "unknown"
            for name in (*OURS_FROM_DISK, *OURS_IN_MEMORY)
            if name in peers
        }
    )
    return f", Tenfold's indexes built from {', '.join(built)}" if built else ""


def _how_to_read(peers: Mapping[str, Result]) -> str:
    cached = [name for name, peer in peers.items() if peer["reads_cached"]]
    through = f" Those of {', '.join(cached)} go through the system's page cache: what it asks for is counted."
    return (
        "**Bold** is the best of a column among the libraries that read vectors from disk, and among those that hold "
        "them in memory. – is not reached or not measured. Pages are reads of 4 KiB, counted by the kernel."
        + (through if cached else "")
        + " *disk allows*: the most queries per second that so many pages per query leave, from the disk's random "
        "reads with 32 in flight on that library's file in this run. More in flight, or neighbouring pages in one "
        "read, can exceed it."
    )


def _cold(at: Sequence[Rows], targets: Sequence[str]) -> list[str]:
    note = (
        "*Cold* is a new process, its libraries loaded, and an empty page cache: the system drops the index's files "
        "from its memory before the index is opened and one query answered, again before 1,000 single queries, and "
        "again before a batch of them. Each once for each recall. What a library has read into its own memory by then "
        "stays there: those that hold the vectors in memory have read everything with the first answer. A cache of "
        "the host's own, outside this machine, cannot be dropped, and the rounds have just read these files: a disk "
        "that nobody has read yet is slower."
    )
    sections = ["## Cold", note]
    for target, rows in zip(targets, at, strict=True):
        cold = {name: (peer, part["cold"] if part else None) for name, (peer, part) in rows.items()}
        sections += [f"At recall@10 ≥ {target}:", absolute(cold, COLD)]
    return sections


def _ratio_sections(at: Sequence[Rows], whole: Rows, targets: Sequence[str]) -> list[str]:
    return [
        "## Ratios against Tenfold",
        "How many times better Tenfold is: above 1 Tenfold wins, below 1 the library in that row does (bold). "
        "Libraries that read vectors from disk are compared with the largest Tenfold index, read from disk too, that "
        "takes no more than a tenth more memory than they do, the others likewise with Tenfold's vectors in memory.",
        f"At recall@10 {' / '.join(targets)}:",
        ratios(at, AT_RECALL),
        "At every recall:",
        ratios([whole], ONCE),
    ]


def _asked(ours: Result) -> str:
    note = (
        "The tables above tune Tenfold's `recall` like any other library's parameter, to what just reaches the recall. "
        "This is what a person gets who asks for the recall itself. Pages are counted by the kernel and by Tenfold."
    )
    digits = {"recall": 4, "qps": 0, "pages": 1, "own_pages": 1}
    rows = [
        [asked, *(number(part[name], count) for name, count in digits.items())] for asked, part in ours["asked"].items()
    ]
    return f"{note}\n\n" + table(["recall asked for", "measured", "QPS", "pages/query", "by its own count"], rows)


def _settings(peers: Mapping[str, Result], targets: Sequence[str]) -> str:
    def setting(part: Result | None) -> str:
        if part is None:
            return MISSING
        return ", ".join(
            f"{name} {value}{' (edge)' if name in part['edges'] else ''}" for name, value in part["setting"].items()
        )

    lines = []
    for name, peer in peers.items():
        versions = peer["versions"]
        chosen = [setting(peer["targets"].get(target)) for target in targets]
        lines.append([name, peer["title"], f"{versions['version']}, numpy {versions['numpy']}", *chosen])
    note = (
        "The fastest setting of each library that reaches the recall on these queries, found by the harness. "
        "*edge*: the smallest or largest value that was tried; one beyond might be faster."
    )
    return f"{note}\n\n" + table(["name", "library", "version", *(f"at {target}" for target in targets)], lines)


def _disk(probes: Sequence[Result]) -> list[str]:
    if not probes:
        return []
    note = (
        "Random 4 KiB reads with O_DIRECT on the index files just searched, in this run: the disk at its warmest "
        "(a host may cache what the guest does not). Disk figures above hold in this regime. *Two rounds*: five reads "
        "at once, and when all have come five others, without computing anything: the floor under every "
        "method that reads in two rounds."
    )
    depths = list(probes[0]["iops"])
    rows = []
    for probe in probes:
        iops = [number(probe["iops"][depth]) for depth in depths]
        rounds = [number(micros) for micros in probe["two_rounds_us"] or (None, None)]
        rows.append([probe["when"], ", ".join(probe["peers"]), *iops, *rounds])
    header = ["when", "file of", *(f"reads/s, {depth} in flight" for depth in depths)]
    return ["## The disk during this run", note, table([*header, "two rounds, p50 µs", "p99 µs"], rows)]
