"""Results, filled in once and shown on the console, as Markdown, as JSON and as one HTML page with plots."""

import importlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.box
import rich.console
import rich.markup
import rich.table

from tenfold.core.errors import InputError
from tenfold.core.files import replace_file

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Cell", "Plot", "Report", "Series", "Table", "need_reports"]

Cell = str | int | float | None

# Okabe and Ito's colours, told apart by colour-blind people too; markers tell the rest.
_WIDE = 2000  # an axis of more than three decades has no room for labels at 2 and 5
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Table:
    """What was measured or found, in rows.

    The same table goes to people (`print`, `to_markdown`: numbers shortened) and to programs
    (`to_json`: numbers as they are).

    Attributes:
        title: What the table shows, in one line.
        columns: The header, with units: `recall@10`, `p99 [ms]`.
        rows: One sequence of `len(columns)` cells per row. `None` is "not measured".
        notes: Lines below the table: the work, the machine, the versions, the seeds.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {number} has {len(row)} cells, the header {len(self.columns)}"
                )

    def print(self) -> None:
        """Show the table on stdout.

        Columns of numbers are aligned to the right. A terminal's width is kept to; what goes to
        a file or a pipe is not wrapped.
        """
        console = rich.console.Console(highlight=False)
        if not console.is_terminal:
            console.width = 10_000
        table = rich.table.Table(title=rich.markup.escape(self.title), title_justify="left", box=rich.box.SIMPLE_HEAD)
        for index, column in enumerate(self.columns):
            table.add_column(rich.markup.escape(column), justify="right" if self.is_numeric(index) else "left")
        for row in self.rows:
            table.add_row(*(rich.markup.escape(_show(cell)) for cell in row))
        with console.capture() as shown:
            console.print(table)
            for note in self.notes:
                console.print(rich.markup.escape(note))
        print(shown.get(), end="")  # a console ends the program where a pipe is closed, print raises

    def to_markdown(self) -> str:
        """Return the table as a GitHub-flavoured Markdown section that ends in a newline."""
        rules = ("---:" if self.is_numeric(index) else "---" for index in range(len(self.columns)))
        rows = [self.columns, list(rules), *([_show(cell) for cell in row] for row in self.rows)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"**{self.title}**", "", *lines, *([""] if notes else []), *notes, ""])

    def to_json(self) -> str:
        """Return `{"title", "rows": [{column: cell, ...}, ...], "notes"}` as one line of JSON.

        `nan` and infinities become `null`, so that every JSON reader takes the line.
        """
        rows = [{name: _plain(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        return json.dumps({"title": self.title, "rows": rows, "notes": list(self.notes)})

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and at least one."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


@dataclass(frozen=True)
class Series:
    """A line of a plot; x and y are of one length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    markers: bool = True


