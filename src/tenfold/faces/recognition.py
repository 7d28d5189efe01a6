"""Faces to embeddings, and two faces to a verdict: what a user does with a trained student.

    model = load("student/")
    model.embed(["a.jpg", picture_HWC]).vectors_Nd
    model.verify("a.jpg", "b.jpg")
    gallery = HighResolution(load_teacher("w600k_r50.onnx"), "adapter/").embed(portraits)

A student answers for small faces. `HighResolution`, the teacher followed by the adapter that the student learned from,
puts large faces into the same space. Which space that is, is the model's `space`: vectors of one may be compared.

With several threads on a machine that does other work too, start Python with OMP_WAIT_POLICY=passive: threads of torch
that wait for each other then leave the core to those they wait for, several times as many faces per second.
"""

# N faces · B faces of a batch · S side of a crop · r side of the network's input · C = 3 channels · D teacher's
# dimension · d student's dimension

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.faces.alignment import SIDE, Detector, HaarDetector, Portrait, Status, YuNetDetector, portrait
from tenfold.faces.batchnorm import adapt_batchnorm
from tenfold.faces.crops import has_crop
from tenfold.faces.inference import (
    check_crops,
    fingerprint,
    first_line,
    fold,
    model_folder,
    open_session,
    read_licence,
    resize,
)
from tenfold.faces.model import StudentConfig, load_adapter, load_student, to_input
from tenfold.faces.pictures import Source, Span
from tenfold.faces.teacher_input import Teacher
from tenfold.faces.thresholds import Threshold

__all__ = [
    "FORMAT",
    "Embeddings",
    "FaceModel",
    "HighResolution",
    "Match",
    "describe_student",
    "find_detector",
    "load",
    "load_adapted",
    "store_threshold",
    "stored_threshold",
    "verify",
]

FORMAT = "tenfold.faces student 1"
"""What an exported ONNX file says it is, under `format` in its metadata."""

_THRESHOLD, _PROBES = "threshold.json", "threshold-probes.json"
_BATCH = 128  # what fits the caches of a core
DetectorLike = Detector | Path | str | None
Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Embeddings:
    """What became of some pictures, in their order.

    Attributes:
        vectors_Nd: float32 (N, d), rows of length 1; zeros where there is no face.
        boxes_N4: float32 (N, 4), x, y, width, height of the face in its picture; NaN where there is none.
        statuses: One per picture; "ok" and "several faces" have a vector.
        messages: One line per picture that says what was wrong; empty with "ok".
    """

    vectors_Nd: NDArray[np.float32]
    boxes_N4: NDArray[np.float32]
    statuses: tuple[Status, ...]
    messages: tuple[str, ...]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """bool (N,): which pictures have a vector."""
        return np.array([has_crop(status) for status in self.statuses], bool)


@dataclass(frozen=True)
class Match:
    """Two faces compared.

    Attributes:
        score: Their cosine, -1 to 1.
        threshold: From which score on they count as one person; None where none was calibrated for the model.
        far: At which share of pairs of different people this threshold was calibrated to be wrong; None as above.
        same: Whether the score reaches the threshold; None as above.
    """

    score: float
    threshold: float | None
    far: float | None
    same: bool | None


