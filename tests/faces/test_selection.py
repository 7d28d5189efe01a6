"""Greedy selection: exact shares, the same rows each time, no copies and strangers, the descent by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.selection import select


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    rho=st.floats(0.01, 1.0),
    unknown=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_exactly_rho_of_each_person_at_least_one_and_always_the_same(
    counts: list[int], rho: float, unknown: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(len(counts)) * 3, counts), np.full(unknown, -1)])
    random.shuffle(labels)
    features = random.normal(size=(len(labels), 5)).astype(np.float32)
    rows = select(features, labels, rho)
    assert (np.diff(rows) > 0).all()
    for person, count in enumerate(counts):
        assert (labels[rows] == person * 3).sum() == max(1, int(np.floor(rho * count + 0.5)))
    assert (labels[rows] == -1).sum() == unknown
    assert np.array_equal(rows, select(features.copy(), labels.copy(), rho))


def test_a_stranger_in_a_persons_folder_and_a_copy_are_left_out() -> None:
    """Six faces of two people each; one is another person's, one is a copy of a kept face."""
    random = np.random.default_rng(1)
    centres = np.eye(8)[:2] * 3
    features = np.repeat(centres, 6, axis=0) + 0.3 * random.normal(size=(12, 8))
    features[5] = centres[1]  # a stranger among person 0
    features[10] = features[9]  # a copy among person 1
    labels = np.repeat([0, 1], 6)
    rows = select(features, labels, 5 / 6).tolist()
    assert 5 not in rows
    assert sum(row in rows for row in (9, 10)) == 1


def test_each_step_takes_the_face_that_adds_least_energy() -> None:
    """The descent against plain loops over the two costs of the docstring."""
    random = np.random.default_rng(2)
    features, labels = random.normal(size=(14, 4)), np.repeat([0, 1], 7)
    t = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = [t[labels == person].mean(0) for person in (0, 1)]
    expected = []
    for person in (0, 1):
        rows = [row for row in range(14) if labels[row] == person]
        spread = np.mean([((t[i] - t[j]) ** 2).sum() for i in rows for j in rows])
        chosen: list[int] = []
        while len(chosen) < 4:
            costs = {}
            for row in set(rows) - set(chosen):
                unary = np.linalg.norm(t[row] - means[person]) / np.linalg.norm(t[row] - means[1 - person])
                costs[row] = unary + sum(np.exp(-((t[row] - t[i]) ** 2).sum() / spread) for i in chosen)
            chosen.append(min(costs, key=costs.__getitem__))
        expected += chosen
    assert select(features, labels, 4 / 7).tolist() == sorted(expected)


@pytest.mark.parametrize("rho", [0.0, -1.0, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(rho: float) -> None:
    with pytest.raises(InputError, match="rho"):
        select(np.ones((2, 2)), np.array([0, 1]), rho)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="labels"):
        select(np.ones((2, 2)), np.array([0, 1, 1]))
