"""Tables beside an index: SQLite files, read and changed by any number of threads."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tenfold.core.errors import InputError

__all__ = ["Table", "check_table_file", "is_writable_text"]

_ITEMS = 500  # per statement; SQLite takes 999 variables in all its builds
_SECONDS = 60.0  # to wait for another process
_ADVICE = {
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_READONLY: "make it writable",
    sqlite3.SQLITE_CANTOPEN: "see that its folder is there and may be written",
    sqlite3.SQLITE_BUSY: "another process holds it; try again",
    sqlite3.SQLITE_IOERR: "the disk fails; what was written before is kept",
}


class Table:
    """One file. Every method raises InputError where the file is damaged, or cannot be read or written."""

    def __init__(self, path: Path, schema: Sequence[str], check: str, *, read_only: bool) -> None:
        """Open it, or make it by the statements of `schema`; `check` is one that a file of this kind answers."""
        self.path, self._lock = path, threading.RLock()
        mode = "ro" if read_only else "rwc"
        with self._reporting():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True, timeout=_SECONDS, isolation_level=None, check_same_thread=False,
            )  # fmt: skip
        try:
            if not read_only:
                # Whatever the log's durability: what it names must be here.
                self.read("PRAGMA synchronous = FULL")
                for statement in schema:
                    self.read(statement)
            self.read(check)
        except InputError:
            self._connection.close()
            raise

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows that a statement gives."""
        with self._reporting():
            return self._connection.execute(statement, values).fetchall()

    def read_among(self, statement: str, items: Sequence[Any]) -> list[Any]:
        """All rows that a statement with `IN ({})` gives for any number of items."""
        found = []
        with self._lock:
            for start in range(0, len(items), _ITEMS):
                some = items[start : start + _ITEMS]
                found += self.read(statement.format(",".join("?" * len(some))), some)
        return found

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """What is executed in the block is done as a whole or not at all; on disk when it ends."""
        with self._reporting():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it by itself
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                raise InputError(f"{self.path}: {error}; {_ADVICE.get(code, 'restore it from a copy')}") from None


def check_table_file(path: Path) -> list[str]:
    """A line if the file is damaged."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as table:
            (result,) = table.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    return [] if result == "ok" else [f"{path}: {result}; restore it from a copy"]


def is_writable_text(value: object) -> bool:
    """Whether it is a text that UTF-8 can hold: one without halves of surrogate pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
