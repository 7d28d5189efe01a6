"""An index in numbers before it is built: sizes, memory, time and page reads, from rows, dimension and dtype alone.

Sizes follow from the settings of a build, its memory plan and the layout of the files, by the functions that make
them. What only the vectors decide (lists that come about, replicas, pages per query, seconds) is taken from
measurements on SIFT vectors.

L lists · D dimension of search space
"""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from tenfold.core.errors import InputError
from tenfold.search import _native
from tenfold.search.clustering import GRAPH_DEGREE, NEIGHBOURS
from tenfold.search.codec import BLOCK_ROWS, Codec, CodecKind, are_turned, block_bytes, train_codec
from tenfold.search.exact import check_count
from tenfold.search.formats.source import MAX_DIM, VectorSource
from tenfold.search.gpu import LEAST_SCRATCH, LIST_BYTES
from tenfold.search.memory import MemoryPlan, parse_size
from tenfold.search.pages import page_layout
from tenfold.search.settings import BuildConfig, check_source, choose_config
from tenfold.search.space import Metric
from tenfold.search.spilling import entry_record, row_record
from tenfold.search.storage import PAGE

__all__ = ["IndexPlan", "parse_count", "plan_index"]

_COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
_LEAST_BUDGET = 1 << 30  # the default of `Index.build`
_ANY_BUDGET = 1 << 62

# SIFT, uint8, 128 dimensions, queries from other pictures; 9,000 to 10,000,000 rows (docs/search/scale.md).
_LISTS_MADE = 1.07  # lists for every one asked for: 840 of 781, 8,287 of 7,812; 57,018 of 53,742 at 10,000,000 rows
_ENTRIES_PER_ROW = {9e3: 1.052, 1e5: 1.076, 1e6: 1.088}  # by rows
# By recall@10, the pages of a single query at a million rows and 32 bytes of code (docs/results/search-sift.md); then,
# for one there, other numbers of rows (an earlier set, at ten million an earlier re-ranking) and other codes.
_PAGES = {0.90: 9.5, 0.95: 11.5, 0.99: 17.9}
_PAGED = (1e5, 1e6, 1e7)
_GROWN = {0.90: (0.82, 1, 1.52), 0.95: (0.79, 1, 1.69), 0.99: (0.74, 1, 1.59)}
_CODE_BITS = (0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)  # to a number; the first, third and fourth: 256 rows a list
_CODED = {
    0.90: (2.28, 1.63, 1.41, 1.20, 1, 0.91, 0.89),
    0.95: (2.86, 1.99, 1.57, 1.26, 1, 0.86, 0.83),
    0.99: (4.31, 3.17, 1.60, 1.50, 1, 0.86, 0.77),
}
_PAGED_ROWS = 32  # to a page there
_SPREAD = 0.17  # more for every halving of these rows: 30 % at 8 (the same as float32); 90 % at 1, a candidate a page
# 10,000,000 x 128 took 294 s on 2 cores and 204 s on 16 of another machine: as if cores shared only a part of the work.
_BUILT_NUMBERS, _ALONE_SECONDS, _SHARED_SECONDS = 1e7 * 128, 191, 206

_TREE_NODES = 32 / 31  # for a list: a tree of 32 branches
_COMPARED_LISTS = 1 << 15  # kMostCompared, routing.cpp: up to so many centroids are kept as bytes too
_ROUTED_ROWS, _ROUTED_SAMPLE = 16, 256  # kRoutedRows, kSample


