"""An index in shards: built, opened and searched as one, in this process or by the workers of a Ray cluster."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search.building import fingerprint
from tenfold.search.cluster import Cluster, Found, Opening, connect, run_everywhere
from tenfold.search.codec import CodecKind
from tenfold.search.data import as_source, open_vectors
from tenfold.search.exact import MOST_RESULTS, check_count, check_queries, merge_nearest
from tenfold.search.formats.source import VectorSource
from tenfold.search.ids import check_numbers
from tenfold.search.index import Index, IoBackend, Rerank
from tenfold.search.manifest import read_manifest
from tenfold.search.settings import build_arguments, check_source
from tenfold.search.shards import (
    MOST_SHARDS,
    RowRange,
    Shard,
    ShardTable,
    bytes_of,
    check_shard,
    first_rows,
    read_table,
    shard_name,
    write_table,
)
from tenfold.search.space import Metric
from tenfold.search.storage import SHARDS_FILE, sync_folder
from tenfold.search.workplace import (
    check_place,
    discard,
    disk_trouble,
    partial_of,
    read_notes,
    workplace,
    write_notes,
)

__all__ = ["ShardedAnswer", "ShardedIndex", "build_shards", "describe_shards"]

_MOST_REPLICAS = 64
_BUILD_NAMES = re.compile(rf"lock|build\.json|{re.escape(SHARDS_FILE)}|shard-\d{{4}}")


# --- building -----------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """A shard to build: rows `first` to before `stop` of a source."""

    source: str | Path | VectorSource
    key: str | None
    shape: tuple[int, int, str]  # of the whole source, so that another file of its name is noticed
    first: int
    stop: int
    folder: Path
    settings: dict[str, Any]

    def run(self, progress: Progress = no_progress) -> str | None:
        """Build it, unless it is there; what is wrong, or None."""
        try:
            source = _open_source(self.source, self.key)
            if _shape(source) != self.shape:
                raise InputError(f"{source.name}: is another file here than where the build was started")
            if not self.folder.exists():
                rows = RowRange(source, self.first, self.stop)
                Index.build(rows, self.folder, progress=progress, **self.settings)
        except InputError as error:
            return str(error)
        return None


def build_shards(
    source: np.ndarray | str | Path | VectorSource,
    path: str | Path,
    shards: int,
    *,
    ray: str | None = None,
    key: str | None = None,
    metric: Metric = "l2",
    codec: CodecKind | None = None,
    code_bytes: int | None = None,
    memory_budget: str | int = "1GB",
    rows_per_list: int = 128,
    second_lists: bool = False,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Build an index in shards: `shards` indexes over runs of rows of about the same length, to be searched as one.

    A build that was interrupted goes on where it stopped when called again with the same arguments; shards that are
    finished are not built again. The folder appears only when all are.

    Args:
        source: Path of a vector file; without `ray` also what else `Index.build` takes.
        path: The index folder to make.
        shards: How many.
        ray: Address of a Ray cluster whose machines build, each one shard at a time: HOST:PORT, "auto" for the cluster
            that this machine belongs to, or "local" to start one here. They all see `source` and `path` under the same
            names. Without it, this process builds one shard after the other.
        key: Data set, array or column in files that hold several.
        metric: As for `Index.build`, like the following.
        codec: The same.
        code_bytes: The same.
        memory_budget: The same: what the build of one shard may hold.
        rows_per_list: The same.
        second_lists: The same.
        seed: The same.
        threads: The same; of each machine.
        progress: Called with phase, done, total.

    Raises:
        InputError: As `Index.build`, and more shards than rows, a source that workers cannot open, no such cluster.
    """
    place, vectors = check_place(Path(path), overwrite=False), _open_source(source, key)
    check_source(vectors)
    if check_count("shards", shards, MOST_SHARDS) > vectors.rows:
        raise InputError(f"shards is {shards:,}, but {vectors.name} has {vectors.rows:,} rows; each needs one at least")
    if ray is not None:
        if not isinstance(source, str | Path):
            raise InputError("the machines of a cluster read vectors from a file; give its path, not what is in memory")
        source, place = Path(source).resolve(), place.resolve()
    given = source if isinstance(source, str | Path) else vectors
    partial, bounds, shape = partial_of(place), first_rows(vectors.rows, shards), _shape(vectors)
    settings = build_arguments(
        RowRange(vectors, 0, bounds[1]), memory_budget, metric, codec, code_bytes, rows_per_list, seed, second_lists
    )
    jobs = [
        _Job(given, key, shape, first, stop, partial / shard_name(number), settings | {"threads": threads})
        for number, (first, stop) in enumerate(pairwise(bounds))
    ]
    engine = None if ray is None else connect(ray)
    try:
        with workplace(partial, _in_the_way, _has_begun):
            _begin(partial, {"source": fingerprint(vectors), "shards": shards, "settings": settings})
            _run(jobs, engine, progress)
            write_table(partial, _table(vectors, jobs))
            partial.rename(place)
            sync_folder(place.parent)
            for name in ("build.json", "lock"):
                (place / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_trouble(error, partial) from None


def _open_source(source: np.ndarray | str | Path | VectorSource, key: str | None) -> VectorSource:
    return open_vectors(source, key=key) if isinstance(source, str | Path) else as_source(source)


def _shape(source: VectorSource) -> tuple[int, int, str]:
    return source.rows, source.dim, source.dtype.name


def _in_the_way(partial: Path) -> Path | None:
    """Something in the folder that no build in shards has made, if there is one."""
    others = (
        entry for entry in sorted(partial.iterdir()) if not _BUILD_NAMES.fullmatch(entry.name.removesuffix(".partial"))
    )
    return next(others, None)


def _has_begun(partial: Path) -> bool:
    return any(partial.glob("shard-*"))


def _begin(partial: Path, identity: dict[str, Any]) -> None:
    """Keep the finished shards of an earlier try at the same index; those of any other go."""
    if read_notes(partial).get("identity") == identity:
        return
    write_notes(partial, {"identity": None, "plan": {}, "done": [], "spilled": {}})  # until the old ones are gone
    for folder in partial.glob("shard-*"):
        discard(folder)
        if folder.exists():
            raise InputError(f"{folder}: holds files of others; move it and build again")
    write_notes(partial, {"identity": identity, "plan": {}, "done": [], "spilled": {}})


def _run(jobs: Sequence[_Job], ray: Any, progress: Progress) -> None:
    progress("shards", 0, len(jobs))
    if ray is not None:
        run_everywhere(ray, _Job.run, jobs, lambda done: progress("shards", done, len(jobs)))
        return
    for number, job in enumerate(jobs):
        problem = job.run(progress)
        if problem is not None:
            raise InputError(problem)
        progress("shards", number + 1, len(jobs))


def _table(source: VectorSource, jobs: Sequence[_Job]) -> ShardTable:
    manifests = [read_manifest(job.folder) for job in jobs]
    shards = [
        Shard(job.folder.name, job.first, job.stop - job.first, manifest["files"])
        for job, manifest in zip(jobs, manifests, strict=True)
    ]
    return ShardTable(source.rows, source.dim, source.dtype.name, manifests[0]["metric"], tuple(shards))


# --- searching ----------------------------------------------------------------------------------------------


class ShardedAnswer(NamedTuple):
    """What a search found.

    Attributes:
        distances: (q, k) float32, ascending; inf where there are fewer rows.
        ids: (q, k) int64, numbers of rows of the source; ties by lower id; -1 where there are fewer rows.
        missing: Names of the shards that did not answer: their rows are not among the results. Empty when the answer
            is whole.
    """

    distances: np.ndarray
    ids: np.ndarray
    missing: tuple[str, ...]

    @property
    def is_partial(self) -> bool:
        """Whether a shard did not answer."""
        return bool(self.missing)


class _Crew(Protocol):
    """Whoever holds the shards open: this process, or a `Cluster`."""

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Sequence[Found | None]:
        """What each shard finds, None where it does not answer."""

    def get(self, ids: Mapping[int, np.ndarray]) -> Mapping[int, np.ndarray | None]:
        """Vectors by shard and ids there, None where it does not answer."""

    def states(self) -> list[dict[str, Any]]:
        """Of each shard, as in `Cluster.states`."""

    def close(self) -> None:
        """Let the shards go."""


class _Here:
    """All shards open in this process, searched one after the other."""

    def __init__(self, openings: Sequence[Opening]) -> None:
        self._indexes = []
        for folder, shard, io, cache in openings:
            check_shard(folder, shard)
            self._indexes.append(Index.open(folder, io=io, cache=cache))

    def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Sequence[Found | None]:
        return [index.search(queries, k, **options) for index in self._indexes]

    def get(self, ids: Mapping[int, np.ndarray]) -> Mapping[int, np.ndarray | None]:
        return {shard: self._indexes[shard].get(some) for shard, some in ids.items()}

    def states(self) -> list[dict[str, Any]]:
        return [{"replicas": 1, "open": 1, "workers": [], "problem": ""} for _ in self._indexes]

    def close(self) -> None:
        self._indexes = []


class ShardedIndex:
    """An index in shards, open for searching; made by `build_shards`. Use it as a context, or close it.

    Searching is safe from any number of threads. Ids are numbers of rows of the source. Distances are those of `Index`.

    Attributes:
        path: The folder.
        rows: Number of vectors.
        dim: Their dimension.
        dtype: Their type: float32, float16, uint8 or int8.
        metric: "l2", "ip" or "cosine".
        shards: Names of the shards.
    """

    def __init__(self, path: Path, table: ShardTable, crew: _Crew) -> None:
        self.path, self._table, self._crew = path, table, crew
        self.rows, self.dim, self.dtype = table.rows, table.dim, np.dtype(table.dtype)
        self.metric: Metric = table.metric
        self.shards = tuple(shard.folder for shard in table.shards)
        self._bytes, self._is_closed = bytes_of(path, table), False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        ray: str | None = None,
        replicas: int = 1,
        io: IoBackend = "auto",
        cache: str | int = "0",
        patience: float = 10.0,
    ) -> "ShardedIndex":
        """Open an index in shards.

        Args:
            path: The folder.
            ray: Address of a Ray cluster whose workers hold the shards open, as for `build_shards`; they all see the
                folder under the same name. Without it, this process holds all of them.
            replicas: With `ray`, how many workers hold each shard open, on different machines where there are several.
            io: How pages are read, as for `Index.open`.
            cache: Memory for pages read lately, as for `Index.open`.
            patience: Seconds after which a worker that does not say that it is there is given up. One that is busy
                does say so, however long a search takes.

        Raises:
            InputError: No such index, a shard missing, damaged or of another index, Ray missing or not to be reached.
        """
        path = Path(path)
        table = read_table(path)
        check_count("replicas", replicas, _MOST_REPLICAS)
        if not patience > 0:
            raise InputError(f"patience is {patience}; it is a number of seconds above 0")
        folder = path if ray is None else path.resolve()
        openings = [Opening(folder / shard.folder, shard, io, cache) for shard in table.shards]
        for opening in openings:
            check_shard(opening.folder, opening.shard)
        if ray is None:
            return cls(path, table, _Here(openings))
        return cls(path, table, Cluster(connect(ray), openings, replicas, patience))

    def close(self) -> None:
        """Let the shards go."""
        self._is_closed = True
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        recall: float = 0.95,
        probes: int | None = None,
        candidates: int | None = None,
        rerank: Rerank = "bound",
        threads: int | None = None,
    ) -> ShardedAnswer:
        """The k nearest rows of each query (q, dim), about `recall` of them the true ones.

        Every shard is asked for its k nearest rows, and the best of all are kept. A shard none of whose workers
        answers is missing from the answer, which says so, and is opened elsewhere meanwhile.

        Args:
            queries: (q, dim), as for `Index.search`.
            k: Results per query.
            recall: Wanted recall@k in (0, 1], of every shard.
            probes: Lists of every shard to scan instead.
            candidates: Most codes of every shard to keep for re-ranking instead.
            rerank: As for `Index.search`.
            threads: Of every shard; default: all usable cores of its machine.

        Raises:
            InputError: Wrong shape or values, bad options, or a damaged page on the way.
        """
        exact, k = check_queries(queries, self.dim, self.dtype), check_count("k", k, MOST_RESULTS)
        options = {"recall": recall, "probes": probes, "candidates": candidates, "rerank": rerank, "threads": threads}
        if self._is_closed:
            raise InputError(f"{self.path}: is closed; open it again")
        found = self._crew.search(exact, k, options)
        parts = [(np.full((len(exact), k), np.inf, np.float32), np.full((len(exact), k), -1, np.int64))]
        for shard, part in zip(self._table.shards, found, strict=True):
            if part is not None:
                parts.append((part[0], np.where(part[1] < 0, -1, part[1] + shard.first)))
        missing = tuple(name for name, part in zip(self.shards, found, strict=True) if part is None)
        return ShardedAnswer(*merge_nearest(k, *parts), missing)

    def get(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors (n, dim) by ids (n,), row numbers.

        Raises InputError for an id that is not there, or whose shard does not answer now.
        """
        numbers = check_numbers(ids, unique=False)
        if self._is_closed:
            raise InputError(f"{self.path}: is closed; open it again")
        beyond = np.flatnonzero(numbers >= self.rows)
        if len(beyond):
            raise InputError(f"id {numbers[beyond[0]]} is not there")
        firsts = np.array([shard.first for shard in self._table.shards])
        shards = np.searchsorted(firsts, numbers, "right") - 1
        wanted = {shard: numbers[shards == shard] - firsts[shard] for shard in np.unique(shards).tolist()}
        rows = np.empty((len(numbers), self.dim), self.dtype)
        for shard, found in self._crew.get(wanted).items():
            if found is None:
                raise InputError(f"{self.path}: {self.shards[shard]} does not answer now; try again in some seconds")
            rows[shards == shard] = found
        return rows

    def missing(self) -> tuple[str, ...]:
        """Names of the shards that no worker holds open now."""
        states = self._crew.states()
        return tuple(name for name, state in zip(self.shards, states, strict=True) if not state["open"])

    def stats(self) -> dict[str, Any]:
        """Sizes and settings; of each shard how many of its `replicas` are `open`, in which `workers`, a `problem`."""
        stats = _describe(self.path, self._table, self._bytes)
        for shard, state in zip(stats["shards"], self._crew.states(), strict=True):
            shard |= state
        return stats


def describe_shards(path: str | Path) -> dict[str, Any]:
    """Sizes and settings of an index in shards, without opening it: what `tenfold search info` prints.

    Raises InputError as `ShardedIndex.open` does.
    """
    path = Path(path)
    table = read_table(path)
    for shard in table.shards:
        check_shard(path / shard.folder, shard)
    return _describe(path, table, bytes_of(path, table))


def _describe(path: Path, table: ShardTable, index_bytes: int) -> dict[str, Any]:
    return {
        "path": str(path),
        "rows": table.rows,
        "dim": table.dim,
        "dtype": table.dtype,
        "metric": table.metric,
        "index_bytes": index_bytes,
        "shards": [{"shard": shard.folder, "first": shard.first, "rows": shard.rows} for shard in table.shards],
    }
