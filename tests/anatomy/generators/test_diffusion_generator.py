"""What holds for each of the three diffusion models: fit, go on, sample, save, load, refuse."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.anatomy.generators.diffusion import linear_schedule, squared_error
from tenfold.anatomy.generators.diffusion_generator import (
    DiffusionGenerator,
    add_costs,
    share_budget,
    train_denoiser,
)
from tenfold.anatomy.generators.interface import Budget, Cost
from tenfold.anatomy.generators.latent import LatentDiffusion
from tenfold.anatomy.generators.slices import ConditionalSlices
from tenfold.anatomy.generators.two_stage import TwoStageDiffusion
from tenfold.anatomy.images import write_image
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.core.errors import InputError

GRID = (16, 20, 16)
KINDS: list[type[DiffusionGenerator]] = [ConditionalSlices, LatentDiffusion, TwoStageDiffusion]
BUDGET = Budget(images=4, batch_size=1, seed=3)


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Three ellipsoids on a grid of 16 x 20 x 16, in [-1, 1], background -1."""
    folder = tmp_path_factory.mktemp("balls")
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in GRID], indexing="ij"))
    for number in range(3):
        radius = (places**2 / np.random.default_rng(number).uniform(0.5, 0.9, (3, 1, 1, 1))).sum(0)
        voxels = np.where(radius < 1, 0.9 - radius, -1).astype(np.float32)
        write_image(folder / f"ball_{number}.nii.gz", voxels, np.diag([8.0, 8, 8, 1]))
    return open_images(folder)


@dataclass(frozen=True)
class Fitted:
    """A miniature that was shown four images, what that took, the folder of its run, and two samples of seed 5."""

    generator: DiffusionGenerator
    cost: Cost
    folder: Path
    two: NDArray[np.float32]


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def fitted(request: pytest.FixtureRequest, balls: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder, generator = tmp_path_factory.mktemp("run"), request.param(GRID, "miniature")
    cost = generator.fit(balls, folder, BUDGET, device="cpu", quiet=True)
    return Fitted(generator, cost, folder, generator.sample(2, 5))


def test_samples_are_images_that_differ(fitted: Fitted) -> None:
    assert fitted.two.shape == (2, *GRID) and fitted.two.dtype == np.float32 and np.abs(fitted.two).max() <= 1
    assert not np.array_equal(*fitted.two)


def test_cost_counts_what_is_trained_and_shown(fitted: Fitted) -> None:
    """All networks' weights, once, though their averages are kept beside."""
    generator, cost = fitted.generator, fitted.cost
    assert cost.images == 4 and cost.seconds > 0 and cost.peak_bytes > 1e7
    assert cost.parameters == sum(weight.numel() for weight in generator.build().parameters())


def test_saved_and_loaded_it_draws_the_same_however_many(fitted: Fitted, tmp_path: Path) -> None:
    """One image of the loaded generator is the first of two of the saved one."""
    generator = fitted.generator
    generator.save(tmp_path / "model", {"mm": 8.0})
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["kind"], config["size"], config["about"]) == (generator.name, "miniature", {"mm": 8.0})
    loaded = type(generator).load(tmp_path / "model")
    assert loaded.grid == GRID and np.array_equal(loaded.sample(1, 5)[0], fitted.two[0])
    other = next(kind for kind in KINDS if kind is not type(generator))
    with pytest.raises(InputError, match=f"holds a model of kind '{generator.name}', not {other.name}"):
        other.load(tmp_path / "model")


