"""Fixtures of the tests of anatomy."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def anatomy_data() -> Path:
    """The folder of real brains that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "anatomy"
    if not (folder / "tables/ixi_dlmuse_volumes.tsv").exists():
        pytest.skip(f"{folder} has no tables/ixi_dlmuse_volumes.tsv; set TENFOLD_DATA")
    return folder
