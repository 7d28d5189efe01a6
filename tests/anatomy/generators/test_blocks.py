"""Shapes of the shared networks, and the gradient penalty against its closed form."""

import pytest

from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.blocks import (  # noqa: E402
    ConvolutionalCritic,
    UpsamplingGenerator,
    check_sides,
    convolutional_trunk,
    gradient_penalty,
)


@pytest.mark.parametrize(
    ("grid", "size", "coarse"),
    [
        ((36, 48, 36), "miniature", (2, 3, 2)),
        ((48, 64, 48), "miniature", (3, 4, 3)),
        ((35, 47, 33), "miniature", (2, 2, 2)),
        ((36, 48, 36), "paper", (1, 1, 1)),
    ],
)
def test_any_grid_of_long_enough_sides_is_made(grid, size, coarse):
    network = UpsamplingGenerator(5, 2, grid, size, bias=True)
    assert network.start.out_features == 16 * coarse[0] * coarse[1] * coarse[2]
    made = network(torch.randn(2, 5))
    assert made.shape == (2, 1, *grid) and made.abs().max() <= 1


def test_the_paper_s_grid_starts_at_4_6_4():
    with torch.device("meta"):
        network = UpsamplingGenerator(1000, 64, (144, 192, 144), "paper", bias=True)
    assert network.start.out_features == 512 * 4 * 6 * 4


def test_critics_judge_or_encode():
    heads = torch.randn(3, 1, 36, 48, 36)
    assert convolutional_trunk(2)(heads).shape == (3, 16, 2, 3, 2)
    assert ConvolutionalCritic(2)(heads).shape == (3, 1)
    assert ConvolutionalCritic(2, 7)(heads).shape == (3, 7)


def test_the_penalty_of_a_linear_critic_is_known():
    """The slope of w . x is w everywhere, whatever lies between."""
    critic = nn.Linear(4, 1, bias=False)
    real, made = torch.randn(5, 4), torch.randn(5, 4)
    penalty = gradient_penalty(critic, real, made)
    length = critic.weight.norm()
    assert penalty.item() == pytest.approx((length.item() - 1) ** 2, rel=1e-5)
    (slope,) = torch.autograd.grad(penalty, critic.weight)
    assert torch.allclose(slope, 2 * (length - 1) * critic.weight / length, atol=1e-6)


def test_the_penalty_reaches_neither_images_nor_codes():
    critic, real, made = nn.Linear(4, 1), torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    gradient_penalty(critic, real, made).backward()
    assert real.grad is None and made.grad is None and critic.weight.grad is not None


def test_short_sides_are_refused():
    with pytest.raises(InputError, match="vae-gan: a grid of 36 x 31 x 36 is too small; each side needs 32"):
        check_sides("vae-gan", (36, 31, 36))
