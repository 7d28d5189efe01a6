"""The operator of Gated Slot Attention: what it takes, and which backend works it out.

Shapes: B batch, T time, H key-value heads, Q = G H query heads, K key size, V value size, M slots; S sequences: B of
them, or those packed into one row.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from tenfold.attention import chunked, naive
from tenfold.attention.checks import (
    check_chunk_size,
    check_gates,
    check_heads,
    check_scale,
    check_starts,
    check_state,
    check_step,
    check_tensors,
)
from tenfold.core.errors import InputError

__all__ = ["LOWEST_GATE", "Backend", "abc_gates", "full_precision", "gsa", "gsa_step"]

Backend = Literal["auto", "naive", "torch", "triton"]

# exp(-30) is lost beside 1 in float32. Below, a gate changes nothing but the rounding of sums of gates.
LOWEST_GATE = -30.0
_LARGEST_LOGIT = 32.0
_NO_LOGIT = -1e4  # exp of it is nothing beside that of any other; unlike -inf it has gradients
_TRITON = importlib.util.find_spec("triton") is not None


def gsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor | None = None,
    scale: float = 1.0,
    initial_state: tuple[Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    chunk_size: int = 64,
    backend: Backend = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Gated Slot Attention (arXiv 2409.07146): every token is written into slots that forget, and reads them.

    For each key-value head, with alpha_t = exp(g_t): Hk_t = Hk_{t-1} diag(alpha_t) + k_t s_t^T;
    Hv_t = diag(alpha_t) Hv_{t-1} + s_t v_t^T; o_t = softmax(scale q_t^T Hk_t) Hv_t. Time and memory grow linearly
    with T. Differentiable in all tensors, once.

    Args:
        q: Queries, (B, T, Q, K) floating point; query head i reads key-value head i // (Q / H).
        k: Keys, (B, T, H, K).
        v: Values, (B, T, H, V).
        s: Write strengths, (B, T, H, M); logits where there are no gates.
        g: Logarithms of forget gates, (B, T, H, M), at most 0; -inf is allowed, and all below -30 is as good. None is
            the ungated memory of ABC (arXiv 2110.02488): s are logits, normalised over the time so far.
        scale: Factor of q k.
        initial_state: Slots' keys (S, H, K, M) and values (S, H, M, V) before the first token; zeros if None.
        output_final_state: Return the slots after the last token too, in float32 (float64 for float64).
        cu_seqlens: Where packed sequences begin, and T: 0 < ... < T. B must be 1. A list where torch.compile is used.
        chunk_size: Tokens that are worked out together, at least 1. The result does not depend on it.
        backend: `naive` (token by token), `torch` (in chunks), `triton` (NVIDIA GPUs), or `auto`.

    Returns:
        Outputs (B, T, Q, V) in the dtype of q, and the final state or None.

    Raises:
        InputError: Shapes, dtypes or devices that do not fit together, or a backend that is not there.
    """
    starts = _check(q, k, v, s, g, scale, initial_state, cu_seqlens, chunk_size)
    if g is None:
        if initial_state is not None:
            raise InputError("initial_state goes with gates: without g, use abc_gates, which also carries its sums")
        s, g, _ = abc_gates(s, cu_seqlens=starts)
    chosen = _choose(backend, q)
    work = torch.promote_types(torch.float32, q.dtype)
    s, g = s.to(work), g.to(work).clamp(min=LOWEST_GATE)
    sequences = q.shape[0] if starts is None else len(starts) - 1
    if initial_state is None:
        heads, keys, slots, values = k.shape[2], k.shape[3], s.shape[3], v.shape[3]
        hk, hv = (
            q.new_zeros(sequences, heads, keys, slots, dtype=work),
            q.new_zeros(sequences, heads, slots, values, dtype=work),
        )
    else:
        hk, hv = (state.to(work) for state in initial_state)
    if q.shape[0] == 0 or q.shape[1] == 0:
        o = q[..., :1].expand(*q.shape[:3], v.shape[3])  # nothing, but part of the graph of gradients
    elif chosen == "naive":
        with full_precision(q):
            o, hk, hv = _naive(q, k, v, s, g, scale, hk, hv, starts)
    else:
        o, _, hk, hv = _forward(q, k, v, s, g, scale, hk, hv, starts, chunk_size, chosen)
    return o.to(q.dtype), (hk, hv) if output_final_state else None


