"""Full disks, disks that may not be written, and second writers: an index that takes updates loses nothing to them."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex, maintaining
from tenfold.search.maintaining import Maintainer

TENFOLD = str(Path(sys.executable).with_name("tenfold"))
DIM, STEP = 64, 50
ROWS = make_vectors(6000, DIM, "uint8")
Disk = Callable[[int], Path]

pytestmark = pytest.mark.usefixtures("uncalibrated", "small_deltas")


@pytest.fixture
def small_deltas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 200)


def names(kind: str, first: int, count: int) -> Any:
    numbers = np.arange(first, first + count)
    return [f"row {number}" for number in numbers] if kind == "string" else numbers


def fill(index: LivingIndex, kind: str, first: int) -> Iterator[str]:
    """Add rows from number `first` on, until nothing can be added any more; why, each time that a call is refused."""
    refused = 0
    for start in range(first, len(ROWS), STEP):
        ids = names(kind, start, STEP)
        try:
            index.add(ROWS[start : start + STEP], ids, {"half": ["odd", "even"] * (STEP // 2)})
        except InputError as error:
            assert not index.contains(ids).any(), "a call that was refused has done nothing"
            yield str(error)
            refused += 1
            if refused == 3:
                return
        else:
            assert index.contains(ids).all()


def expect(index: LivingIndex, kind: str, there: np.ndarray) -> None:
    """It holds the rows of these numbers (n,), and no others, and finds them."""
    ids = [f"row {number}" for number in there] if kind == "string" else there
    assert len(index) == len(there)
    np.testing.assert_array_equal(index.get(ids), ROWS[there])
    distances, _ = index.search(ROWS[:5], 3, recall=1.0)
    truth = np.sort(numpy_distances(ROWS[there], ROWS[:5], "l2"), axis=1)[:, :3]
    np.testing.assert_array_equal(distances, truth.astype(np.float32))


def held(index: LivingIndex, kind: str) -> np.ndarray:
    """The numbers of the rows that it holds."""
    return np.flatnonzero(index.contains(names(kind, 0, len(ROWS))))


def test_an_attempt_that_changes_overtook_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing began while the disk was full, and failed only after there was room and more had been added."""
    index, seal, attempts = LivingIndex.create(tmp_path / "index", DIM, dtype="uint8"), Maintainer._seal, []

    def failing_once(maintainer: Maintainer, threads: int) -> None:
        attempts.append(threads)
        if len(attempts) == 1:
            index.add(ROWS[200:600])
            raise InputError("disk is full; make room")
        seal(maintainer, threads)

    monkeypatch.setattr(Maintainer, "_seal", failing_once)
    index.add(ROWS[:200])
    index._maintainer.wait()
    assert len(attempts) > 1 and index.stats()["trouble"] is None
    expect(index, "int64", np.arange(600))
    index.close()


@pytest.mark.parametrize(
    ("kind", "size"),
    [("int64", 40_000), ("int64", 120_000), ("int64", 300_000), ("string", 80_000), ("string", 400_000)],
)
def test_a_full_disk_loses_nothing(kind: str, size: int, small_disk: Disk) -> None:
    """It strikes the log, the table of texts, sealing or merging; the reason is said, and with room all goes on."""
    path = small_disk(size) / "index"
    index = LivingIndex.create(path, DIM, dtype="uint8", ids=kind, columns={"half": "category"})  # type: ignore[arg-type]
    complaints = list(fill(index, kind, 0))
    assert complaints
    for complaint in complaints:
        assert "No space left" in complaint or "disk is full" in complaint
        assert "make room" in complaint and "\n" not in complaint
    there = held(index, kind)
    expect(index, kind, there)
    with pytest.raises(InputError, match="make room"):
        index.compact()
    expect(index, kind, there)
    small_disk(size + 4096)
    assert index.delete(names(kind, 0, 5)) == 5, "a page is room enough"
    small_disk(1 << 26)
    index.add(ROWS[-400:], names(kind, len(ROWS) - 400, 400))
    index._maintainer.wait()
    assert index.stats()["trouble"] is None, "sealing goes on by itself"
    there = np.concatenate([there[5:], np.arange(len(ROWS) - 400, len(ROWS))])
    expect(index, kind, there)
    index.close()
    with LivingIndex.open(path) as index:
        expect(index, kind, there)
        assert index.verify() == []
        index.compact()
        expect(index, kind, there)


