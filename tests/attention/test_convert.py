"""Conversion of transformers: every weight where it belongs, what is refused, the warm-up, whole folders."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_models import tiny_llama
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.llama.modeling_llama import repeat_kv

from tenfold.attention.blocks import Blocks
from tenfold.attention.convert import convert_folder, from_transformer
from tenfold.attention.distillation import attention_error, warm_up
from tenfold.attention.model import GSAForCausalLM
from tenfold.attention.tokens import byte_tokenizer, load_tokenizer
from tenfold.core.errors import InputError
from tenfold.core.training import TrainingConfig, train

VOCAB, WIDTH, HEADS, SHARED, SIZE, LAYERS = 300, 32, 4, 2, 8, 2
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.o_proj",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
NAMES = {
    "model.embed_tokens.weight": "model.embeddings.weight",
    "model.norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
} | {f"model.layers.{i}.{old}.weight": f"model.layers.{i}.{new}.weight" for i in range(LAYERS)
     for old, new in LAYER.items()}  # fmt: skip


def tiny_mistral(**settings: Any) -> MistralForCausalLM:
    torch.manual_seed(1)
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=SHARED, initializer_range=0.3, bos_token_id=256,
        eos_token_id=257, rms_norm_eps=1e-5, **settings,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def with_norms(model: Any) -> Any:
    """Norm weights other than 1, so that they cannot be mixed up."""
    torch.manual_seed(2)
    for name, x in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(x, 0.5, 1.5)
    return model


SOURCES = {
    "llama": lambda: with_norms(tiny_llama(VOCAB)),
    "llama, tied": lambda: with_norms(tiny_llama(VOCAB, tie_word_embeddings=True)),
    "mistral": lambda: with_norms(tiny_mistral()),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Any:
    return SOURCES[request.param]()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 37), generator=torch.Generator().manual_seed(3))


def blocks(length: int = 32) -> Blocks:
    """A language with structure: every byte follows from the one before."""
    return Blocks(np.resize(np.arange(0, 210, 7, dtype=np.uint8), 40 * length + 1), length)


# --- weights ---


def test_every_weight_is_the_sources_bit_for_bit(source: Any) -> None:
    model, conversion = from_transformer(source, 8)
    old, new = source.state_dict(), model.state_dict()
    assert set(old) == set(NAMES)
    for name, renamed in NAMES.items():
        assert torch.equal(old[name], new[renamed]), name
    untrained = {f"model.layers.{i}.attn.{part}.weight" for i in range(LAYERS) for part in ("f_proj", "g_norm")}
    assert set(new) == set(NAMES.values()) | untrained
    assert set(conversion.fresh) == untrained and not conversion.derived
    assert (model.lm_head.weight is model.model.embeddings.weight) == source.config.tie_word_embeddings
    assert conversion.parameters == sum(x.numel() for x in model.parameters())
    assert not any(x.is_meta for x in [*model.parameters(), *model.buffers()])
    for layer in model.model.layers:
        assert layer.attn.f_proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert torch.equal(layer.attn.g_norm.weight, torch.ones(WIDTH))


class Slots(nn.Module):
    """Gated Slot Attention from a layer of transformers and new gates, in the paper's equations, token by token."""

    def __init__(self, old: Any, gates: nn.Linear, normalizer: int) -> None:
        super().__init__()
        self.old, self.gates, self.normalizer = old, gates, normalizer

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        q, k, v, f = (
            layer(hidden_states).unflatten(-1, (count, -1)).transpose(1, 2)
            for layer, count in (
                (self.old.q_proj, HEADS), (self.old.k_proj, SHARED), (self.old.v_proj, SHARED), (self.gates, SHARED)
            )
        )  # fmt: skip
        k, v, f = (repeat_kv(x, HEADS // SHARED) for x in (k, v, f))
        q, k, v = functional.silu(q), functional.silu(k), functional.silu(v)
        alpha = torch.sigmoid(f) ** (1 / self.normalizer)
        keys = values = 0
        outputs = []
        for t in range(q.shape[2]):
            a = alpha[:, :, t, :, None]
            keys = a * keys + (1 - a) * k[:, :, t, None]
            values = a * values + (1 - a) * v[:, :, t, None]
            p = torch.softmax((keys @ q[:, :, t, :, None])[..., 0], -1)
            outputs.append((p[:, :, None] @ values)[:, :, 0])
        o = functional.silu(torch.stack(outputs, 1).flatten(2))
        return self.old.o_proj(o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5)), None


@pytest.mark.parametrize("gate_init", ["random", "key"])
def test_the_model_is_the_source_with_nothing_but_its_attention_exchanged(
    source: Any, tokens: torch.Tensor, gate_init: Any
) -> None:
    """transformers runs the oracle: its embeddings, norms, feed-forward layers, output, and order of grouped heads."""
    model, _ = from_transformer(source, 8, gate_init=gate_init, gate_logit_normalizer=4)
    with torch.no_grad():
        logits = model(tokens).logits
        for old, new in zip(source.model.layers, model.model.layers, strict=True):
            old.self_attn = Slots(old.self_attn, new.attn.f_proj, 4)
        expected = source(tokens, use_cache=False).logits
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_key_gates_are_means_of_the_keys(source: Any) -> None:
    """4 slots of 8 keys a head: each gate's logit is the mean of two neighbouring keys of its own head."""
    model, conversion = from_transformer(source, 4, gate_init="key")
    x = torch.randn(3, 5, WIDTH)
    for old, new in zip(source.model.layers, model.model.layers, strict=True):
        expected = old.self_attn.k_proj(x).unflatten(-1, (SHARED, 4, 2)).mean(-1).flatten(2)
        assert torch.allclose(new.attn.f_proj(x), expected, atol=1e-5)
    assert [name.split(".")[-2] for name in conversion.derived] == ["f_proj"] * LAYERS
    assert [name.split(".")[-2] for name in conversion.fresh] == ["g_norm"] * LAYERS


@pytest.mark.parametrize("slots", [3, 5, 7, 8])
def test_no_two_key_gates_of_a_head_are_alike(slots: int) -> None:
    model, _ = from_transformer(tiny_llama(), slots, gate_init="key")
    gates = model.model.layers[0].attn.f_proj.weight.unflatten(0, (SHARED, slots))
    assert all(len(torch.unique(head, dim=0)) == slots for head in gates)


def test_gla_gets_repeated_values_and_neighbouring_keys_averaged(source: Any, tokens: torch.Tensor) -> None:
    model, conversion = from_transformer(source, 8, mixer="gla")
    x = torch.randn(3, 5, WIDTH)
    for old, new in zip(source.model.layers, model.model.layers, strict=True):
        assert torch.equal(old.self_attn.o_proj.weight, new.attn.o_proj.weight)
        for name, size in (("q_proj", 2), ("k_proj", 2), ("v_proj", 1)):
            heads = getattr(old.self_attn, name)(x).unflatten(-1, (-1, SIZE)).transpose(1, 2)
            heads = repeat_kv(heads, HEADS // heads.shape[1])
            expected = heads.unflatten(-1, (-1, size)).mean(-1).transpose(1, 2).flatten(2)
            assert torch.allclose(getattr(new.attn, name)(x), expected, atol=1e-5), name
    assert {name.split(".", 3)[-1] for name in conversion.derived} == {f"attn.{x}_proj.weight" for x in "qkv"}
    assert {name.split(".")[4] for name in conversion.fresh} == {"g_proj", "gk_proj", "g_norm"}
    assert model(tokens).logits.isfinite().all()
    assert conversion.parameters == sum(x.numel() for x in model.parameters())


def test_the_config_is_the_sources() -> None:
    config = from_transformer(tiny_mistral(), 8, gate_logit_normalizer=3)[0].config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (WIDTH, LAYERS, VOCAB)
    assert (config.num_heads, config.num_kv_heads, config.intermediate_size) == (HEADS, SHARED, 64)
    assert (config.norm_eps, config.num_slots, config.gate_logit_normalizer) == (1e-5, 8, 3)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (256, 257, None)


def test_the_report_says_what_became_of_the_weights() -> None:
    text = str(from_transformer(tiny_mistral(sliding_window=16), 8, vocab_size=VOCAB + 4)[1])
    assert "untrained: attn.f_proj.weight, attn.g_norm.weight" in text
    assert "dropped: rotary positions, the sliding window of 16 tokens" in text
    assert "300 tokens became 304; the first 300 are kept" in text


@pytest.mark.parametrize("vocab", [VOCAB - 20, VOCAB + 20])
def test_tokens_that_both_vocabularies_have_keep_their_weights(source: Any, vocab: int) -> None:
    model, conversion = from_transformer(source, 8, vocab_size=vocab)
    common = min(vocab, VOCAB)
    assert torch.equal(model.model.embeddings.weight[:common], source.model.embed_tokens.weight[:common])
    assert torch.equal(model.lm_head.weight[:common], source.lm_head.weight[:common])
    assert len(model.model.embeddings.weight) == len(model.lm_head.weight) == vocab
    assert conversion.vocabulary == (VOCAB, vocab)
    assert "model.embeddings.weight" in conversion.derived and "model.embeddings.weight" not in conversion.copied


def test_weights_keep_their_dtype_and_are_the_models_own() -> None:
    source = tiny_llama().bfloat16()
    before = {name: x.clone() for name, x in source.state_dict().items()}
    model, _ = from_transformer(source, 8, gate_init="key")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(x, before[name]) for name, x in source.state_dict().items())


def test_what_is_fresh_depends_on_the_seed_alone() -> None:
    source = tiny_llama()
    state = torch.get_rng_state()
    one, same, other = (
        from_transformer(source, 8, seed=seed)[0].model.layers[1].attn.f_proj.weight for seed in (5, 5, 6)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


# --- what is refused ---


def llama_with(name: str, value: Any) -> Any:
    model = tiny_llama()
    setattr(model.config, name, value)
    return model


def qwen() -> Any:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=1))  # fmt: skip


