"""A point per image in each map, whole and escaped; few images have no t-SNE."""

import re
from xml.etree import ElementTree

import numpy as np

from tenfold.anatomy.scatter import feature_scatter


def _sets(count: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"real": draw.normal(size=(count, 6)), "<GAN>": draw.normal(1, 1, (count + 3, 6))}


def test_every_image_is_a_point_of_its_set_in_both_maps() -> None:
    svg = feature_scatter(_sets(20), "voxels").to_svg()
    ElementTree.fromstring(svg)
    counts = [path.count("M") for path in re.findall(r'<path d="([^"]*)"', svg)]
    assert counts == [1, 1, 20, 23, 20, 23]  # of the legend, of axes, of t-SNE
    assert "&lt;GAN&gt;" in svg and "t-SNE" in svg and svg == feature_scatter(_sets(20), "voxels").to_svg()


def test_few_images_have_no_neighbourhoods_to_show() -> None:
    assert "t-SNE" not in feature_scatter(_sets(5), "voxels").to_svg()


def test_points_stay_inside_their_frames() -> None:
    svg = feature_scatter(_sets(8), "voxels").to_svg()
    for x, y in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", svg)[2:]:
        assert 0 <= float(x) <= 480 and 56 <= float(y) <= 536
    feature_scatter({"real": np.ones((4, 2)), "same": np.ones((4, 2))}, "voxels")
