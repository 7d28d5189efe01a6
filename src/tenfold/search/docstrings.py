"""The documentation strings of a Python installation, read from its source files; nothing is imported."""

import ast
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Docstring", "collect_docstrings", "find_sources"]

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})
_MOST_BYTES = 2 << 20  # a longer source file is a table that a program wrote
_FEWEST_LETTERS = 20


@dataclass(frozen=True)
class Docstring:
    """The documentation of one module, class or function.

    Attributes:
        name: Where it is defined: `json.decoder.JSONDecoder.decode`.
        text: All of it, without indentation.
        context: The first lines of what it is defined in: its class and its module.
    """

    name: str
    text: str
    context: str

    @property
    def first_line(self) -> str:
        """The summary: the first line that says something."""
        return first_line(self.text)

    @property
    def is_private(self) -> bool:
        """Whether its own name begins with an underscore (and is not `__init__` or the like)."""
        own = self.name.rpartition(".")[2]
        return own.startswith("_") and not own.endswith("__")


def first_line(text: str) -> str:
    """Return the first line of `text` with letters in it, without its underlining or quotes."""
    return next((line.strip() for line in text.splitlines() if re.search("[A-Za-z]{2}", line)), "")


def find_sources(roots: Sequence[Path] = ()) -> list[tuple[str, Path]]:
    """Return the name and path of every module below `roots`, by default of this Python installation.

    The standard library comes first, then installed packages by name, copies that packages carry
    (`pip._vendor.rich`) last; tests are left out.
    """
    paths = sysconfig.get_paths()
    places = dict.fromkeys(roots or [Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")])
    found: dict[Path, tuple[bool, int, str]] = {}
    for order, root in enumerate(places):
        for path in _python_files(root):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            found.setdefault(path, ("_vendor" in parts, order, name))
    return [(found[path][2], path) for path in sorted(found, key=lambda path: (found[path], path))]


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def collect_docstrings(sources: Iterable[tuple[str, Path]], most: int) -> list[Docstring]:
    """Read the first `most` docstrings of the sources; of equal ones the first, very short ones not at all.

    Files that cannot be read or are not valid Python are passed over.
    """
    found: dict[str, Docstring] = {}
    for module, path in sources:
        for docstring in _read(module, path):
            key = " ".join(docstring.text.split())
            if sum(map(str.isalpha, key)) >= _FEWEST_LETTERS:
                found.setdefault(key, docstring)
        if len(found) >= most:
            break
    return list(found.values())[:most]


def _read(module: str, path: Path) -> list[Docstring]:
    try:
        code = path.read_bytes()
        if len(code) > _MOST_BYTES or (b'"""' not in code and b"'''" not in code):
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the files, such as odd escapes in their strings
            return list(_walk(ast.parse(code), module, ""))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _walk(node: Definition, name: str, context: str) -> Iterator[Docstring]:
    """Yield the docstring of a definition and of those inside it."""
    text = ast.get_docstring(node)
    if text:
        yield Docstring(name, text, context)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            context = f"{context}\n{first_line(text)}"
    for inner in _definitions(node.body):
        yield from _walk(inner, f"{name}.{inner.name}", context)


def _definitions(body: Sequence[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield what the statements define, also under `if` and `try`."""
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If):
            yield from _definitions([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            handled = [inner for handler in statement.handlers for inner in handler.body]
            yield from _definitions([*statement.body, *handled, *statement.orelse])
