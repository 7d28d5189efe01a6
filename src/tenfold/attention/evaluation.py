"""How well a language model predicts: per token, per byte, by position, on repeats, over long documents, and on MQAR.

A model is anything with the interface of transformers: `model(input_ids).logits`, float (batch, length, vocabulary).
Datasets give `input_ids` and `labels` of one length, labels aligned (see `tenfold.attention.blocks`), -100 where
nothing is scored. Losses are natural logarithms; sums are in float64, each token with the same weight.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from torch.utils.data import DataLoader

from tenfold.attention.blocks import Blocks
from tenfold.attention.mqar import IGNORED, MQAR
from tenfold.attention.progress import Progress, no_progress
from tenfold.core.errors import InputError

__all__ = [
    "Perplexity",
    "PositionLoss",
    "RecallSlice",
    "device_of",
    "document_losses",
    "document_perplexity",
    "evaluate_mqar",
    "evaluating",
    "loss_by_position",
    "perplexity",
    "recall_slice",
    "repeated_ngrams",
    "token_losses",
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


def evaluate_mqar(model: Any, dataset: MQAR, batch_size: int = 32, *, progress: Progress = no_progress) -> float:
    """The share of queries whose value gets the largest logit of the whole vocabulary.

    Raises:
        InputError: The model's vocabulary is smaller than the task's.
    """
    right, queries = 0, 0
    with evaluating(model):
        for ids, labels in _batches(model, dataset, batch_size, progress, "mqar"):
            logits = _forward(model, ids).logits
            _check_vocabulary(labels, logits.shape[-1])
            scored = labels != IGNORED
            right += int((logits.argmax(-1)[scored] == labels[scored]).sum())
            queries += int(scored.sum())
    return right / queries


def token_losses(model: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 (batch, length): the loss of each label in nats, 0 where it is -100.

    Raises:
        InputError: A token is not in the model's vocabulary.
    """
    logits = _forward(model, input_ids).logits
    _check_vocabulary(labels, logits.shape[-1])
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


def _forward(model: Any, input_ids: torch.Tensor, **options: Any) -> Any:
    table = getattr(model, "get_input_embeddings", lambda: None)()
    _check_vocabulary(input_ids, getattr(table, "num_embeddings", math.inf))
    return model(input_ids=input_ids, **options)


def _check_vocabulary(ids: torch.Tensor, size: float) -> None:
    if ids.numel() and int(ids.max()) >= size:
        raise InputError(f"token {int(ids.max())} is not in the model's vocabulary of {size}; is this its tokenizer?")


def _carried_losses(model: Any, ids: np.ndarray, chunk: int, progress: Progress) -> np.ndarray:
    losses = np.empty(len(ids) - 1, np.float32)
    # transformers 5.24 calls `cache` what was `past_key_values` before, in the call and in what it returns.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    device, cache = device_of(model), None
    for start in range(0, len(losses), chunk):
        stop = min(len(losses), start + chunk)
        piece = torch.from_numpy(ids[start : stop + 1]).to(device)
        output = _forward(model, piece[None, :-1], use_cache=True, **{name: cache})
        _check_vocabulary(piece[1:], output.logits.shape[-1])
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


def _doublings(start: int, end: int) -> list[int]:
    edges = []
    while start < end:
        edges.append(start)
        start *= 2
    return edges