def with_adapter() -> Any:
    model = tiny_llama()
    model.model.layers[0].self_attn.q_proj.lora_A = nn.Linear(32, 2, bias=False)
    return model


def with_query_norm() -> Any:
    model = tiny_llama()
    model.model.layers[0].self_attn.q_norm = nn.RMSNorm(8)
    return model


def on_meta() -> Any:
    return tiny_llama().to("meta")


REFUSED = {
    "attention_bias": (lambda: tiny_llama(attention_bias=True), "biases in attention"),
    "bias unsaid": (lambda: llama_with_bias(), "has biases"),
    "mlp_bias": (lambda: tiny_llama(mlp_bias=True), "biases in its feed-forward layers"),
    "query norm": (with_query_norm, "norms of queries and keys"),
    "adapters": (with_adapter, "merge them"),
    "wide heads": (lambda: tiny_llama(head_dim=16), "4 heads of 16 numbers"),
    "activation": (lambda: tiny_llama(hidden_act="gelu"), "'gelu'"),
    "hybrid": (lambda: llama_with("layer_types", ["full_attention", "sliding_attention"]), "layers of several kinds"),
    "experts": (lambda: llama_with("num_local_experts", 8), "mixture of experts"),
    "quantised": (lambda: llama_with("quantization_config", {"bits": 4}), "quantised"),
    "foreign": (qwen, "'qwen2': it has biases in attention"),
    "converted": (lambda: from_transformer(tiny_llama(), 8)[0], "'gsa': it is what a conversion gives"),
    "no model": (lambda: nn.Linear(2, 2), "type None"),
    "no head": (lambda: tiny_llama().model, "with its output layer"),
    "on meta": (on_meta, "no values here"),
}


