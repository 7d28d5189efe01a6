"""Tenfold's models in the LM Evaluation Harness of EleutherAI: `pip install 'tenfold[harness]'`.

    from tenfold.attention.harness import evaluate_tasks
    evaluate_tasks("model/", ["lambada_openai", "piqa"])["results"]

The harness fetches the data sets of its tasks itself; tasks on local files are YAML files of its format.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold.core.errors import InputError

__all__ = ["evaluate_tasks", "harness_model"]


def harness_model(
    path: str | Path, *, batch_size: int = 8, max_length: int | None = None, device: str | None = None
) -> Any:
    """A saved model as the harness takes one: `lm_eval.simple_evaluate(model=harness_model("model/"))`.

    Args:
        path: A folder of `save_pretrained` with the model and its tokenizer.
        batch_size: Sequences at a time.
        max_length: Tokens of context that the tasks may use; default as the model's configuration says, or 2,048.
        device: Of torch; default cuda if there is one.

    Raises:
        InputError: The harness is not installed, or there is no model.
    """
    _check_folder(Path(path))
    _require_harness()
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - takes seconds and hundreds of megabytes

    place = {} if device is None else {"device": device}
    return HFLM(pretrained=str(path), backend="causal", batch_size=batch_size, max_length=max_length, **place)


def evaluate_tasks(
    path: str | Path,
    tasks: Sequence[str],
    *,
    task_folder: str | Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Run tasks of the harness on a saved model; its result, with `results[task][metric]`.

    Args:
        path: As for `harness_model`.
        tasks: Their names in the harness.
        task_folder: Of further tasks in YAML.
        limit: Documents per task; default all.
        few_shot: Examples before each question; default as the task says.
        batch_size: As for `harness_model`.
        max_length: As for `harness_model`.
        device: As for `harness_model`.

    Raises:
        InputError: As `harness_model`, or for a task that the harness does not know.
    """
    _require_harness()
    import lm_eval  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    manager = TaskManager(include_path=None if task_folder is None else str(task_folder))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown or not tasks:
        raise InputError(f"the harness has no task {', '.join(unknown) or 'without a name'}; see lm-eval ls tasks")
    model = harness_model(path, batch_size=batch_size, max_length=max_length, device=device)
    return dict(
        lm_eval.simple_evaluate(model, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=few_shot)
    )


def _check_folder(folder: Path) -> None:
    """A saved model; the folder of a run has a config.json too, of its training."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except OSError:
        raise InputError(f"{folder}: has no config.json; give the folder of a saved model") from None
    except ValueError:
        raise InputError(f"{folder}/config.json: is no JSON; save the model again") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{folder}/config.json: names no model_type; give a model's folder, of a run its best or last")


def _require_harness() -> None:
    try:
        importlib.import_module("lm_eval.models.huggingface")
    except ImportError as error:
        raise InputError(f"the LM Evaluation Harness is missing ({error}); pip install 'tenfold[harness]'") from None
