"""The language model of Gated Slot Attention in the conventions of transformers.

Shapes: B batch, T time, D width, N vocabulary.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, ModelOutput

from tenfold.attention.cache import SlotCache
from tenfold.attention.checkpoints import check_depth, fit, open_checkpoint
from tenfold.attention.checks import check_starts
from tenfold.attention.layers import MIXERS, MixerConfig, State
from tenfold.core.errors import InputError

__all__ = ["GSAConfig", "GSAForCausalLM", "GSAModel", "GSAOutput"]

_UNREAD = ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k")  # by which other models know packed sequences


class GSAConfig(PreTrainedConfig):
    """What a model is made of; the names are those of the published configs.

    Args:
        vocab_size: Tokens N.
        hidden_size: Width D.
        num_hidden_layers: Blocks.
        num_heads: Query heads Q of each layer.
        num_kv_heads: Key-value heads, a divisor of Q; Q if None. Of `gsa`, `abc` and `softmax`; others have Q.
        num_slots: Memory slots of each key-value head; D / Q if None.
        mixer: `gsa`, or what it is compared with: `abc`, `gla`, `retnet`, `softmax`.
        intermediate_size: Width of the feed-forward layers; `hidden_ratio` 2/3 D, rounded up to 256, if None.
        hidden_ratio: See intermediate_size.
        feature_map: Of queries and keys: `swish`, `relu`, `t2r`, `identity`.
        gate_logit_normalizer: Damps the forget gates of `gsa`, sigmoid(f)^(1 / this).
        use_short_conv: A causal convolution for queries, keys and values.
        conv_size: Its tokens.
        elementwise_affine: The norm before the output of each mixer has weights; all others always have.
        norm_eps: Of the norms between layers; the one before a mixer's output has 1e-5, as the published code.
        rope_theta: Base of rotary positions (softmax, retnet).
        initializer_range: Deviation of initial weights.
        use_cache: Outside training, give a cache for the next call.
        tie_word_embeddings: Embeddings are the output's weights too.
        expand_k: Must be 1.
        expand_v: Must be 1.
        bos_token_id: Begins texts.
        eos_token_id: Ends them, and generation.
        pad_token_id: Fills batches.
        **others: Settings of transformers; those that published configs hold and no code reads are kept and ignored.

    Raises InputError for what does not fit together, and for published options that change the method and are not
    there: hybrid layers (`attn`), rotary positions in GSA (`use_rope`) and others that `others` may hold.
    """

    model_type = "gsa"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]

    def __init__(
        self,
        vocab_size: int = 32_000,
        hidden_size: int = 2048,
        num_hidden_layers: int = 24,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        num_slots: int | None = 64,
        mixer: str = "gsa",
        intermediate_size: int | None = None,
        hidden_ratio: int | None = 4,
        feature_map: str = "swish",
        gate_logit_normalizer: int = 8,
        use_short_conv: bool = False,
        conv_size: int = 4,
        elementwise_affine: bool | None = True,
        norm_eps: float = 1e-6,
        rope_theta: float = 10_000.0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        expand_k: float = 1,
        expand_v: float = 1,
        bos_token_id: int | None = 1,
        eos_token_id: int | None = 2,
        pad_token_id: int | None = None,
        **others: Any,
    ) -> None:
        if mixer not in [*MIXERS]:
            raise InputError(f"mixer '{mixer}' is not known; choose {', '.join(MIXERS)}")
        sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers}
        _check_sizes(sizes | {"num_heads": num_heads, "gate_logit_normalizer": gate_logit_normalizer})
        optional = {"num_kv_heads": num_kv_heads, "num_slots": num_slots, "intermediate_size": intermediate_size}
        _check_sizes({name: size for name, size in optional.items() if size is not None})
        _check_numbers({"norm_eps": norm_eps, "rope_theta": rope_theta, "hidden_ratio": hidden_ratio or 4})
        tokens = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        _check_tokens(tokens, vocab_size)
        _check_foreign(others | {"expand_k": expand_k, "expand_v": expand_v}, mixer)
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.num_slots = num_slots or hidden_size // num_heads
        self.mixer, self.feature_map, self.gate_logit_normalizer = mixer, feature_map, gate_logit_normalizer
        self.hidden_ratio = hidden_ratio or 4
        rounded = -(-int(hidden_size * self.hidden_ratio * 2 / 3) // 256) * 256
        self.intermediate_size = intermediate_size or rounded
        self.use_short_conv, self.conv_size = use_short_conv, conv_size
        self.elementwise_affine, self.norm_eps = bool(elementwise_affine), norm_eps
        self.rope_theta, self.initializer_range = rope_theta, initializer_range
        self.expand_k, self.expand_v, self.use_cache = expand_k, expand_v, use_cache
        self.of_mixer()
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **others,
        )

    def of_mixer(self) -> MixerConfig:
        """The settings of each layer's mixer."""
        return MixerConfig(
            **{field.name: getattr(self, field.name) for field in fields(MixerConfig) if hasattr(self, field.name)}
        )


