"""Fixtures of the tests of anatomy."""

import os
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.images import LabelMap
from tenfold.anatomy.tables import Measured, read_measured


@pytest.fixture(scope="session")
def anatomy_data() -> Path:
    """The folder of real brains that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "anatomy"
    if not (folder / "tables/ixi_dlmuse_volumes.tsv").exists():
        pytest.skip(f"{folder} has no tables/ixi_dlmuse_volumes.tsv; set TENFOLD_DATA")
    return folder


@pytest.fixture(scope="session")
def ixi(anatomy_data: Path) -> Measured:
    """200 people of IXI, the paper's 18 structures."""
    return read_measured(anatomy_data / "tables/ixi_dlmuse_volumes.tsv")


def made_people(
    count: int, seed: int = 0, regions: tuple[str, ...] = ("thalamus", "hippocampus", "caudate")
) -> Measured:
    """People drawn from a normal distribution, whose volumes grow with their heads."""
    random = np.random.default_rng(seed)
    icv = random.normal(1_400_000, 120_000, count)
    volumes = random.normal(4000, 300, (count, len(regions))) + 0.003 * (icv - 1_400_000)[:, None]
    return Measured(tuple(f"sub-{i:03}" for i in range(count)), regions, volumes, icv)


_BALLS = {  # FreeSurfer's numbers, left and right; mm from the middle to the right, to the front, upwards; radius
    (4, 43): (9, 5, 12, 9), (5, 44): (30, -15, -12, 4), (10, 49): (12, -12, 2, 8), (11, 50): (16, 18, 10, 7),
    (12, 51): (26, 6, 2, 7), (13, 52): (19, 0, 0, 5), (17, 53): (28, -20, -16, 7), (18, 54): (26, 0, -20, 6),
    (26, 58): (10, 14, -6, 4), (28, 60): (10, -14, -12, 5),
}  # fmt: skip


def made_head(mm: float = 3.0, size: tuple[int, int, int] = (56, 68, 60), label_of_skull: int = 516) -> LabelMap:
    """A head of balls and ellipsoids with all structures, in RAS, the middle of the cerebrum at 0."""
    x, y, z = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * mm for n in size), indexing="ij")
    labels = np.zeros(size, np.int16)

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return sum(((one - c) / r) ** 2 for one, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    def paint(left: int, right: int, where: np.ndarray) -> None:
        labels[where] = np.where(x[where] < 0, left, right)

    labels[ellipsoid((0, 0, 0), (78, 95, 82))] = label_of_skull
    labels[ellipsoid((0, 0, 0), (72, 88, 74))] = 24
    paint(3, 42, ellipsoid((0, 0, 5), (66, 82, 62)))
    paint(2, 41, ellipsoid((0, 0, 5), (54, 70, 50)))
    paint(8, 47, ellipsoid((0, -42, -46), (44, 28, 22)))
    paint(7, 46, ellipsoid((0, -42, -46), (22, 14, 10)))
    labels[ellipsoid((0, -20, -48), (12, 12, 30))] = 16
    labels[ellipsoid((0, -34, -44), (5, 5, 9))] = 15
    labels[ellipsoid((0, -8, 0), (3.5, 12, 9))] = 14
    for (left, right), (side, front, up, radius) in _BALLS.items():
        front, up = front + 0.37, up + 0.71  # so that no ball has the symmetry of the voxels
        labels[ellipsoid((-side - 0.23, front, up), (radius,) * 3)] = left
        labels[ellipsoid((side + 0.23, front, up), (radius,) * 3)] = right
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -(np.array(size) - 1) / 2 * mm
    return LabelMap(labels, affine, Path("made_head"))


@pytest.fixture(scope="session")
def head() -> LabelMap:
    """A made-up head."""
    return made_head()
