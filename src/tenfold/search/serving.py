"""The verb `serve`: open indexes, listen, stop without losing what was acknowledged."""

import importlib
import ipaddress
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from tenfold.core.errors import InputError
from tenfold.search.exact import check_count
from tenfold.search.index import Index, IoBackend
from tenfold.search.living import LivingIndex
from tenfold.search.log import Durability
from tenfold.search.memory import parse_size
from tenfold.search.sharding import ShardedIndex
from tenfold.search.shards import is_sharded
from tenfold.search.snapshot import is_living

__all__ = ["bind", "serve"]

_BACKLOG = 2048  # connections that wait to be accepted
_KEEP_ALIVE = 75  # seconds that a connection may be idle
_TURN = 0.0005  # seconds that a thread with a finished search waits for the event loop's turn to end
_GRACE = 20  # seconds for requests under way, once the server stops
_REFRESH = 0.2  # seconds between looks at what the writer of a read-only index has done
_LEAST_BODY, _MOST_BODY = 1 << 10, 16 << 30
_MOST_COUNT = 1 << 24
_LEAST_RESULTS = 1_000_000  # of a request: queries times k
_TOKEN = re.compile(r"[!-~]{16,}")

AnyIndex = Index | LivingIndex | ShardedIndex
Size = Annotated[str, tyro.conf.arg(metavar="SIZE")]


def serve(
    index: list[Path],
    host: str = "127.0.0.1",
    port: int = 8080,
    token_file: Path | None = None,
    read_only: bool = False,
    durability: Durability = "always",
    io: IoBackend = "auto",
    cache: Size = "0",
    max_body: Size = "64MB",
    max_k: int = 10_000,
    max_batch: int = 10_000,
    drain: float = 0.0,
    log_json: bool = False,
    ray: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "",
    replicas: int = 1,
) -> None:
    """Serve indexes over HTTP: search, add, update, delete; a page to try them at /.

    An index that was built takes updates from then on, unless it is served read-only. Stops at Ctrl-C or SIGTERM, when
    all requests under way are answered.

    Example: tenfold search serve my_vectors --port 8080

    Args:
        index: Index folders; each is served under the name of its folder.
        host: Address to listen on; beyond this machine only with a token.
        port: Port to listen on; 0 takes a free one.
        token_file: File with the bearer token that clients must send.
        read_only: Take no updates, leave the folders as they are, and follow what another process writes there.
        durability: When changes are on the disk: always, before they are acknowledged; batch; none.
        io: How pages are read from disk; memory reads all of them once, when the index is opened.
        cache: Memory for pages read lately, for each thread.
        max_body: Largest body of a request.
        max_k: Most results per query.
        max_batch: Most queries, vectors or ids of a request.
        drain: Seconds to go on after SIGTERM, while /ready says no, so that load balancers look elsewhere first.
        log_json: Write the access log as JSON lines.
        ray: Ray cluster whose workers hold the shards of indexes in shards: HOST:PORT, auto (that of this machine), or
            local (one that is started here). Without it, the server holds them itself.
        replicas: Workers that hold each shard, with --ray.
    """
    server, uvicorn = _need("tenfold.search.server"), _need("uvicorn")
    token = None if token_file is None else _read_token(token_file)
    for name, count in (("max-k", max_k), ("max-batch", max_batch)):
        check_count(name, count, _MOST_COUNT)
    limits = server.Limits(
        body_bytes=_body_bytes(max_body), k=max_k, batch=max_batch, results=max(_LEAST_RESULTS, max_k)
    )
    with ExitStack() as stack:
        listener = stack.enter_context(bind(host, port, token is not None))
        how = partial(
            _open, read_only=read_only, durability=durability, io=io, cache=cache, ray=ray or None, replicas=replicas
        )
        opened = _open_all(index, how, stack)
        app = server.create_app(opened, token=token, limits=limits, log_json=log_json)
        _start_log()
        listener.listen(_BACKLOG)
        held = ", ".join(f"{name} ({one.rows:,} rows)" for name, one in opened.items())
        print(f"tenfold: serving {held} at {_url(listener)}", file=sys.stderr, flush=True)
        _run(uvicorn, app, listener, drain)
    print("tenfold: stopped; all changes are on the disk", file=sys.stderr)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}; pip install 'tenfold[serve]'") from None


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"{path}: holds no token of at least 16 printable ASCII characters without blanks; "
            "make one by python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE"
        )
    return token


