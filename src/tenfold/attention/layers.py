"""Token mixers behind one interface: Gated Slot Attention, and what it is compared with.

Shapes: B batch, T time, D width, H key-value heads, Q query heads, K key size, V value size, M slots.
"""

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tenfold.attention.checks import check_starts
from tenfold.attention.linear import gla
from tenfold.attention.operator import Backend, abc_gates, gsa, gsa_step
from tenfold.core.errors import InputError

__all__ = ["MIXERS", "FeatureMap", "GatedSlotAttention", "Mixer", "MixerConfig", "MixerName", "State"]

MixerName = Literal["gsa", "abc", "gla", "retnet", "softmax"]
FeatureMapName = Literal["swish", "relu", "t2r", "identity"]
State = MutableMapping[str, Tensor]  # what a layer remembers of a batch; the first dimension is the batch


@dataclass(frozen=True)
class MixerConfig:
    """What a mixer is made of.

    Attributes:
        hidden_size: Width D of what goes in and out.
        num_heads: Query heads Q.
        num_kv_heads: Key-value heads H, a divisor of Q (gsa, abc, softmax); gla and retnet have one per query head.
        num_slots: Slots M of each key-value head (gsa, abc).
        gate_logit_normalizer: Gates are sigmoid(f)^(1 / this): the larger, the longer slots remember (gsa); 16 in gla.
        feature_map: What is applied to queries and keys (gsa, abc); `t2r` is a learned matrix and relu.
        use_short_conv: A causal convolution over `conv_size` tokens for queries, keys and values.
        conv_size: Tokens of that convolution.
        elementwise_affine: The norm before the output has weights.
        rope_theta: Base of the rotary positions (softmax, retnet).
        backend: Of the operator (gsa, abc).
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    num_slots: int = 64
    gate_logit_normalizer: int = 8
    feature_map: FeatureMapName = "swish"
    use_short_conv: bool = False
    conv_size: int = 4
    elementwise_affine: bool = True
    rope_theta: float = 10_000.0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_heads", "num_kv_heads", "num_slots", "gate_logit_normalizer", "conv_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.feature_map not in get_args(FeatureMapName):
            raise InputError(
                f"feature_map '{self.feature_map}' is not known; choose {', '.join(get_args(FeatureMapName))}"
            )
        if self.num_heads % self.num_kv_heads:
            raise InputError(f"num_heads is {self.num_heads}, num_kv_heads {self.num_kv_heads}; it must be a multiple")
        if self.hidden_size % self.num_heads:
            raise InputError(f"hidden_size is {self.hidden_size}, num_heads {self.num_heads}; it must be a multiple")

    @property
    def head_size(self) -> int:
        """Size of a head's queries, keys and values, K = V."""
        return self.hidden_size // self.num_heads


