"""The verbs of `tenfold faces`; those that train are in `teaching.py`, those of galleries in `keeping.py`.

Each imports what it needs: their help, and completion, do without torch.
"""

import json as json_format
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Table, need_reports
from tenfold.faces.keeping import (
    enroll,
    forget,
    identify,
    key,
    list_pictures,
    message_of,
    open_model,
    people,
    print_facts,
    purge,
    renew,
)
from tenfold.faces.pictures import printable
from tenfold.faces.teaching import PersonFrom, adapt, calibrate, distill, teach

__all__ = ["COMMANDS"]

Pictures = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE...")]


def embed(
    model: str,
    pictures: Pictures,
    out: Path | None = None,
    teacher: str = "",
    detector: str = "haar",
    flip: bool = False,
    json: bool = False,
) -> None:
    """Turn the faces of pictures into vectors of length 1.

    Example: tenfold faces embed student/ a.jpg b.jpg --out vectors.npy

    Args:
        model: Folder of a student, an exported .onnx file, or a name on the Hub; with TEACHER the folder of an adapter.
        pictures: Pictures, or folders of them. What is wrong with one is told, and the others go on.
        out: File for the vectors, float32 (N, d), a row per picture, zeros where there is no face.
        teacher: Embed big faces, into the space of the students of the adapter MODEL.
        detector: As for teach.
        flip: Take the mean with the mirror image; twice the work.
        json: Print a JSON object per picture, with its vector, instead of a table.
    """
    opened, files = open_model(model, teacher), list_pictures(pictures)
    found = opened.embed(files, detector, flip)
    if not found.usable.any():
        raise InputError(next(filter(None, found.messages), "no picture has a face"))
    if out is not None:
        try:
            with replace_file(out) as partial, open(partial, "wb") as vectors:
                np.save(vectors, found.vectors_Nd)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror}); name a file in a folder of yours") from None
    rows = zip(files, found.statuses, found.boxes_N4.tolist(), found.vectors_Nd, found.messages, strict=True)
    if json:
        for file, status, box, vector, message in rows:
            usable = not message or bool(np.any(vector))
            facts = {"picture": printable(file), "status": status, "box": box if math.isfinite(box[0]) else None}
            print(json_format.dumps(facts | {"message": message, "vector": vector.tolist() if usable else None}))
        return
    shown = [
        [printable(file), status, " ".join(f"{x:.0f}" for x in box if math.isfinite(x)), message_of(file, message)]
        for file, status, box, _, message in rows
    ]
    notes = [] if out is None else [f"{len(files):,} rows of {opened.dimension} in {printable(out)}"]
    Table(f"Faces by model {opened.id[:8]}", ["picture", "status", "box", "message"], shown, notes).print()


def verify(
    model: str, first: Path, second: Path, teacher: str = "", detector: str = "haar", json: bool = False
) -> None:
    """Say whether two pictures show one person.

    Example: tenfold faces verify student/ a.jpg b.jpg

    Args:
        model: As for embed.
        first: A picture.
        second: Another.
        teacher: As for embed.
        detector: As for teach.
        json: Print one JSON object instead of a line.
    """
    match = open_model(model, teacher).verify(first, second, detector=detector)
    if json:
        facts = {"score": match.score, "threshold": match.threshold, "far": match.far, "same": match.same}
        print(json_format.dumps(facts))
    elif match.same is None:
        print(f"score {match.score:.4f}; the model has no threshold: calibrate one")
    else:
        verdict = "one person" if match.same else "different people"
        print(f"{verdict}: score {match.score:.4f}, threshold {match.threshold:.4f} for a FAR of {match.far:g}")


