"""Reading a file of 200 MB takes little more memory than one block of it, whatever the format."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

ROWS, DIM = 1_600_000, 128  # 204.8 MB of bytes
TEXT_ROWS = 50_000  # 40 MB as float32, far more as Python's words
GROWTH_MB = 55

READ = """
import sys
from tenfold.search.data import open_vectors

def peak_mb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

path, block_rows = sys.argv[1], int(sys.argv[2])
if path.endswith(".hdf5"):
    import h5py  # a library's own size is not the file's
if path.endswith(".parquet"):
    import pyarrow.parquet
before, rows = peak_mb(), 0
for block in open_vectors(path).blocks(block_rows):
    rows += len(block)
print(rows, peak_mb() - before)
"""


def sparse(header: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + ROWS * DIM)

    return write


def npy_header(dtype: str, fortran_order: bool, shape: tuple[int, int]) -> bytes:
    text = repr({"descr": dtype, "fortran_order": fortran_order, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def write_bvecs(path: Path) -> None:
    rows = np.zeros(10_000, [("dim", "<i4"), ("values", "u1", (DIM,))])
    rows["dim"] = DIM
    with path.open("wb") as file:
        for _ in range(ROWS // 10_000):
            file.write(rows.data)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train", (ROWS, DIM), np.uint8, chunks=(8_000, DIM), compression=1)
        for row in range(0, ROWS, 80_000):
            file["train"][row : row + 80_000] = np.ones((80_000, DIM), np.uint8)


def write_parquet(path: Path) -> None:
    """One row group of all rows, which pyarrow would load at once, in plain pages."""
    values = np.tile(np.arange(256, dtype=np.float32), ROWS // 4 * DIM // 256)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(values), DIM)})
    pyarrow.parquet.write_table(table, path, row_group_size=ROWS, compression="none", use_dictionary=False)


def write_npz(path: Path) -> None:
    np.savez_compressed(path, np.broadcast_to(np.zeros(1, np.uint8), (ROWS, DIM)))


def write_text(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        file.write((b"word" + b" 1" * 200 + b"\n") * TEXT_ROWS)


CASES = {
    "a.u8bin": sparse(np.array([ROWS, DIM], "<u4").tobytes()),
    "a.npy": sparse(npy_header("<f4", False, (ROWS // 4, DIM))),
    "fortran.npy": sparse(npy_header("<f8", True, (ROWS // 8, DIM))),
    "a.bvecs": write_bvecs,
    "a.npz": write_npz,
    "a.hdf5": write_hdf5,
    "a.parquet": write_parquet,
    "a.txt.gz": write_text,
}


@pytest.mark.footprint
@pytest.mark.parametrize("name", CASES)
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    CASES[name](path)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), "4000"], check=True, capture_output=True, text=True, timeout=600
    )
    rows, growth = done.stdout.split()
    assert int(rows) in (ROWS, ROWS // 4, ROWS // 8, TEXT_ROWS)
    assert float(growth) < GROWTH_MB, f"peak memory grew by {growth} MB"
