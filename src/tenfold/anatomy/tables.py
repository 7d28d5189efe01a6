"""Volumes of many people, read from whatever table a segmenter has left, and a table of our own.

Columns are found by name, in any order and in the spellings of SynthSeg, FreeSurfer, FastSurfer and MUSE. A structure
whose columns are not all there is left out, and named in `Measured.missing`.

S subjects · R regions · G QC groups
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.labels import ICV, QC_GROUPS, STRUCTURES, Side, Structure, shorten
from tenfold.anatomy.sidecars import Processing, read_processing
from tenfold.anatomy.volumes import Measured, combine_sides
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = ["Grid", "Measured", "join_qc", "measure_grid", "read_measured", "write_measured"]

_LONGEST = 1 << 28  # bytes of a table
_SUBJECT = ("participantid", "subject", "subjects", "mrid", "measurevolume", "lhaparcvolume", "rhaparcvolume", "id")
_HEADS = (ICV, "EstimatedTotalIntraCranialVol", "eTIV", "ICV", "MUSE_702", "702", "Intracranial volume")
_PEOPLE = ("age", "sex", "site", "session", "group", "diagnosis")
_IMAGE_ENDS = (".nii.gz", ".nii", ".mgz", ".mgh")
_QC, _ASYMMETRY = "qc ", "asymmetry "
_SEGMENTED, _VOLUMES = "segmentation.json", "volumes.tsv"  # in a folder that `segment` fills


class Grid:
    """A table of text whose columns are asked for by name.

    Args:
        header: As it stands in the file.
        rows: Of `len(header)` cells each.
        source: The file, for messages.

    Raises:
        InputError: There are no rows, a row is shorter or longer, or two columns have one name.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]], source: str) -> None:
        self.header, self.rows, self.source = list(header), rows, source
        if not rows:
            raise InputError(f"{source}: has a header and no rows; it needs a row per image")
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise InputError(f"{source}: line {number} has {len(row)} cells, the header {len(header)}")
        self._places: dict[str, int] = {}
        for place, name in enumerate(self.header):
            if name and shorten(name) in self._places:
                raise InputError(f"{source}: has two columns '{name}'; take one of them out")
            self._places.setdefault(shorten(name), place)

    def find(self, *names: str) -> int | None:
        """The number of the first of these columns that is there."""
        places = (self._places.get(shorten(name)) for name in names)
        return next((place for place in places if place is not None), None)

    def text(self, place: int) -> list[str]:
        """A column (S,) as it stands in the file."""
        return [row[place].strip() for row in self.rows]

    def numbers(self, places: Sequence[int]) -> NDArray[np.float64]:
        """The sum (S,) of some columns.

        Raises:
            InputError: A cell is not a number.
        """
        total = np.zeros(len(self.rows))
        for place in places:
            for number, cell in enumerate(self.text(place)):
                try:
                    total[number] += float(cell)
                except ValueError:
                    said = f"'{cell}'" if cell else "nothing"
                    raise InputError(
                        f"{self.source}: line {number + 2}, column '{self.header[place]}': {said} where a number is due"
                    ) from None
        return total


