"""Pretrained transformers made recurrent ("T2R"): their weights in Gated Slot Attention, to be fine-tuned.

    model, conversion = from_transformer("mistral-7b", num_slots=64)
    print(conversion)

Embeddings, norms, feed-forward layers and the projections of queries, keys, values and outputs are the source's; rotary
positions are gone, and gates are new (arXiv 2409.07146). What comes out is no language model yet: all its
parameters are then trained a little, on the loss of the next token.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.pretrained import Pretrained, read_pretrained
from tenfold.core.artifacts import ModelCard, find, save_model
from tenfold.core.errors import InputError
from tenfold.core.files import replace_folder

__all__ = ["Conversion", "GateInit", "convert_folder", "from_transformer"]

GateInit = Literal["random", "key"]

_RENAMED = {
    "model.embed_tokens.": "model.embeddings.",
    ".self_attn.": ".attn.",
    ".input_layernorm.": ".attn_norm.",
    ".post_attention_layernorm.": ".mlp_norm.",
}
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
_LONGEST_FRONT = 1 << 16


@dataclass(frozen=True)
class Conversion:
    """What became of a transformer's weights. As a text it says so in a few lines.

    Attributes:
        source: The transformer's name.
        copied: Parameters that are the source's bit for bit, by name, with how many numbers each has.
        derived: Those made of the source's: pooled, repeated, or with another number of tokens.
        fresh: Those that are untrained.
        dropped: What the source has and the model has not, in words.
        vocabulary: Tokens of the source and of the model. Where they differ the first ones are common to both.
    """

    source: str
    copied: Mapping[str, int]
    derived: Mapping[str, int]
    fresh: Mapping[str, int]
    dropped: tuple[str, ...]
    vocabulary: tuple[int, int]

    @property
    def parameters(self) -> int:
        """Numbers in the model; tied ones count once."""
        return sum(sum(part.values()) for part in (self.copied, self.derived, self.fresh))

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.parameters:,} parameters in the converted model"]
        parts = {"copied bit for bit": self.copied, "made of the source's": self.derived, "untrained": self.fresh}
        lines += [f"{sum(part.values()):,} {words}{_kinds(part)}" for words, part in parts.items() if part]
        before, after = self.vocabulary
        if before != after:
            lines.append(f"vocabulary: {before:,} tokens became {after:,}; the first {min(before, after):,} are kept")
        return "\n".join([*lines, f"dropped: {', '.join(self.dropped)}"])


def _kinds(names: Mapping[str, int]) -> str:
    """Which parameters these are, the layers' numbers left out, where that is short."""
    kinds = list(dict.fromkeys(re.sub(r".*layers\.\d+\.|^model\.", "", name) for name in names))
    return f": {', '.join(kinds)}" if len(kinds) <= 5 else ""


def from_transformer(
    source: nn.Module | Path | str,
    num_slots: int = 64,
    *,
    mixer: Literal["gsa", "gla"] = "gsa",
    gate_init: GateInit = "random",
    gate_logit_normalizer: int = 8,
    vocab_size: int | None = None,
    seed: int = 0,
) -> tuple[GSAForCausalLM, Conversion]:
    """A model of Gated Slot Attention with the weights of a transformer.

    Weights keep their dtype. Those of a model object are copies; those of a folder stay on disk until they are used.

    Args:
        source: A LlamaForCausalLM or MistralForCausalLM of transformers, a folder of one, or its name on the Hub.
        num_slots: Slots M of each key-value head.
        mixer: `gla` is what Gated Slot Attention is compared with. Its queries and keys have half the size, so that
            neighbouring rows of the source's are averaged, and it has no groups of heads, so that the rows of keys and
            values are repeated for each query head. Its gates and output gates are fresh.
        gate_init: Of the gates' projection: `random`, normal with deviation 0.02, or `key`, the rows of the head's
            key projection averaged to M (after Liger, arXiv 2503.01496); M is at most the size of a head then.
        gate_logit_normalizer: As in GSAConfig.
        vocab_size: Tokens of the model; those of the source if None. More get fresh embeddings, fewer are cut off.
        seed: Of what is fresh. The caller's random state is left alone.

    Returns:
        The model, in evaluation mode, and what became of the weights.

    Raises InputError for a source that cannot be converted, and options that do not fit it.
    """
    if mixer not in ("gsa", "gla"):
        raise InputError(f"mixer {mixer!r} is not what a transformer is converted to; choose gsa or gla")
    for name, size in (("num_slots", num_slots), ("vocab_size", vocab_size)):
        if size is not None and (not isinstance(size, int) or size < 1):
            raise InputError(f"{name} is {size!r}; it must be a whole number, at least 1")
    given = read_pretrained(source)
    _check_gates(gate_init, mixer, num_slots, given.config.head_dim)
    config = _config(given, num_slots, mixer, gate_logit_normalizer, vocab_size)
    with torch.device("meta"):
        model = GSAForCausalLM(config)
    made = _Weights(given, config, gate_init, torch.Generator().manual_seed(seed), isinstance(source, nn.Module))
    state = made.all()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embeddings.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval(), made.conversion()


