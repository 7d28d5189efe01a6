"""A build may be killed at any moment: nothing half-made opens, and the same call finishes it, byte for byte.

Builds run in forked children. A child is killed at its n-th change of the file system (an audit hook counts them), at
every progress report, or a random time after one.
"""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import check_exact, make_vectors

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.search import Index
from tenfold.search.data import write_vectors
from tenfold.search.storage import SectionFile, SectionWriter

Build = Callable[[Progress], None]
PHASES = ("survey", "cluster", "train", "assign", "layout", "pack")
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its wait status, 0 when it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_soon(report: int, seconds: float) -> Progress:
    """SIGALRM so long after the n-th report, wherever the process is then: also in native code, where Python waits."""
    seen = itertools.count()

    def progress(*_: object) -> None:
        if next(seen) == report:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    return progress


def killing_hook(moment: int, report: int | None = None) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills before the n-th change of the file system, or reports how many there were."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")
        if writes or event in CHANGES:
            if seen == moment:
                kill_self()
            seen += 1
            if report is not None:
                os.pwrite(report, seen.to_bytes(4, "little"), 0)

    return hook


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def index_contents(folder: Path) -> dict[str, bytes]:
    """Without the notes of a build that was killed after its index had got its name, before it tidied up."""
    return {name: content for name, content in contents(folder).items() if name not in ("build.json", "lock")}


def opens(folder: Path) -> bool:
    try:
        Index.open(folder)
    except InputError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = make_vectors(600, 16, "float32")
    write_vectors(tmp_path / "base.fbin", [base], *base.shape, base.dtype)
    return tmp_path / "base.fbin"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "index"


def builder(source: Path | np.ndarray, target: Path, **options: object) -> Build:
    options = {"rows_per_list": 50, "threads": 1} | options

    def build(progress: Progress = no_progress) -> None:
        Index.build(source, target, progress=progress, **options)  # type: ignore[arg-type]

    return build


def check_resumed(build: Build, target: Path, expected: dict[str, bytes]) -> None:
    """After a kill: nothing there opens unless it is complete, and building again completes it."""
    partial = target.with_name("index.partial")
    assert not opens(partial)
    assert not target.exists() or index_contents(target) == expected
    if not target.exists() or contents(target) != expected:
        assert in_child(lambda: build(no_progress)) == 0
    assert contents(target) == expected
    assert not partial.exists()


def start_over(target: Path) -> None:
    if target.exists():
        target.rename(target.with_name(f"done-{time.monotonic_ns()}"))


def reference(build: Build, target: Path) -> dict[str, bytes]:
    """The files of an uninterrupted build."""
    assert in_child(lambda: build(no_progress)) == 0
    expected = contents(target)
    start_over(target)
    return expected


def count_changes(build: Build, tmp_path: Path) -> int:
    with (tmp_path / "count").open("w+b") as file:
        status = in_child(lambda: (sys.addaudithook(killing_hook(-1, file.fileno())), build(no_progress))[0])
        assert status == 0
        file.seek(0)
        return int.from_bytes(file.read(4), "little")


def test_killed_at_every_change_of_the_file_system(
    source: Path, target: Path, tmp_path: Path, uncalibrated: None
) -> None:
    """Before every file that is opened for writing, renamed or removed, from the first to the last."""
    build = builder(source, target)
    expected = reference(build, target)
    changes = count_changes(build, tmp_path)
    assert changes > 25
    for moment in range(changes):
        start_over(target)
        status = in_child(lambda moment=moment: (sys.addaudithook(killing_hook(moment)), build(no_progress))[0])
        assert os.WTERMSIG(status) == signal.SIGKILL
        check_resumed(build, target, expected)


