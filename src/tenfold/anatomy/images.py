"""One brain image: read from NIfTI, checked, turned to RAS; and written, whole or not at all.

Files are read here rather than by nibabel's own loader, because nothing that a header says of sizes is believed: the
voxels are counted before memory is asked for, and a file that ends early is named as such.
"""

# X right · Y anterior · Z superior

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = ["Image", "LabelMap", "read_image", "read_labels", "read_mask", "read_volume", "write_image"]

_MOST_VOXELS = 2**29  # an 800 x 800 x 800 head; more is no MRI but a damaged header
_FEWEST_PER_AXIS = 8
_MOST_OFFSET = 2**24
_CHUNK = 2**22
_LARGEST_MM = 600.0  # of a volume; memory is asked for by millimetres later on
_HIGHEST_LABEL = 2**15 - 1
_BRIGHTEST = 1e12  # of a scanner 1e7 or so; squares of more than that leave float32 behind
_CT_AIR, _CT_SHARE = -200.0, 0.02  # Hounsfield units: air is -1000, fat -100; of MRI hardly a voxel is that low
_SAME_AS_NEIGHBOUR = 0.5  # real T1 up to 0.15, label maps from 0.73 on


@dataclass(frozen=True)
class Image:
    """A volume whose axes point right, anterior and superior (RAS), as nearly as its affine allows.

    Attributes:
        voxels_XYZ: float32 (X, Y, Z); finite and not constant.
        affine: float64 (4, 4), from voxel numbers to millimetres.
        path: Where it came from.
    """

    voxels_XYZ: NDArray[np.float32]
    affine: NDArray[np.float64]
    path: Path

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Size of a voxel in mm along X, Y, Z."""
        return _zooms(self.affine)


@dataclass(frozen=True)
class LabelMap:
    """The structures of a head, voxel by voxel, with axes as an `Image` has them.

    Attributes:
        labels_XYZ: int16 (X, Y, Z), 0 for background.
        affine: float64 (4, 4), from voxel numbers to millimetres.
        path: Where it came from.
    """

    labels_XYZ: NDArray[np.int16]
    affine: NDArray[np.float64]
    path: Path


def read_image(path: Path | str, voxel_mm: float | Sequence[float] | None = None) -> Image:
    """Read a T1-weighted volume from NIfTI (.nii, .nii.gz).

    Args:
        path: The file. A fourth axis of length 1 is dropped.
        voxel_mm: Size of a voxel (one number or three), for a file that states none: generators often save an identity
            affine. Such a file's axes are taken to be RAS, and the middle of the volume as the origin.

    Raises:
        InputError: No whole NIfTI; not one volume; NaN, infinite or constant voxels; values of a CT; a label map; no
            voxel size in the file and none given, or another one given than the file states.
    """
    image = read_volume(path, voxel_mm)
    _check_values(image)
    return image


def read_mask(path: Path | str, voxel_mm: float | Sequence[float] | None = None) -> Image:
    """Read a brain mask or a segmentation as a mask: voxels_XYZ is 1 where the file is above 0, else 0.

    Raises:
        InputError: As `read_image`, or the mask is empty.
    """
    image = read_volume(path, voxel_mm)
    inside_XYZ = image.voxels_XYZ > 0
    if not inside_XYZ.any():
        raise InputError(f"{path}: the mask is empty; give one that covers the brain")
    return Image(inside_XYZ.astype(np.float32), image.affine, image.path)


def read_labels(path: Path | str, voxel_mm: float | Sequence[float] | None = None) -> LabelMap:
    """Read a label map.

    Raises:
        InputError: As `read_image`, or voxels are no whole numbers from 0 to 32,767, or 0 everywhere.
    """
    image = read_volume(path, voxel_mm)
    labels_XYZ = image.voxels_XYZ
    if not np.array_equal(labels_XYZ, np.rint(labels_XYZ)) or labels_XYZ.min() < 0 or labels_XYZ.max() > _HIGHEST_LABEL:
        raise InputError(f"{path}: is no label map; give whole numbers, such as FreeSurfer's")
    if not labels_XYZ.any():
        raise InputError(f"{path}: is 0 everywhere; leave out the label map")
    return LabelMap(labels_XYZ.astype(np.int16), image.affine, image.path)


def write_image(path: Path, voxels_XYZ: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write a volume as .nii.gz, the same bytes for the same voxels. float32 and integers are kept as they are.

    Raises:
        OSError: The file cannot be written; then there is none.
    """
    import nibabel  # noqa: PLC0415

    image = nibabel.Nifti1Image(voxels_XYZ, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="aligned")
    image.set_qform(affine, code="aligned")
    with replace_file(path) as partial:
        partial.write_bytes(gzip.compress(image.to_bytes(), 4, mtime=0))