def _check_sizes(sizes: dict[str, Any]) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"{name} is {size!r}; it must be a whole number, at least 1")


def _check_numbers(numbers: dict[str, Any]) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int | float) or not 0 < number < math.inf:
            raise InputError(f"{name} is {number!r}; it must be a number above 0")


def _check_tokens(tokens: dict[str, Any], vocab_size: int) -> None:
    for name, given in tokens.items():
        for token in given if isinstance(given, list) else [given]:
            if token is not None and not isinstance(token, int):
                raise InputError(f"{name} is {given!r}; it must be a whole number, or none")
    if (tokens["pad_token_id"] or 0) >= vocab_size:
        raise InputError(f"pad_token_id is {tokens['pad_token_id']}; the vocabulary has {vocab_size} tokens")


def _check_foreign(settings: dict[str, Any], mixer: str) -> None:
    """Published settings that would change what a model computes, and that the layers here do not have."""
    for name in ("expand_k", "expand_v", "exapnd_k", "exapnd_v"):  # the published code misspells them
        if settings.get(name, 1) != 1:
            raise InputError(f"the config has {name} {settings[name]}; only 1 is supported")
    for name, what in (("attn", "layers of softmax attention"), ("attnres_block_size", "attention over layers")):
        if settings.get(name) is not None:
            raise InputError(f"the config has {name}, {what}; this is not supported")
    if settings.get("use_rope") and mixer in ("gsa", "abc"):
        raise InputError("the config has use_rope, rotary positions in GSA; this is not supported")
    if settings.get("hidden_act") not in (None, "swish", "silu"):
        raise InputError(f"the config has hidden_act '{settings['hidden_act']}'; only swish is supported")


@dataclass
class GSAOutput(ModelOutput):
    """What a model gives.

    Attributes:
        loss: Mean cross-entropy of the labels, in nats; None without labels.
        logits: (B, T, N); None from GSAModel.
        last_hidden_state: (B, T, D) behind the last norm.
        cache: What the model remembers, for the next call; None without use_cache.
        hidden_states: Of every block's beginning, and the last, if asked for.
        attentions: None, for tokens are weighted by no matrix here; generation looks for it.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    cache: SlotCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: None = None

    @property
    def past_key_values(self) -> SlotCache | None:
        """The cache under the name it has in older code."""
        return self.cache


class FeedForward(nn.Module):
    """SwiGLU: W_down (swish(W_gate x) * W_up x)."""

    def __init__(self, config: GSAConfig) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(config.hidden_size, config.intermediate_size, bias=False) for _ in range(2)
        )
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Same shape as given."""
        down: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return down


