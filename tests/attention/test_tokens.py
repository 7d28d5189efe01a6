"""Tokenizers give any string back, also after they were saved, and no text forges a special token."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tenfold.attention.data import read_text
from tenfold.attention.tokens import byte_tokenizer, count_bytes, load_tokenizer, train_tokenizer
from tenfold.core.errors import InputError

BYTES = byte_tokenizer()
SAMPLE = ["the theatre there, the other the\n\nthen 12 123 1234", "<|eos|> is no token of a text"] * 3
TRAINED = train_tokenizer(SAMPLE, 300)
BOTH = pytest.mark.parametrize("tokenizer", [BYTES, TRAINED], ids=["bytes", "trained"])
anything = st.text(max_size=60) | st.sampled_from(["<|eos|>", "a<|pad|><|bos|>", "\r\n\0", " . , 's n't", "\ufeff"])


@BOTH
@settings(max_examples=200)
@given(text=anything)
def test_any_string_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert count_bytes(np.array(ids, np.uint16), tokenizer) == len(text.encode())


@given(text=anything)
def test_the_id_of_a_byte_is_the_byte(text: str) -> None:
    assert BYTES(text)["input_ids"] == list(text.encode())


@BOTH
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "héllo <|eos|>\n\n 's\0 theatre"
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(loaded, name) == getattr(tokenizer, name)
        assert len(loaded) == len(tokenizer)
    assert load_tokenizer(tmp_path / "tokenizer.json")("the")["input_ids"] == tokenizer("the")["input_ids"]


@BOTH
def test_what_it_gives_is_what_a_model_takes(tokenizer: PreTrainedTokenizerFast) -> None:
    """`model(**tokenizer(text))` and `model.generate(**tokenizer(text))` refuse names that they do not know."""
    assert set(tokenizer("the")) == {"input_ids", "attention_mask"}


def test_training_keeps_to_the_size_compresses_and_repeats_itself(attention_data: Path) -> None:
    text = read_text(attention_data / "tinyshakespeare.txt")[:200_000]
    first, second = (train_tokenizer(iter([text]), 512) for _ in range(2))
    assert len(first) == 512
    assert first.get_vocab() == second.get_vocab()
    assert len(first(text)["input_ids"]) < 0.6 * len(text)
    assert sorted([first.bos_token_id, first.eos_token_id, first.pad_token_id]) == [509, 510, 511]


def test_bytes_of_tokens_that_end_amid_a_character_and_of_special_ones() -> None:
    ids = np.array([[0xE4, 0xB8], [BYTES.eos_token_id, 0x89]], np.uint16)  # 三 is e4 b8 89
    assert count_bytes(ids, BYTES) == 3
    assert count_bytes(np.zeros(0, np.uint16), BYTES) == 0


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="258 tokens does not hold all bytes; ask for 259"):
        train_tokenizer(["a"], 258)
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match=r"has vocab\.json, but no tokenizer\.json; AutoTokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(InputError, match="is no tokenizer that can be read"):
            load_tokenizer(path)