# --- the file --------------------------------------------------------------------------------------------------------


def read_volume(path: Path | str, voxel_mm: float | Sequence[float] | None = None) -> Image:
    """Read a volume, whatever its values say.

    Raises:
        InputError: No whole NIfTI; not one volume; NaN or infinite voxels; no voxel size in the file and none given, or
            another one given than the file states.
    """
    import nibabel  # noqa: PLC0415

    path = Path(path)
    try:
        with _open(path) as file:
            header = _header(file, path)
            shape = _shape(header, path)
            raw = _voxels(file, header, shape, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); fetch or save it again") from None
    affine = _affine(header, shape, voxel_mm, path)
    extents = [size * zoom for size, zoom in zip(shape, _zooms(affine), strict=True)]
    if max(extents) > _LARGEST_MM:
        raise InputError(f"{path}: is {_times(extents)} mm large; is the size of its voxels in mm?")
    turn = nibabel.orientations.io_orientation(affine)
    turned = nibabel.orientations.apply_orientation(raw, turn)
    affine = affine @ nibabel.orientations.inv_ornt_aff(turn, shape)
    image = Image(np.ascontiguousarray(turned, np.float32), affine, path)
    if bad := int((~np.isfinite(image.voxels_XYZ)).sum()):
        raise InputError(f"{path}: {bad} of {raw.size} voxels are NaN or infinite; mend or leave out the image")
    return image


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name one .nii or .nii.gz file")
    with path.open("rb") as file:
        magic = file.read(2)
    return cast(IO[bytes], gzip.open(path)) if magic == b"\x1f\x8b" else path.open("rb")


def _header(file: IO[bytes], path: Path) -> Any:
    import nibabel  # noqa: PLC0415
    from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415

    start = file.read(4)
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    size = next((size for size in kinds for order in ("little", "big") if start == size.to_bytes(4, order)), 0)
    if not size:
        raise InputError(f"{path}: is no NIfTI file; give a .nii or .nii.gz volume")
    block = start + file.read(size - 4)
    if len(block) < size:
        raise InputError(f"{path}: ends within its header; the file is cut")
    try:
        header = kinds[size](block, check=False)
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError, ValueError) as error:
        raise InputError(f"{path}: its header is damaged ({str(error)[:100]}); fetch or save it again") from None
    if not header["magic"].item().startswith(b"n+"):
        raise InputError(f"{path}: is no NIfTI file with its voxels inside; save it as one .nii.gz")
    if dtype.fields is not None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: has voxels of type {dtype}; give one number per voxel, such as float32")
    return header


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    dims = [int(size) for size in header["dim"]]
    if not 1 <= dims[0] <= 7 or any(size < 1 for size in dims[1 : dims[0] + 1]):
        raise InputError(f"{path}: its header states sizes {dims}; the file is damaged")
    shape = dims[1 : dims[0] + 1]
    if len(shape) > 3 and any(size > 1 for size in shape[3:]):
        raise InputError(f"{path}: is {len(shape)}D, {_times(shape)}; give one volume per file")
    shape = [*shape, 1, 1][:3]
    if min(shape) < _FEWEST_PER_AXIS:
        raise InputError(
            f"{path}: has {_times(shape)} voxels; a volume has at least {_FEWEST_PER_AXIS} along each axis"
        )
    if np.prod(shape, dtype=float) > _MOST_VOXELS:
        raise InputError(f"{path}: its header states {_times(shape)} voxels, more than any head has; it is damaged")
    return shape[0], shape[1], shape[2]


def _voxels(file: IO[bytes], header: Any, shape: tuple[int, int, int], path: Path) -> NDArray[Any]:
    offset = float(header["vox_offset"])
    if not file.tell() <= offset <= _MOST_OFFSET:
        raise InputError(f"{path}: its header puts the voxels at byte {offset:g}; the file is damaged")
    file.read(int(offset) - file.tell())
    dtype = header.get_data_dtype()
    wanted, block = int(np.prod(shape)) * dtype.itemsize, bytearray()
    while len(block) < wanted:
        try:
            piece = file.read(min(_CHUNK, wanted - len(block)))
        except EOFError:
            piece = b""
        if not piece:
            raise InputError(f"{path}: ends after {len(block)} of {wanted} bytes of voxels; the file is cut")
        block += piece
    file.read(1)  # past the end the checksum of gzip is compared
    voxels = np.frombuffer(block, dtype).reshape(shape, order="F")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or not np.isfinite(intercept):
        return voxels  # the format's way to say: as they are
    return voxels if (slope, intercept) == (1, 0) else voxels * np.float64(slope) + intercept


