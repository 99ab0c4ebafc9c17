"""Reporting from many threads over one connection: what comes while a commit is under way goes into the next one."""

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from copy import deepcopy
from functools import partial
from typing import Any, Self
from uuid import UUID

import psycopg

from pyapp.agent import Agent, Once
from pyapp.batch import Waiting, report_all, take_batch
from pyapp.models import TASK_STATUSES, Key, Task, TaskReport

_MOST_TOLD = 100  # errors that are kept to be raised; the rest is only counted


class TaskReporter:
    """Reports tasks for many threads, in batches: one statement for each workflow, one commit for all of them.

    A report is sent at once when nothing is under way; what comes in meanwhile is the next batch. Reports are kept in
    order and committed once each, also where the server broke a batch off, ended the session or restarted. A report
    that the database refuses fails alone. What is not committed yet is lost with the process: wait for the future of a
    report, or ``flush``, before telling anybody that it is.

    Use it in a ``with`` block, or call ``close``; interpreter exit closes it as well.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        size: int = 500,
        linger: float = 0.0,
        capacity: int = 10_000,
        patience: float | None = None,
    ) -> None:
        """Connect, as ``connect`` does, and start the thread that sends.

        ``size`` is the most reports in a batch. ``linger`` is how long a report may wait for others before it is sent,
        in seconds. ``capacity`` is how many reports may wait: then ``report`` waits for room. ``patience`` is how long
        to go on connecting to a database that is away, in seconds (60 by default): then all that waits fails.
        Raises ``psycopg.OperationalError`` where the database cannot be reached at first.
        """
        if size < 1 or capacity < 1 or linger < 0:
            raise ValueError("size and capacity are 1 or more, linger 0 or more")
        self._size, self._linger, self._capacity = size, linger, capacity
        self._agent = Agent(dsn, patience=patience)
        self._process = os.getpid()
        lock = threading.Lock()
        self._work, self._room = threading.Condition(lock), threading.Condition(lock)
        self._waiting: deque[Waiting] = deque()
        self._sending: Sequence[Waiting] = ()
        self._hurried = self._closed = False
        self._broken: BaseException | None = None
        self._failed = 0
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="TaskReporter", daemon=True)
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
            if error is None:
                raise
            error.add_note(f"{failed}: {failed.exceptions[0]}")

    def report(
        self, workflow_id: Key, task_id: Key, status: str, result: Any = None, reopen: bool = False
    ) -> Future[Task]:
        """Hand over a report as ``report_task`` takes it; wait only where too many are under way.

        Returns a future: its result is the task as committed, its exception why the report was refused. It cannot be
        cancelled. ``result`` is copied. Raises ValueError for what is no id or no status, and RuntimeError after
        ``close``, after the reporter gave up (the cause says why), and in a forked process.
        """
        self._refuse_in_a_fork()
        if status not in TASK_STATUSES:
            raise ValueError(f"{status!r} is no status of a task: {', '.join(TASK_STATUSES)}")
        report = TaskReport(UUID(str(task_id)), status, deepcopy(result), reopen)
        waiting = Waiting(UUID(str(workflow_id)), report)
        waiting.done.set_running_or_notify_cancel()
        with self._work:
            # A callback of a future runs in the thread that makes room.
            while len(self._waiting) >= self._capacity and threading.current_thread() is not self._thread:
                self._refuse_when_closed()
                self._room.wait()
            self._refuse_when_closed()
            self._waiting.append(waiting)
            self._work.notify()
        return waiting.done

    def flush(self) -> None:
        """Wait until all that was reported so far is committed or refused.

        Raises an ExceptionGroup of what was refused since the last time (the first hundred errors).
        """
        self._refuse_in_a_fork()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of a report cannot wait for reports")
        with self._work:
            under_way = [waiting.done for waiting in (*self._sending, *self._waiting)]
            self._hurried = bool(self._waiting)
            self._work.notify()
        wait(under_way)
        self._raise_failed()

    def close(self) -> None:
        """Take no more reports, send those that are there, and close the connection. Raises as ``flush`` does."""
        if os.getpid() != self._process:
            return  # in a forked process: the reports and the connection are its parent's
        with self._work:
            self._closed = True
            self._work.notify()
            self._room.notify_all()
        self._thread.join()
        atexit.unregister(self.close)
        self._raise_failed()

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._send(batch)
        except BaseException as error:  # whatever it is, nobody must wait for ever
            with self._work:
                self._broken = error
                left = [waiting for waiting in (*self._sending, *self._waiting) if not waiting.done.done()]
                self._waiting.clear()
                self._room.notify_all()
            self._fail(left, error)
        finally:
            self._agent.close()

    def _next_batch(self) -> Sequence[Waiting]:
        """Wait for reports and take the next batch; empty when the reporter is closed and all are sent."""
        with self._work:
            self._sending = ()
            self._work.wait_for(lambda: self._waiting or self._closed)
            if self._linger and self._waiting:
                left = self._waiting[0].since + self._linger - time.monotonic()
                self._work.wait_for(
                    lambda: len(self._waiting) >= self._size or self._hurried or self._closed, max(left, 0)
                )
            batch = take_batch(self._waiting, self._size)
            self._hurried = self._hurried and bool(self._waiting)
            self._sending = batch
            self._room.notify(len(batch))
            return batch

    def _send(self, batch: Sequence[Waiting]) -> None:
        """Commit a batch; where it is refused, its halves, until the reports that are wrong stand alone."""
        try:
            tasks = self._agent.persist(Once(partial(report_all, batch=batch)))
        except Exception as error:
            if isinstance(error, psycopg.Error) and self._agent.lost:
                raise
            if len(batch) == 1:
                report = batch[0].report
                error.add_note(f"report: {report.status} of task {report.task_id} of workflow {batch[0].workflow_id}")
                self._fail(batch, error)
                return
        else:
            for waiting in batch:
                waiting.done.set_result(tasks[waiting.workflow_id, waiting.report.task_id])
            return
        middle = len(batch) // 2
        self._send(batch[:middle])
        self._send(batch[middle:])

    def _fail(self, batch: Sequence[Waiting], error: BaseException) -> None:
        with self._work:
            self._failed += len(batch)
            if batch and len(self._errors) < _MOST_TOLD:
                self._errors.append(error)
        for waiting in batch:
            waiting.done.set_exception(error)

    def _raise_failed(self) -> None:
        with self._work:
            failed, errors = self._failed, self._errors
            self._failed, self._errors = 0, []
        if errors:
            raise BaseExceptionGroup(f"{failed} report{'s' if failed > 1 else ''} failed", errors)

    def _refuse_when_closed(self) -> None:
        if self._broken is not None:
            raise RuntimeError("this TaskReporter has given up") from self._broken
        if self._closed:
            raise RuntimeError("this TaskReporter is closed")

    def _refuse_in_a_fork(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("this TaskReporter belongs to the parent process: make one in each")
