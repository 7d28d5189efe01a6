"""The Triton kernels of Gated Slot Attention against the recurrence in float64; the interpreter stands for the GPU."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")

NAMES = ("q", "k", "v", "s", "g", "hk", "hv")
COMPILE = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tenfold.attention import kernels

POINTERS = {"starts": "*i64", "begins": "*i64", "firsts": "*i32", "lengths": "*i32"}
POINTERS |= dict.fromkeys(("q", "k", "v", "o", "do", "dq", "dx", "x", "mixes"), "*bf16")
POINTERS |= dict.fromkeys(("hk", "hv", "d_hk", "d_hv", "states", "d_states"), "*bf16")
POINTERS |= {"scale": "fp32", "BLOCKS": "i32"}
HEADS = {"HQ": 8, "H": 2, "M": 64}
FACTORS = {"FACTOR": tl.float32, "PRECISION": "tf32"}
FILLED = {"FILLED_K": True, "FILLED_V": True}
PADDED = {"C": 64, "MP": 64}
SCAN = {"C": 64, "BX": 64, "BM": 32, "PRECISION": "tf32"}

def build(name, entry=None, **constants):
    kernel = getattr(kernels, name)
    names = kernel.arg_names
    kinds = {one: "constexpr" if one in constants else POINTERS.get(one, "*fp32") for one in names}
    attributes = {(names.index(one),): [["tt.divisibility", 16]] for one in names if kinds[one].startswith("*")}
    source = ASTSource(kernel, kinds, {(names.index(one),): value for one, value in constants.items()}, attributes)
    _, _, warps, stages = kernels.TUNING[entry or name.strip("_")]
    options = {"num_warps": warps, "num_stages": stages}
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.asm["cubin"] and made.metadata.shared <= 232448, (name, made.metadata.shared)
    return made.asm["ptx"]

assert not kernels.INTERPRETED
build("_prepare", "outputs", **HEADS, **PADDED, WITH_SUMS=True)
build("_states", H=2, K=128, V=128, M=64, **FILLED, **SCAN)
for softmax, strides in ((True, (1, 128)), (False, (64, 1))):
    strides = {"X_STRIDE": strides[0], "M_STRIDE": strides[1]}
    build("_gradient_states", "states", **HEADS, X=128, FILLED=True, SOFTMAX=softmax, **SCAN, **strides)
    build("_column_gradients", **HEADS, **PADDED, X=128, BX=64, PRECISION="tf32", **strides)
assert "wgmma" in build("_outputs", **HEADS, **PADDED, K=128, V=128, BX=64, **FACTORS)
build("_slot_gradients", **HEADS, **PADDED, V=128, BX=64, **FACTORS)
build("_query_gradients", **HEADS, **PADDED, K=128, BX=64, **FACTORS)
build("_step_keys", "step", **HEADS, K=128, MP=64, GP=4, BX=16, FILLED=True)
build("_step_values", "step", **HEADS, V=128, MP=64, GP=4, BX=16, FILLED=True)
"""


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    """The module of the kernels in Triton's interpreter; without triton there is nothing to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read when triton is imported
        pytest.importorskip("triton", reason="triton is not installed: pip install triton")
        module = importlib.import_module("tenfold.attention.kernels")
        if not module.INTERPRETED:
            pytest.skip("triton was imported before, without its interpreter")
        yield module


# --- the oracle ---------------------------------------------------------------------------------------------


def recurrence(q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any) -> tuple[Any, Any, Any]:
    """Section 3 of the paper, token after token."""
    group, out = q.shape[2] // k.shape[2], []
    for t in range(q.shape[1]):
        hk = hk * g[:, t, :, None].exp() + k[:, t, :, :, None] * s[:, t, :, None]
        hv = hv * g[:, t, :, :, None].exp() + s[:, t, :, :, None] * v[:, t, :, None]
        p = (scale * q[:, t, :, None] @ hk.repeat_interleave(group, 1)).softmax(-1)
        out.append((p @ hv.repeat_interleave(group, 1))[:, :, 0])
    return torch.stack(out, 1), hk, hv


def expected(inputs: dict[str, Any], scale: float, grads: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Outputs and final states, and the gradients of all inputs, in float64."""
    leaves = [inputs[name].double().requires_grad_() for name in NAMES]
    results = recurrence(*leaves[:5], scale, *leaves[5:])
    sum((result * grad.double()).sum() for result, grad in zip(results, grads, strict=True)).backward()
    return [result.detach() for result in results], [leaf.grad for leaf in leaves]


