"""A folder of images is a generator that gives them in order and learns nothing."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.images import write_image
from tenfold.core.errors import InputError

from .conftest import GRID

pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.generators.folder import FolderGenerator
from tenfold.anatomy.generators.interface import Budget


def test_images_come_in_order_whatever_the_seed(heads):
    made = FolderGenerator(heads.folder)
    drawn = made.sample(3, seed=9)
    assert made.grid == GRID and drawn.dtype == np.float32
    assert all(np.array_equal(drawn[number], heads[number].voxels_XYZ) for number in range(3))
    assert np.array_equal(FolderGenerator.load(heads.folder).sample(2), drawn[:2])


@pytest.mark.parametrize("count", [0, 5])
def test_no_more_than_there_are(heads, count):
    with pytest.raises(InputError, match=f"has 4 images, not {count}"):
        FolderGenerator(heads.folder).sample(count)


def test_files_that_state_no_voxel_size_need_one(heads, tmp_path):
    write_image(tmp_path / "generated_sample_0.nii.gz", heads[0].voxels_XYZ, np.eye(4))
    with pytest.raises(InputError, match="states no voxel size"):
        FolderGenerator(tmp_path)
    assert FolderGenerator(tmp_path, voxel_mm=4).sample(1).shape == (1, *GRID)


def test_another_shape_is_refused(heads, tmp_path):
    write_image(tmp_path / "a_0.nii.gz", heads[0].voxels_XYZ, heads[0].affine)
    write_image(tmp_path / "a_1.nii.gz", heads[1].voxels_XYZ[:, 4:], heads[1].affine)
    with pytest.raises(InputError, match=r"a_1\.nii\.gz: has another shape than a_0\.nii\.gz"):
        FolderGenerator(tmp_path).sample(2)


def test_it_neither_learns_nor_is_saved(heads, tmp_path: Path):
    made = FolderGenerator(heads.folder)
    with pytest.raises(InputError, match="learns nothing"):
        made.fit(heads, tmp_path, Budget())
    with pytest.raises(InputError, match="copy it instead"):
        made.save(tmp_path, {})
