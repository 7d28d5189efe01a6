"""A pretrained transformer of the Llama family: which of them can be converted, and what lies in them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, MistralConfig

from tenfold.core.artifacts import find, load_weights
from tenfold.core.errors import InputError

__all__ = ["Pretrained", "read_pretrained"]

_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig}
_FOREIGN = {
    "gemma": "its embeddings are scaled and its norms shifted",
    "gsa": "it is what a conversion gives",
    "mixtral": "it is a mixture of experts",
    "qwen2": "it has biases in attention",
    "qwen3": "it has norms of queries and keys",
}
_STRANGE = {
    r"\.lora_|\.base_layer\.": "adapters: merge them into the model first",
    r"\.bias$": "biases",
    r"\.[qk]_norm\.": "norms of queries and keys",
    r"\.experts\.|\.block_sparse_moe\.": "a mixture of experts",
}
_ROTARY = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # in checkpoints of old
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Pretrained:
    """A transformer that can be converted.

    Attributes:
        name: Its folder's name, its name on the Hub, or its class.
        config: A LlamaConfig or MistralConfig without what a conversion has no place for.
        weights: By their names in transformers, all there and in the config's shapes; without the output layer where
            it is tied to the embeddings.
    """

    name: str
    config: Any
    weights: Mapping[str, Tensor]

    @property
    def is_tied(self) -> bool:
        """Whether the embeddings are the output's weights too."""
        return _HEAD not in self.weights


def read_pretrained(source: nn.Module | Path | str) -> Pretrained:
    """Look at a transformer; nothing is copied, and a folder's weights stay on disk until they are used.

    Args:
        source: A LlamaForCausalLM or MistralForCausalLM, a folder of one (safetensors, in one file or in shards), or
            its name on the Hub.

    Raises InputError for models of other types, for variants that Gated Slot Attention has no place for (biases, norms
    of queries and keys, heads that do not make up the width, experts, layers of several kinds, other activations), and
    for folders that are incomplete or damaged.
    """
    if isinstance(source, nn.Module):
        config: Any = getattr(source, "config", None)
        name, weights = type(source).__name__, source.state_dict()
        _check_type(name, getattr(config, "model_type", None))
    else:
        settings, weights = load_weights(source)
        name = Path(find(source)).resolve().name if Path(source).expanduser().is_dir() else str(source)
        _check_type(name, settings.get("model_type"))
        config = _parse(name, settings)
    _check_config(name, config)
    weights = {key: x for key, x in weights.items() if not _ROTARY.fullmatch(key)}
    if config.tie_word_embeddings and _EMBEDDINGS in weights and _is_same(weights.get(_HEAD), weights[_EMBEDDINGS]):
        weights.pop(_HEAD, None)
    _check_weights(name, config, weights)
    return Pretrained(name, config, weights)


def _is_same(head: Tensor | None, embeddings: Tensor) -> bool:
    """Whether an output layer is that of the embeddings; where both are stored and differ, they are not tied."""
    if head is None or head.data_ptr() == embeddings.data_ptr():
        return True
    return bool(head.dtype == embeddings.dtype and torch.equal(head, embeddings))


def _check_type(name: str, kind: object) -> None:
    if not isinstance(kind, str) or kind not in _CONFIGS:
        why = f": {_FOREIGN[kind]}" if isinstance(kind, str) and kind in _FOREIGN else ""
        raise InputError(f"{name}: is a model of type {kind!r}{why}; only {' and '.join(_CONFIGS)} can be converted")


def _parse(name: str, settings: dict[str, Any]) -> Any:
    try:
        return _CONFIGS[settings["model_type"]].from_dict(settings)
    except Exception as error:  # the config's own checks raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: config.json cannot be used ({reason}); mend it or fetch it again") from None


def _check_config(name: str, config: Any) -> None:
    heads, shared, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    width, kinds = config.hidden_size, set(getattr(config, "layer_types", None) or ())
    sizes = (heads, shared, size, width, config.intermediate_size, config.num_hidden_layers, config.vocab_size)
    faults = {
        f"has a size below 1 in its config: {sizes}": min(sizes) < 1,
        "has biases in attention (attention_bias)": getattr(config, "attention_bias", False),
        "has biases in its feed-forward layers (mlp_bias)": getattr(config, "mlp_bias", False),
        "is a mixture of experts": bool(getattr(config, "num_local_experts", 0) or getattr(config, "num_experts", 0)),
        f"has layers of several kinds ({', '.join(sorted(map(str, kinds)))})": len(kinds) > 1,
        f"uses {config.hidden_act!r} in its feed-forward layers, not silu": config.hidden_act not in ("silu", "swish"),
        f"has heads of odd size, {size}": size % 2 == 1,
        f"has {heads} heads of {size} numbers, which do not make up its width, {width}": heads * size != width,
        f"has {heads} query heads, no multiple of its {shared} key-value heads": heads % max(shared, 1) != 0,
        "is quantised": getattr(config, "quantization_config", None) is not None,
    }
    for fault, is_there in faults.items():
        if is_there:
            raise InputError(f"{name}: {fault}; such a model cannot be converted")


def _check_weights(name: str, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are strange, missing, or of another shape than the config says."""
    if _EMBEDDINGS not in weights:
        raise InputError(f"{name}: misses {_EMBEDDINGS}; a whole model with its output layer is needed")
    deepest = max((int(m[1]) for key in weights if (m := re.match(r"model\.layers\.(\d{1,6})\.", key))), default=-1)
    if deepest + 1 != config.num_hidden_layers:  # before anything is as large as a file says
        raise InputError(
            f"{name}: has weights of {deepest + 1} layers, its config says {config.num_hidden_layers}; fetch it again"
        )
    wanted = _shapes(config)
    unknown = [key for key in weights if key not in wanted]
    for pattern, words in _STRANGE.items():
        if found := next((key for key in unknown if re.search(pattern, key)), None):
            raise InputError(f"{name}: has {words} ({found}); such a model cannot be converted")
    if unknown:
        raise InputError(f"{name}: has {unknown[0]}, which no {config.model_type} has; it cannot be converted")
    for key, shape in wanted.items():
        if key not in weights:
            if key == _HEAD and config.tie_word_embeddings:
                continue
            raise InputError(f"{name}: misses {key}; a whole model with its output layer is needed")
        if tuple(weights[key].shape) != shape:
            raise InputError(f"{name}: {key} is {tuple(weights[key].shape)}, its config says {shape}; fetch it again")
        if weights[key].dtype not in _DTYPES or weights[key].is_meta:
            kind = "no values here" if weights[key].is_meta else f"numbers of type {weights[key].dtype}"
            raise InputError(f"{name}: {key} has {kind}; load the model whole and as floating-point numbers")


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    width, inner = config.hidden_size, config.intermediate_size
    narrow = config.num_key_value_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (narrow, width),
        "self_attn.v_proj": (narrow, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    layers = {
        f"model.layers.{number}.{part}.weight": shape
        for number in range(config.num_hidden_layers)
        for part, shape in layer.items()
    }
    table = (config.vocab_size, width)
    return {_EMBEDDINGS: table, **layers, "model.norm.weight": (width,), _HEAD: table}
