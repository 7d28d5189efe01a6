"""Runbooks of big-ann-benchmarks' streaming track: rows come and go step by step, and searches in between are measured.

    my-vectors:                     # a data set; a file may hold several
      max_pts: 10000
      1: {operation: insert, start: 0, end: 5000}         # rows 0 ... 4999 of the file, under those ids
      2: {operation: search}
      3: {operation: delete, start: 0, end: 100}
      4: {operation: replace, tags_start: 100, tags_end: 200, ids_start: 5000, ids_end: 5100}

q queries · k results · n rows of a step
"""

import importlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search import _native
from tenfold.search.exact import check_count, check_queries, recall_at_k
from tenfold.search.formats.source import VectorSource
from tenfold.search.formats.truth import read_ground_truth
from tenfold.search.living import LivingIndex
from tenfold.search.space import Metric

__all__ = ["Measured", "Runbook", "Step", "read_runbook", "run_runbook"]

Operation = Literal["insert", "delete", "replace", "search"]

_FIELDS: dict[Operation, tuple[str, ...]] = {
    "insert": ("start", "end"),
    "delete": ("start", "end"),
    "replace": ("tags_start", "tags_end", "ids_start", "ids_end"),
    "search": (),
}
_MOST_BYTES = 4 << 20
_BLOCK_ROWS = 8192


class Step(NamedTuple):
    """What is done: to the ids from `start` to before `stop`, with the rows of the file from `first_row` on."""

    number: int
    operation: Operation
    start: int = 0
    stop: int = 0
    first_row: int = 0


