"""Other people's vectors: every format that vector-search users have, read in blocks and written safely.

    source = open_vectors("base.u8bin")              # a VectorSource: rows, dim, dtype, blocks(block_rows)
    convert("sift.hdf5", "sift.fvecs", key="test")   # no value changes, or InputError
    truth = read_ground_truth("gt100.bin")           # GroundTruth: ids (queries, k), distances or None

| suffix | layout |
|---|---|
| `.fvecs .bvecs .ivecs` | i32 dim before every row (TEXMEX) |
| `.fbin .u8bin .i8bin .f16bin .ibin` | u32 rows, u32 dim, values (big-ann-benchmarks, DiskANN) |
| `.bin` or a folder of `vectors_1.bin`, ... | SPACEV: i32 rows, i32 dim, int8 values |
| `.npy .npz` | NumPy; for npz, `key` is the array (default: the only one) |
| `.hdf5 .h5` | ann-benchmarks; `key` is the data set (default "train") |
| `.parquet`, `.arrow .feather` | a column of lists; `key` is the column (default: the only such one) |
| `.txt .vec`, also with `.gz` | GloVe and word2vec text |
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.arrow import ArrowVectors, write_arrow, write_parquet
from tenfold.search.formats.binary import BINS, VECS, open_bin, open_vecs, write_bin, write_spacev, write_vecs
from tenfold.search.formats.files import new_file
from tenfold.search.formats.hdf5 import Hdf5Vectors, write_hdf5
from tenfold.search.formats.layout import Layout, Writer, lossless_blocks
from tenfold.search.formats.npy import open_npy, open_npz, write_npy, write_npz
from tenfold.search.formats.source import MAX_DIM, ArrayVectors, VectorSource, presented_dtype
from tenfold.search.formats.text import TextVectors, write_text
from tenfold.search.formats.truth import GroundTruth, read_ground_truth, write_ground_truth
from tenfold.search.space import Metric

__all__ = [
    "GroundTruth",
    "VectorSource",
    "as_source",
    "convert",
    "metric_of",
    "open_vectors",
    "read_ground_truth",
    "write_ground_truth",
    "write_vectors",
]

_NAMED_BY_SUFFIX = (*VECS, *(BINS.keys() - {"spacev"}), "npy", "npz", "hdf5", "parquet", "arrow")
_FORMAT_OF_SUFFIX = {f".{name}": name for name in _NAMED_BY_SUFFIX} | {
    ".bin": "spacev",
    ".h5": "hdf5",
    ".feather": "arrow",
    ".txt": "text",
    ".vec": "text",
}
_FORMATS = sorted(set(_FORMAT_OF_SUFFIX.values()))
_WRITERS: dict[str, Writer] = {
    **dict.fromkeys(VECS, write_vecs),
    **dict.fromkeys(BINS, write_bin),
    "spacev": write_spacev,
    "npy": write_npy,
    "npz": write_npz,
    "hdf5": write_hdf5,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "text": write_text,
}
_FIXED_DTYPES = {name: dtype.newbyteorder("=") for name, dtype in (VECS | BINS).items()} | {
    "text": np.dtype(np.float32)
}
_METRICS: dict[str | None, Metric] = {
    **{None: "l2", "euclidean": "l2", "angular": "cosine", "dot": "ip"},
    **{metric: metric for metric in get_args(Metric)},
}


def open_vectors(path: str | Path, *, key: str | None = None, format: str | None = None) -> VectorSource:
    """Open the vectors in `path`; the format follows from its suffix unless `format` names it (as "fbin", "text").

    `key` chooses an HDF5 data set (default "train"), an npz array or a column of lists (default: the only one).
    Opening reads headers only, except for text, which is read once to count its rows.
    Raises InputError for what is missing, unreadable, cut, or holds no vectors; a header is believed only if the size
    of the file agrees.
    """
    path = Path(path)
    format = "spacev" if format is None and os.path.isdir(path) else _format_of(path, format)
    if key is not None and format not in ("hdf5", "npz", "parquet", "arrow"):
        raise InputError(f"{path}: key={key!r} chooses among arrays, but {format} files hold only one; leave it out")
    if format in VECS:
        return open_vecs(path, format)
    if format in BINS:
        return open_bin(path, format)
    if format in ("parquet", "arrow"):
        return ArrowVectors(path, key, format)
    if format == "hdf5":
        return Hdf5Vectors(path, key or "train")
    if format == "npz":
        return open_npz(path, key)
    return open_npy(path) if format == "npy" else TextVectors(path)


def as_source(data: np.ndarray | str | Path | VectorSource) -> VectorSource:
    """`data` as a VectorSource: a (rows, dim) array of any memory order, a path as for `open_vectors`, or a source."""
    if isinstance(data, VectorSource):
        return data
    if isinstance(data, np.ndarray):
        return ArrayVectors(data)
    if isinstance(data, str | Path):
        return open_vectors(data)
    raise InputError(
        f"vectors are a (rows, dim) NumPy array or a path, not a {type(data).__name__}; try numpy.asarray(x)"
    )


def metric_of(source: VectorSource) -> Metric:
    """The metric that goes with the distance a file names for itself, `source.metric_hint`; "l2" if it names none.

    Raises InputError for a distance that no metric measures, such as ann-benchmarks' "hamming".
    """
    if source.metric_hint not in _METRICS:
        choice = ", ".join(get_args(Metric))
        raise InputError(f"{source.name}: is made for the distance {source.metric_hint!r}; choose a metric: {choice}")
    return _METRICS[source.metric_hint]


def write_vectors(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    rows: int | None,
    dim: int,
    dtype: np.dtype,
    *,
    key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write `blocks`, (b, dim) arrays, as `dtype` in the format of the suffix; memory holds one block.

    `rows` may be None where it is not known before. The file appears complete and synced to disk, or not at all.
    Raises InputError for an existing file unless `overwrite`, a dtype that the format does not have, blocks that do not
    fit, values that `dtype` cannot hold exactly, NaN and infinity (naming the row), and a full disk.
    """
    path, dtype = Path(path), presented_dtype(np.dtype(dtype), str(path))
    format = _format_of(path, None)
    if _FIXED_DTYPES.get(format, dtype) != dtype:
        raise InputError(f"{path}: {format} files hold {_FIXED_DTYPES[format]}, not {dtype}; choose another suffix")
    if not 1 <= dim <= MAX_DIM:
        raise InputError(f"{path}: dimension {dim} is impossible; vectors have 1 to {MAX_DIM:,} numbers")
    layout = Layout(str(path), rows, dim, dtype, key)
    with new_file(path, overwrite) as file:
        _WRITERS[format](file, lossless_blocks(blocks, layout), layout)


