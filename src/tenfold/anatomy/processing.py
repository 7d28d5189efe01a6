"""The same processing for every image: RAS, bias field, brain mask, alignment, grid, intensities, padding.

The steps are those of the paper (arXiv 2409.08463) and its code: the brain alone, aligned to a template, in a box of
138 x 176 x 138 mm; below the 5th percentile of the box 0, above the 95th clipped, mapped to [-1, 1], padded with -1 to
144 x 192 x 144 mm. Here at any isotropic voxel size.
"""

# X right · Y anterior · Z superior

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import Image, read_image, read_mask, write_image
from tenfold.anatomy.sets import ImageSet, find_masks, open_images
from tenfold.anatomy.sidecars import (
    Mask,
    Processing,
    check_same,
    read_json,
    read_sidecar,
    sha256_of,
    write_json,
    write_refused,
    write_sidecar,
)
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.progress import Progress, no_progress

__all__ = [
    "Preparation", "Prepared", "Template", "check_edge", "normalise", "open_template", "prepare", "prepare_image",
]  # fmt: skip

_EDGE = 0.05  # share of brain below which a voxel is background: smoothing leaves traces of the brain far out
_FINEST_MM, _COARSEST_MM = 0.5, 8.0
_HIGHEST_SEED = 2**32 - 2  # the registration takes one more in 32 bits, where 0 is the clock


@dataclass(frozen=True)
class Template:
    """Where images are aligned to, and the grid they are brought onto.

    Attributes:
        image: The template, a brain without skull.
        inside_XYZ: Its brain.
        grid: The padded grid; its voxels are the template's.
        box: Where in the padded grid the box lies.
    """

    image: Image
    inside_XYZ: NDArray[np.bool_]
    grid: Image
    box: tuple[slice, slice, slice]


@dataclass(frozen=True)
class Prepared:
    """One processed image.

    Attributes:
        voxels_XYZ: float32 in [-1, 1], background -1, on the template's padded grid.
        facts: `brain_mm3`, volume of the brain mask in the image as it was; `enlarged`, by how much volumes of the
            result are larger than in the image; `outside_box`, the share of the brain that the box cuts off;
            `similarity`, the correlation with the template inside the template's brain; `low_value` and `high_value`,
            the two percentiles.
    """

    voxels_XYZ: NDArray[np.float32]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Preparation:
    """A processed set.

    Attributes:
        images: What could be processed, as a set.
        refused: What is wrong with each image that could not, by its name.
    """

    images: ImageSet
    refused: Mapping[str, str]


def prepare(
    images: ImageSet,
    template: Path | str,
    out: Path | str,
    *,
    mm: float = 1.0,
    mask: Mask = "template",
    masks: Path | str | None = None,
    bias: Literal["n4", "none"] = "n4",
    align: Literal["affine", "rigid", "none"] = "affine",
    seed: int = 0,
    progress: Progress = no_progress,
) -> Preparation:
    """Process a set of images into a BIDS derivative folder with sidecars. What a killed call had done is kept.

    Args:
        images: The set. Images that cannot be processed are left out and named in the result and in `refused.tsv`.
        template: A T1-weighted brain without skull, such as MNI152.
        out: The folder to fill. One that holds images of other parameters, another template or another set is refused.
        mm: Side of the voxels, 0.5 to 8 mm.
        mask: As in `Processing`; "given" takes the files in `masks`.
        masks: A folder with a mask or segmentation per image, on the image's grid, called as the image but for
            `_mask`, `_dseg`, `desc-` and `space-`.
        bias: Whether the bias field is corrected.
        align: How many parameters the alignment has.
        seed: Of the sampling in the alignment, 0 to 2^32 - 2.
        progress: Told of the phase "prepare".

    Raises:
        InputError: The template is no stripped brain; a parameter is out of range; masks are missing; no image could
            be processed; the folder cannot be written, or another process is filling it.
    """
    root, place = Path(out), Path(template)
    _check(mm, mask, masks, seed)
    processing = Processing(place.name, sha256_of(place), float(mm), mask, bias, align, seed=seed)
    opened = open_template(place, processing)
    found = find_masks(Path(masks), images) if masks is not None else {}
    try:
        with _only_one(root):
            if (earlier := read_sidecar(root)) is not None:
                check_same(earlier, processing, str(root), "this call")
                processing = replace(processing, template=earlier.template)  # it may have been renamed since
            targets = _targets(images, root, processing)
            _check_others(root, targets, images)
            _describe(root, images, processing)
            refused = _prepare_all(images, targets, opened, processing, found, root, progress)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}); free some space or name another"
        ) from None
    if len(refused) == len(images):
        raise InputError(f"{images.folder}: no image could be processed; the first: {next(iter(refused.values()))}")
    return Preparation(open_images(root, images.name), refused)