def _body_bytes(size: str) -> int:
    count = parse_size(size)
    if not _LEAST_BODY <= count <= _MOST_BODY:
        raise InputError(f"max-body is {size}; it is 1KB to 16GB")
    return count


def bind(host: str, port: int, has_token: bool) -> socket.socket:
    """A socket that does not listen yet, on port 0 a free one; InputError where it needs a token, or cannot be had."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"port is {port}; it is a number from 0 to 65,535")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"host {host!r}: {getattr(error, 'strerror', error)}; give an address of this machine"
        ) from None
    if not has_token and not all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found):
        raise InputError(f"host {host!r} can be reached from other machines; give a --token-file, or --host 127.0.0.1")
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)  # asyncio sends small answers at once only where TCP is named
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InputError(f"host {host!r}, port {port}: {error.strerror}; choose another") from None
    return listener


def _open_all(paths: Sequence[Path], how: Callable[[Path], AnyIndex], stack: ExitStack) -> dict[str, AnyIndex]:
    """The indexes by the names of their folders; the stack closes them."""
    opened: dict[str, AnyIndex] = {}
    for path in paths:
        name = path.resolve().name
        if name in opened:
            raise InputError(f"{path}: another index is called {name}, too; rename a folder")
        one = opened[name] = how(path)
        if not isinstance(one, Index):
            stack.enter_context(one)
            if isinstance(one, LivingIndex) and one.read_only:
                stack.enter_context(_followed(one))
    if not opened:
        raise InputError("there is nothing to serve: name an index folder")
    return opened


def _open(
    path: Path,
    *,
    read_only: bool,
    durability: Durability,
    io: IoBackend,
    cache: str,
    ray: str | None,
    replicas: int,
) -> AnyIndex:
    if is_sharded(path):
        return ShardedIndex.open(path, ray=ray, replicas=replicas, io=io, cache=cache)
    if read_only and not is_living(path):
        return Index.open(path, io=io, cache=cache)
    return LivingIndex.open(path, read_only=read_only, durability=durability, io=io, cache=cache)


@contextmanager
def _followed(index: LivingIndex) -> Iterator[None]:
    """Have an index that is open for reading see what its writer does, in a thread, so that no search waits for it."""
    stopping = threading.Event()

    def follow() -> None:
        trouble = ""
        while not stopping.wait(_REFRESH):
            try:
                index.refresh()
                said = ""
            except InputError as error:
                said = str(error)
            if said != trouble:
                print(f"tenfold: {said or f'{index.path}: can be read again'}", file=sys.stderr, flush=True)
            trouble = said

    thread = threading.Thread(target=follow, name="tenfold-follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _start_log() -> None:
    log, handler = logging.getLogger("tenfold.access"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _run(uvicorn: Any, app: Any, listener: socket.socket, drain: float) -> None:
    """Answer requests until a signal comes and `drain` seconds have passed, or a second one; then those under way."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # there is one of our own
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    stop = server.handle_exit

    def begin_to_stop(number: int, frame: FrameType | None) -> None:
        if app.state.is_stopping or drain <= 0:
            stop(number, frame)
        else:
            timer = threading.Timer(drain, stop, [number, frame])
            timer.daemon = True
            timer.start()
        app.state.is_stopping = True

    server.handle_exit = begin_to_stop
    # Once it has stopped, uvicorn raises the signal again for whoever handled it before: nobody, so that we go on.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    turn = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        server.run(sockets=[listener])
    finally:
        sys.setswitchinterval(turn)
        for number, handler in before.items():
            signal.signal(number, handler)
