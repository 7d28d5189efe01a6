"""Requests made up from the server's own description, good and bad: none makes it fail, answers are as described."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracles import make_vectors
from running import running
from schemathesis import Case, GenerationMode, checks

from tenfold.search import LivingIndex
from tenfold.search.bodies import NPY, pack
from tenfold.search.messages import Limits

DIM = 3
TOKEN = "correct-horse-battery-staple"
OPERATIONS = [
    *(("POST", f"/v1/indexes/{{name}}/{verb}") for verb in ("search", "get", "attributes", "add", "update", "delete")),
    *(("GET", path) for path in ("/v1/indexes", "/v1/indexes/{name}/stats", "/health", "/ready", "/metrics")),
]


@st.composite
def npy_bodies(draw: st.DrawFn) -> bytes:
    """Arrays that fit, arrays that do not, and broken ones."""
    rows = draw(st.integers(0, 4))
    vectors = np.array(draw(st.lists(st.floats(width=32), min_size=rows * DIM, max_size=rows * DIM)), np.float32)
    shape = draw(st.sampled_from([(rows, DIM), (DIM, rows), (rows * DIM,), (rows, DIM, 1)]))
    ids = np.array(draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4)), np.int64)
    dtype = draw(st.sampled_from(["f4", "f8", "f2", "i4", ">f4"]))
    with np.errstate(all="ignore"):
        rows_body, ids_body = pack(vectors.reshape(shape).astype(dtype)), pack(ids)
    body = draw(st.sampled_from([rows_body, ids_body, rows_body + ids_body]))
    cut, at, byte = draw(st.integers(0, len(body))), draw(st.integers(0, len(body) - 1)), draw(st.binary(max_size=2))
    return draw(st.sampled_from([body, body, body[:cut], body[:at] + byte + body[at + 1 :]]))


schemathesis.openapi.media_type(NPY, npy_bodies())


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description of a running server, of an index with numbers and one with texts as ids."""
    folder: Path = tmp_path_factory.mktemp("schema")
    columns: dict[str, Any] = {"a": "int", "b": "category"}
    with (
        LivingIndex.create(folder / "numbers", DIM) as numbers,
        LivingIndex.create(folder / "texts", DIM, ids="string", columns=columns) as texts,
    ):
        numbers.add(make_vectors(50, DIM, "float32"))
        texts.add(make_vectors(50, DIM, "float32"), [str(number) for number in range(50)], {"a": range(50)})
        limits = Limits(body_bytes=1 << 20, k=1000, batch=1000, results=10_000)
        with running({"numbers": numbers, "texts": texts}, token=TOKEN, limits=limits) as url:
            yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
        *((*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[0] == "POST"),
    ],
)
def test_made_up_requests(method: str, path: str, mode: GenerationMode, schema: Any) -> None:
    """The same ones in every run."""
    operation = schema[path][method]

    @given(operation.as_strategy(generation_mode=mode), st.sampled_from(["numbers", "texts"]), st.booleans())
    @settings(
        max_examples=60, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    def check(case: Case, name: str, fits: bool) -> None:
        if "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = name
        for field in {"queries", "vectors"} & set(case.body if fits and isinstance(case.body, dict) else ()):
            ids = case.body.get("ids")
            for option in {"k", "filter", "attributes"} & set(case.body):
                del case.body[option]  # which the description cannot know to fit this index
            case.body[field] = make_vectors(len(ids) if isinstance(ids, list) else 2, DIM, "float32").tolist()
        case.call_and_validate(
            headers={"Authorization": f"Bearer {TOKEN}"},
            checks=[
                checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )

    check()


def test_every_operation_is_tried(schema: Any) -> None:
    described = {(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()}
    assert described == set(OPERATIONS)
