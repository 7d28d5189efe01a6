"""An index that takes updates is closed once no thread changes its files any more, and nobody waits for it in vain."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import make_vectors

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex, maintaining
from tenfold.search.sealing import Job, run_job

LONG = 600  # seconds that only something that hangs takes


class Held:
    """Jobs that begin, and then wait until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(maintaining, "run_job", self._run)

    def _run(self, folder: Path, job: Job) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(LONG)
        run_job(folder, job)


def test_closing_waits_for_a_compaction_of_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may write before it has ended, and then all rows are there."""
    held, rows = Held(monkeypatch), make_vectors(200, 6, "float32")
    index = LivingIndex.create(tmp_path / "index", 6)
    index.add(rows)
    compacting, closing = (threading.Thread(target=work) for work in (index.compact, index.close))
    compacting.start()
    assert held.has_begun.wait(LONG)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    with pytest.raises(InputError, match="another process writes to this index"):
        LivingIndex.open(tmp_path / "index")
    held.may_go_on.set()
    for thread in (compacting, closing):
        thread.join(LONG)
    with LivingIndex.open(tmp_path / "index") as again:
        assert len(again.stats()["segments"]) == 1
        np.testing.assert_array_equal(again.get(again.all_ids()), rows)


def test_closing_ends_the_waiting_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that adds while too much waits to be sealed is told that the index was closed."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 100)
    monkeypatch.setattr(maintaining, "_MOST_DELTAS", 1)
    held, rows, said, waits = Held(monkeypatch), make_vectors(100, 6, "float32"), list[str](), threading.Event()
    index = LivingIndex.create(tmp_path / "index", 6)
    index.add(rows)
    assert held.has_begun.wait(LONG)
    index.add(rows)

    def add() -> None:
        with pytest.raises(InputError) as refused:
            index.add(rows)
        said.append(str(refused.value))

    wait_for = index._maintainer._changed.wait_for

    def told(predicate: Callable[[], bool]) -> bool:
        waits.set()
        return wait_for(predicate)

    monkeypatch.setattr(index._maintainer._changed, "wait_for", told)
    adding, closing = (threading.Thread(target=work, daemon=True) for work in (add, index.close))
    adding.start()
    assert waits.wait(LONG)
    closing.start()
    held.may_go_on.set()
    for thread in (closing, adding):
        thread.join(LONG)
    assert said == [f"{tmp_path / 'index'}: was closed; open it anew"]
    with LivingIndex.open(tmp_path / "index", read_only=True) as again:
        assert len(again) == 200


def test_an_index_that_was_closed_is_not_calibrated(tmp_path: Path) -> None:
    index = LivingIndex.create(tmp_path / "index", 6)
    index.close()
    with pytest.raises(InputError, match="was closed"):
        index.calibrate()


def test_what_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    """Here for damage to the texts of the ids, which shows last."""
    LivingIndex.create(tmp_path / "index", 6, ids="string").close()
    (tmp_path / "index/names.sqlite").write_bytes(b"no table")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(5):
        with pytest.raises(InputError, match=r"names\.sqlite"):
            LivingIndex.open(tmp_path / "index")
    assert descriptors() == before
