"""The index: built from a file, opened from disk, searched with one knob."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search import _native
from tenfold.search.building import Builder
from tenfold.search.calibration import EVERYTHING, Calibration, Tuning, calibrate
from tenfold.search.codec import CodecKind, open_codec
from tenfold.search.data import as_source
from tenfold.search.exact import MOST_RESULTS, check_count, check_queries, count_threads
from tenfold.search.formats.source import VectorSource
from tenfold.search.gpu import Device, find_kernels, open_device
from tenfold.search.ids import check_numbers
from tenfold.search.manifest import read_manifest, write_manifest
from tenfold.search.memory import parse_size, resident_bytes
from tenfold.search.pages import StoredRows, page_layout
from tenfold.search.relisting import Heritage
from tenfold.search.settings import MOST_COPIES, choose_config
from tenfold.search.space import Metric, open_space
from tenfold.search.storage import INDEX_FILES, PAGE, REPAIR, SectionFile
from tenfold.search.verifying import check_files, verify_index
from tenfold.search.workplace import check_place, disk_trouble, is_published, partial_of, publish, tidy, workplace

__all__ = ["Index", "SearchStats", "check_options"]

IoBackend = Literal["auto", "uring", "direct", "buffered", "memory"]
Rerank = Literal["bound", "paper"]

_PAPER_CANDIDATES = 12  # per result
_MOST_TUNINGS = 64  # that are remembered
_CHUNK_ROWS = 1 << 20  # of labels that `get` looks through at a time
_MOST_SCORED = 1 << 22  # queries times rows that `score` takes at a time


@dataclass(frozen=True)
class SearchStats:
    """What each query cost: arrays of shape (queries,), uint32.

    Attributes:
        pages_read: Pages read from disk, 4,096 bytes each, or one vector where that is larger.
        pages_cached: Pages asked for that were in memory already or on their way for another query.
        candidates: List entries whose exact distance was asked for, a row in two lists twice; none where everything
            is read.
        rows_scored: Exact distances computed, those of other rows on the same pages included.
        codes_scanned: List entries whose distance was estimated from their codes; none where everything is read.
        rounds: Rounds of reading: the trips to disk that had to wait for one another.
    """

    pages_read: np.ndarray
    pages_cached: np.ndarray
    candidates: np.ndarray
    rows_scored: np.ndarray
    codes_scanned: np.ndarray
    rounds: np.ndarray


class Index:
    """An index folder, open for searching. Make one by `Index.build` or `Index.open`.

    Searching is safe from any number of threads. Distances are smaller for nearer rows: squared L2,
    minus the inner product, or 1 - cos.

    Attributes:
        path: The folder.
        rows: Number of vectors.
        dim: Their dimension.
        dtype: Their type: float32, float16, uint8 or int8.
        metric: "l2", "ip" or "cosine".
        stored: The vectors in their order on disk, a VectorSource.
        calibration: Which settings reach which recall.
        space: The map into search space, where lists and codes live.
        engine: The native core, which routes, scans and re-ranks in search space; for parts of a search.
        device: Scans in the engine's place where the index was opened on a GPU, else None.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], io: IoBackend, cache_bytes: int, device: Device = "cpu"
    ) -> None:
        self.path, self._manifest = path, manifest
        self.rows: int = manifest["rows"]
        self.dim: int = manifest["dim"]
        self.dtype = np.dtype(manifest["dtype"])
        self.metric: Metric = manifest["metric"]
        self.calibration = Calibration.from_json(manifest["calibration"])
        self._tunings: dict[tuple[int, float], Tuning] = {}  # of late; of the calibration as it is
        self._files = {name: SectionFile(path / name, kind) for name, kind in INDEX_FILES.items()}
        check_files(self._files, manifest["files"])
        for name, file in self._files.items():
            for section in file.names():
                if section != "pages":  # its pages have checksums of their own, compared when read
                    self._files[name].check(section)
        self.stored = StoredRows(self._files["vectors.bin"], self.rows, self.dim, self.dtype)
        self.space = open_space(manifest, self._files["codebook.bin"])
        self.engine = self._native_searcher(io, cache_bytes)
        self.device = open_device(device, self._list_parts, self.engine)

    # --- making and opening ---------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        source: np.ndarray | str | Path | VectorSource,
        path: str | Path,
        *,
        metric: Metric = "l2",
        codec: CodecKind | None = None,
        code_bytes: int | None = None,
        memory_budget: str | int = "1GB",
        rows_per_list: int = 128,
        second_lists: bool = False,
        seed: int = 0,
        threads: int | None = None,
        overwrite: bool = False,
        device: Device = "cpu",
        heritage: Heritage | None = None,
        calibration: Calibration | None = None,
        progress: Progress = no_progress,
    ) -> "Index":
        """Build an index folder from vectors and open it.

        Rows get the ids 0, 1, 2, ... A build that was interrupted goes on where it stopped when
        called again with the same arguments. The folder appears only when it is complete.

        Args:
            source: Path of a vector file (see `tenfold.search.data`), a 2-D array, or a VectorSource.
            path: The index folder to make.
            metric: "l2", "ip" (maximum inner product) or "cosine".
            codec: "pq" or "rabitq"; default: "rabitq" from dimension 256 on, else "pq".
            code_bytes: Bytes of code per vector; more means fewer disk reads and more memory.
                Default: a quarter of the dimension; for pq 16 to 64.
            memory_budget: What the build and the interpreter may hold, such as "64MB" (not what else the
                caller's process holds), and what the codes and lists must fit later; where they would
                not, codes get shorter.
            rows_per_list: Mean size of a list.
            second_lists: Whether every vector has a code in a second list (SOAR, arXiv 2404.00774), instead of only
                those near a border. A search then scans fewer lists, and codes take nearly twice the memory. Pays for
                vectors of several hundred dimensions that are searched in memory.
            seed: Same seed, same source, same budget: same index.
            threads: Default: all usable cores.
            overwrite: Replace an index that is already there, once the new one is complete.
            device: Where the finished index scans codes, as for `open`; the build runs on the CPU.
            heritage: For merges: an index that holds many of the rows; where it holds most, and was built alike, its
                lists and codec are taken over, which costs less and gives other lists than a build of its own.
            calibration: For merges: that of an index of like rows and size, kept where it holds for this one too.
            progress: Called with phase, done, total.

        Raises:
            InputError: Source not usable, folder in the way, budget too small, disk full.
        """
        place, vectors = check_place(Path(path), overwrite), as_source(source)
        threads = count_threads(threads)
        find_kernels(device)  # what is missing for it shows before the work
        budget = parse_size(memory_budget)
        config = choose_config(vectors, budget, metric, codec, code_bytes, rows_per_list, seed, second_lists)
        partial = partial_of(place)
        try:
            with workplace(partial):
                builder = Builder(vectors, partial, config, budget, threads, progress, heritage)
                if is_published(place, builder.identity, overwrite):
                    tidy(place, partial)
                else:
                    cls._finish(builder, threads, progress, calibration)
                    publish(partial, place, overwrite)
        except OSError as error:
            raise disk_trouble(error, partial) from None
        return cls.open(path, device=device)

    @classmethod
    def _finish(cls, builder: Builder, threads: int, progress: Progress, earlier: Calibration | None) -> None:
        """Run what a build has still to do until its folder holds a calibrated index."""
        builder.run()
        if builder.is_finished:
            return
        files = {name: SectionFile(builder.folder / name, kind).checksum for name, kind in INDEX_FILES.items()}
        manifest = builder.manifest() | {
            "codec_numbers": builder.state["codec"],
            "calibration": Calibration().to_json(),
            "files": files,
        }
        # The vectors are searched again and again: where the budget has room to spare, in memory.
        room = builder.identity["memory_budget"] - resident_bytes()
        fits = 2 * (builder.folder / "vectors.bin").stat().st_size < room
        unfinished = cls(builder.folder, manifest, "memory" if fits else "buffered", 0)
        manifest["calibration"] = calibrate(unfinished, None, threads, progress, earlier).to_json()
        builder.finish(manifest)

    @classmethod
    def open(
        cls, path: str | Path, *, io: IoBackend = "auto", cache: str | int = "0", device: Device = "cpu"
    ) -> "Index":
        """Open an index folder for searching.

        Everything but the vectors is checked against its checksum; pages of vectors are checked as
        they are read.

        Args:
            path: The folder.
            io: How pages are read: "uring", "direct" (O_DIRECT by a few threads), "buffered"
                (the system's page cache), or "memory": all of them once, now; "auto" takes the first that
                works here.
            cache: Memory for pages read lately, such as "64MB", for each thread that searches.
            device: What scans the codes: "cpu", "cuda" (NVIDIA GPUs, by torch and triton), or "auto": a GPU
                where there is one with room, else the CPU. Answers are the same.

        Raises:
            InputError: No index there, damaged, of a newer version, or a forced back end or device refused.
        """
        path = Path(path)
        manifest = read_manifest(path)
        cache_bytes = min(parse_size(cache), 8 * manifest["rows"] * manifest["dim"] + PAGE)
        return cls(path, manifest, io, cache_bytes, device)

    # --- searching ------------------------------------------------------------------------------------------

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., probes: int | None = ...,
        candidates: int | None = ..., rerank: Rerank = ..., score_whole_pages: bool = ...,
        threads: int | None = ..., return_stats: Literal[False] = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...  # fmt: skip

    @overload
    def search(
        self, queries: np.ndarray, k: int = ..., *, recall: float = ..., probes: int | None = ...,
        candidates: int | None = ..., rerank: Rerank = ..., score_whole_pages: bool = ...,
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
        score_whole_pages: bool = True,
        threads: int | None = None,
        return_stats: bool = False,
    ) -> tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, SearchStats]:
        """The k nearest rows of each query, about `recall` of them the true ones.

        Args:
            queries: (q, dim); float for float indexes, whole numbers in range for integer ones.
            k: Results per query.
            recall: Wanted recall@k in (0, 1]; the index's calibration turns it into the settings
                below. 1.0 searches everything.
            probes: Lists to scan instead.
            candidates: Most codes to keep for re-ranking instead. With probes = all lists and
                candidates = all rows the result is exact.
            rerank: "bound" reads the candidates that may still be among the k best, in two rounds;
                "paper" stops when a batch of k changes at most a tenth of the result (algorithm 1).
            score_whole_pages: Also score the other rows of pages that are read anyway.
            threads: Default: all usable cores.
            return_stats: Also return what each query cost.

        Returns:
            distances (q, k) float32, ascending, and ids (q, k) int64, ties by lower id; inf and -1
            where there are fewer than k rows, or where `probes` and `candidates` allow fewer. With
            `return_stats` a SearchStats too.

        Raises:
            InputError: Wrong shape or values, bad options, or a damaged page on the way.
        """
        tuning = self.tuning(k, recall, probes, candidates, rerank)
        search = self.search_tuned if probes or candidates else self.search_filled
        found = search(queries, k, tuning, threads, rerank, score_whole_pages)
        return found if return_stats else found[:2]

    def tuning(
        self, k: int, recall: float, probes: int | None = None, candidates: int | None = None, rerank: Rerank = "bound"
    ) -> Tuning:
        """The settings that `search` chooses for its arguments; InputError where one of them is out of range."""
        k = check_options(k, recall, probes, candidates, rerank)
        known = self._tunings
        tuning = known.get((k, recall))
        if tuning is None:
            in_memory = self.engine.backend == "memory"
            tuning = self.calibration.tuning(k, recall, self.lists, self.rows, in_memory=in_memory)
            if len(known) >= _MOST_TUNINGS:
                known.clear()
            known[k, recall] = tuning
        everything = (probes or 0) >= self.lists and (candidates or 0) >= self.rows
        z = EVERYTHING if everything else tuning.z
        if rerank == "paper":  # which finds out by itself how many it needs
            tuning = tuning._replace(candidates=max(tuning.candidates, _PAPER_CANDIDATES * k))
        if probes is not None:
            tuning = tuning.scanning(probes)
        return tuning._replace(candidates=candidates or tuning.candidates, z=z)

    def search_filled(
        self,
        queries: np.ndarray,
        k: int,
        tuning: Tuning,
        threads: int | None = None,
        rerank: Rerank = "bound",
        score_whole_pages: bool = True,
        allowed: np.ndarray | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """`search_tuned`, and once more for queries that got fewer than k rows though there are more.

        The rest is in lists that were not scanned, or behind candidates that are copies of one row. Where `allowed` is
        given, at least k rows must be.
        """
        distances, ids, stats = self.search_tuned(
            queries, k, tuning, threads, rerank, score_whole_pages, allowed, meanwhile
        )
        short = np.flatnonzero(ids[:, -1] < 0) if k <= self.rows else ()
        if len(short):
            wider = tuning.scanning(self.lists)._replace(candidates=max(tuning.candidates, MOST_COPIES * k))
            again = self.search_tuned(np.asarray(queries)[short], k, wider, threads, rerank, score_whole_pages, allowed)
            distances[short], ids[short] = again[:2]
            for cost in fields(SearchStats):
                getattr(stats, cost.name)[short] += getattr(again[2], cost.name)
        return distances, ids, stats

    def search_tuned(
        self,
        queries: np.ndarray,
        k: int,
        tuning: Tuning,
        threads: int | None = None,
        rerank: Rerank = "bound",
        score_whole_pages: bool = True,
        allowed: np.ndarray | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """`search` with explicit settings: what the calibration tries out.

        With `allowed`, (ceil(rows / 64),) uint64, only rows whose bits are set are found; by position, lowest first.
        `meanwhile` is called at most once, by this thread, when it first waits for the disk.
        """
        exact = check_queries(queries, self.dim, self.dtype)
        probes, candidates = (
            min(tuning.most_probes, self.lists),
            min(tuning.candidates, MOST_COPIES * max(1, self.rows)),
        )
        threads = count_threads(threads)
        settings = (k, probes, tuning.margin, candidates, tuning.z, rerank, score_whole_pages, threads)
        try:
            # A search of everything is one of the disk: no device makes it faster.
            scans = self.device is not None and allowed is None and tuning.z != EVERYTHING
            if self.device is not None and scans and self.device.has_room(probes, candidates):
                distances, ids, stats = self.device.search(exact, self.space.queries(exact, threads), *settings)
            else:
                queried = self.space.queries(exact, threads)
                distances, ids, stats = self.engine.search(exact, *queried, *settings, allowed, meanwhile)
        except MemoryError:
            raise InputError(
                f"{k:,} results of {len(exact):,} queries and caches of {threads:,} threads do not fit into memory; "
                "ask for fewer at a time, with fewer threads or a smaller cache"
            ) from None
        return distances, ids, SearchStats(*np.ascontiguousarray(stats.T))

    def score(
        self, queries: np.ndarray, k: int, positions: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, SearchStats]:
        """`search` among the rows at these positions (n,) only, all of which are read and compared with."""
        exact, wanted = check_queries(queries, self.dim, self.dtype), positions.astype(np.uint32)
        step = max(1, _MOST_SCORED // max(1, len(wanted)))
        parts = [
            self._score(exact[first : first + step], k, wanted, threads) for first in range(0, max(1, len(exact)), step)
        ]
        distances, ids, stats = (np.concatenate(some) for some in zip(*parts, strict=True))
        return distances, ids, SearchStats(*np.ascontiguousarray(stats.T))

    def _score(
        self, exact: np.ndarray, k: int, wanted: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(exact), len(wanted))
        estimates, errors = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        rows, queried = np.ascontiguousarray(np.broadcast_to(wanted, shape)), self.space.queries(exact, threads)
        distances, ids, stats = self.engine.rerank(
            exact, *queried, rows, estimates, errors, k, EVERYTHING, "bound", False, threads
        )
        return distances, ids, stats

    def get(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Vectors (n, dim) by ids (n,), row numbers. Raises InputError for an id that is not there."""
        numbers = check_numbers(ids, unique=False)
        wanted, which = np.unique(numbers, return_inverse=True)
        labels = self.stored.labels()
        chunks = range(0, self.rows, _CHUNK_ROWS)
        found = [at + np.flatnonzero(np.isin(labels[at : at + _CHUNK_ROWS], wanted)) for at in chunks]
        positions = np.concatenate([np.zeros(0, np.int64), *found])
        positions = positions[np.argsort(labels[positions])]
        if len(positions) < len(wanted):
            missing = np.flatnonzero(~np.isin(numbers, labels[positions]))
            raise InputError(f"id {numbers[missing[0]]} is not there")
        return self.stored.at(positions)[which]

    # --- looking after it -----------------------------------------------------------------------------------

    @property
    def lists(self) -> int:
        """Number of lists: the most `probes` can be."""
        return self._files["graph.bin"].section("centroids").rows

    def centroids(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroids of the lists in search space, (lists, space.dim) float32, and the graph over them."""
        graph = self._files["graph.bin"]
        return _matrix(graph.array("centroids", "<f4", None)), _matrix(graph.array("neighbours", "<u4", None))

    def list_starts(self) -> np.ndarray:
        """First position of each list's own rows, and the number of rows: (lists + 1,) uint64."""
        return self._files["lists.bin"].array("starts", "<u8")

    def calibrate(
        self, queries: np.ndarray | None = None, *, threads: int | None = None, progress: Progress = no_progress
    ) -> None:
        """Measure anew which settings reach which recall, and keep the result in the index folder.

        Args:
            queries: (q, dim) real queries, a few hundred; default: rows of the index itself.
            threads: Default: all usable cores.
            progress: Called with phase, done, total.

        Raises:
            InputError: There are no queries, or they are not fit for this index; or its folder cannot be written to.
        """
        threads = count_threads(threads)
        try:
            write_manifest(self.path, self._manifest)  # as it is: whether it can be kept shows before the work
            self.calibration = calibrate(self, queries, threads, progress)
            self._tunings = {}  # a search under way may still write to the old one
            self._manifest["calibration"] = self.calibration.to_json()
            write_manifest(self.path, self._manifest)
        except OSError as error:
            raise InputError(f"{self.path}: the calibration cannot be kept there: {error.strerror}") from None

    def stats(self) -> dict[str, Any]:
        """Sizes and settings: what `tenfold search info` prints."""
        sizes = {name: (self.path / name).stat().st_size for name in INDEX_FILES}
        held = [file.section(name) for file in self._files.values() for name in file.names()]
        replicas = self._files["lists.bin"].section("replicas").rows
        subs = 2 * (self._files["codes.bin"].section("blocks").columns // 32 - 4)
        return {
            "path": str(self.path),
            "rows": self.rows,
            "dim": self.dim,
            "dtype": self.dtype.name,
            "metric": self.metric,
            "codec": self._manifest["codec"],
            "code_bytes": subs // 2,
            "lists": self.lists,
            "entries_per_row": (self.rows + replicas) / max(1, self.rows),
            "vector_bytes": self.rows * self.dim * self.dtype.itemsize,
            "index_bytes": sum(sizes.values()),
            "memory_bytes": sum(s.nbytes for s in held)
            - self._files["vectors.bin"].section("pages").nbytes
            + self.engine.memory_bytes,
            "files": sizes,
            "io_backend": self.engine.backend,
            "simd": _native.simd_level(),
            **({"device": "cpu", "device_bytes": 0} if self.device is None else self.device.stats()),
            "calibration": self._manifest["calibration"],
        }

    def verify(self) -> list[str]:
        """Compare every byte with its checksum; a line per damaged file, empty when all is well."""
        return verify_index(self.path)

    def estimates(
        self, queries: np.ndarray, positions: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the codes say of rows by position, (q, n): estimates and squared errors, in search space.

        The last two, (q,), turn a distance into search space: base + slope * distance.
        """
        space = self.space.queries(check_queries(queries, self.dim, self.dtype), threads)
        wanted = np.ascontiguousarray(np.where(positions < 0, 0xFFFFFFFF, positions).astype(np.uint32))
        estimates, errors = self.engine.estimate(space.space, wanted, threads)
        return estimates, errors, space.base, space.slope

    # --- inside ---------------------------------------------------------------------------------------------

    def _native_searcher(self, io: IoBackend, cache_bytes: int) -> Any:
        vectors, lists = self._files["vectors.bin"], self._files["lists.bin"]
        graph, codes = self._files["graph.bin"], self._files["codes.bin"]
        codec_numbers = self._manifest["codec_numbers"]
        per_page, stride = page_layout(self.dim * self.dtype.itemsize)
        pages = vectors.section("pages")
        layout = -(-self.rows // per_page), stride
        if (pages.rows, pages.columns) != layout or graph.section("centroids").columns != self.space.dim:
            raise InputError(f"{self.path}: manifest.json does not fit the files beside it; {REPAIR}")
        codebook = open_codec(codec_numbers, self._files["codebook.bin"]).codebook
        centroids = graph.array("centroids", "<f4", None)
        moves = [array for array in (self.space.center, self.space.axes) if array is not None]
        for name, values in (("graph.bin", centroids), *(("codebook.bin", array) for array in (codebook, *moves))):
            if not np.isfinite(values).all():
                raise InputError(f"{self.path / name}: holds values that are no numbers; {REPAIR}")
        arrays = {
            "page_crc": vectors.array("page_crc", "<u4"),
            "labels": vectors.array("labels", "<u4"),
            "centroids": _matrix(centroids),
            "neighbours": _matrix(graph.array("neighbours", "<u4", None)),
            "starts": lists.array("starts", "<u8"),
            "replica_offsets": lists.array("replica_offsets", "<u8"),
            "replicas": lists.array("replicas", "<u4"),
            "blocks": codes.array("blocks", "|u1", None).reshape(-1),
            "codebook": codebook,
        }
        numbers = codec_numbers | {
            "rows": self.rows,
            "dim": self.dim,
            "rows_per_page": per_page,
            "page_stride": stride,
            "pages_offset": pages.offset,
        }
        return _native.Searcher(arrays, numbers, vectors.path, self.dtype.name, self.metric, io, cache_bytes)

    def _list_parts(self, kernels: Any) -> Any:
        """What a device needs of the index: the ListParts of the module `gpu_kernels`."""
        lists, numbers = self._files["lists.bin"], self._manifest["codec_numbers"]
        return kernels.ListParts(
            self._files["codes.bin"].array("blocks", "|u1", None),
            lists.array("starts", "<u8"),
            lists.array("replica_offsets", "<u8"),
            lists.array("replicas", "<u4"),
            open_codec(numbers, self._files["codebook.bin"]).codebook,
            self.space.dim,
            numbers["bits"],
            tuple(numbers[name] for name in ("shift_low", "shift_step", "scale_low", "scale_step")),
        )


def check_options(k: object, recall: object, probes: object, candidates: object, rerank: object) -> int:
    """`k` as an int; InputError where it or another option of `search` is out of range."""
    if not isinstance(recall, Real) or not 0 < float(recall) <= 1:
        raise InputError(f"recall is {recall!r}; it is a share above 0 and up to 1")
    for name, value in (("probes", probes), ("candidates", candidates)):
        if value is not None:
            check_count(name, value)
    if rerank not in get_args(Rerank):
        raise InputError(f"rerank is {rerank!r}; choose {' or '.join(get_args(Rerank))}")
    return check_count("k", k, MOST_RESULTS)


def _matrix(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 2 else array[:, None]
