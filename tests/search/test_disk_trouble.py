"""What a build does to the disk, and the disk to a build: other people's files, full disks, two builds at once."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index
from tenfold.search.data import open_vectors
from tenfold.search.verifying import verify_index

BASE = make_vectors(3000, 64, "uint8")
SMALL = make_vectors(300, 8, "uint8")


class Killed(BaseException):
    """Stands for SIGKILL where nothing may run afterwards that would matter."""


def refused(work: Callable[[], object], *quoted: str) -> None:
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    for text in quoted:
        assert text in str(caught.value)


def stop_at(phase: str) -> Callable[[str, int, int], None]:
    def report(name: str, done: int, total: int) -> None:
        if name == phase:
            raise Killed

    return report


def stopped_build(base: Any, path: Path, phase: str, **options: Any) -> Path:
    """The folder of a build that ended at the first report of a phase."""
    with contextlib.suppress(Killed):
        Index.build(base, path, progress=stop_at(phase), **options)
    return path.with_name(path.name + ".partial")


def phases_of(base: Any, path: Path, **options: Any) -> list[str]:
    seen: list[str] = []
    Index.build(base, path, progress=lambda name, done, total: seen.append(name), **options)
    return list(dict.fromkeys(seen))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


pytestmark = pytest.mark.usefixtures("uncalibrated")

# --- other people's files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": '{"name": "a web page"}', "index.html": "mine"},
        {"manifest.json": '{"name": "a web page"}'},
        {"vectors.bin": "mine"},
        {"graph.bin": "TENFOLD\0", "letter.txt": "mine"},
    ],
)
def test_folders_of_others_are_kept(files: dict[str, str], tmp_path: Path) -> None:
    """Whatever their files are called, at INDEX and at INDEX.partial."""
    for name in ("index", "other.partial"):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
        path = tmp_path / name.removesuffix(".partial")
        refused(lambda path=path: Index.build(SMALL, path, overwrite=True), name)
        assert contents(tmp_path / name) == {file: content.encode() for file, content in files.items()}


def test_a_letter_inside_an_index_is_kept(tmp_path: Path) -> None:
    Index.build(SMALL, tmp_path / "index")
    (tmp_path / "index" / "letter.txt").write_text("mine")
    refused(lambda: Index.build(SMALL, tmp_path / "index", overwrite=True), "letter.txt")
    assert Index.open(tmp_path / "index").rows == 300
    assert (tmp_path / "index" / "letter.txt").exists()


def test_a_letter_that_comes_during_the_build_is_kept(tmp_path: Path) -> None:
    """The folder is looked at again before it is replaced."""
    Index.build(SMALL, tmp_path / "index")

    def write_letter(name: str, done: int, total: int) -> None:
        (tmp_path / "index" / "letter.txt").write_text("mine")

    refused(lambda: Index.build(SMALL[:7], tmp_path / "index", overwrite=True, progress=write_letter), "letter.txt")
    assert Index.open(tmp_path / "index").rows == 300
    (tmp_path / "index" / "letter.txt").unlink()
    assert phases_of(SMALL[:7], tmp_path / "index", overwrite=True) == []
    assert Index.open(tmp_path / "index").rows == 7


@pytest.mark.parametrize("place", ["index.partial/letter.txt", "index.partial/spill/letter.txt"])
def test_a_letter_inside_the_folder_of_a_build_is_kept(place: str, tmp_path: Path) -> None:
    stopped_build(SMALL, tmp_path / "index", "layout")
    (tmp_path / place).write_text("mine")
    refused(lambda: Index.build(SMALL, tmp_path / "index", seed=1), "letter.txt")
    assert (tmp_path / place).read_text() == "mine"


@pytest.mark.parametrize("exchanges", [True, False])
def test_folders_called_replaced_are_kept(exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr("tenfold.search.workplace.exchange", lambda one, other: False)
    (tmp_path / "index.replaced").mkdir()
    (tmp_path / "index.replaced" / "letter.txt").write_text("mine")
    for rows in (300, 7):
        Index.build(SMALL[:rows], tmp_path / "index", overwrite=True)
    assert contents(tmp_path / "index.replaced") == {"letter.txt": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"index", "index.replaced"}


@pytest.mark.parametrize("damage", ["manifest.json", "vectors.bin", "all but one"])
def test_a_damaged_index_can_be_replaced(damage: str, tmp_path: Path) -> None:
    Index.build(SMALL, tmp_path / "index")
    if damage == "all but one":
        for path in (tmp_path / "index").iterdir():
            path.unlink() if path.name != "codes.bin" else None
    else:
        (tmp_path / "index" / damage).write_bytes(b"\0" * 100)
    refused(lambda: Index.build(SMALL[:7], tmp_path / "index"), "overwrite")
    assert Index.build(SMALL[:7], tmp_path / "index", overwrite=True).rows == 7


# --- places ------------------------------------------------------------------------------------------------------


def test_places_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is read or made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere/index")
    (tmp_path / "leads").symlink_to("x.partial")
    before = set(tmp_path.iterdir())
    for path in (".", "..", "", "/", "x.partial", "leads", "loop", "lost", "a\0b", "n" * 250, "n" * 300):
        refused(lambda path=path: Index.build(SMALL, path, overwrite=True, progress=stop_at("survey")))
    refused(lambda: Index.build(SMALL, "n" * 250), "name too long", "choose another place")
    refused(lambda: Index.build(SMALL, "lost"), "nowhere", "no such folder")
    assert set(tmp_path.iterdir()) == before


def test_links_are_followed(tmp_path: Path) -> None:
    """A link to an index, or to where one is to be: the index lies there, the link stays a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/index")
    for rows in (300, 7):
        assert Index.build(SMALL[:rows], tmp_path / "link", overwrite=True).rows == rows
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"index"}


