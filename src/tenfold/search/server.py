"""The HTTP interface of `tenfold search serve`: a route per method of an index, under `/v1/indexes/{name}/`.

    body --- JSON or .npy (messages.py) ---> fields ---> search: gathered into batches (batching.py) ---> a thread
                                                    +--> add, update, delete: one after the other ------> a thread

Whatever is wrong with a request is answered with one sentence, `{"detail": ...}`.
"""

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tenfold import __version__
from tenfold.core.errors import InputError
from tenfold.search.batching import Batcher
from tenfold.search.bodies import NPY, pack
from tenfold.search.columns import Values
from tenfold.search.exact import check_queries
from tenfold.search.filters import parse_filter
from tenfold.search.index import Index
from tenfold.search.living import LivingIndex
from tenfold.search.memory import resident_bytes
from tenfold.search.messages import (
    ADD,
    BY_IDS,
    SEARCH,
    UPDATE,
    Attributes,
    Deleted,
    Form,
    Health,
    Ids,
    IndexList,
    Limits,
    Neighbours,
    Problem,
    Updated,
    Vectors,
)
from tenfold.search.monitoring import Monitor, Requests, exposition
from tenfold.search.sharding import ShardedIndex

__all__ = ["create_app"]

AnyIndex = Index | LivingIndex | ShardedIndex
T = TypeVar("T")
Responses = dict[int | str, dict[str, Any]]

