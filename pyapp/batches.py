"""Batches of reports, and what commits each of them once: all of a reporter but its thread."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg

from pyapp.both import Statement, commit, complete, fetch
from pyapp.db import Session, interrupted, pause_after
from pyapp.errors import translate
from pyapp.models import Key, Task, TaskReport, TaskStatus
from pyapp.statements import statement
from pyapp.writing import REPORT_TASKS, as_json, check_status

_MOST_TOLD = 100  # errors that are kept, to be raised; the others are only counted
_MOST_TRIES = 100  # of a batch whose transaction others interrupt
_PAUSE = 0.2  # seconds until it asks again what became of a transaction
# The number of a transaction tells what became of it only on the same server, without a crash since. The time at which
# its statistics were reset shows that: recovery from a crash resets them, and else only a person.
_NUMBER = Statement("select pg_current_xact_id()::text, stats_reset from pg_stat_bgwriter")
_FATE = (
    "select case when stats_reset is not distinct from %s::timestamptz then pg_xact_status(%s::xid8) end"
    " from pg_stat_bgwriter"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A report that is not committed yet, and the future that tells what became of it."""

    workflow_id: UUID
    report: TaskReport
    done: Future[Task]
    since: float = field(default_factory=time.monotonic)


def checked_entry(
    done: Future[Task], workflow_id: Key, task_id: Key, status: TaskStatus, result: Any, reopen: bool
) -> Entry:
    """Check a report and copy its result. Raises UnknownStatus, and ValueError for what is no id."""
    check_status(status)
    return Entry(UUID(str(workflow_id)), TaskReport(UUID(str(task_id)), status, deepcopy(result), reopen), done)


