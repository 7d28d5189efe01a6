"""Where an index may lie, the folder it is built in, and how the one takes the place of the other.

INDEX.partial belongs to one build at a time: `lock` keeps others out, `build.json` notes what is done. Both go along
when the folder gets the name INDEX and are removed last, so that the same build, killed in between, knows its work
again. Only files of names that Tenfold uses are ever removed, and no folder that holds another.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold.core.errors import InputError
from tenfold.core.files import exchange
from tenfold.search.manifest import read_manifest
from tenfold.search.storage import (
    INDEX_FILES,
    LIVING_FILE,
    NO_ROOM,
    SHARDS_FILE,
    is_section_file,
    replace_file,
    sync_folder,
)

__all__ = [
    "check_place",
    "discard",
    "disk_trouble",
    "is_published",
    "locked",
    "partial_of",
    "publish",
    "read_notes",
    "tidy",
    "workplace",
    "write_notes",
]

_INDEX_NAMES = (*INDEX_FILES, "ids.bin", "columns.bin", "manifest.json", "build.json", "lock")
_BUILD_NAMES = (*_INDEX_NAMES, "sample.npy", "tree.bin", "own.npy", "spill")
_SPILLED = re.compile(r"((rows|labels|entries)-\d+|counts\.npy)(\.partial)?")
_ELSEWHERE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ELOOP,
)


def partial_of(path: Path) -> Path:
    """The folder in which the index `path` is built."""
    return path.with_name(path.name + ".partial")


def disk_trouble(error: OSError, folder: Path) -> InputError:
    """What to tell whoever builds in `folder` when the system refuses something."""
    if error.errno in NO_ROOM:
        advice = "make room or choose another place and run it again: it goes on behind the last finished phase"
    elif error.errno in _ELSEWHERE:
        advice = "choose another place"
    else:
        advice = "mend that and run it again: it goes on behind the last finished phase"
    return InputError(f"{error.filename or folder}: {error.strerror or error}; the build stopped: {advice}")


# --- the place of the index -----------------------------------------------------------------------------------------


def check_place(path: Path, overwrite: bool) -> Path:
    """Where the index `path` is to lie: there, or where that link leads.

    Raises InputError where no index can be made, or where something is that must not be replaced.
    """
    if path.name in ("", "..") or "\0" in path.name:
        raise InputError(f"{str(path)!r}: is no name for an index; give it one, such as my_index")
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        if place.is_symlink():
            raise InputError(f"{path}: a link that leads back to itself; choose another place")
        if path.name.endswith(".partial") or place.name.endswith(".partial"):
            raise InputError(f"{path}: such names are those of unfinished builds; choose one without .partial")
        if not place.parent.is_dir():
            raise InputError(f"{place.parent}: no such folder; make it first")
        if place.exists() and not (place.is_dir() and _is_empty(place)):
            _check_replaceable(place, overwrite)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; choose another place") from None
    return place


def _check_replaceable(path: Path, overwrite: bool) -> None:
    """InputError unless all that lies there is an index; damaged is good enough."""
    if (path / LIVING_FILE).exists():
        raise InputError(f"{path}: takes updates and is not replaced; remove it yourself or choose another path")
    if (path / SHARDS_FILE).exists():
        raise InputError(f"{path}: is in shards and is not replaced; remove it yourself or choose another path")
    if not path.is_dir() or not _says_tenfold(path):
        raise InputError(f"{path}: exists and is not a Tenfold index; choose another path")
    if odd := _stranger(path, _INDEX_NAMES):
        raise InputError(f"{odd}: is no file of an index, so this folder is kept; move it or choose another path")
    if not overwrite and not read_notes(path):
        raise InputError(f"{path}: there is an index already; choose another path, or overwrite it (--overwrite)")
    if os.access(path.parent, os.W_OK) and not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _says_tenfold(folder: Path) -> bool:
    if any(is_section_file(folder / name) for name in INDEX_FILES):
        return True
    with contextlib.suppress(InputError):
        return bool(read_manifest(folder))
    return False


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def _stranger(folder: Path, names: Collection[str]) -> Path | None:
    """Something in the folder that is none of `names`, if there is one."""
    for entry in sorted(folder.iterdir()):
        if not _is_ours(entry, names):
            return entry
        for spilled in entry.iterdir() if entry.is_dir() else ():
            if not _SPILLED.fullmatch(spilled.name):
                return spilled
    return None


def _is_ours(entry: Path, names: Collection[str]) -> bool:
    is_folder = entry.is_dir() and not entry.is_symlink()
    return entry.name.removesuffix(".partial") in names and is_folder == (entry.name == "spill")


# --- the folder of the build ----------------------------------------------------------------------------------------


def _in_the_way(folder: Path) -> Path | None:
    """Something in the folder that no build of an index has made, if there is one."""
    names = {entry.name for entry in folder.iterdir()}
    if names & {"lock", "build.json"} or _says_tenfold(folder):
        return _stranger(folder, _BUILD_NAMES)
    return _stranger(folder, ())


def _has_begun(folder: Path) -> bool:
    """Whether a build of an index can go on behind what it has done there."""
    return bool(read_notes(folder).get("done"))


@contextmanager
def workplace(
    folder: Path,
    in_the_way: Callable[[Path], Path | None] = _in_the_way,
    has_begun: Callable[[Path], bool] = _has_begun,
) -> Iterator[None]:
    """Make the folder a build works in, and keep other builds out of it while the block runs.

    What a build that failed has left stays where `has_begun` says that another can go on behind it. Raises InputError
    where the folder is not a build's or another build is at work, and OSError.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: is in the way of the build, which makes a folder of that name; move it")
    folder.mkdir(exist_ok=True)
    if odd := in_the_way(folder):
        raise InputError(f"{odd}: is in the way of the build, which did not make it; move it or choose another place")
    with locked(folder, "is building"):
        try:
            yield
        except BaseException:
            if not has_begun(folder):
                with contextlib.suppress(OSError):
                    discard(folder)
            raise


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold `folder/lock`; a process that is killed lets go of it.

    Raises InputError where another holds it, which `doing` says what it does, and OSError.
    """
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _lock(descriptor) or not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise InputError(f"{folder}: another process {doing} this index (pid {pid}); wait for it to end")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def read_notes(folder: Path) -> dict[str, Any]:
    """What a build noted in its `build.json`; empty where there is none or it is not readable."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        notes = json.loads((folder / "build.json").read_text())
        if isinstance(notes, dict) and {"identity", "plan", "done", "spilled"} <= notes.keys():
            return notes
    return {}


