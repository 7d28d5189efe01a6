"""What long work says while it runs, and who shows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "no_progress", "progress_bar"]


class Progress(Protocol):
    """Called with the name of the phase and how much of it is done."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` units of this phase are finished."""


def no_progress(phase: str, done: int, total: int) -> None:
    """Say nothing."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar per phase with the time left, on stderr; nothing where stderr is not a terminal."""
    from rich.console import Console  # noqa: PLC0415 - costs 10 MB that a library user need not pay
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield show
