"""The built-in segmenter: it learns, its weights come with the package, and it finds the structures of real brains."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.images import Image, read_image, read_labels  # noqa: E402
from tenfold.anatomy.labels import GLOBAL, SUBCORTICAL  # noqa: E402
from tenfold.anatomy.lite import LiteSegmenter, _cut  # noqa: E402
from tenfold.anatomy.lite_training import LiteConfig, train_lite  # noqa: E402
from tenfold.anatomy.synth import Synthesis, synthesise  # noqa: E402
from tenfold.core.errors import InputError  # noqa: E402

from .conftest import made_head  # noqa: E402

_LARGE = (
    "cerebral white matter", "cerebral cortex", "lateral ventricle", "thalamus", "brain-stem", "cerebellum cortex",
)  # fmt: skip


@pytest.fixture(scope="module")
def lite() -> LiteSegmenter:
    """The weights of the package."""
    return LiteSegmenter()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network after a few steps on a made-up head."""
    folder = tmp_path_factory.mktemp("lite")
    config = LiteConfig(features=4, levels=2, steps=30, synthesis=Synthesis(mm=6.0, grid=(24, 32, 24)))
    result = train_lite([made_head()], folder, config, workers=0, quiet=True)
    first, last = result.history[0], result.history[-1]
    assert result.steps == 30
    assert last["entropy"] <= first["entropy"]
    return folder


def _dice(found: np.ndarray, truth: np.ndarray, codes: dict[int, int], name: str) -> float:
    structure = {one.name: one for one in SUBCORTICAL + GLOBAL}[name]
    own = {code for side in structure.freesurfer.values() for code in side}
    theirs = {muse for muse, code in codes.items() if code in own}
    one, other = np.isin(found, list(own)), np.isin(truth, list(theirs))
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_training_gives_a_model_folder_that_segments(small, head):
    """The folder has a card; labels lie on the image's grid; volumes add up to the intracranial volume."""
    segmenter = LiteSegmenter(small / "last")
    made = synthesise(head, np.random.default_rng(0), Synthesis(heads=0.0, t1=1.0))
    image = Image(made.image_XYZ, np.diag([3.0, 3, 3, 1]), Path("made"))
    found = segmenter(image)
    assert found.labels_XYZ.shape == image.voxels_XYZ.shape
    assert found.labels_XYZ.dtype == np.int16
    total = sum(volume for sides in found.volumes.values() for volume in sides.values())
    assert total == pytest.approx(found.icv, rel=1e-3)
    assert "No diagnosis" in (small / "last/README.md").read_text()
    assert found.qc == {}
    assert segmenter.predictor is None


def test_the_same_seed_gives_the_same_weights(small, tmp_path):
    """A second training ends in the same bits."""
    config = LiteConfig(features=4, levels=2, steps=30, synthesis=Synthesis(mm=6.0, grid=(24, 32, 24)))
    train_lite([made_head()], tmp_path / "again", config, workers=0, quiet=True)
    one, other = ((folder / "last/model.safetensors").read_bytes() for folder in (small, tmp_path / "again"))
    assert one == other


def test_a_run_is_not_gone_on_with_on_other_label_maps_or_images(small):
    """One that is done is not taken for the new one, either."""
    config = LiteConfig(features=4, levels=2, steps=30, synthesis=Synthesis(mm=6.0, grid=(24, 32, 24)))
    with pytest.raises(InputError, match="is of another run: maps was"):
        train_lite([made_head(label_of_skull=507)], small, config, workers=0, quiet=True)
    config = replace(config, synthesis=replace(config.synthesis, noise=0.0))
    with pytest.raises(InputError, match=r"is of another run: noise was 0.06 and is now 0.0"):
        train_lite([made_head()], small, config, workers=0, quiet=True)


def test_another_folder_is_refused(small, tmp_path):
    """One line that says what a folder has to be."""
    shutil.copytree(small / "last", tmp_path / "other")
    config = tmp_path / "other/config.json"
    told = config.read_text()
    config.write_text(told.replace('"lite"', '"else"'))
    with pytest.raises(InputError, match="is no model of this segmenter"):
        LiteSegmenter(tmp_path / "other")
    for name in ("features", "synthesis", "maps"):
        config.write_text(told.replace(f'"{name}"', '"gone"'))
        with pytest.raises(InputError, match=r"its config\.json is damaged"):
            LiteSegmenter(tmp_path / "other")


