"""alpha-WGAN's networks have the paper's sizes; its losses add up; one image at once is refused."""

import pytest

from tenfold.anatomy.generators.interface import Budget
from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.alpha_wgan import AlphaWGAN  # noqa: E402


def _count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_paper_s_sizes():
    """Counted by hand; the generator's first layer has no bias, the encoder's last convolution gives the latents."""
    with torch.device("meta"):
        players = AlphaWGAN((144, 192, 144)).build_players()
    trunk = 64 * 64 + 64 + sum(ins * 2 * ins * 64 + 2 * ins + 4 * ins for ins in (64, 128, 256))
    assert _count(players["critic"]) == trunk + 512 * 64 + 1
    assert _count(players["encoder"]) == trunk + 512 * 1000 * 64 + 1000
    convolutions = 27 * (512 * 256 + 256 * 128 + 128 * 64 + 64)
    assert _count(players["generator"]) == 1000 * 512 * 4 * 6 * 4 + convolutions + 2 * (512 + 256 + 128 + 64)
    assert _count(players["code_critic"]) == 1000 * 4096 + 4096 + 4096 * 4096 + 4096 + 4 * 4096 + 4096 + 1


def test_losses_of_critics_of_known_slope():
    """Critics a sum(x) of images and b sum(c) of codes: every term of the three losses can be written down."""

    class Sum(nn.Module):
        def __init__(self, slope):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(slope))

        def forward(self, given):
            return self.slope * given.flatten(1).sum(1, keepdim=True)

    class Spread(nn.Module):
        """A code to an image of its mean."""

        def forward(self, code):
            return code.mean(1)[:, None, None, None, None].expand(-1, 1, 4, 4, 4)

    class First(nn.Module):
        """The code of an image: its mean, repeated."""

        def forward(self, images):
            return images.flatten(1).mean(1, keepdim=True).expand(-1, 9)

    players = {"generator": Spread(), "encoder": First(), "critic": Sum(0.25), "code_critic": Sum(1.0)}
    real = torch.full((2, 1, 4, 4, 4), 0.5)  # rebuilt exactly
    torch.manual_seed(0)
    losses = AlphaWGAN((36, 48, 36), "miniature").losses(players, real)
    torch.manual_seed(0)
    prior = torch.randn(2, 9)
    liked_real, liked_rand = 0.25 * 64 * 0.5, 0.25 * 64 * prior.mean().item()
    liked_code, liked_prior = 9 * 0.5, 9 * prior.mean().item()
    assert losses["generator"].item() == pytest.approx(-liked_real - liked_rand - liked_code, abs=1e-4)
    assert losses["critic"].item() == pytest.approx(liked_rand - liked_real + 20 * (0.25 * 8 - 1) ** 2, abs=1e-4)
    assert losses["code_critic"].item() == pytest.approx(liked_code - liked_prior + 10 * (3 - 1) ** 2, abs=1e-4)


def test_one_image_at_once_is_refused(heads, tmp_path):
    with pytest.raises(InputError, match="alpha-wgan: the critic of codes compares images"):
        AlphaWGAN((36, 48, 36), "miniature").fit(heads, tmp_path / "run", Budget(2, 1), device="cpu", quiet=True)
