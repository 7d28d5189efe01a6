"""What the agreement of label maps says of a segmentation's quality: the atlas segmenter's QC scores.

Images are made of each label map in turn, most of them spoilt, and segmented with the others; so the true Dice score of
each group is known. A rising curve (isotonic regression) leads from agreement to Dice, group by group; how far off it
is, and whether it orders images rightly, is measured on label maps whose images the curve has not seen.
"""

# N images · G QC groups

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.atlas import AtlasSegmenter, group_masks
from tenfold.anatomy.calibration import rising_curve
from tenfold.anatomy.corruptions import corrupt
from tenfold.anatomy.images import Image
from tenfold.anatomy.labels import GLOBAL, QC_GROUPS, SUBCORTICAL
from tenfold.anatomy.sidecars import digest_of, read_json, write_json
from tenfold.anatomy.synth import Synthesis, synthesise
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["AtlasQuality", "calibrate_atlas"]

_KIND = "quality of atlas segmentations"
_KNOTS = 11
_CLEAN = 0.3  # share of images that are not spoilt
_NOTHING = 0.1  # share of images that are noise in the shape of a brain
_FOLDS = 2
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class AtlasQuality:
    """Curves from agreement to Dice.

    Attributes:
        segmenter: The name of the segmenter they hold for.
        curves: By QC group, agreements and the Dice scores that go with them; both rise from 0.
        mae: By QC group, the mean absolute error on label maps that were held out.
        spearman: Likewise, the rank correlation with true Dice.
        images: How many were segmented for it.
    """

    segmenter: str
    curves: Mapping[str, Curve]
    mae: Mapping[str, float]
    spearman: Mapping[str, float]
    images: int

    def __call__(self, agreement: Mapping[str, float]) -> dict[str, float]:
        """Predicted Dice score by group, 0 to 1, of what `AtlasSegmenter.score` returns."""
        return {group: _read_off(self.curves[group], agreement[group]) for group in QC_GROUPS}

    @property
    def digest(self) -> str:
        """Of the curves."""
        return digest_of({}, json.dumps(self.curves, sort_keys=True))

    def write(self, path: Path) -> None:
        """Keep the curves as JSON. Raises InputError where they cannot be written."""
        about = {"kind": _KIND, "segmenter": self.segmenter, "images": self.images}
        try:
            write_json(path, about | {"curves": self.curves, "mae": self.mae, "spearman": self.spearman})
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None

    @classmethod
    def read(cls, path: Path, segmenter: str) -> "AtlasQuality":
        """Read them. Raises InputError where the file is no such one, or of another segmenter than named."""
        found = read_json(path)
        if found.get("kind") != _KIND or not _is_sound(found):
            raise InputError(f"{path}: holds no curves for atlas segmentations, or is damaged; calibrate again")
        if found.get("segmenter") != segmenter:
            raise InputError(f"{path}: is for '{found.get('segmenter')}', not for '{segmenter}'; calibrate again")
        curves = {group: (list(x), list(y)) for group, (x, y) in found["curves"].items()}
        return cls(segmenter, curves, found["mae"], found["spearman"], found["images"])

    @classmethod
    def shipped(cls, segmenter: str) -> "AtlasQuality | None":
        """The curves that come with the package, where they are for this segmenter."""
        with resources.as_file(resources.files("tenfold.anatomy") / "weights" / "atlas.json") as path:
            return cls.read(path, segmenter) if read_json(path).get("segmenter") == segmenter else None


def calibrate_atlas(
    segmenter: AtlasSegmenter, count: int = 96, seed: int = 0, progress: Progress = no_progress
) -> AtlasQuality:
    """Learn the curves.

    Args:
        segmenter: With at least 2 label maps more than its k.
        count: Images to make and segment, some seconds each; image i depends on the seed and i alone.
        seed: Draws all.
        progress: Told of the phase "calibrating".

    Raises:
        InputError: Fewer than 20 images, or too few label maps to hold one out.
    """
    if count < 20 or len(segmenter.maps) < segmenter.k + 2:
        raise InputError(f"{count} images of {len(segmenter.maps)} label maps: at least 20, of {segmenter.k + 2} maps")
    agreement_NG, dice_NG = np.zeros((count, len(QC_GROUPS))), np.zeros((count, len(QC_GROUPS)))
    for number in range(count):
        agreement_NG[number], dice_NG[number] = _trial(segmenter, number, seed)
        progress("calibrating", number + 1, count)
    fold_N = np.arange(count) % len(segmenter.maps) % _FOLDS
    mae, spearman = _errors(agreement_NG, dice_NG, fold_N)
    curves = {group: _curve(agreement_NG[:, g], dice_NG[:, g]) for g, group in enumerate(QC_GROUPS)}
    return AtlasQuality(segmenter.name, curves, mae, spearman, count)


