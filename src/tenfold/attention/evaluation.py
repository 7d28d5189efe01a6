"""How well a language model predicts: per token, per byte, by position, on repeats, and on MQAR.

Models are as in `tenfold.attention.losses`; long documents are in `tenfold.attention.documents`. Datasets give
`input_ids` and `labels` of one length, labels aligned (see `tenfold.attention.blocks`), -100 where nothing is scored.
Losses are natural logarithms; sums are in float64, each token with the same weight.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tenfold.attention.blocks import Blocks
from tenfold.attention.losses import check_vocabulary, device_of, evaluating, forward, token_losses
from tenfold.attention.mqar import IGNORED, MQAR
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = [
    "Perplexity",
    "PositionLoss",
    "RecallSlice",
    "evaluate_mqar",
    "loss_by_position",
    "perplexity",
    "recall_slice",
    "repeated_ngrams",
]


@dataclass(frozen=True)
class Perplexity:
    """How many tokens were predicted, and how well; `bits_per_byte` where their bytes were told."""

    loss: float  # nats per token
    perplexity: float
    tokens: int
    bits_per_byte: float | None = None

    @classmethod
    def of(cls, total: float, tokens: int, text_bytes: int | None = None) -> "Perplexity":
        """From the sum of the losses; of no tokens, NaN. `text_bytes` is what the tokens stand for."""
        loss = total / tokens if tokens else math.nan
        with np.errstate(over="ignore"):
            exponential = float(np.exp(np.float64(loss)))
        return cls(loss, exponential, tokens, total / math.log(2) / text_bytes if text_bytes else None)

    def to_json(self) -> dict[str, float | int | None]:
        """As `tenfold attention evaluate --json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class PositionLoss:
    """The mean loss, in nats, of tokens with `start` to `stop - 1` tokens before the one that predicts them."""

    start: int
    stop: int
    loss: float
    tokens: int


@dataclass(frozen=True)
class RecallSlice:
    """The losses of tokens that end an n-gram which the context holds already, and of all others."""

    repeated: Perplexity
    other: Perplexity

    @property
    def share(self) -> float:
        """Repeated tokens of all tokens."""
        return self.repeated.tokens / (self.repeated.tokens + self.other.tokens)


def perplexity(
    model: Any,
    dataset: Any,
    batch_size: int = 8,
    *,
    text_bytes: int | None = None,
    progress: Progress = no_progress,
) -> Perplexity:
    """The loss over a dataset.

    Args:
        model: A language model.
        dataset: Of `input_ids` and `labels`, such as `Blocks`.
        batch_size: Sequences at a time.
        text_bytes: What the labels stand for, for instance `count_bytes(blocks.labels, tokenizer)`.
        progress: Called with "loss", the sequences done and all.

    Raises:
        InputError: A token is not in the model's vocabulary, or nothing is scored.
    """
    total, tokens = 0.0, 0
    with evaluating(model):
        for _, labels, losses in _losses(model, dataset, batch_size, progress):
            total += float(losses.sum())
            tokens += int(np.count_nonzero(labels != IGNORED))
    if not tokens:
        raise InputError("the dataset has no label to score; every one is -100")
    return Perplexity.of(total, tokens, text_bytes)


def loss_by_position(
    model: Any,
    dataset: Any,
    edges: Sequence[int] | None = None,
    batch_size: int = 1,
    *,
    progress: Progress = no_progress,
) -> list[PositionLoss]:
    """The loss in ranges of positions: whether a model holds beyond the length that it was trained on.

    Args:
        model: A language model.
        dataset: Of long `input_ids` and `labels`, such as `Blocks(tokens, 4096)`.
        edges: Where ranges begin and end, ascending; default 0, 256, 512, 1024, ... and the length.
        batch_size: Sequences at a time.
        progress: Called with "loss", the sequences done and all.

    Raises:
        InputError: As `perplexity`, or for edges that do not ascend.
    """
    sums: np.ndarray | None = None
    with evaluating(model):
        for _, labels, losses in _losses(model, dataset, batch_size, progress):
            if sums is None:
                sums, counts = np.zeros(labels.shape[1]), np.zeros(labels.shape[1], np.int64)
            sums += losses.sum(0)
            counts += np.count_nonzero(labels != IGNORED, axis=0)
    if sums is None:
        raise InputError("the dataset is empty; there is no loss to tell")
    if edges is None:
        edges = [0, *_doublings(256, len(sums)), len(sums)]
    if len(edges) < 2 or edges[0] < 0 or any(stop <= start for start, stop in pairwise(edges)):
        raise InputError(f"edges {list(edges)} do not ascend from 0 on; give two or more that do, as 0 256 512")
    bins = []
    for start, stop in pairwise(edges):
        tokens = int(counts[start:stop].sum())
        bins.append(PositionLoss(start, stop, float(sums[start:stop].sum()) / tokens if tokens else math.nan, tokens))
    return bins


def recall_slice(
    model: Any, blocks: Blocks, order: int = 2, batch_size: int = 8, *, progress: Progress = no_progress
) -> RecallSlice:
    """The loss on tokens that end an n-gram seen before in the block, which recall can predict, and on the others.

    After Zoology (Arora et al. 2023, section 3), where n = 2. With few tokens, as bytes, nearly every bigram is a
    repeat; a larger `order` then asks for more.

    Args:
        model: A language model.
        blocks: Of consecutive tokens.
        order: n.
        batch_size: Blocks at a time.
        progress: Called with "loss", the blocks done and all.

    Raises:
        InputError: `order` is below 1, or a token is not in the model's vocabulary.
    """
    sums, counts = np.zeros(2), np.zeros(2, np.int64)
    with evaluating(model):
        for inputs, labels, losses in _losses(model, blocks, batch_size, progress):
            tokens = np.concatenate([inputs, labels[:, -1:]], axis=1)
            repeated = repeated_ngrams(tokens, order)[:, 1:]
            for which, chosen in enumerate((repeated, ~repeated)):
                sums[which] += losses[chosen].sum()
                counts[which] += np.count_nonzero(chosen)
    return RecallSlice(*(Perplexity.of(float(total), int(count)) for total, count in zip(sums, counts, strict=True)))


def repeated_ngrams(tokens: np.ndarray, order: int = 2) -> np.ndarray:
    """Bool (batch, length): whether the n-gram that ends here ended before in the same row.

    Args:
        tokens: (batch, length) of integers from 0 on.
        order: n, at least 1. The first n - 1 tokens of a row end none.
    """
    if order < 1:
        raise InputError(f"there are no {order}-grams; take an order of 1 or more")
    rows, length = tokens.shape
    repeated = np.zeros((rows, length), bool)
    if length < order:
        return repeated
    spans = length - order + 1
    width = int(tokens.max(initial=0)) + 1
    codes = np.repeat(np.arange(rows), spans).reshape(rows, spans)
    for step in range(order):  # renumbered at each step, so that they stay small
        _, codes = np.unique(codes * width + tokens[:, step : step + spans], return_inverse=True)
        codes = codes.reshape(rows, spans)
    _, first = np.unique(codes, return_index=True)
    is_first = np.zeros(codes.size, bool)
    is_first[first] = True
    repeated[:, order - 1 :] = ~is_first.reshape(rows, spans)
    return repeated


def evaluate_mqar(model: Any, dataset: MQAR, batch_size: int = 32, *, progress: Progress = no_progress) -> float:
    """The share of queries whose value gets the largest logit of the whole vocabulary.

    Raises:
        InputError: The model's vocabulary is smaller than the task's.
    """
    right, queries = 0, 0
    with evaluating(model):
        for ids, labels in _batches(model, dataset, batch_size, progress, "mqar"):
            logits = forward(model, ids).logits
            check_vocabulary(labels, logits.shape[-1])
            scored = labels != IGNORED
            right += int((logits.argmax(-1)[scored] == labels[scored]).sum())
            queries += int(scored.sum())
    return right / queries


def _losses(
    model: Any, dataset: Any, batch_size: int, progress: Progress
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield input, labels and float64 losses, each (batch, length)."""
    for ids, labels in _batches(model, dataset, batch_size, progress, "loss"):
        losses = token_losses(model, ids, labels)
        yield ids.cpu().numpy(), labels.cpu().numpy(), losses.cpu().numpy().astype(np.float64)


def _batches(
    model: Any, dataset: Any, batch_size: int, progress: Progress, phase: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if batch_size < 1:
        raise InputError(f"batches of {batch_size} hold nothing; take 1 or more")
    device, done = device_of(model), 0
    for batch in DataLoader(dataset, batch_size):
        yield batch["input_ids"].to(device), batch["labels"].to(device)
        done += len(batch["labels"])
        progress(phase, done, len(dataset))


def _doublings(start: int, end: int) -> list[int]:
    edges = []
    while start < end:
        edges.append(start)
        start *= 2
    return edges
