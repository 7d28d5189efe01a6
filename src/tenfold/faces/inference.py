"""What every network of this room does before it answers: crops checked, batch norm folded away, weights named.

Batch norm in evaluation is y = g (x - m) / sqrt(v + e) + b, so a convolution W x + c before it becomes one convolution
with W' = W g / sqrt(v + e) and c' = (c - m) g / sqrt(v + e) + b: the same numbers in fewer steps.
"""

# N faces · S side of a crop · C = 3 channels

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tenfold.core.artifacts import find
from tenfold.core.errors import InputError
from tenfold.faces.degradation import enlarge, shrink

__all__ = [
    "NOT_STATED",
    "check_crops",
    "fingerprint",
    "first_line",
    "fold",
    "model_folder",
    "open_session",
    "read_licence",
    "resize",
]

NOT_STATED = "not stated"
_HASH_LETTERS = 32
_LICENCE = re.compile(r"^license:[ \t]*\"?([^\"\n]+)\"?$", re.MULTILINE)


def check_crops(crops_NSSC: NDArray[Any], name: str = "crops") -> None:
    """Raise InputError, with the array's `name`, unless it is uint8 (N, S, S, 3) with S >= 1."""
    shape = crops_NSSC.shape
    if crops_NSSC.dtype != np.uint8:
        raise InputError(f"{name}: are {crops_NSSC.dtype}; give uint8 from 0 to 255")
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] == 0:
        raise InputError(f"{name}: have shape {shape}; give (faces, side, side, 3), RGB")


def resize(crops_NSSC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Crops of another side, uint8 (N, side, side, 3): areas averaged when smaller, bicubic when larger."""
    have = crops_NSSC.shape[1]
    if have == side:
        return crops_NSSC
    return shrink(crops_NSSC, side) if side < have else enlarge(crops_NSSC, side)


def fold(net: nn.Module) -> nn.Module:
    """A copy of a network for evaluation: no batch norm after convolutions, no gradients, channels last.

    A batch norm that a module registers right after a convolution or a linear layer is taken to follow it, as in all
    networks here. Answers agree to rounding. The network given is left as it is.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for module in list(net.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, norm))
            elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                setattr(module, name, fuse_linear_bn_eval(layer, norm))
            else:
                continue
            setattr(module, norm_name, nn.Identity())
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            _tighten(module)
    return net.requires_grad_(False).to(memory_format=torch.channels_last)


def _tighten(layers: nn.Sequential) -> None:
    """Drop what does nothing; a ReLU writes over what a convolution has just given, for nobody else reads that."""
    for place in reversed([place for place, layer in enumerate(layers) if isinstance(layer, nn.Identity)]):
        del layers[place]
    for before, layer in pairwise(layers):
        if isinstance(before, nn.Conv2d) and isinstance(layer, nn.ReLU):
            layer.inplace = True


def fingerprint(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits of SHA-256 over a config and weights by name; how often batch norm was updated is left out.

    The same for the same numbers, however they were stored.
    """
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        values = state[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:_HASH_LETTERS]


def file_hash(path: Path, config: Mapping[str, Any]) -> str:
    """As `fingerprint`, of a file whose weights are not read here."""
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    return fingerprint({**config, "file": contents}, {})


def model_folder(path_or_id: Path | str) -> Path:
    """The local folder that holds the weights; a run's folder stands for its best model, else its last.

    Raises InputError where there is no such folder, and none on the Hub.
    """
    folder = find(path_or_id)
    inner = (folder / name for name in ("best", "last"))
    return next((place for place in inner if (place / "model.safetensors").is_file()), folder)


def read_licence(folder: Path) -> str:
    """The licence on the model card of a folder; `not stated` where it names none."""
    card = folder / "README.md"
    found = _LICENCE.search(card.read_text(errors="replace")) if card.is_file() else None
    return found[1] if found else NOT_STATED


def open_session(path: Path) -> Any:
    """A session of onnxruntime on the CPU, with as many threads as torch has; InputError where it is no such file."""
    import onnxruntime  # noqa: PLC0415 - 50 MB that models of torch do without

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # threads that wait leave the core to others
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(f"{path}: is no ONNX file that onnxruntime reads ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """What an error of another library says, fit for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
