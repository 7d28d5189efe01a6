"""What must be set before any test is collected."""

import os

from hypothesis import settings

# Triton reads it when it is imported, which torch does by itself; kernels then run on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run, however long one takes: an unchanged commit that passed shall pass again.
settings.register_profile("tenfold", derandomize=True, deadline=None)
settings.load_profile("tenfold")
