"""Anyone's images as a generator: a folder of NIfTI files, in their order."""

# n images · X right · Y anterior · Z superior

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.features import prepared_voxels
from tenfold.anatomy.generators.interface import Budget, Cost, Generator
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.core.errors import InputError

__all__ = ["FolderGenerator"]


class FolderGenerator(Generator):
    """Samples that exist already; they are read one at a time, when they are asked for.

    Args:
        folder: As `open_images` takes it; the images in [-1, 1], all of one shape.
        voxel_mm: Voxel size in mm of files that state none.

    Raises:
        InputError: No image, or the first cannot be read.
    """

    name = "folder"
    size = "paper"

    def __init__(self, folder: Path | str, voxel_mm: float | Sequence[float] | None = None) -> None:
        self._images = open_images(folder, voxel_mm=voxel_mm)
        x, y, z = prepared_voxels(self._images[0]).shape
        self.grid = (x, y, z)

    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Raises InputError: what is in a folder cannot learn."""
        raise InputError(f"{self._images.folder}: is a folder of images, which learns nothing; sample from it")

    def sample(self, count: int, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
        """Images (n, X, Y, Z) from number `first` on, by the order of names, clipped to [-1, 1], whatever the seed.

        Raises:
            InputError: There are fewer, or one cannot be read, was not prepared or has another shape than the first.
        """
        if count < 1 or not 0 <= first <= len(self._images) - count:
            raise InputError(
                f"{self._images.folder}: has {len(self._images)} images, not {count} from {first} on; ask for fewer"
            )
        drawn = np.empty((count, *self.grid), np.float32)
        for number in range(count):
            voxels_XYZ = prepared_voxels(self._images[first + number])
            if voxels_XYZ.shape != self.grid:
                raise InputError(
                    f"{self._images.paths[first + number]}: has another shape than {self._images.paths[0].name}; "
                    "prepare both alike"
                )
            drawn[number] = voxels_XYZ
        return drawn

    def save(self, folder: Path | str, about: Mapping[str, object]) -> None:
        """Raises InputError: the images lie in a folder already."""
        raise InputError(f"{self._images.folder}: is a folder of images and no model; copy it instead")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """The images of a folder, which state their voxel size."""
        return cls(folder)
