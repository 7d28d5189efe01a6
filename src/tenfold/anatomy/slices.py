"""Middle slices of real and generated images, with what was segmented in them outlined: for the eye.

A line belongs to the finer of the two structures that meet at it: the thalamus is outlined against white matter, never
white matter against the thalamus. Labels may have other voxels than the image, for they are looked up where the image's
voxels lie, but they fill the same box: those of an image before its alignment do not fit to it afterwards.
"""

# X right · Y anterior · Z superior · U across the page · V down the page

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.features import prepared_voxels
from tenfold.anatomy.images import Image, LabelMap, read_labels
from tenfold.anatomy.labels import STRUCTURES, Scheme
from tenfold.anatomy.segmentations import scheme_of
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.svg import Drawing, drawing, png, shorten, text
from tenfold.core.errors import InputError

__all__ = ["Pictures", "mid_slices"]

_SHOWN, _BESIDE = 4, 2  # images of a set; of them in a row
_WIDTH, _GAP, _TOP = 1060.0, 6.0, 42.0  # px
_HIGHEST = 32_767  # label
_PLANES = ("coronal", "axial", "sagittal")

# From coarse to fine; the colours are told apart on grey.
_CLASSES = {
    "CSF": "#9db7d5",
    "white matter": "#f0f0f0",
    "cortex": "#ff5a5a",
    "cerebellum": "#ff9d00",
    "ventricles": "#35b8ff",
    "brain-stem": "#d9a6ff",
    "basal ganglia": "#ffe600",
    "thalamus": "#4cff6a",
    "hippocampus and amygdala": "#ff6ee7",
}
_NAMED = {
    "csf": "CSF",
    "cerebral white matter": "white matter",
    "cerebral cortex": "cortex",
    "brain-stem": "brain-stem",
    "ventral DC": "brain-stem",
    "thalamus": "thalamus",
    "hippocampus": "hippocampus and amygdala",
    "amygdala": "hippocampus and amygdala",
}  # other structures by their names, or they are basal ganglia


@dataclass(frozen=True)
class Pictures:
    """Images to be shown, and the labels that belong to them.

    Attributes:
        images: Prepared.
        labels: Label files by the names of images; those without one are shown without lines.
    """

    images: ImageSet
    labels: Mapping[str, Path] = field(default_factory=dict)


def mid_slices(sets: Mapping[str, Pictures]) -> Drawing:
    """Four images of each set, evenly spaced in it, through the middle of the volume in three planes.

    Raises:
        InputError: An image or a label file cannot be read, or an image was not prepared.
    """
    parts, y, outlined = [], _TOP, False
    for name, pictures in sets.items():
        chosen = np.unique(np.linspace(0, len(pictures.images) - 1, _SHOWN).round().astype(int))
        parts.append(text(0, y + 14, shorten(name, 60), bold=True))
        count = f"images {', '.join(str(number + 1) for number in chosen)} of {len(pictures.images):,}"
        parts.append(text(_WIDTH, y + 14, count, "end", colour="#666"))
        y += 22
        for first in range(0, len(chosen), _BESIDE):
            row = [_planes(pictures, int(number)) for number in chosen[first : first + _BESIDE]]
            lines, height = _row(row, y)
            parts += lines
            y += height
            outlined |= any(plane.classes_VU is not None for planes in row for plane in planes)
    head = [text(0, 14, "Slices through the middle of the volume, coronal, axial, sagittal; right is right.")]
    return drawing("Real and generated images", _WIDTH, y, [*head, *(_key() if outlined else []), *parts])


@dataclass(frozen=True)
class _Plane:
    """A slice: grey values, the mm of a pixel, classes where there are labels, and what to say of it."""

    grey_VU: NDArray[np.uint8]
    mm: tuple[float, float]
    classes_VU: NDArray[np.uint8] | None
    title: str


def _planes(pictures: Pictures, number: int) -> list[_Plane]:
    image, name = pictures.images[number], pictures.images.names[number]
    voxels_XYZ = prepared_voxels(image)
    path = pictures.labels.get(name)
    places = [_middle(voxels_XYZ.shape, axis) for axis in (1, 2, 0)]
    greys = [_upright(voxels_XYZ[place]) for place in places]
    classes, said = None, name
    if path is not None:
        labels = _labels(path, pictures.images)
        if _fill_same_box(labels, image):
            classes = [_upright(one) for one in _classes(labels, image, places)]
        else:
            said = f"{name} (its labels fill another box)"
    mm = image.zooms
    sizes = [(mm[0], mm[2]), (mm[0], mm[1]), (mm[1], mm[2])]
    return [
        _Plane(_bytes(grey), size, None if classes is None else classes[i], said if i == 0 else "")
        for i, (grey, size) in enumerate(zip(greys, sizes, strict=True))
    ]


def _middle(shape: Sequence[int], axis: int) -> tuple[slice | int, ...]:
    return tuple(size // 2 if i == axis else slice(None) for i, size in enumerate(shape))


def _upright(plane_UV: NDArray[Any]) -> NDArray[Any]:
    """Superior or anterior at the top."""
    return np.ascontiguousarray(plane_UV.T[::-1])


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint((values + 1) * 127.5), np.uint8)


def _labels(path: Path, images: ImageSet) -> LabelMap:
    """A file that states no voxel size has that which was given for the images."""
    try:
        return read_labels(path)
    except InputError:
        if images.voxel_mm is None:
            raise
        return read_labels(path, images.voxel_mm)


