"""The classes for ann-benchmarks and big-ann-benchmarks do what their runners ask, in the order in which they ask it.

The drivers here follow the runners of the two projects call by call and check what those check; neither is needed.
"""

import importlib
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import Index
from tenfold.search.adapters import ann_benchmarks, big_ann

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
METRICS = {"euclidean": "l2", "angular": "cosine", "ip": "ip"}
BASE, QUERIES = make_vectors(2000, 12, "float32"), make_vectors(40, 12, "float32", seed=1)


def recall(found: Any, base: np.ndarray, queries: np.ndarray, distance: str, count: int) -> float:
    """Share of ids (rows of `base`) that are as near as the true one in the last place."""
    distances = numpy_distances(base, queries, METRICS[distance])
    limits = np.sort(distances, axis=1)[:, count - 1] + 1e-6
    hits = [(distances[row][ids] <= limits[row]).sum() for row, ids in enumerate(found)]
    return sum(hits) / (count * len(queries))


def drive_ann_benchmarks(algo: Any, distance: str, groups: list[list[Any]], count: int, batch: bool) -> list[Any]:
    """What ann-benchmarks' `run` and `run_individual_query` do; per group of query arguments, ids and attributes."""
    done = []
    try:
        if hasattr(algo, "supports_prepared_queries"):
            algo.supports_prepared_queries()
        before = algo.get_memory_usage()
        algo.fit(BASE)
        assert isinstance(algo.get_memory_usage() - before, float)
        for arguments in groups:
            algo.set_query_arguments(*arguments)
            assert not hasattr(algo, "prepare_query") and not hasattr(algo, "prepare_batch_query")
            if batch:
                algo.batch_query(QUERIES, count)
                found = list(algo.get_batch_results())
            else:
                found = [algo.query(query, count) for query in QUERIES]
            assert all(len(ids) == len(set(ids)) <= count for ids in found)
            attributes = {"name": str(algo), **algo.get_additional()}
            done.append(([[int(number) for number in ids] for ids in found], attributes))
    finally:
        algo.done()
    return done


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "angular"])
@pytest.mark.parametrize("io", ["memory", "buffered"])
def test_ann_benchmarks_run(distance: str, batch: bool, io: str) -> None:
    algo = ann_benchmarks.Tenfold(distance, {"io": io, "code_bytes": 6, "rows_per_list": 32})
    groups = [[0.8], [1.0]]
    rough, exact = drive_ann_benchmarks(algo, distance, groups, 10, batch)
    assert recall(exact[0], BASE, QUERIES, distance, 10) == 1
    assert recall(rough[0], BASE, QUERIES, distance, 10) >= 0.7
    assert exact[1]["dist_comps"] >= len(QUERIES) * len(BASE) > rough[1]["dist_comps"] >= len(QUERIES) * 10
    assert (rough[1]["pages_read"] > 0) == (io == "buffered")
    assert exact[1]["name"] == f"Tenfold(recall=1.0, io={io}, code_bytes=6, rows_per_list=32)"
    json.dumps([rough[1], exact[1]])  # what the runner stores


def test_ann_benchmarks_gets_fewer_results_where_there_are_fewer(uncalibrated: None) -> None:
    algo = ann_benchmarks.Tenfold("euclidean")
    algo.fit(BASE[:4])
    assert sorted(algo.query(QUERIES[0], 10)) == [0, 1, 2, 3]
    algo.batch_query(QUERIES, 10)
    assert [sorted(ids) for ids in algo.get_batch_results()] == len(QUERIES) * [[0, 1, 2, 3]]
    folder = algo._folder.path
    algo.done()
    assert not folder.exists()


@pytest.mark.parametrize("make", [ann_benchmarks.Tenfold, big_ann.Tenfold, big_ann.TenfoldStreaming])
def test_a_distance_that_is_not_measured_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="distance 'hamming' is none that Tenfold measures; choose euclidean, angular"):
        make("hamming")


