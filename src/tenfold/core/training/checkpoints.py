"""What a run leaves in its folder: `last`, to go on from, and `best`; both are model folders too.

last/   what `save` writes (model.safetensors), and
        training.safetensors    weights, moments of the optimiser, states of the generators of every process
        training.json           step, settings, and what else is no tensor
best/   what `save` writes
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tenfold.core.artifacts import read_tensors, write_tensors
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file, replace_folder

__all__ = ["Checkpoint", "load_optimizer", "optimizer_tensors", "read_checkpoint", "write_best", "write_last"]

Save = Callable[[nn.Module, Path], None]
_TENSORS, _NOTES = "training.safetensors", "training.json"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on behind `step`."""

    step: int
    identity: Mapping[str, Any]
    seconds: float
    window: Mapping[str, Any]
    scaler: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: Sequence[Mapping[str, Tensor]]


_PLAIN = ("step", "identity", "seconds", "window", "scaler")


def save_weights(model: nn.Module, folder: Path) -> None:
    """What `save` is by default: the state dict as `model.safetensors`."""
    write_tensors(folder / "model.safetensors", model.state_dict())


def write_last(folder: Path, model: nn.Module, save: Save, checkpoint: Checkpoint) -> None:
    """Replace `last`. Raises OSError."""
    with _replacing(_ours(folder / "last")) as partial:
        save(model, partial)
        groups = {"weights": checkpoint.weights, "optimizer": checkpoint.optimizer}
        groups |= {f"random/{process}": state for process, state in enumerate(checkpoint.random)}
        tensors = {f"{group}/{name}": value for group, state in groups.items() for name, value in state.items()}
        write_tensors(partial / _TENSORS, tensors)
        notes = {"format": _FORMAT} | {name: getattr(checkpoint, name) for name in _PLAIN}
        (partial / _NOTES).write_text(json.dumps(notes, indent=1))


def write_best(folder: Path, model: nn.Module, save: Save) -> None:
    """Replace `best`. Raises OSError."""
    with _replacing(folder / "best") as partial:
        save(model, partial)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """`replace_folder`, for a `save` that leaves the weights to safetensors, which has an error of its own."""
    try:
        with replace_folder(folder) as partial:
            yield partial
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from None


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The run in `folder` as of its last checkpoint; None where there is none. Raises InputError for a damaged one."""
    last = folder / "last"
    if not last.exists():
        return None
    try:
        notes = json.loads((_ours(last) / _NOTES).read_bytes())
        if notes["format"] != _FORMAT:
            raise InputError(
                f"{last}: has format {notes['format']}, this Tenfold reads {_FORMAT}; use the other version"
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in read_tensors(last / _TENSORS).items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        plain = {name: notes[name] for name in _PLAIN}
        states = [_part(groups["random"], f"{process}/") for process in range(notes["identity"]["processes"])]
        return Checkpoint(**plain, weights=groups["weights"], optimizer=groups.get("optimizer", {}), random=states)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{last / _NOTES}: is damaged ({error!r}); remove {last} to start anew") from None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _ours(last: Path) -> Path:
    if last.exists() and not (last / _NOTES).is_file():
        raise InputError(f"{last}: is no checkpoint of a training run; move it or choose another folder")
    return last


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the run's `config.json`."""
    with replace_file(folder / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n")


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors, named `parameter/what`."""
    return {
        f"{name}/{what}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set what `optimizer_tensors` returned."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        states.setdefault(name, {})[what] = tensor.clone()  # the file is mapped, and the optimiser writes
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbered = {number: states[name] for number, name in enumerate(order) if name in states}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": numbered})
