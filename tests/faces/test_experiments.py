"""The experiments behind the claims: nobody who is tested was learned from, and the shares are what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.core.progress import no_progress
from tenfold.faces import claims
from tenfold.faces.experiments import Effort, Outcome, _deal, _rank1, measure, read_sets
from tenfold.faces.preparation import LabelledCrops

TINY = Effort(teacher_epochs=1, adapter_epochs=1, steps=4, batch=16, sizes=(16, 24))


def write_set(folder: Path, people: int, faces: int, seed: int) -> None:
    """People who differ by a pattern of their own, of which each face is a noisy copy."""
    from PIL import Image  # noqa: PLC0415

    random = np.random.default_rng(seed)
    for person in range(people):
        own = random.integers(0, 256, (8, 8, 3))
        (folder / f"p{person}").mkdir(parents=True)
        for face in range(faces):
            noisy = np.clip(own + random.normal(0, 20, own.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).resize((40, 40)).save(folder / f"p{person}/{face}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "many", 12, 6, 0)
    write_set(root / "few", 4, 2, 1)
    (root / "teacher").mkdir()
    return root


@pytest.fixture(scope="module")
def sets(folder: Path) -> dict[str, LabelledCrops]:
    return read_sets(folder, folder.parent / "cache")


@pytest.mark.parametrize("share", [0, 1 / 3])
def test_nobody_is_dealt_out_twice(sets: dict[str, LabelledCrops], share: float) -> None:
    for seed in range(5):
        deal = _deal(sets, seed, private_share=share)
        assert list(deal.tests) == ["many"]
        parts = [deal.tests["many"], deal.public, *([deal.private] if deal.private else [])]
        faces = [{crop.tobytes() for crop in part.crops_NSSC} for part in parts]
        assert sum(map(len, faces)) == len(set.union(*faces)) == 12 * 6 + 4 * 2
        assert sum(deal.counts) == 12 + 4 and deal.counts[2] == 4
        assert bool(deal.private) == (share > 0)


def test_another_seed_tests_other_people(sets: dict[str, LabelledCrops]) -> None:
    tested = {tuple(np.unique(_deal(sets, seed, private_share=0).tests["many"].labels_N)) for seed in range(6)}
    assert len(tested) > 1
    again = _deal(sets, 3, private_share=0).public.crops_NSSC
    assert np.array_equal(again, _deal(sets, 3, private_share=0).public.crops_NSSC)


def test_rank_1_is_that_of_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 3)
    probes, gallery = (random.normal(size=(12, 5)).astype(np.float32) for _ in range(2))
    shares = []
    for turn in range(3):
        enrolled = [3 * person + turn for person in range(4)]
        right = []
        for probe in set(range(12)) - set(enrolled):
            best = max(enrolled, key=lambda row: float(probes[probe] @ gallery[row]))
            right.append(labels[best] == labels[probe])
        shares.append(np.mean(right))
    assert _rank1(probes, gallery, labels) == pytest.approx(np.mean(shares))


@pytest.fixture(scope="module")
def outcome(sets: dict[str, LabelledCrops], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return measure(sets, tmp_path_factory.mktemp("work"), TINY, 0)


def test_every_method_is_measured_on_every_tested_set(outcome: Outcome) -> None:
    students = ("bridge", "scratch", "direct", "regression_only", "hinton", "fitnet")
    sized = {f"{name} {size}" for name in (*students, "pixels", "upsample_teacher") for size in (16, 24)}
    assert set(outcome.scores) == sized | {"teacher, big faces", "adapter, big faces"}
    assert all(set(by_set) == {"many"} for by_set in outcome.scores.values())
    assert outcome.scores["pixels 16"]["many"].rank1 == 1.0  # noisy copies: pixels tell them apart
    assert outcome.int8 is not None and outcome.int8.weights_bytes <= 300_000


def test_the_report_judges_every_claim(outcome: Outcome) -> None:
    made = claims.report([outcome, outcome], TINY)
    assert [row[0] for row in made.tables[0].rows] == list(claims.CLAIMS)
    assert "private" in made.notes[0] and made.plots


def test_the_report_states_the_steps_that_were_taken(outcome: Outcome) -> None:
    """Few faces are fewer in a step than was asked for, and epochs are whole ones."""
    assert outcome.schedule == (16, 4)  # 2 epochs of 32 public faces; 4 steps of 16 were asked for
    assert "Students: 16 steps of 4 faces" in claims.report([outcome], TINY).notes[1]


def test_a_false_accept_rate_below_its_interval_misses_it_too(outcome: Outcome) -> None:
    for far, missed in (((0.001, 0.004, 0.02), 0.003), ((0.03, 0.004, 0.02), 0.01), ((0.01, 0.004, 0.02), 0.0)):
        rows = {row[0]: row for row in claims.report([replace(outcome, far=far)], TINY).tables[0].rows}
        assert rows["C1"][4] == pytest.approx(missed)


def test_what_was_not_measured_is_named_and_not_judged(outcome: Outcome) -> None:
    assert outcome.int8 is not None
    table = claims.report([outcome, replace(outcome, int8=replace(outcome.int8, auc_int8=None))], TINY).tables[0]
    assert [row[0] for row in table.rows] == [name for name in claims.CLAIMS if name != "Q2"]
    assert list(table.notes) == ["Not measured: Q2."]


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    def run(folder: Path | None, seeds: int = 1) -> None:
        claims.reproduce(folder, tmp_path / "work", seeds=seeds, quick=True, progress=no_progress)

    with pytest.raises(InputError, match="--data"):
        run(None)
    with pytest.raises(InputError, match="has no set of 12 people"):
        run(tmp_path / "nowhere")
    write_set(tmp_path / "sets/pairs", 8, 2, 0)
    with pytest.raises(InputError, match="5 faces each"):
        run(tmp_path / "sets")
    with pytest.raises(InputError, match="seeds is 0"):
        run(tmp_path / "sets", seeds=0)
