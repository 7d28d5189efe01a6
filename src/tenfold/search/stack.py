"""What a living index consists of: segments, deltas, the log, and the snapshot that names them on disk.

Whoever changes it holds `lock`. A search takes `view`, which nothing changes any more.
"""

import contextlib
import json
import re
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.columns import Values, check_values
from tenfold.search.delta import Delta
from tenfold.search.exact import check_vectors
from tenfold.search.ids import check_numbers
from tenfold.search.index import IoBackend
from tenfold.search.log import ADD, DELETE, LOG_START, Durability, Log, Record, read_log
from tenfold.search.segments import Sealed, Segment, read_hidden, write_hidden
from tenfold.search.snapshot import Part, Snapshot, read_snapshot, write_snapshot
from tenfold.search.storage import LIVING_FILE, NO_ROOM, REPAIR
from tenfold.search.views import View
from tenfold.search.workplace import discard

__all__ = ["Opening", "Stack", "numbers_in", "remove"]

_RECORD_BYTES = 4 << 20  # of vectors in a record of the log
_COUNT = struct.Struct("<I")
_MOST_RECORDS = 1 << 63  # a number that the next one can still be written after
_NAMED = re.compile(r"(segment|log|hidden|rows)-(\d{6,})(-ids|-columns)?(\.npy|\.bin|\.json|\.work|\.partial)*")


class Opening(NamedTuple):
    """How an index is opened."""

    read_only: bool
    durability: Durability
    io: IoBackend
    cache: str | int


@dataclass(frozen=True)
class Frozen:
    """A delta that is being sealed, and the log that goes on behind it."""

    delta: Delta
    next_log: int


