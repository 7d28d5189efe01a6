"""Features are the same again, come from the cache, and tell images apart; weights from outside are read safely."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.features import extract, open_extractor, prepared_voxels
from tenfold.anatomy.images import Image, write_image
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.core.errors import InputError

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")


def _blob(seed: int, shape: tuple[int, int, int] = (18, 24, 18)) -> np.ndarray:
    draw = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    inside = (places**2).sum(0) < 0.8
    return np.where(inside, draw.uniform(-0.5, 1, shape), -1).astype(np.float32)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    (tmp_path / "set").mkdir()
    for number in range(4):
        write_image(tmp_path / f"set/made_{number}.nii.gz", _blob(number), np.diag([4.0, 4, 4, 1]))
    return open_images(tmp_path / "set")


@pytest.mark.parametrize(("name", "count"), [("voxels", 18 * 24 * 18), ("handcrafted", 147), ("random3d", 480)])
def test_extractors_are_the_same_again_and_tell_images_apart(images, name, count):
    one, two = (extract(images, open_extractor(name)) for _ in range(2))
    assert one.shape == (4, count) and np.array_equal(one, two) and np.isfinite(one).all()
    assert np.abs(one[0] - one[1]).max() > 1e-3


def test_random_networks_of_other_seeds_have_other_names_and_features(images):
    one, two = open_extractor("random3d"), open_extractor("random3d:7")
    assert one.name != two.name and not np.allclose(extract(images, one), extract(images, two))
    assert extract(images, one)[0, :3] == pytest.approx(extract(images, open_extractor("random3d:0"))[0, :3])


def test_histograms_are_shares():
    vector = open_extractor("handcrafted")(_blob(0))
    for scale in vector.reshape(3, 49):
        assert scale[:32].sum() == pytest.approx(1) and scale[32:48].sum() == pytest.approx(1)


def test_wide_images_are_averaged_for_voxels():
    wide = _blob(0, (96, 64, 64))
    assert open_extractor("voxels")(wide) == pytest.approx(wide.reshape(48, 2, 32, 2, 32, 2).mean((1, 3, 5)).ravel())


def test_features_in_the_cache_are_not_computed_again_and_damaged_ones_are(images, tmp_path):
    calls = []

    class Counting:
        name = "counting"

        def __call__(self, voxels):
            calls.append(1)
            return voxels.mean((1, 2)).astype(np.float64)

    cache = tmp_path / "cache"
    first = extract(images, Counting(), cache)
    np.testing.assert_array_equal(extract(images, Counting(), cache), first)
    assert len(calls) == 4
    files = sorted(cache.glob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:-8])
    files[1].unlink()
    np.testing.assert_array_equal(extract(images, Counting(), cache), first)
    assert len(calls) == 6
    extract(images, open_extractor("handcrafted"), cache)
    assert len(list(cache.glob("*.npy"))) == 8


def test_images_that_were_not_prepared_or_have_another_size_are_named(images, tmp_path):
    for low, high, said in ((0, 255, "not -1 to 1"), (0, 1, "background is not -1")):
        voxels = np.linspace(low, high, 8000, dtype=np.float32).reshape(20, 20, 20)
        with pytest.raises(InputError, match=said):
            prepared_voxels(Image(voxels, np.eye(4), Path("a.nii.gz")))
    write_image(images.folder / "made_9.nii.gz", _blob(0, (16, 24, 18)), np.diag([4.0, 4, 4, 1]))
    with pytest.raises(InputError, match=r"made_9.nii.gz: has another shape than made_0"):
        extract(open_images(images.folder), open_extractor("voxels"))
    with pytest.raises(InputError, match="take voxels, handcrafted"):
        open_extractor("inception")


def test_medicalnet_reads_published_names_and_refuses_others(tmp_path):
    from tenfold.anatomy.medicalnet import ResNet3D  # noqa: PLC0415

    torch.manual_seed(0)
    network = ResNet3D(50)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    assert "module.layer1.0.downsample.0.weight" in state and "module.layer4.2.conv3.weight" in state
    head = {"module.conv_seg.0.weight": torch.zeros(1)}
    older = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": older | head}, tmp_path / "resnet_50.pth")
    extractor = open_extractor(str(tmp_path / "resnet_50.pth"))
    assert extractor.name.startswith("MedicalNet ResNet-50 (weights ")
    network.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(_blob(0))[None, None])[0]
    assert extractor(_blob(0)) == pytest.approx(expected.double().numpy(), abs=1e-5)
    torch.save({"state_dict": {"module.conv1.weight": torch.zeros(64, 1, 3, 3, 3)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit the model"):
        open_extractor(str(tmp_path / "other.pth"))


def test_weights_that_are_a_program_or_no_weights_are_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Harmful()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("evil", "list", "text", "missing"):
        with pytest.raises(InputError, match=f"{name}.pth"):
            open_extractor(str(tmp_path / f"{name}.pth"))
    assert not (tmp_path / "ran").exists()
