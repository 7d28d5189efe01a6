"""Which samples each step sees, and how they are read.

The samples of a run are one endless stream: the permutation of the first epoch, that of the second, and so on. Step s
takes the next `batch_size * accumulate * processes` of them. A batch at the end of an epoch goes on in the next, so
that all batches have the same size and no sample is left out. A *position* is a place in that stream.
"""

from collections.abc import Callable, Generator, Iterator, Sized
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from tenfold.core.errors import InputError
from tenfold.core.training.config import TrainingConfig
from tenfold.core.training.randomness import apart, derive_seed, seed_random
from tenfold.core.training.stopping import outlive_signals

__all__ = ["SampleOrder", "Samples", "open_batches"]

Key = tuple[int, list[int]]  # position of a batch's first sample, numbers of its samples


class Samples(Protocol):
    """A map-style data set, as `torch.utils.data.Dataset` is one: it has a length and gives sample i."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int, /) -> Any:
        """Sample `index`, counted from 0."""


class SampleOrder:
    """The stream of sample numbers: a pure function of the seed.

    A permutation takes 8 bytes per sample; the latest is kept.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def numbers(self, start: int, stop: int) -> list[int]:
        """The sample numbers at positions `start` up to `stop`, `stop` not included."""
        found: list[int] = []
        while start < stop:
            epoch, first = divmod(start, self._count)
            part = self._permute(epoch)[first : first + stop - start].tolist()
            found += part
            start += len(part)
        return found

    def _permute(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            # RandomState, for NumPy never changes what it draws.
            source = np.random.RandomState(np.random.MT19937(derive_seed(self._seed, "order", epoch)))
            self._epoch, self._permutation = epoch, source.permutation(self._count)
        return self._permutation


class _Keys:
    """What one process reads from step `start` on, forward pass by forward pass."""

    def __init__(self, order: SampleOrder, config: TrainingConfig, start: int, process: int, processes: int) -> None:
        self._order, self._size = order, config.batch_size
        self._passes = range(start * config.accumulate, config.steps * config.accumulate)
        self._process, self._processes = process, processes

    def __iter__(self) -> Iterator[Key]:
        for number in self._passes:
            position = (number * self._processes + self._process) * self._size
            yield position, self._order.numbers(position, position + self._size)

    def __len__(self) -> int:
        return len(self._passes)


class _Batches:
    """Reads batches by their key; whatever is random in it depends on seed and position alone."""

    def __init__(self, samples: Samples, seed: int, collate: Callable[[list[Any]], Any]) -> None:
        self._samples, self._seed, self._collate = samples, seed, collate

    def __getitem__(self, key: Key) -> Any:
        """The batch, or the InputError with which a sample is refused: raised in a worker it would be a traceback."""
        try:
            return self._read(*key)
        except InputError as error:
            return error

    def _read(self, position: int, numbers: list[int]) -> Any:
        with apart():
            batch = []
            for offset, number in enumerate(numbers):
                seed_random(self._seed, "sample", position + offset)
                batch.append(self._samples[number])
            seed_random(self._seed, "batch", position)
            return self._collate(batch)

    def __len__(self) -> int:
        return len(self._samples)


def open_batches(
    samples: Samples,
    config: TrainingConfig,
    collate: Callable[[list[Any]], Any],
    start: int,
    process: int,
    processes: int,
    pin: bool,
) -> Generator[Any, None, None]:
    """The batches of one process from behind step `start` to the last step, one per forward pass.

    Closing it ends the workers.
    """
    order = SampleOrder(len(samples), config.seed)
    loader = DataLoader(
        _Batches(samples, config.seed, collate),
        batch_size=None,
        sampler=_Keys(order, config, start, process, processes),
        collate_fn=_as_it_is,
        num_workers=config.workers,
        pin_memory=pin,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # else it draws from the model's
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def check_samples(samples: object) -> None:
    """InputError unless these are samples that can be read in any order."""
    if not isinstance(samples, Sized) or not hasattr(samples, "__getitem__"):
        raise InputError(f"samples is a {type(samples).__name__}; it must have a length and give sample i (map-style)")
    if len(samples) == 0:
        raise InputError("samples is empty; there is nothing to train on")


def _as_it_is(batch: Any) -> Any:
    return batch
