"""From the probabilities of classes, on a segmenter's own grid, to volumes, sides, and labels on the image's grid."""

# X right · Y anterior · Z superior · xyz the same on the segmenter's grid · K classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import Image
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL, Side
from tenfold.anatomy.synth import CLASSES
from tenfold.anatomy.warps import take

__all__ = ["Probabilities", "icv", "left_share", "likeliest", "volumes"]

_STRUCTURES = SUBCORTICAL + GLOBAL
_MIDDLE = ("3rd ventricle", "4th ventricle", "brain-stem")  # the plane of symmetry goes through them


@dataclass(frozen=True)
class Probabilities:
    """What the network says of one image.

    Attributes:
        shares_Kxyz: float32 in 0 to 1, sums to 1; outside of the largest piece of brain all is background.
        image_xyz: float32 in 0 to 1, what the network was shown.
        affine: float64 (4, 4), of that grid.
    """

    shares_Kxyz: NDArray[np.float32]
    image_xyz: NDArray[np.float32]
    affine: NDArray[np.float64]

    def middle(self, largest: Sequence[int]) -> "Probabilities":
        """The voxels in the middle, no more along each axis than the largest number."""
        sizes = self.image_xyz.shape
        starts = [max(0, size - most) // 2 for size, most in zip(sizes, largest, strict=True)]
        x, y, z = (slice(start, start + min(size, most))
                   for start, size, most in zip(starts, sizes, largest, strict=True))  # fmt: skip
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ starts
        return Probabilities(self.shares_Kxyz[:, x, y, z], self.image_xyz[x, y, z], affine)


def volumes(found: Probabilities, left_xyz: NDArray[np.float32]) -> dict[str, dict[Side, float]]:
    """mm³ of every structure and side, as sums of sharpened probabilities.

    Plain probabilities of a few per cent reach far beyond a structure: summed up they made small ones up to three times
    too large. Squared, and scaled to sum to 1 again, they give the volumes of the likeliest labels, and a border still
    moves by less than a voxel.
    """
    voxel = abs(float(np.linalg.det(found.affine[:3, :3])))
    sharp_Kxyz = _sharpened(found.shares_Kxyz)
    result: dict[str, dict[Side, float]] = {}
    for number, one in enumerate(_STRUCTURES, start=1):
        share_xyz = sharp_Kxyz[number]
        total = float(share_xyz.sum(dtype=np.float64)) * voxel
        if "left" not in one.freesurfer:
            result[one.name] = {"middle": total}
            continue
        left = float((share_xyz * left_xyz).sum(dtype=np.float64)) * voxel
        result[one.name] = {"left": left, "right": total - left}
    return result


def icv(found: Probabilities) -> float:
    """mm³ of all that is not background; at least 1."""
    voxel = abs(float(np.linalg.det(found.affine[:3, :3])))
    return max(float((1 - _sharpened(found.shares_Kxyz)[0]).sum(dtype=np.float64)) * voxel, 1.0)


def _sharpened(shares_Kxyz: NDArray[np.float32]) -> NDArray[np.float32]:
    squares_Kxyz = shares_Kxyz**2
    return np.asarray(squares_Kxyz / squares_Kxyz.sum(0), np.float32)


def left_share(found: Probabilities) -> NDArray[np.float32]:
    """How much of each voxel lies left of the plane of symmetry, which is fitted to what lies in the middle."""
    middle = [CLASSES.index(name) for name in _MIDDLE]
    weight_xyz = found.shares_Kxyz[middle].sum(0)
    axes = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in weight_xyz.shape), indexing="ij")
    chosen = weight_xyz > 0.5
    x, y, z = axes
    if chosen.sum() >= 20:
        known = np.stack([np.ones(chosen.sum()), y[chosen], z[chosen]], 1)
        offset, of_y, of_z = np.linalg.lstsq(known, x[chosen], rcond=None)[0]
    else:
        offset, of_y, of_z = (weight_xyz.shape[0] - 1) / 2, 0.0, 0.0
    distance = (x - offset - of_y * y - of_z * z) / np.sqrt(1 + of_y**2 + of_z**2)
    return np.asarray((0.5 - distance).clip(0, 1), np.float32)


def likeliest(found: Probabilities, left_xyz: NDArray[np.float32], image: Image) -> NDArray[np.int16]:
    """The likeliest label of each voxel of the image, FreeSurfer's numbers."""
    places_3XYZ = _places(image.voxels_XYZ.shape, image.affine, found.affine)
    limits_3111 = np.array(left_xyz.shape).reshape(3, 1, 1, 1) - 0.5
    is_inside_XYZ = ((places_3XYZ > -0.5) & (places_3XYZ < limits_3111)).all(0)
    is_inside_XYZ &= take(found.shares_Kxyz[0], places_3XYZ) < 0.5  # elsewhere nothing is likelier than background
    places_3N11 = places_3XYZ[:, is_inside_XYZ][:, :, None, None]
    shares_KN = np.stack([take(share_xyz, places_3N11)[:, 0, 0] for share_xyz in found.shares_Kxyz])
    is_left_N = take(left_xyz, places_3N11)[:, 0, 0] > 0.5
    lefts, rights = _codes()
    best_N = shares_KN.argmax(0)
    labels_XYZ = np.zeros(image.voxels_XYZ.shape, np.int16)
    labels_XYZ[is_inside_XYZ] = np.where(is_left_N, lefts[best_N], rights[best_N])
    return labels_XYZ


def _codes() -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The label of every class on the left and on the right."""
    sides = [one.freesurfer for one in _STRUCTURES]
    lefts = [0, *((codes.get("left") or codes["middle"])[0] for codes in sides)]
    rights = [0, *((codes.get("right") or codes["middle"])[0] for codes in sides)]
    return np.array(lefts, np.int16), np.array(rights, np.int16)


def _places(shape: tuple[int, ...], affine: NDArray[np.float64], into: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each voxel of one grid its coordinates in another."""
    turn = np.linalg.inv(into) @ affine
    x, y, z = (np.arange(size, dtype=np.float32) for size in shape)
    rows = [
        turn[row, 0] * x[:, None, None] + turn[row, 1] * y[None, :, None] + (turn[row, 2] * z + turn[row, 3])
        for row in range(3)
    ]
    return np.stack(rows).astype(np.float32)
