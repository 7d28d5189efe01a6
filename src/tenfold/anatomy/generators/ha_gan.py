"""HA-GAN (Sun et al. 2022, arXiv 2008.01910), as the paper's code trains it: the whole volume small, a slab in full.

    features = A(noise)      (B, C, X/s, Y/s, Z/s)     s = 4, in a miniature 2
    small    = L(features)   the whole volume at 1/s; full = H(slab of features), a sixth of X

    D:    BCE(D(slab of x, x at 1/s, place), 1) + BCE(D(full, small, place), 0); the mean of two logits
    A,L,H: BCE(D(full, small, place), 1)
    E:    |H(E(slab of x)) - slab of x|
    Q:    (|full' - slab of x| + |small' - x at 1/s|) / 2 where full', small' are made from Q(E(all slabs of x))

|.| is the mean L1. Samples are H of all features. Places are multiples of s here, so that both slabs show the same
part; in the official code they are up to 3 voxels apart. There D and the generator see noise of their own each, here
the same.
"""

# B batch · C channels · L latent · S slab along X · X right · Y anterior · Z superior; x, y, z the same at 1/s

from itertools import pairwise
from math import gcd
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, leaky_relu, softplus
from torch.nn.utils.parametrizations import spectral_norm

from tenfold.anatomy.generators.adversarial import Adversarial, held
from tenfold.anatomy.generators.interface import Grid
from tenfold.core.errors import InputError

__all__ = ["HAGAN"]

_SLABS = 6
_SLOPE = 0.2
_GROUPS = 8
_START = 4
_LEAST_SIDE, _LEAST_SMALL = 32, 8  # the discriminator halves Y and Z five times, the small volume three times


