"""What every network of this room does before it answers: crops checked, batch norm folded away, weights named.

Batch norm in evaluation is y = g (x - m) / sqrt(v + e) + b, so a convolution W x + c before it becomes one convolution
with W' = W g / sqrt(v + e) and c' = (c - m) g / sqrt(v + e) + b: the same numbers in fewer steps.
"""

# B batch · S side of a crop · r side of the network's input · C = 3 channels

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from tenfold.core.errors import InputError

__all__ = ["check_crops", "fingerprint", "fold", "resize"]

_HASH_LETTERS = 32


def check_crops(crops_NSSC: NDArray[Any], name: str = "crops") -> None:
    """Raise InputError, with the array's `name`, unless it is uint8 (N, S, S, 3) with S >= 1."""
    shape = crops_NSSC.shape
    if crops_NSSC.dtype != np.uint8:
        raise InputError(f"{name}: are {crops_NSSC.dtype}; give uint8 from 0 to 255")
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] == 0:
        raise InputError(f"{name}: have shape {shape}; give (faces, side, side, 3), RGB")


def resize(crops_BSSC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Crops of another side, uint8 (B, side, side, 3): areas averaged when smaller, bilinear when larger."""
    import cv2  # noqa: PLC0415 - training on crops of the right side needs no OpenCV

    have = crops_BSSC.shape[1]
    if have == side:
        return crops_BSSC
    how = cv2.INTER_AREA if side < have else cv2.INTER_LINEAR
    resized = np.empty((len(crops_BSSC), side, side, 3), np.uint8)
    for row, crop in enumerate(crops_BSSC):
        resized[row] = cv2.resize(np.ascontiguousarray(crop), (side, side), interpolation=how)
    return resized


def fold(net: nn.Module) -> nn.Module:
    """A copy of a traceable network for evaluation: no batch norm after convolutions, no gradients, channels last.

    The network given is left as it is. Answers agree to rounding, about 1e-6 of their size.
    """
    traced = symbolic_trace(copy.deepcopy(net).eval())
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if _is(node, modules, nn.BatchNorm1d, nn.BatchNorm2d) and _feeds_only(source := node.args[0], modules):
            _fuse(traced, modules, source, node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.requires_grad_(False).to(memory_format=torch.channels_last)


def _is(node: Any, modules: Mapping[str, nn.Module], *kinds: type[nn.Module]) -> bool:
    return isinstance(node, Node) and node.op == "call_module" and isinstance(modules[str(node.target)], kinds)


def _feeds_only(source: Any, modules: Mapping[str, nn.Module]) -> bool:
    return _is(source, modules, nn.Conv2d, nn.Linear) and len(source.users) == 1


def _fuse(traced: GraphModule, modules: dict[str, nn.Module], source: Node, norm: Node) -> None:
    layer, batch_norm = modules[str(source.target)], modules[str(norm.target)]
    fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    traced.set_submodule(str(source.target), fuse(layer, batch_norm))
    norm.replace_all_uses_with(source)
    traced.graph.erase_node(norm)


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
