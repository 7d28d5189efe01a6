"""The verbs of `tenfold search` that change an index: create, add, delete, compact, runbook."""

import json as json_format
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
import tyro

from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Table
from tenfold.search.columns import Columns, Values, check_value
from tenfold.search.data import open_vectors
from tenfold.search.living import LivingIndex
from tenfold.search.log import Durability
from tenfold.search.runbook import read_runbook, run_runbook
from tenfold.search.snapshot import IdKind
from tenfold.search.space import Dtype, Metric

__all__ = ["add", "compact", "create", "delete", "runbook"]

_BLOCK_ROWS = 8192
_MOST_ID_BYTES = 1 << 33


def create(
    index: Path,
    dim: int,
    dtype: Dtype = "float32",
    metric: Metric = "l2",
    ids: IdKind = "int64",
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=TYPE")] = (),
    memory_budget: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "1GB",
    codec: Literal["auto", "pq", "rabitq"] = "auto",
    code_bytes: int = 0,
    rows_per_list: int = 128,
    second_lists: bool = False,
    seed: int = 0,
) -> None:
    """Make an empty index that takes updates.

    Example: tenfold search create my_vectors 128 --dtype uint8

    Args:
        index: Folder to make.
        dim: Dimension of the vectors.
        dtype: Their type.
        metric: How nearness is measured.
        ids: What ids are: whole numbers from 0 on, or texts.
        columns: Attributes of the vectors: int, float, category or bool.
        memory_budget: What sealing and merging may hold.
        codec: Codes kept in memory; auto takes rabitq from dimension 256 on, else pq.
        code_bytes: Bytes of code per vector; 0 chooses by dimension.
        rows_per_list: Mean number of vectors per list.
        second_lists: A code of every vector in a second list too.
        seed: Makes sealing and merging repeatable.
    """
    LivingIndex.create(
        index,
        dim,
        dtype=dtype,
        metric=metric,
        ids=ids,
        columns=dict(_named(column) for column in columns),
        codec=None if codec == "auto" else codec,
        code_bytes=code_bytes or None,
        memory_budget=memory_budget,
        rows_per_list=rows_per_list,
        second_lists=second_lists,
        seed=seed,
    ).close()


def add(
    index: Path,
    vectors: Path,
    ids: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
    attributes: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
    update: bool = False,
    durability: Durability = "batch",
    memory_budget: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "",
    key: str = "",
    json: bool = False,
) -> None:
    """Add the vectors of a file to an index.

    An index that was built takes updates from then on. Interrupted, it keeps what the progress bar said.

    Example: tenfold search add my_vectors more.fvecs

    Args:
        index: Index folder.
        vectors: File of vectors.
        ids: Their ids: a .npy file of whole numbers, or a text file with one per line; default: from the largest on.
        attributes: Their attributes: a file with a JSON object of values by column on each line.
        update: Replace the vectors of ids that are there already, instead of refusing them.
        durability: When changes are on the disk: always, before each block counts as done; batch; none.
        memory_budget: What sealing and merging may hold from now on; default: as before, 1GB if it was never said.
        key: Data set, array or column in files that hold several.
        json: Print one JSON object instead of a line.
    """
    source = open_vectors(vectors, key=key or None)
    replaced = done = 0
    budget = memory_budget or None
    opening = LivingIndex.open(index, durability=durability, memory_budget=budget)
    with opening as opened, progress_bar() as progress, ExitStack() as files:
        numbers = _read_ids(Path(ids), opened.ids) if ids else None
        if numbers is not None and len(numbers) != source.rows:
            raise InputError(f"{ids}: has {len(numbers):,} ids, {vectors} {source.rows:,} vectors")
        if update and numbers is None:
            raise InputError("--update needs to know which vectors to replace: give --ids FILE")
        lines = files.enter_context(_opened(Path(attributes))) if attributes else None
        for block in source.blocks(_BLOCK_ROWS):
            some = None if numbers is None else numbers[done : done + len(block)]
            values = None if lines is None else _values(attributes, lines, done, len(block), opened.columns)
            if update and some is not None:
                replaced += opened.update(block, some, values)
            else:
                opened.add(block, some, values)
            done += len(block)
            progress("add", done, source.rows)
        rows = len(opened)
    _say(json, {"added": done - replaced, "replaced": replaced, "rows": rows})


def delete(
    index: Path,
    ids: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID")] = (),
    file: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
    json: bool = False,
) -> None:
    """Delete vectors from an index; ids that are not there are passed over.

    Example: tenfold search delete my_vectors --ids 17 4711

    Args:
        index: Index folder.
        ids: Ids of the vectors.
        file: Further ids: a .npy file of whole numbers, or a text file with one per line.
        json: Print one JSON object instead of a line.
    """
    if not ids and not file:
        raise InputError("there is nothing to delete: give --ids, or --file FILE")
    with LivingIndex.open(index) as opened:
        given = [*_parsed("--ids", ids, opened.ids), *(_read_ids(Path(file), opened.ids) if file else ())]
        deleted = opened.delete(given)
        rows = len(opened)
    _say(json, {"deleted": deleted, "not_there": len(set(given)) - deleted, "rows": rows})


