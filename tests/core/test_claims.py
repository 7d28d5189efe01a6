"""Findings: the interval is Student's, the verdict follows from it."""

import math

import pytest

from tenfold.core.claims import Claim, Finding, tabulate

AT_LEAST = Claim("A", "ratio of pages", "figure 1", 3.0)
AT_MOST = Claim("B", "loss of recall", "ours", 0.01, at_least=False)


def test_interval_is_students_t() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303, so 2 ± 4.303 / √3."""
    low, high = Finding(AT_LEAST, (1.0, 2.0, 3.0)).interval
    assert math.isclose(high - 2, 4.303 / math.sqrt(3)) and math.isclose(2 - low, 4.303 / math.sqrt(3))


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        (AT_LEAST, (4.0, 4.1, 4.2), "holds"),
        (AT_LEAST, (3.0, 3.0), "holds"),
        (AT_LEAST, (1.0, 1.1, 1.2), "refuted"),
        (AT_LEAST, (2.0, 3.0, 5.0), "undecided"),
        (AT_LEAST, (100.0,), "undecided"),
        (AT_MOST, (0.001, 0.002, 0.001), "holds"),
        (AT_MOST, (0.5, 0.5, 0.5), "refuted"),
        (AT_MOST, (0.0, 0.03, 0.0), "undecided"),
    ],
)
def test_verdicts(claim: Claim, values: tuple[float, ...], verdict: str) -> None:
    assert Finding(claim, values).verdict == verdict


@pytest.mark.parametrize("values", [(), (math.nan,), (1.0, math.inf)])
def test_values_that_say_nothing_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="claim A"):
        Finding(AT_LEAST, values)


def test_more_seeds_than_the_table_has_widen_the_interval() -> None:
    """With 40 values the quantile is 2.023; the last of the table, 2.131, is used."""
    low, high = Finding(AT_LEAST, tuple(map(float, range(40)))).interval
    assert (high - low) / 2 > 2.023 * 11.69 / math.sqrt(40)


def test_table_names_bound_interval_and_verdict() -> None:
    table = tabulate("claims", [Finding(AT_LEAST, (4.0, 4.1, 4.2)), Finding(AT_MOST, (0.5,))])
    assert table.rows[0][3:] == ["≥ 3", pytest.approx(4.1), "4, 4.1, 4.2", "3.852 to 4.348", "holds"]
    assert table.rows[1][3:] == ["≤ 0.01", 0.5, "0.5", "one seed", "undecided"]
