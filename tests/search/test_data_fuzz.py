"""Damaged files never crash, never hang, never fill the memory: they are refused, or what is read is well-formed.

Thousands of copies of small good files, each cut or changed in a few bytes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tenfold.core.errors import InputError
from tenfold.search.data import GroundTruth, open_vectors, read_ground_truth, write_ground_truth, write_vectors

CASES = 400  # per format
VECTORS = dict.fromkeys(("fvecs", "fbin", "npy", "npz", "hdf5", "arrow", "txt", "vec.gz"), "float32") | {
    "bvecs": "uint8",
    "u8bin": "uint8",
    "f16bin": "float16",
    "parquet": "float16",
}
TRUTHS = ("bin", "ivecs", "ibin", "npy", "npz", "hdf5")
LOUD = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"]


def damaged(good: bytes, rng: np.random.Generator) -> bytes:
    """One to four random injuries, half of them near the start, where headers are."""
    content = bytearray(good)
    for _ in range(rng.integers(1, 5)):
        reach = len(content) if rng.random() < 0.5 else min(len(content), 200)
        at, kind = int(rng.integers(reach + 1)), rng.integers(6)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del content[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            content[at : at + 4] = LOUD[rng.integers(4)]
        elif at < len(content):
            content[at] ^= 1 << int(rng.integers(8))
    return bytes(content)


def peak_kb() -> int:
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def read_in_blocks(path: Path) -> None:
    source, rows = open_vectors(path), 0
    for block in source.blocks(7):
        assert block.shape[1:] == (source.dim,)
        assert 0 < len(block) <= 7
        assert block.dtype == source.dtype
        assert np.isfinite(block).all()
        rows += len(block)
    assert rows == source.rows


def read_truth(path: Path) -> None:
    truth = read_ground_truth(path)
    assert truth.ids.dtype == np.int64
    assert truth.ids.ndim == 2
    assert truth.ids.size == 0 or truth.ids.min() >= -1
    assert truth.distances is None or truth.distances.shape == truth.ids.shape


def survives(path: Path, read: Callable[[Path], None]) -> None:
    """Damage `path` again and again; only InputError of one line, or a well-formed result, may come of it."""
    good, rng = path.read_bytes(), np.random.default_rng(len(path.name))
    read(path)
    before, refused = peak_kb(), list[str]()
    for _ in range(CASES):
        path.write_bytes(damaged(good, rng))
        try:
            read(path)
        except InputError as error:
            refused.append(str(error))
    assert refused
    assert all(str(path) in line and "\n" not in line for line in refused)
    assert peak_kb() - before < 200_000


@pytest.mark.parametrize("suffix", VECTORS)
def test_damaged_vectors(suffix: str, tmp_path: Path) -> None:
    path, dtype = tmp_path / f"a.{suffix}", np.dtype(VECTORS[suffix])
    x = np.random.default_rng(0).integers(0, 100, (33, 5)).astype(dtype)
    if suffix == "arrow":
        table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 5)})
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    else:
        write_vectors(path, [x[:20], x[20:]], 33, 5, dtype)
    survives(path, read_in_blocks)


@pytest.mark.parametrize("suffix", TRUTHS)
def test_damaged_ground_truth(suffix: str, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, (20, 5))
    write_ground_truth(tmp_path / f"a.{suffix}", GroundTruth(ids, ids.astype(np.float32)))
    survives(tmp_path / f"a.{suffix}", read_truth)


def test_every_cut_of_every_packed_format_is_refused(tmp_path: Path) -> None:
    """A file that lost its last bytes is never taken for a shorter one, unless whole rows of fvecs are gone."""
    x = np.arange(30, dtype=np.float32).reshape(6, 5)
    for suffix in ("fbin", "npy", "npz", "hdf5", "parquet", "vec.gz", "fvecs"):
        path = tmp_path / f"a.{suffix}"
        write_vectors(path, [x], 6, 5, x.dtype, overwrite=True)
        good = path.read_bytes()
        for length in range(0, len(good), 1 + len(good) // 100):
            path.write_bytes(good[:length])
            if suffix == "fvecs" and length and length % 24 == 0:
                assert open_vectors(path).rows == length // 24
                continue
            with pytest.raises(InputError):
                read_in_blocks(path)
