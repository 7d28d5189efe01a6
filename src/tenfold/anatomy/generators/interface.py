"""What a generator of brain MRI is to the bench: fit, sample, save, load, and what it cost."""

# n images · X right · Y anterior · Z superior

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.sets import ImageSet

__all__ = ["Budget", "Cost", "Generator", "Grid", "Size"]

Size = Literal["paper", "miniature"]
"""The paper's widths and grid, or an eighth of the widths for the grid of 36 x 48 x 36 voxels of 4 mm."""

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Budget:
    """How much a generator may learn; equal for all that are compared.

    Attributes:
        images: Images shown in all, the same one each time it is shown.
        batch_size: Of them at once; 0: as in the paper, at most as many as there are.
        seed: Decides weights, order and noise.
    """

    images: int = 4000
    batch_size: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Cost:
    """What training took.

    Attributes:
        parameters: Trained numbers, of all networks.
        images: Images shown.
        seconds: Wall time of the steps.
        peak_bytes: Most memory of the process, or of the GPU where it trained on one.
    """

    parameters: int
    images: int
    seconds: float
    peak_bytes: int


class Generator(ABC):
    """A generator of prepared T1-weighted images, float32 in [-1, 1].

    Attributes:
        name: As the command line calls the kind.
        grid: Shape of its images.
        size: Of its networks.
    """

    name: ClassVar[str]
    grid: Grid
    size: Size

    @abstractmethod
    def fit(
        self, images: ImageSet, folder: Path | str, budget: Budget, *, device: str = "auto", quiet: bool = False
    ) -> Cost:
        """Learn from prepared images of `grid`, read one at a time; an interrupted run in the folder goes on.

        Raises:
            InputError: An image has another shape or was not prepared; the folder holds another run.
        """

    @abstractmethod
    def sample(self, count: int, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
        """Images `first` to `first + count - 1`, (n, X, Y, Z) in [-1, 1]; image i depends on the seed and i alone."""

    @abstractmethod
    def save(self, folder: Path | str, about: Mapping[str, object]) -> None:
        """Write a model folder; `about` is kept in its config.json (affine, processing, what it learned from)."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a model folder of this kind. Raises InputError where it is none."""
