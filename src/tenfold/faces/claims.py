"""The claims of bridge distillation (arXiv 2409.11786) in miniature, against its baselines, on people not learned from.

The paper's tables were not at hand, and its data are hundreds of thousands of faces. Here are some dozens of people:
what can be shown is whether the bridge helps, not how good a student is in the end.
"""

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch

from tenfold import __version__
from tenfold.core.claims import Claim, Finding, tabulate
from tenfold.core.errors import InputError
from tenfold.core.machine import processor
from tenfold.core.progress import Progress
from tenfold.core.reports import Cell, Plot, Report, Series, Table
from tenfold.faces.experiments import FACES_PER_PERSON, MULTI, TEACHER, Effort, Outcome, Score, measure, read_sets
from tenfold.faces.teachers import Teacher, load_teacher

__all__ = ["CLAIMS", "report", "reproduce"]

_OURS = "ours"
CLAIMS = {
    claim.name: claim
    for claim in (
        Claim("H1", "16 px: AUC of bridge less that of scratch", "paper: bridge distillation helps", 0),
        Claim("H2", "16 px: one-shot rank 1 of bridge less that of scratch", "paper: bridge distillation helps", 0),
        Claim("H3", "16 px: AUC of bridge less that of direct (no step 1)", "paper: adapted features are mimicked", 0),
        Claim("H4", "16 px: AUC of bridge less that of regression only", "paper: both tasks together", 0),
        Claim("H5", "32 px: AUC of bridge less that of scratch", "paper: bridge distillation helps", 0),
        Claim("F1", "16 px: AUC of bridge less that of pixels", _OURS, 0),
        Claim("F2", "16 px: AUC of bridge less that of the teacher on enlarged faces", _OURS, 0),
        Claim("S1", "16 px probes: rank 1 against small less against big gallery faces", _OURS, 0.10, at_least=False),
        Claim("S2", "16 px against big: rank 1 of bridge less that of the teacher alone, enlarged", _OURS, 0),
        Claim("M1", "16 px: rank 1 of one student for 16 less that of one for 16 to 32", _OURS, 0.03, at_least=False),
        Claim("Q1", "int8: mean cosine to float32", _OURS, 0.99),
        Claim("Q2", "int8: AUC of float32 less that of int8", _OURS, 0.005, at_least=False),
        Claim("C1", "threshold for a FAR of 1 %: FAR on others outside the stated interval", _OURS, 0, at_least=False),
    )
}

_QUICK = Effort(teacher_epochs=1, adapter_epochs=3, steps=12, batch=32)
_FULL = Effort()
_ROWS = {
    "teacher, big faces": "teacher, big faces",
    "adapter, big faces": "adapter, big faces",
    "pixels": "pixels (correlation)",
    "upsample_teacher": "teacher, enlarged faces",
    "scratch": "student: scratch",
    "direct": "student: direct",
    "regression_only": "student: regression only",
    "hinton": "student: soft logits",
    "fitnet": "student: hint, soft logits",
    "bridge": "student: bridge",
}


def reproduce(folder: Path | None, work_in: Path, *, seeds: int, quick: bool, progress: Progress) -> Report:
    """Measure every claim and report.

    Args:
        folder: A folder with a folder for each set of people. If it holds `teacher`, a folder with a `teacher.json`
            or a model folder, that is the teacher; else a small one is trained on a third of the people, who are then
            not learned from again. Pictures are taken as crops.
        work_in: Models and features lie in `work_in/faces`; a run that was interrupted goes on there.
        seeds: Repetitions, each with other people dealt out, other weights and another order.
        quick: A few steps, which show that it runs, not what holds.
        progress: Called along the way.

    Raises:
        InputError: No folder, or too few people or faces in it.
    """
    if folder is None:
        raise InputError("reproduce faces needs --data: faces cannot be brought along; a folder with sets of people")
    if not 1 <= seeds <= 16:
        raise InputError(f"seeds is {seeds}; it is from 1 to 16")
    work = work_in / ("faces-quick" if quick else "faces")
    effort, own = _QUICK if quick else _FULL, folder / TEACHER
    teacher = load_teacher(own) if own.is_dir() else None
    sets = read_sets(folder, work / "crops", progress)
    outcomes = [measure(sets, work, effort, seed, teacher, progress) for seed in range(seeds)]
    return report(outcomes, effort, teacher)


