"""What long work says while it runs."""

from collections.abc import Callable

__all__ = ["Progress", "no_progress"]

Progress = Callable[[str, int, int], None]
"""Called with the name of the phase, how many of its units are done, and how many there are."""


def no_progress(phase: str, done: int, total: int) -> None:
    """Say nothing."""
