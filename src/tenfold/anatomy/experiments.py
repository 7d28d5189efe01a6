"""How the claims are measured: sets of made people with faults that are known, and generators in miniature.

Three questions. Do image metrics and anatomy agree on a set that is blurred and one whose anatomy is changed? Does the
bench let real people pass, and find copies and repetitions? What does it say of six generators with equal budgets?
"""

# S subjects · R regions · n images

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.corruptions import blur, noise
from tenfold.anatomy.distances import frechet, kid, mmd
from tenfold.anatomy.features import extract, open_extractor
from tenfold.anatomy.generators import GENERATORS, make_generator
from tenfold.anatomy.generators.folder import FolderGenerator
from tenfold.anatomy.generators.interface import Budget, Cost, Generator
from tenfold.anatomy.headsize import Adjust
from tenfold.anatomy.images import LabelMap, write_image
from tenfold.anatomy.pairs import similarities
from tenfold.anatomy.plausibility import Plausibility, compare
from tenfold.anatomy.populations import TRUTH, make_people
from tenfold.anatomy.segmentations import read_segmentations
from tenfold.anatomy.segmenters import Segmenter, none_reliable, segment
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.anatomy.sidecars import write_sidecar
from tenfold.anatomy.ssim import choose_scales
from tenfold.anatomy.volumes import Measured
from tenfold.core.progress import Progress, no_progress

__all__ = [
    "CHANGE", "CHANGED", "Configuration", "Effort", "GeneratorOutcome", "Outcome", "measure", "measure_generators",
    "real_holdout",
]  # fmt: skip

CHANGED = ("hippocampus", "lateral ventricle")
CHANGE = {(17,): 0.75, (53,): 0.75, (4, 136): 1.4, (43, 163): 1.4}
"""Hippocampi smaller by 25 %, lateral ventricles larger by 40 %."""

_BLUR_MM, _NOISE = 1.0, 0.02  # mild: a blur of a third of a voxel of 3 mm, noise of 2 % of the range
_SETS = ("real", "blurred", "changed", "faithful")
_EXTRACTORS = ("handcrafted", "random3d", "random3d:1", "voxels")
_WINDOWS = (7, 11)
_DISTANCES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], float]] = {
    "FID": frechet, "KID": lambda real_ND, made_ND: kid(real_ND, made_ND, 0).value, "MMD": mmd,
}  # fmt: skip
_ADJUSTS: tuple[Adjust, ...] = ("real", "pooled")
_COARSE_MM = 4.0  # for generators: 36 x 48 x 36 voxels
_BATCH = 4  # images at once, for every generator: the paper's 16 of HA-GAN would leave it few steps
_LEARNED = "learned"  # the folder of the set that generators learn from


@dataclass(frozen=True)
class Effort:
    """How much is made.

    Attributes:
        people: Of each set, at least 10.
        mm: Edge of their voxels.
        learned: People whom generators learn from; 0 leaves generators out.
        samples: Images of each generator; of the real people who pass for one there are as many as of the others.
        budget: Images shown to each generator.
    """

    people: int = 80
    mm: float = 3.0
    learned: int = 200
    samples: int = 40
    budget: int = 4000


@dataclass(frozen=True)
class Configuration:
    """One way to hold both sets against the real one.

    Attributes:
        name: What was chosen: metric, features or window, number of images; or segmenter, head size, number.
        blurred: Distance of the blurred set from the real one.
        changed: Distance of the set with changed anatomy.
    """

    name: str
    blurred: float
    changed: float

    @property
    def prefers_changed(self) -> bool:
        """Whether the set with the wrong anatomy is said to be nearer."""
        return self.changed < self.blurred


@dataclass
class Outcome:
    """What one seed came to.

    Attributes:
        found: By set ("blurred", "changed", "faithful") the verdict on volumes of the segmenter.
        truth: The same on the volumes that the images were made with.
        images: Image metrics in every configuration.
        anatomy: The anatomical distance (greatest |d|) in every configuration.
        correlations: By region, of segmented and true volumes over all real people.
        copied: The bench on a copy of the learned set: copied share.
        repeated: On one image many times: the share of twins.
    """

    found: dict[str, Plausibility] = field(default_factory=dict)
    truth: dict[str, Plausibility] = field(default_factory=dict)
    images: list[Configuration] = field(default_factory=list)
    anatomy: list[Configuration] = field(default_factory=list)
    correlations: dict[str, float] = field(default_factory=dict)
    copied: float = 0.0
    repeated: float = 0.0


@dataclass(frozen=True)
class GeneratorOutcome:
    """One generator through the bench.

    Attributes:
        name: Its kind; "folder": other people as they are, who have to pass.
        parameters: Trained numbers.
        seconds: Of training.
        found: The verdict.
        blank: The share of its images that are of one value everywhere, or no numbers; they count as not reliable, and
            the two numbers below are of the others, NaN where these are fewer than two.
        nearest: Mean distance of its images to the nearest real one they have not learned from, per voxel: how they
            look, in a number.
        fid: With handcrafted features.
    """

    name: str
    parameters: int
    seconds: float
    found: Plausibility
    blank: float
    nearest: float
    fid: float


