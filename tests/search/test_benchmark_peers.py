"""What the benchmark beside other libraries makes of its measurements; the libraries here are made up."""

import importlib
import itertools
import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["tenfold", "tenfold-memory", "hnswlib", "faiss"]
P99 = {"tenfold-memory": (300.0, 100.0, 200.0), "hnswlib": (400.0, 900.0, 50.0)}


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("search")


class MadeUp(AbstractContextManager["MadeUp"]):
    """A library whose recall rises along its grid; `P99` gives the p99 of its rounds."""

    versions = {"version": "1", "numpy": "2", "python": "3"}  # noqa: RUF012

    def __init__(self, peer: Any, work: Path) -> None:
        self.peer = peer
        self.p99 = defaultdict(lambda: itertools.cycle(P99.get(peer.name, (100.0,))))

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        return {"seconds": 0.25, "pages": 8.0, "rss_growth": 1000}

    def batch(self, setting: dict[str, Any], queries: int) -> tuple[dict[str, Any], float]:
        cost = {"qps": 1000.0, "cpu_us": 1.0, "pages": 2.0, "asked": 2.0, "own_pages": 2.0}
        step = self.peer.grid.index(setting[self.peer.axis])
        return cost | {"rss_growth": 1000, "peak_rss_growth": 1000}, (step + 1) / len(self.peer.grid)

    def single(self, setting: dict[str, Any], queries: int) -> dict[str, Any]:
        return {"p50_us": 50.0, "p99_us": next(self.p99[str(setting)]), "pages": 3.0, "asked": 3.0}


