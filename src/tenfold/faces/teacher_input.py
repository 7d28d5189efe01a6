"""What a teacher is, and what a network expects of the faces that it is given."""

# B batch · S side of a crop · C = 3 channels · D features of the teacher

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.inference import resize

__all__ = ["PRESETS", "Teacher", "TeacherInput", "preset"]

_LARGEST_SIDE = 1024


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


def preset(name: str) -> tuple[TeacherInput, str]:
    """Input and licence of a preset; InputError, with the names there are, for another."""
    if name not in PRESETS:
        raise InputError(f"preset {name}: unknown; there are {', '.join(PRESETS)}")
    return PRESETS[name]
