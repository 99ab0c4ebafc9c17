"""Reporting in batches over one connection: reports that arrive during a commit form the next batch.

``Batches`` holds the reports and yields the steps that commit them, without I/O. ``Sender`` carries them out in a
thread, ``pyapp.aio.TaskReporter`` in an asyncio task.
"""

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, wait
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, Self, TypeAlias, TypeVar
from uuid import UUID

import psycopg

from pyapp.db import connect, interrupted, pause_after
from pyapp.drive import Pause, Statement, Transaction, act, drive, gone
from pyapp.errors import translate
from pyapp.models import Key, Task, TaskReport, TaskStatus
from pyapp.queries import check_status, report_statement

T = TypeVar("T")
F = TypeVar("F", bound=Future[Task] | asyncio.Future[Task])

_MOST_TOLD = 100  # errors that are kept, to be raised; the others are only counted
_MOST_TRIES = 100  # of a batch whose transaction others interrupt
_MOST_LOSSES = 100  # of the connection while one batch is sent; after so many it gives up
_PAUSE = 0.2  # seconds between attempts to connect
# The number of a transaction tells what became of it only on the same server, without a crash since. The time at which
# its statistics were reset shows that: recovery from a crash resets them, and else only a person.
_NUMBER = Statement("select pg_current_xact_id()::text, stats_reset from pg_stat_bgwriter")
_FATE = (
    "select case when stats_reset is not distinct from %s::timestamptz then pg_xact_status(%s::xid8) end"
    " from pg_stat_bgwriter"
)


@dataclass(frozen=True, slots=True)
class Waiting(Generic[F]):
    """A report that is not committed yet, and the future that tells what became of it."""

    workflow_id: UUID
    report: TaskReport
    done: F
    since: float = field(default_factory=time.monotonic)


class Connect:
    """A step that ``deliver`` yields: connect again."""


Steps: TypeAlias = Generator[Connect | Pause | Statement | Transaction, Any, T]


