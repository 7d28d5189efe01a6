"""1:1 verification: is this the same person? ROC area, equal error rate, TAR at FAR, DET curve, LFW's ten folds.

A pair is accepted where its score is at least the threshold. FAR is the share of impostor pairs (different people)
that are accepted, TAR that of genuine pairs (one person), FRR = 1 - TAR; NIST says FMR, 1 - FNMR and FNMR. No rate is
interpolated but the equal error rate: TAR at FAR f is the highest at a threshold whose observed FAR is at most f, and
is NaN where one false accept alone is more than f, because then nothing was measured.

P pairs · V distinct scores · F folds
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import check_pairs
from tenfold.faces.ranking import Curve, Ranked
from tenfold.faces.resampling import REPLICATES, Estimate, estimate

__all__ = ["TenFold", "Verification", "ten_fold", "verification"]

FARS = (0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True)
class Verification:
    """How well scores tell pairs of one person from pairs of two.

    Attributes:
        auc: Area under the ROC curve; ties count half.
        eer: Equal error rate, where FAR = FRR on the straight line between two points of the ROC curve.
        accuracy: Mean of TAR and 1 - FAR at the best threshold for these very pairs: an upper bound, see `ten_fold`.
        tar_at: TAR by FAR; NaN where there are fewer than 1 / FAR impostor pairs.
        thresholds: The threshold of each `tar_at`.
        curve: Thinned.
        genuine: Pairs of one person.
        impostor: Pairs of two people.
        people: Behind the intervals; None where pairs were resampled, whose intervals are too narrow if they share
            people.
    """

    auc: Estimate
    eer: Estimate
    accuracy: float
    tar_at: dict[float, Estimate]
    thresholds: dict[float, float]
    curve: Curve
    genuine: int
    impostor: int
    people: int | None

    def to_json(self) -> dict[str, object]:
        """The numbers without the curve; NaN becomes null."""
        rates = {f"tar@far={far:g}": plain(rate) for far, rate in self.tar_at.items()}
        counts = {"genuine": self.genuine, "impostor": self.impostor, "people": self.people}
        return {"auc": plain(self.auc), "eer": plain(self.eer), "accuracy": self.accuracy, **rates, **counts}


def verification(
    scores: ArrayLike,
    same: ArrayLike,
    people: ArrayLike | None = None,
    fars: Sequence[float] = FARS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Verification:
    """Measure scored pairs, with 95 % intervals over people (see `tenfold.faces.resampling`).

    Args:
        scores: (P,) finite; greater is more alike. `verification(*compare(vectors, labels))` makes them from faces.
        same: (P,) bool.
        people: (P, 2) integers, who is on the two faces; None where that is not known, as in InsightFace's .bin files.
        fars: The FARs at which TAR is wanted, each above 0 and below 1.
        replicates: Resamples; a million pairs take some 10 ms each.
        seed: Of the resampling.

    Raises:
        InputError: There is no genuine or no impostor pair, or the arrays do not fit each other.
    """
    fars = check_rates("FAR", fars)
    pairs = check_pairs(scores, same, people)
    ranked = Ranked.of_pairs(pairs)
    curve = ranked.curve()

    def measures(weights: NDArray[np.float64]) -> list[float]:
        counted = ranked.weigh(weights)
        return [counted.auc(), counted.eer(), *(counted.tar(far) for far in fars)]

    auc, eer, *rates = estimate(measures, pairs.people, replicates, seed)
    whole = ranked.weigh(np.ones(pairs.people))
    return Verification(
        auc=auc,
        eer=eer,
        accuracy=float((1 - (curve.far + curve.frr) / 2).max()),
        tar_at=dict(zip(fars, rates, strict=True)),
        thresholds={far: whole.threshold(far) for far in fars},
        curve=curve.thin(),
        genuine=len(ranked.genuine),
        impostor=len(ranked.impostor),
        people=None if people is None else pairs.people,
    )


# --- LFW -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TenFold:
    """Accuracy by LFW's protocol (Huang et al., 2007, "Labeled Faces in the Wild").

    Attributes:
        mean: Over the folds.
        error: Standard error of the mean, S / sqrt(F), as LFW's authors ask for.
        accuracies: Per fold.
        thresholds: Per fold, chosen on the others.
    """

    mean: float
    error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def ten_fold(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> TenFold:
    """Accuracy on each fold at the threshold that is best on all others.

    Best is the most pairs told rightly; of equally good gaps between scores the middle one, and its middle, is taken.

    Args:
        scores: (P,).
        same: (P,) bool.
        folds: (P,) integers, the fold of each pair: ten in LFW, at least two here. No person is in two folds.
    """
    pairs, numbers = check_pairs(scores, same, None), np.asarray(folds)
    if numbers.shape != pairs.scores.shape or numbers.dtype.kind not in "iu":
        raise InputError(f"folds are {numbers.dtype} of shape {numbers.shape}; give a whole number per pair")
    names = np.unique(numbers)
    if len(names) < 2:
        raise InputError(f"all pairs are in fold {names[0]}; the threshold is chosen on the others, so give at least 2")
    accuracies, thresholds = [], []
    for name in names:
        here = numbers == name
        threshold = best_threshold(pairs.scores[~here], pairs.same[~here])
        accuracies.append(float(((pairs.scores[here] >= threshold) == pairs.same[here]).mean()))
        thresholds.append(threshold)
    error = float(np.std(accuracies, ddof=1) / math.sqrt(len(names)))
    return TenFold(float(np.mean(accuracies)), error, tuple(accuracies), tuple(thresholds))


def best_threshold(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """A threshold at which most pairs are told rightly, halfway between two scores, or beyond the last one."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    right = np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])  # accepted so far, but for a constant
    cuts = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    best = np.flatnonzero(cuts & (right == right[cuts].max()))
    cut = int(best[len(best) // 2])
    if cut == 0:
        return math.nextafter(float(ranked[0]), math.inf)
    if cut == len(ranked):
        return float(ranked[-1])
    middle = float(ranked[cut - 1] + ranked[cut]) / 2
    return middle if middle > ranked[cut] else float(ranked[cut - 1])  # neighbours among floating-point numbers


def check_rates(name: str, rates: Sequence[float]) -> list[float]:
    """Rates above 0 and below 1."""
    for rate in rates:
        if not 0 < rate < 1:
            raise InputError(f"{name} is {rate}; give a share above 0 and below 1, as 0.001 for one in a thousand")
    return [float(rate) for rate in rates]


def plain(rate: Estimate) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [value if math.isfinite(value) else None for value in rate]
