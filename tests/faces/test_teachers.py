"""Teachers: each declaration does what it says, shown by networks whose features are the mean colours of a face."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.faces.inception_resnet import InceptionResnetV1
from tenfold.faces.inference import resize
from tenfold.faces.model import TeacherNet, describe, to_input
from tenfold.faces.resnet50 import ResNet50
from tenfold.faces.teachers import (
    InceptionResnetV1Teacher,
    OnnxTeacher,
    SmallTeacher,
    TeacherInput,
    VGGFace2ResNet50Teacher,
    load_teacher,
)

CROPS = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), np.uint8)
MEANS = CROPS.mean((1, 2))


def mean_colours(
    path: Path,
    shape: tuple = ("batch", 3, 12, 12),
    kind: int = TensorProto.FLOAT,
    mixes: bool = False,
    outputs: int = 1,
    inputs: int = 1,
) -> Path:
    """An ONNX file that gives the mean of each channel of its input; one that `mixes` subtracts the batch's mean."""
    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    nodes = [helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0)]
    nodes += [helper.make_node("ReduceMean", ["mean", "first"], ["crowd"], keepdims=1)]
    nodes += [
        helper.make_node("Sub", ["mean", "crowd"], ["y0"]) if mixes else helper.make_node("Identity", ["mean"], ["y0"])
    ]
    nodes += [helper.make_node("Neg", ["y0"], [f"y{n}"]) for n in range(1, outputs)]
    numbers = [
        helper.make_tensor("axes", TensorProto.INT64, [2], axes),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
    ]
    faces = [helper.make_tensor_value_info("x", kind, shape)]
    faces += [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [1]) for n in range(1, inputs)]
    given = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, [shape[0], 3]) for n in range(outputs)]
    model = helper.make_model(
        helper.make_graph(nodes, "means", faces, given, numbers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


PLAIN = TeacherInput(size=12, mean=(0, 0, 0), scale=1)

# --- ONNX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [("b", 3, 12, 12), ("b", 12, 12, 3), (1, 3, 12, 12), (4, 3, 12, 12), ("b", 3, "h", "w")]
)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_layouts_types_and_batches_of_files_give_the_same_features(tmp_path: Path, shape: tuple, kind: int) -> None:
    teacher = OnnxTeacher(mean_colours(tmp_path / "net.onnx", shape, kind), PLAIN)
    assert (teacher.dimension, teacher.size) == (3, 12)
    assert np.abs(teacher.embed(CROPS) - MEANS).max() < 1e-3
    assert teacher.embed(CROPS[:0]).shape == (0, 3)
    assert teacher.embed(CROPS).dtype == np.float32


def test_colour_mean_and_scale_are_applied_in_the_networks_order(tmp_path: Path) -> None:
    path = mean_colours(tmp_path / "net.onnx")
    teacher = OnnxTeacher(path, TeacherInput(12, "BGR", (10, 20, 30), 50))
    assert np.abs(teacher.embed(CROPS) - (MEANS[:, ::-1] - (10, 20, 30)) / 50).max() < 1e-5
    assert np.abs(OnnxTeacher(path, TeacherInput(12)).embed(CROPS) - (MEANS - 127.5) / 127.5).max() < 1e-5


def test_presets_are_the_conventions_of_their_publishers(tmp_path: Path) -> None:
    """InsightFace: RGB, (x - 127.5) / 127.5. OpenCV's SFace: RGB, 0 to 255 (its network normalises)."""
    path = mean_colours(tmp_path / "net.onnx", ("b", 3, 112, 112))
    crops = resize(CROPS, 112)
    means = crops.mean((1, 2))
    insightface, sface = OnnxTeacher(path, "insightface"), OnnxTeacher(path, "sface")
    assert np.abs(insightface.embed(crops) - (means - 127.5) / 127.5).max() < 1e-5
    assert np.abs(sface.embed(crops) - means).max() < 1e-3
    assert "non-commercial" in insightface.licence and sface.licence == "Apache-2.0"
    assert insightface.identity != sface.identity


def test_crops_of_another_side_are_resized(tmp_path: Path) -> None:
    teacher = OnnxTeacher(mean_colours(tmp_path / "net.onnx"), PLAIN)
    assert np.abs(teacher.embed(resize(CROPS, 36)) - MEANS).max() < 3


def test_a_file_that_mixes_faces_of_a_batch_is_run_face_by_face(tmp_path: Path) -> None:
    """It says that its batch is free; each face alone, less its own mean, is zero."""
    teacher = OnnxTeacher(mean_colours(tmp_path / "net.onnx", mixes=True), PLAIN)
    assert np.abs(teacher.embed(CROPS)).max() == 0


def test_identities_change_with_the_file_and_the_declaration_and_not_with_the_place(tmp_path: Path) -> None:
    path = mean_colours(tmp_path / "net.onnx")
    one = OnnxTeacher(path, PLAIN).identity
    (tmp_path / "moved.onnx").write_bytes(path.read_bytes())
    assert OnnxTeacher(tmp_path / "moved.onnx", PLAIN).identity == one
    assert OnnxTeacher(path, TeacherInput(12, "BGR", (0, 0, 0), 1)).identity != one
    assert OnnxTeacher(mean_colours(tmp_path / "other.onnx", outputs=2), PLAIN, output="y0").identity != one


def test_one_of_several_outputs_is_named(tmp_path: Path) -> None:
    path = mean_colours(tmp_path / "net.onnx", outputs=2)
    assert np.abs(OnnxTeacher(path, PLAIN, output="y1").embed(CROPS) + MEANS).max() < 1e-3
    with pytest.raises(InputError, match="y0, y1"):
        OnnxTeacher(path, PLAIN)
    with pytest.raises(InputError, match="no output y9"):
        OnnxTeacher(path, PLAIN, output="y9")


@pytest.mark.parametrize(
    ("settings", "config", "said"),
    [
        ({}, TeacherInput(16), "side 12, declared is 16"),
        ({"shape": ("b", 4, 12, 12)}, PLAIN, "not .batch, 3, side, side."),
        ({"inputs": 2}, PLAIN, "has 2 inputs"),
        ({"kind": TensorProto.DOUBLE}, PLAIN, "float32 or uint8"),
        ({"kind": TensorProto.UINT8}, TeacherInput(12), "takes bytes"),
        ({}, "arcface", "preset arcface: unknown; there are insightface, sface"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, settings: dict, config: TeacherInput | str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        OnnxTeacher(mean_colours(tmp_path / "net.onnx", **settings), config)


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match=r"net.onnx: is no ONNX file"):
        OnnxTeacher(tmp_path / "net.onnx", PLAIN)
    with pytest.raises(InputError, match=r"none.onnx: no such file"):
        OnnxTeacher(tmp_path / "none.onnx", PLAIN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 16.0},
        {"colour": "GBR"},
        {"mean": (1, 2)},
        {"mean": "abc"},
        {"scale": 0},
        {"scale": np.nan},
    ],
)
def test_declarations_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        TeacherInput(**wrong)


def test_other_arrays_than_crops_are_refused(tmp_path: Path) -> None:
    teacher = OnnxTeacher(mean_colours(tmp_path / "net.onnx"), PLAIN)
    with pytest.raises(InputError, match="are float64"):
        teacher.embed(CROPS / 255.0)


# --- teacher.json ----------------------------------------------------------------------------------------------------


def declare(folder: Path, **said: object) -> None:
    (folder / "teacher.json").write_text(json.dumps(said))


def test_a_declaration_beside_the_file_is_followed(tmp_path: Path) -> None:
    path = mean_colours(tmp_path / "net.onnx")
    declare(tmp_path, file="net.onnx", size=12, colour="BGR", mean=[10, 20, 30], scale=50, licence="MIT")
    for place in (path, tmp_path):
        teacher = load_teacher(place)
        assert np.abs(teacher.embed(CROPS) - (MEANS[:, ::-1] - (10, 20, 30)) / 50).max() < 1e-5
        assert teacher.licence == "MIT"
    declare(tmp_path, preset="sface", size=12)
    assert np.abs(load_teacher(path).embed(CROPS) - MEANS).max() < 1e-3
    assert load_teacher(path).licence == "Apache-2.0"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (None, "its input is not declared; put teacher.json"),
        ({"file": "other.onnx", "preset": "sface"}, "its input is not declared"),
        ({"size": 12, "colour": "RGB"}, "mean, scale"),
        ({"preset": "sface", "means": [1, 2, 3]}, "does not know means"),
        ({"preset": "sface", "file": "../net.onnx"}, "is not in this folder"),
        ({"preset": 5}, "preset is 5; give a text"),
        ([1], "is no mapping"),
    ],
)
def test_declarations_that_are_missing_or_wrong_are_refused(tmp_path: Path, said: object, error: str) -> None:
    path = mean_colours(tmp_path / "net.onnx")
    if said is not None:
        (tmp_path / "teacher.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=error):
        load_teacher(path)


def test_a_declaration_that_is_cut_is_refused(tmp_path: Path) -> None:
    (tmp_path / "teacher.json").write_text('{"preset": "sfa')
    with pytest.raises(InputError, match=r"teacher.json: is not readable as JSON"):
        load_teacher(tmp_path)
    declare(tmp_path, preset="sface")
    with pytest.raises(InputError, match="does not name its file"):
        load_teacher(tmp_path)


# --- torch -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.nn.Module, Path]]:
    """Both networks with random weights, as files in the published format with a small classifier."""
    folder, made = tmp_path_factory.mktemp("published"), {}
    torch.manual_seed(0)
    for net, classifier in ((InceptionResnetV1(), "logits"), (ResNet50(), "fc")):
        extra = {f"{classifier}.weight": torch.zeros(3, net.dimension), f"{classifier}.bias": torch.zeros(3)}
        path = folder / f"{type(net).__name__}.safetensors"
        save_file(net.state_dict() | extra, path)
        made[type(net).__name__] = (net.eval(), path)
    return made


@pytest.mark.parametrize(
    ("name", "kind", "side", "prepare"),
    [
        ("InceptionResnetV1", InceptionResnetV1Teacher, 160, lambda x: (x - 127.5) / 128),
        ("ResNet50", VGGFace2ResNet50Teacher, 224, lambda x: x[..., ::-1] - (91.4953, 103.8827, 131.0912)),
    ],
)
def test_published_weights_are_told_apart_and_give_the_networks_features(published, name, kind, side, prepare) -> None:
    net, path = published[name]
    teacher = load_teacher(path)
    assert isinstance(teacher, kind)
    assert (teacher.size, teacher.dimension, teacher.licence) == (side, net.dimension, "not stated")
    crops = resize(CROPS[:1], side)
    with torch.inference_mode():
        expected = net(torch.tensor(prepare(crops.astype(np.float64)).transpose(0, 3, 1, 2).copy()).float()).numpy()
    assert np.abs(teacher.embed(CROPS[:1]) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_files_of_torch_are_read_as_weights_alone_in_their_usual_wrappers(published, tmp_path: Path) -> None:
    net, path = published["InceptionResnetV1"]
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt"
    )
    declare(tmp_path, file="w.pt", licence="for research")
    teacher = load_teacher(tmp_path)
    assert teacher.licence == "for research"
    assert teacher.identity == InceptionResnetV1Teacher(path).identity  # the same numbers, otherwise stored


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched-by-a-pickle"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickles_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"conv1.weight": np.zeros(3)}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match="is no file of tensors alone"):
            load_teacher(tmp_path / name)
    assert not (tmp_path / "touched-by-a-pickle").exists()


def test_weights_that_do_not_fit_are_named(published, tmp_path: Path) -> None:
    state, path = dict(published["ResNet50"][0].state_dict()), tmp_path / "w.pt"

    def refuse(changed: dict, said: str) -> None:
        torch.save(changed, path)
        with pytest.raises(InputError, match=said):
            VGGFace2ResNet50Teacher(path)

    refuse({name: x for name, x in state.items() if name != "layer3.2.conv2.weight"}, "misses layer3.2.conv2.weight")
    refuse(state | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, "conv1.weight 64x3x3x3 instead of 64x3x7x7")
    refuse(state | {"layer5.weight": torch.zeros(1)}, "has unexpected layer5.weight")
    refuse(state | {"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias holds values that are not finite")
    refuse({}, "holds no weights by name")
    torch.save({"net.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="export other networks as ONNX"):
        load_teacher(path)


def test_a_small_teacher_is_loaded_from_its_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = TeacherNet().eval()
    card = ModelCard("T", "faces", "A teacher.", {}, {}, "Tests.", "All else.", "cc0-1.0")
    save_model(tmp_path / "teacher", net, describe(net), card)
    teacher = load_teacher(tmp_path / "teacher")
    assert isinstance(teacher, SmallTeacher)
    assert (teacher.size, teacher.dimension, teacher.licence) == (112, 256, "cc0-1.0")
    crops = resize(CROPS, 112)
    with torch.inference_mode():
        assert np.abs(teacher.embed(crops) - net(to_input(crops)).numpy()).max() < 1e-4


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "face.jpg").touch()
    for name, said in (("face.jpg", "is no teacher"), ("none", "no such folder")):
        with pytest.raises(InputError, match=said):
            load_teacher(tmp_path / name)