def found(
    kernels: Any, inputs: dict[str, Any], scale: float, grads: tuple[Any, ...], starts: Any = None, chunk: int = 16
) -> tuple[list[Any], list[Any]]:
    """The same of the kernels."""
    arguments = (*(inputs[name] for name in NAMES[:5]), scale, inputs["hk"], inputs["hv"], starts, chunk)
    o, z, hk, hv = kernels.forward(*arguments)
    return [o, hk, hv], list(kernels.backward(*arguments, z, *grads))


def make(
    tokens: int, heads: int = 2, group: int = 1, keys: int = 16, values: int = 16, slots: int = 16, batch: int = 1,
    seed: int = 0, gates: str = "usual",
) -> tuple[dict[str, Any], tuple[Any, ...]]:  # fmt: skip
    """Inputs in float32 and the gradients of the three results."""
    torch.manual_seed(seed)
    shape = (batch, tokens, heads)
    g = torch.nn.functional.logsigmoid(torch.randn(*shape, slots)) / 4
    if gates == "floor":
        g = torch.full_like(g, -30.0)
    elif gates == "open":
        g = torch.zeros_like(g)
    elif gates == "mixed":
        kinds = torch.randint(0, 4, g.shape)
        g = torch.where(kinds == 0, -30.0, torch.where(kinds == 1, 0.0, torch.where(kinds == 2, g, g * 40)))
    inputs = {
        "q": torch.randn(batch, tokens, heads * group, keys),
        "k": torch.randn(*shape, keys),
        "v": torch.randn(*shape, values),
        "s": torch.rand(*shape, slots) if gates == "open" else -torch.expm1(g),
        "g": g,
        "hk": torch.randn(batch, heads, keys, slots),
        "hv": torch.randn(batch, heads, slots, values),
    }
    grads = (
        torch.randn(batch, tokens, heads * group, values),
        torch.randn(batch, heads, keys, slots),
        torch.randn(batch, heads, slots, values),
    )
    return inputs, grads


def assert_close(got: list[Any], want: list[Any], share: float = 2e-5) -> None:
    for name, one, other in zip(("o", "hk", "hv") if len(got) == 3 else NAMES, got, want, strict=True):
        assert torch.isfinite(one).all(), name
        assert (one - other).abs().max() <= share * max(1.0, other.abs().max()), name


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "chunk"),
    [
        ({"tokens": 48}, 16),
        ({"tokens": 1}, 16),
        ({"tokens": 7, "batch": 2}, 32),
        ({"tokens": 37, "keys": 12, "values": 24, "slots": 16, "group": 2}, 16),
        ({"tokens": 33, "heads": 1, "keys": 70, "values": 130, "slots": 8}, 32),
        ({"tokens": 65, "heads": 1, "keys": 16, "values": 16, "slots": 40}, 64),
    ],
    ids=["plain", "one token", "less than a chunk", "odd sizes, grouped", "several blocks", "odd slots"],
)
def test_outputs_states_and_all_gradients_are_those_of_the_recurrence(
    kernels: Any, sizes: dict[str, int], chunk: int
) -> None:
    inputs, grads = make(**sizes)
    results, gradients = expected(inputs, 0.3, grads)
    got, got_gradients = found(kernels, inputs, 0.3, grads, chunk=chunk)
    assert_close(got, results)
    assert_close(got_gradients, gradients)


@pytest.mark.parametrize("gates", ["floor", "open", "mixed"])
def test_hostile_gates_stay_finite_and_exact(kernels: Any, gates: str) -> None:
    inputs, grads = make(tokens=40, group=2, gates=gates)
    results, gradients = expected(inputs, 1.0, grads)
    got, got_gradients = found(kernels, inputs, 1.0, grads, chunk=32)
    assert_close(got, results)
    assert_close(got_gradients, gradients, 1e-4)


def test_gates_at_the_edge_of_the_fast_path_stay_exact(kernels: Any) -> None:
    """Decays of nearly 80 within a chunk: factors span exp(-40) to exp(40); and queries a hundred times too large."""
    inputs, grads = make(tokens=32, heads=1)
    inputs["g"] = torch.full_like(inputs["g"], -79.9 / 31)
    inputs["q"] = inputs["q"] * 100
    results, gradients = expected(inputs, 1.0, grads)
    got, got_gradients = found(kernels, inputs, 1.0, grads, chunk=32)
    assert_close(got, results, 1e-4)
    assert_close(got_gradients, gradients, 1e-3)


def test_no_initial_states_are_zeros_and_no_final_gradients_are_zeros(kernels: Any) -> None:
    inputs, grads = make(tokens=20)
    for name in ("hk", "hv"):
        inputs[name] = torch.zeros_like(inputs[name])
    grads = (grads[0], torch.zeros_like(grads[1]), torch.zeros_like(grads[2]))
    whole, whole_gradients = found(kernels, inputs, 1.0, grads)
    bare, bare_gradients = found(kernels, inputs | {"hk": None, "hv": None}, 1.0, (grads[0], None, None))
    for one, other in zip(whole + whole_gradients, bare + bare_gradients, strict=True):
        assert torch.equal(one, other)


