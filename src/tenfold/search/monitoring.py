"""What a server tells about itself: a line per request on its log, and numbers for Prometheus."""

import json
import logging
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Monitor", "Requests", "exposition"]

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_LOG = logging.getLogger("tenfold.access")

Samples = Iterable[tuple[Mapping[str, str], float]]


class Requests:
    """Counts and times requests; for one thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that is finished."""
        self._counts[method, route, status] += 1
        times = self._times.setdefault(route, [0] * (len(_BOUNDS) + 1))
        times[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds[route] += seconds

    def exposition(self) -> str:
        """In Prometheus' text format."""
        counts = [
            ({"method": method, "route": route, "status": str(status)}, count)
            for (method, route, status), count in sorted(self._counts.items())
        ]
        return exposition("tenfold_http_requests_total", "counter", "Requests answered.", counts) + self._histogram()

    def _histogram(self) -> str:
        name = "tenfold_http_request_seconds"
        lines = [f"# HELP {name} From the request's head to the end of the answer.\n# TYPE {name} histogram\n"]
        for route, times in sorted(self._times.items()):
            for bound, count in zip((*map(str, _BOUNDS), "+Inf"), accumulate(times), strict=True):
                lines.append(_sample(f"{name}_bucket", {"route": route, "le": bound}, count))
            lines.append(_sample(f"{name}_sum", {"route": route}, self._seconds[route]))
            lines.append(_sample(f"{name}_count", {"route": route}, sum(times)))
        return "".join(lines)


def exposition(name: str, kind: str, text: str, samples: Samples) -> str:
    """A metric in Prometheus' text format: what it counts, and a line per set of labels."""
    head = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    return head + "".join(_sample(name, labels, value) for labels, value in samples)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Monitor:
    """ASGI middleware that counts every request and writes it to the log `tenfold.access`."""

    def __init__(self, app: ASGIApp, requests: Requests, log_json: bool = False) -> None:
        self._app, self._requests, self._log_json = app, requests, log_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")  # as declared, so that there are few of them
            self._requests.observe(scope["method"], route, status, seconds)
            self._log(scope, status, seconds)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": (scope.get("client") or ("-",))[0],
            "method": scope["method"],
            "path": scope.get("raw_path", b"").decode("latin-1"),  # percent-encoded still: no line breaks in it
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        _LOG.info(json.dumps(facts) if self._log_json else " ".join(map(str, facts.values())))
