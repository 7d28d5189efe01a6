"""Sets of made people: prepared T1-weighted images without skull, whose anatomy is known to the voxel.

folder/made_0007_T1w.nii.gz           in [-1, 1], on a grid of the size that `prepare` pads to
folder/truth/made_0007_dseg.nii.gz    its labels, FreeSurfer's numbers, on a grid twice as fine; of those who are
                                      mirrored (half of them) left ones lie on the right
folder/desc-prepared_T1w.json         the sidecar, as of prepared images
folder/people.json                    the seed, and what was changed
"""

# X right · Y anterior · Z superior

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tenfold.anatomy.images import LabelMap, write_image
from tenfold.anatomy.processing import check_edge, normalise
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.anatomy.sidecars import Processing, check_same, claim, read_sidecar, write_sidecar
from tenfold.anatomy.synth import middle_of, paint, strip
from tenfold.anatomy.warps import RandomWarp, draw_places, resize_structures, take_labels, take_nearest
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["TRUTH", "Change", "Spoil", "make_people"]

TRUTH = "truth"
_ABOUT = "people.json"
Change = Mapping[tuple[int, ...], float]
"""Volume factors by the labels of a structure, as `resize_structures` takes them."""
Spoil = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""Takes an image, 0 in the background, and spoils it."""

# People differ less than what a network is taught with, and lie as alignment leaves them.
_PERSON = RandomWarp(scale=0.06, rotation=3.0, shear=0.005, shift_mm=2.0, elastic_mm=3.0, flip=0.5)
_VARIETY = 0.5  # of brightness from scanner to scanner: people of a study are scanned alike
_FINER = 2
_RANGE = 255.0


def make_people(
    maps: Sequence[LabelMap],
    folder: Path | str,
    count: int,
    *,
    seed: int = 0,
    mm: float = 3.0,
    change: Change | None = None,
    spoil: Spoil | None = None,
    progress: Progress = no_progress,
) -> ImageSet:
    """Make images of people who do not exist: label maps of real ones, warped at random, painted, prepared.

    Person i depends on the seed and i alone, also their brightness and noise: with `change` or `spoil` the same people
    are made, but for that. What the same call has put into the folder already is kept.

    Args:
        maps: Whole heads, FreeSurfer's numbers.
        folder: To fill.
        count: People.
        seed: Draws all.
        mm: Edge of a voxel, 0.5 to 8 mm.
        change: Structures that are grown or shrunk by a smooth warp, before painting.
        spoil: Done to the painted image, before intensities are normalised.
        progress: Told of the phase "people".

    Raises:
        InputError: No label map, a seed below 0, voxels out of range; the folder holds images of another processing,
            seed or change, or cannot be written.
    """
    if not maps:
        raise InputError("no label map was given; give a folder with whole-head label maps")
    check_edge(mm)
    if seed < 0:
        raise InputError(f"seed {seed}: give 0 or more")
    place = Path(folder)
    processing = _processing(maps, mm)
    try:
        (place / TRUTH).mkdir(parents=True, exist_ok=True)
        if (earlier := read_sidecar(place)) is not None:
            check_same(earlier, processing, str(place), "this call")
        claim(place, _ABOUT, _maker(seed, change, spoil), "made_*")
        write_sidecar(place, processing)
        for number in range(count):
            target = place / f"made_{number:04d}_T1w.nii.gz"
            if not target.exists():
                _write_person(maps, target, number, seed, processing, change, spoil)
            progress("people", number + 1, count)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    return open_images(place).take(range(count))


def _maker(seed: int, change: Change | None, spoil: Spoil | None) -> dict[str, Any]:
    changed = {" ".join(map(str, labels)): factor for labels, factor in (change or {}).items()}
    return {"seed": seed, "change": changed, "spoilt": spoil is not None}


def _processing(maps: Sequence[LabelMap], mm: float) -> Processing:
    digest = hashlib.sha256(b"".join(one.labels_XYZ.tobytes() for one in maps)).hexdigest()
    return Processing("made of label maps", digest, mm, "given", "none", "none")


def _write_person(
    maps: Sequence[LabelMap],
    target: Path,
    number: int,
    seed: int,
    processing: Processing,
    change: Change | None,
    spoil: Spoil | None,
) -> None:
    shape, paints = np.random.default_rng([seed, number, 0]), np.random.default_rng([seed, number, 1])
    person = _person(maps[int(shape.integers(len(maps)))], processing, shape)
    if change is not None:
        person = replace(person, labels_XYZ=take_labels(person.labels_XYZ, resize_structures(person, change)))
    image_XYZ = _image(person, paints)
    if spoil is not None:
        image_XYZ = spoil(image_XYZ, paints)
    prepared_XYZ, _, _ = normalise(image_XYZ, processing, target)
    write_image(target.parent / TRUTH / target.name.replace("_T1w", "_dseg"), person.labels_XYZ, person.affine)
    write_image(target, prepared_XYZ, np.diag([processing.mm] * 3 + [1.0]))


def _person(labels: LabelMap, processing: Processing, draw: np.random.Generator) -> LabelMap:
    """The stripped label map of a new person, on the fine grid."""
    x, y, z = (round(size / processing.mm) * _FINER for size in processing.padded_mm)
    mm = processing.mm / _FINER
    places_3XYZ = draw_places((x, y, z), mm, _PERSON, draw)
    taken_XYZ = strip(take_nearest(labels, middle_of(labels), places_3XYZ), grow=0, csf=True)
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -mm / 2  # fine voxels lie within the coarse ones
    return LabelMap(taken_XYZ, affine, labels.path)


def _image(person: LabelMap, draw: np.random.Generator) -> NDArray[np.float32]:
    painted = torch.from_numpy(paint(person.labels_XYZ, draw, variety=_VARIETY))
    image = functional.avg_pool3d(painted[None, None], _FINER)[0, 0].numpy()
    field = torch.from_numpy(draw.standard_normal((1, 1, 4, 4, 4), np.float32)) * 0.08
    bias = functional.interpolate(field, image.shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    return np.asarray(image * np.exp(bias) / _RANGE, np.float32)
