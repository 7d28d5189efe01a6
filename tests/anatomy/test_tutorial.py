"""The code blocks of the tutorial, run as they stand, from top to bottom, beside a folder of real brains."""

import re
import shlex
from pathlib import Path

import pytest

from tenfold.cli import main

PAGE = Path(__file__).parents[2] / "docs/anatomy/tutorial.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_code_block_runs(
    anatomy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comment behind `print(...)` is what it prints; the changed generator is told from the faithful one; from label
    maps to a verdict on a generator nothing is needed but this package."""
    monkeypatch.chdir(tmp_path)
    Path("anatomy").symlink_to(anatomy_data)
    names: dict[str, object] = {}
    shown: dict[str, list[str]] = {}
    for language, code in BLOCK.findall(PAGE.read_text()):
        capsys.readouterr()
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            printed = capsys.readouterr().out
            for promised in re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE):
                assert promised in printed.splitlines()
            shown.setdefault("python", []).append(printed)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "tenfold"
            assert main(arguments) == 0, line
            shown.setdefault(arguments[1], []).append(capsys.readouterr().out)
    of_tables, of_images = shown["evaluate"]
    assert re.search(r"^ *faithful +yes +– +no QC +plausible ", of_tables, re.MULTILINE)
    assert re.search(r"^ *changed +no +– +no QC +implausible ", of_tables, re.MULTILINE)
    assert "hippocampus too small" in of_tables and "lateral ventricle too large" in of_tables
    assert re.search(r"^ *gate +fails *$", shown["qc"][0], re.MULTILINE)
    assert "KID" in shown["images"][0] and any("prepare both alike" in printed for printed in shown["python"])
    assert re.search(r"^ *vae-gan +no +1 +fails +unreliable ", of_images, re.MULTILINE)
    assert Path("report/anatomy.html").exists()
    assert "Slices through the middle of the volume" in Path("page/anatomy.html").read_text()
