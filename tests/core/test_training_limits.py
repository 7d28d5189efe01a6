"""What the training loop meets at the edge: names and settings that clash."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_run import cross_entropy, run

from tenfold.core.errors import InputError


def refuse(message: str, folder: Path, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(folder, **options)
    assert "\n" not in str(caught.value)


# --- names and settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["step", "loss", "gradient_norm", "rate", "samples_per_second", "evaluation"])
def test_a_measure_may_not_take_a_name_of_the_log(name: str) -> None:
    def loss(model: nn.Module, batch: Any) -> tuple[torch.Tensor, Mapping[str, float]]:
        return cross_entropy(model, batch)[0], {"fine": 1.0, name: 1.0}

    with pytest.raises(InputError, match=f"a measure named '{name}', which the log has of its own; rename it"):
        run(None, loss=loss)


def test_a_checkpoint_with_an_identity_is_of_another_run_than_one_without(tmp_path: Path) -> None:
    run(tmp_path / "run", more={"identity": {"heads": 2}})
    refuse("heads was 2 and is now None", tmp_path / "run")


def test_training_on_the_cpu_leaves_the_gpus_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a GPU."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    run(None, device="cpu")
    assert seeds == []
