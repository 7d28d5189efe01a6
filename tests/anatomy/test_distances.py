"""FID, KID and MMD agree with plain definitions and with MONAI; their estimates behave as their theory says."""

import numpy as np
import pytest
import scipy.linalg

from tenfold.anatomy.distances import extrapolated_frechet, frechet, kid, legacy_mmd, linear_mmd, mmd, mmd_test
from tenfold.core.errors import InputError


def _sets(count=30, other=25, dimension=8, shift=0.4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    mix = draw.normal(size=(dimension, dimension))
    return draw.normal(size=(count, dimension)) @ mix, 1.3 * draw.normal(size=(other, dimension)) @ mix + shift


def _frechet(one: np.ndarray, other: np.ndarray) -> float:
    s, t = np.cov(one.T), np.cov(other.T)
    shift = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(shift + np.trace(s + t) - 2 * np.trace(scipy.linalg.sqrtm(s @ t)).real)


def _mmd(one: np.ndarray, other: np.ndarray, kernel) -> float:
    def mean(left, right, same):
        values = [kernel(a, b) for i, a in enumerate(left) for j, b in enumerate(right) if not (same and i == j)]
        return np.mean(values)

    return float(mean(one, one, True) + mean(other, other, True) - 2 * mean(one, other, False))


@pytest.mark.parametrize(("count", "other", "dimension"), [(60, 50, 8), (30, 9, 20), (10, 12, 64), (5, 200, 40)])
def test_frechet_is_the_matrix_root_for_any_number_of_images(count, other, dimension):
    one, two = _sets(count, other, dimension)
    assert frechet(one, two) == pytest.approx(_frechet(one, two), rel=1e-4)
    assert frechet(one, two) == pytest.approx(frechet(two, one))


def test_frechet_of_known_distributions():
    one, two = _sets()
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + 2) == pytest.approx(4 * one.shape[1])  # a shift alone
    assert frechet(one, 3 * one) == pytest.approx(4 * np.var(one, 0, ddof=1).sum() + 4 * (one.mean(0) ** 2).sum())
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    assert frechet(one @ turn, two @ turn) == pytest.approx(frechet(one, two))


def test_fewer_images_have_a_larger_frechet_distance_and_extrapolation_takes_that_off():
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(150, 40)), draw.normal(size=(150, 40))  # the true distance is 0
    whole, few, limit = frechet(one, two), frechet(one[:50], two[:50]), extrapolated_frechet(one, two)
    assert few > 2 * whole > 0
    assert abs(limit.value) < whole / 4 and limit.error > 0
    assert extrapolated_frechet(one, two) == limit
    assert extrapolated_frechet(one[:19], two) is None


def test_kernel_distances_are_means_over_all_pairs():
    one, two = _sets(12, 9, 5)
    cubic = _mmd(one, two, lambda a, b: (a @ b / 5 + 1) ** 3)
    assert kid(one, two).value == pytest.approx(cubic) and kid(one, two).error is None
    gauss = _mmd(one, two, lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 1.7**2)))
    assert mmd(one, two, 1.7) == pytest.approx(gauss)
    assert linear_mmd(one, two) == pytest.approx(_mmd(one, two, np.dot))
    both = np.concatenate([one, two])
    median = np.median([np.linalg.norm(both[i] - both[j]) for i in range(21) for j in range(i)])
    assert mmd(one, two) == pytest.approx(mmd(one, two, median))


def test_agree_with_monai():
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai", reason="MONAI is not installed")
    from monai.metrics import FIDMetric, MMDMetric  # noqa: PLC0415

    one, two = _sets(40, 40, 6)
    peer = FIDMetric()(torch.from_numpy(two), torch.from_numpy(one))
    assert frechet(one, two) == pytest.approx(float(peer), abs=1e-4)
    peer = MMDMetric()(torch.from_numpy(one), torch.from_numpy(two))
    assert linear_mmd(one, two) == pytest.approx(float(peer), abs=1e-4)
    both = np.concatenate([one, two])  # MONAI's kernel is linear: rows of a root of a Gaussian kernel make it Gaussian
    kernel = np.exp(-((both[:, None] - both) ** 2).sum(2) / (2 * 4.0**2))
    rows = torch.from_numpy(np.linalg.cholesky(kernel + 1e-12 * np.eye(80)))
    assert mmd(one, two, 4.0) == pytest.approx(float(MMDMetric()(rows[:40], rows[40:])), abs=1e-4)


def test_permutation_p_is_uniform_for_equal_distributions_and_small_for_others():
    draw, found = np.random.default_rng(1), []
    for trial in range(60):
        both = draw.normal(size=(40, 3))
        found.append(mmd_test(both[:20], both[20:], 99, trial)[1])
    assert 0.35 < np.mean(found) < 0.65 and min(found) < 0.15 and max(found) > 0.85
    one, two = _sets(30, 30, shift=1.5)
    assert mmd_test(one, two, 199)[1] == pytest.approx(1 / 200)
    assert mmd_test(one, two, 199) == mmd_test(one, two, 199)
    assert mmd_test(one[:9], two)[1] is None


def test_kid_error_is_the_spread_of_fresh_sets():
    """Of 300 of them; their standard deviation is known to 4 %, an error from 50 halves to 10 %."""
    draw = np.random.default_rng(2)
    made = [kid(draw.normal(size=(100, 4)), draw.normal(size=(100, 4)) + 1) for _ in range(300)]
    spread = np.std([one.value for one in made])
    assert 0.85 < np.median([one.error for one in made]) / spread < 1.2


def test_legacy_mmd_is_the_papers_loop():
    for count in (10, 11):
        one, two = _sets(count, count, 5)
        total, first = 0.0, 0
        for first in range(0, count, 2):
            x, y = one[first : first + 2], two[first : first + 2]
            total += ((x @ x.T).sum() + (y @ y.T).sum()) / 4 - 2 / 4 * (x @ y.T).sum()
        assert legacy_mmd(one, two) == pytest.approx(total / (first + 1))
    same = np.random.default_rng(0).normal(size=(400, 20))
    assert (
        abs(mmd(same[:200], same[200:])) < 0.01 < legacy_mmd(same[:200], same[200:])
    )  # far from 0 though all is equal
    with pytest.raises(InputError, match="as many"):
        legacy_mmd(one, two[:4])


def test_more_than_half_equal_images_do_not_break_the_bandwidth():
    same = np.ones((12, 3))
    assert mmd(same, same) == pytest.approx(0)
    assert mmd(same, np.concatenate([same[:11], [[5, 5, 5]]])) > -0.2


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "same columns"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "needs two"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "not finite"),
    ],
)
def test_features_that_cannot_be_compared_are_named(one, two, said):
    for distance in (frechet, mmd, kid, linear_mmd):
        with pytest.raises(InputError, match=said):
            distance(one, two)
