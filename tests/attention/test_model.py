"""The model in the conventions of transformers: generation, caches, losses, tools of torch; and its Llama as oracle."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

from tenfold.attention.cache import SlotCache
from tenfold.attention.layers import MIXERS
from tenfold.attention.model import GSAConfig, GSAForCausalLM, GSAModel
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "num_slots": 6,
    "intermediate_size": 48,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def small(**changes: Any) -> GSAForCausalLM:
    torch.manual_seed(0)
    return GSAForCausalLM(GSAConfig(**SMALL | changes)).eval()


def prompt(B: int = 2, T: int = 9) -> Tensor:
    return torch.randint(3, 40, (B, T), generator=torch.Generator().manual_seed(1))


def left_padded() -> dict[str, Tensor]:
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    return {"input_ids": prompt() * mask, "attention_mask": mask}


# --- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_softmax_is_llama(theta: float) -> None:
    """With the weights of transformers' Llama, the softmax mixer gives its logits: positions, groups, norms, SwiGLU."""
    rope = {"rope_theta": theta, "rope_type": "default"}
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            initializer_range=0.3,
            pad_token_id=0,
        )
    ).eval()
    names = {
        "model.embed_tokens": "model.embeddings",
        "self_attn": "attn",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "mlp_norm",
    }
    pattern = re.compile("|".join(names))
    state = {pattern.sub(lambda found: names[found[0]], key): x for key, x in llama.state_dict().items()}
    ours = small(mixer="softmax", rope_theta=theta, norm_eps=1e-5)
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(prompt(2, 50)).logits, llama(prompt(2, 50)).logits, rtol=1e-4, atol=1e-4)
    given = left_padded()
    wanted = llama(**given).logits[given["attention_mask"].bool()]
    torch.testing.assert_close(ours(**given).logits[given["attention_mask"].bool()], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "width", "millions"),
    [
        (GSAConfig(), 5632, 1377),
        (
            GSAConfig(hidden_size=2560, num_hidden_layers=32, num_heads=5, elementwise_affine=False),
            6912,
            2728,
        ),
        (
            GSAConfig(hidden_size=4096, num_hidden_layers=32, num_heads=32, num_kv_heads=8, intermediate_size=14336),
            14336,
            7309,
        ),
    ],
    ids=["1.3B", "2.7B", "7B"],
)
def test_published_sizes(config: GSAConfig, width: int, millions: int) -> None:
    with torch.device("meta"):
        model = GSAForCausalLM(config)
    assert model.model.layers[0].mlp.up_proj.weight.shape[0] == width
    assert round(sum(x.numel() for x in model.parameters()) / 1e6) == millions
    names = set(model.state_dict())
    assert "model.layers.0.attn_norm.weight" in names and "model.norm.weight" in names
    assert ("model.layers.0.attn.g_norm.weight" in names) == config.elementwise_affine


def test_loss_is_the_cross_entropy_of_the_next_token() -> None:
    model, ids = small(), prompt()
    labels = ids.clone()
    labels[0, 3:] = -100
    output = model(ids, labels=labels)
    logs = output.logits.log_softmax(-1)
    picked = [-logs[0, t, ids[0, t + 1]] for t in range(2)] + [-logs[1, t, ids[1, t + 1]] for t in range(8)]
    torch.testing.assert_close(output.loss, torch.stack(picked).mean())
    parts = [model(ids[n : n + 1], labels=labels[n : n + 1], num_items_in_batch=10).loss for n in range(2)]
    torch.testing.assert_close(sum(parts), output.loss)


def test_outputs_that_were_asked_for() -> None:
    model, ids = small(), prompt()
    wanted = model(ids, output_hidden_states=True, use_cache=False)
    assert wanted.cache is None and len(wanted.hidden_states) == 3
    torch.testing.assert_close(model.lm_head(wanted.hidden_states[-1]), wanted.logits)
    assert torch.equal(model(ids, logits_to_keep=2).logits, wanted.logits[:, -2:])
    assert torch.equal(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, wanted.logits[:, [0, 5]])
    assert torch.equal(model(ids, return_dict=False)[0], wanted.logits)
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, wanted.logits)
    older = model(ids[:, 6:], past_key_values=model(ids[:, :6]).past_key_values)
    torch.testing.assert_close(older.logits, wanted.logits[:, 6:], rtol=0, atol=1e-4)
    assert model.train()(ids).cache is None


@pytest.mark.parametrize("mixer", MIXERS)
def test_packed_is_separate(mixer: str) -> None:
    model, ids = small(mixer=mixer), prompt(1, 20)
    packed = model(ids, cu_seqlens=torch.tensor([0, 7, 20])).logits
    separate = torch.cat([model(ids[:, :7]).logits, model(ids[:, 7:]).logits], 1)
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_gradient_checkpointing_changes_no_gradient(mixer: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = small(mixer=mixer).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**left_padded(), labels=prompt()).loss.backward()
        gradients.append({name: x.grad for name, x in model.named_parameters()})
    assert all(torch.equal(x, gradients[1][name]) for name, x in gradients[0].items())


