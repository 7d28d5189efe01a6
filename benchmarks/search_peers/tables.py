"""Tables of figures and of ratios, in Markdown; the winners in bold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
Value = Callable[[Result, Result], float | None]
"""Takes a peer's result and its part for one recall; None if that was not measured."""
Rows = Mapping[str, tuple[Result, Result | None]]
"""By name, a peer's result and its part."""

OURS = "tenfold"
OURS_FROM_DISK = (OURS, "tenfold-small", "tenfold-large")
OURS_IN_MEMORY = ("tenfold-memory", "tenfold-memory-second")
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes:
        title: Heading with unit.
        value: The figure.
        digits: Digits after the point.
        high_wins: Whether more is better.
        compared: Whether the figure is a library's merit: its best is bold and it has ratios.
        disk_only: Whether peers that hold all vectors in memory are left out.
        spread: The figure's smallest and largest value, for columns that were repeated.
    """

    title: str
    value: Value
    digits: int = 0
    high_wins: bool = False
    compared: bool = True
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
        if len(known) < 2 or not self.compared:
            return None
        return max(known) if self.high_wins else min(known)


def absolute(rows: Rows, columns: Sequence[Column]) -> str:
    """Return the figures; the best of the libraries on disk and the best of those in memory are bold."""
    groups = {on_disk: [row for row in rows.values() if row[0]["on_disk"] is on_disk] for on_disk in (True, False)}
    best = {
        (column.title, on_disk): column.winner(column.read(*row) for row in group)
        for column in columns
        for on_disk, group in groups.items()
    }
    lines = [
        [peer["title"], *(_cell(column, peer, part, best[column.title, peer["on_disk"]]) for column in columns)]
        for peer, part in rows.values()
    ]
    return table(["library", *(column.title for column in columns)], lines)


def _cell(column: Column, peer: Result, part: Result | None, best: float | None) -> str:
    value = column.read(peer, part)
    text = bold(number(value, column.digits), value is not None and value == best)
    if value is None or column.spread is None or part is None:
        return text
    low, high = column.spread(part)
    return f"{text} ({number(low, column.digits)}..{number(high, column.digits)})"


def ratios(parts: Sequence[Rows], columns: Sequence[Column]) -> str:
    """Return how many times better Tenfold is; a cell has one ratio for each of `parts`, bold where it is below 1."""
    compared = [column for column in columns if column.compared]
    lines = []
    for name, (peer, _) in parts[0].items():
        if name not in (*OURS_FROM_DISK, *OURS_IN_MEMORY):
            pair = [_rival(peer, parts[0])[0]["title"], peer["title"]]
            lines.append([*pair, *(_ratio_cell(column, name, parts) for column in compared)])
    return table(["what", "against", *(column.title for column in compared)], lines)


def _ratio_cell(column: Column, name: str, parts: Sequence[Rows]) -> str:
    cells = [_ratio(column, name, rows) for rows in parts]
    return MISSING if set(cells) == {MISSING} else " / ".join(cells)


def _ratio(column: Column, name: str, rows: Rows) -> str:
    peer, part = rows[name]
    theirs, mine = column.read(peer, part), column.read(*_rival(peer, rows))
    above, below = (mine, theirs) if column.high_wins else (theirs, mine)
    ratio = above / below if above is not None and below else None
    return bold(number(ratio, 1 if ratio and ratio >= 10 else 2), ratio is not None and ratio < 1)


def _rival(peer: Result, rows: Rows) -> tuple[Result, Result | None]:
    """Return which of Tenfold's configurations a peer is compared with.

    Of those from disk, or those in memory, the largest that takes no more than a tenth more memory than the peer, or
    else the smallest.
    """
    alike = OURS_FROM_DISK if peer["on_disk"] else OURS_IN_MEMORY
    mine = [rows[name] for name in alike if name in rows] or [rows[OURS]]
    there = sorted(mine, key=lambda row: row[0]["rss_growth"])
    return [there[0], *(row for row in there if row[0]["rss_growth"] <= 1.1 * peer["rss_growth"])][-1]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def number(value: float | None, digits: int = 0) -> str:
    """Write a figure, or a dash."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def bold(text: str, is_bold: bool) -> str:
    """Write in bold, perhaps."""
    return f"**{text}**" if is_bold else text
