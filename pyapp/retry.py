"""Doing a transaction again that PostgreSQL broke off in favour of another."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

T = TypeVar("T")
BROKEN_OFF = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
"""What a client answers by doing the same again: SQLSTATE 40P01 and 40001; a standby's conflict with recovery too."""
_LONGEST = 1.0  # seconds between two tries, at most


def retry(transaction: Callable[[], T], *, tries: int = 10) -> T:
    """Do a transaction, and again where PostgreSQL broke it off in favour of another (40P01, 40001).

    ``transaction`` has to begin and end it: a helper on a connection with autocommit, or a function that does its work
    in ``with conn.transaction():`` or on a connection of its own. On a standby, what reads is broken off so as well, in
    favour of what is replayed. Between two tries it waits a random while, longer each time. Returns what
    ``transaction`` returns. Raises what it raises; the last time also those two errors.
    """
    for attempt in range(tries - 1):
        try:
            return transaction()
        except BROKEN_OFF:
            time.sleep(random.uniform(0, min(_LONGEST, 0.005 * 2**attempt)))  # noqa: S311 (no secret)
    return transaction()
