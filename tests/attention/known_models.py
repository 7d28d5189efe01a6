"""Language models whose every probability is known, with the interface of transformers."""

from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


def tiny_llama(vocab: int = 300, seed: int = 0, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3, bos_token_id=None,
        eos_token_id=None, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


class Bigram(torch.nn.Module):
    """p(next | token) = table[token, next]: the loss of a text is a sum of logarithms."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(np.log(table)))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.table[input_ids])


class Induction(PreTrainedModel, GenerationMixin):
    """Predicts what came after the earlier place in the context whose last tokens agree longest with those here.

    It copies perfectly, as the ideal of an induction head: an answer that stands in the context behind the words of
    the prompt is found.
    """

    config_class = PretrainedConfig
    _supports_cache_class = False

    def __init__(self, vocab: int) -> None:
        config = PretrainedConfig(vocab_size=vocab)
        config.num_hidden_layers = 0
        super().__init__(config)
        self.vocab = vocab
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[tuple[int, int]] = []

    def _next(self, tokens: list[int]) -> int:
        last, best = len(tokens) - 1, (0, 0)
        for place in range(last):
            length = 0
            while length <= place and tokens[place - length] == tokens[last - length]:
                length += 1
            best = max(best, (length, place + 1))
        return tokens[best[1]] if best[0] else 0

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutputWithPast:
        self.batches.append(tuple(input_ids.shape))
        logits = torch.zeros(*input_ids.shape, self.vocab)
        for row, tokens in enumerate(input_ids.tolist()):
            logits[row, -1, self._next(tokens)] = 1.0
        return CausalLMOutputWithPast(logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any
    ) -> dict[str, Any]:
        assert attention_mask.all(), "nothing is padded"
        return {"input_ids": input_ids}
