"""Label maps of other people segment real brains as DLMUSE does, and made ones as they were made."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.atlas import AtlasSegmenter, group_masks
from tenfold.anatomy.gate import THRESHOLD
from tenfold.anatomy.images import Image, read_image, read_labels, write_image
from tenfold.anatomy.labels import GLOBAL, QC_GROUPS, SUBCORTICAL
from tenfold.anatomy.segmenters import Segmentation
from tenfold.anatomy.synth import CLASSES, Sample, Synthesis, class_of_labels, synthesise
from tenfold.core.errors import InputError

pytest.importorskip("SimpleITK", reason="the extra anatomy is not installed")


@pytest.fixture(scope="module")
def atlas(anatomy_data: Path) -> AtlasSegmenter:
    """All sixteen label maps."""
    return AtlasSegmenter(anatomy_data / "labelmaps")


@pytest.fixture(scope="module")
def real(atlas: AtlasSegmenter, anatomy_data: Path) -> tuple[Image, Segmentation]:
    """A real brain, 82 years old, and its segmentation."""
    image = read_image(anatomy_data / "t1/sub-nc01_desc-brain_T1w.nii.gz")
    return image, atlas(image)


@pytest.fixture(scope="module")
def made(atlas: AtlasSegmenter) -> Sample:
    """An image made of label map 6, shifted and scaled."""
    return synthesise(atlas.maps[6], np.random.default_rng(3), Synthesis(t1=1.0, heads=0.0, noise=0.03))


@pytest.fixture(scope="module")
def segmented(atlas: AtlasSegmenter, made: Sample) -> tuple[Segmentation, dict[str, float]]:
    """Its segmentation by the other fifteen."""
    return atlas.score(Image(made.image_XYZ, np.diag([3.0, 3, 3, 1]), Path("made")), without=6)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def test_five_label_maps_beat_one_on_a_real_brain(
    real: tuple[Image, Segmentation], anatomy_data: Path, atlas: AtlasSegmenter
) -> None:
    """Against DLMUSE, side by side; the bounds are the figures measured with one label map and plain SimpleITK."""
    truth = read_labels(anatomy_data / "t1/sub-nc01_desc-dlmuse_dseg.nii.gz").labels_XYZ
    image, found = real
    assert found.labels_XYZ.dtype == np.int16 and found.labels_XYZ.shape == image.voxels_XYZ.shape
    bounds = {"lateral ventricle": 0.84, "hippocampus": 0.65, "thalamus": 0.73, "brain-stem": 0.85}
    for one in SUBCORTICAL:
        for side, codes in one.muse.items():
            if one.name in bounds:
                score = dice(np.isin(found.labels_XYZ, one.freesurfer[side]), np.isin(truth, codes))
                assert score > bounds[one.name], (one.name, side, score)
                assert found.volumes[one.name][side] == pytest.approx(np.isin(truth, codes).sum() * 8, rel=0.5)
    assert found.icv == pytest.approx((truth > 0).sum() * 8, rel=0.1)
    assert list(found.qc) == list(QC_GROUPS) and 0.5 < min(found.qc.values()) <= max(found.qc.values()) < 1
    assert atlas.name.startswith("atlas, 5 of 16 label maps ")


def test_volumes_have_every_structure_and_go_with_the_labels(real: tuple[Image, Segmentation]) -> None:
    image, found = real
    voxel = float(np.prod(image.zooms))
    assert set(found.volumes) == {one.name for one in SUBCORTICAL + GLOBAL}
    for name, codes in {"thalamus": (10, 49), "cerebral white matter": (2, 41), "lateral ventricle": (4, 43)}.items():
        for side, code in zip(("left", "right"), codes, strict=True):
            counted = (found.labels_XYZ == code).sum() * voxel
            assert found.volumes[name][side] == pytest.approx(counted, rel=0.15)


def test_a_made_brain_is_segmented_as_it_was_made(
    made: Sample, segmented: tuple[Segmentation, dict[str, float]]
) -> None:
    """The image is made of a label map that the segmenter may not use."""
    found = class_of_labels()[segmented[0].labels_XYZ]
    truth = made.shares_KXYZ.argmax(0)
    bounds = {"cerebral white matter": 0.7, "thalamus": 0.7, "brain-stem": 0.75, "lateral ventricle": 0.6}
    for name, bound in bounds.items():
        score = dice(found == CLASSES.index(name), truth == CLASSES.index(name))
        assert score > bound, (name, score)


def test_label_maps_agree_less_on_noise_than_on_a_brain_and_the_gate_refuses_it(
    atlas: AtlasSegmenter, made: Sample, segmented: tuple[Segmentation, dict[str, float]]
) -> None:
    draw = np.random.default_rng(0)
    noise = np.where(made.image_XYZ > 0, draw.random(made.image_XYZ.shape), 0).astype(np.float32)
    found, agreement = atlas.score(Image(noise, np.diag([3.0, 3, 3, 1]), Path("noise")))
    assert list(agreement) == list(QC_GROUPS) and found.icv > 0
    assert all(0 <= agreement[group] < segmented[1][group] <= 1 for group in QC_GROUPS), agreement
    assert sum(agreement.values()) < 0.6 * sum(segmented[1].values())
    assert min(found.qc.values()) < THRESHOLD


def test_noise_without_any_brain_is_segmented_without_an_error(atlas: AtlasSegmenter) -> None:
    draw = np.random.default_rng(0)
    image = Image(draw.random((20, 24, 20), np.float32), np.diag([4.0, 4, 4, 1]), Path("noise"))
    found, agreement = atlas.score(image)
    assert found.labels_XYZ.shape == (20, 24, 20) and np.isfinite(list(agreement.values())).all()
    assert max(agreement.values()) < 0.5


def test_groups_hold_the_structures_of_synthsegs_table() -> None:
    masks = group_masks(np.array([0, 24, 2, 42, 43, 8, 16, 49, 13, 54], np.int16))
    assert [int(np.flatnonzero(masks[group])[0]) for group in QC_GROUPS] == list(range(2, 10))
    assert sum(int(mask.sum()) for mask in masks.values()) == 8  # background and outer fluid are in none


def test_folders_that_cannot_serve_are_refused(anatomy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no label maps"):
        AtlasSegmenter(tmp_path / "nowhere")
    for number in ("02", "03"):
        shutil.copy(anatomy_data / f"labelmaps/labels_{number}.nii.gz", tmp_path)
    with pytest.raises(InputError, match="5 of 2 label maps cannot be chosen"):
        AtlasSegmenter(tmp_path)
    labels = read_labels(tmp_path / "labels_03.nii.gz")
    write_image(tmp_path / "labels_03.nii.gz", np.where(labels.labels_XYZ == 17, 0, labels.labels_XYZ), labels.affine)
    with pytest.raises(InputError, match=r"labels_03.nii.gz: has no label 17; an atlas needs"):
        AtlasSegmenter(tmp_path, k=1)
