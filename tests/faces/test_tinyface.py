"""TinyFace: probes, gallery and distractors, over a tiny folder in its form."""

from pathlib import Path

import pytest
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.crops import crop_faces
from tenfold.faces.data import read_faces
from tenfold.faces.formats.tinyface import tinyface

FILES = {
    "Probe": ["7_1.jpg", "12_1.jpg"],
    "Gallery_Match": ["12_2.jpg", "7_2.jpg", "7_3.jpg"],
    "Gallery_Distractor": ["0001.jpg", "a/b_2.jpg"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, names in FILES.items():
        for name in names:
            path = tmp_path / "Testing_Set" / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.radial_gradient("L").resize((9, 12)).save(path)
    training = tmp_path / "Training_Set" / "1"
    training.mkdir(parents=True)
    Image.new("L", (9, 12)).save(training / "1_1.jpg")
    return tmp_path


def test_probes_and_gallery_share_their_people(root: Path) -> None:
    for at in (root, root / "Testing_Set"):
        test = tinyface(at)
        assert test.probes.people == test.gallery.people == ("7", "12")
        assert test.probes.names == ("Probe/12_1.jpg", "Probe/7_1.jpg") and test.probes.labels.tolist() == [1, 0]
        assert test.gallery.labels.tolist() == [1, 0, 0]
        assert test.distractors.labels.tolist() == [-1, -1]
    assert read_faces(root / "Training_Set").people == ("1",)


def test_faces_of_few_pixels_are_used_when_asked_for(root: Path) -> None:
    probes = tinyface(root).probes
    assert crop_faces(probes, None, 16).statuses == ("too small",) * 2
    assert crop_faces(probes, None, 16, smallest=1).statuses == ("ok",) * 2


@pytest.mark.parametrize("name", ["ann.jpg", "_1.jpg", "ann_1.jpg", "7.jpg", "-7_1.jpg", "٣_1.jpg"])
def test_names_without_a_number_are_refused(root: Path, name: str) -> None:
    Image.new("L", (9, 9)).save(root / "Testing_Set" / "Probe" / name)
    with pytest.raises(InputError, match="does not begin with a person's number"):
        tinyface(root)


def test_sets_that_are_not_whole_are_refused(root: Path) -> None:
    Image.new("L", (9, 9)).save(root / "Testing_Set" / "Probe" / "99_1.jpg")
    with pytest.raises(InputError, match="person 99 of Probe is not in Gallery_Match"):
        tinyface(root)
    for path in (root / "Testing_Set" / "Gallery_Match").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="Gallery_Match: has no picture"):
        tinyface(root)
    with pytest.raises(InputError, match="Probe: does not exist"):
        tinyface(root / "Training_Set")
