"""Thresholds that say which false accept rate they stand for, and how sure that is.

The threshold is chosen on pairs of different people, of whom no genuine pair is needed. Its FAR among other people is
another than among those it was chosen on: `Threshold.low` to `high` is the 95 % interval of the FAR in the population
that they were drawn from, and `Threshold.expected` the wider one of the FAR that a given number of other people will
show. Both come from resampling people; counting pairs would promise far too much (see `tenfold.faces.resampling`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import check_people, check_scores
from tenfold.faces.resampling import REPLICATES, error_rate, no_error_bound, wilson_interval
from tenfold.faces.verification import check_rates

__all__ = ["Threshold", "calibrate"]


_GREATEST = 1 << 62


@dataclass(frozen=True)
class Threshold:
    """A score from which on two faces pass as one person.

    Attributes:
        value: Scores of at least this are accepted.
        far: The false accept rate that was asked for, above 0 and below 1.
        low: Lower end of the 95 % interval of the FAR in the population, 0 to 1.
        high: Its upper end.
        pairs: Impostor pairs that it was chosen on.
        people: The people in them; 0 where that was not known.
        conservative: Whether the pairs are too few for `far`: none of them is accepted, the true FAR may lie anywhere
            up to `high`, and more genuine pairs are refused than need be.
    """

    value: float
    far: float
    low: float
    high: float
    pairs: int
    people: int
    conservative: bool = False

    def accepts(self, score: ArrayLike) -> NDArray[np.bool_]:
        """Whether each score, of any shape, is at least the threshold; NaN is not."""
        return np.asarray(np.asarray(score) >= self.value)

    def expected(self, people: int) -> tuple[float, float]:
        """Between which rates the FAR among that many other people will lie, 19 times in 20.

        On the scale of log odds the interval of the population is widened by sqrt(1 + people here / people there):
        they are a sample too.
        """
        if people < 2:
            raise InputError(f"people is {people}; impostor pairs need at least 2")
        units = self.people or self.pairs
        wider = math.sqrt(1 + units / people)
        middle = _log_odds(self.far if self.low < self.far < self.high else (self.low + self.high) / 2)
        low, high = (middle + wider * (_log_odds(end) - middle) for end in (self.low, self.high))
        return _odds(low), _odds(high)

    def describe(self) -> str:
        """One line for people: the value, the FAR, and what it rests on."""
        base = f"{self.pairs:,} impostor pairs" + (f" of {self.people:,} people" if self.people else "")
        if self.conservative:
            return (
                f"{self.value:.4f}: above all of {base}, which are too few to show a FAR of {self.far:g}; "
                f"it may be up to {self.high:.2g}. Calibrate with more people"
            )
        return (
            f"{self.value:.4f} for a FAR of {self.far:g}, 95 % interval {self.low:.2g} to {self.high:.2g}, from {base}"
        )

    def to_json(self) -> dict[str, float | int | bool]:
        """As it is kept in a model folder or a gallery."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object], source: str = "threshold") -> "Threshold":
        """Take back what `to_json` gave; InputError, with the name of `source`, for anything else."""
        kinds: dict[str, type] = dict.fromkeys(("value", "far", "low", "high"), float)
        kinds |= {"pairs": int, "people": int, "conservative": bool}
        if not isinstance(values, Mapping) or set(values) != set(kinds):
            raise InputError(f"{source}: is no threshold; it needs just {', '.join(kinds)}")
        for name, kind in kinds.items():
            if not _fits(values[name], kind):
                raise InputError(f"{source}: {name} is {str(values[name])[:40]}; calibrate again")
        threshold = cls(**values)  # type: ignore[arg-type]  # each was just checked
        if not (0 < threshold.far < 1 and 0 <= threshold.low <= threshold.high <= 1):
            raise InputError(f"{source}: its rates are not 0 <= low <= high <= 1 and 0 < far < 1; calibrate again")
        if threshold.pairs < 1 or threshold.people < 0:
            raise InputError(f"{source}: {threshold.pairs} pairs of {threshold.people} people; calibrate again")
        return threshold


def calibrate(
    scores: ArrayLike,
    people: ArrayLike | None,
    far: float,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Threshold:
    """Choose the threshold whose share of accepted impostor pairs is `far`, or the next one below it.

    Where even one accepted pair would be more than `far`, the threshold lies just above all impostor scores, and says
    so (`Threshold.conservative`); nothing is extrapolated.

    Args:
        scores: (P,) finite.
        people: (P, 2) integers, who is on the two faces; pairs of one person are left aside. None where it is not
            known: then all pairs must be impostor ones, each counts as independent, and the interval is too narrow if
            they share people.
        far: The wished false accept rate, above 0 and below 1.
        replicates: Resamples for the interval.
        seed: Of the resampling.

    Raises:
        InputError: There is no impostor pair, or the arrays do not fit each other.
    """
    [far] = check_rates("far", [far])
    values, known = check_scores(scores), 0
    both = np.empty((len(values), 2), np.int64)
    if people is not None:
        both = check_people(people, len(values))
        different = both[:, 0] != both[:, 1]
        if not different.any():
            raise InputError("there is no pair of different people to calibrate on; give at least two people")
        values, both = values[different], both[different]
        known = len(np.unique(both))
    ranked = np.sort(values)
    accepts = _cut(ranked, math.floor(far * len(values) * (1 + 1e-12)))  # 0.001 of 1,000 is one
    if not accepts:
        above = math.nextafter(float(ranked[-1]), math.inf)
        bound = no_error_bound(known // 2 if known else len(values))  # pairs without a common person
        return Threshold(above, far, 0.0, bound, len(values), known, conservative=True)
    value, share = float(ranked[-accepts]), accepts / len(values)
    rate = (
        error_rate(values >= value, both[:, 0], both[:, 1], replicates, seed)
        if known
        else wilson_interval(share, share * (1 - share) / len(values), len(values) - 1)
    )
    return Threshold(value, far, rate.low, rate.high, len(values), known)


def _cut(ascending: NDArray[np.float64], allowed: int) -> int:
    """How many of the highest scores are accepted if all of a tie are, or none, and at most `allowed`."""
    if allowed == 0 or ascending[-allowed - 1] < ascending[-allowed]:
        return allowed
    return len(ascending) - int(np.searchsorted(ascending, ascending[-allowed], side="right"))


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    whole = isinstance(value, int) or (isinstance(value, float) and kind is float)
    return whole and -_GREATEST < cast(float, value) < _GREATEST  # not so NaN


def _log_odds(rate: float) -> float:
    return -math.inf if rate <= 0 else math.inf if rate >= 1 else math.log(rate / (1 - rate))


def _odds(log_odds: float) -> float:
    """The rate of these log odds."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
