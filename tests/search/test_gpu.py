"""The scan on a device against the scan on the CPU, bit for bit; Triton's interpreter stands for the device."""

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors, run_python

from tenfold.core.errors import InputError
from tenfold.search import Index, gathering, gpu
from tenfold.search.calibration import Calibration, Tuning
from tenfold.search.commands import query
from tenfold.search.gathering import Gatherer

COMPILE = """
import re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tenfold.search import gpu_kernels as kernels

BYTES, WHOLE, LONG = ("codes", "table", "errors"), (
    "own_counts", "entry_counts", "replicas", "lists", "owners", "places"), (
    "first_blocks", "starts", "replica_starts", "keys")
SCALARS = {"count": "i32", "width": "i32"} | dict.fromkeys(
    ("shift_low", "shift_step", "scale_low", "scale_step"), "fp32")

def kind(name):
    for names, pointed in ((BYTES, "*u8"), (WHOLE, "*i32"), (LONG, "*i64")):
        if name in names:
            return pointed
    return SCALARS.get(name, "*fp32")

def machine_code(kernel, **constants):
    names = kernel.arg_names
    source = ASTSource(kernel, {name: "constexpr" if name in constants else kind(name) for name in names},
                       {(names.index(name),): value for name, value in constants.items()})
    made = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"enable_fp_fusion": False})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, file.name], capture_output=True, text=True, check=True).stdout
    assert "EXIT" in shown
    return made.asm["ptx"], shown

assert not kernels.INTERPRETED
for bits, width in ((0, 2), (3, 1)):
    ptx, code = machine_code(kernels._products, D=128, M=64, W=width, BITS=bits, SUBS=kernels._SUBS)
    assert not re.search(r"FFMA|DFMA", code) and "FMUL" in code, "products"
    ptx, _ = machine_code(kernels._scales, D=128, M=64, BITS=bits, LANES=kernels._LANES)
    assert "div.rn.f32" in ptx and not re.search(r"\\bfma|div[.](full|approx)", ptx), "scales"
ptx, _ = machine_code(kernels._bytes, M=64, SUBS=kernels._SUBS)
assert "div.rn.f32" in ptx and not re.search(r"\\bfma|div[.](full|approx)", ptx), "bytes"
_, code = machine_code(kernels._scan, M=64, ROWS=kernels.ROWS, PAIRS=kernels.PAIRS)
assert not re.search(r"FFMA|DFMA", code) and "FMUL" in code, "scan"
"""
PROBES = 5
LEVELS = {10: [(0.99, Tuning(PROBES, 60, -0.5, 1.5))]}  # no measured ones: they cost time and say nothing here


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    """The module of the kernels in Triton's interpreter; without torch or triton there is nothing to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read when triton is imported
        pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0 triton")
        pytest.importorskip("triton", reason="triton is not installed: pip install torch==2.13.0 triton")
        module = gpu._import_kernels()
        if not module.INTERPRETED:
            pytest.skip("triton was imported before, without its interpreter")
        patch.setattr(gpu, "_MOST_SCRATCH", 64 << 20)
        yield module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of small indexes, each built once."""
    root = tmp_path_factory.mktemp("gpu")

    def get(rows: int = 500, dim: int = 12, dtype: str = "uint8", rows_per_list: int = 24, **options: Any) -> Path:
        path = root / "-".join(map(str, (rows, dim, dtype, rows_per_list, *options.values())))
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("tenfold.search.index.calibrate", lambda *arguments: Calibration(LEVELS, LEVELS))
                Index.build(make_vectors(rows, dim, dtype), path, rows_per_list=rows_per_list, **options)
        return path

    return get


def in_order(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[Any, ...]]:
    """Entries of each query by estimate, position, error: a row and its replica may tie in the first two."""
    positions, estimates, errors = found
    order = [np.lexsort(columns) for columns in zip(errors, positions, estimates, strict=True)]
    return [tuple(values[row][o].tolist() for values in found) for row, o in enumerate(order)]


