"""Texts and metadata of an index's rows, in a table beside it that keeps step with it through any crash.

Index and table cannot change in one step. So every version of a document has a number, which the index keeps as an
attribute of the row, and the index alone says which version counts:

    1. the table gets the new versions, and the ids as those that are changing
    2. the index gets the rows, with the versions' numbers      <- the moment at which the change is made
    3. the table loses the old versions, and the ids are changing no longer

A change that stopped halfway is finished, or taken back, when the index is opened for writing again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tenfold.core.errors import InputError
from tenfold.search.living import LivingIndex
from tenfold.search.tables import Table, is_writable_text

__all__ = ["VERSION_COLUMN", "Documents", "Entry", "checked_entry"]

VERSION_COLUMN = "_document"
"""The column of the index that names the version of a row's document."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS documents "
    "(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, content TEXT NOT NULL, metadata TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS documents_by_id ON documents (id)",
    "CREATE TABLE IF NOT EXISTS changing (id TEXT PRIMARY KEY) WITHOUT ROWID",
)
_CHECK = "SELECT number, id, content, metadata, (SELECT count(*) FROM changing) FROM documents LIMIT 1"


class Entry(NamedTuple):
    """A document as the table keeps it: its id, text, and metadata as JSON."""

    id: str
    content: str
    metadata: str


def checked_entry(name: str, content: object, metadata: object) -> Entry:
    """A document to be kept; InputError where JSON or UTF-8 cannot hold it."""
    if not is_writable_text(content):
        raise InputError(f"document {name!r}: its content is {content!r:.60}; a text is needed")
    if not isinstance(metadata, dict):
        raise InputError(f"document {name!r}: its metadata are {metadata!r:.60}; a dictionary is needed")
    try:
        return Entry(name, str(content), json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"document {name!r}: its metadata cannot be kept as JSON: {error}") from None


class Documents:
    """The table of an open index; any number of threads may read, one at a time may change."""

    def __init__(self, path: Path, index: LivingIndex) -> None:
        """Open it, or make it, and finish what stopped halfway. Raises InputError where that cannot be."""
        self._index = index
        self._table = Table(path, _SCHEMA, _CHECK, read_only=index.read_only)
        if not index.read_only:
            self._settle([name for (name,) in self._table.read("SELECT id FROM changing")])

    def put(self, entries: Sequence[Entry], change: Callable[[list[int]], Any]) -> None:
        """Have `change` give the index the rows of these documents, with their versions' numbers."""
        names = [entry.id for entry in entries]
        with self._table.changing() as table:
            insert = "INSERT INTO documents (id, content, metadata) VALUES (?, ?, ?)"
            versions = [int(table.execute(insert, entry).lastrowid or 0) for entry in entries]
            table.executemany("INSERT OR IGNORE INTO changing VALUES (?)", [(name,) for name in names])
        try:
            change(versions)
        finally:
            self._settle(names)

    def delete(self, names: Sequence[str]) -> int:
        """Delete documents and their rows; those that are not there are passed over. Returns how many were there."""
        with self._table.changing() as table:
            table.executemany("INSERT OR IGNORE INTO changing VALUES (?)", [(name,) for name in names])
        try:
            return self._index.delete(names)
        finally:
            self._settle(names)

    def clear(self) -> None:
        """Delete all documents and all rows."""
        with self._table.changing() as table:
            table.execute("INSERT OR IGNORE INTO changing SELECT id FROM documents")
        self._index.clear()
        with self._table.changing() as table:
            table.execute("DELETE FROM documents")
            table.execute("DELETE FROM changing")

    def find(self, names: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Texts and metadata by id, of rows that the index holds; of a version that counts, or counted a moment ago."""
        versions: dict[str, dict[int, tuple[str, str]]] = {}
        statement = "SELECT id, number, content, metadata FROM documents WHERE id IN ({}) ORDER BY number"
        for name, number, content, metadata in self._table.read_among(statement, list(names)):
            versions.setdefault(name, {})[number] = content, metadata
        found = {}
        for name, known in versions.items():
            number = self._current(name) if len(known) > 1 else None
            content, metadata = known.get(number or 0, list(known.values())[-1])
            try:
                found[name] = content, json.loads(metadata)
            except ValueError:
                raise InputError(f"{self._table.path}: the metadata of {name!r} are no JSON; it is damaged") from None
        return found

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def _current(self, name: str) -> int | None:
        """The number of the version that counts; None where the index does not hold the row."""
        try:
            number: int | None = self._index.attributes([name])[VERSION_COLUMN][0]
        except InputError:
            if self._index.contains([name])[0]:
                raise
            return None
        return number

    def _settle(self, names: Sequence[str]) -> None:
        """Keep only the versions that the index names."""
        if not names:
            return
        held = self._index.contains(names)
        there = [name for name, is_held in zip(names, held.tolist(), strict=True) if is_held]
        numbers = self._index.attributes(there)[VERSION_COLUMN]
        with self._table.changing() as table:
            gone = [(name,) for name, is_held in zip(names, held.tolist(), strict=True) if not is_held]
            table.executemany("DELETE FROM documents WHERE id = ?", gone)
            kept = zip(there, numbers, strict=True)
            table.executemany("DELETE FROM documents WHERE id = ? AND number IS NOT ?", kept)
            table.executemany("DELETE FROM changing WHERE id = ?", [(name,) for name in names])
