"""What a run needs before its first step: accelerator, optimiser, folder."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from tenfold.core.errors import InputError
from tenfold.core.files import restore_folder
from tenfold.core.training.config import TrainingConfig

__all__ = ["Groups", "forget_accelerator", "make_optimizer", "open_accelerator", "prepare_folder"]

Groups = list[dict[str, Any]]
_PARTS = ("last", "best", "tensorboard", "config.json")
_LONGEST_WAIT = timedelta(hours=12)  # the other processes wait while the main one evaluates


def open_accelerator(config: TrainingConfig) -> Accelerator:
    """The devices and processes of a run. Raises InputError for a device or a precision that is not there."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise InputError("device is 'cuda', but torch finds no NVIDIA GPU here; use device 'cpu' or 'auto'")
    on_cpu = config.device == "cpu" or not has_cuda
    if config.precision == "fp16" and on_cpu:
        raise InputError("precision is 'fp16', which the CPU cannot train in; use 'bf16' or 'fp32', or a GPU")
    forget_accelerator()
    # A model may leave parameters out of a step (a branch, a modality); without the search DDP stops there.
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
    ]
    precision = "no" if config.precision == "fp32" else config.precision
    return Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)


def forget_accelerator() -> None:
    """Let the next run of this process choose other settings; accelerate keeps those of the first."""
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not grouped)
    GradientState._reset_state()


def make_optimizer(
    model: nn.Module, config: TrainingConfig, parameters: Callable[[nn.Module], Groups] | None
) -> torch.optim.AdamW:
    """AdamW, whose groups remember their highest rate as `initial_lr`.

    Raises InputError for groups without parameters or with some that are not the model's.
    """
    groups = parameters(model) if parameters else _default_groups(model, config)
    own = set(model.parameters())
    groups = [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    if any(p not in own for group in groups for p in group["params"]):
        raise InputError("parameters gives some that are not the model's; make them parameters of the model")
    if not any(group["params"] for group in groups):
        raise InputError("the model has no parameter to train; set requires_grad of some")
    optimizer = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=tuple(config.betas), weight_decay=config.weight_decay
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _default_groups(model: nn.Module, config: TrainingConfig) -> Groups:
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim >= 2 and parameter not in tables else others).append(parameter)
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]


def prepare_folder(folder: Path, resume: bool) -> None:
    """Make the folder of a run; without `resume`, empty of an earlier one.

    Raises InputError where it cannot be made, or holds what a run would replace and no run made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("last", "best"):
            restore_folder(folder / name)
        parts = [folder / name for name in _PARTS if (folder / name).exists()]
        if parts and not (folder / "log.jsonl").exists():
            raise InputError(f"{parts[0]}: is not of a training run, which would replace it; choose another folder")
        for part in parts if not resume else ():
            part.unlink() if part.is_file() else shutil.rmtree(part)
        if not resume:
            (folder / "log.jsonl").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}; choose another folder") from None
