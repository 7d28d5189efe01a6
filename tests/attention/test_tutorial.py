"""The code blocks of the tutorial, run as they stand, from top to bottom, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from tenfold.cli import main

PAGE = Path(__file__).parents[2] / "docs/attention/tutorial.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("one_thread")
def test_every_code_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comment behind `print(...)` is what it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(PAGE.read_text())
    assert {language for language, _ in blocks} == {"python", "sh"}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            printed = capsys.readouterr().out.splitlines()
            for promised in re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE):
                assert promised in printed
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "tenfold"
            capsys.readouterr()
            assert main(arguments) == 0, line
            if arguments[1] == "generate":
                assert capsys.readouterr().out.startswith("def read(")
