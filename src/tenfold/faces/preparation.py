"""From pictures on disk to what is trained and measured on: crops of faces, labels, people held back.

N faces · S side of a crop · C = 3 channels
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.alignment import Detector
from tenfold.faces.crops import crop_faces
from tenfold.faces.data import read_faces
from tenfold.faces.facesets import FaceSet, content_hashes
from tenfold.faces.inference import model_folder

__all__ = [
    "LabelledCrops",
    "PersonFrom",
    "prepare",
    "prepare_faces",
    "read_seen",
    "remember",
    "run_of",
    "seen_before",
]

PersonFrom = Literal["folder", "file", "none"]
_TOLD = 5  # pictures without a face that are named
_SEEN = "pictures.sha256"


@dataclass(frozen=True)
class LabelledCrops:
    """Crops and who is on them.

    Attributes:
        crops_NSSC: uint8 (N, S, S, 3) RGB.
        labels_N: int64 (N,), numbers of people; -1: unknown.
        people: Their names.
    """

    crops_NSSC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels_N)

    def rows(self, chosen_N: NDArray[np.bool_]) -> "LabelledCrops":
        """Those where the mask (N,) is true."""
        return LabelledCrops(self.crops_NSSC[chosen_N], self.labels_N[chosen_N], self.people)

    def held_back(self, share: float, seed: int) -> NDArray[np.bool_]:
        """bool (N,): the faces of a share of the people, by whom is validated and of whom nothing is learned.

        Raises InputError for a share outside 0 to 1, or where fewer than two people would be on either side.
        """
        if not 0 <= share < 1:
            raise InputError(f"validation {share}: give the share of people to hold back, 0 to below 1")
        people = np.unique(self.labels_N[self.labels_N >= 0])
        count = round(share * len(people))
        if share > 0 and not 2 <= count <= len(people) - 2:
            raise InputError(
                f"validation {share:g} of {len(people)} people is {count}; two or more must be on both sides: give "
                "more people, another share, or 0 for no validation"
            )
        chosen = np.random.default_rng(seed).permutation(people)[:count]
        return np.isin(self.labels_N, chosen)


def prepare(
    path: Path | str,
    detector: Detector | None,
    person: PersonFrom = "folder",
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> LabelledCrops:
    """The crops of a set on disk. Pictures without a usable face are named on stderr and left out.

    Args:
        path: As for `read_faces`.
        detector: None: the pictures are crops already.
        person: As for `read_faces`.
        cache: As for `crop_faces`.
        progress: As for `crop_faces`.

    Raises:
        InputError: As `read_faces` and `crop_faces`, and where no picture has a face.
    """
    return prepare_faces(read_faces(path, person), detector, cache, progress)


def prepare_faces(
    faces: FaceSet,
    detector: Detector | None,
    cache: Path | None = None,
    progress: Progress = no_progress,
    *,
    smallest: int = 10,
) -> LabelledCrops:
    """The same for a set that has been read; `smallest` as for `crop_faces`."""
    crops = crop_faces(faces, detector, cache=cache, progress=progress, smallest=smallest)
    _tell([message for status, message in zip(crops.statuses, crops.messages, strict=True) if status != "ok"])
    usable = crops.usable()
    if len(usable.faces) == 0:
        remedy = "give pictures of faces" if detector is None else "aligned crops are read with detector none"
        raise InputError(f"none of {len(faces)} pictures, such as {faces.names[0]}, has a usable face; {remedy}")
    doubles = usable.faces.duplicates_of(usable.faces)
    _tell([f"{name}: is the same picture as {other}; leave one of them out" for name, other in doubles])
    return LabelledCrops(usable.crops_NSSC, usable.faces.labels, usable.faces.people)


def _tell(messages: list[str]) -> None:
    """On stderr, the first of them."""
    for message in messages[:_TOLD]:
        print(message, file=sys.stderr)
    if len(messages) > _TOLD:
        print(f"... and {len(messages) - _TOLD:,} more like these", file=sys.stderr)


# --- what a model has seen --------------------------------------------------------------------------------------------


def remember(run: Path, faces: FaceSet) -> None:
    """Note in the folder of a run the contents of the pictures that a model is trained or calibrated on.

    A line per picture in `pictures.sha256`: its SHA-256. It stays in the run, beside the models, not in them.
    """
    hashes = {digest.hex() for digest in content_hashes(faces) if digest is not None} | read_seen(run)
    try:
        run.mkdir(parents=True, exist_ok=True)
        with replace_file(run / _SEEN) as partial:
            partial.write_text("".join(f"{digest}\n" for digest in sorted(hashes)))
    except OSError as error:
        raise InputError(f"{run}: cannot be written ({error.strerror}); name another folder") from None


def run_of(folder: Path) -> Path | None:
    """The run whose `best` or `last` a model folder is; None for one that was passed on, without the log beside it."""
    return folder.parent if folder.name in ("best", "last") and (folder.parent / "log.jsonl").is_file() else None


def read_seen(model: Path | str) -> frozenset[str]:
    """What `remember` noted of a model's run; empty where there is no such note, as with a model that was passed on."""
    if not model or not Path(model).is_dir():
        return frozenset()
    folder = model_folder(model)
    run = folder.parent if folder.name in ("best", "last") else folder
    return frozenset((run / _SEEN).read_text().split()) if (run / _SEEN).is_file() else frozenset()


def seen_before(faces: Iterable[FaceSet], seen: frozenset[str]) -> list[str]:
    """A line of warning where pictures of a test are among those a model has seen, else nothing."""
    if not seen:
        return []
    found = [
        name
        for one in faces
        for name, digest in zip(one.names, content_hashes(one), strict=True)
        if digest is not None and digest.hex() in seen
    ]
    if not found:
        return []
    return [
        f"Warning: {len(found):,} pictures, such as {found[0]}, are among those that the model was trained or "
        "calibrated on; these figures say nothing about other people"
    ]
