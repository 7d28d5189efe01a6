"""A warp without change is the identity; chosen structures come to the volume asked for, and the rest stays."""

import dataclasses

import numpy as np
import pytest

from tenfold.anatomy.warps import RandomWarp, draw_places, resize_structures, take, take_labels, take_nearest
from tenfold.core.errors import InputError

from .conftest import made_head

_STILL = RandomWarp(0, 0, 0, 0, 0, 28.0, 0)


def test_without_change_every_voxel_comes_from_its_own_place(head):
    """A grid of the map's own voxels around its middle gives the map back."""
    places = draw_places(head.labels_XYZ.shape, 3.0, _STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(take_nearest(head, np.zeros(3), places), head.labels_XYZ)


def test_a_flip_swaps_left_and_right(head):
    """With a flip and nothing else the map is mirrored."""
    warp = dataclasses.replace(_STILL, flip=1.0)
    places = draw_places(head.labels_XYZ.shape, 3.0, warp, np.random.default_rng(0))
    np.testing.assert_array_equal(take_nearest(head, np.zeros(3), places), head.labels_XYZ[::-1])


def test_scale_changes_volumes_by_the_product_of_the_axes(head):
    """The volume of a large structure follows the determinant of the matrix, which the places show."""
    warp = dataclasses.replace(_STILL, scale=0.2)
    places = draw_places(head.labels_XYZ.shape, 3.0, warp, np.random.default_rng(3))
    steps = [np.diff(places[axis], axis=axis).mean() / 3.0 for axis in range(3)]
    taken = take_nearest(head, np.zeros(3), places)
    expected = (head.labels_XYZ == 2).sum() / np.prod(steps)
    assert (taken == 2).sum() == pytest.approx(expected, rel=0.03)


def test_outside_of_the_map_is_background(head):
    """Far away there is nothing."""
    far = np.full((3, 4, 4, 4), 1e4, np.float32)
    assert not take_nearest(head, np.zeros(3), far).any()


def test_structures_come_to_their_volume_and_others_hardly_change():
    """Hippocampi shrink to 75 %, ventricles grow to 140 %, nearly; the cerebellum and the far cortex stay."""
    head = made_head(2.0, (84, 102, 90))
    change = {(17,): 0.75, (53,): 0.75, (4,): 1.4, (43,): 1.4}
    warped = take_labels(head.labels_XYZ, resize_structures(head, change))
    for codes, factor in change.items():
        before, after = (np.isin(labels, codes).sum() for labels in (head.labels_XYZ, warped))
        assert after / before == pytest.approx(factor, abs=0.06)
    assert (warped == 8).sum() == pytest.approx((head.labels_XYZ == 8).sum(), rel=0.02)
    assert (warped == 3).sum() == pytest.approx((head.labels_XYZ == 3).sum(), rel=0.02)
    assert (warped == 49).sum() == pytest.approx((head.labels_XYZ == 49).sum(), rel=0.15)


def test_a_resized_structure_is_not_folded(head):
    """Along every axis coordinates keep their order: the warp can be undone."""
    places = resize_structures(head, {(4,): 1.4, (17,): 0.75})
    for axis in range(3):
        assert np.diff(places[axis], axis=axis).min() > 0


def test_what_cannot_be_resized_is_refused(head):
    """A structure that is not there, and a volume that no smooth warp reaches."""
    with pytest.raises(InputError, match="has no voxel of 77"):
        resize_structures(head, {(77,): 1.2})
    with pytest.raises(InputError, match="cannot be brought to 40 of its volume"):
        resize_structures(head, {(17,): 40.0})


def test_values_between_voxels_are_linear():
    """A ramp stays a ramp at half voxels, and the edge goes on outside."""
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None], (6, 6, 6)).copy()
    places = np.stack(np.meshgrid([0.5, 2.25, 9.0], [1.0], [1.0], indexing="ij")).astype(np.float32)
    np.testing.assert_allclose(take(ramp, places)[:, 0, 0], [0.5, 2.25, 5.0], atol=1e-5)