def prepare_image(image: Image, template: Template, processing: Processing, mask: Image | None = None) -> Prepared:
    """Process one image.

    Raises:
        InputError: No brain or no alignment was found; the mask lies on another grid, or is too small or too large.
    """
    from tenfold.anatomy import alignment  # noqa: PLC0415 - SimpleITK is large

    inside_XYZ = _brain(image, template, processing, mask)
    even = alignment.correct_bias(image, inside_XYZ) if processing.bias == "n4" else image
    brain = Image(np.where(inside_XYZ, even.voxels_XYZ - min(0.0, even.voxels_XYZ.min()), 0), image.affine, image.path)
    transform: Any = alignment.identity()
    if processing.align != "none":
        transform = alignment.register(brain, template.image, template.inside_XYZ, processing.align, processing.seed)
    placed_XYZ = alignment.resample(brain, transform, template.grid)
    whole = Image(inside_XYZ.astype(np.float32), image.affine, image.path)
    shares_XYZ = alignment.resample(whole, transform, template.grid)
    placed_XYZ[shares_XYZ < _EDGE] = 0
    voxels_XYZ = np.full(template.grid.voxels_XYZ.shape, -1, np.float32)
    voxels_XYZ[template.box], low, high = normalise(placed_XYZ[template.box], processing, image.path)
    enlarged = 1 / abs(alignment.determinant(transform))
    brain_mm3 = float(inside_XYZ.sum() * np.prod(image.zooms))
    kept_mm3 = float(shares_XYZ[template.box].sum() * processing.mm**3) / enlarged
    facts = {
        "brain_mm3": brain_mm3,
        "enlarged": enlarged,
        "outside_box": min(1.0, max(0.0, 1 - kept_mm3 / brain_mm3)),
        "similarity": _similarity(placed_XYZ, template),
        "low_value": low,
        "high_value": high,
    }
    return Prepared(voxels_XYZ, {name: round(float(value), 6) for name, value in facts.items()})


def normalise(
    box_XYZ: NDArray[np.float32], processing: Processing, path: Path
) -> tuple[NDArray[np.float32], float, float]:
    """Intensities from 0 up, to [-1, 1], and the two percentiles.

    As in the paper's code: below the low percentile of the box 0, clipped at the high one, divided by it, times 2
    minus 1.

    Raises:
        InputError: The high percentile is 0: the box is nearly empty.
    """
    low, high = np.percentile(box_XYZ, [processing.low, processing.high])
    if high <= 0:
        raise InputError(f"{path}: at most {100 - processing.high:g} % of the box is brain; check mask and alignment")
    kept_XYZ = np.where(box_XYZ <= low, 0, box_XYZ.clip(0, high))
    return (kept_XYZ / high * 2 - 1).astype(np.float32), float(low), float(high)


