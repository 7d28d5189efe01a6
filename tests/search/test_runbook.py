"""A streaming runbook leaves the rows that its steps say, and its recall is that against brute force in NumPy."""

import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import GroundTruth, LivingIndex, as_source, open_vectors
from tenfold.search.formats.truth import write_ground_truth
from tenfold.search.runbook import read_runbook, run_runbook

TENFOLD = str(Path(sysconfig.get_path("scripts"), "tenfold"))
STEPS = """
other: {max_pts: 1, 1: {operation: search}}
mine:
  max_pts: 4000
  gt_url: "none"
  1: {operation: "insert", start: 0, end: 3000}
  2: {operation: search}
  3: {operation: delete, start: 0, end: 1200}
  4: {operation: insert, start: 3000, end: 4000}
  5:
    operation: replace
    tags_start: 2000
    tags_end: 2500
    ids_start: 100
    ids_end: 600
  6: {operation: search}
  7: {operation: insert, start: 0, end: 10}
"""


def rows_after(step: int) -> dict[int, int]:
    """By id, the row that STEPS leave there."""
    rows = {number: number for number in range(3000)}
    if step > 2:
        rows = {number: number for number in range(1200, 4000)} | {2000 + n: 100 + n for n in range(500)}
    if step > 6:
        rows |= {number: number for number in range(10)}
    return rows


