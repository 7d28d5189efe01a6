"""Whatever is wrong with a file, array or option is one line that names it, says by how much, and what to do."""

import os
import resource
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tenfold.core.errors import InputError
from tenfold.search.data import as_source, convert, open_vectors, write_vectors

X = np.arange(40, dtype=np.float32).reshape(10, 4)


def fvecs_bytes(x: np.ndarray) -> bytes:
    return b"".join(len(row).to_bytes(4, "little") + row.tobytes() for row in x)


def bin_bytes(x: np.ndarray, rows: int | None = None, dim: int | None = None) -> bytes:
    header = np.array([len(x) if rows is None else rows, x.shape[1] if dim is None else dim], "<u4")
    return header.tobytes() + x.tobytes()


def npy_bytes(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD_FILES = {
    "empty": ("a.fvecs", b"", "the file is empty (0 bytes)"),
    "empty npy": ("a.npy", b"", "the file is empty (0 bytes)"),
    "cut fvecs": ("a.fvecs", fvecs_bytes(X)[:-5], "9 rows of 20 bytes (dimension 4) and 15 bytes more; the file is"),
    "fvecs of less than a dimension": ("a.fvecs", b"\x04\x00", "ends 2 bytes early"),
    "fvecs of dimension 0": ("a.fvecs", bytes(20), "says dimension 0, but vectors have 1 to 65,535 numbers"),
    "fvecs of negative dimension": ("a.fvecs", b"\xff" * 20, "says dimension -1,"),
    "fvecs too wide": ("a.fvecs", (65_536).to_bytes(4, "little") * 9, "says dimension 65,536,"),
    "cut fbin": ("a.fbin", bin_bytes(X)[:-5], "10 rows of 4 float32 values, 168 bytes, but it has 163: 5 are missing"),
    "long fbin": ("a.fbin", bin_bytes(X) + b"..", "but it has 170: 2 too many"),
    "fbin of bytes": ("a.fbin", bin_bytes(X.astype(np.uint8)), "but it has 48, which fits u8bin or i8bin or spacev"),
    "floats in .bin": ("a.bin", bin_bytes(X), "which fits fbin or ibin; rename it"),
    "fbin of huge n": ("a.fbin", bin_bytes(X, rows=2**32 - 1), "says 4,294,967,295 rows of 4 float32"),
    "fbin of huge d": ("a.fbin", bin_bytes(X, dim=2**31), "says dimension 2,147,483,648"),
    "fbin of d = 0": ("a.fbin", bin_bytes(X, dim=0), "says dimension 0"),
    "SPACEV of negative n": ("a.bin", bin_bytes(X, rows=2**32 - 7), "says it holds -7 rows"),
    "half a header": ("a.u8bin", b"1234", "ends 4 bytes early"),
    "npy of another magic": ("a.npy", b"PK" * 50, "not readable as npy"),
    "npy of huge shape": ("a.npy", npy_bytes("<f4", "(9999999999999, 4)"), "are missing; it is cut or damaged"),
    "npy of negative shape": ("a.npy", npy_bytes("<f4", "(-1, 4)"), "says shape (-1, 4)"),
    "npy of dimension 0": ("a.npy", npy_bytes("<f4", "(5, 0)"), "says dimension 0"),
    "npy of one axis": ("a.npy", npy_bytes("<f4", "(0,)"), "x.reshape(1, -1)"),
    "npy of objects": ("a.npy", npy_bytes("|O", "(0, 4)"), "pickled Python objects, which are never loaded"),
    "npy of int64": ("a.npy", npy_bytes("<i8", "(0, 4)"), "holds int64 values, but vectors are float32, float16"),
    "npy of strings": ("a.npy", npy_bytes("<U4", "(0, 4)"), "holds <U4 values"),
    "npz that is none": ("a.npz", b"hello", "not readable as npz"),
    "hdf5 that is none": ("a.hdf5", b"hello", "not readable as HDF5"),
    "parquet that is none": ("a.parquet", b"hello", "not readable as parquet"),
    "arrow that is none": ("a.arrow", b"hello", "not readable as arrow"),
    "Feather version 1": ("a.feather", b"FEA1....", "Feather version 1; write it again"),
    "gz that is none": ("a.txt.gz", b"hello", "not readable as text"),
    "blank text": ("a.txt", b"\n \n", "holds no lines of text"),
    "text without numbers": ("a.txt", b"hello world\n", "says dimension 0"),
    "text without words": ("a.txt", b"0.5 1 2\n0.25 3 4\n", "looks like a plain table"),
    "cut word2vec": ("a.vec", b"9 2\na 1 2\nb 3 4\n", "first line says 9 rows, but 2 follow; it is cut"),
    "a line without end": ("a.txt", b"word 1\n" + b"x" * 3_000_000, "has a line of over"),
    "unknown suffix": ("a.xyz", b"hello", "the suffix names no format of vectors; known are .arrow .bin"),
    "packed fvecs": ("a.fvecs.gz", b"hello", "the suffix names no format of vectors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_when_it_is_opened(case: str, tmp_path: Path) -> None:
    name, content, said = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        open_vectors(tmp_path / name)
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_row_of_another_dimension_in_the_middle_is_named(tmp_path: Path) -> None:
    """Both where the sizes happen to add up and where they do not."""
    rows = [X[0]] * 812 + [X[0, :3]] * 4 + [X[0]] * 5
    path = tmp_path / "vectors.fvecs"
    for tail in (b"", b"..."):
        path.write_bytes(b"".join(fvecs_bytes(row[None]) for row in rows) + b"\0" * 16 + tail)
        with pytest.raises(InputError) as error:
            list(open_vectors(path).blocks(100))
        assert f"{path}: row 812 says dimension 3, the rows before it 4; the file is cut or mixed" == str(error.value)


@pytest.mark.parametrize("suffix", ["fvecs", "fbin", "f16bin", "npy", "npz", "hdf5", "parquet", "txt"])
@pytest.mark.parametrize(("value", "spelled"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-infinity")])
def test_nan_and_infinity_are_refused_with_their_row(suffix: str, value: float, spelled: str, tmp_path: Path) -> None:
    dtype = np.dtype(np.float16 if suffix == "f16bin" else np.float32)
    path, marked = tmp_path / f"a.{suffix}", X.copy()
    marked[7, 2] = 1234
    write_vectors(path, [marked], 10, 4, dtype)
    if suffix == "parquet":
        marked[7, 2] = value
        pyarrow.parquet.write_table(pa.table({"vector": list(marked)}), path)
    elif suffix in ("npz", "hdf5"):
        marked[7, 2] = value
        with h5py.File(path, "w") as file:
            file["train"] = marked
        if suffix == "npz":
            np.savez(path, marked)
    else:
        found, put = dtype.type(1234).tobytes(), dtype.type(value).tobytes()
        if suffix == "txt":
            found, put = b"1234", str(value).encode()
        path.write_bytes(path.read_bytes().replace(found, put))
    blocks = open_vectors(path).blocks(3)
    np.testing.assert_array_equal(np.concatenate([next(blocks), next(blocks)]), X[:6])
    with pytest.raises(InputError, match=rf"row 7 holds {spelled} in column 2; "):
        next(blocks)


def test_float64_beyond_float32_is_refused_with_its_value() -> None:
    x = np.ones((3, 2))
    x[1, 1] = 1e300
    with pytest.raises(InputError, match=r"array: row 1 holds 1e\+300, beyond the range of float32 in column 1"):
        list(as_source(x).blocks(3))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros(128, np.float32), r"array: has shape \(128,\), but rows are wanted: x.reshape\(1, -1\) makes it one"),
        (np.zeros((2, 3, 4)), r"has shape \(2, 3, 4\), but rows are wanted"),
        (np.zeros(()), r"has shape \(\)"),
        (np.zeros((3, 0)), "says dimension 0"),
        (np.zeros((3, 65_536), np.uint8), "says dimension 65,536"),
        (np.zeros((3, 2), np.int64), r"holds int64 values, .* x.astype\(numpy.float32\)"),
        (np.zeros((3, 2), bool), "holds bool values"),
        (np.zeros((3, 2), complex), "holds complex128 values"),
        (np.zeros((3, 2), object), "holds object values"),
        ([[1.0, 2.0]], r"not a list; try numpy.asarray\(x\)"),
        (None, "not a NoneType"),
    ],
)
def test_arrays_that_are_no_vectors_are_refused(data: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        as_source(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [(0, 0), (-1, 0), (5, -1), (5, 11)])
def test_blocks_and_starts_out_of_range_are_refused_at_once(blocks: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"block has at least 1 row|has rows 0 to 9"):
        as_source(X).blocks(*blocks)


def test_places_that_hold_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    cases = {
        "missing.npy": "no such file",
        "pipe.npy": "not a regular file but a device or pipe",
        "folder.npy": "a folder without vectors_1.bin",
        "loop.npy": "could not be read: Too many levels of symbolic links",
        "pipe.npy/a.npy": "could not be read: Not a directory",
        "a" * 300 + ".npy": "could not be read: File name too long",
        "\0.npy": "not a possible path",
    }
    for name, said in cases.items():
        with pytest.raises(InputError, match=said):
            open_vectors(tmp_path / name)
    (tmp_path / "link.npy").symlink_to("real.npy")
    np.save(tmp_path / "real.npy", X)
    assert open_vectors(tmp_path / "link.npy").rows == 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(InputError, match="permission denied; it cannot be read"):
        open_vectors(tmp_path / "a.npy")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied; it cannot be written"):
        write_vectors(tmp_path / "b.npy", [X], 10, 4, X.dtype)


def test_a_missing_part_of_a_split_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "vectors_1.bin").write_bytes(b"1234")
    (tmp_path / "vectors_3.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match=r"vectors_2.bin is missing beside vectors_3.bin"):
        open_vectors(tmp_path)


def test_key_and_format_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(InputError, match="key='train' chooses among arrays, but npy files hold only one"):
        open_vectors(tmp_path / "a.npy", key="train")
    with pytest.raises(InputError, match=r"format='numpy' is unknown; use one of: arrow, .*, npy"):
        open_vectors(tmp_path / "a.npy", format="numpy")
    (tmp_path / "a.dat").write_bytes(bin_bytes(X))
    assert open_vectors(tmp_path / "a.dat", format="fbin").rows == 10


def test_lists_with_gaps_or_of_unequal_length_are_refused_with_their_row(tmp_path: Path) -> None:
    cases = {
        "row 3 is null": [[1.0, 2]] * 3 + [None],
        "row 4 holds a null": [[1.0, 2]] * 4 + [[None, 1.0]],
        "row 5 has 3 values, the first row 2": [[1.0, 2]] * 5 + [[1.0, 2, 3]],
        "says dimension 0": [[]],
        "do not say the dimension": [],
    }
    for said, rows in cases.items():
        pyarrow.parquet.write_table(pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=said):
            list(open_vectors(tmp_path / "a.parquet").blocks(2))


def test_hdf5_that_was_never_written_to_the_end_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("train", (1000, 4), np.float32)
        file.create_dataset("test", (1000, 4), np.float32, chunks=(10, 4))[:10] = 1
        file["words"], file["cube"] = "hello", np.zeros((2, 2, 2))
    for key, said in {
        "train": "16,000 bytes, but 0 are in the file",
        "test": "100 chunks, but 1 are in the file",
        "words": r"has shape \(\)",
        "cube": r"has shape \(2, 2, 2\)",
    }.items():
        with pytest.raises(InputError, match=said):
            open_vectors(tmp_path / "a.hdf5", key=key)


def test_npz_that_lies_about_its_size_ends_early_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    header = npy_bytes("<f4", "(30000000, 4)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header + X.tobytes())
    content, honest, lie = path.read_bytes(), 128 + X.nbytes, 128 + 480_000_000
    path.write_bytes(content.replace(honest.to_bytes(4, "little"), lie.to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"ends 479,999,840 bytes early|not readable as"):
        list(open_vectors(path).blocks(30_000_000))


def test_fortran_npz_and_changed_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.asfortranarray(X))
    with pytest.raises(InputError, match=r"a.npz\[arr_0\]: in Fortran order, which npz cannot stream; save it as .npy"):
        open_vectors(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", X)
    source = open_vectors(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 200)
    with pytest.raises(InputError, match="ends 88 bytes early"):
        list(source.blocks(10))


def test_bad_text_rows_are_named(tmp_path: Path) -> None:
    for line, said in {
        "b 1": "row 1 has 2 fields, not a word and 2",
        "b 1 x": "row 1 is not a word and 2 numbers",
    }.items():
        (tmp_path / "a.txt").write_text(f"a 1 2\n{line}\n")
        with pytest.raises(InputError, match=said):
            list(open_vectors(tmp_path / "a.txt").blocks(9))


@pytest.mark.parametrize("suffix", ["fvecs", "fbin", "npy", "npz", "hdf5", "parquet", "txt", "txt.gz"])
def test_writing_leaves_the_old_file_or_the_new_one_never_half(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"

    def failing() -> Iterator[np.ndarray]:
        yield X
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_vectors(path, failing(), None, 4, X.dtype)
    assert os.listdir(tmp_path) == []
    write_vectors(path, [X], 10, 4, X.dtype)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already; choose another name, or overwrite it"):
        write_vectors(path, [X + 1], 10, 4, X.dtype)
    with pytest.raises(KeyboardInterrupt):
        write_vectors(path, failing(), None, 4, X.dtype, overwrite=True)
    assert path.read_bytes() == before
    write_vectors(path, [X + 1], 10, 4, X.dtype, overwrite=True)
    np.testing.assert_array_equal(next(open_vectors(path).blocks(10)), X + 1)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["fvecs", "fbin", "npy", "npz", "hdf5", "parquet", "txt"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float32)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="could not be written: File too large"):
            write_vectors(tmp_path / f"a.{suffix}", [noise], 1000, 100, noise.dtype)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "blocks", "rows", "dim", "dtype", "said"),
    [
        ("a.npy", [X], 11, 4, "float32", "11 rows were announced, 10 or more came"),
        ("a.npy", [X, X], 10, 4, "float32", "10 rows were announced, 20 or more came"),
        ("a.npy", [X, X[:, :3]], None, 4, "float32", "block at row 10 .* has dimension 3, the file 4"),
        ("a.npy", [X[0]], None, 4, "float32", r"has shape \(4,\), but rows are wanted"),
        ("a.npy", [X], 10, 0, "float32", "dimension 0 is impossible"),
        ("a.npy", [X], 10, 4, "int64", "holds int64 values"),
        ("a.u8bin", [X], 10, 4, "float32", "u8bin files hold uint8, not float32"),
        ("a.npy", [X * np.nan], 10, 4, "float32", "row 0 holds NaN"),
        ("a.fvecs", [], 0, 4, "float32", "there are no rows, and this format cannot say so"),
        ("a.txt", [], None, 4, "float32", "there are no rows, so the dimension would be lost; pass rows=0"),
        ("a.bin", [X], 10, 4, "float32", "spacev files hold int8, not float32"),
        ("a.xyz", [X], 10, 4, "int8", "the suffix names no format"),
        ("missing/a.npy", [X], 10, 4, "float32", "no such file or folder"),
    ],
)
def test_writing_what_does_not_fit_is_refused_and_leaves_nothing(
    name: str, blocks: list[np.ndarray], rows: int | None, dim: int, dtype: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        write_vectors(tmp_path / name, blocks, rows, dim, np.dtype(dtype))
    assert os.listdir(tmp_path) == []


def test_converting_onto_folders_and_from_damaged_files_leaves_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    damaged = X.copy()
    damaged[9, 3] = np.nan
    (tmp_path / "a.fbin").write_bytes(bin_bytes(damaged))
    with pytest.raises(InputError, match="a folder of this name exists"):
        convert(X, tmp_path / "folder.npy")
    with pytest.raises(InputError, match=r"a\.fbin: row 9 holds NaN in column 3"):
        convert(tmp_path / "a.fbin", tmp_path / "b.npy")
    assert sorted(os.listdir(tmp_path)) == ["a.fbin", "folder.npy"]
