"""`tenfold reproduce attention` from end to end with models that learn nothing, and how mixers are made comparable."""

import json
import math
from pathlib import Path

import pytest
import torch

from tenfold.attention import claims
from tenfold.attention.blocks import pack
from tenfold.attention.experiments import Effort, language_config, measure_language, measure_recall, sized_alike
from tenfold.attention.layers import MIXERS, MixerName
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.tokens import byte_tokenizer
from tenfold.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Effort(width=16, layers=1, length=16, batch=2, steps=10, recall_steps=1, longest=64)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}\n" for n in range(300)))
    return path


def test_the_command_reports_every_claim(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables of claims, language models, recall and conversion; a page, and finite numbers throughout."""
    monkeypatch.setattr(claims, "_QUICK", TINY)
    out = tmp_path / "reproduced"
    command = ["reproduce", "attention", "--data", str(text), "--seeds", "2", "--quick", "--out", str(out), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "attention.json").read_text())
    assert len(report["tables"]) == 4
    table = report["tables"][0]
    assert len(table["rows"]) == len(claims.CLAIMS)
    said = json.dumps(table["rows"])
    for claim in claims.CLAIMS.values():
        assert claim.name in said and claim.statement in said
    assert all(cell is not None for one in report["tables"][1:] for row in one["rows"] for cell in row.values())
    numbers = [x for one in report["tables"] for row in one["rows"] for x in row.values() if isinstance(x, float)]
    assert numbers and all(math.isfinite(x) for x in numbers)
    page = (out / "attention.html").read_text()
    assert "text.txt" in page and "Seeds: 2" in page


@pytest.mark.parametrize("seeds", ["0", "17", "-1"])
def test_numbers_of_seeds_that_cannot_be_are_refused(
    seeds: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "attention", "--data", str(text), "--seeds", seeds, "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert f"seeds is {seeds}; it is from 1 to 16" in capsys.readouterr().err


def test_a_text_that_is_too_short_or_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "one_block.txt").write_text("x" * 4000)  # a tenth of it holds a block of 256, and not two
    for name in ("short.txt", "one_block.txt", "missing.txt"):
        assert main(["reproduce", "attention", "--data", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("tenfold: ")


@pytest.mark.parametrize("mixer", MIXERS)
def test_models_are_made_of_one_size(mixer: MixerName) -> None:
    """To half a column of the feed-forward layers, and all but them unchanged."""
    config = GSAConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_heads=2, num_slots=8, mixer=mixer)
    sized = sized_alike(config, 60_000)
    parameters = sum(x.numel() for x in GSAForCausalLM(sized).parameters())
    assert abs(parameters - 60_000) <= 3 * 32 * 2 / 2
    changed = {name for name, value in sized.to_dict().items() if config.to_dict().get(name) != value}
    assert changed == {"intermediate_size"}


@pytest.mark.parametrize("effort", [claims._QUICK, claims._FULL])
def test_states_are_of_one_size(effort: Effort) -> None:
    """Those of GSA, ABC, GLA and RetNet: but for a sum for each slot, and a count in each layer."""
    sizes = {}
    for mixer in ("gsa", "abc", "gla", "retnet"):
        model = GSAForCausalLM(language_config(mixer, effort.slots, effort))
        sizes[mixer] = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True).cache.nbytes() / effort.layers
    assert sizes["gsa"] == sizes["gla"] - 8 == sizes["retnet"] - 8 == sizes["abc"] - 2 * effort.slots * 4


def test_recall_is_a_share() -> None:
    assert 0 <= measure_recall("gsa", TINY, 0, pairs=2, length=16) < 0.5


def test_losses_within_the_trained_length_are_apart_from_those_beyond(text: Path) -> None:
    train, held = pack([text.read_text()], byte_tokenizer(), TINY.length).split(0.1)
    found = measure_language("gsa", 4, train, held, TINY, 0)
    assert list(found.positions) == [0, 16, 32]
    assert found.state_bytes == 2 * 4 * 16 * 4, "2 M D float32 of the only layer"


def test_a_seed_decides_what_is_measured(text: Path) -> None:
    train, held = pack([text.read_text()], byte_tokenizer(), TINY.length).split(0.1)
    first, again, other = (measure_language("gsa", 4, train, held, TINY, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.loss != other.loss
