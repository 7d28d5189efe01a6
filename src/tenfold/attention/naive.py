"""The recurrence of Gated Slot Attention, step by step: slow, plain, and what every other backend is held to.

Shapes: B batch, T time, H key-value heads, Q = G H query heads, K key size, V value size, M slots.
"""

import torch
from torch import Tensor

__all__ = ["recurrence", "step"]


def step(
    q_BQK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    s_BHM: Tensor,
    g_BHM: Tensor,
    scale: float,
    hk_BHKM: Tensor,
    hv_BHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token: slots forget and are written, then read (arXiv 2409.07146).

    Returns:
        The output (B, Q, V) and the new state, keys (B, H, K, M) and values (B, H, M, V) of the slots.
    """
    alpha_BHM = g_BHM.exp()
    hk_BHKM = hk_BHKM * alpha_BHM[..., None, :] + k_BHK[..., :, None] * s_BHM[..., None, :]
    hv_BHMV = hv_BHMV * alpha_BHM[..., :, None] + s_BHM[..., :, None] * v_BHV[..., None, :]
    q_BHGK = q_BQK.unflatten(1, (k_BHK.shape[1], -1))
    p_BHGM = torch.softmax(scale * (q_BHGK @ hk_BHKM), dim=-1)
    return (p_BHGM @ hv_BHMV).flatten(1, 2), hk_BHKM, hv_BHMV


def recurrence(
    q_BTQK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    s_BTHM: Tensor,
    g_BTHM: Tensor,
    scale: float,
    hk_BHKM: Tensor,
    hv_BHMV: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens, at least one, one `step` after the other, in the precision of the state.

    Returns:
        Outputs (B, T, Q, V) and the final state.
    """
    inputs = [x.to(hk_BHKM.dtype) for x in (q_BTQK, k_BTHK, v_BTHV, s_BTHM, g_BTHM)]
    outputs = []
    for t in range(q_BTQK.shape[1]):
        q_BQK, k_BHK, v_BHV, s_BHM, g_BHM = (x[:, t] for x in inputs)
        o_BQV, hk_BHKM, hv_BHMV = step(q_BQK, k_BHK, v_BHV, s_BHM, g_BHM, scale, hk_BHKM, hv_BHMV)
        outputs.append(o_BQV)
    return torch.stack(outputs, 1), hk_BHKM, hv_BHMV