def report(outcomes: Sequence[Outcome], effort: Effort, teacher: Teacher | None = None) -> Report:
    """What the outcomes of some seeds say of every claim."""
    first, second = effort.sizes[0], effort.sizes[-1]
    findings = _findings(outcomes, effort)
    missing = sorted(CLAIMS.keys() - {finding.claim.name for finding in findings})
    unmeasured = [f"Not measured: {', '.join(missing)}."] if missing else []
    tables = [tabulate("Bridge distillation's claims in miniature", findings, unmeasured)]
    tables += [_score_table(outcomes, size, test) for size in (first, second) for test in outcomes[0].curves]
    tables += [_cross_table(outcomes), _curve_table(outcomes)]
    lines = [
        Series(test, list(map(float, MULTI)), [_mean(outcomes, lambda one: one.curves[test][size]) for size in MULTI])  # noqa: B023
        for test in outcomes[0].curves
    ]
    plot = Plot("One student for several sizes", "side of the face, pixels", "AUC of verification", lines)
    private, public, tested = outcomes[0].counts
    steps, batch = outcomes[0].schedule
    whose = f"given, {teacher.licence}" if teacher else f"our small network, trained on {private} private people"
    notes = [
        f"For each seed {private} people are private, {public} public, {tested} tested. Teacher: {whose}.",
        f"Students: {steps:,} steps of {batch} faces with the first seed; step 1: {effort.adapter_epochs} epochs.",
        f"Seeds: {len(outcomes)}. Differences are taken within a seed, as means over the tested sets. Tenfold "
        f"{__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{processor()}.",
        f"Sets of which most people have fewer than {FACES_PER_PERSON} faces are public only. The paper's tables were "
        "not at hand: this shows whether the bridge helps in miniature, and reproduces no figure of the paper.",
    ]
    return Report("Bridge distillation: the claims", tables, [plot], notes)


def _findings(outcomes: Sequence[Outcome], effort: Effort) -> list[Finding]:
    """What could be measured under every seed."""
    first, second = effort.sizes[0], effort.sizes[-1]

    def auc(one: Outcome, name: str) -> float:
        return fmean(score.auc for score in one.scores[name].values())

    def rank1(one: Outcome, name: str) -> float:
        return fmean(score.rank1 for score in one.scores[name].values())

    def cross(one: Outcome, name: str) -> float:
        return fmean(one.crossed[name].values())

    def several(one: Outcome) -> float:
        return fmean(by_size[first] for by_size in one.multi_rank1.values())

    def int8(one: Outcome, what: str) -> float:
        assert one.int8 is not None
        if what == "cosine":
            return one.int8.cosine_mean
        before, after = one.int8.auc_float, one.int8.auc_int8
        return math.nan if before is None or after is None else before - after

    values: dict[str, Callable[[Outcome], float]] = {
        "H1": lambda one: auc(one, f"bridge {first}") - auc(one, f"scratch {first}"),
        "H2": lambda one: rank1(one, f"bridge {first}") - rank1(one, f"scratch {first}"),
        "H3": lambda one: auc(one, f"bridge {first}") - auc(one, f"direct {first}"),
        "H4": lambda one: auc(one, f"bridge {first}") - auc(one, f"regression_only {first}"),
        "H5": lambda one: auc(one, f"bridge {second}") - auc(one, f"scratch {second}"),
        "F1": lambda one: auc(one, f"bridge {first}") - auc(one, f"pixels {first}"),
        "F2": lambda one: auc(one, f"bridge {first}") - auc(one, f"upsample_teacher {first}"),
        "S1": lambda one: rank1(one, f"bridge {first}") - cross(one, f"bridge {first}"),
        "S2": lambda one: cross(one, f"bridge {first}") - cross(one, f"upsample_teacher {first}"),
        "M1": lambda one: rank1(one, f"bridge {first}") - several(one),
        "Q1": lambda one: int8(one, "cosine"),
        "Q2": lambda one: int8(one, "loss"),
        "C1": lambda one: max(0.0, one.far[0] - one.far[2], one.far[1] - one.far[0]),
    }
    measured = {name: tuple(map(value, outcomes)) for name, value in values.items()}
    return [Finding(CLAIMS[name], each) for name, each in measured.items() if all(map(math.isfinite, each))]


def _score_table(outcomes: Sequence[Outcome], size: int, test: str) -> Table:
    rows: list[list[Cell]] = []
    for row, shown in _ROWS.items():
        name = row if row in outcomes[0].scores else f"{row} {size}"
        if name not in outcomes[0].scores:
            continue
        own = [one.scores[name][test] for one in outcomes]
        rows.append([shown, *(_spread(own, what) for what in ("auc", "tar", "rank1"))])
    columns = ["method", "AUC", "TAR at FAR 1 %", "one-shot rank 1"]
    return Table(f"Set {test}, faces of {size} px: mean over seeds, least to most", columns, rows)


def _spread(scores: Sequence[Score], what: str) -> str:
    values = [float(getattr(score, what)) for score in scores]
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _cross_table(outcomes: Sequence[Outcome]) -> Table:
    rows: list[list[Cell]] = [
        [name, *(_mean(outcomes, lambda one: one.crossed[name][test]) for test in outcomes[0].curves)]  # noqa: B023
        for name in outcomes[0].crossed
    ]
    return Table("Big faces in the gallery, small probes: rank 1", ["method and size", *outcomes[0].curves], rows)


def _curve_table(outcomes: Sequence[Outcome]) -> Table:
    rows: list[list[Cell]] = []
    for size in MULTI:
        row: list[Cell] = [size]
        for test in outcomes[0].curves:
            row.append(_mean(outcomes, lambda one: one.curves[test][size]))  # noqa: B023
            row.append(_mean(outcomes, lambda one: one.multi_rank1[test][size]))  # noqa: B023
        rows.append(row)
    columns = [f"{test}, {what}" for test in outcomes[0].curves for what in ("AUC", "rank 1")]
    return Table("One student for 16 to 32 px", ["pixels", *columns], rows)


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    return fmean(map(value, outcomes))
