"""The autoencoder of latent diffusion, its losses, and the sizes of the paper."""

import pytest
import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.latent import Autoencoder, LatentDiffusion, drawn, reconstruction_loss
from tenfold.core.errors import InputError


def test_latents_are_as_small_as_stated_and_decode_to_the_grid() -> None:
    """The paper's autoencoder halves the grid three times, the miniature's twice."""
    small = LatentDiffusion((36, 48, 36), "miniature").build()["autoencoder"]
    with torch.inference_mode():
        encoded = small.encode(torch.zeros(1, 1, 36, 48, 36))
        assert encoded.shape == (1, 6, 9, 12, 9) and small.decode(encoded[:, :3]).shape == (1, 1, 36, 48, 36)
    with torch.device("meta"):
        large = LatentDiffusion((144, 192, 144)).build()["autoencoder"]
        assert large.encode(torch.zeros(1, 1, 144, 192, 144)).shape == (1, 6, 18, 24, 18)


def test_drawn_latents_have_the_stated_mean_and_variance() -> None:
    encoded = torch.cat([torch.full((1, 1, 40, 40, 40), 2.0), torch.full((1, 1, 40, 40, 40), -1.0)], 1)
    torch.manual_seed(0)
    found = drawn(encoded)
    assert found.shape == (1, 1, 40, 40, 40)
    assert float(found.mean()) == pytest.approx(2, abs=0.02)
    assert float(found.var()) == pytest.approx(torch.tensor(-1.0).exp().item(), abs=0.02)


class Known(nn.Module):
    """Encodes all to mean 1 and variance 1, decodes to 0.25."""

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(images), 1, 2, 2, 2), torch.zeros(len(images), 1, 2, 2, 2)], 1)

    def decode(self, code: Tensor) -> Tensor:
        return torch.full((len(code), 1, 8, 8, 8), 0.25)


def test_loss_is_the_mean_error_and_a_little_of_the_divergence() -> None:
    """KL(N(1, 1), N(0, 1)) is a half per latent: 4 for the 8 of an image, whatever the batch."""
    loss, parts = reconstruction_loss(Known(), torch.full((3, 1, 8, 8, 8), -0.5))
    assert float(parts["reconstruction"]) == pytest.approx(0.75) and float(parts["divergence"]) == pytest.approx(4)
    assert float(loss) == pytest.approx(0.75 + 4e-6)


def test_standardised_latents_have_mean_0_and_variance_1_and_come_back() -> None:
    autoencoder = Autoencoder((8, 8), (0, 1), 2)
    torch.manual_seed(0)
    code = torch.randn(20, 2, 3, 3, 3) * torch.tensor([5.0, 0.1]).reshape(2, 1, 1, 1) + 3
    autoencoder.measure(torch.cat([code, torch.zeros_like(code)], 1))
    standard = autoencoder.standardise(code)
    for channel in standard.unbind(1):
        assert float(channel.mean()) == pytest.approx(0, abs=1e-5) and float(channel.std()) == pytest.approx(1)
    assert torch.allclose(autoencoder.restore(standard), code, atol=1e-5)


def test_the_paper_s_size_is_pinaya_et_al_s() -> None:
    """64, 128, 128, 128 channels to 3 latents; 256, 512, 768 in the denoiser with attention at the lower two levels."""
    with torch.device("meta"):
        networks = LatentDiffusion((144, 192, 144)).build()
    denoiser = networks["denoiser"].config
    assert denoiser.channels == (256, 512, 768) and denoiser.attention == (1, 2)
    assert (denoiser.inputs, denoiser.outputs) == (3, 3)
    assert networks["autoencoder"].encoder[0].weight.shape == (64, 1, 3, 3, 3)


@pytest.mark.parametrize(
    ("grid", "size", "needs"),
    [
        ((36, 46, 36), "miniature", "a multiple of 4 voxels, 16 or more"),
        ((12, 12, 12), "miniature", "16 or more"),
        ((36, 48, 36), "paper", "a multiple of 8 voxels, 32 or more"),
    ],
)
def test_grids_that_cannot_be_halved_are_refused(grid: tuple[int, int, int], size: str, needs: str) -> None:
    with pytest.raises(InputError, match=needs):
        LatentDiffusion(grid, size)  # type: ignore[arg-type]
