"""The verdict on real people, on people of another kind, and on people who were changed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tenfold.anatomy.labels import ICV, QC_GROUPS
from tenfold.anatomy.plausibility import compare
from tenfold.anatomy.sidecars import Processing
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError

from .conftest import made_people


def split(ixi: Measured, seed: int = 0) -> tuple[Measured, Measured]:
    order = np.random.default_rng(seed).permutation(200)
    return ixi.take(order[:100]), ixi.take(order[100:])


def scale(measured: Measured, **factors: float) -> Measured:
    volumes = measured.volumes_SR.copy()
    for name, factor in factors.items():
        volumes[:, measured.regions.index(name.replace("_", " "))] *= factor
    return replace(measured, volumes_SR=volumes)


def quick(*sets: Measured, **options):
    return compare(*sets, **({"replicates": 200, "permutations": 99} | options))


def test_legacy_is_the_papers_formula(ixi: Measured) -> None:
    """Its steps, one region at a time: pooled least squares with intercept, v - beta (h - mean h), d, Student's t."""
    real, generated = split(ixi)
    generated = replace(generated, volumes_SR=generated.volumes_SR * 1.03, icv_S=generated.icv_S * 1.05)
    found = quick(real, generated, legacy=True)
    head = np.concatenate([real.icv_S, generated.icv_S])
    for number, region in enumerate(found.regions):
        v = np.concatenate([real.volumes_SR[:, number], generated.volumes_SR[:, number]])
        (slope, _), n = np.polyfit(head - head.mean(), v, 1), len(real)
        left = v - (head - head.mean()) * slope
        d = (left[:n].mean() - left[n:].mean()) / np.sqrt((np.var(left[:n]) + np.var(left[n:])) / 2)
        assert region.d.value == pytest.approx(d, rel=1e-10, abs=1e-12)
        assert region.d_pooled == region.d.value
        assert region.p == pytest.approx(stats.ttest_ind(left[:n], left[n:]).pvalue, rel=1e-9)


@pytest.mark.parametrize(("region", "raw", "adjusted"), [("hippocampus", 0.86, -0.07), ("thalamus", 1.01, -0.12)])
def test_men_and_women_differ_by_their_heads(ixi: Measured, region: str, raw: float, adjusted: float) -> None:
    sex = np.array(ixi.people["sex"])
    found = quick(ixi.take(sex == "M"), ixi.take(sex == "F"), adjust="pooled")
    assert found.region(region).d_raw == pytest.approx(raw, abs=0.005)
    assert found.region(region).d.value == pytest.approx(adjusted, abs=0.05)
    assert found.icv.d.value > 1.5 and found.verdict == "implausible"
    assert any(reason.startswith("heads are too small") for reason in found.reasons)


def test_old_brains_have_large_ventricles_and_small_thalami(ixi: Measured) -> None:
    age = np.array(ixi.people["age"], np.float64)
    young, old = ixi.take(age < 50), ixi.take(age > 70)
    for adjust in ("real", "pooled"):
        found = quick(young, old, adjust=adjust)
        assert found.region("lateral ventricle").d.value == pytest.approx(-1.41, abs=0.02)
        assert found.region("thalamus").d.value == pytest.approx(2.16, abs=0.05)
        assert found.region("thalamus").p_holm < 1e-6 and found.verdict == "implausible" and found.p == 0.01


