"""The package's names: each comes from its file when it is first asked for, and nothing heavy before."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from tenfold import anatomy


@pytest.mark.parametrize("name", anatomy.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(anatomy, name) is getattr(import_module(f"tenfold.anatomy.{anatomy._HOMES[name]}"), name)
    assert name in dir(anatomy)


def test_the_lists_of_names_agree() -> None:
    """What type checkers and the documentation read, what `import *` takes, and what is found at run time."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(anatomy))) if isinstance(node, ast.ImportFrom)]
    seen = {one.name: node.module for node in imports for one in node.names}
    public = {
        name: module.removeprefix("tenfold.anatomy.") for name, module in seen.items() if "tenfold.anatomy" in module
    }
    assert public == anatomy._HOMES
    assert sorted(anatomy.__all__) == sorted(anatomy._HOMES)


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match=r"module 'tenfold\.anatomy' has no attribute 'Plausability'"):
        anatomy.Plausability  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Plausability'"):
        exec("from tenfold.anatomy import Plausability")


def test_nothing_heavy_comes_with_the_package() -> None:
    code = "import sys, tenfold.anatomy; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tenfold.anatomy" in loaded
    assert not {"numpy", "torch", "SimpleITK", "nibabel", "scipy", "pandas"} & set(loaded)
