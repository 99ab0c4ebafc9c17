"""Archiving workflows that ended long ago: their numbers are frozen, and then the rows of their tasks removed.

In batches, each a transaction of its own: the tasks are locked first, then their workflows, as everybody does; the
workflows are looked at again, frozen, and only then do the tasks go. So the state of an archive that was broken off is
in the rows themselves: what is frozen keeps its numbers, and tasks that are left go with the next run.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from pyapp.locks import HELD, LOCK_TIMEOUT
from pyapp.models import SETTLED

OnBatch = Callable[[int], None]

_BATCH_SECONDS = 0.5  # how long the rows of a batch stay locked, about
_FIRST_BATCH, _LARGEST_BATCH = 500, 20_000  # tasks
_WORKFLOWS = 500  # of a batch, at most
_TRIES, _PAUSE = 5, 0.5
_LENGTH = re.compile(r"\s*(P[\dYMWDTHS.]+|((\d+(\.\d+)?\s*[A-Za-z]+|\d+:\d\d(:\d\d)?)[\s,]*)+)")
_ENDED = (
    "w.status = any (%(statuses)s::public.workflow_status[]) and coalesce(w.completed_at, w.updated_at) < %(before)s"
)
_WAITING = f"""
    select w.id, w.agents_created
    from public.workflow as w
    -- Not exists (), for which all tasks might be read.
    cross join lateral (select from public.agent_task as a where a.workflow_id = w.id limit 1) as t
    where
        {_ENDED}
        and (%(after)s::uuid is null or w.id > %(after)s::uuid)
    order by w.id
    limit %(limit)s
"""
_COUNT = f"""
    select count(*), coalesce(sum(t.tasks), 0)
    from public.workflow as w
    cross join lateral (select count(*) as tasks from public.agent_task as a where a.workflow_id = w.id) as t
    where {_ENDED} and t.tasks > 0
"""
# By workflow, which names a partition where there are any; and of a large one so many at a time.
_TASKS = "t.workflow_id = any (%(workflows)s)"
_SOME = """t.id = any (array(
    select a.id from public.agent_task as a where a.workflow_id = any (%(workflows)s) limit %(limit)s
))"""
_LOCK_TASKS = "select t.id, t.workflow_id from public.agent_task as t where {} order by t.id for update"
_LOCK_WORKFLOWS = f"select w.id from public.workflow as w where w.id = any (%(workflows)s) and {_ENDED}"
_LOCK_WORKFLOWS += " order by w.id for no key update"
_FREEZE = """
    update public.workflow set progress_frozen_at = now()
    where id = any (%(workflows)s) and progress_frozen_at is null
    returning id
"""
_RECORD = """
    insert into public.workflow_event (workflow_id, event_type, payload, trace_id)
    select
        w.id,
        'archived',
        jsonb_build_object(
            'tasks', w.agents_created,
            'by', coalesce(nullif(current_setting('role'), 'none'), session_user)
        ),
        w.trace_id
    from public.workflow as w
    where w.id = any (%(workflows)s)
