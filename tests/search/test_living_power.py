"""Killed before any operation on its files, or cut off from power: while rows are added, deleted, sealed and merged.

`test_living_crash.py` kills at random times, most of which pass between two operations on files. Here a change is
stopped right before one, chosen by the file that it is about. The power is cut by keeping, of everything that was
written, only what was brought to the disk, and of the rest whatever the disk happened to have done already.
"""

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_living_crash import Model, change, content

from tenfold.search import LivingIndex, maintaining, sealing

KILLS = 100
FILES = ["living.json", "log-", "segment-", "hidden-", "rows-"]
CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}

pytestmark = pytest.mark.usefixtures("uncalibrated", "sealed_here")


@pytest.fixture
def sealed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small deltas, and jobs done by this process, so that all that happens to files happens in it."""

    def run(folder: Path, job: sealing.Job) -> None:
        place = folder / f"{job.target}.json"
        place.write_text(json.dumps(asdict(job)))
        sealing._run(place)
        place.unlink()

    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 100)
    monkeypatch.setattr(maintaining, "run_job", run)


def changed_path(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that an audited event is about to change."""
    if event in CHANGING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE):
        return os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | Path) else None
    return None


def killed_before(start: str, skip: int, path: Path, first: int, model: Model) -> tuple[int, str]:
    """Change in a child, killed before an operation on a file whose name begins so, after `skip`; as `killed_after`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        left = [skip]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            found = changed_path(event, arguments)
            if found is not None and found.startswith(f"{path}/{start}"):
                left[0] -= 1
                if left[0] < 0:
                    os.write(writing, f"{event}\n".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            index = LivingIndex.open(path, durability="always")
            sys.addaudithook(watch)
            for step in range(first, first + 1000):
                model = change(index, step, model)
                os.write(writing, f"{step}\n".encode())
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = said.read().split()
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    steps = [int(line) for line in lines if line.isdecimal()]
    return (steps[-1] + 1 if steps else first), f"{next(line for line in lines if not line.isdecimal())} {start}"


def test_killed_before_any_operation_on_files_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    path, rng, model, step = tmp_path / "index", np.random.default_rng(6), Model(), 1
    LivingIndex.create(path, 8, dtype="uint8").close()
    moments = set()
    for kill in range(KILLS):
        start = FILES[kill % len(FILES)]
        reached, moment = killed_before(start, int(rng.integers(40 if start == "segment-" else 5)), path, step, model)
        moments.add(moment)
        for done in range(step, reached):
            model = change(None, done, model)  # type: ignore[arg-type]
        found, one_more = content(path), change(None, reached, model)  # type: ignore[arg-type]
        assert found in (model, one_more), moment
        model, step = found, reached + (found != model or one_more == model)
    assert {"os.rename living.json", "os.remove log-", "os.rename segment-", "os.remove segment-"} <= moments
    assert {"os.rename hidden-", "os.rename rows-", "open log-"} <= moments
    assert LivingIndex.open(path).verify() == []


class Node(NamedTuple):
    """A file or folder, whatever it is called; inodes are used again."""

    inode: int
    use: int
    is_folder: bool


class Disk:
    """What of a folder is on the disk while this process writes there: contents by `fsync`, names by that of folders.

    Before and after every operation that brings anything there, one of `images` may be made: a folder as a power cut
    could leave it just then, beside the states of the index that it may hold.
    """

    def __init__(self, path: Path, images: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._folder, self._rng = path, images, np.random.default_rng(seed)
        self._used: Counter[int] = Counter()  # inodes, by how many files that are gone
        self._contents: dict[Node, bytes] = {}
        self._names: dict[Node, dict[str, Node]] = {}
        self.images: list[tuple[Path, list[Model]]] = []
        self.allowed: list[Model] = [{}]
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name), self._sync))
        for name in ("replace", "rename", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, real: Any, then: Any = None) -> Any:
        def call(*arguments: Any, **options: Any) -> None:
            self._cut()
            if then is None and os.path.exists(arguments[-1]):  # removed, or another file takes its place
                self._used[os.stat(arguments[-1]).st_ino] += 1
            real(*arguments, **options)
            if then is not None:
                then(*arguments)
                self._cut()

        return call

    def _sync(self, descriptor: int) -> None:
        place, inode = Path(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor).st_ino
        if place.is_dir():
            self._names[self._node(inode, True)] = self._listed(place)
        else:
            self._contents[self._node(inode, False)] = place.read_bytes()

    def _node(self, inode: int, is_folder: bool) -> Node:
        return Node(inode, self._used[inode], is_folder)

    def _listed(self, place: Path) -> dict[str, Node]:
        return {entry.name: self._node(entry.inode(), entry.is_dir()) for entry in os.scandir(place)}

    def _cut(self) -> None:
        """Maybe make an image."""
        if self._rng.random() < 0.03 and self._path.exists():
            image = self._folder / str(len(self.images))
            done = float(self._rng.choice([0.0, 0.5, 1.0]))
            self._keep(self._node(self._path.stat().st_ino, True), self._path, image, done)
            self.images.append((image, list(self.allowed)))

    def _keep(self, node: Node, place: Path | None, image: Path, done: float) -> None:
        """A folder, and of what was not brought to the disk a part `done`, at random."""
        image.mkdir()
        old, new = self._names.get(node, {}), {} if place is None else self._listed(place)
        for name in sorted(old | new):
            is_new = self._rng.random() < done
            kept = (new if is_new else old).get(name)
            if kept is None:
                continue
            here = place / name if place is not None and new.get(name) == kept else None
            if kept.is_folder:
                self._keep(kept, here, image / name, done)
            else:
                (image / name).write_bytes(self._content(self._contents.get(kept, b""), here, done))

    def _content(self, synced: bytes, here: Path | None, done: float) -> bytes:
        """Of a file; where it went on since, a part of that may be there, and zeros before it."""
        now = synced if here is None else here.read_bytes()
        if not now.startswith(synced):
            return now if self._rng.random() < done else synced
        more = int(done * (len(now) - len(synced)))
        size = len(synced) + (int(self._rng.integers(more + 1)) if done < 1 else more)
        hole = len(synced) + (int(self._rng.integers(size - len(synced) + 1)) if done < 1 else 0)
        return synced + bytes(hole - len(synced)) + now[hole:size]


@pytest.mark.parametrize("durability", ["always", "none"])
def test_a_power_cut_at_any_moment_leaves_what_was_acknowledged(
    durability: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With "none", what was there at the last flush, or anything that was there since, but nothing in between."""
    path, model = tmp_path / "index", Model()
    (tmp_path / "images").mkdir()
    LivingIndex.create(path, 8, dtype="uint8").close()
    with monkeypatch.context() as watched:
        disk = Disk(path, tmp_path / "images", 7, watched)
        for descriptor in (os.open(path, os.O_RDONLY), os.open(path / "living.json", os.O_RDONLY)):
            os.fsync(descriptor)
            os.close(descriptor)
        index = LivingIndex.open(path, durability=durability)
        for step in range(1, 150):
            after = change(None, step, model)  # type: ignore[arg-type]
            disk.allowed = [model, after] if durability == "always" else [*disk.allowed, after]
            change(index, step, model)
            index._maintainer.wait()
            model = after
            if step % 11 == 0 and durability == "none":
                index.flush()
                disk.allowed = [model]
        index.close()
    assert len(disk.images) > 30
    for number, (image, allowed) in enumerate(disk.images):
        assert content(image) in allowed, number
