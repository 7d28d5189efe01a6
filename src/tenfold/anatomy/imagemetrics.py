"""The usual image metrics of a generated set against a real one; each value says what it depends on.

That these metrics change their verdict with extractor, window and number of images is the paper's first finding; so no
value comes without them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.distances import FEWEST, extrapolated_frechet, frechet, kid, legacy_mmd, mmd_test
from tenfold.anatomy.features import extract, open_extractor, prepared_voxels
from tenfold.anatomy.images import Image
from tenfold.anatomy.pairs import cross_pairs, own_pairs, similarities
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.sidecars import check_same
from tenfold.anatomy.ssim import Scales, choose_scales
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.core.reports import Table

__all__ = ["ImageMetrics", "MetricRow", "compare_images", "usable"]


@dataclass(frozen=True)
class MetricRow:
    """One value.

    Attributes:
        metric: Its name.
        value: NaN where no pair gave a number.
        error: Standard error; None where it is not estimated.
        p: Probability of a value at least as large if both sets were of one distribution; None where not tested.
        extractor: What made the features; empty for MS-SSIM, which takes the voxels.
        real: How many real images went in.
        generated: How many generated ones.
        setting: All else that the value depends on.
    """

    metric: str
    value: float
    error: float | None
    p: float | None
    extractor: str
    real: int
    generated: int
    setting: str


@dataclass(frozen=True)
class ImageMetrics:
    """All image metrics of one generated set.

    Attributes:
        real: Name of the real set.
        generated: Name of the generated set.
        rows: The values.
        notes: Caveats, one line each.
    """

    real: str
    generated: str
    rows: tuple[MetricRow, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """The rows as a table for people and programs."""
        columns = ["metric", "value", "± SE", "p", "features", "n real", "n generated", "setting"]
        rows = [
            [row.metric, row.value, row.error, row.p, row.extractor or None, row.real, row.generated, row.setting]
            for row in self.rows
        ]
        return Table(f"Image metrics: {self.generated} against {self.real}", columns, rows, self.notes)


def compare_images(
    real: ImageSet,
    generated: ImageSet,
    *,
    features: Sequence[str] = ("handcrafted", "random3d"),
    window: int = 11,
    rounds: int = 10,
    pairs: int = 1000,
    permutations: int = 1000,
    legacy: bool = False,
    seed: int = 0,
    cache: Path | str | None = None,
    progress: Progress = no_progress,
) -> ImageMetrics:
    """MS-SSIM, FID, KID and MMD of a generated set. Images are streamed; those that are not `usable` are left out.

    Args:
        real: Prepared images.
        generated: Images in the same space, in [-1, 1].
        features: Extractors, as `open_extractor` takes them; each gives all distances.
        window: Of MS-SSIM, in voxels.
        rounds: Random real images that each generated one is compared with.
        pairs: Most pairs within a set.
        permutations: Of the test of MMD.
        legacy: Add what the paper's code would say.
        seed: Of pairs, subsets and permutations.
        cache: A folder for features and similarities; a killed run goes on there.
        progress: Told of the phases "check", "ms-ssim" and "features".

    Raises:
        InputError: The sets were processed differently or differ in shape or voxel size; a set has fewer than two
            images that are usable.
    """
    if rounds < 1 or pairs < 1 or seed < 0:
        raise InputError(f"rounds {rounds}, pairs {pairs}, seed {seed}: take 1 or more of each, and a seed from 0 on")
    extractors = [open_extractor(named) for named in features]
    real, generated = usable(real, progress), usable(generated, progress)
    notes = _check_sets(real, generated)
    first = real[0]
    _check_size(generated[0], first)
    scales = choose_scales(first.voxels_XYZ.shape, window)
    rows: list[MetricRow] = []
    for setting in (scales, None) if legacy else (scales,):
        rows += _similarity_rows(real, generated, setting, rounds, pairs, seed, cache, progress)
    for extractor in extractors:
        real_ND = extract(real, extractor, cache, progress)
        made_MD = extract(generated, extractor, cache, progress)
        rows += _distance_rows(real_ND, made_MD, extractor.name, permutations, seed, legacy)
        if min(len(real), len(generated)) <= real_ND.shape[1]:
            notes.append(
                f"{extractor.name}: {real_ND.shape[1]} features are more than images; FID is biased upwards, and the "
                "more so the fewer images: compare sets of one size, or the extrapolated value"
            )
    if legacy:
        notes.append(
            "legacy values repeat the paper's code with its errors, and are for comparison with its tables only"
        )
    return ImageMetrics(real.name, generated.name, tuple(rows), tuple(notes))


def usable(images: ImageSet, progress: Progress = no_progress) -> ImageSet:
    """The images of a set that can be read and are prepared; `refused` has the others then, too.

    Args:
        images: Each is read once, before long work.
        progress: Told of the phase "check".

    Raises:
        InputError: None is usable; says what is wrong with the first. Or one has other voxels than the first.
    """
    kept, refused, first = list[int](), dict(images.refused), None
    for number, name in enumerate(images.names):
        try:
            image = images[number]
            prepared_voxels(image)
        except InputError as error:
            refused[name] = str(error)
        else:
            first = first or image
            _check_size(image, first)
            kept.append(number)
        progress("check", number + 1, len(images))
    if not kept:
        raise InputError(refused[images.names[0]])
    return replace(images.take(kept), refused=refused)


def _check_sets(real: ImageSet, generated: ImageSet) -> list[str]:
    notes = []
    for images in (real, generated):
        if len(images) < 2:
            raise InputError(f"{images.folder}: has one usable image; a comparison needs at least two in each set")
        if len(images) < FEWEST:
            notes.append(f"{images.name} has only {len(images)} images: no p and no standard error of distances")
        if images.refused:
            first = next(iter(images.refused.values()))
            notes.append(f"{images.name}: {len(images.refused)} left out; the first: {first}")
    if real.processing is not None and generated.processing is not None:
        check_same(real.processing, generated.processing, str(real.folder), str(generated.folder))
        return notes
    without = [images.name for images in (real, generated) if images.processing is None]
    return [*notes, f"{' and '.join(without)}: no sidecar says how it was processed; taken as processed alike"]


def _check_size(image: Image, first: Image) -> None:
    """Raises InputError where two images differ in shape or voxel size."""
    if image.voxels_XYZ.shape != first.voxels_XYZ.shape or not np.allclose(image.zooms, first.zooms, rtol=0.01):
        raise InputError(
            f"{image.path}: has {_size(image.voxels_XYZ.shape)} voxels of {image.zooms[0]:g} mm, "
            f"{first.path.name} has {_size(first.voxels_XYZ.shape)} of {first.zooms[0]:g} mm; "
            "prepare both alike"
        )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


# --- rows ------------------------------------------------------------------------------------------------------------


def _similarity_rows(
    real: ImageSet, generated: ImageSet, scales: Scales | None, rounds: int, pairs: int, seed: int,
    cache: Path | str | None, progress: Progress,
) -> list[MetricRow]:  # fmt: skip
    how = "legacy: window 13 reflected, 5 scales, range 1, last scale 4 times" if scales is None else str(scales)
    suffix = " (legacy)" if scales is None else ""
    plan = [("generated to real", generated, real, cross_pairs(len(generated), len(real), rounds, seed))]
    plan += [("real to real", real, real, own_pairs(len(real), pairs, seed))]
    if scales is not None:
        plan += [("generated to generated", generated, generated, own_pairs(len(generated), pairs, seed))]
    rows = []
    for name, one, other, pairs_P2 in plan:
        odd = scales is None and one is other  # the paper's code maps terms for pairs of real images only
        values_P = similarities(one, other, pairs_P2, scales, normalised=odd, cache=cache, progress=progress)
        value, error, lost = _mean(values_P, pairs_P2, own=one is other)
        said = f"{how}{', terms mapped by (x + 1) / 2' if odd else ''}, {len(values_P)} pairs, {lost} not a number"
        counts = (len(real) if other is real else 0, len(generated) if one is generated else 0)
        rows.append(MetricRow(f"MS-SSIM {name}{suffix}", value, error, None, "", *counts, said))
    return rows


def _mean(values_P: NDArray[np.float64], pairs_P2: NDArray[np.int64], own: bool) -> tuple[float, float | None, int]:
    """Mean of the numbers, its standard error over images, and how many were none.

    Pairs with an image in common are not independent: the error is that of a U-statistic, from the means of each
    image's pairs; where both images of a pair are of one set (`own`) each counts in both places.
    """
    good_P = np.isfinite(values_P)
    if not good_P.any():
        return math.nan, None, len(values_P)
    values_P, pairs_P2, lost = values_P[good_P], pairs_P2[good_P], int((~good_P).sum())
    places = [pairs_P2.T.ravel()] if own else list(pairs_P2.T)
    variance = 0.0
    for image_P in places:
        numbers, number_P, counts = np.unique(image_P, return_inverse=True, return_counts=True)
        if len(numbers) < FEWEST:
            return float(values_P.mean()), None, lost
        means = np.bincount(number_P, np.resize(values_P, len(number_P))) / counts
        variance += (4 if own else 1) * float(means.var(ddof=1)) / len(numbers)
    return float(values_P.mean()), math.sqrt(variance), lost


def _distance_rows(
    real_ND: NDArray[np.float64], made_MD: NDArray[np.float64], extractor: str, permutations: int, seed: int,
    legacy: bool,
) -> list[MetricRow]:  # fmt: skip
    counts = (len(real_ND), len(made_MD))
    limit, kernel = extrapolated_frechet(real_ND, made_MD, seed), kid(real_ND, made_MD, seed)
    distance, p = mmd_test(real_ND, made_MD, permutations, seed)
    rows = [MetricRow("FID", frechet(real_ND, made_MD), None, None, extractor, *counts, "all images")]
    if limit is not None:
        how = "extrapolated to endlessly many images"
        rows.append(MetricRow("FID, extrapolated", limit.value, limit.error, None, extractor, *counts, how))
    rows.append(MetricRow("KID", kernel.value, kernel.error, None, extractor, *counts, "cubic kernel, unbiased"))
    tested = f"Gaussian kernel, median bandwidth, unbiased{'' if p is None else f', {permutations} permutations'}"
    rows.append(MetricRow("MMD", distance, None, p, extractor, *counts, tested))
    if legacy:
        fewest = min(counts)
        value, how = legacy_mmd(real_ND[:fewest], made_MD[:fewest]), "legacy: linear kernel on batches of two"
        rows.append(MetricRow("MMD (legacy)", value, None, None, extractor, fewest, fewest, how))
    return rows