def check_scan(index: Index, device: Any, queries: np.ndarray, probes: int, candidates: int) -> None:
    space = index.space.queries(queries).space
    found = device.scan(space, probes, candidates, 1)
    assert [part.dtype for part in found] == [np.uint32, np.float32, np.uint8]
    assert {part.shape for part in found} == {(len(queries), candidates)}
    # Of the CPU's candidates any may be the last among equal estimates; its list of all entries says which it is here.
    everything = index.engine.scan(space, probes, max(candidates, index.rows * 8), 1)
    expected = [tuple(values[:candidates] for values in row) for row in in_order(everything)]
    assert in_order(found) == expected
    cpu = index.engine.scan(space, probes, candidates, 1)
    np.testing.assert_array_equal(found[1].view(np.uint32), cpu[1].view(np.uint32))
    surely = cpu[1] < cpu[1][:, -1:]
    np.testing.assert_array_equal(found[0][surely], cpu[0][surely])


KINDS: list[dict[str, Any]] = [
    {"dim": 12, "dtype": "uint8", "metric": "l2", "codec": "pq", "code_bytes": 4},
    {"dim": 13, "dtype": "float32", "metric": "l2", "codec": "pq", "code_bytes": 3},
    {"dim": 7, "dtype": "float32", "metric": "ip", "codec": "pq", "code_bytes": 16},
    {"dim": 80, "dtype": "int8", "metric": "cosine", "codec": "pq", "code_bytes": 20},
    {
        "dim": 80,
        "dtype": "uint8",
        "metric": "l2",
        "codec": "pq",
        "code_bytes": 40,
    },  # in steps of PAIRS bytes and a rest
    {"dim": 16, "dtype": "float32", "metric": "l2", "codec": "rabitq", "code_bytes": 2},
    {"dim": 16, "dtype": "float32", "metric": "l2", "codec": "rabitq", "code_bytes": 2, "second_lists": True},
    {"dim": 13, "dtype": "float16", "metric": "cosine", "codec": "rabitq", "code_bytes": 3},
    {"dim": 13, "dtype": "uint8", "metric": "ip", "codec": "rabitq", "code_bytes": 5},
    {"dim": 16, "dtype": "int8", "metric": "l2", "codec": "rabitq", "code_bytes": 8},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_a_scan_is_the_cpus_bit_for_bit(kind: dict[str, Any], folder: Callable[..., Path], kernels: Any) -> None:
    index = Index.open(folder(**kind), device="cuda")
    queries = make_vectors(7, kind["dim"], kind["dtype"], seed=3)
    for candidates in (1, 40):
        check_scan(index, index.device, queries, PROBES, candidates)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_kinds_cover_every_width_of_rabitq(bits: int, folder: Callable[..., Path]) -> None:
    kinds = [kind for kind in KINDS if kind["codec"] == "rabitq"]
    indexes = [Index.open(folder(**kind)) for kind in kinds]
    assert bits in [index._manifest["codec_numbers"]["bits"] for index in indexes]
    assert any(index.stats()["entries_per_row"] > 1 for index in indexes)  # there are replicas


def test_a_kind_takes_the_scan_several_steps(kernels: Any) -> None:
    assert any(kind["code_bytes"] > kernels.PAIRS and kind["code_bytes"] % kernels.PAIRS for kind in KINDS)


def test_a_scan_of_nothing_is_empty(folder: Callable[..., Path], kernels: Any) -> None:
    device: Any = Index.open(folder(), device="cuda").device
    found = device.scan(np.empty((0, 12), np.float32), PROBES, 7, 1)
    assert [(part.shape, part.dtype) for part in found] == [((0, 7), kind) for kind in ("u4", "f4", "u1")]


def test_a_scan_of_all_lists_for_more_than_there_is(folder: Callable[..., Path], kernels: Any) -> None:
    index = Index.open(folder(rows=200), device="cuda")
    check_scan(index, index.device, make_vectors(3, 12, "uint8", seed=4), index.lists, 500)
    check_scan(index, index.device, make_vectors(3, 12, "uint8", seed=4), 1, 500)


def test_lists_without_entries_and_routes_without_lists(folder: Callable[..., Path], kernels: Any) -> None:
    parts = Index.open(folder(rows=200))._list_parts(kernels)
    lists = kernels.DeviceLists(parts, "cpu", 4 << 20, 1, share=1, shares=2)  # even lists are empty in this share
    space, starts = np.zeros((4, parts.dim), np.float32), np.array([0, 1, 1, 3, 6])
    numbers = np.array([0, 0, 1, 2, 0, 4], np.int32)
    queries, entries = np.repeat(np.arange(4), np.diff(starts)).astype(np.int32), parts.entries_L[numbers]
    places = np.append(0, np.cumsum(-(-entries // 32) * 32))
    slots = np.diff(places[starts])
    places = (places[:-1] - places[starts[queries]]).astype(np.int32)
    scan = gpu._Scan(space, starts, slots, np.zeros(6, np.float32), numbers, queries, places, 1000)
    keys, errors = lists.launch(0, scan).collect()
    assert ((keys != kernels.NOTHING).sum(axis=1) == [0, 0, parts.entries_L[1], 0]).all()
    assert keys.shape == errors.shape
    assert (lists.launch(0, scan.part(3, 4)).collect()[0] == kernels.NOTHING).all()
    assert lists.launch(0, scan.part(1, 2)).collect()[0].shape == (1, 0)


def test_an_index_without_rows(folder: Callable[..., Path], kernels: Any) -> None:
    index = Index.open(folder(rows=0), device="cuda")
    distances, ids = index.search(make_vectors(2, 12, "uint8"), 3, probes=1, candidates=5)
    assert (ids == -1).all() and np.isposinf(distances).all()


@pytest.mark.parametrize("rerank", ["bound", "paper"])
@pytest.mark.parametrize(
    ("batch", "fitting", "launched"),
    [(4096, 4096, [11]), (4096, 3, [3, 3, 3, 2]), (4, 4096, [4, 4, 3]), (4, 3, [3, 1, 3, 1, 3])],
    ids=["gathered", "gathered-in-pieces", "pipeline", "pipeline-in-pieces"],
)
def test_a_search_finds_what_the_cpu_finds(
    rerank: Any,
    batch: int,
    fitting: int,
    launched: list[int],
    folder: Callable[..., Path],
    kernels: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "_BATCH", batch)
    monkeypatch.setattr(gpu, "_FEW", 256 if batch > 256 else 1)
    monkeypatch.setattr(gpu.DeviceSearch, "_batch", lambda *given: fitting)
    scans: list[int] = []
    launch = kernels.DeviceLists.launch
    index, cpu = Index.open(folder(), device="cuda"), Index.open(folder())
    monkeypatch.setattr(
        kernels.DeviceLists, "launch", lambda *given: scans.append(len(given[2].space_QD)) or launch(*given)
    )
    queries = make_vectors(11, 12, "uint8", seed=6)
    expected, found = (one.search(queries, 5, rerank=rerank, return_stats=True) for one in (cpu, index))
    assert scans == launched
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    for name in ("candidates", "rows_scored", "codes_scanned", "rounds"):
        np.testing.assert_array_equal(getattr(found[2], name), getattr(expected[2], name), err_msg=name)


def test_a_search_of_everything_is_exact(folder: Callable[..., Path], kernels: Any) -> None:
    index, queries = Index.open(folder(), device="cuda"), make_vectors(3, 12, "uint8", seed=7)
    np.testing.assert_array_equal(index.search(queries, recall=1)[1], Index.open(folder()).search(queries, recall=1)[1])


def test_two_devices_find_what_one_finds(
    folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.open(folder())
    parts = index._list_parts(kernels)
    monkeypatch.setattr(gpu, "_choose", lambda *given: (["cpu", "cpu"], 8 << 20))
    both = gpu.DeviceSearch(kernels, parts, ["cpu"], index.engine)
    assert both.stats()["device"] == "cpu, cpu"
    codes = sum(int(share._codes.numel()) for share in both._shares)
    assert codes == parts.blocks.nbytes  # each block once
    for candidates in (3, 70):
        check_scan(index, both, make_vectors(5, 12, "uint8", seed=8), PROBES, candidates)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_without_fused_operations(capability: int, kernels: Any, tmp_path: Path) -> None:
    places = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = run_python(COMPILE, capability, env=places)
    assert done.returncode == 0, done.stderr[-2000:]


# --- many threads -------------------------------------------------------------------------------------------


def test_threads_that_ask_at_once_get_their_own_answers(folder: Callable[..., Path], kernels: Any) -> None:
    index, cpu = Index.open(folder(), device="cuda"), Index.open(folder())
    queries = make_vectors(16, 12, "uint8", seed=9)
    probes = [3, 4]  # of two kinds

    def ask(number: int) -> np.ndarray:
        return index.search(queries[number : number + 1], 5, probes=probes[number % 2], candidates=30, threads=1)[1]

    before = set(threading.enumerate())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(len(queries))))
    assert set(threading.enumerate()) <= before
    for number, ids in enumerate(found):
        expected = cpu.search(queries[number : number + 1], 5, probes=probes[number % 2], candidates=30)[1]
        np.testing.assert_array_equal(ids, expected)
    assert index.device is not None and index.device._flights.qsize() == 2


def run_together(gatherer: Gatherer[int, int], items: list[int]) -> list[Any]:
    """Every item asked for by a thread of its own, all at once; answers or errors."""
    gate = threading.Barrier(len(items))

    def ask(item: int) -> Any:
        gatherer.enter()
        try:
            gate.wait()
            return gatherer.ask(item, kind=None, size=1)
        except ValueError as error:
            return error
        finally:
            gatherer.leave()

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(ask, items))


def test_small_requests_are_gathered() -> None:
    groups: list[int] = []

    def answer(items: list[int]) -> list[int]:
        groups.append(len(items))
        return [item * item for item in items]

    assert run_together(Gatherer(answer, most=4, wait=5.0), list(range(8))) == [item * item for item in range(8)]
    assert sum(groups) == 8 and max(groups) <= 4 and len(groups) < 8


def test_an_error_reaches_only_its_culprit() -> None:
    def answer(items: list[int]) -> list[int]:
        if 5 in items:
            raise ValueError("5 cannot be had")
        return items

    found = run_together(Gatherer(answer, most=8, wait=5.0), list(range(8)))
    assert [item for item, answer in enumerate(found) if isinstance(answer, ValueError)] == [5]
    assert [answer for answer in found if not isinstance(answer, ValueError)] == [0, 1, 2, 3, 4, 6, 7]


def test_a_single_caller_does_not_wait() -> None:
    gatherer: Gatherer[int, int] = Gatherer(lambda items: items, wait=3600.0)
    assert run_together(gatherer, [1]) == [1]


def test_after_an_interrupt_the_next_one_leads() -> None:
    calls: list[list[int]] = []

    def answer(items: list[int]) -> list[int]:
        calls.append(items)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return items

    gatherer: Gatherer[int, int] = Gatherer(answer)
    with pytest.raises(KeyboardInterrupt):
        gatherer.ask(1, None, 1)
    assert gatherer.ask(2, None, 1) == 2


class Interrupted:
    """A lock that is waited for in vain."""

    def __init__(self) -> None:
        self.taken = False

    def acquire(self) -> None:
        if self.taken:
            raise KeyboardInterrupt
        self.taken = True

    def release(self) -> None:
        self.taken = False


def interrupt(*given: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["as it queues", "as it waits"])
def test_who_is_interrupted_keeps_nobody_waiting(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(items: list[int]) -> list[int]:
        begun.set()
        assert go_on.wait(600)
        return items

    gatherer: Gatherer[int, int] = Gatherer(answer)
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(gatherer.ask, 1, None, 1)
        assert begun.wait(600)
        with monkeypatch.context() as patch:
            if when == "as it queues":
                patch.setattr(gatherer._more, "notify", interrupt)
            else:
                patch.setattr(gathering, "_Request", partial(gathering._Request, called=Interrupted()))
            with pytest.raises(KeyboardInterrupt):
                gatherer.ask(2, "another kind", 1)
        after = pool.submit(gatherer.ask, 3, None, 1)
        go_on.set()
        assert (leader.result(600), after.result(600)) == (1, 3)
    assert gatherer.ask(4, None, 1) == 4


@pytest.mark.parametrize("failing", [["first"], ["second"], ["first", "second"]], ids=" and ".join)
def test_a_flight_that_fails_waits_for_all_devices(failing: list[str]) -> None:
    """Its scratch is given back whatever they say: the next flight gets it and does not wait for ever."""
    waited: list[str] = []

    class Ticket:
        def __init__(self, name: str) -> None:
            self.name = name

        def collect(self) -> None:
            waited.append(self.name)
            if self.name in failing:
                raise RuntimeError(f"the {self.name} device is lost")

    class Share:
        def __init__(self, name: str) -> None:
            self.launch = lambda flight, scan: Ticket(name)

    free: SimpleQueue[int] = SimpleQueue()
    free.put(0)
    flights: list[gpu._Flight] = []

    def launch() -> None:
        flights.append(gpu._Flight(free, [Share("first"), Share("second")], None))  # type: ignore[arg-type]

    for number in range(2):
        launching = threading.Thread(target=launch, daemon=True)
        launching.start()
        launching.join(600)
        assert len(flights) == number + 1, "there is no scratch left"
        with pytest.raises(RuntimeError, match=f"the {failing[0]} device is lost"):
            flights[number].land()
        assert flights[number].land() == []  # as a search does that ends with an error
    assert waited == 2 * ["first", "second"] and free.get_nowait() == 0 and free.empty()


def test_an_error_while_re_ranking_frees_the_scratch(
    folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_BATCH", 2)
    index = Index.open(folder(), device="cuda")
    with pytest.raises(ValueError, match="rerank"):
        index.search_tuned(make_vectors(6, 12, "uint8"), 5, Tuning(1, 9, -0.3), rerank="nonsense")  # type: ignore[arg-type]
    assert index.device is not None and index.device._flights.qsize() == 2


# --- what is missing ----------------------------------------------------------------------------------------


def test_a_device_without_room_is_refused_with_numbers(
    folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "free_bytes", lambda device: 1 << 20)
    with pytest.raises(InputError, match=r"codes and lists take 0\.00 GB and .* cpu has 0\.00 GB free; .*code_bytes"):
        Index.open(folder(), device="cuda")


def test_codes_go_to_one_device_if_they_can_and_to_as_few_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_MOST_SCRATCH", 1 << 30)
    free = {"cuda:0": 8 << 30, "cuda:1": 6 << 30}
    assert gpu._choose(3 << 30, 1 << 30, free)[0] == ["cuda:0"]
    assert gpu._choose(9 << 30, 0, free) == (
        ["cuda:0", "cuda:1"],
        384 << 20,
    )  # a quarter of what is left on the smaller
    busy = {"cuda:0": 1 << 20, "cuda:1": 6 << 30, "cuda:2": 8 << 30}  # somebody else has the first one
    assert gpu._choose(3 << 30, 1 << 30, busy)[0] == ["cuda:2"]
    assert gpu._choose(9 << 30, 0, busy)[0] == ["cuda:2", "cuda:1"]
    with pytest.raises(InputError, match=r"take 14\.00 GB .* cuda:0 has 8\.00 GB free, cuda:1 has 6\.00 GB free"):
        gpu._choose(13 << 30, 1 << 30, free)


def test_a_query_too_large_for_the_scratch(
    folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, queries = Index.open(folder(), device="cuda"), make_vectors(2, 12, "uint8")
    device: Any = index.device
    monkeypatch.setattr(device._shares[0], "scratch_bytes", 2000)
    with pytest.raises(InputError, match=r"one query with 5 probes and 50 candidates takes .*device='cpu'"):
        index.search(queries, 5, probes=5, candidates=50)
    device._forced = False  # as with device="auto": the CPU answers
    expected = Index.open(folder()).search(queries, 5, probes=5, candidates=50)[1]
    np.testing.assert_array_equal(index.search(queries, 5, probes=5, candidates=50)[1], expected)


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_benchmark_leaves_out_what_has_no_time_left(
    kernels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncalibrated: None
) -> None:
    """Steps that took too long at the size before are named, not run; what was measured is written all the same."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("search_gpu")
    monkeypatch.setattr(sys, "argv", ["search_gpu.py", "--out", str(tmp_path), "--interpret"])
    options = benchmark.parse()
    slow = {"scan": 1e9, "truth": 1e9, "callers": 1e9, "kernels": 1e9, "shapes": 1e9, "same": 0.0, "index": 0.0}
    before = {"rows": 10, "queries": 1, "data": "", "lists": 1, "code_bytes": 1, "entries_per_row": 1.0}
    before |= {"device": "cpu", "device_bytes": 1, "seconds": slow, "left_out": []}
    results = {"machine": benchmark.machine.describe(), "versions": {}, "date": "", "sizes": [before]}
    benchmark.measure(600, options, results)
    size = results["sizes"][1]
    left_out = {"truth", "scan", "search", "callers", "kernels", "peers", "shapes"}
    assert set(size["left_out"]) == left_out
    assert size["same"]["estimates_differ"] == size["same"]["ids_differ"] == 0 < size["same"]["compared"]
    assert json.loads((tmp_path / "search_gpu.json").read_text())["sizes"][1] == size
    page = (tmp_path / "search_gpu.md").read_text()
    assert "estimates_differ 0" in page and f"Left out, because the time was up: {', '.join(size['left_out'])}" in page


def test_the_benchmark_names_the_size_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that fails does not hide that the one before was measured and written."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("search_gpu")

    def measure(rows: int, options: Any, results: dict[str, Any]) -> None:
        if rows == 3000:
            raise InputError("no room on the card")
        results["sizes"].append({"rows": rows, "same": {}})

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["search_gpu.py", "--out", str(tmp_path), "--rows", "1500", "3000"])
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    page = tmp_path / "search_gpu.md"
    assert str(stopped.value) == f"3,000 rows: no room on the card; what was measured of 1,500 is in {page}"


def test_the_benchmark_takes_cuvs_for_any_cuda(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version comes from the module: distributions are called after CUDA's version, cuvs-cu12 or another."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark, torch = importlib.import_module("search_gpu"), importlib.import_module("torch")
    cagra = SimpleNamespace(IndexParams=object, SearchParams=lambda itopk_size: itopk_size, build=lambda *given: None)
    monkeypatch.setitem(sys.modules, "cuvs", SimpleNamespace(__version__="26.10.00"))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", SimpleNamespace(cagra=cagra))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    vectors = make_vectors(4, 3, "uint8")
    assert next(benchmark.cuvs_settings(vectors, vectors))[0] == "cuVS 26.10.00 CAGRA itopk 16"


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_missing_packages_are_named(package: str, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tenfold.search.gpu_kernels", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # makes importing it fail
    if package == "triton":
        pytest.importorskip("torch", reason="torch is not installed: it would be the one missed first")
    with pytest.raises(InputError, match=rf"needs torch and triton: .*{package}.*tenfold\[gpu\]"):
        Index.open(folder(), device="cuda")
    monkeypatch.setattr(gpu, "_driver_is_there", lambda: True)
    assert Index.open(folder(), device="auto").stats()["device"] == "cpu"


def test_no_gpu_is_said(folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "devices", list)
    with pytest.raises(InputError, match="finds no NVIDIA GPU"):
        Index.open(folder(), device="cuda")
    monkeypatch.setattr(gpu, "_driver_is_there", lambda: True)
    assert Index.open(folder(), device="auto").stats()["device"] == "cpu"


@pytest.mark.parametrize("step", ["launch", "_upload"])
def test_a_device_that_fails_when_it_is_tried_is_said(
    step: str, folder: Callable[..., Path], kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels.DeviceLists, step, refuse)
    with pytest.raises(InputError, match="the scan does not run on cpu: Failed to find C compiler"):
        Index.open(folder(), device="cuda")


def test_an_unknown_device_is_named(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'tpu' is not known"):
        Index.open(folder(), device="tpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device 'tpu' is not known"):
        Index.build(make_vectors(99, 4, "uint8"), tmp_path / "new", device="tpu")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("uncalibrated", "kernels")
def test_a_build_opens_on_a_device(tmp_path: Path) -> None:
    assert Index.build(make_vectors(99, 4, "uint8"), tmp_path / "new", device="cuda").device is not None
    assert Index.open(tmp_path / "new", device="auto").device is None  # the interpreter is no GPU


def test_search_alone_imports_no_framework(folder: Callable[..., Path]) -> None:
    code = (
        "import sys, tenfold.cli, tenfold.search.commands; from tenfold.search import Index;"
        f"Index.open({str(folder())!r}, device='cpu'); sys.exit(bool({{'torch', 'triton'}} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0


def test_the_command_takes_a_device(
    folder: Callable[..., Path], kernels: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "q.npy", make_vectors(2, 12, "uint8"))
    printed = []
    for device in ("cpu", "cuda"):
        query(folder(), tmp_path / "q.npy", k=3, probes=3, candidates=20, device=device)  # type: ignore[arg-type]
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].count("\n") == 2
