"""An index that takes updates finds what exact search over a dictionary of its rows finds, whatever was done to it."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import Index, LivingIndex, maintaining, sealing, segments
from tenfold.search.manifest import read_manifest
from tenfold.search.sealing import Job, run_job
from tenfold.search.segments import bits_of, clear, is_set

Model = dict[int, np.ndarray]


@pytest.fixture
def small_deltas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal and merge often: deltas of 150 rows."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 150)


def expect(index: LivingIndex, model: Model, queries: np.ndarray, metric: str = "l2", k: int = 10) -> None:
    """Assert that `index` holds the rows of `model` and finds its nearest, ties by id."""
    assert len(index) == len(model)
    distances, ids = index.search(queries, k, recall=1.0)
    names = np.array(sorted(model), np.int64)
    width = min(k, len(names))
    assert (ids[:, width:] == -1).all()
    assert np.isposinf(distances[:, width:]).all()
    if width:
        base = np.stack([model[name] for name in names.tolist()])
        truth = numpy_distances(base, queries, metric).astype(np.float32)
        order = np.array([np.lexsort((names, row))[:width] for row in truth])
        np.testing.assert_array_equal(ids[:, :width], names[order])
        np.testing.assert_array_equal(distances[:, :width], np.take_along_axis(truth, order, axis=1))
        np.testing.assert_array_equal(index.get(names), base)
    np.testing.assert_array_equal(index.all_ids(), names)
    listed = {name: row for ids, rows in index.blocks(64) for name, row in zip(ids.tolist(), rows, strict=True)}
    assert listed.keys() == model.keys()
    assert all((listed[name] == row).all() for name, row in model.items())


@pytest.mark.parametrize(
    ("dtype", "metric", "resident"),
    [("uint8", "l2", True), ("uint8", "l2", False), ("float32", "ip", True), ("int8", "l2", True),
     ("float16", "l2", False)],
)  # fmt: skip
def test_any_sequence_of_changes_gives_exact_answers(
    tmp_path: Path, small_deltas: None, monkeypatch: pytest.MonkeyPatch, dtype: str, metric: str, resident: bool
) -> None:
    """Adds, updates, deletes, compaction and opening anew in random order, with sealing and merging behind them."""
    if not resident:
        monkeypatch.setattr(segments, "_RESIDENT_BYTES", -1)
    rng = np.random.default_rng([len(dtype), len(metric)])
    pool, queries = make_vectors(3000, 8, dtype), make_vectors(7, 8, dtype, seed=1)
    index, model = LivingIndex.create(tmp_path / "index", 8, dtype=dtype, metric=metric), Model()  # type: ignore[arg-type]
    for step in range(30):
        some = rng.choice(len(pool), rng.integers(1, 90), replace=False)
        known = rng.permutation(np.array(sorted(model), np.int64))[:40]
        match rng.integers(0, 8):
            case 0 | 1 | 2:
                ids = index.add(pool[some])
                model |= dict(zip(ids.tolist(), pool[some], strict=True))
            case 3:
                ids = rng.choice(10**12, len(some), replace=False) + 10**6
                index.add(pool[some], ids)
                model |= dict(zip(ids.tolist(), pool[some], strict=True))
            case 4 if len(known):
                assert index.update(pool[some[: len(known)]], known[: len(some)]) == min(len(some), len(known))
                model |= dict(zip(known.tolist(), pool[some], strict=False))
            case 5 | 6:
                assert index.delete([*known.tolist(), 10**15]) == len(known)
                model = {name: row for name, row in model.items() if name not in known}
            case 7 if step % 3 == 0:
                index.compact()
                assert len(index.stats()["segments"]) == (len(model) > 0)
            case 7:
                index.close()
                index = LivingIndex.open(tmp_path / "index")
        expect(index, model, queries, metric)
    index.close()
    assert LivingIndex.open(tmp_path / "index", read_only=True).verify() == []


def test_a_damaged_segment_ends_a_search_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is searched while another one waits for the disk; the other goes on."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 400)
    monkeypatch.setattr(segments, "_RESIDENT_BYTES", -1)
    base = make_vectors(800, 16, "uint8")
    with LivingIndex.create(tmp_path / "index", 16, dtype="uint8") as index:
        for start in (0, 400):
            index.add(base[start : start + 400])
            index._maintainer.wait()
        assert len(index.stats()["segments"]) == 2
        whole, other = (part.segment for part in index._stack.view.parts)
        expected = whole.index.search(base[:3], 5)
        with (other.folder / "vectors.bin").open("r+b") as file:
            file.seek(other.index._files["vectors.bin"].section("pages").offset)
            file.write(bytes(4096))
        for queries in (base[:1], base):
            with pytest.raises(InputError, match="checksum"):
                index.search(queries, 5, recall=1.0)
        np.testing.assert_array_equal(whole.index.search(base[:3], 5), expected)


def test_an_index_that_was_built_of_no_rows_takes_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sealed beside its empty segment, which goes."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 100)
    Index.build(np.zeros((0, 4), np.uint8), tmp_path / "index")
    with LivingIndex.open(tmp_path / "index") as index:
        index.add(make_vectors(100, 4, "uint8"))
        index._maintainer.wait()
        stats = index.stats()
        assert (stats["trouble"], [part["rows"] for part in stats["segments"]]) == (None, [100])


def test_an_index_that_was_built_takes_updates(tmp_path: Path, index_copy: Callable[..., Path]) -> None:
    """Its rows keep their numbers as ids; once it takes updates, only LivingIndex opens it."""
    path, base, queries = (
        index_copy(700, 33, "uint8", "l2"),
        make_vectors(700, 33, "uint8"),
        make_vectors(5, 33, "uint8", 3),
    )
    more = make_vectors(20, 33, "uint8", seed=2)
    with LivingIndex.open(path) as index:
        model = dict(enumerate(base))
        expect(index, model, queries)
        assert index.add(more).tolist() == list(range(700, 720))
        assert index.delete([3, 699, 4000]) == 2
        model |= dict(enumerate(more, 700))
        del model[3], model[699]
        expect(index, model, queries)
    with LivingIndex.open(path) as index:
        expect(index, model, queries)
        index.compact()
        expect(index, model, queries)
    with pytest.raises(InputError, match=r"takes updates; open it with LivingIndex\.open"):
        Index.open(path)
    assert not (path / "vectors.bin").exists()


def test_what_was_acknowledged_survives_without_closing(tmp_path: Path) -> None:
    """A copy of the folder, taken while the index is open, is what a crash leaves."""
    rows, queries = make_vectors(300, 16, "uint8"), make_vectors(4, 16, "uint8", 1)
    index = LivingIndex.create(tmp_path / "index", 16, dtype="uint8")
    index.add(rows)
    index.update(rows[:5] // 2, np.arange(5))
    index.delete([7])
    left = Path(shutil.copytree(tmp_path / "index", tmp_path / "copy"))
    model = dict(enumerate(rows)) | dict(enumerate(rows[:5] // 2))
    del model[7]
    with LivingIndex.open(left) as copy:
        expect(copy, model, queries)
    index.close()


def test_a_search_sees_an_update_as_a_whole(tmp_path: Path, small_deltas: None) -> None:
    """While rows move back and forth, each is found exactly once: at its old place or at its new one."""
    places = np.zeros((2, 200, 4), np.uint8)
    places[1], places[:, :, 1] = 9, np.arange(200)
    index = LivingIndex.create(tmp_path / "index", 4, dtype="uint8", durability="none")
    index.add(places[0])
    begun, stop, seen = threading.Event(), threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            _, ids = index.search(places[:, ::50].reshape(-1, 4), 200, recall=1.0, threads=1)
            seen.append([sorted(row.tolist()) for row in ids])
            begun.set()

    searcher = threading.Thread(target=search)
    searcher.start()
    assert begun.wait(600)
    for turn in range(20):
        index.update(places[(turn + 1) % 2], np.arange(200))
    stop.set()
    searcher.join()
    index.close()
    assert all(row == list(range(200)) for rows in seen for row in rows)


def test_threads_that_add_at_once_get_ids_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where calls take several records and wait until others are sealed: no row replaces another's."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 100)
    monkeypatch.setattr(maintaining, "_MOST_DELTAS", 1)
    monkeypatch.setattr("tenfold.search.stack._RECORD_BYTES", 50 * 8)
    index, given = LivingIndex.create(tmp_path / "index", 8, dtype="uint8", durability="none"), list[np.ndarray]()

    def add(number: int) -> None:
        for _ in range(2):
            given.append(index.add(np.full((400, 8), number, np.uint8)))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = np.concatenate(given)
    assert len(np.unique(ids)) == len(ids) == len(index) == 3200
    _, counts = np.unique(index.get(ids)[:, 0], return_counts=True)
    assert counts.tolist() == [800] * 4
    index.close()


def test_many_threads_search_while_one_changes(tmp_path: Path, small_deltas: None) -> None:
    """Whatever is found was there at some moment of the call, at the distance it had then; sanitizers see no race."""
    rows, count = make_vectors(2500, 16, "uint8"), 8
    index = LivingIndex.create(tmp_path / "index", 16, dtype="uint8", durability="none")
    index.add(rows[:400])
    born, died = dict.fromkeys(range(400), 0), dict[int, int]()  # by id: the change after or before which
    clock, stop, wrong, searches = [0], threading.Event(), list[str](), [0] * count

    def search(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not (stop.is_set() and searches[seed]):
            queries, began = rows[rng.integers(0, 400, 3)], clock[0]
            distances, ids = index.search(queries, 5, threads=1)
            ended = clock[0] + 1
            exact = numpy_distances(rows, queries, "l2")
            for row, (near, names) in enumerate(zip(distances, ids, strict=True)):
                for distance, name in zip(near.tolist(), names.tolist(), strict=True):
                    if born.get(name, ended) > ended or died.get(name, ended) < began or distance != exact[row, name]:
                        wrong.append(f"{name} at {distance}, from {began} to {ended}")
            searches[seed] += 1
            time.sleep(0.005)  # sealing has low priority, and would come to nothing

    searchers = [threading.Thread(target=search, args=(seed,)) for seed in range(count)]
    for searcher in searchers:
        searcher.start()
    for first in range(400, 2500, 100):
        for number in range(first, first + 100):
            born[number] = clock[0] + 1
        index.add(rows[first : first + 100], np.arange(first, first + 100))
        gone = np.arange(first - 400, first - 350)
        index.delete(gone)
        died |= dict.fromkeys(gone.tolist(), clock[0] + 1)
        clock[0] += 1
        if clock[0] % 10 == 0:
            index.compact()
    stop.set()
    for searcher in searchers:
        searcher.join()
    index.close()
    assert wrong == [] and all(searches)


def test_compaction_gives_room_back_and_keeps_the_answers(tmp_path: Path) -> None:
    rows, queries = make_vectors(6000, 32, "float32"), make_vectors(5, 32, "float32", 1)
    with LivingIndex.create(tmp_path / "index", 32) as index:
        index.add(rows)
        index.compact()
        full = index.stats()["index_bytes"]
        assert index.delete(np.arange(0, 1000)) == 1000
        index.compact()
        stats = index.stats()
        assert stats["index_bytes"] < 0.9 * full
        assert stats["segments"][0]["deleted"] == 0
        expect(index, {name: row for name, row in enumerate(rows) if name >= 1000}, queries)
        index.delete(np.arange(6000))
        index.compact()
        assert index.stats()["segments"] == []
        expect(index, {}, queries)
        assert index.add(rows[:2]).tolist() == [6000, 6001], "ids are not given out again"


@pytest.mark.parametrize("state", ["in memory", "sealed", "being sealed"])
def test_a_cleared_index_is_empty_for_good(tmp_path: Path, small_deltas: None, state: str) -> None:
    """Numbers begin with 0 again; what was asked for before the clearing is still answered whole."""
    rows, queries = make_vectors(500, 8, "uint8"), make_vectors(4, 8, "uint8", 1)
    with LivingIndex.create(tmp_path / "index", 8, dtype="uint8") as index:
        index.add(rows[: 500 if state == "being sealed" else 100])
        if state == "sealed":
            index.compact()
        before, held = index.blocks(30), len(index)
        first = next(before)
        assert index.clear() == held
        expect(index, {}, queries)
        assert sum(len(ids) for ids, _ in [first, *before]) == held
        assert index.clear() == 0
        assert index.add(rows[:200]).tolist() == list(range(200))
        expect(index, dict(enumerate(rows[:200])), queries)
    with LivingIndex.open(tmp_path / "index") as index:
        expect(index, dict(enumerate(rows[:200])), queries)
        assert index.verify() == []


def test_a_cleared_index_forgets_its_texts(tmp_path: Path) -> None:
    with LivingIndex.create(tmp_path / "index", 4, dtype="uint8", ids="string") as index:
        index.add(make_vectors(3, 4, "uint8"), ["c", "b", "a"])
        index.delete(["b"])
        assert index.all_ids().tolist() == ["c", "a"]
        assert [ids.tolist() for ids, _ in index.blocks()] == [["c", "a"]]
        index.clear()
        assert index.all_ids().tolist() == []
        assert not index.contains(["a", "b", "c"]).any()
        assert index._names is not None
        assert index._names.numbers(["a", "b", "c"]).tolist() == [-1, -1, -1]
        index.add(make_vectors(1, 4, "uint8"), ["a"])
        assert index.all_ids().tolist() == ["a"]


def test_a_text_is_never_that_of_another_row(tmp_path: Path, uncalibrated: None) -> None:
    """A reader sees what was there when it looked; texts are looked up later, when others may have come and gone."""
    rows = make_vectors(3, 4, "uint8")
    with LivingIndex.create(tmp_path / "index", 4, dtype="uint8", ids="string") as index:
        index.add(rows, ["a", "b", "c"])
        with LivingIndex.open(tmp_path / "index", read_only=True) as reader:
            index.delete(["a"])
            index.compact()
            distances, ids = reader.search(rows[:1], 3, recall=1.0)
            assert sorted(ids[0, :2]) == ["b", "c"] and ids[0, 2] is None and np.isinf(distances[0, 2])
            assert len(reader) == 2
            index.clear()
            index.add(rows[::-1], ["x", "y", "z"])
            assert reader.search(rows[:1], 1, recall=1.0)[1].tolist() == [["z"]]


def test_an_index_that_cannot_be_cleared_stays_as_it_was(tmp_path: Path) -> None:
    """The snapshot cannot be written; changes made afterwards are kept, too."""
    rows, queries = make_vectors(60, 8, "uint8"), make_vectors(4, 8, "uint8", 1)
    with LivingIndex.create(tmp_path / "index", 8, dtype="uint8") as index:
        index.add(rows[:50])
        (tmp_path / "index" / "living.json.partial").mkdir()  # in the way
        with pytest.raises(InputError, match="nothing was deleted"):
            index.clear()
        (tmp_path / "index" / "living.json.partial").rmdir()
        index.add(rows[50:])
    with LivingIndex.open(tmp_path / "index", read_only=True) as index:
        expect(index, dict(enumerate(rows)), queries)
        with pytest.raises(InputError, match="was opened read-only"):
            index.clear()


def test_another_process_reads_meanwhile(tmp_path: Path) -> None:
    """It sees what was there when it opened the index, and what came since once it refreshes."""
    path, queries = tmp_path / "index", make_vectors(4, 8, "uint8", 1)
    rows = make_vectors(500, 8, "uint8")
    with LivingIndex.create(path, 8, dtype="uint8") as index:
        index.add(rows[:300])
        reader = LivingIndex.open(path, read_only=True)
        index.compact()
        index.add(rows[300:])
        index.delete([0])
        expect(reader, dict(enumerate(rows[:300])), queries)
        reader.refresh()
        expect(reader, {name: row for name, row in enumerate(rows) if name}, queries)
        with pytest.raises(InputError, match="was opened read-only"):
            reader.add(rows[:1])


def test_a_reader_follows_step_by_step(tmp_path: Path, small_deltas: None) -> None:
    """After each refresh it holds what the writer holds."""
    path, queries, rng = tmp_path / "index", make_vectors(4, 8, "uint8", 1), np.random.default_rng(0)
    rows, model = make_vectors(2000, 8, "uint8"), Model()
    index = LivingIndex.create(path, 8, dtype="uint8", durability="none")
    reader = LivingIndex.open(path, read_only=True)
    for step in range(45):
        some = rng.integers(0, 2000, rng.integers(1, 60))
        some = np.unique(some)
        if step % 3 == 2:
            index.delete(some)
            model = {name: row for name, row in model.items() if name not in some}
        else:
            index.update(rows[some][::-1], some)
            model |= dict(zip(some.tolist(), rows[some][::-1], strict=True))
        if step == 20:
            index.compact()
        if step == 28:
            index.clear()
            model = {}
        if step == 36:
            index.close()
            index = LivingIndex.open(path, durability="none")
        reader.refresh()
        expect(reader, model, queries)
    index.close()


def test_a_reader_that_follows_opens_nothing_twice(tmp_path: Path, small_deltas: None) -> None:
    rows = make_vectors(500, 8, "uint8")
    with LivingIndex.create(tmp_path / "index", 8, dtype="uint8", durability="none") as index:
        index.add(rows[:200])
        index._maintainer.wait()
        reader = LivingIndex.open(tmp_path / "index", read_only=True)
        [first] = reader._stack.parts
        index.delete([3])
        index.add(rows[200:400])
        index._maintainer.wait()
        reader.refresh()
        again, second = reader._stack.parts
        assert again.segment is first.segment and again.alive == 199 and second.rows == 200
        view, delta = reader._stack.view, reader._stack.delta
        reader.refresh()
        assert reader._stack.view is view, "nothing was done where nothing had changed"
        index.add(rows[400:])
        reader.refresh()
        assert reader._stack.delta is delta, "the log was read on"
        expect(reader, {number: row for number, row in enumerate(rows) if number != 3}, rows[:4])


def test_sizes_are_told_while_segments_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is removed between being listed and being looked into counts as nothing."""
    scan = os.scandir
    with LivingIndex.create(tmp_path / "index", 4, dtype="uint8") as index:
        before = index.stats()["index_bytes"]
        going = tmp_path / "index" / "segment-000099"
        going.mkdir()
        (going / "file").write_bytes(bytes(9))

        def scan_late(place: Any = ".") -> Any:
            if str(place) == str(going):
                shutil.rmtree(going, ignore_errors=True)
            return scan(place)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scan_late)
            assert index.stats()["index_bytes"] == before
        assert not going.exists()


