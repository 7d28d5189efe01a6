"""Model folders come back as they were saved; damaged, hostile and foreign ones are refused in one line."""

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from tenfold.core.artifacts import ModelCard, find, load_into, load_weights, read_state, save_model, write_tensors
from tenfold.core.errors import InputError

CARD = ModelCard(
    title="Tiny",
    room="attention",
    summary='Says "yes" | or no.',
    data={"owner/texts": "CC-BY-4.0", "letters: from my aunt": "private"},
    metrics={"perplexity (texts, held out)": 12.3456789},
    intended_use="Tests.",
    limits="Everything else.",
    license="apache-2.0",
)


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    return model


def save(folder: Path, model: Any = None, config: Any = None) -> Path:
    save_model(folder, tied() if model is None else model, {"layers": 2} if config is None else config, CARD)
    return folder


def refused(folder: Path | str) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(InputError) as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


# --- there and back --------------------------------------------------------------------------------------------------


def test_a_model_comes_back_with_its_ties(tmp_path: Path) -> None:
    model = tied()
    config, state = load_weights(save(tmp_path / "model", model, {"a": [1, 2.5, None], "b": {"c": "é"}}))
    assert config == {"a": [1, 2.5, None], "b": {"c": "é"}}
    assert same(state, dict(model.state_dict()))
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
    fresh = tied()
    load_into(fresh, state, "model")
    assert same(dict(fresh.state_dict()), dict(model.state_dict()))
    assert fresh[1].weight is fresh[0].weight
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_names_that_the_format_uses_itself_come_back(tmp_path: Path) -> None:
    weight = torch.ones(2)
    state = {"a": weight, "format": weight, "pt": torch.zeros(1)}
    assert same(load_weights(save(tmp_path / "model", state))[1], state)
    assert same(load_weights(save(tmp_path / "model", {"pt": weight}))[1], {"pt": weight})


def test_the_peer_safetensors_reads_our_ties(tmp_path: Path) -> None:
    model, fresh = tied(), tied()
    save(tmp_path / "model", model)
    assert load_model(fresh, tmp_path / "model/model.safetensors", strict=True) == (set(), [])
    assert same(dict(fresh.state_dict()), dict(model.state_dict()))


DTYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)


