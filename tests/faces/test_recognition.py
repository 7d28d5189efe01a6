"""A student used: its vectors are the network's, pictures have statuses, verdicts have thresholds, ids are held."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.faces.degradation import shrink
from tenfold.faces.inference import fingerprint
from tenfold.faces.model import Adapter, StudentConfig, StudentNet, describe, to_input
from tenfold.faces.pictures import Span
from tenfold.faces.recognition import (
    FaceModel,
    HighResolution,
    Match,
    load,
    load_adapted,
    store_threshold,
    stored_threshold,
)
from tenfold.faces.thresholds import Threshold

CROPS = np.random.default_rng(0).integers(0, 256, (300, 112, 112, 3), np.uint8)
CARD = ModelCard("S", "faces", "A student.", {}, {}, "Tests.", "All else.", "cc-by-nc-4.0")


def save_student(folder: Path, seed: int = 0, size: int = 16, **config: object) -> StudentNet:
    torch.manual_seed(seed)
    net = StudentNet(StudentConfig(size))
    with torch.no_grad():
        net(torch.randn(64, 3, size, size))  # statistics of batch norm that are not 0 and 1
    save_model(folder, net, describe(net) | config, CARD)
    return net.eval()


@pytest.fixture
def student(tmp_path: Path) -> Path:
    save_student(tmp_path / "student")
    return tmp_path / "student"


# --- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32])
def test_vectors_are_the_networks_on_shrunk_crops_at_length_one(tmp_path: Path, size: int) -> None:
    net = save_student(tmp_path / "s", size=size)
    model = load(tmp_path / "s")
    vectors = model.embed_crops(CROPS)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(net(to_input(shrink(CROPS, size)))).numpy()
    assert (model.size, model.dimension, model.licence) == (size, 128, "cc-by-nc-4.0")
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.array_equal(model.embed_crops(shrink(CROPS, size)), vectors)
    assert model.embed_crops(CROPS[:0]).shape == (0, 128)


def test_flipped_vectors_are_the_same_for_a_face_and_its_mirror_image(student: Path) -> None:
    model, some = load(student), CROPS[:9]
    mirrored = np.ascontiguousarray(some[:, :, ::-1])
    assert np.abs(model.embed_crops(some, flip=True) - model.embed_crops(mirrored, flip=True)).max() < 1e-6
    both = model.embed_crops(some) + model.embed_crops(mirrored)
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    assert np.abs(model.embed_crops(some, flip=True) - expected).max() < 1e-6


def test_a_student_embeds_at_other_sizes_too(student: Path) -> None:
    model = load(student)
    at_24 = model.embed_crops(CROPS[:4], size=24)
    assert np.abs(at_24 - model.embed_crops(shrink(CROPS[:4], 24), size=24)).max() < 1e-6
    assert np.abs(at_24 - model.embed_crops(CROPS[:4])).max() > 1e-3


def test_ids_change_with_weights_and_config(tmp_path: Path) -> None:
    for name, seed, size in (("a", 0, 16), ("same", 0, 16), ("seed", 1, 16), ("size", 0, 24)):
        save_student(tmp_path / name, seed, size)
    ids = {name: load(tmp_path / name).id for name in ("a", "same", "seed", "size")}
    assert ids["a"] == ids["same"]
    assert len(set(ids.values())) == 3


def test_damaged_weights_are_named_and_not_answered_with(tmp_path: Path) -> None:
    net = save_student(tmp_path / "s")
    net.head.bias.data[3] = torch.nan
    save_model(tmp_path / "s", net, describe(net), CARD)
    with pytest.raises(InputError, match="not finite"):
        load(tmp_path / "s").embed_crops(CROPS[:2])


def test_what_is_no_student_is_refused(tmp_path: Path, student: Path) -> None:
    adapter = Adapter(20)
    save_model(tmp_path / "adapter", adapter, describe(adapter), CARD)
    (tmp_path / "net.onnx").write_bytes(b"no network")
    for name, said in (
        ("adapter", "'adapter', not 'student'"),
        ("none", "no such folder"),
        ("net.onnx", "no ONNX file"),
    ):
        with pytest.raises(InputError, match=said):
            load(tmp_path / name)


def test_a_student_adapted_to_a_place_is_another_model_without_a_threshold(student: Path) -> None:
    store_threshold(student, Threshold(0.3, 0.01, 0.005, 0.02, 4000, 90))
    model, adapted = load(student), load_adapted(student, CROPS)
    assert adapted.id != model.id and adapted.threshold is None
    assert np.abs(adapted.embed_crops(CROPS) - model.embed_crops(CROPS)).max() > 1e-3
    unmoved = load_adapted(student, CROPS, share=0.0)
    assert unmoved.id == model.id
    assert np.array_equal(unmoved.embed_crops(CROPS), model.embed_crops(CROPS))


# --- pictures --------------------------------------------------------------------------------------------------------


def test_each_picture_has_a_status_and_the_others_carry_on(tmp_path: Path, student: Path) -> None:
    model, face = load(student), CROPS[0]
    Image.fromarray(face).save(tmp_path / "face.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    pictures = [tmp_path / "face.png", tmp_path / "cut.jpg", tmp_path / "none.jpg", face, face[:1, :1], face * 0]
    found = model.embed(pictures, detector="none")
    assert found.statuses == ("ok", "unreadable", "unreadable", "ok", "too small", "no face")
    assert found.usable.tolist() == [True, False, False, True, False, False]
    expected = model.embed_crops(face[None])[0]
    assert np.abs(found.vectors_Nd[[0, 3]] - expected).max() < 1e-6
    assert not found.vectors_Nd[~found.usable].any()
    assert np.isnan(found.boxes_N4[~found.usable]).all() and not np.isnan(found.boxes_N4[found.usable]).any()
    assert "cut.jpg" in found.messages[1] and "none.jpg" in found.messages[2] and found.messages[0] == ""


def png(picture_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, "PNG")
    return file.getvalue()


def test_one_picture_may_stand_alone_and_none_gives_nothing(tmp_path: Path, student: Path) -> None:
    model = load(student)
    (tmp_path / "one.bin").write_bytes(b"before" + png(CROPS[0]))
    for one in (CROPS[0], png(CROPS[0]), Span(tmp_path / "one.bin", 6, len(png(CROPS[0])))):
        assert np.array_equal(model.embed(one, "none").vectors_Nd, model.embed_crops(CROPS[:1]))
    nothing = model.embed([], "none")
    assert (nothing.vectors_Nd.shape, nothing.boxes_N4.shape, nothing.statuses) == ((0, 128), (0, 4), ())


def test_detectors_are_named_or_given(student: Path, tmp_path: Path) -> None:
    model = load(student)
    with pytest.raises(InputError, match="give haar, none, or the path"):
        model.embed(CROPS[0], detector="retina")
    with pytest.raises(InputError, match=r"yunet.onnx"):
        model.embed(CROPS[0], detector=tmp_path / "yunet.onnx")

    class Nobody:
        identity = "nobody"

        def detect(self, picture_HWC: np.ndarray) -> list:
            return []

    assert model.embed(CROPS[0], detector=Nobody()).statuses == ("no face",)


def test_faces_of_real_photographs_are_found(student: Path, faces_data: Path) -> None:
    pictures = [faces_data / "single_face.jpg", str(faces_data / "multi_face.jpg"), faces_data / "README.md"]
    found = load(student).embed(pictures)
    assert found.statuses == ("ok", "several faces", "unreadable")
    assert np.allclose(np.linalg.norm(found.vectors_Nd, axis=1), [1, 1, 0])
    assert (found.boxes_N4[:2, 2:] > 20).all()


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_without_a_calibrated_threshold_there_is_a_score_and_no_verdict(student: Path) -> None:
    model = load(student)
    match = model.verify(CROPS[0], CROPS[1], detector="none")
    a, b = model.embed_crops(CROPS[:2])
    assert match == Match(pytest.approx(float(a @ b), abs=1e-6), None, None, None)


def test_a_threshold_is_kept_with_the_model_and_decides(student: Path) -> None:
    score, before = load(student).verify(CROPS[0], CROPS[1], detector="none").score, load(student).id
    for value, same in ((score - 0.01, True), (score + 0.01, False)):
        threshold = Threshold(value, 0.01, 0.005, 0.02, 4000, 90)
        store_threshold(student, threshold)
        model = load(student)
        assert model.threshold == threshold
        assert model.id == before
        match = model.verify(CROPS[0], CROPS[1], detector="none")
        assert (match.threshold, match.far, match.same) == (value, 0.01, same)
    stricter = Threshold(2.0, 0.001, 0.0, 0.01, 4000, 90)
    assert model.verify(CROPS[0], CROPS[0], stricter, detector="none").same is False


def test_a_threshold_for_other_models_probes_is_no_verdict_of_the_model(student: Path) -> None:
    across = Threshold(0.2, 0.01, 0.005, 0.02, 4000, 90)
    store_threshold(student, across, probes=True)
    assert load(student).threshold is None
    assert stored_threshold(student, probes=True) == across


@pytest.mark.parametrize("text", ["{", "[1]", '{"value": 0.3}'])
def test_a_damaged_threshold_is_named(student: Path, text: str) -> None:
    (student / "threshold.json").write_text(text)
    with pytest.raises(InputError, match=r"threshold.json: "):
        load(student)


def test_a_picture_without_a_face_has_no_verdict(student: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        load(student).verify(CROPS[0], "gone.jpg", detector="none")


# --- large faces -----------------------------------------------------------------------------------------------------


class Sums:
    """A teacher: sums over 20 stripes of a crop."""

    dimension, size, identity, licence = 20, 40, "sums", "MIT"

    def embed(self, crops_BSSC: np.ndarray) -> np.ndarray:
        assert crops_BSSC.shape[1] == self.size
        return crops_BSSC.reshape(len(crops_BSSC), 20, -1).mean(2, np.float32) / 100


def save_adapter(folder: Path, **config: object) -> Adapter:
    torch.manual_seed(0)
    adapter = Adapter(20, 30, 128)
    with torch.no_grad():
        adapter(torch.rand(64, 20))
    save_model(folder, adapter, describe(adapter) | config, CARD)
    return adapter.eval()


def test_large_faces_are_the_adapters_answer_to_the_teachers(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    model = HighResolution(Sums(), tmp_path / "adapter")
    crops = np.random.default_rng(1).integers(0, 256, (5, 40, 40, 3), np.uint8)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(adapter(torch.tensor(Sums().embed(crops)))).numpy()
    assert isinstance(model, FaceModel)
    assert np.abs(model.embed_crops(crops) - expected).max() < 1e-5
    assert (model.dimension, model.size, model.licence) == (128, 40, "MIT")
    assert model.embed(list(crops), "none").statuses == ("ok",) * 5


def test_a_student_of_an_adapter_shares_its_space_and_others_do_not(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    model = HighResolution(Sums(), tmp_path / "adapter")
    assert model.space == fingerprint(describe(adapter), adapter.state_dict())
    save_student(tmp_path / "taught", space=model.space)
    save_student(tmp_path / "alone")
    taught, alone = load(tmp_path / "taught"), load(tmp_path / "alone")
    assert taught.space == model.space != alone.space
    assert alone.space == alone.id
    assert len({taught.id, alone.id, model.id}) == 3


def test_an_adapter_of_another_teacher_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", teacher="of somebody else")
    with pytest.raises(InputError, match="was trained on teacher of somebody else, this is sums"):
        HighResolution(Sums(), tmp_path / "adapter")
    adapter = Adapter(21)
    save_model(tmp_path / "wide", adapter, describe(adapter), CARD)
    with pytest.raises(InputError, match="wants 21 features, the teacher gives 20"):
        HighResolution(Sums(), tmp_path / "wide")
