"""1:N identification: who of the gallery is this? Closed set, with distractors, open set, one shot.

Ties count against the method: a wrong entry with the same score as the right one stands before it, so that an embedding
that is constant finds nobody.

N probes · M gallery entries · L distractors · K people · d dimension
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import check_labels, unit_vectors
from tenfold.faces.ranking import Curve, Ranked
from tenfold.faces.resampling import REPLICATES, Estimate, estimate
from tenfold.faces.verification import check_rates

__all__ = ["Identification", "OneShot", "OpenSet", "identification", "one_shot", "open_set"]

RANKS = (1, 5, 10, 20, 50)
FPIRS = (0.1, 0.01, 0.001)
_BLOCK = 1 << 24  # scores held at a time: 64 MB


@dataclass(frozen=True)
class Identification:
    """Closed-set identification: every probe's person is in the gallery.

    Attributes:
        ranks: (N,) int64, the rank of the first right entry of each probe, from 1.
        cmc: (C,) float64, the share of probes with a rank of at most 1, 2, ... (cumulative match characteristic).
        rank_at: Share of probes found at rank k or before, by k.
        mean_average_precision: As TinyFace's and Market-1501's evaluation have it: the area under precision over recall
            by trapezoids, which starts at precision 1.
        mean_average_precision_stepwise: The mean of the precisions at each right entry, as `average_precision_score` of
            scikit-learn has it.
        probes: N.
        entries: M + L.
        without_mate: Probes that were left out because their person is not in the gallery.
        people: Among the probes; the unit of the intervals, for which the gallery is taken as given.
    """

    ranks: NDArray[np.int64]
    cmc: NDArray[np.float64]
    rank_at: dict[int, Estimate]
    mean_average_precision: Estimate
    mean_average_precision_stepwise: Estimate
    probes: int
    entries: int
    without_mate: int
    people: int


def identification(
    probes_Nd: ArrayLike,
    probe_labels: ArrayLike,
    gallery_Md: ArrayLike,
    gallery_labels: ArrayLike,
    distractors_Ld: ArrayLike | None = None,
    ranks: Sequence[int] = RANKS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Identification:
    """Rank the gallery, and distractors if given, for each probe by cosine.

    Args:
        probes_Nd: (N, d) embeddings.
        probe_labels: (N,) int64, their people.
        gallery_Md: (M, d) embeddings, one or more of each person.
        gallery_labels: (M,) int64.
        distractors_Ld: (L, d) faces of nobody in the gallery, such as TinyFace's 153,428.
        ranks: The k of `rank_at`; those above the number of entries are left out.
        replicates: Resamples of the probes' people.
        seed: Of the resampling.

    Raises:
        InputError: No probe has its person in the gallery, or the arrays do not fit each other.
    """
    if any(rank < 1 for rank in ranks):
        raise InputError(f"ranks are {list(ranks)}; they count from 1")
    labels, gallery_people = check_labels(probe_labels, len(np.asarray(probes_Nd))), np.asarray(gallery_labels)
    known = np.isin(labels, gallery_people)
    if not known.any():
        raise InputError(f"none of the {len(labels)} probes is of a person in the gallery; check the labels")
    search = _Entries(gallery_Md, gallery_labels, distractors_Ld)
    ranks = tuple(rank for rank in ranks if rank <= search.entries) or (1,)
    first = np.empty(int(known.sum()), np.int64)
    precisions = np.empty((2, len(first)))
    done = 0
    for part, entries, others in search.scores(np.asarray(probes_Nd)[known]):
        mates = labels[known][part][:, None] == search.people
        for row, mate, other in zip(entries, mates, others, strict=True):
            rank = _mate_ranks(row[mate], row[~mate], other)
            first[done], precisions[:, done] = rank[0], _average_precisions(rank)
            done += 1
    _, person = np.unique(labels[known], return_inverse=True)
    rates = np.stack([*(first <= rank for rank in ranks), *precisions]).astype(np.float64)
    *rank_at, trapezoid, stepwise = _mean_rates(rates, person, replicates, seed)
    return Identification(
        ranks=first,
        cmc=np.cumsum(np.bincount(first - 1, minlength=max(ranks)))[: max(ranks)] / len(first),
        rank_at=dict(zip(ranks, rank_at, strict=True)),
        mean_average_precision=trapezoid,
        mean_average_precision_stepwise=stepwise,
        probes=len(first),
        entries=search.entries,
        without_mate=int((~known).sum()),
        people=int(person.max()) + 1,
    )


def _mate_ranks(mates: NDArray[np.floating], *others: NDArray[np.floating]) -> NDArray[np.int64]:
    """The ranks of the right entries, ascending, among all; wrong entries of the same score come first."""
    descending = np.sort(mates)[::-1]
    before = np.zeros(len(mates), np.int64)
    for scores in others:
        near = np.sort(scores[scores >= descending[-1]])
        before += len(near) - np.searchsorted(near, descending, side="left")
    return before + np.arange(1, len(mates) + 1)


def _average_precisions(ranks: NDArray[np.int64]) -> tuple[float, float]:
    """By trapezoids and stepwise: with n right entries, the i-th at rank r, recall grows by 1 / n there.

    Precision is i / r at it and (i - 1) / (r - 1) just before, or 1 before rank 1.
    """
    found = np.arange(1, len(ranks) + 1)
    at = found / ranks
    before = np.divide(found - 1, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
    return float((at + before).mean() / 2), float(at.mean())


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification: some probes are of nobody in the gallery (Grother's TPIR, FERET's DIR at FAR).

    Attributes:
        tpir_at: True positive identification rate by FPIR: the share of probes of gallery people whose first entry is
            of their person and has at least the threshold's score; NaN where there are fewer than 1 / FPIR others.
        thresholds: The threshold of each `tpir_at`.
        curve: FPIR against 1 - TPIR at every score, thinned.
        mated: Probes whose person is in the gallery.
        unmated: Probes whose person is not; FPIR is the share of them with an entry of at least the threshold's score.
    """

    tpir_at: dict[float, Estimate]
    thresholds: dict[float, float]
    curve: Curve
    mated: int
    unmated: int


