"""Label files, such as SynthSeg's with `--parc`, to volumes: voxels counted, times the volume of one by the affine.

Orientation does not matter to a count. What matters is the size of a voxel: a file with no affine or the identity, as
scripts leave it that save bare arrays, is refused unless the size is given.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import read_volume
from tenfold.anatomy.labels import STRUCTURES, Scheme, Side
from tenfold.anatomy.volumes import Measured, combine_sides
from tenfold.core.errors import InputError

__all__ = ["count_labels", "read_segmentations", "scheme_of"]

_MOST_VOXELS = 1 << 30
_HIGHEST = 15_000  # of a label: aparc.a2009s goes up to 14,175
_HEAD = range(500, 600)  # tissue around the brain, in the label maps SynthSeg is trained on
_NO_BRAIN = (30, 62, 72, 85, 165, 258, 259, *_HEAD)  # vessels, optic chiasm, bone and the like
_LEAST_KNOWN = 0.5  # of labelled voxels in a brain
_LEAST_EQUAL = 0.25  # of voxels, to the next along the longest axis


def read_segmentations(path: Path | str, voxel_mm: float | None = None) -> Measured:
    """Volumes of a label file, or of every one in a folder and its subfolders.

    FreeSurfer's numbers (SynthSeg, FastSurfer) and MUSE's are told apart by the labels. The 15 + 3 structures are
    always there, with 0 mm³ where a label is absent; cortical regions where any file has them. The intracranial volume
    is that of all labels inside the skull.

    Args:
        path: .nii, .nii.gz or .mgz. In a folder with files named `*_dseg.nii*` or `*_synthseg.nii*` only those count.
        voxel_mm: The edge of a voxel, for files that have no affine, or the identity.

    Raises:
        InputError: A file cannot be read, is no label file, is empty, or has no voxel size; or files mix numberings.
    """
    path = Path(path)
    files = [path] if path.is_file() else _find(path)
    counted = [count_labels(file, voxel_mm) for file in files]
    schemes = [scheme_of(volumes) for volumes in counted]
    for file, scheme, volumes in zip(files, schemes, counted, strict=True):
        _check_known(file, scheme, volumes)
        if scheme != schemes[0]:
            raise InputError(f"{file}: has labels of {scheme}, {files[0].name} those of {schemes[0]}; keep them apart")
    scheme = schemes[0]
    has_cortex = any(1001 <= label < 3000 for volumes in counted for label in volumes) and scheme == "freesurfer"
    sides: dict[str, dict[Side, NDArray[np.float64]]] = {
        one.name: {
            side: np.array([math.fsum(volumes.get(code, 0.0) for code in codes) for volumes in counted])
            for side, codes in one.codes(scheme).items()
        }
        for one in STRUCTURES
        if one.kind != "cortical" or has_cortex
    }
    volumes_SR, asymmetry_SR = combine_sides(sides)
    return Measured(
        subjects=tuple(_name(file, path) for file in files),
        regions=tuple(sides),
        volumes_SR=volumes_SR,
        icv_S=np.array([math.fsum(mm3 for label, mm3 in volumes.items() if label not in _NO_BRAIN or scheme == "muse")
                        for volumes in counted]),
        asymmetry_SR=asymmetry_SR,
        segmenter="muse" if scheme == "muse" else "labels",
        missing=tuple(one.name for one in STRUCTURES if one.name not in sides),
        source=str(path),
    )  # fmt: skip


def count_labels(path: Path, voxel_mm: float | None = None) -> dict[int, float]:
    """The volume in mm³ of every label of a file but 0.

    Raises:
        InputError: As for `read_segmentations`.
    """
    values, mm3 = _read_mgz(path, voxel_mm) if path.suffix == ".mgz" else _read_nifti(path, voxel_mm)
    counts = np.bincount(_whole(values, path).ravel())
    labels = np.flatnonzero(counts)
    return {int(label): float(counts[label]) * mm3 for label in labels if label}


def _read_nifti(path: Path, voxel_mm: float | None) -> tuple[NDArray[Any], float]:
    """The values of a file, and the volume of a voxel in mm³."""
    image = read_volume(path, voxel_mm)
    return image.voxels_XYZ, abs(float(np.linalg.det(image.affine[:3, :3])))


def _voxel_mm3(image: Any, path: Path, voxel_mm: float | None) -> float:
    """By the affine, unless it is the identity; then by the edge that is given."""
    stated = abs(float(np.linalg.det(np.asarray(image.affine, np.float64)[:3, :3])))
    if np.array_equal(image.affine, np.eye(4)):
        if voxel_mm is None:
            raise InputError(f"{path}: has the identity for an affine; give the voxel size in mm")
        return voxel_mm**3
    if not 1e-6 < stated < 1e6:
        raise InputError(f"{path}: its affine says that a voxel has {stated:g} mm³; that cannot be")
    if voxel_mm is not None and not np.isclose(stated, voxel_mm**3, rtol=0.03):
        raise InputError(f"{path}: states voxels of {stated:g} mm³, not {voxel_mm**3:g}; leave the size out")
    return stated


def _find(folder: Path) -> list[Path]:
    if not folder.exists():
        raise InputError(f"{folder}: is not there")
    files = sorted(one for end in ("*.nii", "*.nii.gz", "*.mgz") for one in folder.rglob(end) if one.is_file())
    named = [one for one in files if one.name.rpartition("_")[2].startswith(("dseg.", "synthseg."))]
    if not files:
        raise InputError(f"{folder}: has no .nii, .nii.gz or .mgz in it")
    return named or files


def _name(file: Path, path: Path) -> str:
    name = file.name if file == path else str(file.relative_to(path))
    return name.removesuffix(".gz").removesuffix(".nii").removesuffix(".mgz")


def _read_mgz(path: Path, voxel_mm: float | None) -> tuple[NDArray[Any], float]:
    """As `_read_nifti`, in FreeSurfer's own format."""
    import nibabel  # noqa: PLC0415 - tables do without it

    try:
        image: Any = nibabel.load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: is not there") from None
    except Exception as error:  # whatever a broken header brings about
        raise InputError(f"{path}: cannot be read as an image: {' '.join(str(error).split())[:200]}") from None
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise InputError(f"{path}: has shape {shape}; a label file has three axes")
    if not 0 < math.prod(shape) <= _MOST_VOXELS:
        raise InputError(f"{path}: says it has {math.prod(shape):,} voxels; at most {_MOST_VOXELS:,} are read")
    if not np.isfinite(image.affine).all():
        raise InputError(f"{path}: its affine has NaN or infinity in it")
    mm3 = _voxel_mm3(image, path, voxel_mm)
    try:
        return np.asanyarray(image.dataobj), mm3
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is cut or damaged: {' '.join(str(error).split())[:200]}") from None


