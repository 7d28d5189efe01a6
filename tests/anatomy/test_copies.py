"""A copy is told from a person, and a repetition from a set of people."""

from dataclasses import replace

import numpy as np
import pytest

from tenfold.anatomy.copies import check_copies, check_volumes
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError


def halves(ixi: Measured, seed: int) -> tuple[Measured, Measured]:
    order = np.random.default_rng(seed).permutation(200)
    return ixi.take(order[:100]), ixi.take(order[100:])


@pytest.mark.parametrize("seed", range(10))
def test_unseen_people_are_neither_copies_nor_twins(ixi: Measured, seed: int) -> None:
    found = check_volumes(*halves(ixi, seed))
    assert not found.memorised and not found.collapsed
    assert found.copied == found.twins == 0 and 0.8 < found.diversity < 1.25


def test_a_copy_of_the_training_set_is_flagged_and_each_original_named(ixi: Measured) -> None:
    training, _ = halves(ixi, 0)
    copied = replace(
        training, volumes_SR=training.volumes_SR * np.random.default_rng(0).normal(1, 0.005, training.volumes_SR.shape)
    )
    found = check_volumes(training, copied)
    assert found.memorised and found.copied == 1 and not found.collapsed
    assert found.nearest_G.tolist() == list(range(100))


def test_one_image_a_hundred_times_is_flagged_as_collapsed(ixi: Measured) -> None:
    training, other = halves(ixi, 0)
    rows = np.column_stack([other.volumes_SR, other.icv_S])
    found = check_copies(np.column_stack([training.volumes_SR, training.icv_S]), np.repeat(rows[:1], 100, axis=0))
    assert found.collapsed and found.twins == 1 and found.diversity == 0 and not found.memorised


def test_a_few_modes_with_noise_are_flagged_as_collapsed(ixi: Measured) -> None:
    training, other = halves(ixi, 0)
    rows = np.column_stack([other.volumes_SR, other.icv_S])
    random = np.random.default_rng(0)
    few = rows[random.integers(5, size=100)] * random.normal(1, 0.002, (100, rows.shape[1]))
    assert check_copies(np.column_stack([training.volumes_SR, training.icv_S]), few).collapsed
    narrow = rows.mean(axis=0) + 0.4 * (rows - rows.mean(axis=0))
    assert check_copies(np.column_stack([training.volumes_SR, training.icv_S]), narrow).collapsed


def test_few_copies_among_many_are_counted_but_tolerated(ixi: Measured) -> None:
    training, other = halves(ixi, 0)
    mixed = other.volumes_SR.copy()
    heads = other.icv_S.copy()
    mixed[:3], heads[:3] = training.volumes_SR[:3], training.icv_S[:3]
    found = check_volumes(training, replace(other, volumes_SR=mixed, icv_S=heads))
    assert found.copied == pytest.approx(0.03) and not found.memorised


def test_what_cannot_be_compared_is_refused(ixi: Measured) -> None:
    rows = ixi.volumes_SR
    with pytest.raises(InputError, match="have no common features"):
        check_copies(rows, rows[:, :3])
    with pytest.raises(InputError, match="2 training and 200 generated"):
        check_copies(rows[:2], rows)
    twice = replace(ixi, volumes_SR=np.concatenate([rows[:-1], rows[:1]]), icv_S=np.r_[ixi.icv_S[:-1], ixi.icv_S[:1]])
    with pytest.raises(InputError, match=f"{ixi.subjects[0]} and {ixi.subjects[-1]} have the same volumes"):
        check_volumes(twice, ixi)
    with pytest.raises(InputError, match="images 1 and 3 of those compared with have the same values"):
        check_copies(np.concatenate([rows[:2], rows[:1]]), rows)
