"""A saved model runs the tasks of the LM Evaluation Harness, and scores what its own probabilities say."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tenfold.attention.data import read_texts
from tenfold.attention.harness import evaluate_tasks, harness_model
from tenfold.attention.losses import evaluating, token_losses
from tenfold.attention.model import GSAConfig, GSAForCausalLM
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


def tiny_model() -> GSAForCausalLM:
    config = GSAConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=2, num_heads=4, num_kv_heads=2, num_slots=8,
        initializer_range=0.3, bos_token_id=TOKENIZER.bos_token_id, eos_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return GSAForCausalLM(config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tenfold[harness]'")
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


WRITING = (
    "output_type: generate_until\ndoc_to_text: '{{start}}'\ndoc_to_target: '{{end}}'\n"
    "generation_kwargs:\n  max_gen_toks: 5\n  until: []\n  do_sample: false\n"
    "metric_list:\n  - metric: exact_match\n"
)


def task(folder: Path, name: str, rows: list[dict[str, object]], kind: str) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=folder / f"{name}.jsonl") + kind)


def nats(text: str, start: int) -> float:
    """The loss of the bytes of `text` from `start` on, by the model itself."""
    model = tiny_model()
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
    model = tiny_model()
    starts = [harness_model(saved, device="cpu").prefix_token_id]
    ids = torch.tensor([starts + TOKENIZER(text)["input_ids"]])
    with evaluating(model):
        expected = float(token_losses(model, ids[:, :-1], ids[:, 1:]).sum()) / 0.6931471805599453 / len(text.encode())
    assert found["tenfold_text"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-4)


def test_prompts_of_different_lengths_are_completed_as_each_alone(saved: Path, tmp_path: Path) -> None:
    """The harness pads a batch on the left, which must not touch the memory of its models."""
    starts, model = ["ab", "The cat sat on the", "x y z", "1"], tiny_model()
    rows: list[dict[str, object]] = []
    for start in starts:
        ids = torch.tensor([TOKENIZER(start)["input_ids"]])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        rows.append({"start": start, "end": TOKENIZER.decode(written[0, ids.shape[1] :], skip_special_tokens=True)})
    task(tmp_path, "tenfold_write", rows, WRITING)
    found = evaluate_tasks(saved, ["tenfold_write"], task_folder=tmp_path, batch_size=4, device="cpu")["results"]
    assert found["tenfold_write"]["exact_match,none"] == 1


def test_unknown_tasks_are_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="no task tenfold_none"):
        evaluate_tasks(saved, ["tenfold_none"])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        harness_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"), [('{"steps": 5}', "names no model_type; .* of a run its best or last"), ("{", "is no JSON")]
)
def test_the_folder_of_a_run_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config\.json: {words}"):
        harness_model(tmp_path)


def test_without_the_harness_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gsa"}')
    for module in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"the LM Evaluation Harness is missing .*; pip install 'tenfold\[harness\]'"):
        harness_model(tmp_path)
