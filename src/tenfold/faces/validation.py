"""How trainings choose among their models: verification of people who were not learned from."""

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

__all__ = ["check_validation", "verification_auc"]

_MOST_FACES = 2000  # two million pairs
_TINY = 1e-12


def verification_auc(vectors_Nd: NDArray[np.floating], labels_N: NDArray[np.integer]) -> float:
    """The probability that a pair of one person's faces has the higher cosine than a pair of two people's, 0 to 1.

    All pairs of the first 2,000 faces; ties count half. NaN where there is no pair of either kind.
    """
    vectors, labels = vectors_Nd[:_MOST_FACES].astype(np.float32), labels_N[:_MOST_FACES]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + _TINY
    first, second = np.triu_indices(len(labels), 1)
    scores, same = (vectors @ vectors.T)[first, second], labels[first] == labels[second]
    others, own = np.sort(scores[~same]), scores[same]
    if not len(others) or not len(own):
        return float("nan")
    below, upto = np.searchsorted(others, own, "left"), np.searchsorted(others, own, "right")
    return float((below + upto).mean() / (2 * len(others)))


def check_validation(labels_N: NDArray[np.integer]) -> None:
    """InputError unless there are two people, and two faces of one of them, among the faces that are compared."""
    _, counts = np.unique(labels_N[:_MOST_FACES], return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise InputError("validation needs two people, and two faces of one of them, to compare pairs")
