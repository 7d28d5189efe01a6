"""Distances between two sets of feature vectors: Frechet (FID), kernel (KID) and maximum mean discrepancy (MMD).

    FID = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2)             normal distributions of the sets' means and covariances
    MMD = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)         over pairs x != x', y != y': unbiased, may be below 0
    KID = MMD with k(x, y) = (x y / D + 1)^3

With fewer images than features (400 against 2048) S1 and S2 have no full rank. Then tr (S1 S2)^1/2 is the sum of the
singular values of A B^T, a matrix of images by images, where S1 = A^T A and S2 = B^T B: no root of a D x D matrix.
FID still grows as images get fewer; its value without end of images is extrapolated (Chong and Forsyth 2020).
"""

# N real images · M generated images · D features · P permutations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

__all__ = [
    "FEWEST",
    "Estimate",
    "extrapolated_frechet",
    "frechet",
    "kid",
    "legacy_mmd",
    "linear_mmd",
    "mmd",
    "mmd_test",
]

Features = NDArray[np.floating]

FEWEST = 10  # images of each set, for a probability
_SIZES, _DRAWS = 8, 4  # subsets for the extrapolation
_SUBSETS = 50


@dataclass(frozen=True)
class Estimate:
    """A value, and its standard error over subsets; None where there are too few images."""

    value: float
    error: float | None = None


def frechet(real_ND: Features, generated_MD: Features) -> float:
    """FID of two sets, with unbiased covariances. 0 for equal sets, never below.

    Raises:
        InputError: Fewer than two images, another number of features, or features that are not finite.
    """
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    shift = ((real_ND.mean(0) - generated_MD.mean(0)) ** 2).sum()
    roots_ND, roots_MD = _covariance_root(real_ND), _covariance_root(generated_MD)
    spread = (roots_ND**2).sum() + (roots_MD**2).sum()
    return max(0.0, float(shift + spread - 2 * _root_trace(roots_ND, roots_MD)))


