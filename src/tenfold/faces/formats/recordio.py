"""RecordIO: a training set as MXNet packs it, in `train.rec`, `train.idx` and `property`; MXNet itself is not needed.

A record is: magic 0xced7230a, a word of which the upper 3 bits say whether it is whole (0) or the first (1), a middle
(2) or the last part (3) of one, and the lower 29 its length, that many bytes, and zeros up to a multiple of 4. Where a
record's bytes hold the magic on a multiple of 4 it was split there, and the magic left out.

The bytes are a header (uint32 flag, float32 label, uint64 id, uint64 id2), `flag` labels in float32 if it is above 0,
and an encoded picture. Record 0 of InsightFace's sets has no picture but two labels: the key behind the last picture,
and the key behind the last person; records between the two are about people.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.facesets import FaceSet
from tenfold.faces.formats.textfiles import read_lines
from tenfold.faces.pictures import Span, printable

__all__ = ["record_io"]

_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MAX_BYTES = 256 << 20  # of one record
_MAX_LABEL = 1 << 24  # above it float32 has no odd numbers


@dataclass(frozen=True)
class _Record:
    """The labels of a record, and where its picture is: None where it has none."""

    labels: tuple[float, ...]
    picture: Span | bytes | None


class _Records:
    """Reads records at given places of a file; sizes in it are believed only as far as the file goes."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._size = os.fstat(descriptor).st_size
        self._joined = 0  # bytes of split records, which are held in memory

    def read(self, start: int, where: str) -> _Record:
        part, length, body = self._frame(start, where)
        head = self._bytes(body, min(length, _HEADER.size + 8))
        if part == _FIRST:
            joined = self._join(start, where)
            head, length = joined[: _HEADER.size + 8], len(joined)
        elif part != _WHOLE:
            raise InputError(f"{where}: starts in the middle of a record; train.idx belongs to another train.rec")
        if length < _HEADER.size:
            raise InputError(f"{where}: has {length} bytes, fewer than its header; the file is damaged, copy it again")
        flag, label, _, _ = _HEADER.unpack_from(head)
        used = _HEADER.size + 4 * flag
        if used > length:
            raise InputError(f"{where}: says it has {flag:,} labels, more than it holds; it is damaged, copy it again")
        labels = struct.unpack_from(f"<{min(flag, 2)}f", head, _HEADER.size) if flag else (label,)
        if used == length:
            return _Record(labels, None)
        return _Record(labels, joined[used:] if part == _FIRST else Span(self._path, body + used, length - used))

    def _frame(self, start: int, where: str) -> tuple[int, int, int]:
        """Which part of a record lies at `start`, its length, and where its bytes begin."""
        frame = self._bytes(start, _FRAME.size)
        magic, word = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (0, 0)
        part, length, body = word >> 29, word & 0x1FFFFFFF, start + _FRAME.size
        if magic != _MAGIC or part > _LAST:
            raise InputError(f"{where}: no record begins there; train.rec is damaged, or train.idx is another set's")
        if length > _MAX_BYTES or body + length > self._size:
            raise InputError(
                f"{where}: says it has {length:,} bytes, which train.rec does not; it is cut, copy it again"
            )
        return part, length, body

    def _join(self, start: int, where: str) -> bytes:
        """The bytes of a record in parts; all such records together are at most as long as the file."""
        parts, part, at = [], _FIRST, start
        while part != _LAST:
            part, length, body = self._frame(at, where)
            if part != _FIRST if at == start else part not in (_MIDDLE, _LAST):
                raise InputError(f"{where}: a part of it is missing; train.rec is damaged, copy it again")
            self._joined += length + 4
            if self._joined > self._size:
                raise InputError(f"{where}: records lie in each other; train.idx is damaged, copy it again")
            parts.append(self._bytes(body, length))
            at = body + (length + 3) // 4 * 4
        return struct.pack("<I", _MAGIC).join(parts)

    def _bytes(self, start: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, start) if 0 <= start < self._size else b""


