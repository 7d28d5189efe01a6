"""What this machine and this installation offer to Tenfold."""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tenfold import __version__
from tenfold.core.machine import processor
from tenfold.core.systems import SYSTEMS

__all__ = ["describe_machine", "read_memory_limit"]


def describe_machine() -> dict[str, Any]:
    """Collect what a bug report or a result table says about the machine.

    Returns:
        `tenfold`, `python`, `numpy`, `processor`, `platform`: versions and names.
        `simd`, `simd_levels`: the instruction set that distances are computed with, and all that
        this processor can run; `None` and `[]` if the native module cannot be loaded.
        `io_uring`: empty if it can be used, otherwise the reason why not.
        `native_error`: empty, or why the native module cannot be loaded.
        `cores`: cores that this process may use, control groups included.
        `memory_bytes`: memory that this process may use, control groups included.
        `gpus`: name and memory of each NVIDIA GPU the driver reports.
        `extras`: per extra that something uses, its packages and their versions, `None` if missing.
    """
    return {
        "tenfold": __version__,
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "processor": processor(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_describe_native(),
        "memory_bytes": read_memory_limit(),
        "gpus": _list_gpus(),
        "extras": {extra: _find_extra(extra) for extra in _extras_in_use()},
    }


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process may use.

    The machine's memory, or less where a control group (version 1 or 2) of the process or of one
    of its ancestors sets a limit, as containers do.

    Args:
        root: Where `proc` and `sys` are mounted; another folder only in tests.
    """
    total = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    limits = [int(total.group(1)) * 1024] if total else []
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):
                limits += _read_number(folder / name)
    return min(limits)


def _read_number(path: Path) -> list[int]:
    """Return the number in a file, or nothing where the file is missing or says `max`."""
    try:
        return [int(path.read_text())]
    except (OSError, ValueError):
        return []


def _describe_native() -> dict[str, Any]:
    try:
        native = importlib.import_module("tenfold.search._native")
    except ImportError as error:
        return {
            "simd": None,
            "simd_levels": [],
            "io_uring": "the native module cannot be loaded",
            "native_error": str(error),
            "cores": len(os.sched_getaffinity(0)),
        }
    return {
        "simd": native.simd_level(),
        "simd_levels": native.simd_levels(),
        "io_uring": native.probe_io_uring(),
        "native_error": "",
        "cores": native.usable_cores(),
    }


def _list_gpus() -> list[str]:
    """Ask the NVIDIA driver's own tool, which is there wherever the driver is."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _extras_in_use() -> list[str]:
    """Those of the rooms that work, then those that no room is named after. Of extras within extras see those."""
    others = ("serve", "cluster", "adapters", "gpu", "harness", "training", "reports")
    return [*(room.extra for room in SYSTEMS if room.state == "works"), *others]


def _find_extra(extra: str) -> dict[str, str | None]:
    """Look up the packages of an extra of this installation."""
    found: dict[str, str | None] = {}
    for requirement in importlib.metadata.requires("tenfold") or []:
        match = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", requirement)
        if match is None or match.group(1) == "tenfold" or match.group(2).replace("-", "_") != extra:
            continue
        try:
            found[match.group(1)] = importlib.metadata.version(match.group(1))
        except importlib.metadata.PackageNotFoundError:
            found[match.group(1)] = None
    return found
