"""A trained model as a folder: config.json, model.safetensors, README.md. Local or on the Hub, and never a pickle."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.core.errors import InputError
from tenfold.core.files import replace_folder

__all__ = [
    "ModelCard",
    "find",
    "load_into",
    "load_weights",
    "read_state",
    "read_tensors",
    "save_model",
    "write_tensors",
]

_CONFIG, _WEIGHTS, _INDEX, _CARD = "config.json", "model.safetensors", "model.safetensors.index.json", "README.md"
_KINDS = (".json", ".safetensors", ".txt", ".md")
_FETCHED = (*(f"*{kind}" for kind in _KINDS), "tokenizer.model", "*.jinja")  # a model's tokenizer goes with it
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_PACKAGES = ("tenfold", "torch", "safetensors", "numpy")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*\.safetensors")
_NAMES_SHOWN = 3
_WRAPPERS = ("state_dict", "model_state_dict", "model")


# --- the model card --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCard:
    """What a reader must know of a model before use; becomes the folder's README.md.

    Attributes:
        title: The model's name.
        room: The room it comes from, as in `tenfold.<room>`.
        summary: What it does, in a sentence or two.
        data: The licence of each data set it was trained on, by the data set's name.
        metrics: What was measured, by the measure's name; say on which data in the name.
        intended_use: For what it was made.
        limits: For what it is not to be used, and where it fails.
        license: The licence of the weights, as the Hub spells it, such as `apache-2.0`.
        versions: Versions of the packages that made it; filled in when left empty.
    """

    title: str
    room: str
    summary: str
    data: Mapping[str, str]
    metrics: Mapping[str, float]
    intended_use: str
    limits: str
    license: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The card as Markdown, with the front matter that the Hub reads."""
        front = {
            "license": self.license,
            "library_name": "tenfold",
            "tags": ["tenfold", self.room],
            "datasets": [name for name in self.data if _HUB_ID.fullmatch(name)],
            "metrics": list(self.metrics),
        }
        lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
        lines += [f"# {self.title}", "", self.summary, ""]
        lines += ["## Intended use", "", self.intended_use, "", "## Limits", "", self.limits, ""]
        lines += _table("Data", ("data set", "licence"), self.data)
        lines += _table("Metrics", ("measure", "value"), {name: f"{value:.6g}" for name, value in self.metrics.items()})
        lines += _table("Versions", ("package", "version"), self.versions or _versions())
        return "\n".join(lines)


def _table(title: str, columns: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    cells = [(name.replace("|", "\\|"), value.replace("|", "\\|")) for name, value in rows.items()]
    body = [f"| {name} | {value} |" for name, value in cells] or ["| none | |"]
    return [f"## {title}", "", f"| {columns[0]} | {columns[1]} |", "|---|---|", *body, ""]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # used from its sources
            versions[package] = "unknown"
    return versions


# --- saving ----------------------------------------------------------------------------------------------------------


def save_model(
    folder: Path | str, model: nn.Module | Mapping[str, Tensor], config: Mapping[str, Any], card: ModelCard
) -> None:
    """Write a model folder: `config.json`, `model.safetensors` and `README.md`, all or nothing.

    Args:
        folder: Where it is to lie. A folder that is there is replaced if it is empty or itself a model folder:
            it then holds `config.json` and weights, and nothing but .json, .safetensors, .txt and .md files.
        model: A module, or its state dict. Tied weights are stored once.
        config: What is needed to build the module again; JSON values only.
        card: What a reader must know.

    Raises InputError where `folder` is something else, or `config` or a tensor cannot be stored.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    try:
        text = json.dumps(dict(config), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"config of {folder}: is no JSON ({error}); use numbers, texts, lists and mappings") from None
    state = model.state_dict() if isinstance(model, nn.Module) else model
    try:
        with replace_folder(folder) as partial:
            (partial / _CONFIG).write_text(text)
            write_tensors(partial / _WEIGHTS, state)
            (partial / _CARD).write_text(card.render())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from None


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: exists and is no folder; choose another place")
    entries = sorted(folder.iterdir())
    names = {entry.name for entry in entries}
    if names and not (_CONFIG in names and names & {_WEIGHTS, _INDEX}):
        raise InputError(f"{folder}: exists and is not a model folder, so it is kept; choose another place")
    for entry in entries:
        if entry.suffix not in _KINDS or not entry.is_file():
            raise InputError(f"{entry}: is no file of a model folder, so the folder is kept; move it away first")


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file; names of one and the same tensor are stored once.

    The file's metadata says which name stands for which, as `safetensors.torch.save_model` does.
    Raises InputError for a value that is no dense tensor, and OSError.
    """
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise InputError(f"{path.name}: {name} is no dense tensor with values; only such can be stored")
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and name != "format" and (kept := first.setdefault(place, name)) != name:
            aliases[name] = kept
            continue
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        shares = tensor.numel() > 0 and storage in storages  # another part of the same memory
        storages.add(storage)
        tensors[name] = (
            tensor.detach().clone(memory_format=torch.contiguous_format) if shares else tensor.detach().contiguous()
        )
    try:
        save_file(tensors, path, metadata={"format": "pt"} | aliases)
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from None


# --- loading ---------------------------------------------------------------------------------------------------------


def find(path_or_id: Path | str, revision: str | None = None) -> Path:
    """The local folder of a model: a folder of that path, else a copy of that repository of the Hub.

    From the Hub only .json, .safetensors, .txt and .md files, chat templates (.jinja) and `tokenizer.model` are
    fetched, into its cache; `revision` is a branch, tag or commit there. Raises InputError where there is neither, or
    the Hub cannot be reached and has no copy here.
    """
    name = str(path_or_id)
    try:
        path = Path(path_or_id).expanduser()
    except RuntimeError:
        raise InputError(f"{name}: no such folder: nobody here has that home; check the path") from None
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{name}: is a file; give the model's folder")
    if isinstance(path_or_id, Path) or not _HUB_ID.fullmatch(name) or ".." in name:
        raise InputError(f"{name}: no such folder, and no name of a model on the Hub (owner/name); check the path")
    return _fetch(name, revision)


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a local folder needs no network client
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FETCHED)))
    except GatedRepoError:
        raise InputError(f"{name}: the Hub asks for permission; accept its terms there and log in") from None
    except RevisionNotFoundError:
        raise InputError(f"{name}: has no revision {revision!r} on the Hub; check it") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"{name}: neither a folder here nor a model on the Hub; check the name") from None
    except Exception as error:  # the network's many; the kinds differ between versions of the client
        raise InputError(
            f"{name}: no such folder here, and the Hub cannot be reached ({type(error).__name__}); "
            "check the path, or the network"
        ) from None


