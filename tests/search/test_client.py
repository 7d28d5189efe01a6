"""The client: an index on a server behaves as one here."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors
from running import running, serving

from tenfold.core.errors import InputError
from tenfold.search import Client, Index, LivingIndex
from tenfold.search.messages import Limits

DIM = 6


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[tuple[LivingIndex, LivingIndex]]:
    """Two empty indexes of float32: one to serve, one to compare with."""
    with (
        LivingIndex.create(tmp_path / "served", DIM) as served,
        LivingIndex.create(tmp_path / "twin", DIM) as twin,
    ):
        yield served, twin


SMALL_LIMITS = Limits(body_bytes=4500, k=50, batch=7, results=30)


@pytest.mark.parametrize("limits", [Limits(), SMALL_LIMITS], ids=["whole", "in pieces"])
def test_it_does_what_a_living_index_does(limits: Limits, twins: tuple[LivingIndex, LivingIndex]) -> None:
    """The same calls give the same results; with narrow limits, in many requests each."""
    rows, queries = make_vectors(90, DIM, "float32"), make_vectors(40, DIM, "float32", seed=1)
    ids = np.arange(1000, 1030)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("search", (queries, 3)),
        ("add", (rows[:30],)),
        ("add", (rows[30:60], ids)),
        ("add", (rows[:0],)),
        ("search", (queries, 10)),
        ("update", (rows[60:], np.arange(1015, 1045))),
        ("update", (rows[:0], [])),
        ("delete", ([3, 4, 1001, 77777, 4],)),
        ("delete", ([],)),
        ("get", (np.arange(1015, 1045),)),
        ("get", ([],)),
        ("search", (queries, 30)),
        ("search", (queries[:0], 3)),
    ]
    served, twin = twins
    with running({"served": served}, limits=limits) as url, Client(url) as client:
        index = client.index("served")
        for method, arguments in calls:
            found, wanted = getattr(index, method)(*arguments), getattr(twin, method)(*arguments)
            np.testing.assert_equal(found, wanted, method)
            for one, other in zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True):
                assert one.dtype == other.dtype, method
        assert (len(index), index.rows) == (len(twin), twin.rows)
        assert index.stats()["rows_in_memory"] == twin.stats()["rows_in_memory"]


@pytest.mark.parametrize("limits", [Limits(), SMALL_LIMITS], ids=["whole", "in pieces"])
def test_texts_attributes_and_filters(limits: Limits, tmp_path: Path) -> None:
    """Of an index that has them; results have the types of those here."""
    rows, queries = make_vectors(40, DIM, "float32"), make_vectors(9, DIM, "float32", seed=1)
    names = [f"row {number}" for number in range(40)]
    attributes = {"size": [number % 7 or None for number in range(40)], "kind": ["even", "odd"] * 20}
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("search", (queries, 3), {}),
        ("add", (rows[:30], names[:30]), {"attributes": {name: some[:30] for name, some in attributes.items()}}),
        ("search", (queries, 20), {}),
        ("search", (queries, 20), {"filter": {"kind": "odd", "size": {"$gt": 2}}, "recall": 1.0}),
        ("update", (rows[20:], names[20:]), {"attributes": {name: some[20:] for name, some in attributes.items()}}),
        ("update", (rows[:5], names[5:10]), {}),
        ("get", (names[3:23],), {}),
        ("attributes", (names[3:23],), {}),
        ("delete", (np.array(names[10:20]),), {}),
        ("search", (queries, 20), {}),
    ]
    columns: dict[str, Any] = {"size": "int", "kind": "category"}
    with (
        LivingIndex.create(tmp_path / "served", DIM, ids="string", columns=columns) as served,
        LivingIndex.create(tmp_path / "twin", DIM, ids="string", columns=columns) as twin,
        running({"served": served}, limits=limits) as url,
        Client(url) as client,
    ):
        index = client.index("served")
        assert (index.ids, index.columns) == ("string", columns)
        for method, arguments, options in calls:
            found = getattr(index, method)(*arguments, **options)
            wanted = getattr(twin, method)(*arguments, **options)
            np.testing.assert_equal(found, wanted, method)
            if not isinstance(found, dict):
                for one, other in zip(np.atleast_1d(found), np.atleast_1d(wanted), strict=True):
                    assert np.asarray(one).dtype == np.asarray(other).dtype, method


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_every_type_of_vectors(dtype: str, tmp_path: Path) -> None:
    rows = make_vectors(50, DIM, dtype)
    index = Index.build(rows, tmp_path / "index")
    with running({"index": index}) as url, Client(url) as client:
        remote = client.index("index")
        assert (remote.dim, remote.dtype, remote.metric, remote.read_only) == (DIM, np.dtype(dtype), "l2", True)
        np.testing.assert_equal(remote.search(rows[:9], 5, recall=1.0), index.search(rows[:9], 5, recall=1.0))
        found = remote.get([49, 3])
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, rows[[49, 3]])


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("search", (np.zeros((1, DIM + 1)),)),
        ("search", (np.zeros(DIM),)),
        ("search", (np.full((1, DIM), np.inf),)),
        ("search", (np.zeros((1, DIM)), 0)),
        ("search", (np.zeros((1, DIM)), "ten")),
        ("add", (np.zeros((1, DIM + 1)),)),
        ("add", (np.zeros((2, DIM)), [1])),
        ("add", (np.zeros((1, DIM)), [0])),
        ("add", (np.zeros((2, DIM)), [5, 5])),
        ("add", (np.zeros((1, DIM)), [0.5])),
        ("update", (np.zeros((1, DIM)), [-1])),
        ("update", (np.zeros((1, DIM)), ["a"])),
        ("delete", ([[1, 2]],)),
        ("get", ([4711],)),
    ],
)
def test_it_refuses_what_a_living_index_refuses(
    method: str, arguments: tuple[Any, ...], twins: tuple[LivingIndex, LivingIndex]
) -> None:
    """With the same words, whoever noticed; the server's stand behind its URL."""
    served, twin = twins
    with running({"served": served}) as url, Client(url) as client:
        for index in (served, twin):
            index.add(np.zeros((1, DIM)))
        messages = []
        for index in (client.index("served"), twin):  # type: ignore[assignment]
            with pytest.raises(InputError) as refusal:
                getattr(index, method)(*arguments)
            messages.append(str(refusal.value).removeprefix(f"{url}: "))
    assert messages[0] == messages[1]
    assert served.rows == 1


