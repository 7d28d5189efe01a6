"""VAE-GAN's networks have the paper's sizes, its losses the closed forms."""

import math

import pytest

from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.vae_gan import VAEGAN  # noqa: E402


def _count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_paper_s_sizes():
    """Counted by hand: kernels of 4^3 = 64 and 3^3 = 27, biases, two numbers per channel of a norm."""
    with torch.device("meta"):
        made = VAEGAN((144, 192, 144))
        players = made.build_players()
    assert made.latent == 1000
    trunk = 64 * 64 + 64 + sum(ins * 2 * ins * 64 + 2 * ins + 4 * ins for ins in (64, 128, 256))
    assert _count(players["discriminator"]) == trunk + 512 * 64 + 1
    head = 32768 * 2048 + 2048 + 2048 * 1000 + 1000
    assert _count(players["encoder"]) == trunk + 2 * head
    start = 1000 * 49152 + 49152  # 512 x 4 x 6 x 4
    convolutions = 27 * (512 * 256 + 256 * 128 + 128 * 64 + 64)
    assert _count(players["generator"]) == start + convolutions + 2 * (512 + 256 + 128 + 64)


def test_a_miniature_has_an_eighth_of_the_widths():
    players = VAEGAN((36, 48, 36), "miniature").build_players()
    trunk = 8 * 64 + 8 + sum(ins * 2 * ins * 64 + 2 * ins + 4 * ins for ins in (8, 16, 32))
    assert _count(players["discriminator"]) == trunk + 64 * 64 + 1
    assert _count(players["encoder"]) == trunk + 2 * (64 * 12 * 256 + 256 + 256 * 125 + 125)


def test_small_grids_are_refused():
    with pytest.raises(InputError, match="vae-gan: a grid of 18 x 24 x 18 is too small"):
        VAEGAN((18, 24, 18), "miniature")


def test_losses_of_players_that_say_nothing():
    """With a generator of zeros, codes of the prior and a discriminator that always says 0 the losses are known."""

    class Constant(nn.Module):
        def __init__(self, *values):
            super().__init__()
            self.weight, self.values = nn.Parameter(torch.zeros(())), values

        def forward(self, given):
            made = tuple(torch.zeros(len(given), *shape) + self.weight + value for shape, value in self.values)
            return made if len(made) > 1 else made[0]

    made = VAEGAN((36, 48, 36), "miniature")
    zeros, mean, logvar = ((1, 36, 48, 36), 0.0), ((125,), 0.5), ((125,), -1.0)
    players = {"generator": Constant(zeros), "encoder": Constant(mean, logvar), "discriminator": Constant(((1,), 0.0))}
    losses = made.losses(players, torch.full((3, 1, 36, 48, 36), 0.1))
    squares, coin = 0.01, math.log(2)
    divergence = 0.5 * (0.25 + math.exp(-1) - 1 + 1)
    assert losses["discriminator"].item() == pytest.approx(3 * coin, rel=1e-5)
    assert losses["generator"].item() == pytest.approx(20 * squares - 2 * coin, rel=1e-5)
    assert losses["encoder"].item() == pytest.approx(divergence + 10 * squares, rel=1e-5)
