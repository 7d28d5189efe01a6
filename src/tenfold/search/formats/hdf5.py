"""HDF5 as ann-benchmarks lays it out: data sets `train` and `test`, and the attribute `distance` naming the metric."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.files import PIECE_BYTES, decoding, file_size, optional_module
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.source import VectorSource


class Hdf5Vectors(VectorSource):
    """A 2-D data set of an HDF5 file, read slab by slab."""

    def __init__(self, path: Path, key: str) -> None:
        with open_hdf5(path) as file:
            name = f"{path}[{key}]"
            data = dataset(file, path, key)
            if data.ndim != 2:
                raise InputError(f"{name}: has shape {data.shape}; vectors come as (rows, dim)")
            super().__init__(name, data.shape[0], data.shape[1], data.dtype)
            with decoding(name, "HDF5"):
                metric = file.attrs.get("distance")
        self.metric_hint = metric.decode("utf-8", "replace") if isinstance(metric, bytes) else metric
        if not isinstance(self.metric_hint, str):
            self.metric_hint = None
        self._path, self._key = path, key

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        with open_hdf5(self._path) as file:
            data = dataset(file, self._path, self._key)
            for row in range(start, self.rows, block_rows):
                yield self._read_block(data, row, min(row + block_rows, self.rows))

    def _read_block(self, data: Any, row: int, stop: int) -> np.ndarray:
        with decoding(self.name, "HDF5"):
            block: np.ndarray = data[row:stop]
        return block


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """The h5py.File, open for reading."""
    h5py = optional_module("h5py", f"{path}: reading HDF5")
    file_size(path)
    with decoding(str(path), "HDF5"):
        file = h5py.File(path, "r")
    with file:
        yield file


def dataset(file: Any, path: Path, key: str) -> Any:
    """The h5py.Dataset `key`; InputError where it is missing, or declares values that are not in the file."""
    with decoding(f"{path}[{key}]", "HDF5"):
        names = [name for name in file if hasattr(file[name], "ndim")]
        data = file.get(key)
        if data is None or not hasattr(data, "ndim"):
            raise InputError(f"{path}: no data set {key!r}; choose by key: {', '.join(names) or '(it holds none)'}")
        if data.chunks:
            wanted = int(np.prod([-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True)]))
            found, unit = data.id.get_num_chunks(), "chunks"
        else:
            wanted, found, unit = data.size * data.dtype.itemsize, data.id.get_storage_size(), "bytes"
    if found < wanted:
        raise InputError(
            f"{path}[{key}]: declares shape {data.shape}, {wanted:,} {unit}, but {found:,} are in the file; "
            "it was never written to the end"
        )
    return data


class ShieldedFile(io.RawIOBase):
    """A new file that hides failing writes from HDF5, whose library crashes the process over a full disk.

    The first refusal is kept in `error`; from then on writes are dropped, and what was dropped reads as zeros.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor, self._position, self._end = file.fileno(), 0, 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset`, from the start or the end."""
        self._position = offset + (self._end if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """The position that the next read or write starts at."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, with zeros where nothing was kept."""
        view = memoryview(buffer).cast("B")
        kept = os.pread(self._descriptor, len(view), self._position)
        view[:] = kept.ljust(len(view), b"\0")
        self._position += len(view)
        return len(view)

    def write(self, content: Any) -> int:
        """Write all of `content`, or keep the error and pretend."""
        view, done = memoryview(content).cast("B"), 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self._descriptor, view[done:], self._position + done)
        except OSError as error:
            self.error = error
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        self._end = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self.error = self.error or error
        return self._end


def write_hdf5(file: IO[bytes], blocks: Iterable[np.ndarray], layout: Layout) -> None:
    """Write one chunked data set, `layout.key` or "train"."""
    h5py = optional_module("h5py", f"{layout.name}: writing HDF5")
    chunk_rows = max(1, PIECE_BYTES // (layout.dim * layout.dtype.itemsize))
    shielded = ShieldedFile(file)
    with h5py.File(shielded, "w") as target:
        shape, chunks = (None, layout.dim), (chunk_rows, layout.dim)
        data = target.create_dataset(
            layout.key or "train", (0, layout.dim), layout.dtype, maxshape=shape, chunks=chunks
        )
        for block in blocks:
            row = data.shape[0]
            data.resize(row + len(block), axis=0)
            data[row:] = block
            if shielded.error:
                break
    if shielded.error:
        raise shielded.error
