"""A handful of made heads, prepared: enough for networks to learn from for a step or two."""

import numpy as np
import pytest

from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import ImageSet, open_images

GRID = (36, 48, 36)


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Four ellipsoids of 36 x 48 x 36 voxels of 4 mm, in [-1, 1], background -1."""
    folder = tmp_path_factory.mktemp("heads")
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in GRID], indexing="ij"))
    for number in range(4):
        draw = np.random.default_rng(number)
        radius = (places**2 / draw.uniform(0.6, 0.9, (3, 1, 1, 1))).sum(0)
        voxels = np.where(radius < 1, 0.8 - radius + draw.normal(0, 0.05, GRID), -1).clip(-1, 1)
        write_image(folder / f"head_{number}.nii.gz", voxels.astype(np.float32), np.diag([4.0, 4, 4, 1]))
    return open_images(folder)
