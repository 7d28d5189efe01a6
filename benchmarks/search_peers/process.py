"""The harness's side of a worker: starts it, sends orders, waits for answers."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search_peers.environments import interpreter
from search_peers.peer import Peer

PAUSE_SECONDS = 0.3  # a library's waiting threads may spin for 0.2 s after its answer


class PeerError(RuntimeError):
    """A library could not be installed, imported, built or searched; the message says why."""


class Process:
    """A running worker for one peer; a context manager that ends it."""

    def __init__(self, peer: Peer, work: Path) -> None:
        self.peer = peer
        self._ids = work / f"ids-{peer.name}.npy"
        self._log_path = work / f"{peer.name}.log"
        try:
            python = interpreter(peer.requirements, work)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            raise PeerError(f"{peer.name}: {error}") from None
        self._log = self._log_path.open("w")
        self._process = subprocess.Popen(
            [python, "-m", "search_peers.worker", peer.adapter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(peer.threads),
            cwd=work,
        )
        try:
            self.versions = self.order("hello", distribution=peer.distribution)
        except PeerError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker by closing its stdin; kill it if it does not go."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # an order that a dead worker did not take is flushed once more
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have one order carried out and return the answer.

        Raises:
            PeerError: The worker ended, or answered with an error.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise PeerError(f"{self.peer.name}: {answer['error']}")
        return dict(answer)

    def batch(self, setting: dict[str, Any], queries: int) -> tuple[dict[str, Any], NDArray[np.generic]]:
        """Run one batch and return what it cost and the ids found."""
        time.sleep(PAUSE_SECONDS)
        answer = self.order(
            "batch", setting=setting, queries=queries, threads=self.peer.threads, ids=str(self._ids.absolute())
        )
        return answer, np.load(self._ids)

    def single(self, setting: dict[str, Any], queries: int) -> dict[str, Any]:
        """Run queries one at a time and return what they cost."""
        time.sleep(PAUSE_SECONDS)
        return self.order("single", setting=setting, queries=queries)

    def _last_words(self) -> str:
        status = self._process.wait()
        lines = [line for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"{ended}; {self._log_path.name} says {lines[-1] if lines else 'nothing'!r}"


def _environment(threads: int) -> dict[str, str]:
    ours = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    caps = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [ours, inherited])),
        **dict.fromkeys(caps, str(threads)),
    }