def test_a_reader_whose_index_is_gone_goes_on_searching(tmp_path: Path) -> None:
    rows, queries = make_vectors(50, 8, "uint8"), make_vectors(4, 8, "uint8", 1)
    with LivingIndex.create(tmp_path / "index", 8, dtype="uint8") as index:
        index.add(rows)
        index.compact()
    reader = LivingIndex.open(tmp_path / "index", read_only=True)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(InputError, match="No such file"):
        reader.refresh()
    expect(reader, dict(enumerate(rows)), queries)


def test_a_built_index_keeps_its_settings(tmp_path: Path, uncalibrated: None) -> None:
    """Segments made later are built as the index was."""
    base = make_vectors(600, 8, "uint8")
    Index.build(base, tmp_path / "index", code_bytes=2, rows_per_list=40, second_lists=True, seed=3).stats()
    with LivingIndex.open(tmp_path / "index") as index:
        index.delete([1])
        index.compact()
        [segment] = index.stats()["segments"]
    made = read_manifest(tmp_path / "index" / segment["folder"])
    assert {name: made[name] for name in ("code_bytes", "rows_per_list", "second_lists", "seed")} == {
        "code_bytes": 2, "rows_per_list": 40, "second_lists": True, "seed": 3,
    }  # fmt: skip


