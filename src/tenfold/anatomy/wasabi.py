"""One distance for the whole anatomy: between the distributions of all volumes at once.

WASABI (arXiv 2504.21771) takes the Wasserstein distance between regional volumes relative to the head. Here it is that
of two normal distributions (Dowson and Landau, Journal of Multivariate Analysis 12, 1982),

    W² = |m₁ - m₂|² + Tr(S₁ + S₂ - 2 (S₁^½ S₂ S₁^½)^½),

of volumes / ICV in units of the real standard deviation of each region, with shrunken covariances, since regions are
often more than images.

S subjects · R regions
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["frechet_gauss", "ledoit_wolf", "wasabi"]


def wasabi(
    real_SR: NDArray[np.float64],
    real_icv_S: NDArray[np.float64],
    generated_SR: NDArray[np.float64],
    generated_icv_S: NDArray[np.float64],
) -> float:
    """The squared distance W², 0 or more, in squared standard deviations of real people.

    The intensity of shrinkage is found on the real set and is the same for both, or it would be told apart by it.
    """
    real, generated = real_SR / real_icv_S[:, None], generated_SR / generated_icv_S[:, None]
    mean, spread = real.mean(axis=0), real.std(axis=0)
    varies = spread > 0
    real, generated = ((one - mean)[:, varies] / spread[varies] for one in (real, generated))
    intensity = ledoit_wolf(real)
    shrunken = (_shrink(one, intensity) for one in (real, generated))
    return frechet_gauss(real.mean(axis=0), generated.mean(axis=0), *shrunken)


def frechet_gauss(
    mean_one: NDArray[np.float64],
    mean_other: NDArray[np.float64],
    covariance_one: NDArray[np.float64],
    covariance_other: NDArray[np.float64],
) -> float:
    """W² between two normal distributions, by the eigenvalues of symmetric matrices alone."""
    values, vectors = np.linalg.eigh(covariance_one)
    root = vectors * np.sqrt(np.maximum(values, 0))
    crossed = np.linalg.eigvalsh(root.T @ covariance_other @ root)  # as of S₁^½ S₂ S₁^½
    overlap = np.sqrt(np.maximum(crossed, 0)).sum()
    gap = mean_one - mean_other
    return max(0.0, float(gap @ gap + np.trace(covariance_one) + np.trace(covariance_other) - 2 * overlap))


def ledoit_wolf(values: NDArray[np.float64]) -> float:
    """The shrinkage intensity, 0 to 1, of Ledoit and Wolf (Journal of Multivariate Analysis 88, 2004)."""
    centred = values - values.mean(axis=0)
    count, size = centred.shape
    covariance = centred.T @ centred / count
    target = np.trace(covariance) / size
    distance = ((covariance - target * np.eye(size)) ** 2).sum()
    noise = ((centred**2).sum(axis=1) ** 2).sum() / count**2 - (covariance**2).sum() / count
    return 0.0 if distance <= 0 else float(min(noise, distance) / distance)


def _shrink(values: NDArray[np.float64], intensity: float) -> NDArray[np.float64]:
    centred = values - values.mean(axis=0)
    covariance = centred.T @ centred / len(centred)
    size = len(covariance)
    shrunken: NDArray[np.float64] = (1 - intensity) * covariance + intensity * np.trace(covariance) / size * np.eye(
        size
    )
    return shrunken