class FaceModel:
    """A network that turns faces into vectors of length 1. Made by `load`, or as `HighResolution`.

    Attributes:
        id: 32 hexadecimal digits that change with the shape and the weights.
        space: The id of that by which a space of vectors is known; models of one space may share a gallery.
        dimension: Numbers per vector, d.
        size: Side in pixels of the faces that the network takes.
        licence: The licence of the weights.
        threshold: The threshold calibrated for it, where there is one.
    """

    def __init__(self, network: Network, facts: Mapping[str, Any], threshold: Threshold | None = None) -> None:
        self._network = network
        self.id: str = facts["model_id"]
        self.space: str = facts["space"]
        self.dimension: int = facts["dimension"]
        self.size: int = facts["size"]
        self.licence: str = facts["licence"]
        self.threshold = threshold

    def embed_crops(
        self, crops_NSSC: NDArray[np.uint8], flip: bool = False, size: int | None = None
    ) -> NDArray[np.float32]:
        """Vectors float32 (N, d) of length 1 of aligned crops.

        Args:
            crops_NSSC: uint8 (N, S, S, 3) RGB of any side S.
            flip: Whether each vector is the mean of a crop's and its mirror image's; twice the work.
            size: Side to which crops are brought; by default the model's own. Others suit a student that was
                trained for several.

        Raises InputError for other arrays, and where the network gives values that are not finite.
        """
        check_crops(crops_NSSC)
        vectors_Nd = np.empty((len(crops_NSSC), self.dimension), np.float32)
        for start in range(0, len(crops_NSSC), _BATCH):
            batch_BrrC = resize(crops_NSSC[start : start + _BATCH], size or self.size)
            batch_Bd = _unit(self._network(batch_BrrC))
            if flip:
                batch_Bd = _unit(batch_Bd + _unit(self._network(np.ascontiguousarray(batch_BrrC[:, :, ::-1]))))
            vectors_Nd[start : start + _BATCH] = batch_Bd
        return vectors_Nd

    def embed(
        self,
        pictures: Source | Sequence[Source],
        detector: DetectorLike = "haar",
        flip: bool = False,
    ) -> Embeddings:
        """Vectors of the (largest) faces of pictures; what is wrong with a picture is its status.

        Args:
            pictures: Paths, bytes of files or arrays uint8 (H, W, 3) RGB, as for `read_picture`; or one of them.
            detector: "haar"; "none" or None where the pictures are aligned crops already; the path of YuNet's .onnx; or
                any object with `detect`.
            flip: As for `embed_crops`.

        Raises InputError where the detector cannot be had.
        """
        finder = find_detector(detector)
        one = isinstance(pictures, str | bytes | Path | Span | np.ndarray)
        sources: list[Source] = [pictures] if one else list(pictures)  # type: ignore[arg-type, list-item]
        portraits: list[Portrait] = []
        vectors_Nd = np.zeros((len(sources), self.dimension), np.float32)
        for start in range(0, len(sources), _BATCH):  # crops of a batch, never of all pictures
            batch = [portrait(source, finder, SIDE) for source in sources[start : start + _BATCH]]
            found = {start + row: face.crop for row, face in enumerate(batch) if face.crop is not None}
            if found:
                vectors_Nd[list(found)] = self.embed_crops(np.stack(list(found.values())), flip)
            portraits += [Portrait(None, face.box, face.points, face.status, face.message) for face in batch]
        boxes = [np.full(4, np.nan, np.float32) if face.box is None else face.box for face in portraits]
        boxes_N4 = np.array(boxes, np.float32).reshape(-1, 4)
        statuses = tuple(face.status for face in portraits)
        return Embeddings(vectors_Nd, boxes_N4, statuses, tuple(face.message for face in portraits))

    def verify(
        self,
        a: Source,
        b: Source,
        threshold: Threshold | None = None,
        detector: DetectorLike = "haar",
    ) -> Match:
        """Whether two pictures show one person, by `threshold` or the one stored with the model.

        Raises InputError where a picture has no face that can be used: here there is nothing to carry on with.
        """
        found = self.embed([a, b], detector)
        for is_usable, message in zip(found.usable, found.messages, strict=True):
            if not is_usable:
                raise InputError(message)
        score = float(found.vectors_Nd[0] @ found.vectors_Nd[1])
        threshold = threshold or self.threshold
        if threshold is None:
            return Match(score, None, None, None)
        return Match(score, threshold.value, threshold.far, bool(threshold.accepts(score)))


def verify(
    a: Source,
    b: Source,
    model: FaceModel | Path | str,
    threshold: Threshold | None = None,
    detector: DetectorLike = "haar",
) -> Match:
    """Whether two pictures show one person, by a model or its folder: `FaceModel.verify` in one line."""
    return (model if isinstance(model, FaceModel) else load(model)).verify(a, b, threshold, detector)


