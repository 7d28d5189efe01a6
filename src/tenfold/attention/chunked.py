"""Gated Slot Attention in chunks of tokens: matrix products within a chunk, one state from chunk to chunk.

Shapes: B batch, T time, H key-value heads, Q = G H query heads, K key size, V value size, M slots; S sequences, N
chunks of C tokens, Y = B H N of them, X any number. b is the sum of log gates from the beginning of a chunk, so that
slot m of token i holds what token j wrote with weight

    D_ijm = exp(b_im - b_jm) s_jm    for j <= i, else 0.

The first pass is z = scale q Hk, the second o = softmax(z) Hv; D serves both. The second one alone is gated linear
attention. Backward passes are derived from the recurrence; nothing here is differentiated by autograd.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["backward", "forward", "read", "read_back"]

# exp(+-60) times anything a network computes is finite in float32, with its full relative precision.
_WIDEST = 120.0
_STRETCH = 2048  # tokens worked out at a time
_STEP = 16  # tokens of a part of a chunk, where the gates forget too much for one factorisation


@dataclass(frozen=True)
class _Decay:
    """The products with D of all chunks at once.

    A chunk is cut into parts. Between parts, exp(b_i - b_j) = exp(b_i - b_n) exp(b_n - b_j) with n between j and i:
    both exponents are at most 0. Within a part n is its middle, and the exponents lie within +-60; where they would not
    (`explicit`), exp(b_i - b_j) is made for every pair. With several parts b has double precision: a weak gate behind
    strong ones is a small difference of large sums.
    """

    b_XCM: Tensor
    s_XCM: Tensor
    part: int
    explicit: bool

    def over_j(self, a_XGCC: Tensor) -> Tensor:
        """Sum over j of a_ij D_ijm: (X, G, C, M)."""
        parts = []
        for low, high in self._parts():
            b_XcM, before = self.b_XCM[:, low:high], slice(0, low)
            a_XGcc = _lower(a_XGCC[:, :, low:high, low:high])
            if self.explicit:
                d_XccM = self._pairs(low, high) * self.s_XCM[:, None, low:high]
                y_XGcM = torch.einsum("xgij,xijm->xgim", a_XGcc, d_XccM)
            else:
                e_XcM, f_XcM = self._factors(low, high)
                y_XGcM = _times(a_XGcc, self.s_XCM[:, low:high] * f_XcM) * e_XcM[:, None]
            if low:
                w_XnM = self.s_XCM[:, before] * self._exp(b_XcM[:, :1] - self.b_XCM[:, before])
                y_XGcM = (
                    y_XGcM + _times(a_XGCC[:, :, low:high, before], w_XnM) * self._exp(b_XcM - b_XcM[:, :1])[:, None]
                )
            parts.append(y_XGcM)
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def over_m(self, y_XGCM: Tensor) -> Tensor:
        """Sum over m of y_im D_ijm: (X, G, C, C), zero where j > i."""
        a_XGCC = y_XGCM.new_zeros((*y_XGCM.shape[:3], y_XGCM.shape[2]))
        for low, high in self._parts():
            b_XcM, y_XGcM, before = self.b_XCM[:, low:high], y_XGCM[:, :, low:high], slice(0, low)
            if self.explicit:
                d_XccM = self._pairs(low, high) * self.s_XCM[:, None, low:high]
                a_XGcc = torch.einsum("xgim,xijm->xgij", y_XGcM, d_XccM)
            else:
                e_XcM, f_XcM = self._factors(low, high)
                a_XGcc = _lower(_times(y_XGcM * e_XcM[:, None], (self.s_XCM[:, low:high] * f_XcM).mT))
            a_XGCC[:, :, low:high, low:high] = a_XGcc
            if low:
                w_XnM = self.s_XCM[:, before] * self._exp(b_XcM[:, :1] - self.b_XCM[:, before])
                rows_XGcM = y_XGcM * self._exp(b_XcM - b_XcM[:, :1])[:, None]
                a_XGCC[:, :, low:high, before] = _times(rows_XGcM, w_XnM.mT)
        return a_XGCC

    def over_i(self, a_XGCC: Tensor, y_XGCM: Tensor) -> Tensor:
        """Sum over i and query heads of a_ij y_im exp(b_im - b_jm), j <= i: (X, C, M)."""
        found_XCM = torch.zeros_like(self.b_XCM)
        for low, high in self._parts():
            b_XcM, y_XGcM, before = self.b_XCM[:, low:high], y_XGCM[:, :, low:high], slice(0, low)
            a_XGcc = _lower(a_XGCC[:, :, low:high, low:high])
            if self.explicit:
                found_XcM = torch.einsum("xgij,xgim,xijm->xjm", a_XGcc, y_XGcM, self._pairs(low, high))
            else:
                e_XcM, f_XcM = self._factors(low, high)
                found_XcM = f_XcM * _transposed_times(a_XGcc, y_XGcM * e_XcM[:, None])
            found_XCM[:, low:high] += found_XcM
            if low:
                rows_XGcM = y_XGcM * self._exp(b_XcM - b_XcM[:, :1])[:, None]
                weights_XnM = self._exp(b_XcM[:, :1] - self.b_XCM[:, before])
                found_XCM[:, before] += weights_XnM * _transposed_times(a_XGCC[:, :, low:high, before], rows_XGcM)
        return found_XCM

    def _parts(self) -> list[tuple[int, int]]:
        length = self.b_XCM.shape[1]
        return [(low, min(low + self.part, length)) for low in range(0, length, self.part)]

    def _factors(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        b_XcM = self.b_XCM[:, low:high]
        middle_X1M = (b_XcM[:, :1] + b_XcM[:, -1:]) / 2
        return self._exp(b_XcM - middle_X1M), self._exp(middle_X1M - b_XcM)

    def _pairs(self, low: int, high: int) -> Tensor:
        b_XcM = self.b_XCM[:, low:high]
        later = torch.ones(high - low, high - low, dtype=torch.bool, device=b_XcM.device).triu(1)
        return self._exp((b_XcM[:, :, None] - b_XcM[:, None]).masked_fill_(later[..., None], -torch.inf))

    def _exp(self, difference: Tensor) -> Tensor:
        return difference.to(self.s_XCM.dtype).exp()


def forward(
    q_BTQK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    scale: float,
    hk_SHKM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs (B, T, Q, V), scaled slot logits (B, T, Q, M) for the backward pass, and final states.

    Args:
        starts: None for B sequences; else B = 1, and where each of the S packed sequences begins, and T.
        length: Tokens of a chunk, at most; chunks are no longer than the longest sequence wants.
    """
    outputs = []
    hk_SHKM, hv_SHMV = hk_SHKM.clone(), hv_SHMV.clone()
    for part in _stretches(k_BTHK.shape[1], starts, length):
        q, k, v, s, g = (x[:, part.tokens] for x in (q_BTQK, k_BTHK, v_BTHV, s_BTHM, g_BTHM))
        own = part.sequences
        o_BTQV, z_BTQM, hk_SHKM[own], hv_SHMV[own] = _forward(
            q, k, v, s, g, scale, hk_SHKM[own], hv_SHMV[own], part.starts, length
        )
        outputs.append((o_BTQV, z_BTQM))
    o_BTQV, z_BTQM = (torch.cat(pieces, 1) for pieces in zip(*outputs, strict=True))
    return o_BTQV, z_BTQM, hk_SHKM, hv_SHMV


