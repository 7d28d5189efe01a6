"""Teachers: big face networks, frozen, whose training data nobody here may see. Files are the user's, never fetched.

What a file cannot say about its input (order of colours, mean, scale, side) is declared: by a preset's name, by
arguments, or by a `teacher.json` beside the file, such as

    {"preset": "insightface", "licence": "non-commercial research"}
    {"file": "net.onnx", "size": 112, "colour": "BGR", "mean": [127.5, 127.5, 127.5], "scale": 128, "licence": "MIT"}

A wrong declaration raises no error and costs much accuracy: take it from whoever published the file.
"""

# B batch · S side of a crop · C = 3 channels · D features of the teacher

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.core.artifacts import load_into, read_tensors
from tenfold.core.errors import InputError
from tenfold.faces.inception_resnet import InceptionResnetV1
from tenfold.faces.inference import (
    NOT_STATED,
    check_crops,
    fingerprint,
    first_line,
    fold,
    model_folder,
    open_session,
    read_licence,
    resize,
)
from tenfold.faces.model import load_teacher_net
from tenfold.faces.resnet50 import ResNet50

__all__ = [
    "PRESETS",
    "InceptionResnetV1Teacher",
    "OnnxTeacher",
    "SmallTeacher",
    "Teacher",
    "TeacherInput",
    "VGGFace2ResNet50Teacher",
    "load_teacher",
]

_DECLARATION = "teacher.json"
_BATCH = 32
_LARGEST_SIDE = 1024
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_TEXTS = ("file", "preset", "licence", "output")
_INPUTS = ("size", "colour", "mean", "scale")
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")


