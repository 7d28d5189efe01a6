"""Exported files answer as the student, are of use without tenfold, and say what they are."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, save
from onnx import load as load_model
from PIL import Image

from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.faces.export import export_int8, export_onnx
from tenfold.faces.inference import resize
from tenfold.faces.model import StudentConfig, StudentNet, describe, to_input
from tenfold.faces.recognition import load, store_threshold
from tenfold.faces.thresholds import Threshold

NOISE = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
CARD = ModelCard("S", "faces", "A student.", {}, {}, "Tests.", "All else.", "cc-by-nc-4.0")


def save_student(folder: Path, faces: np.ndarray, config: StudentConfig | None = None) -> None:
    """A student of random weights that has seen faces, so that its batch norm fits them."""
    torch.manual_seed(0)
    net = StudentNet(config)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the plain mean over batches
    with torch.no_grad():
        net(to_input(resize(faces, net.config.size)))
    save_model(folder, net, describe(net), CARD)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `student`, its calibrated threshold, and `student.onnx`."""
    folder = tmp_path_factory.mktemp("exported")
    save_student(folder / "student", NOISE)
    store_threshold(folder / "student", Threshold(0.4, 0.01, 0.005, 0.02, 4000, 90))
    export_onnx(folder / "student", folder / "student.onnx")
    return folder


@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_file_answers_as_torch_for_any_number_of_faces(exported: Path, count: int) -> None:
    by_torch = load(exported / "student").embed_crops(NOISE[:count])
    assert np.abs(load(exported / "student.onnx").embed_crops(NOISE[:count]) - by_torch).max() <= 1e-4


@pytest.mark.parametrize(
    "config",
    [StudentConfig(8), StudentConfig(21, 64), StudentConfig(32), StudentConfig(33, width=0.5), StudentConfig(112)],
)
def test_students_of_every_shape_are_exported(tmp_path: Path, config: StudentConfig) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (5, config.size, config.size, 3), np.uint8)
    save_student(tmp_path / "student", faces, config)
    export_onnx(tmp_path / "student", tmp_path / "student.onnx")
    one, other = load(tmp_path / "student"), load(tmp_path / "student.onnx")
    assert (other.size, other.dimension) == (config.size, config.dimension)
    assert np.abs(one.embed_crops(faces) - other.embed_crops(faces)).max() <= 1e-4


def test_the_file_is_of_use_alone(exported: Path) -> None:
    """Bytes in, vectors of length 1 out, with nothing but onnxruntime and what the metadata say."""
    session = onnxruntime.InferenceSession(exported / "student.onnx")
    said = session.get_modelmeta().custom_metadata_map
    side = int(said["size"])
    (vectors,) = session.run(None, {"faces": np.zeros((3, side, side, 3), np.uint8)})
    assert vectors.shape == (3, int(said["dimension"]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert said["input"] == "uint8 (N, size, size, 3) RGB"
    assert (said["licence"], said["precision"]) == ("cc-by-nc-4.0", "float32")
    assert json.loads(said["threshold"])["value"] == 0.4


def test_a_loaded_file_is_the_same_model_with_the_same_threshold(exported: Path) -> None:
    one, other = load(exported / "student"), load(exported / "student.onnx")
    names = ("id", "space", "dimension", "size", "licence", "threshold")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert other.verify(np.tile(NOISE[0], (7, 7, 1)), np.tile(NOISE[0], (7, 7, 1)), detector="none").same is True


@pytest.fixture(scope="module")
def real_crops(faces_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """20 people of ORL, 10 crops each, and who they are."""
    folder = faces_data / "orl"
    people = sorted(folder.glob("s*"))[:20]
    paths = [path for person in people for path in sorted(person.glob("*.png"))]
    crops = [np.array(Image.open(path).convert("RGB").resize((112, 112))) for path in paths]
    return np.stack(crops), np.array([people.index(path.parent) for path in paths])


def test_int8_is_small_and_close_and_its_loss_is_measured(tmp_path: Path, real_crops) -> None:
    crops, labels = real_crops
    save_student(tmp_path / "student", crops)
    result = export_int8(tmp_path / "student", crops, tmp_path / "int8.onnx", labels)
    assert result.weights_bytes <= 300_000
    assert result.file_bytes == (tmp_path / "int8.onnx").stat().st_size <= 330_000
    assert result.cosine_mean >= 0.99
    assert result.cosine_least <= result.cosine_mean
    assert result.checked == 100  # the other half calibrated
    assert result.auc_float - result.auc_int8 <= 0.005
    one, other = load(tmp_path / "student"), load(tmp_path / "int8.onnx")
    assert (one.id, one.size) == (other.id, other.size)
    assert (one.embed_crops(crops) * other.embed_crops(crops)).sum(1).mean() >= 0.99
    said = onnxruntime.InferenceSession(tmp_path / "int8.onnx").get_modelmeta().custom_metadata_map
    assert said["precision"] == "int8"


def test_one_crop_is_enough_and_none_are_not(exported: Path, tmp_path: Path) -> None:
    result = export_int8(exported / "student", NOISE[:1], tmp_path / "int8.onnx")
    assert (result.checked, result.auc_float, result.auc_int8) == (1, None, None)
    with pytest.raises(InputError, match="0 crops"):
        export_int8(exported / "student", NOISE[:0], tmp_path / "none.onnx")
    with pytest.raises(InputError, match="as many labels"):
        export_int8(exported / "student", NOISE, tmp_path / "none.onnx", np.zeros(3, np.int64))
    assert not (tmp_path / "none.onnx").exists()


def test_places_that_do_not_do_are_named_and_nothing_is_left(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, said in (("student.bin", "ends in .onnx"), ("file/student.onnx", "cannot be written")):
        with pytest.raises(InputError, match=said):
            export_onnx(exported / "student", tmp_path / out)
    with pytest.raises(InputError, match="no such folder"):
        export_onnx(tmp_path / "none", tmp_path / "student.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_foreign_onnx_file_is_no_student(tmp_path: Path) -> None:
    face = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 16, 16])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [face], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="use it as a teacher"):
        load(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("name", "value"),
    [("size", "100000"), ("size", "32"), ("size", "-3"), ("dimension", "64"), ("dimension", "1" * 13)],
)
def test_metadata_are_held_against_the_network(exported: Path, tmp_path: Path, name: str, value: str) -> None:
    """A file that only says it takes faces of 100,000 px would else make us allocate them."""
    model = load_model(exported / "student.onnx")
    helper.set_model_props(model, {one.key: one.value for one in model.metadata_props} | {name: value})
    save(model, tmp_path / "lying.onnx")
    with pytest.raises(InputError, match=r"lying\.onnx: its metadata are of"):
        load(tmp_path / "lying.onnx")


def test_a_file_says_that_it_takes_one_size_only(exported: Path) -> None:
    """Its graph has a fixed side, unlike a student in a folder."""
    with pytest.raises(InputError, match=r"student\.onnx: takes faces of 16 px alone"):
        load(exported / "student.onnx").embed_crops(NOISE, size=24)
