"""The U-Net: shapes, what it may depend on, and its attention against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.anatomy.generators.denoiser import (
    Denoiser,
    DenoiserConfig,
    ResidualBlock,
    SliceAttention,
    SpaceAttention,
    sinusoids,
)

SLICES = DenoiserConfig(2, 2, 1, (8, 16), 1, (1,), 2)
VOLUME = DenoiserConfig(3, 2, 1, (8, 8, 16), 1, (2,), 2)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """With random weights everywhere, those that begin at 0 included."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@settings(max_examples=8)
@given(st.tuples(*[st.integers(3, 13)] * 3))
def test_any_sides_come_back(sides: tuple[int, int, int]) -> None:
    """Property: sides are halved upwards and come back whole, odd ones too, in 3D and for slices."""
    with torch.inference_mode():
        assert Denoiser(VOLUME)(torch.randn(1, 2, *sides), torch.tensor([3])).shape == (1, 1, *sides)
        places = torch.arange(sides[2])[None]
        found = Denoiser(SLICES)(torch.randn(1, sides[2], 2, *sides[:2]), torch.tensor([3]), places)
    assert found.shape == (1, sides[2], 1, *sides[:2])


def test_an_untrained_denoiser_says_zero() -> None:
    assert not Denoiser(VOLUME)(torch.randn(2, 2, 8, 8, 8), torch.tensor([0, 999])).any()


def test_every_weight_learns() -> None:
    for config, noisy, places in (
        (VOLUME, torch.randn(1, 2, 8, 8, 8), None),
        (SLICES, torch.randn(1, 3, 2, 8, 8), torch.tensor([[0, 4, 5]])),
    ):
        network = shaken(Denoiser(config))
        network(noisy, torch.tensor([5]), places).square().sum().backward()
        dead = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert not dead


def test_answer_depends_on_the_step_and_on_each_sample_alone() -> None:
    network = shaken(Denoiser(VOLUME))
    noisy = torch.randn(2, 2, 8, 8, 8)
    with torch.inference_mode():
        both = network(noisy, torch.tensor([5, 700]))
        assert torch.allclose(both[1:], network(noisy[1:], torch.tensor([700])), atol=1e-4)
        assert not torch.allclose(both[1:], network(noisy[1:], torch.tensor([5])), atol=1e-2)


def test_slices_may_come_in_any_order() -> None:
    """Slices that change places together with their numbers give the same answers, in the new order."""
    network = shaken(Denoiser(SLICES))
    noisy, places = torch.randn(1, 4, 2, 8, 9), torch.tensor([[0, 3, 4, 30]])
    order = torch.tensor([2, 0, 3, 1])
    with torch.inference_mode():
        found = network(noisy, torch.tensor([50]), places)
        turned = network(noisy[:, order], torch.tensor([50]), places[:, order])
    assert torch.allclose(turned, found[:, order], atol=1e-4)


def test_a_slice_sees_the_others_and_its_place() -> None:
    network = shaken(Denoiser(SLICES))
    noisy, places = torch.randn(1, 3, 2, 8, 8), torch.tensor([[0, 3, 4]])
    other = noisy.clone()
    other[0, 2] += 1
    with torch.inference_mode():
        found = network(noisy, torch.tensor([50]), places)
        assert not torch.allclose(network(other, torch.tensor([50]), places)[0, 0], found[0, 0], atol=1e-3)
        assert not torch.allclose(network(noisy, torch.tensor([50]), places + 9), found, atol=1e-3)


def test_slice_attention_is_shaw_et_al() -> None:
    """Against loops: softmax over slices of q (k + r) / sqrt(D), then v + r', r and r' of the signed distance."""
    layer = shaken(SliceAttention(8, 2))
    x, places = torch.randn(3, 8, 1, 2), torch.tensor([[1, 2, 7]])
    tokens = layer.norm(x).flatten(2)  # K C L
    expected = x.clone().flatten(2)
    for place in range(2):
        q, k, v = layer.project(tokens[:, :, place]).chunk(3, 1)
        seen = torch.zeros(3, 8)
        for head in (slice(0, 4), slice(4, 8)):
            for i in range(3):
                apart = [float(places[0, i] - places[0, j]) for j in range(3)]
                rows = torch.tensor([[math.log1p(max(d, 0)), math.log1p(max(-d, 0)), float(d == 0)] for d in apart])
                key, value = layer.relative(rows).chunk(2, 1)
                weights = torch.stack([q[i, head] @ (k[j, head] + key[j, head]) / 2 for j in range(3)]).softmax(0)
                seen[i, head] = sum(weights[j] * (v[j, head] + value[j, head]) for j in range(3))
        expected[:, :, place] += layer.leave(seen)
    assert torch.allclose(layer(x, places).flatten(2), expected, atol=1e-4)


def test_slice_attention_knows_only_how_far_apart_slices_lie() -> None:
    layer = shaken(SliceAttention(8, 2))
    x, places = torch.randn(4, 8, 3, 3), torch.tensor([[1, 2], [1, 5]])
    found = layer(x, places)
    assert torch.allclose(layer(x, places + 40), found, atol=1e-5)
    assert not torch.allclose(layer(x, places.flip(0)), found, atol=1e-3)


def test_space_attention_is_softmax_over_places() -> None:
    layer = shaken(SpaceAttention(8, 2))
    x = torch.randn(1, 8, 2, 3)
    q, k, v = layer.project(layer.norm(x).flatten(2)[0].T).chunk(3, 1)
    seen = torch.cat([(q[:, h] @ k[:, h].T / 2).softmax(1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))], 1)
    assert torch.allclose(layer(x), x + layer.leave(seen).T.reshape(x.shape), atol=1e-4)


@pytest.mark.parametrize("embedding", [0, 5])
def test_residual_block_begins_as_its_shortcut(embedding: int) -> None:
    block = ResidualBlock(3, 8, 8, embedding)
    x = torch.randn(2, 8, 4, 4, 4)
    given_BE: Tensor | None = torch.randn(2, embedding) if embedding else None
    assert torch.equal(block(x, given_BE), x)


def test_sinusoids_tell_steps_apart() -> None:
    """All 1000 steps have different embeddings, of one length."""
    rows = sinusoids(torch.arange(1000), 16)
    apart = torch.cdist(rows, rows) + 10 * torch.eye(1000)
    assert rows.shape == (1000, 16) and float(apart.min()) > 0.1
    assert torch.allclose(rows.norm(dim=1), torch.full((1000,), 8**0.5), atol=1e-4)
