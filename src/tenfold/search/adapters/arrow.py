"""Arrow: indexes of columns in memory, and answers as columns. Files are read without this, by `open_vectors`."""

from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.arrow import ArrowTable
from tenfold.search.formats.files import optional_module
from tenfold.search.formats.source import VectorSource

__all__ = ["from_arrow", "to_arrow"]


def from_arrow(data: Any, column: str | None = None) -> VectorSource:
    """A column of lists as a source of vectors, for `Index.build` and `exact_search`.

    Args:
        data: A pyarrow Table, RecordBatch, ChunkedArray or Array, or what pyarrow makes a table of, such as a data
            frame of Polars. A RecordBatchReader, which can be read only once, is read into memory; write one that does
            not fit to a Parquet file.
        column: Its name; default: the only column of lists.

    Raises:
        InputError: No such column; lists of unequal length and nulls when they are read; pyarrow is not installed.
    """
    arrow = optional_module("pyarrow", "from_arrow")
    if isinstance(data, arrow.Array | arrow.ChunkedArray):
        data = {"vector": data}
    try:
        table = data.read_all() if isinstance(data, arrow.RecordBatchReader) else arrow.table(data)
    except (TypeError, ValueError, arrow.ArrowException) as error:
        raise InputError(f"a {type(data).__name__} makes no Arrow table: {str(error).splitlines()[0]}") from None
    return ArrowTable(table, column)


def to_arrow(**columns: np.ndarray) -> Any:
    """A pyarrow Table of arrays of equal length: (n,) as numbers, (n, dim) as fixed-size lists.

    For instance `to_arrow(id=ids, vector=index.get(ids))`, or `to_arrow(ids=ids, distances=distances)` of a search.

    Raises:
        InputError: Arrays of other shapes or unequal length, or pyarrow is not installed.
    """
    arrow = optional_module("pyarrow", "to_arrow")
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len({shape[:1] for shape in shapes.values()}) > 1 or any(len(shape) not in (1, 2) for shape in shapes.values()):
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"columns have the shapes {described}; (n,) and (n, dim) with the same n go together")
    return arrow.table({name: _column(arrow, array) for name, array in arrays.items()})


def _column(arrow: Any, array: np.ndarray) -> Any:
    numbers = arrow.array(array.reshape(-1))
    return numbers if array.ndim == 1 else arrow.FixedSizeListArray.from_arrays(numbers, array.shape[1])
