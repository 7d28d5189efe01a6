"""Which machine figures come from."""

import platform
from pathlib import Path

__all__ = ["processor"]


def processor(root: Path = Path("/")) -> str:
    """Return the model of this machine's processor, or its architecture where the system does not say.

    Args:
        root: Where `proc` is mounted; another folder only in tests.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in fields if name.strip() == "model name"), platform.machine())