def write_notes(folder: Path, notes: dict[str, Any]) -> None:
    """Replace `build.json`. Raises OSError."""
    with replace_file(folder / "build.json") as file:
        file.write(json.dumps(notes, indent=1).encode())


def discard(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of an index and of its build but those to `keep`; other things stay, with their folder."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "lock"):
        if entry.name in keep or not _is_ours(entry, _BUILD_NAMES):
            continue
        if entry.name != "spill":
            entry.unlink()
            continue
        for spilled in entry.iterdir():
            if _SPILLED.fullmatch(spilled.name):
                spilled.unlink()
        _remove_empty(entry)
    if not keep:
        _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


# --- from the one to the other --------------------------------------------------------------------------------------


def publish(folder: Path, path: Path, overwrite: bool) -> None:
    """Give the finished index in `folder` its name; one that is there goes when the new one is in its place.

    Raises InputError where something came to lie there meanwhile, and OSError.
    """
    discard(folder, keep=_INDEX_NAMES)
    check_place(path, overwrite)
    if not path.exists() or _is_empty(path):
        folder.rename(path)
        sync_folder(path.parent)
        tidy(path)
        return
    with locked(path, "is building"):  # so that nobody builds where it comes to lie before it is removed
        old = _swap(folder, path)
        sync_folder(path.parent)
        tidy(path, old)


def _swap(folder: Path, path: Path) -> Path:
    """Put `folder` in the place of `path`; where the older index lies now."""
    if exchange(folder, path):
        return folder
    old = path.with_name(f"{path.name[:200]}.replaced-{secrets.token_hex(4)}")
    write_notes(folder, read_notes(folder) | {"replaced": old.name})
    path.rename(old)
    folder.rename(path)
    return old


def is_published(path: Path, identity: dict[str, Any], overwrite: bool) -> bool:
    """Whether the build of this identity lies at `path` and was killed only while it tidied up.

    Raises InputError where it is another's, which nobody said to replace.
    """
    notes = read_notes(path)
    if notes and notes["identity"] == identity and "manifest" in notes["done"]:
        return True
    if notes and not overwrite:
        raise InputError(f"{path}: there is an index already; choose another path, or overwrite it (--overwrite)")
    return False


def tidy(path: Path, *replaced: Path) -> None:
    """Remove what a published index no longer needs: those it replaced, then lock and notes."""
    noted = read_notes(path).get("replaced")
    for old in (*replaced, *([path.with_name(noted)] if noted else [])):
        with contextlib.suppress(OSError):
            discard(old)
    for name in ("lock", "build.json"):
        (path / name).unlink(missing_ok=True)
