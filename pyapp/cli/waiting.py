"""What long work shows on stderr, where that is a terminal: a bar, or a clock."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def at_work(message: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show that work is under way and, with ``total``, how far; what this yields is told each step."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.table import Column

    from pyapp.cli.tables import console

    clock: tuple[progress.ProgressColumn, ...] = (progress.TimeElapsedColumn(),)
    if total is not None:
        clock = (progress.BarColumn(bar_width=12), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    message_column = progress.TextColumn("{task.description}", table_column=Column())  # it wraps, the clock does not
    shown = (progress.SpinnerColumn(), message_column, *clock)
    with progress.Progress(*shown, console=console(stderr=True), transient=True) as display:
        task = display.add_task(message, total=total)
        yield lambda step: display.advance(task, step)
