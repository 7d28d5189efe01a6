"""docs/training.md does what it says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs/training.md"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_script_of_the_page_trains_and_its_model_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script, storing = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(script, names)
    found = re.fullmatch(r"error (0\.\d+) after 300 steps\n", capsys.readouterr().out)
    assert found
    assert float(found[1]) < 0.1
    exec(storing, names)
    model, copy = names["model"], names["copy"]
    assert isinstance(model, torch.nn.Module)
    assert isinstance(copy, torch.nn.Module)
    assert all(torch.equal(copy.state_dict()[name], value) for name, value in model.state_dict().items())


def test_the_page_names_what_a_run_leaves_and_what_a_line_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert script
    exec(script[1].replace("steps=300", "steps=100"), {})
    tree = re.search(r"^    run/\n((?:      .*\n)+)", PAGE.read_text(), re.MULTILINE)
    assert tree
    assert {line.split()[0].rstrip("/") for line in tree[1].splitlines()} == {p.name for p in Path("run").iterdir()}
    line = re.search(r'^    (\{"step".*?\}\})$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert line
    assert json.loads(line[1]).keys() == json.loads(Path("run/log.jsonl").read_text().splitlines()[-1]).keys()