class Batches:
    """The reports that wait and those being sent."""

    def __init__(
        self, session: Session, *, size: int, linger: float, capacity: int, patience: float, schema: str | None
    ) -> None:
        """Begin without reports; TaskReporter says what the limits mean."""
        if size < 1 or capacity < 1 or linger < 0:
            raise ValueError("size and capacity are 1 or more, linger 0 or more")
        self.session = session
        self._size, self._linger, self._capacity = size, linger, capacity
        self._patience, self._schema = patience, schema
        self.waiting: deque[Entry] = deque()
        self.sending: Sequence[Entry] = ()
        self.hurried = self.closed = False
        self.broken: BaseException | None = None
        self.lock = threading.Lock()
        self._failed = 0
        self._errors: list[BaseException] = []

    @property
    def full(self) -> bool:
        """Whether another report has to wait for room; raises RuntimeError where none is accepted any more."""
        if self.broken is not None:
            raise RuntimeError("this TaskReporter has given up") from self.broken
        if self.closed:
            raise RuntimeError("this TaskReporter is closed")
        return len(self.waiting) >= self._capacity

    @property
    def under_way(self) -> list[Future[Task]]:
        """The futures of the reports that are neither committed nor refused."""
        return [entry.done for entry in (*self.sending, *self.waiting) if not entry.done.done()]

    @property
    def linger(self) -> float:
        """How long to wait for more reports before the next batch is taken, in seconds."""
        if not self.waiting or len(self.waiting) >= self._size or self.hurried or self.closed:
            return 0
        return max(0, self.waiting[0].since + self._linger - time.monotonic())

    def take(self) -> Sequence[Entry]:
        """Take the next batch: where a report opens a task again, the batch has no other report of that task.

        A batch may be sent twice. If it opened a task and settled it, the second time would count another retry.
        """
        batch: list[Entry] = []
        opens: dict[Key | None, bool] = {}
        while self.waiting and len(batch) < self._size:
            report = self.waiting[0].report
            if opens.get(report.task_id, False) or (report.reopen and report.task_id in opens):
                break
            opens[report.task_id] = report.reopen
            batch.append(self.waiting.popleft())
        self.hurried = self.hurried and bool(self.waiting)
        self.sending = batch
        return batch

    def deliver(self, batch: Sequence[Entry]) -> None:
        """Commit a batch; where it is refused, halve it until the reports that are wrong are alone."""
        try:
            tasks = self._commit(batch)
        except Exception as error:
            if self.session.lost:
                raise
            if len(batch) == 1:
                return self._refuse(batch[0], error)
        else:
            for entry in batch:
                if not entry.done.done():
                    entry.done.set_result(tasks[entry.workflow_id, entry.report.task_id])
            return None
        middle = len(batch) // 2
        self.deliver(batch[:middle])
        return self.deliver(batch[middle:])

    def _commit(self, batch: Sequence[Entry]) -> dict[tuple[UUID, Key | None], Task]:
        """Commit a batch once: retry where the server interrupted it, ended the session or restarted."""
        rows: list[list[Any]] = []  # of the last attempt, if its commit may have been sent
        tries, deadline = 0, 0.0
        while True:
            try:
                if self.session.lost:
                    complete(self.session.connect())
                if not rows or not self._committed(*rows[0][0]):
                    rows = []
                    commit(self.session.conn, self._statements(batch), rows)
                return {(task.workflow_id, task.id): task for tasks in rows[1:] for task in tasks}
            except Exception as error:
                tries += 1
                complete(self.session.close_if_useless(error))
                if self.session.lost:
                    deadline = deadline or time.monotonic() + self._patience
                    if time.monotonic() > deadline:
                        raise
                elif interrupted(error) and tries < _MOST_TRIES:
                    rows = []
                else:
                    raise
            time.sleep(pause_after(tries))

    def _statements(self, batch: Sequence[Entry]) -> list[Statement]:
        """Number the transaction, then report workflow by workflow in the order of their ids, so that two reporters
        never deadlock.
        """
        by_workflow = attrgetter("workflow_id")
        reports = [
            statement(self._schema, Task, REPORT_TASKS, str(workflow_id), as_json(each.report for each in of_workflow))
            for workflow_id, of_workflow in groupby(sorted(batch, key=by_workflow), by_workflow)
        ]
        return [_NUMBER, *reports]

    def _committed(self, number: str, stats_reset: Any) -> bool:
        """Find out whether a transaction was committed whose connection was lost; it may still be in progress.

        A server that crashed and recovered, or another that took its place, cannot tell: it may have given the number
        to another transaction since. Then the answer is False, and the batch is sent again.
        """
        while (fate := complete(fetch(self.session.conn, Statement(_FATE, [stats_reset, number])))) == [
            ("in progress",)
        ]:
            time.sleep(_PAUSE)
        return bool(fate == [("committed",)])

    def _refuse(self, entry: Entry, error: Exception) -> None:
        if isinstance(error, psycopg.Error) and (meant := translate(error, entry.workflow_id)):
            meant.__cause__ = error
            error = meant
        report = entry.report
        error.add_note(f"report: {report.status} of task {report.task_id} of workflow {entry.workflow_id}")
        self._fail([entry.done], error)

    def give_up(self, error: BaseException) -> None:
        """Accept no more reports, and fail those that are under way."""
        with self.lock:
            self.broken = error
            left = self.under_way
            self.waiting.clear()
        self._fail(left, error)

    def _fail(self, futures: Sequence[Future[Task]], error: BaseException) -> None:
        """Fail the futures of reports, and keep the error for ``flush`` and ``close``."""
        with self.lock:
            self._failed += len(futures)
            if futures and len(self._errors) < _MOST_TOLD:
                self._errors.append(error)
        for future in futures:
            if not future.done():
                future.set_exception(error)

    def raise_failed(self) -> None:
        """Raise what was refused since the last time."""
        with self.lock:
            failed, errors = self._failed, self._errors
            self._failed, self._errors = 0, []
        if errors:
            raise BaseExceptionGroup(f"{failed} report{'s' if failed > 1 else ''} failed", errors)
