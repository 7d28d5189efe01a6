"""The stats files of FreeSurfer and FastSurfer: aseg.stats, and aparc.stats of the two hemispheres."""

from collections.abc import Iterator
from pathlib import Path

from tenfold.anatomy.tables import Grid, measure_grid
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError

__all__ = ["read_stats"]

_LONGEST = 1 << 22  # bytes of a stats file
_ASEG = ("aseg.stats", "aseg+DKT.stats", "aseg+DKT.VINN.stats")
_APARC = ("aparc.stats", "aparc.DKTatlas.mapped.stats", "aparc.DKTatlas.stats")


def read_stats(path: Path | str) -> Measured:
    """Volumes of one subject's aseg.stats, or of every SUBJECT/stats/aseg.stats in a folder.

    The cortical regions come from lh.aparc.stats and rh.aparc.stats beside it, where they are there.

    Raises:
        InputError: There is no such file, one is not of FreeSurfer, or two subjects have different structures.
    """
    path = Path(path)
    files = [path] if path.is_file() else _find(path)
    if not files:
        raise InputError(f"{path}: has no SUBJECT/stats/{_ASEG[0]} in it; give a folder of subjects, or the file")
    tables = [dict(_volumes(file)) for file in files]
    for file, table in zip(files, tables, strict=True):
        if other := sorted(table.keys() ^ tables[0].keys()):
            raise InputError(f"{file}: differs from {files[0]} in '{other[0]}'; read one version's files at a time")
    header = ["subject", *tables[0]]
    rows = [[_subject(file), *(table[name] for name in header[1:])] for file, table in zip(files, tables, strict=True)]
    return measure_grid(Grid(header, rows, str(path)))


def _find(folder: Path) -> list[Path]:
    stats = sorted(one for one in folder.glob("*/stats") if one.is_dir()) or [folder / "stats", folder]
    firsts = (next((one / name for name in _ASEG if (one / name).is_file()), None) for one in stats)
    return [file for file in firsts if file is not None]


def _subject(file: Path) -> str:
    named = [line.split() for line in _lines(file) if line.startswith("# subjectname ")]
    return named[0][2] if named and len(named[0]) > 2 else file.resolve().parent.parent.name


def _volumes(file: Path) -> Iterator[tuple[str, str]]:
    """Names and volumes in mm³, of the measures in the head, then of the structures, then of the cortex."""
    seen: set[str] = set()
    for name, volume in [*_measures(file), *_rows(file, "StructName", "Volume_mm3")]:
        if name not in seen:
            seen.add(name)
            yield name, volume
    if any(name.startswith("ctx-") for name in seen):
        return  # aseg+DKT has the cortex too
    for side in ("lh", "rh"):
        beside = [file.with_name(f"{side}.{name}") for name in _APARC]
        for surface in [one for one in beside if one.is_file()][:1]:
            yield from ((f"ctx-{side}-{name}", volume) for name, volume in _rows(surface, "StructName", "GrayVol"))


def _measures(file: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(file):
        if line.startswith("# Measure "):
            cells = [cell.strip() for cell in line.removeprefix("# Measure ").split(",")]
            if len(cells) >= 5 and cells[-1] == "mm^3":
                yield cells[1], cells[-2]


def _rows(file: Path, name: str, volume: str) -> Iterator[tuple[str, str]]:
    columns: list[str] = []
    for line in _lines(file):
        if line.startswith("# ColHeaders"):
            columns = line.split()[2:]
        elif line and not line.startswith("#"):
            cells = line.split()
            if name not in columns or volume not in columns or len(cells) != len(columns):
                raise InputError(f"{file}: is not a stats file of FreeSurfer: '{line[:60]}'")
            yield cells[columns.index(name)], cells[columns.index(volume)]
    if not columns:
        raise InputError(f"{file}: is not a stats file of FreeSurfer: it has no line '# ColHeaders'")


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _LONGEST:
            raise InputError(f"{file}: is larger than {_LONGEST >> 20} MB; is it a stats file?")
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
