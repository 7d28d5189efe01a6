"""The settings of the three trainings: teacher, adapter (step 1), student (step 2).

The paper's schedules were not at hand. All of these are our choices but those marked as the paper's. The optimiser is
AdamW, that of the loop all rooms share; at this scale it does as well as SGD with momentum.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig
from tenfold.faces.augmentation import Augmentation
from tenfold.faces.degradation import Degradation
from tenfold.faces.losses import Margin, Target
from tenfold.faces.model import StudentConfig

__all__ = [
    "METHODS",
    "AdaptConfig",
    "DistillConfig",
    "Keep",
    "Method",
    "Provenance",
    "Schedule",
    "Selection",
    "TeacherConfig",
]

Keep = Literal["relational", "reconstruct", "none"]
Selection = Literal["all", "greedy"]
Method = Literal["bridge", "scratch", "direct", "regression_only", "hinton", "fitnet"]
METHODS: tuple[Method, ...] = get_args(Method)

_LEAST_STEPS = 8  # of an epoch
_FREE = ("epochs", "device", "workers", "evaluate_every", "save_every")  # may change when a run goes on


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What all three trainings have.

    Attributes:
        epochs: How often each face is seen.
        batch_size: Faces per step, at least 2; but no more than an eighth of all, so that few faces get many steps.
        learning_rate: AdamW's highest rate; it falls on a cosine to 0.
        warmup: Epochs in which it rises, fewer than `epochs`.
        weight_decay: AdamW's.
        clip: The largest norm of all gradients together; 0 does not clip.
        seed: Decides first weights, order and every random number, 0 to 2^32 - 1.
        device: `auto` is the GPU where there is one.
        workers: Processes that prepare batches beside the training.
        evaluate_every: Epochs from one validation to the next; 0: at the end only.
        save_every: Epochs from one checkpoint to the next; 0: at the end only.

    Raises InputError for a value out of range, here or when the training begins.
    """

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 2
    weight_decay: float = 0.05
    clip: float = 5.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    evaluate_every: int = 5
    save_every: int = 5

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_size": 2, "warmup": 0, "evaluate_every": 0, "save_every": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 1 << 32:
            raise InputError(f"seed is {self.seed!r}; it must be a whole number from 0 to 2^32 - 1")

    def training(self, faces: int) -> TrainingConfig:
        """The loop's settings for so many faces. Raises InputError for too few, or a value out of range."""
        if faces < 2:
            raise InputError(f"there are {faces} faces to train on; at least 2 are needed")
        batch = min(self.batch_size, max(2, faces // _LEAST_STEPS))

        def steps(epochs: int) -> int:
            return -(-epochs * faces // batch)

        return TrainingConfig(
            steps=steps(self.epochs),
            batch_size=batch,
            learning_rate=self.learning_rate,
            warmup=steps(min(self.warmup, self.epochs - 1)),
            final_rate=0.0,
            weight_decay=self.weight_decay,
            clip=self.clip,
            seed=self.seed,
            device=self.device,
            workers=self.workers,
            log_every=steps(1),
            evaluate_every=steps(self.evaluate_every),
            save_every=steps(self.save_every),
        )

    def identity(self) -> dict[str, Any]:
        """The settings that must be the same when a run goes on, as JSON values."""
        return {name: _plain(value) for name, value in asdict(self).items() if name not in _FREE}


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Schedule):
    """How the small teacher is trained: to tell people apart. Beside `Schedule`'s:

    Attributes:
        dimension: D, numbers of its features.
        margin: Of its classifier.
        margin_scale: What cosines are multiplied by under a margin.
        augmentation: How its faces are changed.
    """

    epochs: int = 30
    batch_size: int = 64
    dimension: int = 256
    margin: Margin = "softmax"
    margin_scale: float = 30.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("margin", self.margin, get_args(Margin))


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(Schedule):
    """How the adapter is trained (step 1). Beside `Schedule`'s:

    Attributes:
        hidden: Numbers between the adapter's layers.
        dimension: d, numbers of an adapted feature.
        keep: What holds adapted features to the teacher's: their likenesses (`relational`), that the teacher's can be
            made of them again (`reconstruct`), or `none`, a mere new classifier.
        keep_weight: lambda, what it counts beside the classification.
        centre: Whether `relational` takes the mean of the teacher's features from them before it compares directions.
            Features of dlib, for one, all point nearly the same way: seen from 0, nobody differs from anybody, and a
            student that copies such features to within a few degrees still mixes people up.
        selection: `greedy` learns from a share of the faces only (see `select`); an ablation.
        rho: That share, above 0 and up to 1.
    """

    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 1e-3
    hidden: int = 512
    dimension: int = 128
    keep: Keep = "relational"
    keep_weight: float = 1.0
    centre: bool = False
    selection: Selection = "all"
    rho: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("keep", self.keep, get_args(Keep))
        _check_choice("selection", self.selection, get_args(Selection))
        _check_weight("keep_weight", self.keep_weight)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Schedule):
    """How the student is trained (step 2). Beside `Schedule`'s:

    Attributes:
        method: `bridge` is the paper's; the others are what it is compared with (see `distill`).
        student: The student's shape.
        alpha: What the regression counts, 1 in the re-implementation that was at hand.
        beta: What the classification counts, likewise.
        target: `unit` brings both sides of the regression to the length `target_scale` first (our choice, for scores
            that are cosines); `raw` compares the vectors as they are.
        target_scale: That length.
        relational: What the relational loss between student's features and the targets counts; 0: none. Ours.
        margin: Of the classifier; `softmax` is the paper's.
        margin_scale: What cosines are multiplied by under a margin.
        temperature: Of the soft logits of `hinton` and `fitnet`.
        hint_share: The share of the steps of `fitnet` that learn the hint only, 0 to 1.
        detail: Crops are halved once, before the training, as often as their side stays so many times the small face's:
            less to change and to blur each time.
        degradation: How faces are made small.
        augmentation: How they are changed before.
    """

    method: Method = "bridge"
    student: StudentConfig = field(default_factory=StudentConfig)
    alpha: float = 1.0
    beta: float = 1.0
    target: Target = "unit"
    target_scale: float = 1.0
    relational: float = 0.0
    margin: Margin = "softmax"
    margin_scale: float = 30.0
    temperature: float = 4.0
    hint_share: float = 0.3
    detail: float = 3.0
    degradation: Degradation = field(default_factory=Degradation)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if str(self.method) == "upsample_teacher":
            raise InputError("method 'upsample_teacher' has no student to train; give the teacher enlarged faces")
        _check_choice("method", self.method, METHODS)
        _check_choice("target", self.target, get_args(Target))
        _check_choice("margin", self.margin, get_args(Margin))
        for name in ("alpha", "beta", "relational", "target_scale", "temperature", "detail"):
            _check_weight(name, getattr(self, name))
        if not 0 <= self.hint_share <= 1:
            raise InputError(f"hint_share is {self.hint_share!r}; it must be a number from 0 to 1")
        if self.target_scale == 0 or self.temperature == 0:
            raise InputError("target_scale and temperature must be above 0")


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, for its card.

    Attributes:
        data: The licence of each data set it saw, by the data set's name.
        teacher: The teacher's identity, as `Teacher.identity` gives it; models of different teachers do not mix.
        teacher_licence: The licence of the teacher's weights, in the words of who gives them.
        license: Of the weights that are made, as the Hub spells it.
        space: Of the adapter whose features a student mimics, as `HighResolution.space` gives it: its faces may be
            compared with big ones then.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    teacher: str = ""
    teacher_licence: str = "not stated"
    license: str = "other"
    space: str = ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}")


def _check_weight(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; it must be a number of at least 0")
