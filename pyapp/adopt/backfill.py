"""Counting what was there before an adoption, while everybody goes on writing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp.adopt.adoption import Adoption
from pyapp.adopt.install import LOCK_TIMEOUT, OnStep
from pyapp.adopt.render import Renderer, text

OnBatch = Callable[[int], None]
T = TypeVar("T")

_BATCH = 5000
_DROP = "drop table if exists {schema}.workflow_counted, {schema}.workflow_counted_since"
_LONGEST_PAUSE = 1.0
_RETRIED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


@dataclass(frozen=True)
class Counted:
    """What a back-fill did: workflows that it counted, and those whose history it left as it was."""

    workflows: int
    frozen: int


def backfill(
    conn: Connection[Any], adoption: Adoption, on_batch: OnBatch = lambda _: None, on_step: OnStep = lambda _: None
) -> Counted:
    """Count all that has not been counted, in batches, each in a transaction of its own.

    ``conn`` must be in autocommit mode. A run that was interrupted goes on where it was. ``on_batch`` is told how many
    workflows each batch had. Returns what was done.
    """
    return Backfill(conn, adoption).run(on_batch, on_step)


class Backfill:
    """The statements of a back-fill.

    One pass over the tasks counts them into a table beside, after all triggers are there. It is copied in batches,
    giving way to rows that are there: whoever changed a task since then has made one, which says "not counted". These
    are counted at the end, under their locks.
    """

    def __init__(self, conn: Connection[Any], adoption: Adoption) -> None:
        """Prepare the statements."""
        self._conn, self._of = conn, adoption
        self._render = Renderer(adoption)
        self._schema = sql.Identifier(adoption.schema).as_string(None)

    def is_live(self) -> bool:
        """Tell whether all that was there before has been counted, or is being swept up."""
        return bool(self.value("select coalesce(bool_and(live), true) from {schema}.counting"))

    def waiting(self) -> int:
        """Count the workflows that are not counted though they have counters: those that changed meanwhile."""
        return int(self.value("select count(*) from {schema}.workflow_counter where agents_created is null"))

    def run(self, on_batch: OnBatch, on_step: OnStep) -> Counted:
        """Do all of it."""
        counted = 0
        fresh = not self.is_live()
        while not self.is_live():
            self._stage()
            counted += self._copy(on_batch)
            counted += self._sweep(on_batch, lambda _: None, patient=False)
            if not self._retry(self._go_live):
                on_step("the tasks were truncated meanwhile: counting again")
        counted += self._sweep(on_batch, on_step, patient=True)
        self._retry(lambda: self._execute(_DROP))
        frozen = self._retry(self._freeze) if fresh and self._of.publishes else 0
        if self._of.publishes:
            self.publish(on_batch)
        return Counted(counted, frozen)

    def _stage(self) -> None:
        """Count all tasks in one pass, unless that was done and nobody truncated them since."""
        since = "select c.truncated = s.truncated from {schema}.counting as c, {schema}.workflow_counted_since as s"
        if self.value("select to_regclass({counted_name}) is not null") and self.value(since):
            return

        def count() -> None:
            self._execute("set local statement_timeout = 0")
            self._execute(_DROP)
            self._execute("create table {schema}.workflow_counted_since as select truncated from {schema}.counting")
            self._execute(
                "create table {schema}.workflow_counted as"
                " select {t_keys}, sum(t.tasks)::integer as created, sum(t.tasks * (t.outcome = 1)::integer)::integer"
                " as completed, sum(t.tasks * (t.outcome = 2)::integer)::integer as failed,"
                " sum(t.tasks * (t.outcome = 3)::integer)::integer as cancelled, {first_described}::jsonb as described"
                " from (select {t_keys}, t.outcome, count(*) as tasks, {first_described}::text as described"
                " from {described_tasks} as t group by {t_keys}, t.outcome) as t"
                " where t.outcome is not null and {keys_known} group by {t_keys}"
            )
            self._execute("create index on {schema}.workflow_counted ({keys})")

        self._retry(count)

    def _copy(self, on_batch: OnBatch) -> int:
        """Copy what was counted: again from the beginning where it was interrupted, which changes nothing."""
        return self._pages(
            "with still as (select c.truncated = s.truncated as good"
            " from {schema}.counting as c, {schema}.workflow_counted_since as s for share of c), batch as ("
            " select * from {schema}.workflow_counted where {beyond} and (select good from still)"
            " order by {keys} limit {batch}), changed as ("
            " insert into {schema}.workflow_counter ({keys}, agents_created, agents_completed, agents_failed,"
            " agents_cancelled, described)"
            " select {keys}, created, completed, failed, cancelled, described from batch order by {keys}"
            " on conflict ({keys}) do nothing returning 1)"
            " select (select count(*) from changed), (select count(*) from batch), {keys_as_text}"
            " from batch order by {last_keys} limit 1",
            self._render.slots["keys"],
            on_batch,
        )

    def _pages(self, query: str, keys: str, on_batch: OnBatch) -> int:
        """Execute a query for one batch after the other: beyond the last key of the one before.

        It returns how many rows it changed, how many there were, and the last key. Returns the sum of the first.
        """
        done, beyond = 0, "true"
        while rows := self._retry(lambda: self._execute(query, beyond=beyond).fetchall()):  # noqa: B023 (called here)
            changed, took, *last = rows[0]
            done, beyond = done + changed, f"({keys}) > ({', '.join(map(text, last))})"
            on_batch(took)
        return done

    def _sweep(self, on_batch: OnBatch, on_step: OnStep, *, patient: bool) -> int:
        """Count those that were changed meanwhile, under their locks; ``patient``: until none is left."""
        done, pause = 0, 0.02

        def batch() -> int:
            marked = self._execute(
                "update {schema}.workflow_counter as c set kept_by = pg_current_xact_id() from ("
                " select {c_keys} from {schema}.workflow_counter as c where c.agents_created is null"
                " order by {c_keys} limit {batch} for no key update skip locked) as k where {c_is_k}"
            ).rowcount
            if marked:
                # A later statement, with a newer snapshot: whoever changes a task of these waits for the lock.
                self._execute(
                    "update {schema}.workflow_counter as c set agents_created = k.calculated_created,"
                    " agents_completed = k.calculated_completed, agents_failed = k.calculated_failed,"
                    " agents_cancelled = k.calculated_cancelled, described = coalesce(c.described, k.described)"
                    " from (select {c_keys}, count(t.outcome) + c.removed_completed + c.removed_failed"
                    " + c.removed_cancelled as calculated_created, count(*) filter (where t.outcome = 1)"
                    " + c.removed_completed as calculated_completed,"
                    " count(*) filter (where t.outcome = 2) + c.removed_failed as calculated_failed,"
                    " count(*) filter (where t.outcome = 3) + c.removed_cancelled as calculated_cancelled,"
                    " {first_described}::jsonb as described"
                    " from {schema}.workflow_counter as c left join {described_tasks} as t on {t_is_c}"
                    " where c.kept_by = pg_current_xact_id() and c.agents_created is null"
                    " group by {c_keys}, c.removed_completed, c.removed_failed, c.removed_cancelled) as k"
                    " where {c_is_k}"
                )
                self._execute(
                    "delete from {schema}.workflow_counter as c where c.kept_by = pg_current_xact_id()"
                    " and c.agents_created = 0 and (select bool_and(live) from {schema}.counting)"
                )
            return marked

        while True:
            marked = self._retry(batch)
            done += marked
            on_batch(marked)
            if marked == _BATCH or (marked and patient):
                continue
            if not patient or not (waiting := self.waiting()):
                return done
            on_step(f"waiting for {waiting} workflows that other transactions have locked")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _go_live(self) -> bool:
        """Let missing rows mean no tasks from now on: waits for all who made one that is not counted."""
        live = self._execute(
            "update {schema}.counting as c set live = true from {schema}.workflow_counted_since as s"
            " where s.truncated = c.truncated"
        )
        return live.rowcount > 0

    def _freeze(self) -> int:
        """Leave finished history alone that says 100 percent, though none of its tasks was ever reported."""
        completed = self._render.workflow_is("completed")
        column = self._of.publish.get("progress")
        if column is None or completed == "false":
            return 0
        frozen = self._execute(
            "update {schema}.workflow_counter as c set frozen_progress = 100 from {workflows} as workflow"
            " where {workflow_is_c} and c.agents_created > 0 and c.agents_completed = 0 and c.agents_failed = 0"
            " and c.agents_cancelled = 0 and {ended} and workflow.{column} >= 100",
            ended=completed,
            column=sql.Identifier(column).as_string(None),
        )
        return frozen.rowcount

    def publish(self, on_batch: OnBatch = lambda _: None) -> int:
        """Write to the published columns wherever they say something else. Returns how many workflows."""
        # The guard has the last word on what is written: it sees the counters once the row is locked.
        return self._pages(
            "with batch as (select {workflow_keys_as_is} from {workflows} as workflow"
            " where {workflow_keys_known} and {beyond} order by {keys} limit {batch}), changed as ("
            " update {workflows} as workflow set {publish_counter_set} from batch as b"
            " left join {schema}.workflow_counter as c on {c_is_b}"
            " where {workflow_is_b} and (c.agents_created is not null or c.key_1 is null)"
            " and {publish_counter_differs} returning 1)"
            " select (select count(*) from changed), (select count(*) from batch), {keys_as_text}"
            " from batch order by {last_keys} limit 1",
            self._render.slots["workflow_keys"],
            on_batch,
        )

    def _execute(self, query: str, **slots: str) -> psycopg.Cursor[tuple[Any, ...]]:
        slots |= {"counted_name": text(f"{self._schema}.workflow_counted"), "batch": str(_BATCH)}
        filled = self._render.fill(query, **slots)
        return psycopg.ClientCursor(self._conn, row_factory=tuple_row).execute(filled.encode())

    def value(self, query: str) -> Any:
        """Execute a query with slots, and return its first value."""
        row = self._execute(query).fetchone()
        return row[0] if row else None

    def _retry(self, act: Callable[[], T]) -> T:
        """Act in a transaction, again where others had to go first."""
        pause = 0.02
        while True:
            try:
                with self._conn.transaction():
                    self._conn.execute("set transaction isolation level read committed")
                    self._conn.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
                    return act()
            except _RETRIED:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
