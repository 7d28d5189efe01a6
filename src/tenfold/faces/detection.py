"""Where faces are in a picture: a box and five points each, by detectors that can be exchanged.

H height · W width · C = 3 channels. Points are x, y in pixels, in the order of the ArcFace template: the eye, nose and
mouth corners as seen, from left to right: left eye, right eye, nose, left corner, right corner of the mouth.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.pictures import printable

__all__ = ["TEMPLATE_52", "Detection", "Detector", "HaarDetector", "YuNetDetector"]

# The five points of a crop of 112 x 112 pixels to which ArcFace's networks are trained.
TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)

_WINDOW = 24  # pixels; the cascade's own window has 20
_LONGEST = 4096  # no picture is enlarged beyond it
_NEIGHBOURS = 3
_SURE = 108.0  # texture scores less; so do some faces, which are believed if they are large
_REACH = 0.24  # half of the part of a face that is searched for an eye
_EYE_PIXELS = 60  # the side to which that part is brought
# Measured on the neutral faces of the Face Research Lab London Set, in parts of the box's side: where the eyes lie in
# a box of the frontal cascade, and by how much the cascade of eyes is off.
_EYES = np.array([[0.284, 0.387], [0.710, 0.387]])
_EYE_BIAS = np.array([[-0.010, 0.006], [0.003, 0.009]])


@dataclass(frozen=True)
class Detection:
    """A face: `box` x, y, width, height and `points_52` (5, 2), float32 in pixels; `score`, higher is surer."""

    box: NDArray[np.float32]
    points_52: NDArray[np.float32]
    score: float


class Detector(Protocol):
    """Finds faces. `identity` names the method and its settings: crops are cached under it."""

    @property
    def identity(self) -> str:
        """What distinguishes its crops from those of another detector."""

    def detect(self, picture_HWC: NDArray[np.uint8]) -> list[Detection]:
        """The faces of an RGB picture uint8 (H, W, 3), the largest first."""


def points_from_eyes(left_2: NDArray[np.floating[Any]], right_2: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Five points float32 (5, 2) of which only the eyes are known: the template, moved so that its eyes lie on them."""
    template = TEMPLATE_52.astype(np.float64) @ [1.0, 1.0j]
    left, right = complex(*left_2), complex(*right_2)
    points = (template - template[0]) * ((right - left) / (template[1] - template[0])) + left
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)


