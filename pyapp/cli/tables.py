"""Tables of progress: aligned text in a pipe; in a terminal with colours, and never wider than it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyapp.cli.common import clean, in_terminal
from pyapp.cli.text import bar, coloured, done, percentage
from pyapp.models import Key, Workflow


@dataclass(frozen=True)
class Column:
    """A column of a table, and how it gives way in a narrow terminal."""

    name: str
    least: int | None = None
    """Cells that it may be cut down to; None: it is never cut."""
    most: int = 200
    """Cells that it may take."""
    leaves: int = 0
    """Order in which columns are left out, the highest first, and always where nothing is in them; 0: never."""
    last: bool = False
    """Whether others are cut first, and left out before it has less than three tenths of the room."""
    style: str = ""
    right: bool = False
    whole: bool = False
    """Whether it is whole or cut down to ``least``, without a mark: ids, whose beginning is as good, and times."""


Cell = object
"""A value, or a function that draws one in so many cells."""


def id_column(keys: Iterable[object], leaves: int = 0) -> Column:
    """Make a column of ids, which a narrow terminal cuts to what tells them apart, or leaves out if that is long."""
    written = sorted({str(key) for key in keys})
    least = 8
    for one, next_one in pairwise(written):
        while least < len(one) and one[:least] == next_one[:least]:
            least += 1
    return Column("ID", least=least, whole=True, leaves=leaves or (3 if least > 12 else 0))


def console(*, stderr: bool = False) -> Console:
    """Make what writes to the terminal; it takes nothing in the text for markup."""
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
        width = max(10, *map(len, filled))
        print("\n".join(f"{name:<{width}} {_text(value).plain}" for name, value in filled.items()))
        return
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
        cells = [_text(row[index], column.most) for row in rows]
        if any(cells) or not rows or not column.leaves:
            widths[index] = min(column.most, max(text.cell_len for text in (Text(column.name), *cells)))
    if room is not None:
        widths = _fit(columns, widths, room)

    def line(row: Sequence[Cell], style: str | None = None) -> Text:
        whole = Text()
        for index, width in widths.items():
            text = _text(row[index], width, columns[index].style if style is None else style)
            text.truncate(width, overflow="crop" if columns[index].whole else "ellipsis")
            text.align("right" if columns[index].right else "left", width)
            whole.append_text(text).append("  ")
        whole.rstrip()
        whole.truncate(room or whole.cell_len, overflow="crop")
        return whole

    return [line([column.name for column in columns], "bold"), *map(line, rows)]


def _fit(columns: Sequence[Column], wanted: Mapping[int, int], room: int) -> dict[int, int]:
    """Choose which columns stay, and how wide each of them is."""
    least = {index: min(width, columns[index].least or width) for index, width in wanted.items()}
    needed = {n: max(cut, min(wanted[n], room * 3 // 10)) if columns[n].last else cut for n, cut in least.items()}
    for index in sorted(wanted, key=lambda index: columns[index].leaves, reverse=True):
        if columns[index].leaves and sum(needed.values()) + 2 * (len(needed) - 1) > room:
            del needed[index]
    widths = {index: least[index] for index in needed}
    spare = room - sum(widths.values()) - 2 * (len(widths) - 1)
    for index in sorted(widths, key=lambda index: (columns[index].whole, not columns[index].last)):
        more = min(wanted[index] - least[index], max(spare, 0))
        if not columns[index].whole or more == wanted[index] - least[index]:
            widths[index] += more
            spare -= more
    return widths


def progress_columns(nouns: str, bar_width: int = 10) -> tuple[Column, ...]:
    """Make the columns of what ``progress_cells`` tells."""
    return (
        Column("PROGRESS", least=8, most=bar_width, leaves=4),
        Column("", right=True, style="bold"),
        Column(nouns.upper(), leaves=3),
        Column("FAILED", right=True, style="red", leaves=1),
        Column("STATUS", leaves=2),
    )


def progress_cells(w: Workflow, nouns: str) -> tuple[Cell, ...]:
    """Tell how far a workflow is: a bar, its percentage, its tasks, the failed ones, and its status."""
    return bar(w), percentage(w), done(w, nouns), w.agents_failed or None, coloured(w.status)


def print_workflows(levels: Iterable[tuple[int, Workflow]], nouns: str) -> None:
    """Print workflows, each with how deep it lies below the others."""
    given = list(levels)
    key = id_column((w.workflow_id for _, w in given), leaves=6)
    columns = (Column("WORKFLOW", least=6, last=True), *progress_columns(nouns), key)
    print_table(columns, [(indented(w, level), *progress_cells(w, nouns), w.workflow_id) for level, w in given])


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
    """Write the name of a workflow, or its id where it has none, moved in as deep as it lies."""
    corner = "\N{BOX DRAWINGS LIGHT UP AND RIGHT} " if level else ""
    return "  " * (level - 1) + corner + (workflow.name or str(workflow.workflow_id))


def _text(cell: Cell, width: int = 0, style: str = "") -> Text:
    drawn = cell(width) if callable(cell) else cell
    return drawn.copy() if isinstance(drawn, Text) else Text("" if drawn is None else clean(str(drawn)), style=style)
