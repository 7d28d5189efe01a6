"""Fixtures of the tests of attention. Their models with known answers, `known_models.py`, are put on the path here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def attention_data() -> Path:
    """The folder of real texts that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "attention"
    if not (folder / "war_and_peace.txt").exists():
        pytest.skip(f"{folder} has no war_and_peace.txt; set TENFOLD_DATA")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors are quicker without a crowd of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
