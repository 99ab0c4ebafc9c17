"""Waiting for the locks of tables that others use: a moment only, and again, so that nobody queues up behind us."""

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

T = TypeVar("T")
# Far less than deadlock_timeout (1 s): where a writer and we wait for each other, we are the one to step back. And
# short, since everybody else queues up behind us meanwhile.
LOCK_TIMEOUT = "100ms"
PATIENCE = 60.0
"""How long to go on trying to get locks, in seconds."""
HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def patiently(
    act: Callable[[], T],
    on_wait: Callable[[], None] = lambda: None,
    *,
    held: tuple[type[Exception], ...] = HELD,
    patience: float | None = None,
) -> T:
    """Do a transaction, again and again while others hold the locks that it needs.

    ``act`` has to set ``lock_timeout`` itself. ``on_wait`` is called once, when it has to wait. Returns what ``act``
    returns; raises the last error when the patience, in seconds (PATIENCE by default), is at its end.
    """
    give_up = time.monotonic() + (PATIENCE if patience is None else patience)
    waiting = False
    while True:
        try:
            return act()
        except held:
            if time.monotonic() > give_up:
                raise
            if not waiting:
                on_wait()
            waiting = True
            time.sleep(0.1)
