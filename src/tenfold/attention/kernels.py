"""Gated Slot Attention on a GPU: Triton kernels of the chunked forward and backward pass and of one decode step.

Imported by name when a CUDA device is used. With TRITON_INTERPRET=1 in the environment the kernels run in Triton's
interpreter on the CPU, for tests. Equations: Zhang et al., "Gated Slot Attention", arXiv 2409.07146.

Every row of a batch, or every packed sequence, is cut into chunks of C tokens. With b the cumulative sum of the log
gates within a chunk, S (K, M) and R (M, V) the states at its start and D_ijm = exp(b_im - b_jm) s_jm for j <= i:

    z_i = scale (exp(b_i) q_i S + sum_j (q_i k_j) D_ij)     p_i = softmax(z_i)
    o_i = (p_i exp(b_i)) R + sum_j (sum_m p_im D_ijm) v_j

D is never built. Where a chunk's gates decay by no more than exp(-FAST), D is the product of exp(b_i - c) and
exp(c - b_j) with c halfway, and sums over D are matrix products; where they decay more, a loop over j sums with
exponents that are never positive.

B batch · T tokens · HQ query heads · H heads of keys and values · G = HQ / H · K key size · V value size · M slots
C tokens of a chunk · MP slots, padded to a power of 2 · BX, BM columns and slots that a program takes at a time
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = ["INTERPRETED", "LONGEST_CHUNK", "TUNING", "backward", "forward", "step"]

LONGEST_CHUNK = 64  # tokens; tiles lie in registers, so half of it with float32 inputs or more than 64 slots

# What each kernel takes: columns of K or V, slots (only the scans divide them), warps, stages of its loads.
TUNING = {
    "states": (64, 32, 4, 3),
    "outputs": (64, 64, 4, 2),
    "slot_gradients": (64, 64, 8, 2),
    "query_gradients": (64, 64, 8, 2),
    "column_gradients": (64, 64, 4, 2),
    "step": (16, 128, 4, 1),
}
BF16_FACTORS = False  # bfloat16 inputs: factors of D in bfloat16 in place of tf32
FLOAT32_PRODUCTS = "tf32x3"  # float32 inputs: three products of tf32, about as exact as "ieee" and much faster

_FAST = tl.constexpr(80.0)
_NOTHING = tl.constexpr(float("-inf"))


# --- tiles --------------------------------------------------------------------------------------------------


@triton.jit
def _load(base, row, column, rows, columns, row_stride: tl.constexpr, column_stride: tl.constexpr):
    """A tile, with zeros past `rows` and `columns`."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(base + row[:, None] * row_stride + column[None, :] * column_stride, mask=mask, other=0.0)


