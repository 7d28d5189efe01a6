"""An interpreter for each library, made from pinned requirements where it needs its own."""

import hashlib
import subprocess
import sys
from pathlib import Path


def interpreter(requirements: tuple[str, ...], work: Path) -> str:
    """Return a Python that has `requirements`; without any, the one that runs this.

    The environment is made once with `python -m venv` and pip below `work`, and kept.

    Raises:
        RuntimeError: pip could not install them; the message is pip's last line.
    """
    if not requirements:
        return sys.executable
    wanted = "\n".join(requirements)
    name = requirements[0].split("=")[0] + "-" + hashlib.sha256(wanted.encode()).hexdigest()[:8]
    folder = work / "environments" / name
    python = str(folder / "bin" / "python")
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {' '.join(requirements)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    _install(python, requirements)
    stamp.write_text(wanted)
    return python


def _install(python: str, requirements: tuple[str, ...]) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *requirements]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip cannot install {' '.join(requirements)}: {done.stderr.strip().splitlines()[-1]}")
