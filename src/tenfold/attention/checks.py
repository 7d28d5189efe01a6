"""What the operators' tensors must be like: what does not fit together is turned down before anything is computed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from tenfold.core.errors import InputError

__all__ = [
    "check_chunk_size",
    "check_gates",
    "check_heads",
    "check_scale",
    "check_starts",
    "check_state",
    "check_step",
    "check_tensors",
]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ROUNDING = 1e-3  # by which a gate may be above 0, as differences of large sums are


def check_tensors(given: Mapping[str, Tensor]) -> None:
    """Each alone, and against the first: four dimensions, same batch and time, one device, dtypes that go together.

    Keys and values have the dtype of queries; gates and write strengths may be more precise, up to float32.
    """
    first, q = next(iter(given.items()))
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise InputError(f"{name} is a {type(x).__name__}; give a tensor")
        if x.dim() != 4:
            raise InputError(f"{name} has shape {tuple(x.shape)}; four dimensions are needed: batch, time, heads, size")
        if x.dtype not in _DTYPES:
            raise InputError(f"{name} is {x.dtype}; give float32, float64, bfloat16 or float16")
        if x.dtype != q.dtype and (name in ("k", "v") or torch.float64 in (x.dtype, q.dtype)):
            raise InputError(f"{name} is {x.dtype}, {first} {q.dtype}; give both in one dtype")
        if x.device != q.device:
            raise InputError(f"{name} is on {x.device}, {first} on {q.device}; move them to one device")
        if x.shape[:2] != q.shape[:2]:
            raise InputError(f"{name} has shape {tuple(x.shape)}, {first} {tuple(q.shape)}; batch and time must agree")
        if x.shape[2] == 0 or x.shape[3] == 0:
            raise InputError(f"{name} has shape {tuple(x.shape)}; heads, sizes and slots must be at least 1")


def check_heads(q: Tensor, k: Tensor, others: Mapping[str, Tensor]) -> None:
    """Query heads are a multiple of the keys', all others have as many; queries and keys have one size."""
    if q.shape[2] % k.shape[2]:
        raise InputError(f"q has {q.shape[2]} heads, k {k.shape[2]}; the query heads must be a multiple of the others")
    if q.shape[3] != k.shape[3]:
        raise InputError(f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}; the last sizes must agree")
    for name, x in others.items():
        if x.shape[2] != k.shape[2]:
            raise InputError(f"{name} has shape {tuple(x.shape)}, k {tuple(k.shape)}; the numbers of heads must agree")


def check_gates(g: Tensor) -> None:
    """Logarithms, at most 0: factors, or a wrong sign, make slots grow without end. A GPU would have to wait for it."""
    if torch.compiler.is_compiling() or g.device.type != "cpu" or not g.numel():
        return
    if (most := float(g.detach().max())) > _ROUNDING:
        raise InputError(f"g holds {most:.3g}; it is the logarithm of a forget gate, so at most 0")


def check_scale(scale: float) -> None:
    """A number, not None, which elsewhere stands for K^-0.5."""
    if not isinstance(scale, Real | torch.SymFloat):
        raise InputError(f"scale is {scale!r}; give a number, such as 1.0, or the size of a head to the power of -0.5")


def check_state(state: Tensor, shape: tuple[int, ...], q: Tensor) -> None:
    """An initial state of that shape, beside q."""
    if not isinstance(state, Tensor):
        raise InputError(f"initial_state holds a {type(state).__name__}; give two tensors, the slots' keys and values")
    if tuple(state.shape) != shape:
        raise InputError(f"initial_state has shape {tuple(state.shape)} where {shape} is needed")
    if state.dtype not in _DTYPES:
        raise InputError(f"initial_state is {state.dtype}; give float32, float64, bfloat16 or float16")
    if state.device != q.device:
        raise InputError(f"initial_state is on {state.device}, q on {q.device}; move them to one device")


def check_step(given: Mapping[str, Tensor], state: tuple[Tensor, Tensor]) -> None:
    """One token's q, k, v, s and g, of three dimensions, and the state before it; quick, for it is called per token."""
    q, k, v, s, g = given.values()
    for name, x in given.items():
        if x.dim() != 3 or 0 in x.shape[1:]:
            raise InputError(
                f"{name} has shape {tuple(x.shape)}; three dimensions of at least 1 are needed: batch, heads, size"
            )
        if not x.is_floating_point():
            raise InputError(f"{name} is {x.dtype}; give float32, float64, bfloat16 or float16")
        if x.shape[0] != q.shape[0] or x.device != q.device:
            where = f"{tuple(x.shape)} on {x.device}, q {tuple(q.shape)} on {q.device}"
            raise InputError(f"{name} has shape {where}; batch and device must agree")
    if q.shape[1] % k.shape[1] or q.shape[2] != k.shape[2]:
        raise InputError(
            f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}; the heads must be a multiple, the sizes agree"
        )
    if v.shape[1] != k.shape[1] or s.shape[1] != k.shape[1] or g.shape != s.shape:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
        raise InputError(f"the shapes are {shapes}; heads of k, v, s and g must agree, and g with s")
    if not isinstance(state, tuple | list) or len(state) != 2 or not all(isinstance(part, Tensor) for part in state):
        raise InputError("state is no pair of tensors; give the slots' keys and values, zeros at the beginning")
    if state[0].dtype != state[1].dtype:
        raise InputError(f"state is {state[0].dtype} and {state[1].dtype}; give both in one dtype")
    for part, shape in zip(state, ((*k.shape, s.shape[2]), (*s.shape, v.shape[2])), strict=True):
        if part.shape != shape:
            raise InputError(f"state has shape {tuple(part.shape)} where {tuple(shape)} is needed")
        if not part.is_floating_point() or part.device != q.device:
            raise InputError(f"state is {part.dtype} on {part.device}; give floating-point numbers on {q.device}")


def check_chunk_size(chunk_size: int) -> None:
    """At least one token."""
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise InputError(f"chunk_size is {chunk_size!r}; give a whole number, 1 or more")


def check_starts(cu_seqlens: Tensor | Sequence[int] | None, q: Tensor) -> list[int] | None:
    """Where packed sequences begin, and T, as numbers."""
    if cu_seqlens is None:
        return None
    if isinstance(cu_seqlens, Tensor):
        if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point():
            shape = tuple(cu_seqlens.shape)
            raise InputError(f"cu_seqlens has shape {shape}, {cu_seqlens.dtype}; give whole numbers in one dimension")
        cu_seqlens = cu_seqlens.tolist()
    try:
        starts = [int(start) for start in cu_seqlens]
    except (TypeError, ValueError):
        raise InputError(
            f"cu_seqlens is {cu_seqlens!r}; give whole numbers, 0 first and the number of tokens last"
        ) from None
    if any(start != given for start, given in zip(starts, cu_seqlens, strict=True)):
        raise InputError("cu_seqlens holds fractions; give whole numbers")
    if q.shape[0] != 1:
        raise InputError(f"cu_seqlens goes with one row of packed sequences, q has shape {tuple(q.shape)}")
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != q.shape[1] or any(a >= b for a, b in pairwise(starts)):
        shown = ", ".join(map(str, starts[:8])) + (", ..." if len(starts) > 8 else "")
        raise InputError(f"cu_seqlens is [{shown}]; it must increase from 0 to the {q.shape[1]} tokens of q")
    return starts