def read_measured(
    path: Path | str,
    regions: Literal["paper", "all"] = "paper",
    qc: Path | str | None = None,
    voxel_mm: float | None = None,
) -> Measured:
    """Read the volumes of a set of images, whoever has made them.

    Args:
        path: A table: SynthSeg's volumes.csv, asegstats2table's, a MUSE table such as DLMUSE's, or ours (.tsv, with
            `write_measured`). An aseg.stats file, or a folder of subjects with stats/aseg.stats (and aparc.stats) in
            each, of FreeSurfer or FastSurfer. A label file, or a folder of them; of one that `segment` has filled,
            the table in it.
        regions: "paper" takes the paper's structures, "all" every column of the table under its own name.
        qc: SynthSeg's QC table. By default the file beside `path` that has `qc` in its name where that has `volumes`
            or `vol`, or is called qc.csv.
        voxel_mm: For label files without an affine: the edge of a voxel.

    Raises:
        InputError: It cannot be read, or says what cannot be.
    """
    path = Path(path)
    if path.is_dir() and (path / _SEGMENTED).exists():
        path /= _VOLUMES
        if not path.exists():
            raise InputError(f"{path.parent}: is not segmented to the end; run `tenfold anatomy segment` again")
    if path.is_dir() or path.name.endswith((".nii", ".nii.gz", ".mgz", ".stats")):
        measured = _read_folder(path, voxel_mm)
        if regions == "all":
            raise InputError(f"{path}: regions='all' is for tables; label files and stats give the paper's regions")
    else:
        grid = _read_grid(path)
        own = grid.header[:2] == ["participant_id", ICV]
        measured = _read_own(grid, path) if own else measure_grid(grid, regions)
    qc = Path(qc) if qc is not None else _beside(path)
    return measured if qc is None else join_qc(measured, _read_grid(qc))


def measure_grid(grid: Grid, regions: Literal["paper", "all"] = "paper") -> Measured:
    """The volumes in a table of SynthSeg, FreeSurfer or MUSE.

    Raises:
        InputError: There is no column of intracranial volumes, or none of a structure.
    """
    head = grid.find(*_HEADS)
    if head is None:
        raise InputError(
            f"{grid.source}: has no column of intracranial volumes ('{ICV}', 'EstimatedTotalIntraCranialVol' or "
            "'ICV'); give a table of SynthSeg, FreeSurfer or MUSE"
        )
    found = _all_columns(grid, head) if regions == "all" else {s.name: _columns(s, grid) for s in STRUCTURES}
    volumes = {
        name: {side: grid.numbers(places) for side, places in sides.items()} for name, sides in found.items() if sides
    }
    if not volumes:
        raise InputError(f"{grid.source}: has no column of a known structure, such as 'left thalamus' or 'Thalamus_L'")
    volumes_SR, asymmetry_SR = combine_sides(volumes)
    return Measured(
        subjects=tuple(_subjects(grid)),
        regions=tuple(volumes),
        volumes_SR=volumes_SR,
        icv_S=grid.numbers([head]),
        asymmetry_SR=asymmetry_SR,
        people=_people(grid),
        segmenter=_segmenter(grid),
        missing=tuple(name for name, sides in found.items() if not sides),
        source=grid.source,
    )


def join_qc(measured: Measured, grid: Grid) -> Measured:
    """Add the QC scores of a table to volumes, by the subjects' names.

    Columns of groups that are not there are left out.

    Raises:
        InputError: No group is there, or a subject has no row.
    """
    places = {group: place for group in QC_GROUPS if (place := grid.find(group)) is not None}
    if not places:
        raise InputError(f"{grid.source}: has no column of a QC group, such as '{QC_GROUPS[0]}'")
    rows = {name: number for number, name in enumerate(_subjects(grid))}
    if absent := [name for name in measured.subjects if name not in rows]:
        raise InputError(f"{grid.source}: has no row for subject '{absent[0]}' of {measured.source}")
    scores = np.stack([grid.numbers([place]) for place in places.values()], axis=1)
    return replace(measured, qc_SG=scores[[rows[name] for name in measured.subjects]], groups=tuple(places))