"""
_REMOVE = f"delete from public.agent_task as t where {_TASKS}"


class ArchiveError(Exception):
    """Nothing can be archived as it was asked for; the message says why, in one line."""


@dataclass(frozen=True)
class Archived:
    """What was done, or would be: workflows, tasks, and how many workflows were left alone, as others use them."""

    workflows: int
    tasks: int
    in_use: int = 0


def moment(conn: Connection[Any], older_than: str) -> datetime:
    """Find the moment before which workflows must have ended. Raises ArchiveError for an interval without sense."""
    wrong = f"--older-than {older_than!r} is no length of time: 90d, 12h, 2w, or an interval of PostgreSQL"
    # Told here: some versions of PostgreSQL read 'd90' as no time at all.
    if not _LENGTH.fullmatch(older_than):
        raise ArchiveError(wrong)
    query = "select now(), now() - %s::interval"
    try:
        with conn.transaction():
            row = conn.cursor(row_factory=tuple_row).execute(query, [older_than]).fetchone()
    except (psycopg.DataError, psycopg.errors.SyntaxError) as error:  # also of a year that no timestamp holds
        raise ArchiveError(wrong) from error
    assert row is not None, "select gave no row"
    now: datetime = row[0]
    before: datetime = row[1]
    if before > now:
        raise ArchiveError(f"--older-than {older_than!r} is negative")
    return before


def foresee(conn: Connection[Any], before: datetime, statuses: Sequence[str]) -> Archived:
    """Count the workflows that would be archived, and the tasks that would be removed."""
    values = {"before": before, "statuses": _known(statuses)}
    row = conn.cursor(row_factory=tuple_row).execute(_COUNT, values).fetchone()
    return Archived(row[0], int(row[1])) if row else Archived(0, 0)


class Archive:
    """Freezes workflows that have ended and removes their tasks; says in its attributes what it has done so far."""

    def __init__(self, before: datetime, statuses: Sequence[str], on_batch: OnBatch = lambda _: None) -> None:
        """Prepare for the workflows that ended before a moment with one of these statuses.

        ``on_batch`` is told the number of tasks of each batch.
        """
        self.on_batch = on_batch
        self.ended = {"before": before, "statuses": _known(statuses)}
        self.workflows, self.tasks = set[UUID](), 0
        self.in_use = list[UUID]()
        self._size = _FIRST_BATCH

    @property
    def done(self) -> Archived:
        """Tell the numbers."""
        return Archived(len(self.workflows), self.tasks, len(self.in_use))

    def run(self, conn: Connection[Any]) -> None:
        """Do it. ``conn`` must be in autocommit mode; a run that was broken off is taken up where it was.

        Workflows whose rows others hold are tried again at the end, and then left alone: ``in_use``.
        """
        self.in_use, after = [], None
        while rows := self._waiting(conn, after):
            after = rows[-1][0]
            # As many workflows as have the tasks of a batch, and at least one.
            taken, tasks = list[UUID](), 0
            for key, created in rows:
                if taken and tasks + created > self._size:
                    self.in_use += self._empty(conn, taken)
                    taken, tasks = [], 0
                taken.append(key)
                tasks += created
            self.in_use += self._empty(conn, taken)
        for _ in range(_TRIES):
            if self.in_use:
                time.sleep(_PAUSE)
                self.in_use = [key for one in self.in_use for key in self._empty(conn, [one])]

    def _waiting(self, conn: Connection[Any], after: UUID | None) -> list[Any]:
        """Read the next workflows that have ended and still have tasks."""
        values = {**self.ended, "after": after, "limit": _WORKFLOWS}
        return conn.cursor(row_factory=tuple_row).execute(_WAITING, values).fetchall()

    def _empty(self, conn: Connection[Any], keys: list[UUID]) -> list[UUID]:
        """Archive these workflows; where others use one, each by itself. Returns those that are in use."""
        while True:
            began = time.monotonic()
            try:
                removed = self._batch(conn, keys)
            except (*HELD, psycopg.errors.SerializationFailure):
                if len(keys) == 1:
                    return keys
                return [key for one in keys for key in self._empty(conn, [one])]
            if not removed:
                return []
            self.on_batch(removed)
            if removed > self._size // 2:
                pace = removed * _BATCH_SECONDS / max(time.monotonic() - began, 0.001)
                self._size = max(100, min(_LARGEST_BATCH, int(pace)))

    def _batch(self, conn: Connection[Any], keys: list[UUID]) -> int:
        """Freeze these workflows and remove a batch of their tasks; returns how many were removed."""
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute("set transaction isolation level read committed, read write")
            cursor.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
            which = _TASKS if len(keys) > 1 else f"{_TASKS} and {_SOME}"
            values = {"workflows": keys, "limit": self._size}
            tasks = cursor.execute(_LOCK_TASKS.format(which).encode(), values).fetchall()
            # Some may have been opened again since.
            found = {"workflows": list({row[1] for row in tasks}), **self.ended}
            ended = [row[0] for row in cursor.execute(_LOCK_WORKFLOWS, found).fetchall()]
            frozen = [row[0] for row in cursor.execute(_FREEZE, {"workflows": ended}).fetchall()]
            cursor.execute(_RECORD, {"workflows": frozen})
            which = "" if len(keys) > 1 else " and t.id = any (%(tasks)s)"
            values = {"workflows": ended, "tasks": [row[0] for row in tasks]}
            removed = cursor.execute(f"{_REMOVE}{which}".encode(), values).rowcount
        self.workflows.update(ended)
        self.tasks += removed
        return removed


def _known(statuses: Sequence[str]) -> list[str]:
    """Refuse statuses of workflows that have not ended."""
    if unknown := [status for status in statuses if status not in SETTLED]:
        raise ArchiveError(f"{unknown[0]} is not a status of a workflow that has ended")
    return list(statuses)
