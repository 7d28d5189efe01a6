"""Changes of shape: random ones of a whole head, and one that grows or shrinks chosen structures and little else.

A warp is kept as what `numpy.meshgrid` would give after it: for every voxel of the result the place it is taken from.
"""

# X right · Y anterior · Z superior · 3 coordinates

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tenfold.anatomy.images import LabelMap
from tenfold.core.errors import InputError

__all__ = ["RandomWarp", "draw_places", "resize_structures", "take", "take_labels", "take_nearest"]

# Up to the first distance what lies beside a structure moves as a whole, beyond the second nothing does. What grows
# pushes its neighbours away, so that they keep their volumes; what shrinks is followed by what is next to it alone.
_GROWING_MM, _SHRINKING_MM = (6.0, 16.0), (0.0, 9.0)
_DEEP_MM = 9.0  # within the structure
_TOLERANCE = 0.05  # of a wanted volume: small structures have few voxels to gain or lose


@dataclass(frozen=True)
class RandomWarp:
    """How much the shape of a head is varied; the defaults are near to those of SynthSeg.

    Attributes:
        scale: Largest change of size along each axis, as a share.
        rotation: Largest angle about each axis, degrees.
        shear: Largest shear.
        shift_mm: Largest shift along each axis.
        elastic_mm: Largest standard deviation of the smooth field of displacements.
        spacing_mm: Between its control points.
        flip: How often left and right are swapped.
    """

    scale: float = 0.15
    rotation: float = 15.0
    shear: float = 0.012
    shift_mm: float = 10.0
    elastic_mm: float = 4.0
    spacing_mm: float = 28.0
    flip: float = 0.5


def draw_places(
    shape: tuple[int, int, int], mm: float, warp: RandomWarp, draw: np.random.Generator
) -> NDArray[np.float32]:
    """Where the voxels of a warped grid come from: (3, X, Y, Z) mm from the middle of the head."""
    axes = [(np.arange(size, dtype=np.float32) - (size - 1) / 2) * mm for size in shape]
    matrix = _matrix(warp, draw)
    shift_3 = draw.uniform(-warp.shift_mm, warp.shift_mm, 3).astype(np.float32)
    field_3XYZ = _smooth(shape, mm, warp.spacing_mm, draw) * np.float32(draw.uniform(0, warp.elastic_mm))
    for row in range(3):  # one product per axis of the grid: a third of the memory of a full matrix product
        columns = [matrix[row, column] * axes[column] for column in range(3)]
        field_3XYZ[row] += columns[0][:, None, None] + columns[1][None, :, None] + (columns[2] + shift_3[row])
    if draw.random() < warp.flip:
        field_3XYZ[0] *= -1
    return field_3XYZ


def take_nearest(
    labels: LabelMap, middle_mm: NDArray[np.float64], places_3XYZ: NDArray[np.float32]
) -> NDArray[np.int16]:
    """Labels at places given in mm from `middle_mm`; 0 outside of the map."""
    inverse = np.linalg.inv(labels.affine)
    start_3 = (inverse[:3, :3] @ middle_mm + inverse[:3, 3]).astype(np.float32)
    turn = inverse[:3, :3].astype(np.float32)
    limits, shape = labels.labels_XYZ.shape, places_3XYZ.shape[1:]
    inside, flat = np.ones(shape, np.bool_), np.zeros(shape, np.int32)
    for axis in range(3):
        index = np.full(shape, start_3[axis] + np.float32(0.5))
        for other in range(3):
            if turn[axis, other]:
                index += turn[axis, other] * places_3XYZ[other]
        number = np.floor(index).astype(np.int32)
        inside &= (number >= 0) & (number < limits[axis])
        flat = flat * limits[axis] + number.clip(0, limits[axis] - 1)
    taken: NDArray[np.int16] = np.where(inside, labels.labels_XYZ.ravel()[flat], 0).astype(np.int16)
    return taken


def resize_structures(labels: LabelMap, factors: Mapping[tuple[int, ...], float]) -> NDArray[np.float32]:
    """A smooth warp that brings chosen structures to other volumes; what is further than 16 mm from them stays.

    Every voxel near a structure's surface is moved along the way to that surface, by one step for all, which fades with
    the distance. The step is found by bisection on the volume of the warped label map.

    Args:
        labels: With isotropic voxels.
        factors: By the labels of a structure, its volume after against before, 0.4 to 2.5. Structures that touch each
            other had better not be chosen together.

    Returns:
        float32 (3, X, Y, Z): for each voxel the voxel coordinates it comes from, for `take`.

    Raises:
        InputError: A structure is not there, or cannot be brought to its volume by a warp that tears nothing.
    """
    mm = float(np.cbrt(abs(np.linalg.det(labels.affine[:3, :3]))))
    shape = labels.labels_XYZ.shape
    places_3XYZ = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij"))
    moved_3XYZ = places_3XYZ.copy()
    for codes, factor in factors.items():
        inside_XYZ = np.isin(labels.labels_XYZ, codes)
        if not inside_XYZ.any():
            raise InputError(f"{labels.path}: has no voxel of {', '.join(map(str, codes))}; it cannot be resized")
        where, reach = np.argwhere(inside_XYZ), int(np.ceil((_GROWING_MM[1] + 4) / mm))
        near = tuple(slice(max(0, low - reach), high + 1 + reach)
                     for low, high in zip(where.min(0), where.max(0), strict=True))  # fmt: skip
        name = f"{labels.path}: structure {codes[0]}"
        moved_3XYZ[(slice(None), *near)] += _moves_for(inside_XYZ[near], mm, factor, name)
    return moved_3XYZ


