"""Image metrics of whole sets: what they find, depend on and refuse, and how they go on after a kill."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import tenfold.cli
from tenfold.anatomy.features import Handcrafted
from tenfold.anatomy.imagemetrics import _mean, compare_images
from tenfold.anatomy.images import write_image
from tenfold.anatomy.pairs import cross_pairs, own_pairs, similarities
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.anatomy.sidecars import Processing, write_sidecar
from tenfold.anatomy.ssim import choose_scales
from tenfold.core.errors import InputError

pytest.importorskip("torch", reason="the extra anatomy is not installed")
SHAPE = (18, 24, 18)
SMALL = {"rounds": 3, "pairs": 40, "permutations": 99, "window": 7}


def _set(
    folder: Path, count: int, seed: int, blur: float = 0.0, mm: float = 8.0, shape=SHAPE, spread: float = 1.0
) -> ImageSet:
    """Smooth random brains in an ellipsoid."""
    folder.mkdir(parents=True)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    common = ndimage.gaussian_filter(np.random.default_rng(99).normal(size=shape), 1.5)
    draw = np.random.default_rng(seed)
    for number in range(count):
        own = ndimage.gaussian_filter(draw.normal(size=shape), 1.5 + blur)
        image = np.where(
            (places**2).sum(0) < 0.8, np.tanh(4 * (common / common.std() + spread * own / own.std()) / 4), -1
        )
        write_image(folder / f"made_{number}.nii.gz", image.astype(np.float32), np.diag([mm, mm, mm, 1]))
    return open_images(folder)


def _value(found, metric: str, features: str = "") -> float:
    return next(row.value for row in found.rows if row.metric == metric and features in row.extractor)


def test_the_error_of_pairs_counts_both_images_of_each():
    """Similarities g_i + h_j: their mean over fresh sets is spread by the images, however many pairs share them."""
    draw, own, cross = np.random.default_rng(0), [], []
    for seed in range(200):
        g_N, h_M = draw.normal(size=40), draw.normal(size=30)
        pairs_P2 = own_pairs(40, 500, seed)
        own.append(_mean(g_N[pairs_P2].sum(axis=1), pairs_P2, own=True))
        pairs_P2 = cross_pairs(40, 30, 5, seed)
        cross.append(_mean(g_N[pairs_P2[:, 0]] + h_M[pairs_P2[:, 1]], pairs_P2, own=False))
    for found in (own, cross):
        values, errors, lost = np.array(found).T
        assert 0.85 < np.median(errors) / values.std() < 1.25 and not lost.any()


def test_the_command_looks_at_real_images_once_for_all_generators(tmp_path, monkeypatch, capsys):
    for seed, name in enumerate(("real", "a", "b")):
        _set(tmp_path / name, 3, seed)
    seen, look = [], Handcrafted.__call__
    monkeypatch.setattr(Handcrafted, "__call__", lambda self, voxels: seen.append(voxels) or look(self, voxels))
    status = tenfold.cli.main(
        ["anatomy", "images", f"{tmp_path}/real", f"a={tmp_path}/a", f"b={tmp_path}/b", "--features", "handcrafted",
         "--window", "7", "--permutations", "9", "--json"]
    )  # fmt: skip
    assert status == 0 and capsys.readouterr().out.count("MS-SSIM real to real") == 2
    assert len(seen) == 9


def test_equal_distributions_are_near_and_others_far(tmp_path):
    """Voxels as features are left out: with 24 images FID and KID of them call the blurred set nearer."""
    real, alike = _set(tmp_path / "real", 24, 0), _set(tmp_path / "alike", 24, 1)
    other = _set(tmp_path / "other", 24, 2, blur=1.5)
    near, far = (compare_images(real, made, features=("handcrafted", "random3d"), **SMALL) for made in (alike, other))
    for features in ("handcrafted", "random3d"):
        for metric in ("FID", "KID", "MMD", "FID, extrapolated"):
            assert _value(near, metric, features) < _value(far, metric, features), (metric, features)
        ps = [
            next(row.p for row in found.rows if row.metric == "MMD" and features in row.extractor)
            for found in (near, far)
        ]
        assert ps[0] > 0.04 and ps[1] < ps[0] and (ps[1] == pytest.approx(0.01) or features != "handcrafted")
    for row in near.rows:
        assert row.setting and (row.extractor or "window 7" in row.setting)
    assert (
        near.table().to_markdown()
        == compare_images(real, alike, features=("handcrafted", "random3d"), **SMALL).table().to_markdown()
    )


def test_images_that_are_all_alike_are_more_similar_to_each_other_than_real_ones_are(tmp_path):
    real, made = _set(tmp_path / "real", 6, 0), _set(tmp_path / "made", 6, 1, spread=0.3)
    found = compare_images(real, made, features=(), **SMALL)
    assert _value(found, "MS-SSIM generated to generated") > _value(found, "MS-SSIM real to real") + 0.1


def test_legacy_rows_stand_beside_and_are_named(tmp_path):
    real, made = _set(tmp_path / "real", 4, 0), _set(tmp_path / "made", 5, 1)
    found = compare_images(real, made, features=("handcrafted",), legacy=True, **SMALL)
    assert _value(found, "MS-SSIM real to real (legacy)") > _value(found, "MS-SSIM generated to real (legacy)")
    assert {row.metric for row in found.rows} >= {"MMD", "MMD (legacy)", "FID", "MS-SSIM generated to real"}
    assert any("only 4 images" in note for note in found.notes) and any("legacy values" in note for note in found.notes)
    assert all(row.p is None and row.error is None for row in found.rows if row.extractor)


def test_pairs_are_without_repeats_and_the_same_again():
    crossed = cross_pairs(5, 7, 3, 0)
    assert len({tuple(pair) for pair in crossed.tolist()}) == 15 and set(crossed[:, 0]) == set(range(5))
    np.testing.assert_array_equal(crossed, cross_pairs(5, 7, 3, 0))
    assert len(cross_pairs(2, 3, 10, 0)) == 20
    for most in (4, 1000):
        own = own_pairs(8, most, 0)
        assert (
            len(own) == min(most, 28) == len({tuple(pair) for pair in own.tolist()}) and (own[:, 0] < own[:, 1]).all()
        )


def test_similarities_go_on_after_a_kill(tmp_path):
    real, made = _set(tmp_path / "real", 3, 0), _set(tmp_path / "made", 3, 1)
    pairs, scales, asked = cross_pairs(3, 3, 2, 0), choose_scales(SHAPE, 7), []
    whole = similarities(made, real, pairs, scales)
    np.testing.assert_array_equal(similarities(made, real, pairs, scales, cache=tmp_path / "cache"), whole)
    kept = next((tmp_path / "cache").glob("*.f8"))
    kept.write_bytes(kept.read_bytes()[: 4 * 8 + 3])  # killed within the fifth value
    again = similarities(
        made, real, pairs, scales, cache=tmp_path / "cache", progress=lambda phase, done, total: asked.append(done)
    )
    np.testing.assert_array_equal(again, whole)
    assert asked == [5, 6]


def test_sets_that_cannot_be_compared_are_refused_in_one_line(tmp_path):
    real = _set(tmp_path / "real", 3, 0)
    write_sidecar(tmp_path / "real", Processing("mni.nii.gz", "a", mm=8.0, low=5.0))
    shutil.copytree(tmp_path / "real", tmp_path / "copy")
    write_sidecar(tmp_path / "copy", Processing("mni.nii.gz", "a", mm=8.0, low=2.0))
    cases = {
        "low 5.0 in .*, 2.0 in ": open_images(tmp_path / "copy"),
        "18 x 20 x 18 of 8|has 18 x 20 x 18 voxels": _set(tmp_path / "size", 3, 0, shape=(18, 20, 18)),
        "voxels of 6 mm": _set(tmp_path / "mm", 3, 0, mm=6.0),
        "has one usable image": _set(tmp_path / "one", 1, 0),
    }
    for said, made in cases.items():
        with pytest.raises(InputError, match=said) as caught:
            compare_images(open_images(real.folder), made, **SMALL)
        assert "\n" not in str(caught.value)
    shutil.copytree(tmp_path / "mm", tmp_path / "cut")
    for path in (tmp_path / "cut").glob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"made_0.nii.gz: .*cut"):
        compare_images(open_images(tmp_path / "mm"), open_images(tmp_path / "cut"), **SMALL)
    assert compare_images(real, replace(real, name="again"), **SMALL).notes[-1]


def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path):
    """All values are those of the set without it."""
    real, made = _set(tmp_path / "real", 4, 0), _set(tmp_path / "made", 4, 1)
    without = compare_images(real, made.take(range(3)), **SMALL)
    made.paths[3].write_bytes(made.paths[3].read_bytes()[:500])
    found = compare_images(real, made, **SMALL)
    np.testing.assert_equal([row.value for row in found.rows], [row.value for row in without.rows])
    assert any("1 left out; the first: " in note and "made_3.nii.gz" in note for note in found.notes)


def test_real_brains_beside_a_copy_of_themselves(anatomy_data, tmp_path):
    """The same images give FID 0; a copy of other people does not."""
    pytest.importorskip("SimpleITK", reason="the extra anatomy is not installed")
    from tenfold.anatomy.processing import prepare  # noqa: PLC0415

    template = anatomy_data / "t1/sub-nc10_desc-brain_T1w.nii.gz"
    sets = []
    for name, numbers in {"a": ("01", "03", "04"), "b": ("06", "08", "13")}.items():
        (tmp_path / name).mkdir()
        for number in numbers:
            shutil.copy(anatomy_data / f"t1/sub-nc{number}_desc-brain_T1w.nii.gz", tmp_path / name)
        quick = {"mm": 4.0, "mask": "stripped", "bias": "none", "align": "none"}
        sets.append(prepare(open_images(tmp_path / name), template, tmp_path / f"{name}4", **quick).images)
    same = compare_images(sets[0], sets[0], features=("handcrafted",))
    other = compare_images(sets[0], sets[1], features=("handcrafted",))
    assert _value(same, "FID") < 1e-9 < _value(other, "FID")
    assert not any("sidecar" in note for note in other.notes)