def test_packed_sequences_are_as_separate_ones(kernels: Any) -> None:
    """Lengths of less than a chunk, of whole chunks and of nothing."""
    lengths = [5, 32, 0, 19]
    starts = torch.tensor([0, 5, 37, 37, 56], dtype=torch.int32)
    inputs, grads = make(tokens=56, group=2)
    states = make(tokens=1, batch=4, seed=1)
    packed = inputs | {name: states[0][name] for name in ("hk", "hv")}
    got, got_gradients = found(kernels, packed, 0.5, (grads[0], *states[1][1:]), starts)
    for n, length in enumerate(lengths):
        at = slice(int(starts[n]), int(starts[n + 1]))
        one = {name: packed[name][:, at] for name in NAMES[:5]} | {name: packed[name][n : n + 1] for name in NAMES[5:]}
        one_grads = (grads[0][:, at], states[1][1][n : n + 1], states[1][2][n : n + 1])
        alone, alone_gradients = found(kernels, one, 0.5, one_grads)
        assert torch.equal(got[0][:, at], alone[0]) and alone[0].shape[1] == length
        for whole, single in zip(got[1:] + got_gradients[5:], alone[1:] + alone_gradients[5:], strict=True):
            assert torch.equal(whole[n : n + 1], single)
        for whole, single in zip(got_gradients[:5], alone_gradients[:5], strict=True):
            assert torch.equal(whole[:, at], single)


def test_half_precision_stays_near_the_recurrence(kernels: Any) -> None:
    """In float16; Triton's interpreter cannot multiply bfloat16."""
    inputs, grads = make(tokens=40, group=2)
    half = {name: inputs[name].half() if name in "qkv" else inputs[name] for name in NAMES}
    results, gradients = expected(half, 0.3, grads)
    got, got_gradients = found(kernels, half, 0.3, grads)
    assert got[0].dtype == got_gradients[0].dtype == half["q"].dtype and got[1].dtype == torch.float32
    assert_close(got, results, 2e-3)
    assert_close(got_gradients, gradients, 3e-3)


@pytest.mark.parametrize("group", [1, 3])
def test_steps_are_the_recurrence(kernels: Any, group: int) -> None:
    inputs, _ = make(tokens=4, batch=2, group=group, keys=20, values=40, slots=16)
    want = recurrence(*(inputs[name].double() for name in NAMES[:5]), 0.5, *(inputs[n].double() for n in NAMES[5:]))
    states, out = [inputs["hk"], inputs["hv"]], []
    for t in range(4):
        o, *states = kernels.step(*(inputs[name][:, t : t + 1] for name in NAMES[:5]), 0.5, *states)
        out.append(o)
    assert_close([torch.cat(out, 1), *states], list(want))


def test_a_first_step_needs_no_states(kernels: Any) -> None:
    inputs, _ = make(tokens=1)
    zeros = [torch.zeros_like(inputs[name]) for name in ("hk", "hv")]
    tokens = [inputs[name] for name in NAMES[:5]]
    for one, other in zip(kernels.step(*tokens, 1.0, None, None), kernels.step(*tokens, 1.0, *zeros), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["plain", "gqa", "long_init", "hostile_gates"])
def test_published_values_come_out(kernels: Any, name: str) -> None:
    """Outputs, states and gradients that the reference of flash-linear-attention 0.6.0 gave."""
    if "TENFOLD_DATA" not in os.environ:
        pytest.skip("TENFOLD_DATA is not set: the golden values are not here")
    with np.load(Path(os.environ["TENFOLD_DATA"]) / "attention" / "golden" / f"op_{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    inputs = {name: golden[name] for name in NAMES[:4]} | {"g": golden["g"].clamp(min=-30)}
    inputs |= {"hk": golden.get("hk_0"), "hv": golden.get("hv_0")}
    chunk = 16 if name == "hostile_gates" else 64  # sums in a loop are slow in the interpreter
    got, gradients = found(kernels, inputs, float(golden["scale"]), (golden["do"], None, None), chunk=chunk)
    share = 1e-3 if name == "hostile_gates" else 1e-4
    assert_close(got, [golden[key] for key in ("o", "hk_T", "hv_T")], share)
    for key, gradient in zip(("dq", "dk", "dv", "ds", "dg"), gradients[:5], strict=True):
        assert torch.isfinite(gradient).all()
        assert (gradient - golden[key]).abs().max() <= share * golden[key].abs().max(), key


def test_every_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    """For compute capability 9.0, of the shapes of a model of 7B, within the shared memory of a program there."""
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