_SMALL = 64 << 10  # bytes that are worked on at once, and not in a thread
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(
    indexes: Mapping[str, AnyIndex],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    log_json: bool = False,
) -> FastAPI:
    """The server as an ASGI application, for uvicorn and others.

    Args:
        indexes: Open indexes by the name they have in the routes; whoever opened them closes them afterwards.
        token: What clients must send as bearer token. Without one, only requests to names of this machine are
            answered, so that no web page can reach the server through a name of its own.
        limits: What one request may ask for.
        log_json: Write the access log, `logging.getLogger("tenfold.access")`, as JSON lines.
    """
    served = {name: Served(name, index) for name, index in indexes.items()}
    requests, guard = Requests(), [Depends(_guard(token))]
    # FastAPI's own pages load other people's scripts; page.html shows the routes.
    app = FastAPI(title="Tenfold", version=__version__, docs_url=None, redoc_url=None)
    app.state.is_stopping = False
    app.add_middleware(Monitor, requests=requests, log_json=log_json)
    app.include_router(IndexRoutes(served, limits or Limits()).router(), dependencies=guard)
    app.include_router(_service_routes(served, requests, guard))

    @app.exception_handler(InputError)
    async def refuse(_: Request, error: InputError) -> Response:
        sentence = str(error)
        for one in served.values():
            sentence = sentence.replace(str(one.index.path), one.name)  # where it lies is not the client's business
        return JSONResponse({"detail": sentence}, 422)

    @app.exception_handler(ClientDisconnect)
    async def give_up(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        return JSONResponse({"detail": "the server failed at this request; its log says why"}, 500)

    return app


class Served:
    """An index, and what serving it needs.

    Attributes:
        name: In the routes.
        index: Open.
        batcher: Of its searches.
        ids: What its ids are: "int64" or "string".
        columns: Types of its rows' attributes by name.
        read_only: Whether it takes no updates.
        partial_answers: Searches that a shard did not answer.
    """

    def __init__(self, name: str, index: AnyIndex) -> None:
        self.name, self.index = name, index
        self.read_only = not isinstance(index, LivingIndex) or index.read_only
        self.columns, self.ids = (index.columns, index.ids) if isinstance(index, LivingIndex) else ({}, "int64")
        self.batcher = Batcher(self._search)
        self._writing = asyncio.Lock()
        self.partial_answers = 0

    def _search(self, queries: np.ndarray, k: int, recall: float, filter: str) -> tuple[Any, ...]:
        if isinstance(self.index, LivingIndex):
            return self.index.search(queries, k, recall=recall, filter=json.loads(filter))
        return self.index.search(queries, k, recall=recall)

    def check_filter(self, filter: dict[str, Any] | None) -> str:
        """The filter as text, the same for those that are written alike; InputError where it does not fit."""
        if not filter:
            return "null"
        if not self.columns:
            raise InputError(f"{self.name} has no columns that a filter could be about; leave it out")
        return parse_filter(filter, self.columns).text

    def missing_shards(self) -> tuple[str, ...]:
        """Names of the shards that nobody holds open now."""
        return self.index.missing() if isinstance(self.index, ShardedIndex) else ()

    async def change(self, method: str, *arguments: Any) -> Any:
        """Call a method that changes the index; one at a time, so that writers leave threads to searches."""
        if isinstance(self.index, ShardedIndex):
            raise HTTPException(403, f"{self.name} is in shards, and those take no updates")
        if self.read_only:
            raise HTTPException(403, f"{self.name} is served for reading only; start the server without --read-only")
        async with self._writing:
            return await run_in_threadpool(getattr(self.index, method), *arguments)

    def get(self, ids: Any) -> np.ndarray:
        """Vectors (n, dim) by ids (n,); InputError for an id that is not there."""
        return self.index.get(ids)

    def attributes(self, ids: Any) -> Values:
        """Attributes by ids: by column, one value per id."""
        return self.index.attributes(ids) if isinstance(self.index, LivingIndex) else {}

    def summary(self) -> dict[str, Any]:
        """What it holds."""
        index = self.index
        facts = {"rows": index.rows, "dim": index.dim, "dtype": index.dtype.name, "metric": index.metric}
        return {"name": self.name, **facts, "ids": self.ids, "columns": self.columns, "read_only": self.read_only}

    def stats(self) -> dict[str, Any]:
        """What it holds, how large it is, and what is going on."""
        stats = self.index.stats()
        stats.pop("path")
        return self.summary() | stats


class IndexRoutes:
    """The routes under `/v1/indexes`."""

    def __init__(self, served: Mapping[str, Served], limits: Limits) -> None:
        self._served, self._limits = served, limits

    def router(self) -> APIRouter:
        """The routes with their descriptions."""
        routes = APIRouter(prefix="/v1/indexes", tags=["indexes"])
        routes.get("", response_model=IndexList, responses=_refusals(401, 403))(self.list_indexes)
        routes.get("/{name}/stats", response_model=dict[str, Any], responses=_refusals(401, 403, 404))(self.stats)
        for verb, form, answer in (
            (self.search, SEARCH, Neighbours),
            (self.get, BY_IDS, Vectors),
            (self.attributes, BY_IDS, Attributes),
            (self.add, ADD, Ids),
            (self.update, UPDATE, Updated),
            (self.delete, BY_IDS, Deleted),
        ):
            described: dict[str, Any] = _describe(form, with_npy=answer in (Neighbours, Vectors, Ids))
            routes.post(f"/{{name}}/{verb.__name__}", response_model=answer, **described)(verb)
        return routes

    async def list_indexes(self) -> Response:
        """The indexes there are, and what one request may ask for."""
        facts = [one.summary() for one in self._served.values()]
        return _json({"indexes": facts, "limits": self._limits.model_dump()})

    async def stats(self, name: str) -> Response:
        """What an index holds, how large it is, and what is going on."""
        return _json(await run_in_threadpool(self._find(name).stats))

    async def search(self, name: str, request: Request) -> Response:
        """The k nearest rows of each query, about `recall` of them the true ones.

        An npy answer holds distances (queries, k) and ids (queries, k), filled up with inf and -1. Where shards did
        not answer, the header Tenfold-Missing-Shards names them.
        """
        served, body = self._find(name), await self._read_body(request)
        queries, *options = await _work(len(body), self._read_search, served, request, body)
        distances, ids, *missing = await served.batcher.search(queries, *options)
        served.partial_answers += any(missing)
        if _wants_npy(request, ids):
            return Response(pack(distances, ids), media_type=NPY, headers=_missing_header(*missing))
        return await _work(distances.nbytes, _neighbours, distances, ids, *missing)

    async def get(self, name: str, request: Request) -> Response:
        """Vectors by their ids; an id that is not there is refused."""
        served, fields = await self._read(name, request, BY_IDS)
        vectors = await run_in_threadpool(served.get, fields["ids"])
        if _wants_npy(request, vectors):
            return Response(pack(vectors), media_type=NPY)
        return await _work(vectors.nbytes, lambda: _json({"vectors": vectors.tolist()}))

    async def attributes(self, name: str, request: Request) -> Response:
        """Attributes of rows by their ids; an id that is not there is refused."""
        served, fields = await self._read(name, request, BY_IDS)
        return _json({"attributes": await run_in_threadpool(served.attributes, fields["ids"])})

    async def add(self, name: str, request: Request) -> Response:
        """Add rows; ids that are there already are refused. Without ids the server chooses. Answers their ids."""
        served, fields = await self._read(name, request, ADD)
        ids = await served.change("add", fields["vectors"], fields["ids"], fields["attributes"])
        return Response(pack(ids), media_type=NPY) if _wants_npy(request, ids) else _json({"ids": ids.tolist()})

    async def update(self, name: str, request: Request) -> Response:
        """Give rows other vectors; rows whose ids are not there are added. Answers how many were there."""
        served, fields = await self._read(name, request, UPDATE)
        updated = await served.change("update", fields["vectors"], fields["ids"], fields["attributes"])
        return _json({"updated": updated})

    async def delete(self, name: str, request: Request) -> Response:
        """Delete rows by their ids; those that are not there are passed over. Answers how many were there."""
        served, fields = await self._read(name, request, BY_IDS)
        return _json({"deleted": await served.change("delete", fields["ids"])})

    def _find(self, name: str) -> Served:
        if name not in self._served:
            raise HTTPException(404, f"no index is called {name!r}; there are {', '.join(self._served)}")
        return self._served[name]

    async def _read(self, name: str, request: Request, form: Form) -> tuple[Served, dict[str, Any]]:
        served, body = self._find(name), await self._read_body(request)
        return served, await _work(len(body), self._read_fields, served, form, request, body)

    async def _read_body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        refusal = HTTPException(413, f"the body is larger than {most:,} bytes; send it in several requests")
        if int(request.headers.get("content-length", "0")) > most:
            raise refusal
        pieces, size = [], 0
        async for piece in request.stream():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise refusal
        return b"".join(pieces)

    def _read_fields(self, served: Served, form: Form, request: Request, body: bytes) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (NPY, "application/json"):  # a web page of others cannot send these without being asked first
            raise HTTPException(415, f"content-type is {kind!r}; send application/json or {NPY}")
        query = dict(request.query_params)
        return form.read(body, kind == NPY, query, self._limits.batch, served.index.dim)

    def _read_search(self, served: Served, request: Request, body: bytes) -> tuple[np.ndarray, int, float, str]:
        fields = self._read_fields(served, SEARCH, request, body)
        k, most = fields["k"], self._limits
        if k > most.k:
            raise InputError(f"k is {k:,}; this server gives up to {most.k:,}")
        queries = check_queries(fields["queries"], served.index.dim, served.index.dtype)
        if len(queries) * k > most.results:
            raise InputError(
                f"{len(queries):,} queries with k {k:,} have more than {most.results:,} results; ask for fewer at once"
            )
        return queries, k, fields["recall"], served.check_filter(fields["filter"])


def _service_routes(served: Mapping[str, Served], requests: Requests, guard: list[Any]) -> APIRouter:
    """What people and machines look at to see whether all is well."""
    routes = APIRouter(tags=["service"])
    page = files("tenfold.search").joinpath("page.html").read_text(encoding="utf-8")

    @routes.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @routes.get("/docs", include_in_schema=False)
    async def show_routes() -> Response:
        return RedirectResponse("/#api")

    @routes.get("/health", response_model=Health)
    async def health() -> Response:
        """Whether the server answers at all."""
        return _json({"status": "ok"})

    @routes.get("/ready", response_model=Health, responses={503: {"model": Problem, "description": "Stopping."}})
    async def ready(request: Request) -> Response:
        """Whether to send requests here: all indexes are open, and the server is not stopping.

        The status is "ready", or "partial" while an index misses shards and answers without them.
        """
        if request.app.state.is_stopping:
            return JSONResponse({"detail": "the server is stopping"}, 503)
        return _json({"status": "partial" if any(one.missing_shards() for one in served.values()) else "ready"})

    @routes.get("/metrics", dependencies=guard, response_class=PlainTextResponse, responses=_refusals(401, 403))
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(requests.exposition() + _state(served), media_type="text/plain; version=0.0.4")

    return routes


def _state(served: Mapping[str, Served]) -> str:
    """Numbers of the indexes and of the process, in Prometheus' text format."""

    def each(name: str, kind: str, text: str, count: Callable[[Served], int]) -> str:
        return exposition(name, kind, text, [({"index": one.name}, count(one)) for one in served.values()])

    return (
        each("tenfold_rows", "gauge", "Rows that an index holds.", lambda one: one.index.rows)
        + each("tenfold_queries_total", "counter", "Queries searched for.", lambda one: one.batcher.queries)
        + each("tenfold_batches_total", "counter", "Batches they were gathered into.", lambda one: one.batcher.batches)
        + each(
            "tenfold_partial_answers_total",
            "counter",
            "Searches that a shard did not answer.",
            lambda one: one.partial_answers,
        )
        + each(
            "tenfold_missing_shards",
            "gauge",
            "Shards that no worker holds open.",
            lambda one: len(one.missing_shards()),
        )
        + exposition("process_resident_memory_bytes", "gauge", "Memory of the process.", [({}, resident_bytes())])
    )


def _guard(token: str | None) -> Callable[..., Awaitable[None]]:
    """What lets a request pass: the token or, without one, that it was sent to a name of this machine."""

    async def check_host(request: Request) -> None:
        if not _is_this_machine(request.headers.get("host", "")):
            raise HTTPException(403, "without a token this server answers only under localhost, 127.0.0.1 and [::1]")

    bearer, wanted = HTTPBearer(auto_error=False), (token or "").encode()

    async def check_token(given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), wanted):
            refusal = "the bearer token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
            raise HTTPException(401, refusal, headers={"WWW-Authenticate": "Bearer"})

    return check_host if token is None else check_token


