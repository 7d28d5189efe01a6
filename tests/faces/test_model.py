"""The networks: their size and work, counted; folders that are read back; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.core.artifacts import ModelCard, save_model
from tenfold.core.errors import InputError
from tenfold.faces.model import (
    Adapter,
    StudentConfig,
    StudentNet,
    TeacherNet,
    TeacherNetConfig,
    describe,
    load_adapter,
    load_student,
    load_teacher_net,
    to_input,
)

CARD = ModelCard("a", "faces", "b", {}, {}, "c", "d", "other")


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiplications(network: nn.Module, size: int) -> int:
    """Multiplications of convolutions and linear layers in one forward pass of one face."""
    total = 0

    def note(layer: Any, _: Any, output: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output[0].numel()

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


def test_the_student_has_the_papers_size_and_the_work_of_four_million_multiplications() -> None:
    student = StudentNet()
    assert count_parameters(student) == 219_464
    assert 0.19e6 <= count_parameters(student) <= 0.23e6
    assert count_multiplications(student, 16) == 4_029_696 <= 5e6
    assert count_multiplications(student, 32) <= 4 * count_multiplications(student, 16)


def test_a_student_for_32_px_has_a_stride_and_the_same_parameters() -> None:
    student = StudentNet(StudentConfig(size=32))
    assert count_parameters(student) == 219_464
    assert count_multiplications(student, 32) <= 5e6


def test_the_teacher_is_a_network_of_two_to_four_million_parameters_with_features_of_256() -> None:
    teacher = TeacherNet().eval()
    assert 2e6 <= count_parameters(teacher) <= 4e6
    assert teacher(torch.zeros(2, 3, 112, 112)).shape == (2, 256)


@pytest.mark.parametrize("size", [8, 9, 16, 20, 24, 32, 48, 112])
def test_one_student_embeds_faces_of_any_size(size: int) -> None:
    s_Bd = StudentNet(StudentConfig(dimension=64)).eval()(torch.zeros(3, 3, size, size))
    assert s_Bd.shape == (3, 64) and s_Bd.isfinite().all()


def test_width_scales_channels() -> None:
    assert count_parameters(StudentNet(StudentConfig(width=0.5))) < 70_000
    assert count_parameters(StudentNet(StudentConfig(width=2))) > 800_000


def test_to_input_maps_bytes_to_minus_one_to_one_and_channels_first() -> None:
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, 1, 0] = 255, 127, 0
    x = to_input(picture)
    assert x.shape == (1, 3, 2, 2) and x.dtype == torch.float32
    assert x[0, :, 1, 0].tolist() == pytest.approx([1, 127 / 127.5 - 1, -1])


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.float32)])
def test_to_input_refuses_what_is_no_rgb_bytes(wrong: Any) -> None:
    with pytest.raises(InputError, match="give RGB bytes"):
        to_input(wrong)


def test_networks_come_back_from_their_folders(tmp_path: Path) -> None:
    student, adapter = StudentNet(StudentConfig(24, 32, 0.5)), Adapter(40, 24, 32)
    teacher = TeacherNet(TeacherNetConfig(64))
    for name, network in (("student", student), ("adapter", adapter), ("teacher", teacher)):
        save_model(tmp_path / name, network, describe(network) | {"teacher": "x"}, CARD)
    again, config = load_student(tmp_path / "student")
    assert config["teacher"] == "x" and again.config == student.config and not again.training
    z = torch.randn(2, 3, 24, 24)
    assert torch.equal(again(z), student.eval()(z))
    t = torch.randn(2, 40)
    assert torch.equal(load_adapter(tmp_path / "adapter")[0](t), adapter.eval()(t))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(load_teacher_net(tmp_path / "teacher")[0](x), teacher.eval()(x))


def test_the_folder_of_a_run_stands_for_its_best_else_its_last_model(tmp_path: Path) -> None:
    for name, dimension in (("last", 8), ("best", 16)):
        student = StudentNet(StudentConfig(dimension=dimension, width=0.2))
        save_model(tmp_path / name, student, describe(student), CARD)
        assert load_student(tmp_path)[0].config.dimension == dimension


def test_a_folder_of_another_kind_or_without_its_shape_is_refused(tmp_path: Path) -> None:
    adapter = Adapter(4, 4, 4)
    save_model(tmp_path / "a", adapter, describe(adapter), CARD)
    with pytest.raises(InputError, match="is of kind 'adapter', not 'student'"):
        load_student(tmp_path / "a")
    save_model(tmp_path / "b", adapter, {"kind": "adapter"}, CARD)
    with pytest.raises(InputError, match="misses features, hidden, dimension"):
        load_adapter(tmp_path / "b")
    save_model(tmp_path / "c", adapter, describe(adapter) | {"features": 1 << 40}, CARD)
    with pytest.raises(InputError, match="features is"):
        load_adapter(tmp_path / "c")


@pytest.mark.parametrize("shape", [{"size": 4}, {"size": 16.0}, {"dimension": 0}, {"width": 0.0}, {"width": "1"}])
def test_shapes_out_of_range_are_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(shape))):
        StudentConfig(**shape)