@pytest.fixture
def few_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that ask for neither the p of WASABI nor that of the correlations, many times."""
    monkeypatch.setattr("tenfold.anatomy.plausibility.WHOLE_SET", 1)


def test_halves_of_the_same_people_are_plausible(ixi: Measured, few_exchanges: None) -> None:
    """Twelve splits: every one passes, |d| is as small as chance has it, p of the set is anywhere."""
    p, medians, shares = [], [], []
    for seed in range(12):
        found = quick(*split(ixi, seed), seed=seed)
        assert found.passes and not found.reasons
        shares.append(found.share)
        medians.append(found.median_d)
        p.append(found.p)
    assert np.mean(shares) >= 0.99 and 0.04 < np.median(medians) < 0.14
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_of_the_set_is_uniform_where_nothing_differs(few_exchanges: None) -> None:
    p = [
        quick(made_people(20, seed), made_people(25, seed + 1000), replicates=2, permutations=49).p
        for seed in range(40)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_held_out_people_pass_and_scaled_ones_do_not(ixi: Measured) -> None:
    real, unseen = split(ixi)
    scaled = replace(unseen, volumes_SR=unseen.volumes_SR * 1.15)
    assert quick(real, unseen).passes
    found = quick(real, scaled)
    assert found.verdict == "implausible" and found.share < 0.5 and found.icv.is_plausible
    assert found.region("cerebral white matter").d.high < -1 and found.wasabi_p < 0.02


def test_a_shrunken_hippocampus_and_grown_ventricles_are_found_and_nothing_else(ixi: Measured) -> None:
    real, unseen = split(ixi, 3)
    found = quick(real, scale(unseen, hippocampus=0.75, lateral_ventricle=1.4))
    assert found.region("hippocampus").d.low > 0.8 and found.region("lateral ventricle").d.value < -0.4
    assert {one.name for one in found.regions if not one.is_plausible} <= {"hippocampus", "lateral ventricle"}
    assert found.verdict == "implausible"


def test_a_fit_on_all_hides_what_a_fit_on_real_people_shows(ixi: Measured) -> None:
    """Larger heads with the contents of smaller ones: the pooled slope takes a part of the loss for head size."""
    real, unseen = split(ixi)
    found = quick(real, replace(unseen, icv_S=unseen.icv_S * 1.12))
    pooled = quick(real, replace(unseen, icv_S=unseen.icv_S * 1.12), adjust="pooled")
    for region in ("thalamus", "brain-stem", "cerebral white matter"):
        assert found.region(region).d.value > 1.1 * pooled.region(region).d.value > 0
        assert found.region(region).d_pooled == pytest.approx(pooled.region(region).d.value, rel=1e-9)


def test_without_adjustment_there_is_no_pooled_effect(ixi: Measured) -> None:
    """Nothing is fitted, so that heads of one size are compared, too."""
    real, unseen = split(ixi)
    found = quick(replace(real, icv_S=np.full(100, 1.4e6)), replace(unseen, icv_S=np.full(100, 1.4e6)), adjust="none")
    assert all(np.isnan(one.d_pooled) and one.d.value == one.d_raw for one in found.regions)


def test_a_narrow_generator_passes_the_means_and_fails_the_spread(ixi: Measured) -> None:
    real, unseen = split(ixi)
    middle = unseen.volumes_SR.mean(axis=0)
    narrow = replace(
        unseen,
        volumes_SR=middle + 0.3 * (unseen.volumes_SR - middle),
        icv_S=unseen.icv_S.mean() + 0.3 * (unseen.icv_S - unseen.icv_S.mean()),
    )
    found = quick(real, narrow)
    assert found.share == 1 and found.verdict == "implausible" and found.is_collapsed
    assert found.spread.high < 0.2 and "vary" in found.reasons[-1]
    assert min(one.ks_p for one in found.regions) < 0.01


def test_one_side_too_small_shows_in_the_asymmetry(ixi: Measured) -> None:
    real, unseen = split(ixi)
    lopsided = replace(unseen, asymmetry_SR=unseen.asymmetry_SR + 0.2)
    assert quick(real, lopsided).region("hippocampus").asymmetry_d < -1
    assert np.isnan(quick(real, lopsided).region("brain-stem").asymmetry_d)


def test_regions_that_no_longer_go_together_show_in_the_correlations(ixi: Measured) -> None:
    real, unseen = split(ixi)
    random = np.random.default_rng(0)
    shuffled = replace(unseen, volumes_SR=random.permuted(unseen.volumes_SR, axis=0))
    found, honest = quick(real, shuffled), quick(real, unseen)
    assert found.correlation_p < 0.02 < honest.correlation_p
    assert found.correlation_error > 1.5 * honest.correlation_error


def test_the_verdicts_on_copies_repetitions_and_people(ixi: Measured) -> None:
    order = np.random.default_rng(0).permutation(200)
    real, people, training = ixi.take(order[:70]), ixi.take(order[70:140]), ixi.take(order[140:])
    one = people.take([0])
    repeated = Measured(
        tuple(map(str, range(100))), one.regions, np.repeat(one.volumes_SR, 100, 0), np.repeat(one.icv_S, 100)
    )
    assert quick(real, people, training=training).passes
    copied = quick(real, training, training=training)
    assert copied.is_memorised and not copied.is_collapsed and not copied.passes and copied.verdict == "plausible"
    collapsed = quick(real, repeated, training=training)
    assert collapsed.is_collapsed and not collapsed.is_memorised and not collapsed.passes
    assert quick(real, people).is_memorised is None


def test_only_reliable_images_are_compared(ixi: Measured) -> None:
    real, unseen = split(ixi)
    bad = np.arange(100) < 20
    spoiled = replace(unseen, volumes_SR=np.where(bad[:, None], 2 * unseen.volumes_SR, unseen.volumes_SR))
    scored = replace(spoiled, qc_SG=np.where(bad, 0.3, 0.9)[:, None] * np.ones(8), groups=QC_GROUPS)
    found = quick(real, scored)
    assert len(found.generated_SR) == 80 and found.generated_gate.rejected == pytest.approx(0.2)
    assert found.verdict == "plausible" and not found.generated_gate.passes and not found.passes
    assert quick(real, unseen.take(~bad)).region("thalamus").d.value == found.region("thalamus").d.value


def test_a_generator_without_a_reliable_image_gets_a_verdict_and_no_numbers(ixi: Measured) -> None:
    real, unseen = split(ixi)
    found = quick(real, replace(unseen, qc_SG=np.full((100, 8), 0.1), groups=QC_GROUPS))
    assert found.verdict == "unreliable" and not found.regions and not found.passes and np.isnan(found.share)


def test_few_images_are_told_and_get_no_p(ixi: Measured) -> None:
    real, unseen = split(ixi)
    found = quick(real, unseen.take(range(9)))
    assert any("100 real and 9 generated images: below 10 of each no p is given" in note for note in found.notes)
    assert all(np.isnan([one.p, one.p_holm, one.p_fdr, one.ks_p]).all() for one in found.regions)
    assert np.isnan([found.p, found.wasabi_p, found.correlation_p]).all()
    assert np.isfinite([one.d.value for one in found.regions]).all()


def test_a_region_off_by_chance_leaves_a_small_set_undecided(ixi: Measured, few_exchanges: None) -> None:
    verdicts = [quick(*(half.take(range(20)) for half in split(ixi, seed))).verdict for seed in range(8)]
    assert verdicts.count("undecided") >= 4 and "implausible" not in verdicts


def test_what_cannot_be_compared_is_refused(ixi: Measured) -> None:
    real, unseen = split(ixi)
    with pytest.raises(InputError, match=r"has volumes of muse, .* of synthseg"):
        quick(real, replace(unseen, segmenter="synthseg"))
    with pytest.raises(InputError, match="hippocampus is absent in all real images"):
        quick(scale(real, hippocampus=0.0), unseen)
    with pytest.raises(InputError, match="0 real images are reliable"):
        quick(replace(real, qc_SG=np.zeros((100, 8)), groups=QC_GROUPS), unseen)
    with pytest.raises(InputError, match="no region in common"):
        quick(real.only(["thalamus"]), unseen.only(["caudate"]))


def test_a_structure_that_a_generator_never_makes_is_off(ixi: Measured) -> None:
    real, unseen = split(ixi)
    found = quick(real, scale(unseen, amygdala=0.0))
    assert found.region("amygdala").d.value > 3 and found.verdict == "implausible"


def test_regions_of_one_side_only_are_left_out_and_named(ixi: Measured) -> None:
    real, unseen = split(ixi)
    found = quick(real, unseen.only(["thalamus", "caudate"]))
    assert [one.name for one in found.regions] == ["thalamus", "caudate"] and found.icv.name == ICV
    assert any("left out" in note and "hippocampus" in note for note in found.notes)


def test_the_same_seed_gives_the_same_numbers(ixi: Measured) -> None:
    one, other = (quick(*split(ixi), seed=5) for _ in range(2))
    assert repr(one.regions) == repr(other.regions)  # NaN is not equal to itself
    assert (one.p, one.wasabi_p, one.spread) == (other.p, other.wasabi_p, other.spread)
    assert quick(*split(ixi), seed=6).regions[0].d != one.regions[0].d


def test_sets_that_were_processed_differently_are_refused() -> None:
    """The paper's first point; where nothing is said of one of them, a note says so."""
    real, generated = made_people(20), made_people(20, 1)
    one, other = Processing("MNI", "0" * 64), Processing("MNI", "0" * 64, align="rigid")
    note = "nothing says how generated images were processed; taken as processed alike"
    assert note not in quick(replace(real, processing=one), replace(generated, processing=one)).notes
    assert note in quick(replace(real, processing=one), generated).notes
    with pytest.raises(InputError, match=r"processed differently: align 'affine' in .*'rigid' in"):
        quick(replace(real, processing=one), replace(generated, processing=other))
    with pytest.raises(InputError, match="processed differently"):
        quick(real, replace(generated, processing=one), training=replace(made_people(9, 2), processing=other))


def test_failed_segmentations_of_training_images_are_no_training_images() -> None:
    """Two blank ones have the same volumes of 0, which is not two visits of one person."""
    real, generated, seen = made_people(20), made_people(20, 1), made_people(12, 2)
    volumes, scores = seen.volumes_SR.copy(), np.full((12, 8), 0.9)
    volumes[:2], scores[:2] = 0, 0
    failed = replace(seen, volumes_SR=volumes, qc_SG=scores, groups=QC_GROUPS)
    found, of_others = quick(real, generated, training=failed), quick(real, generated, training=seen.take(range(2, 12)))
    assert found.copies is not None and of_others.copies is not None
    np.testing.assert_array_equal(found.copies.distance_G, of_others.copies.distance_G)
    with pytest.raises(InputError, match="2 training images are reliable"):
        quick(real, generated, training=failed.take([0, 1, 2, 3]))


def test_a_seed_below_0_is_refused() -> None:
    with pytest.raises(InputError, match="seed -1"):
        quick(made_people(20), made_people(20, 1), seed=-1)
