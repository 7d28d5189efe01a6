"""Published checkpoints of GSA models: what lies in them, in both layouts there are."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.core.artifacts import find, load_weights
from tenfold.core.errors import InputError

__all__ = ["check_depth", "fit", "open_checkpoint", "rename_old_layout"]

_SHOWN = 4
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")


def open_checkpoint(name: Path | str, revision: str | None = None) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Folder, config and weights, under today's names, of a model folder or a model on the Hub.

    Raises InputError for what is missing or damaged, and for a model of another kind.
    """
    folder = find(name, revision)
    config, state = load_weights(folder)
    if config.get("model_type") != "gsa":
        kind = config.get("model_type")
        raise InputError(
            f"{folder}: is a model of type {kind!r}, not 'gsa'; `tenfold attention convert` makes one of a Llama or "
            "Mistral"
        )
    return folder, config, rename_old_layout(state)


def rename_old_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of checkpoints from before February 2025 to today's; others stay.

    In those the norms lie inside of what they come before, and the feed-forward layer's gate and up rows in one matrix.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        key = re.sub(r"(layers\.\d+)\.attn\.norm\.", r"\1.attn_norm.", key)
        key = re.sub(r"(layers\.\d+)\.mlp\.norm\.", r"\1.mlp_norm.", key)
        packed = re.fullmatch(r"(.*layers\.\d+\.mlp)\.gate_proj\.weight", key)
        if packed and f"{packed[1]}.up_proj.weight" not in state and value.dim() == 2 and value.shape[0] % 2 == 0:
            gate, up = value.chunk(2)
            renamed[key], renamed[f"{packed[1]}.up_proj.weight"] = gate, up
        else:
            renamed[key] = value
    return renamed


def check_depth(state: Mapping[str, Tensor], layers: int, source: Path) -> None:
    """Raise InputError where a config has more layers than there are weights of, before they are made."""
    deepest = max((int(found[1]) for key in state if (found := _LAYER.search(key))), default=-1)
    if state and layers > deepest + 1:
        raise InputError(f"{source}: has weights of {deepest + 1} layers, its config says {layers}; fetch it again")


def fit(state: Mapping[str, Tensor], model: nn.Module, source: Path) -> dict[str, Tensor]:
    """Those weights of a checkpoint that a model has, under its names.

    A model without an output layer takes what lies below `model.` in one that has it. Raises InputError that names
    weights that are missing, left over, or of another shape.
    """
    wanted = model.state_dict()
    if not any(key.startswith("model.") for key in wanted):
        state = {key.removeprefix("model."): x for key, x in state.items() if key != "lm_head.weight"}
    tied = getattr(model.config, "tie_word_embeddings", False)
    missing = [key for key in wanted if key not in state and not (tied and key == "lm_head.weight")]
    unknown = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(x.shape)}"
        for key, x in wanted.items()
        if key in state and state[key].shape != x.shape
    ]
    kinds = [key for key, x in state.items() if not torch.is_floating_point(x)]
    faults = {"misses": missing, "has unknown": unknown, "has other shapes:": shapes, "has whole numbers in": kinds}
    said = [f"{what} {_some(keys)}" for what, keys in faults.items() if keys]
    if said:
        raise InputError(f"{source}: does not fit its config: {'; '.join(said)}; fetch it again, or mend config.json")
    return dict(state)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
