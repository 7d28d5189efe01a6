"""What a run says of itself: log.jsonl, TensorBoard, a progress bar."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

__all__ = ["Journal", "Window", "progress_bar"]

Line = dict[str, Any]


class Window:
    """The means of loss and measures since the last line of the log."""

    def __init__(self, sums: Mapping[str, float] | None = None, steps: int = 0, seconds: float = 0.0) -> None:
        self.sums, self.steps, self.seconds = dict(sums or {}), steps, seconds

    def add(self, values: Mapping[str, float], seconds: float) -> None:
        """Count one step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """The mean of each value."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def as_json(self) -> dict[str, Any]:
        """What makes this window again."""
        return {"sums": self.sums, "steps": self.steps, "seconds": self.seconds}


class Journal:
    """The lines of a run, at most one per step, in memory and in `log.jsonl` and `tensorboard/` of its folder."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """Go on behind `step`: what is noted of later steps is dropped.

        Raises InputError where the log is damaged before.
        """
        self.lines: list[Line] = []
        self._path = folder / "log.jsonl" if folder else None
        if self._path:  # the first thing in a folder: by its log a run is known
            self.lines = [line for line in _read_lines(self._path) if line["step"] <= step]
            with replace_file(self._path) as partial:
                partial.write_text("".join(map(_dump, self.lines)))
        self._board = _open_board(folder / "tensorboard", step) if folder else None

    def has(self, step: int) -> bool:
        """Whether there is a line of this step."""
        return bool(self.lines) and self.lines[-1]["step"] == step

    def write(self, line: Line) -> None:
        """Add a line, whose step is higher than all before."""
        self.lines.append(json.loads(_dump(line)))
        if self._path:
            with self._path.open("a") as file:
                file.write(_dump(line))
        if self._board:
            for name, value in _tags(self.lines[-1]):
                self._board.add_scalar(name, value, line["step"])

    def sync(self) -> None:
        """Have all lines on the disk, so that no checkpoint knows of more steps than the log."""
        if self._path:
            with self._path.open("a") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Finish TensorBoard's file; on a full disk it ends early, and `log.jsonl` says so."""
        if self._board:
            with suppress(OSError):
                self._board.close()


def _dump(line: Line) -> str:
    return json.dumps(_finite(line)) + "\n"


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tags(line: Line) -> Iterator[tuple[str, float]]:
    training = {name: value for name, value in line.items() if name not in ("step", "evaluation")}
    for group, values in (("train", training), ("evaluation", line.get("evaluation", {}))):
        yield from ((f"{group}/{name}", value) for name, value in values.items() if value is not None)


def _read_lines(path: Path) -> list[Line]:
    lines: list[Line] = []
    texts = path.read_text().split("\n") if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            if text:
                lines.append({"step": int(json.loads(text)["step"])} | json.loads(text))
        except (ValueError, TypeError, KeyError):
            if number == len(texts):  # a kill came while it was written
                break
            raise InputError(f"{path}: line {number} is damaged; mend or remove it") from None
    return lines


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class Progress(Protocol):
    """Called once a step with what the bar shows."""

    def __call__(self, step: int, loss: float, rate: float, samples_per_second: float) -> None:
        """`step` steps are done."""


@contextmanager
def progress_bar(steps: int, start: int, shown: bool) -> Iterator[Progress]:
    """A bar on stderr with loss, learning rate, speed and the time left; nothing where stderr is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - only the process that shows it needs it
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bars(*columns, console=console, disable=not (shown and console.is_terminal)) as bars:
        task = bars.add_task("", total=steps, completed=start)

        def show(step: int, loss: float, rate: float, samples_per_second: float) -> None:
            said = f"loss {loss:.4f}  rate {rate:.2e}  {samples_per_second:,.0f} samples/s"
            bars.update(task, completed=step, description=said)

        yield show
