"""Statistics against other computations of the same: loops, SciPy, closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tenfold.anatomy.effects import (
    Pool,
    benjamini_hochberg,
    cohens_d,
    correlation_error,
    holm,
    interval,
    kolmogorov_smirnov,
    moment_effects,
    t_test,
    variance_ratio,
    word,
)
from tenfold.anatomy.headsize import Adjust, fit_head_size
from tenfold.core.errors import InputError

from .conftest import made_people

ADJUSTMENTS: list[Adjust] = ["real", "pooled", "none"]


def two_sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Volumes of 30 real and 20 generated people, their ICV, and who is real."""
    one, other = made_people(30, 0), made_people(20, 1)
    volumes = np.concatenate([one.volumes_SR, other.volumes_SR * [1.0, 0.8, 1.1]])
    return volumes, np.concatenate([one.icv_S, other.icv_S * 1.05]), np.arange(50) < 30


@pytest.mark.parametrize("adjust", ["real", "pooled"])
def test_the_regression_is_that_of_lstsq_to_ten_digits(adjust: Adjust) -> None:
    volumes, icv, real = two_sets()
    chosen = real if adjust == "real" else np.ones_like(real)
    design = np.column_stack([np.ones(chosen.sum()), (icv[chosen] - 1.4e6) / 1e5])
    for region in range(3):
        intercept, slope = np.linalg.lstsq(design, volumes[chosen, region], rcond=None)[0]
        fitted = fit_head_size(volumes, icv, real, adjust)
        assert fitted.slope_R[region] == pytest.approx(slope / 1e5, rel=1e-10)
        mine = volumes[:, region] - slope / 1e5 * (icv - icv[chosen].mean())
        np.testing.assert_allclose(fitted.adjust(volumes, icv)[:, region], mine, rtol=1e-10)
        assert fitted.mean_R[region] == pytest.approx(intercept + slope * (icv[chosen].mean() - 1.4e6) / 1e5, rel=1e-10)


def test_adjusted_volumes_no_longer_follow_the_head() -> None:
    volumes, icv, real = two_sets()
    adjusted = fit_head_size(volumes, icv, real, "real").adjust(volumes, icv)[real]
    for region in range(3):
        assert abs(np.corrcoef(adjusted[:, region], icv[real])[0, 1]) < 1e-8


def test_heads_of_one_size_cannot_be_regressed_on() -> None:
    volumes, icv, real = two_sets()
    with pytest.raises(InputError, match="adjust='none'"):
        fit_head_size(volumes, np.full(50, 1.4e6), real, "real")
    assert not fit_head_size(volumes, np.full(50, 1.4e6), real, "none").slope_R.any()
    with pytest.raises(InputError, match="adjust is 'head'"):
        fit_head_size(volumes, icv, real, "head")  # type: ignore[arg-type]


def test_cohens_d_is_that_of_the_formula_with_plain_loops() -> None:
    volumes, _, real = two_sets()
    for region, d in enumerate(cohens_d(volumes[real], volumes[~real])):
        one, other = volumes[real, region].tolist(), volumes[~real, region].tolist()
        means = [sum(x) / len(x) for x in (one, other)]
        variances = [sum((v - m) ** 2 for v in x) / len(x) for x, m in zip((one, other), means, strict=True)]
        assert d == pytest.approx((means[0] - means[1]) / ((variances[0] + variances[1]) / 2) ** 0.5, rel=1e-10)


def test_constants_have_a_d_of_nothing_or_of_infinity() -> None:
    assert cohens_d(np.full((3, 2), 5.0), np.array([[5.0, 4.0]] * 4)).tolist() == [0, np.inf]