def llama_with_bias() -> Any:
    model = tiny_llama()
    model.model.layers[1].self_attn.q_proj.bias = nn.Parameter(torch.zeros(32))
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_variants_that_cannot_be_converted_are_refused_in_one_line(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(InputError) as refusal:
        from_transformer(make(), 8)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_heads_of_odd_size_are_refused() -> None:
    source = tiny_llama()
    source.config.hidden_size, source.config.head_dim = 28, 7
    with pytest.raises(InputError, match="odd size, 7"):
        from_transformer(source, 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_slots": 0}, "num_slots is 0"),
        ({"mixer": "softmax"}, "choose gsa or gla"),
        ({"gate_init": "zero"}, "choose random or key"),
        ({"gate_init": "key", "num_slots": 9}, "more than the 8 keys"),
        ({"gate_init": "key", "mixer": "gla"}, "goes with mixer 'gsa'"),
        ({"gate_logit_normalizer": 0}, "gate_logit_normalizer"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 257}, "eos_token_id is 257"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_transformer(tiny_mistral(), **({"num_slots": 8} | options))


# --- warm-up and fine-tuning ---


@pytest.mark.parametrize(("trained", "share"), [("new", 0.9), ("mixer", 0.7)])
def test_the_warm_up_brings_each_layer_nearer_to_the_sources(trained: Any, share: float) -> None:
    source = tiny_llama()
    model, _ = from_transformer(source, 8)
    before, tokens = {name: x.clone() for name, x in model.state_dict().items()}, blocks()[0]["input_ids"][None]
    source_before = {name: x.clone() for name, x in source.state_dict().items()}
    error = attention_error(model, source, tokens).item()
    config = TrainingConfig(steps=40, batch_size=4, learning_rate=0.02, device="cpu")
    warm_up(model, source, blocks(), config, None, trained=trained, quiet=True)
    assert attention_error(model, source, tokens).item() < share * error
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    mixer = {name for name in before if ".attn." in name}
    assert changed == (mixer if trained == "mixer" else {x for x in mixer if "f_proj" in x or "g_norm" in x})
    assert all(x.requires_grad and x.grad is None for x in model.parameters()) and not model.training
    assert all(torch.equal(x, source_before[name]) and x.grad is None for name, x in source.state_dict().items())


def test_the_error_of_attention_is_a_share_of_the_sources_mean_square(tokens: torch.Tensor) -> None:
    """An attention that gives nothing misses everything, and one that gives the same nothing."""
    source = tiny_llama()
    model, _ = from_transformer(source, 8)
    for layer in model.model.layers:
        nn.init.zeros_(layer.attn.o_proj.weight)
    assert attention_error(model, source, tokens).item() == pytest.approx(1)
    for old, new in zip(source.model.layers, model.model.layers, strict=True):
        nn.init.zeros_(old.self_attn.v_proj.weight)
        old.self_attn.o_proj.weight.data.normal_()
        old.self_attn.forward = lambda hidden_states, new=new.attn, **_: (new(hidden_states) + 1, None)
        nn.init.normal_(new.attn.o_proj.weight)
        new.attn.g_norm.weight.data.fill_(0)
    assert attention_error(model, source, tokens).item() == pytest.approx(1)


def test_a_source_in_half_precision_teaches_too(tokens: torch.Tensor) -> None:
    source = tiny_llama()
    model, _ = from_transformer(source, 8)
    error = attention_error(model, source, tokens).item()
    assert attention_error(model, source.bfloat16(), tokens).item() == pytest.approx(error, rel=0.02)
    config = TrainingConfig(steps=1, batch_size=2, device="cpu")
    assert warm_up(model, source, blocks(), config, None, quiet=True).steps == 1


def test_the_warm_up_takes_a_folder_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    source = tiny_llama()
    source.save_pretrained(tmp_path / "source")
    config = TrainingConfig(steps=1, batch_size=2, device="cpu")
    model, _ = from_transformer(tmp_path / "source", 8)
    assert warm_up(model, tmp_path / "source", blocks(), config, tmp_path / "run", quiet=True).steps == 1
    assert (tmp_path / "run" / "last").is_dir()
    other = tiny_mistral()
    other.config.num_hidden_layers, other.model.layers = 1, other.model.layers[:1]
    with pytest.raises(InputError, match="num_hidden_layers of the model is 2, of the source 1"):
        warm_up(model, other, blocks(), config, None)
    with pytest.raises(InputError, match=r"model.float\(\)"):
        warm_up(from_transformer(source.bfloat16(), 8)[0], source, blocks(), config, None)
    with pytest.raises(InputError, match="token 203"):
        warm_up(from_transformer(tiny_llama(100), 8)[0], tiny_llama(100), blocks(), config, None, quiet=True)


def test_a_converted_model_is_fine_tuned_by_ordinary_training() -> None:
    model, _ = from_transformer(tiny_llama(), 8)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    config = TrainingConfig(steps=30, batch_size=4, learning_rate=0.01, log_every=1, device="cpu")
    losses = [line["loss"] for line in train(model, blocks(), loss, None, config, quiet=True).history]
    assert losses[-1] < losses[0] / 3
    text = model.eval().generate(torch.tensor([[0, 7, 14, 21]]), max_new_tokens=8, do_sample=False)
    assert text.shape == (1, 12)


# --- folders ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Mistral as it is published: shards, tokenizer, settings of generation, a card."""
    folder = tmp_path / "tiny-mistral"
    tiny_mistral().save_pretrained(folder, max_shard_size="40KB")
    byte_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: mit\n")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def test_a_folder_becomes_a_folder_that_transformers_opens(folder: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    conversion = convert_folder(folder, tmp_path / "out", 8, gate_init="key")
    out = tmp_path / "out"
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(model, GSAForCausalLM)
    expected, same = from_transformer(tiny_mistral(), 8, gate_init="key")
    assert torch.equal(model(tokens).logits, expected(tokens).logits)
    assert (conversion.copied, conversion.fresh) == (same.copied, same.fresh)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    prompt = load_tokenizer(out)("Prince", return_tensors="pt").input_ids
    assert torch.equal(prompt, AutoTokenizer.from_pretrained(out)("Prince", return_tensors="pt").input_ids)
    assert model.generate(prompt, max_new_tokens=5, eos_token_id=None).shape == (1, 11)
    card = (out / "README.md").read_text()
    assert 'license: "apache-2.0"' in card and "The weights of tiny-mistral" in card
    assert str(tmp_path) not in card + (out / "config.json").read_text()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["out", "tiny-mistral"]


def test_the_sources_files_are_not_needed_by_the_model_that_was_read(folder: Path, tokens: torch.Tensor) -> None:
    model, _ = from_transformer(folder, 8)
    shutil.rmtree(folder)
    assert torch.equal(model(tokens).logits, from_transformer(tiny_mistral(), 8)[0](tokens).logits)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


@pytest.mark.footprint
def test_the_weights_of_a_folder_stay_on_disk(tmp_path: Path) -> None:
    """So that a model as large as memory can be converted: here 60 MB of weights, of which 2 MB are new."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "source")
    before = anonymous_bytes()
    model, conversion = from_transformer(tmp_path / "source", 64)
    assert anonymous_bytes() - before < conversion.parameters  # a quarter of their bytes
    del model
    convert_folder(tmp_path / "source", tmp_path / "out", 64)
    assert anonymous_bytes() - before < conversion.parameters


def test_a_tied_model_stays_tied_and_an_untied_one_untied(tmp_path: Path) -> None:
    for tied in (True, False):
        tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path / f"{tied}")
        convert_folder(tmp_path / f"{tied}", tmp_path / f"out-{tied}", 8)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"out-{tied}")
        assert (model.lm_head.weight is model.model.embeddings.weight) == tied


def test_an_output_that_is_said_to_be_tied_but_stored_apart_stays_apart(tmp_path: Path) -> None:
    """As transformers reads such a folder."""
    source = tiny_llama()
    source.save_pretrained(tmp_path / "source")
    edit(tmp_path / "source" / "config.json", tie_word_embeddings=True)
    model, _ = from_transformer(tmp_path / "source", 8)
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.model.embeddings.weight)


def test_a_license_is_given_or_unknown(folder: Path, tmp_path: Path) -> None:
    convert_folder(folder, tmp_path / "given", 8, license="mit")
    (folder / "README.md").unlink()
    convert_folder(folder, tmp_path / "none", 8)
    assert 'license: "mit"' in (tmp_path / "given" / "README.md").read_text()
    assert 'license: "unknown"' in (tmp_path / "none" / "README.md").read_text()


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    convert_folder(folder, tmp_path / "empty", 8)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path / "empty", tmp_path / "file", tmp_path / "link", folder):
        with pytest.raises(InputError, match="exists, and is kept"):
            convert_folder(folder, out, 8)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_folders_are_refused_and_leave_nothing(folder: Path, tmp_path: Path) -> None:
    def refuse(words: str) -> None:
        with pytest.raises(InputError, match=words):
            convert_folder(folder, tmp_path / "out", 8)
        assert not (tmp_path / "out").exists()

    good = (folder / "config.json").read_text()
    for changes, words in (
        ({"num_hidden_layers": 10**9}, "weights of 2 layers, its config says 1000000000"),
        ({"vocab_size": 10**12}, r"is \(300, 32\), its config says"),
        ({"hidden_size": 64, "head_dim": 16}, "its config says"),
        ({"num_key_value_heads": 3}, "no multiple"),
        ({"num_attention_heads": 0}, "tiny-mistral: "),
        ({"hidden_size": "wide"}, "config.json cannot be used"),
        ({"model_type": "mixtral"}, "mixture of experts"),
        ({"model_type": ["llama"]}, "only llama and mistral"),
    ):
        edit(folder / "config.json", **changes)
        refuse(words)
        (folder / "config.json").write_text(good)
    shard = sorted(folder.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    refuse(shard.name)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refuse("is a pickle")


def test_a_conversion_that_is_killed_leaves_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    """The kernel kills it amid the weights, by a limit on the size of files; the next one cleans up."""
    script = (
        "import sys, signal; from tenfold.attention.convert import convert_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL); convert_folder(sys.argv[1], sys.argv[2], 8)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "out")],
        preexec_fn=limit, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGXFSZ, ended.stderr
    assert not (tmp_path / "out").exists()
    convert_folder(folder, tmp_path / "out", 8)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["out", "tiny-mistral"]
