"""Following progress live."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from hashlib import md5
from typing import Any

import psycopg
from psycopg import Connection, sql

from pyapp.db import connect, find_schema, retry
from pyapp.drive import Query, Statement, is_pooled, run
from pyapp.errors import WorkflowNotFound
from pyapp.models import SETTLED, Key, Workflow
from pyapp.queries import get_tree, get_workflows, list_workflows

ACTIVE = ("initiated", "running", "paused")
"""Statuses of a workflow that has not ended."""
GATHER = 0.05  # seconds to gather notifications before reading, so that a busy database is not read all the time
RECONNECT = 0.5  # seconds between attempts to connect
_MOST = 50  # workflows followed, where none are named
_NOTIFIES = """
    select not pg_is_in_recovery() and exists (
        select from pg_catalog.pg_trigger
        where
            tgname = 'workflow_notify'
            and tgrelid = to_regclass(format('%%I.workflow', %s::text))
            and tgenabled in ('O', 'A')
    )
"""


def channel(schema: str | None = None) -> str:
    """Name the channel on which a schema notifies of changes, after ``agent-progress notify on``."""
    name = find_schema(schema).encode()
    if name == b"public":
        return "agent_progress"
    # A channel has at most 63 bytes.
    return "agent_progress_" + (name.decode() if len(name) <= 48 else md5(name, usedforsecurity=False).hexdigest())


def notifies(schema: str | None = None) -> Query[bool]:
    """Tell whether the database notifies of changes and can be listened to: not on a standby, nor behind a pooler."""
    [(found,)] = yield Statement(_NOTIFIES, [find_schema(schema)])
    return bool(found) and not (yield from is_pooled())


def listen(schema: str | None) -> sql.Composed:
    """Write the statement that listens to the changes in a schema."""
    return sql.SQL("listen {}").format(sql.Identifier(channel(schema)))


def is_active(workflow: Workflow) -> bool:
    """Tell whether a workflow has not ended."""
    return workflow.status not in SETTLED


class Follower:
    """What was last read of the workflows that are followed, and what to read next; does no I/O itself."""

    def __init__(self, workflow_ids: Sequence[Key] | None, schema: str | None, below: bool = False) -> None:
        """Follow these workflows, or the newest active ones that none started; ``below``: also what they started."""
        self._ids, self._schema, self._below = workflow_ids, schema, below
        self._seen: dict[Key, Workflow] = {}

    def require_all(self) -> Query[None]:
        """Raise WorkflowNotFound where one of the workflows is not there."""
        for workflow_id in self._ids or ():
            if not (yield from get_workflows([workflow_id], schema=self._schema)):
                raise WorkflowNotFound(workflow_id)

    def look(self) -> Query[list[Workflow]]:
        """Read the workflows as they are now."""
        if self._ids is not None:
            return (yield from self._look_at(self._ids))
        active = yield from list_workflows(status=ACTIVE, roots=not self._below, limit=_MOST, schema=self._schema)
        ids = {workflow.workflow_id for workflow in active}
        # Also those that ended since the last look, so that their end is yielded.
        ended = [old.workflow_id for old in self._seen.values() if is_active(old) and old.workflow_id not in ids]
        return active + ((yield from get_workflows(ended, schema=self._schema)) if ended else [])

    def _look_at(self, workflow_ids: Sequence[Key]) -> Query[list[Workflow]]:
        if not self._below:
            return (yield from get_workflows(workflow_ids, schema=self._schema))
        found: dict[Key, Workflow] = {}
        for workflow_id in workflow_ids:
            with suppress(WorkflowNotFound):  # deleted meanwhile
                nodes = yield from get_tree(workflow_id, schema=self._schema)
                found |= {node.workflow_id: node for node in nodes}
        return list(found.values())

    def changes(self, now: list[Workflow]) -> list[Workflow]:
        """Remember what was read; returns the workflows that are new or changed."""
        changed = [workflow for workflow in now if self._seen.get(workflow.workflow_id) != workflow]
        self._seen = {workflow.workflow_id: workflow for workflow in now}
        return changed

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to follow."""
        return self._ids is not None and not any(map(is_active, self._seen.values()))


def watch(
    dsn: str | None = None,
    workflow_ids: Sequence[Key] | None = None,
    interval: float = 0.5,
    *,
    below: bool = False,
    schema: str | None = None,
    prepare: bool | None = None,
) -> Generator[Workflow, None, None]:
    """Follow workflows: yield each as it is now, and again whenever something of it changes.

    Polls by primary key every ``interval`` seconds, which works behind poolers and on read replicas; where
    ``agent-progress notify`` is on, it reads at once when notified. Connects again when the connection is lost. Ends
    when each of the workflows given is completed, failed, cancelled or deleted; without ``workflow_ids`` it follows the
    50 newest active ones that no other workflow started, and does not end. With ``below`` it follows all that is below
    the workflows given as well, or the newest active ones wherever in a tree they are. Raises WorkflowNotFound, and
    ``psycopg.OperationalError`` if the database cannot be reached at first.
    """
    for changes in watch_changes(dsn, workflow_ids, interval, below=below, schema=schema, prepare=prepare):
        yield from changes


def watch_changes(
    dsn: str | None,
    workflow_ids: Sequence[Key] | None,
    interval: float,
    on_poll: Callable[[Connection[Any], list[Workflow]], None] = lambda _conn, _workflows: None,
    on_loss: Callable[[psycopg.Error | None], None] = lambda _: None,
    *,
    below: bool = False,
    schema: str | None = None,
    prepare: bool | None = None,
) -> Generator[list[Workflow], None, None]:
    """Follow workflows as watch does, but yield what each poll found changed, which may be nothing.

    Before each yield ``on_poll`` is called with the connection and all workflows that are followed, to read more about
    them. ``on_loss`` is called with the error when the database cannot be read, and with None when it can be again.
    """
    follower = Follower(workflow_ids, schema, below)
    away = False

    def look(conn: Connection[Any]) -> list[Workflow]:
        workflows = run(conn, follower.look())
        on_poll(conn, workflows)
        return workflows

    conn = connect(dsn, prepare=prepare, autocommit=True)
    try:
        listens = _listen(conn, schema)
        run(conn, follower.require_all())
        while True:
            try:
                if conn.closed:
                    conn = connect(dsn, prepare=prepare, autocommit=True)
                    listens = _listen(conn, schema)
                # On a standby, replaying may interrupt what reads.
                now = retry(lambda: look(conn))  # noqa: B023 (called at once)
            except psycopg.OperationalError as error:
                # The server restarts, or a failover is under way: what changed meanwhile is seen after it.
                conn.close()
                if not away:
                    on_loss(error)
                away = True
                yield []
                time.sleep(RECONNECT)
                continue
            if away:
                on_loss(None)
                away = False
            yield follower.changes(now)
            if follower.ended:
                return
            if listens:
                with suppress(psycopg.OperationalError):  # the next poll finds out
                    any(True for _ in conn.notifies(timeout=interval, stop_after=1))
                    time.sleep(min(interval, GATHER))
            else:
                time.sleep(interval)
    finally:
        conn.close()


def _listen(conn: Connection[Any], schema: str | None) -> bool:
    """Listen where notifications are on; return whether they are."""
    listens = run(conn, notifies(schema))
    if listens:
        conn.execute(listen(schema))
    return listens
