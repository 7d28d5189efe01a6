"""A process that is killed while it changes an index."""

import os
import signal
import time
from collections.abc import Callable


def killed_after(steps: int, seconds: float, first: int, work: Callable[[Callable[[int], object]], None]) -> int:
    """Run `work` in a child, kill it so long after so many steps, and return the first that was not acknowledged.

    `work` calls what it is given with the number of every step that is done; `first` is that of its first.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(600)  # so that nobody waits for a step for ever
        try:
            work(lambda step: os.write(writing, f"{step}\n".encode()))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as said:
        done = [int(said.readline()) for _ in range(steps)]
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        done += [int(line) for line in said]
    return done[-1] + 1 if done else first
