"""Every measure against closed forms and brute force: bigram models with known probabilities, small transformers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_models import Bigram, tiny_llama

from tenfold.attention.blocks import Blocks
from tenfold.attention.evaluation import (
    Perplexity,
    evaluate_mqar,
    loss_by_position,
    perplexity,
    recall_slice,
    repeated_ngrams,
)
from tenfold.attention.losses import evaluating
from tenfold.attention.mqar import MQAR
from tenfold.attention.tokens import byte_tokenizer, count_bytes
from tenfold.core.errors import InputError

RNG = np.random.default_rng(0)
TABLE = RNG.dirichlet(np.ones(11), 11)
TOKENS = RNG.integers(11, size=403).astype(np.uint16)
BLOCKS = Blocks(TOKENS, 40)
SURPRISES = -np.log(TABLE[TOKENS[:-1], TOKENS[1:]])  # of tokens 1, 2, ...


class Alternating:
    """A dataset in which every second label of the second half is not scored."""

    def __len__(self) -> int:
        return len(BLOCKS)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        block = BLOCKS[index]
        if index >= 5:
            block["labels"][::2] = -100
        return block


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_perplexity_is_the_mean_surprise_of_a_bigram_model(batch_size: int) -> None:
    told: list[tuple[str, int, int]] = []
    result = perplexity(Bigram(TABLE), BLOCKS, batch_size, text_bytes=997, progress=lambda *state: told.append(state))
    expected = SURPRISES[:400]
    assert result.tokens == 400
    assert result.loss == pytest.approx(expected.mean(), rel=1e-7)
    assert result.perplexity == pytest.approx(np.exp(expected.mean()), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(expected.sum() / math.log(2) / 997, rel=1e-7)
    assert told[-1] == ("loss", 10, 10)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_every_scored_token_weighs_the_same(batch_size: int) -> None:
    """Batches with fewer labels do not count for more."""
    scored = np.ones((10, 40), bool)
    scored[5:, ::2] = False
    result = perplexity(Bigram(TABLE), Alternating(), batch_size)
    assert result.tokens == 300 and result.bits_per_byte is None
    assert result.loss == pytest.approx(SURPRISES[:400].reshape(10, 40)[scored].mean(), rel=1e-7)


def test_uniform_bytes_take_8_bits_a_byte() -> None:
    tokenizer = byte_tokenizer()
    blocks = Blocks(np.frombuffer("Grüße, 三!".encode() * 9, np.uint8), 16)
    model = Bigram(np.full((256, 256), 1 / 256))
    result = perplexity(model, blocks, text_bytes=count_bytes(blocks.labels, tokenizer))
    assert result.bits_per_byte == pytest.approx(8) and result.perplexity == pytest.approx(256)


def test_a_transformer_is_scored_as_transformers_scores_it() -> None:
    """Against the loss that the model itself computes, which shifts its labels."""
    model = tiny_llama(11)
    blocks = Blocks(TOKENS, 41)
    with torch.inference_mode():
        own = [float(model(ids := blocks[n]["input_ids"][None], labels=ids).loss) for n in range(len(blocks))]
    trimmed = [
        {"input_ids": blocks[n]["input_ids"][:-1], "labels": blocks[n]["input_ids"][1:]} for n in range(len(blocks))
    ]
    assert perplexity(model, trimmed).loss == pytest.approx(np.mean(own), rel=1e-5)


@settings(max_examples=200)
@given(
    tokens=st.integers(1, 3).flatmap(
        lambda rows: st.lists(st.lists(st.integers(0, 3), min_size=9, max_size=9), min_size=rows, max_size=rows)
    ),
    order=st.integers(1, 5),
)
def test_repeats_by_brute_force(tokens: list[list[int]], order: int) -> None:
    expected = [
        [
            at >= order - 1
            and any(
                row[other - order + 1 : other + 1] == row[at - order + 1 : at + 1] for other in range(order - 1, at)
            )
            for at in range(9)
        ]
        for row in tokens
    ]
    assert repeated_ngrams(np.array(tokens), order).tolist() == expected


def test_repeats_do_not_overflow_with_long_ngrams_of_large_vocabularies() -> None:
    tokens = np.tile(np.random.default_rng(1).integers(1 << 17, size=(2, 500)), (1, 2))
    repeated = repeated_ngrams(tokens, 40)
    assert not repeated[:, :539].any() and repeated[:, 539:].all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_recall_slice_parts_the_loss(order: int) -> None:
    repeated = []
    for start in range(0, 400, 40):
        block = TOKENS[start : start + 41].tolist()
        grams = [tuple(block[at - order + 1 : at + 1]) for at in range(order - 1, 41)]
        ends = [False] * (order - 1) + [gram in grams[:number] for number, gram in enumerate(grams)]
        repeated += ends[1:]
    flags = np.array(repeated)
    result = recall_slice(Bigram(TABLE), BLOCKS, order, batch_size=3)
    assert (result.repeated.tokens, result.other.tokens) == (flags.sum(), 400 - flags.sum())
    assert result.repeated.loss == pytest.approx(SURPRISES[:400][flags].mean(), rel=1e-7)
    assert result.other.loss == pytest.approx(SURPRISES[:400][~flags].mean(), rel=1e-7)
    assert result.share == pytest.approx(flags.mean())


def test_a_slice_without_tokens_has_no_loss() -> None:
    result = recall_slice(Bigram(TABLE), Blocks(np.arange(11, dtype=np.uint16), 10))
    assert result.repeated.tokens == 0 and math.isnan(result.repeated.loss)
    assert result.other.tokens == 10 and result.share == 0


def test_loss_by_position_is_the_mean_of_each_column() -> None:
    columns = SURPRISES[:400].reshape(10, 40).mean(0)
    for batch_size in (1, 4):
        bins = loss_by_position(Bigram(TABLE), BLOCKS, [0, 1, 10, 40], batch_size)
        assert [(each.start, each.stop, each.tokens) for each in bins] == [(0, 1, 10), (1, 10, 90), (10, 40, 300)]
        for each in bins:
            assert each.loss == pytest.approx(columns[each.start : each.stop].mean(), rel=1e-7)
    scored = loss_by_position(Bigram(TABLE), Alternating(), [0, 1, 2])
    assert [each.tokens for each in scored] == [5, 10]


def test_ranges_of_positions_double_from_256_by_default() -> None:
    blocks = Blocks(np.zeros(2049, np.uint16), 2048)
    edges = [(each.start, each.stop) for each in loss_by_position(Bigram(TABLE), blocks)]
    assert edges == [(0, 256), (256, 512), (512, 1024), (1024, 2048)]
    assert [(each.start, each.stop) for each in loss_by_position(Bigram(TABLE), BLOCKS)] == [(0, 40)]


class Table(torch.nn.Module):
    """Answers queries by the examples that it was given, the first `wrong` of each one wrongly."""

    def __init__(self, data: MQAR, wrong: int) -> None:
        super().__init__()
        self.known = {tuple(example["input_ids"].tolist()): example["labels"] for example in data}
        self.vocab, self.wrong = data.vocab, wrong

    def forward(self, input_ids: torch.Tensor) -> object:
        labels = torch.stack([self.known[tuple(row)] for row in input_ids.tolist()])
        for row in labels:
            queries = (row != -100).nonzero().flatten()[: self.wrong]
            row[queries] = (row[queries] + 1) % self.vocab
        logits = torch.nn.functional.one_hot(labels.clamp(min=0), self.vocab).float()
        return type("Output", (), {"logits": logits})


@pytest.mark.parametrize(("wrong", "accuracy"), [(0, 1.0), (3, 0.625), (8, 0.0)])
def test_mqar_counts_the_right_queries(wrong: int, accuracy: float) -> None:
    data = MQAR(10, 64, 8, 128, seed=4)
    assert evaluate_mqar(Table(data, wrong), data, 3) == accuracy


def test_mqar_by_chance_is_near_none() -> None:
    assert evaluate_mqar(tiny_llama(128), MQAR(40, 64, 8, 128)) < 0.1


def test_models_keep_their_mode_and_gather_no_gradient() -> None:
    model = tiny_llama(11, attention_dropout=0.9)
    model.train()
    first, second = (perplexity(model, BLOCKS).loss for _ in range(2))
    assert first == second, "no dropout"
    assert model.training and all(weight.grad is None for weight in model.parameters())
    with pytest.raises(InputError), evaluating(model):
        raise InputError("trouble")
    assert model.training and torch.is_grad_enabled()


def test_bad_input() -> None:
    model = tiny_llama(11)
    with pytest.raises(InputError, match="token 11 is not in the model's vocabulary of 11"):
        perplexity(model, Blocks(np.array([1, 2, 11, 3], np.uint16), 3))
    with pytest.raises(InputError, match="token 300 is not in"):
        perplexity(model, [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([2, 300])}])
    with pytest.raises(InputError, match="every one is -100"):
        perplexity(model, [{"input_ids": torch.tensor([1]), "labels": torch.tensor([-100])}])
    with pytest.raises(InputError, match="batches of 0"):
        perplexity(model, BLOCKS, 0)
    with pytest.raises(InputError, match=r"edges \[0, 5, 5\] do not ascend"):
        loss_by_position(model, BLOCKS, [0, 5, 5])
    with pytest.raises(InputError, match="no 0-grams"):
        recall_slice(model, BLOCKS, 0)
    with pytest.raises(InputError, match="vocabulary of 11"):
        evaluate_mqar(model, MQAR(4, 16, 2, 32))
    assert math.isinf(Perplexity.of(1e6, 1).perplexity)
