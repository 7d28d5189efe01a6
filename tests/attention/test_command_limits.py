"""Values at the edge on the command line of `tenfold attention`: one line and status 2, or what was asked for."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.tokens import byte_tokenizer
from tenfold.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts, a small model and a small Llama."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("one and one make two\n" * 50)
    torch.manual_seed(0)
    GSAForCausalLM(GSAConfig(vocab_size=259, hidden_size=8, num_hidden_layers=1, num_heads=1)).save_pretrained(
        folder / "model"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=259, **sizes, bos_token_id=256, eos_token_id=257)).save_pretrained(
        folder / "llama"
    )
    for name in ("model", "llama"):
        byte_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train texts out --seed 99999999999999999999", "seed is 99999999999999999999"),
        ("train texts out --pattern a**b", "pattern 'a**b'"),
        ("train texts out --tokenizer bpe:300 --pattern /x", "pattern '/x'"),
        ("evaluate model ppl --data texts --pattern a**b", "pattern 'a**b'"),
        ("generate ~no-such-user/x", "~no-such-user/x: no such folder"),
        ("convert ~no-such-user/x out", "~no-such-user/x: no such folder"),
        ("convert llama out --mixer gla --gate-init key", "gate_init 'key' goes with mixer 'gsa'"),
    ],
)
def test_bad_values_are_one_line(
    command: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["attention", *command.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("tenfold: ") and said in line
    assert not (place / "out").exists()


def test_any_temperature_writes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = set()
    for temperature in ("0", "1e-40", "1e-300"):
        assert main(["attention", "generate", str(place / "model"), "--tokens", "9", "--temperature", temperature]) == 0
        written.add(capsys.readouterr().out)
    assert len(written) == 1


@pytest.mark.parametrize("gates", [[], ["--gate-init", "random"]])
def test_gla_gets_random_gates(place: Path, tmp_path: Path, gates: list[str]) -> None:
    assert main(["attention", "convert", str(place / "llama"), str(tmp_path / "out"), "--mixer", "gla", *gates]) == 0