@given(
    tensors=st.lists(st.tuples(DTYPES, st.lists(st.integers(0, 4), max_size=3), st.integers(0, 3)), max_size=5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_any_dense_tensors_come_back(tmp_path_factory: Any, tensors: list[Any], seed: int) -> None:
    """Views, transposes, slices, scalars, empty ones, tensors that overlap in memory."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    for number, (dtype, shape, view) in enumerate(tensors):
        tensor = (torch.randn(shape) * 10).to(dtype)
        state[f"{number}"] = tensor
        state[f"{number}.view"] = [
            tensor,
            tensor.t() if tensor.ndim == 2 else tensor,
            tensor[..., None],
            tensor.ravel()[1:],
        ][view]
    path = tmp_path_factory.mktemp("any") / "model"
    assert same(load_weights(save(path, state))[1], state)


def test_shards_are_put_together(tmp_path: Path) -> None:
    state = {name: torch.randn(3) for name in "abc"}
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    places["c"] = places["a"]
    for shard in set(places.values()):
        save_file({name: state[name] for name in state if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same(load_weights(folder)[1], state)
    (folder / places["b"]).unlink()
    assert "model-00002-of-00002.safetensors: no such file" in refused(folder)
    save_file({"other": state["b"]}, folder / places["b"])
    assert "misses b, which model.safetensors.index.json puts there" in refused(folder)


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_is_one_that_the_hub_reads() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(CARD.render()).data
    assert data.license == "apache-2.0"
    assert data.library_name == "tenfold"
    assert data.tags == ["tenfold", "attention"]
    assert data.datasets == ["owner/texts"]
    assert data.metrics == ["perplexity (texts, held out)"]


def test_the_card_names_data_metrics_and_versions() -> None:
    text = CARD.render()
    assert "| letters: from my aunt | private |" in text
    assert "| perplexity (texts, held out) | 12.3457 |" in text
    assert f"| torch | {torch.__version__.split('+')[0]}" in text
    assert "| python | 3." in text


# --- what is there is kept -------------------------------------------------------------------------------------------


def test_a_model_folder_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", config={"version": 1})
    (folder / "vocabulary.txt").touch()
    save(folder, config={"version": 2})
    assert load_weights(folder)[0] == {"version": 2}
    assert not (folder / "vocabulary.txt").exists()
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")


@pytest.mark.parametrize("content", ["thesis.doc", "config.json", "model.safetensors"])
def test_a_folder_of_something_else_is_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / content).write_text("mine")
    with pytest.raises(InputError, match="is not a model folder, so it is kept"):
        save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [content]


def test_a_model_folder_with_something_of_the_users_is_kept(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    (folder / "thesis.doc").touch()
    with pytest.raises(InputError, match=r"thesis\.doc: is no file of a model folder"):
        save(folder)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exists and is no folder"):
        save(tmp_path / "file")


@pytest.mark.parametrize(
    ("model", "config", "words"),
    [
        (None, {"a": object()}, "is no JSON"),
        (None, {"a": float("nan")}, "is no JSON"),
        ({"w": torch.empty(2, device="meta")}, None, "w is no dense tensor"),
        ({"w": torch.eye(2).to_sparse()}, None, "w is no dense tensor"),
        ({"w": [1.0]}, None, "w is no dense tensor"),
    ],
)
def test_what_cannot_be_stored_leaves_the_old_model(tmp_path: Path, model: Any, config: Any, words: str) -> None:
    folder = save(tmp_path / "model", config={"old": True})
    with pytest.raises(InputError, match=words):
        save(folder, model, config)
    assert load_weights(folder)[0] == {"old": True}
    assert list(tmp_path.iterdir()) == [folder]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "model") / "model.safetensors"
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "is no whole safetensors file" in refused(path.parent)
    path.write_bytes(whole + b"\0")
    assert "is no whole safetensors file" in refused(path.parent)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 62]}},
        {"w": {"dtype": "F32", "shape": [1 << 63, 2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}},
        {"w": [1, 2, 3]},
        [],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any) -> None:
    path = save(tmp_path / "model") / "model.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert "is no whole safetensors file" in refused(path.parent)
    path.write_bytes(struct.pack("<Q", 1 << 62) + text)
    assert "is no whole safetensors file" in refused(path.parent)


@given(place=st.integers(0, 400), value=st.integers(0, 255))
@settings(max_examples=150)
def test_a_changed_byte_is_refused_or_gives_tensors(tmp_path_factory: Any, place: int, value: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed"
    path = (folder if folder.exists() else save(folder)) / "model.safetensors"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[place % len(whole)] = value
    path.write_bytes(changed)
    try:
        assert all(isinstance(tensor, Tensor) for tensor in load_weights(folder)[1].values())
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "deep/a.safetensors", "..", "a.bin", ".a.safetensors", 7, None]
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, shard: Any) -> None:
    folder = save(tmp_path / "model")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    assert "is no .safetensors file of this folder" in refused(folder)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_names_is_refused(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "has no weight_map" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    assert "is a pickle, which may run any code" in refused(folder)


def test_folders_that_are_not_models_are_refused(tmp_path: Path) -> None:
    assert "config.json: no such file" in refused(tmp_path)
    for text, words in (("{", "is not readable as JSON"), ("[" * 100_000, "is not readable"), ("[]", "holds a list")):
        (tmp_path / "config.json").write_text(text)
        assert words in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "has no model.safetensors" in refused(tmp_path)


def test_weights_of_another_model_are_refused_by_name_before_any_is_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {
        "0.weight": torch.zeros(2, 3),
        "0.bias": torch.zeros(3),
        "1.bias": torch.zeros(()),
        "2.bias": torch.ones(1),
    }
    with pytest.raises(InputError) as caught:
        load_into(model, state, "run/best")
    assert str(caught.value) == (
        "run/best: does not fit the model: misses 1.weight; has unexpected 2.bias; "
        "has other shapes: 0.weight 2x3 instead of 3x2, 1.bias scalar instead of 1; was it saved with another config?"
    )
    assert same(dict(model.state_dict()), before)


def test_a_tied_name_may_be_missing() -> None:
    model = tied()
    state = dict(tied().state_dict())
    del state["1.weight"]
    load_into(model, state, "model")
    assert torch.equal(model[1].weight, state["0.weight"])


# --- where a model is ------------------------------------------------------------------------------------------------


def test_a_local_folder_wins_and_bad_paths_are_told_from_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert find("owner/model") == Path("owner/model")
    (tmp_path / "file").touch()
    for bad in ("./model", "/nowhere", "a/b/c", "~/nowhere/at/all", "a//b", "a b", tmp_path / "model", Path("model")):
        with pytest.raises(InputError, match="no such folder, and no name of a model"):
            find(bad)
    with pytest.raises(InputError, match="file: is a file; give the model's folder"):
        find("file")
    with pytest.raises(InputError, match="~no-such-user/model: no such folder: nobody here has that home"):
        find("~no-such-user/model")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for: one repository, whose files are `files`."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    sha = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        self.answer(True)

    def do_HEAD(self) -> None:
        self.answer(False)

    def answer(self, has_body: bool) -> None:
        path, *_ = self.path.split("?")
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/owner/model/tree/"):
            rows = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in self.files.items()]
            self.reply(200, json.dumps(rows).encode(), has_body)
        elif path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": name} for name in self.files]
            self.reply(200, json.dumps({"id": "owner/model", "sha": self.sha, "siblings": siblings}).encode(), has_body)
        elif path.startswith("/owner/model/resolve/") and name in self.files:
            self.asked.append(name)
            self.reply(200, self.files[name], has_body)
        else:
            self.reply(404, b"{}", has_body, {"X-Error-Code": "RepoNotFound"})

    def reply(self, status: int, body: bytes, has_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {"ETag": f'"{hash(body)}"', "X-Repo-Commit": self.sha, "Content-Length": str(len(body))}
        for name, value in (more | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    Hub.files, Hub.asked = files, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(endpoint: str, cache: Path, *names: str) -> list[str]:
    """Load models of a Hub in a process of its own, whose client knows no other: configs or errors."""
    code = (
        "import sys; from tenfold.core.artifacts import load_weights; from tenfold.core.errors import InputError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(load_weights(name)[0])\n"
        "    except InputError as error: print(error)"
    )
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True, text=True, timeout=600, check=False, cwd=cache.parent,
        env={"PYTHONPATH": ":".join(sys.path)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_model_of_the_hub_is_fetched_without_pickles_and_kept(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", config={"from": "afar"})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = {"tokenizer.model": b"pieces", "chat_template.jinja": b"{{ messages }}"}
    with hub(files | words | {"pytorch_model.bin": b"pickle", "run.py": b"import os", "net.model": b"?"}) as endpoint:
        found, missing = ask(endpoint, tmp_path / "cache", "owner/model", "owner/nothing")
        assert found == "{'from': 'afar'}"
        assert set(Hub.asked) == {"config.json", "model.safetensors", "README.md", *words}
        assert missing == "owner/nothing: neither a folder here nor a model on the Hub; check the name"
    found, missing = ask(
        endpoint, tmp_path / "cache", "owner/model", "owner/nothing"
    )  # the server is gone, a copy here
    assert found == "{'from': 'afar'}"
    assert missing.startswith("owner/nothing: no such folder here, and the Hub cannot be reached (")


def test_write_tensors_keeps_the_callers_tensors(tmp_path: Path) -> None:
    """Stored without gradients, and what shares memory goes on doing so."""
    weight = nn.Parameter(torch.ones(2, 2))
    write_tensors(tmp_path / "a.safetensors", {"w": weight, "row": weight[0]})
    assert weight.requires_grad
    assert weight[0].data_ptr() == weight.data_ptr()


def test_published_weights_are_read_out_of_what_they_are_wrapped_in(tmp_path: Path) -> None:
    """Of torch's kind or safetensors, with "module." or not; a program, a list and a missing file are refused."""
    state = {"layer.weight": torch.arange(3.0)}
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "step": 3}, tmp_path / "a.pth")
    write_tensors(tmp_path / "b.safetensors", state)
    for name in ("a.pth", "b.safetensors"):
        assert torch.equal(read_state(tmp_path / name)["layer.weight"], state["layer.weight"])
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, what in (("list", "holds no weights by name"), ("text", "no file of tensors"), ("none", "no such file")):
        with pytest.raises(InputError, match=what):
            read_state(tmp_path / f"{name}.pth")
