"""Which faces to learn from: those whose teacher features agree with their identity, without near copies.

After the sparse graph of selective knowledge distillation (Ge et al., IEEE TIP 2019, arXiv 1811.09998), of which only
the idea was at hand: nodes are faces, alpha_i in {0, 1} says whether face i is kept, and

    E(alpha) = sum_i alpha_i u_i + w * sum_{i<j, same person} alpha_i alpha_j r_ij

is made small while a share rho of each person is kept. The costs and the greedy descent are our choices. With features
t of length 1 and the people's mean features m:

    u_i  = |t_i - m_own| / min over others |t_i - m_other|        far from its own person, near another
    r_ij = exp(-|t_i - t_j|^2 / mean within the person)            1 for copies
"""

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

__all__ = ["select"]

_TINY = 1e-12


def select(
    features_ND: NDArray[np.floating], labels_N: NDArray[np.integer], rho: float = 0.7, redundancy: float = 1.0
) -> NDArray[np.int64]:
    """The rows to keep, rising: of each person's n faces rho * n, rounded half up and at least one.

    The same input gives the same rows; ties go to the lower row. Rows of the label -1 are all kept.

    Args:
        features_ND: The teacher's features, any length.
        labels_N: The person of each row.
        rho: The share to keep, above 0 and up to 1.
        redundancy: w, what a copy of a kept face costs.

    Raises InputError for values out of range and shapes that do not fit.
    """
    if not 0 < rho <= 1:
        raise InputError(f"rho is {rho}; it must be above 0 and at most 1")
    if features_ND.ndim != 2 or labels_N.shape != features_ND.shape[:1]:
        raise InputError(f"features are {features_ND.shape}, labels {labels_N.shape}; give (N, D) and (N,)")
    t_ND = features_ND.astype(np.float64)
    t_ND /= np.linalg.norm(t_ND, axis=1, keepdims=True) + _TINY
    people = np.unique(labels_N[labels_N >= 0])
    kept = [np.flatnonzero(labels_N < 0)]
    if len(people):
        means_KD = np.stack([t_ND[labels_N == person].mean(0) for person in people])
        for number, person in enumerate(people):
            rows = np.flatnonzero(labels_N == person)
            count = max(1, int(np.floor(rho * len(rows) + 0.5)))
            kept.append(
                rows[_descend(_unary(t_ND[rows], means_KD, number), _redundancy(t_ND[rows]) * redundancy, count)]
            )
    return np.sort(np.concatenate(kept)).astype(np.int64)


def _unary(t_nD: NDArray[np.float64], means_KD: NDArray[np.float64], own: int) -> NDArray[np.float64]:
    squares_nK = (t_nD**2).sum(1)[:, None] - 2 * t_nD @ means_KD.T + (means_KD**2).sum(1)
    distance_nK = np.sqrt(np.maximum(squares_nK, 0))
    others = np.delete(distance_nK, own, axis=1)
    nearest = others.min(1) if others.shape[1] else np.ones(len(t_nD))
    costs: NDArray[np.float64] = distance_nK[:, own] / (nearest + _TINY)
    return costs


def _redundancy(t_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    squares_nn = np.maximum(2 - 2 * t_nD @ t_nD.T, 0)
    copies: NDArray[np.float64] = np.exp(-squares_nn / (squares_nn.mean() + _TINY))
    return copies


def _descend(unary_n: NDArray[np.float64], pair_nn: NDArray[np.float64], count: int) -> list[int]:
    """`count` rows, each time the one that adds least to E."""
    costs, chosen = unary_n.copy(), list[int]()
    for _ in range(count):
        best = int(costs.argmin())
        chosen.append(best)
        costs += pair_nn[best]
        costs[best] = np.inf
    return chosen
