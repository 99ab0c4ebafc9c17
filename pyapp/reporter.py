"""Reporting in batches over one connection, from threads: reports that arrive during a commit form the next batch."""

import atexit
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any, Self

from psycopg import Connection

from pyapp.batches import Batches, Entry, checked_entry
from pyapp.both import complete
from pyapp.db import Session
from pyapp.models import Key, Task, TaskStatus


def note(failed: BaseExceptionGroup[BaseException], error: BaseException | None) -> None:
    """Add failed reports as a note to the error that ended the block of a reporter, or raise them if none did."""
    if error is None:
        raise failed
    error.add_note(f"{failed}: {failed.exceptions[0]}")


class Sender:
    """A thread that sends batches, for TaskReporter and the processor of ``pyapp.otel``."""

    def __init__(self, batches: Batches) -> None:
        """Prepare the thread, which is still to be started."""
        self._batches = batches
        self._process = os.getpid()
        self._work, self._room = threading.Condition(batches.lock), threading.Condition(batches.lock)
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._batches.deliver(batch)
        except BaseException as error:  # of any kind, so that nobody waits for ever
            self._batches.give_up(error)
            with self._room:
                self._room.notify_all()
        finally:
            complete(self._batches.session.close())

    def _next_batch(self) -> Sequence[Entry]:
        """Wait for reports and take the next batch; empty when the reporter is closed and all are sent."""
        with self._work:
            self._batches.sending = ()
            self._work.wait_for(lambda: self._batches.waiting or self._batches.closed)
            while left := self._batches.linger:
                self._work.wait(left)
            batch = self._batches.take()
            self._room.notify(len(batch))
            return batch


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
        session = Session(Connection, dsn, prepare)
        super().__init__(
            Batches(session, size=size, linger=linger, capacity=capacity, patience=patience, schema=schema)
        )
        complete(session.connect())
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

    @property
    def full(self) -> bool:
        """Whether ``report`` would wait for room; raises RuntimeError where no report is accepted any more."""
        return self._batches.full

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
        entry = checked_entry(done, workflow_id, task_id, status, result, reopen)
        done.set_running_or_notify_cancel()
        with self._work:
            # A callback of a future runs in the sending thread, which would wait for itself.
            while self._batches.full and threading.current_thread() is not self._thread:
                self._room.wait()
            self._batches.waiting.append(entry)
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
            under_way = self._batches.under_way
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
