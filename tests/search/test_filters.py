"""Filters choose the rows that a row-by-row reading of them chooses, and a search finds the nearest of those."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_vectors, numpy_distances

from tenfold.core.errors import InputError
from tenfold.search import LivingIndex, maintaining, open_vectors
from tenfold.search.columns import (
    Columns,
    check_columns,
    check_values,
    merged,
    read_columns,
    sorted_column,
    write_columns,
)
from tenfold.search.filters import parse_filter

COLUMNS: Columns = {"year": "int", "price": "float", "lang": "category", "paid": "bool"}
WORDS = ["de", "en", "fr", "ümlaut", ""]
Row = dict[str, Any]


def matches(content: dict[str, Any], row: Row) -> bool:
    """Read a filter for one row."""
    for name, wanted in content.items():
        if name == "$and":
            held = all(matches(one, row) for one in wanted)
        elif name == "$or":
            held = any(matches(one, row) for one in wanted)
        elif name == "$not":
            held = not matches(wanted, row)
        else:
            conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            held = all(compares(row[name], operator, value) for operator, value in conditions.items())
        if not held:
            return False
    return True


def compares(own: Any, operator: str, value: Any) -> bool:
    if operator == "$exists":
        return (own is not None) == value
    if operator in ("$ne", "$nin"):
        return not compares(own, {"$ne": "$eq", "$nin": "$in"}[operator], value)
    if own is None:
        return False
    return bool(
        {
            "$eq": lambda: own == value, "$in": lambda: own in value, "$gt": lambda: own > value,
            "$gte": lambda: own >= value, "$lt": lambda: own < value, "$lte": lambda: own <= value,
        }[operator]()
    )  # fmt: skip


values = {
    "year": st.integers(-3, 3),
    "price": st.sampled_from([-1.5, 0.0, 0.25, 3.0]),
    "lang": st.sampled_from(WORDS),
    "paid": st.booleans(),
}
rows = st.lists(st.fixed_dictionaries({name: st.none() | some for name, some in values.items()}), max_size=30)


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(values)))
    ranges = ["$gt", "$gte", "$lt", "$lte"] if name in ("year", "price") else []
    operator = draw(st.sampled_from(["plain", "$eq", "$ne", "$in", "$nin", "$exists", *ranges]))
    if operator == "$exists":
        return {name: {operator: draw(st.booleans())}}
    if operator in ("$in", "$nin"):
        return {name: {operator: draw(st.lists(values[name], max_size=4))}}
    value = draw(
        values[name] if name != "year" or not ranges or operator not in ranges else st.sampled_from([-1, 0.5, 2])
    )
    return {name: value} if operator == "plain" else {name: {operator: value}}


filters = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.builds(lambda some: {"$and": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda some: {"$or": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"$not": one}, inner),
        st.builds(lambda one, other: {**one, **other}, inner, inner),
    ),
    max_leaves=8,
)


def columns_of(table: list[Row], positions: np.ndarray) -> dict[str, Any]:
    return {name: sorted_column(kind, [row[name] for row in table], positions) for name, kind in COLUMNS.items()}


@settings(max_examples=400)
@given(table=rows, content=filters, seed=st.integers(0, 99))
def test_a_filter_chooses_what_reading_it_row_by_row_chooses(
    table: list[Row], content: dict[str, Any], seed: int
) -> None:
    positions = np.random.default_rng(seed).permutation(len(table))
    mask = parse_filter(content, COLUMNS).mask(columns_of(table, positions), len(table))
    expected = np.zeros(len(table), bool)
    expected[positions] = [matches(content, row) for row in table]
    np.testing.assert_array_equal(mask, expected)


@settings(max_examples=60)
@given(first=rows, second=rows, seed=st.integers(0, 99))
def test_columns_survive_merging_writing_and_reading(
    first: list[Row], second: list[Row], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("columns")
    kept = rng.random(len(first) + len(second)) < 0.7
    total = int(kept.sum())
    places = np.full(len(kept), total)
    places[kept] = rng.permutation(total)
    cut = len(first)
    one, other = (columns_of(table, np.arange(len(table))) for table in (first, second))
    together = {
        name: merged(kind, [(one[name], places[:cut]), (other[name], places[cut:])], total)
        for name, kind in COLUMNS.items()
    }
    write_columns(folder, together)
    back = read_columns(folder, COLUMNS, total)
    for name in COLUMNS:
        expected: list[Any] = [None] * total
        for place, row in zip(
            places[kept].tolist(), [row for row, keep in zip(first + second, kept, strict=True) if keep], strict=True
        ):
            expected[place] = row[name]
        found: list[Any] = [None] * total
        for at, place in enumerate(back[name].order.tolist()):
            found[place] = back[name].shown(at)
        assert found == expected


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], r"a filter is an object such as \{'lang': 'de'\}"),
        ({"colour": "red"}, "there is no column 'colour'; this index has year, price, lang, paid"),
        ({"year": "2020"}, "column year holds int, '2020' is not a whole number of 64 bits"),
        ({"year": True}, "True is not a whole number"),
        ({"year": 1 << 70}, "is not a whole number of 64 bits"),
        ({"price": {"$gt": float("nan")}}, "nan is not a number"),
        ({"price": 10**400}, "column price holds float"),
        ({"lang": {"$gt": "a"}}, r"which \$gt cannot order; use \$eq or \$in"),
        ({"lang": {"$in": "de"}}, r"\$in takes a list of values"),
        ({"lang": {"$like": "d%"}}, r"there is no \$like; choose"),
        ({"lang": {}}, "its condition is empty"),
        ({"$xor": []}, r"there is no \$xor; a filter has \$and, \$or, \$not"),
        ({"$and": []}, r"\$and takes a list of filters"),
        ({"lang": {"$exists": 1}}, r"\$exists takes true or false"),
        ({"year": {"$in": list(range(5000))}}, "more than 4,096 terms"),
    ],
)
def test_what_is_no_filter_is_refused(content: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_filter(content, COLUMNS)


def test_filters_are_told_apart_by_the_numbers_they_compare_with() -> None:
    """0.1 in 16 bits is another number than in 32, though both are written alike; a number of NumPy is Python's."""
    columns = check_columns(COLUMNS)
    half, single, exact = (parse_filter({"price": kind(0.1)}, columns).text for kind in (np.float16, np.float32, float))
    assert len({half, single, exact}) == 3
    assert parse_filter({"price": np.float64(0.1)}, columns).text == exact


