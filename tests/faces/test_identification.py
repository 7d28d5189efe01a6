"""1:N measures against loops over small arrays, scikit-learn and TinyFace's own definition of average precision."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tenfold.core.errors import InputError
from tenfold.faces.identification import identification, one_shot, open_set

SEEDS = st.integers(0, 100_000)


def random_faces(seed: int, probes: int = 12, gallery: int = 9, distractors: int = 7) -> tuple[np.ndarray, ...]:
    """Probes of people 0 to 5, a gallery of people 0 to 3, distractors; all of 5 numbers."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, 5))
    probe_labels, gallery_labels = random.integers(6, size=probes), random.integers(4, size=gallery)
    probe_labels[:2], gallery_labels[0] = [0, 5], 0
    noise = random.normal(size=(probes + gallery, 5))
    vectors = centres[np.concatenate([probe_labels, gallery_labels])] + noise
    return vectors[:probes], probe_labels, vectors[probes:], gallery_labels, random.normal(size=(distractors, 5))


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left / np.linalg.norm(left, axis=1)[:, None]) @ (right / np.linalg.norm(right, axis=1)[:, None]).T


def tinyface_average_precision(right: list[bool]) -> float:
    """Walk down the ranking; each step adds the growth of recall times the mean of the last and the new precision."""
    area, last_recall, last_precision, found = 0.0, 0.0, 1.0, 0
    for place, is_right in enumerate(right, 1):
        found += is_right
        recall, precision = found / sum(right), found / place
        area += (recall - last_recall) * (last_precision + precision) / 2
        last_recall, last_precision = recall, precision
    return area


@settings(max_examples=50)
@given(SEEDS, st.booleans())
def test_ranks_and_precisions_are_those_of_loops(seed: int, distracted: bool) -> None:
    probes, probe_labels, gallery, gallery_labels, distractors = random_faces(seed)
    extra = distractors if distracted else distractors[:0]
    found = identification(probes, probe_labels, gallery, gallery_labels, extra, ranks=(1, 2, 5), replicates=3)
    labels = np.concatenate([gallery_labels, np.full(len(extra), -1)])
    scores = cosines(probes, np.concatenate([gallery, extra]))
    ranks, trapezoids, steps = [], [], []
    for row, label in zip(scores, probe_labels, strict=True):
        if label not in gallery_labels:
            continue
        right = (labels[np.argsort(-row)] == label).tolist()
        ranks.append(right.index(True) + 1)
        trapezoids.append(tinyface_average_precision(right))
        steps.append(average_precision_score(labels == label, row))
    np.testing.assert_array_equal(found.ranks, ranks)
    for rank in (1, 2, 5):
        assert found.rank_at[rank].value == found.cmc[rank - 1] == pytest.approx(np.mean(np.array(ranks) <= rank))
    assert found.mean_average_precision.value == pytest.approx(np.mean(trapezoids))
    assert found.mean_average_precision_stepwise.value == pytest.approx(np.mean(steps))
    assert (found.probes, found.without_mate) == (len(ranks), len(probes) - len(ranks))
    assert found.entries == len(labels) and len(found.cmc) == 5


def test_ties_count_against_the_method() -> None:
    vectors = np.ones((3, 2))
    found = identification(vectors, [0, 1, 2], vectors, [0, 1, 2], ranks=(1, 3), replicates=2)
    assert found.rank_at[1].value == 0 and found.rank_at[3].value == 1
    assert one_shot(np.ones((4, 2)), [0, 0, 1, 1], replicates=2).values == (0.0,) * 10