@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_moments_give_what_the_people_themselves_give(adjust: Adjust) -> None:
    """The fast path of the bootstrap against fitting, adjusting and comparing each resample."""
    volumes, icv, real = two_sets()
    centre = volumes[real].mean(axis=0), float(icv[real].mean())
    pools = [Pool(volumes[chosen], icv[chosen], centre) for chosen in (real, ~real)]
    random = np.random.default_rng(0)
    weights = [np.concatenate([np.ones((1, len(pool))), pool.draw(5, random)]) for pool in pools]
    d, ratio = moment_effects(*(pool.moments(w) for pool, w in zip(pools, weights, strict=True)), adjust)
    for row in range(6):
        people = [
            np.repeat(np.flatnonzero(chosen), w[row].astype(int))
            for chosen, w in zip((real, ~real), weights, strict=True)
        ]
        drawn = np.concatenate(people)
        is_real = np.arange(len(drawn)) < len(people[0])
        adjusted = fit_head_size(volumes[drawn], icv[drawn], is_real, adjust).adjust(volumes[drawn], icv[drawn])
        np.testing.assert_allclose(d[row], cohens_d(adjusted[is_real], adjusted[~is_real]), rtol=1e-9)
        np.testing.assert_allclose(np.exp(ratio[row]), variance_ratio(adjusted[is_real], adjusted[~is_real]), rtol=1e-9)


def test_tests_are_scipys() -> None:
    volumes, _, real = two_sets()
    one, other = volumes[real], volumes[~real]
    for equal in (False, True):
        expected = [stats.ttest_ind(a, b, equal_var=equal).pvalue for a, b in zip(one.T, other.T, strict=True)]
        np.testing.assert_allclose(t_test(one, other, equal), expected, rtol=1e-12)
    distance, p = kolmogorov_smirnov(one, other)
    for region in range(3):
        every = np.sort(np.concatenate([one[:, region], other[:, region]]))
        gaps = [(one[:, region] <= x).mean() - (other[:, region] <= x).mean() for x in every]
        assert distance[region] == pytest.approx(np.abs(gaps).max(), abs=1e-12)
    assert (p < 1).all()


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections_are_those_of_their_definitions(p: list[float]) -> None:
    count, ordered = len(p), sorted(p)
    expected = [min(1, max((count - i) * ordered[i] for i in range(ordered.index(one) + 1))) for one in p]
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12, atol=1e-15)


def test_a_test_that_was_not_made_is_not_corrected_for() -> None:
    np.testing.assert_array_equal(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(benjamini_hochberg([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


def test_words_are_the_papers() -> None:
    assert [word(d) for d in (0, -0.19, 0.2, -0.49, 0.5, 0.79, -0.8, np.inf)] == [
        "negligible", "negligible", "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_the_correlation_error_is_the_root_mean_square_over_pairs() -> None:
    one, other = (np.random.default_rng(seed).normal(size=(40, 4)) for seed in (0, 1))
    expected = [np.corrcoef(one.T)[i, j] - np.corrcoef(other.T)[i, j] for i in range(4) for j in range(i)]
    assert correlation_error(one, other) == pytest.approx(np.sqrt(np.mean(np.square(expected))), rel=1e-12)
    assert np.isnan(correlation_error(one[:, :1], other[:, :1]))


@pytest.mark.parametrize(("real", "generated"), [(15, 15), (100, 40)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(real: int, generated: int) -> None:
    """300 pairs of sets with d = 0.5; 95 % within what 300 trials can tell, and a little on the safe side."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        icv = random.normal(1400, 140, real + generated)
        volumes = random.normal(0, 1, (real + generated, 1)) + 0.01 * icv[:, None]
        volumes[real:] -= 0.5
        centre = volumes[:real].mean(axis=0), float(icv[:real].mean())
        pools = Pool(volumes[:real], icv[:real], centre), Pool(volumes[real:], icv[real:], centre)
        whole = moment_effects(*(pool.moments(np.ones((1, len(pool)))) for pool in pools), "real")[0][0, 0]
        drawn = moment_effects(*(pool.moments(pool.draw(200, random)) for pool in pools), "real")[0][:, 0]
        found = interval(float(whole), drawn, real + generated - 3)
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 300 <= 0.995