def take_labels(labels_XYZ: NDArray[np.int16], places_3XYZ: NDArray[np.float32]) -> NDArray[np.int16]:
    """Labels at voxel coordinates, each where most of it is: borders move by less than a voxel, too."""
    here_3XYZ = np.stack(np.meshgrid(*(np.arange(size) for size in labels_XYZ.shape), indexing="ij"))
    where = np.argwhere((np.abs(places_3XYZ - here_3XYZ) > 1e-3).any(0))
    if not len(where):
        return labels_XYZ.copy()
    near = tuple(slice(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True))
    places_3xyz, taken_XYZ = np.ascontiguousarray(places_3XYZ[(slice(None), *near)]), labels_XYZ.copy()
    best_xyz = np.full(places_3xyz.shape[1:], -1, np.float32)
    for label in np.unique(labels_XYZ):
        share_xyz = take((labels_XYZ == label).astype(np.float32), places_3xyz)
        better = share_xyz > best_xyz
        best_xyz[better] = share_xyz[better]
        taken_XYZ[near][better] = label
    return taken_XYZ


def take(voxels_XYZ: NDArray[np.float32], places_3XYZ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values at voxel coordinates, linear between voxels; the edge's outside."""
    sizes = torch.tensor([size - 1 for size in voxels_XYZ.shape], dtype=torch.float32)
    grid_XYZ3 = torch.from_numpy(places_3XYZ).movedim(0, 3) / sizes.clamp(min=1) * 2 - 1
    taken = functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(voxels_XYZ, np.float32))[None, None], grid_XYZ3.flip(3)[None],
        mode="bilinear", padding_mode="border", align_corners=True,
    )  # fmt: skip
    return np.asarray(taken[0, 0].numpy())


# --- parts ------------------------------------------------------------------------------------------------------------


def _matrix(warp: RandomWarp, draw: np.random.Generator) -> NDArray[np.float32]:
    """Scaling, shearing and three rotations, one after the other."""
    matrix = np.diag(1 + draw.uniform(-warp.scale, warp.scale, 3))
    shears = draw.uniform(-warp.shear, warp.shear, 6)
    matrix = matrix @ (np.eye(3) + np.array([[0, *shears[:2]], [shears[2], 0, shears[3]], [*shears[4:], 0]]))
    for axis, angle in enumerate(np.radians(draw.uniform(-warp.rotation, warp.rotation, 3))):
        one, two = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[[one, two], [one, two]] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return np.asarray(matrix, np.float32)


def _smooth(
    shape: tuple[int, int, int], mm: float, spacing_mm: float, draw: np.random.Generator
) -> NDArray[np.float32]:
    """Three smooth fields with a standard deviation of 1 at their control points."""
    coarse = [max(2, round(size * mm / spacing_mm) + 1) for size in shape]
    points = torch.from_numpy(draw.standard_normal((1, 3, *coarse), np.float32))
    return np.asarray(functional.interpolate(points, shape, mode="trilinear", align_corners=True)[0].numpy())


def _moves_for(inside_XYZ: NDArray[np.bool_], mm: float, factor: float, name: str) -> NDArray[np.float32]:
    """The displacements, in voxels, that bring a structure to its volume."""
    from scipy import ndimage  # noqa: PLC0415

    outside = ndimage.distance_transform_edt(~inside_XYZ) - ndimage.distance_transform_edt(inside_XYZ)
    depth_XYZ = ndimage.gaussian_filter(outside.astype(np.float32) * mm, 2.0 / mm)
    outward_3XYZ = np.stack(np.gradient(depth_XYZ, mm))
    first, last = _GROWING_MM if factor > 1 else _SHRINKING_MM
    away_XYZ = np.where(depth_XYZ < 0, -depth_XYZ / _DEEP_MM, (depth_XYZ - first) / (last - first))
    whole_3XYZ = np.asarray(np.cos(away_XYZ.clip(0, 1) * np.pi / 2) ** 2 * outward_3XYZ / -mm, np.float32)
    places_3XYZ = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in inside_XYZ.shape),
                                       indexing="ij"))  # fmt: skip
    shape_XYZ, wanted = inside_XYZ.astype(np.float32), inside_XYZ.sum() * factor
    low, high = -_DEEP_MM / 2, _DEEP_MM / 2  # the fade's slope stays below 1, so that nothing folds
    for _ in range(16):
        step = (low + high) / 2
        grown = float((take(shape_XYZ, places_3XYZ + np.float32(step) * whole_3XYZ) > 0.5).sum())
        low, high = (step, high) if grown < wanted else (low, step)
    if abs(grown - wanted) > _TOLERANCE * wanted:
        raise InputError(f"{name}: cannot be brought to {factor:g} of its volume by a smooth warp; choose nearer to 1")
    return np.float32(step) * whole_3XYZ
