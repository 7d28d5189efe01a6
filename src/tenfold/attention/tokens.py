"""Tokenizers: bytes as they are, byte-level BPE trained on one's own texts, and saved ones.

All are `PreTrainedTokenizerFast` of transformers, saved by `save_pretrained(folder)`. Those made here give back any
string unchanged, whatever it contains, and no text can forge their special tokens.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tenfold.core.errors import InputError

__all__ = ["byte_tokenizer", "count_bytes", "load_tokenizer", "train_tokenizer"]

_SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
_OTHER_KINDS = ("tokenizer.model", "vocab.json")  # of slow tokenizers, which need packages of their own


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte of UTF-8, its id the byte; then bos 256, eos 257, pad 258."""
    alphabet = {character: byte for byte, character in bytes_to_unicode().items()}
    return _finish(Tokenizer(models.BPE(vocab=alphabet, merges=[])), use_regex=False)


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Radford et al. 2019, section 2.2) of at most `vocab` tokens, bos, eos and pad among them.

    Fewer where the texts have no further pair of tokens that occurs twice.

    Args:
        texts: Documents; all of them are read.
        vocab: At least 259, the bytes and the special tokens.

    Raises:
        InputError: `vocab` is too small.
    """
    least = 256 + len(_SPECIAL)
    if vocab < least:
        raise InputError(f"a vocabulary of {vocab} tokens does not hold all bytes; ask for {least} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(_SPECIAL),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer, use_regex=True)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder (`tokenizer.json`, and `tokenizer_config.json` where there is one), or of such a file.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        others = [name for name in _OTHER_KINDS if (path / name).is_file()]
        if others:
            how = f'AutoTokenizer.from_pretrained("{path}").save_pretrained("{path}") of transformers makes one'
            raise InputError(f"{path}: has {others[0]}, but no tokenizer.json; {how}")
        raise InputError(f"{path}: has no tokenizer.json; give the folder of a model or a tokenizer")
    try:
        if path.is_dir():
            return PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # the Rust library raises plain Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: is no tokenizer that can be read ({reason})") from None


def count_bytes(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> int:
    """How many bytes of UTF-8 the tokens stand for; special tokens for none.

    Args:
        ids: Token ids, any integer type and shape.
        tokenizer: Which made them.
    """
    flat = ids.reshape(-1)
    if isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
        # A character of such a token is a byte, so that a token may end amid a character of the text.
        special = set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        sizes = [0 if number in special else len(token) for number, token in enumerate(tokens)]
        return int(np.bincount(flat, minlength=len(sizes)) @ np.array(sizes))
    return len(tokenizer.decode(flat.tolist(), skip_special_tokens=True).encode())


def _finish(tokenizer: Tokenizer, *, use_regex: bool) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **_SPECIAL,
    )
