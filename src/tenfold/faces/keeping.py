"""The verbs of `tenfold faces` that keep galleries: key, enroll, identify, forget, people, purge, renew.

Each imports what it needs, as those of `commands.py` do.
"""

import json as json_format
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tenfold.core.errors import InputError
from tenfold.core.reports import Cell, Table
from tenfold.faces.data import read_faces
from tenfold.faces.pictures import printable

if TYPE_CHECKING:
    from tenfold.faces.gallery import Gallery
    from tenfold.faces.recognition import Embeddings, FaceModel

__all__ = [
    "enroll",
    "forget",
    "identify",
    "key",
    "list_pictures",
    "message_of",
    "open_model",
    "people",
    "purge",
    "renew",
]

Pictures = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE...")]
_NO_KEY = Path("")
_UNSURE = 10  # times the FAR that was asked for, and the true one may be as high
_ALL = 1 << 40  # templates: an index pays only for thousands of faces at once


def key(out: Path) -> None:
    """Make a key for galleries: a file that only its owner can read.

    Keep it apart from the gallery. Without it nothing in the gallery can be had back.

    Example: tenfold faces key staff.key

    Args:
        out: The file to make; never written over.
    """
    from tenfold.faces.vault import new_key

    new_key(out)
    print(f"{out}: a new key; keep it apart from the gallery, and a copy of it in a safe place")


def enroll(
    gallery: Path,
    model: str,
    person: str,
    pictures: Pictures,
    consent: str = "",
    until: str = "",
    key: Path = _NO_KEY,
    teacher: str = "",
    detector: str = "haar",
    json: bool = False,
) -> None:
    """Keep templates of a person, on a recorded consent. A gallery that is not there is made.

    Example: tenfold faces enroll staff.gallery student/ "Ada" ada1.jpg ada2.jpg --consent "form 17" --key staff.key

    Args:
        gallery: The file, encrypted; it holds no pictures.
        model: A student with a threshold; with TEACHER the folder of an adapter.
        person: The name.
        pictures: Pictures of this person alone, or folders of them.
        consent: What the person agreed to, or where that is filed. Nobody is enrolled without.
        until: The last day on which the person is matched, YYYY-MM-DD.
        key: File of the key; without it, TENFOLD_GALLERY_KEY holds its digits.
        teacher: Embed big pictures by this teacher and the adapter MODEL, for probes embedded by its students.
        detector: haar; none where the pictures are aligned crops; or the path of YuNet's .onnx.
        json: Print one JSON object instead of a line.
    """
    from tenfold.faces.audit import check_consent, check_name, check_until, today_or

    if not consent.strip():
        raise InputError("enroll needs --consent: what the person agreed to, or where that is filed")
    last = check_until(_day(until), today_or(None))
    check_name(person)
    check_consent(consent)
    secret, opened = _key(key), open_model(model, teacher)
    found = opened.embed(list_pictures(pictures), detector)
    for status, message in zip(found.statuses, found.messages, strict=True):
        if status == "several faces":  # the consent is of one person
            raise InputError(message)
    vectors_Nd = _usable(found)
    with _open_or_create(gallery, secret, opened, model) as kept:
        record = kept.enroll(person, vectors_Nd, consent, last)
    for message in filter(None, found.messages):
        print(message, file=sys.stderr)
    if json:
        print(json_format.dumps(record.to_json()))
        return
    end = "" if record.until is None else f", matched until {record.until.isoformat()}"
    print(f"{record.name}: {len(vectors_Nd)} more templates, {record.templates} in all{end}")


def identify(
    gallery: Path,
    model: str,
    pictures: Pictures,
    k: int = 1,
    key: Path = _NO_KEY,
    teacher: str = "",
    detector: str = "haar",
    json: bool = False,
) -> None:
    """Say who of a gallery is on pictures, or that it is nobody.

    Example: tenfold faces identify staff.gallery student/ door.jpg --key staff.key

    Args:
        gallery: The file.
        model: A student of the gallery's model; with TEACHER the folder of the adapter.
        pictures: Pictures, or folders of them.
        k: How many people to name at most.
        key: As for enroll.
        teacher: As for enroll.
        detector: As for enroll.
        json: Print a JSON object per picture instead of a table.
    """
    from tenfold.faces.gallery import Gallery

    secret, opened, files = _key(key), open_model(model, teacher), list_pictures(pictures)
    found = opened.embed(files, detector)
    rows: list[dict[str, Any]] = []
    with Gallery.open(gallery, secret, model_id=opened.space, dimension=opened.dimension, exact_below=_ALL) as kept:
        matches = iter(kept.match(_usable(found), k))
        for file, usable, message in zip(files, found.usable, found.messages, strict=True):
            one = next(matches) if usable else None
            nearest = [] if one is None else [[who.person, who.score] for who in one.nearest]
            rows.append(
                {"picture": printable(file), "person": one and one.person, "score": one and one.score,
                 "nearest": nearest, "message": message}
            )  # fmt: skip
        facts = f"threshold {kept.card.threshold:.4f} for a FAR of {kept.card.far:g} per comparison"
        chance = f"a stranger passes for somebody here in about {kept.expected_fpir():.2g} of cases"
    if json:
        for row in rows:
            print(json_format.dumps(row))
        return
    shown: list[list[Cell]] = [
        [row["picture"], row["person"] or ("" if row["score"] is None else "nobody"), row["score"],
         message_of(row["picture"], row["message"])]
        for row in rows
    ]  # fmt: skip
    title = f"Who is it? {printable(gallery.name)}"
    Table(title, ["picture", "person", "best score", "message"], shown, [facts, chance]).print()


