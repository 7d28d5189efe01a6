"""The task is as its recipe says: every rule by brute force over many examples, the gaps against their law.

A model can do it: weights made by hand answer.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tenfold.attention import mqar as module
from tenfold.attention.evaluation import evaluate_mqar
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.mqar import MQAR
from tenfold.core.errors import InputError


def gaps(data: MQAR) -> np.ndarray:
    """(samples, pairs) the gap of each key, from its labels."""
    found = []
    for example in data:
        inputs, labels = example["input_ids"].tolist(), example["labels"].tolist()
        queries = {inputs[at]: at for at in range(data.length) if labels[at] != -100}
        found.append([(queries[key] - 2 * data.pairs) // 2 for key in inputs[0 : 2 * data.pairs : 2]])
    return np.array(found)


@settings(max_examples=60)
@given(
    pairs=st.integers(1, 12),
    more=st.integers(0, 20),
    room=st.integers(0, 30),
    seed=st.integers(0, 1 << 40),
    power_a=st.sampled_from([0.01, 0.5, 1.0, 3.0]),
)
def test_every_rule_of_the_recipe(pairs: int, more: int, room: int, seed: int, power_a: float) -> None:
    length, vocab = 4 * pairs + 2 * more, 2 * pairs + 2 + 2 * room
    data = MQAR(7, length, pairs, vocab, seed, power_a)
    assert len(data) == 7
    for number in range(7):
        inputs, labels = (data[number][name] for name in ("input_ids", "labels"))
        assert inputs.dtype == labels.dtype == torch.int64 and inputs.shape == labels.shape == (length,)
        inputs, labels = inputs.tolist(), labels.tolist()
        keys, values = inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
        assert len(set(keys)) == pairs and all(1 <= key < vocab // 2 for key in keys)
        assert len(set(values)) == pairs and all(vocab // 2 <= value < vocab for value in values)
        queried = [at for at in range(length) if labels[at] != -100]
        assert sorted(inputs[at] for at in queried) == sorted(keys), "each key is queried once"
        assert all(at >= 2 * pairs and at % 2 == 0 for at in queried)
        assert all(labels[at] == values[keys.index(inputs[at])] for at in queried)
        assert all(0 <= token < vocab for token in inputs)


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_gaps_follow_their_law(power_a: float) -> None:
    """The first key's gap has probability w; the second's, given by one draw without replacement, in closed form."""
    samples, pairs, length = 20_000, 2, 20
    places = (length - 2 * pairs) // 2
    weights = power_a * np.arange(1, places + 1) ** (power_a - 1)
    first = weights / weights.sum()
    second = np.array(
        [sum(first[j] * first[i] / (1 - first[j]) for j in range(places) if j != i) for i in range(places)]
    )
    drawn = gaps(MQAR(samples, length, pairs, 64, seed=3, power_a=power_a))
    for column, law in enumerate((first, second)):
        counts = np.bincount(drawn[:, column], minlength=places)
        statistic = float(((counts - samples * law) ** 2 / (samples * law)).sum())
        assert statistic < 24.3, "chi-square with 7 degrees of freedom: 24.3 is passed once in 1,000"


def test_keys_values_and_the_rest_are_uniform() -> None:
    data = MQAR(4000, 16, 2, 32, seed=1)
    context, rest = data.inputs[:, :4], data.inputs[:, 4:]
    for counts, cells, drawn in (
        (np.bincount(context[:, 0::2].ravel(), minlength=16)[1:16], 15, 8000),
        (np.bincount(context[:, 1::2].ravel(), minlength=32)[16:], 16, 8000),
        (np.bincount(rest[:, 1::2].ravel(), minlength=32), 32, 24_000),  # odd places hold no query
    ):
        assert counts.sum() == drawn
        assert float(((counts - drawn / cells) ** 2 / (drawn / cells)).sum()) < 62


def test_the_same_arguments_give_the_same_examples_and_others_do_not() -> None:
    def examples(**other: int | bool) -> np.ndarray:
        return MQAR(**{"samples": 50, "length": 64, "pairs": 4, "vocab": 128, "seed": 5} | other).inputs  # type: ignore[arg-type]

    assert np.array_equal(examples(), examples())
    for other in ({"seed": 6}, {"test": True}, {"seed": 0, "test": True}):
        same = (examples()[:, None] == examples(**other)[None]).all(-1)
        assert not same.any(), other


def test_examples_drawn_in_many_pieces_keep_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 1000)
    data = MQAR(101, 64, 8, 256, seed=2)
    for example in data:
        inputs, labels = example["input_ids"], example["labels"]
        keys = inputs[:16:2].tolist()
        assert sorted(inputs[labels != -100].tolist()) == sorted(keys)
    assert len(np.unique(data.inputs, axis=0)) == 101


def test_the_size_of_zoology_takes_2_bytes_a_token_and_batches() -> None:
    data = MQAR(200, 512, 64)
    assert data.inputs.dtype == np.uint16
    batch = next(iter(DataLoader(data, 16, shuffle=True)))
    assert batch["input_ids"].shape == batch["labels"].shape == (16, 512)
    assert int((batch["labels"] != -100).sum()) == 16 * 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 64, 4, 128), "0 samples of 4 pairs"),
        ((5, 64, 0, 128), "5 samples of 0 pairs"),
        ((5, 64, 4, 128, -1), "seed -1"),
        ((5, 64, 17, 128), "a length of 64 does not hold 17 pairs and their queries; take an even length >= 68"),
        ((5, 65, 4, 128), "a length of 65 "),
        ((5, 64, 16, 32), "a vocabulary of 32 does not hold 16 keys and values; take an even one >= 34"),
        ((5, 64, 4, 129), "a vocabulary of 129"),
        ((5, 64, 4, 128, 0, 0.0), "power_a is 0"),
        ((5, 64, 4, 128, 0, float("nan")), "power_a is nan"),
    ],
)
def test_numbers_that_do_not_fit(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MQAR(*arguments)  # type: ignore[arg-type]


def test_an_index_beyond_the_end() -> None:
    with pytest.raises(IndexError):
        MQAR(3, 16, 2, 32)[3]


@torch.no_grad()
def made_by_hand(vocab: int) -> GSAForCausalLM:
    """Two layers that answer: the first notes the key before each token, the second has a slot for each key.

    The width holds the token (values are the upper half of the vocabulary) and behind it the key before it.
    """
    half, width = vocab // 2, 2 * vocab
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_heads": 1, "num_slots": half, "intermediate_size": 1}
    model = GSAForCausalLM(GSAConfig(vocab_size=vocab, bos_token_id=None, eos_token_id=None, **sizes)).eval()
    for parameter in model.parameters():
        parameter.zero_() if parameter.dim() == 2 else parameter.fill_(1)
    tokens, keys, root = torch.arange(vocab), torch.arange(half), math.sqrt(width)  # a norm makes root of 1
    values, before = keys + half, keys + vocab
    model.model.embeddings.weight[tokens, tokens] = 1
    first, second = (layer.attn for layer in model.model.layers)
    # Every slot keeps half of what it holds, so that it has half of this token, a quarter of the one before, ...
    first.f_proj.weight[:, :vocab] = math.log(1 / (2**8 - 1)) / root
    first.v_proj.weight[keys, keys] = first.v_proj.weight[half, values] = 8 / root
    first.o_proj.weight[before, keys] = 3.2 / root
    # Slot m is open where a value stands and key m is the one before it: a quarter of it, not an eighth.
    second.f_proj.weight[:, keys], second.f_proj.weight[:, values] = 180, 31.5
    second.f_proj.weight[keys, before] = -45
    second.k_proj.weight[keys, before], second.q_proj.weight[keys, keys] = 1, 3
    second.v_proj.weight[keys, values] = second.o_proj.weight[values, keys] = 1
    model.lm_head.weight[values, values] = 1
    return model


def test_two_layers_can_do_it() -> None:
    """Without convolutions or positions, gates as published: what is not answered is what came twice."""
    model = made_by_hand(64)
    assert evaluate_mqar(model, MQAR(300, 64, 8, 64)) > 0.9
    assert evaluate_mqar(model, MQAR(300, 64, 8, 64, filler="zeros")) == 1


def test_zeros_fill_what_is_no_pair_and_no_query() -> None:
    """Queries and values are those of the random filler."""
    random, zeros = (MQAR(50, 40, 6, 32, filler=filler) for filler in ("random", "zeros"))
    between = np.ones((50, 40), bool)
    between[:, :12] = False
    np.put_along_axis(between, random.query_at, False, axis=1)
    assert (zeros.inputs == np.where(between, 0, random.inputs)).all() and (zeros.query_at == random.query_at).all()


def test_a_filler_that_is_not_known() -> None:
    with pytest.raises(InputError, match="filler 'ones' is not known; choose random or zeros"):
        MQAR(1, 8, 1, 8, filler="ones")  # type: ignore[arg-type]
