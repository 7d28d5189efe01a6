"""From pictures on disk to what is trained and measured on: crops of faces, labels, people held back.

N faces · S side of a crop · C = 3 channels
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.alignment import Detector
from tenfold.faces.crops import Crops, crop_faces
from tenfold.faces.data import read_faces
from tenfold.faces.facesets import FaceSet

__all__ = ["LabelledCrops", "PersonFrom", "prepare", "prepare_faces"]

PersonFrom = Literal["folder", "file", "none"]
_TOLD = 5  # pictures without a face that are named


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
    faces: FaceSet, detector: Detector | None, cache: Path | None = None, progress: Progress = no_progress
) -> LabelledCrops:
    """The same for a set that has been read."""
    crops = crop_faces(faces, detector, cache=cache, progress=progress)
    _tell(crops)
    usable = crops.usable()
    if len(usable.faces) == 0:
        raise InputError(f"none of {len(faces)} pictures has a usable face; aligned crops are read with detector none")
    return LabelledCrops(usable.crops_NSSC, usable.faces.labels, usable.faces.people)


def _tell(crops: Crops) -> None:
    """Name what was left out."""
    lost = [message for status, message in zip(crops.statuses, crops.messages, strict=False) if status != "ok"]
    for message in lost[:_TOLD]:
        print(message, file=sys.stderr)
    if len(lost) > _TOLD:
        print(f"... and {len(lost) - _TOLD:,} more of {len(crops.statuses):,} pictures", file=sys.stderr)