def test_same_seed_same_bits_and_a_finished_run_is_only_read(fitted: Fitted, balls: ImageSet, tmp_path: Path) -> None:
    """All weights of a second run in another folder, and of a call that finds the first one done."""
    kind = type(fitted.generator)
    again, read = kind(GRID, "miniature"), kind(GRID, "miniature")
    again.fit(balls, tmp_path, BUDGET, device="cpu", quiet=True)
    assert read.fit(balls, fitted.folder, BUDGET, device="cpu", quiet=True).seconds == fitted.cost.seconds
    expected = fitted.generator._trained().state_dict()
    for other in (again._trained().state_dict(), read._trained().state_dict()):
        assert all(torch.equal(other[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_prepared_image_of_the_grid_is_refused(
    kind: type[DiffusionGenerator], balls: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="16 x 20 x 16 voxels, the generator makes 32 x 32 x 32"):
        kind((32, 32, 32), "miniature").fit(balls, tmp_path / "run", BUDGET, device="cpu", quiet=True)


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_neither_draws_nor_saves(kind: type[DiffusionGenerator], tmp_path: Path) -> None:
    generator = kind(GRID, "miniature")
    with pytest.raises(InputError, match=f"{kind.name}: has not learned yet"):
        generator.sample(1)
    with pytest.raises(InputError, match=f"{kind.name}: has not learned yet"):
        generator.save(tmp_path / "model", {})
    assert not (tmp_path / "model").exists()


def test_another_run_in_the_folder_is_refused(balls: ImageSet, tmp_path: Path) -> None:
    """Another seed, and another kind."""
    ConditionalSlices(GRID, "miniature").fit(balls, tmp_path, Budget(1, 1, 0), device="cpu", quiet=True)
    with pytest.raises(InputError, match="seed was 0 and is now 1"):
        ConditionalSlices(GRID, "miniature").fit(balls, tmp_path, Budget(1, 1, 1), device="cpu", quiet=True)


def test_with_a_larger_budget_latent_diffusion_ends_as_in_one_go(balls: ImageSet, tmp_path: Path) -> None:
    """Its autoencoder learns on, and a denoiser of latents that are no more is not gone on with."""
    for name, images in (("parts", 2), ("parts", 4), ("whole", 4)):
        made = LatentDiffusion(GRID, "miniature")
        made.fit(balls, tmp_path / name, replace(BUDGET, images=images), device="cpu", quiet=True)
        made.save(tmp_path / f"{name}_model", {})
    one, other = ((tmp_path / f"{name}_model/model.safetensors").read_bytes() for name in ("parts", "whole"))
    assert one == other


class Constant(nn.Module):
    """Says a velocity that depends on nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(2))

    def forward(self, noisy: Tensor, step_B: Tensor) -> Tensor:
        return self.value * torch.ones_like(noisy)


def learn(folder: Path, images: int) -> nn.Module:
    """A run of two numbers, whose loss is least where they are 0."""

    def loss(trained: nn.Module, batch: Tensor) -> Tensor:
        return squared_error(trained, batch, linear_schedule(), "velocity").mean()

    network = Constant()
    train_denoiser(
        network, [torch.zeros(2)] * 5, loss, folder, Budget(images, 2, 1), batch_size=2, learning_rate=0.05,
        identity={}, device="cpu", quiet=True,
    )  # fmt: skip
    return network


def test_a_run_that_goes_on_ends_in_the_same_bits_average_included(tmp_path: Path) -> None:
    """30 steps at once, and 17 and 13: what is kept is the average, so it must have gone on where it was."""
    whole = learn(tmp_path / "whole", 60)
    learn(tmp_path / "parts", 34)
    assert torch.equal(learn(tmp_path / "parts", 60).value, whole.value)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    assert learn(tmp_path, 300).value.abs().max().item() < 0.3


def test_budgets_are_shared_and_costs_added() -> None:
    one, other = share_budget(Budget(10, 4, 7), 0.25)
    assert (one.images, other.images) == (2, 8) and one == replace(other, images=2) == Budget(2, 4, 7)
    assert [half.images for half in share_budget(Budget(2), 0.01)] == [1, 1]
    with pytest.raises(InputError, match="budget of 1 images: this kind trains two networks"):
        share_budget(Budget(1), 0.5)
    assert add_costs(Cost(1, 2, 3.0, 9), Cost(10, 20, 30.0, 5)) == Cost(11, 22, 33.0, 9)
