"""Tables of progress: aligned text in a pipe; in a terminal with colours, and never wider than it."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.text import Text

from pyapp.cli.common import clean
from pyapp.cli.text import cells, done, percentage
from pyapp.models import Key, Workflow

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "cancelled": "yellow", "paused": "magenta"}


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
    last: bool = False
    """Whether others are cut first, and left out before it has less than three tenths of the room."""
    style: str = ""
    right: bool = False
    key: bool = False
    """Whether it holds ids, which are cut without a mark: the beginning of one is as good."""


Cell = object
"""A value, or a function that draws one in so many cells."""


def id_column(name: str, keys: Iterable[object], leaves: int = 0) -> Column:
    """Make a column of ids, which a narrow terminal cuts to what tells them apart, or leaves out if that is long."""
    written = sorted({str(key) for key in keys})
    least = 8
    for one, next_one in pairwise(written):
        while least < len(one) and one[:least] == next_one[:least]:
            least += 1
    return Column(
        name, least=least, key=True, leaves=leaves or (3 if least > 12 else 0), style="" if name == "ID" else "dim"
    )


def in_terminal() -> bool:
    """Tell whether people read what is printed, in a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def console(*, stderr: bool = False) -> "Console":
    """Make what writes to the terminal; it takes nothing in the text for markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_table(columns: Iterable[Column | str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows below a header; in a terminal in its width."""
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    if in_terminal():
        out = console()
        for line in lay_out(heads, list(rows), out.width):
            out.print(line, soft_wrap=True)
    else:
        for line in lay_out(heads, list(rows)):
            print(line.plain)


def print_fields(fields: Mapping[str, Cell]) -> None:
    """Print names and values below each other, without those that are empty; in a terminal, long ones are wrapped."""
    filled = {name: value for name, value in fields.items() if value}
    if not in_terminal():
        print("\n".join(f"{name:<10} {_text(value).plain}" for name, value in filled.items()))
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(min_width=10, style="dim")
    grid.add_column(overflow="fold")
    for name, value in filled.items():
        grid.add_row(name, _text(value))
    console().print(grid)


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int | None = None) -> list[Text]:
    """Lay out a table in so many cells: columns give way or are left out until it fits."""
    widths: dict[int, int] = {}
    for index, column in enumerate(columns):
        drawn = any(callable(row[index]) for row in rows)
        longest = max(Text(column.name).cell_len, *(_text(row[index], column.most).cell_len for row in rows), 0)
        widths[index] = column.most if drawn else min(column.most, longest)

    def least(index: int) -> int:
        return min(widths[index], columns[index].least or widths[index])

    def slack(index: int) -> int:
        return widths[index] - least(index)

    def comfortable(index: int) -> int:
        return min(widths[index], (room or 0) * 3 // 10) if columns[index].last else least(index)

    def excess(taken: Callable[[int], int]) -> int:
        return 0 if room is None else sum(map(taken, widths)) + 2 * (len(widths) - 1) - room

    for leaving in sorted((i for i in widths if columns[i].leaves), key=lambda i: columns[i].leaves, reverse=True):
        if excess(comfortable) > 0:
            del widths[leaving]
    while excess(widths.__getitem__) > 0:
        widest = max(widths, key=lambda index: (slack(index) > 0, not columns[index].last, slack(index)))
        if not slack(widest):
            break
        widths[widest] = least(widest) if columns[widest].key else widths[widest] - 1

    def line(row: Sequence[Cell], style: str | None = None) -> Text:
        whole = Text()
        for index, width in widths.items():
            text = _text(row[index], width, columns[index].style if style is None else style)
            text.truncate(width, overflow="crop" if columns[index].key else "ellipsis")
            text.align("right" if columns[index].right else "left", width)
            whole.append_text(text).append("  ")
        whole.rstrip()
        whole.truncate(room or whole.cell_len, overflow="crop")
        return whole

    return [line([column.name for column in columns], "bold"), *map(line, rows)]


def progress_columns(nouns: str, bar_width: int = 10) -> tuple[Column, ...]:
    """Make the columns of what ``progress_cells`` tells."""
    return (
        Column("PROGRESS", least=8, most=bar_width, leaves=4),
        Column("", right=True, style="bold"),
        Column(nouns.upper(), leaves=1),
        Column("FAILED", right=True, style="red", leaves=2),
        Column("STATUS"),
    )


def progress_cells(w: Workflow, nouns: str) -> tuple[Cell, ...]:
    """Tell how far a workflow is: a bar, its percentage, its tasks, the failed ones, and its status."""
    return bar(w), percentage(w), done(w, nouns), w.agents_failed or None, coloured(w.status)


def bar(workflow: Workflow) -> Callable[[int], Text]:
    """Draw the agents of a workflow in so many cells: completed, failed, cancelled and open ones, told by colour."""

    def draw(width: int) -> Text:
        w = workflow
        completed = cells(w.agents_completed, w.agents_total, width)
        # What failed and what was cancelled takes its share of the rest, so that it is seen even where it is small.
        left = width - completed if in_terminal() else 0
        failed = min(left, cells(w.agents_failed, w.agents_total, width))
        cancelled = min(left - failed, cells(w.agents_cancelled, w.agents_total, width))
        text = Text("█" * completed, style="green")
        text.append("▓" * failed, style="red").append("▒" * cancelled, style="yellow")
        return text.append("░" * (width - completed - failed - cancelled), style="dim")

    return draw


def coloured(status: str | None) -> Text:
    """Write a status in its colour."""
    return Text(clean(status), style=_STYLES.get(status or "", ""))


def below_parents(workflows: Iterable[Workflow]) -> list[tuple[int, Workflow]]:
    """Put each workflow below the one that started it, if that is there; returns them with how deep they lie."""
    given = list(workflows)
    there = {workflow.workflow_id for workflow in given}
    children = defaultdict[Key | None, list[Workflow]](list)
    for workflow in given:
        children[workflow.parent_id if workflow.parent_id in there else None].append(workflow)
    placed, left = [], [(0, workflow) for workflow in reversed(children[None])]
    while left:
        level, workflow = left.pop()
        placed.append((level, workflow))
        left += [(level + 1, child) for child in reversed(children[workflow.workflow_id])]
    return placed


def indented(workflow: Workflow, level: int) -> str:
    """Write the name of a workflow, moved in as deep as it lies."""
    return "  " * (level - 1) + ("\N{BOX DRAWINGS LIGHT UP AND RIGHT} " if level else "") + called(workflow)


def called(workflow: Workflow) -> str:
    """Name a workflow: by its id where it has no name."""
    return workflow.name or str(workflow.workflow_id)


def _text(cell: Cell, width: int = 0, style: str = "") -> Text:
    drawn = cell(width) if callable(cell) else cell
    return drawn.copy() if isinstance(drawn, Text) else Text("" if drawn is None else clean(str(drawn)), style=style)
