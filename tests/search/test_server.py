"""The server answers as the indexes behind it do, refuses with one sentence, and loses nothing that it acknowledged."""

import io
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from oracles import make_vectors
from running import ask, running, serving

from tenfold.cli import main
from tenfold.search import Client, Index, LivingIndex
from tenfold.search.bodies import NPY, pack, unpack
from tenfold.search.messages import Limits

SMALL = (400, 24, "uint8", "l2", "pq", 30)
JSON = {"Content-Type": "application/json"}
ARRAYS = {"Content-Type": NPY, "Accept": NPY}
TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def sealed(index_cache: Callable[..., Path]) -> Index:
    return Index.open(index_cache(*SMALL))


@pytest.fixture
def living(tmp_path: Path) -> Iterator[LivingIndex]:
    """An index of 100 rows of dimension 8, ids 0 to 99."""
    with LivingIndex.create(tmp_path / "living", 8, dtype="float32") as index:
        index.add(make_vectors(100, 8, "float32"))
        yield index


def call(url: str, route: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a JSON body; it must be there."""
    status, body, headers = ask(url, "POST", f"/v1/indexes/{route}", json.dumps(fields).encode(), JSON)
    assert (status, headers["Content-Type"]) == (200, "application/json"), body
    answer: dict[str, Any] = json.loads(body)
    return answer


def call_with_arrays(url: str, route: str, *arrays: np.ndarray) -> list[np.ndarray]:
    """The npy answer to an npy body; it must be there."""
    status, body, headers = ask(url, "POST", f"/v1/indexes/{route}", pack(*arrays), ARRAYS)
    assert (status, headers["Content-Type"]) == (200, NPY), body
    return unpack(body)


# --- answers ------------------------------------------------------------------------------------------------


def test_a_search_answers_as_the_index_does(sealed: Index) -> None:
    """In JSON and in npy, from a body of either kind."""
    queries = make_vectors(20, 24, "uint8", seed=1)
    distances, ids = sealed.search(queries, 7, recall=0.9)
    with running({"small": sealed}) as url:
        answer = call(url, "small/search", {"queries": queries.tolist(), "k": 7, "recall": 0.9})
        assert answer == {"distances": distances.tolist(), "ids": ids.tolist()}
        found = call_with_arrays(url, "small/search?k=7&recall=0.9", queries)
        np.testing.assert_array_equal(found[0], distances)
        np.testing.assert_array_equal(found[1], ids)
        mixed = ask(url, "POST", "/v1/indexes/small/search?k=7", pack(queries), {"Content-Type": NPY})
        assert json.loads(mixed[1])["ids"] == sealed.search(queries, 7)[1].tolist()


def test_k_and_recall_have_the_defaults_of_python(sealed: Index) -> None:
    queries = make_vectors(3, 24, "uint8", seed=1)
    with running({"small": sealed}) as url:
        assert call(url, "small/search", {"queries": queries.tolist()})["ids"] == sealed.search(queries)[1].tolist()


def test_json_leaves_out_rows_that_there_are_not(living: LivingIndex) -> None:
    """And npy fills up, as Python does."""
    living.delete(range(3, 100))
    query = make_vectors(1, 8, "float32", seed=1)
    with running({"living": living}) as url:
        answer = call(url, "living/search", {"queries": query.tolist(), "k": 5})
        assert [len(answer["ids"][0]), len(answer["distances"][0])] == [3, 3]
        distances, ids = call_with_arrays(url, "living/search?k=5", query)
    assert ids[0, 3:].tolist() == [-1, -1]
    assert np.isposinf(distances[0, 3:]).all()


def test_changes_arrive_in_the_index(living: LivingIndex) -> None:
    """By JSON: add with and without ids, update, get, delete; the index itself is the witness."""
    rows = make_vectors(4, 8, "float32", seed=2)
    with running({"living": living}) as url:
        assert call(url, "living/add", {"vectors": rows[:2].tolist()}) == {"ids": [100, 101]}
        assert call(url, "living/add", {"vectors": rows[2:3].tolist(), "ids": [7000]}) == {"ids": [7000]}
        assert call(url, "living/update", {"vectors": rows[2:].tolist(), "ids": [100, 8000]}) == {"updated": 1}
        np.testing.assert_array_equal(living.get([100, 101, 7000, 8000]), rows[[2, 1, 2, 3]])
        assert call(url, "living/get", {"ids": [8000, 101]}) == {"vectors": rows[[3, 1]].tolist()}
        assert call(url, "living/delete", {"ids": [101, 8000, 5]}) == {"deleted": 3}
        assert living.contains([101, 8000, 5, 6]).tolist() == [False, False, False, True]
        assert call(url, "living/delete", {"ids": [101]}) == {"deleted": 0}


def test_changes_arrive_from_arrays_too(living: LivingIndex) -> None:
    rows = make_vectors(3, 8, "float32", seed=2)
    with running({"living": living}) as url:
        (ids,) = call_with_arrays(url, "living/add", rows[:2])
        assert (ids.tolist(), ids.dtype) == ([100, 101], np.int64)
        call_with_arrays(url, "living/add", rows[2:], np.array([9]) + 1000)
        np.testing.assert_array_equal(call_with_arrays(url, "living/get", np.array([1009, 100]))[0], rows[[2, 0]])
        for verb, arrays, answer in (
            ("update", (rows[1:], np.array([100, 2000])), {"updated": 1}),
            ("delete", (np.array([100, 1009]),), {"deleted": 2}),
        ):
            status, body, _ = ask(url, "POST", f"/v1/indexes/living/{verb}", pack(*arrays), ARRAYS)
            assert (status, json.loads(body)) == (200, answer)
    np.testing.assert_array_equal(living.get([2000]), rows[2:])


def test_fortran_order_is_the_same_array(living: LivingIndex) -> None:
    rows = make_vectors(3, 8, "float32", seed=2)
    with running({"living": living}) as url:
        (ids,) = call_with_arrays(url, "living/add", np.asfortranarray(rows))
    np.testing.assert_array_equal(living.get(ids), rows)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[LivingIndex]:
    """Four rows with texts as ids, and attributes."""
    columns: dict[str, Any] = {"lang": "category", "year": "int", "score": "float", "paid": "bool"}
    with LivingIndex.create(tmp_path / "pages", 8, ids="string", columns=columns) as index:
        attributes = {"lang": ["de", "en", "de", None], "year": [2019, 2021, 2024, 2024]}
        index.add(make_vectors(4, 8, "float32"), ["a", "b", "c", "d"], attributes)
        yield index


def test_ids_that_are_texts(pages: LivingIndex) -> None:
    """Come and go as JSON, also where arrays are asked for."""
    query, row = make_vectors(1, 8, "float32", seed=1), make_vectors(1, 8, "float32", seed=2)
    with running({"pages": pages}) as url:
        distances, ids = pages.search(query, 3)
        answer = call(url, "pages/search", {"queries": query.tolist(), "k": 3})
        assert answer == {"distances": distances.tolist(), "ids": ids.tolist()}
        status, body, _ = ask(url, "POST", "/v1/indexes/pages/search?k=3", pack(query), ARRAYS)
        assert (status, json.loads(body)) == (200, answer)
        assert call(url, "pages/add", {"vectors": row.tolist(), "ids": ["é/\n"]}) == {"ids": ["é/\n"]}
        assert call(url, "pages/update", {"vectors": row.tolist(), "ids": ["a"]}) == {"updated": 1}
        assert call(url, "pages/get", {"ids": ["é/\n", "a"]}) == {"vectors": row.tolist() * 2}
        assert call(url, "pages/delete", {"ids": ["b", "nobody"]}) == {"deleted": 1}
        for fields in ({"ids": [1]}, {"ids": ["nobody"]}, {"ids": [""]}):
            assert ask(url, "POST", "/v1/indexes/pages/get", json.dumps(fields).encode(), JSON)[0] == 422
        assert ask(url, "POST", "/v1/indexes/pages/add", json.dumps({"vectors": row.tolist()}).encode(), JSON)[0] == 422
    assert pages.contains(["a", "b", "c", "d", "é/\n"]).tolist() == [True, False, True, True, True]


def test_filters_and_attributes(pages: LivingIndex) -> None:
    """A filter stands in the JSON, or as JSON in the query string of arrays."""
    query = make_vectors(1, 8, "float32", seed=1)
    wanted = {"lang": "de", "year": {"$gte": 2020}}
    with running({"pages": pages}) as url:
        assert call(url, "pages/search", {"queries": query.tolist(), "filter": wanted})["ids"] == [["c"]]
        assert len(call(url, "pages/search", {"queries": query.tolist(), "filter": {}})["ids"][0]) == 4
        status, body, _ = ask(
            url, "POST", f"/v1/indexes/pages/search?{urlencode({'filter': json.dumps(wanted)})}", pack(query), ARRAYS
        )
        assert (status, json.loads(body)["ids"]) == (200, [["c"]])
        attributes = {"year": [None], "lang": ["fr"], "score": [0.5], "paid": [True]}
        call(url, "pages/add", {"vectors": query.tolist(), "ids": ["e"], "attributes": attributes})
        assert call(url, "pages/search", {"queries": query.tolist(), "filter": {"paid": True}})["ids"] == [["e"]]
        assert call(url, "pages/attributes", {"ids": ["e", "b"]}) == {"attributes": pages.attributes(["e", "b"])}
        for filter in ({"year": "de"}, {"pages": 1}, {"lang": {"$near": 1}}):
            body = json.dumps({"queries": query.tolist(), "filter": filter}).encode()
            assert ask(url, "POST", "/v1/indexes/pages/search", body, JSON)[0] == 422


def test_an_index_tells_what_it_holds(sealed: Index, living: LivingIndex) -> None:
    """In the list, with the limits, and in its statistics; folders stay the server's secret."""
    with running({"small": sealed, "living": living}, limits=Limits(k=50)) as url:
        status, body, _ = ask(url, "GET", "/v1/indexes")
        stats = [json.loads(ask(url, "GET", f"/v1/indexes/{name}/stats")[1]) for name in ("small", "living")]
    listed = json.loads(body)
    facts = {"name": "living", "rows": 100, "dim": 8, "dtype": "float32", "metric": "l2", "read_only": False}
    facts |= {"ids": "int64", "columns": {}}
    assert (status, listed["indexes"][1], listed["limits"]["k"]) == (200, facts, 50)
    assert listed["indexes"][0]["read_only"]
    assert (stats[0]["rows"], stats[0]["lists"]) == (400, sealed.lists)
    assert stats[1]["rows_in_memory"] == 100
    assert str(living.path) not in json.dumps(stats)


def test_vectors_of_a_sealed_index(sealed: Index) -> None:
    """By their row numbers, in the order asked for, repetition allowed."""
    with running({"small": sealed}) as url:
        answer = call(url, "small/get", {"ids": [399, 0, 17, 0]})
    assert answer["vectors"] == make_vectors(400, 24, "uint8")[[399, 0, 17, 0]].tolist()


def test_many_clients_get_their_own_answers(sealed: Index) -> None:
    """64 at once, each with queries of its own; gathering them into batches mixes nothing up."""
    queries = make_vectors(64 * 8, 24, "uint8", seed=3)
    distances, ids = sealed.search(queries, 5)

    def search(client: int) -> list[tuple[Any, Any]]:
        with Client(url) as opened:
            index = opened.index("small")
            return [index.search(queries[row : row + 1], 5) for row in range(client * 8, client * 8 + 8)]

    with running({"small": sealed}) as url:
        with ThreadPoolExecutor(64) as clients:
            answers = [answer for found in clients.map(search, range(64)) for answer in found]
        metrics = ask(url, "GET", "/metrics")[1].decode()
    np.testing.assert_array_equal(np.concatenate([answer[1] for answer in answers]), ids)
    np.testing.assert_array_equal(np.concatenate([answer[0] for answer in answers]), distances)
    assert 'tenfold_queries_total{index="small"} 512\n' in metrics


# --- refusals -----------------------------------------------------------------------------------------------


def npy_header(shape: str) -> bytes:
    """An npy file that says it has this shape, and no values."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


VECTOR = [0.0] * 8
REFUSED: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "wrong dimension": ("search", b'{"queries": [[1, 2]]}', JSON, 422, "dimension 8"),
    "one query is no row": ("search", pack(np.zeros(8)), ARRAYS, 422, "a row"),
    "lists of different length": ("search", b'{"queries": [[1], [1, 2]]}', JSON, 422, "differ in length"),
    "no queries": ("search", b'{"queries": []}', JSON, 422, "shape"),
    "not a number": ("search", pack(np.full((1, 8), np.nan)), ARRAYS, 422, "NaN"),
    "not a number in JSON": ("search", b'{"queries": [["a"]]}', JSON, 422, "queries.0.0"),
    "a number as text": ("search", json.dumps({"queries": [VECTOR], "k": "3"}).encode(), JSON, 422, "k: "),
    "k zero": ("search", json.dumps({"queries": [VECTOR], "k": 0}).encode(), JSON, 422, "k: "),
    "k too large": ("search?k=51", pack(np.zeros((1, 8))), ARRAYS, 422, "up to 50"),
    "recall too large": ("search?recall=1.5", pack(np.zeros((1, 8))), ARRAYS, 422, "recall: "),
    "too many queries": ("search", json.dumps({"queries": [VECTOR] * 21}).encode(), JSON, 422, "20 at a time"),
    "far too many lists": ("search", b'{"queries": [' + b"[]," * 2500 + b"[]]}", JSON, 422, "more than 520 values"),
    "too many results": ("search?k=50", pack(np.zeros((20, 8))), ARRAYS, 422, "more than 500 results"),
    "unknown option": ("search?probes=5", pack(np.zeros((1, 8))), ARRAYS, 422, "probes: "),
    "unknown field": ("search", json.dumps({"queries": [VECTOR], "probes": 1}).encode(), JSON, 422, "probes: "),
    "filter without columns": (
        "search", json.dumps({"queries": [VECTOR], "filter": {"a": 1}}).encode(), JSON, 422, "living has no columns"
    ),
    "filter is no object": ("search?filter=[1]", pack(np.zeros((1, 8))), ARRAYS, 422, "filter: "),
    "filter is no JSON": ("search?filter={", pack(np.zeros((1, 8))), ARRAYS, 422, "filter: "),
    "attributes without columns": (
        "add", json.dumps({"vectors": [VECTOR], "attributes": {"a": [1]}}).encode(), JSON, 422, "no column 'a'"
    ),
    "ids are texts": ("delete", b'{"ids": ["a"]}', JSON, 422, "whole numbers"),
    "missing field": ("search", b"{}", JSON, 422, "queries: "),
    "far too many ids": ("delete", b'{"ids": [' + b"1," * 9000 + b"1]}", JSON, 422, "more than 1,125 values"),
    "too many ids": ("delete", b'{"ids": [' + b"1," * 20 + b"1]}", JSON, 422, "20 at a time"),
    "no JSON": ("search", b"{", JSON, 422, "JSON"),
    "no object": ("search", b"[]", JSON, 422, "object"),
    "no body": ("search", b"", JSON, 422, "JSON"),
    "nothing in npy": ("search", b"", ARRAYS, 422, "0 arrays"),
    "no npy": ("search", b"abc", ARRAYS, 422, "npy"),
    "cut npy": ("search", pack(np.zeros((2, 8)))[:-1], ARRAYS, 422, "cut"),
    "more bytes than npy": ("search", pack(np.zeros((1, 8))) + b"x", ARRAYS, 422, "npy"),
    "pickled": ("search", pickled(), ARRAYS, 422, "object"),
    "structured": ("search", pack(np.zeros(1, "f4,f4")), ARRAYS, 422, "numbers"),
    "a single number": ("search", npy_header("()") + b"1234", ARRAYS, 422, "rows of numbers"),
    "an array too many": ("search", pack(np.zeros((1, 8)), np.zeros(1)), ARRAYS, 422, "2 arrays"),
    "larger than memory": (
        "search", npy_header("(1099511627776, 8)"), ARRAYS, 422, "cut"
    ),
    "a negative shape": (
        "search", npy_header("(-1, -8)"), ARRAYS, 422, "shape"
    ),
    "a header that computes": ("search", npy_header("9**9**9"), ARRAYS, 422, "npy"),
    "form": ("search", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    "text, as a web page may send it": ("delete", b'{"ids": [1]}', {"Content-Type": "text/plain"}, 415, "text/plain"),
    "body too large": ("search", b" " * 50_000, JSON, 413, "40,000 bytes"),
    "id there already": ("add", json.dumps({"vectors": [VECTOR], "ids": [5]}).encode(), JSON, 422, "id 5 is there"),
    "id twice": ("add", json.dumps({"vectors": [VECTOR] * 2, "ids": [500, 500]}).encode(), JSON, 422, "twice"),
    "too few ids": ("add", json.dumps({"vectors": [VECTOR] * 2, "ids": [500]}).encode(), JSON, 422, "1 ids for 2"),
    "id below zero": ("delete", b'{"ids": [-1]}', JSON, 422, "from 0 on"),
    "id beyond 64 bits": ("delete", b'{"ids": [99999999999999999999999]}', JSON, 422, "ids are"),
    "id with a fraction": ("delete", b'{"ids": [1.5]}', JSON, 422, "ids.0"),
    "id true": ("delete", b'{"ids": [true]}', JSON, 422, "ids.0"),
    "ids in two rows": ("delete", pack(np.zeros((2, 2), int)), ARRAYS, 422, "one per row"),
    "update without ids": ("update", pack(np.zeros((1, 8))), ARRAYS, 422, "vectors and ids"),
    "id not there": ("get", b'{"ids": [4711]}', JSON, 422, "id 4711 is not there"),
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, LivingIndex]]:
    """A server with narrow limits, and its index of 100 rows of dimension 8."""
    folder = tmp_path_factory.mktemp("guarded") / "living"
    limits = Limits(body_bytes=40_000, k=50, batch=20, results=500)
    with LivingIndex.create(folder, 8) as index, running({"living": index}, limits=limits) as url:
        index.add(make_vectors(100, 8, "float32"))
        yield url, index


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_one_sentence(case: str, guarded: tuple[str, LivingIndex]) -> None:
    """The status says of what kind it is, the sentence what; the index stays as it was."""
    url, index = guarded
    route, body, headers, status, words = REFUSED[case]
    answer = ask(url, "POST", f"/v1/indexes/living/{route}", body, headers)
    assert answer[0] == status, answer[1]
    refusal = json.loads(answer[1])
    assert list(refusal) == ["detail"]
    assert words in refusal["detail"]
    assert len(refusal["detail"].splitlines()) == 1
    assert str(index.path) not in refusal["detail"]
    assert index.rows == 100


def test_an_unknown_index_is_not_found(living: LivingIndex) -> None:
    with running({"living": living}) as url:
        for method, route, body in (("GET", "lively/stats", None), ("POST", "lively/search", b"{}")):
            status, said, _ = ask(url, method, f"/v1/indexes/{route}", body, JSON)
            assert (status, json.loads(said)) == (404, {"detail": "no index is called 'lively'; there are living"})


def test_a_body_without_a_length_is_counted(living: LivingIndex) -> None:
    """Chunked: refused once more than the limit has come."""
    with running({"living": living}, limits=Limits(body_bytes=2048)) as url, Client(url) as client:
        connection = client._take()
        connection.request("POST", "/v1/indexes/living/search", iter([b" " * 1024] * 8), JSON, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413
        answer.read()
        connection.close()


def test_a_client_that_leaves_is_no_error(living: LivingIndex, capfd: pytest.CaptureFixture[str]) -> None:
    """In the middle of its body, or before its answer."""
    with running({"living": living}) as url:
        host, port = url.removeprefix("http://").split(":")
        head = "POST /v1/indexes/living/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        body = json.dumps({"queries": [VECTOR]})
        for sent in (f"{head}Content-Length: 100\r\n\r\n{{", f"{head}Content-Length: {len(body)}\r\n\r\n{body}"):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent.encode())
        assert call(url, "living/search", {"queries": [VECTOR]})["ids"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_failure_is_a_sentence_too(living: LivingIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback is for the log."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(living, "search", fail)
    with running({"living": living}) as url:
        status, body, _ = ask(
            url, "POST", "/v1/indexes/living/search", json.dumps({"queries": [VECTOR]}).encode(), JSON
        )
    assert (status, json.loads(body)) == (500, {"detail": "the server failed at this request; its log says why"})


# --- who may ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_a_wrong_token_is_refused(given: str | None, living: LivingIndex) -> None:
    """Before the body is looked at, on every route that shows or changes anything."""
    headers = JSON | ({} if given is None else {"Authorization": given})
    with running({"living": living}, token=TOKEN, limits=Limits(body_bytes=1024)) as url:
        for method, path, body in (
            ("POST", "/v1/indexes/living/delete", b'{"ids": [1]}'),
            ("POST", "/v1/indexes/living/search", b" " * 5000),
            ("POST", "/v1/indexes/nowhere/search", b""),
            ("GET", "/v1/indexes", None),
            ("GET", "/v1/indexes/living/stats", None),
            ("GET", "/metrics", None),
        ):
            status, said, answered = ask(url, method, path, body, headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer"), path
            assert "token" in json.loads(said)["detail"]
        for path in ("/", "/health", "/ready", "/openapi.json"):
            assert ask(url, "GET", path, None, headers)[0] == 200
    assert living.rows == 100


def test_the_right_token_opens(living: LivingIndex) -> None:
    with running({"living": living}, token=TOKEN) as url:
        assert ask(url, "GET", "/v1/indexes", None, {"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert ask(url, "GET", "/metrics", None, {"Authorization": f"bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:8080", 200), ("[::1]", 200), ("127.1.2.3:8080", 200),
     ("evil.example:8080", 403), ("localhost.evil.example", 403), ("8.8.8.8", 403), ("[::", 403), ("", 403)],
)  # fmt: skip
def test_without_a_token_only_names_of_this_machine(host: str, status: int, living: LivingIndex) -> None:
    """So that a web page cannot have its own name mean this server."""
    with running({"living": living}) as url:
        assert ask(url, "GET", "/v1/indexes", None, {"Host": host})[0] == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_the_command_stays_on_this_machine_without_a_token(
    host: str, living: LivingIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    living.close()
    assert main(["search", "serve", str(living.path), "--host", host, "--port", "0"]) == 2
    assert "--token-file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"short", b"with a blank inside it", b"\xff" * 20, None])
def test_a_useless_token_file(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    assert main(["search", "serve", str(tmp_path / "index"), "--token-file", str(tmp_path / "token")]) == 2
    assert str(tmp_path / "token") in capsys.readouterr().err


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name an index folder"),
        (["missing"], "missing"),
        (["living", "--port", "70000"], "port"),
        (["living", "--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["living", "--max-body", "1"], "max-body"),
        (["living", "--max-k", "0"], "max-k"),
        (["living", "--max-batch", "0"], "max-batch"),
        (["living", "living", "--read-only"], "another index is called living"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], words: str, living: LivingIndex, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    living.close()
    monkeypatch.chdir(living.path.parent)
    assert main(["search", "serve", *arguments, *([] if "--port" in arguments else ["--port", "0"])]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_port_in_use(living: LivingIndex, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["search", "serve", str(living.path), "--read-only", "--port", port]) == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(missing: str, python: Callable[..., Any]) -> None:
    """And searching works without."""
    code = (
        f"import sys; sys.modules['{missing}'] = None\n"
        "import tenfold.search; from tenfold.cli import main\n"
        "sys.exit(main(['search', 'serve', 'index']))"
    )
    answer = python(code)
    assert answer.returncode == 2
    assert answer.stderr == f"tenfold: serving needs {missing}; pip install 'tenfold[serve]'\n"


def test_search_imports_no_server(python: Callable[..., Any]) -> None:
    answer = python("import sys, tenfold.search.commands; print(*sys.modules)")
    assert not {"fastapi", "uvicorn", "pydantic", "starlette"} & set(answer.stdout.split())


def test_read_only_changes_nothing(index_copy: Callable[..., Path], living: LivingIndex) -> None:
    """Neither a sealed index nor a living one."""
    living.close()
    folders = [index_copy(*SMALL), living.path]
    before = [{file: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(f.iterdir())} for f in folders]
    with serving(*folders, "--read-only") as command, Client(command.url) as client:
        for folder in folders:
            index = client.index(folder.name)
            assert index.read_only
            assert index.search(np.zeros((1, index.dim), index.dtype), 3)[1].shape == (1, 3)
            status, body, _ = ask(command.url, "POST", f"/v1/indexes/{folder.name}/delete", b'{"ids": [1]}', JSON)
            assert status == 403
            assert "--read-only" in json.loads(body)["detail"]
    after = [{file: (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(f.iterdir())} for f in folders]
    assert after == before


def test_a_read_only_server_follows_the_writer(living: LivingIndex) -> None:
    """What another process adds, seals and deletes shows within moments; damage is said, and the old state served."""

    def wait_for(rows: int) -> None:
        ends = time.monotonic() + 600
        while index.rows != rows and time.monotonic() < ends:
            time.sleep(0.02)
        assert index.rows == len(living) == rows

    with serving(living.path, "--read-only") as command, Client(command.url) as client:
        index = client.index("living")
        before = len(living)
        living.add(np.full((5, 8), 9, np.float32), np.arange(1000, 1005))
        wait_for(before + 5)
        assert set(index.search(np.full((1, 8), 9, np.float32), 5, recall=1.0)[1][0].tolist()) == set(range(1000, 1005))
        living.compact()
        living.delete([1000, 1001])
        wait_for(before + 3)
        living.clear()
        wait_for(0)
        snapshot = (living.path / "living.json").read_bytes()
        (living.path / "living.json").write_bytes(b"{}")
        ends = time.monotonic() + 600
        while "living.json: is damaged" not in "".join(command.lines) and time.monotonic() < ends:
            time.sleep(0.02)
        assert "living.json: is damaged" in "".join(command.lines)
        assert index.rows == 0
        (living.path / "living.json").write_bytes(snapshot)
        living.add(np.zeros((2, 8), np.float32))
        wait_for(2)


def test_the_server_has_the_fast_parser_and_loop(living: LivingIndex) -> None:
    """What the extra `serve` brings is in use: both libraries are mapped into the process."""
    with serving(living.path, "--read-only") as command:
        assert ask(command.url, "GET", "/health")[0] == 200
        maps = Path(f"/proc/{command.process.pid}/maps").read_text()
    assert "httptools" in maps and "uvloop" in maps


def test_an_index_that_was_built_takes_updates(index_copy: Callable[..., Path]) -> None:
    folder = index_copy(*SMALL)
    with serving(folder) as command, Client(command.url) as client:
        assert client.index(folder.name).add(np.zeros((1, 24), np.uint8)).tolist() == [400]
        assert command.stop() == 0
    with LivingIndex.open(folder) as index:
        assert len(index) == 401


@pytest.mark.parametrize("durability", ["always", "batch"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing_acknowledged(
    durability: str, number: signal.Signals, living: LivingIndex
) -> None:
    """Clients add as fast as they can while the signal comes; what was acknowledged is there, and all is whole."""
    living.close()
    acknowledged: list[tuple[np.ndarray, np.ndarray]] = []
    enough = threading.Event()

    def write(client: int) -> None:
        rows = make_vectors(2000, 8, "float32", seed=client)
        try:
            with Client(command.url) as opened:
                index = opened.index("living")
                for start in range(0, 2000, 2):
                    ids = 10_000 * (client + 1) + np.arange(start, start + 2)
                    index.add(rows[start : start + 2], ids)
                    acknowledged.append((ids, rows[start : start + 2]))
                    if len(acknowledged) >= 100:
                        enough.set()
        except ConnectionError:
            pass  # the server has stopped

    with serving(living.path, "--durability", durability) as command, ThreadPoolExecutor(8) as clients:
        work = [clients.submit(write, client) for client in range(8)]
        assert enough.wait(60)
        command.process.send_signal(number)
        assert command.process.wait(60) == 0
        for one in work:
            one.result()
    ids, rows = (np.concatenate(arrays) for arrays in zip(*acknowledged, strict=True))
    with LivingIndex.open(living.path) as index:
        np.testing.assert_array_equal(index.get(ids), rows)
        assert index.verify() == []


# --- what it tells about itself -----------------------------------------------------------------------------


def samples(text: str) -> dict[str, float]:
    """Prometheus' text format, by name and labels; every line must be one of it."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            match = re.fullmatch(r'([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*\})?) (\S+)', line)
            assert match, line
            found[match[1]] = float(match[2])
    return found


