"""Folders of people become sets; sets are split by person and compared by content."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.data import FaceSet, read_faces
from tenfold.faces.facesets import safe_path


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 20), value).save(path)
    return path


def numbered(labels: list[int], people: int) -> FaceSet:
    sources = tuple(bytes([number]) for number in range(len(labels)))
    names = tuple(f"picture {number}" for number in range(len(labels)))
    return FaceSet(sources, names, np.array(labels, np.int64), tuple(f"person {number}" for number in range(people)))


def test_real_folders_of_people_are_read(faces_data: Path) -> None:
    orl = read_faces(faces_data / "orl")
    assert len(orl) == 300 and len(orl.people) == 30
    assert (np.bincount(orl.labels) == 10).all()
    london = read_faces(faces_data / "london", person="file")
    assert len(london) == 141 and len(london.people) == 71


def test_a_folder_below_the_root_is_a_person(tmp_path: Path) -> None:
    for name in ("Zoë/1.jpg", "Zoë/old/2.PNG", "安娜/1.webp", "Bob/only.jpg", ".hidden/1.jpg", "Bob/.3.jpg"):
        save(tmp_path / name)
    (tmp_path / "Bob" / "Thumbs.db").write_bytes(b"junk")
    (tmp_path / "Nobody").mkdir()
    faces = read_faces(tmp_path)
    assert faces.people == ("Bob", "Zoë", "安娜")
    assert faces.names == ("Bob/only.jpg", "Zoë/1.jpg", "Zoë/old/2.PNG", "安娜/1.webp")
    assert faces.labels.tolist() == [0, 1, 1, 2]
    assert faces.boxes is None


def test_names_written_in_two_ways_are_one_person(tmp_path: Path) -> None:
    """An e with a mark above it is one character, or two: as on a Mac."""
    save(tmp_path / "Zo\u00eb/1.png")
    save(tmp_path / "Zoe\u0308/2.png")
    assert read_faces(tmp_path).people == ("Zo\u00eb",)


def test_names_that_are_no_text_are_shown_with_escapes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/Zo\xeb"
    os.mkdir(folder)
    save(Path(os.fsdecode(folder)) / "1.png")
    faces = read_faces(tmp_path)
    assert faces.people == (r"Zo\xeb",)
    "".join(faces.names).encode("utf-8")


def test_linked_people_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    save(elsewhere / "1.png")
    save(root / "Bob" / "1.png")
    (root / "Ann").symlink_to(elsewhere)
    (root / "Bob" / "circle").symlink_to(root)
    assert read_faces(root).names == ("Ann/1.png", "Bob/1.png")


def test_files_can_be_people_or_nobody(tmp_path: Path) -> None:
    save(tmp_path / "smiling" / "012.png")
    save(tmp_path / "neutral" / "012.png")
    save(tmp_path / "neutral" / "013.png")
    by_file = read_faces(tmp_path, person="file")
    assert by_file.people == ("012", "013") and by_file.labels.tolist() == [0, 1, 0]
    nobody = read_faces(tmp_path, person="none")
    assert nobody.people == () and nobody.labels.tolist() == [-1, -1, -1]


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "missing", "does not exist"),
        (save(tmp_path / "a" / "b.jpg"), "is a file"),
        (tmp_path / "a", "beside the folders"),
        (tmp_path / "empty", "no picture"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=says) as caught:
            read_faces(path)
        assert str(path) in str(caught.value)


def test_splitting_parts_people_and_renumbers_them() -> None:
    faces = numbered([0, 0, 1, 2, 2, 4, -1, 5], 6)
    first, second = faces.split(0.5, seed=3)
    assert not set(first.people) & set(second.people)
    assert set(first.people) | set(second.people) == {f"person {number}" for number in (0, 1, 2, 4, 5)}
    assert len(first) + len(second) == 7
    for part in (first, second):
        assert sorted(set(part.labels.tolist())) == list(range(len(part.people)))
        for source, label in zip(part.sources, part.labels, strict=True):
            assert isinstance(source, bytes)
            assert part.people[label] == faces.people[faces.labels[source[0]]]
    again, _ = faces.split(0.5, seed=3)
    assert again.names == first.names


@given(st.integers(2, 30), st.floats(0.001, 0.999), st.integers(0, 2**32 - 1))
def test_both_parts_have_people(people: int, share: float, seed: int) -> None:
    first, second = numbered(list(range(people)), people).split(share, seed)
    assert len(first.people) + len(second.people) == people
    assert abs(len(first.people) - share * people) <= 1 and first.people and second.people


@pytest.mark.parametrize(("labels", "share"), [([0, 0, 0], 0.5), ([], 0.5), ([0, 1], 0.0), ([0, 1], 1.0), ([-1], 0.5)])
def test_what_cannot_be_split_is_refused(labels: list[int], share: float) -> None:
    with pytest.raises(InputError):
        numbered(labels, 2).split(share, 0)


def test_subsets_keep_labels_comparable() -> None:
    faces = numbered([0, 1, 2, 2], 3)
    boxed = FaceSet(faces.sources, faces.names, faces.labels, faces.people, np.eye(4, dtype=np.float32))
    for index in ([3, 1], np.array([3, 1]), [False, True, False, True]):
        part = boxed.subset(index)
        assert sorted(part.labels.tolist()) == [1, 2] and part.people == faces.people
        assert part.boxes is not None and part.boxes[:, 3].sum() == 1
    assert len(faces.subset([])) == 0
    assert faces.subset([3, 2]).compact().people == ("person 2",)


@pytest.mark.parametrize(
    ("names", "labels", "boxes"),
    [(("a",), [0, 0], None), (("a", "b"), [0, 1], None), (("a", "b"), [0, -2], None), (("a", "b"), [0, 0], (1, 4))],
)
def test_sets_whose_parts_do_not_fit_are_refused(names: tuple[str, ...], labels: list[int], boxes: object) -> None:
    with pytest.raises(InputError):
        FaceSet((b"", b""), names, np.array(labels), ("one",), None if boxes is None else np.zeros(boxes, np.float32))


def test_the_same_bytes_in_two_sets_are_found(tmp_path: Path) -> None:
    save(tmp_path / "train" / "Ann" / "1.png", 10)
    save(tmp_path / "train" / "Ann" / "2.png", 20)
    save(tmp_path / "train" / "Bob" / "copy.png", 20)
    save(tmp_path / "test" / "Eve" / "1.png", 20)
    save(tmp_path / "test" / "Eve" / "2.png", 30)
    train, test = read_faces(tmp_path / "train"), read_faces(tmp_path / "test")
    assert test.duplicates_of(train) == [("Eve/1.png", "Ann/2.png")]
    assert train.duplicates_of(train) == [("Bob/copy.png", "Ann/2.png")]
    (tmp_path / "test" / "Eve" / "1.png").unlink()
    assert test.duplicates_of(train) == []


def test_several_faces_of_one_photograph_are_no_duplicates() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    faces = FaceSet((b"one",) * 3, ("a", "b", "c"), np.zeros(3, np.int64), ("Ann",), boxes)
    assert faces.duplicates_of(faces) == [("c", "a")]


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "", "a\0.jpg", "..\\a.jpg", ".."])
def test_paths_from_lists_do_not_lead_out_of_the_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list\.csv: line 3"):
        safe_path(tmp_path, name, "list.csv: line 3")
    assert safe_path(tmp_path, "a..b/c.jpg", "") == tmp_path / "a..b" / "c.jpg"
