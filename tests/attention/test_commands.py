"""The verbs of `tenfold attention`, from a text to a converted model that writes; and what they turn down.

A run that is killed has a process of its own, and standard input goes through the installed command; what is left is
called in this process, where torch is imported already.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tenfold.attention import commands
from tenfold.attention.commands import COMMANDS
from tenfold.attention.convert import GateInit
from tenfold.attention.layers import MixerName
from tenfold.attention.model import GSAConfig, GSAForCausalLM
from tenfold.attention.tokens import byte_tokenizer, train_tokenizer
from tenfold.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

TENFOLD = Path(sysconfig.get_path("scripts"), "tenfold")
TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}\n" for n in range(400))
TRAINING = ("--length", "32", "--batch-size", "4", "--warmup", "2", "--device", "cpu")
SIZES = (*TRAINING, "--hidden-size", "32", "--layers", "1", "--heads", "2")


def call(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    """The JSON that a verb prints, and nothing beside it."""
    capsys.readouterr()
    assert main(["attention", *map(str, args), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out, parse_constant=lambda name: pytest.fail(name))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a run on it, a small Llama, and things that are none of these."""
    folder = tmp_path_factory.mktemp("attention")
    (folder / "text.txt").write_text(TEXT)
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text(TEXT)
    (folder / "blank.txt").write_text(" \n\n")
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 100)
    assert main(["attention", "train", str(folder / "text.txt"), str(folder / "run"), *SIZES, "--steps", "30"]) == 0
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=259, **sizes, **special)).save_pretrained(folder / "llama")
    byte_tokenizer().save_pretrained(folder / "llama")
    (folder / "llama/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    shutil.copytree(folder / "run/best", folder / "foreign_words")
    train_tokenizer([TEXT], 300).save_pretrained(folder / "foreign_words")
    return folder


def test_the_choices_of_verbs_are_those_of_the_room() -> None:
    assert (commands.MixerName, commands.GateInit) == (MixerName, GateInit)


KILLED = """
import os, signal, sys
from tenfold.cli import main
from tenfold.core.training import loop
write, written = loop.write_last, []
def killed(*given):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(write(*given))
loop.write_last = killed
main(sys.argv[1:])
"""


def test_a_killed_training_goes_on_to_the_same_weights(place: Path, tmp_path: Path) -> None:
    """SIGKILL before the third checkpoint; the same command again ends where a run in one go does."""
    command = ["train", place / "text.txt", *SIZES, "--steps", "120", "--save-every", "5", "--evaluate-every", "40"]
    args = [str(part) for part in ("attention", *command[:2], tmp_path / "killed", *command[2:])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *args], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((tmp_path / "killed/last/training.json").read_text())["step"] == 10
    assert main(args) == 0
    assert main([str(part) for part in ("attention", *command[:2], tmp_path / "whole", *command[2:])]) == 0
    for name in ("best", "last"):
        weights = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("killed", "whole")]
        assert weights[0] == weights[1], name


