"""Tissues are found in mixtures whose truth is known, and in real brains as DLMUSE sees them."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.images import Image, read_image, read_labels, write_image
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL
from tenfold.anatomy.segmenters import segment
from tenfold.anatomy.sets import open_images
from tenfold.anatomy.tissue import TissuePriors, TissueSegmenter, brain_of, fit_tissues
from tenfold.core.errors import InputError

pytest.importorskip("SimpleITK", reason="the extra anatomy is not installed")

MEANS, DEVIATIONS, SHARES = np.array([30.0, 90, 150]), np.array([8.0, 10, 7]), np.array([0.2, 0.45, 0.35])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def made_brain(noise: float, seed: int = 0) -> tuple[Image, np.ndarray]:
    """A ball of fluid around grey around white; and its tissue, 1 to 3."""
    radius = np.sqrt(sum((axis - 23.5) ** 2 for axis in np.indices((48, 48, 48))))
    tissue = np.select([radius < 12, radius < 17, radius < 21], [3, 2, 1], 0)
    draw = np.random.default_rng(seed)
    voxels = np.array([0, 50, 100, 150])[tissue] + noise * draw.standard_normal(tissue.shape) * (tissue > 0)
    return Image(voxels.clip(0, None).astype(np.float32), np.diag([2.0, 2, 2, 1]), Path("ball")), tissue


def test_a_mixture_of_three_gaussians_is_found_again() -> None:
    draw = np.random.default_rng(0)
    which = draw.choice(3, 200_000, p=SHARES)
    found = fit_tissues(draw.normal(MEANS[which], DEVIATIONS[which]))
    np.testing.assert_allclose(found.means_K, MEANS, atol=0.6)
    np.testing.assert_allclose(found.deviations_K, DEVIATIONS, rtol=0.08)
    np.testing.assert_allclose(found.shares_K, SHARES, atol=0.01)


@pytest.mark.parametrize("values", [np.full(500, 3.0), np.zeros(9), np.r_[np.zeros(50), np.ones(50)]])
def test_brains_of_one_or_two_values_give_finite_tissues(values: np.ndarray) -> None:
    found = fit_tissues(values)
    for numbers in (found.means_K, found.deviations_K, found.shares_K):
        assert np.isfinite(numbers).all()
    assert (found.deviations_K > 0).all() and found.shares_K.sum() == pytest.approx(1)


def test_neighbours_decide_where_noise_blurs_the_tissues() -> None:
    image, tissue = made_brain(18.0)
    alone, joint = (TissueSegmenter(smooth=smooth)(image).labels_XYZ for smooth in (0.0, 0.8))
    assert dice(np.isin(alone, (3, 42)), tissue == 2) < 0.85
    assert dice(np.isin(joint, (3, 42)), tissue == 2) > 0.95


def test_volumes_are_those_of_a_ball_and_its_halves_are_equal() -> None:
    image, tissue = made_brain(8.0)
    found = TissueSegmenter()(image)
    white = found.volumes["cerebral white matter"]
    assert white["left"] + white["right"] == pytest.approx((tissue == 3).sum() * 8, rel=0.02)
    assert white["left"] == pytest.approx(white["right"], rel=0.02)
    assert found.volumes["csf"]["middle"] == pytest.approx((tissue == 1).sum() * 8, rel=0.05)
    assert found.icv == pytest.approx((tissue > 0).sum() * 8, rel=0.01) and not found.qc
    assert set(np.unique(found.labels_XYZ)) == {0, 2, 3, 24, 41, 42}
    assert set(np.unique(found.labels_XYZ[:23])) == {0, 2, 3, 24}  # left is where X is small, in RAS


def test_the_result_does_not_depend_on_the_scale_of_brightness() -> None:
    image, _ = made_brain(12.0)
    scaled = Image(image.voxels_XYZ / 75 - 1, image.affine, image.path)
    one, other = (TissueSegmenter()(given).labels_XYZ for given in (image, scaled))
    assert (one != other).mean() < 0.001


def test_a_background_with_traces_of_noise_is_no_brain() -> None:
    """Generated images have no background of one value."""
    image, tissue = made_brain(5.0)
    traces = image.voxels_XYZ + np.random.default_rng(1).random(tissue.shape, np.float32) * 6
    found = brain_of(Image(traces, image.affine, image.path))
    assert dice(found, tissue > 0) > 0.98


def test_real_brains_have_the_white_matter_that_dlmuse_finds(anatomy_data: Path) -> None:
    image = read_image(anatomy_data / "t1/sub-nc20_desc-brain_T1w.nii.gz")
    truth = read_labels(anatomy_data / "t1/sub-nc20_desc-dlmuse_dseg.nii.gz").labels_XYZ
    names = {"cerebral white matter": (2, 41), "cerebral cortex": (3, 42)}
    inside = truth > 0
    found = TissueSegmenter()(image).labels_XYZ
    by_name = {one.name: one for one in SUBCORTICAL + GLOBAL}
    for name, codes in names.items():
        wanted = [code for side in by_name[name].muse.values() for code in side]
        others = np.isin(truth, [62, 61, 60, 59, 35, 39, 38, 41, 40])  # no cerebral tissue
        score = dice(np.isin(found, codes) & inside & ~others, np.isin(truth, wanted))
        assert score > (0.85 if "white" in name else 0.7), (name, score)


def test_maps_of_where_tissues_are_expected_decide_where_brightness_does_not(
    anatomy_data: Path, tmp_path: Path
) -> None:
    """Maps that exclude white matter on one side of the head take it away there; on the other it stays."""
    source = read_image(anatomy_data / "t1/sub-nc20_desc-brain_T1w.nii.gz")
    image = Image(source.voxels_XYZ[::2, ::2, ::2].copy(), source.affine @ np.diag([2, 2, 2, 1.0]), source.path)
    inside = brain_of(image)
    right = np.arange(image.voxels_XYZ.shape[0])[:, None, None] > np.median(np.nonzero(inside)[0])
    write_image(tmp_path / "t1.nii.gz", image.voxels_XYZ, image.affine)
    write_image(tmp_path / "grey.nii.gz", np.where(inside, np.where(right, 0.9, 0.4), 0.0).astype(np.float32),
                image.affine)  # fmt: skip
    write_image(tmp_path / "white.nii.gz", np.where(inside & ~right, 0.4, 0.0).astype(np.float32), image.affine)
    priors = TissuePriors(*(tmp_path / f"{name}.nii.gz" for name in ("t1", "grey", "white")))
    with_maps, without = (TissueSegmenter(one)(image).volumes["cerebral white matter"] for one in (priors, None))
    assert with_maps["right"] < 0.6 * without["right"] and with_maps["left"] > 0.9 * without["left"]
    write_image(tmp_path / "white.nii.gz", image.voxels_XYZ, image.affine)
    with pytest.raises(InputError, match="give probabilities, 0 to 1"):
        TissueSegmenter(priors)


def test_a_set_is_segmented_into_a_table(tmp_path: Path) -> None:
    for number in range(2):
        image, _ = made_brain(8.0, number)
        (tmp_path / "images").mkdir(exist_ok=True)
        write_image(tmp_path / f"images/ball_{number}.nii.gz", image.voxels_XYZ, image.affine)
    measured = segment(open_images(tmp_path / "images"), TissueSegmenter(), tmp_path / "out")
    assert measured.regions == ("cerebral white matter", "cerebral cortex", "csf") and measured.qc_SG is None
    assert measured.segmenter.startswith("tissue")


def test_a_wrong_weight_of_neighbours_is_refused() -> None:
    with pytest.raises(InputError, match="smooth is -1; it is between 0 and 10"):
        TissueSegmenter(smooth=-1)
