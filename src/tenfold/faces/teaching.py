"""The verbs of `tenfold faces` that train: teach, adapt, distill; and calibrate, which gives a model its threshold.

Each imports what it needs, as those of `commands.py` do.
"""

import json as json_format
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.faces.comparisons import all_pairs, cosine_scores
from tenfold.faces.data import read_faces
from tenfold.faces.keeping import open_model, print_facts

if TYPE_CHECKING:
    from tenfold.core.training import TrainingResult
    from tenfold.faces.degradation import Degradation
    from tenfold.faces.facesets import FaceSet
    from tenfold.faces.model import Adapter
    from tenfold.faces.preparation import LabelledCrops
    from tenfold.faces.recognition import FaceModel
    from tenfold.faces.settings import Provenance
    from tenfold.faces.teachers import Teacher
    from tenfold.faces.thresholds import Threshold

__all__ = ["PersonFrom", "adapt", "calibrate", "distill", "teach"]

PersonFrom = Literal["folder", "file", "none"]  # of preparation.py, settings.py and losses.py, which need torch
Keep = Literal["relational", "reconstruct", "none"]
Selection = Literal["all", "greedy"]
Method = Literal["bridge", "scratch", "direct", "regression_only", "hinton", "fitnet"]
Margin = Literal["softmax", "arcface", "adaface"]
Device = Literal["auto", "cpu", "cuda"]
Share = Annotated[float, tyro.conf.arg(metavar="SHARE")]


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
    from tenfold.faces.settings import Provenance, TeacherConfig
    from tenfold.faces.training import train_teacher

    config = TeacherConfig(dimension=dimension, epochs=epochs, device=device, seed=seed)
    learned, held, pictures = _read(faces, detector, person, out, validation, seed)
    source = Provenance(data={faces.name: "the user's own"})
    with _remembering(out, pictures):
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
    centre: bool = False,
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
        teacher: An .onnx file or published weights with a teacher.json beside it, the folder of `teach`, or dlib.
        detector: As for teach.
        person: As for teach.
        dimension: Numbers of an embedding.
        keep: What holds adapted features to the teacher's.
        keep_weight: What it counts beside the classification.
        centre: See the teacher's features from their mean, where all point nearly the same way, as dlib's do.
        selection: Learn from all faces, or from the share RHO that agrees best with its people.
        rho: That share.
        epochs: How often each face is seen.
        validation: Share of the people who are held back.
        device: Where.
        seed: Decides everything drawn.
        json: Print one JSON object instead of a table.
    """
    from tenfold.faces.settings import AdaptConfig
    from tenfold.faces.teachers import load_teacher
    from tenfold.faces.training import adapt as train_adapter

    opened = load_teacher(teacher)
    config = AdaptConfig(
        dimension=dimension, keep=keep, keep_weight=keep_weight, centre=centre, selection=selection, rho=rho,
        epochs=epochs, device=device, seed=seed,
    )  # fmt: skip
    learned, held, pictures = _read(faces, detector, person, out, validation, seed)
    features_ND = _features(learned, opened, out / "cache")
    judged = None if held is None else (_features(held, opened, out / "cache"), held.labels_N)
    with _remembering(out, pictures):
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
    dimension: int | None = None,
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
        dimension: Numbers of an embedding; by default the adapter's, or 128 where there is none.
        margin: Of the classifier in training.
        relational: What a loss between all pairs counts besides.
        harsh: Make training faces small the harsh way: more blur, noise and compression.
        epochs: How often each face is seen.
        learning_rate: The highest.
        batch_size: Faces in a step, no more than an eighth of all.
        validation: Share of the people who are held back; the threshold is calibrated on them.
        far: False accept rate of that threshold.
        device: Where.
        seed: Decides everything drawn.
        json: Print one JSON object instead of a table.
    """
    from tenfold.faces.model import StudentConfig
    from tenfold.faces.recognition import load
    from tenfold.faces.settings import DistillConfig
    from tenfold.faces.teachers import load_teacher
    from tenfold.faces.training import apply_adapter
    from tenfold.faces.training import distill as train_student
    from tenfold.faces.verification import check_rates

    cache = (adapter or out) / "cache"
    opened = load_teacher(teacher) if teacher else None
    bridge = _bridge(method, adapter, opened)
    check_rates("far", [far])
    if dimension is None:
        dimension = bridge.adapter.config.dimension if bridge else 128
    config = DistillConfig(
        method=method, student=StudentConfig(size, dimension, width), margin=margin, relational=relational,
        degradation=_degradation(harsh, sizes), epochs=epochs, learning_rate=learning_rate, batch_size=batch_size,
        device=device, seed=seed,
    )  # fmt: skip
    learned, held, pictures = _read(faces, detector, person, out, validation, seed, cache)
    targets_ND = None if method == "scratch" or opened is None else _features(learned, opened, cache)
    if bridge is not None and targets_ND is not None:
        targets_ND = apply_adapter(bridge.adapter, targets_ND)
    source = _provenance(faces, opened, bridge.space if bridge else "")
    with _remembering(out, pictures):
        _, result = train_student(
            learned.crops_NSSC, learned.labels_N, targets_ND, out, config, validation=_pair(held), provenance=source
        )
    facts = {}
    if held is not None:
        student = load(out)
        facts["threshold"] = _calibrate(out, student, student, held, faces, far).describe()
        _tell_by_size(out, student, held, far)
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
        probes: A student whose faces will be compared with those of MODEL, for galleries that enroll makes.
        detector: As for teach.
        person: As for teach.
        json: Print one JSON object instead of a line.
    """
    from tenfold.faces.inference import model_folder
    from tenfold.faces.preparation import prepare_faces, remember, run_of
    from tenfold.faces.recognition import find_detector, load

    folder, enrolled = model_folder(model), open_model(model, teacher)
    asking = load(probes) if probes else enrolled
    if asking.space != enrolled.space:
        raise InputError(f"{probes}: its vectors lie in another space than those of {model}; give a student of it")
    pictures = read_faces(faces, person)
    with progress_bar() as progress:
        given = prepare_faces(pictures, find_detector(detector), progress=progress)
    threshold = _calibrate(folder, enrolled, asking, given, faces, far)
    if run := run_of(folder):
        remember(run, pictures)
    else:
        print(f"{folder}: is not in the folder of a run: which pictures these were is not noted", file=sys.stderr)
    print(json_format.dumps(threshold.to_json()) if json else threshold.describe())


# --- what these verbs share -------------------------------------------------------------------------------------------


def _read(
    faces: Path, detector: str, person: PersonFrom, out: Path, validation: float, seed: int, cache: Path | None = None
) -> "tuple[LabelledCrops, LabelledCrops | None, FaceSet]":
    """Crops to learn from, those of people held back, and the set; crops mapped from the cache where all are used."""
    from tenfold.faces.preparation import prepare_faces
    from tenfold.faces.recognition import find_detector

    pictures = read_faces(faces, person)
    with progress_bar() as progress:
        given = prepare_faces(pictures, find_detector(detector), cache or out / "cache", progress)
    with _about(faces):
        held_N = given.held_back(validation, seed)
    return (given.rows(~held_N), given.rows(held_N), pictures) if held_N.any() else (given, None, pictures)


@contextmanager
def _remembering(run: Path, pictures: "FaceSet") -> Iterator[None]:
    """Note in the run what a training sees: at once in a new run, which may be killed; else once it was not refused."""
    from tenfold.faces.preparation import remember

    goes_on = (run / "last").exists()
    if not goes_on:
        remember(run, pictures)
    yield
    if goes_on:
        remember(run, pictures)


def _pair(held: "LabelledCrops | None") -> tuple[Any, Any] | None:
    return None if held is None else (held.crops_NSSC, held.labels_N)


def _features(given: "LabelledCrops", teacher: "Teacher", cache: Path) -> Any:
    from tenfold.faces.features import teacher_features

    with progress_bar() as progress:
        return teacher_features(given.crops_NSSC, teacher, cache, progress)


@dataclass(frozen=True)
class _Bridge:
    """The adapter that a student learns from, and the space of its features."""

    adapter: "Adapter"
    space: str


def _bridge(method: Method, adapter: Path | None, teacher: "Teacher | None") -> _Bridge | None:
    """What a method mimics beside a teacher, None without; refused, before anything is read, where it does not fit."""
    from tenfold.faces.inference import model_folder
    from tenfold.faces.model import load_adapter
    from tenfold.faces.recognition import HighResolution

    if method == "scratch":
        return None
    if teacher is None:
        raise InputError(f"method {method} mimics a teacher; name one with --teacher, or choose method scratch")
    if method not in ("bridge", "regression_only"):
        return None
    if adapter is None:
        raise InputError(f"method {method} mimics adapted features; name the folder of `adapt` with --adapter")
    space = HighResolution(teacher, adapter).space  # refuses an adapter of another teacher
    return _Bridge(load_adapter(model_folder(adapter))[0], space)


@contextmanager
def _about(faces: Path) -> Iterator[None]:
    """What is refused names the set."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{faces}: {error}") from None