# --- blurred or changed -----------------------------------------------------------------------------------------------


def measure(
    maps: Sequence[LabelMap],
    work: Path,
    effort: Effort,
    seed: int,
    segmenter: Segmenter,
    progress: Progress = no_progress,
) -> Outcome:
    """Make the four sets of one seed, segment them, and hold them against the real one.

    "blurred" and "changed" are the same people; "real" are others, and "faithful" are others again, as they are.

    Args:
        maps: Whole heads that the segmenter has not learned from.
        work: For images, segmentations and what is kept of metrics; a run that was interrupted goes on.
        effort: How much.
        seed: Of all people.
        segmenter: Whose volumes are compared.
        progress: Called along the way.
    """
    place = work / f"seed{seed}"
    sets = {name: _make(maps, place, name, effort, seed, progress) for name in _SETS}
    measured = {
        name: segment(images, segmenter, place / f"{name}_segmented", progress) for name, images in sets.items()
    }
    truth = {name: _true_volumes(place / name / TRUTH, images) for name, images in sets.items()}
    outcome = Outcome()
    for name in _SETS[1:]:
        outcome.found[name] = compare(measured["real"], measured[name], training=measured["real"], seed=seed)
        outcome.truth[name] = compare(truth["real"], truth[name], seed=seed)
    outcome.images = list(_image_configurations(sets, place / "kept", seed, progress))
    outcome.anatomy = list(_anatomy_configurations({"lite": measured, "true labels": truth}))
    outcome.correlations = _correlations(measured["real"], truth["real"])
    outcome.copied = _copied_share(measured["real"], measured["real"].take(range(10)))
    outcome.repeated = _twin_share(measured["real"], measured["faithful"].take([0]))
    return outcome


def _make(maps: Sequence[LabelMap], place: Path, name: str, effort: Effort, seed: int, progress: Progress) -> ImageSet:
    numbers = {"real": 0, "blurred": 1, "changed": 1, "faithful": 2}  # of the people: equal for two sets
    spoilt = (lambda image, draw: noise(blur(image, _BLUR_MM, effort.mm), _NOISE, draw)) if name == "blurred" else None
    return make_people(
        maps, place / name, effort.people, seed=1000 * seed + numbers[name], mm=effort.mm,
        change=CHANGE if name == "changed" else None, spoil=spoilt, progress=progress,
    )  # fmt: skip


def _true_volumes(folder: Path, images: ImageSet) -> Measured:
    measured = read_segmentations(folder)
    names = tuple(name.removesuffix("_dseg") for name in measured.subjects)
    kept = [number for number, name in enumerate(names) if name in images.names]
    return replace(measured, subjects=names, segmenter="truth").take(kept)


