"""Which segmentations can be relied on: only those are measured, and how many are not is a headline of its own.

A segmenter predicts how well it did, as a Dice score per group of structures. SynthSeg's rule, and the paper's, is that
a group is reliable above 0.65, and that a generator passes if in every group at least 95 % of its images are. That an
image is reliable if all groups are is ours.

S subjects · G QC groups
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError
from tenfold.core.reports import Cell, Table

__all__ = ["REQUIRED", "THRESHOLD", "Gate", "gate", "gate_table"]

THRESHOLD = 0.65
REQUIRED = 0.95


@dataclass(frozen=True)
class Gate:
    """What a gate lets through.

    Attributes:
        groups: G names.
        shares_G: float64, the share of images above the threshold in each group.
        reliable_S: bool, the images that are in all groups.
        threshold: A score above it is reliable.
        required: The least share in every group with which a generator passes.
    """

    groups: tuple[str, ...]
    shares_G: NDArray[np.float64]
    reliable_S: NDArray[np.bool_]
    threshold: float
    required: float

    @property
    def passes(self) -> bool:
        """Whether every group has the required share."""
        return bool((self.shares_G >= self.required).all())

    @property
    def rejected(self) -> float:
        """The share of images that are not reliable in some group."""
        return float(1 - self.reliable_S.mean())


def gate(measured: Measured, threshold: float = THRESHOLD, required: float = REQUIRED) -> Gate:
    """Put a set of images through the gate.

    Raises:
        InputError: There are no QC scores, or a bound is not between 0 and 1.
    """
    for name, bound in (("threshold", threshold), ("required", required)):
        if not 0 <= bound <= 1:
            raise InputError(f"{name} is {bound}; it is between 0 and 1")
    if measured.qc_SG is None:
        raise InputError(f"{measured.source}: has no QC scores; give the segmenter's QC table")
    reliable_SG: NDArray[np.bool_] = np.asarray(measured.qc_SG > threshold)
    return Gate(measured.groups, reliable_SG.mean(axis=0), np.asarray(reliable_SG.all(axis=1)), threshold, required)


def gate_table(gates: dict[str, Gate | None]) -> Table:
    """A row per set: whether it passes, the share of images not reliable in some group, of those reliable in each."""
    known = {name: one for name, one in gates.items() if one is not None}
    groups = list(dict.fromkeys(group for one in known.values() for group in one.groups))
    rows: list[list[Cell]] = []
    for name, one in gates.items():
        if one is None:
            rows.append([name, "no QC scores", *[None] * (len(groups) + 1)])
            continue
        shares = dict(zip(one.groups, map(float, one.shares_G), strict=True))
        verdict = "passes" if one.passes else "fails"
        rows.append([name, verdict, one.rejected, *(shares.get(group) for group in groups)])
    notes = [
        f"share of images with a QC score above {one.threshold:g}; a set needs {one.required:g} or more in every group"
        for one in list(known.values())[:1]
    ]
    for name, one in known.items():
        if lacking := [group for group in QC_GROUPS if group not in one.groups]:
            notes.append(f"{name}: no scores of {', '.join(lacking)}, which were not checked")
    return Table("Reliable segmentations", ["set", "gate", "rejected", *groups], rows, notes)
