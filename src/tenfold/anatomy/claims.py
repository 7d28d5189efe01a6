"""The claims of the evaluation of brain-MRI generators (arXiv 2409.08463) in miniature, on people who were made.

The paper's tables were not at hand, nor its three thousand images, nor SynthSeg's weights. What can be shown is whether
the bench finds faults that were put in on purpose, lets faithful images pass, and what the usual metrics say meanwhile.
"""

import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from tenfold import __version__
from tenfold.anatomy.experiments import (
    CHANGED,
    Configuration,
    Effort,
    GeneratorOutcome,
    Outcome,
    measure,
    measure_generators,
    real_holdout,
)
from tenfold.anatomy.lite import LiteSegmenter
from tenfold.anatomy.plausibility import PLAUSIBLE, Plausibility
from tenfold.anatomy.sets import read_label_maps
from tenfold.anatomy.tables import read_measured
from tenfold.core.claims import Claim, Finding, tabulate
from tenfold.core.errors import InputError
from tenfold.core.machine import processor
from tenfold.core.progress import Progress
from tenfold.core.reports import Cell, Report, Table

__all__ = ["CLAIMS", "report", "reproduce"]

_OURS = "ours"
_PAPER = "paper: anatomy decides where image metrics do not"
CLAIMS = {
    claim.name: claim
    for claim in (
        Claim("A1", "hippocampi smaller by 25 %: d of the hippocampus", _PAPER, 0.8),
        Claim("A2", "ventricles larger by 40 %: -d of the lateral ventricle", _PAPER, 0.8),
        Claim("A3", "the same set: greatest |d| of the other regions", _PAPER, 0.8, at_least=False),
        Claim("A4", "mild blur and noise, anatomy intact: greatest |d|", _PAPER, PLAUSIBLE, at_least=False),
        Claim("A5", "other people as they are: greatest |d|", _OURS, PLAUSIBLE, at_least=False),
        Claim("A6", "share of anatomical settings that prefer the changed set", _PAPER, 0, at_least=False),
        Claim("I1", "share of settings of image metrics that prefer the changed set", _PAPER, 0.5),
        Claim("V1", "median correlation of segmented with true volumes", _OURS, 0.8),
        Claim("C1", "ten images of the learned set: share found to be copies", _OURS, 0.95),
        Claim("C2", "one image a hundred times: share found to be repeated", _OURS, 0.95),
        Claim("R1", "91 real people against 109: share of plausible regions", _OURS, 0.95),
        Claim("R2", "the same, 15 % larger in equal heads: share of plausible regions", _OURS, 0.5, at_least=False),
    )
}
_PEOPLE = "tables/ixi_dlmuse_volumes.tsv"
_QUICK = Effort(people=10, mm=6.0, learned=0)
_FULL = Effort()


def reproduce(folder: Path | None, work_in: Path, *, seeds: int, quick: bool, progress: Progress) -> Report:
    """Measure every claim and report.

    Args:
        folder: With `labelmaps`, whole-head label maps in FreeSurfer's numbers, and `tables/ixi_dlmuse_volumes.tsv`.
        work_in: Images and models lie in `work_in/anatomy`; a run that was interrupted goes on there.
        seeds: Repetitions, each with other people. The generators are trained for the first one only.
        quick: Few people with voxels of 6 mm and no generators, which shows that it runs, not what holds.
        progress: Called along the way.

    Raises:
        InputError: No folder, or something is missing in it.
    """
    if folder is None:
        raise InputError("reproduce anatomy needs --data: a folder with labelmaps and tables")
    if not 1 <= seeds <= 16:
        raise InputError(f"seeds is {seeds}; it is from 1 to 16")
    work = work_in / ("anatomy-quick" if quick else "anatomy")
    effort, segmenter = _QUICK if quick else _FULL, LiteSegmenter()
    people, maps = read_measured(folder / _PEOPLE), read_label_maps(folder / "labelmaps", segmenter.learned_from)
    outcomes = [measure(maps, work, effort, seed, segmenter, progress) for seed in range(seeds)]
    held = [real_holdout(people, seed) for seed in range(seeds)]
    generators = []
    if effort.learned:
        generators = measure_generators(maps, work, effort, 0, segmenter, progress)
    return report(outcomes, held, generators, effort, segmenter.name)


def report(
    outcomes: Sequence[Outcome],
    held: Sequence[tuple[Plausibility, Plausibility]],
    generators: Sequence[GeneratorOutcome],
    effort: Effort,
    segmenter: str,
) -> Report:
    """What was measured, as tables."""
    values = _values(outcomes, held)
    findings = [Finding(CLAIMS[name], known) for name, known in values.items() if known]
    tables = [tabulate("Blurred or changed: the claims in miniature", findings)]
    tables += [_region_table(outcomes), _verdict_table(outcomes)]
    tables += [_configuration_table("Image metrics", [one.images for one in outcomes])]
    tables += [_configuration_table("Anatomy", [one.anatomy for one in outcomes])]
    if generators:
        tables.append(_generator_table(generators))
    notes = [
        f"{effort.people} people in each set, voxels of {effort.mm:g} mm, made of label maps; segmenter: {segmenter}.",
        "blurred: 1 mm of Gaussian blur and 2 % of noise; changed: the same people, sharp, with hippocampi smaller "
        "by 25 % and lateral ventricles larger by 40 %; faithful: other people as they are.",
        f"Seeds: {len(outcomes)}. Tenfold {__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {processor()}. "
        "Label maps that the segmenter has learned from are not among these.",
    ]
    notes += [
        f"{name}: measured for {len(known)} of {len(outcomes)} seeds; in the others a set has no reliable images"
        for name, known in values.items()
        if len(known) < len(outcomes)
    ]
    return Report("Is a generated brain plausible: the claims", tables, [], notes)


