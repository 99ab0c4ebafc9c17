"""The same helpers for ``psycopg.AsyncConnection``: ``await pyapp.aio.get_workflow(conn, …)``."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from pyapp import reading, reporter, standby, writing
from pyapp.both import asynchronous
from pyapp.db import Session, open_connection, try_again
from pyapp.models import Key, Task, TaskStatus, Workflow
from pyapp.watch import Follower

T = TypeVar("T")
_ROOM = 0.01  # seconds until a report that has no room looks for it again

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
    """Reports tasks for many asyncio tasks, in batches: a ``pyapp.TaskReporter``, whose thread sends them.

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
        self._connect = partial(
            reporter.TaskReporter,
            dsn,
            size=size,
            linger=linger,
            capacity=capacity,
            patience=patience,
            schema=schema,
            prepare=prepare,
        )
        self._reporter: reporter.TaskReporter | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises ``psycopg.OperationalError`` where the database cannot be reached."""
        connecting = asyncio.get_running_loop().run_in_executor(None, self._connect)
        try:
            self._reporter = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close)  # the thread goes on connecting
            raise
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close; where the block raised, the reports that failed are a note of its error."""
        try:
            await self.close()
        except BaseExceptionGroup as failed:
            reporter.note(failed, error)

    async def report(
        self, workflow_id: Key, task_id: Key, status: TaskStatus, result: Any = None, reopen: bool = False
    ) -> asyncio.Future[Task]:
        """Hand over a report as ``report_task`` takes it; wait only while ``capacity`` reports wait.

        Returns a future: its result is the task as committed, its exception why the report was refused. Cancelling it
        does not withdraw the report. ``result`` is copied. Raises UnknownStatus, ValueError for what is no id, and
        RuntimeError outside of the block and after the reporter gave up (the cause says why).
        """
        connected = self._connected()
        while connected.full:
            await asyncio.sleep(_ROOM)
        told = asyncio.wrap_future(connected.report(workflow_id, task_id, status, result, reopen))
        # ``flush`` and ``close`` raise the error as well, so asyncio need not warn where nobody awaits this future.
        told.add_done_callback(lambda future: future.cancelled() or future.exception())
        return told

    async def flush(self) -> None:
        """Wait until all that was reported so far is committed or refused.

        Raises an ExceptionGroup of what was refused since the last time (the first hundred errors).
        """
        await asyncio.to_thread(self._connected().flush)

    async def close(self) -> None:
        """Take no more reports, send those that are there, and close the connection. Raises as ``flush`` does."""
        await asyncio.to_thread(self._connected().close)

    def _connected(self) -> reporter.TaskReporter:
        if self._reporter is None:
            raise RuntimeError("this TaskReporter is not connected: use it in an async with block")
        return self._reporter


def _close(connecting: asyncio.Future[reporter.TaskReporter]) -> None:
    if not connecting.exception():
        connecting.result().close()