class Teacher(Protocol):
    """A frozen network that turns aligned face crops into features.

    Attributes:
        dimension: Numbers per face, D.
        size: Side of the network's own input in pixels; crops of another side are resized.
        identity: Hexadecimal digits that change with the weights and with how crops are prepared.
        licence: What its publisher lets one do with it, in words.
    """

    dimension: int
    size: int
    identity: str
    licence: str

    def embed(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of crops uint8 (B, S, S, 3) RGB, of any length. Raises InputError for other arrays."""


@dataclass(frozen=True)
class TeacherInput:
    """What a network expects of its input: (pixel - mean) / scale.

    Attributes:
        size: Side in pixels.
        colour: Order of the channels.
        mean: Subtracted from the channels in this order, 0 to 255.
        scale: Divides the difference.
    """

    size: int = 112
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 127.5

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 1 <= self.size <= _LARGEST_SIDE:
            raise InputError(f"size {self.size!r}: give the side in pixels, 1 to {_LARGEST_SIDE}")
        if self.colour not in ("RGB", "BGR"):
            raise InputError(f"colour {self.colour!r}: give RGB or BGR")
        numbers = [*self.mean, self.scale] if isinstance(self.mean, tuple | list) and len(self.mean) == 3 else [None]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers) or self.scale <= 0:
            raise InputError(f"mean {self.mean!r}, scale {self.scale!r}: give three finite numbers, and one above 0")
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "scale", float(self.scale))

    def prepare(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's input, float32 (B, 3, size, size), of crops uint8 (B, S, S, 3) RGB."""
        crops_BSSC = resize(crops_BSSC, self.size)
        if self.colour == "BGR":
            crops_BSSC = crops_BSSC[..., ::-1]
        input_BSSC = (crops_BSSC - np.array(self.mean, np.float32)) / np.float32(self.scale)
        return np.ascontiguousarray(input_BSSC.transpose(0, 3, 1, 2))


PRESETS: Mapping[str, tuple[TeacherInput, str]] = {
    # InsightFace's networks exported from PyTorch, such as w600k_r50.onnx; those exported from MXNet normalise inside.
    "insightface": (TeacherInput(), "InsightFace's networks are for non-commercial research only"),
    # face_recognition_sface of OpenCV's zoo normalises inside.
    "sface": (TeacherInput(mean=(0.0, 0.0, 0.0), scale=1.0), "Apache-2.0"),
}
"""Input and licence of published ONNX files, by name."""


# --- ONNX ------------------------------------------------------------------------------------------------------------


class OnnxTeacher:
    """A teacher in an ONNX file, run by onnxruntime on the CPU.

    Args:
        path: The file.
        config: What its input is to be, or the name of one of `PRESETS`.
        licence: What its publisher lets one do with it; by default the preset's.
        output: The name of the features among several outputs.

    Layout (channels first or last), type (float32 or uint8) and side of the input are read from the file and held
    against `config`; whether it really takes batches is tried out, for files are wrong about it.
    Raises InputError where they do not agree, or the file is no network for faces.
    """

    def __init__(
        self, path: Path | str, config: TeacherInput | str, licence: str | None = None, output: str | None = None
    ) -> None:
        self._path = Path(path)
        self._input, preset_licence = _preset(config) if isinstance(config, str) else (config, NOT_STATED)
        self.size, self.licence = self._input.size, licence or preset_licence
        self._session = open_session(self._path)
        self._feed, self._is_last, self._is_bytes, self._batch = self._check_input()
        self._output = self._check_output(output)
        self.dimension = self._try_batches()
        self.identity = _file_identity(self._path, {**asdict(self._input), "output": self._output})

    def _check_input(self) -> tuple[str, bool, bool, int | None]:
        """Name, whether channels are last, whether it takes bytes, and the batch it insists on."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{self._path}: has {len(inputs)} inputs; a teacher has one, the faces")
        name, shape, kind = inputs[0].name, list(inputs[0].shape), inputs[0].type
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise InputError(
                f"{self._path}: input {name} has shape {shape}, not (batch, 3, side, side) or channels last"
            )
        if kind not in ("tensor(float)", "tensor(uint8)"):
            raise InputError(f"{self._path}: input {name} is {kind}; export it with float32 or uint8")
        if kind == "tensor(uint8)" and (any(self._input.mean) or self._input.scale != 1):
            raise InputError(f"{self._path}: input {name} takes bytes; declare mean 0 0 0 and scale 1")
        is_last = shape[1] != 3
        for side in shape[1:3] if is_last else shape[2:]:
            if isinstance(side, int) and side != self.size:
                raise InputError(f"{self._path}: input {name} has side {side}, declared is {self.size}; declare {side}")
        return name, is_last, kind == "tensor(uint8)", shape[0] if isinstance(shape[0], int) else None

    def _check_output(self, wanted: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if wanted is None and len(names) > 1:
            raise InputError(f"{self._path}: has outputs {', '.join(names)}; declare which one with `output`")
        if wanted is not None and wanted not in names:
            raise InputError(f"{self._path}: has no output {wanted}, but {', '.join(names)}")
        return wanted or str(names[0])

    def _try_batches(self) -> int:
        """D; sets the batch to 1 where two faces together do not give what each gives alone."""
        noise = np.random.default_rng(0).integers(0, 256, (2, self.size, self.size, 3), np.uint8)
        if self._batch is not None:
            return int(self._run(noise[:1]).shape[1])
        singly = np.concatenate([self._run(noise[:1]), self._run(noise[1:])])
        try:
            together = self._run(noise)
        except InputError:
            self._batch = 1
        else:
            tolerance = 1e-3 * max(float(np.abs(singly).max()), 1e-6)
            if together.shape != singly.shape or np.abs(together - singly).max() > tolerance:
                self._batch = 1
        return int(singly.shape[1])

    def _run(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        input_BCSS = self._input.prepare(crops_BSSC)
        count, batch = len(input_BCSS), self._batch or len(input_BCSS)
        if count < batch:  # a file that insists on more
            input_BCSS = np.concatenate([input_BCSS, np.repeat(input_BCSS[-1:], batch - count, axis=0)])
        if self._is_last:
            input_BCSS = np.ascontiguousarray(input_BCSS.transpose(0, 2, 3, 1))
        if self._is_bytes:
            input_BCSS = input_BCSS.astype(np.uint8)
        try:
            features = self._session.run([self._output], {self._feed: input_BCSS})[0]
        except Exception as error:  # onnxruntime's own kinds
            raise InputError(f"{self._path}: does not run ({first_line(error)}); is it a whole network?") from None
        if features.ndim < 2 or len(features) != batch:
            raise InputError(f"{self._path}: output {self._output} has shape {features.shape} for {batch} faces")
        features_BD: NDArray[np.float32] = features.reshape(batch, -1)[:count].astype(np.float32)
        return features_BD

    def embed(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of crops uint8 (B, S, S, 3) RGB. Raises InputError for other arrays."""
        check_crops(crops_BSSC)
        step = self._batch or _BATCH
        parts = [self._run(crops_BSSC[start : start + step]) for start in range(0, len(crops_BSSC), step)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)


def _preset(name: str) -> tuple[TeacherInput, str]:
    if name not in PRESETS:
        raise InputError(f"preset {name}: unknown; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _file_identity(path: Path, config: Mapping[str, Any]) -> str:
    with path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    return fingerprint({**config, "file": contents}, {})


# --- torch -----------------------------------------------------------------------------------------------------------


class _TorchTeacher:
    """A network of torch with its weights, folded for speed."""

    def __init__(self, net: nn.Module, dimension: int, config: TeacherInput, identity: str, licence: str) -> None:
        self._net, self._input = fold(net), config
        self.dimension, self.size, self.identity, self.licence = dimension, config.size, identity, licence

    @torch.inference_mode()
    def embed(self, crops_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, D) of crops uint8 (B, S, S, 3) RGB. Raises InputError for other arrays."""
        check_crops(crops_BSSC)
        features_BD = np.empty((len(crops_BSSC), self.dimension), np.float32)
        for start in range(0, len(crops_BSSC), _BATCH):
            input_BCSS = torch.from_numpy(self._input.prepare(crops_BSSC[start : start + _BATCH]))
            input_BCSS = input_BCSS.contiguous(memory_format=torch.channels_last)
            features_BD[start : start + _BATCH] = self._net(input_BCSS).numpy()
        return features_BD


class InceptionResnetV1Teacher(_TorchTeacher):
    """Inception-ResNet-v1 with weights in facenet-pytorch's names: 512 features of unit length at 160 pixels.

    Args:
        path: A .safetensors file, or a .pt file that holds nothing but tensors; the classifier in it is ignored.
        licence: What its publisher lets one do with it.

    Its publisher cropped faces more loosely than the 112-pixel template does; expect less than published accuracy.
    Raises InputError, with the names, where weights are missing, unexpected or of another shape.
    """

    def __init__(self, path: Path | str, licence: str = NOT_STATED) -> None:
        config = TeacherInput(160, "RGB", (127.5, 127.5, 127.5), 128.0)
        net, identity = _load_published(InceptionResnetV1, Path(path), "logits.", config)
        super().__init__(net, net.dimension, config, identity, licence)


class VGGFace2ResNet50Teacher(_TorchTeacher):
    """ResNet-50 trained on VGGFace2, names as in its PyTorch port: 2,048 pooled features at 224 pixels.

    Args:
        path: A .safetensors file, or a .pt file that holds nothing but tensors; the classifier in it is ignored.
        licence: What its publisher lets one do with it.

    Strides are Caffe's (see `resnet50.py`): weights trained with those of newer libraries load, and answer wrongly.
    Raises InputError, with the names, where weights are missing, unexpected or of another shape.
    """

    def __init__(self, path: Path | str, licence: str = NOT_STATED) -> None:
        config = TeacherInput(224, "BGR", (91.4953, 103.8827, 131.0912), 1.0)
        net, identity = _load_published(ResNet50, Path(path), "fc.", config)
        super().__init__(net, net.dimension, config, identity, licence)


def _load_published(kind: type[nn.Module], path: Path, classifier: str, config: TeacherInput) -> tuple[nn.Module, str]:
    """The network with a file's weights, and its identity."""
    with torch.device("meta"):  # no first weights, which the file's would replace
        net = kind().to_empty(device="cpu")
    given = {name: tensor for name, tensor in _read_state(path).items() if not name.startswith(classifier)}
    counters = [name for name in net.state_dict() if name.endswith("num_batches_tracked")]
    load_into(net, dict.fromkeys(counters, torch.tensor(0)) | given, path)  # old files have no counters
    for name, tensor in net.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds values that are not finite; fetch the file again")
    return net, fingerprint({"kind": kind.__name__, **asdict(config)}, net.state_dict())


def _read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file or of torch's own kind, out of what people wrap them in."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    state: Any = read_tensors(path) if path.suffix == ".safetensors" else _load_tensors_only(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no weights by name; save a state dict")
    if all(str(name).startswith("module.") for name in state):  # saved from a parallel run
        return {str(name).removeprefix("module."): value for name, value in state.items()}
    return {str(name): value for name, value in state.items()}


def _load_tensors_only(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip files and torch
        raise InputError(
            f"{path}: is no file of tensors alone ({first_line(error)}); pickles of other things are not opened, "
            "convert it to .safetensors where you trust it"
        ) from None


class SmallTeacher(_TorchTeacher):
    """The network that `train_teacher` makes, for 112 pixels, from its folder or a Hub id.

    Raises InputError where the folder is of another kind, or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = model_folder(folder)
        net, config = load_teacher_net(folder)
        identity = fingerprint(config, net.state_dict())
        super().__init__(net, net.config.dimension, TeacherInput(), identity, read_licence(folder))


# --- which of them ---------------------------------------------------------------------------------------------------


def load_teacher(path: Path | str) -> Teacher:
    """The teacher in a file or folder, told apart by what is in it and by a `teacher.json` beside it.

    Args:
        path: A folder that `train_teacher` wrote, or a Hub id of one; an .onnx file; published weights as
            .safetensors or .pt; or a folder with such a file and its `teacher.json`.

    Raises InputError where it is none of these, or where an .onnx file's input is not declared.
    """
    place = Path(path)
    declared: dict[str, Any] = {}
    if place.is_file():
        declared = _declaration(place.parent / _DECLARATION)
        if declared.get("file", place.name) != place.name:
            declared = {}  # it is of another file
    elif (place / _DECLARATION).is_file():
        declared = _declaration(place / _DECLARATION)
        if "file" not in declared:
            raise InputError(f'{place / _DECLARATION}: does not name its file; add "file"')
        place = place / declared["file"]
    else:
        return SmallTeacher(path)
    if place.suffix == ".onnx":
        return _declared_onnx(place, declared)
    if place.suffix in _WEIGHT_FILES:
        return _published(place, declared.get("licence", NOT_STATED))
    raise InputError(f"{place}: is no teacher; give an .onnx, .safetensors or .pt file, or a folder")


def _declaration(path: Path) -> dict[str, Any]:
    """What a `teacher.json` says, its names and kinds checked; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        declared = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({first_line(error)}); mend it") from None
    known = [*_TEXTS, *_INPUTS]
    if not isinstance(declared, dict) or (unknown := [name for name in declared if name not in known]):
        named = f"does not know {', '.join(unknown)}" if isinstance(declared, dict) else "is no mapping"
        raise InputError(f"{path}: {named}; it may hold {', '.join(known)}")
    for name in _TEXTS:
        if not isinstance(declared.get(name, ""), str):
            raise InputError(f"{path}: {name} is {declared[name]!r}; give a text")
    if Path(declared.get("file", "")).name != declared.get("file", ""):
        raise InputError(f"{path}: file {declared['file']!r} is not in this folder; give a bare name")
    return declared


def _declared_onnx(path: Path, declared: Mapping[str, Any]) -> OnnxTeacher:
    shape = {name: declared[name] for name in _INPUTS if name in declared}
    licence, output = declared.get("licence"), declared.get("output")
    if "preset" in declared:
        config, preset_licence = _preset(declared["preset"])
        return OnnxTeacher(path, replace(config, **shape), licence or preset_licence, output)
    if missing := [name for name in _INPUTS if name not in shape]:
        raise InputError(
            f'{path}: its input is not declared; put {_DECLARATION} beside it with "preset" '
            f"({', '.join(PRESETS)}) or with {', '.join(missing)}"
        )
    return OnnxTeacher(path, TeacherInput(**shape), licence, output)


def _published(path: Path, licence: str) -> Teacher:
    names = _read_state(path)
    if "conv2d_1a.conv.weight" in names:
        return InceptionResnetV1Teacher(path, licence)
    if "layer1.0.conv1.weight" in names:
        return VGGFace2ResNet50Teacher(path, licence)
    raise InputError(
        f"{path}: holds neither conv2d_1a.conv.weight (Inception-ResNet-v1) nor layer1.0.conv1.weight (ResNet-50); "
        "export other networks as ONNX"
    )
