"""Fixtures of the tests of faces."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def faces_data() -> Path:
    """The folder of real faces that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "faces"
    if not (folder / "single_face.jpg").exists():
        pytest.skip(f"{folder} has no single_face.jpg; set TENFOLD_DATA")
    return folder