def load_weights(path_or_id: Path | str, revision: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the state dict, on the CPU, of a model folder or a model on the Hub (see `find`).

    Weights may be one file, or several with `model.safetensors.index.json`. Raises InputError for what is missing,
    damaged or a pickle.
    """
    folder = find(path_or_id, revision)
    config = _read_json(folder / _CONFIG)
    if (folder / _INDEX).exists():
        return config, _read_shards(folder)
    if (folder / _WEIGHTS).exists():
        return config, read_tensors(folder / _WEIGHTS)
    for entry in sorted(folder.iterdir()):
        if entry.suffix in _PICKLES:
            raise InputError(f"{entry}: is a pickle, which may run any code when read; convert it to {_WEIGHTS} first")
    raise InputError(f"{folder}: has no {_WEIGHTS}; is it a model folder?")


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy weights into a module; all names and shapes must agree.

    A tied parameter may be missing if another of its names is there. Raises InputError, with the name of `source`,
    that says which names are missing, unexpected, or of another shape, before anything is copied.
    """
    own = model.state_dict()
    given = {own[name].data_ptr() for name in state if name in own and own[name].numel()}
    missing = [name for name in own if name not in state and own[name].data_ptr() not in given]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {_shape(state[name])} instead of {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = {"misses": missing, "has unexpected": unexpected, "has other shapes:": shapes}
    said = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise InputError(f"{source}: does not fit the model: {'; '.join(said)}; was it saved with another config?")
    model.load_state_dict(dict(state), strict=False)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU, by all their names. Raises InputError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            aliases = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the folder is not complete") from None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: is no whole safetensors file ({reason}); fetch or save it again") from None
    aliases.pop("format", None)
    return {name: tensors[kept] for name, kept in aliases.items() if kept in tensors} | tensors


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights by name of a file that others have published: .safetensors, or torch's own kind, never a program.

    What people wrap them in ("state_dict", "model_state_dict", "model") is taken off, and so is the "module." that a
    parallel run puts before the names. Raises InputError where the file is missing, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    state: Any = read_tensors(path) if path.suffix == ".safetensors" else _load_tensors_only(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no weights by name; save a state dict")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _load_tensors_only(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip files and torch
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{path}: is no file of tensors alone ({reason}); pickles of other things are not opened, convert it to "
            ".safetensors where you trust it"
        ) from None


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = folder / _INDEX
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(f"{index}: has no weight_map; fetch or save it again")
    for name, shard in places.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise InputError(f"{index}: puts {name} into {shard!r}, which is no .safetensors file of this folder")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        tensors = read_tensors(folder / shard)
        wanted = [name for name, place in places.items() if place == shard]
        if absent := [name for name in wanted if name not in tensors]:
            raise InputError(f"{folder / shard}: misses {_some(absent)}, which {_INDEX} puts there; fetch it again")
        state |= {name: tensors[name] for name in wanted}
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is {path.parent} a model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not readable as JSON ({str(error)[:100]}); fetch or save it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a mapping; fetch or save it again")
    return value
