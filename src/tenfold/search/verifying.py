"""Whether the files of an index are whole, and of one index."""

from pathlib import Path

from tenfold.core.errors import InputError
from tenfold.search.manifest import NewerVersionError, read_manifest
from tenfold.search.storage import INDEX_FILES, REPAIR, SectionFile

__all__ = ["check_files", "verify_index"]


def verify_index(path: str | Path) -> list[str]:
    """Compare every byte of an index folder with its checksum, also where it no longer opens.

    Returns a line per damaged file that names it and the section; empty when all is well. Raises
    InputError if there is no such folder, its build has not finished, or a newer Tenfold wrote it.
    """
    path = Path(path)
    some = any((path / name).exists() for name in (*INDEX_FILES, "manifest.json"))
    if not some or path.name.endswith(".partial"):
        read_manifest(path)  # says why not
    damaged = []
    headers = None
    try:
        headers = read_manifest(path)["files"]
    except NewerVersionError:
        raise
    except InputError as error:
        damaged.append(str(error))
    for name, kind in INDEX_FILES.items():
        try:
            file = SectionFile(path / name, kind)
            for section in file.names():
                file.check(section)
            if headers is not None:
                check_files({name: file}, headers)
        except InputError as error:
            damaged.append(str(error))
    return damaged


def check_files(files: dict[str, SectionFile], headers: dict[str, int]) -> None:
    """InputError where a file is whole, but of another index."""
    for name, file in files.items():
        if file.checksum != headers.get(name):
            raise InputError(f"{file.path}: belongs to another index than the manifest.json beside it; {REPAIR}")
