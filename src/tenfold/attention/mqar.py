"""Multi-query associative recall: does a model find the value that it saw beside a key?

The task of Zoology (Arora et al. 2023, arXiv 2312.04927, section 4 and appendix):

    input    k1 v1 k2 v2 .. kP vP  ?  ?  k2 ?  ?  ?  k1 ? ..
    label    .  .  .  .  .. .  .   .  .  v2 .  .  .  v1 . ..

Every key comes once more after the context, at offset 2g. The gaps g of an example differ and are drawn one after the
other with probability proportional to a (g + 1)^(a - 1): for a = 0.01 most keys come again soon, as bigrams of real
texts do; a = 1 is uniform.
"""

from typing import Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from tenfold.core.errors import InputError

__all__ = ["IGNORED", "MQAR"]

Filler = Literal["random", "zeros"]

IGNORED = -100
"""The label of positions that are not scored."""

_AT_ONCE = 1 << 22  # random numbers drawn at a time; part of what a seed means


class MQAR(Dataset):
    """Examples of the task: `input_ids` and `labels`, int64 (length,); `labels[t]` is what `logits[t]` is to predict.

    Keys are drawn from 1 .. vocab/2 - 1, values from vocab/2 .. vocab - 1, both without repetition in an example;
    the rest of `input_ids` is `filler`. Labels elsewhere are -100. Held in memory, 2 bytes a token, or 4 for
    vocabularies above 65,536.

    Args:
        samples: Number of examples.
        length: Of an example, even.
        pairs: Keys with their values; 4 * pairs <= length.
        vocab: Even; it holds `pairs` different keys and values. Zoology takes 8,192.
        seed: The same arguments give the same examples.
        power_a: The a of the law of gaps, above 0.
        filler: Between queries, `random` tokens of the whole vocabulary, which may pass for keys and values, or
            `zeros`, as in Zoology's own experiments: a token that is neither. Much easier for a bounded memory.
        test: Draw from another stream of random numbers, so that no seed of training gives the examples of the test.

    Raises:
        InputError: Numbers that do not fit.
    """

    def __init__(
        self,
        samples: int,
        length: int,
        pairs: int,
        vocab: int = 8192,
        seed: int = 0,
        power_a: float = 0.01,
        filler: Filler = "random",
        *,
        test: bool = False,
    ) -> None:
        _check(samples, length, pairs, vocab, seed, power_a)
        if filler not in get_args(Filler):
            raise InputError(f"filler '{filler}' is not known; choose random or zeros")
        self.filler = filler
        self.samples, self.length, self.pairs, self.vocab, self.power_a = samples, length, pairs, vocab, power_a
        rng = np.random.default_rng([seed, int(test)])
        kind = np.uint16 if vocab <= 1 << 16 else np.uint32
        self.inputs = np.empty((samples, length), kind)
        self.query_at = np.empty((samples, pairs), np.int32)
        for start in range(0, samples, rows := max(1, _AT_ONCE // max(vocab, length))):
            part = slice(start, min(samples, start + rows))
            self.inputs[part], self.query_at[part] = self._draw(rng, part.stop - part.start)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs = torch.from_numpy(self.inputs[index].astype(np.int64))
        labels = torch.full((self.length,), IGNORED)
        labels[torch.from_numpy(self.query_at[index].astype(np.int64))] = inputs[1 : 2 * self.pairs : 2]
        return {"input_ids": inputs, "labels": labels}

    def _draw(self, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """`rows` examples (rows, length) and where each key comes again (rows, pairs)."""
        context, half = 2 * self.pairs, self.vocab // 2
        inputs = rng.integers(self.vocab, size=(rows, self.length))
        keys = 1 + _first(rng.random((rows, half - 1)), self.pairs)
        inputs[:, 0:context:2] = keys
        inputs[:, 1:context:2] = half + _first(rng.random((rows, half)), self.pairs)
        # Exponential times with rate w come in the order of draws without replacement with probability ~ w.
        places = (self.length - context) // 2
        weights = np.arange(1, places + 1) ** (self.power_a - 1)
        query_at = context + 2 * _first(rng.standard_exponential((rows, places)) / weights, self.pairs)
        if self.filler == "zeros":
            inputs[:, context:] = 0
        np.put_along_axis(inputs, query_at, keys, axis=1)
        return inputs, query_at


def _first(times: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` smallest of each row, smallest first."""
    near = np.argpartition(times, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(times, near, axis=1), axis=1)
    return np.take_along_axis(near, order, axis=1)


def _check(samples: int, length: int, pairs: int, vocab: int, seed: int, power_a: float) -> None:
    if samples < 1 or pairs < 1 or seed < 0:
        raise InputError(
            f"{samples} samples of {pairs} pairs, seed {seed}: need 1 or more of both, and a seed from 0 on"
        )
    if length % 2 or 4 * pairs > length:
        raise InputError(
            f"a length of {length} does not hold {pairs} pairs and their queries; take an even length >= {4 * pairs}"
        )
    if vocab % 2 or vocab // 2 - 1 < pairs:
        raise InputError(
            f"a vocabulary of {vocab} does not hold {pairs} keys and values; take an even one >= {2 * pairs + 2}"
        )
    if not power_a > 0:
        raise InputError(f"power_a is {power_a:g}; take more than 0, as 0.01")
