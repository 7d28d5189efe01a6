"""Denoising diffusion: noise schedules, the loss, and two ways to sample.

    x_t  = sqrt(a_t) x_0 + sqrt(1 - a_t) noise                       a_t = product of (1 - b_s) for s <= t
    loss = E |noise - found noise|^2                                 Ho et al. 2020 (arXiv 2006.11239), eq. 14
    DDPM   x_t -> x_(t-1) with fresh noise, all T steps              eq. 7 and 11
    DDIM   x_t -> x_s without, any s < t: few steps                  Song et al. 2021 (arXiv 2010.02502), eq. 12, eta 0

A network says the velocity v = sqrt(a) noise - sqrt(1 - a) x_0 (Salimans and Ho 2022, arXiv 2202.00512), of which

    noise = sqrt(a) v + sqrt(1 - a) x_t        x_0 = sqrt(a) x_t - sqrt(1 - a) v

so that nothing is divided by a, which is 4e-5 at the last step, and an error e of v is one of sqrt(a) e in the noise
and of sqrt(1 - a) e in the image. Steps count from 0: a of step -1 is 1, the image itself.
"""

# B batch · T steps of diffusion

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "Averaged",
    "Judged",
    "Predict",
    "Schedule",
    "linear_schedule",
    "sample_ddim",
    "sample_ddpm",
    "scaled_schedule",
    "squared_error",
]

Predict = Callable[[Tensor, Tensor], Tensor]
"""Noisy values (B, ...) and steps (B,) to their velocity (B, ...)."""

Judged = Literal["noise", "image", "velocity"]
"""Of which the loss is the squared error.

The error of the noise, Ho et al.'s, hardly asks what the image is where hardly any of it is left; a network learns that
late. The paper's sizes are judged as in their papers, miniatures, which make some thousand steps, by velocities.
"""

_WARMUP = 10  # steps until the average is no longer dominated by the first weights, which were random


@dataclass(frozen=True)
class Schedule:
    """How much of the image is left at each step.

    Attributes:
        kept_T: float64 (T,), falling; the a_t above.
    """

    kept_T: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.kept_T)

    def kept(self, step: int) -> float:
        """a of a step; 1 for step -1."""
        return 1.0 if step < 0 else float(self.kept_T[step])

    def mixed(self, one: Tensor, other: Tensor, step_B: Tensor) -> Tensor:
        """sqrt(a) one + sqrt(1 - a) other, (B, ...), each of the batch at its own step."""
        kept = self.of(step_B, one)
        return kept.sqrt() * one + (1 - kept).sqrt() * other

    def of(self, step_B: Tensor, like: Tensor) -> Tensor:
        """a of each step, (B, 1, ...), to go with a tensor."""
        kept_T = torch.from_numpy(self.kept_T).to(like.device, like.dtype)
        return kept_T[step_B].reshape(-1, *[1] * (like.ndim - 1))


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """b_t in a straight line; the paper's 1000 steps (Ho et al. 2020, section 4)."""
    return Schedule(np.cumprod(1 - np.linspace(first, last, steps, dtype=np.float64), dtype=np.float64))


def scaled_schedule(steps: int = 1000, first: float = 0.0015, last: float = 0.0205) -> Schedule:
    """The square root of b_t in a straight line, as latent diffusion has it; the bounds are those for brain MRI.

    Rombach et al. 2022 (arXiv 2112.10752); Pinaya et al. 2022 (arXiv 2209.07162).
    """
    return Schedule(np.cumprod(1 - np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2, dtype=np.float64))


# --- training --------------------------------------------------------------------------------------------------------


def squared_error(predict: Predict, clean: Tensor, schedule: Schedule, judged: Judged) -> Tensor:
    """Squared errors (B, ...) of a network; step and noise are drawn from torch's global generators.

    Args:
        predict: The network.
        clean: (B, ...).
        schedule: Of the noise.
        judged: What of.
    """
    step_B = torch.randint(len(schedule), (len(clean),)).to(clean.device)  # on the CPU: a GPU then sees the same steps
    noise = torch.randn_like(clean)
    found = predict(schedule.mixed(clean, noise, step_B), step_B)
    squares = (found - schedule.mixed(noise, -clean, step_B)).square()
    if judged == "velocity":
        return squares
    kept = schedule.of(step_B, clean)
    return squares * (kept if judged == "noise" else 1 - kept)


