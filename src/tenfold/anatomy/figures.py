"""Drawings of the report: effect sizes and volumes by region."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.plausibility import PLAUSIBLE, Plausibility, Region
from tenfold.anatomy.svg import COLOURS, REAL, Drawing, drawing, legend, shorten, text

__all__ = ["box_plots", "heat_map"]

_ROW, _LABEL, _CELL, _NARROWEST = 20, 210, 92, 560  # px
_STRONGEST = 1.5  # |d| of the full colour
_TOO_SMALL, _TOO_LARGE = (179, 88, 6), (33, 84, 140)
_WIDEST = 4.0  # real standard deviations that box plots show


def heat_map(found: Mapping[str, Plausibility]) -> Drawing:
    """A row per region, a column per generator: Cohen's d, and as colours too small and too large.

    The d of regions that are not plausible is bold; a frame says that the whole interval is beyond 0.5.
    """
    rows = _rows(found)
    width, height = max(_LABEL + _CELL * len(found) + 10, _NARROWEST), 66 + _ROW * len(rows) + 30
    parts = [
        text(_LABEL + _CELL * (i + 0.5), 16, shorten(name, 13), "middle", bold=True) for i, name in enumerate(found)
    ]
    for j, name in enumerate(rows):
        y = 26 + _ROW * j
        parts.append(text(_LABEL - 8, y + 14, name, "end"))
        for i, one in enumerate(found.values()):
            parts.append(_cell(_LABEL + _CELL * i, y, _row_of(one, name)))
    parts += _key(26 + _ROW * len(rows) + 14)
    return drawing("Cohen's d by region: real minus generated", width, height, parts)


def box_plots(found: Mapping[str, Plausibility]) -> Drawing:
    """Adjusted volumes by region, in standard deviations from the real mean: quartiles, and 5 % to 95 %."""
    shown = {name: one for name, one in found.items() if one.regions}
    regions = list(dict.fromkeys(region.name for one in shown.values() for region in one.regions))
    band = 10 * (len(shown) + 1) + 8
    width, left = 860, _LABEL
    scale = (width - left - 20) / (2 * _WIDEST)

    def at(value: float) -> float:
        return left + scale * (min(max(value, -_WIDEST), _WIDEST) + _WIDEST)

    parts = legend(["real", *shown], [REAL, *COLOURS], _LABEL)
    height = 34 + band * len(regions) + 34
    for tick in range(-4, 5):
        parts.append(f'<path d="M{at(tick):.1f} 30V{height - 30}" stroke="#{"999" if tick == 0 else "e4e4e4"}"/>')
        parts.append(text(at(tick), height - 14, f"{tick:+d}" if tick else "0", "middle"))
    for j, name in enumerate(regions):
        y = 34 + band * j
        parts.append(text(left - 8, y + band / 2 + 4, name, "end"))
        boxes = _standardised(shown, name)
        for k, (values, colour) in enumerate(zip(boxes, [REAL, *_repeat(len(boxes))], strict=False)):
            if len(values):
                parts += _box(
                    [at(q) for q in np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))], y + 4 + 10 * k, colour
                )
    return drawing("Volumes by region, in real standard deviations from the real mean", width, height, parts)


def _rows(found: Mapping[str, Plausibility]) -> list[str]:
    names = dict.fromkeys(region.name for one in found.values() for region in one.regions)
    heads = dict.fromkeys(one.icv.name for one in found.values() if one.icv is not None)
    return [*heads, *names]


def _row_of(one: Plausibility, name: str) -> Region | None:
    return next((region for region in (*one.regions, *([one.icv] if one.icv else [])) if region.name == name), None)


def _cell(x: float, y: float, region: Region | None) -> str:
    if region is None:
        return f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_ROW - 2}" fill="#f4f4f4"/>'
    d = region.d.value
    frame = ' stroke="#222" stroke-width="1.5"' if region.is_certainly_off else ""
    colour = _colour(d)
    dark = abs(d) > 0.75 * _STRONGEST
    return f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_ROW - 2}" fill="{colour}"{frame}/>' + text(
        x + _CELL / 2, y + 13.5, _signed(d), "middle", not region.is_plausible, "#fff" if dark else "#222"
    )


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}" if abs(value) < 100 else f"{value:+.0e}"


def _colour(d: float) -> str:
    strength = min(abs(d) / _STRONGEST, 1.0)
    end = _TOO_SMALL if d > 0 else _TOO_LARGE
    return "#" + "".join(f"{round(250 + (one - 250) * strength):02x}" for one in end)


def _key(y: float) -> list[str]:
    steps = np.linspace(_STRONGEST, -_STRONGEST, 13)
    parts = [text(2, y + 12, "too small")]
    parts += [
        f'<rect x="{62 + 9 * i}" y="{y}" width="9" height="14" fill="{_colour(s)}"/>' for i, s in enumerate(steps)
    ]
    rule = f"too large; bold: {PLAUSIBLE} or more; framed: so the whole interval"
    return [*parts, text(186, y + 12, rule)]


def _standardised(shown: Mapping[str, Plausibility], name: str) -> list[NDArray[np.float64]]:
    """Real people's values, then each generator's; those of real people are of the first generator that has it."""
    boxes: list[NDArray[np.float64]] = [np.empty(0)]
    for one in shown.values():
        places = [i for i, region in enumerate(one.regions) if region.name == name]
        if not places:
            boxes.append(np.empty(0))
            continue
        region, values = one.regions[places[0]], one.generated_SR[:, places[0]]
        if not len(boxes[0]):
            boxes[0] = (one.real_SR[:, places[0]] - region.real_mean) / region.real_sd
        boxes.append((values - region.real_mean) / region.real_sd)
    return boxes


def _repeat(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _box(at: Sequence[float], y: float, colour: str) -> list[str]:
    low, first, middle, third, high = at
    return [
        f'<path d="M{low:.1f} {y + 4}H{high:.1f}" stroke="{colour}"/>',
        f'<rect x="{first:.1f}" y="{y}" width="{max(third - first, 1):.1f}" height="8" fill="{colour}" opacity="0.6"/>',
        f'<path d="M{middle:.1f} {y}v8" stroke="#000" stroke-width="1.6"/>',
    ]
