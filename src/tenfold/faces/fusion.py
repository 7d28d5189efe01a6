"""The gallery of a search: entries of one face each, or one entry for several faces of a person.

N probes · M gallery faces · L distractors · K people · d dimension
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import check_labels, unit_vectors

__all__ = ["Entries", "Fusion", "fuse"]

_BLOCK = 1 << 24  # scores held at a time: 64 MB

Fusion = Literal["none", "mean", "max"]
"""Several faces of a person in the gallery: an entry each, one entry of their mean, or the best of them."""


def fuse(vectors_Md: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """One template per person: the mean of the person's unit vectors, again of length 1.

    Returns:
        (K, d) templates and (K,) people in ascending order.
    """
    units = unit_vectors(vectors_Md)
    people, person = np.unique(check_labels(labels, len(units)), return_inverse=True)
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(len(people)))
    sums = np.add.reduceat(units[order], starts, axis=0) if len(people) else units
    return unit_vectors(sums, "means of a person's vectors"), people


class Entries:
    """Cosines of probes with the entries of a gallery and with distractors, block by block."""

    def __init__(
        self,
        gallery_Md: ArrayLike,
        labels: ArrayLike,
        distractors_Ld: ArrayLike | None = None,
        fusion: Fusion = "none",
    ) -> None:
        if fusion not in ("none", "mean", "max"):
            raise InputError(f"fusion {fusion!r}: give none, mean or max")
        self._gallery = unit_vectors(gallery_Md, "gallery")
        self._starts: NDArray[np.intp] | None = None
        self.people = check_labels(labels, len(self._gallery))
        if not len(self.people):
            raise InputError("the gallery is empty; give at least one face")
        if fusion == "mean":
            self._gallery, self.people = fuse(self._gallery, self.people)
        elif fusion == "max":
            order = np.argsort(self.people, kind="stable")
            self._gallery = self._gallery[order]
            self.people, self._starts = np.unique(self.people[order], return_index=True)
        width = self._gallery.shape[1]
        empty = np.empty((0, width), self._gallery.dtype)
        self._distractors = empty if distractors_Ld is None else unit_vectors(distractors_Ld, "distractors")
        if self._distractors.shape[1] != width:
            raise InputError(f"distractors have dimension {self._distractors.shape[1]}, the gallery {width}")
        self.entries = len(self.people) + len(self._distractors)

    def scores(self, probes_Nd: ArrayLike) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.floating]]]:
        """Per block of probes: which they are, their scores with the entries and with the distractors."""
        probes = unit_vectors(probes_Nd, "probes")
        if probes.shape[1] != self._gallery.shape[1]:
            raise InputError(f"probes have dimension {probes.shape[1]}, the gallery {self._gallery.shape[1]}")
        step = max(1, _BLOCK // (len(self._gallery) + len(self._distractors)))
        for start in range(0, len(probes), step):
            block = probes[start : start + step]
            entries = block @ self._gallery.T
            if self._starts is not None:
                entries = np.maximum.reduceat(entries, self._starts, axis=1)
            yield slice(start, start + len(block)), entries, block @ self._distractors.T
