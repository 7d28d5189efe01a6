"""Ids of rows: numbers from 0 on, or texts, which a table turns into the numbers that segments and logs know.

A text gets its number before its row is written, so a crash leaves at worst a number that no row has. Such numbers, and
those of deleted rows, are dropped when the index is compacted.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError

__all__ = ["NAMES_FILE", "Names", "check_names", "check_names_file", "check_numbers"]

NAMES_FILE = "names.sqlite"
_MOST_LENGTH = 65535
_ROWS = 500  # per statement; SQLite takes 999 variables in all its builds
_SECONDS = 60.0  # to wait for another process


class Names:
    """The table; any number of threads may call."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open it, or make it. Raises InputError where the file is damaged or not readable."""
        self.path, self._lock = path, threading.Lock()
        mode = "ro" if read_only else "rwc"
        try:
            self._table = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True, timeout=_SECONDS, isolation_level=None, check_same_thread=False,
            )  # fmt: skip
            if not read_only:
                # Whatever the log's durability: merging syncs the log, and every number in it needs its text.
                self._table.execute("PRAGMA synchronous = FULL")
                self._table.execute(
                    "CREATE TABLE IF NOT EXISTS names (text TEXT PRIMARY KEY, number INTEGER UNIQUE NOT NULL) "
                    "WITHOUT ROWID"
                )
            self._table.execute("SELECT max(number) FROM names").fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def numbers(self, texts: Sequence[str], first_new: int | None = None) -> np.ndarray:
        """Numbers (n,) int64 of texts (n,); -1 for unknown ones, or new numbers from `first_new` on."""
        found: dict[str, int] = {}
        try:
            with self._lock:
                for some in _pieces(texts):
                    marks = ",".join("?" * len(some))
                    found |= self._table.execute(f"SELECT text, number FROM names WHERE text IN ({marks})", some)
                if first_new is not None:
                    (last,) = self._table.execute("SELECT coalesce(max(number), -1) FROM names").fetchone()
                    fresh = [text for text in texts if text not in found]
                    first = max(first_new, last + 1)
                    found |= zip(fresh, range(first, first + len(fresh)), strict=True)
                    self._change("INSERT INTO names VALUES (?, ?)", [(text, found[text]) for text in fresh])
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        return np.array([found.get(text, -1) for text in texts], np.int64)

    def texts(self, numbers: np.ndarray) -> np.ndarray:
        """Texts of numbers of any shape, as an array of objects; None for -1."""
        known: dict[int, str] = {}
        try:
            with self._lock:
                for some in _pieces(np.unique(numbers[numbers >= 0]).tolist()):
                    marks = ",".join("?" * len(some))
                    known |= self._table.execute(f"SELECT number, text FROM names WHERE number IN ({marks})", some)
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        found = np.empty(numbers.size, object)
        found[:] = [known.get(number) for number in numbers.ravel().tolist()]
        return found.reshape(numbers.shape)

    def drop_others(self, holds: Callable[[np.ndarray], np.ndarray]) -> None:
        """Forget the texts whose numbers (n,) are not held, which `holds` says."""
        last = -1
        try:
            while True:
                with self._lock:
                    page = self._table.execute(
                        "SELECT number FROM names WHERE number > ? ORDER BY number LIMIT 100000", (last,)
                    ).fetchall()
                if not page:
                    return
                numbers = np.array(page, np.int64)[:, 0]
                last = int(numbers[-1])
                gone = numbers[~holds(numbers)].tolist()
                with self._lock:
                    self._change("DELETE FROM names WHERE number = ?", [(number,) for number in gone])
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def _change(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            self._table.execute("BEGIN IMMEDIATE")
            try:
                self._table.executemany(statement, rows)
                self._table.execute("COMMIT")
            except BaseException:
                self._table.execute("ROLLBACK")
                raise

    def _trouble(self, error: sqlite3.Error) -> InputError:
        return InputError(f"{self.path}: {error}; restore it from a copy")


def check_numbers(ids: Any, count: int | None = None, *, unique: bool = True) -> np.ndarray:
    """Ids as (n,) int64; InputError for others than whole numbers from 0 on, a wrong number of them, or repetition."""
    numbers = np.asarray(ids)
    if numbers.size == 0:
        numbers = numbers.reshape(-1).astype(np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"ids are {numbers.dtype} of shape {numbers.shape}; whole numbers are needed, one per row")
    if count is not None and len(numbers) != count:
        raise InputError(f"there are {len(numbers):,} ids for {count:,} vectors")
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= 1 << 63):
        raise InputError("ids are whole numbers from 0 on, below 2^63")
    numbers = numbers.astype(np.int64)
    if unique and len(numbers) > 1:
        inorder = np.sort(numbers)
        twice = np.flatnonzero(inorder[1:] == inorder[:-1])
        if len(twice):
            raise InputError(f"id {inorder[twice[0]]} comes twice in one call")
    return numbers


def check_names(names: Sequence[str] | np.ndarray, count: int | None = None, *, unique: bool = True) -> list[str]:
    """Ids that are texts, (n,); InputError for others, a wrong number of them, or repetition."""
    texts = [names] if isinstance(names, str) else names.tolist() if isinstance(names, np.ndarray) else list(names)
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= _MOST_LENGTH:
            raise InputError(
                f"id {text!r:.60} is no text of 1 to {_MOST_LENGTH:,} letters, as the ids of this index are"
            )
    if count is not None and len(texts) != count:
        raise InputError(f"there are {len(texts):,} ids for {count:,} vectors")
    if unique and len(set(texts)) < len(texts):
        seen: set[str] = set()
        twice = next(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise InputError(f"id {twice!r} comes twice in one call")
    return [str(text) for text in texts]


def check_names_file(path: Path) -> list[str]:
    """A line if the table is damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            (result,) = table.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    return [] if result == "ok" else [f"{path}: {result}; restore it from a copy"]


def _pieces(items: Sequence[str] | Sequence[int]) -> list[Sequence[str] | Sequence[int]]:
    return [items[start : start + _ROWS] for start in range(0, len(items), _ROWS)]
