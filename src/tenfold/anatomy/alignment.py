"""Bias field, brain mask, alignment and deformation, with SimpleITK; one thread, so that results are the same again.

Transforms map points of the template's space (mm, LPS as in ITK) to points of the image's space.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from numpy.typing import NDArray
from scipy import ndimage

from tenfold.anatomy.images import Image
from tenfold.core.errors import InputError

__all__ = [
    "brain_in_head",
    "check_volume",
    "correct_bias",
    "deform",
    "determinant",
    "identity",
    "otsu_mask",
    "register",
    "resample",
    "resample_to",
    "stripped_mask",
]

_LPS = np.diag([-1.0, -1.0, 1.0])
_N4_MM = 6.0  # the field is smooth: it is fitted on voxels of this size
_LEVELS_MM = (8.0, 4.0, 2.0)  # voxels of the pyramid; finer ones move the result by less than the anatomy varies
_SAMPLES = 20_000
_PITCHES = (-0.35, 0.0, 0.35)  # rad; heads nod more than they turn


@contextmanager
def _one_thread() -> Iterator[None]:
    """With more, sums differ in their last bits from run to run; a filter's own setting does not reach its parts."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


# --- bias field ------------------------------------------------------------------------------------------------------


@_one_thread()
def correct_bias(image: Image, inside_XYZ: NDArray[np.bool_]) -> Image:
    """Divide the voxels by their bias field, fitted inside the mask (N4; Tustison et al. 2010).

    Returns:
        The image, 0 and above, with its mean in the mask about as before.

    Raises:
        InputError: Hardly any voxel of 6 mm lies in the mask.
    """
    floor = min(float(image.voxels_XYZ.min()), 0.0)  # N4 takes logarithms
    full = _to_sitk(Image(image.voxels_XYZ - floor, image.affine, image.path))
    mask = _to_sitk(Image(inside_XYZ.astype(np.float32), image.affine, image.path))
    shrink = [max(1, round(_N4_MM / size)) for size in image.zooms]
    coarse_mask = sitk.Cast(sitk.Shrink(mask, shrink) > 0.5, sitk.sitkUInt8)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(coarse_mask)
    if not shape.HasLabel(1):
        raise InputError(
            f"{image.path}: its brain mask is too thin to find the bias field in; give one of the whole brain"
        )
    box = shape.GetBoundingBox(1)  # the spline's mesh then covers the brain only
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 50])
    n4.SetConvergenceThreshold(1e-3)
    coarse = sitk.RegionOfInterest(sitk.Shrink(full, shrink), box[3:], box[:3])
    n4.Execute(coarse, sitk.RegionOfInterest(coarse_mask, box[3:], box[:3]))
    field_XYZ = np.exp(_from_sitk(n4.GetLogBiasFieldAsImage(full)))
    field_XYZ /= field_XYZ[inside_XYZ].mean()
    return Image(((image.voxels_XYZ - floor) / field_XYZ).astype(np.float32), image.affine, image.path)


# --- masks -----------------------------------------------------------------------------------------------------------


def stripped_mask(image: Image) -> NDArray[np.bool_]:
    """The brain of an image whose background has one value, its lowest.

    Raises:
        InputError: Less than a tenth of the voxels have the lowest value: the skull is still there.
    """
    outside_XYZ = image.voxels_XYZ == image.voxels_XYZ.min()
    if outside_XYZ.mean() < 0.1:
        raise InputError(
            f"{image.path}: only {outside_XYZ.mean():.0%} of its voxels are background; it is not skull-stripped, "
            "take the mask 'template' or give masks"
        )
    return _one_piece(~outside_XYZ, image)


def otsu_mask(image: Image) -> NDArray[np.bool_]:
    """What is brighter than Otsu's threshold, in one piece without holes: of a whole head the scalp is inside, too."""
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.SetInsideValue(0)
    threshold.SetOutsideValue(1)
    bright_XYZ = _from_sitk(threshold.Execute(_to_sitk(image))) > 0
    return _one_piece(bright_XYZ, image)


