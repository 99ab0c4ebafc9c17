"""Counting what was there before: in batches, while everybody goes on writing, exact from the commit of each.

Workflows that have not been counted are frozen at 'epoch': what is added to their counters is passed over. Thawing
counts a workflow while its row is locked, as repair does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, Cursor

from pyapp.adopt.pair import Pair, quote
from pyapp.adopt.render import count_relation, meaning_and_plan, tasks_relation

_BATCH_SECONDS = 0.1  # how long the rows of a batch stay locked, about
_MOST = 5000
_EXAMPLES = 20
# In turn with a writer who locks in another order, we are the one to step back.
_LOCK_TIMEOUT = "500ms"
_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

T = TypeVar("T")
OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Counted:
    """What was done: workflows looked at, how many of them were frozen as they are, and the first keys of those."""

    workflows: int
    frozen: int
    examples: Sequence[str]


def count_workflows(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows that there are, for a progress bar."""
    return int(_value(conn, f"select count(*) from {quote(*pair.workflows)}"))


def uncounted(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows that have not been counted yet."""
    if pair.columns:
        return int(
            _value(
                conn,
                f"select count(*) from {pair.counters}"
                " where progress_frozen_at = 'epoch' or (agents_created is null and progress_frozen_at is null)",
            )
        )
    return int(
        _value(
            conn,
            f"select count(*) from {quote(*pair.workflows)} as u"
            f" left join {pair.counters} as s on s.id = u.{quote(pair.key)}"
            " where s.id is null or s.progress_frozen_at = 'epoch'",
        )
    )


def backfill(conn: Connection[Any], pair: Pair, on_batch: OnBatch = lambda _: None) -> Counted:
    """Count all workflows that have not been counted, in batches, each in a transaction of its own.

    ``conn`` must be in autocommit mode. A run that is broken off is taken up where it was. ``on_batch`` is told the
    number of workflows of each batch. Finished workflows none of whose tasks was ever reported, and whose stored
    progress is 100, are frozen as they are. Returns what was done.
    """
    steps, record = _Steps(pair), f"{quote(pair.schema)}.adoption"
    position = _value(conn, f"select position from {record}")
    workflows, frozen, size = 0, list[str](), 50
    total_frozen = 0

    def batch() -> tuple[list[str], list[str]]:
        keys = steps.next_keys(conn, position, size)
        if not keys:
            conn.execute(
                f"update {record} set position = null, counted_at = now(),"
                """ definition = definition || '{"recount": false}'""".encode()
            )
            return [], []
        untold = steps.count(conn, keys)
        conn.execute(f"update {record} set position = %s".encode(), [keys[-1]])
        return keys, untold

    while True:
        began = time.monotonic()
        keys, untold = _retry(conn, batch)
        if not keys:
            return Counted(workflows, total_frozen, frozen)
        position, workflows, total_frozen = keys[-1], workflows + len(keys), total_frozen + len(untold)
        frozen += untold[: _EXAMPLES - len(frozen)]
        on_batch(len(keys))
        size = max(10, min(_MOST, int(len(keys) * _BATCH_SECONDS / max(time.monotonic() - began, 0.001))))


def publish_all(conn: Connection[Any], pair: Pair, on_batch: OnBatch = lambda _: None) -> int:
    """Write the percentage to the application's column wherever it says something else.

    In batches, as backfill; frozen workflows keep what they have. Returns how many were changed.
    """
    steps, position, changed = _Steps(pair), None, 0

    def batch() -> tuple[list[str], int]:
        keys = steps.next_keys(conn, position, 500)
        return keys, steps.publish(conn, keys) if keys else 0

    while True:
        keys, moved = _retry(conn, batch)
        if not keys:
            return changed
        position, changed = keys[-1], changed + moved
        on_batch(len(keys))


class _Steps:
    """The statements of a batch."""

    def __init__(self, pair: Pair) -> None:
        def inside(text: str) -> str:
            return text.replace("%", "%%")  # the statements have parameters

        meaning, plan = meaning_and_plan(pair, "u")
        self._pair = pair
        self._keys = f"any (%(keys)s::text[]::{pair.key_type}[])"
        self._workflows, self._counters = inside(quote(*pair.workflows)), inside(pair.counters)
        self._key, self._id = inside(f"u.{quote(pair.key)}"), inside(quote(pair.key)) if pair.columns else "id"
        self._progress = inside(f"{quote(pair.progress_column)}") if pair.progress_column else ""
        self._stored = inside(f"u.{quote(pair.progress)}") if pair.progress else "null"
        self._meaning, self._plan, self._completed = inside(meaning), inside(plan), inside(pair.workflow_completed("u"))
        self._tasks = inside(tasks_relation(pair))
        # What stands for the condition occurs in no name.
        self._count = f" where a.workflow_id = {self._keys}".join(inside(count_relation(pair, "\0")).split("\0"))
        self._formula = f"{quote(pair.schema)}.progress_percentage"

    def next_keys(self, conn: Connection[Any], after: str | None, limit: int) -> list[str]:
        where = "" if after is None else f" where {self._key} > %(after)s::text::{self._pair.key_type}"
        query = f"select {self._key}::text from {self._workflows} as u{where} order by {self._key} limit %(limit)s"
        return [row[0] for row in conn.execute(query.encode(), {"after": after, "limit": limit})]

    def count(self, conn: Connection[Any], keys: Sequence[str]) -> list[str]:
        """Count these workflows; return those that were frozen instead."""
        pair = self._pair
        if pair.recount:
            # Counters of an earlier adoption: nobody kept them since.
            self._run(
                conn,
                f"update {self._counters} set progress_frozen_at = 'epoch'"
                f" where {self._id} = {self._keys} and progress_frozen_at is null",
                keys,
            )
        untold = self._never_reported(conn, keys)
        if not pair.columns:
            self._insert(conn, keys, untold)
        # Those that have counters already: locked in the order in which everybody does, and counted once they are.
        waiting = self._run(
            conn,
            f"select {self._id}::text from {self._counters} where {self._id} = {self._keys}"
            f" and progress_frozen_at = 'epoch' order by {self._id} for no key update",
            keys,
        ).fetchall()
        if waiting:
            frozen = set(untold)
            self._freeze(conn, [key for (key,) in waiting if key in frozen])
            self._thaw(conn, [key for (key,) in waiting if key not in frozen])
        if pair.publishes:
            self.publish(conn, keys)
        return untold

    def publish(self, conn: Connection[Any], keys: Sequence[str]) -> int:
        """Write the percentage of these workflows; return how many it was new to."""
        if self._pair.columns:
            # The guard derives the number, whatever is written.
            query = (
                f"update {self._workflows} as u set {self._progress} = u.{self._progress}"
                f" where {self._key} = {self._keys}"
                f" and u.progress_frozen_at is null and u.{self._progress} is distinct from"
                f" {self._formula}(u.agents_completed, u.agents_total)"
            )
        else:
            query = (
                f"update {self._workflows} as u set {self._progress} = s.progress from {self._counters} as s"
                f" where s.id = {self._key} and {self._key} = {self._keys} and s.progress_frozen_at is null"
                f" and u.{self._progress} is distinct from s.progress"
            )
        return self._run(conn, query, keys).rowcount

    def _run(self, conn: Connection[Any], query: str, keys: Sequence[str]) -> Cursor[Any]:
        return conn.execute(query.encode(), {"keys": list(keys)})

    def _never_reported(self, conn: Connection[Any], keys: Sequence[str]) -> list[str]:
        pair = self._pair
        if pair.progress is None or pair.workflow_status is None or not pair.workflow_status.completed:
            return []
        rows = self._run(
            conn,
            f"select {self._key}::text from {self._workflows} as u"
            f" left join {self._counters} as s on s.{self._id} = {self._key}"
            f" where {self._key} = {self._keys} and {self._completed} and {self._stored} >= 100"
            f" and (s.{self._id} is null or s.progress_frozen_at = 'epoch')"
            f" and not exists (select from {self._tasks} as a"
            f" where a.workflow_id = {self._key} and a.status <> 'pending')",
            keys,
        )
        return [row[0] for row in rows]

    def _insert(self, conn: Connection[Any], keys: Sequence[str], untold: Sequence[str]) -> None:
        """Insert the counters of those that have none, counted in the same statement.

        Exact while others write: who has changed a task of one of these workflows either found no counters and inserted
        them, and then ours give way; or finds ours, which cannot have seen the change, waits for them and adds it.
        """
        into = f"insert into {self._counters} (id, status, agents_planned"
        values = f"select {self._key}, {self._meaning}, {self._plan}"
        if untold:
            self._run(
                conn,
                f"{into}, progress_frozen_at) {values}, now() from {self._workflows} as u"
                f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing",
                untold,
            )
        names = ("created", "completed", "failed", "cancelled")
        self._run(
            conn,
            f"{into}, {', '.join(f'agents_{name}' for name in names)})"
            f" {values}, {', '.join(f'coalesce(g.{name}, 0)' for name in names)} from {self._workflows} as u"
            f" left join ({self._count}) as g on g.workflow_id = {self._key}"
            f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing",
            keys,
        )

    def _freeze(self, conn: Connection[Any], keys: Sequence[str]) -> None:
        self._run(conn, f"update {self._counters} set progress_frozen_at = now() where {self._id} = {self._keys}", keys)

    def _thaw(self, conn: Connection[Any], keys: Sequence[str]) -> None:
        if self._pair.columns:
            query = f"update {self._counters} set progress_frozen_at = null where {self._id} = {self._keys}"
        else:
            query = (
                f"update {self._counters} as s set progress_frozen_at = null, status = {self._meaning},"
                f" agents_planned = coalesce({self._plan}, s.agents_planned)"
                f" from {self._workflows} as u where {self._key} = s.id and s.id = {self._keys}"
            )
        self._run(conn, query, keys)


def _retry(conn: Connection[Any], act: Callable[[], T]) -> T:
    """Act in a transaction, again where others had to go first."""
    while True:
        try:
            with conn.transaction():
                # A batch counts with a new snapshot what it has locked.
                conn.execute("set transaction isolation level read committed")
                conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                return act()
        except _RETRIED:
            time.sleep(0.05)


def _value(conn: Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
