"""Teachers: big face networks, frozen, whose training data nobody here may see. Files are the user's, never fetched.

What a file cannot say about its input (order of colours, mean, scale, side) is declared: by a preset's name, by
arguments, or by a `teacher.json` beside the file, such as

    {"preset": "insightface", "licence": "non-commercial research"}
    {"file": "net.onnx", "size": 112, "colour": "BGR", "mean": [127.5, 127.5, 127.5], "scale": 128, "licence": "MIT"}

A wrong declaration raises no error and costs much accuracy: take it from whoever published the file.
"""

# B batch · S side of a crop · C = 3 channels · D features of the teacher

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tenfold.core.artifacts import load_into, read_state
from tenfold.core.errors import InputError
from tenfold.faces.dlib_teacher import DlibTeacher
from tenfold.faces.inception_resnet import InceptionResnetV1
from tenfold.faces.inference import (
    NOT_STATED,
    check_crops,
    fingerprint,
    first_line,
    fold,
    model_folder,
    read_licence,
)
from tenfold.faces.model import load_teacher_net
from tenfold.faces.onnx_teacher import OnnxTeacher
from tenfold.faces.resnet50 import ResNet50
from tenfold.faces.teacher_input import PRESETS, Teacher, TeacherInput, preset

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
_TEXTS = ("file", "preset", "licence", "output")
_INPUTS = ("size", "colour", "mean", "scale")
_WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")


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
    given = {name: tensor for name, tensor in read_state(path).items() if not name.startswith(classifier)}
    counters = [name for name in net.state_dict() if name.endswith("num_batches_tracked")]
    load_into(net, dict.fromkeys(counters, torch.tensor(0)) | given, path)  # old files have no counters
    for name, tensor in net.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds values that are not finite; fetch the file again")
    return net, fingerprint({"kind": kind.__name__, **asdict(config)}, net.state_dict())


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
            .safetensors or .pt; a folder with such a file and its `teacher.json`; or "dlib", which brings its own.

    Raises InputError where it is none of these, or where an .onnx file's input is not declared.
    """
    if str(path) == "dlib":
        return DlibTeacher()
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
        if declared["file"] == "dlib":
            return DlibTeacher()
        place = place / declared["file"]
    elif place.suffix in (".onnx", *_WEIGHT_FILES):
        raise InputError(f"{place}: no such file; check the path")
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
        config, preset_licence = preset(declared["preset"])
        return OnnxTeacher(path, replace(config, **shape), licence or preset_licence, output)
    if missing := [name for name in _INPUTS if name not in shape]:
        raise InputError(
            f'{path}: its input is not declared; put {_DECLARATION} beside it with "preset" '
            f"({', '.join(PRESETS)}) or with {', '.join(missing)}"
        )
    return OnnxTeacher(path, TeacherInput(**shape), licence, output)


def _published(path: Path, licence: str) -> Teacher:
    names = read_state(path)
    if "conv2d_1a.conv.weight" in names:
        return InceptionResnetV1Teacher(path, licence)
    if "layer1.0.conv1.weight" in names:
        return VGGFace2ResNet50Teacher(path, licence)
    raise InputError(
        f"{path}: holds neither conv2d_1a.conv.weight (Inception-ResNet-v1) nor layer1.0.conv1.weight (ResNet-50); "
        "export other networks as ONNX"
    )
