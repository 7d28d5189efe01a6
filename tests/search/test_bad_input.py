"""Whatever cannot be used is turned down with one clear line that quotes it; nothing is left behind."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_index
import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index, _native, as_source, exact_search
from tenfold.search.data import write_vectors
from tenfold.search.evaluation import evaluate
from tenfold.search.storage import SectionFile, SectionWriter

IndexCache = Callable[..., Path]
SMALL = (400, 24, "uint8", "l2", "pq", 30)


def refused(work: Callable[[], object], *expected: str) -> str:
    """Assert that `work` raises InputError with one line that holds all of `expected`; return the line."""
    with pytest.raises(InputError) as caught:
        work()
    line = str(caught.value)
    assert "\n" not in line
    for part in expected:
        assert part in line
    return line


# --- sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (1e30, "longer")]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_are_no_vectors(dtype: str, value: float, name: str, tmp_path: Path) -> None:
    """NaN, infinity, or a length that float32 distances cannot hold: the row is named."""
    base = make_vectors(600, 9, "float32")
    base[417, 2] = value
    with np.errstate(over="ignore"):
        base = base.astype(dtype)
    name = "infinity" if dtype == "float16" and value == 1e30 else name
    for metric in ("l2", "ip", "cosine"):
        refused(lambda metric=metric: Index.build(base, tmp_path / "index", metric=metric), "417", name)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("length", [1e-16, 1e-21, 1e-40])
def test_rows_whose_squares_vanish(length: float, metric: str, tmp_path: Path) -> None:
    """Distances of such rows would be wrong or zero; rows of zeros are no harm."""
    base = make_vectors(600, 9, "float32")
    base[[3, 598]] = 0
    assert exact_search(as_source(base), base[:4], 2, metric)[0].shape == (4, 2)  # type: ignore[arg-type]
    base[417] = 0
    base[417, 2] = length
    for work in (
        lambda: Index.build(base, tmp_path / "index", metric=metric),  # type: ignore[arg-type]
        lambda: exact_search(as_source(base), base[:4], 2, metric),  # type: ignore[arg-type]
        lambda: exact_search(as_source(base[:9]), base, 2, metric),  # type: ignore[arg-type]
    ):
        refused(work, "417", "scale the vectors up")


@pytest.mark.parametrize("cut", [1, 3, 17 * 4 + 2, 17 * 4 * 9 + 5])
@pytest.mark.parametrize("suffix", ["fvecs", "fbin"])
def test_source_cut_in_a_row(suffix: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / f"base.{suffix}"
    write_vectors(path, [make_vectors(100, 17, "float32")], 100, 17, np.dtype("float32"))
    path.write_bytes(path.read_bytes()[:-cut])
    refused(lambda: Index.build(path, tmp_path / "index"), path.name)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(("rows", "dim"), [(2**32 - 1, 16), (2**31, 16), (101, 16), (100, 2**31), (100, 0), (0, 0)])
def test_source_with_a_false_header(rows: int, dim: int, tmp_path: Path) -> None:
    """A huge n or d in the header is not believed, and no memory is taken for it."""
    path = tmp_path / "base.fbin"
    write_vectors(path, [make_vectors(100, 16, "float32")], 100, 16, np.dtype("float32"))
    path.write_bytes(np.array([rows, dim], "<u4").tobytes() + path.read_bytes()[8:])
    refused(lambda: Index.build(path, tmp_path / "index"), path.name)


@pytest.mark.parametrize(
    "base", [np.zeros(5), np.zeros((2, 3, 4)), np.zeros((4, 0)), np.zeros((4, 2), complex), np.zeros((3, 3), "U1")]
)
def test_arrays_that_hold_no_vectors(base: np.ndarray, tmp_path: Path) -> None:
    refused(lambda: Index.build(base, tmp_path / "index"))


def test_dtypes_without_kernels(tmp_path: Path) -> None:
    """int32 can be read but not indexed; float64 is taken as float32."""
    refused(lambda: Index.build(np.zeros((9, 4), np.int32), tmp_path / "a"), "int32", "float32")
    assert Index.build(np.zeros((9, 4), np.float64), tmp_path / "b").dtype == np.float32


# --- options and places -----------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "metric": ({"metric": "hamming"}, "hamming"),
    "codec": ({"codec": "zip"}, "zip"),
    "code_bytes": ({"code_bytes": 20_000}, "20000"),
    "code_bytes negative": ({"code_bytes": -1}, "-1"),
    "code_bytes zero": ({"code_bytes": 0}, "0"),
    "code_bytes in parts": ({"code_bytes": 2.5}, "2.5"),
    "code_bytes as a text": ({"code_bytes": "32"}, "'32'"),
    "rows_per_list": ({"rows_per_list": 0}, "0"),
    "rows_per_list in parts": ({"rows_per_list": 12.5}, "12.5"),
    "seed": ({"seed": -1}, "-1"),
    "threads": ({"threads": -2}, "-2"),
    "budget": ({"memory_budget": "much"}, "much"),
    "budget too small": ({"memory_budget": "1MB"}, "1 MB"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_build_options(what: str, tmp_path: Path) -> None:
    options, quoted = OPTIONS[what]
    refused(lambda: Index.build(make_vectors(300, 8, "uint8"), tmp_path / "index", **options), quoted)
    assert not list(tmp_path.glob("index*"))


def test_places(tmp_path: Path) -> None:
    """A file, a folder with other things in it, an index that is there already, a parent that is missing."""
    base = make_vectors(300, 8, "uint8")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("x")
    refused(lambda: Index.build(base, tmp_path / "file", overwrite=True), "file")
    refused(lambda: Index.build(base, tmp_path / "folder", overwrite=True), "folder", "not a Tenfold index")
    refused(lambda: Index.build(base, tmp_path / "no" / "index"), "no such folder")
    refused(lambda: Index.open(tmp_path / "nothing"), "nothing", "no such index")
    refused(lambda: Index.open(tmp_path / "folder"), "manifest.json")
    refused(lambda: Index.open(tmp_path / "file"), "file")
    Index.build(base, tmp_path / "index")
    refused(lambda: Index.build(base, tmp_path / "index"), "overwrite")
    assert Index.build(base[:7], tmp_path / "index", overwrite=True).rows == 7
    assert (tmp_path / "folder" / "letter.txt").exists()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A folder's name is bytes, in no encoding for certain; what is said of a file in it quotes it."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    base = make_vectors(300, 8, "uint8")
    index = Index.build(base, folder)
    assert index.search(base[:1], 1)[0][0, 0] == 0
    with (folder / "vectors.bin").open("r+b") as file:
        file.seek(SectionFile(folder / "vectors.bin", "vectors").section("pages").offset)
        file.write(b"\x5a" * 4096)
    refused(lambda: index.search(base, 5, recall=1.0), str(folder / "vectors.bin"))


# --- queries ----------------------------------------------------------------------------------------------------

QUERIES: dict[str, tuple[Any, str]] = {
    "other dimension": (np.zeros((2, 23), np.uint8), "24"),
    "one vector": (np.zeros(24, np.uint8), "reshape"),
    "three axes": (np.zeros((1, 1, 24), np.uint8), "24"),
    "text": (np.full((1, 24), "a"), "numbers"),
    "complex": (np.zeros((1, 24), complex), "numbers"),
    "ragged": ([[1, 2], [3]], "length"),
    "NaN": (np.full((3, 24), np.nan), "query 0"),
    "fraction": (np.full((1, 24), 0.5), "uint8"),
    "negative": (np.full((1, 24), -1), "uint8"),
    "too large": (np.full((1, 24), 256), "uint8"),
    "infinite": (np.full((1, 24), np.inf), "infinity"),
}


@pytest.mark.parametrize("what", QUERIES)
def test_queries(what: str, index_cache: IndexCache) -> None:
    queries, quoted = QUERIES[what]
    index = Index.open(index_cache(*SMALL))
    refused(lambda: index.search(queries, 3), quoted)
    refused(lambda: exact_search(as_source(make_vectors(5, 24, "uint8")), queries, 3), quoted)


def test_queries_too_long(index_cache: IndexCache) -> None:
    """Float queries whose distances would be infinite are turned down, also when only float64 can hold them."""
    index = Index.open(index_cache(700, 33, "float32", "l2"))
    for value in (1e19, 1e200, -1e30):
        refused(lambda value=value: index.search(np.full((2, 33), value), 3), "query 0")


@pytest.mark.parametrize(
    "queries", [np.zeros((2, 24)), np.zeros((2, 24), np.int64), [[0] * 24] * 2, np.zeros((48, 2), np.uint8)[::2].T]
)
def test_queries_of_other_types_and_orders(queries: Any, index_cache: IndexCache) -> None:
    """Whole numbers of any dtype, lists, and arrays that are not contiguous are copied quietly."""
    index = Index.open(index_cache(*SMALL))
    expected = index.search(np.zeros((2, 24), np.uint8), 5)
    for found, wanted in zip(index.search(queries, 5), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_no_queries(index_cache: IndexCache, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Nothing asked, nothing answered; in a process of its own, for it might wait for ever."""
    code = f"""
import numpy as np
from tenfold.search import Index
index = Index.open({str(index_cache(*SMALL))!r})
distances, ids, stats = index.search(np.zeros((0, 24), np.uint8), 5, return_stats=True)
print(distances.shape, ids.shape, stats.rounds.shape)
"""
    assert python(code).stdout.strip() == "(0, 5) (0, 5) (0,)"


