"""What spoils an image of a brain: blur, noise, missing parts, copied halves, thick slices, ghosts, little contrast.

Images are float32 in 0 to 1 with a background of 0. The reliability scores are learned from spoilt images (`quality`).
"""

# X right · Y anterior · Z superior

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "blur",
    "corrupt",
    "cut_out",
    "duplicate_half",
    "ghosts",
    "hollow",
    "noise",
    "slices",
]

Voxels = NDArray[np.float32]


def blur(image_XYZ: Voxels, sigma_mm: float, mm: float) -> Voxels:
    """Gaussian blur with a standard deviation in mm."""
    from scipy import ndimage  # noqa: PLC0415

    return np.asarray(ndimage.gaussian_filter(image_XYZ, sigma_mm / mm), np.float32)


def noise(image_XYZ: Voxels, sigma: float, draw: np.random.Generator) -> Voxels:
    """Gaussian noise on all but the empty background, cut to 0 to 1."""
    noisy = image_XYZ + np.float32(sigma) * draw.standard_normal(image_XYZ.shape, np.float32)
    return np.where(image_XYZ > 0, noisy, 0).clip(0, 1).astype(np.float32)


def cut_out(image_XYZ: Voxels, share: float, draw: np.random.Generator) -> Voxels:
    """Make a share of the brain empty: all beyond a plane of random direction."""
    where = np.argwhere(image_XYZ > 0)
    normal_3 = draw.standard_normal(3)
    depth = where @ (normal_3 / np.linalg.norm(normal_3))
    gone = where[depth > np.quantile(depth, 1 - share)]
    left = image_XYZ.copy()
    left[tuple(gone.T)] = 0
    return left


def duplicate_half(volume_XYZ: NDArray[np.floating], middle: float, *, keep_left: bool) -> NDArray[np.floating]:
    """Replace one half by the mirror image of the other; the plane is X = `middle`, in voxels."""
    x = np.arange(volume_XYZ.shape[0])
    mirrored = np.rint(2 * middle - x).astype(int)
    is_replaced = x > middle if keep_left else x < middle
    source = np.where(is_replaced, mirrored, x)
    inside = (source >= 0) & (source < len(x))
    taken: NDArray[np.floating] = volume_XYZ[source.clip(0, len(x) - 1)]
    taken[~inside] = volume_XYZ[0, 0, 0]
    return taken


def hollow(image_XYZ: Voxels, smooth_mm: float, mm: float, draw: np.random.Generator) -> Voxels:
    """Noise in the outline of the brain, with its mean and spread, as a generator makes that learned only the outline.

    The noise is Gaussian, blurred with a standard deviation of `smooth_mm`.
    """
    inside = image_XYZ > 0
    if not inside.any():
        return image_XYZ.copy()
    noise_XYZ = blur(draw.standard_normal(image_XYZ.shape, np.float32), smooth_mm, mm)
    noise_XYZ = (noise_XYZ - noise_XYZ[inside].mean()) / max(float(noise_XYZ[inside].std()), 1e-6)
    filled = image_XYZ[inside].mean() + image_XYZ[inside].std() * noise_XYZ
    return np.where(inside, filled, 0).clip(0, 1).astype(np.float32)


def slices(image_XYZ: Voxels, thick_mm: float, mm: float, axis: int) -> Voxels:
    """As if taken in thick slices along an axis."""
    from scipy import ndimage  # noqa: PLC0415

    sigmas = [0.0, 0.0, 0.0]
    sigmas[axis] = 0.4 * thick_mm / mm
    return np.asarray(ndimage.gaussian_filter(image_XYZ, sigmas), np.float32)


def ghosts(image_XYZ: Voxels, strength: float, axis: int) -> Voxels:
    """A head that moved: copies of the image, shifted by a quarter of the field of view, lie over it."""
    shift = image_XYZ.shape[axis] // 4
    doubled = image_XYZ + strength * (np.roll(image_XYZ, shift, axis) + np.roll(image_XYZ, -shift, axis)) / 2
    return (doubled / (1 + strength)).astype(np.float32)


@dataclass(frozen=True)
class Corruption:
    """One way to spoil an image.

    Attributes:
        name: What it is.
        apply: Takes the image, the edge of a voxel in mm, a strength from 0 to 1, and what draws.
    """

    name: str
    apply: Callable[[Voxels, float, float, np.random.Generator], Voxels]


CORRUPTIONS = (
    Corruption("blur", lambda image, mm, strength, draw: blur(image, 8 * strength, mm)),
    Corruption("noise", lambda image, mm, strength, draw: noise(image, 0.6 * strength, draw)),
    Corruption("cut-out", lambda image, mm, strength, draw: cut_out(image, 0.6 * strength, draw)),
    Corruption("slices", lambda image, mm, strength, draw: slices(image, 16 * strength, mm, int(draw.integers(3)))),
    Corruption("ghosts", lambda image, mm, strength, draw: ghosts(image, 1.5 * strength, int(draw.integers(3)))),
    Corruption("contrast", lambda image, mm, strength, draw: _flatten(image, strength)),
)
"""All that is drawn from; halves that are copies are apart, because they change the truth as well."""


def corrupt(image_XYZ: Voxels, mm: float, draw: np.random.Generator, most: int = 2) -> tuple[Voxels, str]:
    """Spoil an image in up to `most` ways of random strength; and say how."""
    said = []
    for number in draw.permutation(len(CORRUPTIONS))[: int(draw.integers(1, most + 1))]:
        strength = float(draw.uniform(0, 1))
        image_XYZ = CORRUPTIONS[number].apply(image_XYZ, mm, strength, draw)
        said.append(f"{CORRUPTIONS[number].name} {strength:.2f}")
    return image_XYZ, ", ".join(said)


def _flatten(image_XYZ: Voxels, strength: float) -> Voxels:
    """Less and less contrast within the brain."""
    inside = image_XYZ > 0
    mean = float(image_XYZ[inside].mean()) if inside.any() else 0.0
    return np.where(inside, mean + (1 - strength) * (image_XYZ - mean), 0).astype(np.float32)
