"""A teacher's features of many crops, computed once and kept: step 1 then takes minutes on a CPU.

The cache is a folder of .npy files, float16 (N, D), named by what they were computed from: the crops' bytes and the
teacher's identity. Other crops or another teacher mean another file, so nothing stale is ever read. A file that is not
finished has a name of its own; its rows are kept, and a run that was killed goes on behind them.
"""

# N crops · S side of a crop · C = 3 channels · D features of the teacher

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.crops import Crops
from tenfold.faces.inference import check_crops
from tenfold.faces.teacher_input import Teacher

__all__ = ["teacher_features"]

_BLOCK = 256  # rows that are written, and reach the disk, at once
_HASH_LETTERS = 32
_PHASE = "features"


def teacher_features(
    crops: Crops | NDArray[np.uint8], teacher: Teacher, cache: Path | None = None, progress: Progress = no_progress
) -> NDArray[np.float16]:
    """The teacher's features, float16 (N, D), of crops uint8 (N, S, S, 3).

    Args:
        crops: All are embedded; take `.usable()` of crops with failures among them.
        teacher: Its `identity` is part of the file's name.
        cache: A folder, made for its owner alone where it is missing. What lies there is mapped into memory, not read.
            Without one, features are computed and stay in memory.
        progress: Told how many rows are done.

    Raises InputError where features are not finite or do not fit float16, where another process is at work on the
    same file, or the folder cannot be written.
    """
    crops_NSSC = crops.crops_NSSC if isinstance(crops, Crops) else crops
    check_crops(crops_NSSC)
    if cache is None or len(crops_NSSC) == 0:
        blocks = [block_BD for _, block_BD in _blocks(crops_NSSC, teacher, 0, progress)]
        return np.concatenate(blocks) if blocks else np.empty((0, teacher.dimension), np.float16)
    path = cache / f"features-{_key(crops_NSSC, teacher)}.npy"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # features are biometric data
        if not path.exists():
            _compute(path, crops_NSSC, teacher, progress)
        progress(_PHASE, len(crops_NSSC), len(crops_NSSC))
        return _open(path, (len(crops_NSSC), teacher.dimension))
    except OSError as error:
        raise InputError(f"{cache}: cannot hold features ({error.strerror or error}); choose another place") from None


def _key(crops_NSSC: NDArray[np.uint8], teacher: Teacher) -> str:
    digest = hashlib.sha256(f"{teacher.identity} {teacher.dimension} {crops_NSSC.shape}\n".encode())
    for start in range(0, len(crops_NSSC), _BLOCK):  # of a memory map, never all of it at once
        digest.update(np.ascontiguousarray(crops_NSSC[start : start + _BLOCK]).data)
    return digest.hexdigest()[:_HASH_LETTERS]


def _blocks(
    crops_NSSC: NDArray[np.uint8], teacher: Teacher, start: int, progress: Progress
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """First row and features (B, D) of each block from row `start` on."""
    for row in range(start, len(crops_NSSC), _BLOCK):
        progress(_PHASE, row, len(crops_NSSC))
        features_BD = teacher.embed(np.ascontiguousarray(crops_NSSC[row : row + _BLOCK]))
        with np.errstate(over="ignore"):
            block_BD = features_BD.astype(np.float16)
        if not np.isfinite(block_BD).all():
            bad = row + int(np.flatnonzero(~np.isfinite(block_BD).all(1))[0])
            raise InputError(
                f"features of crop {bad}: are not finite in float16; is the teacher's input declared right?"
            )
        yield row, block_BD


# --- the file --------------------------------------------------------------------------------------------------------


def _compute(path: Path, crops_NSSC: NDArray[np.uint8], teacher: Teacher, progress: Progress) -> None:
    """Write the rows behind those that an earlier run left, then give the file its name."""
    header = _header(len(crops_NSSC), teacher.dimension)
    partial = path.with_name(f".{path.name}.partial")
    with _only_one(partial) as file:
        if path.exists():  # another process finished before the lock was ours
            partial.unlink(missing_ok=True)
            return
        done = _rows_to_keep(file, header, 2 * teacher.dimension)
        file.seek(0)
        file.write(header)
        file.truncate(len(header) + done * 2 * teacher.dimension)
        file.seek(0, os.SEEK_END)
        for _, block_BD in _blocks(crops_NSSC, teacher, done, progress):
            file.write(block_BD.tobytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(count: int, dimension: int) -> bytes:
    text = io.BytesIO()
    npy.write_array_header_1_0(text, {"descr": "<f2", "fortran_order": False, "shape": (count, dimension)})
    return text.getvalue()


def _rows_to_keep(file: IO[bytes], header: bytes, row_bytes: int) -> int:
    """Rows of whole blocks but the last, which a machine that stopped may not have written through."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(header)) != header:
        return 0
    blocks = (size - len(header)) // (row_bytes * _BLOCK)
    return max(blocks - 1, 0) * _BLOCK


@contextmanager
def _only_one(partial: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, locked while it is open; the lock goes with the process."""
    import fcntl  # noqa: PLC0415 - not on every system, and only a cache needs it

    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{partial}: another process is computing it; wait for it") from None
        yield file


def _open(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    try:
        features_ND: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); delete it, it is computed again") from None
    if features_ND.shape != shape or features_ND.dtype != np.float16:
        raise InputError(f"{path}: holds {features_ND.dtype} {features_ND.shape}; delete it, it is computed again")
    return features_ND