@pytest.mark.parametrize("notes", ["[1]", "{}", "", '{"identity": 3}', "[" * 100_000, "\xff"])
def test_unreadable_notes(notes: str, tmp_path: Path) -> None:
    """A `build.json` that says nothing: the build starts anew."""
    partial = stopped_build(SMALL, tmp_path / "index", "layout")
    (partial / "build.json").write_text(notes, "latin-1")
    assert phases_of(SMALL, tmp_path / "index")[0] == "survey"


@pytest.mark.parametrize("seed", [0.5, 1.0, -1, 1 << 64, 1 << 20_000, "1", None], ids=lambda seed: type(seed).__name__)
def test_seeds(seed: Any, tmp_path: Path) -> None:
    refused(lambda: Index.build(SMALL, tmp_path / "index", seed=seed), "seed is")
    assert not list(tmp_path.iterdir())


def test_largest_seed(tmp_path: Path) -> None:
    for codec in ("pq", "rabitq"):
        Index.build(SMALL, tmp_path / codec, codec=codec, seed=np.uint64((1 << 64) - 1))  # type: ignore[arg-type]


def test_verify_says_what_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished build, and a whole manifest of a later Tenfold."""
    partial = stopped_build(SMALL, tmp_path / "index", "layout")
    refused(lambda: verify_index(partial), "index.partial", "not finished")
    refused(lambda: Index.open(partial), "index.partial", "not finished")
    monkeypatch.setattr("tenfold.search.building.FORMAT_VERSION", 2)
    with contextlib.suppress(InputError):  # it cannot be opened at the end
        Index.build(SMALL, tmp_path / "later")
    refused(lambda: verify_index(tmp_path / "later"), "version 2", "upgrade")


# --- full disks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20_000, 150_000, 300_000, 400_000, 550_000])
def test_full_disk(size: int, small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    """The reason and what to do; after making room the same call finishes the same index."""
    expected = contents(Index.build(BASE, tmp_path / "good").path)
    path = small_disk(size) / "index"
    refused(lambda: Index.build(BASE, path), "index.partial", "No space left on device", "make room")
    small_disk(1 << 26)
    Index.build(BASE, path)
    assert contents(path) == expected


def test_full_disk_while_spilling(small_disk: Callable[[int], Path]) -> None:
    """The phase that writes through neither a section file nor `replace_file`."""
    path = small_disk(1 << 26) / "index"
    partial = stopped_build(BASE, path, "assign")
    used = sum(file.stat().st_blocks * 512 for file in partial.rglob("*") if file.is_file())
    small_disk(used + 100_000)
    refused(lambda: Index.build(BASE, path), "No space left on device", "make room")
    assert json.loads((partial / "build.json").read_text())["done"][-1] == "train"


FILE_LIMIT = """
import resource, signal, sys
import numpy as np
from tenfold.search import Index
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
base = np.random.default_rng(0).integers(0, 256, (3000, 64), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
Index.build(base, sys.argv[1])
"""


@pytest.mark.parametrize("limit", [0, 100, 5_000, 50_000, 150_000, 195_000, 200_000])
def test_files_that_may_not_grow(
    limit: int, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The system's reason survives wherever it strikes: in notes, sample, spill and section files."""
    done = python(FILE_LIMIT, tmp_path / "index", limit)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert "File too large; the build stopped: make room" in done.stderr.splitlines()[-1]


def test_read_only_disk(small_disk: Callable[[int], Path]) -> None:
    """No advice to make room; and calibrating notices before it measures."""
    folder = small_disk(1 << 26)
    index = Index.build(SMALL, folder / "index")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(InputError, match=r"Read-only file system.*choose another place"):
        Index.build(SMALL, folder / "other")
    with pytest.raises(InputError, match="Read-only file system"):
        Index.build(SMALL, folder / "index", overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.search.index.calibrate", lambda *arguments: pytest.fail("measured for nothing"))
        refused(index.calibrate, "cannot be kept", "Read-only file system")


def test_calibrating_on_a_full_disk_leaves_nothing(small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(1 << 26)
    index = Index.build(SMALL, folder / "index")
    before = contents(folder / "index")
    used = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    small_disk(used)
    refused(index.calibrate, "cannot be kept", "No space left")
    assert contents(folder / "index") == before


# --- two builds at once ------------------------------------------------------------------------------------------

WAITING_BUILD = """
import sys, time
from pathlib import Path
from tenfold.search import Index
from tenfold.search.data import open_vectors

def wait(name, done, total):
    if name == "assign":
        print("there", flush=True)
        time.sleep(600)

Index.build(sys.argv[1], sys.argv[2], progress=wait)
"""


def test_one_build_at_a_time(tmp_path: Path) -> None:
    """The second is told which process is at work, and does no harm; a killed one is in nobody's way."""
    np.save(tmp_path / "base.npy", SMALL)
    command = [sys.executable, "-c", WAITING_BUILD, tmp_path / "base.npy", tmp_path / "index"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "there\n"
        try:
            for options in ({}, {"seed": 1}, {"overwrite": True}):
                refused(
                    lambda options=options: Index.build(tmp_path / "base.npy", tmp_path / "index", **options),
                    "another process is building this index",
                    f"pid {first.pid}",
                )
        finally:
            first.kill()
    assert phases_of(tmp_path / "base.npy", tmp_path / "index") == ["assign", "layout", "pack"]
    assert {path.name for path in tmp_path.iterdir()} == {"base.npy", "index"}
    assert not (tmp_path / "index" / "lock").exists()


def test_a_failed_build_lets_go(tmp_path: Path) -> None:
    """Also within one process."""
    stopped_build(SMALL, tmp_path / "index", "layout")
    assert phases_of(SMALL, tmp_path / "index") == ["layout", "pack"]


# --- after a power cut -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "stopped", "again"),
    [
        ("rows-0", "layout", "assign"),
        ("counts.npy", "layout", "assign"),
        ("entries-0", "pack", "layout"),
        ("counts.npy", "pack", "assign"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_spilled_files_that_were_lost(file: str, stopped: str, again: str, how: str, tmp_path: Path) -> None:
    """What is not as it was left is made again, from the phase that makes it."""
    expected = contents(Index.build(SMALL, tmp_path / "good").path)
    lost = stopped_build(SMALL, tmp_path / "index", stopped) / "spill" / file
    os.truncate(lost, lost.stat().st_size // 2) if how == "cut" else lost.unlink()
    phases = ["assign", "layout", "pack"]
    assert phases_of(SMALL, tmp_path / "index") == phases[phases.index(again) :]
    assert contents(tmp_path / "index") == expected


def test_spilled_files_are_on_disk_before_the_phase_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was synced before `build.json` was replaced."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        if target.name == "build.json" and '"assign"' in path.read_text():
            events.append("assign is done")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    stopped_build(SMALL, tmp_path / "index", "layout")
    assert {"rows-0", "counts.npy.partial", "spill"} <= set(events[: events.index("assign is done")])


# --- taking the place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("moment", ["before", "between", "behind"])
def test_killed_while_taking_the_place(
    moment: str, exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same call then finishes at once; where folders can be exchanged, an index is always there."""
    Index.build(SMALL, tmp_path / "index")

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if not exchanges:
            patch.setattr("tenfold.search.workplace.exchange", lambda one, other: False)
        if moment == "before":
            patch.setattr("tenfold.search.workplace._swap", killed)
        elif moment == "behind":
            patch.setattr("tenfold.search.workplace.tidy", killed)
        else:
            patch.setattr("tenfold.search.workplace.sync_folder", killed)
            rename = Path.rename
            renames = iter(range(9))
            patch.setattr(Path, "rename", lambda path, to: killed() if next(renames) else rename(path, to))
        with contextlib.suppress(Killed):
            Index.build(SMALL[:200], tmp_path / "index", overwrite=True)
    if exchanges or moment != "between":
        assert Index.open(tmp_path / "index").rows == (300 if moment == "before" else 200)
    assert phases_of(SMALL[:200], tmp_path / "index", overwrite=True) == []
    assert Index.open(tmp_path / "index").rows == 200
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    assert len(list((tmp_path / "index").iterdir())) == 6


# --- sources of several files ------------------------------------------------------------------------------------


def write_part(folder: Path, number: int, head: bytes, rows: np.ndarray) -> None:
    (folder / f"vectors_{number}.bin").write_bytes(head + rows.tobytes())


def test_a_part_that_was_written_again(tmp_path: Path) -> None:
    """SPACEV's folder keeps its own time of change where a part is written in place."""
    folder = tmp_path / "spacev"
    folder.mkdir()
    rows = make_vectors(400, 8, "int8")
    write_part(folder, 1, np.array([400, 8], "<i4").tobytes(), rows[:200])
    write_part(folder, 2, b"", rows[200:])
    assert [path.name for path in open_vectors(folder).files()] == ["vectors_1.bin", "vectors_2.bin"]
    stopped_build(folder, tmp_path / "index", "layout")
    write_part(folder, 2, b"", -rows[200:])
    assert phases_of(folder, tmp_path / "index")[0] == "survey"
    found = Index.open(tmp_path / "index").search(-rows[200:210], 1, recall=1.0)[0]
    assert not found.any()
