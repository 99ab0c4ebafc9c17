"""Tables: aligned text in a pipe; in a terminal with colours, and never wider than it."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from pyapp.cli.common import clean
from pyapp.cli.text import BAR_WIDTH, agents, cells, plain_bar, remaining
from pyapp.models import Forecast, Key, Workflow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_STYLES = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "magenta",
}


@dataclass(frozen=True)
class Column:
    """A column of a table, and how it gives way in a narrow terminal."""

    name: str
    least: int | None = None
    """Cells that it may be cut down to; None: it is never cut."""
    most: int = 200
    """Cells that it may take."""
    leaves: int = 0
    """Order in which columns are left out, the highest first; 0: never."""
    style: str = ""
    right: bool = False


Cell = object
"""A value, or a function that draws one in so many cells."""


def in_terminal() -> bool:
    """Tell whether what is printed is read by people."""
    return sys.stdout.isatty()


def print_table(columns: Iterable[Column | str], rows: Iterable[Iterable[Cell]]) -> None:
    """Print rows below a header; in a terminal in its width."""
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    table = [list(row) for row in rows]
    if not in_terminal():
        texts = [[head.name for head in heads], *([_plain(value) for value in row] for row in table)]
        widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
        for line in texts:
            padded = (value + " " * (width - cell_len(value)) for value, width in zip(line, widths, strict=True))
            print("  ".join(padded).rstrip())
        return
    out = console()
    for line in lay_out(heads, table, out.width):
        out.print(line, soft_wrap=True)


def print_fields(fields: Mapping[str, Cell]) -> None:
    """Print names and values below each other, without those that are empty; in a terminal, long ones are wrapped."""
    filled = {name: value for name, value in fields.items() if value}
    if not in_terminal():
        for name, value in filled.items():
            print(f"{name:<10} {_plain(value)}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(min_width=10, style="dim")
    grid.add_column(overflow="fold")
    for name, value in filled.items():
        grid.add_row(name, value if isinstance(value, Text) else Text(_plain(value)))
    console().print(grid)


def console(*, stderr: bool = False) -> "Console":
    """Make what writes to the terminal; nothing in the text is taken for markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int) -> list["Text"]:
    """Lay out a table in so many cells: columns give way or are left out until it fits."""
    from rich.text import Text

    def width_of(index: int) -> int:
        texts = [columns[index].name, *(_plain(row[index]) for row in rows if not callable(row[index]))]
        drawn = any(callable(row[index]) for row in rows)
        return columns[index].most if drawn else min(columns[index].most, max(map(cell_len, texts)))

    widths = {index: width_of(index) for index in range(len(columns))}

    def least(index: int) -> int:
        at_least = columns[index].least
        return widths[index] if at_least is None else min(widths[index], at_least)

    def excess(taken: Callable[[int], int]) -> int:
        return sum(map(taken, widths)) + 2 * (len(widths) - 1) - room

    while (
        excess(least) > 0 and (going := max(widths, key=lambda index: columns[index].leaves, default=None)) is not None
    ):
        if not columns[going].leaves:
            break
        del widths[going]
    for _ in range(excess(widths.__getitem__)):
        widest = max(widths, key=lambda index: widths[index] - least(index))
        if widths[widest] == least(widest):
            break
        widths[widest] -= 1

    def cell(value: Cell, index: int, style: str) -> Text:
        column, width = columns[index], widths[index]
        drawn = value(width) if callable(value) else value
        text = drawn if isinstance(drawn, Text) else Text(_plain(drawn), style=style)
        text.truncate(width, overflow="ellipsis")
        text.align("right" if column.right else "left", width)
        return text

    def line(row: Sequence[Cell], style: str | None = None) -> Text:
        parts = [cell(row[index], index, style or columns[index].style) for index in widths]
        whole = Text("  ").join(parts)
        whole.rstrip()
        return whole

    return [line([column.name for column in columns], "bold"), *map(line, rows)]


def stacked_bar(workflow: Workflow) -> Callable[[int], "Text"]:
    """Draw the agents of a workflow in so many cells: completed, failed, cancelled and open ones."""

    def draw(width: int) -> "Text":
        from rich.text import Text

        completed = cells(workflow.agents_completed, workflow.agents_total, width)
        # What failed and what was cancelled takes its share of the rest, so that it is seen even where it is small.
        left = width - completed
        failed = min(left, cells(workflow.agents_failed, workflow.agents_total, width))
        cancelled = min(left - failed, cells(workflow.agents_cancelled, workflow.agents_total, width))
        bar = Text("█" * completed, style="green")
        bar.append("█" * failed, style="red")
        bar.append("█" * cancelled, style="yellow")
        return bar.append("░" * (left - failed - cancelled), style="dim")

    return draw


def progress_of(workflow: Workflow) -> Cell:
    """Write the progress of a workflow: a bar, the percentage and the agents."""
    tail = f"{workflow.progress} %  ({agents(workflow)})"
    if not in_terminal():
        return f"{plain_bar(workflow.progress)} {tail}"
    return stacked_bar(workflow)(BAR_WIDTH).append(f" {tail}")


def coloured(status: str | None) -> "Text":
    """Write a status in its colour."""
    from rich.text import Text

    return Text(clean(status), style=_STYLES.get(status or "", ""))


class LiveTable:
    """Workflows as a table of bars for a live display: as many as the terminal has lines for."""

    columns = (
        Column("workflow", least=8, most=40),
        Column("progress", least=8, most=BAR_WIDTH),
        Column("", right=True, style="bold"),
        Column("agents"),
        Column("failed", right=True, style="red"),
        Column("status"),
        Column("stage", least=8, most=24, style="dim", leaves=1),
        Column("ETA", right=True),
    )

    def __init__(self, workflows: Iterable[Workflow], forecasts: Mapping[Key, Forecast]) -> None:
        """Take what is to be shown."""
        self.rows = [
            (
                workflow.name or str(workflow.workflow_id),
                stacked_bar(workflow),
                f"{workflow.progress} %",
                agents(workflow),
                workflow.agents_failed or "",
                coloured(workflow.status),
                workflow.current_stage,
                remaining(forecasts.get(workflow.workflow_id)),
            )
            for workflow in workflows
        ]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Draw it in the size of the terminal."""
        from rich.text import Text

        room = max(1, console.height - 2)
        shown = self.rows if len(self.rows) <= room else self.rows[: room - 1]
        yield from lay_out(self.columns, shown, options.max_width)
        if len(shown) < len(self.rows):
            yield Text(f"… and {len(self.rows) - len(shown)} more", style="dim")


def _plain(value: object) -> str:
    return "" if value is None else clean(str(value))
