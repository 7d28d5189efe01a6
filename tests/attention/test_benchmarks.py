"""What the benchmarks of attention time and say; nothing here is measured."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The programs by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return {name: importlib.import_module(name) for name in ("attention", "attention_gpu")}


def test_every_round_decodes_behind_the_same_tokens(
    programs: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, seen = programs["attention"], list[int]()
    block = program.make_block("llama", 64)
    block.register_forward_pre_hook(lambda _, given: seen.append(given[1].get_seq_length()))
    decode = program.prepare(block, "llama", "decode", torch.zeros(1, 5, 64))
    for _ in range(2):
        decode()
    assert seen == [0, *range(5, 5 + program.DECODED), *range(5, 5 + program.DECODED)]


@pytest.mark.parametrize(
    ("answers", "status"),
    [(["yes"], 0), (["yes", "NO"], 1), (["not ready in time"], 1)],
    ids=["right", "wrong", "late"],
)
def test_a_check_that_is_not_right_is_told_by_the_status(
    answers: list[str], status: int, programs: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, left = programs["attention_gpu"], list(answers)
    rows = {"yes": {"right": "yes"}, "NO": {"right": "NO"}}
    monkeypatch.setattr(program, "check", lambda *_: rows.get(answer := left.pop() if left else "yes", answer))
    for part in ("speeds", "kernel_times", "steps", "sweep"):
        monkeypatch.setattr(program, part, lambda *_: [])
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["attention_gpu.py", "--out", str(tmp_path), "--interpret"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == status
