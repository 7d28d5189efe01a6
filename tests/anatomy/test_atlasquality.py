"""Agreement becomes a Dice score by a rising curve, whose errors are those of label maps it has not seen."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.anatomy.atlas import AtlasSegmenter
from tenfold.anatomy.atlasquality import AtlasQuality, _curve, _errors, _group_dice, _read_off, calibrate_atlas
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.synth import CLASSES
from tenfold.core.errors import InputError

pytest.importorskip("SimpleITK", reason="the extra anatomy is not installed")

CURVE = ([0.0, 0.2, 0.6], [0.0, 0.3, 0.9])
QUALITY = AtlasQuality(
    "atlas, 5 of 16 label maps abc", dict.fromkeys(QC_GROUPS, CURVE), dict.fromkeys(QC_GROUPS, 0.05),
    dict.fromkeys(QC_GROUPS, 0.8), 64,
)  # fmt: skip


def test_scores_are_read_off_the_curve_and_stay_between_0_and_its_height() -> None:
    agreement = dict(zip(QC_GROUPS, (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 0.05, 0.3), strict=True))
    np.testing.assert_allclose(
        list(QUALITY(agreement).values()), [0, 0.15, 0.3, 0.6, 0.9, 0.9, 0.075, 0.45], atol=1e-12
    )


def test_a_known_relation_is_learned_and_its_errors_are_those_of_its_noise() -> None:
    draw = np.random.default_rng(0)
    agreement = draw.uniform(0.1, 0.8, (400, len(QC_GROUPS)))
    truth = (agreement**0.5 + draw.normal(0, 0.03, agreement.shape)).clip(0, 1)
    mae, spearman = _errors(agreement, truth, np.arange(400) % 2)
    assert max(mae.values()) < 0.04 and min(spearman.values()) > 0.9
    shuffled = draw.permuted(truth, axis=0)
    mae, spearman = _errors(agreement, shuffled, np.arange(400) % 2)
    assert min(mae.values()) > 0.1 and max(spearman.values()) < 0.3  # held-out errors cannot be learned by heart


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_curves_rise_from_zero_whatever_they_are_made_of(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    curve = _curve(x, y)
    assert (np.diff(curve[0]) > 0).all() and (np.diff(curve[1]) >= 0).all() and curve[1][-1] <= 1
    assert _read_off(curve, 0.0) == 0.0 <= _read_off(curve, 0.5) <= 1


def test_dice_of_groups_equals_one_counted_by_hand() -> None:
    truth = np.array([CLASSES.index(name) for name in ("thalamus", "thalamus", "putamen", "background", "csf")])
    found = _group_dice(np.array([10, 2, 51, 49, 24], np.int16), truth)
    assert found["thalamus"] == pytest.approx(2 * 1 / (2 + 2)) and found["putamen+pallidum"] == 1.0
    assert found["general white matter"] == 0.0 and found["brainstem"] == 1.0  # nowhere, and rightly so


def test_the_curves_are_kept_and_belong_to_one_segmenter(tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    QUALITY.write(path)
    assert AtlasQuality.read(path, QUALITY.segmenter) == QUALITY
    with pytest.raises(InputError, match="is for 'atlas, 5 of 16 label maps abc', not for 'atlas, 3 of 16"):
        AtlasQuality.read(path, "atlas, 3 of 16 label maps abc")


@pytest.mark.parametrize(
    "damage",
    [
        {"kind": "lite"},
        {"curves": {}},
        {"curves": {group: [[0, 1], [1, 0]] for group in QC_GROUPS}},
        {"curves": {group: [[0, 0], [0, 1]] for group in QC_GROUPS}},
        {"curves": {group: [[0, 1], [0, float("nan")]] for group in QC_GROUPS}},
        {"curves": {group: [[0, 1], [0, 7]] for group in QC_GROUPS}},
        {"mae": None},
        {"images": "many"},
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "quality.json"
    QUALITY.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(InputError, match="or is damaged; calibrate again"):
        AtlasQuality.read(path, QUALITY.segmenter)


def test_a_segmenter_with_a_quality_file_has_scores_and_refuses_a_foreign_one(
    anatomy_data: Path, tmp_path: Path
) -> None:
    files = sorted((anatomy_data / "labelmaps").glob("*.nii.gz"))[:4]
    segmenter = AtlasSegmenter(files, k=2)
    replace(QUALITY, segmenter=segmenter.name).write(tmp_path / "quality.json")
    again = AtlasSegmenter(files, k=2, quality=tmp_path / "quality.json")
    assert again.name == segmenter.name
    assert again.predictor == replace(QUALITY, images=1).digest != replace(QUALITY, curves={}).digest
    assert segmenter.predictor is None
    assert AtlasQuality.shipped(segmenter.name) is None
    with pytest.raises(InputError, match="calibrate again"):
        AtlasSegmenter(files, k=1, quality=tmp_path / "quality.json")
    with pytest.raises(InputError, match="5 images of 4 label maps: at least 20"):
        calibrate_atlas(segmenter, count=5)
