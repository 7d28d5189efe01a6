"""Exact answers ("ground truth") as other projects publish them; read whole, for they are small."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.binary import open_bin, open_vecs, read_header, write_bin, write_vecs
from tenfold.search.formats.files import decoding, file_size, new_file, open_raw, optional_module, read_array
from tenfold.search.formats.hdf5 import dataset, open_hdf5
from tenfold.search.formats.layout import Layout
from tenfold.search.formats.npy import npz_members, read_npy_header, read_npy_values, read_npz_array

_NO_ID = 0xFFFFFFFF  # how -1, "no such neighbour", looks as u32
_SUFFIXES = ".bin, .ivecs, .ibin, .npy, .npz, .hdf5"


@dataclass(frozen=True)
class GroundTruth:
    """The k nearest rows of every query, nearest first.

    `ids` is int64 (queries, k), -1 where there are fewer than k; `distances` is float32 of the same shape, or None.
    Raises InputError for other shapes, for ids that are no integers or below -1, and for NaN distances.
    """

    ids: np.ndarray
    distances: np.ndarray | None = None

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise InputError(f"ground truth: ids are {ids.dtype} of shape {ids.shape}; they are integers (queries, k)")
        if ids.size and (int(ids.max()) >= 1 << 63 or int(ids.min()) < -1):
            raise InputError(f"ground truth: ids reach from {ids.min()} to {ids.max()}; they are rows from 0 on, or -1")
        object.__setattr__(self, "ids", np.ascontiguousarray(ids, np.int64))
        if self.distances is None:
            return
        distances = np.asarray(self.distances)
        if distances.shape != ids.shape or distances.dtype.kind not in "fiu":
            raise InputError(f"ground truth: distances are {distances.dtype} {distances.shape}, the ids {ids.shape}")
        if np.isnan(distances).any():
            row = int(np.argwhere(np.isnan(distances))[0, 0])
            raise InputError(f"ground truth: the distances of query {row} hold NaN; compute them again")
        with np.errstate(over="ignore"):
            object.__setattr__(self, "distances", np.ascontiguousarray(distances, np.float32))


def read_ground_truth(path: str | Path, *, key: str | None = None) -> GroundTruth:
    """Read the ground truth in `path`, by its suffix; unknown suffixes are read as big-ann files.

    big-ann and SPACEV `.bin` (ids, distances or ids alone), `.ivecs`, `.ibin`, `.npy` (ids), `.npz` and ann-benchmarks
    `.hdf5` (`neighbors` and `distances`; `key` names other ids, e.g. "ids").
    Raises InputError for damaged files, and for range-search ground truth, whose answers differ in length.
    """
    path = Path(path)
    try:
        return GroundTruth(*_read(path, path.suffix.lower(), key))
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def _read(path: Path, suffix: str, key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if suffix == ".npy":
        return _read_npy(path), None
    if suffix == ".npz":
        return _read_npz(path, key)
    if suffix in (".hdf5", ".h5"):
        return _read_hdf5(path, key or "neighbors")
    if suffix in (".ivecs", ".ibin"):
        source = open_vecs(path, "ivecs") if suffix == ".ivecs" else open_bin(path, "ibin")
        return next(source.blocks(max(source.rows, 1)), np.empty((0, source.dim), np.int32)), None
    return _read_bin(path)


def _read_npy(path: Path) -> np.ndarray:
    size = file_size(path)
    with open_raw(path) as file:
        return read_npy_values(file, read_npy_header(file, str(path), size), str(path))


def _read_npz(path: Path, key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    members = npz_members(path)
    key = key or next((name for name in ("neighbors", "ids") if name in members), None)
    return read_npz_array(path, key), read_npz_array(path, "distances") if "distances" in members else None


def _read_hdf5(path: Path, key: str) -> tuple[np.ndarray, np.ndarray | None]:
    with open_hdf5(path) as file:
        ids, with_distances = dataset(file, path, key), "distances" in file
        distances = dataset(file, path, "distances") if with_distances else None
        with decoding(str(path), "HDF5"):
            return ids[()], None if distances is None else distances[()]


def _read_bin(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """u32 queries, u32 k, u32 ids, then float32 distances or nothing; SPACEV's i32 ids read the same."""
    size = file_size(path)
    with open_raw(path) as file:
        queries, k = read_header(file, str(path), signed=False)
        content, answers = size - 8, queries * k * 4
        if content not in (answers, 2 * answers):
            _refuse_bin(file, path, queries, k, content)
        ids, distances = read_array(file, (queries, k), np.dtype("<u4"), str(path)), None
        if content > answers:
            distances = read_array(file, (queries, k), np.dtype("<f4"), str(path))
    return np.where(ids == _NO_ID, np.int64(-1), ids.astype(np.int64)), distances