class Mixer(nn.Module):
    """A layer in which tokens see those before them."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        x_BTD: Tensor,
        mask_BT: Tensor | None = None,
        state: State | None = None,
        cu_seqlens: Sequence[int] | None = None,
    ) -> Tensor:
        """Mix tokens.

        Args:
            x_BTD: What goes in, (B, T, D).
            mask_BT: False for padding, wherever it stands. Padding changes nothing for other tokens.
            state: What the layer remembers of earlier tokens of the batch: read, and brought up to date. Empty at
                the beginning; None remembers nothing.
            cu_seqlens: Where packed sequences begin, and T; B is 1 then, without mask and state.

        Returns:
            What comes out, (B, T, D).

        Raises:
            InputError: Shapes that do not fit, a mask that is not boolean, packed sequences with mask or state.
        """
        if x_BTD.dim() != 3 or x_BTD.shape[2] != self.config.hidden_size:
            wanted = f"(batch, time, {self.config.hidden_size})"
            raise InputError(f"the layer's input has shape {tuple(x_BTD.shape)}; {wanted} is needed")
        if mask_BT is not None and (mask_BT.shape != x_BTD.shape[:2] or mask_BT.dtype != torch.bool):
            given, wanted = f"{tuple(mask_BT.shape)}, {mask_BT.dtype}", f"{tuple(x_BTD.shape[:2])}, torch.bool"
            raise InputError(f"the mask has shape {given}; {wanted} is needed")
        if cu_seqlens is not None:
            if mask_BT is not None or state is not None:
                raise InputError("cu_seqlens goes without mask and state")
            cu_seqlens = check_starts(cu_seqlens, x_BTD)
        if mask_BT is not None:  # 0 times infinity is no number, so that no weight of 0 would keep it out
            x_BTD = x_BTD.masked_fill(~mask_BT[..., None], 0)
        return self._mix(x_BTD, mask_BT, state, cu_seqlens) if x_BTD.numel() else x_BTD.clone()

    def _mix(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        raise NotImplementedError

    def _heads(self, x_BTD: Tensor, size: int) -> Tensor:
        return x_BTD.unflatten(-1, (-1, size))

    def _make_convolutions(self, queries: int, keys: int, values: int) -> None:
        """For queries, keys and values of these widths, with the names of published checkpoints."""
        if self.config.use_short_conv:
            sizes = {"q_conv1d": queries, "k_conv1d": keys, "v_conv1d": values}
            for name, size in sizes.items():
                self.add_module(name, ShortConvolution(size, self.config.conv_size))

    def _convolve(
        self, q: Tensor, k: Tensor, v: Tensor, mask_BT: Tensor | None, state: State | None,
        cu_seqlens: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        if not self.config.use_short_conv:
            return q, k, v
        return (
            self.q_conv1d.mix(q, mask_BT, state, "conv_q", cu_seqlens),
            self.k_conv1d.mix(k, mask_BT, state, "conv_k", cu_seqlens),
            self.v_conv1d.mix(v, mask_BT, state, "conv_v", cu_seqlens),
        )


class FeatureMap(nn.Module):
    """What is applied to queries and keys of each head."""

    def __init__(self, kind: FeatureMapName, size: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "t2r":
            self.layer = nn.Linear(size, size, bias=False)

    def forward(self, x_BTHK: Tensor) -> Tensor:
        """Same shape as given."""
        if self.kind == "t2r":
            return functional.relu(self.layer(x_BTHK))
        return {"swish": functional.silu, "relu": functional.relu, "identity": lambda x: x}[self.kind](x_BTHK)


class ShortConvolution(nn.Conv1d):
    """A causal convolution of each channel over a few tokens, and swish."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__(channels, channels, tokens, groups=channels, bias=False)

    def mix(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, name: str, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        """Of the tokens that are no padding; `state[name]` keeps the last ones, (B, tokens - 1, D)."""
        if cu_seqlens is not None:
            parts = [self.mix(x_BTD[:, a:b], None, None, name, None) for a, b in pairwise(cu_seqlens)]
            return torch.cat(parts, 1)
        order_BT1 = None
        if mask_BT is not None:  # padding goes to the end, and back to its places
            order_BT1 = torch.argsort(~mask_BT, dim=1, stable=True)[..., None]
            x_BTD = x_BTD.gather(1, order_BT1.expand_as(x_BTD))
        past = self.kernel_size[0] - 1
        before = (
            x_BTD.new_zeros(x_BTD.shape[0], past, x_BTD.shape[2]) if not state or name not in state else state[name]
        )
        all_BSD = torch.cat([before, x_BTD], 1)
        if state is not None:
            last_BL = _lengths(x_BTD, mask_BT)[:, None] + torch.arange(past, device=x_BTD.device)
            state[name] = all_BSD.gather(1, last_BL[..., None].expand(-1, -1, x_BTD.shape[2]))
        y_BTD = functional.silu(super().forward(all_BSD.mT).mT)
        return y_BTD if order_BT1 is None else torch.zeros_like(y_BTD).scatter(1, order_BT1.expand_as(y_BTD), y_BTD)


class GatedSlotAttention(Mixer):
    """Gated Slot Attention (arXiv 2409.07146): memory of fixed size, 2 M D numbers for D = H K.

    q = phi(W_q x), k = phi(W_k x), v = swish(W_v x), g = log sigmoid(W_f x) / tau, s = 1 - exp(g);
    y = W_o RMSNorm(swish(o)). Parameters have the names of published checkpoints. The state holds the slots, `hk`
    (B, H, K, M) and `hv` (B, H, M, V), and with short convolutions their last inputs.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        width, narrow, slots = (
            config.hidden_size,
            config.num_kv_heads * config.head_size,
            config.num_kv_heads * config.num_slots,
        )
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(width, narrow, bias=False) for _ in range(2))
        self.f_proj = nn.Linear(width, slots, bias=False)
        self.g_norm = nn.RMSNorm(width, eps=1e-5, elementwise_affine=config.elementwise_affine)
        self._make_convolutions(width, narrow, narrow)
        self.feature_map = FeatureMap(config.feature_map, config.head_size)

    def _mix(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        q, k, v = self._convolve(q, k, v, mask_BT, state, cu_seqlens)
        q, k, v = (self._heads(x, self.config.head_size) for x in (q, k, v))
        q, k, v = self.feature_map(q), self.feature_map(k), functional.silu(v)
        s, g = self.gates(self._heads(self.f_proj(x_BTD), self.config.num_slots), mask_BT, state, cu_seqlens)
        o_BTQV = self._attend(q, k, v, s, g, state, cu_seqlens)
        return self.o_proj(self.g_norm(functional.silu(o_BTQV.flatten(2))))

    def gates(
        self, f_BTHM: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """Write strengths and logarithms of forget gates, (B, T, H, M): a padded step forgets and writes nothing."""
        g_BTHM = functional.logsigmoid(_precise(f_BTHM)) / self.config.gate_logit_normalizer
        if mask_BT is not None:
            g_BTHM = g_BTHM.masked_fill(~mask_BT[..., None, None], 0)
        return -torch.expm1(g_BTHM), g_BTHM

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        s: Tensor,
        g: Tensor,
        state: State | None,
        cu_seqlens: Sequence[int] | None,
    ) -> Tensor:
        before = (state["hk"], state["hv"]) if state and "hk" in state else None
        if before is not None and q.shape[1] == 1:
            o_BQV, (hk, hv) = gsa_step(q[:, 0], k[:, 0], v[:, 0], s[:, 0], g[:, 0], before)
            o_BTQV = o_BQV[:, None]
        else:
            keep = state is not None
            o_BTQV, after = gsa(q, k, v, s, g, 1.0, before, keep, cu_seqlens, backend=self.config.backend)
            if after is None:
                return o_BTQV
            hk, hv = after
        if state is not None:
            state["hk"], state["hv"] = hk, hv
        return o_BTQV


class UngatedSlotAttention(GatedSlotAttention):
    """The same layer without gates: attention with bounded memory, ABC (arXiv 2110.02488)."""

    def gates(
        self, f_BTHM: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        """As above; the state also holds the logarithm of what was written so far, `sums` (B, H, M)."""
        before = state.get("sums") if state is not None else None
        s_BTHM, g_BTHM, sums = abc_gates(f_BTHM, before, cu_seqlens, mask_BT)
        if state is not None:
            state["sums"] = sums
        return s_BTHM, g_BTHM


class GatedLinearAttention(Mixer):
    """Gated linear attention (arXiv 2312.06635): keys of half the size, a state of D^2 / (2 Q) numbers, output gate.

    The state is `s` (B, Q, K, V), how many tokens it has seen, `count` (B,), and with short convolutions their last
    inputs.
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        width, keys = config.hidden_size, config.num_heads * self.key_size
        self.q_proj, self.k_proj = (nn.Linear(width, keys, bias=False) for _ in range(2))
        self.v_proj, self.g_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.g_norm = nn.RMSNorm(config.head_size, eps=1e-5, elementwise_affine=config.elementwise_affine)
        self._make_convolutions(keys, keys, width)
        self._make_gates(keys)

    @property
    def key_size(self) -> int:
        """Size of a head's queries and keys."""
        return max(1, self.config.head_size // 2)

    def _make_gates(self, keys: int) -> None:
        self.gk_proj = nn.Sequential(nn.Linear(self.config.hidden_size, 16, bias=False), nn.Linear(16, keys))

    def _gates(self, x_BTD: Tensor) -> Tensor:
        """Logarithms of forget gates, (B, T, Q, K)."""
        return functional.logsigmoid(_precise(self._heads(self.gk_proj(x_BTD), self.key_size))) / 16

    def _positions(
        self, x_BTQK: Tensor, mask_BT: Tensor | None, state: State | None, cu: Sequence[int] | None
    ) -> Tensor:
        return x_BTQK

    def _mix(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        q, k, v = self._convolve(q, k, v, mask_BT, state, cu_seqlens)
        q, k = (self._positions(self._heads(x, self.key_size), mask_BT, state, cu_seqlens) for x in (q, k))
        v, g = self._heads(v, self.config.head_size), self._gates(x_BTD)
        if mask_BT is not None:
            k, g = (x.masked_fill(~mask_BT[..., None, None], 0) for x in (k, g))
        before = state.get("s") if state is not None else None
        o_BTQV, after = gla(q, k, v, g, self.key_size**-0.5, before, cu_seqlens)
        if state is not None:
            state["s"] = after
            _count(state, x_BTD, mask_BT)
        gate_BTQV = functional.silu(self._heads(self.g_proj(x_BTD), self.config.head_size))
        return self.o_proj((self.g_norm(o_BTQV) * gate_BTQV).flatten(2))


class Retention(GatedLinearAttention):
    """The retention of RetNet (arXiv 2307.08621): the same decay at every step, rotary positions."""

    def __init__(self, config: MixerConfig) -> None:
        if config.head_size % 4:
            raise InputError(f"the heads have size {config.head_size}; retnet needs a multiple of 4")
        super().__init__(config)

    def _make_gates(self, keys: int) -> None:
        pass  # the rates are no weights, nor a buffer: that would be rounded with the model

    def _gates(self, x_BTD: Tensor) -> Tensor:
        heads = torch.arange(self.config.num_heads, device=x_BTD.device, dtype=_precise(x_BTD).dtype)
        return torch.log1p(-torch.exp2(-5 - heads))[:, None].expand(*x_BTD.shape[:2], -1, self.key_size)

    def _positions(
        self, x_BTQK: Tensor, mask_BT: Tensor | None, state: State | None, cu: Sequence[int] | None
    ) -> Tensor:
        return rotate(x_BTQK, positions(x_BTQK, mask_BT, state, cu), self.config.rope_theta)


class SoftmaxAttention(Mixer):
    """Softmax attention with rotary positions, as in Llama: memory grows with every token.

    The state is all keys and values, `k` and `v` (B, S, H, K), which of them are no padding, `seen` (B, S), how
    many, `count` (B,), and with short convolutions their last inputs.
    """

    def __init__(self, config: MixerConfig) -> None:
        if config.head_size % 2:
            raise InputError(f"the heads have size {config.head_size}; rotary positions need an even one")
        super().__init__(config)
        width, narrow = config.hidden_size, config.num_kv_heads * config.head_size
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(width, narrow, bias=False) for _ in range(2))
        self._make_convolutions(width, narrow, narrow)

    def _mix(
        self, x_BTD: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None
    ) -> Tensor:
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        q, k, v = self._convolve(q, k, v, mask_BT, state, cu_seqlens)
        q, k, v = (self._heads(x, self.config.head_size) for x in (q, k, v))
        places_BT = positions(q, mask_BT, state, cu_seqlens)
        q, k = (rotate(x, places_BT, self.config.rope_theta) for x in (q, k))
        seen_BS = mask_BT
        if state is not None:
            seen_BS = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device) if mask_BT is None else mask_BT
            if "k" in state:
                k, v, seen_BS = (torch.cat([state[name], x], 1) for name, x in (("k", k), ("v", v), ("seen", seen_BS)))
            state["k"], state["v"], state["seen"] = k, v, seen_BS
            _count(state, x_BTD, mask_BT)
        allowed = _allowed(q.shape[1], k.shape[1], seen_BS, cu_seqlens, x_BTD.device)
        o_BQTV = functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=allowed,
            is_causal=allowed is None and q.shape[1] > 1,
            enable_gqa=self.config.num_heads != self.config.num_kv_heads,
        )
        return self.o_proj(o_BQTV.transpose(1, 2).flatten(2))


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(torch.float32, x.dtype))


