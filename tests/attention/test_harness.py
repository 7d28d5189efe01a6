"""A saved model runs the tasks of the LM Evaluation Harness, and scores what its own probabilities say."""

import json
import sys
from pathlib import Path

import pytest
import torch
from known_models import tiny_llama

from tenfold.attention.data import read_texts
from tenfold.attention.harness import evaluate_tasks, harness_model
from tenfold.attention.losses import evaluating, token_losses
from tenfold.attention.tokens import byte_tokenizer
from tenfold.core.errors import InputError

TOKENIZER = byte_tokenizer()
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
validation_split: validation
metadata:
  version: 1
"""
CHOICE = (
    "output_type: multiple_choice\ndoc_to_text: '{{start}}'\ndoc_to_choice: '{{ends}}'\ndoc_to_target: '{{gold}}'\n"
)
ROLLING = (
    "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list:\n  - metric: bits_per_byte\n"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install tenfold[harness]")
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(len(TOKENIZER)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def task(folder: Path, name: str, rows: list[dict[str, object]], kind: str) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / f"{name}.jsonl") + kind)


def nats(text: str, start: int) -> float:
    """The loss of the bytes of `text` from `start` on, by the model itself."""
    model = tiny_llama(len(TOKENIZER))
    ids = torch.tensor([TOKENIZER(text)["input_ids"]])
    with evaluating(model):
        return float(token_losses(model, ids[:, :-1], ids[:, 1:])[0, start - 1 :].sum())


def test_choices_are_scored_by_the_model_s_own_probabilities(saved: Path, tmp_path: Path) -> None:
    ends = [["mat", "sky", "x"], ["is", "was"], ["end", "ende"], ["a", "b"], ["one", "two"], ["1", "2"]]
    rows = [{"start": f"The cat number {n} sat", "ends": each, "gold": n % 2} for n, each in enumerate(ends)]
    task(tmp_path, "tenfold_choice", rows, CHOICE)
    found = evaluate_tasks(saved, ["tenfold_choice"], task_folder=tmp_path, batch_size=3, device="cpu")["results"]
    right = 0
    for row in rows:
        losses = [nats(f"{row['start']} {end}", len(str(row["start"]))) for end in row["ends"]]  # type: ignore[attr-defined]
        right += losses.index(min(losses)) == row["gold"]
    assert found["tenfold_choice"]["acc,none"] == right / len(rows)


def test_bits_per_byte_of_real_text(saved: Path, tmp_path: Path, attention_data: Path) -> None:
    """The harness predicts the first byte too, from the eos token."""
    text = next(read_texts([attention_data / "tinyshakespeare.txt"]))[:700]
    task(tmp_path, "tenfold_text", [{"text": text}], ROLLING)
    found = evaluate_tasks(saved, ["tenfold_text"], task_folder=tmp_path, batch_size=1, max_length=1024, device="cpu")[
        "results"
    ]
    model = tiny_llama(len(TOKENIZER))
    starts = [harness_model(saved, device="cpu").prefix_token_id]
    ids = torch.tensor([starts + TOKENIZER(text)["input_ids"]])
    with evaluating(model):
        expected = float(token_losses(model, ids[:, :-1], ids[:, 1:]).sum()) / 0.6931471805599453 / len(text.encode())
    assert found["tenfold_text"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)


def test_unknown_tasks_are_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="no task tenfold_none"):
        evaluate_tasks(saved, ["tenfold_none"])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        harness_model(tmp_path)


def test_without_the_harness_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    for module in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"the LM Evaluation Harness is missing .*; pip install tenfold\[harness\]"):
        harness_model(tmp_path)