def brain_in_head(image: Image, template: Image, seed: int) -> NDArray[np.bool_]:
    """The brain in a whole head: where an affine registration puts the template's brain, trimmed to tissue.

    The template is skull-stripped. Inside its brain, grown by 6 mm, what is darker than half the brain's median (skull,
    air, most of the CSF around the brain) goes, then what hangs on by less than 4 mm, then holes are filled.
    """
    inside = stripped_mask(template)
    transform = register(image, template, inside, "affine", seed, finest_mm=4.0)
    placed = Image(inside.astype(np.float32), template.affine, template.path)
    rough_XYZ = resample(placed, transform.GetInverse(), image, smooth=False) > 0.5
    near_XYZ = _grow(rough_XYZ, image, 6.0)
    tissue = np.median(image.voxels_XYZ[_grow(rough_XYZ, image, -6.0)])
    bright_XYZ = near_XYZ & (image.voxels_XYZ > tissue / 2)
    core_XYZ = _largest(_grow(bright_XYZ, image, -4.0))
    return _one_piece(_grow(core_XYZ, image, 5.0) & (bright_XYZ | _grow(rough_XYZ, image, -4.0)), image)


def _grow(inside_XYZ: NDArray[np.bool_], image: Image, mm: float) -> NDArray[np.bool_]:
    """Grown by a distance in mm, or shrunk where it is negative."""
    if mm < 0:
        return np.asarray(ndimage.distance_transform_edt(inside_XYZ, image.zooms) > -mm)
    return np.asarray(ndimage.distance_transform_edt(~inside_XYZ, image.zooms) <= mm)


def _largest(inside_XYZ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces_XYZ, _ = ndimage.label(inside_XYZ)
    sizes = np.bincount(pieces_XYZ.ravel())
    sizes[0] = 0
    return np.asarray((pieces_XYZ == sizes.argmax()) & inside_XYZ)


def check_volume(inside_XYZ: NDArray[np.bool_], image: Image) -> None:
    """Raises InputError, which names the image, where a mask is too small or too large for a brain."""
    litres = inside_XYZ.sum() * float(np.prod(image.zooms)) / 1e6
    if not 0.2 <= litres <= 8:
        raise InputError(
            f"{image.path}: its brain mask has {litres:.3g} litres; check voxel size and image, or give another mask"
        )


def _one_piece(inside_XYZ: NDArray[np.bool_], image: Image) -> NDArray[np.bool_]:
    whole_XYZ = np.asarray(ndimage.binary_fill_holes(_largest(inside_XYZ)))
    check_volume(whole_XYZ, image)
    return whole_XYZ


# --- alignment -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    fixed: sitk.Image
    moving: sitk.Image
    mask: sitk.Image


@_one_thread()
def register(
    image: Image,
    template: Image,
    inside_XYZ: NDArray[np.bool_],
    kind: Literal["affine", "rigid"],
    seed: int,
    finest_mm: float = 2.0,
) -> Any:
    """Align an image to a template: Mattes' mutual information inside the template's mask, from coarse to fine.

    Args:
        image: The moving image, a brain or a head.
        template: The fixed image.
        inside_XYZ: Where on the template the two are compared.
        kind: With 12 or 6 parameters.
        seed: Of the voxels that are sampled.
        finest_mm: Where the pyramid ends.

    Returns:
        A SimpleITK transform from the template's points to the image's.

    Raises:
        InputError: No alignment was found: the images do not overlap, or are too different.
    """
    mask = _to_sitk(Image(_grow(inside_XYZ, template, 4.0).astype(np.float32), template.affine, template.path))
    pair = _Pair(_to_sitk(template), _to_sitk(image), sitk.Cast(mask > 0.5, sitk.sitkUInt8))
    try:
        start = _best_start(pair, seed)
        levels_mm = tuple(mm for mm in _LEVELS_MM if mm >= finest_mm)
        rigid = _improve(pair, start, seed, levels_mm[:2])
        if kind == "rigid":
            return _improve(pair, rigid, seed, levels_mm[2:])
        affine = sitk.AffineTransform(3)
        affine.SetCenter(rigid.GetCenter())
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        return _improve(pair, affine, seed, levels_mm)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:120]
        raise InputError(
            f"{image.path}: cannot be aligned to {template.path.name} ({reason}); check its orientation"
        ) from None


