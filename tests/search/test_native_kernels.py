"""The kernels in C++, without Python: every instruction set of this machine gives the bits of the scalar one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler; install g++ or name one in CXX")
@pytest.mark.skipif(shutil.which("make") is None, reason="no make, which knows the flags of each file")
def test_every_instruction_set_gives_the_bits_of_the_scalar_one() -> None:
    # A sanitizer that is loaded first is meant for Python, not for the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = ["make", "test-native", f"CXX={COMPILER}"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert " passed, 0 failed" in made.stdout
