"""The arithmetic of an index: against indexes that were built, against itself, and against the tables in the docs."""

import json
import math
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.search import Index, IndexPlan, plan_index
from tenfold.search.gpu import LIST_BYTES
from tenfold.search.pages import page_layout
from tenfold.search.planning import parse_count

TENFOLD = Path(sysconfig.get_path("scripts"), "tenfold")
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "search/scale.md").read_text()
Python = Callable[..., subprocess.CompletedProcess[str]]
SHAPES: list[tuple[int, int, str, dict[str, Any]]] = [
    (20_000, 128, "uint8", {}),
    (20_000, 33, "float32", {}),
    (8_000, 384, "float32", {}),
    (8_000, 384, "float32", {"codec": "pq"}),
    (20_000, 64, "int8", {"metric": "ip"}),
    (20_000, 96, "float16", {"metric": "cosine", "codec": "rabitq"}),
    (20_000, 16, "uint8", {"rows_per_list": 40}),
    (8_000, 384, "float32", {"second_lists": True}),
    (3_000, 1_500, "float32", {}),
]


def clustered(rows: int, dim: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, rows // 400), dim))
    vectors = centres[rng.integers(0, len(centres), rows)] + rng.normal(scale=0.6, size=(rows, dim))
    if dtype in ("uint8", "int8"):
        return np.clip(30 * vectors + 128 * (dtype == "uint8"), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    return vectors.astype(dtype)


def built_and_planned(vectors: np.ndarray, path: Path, **settings: Any) -> tuple[dict[str, Any], IndexPlan, int]:
    """The statistics of an index, its plan, and the most that its build had on disk."""
    partial, peak = path.with_name(path.name + ".partial"), 0

    def weigh(*_: object) -> None:
        nonlocal peak
        peak = max(peak, sum(file.stat().st_size for file in partial.rglob("*") if file.is_file()))

    stats = Index.build(vectors, path, progress=weigh, **settings).stats()
    entries_per_row = stats["entries_per_row"]  # of these vectors: nothing that a plan can know
    return stats, plan_index(*vectors.shape, str(vectors.dtype), entries_per_row=entries_per_row, **settings), peak


@pytest.mark.parametrize(("rows", "dim", "dtype", "settings"), SHAPES, ids=str)
def test_a_plan_is_what_gets_built(
    rows: int, dim: int, dtype: str, settings: dict[str, Any], tmp_path: Path, uncalibrated: None
) -> None:
    """Files, memory and disk while building, to 3 %; the vectors' file and the code length to the byte."""
    stats, plan, peak = built_and_planned(clustered(rows, dim, dtype), tmp_path / "index", **settings)
    assert plan.files["vectors.bin"] == stats["files"]["vectors.bin"]
    assert plan.files["codebook.bin"] == stats["files"]["codebook.bin"]
    assert plan.files["codes.bin"] == pytest.approx(stats["files"]["codes.bin"], rel=0.03)
    assert plan.index_bytes == pytest.approx(stats["index_bytes"], rel=0.03)
    assert plan.memory_bytes == pytest.approx(stats["memory_bytes"], rel=0.03)
    assert plan.build_disk_bytes == pytest.approx(peak, rel=0.04)
    assert plan.lists == pytest.approx(stats["lists"], rel=0.1)
    for name in ("rows", "dim", "dtype", "metric", "codec", "code_bytes", "vector_bytes"):
        assert getattr(plan, name) == stats[name]
    held = Index.open(tmp_path / "index", io="memory").stats()
    assert plan.memory_bytes_with_vectors == pytest.approx(held["memory_bytes"], rel=0.03)


def test_a_plan_of_real_vectors(real_data: Path, tmp_path: Path, uncalibrated: None) -> None:
    """SIFT vectors, with replicas: nothing is taken from the index that was built."""
    vectors = np.fromfile(real_data / "bigann9k_base.u8bin", np.uint8, offset=8).reshape(-1, 128)
    stats, _, _ = built_and_planned(vectors, tmp_path / "index")
    plan = plan_index(*vectors.shape, "uint8")
    assert plan.entries_per_row == pytest.approx(stats["entries_per_row"], rel=0.03)
    assert plan.index_bytes == pytest.approx(stats["index_bytes"], rel=0.03)
    assert plan.memory_bytes == pytest.approx(stats["memory_bytes"], rel=0.03)


def test_a_device_gets_what_the_plan_says(tmp_path: Path, uncalibrated: None) -> None:
    """Against what the class that puts lists on a GPU holds there, but for the room that it keeps for queries."""
    pytest.importorskip("torch")
    kernels = pytest.importorskip("tenfold.search.gpu_kernels")
    vectors = clustered(20_000, 16, "uint8")
    _, plan, _ = built_and_planned(vectors, tmp_path / "index", rows_per_list=40)
    parts = Index.open(tmp_path / "index")._list_parts(kernels)
    held = kernels.DeviceLists(parts, "cpu", 1 << 20, 1).held_bytes
    assert held <= parts.blocks.nbytes + parts.list_bytes() <= held + LIST_BYTES
    assert plan.device_bytes - (128 << 20) == pytest.approx(held, rel=0.03)


def test_closed_forms() -> None:
    """One billion SIFT vectors by hand."""
    plan = plan_index(10**9, 128, "uint8", entries_per_row=1.2, cores=4)
    pages = 10**9 // 32
    padded = (4 * pages + 4095) // 4096 * 4096 + (4 * 10**9 + 4095) // 4096 * 4096
    assert plan.files["vectors.bin"] == 4096 + 4096 * pages + padded
    slots = 1.2e9 + 15.5 * plan.lists
    assert plan.files["codes.bin"] == pytest.approx(36 * slots, rel=1e-3)
    assert plan.files["graph.bin"] == pytest.approx((512 + 128) * plan.lists, rel=1e-3)
    assert plan.index_bytes == sum(plan.files.values())
    assert plan.memory_bytes_with_vectors - plan.memory_bytes == 4096 * pages
    assert plan.most_queries_per_second == pytest.approx(500_000 / plan.pages_per_query)
    assert page_layout(768 * 4) == (1, 4096)
    assert plan_index(10**6, 768, cores=1).files["vectors.bin"] > 4096 * 10**6


@pytest.mark.parametrize(("cores", "seconds"), [(2, 4.9 * 60), (16, 204)])
def test_a_build_takes_what_was_measured(cores: int, seconds: float) -> None:
    """Ten million SIFT vectors, as docs/search/scale.md and docs/results/search-gpu.md have it."""
    assert 3600 * plan_index(10**7, 128, "uint8", cores=cores).build_hours == pytest.approx(seconds, rel=0.01)


def test_more_cores_build_faster_to_a_limit() -> None:
    """Every core helps, but eight times as many never build eight times as fast."""
    hours = [plan_index(10**9, 128, "uint8", cores=cores).build_hours for cores in (1, 2, 16, 128)]
    assert hours == sorted(set(hours), reverse=True)
    assert hours[2] > hours[1] / 8


def test_more_of_anything_takes_more() -> None:
    rows = [plan_index(10**power, 128, "uint8", cores=1) for power in range(1, 10)]
    dims = [plan_index(10**6, dim, "float32", codec="pq", code_bytes=16, cores=1) for dim in (16, 33, 128, 500, 1000)]
    for plans in (rows, dims):
        for name in ("index_bytes", "memory_bytes", "build_disk_bytes", "build_hours"):
            values = [getattr(plan, name) for plan in plans]
            assert values == sorted(values), name
    on_device = [plan.device_bytes for plan in rows]  # longer vectors may get fewer lists, and smaller ones there
    assert on_device == sorted(on_device)
    pages = [plan_index(10**8, 128, "uint8", recall=recall).pages_per_query for recall in (0.9, 0.93, 0.95, 0.98, 0.99)]
    assert pages == sorted(set(pages))
    assert [plan.pages_per_query for plan in rows] == sorted(plan.pages_per_query for plan in rows)


def pages_measured(library: str) -> list[float]:
    """Pages of a single query at recall@10 of 0.90, 0.95 and 0.99: the last column of docs/results/search-sift.md."""
    page = (DOCS / "results/search-sift.md").read_text()
    rows = re.findall(rf"^\| {re.escape(library)} \| 0\.9\d\d\d \|.*\| \**([\d.]+)\** \|$", page, re.MULTILINE)
    assert len(rows) == 3, rows
    return [float(pages) for pages in rows]


def test_a_short_budget_costs_pages() -> None:
    """Codes of 64, 32 and 20 bytes at a million SIFT vectors as measured beside others; never fewer for shorter."""
    libraries = ("tenfold, codes of 64 bytes", "tenfold", "tenfold, codes of 20 bytes and lists of 256 rows")
    measured = zip(*map(pages_measured, libraries), strict=True)
    for recall, known in zip((0.9, 0.95, 0.99), measured, strict=True):
        plans = [plan_index(10**6, 128, "uint8", recall=recall, code_bytes=size) for size in (64, 48, 32, 20, 12, 6)]
        pages = [plan.pages_per_query for plan in plans]
        assert [pages[0], pages[2], pages[3]] == pytest.approx(known, rel=0.03)
        assert pages == sorted(pages)
        steepness = math.log(pages[4] / pages[2]) / math.log(32 / 12)  # below what was measured it goes on
        assert pages[5] == pytest.approx(pages[4] * 2**steepness)
    budgets = [plan_index(10**9, 128, "uint8", memory_budget=budget) for budget in ("64GB", "48GB", "40GB", "28GB")]
    pages = [plan.pages_per_query for plan in budgets]
    assert pages == sorted(set(pages))
    speeds = [plan.most_queries_per_second for plan in budgets]
    assert speeds == sorted(speeds, reverse=True)


def test_one_list_has_no_second() -> None:
    plans = [plan_index(rows, 8, "uint8", second_lists=True) for rows in (1, 255, 256, 1000)]
    assert [(plan.lists == 1, plan.entries_per_row) for plan in plans] == [(True, 1), (True, 1), (False, 2), (False, 2)]


def test_few_rows_have_few_pages() -> None:
    plan = plan_index(1, 4, "uint8")
    assert (plan.lists, plan.pages_per_query) == (1, 1)


def test_a_short_budget_shortens_codes_as_a_build_does() -> None:
    assert plan_index(10**7, 128, "uint8").memory_budget == 1 << 30
    assert plan_index(10**9, 128, "uint8").memory_budget == 64 << 30
    assert plan_index(10**9, 128, "uint8", memory_budget="40GB").code_bytes < 32
    with pytest.raises(InputError, match=r"too small .* give at least \d+ MB"):
        plan_index(10**9, 128, "uint8", memory_budget="1GB")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": 5 * 10**9}, "5,000,000,000 rows"),
        ({"rows": 1.5}, "rows is 1.5"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": 65_536}, "dim is 65536"),
        ({"dtype": "float8"}, "float8"),
        ({"dtype": "int32"}, "int32"),
        ({"metric": "hamming"}, "hamming"),
        ({"codec": "zip"}, "zip"),
        ({"code_bytes": 20_000}, "20000"),
        ({"rows_per_list": 0}, "rows_per_list is 0"),
        ({"memory_budget": "much"}, "much"),
        ({"memory_budget": "20MB"}, "20 MB is too small"),
        ({"entries_per_row": 0.9}, "entries_per_row is 0.9"),
        ({"entries_per_row": float("nan")}, "nan"),
        ({"entries_per_row": 3, "second_lists": True}, "from 1 to 2"),
        ({"recall": 0.5}, "recall is 0.5"),
        ({"recall": "high"}, "recall is 'high'"),
        ({"reads_per_second": 0}, "reads_per_second is 0"),
        ({"cores": 0}, "cores is 0"),
    ],
    ids=str,
)
def test_what_cannot_be_planned(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        plan_index(**({"rows": 1000, "dim": 8, "dtype": "uint8"} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("20000", 20_000), ("1e9", 10**9), ("100M", 10**8), ("1.5b", 1_500_000_000), ("20,000", 20_000), (" 7 k ", 7000)],
)
def test_counts_are_understood(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "1e999", "0x10", "1.5", "ten", "1e9e9", "nan", "٣"])
def test_counts_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="number") as caught:
        parse_count(text)
    assert repr(text) in str(caught.value)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TENFOLD, "search", "plan", *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_prints_the_plan() -> None:
    asked = ("--rows", "1e9", "--dim", "128", "--dtype", "uint8", "--cores", "2")
    plan = plan_index(10**9, 128, "uint8", cores=2)
    assert json.loads(run(*asked, "--json").stdout) == plan.to_json()
    shown = run(*asked)
    assert (shown.returncode, shown.stderr) == (0, "")
    for text in (f"{plan.memory_bytes / 2**20:,.1f} MB", f"{plan.lists:,}", "on a GPU", "8.2 (estimate)"):
        assert text in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--rows", "many"), ("--rows", "1e9", "--memory-budget", "1GB"), ("--recall", "1"), ("--dim", "0")],
    ids=" ".join,
)
def test_the_command_refuses_in_one_line(arguments: tuple[str, ...]) -> None:
    answer = run(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("tenfold: ")


# --- the page in docs/ ----------------------------------------------------------------------------------------------

COLUMNS = [(10**6, 128, "uint8"), (10**8, 128, "uint8"), (10**9, 128, "uint8"), (10**8, 768, "float32")]
ROWS: list[tuple[str, Callable[[IndexPlan], str]]] = [
    ("vectors alone", lambda plan: gigabytes(plan.vector_bytes)),
    ("index on disk", lambda plan: gigabytes(plan.index_bytes)),
    ("`vectors.bin`", lambda plan: gigabytes(plan.files["vectors.bin"])),
    ("`codes.bin`", lambda plan: gigabytes(plan.files["codes.bin"])),
    ("`graph.bin`", lambda plan: gigabytes(plan.files["graph.bin"])),
    ("`lists.bin`", lambda plan: gigabytes(plan.files["lists.bin"])),
    ("memory to search", lambda plan: gigabytes(plan.memory_bytes)),
    ("memory to search, vectors in memory", lambda plan: gigabytes(plan.memory_bytes_with_vectors)),
    ("GPU memory", lambda plan: gigabytes(plan.device_bytes)),
    ("memory to build", lambda plan: gigabytes(plan.memory_budget)),
    ("disk to build", lambda plan: gigabytes(plan.build_disk_bytes)),
    ("lists (estimate)", lambda plan: f"{plan.lists:,}"),
    ("hours to build, 2 cores (estimate)", lambda plan: f"{plan.build_hours:.2g}"),
    ("pages per query at 0.95 (estimate)", lambda plan: f"{plan.pages_per_query:.1f}"),
    ("queries/s that 500,000 reads/s allow", lambda plan: f"{plan.most_queries_per_second:,.0f}"),
]


def gigabytes(size: int) -> str:
    return f"{size / 2**30:,.2f}"


@pytest.mark.parametrize(("name", "shown"), ROWS, ids=[name for name, _ in ROWS])
def test_the_table_in_the_docs_is_the_plan(name: str, shown: Callable[[IndexPlan], str]) -> None:
    plans = [plan_index(*shape, cores=2) for shape in COLUMNS]
    assert f"| {name} | {' | '.join(map(shown, plans))} |" in PAGE
