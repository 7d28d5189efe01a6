"""The verbs of `tenfold faces` that make, use and measure models; those of galleries are in `keeping.py`."""

import json as json_format
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Table, need_reports
from tenfold.core.training import TrainingResult
from tenfold.faces.comparisons import all_pairs
from tenfold.faces.degradation import HARSH, Degradation
from tenfold.faces.export import export_int8, export_onnx
from tenfold.faces.features import teacher_features
from tenfold.faces.inference import model_folder
from tenfold.faces.keeping import (
    enroll,
    forget,
    identify,
    key,
    list_pictures,
    open_model,
    people,
    purge,
    renew,
)
from tenfold.faces.losses import Margin
from tenfold.faces.model import StudentConfig, load_adapter
from tenfold.faces.preparation import LabelledCrops, PersonFrom, prepare
from tenfold.faces.protocols import Questions, evaluate_model
from tenfold.faces.recognition import FaceModel, HighResolution, find_detector, load, store_threshold
from tenfold.faces.settings import AdaptConfig, DistillConfig, Keep, Method, Provenance, Selection, TeacherConfig
from tenfold.faces.teachers import Teacher, load_teacher
from tenfold.faces.thresholds import Threshold
from tenfold.faces.thresholds import calibrate as calibrate_threshold
from tenfold.faces.training import adapt as train_adapter
from tenfold.faces.training import apply_adapter, train_teacher
from tenfold.faces.training import distill as train_student

__all__ = ["COMMANDS"]

Device = Literal["auto", "cpu", "cuda"]
Share = Annotated[float, tyro.conf.arg(metavar="SHARE")]
Pictures = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE...")]