def _unit(vectors_Bd: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_B1 = np.linalg.norm(vectors_Bd, axis=1, keepdims=True)
    if not np.isfinite(lengths_B1).all():
        raise InputError("the model gives vectors that are not finite; its weights are damaged")
    unit_Bd: NDArray[np.float32] = vectors_Bd / np.maximum(lengths_B1, np.float32(1e-12))
    return unit_Bd


def find_detector(wanted: DetectorLike) -> Detector | None:
    """The detector that is meant by "haar", by the path of YuNet's .onnx, or is one already; None for "none"."""
    if wanted == "haar":
        return HaarDetector()
    if wanted is None or wanted == "none":
        return None
    if isinstance(wanted, str | Path):
        if Path(wanted).suffix != ".onnx":
            raise InputError(f"detector {wanted}: unknown; give haar, none, or the path of YuNet's .onnx")
        return YuNetDetector(wanted)
    return wanted


# --- loading ---------------------------------------------------------------------------------------------------------


def load(path_or_id: Path | str) -> FaceModel:
    """A student from its folder, from the Hub, or from an .onnx file that `export_onnx` or `export_int8` wrote.

    Raises InputError for what is missing, damaged or of another kind.
    """
    path = Path(path_or_id)
    if path.suffix == ".onnx":
        return load_onnx(path)
    folder = model_folder(path_or_id)
    net, config = load_student(folder)
    facts = describe_student(folder, net, config)
    return FaceModel(_torch_network(net), facts, stored_threshold(folder))


def describe_student(folder: Path, net: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a student says of itself, in its exports too: model_id, space, dimension, size, licence."""
    model_id = fingerprint(config, net.state_dict())
    facts = {"model_id": model_id, "space": config.get("space") or model_id}
    return facts | {"dimension": config["dimension"], "size": config["size"], "licence": read_licence(folder)}


def load_adapted(path_or_id: Path | str, crops_NSSC: NDArray[np.uint8], share: float = 1.0) -> FaceModel:
    """A student whose batch norms know the faces of the place where it works, from some hundred of them, unlabelled.

    Its id is a new one, and no threshold is calibrated for it. Arguments as for `adapt_batchnorm`, crops of any side.
    Raises InputError as `load` and `adapt_batchnorm`.
    """
    folder = model_folder(path_or_id)
    net, config = load_student(folder)
    check_crops(crops_NSSC)
    adapted = adapt_batchnorm(net, resize(crops_NSSC, config["size"]), share)
    return FaceModel(_torch_network(adapted), describe_student(folder, adapted, config))


def _torch_network(net: nn.Module) -> Network:
    folded = fold(net)

    def run(crops_BrrC: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors_Bd: NDArray[np.float32] = folded(to_input(crops_BrrC)).numpy()
        return vectors_Bd

    network: Network = run
    return network


def load_onnx(path: Path) -> FaceModel:
    """As `load`, of a file of any name."""
    session = open_session(path)
    said = session.get_modelmeta().custom_metadata_map
    if said.get("format") != FORMAT:
        raise InputError(f"{path}: is no student that tenfold exported; use it as a teacher, or export one")
    try:
        facts = {name: said[name] for name in ("model_id", "space", "licence")}
        facts |= {name: int(said[name]) for name in ("dimension", "size")}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its metadata lack {error}; export it again") from None
    _check_graph(session, facts, path)
    feed = session.get_inputs()[0].name

    def run(crops_BrrC: NDArray[np.uint8]) -> NDArray[np.float32]:
        if crops_BrrC.shape[1] != facts["size"]:
            raise InputError(f"{path}: takes faces of {facts['size']} px alone; other sizes need the student's folder")
        vectors_Bd: NDArray[np.float32] = session.run(None, {feed: np.ascontiguousarray(crops_BrrC)})[0]
        return vectors_Bd

    return FaceModel(run, facts, _parse_threshold(said["threshold"], path) if said.get("threshold") else None)


def _check_graph(session: Any, facts: Mapping[str, Any], path: Path) -> None:
    """InputError where metadata, which anybody may have written, are of another network than the file's."""
    takes, gives = session.get_inputs(), session.get_outputs()
    try:
        StudentConfig(facts["size"], facts["dimension"])
    except InputError as error:
        raise InputError(f"{path}: its metadata are of no student: {error}") from None
    shapes = [one.shape[1:] for one in (*takes, *gives)]
    if takes[0].type != "tensor(uint8)" or shapes != [[facts["size"], facts["size"], 3], [facts["dimension"]]]:
        raise InputError(f"{path}: its metadata are of another network than is in it; export it again")


def store_threshold(folder: Path | str, threshold: Threshold, *, probes: bool = False) -> None:
    """Keep a calibrated threshold beside a model, as `threshold.json`; `load` and exports take it from there.

    With `probes` it is one for the model's vectors against another's, and kept apart for galleries that will be made.
    """
    folder = model_folder(folder)
    try:
        with replace_file(folder / (_PROBES if probes else _THRESHOLD)) as partial:
            partial.write_text(json.dumps(threshold.to_json(), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def stored_threshold(folder: Path, *, probes: bool = False) -> Threshold | None:
    """What `store_threshold` kept in a model's folder; None without one. Raises InputError where it is damaged."""
    path = folder / (_PROBES if probes else _THRESHOLD)
    return _parse_threshold(path.read_text(errors="replace"), path) if path.is_file() else None


def _parse_threshold(text: str, path: Path) -> Threshold:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: holds no threshold ({first_line(error)}); calibrate it again") from None
    return Threshold.from_json(values, str(path))


# --- large faces -----------------------------------------------------------------------------------------------------


class HighResolution(FaceModel):
    """Large faces in the space of a student: a teacher and the adapter that the student learned from.

    Args:
        teacher: The teacher whose features the adapter was trained on.
        adapter: The adapter's folder, or a Hub id.

    Raises InputError where the adapter wants features of another dimension, or of another teacher.
    """

    def __init__(self, teacher: Teacher, adapter: Path | str) -> None:
        folder = model_folder(adapter)
        net, config = load_adapter(folder)
        if config["features"] != teacher.dimension:
            raise InputError(f"{folder}: wants {config['features']} features, the teacher gives {teacher.dimension}")
        if (config.get("teacher") or teacher.identity) != teacher.identity:
            raise InputError(f"{folder}: was trained on teacher {config['teacher']}, this is {teacher.identity}")
        space = fingerprint(config, net.state_dict())
        body = fold(net)

        def run(crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                vectors_Bd: NDArray[np.float32] = body(torch.from_numpy(teacher.embed(crops_BSSC))).numpy()
            return vectors_Bd

        facts: dict[str, Any] = {"model_id": fingerprint({"teacher": teacher.identity, "adapter": space}, {})}
        facts |= {"space": space, "dimension": config["dimension"], "size": teacher.size, "licence": teacher.licence}
        super().__init__(run, facts, stored_threshold(folder))
