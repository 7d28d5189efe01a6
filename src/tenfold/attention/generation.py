"""Writing text, token by token, in memory that does not grow with it."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tenfold.attention.losses import device_of, evaluating
from tenfold.attention.model import GSAForCausalLM
from tenfold.core.errors import InputError

__all__ = ["generate_tokens", "stream_text"]

_PREFILL = 4096  # tokens of a prompt read at a time


def generate_tokens(
    model: GSAForCausalLM,
    prompt: list[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Yield tokens one by one; what is kept between them is the state of the layers alone.

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
    if max_new_tokens < 0 or temperature < 0 or not 0 < top_p <= 1:
        raise InputError(
            f"{max_new_tokens} tokens, temperature {temperature:g}, top_p {top_p:g}: need 0 or more, 0 or more, and a "
            "share above 0"
        )
    end = model.config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    device = device_of(model)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        logits_N, cache = _read(model, torch.tensor([prompt], device=device))
        for _ in range(max_new_tokens):
            token = _choose(logits_N.float().cpu(), temperature, top_p, generator)
            if token in ends:
                return
            yield token
            output = model(torch.tensor([[token]], device=device), cache=cache, use_cache=True)
            logits_N = output.logits[0, -1]


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
    """Yield what follows on a prompt, in pieces of whole characters. See `generate_tokens`.

    An empty prompt begins with the tokenizer's bos.
    """
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    held: list[int] = []
    for token in generate_tokens(model, ids, max_new_tokens, temperature=temperature, top_p=top_p, seed=seed):
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=True)
        if text and (not text.endswith("\ufffd") or len(held) > 8):  # a character may take several tokens
            yield text
            held = []
    if held:
        yield tokenizer.decode(held, skip_special_tokens=True)


def _read(model: GSAForCausalLM, ids_1T: Tensor) -> tuple[Tensor, object]:
    """Logits after the last token of a prompt (N,), and the cache."""
    cache = None
    for piece_1T in ids_1T.split(_PREFILL, 1):
        output = model(piece_1T, cache=cache, use_cache=True, logits_to_keep=1)
        cache = output.cache
    return output.logits[0, -1], cache


def _choose(logits_N: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_N.argmax())
    p_N, order_N = torch.softmax(logits_N / temperature, -1).sort(descending=True)
    if top_p < 1:
        p_N = p_N.masked_fill(p_N.cumsum(0) - p_N >= top_p, 0)
    return int(order_N[torch.multinomial(p_N, 1, generator=generator)])
