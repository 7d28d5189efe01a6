"""The plots beside the result page: what each library gives at each recall, from all settings that were tried."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

Result = dict[str, Any]
Front = list[tuple[float, float]]
"""Points (recall, figure), rising in recall."""

LOWEST_RECALL = 0.8
# Okabe and Ito's colours, told apart by colour-blind people too; a library keeps its colour in all its configurations.
COLOURS = {
    "tenfold": "#000000",
    "diskann": "#D55E00",
    "lancedb": "#E69F00",
    "faiss": "#0072B2",
    "scann": "#009E73",
    "hnswlib": "#CC79A7",
    "usearch": "#56B4E9",
    "svs": "#888888",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw(results: Result, page: Path) -> dict[str, Path]:
    """Write the drawings beside `page`; return them by what they show. Same results, same bytes."""
    peers: dict[str, Result] = results["peers"]
    disk = {name: peer for name, peer in peers.items() if peer["on_disk"]}
    wanted = {"Queries per second at each recall": ("qps", "queries per second", peers)}
    if disk:
        wanted["4 KiB reads per query at each recall, from disk"] = ("pages", "4 KiB reads per query", disk)
    drawings = {}
    for title, (figure, label, shown) in wanted.items():
        fronts = {name: front(peer["trials"], figure, figure == "qps") for name, peer in shown.items()}
        path = page.with_name(f"{page.stem}-{figure}.svg")
        path.write_text(_svg(fronts, label, {name for name, peer in peers.items() if not peer["on_disk"]}))
        drawings[title] = path
    return drawings


def front(trials: Sequence[Result], figure: str, high_wins: bool) -> Front:
    """Return the trials that no other beats in both recall and `figure`; zeros, without a logarithm, are left out."""
    kept: Front = []
    for trial in sorted(trials, key=lambda one: (-one["recall"], -one[figure] if high_wins else one[figure])):
        value = trial[figure]
        is_better = not kept or (value > kept[-1][1] if high_wins else value < kept[-1][1])
        if is_better and value > 0 and trial["recall"] >= LOWEST_RECALL:
            kept.append((trial["recall"], value))
    return kept[::-1]


def _svg(fronts: dict[str, Front], label: str, dashed: set[str]) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "tenfold", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        axes = figure.add_subplot()
        for name, points in fronts.items():
            if points:
                _line(axes, name, points, name in dashed)
        axes.set(xlabel="recall@10", ylabel=label, xlim=(LOWEST_RECALL, 1.002), yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", lw=0.6)
        figure.legend(loc="outside lower center", ncols=4, frameon=False, handlelength=3, fontsize=9)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"


def _line(axes: Axes, name: str, points: Front, is_dashed: bool) -> None:
    library = name.partition("-")[0]
    number = sum(str(line.get_label()).partition("-")[0] == library for line in axes.lines)
    axes.plot(
        *zip(*points, strict=True),
        color=COLOURS[library],
        ls="--" if is_dashed else "-",
        lw=2.2 if library == "tenfold" else 1.2,
        marker=MARKERS[number],
        ms=3.5,
        label=name,
    )