def compact(index: Path, memory_budget: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "", json: bool = False) -> None:
    """Write all vectors of an index anew, as one segment, and give back the room of deleted ones.

    Example: tenfold search compact my_vectors

    Args:
        index: Index folder.
        memory_budget: What this, and sealing and merging from now on, may hold; default: as before.
        json: Print one JSON object instead of a line.
    """
    with LivingIndex.open(index, memory_budget=memory_budget or None) as opened:
        before = opened.stats()["index_bytes"]
        opened.compact()
        after = opened.stats()["index_bytes"]
        rows = len(opened)
    _say(json, {"bytes_before": before, "bytes_after": after, "rows": rows})


def runbook(
    runbook: Path,
    base: Path,
    queries: Path,
    index: Path,
    dataset: str = "",
    metric: Metric = "l2",
    k: int = 10,
    recall: float = 0.95,
    truth: Path | None = None,
    memory_budget: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "1GB",
    json: bool = False,
) -> None:
    """Play a streaming runbook of big-ann-benchmarks, and measure the recall of each of its searches.

    Example: tenfold search runbook runbook.yaml base.u8bin query.u8bin my_index

    Args:
        runbook: YAML file of steps.
        base: File of the vectors that the steps name.
        queries: File of the queries for every search.
        index: Folder to make.
        dataset: The steps for which data set; default: the only one in the file.
        metric: How nearness is measured.
        k: Neighbours per query.
        recall: Wanted share of the true neighbours.
        truth: Folder with a file stepN.gt100 for each search; default: found by exact search.
        memory_budget: What sealing and merging may hold.
        json: Print a JSON object per step instead of a table.
    """
    steps, source = read_runbook(runbook, dataset), open_vectors(base)
    asked = open_vectors(queries)
    rows = np.concatenate([np.zeros((0, asked.dim), asked.dtype), *asked.blocks(_BLOCK_ROWS)])
    made = LivingIndex.create(
        index, source.dim, dtype=source.dtype, metric=metric, memory_budget=memory_budget, durability="none"
    )
    done = []
    with made, progress_bar() as progress:
        for one in run_runbook(steps, source, rows, made, k, recall=recall, truth=truth, progress=progress):
            done.append(one)
            if json:
                print(json_format.dumps(one.to_json()), flush=True)
    if not json:
        header = ["step", "operation", "rows", "seconds", f"recall@{k}", "queries per second"]
        cells = [[o.step, o.operation, o.rows, o.seconds, o.recall, o.qps] for o in done]
        Table(f"{steps.name}: {len(done)} steps, {len(rows):,} queries", header, cells).print()


def _say(json: bool, facts: dict[str, Any]) -> None:
    print(
        json_format.dumps(facts)
        if json
        else ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in facts.items())
    )


def _named(column: str) -> tuple[str, Any]:
    name, sign, kind = column.rpartition("=")
    if not sign:
        raise InputError(f"--columns: {column!r} is not NAME=TYPE, such as year=int")
    return name, kind


def _read_ids(path: Path, kind: IdKind) -> Any:
    """Ids (n,) from a file; InputError where it holds others than the index has."""
    try:
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False, mmap_mode="r")
            if ids.ndim != 1 or ids.dtype.kind not in "iuU":
                raise InputError(f"{path}: holds {ids.dtype} of shape {ids.shape}; ids are needed, in one row")
            return ids.tolist() if ids.dtype.kind == "U" else np.asarray(ids)
        if path.stat().st_size > _MOST_ID_BYTES:
            raise InputError(f"{path}: is larger than {_MOST_ID_BYTES:,} bytes; give ids as a .npy file")
        return _parsed(str(path), path.read_text().splitlines(), kind)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no file of ids: {error}") from None


def _parsed(place: str, texts: Sequence[str], kind: IdKind) -> list[Any]:
    if kind == "string":
        return list(texts)
    for number, text in enumerate(texts):
        if not re.fullmatch(r"\d{1,19}", text.strip()):
            raise InputError(f"{place}: id {number} is {text!r:.60}, no whole number from 0 on, as this index has")
    return [int(text) for text in texts]


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield lines
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _values(name: str, lines: IO[str], first: int, rows: int, columns: Columns) -> Values:
    """The next lines' attributes by column."""
    values: Values = {column: [None] * rows for column in columns}
    for row in range(rows):
        place = f"{name}: line {first + row + 1:,}"
        try:
            line = lines.readline()
        except UnicodeDecodeError:
            raise InputError(f"{name}: is no text; one JSON object per vector is needed, each on a line") from None
        try:
            given = json_format.loads(line)
            is_object = isinstance(given, dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            what = "ends there" if not line else "is no JSON object"
            raise InputError(f"{place} {what}; one object per vector is needed")
        for column, value in given.items():
            try:
                if value is not None:
                    values[column][row] = check_value(columns, column, value)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
    return values
