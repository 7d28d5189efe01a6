"""GloVe and word2vec text: a word, then its numbers, one row a line; word2vec puts "rows dim" on the first line.

Words may contain spaces, so lines are split from the right. A name ending in `.gz` is unpacked as it is read.
"""

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.files import decoding, file_size, open_raw
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.source import MAX_DIM, VectorSource

_MAX_LINE_BYTES = 32 * MAX_DIM  # longer lines are not text; without a limit one "line" could fill the memory


class TextVectors(VectorSource):
    """Vectors of a text file, as float32; opening reads it once, to count its lines."""

    def __init__(self, path: Path) -> None:
        file_size(path)
        self._path = path
        with _lines(path) as lines:
            first, second = next(lines, b"").split(), next(lines, b"").split()
        if not first:
            raise InputError(f"{path}: holds no lines of text; write or fetch it again")
        self._has_header = _is_header(first, second)
        dim = int(first[1]) if self._has_header else _trailing_numbers(first)
        if not self._has_header and dim and _is_number(first[0]) and b"." in first[0]:
            raise InputError(
                f"{path}: starts with the number {first[0].decode()}, not with a word; it looks like a plain table: "
                "numpy.save the result of numpy.loadtxt instead"
            )
        super().__init__(str(path), 0, dim, np.dtype(np.float32))
        with _lines(path) as lines:
            self.rows = sum(1 for _ in lines) - self._has_header
        if self._has_header and self.rows != int(first[0]):
            raise InputError(
                f"{path}: its first line says {int(first[0]):,} rows, but {self.rows:,} follow; it is cut or was edited"
            )

    def _fields(self, start: int) -> Iterator[list[bytes]]:
        """Yield the numbers of every row from `start` on; InputError for a row with too few of them."""
        with _lines(self._path) as lines:
            for row, line in enumerate(lines, -self._has_header):
                if row < start:
                    continue
                _, *values = line.rsplit(None, self.dim)
                if len(values) != self.dim:
                    raise InputError(
                        f"{self.name}: row {row} has {len(values) + 1} fields, not a word and {self.dim} numbers; cut?"
                    )
                yield values

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        fields = self._fields(start)
        for row in range(start, self.rows, block_rows):
            yield self._parse_block(fields, row, min(block_rows, self.rows - row))

    def _parse_block(self, fields: Iterator[list[bytes]], row: int, count: int) -> np.ndarray:
        block = np.empty((count, self.dim), np.float32)
        with np.errstate(over="ignore"):
            for i, values in zip(range(count), fields, strict=False):
                try:
                    block[i] = [float(value) for value in values]
                except ValueError as error:
                    raise InputError(
                        f"{self.name}: row {row + i} is not a word and {self.dim} numbers ({error})"
                    ) from None
        return block


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a text file that are not blank, stripped; unpacked if it is called .gz."""
    with open_raw(path) as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else io.BufferedReader(raw) as stream:
        yield _stripped_lines(stream, str(path))


def _stripped_lines(stream: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    while True:
        with decoding(name, "text"):
            line = stream.readline(_MAX_LINE_BYTES)
        if not line:
            return
        if len(line) == _MAX_LINE_BYTES:
            raise InputError(f"{name}: has a line of over {_MAX_LINE_BYTES:,} bytes; not a text of vectors?")
        if stripped := line.strip():
            yield stripped


def _is_header(first: list[bytes], second: list[bytes]) -> bool:
    """Whether the first line counts rows and numbers; "12 3" may also be the word 12 with one number."""
    if len(first) != 2 or not all(field.isdigit() and len(field) <= 18 for field in first):
        return False
    return len(second) > int(first[1]) or (not second and int(first[0]) == 0)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _trailing_numbers(fields: list[bytes]) -> int:
    """How many numbers a line ends with, its first field being a word whatever it looks like."""
    count = 0
    while count < len(fields) - 1 and _is_number(fields[-1 - count]):
        count += 1
    return count


def write_text(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write the words row0, row1, ... and their numbers; with the word2vec line on top if the rows are known before.

    Nine digits give every float32 back exactly. InputError for no rows without that line: the dimension would be lost.
    """
    packed = gzip.GzipFile("", "wb", fileobj=file) if layout.name.lower().endswith(".gz") else nullcontext(file)
    with packed as stream:
        if layout.rows is not None:
            stream.write(f"{layout.rows} {layout.dim}\n".encode())
        row = 0
        for block in blocks:
            for values in block:
                stream.write(f"row{row} {' '.join(f'{value:.9g}' for value in values.tolist())}\n".encode())
                row += 1
    if layout.rows is None and not row:
        raise InputError(f"{layout.name}: there are no rows, so the dimension would be lost; pass rows=0")