def test_metrics_count_what_was_done(living: LivingIndex) -> None:
    """Requests by route and status, their times, queries, rows."""
    with running({'liv"ing': living}) as url:
        for _ in range(3):
            call(url, "liv%22ing/search", {"queries": [VECTOR, VECTOR]})
        call(url, "liv%22ing/delete", {"ids": [0, 1]})
        ask(url, "POST", "/v1/indexes/liv%22ing/search", b"{}", JSON)
        ask(url, "GET", "/v1/nothing")
        status, body, headers = ask(url, "GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found, route = samples(body.decode()), "/v1/indexes/{name}/search"
    assert found[f'tenfold_http_requests_total{{method="POST",route="{route}",status="200"}}'] == 3
    assert found[f'tenfold_http_requests_total{{method="POST",route="{route}",status="422"}}'] == 1
    assert found['tenfold_http_requests_total{method="GET",route="none",status="404"}'] == 1
    assert found[f'tenfold_http_request_seconds_count{{route="{route}"}}'] == 4
    buckets = [
        value
        for name, value in found.items()
        if name.startswith(f'tenfold_http_request_seconds_bucket{{route="{route}"')
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 4
    assert found['tenfold_queries_total{index="liv\\"ing"}'] == 6
    assert found['tenfold_batches_total{index="liv\\"ing"}'] == 3
    assert found['tenfold_rows{index="liv\\"ing"}'] == 98
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_health_and_readiness(living: LivingIndex) -> None:
    """Told to stop, it is alive and answers, but wants no more requests, for as long as `--drain` says."""
    living.close()
    with serving(living.path, "--drain", 3600) as command:
        assert ask(command.url, "GET", "/health")[:2] == (200, b'{"status":"ok"}')
        assert ask(command.url, "GET", "/ready")[:2] == (200, b'{"status":"ready"}')
        command.process.send_signal(signal.SIGTERM)
        while (answer := ask(command.url, "GET", "/ready"))[0] == 200:
            time.sleep(0.01)
        assert (answer[0], json.loads(answer[1])) == (503, {"detail": "the server is stopping"})
        assert ask(command.url, "GET", "/health")[0] == 200
        assert call(command.url, "living/search", {"queries": [VECTOR]})["ids"]
        assert command.stop() == 0  # the second time it does not wait


@pytest.mark.parametrize("log_json", [False, True])
def test_the_access_log_has_a_line_per_request(log_json: bool, living: LivingIndex) -> None:
    living.close()
    with serving(living.path, "--read-only", *(["--log-json"] if log_json else [])) as command:
        ask(command.url, "GET", "/health")
        ask(command.url, "POST", "/v1/indexes/living/search?k=3", b"{}", JSON)
        ask(command.url, "GET", "/v1/%0Aforged")
        command.stop()
    said = command.lines[1:-1]
    assert command.lines[-1] == "tenfold: stopped; all changes are on the disk\n"
    wanted = [("GET", "/health", 200), ("POST", "/v1/indexes/living/search", 422), ("GET", "/v1/%0Aforged", 404)]
    assert len(said) == 3
    for line, (method, path, status) in zip(said, wanted, strict=True):
        if log_json:
            facts = json.loads(line)
            assert (facts["client"], facts["method"], facts["path"], facts["status"]) == (
                "127.0.0.1",
                method,
                path,
                status,
            )
        else:
            assert re.fullmatch(rf"\d{{4}}-\S+Z? 127\.0\.0\.1 {method} {path} {status} [\d.]+\n", line), line


def test_the_page_needs_nothing_from_elsewhere(living: LivingIndex) -> None:
    with running({"living": living}) as url:
        status, body, headers = ask(url, "GET", "/")
        assert ask(url, "GET", "/docs")[2]["Location"] == "/#api"
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "innerHTML" not in page


def test_openapi_describes_every_route(living: LivingIndex) -> None:
    with running({"living": living}, token=TOKEN) as url:
        schema = json.loads(ask(url, "GET", "/openapi.json")[1])
    verbs = {"search", "get", "add", "update", "delete"}
    assert {f"/v1/indexes/{{name}}/{verb}" for verb in verbs} <= set(schema["paths"])
    for path, methods in schema["paths"].items():
        for facts in methods.values():
            assert facts["description"]
            if path.startswith("/v1"):
                assert facts["security"] == [{"HTTPBearer": []}]
                assert "401" in facts["responses"]
    body = schema["paths"]["/v1/indexes/{name}/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", NPY}
    assert set(body["application/json"]["schema"]["properties"]) == {"queries", "k", "recall", "filter"}