class HAGAN(Adversarial):
    """The generator.

    The paper's size needs X to be a multiple of 24, Y and Z of 4; a miniature 12 and 2. Sides have 32 voxels or more.
    """

    name = "ha-gan"
    batch_size: ClassVar[int] = 16
    betas: ClassVar[tuple[float, float]] = (0.0, 0.999)
    rates: ClassVar[dict[str, float]] = {"generator": 1e-4, "discriminator": 4e-4, "encoder": 1e-4, "summary": 1e-4}

    @property
    def latent(self) -> int:
        """1024 in the paper."""
        return self._width(1024)

    @property
    def _shrink(self) -> int:
        return 4 if self.size == "paper" else 2

    @property
    def _small(self) -> Grid:
        """The grid at 1/s."""
        x, y, z = self.grid
        return x // self._shrink, y // self._shrink, z // self._shrink

    def _check_grid(self) -> None:
        needed = (_SLABS * self._shrink, self._shrink, self._shrink)
        fits = all(side % of == 0 for side, of in zip(self.grid, needed, strict=True))
        if not fits or min(self.grid) < _LEAST_SIDE or min(self._small) < _LEAST_SMALL:
            least = max(_LEAST_SIDE, _LEAST_SMALL * self._shrink)
            raise InputError(
                f"{self.name}, {self.size}: cannot make a grid of {' x '.join(map(str, self.grid))}; sides must be "
                f"multiples of {', '.join(map(str, needed))}, and {least} or more"
            )

    def build_generator(self) -> nn.Module:
        """A, L and H."""
        return _Generator(self.latent, self._width(32), self._small, self._shrink)

    def build_players(self) -> nn.ModuleDict:
        """Generator, discriminator, encoder E of slabs, summary Q of their codes."""
        slab = (self.grid[0] // _SLABS, *self.grid[1:])
        return nn.ModuleDict(
            {
                "generator": self.build_generator(),
                "discriminator": _Discriminator(self._width(512), self._width(256), slab, self._small),
                "encoder": _encoder(self._width(64), self._shrink),
                "summary": _summary(self._width(256), self.latent, self._small),
            }
        )

    def losses(self, players: Any, real_B1XYZ: Tensor) -> dict[str, Tensor]:
        """As the head of this file has them."""
        generator, discriminator, encoder = players["generator"], players["discriminator"], players["encoder"]
        thick, s = self._small[0] // _SLABS, self._shrink
        first = int(torch.randint(self._small[0] - thick + 1, ()))
        place = first / (self._small[0] - thick)
        part = slice(first, first + thick)
        slab_B1SYZ, small_B1xyz = real_B1XYZ[:, :, s * first : s * (first + thick)], real_B1XYZ[:, :, ::s, ::s, ::s]

        features_BCxyz = generator.trunk(torch.randn(len(real_B1XYZ), self.latent, device=real_B1XYZ.device))
        made = generator.full(features_BCxyz[:, :, part]), generator.small(features_BCxyz)
        told_apart = softplus(-discriminator(slab_B1SYZ, small_B1xyz, place)).mean()
        told_apart = told_apart + softplus(discriminator(made[0].detach(), made[1].detach(), place)).mean()
        with held(discriminator):
            fooled = softplus(-discriminator(*made, place)).mean()
        with held(generator):
            slab_code_BCxyz = encoder(slab_B1SYZ)
            slab_loss = l1_loss(generator.full(slab_code_BCxyz), slab_B1SYZ)
            with torch.no_grad():
                slabs = real_B1XYZ.split(s * thick, dim=2)
                codes_BCxyz = torch.cat([encoder(one_B1SYZ) for one_B1SYZ in slabs], 2)
            again_BCxyz = generator.trunk(players["summary"](codes_BCxyz))
            full_loss = l1_loss(generator.full(again_BCxyz[:, :, part]), slab_B1SYZ)
            small_loss = l1_loss(generator.small(again_BCxyz), small_B1xyz)
        return {
            "discriminator": told_apart,
            "generator": fooled,
            "encoder": slab_loss,
            "summary": (full_loss + small_loss) / 2,
        }


# --- the generator ---------------------------------------------------------------------------------------------------


def _block(ins: int, outs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    norm = nn.GroupNorm(gcd(_GROUPS, outs), outs)
    return nn.Sequential(nn.Conv3d(ins, outs, kernel, stride, padding=1), norm, nn.ReLU())


class _Generator(nn.Module):
    """Latents (B, L) to images (B, 1, X, Y, Z) in [-1, 1]; the parts serve training."""

    def __init__(self, latent: int, width: int, small: Grid, shrink: int) -> None:
        super().__init__()
        self.trunk = _Trunk(latent, width, small)
        self.small = nn.Sequential(
            _block(2 * width, width), _block(width, width // 2), nn.Conv3d(width // 2, 1, 3, padding=1), nn.Tanh()
        )
        first = nn.Upsample(scale_factor=2) if shrink == 4 else nn.Identity()
        self.full = nn.Sequential(
            first, _block(2 * width, width), nn.Upsample(scale_factor=2), nn.Conv3d(width, 1, 3, padding=1), nn.Tanh()
        )

    def forward(self, latents_BL: Tensor) -> Tensor:
        """(B, L) to (B, 1, X, Y, Z)."""
        made: Tensor = self.full(self.trunk(latents_BL))
        return made


class _Trunk(nn.Module):
    """Latents (B, L) to features (B, 2 width, x, y, z): 4^3 voxels, doubled twice, then brought to the small grid."""

    def __init__(self, latent: int, width: int, small: Grid) -> None:
        super().__init__()
        self._small = small
        self.start = nn.Linear(latent, 16 * width * _START**3)
        widths = (16 * width, 16 * width, 16 * width, 8 * width, 4 * width, 2 * width)
        self.blocks = nn.ModuleList(_block(ins, outs) for ins, outs in pairwise(widths))

    def forward(self, latents_BL: Tensor) -> Tensor:
        """(B, L) to (B, C, x, y, z)."""
        made_BCxyz = self.start(latents_BL).unflatten(1, (-1, _START, _START, _START))
        made_BCxyz = interpolate(self.blocks[0](made_BCxyz), scale_factor=2)
        made_BCxyz = interpolate(self.blocks[1](made_BCxyz), scale_factor=2)
        made_BCxyz = interpolate(self.blocks[2](made_BCxyz), size=self._small)
        features_BCxyz: Tensor = self.blocks[4](self.blocks[3](made_BCxyz))
        return features_BCxyz


# --- the other players -----------------------------------------------------------------------------------------------


def _encoder(width: int, shrink: int) -> nn.Sequential:
    """E: slabs (B, 1, S, Y, Z) to what H makes them from, (B, width, s, y, z)."""
    first = _block(1, width // 2, 4, 2) if shrink == 4 else _block(1, width // 2)
    return nn.Sequential(first, _block(width // 2, width // 2), _block(width // 2, width, 4, 2))


def _summary(width: int, latent: int, small: Grid) -> nn.Sequential:
    """Q: codes of all slabs (B, width / 4, x, y, z) to latents (B, L)."""
    blocks = [_block(ins, outs, 4, 2) for ins, outs in pairwise((width // 4, width // 4, width // 2, width))]
    last = nn.Conv3d(width, latent, _rest(tuple(side // 8 for side in small)))
    return nn.Sequential(*blocks, last, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def _rest(sides: tuple[int, ...]) -> tuple[int, ...]:
    """A kernel of 4^3, or what is left where less is."""
    return tuple(min(4, side) for side in sides)


class _Discriminator(nn.Module):
    """Whether a slab, the small volume and the slab's place are real: a logit (B, 1). Weights are spectrally normed.

    Args:
        width: Channels of the slab's last but one convolution; 512 in the paper.
        small_width: The same for the small volume; 256.
        slab: S, Y, Z.
        small: x, y, z.
    """

    def __init__(self, width: int, small_width: int, slab: Grid, small: Grid) -> None:
        super().__init__()
        self.slab = _slab_judge(width, slab)
        self.place = spectral_norm(nn.Linear(width // 4 + 1, width // 8))
        self.verdict = spectral_norm(nn.Linear(width // 8, 1))
        layers: list[nn.Module] = []
        for ins, outs in pairwise((1, small_width // 4, small_width // 2, small_width)):
            layers += [spectral_norm(nn.Conv3d(ins, outs, 4, 2, padding=1)), nn.LeakyReLU(_SLOPE)]
        last = spectral_norm(nn.Conv3d(small_width, 1, _rest(tuple(side // 8 for side in small))))
        self.small = nn.Sequential(*layers, last, nn.AdaptiveAvgPool3d(1), nn.Flatten())

    def forward(self, slab_B1SYZ: Tensor, small_B1xyz: Tensor, place: float) -> Tensor:
        """(B, 1); `place` is where the slab begins, 0 to 1."""
        found_BD = self.slab(slab_B1SYZ)
        found_BD = torch.cat([found_BD, found_BD.new_full((len(found_BD), 1), place)], 1)
        logit_B1 = self.verdict(leaky_relu(self.place(found_BD), _SLOPE))
        return (logit_B1 + self.small(small_B1xyz)) / 2


def _slab_judge(width: int, slab: Grid) -> nn.Sequential:
    """Slabs (B, 1, S, Y, Z) to (B, width / 4): five halvings of Y and Z, of S as long as it is thicker than 1."""
    thick, layers = slab[0], list[nn.Module]()
    for ins, outs in pairwise((1, width // 16, width // 8, width // 4, width // 2, width)):
        kernel, stride, pad = (4, 2, 1) if thick > 6 else (2, 2, 0) if thick > 1 else (1, 1, 0)
        convolution = nn.Conv3d(ins, outs, (kernel, 4, 4), (stride, 2, 2), padding=(pad, 1, 1))
        layers += [spectral_norm(convolution), nn.LeakyReLU(_SLOPE)]
        thick //= stride
    kernel_SYZ = (1, *_rest((slab[1] // 32, slab[2] // 32)))
    layers += [spectral_norm(nn.Conv3d(width, width // 4, kernel_SYZ)), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())