def test_tinyface_with_all_its_distractors_needs_little_memory() -> None:
    """153,428 distractors and 300 probes: all scores are 184 MB, blocks of them need less than 150 MB with all else."""
    random = np.random.default_rng(0)
    distractors = random.normal(size=(153_428, 16)).astype(np.float32)
    gallery = random.normal(size=(500, 16)).astype(np.float32)
    labels = np.arange(500) // 2
    probes = gallery[:300] + 0.1 * random.normal(size=(300, 16)).astype(np.float32)
    tracemalloc.start()
    found = identification(probes, labels[:300], gallery, labels, distractors, replicates=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.entries == 153_928 and found.rank_at[1].value > 0.9
    # The other face of a person is anywhere: average precision is half at the first, little at the second.
    assert 0.45 < found.mean_average_precision.value < 0.6
    assert peak < 150e6


@settings(max_examples=50)
@given(SEEDS)
def test_open_set_is_a_loop_over_thresholds(seed: int) -> None:
    probes, probe_labels, gallery, gallery_labels, distractors = random_faces(seed, probes=30)
    found = open_set(probes, probe_labels, gallery, gallery_labels, distractors, fpirs=(0.3, 0.001), replicates=3)
    scores = cosines(probes, np.concatenate([gallery, distractors]))
    names = np.concatenate([gallery_labels, np.full(len(distractors), -1)])
    top, right = scores.max(axis=1), names[scores.argmax(axis=1)] == probe_labels
    mated = np.isin(probe_labels, gallery_labels)
    assert (found.mated, found.unmated) == (mated.sum(), (~mated).sum())
    assert math.isnan(found.tpir_at[0.001].value)
    if 0.3 * (~mated).sum() < 1:
        assert math.isnan(found.tpir_at[0.3].value)
        return
    rates = [
        (right & (top >= threshold))[mated].mean()
        for threshold in [*top, 2]
        if (top[~mated] >= threshold).mean() <= 0.3
    ]
    assert found.tpir_at[0.3].value == pytest.approx(max(rates))
    assert (top[~mated] >= found.thresholds[0.3]).mean() <= 0.3
    assert found.curve.far[-1] <= 1 and np.isfinite(found.curve.thresholds[1:]).all()


def test_one_shot_is_a_loop_over_seeds() -> None:
    random = np.random.default_rng(0)
    labels = np.array([7, 7, 7, 3, 3, 9, 4, 4, 4, 4])  # 9 has one face: in every gallery, never looked up
    vectors = random.normal(size=(10, 3)) + 2 * np.eye(12)[labels][:, [3, 4, 7]]
    found = one_shot(vectors, labels, seeds=range(20))
    np.testing.assert_array_equal(found.probes_K, [1, 3, 2, 0])
    scores = cosines(vectors, vectors)
    for seed, value in enumerate(found.values):
        order = np.random.default_rng(seed).permutation(10).tolist()
        gallery = [next(face for face in order if labels[face] == person) for person in (3, 4, 7, 9)]
        probes = [face for face in range(10) if face not in gallery]
        right = labels[gallery][scores[probes][:, gallery].argmax(axis=1)] == labels[probes]
        assert value == pytest.approx(right.mean())
        np.testing.assert_array_equal(
            found.found_KS[:, seed], [right[labels[probes] == person].sum() for person in (3, 4, 7, 9)]
        )
    assert len(set(found.values)) > 1
    assert found.rank1.value == pytest.approx(np.mean(found.values))
    assert found.rank1.low < found.rank1.value < found.rank1.high


def test_rank_intervals_are_over_people() -> None:
    """Six people of ten are always found, four never: 0.6 in Wilson's interval of 6 in 10, though probes are 200."""
    gallery = np.eye(20)[:10]
    labels = np.repeat(np.arange(10), 20)
    probes = np.where((labels < 6)[:, None], gallery[labels], gallery[(labels + 1) % 10])
    rank1 = identification(probes, labels, gallery, np.arange(10), ranks=(1,)).rank_at[1]
    assert rank1.value == 0.6
    assert rank1.low == pytest.approx(0.28, abs=0.03) and rank1.high == pytest.approx(0.85, abs=0.03)


ONE = np.ones((1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: identification(ONE, [1], ONE, [0]), "none of the 1 probes"),
        (lambda: identification(ONE, [0], np.ones((1, 3)), [0]), "probes have dimension 2, the gallery 3"),
        (lambda: identification(ONE, [0], ONE, [0], np.ones((1, 3))), "distractors have dimension 3, the gallery 2"),
        (lambda: identification(ONE, [0], ONE, [0], ranks=(0,)), "count from 1"),
        (lambda: identification(ONE, [0], 0 * ONE, [0]), "gallery: row 0 is zero"),
        (lambda: identification(ONE, [0], ONE, [0, 1]), "labels are"),
        (lambda: open_set(ONE, [0], ONE, [0]), "1 of 1 probes"),
        (lambda: open_set(ONE, [0], ONE[:0], []), "labels are float64"),
        (lambda: open_set(ONE, [0], ONE[:0], np.empty(0, int)), "the gallery is empty"),
        (lambda: open_set(ONE, [0], ONE, [0], fpirs=(0,)), "FPIR is 0"),
        (lambda: one_shot(ONE, [0]), "1 faces of 1 people"),
        (lambda: one_shot(np.ones((2, 2)), [0, 1]), "2 faces of 2 people"),
    ],
)
def test_what_does_not_fit_is_said(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_ranks_beyond_the_gallery_are_left_out():
    """Of three entries there is no rank 5: it would be 1 whatever the model."""
    vectors = np.eye(3, dtype=np.float32)
    found = identification(vectors, [0, 1, 2], vectors, [0, 1, 2], replicates=10)
    assert list(found.rank_at) == [1]
    assert len(found.cmc) == 1