def open_set(
    probes_Nd: ArrayLike,
    probe_labels: ArrayLike,
    gallery_Md: ArrayLike,
    gallery_labels: ArrayLike,
    distractors_Ld: ArrayLike | None = None,
    fpirs: Sequence[float] = FPIRS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> OpenSet:
    """Find each probe in the gallery, or nobody. Arguments as for `identification`; distractors are further entries.

    Raises:
        InputError: All probes are of people in the gallery, or none is, or the arrays do not fit each other.
    """
    fpirs = check_rates("FPIR", fpirs)
    labels = check_labels(probe_labels, len(np.asarray(probes_Nd)))
    search = _Entries(gallery_Md, gallery_labels, distractors_Ld)
    mated = np.isin(labels, search.people)
    if not mated.any() or mated.all():
        raise InputError(
            f"{mated.sum()} of {len(labels)} probes are of people in the gallery; give probes of both kinds"
        )
    best = np.empty(len(labels))
    for part, entries, others in search.scores(probes_Nd):
        mates = labels[part][:, None] == search.people
        right = np.where(mates, entries, -np.inf).max(axis=1)
        wrong = np.where(mates, -np.inf, entries).max(axis=1)
        wrong = np.maximum(wrong, others.max(axis=1, initial=-np.inf))
        best[part] = np.where(mated[part], np.where(right > wrong, right, -np.inf), wrong)
    _, person = np.unique(labels, return_inverse=True)
    ranked = Ranked.of_scores(best[mated], person[mated], best[~mated], (person[~mated],))
    people = int(person.max()) + 1

    def rates(weights: NDArray[np.float64]) -> list[float]:
        counted = ranked.weigh(weights)
        return [counted.tar(fpir) for fpir in fpirs]

    whole = ranked.weigh(np.ones(people))
    curve = ranked.curve()
    finite = np.isfinite(curve.thresholds) | (curve.far == 0)
    return OpenSet(
        tpir_at=dict(zip(fpirs, estimate(rates, people, replicates, seed), strict=True)),
        thresholds={fpir: whole.threshold(fpir) for fpir in fpirs},
        curve=Curve(curve.thresholds[finite], curve.far[finite], curve.frr[finite]).thin(),
        mated=int(mated.sum()),
        unmated=int((~mated).sum()),
    )


@dataclass(frozen=True)
class OneShot:
    """Rank 1 with a single, random face of each person in the gallery.

    Attributes:
        rank1: Mean over the seeds, with the interval over people.
        values: Per seed.
        found_KS: (K, S) float64, how many faces of each person, in ascending order of labels, were found per seed.
        probes_K: (K,) float64, of how many: all but one.
    """

    rank1: Estimate
    values: tuple[float, ...]
    found_KS: NDArray[np.float64]
    probes_K: NDArray[np.float64]


def one_shot(
    vectors_Nd: ArrayLike, labels: ArrayLike, seeds: Sequence[int] = range(10), replicates: int = REPLICATES
) -> OneShot:
    """Draw one face of each person as the gallery and look the others up, once per seed.

    People with a single face stay in the gallery and are never looked up.

    Args:
        vectors_Nd: (N, d) embeddings.
        labels: (N,) int64.
        seeds: Of the draws, at least one.
        replicates: Resamples of the people.
    """
    units = unit_vectors(vectors_Nd)
    _, people = np.unique(check_labels(labels, len(units)), return_inverse=True)
    count = int(people.max(initial=-1)) + 1
    if not seeds or count < 2 or count == len(people):
        raise InputError(f"{len(people)} faces of {count} people, {len(seeds)} seeds: two people, one with two faces")
    found = np.zeros((count, len(seeds)))
    for column, seed in enumerate(seeds):
        order = np.random.default_rng(seed).permutation(len(people))
        chosen = order[np.unique(people[order], return_index=True)[1]]  # the first of each person in random order
        probes = np.setdiff1d(np.arange(len(people)), chosen)
        for part, entries, _ in _Entries(units[chosen], np.arange(count)).scores(units[probes]):
            rows, own = np.arange(len(entries)), people[probes[part]]
            right = entries[rows, own].copy()
            entries[rows, own] = -np.inf
            found[:, column] += np.bincount(own, weights=right > entries.max(axis=1), minlength=count)
    looked_up = np.bincount(people).astype(np.float64) - 1
    values = _shares(np.ones(count), found, looked_up)
    [rank1] = estimate(lambda weights: [float(np.mean(_shares(weights, found, looked_up)))], count, replicates)
    return OneShot(rank1, tuple(values), found, looked_up)


def _shares(weights: NDArray[np.float64], found_KS: NDArray[np.float64], probes_K: NDArray[np.float64]) -> list[float]:
    total = float(weights @ probes_K)
    return [float(found) / total if total else math.nan for found in weights @ found_KS]


def _mean_rates(rates_mN: NDArray[np.float64], person: NDArray[np.intp], replicates: int, seed: int) -> list[Estimate]:
    """Means over probes of several rates, with intervals over people."""
    people = int(person.max()) + 1
    counts = np.bincount(person).astype(np.float64)
    sums = np.stack([np.bincount(person, weights=rate) for rate in rates_mN])
    return estimate(lambda weights: sums @ weights / (counts @ weights), people, replicates, seed)


class _Entries:
    """Cosines of probes with the entries of a gallery and with distractors, block by block."""

    def __init__(self, gallery_Md: ArrayLike, labels: ArrayLike, distractors_Ld: ArrayLike | None = None) -> None:
        self._gallery = unit_vectors(gallery_Md, "gallery")
        self.people = check_labels(labels, len(self._gallery))
        if not len(self.people):
            raise InputError("the gallery is empty; give at least one face")
        width = self._gallery.shape[1]
        empty = np.empty((0, width), self._gallery.dtype)
        self._distractors = empty if distractors_Ld is None else unit_vectors(distractors_Ld, "distractors")
        if self._distractors.shape[1] != width:
            raise InputError(f"distractors have dimension {self._distractors.shape[1]}, the gallery {width}")
        self.entries = len(self.people) + len(self._distractors)

    def scores(self, probes_Nd: ArrayLike) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.floating]]]:
        """Per block of probes: which they are, their scores with the entries and with the distractors."""
        probes = unit_vectors(probes_Nd, "probes")
        if probes.shape[1] != self._gallery.shape[1]:
            raise InputError(f"probes have dimension {probes.shape[1]}, the gallery {self._gallery.shape[1]}")
        step = max(1, _BLOCK // self.entries)
        for start in range(0, len(probes), step):
            block = probes[start : start + step]
            yield slice(start, start + len(block)), block @ self._gallery.T, block @ self._distractors.T
