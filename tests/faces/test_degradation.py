"""Faces made small: shape, range and repetition for any input; shrinking and blur against OpenCV, Pillow and loops."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tenfold.core.errors import InputError
from tenfold.faces.degradation import HARSH, PLAIN, Degradation, _apply, _blur_matrices, degrade, enlarge, shrink
from tenfold.faces.model import to_input


def faces(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def smooth(side: int) -> np.ndarray:
    """A picture without sharp edges, in the middle range, so that no filter overshoots."""
    y, x = np.mgrid[:side, :side] / side
    channels = [128 + 80 * np.sin(5 * x + 2 * y), 128 + 60 * np.cos(4 * y), 100 + 50 * np.sin(6 * x * y)]
    return np.stack(channels, axis=2).astype(np.uint8)[None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40)
@given(
    count=st.integers(1, 5),
    side=st.integers(8, 60),
    size=st.integers(1, 40),
    share=st.floats(0, 1),
    blur=st.floats(0, 3),
    noise=st.floats(0, 60),
    seed=st.integers(0, 999),
)
def test_small_faces_have_their_size_lie_on_byte_levels_and_come_again_for_a_seed(
    count: int, side: int, size: int, share: float, blur: float, noise: float, seed: int
) -> None:
    x = to_input(faces(count, side, seed))
    before, how = x.clone(), Degradation(share=share, blur=blur, noise=noise)
    z = degrade(x, size, how, generator(seed))
    assert z.shape == (count, 3, size, size) and z.dtype == torch.float32
    assert z.min() >= -1 and z.max() <= 1
    levels = (z + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert torch.equal(z, degrade(x, size, how, generator(seed)))
    assert torch.equal(x, before)


def test_faces_differ_from_each_other_and_from_seed_to_seed() -> None:
    x = to_input(faces(1, 112)).expand(8, -1, -1, -1)
    one, other = (degrade(x, 16, Degradation(share=1.0), generator(seed)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert len({face.numpy().tobytes() for face in one}) == 8


def test_torch_s_own_generator_is_used_where_none_is_given() -> None:
    x = to_input(faces(4, 40))
    results: list[Tensor] = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(degrade(x, 16))
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [8, 16, 20, 24, 32, 48, 56])
def test_shrink_is_the_area_average_of_opencv(size: int) -> None:
    crops = faces(3, 112)
    peer = np.stack([cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA) for crop in crops])
    assert np.abs(shrink(crops, size).astype(int) - peer).max() <= 1


def test_shrink_of_a_face_of_that_size_changes_nothing_and_none_gives_none() -> None:
    assert np.array_equal(shrink(faces(2, 16), 16), faces(2, 16))
    assert shrink(faces(0, 112), 16).shape == (0, 16, 16, 3)


def test_halving_first_changes_small_faces_by_little() -> None:
    crops = smooth(112)
    twice = shrink(shrink(crops, 56), 16).astype(int)
    assert np.abs(twice - shrink(crops, 16)).max() <= 2


def test_plain_degradation_is_shrink() -> None:
    crops = faces(5, 112)
    assert torch.equal(degrade(to_input(crops), 16, PLAIN), to_input(shrink(crops, 16)))


@pytest.mark.parametrize("side", [16, 20])
def test_enlarge_is_pillow_s_bicubic(side: int) -> None:
    small = smooth(side)
    peer = np.asarray(Image.fromarray(small[0]).resize((112, 112), Image.Resampling.BICUBIC))
    assert np.abs(enlarge(small, 112)[0].astype(int) - peer).max() <= 1


def test_bicubic_shrinking_is_pillow_s() -> None:
    small = degrade(to_input(smooth(112)), 16, Degradation(share=0.0, bicubic=1.0))
    peer = Image.fromarray(smooth(112)[0]).resize((16, 16), Image.Resampling.BICUBIC)
    assert (small - to_input(np.asarray(peer)[None])).abs().max() <= 2.01 / 127.5


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0, 4.2])
def test_the_blur_is_opencv_s_gaussian_away_from_the_border(sigma: float) -> None:
    crop = to_input(faces(1, 112))
    ours = _apply(_blur_matrices(112, torch.tensor([sigma])), crop)[0].permute(1, 2, 0).numpy()
    picture = crop[0].permute(1, 2, 0).numpy()
    peer = cv2.GaussianBlur(picture, (41, 41), sigma) if sigma else picture
    assert np.abs(ours - peer)[20:-20, 20:-20].max() < 1e-4


def test_every_face_is_coded_as_jpeg_when_the_share_is_one() -> None:
    crop = faces(1, 16)
    how = Degradation(share=1.0, blur=0.0, noise=0.0, jpeg=(60, 60), bicubic=0.0)
    packed = io.BytesIO()
    Image.fromarray(crop[0]).save(packed, "JPEG", quality=60)
    assert torch.equal(degrade(to_input(crop), 16, how), to_input(np.array(Image.open(packed))[None]))


def test_noise_has_the_strength_that_was_asked_for() -> None:
    grey = torch.zeros(400, 3, 16, 16)
    z = degrade(grey, 16, Degradation(share=1.0, blur=0.0, noise=20.0, jpeg=(95, 95)), generator())
    weights = torch.tensor([0.299, 0.587, 0.114])  # of the luminance, of which JPEG at 95 takes little
    luminance = torch.einsum("bcyx,c->byx", z, weights) / weights.norm()
    sigmas = luminance.std(dim=(1, 2)) * 127.5
    assert sigmas.mean().item() == pytest.approx(10, rel=0.1)
    assert sigmas.max() < 23


def test_the_harsh_preset_changes_faces_more() -> None:
    crops = to_input(np.repeat(smooth(112), 32, axis=0))
    plain = degrade(crops, 16, PLAIN)
    usual, harsh = ((degrade(crops, 16, how, generator()) - plain).abs().mean() for how in (Degradation(), HARSH))
    assert harsh > 1.5 * usual


def test_sizes_are_drawn_and_all_of_them() -> None:
    how = Degradation(sizes=(16, 20, 24, 32))
    assert {how.draw_size(16, generator(seed)) for seed in range(60)} == {16, 20, 24, 32}
    assert Degradation().draw_size(16) == 16


@pytest.mark.parametrize(
    "wrong",
    [{"share": 1.5}, {"blur": -1.0}, {"noise": 300.0}, {"bicubic": float("nan")}, {"jpeg": (50, 40)}, {"sizes": (0,)}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Degradation(**wrong)  # type: ignore[arg-type]


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="size of small faces is 0"):
        shrink(faces(1, 16), 0)