@pytest.fixture
def run(search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that measures made-up libraries and returns the results, and which folders were dropped."""
    dropped: list[Path] = []
    monkeypatch.setattr(search.measuring, "Process", MadeUp)
    monkeypatch.setattr(search.measuring, "drop_from_page_cache", dropped.append)
    monkeypatch.setattr(search, "probe_disk", lambda *given: [])
    vectors = np.zeros((100, 4), np.uint8)
    work = SimpleNamespace(
        name="made up", metric="l2", base=vectors, queries=vectors, query_path=tmp_path, recall=lambda ids: ids
    )
    cost = {"disk_bytes": 1, "seconds": 1.0, "cpu_seconds": 1.0, "peak_rss_growth": 1}
    store = SimpleNamespace(work=tmp_path, workload=work, folder=lambda peer: tmp_path, cost=lambda peer: cost)

    def measure(failures: list[str]) -> tuple[dict[str, Any], list[Path]]:
        monkeypatch.setattr(sys, "argv", ["search.py", "--data", str(tmp_path), "--repeats", "3", "--peers", *NAMES])
        options = search.parse()
        return search.measure_all(search.chosen(options, work), store, options, failures), dropped

    return measure


def test_single_queries_are_measured_in_every_round(search: ModuleType, run: Any) -> None:
    """The page has the median of p99 over the rounds with the smallest and the largest; ratios are of medians."""
    results, _ = run([])
    at = results["peers"]["tenfold-memory"]["targets"]["0.95"]
    assert at["p99_us"] == [300, 100, 200] and at["p50_us"] == [50] * 3 and len(at["qps"]) == 3
    page = search.report.markdown(results, {})
    assert "| 200 (100..300) |" in page
    assert "| 400 (50..900) |" in page
    (ratio,) = (
        line
        for line in page.splitlines()
        if line.startswith("| tenfold, vectors in memory | hnswlib") and line.count(" / ") > 5
    )
    assert ratio.split(" | ")[4] == "2.00 / 2.00 / 2.00"


@pytest.mark.parametrize("few", [0.5, 2.0], ids=["easier than all", "harder than all"])
def test_a_setting_tuned_on_some_queries_is_moved_to_where_all_reach_the_recall(
    few: float, search: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways along the grid, and to nothing where the grid ends below the recall."""
    peer = next(peer for peer in search.catalogue(search.Kind()) if peer.name == "diskann")
    measuring = importlib.import_module("search_peers.measuring")
    contestant = measuring.Contestant(peer, MadeUp(peer, Path()), {"rss_growth": 0})
    queries = np.zeros((peer.batch_queries, 4), np.uint8)
    reached = 0.8  # of all queries, at the end of the grid
    missed = {peer.tuning_queries: few * (1 - reached), peer.batch_queries: 1 - reached}

    def batch(setting: dict[str, Any], count: int) -> tuple[dict[str, Any], float]:
        cost, step = MadeUp.batch(contestant.process, setting, count)
        return cost, step * (1 - missed[count])

    monkeypatch.setattr(contestant.process, "batch", batch)
    contestant.tune(SimpleNamespace(queries=queries, recall=lambda ids: ids), [0.3, 0.55, 0.85])
    steps = [choice and choice.step for choice in contestant.choices.values()]
    last = len(peer.grid)
    assert steps == [
        *(next(step for step in range(last) if (step + 1) / last * reached >= r) for r in (0.3, 0.55)),
        None,
    ]


def test_a_library_stands_beside_an_index_of_its_memory(search: ModuleType) -> None:
    """Of those from disk, or in memory, the largest of at most a tenth more, or the smallest; the table says which."""
    tables = importlib.import_module("search_peers.tables")
    disk = {"tenfold": 64, "tenfold-small": 42, "tenfold-large": 104, "39": 39, "30": 30, "94": 94, "107": 107}
    memory = {"tenfold-memory": 250, "tenfold-memory-second": 265, "m150": 150, "m240": 240, "m241": 241}
    rows = {
        name: ({"title": name, "on_disk": name in disk, "rss_growth": size}, {"pages": 1.0})
        for name, size in (disk | memory).items()
    }
    columns = [tables.Column("pages", lambda peer, part: part["pages"])]
    lines = [line.split(" | ")[:2] for line in tables.ratios([rows], columns).splitlines()[2:]]
    pairs = {other: ours.removeprefix("| ") for ours, other in lines}
    assert pairs == {
        "30": "tenfold-small", "39": "tenfold-small", "94": "tenfold", "107": "tenfold-large",
        "m150": "tenfold-memory", "m240": "tenfold-memory", "m241": "tenfold-memory-second",
    }  # fmt: skip


def test_a_library_that_died_ends_quietly(tmp_path: Path, search: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its death is a PeerError for the order it did not take; ending it afterwards is no error of its own."""
    process = importlib.import_module("search_peers.process")
    monkeypatch.setattr(process, "interpreter", lambda *given: sys.executable)
    peer = replace(
        next(peer for peer in search.catalogue(search.Kind()) if peer.name == "tenfold"), distribution="numpy"
    )
    with process.Process(peer, tmp_path) as library:
        library._process.kill()
        library._process.wait()
        with pytest.raises(search.PeerError, match="was ended by SIGKILL"):
            library.order("batch")


def test_cold_is_measured_at_every_recall(search: ModuleType, run: Any) -> None:
    """Opening, single queries and a batch, each after the files were dropped from memory, for each library."""
    results, dropped = run([])
    assert len(dropped) == 3 * len(NAMES) * len(search.TARGETS)
    for peer, target in itertools.product(results["peers"].values(), ("0.90", "0.95", "0.99")):
        assert {"first_answer_seconds", "p50_us", "p99_us", "qps"} <= peer["targets"][target]["cold"].keys()
    cold = search.report.markdown(results, {}).partition("## Cold")[2].partition("## Ratios")[0]
    assert cold.count("| tenfold | 0.250 |") == len(search.TARGETS)


def test_the_page_says_what_was_left_out_and_what_it_came_from(search: ModuleType, run: Any) -> None:
    """Libraries nobody asked for, those that failed with the reason, and the state of the source."""
    results, _ = run(["not built: faiss: pip cannot install faiss-cpu==1.15.1"])
    page = search.report.markdown(results | {"commit": "abc1234-dirty"}, {})
    (line,) = (line for line in page.splitlines() if line.startswith("- Not asked for in this run: "))
    asked = line.removeprefix("- Not asked for in this run: ").removesuffix(".").split(", ")
    assert {*asked, *NAMES} == set(search.names()) - {"tenfold-memory-second"} and not {*asked} & {*NAMES}
    assert "- Incomplete, not built: faiss: pip cannot install faiss-cpu==1.15.1\n" in page
    assert "git abc1234-dirty" in page


def test_a_library_that_cannot_be_installed_is_named(search: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    """What pip says names packages only, and two libraries may need the same ones."""
    process = importlib.import_module("search_peers.process")

    def refuse(*given: object) -> str:
        raise RuntimeError("pip cannot install faiss-cpu==1.15.1")

    monkeypatch.setattr(process, "interpreter", refuse)
    peer = next(peer for peer in search.catalogue(search.Kind()) if peer.name == "faiss-hnsw")
    with pytest.raises(search.PeerError, match=r"^faiss-hnsw: pip cannot install faiss-cpu==1\.15\.1$"):
        process.Process(peer, tmp_path)


def test_values_at_the_edge_of_a_grid_are_named(search: ModuleType) -> None:
    """The page marks what was chosen at an edge; a library with one value for a parameter has none there."""
    peer = search.Peer(
        name="some", title="some", adapter="", distribution="", requirements=(), axis="nprobe", grid=(1, 2, 4),
        families=({"k": 10}, {"k": 4}, {"k": 25}),
    )  # fmt: skip
    assert peer.edges(0, 1) == []
    assert peer.edges(1, 1) == ["k"]
    assert peer.edges(2, 0) == ["k", "nprobe"]


def test_every_configuration_is_drawn(search: ModuleType, tmp_path: Path) -> None:
    """There are markers for as many configurations of one library as the catalogue has."""
    trials = [{"recall": 0.9, "qps": 10.0, "pages": 1.0}]
    peers = {peer.name: {"on_disk": peer.on_disk, "trials": trials} for peer in search.catalogue(search.Kind())}
    drawings = search.plots.draw({"peers": peers}, tmp_path / "page.md")
    text = drawings["Queries per second at each recall"].read_text()
    assert all(f">{name}</text>" in text for name in peers)


def test_a_page_is_written_to_docs_only_when_asked(
    search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out the page lies in the work folder, called as the data."""
    given = ["search.py", "--data", str(tmp_path / "text"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", given)
    assert search.parse().out == tmp_path / "work" / "text.md"
    monkeypatch.setattr(sys, "argv", [*given, "--out", "docs/page.md"])
    assert search.parse().out == Path("docs/page.md")


def test_a_library_ends_with_the_harness() -> None:
    """A killed harness leaves no library behind, even where the library does not notice that nobody gives orders."""
    mine, orders = os.pipe()
    harness = """
        import signal, subprocess, sys
        subprocess.Popen([sys.executable, "-m", "search_peers.worker", "ours"], stdin=int(sys.argv[1]))
        signal.pause()
    """
    found = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(harness), str(mine)],
        stdout=subprocess.PIPE, text=True, pass_fds=[mine], env=os.environ | {"PYTHONPATH": os.pathsep.join(found)},
    )  # fmt: skip
    assert process.stdout
    try:
        os.write(orders, b'{"do": "hello", "distribution": "numpy"}\n')
        assert "numpy" in process.stdout.readline()
    finally:
        process.kill()
        left = process.communicate(timeout=600)[0]  # ends with the library, which holds the other end
        os.close(mine)
        os.close(orders)
    assert left == ""
