import errno
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.core.reports import Plot, Report, Series, Table, need_reports

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


PLOT = Plot("Recall & reads", "recall@10", "pages", [Series("ours <1>", [0.9, 0.95], [8, 9])], log_y=True)
REPORT = Report("Claims on <data>", [TABLE], [PLOT], ["one note"])


def test_the_same_numbers_draw_the_same_bytes() -> None:
    svg = PLOT.to_svg()
    assert svg.startswith("<svg") and svg == PLOT.to_svg()
    assert "ours &lt;1&gt;" in svg and "pages" in svg


@pytest.mark.parametrize("points", [[], [0.0]])
def test_logarithmic_scales_without_a_point_are_drawn(points: list[float]) -> None:
    """As the errors of a method that makes none."""
    assert Plot("Errors", "x", "y", [Series("perfect", points, points)], log_x=True, log_y=True).to_svg()


def test_page_needs_nothing_beside_it_and_escapes_text() -> None:
    page = REPORT.to_html()
    assert "Claims on &lt;data&gt;" in page and "<data>" not in page
    assert page.count("<svg") == 1 and '<td class="number">1,234,567</td>' in page
    assert not re.search(r"<script|<link|<img|src=", page)


def test_report_is_written_whole(tmp_path: Path) -> None:
    written = REPORT.write(tmp_path / "new", "search")
    assert [path.name for path in written] == ["search.html", "search.md", "search.json", "search-1.svg"]
    assert sorted(tmp_path.joinpath("new").iterdir()) == sorted(written)
    assert "![Recall & reads](search-1.svg)" in written[1].read_text()
    data = json.loads(written[2].read_text())
    assert data["plots"] == [
        {"title": "Recall & reads", "series": [{"name": "ours <1>", "x": [0.9, 0.95], "y": [8, 9]}]}
    ]
    assert data["tables"] == [json.loads(TABLE.to_json())]


def test_json_takes_numpy_and_has_null_for_what_is_not_finite() -> None:
    """In tables and in plots alike, whether numbers come in lists or in arrays."""
    table = Table("t", list("abcde"), [[np.int64(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.str_("x")]])
    lines = [
        Series("lists", [1, np.int32(2)], [float("nan"), np.float32("inf")]),
        Series("arrays", np.arange(2), np.array([0.5, -np.inf])),  # type: ignore[arg-type]
    ]
    text = Report("Claims", [table], [Plot("p", "x", "y", lines)]).to_json()
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["tables"][0]["rows"] == [{"a": 3, "b": 0.5, "c": None, "d": True, "e": "x"}]
    assert [line["x"] for line in data["plots"][0]["series"]] == [[1, 2], [0, 1]]
    assert [line["y"] for line in data["plots"][0]["series"]] == [[None, None], [0.5, None]]


def test_details_come_behind_the_plots_and_in_json_behind_the_tables() -> None:
    report = Report("Claims", [TABLE], [PLOT], details=[Table("To look up", ["a"], [[1]])])
    page, text = report.to_html(), report.to_markdown(["plot.svg"])
    assert page.index("</svg>") < page.index("To look up") and text.index("plot.svg") < text.index("To look up")
    assert [table["title"] for table in json.loads(report.to_json())["tables"]] == [TABLE.title, "To look up"]


def test_a_place_that_takes_no_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written there"):
        REPORT.write(tmp_path / "file", "search")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="cannot be written there: No space left"):
        REPORT.write(tmp_path / "new", "search")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"tenfold\[reports\]"):
        need_reports()
