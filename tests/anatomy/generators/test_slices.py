"""Slice diffusion: which slices are drawn and filled, and what the network is shown."""

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.anatomy.generators.slices import ConditionalSlices, draw_sets, filling_order
from tenfold.core.errors import InputError

GRID = (16, 17, 18)


@given(st.integers(1, 150), st.integers(2, 20), st.sampled_from(["hierarchical", "autoregressive"]))
def test_every_slice_is_wanted_once_given_what_is_there(
    slices: int, window: int, order: Literal["hierarchical", "autoregressive"]
) -> None:
    """Property: sets never exceed the window, and what they are given was generated before."""
    there: set[int] = set()
    for number, one in enumerate(filling_order(slices, window, order)):
        assert len(one.given) + len(one.wanted) <= window
        assert set(one.given) <= there and bool(one.given) == bool(number)
        assert not there & set(one.wanted)
        there |= set(one.wanted)
    assert there == set(range(slices))


def test_hierarchical_begins_with_the_whole_and_autoregressive_goes_up() -> None:
    spread = filling_order(144, 20, "hierarchical")
    assert (spread[0].wanted[0], spread[0].wanted[-1], len(spread[0].wanted)) == (0, 143, 20)
    assert all(min(one.given) < min(one.wanted) < max(one.given) for one in spread[1:])
    upward = filling_order(144, 20, "autoregressive")
    assert [one.wanted[0] for one in upward] == [0, *range(20, 144, 10)]
    assert all(max(one.given) == min(one.wanted) - 1 for one in upward[1:])


@given(st.integers(2, 144), st.data())
def test_drawn_slices_differ_and_some_are_wanted(slices: int, data: st.DataObject) -> None:
    """Property: K different slices of the volume, in order, at least one of them wanted."""
    window = data.draw(st.integers(2, min(20, slices)))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    place_BK, given_BK = draw_sets(3, slices, window)
    assert place_BK.shape == given_BK.shape == (3, window) and given_BK.dtype == torch.bool
    assert bool((place_BK.diff(dim=1) > 0).all()) and int(place_BK.min()) >= 0 and int(place_BK.max()) < slices
    assert not bool(given_BK.all(1).any())


def test_drawn_slices_reach_everywhere_and_are_given_less_than_half_the_time() -> None:
    torch.manual_seed(0)
    place_BK, given_BK = draw_sets(2000, 36, 10)
    assert torch.bincount(place_BK.flatten(), minlength=36).min() > 200
    assert 0.1 < float(given_BK.float().mean()) < 0.5  # the first group, often a large one, is wanted


class Recorder(nn.Module):
    """Says 0 and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shown: list[Tensor] = []

    def forward(self, shown: Tensor, step_B: Tensor, place_BK: Tensor) -> Tensor:
        self.shown.append(shown)
        return self.weight * shown[:, :, :1]


def test_given_slices_are_shown_as_they_are_and_not_judged() -> None:
    """Slices of a volume that counts them: given ones arrive clean with a 1 beside, others noised with a 0. Velocity
    0 is wrong by a + (1 - a) x², less than 1, however many are given.
    """
    generator, network = ConditionalSlices(GRID, "miniature"), Recorder()
    volumes = torch.arange(18.0).expand(1, 1, *GRID) / 100
    torch.manual_seed(3)
    losses = [generator._loss(network, volumes).item() for _ in range(20)]
    torch.manual_seed(3)
    for shown in network.shown:
        place_BK, given_BK = draw_sets(1, 18, 8)
        torch.randint(1000, (1,)), torch.randn(1, 8, *GRID[:2])  # what the loss draws beside
        values, marks = shown[0].unbind(1)
        assert torch.equal(marks.flatten(1).all(1), given_BK[0]) and torch.equal(marks.any((1, 2)), given_BK[0])
        is_clean = (values == (place_BK[0] / 100)[:, None, None]).flatten(1).all(1)
        assert torch.equal(is_clean, given_BK[0])
    assert all(loss < 1.2 for loss in losses) and sum(losses) / len(losses) < 0.9


def test_sampling_shows_what_is_there_and_keeps_it() -> None:
    """Where the network says 0, DDIM scales noise; sets after the first are shown the slices of the image so far."""
    generator, network = ConditionalSlices(GRID, "miniature"), Recorder()
    with torch.inference_mode():
        image_XYZ = generator.draw({"denoiser": network}, torch.Generator().manual_seed(0))
    steps = len(network.shown) // len(filling_order(18, 8, "hierarchical"))
    assert image_XYZ.shape == GRID and bool((image_XYZ.abs() <= 1).all())
    for number, one in enumerate(filling_order(18, 8, "hierarchical")):
        values, marks = network.shown[number * steps][0].unbind(1)
        assert torch.equal(values[: len(one.given)], image_XYZ[:, :, list(one.given)].permute(2, 0, 1))
        assert bool(marks[: len(one.given)].all()) and not bool(marks[len(one.given) :].any())


def test_the_paper_s_size_is_its_code_s() -> None:
    """128 channels, times 1, 1, 2, 3, 4; two blocks a level; 20 slices; attention at the two coarsest levels."""
    generator = ConditionalSlices((144, 192, 144))
    with torch.device("meta"):
        network = generator.build()["denoiser"]
    assert network.config.channels == (128, 128, 256, 384, 512) and network.config.blocks == 2
    assert network.config.attention == (3, 4) and network.config.heads == 4 and generator._window == 20


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="8 x 16 x 16 is too small; each side needs 16 voxels or more"):
        ConditionalSlices((8, 16, 16))
    with pytest.raises(InputError, match="order is 'sideways'; choose hierarchical or autoregressive"):
        ConditionalSlices(GRID, "miniature", "sideways")  # type: ignore[arg-type]
