"""From a score to what it stands for: rising curves by isotonic regression, kept as a few points."""

# N images

import numpy as np
from numpy.typing import NDArray

__all__ = ["rising_curve"]


def rising_curve(
    score_N: NDArray[np.floating], truth_N: NDArray[np.floating], knots: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve that never falls and has the least squared error, at quantiles of the scores.

    Args:
        score_N: What was said.
        truth_N: What it should have been.
        knots: How many quantiles, the least and the greatest score among them; equal ones are one point.

    Returns:
        The scores, which rise, and what they stand for, which does not fall.
    """
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - slow to load

    # Scores closer than this are one: between them a slope could overflow.
    near_N: NDArray[np.float64] = score_N.astype(np.float64).round(12)
    order = np.argsort(near_N, kind="stable")
    rising_N = isotonic_regression(truth_N[order].astype(np.float64)).x
    x = np.unique(np.quantile(near_N, np.linspace(0, 1, knots)))
    return x, np.maximum.accumulate(np.interp(x, near_N[order], rising_N))
