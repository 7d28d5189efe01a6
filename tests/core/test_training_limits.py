"""What the training loop meets at the edge: a full disk, a kill at the very start, names and settings that clash."""

import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training_run import cross_entropy, digest, run

from tenfold.core.errors import InputError
from tenfold.core.training import journal

Fill = Callable[[int], None]


@contextmanager
def disk() -> Iterator[Fill]:
    """A function that fills the disk as far as a test can: no file of this process gets larger than so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def refuse(message: str, folder: Path, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(folder, **options)
    assert "\n" not in str(caught.value)


class Board:
    """A TensorBoard that the disk has no room for."""

    def add_scalar(self, *_: Any) -> None:
        pass

    def close(self) -> None:
        raise OSError("no room")


# --- the disk --------------------------------------------------------------------------------------------------------


def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_open_board", lambda folder, step: None)
    with disk() as fill:
        fill(0)
        refuse("run: File too large; mend that or choose another folder", tmp_path / "run")
    run(tmp_path / "run")


def test_a_place_where_a_folder_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run/.log.jsonl.partial").mkdir(parents=True)
    refuse("mend that or choose another folder", tmp_path / "run")


def test_a_full_disk_is_told_of_the_best_model_too(tmp_path: Path) -> None:
    with disk() as fill:

        def evaluate(model: nn.Module) -> dict[str, float]:
            fill(400)
            return {"loss": 1.0}

        more = {"evaluate": evaluate}
        refuse("run/best: step 2 cannot be saved .*train again", tmp_path / "run", evaluate_every=2, more=more)
    assert digest(run(tmp_path / "run")[0]) == digest(run(None)[0])


@pytest.mark.parametrize("part", ["last", "best"])
def test_a_full_disk_is_told_where_safetensors_meets_it(tmp_path: Path, part: str) -> None:
    with disk() as fill:

        def save(model: nn.Module, folder: Path) -> None:
            if part in folder.name:
                fill(100)
            save_file({"weight": model.hidden.weight.detach()}, folder / "model.safetensors")

        refuse(f"run/{part}: step 12 cannot be saved", tmp_path / "run", more={"save": save})


def test_a_log_without_room_is_told_and_nothing_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_open_board", lambda folder, step: Board())
    log = tmp_path / "run/log.jsonl"
    with disk() as fill:

        def loss(model: nn.Module, batch: Any) -> Any:
            if size := log.stat().st_size:
                fill(size)
            return cross_entropy(model, batch)

        refuse(r"run/log\.jsonl: step 4 cannot be saved", tmp_path / "run", loss=loss, more={"evaluate": None})
    assert digest(run(tmp_path / "run")[0]) == digest(run(None)[0])


def test_a_kill_before_anything_is_written_leaves_a_folder_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, step: int) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_open_board", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    assert digest(run(tmp_path / "run")[0]) == digest(run(None)[0])


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
