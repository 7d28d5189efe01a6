"""Generators in order, and how sure it is."""

from dataclasses import replace

import numpy as np
import pytest

from tenfold.anatomy.ranking import rank
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError


def test_worse_anatomy_ranks_behind_and_equal_sets_share_the_ranks(ixi: Measured) -> None:
    order = np.random.default_rng(0).permutation(200)
    real, *parts = (ixi.take(order[i : i + 50]) for i in range(0, 200, 50))
    sets = {
        "much too large": replace(parts[0], volumes_SR=parts[0].volumes_SR * 1.15),
        "people": parts[1],
        "too large": replace(parts[0], volumes_SR=parts[0].volumes_SR * 1.05),
        "other people": parts[2],
    }
    found = rank(real, sets)
    assert [one.name for one in found[2:]] == ["too large", "much too large"]
    assert [one.place for one in found] == [1, 2, 3, 4]
    assert (found[3].low, found[3].high) == (4, 4) and found[3].first == 0
    assert found[0].first < 0.95 and found[0].low == found[1].low == 1 and found[1].high >= 2
    assert sum(one.mean_place for one in found) == pytest.approx(10)
    assert rank(real, sets) == found


def test_one_region_that_is_far_off_costs_the_rank(ixi: Measured) -> None:
    order = np.random.default_rng(1).permutation(200)
    real, people = ixi.take(order[:100]), ixi.take(order[100:])
    volumes = people.volumes_SR.copy()
    volumes[:, ixi.regions.index("hippocampus")] *= 0.75
    found = rank(real, {"shrunken": replace(people, volumes_SR=volumes), "people": people})
    assert [one.name for one in found] == ["people", "shrunken"] and found[0].first > 0.95


def test_no_generator_is_refused(ixi: Measured) -> None:
    with pytest.raises(InputError, match="0 generators"):
        rank(ixi, {})
