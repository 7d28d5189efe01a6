"""What `tenfold info` reports, on machines that are not at hand: made-up folders stand for them."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tenfold.info import describe_machine, read_memory_limit

GIB = 2**30
NATIVE = Path(__file__).parents[1] / "native"
PRINT_QUOTA = """
#include <cstdio>
#include "machine.h"
int main(int, char** arguments) { std::printf("%g", tenfold::cpu_quota(arguments[1])); }
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 16 GiB and no control groups."""
    write(tmp_path / "proc/meminfo", f"MemTotal:       {16 * GIB // 1024} kB\nMemFree: 1 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_memory_without_control_groups_is_the_machines(root: Path) -> None:
    assert read_memory_limit(root) == 16 * GIB


def test_memory_of_a_container_with_version_2(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    write(root / "sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    assert read_memory_limit(root) == 2 * GIB


def test_the_tightest_ancestor_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/user/shell\n")
    write(root / "sys/fs/cgroup/user/shell/memory.max", "max\n")
    write(root / "sys/fs/cgroup/user/memory.max", f"{3 * GIB}\n")
    write(root / "sys/fs/cgroup/memory.max", f"{5 * GIB}\n")
    assert read_memory_limit(root) == 3 * GIB


def test_memory_of_a_container_with_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/x\n")
    write(root / "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", f"{GIB}\n")
    assert read_memory_limit(root) == GIB


def test_a_limit_above_the_memory_is_none(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/\n")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    assert read_memory_limit(root) == 16 * GIB


@pytest.fixture(scope="module")
def quota_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prints the CPU quota of the machine in a folder."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    folder = tmp_path_factory.mktemp("quota")
    (folder / "main.cpp").write_text(PRINT_QUOTA)
    sources = [folder / "main.cpp", NATIVE / "machine.cpp"]
    subprocess.run([compiler, "-std=c++20", "-I", NATIVE, *sources, "-o", folder / "quota"], check=True)
    return folder / "quota"


def version_1(quota: str) -> dict[str, str]:
    folder = "sys/fs/cgroup/cpu/docker/x"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "1000"}


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("", {}, math.inf),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b\n", {"sys/fs/cgroup/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "4000 1000", "sys/fs/cgroup/a/cpu.max": "1500 1000"}, 1.5),
        ("0::/a\n", {"sys/fs/cgroup/other/cpu.max": "1000 1000"}, math.inf),
        ("4:cpuset:/c\n3:cpu,cpuacct:/docker/x\n", version_1("2000"), 2),
        ("3:cpu:/docker/x\n0::/\n", version_1("-1"), math.inf),
        ("odd\n0\n0:\n0::\n0:cpu:/\n", {"sys/fs/cgroup/cpu.max": "0 0"}, math.inf),
    ],
)
def test_the_tightest_cpu_quota_counts(
    groups: str, files: dict[str, str], cores: float, root: Path, quota_program: Path
) -> None:
    """In the process's own control group or an ancestor, of version 1 or 2; another group's does not matter."""
    for name, text in (files | {"proc/self/cgroup": groups}).items():
        write(root / name, text)
    assert float(subprocess.check_output([quota_program, root], text=True)) == cores


def test_gpus_are_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine()["gpus"] == ["NVIDIA H100, 81559 MiB"]
    tool.write_text("#!/bin/sh\necho 'no devices were found' >&2\nexit 6\n")
    assert describe_machine()["gpus"] == []


def test_a_native_module_that_cannot_be_loaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenfold.search._native", None)
    facts = describe_machine()
    assert facts["simd"] is None
    assert "tenfold.search._native" in facts["native_error"]
    assert facts["cores"] >= 1


def test_this_machine() -> None:
    facts = describe_machine()
    assert facts["native_error"] == ""
    assert facts["simd"] in facts["simd_levels"]
    assert "scalar" in facts["simd_levels"]
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**26
    assert set(facts["extras"]["search"]) == {"h5py", "pyarrow"}


def test_extras_of_what_works_are_told_with_their_packages() -> None:
    """Without those that an extra takes from another, which are listed there."""
    extras = describe_machine()["extras"]
    of_search = {"search", "serve", "cluster", "adapters", "gpu"}
    assert of_search | {"attention", "harness", "training", "reports"} <= set(extras)
    assert all("tenfold" not in packages for packages in extras.values())
    assert "torch" in extras["training"]
    assert all(extras[extra] for extra in of_search)
