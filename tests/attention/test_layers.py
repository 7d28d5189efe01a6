"""Each mixer against its equations written out plainly; padding, packing and streaming change nothing."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tenfold.attention.layers import MIXERS, Mixer, MixerConfig, State
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [(name, convolution) for name in MIXERS for convolution in (False, True)]
KIND_NAMES = [name + " with convolution" * convolution for name, convolution in KINDS]
every_kind = pytest.mark.parametrize(("name", "convolution"), KINDS, ids=KIND_NAMES)


def config(**changes: Any) -> MixerConfig:
    return MixerConfig(**{"hidden_size": 16, "num_heads": 4, "num_kv_heads": 2, "num_slots": 5} | changes)


def layer(name: str, convolution: bool = False, dtype: torch.dtype = torch.float64, **changes: Any) -> Mixer:
    torch.manual_seed(0)
    made = MIXERS[name](config(use_short_conv=convolution, **changes)).to(dtype)
    for weights in made.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    return made


def tokens(B: int, T: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(B, T, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- equations -----------------------------------------------------------------------------------------------


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1))


@pytest.mark.parametrize("name", ["gsa", "abc"])
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("feature_map", ["swish", "relu", "t2r", "identity"])
def test_slot_attention(name: str, convolution: bool, feature_map: str) -> None:
    """Token by token, as the paper writes it; every kind of feature map, and the order of convolution and map."""
    made = layer(name, convolution, feature_map=feature_map)
    x = tokens(2, 23)
    q, k, v = made.q_proj(x), made.k_proj(x), made.v_proj(x)
    if convolution:
        padded = [functional.pad(y, (0, 0, 3, 0)) for y in (q, k, v)]
        weights = [made.q_conv1d.weight[:, 0], made.k_conv1d.weight[:, 0], made.v_conv1d.weight[:, 0]]
        q, k, v = (
            functional.silu(sum(y[:, n : n + 23] * w[:, n] for n in range(4)))
            for y, w in zip(padded, weights, strict=True)
        )
    q, k, v, f = heads(q, 4), heads(k, 2), functional.silu(heads(v, 2)), heads(made.f_proj(x), 2)
    phi = {"swish": functional.silu, "relu": torch.relu, "identity": lambda y: y}.get(feature_map)
    q, k = (phi(y) if phi else torch.relu(y @ made.feature_map.layer.weight.mT) for y in (q, k))
    alpha = f.sigmoid() ** (1 / 8)
    hk, hv = torch.zeros(2, 2, 4, 5, dtype=x.dtype), torch.zeros(2, 2, 5, 4, dtype=x.dtype)
    outputs = []
    for t in range(23):
        if name == "abc":
            weights = f[:, : t + 1].softmax(1)
            hk, hv = (torch.einsum("bthm,bthd->bhmd", weights, y[:, : t + 1]) for y in (k, v))
            hk = hk.mT
        else:
            a = alpha[:, t]
            hk = hk * a[:, :, None] + k[:, t, :, :, None] * (1 - a)[:, :, None]
            hv = hv * a[..., None] + (1 - a)[..., None] * v[:, t, :, None]
        read = [(q[:, t, head, None] @ hk[:, head // 2]).softmax(-1) @ hv[:, head // 2] for head in range(4)]
        outputs.append(torch.cat(read, 1).flatten(1))
    y = functional.silu(torch.stack(outputs, 1))
    y = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * made.g_norm.weight
    torch.testing.assert_close(made(x), made.o_proj(y))


@pytest.mark.parametrize("name", ["gla", "retnet"])
def test_linear_attention(name: str) -> None:
    """The recurrence of GLA; that of RetNet, with positions as turns in the complex plane."""
    made, x = layer(name), tokens(2, 23)
    q, k, v = heads(made.q_proj(x), 4), heads(made.k_proj(x), 4), heads(made.v_proj(x), 4)
    if name == "gla":
        decay = heads(made.gk_proj(x).sigmoid() ** (1 / 16), 4)
    else:
        decay = (1 - 2.0 ** (-5 - torch.arange(4.0)))[:, None].expand(2, 23, 4, 2)
        turns = torch.polar(torch.ones(23, dtype=torch.float64), torch.arange(23.0, dtype=torch.float64))
        q, k = (torch.view_as_real(torch.view_as_complex(y) * turns[:, None]) for y in (q, k))
    s = torch.zeros(2, 4, 2, 4, dtype=x.dtype)
    outputs = []
    for t in range(23):
        s = decay[:, t, ..., None] * s + k[:, t, ..., None] * v[:, t, :, None]
        outputs.append((2**-0.5 * q[:, t, :, None] @ s)[:, :, 0])
    y = torch.stack(outputs, 1)
    y = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * made.g_norm.weight
    wanted = made.o_proj(y.flatten(2) * functional.silu(made.g_proj(x)))
    torch.testing.assert_close(made(x), wanted, rtol=1e-5, atol=1e-5)


def test_retnet_forgets_at_full_precision_in_half_precision_models() -> None:
    """The longest memory, 1 - 2^-8, is no bfloat16."""
    rates = layer("retnet", dtype=torch.bfloat16)._gates(tokens(1, 1, torch.bfloat16))
    torch.testing.assert_close(rates[0, 0, :, 0].exp(), 1 - 2.0 ** (-5 - torch.arange(4.0)))


# --- padding, packing, streams -------------------------------------------------------------------------------

MASKS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0]],
    "interior": [[1, 0, 1, 1, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1, 1, 1, 0]],
    "none, and all": [[1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0]],
}


@every_kind
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_padding(name: str, convolution: bool, mask: list[list[int]]) -> None:
    """Padded equals unpadded, in outputs, gradients, and what follows; what stands in padding has no influence."""
    made, x, mask_BT = layer(name, convolution), tokens(2, 9), torch.tensor(mask).bool()
    more = tokens(2, 5, seed=2)
    results = []
    for other in (tokens(2, 9, seed=3), 50 * tokens(2, 9, seed=4)):
        padded = torch.where(mask_BT[..., None], x, other).requires_grad_()
        state: State = {}
        y = made(padded, mask_BT, state)
        behind = torch.cat([made(more[:, :4], None, state), made(more[:, 4:], None, state)], 1)
        (gradient,) = torch.autograd.grad(y[mask_BT].sin().sum() + behind.sin().sum(), padded)
        assert torch.isfinite(gradient).all() and not gradient[~mask_BT].any()
        results.append((y[mask_BT], behind, gradient[mask_BT]))
        for row in range(2):
            alone = x[row : row + 1, mask_BT[row]]
            wanted = made(torch.cat([alone, more[row : row + 1]], 1))[0]
            found = torch.cat([y[row, mask_BT[row]], behind[row]])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_kind
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_padding_that_is_no_number(name: str, convolution: bool, strange: float) -> None:
    """In outputs, gradients of weights, and what follows: as if something else stood there."""
    made, mask_BT, results = layer(name, convolution), torch.tensor(MASKS["interior"]).bool(), []
    for other in (0.0, strange):
        state: State = {}
        y = made(tokens(2, 9).masked_fill(~mask_BT[..., None], other), mask_BT, state)[mask_BT]
        behind = made(tokens(2, 5, seed=2), None, state)
        results.append([y, behind, *torch.autograd.grad(y.sin().sum() + behind.sin().sum(), made.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@every_kind
@given(cuts=st.lists(st.integers(0, 38), max_size=4), padded=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 39))))
@settings(max_examples=10)
def test_prefill_in_pieces(name: str, convolution: bool, cuts: list[int], padded: set[tuple[int, int]]) -> None:
    """Cut anywhere, also into single tokens and nothing, with padding anywhere: as in one piece."""
    made, x = layer(name, convolution), tokens(2, 40)
    mask_BT = torch.tensor([[(row, t) not in padded for t in range(40)] for row in range(2)])
    state: State = {}
    with torch.no_grad():
        places = [0, *sorted(cuts), 38, 39, 40]
        pieces = [made(x[:, a:b], mask_BT[:, a:b], state) for a, b in pairwise(places)]
        wanted = made(x, mask_BT)
    torch.testing.assert_close(torch.cat(pieces, 1)[mask_BT], wanted[mask_BT], rtol=0, atol=1e-9)


@pytest.mark.parametrize("T", [257, 259, 1023])
def test_convolutions_go_on_behind_long_texts_in_half_precision(T: int) -> None:
    """bfloat16 has none of these numbers of tokens."""
    made, x = layer("gsa", True, torch.bfloat16), tokens(1, T + 1, torch.bfloat16)
    state: State = {}
    with torch.no_grad():
        made(x[:, :T], None, state)
        assert torch.equal(state["conv_q"], made.q_proj(x[:, T - 3 : T]))
        found, wanted = made(x[:, T:], None, state)[:, 0], made(x)[:, -1]
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()


@every_kind
def test_packed_is_separate(name: str, convolution: bool) -> None:
    """In outputs and in gradients of weights."""
    made, x, starts = layer(name, convolution), tokens(1, 90), [0, 1, 4, 75, 90]
    packed = made(x, cu_seqlens=torch.tensor(starts))
    separate = torch.cat([made(x[:, a:b]) for a, b in pairwise(starts)], 1)
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-9)
    gradients = [torch.autograd.grad(y.sin().sum(), made.parameters()) for y in (packed, separate)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-7)


@every_kind
def test_autocast_and_half_precision_stay_near(name: str, convolution: bool) -> None:
    """99 of 100 numbers do: the norm behind the operator magnifies the rounding of a sum that nearly cancels."""
    made, x = layer(name, convolution, torch.float32), tokens(2, 70, torch.float32)
    wanted = made(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(x)
        found.float().sum().backward()
    assert (found - wanted).abs().quantile(0.99) < 0.03 * wanted.abs().max()
    half = made.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and (half - wanted).abs().quantile(0.99) < 0.03 * wanted.abs().max()


@every_kind
def test_nothing(name: str, convolution: bool) -> None:
    made = layer(name, convolution)
    state: State = {}
    for shape in ((2, 0, 16), (0, 3, 16)):
        y = made(torch.zeros(shape, dtype=torch.float64, requires_grad=True), None, state)
        assert y.shape == shape
        y.sum().backward()
    assert state == {}


@pytest.mark.parametrize("name", ["gsa", "abc", "gla", "retnet"])
def test_states_do_not_grow(name: str) -> None:
    made, state, sizes = layer(name, name == "gsa"), {}, []
    with torch.no_grad():
        for length in (1, 1, 100, 1000):
            made(tokens(2, length), None, state)
            sizes.append({key: x.shape for key, x in state.items()})
    assert all(size == sizes[0] for size in sizes)


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_slots": -1}, "num_slots is -1"),
        ({"num_kv_heads": 3}, "num_heads is 4, num_kv_heads 3"),
        ({"hidden_size": 18}, "hidden_size is 18, num_heads 4"),
        ({"gate_logit_normalizer": 0}, "gate_logit_normalizer is 0"),
        ({"feature_map": "elu"}, "feature_map 'elu'"),
    ],
)
def test_bad_config(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MIXERS["gsa"](config(**changes))


def test_odd_heads() -> None:
    with pytest.raises(InputError, match="size 3; rotary positions need an even one"):
        MIXERS["softmax"](config(hidden_size=12))
    with pytest.raises(InputError, match="size 2; retnet needs a multiple of 4"):
        MIXERS["retnet"](config(hidden_size=8))


@pytest.mark.parametrize("name", MIXERS)
def test_bad_input(name: str) -> None:
    made, x, mask = layer(name), tokens(2, 6), torch.ones(2, 6, dtype=torch.bool)
    for arguments, message in [
        ((x[0],), r"shape \(6, 16\); \(batch, time, 16\)"),
        ((x[..., :8],), r"shape \(2, 6, 8\)"),
        ((x, mask[:, :5]), r"mask has shape \(2, 5\)"),
        ((x, mask.long()), r"torch.int64; \(2, 6\), torch.bool"),
        ((x[:1], mask[:1], None, [0, 6]), "cu_seqlens goes without mask and state"),
        ((x[:1], None, {}, [0, 6]), "cu_seqlens goes without mask and state"),
        ((x, None, None, [0, 6]), r"\(2, 6, 16\)"),
        ((x[:1], None, None, [0, 5]), "to the 6 tokens"),
    ]:
        with pytest.raises(InputError, match=message):
            made(*arguments)