def open_template(path: Path, processing: Processing) -> Template:
    """Read a template and lay the grid: the box where it holds most of the brain, the padding evenly around it.

    Raises:
        InputError: No readable image, or not a brain without skull.
    """
    from tenfold.anatomy.alignment import resample_to, stripped_mask  # noqa: PLC0415 - SimpleITK is large

    image = read_image(path)
    inside_XYZ = stripped_mask(image)
    box = [int(np.ceil(size / processing.mm - 1e-6)) for size in processing.box_mm]
    padded = [int(np.ceil(size / processing.mm - 1e-6)) for size in processing.padded_mm]
    before = [(outer - inner) // 2 for outer, inner in zip(padded, box, strict=True)]
    affine = np.diag([processing.mm] * 3 + [1.0])
    corner = _best_corner(Image(inside_XYZ.astype(np.float32), image.affine, path), np.array(box) * processing.mm)
    affine[:3, 3] = corner + (0.5 - np.array(before)) * processing.mm
    empty = Image(np.zeros(padded, np.float32), affine, path)
    grid = Image(resample_to(image, empty), affine, path)
    slices = [slice(first, first + size) for first, size in zip(before, box, strict=True)]
    return Template(image, inside_XYZ, grid, (slices[0], slices[1], slices[2]))


def _best_corner(inside: Image, size_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower corner in mm of the box that holds most of the brain, axis by axis; the middle one of several."""
    corner = np.zeros(3)
    points = np.argwhere(inside.voxels_XYZ > 0) @ inside.affine[:3, :3].T + inside.affine[:3, 3]
    for axis, length in enumerate(size_mm):
        places = np.sort(points[:, axis])
        tries = np.arange(np.floor(places[0] - length), np.ceil(places[-1]) + 1)
        counts = np.searchsorted(places, tries + length) - np.searchsorted(places, tries)
        best = tries[counts == counts.max()]
        corner[axis] = best[len(best) // 2]
    return corner


def _brain(image: Image, template: Template, processing: Processing, mask: Image | None) -> NDArray[np.bool_]:
    from tenfold.anatomy.alignment import brain_in_head, check_volume, otsu_mask, stripped_mask  # noqa: PLC0415

    if processing.mask == "given":
        if mask is None:
            raise InputError(f"{image.path}: has no mask; give one or take another kind of mask")
        if mask.voxels_XYZ.shape != image.voxels_XYZ.shape or not np.allclose(mask.affine, image.affine, atol=0.1):
            raise InputError(f"{mask.path}: lies on another grid than {image.path.name}; resample the mask first")
        check_volume(mask.voxels_XYZ > 0, mask)
        return mask.voxels_XYZ > 0
    if processing.mask == "stripped":
        return stripped_mask(image)
    return otsu_mask(image) if processing.mask == "otsu" else brain_in_head(image, template.image, processing.seed)


def _similarity(placed_XYZ: NDArray[np.float32], template: Template) -> float:
    inside_XYZ = template.grid.voxels_XYZ > template.grid.voxels_XYZ.min()
    one, other = placed_XYZ[inside_XYZ], template.grid.voxels_XYZ[inside_XYZ]
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 else 0.0


# --- whole sets ------------------------------------------------------------------------------------------------------


def _prepare_all(
    images: ImageSet, targets: Sequence[Path], template: Template, processing: Processing, masks: Mapping[str, Path],
    root: Path, progress: Progress,
) -> dict[str, str]:  # fmt: skip
    refused: dict[str, str] = {}
    state = hashlib.sha256(json.dumps(asdict(processing), sort_keys=True).encode()).hexdigest()
    for number, (path, target) in enumerate(zip(images.paths, targets, strict=True)):
        progress("prepare", number, len(images))
        name = images.names[number]
        try:
            mask = _mask_of(name, processing, masks, images)
            source = {"Sources": [path.relative_to(images.folder).as_posix()], "processing_sha256": state}
            source |= {"source_sha256": sha256_of(path), "mask_sha256": "" if mask is None else sha256_of(mask)}
            if _is_done(target, source):
                continue
            given = None if mask is None else read_mask(mask, images.voxel_mm)
            made = prepare_image(images[number], template, processing, given)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, made.voxels_XYZ, template.grid.affine)
            write_json(_json_of(target), {**source, **made.facts})
        except InputError as error:
            refused[name] = str(error)
            target.unlink(missing_ok=True)  # of an earlier, better file
    write_refused(root, refused)
    progress("prepare", len(images), len(images))
    return refused


def _targets(images: ImageSet, root: Path, processing: Processing) -> list[Path]:
    space = re.sub(r"[^A-Za-z0-9]", "", processing.template.split(".")[0]) or "template"
    targets = []
    for name in images.names:
        bids = name if re.fullmatch(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*", name) else None
        bids = bids or "sub-" + re.sub(r"[^A-Za-z0-9]", "", name.removeprefix("sub-"))
        session = re.search(r"_(ses-[A-Za-z0-9]+)", bids)
        folder = root / bids.split("_")[0] / (session[1] if session else ".") / "anat"
        targets.append(folder / f"{bids}_space-{space}_desc-prepared_T1w.nii.gz")
    if len(set(targets)) < len(targets):
        raise InputError(f"{images.folder}: names differ only in signs that BIDS has not; rename the images")
    return targets


def _check_others(root: Path, targets: Sequence[Path], images: ImageSet) -> None:
    """Raises InputError where the folder holds images of another set, which would count as images of this one."""
    if others := sorted(set(root.rglob("*_desc-prepared_T1w.nii.gz")) - set(targets)):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"{root}: holds {others[0].name}{more}, of no image in {images.folder}; remove what should not be "
            "there, or choose another folder"
        )


def _mask_of(name: str, processing: Processing, masks: Mapping[str, Path], images: ImageSet) -> Path | None:
    if processing.mask != "given":
        return None
    if name not in masks:
        raise InputError(f"{images.folder}: {name} has no mask; give one per image")
    return masks[name]


def _json_of(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(".nii.gz") + ".json")


def _is_done(target: Path, source: Mapping[str, Any]) -> bool:
    if not target.exists() or not _json_of(target).exists():
        return False
    found = read_json(_json_of(target))
    return all(found.get(key) == value for key, value in source.items())


def _describe(root: Path, images: ImageSet, processing: Processing) -> None:
    write_json(
        root / "dataset_description.json",
        {"Name": images.name, "BIDSVersion": "1.9.0", "DatasetType": "derivative",
         "GeneratedBy": [{"Name": "tenfold anatomy prepare"}]},
    )  # fmt: skip
    if (images.folder / "participants.tsv").exists():
        with replace_file(root / "participants.tsv") as partial:
            partial.write_bytes((images.folder / "participants.tsv").read_bytes())
    write_sidecar(root, processing)


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """The folder, for this process alone; the lock goes with the process."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{root}: another process is filling it; wait until it is done") from None
        yield


def check_edge(mm: float) -> None:
    """Raises InputError where voxels are finer or coarser than brains are prepared with."""
    if not _FINEST_MM <= mm <= _COARSEST_MM:
        raise InputError(f"mm {mm:g}: voxels have {_FINEST_MM:g} to {_COARSEST_MM:g} mm")


def _check(mm: float, mask: Mask, masks: Path | str | None, seed: int) -> None:
    check_edge(mm)
    if (mask == "given") != (masks is not None):
        raise InputError("masks: are a folder that goes with the mask 'given'; name both or neither")
    if not 0 <= seed <= _HIGHEST_SEED:
        raise InputError(f"seed {seed}: give 0 to {_HIGHEST_SEED:,}")