def _degradation(harsh: bool, sizes: Sequence[int]) -> "Degradation":
    from tenfold.faces.degradation import HARSH, Degradation

    return replace(HARSH if harsh else Degradation(), sizes=tuple(sizes))


def _provenance(faces: Path, teacher: "Teacher | None", space: str = "") -> "Provenance":
    from tenfold.faces.settings import Provenance

    data = {faces.name: "the user's own"}
    if teacher is None:
        return Provenance(data)
    return Provenance(data, teacher=teacher.identity, teacher_licence=teacher.licence, space=space)


def _calibrate(
    folder: Path, enrolled: "FaceModel", asking: "FaceModel", given: "LabelledCrops", faces: Path, far: float
) -> "Threshold":
    """Choose a threshold for scores of one model's vectors with another's, and keep it with the first."""
    from tenfold.faces.recognition import store_threshold
    from tenfold.faces.thresholds import calibrate as calibrate_threshold

    with _about(faces):
        first, second = all_pairs(given.labels_N)
    vectors_Md, shift = enrolled.embed_crops(given.crops_NSSC), 0
    if asking is not enrolled:
        vectors_Md, shift = np.concatenate([vectors_Md, asking.embed_crops(given.crops_NSSC)]), len(vectors_Md)
    scores = cosine_scores(vectors_Md, first, second + shift)
    people = np.stack([given.labels_N[first], given.labels_N[second]], 1)
    with _about(faces):
        threshold = calibrate_threshold(scores, people, far)
    store_threshold(folder, threshold, probes=asking.id != enrolled.id)
    return threshold


def _tell_by_size(run: Path, student: "FaceModel", held: "LabelledCrops", far: float) -> None:
    """Put the accuracy at several sizes on the student's card."""
    from tenfold.faces.cards import add_measures
    from tenfold.faces.inference import model_folder
    from tenfold.faces.plots import resolution_table
    from tenfold.faces.resolution import SIZES, resolution_curve

    def embed(crops_NSSC: Any, size: int) -> Any:
        return student.embed_crops(crops_NSSC, size=size)

    sizes = sorted({*SIZES, student.size})
    curve = resolution_curve(embed, held.crops_NSSC, held.labels_N, sizes, far, replicates=200)
    whom = "people held back, by whom the epoch was chosen"
    add_measures(model_folder(run), whom, [resolution_table({"this student": curve})])


def _print_run(result: "TrainingResult", out: Path, json: bool, facts: dict[str, Any] | None = None) -> None:
    told = {"steps": result.steps, "AUC on people held back": result.best, "seconds": result.seconds}
    print_facts(f"Run {out}", told | (facts or {}) | {"folder": str(out)}, json)
