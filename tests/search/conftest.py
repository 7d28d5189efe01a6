"""Fixtures of the tests of search. Their helpers are in `oracles.py`, which is put on the path here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenfold.search import Index, _native
from tenfold.search.calibration import Calibration

sys.path.insert(0, str(Path(__file__).parent))

from oracles import make_vectors, run_python


@pytest.fixture(scope="session")
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of indexes over `make_vectors(...)`, each built once."""
    folder = tmp_path_factory.mktemp("indexes")
    built: dict[tuple[object, ...], Path] = {}

    def get(rows: int, dim: int, dtype: str, metric: str, codec: str = "pq", rows_per_list: int = 128) -> Path:
        key = (rows, dim, dtype, metric, codec, rows_per_list)
        if key not in built:
            path = folder / "-".join(map(str, key))
            base = make_vectors(rows, dim, dtype)
            Index.build(base, path, metric=metric, codec=codec, rows_per_list=rows_per_list)  # type: ignore[arg-type]
            built[key] = path
        return built[key]

    return get


@pytest.fixture
def index_copy(index_cache: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Like `index_cache`, but a copy that the test may damage."""

    def get(*key: object) -> Path:
        source = index_cache(*key)
        return Path(shutil.copytree(source, tmp_path / source.name))

    return get


@pytest.fixture
def simd_level() -> Iterator[None]:
    """Put the instruction set back that was in use before the test."""
    before = _native.simd_level()
    yield
    _native.use_simd_level(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real vectors that TENFOLD_DATA names."""
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "search"
    if not (folder / "bigann9k_base.u8bin").exists():
        pytest.skip(f"{folder} has no bigann9k_base.u8bin; set TENFOLD_DATA")
    return folder


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build without measuring recall settings: most of a small build's time, and of no matter to many tests."""
    monkeypatch.setattr("tenfold.search.index.calibrate", lambda *arguments: Calibration())


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in a process of its own."""
    return run_python


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own in memory; called with a size in bytes, it grows to it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def size(size: int) -> Path:
        options = f"size={size}" + ",remount" * folder.is_mount()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
        return folder

    yield size
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)
