"""Fixtures of the tests of faces."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


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
