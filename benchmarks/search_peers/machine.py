"""The machine that the figures come from."""

import os
import platform
import subprocess
from pathlib import Path

from tenfold.core.machine import processor


def describe() -> dict[str, object]:
    """Return processor, cores, SIMD, memory, kernel and load as JSON values."""
    cpu = _first_fields(Path("/proc/cpuinfo"))
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    memory = _first_fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    return {
        "processor": processor(),
        "family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "simd": [name for name in ("avx2", "avx512f", "avx512vbmi", "asimd", "sve") if name in flags],
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, type_, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def commit() -> str | None:
    """Return the git commit of this source tree, with `-dirty` where files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _first_fields(path: Path) -> dict[str, str]:
    """Read `name : value` lines; of repeated names (one block per core) the first counts."""
    fields: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
