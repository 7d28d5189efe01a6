"""Intervals over people: closed forms, coverage by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import beta, t

from tenfold.core.errors import InputError
from tenfold.faces.resampling import bootstrap, estimate, no_error_bound, rate_interval


@pytest.mark.parametrize("trials", [1, 2, 10, 1000])
def test_bound_without_errors_is_clopper_and_pearsons(trials: int) -> None:
    assert no_error_bound(trials) == pytest.approx(beta.ppf(0.975, 1, trials))
    assert no_error_bound(0) == 1


def test_each_replicate_draws_as_many_people_as_there_are() -> None:
    drawn = bootstrap(lambda weights: weights, 7, replicates=200, seed=3)
    assert drawn.shape == (200, 7) and (drawn.sum(axis=1) == 7).all()
    assert drawn.var() == pytest.approx(1 - 1 / 7, abs=0.1)  # multinomial
    np.testing.assert_array_equal(drawn, bootstrap(lambda weights: weights, 7, replicates=200, seed=3))


def test_interval_is_wilsons_for_independent_trials() -> None:
    """40 people with one trial each, 10 errors: Wilson's interval for 10 of 40 is 0.142 to 0.402."""
    errors = np.arange(40) < 10
    [rate] = estimate(lambda weights: [float(errors @ weights / weights.sum())], 40, replicates=4000)
    assert rate.value == 0.25
    assert rate.low == pytest.approx(0.142, abs=0.01) and rate.high == pytest.approx(0.402, abs=0.01)


def test_intervals_cover_though_trials_depend_on_people() -> None:
    """25 people with 20 trials each, whose error rates differ: 95 % intervals hold the truth in at least 90 % of 300
    samples and at most 99.5 %, an interval that counts 500 trials in fewer than 70 %.
    """
    random = np.random.default_rng(0)
    rates = random.beta(0.6, 5.4, size=(300, 25))  # mean 0.1
    errors = random.binomial(20, rates)
    covered = naive = 0
    for row in errors:
        weights = np.random.default_rng(1).multinomial(25, np.full(25, 1 / 25), size=200)
        mean = row.mean() / 20
        found = rate_interval(mean, weights @ row / 500, 25)
        covered += found.low <= 0.1 <= found.high
        naive += abs(mean - 0.1) < 1.96 * math.sqrt(mean * (1 - mean) / 500)
    assert 270 <= covered <= 298
    assert naive < 210


def test_rates_without_errors_reach_as_far_as_so_few_people_allow() -> None:
    none, all_ = estimate(lambda weights: [0.0, 1.0], 3, replicates=10)
    assert none == (0.0, 0.0, no_error_bound(3))
    assert all_ == (1.0, 1 - no_error_bound(3), 1.0)


def test_what_is_undefined_stays_so() -> None:
    [rate] = estimate(lambda weights: [math.nan], 3, replicates=10)
    assert all(map(math.isnan, rate))


def test_nobody_to_resample_is_refused() -> None:
    with pytest.raises(InputError, match="0 people"):
        bootstrap(lambda weights: [0.0], 0)


def test_two_people_do_not_make_a_measure_certain() -> None:
    """Of two people either both are drawn, which is the sample again, or there is no pair of two: replicates that
    differ by rounding alone are no evidence, and 0.959 must not be shown as 0.959 to 0.959.
    """
    for noise in (0.0, 1e-16):
        found = rate_interval(0.959, np.array([0.959, 0.959 + noise, math.nan]), people=2)
        assert found.low < 0.5 and found.high > 0.98


def test_people_who_all_do_alike_are_as_many_trials() -> None:
    """No replicate differs where everybody has the same rate: Wilson's interval of 3 in 12 with Student's quantile."""
    found = rate_interval(0.25, np.full(100, 0.25), people=12)
    square = t.ppf(0.975, 11) ** 2 / 12
    margin = math.sqrt(square * 0.25 * 0.75 + square**2 / 4) / (1 + square)
    assert found.high == pytest.approx((0.25 + square / 2) / (1 + square) + margin)