class Averaged(nn.Module):
    """A network and the exponential moving average of its weights, from which is sampled.

    The average is part of the module, so it is saved with every checkpoint, and a run that was interrupted ends in the
    same bits. It takes no gradients.

    Attributes:
        network: What is trained.
        average: The same with averaged weights.
        steps: How many times `absorb` was called.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.9999) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._decay = decay

    @torch.no_grad()
    def absorb(self) -> None:
        """Let the average take in the weights as they are now; to be called at every step.

        The decay grows with the steps, (1 + s) / (10 + s) up to its value: a short run is not held at random weights.
        """
        done = int(self.steps)
        decay = min(self._decay, (1 + done) / (_WARMUP + done))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)
        self.steps += 1


# --- sampling --------------------------------------------------------------------------------------------------------


def _clean(noisy: Tensor, velocity: Tensor, kept: float, clip: bool) -> Tensor:
    """The image that noisy values and their velocity imply, in [-1, 1] if asked for."""
    clean = kept**0.5 * noisy - (1 - kept) ** 0.5 * velocity
    return clean.clamp(-1, 1) if clip else clean


def sample_ddpm(
    predict: Predict, start: Tensor, schedule: Schedule, source: torch.Generator, *, clip: bool = True
) -> Tensor:
    """From pure noise to images, one step of the schedule at a time, with noise of variance b_t (Ho et al., eq. 7).

    Args:
        predict: The network.
        start: (B, ...), standard normal.
        schedule: Of the training.
        source: Where fresh noise comes from; a generator of the CPU.
        clip: Hold the implied image in [-1, 1].
    """
    noisy = start
    for step in range(len(schedule) - 1, -1, -1):
        kept, before = schedule.kept(step), schedule.kept(step - 1)
        rate = 1 - kept / before
        velocity = predict(noisy, torch.full((len(noisy),), step, device=noisy.device))
        clean = _clean(noisy, velocity, kept, clip)
        noisy = (before**0.5 * rate * clean + (1 - rate) ** 0.5 * (1 - before) * noisy) / (1 - kept)
        if step:
            fresh = torch.randn(noisy.shape, generator=source).to(noisy.device)
            noisy = noisy + (rate * (1 - before) / (1 - kept)) ** 0.5 * fresh
    return noisy


def sample_ddim(predict: Predict, start: Tensor, schedule: Schedule, steps: int, *, clip: bool = True) -> Tensor:
    """From pure noise to images in a few steps that draw nothing: the same start gives the same images.

    Args:
        predict: The network.
        start: (B, ...), standard normal.
        schedule: Of the training.
        steps: How many; see `ddim_steps`.
        clip: Hold the implied image in [-1, 1].
    """
    noisy = start
    for step, following in ddim_steps(len(schedule), steps):
        kept, left = schedule.kept(step), schedule.kept(following)
        velocity = predict(noisy, torch.full((len(noisy),), step, device=noisy.device))
        clean = _clean(noisy, velocity, kept, clip)
        noise = (noisy - kept**0.5 * clean) / (1 - kept) ** 0.5
        noisy = left**0.5 * clean + (1 - left) ** 0.5 * noise
    return noisy


def ddim_steps(count: int, steps: int) -> Iterator[tuple[int, int]]:
    """Pairs of a step and the one behind it, from the last of `count` steps down to -1, denser towards the image.

    They grow with the square of their number (Song et al. 2021, appendix D.2). Evenly spread ones narrow what is
    generated: of normal data of spread 0.3, 20 of them leave 79 % of the spread, the squares 91 %.
    """
    chosen = [-1]
    for number in range(1, steps + 1):
        chosen.append(max(chosen[-1] + 1, round(count * (number / steps) ** 2) - 1))
    return zip(chosen[:0:-1], chosen[-2::-1], strict=True)
