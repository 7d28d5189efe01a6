"""Columns of lists in Parquet, Feather and Arrow files and in tables; large row groups are read page by page."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.files import decoding, file_size, optional_module
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.source import VectorSource

# Smaller row groups are read at once: only then does pyarrow check a page's declared size before it allocates it.
_WHOLE_GROUP_BYTES = 64 << 20


class ArrowColumn(VectorSource):
    """A list or fixed-size-list column, wherever its pieces come from."""

    def __init__(self, origin: str, schema: Any, key: str | None, rows: int) -> None:
        self._arrow = optional_module("pyarrow", f"{origin}: reading Arrow")
        column = self._column(origin, schema, key)
        self._key, self.name = column.name, f"{origin}[{column.name}]"
        with decoding(self.name, "Arrow"):
            stored = column.type.value_type.to_pandas_dtype()
        super().__init__(self.name, rows, self._dimension(column.type, rows), np.dtype(stored))

    @abstractmethod
    def _pieces(self, block_rows: int, start: int) -> Iterator[Any]:
        """Yield the column from row `start` on in Arrow arrays of any length, unchecked."""

    def _column(self, origin: str, schema: Any, key: str | None) -> Any:
        types = self._arrow.types
        lists = {
            field.name: field
            for field in schema
            if types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type)
        }
        if key is None and len(lists) == 1:
            return next(iter(lists.values()))
        if key is None or key not in lists:
            asked = "no column was named" if key is None else f"no column of lists is called {key!r}"
            raise InputError(f"{origin}: {asked}; choose by key: {', '.join(lists) or '(it has none)'}")
        return lists[key]

    def _dimension(self, column_type: Any, rows: int) -> int:
        """The size of fixed-size lists; else the length of the first list."""
        if self._arrow.types.is_fixed_size_list(column_type):
            return int(column_type.list_size)
        for column in self._columns(1, 0):
            if len(column):
                return len(column[0]) if column[0].is_valid else 0
        raise InputError(f"{self.name}: has {rows} rows, so its lists do not say the dimension; use fixed-size lists")

    def _columns(self, block_rows: int, start: int) -> Iterator[Any]:
        """Yield the column from row `start` on in Arrow arrays of at most `block_rows` rows."""
        pieces = self._pieces(block_rows, start)
        while True:
            with decoding(self.name, "Parquet or Arrow"):
                column = next(pieces, None)
                if column is None:
                    return
                column.validate(full=True)
            for begin in range(0, len(column), block_rows):
                yield column.slice(begin, block_rows)

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        row = start
        for column in self._columns(block_rows, start):
            yield self._rows_of(column, row)
            row += len(column)

    def _rows_of(self, column: Any, first_row: int) -> np.ndarray:
        """The (rows, dim) values of a list column; InputError for nulls and for lists of another length."""
        lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != self.dim)
        if len(other):
            row, length = int(other[0]), int(lengths[other[0]])
            found = "is null" if length < 0 else f"has {length} values, the first row {self.dim}"
            raise InputError(f"{self.name}: row {first_row + row} {found}; fill or drop such rows")
        values = column.flatten()
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // self.dim
            raise InputError(f"{self.name}: row {first_row + row} holds a null; fill or drop such rows")
        array: np.ndarray = values.to_numpy(zero_copy_only=False)
        return array.reshape(-1, self.dim)


class ArrowVectors(ArrowColumn):
    """A column of a Parquet file, an Arrow file (Feather V2) or an Arrow stream."""

    def __init__(self, path: Path, key: str | None, format: str) -> None:
        self._arrow = optional_module("pyarrow", f"{path}: reading {format}")
        file_size(path)
        self._path, self._parquet = path, format == "parquet"
        with decoding(str(path), format):
            schema, rows = self._parquet_schema() if self._parquet else self._ipc_schema()
        super().__init__(str(path), schema, key, rows)

    def _parquet_schema(self) -> tuple[Any, int]:
        with optional_module("pyarrow.parquet", str(self._path)).ParquetFile(self._path) as file:
            metadata = file.metadata
            sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
            self._buffer_bytes = 1 << 16 if max(sizes, default=0) > _WHOLE_GROUP_BYTES else 0
            return file.schema_arrow, metadata.num_rows

    def _ipc_schema(self) -> tuple[Any, int]:
        with self._arrow.OSFile(str(self._path)) as file, self._ipc_reader(file) as reader:
            return reader.schema, sum(batch.num_rows for batch in _ipc_batches(reader))

    def _ipc_reader(self, file: Any) -> Any:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"FEA1"):
            raise InputError(f"{self._path}: Feather version 1; write it again with pyarrow.feather.write_feather")
        return self._arrow.ipc.open_file(file) if start == b"ARROW1" else self._arrow.ipc.open_stream(file)

    def _pieces(self, block_rows: int, start: int) -> Iterator[Any]:
        return self._parquet_batches(block_rows, start) if self._parquet else self._ipc_columns(start)

    def _parquet_batches(self, block_rows: int, start: int) -> Iterator[Any]:
        parquet = optional_module("pyarrow.parquet", str(self._path))
        with parquet.ParquetFile(self._path, buffer_size=self._buffer_bytes, pre_buffer=False) as file:
            groups, skip = list(range(file.metadata.num_row_groups)), start
            while groups and skip >= file.metadata.row_group(groups[0]).num_rows:
                skip -= file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(block_rows, row_groups=groups, columns=[self._key], use_threads=False):
                yield batch.column(0).slice(min(skip, batch.num_rows))
                skip = max(0, skip - batch.num_rows)

    def _ipc_columns(self, start: int) -> Iterator[Any]:
        with self._arrow.OSFile(str(self._path)) as file, self._ipc_reader(file) as reader:
            for batch in _ipc_batches(reader):
                yield batch.column(self._key).slice(min(start, batch.num_rows))
                start = max(0, start - batch.num_rows)


class ArrowTable(ArrowColumn):
    """A column of a `pyarrow.Table`; blocks of fixed-size lists without nulls are views."""

    def __init__(self, table: Any, key: str | None) -> None:
        self._table = table
        super().__init__("Arrow table", table.schema, key, table.num_rows)

    def files(self) -> list[Path]:
        """None: a table is known by its content."""
        return []

    def _pieces(self, block_rows: int, start: int) -> Iterator[Any]:
        for piece in self._table.column(self._key).chunks:
            yield piece.slice(min(start, len(piece)))
            start = max(0, start - len(piece))


def _ipc_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def write_parquet(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write one column of fixed-size lists, `layout.key` or "vector"; a row group per block."""
    parquet = optional_module("pyarrow.parquet", f"{layout.name}: writing Parquet")
    with parquet.ParquetWriter(file, _schema(layout), compression="zstd") as writer:
        for block in blocks:
            writer.write_batch(_batch(block, layout))


def write_arrow(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write the same column as an Arrow file, which is what Feather (version 2) is; a record batch per block."""
    arrow = optional_module("pyarrow", f"{layout.name}: writing Arrow")
    with arrow.ipc.new_file(file, _schema(layout)) as writer:
        for block in blocks:
            writer.write_batch(_batch(block, layout))


def _schema(layout: Layout) -> Any:
    arrow = optional_module("pyarrow", f"{layout.name}: writing Arrow or Parquet")
    lists = arrow.list_(arrow.from_numpy_dtype(layout.dtype), layout.dim)
    return arrow.schema([(layout.key or "vector", lists)])


def _batch(block: np.ndarray, layout: Layout) -> Any:
    arrow, schema = optional_module("pyarrow", layout.name), _schema(layout)
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(block.reshape(-1)), layout.dim)
    return arrow.record_batch([column], schema=schema)
