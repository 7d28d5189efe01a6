"""Heads are processed alike however they are stored; sets are processed the same again, and after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.images import Image, read_image, write_image
from tenfold.anatomy.processing import Prepared, normalise, open_template, prepare, prepare_image
from tenfold.anatomy.sets import open_images
from tenfold.anatomy.sidecars import Processing
from tenfold.core.errors import InputError

pytest.importorskip("SimpleITK", reason="the extra anatomy is not installed")


@pytest.fixture(scope="module")
def template_path(anatomy_data: Path) -> Path:
    """A real brain without skull as the template."""
    return anatomy_data / "t1/sub-nc10_desc-brain_T1w.nii.gz"


@pytest.fixture
def brains(anatomy_data: Path, tmp_path: Path) -> Path:
    """Three real brains in a folder."""
    folder = tmp_path / "brains"
    folder.mkdir()
    for number in ("01", "03", "15"):
        shutil.copy(anatomy_data / f"t1/sub-nc{number}_desc-brain_T1w.nii.gz", folder)
    (folder / "participants.tsv").write_text("participant_id\tage\nsub-nc01\t82\n")
    return folder


def _tissue(made: Prepared, mm: float) -> float:
    """Bright tissue in mm3 of the head as it was."""
    return float((made.voxels_XYZ > 0).sum() * mm**3 / made.facts["enlarged"])


def _thick(image: Image) -> Image:
    """The same head in slices of 5 mm: means over the slices of 2 mm that lie in them, by share."""
    from tenfold.anatomy.alignment import resample_to  # noqa: PLC0415

    affine = image.affine @ np.diag([1, 1, 2.5, 1])
    affine[:3, 3] = (image.affine @ [0, 0, 0.75, 1])[:3]
    x, y, z = image.voxels_XYZ.shape
    empty = Image(np.zeros((x, y, int(z / 2.5)), np.float32), affine, image.path)
    return Image(resample_to(image, empty), affine, image.path)


def test_a_real_head_gives_the_same_tissue_flipped_rotated_and_in_thick_slices(anatomy_data, template_path, tmp_path):
    """The head is stored P, S, R. Its turned copies are read to equal images; 2 x 2 x 5 mm gives volumes near."""
    import nibabel  # noqa: PLC0415

    path = anatomy_data / "t1/IXI012-HH-1211_T1w.nii.gz"
    stored, image = nibabel.load(path), read_image(path)
    for name, turn in {"flipped": [[0, -1], [1, 1], [2, -1]], "rotated": [[1, -1], [0, 1], [2, 1]]}.items():
        nibabel.save(stored.as_reoriented(np.array(turn)), tmp_path / f"{name}.nii.gz")
        turned = read_image(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(turned.voxels_XYZ, image.voxels_XYZ, rtol=1e-5)
        np.testing.assert_allclose(turned.affine, image.affine, atol=1e-5)
    processing = Processing(template_path.name, "", mm=4.0)
    template = open_template(template_path, processing)
    whole, thick = (prepare_image(one, template, processing) for one in (image, _thick(image)))
    assert thick.facts["brain_mm3"] == pytest.approx(whole.facts["brain_mm3"], rel=0.1)
    assert _tissue(thick, 4.0) == pytest.approx(_tissue(whole, 4.0), rel=0.1)
    truth = read_image_labels(anatomy_data / "t1/IXI012-HH-1211_desc-dlmuse_dseg.nii.gz")
    assert whole.facts["brain_mm3"] == pytest.approx(truth, rel=0.15)  # that mask has the CSF around the brain, too
    assert whole.facts["similarity"] > 0.85 and whole.facts["outside_box"] < 0.03
    assert whole.voxels_XYZ.shape == (36, 48, 36)
    assert (whole.voxels_XYZ.min(), whole.voxels_XYZ.max()) == (-1, 1)


def read_image_labels(path: Path) -> float:
    """Volume of all labels in mm3."""
    from tenfold.anatomy.images import read_mask  # noqa: PLC0415

    mask = read_mask(path)
    return float(mask.voxels_XYZ.sum() * np.prod(mask.zooms))


def test_alignment_finds_a_known_shift_turn_and_scale(template_path):
    from tenfold.anatomy.alignment import determinant, register, stripped_mask  # noqa: PLC0415

    template = read_image(template_path)
    angle, scale = 0.15, 1.12
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = scale * turn, (8, -5, 12)
    moved = Image(template.voxels_XYZ, move @ template.affine, template.path)  # the same voxels, elsewhere
    found = register(moved, template, stripped_mask(template), "affine", 0)
    assert determinant(found) == pytest.approx(scale**3, rel=0.02)
    flip = np.array([-1, -1, 1])
    for point in ([0, 0, 0], [30, 20, -10], [-40, 30, 20]):
        expected = (move @ [*(point * flip), 1])[:3] * flip
        np.testing.assert_allclose(found.TransformPoint([float(one) for one in point]), expected, atol=1.5)


def test_bias_field_is_taken_off(template_path):
    from tenfold.anatomy.alignment import correct_bias, stripped_mask  # noqa: PLC0415

    whole = read_image(template_path)
    coarse = whole.affine @ np.diag([2, 2, 2, 1])
    image = Image(np.ascontiguousarray(whole.voxels_XYZ[::2, ::2, ::2]), coarse, whole.path)
    inside = stripped_mask(image)
    even = correct_bias(image, inside).voxels_XYZ
    slope = np.exp(np.linspace(-0.4, 0.4, image.voxels_XYZ.shape[1]))[:, None].astype(np.float32)
    fixed = correct_bias(Image(image.voxels_XYZ * slope, image.affine, image.path), inside).voxels_XYZ
    ratio = fixed[inside & (even > 20)] / even[inside & (even > 20)]
    assert ratio.std() / ratio.mean() < 0.06 < 0.15 < (slope / slope.mean()).std()


def test_intensities_are_those_of_the_papers_code():
    box = np.random.default_rng(0).gamma(2, 50, (20, 20, 20)).astype(np.float32)
    box[:8] = 0
    top, bottom = np.percentile(box, 95), np.percentile(box, 5)
    clipped = np.where(box <= top, box, top)
    expected = np.where(clipped <= bottom, 0.0, clipped) / top * 2 - 1
    found, low, high = normalise(box, Processing("", ""), Path("a"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (low, high) == pytest.approx((bottom, top))
    with pytest.raises(InputError, match="at most 5 %"):
        normalise(np.zeros((9, 9, 9), np.float32), Processing("", ""), Path("a"))


@pytest.mark.parametrize(("mm", "padded"), [(1.0, (144, 192, 144)), (3.0, (48, 64, 48)), (4.0, (36, 48, 36))])
def test_the_grid_is_the_papers_at_any_voxel_size(template_path, mm, padded):
    template = open_template(template_path, Processing("", "", mm=mm))
    assert template.grid.voxels_XYZ.shape == padded and template.grid.zooms == (mm,) * 3
    if mm == 1:
        assert [(one.start, one.stop) for one in template.box] == [(3, 141), (8, 184), (3, 141)]
    kept = (template.grid.voxels_XYZ[template.box] > 20).sum() / (template.grid.voxels_XYZ > 20).sum()
    assert kept > 0.97


QUICK = {"mm": 4.0, "mask": "stripped", "bias": "none", "align": "none"}


def test_a_set_is_a_bids_derivative_with_sidecars_and_the_same_bytes_again(brains, template_path, tmp_path):
    quick = {**QUICK, "align": "rigid", "bias": "n4"}
    (brains / "sub-nc03_desc-brain_T1w.nii.gz").unlink()
    (brains / "sub-nc15_desc-brain_T1w.nii.gz").unlink()
    image = read_image(brains / "sub-nc01_desc-brain_T1w.nii.gz")
    write_image(image.path, image.voxels_XYZ[::2, ::2, ::2], image.affine @ np.diag([2, 2, 2, 1]))
    outs = [prepare(open_images(brains), template_path, tmp_path / name, **quick) for name in ("a", "b")]
    assert not outs[0].refused and outs[0].images.names == ("sub-nc01",)
    assert outs[0].images.participants["sub-nc01"]["age"] == "82"
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert Path("sub-nc01/anat/sub-nc01_space-subnc10descbrainT1w_desc-prepared_T1w.nii.gz") in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_other_parameters_do_not_go_into_the_same_folder(brains, template_path, tmp_path):
    prepare(open_images(brains), template_path, tmp_path / "out", **QUICK)
    with pytest.raises(InputError, match=r"mm 4.0 in .*, 3.0 in this call"):
        prepare(open_images(brains), template_path, tmp_path / "out", **{**QUICK, "mm": 3.0})


def test_images_that_the_set_no_longer_has_do_not_stay_unnoticed(brains, template_path, tmp_path):
    """They would count as images of the set; which of them to remove is not for us to say."""
    prepare(open_images(brains), template_path, tmp_path / "out", **QUICK)
    (brains / "sub-nc15_desc-brain_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match=r"holds sub-nc15_space-.*_T1w.nii.gz, of no image in .*brains; remove"):
        prepare(open_images(brains), template_path, tmp_path / "out", **QUICK)
    shutil.rmtree(tmp_path / "out/sub-nc15")
    assert len(prepare(open_images(brains), template_path, tmp_path / "out", **QUICK).images) == 2


def test_a_renamed_template_is_the_same_template(brains, template_path, tmp_path):
    first = prepare(open_images(brains), template_path, tmp_path / "out", **QUICK).images
    stamps = [path.stat().st_mtime_ns for path in first.paths]
    shutil.copy(template_path, tmp_path / "renamed.nii.gz")
    again = prepare(open_images(brains), tmp_path / "renamed.nii.gz", tmp_path / "out", **QUICK).images
    assert again == first
    assert [path.stat().st_mtime_ns for path in again.paths] == stamps


def test_bad_images_are_left_out_and_named(brains, template_path, tmp_path):
    whole = (brains / "sub-nc01_desc-brain_T1w.nii.gz").read_bytes()
    (brains / "sub-cut_T1w.nii.gz").write_bytes(whole[: len(whole) // 2])
    made = prepare(open_images(brains), template_path, tmp_path / "out", **QUICK)
    assert list(made.refused) == ["sub-cut"] and len(made.images) == 3
    assert "the file is cut" in (tmp_path / "out/refused.tsv").read_text()
    for path in brains.glob("sub-nc*"):
        path.unlink()
    with pytest.raises(InputError, match=r"no image could be processed; the first: .*the file is cut"):
        prepare(open_images(brains), template_path, tmp_path / "none", **QUICK)


def test_masks_are_given_and_must_fit(anatomy_data, brains, template_path, tmp_path):
    given = {**QUICK, "mask": "given"}
    made = prepare(open_images(brains), template_path, tmp_path / "a", masks=anatomy_data / "t1", **given)
    facts = json.loads(next((tmp_path / "a").rglob("sub-nc01*.json")).read_text())
    truth = read_image_labels(anatomy_data / "t1/sub-nc01_desc-dlmuse_dseg.nii.gz")
    assert facts["brain_mm3"] == truth and not made.refused
    masks = tmp_path / "masks"
    masks.mkdir()
    image = made.images[0]
    write_image(masks / "sub-nc01_mask.nii.gz", (image.voxels_XYZ > -1).astype(np.uint8), image.affine)
    with pytest.raises(InputError, match=r"no image could be processed; the first: .*lies on another grid"):
        prepare(open_images(brains), template_path, tmp_path / "b", masks=masks, **given)
    with pytest.raises(InputError, match="name both or neither"):
        prepare(open_images(brains), template_path, tmp_path / "c", **given)


def test_a_mask_of_a_few_voxels_is_refused_and_holds_up_no_others(anatomy_data, brains, template_path, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in ("01", "03"):
        image = read_image(brains / f"sub-nc{number}_desc-brain_T1w.nii.gz")
        inside = image.voxels_XYZ > 0
        if number == "01":
            inside[...] = False
            inside[40:42, 40, 40] = True
        write_image(masks / f"sub-nc{number}_mask.nii.gz", inside.astype(np.uint8), image.affine)
    (brains / "sub-nc15_desc-brain_T1w.nii.gz").unlink()
    given = {**QUICK, "mask": "given", "bias": "n4"}
    made = prepare(open_images(brains), template_path, tmp_path / "out", masks=masks, **given)
    assert made.images.names == ("sub-nc03",)
    assert "its brain mask has 1.6e-05 litres" in made.refused["sub-nc01"]


def test_masks_without_an_affine_have_the_voxels_of_their_images(brains, template_path, tmp_path):
    image = read_image(brains / "sub-nc01_desc-brain_T1w.nii.gz")
    for folder in ("plain", "masks"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "plain/a.nii.gz", image.voxels_XYZ, np.eye(4))
    write_image(tmp_path / "masks/a_mask.nii.gz", (image.voxels_XYZ > 0).astype(np.uint8), np.eye(4))
    plain = open_images(tmp_path / "plain", voxel_mm=image.zooms)
    given = {**QUICK, "mask": "given", "masks": tmp_path / "masks"}
    assert not prepare(plain, template_path, tmp_path / "out", **given).refused


@pytest.mark.parametrize("seed", [-1, 2**32 - 1])
def test_a_seed_that_would_be_the_clock_is_refused(brains, template_path, tmp_path, seed):
    with pytest.raises(InputError, match=f"seed {seed}: give 0 to 4,294,967,294"):
        prepare(open_images(brains), template_path, tmp_path / "out", **QUICK, seed=seed)


def test_a_template_with_its_skull_is_refused(anatomy_data, brains, tmp_path):
    image = read_image(anatomy_data / "t1/IXI012-HH-1211_T1w.nii.gz")
    draw = np.random.default_rng(0)
    write_image(
        tmp_path / "head.nii.gz", image.voxels_XYZ + draw.random(image.voxels_XYZ.shape, np.float32), image.affine
    )
    with pytest.raises(InputError, match="not skull-stripped"):
        prepare(open_images(brains), tmp_path / "head.nii.gz", tmp_path / "out", **QUICK)


def test_a_killed_run_goes_on_where_it_was(brains, template_path, tmp_path):
    program = (
        "import sys; from tenfold.anatomy.processing import prepare; from tenfold.anatomy.sets import open_images\n"
        f"prepare(open_images(sys.argv[1]), sys.argv[2], sys.argv[3], **{QUICK!r}, mm=2.0)"
    ).replace("'mm': 4.0, ", "")
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", program, brains, template_path, out], env=environment)
    while not (done := list(out.rglob("sub-*.json"))) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert done
    first = done[0].with_name(done[0].name.replace(".json", ".nii.gz"))
    stamp = first.stat().st_mtime_ns
    prepare(open_images(brains), template_path, out, **{**QUICK, "mm": 2.0})
    assert first.stat().st_mtime_ns == stamp  # not made again
    prepare(open_images(brains), template_path, tmp_path / "whole", **{**QUICK, "mm": 2.0})
    for path in sorted((tmp_path / "whole").rglob("*.nii.gz")):
        assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert not list(out.rglob("*.partial"))