def test_large_structures_of_unseen_made_brains(lite, anatomy_data):
    """Label maps that it has not learned from: a mean Dice score of 0.75 at 3 mm over large structures."""
    scores = []
    for path in sorted((anatomy_data / "labelmaps").glob("*.nii.gz")):
        if path.name in lite.learned_from:
            continue
        labels = read_labels(path)
        made = synthesise(labels, np.random.default_rng(1), Synthesis(heads=0.0, t1=1.0))
        found = lite.on_grid(made.image_XYZ).shares_Kxyz.argmax(0)
        truth = made.shares_KXYZ.argmax(0)
        for number, one in enumerate(SUBCORTICAL + GLOBAL, start=1):
            if one.name in _LARGE:
                own, known = found == number, truth == number
                scores.append(2 * (own & known).sum() / (own.sum() + known.sum()))
    assert len(scores) >= 4 * len(_LARGE)
    assert np.mean(scores) >= 0.75


def test_real_brains_against_dlmuse(lite, anatomy_data):
    """Four real people: Dice scores of ventricles and thalamus from 0.70 on, of the brain-stem from 0.80 on."""
    table = (anatomy_data / "tables/muse_to_freesurfer.tsv").read_text().splitlines()[1:]
    codes = {int(row.split("\t")[0]): int(row.split("\t")[2]) for row in table}
    means: dict[str, list[float]] = {"lateral ventricle": [], "thalamus": [], "brain-stem": []}
    for person in ("01", "08", "14", "22"):
        found = lite(read_image(anatomy_data / f"t1/sub-nc{person}_desc-brain_T1w.nii.gz")).labels_XYZ
        truth = read_labels(anatomy_data / f"t1/sub-nc{person}_desc-dlmuse_dseg.nii.gz").labels_XYZ
        for name, scores in means.items():
            scores.append(_dice(found, truth, codes, name))
    assert np.mean(means["lateral ventricle"]) >= 0.70
    assert np.mean(means["thalamus"]) >= 0.70
    assert np.mean(means["brain-stem"]) >= 0.80


def test_a_turned_brain_gives_the_same_volumes_and_thick_slices_change_them_by_a_tenth_at_most(
    lite, anatomy_data, tmp_path
):
    """A real brain, flipped and turned on disk: left stays left, to the last mm³. In slices of 5 mm all but the four
    smallest structures have the volumes of the original within a tenth."""
    import nibabel  # noqa: PLC0415
    from scipy import ndimage  # noqa: PLC0415

    path = anatomy_data / "t1/sub-nc01_desc-brain_T1w.nii.gz"
    stored = nibabel.as_closest_canonical(nibabel.load(path))
    nibabel.save(stored.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]])), tmp_path / "turned.nii.gz")
    smooth = ndimage.gaussian_filter1d(np.asarray(stored.dataobj, np.float32), 1.0, axis=2)
    heights = 0.75 + 2.5 * np.arange(int(smooth.shape[2] / 2.5))  # middles of slices of 5 mm, in voxels of 2 mm
    x, y, _ = (np.arange(size) for size in smooth.shape)
    thick = ndimage.map_coordinates(smooth, np.stack(np.meshgrid(x, y, heights, indexing="ij")), order=1)
    affine = stored.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2.5, 0.75], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(thick, affine), tmp_path / "thick.nii.gz")
    one, turned, sliced = (
        lite(read_image(each)) for each in (path, tmp_path / "turned.nii.gz", tmp_path / "thick.nii.gz")
    )
    for name, sides in one.volumes.items():
        assert turned.volumes[name] == pytest.approx(sides, rel=1e-3), name
    for name in set(one.volumes) - {"inferior lateral ventricle", "amygdala", "accumbens area", "hippocampus"}:
        volumes = [sum(found.volumes[name].values()) for found in (one, sliced)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.1), name


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_a_cut_box_holds_all_that_was_found_at_its_place(seed):
    """Wherever a brain lies and however large it is: nothing of it is lost, and its corner says where it was."""
    draw = np.random.default_rng(seed)
    shape = draw.integers(3, 40, 3)
    voxels = draw.random(shape).astype(np.float32) + 1
    low = draw.integers(0, shape)
    high = draw.integers(low, shape) + 1
    least = tuple(draw.choice([0, 8, 16, 24], 3).tolist())
    box, start = _cut(voxels, low, high, least)
    assert all(size % 8 == 0 and (size >= bound) for size, bound in zip(box.shape, least, strict=True))
    assert ((start <= low) & (start + box.shape >= high)).all()
    for place in np.argwhere(box):
        assert box[tuple(place)] == voxels[tuple(place + start)]
    kept = tuple(slice(one, other) for one, other in zip(low - start, high - start, strict=True))
    found = tuple(slice(one, other) for one, other in zip(low, high, strict=True))
    np.testing.assert_array_equal(box[kept], voxels[found])