class Batches(Generic[F]):
    """The reports that wait and those being sent: all of a reporter but its thread or task, and its connection."""

    def __init__(self, *, size: int, linger: float, capacity: int, patience: float, schema: str | None) -> None:
        """Begin without reports; TaskReporter says what the limits mean."""
        if size < 1 or capacity < 1 or linger < 0:
            raise ValueError("size and capacity are 1 or more, linger 0 or more")
        self._size, self._linger, self._capacity = size, linger, capacity
        self._patience, self._schema = patience, schema
        self.waiting: deque[Waiting[F]] = deque()
        self.sending: Sequence[Waiting[F]] = ()
        self.hurried = self.closed = False
        self.lost = False
        """Whether the connection is lost: set by whoever carries out the steps of ``deliver``."""
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
    def under_way(self) -> list[Waiting[F]]:
        """The reports that are neither committed nor refused."""
        return [waiting for waiting in (*self.sending, *self.waiting) if not waiting.done.done()]

    @property
    def linger(self) -> float:
        """How long to wait for more reports before the next batch is taken, in seconds."""
        if not self.waiting or len(self.waiting) >= self._size or self.hurried or self.closed:
            return 0
        return max(0, self.waiting[0].since + self._linger - time.monotonic())

    def take(self) -> Sequence[Waiting[F]]:
        """Take the next batch: where a report opens a task again, the batch has no other report of that task.

        A batch may be sent twice. If it opened a task and settled it, the second time would count another retry.
        """
        batch: list[Waiting[F]] = []
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

    def deliver(self, batch: Sequence[Waiting[F]]) -> Steps[None]:
        """Commit a batch; where it is refused, halve it until the reports that are wrong are alone."""
        try:
            tasks = yield from self._commit(batch)
        except Exception as error:
            if self.lost:
                raise
            refused = error
        else:
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_result(tasks[waiting.workflow_id, waiting.report.task_id])
            return
        if len(batch) > 1:
            middle = len(batch) // 2
            yield from self.deliver(batch[:middle])
            yield from self.deliver(batch[middle:])
            return
        [waiting] = batch
        if isinstance(refused, psycopg.Error) and (meant := translate(refused, waiting.workflow_id)):
            meant.__cause__ = refused
            refused = meant
        report = waiting.report
        refused.add_note(f"report: {report.status} of task {report.task_id} of workflow {waiting.workflow_id}")
        self.fail(batch, refused)

    def give_up(self, error: BaseException) -> None:
        """Accept no more reports, and fail those that are under way."""
        with self.lock:
            self.broken = error
            left = self.under_way
            self.waiting.clear()
        self.fail(left, error)

    def fail(self, batch: Sequence[Waiting[F]], error: BaseException) -> None:
        """Fail the futures of reports, and keep the error for ``flush`` and ``close``."""
        with self.lock:
            self._failed += len(batch)
            if batch and len(self._errors) < _MOST_TOLD:
                self._errors.append(error)
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_exception(error)

    def raise_failed(self) -> None:
        """Raise what was refused since the last time."""
        with self.lock:
            failed, errors = self._failed, self._errors
            self._failed, self._errors = 0, []
        if errors:
            raise BaseExceptionGroup(f"{failed} report{'s' if failed > 1 else ''} failed", errors)

    def _commit(self, batch: Sequence[Waiting[F]]) -> Steps[dict[tuple[UUID, Key | None], Task]]:
        """Commit a batch once: retry where the server interrupted it, ended the session or restarted."""
        attempt: Transaction | None = None
        give_up: float | None = None
        tries = losses = 0
        while True:
            reached = False
            try:
                if self.lost:
                    yield Connect()
                    give_up = None
                reached = True
                if attempt is None or not (yield from self._committed(attempt)):
                    attempt = Transaction(self._statements(batch))
                    yield attempt
                return {(task.workflow_id, task.id): task for tasks in attempt.results[1:] for task in tasks}
            except Exception as error:
                if not self.lost:
                    tries += 1
                    if not interrupted(error) or tries == _MOST_TRIES:
                        raise
                    attempt = None
                    pause = pause_after(tries)
                elif reached:
                    losses += 1
                    if losses > _MOST_LOSSES:
                        raise
                    pause = 0 if losses == 1 else _PAUSE  # the server may have ended this session only
                else:
                    give_up = give_up or time.monotonic() + self._patience
                    if time.monotonic() > give_up:
                        raise
                    pause = _PAUSE
            yield Pause(pause)

    def _statements(self, batch: Sequence[Waiting[F]]) -> list[Statement]:
        """Number the transaction, then report workflow by workflow in the order of their ids, so that two reporters
        never deadlock.
        """
        by_workflow = attrgetter("workflow_id")
        reports = [
            report_statement(workflow_id, [waiting.report for waiting in of_workflow], self._schema)
            for workflow_id, of_workflow in groupby(sorted(batch, key=by_workflow), by_workflow)
        ]
        return [_NUMBER, *reports]

    def _committed(self, attempt: Transaction) -> Steps[bool]:
        """Find out whether a transaction was committed whose connection was lost; it may still be in progress.

        A server that crashed and recovered, or another that took its place, cannot tell: it may have given the number
        to another transaction since. Then the answer is False, and the batch is sent again.
        """
        if not attempt.results:
            return False  # it was lost before the commit was sent
        [(number, server)] = attempt.results[0]
        while (fate := (yield Statement(_FATE, [server, number]))) == [("in progress",)]:
            yield Pause(_PAUSE)
        return bool(fate == [("committed",)])


def prepare(workflow_id: Key, task_id: Key, status: TaskStatus, result: Any, reopen: bool) -> tuple[UUID, TaskReport]:
    """Check a report and copy its result. Raises UnknownStatus, and ValueError for what is no id."""
    check_status(status)
    return UUID(str(workflow_id)), TaskReport(UUID(str(task_id)), status, deepcopy(result), reopen)


def note(failed: BaseExceptionGroup[BaseException], error: BaseException | None) -> None:
    """Add failed reports as a note to the error that ended the block of a reporter, or raise them if none did."""
    if error is None:
        raise failed
    error.add_note(f"{failed}: {failed.exceptions[0]}")


