"""What the page says of images is what the metrics say on their own, and the drawings are there."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.appearance import compare_appearance
from tenfold.anatomy.imagemetrics import compare_images
from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import ImageSet, find_labels, open_images
from tenfold.core.errors import InputError

SHAPE = (24, 26, 22)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, ImageSet]:
    """Noisy balls with a label inside; `b` is darker."""
    distance = np.sqrt(sum((axis - size / 2) ** 2 for axis, size in zip(np.indices(SHAPE), SHAPE, strict=True)))
    draw, found = np.random.default_rng(0), {}
    for name, light in (("real", 0.4), ("a", 0.4), ("b", 0.0)):
        (tmp_path / name).mkdir()
        for number in range(4):
            voxels = np.where(distance < 9, light + draw.normal(0, 0.1, SHAPE), -1).clip(-1, 1)
            write_image(tmp_path / name / f"{number}.nii.gz", voxels.astype(np.float32), np.diag([4.0, 4, 4, 1]))
        found[name] = open_images(tmp_path / name, name)
    labels = np.select([distance < 4, distance < 6, distance < 9], [10, 2, 3]).astype(np.int16)
    write_image(tmp_path / "a" / "2_dseg.nii.gz", labels, np.diag([4.0, 4, 4, 1]))
    return found


def test_metrics_are_those_of_compare_images_and_all_is_drawn(sets: dict[str, ImageSet]) -> None:
    real, generated = sets["real"], {"a": sets["a"], "b": sets["b"]}
    labels = {"a": find_labels(sets["a"].folder, sets["a"])}
    found = compare_appearance(real, generated, labels, features=("handcrafted", "voxels"))
    for name, images in generated.items():
        assert found.metrics[name] == compare_images(real, images, features=("handcrafted", "voxels"))
    assert [table.title for table in found.tables] == [f"Image metrics: {name} against real" for name in "ab"]
    slices, *maps = (drawing.to_svg() for drawing in found.drawings)
    assert slices.count("<image") == 3 * 3 * 4 and slices.count("#4cff6a") == 1 + 3  # the key, three planes
    assert len(maps) == 2 and "handcrafted" in maps[0] and "voxels" in maps[1]


def test_nothing_is_drawn_where_no_page_is_wanted(sets: dict[str, ImageSet]) -> None:
    found = compare_appearance(sets["real"], {"a": sets["a"]}, features=("handcrafted",), draw=False)
    assert not found.drawings and len(found.tables) == 1


def test_generators_need_names_of_their_own(sets: dict[str, ImageSet]) -> None:
    for generated in ({}, {"real": sets["a"]}):
        with pytest.raises(InputError, match="call none of them 'real'"):
            compare_appearance(sets["real"], generated)
