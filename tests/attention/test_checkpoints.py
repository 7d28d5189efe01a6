"""Published checkpoints in both layouts, round trips through transformers, and every way a checkpoint can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig

from tenfold.attention.checkpoints import rename_old_layout
from tenfold.attention.layers import MIXERS
from tenfold.attention.model import GSAConfig, GSAForCausalLM, GSAModel
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(attention_data: Path, tmp_path: Path) -> Path:
    """A copy of the published layout's tiny checkpoint that a test may spoil."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "expected.npz"):
        shutil.copyfile(attention_data / "golden/tiny_checkpoint" / name, folder / name)
    return folder


def gap(model: Any, folder: Path) -> float:
    """The largest difference from the expected logits."""
    with np.load(folder / "expected.npz") as expected:
        ids, logits = (torch.from_numpy(expected[name]) for name in ("input_ids", "logits"))
    with torch.no_grad():
        return float((model(ids).logits.float() - logits).abs().max())


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    state = load_file(folder / "model.safetensors")
    changed = change(state)
    save_file(state if changed is None else changed, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def small(**changes: Any) -> GSAForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "intermediate_size": 48}
    return GSAForCausalLM(GSAConfig(**sizes | {"num_kv_heads": 2, "num_slots": 6} | changes)).eval()


IDS = torch.arange(3, 23).view(2, 10)


# --- what loads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [GSAForCausalLM, AutoModelForCausalLM])
def test_published_layout(tiny: Path, load: Any) -> None:
    model = load.from_pretrained(tiny)
    assert gap(model, tiny) <= 2e-5
    assert model.config.name_or_path == str(tiny) and model.dtype == torch.float32 and not model.training


def to_old_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    old = {}
    for key, x in state.items():
        if key.endswith("mlp.up_proj.weight"):
            continue
        if key.endswith("mlp.gate_proj.weight"):
            x = torch.cat([x, state[key.replace("gate_proj", "up_proj")]])
        old[key.replace("attn_norm", "attn.norm").replace("mlp_norm", "mlp.norm")] = x
    return old


def test_old_layout(tiny: Path) -> None:
    """Files from before February 2025: norms inside, gate and up rows packed, and settings that no code reads."""
    change_weights(tiny, to_old_layout)
    dead = {"norm_first": True, "share_conv_kernel": True, "gate_low_rank_dim": None, "use_rope": False}
    change_config(tiny, **dead, exapnd_k=1, exapnd_v=1, torch_dtype="float32", dtype=None, clamp_min=-4.0)
    assert "model.layers.0.attn.norm.weight" in load_file(tiny / "model.safetensors")
    assert gap(GSAForCausalLM.from_pretrained(tiny), tiny) <= 2e-5
    assert (
        rename_old_layout(load_file(tiny / "model.safetensors")).keys()
        == GSAForCausalLM.from_pretrained(tiny).state_dict().keys()
    )


def test_norms_without_weights(tiny: Path) -> None:
    """As the published 2.7B: `elementwise_affine` is about g_norm alone."""
    change_config(tiny, elementwise_affine=False)
    change_weights(tiny, lambda state: {key: x for key, x in state.items() if "g_norm" not in key})
    model = GSAForCausalLM.from_pretrained(tiny)
    assert model.model.layers[0].attn.g_norm.weight is None
    assert model.model.layers[0].attn_norm.weight is not None


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path: Path, mixer: str, tied: bool) -> None:
    """Saved and loaded again, whole or in shards, tied or not: the same logits to the last bit."""
    model = small(mixer=mixer, tie_word_embeddings=tied)
    wanted = model(IDS).logits
    for name, size in (("whole", "1GB"), ("shards", "8KB")):
        model.save_pretrained(tmp_path / name, max_shard_size=size)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert torch.equal(loaded(IDS).logits, wanted)
        assert (loaded.lm_head.weight is loaded.model.embeddings.weight) == tied
        body = AutoModel.from_pretrained(tmp_path / name)
        assert isinstance(body, GSAModel) and torch.equal(body(IDS).last_hidden_state, model.model(IDS)[0])
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2


@pytest.mark.parametrize("given", [torch.bfloat16, "bfloat16"])
@pytest.mark.parametrize("option", ["dtype", "torch_dtype"])
def test_dtype(tiny: Path, tmp_path: Path, option: str, given: Any) -> None:
    """As asked for, else as saved."""
    model = AutoModelForCausalLM.from_pretrained(tiny, **{option: given})
    assert model.dtype == torch.bfloat16 and gap(model, tiny) < 0.5
    model.save_pretrained(tmp_path / "half")
    assert GSAForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert GSAForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    assert GSAForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32


def test_options(tiny: Path) -> None:
    """Settings of the config and of transformers' loading; those for generation lie in a file of their own."""
    GenerationConfig(max_new_tokens=3, do_sample=True, top_k=7).save_pretrained(tiny)
    for load in (GSAForCausalLM, AutoModelForCausalLM):
        model = load.from_pretrained(pretrained_model_name_or_path=str(tiny), use_cache=False, feature_map="relu")
        assert not model.config.use_cache and model.config.feature_map == "relu"
        assert model.generation_config.top_k == 7 and model.generation_config.max_new_tokens == 3
    model, info = GSAForCausalLM.from_pretrained(tiny, output_loading_info=True)
    assert gap(model, tiny) <= 2e-5 and not info["missing_keys"] and not info["unexpected_keys"]
    given = GSAForCausalLM.from_pretrained(tiny, config=AutoConfig.from_pretrained(tiny, norm_eps=0.1))
    assert given.config.norm_eps == 0.1 and gap(given, tiny) > 0.1
    with pytest.raises(InputError, match="subfolder is not supported"):
        GSAForCausalLM.from_pretrained(tiny, subfolder="x")


