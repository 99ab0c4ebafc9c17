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
from psycopg import Connection
from psycopg.rows import TupleRow, tuple_row

from pyapp.adopt.pair import Pair, quote
from pyapp.adopt.tokens import count_relation, meaning_and_plan, tasks_relation
from pyapp.locks import HELD, LOCK_TIMEOUT

_BATCH_SECONDS = 0.1  # how long the rows of a batch stay locked, about
_MOST = 5000
_EXAMPLES = 20
# The longer a writer holds his lock, the longer we step back.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_RETRIED = (*HELD, psycopg.errors.SerializationFailure)

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

    def __add__(self, other: Counted) -> Counted:
        """Add what another run did."""
        examples = [*self.examples, *other.examples][:_EXAMPLES]
        return Counted(self.workflows + other.workflows, self.frozen + other.frozen, examples)


def count_workflows(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows that there are, for a progress bar."""
    return int(_value(conn, f"select count(*) from {quote(*pair.workflows)}"))


def unfollowed(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows whose status or plan the counters beside do not have."""
    if pair.columns:
        return 0
    meaning, plan = meaning_and_plan(pair, "u")
    return int(
        _value(
            conn,
            f"select count(*) from {pair.counters} as s"
            f" join {quote(*pair.workflows)} as u on u.{quote(pair.key)} = s.id"
            f" where (s.status, s.agents_planned) is distinct from ({meaning}, coalesce({plan}, s.agents_planned))",
        )
    )


def uncounted(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows that have not been counted yet."""
    if pair.columns:
        return int(_value(conn, f"select count(*) from {pair.counters} as u where {_uncounted('u')}"))
    return int(
        _value(
            conn,
            f"select count(*) from {quote(*pair.workflows)} as u"
            f" left join {pair.counters} as s on s.id = u.{quote(pair.key)}"
            f" where s.id is null or {_uncounted('s')}",
        )
    )


def _uncounted(row: str) -> str:
    """Write the condition under which a row of counters has not been counted."""
    return (
        f"({row}.progress_frozen_at = 'epoch' or ({row}.progress_frozen_at is null and {row}.agents_created is null))"
    )


def backfill(
    conn: Connection[Any],
    pair: Pair,
    on_batch: OnBatch = lambda _: None,
    on_step: OnStep = lambda _: None,
    on_counted: Callable[[Counted], None] = lambda _: None,
) -> Counted:
    """Count all workflows that have not been counted, in batches, each in a transaction of its own.

    ``conn`` must be in autocommit mode. A run that is broken off is taken up where it was. ``on_batch`` is told the
    number of workflows of each batch, ``on_counted`` what was done until then, ``on_step`` what is waited for. Finished
    workflows none of whose tasks was ever reported, and whose stored progress is 100, are frozen as they are. Returns
    what was done.
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
            on_counted(found)
            size = max(10, min(_MOST, int(len(keys) * _BATCH_SECONDS / max(time.monotonic() - began, 0.001))))
            continue
        if not again:
            _retry(conn, lambda: steps.sweep(conn))
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
    return _everywhere(conn, pair, _Steps(pair).publish, on_batch)


def follow_all(conn: Connection[Any], pair: Pair, on_batch: OnBatch = lambda _: None) -> int:
    """Take status and plan of each workflow over to the counters beside it, where no trigger did.

    In batches, as backfill. Returns how many were changed.
    """
    return 0 if pair.columns else _everywhere(conn, pair, _Steps(pair).follow, on_batch)


def _everywhere(
    conn: Connection[Any], pair: Pair, act: Callable[[Connection[Any], Sequence[str]], int], on_batch: OnBatch
) -> int:
    steps, position, changed = _Steps(pair), None, 0

    def batch() -> tuple[list[str], int]:
        keys = steps.next_keys(conn, position, 500)
        return keys, act(conn, keys) if keys else 0

    while True:
        keys, moved = _retry(conn, batch)
        if not keys:
            return changed
        position, changed = keys[-1], changed + moved
        on_batch(len(keys))


class _Steps:
    """The statements of a batch; their first parameter is the keys."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._workflows, self._key = quote(*pair.workflows), f"u.{quote(pair.key)}"
        self._id = quote(pair.key) if pair.columns else "id"
        self._keys = f"any ($1::text[]::{pair.key_type}[])"
        self._meaning, self._plan = meaning_and_plan(pair, "u")

    def next_keys(
        self, conn: Connection[Any], after: str | None, limit: int, *, only_uncounted: bool = False
    ) -> list[str]:
        conditions = [f"{self._key} > $2::text::{self._pair.key_type}"] if after is not None else []
        if only_uncounted and self._pair.columns:
            conditions.append(_uncounted("u"))
        elif only_uncounted:
            counters = (
                f"select from {self._pair.counters} as s where s.id = {self._key} and {_uncounted('s')} is not true"
            )
            conditions.append(f"not exists ({counters})")
        where = " where " + " and ".join(conditions) if conditions else ""
        query = f"select {self._key}::text from {self._workflows} as u{where} order by {self._key} limit $1"
        return [row[0] for row in _run(conn, query, limit, *([] if after is None else [after]))]

    def lock(self, conn: Connection[Any], keys: Sequence[str], waiting: str = "") -> list[str]:
        """Lock these workflows, as everybody does before their counters; return those that are there."""
        query = (
            f"select {self._key}::text from {self._workflows} as u where {self._key} = {self._keys}"
            f" order by {self._key} for no key update{waiting}"
        )
        return [row[0] for row in _run(conn, query, list(keys))]

    def count(self, conn: Connection[Any], keys: Sequence[str]) -> tuple[int, list[str]]:
        """Count these workflows, but for those that are locked.

        Returns how many had not been counted, and those of them that were frozen instead.
        """
        pair = self._pair
        # Status and plan stand still from now on. Where all are counted again, nothing would tell afterwards which had
        # been passed over.
        keys = self.lock(conn, keys, "" if pair.recount else " skip locked")
        # Those that could not be counted when they came; and counters of an earlier adoption, which nobody kept since.
        _run(
            conn,
            f"update {pair.counters} set progress_frozen_at = 'epoch'"
            f" where {self._id} = {self._keys} and progress_frozen_at is null"
            + ("" if pair.columns and pair.recount else " and agents_created is null"),
            keys,
        )
        inserted, untold = (0, list[str]()) if pair.columns else self._insert(conn, keys)
        # Those that have counters already: locked in the order in which everybody does, and counted once they are.
        rows = _run(
            conn,
            f"select {self._id}::text from {pair.counters} where {self._id} = {self._keys}"
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
        pair, progress = self._pair, quote(self._pair.progress_column or "")
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
        return _run(conn, query, list(keys)).rowcount

    def follow(self, conn: Connection[Any], keys: Sequence[str]) -> int:
        """Take over status and plan of these workflows; return how many were new."""
        keys = self.lock(conn, keys)
        meaning, plan = self._meaning, f"coalesce({self._plan}, s.agents_planned)"
        query = (
            f"update {self._pair.counters} as s set status = {meaning}, agents_planned = {plan}"
            f" from {self._workflows} as u where s.id = {self._key} and {self._key} = {self._keys}"
            f" and (s.status, s.agents_planned) is distinct from ({meaning}, {plan})"
        )
        return _run(conn, query, list(keys)).rowcount

    def _never_reported(self, conn: Connection[Any], keys: Sequence[str]) -> list[str]:
        pair = self._pair
        if pair.progress is None or pair.workflow_status is None or not pair.workflow_status.completed:
            return []
        query = (
            f"select {self._key}::text from {self._workflows} as u"
            f" left join {pair.counters} as s on s.{self._id} = {self._key}"
            f" where {self._key} = {self._keys} and {pair.workflow_completed('u')} and u.{quote(pair.progress)} >= 100"
            f" and (s.{self._id} is null or s.progress_frozen_at = 'epoch')"
            f" and not exists (select from {tasks_relation(pair)} as a"
            f" where a.workflow_id = {self._key} and a.status <> 'pending')"
        )
        return [row[0] for row in _run(conn, query, list(keys))]

    def _insert(self, conn: Connection[Any], keys: list[str]) -> tuple[int, list[str]]:
        """Insert the counters of those that have none, counted in the same statement, or frozen.

        Exact while others write: who has changed a task of one of these workflows either found no counters and inserted
        them, and then ours give way; or finds ours, which cannot have seen the change, waits for them and adds it.
        Returns how many were inserted, and those of them that were frozen.
        """
        into = f"insert into {self._pair.counters} (id, status, agents_planned"
        values = f"select {self._key}, {self._meaning}, {self._plan}"
        untold = list[str]()
        if never := self._never_reported(conn, keys):
            frozen = _run(
                conn,
                f"{into}, progress_frozen_at) {values}, now() from {self._workflows} as u"
                f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing"
                " returning id::text",
                never,
            )
            untold = [key for (key,) in frozen]
        names = ("created", "completed", "failed", "cancelled")
        count = count_relation(self._pair, f" where a.workflow_id = {self._keys}")
        counted = _run(
            conn,
            f"{into}, {', '.join(f'agents_{name}' for name in names)})"
            f" {values}, {', '.join(f'coalesce(g.{name}, 0)' for name in names)} from {self._workflows} as u"
            f" left join ({count}) as g on g.workflow_id = {self._key}"
            f" where {self._key} = {self._keys} order by {self._key} on conflict (id) do nothing",
            keys,
        )
        return counted.rowcount + len(untold), untold

    def sweep(self, conn: Connection[Any]) -> None:
        """Delete the counters of workflows that were deleted while only the tasks had our triggers.

        Two statements: the second one sees a workflow that was inserted again before its counters were locked.
        """
        if self._pair.columns:
            return
        gone = f"not exists (select from {self._workflows} as u where {self._key} = s.id)"
        keys = _run(
            conn, f"select id::text from {self._pair.counters} as s where {gone} order by id for update skip locked"
        ).fetchall()
        query = f"delete from {self._pair.counters} as s where id = {self._keys} and {gone}"
        _run(conn, query, [key for (key,) in keys])

    def _freeze(self, conn: Connection[Any], keys: list[str]) -> None:
        query = f"update {self._pair.counters} set progress_frozen_at = now() where {self._id} = {self._keys}"
        _run(conn, query, keys)

    def _thaw(self, conn: Connection[Any], keys: list[str]) -> None:
        _run(conn, f"update {self._pair.counters} set progress_frozen_at = null where {self._id} = {self._keys}", keys)


def _run(conn: Connection[Any], query: str, *values: Any) -> psycopg.RawCursor[TupleRow]:
    """Execute with parameters $1, $2: a percent sign in a name of the application's is no placeholder."""
    return psycopg.RawCursor(conn, row_factory=tuple_row).execute(query.encode(), values)


def _retry(conn: Connection[Any], act: Callable[[], T]) -> T:
    """Act in a transaction, again where others had to go first."""
    pause = _FIRST_PAUSE
    while True:
        try:
            with conn.transaction():
                # A batch counts with a new snapshot what it has locked.
                conn.execute("set transaction isolation level read committed")
                conn.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
                return act()
        except _RETRIED:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _value(conn: Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None
