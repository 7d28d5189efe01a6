"""The client of `tenfold search serve`, on NumPy and Python's standard library: an index elsewhere, used like one here.

with Client("http://127.0.0.1:8080", token="...") as client:
    distances, ids = client.index("my_vectors").search(queries, k=10)
"""

import http.client
import json
import re
import select
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self, overload
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search.bodies import NPY, pack, unpack
from tenfold.search.columns import Columns, Values, check_values
from tenfold.search.exact import MOST_RESULTS, check_count, check_queries, check_vectors
from tenfold.search.ids import check_names, check_numbers
from tenfold.search.living import Ids

__all__ = ["Client", "RemoteIndex"]

_ROOM = 4096  # bytes of a body that are no vectors


class Client:
    """A server of indexes. Any number of threads may use it; connections are kept for the next request.

    Every call raises InputError for what the server refuses, with its sentence, and ConnectionError where it cannot be
    reached, breaks off, or fails.

    Args:
        url: Of the server; behind a proxy with the path there.
        token: Its bearer token.
        timeout: Seconds to wait for a connection, or for the next bytes of an answer.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", *, token: str | None = None, timeout: float = 60.0) -> None:
        self.url, self._timeout = url, timeout
        try:
            parts = urlsplit(url)
            self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        except ValueError:
            self._host = ""
        if not self._host or parts.scheme not in ("http", "https"):
            raise InputError(f"url is {url!r}; write for instance http://127.0.0.1:8080")
        if token is not None and not re.fullmatch("[!-~]+", token):
            raise InputError("the token holds other than printable ASCII characters; is it the content of a file?")
        self._is_secure = parts.scheme == "https"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._idle: list[http.client.HTTPConnection] = []

    def indexes(self) -> list[dict[str, Any]]:
        """The server's indexes: `name`, `rows`, `dim`, `dtype`, `metric`, `ids`, `columns`, `read_only` of each."""
        listed: list[dict[str, Any]] = self._listing()["indexes"]
        return listed

    def index(self, name: str) -> "RemoteIndex":
        """One of them. Raises InputError where there is none of this name."""
        answer = self._listing()
        for facts in answer["indexes"]:
            if facts["name"] == name:
                return RemoteIndex(self, facts, answer["limits"])
        names = ", ".join(facts["name"] for facts in answer["indexes"])
        raise InputError(f"{self.url}: no index is called {name!r}; there are {names}")

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _listing(self) -> dict[str, Any]:
        answer = self._ask("GET", "/v1/indexes")
        if not isinstance(answer, dict) or not {"indexes", "limits"} <= answer.keys():
            raise self._stranger()
        return answer

    def _stranger(self) -> ConnectionError:
        return ConnectionError(f"{self.url}: what answers there is no Tenfold server; is the port another's?")

    def _ask(self, method: str, path: str) -> Any:
        return self._send(method, path)[0]

    def _send(
        self, method: str, path: str, body: bytes | None = None, media: str = ""
    ) -> tuple[Any, http.client.HTTPMessage]:
        """The answer, a list of arrays or what its JSON says, and its headers. Errors as the class says."""
        headers = {"Accept": NPY} | ({} if body is None else {"Content-Type": media})
        connection = self._take()
        try:
            connection.request(method, self._path + path, body, self._headers | headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConnectionError(f"{self.url}: {error or type(error).__name__}; is the server running?") from None
        except BaseException:
            connection.close()
            raise
        if not answer.will_close:
            self._idle.append(connection)
        if answer.status < 400:
            is_npy = answer.headers.get_content_type() == NPY
            try:
                return unpack(content) if is_npy else json.loads(content), answer.headers
            except ValueError:
                raise self._stranger() from None
        sentence = _detail(content) or f"{answer.status} {answer.reason}"
        raise (InputError if answer.status < 500 else ConnectionError)(f"{self.url}: {sentence}")

    def _take(self) -> http.client.HTTPConnection:
        """A connection that is idle and that the server has not closed, or a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
                return kind(self._host, self._port, timeout=self._timeout)
            if not _has_news(connection):
                return connection
            connection.close()


class RemoteIndex:
    """An index of a server; `Client.index` gives it.

    It has `search`, `get`, `attributes`, `add`, `update`, `delete`, `stats`, `rows` and `len`, as `LivingIndex` has
    them. `search` takes no `probes`, `candidates`, `rerank`, `threads` or `return_stats`; it also says which shards of
    an index in shards did not answer. What else an index has (`contains`, `all_ids`, `blocks`, `clear`, `compact`,
    `calibrate`, `flush`, `verify`, ...) works only where its folder lies. Calls that are larger than what the server
    takes at once are cut into several requests.

    Attributes:
        name: Its name on the server.
        dim: Dimension of the vectors.
        dtype: Their type.
        metric: "l2", "ip" or "cosine".
        ids: What ids are: "int64" or "string".
        columns: Types of the rows' attributes by name.
        read_only: Whether it takes no updates.
    """

    def __init__(self, client: Client, facts: dict[str, Any], limits: dict[str, int]) -> None:
        self._client, self._limits = client, limits
        self.name: str = facts["name"]
        self.dim: int = facts["dim"]
        self.dtype = np.dtype(facts["dtype"])
        self.metric: str = facts["metric"]
        self.ids: str = facts["ids"]
        self.columns: Columns = facts["columns"]
        self.read_only: bool = facts["read_only"]
        self._path = f"/v1/indexes/{quote(self.name, safe='')}"

    @property
    def rows(self) -> int:
        """Rows that it holds now."""
        return int(next(facts["rows"] for facts in self._client.indexes() if facts["name"] == self.name))

    def __len__(self) -> int:
        return self.rows

    def stats(self) -> dict[str, Any]:
        """Rows, sizes and what is going on."""
        stats: dict[str, Any] = self._client._ask("GET", f"{self._path}/stats")
        return stats

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., filter: Mapping[str, Any] | None = ...,
        return_missing: Literal[False] = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., filter: Mapping[str, Any] | None = ...,
        return_missing: Literal[True],
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]: ...  # fmt: skip

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        recall: float = 0.95,
        filter: Mapping[str, Any] | None = None,
        return_missing: bool = False,
    ) -> tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """The k nearest rows of each query (q, dim): distances (q, k) float32 and ids (q, k), int64 or texts.

        With `return_missing` also the names of those shards of an index in shards that did not answer all of the
        queries; without it ConnectionError is raised where there are any.
        """
        rows, k = check_queries(queries, self.dim, self.dtype), check_count("k", k, MOST_RESULTS)
        options = {"k": k, "recall": recall} | ({} if filter is None else {"filter": json.dumps(filter)})
        verb, most = f"search?{urlencode(options)}", max(1, self._limits["results"] // k)
        answers = [self._send(verb, queries=rows[part]) for part in self._parts(len(rows), most)]
        found = [self._neighbours(answer, k) for answer, _ in answers]
        distances, ids = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        named = ",".join(headers.get("Tenfold-Missing-Shards", "") for _, headers in answers)
        missing = tuple(sorted({name.strip() for name in named.split(",")} - {""}))
        if return_missing:
            return distances, ids, missing
        if missing:
            raise ConnectionError(
                f"{self._client.url}: {', '.join(missing)} of {self.name} did not answer; try again, or take what the "
                "others found by return_missing=True"
            )
        return distances, ids

    def get(self, ids: Ids) -> np.ndarray:
        """Vectors (n, dim) by ids (n,). Raises InputError for an id that is not there."""
        names = self._checked(ids)
        return np.concatenate([self._ask("get", ids=names[part])[0] for part in self._parts(len(names))])

    def attributes(self, ids: Ids) -> Values:
        """Attributes by ids (n,): per column n values, None where a row has none. InputError for an id not there."""
        names, found = self._checked(ids), Values({name: [] for name in self.columns})
        for part in self._parts(len(names)):
            for name, values in self._ask("attributes", ids=names[part])["attributes"].items():
                found[name] += values
        return found

    def add(
        self, vectors: np.ndarray, ids: Ids | None = None, attributes: Mapping[str, Iterable[Any]] | None = None
    ) -> np.ndarray:
        """Add rows (n, dim), with ids (n,) that are not there yet or numbers chosen by the server. Returns the ids."""
        made = self._change("add", vectors, ids, attributes)
        return np.concatenate(
            [
                one[0] if isinstance(one, list) else np.array(one["ids"], object if self.ids == "string" else np.int64)
                for one in made
            ]
        )

    def update(self, vectors: np.ndarray, ids: Ids, attributes: Mapping[str, Iterable[Any]] | None = None) -> int:
        """Give rows other vectors (n, dim); ids (n,) that are not there are added. Returns how many were there."""
        return sum(one["updated"] for one in self._change("update", vectors, ids, attributes))

    def delete(self, ids: Ids) -> int:
        """Delete rows by ids (n,); those that are not there are passed over. Returns how many were there."""
        names = self._checked(ids)
        deleted = 0
        for part in self._parts(len(names)):
            with _done_before(part.start, len(names)):
                deleted += self._ask("delete", ids=names[part])["deleted"]
        return deleted

    def _change(
        self, verb: str, vectors: np.ndarray, ids: Ids | None, attributes: Mapping[str, Iterable[Any]] | None
    ) -> list[Any]:
        """Send rows, in several requests if need be; the answers."""
        rows = check_vectors(vectors, self.dim, self.dtype)
        names = None if ids is None else self._checked(ids, len(rows))
        values = None if attributes is None else check_values(self.columns, attributes, len(rows))
        answers = []
        for part in self._parts(len(rows)):
            some = None if values is None else {name: column[part] for name, column in values.items()}
            with _done_before(part.start, len(rows)):
                named = None if names is None else names[part]
                answers.append(self._ask(verb, vectors=rows[part], ids=named, attributes=some))
        return answers

    def _ask(self, verb: str, **fields: Any) -> Any:
        return self._send(verb, **fields)[0]

    def _send(self, verb: str, **fields: Any) -> tuple[Any, http.client.HTTPMessage]:
        """Send fields: as arrays where they are such, else as JSON. The answer, and its headers."""
        given = {name: value for name, value in fields.items() if value is not None}
        if all(isinstance(value, np.ndarray) for value in given.values()):
            body, media = pack(*given.values()), NPY
        else:
            plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
            body, media = json.dumps(plain).encode(), "application/json"
        return self._client._send("POST", f"{self._path}/{verb}", body, media)

    def _neighbours(self, answer: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(answer, list):
            return answer[0], answer[1]
        distances = np.full((len(answer["ids"]), k), np.inf, np.float32)
        ids = np.full(distances.shape, None, object)
        for row, (near, names) in enumerate(zip(answer["distances"], answer["ids"], strict=True)):
            distances[row, : len(near)], ids[row, : len(names)] = near, names
        return distances, ids

    def _checked(self, ids: Ids, count: int | None = None) -> Any:
        """Ids (n,) as they are sent; the server says what else may be wrong with them."""
        if self.ids == "string":
            return check_names(ids, count, unique=False)  # type: ignore[arg-type]
        return check_numbers(ids, count, unique=False)

    def _parts(self, rows: int, most: int | None = None) -> Iterator[slice]:
        """The rows that go into each request: `most` at most, and one request at least."""
        number_bytes = 26 if self.ids == "string" or self.columns else 8  # in JSON, in an array
        fitting = (self._limits["body_bytes"] - _ROOM) // (number_bytes * (self.dim + 1))
        step = max(1, min(self._limits["batch"], fitting, most or rows))
        return (slice(start, start + step) for start in range(0, max(1, rows), step))


@contextmanager
def _done_before(done: int, rows: int) -> Iterator[None]:
    """Adds to an error what the requests before have done."""
    try:
        yield
    except (InputError, ConnectionError) as error:
        if done == 0:
            raise
        raise type(error)(f"{error}; the first {done:,} of {rows:,} rows were done before") from None


def _has_news(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has sent something, and that can only be its farewell."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _detail(content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""
