"""The training loop that all rooms share."""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import default_collate

from tenfold.core.artifacts import load_into
from tenfold.core.errors import InputError
from tenfold.core.training.checkpoints import (
    Checkpoint,
    Save,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    save_weights,
    write_best,
    write_config,
    write_last,
)
from tenfold.core.training.config import TrainingConfig, first_difference
from tenfold.core.training.journal import Journal, Line, Progress, Window, progress_bar
from tenfold.core.training.order import Samples, check_samples, open_batches
from tenfold.core.training.randomness import apart, random_state, seed_device, set_random_state
from tenfold.core.training.setup import Groups, forget_accelerator, make_optimizer, open_accelerator, prepare_folder
from tenfold.core.training.stopping import noted_signals

__all__ = ["TrainingResult", "train"]

Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Mapping[str, float | Tensor]]]
Evaluate = Callable[[nn.Module], Mapping[str, float]]
_LOGGED = ("step", "loss", "gradient_norm", "rate", "samples_per_second", "evaluation")  # what the loop itself measures


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to; the same in every process.

    Attributes:
        steps: Steps done, those of earlier calls included.
        history: The lines of `log.jsonl`.
        best: The best value of the measure that was asked for; None without an evaluation.
        seconds: Wall time of the steps, over all calls, without evaluations and checkpoints.
        samples_per_second: Samples of all processes per second of that time.
        path: The folder of the run, if it has one.
    """

    steps: int
    history: list[dict[str, Any]]
    best: float | None
    seconds: float
    samples_per_second: float
    path: Path | None


def train(
    model: nn.Module,
    samples: Samples,
    loss: Loss,
    folder: Path | str | None,
    config: TrainingConfig,
    *,
    evaluate: Evaluate | None = None,
    best: str = "loss",
    higher_is_better: bool = False,
    collate: Callable[[list[Any]], Any] = default_collate,
    parameters: Callable[[nn.Module], Groups] | None = None,
    save: Save = save_weights,
    identity: Mapping[str, Any] | None = None,
    resume: bool = True,
    quiet: bool = False,
) -> TrainingResult:
    """Train a model, in one process or, under torchrun, in several.

    Args:
        model: Is trained in place, and on its device afterwards. Built alike in every process.
        samples: A map-style data set. What it draws from `random`, NumPy and torch depends on the seed and on the place
            of the sample in the run, for any number of workers and processes.
        loss: Gives the mean loss of a batch, and if wanted measures of it by name, the same names in every step. It is
            given `model` itself, also under torchrun, and the batch on the model's device.
        folder: Where the run lies; None writes nothing. Several machines need it on a file system they share.
        config: The settings.
        evaluate: Measures the model, which is in evaluation mode, without gradients, in float32 unless `evaluate`
            says otherwise, and with the same random numbers each time. Only the main process calls it.
        best: The measure of `evaluate` by which `folder/best` is chosen.
        higher_is_better: Whether the highest value of it is the best, not the lowest.
        collate: Makes a batch of a list of samples.
        parameters: Gives AdamW's parameter groups, as torch takes them; `lr` of a group is its highest rate. By default
            weights decay that have two dimensions or more and are not of an embedding: a row of an embedding that
            is not seen for long would decay without being trained.
        save: Writes the model into an empty folder; `best` and `last` are made with it.
        identity: What else makes the run what it is, as JSON values by name: settings of the model that no shape tells,
            a digest of the samples. A checkpoint with other values is refused.
        resume: Go on behind `folder/last` if it is there. False removes the run in the folder and starts anew.
        quiet: No progress bar. There is none either where stderr is not a terminal.

    Raises InputError for input that cannot be used, a checkpoint of another run, and a loss or a gradient that is not
    finite; the last checkpoint stays. SIGINT and SIGTERM end the step under way, save, say on stderr how to go on, and
    raise KeyboardInterrupt and SystemExit; a second SIGINT does not wait. The caller's random state is as before.
    """
    check_samples(samples)
    with ExitStack() as stack:
        accelerator = open_accelerator(config)
        stack.callback(forget_accelerator)
        stack.enter_context(apart(accelerator.device))
        place = Path(folder) if folder is not None else None
        run = _Run(model, loss, place, config, accelerator, len(samples), make_optimizer(model, config, parameters))
        run.save, run.judge = save, _Judge(evaluate, best, higher_is_better)
        run.identity |= json.loads(json.dumps(dict(identity or {})))
        run.start(resume)
        stack.callback(run.journal.close)
        run.signals = stack.enter_context(noted_signals())
        progress = stack.enter_context(progress_bar(config.steps, run.step, run.is_main and not quiet))
        run.finish_step()  # where an earlier call ended behind a checkpoint
        process, processes = accelerator.process_index, accelerator.num_processes
        pin = accelerator.device.type == "cuda"
        batches = open_batches(samples, config, collate, run.step, process, processes, pin)
        run.go(stack.enter_context(closing(batches)), progress)
        return run.result()


@dataclass(frozen=True)
class _Judge:
    """Which model is the best."""

    evaluate: Evaluate | None = None
    measure: str = "loss"
    higher_is_better: bool = False

    def best(self, lines: list[Line]) -> float | None:
        """The best value in the log so far."""
        values = [line["evaluation"].get(self.measure) for line in lines if "evaluation" in line]
        known = [value for value in values if value is not None]
        return (max if self.higher_is_better else min)(known, default=None)

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value beats the best so far."""
        return math.isfinite(value) and (best is None or (value > best if self.higher_is_better else value < best))


