"""Gated linear attention, for the mixers that Gated Slot Attention is compared with.

Shapes: B batch, T time, H key-value heads, Q = G H query heads, K key size, V value size; S sequences.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tenfold.attention import chunked
from tenfold.attention.checks import (
    check_chunk_size,
    check_gates,
    check_heads,
    check_scale,
    check_starts,
    check_state,
    check_tensors,
)
from tenfold.attention.operator import LOWEST_GATE, full_precision
from tenfold.core.errors import InputError

__all__ = ["gla"]


def gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Gated linear attention (arXiv 2312.06635): S_t = diag(exp g_t) S_{t-1} + k_t v_t^T, o_t = scale q_t^T S_t.

    Args:
        q: Queries, (B, T, Q, K).
        k: Keys, (B, T, H, K).
        v: Values, (B, T, H, V).
        g: Logarithms of forget gates, (B, T, H, K), at most 0.
        scale: Factor of q.
        initial_state: S before the first token, (S, H, K, V); zeros if None.
        cu_seqlens: Where packed sequences begin, and T, as in `gsa`.
        chunk_size: Tokens that are worked out together.

    Returns:
        Outputs (B, T, Q, V) in the dtype of q, and the state after the last token in float32 (float64 for float64).

    Raises:
        InputError: As `gsa`.
    """
    check_tensors({"q": q, "k": k, "v": v, "g": g})
    check_heads(q, k, {"v": v})
    if g.shape != k.shape:
        raise InputError(f"g has shape {tuple(g.shape)}, k {tuple(k.shape)}; they must agree")
    check_gates(g)
    check_scale(scale)
    check_chunk_size(chunk_size)
    starts = check_starts(cu_seqlens, q)
    work = torch.promote_types(torch.float32, q.dtype)
    shape = (q.shape[0] if starts is None else len(starts) - 1, *k.shape[2:], v.shape[3])
    if initial_state is None:
        state = q.new_zeros(shape, dtype=work)
    else:
        check_state(initial_state, shape, q)
        state = initial_state.to(work)
    if q.shape[0] == 0 or q.shape[1] == 0:
        return q[..., :1].expand(*q.shape[:3], v.shape[3]), state
    q_, k_, v_, g_ = (x.to(work) for x in (q, k, v, g))
    o, state = _linear(scale * q_, v_, k_, g_.clamp(min=LOWEST_GATE), state, starts, chunk_size)
    return o.to(q.dtype), state


@torch.library.custom_op("tenfold::gla", mutates_args=())
def _linear(
    q: Tensor, v: Tensor, k: Tensor, g: Tensor, state: Tensor, starts: Sequence[int] | None, length: int
) -> tuple[Tensor, Tensor]:
    with full_precision(q):
        return chunked.read(q, v, k, g, state, None if starts is None else list(starts), length)


@_linear.register_fake
def _(q: Tensor, v: Tensor, k: Tensor, g: Tensor, state: Tensor, *_: Any) -> Any:
    return q.new_empty(*q.shape[:3], v.shape[3]), torch.empty_like(state)


@torch.library.custom_op("tenfold::gla_backward", mutates_args=())
def _linear_backward(
    q: Tensor,
    v: Tensor,
    k: Tensor,
    g: Tensor,
    state: Tensor,
    starts: Sequence[int] | None,
    length: int,
    do: Tensor,
    dstate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    with full_precision(q):
        return chunked.read_back(q, v, k, g, state, None if starts is None else list(starts), length, do, dstate)


@_linear_backward.register_fake
def _(q: Tensor, v: Tensor, k: Tensor, g: Tensor, state: Tensor, *_: Any) -> Any:
    return tuple(torch.empty_like(x) for x in (q, v, k, g, state))


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _linear_gradients(ctx: Any, do: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
    found = _linear_backward(*ctx.saved_tensors, *ctx.settings, do.contiguous(), dstate.contiguous())
    return *found, None, None


_linear.register_autograd(_linear_gradients, setup_context=_keep_linear)
