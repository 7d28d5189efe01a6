"""Servers for tests: the application in a thread, or the installed command in a process of its own."""

import http.client
import re
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from tenfold.search.server import create_app
from tenfold.search.serving import bind

TENFOLD = Path(sysconfig.get_path("scripts"), "tenfold")


@contextmanager
def running(indexes: Mapping[str, Any], **options: Any) -> Iterator[str]:
    """The application in a thread; its URL."""
    listener = bind("127.0.0.1", 0, has_token=False)
    listener.listen()
    app = create_app(indexes, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


class Command:
    """`tenfold search serve` under way.

    Attributes:
        url: Where it listens.
        process: Its process.
        lines: What it has said on stderr so far; whole once it has ended.
    """

    def __init__(self, *arguments: object) -> None:
        command = [TENFOLD, "search", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.lines = [self.process.stderr.readline()]
        self._reader = threading.Thread(target=self.lines.extend, args=[self.process.stderr])
        self._reader.start()
        found = re.search(r" at (http://\S+)$", self.lines[0])
        if not found:
            self.stop()
        assert found, "".join(self.lines)
        self.url = found[1]

    def stop(self) -> int:
        """Ask it to end, if it has not yet; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@contextmanager
def serving(*arguments: object) -> Iterator[Command]:
    """`tenfold search serve` on a free port, ended afterwards."""
    command = Command(*arguments)
    try:
        yield command
    finally:
        command.stop()


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()
