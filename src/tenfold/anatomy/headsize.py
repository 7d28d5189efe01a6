"""Volumes with the size of the head taken out of them.

Volumes are regressed on the intracranial volume (ICV) with an intercept, by ordinary least squares, and
v' = v - beta (ICV - mean ICV). The paper fits beta on real and generated people together. Where generated heads are
larger or smaller than real ones, or their regions too large for their heads, such a beta takes a part of the very
difference away that is looked for; fitted on real people alone it says what a head of that size should hold.

S subjects · R regions
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError

__all__ = ["Adjust", "HeadSize", "fit_head_size"]

Adjust = Literal["real", "pooled", "none"]


@dataclass(frozen=True)
class HeadSize:
    """A fitted regression on the intracranial volume.

    Attributes:
        slope_R: float64 mm³ of a region per mm³ of the head.
        mean_icv: Of those it was fitted on, mm³.
        mean_R: Their volumes at that ICV, mm³.
    """

    slope_R: NDArray[np.float64]
    mean_icv: float
    mean_R: NDArray[np.float64]

    def adjust(self, volumes_SR: NDArray[np.float64], icv_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """The volumes that the same people would have with heads of `mean_icv`, in mm³."""
        return volumes_SR - np.outer(icv_S - self.mean_icv, self.slope_R)


def fit_head_size(
    volumes_SR: NDArray[np.float64], icv_S: NDArray[np.float64], real: NDArray[np.bool_], adjust: Adjust = "real"
) -> HeadSize:
    """Fit the regression on real people ("real"), on all ("pooled", the paper's way), or not at all ("none").

    Args:
        volumes_SR: Of real and generated people, mm³.
        icv_S: Of the same, mm³.
        real: (S,) who is real.
        adjust: Which.

    Raises:
        InputError: Fewer than 3 people to fit it on, or all of their heads are of one size.
    """
    if adjust not in ("real", "pooled", "none"):
        raise InputError(f"adjust is '{adjust}'; it is 'real', 'pooled' or 'none'")
    chosen = real if adjust == "real" else np.ones_like(real)
    icv, volumes = icv_S[chosen], volumes_SR[chosen]
    centred, mean_R = icv - icv.mean(), volumes.mean(axis=0)
    if adjust == "none":
        return HeadSize(np.zeros(volumes.shape[1]), float(icv.mean()), mean_R)
    spread = float(centred @ centred)
    if len(icv) < 3 or spread <= (1e-9 * float(icv.mean())) ** 2 * len(icv):
        raise InputError(
            f"the intracranial volumes of {len(icv)} people are too few or all alike to regress volumes on them; "
            "use adjust='none'"
        )
    return HeadSize(centred @ (volumes - mean_R) / spread, float(icv.mean()), mean_R)
