"""The code blocks of the tutorial, run as they stand, from top to bottom, in a folder with some people of ORL."""

import re
import shlex
from pathlib import Path

import pytest

from tenfold.cli import main

PAGE = Path(__file__).parents[2] / "docs/faces/tutorial.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PEOPLE, PICTURES = 18, 5


def test_every_code_block_runs(
    faces_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comment behind `print(...)` is what it prints; Ada is forgotten in the end."""
    monkeypatch.chdir(tmp_path)
    for number in range(1, PEOPLE + 1):
        folder = tmp_path / f"faces/s{number:02d}"
        folder.mkdir(parents=True)
        for picture in sorted((faces_data / "orl" / folder.name).iterdir())[:PICTURES]:
            (folder / picture.name).symlink_to(picture)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text())
    assert {language for language, _ in blocks} == {"python", "sh"}
    for language, code in blocks:
        capsys.readouterr()
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            printed = capsys.readouterr().out.splitlines()
            for promised in re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE):
                assert promised in printed
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "tenfold"
            assert main(arguments) == 0, line
        shown = capsys.readouterr().out
        assert ("Warning" in shown) == ("evaluate" in code)
        if "forget" in code:
            assert "Ada: 2 templates removed" in shown and not re.search("forgotten.*Ada", shown)
