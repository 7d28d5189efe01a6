"""Writing text, token by token, in memory that does not grow with it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tenfold.attention.cache import SlotCache
from tenfold.attention.losses import device_of, evaluating
from tenfold.attention.model import GSAForCausalLM
from tenfold.core.errors import InputError

__all__ = ["generate_tokens", "stream_text"]

_SEEDS = 1 << 63
_PREFILL = 4096  # tokens of a prompt read at a time
_CONTEXT = 16  # tokens that are decoded before new ones
_LOWEST = torch.finfo(torch.float32).tiny  # temperatures below are 0 in float32
_LONGEST_CHARACTER = 8  # tokens that wait for the rest of a character at most


def generate_tokens(
    model: GSAForCausalLM,
    prompt: list[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Tokens one by one; what is kept between them is the state of the layers alone.

    Args:
        model: With any mixer; with softmax attention the state grows all the same.
        prompt: At least one token.
        max_new_tokens: How many at most; less where the model's eos comes.
        temperature: Divides the logits; 0 takes the most probable token.
        top_p: Draw only from the most probable tokens that together have this probability.
        seed: Of the draws.

    Raises:
        InputError: An empty prompt, a token that the model does not know, numbers out of range.
    """
    if not prompt:
        raise InputError("the prompt is empty; give at least one token")
    if max_new_tokens < 0 or not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise InputError(
            f"{max_new_tokens} tokens, temperature {temperature:g}, top_p {top_p:g}: need 0 or more, 0 or more, and a "
            "share above 0"
        )
    if not -_SEEDS <= seed < _SEEDS:
        raise InputError(f"seed is {seed}; take one of 64 bits")
    return _generate(model, prompt, max_new_tokens, temperature, top_p, torch.Generator().manual_seed(seed))


def _generate(
    model: GSAForCausalLM, prompt: list[int], most: int, temperature: float, top_p: float, generator: torch.Generator
) -> Iterator[int]:
    end = model.config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    cache, unread = SlotCache(model.config.num_hidden_layers), prompt
    for _ in range(most):
        token = _choose(_read(model, unread, cache), temperature, top_p, generator)
        if token in ends:
            return
        yield token
        unread = [token]


def stream_text(
    model: GSAForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """What follows on a prompt, in pieces of whole characters. See `generate_tokens`.

    An empty prompt begins with the tokenizer's bos.
    """
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    tokens = generate_tokens(model, ids, max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    return _whole_characters(tokens, tokenizer, ids[-_CONTEXT:])


def _whole_characters(tokens: Iterator[int], tokenizer: PreTrainedTokenizerFast, context: list[int]) -> Iterator[str]:
    """Decode tokens behind those before them: alone, many tokenizers would drop the space that a word begins with."""
    before, held = _decode(tokenizer, context), list[int]()
    for token in tokens:
        held.append(token)
        text = _decode(tokenizer, context + held)
        if len(text) > len(before) and (not text.endswith("\ufffd") or len(held) > _LONGEST_CHARACTER):
            yield text[len(before) :]
            context, held = (context + held)[-_CONTEXT:], []
            before = _decode(tokenizer, context)
    if held:
        yield _decode(tokenizer, context + held)[len(before) :]


def _decode(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text


def _read(model: GSAForCausalLM, tokens: list[int], cache: SlotCache) -> Tensor:
    """Logits after the last of these tokens (N,), which the cache has seen then.

    Modes of torch are set here and not around the loop: what a generator sets holds for its caller too.
    """
    with evaluating(model):
        for piece_1T in torch.tensor([tokens], device=device_of(model)).split(_PREFILL, 1):
            output = model(piece_1T, cache=cache, use_cache=True, logits_to_keep=1)
        logits_N: Tensor = output.logits[0, -1].float().cpu()
    return logits_N


def _choose(logits_N: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_N.argmax())
    scaled_N = (logits_N - logits_N.max()) / max(temperature, _LOWEST)  # at most 0: the quotients may not overflow
    p_N, order_N = torch.softmax(scaled_N, -1).sort(descending=True)
    if top_p < 1:
        p_N = p_N.masked_fill(p_N.cumsum(0) - p_N >= top_p, 0)
    return int(order_N[torch.multinomial(p_N, 1, generator=generator)])
