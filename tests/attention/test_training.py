"""Training of language models: what a seed decides, that it learns, what it leaves, and going on."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tenfold.attention.blocks import Blocks, pack
from tenfold.attention.evaluation import evaluate_mqar, perplexity
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.mqar import MQAR
from tenfold.attention.tokens import byte_tokenizer
from tenfold.attention.training import make_model, next_token_loss, train_language_model, train_recall
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, TrainingResult

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = byte_tokenizer()
TEXT = "\n".join(f"{n} and {n + 1} make {2 * n + 1}" for n in range(300))


def make(seed: int = 0, **changes: Any) -> GSAForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "num_slots": 8,
        "intermediate_size": 32, "bos_token_id": 256, "eos_token_id": 257,
    }  # fmt: skip
    return make_model(GSAConfig(**settings | changes), seed)


def settings(steps: int, **changes: Any) -> TrainingConfig:
    options = {"batch_size": 4, "learning_rate": 5e-3, "schedule": "constant", "log_every": 1, "device": "cpu"}
    return TrainingConfig(steps, **options | changes)


def run(folder: Path | None, steps: int, seed: int = 0, **changes: Any) -> tuple[GSAForCausalLM, TrainingResult]:
    train, held = pack([TEXT], WORDS, 32).split(0.1)
    model = make(seed)
    config = settings(steps, seed=seed, **changes)
    about = {"sums": "CC0-1.0"}
    result = train_language_model(
        model, train, folder, config, validation=held, tokenizer=WORDS, data=about, license="mit", quiet=True
    )
    return model, result


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_make_model_is_the_same_for_a_seed_and_leaves_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (make(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, second[name]) for name, x in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_loss_is_that_of_transformers() -> None:
    """Labels are aligned here and shifted by a token there; -100 counts in neither."""
    model = make().eval()
    block = pack([TEXT], WORDS, 32)[0]
    labels = block["labels"].clone()
    labels[3:9] = -100
    ours = next_token_loss(model, {"input_ids": block["input_ids"][None], "labels": labels[None]})
    ids = torch.cat([block["input_ids"], block["labels"][-1:]])[None]
    theirs = model(ids, labels=torch.cat([ids[0, :1], labels])[None]).loss
    assert math.isclose(ours.item(), theirs.item(), rel_tol=1e-5)


def test_a_seed_decides_the_curve_and_the_loss_falls(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        run(tmp_path / name, 40, seed)
    curve = losses(tmp_path / "one")
    assert losses(tmp_path / "again") == curve
    assert losses(tmp_path / "other") != curve
    assert curve[0] > 5.4, "about log(259) at the beginning"
    assert sum(curve[-5:]) / 5 < 3


def test_a_run_that_goes_on_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, result = run(tmp_path / "whole", 20)
    run(tmp_path / "parts", 8)
    parts, resumed = run(tmp_path / "parts", 20)
    assert all(torch.equal(x, parts.state_dict()[name]) for name, x in whole.state_dict().items())
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert (resumed.steps, resumed.best) == (result.steps, result.best)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 4}, "num_heads was 2 and is now 4"),
        ({"mixer": "abc"}, "mixer was 'gsa' and is now 'abc'"),
        ({"text": TEXT.replace("make", "give")}, "text was '[0-9a-f]+' and is now"),
    ],
)
def test_a_run_of_another_model_or_text_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Also where all weights have the same shapes, and the text the same length."""
    run(tmp_path / "run", 4)
    last = (tmp_path / "run/last/training.safetensors").read_bytes()
    text = changes.pop("text", TEXT)
    model = make(**{"num_slots": 16 // changes.get("num_heads", 2)} | changes)
    assert [x.shape for x in model.state_dict().values()] == [x.shape for x in make().state_dict().values()]
    with pytest.raises(InputError, match=f"is of another run: {words}"):
        train_language_model(model, pack([text], WORDS, 32).split(0.1)[0], tmp_path / "run", settings(8), quiet=True)
    assert (tmp_path / "run/last/training.safetensors").read_bytes() == last


def test_a_run_leaves_model_folders(tmp_path: Path) -> None:
    """They open with transformers' own classes; the card of `best` tells what was measured of it."""
    model, result = run(tmp_path / "run", 10)
    held = pack([TEXT], WORDS, 32).split(0.1)[1]
    for name in ("best", "last"):
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / name)
        assert isinstance(opened, GSAForCausalLM)
        assert all(torch.equal(x, opened.state_dict()[key]) for key, x in model.state_dict().items())
        words = AutoTokenizer.from_pretrained(tmp_path / "run" / name)
        assert words.decode(words(TEXT)["input_ids"]) == TEXT
        assert not list((tmp_path / "run" / name).glob("*.bin")), "no pickle"
    assert result.best == perplexity(opened, held, 4).loss
    card = (tmp_path / "run/best/README.md").read_text()
    for said in ('license: "mit"', "sums", "CC0-1.0", "arXiv 2409.07146", "validation perplexity", "not aligned"):
        assert said in card
    assert f"{result.best:.3g}"[:4] in card
    assert "validation perplexity" not in (tmp_path / "run/last/README.md").read_text(), "saved before it is measured"


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, result = run(None, 2)
    assert result.steps == 2
    assert not list(tmp_path.iterdir())


def test_tokens_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    blocks = Blocks(pack([TEXT], WORDS, 32).tokens + 200, 32)
    with pytest.raises(InputError, match="vocabulary"):
        train_language_model(make(), blocks, tmp_path / "run", settings(2), quiet=True)
    batch = {"input_ids": torch.tensor([[1]]), "labels": torch.tensor([[259]])}
    with pytest.raises(InputError, match="token 259 is not in the model's vocabulary of 259"):
        next_token_loss(make(), batch)
    with pytest.raises(InputError, match="the tokenizer has 259 tokens, the model 200"):
        train_language_model(make(vocab_size=200), blocks, None, settings(2), tokenizer=WORDS)


def test_recall_is_learned_and_measured(tmp_path: Path) -> None:
    """Two pairs of 7 keys and 8 values: chance is an eighth; `best` is what the saved model answers."""
    model = make(vocab_size=16, bos_token_id=None, eos_token_id=None)
    task, test = (MQAR(samples, 12, 2, 16, test=samples == 200) for samples in (4000, 200))
    config = settings(150, batch_size=32, evaluate_every=50)
    result = train_recall(model, task, tmp_path / "run", config, test=test, quiet=True)
    assert result.best is not None and result.best > 0.3
    saved = GSAForCausalLM.from_pretrained(tmp_path / "run/best")
    assert evaluate_mqar(saved, test) == result.best


def test_recall_of_a_larger_vocabulary_is_refused() -> None:
    task = MQAR(10, 12, 2, 512)
    with pytest.raises(InputError, match="512 tokens, the model 259"):
        train_recall(make(), task, None, settings(2), test=task)
