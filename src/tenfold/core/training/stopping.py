"""SIGINT and SIGTERM: noted while a step is under way, obeyed behind it."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["noted_signals", "outlive_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_KEYSTROKE = 1.0  # seconds: torchrun passes on a Ctrl-C that its processes also get from the terminal


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The signals that came during the block; a SIGINT a second later or more raises KeyboardInterrupt.

    Only the main thread can have it so; in another the list stays empty and signals do what they did before.
    """
    noted: list[int] = []
    first = math.inf

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        first = min(first, time.monotonic())
        if number == signal.SIGINT and time.monotonic() > first + _ONE_KEYSTROKE:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive_signals(worker: int) -> None:
    """Let a worker outlive what a terminal or a scheduler sends to a whole group: SIGINT, and the first SIGTERM.

    The process that reads its batches decides when to stop, and ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
