"""Label maps to images: every structure gets a brightness of its own, and the scanner its faults.

This is the principle of SynthSeg (Billot et al., Medical Image Analysis 86, 2023): a network that learns from images of
random shape and contrast, made from label maps, segments real ones, and the truth is known to the voxel. Means and
spreads of brightness in T1-weighted images are those that come with SynthSeg (Apache-2.0).
"""

# X right · Y anterior · Z superior · K classes: background and the 18 structures, sides merged

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tenfold.anatomy.images import LabelMap
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL
from tenfold.anatomy.warps import RandomWarp, draw_places, take_nearest

__all__ = [
    "CLASSES",
    "Sample",
    "Synthesis",
    "class_of_labels",
    "mean_brightness",
    "middle_of",
    "paint",
    "strip",
    "synthesise",
]

CLASSES = ("background", *(one.name for one in SUBCORTICAL + GLOBAL))
"""What an image is segmented into; K = 19."""

_FINER = 2  # labels are painted on a grid twice as fine: its averages have borders as a scanner sees them
_HIGHEST = 2**15
_BRIGHTEST = 99.5  # percentile of all voxels that becomes 1
_CSF = 24
_BULK = ("cerebral white matter", "cerebral cortex", "cerebellum white matter", "cerebellum cortex")
_INSIDE = (30, 62, 72, 85)  # vessels, a cavity, the optic chiasm: inside the brain's mask, no structure of ours

# Mean, spread of the mean, standard deviation, spread of that, at brightnesses of 0 to 255.
_BRIGHTNESS = {
    (0,): (7, 2, 5, 2),  # air
    (4, 5, 43, 44, 14, 15, 24, 72): (44, 11, 26, 10),  # fluid
    (2, 41, 85): (160, 22, 16, 5),  # cerebral white matter
    (3, 42, 11, 50, 17, 53, 18, 54, 26, 58): (96, 12, 19, 6),  # grey matter
    (7, 46): (136, 13, 15, 6),
    (8, 47): (88, 11, 17, 5),  # cerebellum
    (10, 49): (130, 18, 20, 8),  # thalamus
    (12, 51): (124, 16, 14, 7),  # putamen
    (13, 52): (152, 20, 9, 7),  # pallidum
    (28, 60): (143, 16, 21, 7),  # ventral DC
    (25, 57): (116, 15, 19, 7),  # lesions
    (30, 62): (87, 17, 17, 9),  # vessels
    (136, 137, 163, 164): (60, 10, 24, 11),  # choroid plexus
    (16,): (130, 12, 18, 7),  # brain-stem
    (502,): (126, 25, 84, 49), (506,): (18, 4, 14, 6), (507,): (94, 9, 49, 13), (508,): (117, 12, 65, 29),
    (509,): (70, 9, 25, 13), (511,): (114, 12, 75, 20), (512,): (68, 11, 36, 18), (514,): (48, 9, 20, 9),
    (515,): (30, 7, 22, 12), (516,): (94, 18, 43, 20), (530,): (144, 16, 45, 26),  # around the brain
}  # fmt: skip


@dataclass(frozen=True)
class Synthesis:
    """How images are made of label maps.

    Attributes:
        mm: Edge of a voxel.
        grid: Voxels along X, Y, Z; multiples of 8.
        warp: Of the shape.
        t1: Share of images whose contrast is that of T1; the others have any.
        heads: Share of images with the skull.
        bias: Largest spread of the logarithm of the bias field.
        noise: Largest standard deviation of the noise, of a range of 0 to 1.
        blur: Largest standard deviation of a blur, in voxels: images come from other grids.
        thick: Share of images that are blurred along one axis more, as by thick slices.
        clipped: Share of images whose brightest voxels are clipped, a tenth of them at most, as `prepare` does.
        gamma: Spread of the logarithm of the exponent.
    """

    mm: float = 3.0
    grid: tuple[int, int, int] = (48, 64, 48)
    warp: RandomWarp = field(default_factory=RandomWarp)
    t1: float = 0.75
    heads: float = 0.3
    bias: float = 0.4
    noise: float = 0.06
    blur: float = 0.5
    thick: float = 0.3
    clipped: float = 0.5
    gamma: float = 0.25