def teach(
    faces: Path,
    out: Path,
    detector: str = "haar",
    person: PersonFrom = "folder",
    dimension: int = 256,
    epochs: int = 30,
    validation: Share = 0.2,
    device: Device = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a small teacher of one's own, where no big one may be used.

    The same command goes on where an interrupted run has stopped. So do adapt and distill.

    Example: tenfold faces teach private_people/ teacher/

    Args:
        faces: A folder of people, the CSV of UMDFaces, or a folder with train.rec.
        out: Folder of the run; OUT/best and OUT/last are models.
        detector: haar; none where the pictures are aligned crops; or the path of YuNet's .onnx.
        person: Who is on a picture: the folder below FACES, or the file's name.
        dimension: Numbers of a feature.
        epochs: How often each face is seen.
        validation: Share of the people who are held back to tell which epoch was the best.
        device: Where.
        seed: Decides first weights, order and everything drawn.
        json: Print one JSON object instead of a table.
    """
    learned, held = _read(faces, detector, person, out / "cache", validation, seed)
    config = TeacherConfig(dimension=dimension, epochs=epochs, device=device, seed=seed)
    source = Provenance(data={faces.name: "the user's own"})
    _, result = train_teacher(
        learned.crops_NSSC, learned.labels_N, out, config, validation=_pair(held), provenance=source
    )
    _print_run(result, out, json)


def adapt(
    faces: Path,
    out: Path,
    teacher: str,
    detector: str = "haar",
    person: PersonFrom = "folder",
    dimension: int = 128,
    keep: Keep = "relational",
    keep_weight: float = 1.0,
    selection: Selection = "all",
    rho: float = 0.7,
    epochs: int = 30,
    validation: Share = 0.2,
    device: Device = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Step 1: fit a teacher's features to the public faces.

    Crops and features are kept in OUT/cache, from where distill takes them.

    Example: tenfold faces adapt public_people/ adapter/ w600k_r50.onnx

    Args:
        faces: Public faces of big pictures: as for teach.
        out: Folder of the run.
        teacher: An .onnx file or published weights with a teacher.json beside it, or the folder of `teach`.
        detector: As for teach.
        person: As for teach.
        dimension: Numbers of an embedding.
        keep: What holds adapted features to the teacher's.
        keep_weight: What it counts beside the classification.
        selection: Learn from all faces, or from the share RHO that agrees best with its people.
        rho: That share.
        epochs: How often each face is seen.
        validation: Share of the people who are held back.
        device: Where.
        seed: Decides everything drawn.
        json: Print one JSON object instead of a table.
    """
    opened = load_teacher(teacher)
    learned, held = _read(faces, detector, person, out / "cache", validation, seed)
    config = AdaptConfig(
        dimension=dimension, keep=keep, keep_weight=keep_weight, selection=selection, rho=rho, epochs=epochs,
        device=device, seed=seed,
    )  # fmt: skip
    features_ND = _features(learned, opened, out / "cache")
    judged = None if held is None else (_features(held, opened, out / "cache"), held.labels_N)
    _, result = train_adapter(
        features_ND, learned.labels_N, out, config, validation=judged, provenance=_provenance(faces, opened)
    )
    _print_run(result, out, json)


def distill(
    faces: Path,
    out: Path,
    adapter: Path | None = None,
    teacher: str = "",
    method: Method = "bridge",
    size: int = 16,
    sizes: tuple[int, ...] = (),
    detector: str = "haar",
    person: PersonFrom = "folder",
    width: float = 1.0,
    dimension: int = 128,
    margin: Margin = "softmax",
    relational: float = 0.0,
    harsh: bool = False,
    epochs: int = 60,
    learning_rate: float = 2e-3,
    batch_size: int = 128,
    validation: Share = 0.2,
    far: float = 0.01,
    device: Device = "auto",
    seed: int = 0,
    json: bool = False,
) -> None:
    """Step 2: teach a tiny student the public faces made small, and calibrate its threshold.

    Example: tenfold faces distill public_people/ student/ --adapter adapter/ --teacher w600k_r50.onnx

    Args:
        faces: The public faces: as for teach.
        out: Folder of the run.
        adapter: Folder of `adapt`; method scratch, direct, hinton and fitnet need none.
        teacher: As for adapt; method scratch needs none.
        method: bridge, or what it is compared with.
        size: Side in pixels of the student's faces.
        sizes: Train one student for several sides; one of them is drawn for each batch.
        detector: As for teach.
        person: As for teach.
        width: Scales the channels; 1.0 is 0.21 million parameters.
        dimension: Numbers of an embedding; the adapter's, where there is one.
        margin: Of the classifier in training.
        relational: What a loss between all pairs counts besides.
        harsh: Make training faces small the harsh way: more blur, noise and compression.
        epochs: How often each face is seen.
        learning_rate: The highest.
        batch_size: Faces in a step.
        validation: Share of the people who are held back; the threshold is calibrated on them.
        far: False accept rate of that threshold.
        device: Where.
        seed: Decides everything drawn.
        json: Print one JSON object instead of a table.
    """
    cache = (adapter or out) / "cache"
    opened = load_teacher(teacher) if teacher else None
    learned, held = _read(faces, detector, person, cache, validation, seed)
    targets_ND, space = _targets(learned, method, adapter, opened, cache)
    config = DistillConfig(
        method=method, student=StudentConfig(size, dimension, width), margin=margin, relational=relational,
        degradation=_degradation(harsh, sizes), epochs=epochs, learning_rate=learning_rate, batch_size=batch_size,
        device=device, seed=seed,
    )  # fmt: skip
    source = _provenance(faces, opened, space)
    _, result = train_student(
        learned.crops_NSSC, learned.labels_N, targets_ND, out, config, validation=_pair(held), provenance=source
    )
    facts = {}
    if held is not None:
        student = load(out)
        facts["threshold"] = _calibrate(out, student, student, held, far).describe()
    _print_run(result, out, json, facts)


def calibrate(
    model: str,
    faces: Path,
    far: float = 0.01,
    teacher: str = "",
    probes: str = "",
    detector: str = "haar",
    person: PersonFrom = "folder",
    json: bool = False,
) -> None:
    """Choose a model's threshold on faces of people it was not trained on, and keep it in the model's folder.

    Example: tenfold faces calibrate student/ our_people/ --far 0.001

    Args:
        model: Folder of a student or of its run; with TEACHER the folder of an adapter.
        faces: A folder of people, as for teach.
        far: The share of pairs of different people that may pass as one person.
        teacher: As for embed.
        probes: A student whose faces will be compared with those of MODEL, as in a gallery of big faces.
        detector: As for teach.
        person: As for teach.
        json: Print one JSON object instead of a line.
    """
    with progress_bar() as progress:
        given = prepare(faces, find_detector(detector), person, progress=progress)
    enrolled = open_model(model, teacher)
    asking = load(probes) if probes else enrolled
    if asking.space != enrolled.space:
        raise InputError(f"{probes}: its vectors lie in another space than those of {model}; give a student of it")
    threshold = _calibrate(Path(model), enrolled, asking, given, far)
    print(json_format.dumps(threshold.to_json()) if json else threshold.describe())


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
        with replace_file(out) as partial, open(partial, "wb") as vectors:
            np.save(vectors, found.vectors_Nd)
    rows = zip(files, found.statuses, found.boxes_N4.tolist(), found.vectors_Nd, found.messages, strict=True)
    if json:
        for file, status, box, vector, message in rows:
            usable = not message or bool(np.any(vector))
            facts = {"picture": str(file), "status": status, "box": box if math.isfinite(box[0]) else None}
            print(json_format.dumps(facts | {"message": message, "vector": vector.tolist() if usable else None}))
        return
    shown = [[str(file), status, " ".join(f"{x:.0f}" for x in box), message] for file, status, box, _, message in rows]
    notes = [] if out is None else [f"{len(files):,} rows of {opened.dimension} in {out}"]
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
        print(f"score {match.score:.3f}; the model has no threshold: calibrate one")
    else:
        verdict = "one person" if match.same else "different people"
        print(f"{verdict}: score {match.score:.3f}, threshold {match.threshold:.3f} for a FAR of {match.far:g}")


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
    json: bool = False,
) -> None:
    """Measure a model: LFW's ten folds, TAR at FAR, one shot, TinyFace, by resolution, by group.

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
        json: Print the report as one JSON object instead of tables.
    """
    if out is not None:
        need_reports()
    asked = Questions(far, sizes, groups, column, person)
    with progress_bar() as progress:
        report = evaluate_model(
            open_model(model, teacher), data, find_detector(detector), pairs, asked, progress=progress
        )
    written = [] if out is None else report.write(out, "faces")
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
    _print(f"Exported {model}", {"file": str(out), "bytes": out.stat().st_size} | facts, json)


