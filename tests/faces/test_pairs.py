"""LFW's list of pairs, over a tiny folder in LFW's form."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.formats.pairs import lfw_pairs

LIST = """2\t2
Ann_Lee\t1\t2
Bob\t1\t2
Ann_Lee\t1\tBob\t1
Ann_Lee\t2\tZoë\t1
Zoë\t1\t2
Bob\t2\t1
Bob\t1\tZoë\t2
Zoë\t1\tAnn_Lee\t1
"""


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lfw")
    for person in ("Ann_Lee", "Bob", "Zoë"):
        (root / person).mkdir()
        for number in (1, 2):
            Image.new("RGB", (25, 25)).save(root / person / f"{person}_{number:04d}.jpg")
    return root


def listed(folder: Path, text: str | bytes) -> Path:
    path = folder / "pairs.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_pairs_name_pictures_and_folds(lfw: Path) -> None:
    pairs = lfw_pairs(lfw, listed(lfw, LIST))
    assert len(pairs) == 8 and len(pairs.faces) == 6
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4
    names = pairs.faces.names
    assert (names[pairs.first[3]], names[pairs.second[3]]) == ("Ann_Lee/Ann_Lee_0002.jpg", "Zoë/Zoë_0001.jpg")
    people = pairs.faces.labels
    np.testing.assert_array_equal(people[pairs.first] == people[pairs.second], pairs.same)


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text, str.rstrip])
def test_ends_of_lines_and_marks_do_not_matter(change: object, lfw: Path) -> None:
    assert len(lfw_pairs(lfw, listed(lfw, change(LIST)))) == 8  # type: ignore[operator]


def test_a_list_of_one_fold(lfw: Path) -> None:
    text = "2\n" + "\n".join(LIST.splitlines()[1:5])
    assert lfw_pairs(lfw, listed(lfw, text)).folds.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cut, or not LFW's list"),
        (LIST[:80], "cut, or not LFW's list"),
        (LIST.replace("2\t2\n", "9999999\t9999999\n", 1), "cut, or not LFW's list"),
        (LIST.replace("2\t2\n", "0\t0\n", 1), "cut, or not LFW's list"),
        (LIST.replace("2\t2\n", "ten\t2\n", 1), "line 1: 'ten'"),
        (LIST.replace("2\t2\n", "1 2 3\n", 1), "line 1"),
        (LIST.replace("Bob\t1\t2\n", "Bob\t1\n"), "line 3: .* is no pair"),
        (LIST.replace("Bob\t1\t2\n", "Bob\t1\tZoë\t1\n"), "line 3: .* not of the kind"),
        (LIST.replace("Bob\t1\t2\n", "Bob\t1\t-2\n"), "line 3: '-2'"),
        (LIST.replace("Bob\t1\t2\n", "Bob\t1\t7\n"), r"line 3: there is no .*Bob_0007\.jpg"),
        (LIST.replace("Bob\t1\t2\n", "../lfw\t1\t2\n"), "line 3: '../lfw' is no name"),
        (LIST.replace("Bob\t1\t2\n", "/etc/passwd\t1\t2\n"), "line 3: '/etc/passwd' is no name"),
        (LIST.replace("Bob\t1\t2\n", "..\t1\t2\n"), "line 3: '..' is no name"),
        (LIST.replace("Ann_Lee\t1\tBob\t1", "Ann_Lee\t1\t../Bob\t1"), "line 4: '../Bob' is no name"),
        (LIST.encode("latin1"), "not UTF-8"),
    ],
)
def test_lists_that_are_none_are_refused(text: str | bytes, says: str, lfw: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        lfw_pairs(lfw, listed(lfw, text))
    assert "pairs.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_list_is_named(lfw: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: there is no such file"):
        lfw_pairs(lfw, lfw / "nowhere.txt")


@settings(max_examples=80)
@given(st.integers(0, len(LIST.encode()) - 1), st.integers(1, 255), st.integers(1, 400))
def test_damaged_lists_are_read_or_refused(lfw: Path, at: int, flip: int, cut: int) -> None:
    data = bytearray(LIST.encode())
    data[at] ^= flip
    try:
        pairs = lfw_pairs(lfw, listed(lfw, bytes(data[:cut])))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(path, Path) and path.is_relative_to(lfw) for path in pairs.faces.sources)
