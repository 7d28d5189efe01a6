"""Segmentation by label maps of other people: no training, and sides apart.

    once       label maps without skull, brought into a common space by the centres of structures; their mean image
    an image   aligned to the mean image (affine, mutual information), in voxels of 2 mm
               the k maps that look most like it, painted with the brightness found in it
               each bent onto it (diffeomorphic demons, voxels of 4 mm)
               the maps vote voxel by voxel, the more alike around it the more (Artaechevarria et al. 2009)
               votes, smoothed, times how well each structure's brightness fits the voxel's

The last step is Bayes' rule with the votes as prior (Fischl et al. 2002): it is what finds the borders of ventricles
and cortex, which differ more between people than a smooth warp can follow.
"""

# X right · Y anterior · Z superior, on the grid of 2 mm · L labels · G QC groups · 3 coordinates

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.images import Image, LabelMap, read_labels
from tenfold.anatomy.labels import GLOBAL, QC_GROUPS, SUBCORTICAL, Side
from tenfold.anatomy.segmenters import Segmentation
from tenfold.anatomy.sets import list_label_maps
from tenfold.anatomy.synth import mean_brightness, strip
from tenfold.anatomy.tissue import brain_of, fit_tissues
from tenfold.anatomy.warps import take, take_nearest
from tenfold.core.errors import InputError

__all__ = ["AtlasSegmenter", "group_masks"]

_STRUCTURES = SUBCORTICAL + GLOBAL
_MM = 2.0
_MARGIN = 4  # voxels around the brain
_STEPS, _SMOOTH = 20, 3.0  # of the demons; less smoothing, and noise tears what is hardly brighter than its surround
_ALIKE, _NEAR = 0.03, 1.0  # mean squared difference that still counts as alike, and voxels around that are compared
_VOTES, _FIT = 0.7, 0.2  # voxels by which votes are smoothed; standard deviation of brightness, as a share of its range
_STAY = 50  # voxels of a structure that weigh as much as its expected brightness
_EVEN = 1e-3  # no voxel's brightness rules out a structure altogether
_BLUR = 0.5  # voxels; borders in images are not sharp
_ANCHORS = (0.0, 44.0, 96.0, 160.0)  # nothing, fluid, grey and white matter in `mean_brightness`
_BRIGHTEST = 1.15  # of white matter
_CSF = 24
_ICV_LEAST = 1.0


@dataclass(frozen=True)
class _Atlas:
    """A label map without skull, one number per structure and side, and where it lies."""

    labels: LabelMap
    into_44: NDArray[np.float64]  # from millimetres of the common space to the map's


@dataclass(frozen=True)
class _Brain:
    """An image on the working grid: 0 outside of the brain, 1 its white matter."""

    voxels_XYZ: NDArray[np.float32]
    inside_XYZ: NDArray[np.bool_]
    affine: NDArray[np.float64]
    table: NDArray[np.float32]  # expected brightness of every label


