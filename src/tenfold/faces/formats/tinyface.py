"""TinyFace: faces of few pixels as they were found, to be identified among distractors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tenfold.core.errors import InputError
from tenfold.faces.data import read_faces
from tenfold.faces.facesets import UNLABELLED, FaceSet
from tenfold.faces.pictures import printable

__all__ = ["TinyFace", "tinyface"]


@dataclass(frozen=True)
class TinyFace:
    """The test of TinyFace. Labels of probes and gallery count in one list of people; distractors are nobody: -1.

    Attributes:
        probes: Who is this?
        gallery: Pictures of the people of the probes.
        distractors: Pictures of others, which are added to the gallery.
    """

    probes: FaceSet
    gallery: FaceSet
    distractors: FaceSet


def tinyface(root: Path | str) -> TinyFace:
    """The test pictures of TinyFace, whose file names begin with the person's number: `12_3.jpg`.

    Args:
        root: The folder with `Testing_Set/Probe`, `Testing_Set/Gallery_Match` and `Testing_Set/Gallery_Distractor`,
            or `Testing_Set` itself. The training set is an ordinary folder of people.

    Raises:
        InputError: A folder is missing or empty, a name has no number, or a probe's person is not in the gallery.
    """
    root = Path(root)
    root = root / "Testing_Set" if (root / "Testing_Set").is_dir() else root
    probes, gallery, distractors = (
        read_faces(root / part, person="none") for part in ("Probe", "Gallery_Match", "Gallery_Distractor")
    )
    asked, known = ([_number(root, name) for name in faces.names] for faces in (probes, gallery))
    people = sorted({*asked, *known})
    strangers = set(asked).difference(known)
    if strangers:
        raise InputError(
            f"{printable(root)}: person {min(strangers)} of Probe is not in Gallery_Match; the set is not whole"
        )
    places = {number: place for place, number in enumerate(people)}
    named = tuple(map(str, people))
    return TinyFace(
        _labelled(probes, "Probe", [places[number] for number in asked], named),
        _labelled(gallery, "Gallery_Match", [places[number] for number in known], named),
        _labelled(distractors, "Gallery_Distractor", [UNLABELLED] * len(distractors), named),
    )


def _labelled(faces: FaceSet, part: str, labels: list[int], people: tuple[str, ...]) -> FaceSet:
    names = tuple(f"{part}/{name}" for name in faces.names)
    return FaceSet(faces.sources, names, np.array(labels, np.int64), people)


def _number(root: Path, name: str) -> int:
    head, line, _ = Path(name).name.partition("_")
    if not (line and head.isascii() and head.isdigit() and len(head) < 10):
        raise InputError(f"{printable(root)}: {name!r} does not begin with a person's number, as in 12_3.jpg")
    return int(head)
