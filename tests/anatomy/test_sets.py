"""Sets are found in BIDS folders, plain folders and folders of samples; their order and names are stable."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tenfold.anatomy.sets import find_labels, find_masks, list_label_maps, open_images, read_label_maps
from tenfold.anatomy.sidecars import Processing, check_same, read_sidecar, write_sidecar
from tenfold.core.errors import InputError


def _save(path: Path, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).random((8, 8, 8), np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)


def test_bids_with_sessions_and_participants(tmp_path):
    for name in ("sub-02/anat/sub-02_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T2w"):
        _save(tmp_path / f"{name}.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t70\tF\nsub-02\t71\tM\n")
    images = open_images(tmp_path, "mine")
    assert images.names == ("sub-01_ses-2", "sub-02") and images.subjects() == ("sub-01", "sub-02")
    assert images.participants["sub-01"] == {"age": "70", "sex": "F"}
    assert [image.zooms for image in images] == [(2, 2, 2)] * 2


def test_samples_of_a_generator_need_a_voxel_size_and_are_in_order_of_their_numbers(tmp_path):
    for number in (10, 9, 0):
        _save(tmp_path / f"generated_sample_{number}.nii.gz", np.eye(4))
    assert open_images(tmp_path).names == ("generated_sample_0", "generated_sample_9", "generated_sample_10")
    with pytest.raises(InputError, match="states no voxel size"):
        open_images(tmp_path)[0]
    assert open_images(tmp_path, voxel_mm=1)[0].zooms == (1, 1, 1)


def test_real_plain_folder_leaves_segmentations_out(anatomy_data):
    images = open_images(anatomy_data / "t1")
    assert len(images) == 17 and "sub-nc01" in images.names
    assert images.participants["sub-nc01"]["sex"] == "M"
    assert set(find_masks(anatomy_data / "t1", images)) == set(images.names) - {"IXI015-HH-1258"}


def test_labels_are_found_in_a_folder_and_beside_a_table(anatomy_data, tmp_path):
    """DLMUSE's in one folder with the images, SynthSeg's in folders of their own; masks are none."""
    images = open_images(anatomy_data / "t1")
    assert set(find_labels(anatomy_data / "t1", images)) == set(images.names) - {"IXI015-HH-1258"}
    assert find_labels(anatomy_data / "t1" / "volumes.tsv", images) == find_labels(anatomy_data / "t1", images)
    for name in ("sub-nc01/sub-nc01_T1w_synthseg", "sub-nc03/sub-nc03_mask", "sub-nc04/sub-nc04_dseg"):
        _save(tmp_path / f"{name}.nii.gz")
    assert set(find_labels(tmp_path, images)) == {"sub-nc01", "sub-nc04"}
    assert not find_labels(tmp_path / "volumes.tsv", images)
    _save(tmp_path / "sub-nc01_dseg.nii.gz")
    with pytest.raises(InputError, match="two files of sub-nc01"):
        find_labels(tmp_path, images)


def test_folders_that_are_no_sets_are_named(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        open_images(tmp_path / "none")
    with pytest.raises(InputError, match="no T1-weighted image"):
        open_images(tmp_path)
    _save(tmp_path / "a_desc-x_T1w.nii.gz")
    with pytest.raises(InputError, match="no mask of any image"):
        find_masks(tmp_path, open_images(tmp_path))
    _save(tmp_path / "a_desc-y_T1w.nii.gz")
    with pytest.raises(InputError, match="two images of a;"):
        open_images(tmp_path)


def test_the_parameter_that_differs_is_named(tmp_path):
    one = Processing("mni.nii.gz", "ab", mm=2.0)
    write_sidecar(tmp_path, one)
    assert read_sidecar(tmp_path) == one
    check_same(one, Processing("copy-of-mni.nii.gz", "ab", mm=2.0), "A", "B")
    with pytest.raises(InputError, match=r"mm 2.0 in A, 3.0 in B; prepare both alike"):
        check_same(one, Processing("mni.nii.gz", "ab", mm=3.0), "A", "B")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"mm": 1}'])
def test_damaged_sidecars_are_named(tmp_path, text):
    (tmp_path / "desc-prepared_T1w.json").write_text(text)
    with pytest.raises(InputError, match="prepare the images again"):
        read_sidecar(tmp_path)


def test_names_that_differ_in_zeros_are_in_one_order_whatever_the_folder_lists_first(tmp_path, monkeypatch):
    for name in ("sample_01", "sample_1", "sample_001"):
        _save(tmp_path / f"{name}.nii.gz")
    listed = sorted(tmp_path.iterdir())
    found = []
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "glob", lambda self, pattern, order=order: [p for p in order if p.match(pattern)])
        found.append(open_images(tmp_path).names)
    assert found[0] == found[1] == ("sample_001", "sample_01", "sample_1")


def test_people_are_found_by_the_names_that_prepare_gives_them(tmp_path):
    """BIDS allows no signs in names; those of a table may have them."""
    _save(tmp_path / "sub-IXI012HH1211/anat/sub-IXI012HH1211_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nIXI012-HH-1211\t38\n")
    images = open_images(tmp_path)
    assert images.people(images.names) == {"age": ("38",)}


def test_a_row_without_its_participant_is_refused(tmp_path):
    _save(tmp_path / "sub-01_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text("age\tparticipant_id\n70\tsub-01\n71\n")
    with pytest.raises(InputError, match=r"participants\.tsv: a row is too short to have a participant_id"):
        open_images(tmp_path)


def test_label_maps_of_a_folder_are_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a", ".hidden"):
        _save(tmp_path / f"{name}.nii.gz")
    assert [path.name for path in list_label_maps(tmp_path)] == ["a.nii.gz", "b.nii.gz"]
    with pytest.raises(InputError, match="only label maps that the segmenter has learned from"):
        read_label_maps(tmp_path, without=("a.nii.gz", "b.nii.gz"))
    with pytest.raises(InputError, match="nowhere: has no label maps"):
        list_label_maps(tmp_path / "nowhere")
