"""What long work shows on stderr: a bar or a clock in a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyapp.cli.common import say

PAUSE = 2.0
"""Seconds between two lines, where there is no terminal."""


@contextmanager
def at_work(message: str, total: int | None = None, unit: str = "workflows") -> Iterator[Callable[[int], None]]:
    """Show that work is under way and, with ``total``, how far; what this yields is told each step."""
    if not sys.stderr.isatty():
        with _lines(message, total, unit) as advance:
            yield advance
        return
    from rich import progress

    from pyapp.cli.tables import console

    clock: tuple[progress.ProgressColumn, ...] = (progress.TimeElapsedColumn(),)
    if total is not None:
        clock = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    shown = (progress.SpinnerColumn(), progress.TextColumn("{task.description}"), *clock)
    with progress.Progress(*shown, console=console(stderr=True), transient=True) as display:
        task = display.add_task(message, total=total)
        yield lambda step: display.advance(task, step)


@contextmanager
def _lines(message: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    began, ended, done = time.monotonic(), threading.Event(), 0

    def advance(step: int) -> None:
        nonlocal done
        done += step

    def tell() -> None:
        while not ended.wait(PAUSE):
            far = "" if total is None else f"{done} of about {total} {unit}, "
            say(f"{message}: {far}{time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()
