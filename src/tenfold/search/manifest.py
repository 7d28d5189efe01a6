"""`manifest.json`: what an index folder holds, with a checksum of itself; written last, so that its
presence says that the index is complete."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.codec import CodecKind
from tenfold.search.space import Dtype, Metric
from tenfold.search.storage import FORMAT_VERSION, LIVING_FILE, REPAIR, SHARDS_FILE, replace_file

__all__ = ["NewerVersionError", "checked_json", "read_manifest", "write_manifest"]

# The smallest and largest value of every number; seed, replicas and epsilon are kept for the record.
_WHOLE = {"rows": (0, (1 << 32) - 2), "dim": (1, 65535), "seed": (0, (1 << 64) - 1)}
_WHOLE_CODEC = {"bits": (0, 4), "sub_dim": (1, 65536)}
_REAL_CODEC = ("shift_low", "shift_step", "scale_low", "scale_step", "error_low", "error_step")
_CHOICES = {
    "dtype": get_args(Dtype),
    "metric": get_args(Metric),
    "codec": get_args(CodecKind),
}
_MOST_BYTES = 1 << 20


class NewerVersionError(InputError):
    """The manifest is whole, but of a format that this Tenfold does not know yet."""


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Put the manifest into the folder, whole or not at all. Raises OSError."""
    with replace_file(folder / "manifest.json") as file:
        file.write(checked_json("manifest", manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with every field present and of its type.

    Raises InputError: no index there, not complete, damaged, or of a newer version.
    """
    path = folder / "manifest.json"
    try:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such index folder")
        if folder.name.endswith(".partial"):
            raise InputError(f"{folder}: its build has not finished; give the command that builds it again")
        if (folder / LIVING_FILE).exists():
            raise InputError(f"{folder}: takes updates; open it with LivingIndex.open")
        if (folder / SHARDS_FILE).exists():
            raise InputError(f"{folder}: is in shards; open it with ShardedIndex.open, or a shard, such as shard-0000")
        if not path.exists():
            raise InputError(f"{folder}: holds no manifest.json; not an index")
        with path.open("rb") as file:
            written = file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        manifest = json.loads(written)["manifest"]
        version = manifest["format_version"]
        known = type(version) is int and version >= 1
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise InputError(f"{path}: is not readable; {REPAIR}")
    whole = written == checked_json("manifest", manifest)
    if version > FORMAT_VERSION:
        raise (NewerVersionError if whole else InputError)(
            f"{path}: has format version {version}, this Tenfold reads up to {FORMAT_VERSION}; upgrade Tenfold"
        )
    if not whole:
        raise InputError(f"{path}: does not match its checksum; {REPAIR}")
    _check(path, manifest)
    return dict(manifest)


def checked_json(name: str, content: dict[str, Any]) -> bytes:
    """A file's text with its checksum; there is one way only to write it down, so every byte can be checked."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    crc = int(_native.crc32c(np.frombuffer(text.encode(), np.uint8), 0))
    return json.dumps({"crc32c": crc, name: content}, indent=1).encode()


def _check(path: Path, manifest: dict[str, Any]) -> None:
    def require(holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"{path}: {what} is missing or not as it should be; {REPAIR}")

    numbers: Any = manifest.get("codec_numbers")
    require(isinstance(numbers, dict), "codec_numbers")
    for where, limits in ((manifest, _WHOLE), (numbers, _WHOLE_CODEC)):
        for key, (low, high) in limits.items():
            require(type(where.get(key)) is int and low <= where[key] <= high, key)
    untrained = manifest.get("untrained_rows", 0)
    require(type(untrained) is int and untrained >= 0, "untrained_rows")
    for where, keys in ((manifest, ("radius",)), (numbers, _REAL_CODEC)):
        for key in keys:
            require(_is_float32(where.get(key)), key)
    for key, choices in _CHOICES.items():
        require(manifest.get(key) in choices, key)
    for key in ("calibration", "files"):
        require(isinstance(manifest.get(key), dict), key)


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < float(np.finfo(np.float32).max)