def test_embeddings_can_grow() -> None:
    model, ids = small(), prompt()
    before = model(ids).logits
    model.resize_token_embeddings(50)
    assert model.config.vocab_size == 50
    torch.testing.assert_close(model(ids).logits[..., :40], before)
    assert model(torch.tensor([[49]])).logits.shape == (1, 1, 50)


def test_a_padding_token_of_minus_1_is_none() -> None:
    """As configs of Llama have it; the last token's embedding is trained like any other's."""
    model = small(pad_token_id=-1)
    model(torch.tensor([[39, 5, 39]]), labels=torch.tensor([[39, 5, 39]])).loss.backward()
    assert model.get_input_embeddings().weight.grad[39].abs().sum() > 0


def test_tied_embeddings_are_one_tensor() -> None:
    model = small(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embeddings.weight
    model(prompt(), labels=prompt()).loss.backward()
    assert sum(x.numel() for x in model.parameters()) == sum(x.numel() for x in small().parameters()) - 40 * 32


# --- generation ----------------------------------------------------------------------------------------------


def generate(model: GSAForCausalLM, **options: Any) -> Tensor:
    found: Tensor = model.generate(**{"max_new_tokens": 8, "do_sample": False} | options)
    return found


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("convolution", [False, True])
def test_the_cache_changes_no_token(mixer: str, convolution: bool) -> None:
    """Greedy, a batch with left padding: with cache, without, and each sequence alone without its padding."""
    model, given = small(mixer=mixer, use_short_conv=convolution), left_padded()
    found = generate(model, **given)
    assert torch.equal(found, generate(model, **given, use_cache=False))
    for row, begin in ((0, 0), (1, 4)):
        alone = generate(model, input_ids=given["input_ids"][row : row + 1, begin:])
        assert torch.equal(found[row, begin:], alone[0])


def test_embeddings_as_prompt() -> None:
    model, ids = small(), prompt()
    embeddings = model.get_input_embeddings()(ids)
    wanted = generate(model, input_ids=ids)[:, 9:]
    assert torch.equal(generate(model, inputs_embeds=embeddings), wanted)
    cache = model(ids[:, :4], use_cache=True).cache
    assert torch.equal(generate(model, inputs_embeds=embeddings, cache=cache), wanted)
    assert torch.equal(generate(model, inputs_embeds=embeddings, use_cache=False), wanted)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 3}, {"do_sample": True}], ids=str)
def test_beams(options: dict[str, Any]) -> None:
    """Beams that are reordered at every step find what beam search without a cache finds."""
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        found = generate(small(), **left_padded(), num_beams=4, use_cache=use_cache, **options)
        results.append(found)
    assert torch.equal(*results)


@pytest.mark.parametrize("beams", [1, 2])
def test_all_that_generation_can_return(beams: int) -> None:
    """Scores are those of the tokens chosen; there are no attention maps to give."""
    found: Any = generate(
        small(), input_ids=prompt(), num_beams=beams, return_dict_in_generate=True, output_scores=True,
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    assert len(found.scores) == len(found.hidden_states) == 8 and isinstance(found.past_key_values, SlotCache)
    if beams == 1:
        picked = torch.stack([scores.argmax(-1) for scores in found.scores], 1)
        assert torch.equal(picked, found.sequences[:, 9:])


def test_sampling() -> None:
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        results.append(
            generate(small(), input_ids=prompt(), do_sample=True, num_return_sequences=3, top_k=5, use_cache=use_cache)
        )
    assert torch.equal(*results) and results[0].shape == (6, 17)
    assert len({tuple(row) for row in results[0].tolist()}) > 2


def test_a_streamer_gets_every_token() -> None:
    class Streamer(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    streamer = Streamer()
    found = generate(small(), input_ids=prompt(1), streamer=streamer)
    assert streamer.tokens == found[0].tolist() and streamer.ended


@pytest.mark.parametrize("options", [{"assistant_model": small()}, {"prompt_lookup_num_tokens": 3}], ids=["model", "n"])
def test_assisted_generation_is_refused(options: dict[str, Any]) -> None:
    """What was written into slots cannot be taken back."""
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        generate(small(), input_ids=prompt(1), **options)


@pytest.mark.parametrize("padded", [False, True])
def test_going_on_from_a_cache(padded: bool) -> None:
    """All of the text, or what is new beside the mask of all, or pieces: the same tokens; an old text is refused."""
    model, given = small(), left_padded() if padded else {"input_ids": prompt(), "attention_mask": torch.ones(2, 9)}
    wanted = generate(model, **given)
    for piece in (1, 2, 4):
        cache = SlotCache(2)
        found = generate(model, **given, cache=cache, prefill_chunk_size=piece)
        assert torch.equal(found, wanted)
    assert cache.get_seq_length() == 9 + 7
    ids, mask = given["input_ids"], given["attention_mask"]
    for new in (slice(0, 9), slice(5, 9), slice(8, 9)):
        cache = SlotCache(2)
        model(ids[:, : new.start or 5], mask[:, : new.start or 5], cache=cache)
        found = generate(model, input_ids=ids[:, new], attention_mask=mask, cache=cache)
        assert torch.equal(found[:, -8:], wanted[:, -8:])
    with pytest.raises(InputError, match=r"shape \(2, 9\), but the cache has seen 16 tokens"):
        generate(model, **given, cache=cache)


def test_a_cache_can_be_rearranged() -> None:
    """Repeated, selected, reordered, detached, reset: each sequence goes on as it would have."""
    model, ids = small(use_short_conv=True), prompt(3)
    cache = model(ids[:, :6], use_cache=True).cache
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2, 4]))
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    cache.detach()
    found = model(ids[[2, 0, 1], 6:], cache=cache).logits
    torch.testing.assert_close(found, model(ids).logits[[2, 0, 1], 6:], rtol=0, atol=1e-4)
    assert cache.nbytes() == 3 * 2 * 4 * (2 * 2 * 8 * 6 + 3 * (32 + 16 + 16))
    cache.reset()
    assert cache.get_seq_length() == cache.nbytes() == 0