def _trial(segmenter: AtlasSegmenter, number: int, seed: int) -> tuple[list[float], list[float]]:
    """Agreement and true Dice, by group, of one image made of label map number `number` modulo their count."""
    draw, which = np.random.default_rng([seed, number]), number % len(segmenter.maps)
    settings = Synthesis(t1=1.0, heads=0.0)
    made = synthesise(segmenter.maps[which], draw, settings)
    image_XYZ, fate = made.image_XYZ, draw.random()
    if fate < _NOTHING:
        image_XYZ = np.where(image_XYZ > 0, draw.random(image_XYZ.shape), 0).astype(np.float32)
    elif fate > _NOTHING + _CLEAN:
        image_XYZ, _ = corrupt(image_XYZ, settings.mm, draw)
    image = Image(image_XYZ, np.diag([settings.mm] * 3 + [1.0]), Path("made"))
    found, agreement = segmenter.score(image, without=which)
    dice = _group_dice(found.labels_XYZ, made.shares_KXYZ.argmax(0))
    return [agreement[group] for group in QC_GROUPS], [dice[group] for group in QC_GROUPS]


def _group_dice(labels_XYZ: NDArray[np.int16], truth_XYZ: NDArray[np.int64]) -> dict[str, float]:
    """Dice by group; the truth has the classes of `synth.CLASSES`, sides merged."""
    one_code = np.array([0, *(next(iter(one.freesurfer.values()))[0] for one in SUBCORTICAL + GLOBAL)], np.int16)
    found, truth = group_masks(labels_XYZ), group_masks(one_code[truth_XYZ])
    sizes = {group: int(found[group].sum() + truth[group].sum()) for group in QC_GROUPS}
    return {
        group: 2 * float((found[group] & truth[group]).sum()) / sizes[group] if sizes[group] else 1.0
        for group in QC_GROUPS
    }


def _errors(
    agreement_NG: NDArray[np.float64], dice_NG: NDArray[np.float64], fold_N: NDArray[np.int64]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean absolute error and rank correlation, each image read off curves of the other fold."""
    from scipy.stats import spearmanr  # noqa: PLC0415

    said_NG = np.zeros_like(dice_NG)
    for fold in range(_FOLDS):
        for g in range(dice_NG.shape[1]):
            curve = _curve(agreement_NG[fold_N != fold, g], dice_NG[fold_N != fold, g])
            said_NG[fold_N == fold, g] = [_read_off(curve, one) for one in agreement_NG[fold_N == fold, g]]
    return _by_group(lambda g: np.abs(said_NG - dice_NG)[:, g].mean()), _by_group(
        lambda g: np.nan_to_num(spearmanr(said_NG[:, g], dice_NG[:, g])[0])
    )


def _by_group(value: Callable[[int], Any]) -> dict[str, float]:
    return {group: round(float(value(g)), 4) for g, group in enumerate(QC_GROUPS)}


def _curve(agreement_N: NDArray[np.float64], dice_N: NDArray[np.float64]) -> Curve:
    """A rising curve as points: (0, 0), then one at each of 11 quantiles of the agreement."""
    x, y = (values.round(6) for values in rising_curve(agreement_N, dice_N, _KNOTS))
    x, first = np.unique(x, return_index=True)
    y = y[first][x > 0]
    return [0.0, *x[x > 0].tolist()], [0.0, *y.tolist()]


def _read_off(curve: Curve, agreement: float) -> float:
    return float(np.interp(agreement, *curve))


def _is_sound(found: Mapping[str, Any]) -> bool:
    """Whether there is a rising curve, and the errors, for every group."""
    try:
        for group in QC_GROUPS:
            x, y = (np.asarray(values, np.float64) for values in found["curves"][group])
            numbers = (float(found["mae"][group]), float(found["spearman"][group]), *x, *y)
            if not all(map(math.isfinite, numbers)) or x.ndim != 1 or x.shape != y.shape or not len(x):
                return False
            if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any() or y.min() < 0 or y.max() > 1:
                return False
        return isinstance(found["images"], int)
    except (KeyError, TypeError, ValueError):
        return False
