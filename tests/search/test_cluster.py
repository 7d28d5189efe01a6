"""Shards answer as one index does; a worker that dies costs a flagged answer at most, and is replaced.

One Ray cluster on this machine serves all tests; what must happen without it happens in other processes.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import check_exact, make_vectors, numpy_distances
from running import ask, running, serving

from tenfold.cli import main
from tenfold.core.errors import InputError
from tenfold.search import Index, ShardedIndex, build_shards, exact_search, open_vectors, recall_at_k
from tenfold.search.bodies import NPY, pack, unpack
from tenfold.search.client import Client
from tenfold.search.manifest import checked_json
from tenfold.search.shards import read_table

QUERIES, K = 40, 10
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two nodes, which are machines to Ray; the first one is that of this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    testing = pytest.importorskip("ray.cluster_utils")
    settings = {"num_cpus": 1, "object_store_memory": 80 << 20}
    nodes = testing.Cluster(initialize_head=True, head_node_args=settings | {"include_dashboard": False})
    nodes.add_node(**settings)
    yield nodes
    sys.modules["ray"].shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def cluster(machines: Any) -> str:
    """Its address."""
    return str(machines.address)


@pytest.fixture(scope="module")
def sharded(cluster: str, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9,000 real vectors in four shards, built by the cluster."""
    path = tmp_path_factory.mktemp("sharded") / "sift"
    build_shards(real_data / "bigann9k_base.u8bin", path, 4, ray=cluster)
    return path


@pytest.fixture(scope="module")
def index(sharded: Path, cluster: str) -> Iterator[ShardedIndex]:
    """Held open by one worker per shard, whatever the tests do to them."""
    with ShardedIndex.open(sharded, ray=cluster, patience=600) as opened:
        yield opened


@pytest.fixture(scope="module")
def queries(real_data: Path) -> np.ndarray:
    return read(real_data / "bigann9k_query.u8bin")


