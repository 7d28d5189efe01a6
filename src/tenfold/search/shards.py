"""Parts of an index in shards: `shards.json` and the folders that it names.

    my_index/
      shards.json     rows, dim, dtype, metric; of every shard its folder, its first row, and what it is known by
      shard-0000/     a sealed index over the rows 0 to n - 1 of the source, which it calls 0 to n - 1
      shard-0001/     one over the rows from n on

A shard is an ordinary index, which `Index.open` opens too.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.formats.source import VectorSource
from tenfold.search.manifest import checked_json, read_manifest
from tenfold.search.space import Dtype, Metric
from tenfold.search.storage import INDEX_FILES, REPAIR, SHARDS_FILE, replace_file
from tenfold.search.verifying import verify_index

__all__ = [
    "MOST_SHARDS",
    "RowRange",
    "Shard",
    "ShardTable",
    "bytes_of",
    "check_shard",
    "first_rows",
    "is_sharded",
    "read_table",
    "shard_name",
    "verify_shards",
    "write_table",
]

MOST_SHARDS = 10_000
_VERSION = 1
_MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class Shard:
    """One of them.

    Attributes:
        folder: Its name.
        first: Number of its first row in the whole index.
        rows: How many it has.
        files: Checksums of its files' headers, as its own manifest has them: tells it from other indexes.
    """

    folder: str
    first: int
    rows: int
    files: dict[str, int]


@dataclass(frozen=True)
class ShardTable:
    """What `shards.json` says."""

    rows: int
    dim: int
    dtype: str
    metric: Metric
    shards: tuple[Shard, ...]


class RowRange(VectorSource):
    """The rows `first` to before `stop` of another source."""

    def __init__(self, source: VectorSource, first: int, stop: int) -> None:
        super().__init__(f"{source.name}, from row {first:,} on", stop - first, source.dim, source.dtype)
        self._source, self._first = source, first
        self.metric_hint = source.metric_hint

    def files(self) -> list[Path]:
        """Those of the other source."""
        return self._source.files()

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        left = self.rows - start
        for block in self._source.blocks(block_rows, self._first + start):
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return


def first_rows(rows: int, shards: int) -> list[int]:
    """Where each of so many shards begins, and `rows`: they differ by a row at most."""
    return [rows * number // shards for number in range(shards + 1)]


def shard_name(number: int) -> str:
    """The folder of a shard."""
    return f"shard-{number:04d}"


def is_sharded(path: Path) -> bool:
    """Whether an index in shards lies there, whole or not."""
    return not path.name.endswith(".partial") and (path / SHARDS_FILE).is_file()


def write_table(folder: Path, table: ShardTable) -> None:
    """Put `shards.json` into the folder, whole or not at all. Raises OSError."""
    with replace_file(folder / SHARDS_FILE) as file:
        file.write(checked_json("shards", {"version": _VERSION, **asdict(table)}))


def read_table(folder: Path) -> ShardTable:
    """What `shards.json` says. Raises InputError where it is missing, damaged, or of a newer version."""
    path = folder / SHARDS_FILE
    if not is_sharded(folder):
        raise InputError(f"{folder}: holds no {SHARDS_FILE}; not an index in shards whose build has finished")
    try:
        with path.open("rb") as file:
            written = file.read(_MOST_BYTES)
        table: Any = json.loads(written)["shards"]
        version = table.pop("version")
        is_whole = written == checked_json("shards", {"version": version, **table})
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: is not readable; {REPAIR}") from None
    if not is_whole:
        raise InputError(f"{path}: does not match its checksum; {REPAIR}")
    if version != _VERSION:
        raise InputError(f"{path}: has version {version}, this Tenfold reads version {_VERSION}; upgrade Tenfold")
    try:
        read = ShardTable(**table | {"shards": tuple(Shard(**shard) for shard in table["shards"])})
    except (KeyError, TypeError):
        raise InputError(f"{path}: is not readable; {REPAIR}") from None
    if not _holds(read):
        raise InputError(f"{path}: its numbers do not fit together; {REPAIR}")
    return read


def _holds(table: ShardTable) -> bool:
    """Whether what was read can be true: nothing else is believed of a file with a checksum that anybody can make."""
    numbers = [table.rows, table.dim, *(n for shard in table.shards for n in (shard.first, shard.rows))]
    known = (
        table.dtype in get_args(Dtype) and table.metric in get_args(Metric) and 1 <= len(table.shards) <= MOST_SHARDS
    )
    if not known or not all(type(number) is int and number >= 0 for number in numbers):
        return False
    next_row = 0
    for number, shard in enumerate(table.shards):
        if shard.first != next_row or shard.folder != shard_name(number) or not isinstance(shard.files, dict):
            return False
        next_row += shard.rows
    return next_row == table.rows


def check_shard(folder: Path, shard: Shard) -> None:
    """InputError where the folder does not hold this shard but nothing, or another index."""
    if read_manifest(folder)["files"] != shard.files:
        raise InputError(f"{folder}: is not the shard that the {SHARDS_FILE} beside it names; {REPAIR}")


def verify_shards(path: str | Path) -> list[str]:
    """Compare every byte of all shards with its checksum: a line per damaged file, empty when all is well.

    Raises InputError where `shards.json` cannot be read.
    """
    path, damaged = Path(path), []
    for shard in read_table(path).shards:
        folder = path / shard.folder
        try:
            found = verify_index(folder)
            if not found:
                check_shard(folder, shard)
        except InputError as error:
            found = [str(error)]
        damaged += found
    return damaged


def bytes_of(path: Path, table: ShardTable) -> int:
    """What the shards' files take on the disk. Raises InputError where one is missing."""
    files = [path / shard.folder / name for shard in table.shards for name in INDEX_FILES]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; {REPAIR}") from None
