"""What goes through files on its way: sorted there in pieces, with no more in memory than the budget allows."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.search import Index
from tenfold.search.memory import parse_size
from tenfold.search.spilling import entry_record, in_list_order, row_record, whole_blocks

Python = Callable[..., subprocess.CompletedProcess[str]]


def spilled(path: Path, lists: list[int], replicas: list[bool] | None) -> np.ndarray:
    """Records that are numbered in the order of the file."""
    records = np.zeros(len(lists), row_record(2, np.dtype("u1")) if replicas is None else entry_record(8))
    records["list"] = lists
    records["label" if replicas is None else "row"] = np.arange(len(lists))
    if replicas is not None:
        records["replica"] = replicas
    records.tofile(path)
    return records


@settings(max_examples=200)
@given(
    lists=st.lists(st.integers(0, 7) | st.just(3), max_size=300),
    most=st.integers(1, 120),
    data=st.data(),
)
def test_pieces_are_the_sorted_file(
    tmp_path_factory: pytest.TempPathFactory, lists: list[int], most: int, data: st.DataObject
) -> None:
    """Against a sort of the whole; a piece is of whole lists and fits, or is of one list."""
    replicas = data.draw(st.none() | st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    path = tmp_path_factory.mktemp("spill") / "rows-0"
    records = spilled(path, lists, replicas)
    keys = [records["list"]] if replicas is None else [records["replica"], records["list"]]
    pieces = list(in_list_order(path, records.dtype, most))
    np.testing.assert_array_equal(np.concatenate([records[:0], *pieces]), records[np.lexsort(keys)])
    for piece in pieces:
        assert 0 < len(piece) <= most + 1 or len(np.unique(piece["list"])) == 1


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(0, 90), max_size=8), cuts=st.lists(st.integers(0, 700), max_size=20))
def test_blocks_are_cut_only_where_they_are_whole(sizes: list[int], cuts: list[int]) -> None:
    """Every part but the last of a list has a multiple of 32 of its records; nothing is lost or moved."""
    records = np.zeros(sum(sizes), entry_record(8))
    records["list"] = np.repeat(np.arange(len(sizes)), sizes)
    records["row"] = np.arange(len(records))
    pieces = [piece for piece in np.split(records, sorted(min(cut, len(records)) for cut in cuts)) if len(piece)]
    parts = list(whole_blocks(iter(pieces), 32))
    np.testing.assert_array_equal(np.concatenate([records[:0], *parts]), records)
    for part, following in itertools.pairwise(parts):
        if part["list"][-1] == following["list"][0]:
            assert np.count_nonzero(part["list"] == part["list"][-1]) % 32 == 0


SMALL_BUILD = """
import sys
import tenfold.search.index as engine
from tenfold.search.calibration import Calibration
engine.calibrate = lambda *arguments: Calibration()
index = engine.Index.build(sys.argv[1], sys.argv[2], memory_budget=sys.argv[3], codec="pq", code_bytes=16, threads=2)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.footprint
@pytest.mark.skipif(sys.platform != "linux", reason="peaks come from /proc")
def test_vectors_are_sorted_outside_memory(tmp_path: Path, python: Python) -> None:
    """A file four times the budget, and twenty times what the budget leaves for it beside the interpreter.

    Uniform vectors of so many dimensions nearly all lie nearest to the same few centroids: a list outgrows the budget.
    """
    rows, dim, budget = 61_440, 1280, "70MB"
    rng = np.random.default_rng(0)
    with (tmp_path / "base.fbin").open("wb") as file:
        file.write(np.array([rows, dim], "<u4").tobytes())
        for start in range(0, rows, 4096):
            part = rng.random((4096, dim), np.float32)
            part[:, 0] = np.arange(start, start + 4096) / 2**20  # each row knows its number
            file.write(part.tobytes())
    assert (tmp_path / "base.fbin").stat().st_size > 4 * parse_size(budget)
    done = python(SMALL_BUILD, tmp_path / "base.fbin", tmp_path / "index", budget)
    assert done.returncode == 0, done.stderr
    assert 1024 * int(done.stdout) <= 1.1 * parse_size(budget)
    stored = Index.open(tmp_path / "index").stored
    numbers = 2**20 * np.concatenate([block[:, 0] for block in stored.blocks(4096)])
    np.testing.assert_array_equal(numbers, stored.labels())
    np.testing.assert_array_equal(np.sort(numbers), np.arange(rows))
