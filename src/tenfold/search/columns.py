"""Columns of a living index: typed attributes of its rows, sorted, so that values are found by bisection.

A column of a segment is its known values in rising order and the positions of their rows; a row without a value is
nowhere in it. Categories are numbers of words, which are sorted too.
"""

import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.storage import REPAIR, SectionFile, SectionWriter
from tenfold.search.tables import is_writable_text

__all__ = [
    "COLUMNS_FILE",
    "Column",
    "ColumnType",
    "Columns",
    "Values",
    "check_columns",
    "check_value",
    "check_values",
    "merged",
    "read_columns",
    "sorted_column",
    "write_columns",
]

ColumnType = Literal["int", "float", "category", "bool"]
"""What a column holds: whole numbers of 64 bits, floats of 64 bits, words, or true and false."""

Columns = dict[str, ColumnType]
"""The columns of an index by their names."""

Values = dict[str, list[Any]]
"""By column, a value per row; None where a row has none."""

COLUMNS_FILE = "columns.bin"
_MOST_COLUMNS = 15  # of four sections each in a file
_MOST_NAME, _MOST_WORD = 255, 65535
_DTYPES = {"int": "<i8", "float": "<f8", "category": "<u4", "bool": "|u1"}
_WANTED = {
    "int": "a whole number of 64 bits",
    "float": "a number",
    "category": "a text",
    "bool": "true or false",
}


class Words(Sequence[str]):
    """Sorted words, read from their UTF-8 bytes only when asked for."""

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        """`text` is the bytes of all, (b,) uint8; `ends` where each ends, (words,) uint64."""
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, at: Any) -> Any:
        first = int(self._ends[at - 1]) if at else 0
        return bytes(self._text[first : int(self._ends[at])]).decode()


@dataclass(frozen=True)
class Column:
    """A column of some rows.

    Attributes:
        kind: What it holds.
        values: Known values, rising; of categories the numbers of their words.
        order: Positions of their rows, (len(values),) uint32.
        words: Of categories, sorted.
    """

    kind: ColumnType
    values: np.ndarray
    order: np.ndarray
    words: Sequence[str] = ()

    def shown(self, at: int) -> Any:
        """The value at that place of the order, as it was given."""
        value = self.values[at].item()
        return self.words[value] if self.kind == "category" else bool(value) if self.kind == "bool" else value

    def equal(self, value: Any) -> np.ndarray:
        """Positions of the rows with that value."""
        if self.kind == "category":
            at = bisect_left(self.words, value)
            if at == len(self.words) or self.words[at] != value:
                return self.order[:0]
            value = at
        first, last = np.searchsorted(self.values, value, "left"), np.searchsorted(self.values, value, "right")
        return self.order[first:last]

    def above(self, value: Any, *, inclusive: bool) -> np.ndarray:
        """Positions of the rows with greater values, or equal ones too."""
        return self.order[np.searchsorted(self.values, value, "left" if inclusive else "right") :]

    def below(self, value: Any, *, inclusive: bool) -> np.ndarray:
        """Positions of the rows with smaller values, or equal ones too."""
        return self.order[: np.searchsorted(self.values, value, "right" if inclusive else "left")]


def check_columns(columns: Mapping[str, Any]) -> Columns:
    """The columns of a new index; InputError where a name or a type is none, or there are too many."""
    if len(columns) > _MOST_COLUMNS:
        raise InputError(f"there are {len(columns)} columns; an index has up to {_MOST_COLUMNS}")
    for name, kind in columns.items():
        if not is_writable_text(name) or not 0 < len(name.encode()) <= _MOST_NAME or name.startswith("$"):
            raise InputError(f"{name!r} is no name of a column; take a text that does not begin with $")
        if kind not in get_args(ColumnType):
            raise InputError(f"column {name}: its type is {kind!r}; choose {', '.join(get_args(ColumnType))}")
    return dict(columns)


def check_value(columns: Columns, name: str, value: Any) -> Any:
    """A value as that column keeps it; InputError where it has another type, or there is no such column."""
    kind = columns.get(name)
    if kind is None:
        known = ", ".join(columns) or "none"
        raise InputError(f"there is no column {name!r}; this index has {known}")
    if isinstance(value, np.generic):
        value = value.item()
    fits = {
        "int": type(value) is int and -(1 << 63) <= value < 1 << 63,
        "float": type(value) in (int, float) and abs(value) <= sys.float_info.max,
        "category": is_writable_text(value) and len(value) <= _MOST_WORD,
        "bool": type(value) is bool,
    }[kind]
    if not fits:
        raise InputError(f"column {name} holds {kind}, {value!r} is not {_WANTED[kind]}")
    return float(value) if kind == "float" else value


