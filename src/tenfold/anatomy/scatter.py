"""A point per image: the features that distances are taken between, projected to the page."""

# N images · D features

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.projection import principal_axes, tsne
from tenfold.anatomy.svg import COLOURS, REAL, Drawing, drawing, shorten, text

__all__ = ["feature_scatter"]

_SIDE, _GAP, _TOP, _BOTTOM = 480.0, 40.0, 56.0, 28.0  # px
_MARGIN = 14.0
_MOST = 800  # points of t-SNE, whose time grows with their square
_FEWEST = 30  # of t-SNE, for which neighbourhoods are to mean something
_MARKS = ("a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "m0 -3h6v6h-6z", "m3 -3.5l3.5 6.5h-7z", "m3 -4l4 4l-4 4l-4 -4z")


def feature_scatter(features: Mapping[str, NDArray[np.float64]], extractor: str) -> Drawing:
    """Principal axes and t-SNE of all sets together, side by side.

    Args:
        features: By set, (N, D) with one D; the first is the real one and lies below the others.
        extractor: What made the features.
    """
    sizes = [len(one) for one in features.values()]
    all_ND = np.concatenate(list(features.values()))
    set_N = np.repeat(np.arange(len(sizes)), sizes)
    places, shares = principal_axes(all_ND)
    parts = [*_legend(list(features)), *_panel(places, set_N, 0, "principal axes")]
    parts.append(text(_SIDE / 2, _TOP + _SIDE + 18, f"{shares[0]:.0%} of the variance", "middle", colour="#666"))
    turned = f"translate({_SIDE + 16:.1f} {_TOP + _SIDE / 2:.1f}) rotate(-90)"
    parts.append(
        f'<g transform="{turned}">{text(0, 0, f"{shares[1]:.0%} of the variance", "middle", colour="#666")}</g>'
    )
    if len(all_ND) >= _FEWEST:
        chosen = np.arange(0, len(all_ND), -(-len(all_ND) // _MOST))
        title = "t-SNE" if len(chosen) == len(all_ND) else f"t-SNE of every {chosen[1]}th image"
        parts += _panel(tsne(all_ND[chosen]), set_N[chosen], _SIDE + _GAP, title)
        said = "near neighbours; distances between groups mean nothing"
        parts.append(text(1.5 * _SIDE + _GAP, _TOP + _SIDE + 18, said, "middle", colour="#666"))
    return drawing(f"Features of images: {extractor}", 2 * _SIDE + _GAP, _TOP + _SIDE + _BOTTOM, parts)


def _panel(places: NDArray[np.float64], set_N: NDArray[np.intp], left: float, title: str) -> list[str]:
    """Points in a square with one scale for both axes; a path per set."""
    middle, span = (places.max(0) + places.min(0)) / 2, float(np.ptp(places, axis=0).max()) or 1.0
    scale = (_SIDE - 2 * _MARGIN) / span
    at = (places - middle) * [scale, -scale] + [left + _SIDE / 2, _TOP + _SIDE / 2]
    parts = [f'<rect x="{left:g}" y="{_TOP:g}" width="{_SIDE:g}" height="{_SIDE:g}" fill="#fafafa" stroke="#ccc"/>']
    parts.append(text(left, _TOP - 8, title, bold=True))
    for number in range(int(set_N.max()) + 1):
        points = at[set_N == number]
        parts.append(_marks(points, number))
    return parts


def _marks(points: NDArray[np.float64], number: int) -> str:
    shape = _MARKS[number % len(_MARKS)]
    steps = "".join(f"M{x - 3:.1f} {y:.1f}{shape}" for x, y in points)
    if number == 0:
        return f'<path d="{steps}" fill="none" stroke="{REAL}" stroke-width="1.2"/>'
    return f'<path d="{steps}" fill="{_colour(number)}" fill-opacity="0.7"/>'


def _legend(names: list[str]) -> list[str]:
    parts, x = [], 0.0
    for number, name in enumerate(names):
        parts.append(_marks(np.array([[x + 6, 12.0]]), number))
        parts.append(text(x + 16, 16, shorten(name, 24)))
        x += 34 + 7.2 * min(len(name), 24)
    return parts


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]
