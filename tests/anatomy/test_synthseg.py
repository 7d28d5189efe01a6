"""SynthSeg is run and read as its command line has it. A small program stands in for the network, not for our code."""

import stat
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tenfold.anatomy.gate import gate
from tenfold.anatomy.images import write_image
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.segmentations import count_labels
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.anatomy.sidecars import Processing, read_refused
from tenfold.anatomy.synthseg import find_synthseg, run_synthseg
from tenfold.anatomy.tables import read_measured
from tenfold.core.errors import InputError

# Same options, file names and headers as SynthSeg 2; the volumes are the sum of the image, so that each is told apart.
STAND_IN = """#!{python}
import argparse, csv, os, pathlib, sys
import nibabel, numpy
parser = argparse.ArgumentParser()
for name in ("--i", "--o", "--vol", "--qc"):
    parser.add_argument(name)
for name in ("--parc", "--fail", "--forget", "--old"):
    parser.add_argument(name, action="store_true")
given = parser.parse_args()
print("SynthSeg 2.0, a stand-in")
calls = pathlib.Path(__file__).with_name("calls")
if given.fail or (calls.exists() and os.environ.get("FAIL_AFTER_ONE")):
    sys.exit("ERROR: cannot find /models/synthseg_2.0.h5")
regions = ["left thalamus", "right thalamus", "brain-stem"] + (["ctx-lh-insula", "ctx-rh-insula"] * given.parc)
groups = {groups!r}
pathlib.Path(given.o).mkdir()
with open(given.vol, "w", newline="") as volumes, open(given.qc, "w", newline="") as scores:
    tables = csv.writer(volumes), csv.writer(scores)
    tables[0].writerow(["subject", "total intracranial", *regions])
    tables[1].writerow(["subject", *groups])
    files = sorted(pathlib.Path(given.i).glob("*.nii.gz"), reverse=True)
    for path in files[given.forget:]:
        image = nibabel.load(path)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        total = float(numpy.asarray(image.dataobj).sum())
        labels = numpy.full(image.shape, 10, numpy.int32)
        name = path.name[: -len(".nii.gz")]
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), pathlib.Path(given.o) / (name + "_synthseg.nii.gz"))
        tables[0].writerow([name, 1e6 + total, *[total + i for i in range(len(regions))]])
        tables[1].writerow([name, *[round(0.9 - 0.01 * i, 3) for i in range(len(groups))]])
if given.old:
    os.remove(given.qc)
with calls.open("a") as file:
    file.write("called\\n")
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The stand-in, as a command."""
    path = tmp_path / "mri_synthseg"
    path.write_text(STAND_IN.format(python=sys.executable, groups=list(QC_GROUPS)))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Three images, one of them not RAS, with ages."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (1, 2, 10):
        voxels = np.random.default_rng(number).random((8, 9, 10), np.float32) * number
        affine = np.diag([-2.0 if number == 2 else 2, 2, 2, 1])
        write_image(folder / f"sub-{number}_T1w.nii.gz", voxels, affine)
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-1\t61\nsub-2\t62\nsub-10\t70\n")
    return open_images(folder)


def test_a_set_is_handed_over_and_its_tables_read_in_the_order_of_the_set(
    program: str, images: ImageSet, tmp_path: Path
) -> None:
    measured = run_synthseg(images, tmp_path / "out", program)
    totals = np.array([float(image.voxels_XYZ.sum()) for image in images])
    assert measured.subjects == ("sub-1", "sub-2", "sub-10") and measured.people["age"] == ("61", "62", "70")
    assert measured.regions == ("thalamus", "brain-stem") and measured.segmenter == "synthseg"
    np.testing.assert_allclose(measured.volumes_SR[:, 1], totals + 2, rtol=1e-5)
    np.testing.assert_allclose(measured.icv_S, totals + 1e6, rtol=1e-6)
    assert measured.groups == QC_GROUPS and measured.qc_SG is not None
    np.testing.assert_allclose(measured.qc_SG[0], 0.9 - 0.01 * np.arange(8))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"sub-{number}_dseg.nii.gz" for number in (1, 2, 10)]
        + ["volumes.csv", "qc.csv", "volumes.tsv", "volumes.json", "segmentation.json", "refused.tsv"]
    )
    assert count_labels(tmp_path / "out/sub-1_dseg.nii.gz")[10] == pytest.approx(8 * 9 * 10 * 8)
    again = read_measured(tmp_path / "out/volumes.tsv")
    np.testing.assert_array_equal(again.volumes_SR, measured.volumes_SR)
    np.testing.assert_array_equal(again.qc_SG, measured.qc_SG)


