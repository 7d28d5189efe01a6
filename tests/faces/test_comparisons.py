"""Pairs: every one once, fair samples of them, their cosines, and one clear line for what does not fit."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import all_pairs, check_pairs, compare, cosine_scores

LABELS = st.lists(st.integers(0, 5) | st.just(2**40), min_size=2, max_size=14)


@given(LABELS)
def test_all_pairs_are_there_once(labels: list[int]) -> None:
    first, second = all_pairs(labels)
    assert list(zip(first, second, strict=True)) == list(combinations(range(len(labels)), 2))


@given(LABELS, st.integers(2, 60), st.integers(0, 3))
def test_a_sample_has_distinct_pairs_and_keeps_the_genuine(labels: list[int], limit: int, seed: int) -> None:
    """As many as wanted; all genuine ones where they are at most half, at least half of the limit otherwise."""
    first, second = all_pairs(labels, limit, seed)
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    everything = list(combinations(range(len(labels)), 2))
    assert len(pairs) == len(set(pairs)) == min(limit, len(everything)) and set(pairs) <= set(everything)
    assert pairs == sorted(pairs)
    genuine = sum(labels[i] == labels[j] for i, j in everything)
    assert sum(labels[i] == labels[j] for i, j in pairs) >= min(genuine, len(pairs) // 2)


def test_samples_of_one_persons_pairs_are_uniform() -> None:
    """Every pair of 6 + 8 faces is drawn about equally often: 400 draws of 10 genuine among 43, 93 each expected."""
    labels = np.repeat([0, 1], [6, 8])
    counts = np.zeros((14, 14), int)
    for seed in range(400):
        first, second = all_pairs(labels, 20, seed)
        np.add.at(counts, (first, second), 1)
    own = counts[np.triu(labels[:, None] == labels, 1)]
    assert len(own) == 43 and own.sum() == 4000 and own.min() > 60 and own.max() < 130


def test_pairs_of_very_many_faces_need_little_memory() -> None:
    """200,000 faces have 2e10 pairs, 1.1e9 of them of one person; none of these lists is made."""
    labels = np.concatenate([np.zeros(47_000, np.int64), np.arange(153_000) // 3 + 1])
    tracemalloc.start()
    first, second = all_pairs(labels, 200_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(first * len(labels) + second)) == 200_000 and (first < second).all()
    assert (labels[first] == labels[second]).sum() == 100_000
    assert peak < 100e6


@given(st.integers(0, 10_000))
def test_cosines_are_those_of_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(9, 4)) * 10.0 ** random.integers(-6, 6, size=(9, 1))
    first, second = random.integers(9, size=(2, random.choice([5, 20])))  # by pairs, and by a product of matrices
    wanted = [vectors[i] @ vectors[j] / np.sqrt((vectors[i] @ vectors[i]) * (vectors[j] @ vectors[j]))
              for i, j in zip(first, second, strict=True)]  # fmt: skip
    np.testing.assert_allclose(cosine_scores(vectors, first, second), wanted, atol=1e-12)


def test_compare_gives_scores_kinds_and_people() -> None:
    scores, same, people = compare(np.array([[1, 0], [2, 0], [0, 1]], np.float32), [4, 4, 7])
    np.testing.assert_array_equal(scores, [1, 0, 0])
    np.testing.assert_array_equal(same, [True, False, False])
    np.testing.assert_array_equal(people, [[4, 4], [4, 7], [4, 7]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(np.ones((2, 3)), [0]), "labels .* each of 2 faces"),
        (lambda: compare(np.ones((2, 3)), [0.0, 1.0]), "labels are float64"),
        (lambda: compare(np.ones((2, 3)), [0, -1]), "label -1 is negative"),
        (lambda: compare(np.zeros((2, 3)), [0, 1]), "row 0 is zero"),
        (lambda: compare(np.array([[1.0], [np.nan]]), [0, 1]), "row 1 is zero or not finite"),
        (lambda: compare(np.ones(3), [0, 1, 2]), "one row of numbers per face"),
        (lambda: all_pairs([0, 1], 1), "limit is 1"),
        (lambda: cosine_scores(np.ones((2, 3)), [0], [2]), "not among the 2"),
        (lambda: cosine_scores(np.ones((2, 3)), [0, 1], [1]), "same length"),
        (lambda: check_pairs([], [], None), "at least one"),
        (lambda: check_pairs(["a"], [True], None), "not all numbers"),
        (lambda: check_pairs([1.0, np.inf], [True, False], None), "score 1 is not finite"),
        (lambda: check_pairs([1.0], [True, False], None), "same is bool of shape"),
        (lambda: check_pairs([1.0], [2], None), "truth values"),
        (lambda: check_pairs([1.0], [True], [[1, 2]]), "pair 0 is of people 1 and 2, but same says True"),
        (lambda: check_pairs([1.0], [True], [1]), "two whole numbers for each of 1 pairs"),
    ],
)
def test_what_does_not_fit_is_said(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
