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
from psycopg import Connection

from pyapp.adopt.pair import Pair, quote
from pyapp.adopt.render import meaning_and_plan, tasks_relation

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
        return int(_value(conn, f"select count(*) from {pair.counters} where progress_frozen_at = 'epoch'"))
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
            conn.execute(f"update {record} set position = null, counted_at = now()".encode())
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
        self._pair = pair
        self._workflows, self._key = quote(*pair.workflows), f"u.{quote(pair.key)}"
        self._id = quote(pair.key) if pair.columns else "id"
        self._keys = f"any (%(keys)s::text[]::{pair.key_type}[])"

    def next_keys(self, conn: Connection[Any], after: str | None, limit: int) -> list[str]:
        where = "" if after is None else f" where {self._key} > %(after)s::text::{self._pair.key_type}"
        query = f"select {self._key}::text from {self._workflows} as u{where} order by {self._key} limit %(limit)s"
        return [row[0] for row in conn.execute(query.encode(), {"after": after, "limit": limit})]

    def count(self, conn: Connection[Any], keys: Sequence[str]) -> list[str]:
        """Count these workflows; return those that were frozen instead."""
        pair = self._pair
        # In the order in which everybody locks: the workflow, whose status and plan stand still then, and its counters.
        locked = conn.execute(
            f"select {self._key}::text from {self._workflows} as u where {self._key} = {self._keys}"
            f" order by {self._key} for no key update".encode(),
            {"keys": list(keys)},
        )
        keys = [row[0] for row in locked]
        given = {"keys": keys}
        if not pair.columns:
            meaning, plan = meaning_and_plan(pair, "u")
            conn.execute(
                f"insert into {pair.counters} as s (id, status, agents_planned, progress_frozen_at)"
                f" select {self._key}, {meaning}, {plan}, 'epoch'"
                f" from {self._workflows} as u where {self._key} = {self._keys}"
                f" order by {self._key} on conflict (id) do update set status = excluded.status,"
                " agents_planned = coalesce(excluded.agents_planned, s.agents_planned)"
                " where s.progress_frozen_at = 'epoch'".encode(),
                given,
            )
        if pair.columns and pair.recount:
            # Counters of an earlier adoption: nobody kept them since.
            conn.execute(
                f"update {pair.counters} set progress_frozen_at = 'epoch'"
                f" where {self._id} = {self._keys} and progress_frozen_at is null".encode(),
                given,
            )
        untold = self._never_reported(conn, keys)
        if untold:
            conn.execute(
                f"update {pair.counters} set progress_frozen_at = now() where {self._id} = {self._keys}".encode(),
                {"keys": untold},
            )
        conn.execute(
            f"update {pair.counters} set progress_frozen_at = null"
            f" where {self._id} = {self._keys} and progress_frozen_at = 'epoch'".encode(),
            given,
        )
        return untold

    def _never_reported(self, conn: Connection[Any], keys: Sequence[str]) -> list[str]:
        pair = self._pair
        if pair.progress is None or pair.workflow_status is None or not pair.workflow_status.completed:
            return []
        query = (
            f"select {self._key}::text from {self._workflows} as u"
            f" join {pair.counters} as s on s.{self._id} = {self._key} and s.progress_frozen_at = 'epoch'"
            f" where {self._key} = {self._keys} and {pair.workflow_completed('u')} and u.{quote(pair.progress)} >= 100"
            f" and not exists (select from {tasks_relation(pair)} as a"
            f" where a.workflow_id = {self._key} and a.status <> 'pending')"
        )
        return [row[0] for row in conn.execute(query.encode(), {"keys": list(keys)})]

    def publish(self, conn: Connection[Any], keys: Sequence[str]) -> int:
        """Write the percentage of these workflows; return how many it was new to."""
        pair = self._pair
        progress = quote(pair.progress_column or "")
        if pair.columns:
            # The guard derives the number, whatever is written.
            query = (
                f"update {self._workflows} as u set {progress} = u.{progress} where {self._key} = {self._keys}"
                f" and u.progress_frozen_at is null and u.{progress} is distinct from"
                f" {quote(pair.schema)}.progress_percentage(u.agents_completed, u.agents_total)"
            )
        else:
            query = (
                f"update {self._workflows} as u set {progress} = s.progress from {pair.counters} as s"
                f" where s.id = {self._key} and {self._key} = {self._keys} and s.progress_frozen_at is null"
                f" and u.{progress} is distinct from s.progress"
            )
        return conn.execute(query.encode(), {"keys": list(keys)}).rowcount


def _retry(conn: Connection[Any], act: Callable[[], T]) -> T:
    """Act in a transaction, again where others had to go first."""
    while True:
        try:
            with conn.transaction():
                conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
                return act()
        except _RETRIED:
            time.sleep(0.05)


def _value(conn: Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