class _Objective(nn.Module):
    """The loss as a module: DDP and autocast see one forward pass, whatever `loss` calls of the model."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what was measured beside it without gradients."""
        answer = self._loss(self.model, batch)
        value, measures = answer if isinstance(answer, tuple) else (answer, {})
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise InputError("loss must give one number, as a tensor that has a gradient, and measures if wanted")
        if taken := [name for name in _LOGGED if name in measures]:
            raise InputError(f"loss gives a measure named {taken[0]!r}, which the log has of its own; rename it")
        plain = {name: torch.as_tensor(number, device=value.device).detach() for name, number in measures.items()}
        return value.reshape(()), plain


class _Run:
    """A run between two steps."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        folder: Path | None,
        config: TrainingConfig,
        accelerator: Accelerator,
        count: int,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model, self.folder, self.config, self.accelerator = model, folder, config, accelerator
        self.save: Save = save_weights
        self.judge, self.signals, self.journal = _Judge(), list[int](), Journal(None, 0)
        self.identity = config.identity() | {"processes": accelerator.num_processes, "samples": count}
        self.step, self.seconds, self.window = 0, 0.0, Window()
        self.optimizer = optimizer
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.objective, self.stepper = accelerator.prepare(_Objective(model, loss), optimizer)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and evaluates."""
        return bool(self.accelerator.is_main_process)

    @property
    def step_samples(self) -> int:
        """Samples of one step."""
        return self.config.batch_size * self.config.accumulate * int(self.accelerator.num_processes)

    def start(self, resume: bool) -> None:
        """Begin, or go on behind the last checkpoint."""
        seed_device(self.config.seed, "model", self.accelerator.process_index, self.accelerator.device)
        if self.folder:
            if self.is_main:
                prepare_folder(self.folder, resume)
            self.accelerator.wait_for_everyone()
            if checkpoint := read_checkpoint(self.folder):
                self._restore(checkpoint)
        self.accelerator.wait_for_everyone()
        if self.folder and self.is_main:
            settings = self.config.as_json() | {"processes": self.accelerator.num_processes}
            try:
                self.journal = Journal(self.folder, self.step)
                write_config(self.folder, settings)
            except OSError as error:
                where = error.filename or self.folder
                raise InputError(f"{where}: {error.strerror or error}; mend that or choose another folder") from None
        self.model.train()

    def _restore(self, checkpoint: Checkpoint) -> None:
        last = f"{self.folder}/last"
        given = dict.fromkeys(checkpoint.identity) | self.identity
        if differs := first_difference(checkpoint.identity, given):
            raise InputError(f"{last}: is of another run: {differs}; choose another folder, or do not resume")
        if checkpoint.step > self.config.steps:
            raise InputError(f"{last}: has {checkpoint.step:,} steps, more than steps, {self.config.steps:,}; raise it")
        load_into(self.model, checkpoint.weights, last)
        load_optimizer(self.optimizer, self.model, checkpoint.optimizer)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(checkpoint.scaler))
        set_random_state(checkpoint.random[self.accelerator.process_index], self.accelerator.device)
        self.step, self.seconds, self.window = checkpoint.step, checkpoint.seconds, Window(**checkpoint.window)

    def go(self, batches: Iterator[Any], progress: Progress) -> None:
        """Train to the last step."""
        while self.step < self.config.steps:
            begin = time.perf_counter()
            values, stop = self._advance(batches)
            seconds = time.perf_counter() - begin
            self.seconds += seconds
            self.window.add(values, seconds)
            self.step += 1
            if stop or self._is_due(self.config.save_every):
                self._save_last()
            if stop:
                self._stop()
            self.finish_step()
            progress(self.step, values["loss"], self._rate(), self.step_samples / seconds)
        if self.signals:  # came during the last evaluation
            self._stop()

    def _is_due(self, every: int) -> bool:
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def _rate(self) -> float:
        return self.config.learning_rate * self.config.rate_share(max(1, self.step))

    # --- one step ---

    def _advance(self, batches: Iterator[Any]) -> tuple[dict[str, float], bool]:
        """Change the weights once: the means of loss and measures, the gradient's norm, and whether to stop."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.config.rate_share(self.step + 1)
        self.stepper.zero_grad()
        passes = [self._learn(next(batches), number) for number in range(self.config.accumulate)]
        values, stop = self._average(passes)
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.config.clip or math.inf))
        self._check_finite("loss", values["loss"])
        if self.accelerator.scaler is None:  # the scaler of fp16 passes over such a step and lowers its scale
            self._check_finite("gradient", norm)
        self.stepper.step()
        return values | {"gradient_norm": norm}, stop

    def _learn(self, batch: Any, number: int) -> dict[str, Tensor]:
        """Forward and backward pass `number` of a step; what was measured."""
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        is_last = number == self.config.accumulate - 1
        with nullcontext() if is_last else self.accelerator.no_sync(self.objective):
            loss, measures = self.objective(batch)
            self.accelerator.backward(loss / self.config.accumulate)
        return {"loss": loss.detach(), **measures}

    def _average(self, passes: list[dict[str, Tensor]]) -> tuple[dict[str, float], bool]:
        """The means over the passes of all processes, and whether any was asked to stop, in one exchange."""
        names = sorted(passes[0])
        if any(sorted(values) != names for values in passes):
            raise InputError(f"loss gives measures {', '.join(names)}, but not always; give the same names each time")
        rows = [torch.stack([values[name].double() for name in names]) for values in passes]
        mean = torch.stack(rows).mean(0)
        stop = torch.full_like(mean[:1], float(bool(self.signals)))
        means = self.accelerator.reduce(torch.cat([mean, stop]), reduction="mean").tolist()
        return dict(zip(names, means, strict=False)), means[-1] > 0

    def _check_finite(self, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        kept = f"; {self.folder}/last stays as it was" if self.folder and (self.folder / "last").exists() else ""
        raise InputError(
            f"the {what} of step {self.step + 1:,} is {value}{kept}; "
            "try a lower learning_rate, a longer warmup, or precision fp32, and look for such values in the samples"
        )

    # --- behind a step ---

    def finish_step(self) -> None:
        """Evaluate and write a line of the log, if that is due and was not done before."""
        evaluate, is_due = self.judge.evaluate, self._is_due(self.config.evaluate_every)
        if self.step == 0 or not ((evaluate and is_due) or self._is_due(self.config.log_every)):
            return
        if self.is_main and not self.journal.has(self.step):
            speed = self.step_samples * self.window.steps / self.window.seconds if self.window.seconds else None
            line: Line = {"step": self.step} | self.window.means() | {"rate": self._rate(), "samples_per_second": speed}
            if is_due and evaluate:
                line["evaluation"] = self._evaluate(evaluate)
            with self._writing("log.jsonl"):
                self.journal.write(line)
        self.window = Window()

    def _evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """What `evaluate` measures; the model goes to `best` if it is the best."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with torch.no_grad(), apart(self.accelerator.device):
            seed_device(self.config.seed, "evaluation", 0, self.accelerator.device)
            measures = {name: float(value) for name, value in evaluate(self.model).items()}
        for module, mode in modes:
            module.training = mode
        if self.judge.measure not in measures:
            known = ", ".join(measures) or "nothing"
            raise InputError(
                f"evaluate gives {known}, but not {self.judge.measure!r}; name one of its measures as best"
            )
        if self.folder and self.judge.is_better(measures[self.judge.measure], self.judge.best(self.journal.lines)):
            with self._writing("best"):
                write_best(self.folder, self.model, self.save)
        return measures

    def _save_last(self) -> None:
        if not self.folder:
            return
        states = gather_object([random_state(self.accelerator.device)])
        if not self.is_main:
            return
        scaler = self.accelerator.scaler
        checkpoint = Checkpoint(
            step=self.step,
            identity=self.identity,
            seconds=self.seconds,
            window=self.window.as_json(),
            scaler=scaler.state_dict() if scaler is not None else {},
            weights=self.model.state_dict(),
            optimizer=optimizer_tensors(self.optimizer, self.model),
            random=states,
        )
        with self._writing("last"):
            self.journal.sync()
            write_last(self.folder, self.model, self.save, checkpoint)

    @contextmanager
    def _writing(self, part: str) -> Iterator[None]:
        """InputError where a part of the folder cannot be written."""
        try:
            yield
        except OSError as error:
            what = f"{self.folder}/{part}: step {self.step:,} cannot be saved ({error.strerror or error})"
            raise InputError(f"{what}; mend that and train again: the checkpoint before stays") from error

    def _stop(self) -> None:
        """Say how to go on, and leave as the signal wants it."""
        if self.is_main:
            saved = f"saved in {self.folder}/last; train again to go on" if self.folder else "nothing was saved"
            print(f"stopped behind step {self.step:,} of {self.config.steps:,}: {saved}", file=sys.stderr)
        if signal.SIGINT in self.signals:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def result(self) -> TrainingResult:
        """What the run came to."""
        shared = [self.journal.lines]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(shared)
        speed = self.step * self.step_samples / self.seconds if self.seconds else 0.0
        return TrainingResult(self.step, shared[0], self.judge.best(shared[0]), self.seconds, speed, self.folder)