def _best_start(pair: _Pair, seed: int) -> Any:
    """Of several nods and shifts of the head, all around the centres of mass, the one with most information."""
    begun = sitk.CenteredTransformInitializer(
        pair.fixed, pair.moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    base = np.array(sitk.Euler3DTransform(begun).GetTranslation())
    method = _method(pair, seed, _LEVELS_MM[0])
    fixed, moving = _at(pair, _LEVELS_MM[0])
    found: list[tuple[float, int, Any]] = []
    for pitch in _PITCHES:
        for up in (0.0, 20.0, 40.0, 60.0):
            trial = sitk.Euler3DTransform(begun)
            trial.SetRotation(pitch, 0.0, 0.0)
            trial.SetTranslation(base + np.array([0.0, 0.0, up]))
            method.SetInitialTransform(trial)
            found.append((method.MetricEvaluate(fixed, moving), len(found), trial))
    return min(found)[2]


def _improve(pair: _Pair, start: Any, seed: int, levels_mm: tuple[float, ...]) -> Any:
    transform = start
    for mm in levels_mm:
        method = _method(pair, seed, mm)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2.0,
            minStep=0.01,
            numberOfIterations=120,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-5,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(*_at(pair, mm))
    return transform


def _method(pair: _Pair, seed: int, mm: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(pair.mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    voxels = np.prod(
        [length * size / mm for length, size in zip(pair.fixed.GetSize(), pair.fixed.GetSpacing(), strict=True)]
    )
    method.SetMetricSamplingPercentage(float(min(1.0, _SAMPLES / voxels)), seed + 1)  # 0 would mean the clock
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _at(pair: _Pair, mm: float) -> tuple[sitk.Image, sitk.Image]:
    return _coarser(pair.fixed, mm), _coarser(pair.moving, mm)


def _coarser(image: sitk.Image, mm: float) -> sitk.Image:
    shrink = [max(1, round(mm / size)) for size in image.GetSpacing()]
    smooth = sitk.SmoothingRecursiveGaussian(
        image, [0.5 * size * factor for size, factor in zip(image.GetSpacing(), shrink, strict=True)]
    )
    return sitk.Shrink(smooth, shrink)


@_one_thread()
def deform(
    fixed_XYZ: NDArray[np.float32], moving_XYZ: NDArray[np.float32], steps: int, smooth: float
) -> NDArray[np.float32]:
    """Diffeomorphic demons (Vercauteren et al. 2009) between two images of one grid and one brightness.

    Args:
        fixed_XYZ: The image to be met.
        moving_XYZ: The image to be bent.
        steps: Of the optimisation.
        smooth: Standard deviation in voxels of the Gaussian that keeps the field smooth.

    Returns:
        float32 (3, X, Y, Z): by how many voxels further each voxel is taken from the moving image.
    """
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(steps)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(smooth)
    # The arrays go in as they are: what ITK calls z is X here, so the components come out in the opposite order.
    field = demons.Execute(sitk.GetImageFromArray(fixed_XYZ), sitk.GetImageFromArray(moving_XYZ))
    moves = np.moveaxis(sitk.GetArrayFromImage(field)[..., ::-1], 3, 0)
    return np.ascontiguousarray(moves, np.float32)


def determinant(transform: Any) -> float:
    """By how much volumes of the template's space are larger in the image's space."""
    corners = np.array([transform.TransformPoint(point) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist()])
    return float(np.linalg.det(corners[1:] - corners[0]))


# --- resampling ------------------------------------------------------------------------------------------------------


def resample(
    image: Image, transform: Any, grid: Image, smooth: bool = True, outside: float = 0.0
) -> NDArray[np.float32]:
    """Bring an image onto the grid of another, by one linear interpolation.

    Where the grid is coarser, the image is smoothed first, to the resolution of the grid.

    Returns:
        float32 voxels of the grid's shape; `outside` beyond the image.
    """
    moving = _to_sitk(image)
    if smooth:
        for axis, (size, target) in enumerate(zip(image.zooms, grid.zooms, strict=True)):
            if target > 1.01 * size:
                sigma = np.sqrt(target**2 - size**2) / 2.355
                moving = sitk.RecursiveGaussian(
                    moving, float(sigma), False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
                )
    reference = _to_sitk(grid)
    return _from_sitk(sitk.Resample(moving, reference, transform, sitk.sitkLinear, outside, sitk.sitkFloat32))


def resample_to(image: Image, grid: Image) -> NDArray[np.float32]:
    """Bring an image onto a grid of the same space."""
    return resample(image, identity(), grid)


def identity() -> Any:
    """The transform that leaves points where they are."""
    return sitk.Transform(3, sitk.sitkIdentity)


def _to_sitk(image: Image) -> sitk.Image:
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.voxels_XYZ.transpose(2, 1, 0), np.float32))
    turned = _LPS @ image.affine[:3]
    made.SetOrigin(turned[:, 3].tolist())
    made.SetSpacing(image.zooms)
    made.SetDirection((turned[:, :3] / np.array(image.zooms)).ravel().tolist())
    return made


def _from_sitk(image: sitk.Image) -> NDArray[Any]:
    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0))
