"""The verbs of search, called as the command line calls them: what they pass on, print and refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from oracles import make_vectors

from tenfold.cli import main
from tenfold.search import Index
from tenfold.search.manifest import read_manifest, write_manifest

SMALL = (400, 24, "uint8", "l2", "pq", 30)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """Five of them for an index of `SMALL`."""
    np.save(tmp_path / "queries.npy", make_vectors(5, 24, "uint8", seed=1))
    return tmp_path / "queries.npy"


@pytest.mark.parametrize(("option", "metric"), [([], "cosine"), (["--metric", "l2"], "l2")])
def test_build_takes_the_metric_from_the_file(
    option: list[str], metric: str, tmp_path: Path, uncalibrated: None
) -> None:
    """Which ann-benchmarks' HDF5 names; an option goes before it."""
    with h5py.File(tmp_path / "base.hdf5", "w") as file:
        file["train"], file.attrs["distance"] = make_vectors(50, 8, "float32"), "angular"
    assert main(["search", "build", str(tmp_path / "base.hdf5"), str(tmp_path / "index"), *option]) == 0
    assert Index.open(tmp_path / "index").metric == metric


def test_an_interrupted_build_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tenfold.search.index.calibrate", interrupted)
    np.save(tmp_path / "base.npy", make_vectors(50, 8, "uint8"))
    assert main(["search", "build", str(tmp_path / "base.npy"), str(tmp_path / "index")]) == 130
    line = "tenfold: interrupted; the same command goes on behind the last finished phase\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("verb", ["query", "evaluate"])
def test_more_results_than_vectors(
    verb: str, queries: Path, index_cache: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Are all vectors, without memory for those that do not exist."""
    arguments = ["search", verb, str(index_cache(*SMALL)), str(queries), "--k", str(1 << 40), "--recall", "1", "--json"]
    assert main(arguments) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if verb == "evaluate":
        assert (answers[0]["k"], answers[0]["recall"]) == (1 << 40, 1)
    else:
        assert [sorted(answer["ids"]) for answer in answers] == [list(range(400))] * 5


def test_evaluate_takes_a_rule_and_a_truth_of_all_rows(
    queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], uncalibrated: None
) -> None:
    """Fewer rows than k: so many true neighbours suffice."""
    index = Index.build(make_vectors(7, 24, "uint8"), tmp_path / "index")
    np.save(tmp_path / "truth.npy", index.search(np.load(queries), 7)[1])
    arguments = [str(tmp_path / "index"), str(queries), str(tmp_path / "truth.npy"), "--rerank", "paper", "--json"]
    assert main(["search", "evaluate", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["recall"] == 1


def test_a_padded_truth_is_as_good(queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-1 stands for neighbours that there are not; other ids that the index lacks are refused."""
    Index.build(make_vectors(5, 24, "uint8"), tmp_path / "index")
    truth = np.full((5, 10), -1)
    truth[:, :5] = range(5)
    for ids, status in ((truth, 0), (truth + 1, 2)):
        np.save(tmp_path / "truth.npy", ids)
        arguments = [str(tmp_path / "index"), str(queries), str(tmp_path / "truth.npy"), "--recall", "1", "--json"]
        assert main(["search", "evaluate", *arguments]) == status
    said = capsys.readouterr()
    assert json.loads(said.out)["recall"] == 1
    assert "the ids go up to 5, but the index holds 5 rows" in said.err


@pytest.mark.parametrize("name", ["index.partial", "nothing", "later"])
def test_what_cannot_be_verified_is_not_damaged(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unfinished build, no index at all, and an index of a later Tenfold: bad input."""
    (tmp_path / "index.partial").mkdir()
    if name == "later":
        index = Index.build(np.zeros((5, 4), np.uint8), tmp_path / "later")
        write_manifest(index.path, read_manifest(index.path) | {"format_version": 99})
    assert main(["search", "verify", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"tenfold: {tmp_path / name}")


def test_tune_takes_threads(index_copy: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = index_copy(*SMALL)
    assert main(["search", "tune", str(folder), "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["own_rows"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "base.npy", "base.npy"],
        ["convert", "base.xyz", "base.npy"],
        ["convert", "base.npz", "base.fbin"],
        ["convert", "base.hdf5", "base.fbin"],
        ["build", "base.npy", "index"],
    ],
    ids=" ".join,
)
def test_advice_is_for_the_command_line_too(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uncalibrated: None,
) -> None:
    """No message tells to pass Python's keywords."""
    monkeypatch.chdir(tmp_path)
    base = make_vectors(20, 8, "float32")
    np.save("base.npy", base)
    np.savez("base.npz", train=base, test=base)
    Path("base.xyz").write_bytes(b"x")
    with h5py.File("base.hdf5", "w") as file:
        file["test"] = base
    Index.build(base, "index")
    assert main(["search", *arguments]) == 2
    line = capsys.readouterr().err
    assert "pass " not in line
    assert "=True" not in line