def _values(
    outcomes: Sequence[Outcome], held: Sequence[tuple[Plausibility, Plausibility]]
) -> dict[str, tuple[float, ...]]:
    """What each claim is about, a number per seed that has one."""

    def greatest(found: Plausibility, without: Sequence[str] = ()) -> float:
        left = [abs(region.d.value) for region in found.regions if region.name not in without]
        return max(left, default=float("nan"))

    def share(configurations: Sequence[Configuration]) -> float:
        return fmean(one.prefers_changed for one in configurations)

    value_of: dict[str, Callable[[Outcome], float]] = {
        "A1": lambda one: _effect(one.found["changed"], CHANGED[0]),
        "A2": lambda one: -_effect(one.found["changed"], CHANGED[1]),
        "A3": lambda one: greatest(one.found["changed"], CHANGED),
        "A4": lambda one: greatest(one.found["blurred"]),
        "A5": lambda one: greatest(one.found["faithful"]),
        "A6": lambda one: share(one.anatomy),
        "I1": lambda one: share(one.images),
        "V1": lambda one: median(one.correlations.values()),
        "C1": lambda one: one.copied,
        "C2": lambda one: one.repeated,
    }
    values = {name: [value(one) for one in outcomes] for name, value in value_of.items()}
    values["R1"] = [as_they_are.share for as_they_are, _ in held]
    values["R2"] = [larger.share for _, larger in held]
    return {name: tuple(value for value in found if np.isfinite(value)) for name, found in values.items()}


def _effect(found: Plausibility, region: str) -> float:
    """Cohen's d; NaN where a set has no reliable images."""
    return next((each.d.value for each in found.regions if each.name == region), float("nan"))


def _mean(values: Iterable[float]) -> float | None:
    """Of those that are numbers; None where there are none."""
    known = [value for value in values if np.isfinite(value)]
    return fmean(known) if known else None


def _region_table(outcomes: Sequence[Outcome]) -> Table:
    columns = [
        "region",
        *(f"{name}, {how}" for name in ("blurred", "changed", "faithful") for how in ("lite", "truth")),
    ]
    rows: list[list[Cell]] = []
    for region in outcomes[0].correlations:
        row: list[Cell] = [region]
        for name in ("blurred", "changed", "faithful"):
            for sets in ([one.found for one in outcomes], [one.truth for one in outcomes]):
                row.append(_mean(_effect(found[name], region) for found in sets))
        rows.append([*row, _mean(one.correlations[region] for one in outcomes)])
    return Table("Cohen's d by region, mean over seeds", [*columns, "correlation of lite with truth"], rows)


def _verdict_table(outcomes: Sequence[Outcome]) -> Table:
    rows: list[list[Cell]] = []
    for name in ("blurred", "changed", "faithful"):
        found = [one.found[name] for one in outcomes]
        rejected = [one.generated_gate.rejected for one in found if one.generated_gate is not None]
        verdicts = ", ".join(one.verdict for one in found)
        shares, distances = _mean(one.share for one in found), _mean(one.wasabi for one in found)
        rows.append([name, verdicts, shares, _mean(rejected), distances])
    columns = ["set", "verdicts by seed", "plausible regions", "rejected by the gate", "joint distance"]
    return Table("Verdicts on the segmenter's volumes", columns, rows)


def _configuration_table(title: str, seeds: Sequence[Sequence[Configuration]]) -> Table:
    rows: list[list[Cell]] = []
    for number, one in enumerate(seeds[0]):
        own = [configurations[number] for configurations in seeds]
        prefers = sum(each.prefers_changed for each in own)
        blurred, changed = fmean(each.blurred for each in own), fmean(each.changed for each in own)
        rows.append([one.name, blurred, changed, f"{prefers} of {len(own)}"])
    columns = ["setting", "blurred", "changed", "seeds that prefer changed"]
    return Table(f"{title}: distance from real people, mean over seeds", columns, rows)


def _generator_table(generators: Sequence[GeneratorOutcome]) -> Table:
    rows: list[list[Cell]] = []
    for one in generators:
        rejected = None if one.found.generated_gate is None else one.found.generated_gate.rejected
        passes = "passes" if one.found.passes else "fails"
        measured = (one.found.share, one.found.wasabi, one.fid, one.nearest)
        known = [None if np.isnan(value) else value for value in measured]
        rows.append([one.name, one.parameters, one.seconds, one.blank, rejected, one.found.verdict, *known, passes])
    columns = ["generator", "parameters", "seconds", "blank", "rejected", "verdict", "plausible regions",
               "joint distance", "FID, handcrafted", "distance to nearest real", "bench"]  # fmt: skip
    notes = [f"rank correlation of the share rejected with the distance to the nearest real: {_order(generators):.2f}"]
    return Table("Six generators in miniature, equal budgets", columns, rows, notes)


def _order(generators: Sequence[GeneratorOutcome]) -> float:
    """Whether what the gate leaves out goes with what looks wrong."""
    from scipy.stats import spearmanr  # noqa: PLC0415

    pairs = [
        (one.found.generated_gate.rejected, one.nearest)
        for one in generators
        if one.found.generated_gate is not None and np.isfinite(one.nearest)
    ]
    if len({rejected for rejected, _ in pairs}) < 2:
        return float("nan")
    return float(spearmanr(*np.array(pairs).T)[0])
