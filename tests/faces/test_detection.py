"""The cascades find the faces of real photographs, and their eyes; YuNet's answers are read as they are meant."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tenfold.core.errors import InputError
from tenfold.faces.data import read_faces
from tenfold.faces.detection import TEMPLATE_52, Detection, HaarDetector, YuNetDetector, points_from_eyes
from tenfold.faces.pictures import read_picture

# Where the README of the London set says the eyes are, in pixels of its 128.
EYES = np.array([[0.34, 0.40], [0.66, 0.40]]) * 128


@pytest.fixture(scope="module")
def haar() -> HaarDetector:
    return HaarDetector()


def test_the_one_face_of_a_photograph_is_found(faces_data: Path, haar: HaarDetector) -> None:
    faces = haar.detect(read_picture(faces_data / "single_face.jpg"))
    assert len(faces) == 1
    x, y, width, height = faces[0].box
    assert 130 < x < 180 and 120 < y < 180 and 200 < width < 260 and width == height


def test_all_five_faces_of_a_photograph_are_found_the_largest_first(group: tuple[np.ndarray, list[Detection]]) -> None:
    """Five people, one with sunglasses; the middles were read off the picture by eye."""
    _, faces = group
    middles = np.array([face.box[:2] + face.box[2:] / 2 for face in faces])
    for x, y in ((259, 131), (363, 292), (478, 258), (578, 365), (733, 350)):
        assert np.linalg.norm(middles - (x, y), axis=1).min() < 30
    assert len(faces) == 5
    widths = [float(face.box[2]) for face in faces]
    assert widths == sorted(widths, reverse=True)


def test_small_faces_are_found_by_enlarging(faces_data: Path, haar: HaarDetector) -> None:
    """At a fifth of the size the faces are 19 to 25 pixels wide, near the cascade's window of 20."""
    small = cv2.resize(read_picture(faces_data / "multi_face.jpg"), None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    assert len(haar.detect(small)) >= 4
    assert len(HaarDetector(smallest=40).detect(small)) == 0


def test_eyes_of_the_london_set_are_where_its_readme_says(faces_data: Path, haar: HaarDetector) -> None:
    """One face each on all of every fourth smiling picture; the detector's constants were measured on neutral ones."""
    faces = read_faces(faces_data / "london" / "smiling", person="file")
    errors = []
    for source in faces.sources[::4]:
        found = haar.detect(read_picture(source))
        assert len(found) == 1
        errors.append(np.linalg.norm(found[0].points_52[:2] - EYES, axis=1).mean() / (EYES[1, 0] - EYES[0, 0]))
    assert np.mean(errors) < 0.03 and np.max(errors) < 0.08


def test_tilted_eyes_give_tilted_points(faces_data: Path, haar: HaarDetector) -> None:
    for degrees in (-10, 10):
        turn = cv2.getRotationMatrix2D((64, 64), degrees, 1.0)
        picture = read_picture(faces_data / "london" / "smiling" / "001.jpg")
        face = haar.detect(cv2.warpAffine(picture, turn, (128, 128), borderMode=cv2.BORDER_REPLICATE))[0]
        across = face.points_52[1] - face.points_52[0]
        assert abs(np.degrees(np.arctan2(-across[1], across[0])) - degrees) < 4


def test_points_from_eyes_keep_the_template_and_its_eyes() -> None:
    np.testing.assert_allclose(points_from_eyes(TEMPLATE_52[0], TEMPLATE_52[1]), TEMPLATE_52, atol=1e-4)
    turned = points_from_eyes(np.array([10.0, 10.0]), np.array([10.0, 50.0]))
    np.testing.assert_allclose(turned[:2], [[10, 10], [10, 50]], atol=1e-4)
    assert turned[2, 0] < 10  # the nose is to the left of eyes that look down


def test_settings_that_find_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="below 8"):
        HaarDetector(smallest=7)
    with pytest.raises(InputError, match="between 0 and 1"):
        YuNetDetector(tmp_path / "yunet.onnx", threshold=1.5)


def test_what_is_no_yunet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx: cannot be read"):
        YuNetDetector(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"text\.onnx: OpenCV cannot load it"):
        YuNetDetector(tmp_path / "text.onnx")
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    same = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "other", [picture], [same])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other\.onnx: OpenCV cannot run it"):
        YuNetDetector(tmp_path / "other.onnx").detect(np.zeros((320, 320, 3), np.uint8))


def constant_yunet(path: Path, side: int) -> Path:
    """A network with YuNet's outputs, which sees one face in the cell of column 2 and row 1 at stride 32.

    Box and points are given as YuNet gives them: offsets in cells, and sizes as logarithms.
    """
    values = {}
    for stride in (8, 16, 32):
        cells = (side // stride) ** 2
        values |= {f"{name}_{stride}": np.zeros((1, cells, 1), np.float32) for name in ("cls", "obj")}
        values[f"bbox_{stride}"] = np.zeros((1, cells, 4), np.float32)
        values[f"kps_{stride}"] = np.zeros((1, cells, 10), np.float32)
    cell = side // 32 + 2
    values["cls_32"][0, cell], values["obj_32"][0, cell] = 1.0, 0.81
    values["bbox_32"][0, cell] = [0.5, 0.5, np.log(2.0), np.log(3.0)]
    values["kps_32"][0, cell] = np.arange(10) / 10
    nodes, constants = [helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=0)], []
    nodes.append(helper.make_node("Mul", ["mean", "nothing"], ["none"]))
    constants.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    for name, value in values.items():
        constants.append(numpy_helper.from_array(value, f"c_{name}"))
        nodes.append(helper.make_node("Add", [f"c_{name}", "none"], [name]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in values.items()]
    graph = helper.make_graph(nodes, "yunet", [picture], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.save(model, path)
    return path


def test_yunet_answers_in_pixels_of_the_picture(tmp_path: Path) -> None:
    """The true YuNet cannot be had here: OpenCV runs a network of its form whose one face can be written down.

    The picture of 160 x 160 is enlarged to 320, so that all found there is half as large here.
    """
    detector = YuNetDetector(constant_yunet(tmp_path / "yunet.onnx", 320))
    faces = detector.detect(np.zeros((160, 160, 3), np.uint8))
    assert len(faces) == 1
    middle, size = np.array([(2 + 0.5) * 32, (1 + 0.5) * 32]), np.array([64, 96])
    np.testing.assert_allclose(faces[0].box, np.concatenate([middle - size / 2, size]) / 2, atol=1e-3)
    points = np.arange(10).reshape(5, 2) / 10 * 32 + np.array([2, 1]) * 32
    np.testing.assert_allclose(faces[0].points_52, points / 2, atol=1e-3)
    assert abs(faces[0].score - 0.9) < 1e-5  # the root of 1.0 * 0.81
    assert YuNetDetector(tmp_path / "yunet.onnx", threshold=0.95).detect(np.zeros((160, 160, 3), np.uint8)) == []


def test_detectors_of_other_settings_have_other_identities(tmp_path: Path) -> None:
    path = constant_yunet(tmp_path / "yunet.onnx", 320)
    identities = {
        HaarDetector().identity,
        HaarDetector(smallest=20).identity,
        YuNetDetector(path).identity,
        YuNetDetector(path, threshold=0.5).identity,
        YuNetDetector(constant_yunet(tmp_path / "other.onnx", 640)).identity,
    }
    assert len(identities) == 5
