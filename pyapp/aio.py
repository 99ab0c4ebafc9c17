"""The same helpers for ``psycopg.AsyncConnection``: ``await pyapp.aio.get_workflow(conn, …)``."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from pyapp import reading, standby, writing
from pyapp.batches import Batches, Waiting, waiting_report
from pyapp.both import asynchronous
from pyapp.db import Session, open_connection, try_again
from pyapp.models import Key, Task, TaskStatus, Workflow
from pyapp.reporter import note
from pyapp.watch import Follower

T = TypeVar("T")

get_workflow = asynchronous(reading.get_workflow)
get_workflows = asynchronous(reading.get_workflows)
list_workflows = asynchronous(reading.list_workflows)
get_tree = asynchronous(reading.get_tree)
tree_progress = asynchronous(reading.tree_progress)
list_tree_progress = asynchronous(reading.list_tree_progress)
list_tasks = asynchronous(reading.list_tasks)
get_state = asynchronous(reading.get_state)
list_stages = asynchronous(reading.list_stages)
stage_progress = asynchronous(reading.stage_progress)
get_forecasts = asynchronous(reading.get_forecasts)
list_timeline = asynchronous(reading.list_timeline)
list_burnup = asynchronous(reading.list_burnup)
list_workflow_trends = asynchronous(reading.list_workflow_trends)
list_task_trends = asynchronous(reading.list_task_trends)
find_drift = asynchronous(reading.find_drift)
get_vocabulary = asynchronous(reading.get_vocabulary)
progress_metrics = asynchronous(reading.progress_metrics)
create_workflow = asynchronous(writing.create_workflow)
add_tasks = asynchronous(writing.add_tasks)
report_task = asynchronous(writing.report_task)
report_tasks = asynchronous(writing.report_tasks)
transition = asynchronous(writing.transition)
advance = asynchronous(writing.advance)
repair = asynchronous(writing.repair)
archive = asynchronous(writing.archive)
wal_position = asynchronous(standby.wal_position)
wait_for_position = asynchronous(standby.wait_for_position)


async def connect(dsn: str | None = None, *, prepare: bool | None = None, **options: Any) -> AsyncConnection[TupleRow]:
    """Connect to the database as ``pyapp.connect`` does."""
    conn: AsyncConnection[TupleRow] = await open_connection(AsyncConnection, dsn, prepare, options)
    return conn


async def retry(transaction: Callable[[], Awaitable[T]], *, tries: int = 10) -> T:
    """Do a transaction, and retry it where it was interrupted, as ``pyapp.retry`` does.

    ``transaction`` is a coroutine function, or another function whose result can be awaited.
    """
    result: T = await try_again(transaction, tries, AsyncConnection)
    return result


async def watch(
    dsn: str | None = None,
    workflow_ids: Sequence[Key] | None = None,
    interval: float = 0.5,
    *,
    below: bool = False,
    schema: str | None = None,
    prepare: bool | None = None,
) -> AsyncGenerator[Workflow, None]:
    """Follow workflows as ``pyapp.watch`` does: ``async for workflow in pyapp.aio.watch(…)``."""
    session = Session(AsyncConnection, dsn, prepare)
    follower = Follower(session, workflow_ids, interval, below, schema)
    try:
        await follower.begin()
        while True:
            for workflow in await follower.poll():
                yield workflow
            if follower.ended:
                return
            await follower.wait()
    finally:
        await session.close()


class TaskReporter:
    """Reports tasks for many asyncio tasks, in batches, as ``pyapp.TaskReporter`` does for threads.

    Use it in an ``async with`` block, which connects: reports, ``flush`` and ``close`` belong inside.
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
        """Take the options of ``pyapp.TaskReporter``."""
        self._session = Session(AsyncConnection, dsn, prepare)
        self._batches: Batches[asyncio.Future[Task]] = Batches(
            self._session, size=size, linger=linger, capacity=capacity, patience=patience, schema=schema
        )
        self._work, self._room = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises ``psycopg.OperationalError`` where the database cannot be reached."""
        await self._session.connect()
        self._task = asyncio.create_task(self._run(), name="TaskReporter")
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close; where the block raised, the reports that failed are a note of its error."""
        try:
            await self.close()
        except BaseExceptionGroup as failed:
            note(failed, error)

    async def report(
        self, workflow_id: Key, task_id: Key, status: TaskStatus, result: Any = None, reopen: bool = False
    ) -> asyncio.Future[Task]:
        """Hand over a report as ``report_task`` takes it; wait only while ``capacity`` reports wait.

        Returns a future: its result is the task as committed, its exception why the report was refused. Cancelling it
        does not withdraw the report. ``result`` is copied. Raises UnknownStatus, ValueError for what is no id, and
        RuntimeError outside of the block and after the reporter gave up (the cause says why).
        """
        done: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        waiting = waiting_report(done, workflow_id, task_id, status, result, reopen)
        if self._task is None:
            raise RuntimeError("this TaskReporter is not connected: use it in an async with block")
        while self._batches.full:
            self._room.clear()
            await self._room.wait()
        self._batches.waiting.append(waiting)
        self._work.set()
        told = asyncio.shield(done)
        # ``flush`` and ``close`` raise the error as well, so asyncio need not warn where nobody awaits this future.
        told.add_done_callback(lambda future: future.cancelled() or future.exception())
        return told

    async def flush(self) -> None:
        """Wait until all that was reported so far is committed or refused.

        Raises an ExceptionGroup of what was refused since the last time (the first hundred errors).
        """
        under_way = self._batches.under_way
        self._batches.hurried = bool(self._batches.waiting)
        self._work.set()
        if under_way:
            await asyncio.wait(under_way)
        self._batches.raise_failed()

    async def close(self) -> None:
        """Take no more reports, send those that are there, and close the connection. Raises as ``flush`` does."""
        self._batches.closed = True
        self._work.set()
        self._room.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._batches.raise_failed()

    async def _run(self) -> None:
        try:
            while batch := await self._next_batch():
                await self._batches.deliver(batch)
        except BaseException as error:  # of any kind, so that nobody waits for ever
            self._batches.give_up(error)
            self._room.set()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            await self._session.close()

    async def _next_batch(self) -> Sequence[Waiting[asyncio.Future[Task]]]:
        """Wait for reports and take the next batch; empty when the reporter is closed and all are sent."""
        self._batches.sending = ()
        while not self._batches.waiting and not self._batches.closed:
            await self._wait_for_work(None)
        while left := self._batches.linger:
            await self._wait_for_work(left)
        batch = self._batches.take()
        self._room.set()
        return batch

    async def _wait_for_work(self, seconds: float | None) -> None:
        self._work.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._work.wait()
