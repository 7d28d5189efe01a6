"""Long documents: carried states and sliding windows against one pass, and against laws in closed form."""

import math

import numpy as np
import pytest
import torch
from known_models import Bigram, tiny_llama

from tenfold.attention.documents import document_losses, document_perplexity
from tenfold.attention.losses import token_losses
from tenfold.core.errors import InputError

RNG = np.random.default_rng(0)
TABLE = RNG.dirichlet(np.ones(11), 11)
TOKENS = RNG.integers(11, size=403).astype(np.uint16)
SURPRISES = -np.log(TABLE[TOKENS[:-1], TOKENS[1:]])  # of tokens 1, 2, ...


@pytest.mark.parametrize("chunk", [1, 7, 100, 402, 5000])
def test_a_document_in_chunks_is_the_document_in_one_pass(chunk: int) -> None:
    model = tiny_llama(11)
    ids = torch.from_numpy(TOKENS.astype(np.int64))[None]
    with torch.inference_mode():
        expected = token_losses(model, ids[:, :-1], ids[:, 1:])[0].numpy()
    assert np.allclose(document_losses(model, TOKENS, chunk=chunk), expected, atol=2e-4)


class Counting(torch.nn.Module):
    """p(token) = (1 + how often it came before) / (vocabulary + tokens before): a state that only counts."""

    def forward(
        self, input_ids: torch.Tensor, past_key_values: torch.Tensor | None = None, use_cache: bool = False
    ) -> object:
        before = torch.zeros(11) if past_key_values is None else past_key_values
        counts = before + torch.nn.functional.one_hot(input_ids, 11).cumsum(1)
        logits = torch.log((counts + 1) / (counts + 1).sum(-1, keepdim=True))
        return type("Output", (), {"logits": logits, "past_key_values": counts[0, -1], "cache": counts[0, -1]})


class CountingAnew(Counting):
    """The same, its state under the newer name."""

    def forward(self, input_ids: torch.Tensor, cache: torch.Tensor | None = None, use_cache: bool = False) -> object:
        return super().forward(input_ids, cache)


@pytest.mark.parametrize("model", [Counting(), CountingAnew()])
@pytest.mark.parametrize("chunk", [1, 13, 402])
def test_the_state_is_carried_from_chunk_to_chunk(model: torch.nn.Module, chunk: int) -> None:
    """The law of Laplace in closed form, over the whole document."""
    seen = [(TOKENS[:at] == TOKENS[at]).sum() for at in range(1, 403)]
    expected = [math.log(11 + at) - math.log(1 + count) for at, count in enumerate(seen, 1)]
    told: list[tuple[str, int, int]] = []
    losses = document_losses(model, TOKENS, chunk=chunk, progress=lambda *state: told.append(state))
    assert np.allclose(losses, expected, atol=1e-5)
    assert told[-1] == ("loss", 402, 402)


@pytest.mark.parametrize(("window", "stride"), [(40, 40), (40, 20), (64, 7), (40, 1), (402, 100), (9999, None), (1, 1)])
def test_windows_score_each_token_once_from_the_first_window_that_holds_it(window: int, stride: int | None) -> None:
    model = tiny_llama(11)
    losses = document_losses(model, TOKENS, window=window, stride=stride, batch_size=5)
    assert losses.shape == (402,) and np.isfinite(losses).all()
    for at in (0, 1, 39, 40, 63, 200, 333, 401):
        width = min(window, 402)
        starts = [*range(0, 402 - width, stride or width), 402 - width]
        start = next(start for start in starts if start + width > at)
        ids = torch.from_numpy(TOKENS[start : at + 2].astype(np.int64))[None]
        with torch.inference_mode():
            expected = float(token_losses(model, ids[:, :-1], ids[:, 1:])[0, -1])
        assert losses[at] == pytest.approx(expected, abs=2e-4), at


def test_the_perplexity_of_a_document_of_a_bigram_model() -> None:
    """Such a model needs no context, so that windows make no difference."""
    for options in ({"window": 30, "stride": 11}, {"chunk": 402}):
        result = document_perplexity(Bigram(TABLE), TOKENS, text_bytes=402, **options)
        assert result.tokens == 402
        assert result.loss == pytest.approx(SURPRISES.mean(), rel=1e-6)
        assert result.bits_per_byte == pytest.approx(SURPRISES.mean() / math.log(2), rel=1e-6)


def test_bad_input() -> None:
    model = tiny_llama(11)
    with pytest.raises(InputError, match="token 12 is not in"):
        document_losses(model, np.array([1, 12, 2]))
    with pytest.raises(InputError, match="a document of 1 tokens"):
        document_losses(model, TOKENS[:1])
    with pytest.raises(InputError, match="a stride of 9 does not fit a window of 8; take 1 to 8"):
        document_losses(model, TOKENS, window=8, stride=9)
    with pytest.raises(InputError, match="chunks of 0"):
        document_losses(model, TOKENS, chunk=0)
    with pytest.raises(InputError, match="carries no cache on"):
        document_losses(Bigram(TABLE), TOKENS, chunk=100)
