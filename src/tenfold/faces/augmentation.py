"""Faces changed a little each time they are seen, before they are made small.

At 16 px one pixel is 6 % of a face, so that faults of alignment matter most: shift, rotation and scale stand for them.
Every range is our choice; the paper's augmentation was not at hand.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tenfold.core.errors import InputError

__all__ = ["Augmentation", "augment"]

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How far faces are changed. Each number is drawn uniformly and per face.

    Attributes:
        flip: Probability of a mirror image, 0 to 1.
        shift: Most by which a face is moved along each axis, as a share of its side, 0 to 0.5.
        rotation: Most by which it is turned, in degrees, 0 to 180.
        scale: Most by which it grows or shrinks, as a share, 0 to 0.5.
        light: Most by which brightness and contrast change, each as a share, 0 to 1.
        grey: Probability that colours are taken away, 0 to 1.

    Raises InputError for a value out of range.
    """

    flip: float = 0.5
    shift: float = 0.06
    rotation: float = 8.0
    scale: float = 0.08
    light: float = 0.3
    grey: float = 0.2

    def __post_init__(self) -> None:
        limits = {"flip": 1.0, "shift": 0.5, "rotation": 180.0, "scale": 0.5, "light": 1.0, "grey": 1.0}
        for name, most in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise InputError(f"{name} of the augmentation is {value!r}; it must be a number from 0 to {most:g}")


def augment(x_B3SS: Tensor, how: Augmentation | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Changed copies of crops, float32 (B, 3, S, S), -1 to 1 as `to_input` gives them. The border is repeated outwards.

    Args:
        x_B3SS: Crops; are not changed.
        how: How far; by default `Augmentation()`.
        generator: Where random numbers come from; by default torch's own.
    """
    how = how or Augmentation()
    chances = torch.rand((8, len(x_B3SS)), generator=generator).to(x_B3SS.device)
    moved = _move(x_B3SS, how, chances)
    brightness, contrast = (1 + how.light * (2 * chance - 1) for chance in chances[5:7])
    # Of values v in 0 to 1: brightness * (contrast * (v - mean) + mean); here of 2 v - 1.
    mean = moved.mean((1, 2, 3)) + 1
    factor, addend = brightness * contrast, brightness * (contrast + (1 - contrast) * mean) - 1
    moved.mul_(factor[:, None, None, None]).add_(addend[:, None, None, None]).clamp_(-1, 1)
    is_grey = chances[7] < how.grey
    luminance = moved.new_tensor(_LUMINANCE)[None, :, None, None]
    moved[is_grey] = (moved[is_grey] * luminance).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    return moved


def _move(x_B3SS: Tensor, how: Augmentation, chances: Tensor) -> Tensor:
    """Mirrored, turned, scaled and shifted: one bilinear look-up for all of it."""
    mirror = torch.where(chances[0] < how.flip, -1.0, 1.0)
    angle = math.radians(how.rotation) * (2 * chances[1] - 1)
    scale = 1 / (1 + how.scale * (2 * chances[2] - 1))
    across, down = (2 * how.shift * (2 * chance - 1) for chance in chances[3:5])  # the side is 2 long here
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cosine * mirror, -sine, across, sine * mirror, cosine, down], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(x_B3SS.shape), align_corners=False)
    return functional.grid_sample(x_B3SS, grid, padding_mode="border", align_corners=False)
