"""Portraits: the face of a picture as a crop whose five points lie where every network expects them.

H height · W width · S side of a crop · C = 3 channels

The crop is the picture under the similarity (rotation, one scale, shift) q = a p + b that maps the points p to the
template's points q with the least squares. With points as complex numbers and bars for means:

    a = sum conj(p - p̄) (q - q̄) / sum |p - p̄|^2,    b = q̄ - a p̄
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces.detection import TEMPLATE_52, Detection, Detector, HaarDetector, YuNetDetector
from tenfold.faces.pictures import Source, read_picture, source_name

__all__ = [
    "Detection",
    "Detector",
    "HaarDetector",
    "Portrait",
    "Status",
    "YuNetDetector",
    "align",
    "portrait",
]

Status = Literal["ok", "no face", "several faces", "too small", "unreadable"]

SIDE = 112  # of the template, in pixels


@dataclass(frozen=True)
class Portrait:
    """What became of one picture.

    Attributes:
        crop: uint8 (S, S, 3) RGB, or None where there is no face to use.
        box: x, y, width, height of the face in the picture, float32 (4,), or None.
        points: Its five points, float32 (5, 2), or None.
        status: "ok" and "several faces" (of which the largest was taken) have a crop, others none.
        message: One line that names the picture and what to do; empty with "ok".
    """

    crop: NDArray[np.uint8] | None
    box: NDArray[np.float32] | None
    points: NDArray[np.float32] | None
    status: Status
    message: str


def align(picture_HWC: NDArray[np.uint8], points_52: NDArray[np.float32], side: int = SIDE) -> NDArray[np.uint8]:
    """The face as uint8 (side, side, 3), its points on ArcFace's template scaled to `side`; black beyond the picture.

    A face larger than the crop is averaged over areas, so that nothing is aliased.

    Raises:
        InputError: The points are not five, not finite, or all in one place.
    """
    if np.shape(points_52) != (5, 2) or not np.isfinite(points_52).all():
        raise InputError(f"points of shape {np.shape(points_52)}: a face has five finite points x, y")
    turn, shift = _similarity(np.asarray(points_52, np.float64), TEMPLATE_52.astype(np.float64) * (side / SIDE))
    return _warped(picture_HWC, turn, shift, side)


def portrait(
    source: Source,
    detector: Detector | None,
    side: int = SIDE,
    *,
    name: str = "",
    box: NDArray[np.float32] | None = None,
    smallest: int = 10,
) -> Portrait:
    """One picture as a portrait; what is wrong with it is a status, never an exception.

    Args:
        source: As for `read_picture`.
        detector: Finds the face, which is aligned. None: the picture is a crop already, and is resized to a square.
        side: Side of the crop in pixels.
        name: What messages call the picture; by default its path.
        box: x, y, width, height of the face, where it is known: only it and a margin are looked at.
        smallest: A face of fewer pixels a side is "too small".
    """
    if side < 1:
        raise InputError(f"side {side}: a crop has at least one pixel a side; networks here take 112")
    try:
        picture_HWC = read_picture(source, name)
    except InputError as error:
        return Portrait(None, None, None, "unreadable", str(error))
    name = name or source_name(source)
    if box is not None:
        return _boxed(picture_HWC, np.asarray(box, np.float32), detector, side, name, smallest)
    if detector is None:
        return _given(picture_HWC, side, name, smallest)
    return _found(picture_HWC, detector, side, name, smallest)


def _found(picture_HWC: NDArray[np.uint8], detector: Detector, side: int, name: str, smallest: int) -> Portrait:
    if min(picture_HWC.shape[:2]) < smallest:
        return _too_small(picture_HWC.shape[1], picture_HWC.shape[0], name, smallest)
    faces = detector.detect(picture_HWC)
    if not faces:
        advice = "check that it is frontal, lit and upright, or give a crop"
        return Portrait(None, None, None, "no face", f"{name}: no face was found; {advice}")
    face = faces[0]
    if float(face.box[2:].min()) < smallest:
        return _too_small(int(face.box[2]), int(face.box[3]), name, smallest)
    try:
        crop = align(picture_HWC, face.points_52, side)
    except InputError as error:
        return Portrait(None, None, None, "no face", f"{name}: {error}")
    if len(faces) == 1:
        return Portrait(crop, face.box, face.points_52, "ok", "")
    message = f"{name}: has {len(faces)} faces, the largest was taken; cut out the one you mean"
    return Portrait(crop, face.box, face.points_52, "several faces", message)


def _given(picture_HWC: NDArray[np.uint8], side: int, name: str, smallest: int) -> Portrait:
    height, width = picture_HWC.shape[:2]
    if min(height, width) < smallest:
        return _too_small(width, height, name, smallest)
    if (picture_HWC == picture_HWC[0, 0]).all():
        return Portrait(None, None, None, "no face", f"{name}: is of one colour all over; give a picture of a face")
    box = np.array([0, 0, width, height], np.float32)
    return Portrait(_resized(picture_HWC, side, side), box, None, "ok", "")


def _boxed(
    picture_HWC: NDArray[np.uint8],
    box: NDArray[np.float32],
    detector: Detector | None,
    side: int,
    name: str,
    smallest: int,
) -> Portrait:
    """The portrait in a given box: aligned where a detector finds its points, else the box made square."""
    height, width = picture_HWC.shape[:2]
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
        return Portrait(None, None, None, "too small", f"{name}: box {box.tolist()} has no area; correct it")
    corner, size = box[:2].astype(np.float64), box[2:].astype(np.float64)
    if (corner >= (width, height)).any() or (corner + size <= 0).any():
        where = f"outside the picture of {width} x {height}"
        return Portrait(None, None, None, "no face", f"{name}: box {box.tolist()} lies {where}; correct it")
    if size.min() < smallest:
        return _too_small(int(size[0]), int(size[1]), name, smallest)
    inside = None if detector is None else _face_in(picture_HWC, box, detector, side)
    if inside is not None:
        return inside
    reach = float(size.max())
    scale, half = side / reach, 0.5 + 0.5j  # from the middle of a pixel to its edge
    first = complex(*(corner + size / 2 - reach / 2))
    return Portrait(_warped(picture_HWC, scale, scale * (half - first) - half, side), box, None, "ok", "")


def _face_in(
    picture_HWC: NDArray[np.uint8], box: NDArray[np.float32], detector: Detector, side: int
) -> Portrait | None:
    """The portrait of the face that a detector finds in a box, looking around it; None where it finds none there."""
    height, width = picture_HWC.shape[:2]
    start = np.clip(box[:2] - box[2:] / 2, 0, None).astype(int)
    stop = np.minimum(np.ceil(box[:2] + box[2:] * 1.5), (width, height)).astype(int)
    shift = start.astype(np.float32)
    found = detector.detect(np.ascontiguousarray(picture_HWC[start[1] : stop[1], start[0] : stop[0]]))
    faces = [(face.box + np.concatenate([shift, [0, 0]]).astype(np.float32), face.points_52 + shift) for face in found]
    near, points = max(faces, key=lambda face: _overlap(face[0], box), default=(None, None))
    if near is None or points is None or _overlap(near, box) < 0.2:
        return None
    try:
        return Portrait(align(picture_HWC, points, side), near, points, "ok", "")
    except InputError:
        return None


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Common area of two boxes as a part of what both cover."""
    ends = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = float(np.prod(np.clip(ends - np.maximum(one[:2], other[:2]), 0, None)))
    return common / (float(np.prod(one[2:])) + float(np.prod(other[2:])) - common + 1e-9)