def write_measured(measured: Measured, path: Path | str) -> None:
    """Write a table of ours, and beside it a .json that names unit, segmenter and processing; numbers keep every bit.

    Columns: participant_id, total intracranial, the regions, `asymmetry REGION` (nan where there is no volume),
    `qc GROUP`, and of people age, sex, site, session, group and diagnosis.
    """
    path = Path(path)
    columns: dict[str, Sequence[str | float]] = {"participant_id": measured.subjects, ICV: measured.icv_S.tolist()}
    columns |= dict(zip(measured.regions, measured.volumes_SR.T.tolist(), strict=True))
    if measured.asymmetry_SR is not None:
        for region, values in zip(measured.regions, measured.asymmetry_SR.T, strict=True):
            if np.isfinite(values).any():
                columns[_ASYMMETRY + region] = values.tolist()
    if measured.qc_SG is not None:
        columns |= {_QC + group: s for group, s in zip(measured.groups, measured.qc_SG.T.tolist(), strict=True)}
    columns |= {shorten(name): values for name, values in measured.people.items() if shorten(name) in _PEOPLE}
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    about: dict[str, Any] = {
        "unit": "mm3",
        "segmenter": measured.segmenter,
        "regions": measured.regions,
        "missing": measured.missing,
    }
    if measured.processing is not None:
        about["processing"] = asdict(measured.processing)
    contents = {path.with_suffix(".json"): json.dumps(about, indent=1) + "\n", path: text.getvalue()}
    try:
        for file, content in contents.items():  # the table last: where it is, all is done
            with replace_file(file) as partial:
                partial.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _read_grid(path: Path) -> Grid:
    try:
        if path.stat().st_size > _LONGEST:
            raise InputError(f"{path}: is larger than {_LONGEST >> 20} MB; is it a table of volumes?")
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = next((one for one in "\t;" if one in first), ",")
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if row]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: is not a table; give a .csv or .tsv file in UTF-8") from None
    if not rows:
        raise InputError(f"{path}: is empty")
    return Grid([cell.strip() for cell in rows[0]], rows[1:], str(path))


def _read_folder(path: Path, voxel_mm: float | None) -> Measured:
    if path.name.endswith(".stats") or any(any(path.glob(f"{where}aseg*.stats")) for where in ("*/stats/", "stats/")):
        from tenfold.anatomy.freesurfer import read_stats  # noqa: PLC0415 - it reads grids through this file

        return read_stats(path)
    from tenfold.anatomy.segmentations import read_segmentations  # noqa: PLC0415 - nibabel is for label files only

    return read_segmentations(path, voxel_mm)


def _read_own(grid: Grid, path: Path) -> Measured:
    about = _sidecar(path.with_suffix(".json"))
    regions = about["regions"]
    places = {name: grid.header.index(name) for name in regions if name in grid.header}
    if absent := [name for name in regions if name not in places]:
        raise InputError(f"{path}: has no column '{absent[0]}', which {path.with_suffix('.json').name} names")
    asymmetry_SR = np.full((len(grid.rows), len(regions)), np.nan)
    for number, name in enumerate(regions):
        if _ASYMMETRY + name in grid.header:
            asymmetry_SR[:, number] = grid.numbers([grid.header.index(_ASYMMETRY + name)])
    scores = [(group, grid.header.index(_QC + group)) for group in QC_GROUPS if _QC + group in grid.header]
    return Measured(
        subjects=tuple(grid.text(0)),
        regions=tuple(regions),
        volumes_SR=np.stack([grid.numbers([place]) for place in places.values()], axis=1),
        icv_S=grid.numbers([1]),
        qc_SG=np.stack([grid.numbers([place]) for _, place in scores], axis=1) if scores else None,
        groups=tuple(group for group, _ in scores),
        asymmetry_SR=asymmetry_SR,
        people=_people(grid),
        segmenter=about["segmenter"],
        missing=tuple(about.get("missing", ())),
        source=str(path),
        processing=_processing(about.get("processing"), path.with_suffix(".json")),
    )


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        about: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: cannot be read; our tables need the .json that was written beside them") from None
    lists = isinstance(about, dict) and all(isinstance(about.get(name), list) for name in ("regions", "missing"))
    if not lists or not all(isinstance(name, str) for name in (*about["regions"], *about["missing"])):
        raise InputError(f"{path}: names no regions; our tables need the .json that was written beside them")
    if about.get("unit") != "mm3" or not isinstance(about.get("segmenter"), str):
        raise InputError(
            f"{path}: says unit '{about.get('unit')}', segmenter '{about.get('segmenter')}'; mm3 and a name are due"
        )
    told: dict[str, Any] = about
    return told


