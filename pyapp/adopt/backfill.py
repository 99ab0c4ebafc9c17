"""Counting what was there before: in batches, while everybody goes on writing, exact from the commit of each.

Workflows that have not been counted are frozen at 'epoch': what is added to their counters is passed over. Thawing
counts a workflow while its row is locked, as repair does. One that somebody else has locked is passed over, and counted
once all the others are: nobody waits behind us while we wait.
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
# In turn with a writer who locks in another order, we are the one to step back; and the longer he holds it, the longer.
_LOCK_TIMEOUT = "100ms"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)

T = TypeVar("T")
OnBatch = Callable[[int], None]
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Counted:
    """What was done: workflows that had not been counted, how many were frozen as they are, and first keys of those."""

    workflows: int
    frozen: int
    examples: Sequence[str]

    def and_also(self, workflows: int, frozen: Sequence[str]) -> Counted:
        """Add a batch."""
        examples = [*self.examples, *frozen][:_EXAMPLES]
        return Counted(self.workflows + workflows, self.frozen + len(frozen), examples)


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


def backfill(
    conn: Connection[Any], pair: Pair, on_batch: OnBatch = lambda _: None, on_step: OnStep = lambda _: None
) -> Counted:
    """Count all workflows that have not been counted, in batches, each in a transaction of its own.

    ``conn`` must be in autocommit mode. A run that is broken off is taken up where it was. ``on_batch`` is told the
    number of workflows of each batch, ``on_step`` what is waited for. Finished workflows none of whose tasks was ever
    reported, and whose stored progress is 100, are frozen as they are. Returns what was done.
    """
    steps, record = _Steps(pair), f"{quote(pair.schema)}.adoption"
    position, size, pause = _value(conn, f"select position from {record}"), 50, _FIRST_PAUSE
    found, again, counted_before = Counted(0, 0, []), False, 0

    def batch() -> tuple[list[str], int, list[str]]:
        keys = steps.next_keys(conn, position, size, only_uncounted=again)
        counted, untold = steps.count(conn, keys) if keys else (0, [])
        conn.execute(f"update {record} set position = %s".encode(), [keys[-1] if keys else None])
        return keys, counted, untold

    while True:
        began = time.monotonic()
        keys, counted, untold = _retry(conn, batch)
        if keys:
            position, found = keys[-1], found.and_also(counted, untold)
            on_batch(0 if again else len(keys))
            size = max(10, min(_MOST, int(len(keys) * _BATCH_SECONDS / max(time.monotonic() - began, 0.001))))
            continue
        waiting = uncounted(conn, pair)
        if not waiting:
            done = """counted_at = now(), definition = definition || '{"recount": false}'"""
            conn.execute(f"update {record} set {done}".encode())
            return found
        if again and found.workflows == counted_before:
            on_step(f"waiting for {waiting} workflows that other transactions have locked")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        position, again, counted_before = None, True, found.workflows


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

    def next_keys(
        self, conn: Connection[Any], after: str | None, limit: int, *, only_uncounted: bool = False
    ) -> list[str]:
        conditions = [f"{self._key} > %(after)s::text::{self._pair.key_type}"] if after is not None else []
        if only_uncounted and self._pair.columns:
            unkept = "u.agents_created is null and u.progress_frozen_at is null"
            conditions.append(f"(u.progress_frozen_at = 'epoch' or {unkept})")
        elif only_uncounted:
            counted = f"s.id = {self._key} and s.progress_frozen_at is distinct from 'epoch'"
            conditions.append(f"not exists (select from {self._counters} as s where {counted})")
        where = " where " + " and ".join(conditions) if conditions else ""
        query = f"select {self._key}::text from {self._workflows} as u{where} order by {self._key} limit %(limit)s"
        return [row[0] for row in conn.execute(query.encode(), {"after": after, "limit": limit})]

    def count(self, conn: Connection[Any], keys: Sequence[str]) -> tuple[int, list[str]]:
        """Count these workflows, but for those that are locked.

        Returns how many had not been counted, and those of them that were frozen instead.
        """
        pair = self._pair
        # In the order in which everybody locks: the workflow, whose status and plan stand still then, and its counters.
        # Where all are counted again, nothing tells afterwards which have been passed over.
        locked = self._run(
            conn,
            f"select {self._key}::text from {self._workflows} as u where {self._key} = {self._keys}"
            f" order by {self._key} for no key update{'' if pair.recount else ' skip locked'}",
            keys,
        )
        keys = [key for (key,) in locked]
        if pair.columns:
            # Columns that were there before, without a value, or counters of an earlier adoption, which nobody kept.
            unkept = "" if pair.recount else " and agents_created is null"
            self._run(
                conn,
                f"update {self._counters} set progress_frozen_at = 'epoch'"
                f" where {self._id} = {self._keys} and progress_frozen_at is null{unkept}",
                keys,
            )
        inserted, untold = (0, list[str]()) if pair.columns else self._insert(conn, keys)
        # Those that have counters already: locked in the order in which everybody does, and counted once they are.
        rows = self._run(
            conn,
            f"select {self._id}::text from {self._counters} where {self._id} = {self._keys}"
            f" and progress_frozen_at = 'epoch' order by {self._id} for no key update",
            keys,
        )
        if waiting := [key for (key,) in rows]:
            frozen = self._never_reported(conn, waiting)
            self._freeze(conn, frozen)
            self._thaw(conn, list(set(waiting).difference(frozen)))
            untold += frozen
        if pair.publishes:
            self.publish(conn, keys)
        return inserted + len(waiting), untold

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

    def _insert(self, conn: Connection[Any], keys: Sequence[str]) -> tuple[int, list[str]]:
        """Insert the counters of those that have none, counted in the same statement, or frozen.

        Exact while others write: who has changed a task of one of these workflows either found no counters and inserted
        them, and then ours give way; or finds ours, which cannot have seen the change, waits for them and adds it.
        Returns how many were inserted, and those of them that were frozen.
        """
        into = f"insert into {self._counters} (id, status, agents_planned"
        values = f"select {self._key}, {self._meaning}, {self._plan}"
        untold = []
        if never := self._never_reported(conn, keys):
            frozen = self._run(
                conn,
                f"{into}, progress_frozen_at) {values}, now() from {self._workflows} as u"
                f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing"
                " returning id::text",
                never,
            )
            untold = [key for (key,) in frozen]
        names = ("created", "completed", "failed", "cancelled")
        counted = self._run(
            conn,
            f"{into}, {', '.join(f'agents_{name}' for name in names)})"
            f" {values}, {', '.join(f'coalesce(g.{name}, 0)' for name in names)} from {self._workflows} as u"
            f" left join ({self._count}) as g on g.workflow_id = {self._key}"
            f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing",
            keys,
        )
        return counted.rowcount + len(untold), untold

    def _freeze(self, conn: Connection[Any], keys: Sequence[str]) -> None:
        self._run(conn, f"update {self._counters} set progress_frozen_at = now() where {self._id} = {self._keys}", keys)

    def _thaw(self, conn: Connection[Any], keys: Sequence[str]) -> None:
        self._run(conn, f"update {self._counters} set progress_frozen_at = null where {self._id} = {self._keys}", keys)


def _retry(conn: Connection[Any], act: Callable[[], T]) -> T:
    """Act in a transaction, again where others had to go first."""
    pause = _FIRST_PAUSE
    while True:
        try:
            with conn.transaction():
                # A batch counts with a new snapshot what it has locked.
                conn.execute("set transaction isolation level read committed")
                conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                return act()
        except _RETRIED:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _value(conn: Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