def test_what_is_done_is_read_and_another_call_does_not_go_into_the_folder(
    program: str, images: ImageSet, tmp_path: Path
) -> None:
    first = run_synthseg(images, tmp_path / "out", program)
    second = run_synthseg(images, tmp_path / "out", program)
    np.testing.assert_array_equal(first.volumes_SR, second.volumes_SR)
    assert (tmp_path / "calls").read_text() == "called\n"
    with pytest.raises(InputError, match=r"of another call .parc differs"):
        run_synthseg(images, tmp_path / "out", program, parc=True)
    with pytest.raises(InputError, match=r"of another call .voxel_mm differs"):
        run_synthseg(replace(images, voxel_mm=2.0), tmp_path / "out", program)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds other things"):
        run_synthseg(images, tmp_path / "mine", program)


def test_the_table_says_how_images_were_processed_and_what_could_not_be(
    program: str, images: ImageSet, tmp_path: Path
) -> None:
    processing = Processing("made", "0" * 64, mm=2.0)
    refused = {"sub-3": "sub-3_T1w.nii.gz: the file is cut"}
    prepared = replace(images, processing=processing, refused=refused)
    measured = run_synthseg(prepared, tmp_path / "out", program)
    assert measured.processing == processing
    assert read_measured(tmp_path / "out").processing == processing
    assert measured.subjects == ("sub-1", "sub-2", "sub-10", "sub-3")
    assert read_refused(tmp_path / "out") == refused


def test_with_parc_there_are_regions_of_the_cortex(program: str, images: ImageSet, tmp_path: Path) -> None:
    assert "ctx-insula" in run_synthseg(images, tmp_path / "out", program, parc=True).regions


def test_an_interrupted_call_goes_on_with_the_batch_it_was_at(
    program: str, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.anatomy.synthseg._BATCH", 2)
    monkeypatch.setenv("FAIL_AFTER_ONE", "1")
    with pytest.raises(InputError, match="ended with status 1"):
        run_synthseg(images, tmp_path / "out", program)
    assert [path.name for path in (tmp_path / "out").glob("batch*")] == ["batch_00000"]
    monkeypatch.delenv("FAIL_AFTER_ONE")
    in_two = run_synthseg(images, tmp_path / "out", program)
    assert (tmp_path / "calls").read_text() == "called\n" * 2
    assert not list((tmp_path / "out").glob("batch*")) and len(list((tmp_path / "out").glob("*_dseg.nii.gz"))) == 3
    monkeypatch.setattr("tenfold.anatomy.synthseg._BATCH", 20)
    in_one = run_synthseg(images, tmp_path / "one", program)
    np.testing.assert_array_equal(in_two.volumes_SR, in_one.volumes_SR)


def test_failures_say_what_the_program_said_and_leave_no_result(program: str, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended with status 1 \(ERROR: cannot find /models/synthseg_2.0.h5\)"):
        run_synthseg(images, tmp_path / "fail", f"{program} --fail")
    with pytest.raises(InputError, match=r"sub-2: SynthSeg has written no labels|sub-10: SynthSeg"):
        run_synthseg(images, tmp_path / "forget", f"{program} --forget")
    with pytest.raises(InputError, match=r"SynthSeg has written no qc.csv"):
        run_synthseg(images, tmp_path / "old", f"{program} --old")
    for name in ("fail", "forget", "old"):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["segmentation.json"]


def test_images_that_cannot_be_read_are_named_and_hold_up_no_others(
    program: str, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have scores of 0; a batch of nothing else is no call of the program. A later call reads the same."""
    monkeypatch.setattr("tenfold.anatomy.synthseg._BATCH", 2)
    images.paths[2].unlink()
    images.paths[2].symlink_to(tmp_path / "nowhere.nii.gz")
    measured = run_synthseg(images, tmp_path / "out", program)
    assert measured.subjects == ("sub-1", "sub-2", "sub-10") and measured.people["age"] == ("61", "62", "70")
    assert gate(measured).reliable_S.tolist() == [True, True, False]
    assert list(read_refused(tmp_path / "out")) == ["sub-10"]
    assert (tmp_path / "calls").read_text() == "called\n"
    again = run_synthseg(images, tmp_path / "out", program)
    np.testing.assert_array_equal(again.volumes_SR, measured.volumes_SR)
    for path in images.paths:
        path.unlink()
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="no image could be read; the first: "):
        run_synthseg(images, tmp_path / "none", program)


def test_a_missing_program_is_one_line_that_says_what_else_there_is(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    with pytest.raises(InputError, match=r"mri_synthseg: is not installed here.*'lite' or 'atlas'"):
        run_synthseg(images, tmp_path / "out")
    with pytest.raises(InputError, match="open quotation mark"):
        find_synthseg("mri_synthseg 'a")
    (tmp_path / "bin").mkdir()
    Path(program).rename(tmp_path / "bin/mri_synthseg")
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path))
    assert find_synthseg() == [str(tmp_path / "bin/mri_synthseg")]


def test_a_stand_in_has_the_axes_it_is_promised(images: ImageSet) -> None:
    """The second image of the set is stored from right to left."""
    assert nibabel.aff2axcodes(nibabel.load(images.paths[1]).affine)[0] == "L"
