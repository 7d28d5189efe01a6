"""Predicted Dice scores: pairs are what they say, the predictor learns from them, and what is spoilt fails the gate."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.corruptions import blur, cut_out  # noqa: E402
from tenfold.anatomy.gate import THRESHOLD  # noqa: E402
from tenfold.anatomy.images import Image, read_image, read_labels  # noqa: E402
from tenfold.anatomy.labels import QC_GROUPS  # noqa: E402
from tenfold.anatomy.lite import LiteSegmenter  # noqa: E402
from tenfold.anatomy.lite_training import LiteConfig, make_pairs, train_lite  # noqa: E402
from tenfold.anatomy.quality import (  # noqa: E402
    Pairs,
    Quality,
    QualityConfig,
    agreement,
    group_dice,
    train_quality,
)
from tenfold.anatomy.synth import Synthesis, synthesise  # noqa: E402
from tenfold.core.errors import InputError  # noqa: E402

from .conftest import made_head  # noqa: E402

_TINY = Synthesis(mm=6.0, grid=(24, 32, 24), t1=1.0, heads=0.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LiteSegmenter:
    """A tiny segmenter after a few steps."""
    folder = tmp_path_factory.mktemp("lite")
    train_lite([made_head()], folder, LiteConfig(4, 2, 20, synthesis=_TINY), workers=0, quiet=True)
    return LiteSegmenter(folder / "last")


@pytest.fixture(scope="module")
def pairs(small: LiteSegmenter, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """A dozen pairs of it."""
    return make_pairs([made_head()], small, 12, tmp_path_factory.mktemp("pairs"), synthesis=_TINY)


def test_dice_of_groups_by_hand():
    """The truth against itself is 1 in each group; against nothing 0, and 1 where neither has any."""
    made = synthesise(made_head(), np.random.default_rng(0), _TINY)
    np.testing.assert_allclose(group_dice(made.shares_KXYZ, made.shares_KXYZ), 1)
    nothing = np.zeros_like(made.shares_KXYZ)
    nothing[0] = 1
    np.testing.assert_allclose(group_dice(nothing, made.shares_KXYZ), 0)
    np.testing.assert_allclose(group_dice(nothing, nothing), 1)


def test_pairs_are_kept_and_made_again_alike(small, pairs, tmp_path):
    """A second call reads what the first kept, one with other maps does not; another folder gets the same values.
    What is cut is named."""
    again = make_pairs([made_head()], small, 12, tmp_path, synthesis=_TINY)
    np.testing.assert_array_equal(again.dice_NG, pairs.dice_NG)
    np.testing.assert_array_equal(again.maps_NCxyz, pairs.maps_NCxyz)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make_pairs([made_head()], small, 12, tmp_path, synthesis=_TINY)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    others = make_pairs([made_head(mm=2.9)], small, 12, tmp_path, synthesis=_TINY)
    assert not np.array_equal(others.numbers_NF, pairs.numbers_NF)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged; remove it"):
        make_pairs([made_head()], small, 12, tmp_path, synthesis=_TINY)


def test_the_predictor_learns_and_belongs_to_its_segmenter(small, pairs, tmp_path):
    """Scores are between 0 and 1; a predictor of another segmenter is refused, and so is a run with other pairs."""
    config = QualityConfig(width=8, epochs=3, batch_size=4)
    train_quality(pairs, pairs, small.name, tmp_path, config, quiet=True)
    quality = Quality(tmp_path / "quality", small.name)
    made = synthesise(made_head(), np.random.default_rng(3), _TINY)
    scores = quality(small.on_grid(made.image_XYZ))
    assert set(scores) == set(QC_GROUPS)
    assert all(0 <= score <= 1 for score in scores.values())
    with pytest.raises(InputError, match="was taught on"):
        Quality(tmp_path / "quality", "another")
    with pytest.raises(InputError, match="is of another run: pairs was"):
        train_quality(replace(pairs, dice_NG=1 - pairs.dice_NG), pairs, small.name, tmp_path, config, quiet=True)
    file = tmp_path / "quality/config.json"
    told = json.loads(file.read_text())
    told["curves"][0] = [[0, 1], [0, 0.5]]
    file.write_text(json.dumps(told))
    assert Quality(tmp_path / "quality", small.name).digest != quality.digest
    for name in ("width", "curves"):
        file.write_text(json.dumps({key: value for key, value in told.items() if key != name}))
        with pytest.raises(InputError, match=r"its config\.json is damaged"):
            Quality(tmp_path / "quality", small.name)


def test_agreement_is_mean_error_and_rank_correlation():
    """By hand: equal orders have a rank correlation of 1, a shift is the error."""
    truth = np.tile(np.linspace(0, 0.8, 9)[:, None], (1, 8))
    found = agreement(truth + 0.1, truth)
    np.testing.assert_allclose(found.mae_G, 0.1)
    np.testing.assert_allclose(found.spearman_G, 1)


# --- the weights of the package --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite() -> LiteSegmenter:
    """The segmenter with its predictor."""
    return LiteSegmenter()


def _brains(anatomy_data: Path, count: int) -> list[Image]:
    return [read_image(path) for path in sorted((anatomy_data / "t1").glob("sub-*_T1w.nii.gz"))[:count]]


def _passes(lite: LiteSegmenter, image: Image) -> bool:
    return all(score > THRESHOLD for score in lite(image).qc.values())


def test_clean_real_brains_pass_and_ruined_ones_do_not(lite, anatomy_data):
    """Six real brains as they are, one of them longer than the grid of training; blurred by 6 mm; with 40 % cut out."""
    brains = _brains(anatomy_data, 6)
    draw = np.random.default_rng(0)
    clean = [_passes(lite, image) for image in brains]
    blurred = [_passes(lite, Image(blur(one.voxels_XYZ, 6.0, 2.0), one.affine, one.path)) for one in brains]
    cut = [_passes(lite, Image(cut_out(one.voxels_XYZ, 0.4, draw), one.affine, one.path)) for one in brains]
    assert all(clean)
    assert np.mean(blurred) <= 0.2
    assert np.mean(cut) <= 0.2


def test_noise_and_a_smooth_ball_never_pass(lite):
    """What is no brain gets no reliable segmentation."""
    draw = np.random.default_rng(0)
    affine = np.diag([3.0, 3, 3, 1])
    pure = Image(draw.uniform(0, 1, (48, 64, 48)).astype(np.float32), affine, Path("noise"))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (48, 64, 48)), indexing="ij")
    ball = Image((x**2 + y**2 + z**2 < 0.7).astype(np.float32), affine, Path("ball"))
    assert not _passes(lite, pure)
    assert not _passes(lite, ball)


def test_scores_order_the_truth_on_unseen_people(lite, anatomy_data, tmp_path):
    """Forty spoilt images of people the segmenter has not learned from: rank correlation of 0.7 in the mean."""
    maps = [
        read_labels(path)
        for path in sorted((anatomy_data / "labelmaps").glob("*.nii.gz"))
        if path.name not in lite.learned_from
    ]
    pairs = make_pairs(maps[-2:], lite, 40, tmp_path, seed=77)
    assert lite.quality is not None
    found = agreement(lite.quality.of_pairs(pairs), pairs.dice_NG)
    assert np.mean(found.spearman_G) >= 0.7
    assert np.mean(found.mae_G) <= 0.15
