"""Sets of face pictures: who is on which, and where its bytes lie. Nothing is decoded here.

N faces · K people
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.pictures import Span, picture_bytes, printable

__all__ = ["UNLABELLED", "FaceSet", "content_hashes", "labelled_files", "safe_path"]

UNLABELLED = -1


@dataclass(frozen=True)
class FaceSet:
    """Pictures of faces, by person.

    Attributes:
        sources: Where the bytes of each picture are: a path, a span of a file, or the bytes; N of them.
        names: What messages call each picture, such as its path below the root; N of them.
        labels: int64 (N,): which of `people` it shows; -1 where that is not known.
        people: The K names.
        boxes: float32 (N, 4): x, y, width, height of the face in the picture where the set says it, else NaN. None
            where it says it of no picture.

    Raises:
        InputError: The parts do not fit together.
    """

    sources: tuple[Path | bytes | Span, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    people: tuple[str, ...]
    boxes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.sources)
        if len(self.names) != count or self.labels.shape != (count,):
            raise InputError(
                f"{count} pictures, {len(self.names)} names, labels {self.labels.shape}: give one for each"
            )
        if count and (self.labels.min() < UNLABELLED or self.labels.max() >= len(self.people)):
            raise InputError(f"labels from {self.labels.min()} to {self.labels.max()} for {len(self.people)} people")
        if self.boxes is not None and self.boxes.shape != (count, 4):
            raise InputError(f"boxes of shape {self.boxes.shape} for {count} pictures; give (N, 4)")

    def __len__(self) -> int:
        return len(self.sources)

    def subset(self, index: ArrayLike) -> "FaceSet":
        """The pictures at these places, or where a mask (N,) is true. Labels and people stay comparable."""
        rows = np.arange(len(self))[np.asarray(index, bool if np.asarray(index).dtype == bool else np.int64)]
        return replace(
            self,
            sources=tuple(self.sources[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
            labels=self.labels[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
        )

    def compact(self) -> "FaceSet":
        """The same pictures, without people who are on none: labels are numbered anew, in the same order."""
        kept, labels = np.unique(self.labels[self.labels >= 0], return_inverse=True)
        renumbered = np.full(len(self), UNLABELLED, np.int64)
        renumbered[self.labels >= 0] = labels
        return replace(self, labels=renumbered, people=tuple(self.people[person] for person in kept))

    def split(self, share: float, seed: int) -> tuple["FaceSet", "FaceSet"]:
        """Two sets without a person in common: the first has `share` of the people, each at least one.

        Pictures without a label, on which anybody may be, are in neither.

        Raises:
            InputError: `share` is not in (0, 1), or there are fewer than two people.
        """
        people = np.unique(self.labels[self.labels >= 0])
        if not 0.0 < share < 1.0:
            raise InputError(f"share {share}: give the part of the people in the first set, between 0 and 1")
        if len(people) < 2:
            raise InputError(f"{len(people)} people: splitting by person needs two or more")
        count = min(max(1, round(share * len(people))), len(people) - 1)
        first = np.random.default_rng(seed).permutation(people)[:count]
        chosen = np.isin(self.labels, first)
        return self.subset(chosen).compact(), self.subset(~chosen & (self.labels >= 0)).compact()

    def duplicates_of(self, other: "FaceSet") -> list[tuple[str, str]]:
        """Names of the pictures here whose bytes are in `other` too, each with the first of its doubles there.

        With the set itself: pairs of its own pictures, the earlier second. Unreadable pictures are left out.
        """
        if other is self:
            return _own_duplicates(self)
        there: dict[bytes, str] = {}
        for name, digest in zip(other.names, content_hashes(other), strict=True):
            if digest is not None:
                there.setdefault(digest, name)
        here = zip(self.names, content_hashes(self), strict=True)
        return [(name, there[digest]) for name, digest in here if digest is not None and digest in there]


def _own_duplicates(faces: FaceSet) -> list[tuple[str, str]]:
    """Doubles within one set; several faces on one photograph, each with its box, are none."""
    seen: dict[tuple[bytes, bytes], str] = {}
    pairs = []
    for row, digest in enumerate(content_hashes(faces)):
        if digest is None:
            continue
        key = (digest, b"" if faces.boxes is None else faces.boxes[row].tobytes())
        if key in seen:
            pairs.append((faces.names[row], seen[key]))
        seen.setdefault(key, faces.names[row])
    return pairs


def content_hashes(faces: FaceSet, progress: Progress = no_progress) -> Iterator[bytes | None]:
    """SHA-256 of the bytes of each picture in turn; None where they cannot be read."""
    for done, source in enumerate(faces.sources, 1):
        try:
            digest: bytes | None = hashlib.sha256(picture_bytes(source)).digest()
        except InputError:
            digest = None
        yield digest
        if done % 64 == 0 or done == len(faces):
            progress("hash", done, len(faces))


def labelled_files(root: Path, files: Sequence[Path], owners: Sequence[str | None]) -> FaceSet:
    """A set of files below `root` and of who is on each (None: unknown); people in the order of their names."""
    people = sorted({owner for owner in owners if owner is not None})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(people)}
    return FaceSet(
        tuple(files),
        tuple(printable(os.path.relpath(file, root)) for file in files),
        np.array([numbers.get(owner, UNLABELLED) for owner in owners], np.int64),
        tuple(people),
    )


def safe_path(root: Path, relative: str, where: str) -> Path:
    """`root / relative`, for a name that comes from a file.

    Raises:
        InputError: The name is empty, absolute, or leads out of the root; `where` says where it stands.
    """
    parts = relative.replace("\\", "/").split("/")
    if not relative or relative[:1] in "/\\" or ".." in parts or "\0" in relative:
        raise InputError(f"{where}: {relative!r} is no path below the root; correct the list, or do not trust it")
    return root / relative
