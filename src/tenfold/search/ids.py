"""Ids of rows: numbers from 0 on, or texts, which a table turns into the numbers that segments and logs know.

A text gets its number before its row is written, so a crash leaves at worst a number that no row has. Such numbers, and
those of deleted rows, are dropped when the index is compacted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.tables import Table, is_writable_text

__all__ = ["NAMES_FILE", "Names", "check_names", "check_numbers"]

NAMES_FILE = "names.sqlite"
_MOST_LENGTH = 65535
_SCHEMA = "CREATE TABLE IF NOT EXISTS names (text TEXT PRIMARY KEY, number INTEGER UNIQUE NOT NULL) WITHOUT ROWID"


class Names:
    """The table; any number of threads may call. InputError where the file is damaged, or not readable or writable."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open it, or make it."""
        self._table = Table(path, [_SCHEMA], "SELECT max(number) FROM names", read_only=read_only)

    def numbers(self, texts: Sequence[str], first_new: int | None = None) -> np.ndarray:
        """Numbers (n,) int64 of texts (n,); -1 for unknown ones, or new numbers from `first_new` on."""
        found = dict(self._table.read_among("SELECT text, number FROM names WHERE text IN ({})", texts))
        fresh = [] if first_new is None else [text for text in texts if text not in found]
        if first_new is not None and fresh:
            with self._table.changing() as table:
                (last,) = table.execute("SELECT coalesce(max(number), -1) FROM names").fetchone()
                new = list(zip(fresh, range(max(first_new, last + 1), 1 << 63), strict=False))
                table.executemany("INSERT INTO names VALUES (?, ?)", new)
            found |= new
        return np.array([found.get(text, -1) for text in texts], np.int64)

    def texts(self, numbers: np.ndarray) -> np.ndarray:
        """Texts of numbers of any shape, as an array of objects; None for -1."""
        wanted = np.unique(numbers[numbers >= 0]).tolist()
        known = dict(self._table.read_among("SELECT number, text FROM names WHERE number IN ({})", wanted))
        found = np.empty(numbers.size, object)
        found[:] = [known.get(number) for number in numbers.ravel().tolist()]
        return found.reshape(numbers.shape)

    def drop_others(self, holds: Callable[[np.ndarray], np.ndarray]) -> None:
        """Forget the texts whose numbers (n,) are not held, which `holds` says."""
        last = -1
        while page := self._table.read(
            "SELECT number FROM names WHERE number > ? ORDER BY number LIMIT 100000", (last,)
        ):
            numbers = np.array(page, np.int64)[:, 0]
            last = int(numbers[-1])
            gone = numbers[~holds(numbers)].tolist()
            if gone:
                with self._table.changing() as table:
                    table.executemany("DELETE FROM names WHERE number = ?", [(number,) for number in gone])

    def close(self) -> None:
        """Close the file."""
        self._table.close()


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
        if not is_writable_text(text) or not 0 < len(text) <= _MOST_LENGTH:
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
