"""The Frechet distance against closed forms, SciPy's matrix root and scikit-learn's shrinkage."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf

from tenfold.anatomy.volumes import Measured
from tenfold.anatomy.wasabi import frechet_gauss, ledoit_wolf, wasabi


def covariance(size: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(size, size + 3))
    return root @ root.T


def test_the_distance_is_that_of_the_matrix_square_root() -> None:
    one, other = covariance(6, 0), covariance(6, 1)
    means = np.arange(6.0), np.ones(6)
    root = scipy.linalg.sqrtm(one)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(
        one + other - 2 * scipy.linalg.sqrtm(root @ other @ root).real
    )
    assert frechet_gauss(*means, one, other) == pytest.approx(expected, rel=1e-9)


def test_closed_forms() -> None:
    zero, same = np.zeros(3), covariance(3, 0)
    assert frechet_gauss(zero, zero, same, same) == pytest.approx(0, abs=1e-9)
    assert frechet_gauss(zero, zero, np.diag([4.0, 9, 1]), np.diag([1.0, 1, 1])) == pytest.approx(1 + 4 + 0)
    assert frechet_gauss(zero, np.full(3, 2.0), same, same) == pytest.approx(12)
    assert frechet_gauss(zero, zero, same, np.zeros((3, 3))) == pytest.approx(np.trace(same))


@pytest.mark.parametrize("shape", [(30, 5), (10, 40)])
def test_the_shrinkage_is_scikit_learns(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape) @ np.diag(np.linspace(1, 3, shape[1]))
    assert ledoit_wolf(values) == pytest.approx(sklearn_ledoit_wolf(values)[1], rel=1e-9)


def test_the_distance_is_nothing_to_oneself_and_grows_with_a_shift(ixi: Measured) -> None:
    def from_real(volumes: np.ndarray) -> float:
        return wasabi(ixi.volumes_SR, ixi.icv_S, volumes, ixi.icv_S)

    distances = [from_real(ixi.volumes_SR * factor) for factor in (1.0, 1.02, 1.05, 1.15)]
    assert distances[0] == pytest.approx(0, abs=1e-9) and distances == sorted(distances)
    one, other = ixi.take(np.arange(0, 200, 2)), ixi.take(np.arange(1, 200, 2))
    assert wasabi(one.volumes_SR, one.icv_S, other.volumes_SR, other.icv_S) < distances[2]
    assert from_real(np.repeat(ixi.volumes_SR[:1], 200, axis=0)) > 10  # a collapse