SEARCH_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "k zero": ({"k": 0}, "k is 0"),
    "k negative": ({"k": -3}, "k is -3"),
    "k float": ({"k": 2.5}, "k is 2.5"),
    "probes float": ({"probes": 2.5}, "probes is 2.5"),
    "recall text": ({"recall": "0.9"}, "recall is '0.9'"),
    "k huge": ({"k": 1 << 70}, "k is"),
    "recall zero": ({"recall": 0.0}, "recall is 0"),
    "recall above one": ({"recall": 1.5}, "1.5"),
    "recall NaN": ({"recall": float("nan")}, "nan"),
    "probes": ({"probes": -1}, "probes is -1"),
    "candidates": ({"candidates": -1}, "candidates is -1"),
    "rerank": ({"rerank": "guess"}, "rerank"),
    "threads": ({"threads": -1}, "threads is -1"),
}


@pytest.mark.parametrize("what", SEARCH_OPTIONS)
def test_search_options(what: str, index_cache: IndexCache) -> None:
    options, quoted = SEARCH_OPTIONS[what]
    index = Index.open(index_cache(*SMALL))
    refused(lambda: index.search(np.zeros((1, 24), np.uint8), **options), quoted)


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"k": "3"}, "k is '3'"),
        ({"k": 1 << 70}, "k is"),
        ({"k": 3, "threads": -1}, "threads is -1"),
        ({"k": 3, "threads": 1.0}, "threads is 1.0"),
    ],
)
def test_options_of_exact_search(options: dict[str, Any], quoted: str) -> None:
    base = make_vectors(5, 24, "uint8")
    refused(lambda: exact_search(as_source(base), base, **options), quoted, "whole number")
    assert exact_search(as_source(base), base, np.int64(3), threads=2)[0].shape == (5, 3)  # type: ignore[arg-type]


