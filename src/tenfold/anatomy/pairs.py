"""MS-SSIM over pairs of images: which pairs, and their similarities, kept so that a killed run goes on."""

# N images of the first set · M of the second · P pairs

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.anatomy.features import file_hash, prepared_voxels
from tenfold.anatomy.sets import ImageSet
from tenfold.anatomy.ssim import Scales, legacy_ms_ssim, ms_ssim
from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress

__all__ = ["cross_pairs", "own_pairs", "similarities"]

_PIECE = 64  # pairs whose values reach the disk together


def cross_pairs(count: int, other: int, rounds: int, seed: int) -> NDArray[np.int64]:
    """Each of `count` images with `rounds` random images of `other`, (P, 2); no pair twice where that is possible."""
    draw = np.random.default_rng(seed)
    rounds_of = [draw.choice(other, rounds, replace=rounds > other) for _ in range(count)]
    return np.stack([np.repeat(np.arange(count), rounds), np.concatenate(rounds_of)], 1)


def own_pairs(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Pairs (P, 2) of different images of one set: all of them, or `most` random ones; no pair twice."""
    total = count * (count - 1) // 2
    chosen = np.arange(total) if total <= most else np.sort(np.random.default_rng(seed).permutation(total)[:most])
    first, second = np.triu_indices(count, 1)
    return np.stack([first[chosen], second[chosen]], 1)


def similarities(
    one: ImageSet,
    other: ImageSet,
    pairs_P2: NDArray[np.int64],
    scales: Scales | None,
    *,
    normalised: bool = False,
    cache: Path | str | None = None,
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """MS-SSIM of each pair, (P,).

    Args:
        one: First images of the pairs.
        other: Second images; prepared, of the same shape.
        pairs_P2: Numbers in the two sets; pairs with the same first image should lie together.
        scales: From `choose_scales`; None: what the paper's code computes, NaN where that is no number.
        normalised: For the latter only, as in `legacy_ms_ssim`.
        cache: A folder for the values.
        progress: Told of the phase "ms-ssim".

    Raises:
        InputError: An image cannot be read or was not prepared; another process computes the same; the folder cannot
            be written.
    """
    if cache is None:
        return np.fromiter(_values(one, other, pairs_P2, scales, normalised, 0, progress), np.float64, len(pairs_P2))
    path = Path(cache) / f"{_key(one, other, pairs_P2, scales, normalised)}.f8"
    try:
        with _journal(path) as file:
            done = file.seek(0, os.SEEK_END) // 8
            file.truncate(8 * done)
            file.seek(8 * done)
            for number, value in enumerate(_values(one, other, pairs_P2, scales, normalised, done, progress), done + 1):
                file.write(np.float64(value).tobytes())
                if number % _PIECE == 0:
                    file.flush()
                    os.fsync(file.fileno())
            file.seek(0)
            return np.frombuffer(file.read(), np.float64)[: len(pairs_P2)]
    except OSError as error:
        raise InputError(f"{cache}: cannot hold similarities ({error.strerror}); choose another place") from None


def _values(
    one: ImageSet, other: ImageSet, pairs_P2: NDArray[np.int64], scales: Scales | None, normalised: bool, done: int,
    progress: Progress,
) -> Iterator[float]:  # fmt: skip
    held, first = -1, torch.empty(0)
    for number, (left, right) in enumerate(pairs_P2[done:].tolist(), done + 1):
        if left != held:
            held, first = left, _volume(one, left)
        second = _volume(other, right)
        if first.shape != second.shape:
            raise InputError(f"{other.paths[right]}: has another shape than {one.paths[left]}; prepare both alike")
        with torch.inference_mode():
            made = legacy_ms_ssim(first, second, normalised) if scales is None else ms_ssim(first, second, scales)
        yield float(made)
        progress("ms-ssim", number, len(pairs_P2))


def _volume(images: ImageSet, number: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(prepared_voxels(images[number])))[None]


def _key(one: ImageSet, other: ImageSet, pairs_P2: NDArray[np.int64], scales: Scales | None, normalised: bool) -> str:
    digest = hashlib.sha256(f"ms-ssim-1 {scales!r} {normalised} {len(one)} {len(other)}".encode())
    for path in (*one.paths, *other.paths):
        with path.open("rb") as file:
            digest.update(file_hash(file))
    digest.update(np.ascontiguousarray(pairs_P2, "<i8").tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _journal(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: another process is computing it; wait for it") from None
        yield file