@pytest.mark.parametrize("broken", ["snapshot", "hidden rows"])
def test_a_segment_that_cannot_be_installed_takes_nothing_along(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full just when a new segment is to be named: its rows stay in memory and in the log."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "index"
    with LivingIndex.create(path, DIM, dtype="uint8") as index:
        index.add(ROWS[:300])
        index._maintainer.wait()
        with monkeypatch.context() as context:
            context.setattr(f"tenfold.search.stack.write_{'snapshot' if broken == 'snapshot' else 'hidden'}", fail)
            index.delete([299])
            index.add(ROWS[300:600])
            index._maintainer.wait()
            assert "No space left on device; make room" in index.stats()["trouble"]
            there = np.delete(np.arange(600), 299)
            expect(index, "int64", there)
            index.add(ROWS[600:650])
            there = np.append(there, np.arange(600, 650))
            expect(index, "int64", there)
        index.compact()
        expect(index, "int64", there)
    with LivingIndex.open(path) as index:
        expect(index, "int64", there)
        assert index.verify() == []


def test_a_log_that_cannot_be_begun_refuses_no_change(tmp_path: Path) -> None:
    """A full delta is to be frozen, and there is no room for a new log: the rows are in the old one."""
    path = tmp_path / "index"
    with LivingIndex.create(path, DIM, dtype="uint8") as index:
        number = index._stack._next_number
        (path / f"log-{number:06d}").mkdir()  # in the way
        index.add(ROWS[:250])
        expect(index, "int64", np.arange(250))
        assert f"log-{number:06d}" in index.stats()["trouble"]
        index.add(ROWS[250:300])
        index._maintainer.wait()
        assert index.stats()["trouble"] is None
        expect(index, "int64", np.arange(300))


LIMITED = """
import resource, signal, sys
import numpy as np
from tenfold.core.errors import InputError
from tenfold.search import LivingIndex
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
index = LivingIndex.create(sys.argv[1], 64, dtype="uint8")
rows = np.arange(6400, dtype=np.int64).astype(np.uint8).reshape(100, 64)
for start in range(100):
    try:
        index.add(rows)
    except InputError as error:
        print(error)
        break
    print(len(index))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
index.add(rows)
print(len(index))
"""


def test_a_log_that_may_not_grow(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Half a record is cut off; what was acknowledged is there, and once the file may grow again it goes on."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = python(LIMITED, tmp_path / "index", 50_000)
    *counts, complaint, after = done.stdout.splitlines()
    assert counts == [str(100 * number) for number in range(1, len(counts) + 1)] and 3 < len(counts) < 10
    assert "File too large; nothing was added; make room and try again" in complaint
    assert int(after) == int(counts[-1]) + 100
    with LivingIndex.open(tmp_path / "index", read_only=True) as index:
        assert len(index) == int(after)


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_a_disk_that_may_not_be_written(kind: str, small_disk: Disk) -> None:
    """Changes are refused, with the reason; searching goes on, also in a process that opens it read-only."""
    path = small_disk(1 << 26) / "index"
    index = LivingIndex.create(path, DIM, dtype="uint8", ids=kind)  # type: ignore[arg-type]
    index.add(ROWS[:300], names(kind, 0, 300))
    index._maintainer.wait()
    index.close()
    subprocess.run(["mount", "-o", "remount,ro", path.parent], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        LivingIndex.open(path)
    with pytest.raises(InputError, match=r"Read-only file system|cannot be written"):
        LivingIndex.create(path.parent / "other", 4)
    done = subprocess.run([TENFOLD, "search", "compact", path], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    with LivingIndex.open(path, read_only=True) as index:
        expect(index, kind, np.arange(300))
        index.refresh()
        assert index.verify() == []


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    """In another process, by every verb that writes; when the first is killed, the next one may write at once."""
    path = tmp_path / "index"
    with LivingIndex.create(path, DIM, dtype="uint8") as index:
        index.add(ROWS[:10])
    np.save(tmp_path / "rows.npy", ROWS[10:20])
    code = f"from tenfold.search import LivingIndex; i = LivingIndex.open({str(path)!r}); print(flush=True); input()"
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        for words in (
            ["add", path, tmp_path / "rows.npy"],
            ["delete", path, "--ids", 3],
            ["compact", path],
            ["serve", path],
        ):
            done = subprocess.run([TENFOLD, "search", *map(str, words)], capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert f"another process writes to this index (pid {first.pid}); wait for it to end" in done.stderr
        with pytest.raises(InputError, match=f"pid {first.pid}"):
            LivingIndex.open(path)
        assert len(LivingIndex.open(path, read_only=True)) == 10
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        for pipe in (first.stdin, first.stdout):
            pipe.close()  # type: ignore[union-attr]
    with LivingIndex.open(path) as index:
        assert index.add(ROWS[:1]).tolist() == [10]