@dataclass(frozen=True)
class Plot:
    """Lines over common axes.

    Attributes:
        title: What the plot shows, in one line.
        x_label: With the unit.
        y_label: With the unit.
        series: The lines; up to seven are told apart.
        log_x: Whether x is drawn on a logarithmic scale.
        log_y: Whether y is.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False

    def to_svg(self) -> str:
        """Draw the plot: an `<svg>` element, the same bytes for the same numbers.

        A scale without a number above 0, as that of the errors of a perfect method, is linear.

        Raises:
            InputError: matplotlib is not installed.
        """
        matplotlib, figures, ticker = map(_need, ("matplotlib", "matplotlib.figure", "matplotlib.ticker"))
        with matplotlib.rc_context({"svg.hashsalt": self.title, "svg.fonttype": "none", "font.family": "sans-serif"}):
            figure = figures.Figure(figsize=(7.2, 4.2), layout="constrained")
            axes = figure.add_subplot()
            for number, line in enumerate(self.series):
                colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
                axes.plot(line.x, line.y, color=colour, marker=marker if line.markers else "", ms=4, label=line.name)
            axes.set(xlabel=self.x_label, ylabel=self.y_label)
            log_x = self.log_x and any(x > 0 for line in self.series for x in line.x)
            log_y = self.log_y and any(y > 0 for line in self.series for y in line.y)
            axes.set_xscale("log" if log_x else "linear")
            axes.set_yscale("log" if log_y else "linear")
            for axis, is_log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
                if is_log:  # 200 rather than 2 x 10^2
                    low, high = axis.get_view_interval()
                    labelled = (1, 2, 5) if high < _WIDE * low else (1,)
                    axis.set_major_locator(ticker.LogLocator(subs=labelled))
                    axis.set_major_formatter("{x:g}")
                    axis.set_minor_formatter(ticker.NullFormatter())
            axes.grid(color="#dddddd", lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            if self.series:
                axes.legend(frameon=False)
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        return drawn.getvalue()[drawn.getvalue().index("<svg") :]


@dataclass(frozen=True)
class Report:
    """Tables and plots of one subject.

    Attributes:
        title: The subject, in one line.
        tables: In the order of reading.
        plots: Shown in the HTML page and beside the Markdown.
        notes: The work, the machine, the versions, the seeds.
        details: Tables to look things up in, behind the plots.
    """

    title: str
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()
    details: Sequence[Table] = ()

    def print(self) -> None:
        """Show the tables and notes on stdout."""
        for table in (*self.tables, *self.details):
            table.print()
        print(*self.notes, sep="\n")

    def to_json(self) -> str:
        """Return `{"title", "notes", "tables": [...], "plots": [{"title", "series"}, ...]}` as one line of JSON.

        As in tables, `nan` and infinities of the plots become `null`.
        """
        tables = [json.loads(table.to_json()) for table in (*self.tables, *self.details)]
        plots = [
            {
                "title": plot.title,
                "series": [
                    {"name": line.name, "x": [_plain(x) for x in line.x], "y": [_plain(y) for y in line.y]}
                    for line in plot.series
                ],
            }
            for plot in self.plots
        ]
        return json.dumps({"title": self.title, "notes": list(self.notes), "tables": tables, "plots": plots})

    def to_markdown(self, images: Sequence[str] = ()) -> str:
        """Return a Markdown page; `images` are the addresses of the plots' drawings."""
        parts = [f"# {self.title}", "", *(f"- {note}" for note in self.notes), ""]
        for table in self.tables:
            parts += [table.to_markdown()]
        for plot, image in zip(self.plots, images, strict=False):
            parts += [f"![{plot.title}]({image})", ""]
        parts += [table.to_markdown() for table in self.details]
        return "\n".join(parts)

    def to_html(self) -> str:
        """Return one HTML page that needs nothing beside it.

        Raises:
            InputError: jinja2 or matplotlib is not installed.
        """
        environment = _need("jinja2").Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters["shown"] = _show
        page = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
        return str(page.render(report=self))

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write `name`.html, .md, .json and a drawing per plot into `folder`, each whole or not at all.

        Returns:
            The paths, the page first.

        Raises:
            InputError: The folder cannot be written to, or the extra `reports` is missing.
        """
        images = [f"{name}-{number}.svg" for number in range(1, len(self.plots) + 1)]
        texts = {f"{name}.html": self.to_html(), f"{name}.md": self.to_markdown(images), f"{name}.json": self.to_json()}
        texts |= {image: plot.to_svg() for image, plot in zip(images, self.plots, strict=True)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, text in texts.items():
                with replace_file(folder / file) as partial:
                    partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder}: the report cannot be written there: {error.strerror}") from None
        return [folder / file for file in texts]


def need_reports() -> None:
    """Say before long work what a report would lack after it.

    Raises:
        InputError: jinja2 or matplotlib is not installed.
    """
    for module in ("jinja2", "matplotlib.figure"):
        _need(module)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise InputError(f"reports need {name}; pip install 'tenfold[reports]'") from None


def _show(cell: Cell) -> str:
    """Write a cell for people: whole numbers grouped, others to four significant digits."""
    if cell is None:
        return "–"
    if isinstance(cell, str | bool):
        return str(cell)
    if isinstance(cell, int) or 1000 <= abs(cell) < 1e15:
        return f"{cell:,.0f}"
    return f"{cell:.4g}"


def _plain(cell: "Cell | np.generic") -> Cell:
    """A cell as JSON has it: what JSON cannot write of NumPy as Python's, and none where it is not finite."""
    value: Cell = cell if isinstance(cell, str | int | float | None) else cell.item()  # NumPy is not loaded for that
    return None if isinstance(value, float) and not math.isfinite(value) else value
