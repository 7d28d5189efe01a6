"""The code blocks of the README and the tutorial, run as they stand, from top to bottom, in an empty folder."""

import re
import shlex
from pathlib import Path
from typing import cast

import pytest

from tenfold.cli import main
from tenfold.search import Index
from tenfold.search.calibration import Calibration, Tuning

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/search/tutorial.md"])
def test_every_code_block_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comment behind `print(...)  # [` is what it prints."""
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    monkeypatch.chdir(tmp_path)
    settings = Calibration({10: [(0.99, Tuning(30, 600, -0.3))]}, {})  # measuring them takes longer than all the rest
    monkeypatch.setattr("tenfold.search.index.calibrate", lambda *arguments: settings)
    names: dict[str, object] = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, page, "exec"), names)
            printed = capsys.readouterr().out
            for promised in re.findall(r"^print\(.*\)  # (\[.*)$", code, re.MULTILINE):
                assert promised in printed
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "tenfold"
            assert main(arguments) == 0, line
    if "small" in names:
        needed = [cast(Index, names[name]).stats()["memory_bytes"] for name in ("small", "index")]
        assert needed[0] / needed[1] == pytest.approx(2 / 3, abs=0.05), "the tutorial says about two thirds"