def gsa_step(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor, g: Tensor, state: tuple[Tensor, Tensor], scale: float = 1.0
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One token more, as in generation: the same as `gsa` with T = 1, in time and memory that do not depend on T.

    Args:
        q: (B, Q, K); k: (B, H, K); v: (B, H, V); s, g: (B, H, M), as in `gsa` but without time.
        k: See q.
        v: See q.
        s: See q.
        g: See q.
        state: Slots' keys (B, H, K, M) and values (B, H, M, V) before the token.
        scale: Factor of q k.

    Returns:
        Outputs (B, Q, V) in the dtype of q, and the new state.

    Raises:
        InputError: Shapes, dtypes or devices that do not fit together, which torch might stretch in silence.
    """
    check_step({"q": q, "k": k, "v": v, "s": s, "g": g}, state)
    work = state[0].dtype
    takes_kernels = q.is_cuda and work == torch.float32 and _TRITON  # kernels have states of no other precision
    if takes_kernels and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        o, hk, hv = _kernel_step(q, k, v, s, g, scale, state)
    else:
        q_, k_, v_, s_, g_ = (x.to(work) for x in (q, k, v, s, g))
        with full_precision(q):
            o, hk, hv = naive.step(q_, k_, v_, s_, g_, scale, *state)
    return o.to(q.dtype), (hk, hv)


def full_precision(x: Tensor) -> Any:
    """A context in which autocast does not lower the precision of matrix products: states add up many tokens."""
    return torch.autocast(x.device.type, enabled=False)


def abc_gates(
    logits: Tensor,
    sums: Tensor | None = None,
    cu_seqlens: Sequence[int] | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write strengths and gates that make GSA the ungated memory of ABC (arXiv 2110.02488).

    With Z_t = log sum_{j <= t} exp(logits_j) they are exp(logits_t - Z_t) and Z_{t-1} - Z_t.

    Args:
        logits: (B, T, H, M), cut off at +-32.
        sums: Z before the first token, (B, H, M), of a sequence that goes on; None at its beginning.
        cu_seqlens: Where packed sequences begin, and T.
        mask: False for padding, (B, T): nothing is written there.

    Returns:
        Strengths and gates (B, T, H, M), and Z after the last token (B, H, M), in float32 (float64 for float64).
    """
    if logits.dim() != 4:
        raise InputError(
            f"logits has shape {tuple(logits.shape)}; four dimensions are needed: batch, time, heads, slots"
        )
    if mask is not None and mask.shape != logits.shape[:2]:
        raise InputError(f"mask has shape {tuple(mask.shape)} where {tuple(logits.shape[:2])} is needed")
    if sums is not None and sums.shape != (logits.shape[0], *logits.shape[2:]):
        raise InputError(f"sums has shape {tuple(sums.shape)} where {(logits.shape[0], *logits.shape[2:])} is needed")
    if cu_seqlens is not None:
        check_starts(cu_seqlens, logits)
        parts = [abc_gates(logits[:, start:stop]) for start, stop in pairwise(cu_seqlens)]
        return torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1), parts[-1][2]
    work = torch.promote_types(torch.float32, logits.dtype)
    logits = logits.to(work).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    if mask is not None:
        logits = logits.masked_fill(~mask[..., None, None], _NO_LOGIT)
    first = torch.full_like(logits[:, :1].sum(1), _NO_LOGIT) if sums is None else sums.to(work)
    z = torch.cat([first[:, None], logits], 1).logcumsumexp(1)
    strengths = (logits - z[:, 1:]).exp()
    if mask is not None:
        strengths = strengths.masked_fill(~mask[..., None, None], 0)
    before = z[:, :-1] if sums is not None else torch.cat([z[:, 1:2], z[:, 1:-1]], 1)  # no gate before the first token
    return strengths, before - z[:, 1:], z[:, -1]


# --- checks and choices -------------------------------------------------------------------------------------


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor | None,
    scale: float,
    state: tuple[Tensor, Tensor] | None,
    cu_seqlens: Tensor | Sequence[int] | None,
    chunk_size: int,
) -> list[int] | None:
    """Raise InputError for what does not fit together; cu_seqlens as numbers."""
    check_tensors({"q": q, "k": k, "v": v, "s": s} | ({} if g is None else {"g": g}))
    check_heads(q, k, {"v": v, "s": s})
    if g is not None:
        if g.shape != s.shape:
            raise InputError(f"g has shape {tuple(g.shape)}, s {tuple(s.shape)}; they must agree")
        check_gates(g)
    check_scale(scale)
    check_chunk_size(chunk_size)
    starts = check_starts(cu_seqlens, q)
    if state is not None:
        if not isinstance(state, tuple | list):
            raise InputError(f"initial_state is a {type(state).__name__}; give two tensors, the slots' keys and values")
        if len(state) != 2:
            raise InputError(f"initial_state has {len(state)} parts; give two tensors, the slots' keys and values")
        sequences = q.shape[0] if starts is None else len(starts) - 1
        check_state(state[0], (sequences, k.shape[2], k.shape[3], s.shape[3]), q)
        check_state(state[1], (sequences, k.shape[2], s.shape[3], v.shape[3]), q)
    return starts


