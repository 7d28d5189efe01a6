"""How GSA's claims are measured: mixers at equal parameters, steps and data, small enough for a CPU."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tenfold.attention.blocks import Blocks
from tenfold.attention.convert import from_transformer
from tenfold.attention.evaluation import evaluate_mqar, loss_by_position, perplexity, recall_slice
from tenfold.attention.layers import MixerName
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.mqar import MQAR
from tenfold.attention.training import make_model, next_token_loss
from tenfold.core.training import TrainingConfig, train

__all__ = [
    "Effort",
    "Language",
    "Transfer",
    "language_config",
    "measure_language",
    "measure_recall",
    "measure_transfer",
    "sized_alike",
]

_RECALL_RATES = (1e-2, 3e-3, 1e-3)
_NEARLY_ALL = 0.99


@dataclass(frozen=True)
class Effort:
    """How much is trained.

    Attributes:
        width: Of the language models.
        layers: Of the language models.
        length: Tokens of a sample.
        batch: Samples in a step.
        steps: Of the language models.
        recall_steps: Of the models that learn MQAR.
        longest: Tokens of the samples that test length.
    """

    width: int = 128
    layers: int = 4
    length: int = 256
    batch: int = 8
    steps: int = 800
    recall_steps: int = 400
    longest: int = 4096

    @property
    def slots(self) -> int:
        """Of GSA and ABC in the language models, so that their state, 2 M D, has the size of GLA's, D^2 / 4."""
        return self.width // 8


@dataclass(frozen=True)
class Language:
    """What a language model came to; losses in nats per token.

    Attributes:
        loss: Of the validation text.
        repeated: Of tokens that end a 4-gram which the sample holds already.
        positions: Where ranges of positions begin, and the losses there, in longer samples than it was trained on.
        parameters: Of the model.
        state_bytes: What all layers remember of a text of the trained length.
    """

    loss: float
    repeated: float
    positions: dict[int, float]
    parameters: int
    state_bytes: int


@dataclass(frozen=True)
class Transfer:
    """Losses on the way from a transformer to a recurrent model, in nats per token."""

    transformer: float
    converted: float
    tuned: float
    scratch: float
    gla: float


def sized_alike(config: GSAConfig, parameters: int) -> GSAConfig:
    """A config whose model has as many parameters as wanted, by the width of its feed-forward layers."""
    with torch.device("meta"):
        surplus = sum(x.numel() for x in GSAForCausalLM(config).parameters()) - parameters
    narrower = surplus / (3 * config.hidden_size * config.num_hidden_layers)
    changed = config.to_dict() | {"intermediate_size": max(1, round(config.intermediate_size - narrower))}
    return GSAConfig(**{key: value for key, value in changed.items() if key != "model_type"})


def measure_language(mixer: MixerName, slots: int, blocks: Blocks, held: Blocks, effort: Effort, seed: int) -> Language:
    """Train a language model of bytes and measure it."""
    model = make_model(language_config(mixer, slots, effort), seed)
    _train(model, blocks, effort.steps, effort.batch, 2e-3, seed)
    longest = min(effort.longest, len(held.tokens) - 1)
    edges = [0, effort.length]  # so that the first range is what it was trained on
    while 2 * edges[-1] < longest:
        edges.append(2 * edges[-1])
    places = loss_by_position(model, Blocks(held.tokens, longest), [*edges, longest], batch_size=1)
    with torch.inference_mode():
        cache = model(held[0]["input_ids"][None].to(model.device), use_cache=True).cache
    return Language(
        loss=perplexity(model, held).loss,
        repeated=recall_slice(model, held, order=4).repeated.loss,
        positions={place.start: place.loss for place in places},
        parameters=sum(x.numel() for x in model.parameters()),
        state_bytes=cache.nbytes(),
    )


def measure_recall(mixer: MixerName, effort: Effort, seed: int, *, pairs: int = 8, length: int = 64) -> float:
    """Train two layers of width 64 on MQAR: the share of queries of fresh samples that are answered.

    As in Zoology's own experiments there are zeros between queries, and every mixer has a short convolution, without
    which recurrent ones take very long to learn to look at the token before; and every mixer has the learning rate that
    is best for it. Rates are tried until one answers nearly all.
    """
    share = 0.0
    for rate in _RECALL_RATES:
        share = max(share, _recall_at(rate, mixer, effort, seed, pairs, length))
        if share >= _NEARLY_ALL:
            break
    return share


def _recall_at(rate: float, mixer: MixerName, effort: Effort, seed: int, pairs: int, length: int) -> float:
    vocab, batch = 256, 256
    config = GSAConfig(
        vocab_size=vocab, hidden_size=64, num_hidden_layers=2, num_heads=1, num_slots=64, mixer=mixer,
        intermediate_size=128, use_short_conv=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = make_model(config, seed)
    samples = MQAR(batch * effort.recall_steps, length, pairs, vocab, seed, filler="zeros")  # none comes twice
    _train(model, samples, effort.recall_steps, batch, rate, seed)
    return evaluate_mqar(model, MQAR(1000, length, pairs, vocab, seed, test=True, filler="zeros"))


def measure_transfer(blocks: Blocks, held: Blocks, effort: Effort, seed: int) -> Transfer:
    """Train a small Llama, convert it, and train the result for a tenth of the steps."""
    config = LlamaConfig(
        vocab_size=259, hidden_size=effort.width, intermediate_size=2 * effort.width, num_hidden_layers=effort.layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=effort.longest,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = LlamaForCausalLM(config)
    _train(source, blocks, effort.steps, effort.batch, 2e-3, seed)
    losses = {"transformer": perplexity(source, held).loss}
    for name, mixer in (("tuned", "gsa"), ("gla", "gla")):
        model, _ = from_transformer(source, config.head_dim, mixer=mixer, seed=seed)  # type: ignore[arg-type]
        if name == "tuned":
            losses["converted"] = perplexity(model, held).loss
            scratch = make_model(model.config, seed)
        _train(model, blocks, effort.steps // 10, effort.batch, 1e-3, seed)
        losses[name] = perplexity(model, held).loss
    _train(scratch, blocks, effort.steps // 10, effort.batch, 2e-3, seed)
    return Transfer(scratch=perplexity(scratch, held).loss, **losses)


def language_config(mixer: MixerName, slots: int, effort: Effort) -> GSAConfig:
    """Of a language model with as many parameters as that of softmax attention."""

    def of(kind: MixerName) -> GSAConfig:
        return GSAConfig(
            vocab_size=259, hidden_size=effort.width, num_hidden_layers=effort.layers, num_heads=2, num_slots=slots,
            mixer=kind, intermediate_size=2 * effort.width, bos_token_id=256, eos_token_id=257,
        )  # fmt: skip

    with torch.device("meta"):
        wanted = sum(x.numel() for x in GSAForCausalLM(of("softmax")).parameters())
    return sized_alike(of(mixer), wanted)


def _train(model: nn.Module, samples: object, steps: int, batch: int, rate: float, seed: int) -> None:
    config = TrainingConfig(
        steps=steps, batch_size=batch, learning_rate=rate, warmup=max(1, steps // 10), weight_decay=0.1, seed=seed
    )
    train(model, samples, next_token_loss, None, config, quiet=True)  # type: ignore[arg-type]
    model.eval()
