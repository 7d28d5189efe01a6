"""What is on disk: one door to every kind of set of face pictures."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tenfold.core.errors import InputError
from tenfold.faces.facesets import FaceSet, labelled_files
from tenfold.faces.formats.recordio import record_io
from tenfold.faces.formats.umdfaces import umdfaces
from tenfold.faces.pictures import printable

__all__ = ["FaceSet", "read_faces"]

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"}


def read_faces(path: Path | str, person: Literal["folder", "file", "none"] = "folder") -> FaceSet:
    """A set of pictures on disk.

    Args:
        path: A folder `root/person/*.jpg` (LFW, VGGFace2, CASIA-WebFace, ORL and one's own), the CSV of UMDFaces, or a
            folder with `train.rec`, `train.idx` and `property`.
        person: Which part of a picture's path says who it is: the "folder" below the root; the "file" without its
            suffix, wherever below the root it lies; or "none": pictures without a label.

    Raises:
        InputError: It is none of these, or has no picture. Broken pictures are found when they are decoded.
    """
    root = Path(path)
    if root.suffix.lower() == ".csv":
        return umdfaces([root])
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{printable(root)}: {what}; give a folder with a folder of pictures for each person")
    if (root / "train.rec").exists():
        return record_io(root)
    try:
        files = list(_pictures(root))
    except OSError as error:
        raise InputError(
            f"{printable(error.filename or root)}: cannot be listed ({error.strerror}); allow it"
        ) from None
    if not files:
        raise InputError(f"{printable(root)}: has no picture ({', '.join(sorted(_SUFFIXES))}); is it the right folder?")
    return labelled_files(root, files, [_person(root, file, person) for file in files])


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures below the folder in the order of their paths, nothing hidden; only links in the folder are followed."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield from [entry] if _is_picture(entry.name) else []
            continue
        for at, folders, files in os.walk(entry, onerror=_raise):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(at, name) for name in sorted(files) if not name.startswith(".") and _is_picture(name))


def _raise(error: OSError) -> None:
    raise error


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _person(root: Path, file: Path, person: Literal["folder", "file", "none"]) -> str | None:
    if person == "none":
        return None
    parts = file.relative_to(root).parts
    if person == "folder" and len(parts) == 1:
        raise InputError(
            f"{printable(file)}: lies beside the folders of people; put it into the folder of its person, "
            "or say that the file's name is the person"
        )
    return unicodedata.normalize("NFC", printable(parts[0] if person == "folder" else file.stem))
