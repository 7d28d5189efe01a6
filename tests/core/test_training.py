"""The training loop: every way to the last step - in one go, resumed, killed, in two processes - leads to the same."""

import contextlib
import json
import math
import multiprocessing
import os
import pty
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from training_run import CLASSES, Augmented, Network, cross_entropy, digest, run

from tenfold.core.artifacts import load_into, read_tensors, write_tensors
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, train
from tenfold.core.training.order import SampleOrder

SCRIPT = Path(__file__).with_name("training_run.py")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing by more, and children compute with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that have torch imported when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.tensorboard", "torch._dynamo", "torch.onnx", "tenfold.core.training"])
    return context


def start(processes: Any, folder: Path, options: dict[str, Any], environment: dict[str, str] | None = None) -> Any:
    code = (
        f"import os, sys, runpy; os.environ.update({environment or {}!r});"
        f"sys.argv = [{str(SCRIPT)!r}, {str(folder)!r}, {json.dumps(options)!r}];"
        f"sys.stdout = open({str(folder) + '.out'!r} + os.environ.get('RANK', ''), 'w');"
        f"sys.stderr = open({str(folder) + '.err'!r} + os.environ.get('RANK', ''), 'w');"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r});"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    process = processes.Process(target=exec, args=(code, {}))
    process.start()
    return process


def finish(process: Any) -> int:
    process.join(600)
    assert process.exitcode is not None, "a training process hangs"
    return int(process.exitcode)


def run_two(processes: Any, folder: Path, options: dict[str, Any]) -> list[int]:
    """What torchrun does, without its start of Python: the statuses of two processes that meet where we listen."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    children = [start(processes, folder, options, rank) for rank in ranks]
    return [finish(child) for child in children]


def answer(folder: Path, rank: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{folder}.out{rank}").read_text())
    return found


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log without what the clock decides."""
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in history]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# --- the order of the samples ----------------------------------------------------------------------------------------


@given(count=st.integers(1, 50), seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 60), max_size=8))
@settings(max_examples=50)
def test_however_the_stream_is_cut_each_epoch_has_each_sample_once(count: int, seed: int, cuts: list[int]) -> None:
    whole = SampleOrder(count, seed).numbers(0, 4 * count)
    for epoch in range(4):
        assert sorted(whole[epoch * count : (epoch + 1) * count]) == list(range(count))
    order, position, parts = SampleOrder(count, seed), 0, []
    for cut in cuts:
        parts += order.numbers(position, position + cut)
        position += cut
    assert parts[: 4 * count] == whole[: len(parts)][: 4 * count]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, other = SampleOrder(100, 0).numbers(0, 200), SampleOrder(100, 1).numbers(0, 100)
    assert first[:100] != first[100:]
    assert first[:100] != other


def test_accumulation_sees_the_samples_of_a_larger_batch_in_the_same_order() -> None:
    one, two = Augmented(23), Augmented(23)
    run(None, samples=one, batch_size=6)
    run(None, samples=two, batch_size=2, accumulate=3)
    assert one.seen == two.seen
    assert one.seen[:69] == SampleOrder(23, 0).numbers(0, 69)


# --- the same result on every way ------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (digest(run(None, seed=seed)[0]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_accumulation_gives_the_result_of_a_larger_batch() -> None:
    large, large_result = run(None, dropout=0, batch_size=6)
    small, small_result = run(None, dropout=0, batch_size=2, accumulate=3)
    for one, other in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for line, same in zip(large_result.history, small_result.history, strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)
        assert line["gradient_norm"] == pytest.approx(same["gradient_norm"], rel=1e-3)


def test_any_number_of_workers_gives_the_same_bits() -> None:
    alone, _ = run(None)
    with_workers, _ = run(None, workers=2)
    assert digest(alone) == digest(with_workers)


def test_samples_do_not_disturb_the_models_random_numbers() -> None:
    """Dropout draws the same whether samples draw much or nothing."""

    class Greedy(Augmented):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            torch.rand(1000), np.random.rand(1000), random.random()
            return sample

    assert digest(run(None, samples=Greedy(23))[0]) == digest(run(None, samples=Augmented(23))[0])