def _choose(backend: Backend, q: Tensor) -> str:
    if backend == "auto":
        return "triton" if q.is_cuda and q.dtype != torch.float64 and _TRITON else "torch"
    if backend not in ("naive", "torch", "triton"):
        raise InputError(f"backend '{backend}' is not known; choose auto, naive, torch or triton")
    if backend == "triton" and not _TRITON:
        raise InputError("backend 'triton' needs the package triton: pip install triton")
    if backend == "triton" and q.device.type == "cpu" and not _kernels().INTERPRETED:
        raise InputError("backend 'triton' needs tensors on a GPU, q is on the CPU; take 'torch' or 'auto' there")
    return backend


def _kernel_step(
    q: Tensor, k: Tensor, v: Tensor, s: Tensor, g: Tensor, scale: float, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`naive.step` by the kernels, which want a dimension of time."""
    o_BTQV, hk, hv = _kernels().step(*(x[:, None] for x in (q, k, v, s, g)), scale, *state)
    return o_BTQV[:, 0], hk, hv


def _kernels() -> Any:
    # By name: nothing that only uses a CPU loads triton.
    return importlib.import_module("tenfold.attention.kernels")


# --- backends, as one operator of torch's -------------------------------------------------------------------


def _naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor,
    scale: float,
    hk: Tensor,
    hv: Tensor,
    starts: list[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if starts is None:
        return naive.recurrence(q, k, v, s, g, scale, hk, hv)
    parts = [
        _naive(q[:, a:b], k[:, a:b], v[:, a:b], s[:, a:b], g[:, a:b], scale, hk[n : n + 1], hv[n : n + 1], None)
        for n, (a, b) in enumerate(pairwise(starts))
    ]
    outputs, keys, values = zip(*parts, strict=True)
    return torch.cat(outputs, 1), torch.cat(keys), torch.cat(values)


@torch.library.custom_op("tenfold::gsa", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor,
    scale: float,
    hk: Tensor,
    hv: Tensor,
    starts: Sequence[int] | None,
    length: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if backend == "triton":
        o, z, hk, hv = _kernels().forward(q, k, v, s, g, scale, hk, hv, _on_device(starts, q), length)
    else:
        q, k, v = (x.to(hk.dtype) for x in (q, k, v))
        with full_precision(q):
            o, z, hk, hv = chunked.forward(q, k, v, s, g, scale, hk, hv, _numbers(starts), length)
    return o, z, hk, hv


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, s: Tensor, g: Tensor, scale: float, hk: Tensor, hv: Tensor, *others: Any) -> Any:
    *_, backend = others
    o = q.new_empty(*q.shape[:3], v.shape[3], dtype=v.dtype if backend == "triton" else hk.dtype)
    z = q.new_empty(*q.shape[:3], s.shape[3], dtype=hk.dtype)
    return o, z, torch.empty_like(hk), torch.empty_like(hv)


@torch.library.custom_op("tenfold::gsa_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor,
    scale: float,
    hk: Tensor,
    hv: Tensor,
    starts: Sequence[int] | None,
    length: int,
    backend: str,
    z: Tensor,
    do: Tensor,
    dhk: Tensor,
    dhv: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtypes = [x.dtype for x in (q, k, v, s, g, hk, hv)]
    if backend == "triton":
        found = _kernels().backward(q, k, v, s, g, scale, hk, hv, _on_device(starts, q), length, z, do, dhk, dhv)
    else:
        q, k, v = (x.to(hk.dtype) for x in (q, k, v))
        with full_precision(q):
            found = chunked.backward(q, k, v, s, g, scale, hk, hv, _numbers(starts), length, z, do, dhk, dhv)
    dq, dk, dv, ds, dg, dhk_0, dhv_0 = (x.to(dtype) for x, dtype in zip(found, dtypes, strict=True))
    return dq, dk, dv, ds, dg, dhk_0, dhv_0


@_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, s: Tensor, g: Tensor, scale: float, hk: Tensor, hv: Tensor, *_: Any) -> Any:
    return tuple(x.new_empty(x.shape) for x in (q, k, v, s, g, hk, hv))


def _numbers(starts: Sequence[int] | None) -> list[int] | None:
    return None if starts is None else list(starts)


def _on_device(starts: Sequence[int] | None, q: Tensor) -> Tensor | None:
    return None if starts is None else torch.tensor(starts, dtype=torch.int32, device=q.device)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, s, g, scale, hk, hv, starts, length, backend = inputs
    ctx.save_for_backward(q, k, v, s, g, hk, hv, output[1])
    ctx.settings = scale, starts, length, backend
    ctx.set_materialize_grads(True)


def _gradients(ctx: Any, do: Tensor, dz: Tensor, dhk: Tensor, dhv: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, s, g, hk, hv, z = ctx.saved_tensors
    scale, starts, length, backend = ctx.settings
    found = _backward(
        q, k, v, s, g, scale, hk, hv, starts, length, backend, z, *(x.contiguous() for x in (do, dhk, dhv))
    )
    return *found[:5], None, *found[5:], None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