def test_weights_in_memory(tiny: Path) -> None:
    """As transformers has it: no folder, but a config and a state dict."""
    config = AutoConfig.from_pretrained(tiny)
    state = load_file(tiny / "model.safetensors")
    assert gap(GSAForCausalLM.from_pretrained(None, config=config, state_dict=state), tiny) <= 2e-5


# --- what does not -------------------------------------------------------------------------------------------


def without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: x for name, x in state.items() if name != key}


EMBEDDINGS, GATES = "model.embeddings.weight", "model.layers.1.attn.f_proj.weight"
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda at: change_weights(at, without(GATES)), f"tiny: .* misses {GATES}; "),
    "left over": (
        lambda at: change_weights(at, lambda state: state | {"model.layers.7.attn.x": torch.ones(2)}),
        "tiny: .* has unknown model.layers.7.attn.x; ",
    ),
    "shape": (
        lambda at: change_weights(at, lambda state: state | {GATES: torch.ones(16, 31)}),
        rf"has other shapes: {GATES} \(16, 31\) instead of \(16, 32\)",
    ),
    "whole numbers": (
        lambda at: change_weights(at, lambda state: state | {GATES: torch.ones(16, 32, dtype=torch.int8)}),
        f"has whole numbers in {GATES}",
    ),
    "no weight": (lambda at: change_weights(at, lambda _: {}), "misses model.embeddings.weight, .* more"),
    "another config": (lambda at: change_config(at, num_slots=4), r"f_proj.weight \(16, 32\) instead of \(8, 32\)"),
    "half a gate": (
        lambda at: change_weights(at, lambda state: without("model.layers.0.mlp.up_proj.weight")(state)),
        "model.layers.0.mlp",
    ),
    "truncated": (
        lambda at: (at / "model.safetensors").write_bytes((at / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: is no whole safetensors file",
    ),
    "empty": (lambda at: (at / "model.safetensors").write_bytes(b""), "model.safetensors: is no whole safetensors"),
    "header lies": (
        lambda at: (at / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}"),
        "model.safetensors: is no whole safetensors",
    ),
    "a pickle": (
        lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"),
        "pytorch_model.bin: is a pickle, which may run any code",
    ),
    "no weights file": (lambda at: (at / "model.safetensors").unlink(), "tiny: has no model.safetensors"),
    "no config": (lambda at: (at / "config.json").unlink(), "config.json: no such file"),
    "broken config": (lambda at: (at / "config.json").write_text("{"), "config.json: is not readable as JSON"),
    "a list for a config": (lambda at: (at / "config.json").write_text("[]"), "config.json: holds a list"),
    "foreign": (lambda at: change_config(at, model_type="llama"), "is a model of type 'llama', not 'gsa'; .*convert"),
    "no kind": (lambda at: change_config(at, model_type=None), "is a model of type None"),
    "hybrid": (lambda at: change_config(at, attn={"layers": [0], "num_heads": 4}), "the config has attn"),
    "rotary": (lambda at: change_config(at, use_rope=True), "the config has use_rope"),
    "expansion": (lambda at: change_config(at, expand_v=2), "expand_v 2; only 1 is supported"),
    "size as text": (lambda at: change_config(at, hidden_size="32"), "hidden_size is '32'"),
    "more layers than weights": (
        lambda at: change_config(at, num_hidden_layers=10**9),
        "tiny: has weights of 2 layers, its config says 1000000000",
    ),
    "a size beyond all memory": (
        lambda at: change_config(at, intermediate_size=10**18),
        r"config\.json: cannot be used \(RuntimeError: Storage size",
    ),
    "eps as text": (lambda at: change_config(at, norm_eps="x"), "norm_eps is 'x'; it must be a number above 0"),
    "eps that is no number": (lambda at: change_config(at, norm_eps=float("nan")), "norm_eps is nan"),
    "labels": (lambda at: change_config(at, id2label=7), r"config\.json: cannot be used \(AttributeError"),
    "padding outside": (
        lambda at: change_config(at, pad_token_id=96),
        "pad_token_id is 96; the vocabulary has 96",
    ),
    "ends as text": (lambda at: change_config(at, eos_token_id=[2, "x"]), r"eos_token_id is \[2, 'x'\]"),
    "mixers": (lambda at: change_config(at, mixer=["gsa"]), r"mixer '\['gsa'\]' is not known"),
    "broken settings of generation": (
        lambda at: (at / "generation_config.json").write_text("{"),
        r"generation_config\.json: cannot be used \(OSError",
    ),
    "unknown mixer": (lambda at: change_config(at, mixer="delta"), "mixer 'delta' is not known"),
    "a missing shard": (
        lambda at: (at / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}'),
        "b.safetensors: no such file",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_spoiled(tiny: Path, spoil: Callable[[Path], Any], message: str) -> None:
    """One line that names the file or the weight."""
    spoil(tiny)
    with pytest.raises(InputError, match=message) as caught:
        GSAForCausalLM.from_pretrained(tiny)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        GSAForCausalLM.from_pretrained(tmp_path / "nothing")
