"""Following progress live."""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from hashlib import md5
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection, sql

from pyapp.both import Conn, Statement, complete, fetch, hear, maybe_await
from pyapp.db import Session, find_schema, is_pooled, try_again
from pyapp.errors import WorkflowNotFound
from pyapp.models import SETTLED, Key, Workflow
from pyapp.reading import get_tree, get_workflow, get_workflows, list_workflows

ACTIVE = ("initiated", "running", "paused")
"""Statuses of a workflow that has not ended."""
_GATHER = 0.05  # seconds to gather notifications before reading, so that a busy database is not read all the time
_RECONNECT = 0.5  # seconds between attempts to connect
MOST = 50
"""Workflows that are followed, where none are named."""
_NOTIFIES = """
    select not pg_is_in_recovery() and exists (
        select from pg_catalog.pg_trigger
        where
            tgname = 'workflow_notify'
            and tgrelid = to_regclass(format('%%I.workflow', %s::text))
            and tgenabled in ('O', 'A')
    )
"""


OnPoll: TypeAlias = Callable[[Connection[Any], list[Workflow]], None]
OnLoss: TypeAlias = Callable[[psycopg.Error | None], None]


def channel(schema: str | None = None) -> str:
    """Name the channel on which a schema notifies of changes, after ``agent-progress notify on``."""
    name = find_schema(schema).encode()
    if name == b"public":
        return "agent_progress"
    # A channel has at most 63 bytes.
    return "agent_progress_" + (name.decode() if len(name) <= 48 else md5(name, usedforsecurity=False).hexdigest())


async def listen(conn: Conn, schema: str | None = None) -> bool:
    """Listen to the changes in a schema; returns whether that can be done: not on a standby, nor behind a pooler."""
    [(notifies,)] = await fetch(conn, Statement(_NOTIFIES, [find_schema(schema)]))
    if not notifies or await is_pooled(conn):
        return False
    await maybe_await(conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel(schema)))))
    return True


def _is_active(workflow: Workflow) -> bool:
    return workflow.status not in SETTLED


class Follower:
    """Follows workflows over a connection of either kind: ``poll`` and ``wait`` in turn, until they have ``ended``."""

    def __init__(
        self,
        session: Session,
        workflow_ids: Sequence[Key] | None,
        interval: float,
        below: bool,
        schema: str | None,
        on_poll: OnPoll = lambda _conn, _workflows: None,
        on_loss: OnLoss = lambda _error: None,
    ) -> None:
        """Follow these workflows, or the active ones that none started; ``below``: also what they started."""
        self._session, self._ids, self._interval = session, workflow_ids, interval
        self._below, self._schema, self._on_poll, self._on_loss = below, schema, on_poll, on_loss
        self._seen: dict[Key, Workflow] = {}
        self._listens = self._away = False
        self.ended = False
        """Whether there is nothing left to follow."""

    async def begin(self) -> None:
        """Connect. Raises WorkflowNotFound where one of the workflows is not there."""
        await self._connect()
        for workflow_id in self._ids or ():
            await get_workflow(self._session.conn, workflow_id, schema=self._schema)

    async def _connect(self) -> None:
        await self._session.connect()
        self._listens = await listen(self._session.conn, self._schema)

    async def poll(self) -> list[Workflow]:
        """Return the workflows that are new or have changed since the last time: none while the database is away."""
        try:
            if self._session.lost:
                await self._connect()
            # On a standby, replaying may interrupt what reads.
            now: list[Workflow] = await try_again(self._look, 10, self._session.kind)
        except psycopg.OperationalError as error:
            # The server restarts, or a failover is under way: what changed meanwhile is seen after it.
            await self._session.close()
            if not self._away:
                self._on_loss(error)
            self._away = True
            return []
        if self._away:
            self._on_loss(None)
            self._away = False
        changed = [workflow for workflow in now if self._seen.get(workflow.workflow_id) != workflow]
        self._seen = {workflow.workflow_id: workflow for workflow in now}
        self.ended = self._ids is not None and not any(map(_is_active, now))
        return changed

    async def wait(self) -> None:
        """Wait until it is time for the next look."""
        if self._away:
            await self._session.pause(_RECONNECT)
        elif not self._listens:
            await self._session.pause(self._interval)
        else:
            with suppress(psycopg.OperationalError):  # the next poll finds out
                if await hear(self._session.conn, self._interval):
                    await self._session.pause(min(self._interval, _GATHER))

    async def _look(self) -> list[Workflow]:
        conn, schema = self._session.conn, self._schema
        if self._ids is None:
            workflows = await list_workflows(
                conn, status=ACTIVE, roots=not self._below, attention_first=True, limit=MOST, schema=schema
            )
            ids = {workflow.workflow_id for workflow in workflows}
            # Those that ended since the last look too, so that their end is yielded.
            ended = [old.workflow_id for old in self._seen.values() if _is_active(old) and old.workflow_id not in ids]
            left = await get_workflows(conn, ended, schema=schema) if ended else []
            workflows += [workflow for workflow in left if not _is_active(workflow)]
        elif self._below:
            found: dict[Key, Workflow] = {}
            for workflow_id in self._ids:
                with suppress(WorkflowNotFound):  # deleted meanwhile
                    nodes = await get_tree(conn, workflow_id, schema=schema)
                    found |= {node.workflow_id: node for node in nodes}
            workflows = list(found.values())
        else:
            workflows = await get_workflows(conn, self._ids, schema=schema)
        self._on_poll(conn, workflows)
        return workflows


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
    when each of the workflows given is completed, failed, cancelled or deleted; without ``workflow_ids`` it follows 50
    active ones that no other workflow started, those first that need attention, and does not end. With ``below`` it
    follows all that is below the workflows given as well, or active ones wherever in a tree they are. Raises
    WorkflowNotFound, and ``psycopg.OperationalError`` if the database cannot be reached at first.
    """
    for changes in watch_changes(dsn, workflow_ids, interval, below=below, schema=schema, prepare=prepare):
        yield from changes


def watch_changes(
    dsn: str | None,
    workflow_ids: Sequence[Key] | None,
    interval: float,
    on_poll: OnPoll = lambda _conn, _workflows: None,
    on_loss: OnLoss = lambda _error: None,
    *,
    below: bool = False,
    schema: str | None = None,
    prepare: bool | None = None,
) -> Generator[list[Workflow], None, None]:
    """Follow workflows as watch does, but yield what each poll found changed, which may be nothing.

    Before each yield ``on_poll`` is called with the connection and all workflows that are followed, to read more about
    them. ``on_loss`` is called with the error when the database cannot be read, and with None when it can be again.
    """
    session = Session(Connection, dsn, prepare)
    follower = Follower(session, workflow_ids, interval, below, schema, on_poll, on_loss)
    try:
        complete(follower.begin())
        while True:
            yield complete(follower.poll())
            if follower.ended:
                return
            complete(follower.wait())
    finally:
        complete(session.close())
