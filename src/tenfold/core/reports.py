"""A result table, filled in once and shown on the console, as Markdown or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import rich.box
import rich.console
import rich.markup
import rich.table

__all__ = ["Table"]

Cell = str | int | float | None


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
            table.add_column(rich.markup.escape(column), justify="right" if self._is_numeric(index) else "left")
        for row in self.rows:
            table.add_row(*(rich.markup.escape(_show(cell)) for cell in row))
        with console.capture() as shown:
            console.print(table)
            for note in self.notes:
                console.print(rich.markup.escape(note))
        print(shown.get(), end="")  # a console ends the program where a pipe is closed, print raises

    def to_markdown(self) -> str:
        """Return the table as a GitHub-flavoured Markdown section that ends in a newline."""
        rules = ("---:" if self._is_numeric(index) else "---" for index in range(len(self.columns)))
        rows = [self.columns, list(rules), *([_show(cell) for cell in row] for row in self.rows)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"**{self.title}**", "", *lines, *([""] if notes else []), *notes, ""])

    def to_json(self) -> str:
        """Return `{"title", "rows": [{column: cell, ...}, ...], "notes"}` as one line of JSON.

        `nan` and infinities become `null`, so that every JSON reader takes the line.
        """
        rows = [{name: _finite(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        return json.dumps({"title": self.title, "rows": rows, "notes": list(self.notes)})

    def _is_numeric(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def _show(cell: Cell) -> str:
    """Write a cell for people: whole numbers grouped, others to four significant digits."""
    if cell is None:
        return "–"
    if isinstance(cell, str | bool):
        return str(cell)
    if isinstance(cell, int) or 1000 <= abs(cell) < 1e15:
        return f"{cell:,.0f}"
    return f"{cell:.4g}"


def _finite(cell: Cell) -> Cell:
    if isinstance(cell, float) and not (-float("inf") < cell < float("inf")):
        return None
    return cell
