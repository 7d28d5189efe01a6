"""How far generated volumes are from real ones: effect sizes with intervals, tests, and corrections for many tests.

Cohen's d is (mean of real - mean of generated) / sqrt((variance of real + variance of generated) / 2), with variances
that divide by n, as in the paper's code: a positive d says that the generated region is too small. Sets of people are
resampled, or exchanged, as weights: all replicates are then a few matrix products of moments, in which the regression
on the head's size is fitted anew each time.

S subjects · R regions · B replicates
"""

import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.anatomy.headsize import Adjust

__all__ = [
    "Estimate",
    "Moments",
    "Pool",
    "benjamini_hochberg",
    "cohens_d",
    "correlation_error",
    "holm",
    "interval",
    "kolmogorov_smirnov",
    "t_test",
    "variance_ratio",
    "word",
]

CONFIDENCE = 0.95
Word = Literal["negligible", "small", "medium", "large"]


class Estimate(NamedTuple):
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


def cohens_d(real: NDArray[np.float64], generated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's d per region: 0 where both are the same constant, infinite where they are different ones.

    Args:
        real: (S, R).
        generated: (S', R).
    """
    spread = np.sqrt((real.var(axis=0) + generated.var(axis=0)) / 2)
    return _divide(real.mean(axis=0) - generated.mean(axis=0), spread)


def variance_ratio(real: NDArray[np.float64], generated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of generated over variance of real, per region; far below 1 where a generator repeats itself.

    NaN where neither varies.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = generated.var(axis=0, ddof=1) / real.var(axis=0, ddof=1)
    return ratio


def t_test(
    real: NDArray[np.float64], generated: NDArray[np.float64], equal_variances: bool = False
) -> NDArray[np.float64]:
    """Two-sided p per region: Welch's test, or Student's, which the paper's code takes.

    Its degrees of freedom do not know of a fitted head size. NaN where neither varies.
    """
    from scipy.stats import ttest_ind  # noqa: PLC0415 - slow to load

    with warnings.catch_warnings():  # of sets that do not vary, which other measures tell
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(ttest_ind(real, generated, equal_var=equal_variances).pvalue, np.float64)


def kolmogorov_smirnov(
    real: NDArray[np.float64], generated: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The greatest distance of the two distribution functions per region, 0 to 1, and its asymptotic p."""
    from scipy.stats import ks_2samp  # noqa: PLC0415

    tests = [ks_2samp(one, other, method="asymp") for one, other in zip(real.T, generated.T, strict=True)]
    return np.array([float(test.statistic) for test in tests]), np.array([float(test.pvalue) for test in tests])


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p (Scandinavian Journal of Statistics 6, 1979): at most one false alarm with its chance.

    NaN stays NaN and counts as no test.
    """
    return _adjust(p, lambda ordered, count: np.maximum.accumulate(ordered * np.arange(count, 0, -1)))


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjusted p (JRSS B 57, 1995): the share of false ones among the alarms."""
    return _adjust(
        p, lambda ordered, count: np.minimum.accumulate((ordered * count / np.arange(1, count + 1))[::-1])[::-1]
    )


def word(d: float) -> Word:
    """How the paper reads |d|: below 0.2 negligible, below 0.5 small, below 0.8 medium, else large."""
    size = abs(d)
    return "negligible" if size < 0.2 else "small" if size < 0.5 else "medium" if size < 0.8 else "large"


def correlation_error(real: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Root mean square difference of the correlations between regions, over all pairs of them; NaN for one region.

    A region that does not vary correlates with nothing: 0.
    """
    above = np.triu_indices(real.shape[1], 1)
    if not len(above[0]):
        return float("nan")
    return float(np.sqrt(np.mean((_correlations(real)[above] - _correlations(generated)[above]) ** 2)))


# --- replicates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Weighted moments of a set of people, per replicate."""

    count_B1: NDArray[np.float64]
    mean_BR: NDArray[np.float64]
    variance_BR: NDArray[np.float64]
    icv_mean_B1: NDArray[np.float64]
    icv_variance_B1: NDArray[np.float64]
    covariance_BR: NDArray[np.float64]

    def merge(self, other: "Moments") -> "Moments":
        """The moments of the two sets together."""
        count = self.count_B1 + other.count_B1
        share, rest = self.count_B1 / count, other.count_B1 / count
        gap, icv_gap = self.mean_BR - other.mean_BR, self.icv_mean_B1 - other.icv_mean_B1
        return Moments(
            count,
            share * self.mean_BR + rest * other.mean_BR,
            share * self.variance_BR + rest * other.variance_BR + share * rest * gap**2,
            share * self.icv_mean_B1 + rest * other.icv_mean_B1,
            share * self.icv_variance_B1 + rest * other.icv_variance_B1 + share * rest * icv_gap**2,
            share * self.covariance_BR + rest * other.covariance_BR + share * rest * gap * icv_gap,
        )

    def adjusted_variance(self, slope_BR: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variances (B, R) of v - slope ICV."""
        return np.maximum(
            self.variance_BR - 2 * slope_BR * self.covariance_BR + slope_BR**2 * self.icv_variance_B1, 0.0
        )


class Pool:
    """People whose weighted moments are asked for again and again.

    Args:
        volumes_SR: mm³.
        icv_S: mm³.
        centre: The mean volumes (R,) and ICV to count from; the same for sets that are compared, and near them.
    """

    def __init__(
        self, volumes_SR: NDArray[np.float64], icv_S: NDArray[np.float64], centre: tuple[NDArray[np.float64], float]
    ) -> None:
        self._v_SR, self._i_S1 = volumes_SR - centre[0], (icv_S - centre[1])[:, None]
        self._products_SR, self._squares_SR = self._v_SR * self._i_S1, self._v_SR**2

    def __len__(self) -> int:
        return len(self._v_SR)

    def moments(self, weights_BS: NDArray[np.float64]) -> Moments:
        """The moments under weights, such as how often each subject was drawn."""
        count = weights_BS.sum(axis=1, keepdims=True)
        mean, icv_mean = weights_BS @ self._v_SR / count, weights_BS @ self._i_S1 / count
        return Moments(
            count,
            mean,
            np.maximum(weights_BS @ self._squares_SR / count - mean**2, 0.0),
            icv_mean,
            np.maximum(weights_BS @ self._i_S1**2 / count - icv_mean**2, 0.0),
            weights_BS @ self._products_SR / count - mean * icv_mean,
        )

    def draw(self, replicates: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Weights (B, S) of resamples with replacement."""
        size = len(self)
        return random.multinomial(size, np.full(size, 1 / size), replicates).astype(np.float64)


def moment_effects(
    real: Moments, generated: Moments, adjust: Adjust
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cohen's d (B, R) of adjusted volumes, and the logarithm (B, R) of their variance ratio."""
    source = real if adjust == "real" else real.merge(generated)
    slope = np.zeros_like(real.mean_BR) if adjust == "none" else _divide(source.covariance_BR, source.icv_variance_B1)
    slope = np.where(np.isfinite(slope), slope, 0.0)  # a resample in which all heads are of one size
    gap = real.mean_BR - generated.mean_BR - slope * (real.icv_mean_B1 - generated.icv_mean_B1)
    variances = real.adjusted_variance(slope), generated.adjusted_variance(slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(variances[1] * generated.count_B1 * (real.count_B1 - 1)) - np.log(
            variances[0] * real.count_B1 * (generated.count_B1 - 1)
        )
    return _divide(gap, np.sqrt((variances[0] + variances[1]) / 2)), ratio


def interval(value: float, replicates: NDArray[np.float64], freedom: int) -> Estimate:
    """value ± Student's quantile times the standard deviation of the replicates; unbounded where they are too few.

    For sets of ten people and more it covers as often as it says, which quantiles of the replicates do not.
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    finite = replicates[np.isfinite(replicates)]
    if len(finite) < 2 or not np.isfinite(value):
        return Estimate(value, -np.inf, np.inf)
    margin = float(stdtrit(max(1, freedom), (1 + CONFIDENCE) / 2)) * float(finite.std(ddof=1))
    return Estimate(value, value - margin, value + margin)


def _correlations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean(axis=0)
    norms = np.sqrt((centred**2).sum(axis=0))
    scaled = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    correlations: NDArray[np.float64] = scaled.T @ scaled
    return correlations


def _divide(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 / 0 is 0, x / 0 infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0, 0.0, above / below)


def _adjust(p, rule) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    values = np.asarray(p, np.float64)
    adjusted = np.full_like(values, np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    adjusted[order] = np.minimum(rule(values[order], len(order)), 1.0)
    return adjusted
