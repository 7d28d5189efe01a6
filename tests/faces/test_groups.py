"""Audits by group: rates against loops, honest intervals for small groups, attributes only from the user's file."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.comparisons import compare
from tenfold.faces.groups import by_group, read_groups
from tenfold.faces.resampling import no_error_bound


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_rates_are_those_of_a_loop(seed: int) -> None:
    """Groups "a" and "b" with pairs inside them, people without a group, and everybody."""
    random = np.random.default_rng(seed)
    labels = np.repeat([10, 20, 30, 40, 50, 60], 3)
    scores, same, people = compare(random.normal(size=(18, 3)), labels)
    groups = {10: "a", 20: "a", 30: "b", 40: "b", 50: "b"}
    rows = {row.group: row for row in by_group(scores, same, people, groups, 0.4, replicates=10)}
    assert list(rows) == ["all", "a", "b"]
    for name, row in rows.items():
        inside = [name == "all" or groups.get(i) == groups.get(j) == name for i, j in people.tolist()]
        own = [(s, k) for s, k, chosen in zip(scores, same, inside, strict=True) if chosen]
        impostor, genuine = [s >= 0.4 for s, k in own if not k], [s < 0.4 for s, k in own if k]
        assert row.fmr.value == pytest.approx(np.mean(impostor)) and row.impostor == len(impostor)
        assert row.fnmr.value == pytest.approx(np.mean(genuine)) and row.genuine == len(genuine)
        assert row.fmr.low <= row.fmr.value <= row.fmr.high
    assert [rows[name].people for name in rows] == [6, 2, 3]


def test_small_groups_without_an_error_say_little() -> None:
    labels = np.repeat(np.arange(6), 4)
    vectors = np.eye(6)[labels] + 0.01
    rows = by_group(*compare(vectors, labels), {0: "three", 1: "three", 2: "three", 3: "one"}, 0.5, replicates=20)
    three, one = rows[2], rows[1]
    assert (three.group, three.fmr.value, three.fnmr.value) == ("three", 0, 0)
    assert three.fnmr.high == no_error_bound(3) > 0.7 and three.fmr.high == no_error_bound(1) > 0.97
    assert math.isnan(one.fmr.value) and one.impostor == 0  # one person has no impostor pairs
    assert one.fnmr.high == no_error_bound(1)


@pytest.mark.parametrize(
    ("groups", "threshold", "message"),
    [({99: "a"}, 0.5, "none of the people"), ({}, 0.5, "none of the people"), ({0: "a"}, math.nan, "threshold is nan")],
)
def test_what_does_not_fit_is_said(groups: dict[int, str], threshold: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        by_group([0.1, 0.2], [True, False], [[0, 0], [0, 1]], groups, threshold)


# --- attributes ------------------------------------------------------------------------------------------------------


def test_groups_are_read_by_the_names_of_people(tmp_path: Path) -> None:
    """A byte order mark, other columns, people of no interest, empty cells and names beyond ASCII."""
    path = tmp_path / "people.csv"
    path.write_text("\ufeffperson,age,gender\nZoë,30,f\nAnn,31, \nBob,32,m\nEve,33,f\n", encoding="utf-8")
    assert read_groups(path, "gender", ["Ann", "Bob", "Carl", "Zoë"]) == {1: "m", 3: "f"}
    assert read_groups(path, "person", ["32"], key="age") == {0: "Bob"}


def test_names_written_in_two_ways_are_one_person(tmp_path: Path) -> None:
    """An e with a mark above it is one character, or two; blanks at the ends do not count, on either side."""
    path = tmp_path / "people.csv"
    path.write_text("person,gender\nZoe\u0308 ,f\n  Ann,f\nAda,f\n", encoding="utf-8")
    assert read_groups(path, "gender", ["Ann", "Ada ", "Zo\u00eb"]) == {0: "f", 1: "f", 2: "f"}
    path.write_text("person,gender\nZoe\u0308,f\nZo\u00eb,m\n", encoding="utf-8")
    with pytest.raises(InputError, match="again in row 3"):
        read_groups(path, "gender", ["Zo\u00eb"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"person,gender\nAnn,f\nAnn,f\n", "names 'Ann' again in row 3"),
        (b"person,gender\nAnn,f\nBob,m\nAnn,m\n", "names 'Ann' again in row 4"),
        (b"name,gender\nAnn,f\n", "has no column 'person', only name, gender"),
        (b"person,sex\nAnn,f\n", "has no column 'gender'"),
        (b"", "has no column 'person'"),
        (b"person,gender\nCarl,m\n", "gives no gender of any of the 2 people"),
        (b"person,gender\nAnn\n", "gives no gender"),
        (b"person,gender\n\xff\xfe,m\n", "cannot be read as CSV"),
    ],
)
def test_files_that_are_no_list_of_people_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "people.csv").write_bytes(text)
    with pytest.raises(InputError, match=rf"people\.csv: .*{message}"):
        read_groups(tmp_path / "people.csv", "gender", ["Ann", "Bob"])


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        read_groups(tmp_path / "absent.csv", "gender", ["Ann"])
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path, "gender", ["Ann"])
