"""Batch norm folded away changes no answer; identities change with what they stand for, and with nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.core.errors import InputError
from tenfold.faces.inception_resnet import InceptionResnetV1
from tenfold.faces.inference import check_crops, fingerprint, fold, model_folder, read_licence, resize
from tenfold.faces.model import Adapter, StudentConfig, StudentNet, TeacherNet
from tenfold.faces.resnet50 import ResNet50


def with_lived_in_norms(net: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and factors of batch norm as after training, not the 0 and 1 that hide a wrong fold."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return net.eval()


NETWORKS = {
    "student of 16": (lambda: StudentNet(), (2, 3, 16, 16)),
    "student of 32": (lambda: StudentNet(StudentConfig(size=32)), (2, 3, 32, 32)),
    "small teacher": (lambda: TeacherNet(), (2, 3, 112, 112)),
    "adapter": (lambda: Adapter(40, 16, 8), (2, 40)),
    "Inception-ResNet-v1": (lambda: InceptionResnetV1(), (1, 3, 96, 96)),
    "ResNet-50": (lambda: ResNet50(), (1, 3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_answers_as_the_network_and_has_no_batch_norm(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = with_lived_in_norms(make())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(shape)
    with torch.inference_mode():
        folded = fold(net)
        expected, got = net(x), folded(x)
    assert (expected - got).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_fingerprint_changes_with_a_weight_and_with_the_config_and_not_with_how_they_are_stored() -> None:
    state = StudentNet().state_dict()
    one = fingerprint({"size": 16, "width": 1.0}, state)
    assert len(one) == 32
    reordered = {name: state[name].clone() for name in reversed(state)}
    reordered |= {name: x.to(memory_format=torch.channels_last) for name, x in reordered.items() if x.dim() == 4}
    assert fingerprint({"width": 1.0, "size": 16}, reordered) == one
    counters = {name: value + 7 for name, value in state.items() if name.endswith("num_batches_tracked")}
    assert counters and fingerprint({"size": 16, "width": 1.0}, state | counters) == one
    assert fingerprint({"size": 32, "width": 1.0}, state) != one
    changed = state["head.bias"].clone()
    changed[5] = torch.nextafter(changed[5], torch.tensor(1.0))
    assert fingerprint({"size": 16, "width": 1.0}, state | {"head.bias": changed}) != one


def test_resizing_keeps_a_plain_face_plain_and_averages_areas() -> None:
    plain = np.full((2, 112, 112, 3), (10, 120, 250), np.uint8)
    for side in (16, 112, 160):
        assert resize(plain, side).shape == (2, side, side, 3)
        assert (resize(plain, side) == (10, 120, 250)).all()
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    means = noise.reshape(1, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(resize(noise, 16) - means).max() <= 0.5


@pytest.mark.parametrize(
    ("crops", "said"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), "are float32"),
        (np.zeros((16, 16, 3), np.uint8), "shape"),
        (np.zeros((2, 16, 12, 3), np.uint8), "shape"),
        (np.zeros((2, 16, 16, 4), np.uint8), "shape"),
        (np.zeros((2, 0, 0, 3), np.uint8), "shape"),
    ],
)
def test_other_arrays_than_crops_are_refused(crops: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_crops(crops)


def test_the_licence_is_read_from_the_card_and_a_run_stands_for_its_best(tmp_path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "last").mkdir()
    assert model_folder(tmp_path) == tmp_path
    (tmp_path / "last" / "model.safetensors").touch()
    assert model_folder(tmp_path) == tmp_path / "last"
    (tmp_path / "best" / "model.safetensors").touch()
    assert model_folder(tmp_path) == tmp_path / "best"
    assert read_licence(tmp_path) == "not stated"
    (tmp_path / "README.md").write_text('---\nlicense: "cc-by-nc-4.0"\nlibrary_name: "tenfold"\n---\n# A student\n')
    assert read_licence(tmp_path) == "cc-by-nc-4.0"