def test_one_process_writes(tmp_path: Path) -> None:
    with LivingIndex.create(tmp_path / "index", 8):
        code = f"from tenfold.search import LivingIndex; LivingIndex.open({str(tmp_path / 'index')!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "another process writes to this index (pid " in last
    LivingIndex.open(tmp_path / "index").close()


def test_bad_input_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    rows = make_vectors(10, 8, "float32")
    bad = rows.copy()
    bad[3, 2] = np.nan
    with LivingIndex.create(tmp_path / "index", 8) as index:
        index.add(rows, np.arange(10))
        for call, complaint in (
            (lambda: index.add(rows, np.arange(9, 19)), "id 9 is there already; `update` replaces its vector"),
            (lambda: index.add(rows, [11] * 10), "id 11 comes twice in one call"),
            (lambda: index.add(bad), "vector 3 holds NaN or infinity"),
            (lambda: index.add(rows[:, :5]), "but this base holds vectors of dimension 8"),
            (lambda: index.add(rows, np.arange(3)), "there are 3 ids for 10 vectors"),
            (lambda: index.add(rows, np.arange(10) - 20), "ids are whole numbers from 0 on"),
            (lambda: index.add(rows, np.arange(10) / 2), "whole numbers are needed"),
            (lambda: index.get([4, 77]), "id 77 is not there"),
            (lambda: index.add(rows[:1], [1 << 63]), "below 2\\^63"),
            (lambda: index.add(rows[:1], attributes={"year": [1]}), "there is no column 'year'; this index has none"),
            (lambda: index.add(rows[:1], attributes=[1]), r"attributes are \[1\]; give a dictionary"),  # type: ignore[arg-type]
            (lambda: index.add(rows[:1], attributes={"year": 1}), "column year: its values are 1"),  # type: ignore[dict-item]
            (lambda: index.search(rows, recall=2), "recall is 2; it is a share"),
            (lambda: index.search(rows, probes=0), "probes is 0"),
            (lambda: index.search(rows, rerank="best"), "rerank is 'best'; choose bound or paper"),  # type: ignore[call-overload]
        ):
            with pytest.raises(InputError, match=complaint):
                call()
        assert index.delete([50, 51]) == 0
        expect(index, dict(enumerate(rows)), rows[:3])
    with pytest.raises(InputError, match="was closed; open it anew"):
        index.add(rows)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "", "x" * 65536, 7, None])
