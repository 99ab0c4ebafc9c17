"""Following progress live."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import LiteralString

import psycopg
from psycopg.rows import TupleRow

from pyapp.db import connect
from pyapp.models import Key, Workflow, WorkflowNotFound
from pyapp.progress import get_workflows, list_workflows
from pyapp.retry import retry
from pyapp.source import OWN, Source

CHANNEL = "agent_progress"
"""Where ``agent-progress notify on`` tells of changes."""
NOTIFIES: LiteralString = (
    "select not pg_is_in_recovery() and exists (select from pg_catalog.pg_trigger where tgname = 'workflow_notify'"
    " and tgrelid = to_regclass('public.workflow') and tgenabled in ('O', 'A'))"
)
"""Whether it does so here; a standby cannot listen."""
_MOST = 50
_RETRY = 0.5  # seconds between attempts to connect
_GATHER = 0.05  # seconds to gather notifications in, so that a busy database does not set the pace


def watch(
    dsn: str | None = None,
    workflow_ids: Sequence[Key] | None = None,
    interval: float = 0.5,
    *,
    source: Source = OWN,
) -> Iterator[Workflow]:
    """Follow workflows: yield each as it is now, and again whenever something of it changes.

    Polls by primary key every ``interval`` seconds, which works behind poolers and on read replicas; where
    ``agent-progress notify`` is on, it looks at once when it is told. Connects again when the connection is lost. Ends
    when each of the workflows given is completed, failed, cancelled or deleted; without ``workflow_ids`` it follows the
    50 newest active ones and does not end. Raises WorkflowNotFound, and ``psycopg.OperationalError`` if the database
    cannot be reached at first.
    """
    for changes in watch_changes(dsn, workflow_ids, interval, source=source):
        yield from changes


def watch_changes(
    dsn: str | None,
    workflow_ids: Sequence[Key] | None,
    interval: float,
    on_poll: Callable[[psycopg.Connection[TupleRow], list[Workflow]], None] = lambda _conn, _workflows: None,
    on_loss: Callable[[psycopg.Error | None], None] = lambda _: None,
    *,
    source: Source = OWN,
) -> Iterator[list[Workflow]]:
    """Follow workflows as watch does, but yield what each poll found changed, which may be nothing.

    ``on_poll`` is called before that with the connection and all workflows that are followed, to read more of them.
    ``on_loss`` is told why the database cannot be read, and None when it can be again.
    """
    first = connect(dsn, autocommit=True)
    conn: psycopg.Connection[TupleRow] | None = first
    listens = _listen(first, source)
    seen: dict[Key, Workflow] = {}
    away = False
    try:
        if workflow_ids is not None:
            for workflow_id in workflow_ids:
                if not get_workflows(first, [workflow_id], source=source):
                    raise WorkflowNotFound(workflow_id)
        while True:
            try:
                if conn is None:
                    conn = connect(dsn, autocommit=True)
                    listens = _listen(conn, source)
                # On a standby, replaying may break off what reads.
                now = retry(partial(_look, conn, workflow_ids, seen, source, on_poll))
            except psycopg.OperationalError as error:
                # The server restarts, or a failover is under way: what changed meanwhile is seen after it.
                if conn is not None:
                    conn.close()
                conn = None
                if not away:
                    on_loss(error)
                away = True
                yield []
                time.sleep(_RETRY)
                continue
            if away:
                on_loss(None)
                away = False
            changes = [workflow for workflow in now if seen.get(workflow.workflow_id) != workflow]
            seen = {workflow.workflow_id: workflow for workflow in now}
            yield changes
            if workflow_ids is not None and not any(_is_active(workflow, source) for workflow in now):
                return
            if listens:
                with suppress(psycopg.OperationalError):  # the next poll finds out
                    any(True for _ in conn.notifies(timeout=interval, stop_after=1))
                    time.sleep(min(interval, _GATHER))
            else:
                time.sleep(interval)
    finally:
        if conn is not None:
            conn.close()


def _listen(conn: psycopg.Connection[TupleRow], source: Source) -> bool:
    """Listen where notifications are on; return whether they are."""
    listens = source is OWN and conn.execute(NOTIFIES).fetchone() == (True,)
    if listens:
        conn.execute(f"listen {CHANNEL}")
    return listens


def _poll(
    conn: psycopg.Connection[TupleRow],
    workflow_ids: Sequence[Key] | None,
    seen: dict[Key, Workflow],
    source: Source,
) -> list[Workflow]:
    if workflow_ids is not None:
        return get_workflows(conn, workflow_ids, source=source)
    newest = list_workflows(conn, status=source.active, limit=_MOST, source=source)
    active = [workflow for workflow in newest if _is_active(workflow, source)]
    ids = {workflow.workflow_id for workflow in active}
    # Those that were active a moment ago: their end is worth telling.
    ended = [old.workflow_id for old in seen.values() if _is_active(old, source) and old.workflow_id not in ids]
    return active + (get_workflows(conn, ended, source=source) if ended else [])


def _look(
    conn: psycopg.Connection[TupleRow],
    workflow_ids: Sequence[Key] | None,
    seen: dict[Key, Workflow],
    source: Source,
    on_poll: Callable[[psycopg.Connection[TupleRow], list[Workflow]], None],
) -> list[Workflow]:
    now = _poll(conn, workflow_ids, seen, source)
    on_poll(conn, now)
    return now


def _is_active(workflow: Workflow, source: Source) -> bool:
    return (workflow.status or "").lower() not in source.settled
