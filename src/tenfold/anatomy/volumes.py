"""Volumes of the images of one set, as every part of the room takes them.

S subjects · R regions · G QC groups
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.labels import Side
from tenfold.anatomy.sidecars import Processing
from tenfold.core.errors import InputError

__all__ = ["Measured", "combine_sides"]


@dataclass(frozen=True)
class Measured:
    """What was measured of the images of one set.

    Attributes:
        subjects: A name per image, unique.
        regions: A name per region, unique.
        volumes_SR: float64 mm³, at least 0; the mean of left and right where there are two.
        icv_S: float64 mm³, above 0: the intracranial volume.
        qc_SG: float64 in 0 to 1, a predicted Dice score per group; None where the segmenter gives none.
        groups: G names, of `labels.QC_GROUPS`.
        asymmetry_SR: float64, 2 (left - right) / (left + right), in -2 to 2; NaN where there are no two sides.
        people: Further columns by name, such as age and sex, as text.
        segmenter: What volumes come from, as far as it is known: "synthseg" (sums of probabilities), "freesurfer",
            "muse", "labels" (voxels counted in label files of FreeSurfer's numbers), or another word.
        missing: Structures of the paper that the source does not have.
        source: Where it was read.
        processing: How the images were processed, as far as it is known.

    Raises:
        InputError: Shapes do not fit, a name is there twice, or a value is out of its range.
    """

    subjects: tuple[str, ...]
    regions: tuple[str, ...]
    volumes_SR: NDArray[np.float64]
    icv_S: NDArray[np.float64]
    qc_SG: NDArray[np.float64] | None = None
    groups: tuple[str, ...] = ()
    asymmetry_SR: NDArray[np.float64] | None = None
    people: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    segmenter: str = ""
    missing: tuple[str, ...] = ()
    source: str = "volumes"
    processing: Processing | None = None

    def __post_init__(self) -> None:
        shape = (len(self.subjects), len(self.regions))
        if self.volumes_SR.shape != shape or self.icv_S.shape != shape[:1]:
            raise InputError(
                f"{self.source}: volumes of shape {self.volumes_SR.shape} and ICV of shape {self.icv_S.shape} for "
                f"{shape[0]} subjects and {shape[1]} regions"
            )
        if 0 in shape:
            raise InputError(f"{self.source}: {shape[0]} subjects and {shape[1]} regions; at least 1 of each is needed")
        _check_names(self.subjects, "subject", self.source)
        _check_names(self.regions, "region", self.source)
        volumes, heads = self.volumes_SR, self.icv_S[:, None]
        self._check(volumes, np.isfinite(volumes) & (volumes >= 0), self.regions, "mm³", "volumes are 0 or more")
        self._check(heads, np.isfinite(heads) & (heads > 0), ("the intracranial volume",), "mm³", "it is above 0")
        if self.qc_SG is not None:
            if self.qc_SG.shape != (shape[0], len(self.groups)):
                raise InputError(f"{self.source}: QC of shape {self.qc_SG.shape} for {len(self.groups)} groups")
            self._check(
                self.qc_SG, (self.qc_SG >= 0) & (self.qc_SG <= 1), self.groups, "QC", "scores are between 0 and 1"
            )

    def __len__(self) -> int:
        return len(self.subjects)

    def take(self, rows: Sequence[int] | NDArray[np.int64] | NDArray[np.bool_]) -> "Measured":
        """Some of the subjects, by number or by mask."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            subjects=tuple(self.subjects[i] for i in chosen),
            volumes_SR=self.volumes_SR[chosen],
            icv_S=self.icv_S[chosen],
            qc_SG=None if self.qc_SG is None else self.qc_SG[chosen],
            asymmetry_SR=None if self.asymmetry_SR is None else self.asymmetry_SR[chosen],
            people={name: tuple(values[i] for i in chosen) for name, values in self.people.items()},
        )

    def add_unreliable(self, subjects: Sequence[str], people: Mapping[str, tuple[str, ...]]) -> "Measured":
        """With images of which nothing could be measured: their scores are 0, so that the gate counts them.

        Without scores nothing tells them from measured ones, and they are left out.

        Args:
            subjects: Their names.
            people: Their values in the columns of `people`.
        """
        if self.qc_SG is None or not subjects:
            return self
        more, regions = len(subjects), len(self.regions)
        asymmetry, unknown = self.asymmetry_SR, np.full((more, regions), np.nan)
        return replace(
            self,
            subjects=(*self.subjects, *subjects),
            volumes_SR=np.concatenate([self.volumes_SR, np.zeros((more, regions))]),
            icv_S=np.concatenate([self.icv_S, np.ones(more)]),
            qc_SG=np.concatenate([self.qc_SG, np.zeros((more, len(self.groups)))]),
            asymmetry_SR=None if asymmetry is None else np.concatenate([asymmetry, unknown]),
            people={name: (*values, *people[name]) for name, values in self.people.items()},
        )

    def only(self, regions: Sequence[str]) -> "Measured":
        """Some of the regions, in the order given.

        Raises:
            InputError: A region is not there.
        """
        if unknown := [name for name in regions if name not in self.regions]:
            raise InputError(f"{self.source}: has no region '{unknown[0]}'; it has {', '.join(self.regions)}")
        columns = [self.regions.index(name) for name in regions]
        asymmetry = None if self.asymmetry_SR is None else self.asymmetry_SR[:, columns]
        return replace(self, regions=tuple(regions), volumes_SR=self.volumes_SR[:, columns], asymmetry_SR=asymmetry)

    def _check(
        self, values: NDArray[np.float64], good: NDArray[np.bool_], columns: Sequence[str], unit: str, rule: str
    ) -> None:
        for subject, where in np.argwhere(~good)[:1]:
            value = f"{values[subject, where]:g} {unit}"
            raise InputError(f"{self.source}: subject '{self.subjects[subject]}': {value} of {columns[where]}; {rule}")


def combine_sides(
    volumes: Mapping[str, Mapping[Side, NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average left and right, as the paper does; what lies between counts half to each side.

    Args:
        volumes: By region and side, (S,) mm³ each.

    Returns:
        Volumes (S, R) mm³, and asymmetry (S, R), NaN where a region has no sides or no volume on both.
    """
    means, asymmetries = [], []
    for sides in volumes.values():
        if "left" in sides:
            left, right = sides["left"], sides["right"]
            means.append((left + right + sides.get("middle", 0.0)) / 2)
            both = left + right
            counted = (both > 0) & np.isfinite(both)  # what is infinite is refused afterwards
            asymmetries.append(np.divide(2 * (left - right), both, out=np.full_like(both, np.nan), where=counted))
        else:
            means.append(sides["middle"])
            asymmetries.append(np.full_like(sides["middle"], np.nan))
    return np.stack(means, axis=1), np.stack(asymmetries, axis=1)


def _check_names(names: Sequence[str], what: str, source: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{source}: {what} '{name}' is there twice; every {what} needs a name of its own")
        seen.add(name)