def test_the_callers_random_state_is_as_before() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    model = nn.Linear(1, 1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    train(model, torch.ones(3, 1), lambda net, batch: net(batch).mean(), None, TrainingConfig(2, 2))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_a_sample_that_is_seen_again_is_augmented_anew() -> None:
    drawn: list[float] = []

    class Drawing(Augmented):
        def __getitem__(self, index: int) -> Any:
            words, noise = super().__getitem__(index)
            drawn.append(float(noise[0]))
            return words, noise

    run(None, samples=Drawing(1), steps=5)
    assert len(set(drawn)) == len(drawn) == 20


def test_a_run_in_parts_is_the_run_in_one_go(tmp_path: Path) -> None:
    """Weights, moments, random state, means of the log: all go on where they were."""
    whole, result = run(tmp_path / "whole", steps=11, evaluate_every=4, schedule="constant")
    for steps in (3, 4, 5, 11):
        parts, resumed = run(tmp_path / "parts", steps=steps, evaluate_every=4, schedule="constant")
        assert resumed.steps == steps
    assert digest(parts) == digest(whole)
    ends = {3, 5}  # where a run ends is a line of its own
    inner = [line for line in timeless(resumed.history) if line["step"] not in ends]
    steps = [line["step"] for line in timeless(lines(tmp_path / "parts"))]
    assert steps == sorted(set(steps)) == [2, 3, 4, 5, 6, 8, 10, 11]
    assert inner[0] == timeless(result.history)[0]
    assert inner[-1] == timeless(result.history)[-1]


def test_a_run_that_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    first, result = run(tmp_path / "run")
    samples = Augmented(23)
    again, same = run(tmp_path / "run", samples=samples)
    assert samples.seen == []
    assert digest(again) == digest(first)
    assert same.history == result.history
    assert same.best == result.best


def test_a_run_started_anew_forgets_the_old_one(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "run")
    anew, result = run(tmp_path / "run", more={"resume": False}, seed=3)
    alone, _ = run(None, seed=3)
    assert digest(anew) == digest(alone) != digest(first)
    assert lines(tmp_path / "run") == result.history


# --- kills and signals -----------------------------------------------------------------------------------------------


def test_killed_at_random_moments_and_resumed_it_is_the_uninterrupted_run(tmp_path: Path, processes: Any) -> None:
    """Up to 20 ms after a step began: of 8 ms each, eight times that do not make 60."""
    options = {"steps": 60, "save_every": 1, "evaluate_every": 3, "delay": 0.002}
    whole, result = run(tmp_path / "whole", **options)
    folder, chance, reached = tmp_path / "killed", random.Random(0), set()
    for call in (1, 2, 3, 4) * 2:
        strike = [call, 0, chance.uniform(0.0001, 0.02)]
        killed = start(processes, folder, options | {"strike": strike})
        assert finish(killed) == -signal.SIGALRM, Path(f"{folder}.err").read_text()
        for part in ("last", "best"):  # whole at every moment
            if (folder / part).exists():
                load_file(folder / part / "model.safetensors")
        if (folder / "last").exists():
            reached.add(json.loads((folder / "last/training.json").read_text())["step"])
    assert len(reached) >= 6, "what was saved before a kill is gone"
    assert finish(start(processes, folder, options)) == 0, Path(f"{folder}.err").read_text()
    assert answer(folder)["digest"] == digest(whole)
    assert timeless(lines(folder)) == timeless(lines(tmp_path / "whole")) == timeless(result.history)
    best, same = (read_tensors(path / "best/model.safetensors") for path in (folder, tmp_path / "whole"))
    assert all(torch.equal(best[name], value) for name, value in same.items())
    assert {entry.name for entry in folder.iterdir()} == {"best", "config.json", "last", "log.jsonl", "tensorboard"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, processes: Any, number: int, status: int) -> None:
    """It comes in the fifth step, behind which the run ends."""
    options, folder = {"workers": 1}, tmp_path / "run"
    assert finish(start(processes, folder, options | {"strike": [5, number, 0]})) == status
    said = Path(f"{folder}.err").read_text()
    assert f"saved in {folder}/last; train again to go on" in said
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    assert json.loads((folder / "last/training.json").read_text())["step"] == 5
    resumed, _ = run(folder, **options)
    assert digest(resumed) == digest(run(None)[0])


@pytest.mark.parametrize(("pause", "saves"), [(0.0, True), (1.1, False)])
def test_a_second_ctrl_c_does_not_wait_but_one_that_comes_twice_does(tmp_path: Path, pause: float, saves: bool) -> None:
    """torchrun passes on what its processes also get from the terminal."""
    asked = 0

    def loss(model: nn.Module, batch: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)
        return cross_entropy(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=loss)
    assert asked == 3
    assert (tmp_path / "run/last").exists() == saves


def test_a_thread_can_train_and_signals_stay_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(digest(run(None)[0])))
    thread.start()
    thread.join()
    assert done == [digest(run(None)[0])]
    assert signal.getsignal(signal.SIGTERM) == before


