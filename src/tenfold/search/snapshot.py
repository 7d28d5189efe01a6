"""`living.json`: of what a living index consists at one moment; replaced as a whole, so that there is always one."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.core.errors import InputError
from tenfold.search.columns import Columns, check_columns
from tenfold.search.manifest import checked_json
from tenfold.search.space import Dtype, Metric
from tenfold.search.storage import LIVING_FILE, REPAIR, replace_file

__all__ = ["IdKind", "Part", "Snapshot", "is_living", "read_snapshot", "write_snapshot"]

IdKind = Literal["int64", "string"]
"""What ids are: whole numbers from 0 on, or texts."""

_VERSION = 1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """A segment's folder, and the file of the rows deleted from it, where there are any."""

    folder: str
    hidden: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """Settings and parts.

    Attributes:
        dim: Of the vectors.
        dtype: "float32", "float16", "uint8" or "int8".
        metric: "l2", "ip" or "cosine".
        settings: How segments are built: arguments of `Index.build`.
        ids: What the caller's ids are: "int64", or "string".
        columns: Of the rows' attributes.
        parts: The segments.
        first_log: The log `log-N` that goes on where the segments end; logs with higher numbers follow it.
        next_number: Free for the next segment, log or other file.
        next_id: For rows that come without.
    """

    dim: int
    dtype: str
    metric: Metric
    settings: dict[str, Any]
    ids: IdKind = "int64"
    columns: Columns = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    first_log: int = 0
    next_number: int = 1
    next_id: int = 0

    def log_path(self, folder: Path, number: int) -> Path:
        """The log of that number."""
        return folder / f"log-{number:06d}"


def is_living(folder: Path) -> bool:
    """Whether a living index lies there."""
    return (folder / LIVING_FILE).is_file()


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Put the snapshot into the folder, whole or not at all. Raises OSError."""
    with replace_file(folder / LIVING_FILE) as file:
        file.write(checked_json("living", {"format_version": _VERSION, **asdict(snapshot)}))


def read_snapshot(folder: Path) -> Snapshot:
    """The snapshot; InputError: none there, damaged, or of a newer version."""
    path = folder / LIVING_FILE
    try:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such index folder")
        if not path.exists():
            raise InputError(f"{folder}: holds no {LIVING_FILE}; not an index that takes updates")
        with path.open("rb") as file:
            written = file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    is_same, whole, version = False, False, 0
    try:
        content: dict[str, Any] = json.loads(written)["living"]
        is_same = written == checked_json("living", content)
        version = int(content.pop("format_version"))
        content["parts"] = tuple(Part(**part) for part in content["parts"])
        snapshot = Snapshot(**content)
        check_columns(snapshot.columns)
        whole = (
            is_same
            and snapshot.dtype in get_args(Dtype)
            and snapshot.metric in get_args(Metric)
            and snapshot.ids in get_args(IdKind)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # of another version, or damaged
    if is_same and version > _VERSION:
        raise InputError(f"{path}: has format version {version}, this Tenfold reads up to {_VERSION}; upgrade Tenfold")
    if not whole:
        raise InputError(f"{path}: is damaged; {REPAIR}")
    return snapshot