def _fill_same_box(labels: LabelMap, image: Image) -> bool:
    """Whether no corner is further from its twin than a voxel."""
    found = _corners(labels.affine, labels.labels_XYZ.shape)
    apart = np.linalg.norm(found - _corners(image.affine, image.voxels_XYZ.shape), axis=1)
    return bool(apart.max() <= max(*image.zooms, *np.linalg.norm(labels.affine[:3, :3], axis=0)))


def _corners(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """The eight corners of the outer voxels, (8, 3), in mm."""
    corners = np.indices((2, 2, 2)).reshape(3, -1) * np.array(shape)[:, None] - 0.5
    return np.asarray((affine[:3, :3] @ corners).T + affine[:3, 3])


def _classes(found: LabelMap, image: Image, places: Sequence[tuple[slice | int, ...]]) -> Iterator[NDArray[np.uint8]]:
    """The class of each voxel of the slices, 0 where there is none: of the label at the voxel's place in space."""
    numbers_counts = zip(*np.unique(found.labels_XYZ, return_counts=True), strict=True)
    classes_of = _class_of_label(scheme_of({int(number): float(count) for number, count in numbers_counts}))
    to_label = np.linalg.inv(found.affine) @ image.affine
    shape = image.voxels_XYZ.shape
    for place in places:
        axes = [np.arange(size)[one] for size, one in zip(shape, place, strict=True)]
        where = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones([np.size(one) for one in axes])])
        numbers = np.rint(np.tensordot(to_label[:3], where, 1)).astype(int)
        limits = np.array(found.labels_XYZ.shape)[:, None, None, None]
        inside = ((numbers >= 0) & (numbers < limits)).all(0)
        labels = np.where(inside, found.labels_XYZ[tuple(np.clip(numbers, 0, limits - 1))], 0)
        yield classes_of[labels].squeeze(tuple(i for i, one in enumerate(place) if isinstance(one, int)))


def _class_of_label(scheme: Scheme) -> NDArray[np.uint8]:
    classes = np.zeros(_HIGHEST + 1, np.uint8)
    for structure in STRUCTURES:
        codes = [code for codes in structure.codes(scheme).values() for code in codes]
        classes[codes] = 1 + list(_CLASSES).index(_class_name(structure.name))
    return classes


def _class_name(structure: str) -> str:
    if structure.startswith("ctx-"):
        return "cortex"
    if structure.startswith("cerebellum"):
        return "cerebellum"
    if "ventricle" in structure:
        return "ventricles"
    return _NAMED.get(structure, "basal ganglia")


# --- drawing ---------------------------------------------------------------------------------------------------------


def _key() -> list[str]:
    parts, x = [], 0.0
    for name, colour in _CLASSES.items():
        parts.append(f'<rect x="{x:.1f}" y="24" width="12" height="10" fill="{colour}" stroke="#555"/>')
        parts.append(text(x + 16, 33, name))
        x += 30 + 6.8 * len(name)
    return parts


def _row(images: Sequence[Sequence[_Plane]], y: float) -> tuple[list[str], float]:
    """The planes of some images side by side, and how high the row is."""
    widest = sum(plane.grey_VU.shape[1] * plane.mm[0] for plane in images[0])
    scale = (_WIDTH / _BESIDE - (len(_PLANES) + 1) * _GAP) / widest
    parts, tallest = [], 0.0
    for place, planes in enumerate(images):
        x = place * (_WIDTH + _GAP) / _BESIDE
        parts.append(text(x, y + 11, shorten(planes[0].title, 70), colour="#666"))
        for plane in planes:
            rows, columns = plane.grey_VU.shape
            across, down = scale * plane.mm[0], scale * plane.mm[1]
            parts.append(_panel(plane, x, y + 16, across, down))
            x += columns * across + _GAP
            tallest = max(tallest, rows * down)
    return parts, tallest + 16 + _GAP


def _panel(plane: _Plane, x: float, y: float, across: float, down: float) -> str:
    rows, columns = plane.grey_VU.shape
    parts = [f'<g transform="translate({x:.1f} {y:.1f}) scale({across:.4f} {down:.4f})">']
    parts.append(
        f'<image width="{columns}" height="{rows}" preserveAspectRatio="none" image-rendering="pixelated" '
        f'href="{png(plane.grey_VU)}"/>'
    )
    if plane.classes_VU is not None:
        parts += _outlines(plane.classes_VU)
    return "".join([*parts, "</g>"])


def _outlines(classes_VU: NDArray[np.uint8]) -> list[str]:
    """A path per class along the edges of pixels."""
    padded = np.pad(classes_VU, 1)
    between_rows, between_columns = _finer(padded, 0)[:, 1:-1], _finer(padded, 1)[1:-1]
    parts = []
    for number, colour in enumerate(_CLASSES.values(), 1):
        across_VU, down_UV = between_rows == number, (between_columns == number).T
        steps = [f"M{u} {v}h{length}" for v, u, length in _runs(across_VU)]
        steps += [f"M{u} {v}v{length}" for u, v, length in _runs(down_UV)]
        if steps:
            style = f'fill="none" stroke="{colour}" vector-effect="non-scaling-stroke"'
            parts.append(f'<path d="{"".join(steps)}" {style}/>')
    return parts


def _finer(padded: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """Between neighbours along an axis: the higher class where they differ, else 0."""
    first, second = (np.delete(padded, end, axis) for end in (-1, 0))
    return np.where(first == second, 0, np.maximum(first, second)).astype(np.uint8)


def _runs(lines: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Line, start and length of each run of true values."""
    change = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(change == 1), np.argwhere(change == -1)
    for (line, start), (_, end) in zip(starts.tolist(), ends.tolist(), strict=True):
        yield line, start, end - start
