"""Two dimensions for the eye out of many features: principal axes, and t-SNE (van der Maaten and Hinton 2008).

    p_ij = (p_j|i + p_i|j) / 2N    with p_j|i normal around i, as wide as gives it `perplexity` neighbours
    q_ij = w_ij / sum w            with w_ij = 1 / (1 + |y_i - y_j|^2)
    dKL(P|Q)/dy_i = 4 sum_j (p_ij - q_ij) w_ij (y_i - y_j)

Real and generated images are projected together: axes fitted to each set apart, as in the paper's code, cannot be laid
over each other. Both are exact and start from the principal axes, so nothing is drawn by lot.
"""

# N images · D features

import numpy as np
from numpy.typing import NDArray

__all__ = ["principal_axes", "tsne"]

_STEPS, _EXAGGERATED = 500, 150
_EXAGGERATION = 12.0
_BISECTIONS = 60


def principal_axes(features_ND: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places on the two axes of the greatest variance, (N, 2), and the shares of variance along them, (2,).

    An axis points to where its greatest coordinate is positive. With one feature, or equal images, places are 0.
    """
    centred_ND = features_ND - features_ND.mean(0)
    left, sizes, _ = np.linalg.svd(centred_ND, full_matrices=False)
    places = np.zeros((len(features_ND), 2))
    shares = np.zeros(2)
    count = min(2, len(sizes))
    places[:, :count] = left[:, :count] * sizes[:count]
    signs = np.sign(places[np.abs(places).argmax(0), [0, 1]])
    if total := float((sizes**2).sum()):
        shares[:count] = sizes[:count] ** 2 / total
    return places * np.where(signs == 0, 1, signs), shares


def tsne(features_ND: NDArray[np.float64], perplexity: float = 30.0) -> NDArray[np.float64]:
    """Places (N, 2) in which near neighbours stay near; distances between groups mean nothing.

    Args:
        features_ND: At least four images; time and memory grow with N².
        perplexity: Neighbours that count; at most a third of the images.
    """
    count = len(features_ND)
    wanted_NN = _affinities(features_ND, min(perplexity, (count - 1) / 3))
    places = principal_axes(features_ND)[0]
    places = 1e-4 * places / (places[:, 0].std() or 1.0)
    rate = max(count / _EXAGGERATION / 4, 50.0)
    moved, gains = np.zeros_like(places), np.ones_like(places)
    for step in range(_STEPS):
        early = step < _EXAGGERATED
        slope = _slope(wanted_NN * (_EXAGGERATION if early else 1.0), places)
        gains = np.where(slope * moved < 0, gains + 0.2, np.maximum(gains * 0.8, 0.01))
        moved = (0.5 if early else 0.8) * moved - rate * gains * slope
        places = places + moved
    return np.asarray(places - places.mean(0))


def _affinities(features_ND: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """p_ij; the width around each image is bisected, all images at once."""
    squares_NN = _squares(features_ND)
    squares_NN /= squares_NN.mean() or 1.0
    np.fill_diagonal(squares_NN, np.inf)
    nearest_N1 = squares_NN.min(1, keepdims=True)
    low, high = np.full(nearest_N1.shape, -30.0), np.full(nearest_N1.shape, 30.0)  # logarithms of 1 / 2 sigma^2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        near_NN = np.exp(-np.exp(middle) * (squares_NN - nearest_N1))
        near_NN /= near_NN.sum(1, keepdims=True)
        entropy = -(near_NN * np.log(np.maximum(near_NN, 1e-300))).sum(1, keepdims=True)
        too_wide = entropy > np.log(perplexity)
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    return np.asarray((near_NN + near_NN.T) / (2 * len(near_NN)))


def _slope(wanted_NN: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    weight_NN = 1 / (1 + _squares(places))
    np.fill_diagonal(weight_NN, 0)
    pull_NN = (wanted_NN - weight_NN / weight_NN.sum()) * weight_NN
    return np.asarray(4 * (pull_NN.sum(1)[:, None] * places - pull_NN @ places))


def _squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = (rows**2).sum(1)
    squares = np.maximum(norms[:, None] + norms - 2 * rows @ rows.T, 0)
    np.fill_diagonal(squares, 0)
    return np.asarray(squares)