def _refuse_bin(file: io.RawIOBase, path: Path, queries: int, total: int, content: int) -> NoReturn:
    """Say what a `.bin` is that is no k-nearest ground truth: range search, whose rows differ in length, or damaged."""
    if content == 4 * queries + 8 * total:
        counts = read_array(file, (queries,), np.dtype("<u4"), str(path))
        if int(counts.sum(dtype=np.uint64)) == total:
            raise InputError(
                f"{path}: range-search ground truth ({queries:,} queries, {total:,} matches, not equally many "
                "for each); recall at k needs the k nearest of every query"
            )
    raise InputError(
        f"{path}: its header says {queries:,} queries and k = {total:,}, {4 * queries * total:,} bytes of ids and "
        f"as many of distances or none, but {content:,} follow; it is cut, or is no ground truth (known: {_SUFFIXES})"
    )


def write_ground_truth(path: str | Path, truth: GroundTruth, *, overwrite: bool = False) -> None:
    """Write `truth` by the suffix of `path`: .bin, .npz and .hdf5 keep distances; .ivecs, .ibin and .npy only ids.

    Raises InputError for another suffix, ids that the format cannot count to, and an existing file unless `overwrite`.
    """
    path = Path(path)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no ground-truth format; use one of: {_SUFFIXES}")
    with new_file(path, overwrite) as file:
        write(file, path, truth)


def _narrow(truth: GroundTruth, path: Path, most: int) -> np.ndarray:
    """The ids, checked to be at most `most`."""
    if truth.ids.size and int(truth.ids.max()) > most:
        raise InputError(f"{path}: ids reach {truth.ids.max():,}, this format only {most:,}; use .npz or .hdf5")
    return truth.ids


def _write_bin(file: IO[bytes], path: Path, truth: GroundTruth) -> None:
    ids = _narrow(truth, path, _NO_ID - 1)
    file.write(np.array(ids.shape, "<u4").tobytes())
    file.write(np.where(ids < 0, _NO_ID, ids).astype("<u4").data)
    if truth.distances is not None:
        file.write(truth.distances.astype("<f4").data)


def _write_ids(file: IO[bytes], path: Path, truth: GroundTruth) -> None:
    ids = _narrow(truth, path, np.iinfo(np.int32).max).astype(np.int32)
    write = write_vecs if path.suffix.lower() == ".ivecs" else write_bin
    write(file, [ids] if len(ids) else [], Layout(str(path), len(ids), ids.shape[1], ids.dtype))


def _write_npz(file: IO[bytes], path: Path, truth: GroundTruth) -> None:
    np.savez(file, **_arrays(truth))


def _write_hdf5(file: IO[bytes], path: Path, truth: GroundTruth) -> None:
    h5py = optional_module("h5py", f"{path}: writing HDF5")
    with h5py.File(file, "w") as target:
        for name, array in _arrays(truth).items():
            target[name] = array


def _arrays(truth: GroundTruth) -> dict[str, Any]:
    """The arrays by the names that ann-benchmarks gives them."""
    return {"neighbors": truth.ids} | ({} if truth.distances is None else {"distances": truth.distances})


_WRITERS: dict[str, Callable[[IO[bytes], Path, GroundTruth], None]] = {
    ".bin": _write_bin,
    ".ivecs": _write_ids,
    ".ibin": _write_ids,
    ".npy": lambda file, path, truth: np.save(file, truth.ids),
    ".npz": _write_npz,
    ".hdf5": _write_hdf5,
    ".h5": _write_hdf5,
}
