"""Gated Slot Attention in chunks of tokens: matrix products within a chunk, one state from chunk to chunk.

Shapes: B batch, T time, H key-value heads, Q = G H query heads, K key size, V value size, M slots; S sequences, N chunks
of C tokens, Y = B H N of them, X any number. b is the sum of log gates from the chunk's beginning, so that slot m of token i
holds what token j wrote with weight

    D_ijm = exp(b_im - b_jm) s_jm    for j <= i, else 0.

The forward pass is equations 5 to 9 of the paper's appendix, written for both passes at once; the backward pass is derived
from the recurrence. Nothing here is differentiated by autograd.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["backward", "forward"]

# exp(+-60) times anything a network computes is finite in float32, with its full relative precision.
_WIDEST = 120.0
_STEP = 16  # tokens of a part of a chunk, where the gates forget too much for one factorisation


@dataclass(frozen=True)
class _Decay:
    """The products with D of all chunks at once.

    A chunk is cut into parts. Between parts, exp(b_i - b_j) = exp(b_i - b_n) exp(b_n - b_j) with n between j and i: both
    exponents are at most 0. Within a part n is its middle, and the exponents lie within +-60; where they would not
    (`explicit`), exp(b_i - b_j) is made for every pair.
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
                w_XnM = self.s_XCM[:, before] * (b_XcM[:, :1] - self.b_XCM[:, before]).exp()
                y_XGcM = y_XGcM + _times(a_XGCC[:, :, low:high, before], w_XnM) * (b_XcM - b_XcM[:, :1]).exp()[:, None]
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
                w_XnM = self.s_XCM[:, before] * (b_XcM[:, :1] - self.b_XCM[:, before]).exp()
                rows_XGcM = y_XGcM * (b_XcM - b_XcM[:, :1]).exp()[:, None]
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
                rows_XGcM = y_XGcM * (b_XcM - b_XcM[:, :1]).exp()[:, None]
                weights_XnM = (b_XcM[:, :1] - self.b_XCM[:, before]).exp()
                found_XCM[:, before] += weights_XnM * _transposed_times(a_XGCC[:, :, low:high, before], rows_XGcM)
        return found_XCM

    def _parts(self) -> list[tuple[int, int]]:
        length = self.b_XCM.shape[1]
        return [(low, min(low + self.part, length)) for low in range(0, length, self.part)]

    def _factors(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        b_XcM = self.b_XCM[:, low:high]
        middle_X1M = (b_XcM[:, :1] + b_XcM[:, -1:]) / 2
        e_XcM = (b_XcM - middle_X1M).exp()
        return e_XcM, (middle_X1M - b_XcM).exp()

    def _pairs(self, low: int, high: int) -> Tensor:
        b_XcM = self.b_XCM[:, low:high]
        later = torch.ones(high - low, high - low, dtype=torch.bool, device=b_XcM.device).triu(1)
        differences_XccM = b_XcM[:, :, None] - b_XcM[:, None]
        return differences_XccM.masked_fill_(later[..., None], -torch.inf).exp_()


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
        length: Tokens of a chunk.
    """
    layout = _Layout.of(k_BTHK, starts, length)
    chunks = _Chunks.of(layout, k_BTHK, v_BTHV, s_BTHM, g_BTHM, hk_SHKM, hv_SHMV)
    q_YGCK = layout.cut(q_BTQK)
    a1_YGCC = scale * _times(q_YGCK, chunks.k_YCK.mT)
    z_YGCM = scale * _times(q_YGCK, chunks.hk_YKM) * chunks.decay_YCM[:, None] + chunks.within.over_j(a1_YGCC)
    p_YGCM = torch.softmax(z_YGCM, -1)
    a2_YGCC = chunks.within.over_m(p_YGCM)
    o_YGCV = _times(p_YGCM * chunks.decay_YCM[:, None], chunks.hv_YMV) + _times(a2_YGCC, chunks.v_YCV)
    states = chunks.last_hk_SKM.view(hk_SHKM.shape), chunks.last_hv_SMV.view(hv_SHMV.shape)
    return layout.join(o_YGCV), layout.join(z_YGCM), *states


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
    layout = _Layout.of(k_BTHK, starts, length)
    chunks = _Chunks.of(layout, k_BTHK, v_BTHV, s_BTHM, g_BTHM, hk_SHKM, hv_SHMV)
    within, decay_Y1CM = chunks.within, chunks.decay_YCM[:, None]
    q_YGCK, z_YGCM, do_YGCV = layout.cut(q_BTQK), layout.cut(z_BTQM), layout.cut(do_BTQV)
    p_YGCM = torch.softmax(z_YGCM, -1)

    # The second pass, o = p Hv.
    into_YMV = _transposed_times(p_YGCM * decay_Y1CM, do_YGCV)
    dhv_YMV, first_dhv = layout.back(into_YMV, dhv_SHMV.flatten(0, 1), chunks.forget_YM[..., None])
    da2_YGCC = _times(do_YGCV, chunks.v_YCV.mT)
    dp_YGCM = decay_Y1CM * _times(do_YGCV, chunks.hv_YMV.mT) + within.over_j(da2_YGCC)
    dv_YCV = _transposed_times(within.over_m(p_YGCM), do_YGCV) + chunks.write_YCM @ dhv_YMV
    ds_YCM = within.over_i(da2_YGCC, p_YGCM) + chunks.keep_YCM * (chunks.v_YCV @ dhv_YMV.mT)

    # The softmax over slots.
    dz_YGCM = p_YGCM * (dp_YGCM - (p_YGCM * dp_YGCM).sum(-1, keepdim=True))

    # The first pass, z = scale q Hk.
    decayed_YGCM = scale * dz_YGCM * decay_Y1CM
    into_YKM = _transposed_times(q_YGCK, decayed_YGCM)
    dhk_YKM, first_dhk = layout.back(into_YKM, dhk_SHKM.flatten(0, 1), chunks.forget_YM[:, None])
    da1_YGCC = scale * within.over_m(dz_YGCM)
    dq_YGCK = _times(decayed_YGCM, chunks.hk_YKM.mT) + _times(da1_YGCC, chunks.k_YCK)
    dk_YCK = _transposed_times(da1_YGCC, q_YGCK) + chunks.write_YCM @ dhk_YKM.mT
    a1_YGCC = scale * _times(q_YGCK, chunks.k_YCK.mT)
    ds_YCM = ds_YCM + within.over_i(a1_YGCC, dz_YGCM) + chunks.keep_YCM * (chunks.k_YCK @ dhk_YKM)

    # A gate scales all that was written before it; summed within a chunk, with what lies behind it as a constant.
    flow_YCM = (p_YGCM * dp_YGCM + z_YGCM * dz_YGCM).sum(1) - chunks.s_YCM * ds_YCM
    behind_YM = (chunks.next_hk() * dhk_YKM).sum(-2) + (chunks.next_hv() * dhv_YMV).sum(-1)
    dg_YCM = flow_YCM.flip(1).cumsum(1).flip(1) + behind_YM[:, None]

    gradients = layout.join(dq_YGCK), *(layout.join(x[:, None]) for x in (dk_YCK, dv_YCV, ds_YCM, dg_YCM))
    return *gradients, first_dhk.view(hk_SHKM.shape), first_dhv.view(hv_SHMV.shape)


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
        x_BNCHGD = x_BTQD.reshape(self.batch, -1, self.length, self.heads, x_BTQD.shape[2] // self.heads, x_BTQD.shape[3])
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
class _Chunks:
    """What both directions need of all chunks."""

    k_YCK: Tensor
    v_YCV: Tensor
    s_YCM: Tensor
    within: _Decay
    decay_YCM: Tensor  # from the chunk's beginning to a token, its own gate included
    keep_YCM: Tensor  # from behind a token to the chunk's end
    write_YCM: Tensor  # s, decayed to the chunk's end
    forget_YM: Tensor  # over the whole chunk
    hk_YKM: Tensor  # states at the chunks' beginnings
    hv_YMV: Tensor
    last_hk_SKM: Tensor
    last_hv_SMV: Tensor

    @classmethod
    def of(
        cls, layout: _Layout, k: Tensor, v: Tensor, s: Tensor, g: Tensor, hk_SHKM: Tensor, hv_SHMV: Tensor
    ) -> "_Chunks":
        k_YCK, v_YCV, s_YCM, g_YCM = (layout.cut(x)[:, 0] for x in (k, v, s, g))
        b_YCM = g_YCM.cumsum(1)
        keep_YCM, forget_YM = (b_YCM[:, -1:] - b_YCM).exp(), b_YCM[:, -1].exp()
        write_YCM = s_YCM * keep_YCM
        hk_YKM, last_hk = layout.on(k_YCK.mT @ write_YCM, hk_SHKM.flatten(0, 1), forget_YM[:, None])
        hv_YMV, last_hv = layout.on(write_YCM.mT @ v_YCV, hv_SHMV.flatten(0, 1), forget_YM[..., None])
        return cls(
            k_YCK=k_YCK,
            v_YCV=v_YCV,
            s_YCM=s_YCM,
            within=_within(b_YCM, s_YCM),
            decay_YCM=b_YCM.exp(),
            keep_YCM=keep_YCM,
            write_YCM=write_YCM,
            forget_YM=forget_YM,
            hk_YKM=hk_YKM,
            hv_YMV=hv_YMV,
            last_hk_SKM=last_hk,
            last_hv_SMV=last_hv,
        )

    def next_hk(self) -> Tensor:
        """States of keys at the chunks' ends."""
        return torch.baddbmm(self.hk_YKM * self.forget_YM[:, None], self.k_YCK.mT, self.write_YCM)

    def next_hv(self) -> Tensor:
        """States of values at the chunks' ends."""
        return torch.baddbmm(self.hv_YMV * self.forget_YM[..., None], self.write_YCM.mT, self.v_YCV)


def _within(b_YCM: Tensor, s_YCM: Tensor) -> _Decay:
    """The fewest parts of a chunk that the gates allow; one of them unless something is forgotten nearly at once."""
    length = b_YCM.shape[1]
    for part in (length, _STEP):
        starts, ends = b_YCM[:, ::part], b_YCM[:, [*range(part - 1, length - 1, part), length - 1]]
        if part <= length and bool((starts - ends).max() <= _WIDEST):
            return _Decay(b_YCM, s_YCM, part, explicit=False)
    return _Decay(b_YCM, s_YCM, _STEP, explicit=True)


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
