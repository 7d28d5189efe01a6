"""UMDFaces: whole photographs, and CSV files that say who is where on them."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tenfold.core.errors import InputError
from tenfold.faces.facesets import FaceSet, labelled_files, safe_path
from tenfold.faces.formats.textfiles import read_lines
from tenfold.faces.pictures import printable

__all__ = ["umdfaces"]

_BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
_COLUMNS = ("FILE", "SUBJECT_ID", *_BOX)


def umdfaces(tables: Sequence[Path | str], root: Path | str | None = None) -> FaceSet:
    """The faces of one or more CSV files of UMDFaces, each with its box.

    Args:
        tables: Files with columns FILE, SUBJECT_ID, FACE_X, FACE_Y, FACE_WIDTH and FACE_HEIGHT (pixels); others are
            ignored. A picture with several faces stands in several rows.
        root: The folder below which FILE lies; by default that of the first table.

    Raises:
        InputError: A table cannot be read, lacks a column, has a box that is no numbers, or a FILE outside the root.
            Boxes without area and missing pictures are found when they are cropped, and cost no other.
    """
    if not tables:
        raise InputError("no table given; name the CSV files of UMDFaces, such as umdfaces_batch1_ultraface.csv")
    folder = Path(tables[0]).parent if root is None else Path(root)
    files: list[Path] = []
    people: list[str | None] = []
    boxes: list[list[float]] = []
    for table in map(Path, tables):
        for where, row in _rows(table):
            files.append(safe_path(folder, row["FILE"].strip(), where))
            people.append(_person(row["SUBJECT_ID"], where))
            boxes.append([_number(row[column], f"{where}: {column}") for column in _BOX])
    if not files:
        raise InputError(f"{printable(tables[0])}: has no rows; is it the right table?")
    return replace(labelled_files(folder, files, people), boxes=np.array(boxes, np.float32))


def _rows(table: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    reader = csv.DictReader(read_lines(table), strict=True)
    try:
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"{printable(table)}: has no column {', '.join(missing)}; is it a table of UMDFaces?")
        for row in reader:
            where = f"{printable(table)}: line {reader.line_num:,}"
            if any(row[column] is None for column in _COLUMNS):
                raise InputError(f"{where}: ends early; the table is cut, copy it again")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{printable(table)}: line {reader.line_num:,}: is no CSV ({error}); copy it again") from None


def _person(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: SUBJECT_ID is empty; every face belongs to somebody")
    return text.strip()


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e7:
        raise InputError(f"{where} is {text!r}, no number of pixels; correct the table")
    return value
