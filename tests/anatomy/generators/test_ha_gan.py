"""HA-GAN's networks have the paper's sizes; slabs and small volumes show what the whole image shows."""

import pytest

from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.ha_gan import HAGAN  # noqa: E402


def _count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _convolution(ins: int, outs: int, kernel: int) -> int:
    return ins * outs * kernel + outs


def test_the_paper_s_sizes():
    """Counted by hand: layer by layer, with two numbers per channel of each group norm."""
    with torch.device("meta"):
        players = HAGAN((144, 192, 144)).build_players()
    trunk = [(512, 512), (512, 512), (512, 256), (256, 128), (128, 64)]
    generator = 1024 * 32768 + 32768 + sum(_convolution(*one, 27) + 2 * one[1] for one in trunk)
    generator += _convolution(64, 32, 27) + 2 * 32 + _convolution(32, 1, 27)
    generator += _convolution(64, 32, 27) + 2 * 32 + _convolution(32, 16, 27) + 2 * 16 + _convolution(16, 1, 27)
    assert _count(players["generator"]) == generator
    slab = [(1, 32, 64), (32, 64, 64), (64, 128, 32), (128, 256, 32), (256, 512, 16), (512, 128, 16)]
    small = [(1, 64, 64), (64, 128, 64), (128, 256, 64), (256, 1, 64)]
    heads = 129 * 64 + 64 + 64 + 1
    assert _count(players["discriminator"]) == sum(_convolution(*one) for one in slab + small) + heads
    encoder = _convolution(1, 32, 64) + _convolution(32, 32, 27) + _convolution(32, 64, 64) + 2 * (32 + 32 + 64)
    assert _count(players["encoder"]) == encoder
    summary = [(64, 64, 64), (64, 128, 64), (128, 256, 64), (256, 1024, 64)]
    assert _count(players["summary"]) == sum(_convolution(*one) for one in summary) + 2 * (64 + 128 + 256)


@pytest.mark.parametrize("grid", [(36, 48, 36), (48, 64, 48), (36, 34, 32)])
def test_a_miniature_makes_grids_of_its_multiples(grid):
    made = HAGAN(grid, "miniature")
    players = made.build_players()
    assert players["generator"](torch.randn(1, made.latent)).shape == (1, 1, *grid)
    losses = made.losses(players, torch.randn(1, 1, *grid))
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("grid", "size", "said"),
    [
        ((140, 192, 144), "paper", "multiples of 24, 4, 4, and 32 or more"),
        ((144, 190, 144), "paper", "multiples of 24, 4, 4"),
        ((48, 28, 48), "paper", "32 or more"),
        ((40, 48, 36), "miniature", "multiples of 12, 2, 2"),
    ],
)
def test_other_grids_are_refused(grid, size, said):
    with pytest.raises(InputError, match=said):
        HAGAN(grid, size)


def test_a_slab_made_alone_is_the_slab_of_the_whole_away_from_its_cut_faces():
    """Without the norms, which see the slab alone, what two convolutions cannot reach from the cut is the same."""
    made = HAGAN((48, 64, 48), "miniature")
    generator = made.build_players()["generator"]
    for norm in (module for module in generator.modules() if isinstance(module, nn.GroupNorm)):
        norm.forward = lambda given: given
    features = generator.trunk(torch.randn(1, made.latent))
    whole, slab = generator.full(features), generator.full(features[:, :, 8:12])
    assert torch.allclose(whole[:, :, 16 + 3 : 24 - 3], slab[:, :, 3:-3], atol=1e-6)


def test_the_discriminator_looks_at_slab_small_volume_and_place():
    torch.manual_seed(0)
    judge = HAGAN((36, 48, 36), "miniature").build_players()["discriminator"].eval()
    slab, small = torch.randn(1, 1, 6, 48, 36), torch.randn(1, 1, 18, 24, 18)
    verdict = judge(slab, small, 0.0)
    assert verdict.shape == (1, 1)
    for other in (judge(-slab, small, 0.0), judge(slab, -small, 0.0), judge(slab, small, 1.0)):
        assert not torch.equal(other, verdict)
