"""Killed at any moment, an index that takes updates keeps every change that was acknowledged, and no half of another.

A forked child changes an index and writes a line for each call that returned; it is killed a random time after so many
of them, while it may be writing its log, sealing or merging. What is then opened must be what the acknowledged calls
made of it, or that and the one call that was under way.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from killing import killed_after

from tenfold.search import LivingIndex, maintaining
from tenfold.search.log import Durability

DIM = 8
KILLS = 100
Model = dict[int, int]


def vectors_of(ids: np.ndarray, version: int) -> np.ndarray:
    """Vectors that tell which row they are and how often it was updated."""
    rows = np.zeros((len(ids), DIM), np.uint8)
    rows[:, :4] = ids.astype("<u4").view(np.uint8).reshape(-1, 4)
    rows[:, 4:] = np.full(len(ids), version, "<u4").view(np.uint8).reshape(-1, 4)
    return rows


def change(index: LivingIndex, step: int, model: Model) -> Model:
    """The step-th change, the same for whoever makes it: what the rows are then. With no index, only that."""
    rng = np.random.default_rng(step)
    ids = np.unique(rng.integers(0, 600, rng.integers(1, 120)))
    known = np.array([number for number in ids.tolist() if number in model], np.int64)
    fresh = np.array([number for number in ids.tolist() if number not in model], np.int64)
    kind = step % 4
    if kind == 0:
        if index is not None:
            index.delete(known)
        return {number: version for number, version in model.items() if number not in set(known.tolist())}
    if kind == 1 and len(fresh):
        if index is not None:
            index.add(vectors_of(fresh, step), fresh)
        return model | dict.fromkeys(fresh.tolist(), step)
    if kind == 2 and step % 24 == 2:
        if index is not None:
            index.compact()
        return model
    if kind == 2 and step % 48 == 14:
        if index is not None:
            index.clear()
        return {}
    if index is not None:
        index.update(vectors_of(ids, step), ids)
    return model | dict.fromkeys(ids.tolist(), step)


def content(path: Path) -> Model:
    """Ids and versions that an index holds; each row must be whole."""
    with LivingIndex.open(path) as index:
        ids = index.all_ids()
        assert len(index) == len(ids) == index.contains(np.arange(600)).sum()
        rows = index.get(ids)
        np.testing.assert_array_equal(rows[:, :4].copy().view("<u4")[:, 0], ids)
        versions = rows[:, 4:].copy().view("<u4")[:, 0]
        if len(ids):
            distances, found = index.search(rows[:50], 1, recall=1.0)
            assert (distances == 0).all()
            np.testing.assert_array_equal(found[:, 0], ids[:50])
        return dict(zip(ids.tolist(), versions.tolist(), strict=True))


def work(path: Path, first: int, model: Model, durability: Durability, say: Callable[[int], object]) -> None:
    maintaining._DELTA_ROWS = 100
    index = LivingIndex.open(path, durability=durability)
    for step in range(first, 10**6):
        model = change(index, step, model)
        say(step)


@pytest.mark.parametrize("durability", ["always", "batch"])
def test_killed_at_random_nothing_acknowledged_is_lost(tmp_path: Path, durability: Durability) -> None:
    """A killed process loses nothing that it handed to the system, whatever the durability; a power cut is below."""
    path, rng, model, step = tmp_path / "index", np.random.default_rng(5), Model(), 1
    LivingIndex.create(path, DIM, dtype="uint8").close()
    for kill in range(KILLS // 2):
        steps = 24 if kill % 16 == 8 else int(rng.integers(0, 8))  # enough to seal and merge, too
        reached = killed_after(steps, float(rng.uniform(0, 0.1)), step, partial(work, path, step, model, durability))
        for done in range(step, reached):
            model = change(None, done, model)  # type: ignore[arg-type]
        found = content(path)
        one_more = change(None, reached, model)  # type: ignore[arg-type]
        assert found in (model, one_more)
        model, step = found, reached + (found != model or one_more == model)
    assert step > KILLS
    assert LivingIndex.open(path).verify() == []


@pytest.mark.parametrize("durability", ["batch", "none"])
def test_what_a_merge_writes_is_explained_by_a_synced_log(tmp_path: Path, durability: Durability) -> None:
    """Rows were replaced, and a merge took the old ones out of their segment; the power is cut: none may be gone."""
    path, ids = tmp_path / "index", np.arange(100)
    index = LivingIndex.create(path, DIM, dtype="uint8", durability=durability)
    index.add(vectors_of(ids, 1), ids)
    index.compact()
    index.update(vectors_of(ids[:50], 2), ids[:50])  # half of the segment is deleted: it is written anew
    index._maintainer.wait()
    [segment] = index.stats()["segments"]
    assert segment["rows"] == 50
    log = index._stack.writer()
    left = Path(shutil.copytree(path, tmp_path / "left"))
    os.truncate(left / log.path.name, log.synced)
    index.close()
    assert content(left) == dict.fromkeys(range(50), 2) | dict.fromkeys(range(50, 100), 1)


def test_a_power_cut_loses_at_most_what_was_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cut of the log behind the flushed part, as an unsynced file may be left, gives a state on the way."""
    monkeypatch.setattr(maintaining, "_MOST_DELETED", 1.0)  # a merge would flush too
    path = tmp_path / "index"
    index = LivingIndex.create(path, DIM, dtype="uint8", durability="batch")
    states, model = [], Model()
    for step in range(1, 12):
        model = change(index, step, model)
        if step == 5:
            index.flush()
            log = next(path.glob("log-*"))
            flushed = log.stat().st_size
        if step >= 5:
            states.append(model)
    whole = log.read_bytes()
    index.close()
    for size in [*range(flushed, len(whole), 97), len(whole)]:
        log.write_bytes(whole[:size])
        assert content(path) in states, size
    log.write_bytes(whole[:flushed])
    assert content(path) == states[0]