@dataclass(frozen=True)
class Sample:
    """An image and its truth.

    Attributes:
        image_XYZ: float32 in 0 to 1.
        shares_KXYZ: float32 in 0 to 1, how much of each voxel each class has; sums to 1.
    """

    image_XYZ: NDArray[np.float32]
    shares_KXYZ: NDArray[np.float32]


def class_of_labels() -> NDArray[np.int64]:
    """The class, 0 to K - 1, of every label of FreeSurfer's numbering, as a table of 32,768 entries."""
    table = np.zeros(_HIGHEST, np.int64)
    for number, one in enumerate(SUBCORTICAL + GLOBAL, start=1):
        for codes in one.freesurfer.values():
            table[list(codes)] = number
    return table


def mean_brightness() -> NDArray[np.float32]:
    """The mean brightness in T1-weighted images, 0 to 255, of every label, as a table of 32,768 entries."""
    table = np.zeros(_HIGHEST, np.float32)
    for codes, (mean, *_) in _BRIGHTNESS.items():
        table[list(codes)] = mean
    return table


def middle_of(labels: LabelMap) -> NDArray[np.float64]:
    """The middle of the box around cerebrum and cerebellum, in the map's millimetres; a spinal cord does not count."""
    where = np.argwhere(np.isin(class_of_labels()[labels.labels_XYZ], [CLASSES.index(name) for name in _BULK]))
    corners = np.stack([where.min(0), where.max(0)])
    middle: NDArray[np.float64] = labels.affine[:3, :3] @ corners.mean(0) + labels.affine[:3, 3]
    return middle


def synthesise(labels: LabelMap, draw: np.random.Generator, settings: Synthesis | None = None) -> Sample:
    """Make one image of one label map: shape, contrast and faults are drawn.

    Args:
        labels: A whole head or a brain, FreeSurfer's numbers and 5xx around the brain.
        draw: Decides everything.
        settings: How much is varied.
    """
    settings = settings or Synthesis()
    x, y, z = (size * _FINER for size in settings.grid)
    places_3XYZ = draw_places((x, y, z), settings.mm / _FINER, settings.warp, draw)
    fine_XYZ = take_nearest(labels, middle_of(labels), places_3XYZ)
    if draw.random() >= settings.heads:
        fine_XYZ = strip(fine_XYZ, grow=int(draw.integers(0, 3)), csf=draw.random() < 0.7)
    is_t1 = draw.random() < settings.t1
    image = _down(torch.from_numpy(paint(fine_XYZ, draw, t1=is_t1, black=draw.random() < 0.8)))
    shares_KXYZ = _shares(class_of_labels()[fine_XYZ], settings.grid)
    return Sample(_scan(image.numpy(), settings, draw), shares_KXYZ)


def paint(
    labels_XYZ: NDArray[np.int16],
    draw: np.random.Generator,
    *,
    t1: bool = True,
    black: bool = True,
    variety: float = 1.5,
) -> NDArray[np.float32]:
    """Give every structure a mean brightness and every voxel a deviation from it.

    Args:
        labels_XYZ: FreeSurfer's numbers.
        draw: Draws means, spreads and deviations.
        t1: Brightness as in T1-weighted images; else any, 0 to 255.
        black: Whether the background is exactly 0.
        variety: Spread of T1 brightness from image to image, of that from scanner to scanner. More than 1 is for
            networks that shall stand other scanners.

    Returns:
        float32 (X, Y, Z), about 0 to 255.
    """
    means, spreads = np.zeros(_HIGHEST, np.float32), np.zeros(_HIGHEST, np.float32)
    for codes, (mean, of_mean, spread, of_spread) in _BRIGHTNESS.items():
        for group in [codes] if t1 else _pairs(codes):
            here = list(group)
            means[here] = draw.normal(mean, variety * of_mean) if t1 else draw.uniform(0, 255)
            spreads[here] = abs(draw.normal(spread, of_spread)) * 0.8 if t1 else draw.uniform(0, 35)
    if black:
        means[0] = spreads[0] = 0
    image = means[labels_XYZ] + spreads[labels_XYZ] * draw.standard_normal(labels_XYZ.shape, np.float32)
    return image.clip(0, None)


