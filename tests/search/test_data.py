"""Vector files are read as other programs write them, and what we write is read back bit for bit.

The oracle is a NumPy array and, for reading, the small writers at the top of this file, which share nothing with the
package.
"""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.search.data import VectorSource, as_source, convert, metric_of, open_vectors, write_vectors

# The formats we write, and the dtypes that each holds.
WRITTEN = {
    "fvecs": ["float32"],
    "bvecs": ["uint8"],
    "ivecs": ["int32"],
    "fbin": ["float32"],
    "u8bin": ["uint8"],
    "i8bin": ["int8"],
    "f16bin": ["float16"],
    "ibin": ["int32"],
    "npy": ["float32", "float16", "uint8", "int8", "int32"],
    "npz": ["float32", "float16", "uint8", "int8", "int32"],
    "hdf5": ["float32", "float16", "uint8", "int8", "int32"],
    "parquet": ["float32", "float16", "uint8", "int8", "int32"],
    "feather": ["float32", "float16", "uint8", "int8", "int32"],
    "bin": ["int8"],
    "txt": ["float32"],
    "vec.gz": ["float32"],
}
PAIRS = [(suffix, dtype) for suffix, dtypes in WRITTEN.items() for dtype in dtypes]


def vecs_writer(dtype: str) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, x: np.ndarray) -> None:
        path.write_bytes(b"".join(len(row).to_bytes(4, "little") + row.astype(dtype).tobytes() for row in x))

    return write


def bin_writer(dtype: str) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, x: np.ndarray) -> None:
        header = x.shape[0].to_bytes(4, "little") + x.shape[1].to_bytes(4, "little")
        path.write_bytes(header + x.astype(dtype).tobytes())

    return write