@pytest.fixture(scope="module")
def expected(real_data: Path, queries: np.ndarray, sharded: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Exact results of the first queries, without the rows of the shards that are missing, by their definition."""
    distances = numpy_distances(read(real_data / "bigann9k_base.u8bin"), queries[:QUERIES], "l2").astype(np.float32)
    shards = {shard.folder: shard for shard in read_table(sharded).shards}

    def find(missing: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        left = np.ones(distances.shape[1], bool)
        for name in missing:
            left[shards[name].first :][: shards[name].rows] = False
        rows = np.flatnonzero(left)
        order = np.argsort(distances[:, left], axis=1, kind="stable")[:, :K]
        near, ids = np.full((QUERIES, K), np.inf, np.float32), np.full((QUERIES, K), -1)
        ids[:, : order.shape[1]] = rows[order]
        near[:, : order.shape[1]] = np.take_along_axis(distances[:, left], order, axis=1)
        return near, ids

    return find


@pytest.fixture(scope="module")
def built_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 vectors in two shards."""
    path = tmp_path_factory.mktemp("sharded") / "small"
    build_shards(make_vectors(300, 8, "uint8"), path, 2)
    return path


@pytest.fixture
def small(built_here: Path, tmp_path: Path) -> Path:
    """A copy of that, to do with as one likes."""
    return Path(shutil.copytree(built_here, tmp_path / "small"))


def read(path: Path) -> np.ndarray:
    source = open_vectors(path)
    return np.concatenate(list(source.blocks(source.rows)))


def pids_of(index: ShardedIndex, shard: int) -> list[int]:
    return [int(worker.rpartition(":")[2]) for worker in index.stats()["shards"][shard]["workers"]]


def wait_until(holds: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- answers ------------------------------------------------------------------------------------------------


def test_four_shards_find_what_one_index_finds(
    sharded: Path, real_data: Path, queries: np.ndarray, tmp_path: Path
) -> None:
    """With a recall that is asked for at least as much of the truth, and with recall 1 the truth itself."""
    source = open_vectors(real_data / "bigann9k_base.u8bin")
    truth, true_ids = exact_search(source, queries, K)
    one = Index.build(source, tmp_path / "one")
    with ShardedIndex.open(sharded) as index:
        for recall in (0.9, 0.95, 0.99):
            found = recall_at_k(index.search(queries, K, recall=recall).distances, truth, K)
            assert found >= recall_at_k(one.search(queries, K, recall=recall)[0], truth, K) - 0.005
        distances, ids, missing = index.search(queries, K, recall=1)
    np.testing.assert_array_equal(distances, truth)
    np.testing.assert_array_equal(ids, true_ids)
    assert missing == ()


def test_workers_answer_as_one_process_does(sharded: Path, index: ShardedIndex, queries: np.ndarray) -> None:
    """To the bit: single queries, and so many that they go through Ray's store; and they refuse what it refuses."""
    there = index
    with ShardedIndex.open(sharded) as here:
        assert here.shards == there.shards == tuple(f"shard-000{number}" for number in range(4))
        for rows, k, recall in ((queries[:1], 10, 0.95), (np.tile(queries, (2, 1)), 7, 0.9), (queries[:0], 3, 0.5)):
            answers = [one.search(rows, k, recall=recall) for one in (here, there)]
            for arrays in zip(*(answer[:2] for answer in answers), strict=True):
                np.testing.assert_array_equal(*arrays)
            assert not answers[1].is_partial
        for wrong in ({"k": 0}, {"recall": 2}, {"rerank": "odd"}, {"threads": -1}):
            for one in (here, there):
                with pytest.raises(InputError):
                    one.search(queries[:1], **wrong)
        with pytest.raises(InputError, match="dimension"):
            there.search(queries[:, :5])
        ids = np.array([8999, 0, 4500, 2250, 2249, 0])
        np.testing.assert_array_equal(there.get(ids), here.get(ids))
        np.testing.assert_array_equal(there.get([]), np.zeros((0, 128), np.uint8))
        with pytest.raises(InputError, match="id 9000 is not there"):
            there.get([3, 9000])


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("dtype", "shards"), [("uint8", 1), ("int8", 7), ("float32", 3), ("float16", 2)])
def test_ties_across_shards_go_to_the_lower_id(
    metric: Any, dtype: str, shards: int, uncalibrated: None, tmp_path: Path
) -> None:
    """Many equal rows, and more results than a shard has rows, or than there are rows at all."""
    base, rows = make_vectors(200, 4, dtype), make_vectors(9, 4, dtype, seed=1)
    base[100:] = base[:100]
    build_shards(base, tmp_path / "index", shards, metric=metric)
    with ShardedIndex.open(tmp_path / "index") as index:
        assert (index.rows, index.dim, index.dtype, index.metric) == (200, 4, base.dtype, metric)
        for k in (1, 10, 150, 250):
            check_exact(index.search(rows, k, recall=1)[:2], base, rows, metric)


def test_a_shard_per_row(tmp_path: Path, uncalibrated: None) -> None:
    base = make_vectors(5, 3, "float32")
    build_shards(base, tmp_path / "index", 5)
    with ShardedIndex.open(tmp_path / "index") as index:
        check_exact(index.search(base, 3)[:2], base, base, "l2")


# --- trouble ------------------------------------------------------------------------------------------------


class Load:
    """Threads that search all the while; `failures` is what was wrong, `missing` the sets of shards that were."""

    def __init__(self, index: ShardedIndex, queries: np.ndarray, expected: Callable[..., Any]) -> None:
        self._index, self._queries, self._expected = index, queries[:QUERIES], expected
        self.failures: list[str] = []
        self.missing: set[tuple[str, ...]] = set()
        self.answers = 0
        self._is_over = threading.Event()

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(4)
        for thread in range(4):
            self._pool.submit(self._search, thread)
        wait_until(lambda: self.answers > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._pool.shutdown()

    def _search(self, thread: int) -> None:
        first = thread
        while not self._is_over.is_set():
            first = (first + 4) % (QUERIES - 8)
            part = slice(first, first + 1 + thread)
            try:
                distances, ids, missing = self._index.search(self._queries[part], K, recall=1)
                self.missing.add(missing)
                near, named = self._expected(missing)
                if not (np.array_equal(ids, named[part]) and np.array_equal(distances, near[part])):
                    self.failures.append(f"wrong without {missing}")
            except Exception as error:
                self.failures.append(repr(error))
            self.answers += 1


def test_a_killed_worker_costs_flagged_answers_until_its_shard_is_open_again(
    index: ShardedIndex, queries: np.ndarray, expected: Callable[..., Any]
) -> None:
    """While four threads search; every answer is exact over the shards that it does not name as missing."""
    with Load(index, queries, expected) as load:
        [pid] = pids_of(index, 2)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ("shard-0002",) in load.missing)
        wait_until(lambda: index.missing() == ())
        assert pids_of(index, 2) != [pid]
        before = load.answers
        wait_until(lambda: load.answers > before + 20)
    assert load.failures == []
    assert load.missing == {(), ("shard-0002",)}
    assert not index.search(queries[:1]).is_partial


def test_all_workers_killed_at_once(index: ShardedIndex, queries: np.ndarray, expected: Callable[..., Any]) -> None:
    """An answer without any shard holds nothing, and says so."""
    for pid in [pid for shard in range(4) for pid in pids_of(index, shard)]:
        os.kill(pid, signal.SIGKILL)
    distances, ids, missing = index.search(queries[:QUERIES], K, recall=1)
    near, named = expected(missing)
    assert missing
    np.testing.assert_array_equal(ids, named)
    np.testing.assert_array_equal(distances, near)
    wait_until(lambda: index.missing() == ())
    assert not index.search(queries[:1]).is_partial


def test_with_two_replicas_no_answer_is_partial(small: Path, cluster: str) -> None:
    """Although a worker of every shard is killed under load."""
    base, rows = make_vectors(300, 8, "uint8"), make_vectors(QUERIES, 8, "uint8", seed=1)
    distances = numpy_distances(base, rows, "l2").astype(np.float32)
    ids = np.argsort(distances, axis=1, kind="stable")[:, :K]
    whole = {(): (np.take_along_axis(distances, ids, axis=1), ids)}
    with ShardedIndex.open(small, ray=cluster, replicas=2, patience=600) as index:
        with Load(index, rows, whole.__getitem__) as load:
            killed = [pids_of(index, shard)[shard] for shard in range(2)]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: all(len(set(pids_of(index, shard)) - {*killed}) == 2 for shard in range(2)))
        assert load.failures == []
        assert load.missing == {()}