def _processing(stated: Any, path: Path) -> Processing | None:
    if stated is None or isinstance(stated, dict):
        return None if stated is None else read_processing(stated, str(path))
    raise InputError(f"{path}: its processing is no mapping; segment the images again")


def _columns(structure: Structure, grid: Grid) -> dict[Side, list[int]] | None:
    """The columns of a structure by side, or None where one is not there."""
    for parts in structure.spellings:
        found = [_part(part, "left" in structure.freesurfer, len(parts) > 1, grid) for part in parts]
        if all(found):
            return _merge(found)
    numbered = [
        {side: place} if (place := grid.find(f"MUSE_{code}", str(code))) is not None else None
        for side, codes in structure.muse.items()
        for code in codes
    ]
    return _merge(numbered) if numbered and all(numbered) else None


def _part(name: str, sided: bool, may_lie_between: bool, grid: Grid) -> dict[Side, int] | None:
    name = shorten(name)
    if sided:
        left, right = (grid.find(*_spellings(name, side)) for side in ("left", "right"))
        if left is not None and right is not None:
            return {"left": left, "right": right}
        if not may_lie_between:
            return None
    middle = grid.find(name)
    return None if middle is None else {"middle": middle}


def _spellings(name: str, side: str) -> tuple[str, ...]:
    """How a structure of one side is called: `left thalamus`, `Thalamus_L`, `lhCortexVol`; a region of the cortex
    `ctx-lh-cuneus` or `lh_cuneus_volume`, for MUSE has a Cuneus_L of its own."""
    short = f"{side[0]}h"
    if name.startswith("ctx"):
        return f"ctx{short}{name[3:]}", f"{short}{name[3:]}volume"
    return f"{side}{name}", f"{name}{side[0]}", f"{short}{name}"


def _merge(parts: Sequence[dict[Side, int] | None]) -> dict[Side, list[int]]:
    merged: dict[Side, list[int]] = {}
    for part in parts:
        for side, place in (part or {}).items():
            merged.setdefault(side, []).append(place)
    return merged


def _all_columns(grid: Grid, head: int) -> dict[str, dict[Side, list[int]]]:
    """Every further column of numbers, `X_L` and `X_R` as one."""
    taken = {head, _subject_place(grid), *(grid.find(name) for name in _PEOPLE)}
    names = {name: place for place, name in enumerate(grid.header) if place not in taken}
    found: dict[str, dict[Side, list[int]]] = {}
    for name, place in names.items():
        stem = name[:-2]
        if name.endswith(("_L", "_R")) and {f"{stem}_L", f"{stem}_R"} <= names.keys():
            found.setdefault(f"{stem} (sides)" if stem in names else stem, {})[
                "left" if name[-1] == "L" else "right"
            ] = [place]
        else:
            found[name] = {"middle": [place]}
    return found


def _subject_place(grid: Grid) -> int:
    place = grid.find(*_SUBJECT)
    return 0 if place is None else place


def _subjects(grid: Grid) -> list[str]:
    """Names without the ends of image files, which SynthSeg leaves on them."""
    return [
        next((name.removesuffix(end) for end in _IMAGE_ENDS if name.endswith(end)), name)
        for name in grid.text(_subject_place(grid))
    ]


def _people(grid: Grid) -> dict[str, tuple[str, ...]]:
    return {name: tuple(grid.text(place)) for name in _PEOPLE if (place := grid.find(name)) is not None}


def _segmenter(grid: Grid) -> str:
    kinds = {"synthseg": (ICV,), "freesurfer": _HEADS[1:3], "muse": _HEADS[3:6]}
    return next((kind for kind, names in kinds.items() if grid.find(*names) is not None), "")


def _beside(path: Path) -> Path | None:
    if path.is_dir() or path.suffix not in (".csv", ".tsv"):
        return None
    names = (path.name.replace("volumes", "qc"), path.name.replace("vol", "qc"), f"qc{path.suffix}")
    return next((path.with_name(name) for name in names if name != path.name and path.with_name(name).is_file()), None)