def evaluate(
    model: str,
    data: Path,
    pairs: Path | None = None,
    teacher: str = "",
    detector: str = "haar",
    person: PersonFrom = "folder",
    far: float = 0.01,
    sizes: tuple[int, ...] = (),
    groups: Path | None = None,
    column: str = "group",
    out: Path | None = None,
    on_card: bool = False,
    json: bool = False,
) -> None:
    """Measure a model: LFW's ten folds, TAR at FAR, 1:N, TinyFace, by resolution, by group.

    Example: tenfold faces evaluate student/ lfw/ --pairs pairs.txt

    Args:
        model: As for embed.
        data: A folder of people; LFW's with PAIRS; a .bin file of InsightFace; TinyFace's folder.
        pairs: LFW's list of pairs.
        teacher: As for embed.
        detector: As for teach.
        person: As for teach.
        far: False accept rate of the threshold, where the model has none.
        sizes: Sides in pixels of a resolution curve.
        groups: CSV with a row per person: errors by group. Nothing is guessed from faces.
        column: Its column with the group.
        out: Folder for a page with plots: faces.html, .md, .json.
        on_card: Put the tables on the model's card, too.
        json: Print the report as one JSON object instead of tables.
    """
    from tenfold.faces.cards import add_measures
    from tenfold.faces.inference import model_folder
    from tenfold.faces.preparation import read_seen
    from tenfold.faces.protocols import Questions, evaluate_model
    from tenfold.faces.recognition import find_detector

    if out is not None:
        need_reports()
    if on_card and not (model_folder(model) / "README.md").is_file():
        raise InputError(f"{model}: has no card; give the folder of a model")
    asked = Questions(far, sizes, groups, column, person, read_seen(model) | read_seen(teacher))
    with progress_bar() as progress:
        report = evaluate_model(
            open_model(model, teacher), data, find_detector(detector), pairs, asked, progress=progress
        )
    written = [] if out is None else report.write(out, "faces")
    if on_card:
        add_measures(model_folder(model), data.name, report.tables)
    if json:
        print(report.to_json())
        return
    report.print()
    if written:
        print(f"Written: {written[0]}")


def export(
    model: str,
    out: Path,
    int8: Path | None = None,
    detector: str = "haar",
    json: bool = False,
) -> None:
    """Write a student as one ONNX file, which takes faces as RGB bytes and gives vectors of length 1.

    Example: tenfold faces export student/ student.onnx

    Args:
        model: Folder of a student or of its run, or a name on the Hub.
        out: The file.
        int8: Faces, some hundreds, such as it will see: write whole numbers of 8 bits, and say what that costs.
        detector: As for teach.
        json: Print one JSON object instead of a table.
    """
    from tenfold.faces.export import export_int8, export_onnx
    from tenfold.faces.preparation import prepare
    from tenfold.faces.recognition import find_detector

    facts: dict[str, Any] = {}
    if int8 is None:
        export_onnx(model, out)
    else:
        with progress_bar() as progress:
            faces = prepare(int8, find_detector(detector), progress=progress)
        cost = export_int8(model, faces.crops_NSSC, out, faces.labels_N)
        facts = {
            "bytes of weights": cost.weights_bytes, "mean cosine to float32": cost.cosine_mean,
            "least cosine": cost.cosine_least, "AUC, float32": cost.auc_float, "AUC, int8": cost.auc_int8,
            "faces checked": cost.checked,
        }  # fmt: skip
    print_facts(f"Exported {model}", {"file": str(out), "bytes": out.stat().st_size} | facts, json)


def card(model: str) -> None:
    """Print a model's card: its data, teacher, measures, intended use and limits.

    Example: tenfold faces card student/

    Args:
        model: Folder of a model or of its run, or a name on the Hub.
    """
    from tenfold.faces.inference import model_folder

    path = model_folder(model) / "README.md"
    try:
        print(path.read_text(errors="replace").rstrip())
    except OSError:
        raise InputError(f"{path}: there is no card; is it a model of tenfold?") from None


COMMANDS: dict[str, Callable[..., None]] = {
    "teach": teach,
    "adapt": adapt,
    "distill": distill,
    "calibrate": calibrate,
    "embed": embed,
    "verify": verify,
    "key": key,
    "enroll": enroll,
    "identify": identify,
    "forget": forget,
    "people": people,
    "purge": purge,
    "renew": renew,
    "evaluate": evaluate,
    "export": export,
    "card": card,
}