def convert(
    source: str | Path | np.ndarray | VectorSource,
    target: str | Path,
    *,
    key: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy vectors into the format of `target`'s suffix, changing no value.

    The dtype becomes the target's where it has only one (float32 whole numbers 0 to 255 may become .bvecs or .u8bin)
    and stays the source's elsewhere. `key` chooses within the source as in `open_vectors`; `progress(done, rows)` is
    called after every block. Raises InputError as `open_vectors` and `write_vectors` do; then no file is written.
    """
    opened = open_vectors(source, key=key) if isinstance(source, str | Path) else as_source(source)
    dtype = _FIXED_DTYPES.get(_format_of(Path(target), None), opened.dtype)
    blocks = _watched(opened, progress)
    write_vectors(target, blocks, opened.rows, opened.dim, dtype, overwrite=overwrite)


def _watched(source: VectorSource, progress: Callable[[int, int], None] | None) -> Iterator[np.ndarray]:
    done = 0
    for block in source.blocks(max(1, (4 << 20) // (source.dim * source.dtype.itemsize))):
        yield block
        done += len(block)
        if progress:
            progress(done, source.rows)


def _format_of(path: Path, format: str | None) -> str:
    """The name of the format: as given, or by suffix, behind which `.gz` or big-ann's `.crop_nb_10000000` may stand."""
    if format is not None:
        if format not in _FORMATS:
            raise InputError(f"{path}: format={format!r} is unknown; use one of: {', '.join(_FORMATS)}")
        return format
    name = re.sub(r"\.crop_nb_\d+$", "", path.name.lower())
    found = _FORMAT_OF_SUFFIX.get(Path(name.removesuffix(".gz")).suffix)
    if found is None or (name.endswith(".gz") and found != "text"):
        raise InputError(
            f"{path}: the suffix names no format of vectors; known are {' '.join(sorted(_FORMAT_OF_SUFFIX))}; "
            "rename the file (in Python, format= can name it)"
        )
    return found