# --- several processes -----------------------------------------------------------------------------------------------


def test_two_processes_are_one_with_the_double_batch(tmp_path: Path, processes: Any) -> None:
    folder = tmp_path / "two"
    statuses = run_two(processes, folder, {"dropout": 0, "batch_size": 3, "accumulate": 2})
    assert statuses == [0, 0], Path(f"{folder}.err0").read_text()
    single, result = run(None, dropout=0, batch_size=6, accumulate=2)
    assert answer(folder, "0") == answer(folder, "1")
    state = read_tensors(folder / "last/model.safetensors")
    for name, value in single.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)
    for line, same in zip(answer(folder, "0")["history"], result.history, strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)
        assert line["accuracy"] == pytest.approx(same["accuracy"], rel=1e-6)
        assert line["gradient_norm"] == pytest.approx(same["gradient_norm"], rel=1e-3)


def test_two_processes_stopped_by_a_signal_to_one_go_on_exactly(tmp_path: Path, processes: Any) -> None:
    """With dropout, so that each process needs its own random state back."""
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    assert run_two(processes, whole, {}) == [0, 0], Path(f"{whole}.err0").read_text()
    assert run_two(processes, folder, {"strike": [5, signal.SIGTERM, 0]}) == [143, 143]
    assert json.loads((folder / "last/training.json").read_text())["step"] == 5
    assert run_two(processes, folder, {}) == [0, 0], Path(f"{folder}.err0").read_text()
    assert answer(folder, "0") | {"history": 0} == answer(whole, "0") | {"history": 0}
    assert timeless(lines(folder)) == timeless(lines(whole))


