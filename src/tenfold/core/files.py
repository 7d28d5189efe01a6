"""Files and folders that appear whole or not at all: written beside, synced, renamed."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["exchange", "replace_file", "replace_folder", "restore_folder"]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` once the block ends well.

    A kill at any moment leaves the older file or the new one. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `path` once the block ends well.

    The older folder goes with all that is in it, and only when the new one is in its place. A kill at any moment
    leaves one of them whole: as `path`, or where the file system cannot exchange two names, as what
    `restore_folder` brings back. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    restore_folder(path)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _put(partial, path)
    _remove(partial)
    _remove(_previous(path))


def restore_folder(path: Path) -> None:
    """Bring back a folder whose replacement was killed between two renames; killed later, clear the older one away."""
    if path.exists():
        _remove(_previous(path))
    elif _previous(path).is_dir():
        _previous(path).rename(path)


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _put(partial: Path, path: Path) -> None:
    if path.exists() and not exchange(partial, path):
        path.rename(_previous(path))
    if not path.exists():
        partial.rename(path)
    _sync(path.parent)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
