"""Images are checked as they are read, a budget is kept to, runs go on, drawing is seeded, folders are not believed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.generators.interface import Budget
from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.core.errors import InputError

from .conftest import GRID

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.training import (  # noqa: E402
    check_grid,
    draw_images,
    load_generator_folder,
    prepared_samples,
    run,
    save_generator,
    seeded,
)

ROWS = torch.arange(12.0).reshape(6, 2)


def _train(folder: Path, budget: Budget, **options):
    with seeded(budget.seed):
        module = nn.Linear(2, 1)
    settings = {"batch_size": 4, "learning_rate": 0.1, "betas": (0.0, 0.999), "device": "cpu", "quiet": True} | options
    cost = run(module, ROWS, lambda trained, rows: trained(rows).square().mean(), folder, budget, **settings)
    return module, cost


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# --- images ---


def test_samples_are_the_images_with_a_channel(heads: ImageSet):
    samples = prepared_samples(heads, GRID)
    assert len(samples) == 4
    for number in range(4):
        assert samples[number].dtype == torch.float32 and samples[number].shape == (1, *GRID)
        assert np.array_equal(samples[number][0].numpy(), heads[number].voxels_XYZ)


def test_images_of_another_shape_or_unprepared_are_refused(heads: ImageSet, tmp_path: Path):
    with pytest.raises(InputError, match=r"head_0\.nii\.gz: has 36 x 48 x 36 voxels, the generator makes 48 x 64 x 48"):
        prepared_samples(heads, (48, 64, 48))[0]
    raw = (heads[0].voxels_XYZ + 1) * 400
    write_image(tmp_path / "raw.nii.gz", raw, np.diag([4.0, 4, 4, 1]))
    with pytest.raises(InputError, match="prepare"):
        prepared_samples(open_images(tmp_path), GRID)[0]


def test_the_fingerprint_tells_sets_apart(heads: ImageSet, tmp_path: Path):
    shutil.copytree(heads.folder, tmp_path / "copy")
    copy = open_images(tmp_path / "copy")
    assert prepared_samples(copy, GRID).fingerprint() == prepared_samples(heads, GRID).fingerprint()
    (tmp_path / "copy/head_3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"head_3\.nii\.gz: cannot be read"):
        prepared_samples(copy, GRID).fingerprint()
    fewer = prepared_samples(open_images(tmp_path / "copy"), GRID)
    assert fewer.fingerprint() != prepared_samples(heads, GRID).fingerprint()


# --- training ---


def test_a_budget_is_used_up_and_not_much_more(tmp_path: Path):
    _, cost = _train(tmp_path / "run", Budget(images=10))
    assert cost.images == 12 and cost.parameters == 3  # three steps of 4, the paper's batch
    assert cost.seconds > 0 and cost.peak_bytes > 1 << 20
    assert _train(tmp_path / "few", Budget(images=10), batch_size=16)[1].images == 12  # two of 6, all there are
    assert _train(tmp_path / "own", Budget(images=10, batch_size=8))[1].images == 16


def test_a_first_step_is_that_of_adam(tmp_path: Path):
    """Adam's first step is the rate times the gradient's sign; nothing decays, nothing is clipped."""
    with seeded(0):
        before = nn.Linear(2, 1)
    after, _ = _train(tmp_path / "run", Budget(images=6), batch_size=6, learning_rate=1e-3)
    loss = before(ROWS).square().mean()
    for old, new, slope in zip(
        before.parameters(), after.parameters(), torch.autograd.grad(loss, list(before.parameters())), strict=True
    ):
        assert torch.allclose(new, old - 1e-3 * slope.sign(), atol=1e-6)


def test_a_run_with_a_larger_budget_goes_on_and_ends_in_the_same_bits(tmp_path: Path):
    whole, _ = _train(tmp_path / "whole", Budget(images=40))
    _train(tmp_path / "parts", Budget(images=20))
    parts, cost = _train(tmp_path / "parts", Budget(images=40))
    assert cost.images == 40 and len(_lines(tmp_path / "parts")) >= 1
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize(
    ("identity", "named"),
    [({"kind": "vae-gan", "grid": (36, 48, 36)}, "kind was 'ha-gan'"), ({"kind": "ha-gan", "grid": (48,)}, "grid was")],
)
def test_another_run_in_the_folder_is_kept(tmp_path: Path, identity, named):
    _train(tmp_path / "run", Budget(images=4), identity={"kind": "ha-gan", "grid": (36, 48, 36)})
    _train(tmp_path / "run", Budget(images=8), identity={"kind": "ha-gan", "grid": (36, 48, 36)})
    with pytest.raises(InputError, match=f"holds another run: {named}"):
        _train(tmp_path / "run", Budget(images=8), identity=identity)
    with pytest.raises(InputError, match="seed"):
        _train(tmp_path / "run", Budget(images=8, seed=1), identity={"kind": "ha-gan", "grid": (36, 48, 36)})


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_folder_whose_note_is_damaged_is_kept(tmp_path: Path, content):
    (tmp_path / "generator.json").write_bytes(content)
    with pytest.raises(InputError, match=r"generator\.json: is damaged"):
        _train(tmp_path, Budget(images=4), identity={"kind": "ha-gan"})


def test_senseless_budgets_devices_and_places_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="budget of 0 images"):
        _train(tmp_path / "run", Budget(images=0))
    with pytest.raises(InputError, match="device is 'tpu'; choose"):
        _train(tmp_path / "run", Budget(), device="tpu")
    with pytest.raises(InputError, match="seed is -1"):
        _train(tmp_path / "run", Budget(seed=-1))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot hold a run"):
        _train(tmp_path / "file", Budget())


# --- drawing ---


def test_an_image_depends_on_seed_and_number_alone():
    def draw(source):
        return torch.randn(1, 1, 3, 4, 5, generator=source)

    few, many, other = draw_images(2, 7, draw), draw_images(5, 7, draw), draw_images(2, 8, draw)
    assert few.dtype == np.float32 and many.shape == (5, 3, 4, 5)
    assert np.array_equal(few, many[:2]) and not np.array_equal(few, other)
    assert len({image.tobytes() for image in many}) == 5
    assert np.abs(many).max() == 1  # clipped


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (1, -1), (1, 1 << 32)])
def test_senseless_counts_and_seeds_are_refused(count, seed):
    with pytest.raises(InputError):
        draw_images(count, seed, lambda source: torch.zeros(1))


# --- the folder of a model ---


def test_a_model_folder_is_read_as_it_was_written(tmp_path: Path):
    module = nn.Linear(3, 2)
    about = {"affine": [[4, 0], [0, 4]], "data": {"made heads": "CC0-1.0"}}
    save_generator(tmp_path / "model", "vae-gan", GRID, "miniature", module, about)
    config, weights = load_generator_folder(tmp_path / "model", "vae-gan")
    assert config == {"kind": "vae-gan", "grid": GRID, "size": "miniature", "about": about}
    assert torch.equal(weights["weight"], module.weight)
    card = (tmp_path / "model/README.md").read_text()
    assert "| made heads | CC0-1.0 |" in card and "Not for medical use" in card


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "ha-gan"}, "of kind 'ha-gan', not vae-gan"),
        ({"grid": [36, 48]}, "three whole numbers"),
        ({"grid": [36, 48, 100000]}, "three whole numbers"),
        ({"grid": [36, 48, True]}, "three whole numbers"),
        ({"grid": "36"}, "has no grid"),
        ({"size": "huge"}, "choose paper or miniature"),
        ({"size": ["paper"]}, "choose paper or miniature"),
        ({"about": None}, "no about"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, change, said):
    save_generator(tmp_path / "model", "vae-gan", GRID, "miniature", nn.Linear(1, 1), {})
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        load_generator_folder(tmp_path / "model", "vae-gan")


def test_grids_are_checked():
    assert check_grid((36, 48, 36), "paper") == ((36, 48, 36), "paper")
    with pytest.raises(InputError, match="three whole numbers"):
        check_grid((0, 48, 36), "paper")
