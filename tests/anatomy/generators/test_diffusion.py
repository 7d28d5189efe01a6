"""Schedules, the loss, and both samplers against closed forms: for normal data the best denoiser is known."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.anatomy.generators.diffusion import (
    Averaged,
    Judged,
    Predict,
    Schedule,
    ddim_steps,
    linear_schedule,
    sample_ddim,
    sample_ddpm,
    scaled_schedule,
    squared_error,
)

MEAN, SPREAD = 0.2, 0.3


def best_predictor(schedule: Schedule, mean: float = MEAN, spread: float = SPREAD) -> Predict:
    """The expected velocity at x_t where the data are normal.

    The expected image is mean + sqrt(a) spread² (x - sqrt(a) mean) / (a spread² + 1 - a), and the velocity follows.
    """

    def predict(noisy: Tensor, step_B: Tensor) -> Tensor:
        kept = schedule.of(step_B, noisy)
        image = mean + kept.sqrt() * spread**2 * (noisy - kept.sqrt() * mean) / (kept * spread**2 + 1 - kept)
        return (kept.sqrt() * noisy - image) / (1 - kept).sqrt()

    return predict


def test_linear_schedule_is_ho_et_al() -> None:
    """1000 values of beta from 1e-4 to 0.02; little is left of the image at the end (about 4e-5)."""
    schedule = linear_schedule()
    kept = 1.0
    for step in range(1000):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        assert schedule.kept(step) == pytest.approx(kept, rel=1e-9)
    assert len(schedule) == 1000 and schedule.kept(-1) == 1 and 3e-5 < schedule.kept(999) < 5e-5


def test_scaled_schedule_is_linear_in_the_root_of_beta() -> None:
    kept_T = np.concatenate([[1.0], scaled_schedule().kept_T])
    roots = np.sqrt(1 - kept_T[1:] / kept_T[:-1])
    assert np.allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-4)
    assert roots[[0, -1]] ** 2 == pytest.approx([0.0015, 0.0205])


def test_each_of_a_batch_is_mixed_with_noise_at_its_own_step() -> None:
    schedule = linear_schedule()
    clean, noise = torch.full((2, 3), 0.5), torch.ones(2, 3)
    noised = schedule.mixed(clean, noise, torch.tensor([0, 999]))
    for row, step in zip(noised, (0, 999), strict=True):
        kept = schedule.kept(step)
        assert row.tolist() == pytest.approx([kept**0.5 * 0.5 + (1 - kept) ** 0.5] * 3, rel=1e-5)


@given(st.integers(1, 60), st.data())
def test_ddim_steps_fall_from_the_last_to_the_image(count: int, data: st.DataObject) -> None:
    """Property: they begin at the last step, each goes on where the one before ended, and the last ends at -1."""
    steps = data.draw(st.integers(1, count))
    pairs = list(ddim_steps(count, steps))
    assert len(pairs) == steps and pairs[0][0] == count - 1 and pairs[-1][1] == -1
    assert all(step > following for step, following in pairs)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(pairs))


@pytest.mark.parametrize("steps", [1, 7])
def test_ddim_finds_a_single_image_in_any_number_of_steps(steps: int) -> None:
    schedule = linear_schedule()
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    found = sample_ddim(best_predictor(schedule, 0.4, 0.0), start, schedule, steps)
    assert found.tolist() == pytest.approx([0.4] * 5, abs=1e-4)


@pytest.mark.parametrize(("steps", "within"), [(20, 0.06), (1000, 0.004)])
def test_ddim_of_normal_data_is_the_map_from_noise_to_them(steps: int, within: float) -> None:
    """The flow of the best denoiser takes the noise z to mean + spread z; few steps come near, all very near."""
    schedule = linear_schedule()
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = sample_ddim(best_predictor(schedule), start, schedule, steps, clip=False)
    assert float((found - (MEAN + SPREAD * start)).abs().max()) < within


def test_ddpm_of_normal_data_has_their_mean_and_spread() -> None:
    schedule, source = linear_schedule(), torch.Generator().manual_seed(0)
    start = torch.randn(8000, generator=source)
    found = sample_ddpm(best_predictor(schedule), start, schedule, source, clip=False)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.015)


def test_clipping_holds_samples_in_range() -> None:
    schedule, source = linear_schedule(), torch.Generator().manual_seed(0)
    wild = best_predictor(schedule, 3.0, 0.1)
    start = torch.randn(50, generator=source)
    for found in (sample_ddim(wild, start, schedule, 10), sample_ddpm(wild, start, schedule, source)):
        assert float(found.abs().max()) <= 1 + 1e-5


@pytest.mark.parametrize("judged", ["noise", "image", "velocity"])
def test_error_of_the_best_network_is_what_cannot_be_known(judged: Judged) -> None:
    """For normal data the image is known but for a variance of w = s² (1 - a) / (a s² + 1 - a), the noise but for
    a w / (1 - a), the velocity but for w / (1 - a); at random steps the error is their mean.
    """
    schedule = linear_schedule(100, 1e-3, 0.2)
    torch.manual_seed(0)
    clean, kept = MEAN + SPREAD * torch.randn(20_000, 5), schedule.kept_T
    unknown = SPREAD**2 * (1 - kept) / (kept * SPREAD**2 + 1 - kept)
    least = {"noise": unknown * kept / (1 - kept), "image": unknown, "velocity": unknown / (1 - kept)}[judged]
    squares = squared_error(best_predictor(schedule), clean, schedule, judged)
    assert squares.shape == clean.shape and float(squares.mean()) == pytest.approx(least.mean(), rel=0.03)


def test_errors_are_those_of_noise_and_image_that_the_velocity_implies() -> None:
    """An untrained network says velocity 0: its noise is sqrt(1 - a) x_t, its image sqrt(a) x_t."""
    schedule, clean = linear_schedule(), torch.tensor([[0.3, -0.7]])
    for seed in range(5):
        torch.manual_seed(seed)
        step_B, noise = torch.randint(1000, (1,)), torch.randn(1, 2)
        kept = schedule.kept(int(step_B))
        noisy = schedule.mixed(clean, noise, step_B)
        for judged, expected in (("noise", noise - (1 - kept) ** 0.5 * noisy), ("image", clean - kept**0.5 * noisy)):
            torch.manual_seed(seed)
            found = squared_error(lambda noisy, step_B: torch.zeros_like(noisy), clean, schedule, judged)  # type: ignore[arg-type]
            assert torch.allclose(found, expected.square(), atol=1e-5)


@settings(max_examples=20)
@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=25), st.floats(0.1, 0.9999))
def test_average_is_the_recursion_with_a_growing_decay(values: list[float], most: float) -> None:
    """Property, against plain Python: m <- d m + (1 - d) w with d = min(most, (1 + s) / (10 + s))."""
    network = nn.Linear(1, 1, bias=False)
    averaged = Averaged(network, most)
    mean = network.weight.item()
    for step, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        averaged.absorb()
        decay = min(most, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    assert averaged.average.weight.item() == pytest.approx(mean, abs=1e-5)
    assert int(averaged.steps) == len(values)


def test_average_takes_no_gradients_and_is_saved_with_the_network() -> None:
    averaged = Averaged(nn.Linear(2, 2))
    assert {name for name, weight in averaged.named_parameters() if weight.requires_grad} == {
        "network.weight", "network.bias",
    }  # fmt: skip
    averaged.absorb()
    other = Averaged(nn.Linear(2, 2))
    other.load_state_dict(copy.deepcopy(averaged.state_dict()))
    assert torch.equal(other.average.weight, averaged.average.weight) and int(other.steps) == 1
