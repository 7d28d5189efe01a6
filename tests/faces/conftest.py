"""Fixtures of the tests of faces; `dying.py` is put on the path here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.faces.detection import Detection, HaarDetector
from tenfold.faces.pictures import read_picture

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def faces_data() -> Path:
    """The folder of real faces that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "faces"
    if not (folder / "single_face.jpg").exists():
        pytest.skip(f"{folder} has no single_face.jpg; set TENFOLD_DATA")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors are quicker without a crowd of threads, above all where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def group(faces_data: Path) -> tuple[np.ndarray, list[Detection]]:
    """A photograph of five people, and what the default detector finds on it."""
    picture = read_picture(faces_data / "multi_face.jpg")
    return picture, HaarDetector().detect(picture)