# --- where the voxels lie --------------------------------------------------------------------------------------------


def _affine(
    header: Any, shape: tuple[int, int, int], voxel_mm: float | Sequence[float] | None, path: Path
) -> NDArray[np.float64]:
    stated = _stated_affine(header, path)
    sizes = None if voxel_mm is None else _three(voxel_mm)
    if stated is None:
        if sizes is None:
            raise InputError(f"{path}: states no voxel size (no affine, or the identity); give the voxel size in mm")
        affine = np.diag([*sizes, 1.0])
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * sizes
        return affine
    if not np.isfinite(stated).all() or abs(np.linalg.det(stated[:3, :3])) < 1e-6:
        raise InputError(f"{path}: its affine is damaged; save the image with a valid one")
    found = _zooms(stated)
    if sizes is not None and not np.allclose(sorted(found), sorted(sizes), rtol=0.01):
        raise InputError(f"{path}: states voxels of {_times(found)} mm, not {_times(sizes)}; leave the size out")
    if not all(0.1 <= size <= 20 for size in found):
        raise InputError(f"{path}: states voxels of {_times(found)} mm; a head has 0.1 to 20 mm")
    return stated


def _stated_affine(header: Any, path: Path) -> NDArray[np.float64] | None:
    """The sform, else the qform; None where there is none or it is the identity, which programs write for "unknown"."""
    from nibabel.spatialimages import HeaderDataError  # noqa: PLC0415

    try:
        affine = None
        if header["sform_code"] > 0:
            affine = header.get_sform()
        elif header["qform_code"] > 0:
            header["pixdim"][0] = header["pixdim"][0] or 1  # as the standard reads 0
            affine = header.get_qform()
    except ValueError:  # a quaternion that is none
        affine = None
    except HeaderDataError as error:
        raise InputError(f"{path}: its header is damaged ({error}); fetch or save it again") from None
    return None if affine is None or np.array_equal(affine, np.eye(4)) else np.asarray(affine, np.float64)


def _three(voxel_mm: float | Sequence[float]) -> tuple[float, float, float]:
    sizes = np.broadcast_to(np.asarray(voxel_mm, float), 3) if np.size(voxel_mm) in (1, 3) else np.zeros(3)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(f"voxel size {voxel_mm}: is not one or three positive numbers of mm")
    return float(sizes[0]), float(sizes[1]), float(sizes[2])


def _zooms(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
    return float(sizes[0]), float(sizes[1]), float(sizes[2])


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


# --- what the voxels say ---------------------------------------------------------------------------------------------


def _check_values(image: Image) -> None:
    voxels_XYZ = image.voxels_XYZ
    low, high = float(voxels_XYZ.min()), float(voxels_XYZ.max())
    if low == high:
        what = "is all zero" if low == 0 else f"is {low:g} everywhere"
        raise InputError(f"{image.path}: {what}; leave out the image")
    if max(-low, high) > _BRIGHTEST:
        raise InputError(f"{image.path}: has values from {low:g} to {high:g}; it is damaged")
    if high > -_CT_AIR and (voxels_XYZ < _CT_AIR).mean() > _CT_SHARE:
        raise InputError(f"{image.path}: has values from {low:g} to {high:g}, as a CT has; give T1-weighted MRI")
    if _is_label_map(voxels_XYZ):
        raise InputError(f"{image.path}: looks like a label map or mask; give the image itself")


def _is_label_map(voxels_XYZ: NDArray[np.float32]) -> bool:
    """Whether values are whole numbers and mostly equal to their neighbours', background apart."""
    if not np.array_equal(voxels_XYZ, np.rint(voxels_XYZ)):
        return False
    background, same, pairs = voxels_XYZ.min(), 0, 0
    for axis in range(3):
        left, right = np.moveaxis(voxels_XYZ, axis, 0)[:-1], np.moveaxis(voxels_XYZ, axis, 0)[1:]
        inside = (left > background) & (right > background)
        pairs += int(inside.sum())
        same += int((inside & (left == right)).sum())
    return pairs > 0 and same / pairs >= _SAME_AS_NEIGHBOUR
