"""Nothing public goes undocumented: names need a docstring and a place in docs/, verbs and options a section."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tenfold.core
from tenfold.cli import OWN_COMMANDS
from tenfold.core.systems import SYSTEMS

ROOT = Path(__file__).parents[1]
PAGES = {page: page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}
ROOMS = [room.name for room in SYSTEMS if room.state == "works"]
CORE = [f"tenfold.core.{module.name}" for module in pkgutil.iter_modules(tenfold.core.__path__)]
MODULES = [*CORE, "tenfold.info", *(f"tenfold.{room}" for room in ROOMS)]


def public_names() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        for name in importlib.import_module(module).__all__:
            yield module, name


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    for verb, function in OWN_COMMANDS.items():
        yield f"tenfold {verb}", function
    for room in ROOMS:
        for verb, function in importlib.import_module(f"tenfold.{room}.commands").COMMANDS.items():
            yield f"tenfold {room} {verb}", function


@pytest.mark.parametrize(("module", "name"), list(public_names()))
def test_a_public_name_is_in_the_reference(module: str, name: str) -> None:
    entry = re.compile(rf"^::: {re.escape(module)}\.{re.escape(name)}$", re.MULTILINE)
    assert any(entry.search(text) for text in PAGES.values()), f"no page in docs/ has `::: {module}.{name}`"


@pytest.mark.parametrize(("module", "name"), list(public_names()))
def test_a_public_name_has_a_docstring(module: str, name: str) -> None:
    value = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return  # a constant: its docstring is a string below it, which only the documentation tool reads
    assert inspect.getdoc(value), f"{module}.{name} has no docstring"
    for member, attribute in vars(value).items() if inspect.isclass(value) else ():
        if not member.startswith("_") and (inspect.isroutine(attribute) or isinstance(attribute, property)):
            assert inspect.getdoc(attribute), f"{module}.{name}.{member} has no docstring"


@pytest.mark.parametrize(("command", "function"), list(commands()))
def test_a_verb_and_its_options_are_on_the_command_line_page(command: str, function: Callable[..., None]) -> None:
    page = PAGES[ROOT / "docs/command-line.md"]
    section = re.search(rf"^### `{command}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/command-line.md has no section ### `{command}`"
    for parameter in inspect.signature(function).parameters.values():
        option, argument = f"--{parameter.name.replace('_', '-')}", parameter.name.upper()
        wanted = argument if parameter.default is parameter.empty else f"{option}|{argument}"
        assert re.search(rf"(?<![\w-])({wanted})(?![\w-])", section[1]), f"{command}: {wanted} is not described"


@pytest.mark.parametrize(("command", "function"), list(commands()))
def test_a_verb_explains_itself_and_each_option(command: str, function: Callable[..., None]) -> None:
    text = inspect.getdoc(function) or ""
    assert re.search(rf"^Example: {command}\b", text, re.MULTILINE), f"{command}: no `Example:` line in its docstring"
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^    {name}: \S", text, re.MULTILINE), f"{command}: {name} is not in its docstring"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_table_of_rooms_tells_their_state(page: str) -> None:
    text = (ROOT / page).read_text()
    for room in SYSTEMS:
        [row] = re.findall(rf"^\| `(?:tenfold\.)?{room.name}` \|.*$", text, re.MULTILINE)
        assert re.search(rf"\b{room.state}\b", row), f"{page}: {row}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {page.relative_to(ROOT / 'docs')}" in navigation
