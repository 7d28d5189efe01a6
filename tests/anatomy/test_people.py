"""Age and sex of generated people against those of real ones."""

from dataclasses import replace

import numpy as np
import pytest

from tenfold.anatomy.people import people_effects, people_tables
from tenfold.anatomy.volumes import Measured


def halves(ixi: Measured) -> tuple[Measured, Measured]:
    return ixi.take(range(0, 200, 2)), ixi.take(range(1, 200, 2))


def test_age_and_sex_do_to_one_half_what_they_do_to_the_other(ixi: Measured) -> None:
    real, unseen = halves(ixi)
    age = dict(zip(ixi.regions, zip(*people_effects(real, unseen, "age"), strict=True), strict=True))
    assert all(value > 0.3 for value in age["lateral ventricle"]) and all(value < -0.5 for value in age["thalamus"])
    sex = people_effects(real, unseen, "sex", "none")
    assert all(value < -0.5 for value in (sex[0][ixi.regions.index("thalamus")], sex[1][ixi.regions.index("thalamus")]))
    numbers = np.array(real.people["age"], np.float64)
    raw = people_effects(real, unseen, "age", "none")[0]
    assert raw[0] == pytest.approx(np.corrcoef(numbers, real.volumes_SR[:, 0])[0, 1], rel=1e-10)


def test_ages_that_were_dealt_out_at_random_are_seen(ixi: Measured) -> None:
    real, unseen = halves(ixi)
    dealt = replace(unseen, people={"age": tuple(np.random.default_rng(0).permutation(unseen.people["age"]).tolist())})
    honest, random = (np.subtract(*people_effects(real, one, "age")) for one in (unseen, dealt))
    assert (random**2).mean() > 4 * (honest**2).mean()


def test_a_table_per_column_that_both_have_and_that_says_something(ixi: Measured) -> None:
    real, unseen = halves(ixi)
    tables = people_tables("mine", real, unseen)  # site has three names
    assert [table.title for table in tables] == ["What age does to mine", "What sex does to mine"]
    assert len(tables[0].rows) == 18
    assert not people_tables("mine", real, replace(unseen, people={}))
    assert not people_tables("mine", real, replace(unseen, people={"age": ("n/a",) * 100, "sex": ("M",) * 100}))