class AtlasSegmenter:
    """The label maps at work.

    Args:
        labels: A folder of label maps with FreeSurfer's numbers, whole heads or brains; or the files.
        k: How many are bent onto an image.
        quality: A file that `calibrate_atlas` has written for these label maps and this k. Without, what comes with
            the package is used if it is for them (`labelmaps` of SynthSeg at 2 mm, k = 5), else there are no QC scores.

    Raises:
        InputError: Fewer than k + 1 label maps, one cannot be read or lacks a large structure; or the file is of other
            label maps.
    """

    def __init__(self, labels: Path | str | Sequence[Path], k: int = 5, quality: Path | str | None = None) -> None:
        files = list_label_maps(Path(labels)) if isinstance(labels, Path | str) else list(labels)
        if not 1 <= k < len(files):
            raise InputError(f"{k} of {len(files)} label maps cannot be chosen; give more maps, or a k from 1 on")
        self.k = k
        self.maps = tuple(read_labels(file) for file in files)
        self._atlases = _common_space(self.maps)
        self._mean = _mean_image(self._atlases)
        digest = hashlib.sha256(b"".join(one.labels_XYZ.tobytes() for one in self.maps)).hexdigest()[:8]
        self.name = f"atlas, {k} of {len(files)} label maps {digest}"
        from tenfold.anatomy.atlasquality import AtlasQuality  # noqa: PLC0415 - it calls this file

        self._quality = (
            AtlasQuality.shipped(self.name) if quality is None else AtlasQuality.read(Path(quality), self.name)
        )
        self.predictor = None if self._quality is None else self._quality.digest

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image without skull, on any grid; the labels are on its own."""
        return self.score(image)[0]

    def score(self, image: Image, without: int | None = None) -> tuple[Segmentation, dict[str, float]]:
        """Segment one image, and say how much the label maps agree.

        Args:
            image: Without skull.
            without: The number of a label map that must not be chosen, because the image was made of it.

        Returns:
            The segmentation; and by QC group, how much the bent maps overlap with the result (mean Dice) times the
            correlation of the image with the result's expected brightness around the group, 0 to 1.
        """
        brain = _brain(image)
        turn_44 = self._align(brain)
        rest = [one for number, one in enumerate(self._atlases) if number != without]
        placed = [(_place(one, brain, turn_44), one) for one in rest]
        chosen = _most_alike(brain, placed, self.k)
        table = _adapt(brain, _best(*_vote(brain, [labels_XYZ for labels_XYZ, _ in chosen], brain.table)), brain.table)
        bent = [_bend(brain, labels_XYZ, one, turn_44, table) for labels_XYZ, one in chosen]
        codes_L, shares_LXYZ = _fuse(brain, bent, table)
        labels_XYZ = _best(codes_L, shares_LXYZ)
        agreement = _agreement(brain, bent, labels_XYZ, _adapt(brain, labels_XYZ, table))
        volumes, icv = _volumes(codes_L, shares_LXYZ)
        qc = {} if self._quality is None else self._quality(agreement)
        return Segmentation(_onto(image, brain, codes_L, shares_LXYZ), volumes, icv, qc), agreement

    def _align(self, brain: _Brain) -> NDArray[np.float64]:
        """From voxels of the brain to millimetres of the common space; centre on centre where no alignment is found."""
        from tenfold.anatomy import alignment  # noqa: PLC0415 - SimpleITK is large

        image = Image(brain.voxels_XYZ, brain.affine, Path("the image"))
        inside_XYZ = self._mean.voxels_XYZ > 30
        try:
            found = alignment.register(image, self._mean, inside_XYZ, "affine", 0)
        except InputError:
            back_44 = np.eye(4)
            back_44[:3, 3] = -(brain.affine @ [*np.argwhere(brain.inside_XYZ).mean(0), 1])[:3]
            return back_44 @ brain.affine
        ras = np.array([-1.0, -1.0, 1.0])
        corners = np.vstack([np.zeros(3), 100 * np.eye(3)])
        ends = np.array([found.TransformPoint((corner * ras).tolist()) for corner in corners]) * ras
        there_44 = np.eye(4)
        there_44[:3, :3], there_44[:3, 3] = ((ends[1:] - ends[0]) / 100).T, ends[0]
        return np.asarray(np.linalg.inv(there_44) @ brain.affine)


def group_masks(labels_XYZ: NDArray[np.int16]) -> dict[str, NDArray[np.bool_]]:
    """Where each QC group is; fluid around the brain is in none, for a brain mask cuts it off anyhow."""
    groups: dict[str, list[int]] = {group: [] for group in QC_GROUPS}
    for one in SUBCORTICAL + GLOBAL[:2]:
        groups[one.group] += [code for codes in one.freesurfer.values() for code in codes]
    return {group: np.isin(labels_XYZ, codes) for group, codes in groups.items()}


# --- the common space -------------------------------------------------------------------------------------------------


def _common_space(maps: Sequence[LabelMap]) -> list[_Atlas]:
    """By least squares on the centres of large structures: affine, from their mean to those of each map."""
    stripped = [LabelMap(_merge(strip(one.labels_XYZ)), one.affine, one.path) for one in maps]
    codes = [side[0] for one in _STRUCTURES if one.name not in ("inferior lateral ventricle", "accumbens area", "csf")
             for name, side in one.freesurfer.items() if name != "middle" or len(one.freesurfer) == 1]  # fmt: skip
    centres = [_centres(one, codes) for one in stripped]
    mean = np.mean([one - one.mean(0) for one in centres], axis=0)
    known = np.c_[mean, np.ones(len(mean))]
    atlases = []
    for one, centres_of in zip(stripped, centres, strict=True):
        into_44 = np.eye(4)
        into_44[:3] = np.linalg.lstsq(known, centres_of, rcond=None)[0].T
        atlases.append(_Atlas(one, into_44))
    return atlases


def _merge(labels_XYZ: NDArray[np.int16]) -> NDArray[np.int16]:
    """One number per structure and side: lesions to white matter, plexus to the ventricle around it."""
    table = np.arange(2**15, dtype=np.int16)
    for one in _STRUCTURES:
        for codes in one.freesurfer.values():
            table[list(codes)] = codes[0]
    return np.asarray(table[labels_XYZ])


def _centres(labels: LabelMap, codes: Sequence[int]) -> NDArray[np.float64]:
    from scipy import ndimage  # noqa: PLC0415

    if absent := set(codes) - set(np.unique(labels.labels_XYZ).tolist()):
        raise InputError(f"{labels.path}: has no label {min(absent)}; an atlas needs all large structures, both sides")
    places = np.array(ndimage.center_of_mass(np.ones(labels.labels_XYZ.shape), labels.labels_XYZ, codes))
    return np.asarray(places @ labels.affine[:3, :3].T + labels.affine[:3, 3])


def _mean_image(atlases: Sequence[_Atlas]) -> Image:
    """The mean of the painted label maps in the common space, in voxels of 2 mm."""
    shape, affine = (90, 110, 100), np.diag([_MM, _MM, _MM, 1.0])
    affine[:3, 3] = -_MM * (np.array(shape) - 1) / 2
    total_XYZ, table = np.zeros(shape, np.float32), mean_brightness()
    table[0] = 0
    for one in atlases:
        total_XYZ += table[take_nearest(one.labels, np.zeros(3), _places(shape, one.into_44 @ affine))]
    return Image((total_XYZ / len(atlases)).astype(np.float32), affine, Path("the mean of the label maps"))


# --- one image --------------------------------------------------------------------------------------------------------


def _brain(image: Image) -> _Brain:
    """Bring an image to 2 mm along its own axes, cut out its brain, and learn how bright tissues are in it."""
    from tenfold.anatomy import alignment  # noqa: PLC0415 - SimpleITK is large

    low, inside_XYZ = float(image.voxels_XYZ.min()), brain_of(image)
    where, steps = np.argwhere(inside_XYZ), _MM / np.array(image.zooms)
    first = where.min(0) - _MARGIN * steps
    shape = np.ceil((where.max(0) - where.min(0) + 1) / steps).astype(int) + 2 * _MARGIN
    affine = image.affine @ np.diag([*steps, 1.0])
    affine[:3, 3] = (image.affine @ [*first, 1.0])[:3]
    grid = Image(np.zeros(tuple(shape + shape % 2), np.float32), affine, image.path)
    mask = Image(inside_XYZ.astype(np.float32), image.affine, image.path)
    inside = alignment.resample(mask, alignment.identity(), grid) > 0.5
    voxels = np.where(inside, alignment.resample(image, alignment.identity(), grid, outside=low) - low, 0)
    means = fit_tissues(voxels[inside] if inside.any() else voxels.ravel()).means_K
    white = max(float(means[2]), 1e-6)
    table = np.interp(mean_brightness(), _ANCHORS, [0.0, *(means / white)]).astype(np.float32)
    table[0] = 0
    return _Brain(np.asarray((voxels / white).clip(0, _BRIGHTEST), np.float32), inside, affine, table)


def _place(atlas: _Atlas, brain: _Brain, turn_44: NDArray[np.float64]) -> NDArray[np.int16]:
    """A label map on the grid of the image."""
    places = _places(brain.voxels_XYZ.shape, atlas.into_44 @ turn_44)
    return take_nearest(atlas.labels, np.zeros(3), places)


def _most_alike(
    brain: _Brain, placed: Sequence[tuple[NDArray[np.int16], _Atlas]], k: int
) -> list[tuple[NDArray[np.int16], _Atlas]]:
    """The k maps whose painted images correlate best with the image, both blurred."""
    inside_XYZ = brain.inside_XYZ if brain.inside_XYZ.any() else np.ones_like(brain.inside_XYZ)
    seen = _blurred(brain.voxels_XYZ, 1.5)[inside_XYZ]
    found = [_correlation(seen, _blurred(brain.table[labels_XYZ], 1.5)[inside_XYZ]) for labels_XYZ, _ in placed]
    return [placed[number] for number in np.argsort(-np.array(found), kind="stable")[:k]]


def _bend(
    brain: _Brain,
    labels_XYZ: NDArray[np.int16],
    atlas: _Atlas,
    turn_44: NDArray[np.float64],
    table: NDArray[np.float32],
) -> NDArray[np.int16]:
    """A label map bent onto the image: the warp is found on voxels of 4 mm, the labels are read from the map itself."""
    from tenfold.anatomy import alignment  # noqa: PLC0415

    moves = alignment.deform(_halved(brain.voxels_XYZ), _halved(table[labels_XYZ]), _STEPS, _SMOOTH)
    shape = brain.voxels_XYZ.shape
    coarse = _places(shape, np.diag([0.5, 0.5, 0.5, 1.0]) + np.array([[0, 0, 0, -0.25]] * 3 + [[0] * 4]))
    fine = np.stack([2 * take(one, coarse) for one in moves])
    matrix = atlas.into_44 @ turn_44
    bent = _places(shape, matrix) + np.tensordot(matrix[:3, :3].astype(np.float32), fine, 1)
    return take_nearest(atlas.labels, np.zeros(3), np.ascontiguousarray(bent))


def _vote(
    brain: _Brain, maps: Sequence[NDArray[np.int16]], table: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels (L,), 0 first, and votes (L, X, Y, Z): a map votes the more, the more alike it is around the voxel."""
    codes_L = np.unique(np.concatenate([[0], *(np.unique(one) for one in maps)])).astype(np.int64)
    row = np.zeros(2**15, np.int64)
    row[codes_L] = np.arange(len(codes_L))
    votes = np.zeros((len(codes_L), brain.voxels_XYZ.size), np.float32)
    every = np.arange(brain.voxels_XYZ.size)
    for one in maps:
        apart_XYZ = _blurred((brain.voxels_XYZ - _blurred(table[one], _BLUR)) ** 2, _NEAR)
        votes[row[one.ravel()], every] += np.exp(-apart_XYZ.ravel() / _ALIKE) + 1e-6
    return codes_L, votes.reshape(len(codes_L), *brain.voxels_XYZ.shape)


