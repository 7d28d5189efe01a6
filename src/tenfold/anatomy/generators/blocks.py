"""The convolutional networks that VAE-GAN and alpha-WGAN share; blocks and penalties of several generators.

Widths are the paper's code's (github.com/jiaqiw01/MRIAnatEval, after github.com/cyclomon/3dbraingen).
"""

# B batch · C channels · D output · L latent · X right · Y anterior · Z superior

from itertools import pairwise

import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.interface import Grid, Size
from tenfold.core.errors import InputError

__all__ = ["ConvolutionalCritic", "UpsamplingGenerator", "check_sides", "convolutional_trunk", "gradient_penalty"]

_SLOPE = 0.2
_LEAST_SIDE = 32  # five convolutions halve it


def check_sides(kind: str, grid: Grid) -> None:
    """Raises InputError where a side is too short to be halved five times."""
    if min(grid) < _LEAST_SIDE:
        raise InputError(
            f"{kind}: a grid of {' x '.join(map(str, grid))} is too small; each side needs {_LEAST_SIDE} voxels or more"
        )


def convolutional_trunk(width: int) -> nn.Sequential:
    """Four convolutions of 4^3 that halve each side: (B, 1, X, Y, Z) to (B, 8 width, X / 16, Y / 16, Z / 16)."""
    layers: list[nn.Module] = [nn.Conv3d(1, width, 4, 2, padding=1), nn.LeakyReLU(_SLOPE)]
    for ins, outs in pairwise((width, 2 * width, 4 * width, 8 * width)):
        layers += [nn.Conv3d(ins, outs, 4, 2, padding=1), nn.BatchNorm3d(outs), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


class ConvolutionalCritic(nn.Sequential):
    """Five convolutions, averaged: (B, 1, X, Y, Z) to (B, D). It judges with one output, or encodes with many.

    Args:
        width: Channels of the first convolution; 64 in the paper.
        outs: D.
    """

    def __init__(self, width: int, outs: int = 1) -> None:
        last = nn.Conv3d(8 * width, outs, 4, 2, padding=1)
        super().__init__(convolutional_trunk(width), last, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class UpsamplingGenerator(nn.Module):
    """Latents (B, L) to images (B, 1, X, Y, Z) in [-1, 1].

    A linear layer makes a coarse volume, four times it is doubled (nearest) and convolved, and what comes out is
    brought to the grid (nearest): in the paper from 4 x 6 x 4 over 64 x 96 x 64 to 144 x 192 x 144. A miniature starts
    at 2 x 3 x 2 for 36 x 48 x 36; with the paper's last factor of 2 and more it could make no voxels below 8 mm.

    Args:
        latent: L.
        width: Channels before the last convolution; 64 in the paper.
        grid: X, Y, Z.
        size: Decides how coarse the first volume is.
        bias: Whether the linear layer has one: in VAE-GAN it has, in alpha-WGAN not.
    """

    def __init__(self, latent: int, width: int, grid: Grid, size: Size, bias: bool) -> None:
        super().__init__()
        shrink = 32 if size == "paper" else 16
        self.grid, self._coarse = grid, tuple(side // shrink for side in grid)
        widths = [8 * width, 4 * width, 2 * width, width]
        voxels = self._coarse[0] * self._coarse[1] * self._coarse[2]
        self.start = nn.Linear(latent, widths[0] * voxels, bias=bias)
        self.convolutions = nn.ModuleList(
            nn.Conv3d(ins, outs, 3, padding=1, bias=False) for ins, outs in pairwise([*widths, 1])
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels) for channels in widths)

    def forward(self, latents_BL: Tensor) -> Tensor:
        """(B, L) to (B, 1, X, Y, Z)."""
        made_BCXYZ = self.start(latents_BL).unflatten(1, (-1, *self._coarse))
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            made_BCXYZ = nn.functional.interpolate(torch.relu(norm(made_BCXYZ)), scale_factor=2)
            made_BCXYZ = convolution(made_BCXYZ)
        return torch.tanh(nn.functional.interpolate(made_BCXYZ, size=self.grid))


def gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """How far the critic's slope between real and made is from 1: mean (|gradient| - 1)^2 (WGAN-GP, arXiv 1704.00028).

    Args:
        critic: Gives a number per row.
        real: (B, ...); no gradient reaches it.
        made: Of the same shape; no gradient reaches it.
    """
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = (share * real.detach() + (1 - share) * made.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.flatten(1).square().sum(1) + 1e-15).sqrt() - 1).square().mean()