def forget(gallery: Path, person: str, key: Path = _NO_KEY) -> None:
    """Remove all templates of a person; a line of the audit trail without the name stays.

    Example: tenfold faces forget staff.gallery "Ada" --key staff.key

    Args:
        gallery: The file.
        person: The name.
        key: As for enroll.
    """
    from tenfold.faces.gallery import Gallery

    with Gallery.open(gallery, _key(key)) as kept:
        count = kept.forget(person)
    print(f"{person}: {count} templates removed")


def people(gallery: Path, show: Literal["people", "audit"] = "people", key: Path = _NO_KEY, json: bool = False) -> None:
    """List who is in a gallery, or what happened to it.

    Example: tenfold faces people staff.gallery --key staff.key

    Args:
        gallery: The file.
        show: People with their consents, or the audit trail.
        key: As for enroll.
        json: Print a JSON object per line instead of a table.
    """
    from tenfold.faces.gallery import Gallery

    with Gallery.open(gallery, _key(key)) as kept:
        persons, events, facts = kept.people(), kept.audit(), kept.card
    model = f"model {facts.model_id}, dimension {facts.dimension}"
    note = f"{model}, threshold {facts.threshold:.4f} for a FAR of {facts.far:g}"
    if show == "audit":
        if json:
            for event in events:
                print(json_format.dumps(event.to_json() | {"person": event.person}))
            return
        lines: list[list[Cell]] = [[event.time, event.what, event.templates, event.person] for event in events]
        Table(f"What happened to {gallery.name}", ["time", "what", "templates", "person"], lines, [note]).print()
        return
    if json:
        for one in persons:
            print(json_format.dumps(one.to_json()))
        return
    rows: list[list[Cell]] = [
        [one.name, one.templates, "" if one.until is None else one.until.isoformat(), one.consents[-1].text]
        for one in persons
    ]
    Table(f"People in {gallery.name}", ["person", "templates", "until", "consent"], rows, [note]).print()


def purge(gallery: Path, key: Path = _NO_KEY) -> None:
    """Remove everybody whose retention date has passed.

    Example: tenfold faces purge staff.gallery --key staff.key

    Args:
        gallery: The file.
        key: As for enroll.
    """
    from tenfold.faces.gallery import Gallery

    with Gallery.open(gallery, _key(key)) as kept:
        gone = kept.purge()
    print(f"{len(gone)} people removed{': ' if gone else ''}{', '.join(gone)}")


def renew(gallery: Path, new: Path, key: Path = _NO_KEY) -> None:
    """Rotate and encrypt all templates anew, under another key, without the pictures.

    Example: tenfold faces renew staff.gallery new.key --key staff.key

    Args:
        gallery: The file.
        new: File of the new key, from `tenfold faces key`.
        key: File of the key so far, as for enroll.
    """
    from tenfold.faces.gallery import Gallery
    from tenfold.faces.vault import read_key

    with Gallery.open(gallery, _key(key)) as kept:
        kept.renew(read_key(new))
    print(f"{gallery}: is under {new} now; copies of the file from before still open with the old key")


# --- what verbs share -------------------------------------------------------------------------------------------------


def open_model(model: str, teacher: str = "") -> "FaceModel":
    """A student, or with a teacher what embeds big faces into the space of the adapter `model`."""
    from tenfold.faces.recognition import HighResolution, load
    from tenfold.faces.teachers import load_teacher

    return HighResolution(load_teacher(teacher), model) if teacher else load(model)


def list_pictures(given: Sequence[Path]) -> list[Path]:
    """The files, and of folders the pictures below them. Raises InputError where a folder has none, or train.rec."""
    files: list[Path] = []
    for path in given:
        if (path / "train.rec").exists():
            raise InputError(f"{printable(path)}: its pictures lie in train.rec; name files or folders of pictures")
        files += [Path(str(source)) for source in read_faces(path, "none").sources] if path.is_dir() else [path]
    if not files:
        raise InputError("no picture was given; name files or folders")
    return files


def message_of(picture: Path | str, message: str) -> str:
    """What is wrong with a picture, for a row that names it."""
    return message.removeprefix(f"{printable(picture)}: ")


def _key(path: Path) -> bytes:
    from tenfold.faces.vault import read_key

    return read_key(None if path == _NO_KEY else path)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InputError(f"until '{text}': is no day; write it as 2027-12-31") from None


def _usable(found: "Embeddings") -> Any:
    if not found.usable.any():
        raise InputError(next(filter(None, found.messages), "no picture has a face"))
    return found.vectors_Nd[found.usable]


def _open_or_create(path: Path, secret: bytes, opened: "FaceModel", model: str) -> "Gallery":
    from tenfold.faces.gallery import Gallery
    from tenfold.faces.inference import model_folder
    from tenfold.faces.recognition import stored_threshold

    if path.exists():
        return Gallery.open(path, secret, model_id=opened.space, dimension=opened.dimension)
    is_file = Path(model).suffix == ".onnx"
    threshold = (None if is_file else stored_threshold(model_folder(model), probes=True)) or opened.threshold
    if threshold is None:
        raise InputError(f"{path}: cannot be made: the model has no threshold; run tenfold faces calibrate first")
    if threshold.high > _UNSURE * threshold.far:
        print(f"Warning: {path}: gets an unsure threshold, {threshold.describe()}", file=sys.stderr)
    return Gallery.create(path, secret, opened.space, opened.dimension, threshold)


def print_facts(title: str, facts: dict[str, Any], json: bool) -> None:
    """Facts by name as a table, or as one JSON object."""
    if json:
        print(json_format.dumps(facts))
        return
    Table(title, ["what", "value"], [[name, value] for name, value in facts.items() if value is not None]).print()
