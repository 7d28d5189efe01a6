"""The result page: absolute figures, then ratios against Tenfold; the winner of each column in bold."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Value = Callable[[Result, Result], float | None]
"""Takes a peer's result and its part for one recall; None if that was not measured."""

OURS, OURS_IN_MEMORY = "tenfold", "tenfold-memory"
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of the tables at one recall.

    Attributes:
        title: Heading with unit.
        value: The figure.
        digits: Digits after the point.
        high_wins: Whether more is better.
        disk_only: Whether peers that hold all vectors in memory are left out.
        spread: The figure's smallest and largest value, for columns that were repeated.
    """

    title: str
    value: Value
    digits: int = 0
    high_wins: bool = False
    disk_only: bool = False
    spread: Callable[[Result], tuple[float, float]] | None = None

    def read(self, peer: Result, part: Result | None) -> float | None:
        """Return the figure of one peer."""
        if part is None or (self.disk_only and not peer["on_disk"]):
            return None
        return self.value(peer, part)

    def winner(self, values: Iterable[float | None]) -> float | None:
        """Return the best of the figures; None if there are fewer than two to compare."""
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return None
        return max(known) if self.high_wins else min(known)


def _single(name: str) -> Value:
    return lambda _, part: part["single"][name] if part["single"] else None


AT_RECALL = (
    Column(
        "QPS",
        lambda _, part: statistics.median(part["qps"]),
        high_wins=True,
        spread=lambda part: (min(part["qps"]), max(part["qps"])),
    ),
    Column("p50 µs", _single("p50_us")),
    Column("p99 µs", _single("p99_us")),
    Column("CPU µs/query", lambda _, part: part["cpu_us"]),
    Column("pages/query, batch", lambda _, part: part["pages"], 1, disk_only=True),
    Column("pages/query, single", _single("pages"), 1, disk_only=True),
)
ONCE = (
    Column("RAM MB", lambda peer, _: peer["rss_growth"] / 1e6),
    Column("RAM peak MB", lambda peer, _: _scaled(peer["peak_rss_growth"], 1e-6)),
    Column("disk MB", lambda peer, _: peer["build"]["disk_bytes"] / 1e6),
    Column("build s", lambda peer, _: peer["build"]["seconds"]),
    Column("build CPU s", lambda peer, _: peer["build"]["cpu_seconds"]),
    Column("build RAM peak MB", lambda peer, _: peer["build"]["peak_rss_growth"] / 1e6),
)


def markdown(results: Result) -> str:
    """Return the page for what a run of the harness measured."""
    peers: dict[str, Result] = results["peers"]
    targets: list[str] = results["work"]["targets"]
    sections = [
        "# Vector search beside other libraries",
        "Made by `benchmarks/search.py`; do not edit. How it measures: `benchmarks/README.md`.",
        _circumstances(results),
        "**Bold** is the best of a column. – is not reached or not measured. Libraries that hold all vectors in "
        "memory read no pages and stand outside those columns.",
    ]
    for target in targets:
        rows = {name: (peer, peer["targets"].get(target)) for name, peer in peers.items()}
        sections += [f"## recall@10 ≥ {target}", _absolute(rows, AT_RECALL)]
    whole = {name: (peer, peer) for name, peer in peers.items()}
    sections += ["## Memory, disk, build", _absolute(whole, ONCE)]
    if OURS in peers:
        sections += _ratio_sections(peers, targets)
        sections += ["## What `recall=` gives", _asked(peers[OURS])]
    sections += ["## Settings", _settings(peers, targets), "## The disk during this run", _disk(results)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _circumstances(results: Result) -> str:
    work, machine = results["work"], results["machine"]
    lines = [
        f"Work: {work['rows']:,} base vectors of {work['dims']} dimensions (SIFT, uint8, squared L2), "
        f"{work['queries']:,} queries that are not in the base, k = 10. Recall counts ties by exact distance.",
        f"Machine: {machine['processor']} (family/model {machine['family_model']}; "
        f"{', '.join(machine['simd']) or 'no SIMD named'}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB memory, {machine['system']}, indexes on {work['filesystem']}.",
        f"Load average at the start {machine['load'][0]}: near 0 nobody else used the machine.",
        f"Date {results['date']}, {work['repeats']} repeats turn by turn (QPS: median, smallest..largest), "
        f"took {results['seconds'] / 60:.0f} minutes without what was built before.",
        "Seeds: hnswlib 100, disk probe 0; the others as their libraries set them.",
        *(f"Not measured: {reason}" for reason in results["failures"]),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _absolute(rows: Mapping[str, tuple[Result, Result | None]], columns: Sequence[Column]) -> str:
    with_recall = columns is AT_RECALL
    header = ["library", *(["recall"] if with_recall else []), *(column.title for column in columns)]
    best = {column.title: column.winner(column.read(*row) for row in rows.values()) for column in columns}
    lines = []
    for peer, part in rows.values():
        recall = [_number(part["recall"] if part else None, 4)] if with_recall else []
        cells = [_absolute_cell(column, peer, part, best[column.title]) for column in columns]
        lines.append([peer["title"], *recall, *cells])
    return _table(header, lines)


def _absolute_cell(column: Column, peer: Result, part: Result | None, best: float | None) -> str:
    value = column.read(peer, part)
    text = _bold(_number(value, column.digits), value is not None and value == best)
    if value is None or column.spread is None or part is None:
        return text
    low, high = column.spread(part)
    return f"{text} ({_number(low, column.digits)}..{_number(high, column.digits)})"


def _ratio_sections(peers: dict[str, Result], targets: Sequence[str]) -> list[str]:
    sections = [
        "## Ratios against Tenfold",
        "How many times better Tenfold is: above 1 Tenfold wins, below 1 the library in that row does (bold). "
        "Libraries that read vectors from disk are compared with Tenfold doing so, the others with Tenfold's vectors "
        "in memory.",
    ]
    for target in targets:
        rows = {name: (peer, peer["targets"].get(target)) for name, peer in peers.items()}
        sections += [f"recall@10 ≥ {target}:", _ratios(rows, AT_RECALL)]
    return [*sections, "At every recall:", _ratios({name: (peer, peer) for name, peer in peers.items()}, ONCE)]


def _ratios(rows: Mapping[str, tuple[Result, Result | None]], columns: Sequence[Column]) -> str:
    lines = []
    for name, (peer, part) in rows.items():
        if name in (OURS, OURS_IN_MEMORY):
            continue
        ours = rows[OURS] if peer["on_disk"] else rows.get(OURS_IN_MEMORY, rows[OURS])
        ratios = [_ratio(column, column.read(*ours), column.read(peer, part)) for column in columns]
        cells = [_bold(_number(ratio, 2), ratio is not None and ratio < 1) for ratio in ratios]
        lines.append([peer["title"], *cells])
    return _table(["Tenfold against", *(column.title for column in columns)], lines)


def _ratio(column: Column, ours: float | None, theirs: float | None) -> float | None:
    """Return how many times better ours is."""
    above, below = (ours, theirs) if column.high_wins else (theirs, ours)
    return above / below if above is not None and below else None


def _asked(ours: Result) -> str:
    note = (
        "The tables above tune Tenfold's `recall` like any other library's parameter, to what just reaches the recall. "
        "This is what a person gets who asks for the recall itself. Pages are counted by the kernel and by Tenfold."
    )
    rows = [
        [
            _number(float(asked), 2),
            _number(part["recall"], 4),
            _number(part["qps"], 0),
            _number(part["pages"], 1),
            _number(part["own_pages"], 1),
        ]
        for asked, part in ours["asked"].items()
    ]
    return f"{note}\n\n" + _table(["recall asked for", "measured", "QPS", "pages/query", "by its own count"], rows)


def _settings(peers: dict[str, Result], targets: Sequence[str]) -> str:
    def setting(part: Result | None) -> str:
        return ", ".join(f"{name} {value}" for name, value in part["setting"].items()) if part else MISSING

    lines = []
    for peer in peers.values():
        versions = peer["versions"]
        chosen = [setting(peer["targets"].get(target)) for target in targets]
        lines.append([peer["title"], f"{versions['version']}, numpy {versions['numpy']}", *chosen])
    note = "The fastest setting of each library that reaches the recall on these queries, found by the harness."
    return f"{note}\n\n" + _table(["library", "version", *(f"at {target}" for target in targets)], lines)


def _disk(results: Result) -> str:
    note = (
        "Random 4 KiB reads with O_DIRECT on the index files just searched, in this run: the disk at its warmest "
        "(a host may cache what the guest does not). Disk figures above hold in this regime."
    )
    rows = [[probe["when"], probe["file"], str(probe["depth"]), _number(probe["iops"], 0)] for probe in results["disk"]]
    return f"{note}\n\n" + _table(["when", "file of", "in flight", "reads/s"], rows) if rows else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text