class Block(nn.Module):
    """A mixer and a feed-forward layer, each behind a norm and beside a residual path."""

    def __init__(self, config: GSAConfig) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm = (nn.RMSNorm(config.hidden_size, eps=config.norm_eps) for _ in range(2))
        self.attn = MIXERS[config.mixer](config.of_mixer())
        self.mlp = FeedForward(config)

    def forward(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        """Same shape as given."""
        x_BTD = x_BTD + self.attn(self.attn_norm(x_BTD), mask_BT, state, cu_seqlens)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """InputError that names the file whatever fails: values of the wrong kind fail in many ways."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file}: cannot be used ({type(error).__name__}: {reason}); mend it, or fetch it again"
        ) from None


class GSAPreTrainedModel(PreTrainedModel):
    """How models are made, loaded and saved."""

    config_class = GSAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.RMSNorm) and module.weight is not None:
            nn.init.ones_(module.weight)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: Any = None,
        state_dict: Any = None,
        revision: str | None = None,
        **options: Any,
    ) -> Any:
        """A saved or published model: a folder, or the name of one on the Hub; options as in transformers.

        Both layouts of published checkpoints are read. Raises InputError for weights that are missing, left over or of
        another shape, naming them, and for damaged files.
        """
        name = pretrained_model_name_or_path
        if name is None or state_dict is not None:
            return super().from_pretrained(name, *args, config=config, state_dict=state_dict, **options)
        for unread in ("subfolder", "variant", "gguf_file"):
            if options.pop(unread, None):
                raise InputError(f"{name}: {unread} is not supported; give the folder that holds model.safetensors")
        folder, settings, state = open_checkpoint(name, revision)
        known = inspect.signature(cls.config_class).parameters
        changes = {key: options.pop(key) for key in list(options) if key in known} if config is None else {}
        with _told_of(folder / CONFIG_NAME), torch.device("meta"):
            config = cls.config_class(**settings | changes) if config is None else config
            check_depth(state, config.num_hidden_layers, folder)
            model = cls(config)
        state = fit(state, model, folder)
        if options.get("dtype", options.get("torch_dtype")) in (None, "auto"):
            options["dtype"] = next(iter(state.values())).dtype
        loaded = super().from_pretrained(None, *args, config=config, state_dict=state, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = str(name)
        if model.can_generate() and (folder / GENERATION_CONFIG_NAME).exists():
            with _told_of(folder / GENERATION_CONFIG_NAME):
                model.generation_config = GenerationConfig.from_pretrained(folder)
        return loaded

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # generation lets the model make its own cache


class GSAModel(GSAPreTrainedModel):
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: GSAConfig) -> None:
        super().__init__(config)
        padding = config.pad_token_id
        padding = None if padding is None or padding < 0 else padding  # -1 is none, and to torch the last token
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of tokens."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of tokens."""
        self.embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: SlotCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        output_hidden_states: bool | None = None,
        past_key_values: SlotCache | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> GSAOutput | tuple[Any, ...]:
        """Tokens to hidden states.

        Args:
            input_ids: (B, T) numbers of tokens.
            attention_mask: (B, T), or that of all tokens so far, (B, S): 0 for padding, wherever it stands.
            cache: What the model remembers of earlier tokens; is brought up to date.
            inputs_embeds: (B, T, D) instead of input_ids.
            use_cache: Return a cache for the next call; by default outside training, if the config says so.
            cu_seqlens: Where packed sequences begin, and T; B is 1 then, without mask and cache.
            output_hidden_states: Return what goes into every block too.
            past_key_values: The cache under its older name.
            return_dict: False returns a tuple.
            others: What other models take and this one has no use for, such as token_type_ids, is passed over.

        Raises InputError for tokens that the vocabulary does not have (on a CPU; a GPU would have to wait for it), for
        shapes that do not fit, and for position_ids: positions follow from attention_mask and cu_seqlens.
        """
        for name in _UNREAD:
            if others.get(name) is not None:
                raise InputError(f"{name} is not read here; say with cu_seqlens where packed sequences begin")
        cache = cache if cache is not None else past_key_values
        x_BTD = self._embed(input_ids, inputs_embeds)
        use_cache = (self.config.use_cache and not self.training) if use_cache is None else use_cache
        if cache is None and use_cache and cu_seqlens is None:
            cache = SlotCache(self.config.num_hidden_layers)
        if cu_seqlens is not None and (attention_mask is not None or cache is not None):
            raise InputError("cu_seqlens goes without attention_mask and cache")
        if cache is not None:
            if not isinstance(cache, SlotCache):
                raise InputError(
                    f"the cache is a {type(cache).__name__}; give a SlotCache, or none for the model's own"
                )
            cache.check(len(self.layers), x_BTD.shape[0])
        starts = check_starts(cu_seqlens, x_BTD)
        mask_BT = _mask(attention_mask, x_BTD, cache.tokens if cache is not None else 0)
        hidden = []
        for number, layer in enumerate(self.layers):
            hidden.append(x_BTD)
            state = cache.states[number] if cache is not None else None
            if self.gradient_checkpointing and self.training and state is None:
                x_BTD = self._gradient_checkpointing_func(layer.__call__, x_BTD, mask_BT, None, starts)
            else:
                x_BTD = layer(x_BTD, mask_BT, state, starts)
        x_BTD = self.norm(x_BTD)
        if cache is not None:
            cache.tokens += x_BTD.shape[1]
        shown = (*hidden, x_BTD) if output_hidden_states or self.config.output_hidden_states else None
        output = GSAOutput(last_hidden_state=x_BTD, cache=cache if use_cache else None, hidden_states=shown)
        return output.to_tuple() if return_dict is False else output

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give input_ids or inputs_embeds, one of them")
        if inputs_embeds is not None:
            if (
                inputs_embeds.dim() != 3
                or inputs_embeds.shape[2] != self.config.hidden_size
                or not inputs_embeds.numel()
            ):
                wanted = f"(batch, time, {self.config.hidden_size}) of at least 1"
                raise InputError(f"inputs_embeds has shape {tuple(inputs_embeds.shape)}; {wanted} is needed")
            return inputs_embeds
        assert input_ids is not None
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise InputError(f"input_ids has shape {tuple(input_ids.shape)}; (batch, time) of at least 1 is needed")
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise InputError(f"input_ids is {input_ids.dtype}; give int64 or int32")
        if not torch.compiler.is_compiling() and not input_ids.is_cuda:
            largest, least = int(input_ids.max()), int(input_ids.min())
            if largest >= self.config.vocab_size or least < 0:
                wrong = largest if largest >= self.config.vocab_size else least
                raise InputError(f"input_ids holds {wrong}; the vocabulary has {self.config.vocab_size} tokens")
        x_BTD: Tensor = self.embeddings(input_ids)
        return x_BTD


def _mask(attention_mask: Tensor | None, x_BTD: Tensor, seen: int) -> Tensor | None:
    """True for tokens, (B, T), of a mask of these or of all so far; None where nothing is padding."""
    if attention_mask is None:
        return None
    batch, time = x_BTD.shape[:2]
    if attention_mask.shape not in ((batch, time), (batch, seen + time)):
        or_all = f", or with all tokens so far ({batch}, {seen + time})," if seen else ""
        raise InputError(f"attention_mask has shape {tuple(attention_mask.shape)}; ({batch}, {time}){or_all} is needed")
    mask_BT = attention_mask[:, attention_mask.shape[1] - time :].bool()
    return None if not torch.compiler.is_compiling() and bool(mask_BT.all()) else mask_BT


class GSAForCausalLM(GSAPreTrainedModel, GenerationMixin):
    """A language model: what comes next after each token.

    Loads the published checkpoints (`fla-hub/gsa-1.3B-100B` and its kin) in both their layouts, and generates as every
    model of transformers does; the cache has one size whatever the length.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: GSAConfig) -> None:
        super().__init__(config)
        self.model = GSAModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of tokens."""
        return self.model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of tokens."""
        self.model.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The layer that makes logits."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the layer that makes logits."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: SlotCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **options: Any,
    ) -> GSAOutput | tuple[Any, ...]:
        """Tokens to logits.

        Args:
            input_ids: (B, T) numbers of tokens.
            attention_mask: As in GSAModel.
            cache: As in GSAModel.
            inputs_embeds: (B, T, D) instead of input_ids.
            labels: (B, T): the tokens themselves (they are shifted here, as in transformers), -100 where none counts.
            logits_to_keep: Logits of the last tokens only, 0 is all; or of the tokens at these places, (n,) integers.
            return_dict: False returns a tuple.
            num_items_in_batch: Divide the sum of losses by this instead of taking the mean, as transformers' Trainer
                wants it where several batches make one step.
            options: As in GSAModel.

        Raises InputError as GSAModel.
        """
        inner = self.model(input_ids, attention_mask, cache, inputs_embeds, **options)
        x_BTD = inner.last_hidden_state
        is_number = isinstance(logits_to_keep, int)
        logits_BTN = self.lm_head(x_BTD[:, slice(-logits_to_keep, None) if is_number else logits_to_keep])
        loss = None
        if labels is not None:
            if not is_number or logits_to_keep:
                raise InputError("labels goes without logits_to_keep; give one of them")
            loss = self._loss(logits_BTN, labels, num_items_in_batch)
        output = GSAOutput(loss=loss, logits=logits_BTN, cache=inner.cache, hidden_states=inner.hidden_states)
        return output.to_tuple() if return_dict is False else output

    def _loss(self, logits_BTN: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        if labels.shape != logits_BTN.shape[:2]:
            raise InputError(f"labels has shape {tuple(labels.shape)}, the tokens {tuple(logits_BTN.shape[:2])}")
        if not torch.compiler.is_compiling() and not labels.is_cuda:
            wrong = labels[(labels >= self.config.vocab_size) | (labels < 0) & (labels != -100)]
            if wrong.numel():
                size = self.config.vocab_size
                raise InputError(
                    f"labels holds {int(wrong[0])}; the vocabulary has {size} tokens, and -100 does not count"
                )
        logits_XN, labels_X = logits_BTN[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        loss: Tensor = functional.cross_entropy(logits_XN, labels_X, reduction="mean" if items is None else "sum")
        return loss if items is None else loss / items

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: SlotCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = True,
        is_first_iteration: bool | None = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Only the last `next_sequence_length` tokens, those that the cache has not seen; all of them if None.

        Raises InputError where the cache has seen them all.
        """
        if next_sequence_length is not None and next_sequence_length < 1:
            seen = cache.get_seq_length() if cache is not None else 0
            raise InputError(
                f"input_ids has shape {tuple(input_ids.shape)}, but the cache has seen {seen} tokens; give all tokens, "
                "or the new ones and the attention_mask of all"
            )
        given: dict[str, Any] = {"cache": cache, "attention_mask": attention_mask, "use_cache": use_cache}
        new = slice(None if next_sequence_length is None else -next_sequence_length, None)
        if inputs_embeds is not None and is_first_iteration:
            return given | {"inputs_embeds": inputs_embeds[:, new]}
        return given | {"input_ids": input_ids[:, new].contiguous()}


AutoConfig.register("gsa", GSAConfig, exist_ok=True)
AutoModel.register(GSAConfig, GSAModel, exist_ok=True)
AutoModelForCausalLM.register(GSAConfig, GSAForCausalLM, exist_ok=True)