def strip(labels_XYZ: NDArray[np.int16], *, grow: int = 0, csf: bool = True) -> NDArray[np.int16]:
    """Take the skull off a label map: what is around the brain becomes 0.

    Args:
        labels_XYZ: FreeSurfer's numbers.
        grow: Voxels by which the mask is wider than the brain; fluid and tissue in there stay.
        csf: Whether the fluid around the brain counts as brain.
    """
    brain_XYZ = (class_of_labels()[labels_XYZ] > 0) | np.isin(labels_XYZ, _INSIDE)
    if not csf:
        brain_XYZ &= labels_XYZ != _CSF
    kept = torch.from_numpy(brain_XYZ[None, None].astype(np.float32))
    for _ in range(grow):
        kept = functional.max_pool3d(kept, 3, 1, 1)
    return np.where(kept[0, 0].numpy() > 0, labels_XYZ, 0).astype(np.int16)


# --- parts ------------------------------------------------------------------------------------------------------------


def _pairs(codes: Sequence[int]) -> list[Sequence[int]]:
    """Structures that differ in random contrasts: each alone, with its other side."""
    sides = {side: one.name for one in SUBCORTICAL + GLOBAL for codes in one.freesurfer.values() for side in codes}
    groups: dict[str, list[int]] = {}
    for code in codes:
        groups.setdefault(sides.get(code, str(code)), []).append(code)
    return list(groups.values())


def _down(fine: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool3d(fine[None, None], _FINER)[0, 0]


def _shares(fine_XYZ: NDArray[np.int64], grid: tuple[int, int, int]) -> NDArray[np.float32]:
    """Which share of each voxel every class has."""
    voxels = int(np.prod(grid))
    place = np.arange(voxels).reshape(grid)
    counts = np.zeros(len(CLASSES) * voxels, np.float32)
    for corner in np.ndindex(_FINER, _FINER, _FINER):
        part_XYZ = fine_XYZ[corner[0] :: _FINER, corner[1] :: _FINER, corner[2] :: _FINER]
        counts[(part_XYZ * voxels + place).ravel()] += 1 / _FINER**3  # no index is there twice in one corner
    return counts.reshape(len(CLASSES), *grid)


def _scan(image_XYZ: NDArray[np.float32], settings: Synthesis, draw: np.random.Generator) -> NDArray[np.float32]:
    """What a scanner adds: blur, a bias field, noise, a curve of brightness; and clipping. The range is 0 to 1 then."""
    from scipy import ndimage  # noqa: PLC0415

    widths = np.full(3, draw.uniform(0, settings.blur))
    if draw.random() < settings.thick:
        widths[draw.integers(3)] = draw.uniform(0.4, 1.2)
    image_XYZ = ndimage.gaussian_filter(image_XYZ, widths)
    field = torch.from_numpy(draw.standard_normal((1, 1, 4, 4, 4), np.float32)) * float(draw.uniform(0, settings.bias))
    smooth = functional.interpolate(field, image_XYZ.shape, mode="trilinear", align_corners=True)[0, 0]
    image_XYZ = image_XYZ * np.exp(smooth.numpy())
    highest = draw.uniform(90, _BRIGHTEST) if draw.random() < settings.clipped else _BRIGHTEST
    image_XYZ = image_XYZ / max(float(np.percentile(image_XYZ, highest)), 1e-6)
    noise = draw.uniform(0, settings.noise)
    noisy = image_XYZ + noise * draw.standard_normal(image_XYZ.shape, np.float32)
    empty = image_XYZ == 0  # a stripped background has no noise
    image_XYZ = np.where(empty, 0, noisy).clip(0, 1) ** np.float32(np.exp(draw.normal(0, settings.gamma)))
    return image_XYZ.astype(np.float32)
