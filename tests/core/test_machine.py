"""The processor's name in reports."""

import platform
from pathlib import Path

import pytest

from tenfold.core.machine import processor


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            "processor\t: 0\nmodel\t\t: 1\nmodel name\t: EPYC 9B: 2\n\nprocessor\t: 1\nmodel name\t: Other\n",
            "EPYC 9B: 2",
        ),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.machine()),
        (None, platform.machine()),
    ],
    ids=["first of two cores", "no model, as on ARM", "no file"],
)
def test_the_model_or_else_the_architecture(cpuinfo: str | None, expected: str, tmp_path: Path) -> None:
    if cpuinfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert processor(tmp_path) == expected
