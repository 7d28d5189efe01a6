"""Crops lie where the template says, and every bad picture has a status of its own."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.alignment import Detection, HaarDetector, Portrait, align, portrait
from tenfold.faces.detection import TEMPLATE_52


@pytest.fixture(scope="module")
def haar() -> HaarDetector:
    return HaarDetector()


class FixedDetector:
    """Finds what it is given."""

    identity = "fixed"

    def __init__(self, *faces: Detection) -> None:
        self.faces = list(faces)

    def detect(self, picture_HWC: np.ndarray) -> list[Detection]:
        return self.faces


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose red rises with x, green with y; a similarity maps it to what can be written down."""
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack([x / width * 255, y / height * 255, x * 0], axis=2).round().astype(np.uint8)


def image_bytes(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


@settings(max_examples=60)
@given(scale=st.floats(0.3, 5.0), angle=st.floats(-1.0, 1.0), side=st.sampled_from([32, 112, 224]))
def test_align_is_the_similarity_that_moves_the_points_to_the_template(scale: float, angle: float, side: int) -> None:
    """On a linear picture interpolation and averaging are exact, so each pixel's value is known in closed form."""
    turn = scale * np.exp(1j * angle)
    middle = (300 + 320j) - turn * (55.5 + 55.5j)
    points = turn * (TEMPLATE_52 @ [1, 1j]) + middle
    crop = align(ramp(640, 600), np.stack([points.real, points.imag], axis=1).astype(np.float32), side)
    y, x = np.mgrid[:side, :side]
    where = turn * ((x + 1j * y) * (112 / side)) + middle
    inside = (where.real > 8) & (where.real < 591) & (where.imag > 8) & (where.imag < 631)
    expected = np.stack([where.real / 600 * 255, where.imag / 640 * 255], axis=2)
    assert inside.sum() > 100
    assert np.abs(crop[..., :2] - expected)[inside].max() < 1.6


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_points_that_fit_no_similarity_are_fitted_by_least_squares(seed: int) -> None:
    """The oracle solves the linear system of a similarity's four numbers."""
    rng = np.random.default_rng(seed)
    points = TEMPLATE_52 * 2 + 40 + rng.normal(0, 5, (5, 2))
    rows = [row for x, y in points for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, c, d = np.linalg.lstsq(np.array(rows), TEMPLATE_52.ravel(), rcond=None)[0]
    inverse = np.linalg.inv([[a, -b, c], [b, a, d], [0, 0, 1]])
    crop = align(ramp(400, 400), points.astype(np.float32))
    y, x = np.mgrid[30:80, 30:80]
    where = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    expected = (where[:2] / 400 * 255).T.reshape(50, 50, 2)
    assert np.abs(crop[30:80, 30:80, :2] - expected).max() < 1.6


def test_a_large_face_is_averaged_not_sampled() -> None:
    """A chequer of single pixels, shrunk six times, is grey; sampling it would give black and white."""
    chequer = (np.indices((800, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = align(np.repeat(chequer[..., None], 3, axis=2), TEMPLATE_52 * 6 + 60)
    assert np.abs(crop[5:-5, 5:-5].astype(int) - 128).max() < 20


def test_beyond_the_picture_a_crop_is_black() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    crop = align(white, TEMPLATE_52 - 56)
    assert (crop[:50, :50] == 0).all() and (crop[60:, 60:] == 255).all()
    assert (align(white, TEMPLATE_52 + 9000) == 0).all()


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.zeros((4, 2)),
        np.zeros(10),
        np.full((5, 2), 1e30),
    ],
)
def test_points_that_are_no_face_are_refused(points: np.ndarray) -> None:
    with pytest.raises(InputError):
        align(ramp(50, 50), points)


def check(made: Portrait, status: str, *words: str) -> None:
    assert made.status == status
    assert (made.crop is None) == (status not in ("ok", "several faces"))
    assert (made.message == "") == (status == "ok")
    assert "\n" not in made.message and all(word in made.message for word in words)


def test_without_a_detector_a_picture_is_a_crop(tmp_path: Path) -> None:
    grey = ramp(92, 112)[:, :, 0]
    (tmp_path / "a.png").write_bytes(image_bytes(grey))
    made = portrait(tmp_path / "a.png", None, side=64)
    check(made, "ok")
    assert made.crop is not None and made.crop.shape == (64, 64, 3)
    assert (made.crop[..., 0] == made.crop[..., 1]).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 3), (300, 4, 3)])
@pytest.mark.parametrize("found", [True, False])
def test_pictures_of_few_pixels_are_too_small(shape: tuple[int, int, int], found: bool, haar: HaarDetector) -> None:
    picture = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    check(portrait(picture, haar if found else None, name="tiny.png"), "too small", "tiny.png", "give a larger")


