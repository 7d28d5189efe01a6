"""Blocks hold every token once, in order, whether packed in memory, cut for encoding, or mapped from a file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from tenfold.attention import blocks as module
from tenfold.attention.blocks import Blocks, byte_blocks, pack, pack_files
from tenfold.attention.data import read_text, read_texts
from tenfold.attention.tokens import byte_tokenizer, train_tokenizer
from tenfold.core.errors import InputError

BYTES = byte_tokenizer()
TRAINED = train_tokenizer(["the theatre there\n\nthe other 's\nthe\n 12"] * 9, 290)


@given(count=st.integers(2, 60), length=st.integers(1, 20))
def test_inputs_and_labels_are_the_tokens_in_order(count: int, length: int) -> None:
    """Labels are what the logits at their place predict: the next token, also across the end of a block."""
    tokens = np.arange(count, dtype=np.uint16)
    if count <= length:
        with pytest.raises(InputError, match=f"{count} tokens fill no block of {length} "):
            Blocks(tokens, length)
        return
    blocks = Blocks(tokens, length)
    rows = [blocks[number] for number in range(len(blocks))]
    inputs, labels = (torch.cat([row[name] for row in rows]) for name in ("input_ids", "labels"))
    assert inputs.tolist() == list(range(len(blocks) * length))
    assert labels.tolist() == [number + 1 for number in inputs.tolist()] == blocks.labels.tolist()
    assert count - (len(blocks) * length + 1) < length, "no full block is left out"
    assert all(row[name].dtype == torch.int64 and row[name].shape == (length,) for row in rows for name in row)
    assert blocks[-1]["labels"].tolist() == rows[-1]["labels"].tolist()
    for number in (len(blocks), -len(blocks) - 1):
        with pytest.raises(IndexError):
            blocks[number]


def test_documents_are_joined_by_eos() -> None:
    blocks = pack(["ab", "", "ü"], BYTES, 2)
    assert blocks.tokens.tolist() == [97, 98, 257, 257, 195, 188, 257]
    assert blocks.tokens.dtype == np.uint16


@given(count=st.integers(20, 300), share=st.floats(0.01, 0.99))
def test_the_parts_of_a_split_are_the_whole(count: int, share: float) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    try:
        train, validation = Blocks(tokens, 3).split(share)
    except InputError:
        assert min(count * share, count * (1 - share)) < 4.5
        return
    assert [*train.tokens.tolist(), *validation.tokens.tolist()] == tokens.tolist()
    assert len(validation.tokens) == round(count * share)
    seen = [{*part.tokens[:-1].tolist(), *part.labels.tolist()} for part in (train, validation)]
    assert not seen[0] & seen[1], "a token that is trained on is never validated on"


def test_large_vocabularies_take_4_bytes() -> None:
    words = {f"w{number}": number for number in range(70_000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1")
    blocks = pack(["w69999 w2"], fast, 1)
    assert blocks.tokens.dtype == np.uint32
    assert blocks.tokens.tolist() == [69_999, 2, 1]


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("the 1's.\n\n\n\t\r\x1c\x85\u2028ü三") | st.characters(codec="utf-8"), max_size=80))
def test_cutting_a_long_text_for_encoding_changes_no_token(text: str) -> None:
    """Brute force: cut at every seam there is, and compare with the text encoded as a whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", 1)
        patch.setattr(module, "_GROUP", 7)
        tokens = pack([text, "end"], TRAINED, 1).tokens.tolist()
    eos = TRAINED.eos_token_id
    assert tokens == [*TRAINED(text)["input_ids"], eos, *TRAINED("end")["input_ids"], eos]


def test_a_real_novel_is_cut_without_a_trace(attention_data: Path) -> None:
    text = read_text(attention_data / "war_and_peace.txt")[:400_000]
    parts = list(module._parts(text))
    assert len(parts) > 3 and "".join(part for part, _ in parts) == text
    assert pack([text], TRAINED, 256).tokens.tolist()[:-1] == TRAINED(text)["input_ids"]


def test_tokenizers_that_look_beyond_a_line_are_given_whole_texts() -> None:
    assert module._may_be_cut(TRAINED) and module._may_be_cut(BYTES)
    spaced = Tokenizer(models.BPE())
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not module._may_be_cut(PreTrainedTokenizerFast(tokenizer_object=spaced))
    assert not module._may_be_cut(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())))


def test_real_text_comes_back_from_its_blocks(attention_data: Path) -> None:
    path = attention_data / "wikitext2_valid.txt"
    blocks = pack(read_texts([path]), BYTES, 256)
    ids = torch.cat([blocks[number]["input_ids"] for number in range(len(blocks))]).tolist()
    assert read_text(path).startswith(BYTES.decode(ids[:-10]))
    batches = list(DataLoader(blocks, 32, shuffle=True))
    assert batches[0]["input_ids"].shape == (32, 256)
    assert sum(len(batch["labels"]) for batch in batches) == len(blocks) == 1_121_681 // 256


