"""Images to labels and volumes: one interface for every back end, and the run over a set of images.

    out/NAME_dseg.nii.gz   labels with FreeSurfer's numbers, on the grid of the image
    out/NAME_volumes.json  its volumes and QC scores; written last, so what has one is done
    out/volumes.tsv        the table of all, which `evaluate` reads; `segmentation.json` says by what
    out/refused.tsv        the images that cannot be segmented, and why

An image that cannot be segmented, such as a blank one, does not hold up the others, nor does one that `prepare` could
not process. Where there are QC scores it has a row with scores of 0, so that the gate counts it; where there are none
it is left out of the table.

A run that was interrupted goes on: what was segmented and scored by the same back end from the same file is
kept.
"""

# X right · Y anterior · Z superior · S subjects · R regions · G QC groups

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import Image, write_image
from tenfold.anatomy.labels import QC_GROUPS, STRUCTURES, Side
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import read_json, sha256_of, write_json, write_refused
from tenfold.anatomy.tables import write_measured
from tenfold.anatomy.volumes import Measured, combine_sides
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["Segmentation", "Segmenter", "complete", "none_reliable", "segment"]

_ABOUT, _TABLE = "segmentation.json", "volumes.tsv"


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter found in one image.

    Attributes:
        labels_XYZ: int16 (X, Y, Z), FreeSurfer's numbers, on the grid of the image.
        volumes: mm³ by structure of `labels.STRUCTURES` and side; soft where the segmenter has probabilities.
        icv: mm³, the intracranial volume.
        qc: Predicted Dice score, 0 to 1, by group of `labels.QC_GROUPS`; empty where none was calibrated.
    """

    labels_XYZ: NDArray[np.int16]
    volumes: Mapping[str, Mapping[Side, float]]
    icv: float
    qc: Mapping[str, float] = field(default_factory=dict)


class Segmenter(Protocol):
    """What turns an image into labels and volumes.

    Attributes:
        name: For results; says all that the labels depend on, such as which weights.
        predictor: All that the QC scores depend on besides; None where there are none, or nothing else.
    """

    name: str
    predictor: str | None

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image, on any grid; its voxels may have any scale of intensities, its background is darkest."""


def segment(images: ImageSet, segmenter: Segmenter, out: Path | str, progress: Progress = no_progress) -> Measured:
    """Segment a set of images, one at a time.

    Args:
        images: Prepared or not, with or without skull as the segmenter is meant for.
        segmenter: The back end.
        out: Folder for labels, a file of volumes per image, and the table.
        progress: Told of the phase "segmenting".

    Returns:
        The volumes of all; also written to `out/volumes.tsv`.

    Raises:
        InputError: No image can be segmented, or the folder holds segmentations of another back end or cannot be
            written.
    """
    place = Path(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _claim(place, segmenter.name)
        (place / _TABLE).unlink(missing_ok=True)  # of images that may have changed since
        rows = []
        for number, name in enumerate(images.names):
            rows.append(_one(images, number, segmenter, place / f"{name}_volumes.json"))
            progress("segmenting", number + 1, len(images))
        found = {name: row for name, row in zip(images.names, rows, strict=True) if "refused" not in row}
        refused = {name: row["refused"] for name, row in zip(images.names, rows, strict=True) if "refused" in row}
        write_refused(place, refused | dict(images.refused))
        if not found:
            why = next(iter(refused.values()))
            raise InputError(f"{images.folder}: no image could be segmented; the first: {why}")
        measured = complete(images, _gather(images, found, segmenter.name))
        write_measured(measured, place / _TABLE)
    except OSError as error:
        raise InputError(f"{out}: cannot hold segmentations ({error.strerror}); choose another place") from None
    return measured


def none_reliable(images: ImageSet, like: Measured) -> Measured:
    """Of images none of which can be read: nothing was measured, and the gate rejects all.

    Args:
        images: The set.
        like: Volumes with QC scores, for the names of regions and groups.
    """
    count = len(images)
    return Measured(
        images.names, like.regions, np.zeros((count, len(like.regions))), np.ones(count),
        np.zeros((count, len(like.groups))), like.groups, segmenter=like.segmenter, source=str(images.folder),
        processing=images.processing,
    )  # fmt: skip


def complete(images: ImageSet, measured: Measured) -> Measured:
    """All images in the order of the set, behind them those that `prepare` could not process.

    Those that were not measured are not reliable; where there are no scores, they are left out.
    """
    names = tuple(dict.fromkeys([*images.names, *images.refused]))
    lost = tuple(name for name in names if name not in measured.subjects)
    whole = measured.add_unreliable(lost, images.people(lost))
    rows = {name: number for number, name in enumerate(whole.subjects)}
    return whole.take([rows[name] for name in names if name in rows])


def _claim(place: Path, name: str) -> None:
    """A folder belongs to one back end."""
    about = place / _ABOUT
    if not about.exists():
        if next(place.iterdir(), None) is not None:
            raise InputError(f"{place}: holds other things; choose an empty or a new folder")
        write_json(about, {"segmenter": name})
    elif (found := read_json(about).get("segmenter")) != name:
        raise InputError(f"{place}: holds segmentations by {found}, not by {name}; choose another folder")


def _one(images: ImageSet, number: int, segmenter: Segmenter, target: Path) -> Mapping[str, Any]:
    """What was found in one image, or, as "refused", why nothing was."""
    stated = None if images.voxel_mm is None else np.ravel(images.voxel_mm).tolist()
    source: dict[str, Any] = {"source_sha256": sha256_of(images.paths[number]), "voxel_mm": stated}
    source["predictor"] = segmenter.predictor
    if target.exists():
        kept = read_json(target)
        if all(kept.get(key) == value for key, value in source.items()):
            return kept
    labels = target.with_name(f"{images.names[number]}_dseg.nii.gz")
    try:
        image = images[number]
        found = segmenter(image)
    except InputError as error:
        labels.unlink(missing_ok=True)  # of an earlier, better file
        row = source | {"refused": str(error)}
    else:
        write_image(labels, found.labels_XYZ, image.affine)
        row = source | {"volumes": found.volumes, "icv": found.icv, "qc": found.qc}
    write_json(target, row)
    return row


def _gather(images: ImageSet, rows: Mapping[str, Mapping[str, Any]], name: str) -> Measured:
    """The table of what was found, by the images' names."""
    first = next(iter(rows.values()))
    try:
        known = [one.name for one in STRUCTURES if one.name in first["volumes"]]
        sides = {
            region: {side: np.array([row["volumes"][region][side] for row in rows.values()], np.float64)
                     for side in first["volumes"][region]}
            for region in known
        }  # fmt: skip
        groups = tuple(group for group in QC_GROUPS if group in first["qc"])
        scores = [[row["qc"][group] for group in groups] for row in rows.values()]
        qc_SG = np.array(scores, np.float64) if groups else None
        icv_S = np.array([row["icv"] for row in rows.values()], np.float64)
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{images.name}: a file of volumes is damaged or from elsewhere; empty the folder") from None
    volumes_SR, asymmetry_SR = combine_sides(sides)
    missing = tuple(one.name for one in STRUCTURES if one.name not in known)
    return Measured(
        tuple(rows), tuple(known), volumes_SR, icv_S, qc_SG, groups, asymmetry_SR, images.people(tuple(rows)), name,
        missing, str(images.folder), images.processing,
    )  # fmt: skip
