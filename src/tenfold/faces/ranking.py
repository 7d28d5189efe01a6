"""Scores in order, counted once for the curves and many times, with weights of people, for the intervals.

G genuine scores · I impostor scores · K people · V distinct scores
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import Pairs

__all__ = ["Curve", "Ranked", "Weighted", "accepted"]

_CURVE_POINTS = 500


@dataclass(frozen=True)
class Curve:
    """A ROC, or DET, curve at descending thresholds.

    Attributes:
        thresholds: (V + 1,) float64; the first is infinite, it accepts nothing.
        far: (V + 1,) float64, rising from 0 to 1.
        frr: (V + 1,) float64, falling from 1 to 0; the true accept rate is 1 - frr.
    """

    thresholds: NDArray[np.float64]
    far: NDArray[np.float64]
    frr: NDArray[np.float64]

    def thin(self, points: int = _CURVE_POINTS) -> "Curve":
        """At most about three times `points` of the points, exact ones: evenly by FAR, by log FAR, and by FRR."""
        if len(self.far) <= 3 * points:
            return self
        least = self.far[self.far > 0].min()
        wanted = [
            np.searchsorted(self.far, np.linspace(0, 1, points)),
            np.searchsorted(self.far, np.geomspace(least, 1, points)),
            np.searchsorted(-self.frr, -np.linspace(1, 0, points)),
        ]
        kept = np.unique(np.concatenate([*wanted, [0, len(self.far) - 1]]).clip(max=len(self.far) - 1))
        return Curve(self.thresholds[kept], self.far[kept], self.frr[kept])


@dataclass(frozen=True)
class Ranked:
    """Genuine and impostor scores in ascending order, and whose weights count for them.

    A genuine score counts with the weight of its person, an impostor score with the product of those of one or two.
    """

    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]
    genuine_people: NDArray[np.int32]
    impostor_people: tuple[NDArray[np.int32], ...]

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> "Ranked":
        """From checked pairs, of which some must be genuine and some not."""
        different = ~pairs.same
        for count, kind in ((int(pairs.same.sum()), "one person"), (int(different.sum()), "different people")):
            if count == 0:
                raise InputError(f"there is no pair of {kind}; pairs of both kinds are needed")
        impostor = (pairs.first,) if pairs.second is None else (pairs.first, pairs.second)
        return cls.of_scores(
            pairs.scores[pairs.same],
            pairs.first[pairs.same],
            pairs.scores[different],
            tuple(people[different] for people in impostor),
        )

    @classmethod
    def of_scores(
        cls,
        genuine: NDArray[np.float64],
        genuine_people: NDArray[np.int64],
        impostor: NDArray[np.float64],
        impostor_people: tuple[NDArray[np.int64], ...],
    ) -> "Ranked":
        """From scores in any order; -inf is accepted at no threshold that `Weighted.tar` chooses."""
        g, i = np.argsort(genuine, kind="stable"), np.argsort(impostor, kind="stable")
        people = tuple(part[i].astype(np.int32) for part in impostor_people)
        return cls(genuine[g], impostor[i], genuine_people[g].astype(np.int32), people)

    def weigh(self, weights: NDArray[np.float64]) -> "Weighted":
        """Count every score as often as its people, with weights (K,), were drawn."""
        impostor = weights[self.impostor_people[0]]
        for people in self.impostor_people[1:]:
            impostor *= weights[people]
        return Weighted(self, _running(weights[self.genuine_people]), _running(impostor))

    def curve(self) -> Curve:
        """At every distinct score."""
        scores = np.unique(np.concatenate([self.genuine, self.impostor]))[::-1]
        far = accepted(self.impostor, scores) / len(self.impostor)
        frr = 1 - accepted(self.genuine, scores) / len(self.genuine)
        return Curve(*(np.concatenate([[edge], part]) for edge, part in ((np.inf, scores), (0.0, far), (1.0, frr))))

    @cached_property
    def above(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """How many impostor scores are at least, and how many are above, each genuine score from the highest on."""
        genuine = self.genuine[::-1]
        return accepted(self.impostor, genuine), accepted(self.impostor, genuine, strictly=True)


@dataclass(frozen=True)
class Weighted:
    """Running sums of weights over `ranked`: entry n is the weight of the n highest scores, n = 0 to G or I."""

    ranked: Ranked
    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]

    def auc(self) -> float:
        """Mann and Whitney's statistic: the chance that a genuine score is above an impostor one, ties half."""
        at_least, above = self.ranked.above
        lost = (self.impostor[at_least] + self.impostor[above]) / 2
        total = self.genuine[-1] * self.impostor[-1]
        return float(1 - np.diff(self.genuine) @ lost / total) if total else math.nan

    def eer(self) -> float:
        """Where FAR and FRR are equal on the line between the last ROC point with FAR <= FRR and the next."""
        if not self.genuine[-1] * self.impostor[-1]:
            return math.nan
        low, high = (0.0, 1.0), (1.0, 0.0)
        for own in (self.ranked.genuine, self.ranked.impostor):  # each ROC point is a score of one of the two
            left, right = 0, len(own)  # point n accepts the n highest of them, point 0 nothing
            while right - left > 1:
                middle = (left + right) // 2
                left, right = (middle, right) if _gap(self._point(own[-middle])) <= 0 else (left, middle)
            low = max(low, self._point(own[-left]) if left else low, key=_gap)
            high = min(high, self._point(own[-right]), key=_gap)
        step = _gap(high) - _gap(low)
        return low[0] - _gap(low) / step * (high[0] - low[0]) if step > 0 else low[0]

    def tar(self, far: float) -> float:
        """The highest TAR at a threshold whose FAR is at most `far`; NaN where fewer than 1 / `far` impostors count."""
        count = self.may_accept(far)
        if count is None or not self.genuine[-1]:
            return math.nan
        next_one = self.ranked.impostor[-count - 1]
        return float(self.genuine[accepted(self.ranked.genuine, next_one, strictly=True)] / self.genuine[-1])

    def threshold(self, far: float) -> float:
        """A threshold with the TAR of `tar`: halfway from the score that must be refused to the next; NaN as there."""
        count = self.may_accept(far)
        if count is None:
            return math.nan
        refused = float(self.ranked.impostor[-count - 1])
        scores = (self.ranked.genuine, self.ranked.impostor)
        counts = (int(accepted(own, refused, strictly=True)) for own in scores)
        above = min((float(own[-n]) for own, n in zip(scores, counts, strict=True) if n), default=math.inf)
        middle = refused + (above - refused) / 2 if math.isfinite(above) else math.nextafter(refused, math.inf)
        return middle if middle > refused else above

    def may_accept(self, far: float) -> int | None:
        """How many of the highest impostor scores weigh at most `far`; None where a single one weighs more anyway."""
        allowed = far * self.impostor[-1] * (1 + 1e-12)  # 0.001 of 1,000 is one
        return int(np.searchsorted(self.impostor, allowed, side="right")) - 1 if allowed >= 1 else None

    def _point(self, threshold: float) -> tuple[float, float]:
        """FAR and FRR at a threshold."""
        far = self.impostor[accepted(self.ranked.impostor, threshold)] / self.impostor[-1]
        return float(far), float(1 - self.genuine[accepted(self.ranked.genuine, threshold)] / self.genuine[-1])


def accepted(
    ascending: NDArray[np.float64], thresholds: NDArray[np.float64] | float, *, strictly: bool = False
) -> NDArray[np.intp]:
    """How many of the ascending scores are at least, or above, each threshold."""
    return np.asarray(len(ascending) - np.searchsorted(ascending, thresholds, side="right" if strictly else "left"))


def _gap(point: tuple[float, float]) -> float:
    return point[0] - point[1]


def _running(ascending: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(ascending[::-1])])
