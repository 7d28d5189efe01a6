"""Long runs of tokens cut into blocks of one length, in memory or on disk.

    blocks = pack(read_texts(["war_and_peace.txt"]), byte_tokenizer(), length=256)
    train, validation = blocks.split(0.1)
    blocks[0]["labels"]  # what the logits of blocks[0]["input_ids"] are to predict

Labels are aligned: `labels[t]` is what `logits[t]` is to predict, here `input_ids[t + 1]`, and the last label of a
block is the first token of the next. So every token but the very first is predicted once, and a loss compares logits
and labels without a shift.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from tenfold.attention.data import Undecodable, list_files, read_texts
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["Blocks", "byte_blocks", "pack", "pack_files"]

_GROUP = 1 << 20  # characters encoded at a time
_PART = 1 << 16  # of a long text that is cut, encoded by one thread
_SEAM = re.compile(r"(?<=\S)\n(?=\S)")


class Blocks(Dataset):
    """Blocks of `length` tokens as a map-style dataset; a last one that is not full is left out.

    Args:
        tokens: (N,) of an unsigned integer type; not copied, and may be a memory map.
        length: Of a block, at least 1.

    Raises:
        InputError: The tokens fill no block: that takes `length` + 1.
    """

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        if length < 1:
            raise InputError(f"blocks of {length} tokens hold nothing; ask for 1 or more")
        if len(tokens) <= length:
            raise InputError(
                f"{len(tokens):,} tokens fill no block of {length:,} and its labels; give more text or a smaller length"
            )
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} blocks, so none is number {index}")
        start = index % len(self) * self.length
        piece = torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))
        return {"input_ids": piece[:-1], "labels": piece[1:].clone()}

    @property
    def labels(self) -> np.ndarray:
        """(len * length,) the tokens that all blocks together predict."""
        return self.tokens[1 : 1 + len(self) * self.length]

    def split(self, share: float) -> tuple["Blocks", "Blocks"]:
        """Two sets of blocks without a common token; the second is the last `share` of the tokens.

        Raises:
            InputError: `share` is not between 0 and 1, or a part fills no block.
        """
        if not 0 < share < 1:
            raise InputError(f"a share of {share:g} leaves nothing to one part; ask for more than 0 and less than 1")
        cut = len(self.tokens) - round(len(self.tokens) * share)
        return Blocks(self.tokens[:cut], self.length), Blocks(self.tokens[cut:], self.length)


def pack(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Blocks:
    """Tokens of all texts, one after the other, each text ended by eos, in memory: 2 bytes a token, or 4 above 65,536.

    Special tokens in a text are not special to tokenizers made here; see `tenfold.attention.tokens`.

    Raises:
        InputError: The tokenizer has no eos token, or the tokens fill no block.
    """
    pieces = list(_encode(texts, tokenizer))
    return Blocks(np.concatenate(pieces) if pieces else np.zeros(0, _token_type(tokenizer)), length)


def pack_files(
    paths: Iterable[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    length: int,
    *,
    cache: str | Path,
    pattern: str = "*",
    field: str = "text",
    undecodable: Undecodable = "refuse",
    progress: Progress = no_progress,
) -> Blocks:
    """Like `pack(read_texts(paths), ...)`, the tokens in a file of the folder `cache`, mapped into memory.

    The file is found again as long as paths, sizes and times of the sources, the tokenizer and the options are the
    same; `length` may change. It is written beside its place and moved there when complete.

    Args:
        paths: As for `read_texts`.
        tokenizer: With an eos token.
        length: Of a block.
        cache: Made if need be.
        pattern: As for `read_texts`.
        field: As for `read_texts`.
        undecodable: As for `read_texts`.
        progress: Called with "read", the files read and all files; not where the tokens are found.

    Raises:
        InputError: As for `read_texts` and `pack`.
    """
    paths = list(paths)
    kind = _token_type(tokenizer)
    facts = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for file in list_files(paths, pattern=pattern)
    ]
    known = [facts, _encoder(tokenizer).to_str(), tokenizer.eos_token_id, field, undecodable]
    stored = Path(cache) / f"{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]}.npy"
    tokens = _load(stored, kind)
    if tokens is None:
        texts = read_texts(paths, pattern=pattern, field=field, undecodable=undecodable, progress=progress)
        _save(stored, kind, _encode(texts, tokenizer))
        tokens = np.load(stored, mmap_mode="r")
    return Blocks(tokens, length)


def byte_blocks(path: str | Path, length: int) -> Blocks:
    """The bytes of a file as they are, as `byte_tokenizer` numbers them, mapped into memory: enwik8 and its like.

    Raises:
        InputError: The file cannot be read or fills no block.
    """
    try:
        if not os.path.getsize(path):
            raise InputError(f"{path}: is empty")
        return Blocks(np.memmap(path, np.uint8, "r"), length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _token_type(tokenizer: PreTrainedTokenizerFast) -> np.dtype[Any]:
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos token to put between documents; set tokenizer.eos_token")
    return np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")


def _encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[np.ndarray]:
    """Yield the tokens in pieces, eos after each text."""
    kind, backend = _token_type(tokenizer), _encoder(tokenizer)
    seams = _may_be_cut(tokenizer)
    for group in _groups(texts, seams):
        encodings = backend.encode_batch_fast([text for text, _ in group], add_special_tokens=False)
        for encoding, (_, is_last) in zip(encodings, group, strict=True):
            yield np.array([*encoding.ids, tokenizer.eos_token_id] if is_last else encoding.ids, kind)


def _encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """What encodes: without the truncation and padding that earlier calls leave in the tokenizer, which keeps them."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    if backend.truncation is None and backend.padding is None:
        return backend
    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return plain


def _groups(texts: Iterable[str], seams: bool) -> Iterator[list[tuple[str, bool]]]:
    """Yield runs of texts, or of parts of long ones, of about a million characters, each with whether a text ends."""
    group: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        for part in _parts(text) if seams else [(text, True)]:
            group.append(part)
            size += len(part[0])
            if size >= _GROUP:
                yield group
                group, size = [], 0
    if group:
        yield group


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Cut a long text where it makes no difference: what the tokenizers keep of a token costs 100 bytes and more."""
    start = 0
    while len(text) - start > _PART and (seam := _SEAM.search(text, start + _PART)):
        yield text[start : seam.end()], False
        start = seam.end()
    yield text[start:], True


def _may_be_cut(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a token surely ends at a single line end between two characters that are no space."""
    backend = tokenizer.backend_tokenizer
    splitter = backend.pre_tokenizer
    return (
        isinstance(splitter, pre_tokenizers.ByteLevel)
        and not splitter.add_prefix_space
        and backend.normalizer is None
        and not any(not token.special for token in backend.get_added_tokens_decoder().values())
    )


def _load(path: Path, kind: np.dtype[Any]) -> np.ndarray | None:
    """The stored tokens; None where there are none that are whole."""
    try:
        tokens = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return tokens if isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype == kind else None


def _save(path: Path, kind: np.dtype[Any], pieces: Iterator[np.ndarray]) -> None:
    """Write the pieces as one array for `numpy.load`, whole or not at all."""

    def header(rows: int) -> dict[str, Any]:
        return {"descr": kind.str, "fortran_order": False, "shape": (rows,)}

    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header(0))  # numpy leaves room for the true number
            for piece in pieces:
                file.write(piece.data)
                rows += len(piece)
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header(rows))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{partial}: cannot be written ({error.strerror}); give another cache folder") from None
    finally:
        with suppress(OSError):
            partial.unlink()
