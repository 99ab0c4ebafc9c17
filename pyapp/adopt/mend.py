"""Mending what was miscounted while something was missing: what adopt does when it is run again."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import Connection

from pyapp.adopt.backfill import OnBatch, follow_all
from pyapp.adopt.pair import Pair
from pyapp.adopt.source import find_source
from pyapp.progress import find_drift
from pyapp.tasks import repair


def mend(conn: Connection[Any], pair: Pair, on_batch: OnBatch = lambda _: None) -> int:
    """Recount the workflows whose numbers are wrong, each in a transaction of its own; return how many there were.

    ``conn`` must be in autocommit mode. Raises AdoptError.
    """
    follow_all(conn, pair, on_batch)
    source, mended = find_source(conn, pair.name), 0
    for wrong in find_drift(conn, source=source):
        while True:
            try:
                mended += len(repair(conn, wrong.workflow_id, source=source))
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                continue  # the other one went first; now it is our turn
            except LookupError:
                pass  # deleted meanwhile
            break
    return mended