def _covariance_root(features_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with A^T A the covariance; at most D rows."""
    root_ND = (features_ND - features_ND.mean(0)) / np.sqrt(len(features_ND) - 1)
    count, dimension = root_ND.shape
    return np.asarray(np.linalg.qr(root_ND, mode="r")) if count > dimension else root_ND


def _root_trace(one_ND: NDArray[np.float64], other_MD: NDArray[np.float64]) -> float:
    return float(np.linalg.svd(one_ND @ other_MD.T, compute_uv=False).sum())


def extrapolated_frechet(real_ND: Features, generated_MD: Features, seed: int = 0) -> Estimate | None:
    """FID for endlessly many images: a line through FID against 1 / n over subsets of n of each set, at 1 / n = 0.

    Returns:
        The value, which may be a little below 0, and its error from the fit; None for fewer than 20 images in a set.
    """
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    most = min(len(real_ND), len(generated_MD))
    if most < 2 * FEWEST:
        return None
    draw = np.random.default_rng(seed)
    counts = np.unique(np.linspace(max(FEWEST, most // 4), most, _SIZES).astype(int))
    inverse, found = [], []
    for count in counts:
        for _ in range(_DRAWS):
            rows, others = draw.permutation(len(real_ND))[:count], draw.permutation(len(generated_MD))[:count]
            inverse.append(1 / count)
            found.append(frechet(real_ND[rows], generated_MD[others]))
    design = np.stack([np.ones(len(inverse)), inverse], 1)
    line, rest, *_ = np.linalg.lstsq(design, np.array(found), rcond=None)
    variance = float(rest[0]) / (len(found) - 2) if len(rest) else 0.0
    return Estimate(float(line[0]), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])))


def kid(real_ND: Features, generated_MD: Features, seed: int = 0) -> Estimate:
    """KID over all pairs, unbiased (Binkowski et al. 2018); its error from 50 subsets of half the images."""
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    both = np.concatenate([real_ND, generated_MD])
    kernel = (both @ both.T / both.shape[1] + 1) ** 3
    count, other = len(real_ND), len(generated_MD)
    value = _unbiased(kernel, count)
    if min(count, other) < FEWEST:
        return Estimate(value)
    draw, values = np.random.default_rng(seed), []
    for _ in range(_SUBSETS):
        rows = np.concatenate([draw.permutation(count)[: count // 2], count + draw.permutation(other)[: other // 2]])
        values.append(_unbiased(kernel[np.ix_(rows, rows)], count // 2))
    # A half of a sample, drawn without putting back, differs from the whole as that does from another whole.
    return Estimate(value, float(np.std(values)))


def mmd(real_ND: Features, generated_MD: Features, bandwidth: float | None = None) -> float:
    """Squared MMD over all pairs, unbiased, with k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
        real_ND: float (N, D).
        generated_MD: float (M, D).
        bandwidth: None: the median distance of all pairs of both sets together.
    """
    kernel, count = _gaussian_kernel(real_ND, generated_MD, bandwidth)
    return _unbiased(kernel, count)


def mmd_test(
    real_ND: Features, generated_MD: Features, permutations: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """Squared MMD as `mmd`, and the share of random divisions of all images whose value is at least as large.

    The probability counts the given division as one of them, and is None for fewer than 10 images in a set.
    """
    kernel, count = _gaussian_kernel(real_ND, generated_MD, None)
    value, total = _unbiased(kernel, count), len(kernel)
    if min(count, total - count) < FEWEST or permutations < 1:
        return value, None
    draw = np.random.default_rng(seed)
    chosen_PN = np.zeros((permutations, total))
    for row in chosen_PN:
        row[draw.permutation(total)[:count]] = 1
    np.fill_diagonal(kernel, 0)
    within_PN = chosen_PN @ kernel  # all permutations in one multiplication
    real_P = (within_PN * chosen_PN).sum(1)
    cross_P = (within_PN * (1 - chosen_PN)).sum(1)
    made_P = kernel.sum() - real_P - 2 * cross_P
    other = total - count
    values_P = real_P / (count * (count - 1)) + made_P / (other * (other - 1)) - 2 * cross_P / (count * other)
    return value, float((1 + (values_P >= value - 1e-12 * abs(value)).sum()) / (1 + permutations))


def linear_mmd(real_ND: Features, generated_MD: Features) -> float:
    """Squared MMD over all pairs, unbiased, with k(x, y) = x y: it sees means only."""
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    both = np.concatenate([real_ND, generated_MD])
    return _unbiased(both @ both.T, len(real_ND))


def legacy_mmd(real_ND: Features, generated_MD: Features) -> float:
    """What the paper's code computes on features: a linear kernel on batches of two real and two generated images.

    It is biased by the spread of the images, depends on their order, and divides the sum over N / 2 batches by N - 1
    (by N where N is odd), as its counter holds the first image of the last batch.

    Raises:
        InputError: The sets differ in size.
    """
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    if len(real_ND) != len(generated_MD):
        raise InputError(f"legacy MMD: needs as many generated images as real ones, not {len(generated_MD)}")
    starts = range(0, len(real_ND), 2)
    shifts = [real_ND[first : first + 2].sum(0) - generated_MD[first : first + 2].sum(0) for first in starts]
    return float(sum((shift**2).sum() for shift in shifts) / 4 / (starts[-1] + 1))


def _gaussian_kernel(
    real_ND: Features, generated_MD: Features, bandwidth: float | None
) -> tuple[NDArray[np.float64], int]:
    real_ND, generated_MD = _checked(real_ND, generated_MD)
    both = np.concatenate([real_ND, generated_MD])
    both = both - both.mean(0)  # distances stay, and lose fewer digits below
    norms = (both**2).sum(1)
    squares = np.maximum(norms[:, None] + norms - 2 * both @ both.T, 0)
    np.fill_diagonal(squares, 0)
    if bandwidth is None:
        bandwidth = float(np.sqrt(np.median(squares[np.triu_indices(len(both), 1)])))
    if bandwidth <= 0:  # more than half of all images are the same
        return (squares == 0).astype(np.float64), len(real_ND)
    return np.exp(squares / (-2 * bandwidth**2)), len(real_ND)


def _unbiased(kernel: NDArray[np.float64], count: int) -> float:
    """Mean kernel within the first `count`, plus within the rest, minus twice across; nothing with itself."""
    other = len(kernel) - count
    real = kernel[:count, :count].sum() - np.trace(kernel[:count, :count])
    made = kernel[count:, count:].sum() - np.trace(kernel[count:, count:])
    cross = kernel[:count, count:].sum()
    return float(real / (count * (count - 1)) + made / (other * (other - 1)) - 2 * cross / (count * other))


def _checked(real_ND: Features, generated_MD: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    real, made = np.asarray(real_ND, np.float64), np.asarray(generated_MD, np.float64)
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise InputError(f"features {real.shape} and {made.shape}: are not two tables with the same columns")
    if min(len(real), len(made)) < 2:
        raise InputError(f"features of {len(real)} and {len(made)} images: a distance needs two of each set")
    if not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise InputError("features: are not finite; leave out the images they come from")
    return real, made