def test_nesting_bombs_are_refused() -> None:
    bomb: dict[str, Any] = {"paid": True}
    for _ in range(100_000):
        bomb = {"$not": bomb}
    with pytest.raises(InputError, match="nested more than 32 deep"):
        parse_filter(bomb, COLUMNS)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"$a": "int"}, "is no name of a column"),
        ({"": "int"}, "is no name of a column"),
        ({"a": "text"}, "its type is 'text'; choose int, float, category, bool"),
        ({str(number): "int" for number in range(16)}, "there are 16 columns; an index has up to 15"),
    ],
)
def test_bad_columns_are_refused(columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_columns(columns)


def test_attributes_are_checked() -> None:
    for attributes, complaint in (
        ({"year": [1, 2]}, "column year: there are 2 values for 3 vectors"),
        ({"year": [1, "2", 3]}, "'2' is not a whole number"),
        ({"size": [1, 2, 3]}, "there is no column 'size'"),
    ):
        with pytest.raises(InputError, match=complaint):
            check_values(COLUMNS, attributes, 3)
    assert check_values(COLUMNS, {"year": np.array([1, 2, 3]), "price": [None, 2, 0.5]}, 3) == {
        "year": [1, 2, 3],
        "price": [None, 2.0, 0.5],
    }


def test_filtered_searches_find_the_nearest_of_the_rows_that_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In segments and in rows not sealed yet, after updates, deletes, merging and opening anew; exact at recall 1."""
    monkeypatch.setattr(maintaining, "_DELTA_ROWS", 300)
    rng = np.random.default_rng(1)
    base, queries = make_vectors(1000, 8, "uint8"), make_vectors(6, 8, "uint8", seed=1)
    table = [
        {"year": int(rng.integers(2000, 2030)), "price": float(rng.random()), "paid": bool(rng.random() < 0.1),
         "lang": WORDS[number % 3] if number % 7 else None}
        for number in range(1000)
    ]  # fmt: skip
    index = LivingIndex.create(tmp_path / "index", 8, dtype="uint8", columns=COLUMNS)
    for first in range(0, 1000, 100):
        some = table[first : first + 100]
        index.add(base[first : first + 100], attributes={name: [row[name] for row in some] for name in COLUMNS})
    model = dict(enumerate(base))
    index.delete(np.arange(0, 1000, 9))
    model = {number: row for number, row in model.items() if number % 9}
    index.update(base[:2] // 2, [1, 2])  # which keep their attributes
    index.update(base[3:5] // 2, [4, 5], attributes={"year": [1999, None]})
    model |= {1: base[0] // 2, 2: base[1] // 2, 4: base[3] // 2, 5: base[4] // 2}
    table[4] = dict.fromkeys(COLUMNS) | {"year": 1999}
    table[5] = dict.fromkeys(COLUMNS)
    for turn in range(3):
        assert index.attributes([1, 4, 5, 700])["year"] == [table[1]["year"], 1999, None, table[700]["year"]]
        for content in (
            {"lang": "de"}, {"year": {"$gte": 2020}}, {"year": 1999}, {"paid": True, "lang": {"$ne": "en"}},
            {"$or": [{"price": {"$lt": 0.01}}, {"lang": {"$exists": False}}]}, {"year": {"$gt": 3000}},
        ):  # fmt: skip
            names = np.array([number for number in sorted(model) if matches(content, table[number])], np.int64)
            _, ids = index.search(queries, 10, recall=1.0, filter=content)
            width = min(10, len(names))
            assert (ids[:, width:] == -1).all()
            if width:
                truth = numpy_distances(np.stack([model[n] for n in names.tolist()]), queries, "l2")
                order = np.array([np.lexsort((names, row))[:width] for row in truth])
                np.testing.assert_array_equal(ids[:, :width], names[order])
            _, usual = index.search(queries, 10, filter=content)
            assert ((usual >= 0).sum(axis=1) == width).all(), "never fewer than there are"
            assert np.isin(usual[usual >= 0], names).all()
        if turn == 0:
            index.compact()
        else:
            index.close()
            index = LivingIndex.open(tmp_path / "index")
    index.close()


def kept_recall(index: LivingIndex, rows: np.ndarray, ids: np.ndarray, queries: np.ndarray, **options: Any) -> float:
    """Recall@10 at the default setting against brute force over the rows with these ids; no others are found."""
    distances, found = index.search(queries, 10, **options)
    assert np.isin(found, ids).all(), "ten of them, where more than ten are there"
    truth = np.sort(numpy_distances(rows[ids], queries, "l2"), axis=1)[:, 9:10]
    return float((distances <= truth).mean())


@pytest.fixture(scope="module")
def sided(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """Real vectors in an index whose attribute is where they lie; the vectors, the attribute, and real queries."""
    files = (real_data / f"bigann9k_{name}.u8bin" for name in ("base", "query"))
    rows, queries = (next(open_vectors(file).blocks(9000)) for file in files)
    centred = rows - rows.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    side = np.argsort(np.argsort(centred @ axis))
    far = queries[np.argsort(queries @ axis)[-150:]]
    path = tmp_path_factory.mktemp("sided") / "index"
    with LivingIndex.create(path, 128, dtype="uint8", columns={"side": "int"}, rows_per_list=32) as index:
        index.add(rows, attributes={"side": side})
        index.compact()
    return path, rows, side, far


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("io", ["buffered", "memory"])
def test_rows_that_match_and_lie_elsewhere_are_found(
    share: float, io: Any, sided: tuple[Path, np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """The attribute says on which side of the data a row lies, and the queries are on the other one."""
    path, rows, side, far = sided
    with LivingIndex.open(path, read_only=True, io=io) as index:
        most = int(share * len(rows))
        ids = np.flatnonzero(side < most)
        assert kept_recall(index, rows, ids, far, filter={"side": {"$lt": most}}) >= 0.95


def test_where_all_rows_near_a_query_are_deleted_others_are_found(
    sided: tuple[Path, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """They are a sixth of all, too few for the segment to be written anew; also when it is opened again."""
    path, rows, _, far = sided
    with LivingIndex.open(Path(shutil.copytree(path, tmp_path / "index"))) as index:
        middle = far.astype(np.float64).mean(axis=0)
        near = np.argsort(((rows - middle) ** 2).sum(axis=1))[:1500]
        inside = far[np.argsort(((far - middle) ** 2).sum(axis=1))[:40]]
        for some in np.array_split(near, 3):
            index.delete(some)
        assert index.stats()["segments"][0]["deleted"] == 1500
        ids = np.setdiff1d(np.arange(len(rows)), near)
        assert kept_recall(index, rows, ids, inside) >= 0.95
    with LivingIndex.open(tmp_path / "index", read_only=True) as index:
        assert kept_recall(index, rows, ids, inside) >= 0.95
