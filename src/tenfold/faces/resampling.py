"""Intervals from resampling people, and from nothing but the number of people where no error was seen.

A hundred pictures of one person give 4,950 genuine pairs, yet they tell of one person; and the impostor pairs of two
people who look alike are all accepted, or none is. Pairs are thus far from independent, and intervals that count them
(Clopper-Pearson, a bootstrap of pairs) are several times too narrow. The unit that was sampled is the person, so the
person is what is resampled: each replicate draws K people with replacement, a genuine pair counts as often as its
person was drawn, an impostor pair as often as the product of its two people (the vertex bootstrap of Snijders and
Borgatti, Connections 22(2), 1999). Where pairs do not depend on each other after all, these weights vary too much and
the interval is up to sqrt(3) too wide; it is not too narrow. A measure is a function of the weights, so that several of
one set of people are resampled together.

K people · R replicates · m measures · P pairs
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

__all__ = [
    "Estimate",
    "Statistic",
    "bootstrap",
    "error_rate",
    "estimate",
    "no_error_bound",
    "rate_interval",
    "wilson_interval",
]

CONFIDENCE = 0.95
REPLICATES = 1000
_ROUNDING = 1e-9

Statistic = Callable[[NDArray[np.float64]], Sequence[float] | NDArray[np.float64]]
"""Weights of the people (K,), all 1 for the sample itself -> the values (m,) of some measures; NaN where undefined."""


class Estimate(NamedTuple):
    """A measured value and its 95 % interval; NaN where the data cannot tell."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Statistic, people: int, replicates: int = REPLICATES, seed: int = 0) -> NDArray[np.float64]:
    """The measures on `replicates` resamples of the people.

    Returns:
        (R, m) float64; a row is NaN in a measure that is undefined there, as without a genuine pair.
    """
    if people < 1 or replicates < 1:
        raise InputError(f"a bootstrap of {people} people, {replicates} times: at least 1 of each is needed")
    random = np.random.default_rng(seed)
    draws = (np.bincount(random.integers(people, size=people), minlength=people) for _ in range(replicates))
    return np.array([statistic(weights.astype(np.float64)) for weights in draws], np.float64)


def estimate(statistic: Statistic, people: int, replicates: int = REPLICATES, seed: int = 0) -> list[Estimate]:
    """Rates of the sample, each in 0 to 1, with their intervals over resampled people (see `rate_interval`)."""
    values = np.asarray(statistic(np.ones(people)), np.float64)
    return [
        rate_interval(float(value), column, people)
        for value, column in zip(values, bootstrap(statistic, people, replicates, seed).T, strict=True)
    ]


def rate_interval(value: float, replicates: NDArray[np.float64], people: int, trials: int | None = None) -> Estimate:
    """`wilson_interval` with the variance of the replicates.

    Where no error was seen, or nothing but errors, resampling has nothing to say about the rare other; the interval
    then reaches as far as `no_error_bound`. Where replicates agree though there were errors, as those of two people
    do, they say nothing of how much people differ: each person then counts as one trial.

    Args:
        value: The rate of the sample.
        replicates: (R,), NaN where undefined.
        people: That were resampled.
        trials: Independent units for `no_error_bound`, if not the people.
    """
    defined = replicates[np.isfinite(replicates)]
    if not math.isfinite(value) or len(defined) < 2:
        return Estimate(value, math.nan, math.nan)
    variance = float(defined.var(ddof=1))
    units = people if trials is None else trials
    if 0 < value < 1:
        differ = math.sqrt(variance) > _ROUNDING
        return wilson_interval(value, variance if differ else value * (1 - value) / max(1, units), people - 1)
    reach = no_error_bound(units)
    if value <= 0:
        return Estimate(value, 0.0, max(float(defined.max()), reach))
    return Estimate(value, min(float(defined.min()), 1 - reach), 1.0)


def wilson_interval(value: float, variance: float, freedom: int) -> Estimate:
    """Wilson's interval of a rate in 0 to 1, with as many trials as would have that variance.

    It reaches further to the side of 1/2, as it must where rates are low. Fogliato, Patil and Perona (arXiv 2306.01198)
    recommend it for dependent pairs. Because the variance is an estimate from few people, the quantile is Student's
    with `freedom` degrees, at least 1, rather than the normal one.
    """
    square = _quantile(max(1, freedom)) ** 2 * variance / (value * (1 - value))  # z² / n
    middle = (value + square / 2) / (1 + square)
    margin = math.sqrt(square * value * (1 - value) + square**2 / 4) / (1 + square)
    return Estimate(value, max(0.0, middle - margin), min(1.0, middle + margin))


def error_rate(
    wrong: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """The share of wrong decisions about pairs that are all genuine, or all impostor ones, with its interval.

    Args:
        wrong: (P,) bool; of no pairs the rate is NaN.
        first: (P,) who is on the one face, any numbers.
        second: (P,) who is on the other; where the two agree, the pair is a genuine one.
        replicates: R.
        seed: Of the resampling.
    """
    if not len(wrong):
        return Estimate(math.nan, math.nan, math.nan)
    names, numbers = np.unique([first, second], return_inverse=True)
    people = len(names)
    low, high = np.sort(numbers.reshape(2, -1), axis=0).astype(np.int64)
    keys, place = np.unique(low * people + high, return_inverse=True)  # pairs of the same two people share their weight
    counts, errors = np.bincount(place), np.bincount(place, weights=wrong)
    one, other = keys // people, keys % people
    genuine = one == other

    def rate(weights: NDArray[np.float64]) -> list[float]:
        weight = weights[one] * np.where(genuine, 1, weights[other])
        total = float(weight @ counts)
        return [float(weight @ errors) / total if total else math.nan]

    trials = people if genuine.any() else people // 2  # pairs without a common person
    [value], resampled = rate(np.ones(people)), bootstrap(rate, people, replicates, seed)
    return rate_interval(value, resampled[:, 0], people, trials)


def no_error_bound(trials: int) -> float:
    """The greatest error rate that leaves a chance of 2.5 % to see no error in that many independent trials.

    The upper end of Clopper and Pearson's interval at zero errors, 1 - 0.025^(1 / trials); 1 for no trial. With people
    for trials it supposes nothing about how their pairs depend on each other: somebody whom everybody is taken for may
    just not have been among them. It is therefore often wider than the interval where a few errors were seen.
    """
    return 1.0 if trials < 1 else 1 - ((1 - CONFIDENCE) / 2) ** (1 / trials)


@cache
def _quantile(freedom: float) -> float:
    """Student's, two-sided 95 %."""
    from scipy.special import stdtrit  # noqa: PLC0415 - comes with scikit-learn; loading the room needs neither

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
