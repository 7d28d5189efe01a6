"""Slices are of the middle and the right way up; outlines lie on the edges of what was segmented."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest

from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import find_labels, open_images
from tenfold.anatomy.slices import Pictures, _outlines, mid_slices
from tenfold.core.errors import InputError

SHAPE, AFFINE = (20, 24, 16), np.diag([2.0, 2, 3, 1])
CORTEX, THALAMUS, WHITE = 3, 10, 2


def write_pair(folder: Path, name: str, labels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """An image in [-1, 1], bright to the right, front and top, and its labels."""
    grid = np.indices(SHAPE).reshape(3, -1).T @ [1.0, 2.0, 4.0]
    voxels = (grid / grid.max() * 1.9 - 0.95).reshape(SHAPE).astype(np.float32)
    voxels[0, 0, 0] = -1
    write_image(folder / f"{name}_T1w.nii.gz", voxels, AFFINE)
    write_image(folder / f"{name}_dseg.nii.gz", labels.astype(np.int16), affine)


def block_labels() -> np.ndarray:
    labels = np.zeros(SHAPE, int)
    labels[2:18, 2:22, 2:14] = CORTEX
    labels[4:16, 4:20, 4:12] = WHITE
    labels[8:12, 9:15, 6:10] = THALAMUS
    return labels


def drawn(folder: Path) -> str:
    images = open_images(folder, "made")
    return mid_slices({"made": Pictures(images, find_labels(folder, images))}).to_svg()


def edges(svg: str, colour: str) -> list[set[tuple[float, float, float, float]]]:
    """The unit edges of a colour's paths, a set per path."""
    found = []
    for path in re.findall(rf'<path d="([^"]*)" fill="none" stroke="{colour}"', svg):
        units = set()
        for u, v, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path):
            for step in range(int(length)):
                across, down = (step, 0) if way == "h" else (0, step)
                units.add((int(u) + across, int(v) + down, way == "h", way == "v"))
        found.append(units)
    return found


def test_slices_are_the_middle_planes_with_top_and_right_where_they_belong(tmp_path: Path) -> None:
    pictures = pytest.importorskip("PIL.Image")
    write_pair(tmp_path, "a", block_labels())
    contents = re.findall(r'href="data:image/png;base64,([^"]*)"', drawn(tmp_path))
    coronal, axial, sagittal = (np.asarray(pictures.open(io.BytesIO(base64.b64decode(one)))) for one in contents)
    voxels = open_images(tmp_path)[0].voxels_XYZ
    for plane, slice_UV in ((coronal, voxels[:, 12]), (axial, voxels[:, :, 8]), (sagittal, voxels[10])):
        assert np.abs(plane[::-1].T.astype(int) - (slice_UV + 1) * 127.5).max() <= 0.5
        assert plane[0].mean() > plane[-1].mean() and plane[:, -1].mean() > plane[:, 0].mean()


def test_a_block_is_outlined_by_the_edges_of_its_pixels(tmp_path: Path) -> None:
    """The thalamus of 4 x 4 voxels in the coronal slice, in its own colour; the cortex inside and outside."""
    write_pair(tmp_path, "a", block_labels())
    svg = drawn(tmp_path)
    thalamus = edges(svg, "#4cff6a")[0]
    assert thalamus == {(u, v, True, False) for u in range(8, 12) for v in (6, 10)} | {
        (u, v, False, True) for u in (8, 12) for v in range(6, 10)
    }
    assert len(edges(svg, "#ff5a5a")[0]) == 2 * (16 + 12) + 2 * (12 + 8)
    assert not edges(svg, "#f0f0f0")  # white matter is the coarser wherever it ends


def test_labels_on_another_grid_are_looked_up_where_the_voxels_lie(tmp_path: Path) -> None:
    """Axes turned and mirrored, or voxels half as large: the same lines."""
    write_pair(tmp_path, "a", block_labels())
    plain = drawn(tmp_path)
    turned = nibabel.Nifti1Image(block_labels().astype(np.int16), AFFINE).as_reoriented(
        np.array([[2, -1], [0, 1], [1, -1]])
    )
    write_image(tmp_path / "a_dseg.nii.gz", np.asarray(turned.dataobj), turned.affine)
    assert drawn(tmp_path) == plain
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = -0.25 * np.diag(AFFINE)[:3]
    write_image(tmp_path / "a_dseg.nii.gz", np.kron(block_labels(), np.ones((2, 2, 2))).astype(np.int16), fine)
    assert drawn(tmp_path) == plain


def test_labels_of_another_box_are_left_out_and_said_so(tmp_path: Path) -> None:
    """As those of an image before its alignment: moved by more than a voxel, or of a larger volume."""
    moved = AFFINE.copy()
    for far in (2.9, 3.1):
        moved[0, 3] = far
        write_pair(tmp_path, "a", block_labels(), moved)
        assert ("a (its labels fill another box)" in drawn(tmp_path)) == (far > 3)
        assert bool(edges(drawn(tmp_path), "#4cff6a")) == (far < 3)
    write_image(tmp_path / "a_dseg.nii.gz", np.pad(block_labels(), 3).astype(np.int16), AFFINE)
    assert "another box" in drawn(tmp_path)


def test_labels_without_an_affine_have_the_voxel_size_that_is_given_for_the_images(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", block_labels(), np.eye(4))
    image = open_images(tmp_path)[0]
    write_image(tmp_path / "a_T1w.nii.gz", image.voxels_XYZ, np.eye(4))
    images = open_images(tmp_path, "made", voxel_mm=2)
    svg = mid_slices({"made": Pictures(images, find_labels(tmp_path, images))}).to_svg()
    assert len(edges(svg, "#4cff6a")) == 3
    write_image(tmp_path / "a_T1w.nii.gz", image.voxels_XYZ, AFFINE)
    with pytest.raises(InputError, match="states no voxel size"):
        drawn(tmp_path)


def test_outlines_of_random_classes_are_all_edges_between_different_pixels() -> None:
    classes = np.random.default_rng(0).integers(0, 10, (9, 11)).astype(np.uint8)
    padded = np.pad(classes, 1).astype(int)
    rows, columns = (padded[1:] != padded[:-1]).sum(), (padded[:, 1:] != padded[:, :-1]).sum()
    lengths = re.findall(r"[hv](\d+)", "".join(_outlines(classes)))
    assert sum(map(int, lengths)) == rows + columns


def test_four_images_of_a_set_are_shown_evenly_and_the_bytes_are_the_same_twice(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path, f"sample_{number}", block_labels())
    svg = drawn(tmp_path)
    assert "images 1, 4, 7, 10 of 10" in svg and svg.count("<image") == 12 and svg == drawn(tmp_path)
    ElementTree.fromstring(svg)


def test_real_brains_are_outlined_with_dlmuses_labels(anatomy_data: Path, tmp_path: Path) -> None:
    """All classes occur."""
    image = nibabel.load(anatomy_data / "t1/sub-nc01_desc-brain_T1w.nii.gz")
    voxels = np.asarray(image.dataobj, np.float32) / 127.5 - 1
    write_image(tmp_path / "sub-nc01_T1w.nii.gz", voxels, image.affine)
    images = open_images(tmp_path)
    labels = {"sub-nc01": anatomy_data / "t1/sub-nc01_desc-dlmuse_dseg.nii.gz"}
    svg = mid_slices({"real": Pictures(images, labels)}).to_svg()
    assert all(edges(svg, colour) for colour in ("#ff5a5a", "#ff9d00", "#35b8ff", "#d9a6ff", "#ffe600", "#4cff6a"))
