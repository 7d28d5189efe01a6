"""A small training run, called by tests or in a process of its own: `training_run.py FOLDER OPTIONS`.

There the option `strike` is the call of the loss in which the process gets a signal, the signal, and seconds: where
they are not 0, SIGALRM kills it that much later, whatever it does then. Of two processes only the second is struck.
"""

import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.core.training import TrainingConfig, TrainingResult, train

CLASSES = 7
Item = tuple[Tensor, Tensor]


class Network(nn.Module):
    """Two layers with dropout, normalisation, an embedding, the output tied to it, and a layer that is never used."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(CLASSES, 6)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 6)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(6, CLASSES, bias=False)
        self.out.weight = self.words.weight
        self.spare = nn.Linear(2, 2)  # takes no part in any loss

    def forward(self, words: Tensor, noise: Tensor) -> Tensor:
        hidden = self.dropout(torch.tanh(self.hidden(self.norm(self.words(words) + noise))))
        return self.out(hidden)


class Augmented:
    """Sample i is class i % CLASSES with noise of all three global generators; `seen` is what was asked for."""

    def __init__(self, count: int, delay: float = 0) -> None:
        self.count, self.delay, self.seen = count, delay, list[int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        self.seen.append(index)
        time.sleep(self.delay)
        noise = torch.rand(6) * 0.1 + float(np.random.rand()) * 0.1 + random.random() * 0.1
        return torch.tensor(index % CLASSES), noise


def cross_entropy(model: nn.Module, batch: Item) -> tuple[Tensor, dict[str, float | Tensor]]:
    words, noise = batch
    scores = model(words, noise)
    right = (scores.argmax(-1) == words).float().mean()
    return nn.functional.cross_entropy(scores, words), {"accuracy": right}


def evaluate(model: nn.Module) -> dict[str, float]:
    assert not model.training and not torch.is_grad_enabled()
    words = torch.arange(CLASSES)
    scores = model(words, torch.randn(CLASSES, 6) * 0.1)
    return {
        "loss": float(nn.functional.cross_entropy(scores, words)),
        "right": float((scores.argmax(-1) == words).sum()),
    }


def run(
    folder: Path | None,
    dropout: float = 0.2,
    count: int = 23,
    delay: float = 0,
    samples: Any = None,
    loss: Callable[..., Any] = cross_entropy,
    more: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Network, TrainingResult]:
    """Train; `more` are keyword arguments of `train`, `options` those of its config."""
    torch.manual_seed(5)
    model = Network(dropout)
    config = TrainingConfig(**{"steps": 12, "batch_size": 4, "log_every": 2, "learning_rate": 0.05} | options)
    more = {"evaluate": evaluate, "quiet": True} | (more or {})
    return model, train(model, Augmented(count, delay) if samples is None else samples, loss, folder, config, **more)


def digest(model: nn.Module) -> str:
    """The bits of all weights."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = json.loads(sys.argv[2])
    (call, number, seconds), calls = options.pop("strike", (0, 0, 0)), itertools.count(1)

    def struck(model: nn.Module, batch: Item) -> tuple[Tensor, dict[str, float | Tensor]]:
        if next(calls) == call and os.environ.get("RANK") != "0":
            if seconds:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            else:
                signal.raise_signal(number)
        return cross_entropy(model, batch)

    trained, result = run(Path(sys.argv[1]), loss=struck, **options)
    print(json.dumps({"digest": digest(trained), "steps": result.steps, "history": result.history}), flush=True)
