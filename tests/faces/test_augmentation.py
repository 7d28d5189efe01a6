"""Changed faces: nothing for settings of nothing, known movements, range and repetition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.augmentation import Augmentation, augment

STILL = {"flip": 0.0, "shift": 0.0, "rotation": 0.0, "scale": 0.0, "light": 0.0, "grey": 0.0}


def still(**changes: float) -> Augmentation:
    return Augmentation(**STILL | changes)


def crops(count: int = 4, side: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_settings_of_nothing_change_nothing() -> None:
    assert torch.allclose(augment(crops(), still()), crops(), atol=1e-5)


def test_a_flip_is_a_mirror_image() -> None:
    assert torch.allclose(augment(crops(), still(flip=1.0)), crops().flip(3), atol=1e-5)


def test_half_of_the_faces_are_flipped() -> None:
    x = crops(1).expand(400, -1, -1, -1)
    flipped = (augment(x, still(flip=0.5), torch.Generator().manual_seed(0)) - x).abs().mean((1, 2, 3)) > 0.01
    assert 150 < flipped.sum() < 250


def test_grey_gives_all_channels_the_luminance() -> None:
    grey, x = augment(crops(), still(grey=1.0)), crops()
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    assert torch.allclose(grey[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2], atol=1e-5)


def test_light_scales_brightness_and_the_distance_from_the_mean() -> None:
    """In values of 0 to 1: brightness * (contrast * (v - mean) + mean), both within 30 %."""
    v = crops(200) * 0.1 + 0.5  # far from the ends, where values are cut
    v = (v + 1) / 2
    out = (augment(2 * v - 1, still(light=0.3), torch.Generator().manual_seed(0)) + 1) / 2
    brightness = out.mean((1, 2, 3)) / v.mean((1, 2, 3))
    contrast = out.std((1, 2, 3)) / v.std((1, 2, 3)) / brightness
    for share in (brightness, contrast):
        assert 0.69 < share.min() < 0.75 and 1.25 < share.max() < 1.31


def test_shift_rotation_and_scale_move_no_further_than_they_may() -> None:
    """The centre of a bright spot, over many draws."""
    side = 50
    spot = -torch.ones(300, 3, side, side)
    spot[:, :, 22:28, 22:28] = 1.0
    for changes, most in (({"shift": 0.06}, 3.0), ({"rotation": 8.0}, 0.2), ({"scale": 0.08}, 0.2)):
        moved = augment(spot, still(**changes), torch.Generator().manual_seed(0))[:, 0] + 1
        place = torch.arange(side) - (side - 1) / 2
        across = (moved.sum(1) * place).sum(1) / moved.sum((1, 2))
        assert across.abs().max() < most + 0.1
        assert across.abs().max() > 0.8 * most or most < 1
    area = (augment(spot, still(scale=0.08), torch.Generator().manual_seed(0))[:, 0] + 1).sum((1, 2)) / 2
    assert area.min() / 36 == pytest.approx(0.92**2, abs=0.06) and area.max() / 36 == pytest.approx(1.08**2, abs=0.06)


@settings(max_examples=25)
@given(count=st.integers(1, 4), side=st.integers(8, 40), seed=st.integers(0, 999))
def test_faces_stay_in_range_and_come_again_for_a_seed(count: int, side: int, seed: int) -> None:
    x = crops(count, side)
    before = x.clone()
    first, again = (augment(x, None, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(x, before)
    assert first.shape == x.shape and first.min() >= -1 and first.max() <= 1


@pytest.mark.parametrize("wrong", [{"flip": 2.0}, {"shift": -0.1}, {"scale": 0.9}, {"light": float("nan")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Augmentation(**wrong)
