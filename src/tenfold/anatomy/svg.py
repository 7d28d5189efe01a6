"""Pieces of drawings, as SVG written by hand: the same bytes for the same numbers, and no plotting library."""

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.core.reports import Plot

__all__ = ["COLOURS", "REAL", "Drawing", "drawing", "legend", "png", "shorten", "text"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of generators, told apart by colour-blind people too."""

REAL = "#777777"
"""Of real people."""


@dataclass(frozen=True)
class Drawing(Plot):
    """A plot that is drawn already.

    Attributes:
        svg: An `<svg>` element.
    """

    svg: str = ""

    def to_svg(self) -> str:
        """Return the drawing."""
        return self.svg


def drawing(title: str, width: float, height: float, parts: Sequence[str]) -> Drawing:
    """Put elements together; px."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" role="img">'
    svg = "\n".join([head, f"<title>{html.escape(title)}</title>", *parts, "</svg>\n"])
    return Drawing(title, "", "", (), svg=svg)


def text(x: float, y: float, words: str, anchor: str = "start", bold: bool = False, colour: str = "#222") -> str:
    """Words; `anchor` is start, middle or end."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{html.escape(words)}</text>'


def legend(names: Sequence[str], colours: Sequence[str], x: float) -> list[str]:
    """A line of names with their colours, from x on; the first colour is the first name's, the others go round."""
    parts = []
    for i, name in enumerate(names):
        colour = colours[0] if i == 0 else colours[1 + (i - 1) % (len(colours) - 1)]
        parts.append(f'<rect x="{x:.1f}" y="6" width="12" height="10" fill="{colour}"/>' + text(x + 16, 15, name))
        x += 30 + 7.2 * len(name)
    return parts


def shorten(name: str, most: int) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def png(grey_VU: NDArray[np.uint8]) -> str:
    """An image, its first row on top, as an address that holds it whole."""
    rows, columns = grey_VU.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), grey_VU], axis=1)  # no filter in any line
    pieces = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))]
    pieces += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in pieces:
        file += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return "data:image/png;base64," + base64.b64encode(file).decode()