def test_memory_does_not_grow_with_the_text() -> None:
    """100,000 tokens through one cache: as many bytes as after one token, and a flat process."""
    code = """
import resource, torch
from tenfold.attention.model import GSAConfig, GSAModel
torch.set_num_threads(1)
model = GSAModel(GSAConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_heads=1, intermediate_size=16))
model.eval()
with torch.no_grad():
    cache = model(torch.ones(1, 1, dtype=torch.long), use_cache=True).cache
    first = cache.nbytes()
    for n in range(50):
        model(torch.randint(40, (1, 2000)), cache=cache)
        if n == 4:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early
print(cache.get_seq_length(), first, cache.nbytes(), grown // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen, first, last, grown = map(int, done.stdout.split())
    assert seen == 100_001 and first == last == 2 * 16 * 64 * 4
    assert grown < 8, f"{grown} MiB more after 100,000 tokens than after 10,000"


# --- tools of torch ------------------------------------------------------------------------------------------


def test_compiled_is_eager() -> None:
    """To machine code, as one graph: the loss and all gradients."""
    model, ids = small(num_hidden_layers=1).train(), prompt(2, 40)
    wanted = torch.autograd.grad(model(ids, labels=ids).loss, model.parameters())
    compiled = torch.compile(model, fullgraph=True)
    loss = compiled(ids, labels=ids).loss
    torch.testing.assert_close(torch.autograd.grad(loss, model.parameters()), wanted, rtol=1e-4, atol=1e-5)


class Step(nn.Module):
    """One step of generation with the cache as tensors that go in and come out."""

    def __init__(self, model: GSAForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, states: list[dict[str, Tensor]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        cache = SlotCache(len(states))
        cache.states = [dict(state) for state in states]
        return self.model(ids, cache=cache, use_cache=True).logits, cache.states


@pytest.mark.parametrize("mixer", ["gsa", "abc"])
def test_the_decode_step_is_exported(mixer: str) -> None:
    model, ids = small(mixer=mixer, use_short_conv=True), prompt()
    with torch.no_grad():
        states = [dict(state) for state in model(ids[:, :6], use_cache=True).cache.states]
        step = torch.export.export(Step(model), (ids[:, 6:7], states)).module()
        for t in (6, 7, 8):
            logits, states = step(ids[:, t : t + 1], states)
        torch.testing.assert_close(logits[:, 0], model(ids).logits[:, -1], rtol=0, atol=1e-4)


def test_training_is_the_same_twice() -> None:
    def losses() -> list[float]:
        model, found = small().train(), []
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(5):
            loss = model(prompt(), labels=prompt()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    first = losses()
    assert first == losses() and first[-1] < first[0]


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give input_ids or inputs_embeds"),
        ({"input_ids": prompt(), "inputs_embeds": torch.zeros(2, 9, 32)}, "one of them"),
        ({"input_ids": torch.tensor([[1, 40]])}, "holds 40; the vocabulary has 40 tokens"),
        ({"input_ids": torch.tensor([[-1, 4]])}, "holds -1"),
        ({"input_ids": torch.zeros(0, 4, dtype=torch.long)}, r"shape \(0, 4\)"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, r"shape \(2, 0\)"),
        ({"input_ids": torch.zeros(4, dtype=torch.long)}, r"shape \(4,\)"),
        ({"input_ids": torch.zeros(2, 4)}, "input_ids is torch.float32"),
        ({"inputs_embeds": torch.zeros(2, 4, 16)}, r"inputs_embeds has shape \(2, 4, 16\); \(batch, time, 32\)"),
        ({"inputs_embeds": torch.zeros(2, 0, 32)}, r"inputs_embeds has shape \(2, 0, 32\)"),
        ({"input_ids": prompt(), "attention_mask": torch.ones(2, 8)}, r"attention_mask has shape \(2, 8\)"),
        ({"input_ids": prompt(), "attention_mask": torch.ones(2, 1, 9, 9)}, r"\(2, 1, 9, 9\); \(2, 9\)"),
        ({"input_ids": prompt(), "attention_mask": torch.ones(2, 12)}, r"shape \(2, 12\); \(2, 9\) is needed"),
        ({"input_ids": prompt(), "position_ids": torch.arange(9)[None]}, "position_ids is not read here; say with cu"),
        ({"input_ids": prompt(1), "cu_seqlens": [0, 9], "attention_mask": torch.ones(1, 9)}, "cu_seqlens goes without"),
        ({"input_ids": prompt(1), "cu_seqlens": [0, 9], "cache": SlotCache(2)}, "cu_seqlens goes without"),
        ({"input_ids": prompt(1), "cu_seqlens": [0, 5, 3, 9]}, r"\[0, 5, 3, 9\]"),
        ({"input_ids": prompt(), "cu_seqlens": [0, 9]}, r"\(2, 9, 32\)"),
        ({"input_ids": prompt(), "past_key_values": DynamicCache()}, "cache is a DynamicCache; give a SlotCache"),
        ({"input_ids": prompt(), "cache": SlotCache(3)}, "cache is of 3 layers, the model has 2"),
        ({"input_ids": prompt(), "labels": prompt(2, 8)}, r"labels has shape \(2, 8\), the tokens \(2, 9\)"),
        ({"input_ids": prompt(), "labels": prompt() + 10}, "labels holds 4"),
        ({"input_ids": prompt(), "labels": prompt() * 0 - 1}, "labels holds -1"),
        ({"input_ids": prompt(), "labels": prompt(), "logits_to_keep": 1}, "labels goes without logits_to_keep"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_input(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small()(**given)


def test_a_cache_of_another_batch() -> None:
    model = small()
    cache = model(prompt(3), use_cache=True).cache
    for T in (1, 4):
        with pytest.raises(InputError, match=r"cache is of 3 sequences, the input has 2"):
            model(prompt(2, T), cache=cache)


def test_a_mask_that_is_of_other_tokens_than_the_cache() -> None:
    model = small()
    cache = model(prompt(2, 4), use_cache=True).cache
    with pytest.raises(InputError, match=r"\(2, 9\); \(2, 3\), or with all tokens so far \(2, 7\), is needed"):
        model(prompt(2, 3), cache=cache, attention_mask=torch.ones(2, 9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "mamba"}, "mixer 'mamba' is not known; choose gsa, abc, gla, retnet, softmax"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"hidden_size": "2048"}, "hidden_size is '2048'"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers is 1.5"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_kv_heads": 3}, "num_heads is 4, num_kv_heads 3"),
        ({"num_heads": 5, "num_kv_heads": 5}, "hidden_size is 32, num_heads 5"),
        ({"gate_logit_normalizer": None}, "gate_logit_normalizer is None"),
        ({"intermediate_size": -4}, "intermediate_size is -4"),
        ({"expand_k": 2}, "expand_k 2; only 1"),
        ({"exapnd_v": 0.5}, "exapnd_v 0.5; only 1"),
        ({"attn": {"layers": [1]}}, "the config has attn"),
        ({"attnres_block_size": 4}, "the config has attnres_block_size"),
        ({"use_rope": True}, "the config has use_rope"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"feature_map": "elu"}, "feature_map 'elu'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_config(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        GSAConfig(**SMALL | changes)


def test_settings_without_a_meaning_here_are_kept() -> None:
    dead = {"share_conv_kernel": True, "gate_low_rank_dim": None, "use_rope": False, "clamp_min": -3, "exapnd_k": 1}
    config = GSAConfig(**SMALL, **dead, norm_first=True, torch_dtype="bfloat16")
    assert config.share_conv_kernel and config.clamp_min == -3 and config.dtype == torch.bfloat16
    assert GSAConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert isinstance(GSAModel(config), GSAModel)
