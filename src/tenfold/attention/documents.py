"""How well a language model predicts a long document: in one go, its state carried on, or in sliding windows."""

import inspect
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tenfold.attention.evaluation import Perplexity
from tenfold.attention.losses import check_vocabulary, device_of, evaluating, forward, token_losses
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["document_losses", "document_perplexity"]


def document_losses(
    model: Any,
    tokens: np.ndarray,
    *,
    window: int | None = None,
    stride: int | None = None,
    chunk: int = 2048,
    batch_size: int = 1,
    progress: Progress = no_progress,
) -> np.ndarray:
    """float32 (len(tokens) - 1,): the loss of every token but the first of one long document.

    Without `window`, each token is predicted from all before it: the document goes through in chunks, and the model's
    cache carries what was read. With `window`, tokens go through in windows that begin `stride` apart, as models of
    bounded length need it, and each token is scored once, in the first window that holds it: from at least
    `window - stride` tokens before it, save at the document's start.

    Args:
        model: A language model; without `window` one that takes and returns `cache` or `past_key_values`.
        tokens: (n,) integers, at least 2.
        window: Tokens read at a time.
        stride: From 1 to `window`; default half of it.
        chunk: Tokens read at a time without `window`.
        batch_size: Windows at a time.
        progress: Called with "loss", the tokens done and all.

    Raises:
        InputError: Numbers that do not fit, or a token that is not in the model's vocabulary.
    """
    if len(tokens) < 2:
        raise InputError(f"a document of {len(tokens)} tokens has nothing to predict; give 2 or more")
    if chunk < 1 or batch_size < 1:
        raise InputError(f"chunks of {chunk} tokens, {batch_size} at a time: take 1 or more of both")
    ids = np.asarray(tokens).astype(np.int64)
    with evaluating(model):
        if window is None:
            return _carried_losses(model, ids, chunk, progress)
        stride = max(1, window // 2) if stride is None else stride
        if window < 1 or not 1 <= stride <= window:
            raise InputError(f"a stride of {stride} does not fit a window of {window}; take 1 to {max(window, 1)}")
        return _window_losses(model, ids, window, stride, batch_size, progress)


def document_perplexity(model: Any, tokens: np.ndarray, *, text_bytes: int | None = None, **options: Any) -> Perplexity:
    """`document_losses` as one figure; `text_bytes` is what the tokens after the first stand for."""
    losses = document_losses(model, tokens, **options)
    return Perplexity.of(float(losses.sum(dtype=np.float64)), len(losses), text_bytes)


def _carried_losses(model: Any, ids: np.ndarray, chunk: int, progress: Progress) -> np.ndarray:
    losses = np.empty(len(ids) - 1, np.float32)
    # transformers 5.24 calls `cache` what was `past_key_values` before, in the call and in what it returns.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    device, cache = device_of(model), None
    for start in range(0, len(losses), chunk):
        stop = min(len(losses), start + chunk)
        piece = torch.from_numpy(ids[start : stop + 1]).to(device)
        output = forward(model, piece[None, :-1], use_cache=True, **{name: cache})
        check_vocabulary(piece[1:], output.logits.shape[-1])
        losses[start:stop] = F.cross_entropy(output.logits[0].float(), piece[1:], reduction="none").cpu().numpy()
        cache = getattr(output, name, None)
        if cache is None and stop < len(losses):
            raise InputError(
                f"the model carries no cache on, and {len(ids):,} tokens take more than one chunk; give window"
            )
        progress("loss", stop, len(losses))
    return losses


def _window_losses(
    model: Any, ids: np.ndarray, window: int, stride: int, batch_size: int, progress: Progress
) -> np.ndarray:
    losses = np.empty(len(ids) - 1, np.float32)
    window = min(window, len(losses))
    starts = [*range(0, len(losses) - window, stride), len(losses) - window]
    device, done = device_of(model), 0
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        inputs, labels = (
            torch.from_numpy(np.stack([ids[start + shift : start + shift + window] for start in batch])).to(device)
            for shift in (0, 1)
        )
        for start, row in zip(batch, token_losses(model, inputs, labels).cpu().numpy(), strict=True):
            losses[done : start + window] = row[done - start :]
            done = start + window
        progress("loss", done, len(losses))
    return losses
