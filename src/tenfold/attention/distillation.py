"""A warm-up of converted models: every layer learns to give what the source's attention gives for the same input."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tenfold.attention.blocks import Blocks
from tenfold.attention.losses import check_vocabulary
from tenfold.attention.model import GSAForCausalLM
from tenfold.attention.pretrained import read_pretrained
from tenfold.core.artifacts import find
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult, train

__all__ = ["attention_error", "warm_up"]

_COPIED = ("q_proj.", "k_proj.", "v_proj.", "o_proj.")


def warm_up(
    model: GSAForCausalLM,
    source: nn.Module | Path | str,
    blocks: Blocks,
    config: TrainingConfig,
    folder: Path | str | None,
    *,
    trained: Literal["new", "mixer"] = "mixer",
    quiet: bool = False,
) -> TrainingResult:
    """Train the mixers of a converted model on `attention_error`, layer by layer side by side.

    Args:
        model: From `from_transformer`, float32; is trained in place.
        source: What it was converted from: the model, its folder, or its name on the Hub.
        blocks: Texts.
        config: The settings, as for any training.
        folder: Where the run lies, as in `train`; None writes nothing.
        trained: `new` trains only what the source does not have (gates, norm), `mixer` the projections too.
        quiet: No progress bar.

    Raises InputError where model and source do not fit together, for tokens that the source does not know, and as
    `train`.
    """
    teacher = _load(source)
    _check_fit(model, teacher)
    layers = model.model.layers
    chosen = {
        id(x) for layer in layers for name, x in layer.attn.named_parameters()
        if trained == "mixer" or not name.startswith(_COPIED)
    }  # fmt: skip

    def loss(student: Any, batch: Any) -> Tensor:
        return attention_error(student, teacher, batch["input_ids"])

    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training, teacher_was_training = model.training, teacher.training
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in chosen)
        teacher.eval()
        return train(model, blocks, loss, folder, config, quiet=quiet)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.zero_grad()
        model.train(was_training)
        teacher.train(teacher_was_training)


def attention_error(model: GSAForCausalLM, source: nn.Module, input_ids: Tensor) -> Tensor:
    """The squared error of each layer's attention, in shares of the source's mean square; the mean over layers.

    0 is perfect; a layer that gives nothing has 1. Both see what the source's layers see, so that an error of one
    layer does not reach the next.

    Args:
        model: Converted from the source.
        source: A LlamaForCausalLM or MistralForCausalLM; goes to where the tokens are.
        input_ids: (B, T) tokens.

    Returns:
        A single number, with gradients for the model only.
    """
    check_vocabulary(input_ids, source.get_input_embeddings().num_embeddings)
    source.to(input_ids.device)
    with torch.no_grad(), _watched(source) as seen:
        source.model(input_ids=input_ids, use_cache=False)
    errors = []
    for layer, (x_BTD, wanted_BTD) in zip(model.model.layers, seen, strict=True):
        wanted_BTD = wanted_BTD.float()
        found_BTD = layer.attn(x_BTD.to(layer.attn.o_proj.weight.dtype)).float()
        errors.append((found_BTD - wanted_BTD).square().mean() / wanted_BTD.square().mean())
    return torch.stack(errors).mean()


@contextmanager
def _watched(source: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What goes into and comes out of each layer's attention while the source runs."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        seen.append((options["hidden_states"] if "hidden_states" in options else args[0], output[0]))

    hooks = [layer.self_attn.register_forward_hook(note, with_kwargs=True) for layer in source.model.layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _load(source: nn.Module | Path | str) -> Any:
    read_pretrained(source)
    if isinstance(source, nn.Module):
        return source
    return AutoModelForCausalLM.from_pretrained(find(source), use_safetensors=True, local_files_only=True)


def _check_fit(model: GSAForCausalLM, source: Any) -> None:
    ours, theirs = model.config, source.config
    pairs = {
        "hidden_size": (ours.hidden_size, theirs.hidden_size),
        "num_hidden_layers": (ours.num_hidden_layers, theirs.num_hidden_layers),
    }
    for name, (own, other) in pairs.items():
        if own != other:
            raise InputError(f"{name} of the model is {own}, of the source {other}; give what it was converted from")
    kinds = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if kinds:
        raise InputError(f"the model has weights of {kinds.pop()}, which are trained as float32; call model.float()")