class Sender:
    """A thread that sends batches over its own connection, for TaskReporter and the processor of ``pyapp.otel``."""

    def __init__(self, batches: Batches[Future[Task]], dsn: str | None, prepare: bool | None = None) -> None:
        """Begin without a connection; the thread is still to be started."""
        self._batches = batches
        self._batches.lost = True
        self._connect = partial(connect, dsn, prepare=prepare, autocommit=True)
        self._conn: psycopg.Connection[Any] | None = None
        self._process = os.getpid()
        self._work, self._room = threading.Condition(batches.lock), threading.Condition(batches.lock)
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                drive(self._batches.deliver(batch), self._act)
        except BaseException as error:  # of any kind, so that nobody waits for ever
            self._batches.give_up(error)
            with self._room:
                self._room.notify_all()
        finally:
            if self._conn:
                self._conn.close()

    def _next_batch(self) -> Sequence[Waiting[Future[Task]]]:
        """Wait for reports and take the next batch; empty when the reporter is closed and all are sent."""
        with self._work:
            self._batches.sending = ()
            self._work.wait_for(lambda: self._batches.waiting or self._batches.closed)
            while left := self._batches.linger:
                self._work.wait(left)
            batch = self._batches.take()
            self._room.notify(len(batch))
            return batch

    def _act(self, step: Connect | Pause | Statement | Transaction) -> Any:
        try:
            if isinstance(step, Connect):
                self._conn = self._connect()
            elif self._conn:
                return act(self._conn, step)
            elif isinstance(step, Pause):  # before it was ever connected
                time.sleep(step.seconds)
        except Exception as error:
            if self._conn and gone(self._conn, error):
                self._conn.close()
            raise
        finally:
            self._batches.lost = not self._conn or self._conn.closed


class TaskReporter(Sender):
    """Reports tasks for many threads, in batches: one statement for each workflow, one commit for all of them.

    A report is sent at once when nothing is under way; what comes in meanwhile is the next batch. Reports are kept in
    order and committed once each, also where the server interrupted a batch, ended the session or restarted. A report
    that the database refuses fails alone. What is not committed yet is lost with the process: before you rely on a
    report, wait for its future, or ``flush``.

    Use it in a ``with`` block, or call ``close``; interpreter exit closes it as well. ``pyapp.aio`` has one of the same
    name for asyncio.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        size: int = 500,
        linger: float = 0.0,
        capacity: int = 10_000,
        patience: float = 60.0,
        schema: str | None = None,
        prepare: bool | None = None,
    ) -> None:
        """Connect, as ``connect`` does, and start the thread that sends.

        ``size`` is the most reports in a batch. ``linger`` is how long a report may wait for others before it is sent,
        in seconds. ``capacity`` is how many reports may wait; ``report`` waits while there is no room. ``patience`` is
        how long to go on connecting to a database that is away, in seconds; after that all reports that wait fail.
        Raises ``psycopg.OperationalError`` where the database cannot be reached at first.
        """
        batches: Batches[Future[Task]] = Batches(
            size=size, linger=linger, capacity=capacity, patience=patience, schema=schema
        )
        super().__init__(batches, dsn, prepare)
        self._act(Connect())
        self._thread.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        """Return the reporter itself."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close; where the block raised, the reports that failed are a note of its error."""
        try:
            self.close()
        except BaseExceptionGroup as failed:
            note(failed, error)

    def report(
        self, workflow_id: Key, task_id: Key, status: TaskStatus, result: Any = None, reopen: bool = False
    ) -> Future[Task]:
        """Hand over a report as ``report_task`` takes it; wait only while ``capacity`` reports wait.

        Returns a future: its result is the task as committed, its exception why the report was refused. It cannot be
        cancelled. ``result`` is copied. Raises UnknownStatus, ValueError for what is no id, and RuntimeError after
        ``close``, after the reporter gave up (the cause says why), and in a forked process.
        """
        self._refuse_in_a_fork()
        done: Future[Task] = Future()
        waiting = Waiting(*prepare(workflow_id, task_id, status, result, reopen), done)
        done.set_running_or_notify_cancel()
        with self._work:
            # A callback of a future runs in the sending thread, which would wait for itself.
            while self._batches.full and threading.current_thread() is not self._thread:
                self._room.wait()
            self._batches.waiting.append(waiting)
            self._work.notify()
        return done

    def flush(self) -> None:
        """Wait until all that was reported so far is committed or refused.

        Raises an ExceptionGroup of what was refused since the last time (the first hundred errors).
        """
        self._refuse_in_a_fork()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of a report cannot wait for reports")
        with self._work:
            under_way = [waiting.done for waiting in self._batches.under_way]
            self._batches.hurried = bool(self._batches.waiting)
            self._work.notify()
        wait(under_way)
        self._batches.raise_failed()

    def close(self) -> None:
        """Take no more reports, send those that are there, and close the connection. Raises as ``flush`` does."""
        if os.getpid() != self._process:
            return  # in a forked process: the reports and the connection are its parent's
        with self._work:
            self._batches.closed = True
            self._work.notify()
            self._room.notify_all()
        self._thread.join()
        atexit.unregister(self.close)
        self._batches.raise_failed()

    def _refuse_in_a_fork(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this TaskReporter belongs to the parent process: make one in each")