@triton.jit
def _store(base, tile, row, column, rows, columns, row_stride: tl.constexpr, column_stride: tl.constexpr):
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    place = base + row[:, None] * row_stride + column[None, :] * column_stride
    tl.store(place, tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _load_sums(base, row, slot, length, STRIDE: tl.constexpr, M: tl.constexpr):
    """b of a chunk (C, MP) and its last row (MP,), which also stands past the end."""
    last = tl.load(base + (length - 1) * STRIDE + slot, mask=slot < M, other=0.0)
    b = _load(base, row, slot, length, M, STRIDE, 1)
    return tl.where((row < length)[:, None], b, last[None, :]), last


@triton.jit
def _factors(b_base, s_base, row, slot, length, STRIDE: tl.constexpr, M: tl.constexpr):
    """Of a chunk: exp(b - c), s exp(c - b) (C, MP), exp(c) (MP,) and whether D is their product, for c = 0 if not."""
    b, last = _load_sums(b_base, row, slot, length, STRIDE, M)
    first = tl.load(b_base + slot, mask=slot < M, other=0.0)
    fast = tl.max(first - last, axis=0) <= _FAST
    middle = tl.where(fast, 0.5 * (first + last), 0.0)
    apart = b - middle[None, :]
    s = _load(s_base, row, slot, length, M, STRIDE, 1).to(tl.float32)
    return tl.exp(apart), s * tl.exp(tl.minimum(-apart, 0.5 * _FAST)), tl.exp(middle), fast


@triton.jit
def _down(b_base, row, slot, length, STRIDE: tl.constexpr, M: tl.constexpr):
    """exp(c - b) (C, MP) where D is a product, else ones."""
    b, last = _load_sums(b_base, row, slot, length, STRIDE, M)
    first = tl.load(b_base + slot, mask=slot < M, other=0.0)
    fast = tl.max(first - last, axis=0) <= _FAST
    return tl.where(fast, tl.exp(tl.minimum(0.5 * (first + last)[None, :] - b, 0.5 * _FAST)), 1.0)


@triton.jit
def _to_end(b_base, s_base, row, slot, length, STRIDE: tl.constexpr, M: tl.constexpr):
    """What is left at the chunk's end: exp(b_C - b) and s (C, MP), exp(b_C) (MP,)."""
    b, last = _load_sums(b_base, row, slot, length, STRIDE, M)
    s = _load(s_base, row, slot, length, M, STRIDE, 1).to(tl.float32)
    return tl.exp(tl.minimum(last[None, :] - b, 0.0)), s, tl.exp(last)


# --- sums over D --------------------------------------------------------------------------------------------


@triton.jit
def _one_decay(b, b_base, j, row, slot, STRIDE: tl.constexpr, M: tl.constexpr):
    """exp(b_i - b_j) for all i >= j, else 0: (C, MP)."""
    b_j = tl.load(b_base + j * STRIDE + slot, mask=slot < M, other=0.0)
    return tl.where((row >= j)[:, None], tl.exp(tl.minimum(b - b_j[None, :], 0.0)), 0.0)


@triton.jit
def _over_j(a, up, s_down, fast, row, slot, length, b_base, s_base, STRIDE: tl.constexpr, M: tl.constexpr,
            FACTOR: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """sum_j a_ij D_ijm: (C, C) to (C, MP)."""
    column = tl.arange(0, row.shape[0])
    if fast:
        lower = tl.where(row[:, None] >= column[None, :], a, 0.0).to(FACTOR)
        total = up * tl.dot(lower, s_down.to(FACTOR), input_precision=PRECISION)
    else:
        total = tl.zeros_like(up)
        b, _ = _load_sums(b_base, row, slot, length, STRIDE, M)
        for j in range(length):
            s_j = tl.load(s_base + j * STRIDE + slot, mask=slot < M, other=0.0).to(tl.float32)
            a_j = tl.sum(tl.where((column == j)[None, :], a, 0.0), axis=1)
            total += _one_decay(b, b_base, j, row, slot, STRIDE, M) * a_j[:, None] * s_j[None, :]
    return total


@triton.jit
def _over_m(y, up, s_down, fast, row, slot, length, b_base, s_base, STRIDE: tl.constexpr, M: tl.constexpr,
            FACTOR: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """sum_m y_im D_ijm: (C, MP) to (C, C), 0 for j > i."""
    column = tl.arange(0, row.shape[0])
    if fast:
        whole = tl.dot((y * up).to(FACTOR), tl.trans(s_down.to(FACTOR)), input_precision=PRECISION)
        total = tl.where(row[:, None] >= column[None, :], whole, 0.0)
    else:
        total = tl.zeros([row.shape[0], row.shape[0]], tl.float32)
        b, _ = _load_sums(b_base, row, slot, length, STRIDE, M)
        for j in range(length):
            s_j = tl.load(s_base + j * STRIDE + slot, mask=slot < M, other=0.0).to(tl.float32)
            sums = tl.sum(_one_decay(b, b_base, j, row, slot, STRIDE, M) * y * s_j[None, :], axis=1)
            total = tl.where((column == j)[None, :], sums[:, None], total)
    return total


@triton.jit
def _over_i(a, y, up, fast, row, slot, length, b_base, STRIDE: tl.constexpr, M: tl.constexpr, FACTOR: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """sum_i a_ij y_im exp(b_im - b_jm), to be multiplied by `_down`: (C, C) and (C, MP) to (C, MP)."""
    column = tl.arange(0, row.shape[0])
    if fast:
        lower = tl.where(row[:, None] >= column[None, :], a, 0.0).to(FACTOR)
        total = tl.dot(tl.trans(lower), (y * up).to(FACTOR), input_precision=PRECISION)
    else:
        total = tl.zeros_like(up)
        b, _ = _load_sums(b_base, row, slot, length, STRIDE, M)
        for j in range(length):
            a_j = tl.sum(tl.where((column == j)[None, :], a, 0.0), axis=1)
            sums = tl.sum(_one_decay(b, b_base, j, row, slot, STRIDE, M) * y * a_j[:, None], axis=0)
            total = tl.where((row == j)[:, None], sums[None, :], total)
    return total


# --- forward ------------------------------------------------------------------------------------------------


@triton.jit
def _prepare(g, b, z, sums, begins, lengths, HQ: tl.constexpr, H: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
             MP: tl.constexpr, WITH_SUMS: tl.constexpr):  # fmt: skip
    """A program per chunk and head: cumulative sums of g (B T, H, M); log sum_m exp z (B T, HQ)."""
    chunk, h = tl.program_id(0) // H, tl.program_id(0) % H
    begin, length = tl.load(begins + chunk), tl.load(lengths + chunk)
    row, slot = tl.arange(0, C), tl.arange(0, MP)
    place = (begin * H + h) * M
    gates = _load(g + place, row, slot, length, M, H * M, 1).to(tl.float32)
    _store(b + place, tl.cumsum(gates, axis=0), row, slot, length, M, H * M, 1)
    if WITH_SUMS:
        for query in range(h * (HQ // H), (h + 1) * (HQ // H)):
            logits = _load(z + (begin * HQ + query) * M, row, slot, length, M, HQ * M, 1)
            logits = tl.where((slot < M)[None, :], logits, _NOTHING)
            most = tl.max(logits, axis=1)
            total = most + tl.log(tl.sum(tl.exp(logits - most[:, None]), axis=1))
            tl.store(sums + begin * HQ + query + row * HQ, total, mask=row < length)


@triton.jit
def _scan(x, s, b, states, initial, final, starts, firsts, n, h, column, slot, H: tl.constexpr, X: tl.constexpr,
          M: tl.constexpr, C: tl.constexpr, X_STRIDE: tl.constexpr, M_STRIDE: tl.constexpr, FILLED: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """The states of one sequence, columns of x and slots, chunk after chunk: state = state exp(b_C) + x^T w."""
    begin, end, chunk = tl.load(starts + n), tl.load(starts + n + 1), tl.load(firsts + n).to(tl.int64)
    row = tl.arange(0, C)
    if FILLED:
        state = _load(initial + (n * H + h) * X * M, column, slot, X, M, X_STRIDE, M_STRIDE).to(tl.float32)
    else:
        state = tl.zeros([column.shape[0], slot.shape[0]], tl.float32)
    for at in range(begin, end, C):
        length = tl.minimum(end - at, C).to(tl.int32)
        _store(states + (chunk * H + h) * X * M, state, column, slot, X, M, X_STRIDE, M_STRIDE)
        tile = _load(x + (at * H + h) * X, row, column, length, X, H * X, 1)
        to_end, strength, whole = _to_end(b + (at * H + h) * M, s + (at * H + h) * M, row, slot, length, H * M, M)
        weights = (strength * to_end).to(tile.dtype)
        state = state * whole[None, :] + tl.dot(tl.trans(tile), weights, input_precision=PRECISION)
        chunk += 1
    _store(final + (n * H + h) * X * M, state, column, slot, X, M, X_STRIDE, M_STRIDE)


@triton.jit
def _states(k, v, s, b, hk, hv, first_k, first_v, last_k, last_v, starts, firsts, H: tl.constexpr, K: tl.constexpr,
            V: tl.constexpr, M: tl.constexpr, C: tl.constexpr, BX: tl.constexpr, BM: tl.constexpr,
            FILLED_K: tl.constexpr, FILLED_V: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program per sequence and head, block of K or V and block of slots: states at the start of every chunk."""
    BLOCKS_K: tl.constexpr = (K + BX - 1) // BX
    n, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    block = tl.program_id(1)
    slot = tl.program_id(2) * BM + tl.arange(0, BM)
    if block < BLOCKS_K:
        column = block * BX + tl.arange(0, BX)
        _scan(k, s, b, hk, first_k, last_k, starts, firsts, n, h, column, slot, H, K, M, C, M, 1, FILLED_K, PRECISION)
    else:
        column = (block - BLOCKS_K) * BX + tl.arange(0, BX)
        _scan(v, s, b, hv, first_v, last_v, starts, firsts, n, h, column, slot, H, V, M, C, 1, V, FILLED_V, PRECISION)


@triton.jit
def _outputs(q, k, v, s, b, hk, hv, o, z, begins, lengths, scale, HQ: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
             V: tl.constexpr, M: tl.constexpr, C: tl.constexpr, MP: tl.constexpr, BX: tl.constexpr,
             FACTOR: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program per chunk and query head: o (B T, HQ, V) and z (B T, HQ, M)."""
    STATE: tl.constexpr = hk.dtype.element_ty
    chunk, query = tl.program_id(0).to(tl.int64) // HQ, tl.program_id(0) % HQ
    h = query // (HQ // H)
    begin, length = tl.load(begins + chunk), tl.load(lengths + chunk)
    row, slot = tl.arange(0, C), tl.arange(0, MP)
    scores = tl.zeros([C, C], tl.float32)
    read = tl.zeros([C, MP], tl.float32)
    for first in range(0, K, BX):
        column = first + tl.arange(0, BX)
        q_tile = _load(q + (begin * HQ + query) * K, row, column, length, K, HQ * K, 1)
        k_tile = _load(k + (begin * H + h) * K, row, column, length, K, H * K, 1)
        state = _load(hk + (chunk * H + h) * K * M, column, slot, K, M, M, 1)
        scores += tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        read += tl.dot(q_tile.to(STATE), state, input_precision=PRECISION)
    b_base, s_base = b + (begin * H + h) * M, s + (begin * H + h) * M
    up, s_down, middle, fast = _factors(b_base, s_base, row, slot, length, H * M, M)
    logits = _over_j(scores, up, s_down, fast, row, slot, length, b_base, s_base, H * M, M, FACTOR, PRECISION)
    logits = scale * (read * up * middle[None, :] + logits)
    _store(z + (begin * HQ + query) * M, logits, row, slot, length, M, HQ * M, 1)
    logits = tl.where((slot < M)[None, :], logits, _NOTHING)
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    p = p / tl.sum(p, axis=1)[:, None]
    mixed = _over_m(p, up, s_down, fast, row, slot, length, b_base, s_base, H * M, M, FACTOR, PRECISION)
    mixed = mixed.to(v.dtype.element_ty)
    past = (p * up * middle[None, :]).to(STATE)
    for first in range(0, V, BX):
        column = first + tl.arange(0, BX)
        v_tile = _load(v + (begin * H + h) * V, row, column, length, V, H * V, 1)
        state = _load(hv + (chunk * H + h) * M * V, slot, column, M, V, V, 1)
        out = tl.dot(past, state, input_precision=PRECISION) + tl.dot(mixed, v_tile, input_precision=PRECISION)
        _store(o + (begin * HQ + query) * V, out, row, column, length, V, HQ * V, 1)


# --- backward -----------------------------------------------------------------------------------------------


@triton.jit
def _gradient_states(x, y, sums, b, states, initial, final, starts, firsts, scale, HQ: tl.constexpr, H: tl.constexpr,
                     X: tl.constexpr, M: tl.constexpr, C: tl.constexpr, BX: tl.constexpr, BM: tl.constexpr,
                     X_STRIDE: tl.constexpr, M_STRIDE: tl.constexpr, FILLED: tl.constexpr, SOFTMAX: tl.constexpr,
                     PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of the states at the end of every chunk, last first: state = state exp(b_C) + scale x^T (y exp b).

    x is q and y dz; or x is do and y the softmax of z. What is left at the start is the initial state's gradient.
    """
    G: tl.constexpr = HQ // H
    n, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    column = tl.program_id(1) * BX + tl.arange(0, BX)
    slot = tl.program_id(2) * BM + tl.arange(0, BM)
    row = tl.arange(0, C)
    begin, end = tl.load(starts + n), tl.load(starts + n + 1)
    last_chunk = tl.load(firsts + n + 1).to(tl.int64) - 1
    place = (n * H + h) * X * M
    if FILLED:
        state = _load(final + place, column, slot, X, M, X_STRIDE, M_STRIDE).to(tl.float32)
    else:
        state = tl.zeros([BX, BM], tl.float32)
    count = ((end - begin + C - 1) // C).to(tl.int32)
    for index in range(count * G):  # one loop over chunks and query heads, whose loads all run ahead
        query, enters = h * G + index % G, index % G == 0
        at = begin + (count - 1 - index // G) * C
        length = tl.minimum(end - at, C).to(tl.int32)
        chunk = last_chunk - index // G
        if enters:
            _store(states + (chunk * H + h) * X * M, state, column, slot, X, M, X_STRIDE, M_STRIDE)
        decay = tl.exp(_load(b + (at * H + h) * M, row, slot, length, M, H * M, 1))
        last = tl.load(b + ((at + length - 1) * H + h) * M + slot, mask=slot < M, other=0.0)
        tile = _load(x + (at * HQ + query) * X, row, column, length, X, HQ * X, 1)
        weights = _load(y + (at * HQ + query) * M, row, slot, length, M, HQ * M, 1)
        if SOFTMAX:
            total = tl.load(sums + at * HQ + query + row * HQ, mask=row < length, other=0.0)
            weights = tl.where((slot < M)[None, :], tl.exp(weights - total[:, None]), 0.0)
        weights = (weights * decay * scale).to(tile.dtype)
        state = state * tl.where(enters, tl.exp(last), 1.0)[None, :]
        state += tl.dot(tl.trans(tile), weights, input_precision=PRECISION)
    _store(initial + place, state, column, slot, X, M, X_STRIDE, M_STRIDE)


@triton.jit
def _slot_gradients(v, s, b, z, sums, hv, d_hv, do, dz, mixes, ds, dg, begins, lengths, HQ: tl.constexpr,
                    H: tl.constexpr, V: tl.constexpr, M: tl.constexpr, C: tl.constexpr, MP: tl.constexpr,
                    BX: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program per chunk and head: dz, sum_m p_im D_ijm, and what the values' pass adds to ds and dg."""
    STATE: tl.constexpr = hv.dtype.element_ty
    G: tl.constexpr = HQ // H
    chunk, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    begin, length = tl.load(begins + chunk), tl.load(lengths + chunk)
    row, slot = tl.arange(0, C), tl.arange(0, MP)
    v_base, state_place = v + (begin * H + h) * V, (chunk * H + h) * M * V
    b_base, s_base = b + (begin * H + h) * M, s + (begin * H + h) * M
    up, s_down, middle, fast = _factors(b_base, s_base, row, slot, length, H * M, M)
    within = tl.zeros([C, MP], tl.float32)
    gates = tl.zeros([C, MP], tl.float32)
    for query in range(h * G, (h + 1) * G):
        d_mixed = tl.zeros([C, C], tl.float32)
        d_p = tl.zeros([C, MP], tl.float32)
        for first in range(0, V, BX):
            column = first + tl.arange(0, BX)
            d_out = _load(do + (begin * HQ + query) * V, row, column, length, V, HQ * V, 1)
            v_tile = _load(v_base, row, column, length, V, H * V, 1)
            state = _load(hv + state_place, slot, column, M, V, V, 1)
            d_mixed += tl.dot(d_out, tl.trans(v_tile), input_precision=PRECISION)
            d_p += tl.dot(d_out.to(STATE), tl.trans(state), input_precision=PRECISION)
        d_p = d_p * up * middle[None, :]
        d_p += _over_j(d_mixed, up, s_down, fast, row, slot, length, b_base, s_base, H * M, M, FACTOR, PRECISION)
        total = tl.load(sums + begin * HQ + query + row * HQ, mask=row < length, other=0.0)
        logits = _load(z + (begin * HQ + query) * M, row, slot, length, M, HQ * M, 1)
        p = tl.where((slot < M)[None, :], tl.exp(logits - total[:, None]), 0.0)
        d_p = p * d_p
        gates += d_p
        d_p -= p * tl.sum(d_p, axis=1)[:, None]
        _store(dz + (begin * HQ + query) * M, d_p, row, slot, length, M, HQ * M, 1)
        within += _over_i(d_mixed, p, up, fast, row, slot, length, b_base, H * M, M, FACTOR, PRECISION)
        mixed = _over_m(p, up, s_down, fast, row, slot, length, b_base, s_base, H * M, M, FACTOR, PRECISION)
        _store(mixes + (chunk * HQ + query) * C * C, mixed, row, row, C, C, C, 1)
    strengths = tl.zeros([C, MP], tl.float32)
    constant = tl.zeros([MP], tl.float32)
    for first in range(0, V, BX):
        column = first + tl.arange(0, BX)
        v_tile = _load(v_base, row, column, length, V, H * V, 1).to(STATE)
        state = _load(hv + state_place, slot, column, M, V, V, 1)
        d_state = _load(d_hv + state_place, slot, column, M, V, V, 1)
        strengths += tl.dot(v_tile, tl.trans(d_state), input_precision=PRECISION)
        constant += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), axis=1)
    to_end, strength, whole = _to_end(b_base, s_base, row, slot, length, H * M, M)
    strengths *= to_end
    constant = constant * whole + tl.sum(strength * strengths, axis=0)
    strengths += within * _down(b_base, row, slot, length, H * M, M)
    gates = tl.cumsum(gates - strength * strengths, axis=0, reverse=True) + constant[None, :]
    _store(ds + (begin * H + h) * M, strengths, row, slot, length, M, H * M, 1)
    _store(dg + (begin * H + h) * M, gates, row, slot, length, M, H * M, 1)


@triton.jit
def _query_gradients(q, k, s, b, z, dz, hk, d_hk, ds_v, dg_v, dq, mixes, ds, dg, begins, lengths, scale,
                     HQ: tl.constexpr, H: tl.constexpr, K: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
                     MP: tl.constexpr, BX: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program per chunk and head: dq, sum_m dz_im D_ijm, and ds and dg with what the values' pass found."""
    STATE: tl.constexpr = hk.dtype.element_ty
    G: tl.constexpr = HQ // H
    chunk, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    begin, length = tl.load(begins + chunk), tl.load(lengths + chunk)
    row, slot = tl.arange(0, C), tl.arange(0, MP)
    k_base, state_place = k + (begin * H + h) * K, (chunk * H + h) * K * M
    b_base, s_base = b + (begin * H + h) * M, s + (begin * H + h) * M
    up, s_down, middle, fast = _factors(b_base, s_base, row, slot, length, H * M, M)
    within = tl.zeros([C, MP], tl.float32)
    gates = tl.zeros([C, MP], tl.float32)
    for query in range(h * G, (h + 1) * G):
        q_place = (begin * HQ + query) * K
        scores = tl.zeros([C, C], tl.float32)
        for first in range(0, K, BX):
            column = first + tl.arange(0, BX)
            q_tile = _load(q + q_place, row, column, length, K, HQ * K, 1)
            k_tile = _load(k_base, row, column, length, K, H * K, 1)
            scores += tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        d_logits = _load(dz + (begin * HQ + query) * M, row, slot, length, M, HQ * M, 1)
        gates += d_logits * _load(z + (begin * HQ + query) * M, row, slot, length, M, HQ * M, 1)
        d_logits *= scale
        within += _over_i(scores, d_logits, up, fast, row, slot, length, b_base, H * M, M, FACTOR, PRECISION)
        mixed = _over_m(d_logits, up, s_down, fast, row, slot, length, b_base, s_base, H * M, M, FACTOR, PRECISION)
        mixed = mixed.to(k.dtype.element_ty)
        _store(mixes + (chunk * HQ + query) * C * C, mixed, row, row, C, C, C, 1)
        past = (d_logits * up * middle[None, :]).to(STATE)
        for first in range(0, K, BX):
            column = first + tl.arange(0, BX)
            k_tile = _load(k_base, row, column, length, K, H * K, 1)
            state = _load(hk + state_place, column, slot, K, M, M, 1)
            out = tl.dot(mixed, k_tile, input_precision=PRECISION)
            out += tl.dot(past, tl.trans(state), input_precision=PRECISION)
            _store(dq + q_place, out, row, column, length, K, HQ * K, 1)
    strengths = tl.zeros([C, MP], tl.float32)
    constant = tl.zeros([MP], tl.float32)
    for first in range(0, K, BX):
        column = first + tl.arange(0, BX)
        k_tile = _load(k_base, row, column, length, K, H * K, 1).to(STATE)
        state = _load(hk + state_place, column, slot, K, M, M, 1)
        d_state = _load(d_hk + state_place, column, slot, K, M, M, 1)
        strengths += tl.dot(k_tile, d_state, input_precision=PRECISION)
        constant += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), axis=0)
    to_end, strength, whole = _to_end(b_base, s_base, row, slot, length, H * M, M)
    strengths *= to_end
    constant = constant * whole + tl.sum(strength * strengths, axis=0)
    strengths += within * _down(b_base, row, slot, length, H * M, M)
    gates = tl.cumsum(gates - strength * strengths, axis=0, reverse=True) + constant[None, :]
    gates += _load(dg_v + (begin * H + h) * M, row, slot, length, M, H * M, 1)
    strengths += _load(ds_v + (begin * H + h) * M, row, slot, length, M, H * M, 1)
    _store(ds + (begin * H + h) * M, strengths, row, slot, length, M, H * M, 1)
    _store(dg + (begin * H + h) * M, gates, row, slot, length, M, H * M, 1)


@triton.jit
def _column_gradients(x, s, b, mixes, d_states, dx, begins, lengths, HQ: tl.constexpr, H: tl.constexpr,
                      X: tl.constexpr, M: tl.constexpr, C: tl.constexpr, MP: tl.constexpr, BX: tl.constexpr,
                      X_STRIDE: tl.constexpr, M_STRIDE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A program per chunk, head and block of K or V: dk from q and dz's sums over D; dv from do and p's."""
    STATE: tl.constexpr = d_states.dtype.element_ty
    chunk, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    begin, length = tl.load(begins + chunk), tl.load(lengths + chunk)
    row, slot = tl.arange(0, C), tl.arange(0, MP)
    column = tl.program_id(1) * BX + tl.arange(0, BX)
    place = (begin * H + h) * M
    to_end, strength, _ = _to_end(b + place, s + place, row, slot, length, H * M, M)
    weights = (strength * to_end).to(STATE)
    state = _load(d_states + (chunk * H + h) * X * M, slot, column, M, X, M_STRIDE, X_STRIDE)
    out = tl.dot(weights, state, input_precision=PRECISION)
    for query in range(h * (HQ // H), (h + 1) * (HQ // H)):
        mixed = _load(mixes + (chunk * HQ + query) * C * C, row, row, C, C, C, 1)
        tile = _load(x + (begin * HQ + query) * X, row, column, length, X, HQ * X, 1)
        out += tl.dot(tl.trans(mixed), tile, input_precision=PRECISION)
    _store(dx + (begin * H + h) * X, out, row, column, length, X, H * X, 1)


# --- one token ----------------------------------------------------------------------------------------------


@triton.jit
def _step_keys(q, k, s, g, hk, new_hk, parts, HQ: tl.constexpr, H: tl.constexpr, K: tl.constexpr, M: tl.constexpr,
               MP: tl.constexpr, GP: tl.constexpr, BX: tl.constexpr, FILLED: tl.constexpr):  # fmt: skip
    """A program per head and block of K: its part of the new state and of q S, (B H, blocks, G, M)."""
    G: tl.constexpr = HQ // H
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    query, column, slot = tl.arange(0, GP), block * BX + tl.arange(0, BX), tl.arange(0, MP)
    gate = tl.load(g + head * M + slot, mask=slot < M, other=0.0).to(tl.float32)
    strength = tl.load(s + head * M + slot, mask=slot < M, other=0.0).to(tl.float32)
    key = tl.load(k + head * K + column, mask=column < K, other=0.0).to(tl.float32)
    state = key[:, None] * strength[None, :]
    if FILLED:
        state += tl.exp(gate)[None, :] * _load(hk + head * K * M, column, slot, K, M, M, 1).to(tl.float32)
    _store(new_hk + head * K * M, state, column, slot, K, M, M, 1)
    queries = _load(q + head * G * K, query, column, G, K, K, 1).to(tl.float32)
    part = tl.sum(queries[:, :, None] * state[None, :, :], axis=1)
    _store(parts + (head * tl.num_programs(1) + block) * G * M, part, query, slot, G, M, M, 1)


@triton.jit
def _step_values(v, s, g, hv, new_hv, parts, o, scale, BLOCKS, HQ: tl.constexpr, H: tl.constexpr, V: tl.constexpr,
                 M: tl.constexpr, MP: tl.constexpr, GP: tl.constexpr, BX: tl.constexpr,
                 FILLED: tl.constexpr):  # fmt: skip
    """A program per head and block of V: its part of the new state and of the output."""
    G: tl.constexpr = HQ // H
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    query, column, slot = tl.arange(0, GP), block * BX + tl.arange(0, BX), tl.arange(0, MP)
    logits = tl.zeros([GP, MP], tl.float32)
    for number in range(BLOCKS):
        logits += _load(parts + (head * BLOCKS + number) * G * M, query, slot, G, M, M, 1)
    logits = tl.where((slot < M)[None, :], logits * scale, _NOTHING)
    p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    p = p / tl.sum(p, axis=1)[:, None]
    gate = tl.load(g + head * M + slot, mask=slot < M, other=0.0).to(tl.float32)
    strength = tl.load(s + head * M + slot, mask=slot < M, other=0.0).to(tl.float32)
    value = tl.load(v + head * V + column, mask=column < V, other=0.0).to(tl.float32)
    state = strength[:, None] * value[None, :]
    if FILLED:
        state += tl.exp(gate)[:, None] * _load(hv + head * M * V, slot, column, M, V, V, 1).to(tl.float32)
    _store(new_hv + head * M * V, state, slot, column, M, V, V, 1)
    out = tl.sum(p[:, :, None] * state[None, :, :], axis=1)
    _store(o + head * G * V, out, query, column, G, V, V, 1)


INTERPRETED = not isinstance(_prepare, triton.runtime.JITFunction)


# --- what callers see ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunks:
    """Where sequences and chunks lie among the tokens, on the device."""

    starts: Any  # (N + 1,) int64, tokens
    firsts: Any  # (N + 1,) int32, chunks
    begins: Any  # (chunks,) int64, tokens
    lengths: Any  # (chunks,) int32


@lru_cache(maxsize=64)
def _cut(starts: tuple[int, ...], size: int, device: Any) -> _Chunks:
    firsts, begins, lengths = [0], list[int](), list[int]()
    for start, end in pairwise(starts):
        begins += range(start, end, size)
        lengths += [min(size, end - begin) for begin in range(start, end, size)]
        firsts.append(len(begins))
    return _Chunks(
        torch.tensor(starts, dtype=torch.int64, device=device),
        torch.tensor(firsts, dtype=torch.int32, device=device),
        torch.tensor(begins, dtype=torch.int64, device=device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )


class _Work:
    """One call: its sizes, its inputs as the kernels read them, its chunks and the launches that both passes share."""

    def __init__(self, q: Any, k: Any, v: Any, s: Any, g: Any, starts: Any, chunk: int) -> None:
        kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        self.q, self.k, self.v = (tensor.to(kind).contiguous() for tensor in (q, k, v))
        self.s, self.g = s.contiguous(), g.contiguous()
        batch, tokens, self.query_heads, self.key_size = q.shape
        self.heads, self.slots, self.value_size = s.shape[2], s.shape[3], v.shape[3]
        self.tokens = batch * tokens
        self.padded_slots = max(16, triton.next_power_of_2(self.slots))
        longest = LONGEST_CHUNK if kind != torch.float32 and self.padded_slots <= 64 else LONGEST_CHUNK // 2
        self.size = max(16, min(longest, triton.next_power_of_2(chunk)))
        places = tuple(starts.tolist()) if starts is not None else tuple(n * tokens for n in range(batch + 1))
        self.sequences = len(places) - 1
        self.chunks = _cut(places, self.size, q.device)
        self.state_kind = torch.bfloat16 if kind == torch.bfloat16 else torch.float32
        self.heads_meta = {"HQ": self.query_heads, "H": self.heads, "M": self.slots, "C": self.size}
        self.precision = FLOAT32_PRODUCTS if kind == torch.float32 else "tf32"
        small = BF16_FACTORS and kind == torch.bfloat16
        self.factors = {"FACTOR": tl.bfloat16 if small else tl.float32, "PRECISION": self.precision}

    @property
    def device(self) -> Any:
        return self.q.device

    @property
    def chunk_count(self) -> int:
        return len(self.chunks.begins)

    def empty(self, *shape: int, like: Any = None) -> Any:
        """Memory of that shape: float32, or of a tensor's type."""
        return torch.empty(shape, dtype=torch.float32 if like is None else like.dtype, device=self.device)

    def sums(self, z: Any = None) -> tuple[Any, Any]:
        """Cumulative sums of g within chunks (B T, H, M), and log-sums of z (B T, HQ)."""
        b = self.empty(self.tokens, self.heads, self.slots)
        totals = self.empty(self.tokens, self.query_heads) if z is not None else b
        grid = (self.chunk_count * self.heads,)
        _prepare[grid](self.g, b, b if z is None else z, totals, self.chunks.begins, self.chunks.lengths,
                       **self.heads_meta, MP=self.padded_slots, WITH_SUMS=z is not None)  # fmt: skip
        return b, totals

    def chunk_states(self, *shape: int) -> Any:
        """Memory for a state per chunk and head."""
        return torch.empty((self.chunk_count, self.heads, *shape), dtype=self.state_kind, device=self.device)

    def scan_shape(self, columns: int) -> tuple[int, int, dict[str, int]]:
        """Blocks of columns and of slots, and how the scans are launched."""
        width, most, warps, stages = TUNING["states"]
        block = min(most, self.padded_slots)
        meta = {"BX": _block(width, columns), "BM": block, "num_warps": warps, "num_stages": stages}
        return -(-columns // meta["BX"]), -(-self.slots // block), meta

    def states(self, b: Any, hk: Any, hv: Any) -> tuple[Any, Any, Any, Any]:
        """States of keys and of values at the start of every chunk, and at the end of every sequence."""
        keys, slots, values = self.key_size, self.slots, self.value_size
        states_k, states_v = self.chunk_states(keys, slots), self.chunk_states(slots, values)
        last_k = self.empty(self.sequences, self.heads, keys, slots)
        last_v = self.empty(self.sequences, self.heads, slots, values)
        _, slot_blocks, meta = self.scan_shape(max(keys, values))
        blocks = -(-keys // meta["BX"]) + -(-values // meta["BX"])
        sizes = {"H": self.heads, "K": keys, "V": values, "M": slots, "C": self.size}
        _states[(self.sequences * self.heads, blocks, slot_blocks)](
            self.k, self.v, self.s, b, states_k, states_v, last_k if hk is None else hk.contiguous(),
            last_v if hv is None else hv.contiguous(), last_k, last_v, self.chunks.starts, self.chunks.firsts,
            **sizes, **meta, FILLED_K=hk is not None, FILLED_V=hv is not None, PRECISION=self.precision)  # fmt: skip
        return states_k, states_v, last_k, last_v

    def gradient_states(self, x: Any, y: Any, sums: Any, b: Any, like: Any, final: Any, scale: float) -> Any:
        """Gradients of the states at the end of every chunk, and of the initial state; `like` is S or R."""
        columns, of_values = x.shape[-1], sums is not None
        states = torch.empty_like(like)
        initial = self.empty(self.sequences, *like.shape[1:])
        blocks, slot_blocks, meta = self.scan_shape(columns)
        strides = {"X_STRIDE": 1, "M_STRIDE": columns} if of_values else {"X_STRIDE": self.slots, "M_STRIDE": 1}
        _gradient_states[(self.sequences * self.heads, blocks, slot_blocks)](
            x, y, y if sums is None else sums, b, states, initial, initial if final is None else final.contiguous(),
            self.chunks.starts, self.chunks.firsts, scale, **self.heads_meta, X=columns, **meta, **strides,
            FILLED=final is not None, SOFTMAX=of_values, PRECISION=self.precision)  # fmt: skip
        return states, initial

    def column_gradients(self, x: Any, b: Any, mixes: Any, states: Any, of_values: bool) -> Any:
        """dk of q, or dv of do."""
        columns = x.shape[-1]
        out = self.empty(self.tokens, self.heads, columns, like=x)
        meta, strides = self.launch("column_gradients", columns), (1, columns) if of_values else (self.slots, 1)
        _column_gradients[(self.chunk_count * self.heads, -(-columns // meta["BX"]))](
            x, self.s, b, mixes, states, out, self.chunks.begins, self.chunks.lengths, **self.heads_meta, X=columns,
            MP=self.padded_slots, X_STRIDE=strides[0], M_STRIDE=strides[1], PRECISION=self.precision,
            **meta)  # fmt: skip
        return out

    def launch(self, kernel: str, columns: int) -> dict[str, int]:
        """Block, warps and stages of a kernel over K or V columns."""
        width, _, warps, stages = TUNING[kernel]
        return {"BX": _block(width, columns), "num_warps": warps, "num_stages": stages}


def _block(width: int, columns: int) -> int:
    return int(max(16, min(width, triton.next_power_of_2(columns))))


def forward(
    q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any, starts: Any, chunk: int
) -> tuple[Any, Any, Any, Any]:
    """Attend over whole sequences.

    Args:
        q: (B, T, HQ, K) float32, bfloat16 or float16, as are all inputs; query head h reads head h // (HQ / H).
        k: (B, T, H, K).
        v: (B, T, H, V).
        s: (B, T, H, M), strengths of writing.
        g: (B, T, H, M), natural logarithms of gates, in [-30, 0].
        scale: Factor of the logits.
        hk: (N, H, K, M) float32, the initial states; None is zeros.
        hv: (N, H, M, V) float32, likewise.
        starts: None for N = B sequences of T tokens; or (N + 1,) integers: where N packed sequences begin and the
            last ends, with B = 1. Reading them waits for the device.
        chunk: Tokens of a chunk: rounded up to a power of 2 within 16 and LONGEST_CHUNK.

    Returns:
        Outputs (B, T, HQ, V) in v's type; scaled logits of slots z (B, T, HQ, M) float32, for `backward`; final
        states (N, H, K, M) and (N, H, M, V) float32.
    """
    with torch.cuda.device_of(q):
        work = _Work(q, k, v, s, g, starts, chunk)
        o = work.empty(*q.shape[:3], work.value_size, like=work.v)
        z = work.empty(*q.shape[:3], work.slots)
        b, _ = work.sums() if work.chunk_count else (o, None)
        states_k, states_v, last_k, last_v = work.states(b, hk, hv)
        if work.chunk_count:
            _outputs[(work.chunk_count * work.query_heads,)](
                work.q, work.k, work.v, work.s, b, states_k, states_v, o, z, work.chunks.begins, work.chunks.lengths,
                scale, **work.heads_meta, K=work.key_size, V=work.value_size, MP=work.padded_slots, **work.factors,
                **work.launch("outputs", max(work.key_size, work.value_size)))  # fmt: skip
        return o.to(v.dtype), z, last_k, last_v


def backward(
    q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any, starts: Any, chunk: int, z: Any, do: Any,
    dhk_T: Any, dhv_T: Any,
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:  # fmt: skip
    """Gradients of `forward`, of the same arguments and its z.

    Args:
        do: (B, T, HQ, V), the gradient of its outputs.
        dhk_T: (N, H, K, M), of the final states; None is zeros.
        dhv_T: (N, H, M, V), likewise.

    Returns:
        Gradients of q, k, v, s and g, each in its tensor's shape and type, and of the initial states, float32.
    """
    with torch.cuda.device_of(q):
        work = _Work(q, k, v, s, g, starts, chunk)
        do, z = do.to(work.q.dtype).contiguous(), z.contiguous()
        if not work.chunk_count:
            dhk, dhv = (
                torch.zeros(work.sequences, work.heads, *shape, device=q.device) if given is None else given.float()
                for given, shape in ((dhk_T, (work.key_size, work.slots)), (dhv_T, (work.slots, work.value_size)))
            )
            return (*(torch.zeros_like(tensor) for tensor in (q, k, v, s, g)), dhk, dhv)
        b, sums = work.sums(z)
        states_k, states_v, _, _ = work.states(b, hk, hv)
        grid = (work.chunk_count * work.heads,)
        places = (work.chunks.begins, work.chunks.lengths)
        meta = {**work.heads_meta, "MP": work.padded_slots, **work.factors}

        d_states, dhv = work.gradient_states(do, z, sums, b, states_v, dhv_T, 1.0)
        dz, ds_v, dg_v = torch.empty_like(z), torch.empty_like(b), torch.empty_like(b)
        mixes = work.empty(work.chunk_count, work.query_heads, work.size, work.size, like=work.q)
        _slot_gradients[grid](work.v, work.s, b, z, sums, states_v, d_states, do, dz, mixes, ds_v, dg_v, *places,
                              V=work.value_size, **meta,
                              **work.launch("slot_gradients", work.value_size))  # fmt: skip
        dv = work.column_gradients(do, b, mixes, d_states, of_values=True)

        d_states, dhk = work.gradient_states(work.q, dz, None, b, states_k, dhk_T, scale)
        dq, ds, dg = torch.empty_like(work.q), torch.empty_like(work.s), torch.empty_like(work.g)
        _query_gradients[grid](work.q, work.k, work.s, b, z, dz, states_k, d_states, ds_v, dg_v, dq, mixes, ds, dg,
                               *places, scale, K=work.key_size, **meta,
                               **work.launch("query_gradients", work.key_size))  # fmt: skip
        dk = work.column_gradients(work.q, b, mixes, d_states, of_values=False)
        return (dq.to(q.dtype), dk.to(k.dtype).view_as(k), dv.to(v.dtype).view_as(v), ds, dg, dhk, dhv)


def step(q: Any, k: Any, v: Any, s: Any, g: Any, scale: float, hk: Any, hv: Any) -> tuple[Any, Any, Any]:
    """Take one token of every sequence: `forward` with T = 1, in two small kernels.

    Returns:
        Outputs (B, 1, HQ, V) in v's type; new states (B, H, K, M) and (B, H, M, V) float32.
    """
    with torch.cuda.device_of(q):
        batch, _, query_heads, keys = q.shape
        heads, slots, values = s.shape[2], s.shape[3], v.shape[3]
        q, k, v, s, g = (tensor.contiguous() for tensor in (q, k, v, s, g))
        width, _, warps, _ = TUNING["step"]
        blocks, group = -(-keys // width), query_heads // heads
        new_hk = torch.empty((batch, heads, keys, slots), dtype=torch.float32, device=q.device)
        new_hv = torch.empty((batch, heads, slots, values), dtype=torch.float32, device=q.device)
        parts = torch.empty((batch * heads, blocks, group, slots), dtype=torch.float32, device=q.device)
        o = torch.empty((batch, 1, query_heads, values), dtype=v.dtype, device=q.device)
        meta = {"HQ": query_heads, "H": heads, "M": slots, "MP": max(16, triton.next_power_of_2(slots)),
                "GP": triton.next_power_of_2(group), "BX": width, "num_warps": warps}  # fmt: skip
        _step_keys[(batch * heads, blocks)](q, k, s, g, new_hk if hk is None else hk.contiguous(), new_hk, parts,
                                            K=keys, FILLED=hk is not None, **meta)  # fmt: skip
        _step_values[(batch * heads, -(-values // width))](
            v, s, g, new_hv if hv is None else hv.contiguous(), new_hv, parts, o, scale, blocks, V=values,
            FILLED=hv is not None, **meta)  # fmt: skip
        return o, new_hk, new_hv
