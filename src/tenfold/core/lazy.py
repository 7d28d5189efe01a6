"""A package whose names come from its files when they are first asked for: to list verbs, nobody waits for torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, homes: Mapping[str, str], names: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: Its `__name__`.
        homes: The file of each public name, within the package.
        names: Its `globals()`, which keep what was asked for.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = names[name] = getattr(import_module(f"{package}.{homes[name]}"), name)
        return value

    def list_names() -> list[str]:
        return sorted({*names, *homes})

    return find, list_names