@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_at_every_change_while_replacing(
    exchanges: bool, source: Path, target: Path, tmp_path: Path, uncalibrated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `overwrite`, what opens is always the whole old or the whole new index, and a rerun finishes.

    Where the system can exchange two folders, one of them is there at every moment.
    """
    if not exchanges:
        monkeypatch.setattr("tenfold.search.workplace.exchange", lambda one, other: False)
    old = make_vectors(300, 16, "float32", seed=5)
    build_old, build_new = builder(old, target), builder(source, target, overwrite=True)
    before, after = reference(build_old, target), reference(build_new, target)
    assert in_child(lambda: build_old(no_progress)) == 0
    changes = count_changes(build_new, tmp_path)
    for moment in range(changes - 20, changes):
        start_over(target)
        assert in_child(lambda: build_old(no_progress)) == 0
        in_child(lambda moment=moment: (sys.addaudithook(killing_hook(moment)), build_new(no_progress))[0])
        assert opens(target) or not exchanges
        if opens(target):
            assert index_contents(target) in (before, after)
        assert not opens(target.with_name("index.partial"))
        assert in_child(lambda: build_new(no_progress)) == 0
        assert contents(target) == after
        assert {path.name for path in tmp_path.iterdir() if path.name.startswith("index")} == {"index"}


@pytest.mark.parametrize("phase", PHASES)
def test_goes_on_behind_the_last_finished_phase(phase: str, source: Path, target: Path, uncalibrated: None) -> None:
    """Killed at the first report of a phase: the rerun reports none of those before it."""
    build = builder(source, target)
    expected = reference(build, target)
    kill_at(build, phase, 0)
    seen: list[str] = []
    build(lambda name, done, total: seen.append(name))
    assert list(dict.fromkeys(seen)) == list(PHASES[PHASES.index(phase) :])
    assert contents(target) == expected


def test_killed_while_calibrating(source: Path, target: Path) -> None:
    """All six phases are kept; only the measuring is done again."""
    build = builder(source, target)
    expected = reference(build, target)
    status = in_child(lambda: build(lambda name, done, total: kill_self() if name == "calibrate" else None))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not opens(target.with_name("index.partial"))
    seen: set[str] = set()
    build(lambda name, done, total: seen.add(name))
    assert not seen & set(PHASES)
    assert contents(target) == expected


def test_killed_at_random_moments(source: Path, target: Path) -> None:
    """A random time after a random report, again and again on the same build, until it is through."""
    build = builder(source, target)
    expected = reference(build, target)
    rng, statuses = np.random.default_rng(4), list[int]()
    for _ in range(3):
        start_over(target)
        for _ in range(5):
            progress = killing_soon(int(rng.integers(32)), float(rng.uniform(0.0001, 0.02)))
            statuses.append(in_child(lambda progress=progress: build(progress)))
            if target.exists():
                break
            assert not opens(target.with_name("index.partial"))
        check_resumed(build, target, expected)
    assert statuses.count(signal.SIGALRM) >= 3, "the first try of each of the three builds makes 40 reports"


@pytest.mark.parametrize("phase", PHASES)
def test_interrupted_from_the_keyboard(phase: str, source: Path, target: Path, uncalibrated: None) -> None:
    """Ctrl-C ends the build at once; nothing opens; the same call finishes it."""
    build = builder(source, target)
    expected = reference(build, target)

    def interrupt(name: str, done: int, total: int) -> None:
        if name == phase:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        build(interrupt)

    assert os.waitstatus_to_exitcode(in_child(interrupted)) == 130
    check_resumed(build, target, expected)


CHANGED: dict[str, dict[str, object]] = {
    "seed": {"seed": 1},
    "metric": {"metric": "cosine"},
    "codec": {"codec": "rabitq"},
    "code_bytes": {"code_bytes": 3},
    "rows_per_list": {"rows_per_list": 40},
    "budget": {"memory_budget": "2GB"},
}


@pytest.mark.parametrize("change", CHANGED)
def test_other_settings_start_anew(change: str, source: Path, target: Path, uncalibrated: None) -> None:
    """What an interrupted build of other settings left behind is not used."""
    other = builder(source, target, **CHANGED[change])
    expected = reference(other, target)
    kill_at(builder(source, target), "layout", 0)
    other(no_progress)
    assert contents(target) == expected


@pytest.mark.parametrize(
    ("name", "phase"), [("tree.bin", "cluster"), ("graph.bin", "cluster"), ("codebook.bin", "train")]
)
def test_damage_to_what_it_left_is_not_built_on(
    name: str, phase: str, source: Path, target: Path, uncalibrated: None
) -> None:
    """The phase that wrote it is run again, and all behind it."""
    build = builder(source, target)
    expected = reference(build, target)
    kill_at(build, "assign", 0)
    damaged = target.with_name("index.partial") / name
    content = bytearray(damaged.read_bytes())
    content[4096] ^= 1
    damaged.write_bytes(content)
    seen: list[str] = []
    build(lambda name, done, total: seen.append(name))
    assert list(dict.fromkeys(seen)) == list(PHASES[PHASES.index(phase) :])
    assert contents(target) == expected


@pytest.mark.parametrize("section", ["neighbours", "list", "begin", "end"])
def test_lists_that_are_not_there_are_not_built_on(
    section: str, source: Path, target: Path, uncalibrated: None
) -> None:
    """Numbers out of range under a valid checksum, which native code would follow."""
    build = builder(source, target)
    expected = reference(build, target)
    kill_at(build, "assign", 0)
    tree = SectionFile(target.with_name("index.partial") / "tree.bin", "tree")
    arrays = {name: np.array(tree.array(name, tree.section(name).dtype.str, None)) for name in tree.names()}
    arrays[section].reshape(-1)[0] = 1_000_000
    with SectionWriter(tree.path, "tree") as file:
        for name, array in arrays.items():
            file.add(name, array)
    build(no_progress)
    assert contents(target) == expected


def kill_at(build: Build, phase: str, done_at: int) -> None:
    """Build in a child that dies at this report."""
    status = in_child(
        lambda: build(lambda name, done, total: kill_self() if (name, done) == (phase, done_at) else None)
    )
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("kind", ["file", "array"])
def test_other_vectors_start_anew(
    kind: str, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, uncalibrated: None
) -> None:
    """A file that was written again, or an array of other content: the index is of the new vectors only.

    A file that happens to be called "array" must not stand for all arrays.
    """
    monkeypatch.chdir(source.parent)
    Path("array").write_text("not vectors")
    old, new = make_vectors(1500, 16, "float32"), make_vectors(1500, 16, "float32", seed=8)
    kill_at(builder(source if kind == "file" else old, target), "layout", 0)
    if kind == "file":
        write_vectors(source, [new], *new.shape, new.dtype, overwrite=True)
    builder(source if kind == "file" else new, target)(no_progress)
    index = Index.open(target)
    check_exact(index.search(new[:20], 5, recall=1.0), new, new[:20], "l2")


def test_same_arguments_same_bytes(source: Path, tmp_path: Path) -> None:
    """Builds in one process and in another, by one thread or two, give the same files."""
    expected = reference(builder(source, tmp_path / "one"), tmp_path / "one")
    for number, threads in enumerate((1, 2)):
        builder(source, tmp_path / f"again-{number}", threads=threads)(no_progress)
        assert contents(tmp_path / f"again-{number}") == expected


def test_partial_folder_that_is_no_folder(source: Path, target: Path) -> None:
    """A file in the place where the build wants to work: one line that names it."""
    target.with_name("index.partial").write_text("mine")
    with pytest.raises(InputError, match=r"index\.partial"):
        builder(source, target)(no_progress)
    assert target.with_name("index.partial").read_text() == "mine"
