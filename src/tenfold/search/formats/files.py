"""Files underneath the formats: opening, exact reading, safe writing. Whatever goes wrong becomes one `InputError`."""

import bisect
import importlib
import io
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from tenfold.core.errors import InputError

PIECE_BYTES = 1 << 20  # files are read and checked in pieces of this size, so that scratch memory stays small


class ReadableInto(Protocol):
    """Anything bytes can be read from into a buffer: a file, a zip member, a gzip stream."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read up to the length of `buffer`; the number of bytes read, 0 at the end."""


@contextmanager
def system_errors(path: Path, action: str = "read") -> Iterator[None]:
    """Turn the operating system's refusals inside the block into `InputError`."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; it cannot be {action} by this user") from None
    except OSError as error:
        raise InputError(f"{path}: could not be {action}: {error.strerror or error}") from None


@contextmanager
def decoding(name: str, what: str) -> Iterator[None]:
    """Turn whatever a foreign decoder raises on broken bytes into `InputError`; keep calls of our own outside."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zlib, zipfile, h5py, pyarrow and ast each raise their own dozen of types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"{name}: not readable as {what} ({reason}); the file is cut, damaged or mislabelled"
        ) from None


def file_size(path: Path) -> int:
    """Size in bytes of a regular file (links are followed).

    Raises InputError for what is missing, forbidden, a folder, a device or pipe, or empty.
    """
    with system_errors(path):
        try:
            status = path.stat()
            with path.open("rb") if stat.S_ISREG(status.st_mode) else io.BytesIO():
                pass
        except ValueError:
            raise InputError(f"{str(path)!r}: not a possible path (it contains a null character)") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: a folder, not a file; only SPACEV's, of vectors_1.bin, ..., are read whole")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file but a device or pipe; copy its content to a file first")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); write or fetch it again")
    return status.st_size


def open_raw(path: Path) -> io.RawIOBase:
    """The file, unbuffered: every read is one of the system's."""
    with system_errors(path):
        return path.open("rb", buffering=0)


def read_exactly(stream: ReadableInto, out: np.ndarray, name: str) -> None:
    """Fill the C-contiguous `out` with the next bytes of `stream`; InputError if it ends early."""
    if out.size == 0:
        return
    view = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        with decoding(name, "its declared content"):
            got = stream.readinto(view[done : done + PIECE_BYTES])
        if not got:
            raise InputError(f"{name}: ends {len(view) - done:,} bytes early; it is cut or changed meanwhile")
        done += got


def read_array(stream: ReadableInto, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """The next values of `stream` as a new array; InputError if it ends early."""
    out = np.empty(shape, dtype)
    read_exactly(stream, out, name)
    return out


class JoinedFiles(io.RawIOBase):
    """Several files read as if they were one; a part is open only while it is read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        sizes = [file_size(path) for path in paths]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self.size: int = self._starts[-1]
        self._position = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` bytes from the start; other origins are not needed."""
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("joined files seek from the start only")
        self._position = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the current part into `buffer`; 0 at the very end."""
        if self._position >= self.size:
            return 0
        part = bisect.bisect_right(self._starts, self._position) - 1
        with system_errors(self._paths[part]), self._paths[part].open("rb", buffering=0) as file:
            file.seek(self._position - self._starts[part])
            got = file.readinto(buffer) or 0
        self._position += got
        return got


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` complete and synced to disk when the block ends, or not at all.

    Raises InputError if `path` exists and `overwrite` is false, and where the system refuses (no room, no permission).
    """
    _refuse_existing(path, overwrite)
    partial = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")
    with system_errors(path, "written"):
        try:
            with partial.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _refuse_existing(path, overwrite)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.isdir(path):
        raise InputError(f"{path}: a folder of this name exists; choose another name")
    if not overwrite and os.path.lexists(path):
        raise InputError(f"{path}: exists already; choose another name, or overwrite it (--overwrite)")


def optional_module(module: str, purpose: str) -> Any:
    """Import a package of the `search` extra; InputError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(f"{purpose} needs {package}, which is not installed: pip install 'tenfold[search]'") from None