def record_io(folder: Path | str, progress: Progress = no_progress) -> FaceSet:
    """The pictures of a folder with `train.rec`, `train.idx` and, where it is there, `property`.

    Pictures stay in the file: each source is the span of its bytes. People are called by their number in the file.

    Raises:
        InputError: A file is missing, cut or damaged, or the three do not belong together.
    """
    path = Path(folder) / "train.rec"
    name = printable(path)
    places = _places(path.with_name("train.idx"))
    try:
        with open(path, "rb") as file:
            keys, records = _pictures(_Records(path, file.fileno()), places, name, progress)
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; give the folder that holds train.rec and train.idx") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); check its permissions and its disk") from None
    owners = [_person(record, f"{name}: record {key}") for key, record in zip(keys, records, strict=True)]
    people, labels = np.unique(np.array(owners, np.int64), return_inverse=True)
    _check_property(path.with_name("property"), len(people))
    sources = tuple(record.picture for record in records if record.picture is not None)
    names = tuple(f"train.rec: record {key}" for key in keys)
    return FaceSet(sources, names, labels.astype(np.int64), tuple(map(str, people.tolist())))


def _places(path: Path) -> dict[int, int]:
    """Where each record begins, by its key, in the order of the keys."""
    places: dict[int, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isascii() and field.isdigit() and len(field) < 19 for field in fields):
            raise InputError(f"{printable(path)}: line {number:,}: {line[:40]!r} is no key and place; copy it again")
        if int(fields[0]) in places:
            raise InputError(f"{printable(path)}: line {number:,}: key {fields[0]} is there twice; copy it again")
        places[int(fields[0])] = int(fields[1])
    if not places:
        raise InputError(f"{printable(path)}: names no record; it is empty, copy it again")
    return dict(sorted(places.items()))


def _pictures(
    records: _Records, places: dict[int, int], name: str, progress: Progress
) -> tuple[list[int], Sequence[_Record]]:
    """Keys and records of the pictures alone."""
    keys = list(places)
    if keys[0] == 0:
        first = records.read(places[0], f"{name}: record 0")
        if first.picture is None:
            keys = _picture_keys(first, places, name)
            behind = keys[-1] + 1
            if behind in places and records.read(places[behind], f"{name}: record {behind}").picture is not None:
                raise InputError(f"{name}: record {behind}: has a picture, which record 0 denies; copy the set again")
    found = []
    for done, key in enumerate(keys, 1):
        record = records.read(places[key], f"{name}: record {key}")
        if record.picture is None:
            raise InputError(f"{name}: record {key}: has no picture; train.idx belongs to another train.rec")
        found.append(record)
        if done % 1024 == 0 or done == len(keys):
            progress("index", done, len(keys))
    return keys, found


def _picture_keys(first: _Record, places: dict[int, int], name: str) -> list[int]:
    end = first.labels[0] if len(first.labels) == 2 else float("nan")
    if not 1 < end <= 1 << 32:
        raise InputError(f"{name}: record 0: does not say where the pictures end; it is damaged, copy it again")
    keys = [key for key in places if 1 <= key < end]
    if len(keys) != end - 1:
        raise InputError(
            f"{name}: record 0: says there are {end - 1:,.0f} pictures, train.idx has {len(keys):,}; copy it again"
        )
    return keys


def _person(record: _Record, where: str) -> int:
    label = record.labels[0]
    if not (0 <= label <= _MAX_LABEL and label == int(label)):
        raise InputError(f"{where}: says its person is number {label}; the file is damaged, copy it again")
    return int(label)


def _check_property(path: Path, count: int) -> None:
    """Compare with the number of people that `property` says, if it is there."""
    if not path.exists():
        return
    line = " ".join(read_lines(path)[:1])
    fields = line.split(",")
    if len(fields) != 3 or not all(field.strip().isdigit() and len(field) < 12 for field in fields):
        raise InputError(f"{printable(path)}: {line[:40]!r} is not people, height and width, as in '10572,112,112'")
    if int(fields[0]) < count:
        raise InputError(f"{printable(path)}: says {fields[0]} people, train.rec has {count:,}; it is another set's")
