"""Segmenting a set: one bad image does not hold up the others, a stopped run goes on, nothing old is mistaken for new.

The segmenter here is a plain one: what is bright is a thalamus. It is the run over a set that is tested.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.gate import gate
from tenfold.anatomy.images import Image, write_image
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.plausibility import compare
from tenfold.anatomy.segmenters import Segmentation, none_reliable, segment
from tenfold.anatomy.sets import open_images
from tenfold.anatomy.sidecars import Processing, read_refused, write_refused, write_sidecar
from tenfold.anatomy.tables import read_measured
from tenfold.core.errors import InputError

from .conftest import made_people

_AFFINE = np.diag([2.0, 2, 2, 1])


class Bright:
    """Counts bright voxels; with or without scores."""

    name = "bright"

    def __init__(self, scores: bool = True, predictor: str | None = None) -> None:
        self.scores, self.calls, self.predictor = scores, 0, predictor

    def __call__(self, image: Image) -> Segmentation:
        self.calls += 1
        inside = image.voxels_XYZ > 0.5
        mm3 = float(inside.sum() * np.prod(image.zooms))
        volumes = {"thalamus": {"left": mm3 / 2, "right": mm3 / 2}}
        qc = dict.fromkeys(QC_GROUPS, 0.9) if self.scores else {}
        return Segmentation(np.where(inside, 10, 0).astype(np.int16), volumes, 10 * mm3, qc)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, the second of which is blank."""
    draw = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(3):
        voxels = np.full((9, 9, 9), -1, np.float32) if number == 1 else draw.random((9, 9, 9), np.float32)
        write_image(tmp_path / f"images/generated_sample_{number}.nii.gz", voxels, _AFFINE)
    return tmp_path / "images"


def test_a_blank_image_is_named_and_counts_as_not_reliable(folder, tmp_path):
    """Scores of 0, so that the gate rejects it; the others are measured."""
    measured = segment(open_images(folder), Bright(), tmp_path / "out")
    assert measured.subjects == tuple(f"generated_sample_{number}" for number in range(3))
    assert gate(measured).reliable_S.tolist() == [True, False, True]
    assert gate(measured).rejected == pytest.approx(1 / 3)
    [(name, message)] = read_refused(tmp_path / "out").items()
    assert name == "generated_sample_1"
    assert "-1 everywhere" in message


