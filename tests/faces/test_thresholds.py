"""Thresholds: the FAR on the calibration pairs is the wished one, the interval holds elsewhere, JSON is not trusted."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import Comparisons, compare
from tenfold.faces.resampling import no_error_bound
from tenfold.faces.thresholds import Threshold, calibrate

THRESHOLD = Threshold(0.5, 0.01, 0.004, 0.03, 10_000, 20)


def people_of(people: int, faces: int, seed: int) -> Comparisons:
    """Faces in a space where some people are near each other, so that impostor pairs depend on them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, 1, 12)) * np.linspace(1.6, 0.3, 12)
    vectors = centres + 0.45 * random.normal(size=(people, faces, 12))
    return compare(vectors.reshape(-1, 12), np.repeat(np.arange(people), faces))


@given(st.lists(st.integers(-5, 5).map(float) | st.floats(-1, 1), min_size=1, max_size=40), st.sampled_from([0.1, 0.3]))
def test_as_many_are_accepted_as_the_far_allows(scores: list[float], far: float) -> None:
    """At most the wished share; ties are accepted or refused together, and one more kind of score would be too many."""
    values, threshold = np.array(scores), calibrate(scores, None, far, replicates=5)
    shown = threshold.accepts(values).mean()
    assert shown <= far
    higher = values[values < threshold.value]
    assert (values >= higher.max()).mean() > far if len(higher) else shown == 1
    assert threshold.conservative == (shown == 0)
    assert (threshold.pairs, threshold.people) == (len(scores), 0)


def test_pairs_of_one_person_are_left_aside() -> None:
    scores, _, people = people_of(20, 4, 0)
    different = people[:, 0] != people[:, 1]
    own = calibrate(scores, people, 0.05)
    assert own == calibrate(scores[different], people[different], 0.05)
    assert own.people == 20 and own.pairs == 190 * 16 and not own.conservative
    assert own.accepts(scores[different]).mean() == pytest.approx(0.05, abs=1e-3)
    assert own.low < 0.05 < own.high


def test_too_few_pairs_are_said_and_bounded() -> None:
    """10 people, 45 pairs: a FAR of 1 % cannot be shown. The bound is that of 5 pairs without a common person."""
    scores, _, people = people_of(10, 1, 0)
    found = calibrate(scores, people, 0.01)
    assert found.conservative and not found.accepts(scores).any()
    assert found.accepts(scores.max() + 1e-9)
    assert (found.low, found.high) == (0, no_error_bound(5))
    assert "too few to show a FAR of 0.01; it may be up to 0.52" in found.describe()
    assert found.expected(10)[1] > found.high and found.expected(10)[0] == 0


def test_an_interval_over_people_is_wider_than_clopper_and_pearsons() -> None:
    scores, _, people = people_of(30, 10, 0)
    by_people = calibrate(scores, people, 0.01, replicates=100)
    by_pairs = calibrate(scores[people[:, 0] != people[:, 1]], None, 0.01, replicates=100)
    assert by_people.high - by_people.low > 5 * (by_pairs.high - by_pairs.low)
    assert by_people.value == by_pairs.value


def test_stated_intervals_hold_among_other_people() -> None:
    """Acceptance 10 in simulation: 40 times, 25 people calibrate for FAR 1 %. The FAR of the population lies in `low`
    to `high`, and that of 25 others in `expected`, in at least 90 %; in an interval that counts pairs in under 70 %.
    """
    population = people_of(700, 2, 999)
    impostors = population.scores[~population.same]
    inside = shown = naive = 0
    for seed in range(40):
        scores, same, people = people_of(25, 5, seed)
        threshold = calibrate(scores, people, 0.01, replicates=100)
        true = threshold.accepts(impostors).mean()
        inside += threshold.low <= true <= threshold.high
        others = people_of(25, 5, 10_000 + seed)
        low, high = threshold.expected(25)
        shown += low <= threshold.accepts(others.scores[~others.same]).mean() <= high
        naive += abs(true - 0.01) < 1.96 * math.sqrt(0.0099 / (~same).sum())
    assert inside >= 36 and shown >= 36
    assert naive < 28


def test_fewer_other_people_may_show_more() -> None:
    few, many = THRESHOLD.expected(5), THRESHOLD.expected(10_000_000)
    assert few[0] < THRESHOLD.low and few[1] > THRESHOLD.high
    assert many == pytest.approx((THRESHOLD.low, THRESHOLD.high), rel=1e-4)


def test_scores_of_any_shape_are_told() -> None:
    accepted = THRESHOLD.accepts(np.array([[0.5, 0.49], [np.nan, 1.0]]))
    np.testing.assert_array_equal(accepted, [[True, False], [False, True]])


def test_one_line_says_what_it_rests_on() -> None:
    wanted = "0.5000 for a FAR of 0.01, 95 % interval 0.004 to 0.03, from 10,000 impostor pairs of 20 people"
    assert THRESHOLD.describe() == wanted


@given(st.builds(Threshold, st.floats(-1, 1), st.floats(0.001, 0.9), st.just(0.0), st.floats(0, 1), st.integers(1, 9),
                 st.integers(0, 9), st.booleans()))  # fmt: skip
def test_json_gives_the_threshold_back(threshold: Threshold) -> None:
    assert Threshold.from_json(json.loads(json.dumps(threshold.to_json(), allow_nan=False))) == threshold


@pytest.mark.parametrize(
    "change",
    [
        {"value": "0.5"}, {"value": math.nan}, {"value": 10**400}, {"value": True}, {"far": 0}, {"far": 1.5},
        {"low": 0.5, "high": 0.1}, {"high": 2}, {"pairs": 1.5}, {"pairs": 0}, {"people": -1}, {"conservative": 1},
        {"more": 1}, {"value": None}, {"value": [1]},
    ],
)  # fmt: skip
def test_json_that_is_no_threshold_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^gallery\.bin: [^\n]*$"):
        Threshold.from_json(THRESHOLD.to_json() | change, "gallery.bin")


@pytest.mark.parametrize("values", [{}, {"value": 1}, [], None])
def test_json_without_the_fields_is_refused(values: object) -> None:
    with pytest.raises(InputError, match="is no threshold"):
        Threshold.from_json(values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate([0.5], [[1, 1]], 0.1), "no pair of different people"),
        (lambda: calibrate([0.5], None, 0), "far is 0"),
        (lambda: calibrate([], None, 0.1), "at least one"),
        (lambda: calibrate([math.nan], None, 0.1), "not finite"),
        (lambda: calibrate([0.5], [1, 2], 0.1), "two whole numbers"),
        (lambda: replace(THRESHOLD).expected(1), "people is 1"),
    ],
)
def test_what_does_not_fit_is_said(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
