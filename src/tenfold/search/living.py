"""An index that takes updates: sealed segments, a delta in memory, and a log of what the segments do not know yet.

    add, delete ---> log-N (disk) ---> delta (memory) ---> segment-N (disk, a sealed index) ---> fewer, larger ones
                     record by record  exact search        when the delta is full                by merging

`living.json` names the segments, the files of their deleted rows, and the first log to replay; it is replaced whole
whenever that changes (`stack.py`). A search takes the view that is current when it begins, which nothing changes any
more: it sees each call of `add`, `update` and `delete` as a whole or not at all, but for calls of many megabytes, which
are cut into several. Segments are made by a process of its own, one at a time (`maintaining.py`, `sealing.py`).

q queries · k results · n rows of a call
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args, overload

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search import _native
from tenfold.search.codec import CodecKind
from tenfold.search.columns import ColumnType, Values, check_columns, check_values
from tenfold.search.delta import DeltaView
from tenfold.search.exact import check_count, check_queries, check_vectors, count_threads
from tenfold.search.filters import parse_filter
from tenfold.search.formats.source import ArrayVectors
from tenfold.search.ids import NAMES_FILE, Names, check_names, check_numbers
from tenfold.search.index import Index, IoBackend, Rerank, SearchStats, check_options
from tenfold.search.log import Durability, read_log
from tenfold.search.maintaining import Maintainer
from tenfold.search.manifest import read_manifest
from tenfold.search.memory import parse_size
from tenfold.search.pages import distances_to
from tenfold.search.segments import Sealed, Segment, read_hidden, write_ids
from tenfold.search.settings import build_arguments, choose_config
from tenfold.search.snapshot import IdKind, Part, Snapshot, is_living, read_snapshot, write_snapshot
from tenfold.search.space import Metric
from tenfold.search.stack import Opening, Stack, numbers_in, remove
from tenfold.search.storage import INDEX_FILES, sync_folder
from tenfold.search.tables import check_table_file
from tenfold.search.verifying import verify_index
from tenfold.search.views import Asked
from tenfold.search.workplace import check_place, locked

__all__ = ["Ids", "LivingIndex", "verify_living"]

Ids = Sequence[int] | Sequence[str] | np.ndarray
"""Ids of rows, one per row: whole numbers from 0 on, or texts where the index was made for those."""


class LivingIndex:
    """An index folder that takes vectors and gives them up again while it is searched.

    Make one by `LivingIndex.create`, open one, or an index made by `Index.build`, by `LivingIndex.open`. Any number of
    threads may call any method. One process at a time may write; others may open it `read_only`.

    Attributes:
        path: The folder.
        dim: Dimension of the vectors.
        dtype: Their type: float32, float16, uint8 or int8.
        metric: "l2", "ip" or "cosine".
        ids: What ids are: "int64", whole numbers from 0 on, or "string".
        columns: Types of the rows' attributes by name.
        read_only: Whether it was opened so.
    """

    def __init__(self, path: Path, opening: Opening, closing: ExitStack) -> None:
        """`closing` is what is to be done in the end; it is taken over only by `open`, when all went well."""
        self.path, self.read_only = path, opening.read_only
        self._closing = closing
        self._stack = Stack(path, opening)
        closing.callback(self._stack.close)  # also where what follows fails
        self._maintainer = Maintainer(self._stack)
        snapshot = self._stack.snapshot
        self.dim, self.dtype, self.metric = snapshot.dim, np.dtype(snapshot.dtype), snapshot.metric
        self.ids, self.columns = snapshot.ids, snapshot.columns
        self._names = None
        if snapshot.ids == "string":
            self._names = Names(path / NAMES_FILE, read_only=opening.read_only)
            closing.callback(self._names.close)

    # --- making and opening ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        dim: int,
        *,
        dtype: str | np.dtype = "float32",
        metric: Metric = "l2",
        ids: IdKind = "int64",
        columns: Mapping[str, ColumnType] | None = None,
        codec: CodecKind | None = None,
        code_bytes: int | None = None,
        memory_budget: str | int = "1GB",
        rows_per_list: int = 128,
        second_lists: bool = False,
        seed: int = 0,
        durability: Durability = "always",
    ) -> "LivingIndex":
        """Make an empty index and open it for writing.

        Args:
            path: The folder to make.
            dim: Dimension of the vectors.
            dtype: Their type: float32, float16, uint8 or int8.
            metric: "l2", "ip" (maximum inner product) or "cosine".
            ids: What ids are: "int64", whole numbers from 0 on, or "string".
            columns: Names and types of the rows' attributes, by which a search may be filtered: "int", "float",
                "category" or "bool".
            codec: How segments are built, as for `Index.build`.
            code_bytes: The same.
            memory_budget: The same; what sealing and merging may hold.
            rows_per_list: The same.
            second_lists: The same.
            seed: The same.
            durability: As for `open`.

        Raises:
            InputError: Something is in the way, or a setting out of range.
        """
        place = check_place(Path(path), overwrite=False)
        _check_choice("durability", durability, Durability)
        _check_choice("ids", ids, IdKind)
        named = check_columns(columns or {})
        try:
            none = ArrayVectors(np.zeros((0, check_count("dim", dim, 65535)), dtype), "dtype")
        except TypeError:
            raise InputError(f"dtype is {dtype!r}; choose float32, float16, uint8 or int8") from None
        settings = build_arguments(none, memory_budget, metric, codec, code_bytes, rows_per_list, seed, second_lists)
        try:
            place.mkdir(exist_ok=True)
            write_snapshot(place, Snapshot(none.dim, none.dtype.name, metric, settings, ids, named))
        except OSError as error:
            raise InputError(f"{place}: {error.strerror}; choose another place") from None
        return cls.open(place, durability=durability)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        durability: Durability = "always",
        memory_budget: str | int | None = None,
        io: IoBackend = "auto",
        cache: str | int = "0",
    ) -> "LivingIndex":
        """Open an index for updates, or one that takes updates for reading.

        An index made by `Index.build` takes updates from then on; its rows keep their numbers as ids.

        Args:
            path: The folder.
            read_only: Leave the folder as it is; any number of processes may, also while another writes.
                `refresh` shows what that one has done since.
            durability: When a change is on disk. "always": when the call that makes it returns. "batch": after at most
                1,024 calls or 4 MB, or `flush`. "none": when a delta is sealed, or the system likes.
            memory_budget: What sealing and merging may hold from now on, such as "4GB"; None: as before, which is "1GB"
                for an index that `Index.build` made.
            io: How pages of large segments are read, as for `Index.open`; small segments are kept in memory.
            cache: Memory for pages read lately, as for `Index.open`.

        Raises:
            InputError: No index there, damaged, of a newer version, or another process writes to it.
        """
        path = Path(path)
        _check_choice("durability", durability, Durability)
        _check_choice("io", io, IoBackend)
        parse_size(cache)  # of which a small segment makes no use
        budget = None if memory_budget is None else _checked_budget(memory_budget, read_only)
        with ExitStack() as stack:
            try:
                if not is_living(path):
                    if read_only:
                        raise InputError(f"{path}: takes no updates, so that nothing changes; open it with Index.open")
                    Index.open(path, io="buffered" if io == "memory" else io)  # says what is wrong, with `io` too
                if not read_only:
                    stack.enter_context(locked(path, "writes to"))
                    _adopt(path)
                if budget is not None:
                    snapshot = read_snapshot(path)
                    settings = {**snapshot.settings, "memory_budget": budget}
                    write_snapshot(path, replace(snapshot, settings=settings))
                index = cls(path, Opening(read_only, durability, io, cache), stack)
            except OSError as error:
                raise InputError(f"{error.filename or path}: {error.strerror}") from None
            index._closing = stack.pop_all()
        return index

    def close(self) -> None:
        """Bring all changes to disk and let others write; what is being merged is finished first."""
        try:
            self._stack.close()
        finally:
            self._maintainer.close()
            self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # --- searching ------------------------------------------------------------------------------------------

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., probes: int | None = ...,
        candidates: int | None = ..., rerank: Rerank = ..., filter: Mapping[str, Any] | None = ...,
        threads: int | None = ..., return_stats: Literal[False] = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., probes: int | None = ...,
        candidates: int | None = ..., rerank: Rerank = ..., filter: Mapping[str, Any] | None = ...,
        threads: int | None = ..., return_stats: Literal[True],
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]: ...  # fmt: skip

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        recall: float = 0.95,
        probes: int | None = None,
        candidates: int | None = None,
        rerank: Rerank = "bound",
        filter: Mapping[str, Any] | None = None,
        threads: int | None = None,
        return_stats: bool = False,
    ) -> tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, SearchStats]:
        """The k nearest rows of each query, about `recall` of them the true ones.

        Args:
            queries: (q, dim); float for float indexes, whole numbers in range for integer ones.
            k: Results per query.
            recall: Wanted recall@k in (0, 1]; 1.0 searches everything. It is asked of every segment.
            probes: Of every segment, as for `Index.search`.
            candidates: The same.
            rerank: The same.
            filter: Only rows that match are found, such as {"lang": "de", "year": {"$gte": 2020}}.
            threads: Default: all usable cores.
            return_stats: Also return what each query cost, in all segments together; rows that are not sealed yet are
                compared with, not read.

        Returns:
            distances (q, k) float32, ascending, and ids (q, k), int64 or texts, ties by lower number (texts are
            numbered as they come); inf and -1 or None where there are fewer than k rows. With `return_stats` a
            SearchStats too.

        Raises:
            InputError: Wrong shape or values, bad options, or a damaged page on the way.
        """
        view, k = self._stack.view, check_options(k, recall, probes, candidates, rerank)
        exact, threads = check_queries(queries, self.dim, self.dtype), count_threads(threads)
        chosen = None if filter is None else parse_filter(filter, self.columns)
        asked = Asked(k, recall, probes, candidates, rerank, chosen, threads)
        distances, numbers, stats = view.search(exact, self.metric, asked)
        ids = numbers if self._names is None else self._names.texts(numbers)
        if self._names is not None and list(ids.flat).count(None) > np.count_nonzero(numbers < 0):
            # Rows were deleted, and their texts forgotten, since it began, or since this reader looked.
            self.refresh()
            if self._stack.view is not view:
                return self.search(  # type: ignore[call-overload,no-any-return]
                    queries, k, recall=recall, probes=probes, candidates=candidates, rerank=rerank, filter=filter,
                    threads=threads, return_stats=return_stats,
                )  # fmt: skip
        return (distances, ids, stats) if return_stats else (distances, ids)

    @property
    def rows(self) -> int:
        """Number of rows that are not deleted."""
        return len(self)

    def __len__(self) -> int:
        view = self._stack.view
        return sum(part.alive for part in view.parts) + sum(int(delta.alive.sum()) for delta in view.deltas)

    def contains(self, ids: Ids) -> np.ndarray:
        """Which of the ids (n,) are there, (n,) bool."""
        numbers = self._numbers(ids, unique=False)
        with self._stack.lock:
            return self._stack.holds(numbers)

    def all_ids(self) -> np.ndarray:
        """Ids (rows,) of all rows: numbers, rising, or texts in the order in which they first came."""
        view = self._stack.view
        parts = [part.alive_ids() for part in view.parts] + [delta.ids[delta.alive] for delta in view.deltas]
        numbers = np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
        return numbers if self._names is None else self._names.texts(numbers)

    def blocks(self, rows: int = 8192) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows, up to `rows` at a time, as they lie on the disk: ids (n,) and vectors (n, dim).

        They are those that were there when the first block was asked for, whatever happens meanwhile.
        """
        step, view = check_count("rows", rows), self._stack.view
        parts: list[Sealed | DeltaView] = [*view.parts, *view.deltas]
        for part in parts:
            for numbers, vectors in part.blocks(step):
                yield (numbers if self._names is None else self._names.texts(numbers)), vectors

    def get(self, ids: Ids) -> np.ndarray:
        """Vectors (n, dim) by ids (n,). Raises InputError for an id that is not there."""
        numbers = self._numbers(ids, unique=False)
        with self._stack.lock:
            self._check_there(numbers, ids)
            return self._stack.vectors_of(numbers)

    def attributes(self, ids: Ids) -> Values:
        """Attributes by ids (n,): per column n values, None where a row has none. InputError for an id not there."""
        numbers = self._numbers(ids)
        with self._stack.lock:
            self._check_there(numbers, ids)
            return self._stack.attributes_of(numbers)

    def distances_to(self, queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Exact distances (q, n) float32, ascending, of each query to the rows of the given ids, numbers; inf for -1.

        Raises InputError for an id that is not there.
        """
        exact, known = check_queries(queries, self.dim, self.dtype), np.unique(ids[ids >= 0])
        rows = self.get(known)
        return distances_to(exact, ids, self.metric, lambda some: rows[np.searchsorted(known, some)])

    # --- changing -------------------------------------------------------------------------------------------

    def add(
        self, vectors: np.ndarray, ids: Ids | None = None, attributes: Mapping[str, Iterable[Any]] | None = None
    ) -> np.ndarray:
        """Add rows.

        Args:
            vectors: (n, dim), values that the index's dtype can hold.
            ids: (n,), none of which is there; default, where ids are numbers: from the largest ever used on.
            attributes: By column, n values; None where a row has none.

        Returns:
            Their ids, (n,).

        Raises:
            InputError: Wrong shape or values, an id that is there already or comes twice, no room on the disk.
        """
        rows = check_vectors(vectors, self.dim, self.dtype)
        values = check_values(self.columns, attributes, len(rows))
        with self._stack.lock:
            self._stack.writer()
            self._maintainer.wait_for_room()  # now: once ids are chosen or compared, nobody else may change anything
            if ids is None and self._names is None:
                start = self._stack.next_id
                if start + len(rows) > 1 << 63:
                    raise InputError(f"ids go up to 2^63 - 1, and id {start - 1} was used; give ids for these rows")
                numbers = np.arange(start, start + len(rows), dtype=np.int64)
            elif ids is None:
                raise InputError("the ids of this index are texts; give one per vector")
            else:
                numbers = self._numbers(ids, len(rows), new=True)
            there = np.flatnonzero(self._stack.holds(numbers))
            if len(there):
                first = numbers[there[0]] if ids is None else ids[int(there[0])]
                raise InputError(f"id {first} is there already; `update` replaces its vector")
            self._put(rows, numbers, values, "added")
        return numbers if self._names is None else np.array(ids, object)

    def update(self, vectors: np.ndarray, ids: Ids, attributes: Mapping[str, Iterable[Any]] | None = None) -> int:
        """Give rows other vectors; rows whose ids are not there are added. Returns how many were there.

        Arguments and errors are those of `add`. Without `attributes` rows keep those they have.
        """
        rows = check_vectors(vectors, self.dim, self.dtype)
        values = check_values(self.columns, attributes, len(rows))
        with self._stack.lock:
            self._stack.writer()
            self._maintainer.wait_for_room()  # now: once ids are chosen or compared, nobody else may change anything
            numbers = self._numbers(ids, len(rows), new=True)
            there = int(self._stack.holds(numbers).sum())
            if attributes is None:
                values = self._stack.attributes_of(numbers)
            self._put(rows, numbers, values, "updated")
        return there

    def delete(self, ids: Ids) -> int:
        """Delete rows by ids (n,); those that are not there are passed over. Returns how many were there."""
        with self._stack.lock:
            self._stack.writer()
            numbers = np.unique(self._numbers(ids, unique=False))
            there = numbers[self._stack.holds(numbers)]
            if len(there):
                self._stack.delete(there)
                self._maintainer.start_what_is_due()
        return len(there)

    def clear(self) -> int:
        """Delete all rows; numbers for rows without ids begin with 0 again. Returns how many rows there were.

        What is being sealed or merged is finished first. Raises InputError where the folder cannot be written.
        """
        rows = self._maintainer.clear()
        self._forget_texts()
        return rows

    def flush(self) -> None:
        """Wait until all changes so far are on disk."""
        with self._stack.lock:
            self._stack.flush()

    def refresh(self) -> None:
        """Of an index opened `read_only`: see what its writer has done since; cheap where that is not much.

        Raises InputError where the files are gone or damaged; what was seen before can still be searched.
        """
        if self.read_only:
            with self._stack.lock:
                try:
                    self._stack.follow()
                except OSError as error:
                    raise InputError(f"{error.filename or self.path}: {error.strerror}") from None

    def compact(self) -> None:
        """Make one segment of all rows, and give back the room of deleted ones; others may go on meanwhile.

        Raises InputError where the disk has no room for it.
        """
        self._maintainer.compact(count_threads(None))
        self._forget_texts()

    def calibrate(
        self, queries: np.ndarray | None = None, *, threads: int | None = None, progress: Progress = no_progress
    ) -> None:
        """Measure anew, for every segment, which settings reach which recall; as `Index.calibrate`.

        Segments that are made later take over what was measured on `queries` from one of about their size, if there is
        one whose settings do not find far too little there; others, and those of `compact`, are measured on own rows.
        """
        self._maintainer.calibrate(
            lambda part: part.segment.index.calibrate(queries, threads=threads, progress=progress)
        )

    def _put(self, rows: np.ndarray, ids: np.ndarray, attributes: Values, done: str) -> None:
        start = 0
        while start < len(rows):
            rest = {name: column[start:] for name, column in attributes.items()}
            outcome = f"the first {start:,} of {len(rows):,} rows were {done}" if start else f"nothing was {done}"
            start += self._stack.put(rows[start:], ids[start:], rest, outcome)
            self._maintainer.start_what_is_due()

    def _numbers(self, ids: Ids, count: int | None = None, *, unique: bool = True, new: bool = False) -> np.ndarray:
        """The numbers (n,) int64 of ids; -1 for texts that are not known, unless they are to be `new`."""
        if self._names is None:
            return check_numbers(ids, count, unique=unique)
        texts = check_names(ids, count, unique=unique)  # type: ignore[arg-type]
        return self._names.numbers(texts, self._stack.next_id if new else None)

    def _forget_texts(self) -> None:
        """Drop the texts of rows that are gone."""
        if self._names is not None:
            with self._stack.lock:
                self._stack.flush()  # no text goes whose row might come back
                self._names.drop_others(self._stack.holds)

    def _check_there(self, numbers: np.ndarray, ids: Ids) -> None:
        missing = np.flatnonzero(~self._stack.holds(numbers))
        if len(missing):
            raise InputError(f"id {ids[int(missing[0])]} is not there")

    # --- looking after it -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Rows, sizes and what is going on."""
        view, trouble = self._stack.view, self._maintainer.trouble
        sealed = [part.segment.index.stats() for part in view.parts]
        segments = [
            {"folder": part.segment.folder.name, "rows": part.rows, "deleted": part.rows - part.alive,
             "bytes": one["index_bytes"], "code_bytes": one["code_bytes"]}
            for part, one in zip(view.parts, sealed, strict=True)
        ]  # fmt: skip
        return {
            "path": str(self.path),
            "rows": len(self),
            "dim": self.dim,
            "dtype": self.dtype.name,
            "metric": self.metric,
            "ids": self.ids,
            "columns": dict(self.columns),
            "segments": segments,
            "rows_in_memory": sum(int(delta.alive.sum()) for delta in view.deltas),
            "index_bytes": _bytes_in(self.path),
            "memory_bytes": sum(one["memory_bytes"] for one in sealed)
            + sum(delta.vectors.nbytes + delta.ids.nbytes for delta in view.deltas),
            "io_backend": ", ".join(sorted({str(one["io_backend"]) for one in sealed})) or "memory",
            "simd": _native.simd_level(),
            "maintenance": "sealing or merging" if self._maintainer.is_busy else "idle",
            "trouble": None if trouble is None else str(trouble),
        }

    def verify(self) -> list[str]:
        """Compare every byte with its checksum; a line per damaged file, empty when all is well."""
        return verify_living(self.path)


def verify_living(path: Path) -> list[str]:
    """Compare every byte of a living index with its checksums, also where it no longer opens."""
    try:
        snapshot = read_snapshot(path)
    except InputError as error:
        return [str(error)]
    damaged = []
    for part in snapshot.parts:
        folder = path / part.folder
        damaged += verify_index(folder)
        try:
            segment = Segment(folder, snapshot.columns, "buffered")
            if part.hidden is not None:
                read_hidden(path / part.hidden, segment.index.rows)
        except InputError as error:
            damaged += [] if str(error) in damaged else [str(error)]
    for name, number in numbers_in(path).items():
        if name.startswith("log-") and number >= snapshot.first_log:
            try:
                for _ in read_log(path / name):
                    pass
            except InputError as error:
                damaged.append(str(error))
    return damaged + (check_table_file(path / NAMES_FILE) if snapshot.ids == "string" else [])


def _adopt(path: Path) -> None:
    """Make a living index of one that `Index.build` made: its files become the first segment."""
    if not is_living(path):
        segment = path / "segment-000000"
        if segment.exists():
            remove(segment)
        segment.mkdir()
        for name in (*INDEX_FILES, "manifest.json"):
            (segment / name).hardlink_to(path / name)
        sealed = Index.open(segment, io="buffered")
        write_ids(segment, iter([np.arange(sealed.rows)]), sealed.stored.labels())
        sync_folder(segment)
        built = read_manifest(segment)
        settings = {name: built[name] for name in ("metric", "codec", "code_bytes", "rows_per_list", "seed")}
        settings["second_lists"] = built.get("second_lists", False)
        parts, dtype = (Part(segment.name),), sealed.dtype.name
        write_snapshot(path, Snapshot(sealed.dim, dtype, sealed.metric, settings, parts=parts, next_id=sealed.rows))
    for name in (*INDEX_FILES, "manifest.json"):
        (path / name).unlink(missing_ok=True)


def _checked_budget(memory_budget: str | int, read_only: bool) -> int:
    if read_only:
        raise InputError("memory_budget is for sealing and merging, which read_only leaves to others; drop one")
    none = ArrayVectors(np.zeros((0, 1), np.uint8), "memory_budget")
    budget = parse_size(memory_budget)
    choose_config(none, budget, "l2", None, None, 128, 0)  # too small for anything?
    return budget


def _check_choice(name: str, value: object, choices: Any) -> None:
    if value not in get_args(choices):
        raise InputError(f"{name} is {value!r}; choose {', '.join(get_args(choices))}")


def _bytes_in(folder: Path) -> int:
    """What all files there take; those that go meanwhile, and folders, take nothing."""
    sizes = 0
    for place, _, names in os.walk(folder):  # passes over a folder that has gone
        for name in names:
            with suppress(OSError):
                sizes += os.stat(os.path.join(place, name)).st_size
    return sizes
