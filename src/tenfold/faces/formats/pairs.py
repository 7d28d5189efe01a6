"""Pairs of pictures to be verified: the same person or not. LFW's list of them.

N pictures · P pairs
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.facesets import FaceSet, labelled_files
from tenfold.faces.formats.textfiles import read_lines
from tenfold.faces.pictures import printable

__all__ = ["Pairs", "lfw_pairs"]

_SUFFIXES = (".jpg", ".png", ".jpeg", ".bmp")

_Picture = tuple[str, int]  # a person and the number of the picture


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures in folds: a threshold for one fold is chosen on the others.

    Attributes:
        faces: The N pictures, each once.
        first, second: int64 (P,): places in `faces`.
        same: bool (P,): whether both show one person.
        folds: int64 (P,): the fold of each pair, from 0.
    """

    faces: FaceSet
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.same)


def lfw_pairs(root: Path | str, pairs: Path | str) -> Pairs:
    """LFW's pairs: `pairs.txt` has ten folds of 300 pairs of one person and 300 of two.

    Args:
        root: The folder with `Name/Name_0001.jpg`.
        pairs: `pairs.txt`, or one fold as in `pairsDevTest.txt`. Line 1 has the number of folds, if there are several,
            and of pairs of each kind in a fold; the others `name i j` or `name i name j`.

    Raises:
        InputError: The list is no such list, or a picture it names is not there.
    """
    root, path = Path(root), Path(pairs)
    lines = [(f"{printable(path)}: line {number:,}", line) for number, line in enumerate(read_lines(path), 1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    fold_count, each = _head(*lines[0]) if lines else (0, 0)
    if len(lines) - 1 != fold_count * each * 2 or not each:
        raise InputError(
            f"{printable(path)}: has {max(0, len(lines) - 1):,} pairs, its first line says {fold_count} x {each} x 2; "
            "it is cut, or not LFW's list of pairs"
        )
    places: dict[_Picture, int] = {}
    wheres: list[str] = []
    first, second, same = [], [], []
    for number, (where, line) in enumerate(lines[1:]):
        one, other = _pair(where, line)
        if (one[0] == other[0]) != (number // each % 2 == 0):
            raise InputError(f"{where}: {line!r} is not of the kind expected here; folds are {each} same, {each} not")
        for picture in (one, other):
            if picture not in places:
                places[picture] = len(places)
                wheres.append(where)
        first.append(places[one])
        second.append(places[other])
        same.append(one[0] == other[0])
    files = list(_files(root, list(places), wheres))
    faces = labelled_files(root, files, [unicodedata.normalize("NFC", person) for person, _ in places])
    folds = np.repeat(np.arange(fold_count), 2 * each)
    return Pairs(faces, np.array(first, np.int64), np.array(second, np.int64), np.array(same, bool), folds)


def _head(where: str, line: str) -> tuple[int, int]:
    numbers = [_count(field, where) for field in line.split()]
    if len(numbers) not in (1, 2):
        raise InputError(f"{where}: {line!r} does not say how many folds and pairs there are, as in '10\\t300'")
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _pair(where: str, line: str) -> tuple[_Picture, _Picture]:
    fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
    if len(fields) == 3:
        return (_name(fields[0], where), _count(fields[1], where)), (fields[0], _count(fields[2], where))
    if len(fields) == 4:
        return (_name(fields[0], where), _count(fields[1], where)), (_name(fields[2], where), _count(fields[3], where))
    raise InputError(f"{where}: {line!r} is no pair; one is 'name i j' or 'name i name j', divided by tabs")


def _name(text: str, where: str) -> str:
    if not text or text.startswith(".") or any(sign in text for sign in "/\\\0"):
        raise InputError(f"{where}: {text!r} is no name of a person's folder; correct the list, or do not trust it")
    return text


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 7):
        raise InputError(f"{where}: {text!r} is no number; is this LFW's list of pairs?")
    return int(text)


def _files(root: Path, pictures: list[_Picture], wheres: list[str]) -> Iterator[Path]:
    for (person, number), where in zip(pictures, wheres, strict=True):
        for form in dict.fromkeys((person, *(unicodedata.normalize(form, person) for form in ("NFC", "NFD")))):
            file = next(filter(Path.is_file, (root / form / f"{form}_{number:04d}{end}" for end in _SUFFIXES)), None)
            if file is not None:
                yield file
                break
        else:
            missing = printable(root / person / f"{person}_{number:04d}.jpg")
            raise InputError(f"{where}: there is no {missing}; give LFW's folder of people, whole")