def _whole(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    whole = values.dtype.kind in "iub"
    if not whole and not np.isfinite(values).all():
        raise InputError(f"{path}: has NaN or infinity in it; a label file holds whole numbers")
    low, high = float(values.min()), float(values.max())
    if not whole and not (values == np.rint(values)).all():
        raise InputError(
            f"{path}: holds fractions, such as {_fraction(values):g}; is it an image instead of its labels?"
        )
    if low < 0 or high > _HIGHEST:
        raise InputError(f"{path}: holds values from {low:g} to {high:g}; is it an image instead of its labels?")
    if high == 0:
        raise InputError(f"{path}: is 0 everywhere; the segmentation is empty")
    labels: NDArray[np.int64] = values.astype(np.int64)
    if (equal := _equal_neighbours(labels)) < _LEAST_EQUAL:
        raise InputError(
            f"{path}: only {equal:.0%} of its voxels have the value of their neighbour; is it an image instead of its "
            "labels?"
        )
    return labels


def _equal_neighbours(labels: NDArray[np.int64]) -> float:
    """Structures are many voxels thick: in label files two of three neighbours are equal, in images one of thirty."""
    longest = np.moveaxis(labels, int(np.argmax(labels.shape)), 0)
    before, after = longest[:-1], longest[1:]
    inside = before > 0
    return float((before == after)[inside].mean()) if inside.any() else 0.0


def _fraction(values: NDArray[Any]) -> float:
    return float(values[values != np.rint(values)].ravel()[0])


def scheme_of(volumes: Mapping[int, float]) -> Scheme:
    """Whose numbers labels are: MUSE has about a hundred gyri from 100 on, FreeSurfer hardly a label there."""
    return "muse" if sum(100 <= label < 208 for label in volumes) >= 20 and max(volumes) < 300 else "freesurfer"


def _check_known(path: Path, scheme: Scheme, volumes: Mapping[int, float]) -> None:
    known = {code for one in STRUCTURES for codes in one.codes(scheme).values() for code in codes}
    inside = {label: mm3 for label, mm3 in volumes.items() if label not in _HEAD}
    share = sum(mm3 for label, mm3 in inside.items() if label in known) / (sum(inside.values()) or 1.0)
    if share < _LEAST_KNOWN or len(known & inside.keys()) < 3:
        raise InputError(
            f"{path}: {share:.0%} of it has labels of known structures; FreeSurfer's and MUSE's numbers are known"
        )
