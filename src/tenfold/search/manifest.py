"""`manifest.json`: what an index folder holds, with a checksum of itself; written last, so that its
presence says that the index is complete."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.building import BuildConfig
from tenfold.search.storage import FORMAT_VERSION, replace_file

__all__ = ["read_manifest", "write_manifest"]

_REPAIR = "restore it from a copy or build the index again"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "rows": int,
    "dim": int,
    "dtype": str,
    "radius": (int, float),
    "codec_numbers": dict,
    "calibration": dict,
    **{field.name: (str, int, float) for field in fields(BuildConfig)},
}
_CODEC_NUMBERS = (
    "bits",
    "sub_dim",
    "shift_low",
    "shift_step",
    "scale_low",
    "scale_step",
    "error_low",
    "error_step",
)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Put the manifest into the folder, whole or not at all. Raises OSError."""
    with replace_file(folder / "manifest.json") as file:
        file.write(json.dumps({"crc32c": _checksum(manifest), "manifest": manifest}, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with every field present and of its type.

    Raises InputError: no index there, not complete, damaged, or of a newer version.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such index folder")
    if not path.exists():
        raise InputError(f"{folder}: holds no manifest.json; not an index, or one whose build has not finished")
    try:
        content = json.loads(path.read_bytes())
        manifest, crc = content["manifest"], content["crc32c"]
        version = manifest["format_version"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: is not readable; {_REPAIR}") from None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"{path}: has format version {version}, this Tenfold reads up to {FORMAT_VERSION}; upgrade Tenfold"
        )
    if crc != _checksum(manifest):
        raise InputError(f"{path}: does not match its checksum; {_REPAIR}")
    _check(path, manifest)
    return dict(manifest)


def _checksum(manifest: dict[str, Any]) -> int:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return int(_native.crc32c(np.frombuffer(text.encode(), np.uint8), 0))


def _check(path: Path, manifest: dict[str, Any]) -> None:
    for key, kind in _TYPES.items():
        if not isinstance(manifest.get(key), kind):
            raise InputError(f"{path}: {key} is missing or not as it should be; {_REPAIR}")
    for key in _CODEC_NUMBERS:
        if not isinstance(manifest["codec_numbers"].get(key), (int, float)):
            raise InputError(f"{path}: the codec's {key} is missing or not a number; {_REPAIR}")
    known = manifest["dtype"] in ("float32", "float16", "uint8", "int8")
    if not known or not 1 <= manifest["dim"] <= 65535 or not 0 <= manifest["rows"] < 1 << 32:
        raise InputError(f"{path}: rows, dim or dtype is out of range; {_REPAIR}")
