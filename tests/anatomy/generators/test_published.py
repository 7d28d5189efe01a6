"""Published weights: files of the paper's format, made here in miniature, give the images that their layers say."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tenfold.anatomy.generators.published import load_published  # noqa: E402

GRID = (36, 48, 36)
State = dict[str, Tensor]


def _norm(name: str, channels: int, batch: bool) -> State:
    state = {f"{name}.weight": torch.rand(channels) + 0.5, f"{name}.bias": torch.randn(channels) / 4}
    if batch:
        state |= {f"{name}.running_mean": torch.randn(channels) / 4, f"{name}.running_var": torch.rand(channels) + 0.5}
        state |= {f"{name}.num_batches_tracked": torch.tensor(7)}
    return state


def _upsampling(first: State) -> State:
    """bn1 and tp_conv2 to tp_conv5, an eighth of the paper's widths."""
    state = first | _norm("bn1", 64, batch=True)
    for number, (ins, outs) in enumerate([(64, 32), (32, 16), (16, 8), (8, 1)], 2):
        state[f"tp_conv{number}.weight"] = torch.randn(outs, ins, 3, 3, 3) / 8
        state |= _norm(f"bn{number}", outs, batch=True) if outs > 1 else {}
    return state


def _state(name: str) -> State:
    torch.manual_seed(0)
    if name == "vae-gan":
        return _upsampling({"fc.weight": torch.randn(64 * 12, 125) / 8, "fc.bias": torch.randn(64 * 12)})
    if name == "alpha-wgan":
        return _upsampling({"tp_conv1.weight": torch.randn(125, 64, 2, 3, 2) / 8})
    state = {"fc1.weight": torch.randn(64 * 64, 128) / 8, "fc1.bias": torch.randn(64 * 64)}
    widths = {"": [64, 64, 64, 32, 16, 8, 4, 1], "sub_G.": [8, 4, 2, 1]}
    for prefix, channels in widths.items():
        for number in range(1, len(channels)):
            outs, ins = channels[number], channels[number - 1]
            state[f"{prefix}tp_conv{number}.weight"] = torch.randn(outs, ins, 3, 3, 3) / 8
            state[f"{prefix}tp_conv{number}.bias"] = torch.randn(outs) / 8
            state |= _norm(f"{prefix}bn{number}", outs, batch=False) if outs > 1 else {}
    return state


def _expected(name: str, state: State, latents: Tensor) -> Tensor:
    """The official generator, written out from its layers."""

    def block(number: int, given: Tensor) -> Tensor:
        return F.conv3d(given, state[f"tp_conv{number}.weight"], state.get(f"tp_conv{number}.bias"), padding=1)

    def norm(number: int, given: Tensor) -> Tensor:
        own = {key: state.get(f"bn{number}.{key}") for key in ("running_mean", "running_var", "weight", "bias")}
        if name == "ha-gan":
            return F.relu(F.group_norm(given, min(8, given.shape[1]), own["weight"], own["bias"]))
        return F.relu(F.batch_norm(given, **own))

    if name == "ha-gan":
        made = F.linear(latents, state["fc1.weight"], state["fc1.bias"]).view(-1, 64, 4, 4, 4)
        for number, scale in ((1, 2), (2, 2), (3, (1.125, 1.5, 1.125)), (4, 1), (5, 1)):
            made = F.interpolate(norm(number, block(number, made)), scale_factor=scale)
        return torch.tanh(block(7, F.interpolate(norm(6, block(6, made)), scale_factor=2)))
    if name == "vae-gan":
        made = F.linear(latents, state["fc.weight"], state["fc.bias"]).view(-1, 64, 2, 3, 2)
    else:
        made = F.conv_transpose3d(latents.view(-1, 125, 1, 1, 1), state["tp_conv1.weight"])
    for number in range(1, 5):
        made = block(number + 1, F.interpolate(norm(number, made), scale_factor=2))
    return torch.tanh(F.interpolate(made, scale_factor=(1.125, 1, 1.125)))


@pytest.mark.parametrize("name", ["vae-gan", "alpha-wgan", "ha-gan"])
@pytest.mark.parametrize("parallel", [True, False])
def test_images_are_those_of_the_file_s_layers(name, parallel, tmp_path: Path):
    state = _state(name)
    named = {f"module.{key}" if parallel else key: value for key, value in state.items()}
    whole = named if name == "vae-gan" else {"model": named, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}
    torch.save(whole, tmp_path / "G.pth")
    made = load_published(name, tmp_path / "G.pth", GRID, "miniature")
    latents = torch.randn(2, made.latent)
    with torch.inference_mode():
        drawn = made._trained()(latents)
    assert drawn.std() > 0.01 and torch.allclose(drawn, _expected(name, state, latents), atol=1e-4)
    assert np.isfinite(made.sample(1)).all()


def test_files_without_counters_are_read(tmp_path: Path):
    state = _state("vae-gan")
    torch.save(state, tmp_path / "whole.pth")
    torch.save({key: value for key, value in state.items() if "tracked" not in key}, tmp_path / "G.pth")
    whole, without = (load_published("vae-gan", tmp_path / name, GRID, "miniature") for name in ("whole.pth", "G.pth"))
    np.testing.assert_array_equal(whole.sample(1), without.sample(1))


def test_what_is_missing_left_over_or_of_another_shape_is_named(tmp_path: Path):
    state = _state("ha-gan")
    del state["sub_G.bn2.weight"]
    state |= {"fc9.bias": torch.zeros(1), "tp_conv7.bias": torch.zeros(3)}
    torch.save({"model": state}, tmp_path / "G.pth")
    said = r"misses sub_G\.bn2\.weight; has besides fc9\.bias; has other shapes of tp_conv7\.bias \(3 instead of 1\)"
    with pytest.raises(InputError, match=said):
        load_published("ha-gan", tmp_path / "G.pth", GRID, "miniature")


def test_files_of_another_generator_or_size_are_refused(tmp_path: Path):
    torch.save(_state("vae-gan"), tmp_path / "G.pth")
    with pytest.raises(InputError, match=r"misses tp_conv1\.weight; has besides fc\.bias, fc\.weight"):
        load_published("alpha-wgan", tmp_path / "G.pth", GRID, "miniature")
    with pytest.raises(InputError, match=r"fc\.weight \(768 x 125 instead of 49152 x 1000\)"):
        load_published("vae-gan", tmp_path / "G.pth")
    with pytest.raises(InputError, match="'cdpm': has no published weights"):
        load_published("cdpm", tmp_path / "G.pth")


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("content", [b"", b"no file of weights", Hostile(), {"model": 3}, [1, 2], {"a": {"b": 1}}])
def test_other_files_are_refused_and_nothing_in_them_is_run(content, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "G.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "G.pth")
    with pytest.raises(InputError, match=r"G\.pth: (is no file of tensors alone|holds no weights by name)"):
        load_published("vae-gan", tmp_path / "G.pth", GRID, "miniature")
    assert not (tmp_path / "touched").exists()
    with pytest.raises(InputError, match="no such file"):
        load_published("vae-gan", tmp_path / "other.pth")
