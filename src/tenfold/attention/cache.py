"""What a model remembers between calls, in the way transformers' generation wants it."""

from collections.abc import Callable

import torch
from torch import Tensor

from tenfold.core.errors import InputError

__all__ = ["SlotCache"]


class SlotCache:
    """The state of every layer of a model, for a batch of sequences.

    With Gated Slot Attention its size does not depend on the number of tokens seen.

    Attributes:
        states: A dictionary of tensors for each layer, batch first; empty before the first token.
        tokens: Tokens seen, padding included.
    """

    is_compileable = False

    def __init__(self, layers: int) -> None:
        self.states: list[dict[str, Tensor]] = [{} for _ in range(layers)]
        self.tokens = 0

    @property
    def is_linear(self) -> list[bool]:
        """As transformers asks; where all is linear, generation would hand over old tokens again with the new ones."""
        return [False] * len(self.states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, padding included."""
        return self.tokens

    def check(self, layers: int, sequences: int) -> None:
        """Raise InputError for a cache of a model of other depth, or of another batch."""
        if len(self.states) != layers:
            raise InputError(f"the cache is of {len(self.states)} layers, the model has {layers}")
        seen = next((len(x) for state in self.states for x in state.values()), sequences)
        if seen != sequences:
            raise InputError(f"the cache is of {seen} sequences, the input has {sequences}")

    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(x.numel() * x.element_size() for state in self.states for x in state.values())

    def reset(self) -> None:
        """Forget everything."""
        for state in self.states:
            state.clear()
        self.tokens = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence i becomes what sequence `beam_idx[i]` was, (B,) integers: for beam search."""
        self._each(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every sequence several times, one after the other."""
        self._each(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these sequences of the batch."""
        self._each(lambda x: x[indices])

    def detach(self) -> None:
        """Cut off gradients, as training on one stretch of a long text after the other wants it."""
        self._each(torch.Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        for state in self.states:
            for name, x in state.items():
                state[name] = change(x)
