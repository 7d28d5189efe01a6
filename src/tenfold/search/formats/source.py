"""What every reader is: a `VectorSource`, rows of numbers handed out in blocks and checked on the way."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tenfold.core.errors import InputError

MAX_DIM = 65_535
DTYPES = tuple(np.dtype(name) for name in ("float32", "float16", "uint8", "int8", "int32"))
_CHECK_VALUES = 1 << 18  # values are checked in slices that stay in the processor's cache


class VectorSource(ABC):
    """`rows` vectors of `dim` numbers, read in blocks so that memory does not grow with the file.

    `dtype` is float32, float16, uint8 or int8 (int32 where a file holds ids); float64 is presented as float32.
    `name` is how messages call the source. `metric_hint` is the distance a file names for itself ("euclidean",
    "angular"), or None. Reading twice is allowed; each call of `blocks` opens the file anew.
    """

    metric_hint: str | None = None

    def __init__(self, name: str, rows: int, dim: int, stored: np.dtype) -> None:
        """`stored` is the dtype in the file, any byte order. InputError for a dtype or dimension out of range."""
        if rows < 0:
            raise InputError(f"{name}: says it holds {rows:,} rows; its header is damaged")
        if not 1 <= dim <= MAX_DIM:
            raise InputError(
                f"{name}: says dimension {dim:,}, but vectors have 1 to {MAX_DIM:,} numbers; not such a file?"
            )
        self.name, self.rows, self.dim = name, rows, dim
        self.dtype = presented_dtype(stored, name)

    def blocks(self, block_rows: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the rows from `start` on, in order, as C-contiguous (b, dim) arrays of `dtype`, b <= block_rows.

        A block may be a view of the caller's own array: do not write into it.
        Raises InputError for NaN or infinity, and for files that end early, naming the row (counted from 0).
        """
        if block_rows < 1:
            raise InputError(f"{self.name}: block_rows is {block_rows}, but a block has at least 1 row")
        if not 0 <= start <= self.rows:
            raise InputError(f"{self.name}: asked to start at row {start:,}, but it has rows 0 to {self.rows - 1:,}")
        return self._checked_blocks(min(block_rows, max(self.rows, 1)), start)

    def _checked_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        row = start
        for stored in self._stored_blocks(block_rows, start):
            if stored.shape[1:] != (self.dim,) or row + len(stored) > self.rows:
                raise InputError(f"{self.name}: holds more or other rows from row {row:,} on than it said when opened")
            block = finite_rows(stored, self.dtype, row, self.name)
            row += len(block)
            del stored  # the generators hold no block while the next one is read
            yield block
            del block
        if row != self.rows:
            raise InputError(f"{self.name}: ends after row {row - 1:,}, but says it has {self.rows:,} rows; it is cut")

    def row_numbers(self, start: int, stop: int) -> np.ndarray:
        """What an index is to call the rows from `start` to before `stop`: their numbers, unless it knows better."""
        return np.arange(start, stop)

    def files(self) -> list[Path]:
        """The files behind it, where `name` is a path: that file, or the parts in SPACEV's folder. Raises OSError."""
        path = Path(self.name)
        return sorted(path.glob("vectors_*.bin")) if path.is_dir() else [path] if path.is_file() else []

    @abstractmethod
    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        """For those who write a source: the rows from `start` to the end as they are stored, in order.

        Yields arrays (b, dim), b <= block_rows, of any dtype and memory order, with unchecked values. Called several
        times by a build, for the same rows each time. Those who read a source call `blocks`.
        """


class ArrayVectors(VectorSource):
    """An array in memory, shape (rows, dim); contiguous blocks of it are views, not copies."""

    def __init__(self, array: np.ndarray, name: str = "array") -> None:
        if array.ndim == 1:
            raise InputError(
                f"{name}: has shape {array.shape}, but rows are wanted: x.reshape(1, -1) makes it one vector, "
                "x.reshape(-1, 1) makes each number a vector"
            )
        if array.ndim != 2:
            raise InputError(
                f"{name}: has shape {array.shape}, but rows are wanted, (rows, dim): x.reshape(len(x), -1)"
            )
        super().__init__(name, array.shape[0], array.shape[1], array.dtype)
        self._array = array

    def files(self) -> list[Path]:
        """None: an array is known by its content."""
        return []

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        for row in range(start, self.rows, block_rows):
            yield self._array[row : row + block_rows]


def presented_dtype(stored: np.dtype, name: str) -> np.dtype:
    """The native dtype that `stored` is handed out as; InputError for what is no vector dtype."""
    native = stored.newbyteorder("=")
    if native == np.float64:
        return np.dtype(np.float32)
    if native not in DTYPES:
        raise InputError(
            f"{name}: holds {native} values, but vectors are float32, float16, uint8 or int8; "
            "convert first, e.g. x.astype(numpy.float32)"
        )
    return native


def finite_rows(stored: np.ndarray, dtype: np.dtype, first_row: int, name: str) -> np.ndarray:
    """`stored` as C-contiguous `dtype`; InputError at the first NaN, infinity, or float64 beyond float32."""
    with np.errstate(over="ignore"):
        block = np.ascontiguousarray(stored, dtype=dtype)
    if dtype.kind != "f":
        return block
    step = max(1, _CHECK_VALUES // block.shape[1])
    for begin in range(0, len(block), step):
        finite = np.isfinite(block[begin : begin + step])
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            value = float(stored[begin + row, column])
            found = f"{value:g}, beyond the range of {dtype}" if np.isfinite(value) else _spelled(value)
            raise InputError(
                f"{name}: row {first_row + begin + row} holds {found} in column {column}; "
                "remove such rows or repair their values first"
            )
    return block


def _spelled(value: float) -> str:
    return "NaN" if np.isnan(value) else "infinity" if value > 0 else "-infinity"
