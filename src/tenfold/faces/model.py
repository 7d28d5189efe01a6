"""The networks of the bridge: student S, adapter A, and a teacher T small enough to be trained by oneself.

    t_BD = T(x_B3SS)      a_Bd = A(t_BD)      s_Bd = S(z_B3rr)

B batch · S side of a crop (112) · r side of a small face · D teacher's dimension · d student's dimension (128)

From the paper (Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 29, 2020) are
the student's size, 0.21 M parameters, and that a frozen teacher's features pass an adapter before they are mimicked.
Its figures of the networks were not at hand: every layer below is our own choice.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tenfold.core.artifacts import load_into, load_weights
from tenfold.core.errors import InputError

__all__ = [
    "Adapter",
    "AdapterConfig",
    "StudentConfig",
    "StudentNet",
    "TeacherNet",
    "TeacherNetConfig",
    "describe",
    "load_adapter",
    "load_student",
    "load_teacher_net",
    "to_input",
]

_STAGES = ((24, 24), (32, 32), (48, 48, 64), (64, 72, 72))
_LEAST_CHANNELS = 4
_STRIDE_FROM = 32  # px: from here on the first convolution halves the side, for about 4 M multiplications per face


def to_input(crops_NSSC: NDArray[np.uint8] | Tensor) -> Tensor:
    """RGB bytes (N, S, S, 3) as a network takes them: float32 (N, 3, S, S), byte / 127.5 - 1, -1 to 1."""
    if isinstance(crops_NSSC, np.ndarray):
        # torch warns of memory that it may not write to, such as a mapped file's.
        crops_NSSC = torch.from_numpy(np.require(crops_NSSC, requirements=["C", "W"]))
    pictures = crops_NSSC
    if pictures.dim() != 4 or pictures.shape[3] != 3 or pictures.dtype != torch.uint8:
        shape = "x".join(map(str, pictures.shape))
        raise InputError(f"faces are {shape} of {pictures.dtype}; give RGB bytes, (N, side, side, 3) of uint8")
    return pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


# --- the student -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudentConfig:
    """The shape of a student.

    Attributes:
        size: Side in pixels of the faces it is made for, 8 to 112; other sizes work too, less well or slower. From
            32 px on the first convolution has a stride of 2 (our choice).
        dimension: d, numbers of an embedding (our choice; the paper's was not at hand).
        width: Scales the channels of all convolutions; 1.0 gives the paper's 0.21 M parameters.

    Raises InputError for a value out of range.
    """

    size: int = 16
    dimension: int = 128
    width: float = 1.0

    def __post_init__(self) -> None:
        _check("size", self.size, int, 8, 112)
        _check("dimension", self.dimension, int, 1, 4096)
        _check("width", self.width, (int, float), 0.1, 8)

    @property
    def channels(self) -> tuple[tuple[int, ...], ...]:
        """Channels of each convolution, stage by stage."""
        return tuple(tuple(max(_LEAST_CHANNELS, round(c * self.width)) for c in stage) for stage in _STAGES)


class StudentNet(nn.Module):
    """Ten 3x3 convolutions in four stages, with a pooling between stages, a global average, and one linear layer.

    At the default 219,464 parameters and 4.03 M multiplications for a face of 16 px. It is convolutional up to the
    average, so one network embeds faces of several sizes. Our design; the paper gives the count, 0.21 M.
    """

    def __init__(self, config: StudentConfig | None = None) -> None:
        super().__init__()
        self.config = config or StudentConfig()
        self.stages = nn.ModuleList()
        before, stride = 3, 2 if self.config.size >= _STRIDE_FROM else 1
        for stage in self.config.channels:
            layers: list[nn.Module] = []
            for channels in stage:
                layers += [nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
                before, stride = channels, 1
            self.stages.append(nn.Sequential(*layers))
        self.head = nn.Linear(before, self.config.dimension)

    def pooled(self, z_B3rr: Tensor) -> Tensor:
        """What the linear layer gets: float32 (B, 72 at the default width), 0 and above."""
        x = z_B3rr
        for number, stage in enumerate(self.stages):
            if number > 0 and min(x.shape[2:]) > 1:
                x = functional.max_pool2d(x, 2)
            x = stage(x)
        return x.mean((2, 3))

    def forward(self, z_B3rr: Tensor) -> Tensor:
        """Embeddings s, float32 (B, d), not normalised, of faces in the range of `to_input`."""
        s_Bd: Tensor = self.head(self.pooled(z_B3rr))
        return s_Bd


# --- the adapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdapterConfig:
    """The shape of an adapter; both layers' sizes are our choice.

    Attributes:
        features: D, numbers of a teacher's feature.
        hidden: Numbers between the two linear layers.
        dimension: d, numbers of the student's embedding.

    Raises InputError for a value out of range.
    """

    features: int
    hidden: int = 512
    dimension: int = 128

    def __post_init__(self) -> None:
        for name in ("features", "hidden", "dimension"):
            _check(name, getattr(self, name), int, 1, 1 << 16)


class Adapter(nn.Module):
    """Carries a teacher's features to the public faces: linear, batch norm, PReLU, linear (our choice of layers)."""

    def __init__(self, features: int, hidden: int = 512, dimension: int = 128) -> None:
        super().__init__()
        self.config = AdapterConfig(features, hidden, dimension)
        self.body = nn.Sequential(
            nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.PReLU(), nn.Linear(hidden, dimension)
        )

    def forward(self, t_BD: Tensor) -> Tensor:
        """Adapted features a, float32 (B, d), not normalised, of a teacher's features (B, D)."""
        a_Bd: Tensor = self.body(t_BD.float())
        return a_Bd


# --- a small teacher -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TeacherNetConfig:
    """The shape of the small teacher.

    Attributes:
        dimension: D, numbers of a feature.

    Raises InputError for a value out of range.
    """

    dimension: int = 256

    def __post_init__(self) -> None:
        _check("dimension", self.dimension, int, 1, 4096)


class TeacherNet(nn.Module):
    """A residual network of seven blocks for crops of 112 px, 2.9 M parameters, about 0.1 G multiplications.

    It stands for the paper's big teacher where none is at hand, so that all of the method can be tried on two cores.
    """

    def __init__(self, config: TeacherNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or TeacherNetConfig()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        plan = ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.blocks = nn.Sequential(*(_Residual(*block) for block in plan))
        self.head = nn.Linear(256, self.config.dimension)

    def forward(self, x_B3SS: Tensor) -> Tensor:
        """Features t, float32 (B, D), not normalised, of crops in the range of `to_input`."""
        x = functional.max_pool2d(self.stem(x_B3SS), 2)
        t_BD: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return t_BD


class _Residual(nn.Module):
    """Two convolutions and a short cut past them."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.short = nn.Sequential()
        if stride != 1 or before != channels:
            self.short = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.short(x))


# --- model folders ---------------------------------------------------------------------------------------------------

_KINDS = {"student": StudentConfig, "adapter": AdapterConfig, "teacher": TeacherNetConfig}
_Network = TypeVar("_Network", StudentNet, Adapter, TeacherNet)


def describe(network: StudentNet | Adapter | TeacherNet) -> dict[str, Any]:
    """What `config.json` of a model folder must hold to build a network again: `kind` and its shape."""
    kind = next(kind for kind, config in _KINDS.items() if isinstance(network.config, config))
    return {"kind": kind} | asdict(network.config)


def load_student(folder: Path | str) -> tuple[StudentNet, dict[str, Any]]:
    """A student in evaluation mode and the config of its folder; a run's folder stands for its best, else its last.

    Raises InputError for what is missing, damaged or of another kind.
    """
    place, config, weights = _read(folder, "student")
    return _fill(StudentNet(StudentConfig(**_shape(place, config, StudentConfig))), weights, place), config


def load_adapter(folder: Path | str) -> tuple[Adapter, dict[str, Any]]:
    """An adapter in evaluation mode and the config of its folder, as `load_student`."""
    place, config, weights = _read(folder, "adapter")
    return _fill(Adapter(**_shape(place, config, AdapterConfig)), weights, place), config


def load_teacher_net(folder: Path | str) -> tuple[TeacherNet, dict[str, Any]]:
    """A small teacher in evaluation mode and the config of its folder, as `load_student`."""
    place, config, weights = _read(folder, "teacher")
    return _fill(TeacherNet(TeacherNetConfig(**_shape(place, config, TeacherNetConfig))), weights, place), config


def _read(folder: Path | str, kind: str) -> tuple[Path | str, dict[str, Any], dict[str, Tensor]]:
    inner = (Path(folder) / name for name in ("best", "last"))
    place = next((x for x in inner if (x / "model.safetensors").is_file()), folder)
    config, weights = load_weights(place)
    if config.get("kind") != kind:
        raise InputError(f"{place}: is of kind {config.get('kind')!r}, not {kind!r}; give the folder of a {kind}")
    return place, config, weights


def _shape(place: Path | str, config: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    if missing := [name for name in names if name not in config]:
        raise InputError(f"{place}/config.json: misses {', '.join(missing)}; was it saved by another version?")
    return {name: config[name] for name in names}


def _fill(network: _Network, weights: Mapping[str, Tensor], place: Path | str) -> _Network:
    load_into(network, weights, place)
    network.eval()
    return network


def _check(name: str, value: object, kind: type | tuple[type, ...], least: float, most: float) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:  # type: ignore[operator]
        raise InputError(f"{name} is {value!r}; it must be a number from {least} to {most:,}")