def test_more_steps_go_on_with_a_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (6, 12):
        found = call(capsys, "train", place / "text.txt", tmp_path / "run", *SIZES, "--steps", str(steps))
        assert found["steps"] == steps and found["validation loss"] < math.log(259)
    assert main(["attention", "train", str(place / "text.txt"), str(tmp_path / "run"), *SIZES, "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_a_vocabulary_is_learned_from_the_text(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--tokenizer", "bpe:280", "--mixer", "gla", "--steps", "4")
    call(capsys, "train", place / "text.txt", tmp_path / "run", *SIZES, *words)
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    assert (config["vocab_size"], config["mixer"]) == (280, "gla")
    found = call(capsys, "evaluate", tmp_path / "run", "ppl", "--data", place / "text.txt", "--length", "32")
    assert found["bits_per_byte"] < found["loss"] / math.log(2), "a token is more than a byte"


def test_evaluate_measures_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("evaluate", place / "run", "ppl", "--data", place / "text.txt", "--length", "300", "--device", "cpu")
    found = call(capsys, *command)
    assert found["tokens"] == len(TEXT) // 300 * 300
    assert math.isclose(found["perplexity"], math.exp(found["loss"]))
    assert math.isclose(found["bits_per_byte"], found["loss"] / math.log(2), rel_tol=1e-3), "tokens are bytes"
    weighed = (256 * found["loss at 0 to 255"] + 44 * found["loss at 256 to 299"]) / 300
    assert math.isclose(weighed, found["loss"])
    assert found["loss on repeated 4-grams"] < found["loss"], "the text repeats itself"
    assert abs(found["loss with the state carried on"] - found["loss"]) < 0.3
    assert main(["attention", *map(str, command)]) == 0
    assert "bits_per_byte" in capsys.readouterr().out


def test_evaluate_writes_no_nan(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing repeats in a text of different characters: its loss on repeats is null."""
    (tmp_path / "text.txt").write_text("abcdefghijklmnopqrst")
    found = call(capsys, "evaluate", place / "run", "ppl", "--data", tmp_path / "text.txt", "--length", "20")
    assert found["loss on repeated 4-grams"] is None and found["share of them"] == 0


def test_evaluate_measures_recall(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"text": f"the code is {n}. it is cold", "key": "code", "value": str(n)} for n in range(4)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    command = ("evaluate", place / "run", "recall", "--data", tmp_path / "items.jsonl")
    found = call(capsys, *command)
    assert found["overall"]["items"] == len(found["answers"]) == 4
    assert 0 <= found["overall"]["low"] <= found["overall"]["score"] <= found["overall"]["high"] <= 1
    assert main(["attention", *map(str, command)]) == 0
    assert "95 % from" in capsys.readouterr().out


def test_mqar_trains_and_evaluate_measures_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ("--pairs", "2", "--length", "12")
    sizes = ("--vocab", "16", "--hidden-size", "32", "--layers", "1", "--samples", "2000", "--batch-size", "32")
    trained = call(capsys, "mqar", tmp_path / "run", *task, *sizes, "--steps", "60", "--device", "cpu")
    assert trained["steps"] == 60
    assert call(capsys, "evaluate", tmp_path / "run", "mqar", *task) == {"accuracy": trained["accuracy"]}


def test_generate_reads_standard_input_and_writes_as_it_comes(place: Path) -> None:
    command = [TENFOLD, "attention", "generate", place / "run", "--prompt", "-", "--tokens", "12", "--device", "cpu"]
    written = subprocess.run(command, input=b"7 and 8 ", capture_output=True, check=True).stdout.decode()
    assert written.startswith("7 and 8 ") and written.endswith("\n")
    assert len(written) > len("7 and 8 ") + 1


def test_generate_is_decided_by_its_seed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(*options: str) -> str:
        found = call(capsys, "generate", place / "run", "--prompt", "9 and", "--tokens", "30", *options)
        assert set(found) == {"prompt", "text"} and found["prompt"] == "9 and"
        return str(found["text"])

    assert write("--seed", "3") == write("--seed", "3") != write("--seed", "4")
    assert write("--temperature", "0") == write("--temperature", "0", "--seed", "1")


def test_a_transformer_is_converted_trained_and_writes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = call(capsys, "convert", place / "llama", tmp_path / "converted", "--slots", "8")
    assert made["parameters"] == made["copied"] + made["derived"] + made["fresh"]
    assert made["dropped"] == ["rotary positions"]
    assert 'license: "apache-2.0"' in (tmp_path / "converted/README.md").read_text()
    start = ("--start", tmp_path / "converted", *TRAINING, "--learning-rate", "1e-3", "--steps", "20")
    tuned = call(capsys, "train", place / "text.txt", tmp_path / "tuned", *start)
    before = call(capsys, "evaluate", tmp_path / "converted", "ppl", "--data", place / "text.txt", "--length", "32")
    assert tuned["validation loss"] < before["loss"]
    assert GSAForCausalLM.from_pretrained(tmp_path / "tuned/best").config.num_slots == 8
    assert call(capsys, "generate", tmp_path / "tuned", "--prompt", "1", "--tokens", "5")["text"]
    assert main(["attention", "convert", str(place / "llama"), str(tmp_path / "gla"), "--mixer", "gla"]) == 0
    assert "copied bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_every_verb_shows_an_example_of_it(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["attention", verb, "--help"])
    assert end.value.code == 0
    assert f"Example: tenfold attention {verb} " in capsys.readouterr().out


def test_models_may_be_named_as_on_the_hub(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The download alone is replaced, by folders that are here."""
    folders = {"owner/gsa": place / "run/best", "owner/llama": place / "llama"}
    monkeypatch.setattr("tenfold.core.artifacts._fetch", lambda name, revision: folders[name])
    assert call(capsys, "generate", "owner/gsa", "--prompt", "1", "--tokens", "3")["prompt"] == "1"
    assert call(capsys, "evaluate", "owner/gsa", "mqar", "--samples", "10")["accuracy"] >= 0
    assert call(capsys, "convert", "owner/llama", tmp_path / "made", "--slots", "4")["parameters"] > 0
    start = ("--start", "owner/gsa", *TRAINING, "--steps", "2")
    assert call(capsys, "train", place / "text.txt", tmp_path / "run", *start)["steps"] == 2


def test_bench_compares(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--lengths", "8", "--hidden-size", "16", "--heads", "2", "--repeats", "1")
    found = call(capsys, "bench", *sizes)
    assert [block["mixer"] for block in found["blocks"]] == ["gsa", "softmax", "gla"]
    assert main(["attention", "bench", *sizes]) == 0
    assert "times as fast as softmax" in capsys.readouterr().out


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
BAD = [
    ("train missing.txt out", "missing.txt: there is no such file"),
    ("train blank.txt out", "blank.txt: is blank"),
    ("train latin.txt out", "latin.txt: is not UTF-8"),
    ("train text.txt out --length 100000", "fill no block"),
    ("train text.txt out --validation 1.5", "a share of 1.5"),
    ("train text.txt out --tokenizer bpe:x", "'bpe:x': after bpe: comes the number"),
    ("train text.txt out --tokenizer bpe:10", "a vocabulary of 10 tokens"),
    ("train text.txt out --tokenizer nowhere", "nowhere: has no tokenizer.json"),
    ("train text.txt out --heads 3", "hidden_size is 256, num_heads 3"),
    ("train text.txt out --steps 0", "steps is 0"),
    ("train text.txt out --start llama", "`tenfold attention convert` makes one of a Llama or Mistral"),
    ("train text.txt out --start foreign_words --length 32", "the tokenizer has 300 tokens, the model 259"),
    ("train text.txt out --precision fp16 --device cpu", "fp16"),
    pytest.param("train text.txt out --device cuda", "no NVIDIA GPU", marks=NO_GPU),
    ("mqar out --pairs 100", "does not hold 100 pairs"),
    ("mqar out --vocab 7", "a vocabulary of 7"),
    ("evaluate missing mqar", "missing: no such folder"),
    ("evaluate llama ppl --data text.txt", "llama: is a model of type 'llama'"),
    ("evaluate run ppl", "needs --data"),
    ("evaluate run ppl --data blank.txt", "blank.txt: is blank"),
    ("evaluate run ppl --data text.txt --length 100000", "fill no block"),
    ("evaluate foreign_words ppl --data text.txt --length 32", "is this its tokenizer?"),
    ("evaluate run recall --data text.txt", "text.txt"),
    ("evaluate run mqar --pairs 1000", "does not hold 1000 pairs"),
    pytest.param("evaluate run mqar --device cuda", "no NVIDIA GPU", marks=NO_GPU),
    ("generate missing", "missing: no such folder"),
    ("generate run --top-p 2", "top_p 2"),
    ("generate run --temperature -1", "temperature -1"),
    ("generate run --tokens -1", "-1 tokens"),
    pytest.param("generate run --device cuda", "no NVIDIA GPU", marks=NO_GPU),
    ("convert missing out", "missing: no such folder"),
    ("convert run/best out", "it is what a conversion gives"),
    ("convert llama run", "run: exists"),
    ("convert llama out --slots 100", "num_slots is 100"),
    ("train texts out --seed 99999999999999999999", "seed is 99999999999999999999"),
    ("train texts out --pattern a**b", "pattern 'a**b'"),
    ("train texts out --tokenizer bpe:300 --pattern /x", "pattern '/x'"),
    ("evaluate run/best ppl --data texts --pattern a**b", "pattern 'a**b'"),
    ("generate ~no-such-user/x", "~no-such-user/x: no such folder"),
    ("convert ~no-such-user/x out", "~no-such-user/x: no such folder"),
    ("convert llama out --mixer gla --gate-init key", "gate_init 'key' goes with mixer 'gsa'"),
    ("bench --lengths 0", "give at least one length"),
    pytest.param("bench --device cuda", "no NVIDIA GPU", marks=NO_GPU),
]


@pytest.mark.parametrize(("command", "said"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["attention", *command.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("tenfold: ") and said in lines[0], lines
    assert not (place / "out/last").exists() and not list(place.glob(".*"))


def test_any_temperature_writes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, written = ["attention", "generate", str(place / "run/best"), "--tokens", "9", "--temperature"], set()
    for temperature in ("0", "1e-40", "1e-300"):
        assert main([*command, temperature]) == 0
        written.add(capsys.readouterr().out)
    assert len(written) == 1


@pytest.mark.parametrize("gates", [[], ["--gate-init", "random"]])
def test_gla_gets_random_gates(place: Path, tmp_path: Path, gates: list[str]) -> None:
    assert main(["attention", "convert", str(place / "llama"), str(tmp_path / "out"), "--mixer", "gla", *gates]) == 0


def test_a_prompt_that_is_not_utf_8_is_refused(place: Path) -> None:
    command = [TENFOLD, "attention", "generate", place / "run", "--prompt", "-"]
    answer = subprocess.run(command, input=b"ab\xff", capture_output=True)
    assert answer.returncode == 2
    assert answer.stderr.decode().startswith("tenfold: standard input: is not UTF-8: byte 2")


def test_a_model_without_a_tokenizer_is_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = GSAConfig(vocab_size=259, hidden_size=8, num_hidden_layers=1, num_heads=1)
    GSAForCausalLM(config).save_pretrained(tmp_path / "bare")
    capsys.readouterr()
    assert main(["attention", "generate", str(tmp_path / "bare"), "--prompt", "a"]) == 2
    assert "bare: has no tokenizer.json" in capsys.readouterr().err
