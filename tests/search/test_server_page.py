"""The examples of docs/search/server.md, run from top to bottom against a server of the index that it begins with."""

import re
import shlex
from pathlib import Path

import pytest
from running import ask, serving

from tenfold.search import LivingIndex
from tenfold.search.serving import serve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/search/server.md").read_text()
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def curl(command: str, url: str) -> str:
    """What `curl ADDRESS [-H HEADER] [-d BODY]` prints."""
    words = shlex.split(command.replace("\\\n", " "))
    headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
    body = words[words.index("-d") + 1].encode() if "-d" in words else None
    assert words[0] == "curl"
    status, answer, _ = ask(url, "POST" if body else "GET", words[1].removeprefix(url), body, headers)
    assert status == 200, answer
    return answer.decode()


def test_every_example_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A comment behind `print(...)  #` is what it prints; so is what the page says of the last curl."""
    [dim] = re.findall(r"^    tenfold search create my_vectors (\d+)$", PAGE, re.MULTILINE)
    names: dict[str, object] = {}
    LivingIndex.create(tmp_path / "my_vectors", int(dim)).close()
    with serving(tmp_path / "my_vectors") as command:
        for language, code in BLOCK.findall(PAGE.replace("http://127.0.0.1:8080", command.url)):
            if language == "sh":
                answers = [curl(line, command.url) for line in code.strip().split("\n\n")]
                assert f"`{answers[-1]}`" in PAGE
                continue
            exec(compile(code, "server.md", "exec"), names)
            printed = capsys.readouterr().out
            for promised in re.findall(r"^ *print\(.*\)  # (\[.*)$", code, re.MULTILINE):
                assert promised in printed


def test_limits_and_metrics_are_described() -> None:
    """Options with their defaults, and every metric."""
    for option in ("--max-body", "--max-k", "--max-batch"):
        default = serve.__defaults__[serve.__code__.co_varnames.index(option[2:].replace("-", "_")) - 1]  # type: ignore[index]
        shown = f"{default:,}" if isinstance(default, int) else default
        assert re.search(rf"^\| `{option}` \| {shown} \|", PAGE, re.MULTILINE), option
    sources = "".join((ROOT / "src/tenfold/search" / name).read_text() for name in ("server.py", "monitoring.py"))
    metrics = set(re.findall(r'"((?:tenfold|process)_[a-z_]+)"', sources))
    assert len(metrics) >= 6
    for name in metrics:
        assert f"| `{name}` |" in PAGE, name
