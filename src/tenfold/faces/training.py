"""The three trainings: a teacher of one's own, the adapter (step 1), the student (step 2).

N faces · B batch · S side of a crop (112) · r side of a small face · C = 3 channels
D teacher's dimension · d student's dimension · K people

Crops stay bytes until their batch is due; changing and shrinking them is done on whole batches, of which all random
numbers depend on the seed and on the batch's place in the run. So a run that is killed and goes on gives the same bits.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.core.artifacts import load_into, load_weights, save_model
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult, train
from tenfold.core.training.config import first_difference
from tenfold.faces.augmentation import augment
from tenfold.faces.cards import make_card
from tenfold.faces.degradation import degrade, shrink
from tenfold.faces.losses import UNLABELLED, classification
from tenfold.faces.model import Adapter, StudentNet, TeacherNet, TeacherNetConfig, describe, to_input
from tenfold.faces.objectives import AdapterObjective, StudentObjective, TeacherObjective
from tenfold.faces.selection import select
from tenfold.faces.settings import AdaptConfig, DistillConfig, Provenance, Schedule, TeacherConfig
from tenfold.faces.validation import check_validation, verification_auc

__all__ = ["adapt", "apply_adapter", "distill", "teacher_logits", "train_teacher"]

Crops = NDArray[np.uint8]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
_Network = TypeVar("_Network", StudentNet, Adapter, TeacherNet)

_CHUNK = 256  # faces that are embedded at once
_SAMPLE = 20_000  # rows of which a variance is taken
_LOOKED_AT = 1000  # rows by which data are known again
_TINY = float(np.finfo(np.float32).tiny)
_AUC = "validation AUC"
_TEACHER_METHODS = ("direct", "hinton", "fitnet")  # mimic the teacher itself, without step 1


def train_teacher(
    crops_NSSC: Crops,
    labels_N: Labels,
    folder: Path | str,
    config: TeacherConfig | None = None,
    *,
    validation: tuple[Crops, Labels] | None = None,
    provenance: Provenance | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> tuple[TeacherNet, TrainingResult]:
    """Train a small teacher to tell people apart; it stands for the big one where none is at hand (our choice).

    Args:
        crops_NSSC: Aligned faces, RGB bytes; may be mapped from a file.
        labels_N: The person of each, any whole numbers; -1 is left out.
        folder: Where the run lies; `folder/best` and `folder/last` are model folders.
        config: The settings.
        validation: Crops and labels of other people, whose verification decides which model is the best.
        provenance: For the model card.
        resume: Go on with the run in the folder.
        quiet: No progress bar.

    Returns:
        The best model by validation, else the last one, on the CPU and in evaluation mode; and what the run came to:
        `best` is the AUC of verification.

    Raises:
        InputError: As `tenfold.core.training.train`, and for arrays that do not fit together.
    """
    config = config or TeacherConfig()
    _check_crops("crops", crops_NSSC, labels_N)
    rows = np.flatnonzero(labels_N != UNLABELLED)
    people, numbers_N = _number_people(labels_N)
    with _seeded(config.seed):
        network = TeacherNet(TeacherNetConfig(config.dimension))
        objective = TeacherObjective(network, _needed(people), config)

    def collate(picked: list[int]) -> tuple[Tensor, ...]:
        chosen = rows[picked]
        return augment(to_input(crops_NSSC[chosen]), config.augmentation), torch.from_numpy(numbers_N[chosen])

    judge = None
    if validation is not None:
        held_VSSC, held_labels_V = validation
        _check_crops("validation", held_VSSC, held_labels_V)
        judge = _Judge(lambda chunk: to_input(held_VSSC[chunk]), held_labels_V)
    samples = _digest(crops_NSSC, numbers_N, *(validation or ()))
    job = _Job(objective, "teacher", collate, len(rows), people, config, judge, provenance or Provenance(), samples)
    return network, _train(job, network, Path(folder), resume, quiet)


def adapt(
    features_ND: Features,
    labels_N: Labels,
    folder: Path | str,
    config: AdaptConfig | None = None,
    *,
    validation: tuple[Features, Labels] | None = None,
    provenance: Provenance | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> tuple[Adapter, TrainingResult]:
    """Step 1: carry a frozen teacher's knowledge to the public faces.

    That there is such a step, and that the student mimics adapted features, is the paper's; L1 and the adapter's layers
    are our choices (see `losses`). The teacher itself is not needed: its features are an array.

    Args:
        features_ND: The teacher's features of public crops, float16 or float32; may be mapped from a file.
        labels_N: The person of each; -1: unknown, which `keep` learns from.
        folder: As in `train_teacher`.
        config: The settings.
        validation: Features and labels of other public people, whose verification decides which adapter is the best.
        provenance: For the model card.
        resume: Go on with the run in the folder.
        quiet: No progress bar.

    Returns:
        As `train_teacher`.

    Raises:
        InputError: As `train_teacher`.
    """
    config = config or AdaptConfig()
    _check_rows("features", features_ND, labels_N)
    rows = np.arange(len(labels_N))
    if config.selection == "greedy":
        rows = select(features_ND, labels_N, config.rho)
    people, numbers_N = _number_people(labels_N)
    sample_ND = features_ND[:_SAMPLE].astype(np.float64)
    variance = max(float(sample_ND.var(0).mean()), _TINY)
    centre_D = torch.from_numpy(sample_ND.mean(0).astype(np.float32) * np.float32(config.centre))
    with _seeded(config.seed):
        network = Adapter(features_ND.shape[1], config.hidden, config.dimension)
        objective = AdapterObjective(network, _needed(people), config, variance, centre_D)

    def collate(picked: list[int]) -> tuple[Tensor, ...]:
        chosen = rows[picked]
        return _floats(features_ND[chosen]), torch.from_numpy(numbers_N[chosen])

    judge = None
    if validation is not None:
        held_VD, held_labels_V = validation
        _check_rows("validation", held_VD, held_labels_V)
        judge = _Judge(lambda chunk: _floats(held_VD[chunk]), held_labels_V)
    samples = _digest(features_ND, numbers_N, *(validation or ()))
    job = _Job(objective, "adapter", collate, len(rows), people, config, judge, provenance or Provenance(), samples)
    return network, _train(job, network, Path(folder), resume, quiet)


def distill(
    crops_NSSC: Crops,
    labels_N: Labels,
    targets_ND: Features | None,
    folder: Path | str,
    config: DistillConfig | None = None,
    *,
    validation: tuple[Crops, Labels] | None = None,
    provenance: Provenance | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> tuple[StudentNet, TrainingResult]:
    """Step 2: teach a student small copies of the public faces, by classification and by regression together.

    All methods train the same student on the same faces for the same steps; they differ in what it mimics. Targets are
    those of crops as they are, so the student also learns to see through what is done to its faces.

    | method | mimics | `targets_ND` |
    |---|---|---|
    | `bridge` | adapted features, and classifies; the paper's | adapted (N, d) |
    | `regression_only` | adapted features, without classification | adapted (N, d) |
    | `scratch` | nothing, classifies only | not read, may be None |
    | `direct` | the teacher's features through a linear map, and classifies | the teacher's (N, D) |
    | `hinton` | the logits of a linear classifier on the teacher's features, and classifies | the teacher's (N, D) |
    | `fitnet` | the teacher's features with its pooled layer first, then as `hinton` | the teacher's (N, D) |

    FitNets (Romero et al., arXiv 1412.6550) take the hint from inside the teacher; ours is a black box, whose features
    are all that can be seen. A teacher that gets enlarged faces (`degradation.enlarge`) needs no student.

    Args:
        crops_NSSC: Aligned public faces, RGB bytes; may be mapped from a file.
        labels_N: The person of each; -1: unknown, a row that is regressed and not classified.
        targets_ND: What is mimicked, float16 or float32, row by row.
        folder: As in `train_teacher`.
        config: The settings.
        validation: Crops and labels of other public people, whose verification at the student's size decides which
            student is the best.
        provenance: For the model card.
        resume: Go on with the run in the folder.
        quiet: No progress bar.

    Returns:
        As `train_teacher`.

    Raises:
        InputError: As `train_teacher`.
    """
    config = config or DistillConfig()
    _check_crops("crops", crops_NSSC, labels_N)
    people, numbers_N = _number_people(labels_N)
    targets_ND, logits_NK = _targets(targets_ND, numbers_N, people, config)
    size, halved_NSSC = config.student.size, _halve(crops_NSSC, config)
    with _seeded(config.seed):
        network = StudentNet(config.student)
        classes = max(people, 1) if config.method == "regression_only" or config.beta == 0 else _needed(people)
        hint_steps = round(config.hint_share * config.training(len(labels_N)).steps)
        objective = StudentObjective(network, classes, targets_ND.shape[1], config, hint_steps)

    def collate(picked: list[int]) -> tuple[Tensor, ...]:
        faces = augment(to_input(halved_NSSC[picked]), config.augmentation)
        small = degrade(faces, config.degradation.draw_size(size), config.degradation)
        known = torch.from_numpy(numbers_N[picked])
        return small, known, _floats(targets_ND[picked]), _floats(logits_NK[picked])

    judge = None
    if validation is not None:
        held_VSSC, held_labels_V = validation
        _check_crops("validation", held_VSSC, held_labels_V)
        small_VrrC = shrink(held_VSSC, size)
        judge = _Judge(lambda chunk: to_input(small_VrrC[chunk]), held_labels_V)
    samples = _digest(crops_NSSC, numbers_N, targets_ND, *(validation or ()))
    job = _Job(objective, "student", collate, len(labels_N), people, config, judge, provenance or Provenance(), samples)
    return network, _train(job, network, Path(folder), resume, quiet)


def apply_adapter(adapter: Adapter, features_ND: Features) -> NDArray[np.float32]:
    """Adapted features a, float32 (N, d), not normalised, of a teacher's features; the adapter stays as it is."""
    return _embed(adapter, lambda chunk: _floats(features_ND[chunk]), len(features_ND))


