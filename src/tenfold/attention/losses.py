"""The loss of single tokens, and how a model is called for it.

A model is anything with the interface of transformers: `model(input_ids=...)` returns `logits`, float (batch, length,
vocabulary).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from tenfold.core.errors import InputError

__all__ = ["check_vocabulary", "device_of", "evaluating", "forward", "token_losses"]


def token_losses(model: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 (batch, length): the loss of each label in nats, 0 where it is -100.

    Raises:
        InputError: A token is not in the model's vocabulary.
    """
    logits = forward(model, input_ids).logits
    check_vocabulary(labels, logits.shape[-1])
    rows = zip(logits, labels, strict=True)  # row by row: a copy in float32 of all logits can be large
    return torch.stack([F.cross_entropy(row.float(), label, reduction="none") for row, label in rows])


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def device_of(model: Any) -> torch.device:
    """Where the model's parameters are, and its input must go."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def forward(model: Any, input_ids: torch.Tensor, **options: Any) -> Any:
    """What the model returns; InputError for a token that it does not know."""
    table = getattr(model, "get_input_embeddings", lambda: None)()
    check_vocabulary(input_ids, getattr(table, "num_embeddings", math.inf))
    return model(input_ids=input_ids, **options)


def check_vocabulary(ids: torch.Tensor, size: float) -> None:
    """Raise InputError for a token that a vocabulary of this size does not hold."""
    if ids.numel() and int(ids.max()) >= size:
        raise InputError(f"token {int(ids.max())} is not in the model's vocabulary of {size}; is this its tokenizer?")
