"""File locks. The kernel drops them with their last holder, so a killed process never leaves one behind."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyapp.embedded.account import Account
from pyapp.embedded.error import EmbeddedError

PATIENCE = 150.0
"""Seconds to wait for another process to finish starting or stopping: longer than either may take."""


def open_lock(path: Path, account: Account | None) -> int:
    """Open a lock file, made where missing and given to the account; return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if account is not None and os.geteuid() == 0:
        os.fchown(descriptor, account.uid, account.gid)
    return descriptor


def try_lock(descriptor: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Take a lock if it is free; return whether it is ours now."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, doing: str, account: Account | None) -> Iterator[int]:
    """Hold a lock alone, waiting for it, and yield its descriptor; EmbeddedError when it stays taken."""
    descriptor = open_lock(path, account)
    try:
        deadline = time.monotonic() + PATIENCE
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"another process has been {doing} for {PATIENCE:.0f} s ({path}): end it and try again"
                )
            time.sleep(0.02)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path, account: Account | None) -> bool:
    """Return whether some process holds the lock."""
    descriptor = open_lock(path, account)
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)