def test_texts_that_no_file_can_hold_are_refused(tmp_path: Path, text: object) -> None:
    """As ids and as categories: before they reach the log, where a segment could not take them over."""
    rows = make_vectors(1, 8, "uint8")
    with LivingIndex.create(tmp_path / "index", 8, dtype="uint8", ids="string", columns={"word": "category"}) as index:
        with pytest.raises(InputError, match=r"id .* is no text of 1 to 65,535 letters"):
            index.add(rows, [text])  # type: ignore[list-item]
        index.add(rows, ["ok"], {"word": ["" if text == "" else None]})
        if text not in ("", None):
            with pytest.raises(InputError, match="column word holds category"):
                index.update(rows, ["ok"], {"word": [text]})
        index.compact()
        assert index.attributes(["ok"]) == {"word": ["" if text == "" else None]}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"dim": 8, "dtype": "complex64"}, "complex64"),
        ({"dim": 8, "dtype": "nothing"}, "nothing"),
        ({"dim": 8, "metric": "hamming"}, "metric 'hamming'"),
        ({"dim": 8, "durability": "sometimes"}, "durability is 'sometimes'"),
        ({"dim": 8, "memory_budget": "1MB"}, "too small"),
        ({"dim": 8, "code_bytes": 2.5}, "code_bytes is 2.5"),
        ({"dim": 8, "rows_per_list": "many"}, "rows_per_list is 'many'"),
    ],
)
def test_bad_settings_make_nothing(tmp_path: Path, settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        LivingIndex.create(tmp_path / "index", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


def test_settings_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    """They are written down as JSON, and segments are built with them."""
    settings = {"code_bytes": np.int64(4), "rows_per_list": np.int32(64), "memory_budget": np.int64(1 << 30),
                "seed": np.uint8(3), "second_lists": np.True_}  # fmt: skip
    with LivingIndex.create(tmp_path / "index", 8, **settings) as index:  # type: ignore[arg-type]
        index.add(make_vectors(300, 8, "float32"))
        index.compact()
    built = read_manifest(tmp_path / "index" / index.stats()["segments"][0]["folder"])
    assert [built[name] for name in ("code_bytes", "rows_per_list", "seed", "second_lists")] == [4, 64, 3, True]
    with LivingIndex.open(tmp_path / "index", memory_budget=np.int64(2 << 30)) as index:  # type: ignore[arg-type]
        assert len(index) == 300


def test_a_built_index_stays_what_it_is_where_its_pages_cannot_be_read_so(
    tmp_path: Path, index_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`io` is looked at before the files are moved into a segment."""
    path = index_copy(700, 33, "uint8", "l2")
    with pytest.raises(InputError, match="io is 'bogus'"):
        LivingIndex.open(path, io="bogus")  # type: ignore[arg-type]
    opened = Index.open

    def refuse(path: str | Path, *, io: str = "auto") -> Index:
        if io == "uring":
            raise InputError("io='uring' is refused here")
        return opened(path, io=io)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Index, "open", refuse)
        with pytest.raises(InputError, match="is refused here"):
            LivingIndex.open(path, io="uring")
    Index.open(path)


def test_the_memory_budget_may_change(
    tmp_path: Path, index_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that was built merges with 1 GB unless told otherwise; what is told stays."""
    path, rows = index_copy(700, 33, "uint8", "l2"), make_vectors(20, 33, "uint8", seed=2)
    given: list[object] = []

    def merge(folder: Path, job: Job) -> None:
        given.append(job.settings.get("memory_budget", "that of Index.build"))
        run_job(folder, job)

    monkeypatch.setattr(maintaining, "run_job", merge)
    for refused in ({"memory_budget": "1MB"}, {"memory_budget": "2GB", "read_only": True}):
        with pytest.raises(InputError, match=r"1 MB is too small|read_only"):
            LivingIndex.open(path, **refused)  # type: ignore[arg-type]
    Index.open(path)  # is what it was
    for budget in (None, "2GB", None):
        with LivingIndex.open(path, memory_budget=budget) as index:
            index.add(rows)
            index.compact()
    assert (given[0], given[-1]) == ("that of Index.build", 2 << 30)


def test_compaction_waits_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_vectors(400, 8, "float32")
    with LivingIndex.create(tmp_path / "index", 8) as index:
        index.add(rows)
        index.compact()
        index.delete([1])
        with monkeypatch.context() as context:
            context.setattr(maintaining.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
            with pytest.raises(InputError, match=r"compaction needs .* MB on the disk, 0 MB are free"):
                index.compact()
        expect(index, {name: row for name, row in enumerate(rows) if name != 1}, rows[:3])
        index.compact()


@pytest.mark.parametrize("second", [False, True])
def test_the_room_that_compaction_asks_for_suffices(second: bool, tmp_path: Path, uncalibrated: None) -> None:
    """Against the most that its files take, which is just before one of them goes: no more, and not a third less."""
    path, rows, peak = tmp_path / "index", make_vectors(9_000, 128, "uint8"), 0

    def taken() -> int:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    def weighed(remove: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            nonlocal peak
            peak = max(peak, taken())
            remove(*arguments, **options)

        return call

    def run_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        sealing._run(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    with LivingIndex.create(path, 128, dtype="uint8", second_lists=second) as index:
        index.add(rows)
        index._maintainer.wait()
        index.delete([1])
        with pytest.MonkeyPatch.context() as context:
            context.setattr(maintaining.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
            with pytest.raises(InputError, match=r"compaction needs \d+ MB") as caught:
                index.compact()
        asked, before = int(re.findall(r"needs (\d+) MB", str(caught.value))[0]) << 20, taken()
        with pytest.MonkeyPatch.context() as context:
            context.setattr(sealing.subprocess, "run", run_here)
            for name in ("unlink", "rmdir", "rename", "replace", "truncate", "ftruncate"):
                context.setattr(os, name, weighed(getattr(os, name)))
            index.compact()
    assert 2 * asked / 3 < peak - before <= asked + (1 << 19)  # it speaks of whole megabytes


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
def test_bits_are_those_of_a_mask(rows: int) -> None:
    rng = np.random.default_rng(rows)
    mask = rng.random(rows) < 0.7
    places = np.arange(rows)
    bits = bits_of(mask)
    assert len(bits) == -(-rows // 64)
    np.testing.assert_array_equal(is_set(bits, places), mask)
    gone = rng.choice(rows, rows // 3, replace=False)
    cleared = clear(bits, gone, rows)
    np.testing.assert_array_equal(is_set(cleared, places), mask & ~np.isin(places, gone))
    np.testing.assert_array_equal(is_set(bits, places), mask)
    np.testing.assert_array_equal(is_set(clear(None, gone, rows), places), ~np.isin(places, gone))
