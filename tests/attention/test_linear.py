"""Gated linear attention against its plain recurrence in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenfold.attention import linear as module
from tenfold.attention.linear import gla
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def tensors(T: int, G: int = 1, H: int = 2, K: int = 4, V: int = 3, *, lowest: float = -0.5) -> list[Tensor]:
    make = torch.Generator().manual_seed(0)
    shapes = ((G * H, K), (H, K), (H, V))
    q, k, v = (torch.randn(2, T, *shape, generator=make, dtype=torch.float64) for shape in shapes)
    return [q, k, v, lowest * torch.rand(k.shape, generator=make, dtype=torch.float64)]


def recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float, s: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    groups = q.shape[2] // k.shape[2]
    for t in range(q.shape[1]):
        s = g[:, t].exp()[..., None] * s + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], s.repeat_interleave(groups, 1)))
    return torch.stack(outputs, 1), s


@given(T=st.integers(1, 90), chunk_size=st.integers(1, 90), G=st.integers(1, 3), lowest=st.sampled_from([-0.1, -50]))
@settings(max_examples=40)
def test_it_is_the_recurrence(T: int, chunk_size: int, G: int, lowest: float) -> None:
    """Outputs, final state and all gradients, whatever the chunks and the gates."""
    leaves = [x.requires_grad_() for x in (*tensors(T, G, lowest=lowest), torch.ones(2, 2, 4, 3, dtype=torch.float64))]
    results = []
    for function, options in ((gla, {"chunk_size": chunk_size}), (recurrence, {})):
        o, s = function(*leaves[:4], 0.5, leaves[4], **options)
        results.append((o, s, *torch.autograd.grad(o.sin().sum() + s.sin().sum(), leaves)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("T", [1, 7, 16, 65])
def test_gradients(T: int) -> None:
    leaves = [x.requires_grad_() for x in (*tensors(T, 2), torch.ones(2, 2, 4, 3, dtype=torch.float64))]
    assert torch.autograd.gradcheck(lambda *x: gla(*x[:4], 0.5, x[4], None, 16), leaves, fast_mode=True)


def test_packed_is_separate_and_autocast_changes_nothing() -> None:
    q, k, v, g = (x[:1].float() for x in tensors(50))
    packed, ends = gla(q, k, v, g, cu_seqlens=[0, 3, 50])
    for n, part in enumerate((slice(0, 3), slice(3, 50))):
        o, end = gla(*(x[:, part] for x in (q, k, v, g)))
        torch.testing.assert_close((packed[:, part], ends[n]), (o, end[0]), rtol=0, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gla(q, k, v, g, cu_seqlens=[0, 3, 50])[0], packed)


def test_nothing() -> None:
    leaves = [x.requires_grad_() for x in tensors(0)]
    o, s = gla(*leaves)
    assert o.shape == (2, 0, 2, 3) and not s.any()
    o.sum().backward()


def test_torch_accepts_the_operators() -> None:
    q, k, v, g = (x.float().requires_grad_() for x in tensors(20, 2))
    s = torch.zeros(2, 2, 4, 3, requires_grad=True)
    torch.library.opcheck(module._linear, (q, v, k, g, s, None, 8))
    given = [x.detach() for x in (q, v, k, g, s)]
    torch.library.opcheck(module._linear_backward, (*given, None, 8, torch.ones(2, 20, 4, 3), given[4]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g": torch.zeros(2, 6, 2, 5)}, r"g has shape \(2, 6, 2, 5\), k \(2, 6, 2, 4\)"),
        ({"q": torch.zeros(2, 6, 3, 4)}, "q has 3 heads, k 2"),
        ({"v": torch.zeros(2, 5, 2, 3)}, r"v has shape \(2, 5, 2, 3\)"),
        ({"initial_state": torch.zeros(1, 2, 4, 3)}, r"\(1, 2, 4, 3\) where \(2, 2, 4, 3\)"),
        ({"cu_seqlens": [0, 6]}, r"\(2, 6, 2, 4\)"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    given = dict(zip(("q", "k", "v", "g"), (x.float() for x in tensors(6)), strict=True)) | changes
    with pytest.raises(InputError, match=message):
        gla(**given)
