"""The verbs that change an index, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles import make_vectors

TENFOLD = str(Path(sys.executable).with_name("tenfold"))


def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TENFOLD, "search", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def facts(*words: object) -> dict[str, object]:
    return dict(json.loads(run(*words, "--json").stdout))


def found(index: Path, queries: Path, *words: object) -> list[list[object]]:
    lines = run("query", index, queries, "--k", 3, "--recall", 1, "--json", *words).stdout.splitlines()
    return [json.loads(line)["ids"] for line in lines]


def test_vectors_come_and_go(tmp_path: Path) -> None:
    """create, add, update, delete, compact, query, evaluate, info and verify on one index."""
    base, index = make_vectors(300, 8, "uint8"), tmp_path / "index"
    np.save(tmp_path / "base.npy", base)
    np.save(tmp_path / "one.npy", base[10:11])
    np.save(tmp_path / "moved.npy", np.full((1, 8), 255, np.uint8))
    run("create", index, 8, "--dtype", "uint8")
    assert facts("add", index, tmp_path / "base.npy") == {"added": 300, "replaced": 0, "rows": 300}
    same = np.flatnonzero((base == base[10]).all(axis=1)).tolist()
    assert found(index, tmp_path / "one.npy")[0][: len(same)] == same
    (tmp_path / "ids.txt").write_text("10\n")
    assert facts("add", index, tmp_path / "moved.npy", "--ids", tmp_path / "ids.txt", "--update")["replaced"] == 1
    assert 10 not in found(index, tmp_path / "one.npy")[0]
    assert found(index, tmp_path / "moved.npy")[0][0] == 10
    assert facts("delete", index, "--ids", 10, 11, 999) == {"deleted": 2, "not_there": 1, "rows": 298}
    assert facts("compact", index)["rows"] == 298
    [segment] = facts("info", index)["segments"]  # type: ignore[misc]
    assert (segment["rows"], segment["deleted"]) == (298, 0)
    assert facts("evaluate", index, tmp_path / "base.npy", "--recall", 1)["recall"] == 1
    assert facts("verify", index) == {"ok": True, "damaged": []}
    assert "298 x 8 uint8" in run("info", index).stdout
    run("tune", index)


def test_texts_as_ids_and_filters(tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("a\nb b\nc\nd\n")
    rows = [{"lang": "de", "year": 2019}, {"lang": "en"}, {"lang": "de", "year": 2024}, {}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = tmp_path / "index"
    run("create", index, 4, "--ids", "string", "--columns", "lang=category", "year=int")
    run("add", index, tmp_path / "base.npy", "--ids", tmp_path / "ids.txt", "--attributes", tmp_path / "rows.jsonl")
    assert found(index, tmp_path / "base.npy", "--filter", '{"lang": "de"}')[1] == ["a", "c"]
    assert found(index, tmp_path / "base.npy", "--filter", '{"year": {"$gte": 2020}}')[0] == ["c"]
    assert facts("delete", index, "--ids", "b b", "nobody")["deleted"] == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("add", "INDEX", "base.npy", "--ids", "short.txt"), "has 1 ids, "),
        (("add", "INDEX", "base.npy", "--ids", "words.txt"), "id 1 is 'two', no whole number from 0 on"),
        (("add", "INDEX", "base.npy", "--update"), "give --ids FILE"),
        (("add", "INDEX", "base.npy", "--attributes", "short.txt"), "line 1 is no JSON object"),
        (("add", "INDEX", "base.npy", "--attributes", "base.npy"), "base.npy: is no text; one JSON object per vector"),
        (("add", "INDEX", "base.npy", "--attributes", "odd.txt"), "odd.txt: line 2: there is no column 'a'"),
        (("create", "other", "70000"), "dim is 70000; it must be a whole number, 1 to 65,535"),
        (("add", "INDEX", "wrong.npy"), "but this base holds vectors of dimension 8"),
        (("add", "INDEX", "base.npy", "--ids", "none.txt"), "cannot be read: No such file"),
        (("delete", "INDEX"), "there is nothing to delete: give --ids, or --file FILE"),
        (("delete", "INDEX", "--ids", "-4"), "id 0 is '-4', no whole number"),
        (("create", "INDEX", "8"), "takes updates and is not replaced"),
        (("create", "other", "8", "--columns", "year"), "'year' is not NAME=TYPE"),
        (("create", "other", "8", "--columns", "year=date"), "its type is 'date'"),
        (("query", "INDEX", "base.npy", "--filter", "{"), "--filter is no JSON"),
        (("query", "INDEX", "base.npy", "--filter", '{"a": 1}'), "there is no column 'a'; this index has none"),
        (("build", "base.npy", "INDEX", "--overwrite"), "takes updates"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    np.save(tmp_path / "base.npy", make_vectors(2, 8, "float32"))
    np.save(tmp_path / "wrong.npy", make_vectors(2, 9, "float32"))
    (tmp_path / "short.txt").write_text("5\n")
    (tmp_path / "words.txt").write_text("1\ntwo\n")
    (tmp_path / "odd.txt").write_text('{}\n{"a": 1}\n')
    run("create", tmp_path / "INDEX", 8)
    before = {path: path.read_bytes() for path in (tmp_path / "INDEX").iterdir() if path.name == "living.json"}
    places = [tmp_path / word if word == "INDEX" or "." in word or word == "other" else word for word in words]
    done = run(*places, status=2)
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "other").exists()
