"""The same helpers for ``psycopg.AsyncConnection``: ``await pyapp.aio.get_workflow(conn, …)``."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from pyapp import queries, standby
from pyapp.db import connection_parameters, interrupted, may_prepare, pause_after
from pyapp.drive import Pause, Statement, Transaction, act_async, asynchronous, drive_async, gone, is_pooled, run_async
from pyapp.models import Key, Task, TaskStatus, Workflow
from pyapp.reporter import Batches, Connect, Waiting, note, prepare
from pyapp.watch import GATHER, RECONNECT, Follower, listen, notifies

T = TypeVar("T")

get_workflow = asynchronous(queries.get_workflow)
get_workflows = asynchronous(queries.get_workflows)
list_workflows = asynchronous(queries.list_workflows)
get_tree = asynchronous(queries.get_tree)
tree_progress = asynchronous(queries.tree_progress)
list_tree_progress = asynchronous(queries.list_tree_progress)
list_tasks = asynchronous(queries.list_tasks)
get_state = asynchronous(queries.get_state)
list_stages = asynchronous(queries.list_stages)
stage_progress = asynchronous(queries.stage_progress)
get_forecasts = asynchronous(queries.get_forecasts)
list_timeline = asynchronous(queries.list_timeline)
list_burnup = asynchronous(queries.list_burnup)
find_drift = asynchronous(queries.find_drift)
progress_metrics = asynchronous(queries.progress_metrics)
create_workflow = asynchronous(queries.create_workflow)
add_tasks = asynchronous(queries.add_tasks)
report_task = asynchronous(queries.report_task)
report_tasks = asynchronous(queries.report_tasks)
transition = asynchronous(queries.transition)
advance = asynchronous(queries.advance)
repair = asynchronous(queries.repair)
archive = asynchronous(queries.archive)
wal_position = asynchronous(standby.wal_position)
wait_for_position = asynchronous(standby.wait_for_position)


async def avoid_preparing(conn: AsyncConnection[Any], prepare: bool | None = None) -> None:
    """Keep psycopg from preparing statements where it may not, as ``pyapp.db.avoid_preparing`` does."""
    may = may_prepare(prepare)
    if may is False or (may is None and await run_async(conn, is_pooled())):
        conn.prepare_threshold = None


async def connect(dsn: str | None = None, *, prepare: bool | None = None, **options: Any) -> AsyncConnection[TupleRow]:
    """Connect to the database as ``pyapp.connect`` does."""
    conn = await AsyncConnection.connect(**(connection_parameters(dsn) | options))
    if "prepare_threshold" not in options:
        await avoid_preparing(conn, prepare)
    return conn


async def retry(transaction: Callable[[], Awaitable[T]], *, tries: int = 10) -> T:
    """Do a transaction, and retry it where it was interrupted, as ``pyapp.retry`` does.

    ``transaction`` is a coroutine function, or another function whose result can be awaited.
    """
    for attempt in range(tries - 1):
        try:
            return await transaction()
        except psycopg.Error as error:
            if not interrupted(error):
                raise
        await asyncio.sleep(pause_after(attempt))
    return await transaction()


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
    follower = Follower(workflow_ids, schema, below)
    conn = await connect(dsn, prepare=prepare, autocommit=True)
    try:
        listens = await _listen(conn, schema)
        await run_async(conn, follower.require_all())
        while True:
            try:
                if conn.closed:
                    conn = await connect(dsn, prepare=prepare, autocommit=True)
                    listens = await _listen(conn, schema)
                now = await retry(lambda: run_async(conn, follower.look()))  # noqa: B023 (called at once)
            except psycopg.OperationalError:
                await conn.close()
                await asyncio.sleep(RECONNECT)
                continue
            for workflow in follower.changes(now):
                yield workflow
            if follower.ended:
                return
            if listens:
                with suppress(psycopg.OperationalError):  # the next poll finds out
                    async for _ in conn.notifies(timeout=interval, stop_after=1):
                        await asyncio.sleep(min(interval, GATHER))
            else:
                await asyncio.sleep(interval)
    finally:
        await conn.close()


async def _listen(conn: AsyncConnection[Any], schema: str | None) -> bool:
    listens = await run_async(conn, notifies(schema))
    if listens:
        await conn.execute(listen(schema))
    return listens


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
        self._batches: Batches[asyncio.Future[Task]] = Batches(
            size=size, linger=linger, capacity=capacity, patience=patience, schema=schema
        )
        self._connect = partial(connect, dsn, prepare=prepare, autocommit=True)
        self._work, self._room = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises ``psycopg.OperationalError`` where the database cannot be reached."""
        self._conn = await self._connect()
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
        prepared = prepare(workflow_id, task_id, status, result, reopen)
        if self._task is None:
            raise RuntimeError("this TaskReporter is not connected: use it in an async with block")
        while self._batches.full:
            self._room.clear()
            await self._room.wait()
        done: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self._batches.waiting.append(Waiting(*prepared, done))
        self._work.set()
        told = asyncio.shield(done)
        # ``flush`` and ``close`` raise the error as well, so asyncio need not warn where nobody awaits this future.
        told.add_done_callback(lambda future: future.cancelled() or future.exception())
        return told

    async def flush(self) -> None:
        """Wait until all that was reported so far is committed or refused.

        Raises an ExceptionGroup of what was refused since the last time (the first hundred errors).
        """
        under_way = [waiting.done for waiting in self._batches.under_way]
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
                await drive_async(self._batches.deliver(batch), self._act)
        except BaseException as error:  # of any kind, so that nobody waits for ever
            self._batches.give_up(error)
            self._room.set()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            await self._conn.close()

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

    async def _act(self, step: Connect | Pause | Statement | Transaction) -> Any:
        try:
            if not isinstance(step, Connect):
                return await act_async(self._conn, step)
            self._conn = await self._connect()
        except Exception as error:
            if gone(self._conn, error):
                await self._conn.close()
            raise
        finally:
            self._batches.lost = self._conn.closed
