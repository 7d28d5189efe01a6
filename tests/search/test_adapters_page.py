"""The page on adapters: its code runs as it stands, and every adapter is described on it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from tenfold.search.calibration import Calibration, Tuning

PAGE = (Path(__file__).parents[2] / "docs/search/adapters.md").read_text()
ADAPTERS = {
    "neighbors": ["TenfoldTransformer"],
    "faiss_like": ["IndexTenfold"],
    "langchain": ["TenfoldVectorStore"],
    "arrow": ["from_arrow", "to_arrow"],
    "ann_benchmarks": ["Tenfold"],
    "big_ann": ["Tenfold", "TenfoldStreaming"],
}


def test_every_code_block_runs_and_prints_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    settings = Calibration({10: [(0.99, Tuning(30, 600, -0.3))]}, {10: [(0.99, Tuning(30, 600, -0.3))]})
    monkeypatch.setattr("tenfold.search.index.calibrate", lambda *arguments: settings)  # measuring takes longer
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "adapters.md", "exec"), names)
        promised = re.findall(r"^print\(.*\) +# (.*)$", code, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == promised
    assert len(blocks) >= 6


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in ADAPTERS for name in ADAPTERS[module]])
def test_an_adapter_is_in_the_reference_and_has_docstrings(module: str, name: str) -> None:
    assert f"::: tenfold.search.adapters.{module}.{name}\n" in PAGE
    adapter = getattr(importlib.import_module(f"tenfold.search.adapters.{module}"), name)
    assert inspect.getdoc(adapter)
    for member, attribute in vars(adapter).items() if inspect.isclass(adapter) else ():
        if not member.startswith("_") and (inspect.isroutine(attribute) or isinstance(attribute, property)):
            assert inspect.getdoc(attribute), f"{name}.{member} has no docstring"