def _image_configurations(
    sets: Mapping[str, ImageSet], kept: Path, seed: int, progress: Progress
) -> list[Configuration]:
    found = []
    counts = (len(sets["real"]) // 2, len(sets["real"]))
    for named in _EXTRACTORS:
        rows = {name: extract(sets[name], open_extractor(named), kept, progress) for name in _SETS[:3]}
        for count, (metric, distance) in product(counts, _DISTANCES.items()):
            values = [float(distance(rows["real"][:count], rows[name][:count])) for name in ("blurred", "changed")]
            found.append(Configuration(f"{metric}, {named}, n = {count}", *values))
    for window, count in product(_WINDOWS, counts):
        values = [_similarity(sets, name, window, count, seed, kept, progress) for name in ("blurred", "changed")]
        found.append(Configuration(f"MS-SSIM, window {window}, n = {count}", *values))
    return found


def _similarity(
    sets: Mapping[str, ImageSet], name: str, window: int, count: int, seed: int, kept: Path, progress: Progress
) -> float:
    """How far the similarity of generated and real images is from that of real ones among each other."""
    draw = np.random.default_rng(seed)
    pairs = np.stack([np.arange(count), (np.arange(count) + draw.integers(1, count)) % count], 1)
    scales = choose_scales(sets["real"][0].voxels_XYZ.shape, window)
    across = similarities(sets[name], sets["real"], pairs, scales, cache=kept, progress=progress)
    among = similarities(sets["real"], sets["real"], pairs, scales, cache=kept, progress=progress)
    return abs(float(np.nanmean(across)) - float(np.nanmean(among)))


def _anatomy_configurations(measured: Mapping[str, Mapping[str, Measured]]) -> list[Configuration]:
    found = []
    for (who, sets), adjust in product(measured.items(), _ADJUSTS):
        total = len(sets["real"])
        for count in (total // 2, total):
            values = []
            for name in ("blurred", "changed"):
                one = compare(sets["real"].take(range(count)), sets[name].take(range(count)), adjust, replicates=2,
                              permutations=1)  # fmt: skip
                values.append(max((abs(region.d.value) for region in one.regions), default=np.inf))
            found.append(Configuration(f"greatest |d|, {who}, head size {adjust}, n = {count}", *map(float, values)))
    return found


def _correlations(measured: Measured, truth: Measured) -> dict[str, float]:
    common = [name for name in measured.regions if name in truth.regions]
    ours, known = measured.only(common).volumes_SR, truth.only(common).volumes_SR
    return {name: float(np.corrcoef(ours[:, row], known[:, row])[0, 1]) for row, name in enumerate(common)}


def _copied_share(training: Measured, copies: Measured) -> float:
    found = compare(training, copies, training=training, replicates=2, permutations=1).copies
    return float("nan") if found is None else found.copied


def _twin_share(real: Measured, one: Measured) -> float:
    """One image a hundred times."""
    times = 100
    repeated = Measured(
        tuple(f"again-{number}" for number in range(times)), one.regions, np.repeat(one.volumes_SR, times, 0),
        np.repeat(one.icv_S, times), segmenter=one.segmenter, missing=one.missing,
    )  # fmt: skip
    found = compare(real, repeated, replicates=2, permutations=1).repeats
    return float("nan") if found is None else found.twins


# --- real people ------------------------------------------------------------------------------------------------------


def real_holdout(people: Measured, seed: int, unseen: int = 91) -> tuple[Plausibility, Plausibility]:
    """Some real people against the others: as they are, and with all volumes 15 % larger in heads of the same size."""
    order = np.random.default_rng(seed).permutation(len(people))
    real, held = people.take(order[unseen:]), people.take(order[:unseen])
    larger = replace(held, volumes_SR=held.volumes_SR * 1.15)
    return compare(real, held, seed=seed), compare(real, larger, seed=seed)


# --- six generators ---------------------------------------------------------------------------------------------------


def measure_generators(
    maps: Sequence[LabelMap],
    work: Path,
    effort: Effort,
    seed: int,
    segmenter: Segmenter,
    progress: Progress = no_progress,
) -> list[GeneratorOutcome]:
    """Train every kind in miniature with the same budget, sample, segment, and put it through the bench.

    Args:
        maps: As for `measure`.
        work: Likewise.
        effort: How much.
        seed: Of people, weights and samples.
        segmenter: Whose volumes are compared.
        progress: Called along the way.
    """
    place = work / f"generators{seed}"
    learned, real, others = (
        make_people(maps, place / name, count, seed=1000 * seed + number, mm=_COARSE_MM, progress=progress)
        for name, count, number in (
            (_LEARNED, effort.learned, 500), ("real", effort.people, 501), ("others", effort.people, 502)
        )
    )  # fmt: skip
    known = [segment(images, segmenter, place / f"{images.name}_segmented", progress) for images in (real, learned)]
    x, y, z = real[0].voxels_XYZ.shape
    outcomes = []
    for number, name in enumerate([*GENERATORS, "folder"]):
        progress("generators", number, len(GENERATORS) + 1)
        generator: Generator = FolderGenerator(others.folder)
        cost, count = Cost(0, 0, 0.0, 0), len(others)
        if name != "folder":
            generator, count = make_generator(name, (x, y, z), "miniature"), effort.samples
            cost = generator.fit(learned, place / name, Budget(effort.budget, _BATCH, seed), quiet=True)
        samples = _sampled(generator, count, seed, real, place / f"{name}_samples")
        seen, folder = samples.readable(), place / f"{name}_segmented"
        volumes = segment(samples, segmenter, folder, progress) if len(seen) else none_reliable(samples, known[0])
        found = compare(known[0], volumes, training=known[1], seed=seed)
        looks = (np.nan, np.nan)
        if len(seen) > 1:
            rows = [extract(images, open_extractor("handcrafted")) for images in (real, seen)]
            looks = _nearest(real, seen), frechet(*rows)
        blank = 1 - len(seen) / len(samples)
        outcomes.append(GeneratorOutcome(name, cost.parameters, cost.seconds, found, blank, *looks))
    return outcomes


def _sampled(generator: Generator, count: int, seed: int, like: ImageSet, folder: Path) -> ImageSet:
    folder.mkdir(parents=True, exist_ok=True)
    affine = like[0].affine
    for number in range(count):
        target = folder / f"generated_sample_{number}.nii.gz"
        if not target.exists():
            write_image(target, generator.sample(1, seed, first=number)[0], affine)
    if like.processing is not None:
        write_sidecar(folder, like.processing)
    return open_images(folder)


def _nearest(real: ImageSet, samples: ImageSet) -> float:
    """Root mean square difference to the nearest real image, averaged over the samples."""
    known = np.stack([image.voxels_XYZ.ravel() for image in real])
    return float(np.mean([np.sqrt(((known - one.voxels_XYZ.ravel()) ** 2).mean(1).min()) for one in samples]))
