"""Made people: prepared images with their truth; the same seed gives the same people, changed or spoilt or not."""

import json

import numpy as np
import pytest

from tenfold.anatomy.features import prepared_voxels
from tenfold.anatomy.images import read_labels
from tenfold.anatomy.populations import TRUTH, make_people
from tenfold.anatomy.segmentations import read_segmentations
from tenfold.core.errors import InputError

from .conftest import made_head

_CHANGE = {(17,): 0.75, (53,): 0.75}


def test_people_are_prepared_images_with_their_truth(head, tmp_path):
    """In [-1, 1] on the padded grid of 6 mm, with a sidecar; the truth has a label map per image."""
    people = make_people([head], tmp_path / "people", 3, mm=6.0)
    assert len(people) == 3
    assert people.processing is not None
    assert people.processing.mm == 6.0
    for image in people:
        assert prepared_voxels(image).shape == (24, 32, 24)
    truth = read_segmentations(tmp_path / "people" / TRUTH)
    assert truth.subjects == tuple(f"{name}_dseg" for name in people.names)
    assert len(set(truth.icv_S)) == 3


def test_a_change_is_all_that_differs(tmp_path):
    """The same people but for smaller hippocampi: heads are as large, the hippocampi a quarter smaller."""
    head = made_head(1.5, (112, 136, 120))
    make_people([head], tmp_path / "as_they_are", 2, seed=4)
    make_people([head], tmp_path / "changed", 2, seed=4, change=_CHANGE)
    before, after = (read_segmentations(tmp_path / name / TRUTH) for name in ("as_they_are", "changed"))
    shares = after.volumes_SR / before.volumes_SR
    np.testing.assert_allclose(shares[:, before.regions.index("hippocampus")], 0.75, atol=0.05)
    np.testing.assert_allclose(shares[:, before.regions.index("cerebellum cortex")], 1, atol=0.01)
    np.testing.assert_allclose(after.icv_S, before.icv_S, rtol=0.01)


def test_spoiling_keeps_the_truth(head, tmp_path):
    """A blurred image has the labels of the sharp one."""
    from scipy import ndimage  # noqa: PLC0415

    sharp = make_people([head], tmp_path / "sharp", 1, mm=6.0)
    soft = make_people(
        [head], tmp_path / "soft", 1, mm=6.0, spoil=lambda image, draw: ndimage.gaussian_filter(image, 1)
    )
    names = [path.name for path in sorted((tmp_path / "sharp" / TRUTH).iterdir())]
    for name in names:
        one, other = (read_labels(tmp_path / kind / TRUTH / name) for kind in ("sharp", "soft"))
        np.testing.assert_array_equal(one.labels_XYZ, other.labels_XYZ)
    assert np.abs(np.diff(soft[0].voxels_XYZ, axis=0)).mean() < np.abs(np.diff(sharp[0].voxels_XYZ, axis=0)).mean()


def test_what_is_there_is_kept_and_another_processing_is_refused(head, tmp_path):
    """Asking for more people adds to them; another voxel size in the folder is refused, naming it."""
    make_people([head], tmp_path / "people", 1, mm=6.0)
    first = (tmp_path / "people/made_0000_T1w.nii.gz").read_bytes()
    made_at = (tmp_path / "people/made_0000_T1w.nii.gz").stat().st_mtime_ns
    make_people([head], tmp_path / "people", 2, mm=6.0)
    assert (tmp_path / "people/made_0000_T1w.nii.gz").stat().st_mtime_ns == made_at
    again = make_people([head], tmp_path / "again", 1, mm=6.0)
    assert again.paths[0].read_bytes() == first
    with pytest.raises(InputError, match="mm 6"):
        make_people([head], tmp_path / "people", 1, mm=4.0)
    assert json.loads((tmp_path / "people/desc-prepared_T1w.json").read_text())["mm"] == 6.0


def test_no_label_map_is_refused(tmp_path):
    """One line, and nothing is written."""
    with pytest.raises(InputError, match="no label map"):
        make_people([], tmp_path / "people", 1)
    assert not (tmp_path / "people").exists()


def test_a_folder_holds_the_people_of_one_call(head, tmp_path):
    """Another seed or another change is refused, and so are images of which nothing tells what made them."""
    place = tmp_path / "people"
    make_people([head], place, 1, mm=6.0)
    before = (place / "made_0000_T1w.nii.gz").read_bytes()
    for other in ({"seed": 1}, {"change": _CHANGE}):
        with pytest.raises(InputError, match="holds images made otherwise"):
            make_people([head], place, 1, mm=6.0, **other)
    make_people([head], place, 1, mm=6.0)
    assert (place / "made_0000_T1w.nii.gz").read_bytes() == before
    (place / "people.json").unlink()
    with pytest.raises(InputError, match=r"no people.json"):
        make_people([head], place, 2, mm=6.0)


@pytest.mark.parametrize("mm", [0.0, -3.0, float("nan"), float("inf"), 40.0])
def test_voxels_that_no_brain_has_are_refused(mm, head, tmp_path):
    """Nothing is written."""
    with pytest.raises(InputError, match=r"voxels have 0.5 to 8 mm"):
        make_people([head], tmp_path / "people", 1, mm=mm)
    assert not (tmp_path / "people").exists()