@dataclass(frozen=True)
class IndexPlan:
    """What an index will take; sizes in bytes.

    Attributes:
        rows: Number of vectors.
        dim: Their dimension.
        dtype: Their type.
        metric: How nearness is measured.
        codec: Codes kept in memory.
        code_bytes: Bytes of code per list entry, without its three numbers (4 bytes).
        memory_budget: What the build may hold.
        lists: Lists that will come about, estimated.
        entries_per_row: List entries per vector, replicas included, estimated unless given.
        files: Size of each section file; that of vectors.bin is exact.
        vector_bytes: The vectors alone.
        index_bytes: The files together.
        memory_bytes: Held while searching from disk: `memory_bytes` of `Index.stats`.
        memory_bytes_with_vectors: The same with io="memory".
        device_bytes: What a GPU must have free to scan the codes: codes, lists and the least room for queries.
        build_disk_bytes: Most that a build has on disk at a time, the finished files included.
        cores: Cores of the build.
        build_hours: Estimated from two builds of ten million vectors, on other machines with 2 and with 16 cores.
        recall: Wanted recall@10.
        pages_per_query: Pages asked for by a single query at that recall, estimated from SIFT vectors; queries of a
            batch share pages and read fewer.
        reads_per_second: Reads that the disk can do.
        most_queries_per_second: What these reads allow, whatever the processor does.
    """

    rows: int
    dim: int
    dtype: str
    metric: Metric
    codec: CodecKind
    code_bytes: int
    memory_budget: int
    lists: int
    entries_per_row: float
    files: dict[str, int]
    vector_bytes: int
    index_bytes: int
    memory_bytes: int
    memory_bytes_with_vectors: int
    device_bytes: int
    build_disk_bytes: int
    cores: int
    build_hours: float
    recall: float
    pages_per_query: float
    reads_per_second: int
    most_queries_per_second: float

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON knows them."""
        return asdict(self)


def plan_index(
    rows: int,
    dim: int,
    dtype: str = "float32",
    *,
    metric: Metric = "l2",
    codec: CodecKind | None = None,
    code_bytes: int | None = None,
    memory_budget: str | int | None = None,
    rows_per_list: int = 128,
    second_lists: bool = False,
    entries_per_row: float | None = None,
    recall: float = 0.95,
    reads_per_second: int = 500_000,
    cores: int | None = None,
) -> IndexPlan:
    """What `Index.build` would make of so many vectors, without them.

    Args:
        rows: Number of vectors, 1 to 4,294,967,294.
        dim: Their dimension, 1 to 65,535.
        dtype: "float32", "float16", "uint8" or "int8".
        metric: As for `Index.build`, like `codec`, `code_bytes`, `rows_per_list` and `second_lists`.
        codec: Default: by dimension.
        code_bytes: Default: by dimension, and fewer where the budget is short.
        memory_budget: As for `Index.build`. Default: 1 GB, doubled until codes of full length fit.
        rows_per_list: Wanted mean size of a list.
        second_lists: Whether every vector has a code in two lists.
        entries_per_row: List entries per vector, at least 1. Default: as of SIFT vectors, or 2; an index over some of
            the vectors says what it is for them (`Index.stats`).
        recall: Wanted recall@10, from 0.9 to 0.99: what page reads were measured for.
        reads_per_second: Random reads of a page that the disk can do in a second.
        cores: Of the machine that builds. Default: the usable ones of this machine.

    Raises:
        InputError: A value out of range, or a budget that is too small, with one that is not.
    """
    source = _Described(rows, dim, dtype)
    config, budget = _settings(source, memory_budget, metric, codec, code_bytes, rows_per_list, second_lists)
    if entries_per_row is None:
        entries_per_row = _entries_per_row(source.rows, config)
    if not isinstance(entries_per_row, Real) or not 1 <= entries_per_row <= 1 + config.replicas:
        raise InputError(f"entries_per_row is {entries_per_row!r}; it is from 1 to {1 + config.replicas}")
    layout = _Layout.make(source, config, budget, entries_per_row)
    sections, files = layout.sections(), layout.files()
    code_bytes = layout.codec.subs(layout.space_dim) // 2
    pages = _pages_per_query(source, code_bytes, recall)
    reads_per_second = check_count("reads_per_second", reads_per_second, _ANY_BUDGET)
    cores = _native.usable_cores() if cores is None else check_count("cores", cores)
    held = sum(sum(sizes.values()) for sizes in sections.values()) + layout.router_bytes()
    return IndexPlan(
        rows=source.rows,
        dim=source.dim,
        dtype=dtype,
        metric=metric,
        codec=config.codec,
        code_bytes=code_bytes,
        memory_budget=budget,
        lists=layout.lists,
        entries_per_row=entries_per_row,
        files=files,
        vector_bytes=source.rows * layout.row_bytes,
        index_bytes=sum(files.values()),
        memory_bytes=held - sections["vectors.bin"]["pages"],
        memory_bytes_with_vectors=held,
        device_bytes=layout.device_bytes(),
        build_disk_bytes=layout.build_disk_bytes(),
        cores=cores,
        build_hours=_build_seconds(source, cores) / 3600,
        recall=recall,
        pages_per_query=pages,
        reads_per_second=reads_per_second,
        most_queries_per_second=reads_per_second / pages,
    )


def parse_count(text: str) -> int:
    """A whole number from "1e9", "100M" or "20,000"; K, M and B count in powers of 1,000. InputError otherwise."""
    match = re.fullmatch(r"\s*(\d[\d,_]*(?:\.\d+)?(?:e\d{1,2})?)\s*([KMBG]?)\s*", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise InputError(f"number {text!r} is not understood; write for instance 20000, 1e9 or 100M")
    count = float(match[1].replace(",", "").replace("_", "")) * _COUNT_UNITS[match[2].upper()]
    if not count.is_integer():
        raise InputError(f"number {text!r} is not a whole one")
    return int(count)


class _Described(VectorSource):
    """Vectors of which only number, dimension and type are known."""

    def __init__(self, rows: int, dim: int, dtype: str) -> None:
        try:
            stored = np.dtype(dtype)
        except TypeError:
            raise InputError(f"dtype {dtype!r} is not known; choose float32, float16, uint8 or int8") from None
        super().__init__("plan", check_count("rows", rows, _ANY_BUDGET), check_count("dim", dim, MAX_DIM), stored)
        check_source(self)

    def _stored_blocks(self, block_rows: int, start: int) -> Iterator[np.ndarray]:
        raise NotImplementedError("a plan has no vectors")


def _settings(
    source: VectorSource,
    memory_budget: str | int | None,
    metric: Metric,
    codec: CodecKind | None,
    code_bytes: int | None,
    rows_per_list: int,
    second_lists: bool,
) -> tuple[BuildConfig, int]:
    """The settings of the build and its budget in bytes."""

    def choose(budget: int) -> BuildConfig:
        return choose_config(source, budget, metric, codec, code_bytes, rows_per_list, 0, second_lists)

    if memory_budget is not None:
        budget = parse_size(memory_budget)
        return choose(budget), budget
    wanted, budget = choose(_ANY_BUDGET), _LEAST_BUDGET
    while True:
        with suppress(InputError):
            if choose(budget) == wanted:
                return wanted, budget
        budget *= 2


def _entries_per_row(rows: int, config: BuildConfig) -> float:
    if config.second_lists:
        return 2.0 if rows >= 2 * config.rows_per_list else 1.0  # one list has no second
    logs = [math.log(measured) for measured in _ENTRIES_PER_ROW]
    return float(np.interp(math.log(rows), logs, list(_ENTRIES_PER_ROW.values())))


@dataclass(frozen=True)
class _Layout:
    """Counts of an index, from which the sizes follow."""

    source: VectorSource
    space_dim: int
    memory: MemoryPlan
    codec: Codec
    turned: bool
    lists: int
    replicas: int

    @classmethod
    def make(cls, source: VectorSource, config: BuildConfig, budget: int, entries_per_row: float) -> "_Layout":
        dim = config.space_dim(source)
        memory = MemoryPlan.make(budget, source, dim, config.rows_per_list, config.code_bytes)
        nothing = np.zeros((0, dim), np.float32)  # a codec of no rows has the shape of any other
        codec = train_codec(config.codec, nothing, np.zeros(0, np.uint32), nothing, config.code_bytes, 1)
        lists = memory.lists if memory.lists == 1 else round(_LISTS_MADE * memory.lists)
        turned = config.codec == "pq" and are_turned(dim, memory.training_rows)
        return cls(source, dim, memory, codec, turned, lists, round(source.rows * (entries_per_row - 1)))

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.source.dim * self.source.dtype.itemsize

    def sections(self) -> dict[str, dict[str, int]]:
        """Bytes of every section by file, as `building.py` writes them."""
        rows, lists, dim = self.source.rows, self.lists, self.space_dim
        per_page, stride = page_layout(self.row_bytes)
        pages = -(-rows // per_page)
        # The last block of a list is half full on average.
        blocks = max(lists, round((rows + self.replicas + lists * (BLOCK_ROWS - 1) / 2) / BLOCK_ROWS))
        return {
            "vectors.bin": {"pages": pages * stride, "page_crc": 4 * pages, "labels": 4 * rows},
            "codes.bin": {"blocks": blocks * block_bytes(self.codec.subs(dim))},
            "lists.bin": {
                "replicas": 4 * self.replicas,
                "starts": 8 * (lists + 1),
                "replica_offsets": 8 * (lists + 1),
            },
            "graph.bin": {"centroids": 4 * lists * dim, "neighbours": 4 * lists * GRAPH_DEGREE},
            "codebook.bin": {
                "codebook": self.codec.codebook.nbytes,
                "center": 4 * dim,
                "axes": 4 * dim * dim * self.turned,
            },
        }

    def files(self) -> dict[str, int]:
        """Bytes of every section file: a page of header, sections in whole pages."""
        return {name: PAGE * (1 + sum(-(-size // PAGE) for size in sizes.values()))
                for name, sizes in self.sections().items()}  # fmt: skip

    def router_bytes(self) -> int:
        """Centroids as bytes, with their norms and sums: `Router` in routing.cpp."""
        if self.lists > _COMPARED_LISTS:
            return 0
        padded = -(-self.lists // _ROUTED_ROWS) * _ROUTED_ROWS + _ROUTED_SAMPLE
        return padded * (-(-self.space_dim // 4) * 4 + 8)

    def device_bytes(self) -> int:
        """What `gpu.py` asks of the one device that is to hold all: `ListParts.list_bytes`, codes, room for queries."""
        lists = 4 * self.replicas + self.codec.codebook.nbytes + LIST_BYTES * (self.lists + 1)
        return self.sections()["codes.bin"]["blocks"] + lists + 4 * LEAST_SCRATCH

    def build_disk_bytes(self) -> int:
        """The larger of what lies there at the end of `layout`, with spilled rows, and of `pack`, with codes."""
        files, rows = self.files(), self.source.rows
        spilled_rows = rows * row_record(self.source.dim, self.source.dtype).itemsize
        entries = (rows + self.replicas) * entry_record(self.codec.subs(self.space_dim)).itemsize
        tree = self.lists * (_TREE_NODES * 4 * (self.space_dim + 3) + 4 * NEIGHBOURS)
        sample = self.memory.sample_rows * self.row_bytes
        common = entries + tree + sample + 4 * rows + 8 * self.lists
        packed = files["codes.bin"] + files["lists.bin"]
        return round(sum(files.values()) - packed + common + max(spilled_rows, packed))


def _build_seconds(source: VectorSource, cores: int) -> float:
    return source.rows * source.dim / _BUILT_NUMBERS * (_ALONE_SECONDS + _SHARED_SECONDS / cores)


def _pages_per_query(source: VectorSource, code_bytes: int, recall: float) -> float:
    """Pages that a query asks for: between measured recalls, rows and codes in proportion, beyond them likewise."""
    if not isinstance(recall, Real) or not min(_PAGES) <= recall <= max(_PAGES):
        raise InputError(f"recall is {recall!r}; page reads are known from {min(_PAGES)} to {max(_PAGES)}")
    per_page, _ = page_layout(source.dim * source.dtype.itemsize)
    bits = math.log(min(8 * code_bytes / source.dim, _CODE_BITS[-1]))
    missed = [-math.log(1 - level) for level in _PAGES]
    logs = [
        math.log(_PAGES[level])
        + _along(np.log(_PAGED), np.log(_GROWN[level]), math.log(source.rows))
        + _along(np.log(_CODE_BITS), np.log(_CODED[level]), bits, _CODE_BITS.index(2.0))
        for level in _PAGES
    ]
    pages = math.exp(float(np.interp(-math.log(1 - recall), missed, logs)))
    pages *= 1 + _SPREAD * math.log2(_PAGED_ROWS / min(per_page, _PAGED_ROWS))
    return min(pages, -(-source.rows // per_page))


def _along(known: np.ndarray, values: np.ndarray, at: float, to: int = -1) -> float:
    """Interpolated between the ends of `known`, ascending; beyond them along the slope from the first to entry `to`."""
    inside = min(max(at, known[0]), known[-1])
    slope = (values[to] - values[0]) / (known[to] - known[0])
    return float(np.interp(inside, known, values) + slope * (at - inside))