def card(model: str) -> None:
    """Print a model's card: its data, teacher, measures, intended use and limits.

    Example: tenfold faces card student/

    Args:
        model: Folder of a model or of its run, or a name on the Hub.
    """
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


# --- what the verbs share ---------------------------------------------------------------------------------------------


def _read(
    faces: Path, detector: str, person: PersonFrom, cache: Path, validation: float, seed: int
) -> tuple[LabelledCrops, LabelledCrops | None]:
    """Crops to learn from, and those of people held back; both in memory mapped from the cache where all are used."""
    with progress_bar() as progress:
        given = prepare(faces, find_detector(detector), person, cache, progress)
    held_N = given.held_back(validation, seed)
    return (given, None) if not held_N.any() else (given.rows(~held_N), given.rows(held_N))


def _pair(held: LabelledCrops | None) -> tuple[Any, Any] | None:
    return None if held is None else (held.crops_NSSC, held.labels_N)


def _features(given: LabelledCrops, teacher: Teacher, cache: Path) -> Any:
    with progress_bar() as progress:
        return teacher_features(given.crops_NSSC, teacher, cache, progress)


def _targets(
    learned: LabelledCrops, method: Method, adapter: Path | None, teacher: Teacher | None, cache: Path
) -> tuple[Any, str]:
    """What a student mimics, and the space it lies in."""
    if method == "scratch":
        return None, ""
    if teacher is None:
        raise InputError(f"method {method} mimics a teacher; name one with --teacher, or choose method scratch")
    features_ND = _features(learned, teacher, cache)
    if method not in ("bridge", "regression_only"):
        return features_ND, ""
    if adapter is None:
        raise InputError(f"method {method} mimics adapted features; name the folder of `adapt` with --adapter")
    space = HighResolution(teacher, adapter).space  # refuses an adapter of another teacher
    return apply_adapter(load_adapter(model_folder(adapter))[0], features_ND), space


def _degradation(harsh: bool, sizes: Sequence[int]) -> Degradation:
    return replace(HARSH if harsh else Degradation(), sizes=tuple(sizes))


def _provenance(faces: Path, teacher: Teacher | None, space: str = "") -> Provenance:
    data = {faces.name: "the user's own"}
    if teacher is None:
        return Provenance(data)
    return Provenance(data, teacher=teacher.identity, teacher_licence=teacher.licence, space=space)


def _calibrate(folder: Path, enrolled: FaceModel, asking: FaceModel, given: LabelledCrops, far: float) -> Threshold:
    """Choose a threshold for scores of one model's vectors with another's, and keep it with the first."""
    first, second = all_pairs(given.labels_N)
    kept_Nd = enrolled.embed_crops(given.crops_NSSC)
    seen_Nd = kept_Nd if asking is enrolled else asking.embed_crops(given.crops_NSSC)
    scores = np.einsum("pd,pd->p", kept_Nd[first], seen_Nd[second])
    people = np.stack([given.labels_N[first], given.labels_N[second]], 1)
    threshold = calibrate_threshold(scores, people, far)
    store_threshold(folder, threshold)
    return threshold


def _print_run(result: TrainingResult, out: Path, json: bool, facts: dict[str, Any] | None = None) -> None:
    told = {"steps": result.steps, "AUC on people held back": result.best, "seconds": result.seconds}
    _print(f"Run {out}", told | (facts or {}) | {"folder": str(out)}, json)


def _print(title: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        print(json_format.dumps(facts))
        return
    Table(title, ["what", "value"], [[name, value] for name, value in facts.items() if value is not None]).print()
