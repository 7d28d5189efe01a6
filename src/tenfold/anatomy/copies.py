"""Has a generator learned its training images by heart, or does it repeat itself?

An image that is nearer to a training image than half the distance of the two training images that are nearest to each
other is taken for a copy; one that is as near to another generated image is taken for its twin. What a row holds is
open: here volumes, elsewhere features of images.

S training rows · G generated rows · F features
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError

__all__ = ["Copies", "check_copies", "check_volumes"]

NEAR = 0.5  # of the least distance between two training rows
TOLERATED = 0.05  # share of images that may be copies, or twins
LEAST_DIVERSITY = 0.5


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        copied: The share of generated images that are copies of a training image.
        twins: The share of generated images that are repeated.
        diversity: The median distance between generated images over that between training images.
        nearest_G: The number of the nearest training row.
        distance_G: float64, how far it is, in units of the radius within which an image is a copy.
        features: F.
    """

    copied: float
    twins: float
    diversity: float
    nearest_G: NDArray[np.int64]
    distance_G: NDArray[np.float64]
    features: int

    @property
    def memorised(self) -> bool:
        """Whether more than 5 % are copies."""
        return self.copied > TOLERATED

    @property
    def collapsed(self) -> bool:
        """Whether more than 5 % are twins, or images differ half as much as training images do, or less."""
        return self.twins > TOLERATED or self.diversity < LEAST_DIVERSITY


def check_copies(training_SF: NDArray[np.float64], generated_GF: NDArray[np.float64]) -> Copies:
    """Look for copies and twins.

    Distances are Euclidean, in units of the training rows' standard deviation per feature. Give one image per person:
    two visits of one are near each other, and copies are then found only where they are nearer still.

    Raises:
        InputError: Fewer than 3 training rows or 2 generated ones, other features, or training rows that are equal.
    """
    if training_SF.ndim != 2 or generated_GF.ndim != 2 or training_SF.shape[1] != generated_GF.shape[1]:
        raise InputError(f"rows of shape {training_SF.shape} and {generated_GF.shape} have no common features")
    if len(training_SF) < 3 or len(generated_GF) < 2:
        raise InputError(
            f"{len(training_SF)} training and {len(generated_GF)} generated images; copies are looked for among 3 and 2"
        )
    spread = training_SF.std(axis=0)
    varies = spread > 0
    training, generated = training_SF[:, varies] / spread[varies], generated_GF[:, varies] / spread[varies]
    own, among, across = (
        _distances(training, training),
        _distances(generated, generated),
        _distances(generated, training),
    )
    pairs = own[np.triu_indices(len(own), 1)]
    radius = NEAR * float(pairs.min()) if len(pairs) else 0.0
    if radius <= 0:
        one, other = (int(number) for number in np.argwhere(np.triu(own == 0, 1))[0])
        raise InputError(
            f"images {one + 1} and {other + 1} of those compared with have the same values; give each image once"
        )
    np.fill_diagonal(among, np.inf)
    return Copies(
        copied=float((across.min(axis=1) < radius).mean()),
        twins=float((among.min(axis=1) < radius).mean()),
        diversity=float(np.median(among[np.triu_indices(len(among), 1)]) / np.median(pairs)),
        nearest_G=across.argmin(axis=1),
        distance_G=across.min(axis=1) / radius,
        features=int(varies.sum()),
    )


def check_volumes(training: Measured, generated: Measured) -> Copies:
    """Look for copies and twins by the volumes of the regions that both have, and the ICV.

    Raises:
        InputError: As `check_copies`, or they have no common region.
    """
    common = [name for name in training.regions if name in generated.regions]
    if not common:
        raise InputError(f"{training.source} and {generated.source} have no region in common")
    seen, made = (np.column_stack([one.only(common).volumes_SR, one.icv_S]) for one in (training, generated))
    names: dict[bytes, str] = {}
    for name, row in zip(training.subjects, seen, strict=True):
        if (twin := names.setdefault(row.tobytes(), name)) != name:
            raise InputError(f"{training.source}: {twin} and {name} have the same volumes; give each image once")
    return check_copies(seen, made)


def _distances(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean, (len(one), len(other)); by differences, since a Gram matrix would round what is near to nothing."""
    out = np.empty((len(one), len(other)))
    for number, row in enumerate(one):
        out[number] = np.sqrt(((other - row) ** 2).sum(axis=1))
    return out
