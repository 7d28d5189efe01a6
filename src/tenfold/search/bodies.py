"""Arrays in the bodies of HTTP requests and answers: `.npy` files, one behind the other.

    np.save(file, distances); np.save(file, ids)         # what several calls write into one file
    distances, ids = np.load(file), np.load(file)        # and several calls read from it

Pickled objects are neither written nor read, and no size in a header is believed. Headers that were read or written
lately are kept: to read one takes longer than a small search.
"""

import io
import warnings
from functools import lru_cache
from math import prod

import numpy as np
from numpy.lib import format as npy_format

from tenfold.core.errors import InputError

__all__ = ["NPY", "pack", "unpack"]

NPY = "application/x-npy"
"""The media type of such bodies."""

_MAGIC_BYTES = 6 + 2
_LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4}  # by version
_MOST_HEADER = 10_000
_KEPT = 256


def pack(*arrays: np.ndarray) -> bytes:
    """Arrays of numbers as a body."""
    pieces = []
    for array in map(np.ascontiguousarray, arrays):
        pieces += [_written_header(array.dtype, array.shape), array.tobytes()]
    return b"".join(pieces)


def unpack(body: bytes) -> list[np.ndarray]:
    """The arrays of a body, of numbers and one dimension or more; they share its memory and cannot be written to.

    Raises InputError where it is anything else.
    """
    arrays: list[np.ndarray] = []
    start = 0
    while start < len(body):
        length_bytes = _LENGTH_BYTES.get(body[start + 6 : start + _MAGIC_BYTES], 2)
        values = start + _MAGIC_BYTES + length_bytes
        values += min(int.from_bytes(body[start + _MAGIC_BYTES : values], "little"), _MOST_HEADER)
        shape, is_fortran, dtype = _read_header(body[start:values])
        count, left = prod(shape), len(body) - values
        if count * dtype.itemsize > left:
            raise InputError(f"the body says shape {shape} of {dtype}, but {left:,} bytes follow; it is cut or damaged")
        flat = np.frombuffer(body, dtype, count, values)
        arrays.append(flat.reshape(shape, order="F" if is_fortran else "C"))
        start = values + count * dtype.itemsize
    return arrays


@lru_cache(_KEPT)
def _written_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    description = {"descr": npy_format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(header, description)
    return header.getvalue()


@lru_cache(_KEPT)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype; InputError where it is no header of an array of numbers."""
    stream = io.BytesIO(header)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged header may hold odd Python literals; they are refused below
            version = npy_format.read_magic(stream)
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, is_fortran, dtype = read(stream)
    except Exception as error:  # the header is a Python literal, and its parser raises what it likes
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"the body is not readable as npy ({reason}); write it with numpy.save") from None
    if dtype.kind not in "fiu" or not shape:
        raise InputError(f"the body holds {dtype} values of shape {shape}; rows of numbers are needed")
    if any(isinstance(length, bool) or length < 0 for length in shape):
        raise InputError(f"the body says shape {shape}; it is damaged")
    return shape, is_fortran, dtype
