"""How far long work is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyapp.cli.common import say


@contextmanager
def progress_bar(what: str, total: int, unit: str = "workflows") -> Iterator[Callable[[int], None]]:
    """Show how far it is: a bar in a terminal, a line now and then elsewhere. What it yields is told each step."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        done = 0
        told = 0

        def tell(step: int) -> None:
            nonlocal done, told
            done += step
            if done * 10 // max(total, 1) > told:
                told = done * 10 // max(total, 1)
                say(f"{what}: {done} of about {total} {unit}")

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total)
        yield lambda step: display.advance(task, step)