@dataclass(frozen=True)
class Runbook:
    """The steps for one data set.

    Attributes:
        name: Of the data set.
        steps: In order.
    """

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Measured:
    """What a step took; of a search also what it found.

    Attributes:
        step: Its number.
        operation: What it was.
        rows: Rows in the index, after it.
        seconds: How long it took.
        recall: Of a search, recall@k.
        qps: Of a search, queries per second: all of them in one batch.
    """

    step: int
    operation: Operation
    rows: int
    seconds: float
    recall: float | None = None
    qps: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As `runbook --json` prints it."""
        return asdict(self)


def read_runbook(path: str | Path, dataset: str = "") -> Runbook:
    """Read the steps for a data set; without its name, for the only one there.

    Raises InputError where the file is no runbook, or has no such data set.
    """
    content = _read_yaml(Path(path))
    named = {str(name): steps for name, steps in content.items() if isinstance(steps, dict)}
    if not dataset and len(named) != 1:
        raise InputError(f"{path}: holds {len(named)} data sets ({', '.join(named)}); name one of them")
    name = dataset or next(iter(named))
    if name not in named:
        raise InputError(f"{path}: has no data set {name!r}; it has {', '.join(named)}")
    entries, steps = named[name], list[Step]()
    while (number := len(steps) + 1) in entries:
        steps.append(_parse(f"{path}: step {number}", number, entries[number]))
    beyond = [key for key in entries if isinstance(key, int) and key > len(steps)]
    if not steps or beyond:
        raise InputError(f"{path}: {name} has no step {len(steps) + 1}; steps are numbered from 1 on, without a gap")
    return Runbook(name, tuple(steps))


def run_runbook(
    runbook: Runbook,
    source: VectorSource,
    queries: np.ndarray,
    index: LivingIndex,
    k: int = 10,
    *,
    recall: float = 0.95,
    truth: Path | None = None,
    progress: Progress = no_progress,
) -> Iterator[Measured]:
    """Play a runbook, and yield what each step took when it is done.

    Args:
        runbook: The steps.
        source: The vectors that steps name by row.
        queries: (q, dim), for every search.
        index: An empty index whose ids are numbers.
        k: Results per query.
        recall: Wanted recall, as for `LivingIndex.search`.
        truth: A folder with big-ann's `stepN.gt100` for every search; default: exact search over the rows that are
            there by then, besides the clock.
        progress: Called with the steps done.

    Raises:
        InputError: Before the first step, where one names rows or ids that are not there.
    """
    _check_steps(runbook, source, index)
    k, queries = check_count("k", k), check_queries(queries, source.dim, source.dtype)
    rows_of = np.full(source.rows, -1, np.int64)  # by id, the row of the source
    for step in runbook.steps:
        start = time.perf_counter()
        if step.operation == "search":
            distances, _ = index.search(queries, k, recall=recall)
            seconds = time.perf_counter() - start
            width = min(k, max(1, len(index)))
            if truth is None:
                wanted = _true_distances(source, rows_of, queries, width, index.metric)
            else:
                wanted = _given_distances(truth, step.number, index, queries, width)
            reached = recall_at_k(distances, wanted, width, index.metric)
            yield Measured(step.number, "search", len(index), seconds, reached, len(queries) / seconds)
        else:
            _change(index, source, step)
            rows_of[step.start : step.stop] = (
                -1 if step.operation == "delete" else np.arange(step.stop - step.start) + step.first_row
            )
            yield Measured(step.number, step.operation, len(index), time.perf_counter() - start)
        progress("runbook", step.number, len(runbook.steps))


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise InputError(f"{path}: reading a runbook needs pyyaml: pip install 'tenfold[adapters]'") from None
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        content = yaml.safe_load(text) if len(text) <= _MOST_BYTES else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no YAML: {' '.join(str(error).split()):.200}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no runbook; it must name data sets, and number the steps of each")
    return content


def _parse(place: str, number: int, entry: Any) -> Step:
    operation = entry.get("operation") if isinstance(entry, dict) else None
    if not isinstance(operation, str) or operation not in _FIELDS:
        raise InputError(f"{place}: its operation is {operation!r}; it must be one of {', '.join(_FIELDS)}")
    fields = [entry.get(name) for name in _FIELDS[operation]]
    for name, value in zip(_FIELDS[operation], fields, strict=True):
        if type(value) is not int or value < 0:
            raise InputError(f"{place}: {name} is {value!r}; {operation} needs a whole number from 0 on")
    step = Step(number, operation, *fields[:2], *(fields[2:3] or fields[:1]))
    if step.stop < step.start or (operation == "replace" and fields[3] - fields[2] != fields[1] - fields[0]):
        raise InputError(
            f"{place}: its ranges are {', '.join(map(str, fields))}; they end before they begin, or differ"
        )
    return step


def _check_steps(runbook: Runbook, source: VectorSource, index: LivingIndex) -> None:
    """InputError where a step cannot be done, so that it shows before the work."""
    if len(index) or index.ids != "int64":
        raise InputError(f"{index.path}: a runbook needs an empty index whose ids are numbers")
    if (index.dim, index.dtype) != (source.dim, source.dtype):
        raise InputError(
            f"{index.path}: holds {index.dtype} x {index.dim}, {source.name} {source.dtype} x {source.dim}"
        )
    there = np.zeros(source.rows, bool)
    for number, operation, start, stop, first_row in runbook.steps:
        last_row = first_row + stop - start
        if max(stop, last_row) > source.rows:
            raise InputError(
                f"{runbook.name}: step {number} names row {max(stop, last_row) - 1:,}; "
                f"{source.name} has {source.rows:,} rows"
            )
        is_new = operation == "insert"
        wrong = np.flatnonzero(there[start:stop] == is_new)
        if len(wrong):
            state = "there already" if is_new else "not there"
            raise InputError(
                f"{runbook.name}: step {number} is to {operation} id {start + wrong[0]:,}, which is {state}"
            )
        if operation != "search":
            there[start:stop] = operation != "delete"


def _change(index: LivingIndex, source: VectorSource, step: Step) -> None:
    if step.operation == "delete":
        index.delete(np.arange(step.start, step.stop))
        return
    put, at = (index.add if step.operation == "insert" else index.update), step.start
    blocks = source.blocks(_BLOCK_ROWS, step.first_row)
    while at < step.stop:
        rows = next(blocks)[: step.stop - at]
        put(rows, np.arange(at, at + len(rows)))
        at += len(rows)


def _true_distances(
    source: VectorSource, rows_of: np.ndarray, queries: np.ndarray, k: int, metric: Metric
) -> np.ndarray:
    """Distances (q, k) of the nearest of those rows of the source that ids have, by comparing with each."""
    distances, ids = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    held = np.flatnonzero(rows_of >= 0)
    held = held[np.argsort(rows_of[held], kind="stable")]
    wanted, first = rows_of[held], 0
    for block in source.blocks(_BLOCK_ROWS):
        part = slice(*np.searchsorted(wanted, (first, first + len(block))).tolist())
        near = np.ascontiguousarray(block[wanted[part] - first])
        threads = _native.usable_cores()
        _native.exact(near, source.dtype.name, metric, queries, 0, distances, ids, threads, row_ids=held[part])
        first += len(block)
    return distances


def _given_distances(folder: Path, step: int, index: LivingIndex, queries: np.ndarray, k: int) -> np.ndarray:
    """Distances (q, k) of the neighbours that a file names, computed anew."""
    found = sorted(folder.glob(f"step{step}.gt*"))
    if not found:
        raise InputError(f"{folder}: has no step{step}.gt100, the true neighbours for that search")
    ids = read_ground_truth(found[0]).ids
    if ids.shape[0] != len(queries) or ids.shape[1] < k:
        raise InputError(
            f"{found[0]}: has {ids.shape[1]} neighbours of {ids.shape[0]:,} queries; {k} of {len(queries):,} are needed"
        )
    try:
        return index.distances_to(queries, ids[:, :k])
    except InputError as error:
        raise InputError(f"{found[0]}: {error} at step {step}; is it of another runbook?") from None
