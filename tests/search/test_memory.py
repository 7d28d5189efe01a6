"""Memory: a build keeps its budget, a search needs a quarter of the raw vectors, a small budget says what is needed.

Peaks are read from the system (VmHWM) in processes of their own.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index
from tenfold.search.memory import parse_size

Python = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks come from /proc")
ROWS, DIM = 200_000, 64
PEAK = """
import sys
def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
"""
BUILD = (
    PEAK
    + """
from tenfold.search import Index
Index.build(sys.argv[1], sys.argv[2], memory_budget=sys.argv[3], code_bytes=16, threads=2)
print(kilobytes("VmHWM"))
"""
)
SEARCH = (
    PEAK
    + """
import numpy as np
from tenfold.search import Index, open_vectors
queries = next(open_vectors(sys.argv[2]).blocks(300))
before = kilobytes("VmRSS")
index = Index.open(sys.argv[1], io=sys.argv[3])
for _ in range(3):
    index.search(queries, 10, threads=2)
print(kilobytes("VmHWM") - before)
"""
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 x 64 float32 in clusters, 51 MB, written in pieces."""
    path = tmp_path_factory.mktemp("memory") / "base.fbin"
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, DIM)).astype(np.float32)
    with path.open("wb") as file:
        file.write(np.array([ROWS, DIM], "<u4").tobytes())
        for _ in range(0, ROWS, 20_000):
            noise = rng.normal(scale=0.5, size=(20_000, DIM)).astype(np.float32)
            file.write((centres[rng.integers(0, len(centres), 20_000)] + noise).tobytes())
    return path


@pytest.fixture(scope="module")
def built(base: Path) -> Callable[[str], tuple[Path, int]]:
    """An index built in another process within a budget, and the peak of that process in bytes."""
    done: dict[str, tuple[Path, int]] = {}

    def get(budget: str) -> tuple[Path, int]:
        if budget not in done:
            path = base.with_name(budget)
            command = [sys.executable, "-c", BUILD, str(base), str(path), budget]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert run.returncode == 0, run.stderr
            done[budget] = path, 1024 * int(run.stdout)
        return done[budget]

    return get


@pytest.mark.footprint
def test_build_keeps_its_budget(built: Callable[[str], tuple[Path, int]]) -> None:
    """Peak resident memory of the whole process is at most 10 % above the budget."""
    _, peak = built("128MB")
    assert peak <= 1.1 * parse_size("128MB"), f"{peak / 2**20:.0f} MB"


@pytest.mark.footprint
@pytest.mark.parametrize("io", ["auto", "buffered"])
def test_search_needs_a_quarter_of_the_vectors(
    io: str, base: Path, built: Callable[[str], tuple[Path, int]], python: Python
) -> None:
    """Opening and searching grow the process by at most 25 % of the raw float32 vectors."""
    done = python(SEARCH, built("128MB")[0], base, io)
    assert done.returncode == 0, done.stderr
    assert 1024 * int(done.stdout) <= 0.25 * ROWS * DIM * 4


def test_budget_too_small_names_one_that_suffices(base: Path, tmp_path: Path, python: Python) -> None:
    """The line quotes what was given; with the number that it names the build runs."""
    code = """
import sys
from tenfold.search import Index
try:
    Index.build(sys.argv[1], sys.argv[2], memory_budget=sys.argv[3])
    print("built")
except Exception as error:
    print(type(error).__name__, error)
"""
    small = base.with_name("small.fbin")
    small.write_bytes(np.array([20_000, DIM], "<u4").tobytes() + base.read_bytes()[8 : 8 + 20_000 * DIM * 4])
    line = python(code, small, tmp_path / "index", "30MB").stdout.strip()
    assert line.startswith("InputError")
    assert "30 MB" in line
    needed = re.findall(r"(\d+) MB", line)[-1]
    assert python(code, small, tmp_path / "index", f"{int(needed) + 1}MB").stdout.strip() == "built"


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64 << 20), ("1.5 GiB", 3 << 29), (" 7k ", 7 << 10), (4096, 4096), ("0", 0), ("2T", 2 << 40), ("3b", 3)],
)
def test_sizes_are_understood(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1,5MB", "1e9", "64 megabytes", "1 2", "64MBs", "nan", "٣MB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="understood") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.footprint
def test_a_large_batch_gives_its_memory_back(index_cache: Callable[..., Path], python: Python) -> None:
    """Queries twice while they cross into search space, then once beside 8 MB of lists to scan; afterwards neither."""
    path = index_cache(1500, 384, "float32", "cosine", "rabitq", 8)
    code = (
        PEAK
        + """
import numpy as np
from tenfold.search import Index
queries = np.random.default_rng(0).normal(size=(8192, 384)).astype(np.float32)
index = Index.open(sys.argv[1])
index.search(queries[:64], 10, threads=2)
before = kilobytes("VmRSS")
for probes in (50, 100, index.lists):
    index.search(queries, 10, probes=probes, candidates=10, threads=2)
print(kilobytes("VmHWM") - before, kilobytes("VmRSS") - before)
"""
    )
    done = python(code, path)
    assert done.returncode == 0, done.stderr
    peak, rest = (1024 * int(number) for number in done.stdout.split())
    copy, room = 8192 * 384 * 4, 8 << 20  # room: results, what threads and malloc keep
    assert peak <= max(2 * copy, copy + (8 << 20)) + room, f"{peak / 2**20:.0f} MB"
    assert rest <= room, f"{rest / 2**20:.0f} MB"


@pytest.mark.footprint
def test_many_small_searches_do_not_pile_up(index_cache: Callable[..., Path], python: Python) -> None:
    """Opening and searching again and again keeps the process where it was."""
    path = index_cache(700, 33, "uint8", "l2")
    code = (
        PEAK
        + """
import numpy as np
from tenfold.search import Index
queries = np.zeros((64, 33), np.uint8)
for number in range(300):
    if number == 100:
        before = kilobytes("VmRSS")
    Index.open(sys.argv[1]).search(queries, 20, recall=1.0, threads=2)
print(kilobytes("VmRSS") - before)
"""
    )
    assert int(python(code, path).stdout) < 4000


def test_array_source_is_not_copied(tmp_path: Path) -> None:
    """A build from an array leaves the array as it was."""
    base = make_vectors(500, 12, "float32")
    before = base.copy()
    base.flags.writeable = False
    Index.build(base, tmp_path / "index", metric="cosine")
    np.testing.assert_array_equal(base, before)
