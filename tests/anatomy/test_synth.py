"""Images made of label maps carry their truth: shares sum to one, volumes are the map's, brightness follows it."""

import numpy as np
import pytest

from tenfold.anatomy.images import read_labels
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL
from tenfold.anatomy.synth import CLASSES, Synthesis, class_of_labels, middle_of, paint, strip, synthesise
from tenfold.anatomy.warps import RandomWarp

_STILL = Synthesis(
    grid=(56, 72, 64), warp=RandomWarp(0, 0, 0, 0, 0, 28.0, 0), t1=1, heads=0, bias=0, noise=0, thick=0, gamma=0
)


def test_classes_are_the_structures_of_the_paper_sides_merged():
    """Background and 18 structures; left and right labels, and choroid plexus with its ventricle, are one class."""
    table = class_of_labels()
    assert len(CLASSES) == 19
    assert table[17] == table[53] == CLASSES.index("hippocampus")
    assert table[136] == table[163] == table[4] == CLASSES.index("lateral ventricle")
    assert table[516] == table[0] == table[85] == 0
    assert set(
        table[[code for one in SUBCORTICAL + GLOBAL for codes in one.freesurfer.values() for code in codes]]
    ) == (set(range(1, 19)))


def test_shares_sum_to_one_and_keep_volumes(head):
    """Without a warp the truth has the map's volumes, to the borders' share of a voxel."""
    made = synthesise(head, np.random.default_rng(0), _STILL)
    np.testing.assert_allclose(made.shares_KXYZ.sum(0), 1, atol=1e-5)
    counts = np.bincount(class_of_labels()[head.labels_XYZ].ravel(), minlength=19)
    for name in ("cerebral white matter", "thalamus", "lateral ventricle", "brain-stem"):
        number = CLASSES.index(name)
        assert made.shares_KXYZ[number].sum() == pytest.approx(counts[number], rel=0.02), name


def test_white_matter_is_brightest_in_t1_and_fluid_darkest(head):
    """In the mean over many images of T1 contrast."""
    draws = np.random.default_rng(0)
    means = []
    for _ in range(20):
        image = paint(head.labels_XYZ, draws)
        means.append([image[head.labels_XYZ == label].mean() for label in (4, 3, 2)])
    fluid, grey, white = np.mean(means, 0)
    assert fluid < grey < white


def test_the_same_draw_gives_the_same_image_and_another_another(head):
    """Everything is drawn from the generator that is given."""
    one, same, other = (synthesise(head, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image_XYZ, same.image_XYZ)
    assert not np.array_equal(one.image_XYZ, other.image_XYZ)


@pytest.mark.parametrize("t1", [0.0, 1.0])
def test_images_are_in_their_range(head, t1):
    """0 to 1, finite, and not empty, whatever is drawn."""
    for seed in range(5):
        made = synthesise(head, np.random.default_rng(seed), Synthesis(t1=t1, heads=0.5))
        assert made.image_XYZ.dtype == made.shares_KXYZ.dtype == np.float32
        assert made.image_XYZ.shape == (48, 64, 48)
        assert np.isfinite(made.image_XYZ).all()
        assert 0 <= made.image_XYZ.min() < made.image_XYZ.max() <= 1


def test_stripping_takes_the_skull_and_keeps_the_brain(head):
    """No tissue of the head is left; every voxel of brain is; a wider mask keeps some of it."""
    stripped = strip(head.labels_XYZ)
    assert not (stripped == 516).any()
    is_brain = class_of_labels()[head.labels_XYZ] > 0
    np.testing.assert_array_equal(stripped[is_brain], head.labels_XYZ[is_brain])
    assert (strip(head.labels_XYZ, grow=1) == 516).any()
    assert not (strip(head.labels_XYZ, csf=False) == 24).any()


def test_real_label_maps_have_all_classes_and_a_middle_inside(anatomy_data):
    """Sixteen real heads: each has every structure, and its middle lies in the brain's box."""
    for path in sorted((anatomy_data / "labelmaps").glob("*.nii.gz")):
        labels = read_labels(path)
        classes = class_of_labels()[labels.labels_XYZ]
        assert len(np.unique(classes)) == 19, path
        place = np.linalg.inv(labels.affine) @ [*middle_of(labels), 1]
        where = np.argwhere(classes > 0)
        assert (where.min(0) < place[:3]).all()
        assert (place[:3] < where.max(0)).all()