def check_values(columns: Columns, attributes: Mapping[str, Iterable[Any]] | None, rows: int) -> Values:
    """Attributes of new rows, None where a row has none; InputError for other columns, types or lengths."""
    checked: Values = {}
    if not isinstance(attributes, Mapping | None):
        raise InputError(f"attributes are {attributes!r:.60}; give a dictionary of values by column")
    for name, values in (attributes or {}).items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InputError(f"column {name}: its values are {values!r:.60}; give one per vector")
        given = list(values)
        if len(given) != rows:
            raise InputError(f"column {name}: there are {len(given):,} values for {rows:,} vectors")
        checked[name] = [None if value is None else check_value(columns, name, value) for value in given]
        if not given:
            check_value(columns, name, None) if name not in columns else None
    return checked


def sorted_column(kind: ColumnType, values: Sequence[Any], positions: np.ndarray) -> Column:
    """A column of rows at these positions (n,); a value of None is none."""
    known = np.array([at for at, value in enumerate(values) if value is not None], np.int64)
    given = [values[at] for at in known.tolist()]
    words: list[str] = []
    if kind == "category":
        words = sorted(set(given))
        number = {word: at for at, word in enumerate(words)}
        given = [number[word] for word in given]
    return _in_order(kind, np.array(given, _DTYPES[kind]), positions[known], words)


def merged(kind: ColumnType, parts: Sequence[tuple[Column, np.ndarray]], rows: int) -> Column:
    """One column of several: each comes with the new position of every row, `rows` for those that go."""
    words = sorted({word for column, _ in parts for word in column.words})
    number = {word: at for at, word in enumerate(words)}
    values, positions = [np.zeros(0, _DTYPES[kind])], [np.zeros(0, np.int64)]
    for column, places in parts:
        new = places[column.order]
        kept, own = new < rows, column.values
        if kind == "category":
            own = np.array([number[word] for word in column.words], "<u4")[own] if len(own) else own
        values.append(own[kept])
        positions.append(new[kept])
    return _in_order(kind, np.concatenate(values), np.concatenate(positions), words)


def _in_order(kind: ColumnType, values: np.ndarray, positions: np.ndarray, words: Sequence[str]) -> Column:
    order = np.lexsort((positions, values))
    return Column(kind, values[order], positions[order].astype(np.uint32), words)


def write_columns(folder: Path, columns: Mapping[str, Column]) -> None:
    """Write `columns.bin`. Raises OSError."""
    with SectionWriter(folder / COLUMNS_FILE, "columns") as file:
        for number, column in enumerate(columns.values()):
            words = [word.encode() for word in column.words]
            file.add(f"{number}.values", column.values)
            file.add(f"{number}.order", column.order)
            file.add(f"{number}.words", np.frombuffer(b"".join(words), np.uint8))
            file.add(f"{number}.ends", np.cumsum([len(word) for word in words], dtype=np.uint64))


def read_columns(folder: Path, columns: Columns, rows: int) -> dict[str, Column]:
    """Read them back as memory maps; InputError where the file is damaged or of another index."""
    if not columns:
        return {}
    file = SectionFile(folder / COLUMNS_FILE, "columns")
    found = {}
    for number, (name, kind) in enumerate(columns.items()):
        parts = [f"{number}.{part}" for part in ("values", "order", "words", "ends")]
        for part in parts:
            file.check(part)
        values, order, text, ends = (
            file.array(part, dtype) for part, dtype in zip(parts, (_DTYPES[kind], "<u4", "|u1", "<u8"), strict=True)
        )
        whole = len(values) == len(order) <= rows and (len(order) == 0 or int(order.max()) < rows)
        if kind == "category":
            whole &= (len(values) == 0 or int(values.max()) < len(ends)) and (
                len(ends) == 0 or (int(ends[-1]) == len(text) and bool((ends[1:] >= ends[:-1]).all()))
            )
        if not whole:
            raise InputError(f"{file.path}: its columns do not fit the rows; {REPAIR}")
        found[name] = Column(kind, values, order, Words(text, ends))
    return found