def teacher_logits(features_ND: Features, labels_N: Labels, seed: int = 0) -> NDArray[np.float32]:
    """Logits (N, K) of a linear classifier on a teacher's features, for `hinton` and `fitnet`.

    A black-box teacher knows nothing of the public people; this is the least that gives it logits of them (our choice:
    features brought to mean 0 and spread 1, 30 epochs of AdamW). Rows of the label -1 get logits, too.

    Raises InputError for fewer than two people.
    """
    people, numbers_N = _number_people(labels_N)
    sample_ND = features_ND[:_SAMPLE].astype(np.float64)
    mean_D = sample_ND.mean(0).astype(np.float32)
    spread_D = (sample_ND.std(0) + 1e-6 * sample_ND.std()).astype(np.float32) + _TINY
    rows = np.flatnonzero(numbers_N != UNLABELLED)
    with _seeded(seed):
        linear = nn.Linear(features_ND.shape[1], _needed(people))

    def standard(chosen: Any) -> Tensor:
        return _floats((features_ND[chosen].astype(np.float32) - mean_D) / spread_D)

    def collate(picked: list[int]) -> tuple[Tensor, Tensor]:
        return standard(rows[picked]), torch.from_numpy(numbers_N[rows[picked]])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return classification(model(batch[0]), batch[1])

    schedule = Schedule(epochs=30, batch_size=512, learning_rate=0.01, seed=seed, device="cpu")
    train(linear, range(len(rows)), loss, None, schedule.training(len(rows)), collate=collate, quiet=True)
    return _embed(linear, standard, len(features_ND))


