"""Arrow columns in memory and memory-mapped .npy files become indexes as they are; answers become tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from oracles import check_exact, make_vectors

from tenfold.core.errors import InputError
from tenfold.search import Index, LivingIndex, as_source
from tenfold.search.adapters.arrow import from_arrow, to_arrow

BASE = make_vectors(500, 8, "float32")


def fixed(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def table(rows: np.ndarray) -> pa.Table:
    return pa.table({"title": pa.array(map(str, range(len(rows))), pa.string()), "embedding": fixed(rows)})


FORMS = {
    "table": table,
    "table in pieces": lambda rows: pa.concat_tables([table(rows[:7]), table(rows[7:7]), table(rows[7:])]),
    "lists": lambda rows: pa.table({"embedding": list(rows)}),
    "large lists": lambda rows: pa.table({"e": pa.array(list(rows), pa.large_list(pa.from_numpy_dtype(rows.dtype)))}),
    "slice": lambda rows: table(np.concatenate([rows[:3], rows, rows[:3]])).slice(3, len(rows)),
    "record batch": lambda rows: table(rows).to_batches()[0],
    "reader": lambda rows: pa.RecordBatchReader.from_batches(table(rows).schema, table(rows).to_batches(100)),
    "array": fixed,
    "chunked array": lambda rows: pa.chunked_array([fixed(rows[:100]), fixed(rows[100:])]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_column_is_read_from_any_row(form: str, dtype: str) -> None:
    rows = make_vectors(300, 8, dtype)
    source = from_arrow(FORMS[form](rows))
    assert (source.rows, source.dim, source.dtype) == (300, 8, np.dtype(dtype))
    for start in (0, 5, 150, 300):
        blocks = list(source.blocks(64, start))
        np.testing.assert_array_equal(np.concatenate([np.empty((0, 8), dtype), *blocks]), rows[start:])
        assert all(len(block) <= 64 for block in blocks)


def test_fixed_size_lists_are_not_copied() -> None:
    column = fixed(BASE)
    values = column.flatten().to_numpy(zero_copy_only=True)
    assert np.shares_memory(next(from_arrow(column).blocks(100)), values)


def test_the_column_is_chosen_by_name() -> None:
    two = pa.table({"a": fixed(BASE), "b": fixed(2 * BASE)})
    np.testing.assert_array_equal(next(from_arrow(two, "b").blocks(500)), 2 * BASE)
    with pytest.raises(InputError, match="Arrow table: no column was named; choose by key: a, b"):
        from_arrow(two)
    with pytest.raises(InputError, match="no column of lists is called 'c'"):
        from_arrow(two, "c")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pa.table({"e": [[1.0, 2.0], None]}), r"Arrow table\[e\]: row 1 is null; fill or drop"),
        (pa.table({"e": [[1.0, 2.0], [1.0]]}), r"Arrow table\[e\]: row 1 has 1 values, the first row 2"),
        (pa.table({"e": [[1.0, 2.0], [1.0, None]]}), r"Arrow table\[e\]: row 1 holds a null"),
        (pa.table({"e": [["x"]]}), r"Arrow table\[e\]"),
        (pa.table({"e": [1.0]}), r"choose by key: \(it has none\)"),
        (object(), r"a object makes no Arrow table"),
        ([1.0, 2.0], r"a list makes no Arrow table"),
    ],
)
def test_what_is_no_column_of_vectors_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(from_arrow(data).blocks(10))


def test_an_index_of_a_column_is_that_of_the_array(tmp_path: Path, uncalibrated: None) -> None:
    """And its answers, and the rows of a living index, come back from a Parquet file as they were."""
    index = Index.build(from_arrow(FORMS["table in pieces"](BASE)), tmp_path / "index")
    found = index.search(BASE[:20], 10, recall=1.0)
    check_exact(found, BASE, BASE[:20], "l2")
    pyarrow.parquet.write_table(to_arrow(ids=found[1], distances=found[0]), tmp_path / "answers.parquet")
    answers = pyarrow.parquet.read_table(tmp_path / "answers.parquet")
    for name, values in (("ids", found[1]), ("distances", found[0])):
        np.testing.assert_array_equal(np.array(answers[name].to_pylist(), values.dtype), values)
    with LivingIndex.open(tmp_path / "index") as living:
        contents = to_arrow(id=np.arange(500), vector=living.get(np.arange(500)))
    assert contents.column_names == ["id", "vector"]
    np.testing.assert_array_equal(next(from_arrow(contents).blocks(500)), BASE)


def test_columns_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"shapes id \(3,\), vector \(500, 8\); \(n,\) and \(n, dim\) with the same n"):
        to_arrow(id=np.arange(3), vector=BASE)
    with pytest.raises(InputError, match=r"shapes x \(\);"):
        to_arrow(x=np.array(1))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_memory_mapped_npy_is_built_from_as_it_is(dtype: str, tmp_path: Path, uncalibrated: None) -> None:
    """As sentence-transformers' embeddings are kept: no copy of the map, no other dtype, the same index as by path."""
    rows = make_vectors(500, 8, dtype)
    np.save(tmp_path / "embeddings.npy", rows)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    assert all(np.shares_memory(block, mapped) for block in as_source(mapped).blocks(100))
    for name, source in (("by path", tmp_path / "embeddings.npy"), ("by map", mapped)):
        index = Index.build(source, tmp_path / name)
        assert index.dtype == rows.dtype
        check_exact(index.search(rows[:20], 10, recall=1.0), rows, rows[:20], "l2")
    vectors = [(tmp_path / name / "vectors.bin").read_bytes() for name in ("by path", "by map")]
    assert vectors[0] == vectors[1]
