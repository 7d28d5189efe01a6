"""Fixtures of the tests of anatomy."""

import os
from pathlib import Path

import numpy as np
import pytest

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