def _too_small(width: int, height: int, name: str, smallest: int) -> Portrait:
    message = f"{name}: has {width} x {height} pixels of face, fewer than {smallest} a side; give a larger picture"
    return Portrait(None, None, None, "too small", message)


def _similarity(points_52: NDArray[np.float64], onto_52: NDArray[np.float64]) -> tuple[complex, complex]:
    """`turn` and `shift` of q = turn * p + shift, over points as complex numbers x + iy."""
    p, q = points_52 @ [1.0, 1.0j], onto_52 @ [1.0, 1.0j]
    p_mean, q_mean = p.mean(), q.mean()
    spread = float(np.sum(np.abs(p - p_mean) ** 2))
    if spread <= 1e-9:
        raise InputError("the five points of the face lie in one place; give points of a face")
    turn = complex(np.sum(np.conj(p - p_mean) * (q - q_mean)) / spread)
    if abs(turn) <= 1e-6:
        raise InputError("the five points are mirrored or too far apart; give them as seen, from left to right")
    return turn, complex(q_mean - turn * p_mean)


def _warped(picture_HWC: NDArray[np.uint8], turn: complex, shift: complex, side: int) -> NDArray[np.uint8]:
    """The picture under q = turn * p + shift, uint8 (side, side, 3): the part that shows, shrunk, then turned.

    Pixel centres have whole coordinates, so a picture shrunk by s has its pixel x at (x + 0.5) / s - 0.5.
    """
    import cv2  # noqa: PLC0415

    corners = (np.array([-1 - 1j, side - 1j, -1 + side * 1j, side + side * 1j]) - shift) / turn
    margin, whole = 2.0 / abs(turn), picture_HWC.shape[1::-1]
    start = np.floor([corners.real.min() - margin, corners.imag.min() - margin]).clip(0, whole).astype(int)
    stop = np.ceil([corners.real.max() + margin + 1, corners.imag.max() + margin + 1]).clip(0, whole).astype(int)
    part = picture_HWC[start[1] : stop[1], start[0] : stop[0]]
    if part.size == 0:
        return np.zeros((side, side, 3), np.uint8)
    shift = shift + turn * complex(*start)
    if abs(turn) < 1.0:
        height, width = part.shape[:2]
        size = (max(1, round(width * abs(turn))), max(1, round(height * abs(turn))))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        return _affine(part, turn, shift, np.array([width / size[0], height / size[1]]), side)
    return _affine(part, turn, shift, np.ones(2), side)


def _affine(
    part: NDArray[np.uint8], turn: complex, shift: complex, shrunk: NDArray[np.float64], side: int
) -> NDArray[np.uint8]:
    """The warp of a part that was shrunk by `shrunk`, in x and in y."""
    import cv2  # noqa: PLC0415

    rotation = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    offset = np.array([shift.real, shift.imag]) + rotation @ (0.5 * shrunk - 0.5)
    matrix = np.concatenate([rotation * shrunk, offset[:, None]], axis=1)
    how = cv2.INTER_LINEAR if abs(turn) < 1.0 else cv2.INTER_CUBIC
    warped: NDArray[np.uint8] = cv2.warpAffine(part, matrix, (side, side), flags=how)
    return warped


def _resized(picture_HWC: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    import cv2  # noqa: PLC0415

    how = cv2.INTER_AREA if width * height < picture_HWC.shape[0] * picture_HWC.shape[1] else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(picture_HWC, (width, height), interpolation=how)
    return resized
