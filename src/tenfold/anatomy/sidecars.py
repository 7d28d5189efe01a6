"""How a set of images was processed, as JSON beside it; sets that were processed differently are not compared.

desc-prepared_T1w.json                    every parameter, for the whole folder (inherited, as BIDS has it)
sub-*/anat/*_desc-prepared_T1w.json       what was found in one image, and its source; written when it is done
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = [
    "Processing", "check_same", "claim", "digest_of", "read_json", "read_processing", "read_refused", "read_sidecar",
    "sha256_of", "write_json", "write_refused", "write_sidecar",
]  # fmt: skip

_NAME = "desc-prepared_T1w.json"
_REFUSED = "refused.tsv"

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


def claim(folder: Path, file: str, maker: dict[str, Any], made: str) -> None:
    """Say in a file of a folder what the images in it are made by; images of another maker are not added to.

    Args:
        folder: That is there.
        file: The name of the JSON file.
        maker: All that the images depend on, as JSON values.
        made: Pattern of the images' names: some without the file are of a maker unknown.

    Raises:
        InputError: The folder holds images of another maker, or of one that nothing tells.
        OSError: It cannot be written.
    """
    path = folder / file
    if path.exists():
        found = read_json(path)
        if odd := sorted(key for key in {*found, *maker} if found.get(key) != maker.get(key)):
            raise InputError(f"{folder}: holds images made otherwise ({', '.join(odd)} differs); choose another folder")
    elif next(folder.glob(made), None) is not None:
        raise InputError(f"{folder}: holds images and no {file} that says what made them; choose another folder")
    else:
        write_json(path, maker)


def sha256_of(path: Path) -> str:
    """Of a file's bytes; "" where it cannot be read, which whoever reads it next will say."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def digest_of(weights: Mapping[str, Any], more: str = "") -> str:
    """Eight hexadecimal digits of tensors on the CPU by name, and of what else there is."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    digest.update(more.encode())
    return digest.hexdigest()[:8]


def write_refused(folder: Path, refused: Mapping[str, str]) -> None:
    """Write refused.tsv: what is wrong with each image that was left out, by its name. Raises OSError."""
    lines = [f"{name}\t{message}\n" for name, message in refused.items()]
    with replace_file(folder / _REFUSED) as partial:
        partial.write_text("name\tmessage\n" + "".join(lines), encoding="utf-8")


def read_refused(folder: Path) -> dict[str, str]:
    """What `write_refused` wrote; empty where there is nothing. Raises InputError where it cannot be read."""
    path = folder / _REFUSED
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read; make the folder again") from None
    return {name: message for name, _, message in (line.partition("\t") for line in lines)}


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping. Raises InputError where the file is no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({str(error)[:100]}); prepare the images again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a mapping; prepare the images again")
    return value
