"""What requests say and answers look like: JSON objects with named fields, or numbers as `.npy`.

Of an `.npy` body the arrays are the fields of the JSON object in their order; what are no arrays may stand in the query
string. New fields of JSON objects need defaults; unknown ones are refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from tenfold.core.errors import InputError
from tenfold.search.bodies import unpack

__all__ = [
    "ADD",
    "BY_IDS",
    "SEARCH",
    "UPDATE",
    "Attributes",
    "Deleted",
    "Form",
    "Health",
    "Ids",
    "IndexList",
    "Limits",
    "Neighbours",
    "Problem",
    "Updated",
    "Vectors",
]

Matrix = list[list[float]]
IdList = list[int | str]
Values = dict[str, list[int | float | str | bool | None]]

_MOST_EXTRAS = 18  # values of a row besides its vector: its id and attributes
_BYTES_PER_VALUE = 16  # of JSON; where values take as many, they need little more memory than the body


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _SearchOptions(_Message):
    k: int = Field(default=10, ge=1, description="Results per query.")
    recall: float = Field(
        default=0.95, gt=0, le=1, description="Wanted share of the true neighbours; 1 searches everything."
    )
    filter: dict[str, Any] | None = Field(default=None, description="What the attributes of results must be.")


class _SearchQuery(_SearchOptions):
    filter: Json[dict[str, Any]] | None = Field(default=None, description="The same as JSON.")


class _Search(_SearchOptions):
    queries: Matrix = Field(description="One list of numbers per query.")


class _Rows(_Message):
    vectors: Matrix = Field(description="One list of numbers per row.")
    attributes: Values | None = Field(default=None, description="By column, one value per row; null where it has none.")


class _Add(_Rows):
    ids: IdList | None = Field(default=None, description="Ids of the rows; without, the server chooses numbers.")


class _Update(_Rows):
    ids: IdList = Field(description="Ids of the rows; those that are not there are added.")


class Ids(_Message):
    """Ids of rows."""

    ids: IdList = Field(description="Whole numbers from 0 on, or texts where the index has those.")


class Neighbours(BaseModel):
    """The nearest rows of each query, nearest first; lists are shorter than k where there are fewer rows."""

    distances: Matrix
    ids: list[IdList]
    partial: bool = Field(default=False, description="Of an index in shards: whether some of them did not answer.")
    missing_shards: list[str] = Field(default=[], description="Their names; their rows are not among the results.")


class Vectors(BaseModel):
    """One list of numbers per id."""

    vectors: Matrix


class Attributes(BaseModel):
    """By column, one value per id; null where a row has none."""

    attributes: Values


class Updated(BaseModel):
    """How many of the ids were there before."""

    updated: int


class Deleted(BaseModel):
    """How many of the ids were there."""

    deleted: int


class Limits(BaseModel):
    """What one request may ask for."""

    body_bytes: int = Field(default=64 << 20, description="Bytes of a body.")
    k: int = Field(default=10_000, description="Results per query.")
    batch: int = Field(default=10_000, description="Queries, vectors or ids.")
    results: int = Field(default=1_000_000, description="Queries times k.")


class IndexSummary(BaseModel):
    """What an index holds."""

    name: str
    rows: int
    dim: int
    dtype: str
    metric: str
    ids: str = Field(description="int64 or string.")
    columns: dict[str, str] = Field(description="Types of the rows' attributes by name.")
    read_only: bool


class IndexList(BaseModel):
    """The indexes of a server, and what one request may ask for."""

    indexes: list[IndexSummary]
    limits: Limits


class Health(BaseModel):
    """How the server is."""

    status: str


class Problem(BaseModel):
    """What was wrong, and what to do."""

    detail: str


class Form(NamedTuple):
    """What a request may say.

    Attributes:
        json: The JSON object.
        arrays: Names of its fields that are the arrays of an `.npy` body.
        fewest: So many arrays at least.
        query: What may stand in the query string.
    """

    json: type[_Message]
    arrays: tuple[str, ...]
    fewest: int = 1
    query: type[_Message] = _Message

    def read(self, body: bytes, is_npy: bool, query: Mapping[str, str], batch: int, dim: int) -> dict[str, Any]:
        """All fields, defaults included; arrays are lists or NumPy's.

        Raises InputError where one is missing, unknown, of another type, or has more than `batch` rows, or where there
        are far more values than such rows of dimension `dim` have.
        """
        most = max(batch * (dim + _MOST_EXTRAS), len(body) // _BYTES_PER_VALUE)
        if not is_npy and body.count(b",") > most:  # before they take the memory that so many objects need
            raise InputError(f"the body holds more than {most:,} values; send it in several requests")
        try:
            options = _given(self.query.model_validate_strings(query))
            fields = self._read_arrays(body) if is_npy else _given(self.json.model_validate_json(body))
        except ValidationError as error:
            raise _plain(error) from None
        for name in self.arrays:
            rows = fields.get(name)
            if rows is not None and len(rows) > batch:
                raise InputError(f"{name}: {len(rows):,} are too many; send {batch:,} at a time")
        defaults = {name: field.default for name, field in self.json.model_fields.items() if not field.is_required()}
        return defaults | options | fields

    def _read_arrays(self, body: bytes) -> dict[str, Any]:
        arrays = unpack(body)
        if not self.fewest <= len(arrays) <= len(self.arrays):
            raise InputError(f"the body holds {len(arrays)} arrays; wanted are {' and '.join(self.arrays)}")
        return dict(zip(self.arrays, arrays, strict=False))


SEARCH = Form(_Search, ("queries",), query=_SearchQuery)
ADD = Form(_Add, ("vectors", "ids"))
UPDATE = Form(_Update, ("vectors", "ids"), fewest=2)
BY_IDS = Form(Ids, ("ids",))


def _given(message: BaseModel) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.model_fields_set}


def _plain(error: ValidationError) -> InputError:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return InputError(f"{place}: {first['msg']}" if place else first["msg"])
