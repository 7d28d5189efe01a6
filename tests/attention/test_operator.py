"""Every backend of the operator against the golden files, the recurrence in float64, and closed forms."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenfold.attention import chunked
from tenfold.attention import operator as module
from tenfold.attention.operator import abc_gates, gsa, gsa_step
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = ("naive", "torch")
NAMES = ("q", "k", "v", "s", "g")


def tensors(
    T: int,
    B: int = 1,
    H: int = 2,
    G: int = 1,
    K: int = 4,
    V: int = 3,
    M: int = 5,
    *,
    lowest: float = -0.7,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random inputs; gates are spread over [lowest, 0]."""
    make = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(B, T, heads, size, generator=make, dtype=torch.float64)
        for heads, size in ((G * H, K), (H, K), (H, V))
    )
    s, u = (torch.rand(B, T, H, M, generator=make, dtype=torch.float64) for _ in range(2))
    return {name: x.to(dtype) for name, x in zip(NAMES, (q, k, v, s, u * lowest), strict=True)}


def state(B: int, H: int, K: int, V: int, M: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(9)
    hk, hv = (torch.randn(B, H, *size, generator=make, dtype=torch.float64) for size in ((K, M), (M, V)))
    return hk.to(dtype), hv.to(dtype)


def run(
    given: dict[str, Tensor],
    first: tuple[Tensor, Tensor] | None = None,
    autocast: torch.dtype | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Outputs, final state and the gradients of a fixed function of all three, by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in given.items()}
    begin = None if first is None else tuple(x.detach().clone().requires_grad_() for x in first)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        o, end = gsa(*leaves.values(), initial_state=begin, output_final_state=True, **options)
    assert end is not None
    parts = (o, *end)
    make = torch.Generator().manual_seed(5)
    sum((x * torch.randn(x.shape, generator=make, dtype=torch.float64)).sum() for x in parts).backward()
    found = dict(zip(("o", "hk", "hv"), parts, strict=True)) | {f"d{name}": x.grad for name, x in leaves.items()}
    if begin is not None:
        found |= {"dhk_0": begin[0].grad, "dhv_0": begin[1].grad}
    return {name: x.detach() for name, x in found.items()}


def agree(
    found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float, peer: dict[str, Tensor] | None = None
) -> None:
    """Errors are within a share of the largest number, or ten times those of a peer in the same precision."""
    assert found.keys() == wanted.keys()
    for name, x in found.items():
        assert torch.isfinite(x).all(), name
        error, largest = (x.double() - wanted[name].double()).abs().max(), wanted[name].abs().max()
        allowed = tolerance * max(float(largest), 0.1)
        if peer is not None:
            allowed = max(allowed, 10 * float((peer[name].double() - wanted[name].double()).abs().max()))
        assert error <= allowed, f"{name}: {error:.2g} of {largest:.2g}"


# --- golden files, gradients, hostile input ------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "chunk_size"), [("naive", 64), ("torch", 64), ("torch", 16)])
@pytest.mark.parametrize("case", ["abc", "gqa", "hostile_gates", "long_init", "plain"])
def test_golden(attention_data: Path, case: str, backend: str, chunk_size: int) -> None:
    """Outputs, states and gradients are those of the public reference recurrence, hostile gates included."""
    golden = {name: torch.from_numpy(x) for name, x in np.load(attention_data / f"golden/op_{case}.npz").items()}
    leaves = {name: golden[name].requires_grad_() for name in NAMES if name in golden}
    first = (golden["hk_0"], golden["hv_0"]) if "hk_0" in golden else None
    o, end = gsa(
        *(leaves.get(name) for name in NAMES),
        scale=float(golden["scale"]),
        initial_state=first,
        output_final_state=True,
        chunk_size=chunk_size,
        backend=backend,
    )
    assert end is not None
    (o * golden["do"]).sum().backward()
    found = {"o": o, "hk_T": end[0], "hv_T": end[1]} | {f"d{name}": x.grad for name, x in leaves.items()}
    agree({name: x.detach() for name, x in found.items()}, {name: golden[name] for name in found}, 1e-5)


@pytest.mark.parametrize("T", [1, 7, 16, 65])
@pytest.mark.parametrize("G", [1, 2])
def test_gradients_are_the_function_s(T: int, G: int) -> None:
    """Finite differences, through several chunks, of outputs and final state, with respect to initial states too."""
    given, first = tensors(T, H=2 - T // 65, G=G, K=3, V=2, M=3), state(1, 2 - T // 65, 3, 2, 3)
    leaves = [x.requires_grad_() for x in (*given.values(), *first)]

    def function(*x: Tensor) -> tuple[Tensor, ...]:
        o, end = gsa(*x[:5], 0.7, (x[5], x[6]), True, chunk_size=16)
        assert end is not None
        return o, *end

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("T", [1, 7, 16, 65])
def test_gradients_of_abc(T: int) -> None:
    given = tensors(T, G=2, K=3, V=2, M=3)
    leaves = [given[name].requires_grad_() for name in ("q", "k", "v", "s")]
    assert torch.autograd.gradcheck(lambda *x: gsa(*x, chunk_size=16)[0], leaves, fast_mode=True)


HOSTILE = {
    "to -1000": lambda g: g * 1000,
    "-inf": lambda g: torch.where(g < -0.5, -torch.inf, g),
    "nothing but -inf": lambda g: torch.full_like(g, -torch.inf),
    "exactly 0": torch.zeros_like,
    "0 and -inf": lambda g: torch.where(g < -0.5, -torch.inf, 0.0),
    "one -1e6, then weak ones": lambda g: torch.where(torch.arange(g.shape[1])[:, None, None] == 3, -1e6, 0.01 * g),
    "slots from 0 to -100": lambda g: g * torch.logspace(-6, 2, g.shape[-1]),
    "just above the floor": lambda g: g * 0 - 29.9,
    "just where factors end": lambda g: g * 0 - 120 / 63,
}


@pytest.mark.parametrize("large", [1, 100])
@pytest.mark.parametrize("gates", HOSTILE.values(), ids=HOSTILE)
def test_hostile_gates(gates: Any, large: float) -> None:
    """Finite, and equal to the recurrence in float64, in all that comes out and in all gradients."""
    given, first = tensors(100, G=2, lowest=-1), state(1, 2, 4, 3, 5)
    given |= {"g": gates(given["g"]).double(), "q": given["q"] * large}
    wanted = run(given, first, backend="naive")
    agree(run(given, first, chunk_size=32), wanted, 1e-10)
    single, start = {name: x.float() for name, x in given.items()}, (first[0].float(), first[1].float())
    agree(run(single, start), wanted, 1e-5, peer=run(single, start, backend="naive") if large > 1 else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision(dtype: torch.dtype, backend: str) -> None:
    """Only inputs, outputs and their gradients are rounded; sums and states are float32."""
    given = tensors(100, G=2, dtype=dtype)
    found = run(given, backend=backend)
    assert found["o"].dtype == found["dq"].dtype == dtype
    assert found["hk"].dtype == found["hv"].dtype == torch.float32
    wanted = run({name: x.double() for name, x in given.items()}, backend="naive")
    agree({name: found[name] for name in ("hk", "hv")}, {name: wanted[name] for name in ("hk", "hv")}, 2e-6)
    agree(found, wanted, 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(dtype: torch.dtype, backend: str) -> None:
    given = tensors(40, dtype=torch.float32)
    wanted = run(given, backend=backend)
    found = run(given, autocast=dtype, backend=backend)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_autocast_changes_no_step() -> None:
    first = state(1, 2, 4, 3, 5, torch.float32)
    now = [x[:, 0] for x in tensors(1, dtype=torch.float32).values()]
    wanted = gsa_step(*now, first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gsa_step(*now, first)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1][0], wanted[1][0])


# --- chunks, streams, packed sequences -----------------------------------------------------------------------

SIZES = {"B": st.integers(1, 2), "H": st.integers(1, 2), "G": st.integers(1, 3)} | {
    name: st.integers(1, 6) for name in "KVM"
}


@given(T=st.integers(1, 90), chunk_size=st.integers(1, 90), lowest=st.sampled_from([-0.1, -3, -40]), **SIZES)
@settings(max_examples=60)
def test_chunks_change_nothing(T: int, chunk_size: int, lowest: float, **sizes: int) -> None:
    given = tensors(T, lowest=lowest, **sizes)
    first = state(*(sizes[name] for name in "BHKVM"))
    agree(run(given, first, chunk_size=chunk_size), run(given, first, backend="naive"), 1e-9)


@given(
    cuts=st.lists(st.integers(0, 90), max_size=5),
    lowest=st.sampled_from([-0.3, -50]),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=30)
def test_streaming_is_one_shot(cuts: list[int], lowest: float, backend: Any) -> None:
    """Split anywhere, also into nothing, and token by token."""
    given = tensors(90, B=2, G=2, lowest=lowest, dtype=torch.float32)
    wanted, end = gsa(*given.values(), output_final_state=True)
    now: tuple[Tensor, Tensor] | None = state(2, 2, 4, 3, 5, torch.float32)
    now = tuple(torch.zeros_like(x) for x in now)
    parts = []
    for start, stop in pairwise([0, *sorted(cuts), 90]):
        o, now = gsa(*(x[:, start:stop] for x in given.values()), 1.0, now, True, backend=backend)
        parts.append(o)
    assert now is not None and end is not None
    agree({"o": torch.cat(parts, 1), "hk": now[0], "hv": now[1]}, {"o": wanted, "hk": end[0], "hv": end[1]}, 1e-5)


@pytest.mark.parametrize(
    ("T", "starts"),
    [
        (40, None),
        (64, None),
        (71, None),
        (71, [0, 5, 24, 30, 70, 71]),
        (71, [0, 71]),
        (64, [0, 23, 25, 48, 64]),
        (30, [*range(31)]),
    ],
)
def test_stretches_change_nothing(T: int, starts: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked out at a time makes no difference to outputs, states and gradients, packed or not."""
    batch, sequences = (2, 2) if starts is None else (1, len(starts) - 1)
    results = []
    for size in (1 << 20, 24):
        monkeypatch.setattr(chunked, "_STRETCH", size)
        torch.manual_seed(3)
        q, k, v = (torch.randn(batch, T, heads, 5, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
        g = -torch.rand(batch, T, 2, 6, dtype=torch.float64)
        given = [q, k, v, torch.rand_like(g).requires_grad_(), g.requires_grad_()]
        first = [
            torch.randn(sequences, 2, *shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 6), (6, 5))
        ]
        o, last = gsa(*given, 1.0, (first[0], first[1]), True, starts, chunk_size=8)
        assert last is not None
        gradients = torch.autograd.grad([x.square().sum() for x in (o, *last)], [*given, *first])
        results.append([o, *last, *gradients])
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)


def test_steps_are_one_shot() -> None:
    given = tensors(40, B=2, G=2, dtype=torch.float32)
    wanted, end = gsa(*given.values(), 0.5, output_final_state=True)
    now = tuple(torch.zeros_like(x) for x in state(2, 2, 4, 3, 5, torch.float32))
    outputs = []
    for t in range(40):
        o, now = gsa_step(*(x[:, t] for x in given.values()), now, 0.5)
        outputs.append(o)
    assert end is not None
    found = {"o": torch.stack(outputs, 1), "hk": now[0], "hv": now[1]}
    agree(found, {"o": wanted, "hk": end[0], "hv": end[1]}, 1e-5)


class OnGPU(Tensor):
    """Says that it is on a GPU: the kernels are taken, and Triton interprets them."""

    is_cuda = property(lambda self: True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_step_on_a_gpu_is_the_step_here(dtype: torch.dtype) -> None:
    """In shape, precision and numbers; states in float64 stay so, which kernels have not."""
    interpreted_kernels()
    work = torch.promote_types(torch.float32, dtype)
    first, now = state(2, 2, 4, 3, 5, work), [x[:, 0] for x in tensors(1, B=2, G=2, dtype=dtype).values()]
    now[3:] = [x.to(work) for x in now[3:]]
    wanted, end = gsa_step(*now, first, 0.5)
    with torch.no_grad():
        found, last = gsa_step(*(x.as_subclass(OnGPU) for x in now), first, 0.5)
    for one, other in zip((found, *last), (wanted, *end), strict=True):
        torch.testing.assert_close(one.as_subclass(Tensor), other)


def interpreted_kernels() -> None:
    kernels = pytest.importorskip("tenfold.attention.kernels", reason="triton is not installed")
    if not kernels.INTERPRETED:
        pytest.skip("triton was imported before, without its interpreter")


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), chunk_size=st.sampled_from([8, 64]))
@settings(max_examples=30)
def test_packed_is_separate(lengths: list[int], chunk_size: int) -> None:
    """Outputs, states and gradients of sequences in one row are those of each alone."""
    starts = [0, *np.cumsum(lengths).tolist()]
    given, first = tensors(starts[-1], G=2), state(len(lengths), 2, 4, 3, 5)
    leaves = [x.requires_grad_() for x in (*given.values(), *first)]
    weights = torch.randn(1, starts[-1], 4, 3, dtype=torch.float64)
    o, end = gsa(*given.values(), 1.0, first, True, torch.tensor(starts), chunk_size)
    assert end is not None
    packed = torch.autograd.grad((o * weights).sum() + end[0].sin().sum() + end[1].sin().sum(), leaves)
    slow, _ = gsa(*given.values(), 1.0, first, True, starts, backend="naive")
    outputs, losses = [], []
    for n, (a, b) in enumerate(pairwise(starts)):
        part, last = gsa(*(x[:, a:b] for x in given.values()), 1.0, (first[0][n : n + 1], first[1][n : n + 1]), True)
        assert last is not None
        outputs.append(part)
        losses.append((part * weights[:, a:b]).sum() + last[0].sin().sum() + last[1].sin().sum())
        torch.testing.assert_close((end[0][n], end[1][n]), (last[0][0], last[1][0]), rtol=0, atol=1e-10)
    torch.testing.assert_close(o, torch.cat(outputs, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(o, slow, rtol=0, atol=1e-10)
    separate = torch.autograd.grad(sum(losses), leaves)
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("B", "T"), [(0, 5), (2, 0), (0, 0)])
def test_nothing(B: int, T: int, backend: Any) -> None:
    """No tokens, no sequences: the state stays, and gradients flow."""
    leaves, first = [x.requires_grad_() for x in tensors(T, B=B).values()], state(B, 2, 4, 3, 5)
    o, end = gsa(*leaves, initial_state=first, output_final_state=True, backend=backend)
    assert o.shape == gsa(*leaves[:4])[0].shape == (B, T, 2, 3)
    assert end is not None and torch.equal(end[0], first[0]) and torch.equal(end[1], first[1])
    o.sum().backward()


def test_final_state_only_where_asked() -> None:
    assert gsa(*tensors(3).values())[1] is None


def test_a_large_scale_reads_one_slot() -> None:
    """Closed form: with one-hot writes and no forgetting, slots hold what was written, and a strong query picks one."""
    eye = torch.eye(5)[None, :, None]
    v = torch.randn(1, 5, 1, 3)
    o, _ = gsa(eye, eye, v, eye, torch.zeros(1, 5, 1, 5), scale=200.0)
    torch.testing.assert_close(o, v)


# --- ABC -----------------------------------------------------------------------------------------------------


def abc(q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
    """ABC as its paper has it: slots are means over the time so far, weighted by a softmax of the logits."""
    outputs = []
    for t in range(1, q.shape[1] + 1):
        weights = s[:, :t].softmax(1)
        hk, hv = (torch.einsum("bthm,bthd->bhmd", weights, x[:, :t]) for x in (k, v))
        outputs.append((torch.einsum("bhd,bhmd->bhm", q[:, t - 1], hk).softmax(-1)[..., None] * hv).sum(2))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_abc_is_a_softmax_over_time(backend: Any) -> None:
    given = tensors(70, B=2)
    q, k, v, s = (given[name] for name in ("q", "k", "v", "s"))
    s = 20 * s - 10
    torch.testing.assert_close(gsa(q, k, v, s, backend=backend)[0], abc(q, k, v, s), rtol=0, atol=1e-9)


@given(cut=st.integers(0, 30), padded=st.sets(st.integers(0, 29)))
@settings(max_examples=30)
def test_abc_gates_go_on_and_skip_padding(cut: int, padded: set[int]) -> None:
    """Two stretches with their sums, padding anywhere: what is written and kept is that of the tokens alone."""
    logits = torch.randn(1, 30, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[t not in padded for t in range(30)]])
    first = abc_gates(logits[:, :cut], mask=mask[:, :cut])
    second = abc_gates(logits[:, cut:], first[2], mask=mask[:, cut:])
    strengths, gates = (torch.cat([a, b], 1) for a, b in zip(first[:2], second[:2], strict=True))
    assert torch.isfinite(gates).all() and (gates <= 0).all()
    assert (strengths[~mask] == 0).all()
    behind = gates.flip(1).cumsum(1).flip(1) - gates
    written = (strengths * behind.exp())[mask]
    if len(padded) < 30:
        torch.testing.assert_close(written, logits[mask].softmax(0))
        torch.testing.assert_close(second[2], logits[mask].logsumexp(0)[None])


def test_abc_gates_of_packed_sequences() -> None:
    logits = torch.randn(1, 9, 2, 3)
    packed = abc_gates(logits, cu_seqlens=[0, 4, 9])
    for n, part in enumerate((slice(0, 4), slice(4, 9))):
        for found, wanted in zip(packed[:2], abc_gates(logits[:, part])[:2], strict=True):
            assert torch.equal(found[:, part], wanted), n


def test_abc_logits_are_cut_off() -> None:
    logits = torch.tensor([1e30, -1e30, 0.0]).view(1, 3, 1, 1)
    strengths, gates, _ = abc_gates(logits)
    assert torch.isfinite(strengths).all() and torch.isfinite(gates).all()


# --- torch's tools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", [None, [0, 5, 20]])
def test_torch_accepts_the_operators(starts: list[int] | None) -> None:
    """Schemas, fake kernels and autograd registrations hold, as torch's own checker sees it."""
    given, sequences = tensors(20, G=2, dtype=torch.float32), 1 if starts is None else 2
    first = state(sequences, 2, 4, 3, 5, torch.float32)
    leaves = [x.requires_grad_() for x in (*given.values(), *first)]
    torch.library.opcheck(module._forward, (*leaves[:5], 0.5, *leaves[5:], starts, 8, "torch"))
    o, z, *_ = module._forward(*leaves[:5], 0.5, *leaves[5:], starts, 8, "torch")
    inputs = [x.detach() for x in (*leaves, z, o)]
    torch.library.opcheck(
        module._backward, (*inputs[:5], 0.5, *inputs[5:7], starts, 8, "torch", *inputs[7:], *inputs[5:7])
    )


def test_torch_accepts_the_operator_of_kernels_in_half_precision() -> None:
    interpreted_kernels()
    given, first = tensors(20, G=2, dtype=torch.float16), state(1, 2, 4, 3, 5, torch.float32)
    inputs = [x.float() if name in "sg" else x for name, x in given.items()]
    torch.library.opcheck(module._forward, (*inputs, 0.5, *first, None, 16, "triton"), test_utils="test_faketensor")


def test_compiled_is_eager() -> None:
    """One graph, forward and backward, also where T changes; test_model compiles to machine code."""

    def loss(*x: Tensor) -> Tensor:
        o, end = gsa(*x, output_final_state=True)
        assert end is not None
        return o.square().sum() + end[0].sum() + end[1].sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for T in (70, 33, 90):
        leaves = [x.requires_grad_() for x in tensors(T, G=2, dtype=torch.float32).values()]
        wanted = torch.autograd.grad(loss(*leaves), leaves)
        torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_are_alike_to_the_last_bit(backend: Any) -> None:
    given = tensors(200, B=2, G=2, dtype=torch.float32)
    first, second = (run(given, backend=backend) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_cpu_needs_triton() -> None:
    """Nothing loads our kernels with the model, and without triton only its own backend is missing."""
    code = """
import sys
sys.modules["triton"] = None
import torch, tenfold.attention.model
from tenfold.attention.operator import gsa
x = torch.zeros(1, 2, 1, 4)
gsa(x, x, x, x)
assert "tenfold.attention.kernels" not in sys.modules
try:
    gsa(x, x, x, x, backend="triton")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "backend 'triton' needs the package triton: pip install triton"


# --- bad input -----------------------------------------------------------------------------------------------


def bad(**changes: Any) -> dict[str, Any]:
    return tensors(6, G=2, dtype=torch.float32) | changes


ZEROS = torch.zeros
BAD = {
    "query heads": (bad(q=ZEROS(1, 6, 3, 4)), "q has 3 heads, k 2"),
    "no slots": (bad(s=ZEROS(1, 6, 2, 0), g=ZEROS(1, 6, 2, 0)), r"s has shape \(1, 6, 2, 0\)"),
    "no heads": (bad(k=ZEROS(1, 6, 0, 4)), r"k has shape \(1, 6, 0, 4\)"),
    "key size": (bad(k=ZEROS(1, 6, 2, 5)), r"q has shape \(1, 6, 4, 4\), k \(1, 6, 2, 5\)"),
    "value heads": (bad(v=ZEROS(1, 6, 1, 3)), r"v has shape \(1, 6, 1, 3\)"),
    "time": (bad(v=ZEROS(1, 7, 2, 3)), r"v has shape \(1, 7, 2, 3\)"),
    "batch": (bad(k=ZEROS(2, 6, 2, 4)), r"k has shape \(2, 6, 2, 4\)"),
    "gates": (bad(g=ZEROS(1, 6, 2, 4)), r"g has shape \(1, 6, 2, 4\), s \(1, 6, 2, 5\)"),
    "dimensions": (bad(q=ZEROS(6, 4, 4)), r"q has shape \(6, 4, 4\)"),
    "whole numbers": (bad(q=ZEROS(1, 6, 4, 4, dtype=torch.int64)), "q is torch.int64"),
    "complex numbers": (bad(v=ZEROS(1, 6, 2, 3, dtype=torch.complex64)), "v is torch.complex64"),
    "other dtype": (bad(k=ZEROS(1, 6, 2, 4, dtype=torch.float16)), "k is torch.float16, q torch.float32"),
    "double gates": (bad(g=ZEROS(1, 6, 2, 5, dtype=torch.float64)), "g is torch.float64, q torch.float32"),
    "other device": (bad(v=ZEROS(1, 6, 2, 3, device="meta")), "v is on meta, q on cpu"),
    "no tensor": (bad(k=np.zeros((1, 6, 2, 4))), "k is a ndarray"),
    "state's number": (bad(initial_state=state(2, 2, 4, 3, 5)), r"\(2, 2, 4, 5\) where \(1, 2, 4, 5\)"),
    "state's shape": (
        bad(initial_state=(ZEROS(1, 2, 4, 5), ZEROS(1, 2, 5, 4))),
        r"\(1, 2, 5, 4\) where \(1, 2, 5, 3\)",
    ),
    "state's parts": (bad(initial_state=(ZEROS(1, 2, 4, 5),)), "has 1 parts"),
    "state's dtype": (bad(initial_state=[x.long() for x in state(1, 2, 4, 3, 5)]), "initial_state is torch.int64"),
    "state without gates": (bad(g=None, initial_state=state(1, 2, 4, 3, 5)), "abc_gates"),
    "states of packed": (bad(initial_state=state(1, 2, 4, 3, 5), cu_seqlens=[0, 2, 6]), r"where \(2, 2, 4, 5\)"),
    "packed, not increasing": (bad(cu_seqlens=[0, 4, 4, 6]), r"\[0, 4, 4, 6\]"),
    "packed, too long": (bad(cu_seqlens=[0, 4, 7]), "to the 6 tokens"),
    "packed, too short": (bad(cu_seqlens=torch.tensor([0, 4])), "to the 6 tokens"),
    "packed, not from 0": (bad(cu_seqlens=[1, 6]), r"\[1, 6\]"),
    "packed, nothing": (bad(cu_seqlens=[]), r"\[\]"),
    "packed, two dimensions": (bad(cu_seqlens=torch.tensor([[0, 6]])), r"shape \(1, 2\)"),
    "packed, no whole numbers": (bad(cu_seqlens=torch.tensor([0.0, 6.0])), "torch.float32"),
    "packed, fractions": (bad(cu_seqlens=[0, 2.5, 6]), "holds fractions"),
    "packed, several rows": (tensors(6, B=2) | {"cu_seqlens": [0, 6]}, r"\(2, 6, 2, 4\)"),
    "packed, a number": (bad(cu_seqlens=6), "cu_seqlens is 6; give whole numbers"),
    "packed, no numbers": (bad(cu_seqlens=[0, None, 6]), r"cu_seqlens is \[0, None, 6\]; give whole numbers"),
    "state's type": (bad(initial_state=ZEROS(2, 1, 2, 4, 5)), "initial_state is a Tensor; give two tensors"),
    "state of nothing": (bad(initial_state=(None, None)), "initial_state holds a NoneType"),
    "gates for their logarithms": (bad(g=ZEROS(1, 6, 2, 5) + 0.9), r"g holds 0\.9; it is the logarithm"),
    "no scale": (bad(scale=None), "scale is None; give a number"),
    "scale as text": (bad(scale="1"), "scale is '1'; give a number"),
    "chunk size": (bad(chunk_size=0), "chunk_size is 0"),
    "chunk size of parts": (bad(chunk_size=8.5), "chunk_size is 8.5"),
    "backend": (bad(backend="cuda"), "backend 'cuda' is not known"),
}


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_bad_input(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gsa(**given)


def test_kernels_of_a_gpu_are_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless Triton interprets them, as it does in these tests."""
    kernels = pytest.importorskip("tenfold.attention.kernels", reason="triton is not installed")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(InputError, match="'triton' needs tensors on a GPU, q is on the CPU"):
        gsa(**bad(backend="triton"))


@pytest.mark.parametrize("first", [state(1, 2, 4, 3, 5), state(2, 2, 4, 3, 1), state(2, 2, 4, 4, 5)])
def test_bad_state_of_a_step(first: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"state has shape \(.*\) where \(2, 2, .*\) is needed"):
        gsa_step(*(x[:, 0] for x in tensors(1, B=2).values()), first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": ZEROS(2, 3, 4)}, r"q has shape \(2, 3, 4\), k \(2, 2, 4\)"),
        ({"q": ZEROS(2, 2, 4, dtype=torch.int64)}, "q is torch.int64"),
        ({"q": ZEROS(2, 4)}, r"q has shape \(2, 4\); three dimensions"),
        ({"k": ZEROS(2, 0, 4)}, r"k has shape \(2, 0, 4\)"),
        ({"v": ZEROS(1, 2, 3)}, r"v has shape \(1, 2, 3\) on cpu"),
        ({"v": ZEROS(2, 1, 3)}, r"v \(2, 1, 3\)"),
        ({"g": ZEROS(2, 2, 4)}, "and g with s"),
        ({"s": ZEROS(2, 2, 5, device="meta")}, "on meta"),
        ({"state": None}, "state is no pair of tensors"),
        ({"state": (ZEROS(2, 2, 4, 5),)}, "state is no pair of tensors"),
        ({"state": (ZEROS(2, 2, 4, 5), ZEROS(2, 2, 5, 3).double())}, "state is torch.float32 and torch.float64"),
        ({"state": (ZEROS(2, 2, 4, 5).int(), ZEROS(2, 2, 5, 3))}, "state is torch.int32"),
    ],
)
def test_bad_input_of_a_step(changes: dict[str, Any], message: str) -> None:
    sizes = {"q": 4, "k": 4, "v": 3, "s": 5, "g": 5}
    given = {name: ZEROS(2, 2, size) for name, size in sizes.items()}
    with pytest.raises(InputError, match=message):
        gsa_step(**{**given, "state": (ZEROS(2, 2, 4, 5), ZEROS(2, 2, 5, 3)), **changes})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits": ZEROS(3, 4)}, r"logits has shape \(3, 4\)"),
        ({"logits": ZEROS(1, 3, 2, 4), "mask": ZEROS(1, 4, dtype=torch.bool)}, r"mask has shape \(1, 4\)"),
        ({"logits": ZEROS(1, 3, 2, 4), "sums": ZEROS(2, 2, 4)}, r"sums has shape \(2, 2, 4\)"),
        ({"logits": ZEROS(1, 3, 2, 4), "cu_seqlens": [0, 2]}, "to the 3 tokens"),
    ],
)
def test_bad_input_of_abc_gates(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        abc_gates(**options)
