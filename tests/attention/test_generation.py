"""Text token by token: transformers' generation as oracle, whole characters, flat memory, and what a seed means."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tenfold.attention.generation import generate_tokens, stream_text
from tenfold.attention.layers import MIXERS
from tenfold.attention.model import GSAConfig, GSAForCausalLM, GSAOutput
from tenfold.attention.tokens import byte_tokenizer
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = [5, 9, 2, 30]
END = 257


def make(**changes: Any) -> GSAForCausalLM:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "num_slots": 6,
        "intermediate_size": 48, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return GSAForCausalLM(GSAConfig(**settings | changes)).eval()


class Scripted(GSAForCausalLM):
    """Writes given tokens, one after the other, whatever it reads."""

    script: Iterator[int]

    def forward(self, input_ids: Any = None, cache: Any = None, **_: Any) -> GSAOutput:
        logits_BTN = torch.zeros(1, 1, self.config.vocab_size)
        logits_BTN[..., next(self.script)] = 100
        return GSAOutput(logits=logits_BTN, cache=cache)


def scripted(tokens: list[int], vocab_size: int = 259) -> Scripted:
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_heads": 1, "eos_token_id": END}
    model = Scripted(GSAConfig(vocab_size=vocab_size, **sizes))
    model.script = iter([*tokens, END])
    return model


@pytest.mark.parametrize("mixer", MIXERS)
def test_greedy_is_what_transformers_generates(mixer: str) -> None:
    model = make(mixer=mixer)
    wanted = model.generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False)[0, len(PROMPT) :].tolist()
    assert list(generate_tokens(model, PROMPT, 30, temperature=0)) == wanted
    assert list(generate_tokens(model, PROMPT, 30, top_p=1e-6)) == wanted, "the most probable token alone is left"


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-60, 5e-324])
def test_the_lowest_temperatures_take_the_most_probable_token(temperature: float) -> None:
    model = make()
    wanted = list(generate_tokens(model, PROMPT, 30, temperature=0))
    assert list(generate_tokens(model, PROMPT, 30, temperature=temperature)) == wanted


def test_a_prompt_that_is_read_in_pieces_is_the_same_prompt() -> None:
    model = make(num_hidden_layers=1)
    prompt = torch.randint(40, (1, 4500), generator=torch.Generator().manual_seed(3))
    wanted = model.generate(prompt, max_new_tokens=5, do_sample=False)[0, 4500:].tolist()
    assert list(generate_tokens(model, prompt[0].tolist(), 5, temperature=0)) == wanted


def test_memory_does_not_grow() -> None:
    sizes: list[int] = []
    model = make()
    model.register_forward_hook(lambda _, __, output: sizes.append(output.cache.nbytes()))
    assert len(list(generate_tokens(model, PROMPT, 40))) == 40
    assert len(sizes) == 40, "one pass for the prompt, one for each token but the last"
    assert len(set(sizes)) == 1


def test_a_seed_decides_the_draws() -> None:
    model = make()

    def draw(seed: int) -> list[int]:
        return list(generate_tokens(model, PROMPT, 30, temperature=2, seed=seed))

    torch.manual_seed(1)
    first = draw(0)
    torch.manual_seed(2)
    assert draw(0) == first, "the caller's random numbers do not matter"
    assert draw(1) != first


def test_top_p_leaves_out_the_improbable() -> None:
    """Of a half, a quarter and the rest, 0.6 takes the first two."""
    model = make(vocab_size=8)
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125, *[0.0] * 4]).log().clamp(min=-50)
    model.forward = lambda *_, **options: GSAOutput(logits=logits.expand(1, 1, 8))  # type: ignore[method-assign]
    drawn = list(generate_tokens(model, [0], 300, top_p=0.6))
    assert set(drawn) == {0, 1}
    assert 0.57 < drawn.count(0) / 300 < 0.76, "two thirds, within three deviations"


def test_eos_ends() -> None:
    assert list(generate_tokens(scripted([1, 2, 3]), [7], 50)) == [1, 2, 3]
    assert list(generate_tokens(scripted([1, 2, 3]), [7], 2)) == [1, 2]
    assert list(generate_tokens(scripted([1, 2, 3]), [7], 0)) == []


def test_modes_of_torch_and_of_the_model_are_left_alone_between_tokens() -> None:
    """A caller may train in the same loop, or leave it early."""
    model = make().train()
    for number, _ in enumerate(generate_tokens(model, PROMPT, 30)):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and model.training
        if number == 2:
            break
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


@pytest.mark.parametrize("text", ["naïve", "日本語 text", "🎉🎊!", "a\u0301 \ufffd b"])
def test_pieces_are_whole_characters(text: str) -> None:
    words = byte_tokenizer()
    pieces = list(stream_text(scripted(list(text.encode())), words, "x", 99))
    assert pieces == list(text) or "\ufffd" in text
    assert "".join(pieces) == text


def test_bytes_that_are_no_text_do_not_stop_the_stream() -> None:
    written = "".join(stream_text(scripted([255] * 12 + list(b"ok")), byte_tokenizer(), "x", 99))
    assert written.endswith("ok") and set(written[:-2]) == {"\ufffd"}
    assert "".join(stream_text(scripted([0xE2, 0x82]), byte_tokenizer(), "x", 99)) == "\ufffd"


def test_spaces_between_words_are_kept() -> None:
    """Tokenizers of Llama and Mistral drop the space in front of a text, so that tokens alone lose theirs."""
    names = ["▁the", "▁cat", "▁sat", "s", "▁"]
    inner = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="▁"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)
    model = scripted([1, 3, 2, 0])
    assert "".join(stream_text(model, words, "the", 99)) == " cats sat the"


def test_an_empty_prompt_begins_with_bos() -> None:
    seen: list[int] = []
    model = make(vocab_size=259)
    model.register_forward_pre_hook(lambda _, args: seen.extend(args[0].flatten().tolist()))
    list(stream_text(model, byte_tokenizer(), "", 1))
    assert seen == [256]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"max_new_tokens": -1}, "-1 tokens"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"seed": 1 << 63}, "seed is 9223372036854775808"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_asked_for(change: dict[str, Any], said: str) -> None:
    """Before the first token, so that nothing is printed beforehand."""
    with pytest.raises(InputError, match=said):
        generate_tokens(make(), **{"prompt": PROMPT, "max_new_tokens": 3} | change)


def test_a_token_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="40"):
        list(generate_tokens(make(), [40], 3))