def test_a_worker_that_hangs_is_given_up(
    sharded: Path, cluster: str, queries: np.ndarray, expected: Callable[..., Any]
) -> None:
    """Stopped, it neither answers nor dies; others may seem to hang where the machine is busy."""
    with ShardedIndex.open(sharded, ray=cluster, patience=2) as index:
        [pid] = pids_of(index, 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = index.search(queries[:QUERIES], K, recall=1)
            assert "shard-0001" in answer.missing
            np.testing.assert_array_equal(answer.ids, expected(answer.missing)[1])
            wait_until(lambda: index.search(queries[:1]).missing == ())
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_shard_that_cannot_be_opened_again_stays_missing_until_it_can(small: Path, cluster: str) -> None:
    """Its files are away for a while; the state says what is wrong."""
    rows = make_vectors(3, 8, "uint8")
    with ShardedIndex.open(small, ray=cluster) as index:
        (small / "shard-0001").rename(small / "elsewhere")
        os.kill(pids_of(index, 1)[0], signal.SIGKILL)
        wait_until(lambda: "shard-0001: no such index folder" in index.stats()["shards"][1]["problem"])
        assert index.search(rows).missing == index.missing() == ("shard-0001",)
        assert len(index.get([0, 149])) == 2
        with pytest.raises(InputError, match="shard-0001 does not answer now; try again"):
            index.get([0, 150])
        (small / "elsewhere").rename(small / "shard-0001")
        wait_until(lambda: index.missing() == ())
        assert index.search(rows).missing == ()


def test_an_index_that_workers_cannot_open_is_not_opened(small: Path, cluster: str) -> None:
    with (small / "shard-0001" / "codes.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    for ray in (None, cluster):
        with pytest.raises(InputError, match=r"shard-0001/codes\.bin: section blocks does not match"):
            ShardedIndex.open(small, ray=ray)


# --- building -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_an_interrupted_build_keeps_finished_shards(
    where: str, cluster: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on behind them, and ends like one that was not interrupted."""
    monkeypatch.setattr("tenfold.search.cluster._CANCEL_SECONDS", 600.0)  # a worker that goes on holds its folder

    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "shards" and done == 1:
            raise KeyboardInterrupt

    source, path, ray = tmp_path / "base.npy", tmp_path / "index", cluster if where == "cluster" else None
    np.save(source, make_vectors(300, 8, "uint8"))
    with pytest.raises(KeyboardInterrupt):
        build_shards(source, path, 2, ray=ray, progress=interrupt)
    assert not path.exists()
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "index.partial").glob("shard-????/*.bin")}
    assert len(finished) >= 5
    build_shards(source, path, 2, ray=ray)
    assert not (tmp_path / "index.partial").exists()
    for file, time_of_change in finished.items():
        assert (path / file.relative_to(tmp_path / "index.partial")).stat().st_mtime_ns == time_of_change
    assert read_table(path) == read_table(small)


def test_a_build_of_something_else_begins_anew(tmp_path: Path, uncalibrated: None) -> None:
    def interrupt(phase: str, done: int, total: int) -> None:
        if phase == "shards" and done == 1:
            raise KeyboardInterrupt

    base, other = make_vectors(300, 8, "uint8"), make_vectors(300, 8, "uint8", seed=1)
    with pytest.raises(KeyboardInterrupt):
        build_shards(base, tmp_path / "index", 3, progress=interrupt)
    build_shards(other, tmp_path / "index", 3)
    with ShardedIndex.open(tmp_path / "index") as index:
        check_exact(index.search(other[:5], 4, recall=1)[:2], other, other[:5], "l2")
    assert sorted(entry.name for entry in (tmp_path / "index").iterdir()) == [
        *(f"shard-000{number}" for number in range(3)),
        "shards.json",
    ]


def test_a_build_interrupted_in_the_end_leaves_the_index(
    tmp_path: Path, uncalibrated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C once the folder has its name is said as it is, and the index is whole."""

    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    base = make_vectors(300, 8, "uint8")
    monkeypatch.setattr("tenfold.search.sharding.sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_shards(base, tmp_path / "index", 3)
    with ShardedIndex.open(tmp_path / "index") as index:
        check_exact(index.search(base[:5], 4, recall=1)[:2], base, base[:5], "l2")


@pytest.mark.parametrize("shards", [0, -1, 1.5, "4", 301, 10_001])
def test_impossible_numbers_of_shards(shards: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shards is"):
        build_shards(make_vectors(300, 8, "uint8"), tmp_path / "index", shards)
    assert list(tmp_path.iterdir()) == []


def test_a_build_leaves_alone_what_is_not_its_own(small: Path, tmp_path: Path) -> None:
    base = make_vectors(300, 8, "uint8")
    with pytest.raises(InputError, match=r"small: is in shards and is not replaced"):
        build_shards(base, small, 3)
    with pytest.raises(InputError, match=r"small: is in shards and is not replaced"):
        Index.build(base, small, overwrite=True)
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match=r"diary\.txt: is in the way"):
        build_shards(base, tmp_path / "new", 3)
    with pytest.raises(InputError, match="code_bytes"):
        build_shards(base, tmp_path / "other", 3, code_bytes=-1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new.partial", "small"]


def test_a_cluster_reads_files(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give its path"):
        build_shards(make_vectors(300, 8, "uint8"), tmp_path / "index", 3, ray=cluster)
    np.save(tmp_path / "base.npy", np.full((10, 2), np.nan, np.float32))
    with pytest.raises(InputError, match=r"base\.npy: row \d holds NaN"):
        build_shards(tmp_path / "base.npy", tmp_path / "index", 3, ray=cluster)


def test_a_cluster_of_its_own(tmp_path: Path, python: Callable[..., Any]) -> None:
    """`build --ray local` starts one, and ends it."""
    base = make_vectors(300, 8, "uint8")
    np.save(tmp_path / "base.npy", base)
    code = "import sys; from tenfold.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--shards", "2", "--ray", "local", "--json"]
    ended = python(code, "search", "build", tmp_path / "base.npy", tmp_path / "index", *options)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["rows"] == 300
    with ShardedIndex.open(tmp_path / "index") as index:
        check_exact(index.search(base[:5], 4, recall=1)[:2], base, base[:5], "l2")


# --- what lies on the disk ----------------------------------------------------------------------------------


def test_shards_are_told_apart(small: Path, tmp_path: Path) -> None:
    """One that is missing, and one of another index of the same shape."""
    shutil.copytree(small / "shard-0000", tmp_path / "other")
    shutil.rmtree(small / "shard-0001")
    with pytest.raises(InputError, match="shard-0001: no such index folder"):
        ShardedIndex.open(small)
    (tmp_path / "other").rename(small / "shard-0001")
    with pytest.raises(InputError, match=r"shard-0001: is not the shard that the shards\.json beside it names"):
        ShardedIndex.open(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2"),
        ({"rows": 299}, "do not fit together"),
        ({"dtype": "float128"}, "do not fit together"),
        ({"shards": []}, "do not fit together"),
        ({"shards": [{"folder": "../x", "first": 0, "rows": 300, "files": {}}]}, "do not fit together"),
        ({"shards": 7}, "is not readable"),
        ({"more": 1}, "is not readable"),
    ],
)
def test_a_foreign_table_is_refused(change: dict[str, Any], message: str, small: Path) -> None:
    """Although its checksum holds."""
    table = json.loads((small / "shards.json").read_text())["shards"] | change
    (small / "shards.json").write_bytes(checked_json("shards", table))
    with pytest.raises(InputError, match=rf"shards\.json: .*{message}"):
        ShardedIndex.open(small)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"shards": 3}', b"\xff" * 50, b"[" * 100_000])
def test_a_table_that_is_none_is_refused(content: bytes, small: Path) -> None:
    (small / "shards.json").write_bytes(content)
    with pytest.raises(InputError, match="is not readable"):
        ShardedIndex.open(small)


def test_a_flipped_bit_in_the_table_shows(small: Path) -> None:
    written = (small / "shards.json").read_bytes()
    for place in range(0, len(written), 41):
        (small / "shards.json").write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
        with pytest.raises(InputError, match=r"shards\.json: "):
            ShardedIndex.open(small)


def test_other_ways_to_open_it_say_what_it_is(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is in shards; open it with ShardedIndex\.open"):
        Index.open(small)
    with pytest.raises(InputError, match=r"holds no shards\.json"):
        ShardedIndex.open(small / "shard-0000")
    with pytest.raises(InputError, match=r"holds no shards\.json"):
        ShardedIndex.open(tmp_path / "nothing")
    index = ShardedIndex.open(small)
    index.close()
    with pytest.raises(InputError, match="is closed"):
        index.search(np.zeros((1, 8), np.uint8))
    for wrong in ({"replicas": 0}, {"patience": 0}, {"io": "odd"}, {"cache": "much"}):
        with pytest.raises(InputError):
            ShardedIndex.open(small, **wrong)  # type: ignore[arg-type]


# --- the cluster that is not there --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cannot be reached: Connection refused"),
        ("nonsense", "is no address"),
        ("ray://127.0.0.1:10001", "is no address"),
        ("127.0.0.1:99999999", "cannot be reached"),
    ],
)
def test_an_address_without_a_cluster(address: str, message: str, small: Path, python: Callable[..., Any]) -> None:
    """One line, at once."""
    code = "import sys; from tenfold.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = python(code, "search", "serve", small, "--port", "0", "--ray", address)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_ray_may_be_missing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"need ray; pip install 'tenfold\[cluster\]'"):
        ShardedIndex.open(small, ray="local")
    ShardedIndex.open(small).close()


# --- command line and server --------------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """build, info, query and verify of an index in shards; what does not go with shards is refused."""
    base, index = make_vectors(300, 8, "uint8"), tmp_path / "index"
    np.save(tmp_path / "base.npy", base)
    assert main(["search", "build", str(tmp_path / "base.npy"), str(index), "--shards", "3", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert [shard["rows"] for shard in built["shards"]] == [100, 100, 100]
    assert main(["search", "info", str(index), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == built
    assert main(["search", "info", str(index)]) == 0
    assert "shard-0002" in capsys.readouterr().out
    assert main(["search", "query", str(index), str(tmp_path / "base.npy"), "--recall", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [np.array([line[name] for line in lines]) for name in ("distances", "ids")]
    check_exact((found[0].astype(np.float32), found[1]), base, base, "l2")
    assert main(["search", "verify", str(index)]) == 0
    (index / "shard-0001" / "lists.bin").write_bytes(b"")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["search", "verify", str(index)])
    assert "shard-0001/lists.bin" in capsys.readouterr().out
    for arguments, message in (
        (["build", tmp_path / "base.npy", tmp_path / "new", "--ray", "local"], "say how many with --shards"),
        (["build", tmp_path / "base.npy", index, "--shards", "3", "--overwrite"], "does not go with --shards"),
        (["build", tmp_path / "base.npy", tmp_path / "new", "--shards", "-2"], "shards is -2"),
        (["evaluate", index, tmp_path / "base.npy"], "is in shards"),
        (["tune", index], "is in shards"),
        (["query", index, tmp_path / "base.npy", "--filter", "{}"], "is in shards"),
        (["query", index, tmp_path / "base.npy", "--device", "cuda"], "is in shards"),
    ):
        assert main(["search", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


def test_a_server_holds_shards_itself_where_there_is_no_cluster(small: Path) -> None:
    base = make_vectors(300, 8, "uint8")
    with ShardedIndex.open(small) as index, running({"small": index}) as url:
        status, body, _ = ask(url, "POST", "/v1/indexes/small/search", _query(base[:2], recall=1), JSON)
        assert status == 200
        answer = json.loads(body)
        assert (answer["partial"], answer["missing_shards"]) == (False, [])
        assert answer["ids"] == index.search(base[:2], recall=1).ids.tolist()
        ids = [299, 1, 150, 1]  # the page searches near the vector of an id
        np.testing.assert_array_equal(Client(url).index("small").get(ids), base[ids])
        for verb, fields, wanted, said in (
            ("get", {"ids": [1, 300]}, 422, b"id 300 is not there"), ("delete", {"ids": [1]}, 403, b"in shards"),
        ):  # fmt: skip
            status, body, _ = ask(url, "POST", f"/v1/indexes/small/{verb}", json.dumps(fields).encode(), JSON)
            assert (status, said in body) == (wanted, True)


def test_a_served_index_outlives_its_workers(sharded: Path, cluster: str, queries: np.ndarray) -> None:
    """`serve --ray` over HTTP: whole answers, a partial one once a worker is killed, whole ones again."""
    route = f"/v1/indexes/{sharded.name}"
    with serving(sharded, "--ray", cluster) as command:
        url = command.url

        def search() -> dict[str, Any]:
            status, body, _ = ask(url, "POST", f"{route}/search", _query(queries[:2]), JSON)
            assert status == 200
            answer: dict[str, Any] = json.loads(body)
            return answer

        whole = search()
        assert (whole["partial"], whole["missing_shards"]) == (False, [])
        index = Client(url).index(sharded.name)
        np.testing.assert_array_equal(index.search(queries[:2])[1], whole["ids"])
        stats = json.loads(ask(url, "GET", f"{route}/stats")[1])
        (sharded / "shard-0001").rename(sharded / "elsewhere")  # so that it is not open again before all is asked
        os.kill(int(stats["shards"][1]["workers"][0].rpartition(":")[2]), signal.SIGKILL)
        partial = search()
        assert (partial["partial"], partial["missing_shards"]) == (True, ["shard-0001"])
        assert json.loads(ask(url, "GET", "/ready")[1]) == {"status": "partial"}
        with pytest.raises(ConnectionError, match=f"shard-0001 of {sharded.name} did not answer"):
            index.search(queries[:2])
        distances, ids, missing = index.search(queries[:2], return_missing=True)
        assert missing == ("shard-0001",)
        assert ids.tolist() == partial["ids"]
        npy = {"Content-Type": NPY, "Accept": NPY}
        _, body, headers = ask(url, "POST", f"{route}/search", pack(queries[:2]), npy)
        assert headers["Tenfold-Missing-Shards"] == "shard-0001"
        np.testing.assert_array_equal(unpack(body)[0], distances)
        metrics = ask(url, "GET", "/metrics")[1].decode()
        assert f'tenfold_partial_answers_total{{index="{sharded.name}"}} 4\n' in metrics
        assert f'tenfold_missing_shards{{index="{sharded.name}"}} 1\n' in metrics
        (sharded / "elsewhere").rename(sharded / "shard-0001")
        wait_until(lambda: json.loads(ask(url, "GET", "/ready")[1]) == {"status": "ready"})
        assert search() == whole
        assert command.stop() == 0


def test_a_machine_that_goes_away(small: Path, machines: Any, cluster: str) -> None:
    """With a replica on each of two, no answer is partial; with one, until what is lost is open on the other."""
    rows = make_vectors(3, 8, "uint8")
    with (
        ThreadPoolExecutor(1) as pool,
        ShardedIndex.open(small, ray=cluster, replicas=2) as twofold,
        ShardedIndex.open(small, ray=cluster) as onefold,
    ):
        whole, answers = twofold.search(rows, recall=1), iter(lambda: onefold.search(rows, recall=1).is_partial, None)
        partial = pool.submit(any, answers)  # searches until one of them is
        machines.remove_node(machines.worker_nodes.copy().pop(), allow_graceful=False)
        assert partial.result(600)
        assert twofold.search(rows, recall=1).missing == ()
        for index in (onefold, twofold):
            wait_until(lambda index=index: index.missing() == ())
            found = index.search(rows, recall=1)
            assert found.missing == ()
            np.testing.assert_array_equal(found.ids, whole.ids)


def _query(rows: np.ndarray, recall: float = 0.95) -> bytes:
    return json.dumps({"queries": rows.tolist(), "recall": recall}).encode()