# --- one run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judge:
    """Measures a network on people who are not learned from."""

    read: Callable[[slice], Tensor]
    labels: Labels

    def __post_init__(self) -> None:
        check_validation(self.labels)

    def measure(self, network: nn.Module) -> float:
        """The AUC of verification."""
        return verification_auc(_embed(network, self.read, len(self.labels)), self.labels)


@dataclass(frozen=True)
class _Job:
    """A training, ready to run."""

    objective: nn.Module
    kind: str
    collate: Callable[[list[int]], tuple[Tensor, ...]]
    faces: int
    people: int
    config: Schedule
    judge: _Judge | None
    provenance: Provenance
    samples: str

    def about(self, network: StudentNet | Adapter | TeacherNet) -> dict[str, Any]:
        """What the model folder's `config.json` says."""
        return describe(network) | {
            "teacher": self.provenance.teacher,
            "space": self.provenance.space,
            "people": self.people,
            "training": self.config.identity(),
        }


def _train(job: _Job, network: _Network, folder: Path, resume: bool, quiet: bool) -> TrainingResult:
    """Run a job; the network is the best one afterwards, else the last, on the CPU and in evaluation mode."""
    settings, measured, method = job.about(network), dict[str, float](), str(getattr(job.config, "method", ""))
    training: TrainingConfig = job.config.training(job.faces)
    if resume:
        _check_same_run(folder / "last", settings)

    def loss(objective: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        value: tuple[Tensor, dict[str, Tensor]] = objective(*batch)
        return value

    def evaluate(objective: Any) -> dict[str, float]:
        assert job.judge is not None
        measured[_AUC] = job.judge.measure(objective.network)
        return {"auc": measured[_AUC]}

    def save(objective: Any, place: Path) -> None:
        known = measured if "best" in place.name else {}  # `last` is saved before it is measured
        card = make_card(job.kind, method, job.people, job.faces, known, job.provenance)
        save_model(place, objective.network, settings, card)

    result = train(
        job.objective,
        range(job.faces),
        loss,
        folder,
        training,
        evaluate=evaluate if job.judge else None,
        best="auc",
        higher_is_better=True,
        collate=job.collate,
        save=save,
        identity={"samples": job.samples},
        resume=resume,
        quiet=quiet,
    )
    network.to(device="cpu", memory_format=torch.contiguous_format).eval()
    if job.judge is not None:
        _, weights = load_weights(folder / "best")
        load_into(network, weights, folder / "best")
    return result


def _check_same_run(last: Path, settings: dict[str, Any]) -> None:
    """InputError where the run that would go on had other settings than the loop itself looks at."""
    if not (last / "config.json").is_file() or not (last / "training.json").is_file():
        return
    saved, _ = load_weights(last)
    given = {name: settings[name] for name in ("kind", "teacher", "space", "people")} | settings["training"]
    if differs := first_difference(saved | dict(saved.get("training", {})), given):
        raise InputError(f"{last}: is of another run: {differs}; choose another folder, or do not resume")


def _embed(network: nn.Module, read: Callable[[slice], Tensor], count: int) -> NDArray[np.float32]:
    """What a network in evaluation mode gives for rows 0 to `count`."""
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    with torch.no_grad():
        starts = range(0, count, _CHUNK)
        parts = [network(read(slice(start, start + _CHUNK)).to(device)).float().cpu().numpy() for start in starts]
    network.train(was_training)
    return np.concatenate(parts)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """First weights depend on the seed, and the caller's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# --- what comes in ---------------------------------------------------------------------------------------------------


def _number_people(labels_N: Labels) -> tuple[int, NDArray[np.int64]]:
    """How many people there are, and the labels as numbers 0 to K - 1, -1 where it was -1."""
    people, numbers = np.unique(labels_N, return_inverse=True)
    unknown = int((people == UNLABELLED).sum())
    if (people < UNLABELLED).any():
        raise InputError(f"a label is {people.min()}; people are numbered from 0, and -1 is nobody that is known")
    return len(people) - unknown, (numbers - unknown).astype(np.int64)


def _needed(people: int) -> int:
    if people < 2:
        raise InputError(f"the labels name {people} people; a classification needs 2 or more")
    return people


def _targets(
    targets: Features | None, numbers_N: NDArray[np.int64], people: int, config: DistillConfig
) -> tuple[Features, Features]:
    """What is regressed (N, D) and the teacher's logits (N, K), with D or K of 0 where a method has no use for them."""
    nothing = np.empty((len(numbers_N), 0), np.float32)
    if config.method == "scratch":
        return nothing, nothing
    if targets is None:
        raise InputError(f"method {config.method!r} mimics a teacher; give its features as targets, or 'scratch'")
    _check_rows("targets", targets, numbers_N)
    dimension = config.student.dimension
    if config.method not in _TEACHER_METHODS and targets.shape[1] != dimension:
        wanted = f"targets have {targets.shape[1]} numbers, the student {dimension}"
        raise InputError(f"{wanted}; give adapted features, or method 'direct' for the teacher's own")
    if config.method in ("hinton", "fitnet"):
        _needed(people)
        return targets, teacher_logits(targets, numbers_N, config.seed)
    return targets, nothing


def _halve(crops: Crops, config: DistillConfig) -> Crops:
    """The crops with as many pixels as small faces can be made of."""
    side, least = crops.shape[1], config.detail * max(config.degradation.sizes or (config.student.size,))
    while side % 2 == 0 and side // 2 >= max(least, 1):
        side //= 2
    return crops if side == crops.shape[1] else shrink(crops, side)


def _check_crops(what: str, crops: Crops, labels: Labels) -> None:
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2] or crops.dtype != np.uint8:
        raise InputError(f"{what} are {crops.shape} of {crops.dtype}; give square RGB bytes, (N, side, side, 3)")
    _check_labels(what, len(crops), labels)


def _check_rows(what: str, rows: Features, labels: Labels) -> None:
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind != "f":
        raise InputError(f"{what} are {rows.shape} of {rows.dtype}; give rows of float numbers, (N, D)")
    _check_labels(what, len(rows), labels)


def _check_labels(what: str, count: int, labels: Labels) -> None:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"{what} have {count} rows, their labels are {labels.shape} of {labels.dtype}; give integers")


def _digest(*arrays: NDArray[Any]) -> str:
    """Of rows evenly spread over each array: it tells one set of data from another without reading all of it.

    Of features only the place of the highest in each row counts, seen from their mean: another machine, where a run may
    go on too, rounds them otherwise.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}\n".encode())
        some = np.asarray(array[:: max(1, len(array) // _LOOKED_AT)])
        if some.dtype.kind == "f" and some.size:
            with np.errstate(invalid="ignore"):
                some = (some - some.mean(0, dtype=np.float64)).argmax(1)
        digest.update((some.astype(np.int64) if some.ndim == 1 else some).tobytes())
    return digest.hexdigest()[:16]


def _floats(rows: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))
