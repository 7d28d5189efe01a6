"""SIGINT and SIGTERM: noted while a step is under way, obeyed behind it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["noted_signals", "outlive_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The signals that came during the block; a second SIGINT raises KeyboardInterrupt.

    Only the main thread can have it so; in another the list stays empty and signals do what they did before.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and noted:
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
