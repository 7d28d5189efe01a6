"""Crops of whole sets: made once, kept in a cache that a killed run goes on filling, and read from there.

N faces · S side of a crop · C = 3 channels

In the cache a set has a folder named by what its crops depend on: contents, boxes, side, detector.

    crops.npy         uint8 (N, S, S, 3), black where a picture has no crop
    statuses.jsonl    a line per piece of pictures: the number of the first, and their statuses and messages

While it is being filled it is called `NAME.partial`. A piece is in `crops.npy`, synced, before its line is written.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.alignment import SIDE, Detector, Portrait, Status, portrait
from tenfold.faces.facesets import FaceSet, content_hashes
from tenfold.faces.pictures import printable

__all__ = ["Crops", "crop_faces"]

_PIECE = 256  # pictures between two lines of the journal


@dataclass(frozen=True)
class Crops:
    """The crops of a set.

    Attributes:
        crops_NSSC: uint8 (N, S, S, 3) RGB, black where a picture has none; mapped into memory where it is cached.
        statuses: What became of each picture, as in `Portrait`.
        faces: The set.
        messages: One line for each picture that is not "ok", else an empty text.
    """

    crops_NSSC: NDArray[np.uint8]
    statuses: tuple[Status, ...]
    faces: FaceSet
    messages: tuple[str, ...] = ()

    def usable(self) -> "Crops":
        """Only the pictures that have a crop."""
        keep = np.array([has_crop(status) for status in self.statuses], bool)
        if keep.all():
            return self
        return Crops(
            self.crops_NSSC[keep],
            tuple(status for status in self.statuses if has_crop(status)),
            self.faces.subset(keep),
            tuple(message for message, kept in zip(self.messages, keep, strict=False) if kept),
        )


def has_crop(status: Status) -> bool:
    """Whether a picture of this status has a crop: "ok" and "several faces" have."""
    return status in ("ok", "several faces")


def crop_faces(
    faces: FaceSet,
    detector: Detector | None,
    side: int = SIDE,
    cache: Path | str | None = None,
    progress: Progress = no_progress,
    *,
    smallest: int = 10,
) -> Crops:
    """The crops of all pictures of a set. A picture that gives none has a status that says why; the others go on.

    Args:
        faces: The pictures.
        detector: As for `portrait`; None: the pictures are crops already.
        side: Side of the crops in pixels.
        cache: A folder for crops, made for its owner alone where it is missing; `side * side * 3` bytes each. What a
            killed call had made is not made again, and a later call with the same contents, side and detector reads
            all from there.
        progress: Told of phases "hash" (only with a cache) and "crop".
        smallest: A face of fewer pixels a side is "too small".

    Raises:
        InputError: The cache cannot be written, or another process is filling it with the same crops.
    """
    if cache is None:
        crops_NSSC = np.zeros((len(faces), side, side, 3), np.uint8)
        portraits = []
        for row, made in enumerate(_portraits(faces, detector, side, smallest, progress)):
            portraits.append(made)
            if made.crop is not None:
                crops_NSSC[row] = made.crop
        statuses = tuple(made.status for made in portraits)
        return Crops(crops_NSSC, statuses, faces, tuple(made.message for made in portraits))
    setting = f"crops-1 {side} {smallest} {'given' if detector is None else detector.identity}"
    folder = Path(cache) / f"crops-{_key(faces, setting, progress)}"
    try:
        Path(cache).mkdir(mode=0o700, parents=True, exist_ok=True)  # faces are nobody else's business
        if not _is_complete(folder, len(faces), side):
            with _locked(folder.with_name(f"{folder.name}.partial")) as partial:
                _fill(partial, faces, detector, side, smallest, progress)
                shutil.rmtree(folder, ignore_errors=True)  # damaged, or just made by another process
                os.rename(partial, folder)
        return _read(folder, faces)
    except OSError as error:
        raise InputError(
            f"{printable(cache)}: crops cannot be kept there ({error.strerror or error}); "
            "free some space or name another folder"
        ) from None


def _portraits(
    faces: FaceSet, detector: Detector | None, side: int, smallest: int, progress: Progress, start: int = 0
) -> Iterator[Portrait]:
    for row in range(start, len(faces)):
        box = None if faces.boxes is None or np.isnan(faces.boxes[row]).all() else faces.boxes[row]
        yield portrait(faces.sources[row], detector, side, name=faces.names[row], box=box, smallest=smallest)
        if (row + 1) % 16 == 0 or row + 1 == len(faces):
            progress("crop", row + 1, len(faces))


def _key(faces: FaceSet, setting: str, progress: Progress) -> str:
    digest = hashlib.sha256(setting.encode())
    for content, name in zip(content_hashes(faces, progress), faces.names, strict=True):
        digest.update(content or b"unreadable")
        digest.update(hashlib.sha256(name.encode()).digest())  # messages name it
    if faces.boxes is not None:
        digest.update(np.ascontiguousarray(faces.boxes, np.float32).tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _locked(partial: Path) -> Iterator[Path]:
    """The folder to fill, for this process alone."""
    partial.mkdir(parents=True, exist_ok=True)
    with open(partial / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{printable(partial)}: another process is filling it; wait until it is done") from None
        yield partial


def _fill(
    partial: Path, faces: FaceSet, detector: Detector | None, side: int, smallest: int, progress: Progress
) -> None:
    crops_path, journal_path = partial / "crops.npy", partial / "statuses.jsonl"
    crops_path.touch()
    journal_path.touch()
    with open(crops_path, "r+b") as crops, open(journal_path, "r+b") as journal:
        done = _go_on(crops, journal, (len(faces), side, side, 3))
        made = _portraits(faces, detector, side, smallest, progress, done)
        while piece := list(islice(made, _PIECE)):
            _append(crops, journal, done, piece, side)
            done += len(piece)


def _go_on(crops: IO[bytes], journal: IO[bytes], shape: tuple[int, ...]) -> int:
    """How many pictures are in the cache already; both files are cut behind them."""
    np.lib.format.write_array_header_2_0(crops, {"descr": "|u1", "fortran_order": False, "shape": shape})
    head, each = crops.tell(), int(np.prod(shape[1:]))
    size = os.fstat(crops.fileno()).st_size
    done, kept = 0, 0
    for line in journal:
        entries = _entries(line, done)
        if entries is None or head + (done + len(entries)) * each > size or done + len(entries) > shape[0]:
            break
        done, kept = done + len(entries), kept + len(line)
    journal.truncate(kept)
    journal.seek(kept)
    crops.truncate(head + done * each)
    crops.seek(head + done * each)
    return done


def _append(crops: IO[bytes], journal: IO[bytes], first: int, piece: Sequence[Portrait], side: int) -> None:
    black = np.zeros((side, side, 3), np.uint8)
    for one in piece:
        crops.write((black if one.crop is None else one.crop).tobytes())
    _sync(crops)
    journal.write(json.dumps([first, [[one.status, one.message] for one in piece]]).encode() + b"\n")
    _sync(journal)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _entries(line: bytes, first: int) -> list[tuple[Status, str]] | None:
    """Statuses and messages of one line of the journal; None where it was cut, or does not go on from `first`."""
    try:
        number, pictures = json.loads(line)
        return [(status, message) for status, message in pictures] if number == first and line[-1:] == b"\n" else None
    except (ValueError, TypeError):
        return None


def _journal(folder: Path) -> list[tuple[Status, str]]:
    """Statuses and messages of all pictures, as far as the journal is whole. Raises OSError."""
    entries: list[tuple[Status, str]] = []
    with open(folder / "statuses.jsonl", "rb") as journal:
        for line in journal:
            entries += _entries(line, len(entries)) or []
    return entries


def _is_complete(folder: Path, count: int, side: int) -> bool:
    """Whether the folder holds all crops; where something is missing or damaged they are made anew."""
    try:
        shape = np.load(folder / "crops.npy", mmap_mode="r").shape
        return bool(shape == (count, side, side, 3)) and len(_journal(folder)) == count
    except (OSError, ValueError):
        return False


def _read(folder: Path, faces: FaceSet) -> Crops:
    entries = _journal(folder)
    crops_NSSC = np.load(folder / "crops.npy", mmap_mode="r")
    return Crops(crops_NSSC, tuple(status for status, _ in entries), faces, tuple(message for _, message in entries))
