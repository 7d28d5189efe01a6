"""How a set of images was processed, as JSON beside it; sets that were processed differently are not compared.

desc-prepared_T1w.json                    every parameter, for the whole folder (inherited, as BIDS has it)
sub-*/anat/*_desc-prepared_T1w.json       what was found in one image, and its source; written when it is done
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = ["Processing", "check_same", "read_json", "read_processing", "read_sidecar", "write_json", "write_sidecar"]

_NAME = "desc-prepared_T1w.json"

Mask = Literal["stripped", "given", "template", "otsu"]


@dataclass(frozen=True)
class Processing:
    """Every parameter of `prepare`; two sets can be compared only where all are equal.

    Attributes:
        template: Name of the template's file.
        template_sha256: Of its bytes; a name alone says little.
        mm: Side of the isotropic voxels.
        mask: Where the brain mask came from: "stripped" (what is not background), "given" (files), "template"
            (the template's brain, brought onto the head) or "otsu" (a threshold, good for stripped brains only).
        bias: "n4" or "none".
        align: "affine" (12 parameters), "rigid" (6) or "none" (the image lies in the template's space already).
        low: Percentile of the box below which voxels become background.
        high: Percentile that becomes the brightest value.
        box_mm: Size of the box around the brain.
        padded_mm: Size after padding with background.
        seed: Of the sampling in the registration.
        version: Of the steps themselves; another one gives other voxels.
    """

    template: str
    template_sha256: str
    mm: float = 1.0
    mask: Mask = "template"
    bias: Literal["n4", "none"] = "n4"
    align: Literal["affine", "rigid", "none"] = "affine"
    low: float = 5.0
    high: float = 95.0
    box_mm: tuple[float, float, float] = (138.0, 176.0, 138.0)
    padded_mm: tuple[float, float, float] = (144.0, 192.0, 144.0)
    seed: int = 0
    version: int = 1


def write_sidecar(folder: Path, processing: Processing) -> None:
    """Say how the images of a folder were processed. Raises OSError."""
    write_json(folder / _NAME, asdict(processing))


def read_sidecar(folder: Path) -> Processing | None:
    """How a folder's images were processed; None where nothing says so.

    Raises:
        InputError: The sidecar is damaged, or from another version of Tenfold.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    return read_processing(read_json(path), str(path))


def read_processing(found: Mapping[str, Any], where: str) -> Processing:
    """The parameters that JSON has kept. Raises InputError, which names `where`, where one is missing or unknown."""
    names = {field.name for field in fields(Processing)}
    if odd := sorted(names.symmetric_difference(found)):
        raise InputError(f"{where}: {', '.join(odd)} is missing or unknown; prepare the images again")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Processing(**values)


def check_same(one: Processing, other: Processing, one_name: str, other_name: str) -> None:
    """Raises InputError that names the parameters in which the processing of two sets differs."""
    said = [
        f"{field.name} {getattr(one, field.name)!r} in {one_name}, {getattr(other, field.name)!r} in {other_name}"
        for field in fields(Processing)
        if field.name != "template" and getattr(one, field.name) != getattr(other, field.name)
    ]
    if said:
        raise InputError(f"{other_name}: was processed differently: {'; '.join(said)}; prepare both alike")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping, whole or not at all, the same bytes for the same value. Raises OSError."""
    with replace_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping. Raises InputError where the file is no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({str(error)[:100]}); prepare the images again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a mapping; prepare the images again")
    return value