def test_evaluating_nothing(index_cache: IndexCache) -> None:
    index = Index.open(index_cache(*SMALL))
    refused(lambda: evaluate(index, np.zeros((0, 24), np.uint8)), "no queries")
    refused(lambda: evaluate(index, np.zeros((1, 24), np.uint8), k=1.5), "k is 1.5")  # type: ignore[arg-type]


def test_settings_beyond_the_index_are_all_of_it(index_cache: IndexCache) -> None:
    """More probes than lists, more candidates than rows: everything."""
    index = Index.open(index_cache(*SMALL))
    queries = make_vectors(5, 24, "uint8", seed=1)
    everything = index.search(queries, 9, probes=index.lists, candidates=index.rows)
    for found, wanted in zip(index.search(queries, 9, probes=1 << 70, candidates=1 << 70), everything, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("cache", ["-1", "lots", "1XB", ""])
def test_cache_sizes(cache: str, index_cache: IndexCache) -> None:
    refused(lambda: Index.open(index_cache(*SMALL), cache=cache), repr(cache))


# --- files of another time --------------------------------------------------------------------------------------


def test_manifest_of_a_newer_version(index_copy: IndexCache) -> None:
    folder = index_copy(*SMALL)
    text = json.loads((folder / "manifest.json").read_text())
    text["manifest"]["format_version"] = 99
    (folder / "manifest.json").write_text(json.dumps(text))
    refused(lambda: Index.open(folder), "manifest.json", "version 99", "upgrade")


@pytest.mark.parametrize("name", list(fuzz_index.KINDS))
def test_file_of_a_newer_version(name: str, index_copy: IndexCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in full by a later Tenfold, with a checksum that holds."""
    folder = index_copy(*SMALL)
    monkeypatch.setattr("tenfold.search.storage.FORMAT_VERSION", 7)
    with SectionWriter(folder / name, fuzz_index.KINDS[name]) as file:
        file.add("future", np.zeros(3, np.uint32))
    monkeypatch.undo()
    refused(lambda: Index.open(folder), name, "version 7", "upgrade")


# --- disks that are full, folders that cannot be written ---------------------------------------------------------


def full_disk(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write behind `limit` bytes of section files fails as on a full disk."""
    written = 0
    plain = SectionWriter.write

    def write(self: SectionWriter, rows: np.ndarray) -> None:
        nonlocal written
        written += rows.nbytes
        if written > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(self, rows)

    monkeypatch.setattr(SectionWriter, "write", write)


@pytest.mark.parametrize("limit", [0, 1000, 5000, 20_000, 35_000])
def test_full_disk_then_room(limit: int, tmp_path: Path, uncalibrated: None) -> None:
    """One line that names the place; after making room the same call finishes the same index."""
    base = make_vectors(1000, 24, "uint8")
    Index.build(base, tmp_path / "good", rows_per_list=50)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(limit, patch)
        refused(lambda: Index.build(base, tmp_path / "index", rows_per_list=50), "index.partial", "No space left")
    assert not (tmp_path / "index").exists()
    refused(lambda: Index.open(tmp_path / "index.partial"))
    Index.build(base, tmp_path / "index", rows_per_list=50)
    for path in (tmp_path / "good").iterdir():
        assert path.read_bytes() == (tmp_path / "index" / path.name).read_bytes()


FILE_LIMIT = """
import resource, signal, sys
import numpy as np
from tenfold.search import Index
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
base = np.random.default_rng(0).integers(0, 256, (3000, 64), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Index.build(base, sys.argv[1])
    print("built")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("limit", [100, 5_000, 50_000, 150_000, 200_000])
def test_files_that_may_not_grow(
    limit: int, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The system refuses writes wherever they happen, also NumPy's and the spill files': one line each time."""
    lines = python(FILE_LIMIT, tmp_path / "index", limit).stdout.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("InputError")
    assert "index" in lines[0]
    assert not (tmp_path / "index").exists()


READ_ONLY = """
import ctypes, os, struct, sys
import numpy as np
from tenfold.search import Index
# Without capabilities root too must keep to the permissions of files.
assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
base = np.zeros((50, 4), np.uint8)
index = Index.open(sys.argv[1] + "/index")
print(index.search(base[:1], 1)[1].tolist())
for work in (
    lambda: index.calibrate(),
    lambda: Index.build(base, sys.argv[1] + "/other"),
    lambda: Index.build(base, sys.argv[1] + "/index", overwrite=True),
    lambda: Index.build(base, sys.argv[1] + "/secret/index"),
    lambda: Index.open(sys.argv[1] + "/secret/index"),
):
    try:
        work()
        print("done")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_read_only_folder(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Searching works where nothing may be written; building and calibrating say so."""
    Index.build(np.zeros((50, 4), np.uint8), tmp_path / "index")
    (tmp_path / "secret").mkdir(mode=0)
    for folder in (tmp_path / "index", tmp_path):
        folder.chmod(0o555)
    done = python(READ_ONLY, tmp_path)
    tmp_path.chmod(0o755)
    lines = done.stdout.splitlines()
    assert lines[:1] == ["[[0]]"], done.stderr
    assert len(lines) == 6
    for line in lines[1:]:
        assert re.match(r"InputError .*Permission denied", line)


def test_unknown_io_backend(index_cache: IndexCache) -> None:
    refused(lambda: Index.open(index_cache(*SMALL), io="tape"), "tape", "buffered")  # type: ignore[arg-type]


def test_native_functions_check_their_arrays() -> None:
    """Shapes that do not fit each other are refused below Python too."""
    rows = np.zeros((3, 4), np.float32)
    out = (np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int64))
    for queries in (np.zeros((2, 5), np.float32), np.zeros((2, 4), np.uint8), np.zeros((3, 4), np.float32)):
        refused(lambda queries=queries: _native.exact(rows, "float32", "l2", queries, 0, *out))
    refused(lambda: _native.exact(rows.view(np.int32), "float32", "l2", rows[:2], 0, *out), "types")
    bytes_ = rows.astype(np.uint8)
    refused(lambda: _native.exact(bytes_, "uint8", "l2", bytes_[:2].view(np.int8), 0, *out), "types")


@pytest.mark.parametrize("wrong", ["type of distances", "type of ids", "gaps", "order"])
def test_native_functions_write_to_no_copies(wrong: str) -> None:
    """What is filled in place must be of the right type and layout: in a converted copy the results would be lost."""
    rows = np.ones((3, 4), np.float32)
    distances, ids = np.full((2, 2), np.inf, np.float32), np.full((2, 2), -1, np.int64)
    if wrong == "type of distances":
        distances = distances.astype(np.float64)
    elif wrong == "type of ids":
        ids = ids.astype(np.int32)
    elif wrong == "gaps":
        distances = np.full((2, 4), np.inf, np.float32)[:, ::2]
    else:
        ids = np.asfortranarray(ids)
    with pytest.raises(TypeError):
        _native.exact(rows, "float32", "l2", rows[:2], 0, distances, ids)
    with pytest.raises(TypeError):
        _native.merge(distances, ids, np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int64), np.arange(3))


