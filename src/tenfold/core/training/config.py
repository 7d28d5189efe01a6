"""The settings of a training run, checked where they are made."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tenfold.core.errors import InputError

__all__ = ["TrainingConfig"]

_FREE = ("steps", "device", "workers", "log_every", "evaluate_every", "save_every")  # may change when a run goes on


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained, by AdamW.

    One *step* is one change of the weights. It sees `batch_size * accumulate * processes` samples.

    Attributes:
        steps: How many steps to train, those of an earlier call that is resumed included.
        batch_size: Samples in one forward pass of one process.
        accumulate: Forward passes of each process in one step; their gradients are averaged.
        learning_rate: The highest learning rate.
        warmup: Steps in which the rate rises from 0 to `learning_rate`, in a straight line.
        schedule: How the rate falls from there to the last step; `constant` stays.
        final_rate: The rate at the last step, as a share of `learning_rate`, 0 to 1.
        weight_decay: AdamW's, for what `train` calls matrices.
        betas: AdamW's decay rates of the two moments.
        clip: The largest norm of all gradients together; 0 does not clip.
        precision: What forward and backward passes are computed in; weights are float32 in any case. fp16 needs a GPU.
        device: `auto` is the GPU where there is one.
        seed: Decides the order of samples and every random number, 0 to 2^32 - 1.
        workers: Processes that prepare samples beside each training process; 0 prepares them in it.
        log_every: Steps from one line of the log to the next.
        evaluate_every: Steps from one evaluation to the next; 0 evaluates at the end only.
        save_every: Steps from one checkpoint to the next; 0 saves at the end only.

    Raises InputError for a value out of range.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    learning_rate: float = 3e-4
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_rate: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("warmup", "workers", "evaluate_every", "save_every", "seed"):
            _check_whole(name, getattr(self, name), 0)
        if self.seed >= 1 << 32:
            raise InputError(f"seed is {self.seed}; it must be below 2^32")
        _check_range("learning_rate", self.learning_rate, 0, math.inf)
        _check_range("final_rate", self.final_rate, 0, 1)
        _check_range("weight_decay", self.weight_decay, 0, math.inf)
        _check_range("clip", self.clip, 0, math.inf)
        for beta in _pair("betas", self.betas):
            _check_range("betas", beta, 0, 1)
            if beta == 1:
                raise InputError("betas holds 1; both must be below it")
        _check_choice("schedule", self.schedule, ("cosine", "linear", "constant"))
        _check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        _check_choice("device", self.device, ("auto", "cpu", "cuda"))

    def rate_share(self, step: int) -> float:
        """The learning rate of a step, counted from 1, as a share of `learning_rate`."""
        if step <= self.warmup:
            return step / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        fallen = (1 - math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else done
        return 1 - (1 - self.final_rate) * fallen

    def identity(self) -> dict[str, Any]:
        """The settings that must be the same when a run goes on."""
        return {name: value for name, value in self.as_json().items() if name not in _FREE}

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return asdict(self) | {"betas": list(self.betas)}


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def _check_range(name: str, value: object, least: float, most: float) -> None:
    if not isinstance(value, int | float) or not least <= value <= most or math.isinf(value):
        limits = f"at least {least}" if math.isinf(most) else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}; it must be a number {limits}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}")


def _pair(name: str, value: object) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(f"{name} is {value!r}; it must be two numbers")
    return value[0], value[1]


def first_difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first setting of those given that was saved otherwise, in words; empty where they agree."""
    for name in given:
        if saved.get(name) != given[name]:
            return f"{name} was {saved.get(name)!r} and is now {given[name]!r}"
    return ""
