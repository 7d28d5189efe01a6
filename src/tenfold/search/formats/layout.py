"""What every writer needs to know, and the check that no value changes on its way into a file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.source import ArrayVectors, finite_rows


@dataclass(frozen=True)
class Layout:
    """A file to be written: its `name` for messages, `rows` (None: as many as come), `dim`, `dtype`.

    `key` names the HDF5 data set, npz member or Parquet column; None is the format's usual name.
    """

    name: str
    rows: int | None
    dim: int
    dtype: np.dtype
    key: str | None = None


Writer = Callable[[IO[bytes], Iterable[np.ndarray], Layout], None]


def lossless_blocks(blocks: Iterable[np.ndarray], layout: Layout) -> Iterator[np.ndarray]:
    """Yield each block as C-contiguous (b, dim) of `layout.dtype`.

    Raises InputError for a block of another shape, a value that the dtype cannot hold exactly (naming its row), and
    a number of rows other than `layout.rows`.
    """
    row = 0
    for block in blocks:
        source = ArrayVectors(np.asarray(block), f"block at row {row} for {layout.name}")
        if source.dim != layout.dim:
            raise InputError(f"{source.name}: has dimension {source.dim}, the file {layout.dim}")
        if len(block):
            yield _lossless(finite_rows(np.asarray(block), source.dtype, row, layout.name), row, layout)
        row += len(block)
        if layout.rows is not None and row > layout.rows:
            break
    if layout.rows is not None and row != layout.rows:
        raise InputError(f"{layout.name}: {layout.rows:,} rows were announced, {row:,} or more came; not written")


def _lossless(block: np.ndarray, first_row: int, layout: Layout) -> np.ndarray:
    if block.dtype == layout.dtype:
        return block
    with np.errstate(invalid="ignore", over="ignore"):
        cast = block.astype(layout.dtype)
    changed = cast != block
    if changed.any():
        row, column = (int(i) for i in np.argwhere(changed)[0])
        raise InputError(
            f"{layout.name}: row {first_row + row} holds {block[row, column]:g} in column {column}, which "
            f"{layout.dtype} cannot hold exactly; keep {block.dtype} (.npy, .hdf5) or round the values first"
        )
    return cast