def test_a_searcher_keeps_what_it_looks_into(index_cache: IndexCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where arrays of another type are copied, and where the caller's dict changes afterwards."""
    wider = {"f": np.float64, "u": np.int64}
    made = _native.Searcher

    def converted(arrays: dict[str, np.ndarray], *rest: Any) -> Any:
        copies = {name: array.astype(wider[array.dtype.kind]) for name, array in arrays.items()}
        searcher = made(copies, *rest)
        copies.clear()
        return searcher

    queries = make_vectors(50, 24, "uint8", seed=1)
    wanted = Index.open(index_cache(*SMALL)).search(queries, 5)
    monkeypatch.setattr(_native, "Searcher", converted)
    index = Index.open(index_cache(*SMALL))
    rubbish = [np.full(size, 0xFF, np.uint8) for size in range(64, 40_000, 64)]  # where freed copies would lie
    for found, expected in zip(index.search(queries, 5), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(rubbish)


def test_other_threads_run_while_an_index_opens(
    index_cache: IndexCache, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Opening a pipe waits for who writes to it: here another thread, which would never get to run."""
    code = """
import os, sys, threading, time
from tenfold.search import Index, _native
made = _native.Searcher
def from_pipe(arrays, numbers, path, *rest):
    os.mkfifo(sys.argv[2])
    def write():
        time.sleep(0.2)
        open(sys.argv[2], "wb").close()
    threading.Thread(target=write).start()
    return made(arrays, numbers, sys.argv[2], *rest)
_native.Searcher = from_pipe
print(Index.open(sys.argv[1], io="buffered").rows)
"""
    assert python(code, index_cache(*SMALL), tmp_path / "pipe").stdout.strip() == "400"


def test_more_than_there_is(tmp_path: Path) -> None:
    """A k, a cache or a budget beyond any machine is one line, or no matter at all."""
    rows = make_vectors(100, 8, "float32")
    index = Index.build(rows, tmp_path / "index")
    with pytest.raises(InputError, match=r"16,000,000 results of 100,000 queries .* 3 threads .* fewer"):
        index.search(np.zeros((100_000, 8), np.float32), 16_000_000, threads=3)
    assert Index.open(tmp_path / "index", cache="900TB").search(rows[:1], 1)[1][0, 0] == 0
    with pytest.raises(InputError, match="more than any machine"):
        Index.open(tmp_path / "index", cache="9" * 400)


def test_interrupt_ends_a_search(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Ctrl-C during a long search: KeyboardInterrupt soon, and the index searches on afterwards."""
    code = """
import os, signal, sys, threading, time
import numpy as np
import tenfold.search.index as engine
from tenfold.search.calibration import Calibration
engine.calibrate = lambda *arguments: Calibration()
rows = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
index = engine.Index.build(rows, sys.argv[1])
many = np.tile(rows, (10, 1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
try:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        index.search(many, 10, recall=1.0)
except KeyboardInterrupt:
    print("interrupted")
print(index.search(rows[:1], 1)[1][0, 0])
"""
    done = python(code, tmp_path / "index")
    assert done.stdout.split() == ["interrupted", "0"], done.stderr


def test_interrupt_ends_loading(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Ctrl-C while pages are read into memory, 64 MiB of a gigabyte of a sparse file, before they are checked."""
    code = """
import os, signal, sys, threading, time
import numpy as np
from tenfold.search import _native
pages, page_bytes = 1024, 1 << 20
with open(sys.argv[1], "wb") as file:
    file.truncate(pages * page_bytes)
u4 = np.uint32
arrays = {
    "page_crc": np.zeros(pages, u4), "labels": np.arange(pages, dtype=u4), "centroids": np.zeros((1, 2), np.float32),
    "neighbours": np.full((1, 32), 0xFFFFFFFF, u4), "starts": np.array([0, pages], np.uint64),
    "replica_offsets": np.zeros(2, np.uint64), "replicas": np.zeros(0, u4),
    "blocks": np.zeros(pages // 32 * 160, np.uint8), "codebook": np.zeros((2, 16, 1), np.float32),
}
numbers = dict.fromkeys(("shift_low", "shift_step", "scale_low", "scale_step", "error_low", "error_step"), 0.0)
numbers |= {"bits": 0, "rows": pages, "dim": 128, "rows_per_page": 1, "page_stride": page_bytes, "pages_offset": 0}
signal.signal(signal.SIGINT, signal.default_int_handler)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
def interrupt():
    while resident() < before + (64 << 20):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=interrupt, daemon=True).start()
    _native.Searcher(arrays, numbers, sys.argv[1], "uint8", "l2", "memory", 0)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = python(code, tmp_path / "vectors.bin")
    assert done.stdout.split() == ["interrupted"], done.stderr
