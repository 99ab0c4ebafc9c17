"""What long work shows on stderr: a bar or a clock in a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyapp.cli.common import say

PAUSE = 2.0
"""Seconds between two lines that say how long it has been, where there is no terminal."""


@contextmanager
def progress_bar(what: str, total: int, unit: str = "workflows") -> Iterator[Callable[[int], None]]:
    """Show how far work is; what this yields is told each step."""
    if not sys.stderr.isatty():
        done = 0

        def tell(step: int) -> None:
            nonlocal done
            before, done = done, done + step
            if done * 10 // max(total, 1) > before * 10 // max(total, 1):
                say(f"{what}: {done} of about {total} {unit}")

        yield tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pyapp.cli.tables import console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=total)
        yield lambda step: display.advance(task, step)


@contextmanager
def heartbeat(message: str) -> Iterator[None]:
    """Show that a long statement is under way."""
    if not sys.stderr.isatty():
        with _lines(message):
            yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from pyapp.cli.tables import console

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as display:
        display.add_task(message, total=None)
        yield


@contextmanager
def _lines(message: str) -> Iterator[None]:
    began, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(PAUSE):
            say(f"{message}: {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
