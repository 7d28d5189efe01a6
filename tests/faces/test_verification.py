"""1:1 measures against scikit-learn, loops over small arrays and closed forms; their intervals by simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score, roc_curve

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import check_pairs, compare
from tenfold.faces.ranking import Ranked
from tenfold.faces.verification import best_threshold, ten_fold, verification


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few distinct scores, so that ties abound, or arbitrary ones; pairs of both kinds."""
    score = draw(st.sampled_from([st.integers(-2, 2).map(float), st.floats(-1, 1, width=32)]))
    pairs = draw(st.lists(st.tuples(score, st.booleans()), max_size=20))
    pairs += [(draw(score), True), (draw(score), False)]
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


@given(scored())
def test_auc_and_curve_are_scikit_learns(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = pairs
    found = verification(scores, same, replicates=2)
    assert found.auc.value == pytest.approx(roc_auc_score(same, scores))
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    curve = Ranked.of_pairs(check_pairs(scores, same, None)).curve()
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(1 - curve.frr, tar)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert found.accuracy == pytest.approx((tar + 1 - far).max() / 2)


@given(scored())
def test_equal_error_rate_is_where_the_curve_meets_the_diagonal(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    far, tar, _ = roc_curve(pairs[1], pairs[0], drop_intermediate=False)
    # Along the curve FAR - FRR rises from -1 to 1; its polygon is followed by arc length, as it may be vertical.
    wanted = np.interp(0, (far + tar - 1).tolist(), far.tolist())
    assert verification(*pairs, replicates=2).eer.value == pytest.approx(wanted)


@given(scored(), st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9]))
def test_tar_is_the_best_that_any_threshold_gives(pairs: tuple[np.ndarray, np.ndarray], wanted: float) -> None:
    scores, same = pairs
    found = verification(scores, same, fars=[wanted], replicates=2)
    if wanted * (~same).sum() < 1:
        assert math.isnan(found.tar_at[wanted].value) and math.isnan(found.thresholds[wanted])
        return
    tars = [
        (scores[same] >= threshold).mean()
        for threshold in [*scores, scores.max() + 1]
        if (scores[~same] >= threshold).mean() <= wanted + 1e-12
    ]
    assert found.tar_at[wanted].value == max(tars)
    threshold = found.thresholds[wanted]
    assert (scores[~same] >= threshold).mean() <= wanted + 1e-12
    assert (scores[same] >= threshold).mean() == max(tars)


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_a_weight_is_a_repeated_person(seed: int) -> None:
    """Measures with weights are those of the pairs repeated as often, products of two weights for impostor pairs."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), 3)
    scores, same, people = compare(random.normal(size=(12, 2)).round(1) + 0.01, labels)
    weights = random.integers(0, 4, size=4)
    weights[:2] = weights[:2].clip(1)
    times = np.where(same, weights[people[:, 0]], weights[people[:, 0]] * weights[people[:, 1]])
    many = np.repeat(scores, times), np.repeat(same, times)
    whole = Ranked.of_pairs(check_pairs(*many, None)).weigh(np.ones(len(many[0])))
    weighted = Ranked.of_pairs(check_pairs(scores, same, people)).weigh(weights.astype(float))
    assert weighted.auc() == pytest.approx(whole.auc())
    assert weighted.eer() == pytest.approx(whole.eer())
    for far in (0.3, 0.6):
        assert weighted.tar(far) == pytest.approx(whole.tar(far), nan_ok=True)


def test_normal_scores_have_the_areas_of_theory() -> None:
    """Genuine N(2, 1), impostor N(0, 1): AUC = Φ(√2), EER = Φ(-1), TAR at FAR 1 % = Φ(2 - 2.326)."""
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(2, 1, 100_000), random.normal(0, 1, 100_000)])
    found = verification(scores, np.arange(200_000) < 100_000, replicates=2)
    assert found.auc.value == pytest.approx(ndtr(math.sqrt(2)), abs=0.003)
    assert found.eer.value == pytest.approx(ndtr(-1), abs=0.003)
    assert found.tar_at[0.01].value == pytest.approx(ndtr(2 - 2.3263), abs=0.01)
    assert len(found.curve.far) <= 1502
    np.testing.assert_allclose(found.curve.thin().far, found.curve.far)


def test_perfect_scores_and_reversed_ones() -> None:
    scores, same = np.arange(100.0), np.arange(100) >= 50
    perfect, worst = verification(scores, same, replicates=20), verification(-scores, same, replicates=20)
    assert (perfect.auc.value, perfect.eer.value, perfect.tar_at[0.1].value, perfect.accuracy) == (1, 0, 1, 1)
    assert perfect.auc.low < 1 and perfect.auc.high == 1  # fifty pairs do not make it certain
    assert (worst.auc.value, worst.eer.value, worst.tar_at[0.1].value) == (0, 1, 0)


def test_equal_scores_tell_nothing() -> None:
    found = verification(np.ones(40), np.arange(40) < 20, replicates=2)
    assert (found.auc.value, found.eer.value, found.tar_at[0.1].value, found.accuracy) == (0.5, 0.5, 0, 0.5)


def test_intervals_over_people_are_wider_than_over_pairs() -> None:
    """Twenty people with ten faces each: the 900 genuine pairs are worth far fewer independent ones."""
    random = np.random.default_rng(2)
    vectors = np.repeat(random.normal(size=(20, 8)), 10, axis=0)
    vectors += random.normal(size=(200, 8)) * np.repeat(random.uniform(0.3, 2, size=(20, 1)), 10, axis=0)
    scores, same, people = compare(vectors, np.repeat(np.arange(20), 10))
    by_people = verification(scores, same, people, replicates=200)
    by_pairs = verification(scores, same, replicates=50)
    assert by_people.people == 20 and by_pairs.people is None
    assert by_people.auc.high - by_people.auc.low > 3 * (by_pairs.auc.high - by_pairs.auc.low)


def test_intervals_cover_the_truth() -> None:
    """Samples of 20 people, 4 faces each, of a population of 300: AUC, EER and TAR at FAR 5 % of the population lie in
    the 95 % intervals in at least 87 % of 40 samples.
    """
    random = np.random.default_rng(1)
    centres = random.normal(size=(300, 1, 6)) * np.linspace(1.5, 0.5, 6)
    vectors = centres + random.normal(size=(300, 4, 6)) * random.uniform(0.3, 0.9, size=(300, 1, 1))
    truth = verification(*compare(vectors.reshape(-1, 6), np.repeat(np.arange(300), 4)), fars=[0.05], replicates=2)
    covered = np.zeros(3)
    for _ in range(40):
        chosen = random.choice(300, 20, replace=False)
        pairs = compare(vectors[chosen].reshape(-1, 6), np.repeat(np.arange(20), 4))
        found = verification(*pairs, fars=[0.05], replicates=100)
        for number, (one, true) in enumerate(
            [(found.auc, truth.auc), (found.eer, truth.eer), (found.tar_at[0.05], truth.tar_at[0.05])]
        ):
            covered[number] += one.low <= true.value <= one.high
    assert (covered >= 35).all(), covered


def test_json_has_null_for_what_was_not_measured() -> None:
    found = verification([0.1, 0.2, 0.3], [False, True, True], [[0, 1], [0, 0], [1, 1]], replicates=5)
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert read["tar@far=0.01"] == [None, None, None] and read["auc"][0] == 1 and read["people"] == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: verification([1.0], [True]), "no pair of different people"),
        (lambda: verification([1.0], [False]), "no pair of one person"),
        (lambda: verification([1.0, 0.0], [True, False], fars=[1.0]), "FAR is 1.0"),
        (lambda: ten_fold([1.0, 0.0], [True, False], [0, 0]), "all pairs are in fold 0"),
        (lambda: ten_fold([1.0, 0.0], [True, False], [0.0, 1.0]), "folds are float64"),
    ],
)
def test_what_does_not_fit_is_said(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


# --- LFW -------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(scored())
def test_no_threshold_tells_more_pairs_rightly(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = pairs
    right = ((scores >= best_threshold(scores, same)) == same).sum()
    assert right == max(((scores >= cut) == same).sum() for cut in [*scores, np.inf])


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_ten_folds_are_ten_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, same, folds = random.normal(size=60).round(1), random.random(60) < 0.5, np.repeat(np.arange(10), 6)
    scores[same] += 1
    found = ten_fold(scores, same, folds)
    for fold in range(10):
        test, threshold = folds == fold, found.thresholds[fold]
        assert found.accuracies[fold] == ((scores[test] >= threshold) == same[test]).mean()
        rest = ((scores[~test] >= threshold) == same[~test]).sum()
        assert rest == max(((scores[~test] >= cut) == same[~test]).sum() for cut in [*scores[~test], np.inf])
    assert found.mean == pytest.approx(np.mean(found.accuracies))
    assert found.error == pytest.approx(np.std(found.accuracies, ddof=1) / math.sqrt(10))


def test_a_threshold_never_sees_its_own_fold() -> None:
    """Scores of one fold are shifted by 10: it is told no better than by chance, the others perfectly."""
    scores = np.tile([0.0, 1.0], 30)
    same, folds = scores == 1, np.repeat(np.arange(10), 6)
    found = ten_fold(np.where(folds == 3, scores + 10, scores), same, folds)
    assert found.accuracies[3] == 0.5 and min(np.delete(found.accuracies, 3)) == 1
