"""VAE-GAN (Larsen et al. 2016, arXiv 1512.09300) for volumes, as the paper's code trains it.

    code = mean(x) + exp(logvar(x) / 2) noise     rec = G(code)     rand = G(prior)

    D:  BCE(D(x), 1) + BCE(D(rec), 0) + BCE(D(rand), 0)
    G:  20 |rec - x|^2 - the loss of D
    E:  KL(code, prior) + 10 |rec - x|^2

KL and squares are means over latents and voxels. Losses of D are computed from logits, which the official code first
puts through a sigmoid. What G's batch norms keep for drawing they take from rand alone; there, from rec as well.
"""

# B batch · L latent · X right · Y anterior · Z superior

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tenfold.anatomy.generators.adversarial import Upsampling, held, unrecorded
from tenfold.anatomy.generators.blocks import ConvolutionalCritic, convolutional_trunk
from tenfold.anatomy.generators.interface import Grid

__all__ = ["VAEGAN"]

_GENERATOR_SQUARES, _ENCODER_SQUARES = 20.0, 10.0
_POOLED = 4


class VAEGAN(Upsampling):
    """A variational autoencoder whose decoder also plays against a discriminator; needs sides of 32 voxels or more."""

    name = "vae-gan"
    bias = True
    batch_size: ClassVar[int] = 4
    rates: ClassVar[dict[str, float]] = {"generator": 1e-4, "encoder": 1e-4, "discriminator": 1e-4}

    def build_players(self) -> nn.ModuleDict:
        """Generator, encoder, discriminator."""
        width = self._width(64)
        encoder = _Encoder(width, self._width(2048), self.latent, self.grid)
        return nn.ModuleDict(
            {"generator": self.build_generator(), "encoder": encoder, "discriminator": ConvolutionalCritic(width)}
        )

    def losses(self, players: Any, real_B1XYZ: Tensor) -> dict[str, Tensor]:
        """As the head of this file has them."""
        generator, encoder, discriminator = players["generator"], players["encoder"], players["discriminator"]
        mean_BL, logvar_BL = encoder(real_B1XYZ)
        code_BL = mean_BL + torch.exp(0.5 * logvar_BL) * torch.randn_like(mean_BL)
        rand_B1XYZ = generator(torch.randn_like(mean_BL))
        with unrecorded(generator):
            rec_B1XYZ = generator(code_BL.detach())

        judged = discriminator(real_B1XYZ), discriminator(rec_B1XYZ.detach()), discriminator(rand_B1XYZ.detach())
        told_apart = softplus(-judged[0]).mean() + softplus(judged[1]).mean() + softplus(judged[2]).mean()
        with held(discriminator):  # its loss on real images does not depend on the generator
            caught = softplus(discriminator(rec_B1XYZ)).mean() + softplus(discriminator(rand_B1XYZ)).mean()
        squares = (rec_B1XYZ - real_B1XYZ).square().mean()
        with held(generator), unrecorded(generator):
            encoder_squares = (generator(code_BL) - real_B1XYZ).square().mean()
        divergence = 0.5 * (mean_BL.square() + logvar_BL.exp() - 1 - logvar_BL).mean()
        return {
            "discriminator": told_apart,
            "generator": _GENERATOR_SQUARES * squares - caught,
            "encoder": divergence + _ENCODER_SQUARES * encoder_squares,
        }


class _Encoder(nn.Module):
    """Images (B, 1, X, Y, Z) to mean and log-variance (B, L); pooled to 4^3, or less where less is left."""

    def __init__(self, width: int, hidden: int, latent: int, grid: Grid) -> None:
        super().__init__()
        x, y, z = (min(_POOLED, side // 16) for side in grid)
        self.trunk = nn.Sequential(convolutional_trunk(width), nn.AdaptiveAvgPool3d((x, y, z)), nn.Flatten())
        ins = 8 * width * x * y * z
        self.mean = nn.Sequential(nn.Linear(ins, hidden), nn.ReLU(), nn.Linear(hidden, latent))
        self.logvar = nn.Sequential(nn.Linear(ins, hidden), nn.ReLU(), nn.Linear(hidden, latent))

    def forward(self, images_B1XYZ: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, L) each."""
        found_BD = self.trunk(images_B1XYZ)
        return self.mean(found_BD), self.logvar(found_BD)
