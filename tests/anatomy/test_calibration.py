"""Curves from scores to what they stand for."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tenfold.anatomy.calibration import rising_curve

_share = st.floats(0, 1)


@given(st.lists(st.tuples(_share, _share), min_size=1, max_size=40))
@example([(0.0, 0.0), (2.2250738585e-313, 1.0)])
def test_curves_never_fall_and_stay_within_what_they_are_made_of(pairs: list[tuple[float, float]]) -> None:
    score, truth = np.array(pairs).T
    x, y = rising_curve(score, truth, 11)
    assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    assert truth.min() - 1e-9 <= y.min() and y.max() <= truth.max() + 1e-9


def test_what_rises_already_is_kept() -> None:
    """The curve of a square is the square, at the quantiles."""
    score = np.linspace(0, 1, 101)
    x, y = rising_curve(score[::-1], score[::-1] ** 2, 11)
    np.testing.assert_allclose(x, np.linspace(0, 1, 11), atol=1e-12)
    np.testing.assert_allclose(y, x**2, atol=1e-12)
