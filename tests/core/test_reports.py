import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.reports import Table

TABLE = Table(
    "Recall [small]",
    ["method", "recall@10", "pages", "qps"],
    [["exact", 1.0, 0, 279.96], ["a|b", 0.95123, 1234567, None]],
    ["2 cores, seed 0"],
)


def test_markdown_shortens_numbers_and_escapes_bars() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "**Recall [small]**",
        "",
        "| method | recall@10 | pages | qps |",
        "| --- | ---: | ---: | ---: |",
        "| exact | 1 | 0 | 280 |",
        "| a\\|b | 0.9512 | 1,234,567 | – |",
        "",
        "- 2 cores, seed 0",
    ]


def test_console_shows_brackets_and_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    TABLE.print()
    shown = capsys.readouterr().out
    for text in ["Recall [small]", "recall@10", "a|b", "1,234,567", "2 cores, seed 0"]:
        assert text in shown


def test_a_pipe_gets_unwrapped_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Table("t", ["path"], [["x" * 500]]).print()
    assert "x" * 500 in capsys.readouterr().out


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table 't': row 1 has 1 cells, the header 2"):
        Table("t", ["a", "b"], [[1, 2], [1]])


@given(st.lists(st.none() | st.text() | st.integers() | st.floats(), min_size=1))
def test_json_keeps_every_value(cells: list[str | int | float | None]) -> None:
    columns = [str(index) for index in range(len(cells))]
    line = Table("t", columns, [cells]).to_json()
    assert "\n" not in line
    [row] = json.loads(line, parse_constant=pytest.fail)["rows"]
    for cell, read in zip(cells, row.values(), strict=True):
        assert read == (None if isinstance(cell, float) and not math.isfinite(cell) else cell)


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_every_number_can_be_shown(number: float) -> None:
    assert Table("t", ["a"], [[number]]).to_markdown().endswith(" |\n")
