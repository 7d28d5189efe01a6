"""Accuracy against the size of a face: the resolution curve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import MANY, compare
from tenfold.faces.identification import one_shot
from tenfold.faces.resampling import REPLICATES, Estimate
from tenfold.faces.verification import verification

__all__ = ["Resolution", "resolution_curve"]

SIZES = (16, 20, 24, 32, 48)


@dataclass(frozen=True)
class Resolution:
    """What is left at one size.

    Attributes:
        size: Side of the faces in pixels.
        auc: Area under the ROC curve of verification.
        tar: TAR at `far`.
        far: The FAR.
        rank1: One-shot rank 1.
    """

    size: int
    auc: Estimate
    tar: Estimate
    far: float
    rank1: Estimate


def resolution_curve(
    embed: Callable[[NDArray[np.uint8], int], ArrayLike],
    crops_NSSC: NDArray[np.uint8],
    labels: ArrayLike,
    sizes: Sequence[int] = SIZES,
    far: float = 0.01,
    limit: int = MANY,
    replicates: int = REPLICATES,
) -> list[Resolution]:
    """Measure the same faces at several sizes, with the same pairs, people and draws.

    Args:
        embed: Takes the crops and a size in pixels, gives (N, d) vectors of the crops made that small.
        crops_NSSC: (N, S, S, 3) uint8.
        labels: (N,) int64.
        sizes: In pixels, none above S.
        far: For TAR at FAR.
        limit: The most pairs.
        replicates: Resamples of the people.
    """
    side = crops_NSSC.shape[1] if crops_NSSC.ndim == 4 else 0
    if not sizes or not all(1 <= size <= side for size in sizes):
        raise InputError(f"sizes are {list(sizes)}; give some of 1 to {side}, the side of the crops")
    points = []
    for size in sizes:
        vectors = embed(crops_NSSC, size)
        verified = verification(*compare(vectors, labels, limit), fars=[far], replicates=replicates)
        rank1 = one_shot(vectors, labels, replicates=replicates).rank1
        points.append(Resolution(size, verified.auc, verified.tar_at[far], far, rank1))
    return points