def _allowed(
    queries: int, keys: int, seen_BS: Tensor | None, cu_seqlens: Sequence[int] | None, device: torch.device
) -> Tensor | None:
    """Which keys a query sees, (B or 1, 1, T, S); None where causality alone says it."""
    everything = cu_seqlens is None and (seen_BS is None or bool(seen_BS.all()))
    if everything and queries in (1, keys):
        return None
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None]
    if cu_seqlens is not None:
        bounds = torch.tensor(list(cu_seqlens[1:]), device=device)
        sequence_T = torch.bucketize(torch.arange(keys, device=device), bounds, right=True)
        allowed = allowed & (sequence_T[:, None] == sequence_T)
    if seen_BS is not None:
        # What stands in padding is never used, but softmax wants a key for it.
        itself = torch.eye(keys, dtype=torch.bool, device=device)[keys - queries :]
        allowed = (allowed & seen_BS[:, None]) | itself
    return allowed[:, None]


def positions(x_BTQK: Tensor, mask_BT: Tensor | None, state: State | None, cu_seqlens: Sequence[int] | None) -> Tensor:
    """Numbers of tokens in their sequences, padding not counted: (B, T)."""
    if cu_seqlens is not None:
        parts = [torch.arange(b - a, device=x_BTQK.device) for a, b in pairwise(cu_seqlens)]
        return torch.cat(parts)[None]
    ones = x_BTQK.new_ones(x_BTQK.shape[:2], dtype=torch.long) if mask_BT is None else mask_BT.long()
    places_BT = (ones.cumsum(1) - 1).clamp(min=0)
    return places_BT if not state or "count" not in state else places_BT + state["count"][:, None]


def _count(state: State, x_BTD: Tensor, mask_BT: Tensor | None) -> None:
    now_B = _lengths(x_BTD, mask_BT)
    state["count"] = state["count"] + now_B if "count" in state else now_B


def _lengths(x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Tokens that are no padding, (B,) int64."""
    return x_BTD.new_full(x_BTD.shape[:1], x_BTD.shape[1], dtype=torch.long) if mask_BT is None else mask_BT.sum(1)


def rotate(x_BTQK: Tensor, places_BT: Tensor, theta: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864), halves of a head turned against each other as in Llama; K must be even."""
    half = x_BTQK.shape[-1] // 2
    rates_k = torch.exp(torch.arange(half, device=x_BTQK.device) * (-math.log(theta) / half))
    angles_BT1k = (places_BT[..., None].float() * rates_k)[:, :, None]
    cos, sin = angles_BT1k.cos(), angles_BT1k.sin()
    a, b = _precise(x_BTQK).split(half, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x_BTQK.dtype)


MIXERS: dict[MixerName, type[Mixer]] = {
    "gsa": GatedSlotAttention,
    "abc": UngatedSlotAttention,
    "gla": GatedLinearAttention,
    "retnet": Retention,
    "softmax": SoftmaxAttention,
}
