"""Training of language models: on text, and on recall (MQAR)."""

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from tenfold.attention.blocks import Blocks
from tenfold.attention.evaluation import evaluate_mqar, perplexity
from tenfold.attention.losses import check_vocabulary
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.mqar import IGNORED, MQAR
from tenfold.attention.tokens import count_bytes
from tenfold.core.artifacts import ModelCard
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult, train

__all__ = ["make_model", "next_token_loss", "save_language_model", "train_language_model", "train_recall"]

_LOOKED_AT = 4096
_INTENDED = "Research into language models whose memory does not grow with the text."
_LIMITS = (
    "Not instructed and not aligned: what it writes may be wrong, or repeat what stood in its data. Recall of details "
    "from long texts is weaker than with softmax attention, by design."
)


def make_model(config: GSAConfig, seed: int = 0) -> GSAForCausalLM:
    """A model with random weights, the same ones for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GSAForCausalLM(config)


def next_token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy in nats of a batch of `input_ids` and aligned `labels`, (B, T), -100 where none counts."""
    logits_BTN = model(batch["input_ids"], use_cache=False).logits
    if not logits_BTN.is_cuda:  # there a look at the labels would wait for the GPU
        check_vocabulary(batch["labels"], logits_BTN.shape[-1])
    return functional.cross_entropy(logits_BTN.flatten(0, 1).float(), batch["labels"].flatten(), ignore_index=IGNORED)


def train_language_model(
    model: GSAForCausalLM,
    blocks: Dataset[Any],
    folder: Path | None,
    config: TrainingConfig,
    *,
    validation: Blocks | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    data: Mapping[str, str] | None = None,
    license: str = "other",
    resume: bool = True,
    quiet: bool = False,
) -> TrainingResult:
    """Train a model to predict the next token.

    Args:
        model: Is trained in place: fresh from `make_model`, loaded, or converted from a transformer.
        blocks: Samples of `input_ids` and aligned `labels`, such as `Blocks`.
        folder: Where the run lies; `folder/best` and `folder/last` are model folders. None writes nothing.
        config: The settings.
        validation: Blocks for evaluations; they decide what is `best`.
        tokenizer: Saved with the model, so that its folder can read and write text.
        data: The licence of each data set by its name, for the model card.
        license: Of the weights, for the model card.
        resume: Go on with the run in the folder.
        quiet: No progress bar.

    Returns:
        What the run came to; with validation, `best` is the loss per token in nats.

    Raises:
        InputError: As `tenfold.core.training.train`, and tokens that the model does not have.
    """
    if tokenizer is not None and len(tokenizer) > model.config.vocab_size:
        sizes = f"{len(tokenizer):,} tokens, the model {model.config.vocab_size:,}"
        raise InputError(f"the tokenizer has {sizes}; is this its tokenizer?")
    measured: dict[str, float] = {}

    def evaluate(trained: nn.Module) -> dict[str, float]:
        assert validation is not None
        size = None if tokenizer is None else count_bytes(validation.labels, tokenizer)
        found = perplexity(trained, validation, config.batch_size, text_bytes=size)
        measured.update({"validation loss, nats per token": found.loss, "validation perplexity": found.perplexity})
        return {"loss": found.loss} | ({"bits_per_byte": found.bits_per_byte} if found.bits_per_byte else {})

    def save(trained: nn.Module, place: Path) -> None:
        known = measured if "best" in place.name else {}  # `last` is saved before it is measured
        save_language_model(trained, place, tokenizer, card(model.config, known, data or {}, license))

    return train(
        model,
        blocks,
        next_token_loss,
        folder,
        config,
        evaluate=evaluate if validation is not None else None,
        save=save,
        identity=_settings(model.config) | ({"text": _digest(blocks.tokens)} if isinstance(blocks, Blocks) else {}),
        resume=resume,
        quiet=quiet,
    )


def train_recall(
    model: GSAForCausalLM,
    samples: MQAR,
    folder: Path | None,
    config: TrainingConfig,
    *,
    test: MQAR,
    resume: bool = True,
    quiet: bool = False,
) -> TrainingResult:
    """Train a model on multi-query associative recall; `best` is the share of queries of the test that it answers.

    Raises:
        InputError: As `tenfold.core.training.train`, and a vocabulary that the model does not have.
    """
    if samples.vocab > model.config.vocab_size:
        raise InputError(f"the task has {samples.vocab} tokens, the model {model.config.vocab_size}; make it larger")

    def save(trained: nn.Module, place: Path) -> None:
        about = {"MQAR (generated)": "none needed"}
        save_language_model(trained, place, None, card(model.config, {}, about, "apache-2.0"))

    return train(
        model,
        samples,
        next_token_loss,
        folder,
        config,
        evaluate=lambda trained: {"accuracy": evaluate_mqar(trained, test, config.batch_size)},
        best="accuracy",
        higher_is_better=True,
        save=save,
        identity=_settings(model.config) | {"task": _digest(samples.inputs)},
        resume=resume,
        quiet=quiet,
    )


def _settings(config: GSAConfig) -> dict[str, Any]:
    """What makes a model what it is: weights of the same shapes may belong to several, as with 2 heads or with 4."""
    names = inspect.signature(GSAConfig).parameters.keys() - {"others", "use_cache"}
    return {name: getattr(config, name) for name in sorted(names)}


def _digest(tokens: np.ndarray) -> str:
    """Of some thousand tokens, evenly spread: it tells one text from another without reading all of it."""
    some = tokens.reshape(-1)[:: max(1, tokens.size // _LOOKED_AT)]
    return hashlib.sha256(some.astype("<u4").tobytes()).hexdigest()[:16]


def card(config: GSAConfig, metrics: Mapping[str, float], data: Mapping[str, str], license: str) -> ModelCard:
    """The model card of a language model."""
    return ModelCard(
        title=f"{config.mixer} language model, {config.num_hidden_layers} layers of {config.hidden_size}",
        room="attention",
        summary=f"A causal language model with the mixer {config.mixer} (Gated Slot Attention, arXiv 2409.07146).",
        data=data,
        metrics=metrics,
        intended_use=_INTENDED,
        limits=_LIMITS,
        license=license,
    )


def save_language_model(
    model: nn.Module, folder: Path, tokenizer: PreTrainedTokenizerFast | None, about: ModelCard
) -> None:
    """Write a model into an empty folder as transformers does, with its tokenizer and its card."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(about.render())