def test_a_cache_holds_what_packing_gives_and_is_found_again(tmp_path: Path) -> None:
    source, cache = tmp_path / "texts", tmp_path / "new" / "cache"
    source.mkdir()
    for name in "abc":
        (source / f"{name}.txt").write_text(f"the {name} theatre\n" * 50)
    told: list[tuple[str, int, int]] = []

    def packed(length: int = 16, tokenizer: PreTrainedTokenizerFast = TRAINED) -> Blocks:
        return pack_files([source], tokenizer, length, cache=cache, progress=lambda *state: told.append(state))

    expected = pack(read_texts([source]), TRAINED, 16).tokens
    assert isinstance(packed().tokens, np.memmap)
    assert packed().tokens.tolist() == packed(7).tokens.tolist() == expected.tolist()
    assert told == [("read", number, 3) for number in (1, 2, 3)], "read once"
    assert [path.suffix for path in cache.iterdir()] == [".npy"], "nothing else is left"
    assert len(packed(tokenizer=BYTES).tokens) == 3 * (50 * 14 + 1), "another tokenizer, another file"
    (source / "a.txt").write_text("new")
    assert len(packed().tokens) < len(expected), "a changed source is read again"
    before = (source / "b.txt").stat()
    (source / "b.txt").write_text("the z theatre\n" * 50)
    os.utime(source / "b.txt", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert packed().tokens.tolist() == pack(read_texts([source]), TRAINED, 16).tokens.tolist(), "also of one size"
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("setting", ["truncation", "padding"])
def test_what_calls_leave_set_in_a_tokenizer_is_not_obeyed(tmp_path: Path, setting: str) -> None:
    tokenizer, path, cache = byte_tokenizer(), tmp_path / "a.txt", tmp_path / "cache"
    backend = tokenizer.backend_tokenizer
    if setting == "truncation":
        backend.enable_truncation(8)
    else:
        backend.enable_padding(length=200)
    before = backend.to_str()
    assert pack(["x" * 100], tokenizer, 4).tokens.tolist() == [120] * 100 + [257]
    path.write_text("x" * 100)
    for words in (tokenizer, byte_tokenizer()):
        assert len(pack_files([path], words, 4, cache=cache).tokens) == 101
    assert len(list(cache.iterdir())) == 1, "nor does it make another file"
    assert backend.to_str() == before


def test_a_cache_that_was_cut_is_made_again_and_trouble_leaves_nothing(tmp_path: Path) -> None:
    source, cache = tmp_path / "a.txt", tmp_path / "cache"
    source.write_text("the theatre " * 99)
    whole = pack_files([source], TRAINED, 8, cache=cache).tokens.tolist()
    (stored,) = cache.iterdir()
    for damaged in (stored.read_bytes()[:-5], b"", b"nonsense"):
        stored.write_bytes(damaged)
        assert pack_files([source], TRAINED, 8, cache=cache).tokens.tolist() == whole
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"body": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        pack_files([tmp_path / "b.jsonl"], TRAINED, 8, cache=cache)
    assert list(cache.iterdir()) == [stored]
    with pytest.raises(InputError, match="cannot be written"):
        pack_files([source], BYTES, 8, cache=source)


def test_raw_bytes_are_their_own_tokens(tmp_path: Path) -> None:
    """As enwik8: not decoded, not copied, in its usual parts of 90, 5 and 5 percent."""
    data = np.random.default_rng(0).integers(256, size=10_000, dtype=np.uint8)
    data.tofile(tmp_path / "enwik8")
    blocks = byte_blocks(tmp_path / "enwik8", 100)
    assert isinstance(blocks.tokens, np.memmap) and len(blocks) == 99
    assert blocks[98]["labels"].tolist() == data[9801:9901].tolist()
    train, rest = blocks.split(0.1)
    validation, test = rest.split(0.5)
    assert [len(part.tokens) for part in (train, validation, test)] == [9000, 500, 500]
    (tmp_path / "empty").touch()
    for name, message in (("none", "cannot be read"), ("empty", "is empty")):
        with pytest.raises(InputError, match=message):
            byte_blocks(tmp_path / name, 10)


def test_bad_input() -> None:
    blocks = Blocks(np.arange(100, dtype=np.uint16), 10)
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(InputError, match="leaves nothing to one part"):
            blocks.split(share)
    with pytest.raises(InputError, match="1 tokens fill no block of 10"):
        blocks.split(0.01)
    with pytest.raises(InputError, match="blocks of 0 tokens"):
        Blocks(blocks.tokens, 0)
    with pytest.raises(InputError, match="0 tokens fill no block"):
        pack([], BYTES, 4)
    with pytest.raises(InputError, match="has no eos token"):
        pack(["a"], PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), 4)
