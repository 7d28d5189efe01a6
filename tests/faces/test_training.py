"""The trainings: the losses are the sums they are said to be, every method learns, a cut run gives the same bits.

Made-up faces are patterns, one per person; real ones are those of ORL, where TENFOLD_DATA has them.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tenfold.core.artifacts import load_weights
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingResult
from tenfold.faces.batchnorm import adapt_batchnorm
from tenfold.faces.degradation import Degradation, shrink
from tenfold.faces.model import Adapter, StudentConfig, StudentNet, TeacherNet, load_adapter, load_student, to_input
from tenfold.faces.objectives import AdapterObjective, StudentObjective
from tenfold.faces.settings import METHODS, AdaptConfig, DistillConfig, Method, Provenance, TeacherConfig
from tenfold.faces.training import adapt, apply_adapter, distill, teacher_logits, train_teacher
from tenfold.faces.validation import verification_auc

SMALL = StudentConfig(dimension=32, width=0.35)
PEOPLE, EACH, SIDE, FEATURES = 6, 8, 40, 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are quicker without a crowd of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Patterns:
    """Made-up people: a coarse pattern each, and noise on every face; features that know the person."""

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]
    features: NDArray[np.float32]
    adapted: NDArray[np.float32]


def patterns(seed: int = 0) -> Patterns:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(PEOPLE), EACH)
    coarse = random.integers(40, 216, (PEOPLE, 5, 5, 3))
    noisy = coarse.repeat(8, 1).repeat(8, 2)[labels] + random.normal(0, 12, (PEOPLE * EACH, SIDE, SIDE, 3))
    features = random.normal(size=(PEOPLE, FEATURES))[labels] + 0.5 * random.normal(size=(PEOPLE * EACH, FEATURES))
    adapted = features @ random.normal(size=(FEATURES, SMALL.dimension)) / 4
    return Patterns(noisy.clip(0, 255).astype(np.uint8), labels, features.astype("f4"), adapted.astype("f4"))


def settings(method: Method = "bridge", **changes: Any) -> DistillConfig:
    options = {"epochs": 4, "batch_size": 6, "warmup": 1, "student": SMALL, "device": "cpu", "evaluate_every": 2}
    return DistillConfig(method=method, **options | changes)


def targets_of(method: Method, data: Patterns) -> NDArray[np.float32] | None:
    if method == "scratch":
        return None
    return data.adapted if method in ("bridge", "regression_only") else data.features


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# --- the losses ------------------------------------------------------------------------------------------------------


def test_l2_is_alpha_times_regression_plus_beta_times_classification_by_hand() -> None:
    """On three faces, one of nobody known, in float64 NumPy; and so is the gradient."""
    torch.manual_seed(0)
    config = settings(alpha=0.7, beta=1.3, target="raw")
    objective = StudentObjective(StudentNet(SMALL), 4, SMALL.dimension, config, 0)
    z, labels = torch.randn(3, 3, 16, 16), torch.tensor([2, -1, 0])
    a, none = torch.randn(3, SMALL.dimension), torch.zeros(3, 0)
    loss, parts = objective(z, labels, a, none)
    s = objective.network(z).detach().double().numpy()
    logits = s @ objective.classifier.weight.detach().double().numpy().T
    entropy = [np.log(np.exp(logits[row]).sum()) - logits[row, labels[row]] for row in (0, 2)]
    mimicry = ((s - a.double().numpy()) ** 2).sum(1).mean()
    assert parts["classification"].item() == pytest.approx(sum(entropy) / 3, abs=1e-6)
    assert parts["mimicry"].item() == pytest.approx(mimicry, rel=1e-6)
    assert loss.item() == pytest.approx(0.7 * mimicry + 1.3 * sum(entropy) / 3, rel=1e-6)
    weight = objective.network.head.weight
    whole = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    pieces = [torch.autograd.grad(parts[name], weight, retain_graph=True)[0] for name in ("mimicry", "classification")]
    assert torch.allclose(whole, 0.7 * pieces[0] + 1.3 * pieces[1], atol=1e-5)


def test_l1_is_classification_plus_what_is_kept() -> None:
    torch.manual_seed(0)
    t, labels = torch.randn(8, FEATURES), torch.arange(8) % 3
    for keep in ("relational", "reconstruct", "none"):
        config = AdaptConfig(keep=keep, keep_weight=0.5)  # type: ignore[arg-type]
        loss, parts = AdapterObjective(Adapter(FEATURES, 16, 8), 3, config, 1.0, torch.zeros(FEATURES))(t, labels)
        kept = 0.5 * parts["keep"] if keep != "none" else 0
        assert loss.item() == pytest.approx((parts["classification"] + kept).item(), abs=1e-6)


def test_alpha_and_beta_of_zero_are_scratch_and_regression_only() -> None:
    """The baselines are the bridge with one term taken away: the same numbers from the same weights."""
    z, labels, a = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.randn(4, SMALL.dimension)
    values = []
    for method, changes in (
        ("scratch", {}), ("bridge", {"alpha": 0.0}), ("regression_only", {}), ("bridge", {"beta": 0.0})
    ):  # fmt: skip
        torch.manual_seed(1)
        objective = StudentObjective(StudentNet(SMALL), 3, SMALL.dimension, settings(method, **changes), 0)
        values.append(objective(z, labels, a, torch.zeros(4, 0))[0].item())
    assert values[0] == pytest.approx(values[1]) and values[2] == pytest.approx(values[3])


def test_fitnet_learns_the_hint_alone_for_the_first_steps() -> None:
    torch.manual_seed(0)
    objective = StudentObjective(StudentNet(SMALL), 3, FEATURES, settings("fitnet"), 2)
    batch = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.randn(4, FEATURES), torch.randn(4, 3)
    trained = []
    for _ in range(3):
        objective.zero_grad()
        objective(*batch)[0].backward()
        trained.append(objective.network.head.weight.grad is not None)
    assert trained == [False, False, True]


# --- every method learns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_its_loss_and_leaves_a_student(method: Method, tmp_path: Path) -> None:
    data = patterns()
    held = patterns(1)
    config = settings(method, hint_share=0.0)  # fitnet's first part has a loss of another size
    student, result = distill(
        data.crops, data.labels, targets_of(method, data), tmp_path, config, validation=(held.crops, held.labels),
        quiet=True,
    )  # fmt: skip
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.9 * losses[0]
    assert result.best == max(line["evaluation"]["auc"] for line in lines(tmp_path) if "evaluation" in line)
    again, about = load_student(tmp_path)
    assert about["training"]["method"] == method and about["people"] == PEOPLE
    small = to_input(shrink(held.crops, 16))
    assert torch.equal(again(small), student(small))
    assert verification_auc(student(small).detach().numpy(), held.labels) == pytest.approx(result.best, abs=1e-3)


def test_students_of_all_methods_begin_alike_and_see_the_same(tmp_path: Path) -> None:
    """So that a comparison compares the methods: scratch and a bridge of alpha 0 end with the same bits."""
    data = patterns()
    one, _ = distill(data.crops, data.labels, None, tmp_path / "a", settings("scratch", epochs=2), quiet=True)
    two, _ = distill(data.crops, data.labels, data.adapted, tmp_path / "b", settings(alpha=0.0, epochs=2), quiet=True)
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"margin": "arcface"},
        {"margin": "adaface"},
        {"relational": 1.0},
        {"target": "raw"},
        {"degradation": Degradation(sizes=(16, 20, 24, 32))},
    ],
)
def test_options_of_the_bridge_train(changes: dict[str, Any], tmp_path: Path) -> None:
    data = patterns()
    distill(data.crops, data.labels, data.adapted, tmp_path, settings(**changes), quiet=True)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < losses[0]


def test_faces_of_nobody_known_are_regressed_in_both_steps(tmp_path: Path) -> None:
    data = patterns()
    labels = np.where(np.arange(len(data.labels)) % 2, -1, data.labels)
    adapter, _ = adapt(
        data.features, labels, tmp_path / "a", AdaptConfig(epochs=2, dimension=SMALL.dimension), quiet=True
    )
    a = apply_adapter(adapter, data.features)
    _, result = distill(data.crops, labels, a, tmp_path / "b", settings(epochs=2), quiet=True)
    assert np.isfinite(result.history[-1]["loss"])
    unknown = np.full_like(labels, -1)
    distill(data.crops, unknown, a, tmp_path / "c", settings("regression_only", epochs=1), quiet=True)


def test_big_crops_are_halved_before_the_training(tmp_path: Path) -> None:
    """Crops of which every pixel stands four times train to the same bits as those of which each stands once."""
    data = patterns()
    config = settings(epochs=1, detail=2.0)
    big = data.crops.repeat(2, axis=1).repeat(2, axis=2)
    one, _ = distill(data.crops, data.labels, data.adapted, tmp_path / "a", config, quiet=True)
    two, _ = distill(big, data.labels, data.adapted, tmp_path / "b", config, quiet=True)
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("keep", ["relational", "reconstruct", "none"])
def test_every_adapter_lowers_its_loss(keep: Any, tmp_path: Path) -> None:
    data, held = patterns(), patterns(1)
    config = AdaptConfig(epochs=20, batch_size=16, keep=keep, hidden=32, dimension=16, evaluate_every=4)
    adapter, result = adapt(
        data.features.astype(np.float16), data.labels, tmp_path, config, validation=(held.features, held.labels),
        quiet=True,
    )  # fmt: skip
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]
    again, about = load_adapter(tmp_path / "best")
    assert about["training"]["keep"] == keep
    assert np.array_equal(apply_adapter(again, held.features), apply_adapter(adapter, held.features))
    assert result.best == max(line["evaluation"]["auc"] for line in lines(tmp_path) if "evaluation" in line)


def test_greedy_selection_trains_on_its_share(tmp_path: Path) -> None:
    data = patterns()
    config = AdaptConfig(epochs=2, batch_size=8, selection="greedy", rho=0.5, hidden=16, dimension=8)  # an eighth: 3
    _, result = adapt(data.features, data.labels, tmp_path, config, quiet=True)
    assert result.steps == 2 * 8


def test_teacher_logits_name_the_person_and_are_the_same_each_time() -> None:
    data = patterns()
    labels = np.where(np.arange(len(data.labels)) % 4 == 0, -1, data.labels)
    logits = teacher_logits(data.features * 50 + 7, labels)
    assert logits.shape == (len(labels), PEOPLE)
    assert (logits.argmax(1) == data.labels).mean() > 0.9  # those of no label too
    assert np.array_equal(logits, teacher_logits(data.features * 50 + 7, labels))


# --- going on --------------------------------------------------------------------------------------------------------


class CutError(RuntimeError):
    """Stands for a kill: nothing is caught, nothing is saved."""


class Failing(np.ndarray):
    """An array that can be read so many times."""

    left: int

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, list | np.ndarray):
            if self.left == 0:
                raise CutError
            self.left -= 1
        return np.asarray(self)[key]


def failing(array: NDArray[Any], left: int) -> Failing:
    cut = array.view(Failing)
    cut.left = left
    return cut


Train = Callable[[Patterns, Path, Any], tuple[Any, TrainingResult]]


def _teacher(data: Patterns, folder: Path, crops: Any) -> tuple[Any, TrainingResult]:
    config = TeacherConfig(epochs=2, batch_size=6, warmup=1, save_every=1, evaluate_every=1, dimension=16)
    chosen = crops if crops is not None else data.crops
    held = patterns(1)
    return train_teacher(chosen, data.labels, folder, config, validation=(held.crops, held.labels), quiet=True)


def _adapter(data: Patterns, folder: Path, features: Any) -> tuple[Any, TrainingResult]:
    config = AdaptConfig(epochs=4, batch_size=16, save_every=1, evaluate_every=1, hidden=16, dimension=8)
    chosen = features if features is not None else data.features
    held = patterns(1)
    return adapt(chosen, data.labels, folder, config, validation=(held.features, held.labels), quiet=True)


def _student(method: Method) -> Train:
    def run(data: Patterns, folder: Path, crops: Any) -> tuple[Any, TrainingResult]:
        config = settings(method, save_every=1, evaluate_every=1, margin="adaface", hint_share=0.4)
        chosen, held = crops if crops is not None else data.crops, patterns(1)
        return distill(
            chosen, data.labels, targets_of(method, data), folder, config, validation=(held.crops, held.labels),
            quiet=True,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("run", "what", "reads"),
    [
        (_teacher, "crops", 11),
        (_adapter, "features", 20),
        (_student("bridge"), "crops", 20),
        (_student("fitnet"), "crops", 11),
    ],
    ids=["teacher", "adapter", "bridge", "fitnet"],
)
def test_a_training_that_was_cut_and_goes_on_gives_the_same_bits(
    run: Train, what: str, reads: int, tmp_path: Path
) -> None:
    """The cut comes between checkpoints, amid an epoch; both runs end with the same weights, bit for bit."""
    data = patterns()
    whole, result = run(data, tmp_path / "whole", None)
    with pytest.raises(CutError):
        run(data, tmp_path / "cut", failing(getattr(data, what), reads))
    assert (tmp_path / "cut/last/training.json").exists()
    resumed, again = run(data, tmp_path / "cut", None)
    for name in ("last", "best"):
        one, two = ((tmp_path / place / name / "model.safetensors").read_bytes() for place in ("whole", "cut"))
        assert one == two
    assert [line["loss"] for line in result.history] == [line["loss"] for line in again.history]
    states = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_of_other_settings_is_refused_and_more_epochs_are_not(tmp_path: Path) -> None:
    data = patterns()
    distill(data.crops, data.labels, data.adapted, tmp_path, settings(epochs=2), quiet=True)
    with pytest.raises(InputError, match=r"is of another run: beta was 1.0 and is now 0.5"):
        distill(data.crops, data.labels, data.adapted, tmp_path, settings(epochs=3, beta=0.5), quiet=True)
    with pytest.raises(InputError, match="teacher was '' and is now 'other'"):
        distill(
            data.crops, data.labels, data.adapted, tmp_path, settings(epochs=3), quiet=True,
            provenance=Provenance(teacher="other"),
        )  # fmt: skip
    _, result = distill(data.crops, data.labels, data.adapted, tmp_path, settings(epochs=3), quiet=True)
    assert result.steps == 24
    distill(data.crops, data.labels, None, tmp_path, settings("scratch", epochs=1), resume=False, quiet=True)


def test_a_run_of_other_data_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    """Also one that is finished: the model of the other data is not handed back."""
    data, held, config = patterns(), patterns(1), settings(epochs=1)
    first = data.crops, data.labels, data.adapted
    distill(*first, tmp_path / "s", config, validation=(held.crops, held.labels), quiet=True)
    others = (255 - data.crops, *first[1:]), (first[0], np.roll(first[1], 1), first[2]), (*first[:2], -first[2])
    for crops, labels, targets in others:
        with pytest.raises(InputError, match="is of another run: samples was "):
            distill(crops, labels, targets, tmp_path / "s", config, validation=(held.crops, held.labels), quiet=True)
    with pytest.raises(InputError, match="is of another run: samples was "):
        distill(*first, tmp_path / "s", config, validation=(255 - held.crops, held.labels), quiet=True)
    rounded = data.labels.astype(np.int32), data.adapted * np.float32(1 + 1e-6)  # as on another machine
    distill(data.crops, *rounded, tmp_path / "s", config, validation=(held.crops, held.labels), quiet=True)
    adapt(data.features, data.labels, tmp_path / "a", AdaptConfig(epochs=1), quiet=True)
    with pytest.raises(InputError, match="is of another run: samples was "):
        adapt(data.features[::-1], data.labels, tmp_path / "a", AdaptConfig(epochs=1), quiet=True)
    train_teacher(data.crops, data.labels, tmp_path / "t", TeacherConfig(epochs=1), quiet=True)
    with pytest.raises(InputError, match="is of another run: samples was "):
        train_teacher(255 - data.crops, data.labels, tmp_path / "t", TeacherConfig(epochs=1), quiet=True)


def test_trainings_leave_the_callers_random_numbers_and_arrays_alone(tmp_path: Path) -> None:
    data, untouched = patterns(), patterns()
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    distill(data.crops, data.labels, data.adapted, tmp_path, settings(epochs=1), quiet=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert np.array_equal(data.crops, untouched.crops) and np.array_equal(data.adapted, untouched.adapted)


def test_crops_mapped_from_a_file_train_to_the_same_bits(tmp_path: Path) -> None:
    data = patterns()
    np.save(tmp_path / "crops.npy", data.crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    config = settings(epochs=1)
    one, _ = distill(data.crops, data.labels, data.adapted, tmp_path / "a", config, quiet=True)
    two, _ = distill(
        mapped, data.labels, data.adapted, tmp_path / "b", config, validation=(mapped, data.labels), quiet=True
    )
    assert all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


# --- cards, refusals -------------------------------------------------------------------------------------------------


def test_the_card_names_data_people_teacher_licence_and_what_it_is_not_for(tmp_path: Path) -> None:
    data = patterns()
    where = Provenance({"patterns": "CC0-1.0"}, "teacher-7f", "weights for research only", "cc-by-nc-4.0")
    distill(
        data.crops, data.labels, data.adapted, tmp_path, settings(epochs=1), provenance=where, quiet=True,
        validation=(patterns(1).crops, patterns(1).labels),
    )  # fmt: skip
    card = (tmp_path / "best/README.md").read_text()
    for said in (
        "CC0-1.0", "48 faces of 6 people", "teacher-7f", "weights for research only", "cc-by-nc-4.0", "validation AUC",
        "untargeted scraping", "`bridge`", "agreed to it",
    ):  # fmt: skip
        assert said in card
    assert load_weights(tmp_path / "best")[0]["teacher"] == "teacher-7f"


def _refused(what: str, tmp_path: Path, **changes: Any) -> None:
    data = patterns()
    given: dict[str, Any] = {"crops": data.crops, "labels": data.labels, "targets": data.adapted, "config": settings()}
    given |= changes
    with pytest.raises(InputError, match=what):
        distill(given["crops"], given["labels"], given["targets"], tmp_path / "x", given["config"], quiet=True)
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = patterns()
    _refused("targets have 20 numbers, the student 32", tmp_path, targets=data.features)
    _refused("mimics a teacher", tmp_path, targets=None)
    _refused("labels are", tmp_path, labels=data.labels[:-1])
    _refused("labels are", tmp_path, labels=data.labels.astype(float))
    _refused("a label is -2", tmp_path, labels=data.labels - 2)
    _refused("targets have 47 rows", tmp_path, targets=data.adapted[:-1])
    _refused("1 people", tmp_path, labels=np.zeros_like(data.labels))
    _refused("square RGB bytes", tmp_path, crops=data.crops[..., :1])
    _refused("square RGB bytes", tmp_path, crops=data.crops.astype(np.float32))
    _refused("0 people", tmp_path, crops=data.crops[:0], labels=data.labels[:0], targets=data.adapted[:0])
    with pytest.raises(InputError, match="validation needs two people"):
        adapt(data.features, data.labels, tmp_path, validation=(data.features[:1], data.labels[:1]), quiet=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "upsample_teacher"}, "has no student"),
        ({"method": "magic"}, "choose bridge"),
        ({"target": "cosine"}, "choose unit or raw"),
        ({"margin": "none"}, "margin"),
        ({"alpha": -1.0}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"hint_share": 2.0}, "hint_share"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 32}, "seed is 4294967296"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        DistillConfig(**wrong)


def test_few_faces_get_many_steps_and_the_warm_up_ends_before_the_training() -> None:
    few, many = AdaptConfig(epochs=30).training(100), AdaptConfig(epochs=30).training(100_000)
    assert few.batch_size == 12 and few.steps == 250
    assert many.batch_size == 512 and many.steps == 5_860
    short = AdaptConfig(epochs=1).training(100)
    assert short.warmup == 0 and few.warmup == 17
    with pytest.raises(InputError, match="at least 2 are needed"):
        AdaptConfig().training(1)


def test_features_that_are_not_finite_stop_the_training(tmp_path: Path) -> None:
    data = patterns()
    broken = data.features.copy()
    broken[3, 2] = np.nan
    with pytest.raises(InputError, match="is nan"):
        adapt(broken, data.labels, tmp_path, AdaptConfig(epochs=1), quiet=True)


# --- batch norms -----------------------------------------------------------------------------------------------------


def test_batch_norms_take_the_statistics_of_the_place_and_the_student_stays(tmp_path: Path) -> None:
    """On faces of another light, the first norm's mean and variance are those of its input."""
    torch.manual_seed(0)
    student = StudentNet(SMALL).eval()
    kept = {name: value.clone() for name, value in student.state_dict().items()}
    dark = (shrink(patterns().crops, 16) * 0.3).astype(np.uint8)
    adapted = adapt_batchnorm(student, dark)
    seen = student.stages[0][0](to_input(dark))
    assert torch.allclose(adapted.stages[0][1].running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(adapted.stages[0][1].running_var, seen.var((0, 2, 3)), rtol=1e-4)
    assert all(torch.equal(value, kept[name]) for name, value in student.state_dict().items())
    unmoved = adapt_batchnorm(student, dark, share=0.0).state_dict()
    assert all(torch.equal(unmoved[name], value) for name, value in kept.items())
    with pytest.raises(InputError, match="2 faces or more"):
        adapt_batchnorm(student, dark[:1])


# --- validation ------------------------------------------------------------------------------------------------------


def test_auc_counts_pairs_in_the_right_order_and_half_of_the_ties() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.integers(-2, 3, (30, 3)).astype(float), random.integers(0, 4, 30)
    unit = vectors.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12
    scores = unit @ unit.T
    pairs = [(scores[i, j], labels[i] == labels[j]) for i in range(30) for j in range(i + 1, 30)]
    own, others = ([score for score, same in pairs if same == wanted] for wanted in (True, False))
    won = sum((a > b) + 0.5 * (a == b) for a in own for b in others)
    assert verification_auc(vectors, labels) == pytest.approx(won / len(own) / len(others), abs=1e-9)
    assert np.isnan(verification_auc(vectors, np.zeros(30, int)))


# --- real faces ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orl() -> Callable[[range], tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    root = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "faces" / "orl"
    if not root.is_dir():
        pytest.skip(f"{root} is not there; set TENFOLD_DATA")

    def read(people: range) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        files = [(path, person) for person in people for path in sorted((root / f"s{person:02d}").iterdir())]
        pictures = [Image.open(path).convert("RGB").crop((0, 12, 92, 104)).resize((48, 48)) for path, _ in files]
        return np.stack([np.asarray(picture) for picture in pictures]), np.array([person for _, person in files])

    return read


def test_the_bridge_from_teacher_to_student_on_real_faces(orl: Any, tmp_path: Path) -> None:
    """Both steps, very short, on ORL: unseen people are told apart better than by the first weights.

    Neither teacher nor adapter gets a gradient in step 2, and their weights are the same bytes afterwards.
    """
    private, public, unseen = orl(range(1, 11)), orl(range(11, 21)), orl(range(21, 31))
    teacher, _ = train_teacher(*private, tmp_path / "t", TeacherConfig(epochs=2, batch_size=25, warmup=1), quiet=True)

    def features(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.concatenate([teacher(to_input(part)).numpy() for part in np.array_split(crops, 4)])

    adapter, _ = adapt(features(public[0]), public[1], tmp_path / "a", AdaptConfig(epochs=10), quiet=True)
    before = [value.numpy().tobytes() for network in (teacher, adapter) for value in network.state_dict().values()]
    files = [(tmp_path / name / "last/model.safetensors").read_bytes() for name in ("t", "a")]
    for parameter in (*teacher.parameters(), *adapter.parameters()):
        parameter.grad = None
    config = DistillConfig(epochs=12)
    student, _ = distill(
        public[0], public[1], apply_adapter(adapter, features(public[0])), tmp_path / "s", config, quiet=True
    )
    assert all(parameter.grad is None for parameter in (*teacher.parameters(), *adapter.parameters()))
    assert before == [value.numpy().tobytes() for net in (teacher, adapter) for value in net.state_dict().values()]
    assert files == [(tmp_path / name / "last/model.safetensors").read_bytes() for name in ("t", "a")]
    small = to_input(shrink(unseen[0], 16))
    torch.manual_seed(0)
    first = verification_auc(StudentNet().eval()(small).detach().numpy(), unseen[1])
    auc = verification_auc(student(small).detach().numpy(), unseen[1])
    assert auc > max(0.85, first)
    assert isinstance(teacher, TeacherNet)