def _check_gates(gate_init: str, mixer: str, num_slots: int, head_size: int) -> None:
    if gate_init not in ("random", "key"):
        raise InputError(f"gate_init {gate_init!r} is not known; choose random or key")
    if gate_init == "key" and mixer != "gsa":
        raise InputError("gate_init 'key' goes with mixer 'gsa'; gates of other mixers are fresh")
    if gate_init == "key" and num_slots > head_size:  # slots with the same gates would stay the same for ever
        raise InputError(
            f"num_slots is {num_slots}, more than the {head_size} keys of a head that gate_init 'key' makes gates of; "
            "choose fewer, or gate_init 'random'"
        )


def _config(given: Pretrained, num_slots: int, mixer: str, normalizer: int, vocab_size: int | None) -> GSAConfig:
    old = given.config
    tokens = vocab_size or old.vocab_size
    special = {name: getattr(old, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, number in special.items():
        if max(number if isinstance(number, list) else [number or 0], default=0) >= tokens:
            raise InputError(f"{given.name}: {name} is {number}, outside a vocabulary of {tokens}; raise vocab_size")
    return GSAConfig(
        vocab_size=tokens,
        hidden_size=old.hidden_size,
        num_hidden_layers=old.num_hidden_layers,
        num_heads=old.num_attention_heads,
        num_kv_heads=old.num_key_value_heads,
        num_slots=num_slots,
        mixer=mixer,
        intermediate_size=old.intermediate_size,
        gate_logit_normalizer=normalizer,
        norm_eps=old.rms_norm_eps,
        tie_word_embeddings=given.is_tied,
        dtype=given.weights["model.embed_tokens.weight"].dtype,
        architectures=["GSAForCausalLM"],
        **special,
    )


class _Weights:
    """The converted model's weights, sorted by where they come from."""

    def __init__(
        self, given: Pretrained, config: GSAConfig, gate_init: str, generator: torch.Generator, must_copy: bool
    ) -> None:
        self.given, self.config, self.generator = given, config, generator
        self.copied = {_rename(name): x.detach().clone() if must_copy else x for name, x in given.weights.items()}
        self.derived: dict[str, Tensor] = {}
        self.fresh: dict[str, Tensor] = {}
        for number in range(config.num_hidden_layers):
            attention = f"model.layers.{number}.attn."
            if config.mixer == "gla":
                self._convert_gla(attention)
            else:
                self._convert_gsa(attention, gate_init)
        if config.vocab_size != given.config.vocab_size:
            for name in ("model.embeddings.weight", "lm_head.weight"):
                if name in self.copied:
                    self.derived[name] = self._resize(self.copied.pop(name))

    def all(self) -> dict[str, Tensor]:
        """All of them by name."""
        return self.copied | self.derived | self.fresh

    def conversion(self) -> Conversion:
        """What became of the source's weights."""
        copied, derived, fresh = (
            {name: x.numel() for name, x in part.items()} for part in (self.copied, self.derived, self.fresh)
        )
        dropped = ["rotary positions"]
        if window := getattr(self.given.config, "sliding_window", None):
            dropped.append(f"the sliding window of {window:,} tokens")
        vocabulary = (self.given.config.vocab_size, self.config.vocab_size)
        return Conversion(self.given.name, copied, derived, fresh, tuple(dropped), vocabulary)

    def _convert_gsa(self, attention: str, gate_init: str) -> None:
        config, gates = self.config, f"{attention}f_proj.weight"
        keys = self.copied[f"{attention}k_proj.weight"]
        if gate_init == "key":
            self.derived[gates] = _pool(keys, config.num_kv_heads, config.num_slots)
        else:
            self.fresh[gates] = self._normal((config.num_kv_heads * config.num_slots, config.hidden_size), keys)
        self.fresh[f"{attention}g_norm.weight"] = keys.new_ones(config.hidden_size)

    def _convert_gla(self, attention: str) -> None:
        heads, width = self.config.num_heads, self.config.hidden_size
        size, group = width // heads, heads // self.config.num_kv_heads
        for name in ("q_proj", "k_proj"):
            x = self.copied.pop(f"{attention}{name}.weight")
            x = x if name == "q_proj" else _repeat(x, size, group)
            self.derived[f"{attention}{name}.weight"] = _pool(x, heads, size // 2)
        if group > 1:
            values = f"{attention}v_proj.weight"
            self.derived[values] = _repeat(self.copied.pop(values), size, group)
        like = self.copied[f"{attention}o_proj.weight"]
        self.fresh |= {
            f"{attention}g_proj.weight": self._normal((width, width), like),
            f"{attention}gk_proj.0.weight": self._normal((16, width), like),
            f"{attention}gk_proj.1.weight": self._normal((width // 2, 16), like),
            f"{attention}gk_proj.1.bias": like.new_zeros(width // 2),
            f"{attention}g_norm.weight": like.new_ones(size),
        }

    def _normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * self.config.initializer_range).to(like)

    def _resize(self, x_ND: Tensor) -> Tensor:
        more = self.config.vocab_size - len(x_ND)
        if more <= 0:
            return x_ND[: self.config.vocab_size].clone()
        return torch.cat([x_ND, self._normal((more, x_ND.shape[1]), x_ND)])


def _rename(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _pool(x: Tensor, heads: int, rows: int) -> Tensor:
    """The rows of each head averaged to fewer: (heads K, D) to (heads rows, D)."""
    columns = x.float().unflatten(0, (heads, -1)).mT
    return functional.adaptive_avg_pool1d(columns, rows).mT.flatten(0, 1).to(x.dtype).contiguous()


def _repeat(x: Tensor, size: int, group: int) -> Tensor:
    """The rows of each key-value head for every query head of its group."""
    return x.unflatten(0, (-1, size)).repeat_interleave(group, 0).flatten(0, 1)


# --- folders ---------------------------------------------------------------------------------------------------------


def convert_folder(
    source: Path | str, out: Path | str, num_slots: int = 64, *, license: str | None = None, **options: Any
) -> Conversion:
    """Convert a model folder into another, all or nothing, with the tokenizer and settings of generation.

    Args:
        source: A folder of a Llama or Mistral model, or its name on the Hub. Pickles are not read.
        out: Where the folder of the converted model is to lie; must not be there, or be empty.
        num_slots: As in from_transformer.
        license: Of the weights, as the Hub spells it; what the source's README.md says if None, else `unknown`.
        options: As in from_transformer.

    Raises InputError as from_transformer, and where `out` is there or cannot be written.
    """
    out = Path(out)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists, and is kept; choose another place")
    folder = find(source)
    model, conversion = from_transformer(source, num_slots, **options)
    card = _card(conversion, model.config, license or _licence(folder))
    try:
        with replace_folder(out) as partial:
            save_model(partial, model, model.config.to_dict(), card)
            for name in _COMPANIONS:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, partial / name)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from None
    return conversion


def _licence(folder: Path) -> str:
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            parts = file.read(_LONGEST_FRONT).split("---", 2)
    except OSError:
        return "unknown"
    found = _LICENCE.search(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return found[1] if found else "unknown"


def _card(conversion: Conversion, config: GSAConfig, license: str) -> ModelCard:
    method = "Gated Slot Attention" if config.mixer == "gsa" else "gated linear attention"
    return ModelCard(
        title=f"{conversion.source} with {method}",
        room="attention",
        summary=f"The weights of {conversion.source} in a model of {method}, which has a memory of constant size.\n\n"
        + "\n".join(f"- {line}" for line in str(conversion).splitlines()),
        data={f"training data of {conversion.source}": "see its model card"},
        metrics={},
        intended_use="To be fine-tuned on the loss of the next token, all parameters of it.",
        limits="Not fine-tuned yet: as it is, it predicts text badly. It inherits the limits of its source.",
        license=license,
    )