def _fuse(
    brain: _Brain, maps: Sequence[NDArray[np.int16]], table: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels (L,) and probabilities (L, X, Y, Z); outside of the brain all is background."""
    codes_L, shares_LXYZ = _vote(brain, maps, table)
    fitted = _adapt(brain, _best(codes_L, shares_LXYZ), table)
    for number, code in enumerate(codes_L):
        expected = fitted[code] if code else fitted[_CSF] / 2
        apart_XYZ = brain.voxels_XYZ - expected
        if not code:
            apart_XYZ = apart_XYZ.clip(0, None)  # what is around the brain is dark, however dark
        fit_XYZ = np.exp(-((apart_XYZ / _FIT) ** 2) / 2) + _EVEN
        shares_LXYZ[number] = _blurred(shares_LXYZ[number], _VOTES) * fit_XYZ
    shares_LXYZ /= shares_LXYZ.sum(0) + 1e-30
    shares_LXYZ *= brain.inside_XYZ
    shares_LXYZ[0] += ~brain.inside_XYZ
    return codes_L, shares_LXYZ


def _adapt(brain: _Brain, labels_XYZ: NDArray[np.int16], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The brightness of each structure: the median inside it, drawn to what was expected where it is small."""
    from scipy import ndimage  # noqa: PLC0415

    adapted = table.copy()
    boxes = ndimage.find_objects(labels_XYZ.astype(np.int32))
    for code in np.unique(labels_XYZ[labels_XYZ > 0]):
        box = boxes[int(code) - 1]
        values = brain.voxels_XYZ[box][ndimage.binary_erosion(labels_XYZ[box] == code)]
        if len(values):
            adapted[code] = (np.median(values) * len(values) + _STAY * table[code]) / (len(values) + _STAY)
    return adapted


# --- from probabilities to what is reported ---------------------------------------------------------------------------


def _agreement(
    brain: _Brain, maps: Sequence[NDArray[np.int16]], labels_XYZ: NDArray[np.int16], table: NDArray[np.float32]
) -> dict[str, float]:
    """See `AtlasSegmenter.score`."""
    from scipy import ndimage  # noqa: PLC0415

    expected_XYZ = _blurred(table[labels_XYZ], _BLUR)
    others = [group_masks(one) for one in maps]
    found: dict[str, float] = {}
    for group, mask_XYZ in group_masks(labels_XYZ).items():
        overlaps = [2 * (mask_XYZ & one[group]).sum() / max(1, mask_XYZ.sum() + one[group].sum()) for one in others]
        near_XYZ = ndimage.binary_dilation(mask_XYZ, iterations=2)
        fit = _correlation(brain.voxels_XYZ[near_XYZ], expected_XYZ[near_XYZ]) if mask_XYZ.any() else 0.0
        found[group] = float(np.mean(overlaps)) * max(0.0, fit)
    return found


def _volumes(
    codes_L: NDArray[np.int64], shares_LXYZ: NDArray[np.float32]
) -> tuple[dict[str, dict[Side, float]], float]:
    """mm³ by structure and side, as sums of probabilities; and the intracranial volume, all that is no background."""
    sums = dict(zip(codes_L.tolist(), (shares_LXYZ.sum((1, 2, 3), dtype=np.float64) * _MM**3).tolist(), strict=True))
    volumes: dict[str, dict[Side, float]] = {
        one.name: {
            side: sums.get(codes[0], 0.0)
            for side, codes in one.freesurfer.items()
            if side != "middle" or len(one.freesurfer) == 1
        }
        for one in _STRUCTURES
    }
    return volumes, max(_ICV_LEAST, float(sum(mm3 for code, mm3 in sums.items() if code)))


def _best(codes_L: NDArray[np.int64], shares_LXYZ: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.asarray(codes_L[shares_LXYZ.argmax(0)], np.int16)


def _onto(
    image: Image, brain: _Brain, codes_L: NDArray[np.int64], shares_LXYZ: NDArray[np.float32]
) -> NDArray[np.int16]:
    """The likeliest label of each voxel of the image; label by label, so that memory stays small."""
    places_3XYZ = _places(image.voxels_XYZ.shape, np.linalg.inv(brain.affine) @ image.affine)
    limits = np.array(brain.voxels_XYZ.shape).reshape(3, 1, 1, 1) - 1
    is_near_XYZ = ((places_3XYZ >= 0) & (places_3XYZ <= limits)).all(0)
    is_near_XYZ &= take(shares_LXYZ[0], places_3XYZ) < 0.5  # row 0 is background; elsewhere nothing is likelier
    places_3N11 = places_3XYZ[:, is_near_XYZ][:, :, None, None]
    best_N, labels_N = np.zeros(places_3N11.shape[1], np.float32), np.zeros(places_3N11.shape[1], np.int16)
    for code, share_XYZ in zip(codes_L, shares_LXYZ, strict=True):
        here_N = take(share_XYZ, places_3N11)[:, 0, 0]
        better_N = here_N > best_N
        best_N[better_N], labels_N[better_N] = here_N[better_N], code
    labels_XYZ = np.zeros(image.voxels_XYZ.shape, np.int16)
    labels_XYZ[is_near_XYZ] = labels_N
    return labels_XYZ


# --- small parts ------------------------------------------------------------------------------------------------------


def _places(shape: tuple[int, ...], matrix_44: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each voxel of a grid what the matrix makes of its coordinates: (3, X, Y, Z)."""
    x, y, z = (np.arange(size, dtype=np.float32) for size in shape)
    rows = [
        row[0] * x[:, None, None] + row[1] * y[None, :, None] + (row[2] * z + row[3])
        for row in matrix_44[:3].astype(np.float32)
    ]
    return np.stack(rows)


def _blurred(voxels_XYZ: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    from scipy import ndimage  # noqa: PLC0415

    return np.asarray(ndimage.gaussian_filter(voxels_XYZ, sigma), np.float32)


def _halved(voxels_XYZ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over cubes of 2 x 2 x 2 voxels, blurred a little; the grid has even sides."""
    x, y, z = (size // 2 for size in voxels_XYZ.shape)
    blurred = _blurred(voxels_XYZ, _BLUR)
    return np.ascontiguousarray(blurred.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5)), np.float32)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    spread = float(one.std()) * float(other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 1e-9 else 0.0
