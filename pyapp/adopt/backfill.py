"""Counting what was there before an adoption, while everybody goes on writing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from pyapp.adopt.adoption import Adoption
from pyapp.adopt.install import LONGEST_PAUSE, OnStep, T, in_turn
from pyapp.adopt.render import Renderer, read_template, text

OnBatch = Callable[[int], None]

_BATCH = 5000


@dataclass(frozen=True)
class Counted:
    """What a back-fill did: workflows that it counted, and those whose history it left as it was."""

    workflows: int
    frozen: int


class Backfill:
    """The steps of a back-fill; its connection must be in autocommit mode.

    One pass over the tasks counts them into a table beside, after all triggers are there. It is copied in batches,
    giving way to rows that are there: whoever changed a task since then has made one, which says "not counted". These
    are counted at the end, under their locks.
    """

    def __init__(self, conn: Connection[Any], adoption: Adoption) -> None:
        """Prepare the statements."""
        self._conn, self._of = conn, adoption
        self._render = Renderer(adoption)

    def is_live(self) -> bool:
        """Tell whether all that was there before has been counted, or is being swept up."""
        return bool(self.value("select coalesce(bool_and(live), true) from {schema}.counting"))

    def waiting(self) -> int:
        """Count the workflows that are not counted though they have counters: those that changed meanwhile."""
        return int(self.value("select count(*) from {schema}.workflow_counter where agents_created is null"))

    def run(self, on_batch: OnBatch = lambda _: None, on_step: OnStep = lambda _: None) -> Counted:
        """Count all that has not been counted, in batches, each in a transaction of its own. Returns what was done.

        A run that was interrupted goes on where it was. ``on_batch`` is told how many workflows each batch had.
        """
        counted = 0
        fresh = not self.is_live()
        while not self.is_live():
            self._stage()
            # Again from the beginning where it was interrupted, which changes nothing.
            counted += self._pages("copy.sql", "keys", on_batch)
            counted += self._sweep(on_batch, lambda _: None, patient=False)
            if not self._retry(lambda: self._ask("live.sql").rowcount):
                on_step("the tasks were truncated meanwhile: counting again")
        counted += self._sweep(on_batch, on_step, patient=True)
        done = "drop table if exists {schema}.workflow_counted, {schema}.workflow_counted_since"
        self._retry(lambda: self._execute(done))
        frozen = 0
        if self._of.publishes:
            if fresh and "progress" in self._of.publish:
                frozen = self._retry(lambda: self._ask("freeze.sql").rowcount)
            self._pages("publish.sql", "workflow_keys", on_batch)
        return Counted(counted, frozen)

    def _stage(self) -> None:
        """Count all tasks in one pass, unless that was done and nobody truncated them since."""
        since = "select c.truncated = s.truncated from {schema}.counting as c, {schema}.workflow_counted_since as s"
        if not (self.value("select to_regclass('{prefix}.workflow_counted') is not null") and self.value(since)):
            self._retry(lambda: self._ask("count.sql"))

    def _pages(self, file: str, keys: str, on_batch: OnBatch) -> int:
        """Ask for one batch after the other, beyond the last key of the one before; return how many rows changed."""
        done, beyond = 0, "true"
        while rows := self._retry(lambda: self._ask(file, beyond=beyond).fetchall()):  # noqa: B023 (called here)
            changed, took, *last = rows[0]
            done, beyond = done + changed, f"({self._render.slots[keys]}) > ({', '.join(map(text, last))})"
            on_batch(took)
        return done

    def _sweep(self, on_batch: OnBatch, on_step: OnStep, *, patient: bool) -> int:
        """Count those that were changed meanwhile, under their locks; ``patient``: until none is left."""
        done, pause = 0, 0.02
        while True:
            marked = self._retry(lambda: self._ask("sweep.sql").rowcount)
            done += marked
            on_batch(marked)
            if marked == _BATCH or (marked and patient):
                continue
            if not patient or not (waiting := self.waiting()):
                return done
            on_step(f"waiting for {waiting} workflows that other transactions have locked")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _ask(self, file: str, **slots: str) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._execute(read_template(f"ask/{file}"), **slots)

    def _execute(self, query: str, **slots: str) -> psycopg.Cursor[tuple[Any, ...]]:
        filled = self._render.fill(query, batch=str(_BATCH), **slots)
        return psycopg.ClientCursor(self._conn, row_factory=tuple_row).execute(filled.encode())

    def value(self, query: str) -> Any:
        """Execute a query with slots, and return its first value."""
        row = self._execute(query).fetchone()
        return row[0] if row else None

    def _retry(self, act: Callable[[], T]) -> T:
        return in_turn(self._conn, act)
