"""Images within drawings are PNG that other programs read."""

import base64
import io

import numpy as np
import pytest

from tenfold.anatomy.svg import png, shorten, text


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (48, 36)])
def test_png_holds_the_pixels(shape: tuple[int, int]) -> None:
    pictures = pytest.importorskip("PIL.Image")
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    kind, _, content = png(grey).partition(",")
    assert kind == "data:image/png;base64"
    with pictures.open(io.BytesIO(base64.b64decode(content))) as read:
        assert read.mode == "L" and np.array_equal(np.asarray(read), grey)


def test_words_are_escaped_and_names_cut() -> None:
    assert "&lt;b&gt; &amp;" in text(0, 0, "<b> &")
    assert shorten("HA-GAN", 6) == "HA-GAN" and shorten("alpha-WGAN", 6) == "alpha…"
