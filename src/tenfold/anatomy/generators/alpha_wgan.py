"""alpha-WGAN (Kwon et al. 2019, arXiv 1908.02498): an autoencoder that plays against critics of images and of codes.

    code = E(x)     rec = G(code)     rand = G(prior)     P: gradient penalty between two

    G, E:  10 |rec - x| - D(rec) - D(rand) - C(code)
    D:     D(rec) + D(rand) - 2 D(x) + 10 P(x, rand) + 10 P(x, rec)
    C:     C(code) - C(prior) + 10 P(code, prior)

All are means; |.| is L1. The official code draws new images for D; here all see the same. What G's batch norms keep for
drawing they take from rand alone: codes are far from the prior for long, and with those of rec among them, as there, a
miniature that made heads in training drew nothing but background.
"""

# B batch · L latent · X right · Y anterior · Z superior

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.adversarial import Upsampling, held, unrecorded
from tenfold.anatomy.generators.blocks import ConvolutionalCritic, gradient_penalty
from tenfold.core.errors import InputError

__all__ = ["AlphaWGAN"]

_L1, _PENALTY = 10.0, 10.0


class AlphaWGAN(Upsampling):
    """The generator; needs sides of 32 voxels or more, and learns from two images or more at once."""

    name = "alpha-wgan"
    bias = False
    batch_size: ClassVar[int] = 8
    rates: ClassVar[dict[str, float]] = {"generator": 2e-4, "encoder": 2e-4, "critic": 2e-4, "code_critic": 2e-4}

    def build_players(self) -> nn.ModuleDict:
        """Generator, encoder, critic of images, critic of codes."""
        width = self._width(64)
        return nn.ModuleDict(
            {
                "generator": self.build_generator(),
                "encoder": ConvolutionalCritic(width, self.latent),
                "critic": ConvolutionalCritic(width),
                "code_critic": _code_critic(self.latent, self._width(4096)),
            }
        )

    def losses(self, players: Any, real_B1XYZ: Tensor) -> dict[str, Tensor]:
        """As the head of this file has them; "generator" is that of generator and encoder."""
        if len(real_B1XYZ) < 2:
            raise InputError("alpha-wgan: the critic of codes compares images; show at least two at once")
        critic, code_critic = players["critic"], players["code_critic"]
        generator, code_BL = players["generator"], players["encoder"](real_B1XYZ)
        prior_BL = torch.randn_like(code_BL)
        rand_B1XYZ = generator(prior_BL)
        with unrecorded(generator):
            rec_B1XYZ = generator(code_BL)
        with held(critic, code_critic):
            liked = critic(rec_B1XYZ).mean() + critic(rand_B1XYZ).mean() + code_critic(code_BL).mean()
        differences = (rec_B1XYZ - real_B1XYZ).abs().mean()

        code_BL, rec_B1XYZ, rand_B1XYZ = code_BL.detach(), rec_B1XYZ.detach(), rand_B1XYZ.detach()
        gap = critic(rec_B1XYZ).mean() + critic(rand_B1XYZ).mean() - 2 * critic(real_B1XYZ).mean()
        penalties = [gradient_penalty(critic, real_B1XYZ, made) for made in (rand_B1XYZ, rec_B1XYZ)]
        code_gap = code_critic(code_BL).mean() - code_critic(prior_BL).mean()
        return {
            "generator": _L1 * differences - liked,
            "critic": gap + _PENALTY * (penalties[0] + penalties[1]),
            "code_critic": code_gap + _PENALTY * gradient_penalty(code_critic, code_BL, prior_BL),
        }


def _code_critic(latent: int, width: int) -> nn.Sequential:
    """Codes (B, L) to a number each, (B, 1)."""
    layers: list[nn.Module] = []
    for ins in (latent, width):
        layers += [nn.Linear(ins, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(width, 1))