def test_it_says_what_an_interrupted_call_has_done(twins: tuple[LivingIndex, LivingIndex]) -> None:
    """The eighth row's id is there: the first request of seven has been carried out."""
    served, _ = twins
    served.add(np.zeros((1, DIM)), [17])
    said = r"id 17 is there already.*; the first 7 of 10 rows were done before$"
    with running({"served": served}, limits=SMALL_LIMITS) as url, Client(url) as client:
        index = client.index("served")
        with pytest.raises(InputError, match=said):
            index.add(np.ones((10, DIM)), range(10, 20))
    assert served.contains(range(10, 20)).tolist() == [True] * 8 + [False] * 2


def test_a_name_is_quoted(tmp_path: Path) -> None:
    name = "my vectors, é?#%2F"
    with LivingIndex.create(tmp_path / "index", DIM) as index, running({name: index}) as url, Client(url) as client:
        assert [one["name"] for one in client.indexes()] == [name]
        client.index(name).add(np.zeros((1, DIM)))
        assert index.rows == 1


def test_an_unknown_index(twins: tuple[LivingIndex, LivingIndex]) -> None:
    with (
        running({"a": twins[0], "b": twins[1]}) as url,
        Client(url) as client,
        pytest.raises(InputError, match="no index is called 'c'; there are a, b"),
    ):
        client.index("c")


def test_a_token(twins: tuple[LivingIndex, LivingIndex]) -> None:
    token = "correct-horse-battery-staple"
    with running({"served": twins[0]}, token=token) as url:
        with Client(url, token=token) as client:
            assert len(client.index("served")) == 0
        for wrong in (None, "wrong"):
            with Client(url, token=wrong) as client, pytest.raises(InputError, match="token is missing or wrong"):
                client.indexes()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://host:port", "http://[::1"])
def test_a_useless_url(url: str) -> None:
    with pytest.raises(InputError, match="write for instance http://"):
        Client(url)


def test_a_token_with_a_line_break() -> None:
    with pytest.raises(InputError, match="token"):
        Client(token="abc\r\nX-Forged: 1")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ConnectionError, match="is the server running"):
        client.indexes()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"nonsense\r\n\r\n"])
def test_a_server_that_breaks_off(answer: bytes) -> None:
    """A connection that ends early, in the middle, or speaks something else."""

    def answer_one() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_one)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client, pytest.raises(ConnectionError):
            client.indexes()
        thread.join(60)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"indexes": []}', b"\xff"])
def test_another_server_is_no_tenfold_server(body: bytes) -> None:
    """It answers well, but a page or another API."""

    def answer_one() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_one)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ConnectionError, match="is no Tenfold server"):
            client.index("films")
        thread.join(60)


def test_a_failing_server_is_no_bad_input() -> None:
    """5xx, as a proxy answers before a server that is away."""

    def answer_one() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_one)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ConnectionError, match="502 Bad Gateway"):
            client.indexes()
        thread.join(60)


def test_connections_are_kept_and_replaced(twins: tuple[LivingIndex, LivingIndex]) -> None:
    """One connection for many calls; a new one once the server has closed it."""
    with running({"served": twins[0]}) as url, Client(url) as client:
        index = client.index("served")
        (kept,) = client._idle
        for _ in range(5):
            index.search(np.zeros((1, DIM)))
        assert client._idle == [kept]
        kept.sock.shutdown(socket.SHUT_RD)  # what a farewell of the server looks like
        assert index.search(np.zeros((1, DIM)))[1].tolist() == [[-1] * 10]
        assert client._idle != [kept]


def test_threads_share_a_client(index_cache: Callable[..., Path]) -> None:
    folder = index_cache(400, 24, "uint8", "l2", "pq", 30)
    queries = make_vectors(160, 24, "uint8", seed=1)
    wanted = Index.open(folder).search(queries, 4)[1]
    with serving(folder, "--read-only") as command, Client(command.url) as client:
        index = client.index(folder.name)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda row: index.search(queries[row : row + 1], 4)[1][0], range(160)))
        assert len(client._idle) <= 16
    np.testing.assert_array_equal(found, wanted)