def dataset(folder: Path, rows: np.ndarray, distance: str = "euclidean", **other: Any) -> SimpleNamespace:
    """A data set as big-ann-benchmarks has them, in a file without a suffix."""
    path = folder / "data_of_a_random_set"
    path.write_bytes(np.array(rows.shape, "<u4").tobytes() + rows.tobytes())
    answers = {"distance": distance, "search_type": "knn", "data_type": "dense", "short_name": f"Random-{len(rows)}"}
    methods = {name: lambda value=value: value for name, value in {**answers, **other}.items()}
    return SimpleNamespace(
        nb=len(rows), d=rows.shape[1], dtype=rows.dtype.name, get_dataset_fn=lambda: str(path),
        get_data_in_range=lambda start, end: np.memmap(path, rows.dtype, "r", 8, rows.shape)[start:end], **methods,
    )  # fmt: skip


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The registry of that project's data sets, which the adapter finds under its name, and an empty current folder."""
    module = ModuleType("benchmark.datasets")
    module.DATASETS = {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmark", ModuleType("benchmark"))
    monkeypatch.setitem(sys.modules, "benchmark.datasets", module)
    monkeypatch.chdir(tmp_path)
    return module.DATASETS  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_big_ann_run(distance: str, dtype: str, datasets: dict[str, Any], tmp_path: Path, uncalibrated: None) -> None:
    """Build or load, then query groups of arguments, as `run` and `BaseRunner` do."""
    base, queries = make_vectors(1000, 12, dtype), make_vectors(40, 12, dtype, seed=1)
    datasets["random-xs"] = lambda: dataset(tmp_path, base, distance)
    for attempt in range(2):
        algo = big_ann.Tenfold(distance, {"rows_per_list": 64, "io": "buffered"})
        try:
            before = algo.get_memory_usage()
            assert algo.load_index("random-xs") == (attempt == 1)
            if attempt == 0:
                algo.fit("random-xs")
            assert isinstance(algo.get_memory_usage() - before, float)
            folder, prefix, components = algo.index_files_to_store("random-xs")
            assert all(Path(f"{folder}/{prefix}{component}").is_file() for component in components)
            pages = []
            for arguments in ({"recall": 0.9}, {"recall": 1.0, "threads": 1}):
                algo.set_query_arguments(*[arguments])
                for _ in range(2):
                    algo.query(queries, 10)
                    results = algo.get_results()
                    assert results.shape == (len(queries), 10)
                assert recall(results, base, queries, distance, 10) == 1
                additional = algo.get_additional()
                assert additional["dist_comps"] >= 2 * len(queries) * len(base)
                pages.append(additional["mean_ssd_ios"])
            assert pages[0] > 0  # so few stay in memory for the second group
            assert str(algo) == "Tenfold(recall=1.0, threads=1, rows_per_list=64, io=buffered)"
        finally:
            algo.done()
    assert not big_ann.Tenfold(distance, {"rows_per_list": 32}).load_index("random-xs")


def test_big_ann_data_sets_that_are_not_for_tenfold(datasets: dict[str, Any], tmp_path: Path) -> None:
    datasets["ranges"] = lambda: dataset(tmp_path, BASE, search_type="range")
    with pytest.raises(InputError, match="ranges: is for range search in dense vectors; choose one for knn"):
        big_ann.Tenfold("euclidean").fit("ranges")
    datasets["other"] = lambda: SimpleNamespace(**{**vars(dataset(tmp_path, BASE)), "nb": 1999})
    with pytest.raises(InputError, match="holds 2,000 rows, other has 1,999; prepare it again"):
        big_ann.Tenfold("euclidean").fit("other")


@pytest.mark.parametrize("distance", METRICS)
def test_big_ann_streaming_run(distance: str, tmp_path: Path) -> None:
    """A runbook as `StreamingRunner` plays it; every search answers over the rows that are there by then."""
    ds = dataset(tmp_path, BASE, distance)
    runbook: list[dict[str, Any]] = [
        {"operation": "insert", "start": 0, "end": 1000},
        {"operation": "search"},
        {"operation": "delete", "start": 0, "end": 500},
        {"operation": "search"},
        {"operation": "insert", "start": 0, "end": 300},
        {"operation": "replace", "tags_start": 600, "tags_end": 700, "ids_start": 1500, "ids_end": 1600},
        {"operation": "search"},
    ]
    there: dict[int, np.ndarray] = {}
    algo = big_ann.TenfoldStreaming(distance, {"memory_budget": "256MB"})
    try:
        assert not algo.load_index("random-xs")
        algo.setup(ds.dtype, 1000, ds.d)
        algo.set_query_arguments({"recall": 1.0})
        for step in runbook:
            if step["operation"] == "search":
                algo.query(QUERIES, 10)
                numbers, rows = np.array(list(there)), np.array(list(there.values()))
                results = algo.get_results()
                assert results.shape == (len(QUERIES), 10)
                assert np.isin(results, numbers).all()
                position = {number: place for place, number in enumerate(there)}
                places = [[position[number] for number in ids] for ids in results.tolist()]
                assert recall(places, rows, QUERIES, distance, 10) == 1
            elif step["operation"] == "replace":
                tags = np.arange(step["tags_start"], step["tags_end"], dtype=np.uint32)
                algo.replace(ds.get_data_in_range(step["ids_start"], step["ids_end"]), tags)
                there.update(zip(tags.tolist(), BASE[step["ids_start"] : step["ids_end"]], strict=True))
            else:
                ids = np.arange(step["start"], step["end"], dtype=np.uint32)
                if step["operation"] == "insert":
                    algo.insert(ds.get_data_in_range(step["start"], step["end"]), ids)
                    there.update(zip(ids.tolist(), BASE[ids], strict=True))
                else:
                    algo.delete(ids)
                    there = {number: row for number, row in there.items() if number not in set(ids.tolist())}
    finally:
        algo.done()


def combinations(arguments: Any) -> list[Any]:
    """Both projects' rule: lists are multiplied, dictionaries too, and big-ann's text is JSON."""
    if isinstance(arguments, str):
        return list(json.loads(arguments))
    if isinstance(arguments, dict):
        return [dict(zip(arguments, chosen, strict=True)) for chosen in combinations(list(arguments.values()))]
    choices = (one if isinstance(one, list) else [one] for one in arguments)
    return [list(chosen) for chosen in itertools.product(*choices)]


def test_ann_benchmarks_configuration_fits_the_class(tmp_path: Path, uncalibrated: None) -> None:
    yaml = pytest.importorskip("yaml")
    folder = BENCHMARKS / "ann_benchmarks" / "tenfold"
    spec = importlib.util.spec_from_file_location("tenfold_of_ann_benchmarks", folder / "module.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (definition,) = yaml.safe_load((folder / "config.yml").read_text())["float"]["any"]
    assert definition["base_args"] == ["@metric"]
    for group in definition["run_groups"].values():
        for arguments in combinations([combinations(one) for one in group["arg_groups"]]):
            algo = getattr(module, definition["constructor"])("euclidean", *arguments)
            done = drive_ann_benchmarks(algo, "euclidean", combinations(group["query_args"]), 5, batch=True)
            assert len(done) == len(group["query_args"][0])


@pytest.mark.parametrize("name", ["disk.yaml", "streaming/config.yaml"])
def test_big_ann_configuration_fits_the_classes(
    name: str, datasets: dict[str, Any], tmp_path: Path, uncalibrated: None
) -> None:
    yaml = pytest.importorskip("yaml")
    datasets["random-xs"] = lambda: dataset(tmp_path, BASE)
    definition = yaml.safe_load((BENCHMARKS / "big_ann" / name).read_text())["any"]["tenfold"]
    assert definition["base-args"] == ["@metric"]
    constructor = getattr(importlib.import_module(definition["module"]), definition["constructor"])
    for group in definition["run-groups"].values():
        for arguments in combinations(group["args"]):
            algo = constructor("euclidean", arguments)
            if "streaming" in name:
                algo.setup("float32", 2000, 12)
                algo.insert(BASE, np.arange(2000, dtype=np.uint32))
            else:
                algo.fit("random-xs")
            for asked in combinations(group["query-args"]):
                algo.set_query_arguments(asked)
                algo.query(QUERIES, 10)
                assert algo.get_results().shape == (len(QUERIES), 10)
            algo.done()


def test_an_index_of_big_ann_opens_by_itself(datasets: dict[str, Any], tmp_path: Path, uncalibrated: None) -> None:
    datasets["random-xs"] = lambda: dataset(tmp_path, BASE)
    algo = big_ann.Tenfold("euclidean")
    algo.fit("random-xs")
    assert Index.open(algo.index_files_to_store("random-xs")[0]).rows == len(BASE)