class HaarDetector:
    """OpenCV's cascades for frontal faces and for eyes: no download, a CPU, faces turned by up to about 15 degrees.

    Pictures are enlarged or shrunk so that the smallest face to be found fits the cascade's window. Where both eyes
    are found, they give the five points; elsewhere the box does, from where eyes lie in such boxes on average.

    Args:
        smallest: Side in pixels of the smallest face to be found, at least 8. By default a fiftieth of the picture's
            longer side, and never below 16: below that a cascade finds little but texture.

    Raises:
        InputError: OpenCV is not installed, or has no cascades (version 5), or `smallest` is below 8.
    """

    def __init__(self, smallest: int | None = None) -> None:
        if smallest is not None and smallest < 8:
            raise InputError(f"smallest face of {smallest} pixels: no cascade finds faces below 8; give 8 or more")
        self._cv2 = _opencv()
        self._smallest = smallest
        self._faces = self._cascade("haarcascade_frontalface_alt.xml")
        self._eyes = self._cascade("haarcascade_eye_tree_eyeglasses.xml")

    @property
    def identity(self) -> str:
        """The method, its version and its setting."""
        return f"haar-1 opencv-{self._cv2.__version__} smallest-{self._smallest}"

    def detect(self, picture_HWC: NDArray[np.uint8]) -> list[Detection]:
        """The faces of an RGB picture uint8 (H, W, 3), the largest first.

        `score` is what the cascade's last stage gives. Unsure ones less than half as wide as the largest are left out.
        """
        grey_HW = self._cv2.cvtColor(picture_HWC, self._cv2.COLOR_RGB2GRAY)
        longest = max(grey_HW.shape)
        scale = _WINDOW / (self._smallest or max(16.0, longest / 50.0))
        if min(grey_HW.shape) * scale < _WINDOW or longest * scale > _LONGEST:
            scale = min(max(scale, _WINDOW / min(grey_HW.shape)), _LONGEST / longest)
        if min(grey_HW.shape) * scale < _WINDOW - 1:
            return []
        boxes, _, scores = self._faces.detectMultiScale3(
            self._resized(grey_HW, scale), 1.05, _NEIGHBOURS, minSize=(_WINDOW, _WINDOW), outputRejectLevels=True
        )
        found = [
            Detection((box / scale).astype(np.float32), self._points(grey_HW, box / scale), float(score))
            for box, score in zip(np.reshape(boxes, (-1, 4)), np.ravel(scores), strict=True)
        ]
        largest = max((float(face.box[2]) for face in found), default=0.0)
        found = [face for face in found if face.score >= _SURE or face.box[2] > largest / 2]
        return sorted(found, key=lambda face: -float(face.box[2]))

    def _points(self, grey_HW: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float32]:
        corner, side = box[:2], box[2]
        expected = corner + side * _EYES
        eyes = [self._eye(grey_HW, middle, side) for middle in expected]
        if eyes[0] is None or eyes[1] is None:
            return points_from_eyes(*expected)
        return points_from_eyes(eyes[0] - side * _EYE_BIAS[0], eyes[1] - side * _EYE_BIAS[1])

    def _eye(self, grey_HW: NDArray[np.uint8], middle: NDArray[np.float64], side: float) -> NDArray[np.float64] | None:
        """The middle of the eye that the cascade finds nearest to where it should be, within a tenth of the face."""
        start = np.maximum(middle - _REACH * side, 0).astype(int)
        stop = np.maximum(middle + _REACH * side, 0).astype(int)
        part = grey_HW[start[1] : stop[1], start[0] : stop[0]]
        if min(part.shape) < 4:
            return None
        scale = _EYE_PIXELS / min(part.shape)
        found = self._eyes.detectMultiScale(self._resized(part, scale), 1.1, 2, minSize=(_EYE_PIXELS // 3,) * 2)
        corners_sizes = np.reshape(found, (-1, 2, 2)).astype(np.float64)
        middles = (corners_sizes[:, 0] + corners_sizes[:, 1] / 2) / scale + start
        distances = np.linalg.norm(middles - middle, axis=1)
        if not len(distances) or distances.min() > 0.1 * side:
            return None
        nearest: NDArray[np.float64] = middles[np.argmin(distances)]
        return nearest

    def _resized(self, grey_HW: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
        how = self._cv2.INTER_AREA if scale < 1 else self._cv2.INTER_LINEAR
        resized: NDArray[np.uint8] = self._cv2.resize(grey_HW, None, fx=scale, fy=scale, interpolation=how)
        return resized

    def _cascade(self, name: str) -> Any:
        folder = getattr(getattr(self._cv2, "data", None), "haarcascades", "")
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(
                f"OpenCV {self._cv2.__version__} has no {name}: version 5 left the cascades out; "
                "pip install 'opencv-python-headless<5', or use YuNet"
            )
        return self._cv2.CascadeClassifier(str(path))


class YuNetDetector:
    """OpenCV's YuNet, a small network that finds turned and small faces and five true points; its ONNX is yours.

    Args:
        path: `face_detection_yunet_2023mar.onnx` or a like model; it is not part of this package.
        threshold: Lowest score of a face, in (0, 1).

    Raises:
        InputError: There is no such file, or OpenCV cannot load it.
    """

    def __init__(self, path: Path | str, threshold: float = 0.7) -> None:
        if not 0.0 < threshold < 1.0:
            raise InputError(f"threshold {threshold}: a score of YuNet lies between 0 and 1")
        self._cv2 = _opencv()
        self._name = printable(path)
        try:
            self._identity = f"yunet {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]} {threshold}"
        except OSError as error:
            raise InputError(
                f"{self._name}: cannot be read ({error.strerror}); give the path of YuNet's ONNX"
            ) from None
        try:
            self._net = self._cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
        except self._cv2.error as error:
            raise InputError(f"{self._name}: OpenCV cannot load it ({_reason(error)}); is it YuNet's ONNX?") from None

    @property
    def identity(self) -> str:
        """The method, the model's hash and the threshold."""
        return self._identity

    def detect(self, picture_HWC: NDArray[np.uint8]) -> list[Detection]:
        """The faces of an RGB picture uint8 (H, W, 3), the largest first; InputError where the model is another one."""
        height, width = picture_HWC.shape[:2]
        scale = min(max(1.0, 320.0 / max(height, width)), _LONGEST / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        try:
            self._net.setInputSize(size)
            picture = self._cv2.resize(self._cv2.cvtColor(picture_HWC, self._cv2.COLOR_RGB2BGR), size)
            _, rows = self._net.detect(picture)
        except self._cv2.error as error:
            raise InputError(f"{self._name}: OpenCV cannot run it ({_reason(error)}); is it YuNet's ONNX?") from None
        rows = np.reshape(np.empty(0) if rows is None else rows, (-1, 15)).astype(np.float32)
        rows[:, 0:14:2] *= width / size[0]
        rows[:, 1:14:2] *= height / size[1]
        found = [Detection(row[:4], row[4:14].reshape(5, 2), float(row[14])) for row in rows if np.isfinite(row).all()]
        return sorted(found, key=lambda face: -float(face.box[2] * face.box[3]))


def _opencv() -> Any:
    try:
        import cv2  # noqa: PLC0415 - the room's import stays light
    except ImportError:
        raise InputError("finding faces needs OpenCV: pip install 'tenfold[faces]'") from None
    return cv2


def _reason(error: Exception) -> str:
    """OpenCV's own words, without where in its sources they were said."""
    return (str(getattr(error, "err", "") or error).strip() or "no reason given").splitlines()[0]