def write_hdf5(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "angular"
        file["train"] = x


def write_feather(path: Path, x: np.ndarray) -> None:
    pyarrow.feather.write_feather(pa.table({"id": range(len(x)), "emb": list(x)}), str(path), chunksize=7)


def write_arrow_stream(path: Path, x: np.ndarray) -> None:
    table = pa.table({"emb": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_parquet(path: Path, x: np.ndarray) -> None:
    table = pa.table({"id": range(len(x)), "emb": pa.array(list(x), pa.large_list(pa.from_numpy_dtype(x.dtype)))})
    pyarrow.parquet.write_table(table, path, row_group_size=11)


def write_glove(path: Path, x: np.ndarray) -> None:
    lines = [" ".join([f"a {i} word", *map(repr, row.tolist())]) for i, row in enumerate(x)]
    path.write_text("the " + lines[0].split(" word ")[1] + "\n" + "\n".join(lines[1:]) + "\n")


def write_spacev_folder(path: Path, x: np.ndarray) -> None:
    path.mkdir()
    content = np.array(x.shape, "<i4").tobytes() + x.tobytes()
    for number, begin in enumerate(range(0, len(content), 50), 1):  # 50 bytes: parts end inside rows
        (path / f"vectors_{number}.bin").write_bytes(content[begin : begin + 50])


FOREIGN = {
    "a.fvecs": ("float32", vecs_writer("<f4")),
    "a.bvecs": ("uint8", vecs_writer("u1")),
    "a.ivecs": ("int32", vecs_writer("<i4")),
    "a.fbin": ("float32", bin_writer("<f4")),
    "A.U8BIN": ("uint8", bin_writer("u1")),
    "base.1B.u8bin.crop_nb_10000000": ("uint8", bin_writer("u1")),
    "a.i8bin": ("int8", bin_writer("i1")),
    "a.f16bin": ("float16", bin_writer("<f2")),
    "vectors.bin": ("int8", bin_writer("i1")),
    "split.bin": ("int8", write_spacev_folder),
    "a.npy": ("float32", lambda path, x: np.save(path, x)),
    "fortran.npy": ("float32", lambda path, x: np.save(path, np.asfortranarray(x))),
    "big-endian.npy": ("float32", lambda path, x: np.save(path, x.astype(">f4"))),
    "double.npy": ("float32", lambda path, x: np.save(path, x.astype(np.float64))),
    "a.npz": ("float16", lambda path, x: np.savez(path, x)),
    "packed.npz": ("int8", lambda path, x: np.savez_compressed(path, x)),
    "a.hdf5": ("float32", write_hdf5),
    "a.feather": ("float32", write_feather),
    "stream.arrow": ("uint8", write_arrow_stream),
    "a.parquet": ("float32", write_parquet),
    "glove.txt": ("float32", write_glove),
}


def read_all(source: VectorSource, block_rows: int = 5, start: int = 0) -> np.ndarray:
    """All rows, after checking what is promised of every block."""
    blocks = list(source.blocks(block_rows, start))
    for block in blocks:
        assert block.flags.c_contiguous
        assert block.dtype == source.dtype
        assert block.dtype.isnative
        assert 0 < len(block) <= block_rows
    return np.concatenate([np.empty((0, source.dim), source.dtype), *blocks])


def rows_of(dtype: str, rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random vectors with the extreme values of the dtype among them."""
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        limits = np.finfo(dtype)
        x = rng.normal(size=(rows, dim)).astype(dtype)
        extremes = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -0.0]
    else:
        bounds = np.iinfo(dtype)
        x = rng.integers(bounds.min, bounds.max, (rows, dim), dtype=dtype, endpoint=True)
        extremes = [bounds.max, bounds.min]
    places = rng.integers(0, max(x.size, 1), len(extremes))
    if x.size:
        x.reshape(-1)[places] = extremes
    return x


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs_are_read_from_any_row(name: str, tmp_path: Path) -> None:
    dtype, write = FOREIGN[name]
    x = rows_of(dtype, 37, 6)
    write(tmp_path / name, x)
    source = open_vectors(tmp_path / name)
    assert (source.rows, source.dim, source.dtype) == (37, 6, np.dtype(dtype))
    for start in (0, 1, 7, 11, 22, 36, 37):
        for block_rows in (1, 4, 37, 1000):
            np.testing.assert_array_equal(read_all(source, block_rows, start), x[start:])


@pytest.mark.parametrize(("suffix", "dtype"), PAIRS)
@settings(max_examples=12)
@given(data=st.data())
def test_what_is_written_is_read_back_bit_for_bit(suffix: str, dtype: str, data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(0, 40), label="rows"), data.draw(st.integers(1, 300), label="dim")
    if suffix.endswith("vecs"):
        rows += 1  # without a row these formats cannot say their dimension
    x = rows_of(dtype, rows, dim, data.draw(st.integers(0, 99), label="seed"))
    step = data.draw(st.integers(1, 45), label="written block")
    known = data.draw(st.booleans(), label="rows known before") or not rows
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        blocks = (x[begin : begin + step] for begin in range(0, rows, step))
        write_vectors(path, blocks, rows if known else None, dim, np.dtype(dtype))
        source = open_vectors(path)
        start = data.draw(st.integers(0, rows), label="start")
        read = read_all(source, data.draw(st.integers(1, 45), label="read block"), start)
        assert (source.rows, source.dim, source.dtype) == (rows, dim, np.dtype(dtype))
        np.testing.assert_array_equal(read, x[start:])
        assert os.listdir(folder) == [path.name]


def test_files_we_write_are_read_by_the_programs_they_belong_to(tmp_path: Path) -> None:
    x = rows_of("float32", 9, 4)
    for suffix in ("npy", "npz", "hdf5", "parquet", "arrow", "feather", "vec.gz", "fvecs", "fbin"):
        write_vectors(tmp_path / f"a.{suffix}", [x], None if suffix == "npy" else 9, 4, x.dtype)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), x)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["vectors"], x)
    with h5py.File(tmp_path / "a.hdf5") as file:
        np.testing.assert_array_equal(file["train"][:], x)
    with pa.OSFile(str(tmp_path / "a.arrow")) as file, pa.ipc.open_file(file) as arrow:
        tables = [arrow.read_all()]
    tables += [pyarrow.parquet.read_table(tmp_path / "a.parquet"), pyarrow.feather.read_table(tmp_path / "a.feather")]
    for table in tables:
        np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), x)
    with gzip.open(tmp_path / "a.vec.gz", "rt") as text:
        assert text.readline() == "9 4\n"
        np.testing.assert_array_equal(np.loadtxt(text, usecols=range(1, 5), dtype=np.float32), x)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.fvecs", "<f4").reshape(9, 5)[:, 1:], x)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.fbin", "<f4")[2:].reshape(9, 4), x)


def test_a_suffix_may_be_written_large(tmp_path: Path) -> None:
    """Also that of packed text."""
    x = rows_of("float32", 9, 4)
    write_vectors(tmp_path / "a.txt.GZ", [x], 9, 4, x.dtype)
    assert (tmp_path / "a.txt.GZ").read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "a.txt.GZ")), x)


@pytest.mark.parametrize("dim", [1, 4_097, 65_535])
@pytest.mark.parametrize("suffix", ["fvecs", "fbin", "npy", "npz", "hdf5", "parquet", "arrow", "txt"])
def test_the_narrowest_and_the_widest_vectors_pass(suffix: str, dim: int, tmp_path: Path) -> None:
    x = rows_of("float32", 3, dim)
    write_vectors(tmp_path / f"a.{suffix}", [x], 3, dim, x.dtype)
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / f"a.{suffix}")), x)


def test_rows_longer_than_the_reading_piece_and_many_pieces_per_block(tmp_path: Path) -> None:
    x = rows_of("float32", 5_000, 130)  # 2.6 MB: several pieces of 1 MiB in one block
    write_vectors(tmp_path / "a.fvecs", [x], None, 130, x.dtype)
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "a.fvecs"), 5_000), x)


def test_key_chooses_the_array(tmp_path: Path) -> None:
    train, test = rows_of("float32", 8, 3), rows_of("float32", 2, 3, seed=1)
    np.savez(tmp_path / "a.npz", train=train, test=test)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"], file["group/test"] = train, test
        file.attrs["distance"] = "euclidean"
    pyarrow.parquet.write_table(pa.table({"train": list(train), "title": ["x"] * 8}), tmp_path / "a.parquet")
    for suffix in ("npz", "hdf5", "parquet"):
        np.testing.assert_array_equal(read_all(open_vectors(tmp_path / f"a.{suffix}", key="train")), train)
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "a.npz", key="test")), test)
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "a.hdf5", key="group/test")), test)
    assert open_vectors(tmp_path / "a.hdf5").metric_hint == "euclidean"
    assert open_vectors(tmp_path / "a.npz", key="test").metric_hint is None
    with pytest.raises(InputError, match=r"no key was given; choose by key: test, train$"):
        open_vectors(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"no array 'base'; choose by key: test, train$"):
        open_vectors(tmp_path / "a.npz", key="base")
    with pytest.raises(InputError, match=r"no data set 'base'; choose by key: train$"):
        open_vectors(tmp_path / "a.hdf5", key="base")
    with pytest.raises(InputError, match=r"no column of lists is called 'title'; choose by key: train$"):
        open_vectors(tmp_path / "a.parquet", key="title")


@pytest.mark.parametrize(
    ("distance", "metric"),
    [("euclidean", "l2"), ("angular", "cosine"), ("dot", "ip"), (b"angular", "cosine"), (3, "l2")],
)
def test_the_distance_a_file_names_is_its_metric(distance: object, metric: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"] = rows_of("float32", 8, 3)
        assert metric_of(open_vectors(tmp_path / "a.hdf5")) == "l2"
        file.attrs["distance"] = distance
    assert metric_of(open_vectors(tmp_path / "a.hdf5")) == metric


def test_a_distance_without_a_metric_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["train"], file.attrs["distance"] = rows_of("float32", 8, 3), "hamming"
    with pytest.raises(
        InputError, match=r"a\.hdf5\[train\]: is made for the distance 'hamming'; choose a metric: l2, ip"
    ):
        metric_of(open_vectors(tmp_path / "a.hdf5"))


def test_text_with_and_without_header_keeps_words_with_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("the 1.5 -2\nat name@x.org 3e2 4\n. . . 5 6\r\nsüß 7 8 \n\n".encode())
    (tmp_path / "b.vec").write_text("3 1\n12 1\n5 2\nc 3\n")
    (tmp_path / "c.txt").write_text("12 3\n5 7\n")  # no header: the second line is too short for three numbers
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "a.txt")), [[1.5, -2], [300, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "b.vec")), [[1], [2], [3]])
    np.testing.assert_array_equal(read_all(open_vectors(tmp_path / "c.txt")), [[3], [7]])


def test_arrays_of_any_memory_order_are_sources(tmp_path: Path) -> None:
    x = rows_of("float32", 12, 8)
    np.save(tmp_path / "a.npy", x)
    variants = [x, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x[::-1][::-1], x.astype(">f4"), x.astype("f8")]
    for given_array in variants:
        np.testing.assert_array_equal(read_all(as_source(given_array)), x)
    np.testing.assert_array_equal(read_all(as_source(np.load(tmp_path / "a.npy", mmap_mode="r"))), x)
    np.testing.assert_array_equal(read_all(as_source(str(tmp_path / "a.npy"))), x)
    source = as_source(x)
    assert as_source(source) is source
    assert np.shares_memory(next(source.blocks(4)), x)


@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("source", ["fvecs", "u8bin", "hdf5", "txt"])
def test_conversion_keeps_every_value(source: str, target: str, tmp_path: Path) -> None:
    x = np.random.default_rng(3).integers(0, 127, (50, 6)).astype(np.uint8 if source == "u8bin" else np.float32)
    write_vectors(tmp_path / f"a.{source}", [x], 50, 6, x.dtype)
    seen: list[tuple[int, int]] = []
    convert(tmp_path / f"a.{source}", tmp_path / f"b.{target}", progress=lambda *args: seen.append(args))
    read = open_vectors(tmp_path / f"b.{target}")
    np.testing.assert_array_equal(read_all(read), x)
    assert read.dtype == (x.dtype if len(WRITTEN[target]) > 1 else np.dtype(WRITTEN[target][0]))
    assert seen[-1] == (50, 50)


@pytest.mark.parametrize(
    ("dtype", "value", "suffix"),
    [
        ("float32", 3.5, "u8bin"),
        ("float32", -1, "bvecs"),
        ("float32", 256, "u8bin"),
        ("float32", 2.0**31, "ibin"),
        ("float32", 1e-9, "f16bin"),
        ("float32", 65_520, "f16bin"),
        ("int8", -1, "u8bin"),
        ("uint8", 128, "i8bin"),
        ("int32", 2**24 + 1, "fvecs"),
        ("int32", 2**31 - 1, "txt"),
    ],
)
def test_conversion_that_would_change_a_value_names_its_row(
    dtype: str, value: float, suffix: str, tmp_path: Path
) -> None:
    x = np.zeros((20, 4), dtype)
    x[17, 2] = value
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(InputError, match=r"row 17 holds .* in column 2, which .* cannot hold exactly"):
        convert(tmp_path / "a.npy", tmp_path / f"b.{suffix}")
    assert os.listdir(tmp_path) == ["a.npy"]


def test_real_vectors_survive_every_format(tmp_path: Path) -> None:
    """9,000 SIFT rows through each format, and back to the bytes of the file as it was published."""
    if "TENFOLD_DATA" not in os.environ:
        pytest.skip("TENFOLD_DATA is not set: the folder with search/bigann9k_base.u8bin")
    original = Path(os.environ["TENFOLD_DATA"]) / "search" / "bigann9k_base.u8bin"
    x = np.fromfile(original, np.uint8, offset=8).reshape(9_000, 128)
    np.testing.assert_array_equal(read_all(open_vectors(original), 1_000), x)
    previous = original
    for suffix in ("fvecs", "hdf5", "npz", "fbin", "parquet", "npy", "bvecs", "arrow", "vec.gz", "u8bin"):
        convert(previous, tmp_path / f"a.{suffix}")
        previous = tmp_path / f"a.{suffix}"
    assert previous.read_bytes() == original.read_bytes()