def command(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TENFOLD, "search", "runbook", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_real_vectors_by_the_command(real_data: Path, tmp_path: Path) -> None:
    """Found and given truth agree; truth for other rows gives a lower recall; the index holds what it should."""
    base, queries = (real_data / f"bigann9k_{name}.u8bin" for name in ("base", "query"))
    (tmp_path / "book.yaml").write_text(STEPS)
    (tmp_path / "truth").mkdir()
    vectors, asked = (next(open_vectors(path).blocks(10_000)) for path in (base, queries))
    for step in (2, 6):
        rows = rows_after(step)
        names = np.array(sorted(rows))
        distances = numpy_distances(vectors[[rows[name] for name in names.tolist()]], asked, "l2")
        order = np.argsort(distances, axis=1, kind="stable")[:, :100]
        write_ground_truth(tmp_path / f"step{step}.bin", GroundTruth(names[order]))
        (tmp_path / f"step{step}.bin").rename(tmp_path / f"truth/step{step}.gt100")
    words = [tmp_path / "book.yaml", base, queries]
    found = [
        json.loads(one)
        for one in command(*words, tmp_path / "a", "--dataset", "mine", "--json").stdout.split("\n")[:-1]
    ]
    assert [one["step"] for one in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [one["rows"] for one in found] == [3000, 3000, 1800, 2800, 2800, 2800, 2810]
    recalls = [one["recall"] for one in found if one["operation"] == "search"]
    assert all(0.9 < recall <= 1 for recall in recalls)
    given = command(*words, tmp_path / "b", "--dataset", "mine", "--truth", tmp_path / "truth", "--json").stdout
    assert [json.loads(one)["recall"] for one in given.splitlines() if '"search"' in one] == recalls
    table = command(*words, tmp_path / "c", "--dataset", "mine", "--recall", 1).stdout
    assert table.count("search") == 2 and "mine: 7 steps" in table
    with LivingIndex.open(tmp_path / "a", read_only=True) as index:
        rows = rows_after(7)
        assert index.all_ids().tolist() == sorted(rows)
        np.testing.assert_array_equal(index.get(sorted(rows)), vectors[[rows[name] for name in sorted(rows)]])
    (tmp_path / "truth/step6.gt100").write_bytes((tmp_path / "truth/step2.gt100").read_bytes())
    wrong = command(*words, tmp_path / "d", "--dataset", "mine", "--truth", tmp_path / "truth", status=2).stderr
    assert "step6.gt100: id " in wrong and "is not there at step 6; is it of another runbook?" in wrong


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_recall_is_that_against_brute_force(metric: str, tmp_path: Path) -> None:
    (tmp_path / "book.yaml").write_text(STEPS)
    vectors, queries = make_vectors(4000, 8, "float32"), make_vectors(30, 8, "float32", seed=1)
    with LivingIndex.create(tmp_path / "index", 8, metric=metric, durability="none") as index:  # type: ignore[arg-type]
        for one in run_runbook(read_runbook(tmp_path / "book.yaml", "mine"), as_source(vectors), queries, index):
            if one.operation == "search":
                rows = rows_after(one.step)
                truth = numpy_distances(vectors[list(rows.values())], queries, metric)
                limit = np.sort(truth, axis=1)[:, 9:10]
                near = index.search(queries, 10)[0]
                assert one.recall == pytest.approx(float((near <= limit + 1e-5 * np.abs(limit) + 1e-7).mean()))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no YAML"),
        ("[1, 2]", "is no runbook"),
        ("!!python/object/apply:os.system ['false']", "is no YAML"),
        ("a: {1: {operation: search}}\nb: {1: {operation: search}}", r"holds 2 data sets \(a, b\); name one"),
        ("a: {max_pts: 3}", "a has no step 1"),
        ("a: {1: {operation: search}, 3: {operation: search}}", "a has no step 2; steps are numbered from 1 on"),
        ("a: {1: {operation: fly}}", "step 1: its operation is 'fly'; it must be one of insert, delete"),
        ("a: {1: [search]}", "step 1: its operation is None"),
        ("a: {1: {operation: [1]}}", r"step 1: its operation is \[1\]"),
        ("a: {1: {operation: insert, start: 0}}", "step 1: end is None; insert needs a whole number"),
        ("a: {1: {operation: insert, start: -1, end: 2}}", "start is -1"),
        ("a: {1: {operation: insert, start: yes, end: 2}}", "start is True"),
        ("a: {1: {operation: insert, start: 3, end: 2}}", "its ranges are 3, 2; they end before"),
        ("a: {1: {operation: insert, start: 0, end: 21}}", "step 1 names row 20; array has 20 rows"),
        (
            "a: {1: {operation: insert, start: 0, end: 9}, 2: {operation: insert, start: 8, end: 9}}",
            "insert id 8, which",
        ),
        ("a: {1: {operation: delete, start: 4, end: 5}}", "step 1 is to delete id 4, which is not there"),
        (
            "a: {1: {operation: insert, start: 0, end: 9}, "
            "2: {operation: replace, tags_start: 0, tags_end: 2, ids_start: 3, ids_end: 4}}",
            "step 2: its ranges are 0, 2, 3, 4",
        ),
        ("a: " + "[" * 50_000, "is no YAML|is no runbook|holds 0"),
    ],
)
def test_what_is_no_runbook_is_refused_before_the_work(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "book.yaml").write_text(content)
    rows = make_vectors(20, 4, "float32")
    with (
        LivingIndex.create(tmp_path / "index", 4, durability="none") as index,
        pytest.raises(InputError, match=complaint),
    ):
        list(run_runbook(read_runbook(tmp_path / "book.yaml"), as_source(rows), rows, index))
    assert not len(LivingIndex.open(tmp_path / "index", read_only=True))


def test_other_things_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "book.yaml").write_text("a: {1: {operation: insert, start: 0, end: 9}, 2: {operation: search}}")
    rows, book = make_vectors(20, 4, "float32"), read_runbook(tmp_path / "book.yaml")
    with pytest.raises(InputError, match=r"no_such\.yaml: cannot be read: No such file"):
        read_runbook(tmp_path / "no_such.yaml")
    with pytest.raises(InputError, match="has no data set 'b'; it has a"):
        read_runbook(tmp_path / "book.yaml", "b")
    with LivingIndex.create(tmp_path / "index", 4, durability="none") as index:
        with pytest.raises(InputError, match=r"has no step2\.gt100"):
            list(run_runbook(book, as_source(rows), rows, index, truth=tmp_path))
        with pytest.raises(InputError, match="needs an empty index"):
            list(run_runbook(book, as_source(rows), rows, index))
    with (
        LivingIndex.create(tmp_path / "wide", 5, durability="none") as index,
        pytest.raises(InputError, match="holds float32 x 5, array float32 x 4"),
    ):
        list(run_runbook(book, as_source(rows), rows, index))
