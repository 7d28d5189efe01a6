"""What must be set before any test is collected."""

import os

# Triton reads it when it is imported, which torch does by itself; kernels then run on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