class Stack:
    """Segments, and what is not in them yet.

    Attributes:
        path: The folder.
        snapshot: What `living.json` says.
        parts: The segments, less their deleted rows.
        delta: Rows added since they were sealed.
        frozen: An older delta that is being sealed, or None.
        next_id: For rows that come without.
        view: All of that, for a search.
        lock: Held by whoever changes it.
    """

    def __init__(self, path: Path, opening: Opening) -> None:
        """Open what lies in the folder. Raises OSError, and InputError for damage."""
        self.path, self._opening = path, opening
        self.lock = threading.RLock()
        self._log: Log | None = None
        self.parts: tuple[Sealed, ...] = ()
        self.frozen: Frozen | None = None
        self._replayed: dict[str, int] = {}  # by log, up to which byte
        self.load()

    # --- from and to the disk -------------------------------------------------------------------------------

    def load(self) -> None:
        """Open the segments and replay the logs; again where a writer has replaced them meanwhile."""
        while True:
            snapshot, state, before = read_snapshot(self.path), self._state(), vars(self).copy()
            try:
                self._load(snapshot)
            except BaseException as error:
                vars(self).update(before)  # a reader goes on with what it had
                if not isinstance(error, InputError | OSError) or read_snapshot(self.path) == snapshot:
                    raise
            else:
                self._seen = state
                return

    def follow(self) -> None:
        """See what a writer has done since; hardly any work where that is nothing, and little where it is not much."""
        state = self._state()
        if state == self._seen:
            return
        is_longer = all(state.get(name, (0,))[0] >= read for name, read in self._replayed.items())
        if is_longer and read_snapshot(self.path) == self.snapshot:
            try:
                self._replay_logs(self._logs(state))
            finally:
                self.publish()  # also what comes before damage: it is there for those who ask for rows by their ids
            self._seen = state
        else:
            self.load()

    def _state(self) -> dict[str, tuple[int, ...]]:
        """What tells whether a writer has done anything: of the snapshot and of each log size, time and file."""
        found: dict[str, tuple[int, ...]] = {}
        for name in (LIVING_FILE, *(name for name in numbers_in(self.path) if name.startswith("log-"))):
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                facts = (self.path / name).stat()
                found[name] = facts.st_size, facts.st_mtime_ns, facts.st_ino
        return found

    def _load(self, snapshot: Snapshot) -> None:
        numbers = numbers_in(self.path)
        if not self._opening.read_only:
            self._tidy([snapshot], numbers)
        known = {part.segment.folder: part.segment for part in self.parts}
        self.parts = tuple(self._open_part(part, snapshot, known) for part in snapshot.parts)
        self.snapshot, self.frozen = snapshot, None
        self.delta = self.fresh_delta()
        self.next_id, self._sequence = snapshot.next_id, 0
        self._next_number = max(snapshot.next_number, 1 + max(numbers.values(), default=0))
        self._replayed = {}
        logs = self._logs(numbers)
        self._replay_logs(logs)
        if not self._opening.read_only:
            last = logs[-1] if logs else self.number()
            self._log = Log(snapshot.log_path(self.path, last), self._opening.durability)
        self.publish()

    def _logs(self, names: Iterable[str]) -> list[int]:
        """The numbers of the logs among some files that go on where the segments end."""
        named = [int(name.removeprefix("log-")) for name in names if name.startswith("log-")]
        return sorted(number for number in named if number >= self.snapshot.first_log)

    def _replay_logs(self, logs: Sequence[int]) -> None:
        """Do what logs say beyond the byte up to which they were replayed."""
        for number in logs:
            path = self.snapshot.log_path(self.path, number)
            for record in read_log(path, self._replayed.setdefault(path.name, LOG_START)):
                try:
                    self._replay(record)
                except (ValueError, OverflowError, struct.error, RecursionError) as error:
                    place = f"the record at byte {self._replayed[path.name]:,}"
                    raise InputError(f"{path}: {place} is no change of this index: {error!s:.200}; {REPAIR}") from None
                self._sequence = record.sequence
                self._replayed[path.name] += record.size

    def open_part(self, part: Part) -> Sealed:
        """Open a segment."""
        return self._open_part(part, self.snapshot, {})

    def _open_part(self, part: Part, snapshot: Snapshot, known: Mapping[Path, Segment]) -> Sealed:
        """Open a segment, or take it from those that are open if it is still the one that lies there."""
        segment = known.get(self.path / part.folder)
        if segment is None or not segment.lies_there():
            segment = Segment(self.path / part.folder, snapshot.columns, self._opening.io, self._opening.cache)
        if part.hidden is None:
            return Sealed(segment)
        return Sealed(segment, segment.choice(read_hidden(self.path / part.hidden, segment.index.rows)), part.hidden)

    def install(self, parts: Sequence[Sealed], first_log: int, frozen: Frozen | None) -> None:
        """Put these segments in place of those there are, and that frozen delta: on disk first, then for searches.

        Which rows are deleted follows from the log, so that must be on disk before it: else a power cut could leave
        neither a row nor what replaced it. Raises OSError, after which everything is as it was.
        """
        if self._log is not None:
            self._log.sync()
        saved = tuple(self.save_hidden([part for part in parts if part.alive]))
        snapshot = replace(
            self.snapshot,
            parts=tuple(Part(part.segment.folder.name, part.hidden) for part in saved),
            first_log=first_log, next_number=self._next_number, next_id=self.next_id,
        )  # fmt: skip
        write_snapshot(self.path, snapshot)
        self.snapshot, self.parts, self.frozen = snapshot, saved, frozen
        self.publish()
        self.tidy()

    def save_hidden(self, parts: Sequence[Sealed]) -> list[Sealed]:
        """Write down which rows of these segments are deleted, where that is not written yet."""
        saved = []
        for part in parts:
            if part.bits is not None and not part.is_saved:
                name = f"hidden-{self.number():06d}.bin"
                write_hidden(self.path / name, part.bits)
                part = part._replace(hidden=name, is_saved=True)
            saved.append(part)
        return saved

    def tidy(self) -> None:
        """Remove numbered files that no snapshot names: what a crash, a merge or a failed build left."""
        # That on the disk may be newer: it was replaced, but the disk could not say so.
        self._tidy((self.snapshot, read_snapshot(self.path)), numbers_in(self.path))

    def _tidy(self, snapshots: Sequence[Snapshot], numbers: Mapping[str, int]) -> None:
        kept = {name for one in snapshots for part in one.parts for name in (part.folder, part.hidden)}
        first_log = min(one.first_log for one in snapshots)
        for name, number in numbers.items():
            if name not in kept and not (name.startswith("log-") and number >= first_log):
                remove(self.path / name)

    def number(self) -> int:
        """The next number for a file."""
        self._next_number += 1
        return self._next_number - 1

    def close(self) -> None:
        """Bring the log to disk; nothing can be changed any more."""
        with self.lock:
            log, self._log = self._log, None
        if log is not None:
            try:
                log.close()
            except OSError as error:
                raise _trouble(log, error) from None

    # --- the log --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it takes changes."""
        return self._log is not None

    def writer(self) -> Log:
        """The log; InputError where nothing may be changed."""
        if self._opening.read_only:
            raise InputError(f"{self.path}: was opened read-only; open it anew to change it")
        if self._log is None:
            raise InputError(f"{self.path}: was closed; open it anew")
        return self._log

    def flush(self) -> None:
        """Wait until all changes so far are on disk."""
        log = self.writer()
        try:
            log.sync()
        except OSError as error:
            raise _trouble(log, error) from None

    def freeze(self) -> None:
        """Begin a new delta with a new log; the old delta waits to be sealed."""
        number = self._begin_log()
        self.frozen, self.delta = Frozen(self.delta, number), self.fresh_delta()
        self.publish()

    def clear(self) -> None:
        """Forget all rows: on disk in one step, then for searches."""
        number = self._begin_log()  # first, so that no change is written to a log that the new snapshot passes over
        # A search under way may still have to look up the texts of its rows: their numbers are not used again.
        start = 0 if self.snapshot.ids == "int64" else self.next_id
        empty = replace(self.snapshot, parts=(), first_log=number, next_number=self._next_number, next_id=start)
        try:
            write_snapshot(self.path, empty)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}; nothing was deleted") from None
        self.snapshot, self.parts, self.next_id = empty, (), start
        self.delta, self.frozen = self.fresh_delta(), None
        self.publish()
        self.tidy()

    def _begin_log(self) -> int:
        """Go on in a new log, once the old one is on disk; its number."""
        log, number = self.writer(), self.number()
        try:
            log.sync()  # while the log can still go on if that fails
            fresh = Log(self.snapshot.log_path(self.path, number), self._opening.durability)
        except OSError as error:
            raise _trouble(log, error) from None
        self._log = fresh
        log.close()
        return number

    def _record(self, operation: int, payload: bytes, outcome: str) -> None:
        log = self.writer()
        self._sequence += 1
        try:
            log.append(self._sequence, operation, payload)
        except OSError as error:
            raise _trouble(log, error, outcome) from None

    def _replay(self, record: Record) -> None:
        """Do what a record says. Raises what reading it does where nobody would have written it."""
        if record.sequence >= _MOST_RECORDS:
            raise InputError(f"its number is {record.sequence:,}")
        if record.operation == DELETE:
            self._hide(check_numbers(np.frombuffer(record.payload, "<i8")))
        elif record.operation == ADD:
            self._take(*_rows_in(record.payload, self.snapshot))
        else:
            raise InputError("it neither adds nor deletes")

    # --- rows -----------------------------------------------------------------------------------------------

    def put(self, rows: np.ndarray, ids: np.ndarray, attributes: Values, done: str) -> int:
        """Add rows, or replace them, as many as one record of the log holds; returns how many."""
        step = max(1, _RECORD_BYTES // (rows.shape[1] * rows.itemsize))
        rows, ids = rows[:step], ids[:step]
        values = {name: column[:step] for name, column in attributes.items()}
        payload = _COUNT.pack(len(rows)) + ids.astype("<i8").tobytes() + rows.tobytes()
        self._record(ADD, payload + (json.dumps(values).encode() if values else b""), done)
        self._take(rows, ids, values)
        self.publish()
        return len(rows)

    def delete(self, ids: np.ndarray) -> None:
        """Delete rows that are there."""
        self._record(DELETE, ids.astype("<i8").tobytes(), "nothing was deleted")
        self._hide(ids)
        self.publish()

    def deltas(self) -> list[Delta]:
        """The delta, and before it the one that is being sealed."""
        return [self.delta] if self.frozen is None else [self.frozen.delta, self.delta]

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids (n,) are there, (n,) bool."""
        held = np.zeros(len(ids), bool)
        for delta in self.deltas():
            held |= delta.holds(ids)
        for part in self.parts:
            held |= part.find(ids) >= 0
        return held

    def vectors_of(self, ids: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) of ids (n,), all of which are there."""
        found = np.empty((len(ids), self.snapshot.dim), self.snapshot.dtype)
        for delta in self.deltas():
            held = delta.holds(ids)
            found[held] = delta.at(ids[held])
        for part in self.parts:
            positions = part.find(ids)
            found[positions >= 0] = part.segment.index.stored.at(positions[positions >= 0])
        return found

    def attributes_of(self, ids: np.ndarray) -> Values:
        """Attributes of ids (n,); None where a row has none, or is not there."""
        found: Values = {name: [None] * len(ids) for name in self.snapshot.columns}
        if not found:
            return found
        for delta in self.deltas():
            held = delta.holds(ids)
            _fill(found, held, delta.attributes_of(ids[held]))
        for part in self.parts:
            positions = part.find(ids)
            _fill(found, positions >= 0, part.segment.attributes_at(positions[positions >= 0]))
        return found

    def fresh_delta(self) -> Delta:
        """A delta without rows."""
        return Delta(self.snapshot.dim, np.dtype(self.snapshot.dtype), self.snapshot.columns)

    def publish(self) -> None:
        """Show searches what there is now."""
        largest = tuple(sorted(self.parts, key=lambda part: -part.rows))
        self.view = View(largest, tuple(delta.view() for delta in self.deltas() if delta.rows))

    def _take(self, rows: np.ndarray, ids: np.ndarray, attributes: Values) -> None:
        self._hide(ids)
        self.delta.add(rows, ids, attributes)
        self.next_id = max(self.next_id, int(ids.max(initial=-1)) + 1)

    def _hide(self, ids: np.ndarray) -> None:
        for delta in self.deltas():
            delta.delete(ids[delta.holds(ids)])
        self.parts = tuple(part.less(ids) for part in self.parts)


def _rows_in(payload: bytes, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray, Values]:
    """Vectors, ids and attributes of a record, checked like those of a call. Raises ValueError and others."""
    dim, dtype = snapshot.dim, np.dtype(snapshot.dtype)
    (count,) = _COUNT.unpack_from(payload)
    end = _COUNT.size + count * (8 + dim * dtype.itemsize)
    if len(payload) < end:
        raise InputError("its vectors have another shape")
    ids = check_numbers(np.frombuffer(payload, "<i8", count, _COUNT.size))
    rows = np.frombuffer(payload[:end], dtype, offset=_COUNT.size + 8 * count).reshape(count, dim)
    values = json.loads(payload[end:]) if len(payload) > end else {}
    return check_vectors(rows, dim, dtype), ids, check_values(snapshot.columns, values, count)


def _fill(found: Values, rows: np.ndarray, values: Values) -> None:
    for name, column in values.items():
        for row, value in zip(np.flatnonzero(rows).tolist(), column, strict=True):
            found[name][row] = value


def numbers_in(folder: Path) -> dict[str, int]:
    """The numbered files and folders there."""
    return {entry.name: int(named[2]) for entry in folder.iterdir() if (named := _NAMED.fullmatch(entry.name))}


def remove(path: Path) -> None:
    """Remove a numbered file or folder; of folders only files of names that we use."""
    with contextlib.suppress(OSError):
        if not path.is_dir():
            path.unlink()
        elif path.name.endswith(".work"):
            for entry in path.glob("*.npy"):
                entry.unlink()
            path.rmdir()
        else:
            discard(path)


def _trouble(log: Log, error: OSError, outcome: str = "changes may be lost in a power cut") -> InputError:
    advice = "; make room and try again" if error.errno in NO_ROOM else ""
    return InputError(f"{log.path}: {error.strerror or error}; {outcome}{advice}")
