"""Every way to spoil an image does what its name says, more with more strength, and gives an image again."""

import numpy as np
import pytest

from tenfold.anatomy.corruptions import CORRUPTIONS, blur, corrupt, cut_out, duplicate_half, hollow, noise
from tenfold.anatomy.synth import paint, strip


@pytest.fixture(scope="module")
def brain(head) -> np.ndarray:
    """A stripped brain in 0 to 1."""
    return paint(strip(head.labels_XYZ), np.random.default_rng(0)).clip(0, 255) / np.float32(255)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_stronger_is_further_from_the_image(brain, corruption):
    """The distance to the image grows with the strength; shape, type and range stay."""
    distances = []
    for strength in (0.1, 0.9):
        spoilt = corruption.apply(brain, 3.0, strength, np.random.default_rng(0))
        assert spoilt.shape == brain.shape
        assert spoilt.dtype == np.float32
        assert np.isfinite(spoilt).all()
        assert spoilt.min() >= 0
        distances.append(np.abs(spoilt - brain).mean())
    assert 0 < distances[0] < distances[1]


def test_a_cut_takes_the_share_it_says(brain):
    """40 % of the brain's voxels are empty afterwards, the others as they were."""
    left = cut_out(brain, 0.4, np.random.default_rng(1))
    assert (left > 0).sum() / (brain > 0).sum() == pytest.approx(0.6, abs=0.02)
    np.testing.assert_array_equal(left[left > 0], brain[left > 0])


def test_blur_keeps_the_sum_and_noise_the_background(brain):
    """A blur moves brightness and makes none; noise leaves what is empty."""
    assert blur(brain, 3.0, 3.0).sum() == pytest.approx(brain.sum(), rel=1e-3)
    assert not noise(brain, 0.5, np.random.default_rng(0))[brain == 0].any()


def test_a_duplicated_half_is_symmetric_and_the_kept_half_is_kept(brain):
    """About the plane both halves are mirror images; the one that was kept is untouched."""
    middle = (brain.shape[0] - 1) / 2
    halves = duplicate_half(brain, middle, keep_left=True)
    np.testing.assert_array_equal(halves, halves[::-1])
    np.testing.assert_array_equal(halves[: brain.shape[0] // 2], brain[: brain.shape[0] // 2])


def test_what_was_done_is_said(brain):
    """The words name one or two ways with their strength."""
    _, said = corrupt(brain, 3.0, np.random.default_rng(5))
    names = [part.rsplit(" ", 1)[0] for part in said.split(", ")]
    assert 1 <= len(names) <= 2
    assert set(names) <= {one.name for one in CORRUPTIONS}


@pytest.mark.parametrize("smooth_mm", [1.0, 20.0])
def test_a_hollow_brain_keeps_its_outline_and_nothing_else(brain, smooth_mm):
    """Background, mean and range stay; inside nothing goes with the image any more."""
    emptied, inside = hollow(brain, smooth_mm, 3.0, np.random.default_rng(2)), brain > 0
    assert not emptied[~inside].any()
    assert emptied[inside].mean() == pytest.approx(brain[inside].mean(), rel=0.1)
    assert 0 <= emptied.min() <= emptied.max() <= 1
    assert abs(np.corrcoef(emptied[inside], brain[inside])[0, 1]) < 0.3
    assert not hollow(np.zeros((4, 5, 6), np.float32), smooth_mm, 3.0, np.random.default_rng(2)).any()