def test_torchrun_runs_the_same_script(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    options = {"dropout": 0, "batch_size": 3}
    done = subprocess.run(
        [*command, str(tmp_path / "run"), json.dumps(options)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    single, _ = run(None, dropout=0, batch_size=6)
    state = read_tensors(tmp_path / "run/last/model.safetensors")
    torch.testing.assert_close(state["words.weight"], single.words.weight.data, rtol=1e-4, atol=1e-5)


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_tells_the_run(tmp_path: Path) -> None:
    _, result = run(tmp_path / "run", evaluate_every=3, precision="bf16")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["steps"] == 12
    assert config["betas"] == [0.9, 0.95]
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 3, 4, 6, 8, 9, 10, 12]
    line = lines(tmp_path / "run")[-1]
    assert line.keys() == {"step", "loss", "accuracy", "gradient_norm", "rate", "samples_per_second", "evaluation"}
    assert result.history == lines(tmp_path / "run")
    assert result.samples_per_second == pytest.approx(12 * 4 / result.seconds)
    assert result.path == tmp_path / "run"


def test_tensorboard_has_the_lines_of_the_log_without_doubled_steps(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path / "run", steps=4, schedule="constant")
    run(tmp_path / "run", steps=8, schedule="constant")
    board = events.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    for tag, values in {
        "train/loss": [line["loss"] for line in lines(tmp_path / "run")],
        "evaluation/right": [line["evaluation"]["right"] for line in lines(tmp_path / "run") if "evaluation" in line],
    }.items():
        assert [event.value for event in board.Scalars(tag)] == pytest.approx(values)


def test_the_lines_hold_the_means_since_the_line_before() -> None:
    _, single = run(None, log_every=1)
    _, triple = run(None, log_every=3)
    losses = [line["loss"] for line in single.history]
    assert [line["loss"] for line in triple.history] == pytest.approx(
        [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6, 9)]
    )


@pytest.mark.parametrize(("higher", "choose"), [(False, min), (True, max)])
def test_best_is_the_model_that_measured_best(tmp_path: Path, higher: bool, choose: Callable[..., float]) -> None:
    values = iter([3.0, 1.0, float("nan"), 5.0, 2.0, 4.0])
    seen: dict[float, dict[str, torch.Tensor]] = {}

    def judge(model: nn.Module) -> dict[str, float]:
        value = next(values)
        seen[value] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return {"score": value}

    more = {"evaluate": judge, "best": "score", "higher_is_better": higher}
    _, result = run(tmp_path / "run", evaluate_every=2, more=more)
    assert result.best == choose(1.0, 5.0)
    assert lines(tmp_path / "run")[2]["evaluation"] == {"score": None}
    stored = read_tensors(tmp_path / "run/best/model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in seen[result.best].items())


def test_last_and_best_are_what_save_writes(tmp_path: Path) -> None:
    def save(model: nn.Module, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "words.txt").write_text(str(len(model.words.weight)))

    run(tmp_path / "run", more={"save": save})
    for part in ("last", "best"):
        assert (tmp_path / "run" / part / "words.txt").read_text() == str(CLASSES)
    run(tmp_path / "run", steps=14, more={"save": save})


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(None, save_every=1)
    assert list(tmp_path.iterdir()) == []


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model, _ = run(tmp_path / "run")
    stored = load_file(tmp_path / "run/last/model.safetensors")
    assert ("words.weight" in stored) != ("out.weight" in stored)
    fresh = Network(0)
    load_into(fresh, read_tensors(tmp_path / "run/last/model.safetensors"), "last")
    assert digest(fresh) == digest(model)


def test_evaluation_leaves_modes_and_random_state_alone() -> None:
    """A frozen part that the room keeps in evaluation mode stays in it, and drawing changes nothing."""

    def greedy(model: nn.Module) -> dict[str, float]:
        torch.rand(10), np.random.rand(), random.random()
        return {"loss": 0.0}

    drawn = [digest(run(None, evaluate_every=every, more={"evaluate": greedy})[0]) for every in (1, 0)]
    assert drawn[0] == drawn[1]


def test_a_terminal_shows_a_bar_with_loss_rate_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    main, terminal = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(main, 4096):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with open(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        run(None, more={"quiet": False})
    reader.join()
    os.close(main)
    assert re.search(rb"12/12.*loss \d\.\d{4}  rate 5\.00e-03  [\d,]+ samples/s", b"".join(shown))


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run(None, more={"quiet": False})
    assert capfd.readouterr() == ("", "")


# --- the arithmetic --------------------------------------------------------------------------------------------------


def test_one_step_is_adamw_with_clipping_and_decay_of_matrices_only() -> None:
    torch.manual_seed(0)
    model, twin = (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    batch = torch.arange(4)

    def loss(net: nn.Module, words: torch.Tensor) -> torch.Tensor:
        return 100 * net(words).mul(torch.arange(1.0, 4.0)).pow(2).mean()

    train(model, batch, loss, None, TrainingConfig(1, 4, weight_decay=0.5, learning_rate=0.1, clip=0.7, final_rate=1))
    loss(twin, batch).backward()
    total = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    assert total > 0.7
    for name, p in twin.named_parameters():
        g = p.grad * 0.7 / (total + 1e-6)  # after one step both moments are the gradient and its square
        decay = 0.1 * 0.5 if name == "1.weight" else 0.0
        expected = p.data * (1 - decay) - 0.1 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(dict(model.named_parameters())[name].data, expected, rtol=1e-4, atol=1e-5)


def test_the_rate_rises_in_a_line_and_falls_to_its_final_share() -> None:
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        config = TrainingConfig(steps=30, batch_size=1, warmup=10, schedule=schedule, final_rate=0.1)
        shares = [config.rate_share(step) for step in range(1, 31)]
        assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
        assert shares[19] == pytest.approx(middle)
        assert shares[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)
        assert shares[9:] == sorted(shares[9:], reverse=True)


def test_groups_of_the_caller_have_rates_of_their_own() -> None:
    def parameters(model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": model.hidden.parameters(), "lr": 0.0}, {"params": model.norm.parameters()}]

    model, _ = run(None, more={"parameters": parameters})
    torch.manual_seed(5)
    untrained = Network(0)
    assert torch.equal(model.hidden.weight, untrained.hidden.weight)
    assert torch.equal(model.words.weight, untrained.words.weight)
    assert not torch.equal(model.norm.weight, untrained.norm.weight)


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    kinds = set()

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        kinds.add(model.hidden(torch.ones(6)).dtype)
        return cross_entropy(model, batch)[0]

    model, result = run(None, precision="bf16", loss=loss, steps=60)
    assert kinds == {torch.bfloat16}
    assert model.hidden.weight.dtype == torch.float32
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2


def test_it_learns() -> None:
    _, result = run(None, steps=60)
    assert result.history[-1]["evaluation"]["right"] == CLASSES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_a_run_in_parts_is_the_run_in_one_go(tmp_path: Path, precision: str) -> None:
    """The GPU's random state and the scaler of fp16 go on too; small layers sum in one order."""
    options = {"device": "cuda", "precision": precision, "schedule": "constant", "more": {"evaluate": None}}
    whole, _ = run(tmp_path / "whole", steps=10, **options)
    for steps in (4, 10):
        parts, result = run(tmp_path / "parts", steps=steps, **options)
    assert digest(parts) == digest(whole)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path, bad: str) -> None:
    step = 0

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal step
        step += 1
        value = cross_entropy(model, batch)[0]
        if step != 6:
            return value
        return value * math.inf if bad == "loss" else value + (model.hidden.weight * 0).abs().sqrt().sum()

    with pytest.raises(InputError, match=rf"the {bad} of step 6 is (inf|nan).*last stays.*learning_rate") as caught:
        run(tmp_path / "run", loss=loss, save_every=5)
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "run/last/training.json").read_text())["step"] == 5
    resumed, _ = run(tmp_path / "run", save_every=5)
    assert digest(resumed) == digest(run(None)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 5}, "batch_size was 4 and is now 5"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"count": 24}, "samples was 23 and is now 24"),
        ({"learning_rate": 0.1}, "learning_rate was 0.05 and is now 0.1"),
        ({"steps": 11}, "has 12 steps, more than steps, 11"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run(tmp_path / "run")
    before = (tmp_path / "run/last/training.safetensors").read_bytes()
    with pytest.raises(InputError, match=words):
        run(tmp_path / "run", **change)
    assert (tmp_path / "run/last/training.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_model_is_refused_by_its_shapes(tmp_path: Path) -> None:
    run(tmp_path / "run")
    other = nn.Linear(6, 6)
    with pytest.raises(
        InputError, match=r"last: does not fit the model: misses weight, bias; has unexpected .* and 5 more"
    ):
        train(other, Augmented(23), cross_entropy, tmp_path / "run", TrainingConfig(12, 4, learning_rate=0.05))


def test_a_checkpoint_of_what_no_shape_tells_is_refused(tmp_path: Path) -> None:
    """What a room says of its model and its samples counts like a setting."""
    run(tmp_path / "run", more={"identity": {"heads": 2, "widths": (4, 8)}})
    again, _ = run(tmp_path / "run", more={"identity": {"heads": 2, "widths": [4, 8]}})
    assert digest(again) == digest(run(None)[0])
    with pytest.raises(InputError, match="last: is of another run: heads was 2 and is now 4"):
        run(tmp_path / "run", more={"identity": {"heads": 4}})


@pytest.mark.parametrize("damage", ["json", "tensors", "missing"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "run")
    last = tmp_path / "run/last"
    if damage == "json":
        (last / "training.json").write_text('{"format": 1}')
    elif damage == "tensors":
        (last / "training.safetensors").write_bytes((last / "training.safetensors").read_bytes()[:-9])
    else:
        (last / "training.safetensors").unlink()
    with pytest.raises(InputError, match=r"run/last/training\.") as caught:
        run(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["last", "best"])
def test_folders_that_no_run_made_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(InputError, match="is not of a training run"):
            run(tmp_path, more={"resume": resume})
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"


def test_a_model_folder_is_not_taken_for_the_folder_of_a_run(tmp_path: Path) -> None:
    """Its config.json would be replaced by that of the run, and the model with it be lost."""
    (tmp_path / "config.json").write_text('{"model_type": "gsa"}')
    for resume in (True, False):
        with pytest.raises(InputError, match=r"config\.json: is not of a training run"):
            run(tmp_path, more={"resume": resume})
    assert (tmp_path / "config.json").read_text() == '{"model_type": "gsa"}'


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"final_rate": 2}, "final_rate is 2; it must be a number from 0 to 1"),
        ({"betas": (0.9,)}, r"betas is \(0.9,\); it must be two numbers"),
        ({"betas": (0.9, 1.0)}, "betas holds 1"),
        ({"schedule": "step"}, "schedule is 'step'; choose cosine, linear or constant"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_settings_out_of_range_are_refused_where_they_are_made(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TrainingConfig(**{"steps": 1, "batch_size": 1} | setting)


def refuse_loss(answer: Any) -> Callable[[nn.Module, Any], Any]:
    return lambda model, batch: answer(cross_entropy(model, batch)[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": iter([1])}, "it must have a length and give sample i"),
        ({"samples": Augmented(0)}, "samples is empty"),
        ({"loss": refuse_loss(lambda value: value.detach())}, "loss must give one number"),
        ({"loss": refuse_loss(lambda value: value.expand(2))}, "loss must give one number"),
        ({"loss": refuse_loss(lambda value: (value, {"loss": 1.0}))}, "a measure named 'loss'"),
        ({"more": {"best": "recall"}}, "evaluate gives loss, right, but not 'recall'"),
        ({"more": {"parameters": lambda model: [{"params": []}]}}, "no parameter to train"),
        ({"more": {"parameters": lambda model: [{"params": [nn.Parameter(torch.ones(1))]}]}}, "not the model's"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(None, **arguments)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_is_refused_says_so_in_one_line(workers: int) -> None:
    class Damaged(Augmented):
        def __getitem__(self, index: int) -> Any:
            raise InputError(f"picture {index}: is cut; fetch it again")

    with pytest.raises(InputError, match=r"^picture \d+: is cut; fetch it again$"):
        run(None, samples=Damaged(23), workers=workers)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """As far as a test can fill one: the process may write small files only."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(model: nn.Module, folder: Path) -> None:
        if json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])["step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        write_tensors(folder / "model.safetensors", model.state_dict())

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(InputError, match=r"run/last: step 6 cannot be saved .*the checkpoint before stays"):
            run(tmp_path / "run", save_every=3, more={"save": save})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)
    resumed, _ = run(tmp_path / "run", save_every=3)
    assert digest(resumed) == digest(run(None)[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("setting", [{"device": "cuda"}, {"precision": "fp16"}])
def test_what_needs_a_gpu_says_so(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="GPU"):
        run(None, **setting)


def test_an_evaluation_that_fails_at_the_end_loses_no_training(tmp_path: Path) -> None:
    def fail(model: nn.Module) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run", more={"evaluate": fail})
    samples = Augmented(23)
    mended, result = run(tmp_path / "run", samples=samples)
    assert samples.seen == []
    undisturbed, same = run(None)
    assert digest(mended) == digest(undisturbed)
    assert timeless(result.history) == timeless(same.history)
