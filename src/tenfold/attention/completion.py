"""Greedy completions of many prompts, each up to a line end.

Prompts of the same number of tokens go through the model together, so that nothing is padded: what a padded token does
to a recurrent state is one thing less to trust.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from tenfold.attention.losses import device_of, evaluating
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["complete_lines"]


def complete_lines(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_new_tokens: int = 48,
    batch_size: int = 8,
    progress: Progress = no_progress,
) -> list[str]:
    """What the model writes after each prompt, up to the first line end, eos, or `max_new_tokens`.

    Args:
        model: With `generate` of transformers.
        prompts: Token ids, at least one each.
        tokenizer: Whose ids they are.
        max_new_tokens: At least 1.
        batch_size: Prompts of one length at a time.
        progress: Called with "complete", the prompts done and all.

    Raises:
        InputError: A prompt is empty, or a number is below 1.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise InputError(f"{max_new_tokens} new tokens, {batch_size} prompts at a time: take 1 or more of both")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {number} is empty; there is nothing to complete")
    stops = _line_ends(tokenizer)
    settings = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": [*stops, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])] or None,
        "pad_token_id": tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    }
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    written, done = [""] * len(prompts), 0
    with evaluating(model):
        for _, same in groupby(order, lambda number: len(prompts[number])):
            numbers = list(same)
            for start in range(0, len(numbers), batch_size):
                batch = numbers[start : start + batch_size]
                ids = torch.tensor([list(prompts[number]) for number in batch], device=device_of(model))
                output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
                for number, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
                    written[number] = tokenizer.decode(row, skip_special_tokens=True).split("\n")[0]
                done += len(batch)
                progress("complete", done, len(prompts))
    return written


def _line_ends(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The tokens that hold a line end."""
    special = set(tokenizer.all_special_ids)
    return tuple(
        number for number in range(len(tokenizer)) if number not in special and "\n" in tokenizer.decode([number])
    )