def test_small_is_what_the_caller_says() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    check(portrait(picture, None, smallest=1), "ok")


def test_pictures_without_a_face(haar: HaarDetector) -> None:
    black = np.zeros((200, 200, 3), np.uint8)
    check(portrait(black, haar, name="black.png"), "no face", "black.png")
    check(portrait(black, None, name="black.png"), "no face", "one colour")
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    check(portrait(noise, haar, name="noise.png"), "no face", "noise.png", "crop")


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (5000, 3), (24, 24), (23, 4000)])
def test_odd_shapes_are_searched_without_trouble(shape: tuple[int, int], haar: HaarDetector) -> None:
    assert haar.detect(np.zeros((*shape, 3), np.uint8)) == []


def test_broken_pictures_are_unreadable(tmp_path: Path, haar: HaarDetector) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(image_bytes(ramp(99, 99), "JPEG")[:400])
    check(portrait(cut, haar), "unreadable", "cut.jpg", "copy it again")
    check(portrait(tmp_path / "missing.jpg", haar), "unreadable", "missing.jpg")
    check(portrait(np.full((9, 9, 3), np.nan), haar, name="row 1"), "unreadable", "row 1", "NaN")


def test_of_several_faces_the_largest_is_taken(group: tuple[np.ndarray, list[Detection]]) -> None:
    picture, faces = group
    made = portrait(picture, FixedDetector(*faces), name="group.jpg")
    check(made, "several faces", "group.jpg", "has 5 faces", "largest")
    assert made.box is not None and made.box[2] == max(face.box[2] for face in faces)
    np.testing.assert_array_equal(made.crop, align(picture, faces[0].points_52))


def test_one_face_in_a_photograph(faces_data: Path) -> None:
    made = portrait(faces_data / "single_face.jpg", HaarDetector(smallest=60))
    check(made, "ok")
    assert made.crop is not None and made.crop.shape == (112, 112, 3)


def test_a_known_box_is_cut_out_to_the_pixel() -> None:
    """Without a detector the square around the box is the crop: here pixel for pixel."""
    picture = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    made = portrait(picture, None, box=np.array([40, 70, 112, 112], np.float32))
    check(made, "ok")
    np.testing.assert_array_equal(made.crop, picture[70:182, 40:152])


def test_a_known_box_says_which_face_is_meant(group: tuple[np.ndarray, list[Detection]], haar: HaarDetector) -> None:
    """The smallest face of a group has larger ones near; its box brings its own points, found in the whole picture."""
    picture, faces = group
    for face in faces[3:]:
        made = portrait(picture, haar, box=face.box)
        check(made, "ok")
        assert made.points is not None
        assert np.abs(made.points - face.points_52).max() < 0.1 * face.box[2]


def test_of_the_faces_near_a_box_the_one_in_it_is_taken() -> None:
    """Not the largest; and where none lies in it, the box itself is cut out."""
    boxes = np.array([[0, 0, 120, 120], [130, 130, 40, 40]], np.float32)
    both = FixedDetector(*(Detection(box, TEMPLATE_52 * box[2] / 112 + box[:2], 1.0) for box in boxes))
    made = portrait(ramp(300, 300), both, box=np.array([2, 2, 115, 115], np.float32))
    np.testing.assert_array_equal(made.box, boxes[0])
    made = portrait(ramp(300, 300), both, box=np.array([200, 200, 50, 50], np.float32))
    check(made, "ok")
    assert made.points is None


@pytest.mark.parametrize(
    ("box", "status", "says"),
    [
        ([10, 10, 0, 50], "too small", "no area"),
        ([10, 10, 50, -5], "too small", "no area"),
        ([np.nan, 10, 50, 50], "too small", "no area"),
        ([10, 10, 4, 4], "too small", "larger"),
        ([900, 10, 50, 50], "no face", "outside"),
        ([-80, 10, 50, 50], "no face", "outside"),
    ],
)
def test_boxes_that_hold_no_face(box: list[float], status: str, says: str, haar: HaarDetector) -> None:
    for detector in (None, haar):
        made = portrait(ramp(200, 200), detector, name="a.jpg", box=np.array(box, np.float32))
        check(made, status, "a.jpg", says)


def test_points_of_a_detector_that_are_none_cost_one_picture_only() -> None:
    lying = FixedDetector(Detection(np.array([0, 0, 50, 50], np.float32), np.zeros((5, 2), np.float32), 1.0))
    check(portrait(ramp(99, 99), lying, name="a.jpg"), "no face", "a.jpg")