def test_a_file_that_cannot_be_opened_does_not_hold_up_the_others(folder, tmp_path):
    """A link to a disk that is not there."""
    (folder / "generated_sample_3.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    measured = segment(open_images(folder), Bright(), tmp_path / "out")
    assert gate(measured).reliable_S.tolist() == [True, False, True, False]
    assert "cannot be read (No such file" in read_refused(tmp_path / "out")["generated_sample_3"]


def test_labels_of_an_earlier_file_do_not_stay_beside_an_image_that_is_refused(folder, tmp_path):
    segment(open_images(folder), Bright(), tmp_path / "out")
    assert (tmp_path / "out/generated_sample_0_dseg.nii.gz").exists()
    write_image(folder / "generated_sample_0.nii.gz", np.full((9, 9, 9), -1, np.float32), _AFFINE)
    segment(open_images(folder), Bright(), tmp_path / "out")
    assert not (tmp_path / "out/generated_sample_0_dseg.nii.gz").exists()


def test_what_prepare_could_not_process_counts_as_not_reliable(folder, tmp_path):
    """An image that is named in the refused.tsv of its folder has no file, and yet is in the table, with its age."""
    write_refused(folder, {"sub-lost": "sub-lost.nii.gz: the file is cut"})
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-lost\t61\n")
    measured = segment(open_images(folder), Bright(), tmp_path / "out")
    assert measured.subjects[3] == "sub-lost"
    assert measured.people["age"] == ("", "", "", "61")
    assert gate(measured).reliable_S.tolist() == [True, False, True, False]
    assert list(read_refused(tmp_path / "out")) == ["generated_sample_1", "sub-lost"]
    assert len(segment(open_images(folder), Bright(scores=False), tmp_path / "unscored")) == 2


def test_a_part_of_a_set_has_nothing_to_do_with_what_was_refused_of_the_whole(folder, tmp_path):
    """Else the gate would count it against each part."""
    write_refused(folder, {f"sub-lost{number}": "the file is cut" for number in range(9)})
    assert gate(segment(open_images(folder).take([0, 2]), Bright(), tmp_path / "out")).rejected == 0


def test_without_scores_a_blank_image_is_left_out(folder, tmp_path):
    measured = segment(open_images(folder), Bright(scores=False), tmp_path / "out")
    assert measured.subjects == ("generated_sample_0", "generated_sample_2")
    assert list(read_refused(tmp_path / "out")) == ["generated_sample_1"]


def test_a_set_of_which_nothing_can_be_read_is_unreliable(folder):
    """What a generator makes that has failed: blank images, or NaN. No error: all are rejected."""
    for number, value in ((0, np.nan), (2, -1)):
        write_image(folder / f"generated_sample_{number}.nii.gz", np.full((9, 9, 9), value, np.float32), _AFFINE)
    samples = open_images(folder)
    assert len(samples.readable()) == 0
    real = replace(made_people(20), qc_SG=np.full((20, 8), 0.9), groups=QC_GROUPS, segmenter="bright")
    found = compare(real, none_reliable(samples, real), training=real)
    assert (found.verdict, found.generated_gate.rejected) == ("unreliable", 1.0)


def test_what_can_be_read_is_kept(folder):
    assert open_images(folder).readable().names == ("generated_sample_0", "generated_sample_2")


def test_nothing_but_blank_images_is_refused(folder, tmp_path):
    """And there is no table then."""
    for number in (0, 2):
        (folder / f"generated_sample_{number}.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no image could be segmented; the first: .*everywhere"):
        segment(open_images(folder), Bright(), tmp_path / "out")
    assert not (tmp_path / "out/volumes.tsv").exists()


def test_an_image_that_changes_is_segmented_anew_and_so_is_another_voxel_size(folder, tmp_path):
    """Kept is only what was made of the same file with the same size of voxels."""
    segmenter = Bright()
    segment(open_images(folder), segmenter, tmp_path / "out")
    segment(open_images(folder), segmenter, tmp_path / "out")
    assert segmenter.calls == 2
    write_image(folder / "generated_sample_1.nii.gz", np.random.default_rng(9).random((9, 9, 9), np.float32), _AFFINE)
    assert gate(segment(open_images(folder), segmenter, tmp_path / "out")).rejected == 0
    assert segmenter.calls == 3
    for number in range(3):
        path = folder / f"generated_sample_{number}.nii.gz"
        write_image(path, np.random.default_rng(number).random((9, 9, 9), np.float32), np.eye(4))
    small, large = (segment(open_images(folder, voxel_mm=mm), Bright(), tmp_path / "sizes") for mm in (1, 2))
    np.testing.assert_allclose(large.volumes_SR, 8 * small.volumes_SR)


def test_scores_of_another_predictor_are_not_kept(folder, tmp_path):
    """A segmenter can be calibrated anew while its labels stay as they were."""
    for predictor, calls in (("one", 2), ("one", 0), ("other", 2)):
        segmenter = Bright(predictor=predictor)
        segment(open_images(folder), segmenter, tmp_path / "out")
        assert segmenter.calls == calls


def test_the_table_says_how_images_were_processed_and_the_folder_is_read_as_its_table(folder, tmp_path):
    """A folder that is not done yet is refused, since its label files are a part of the set only."""
    processing = Processing("made", "0" * 64, mm=2.0)
    write_sidecar(folder, processing)
    segment(open_images(folder), Bright(), tmp_path / "out")
    read = read_measured(tmp_path / "out")
    assert read.processing == processing
    assert read.qc_SG is not None
    (tmp_path / "out/volumes.tsv").unlink()
    with pytest.raises(InputError, match="not segmented to the end"):
        read_measured(tmp_path / "out")


def test_an_interrupted_run_goes_on(folder, tmp_path):
    """Killed at the second image: the first one is kept, the table is that of a run in one go."""

    class Killed(Bright):
        def __call__(self, image: Image) -> Segmentation:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(image)

    with pytest.raises(KeyboardInterrupt):
        segment(open_images(folder), Killed(), tmp_path / "out")
    second = Bright()
    segment(open_images(folder), second, tmp_path / "out")
    assert second.calls == 1
    segment(open_images(folder), Bright(), tmp_path / "whole")
    assert (tmp_path / "out/volumes.tsv").read_bytes() == (tmp_path / "whole/volumes.tsv").read_bytes()
