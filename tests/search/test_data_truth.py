"""Ground truth is read as it is published, written without loss, and refused where it would mislead."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.search.data import GroundTruth, read_ground_truth, write_ground_truth

IDS = np.array([[3, 1, 2], [0, 4, -1]])
DISTANCES = np.array([[0.0, 1.5, 2.5], [1.0, 9.0, np.inf]], np.float32)
FORMATS = {"bin": True, "npz": True, "hdf5": True, "npy": False, "ibin": False, "ivecs": False}  # keeps distances?


def big_ann(ids: np.ndarray, distances: np.ndarray | None, dtype: str = "<u4") -> bytes:
    header = len(ids).to_bytes(4, "little") + ids.shape[1].to_bytes(4, "little")
    return header + ids.astype(dtype).tobytes() + (b"" if distances is None else distances.astype("<f4").tobytes())


@pytest.mark.parametrize("name", ["gt.bin", "truth.bin", "bigann-10M", "gt.unknown"])
@pytest.mark.parametrize("distances", [None, DISTANCES])
@pytest.mark.parametrize("dtype", ["<u4", "<i4"])
def test_big_ann_and_spacev_files(name: str, distances: np.ndarray | None, dtype: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(big_ann(IDS, distances, dtype))
    truth = read_ground_truth(tmp_path / name)
    np.testing.assert_array_equal(truth.ids, IDS)
    assert truth.ids.dtype == np.int64
    if distances is None:
        assert truth.distances is None
    else:
        np.testing.assert_array_equal(truth.distances, distances)


def test_range_search_truth_is_recognised_and_refused(tmp_path: Path) -> None:
    counts, total = np.array([3, 0, 4, 2], "<i4"), 9
    content = np.array([4, total], "<i4").tobytes() + counts.tobytes() + bytes(4 * total) + bytes(4 * total)
    (tmp_path / "gt.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"range-search ground truth \(4 queries, 9 matches, not equally"):
        read_ground_truth(tmp_path / "gt.bin")
    (tmp_path / "gt.bin").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"says 4 queries and k = 9, 144 bytes of ids .* but 87 follow; it is cut"):
        read_ground_truth(tmp_path / "gt.bin")


def test_truth_of_ann_benchmarks_and_numpy(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["neighbors"], file["distances"] = IDS.astype(np.int32), DISTANCES.astype(np.float64)
        file["other"] = IDS[:, :1]
    np.savez(tmp_path / "a.npz", ids=IDS, distances=DISTANCES)
    np.savez(tmp_path / "b.npz", IDS)
    np.save(tmp_path / "a.npy", np.asfortranarray(IDS.astype(">i2")))
    for name in ("a.hdf5", "a.npz"):
        np.testing.assert_array_equal(read_ground_truth(tmp_path / name).distances, DISTANCES)
    for name in ("a.hdf5", "a.npz", "b.npz", "a.npy"):
        np.testing.assert_array_equal(read_ground_truth(tmp_path / name).ids, IDS)
    with pytest.raises(InputError, match=r"a\.hdf5: ground truth: distances are float64 \(2, 3\), the ids \(2, 1\)"):
        read_ground_truth(tmp_path / "a.hdf5", key="other")
    with pytest.raises(InputError, match="no data set 'none'; choose by key: distances, neighbors, other"):
        read_ground_truth(tmp_path / "a.hdf5", key="none")


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=15)
@given(rows=st.integers(1, 20), k=st.integers(1, 30), seed=st.integers(0, 99), with_distances=st.booleans())
def test_what_is_written_is_read_back(
    suffix: str, rows: int, k: int, seed: int, with_distances: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    distances = rng.random((rows, k), np.float32) if with_distances else None
    truth = GroundTruth(rng.integers(-1, 2**31 - 1, (rows, k)), distances)
    path = tmp_path_factory.mktemp("truth") / f"gt.{suffix}"
    write_ground_truth(path, truth)
    read = read_ground_truth(path)
    np.testing.assert_array_equal(read.ids, truth.ids)
    if FORMATS[suffix] and with_distances:
        np.testing.assert_array_equal(read.distances, distances)
    else:
        assert read.distances is None
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("ids", "distances", "said"),
    [
        (np.zeros(3, int), None, r"ids are int64 of shape \(3,\)"),
        (np.zeros((3, 2)), None, "ids are float64"),
        (np.full((3, 2), -2), None, "ids reach from -2 to -2"),
        (np.full((3, 2), 2**63, np.uint64), None, "ids reach from 9223372036854775808"),
        (IDS, DISTANCES[:1], r"distances are float32 \(1, 3\), the ids \(2, 3\)"),
        (IDS, np.where(IDS == 4, np.nan, 0), "the distances of query 1 hold NaN"),
    ],
)
def test_what_is_no_ground_truth_is_refused(ids: np.ndarray, distances: np.ndarray | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        GroundTruth(ids, distances)


def test_ids_too_large_for_a_format_and_existing_files_are_refused(tmp_path: Path) -> None:
    large = GroundTruth(np.array([[2**32 - 1]]))
    for suffix in ("bin", "ivecs", "ibin"):
        with pytest.raises(InputError, match=r"ids reach 4,294,967,295, this format only .*; use \.npz or \.hdf5"):
            write_ground_truth(tmp_path / f"gt.{suffix}", large)
    with pytest.raises(InputError, match=r"\.txt is no ground-truth format; use one of: \.bin, \.ivecs"):
        write_ground_truth(tmp_path / "gt.txt", large)
    assert os.listdir(tmp_path) == []
    write_ground_truth(tmp_path / "gt.npz", large)
    with pytest.raises(InputError, match="exists already"):
        write_ground_truth(tmp_path / "gt.npz", large)
    write_ground_truth(tmp_path / "gt.npz", GroundTruth(IDS), overwrite=True)
    np.testing.assert_array_equal(read_ground_truth(tmp_path / "gt.npz").ids, IDS)


def test_real_ground_truth_names_the_nearest_rows() -> None:
    """Its distances are those of the vectors beside it, and no nearer row exists for the first queries."""
    if "TENFOLD_DATA" not in os.environ:
        pytest.skip("TENFOLD_DATA is not set: the folder with search/bigann9k_gt100.bin")
    folder = Path(os.environ["TENFOLD_DATA"]) / "search"
    base, queries = (np.fromfile(folder / f"bigann9k_{name}.u8bin", np.uint8, offset=8) for name in ("base", "query"))
    truth = read_ground_truth(folder / "bigann9k_gt100.bin")
    assert truth.ids.shape == (500, 100)
    for query in range(20):
        differences = base.reshape(-1, 128).astype(np.int64) - queries.reshape(-1, 128)[query]
        distances = (differences**2).sum(axis=1)
        np.testing.assert_array_equal(truth.ids[query], np.argsort(distances, kind="stable")[:100])
        assert truth.distances is not None
        np.testing.assert_array_equal(truth.distances[query], np.sort(distances)[:100])
