"""Sealing full deltas and merging segments, in a thread of its own, one after the other."""

import atexit
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.planning import plan_index
from tenfold.search.sealing import Job, run_job
from tenfold.search.segments import Sealed, is_set
from tenfold.search.snapshot import Part
from tenfold.search.stack import Stack
from tenfold.search.storage import NO_ROOM, replace_file, save_array

__all__ = ["Maintainer"]

_DELTA_ROWS = 8192  # that are sealed together
_MOST_DELTAS = 8  # so many times as many may wait while others are sealed
_SAME_SIZE = 4  # segments of about one size that are merged; the factor between sizes, too
_MOST_DELETED = 0.2  # share of a segment's rows, beyond which it is written anew
_MERGED_ROW_BYTES = 48  # more than a build: ids, where each row comes from, and some slack
_PATIENCE = 60.0  # seconds, in case a fork has left the lock below held for good

# Whoever makes a segment holds it, but while another process does the work. Python takes it when it ends: a thread that
# came back from native code after that would end the process with a signal.
_AWAKE = threading.Lock()
atexit.register(_AWAKE.acquire, timeout=_PATIENCE)


class Maintainer:
    """Keeps a stack low. Attribute `trouble` says why it stopped, if it did."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._working = threading.Lock()  # held while a segment is made; always taken before the stack's
        self._changed = threading.Condition(stack.lock)
        self._thread: threading.Thread | None = None
        self.trouble: InputError | None = None
        self._retry_at = 0  # rows in the delta

    @property
    def is_busy(self) -> bool:
        """Whether something is being sealed or merged."""
        return self._thread is not None

    def wait_for_room(self) -> None:
        """Before a change, the stack's lock held, which is let go meanwhile: wait where too much waits to be sealed.

        Raises InputError where it cannot be sealed, or the index is closed meanwhile.
        """
        stack = self._stack
        while stack.frozen is not None and stack.delta.rows >= _MOST_DELTAS * _DELTA_ROWS:
            self.trouble = None  # it is tried again
            self.start_what_is_due()
            self._changed.wait_for(lambda: stack.frozen is None or self.trouble is not None or not stack.is_open)
            if self.trouble is not None:
                raise self.trouble
            stack.writer()

    def start_what_is_due(self) -> None:
        """After a change, the stack's lock held: have full deltas sealed, and segments merged, in the background."""
        self._freeze_full()
        if self.trouble is not None and self._stack.delta.rows >= self._retry_at:
            self.trouble = None
        if self._thread is None and self.trouble is None and self._next_task() is not None:
            self._thread = threading.Thread(target=self._run, name="tenfold-maintenance", daemon=True)
            self._thread.start()

    def compact(self, threads: int) -> None:
        """Make one segment of all rows. Raises InputError where the disk has no room for it."""
        stack = self._stack
        with self._working, _AWAKE:
            self.trouble = None
            with stack.lock:
                stack.writer()
                if stack.frozen is None and stack.delta.rows:
                    stack.freeze()
            if stack.frozen is not None:
                self._seal(threads)
            if len(stack.parts) > 1 or any(part.alive < part.rows for part in stack.parts):
                self._merge(stack.parts, threads, anew=True)

    def clear(self) -> int:
        """Delete all rows, once what is being made is finished; how many there were."""
        stack = self._stack
        with self._working, stack.lock:
            rows = sum(part.alive for part in stack.parts) + sum(len(delta) for delta in stack.deltas())
            stack.clear()
            self.trouble = None
            self._changed.notify_all()
        return rows

    def calibrate(self, calibrate: Callable[[Sealed], None]) -> None:
        """Do something to every segment while none is replaced."""
        with self._working:
            self._stack.writer()
            for part in self._stack.parts:
                calibrate(part)

    def wait(self) -> None:
        """Until nothing is being sealed or merged in the background."""
        if (thread := self._thread) is not None:
            thread.join()

    def close(self) -> None:
        """Once the stack is closed: let those go who wait for room, and wait until no thread seals or merges."""
        with self._changed:
            self._changed.notify_all()
        self.wait()
        with self._working:  # `compact`, `clear` and `calibrate` work in threads of others
            pass

    def _run(self) -> None:
        """One task after the other until none is left, the stack is closed, or one fails."""
        with self._working, _AWAKE:
            while True:
                with self._stack.lock:
                    self._freeze_full()
                    task, rows = self._next_task(), self._stack.delta.rows
                    if task is None:
                        self._thread = None
                        return
                try:
                    task()
                except BaseException as error:
                    with self._stack.lock:
                        self._retry_at = rows + _DELTA_ROWS
                        if isinstance(error, InputError) and self._stack.delta.rows >= self._retry_at:
                            continue  # as many changes came meanwhile as it takes to try again
                        self.trouble = error if isinstance(error, InputError) else InputError(repr(error))
                        self._thread = None
                        self._changed.notify_all()
                    if not isinstance(error, InputError):
                        raise
                    return

    def _freeze_full(self) -> None:
        stack = self._stack
        if stack.is_open and stack.delta.rows >= _DELTA_ROWS and stack.frozen is None:
            try:
                stack.freeze()
                self.trouble = None  # it is tried again
            except InputError as error:  # of the disk; whoever made the change that is in the log has done all right
                self.trouble, self._retry_at = error, stack.delta.rows + _DELTA_ROWS

    def _next_task(self) -> Callable[[], None] | None:
        if not self._stack.is_open:
            return None
        if self._stack.frozen is not None:
            return lambda: self._seal(1)
        chosen = _to_merge(self._stack.parts)
        return (lambda: self._merge(chosen, 1)) if chosen else None

    def _seal(self, threads: int) -> None:
        """Make a segment of the frozen delta."""
        stack = self._stack
        with stack.lock:
            frozen = stack.frozen
            assert frozen is not None
            vectors, ids, values = frozen.delta.sorted_rows()
            name, rows = f"segment-{stack.number():06d}", f"rows-{stack.number():06d}"
        with self._making():
            made: list[Sealed] = []
            if len(ids):
                save_array(stack.path / f"{rows}.npy", vectors)
                save_array(stack.path / f"{rows}-ids.npy", ids)
                with replace_file(stack.path / f"{rows}-columns.json") as file:
                    file.write(json.dumps(values).encode())
                made.append(self._build(name, rows, (), len(ids), threads))
            with stack.lock:
                gone = ids[~frozen.delta.holds(ids)]
                stack.install((*stack.parts, *(part.less(gone) for part in made)), frozen.next_log, None)
                self._changed.notify_all()

    def _merge(self, parts: Sequence[Sealed], threads: int, *, anew: bool = False) -> None:
        """Make one segment of several, or of one with deleted rows."""
        stack = self._stack
        self._check_disk(parts)
        with self._making():
            with stack.lock:
                folders = {part.segment.folder for part in parts}
                before = stack.save_hidden([part for part in stack.parts if part.segment.folder in folders])
                name = f"segment-{stack.number():06d}"
            inputs = [(part.segment.folder.name, part.hidden) for part in before]
            rows = sum(part.alive for part in before)
            made = [self._build(name, None, inputs, rows, threads, anew=anew)] if rows else []
            with stack.lock:
                now = {part.segment.folder: part for part in stack.parts}
                for part in before:
                    gone = part.segment.ids_at(_cleared(part, now[part.segment.folder]))
                    made = [one.less(gone) for one in made]
                rest = [part for part in stack.parts if part.segment.folder not in folders]
                stack.install((*rest, *made), stack.snapshot.first_log, stack.frozen)

    def _build(
        self,
        name: str,
        rows: str | None,
        inputs: Sequence[tuple[str, str | None]],
        count: int,
        threads: int,
        *,
        anew: bool = False,
    ) -> Sealed:
        """A segment of `count` rows."""
        stack, made_with = self._stack, self._stack.snapshot
        like = None if anew else _like(stack.parts, count)
        job = Job(name, rows, inputs, like, made_with.columns, made_with.settings, threads, anew)
        _AWAKE.release()
        try:
            run_job(stack.path, job)
        finally:
            _AWAKE.acquire()
        return stack.open_part(Part(name))

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Where a segment cannot be made, remove what there is of it, and say why in an InputError."""
        try:
            yield
        except BaseException as error:
            with self._stack.lock, suppress(InputError, OSError):
                self._stack.tidy()
            if isinstance(error, OSError):
                advice = "; make room, nothing is lost meanwhile" if error.errno in NO_ROOM else ""
                raise InputError(f"{self._stack.path}: {error.strerror or error}{advice}") from None
            raise

    def _check_disk(self, parts: Sequence[Sealed]) -> None:
        stack = self._stack
        rows, made_with = sum(part.alive for part in parts), stack.snapshot
        if rows == 0:
            return
        settings = {name: value for name, value in made_with.settings.items() if name != "seed"}
        plan = plan_index(rows, made_with.dim, made_with.dtype, cores=1, **settings)
        needed = plan.build_disk_bytes + _MERGED_ROW_BYTES * rows
        free = shutil.disk_usage(stack.path).free
        if free < needed:
            raise InputError(
                f"{stack.path}: compaction needs {needed / 2**20:,.0f} MB on the disk, {free / 2**20:,.0f} MB are "
                "free; make room, nothing is lost meanwhile"
            )


def _to_merge(parts: Sequence[Sealed]) -> list[Sealed]:
    """Segments that should be one: several of about one size, or one with many deleted rows and all smaller ones."""
    for part in sorted(parts, key=lambda part: -part.rows):
        if part.rows - part.alive > _MOST_DELETED * part.rows:
            return [other for other in parts if other is part or other.rows < part.rows]
    by_size: dict[int, list[Sealed]] = {}
    for part in parts:
        size = int(math.log(max(part.rows / _DELTA_ROWS, 1), _SAME_SIZE))
        by_size.setdefault(size, []).append(part)
    return next((same for _, same in sorted(by_size.items()) if len(same) >= _SAME_SIZE), [])


def _like(parts: Sequence[Sealed], rows: int) -> str | None:
    """The folder of the segment whose size is nearest to so many rows, within a factor of two."""
    by_ratio = {abs(math.log(part.rows / rows)): part.segment.folder.name for part in parts if part.rows}
    nearest = min(by_ratio, default=math.inf)
    return by_ratio[nearest] if nearest <= math.log(2) else None


def _cleared(before: Sealed, now: Sealed) -> np.ndarray:
    """Positions of rows that were deleted in between."""
    places = np.arange(before.rows)
    return np.flatnonzero(is_set(before.bits, places) & ~is_set(now.bits, places))
