"""The package's names: each comes from its file when it is first asked for, and nothing heavy before."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from tenfold import faces


@pytest.mark.parametrize("name", faces.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(faces, name) is getattr(import_module(f"tenfold.faces.{faces._HOMES[name]}"), name)
    assert name in dir(faces)


def test_the_lists_of_names_agree() -> None:
    """What type checkers and the documentation read, what `import *` takes, and what is found at run time."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(faces))) if isinstance(node, ast.ImportFrom)]
    seen = {one.name: node.module for node in imports for one in node.names}
    room = "tenfold.faces."
    public = {name: module.removeprefix(room) for name, module in seen.items() if module.startswith(room)}
    assert public == faces._HOMES
    assert sorted(faces.__all__) == sorted(faces._HOMES)


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match=r"module 'tenfold\.faces' has no attribute 'Galery'"):
        faces.Galery  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Galery'"):
        exec("from tenfold.faces import Galery")


def test_nothing_heavy_comes_with_the_package() -> None:
    code = "import sys, tenfold.faces; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tenfold.faces" in loaded
    assert not {"numpy", "torch", "cv2", "onnxruntime", "cryptography"} & set(loaded)