def _is_this_machine(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _describe(form: Form, with_npy: bool) -> dict[str, Any]:
    """What OpenAPI says of a route whose body is a `form`, besides its docstring."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    options = form.query.model_json_schema().get("properties", {})
    return {
        "responses": _refusals(401, 403, 404, 413, 415, 422) | ({200: {"content": {NPY: binary}}} if with_npy else {}),
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": form.json.model_json_schema()}, NPY: binary},
            },
            "parameters": [
                {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in options.items()
            ],
        },
    }


def _refusals(*statuses: int) -> Responses:
    texts = {
        401: "The bearer token is missing or wrong.",
        403: "The index takes no changes, or the request was sent to a name that is not this machine's.",
        404: "There is no such index.",
        413: "The body is too large.",
        415: "The body is neither JSON nor npy.",
        422: "The request cannot be used.",
    }
    return {status: {"model": Problem, "description": texts[status]} for status in statuses}


async def _work(size: int, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function at once or, where it works on many bytes, in a thread, so that others need not wait for it."""
    return function(*arguments) if size <= _SMALL else await run_in_threadpool(function, *arguments)


def _wants_npy(request: Request, answer: np.ndarray) -> bool:
    """Whether to answer in arrays; texts always go as JSON."""
    return answer.dtype != object and NPY in request.headers.get("accept", "")


def _missing_header(missing: tuple[str, ...] = ()) -> dict[str, str]:
    return {"Tenfold-Missing-Shards": ", ".join(missing)} if missing else {}


def _neighbours(distances: np.ndarray, ids: np.ndarray, missing: tuple[str, ...] | None = None) -> Response:
    """As JSON, which knows no infinity: without what fills up the rows. `missing` is None unless there are shards."""
    shards = {} if missing is None else {"partial": bool(missing), "missing_shards": list(missing)}
    counts = np.isfinite(distances).sum(axis=1).tolist()
    return _json(
        {
            name: [row[:count] for row, count in zip(array.tolist(), counts, strict=True)]
            for name, array in (("distances", distances), ("ids", ids))
        }
        | shards
    )


def _json(content: Any) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")
