"""What verbs train and measure on: people held back, pictures left out and named, what a model has seen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.data import read_faces
from tenfold.faces.preparation import LabelledCrops, prepare, read_seen, remember, seen_before


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for person in range(5):
        for number in range(2):
            draw(tmp_path / f"set/person{person}/{number}.png", 10 * person + number)
    return tmp_path / "set"


def test_people_are_held_back_whole(root: Path) -> None:
    """Nobody is on both sides; the same seed holds back the same, and more of a larger share are among them."""
    given = prepare(root, None)
    assert given.crops_NSSC.shape == (10, 112, 112, 3) and given.people == tuple(f"person{n}" for n in range(5))
    held_N = given.held_back(0.4, seed=3)
    held, learned = given.rows(held_N), given.rows(~held_N)
    assert len(held) == 4 and not set(held.labels_N) & set(learned.labels_N)
    assert (given.held_back(0.4, seed=3) == held_N).all()
    assert (given.held_back(0.6, seed=3) >= held_N).all()
    assert not given.held_back(0.0, seed=3).any()


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.2, 0.9])
def test_two_people_are_on_either_side(share: float, root: Path) -> None:
    with pytest.raises(InputError, match="validation"):
        prepare(root, None).held_back(share, seed=0)


def test_unlabelled_faces_are_not_held_back() -> None:
    labels_N = np.array([-1, 0, 0, 1, 2, 3], np.int64)
    given = LabelledCrops(np.zeros((6, 8, 8, 3), np.uint8), labels_N, ("a", "b", "c", "d"))
    assert not given.held_back(0.5, seed=0)[0]


def test_what_cannot_be_used_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five pictures are named and the others counted; one picture twice is named, but stays."""
    for number in range(7):
        (root / f"person0/broken{number}.png").write_bytes(b"no picture")
    (root / "person1/double.png").write_bytes((root / "person2/0.png").read_bytes())
    assert len(prepare(root, None)) == 11
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == [f"person0/broken{n}.png" for n in range(5)]
    assert lines[5] == "... and 2 more like these"
    assert lines[6] == "person2/0.png: is the same picture as person1/double.png; leave one of them out"
    assert len(lines) == 7


def test_no_usable_face_at_all_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"none of 1 pictures, such as black.png, .*give pictures of faces"):
        prepare(tmp_path, None, "file")


def test_a_model_knows_its_pictures_again(root: Path, tmp_path: Path) -> None:
    """By their contents, whatever they are called; in the run's folder, which stands for its best model."""
    run = tmp_path / "run"
    pictures = read_faces(root)
    remember(run, pictures.subset([0, 1]))
    remember(run, pictures.subset([1, 2]))
    assert len(read_seen(run)) == 3
    (run / "best").mkdir()
    (run / "best/model.safetensors").touch()
    assert read_seen(run) == read_seen(run / "best") and len(read_seen(run)) == 3
    draw(tmp_path / "test/who/renamed.png", 1)  # as person0/1.png
    draw(tmp_path / "test/who/new.png", 99)
    other = read_faces(tmp_path / "test")
    [line] = seen_before([other], read_seen(run))
    assert line.startswith("Warning: 1 pictures, such as who/renamed.png,")
    assert seen_before([other.subset([0])], read_seen(run)) == []
    assert read_seen("") == read_seen("some/where.onnx") == frozenset()


def test_a_folder_that_cannot_be_written_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        remember(tmp_path / "file/run", read_faces(root))