def backward(
    q_BTQK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    scale: float,
    hk_SHKM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
    z_BTQM: Tensor,
    do_BTQV: Tensor,
    dhk_SHKM: Tensor,
    dhv_SHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, s, g and of the initial states, each in the shape of what it belongs to."""
    stretches = _stretches(k_BTHK.shape[1], starts, length)
    states = []
    hk_SHKM, hv_SHMV = hk_SHKM.clone(), hv_SHMV.clone()
    for part in stretches:
        own = part.sequences
        states.append((hk_SHKM[own].clone(), hv_SHMV[own].clone()))
        if part is not stretches[-1]:
            k, v, s, g = (x[:, part.tokens] for x in (k_BTHK, v_BTHV, s_BTHM, g_BTHM))
            hk_SHKM[own], hv_SHMV[own] = _pass_on(k, v, s, g, *states[-1], part.starts, length)
    found = []
    dhk_SHKM, dhv_SHMV = dhk_SHKM.clone(), dhv_SHMV.clone()
    for part, (hk, hv) in zip(reversed(stretches), reversed(states), strict=True):
        q, k, v, s, g = (x[:, part.tokens] for x in (q_BTQK, k_BTHK, v_BTHV, s_BTHM, g_BTHM))
        z, do, own = z_BTQM[:, part.tokens], do_BTQV[:, part.tokens], part.sequences
        *gradients, dhk_SHKM[own], dhv_SHMV[own] = _backward(
            q, k, v, s, g, scale, hk, hv, part.starts, length, z, do, dhk_SHKM[own], dhv_SHMV[own]
        )
        found.append(gradients)
    dq, dk, dv, ds, dg = (torch.cat(pieces, 1) for pieces in zip(*reversed(found), strict=True))
    return dq, dk, dv, ds, dg, dhk_SHKM, dhv_SHMV


@dataclass(frozen=True)
class _Stretch:
    """What is worked out at a time: its temporaries stay small, and in the processor's cache."""

    tokens: slice
    sequences: slice  # whose tokens these are
    starts: list[int] | None  # of packed sequences, within the stretch


def _stretches(tokens: int, starts: list[int] | None, length: int) -> list[_Stretch]:
    size = max(1, _STRETCH // length) * length
    found = []
    for low in range(0, tokens, size):
        high = min(low + size, tokens)
        if starts is None:
            found.append(_Stretch(slice(low, high), slice(None), None))
            continue
        first, last = bisect_right(starts, low) - 1, bisect_left(starts, high)
        inner = [max(low, start) - low for start in starts[first:last]]
        found.append(_Stretch(slice(low, high), slice(first, last), [*inner, high - low]))
    return found


def _pass_on(
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    hk_SHKM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
) -> tuple[Tensor, Tensor]:
    """States behind a stretch."""
    layout = _Layout.of(k_BTHK, starts, length)
    gates = _Gates.of(layout, s_BTHM, g_BTHM)
    k_YCK, v_YCV = layout.cut(k_BTHK)[:, 0], layout.cut(v_BTHV)[:, 0]
    _, hk_SKM = layout.on(k_YCK.mT @ gates.write_YCM, hk_SHKM.flatten(0, 1), gates.forget_YM[:, None])
    _, hv_SMV = layout.on(gates.write_YCM.mT @ v_YCV, hv_SHMV.flatten(0, 1), gates.forget_YM[..., None])
    return hk_SKM.view(hk_SHKM.shape), hv_SMV.view(hv_SHMV.shape)


def _forward(
    q_BTQK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    scale: float,
    hk_SHKM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`forward` of one stretch."""
    layout = _Layout.of(k_BTHK, starts, length)
    gates = _Gates.of(layout, s_BTHM, g_BTHM)
    q_YGCK, k_YCK, v_YCV = layout.cut(q_BTQK), layout.cut(k_BTHK)[:, 0], layout.cut(v_BTHV)[:, 0]
    hk_YKM, last_hk_SKM = layout.on(k_YCK.mT @ gates.write_YCM, hk_SHKM.flatten(0, 1), gates.forget_YM[:, None])
    z_YGCM = gates.decay_YCM[:, None] * _times(q_YGCK, scale * hk_YKM)
    z_YGCM += gates.within.over_j(_times(q_YGCK, scale * k_YCK.mT))
    o_YGCV, last_hv_SMV = _read(layout, gates, torch.softmax(z_YGCM, -1), v_YCV, hv_SHMV)
    return layout.join(o_YGCV), layout.join(z_YGCM), last_hk_SKM.view(hk_SHKM.shape), last_hv_SMV


def _backward(
    q_BTQK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    scale: float,
    hk_SHKM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
    z_BTQM: Tensor,
    do_BTQV: Tensor,
    dhk_SHKM: Tensor,
    dhv_SHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`backward` of one stretch."""
    layout = _Layout.of(k_BTHK, starts, length)
    gates = _Gates.of(layout, s_BTHM, g_BTHM)
    q_YGCK, k_YCK, v_YCV = layout.cut(q_BTQK), layout.cut(k_BTHK)[:, 0], layout.cut(v_BTHV)[:, 0]
    z_YGCM, do_YGCV = layout.cut(z_BTQM), layout.cut(do_BTQV)

    # The second pass, o = p Hv, and the softmax over slots.
    p_YGCM = torch.softmax(z_YGCM, -1)
    dp_YGCM, dv_YCV, ds_YCM, behind_YM, first_dhv = _read_back(layout, gates, p_YGCM, v_YCV, hv_SHMV, do_YGCV, dhv_SHMV)
    dz_YGCM = p_YGCM * (dp_YGCM - (p_YGCM * dp_YGCM).sum(-1, keepdim=True))

    # The first pass, z = scale q Hk.
    hk_YKM, _ = layout.on(k_YCK.mT @ gates.write_YCM, hk_SHKM.flatten(0, 1), gates.forget_YM[:, None])
    decayed_YGCM = scale * dz_YGCM * gates.decay_YCM[:, None]
    into_YKM = _transposed_times(q_YGCK, decayed_YGCM)
    dhk_YKM, first_dhk = layout.back(into_YKM, dhk_SHKM.flatten(0, 1), gates.forget_YM[:, None])
    da_YGCC = scale * gates.within.over_m(dz_YGCM)
    dq_YGCK = _times(decayed_YGCM, hk_YKM.mT) + _times(da_YGCC, k_YCK)
    dk_YCK = _transposed_times(da_YGCC, q_YGCK) + gates.write_YCM @ dhk_YKM.mT
    ds_YCM += gates.within.over_i(_times(q_YGCK, scale * k_YCK.mT), dz_YGCM) + gates.keep_YCM * (k_YCK @ dhk_YKM)
    behind_YM += (torch.baddbmm(hk_YKM * gates.forget_YM[:, None], k_YCK.mT, gates.write_YCM) * dhk_YKM).sum(-2)

    dg_YCM = gates.gradient((p_YGCM * dp_YGCM + z_YGCM * dz_YGCM).sum(1), ds_YCM, behind_YM)
    gradients = layout.join(dq_YGCK), *(layout.join(x[:, None]) for x in (dk_YCK, dv_YCV, ds_YCM, dg_YCM))
    return *gradients, first_dhk.view(hk_SHKM.shape), first_dhv


def read(
    p_BTQM: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
) -> tuple[Tensor, Tensor]:
    """The second pass alone, o = p Hv for any p and s: gated linear attention (arXiv 2312.06635)."""
    layout = _Layout.of(v_BTHV, starts, length)
    gates = _Gates.of(layout, s_BTHM, g_BTHM)
    o_YGCV, last_hv = _read(layout, gates, layout.cut(p_BTQM), layout.cut(v_BTHV)[:, 0], hv_SHMV)
    return layout.join(o_YGCV), last_hv


def read_back(
    p_BTQM: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    hv_SHMV: Tensor,
    starts: list[int] | None,
    length: int,
    do_BTQV: Tensor,
    dhv_SHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of p, v, s, g and of the initial state of `read`."""
    layout = _Layout.of(v_BTHV, starts, length)
    gates = _Gates.of(layout, s_BTHM, g_BTHM)
    p_YGCM, v_YCV, do_YGCV = layout.cut(p_BTQM), layout.cut(v_BTHV)[:, 0], layout.cut(do_BTQV)
    dp_YGCM, dv_YCV, ds_YCM, behind_YM, first_dhv = _read_back(layout, gates, p_YGCM, v_YCV, hv_SHMV, do_YGCV, dhv_SHMV)
    dg_YCM = gates.gradient((p_YGCM * dp_YGCM).sum(1), ds_YCM, behind_YM)
    gradients = layout.join(dp_YGCM), *(layout.join(x[:, None]) for x in (dv_YCV, ds_YCM, dg_YCM))
    return *gradients, first_dhv


def _read(layout: "_Layout", gates: "_Gates", p_YGCM: Tensor, v_YCV: Tensor, hv_SHMV: Tensor) -> tuple[Tensor, Tensor]:
    hv_YMV, last_hv = layout.on(gates.write_YCM.mT @ v_YCV, hv_SHMV.flatten(0, 1), gates.forget_YM[..., None])
    o_YGCV = _times(p_YGCM * gates.decay_YCM[:, None], hv_YMV) + _times(gates.within.over_m(p_YGCM), v_YCV)
    return o_YGCV, last_hv.view(hv_SHMV.shape)


def _read_back(
    layout: "_Layout",
    gates: "_Gates",
    p_YGCM: Tensor,
    v_YCV: Tensor,
    hv_SHMV: Tensor,
    do_YGCV: Tensor,
    dhv_SHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of p, v and s, what gates let through from behind each chunk (Y, M), and that of the first state."""
    within, decay_Y1CM, forget_YM1 = gates.within, gates.decay_YCM[:, None], gates.forget_YM[..., None]
    hv_YMV, _ = layout.on(gates.write_YCM.mT @ v_YCV, hv_SHMV.flatten(0, 1), forget_YM1)
    into_YMV = _transposed_times(p_YGCM * decay_Y1CM, do_YGCV)
    dhv_YMV, first_dhv = layout.back(into_YMV, dhv_SHMV.flatten(0, 1), forget_YM1)
    da_YGCC = _times(do_YGCV, v_YCV.mT)
    dp_YGCM = decay_Y1CM * _times(do_YGCV, hv_YMV.mT) + within.over_j(da_YGCC)
    dv_YCV = _transposed_times(within.over_m(p_YGCM), do_YGCV) + gates.write_YCM @ dhv_YMV
    ds_YCM = within.over_i(da_YGCC, p_YGCM) + gates.keep_YCM * (v_YCV @ dhv_YMV.mT)
    behind_YM = (torch.baddbmm(hv_YMV * forget_YM1, gates.write_YCM.mT, v_YCV) * dhv_YMV).sum(-1)
    return dp_YGCM, dv_YCV, ds_YCM, behind_YM, first_dhv.view(hv_SHMV.shape)


@dataclass(frozen=True)
class _Layout:
    """How tokens are cut into chunks: Y = pairs N of them, sequences one after the other, each in chunks of its own.

    A chunk's end that no token fills has zeros: gate 1, nothing written, read for nobody.
    """

    batch: int
    tokens: int
    heads: int
    length: int
    begins: list[int]  # the chunk at which each packed sequence begins, and the number of chunks
    places: Tensor | None  # of packed tokens among the chunks' rows

    @classmethod
    def of(cls, k_BTHK: Tensor, starts: list[int] | None, length: int) -> "_Layout":
        batch, tokens, heads = k_BTHK.shape[:3]
        longest = tokens if starts is None else max(stop - start for start, stop in pairwise(starts))
        length = min(length, 1 << (longest - 1).bit_length())
        if starts is None:
            return cls(batch, tokens, heads, length, [0, -(-tokens // length)], None)
        begins, places = [0], []
        for start, stop in pairwise(starts):
            places.append(torch.arange(stop - start) + begins[-1] * length)
            begins.append(begins[-1] - (start - stop) // length)
        return cls(batch, tokens, heads, length, begins, torch.cat(places).to(k_BTHK.device))

    def cut(self, x_BTQD: Tensor) -> Tensor:
        """Rows by chunk: (Y, G, C, D)."""
        rows = self.begins[-1] * self.length
        if self.places is not None:
            x_BTQD = x_BTQD.new_zeros(1, rows, *x_BTQD.shape[2:]).index_copy_(1, self.places, x_BTQD)
        elif rows > self.tokens:
            x_BTQD = torch.nn.functional.pad(x_BTQD, (0, 0, 0, 0, 0, rows - self.tokens))
        x_BNCHGD = x_BTQD.reshape(
            self.batch, -1, self.length, self.heads, x_BTQD.shape[2] // self.heads, x_BTQD.shape[3]
        )
        return x_BNCHGD.permute(0, 3, 1, 4, 2, 5).flatten(0, 2).contiguous()

    def join(self, x_YGCD: Tensor) -> Tensor:
        """What `cut` has cut: (B, T, Q, D)."""
        x_BHNGCD = x_YGCD.unflatten(0, (self.batch, self.heads, -1))
        x_BTQD = x_BHNGCD.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)
        return x_BTQD[:, : self.tokens].contiguous() if self.places is None else x_BTQD[:, self.places]

    def on(self, added: Tensor, first: Tensor, forget: Tensor) -> tuple[Tensor, Tensor]:
        """From state to state: those at the beginnings of chunks (Y, ...), and at the ends of sequences (S, ...)."""
        pairs, sequences = self.batch * self.heads, len(self.begins) - 1
        added, forget = (x.unflatten(0, (pairs, -1)) for x in (added, forget))
        first = first.unflatten(0, (sequences, pairs))
        states, last = torch.empty_like(added), torch.empty_like(first)
        for sequence, (begin, end) in enumerate(pairwise(self.begins)):
            state = first[sequence]
            for n in range(begin, end):
                states[:, n] = state
                state = torch.addcmul(added[:, n], forget[:, n], state)
            last[sequence] = state
        return states.flatten(0, 1), last.flatten(0, 1)

    def back(self, into: Tensor, last: Tensor, forget: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of states: at the ends of chunks (Y, ...), and of the initial ones (S, ...)."""
        pairs, sequences = self.batch * self.heads, len(self.begins) - 1
        into, forget = (x.unflatten(0, (pairs, -1)) for x in (into, forget))
        last = last.unflatten(0, (sequences, pairs))
        ends, first = torch.empty_like(into), torch.empty_like(last)
        for sequence, (begin, end) in enumerate(pairwise(self.begins)):
            state = last[sequence]
            for n in reversed(range(begin, end)):
                ends[:, n] = state
                state = torch.addcmul(into[:, n], forget[:, n], state)
            first[sequence] = state
        return ends.flatten(0, 1), first.flatten(0, 1)


@dataclass(frozen=True)
class _Gates:
    """What the gates do in all chunks."""

    s_YCM: Tensor
    within: _Decay
    decay_YCM: Tensor  # from the chunk's beginning to a token, its own gate included
    keep_YCM: Tensor  # from behind a token to the chunk's end
    write_YCM: Tensor  # s, decayed to the chunk's end
    forget_YM: Tensor  # over the whole chunk

    @classmethod
    def of(cls, layout: _Layout, s_BTHM: Tensor, g_BTHM: Tensor) -> "_Gates":
        s_YCM = layout.cut(s_BTHM)[:, 0]
        within = _within(layout.cut(g_BTHM)[:, 0], s_YCM)
        b_YCM, dtype = within.b_XCM, s_YCM.dtype
        keep_YCM = (b_YCM[:, -1:] - b_YCM).to(dtype).exp()
        decay_YCM = b_YCM.to(dtype).exp()
        return cls(s_YCM, within, decay_YCM, keep_YCM, s_YCM * keep_YCM, decay_YCM[:, -1])

    def gradient(self, flow_YCM: Tensor, ds_YCM: Tensor, behind_YM: Tensor) -> Tensor:
        """A gate scales all that was written before it: what flows through it is summed from the chunk's end."""
        flow_YCM = flow_YCM - self.s_YCM * ds_YCM
        return flow_YCM.flip(1).cumsum(1).flip(1) + behind_YM[:, None]


def _within(g_YCM: Tensor, s_YCM: Tensor) -> _Decay:
    """The fewest parts of a chunk that the gates allow; one of them unless something is forgotten nearly at once."""
    b_YCM, length = g_YCM.cumsum(1), g_YCM.shape[1]
    if _widest(b_YCM, length) <= _WIDEST:
        return _Decay(b_YCM, s_YCM, length, explicit=False)
    b_YCM = g_YCM.cumsum(1, dtype=torch.float64)
    return _Decay(b_YCM, s_YCM, _STEP, explicit=not _widest(b_YCM, _STEP) <= _WIDEST)


def _widest(b_YCM: Tensor, part: int) -> float:
    """The most that any slot forgets between the first and the last token of any part."""
    last = b_YCM.shape[1] - 1
    ends = [*range(part - 1, last, part), last]
    return float((b_YCM[:, ::part] - b_YCM[:, ends]).max())


def _lower(a_XGCC: Tensor) -> Tensor:
    return a_XGCC.tril()


def _times(rows_XGCD: Tensor, matrix_XDE: Tensor) -> Tensor:
    """The rows of all query heads times one matrix of their key-value head."""
    shape = rows_XGCD.shape
    return (rows_XGCD.reshape(shape[0], -1, shape[-1]) @ matrix_XDE).view(*shape[:3], -1)


def _transposed_times(rows_XGCD: Tensor, rows_XGCE: Tensor) -> Tensor:
    """Sum over query heads and rows of the outer products: (X, D, E)."""
    first, second = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (rows_XGCD, rows_XGCE))
    return first.mT @ second
