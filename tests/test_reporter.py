"""Reports in batches over one connection, from threads and from asyncio: order, what is refused, what is outlived."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection

import pyapp
from pyapp import (
    Task,
    TaskNotFound,
    TaskReport,
    TaskReporter,
    UnknownStatus,
    add_tasks,
    list_tasks,
    migrate,
    report_task,
)
from pyapp.batches import Batches, Entry
from pyapp.both import commit, complete, fetch
from pyapp.db import Session as Sends
from pyapp.models import TASK_STATUSES

from .commands import finished
from .helpers import (
    PATIENCE,
    at_work,
    counters,
    deadlocks,
    in_background,
    kill,
    new_tasks,
    new_workflow,
    obstruct,
    progress,
    sessions,
    unanswered_commits,
    wait_for,
    wait_until_blocked_by,
    wait_until_gone,
    wait_until_obstructed,
)

REPORTER = "application_name=reporter"
Session = Callable[[], Connection]


Start = Callable[..., TaskReporter]


@pytest.fixture
def start(dsn: str) -> Start:
    """Start a reporter on the database of the test unless told otherwise."""
    return lambda dsn=f"{dsn} {REPORTER}", **options: TaskReporter(dsn, **options)


@pytest.fixture
def reporter(start: Start) -> Iterator[TaskReporter]:
    with start() as reporter:
        yield reporter


def backend(conn: Connection) -> int:
    """Tell the process that serves the reporter."""
    pid: int = wait_for(lambda: sessions(conn, "reporter"))[-1]
    return pid


@contextmanager
def held(holder: Connection, workflow: Any) -> Iterator[None]:
    """Keep whatever counts in a workflow waiting."""
    holder.execute("select from workflow where id = %s for no key update", [workflow])
    try:
        yield
    finally:
        holder.commit()


def wait_until_held(conn: Connection, holder: Connection) -> None:
    """Wait until the reporter waits for the holder: what is reported from now on goes into the next batch."""
    wait_until_blocked_by(conn, backend(conn), holder.info.backend_pid)


def transactions(conn: Connection, tasks: list[Any]) -> int:
    """Count the transactions that wrote these tasks last."""
    return conn.execute("select count(distinct xmin::text) from agent_task where id = any(%s)", [tasks]).fetchone()[0]


# --- Batches ----------------------------------------------------------------------------------------------------


def test_reports_of_many_threads_over_two_reporters_are_all_counted_and_never_deadlock(
    conn: Connection, start: Start
) -> None:
    workflows = [new_workflow(conn) for _ in range(3)]
    tasks = {workflow: new_tasks(conn, workflow, *["pending"] * 60) for workflow in workflows}
    before = deadlocks(conn)
    with start(size=17) as forth, start(size=19) as back:

        def work(number: int) -> None:
            reporter, order = (forth, 1) if number % 2 else (back, -1)
            for workflow in workflows[::order]:
                for task in tasks[workflow][::order][number // 2 :: 6]:
                    reporter.report(workflow, task, "running")
                    assert reporter.report(workflow, task, "completed", "done").result(60).result == "done"

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(work, range(12)))
        assert [progress(conn, workflow) for workflow in workflows] == [(100, 60, 60)] * 3
    wait_until_gone(conn, "reporter")
    assert deadlocks(conn) == before


def test_what_comes_while_a_commit_is_under_way_is_one_commit_in_the_order_of_the_workflows(
    conn: Connection, session: Session, reporter: TaskReporter
) -> None:
    gate, *workflows = sorted(new_workflow(conn) for _ in range(6))
    tasks = {workflow: new_tasks(conn, workflow, *["running"] * 3) for workflow in (gate, *workflows)}
    holder, second = session(), session()
    with held(second, workflows[2]):
        with held(holder, gate):
            reporter.report(gate, tasks[gate][0], "completed")
            wait_until_held(conn, holder)
            for workflow in (*reversed(workflows), gate):
                for task in tasks[workflow]:
                    reporter.report(workflow, task, "completed")
        wait_until_held(conn, second)
        free = conn.execute("select id from workflow for no key update skip locked").fetchall()
        assert sorted(row[0] for row in free) == workflows[3:]
    reporter.flush()
    assert transactions(conn, [task for workflow in workflows for task in tasks[workflow]] + tasks[gate][1:]) == 1
    assert transactions(conn, tasks[gate]) == 2
    assert [progress(conn, workflow) for workflow in tasks] == [(100, 3, 3)] * 6


def test_a_batch_is_no_larger_than_its_size(conn: Connection, session: Session, start: Start) -> None:
    workflow, (first, *rest) = at_work(conn, 11)
    holder = session()
    with start(size=5) as reporter, held(holder, workflow):
        reporter.report(workflow, first, "completed")
        wait_until_held(conn, holder)
        for task in rest:
            reporter.report(workflow, task, "completed")
        holder.commit()
    assert [transactions(conn, tasks) for tasks in (rest[:5], rest[5:], rest)] == [1, 1, 2]


def test_a_report_that_may_linger_waits_until_the_batch_is_full_or_its_time_is_over(
    conn: Connection, start: Start
) -> None:
    workflow, (*tasks, last) = at_work(conn, 5)
    with start(size=4, linger=60) as reporter:
        for task in tasks:
            assert progress(conn, workflow) == (0, 0, 5)  # and time for a reporter that does not wait
            done = reporter.report(workflow, task, "completed")
        assert done.result(60).status == "completed"
    assert transactions(conn, tasks) == 1
    with start(linger=0.01) as reporter:
        assert reporter.report(workflow, last, "completed").result(60).status == "completed"


@pytest.mark.parametrize("hurry", ["flush", "close"])
def test_nothing_lingers_when_it_is_waited_for(conn: Connection, start: Start, hurry: str) -> None:
    workflow = new_workflow(conn)
    with start(linger=3600) as reporter:
        for task in new_tasks(conn, workflow, "running", "running"):
            reporter.report(workflow, task, "completed")
        in_background(getattr(reporter, hurry)).result(60)
        assert progress(conn, workflow) == (100, 2, 2)
        assert not reporter._batches.hurried


# --- Order ------------------------------------------------------------------------------------------------------

Reports = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(TASK_STATUSES),
        st.one_of(st.none(), st.integers(), st.just({"a": [1]})),
        st.booleans(),
    ),
    max_size=12,
)
PROPERTY = settings(max_examples=25)


def essence(task: Task) -> tuple[Any, ...]:
    times = (task.assigned_at, task.started_at, task.completed_at)
    return task.status, task.result, task.retry_count, *(time is None for time in times)


def test_reports_come_out_as_if_each_had_been_committed_alone(conn: Connection, start: Start) -> None:
    with start(size=5) as reporter:

        @PROPERTY
        @given(reports=Reports)
        def check(reports: list[tuple[int, Any, Any, bool]]) -> None:
            batched, single = new_workflow(conn), new_workflow(conn)
            tasks = {w: [task.id for task in add_tasks(conn, w, ["a"] * 3)] for w in (batched, single)}
            for number, *rest in reports:
                reporter.report(batched, tasks[batched][number], *rest)
            for number, *rest in reports:
                report_task(conn, single, tasks[single][number], *rest)
            reporter.flush()
            found = {task.id: essence(task) for w in (batched, single) for task in list_tasks(conn, w)}
            assert [found[task] for task in tasks[batched]] == [found[task] for task in tasks[single]]
            assert counters(conn, batched) == counters(conn, single)

        check()


def test_a_batch_that_is_sent_again_changes_no_more_than_times(conn: Connection) -> None:
    @PROPERTY
    @given(before=st.lists(st.sampled_from(TASK_STATUSES), min_size=3, max_size=3), reports=Reports)
    def check(before: list[str], reports: list[tuple[int, Any, Any, bool]]) -> None:
        workflow = new_workflow(conn)
        tasks = new_tasks(conn, workflow, *before)
        batches: Batches = Batches(
            Sends(Connection, None, None), size=500, linger=0, capacity=1, patience=0, schema=None
        )
        batches.waiting.extend(Entry(workflow, TaskReport(tasks[n], *rest), Future()) for n, *rest in reports)
        while batch := batches.take():
            statements = batches._statements(batch)
            commit(conn, statements, [])
            once = [essence(task) for task in list_tasks(conn, workflow)]
            commit(conn, statements, [])
            assert [essence(task) for task in list_tasks(conn, workflow)] == once

    check()


# --- What is refused --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[Any, Any], tuple[Any, ...]], type[Exception]]] = {
    "unknown task": (lambda task, other: (uuid4(), "completed"), TaskNotFound),
    "task of another workflow": (lambda task, other: (other, "completed"), TaskNotFound),
    "a result that is no JSON": (lambda task, other: (task, "completed", {1j}), TypeError),
    "a result PostgreSQL does not take": (lambda task, other: (task, "completed", "\0"), psycopg.DataError),
    "no number": (lambda task, other: (task, "completed", float("nan")), psycopg.DataError),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_report_that_is_wrong_fails_alone_and_is_told(
    conn: Connection, session: Session, reporter: TaskReporter, kind: str
) -> None:
    make, error = BAD[kind]
    workflow, (first, bad, *good) = at_work(conn, 12)
    (other_task,) = new_tasks(conn, new_workflow(conn), "running")
    holder = session()
    with held(holder, workflow):
        done = [reporter.report(workflow, first, "completed")]
        wait_until_held(conn, holder)
        done += [reporter.report(workflow, task, "completed") for task in good[:5]]
        failed = reporter.report(workflow, *make(bad, other_task))
        done += [reporter.report(workflow, task, "completed") for task in good[5:]]
        # Neither the one before it nor the one after it of the same task suffers.
        done += [reporter.report(workflow, good[0], "completed", "better")]
    assert [each.result(60).status for each in done] == ["completed"] * 12
    assert done[-1].result().result == "better"
    with pytest.raises(error):
        failed.result(60)
    with pytest.raises(ExceptionGroup, match=r"^1 report failed$") as told:
        reporter.flush()
    assert told.value.exceptions == (failed.exception(),)
    assert f"of workflow {workflow}" in told.value.exceptions[0].__notes__[0]
    reporter.flush()  # told once
    assert counters(conn, workflow) == (12, 11, 0, 0)


def test_what_failed_is_raised_at_the_end_of_the_block_or_a_note_of_the_error_that_ended_it(
    conn: Connection, start: Start
) -> None:
    workflow, (one, two) = at_work(conn, 2)
    with pytest.raises(ExceptionGroup, match="2 reports failed") as told, start() as reporter:  # noqa: PT012
        reporter.report(workflow, one, "completed")
        for _ in range(2):
            reporter.report(workflow, uuid4(), "failed")
    assert [type(error) for error in told.value.exceptions] == [TaskNotFound] * 2
    with pytest.raises(ZeroDivisionError) as raised, start(linger=60) as reporter:  # noqa: PT012
        reporter.report(workflow, two, "completed")
        reporter.report(workflow, uuid4(), "failed")
        1 / 0  # noqa: B018
    assert "1 report failed" in raised.value.__notes__[0]
    assert "not found in workflow" in raised.value.__notes__[0]
    assert progress(conn, workflow) == (100, 2, 2)


@pytest.mark.parametrize("status", ["done", "", None, "Completed"])
def test_an_unknown_status_and_what_is_no_id_are_refused_at_once(reporter: TaskReporter, status: Any) -> None:
    with pytest.raises(UnknownStatus, match=f"^{status!r} is no status of a task: pending, assigned, running"):
        reporter.report(uuid4(), uuid4(), status)
    for ids in ((1, uuid4()), (uuid4(), "x")):
        with pytest.raises(ValueError, match="UUID"):
            reporter.report(*ids, "completed")


def test_a_result_is_what_it_was_when_it_was_reported(
    conn: Connection, session: Session, reporter: TaskReporter
) -> None:
    workflow, (task,) = at_work(conn, 1)
    holder, result = session(), {"files": [1]}
    with held(holder, workflow):
        reporter.report(workflow, task, "failed", result)
        wait_until_held(conn, holder)
        done = reporter.report(workflow, task, "completed", result)
        result["files"].append(2)
    assert done.result(60).result == {"files": [1]}


@pytest.mark.parametrize("options", [{"size": 0}, {"capacity": 0}, {"linger": -1}])
def test_limits_that_are_none_are_refused(start: Start, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="size and capacity are 1 or more"):
        start(**options)


# --- Room and the end -------------------------------------------------------------------------------------------


def test_whoever_reports_waits_for_room_and_is_refused_when_it_is_closed(
    conn: Connection, session: Session, start: Start
) -> None:
    workflow, tasks = at_work(conn, 6)
    holder = session()
    with start(capacity=2) as reporter:
        with held(holder, workflow):
            reporter.report(workflow, tasks[0], "completed")
            wait_until_held(conn, holder)
            for task in tasks[1:3]:
                reporter.report(workflow, task, "completed")
            late = [in_background(reporter.report, workflow, task, "completed") for task in tasks[3:5]]
            time.sleep(0.05)  # a reporter that does not wait would have taken them by now
            assert len(reporter._batches.waiting) == 2
            assert not any(each.done() for each in late)
        assert [each.result(60).result(60).status for each in late] == ["completed"] * 2
        reporter.flush()
        with held(holder, workflow):
            for _ in range(3):
                reporter.report(workflow, tasks[5], "completed", 1)
                reporter._batches.sending or wait_until_held(conn, holder)
            refused = in_background(reporter.report, workflow, tasks[5], "failed")
            closing = in_background(reporter.close)
            with pytest.raises(RuntimeError, match="closed"):
                refused.result(60)
        closing.result(60)
        with pytest.raises(RuntimeError, match="closed"):
            reporter.report(workflow, tasks[2], "completed")
    assert progress(conn, workflow) == (100, 6, 6)
    wait_until_gone(conn, "reporter")


def test_a_callback_reports_even_where_there_is_no_room_and_cannot_wait_for_reports(
    dsn: str, conn: Connection, session: Session
) -> None:
    workflow, tasks = at_work(conn, 4)
    holder, further, refused = session(), [], []
    with TaskReporter(f"{dsn} {REPORTER}", capacity=1, size=1) as reporter:

        def go_on(_: object) -> None:
            further.extend(reporter.report(workflow, task, "completed") for task in tasks[2:])
            try:
                reporter.flush()
            except RuntimeError as error:
                refused.append(str(error))

        with held(holder, workflow):
            reporter.report(workflow, tasks[0], "completed").add_done_callback(go_on)
            wait_until_held(conn, holder)
            reporter.report(workflow, tasks[1], "completed")
        wait_for(lambda: refused)
        in_background(reporter.flush).result(60)
        assert len(further) == 2
    assert refused == ["a callback of a report cannot wait for reports"]
    assert progress(conn, workflow) == (100, 4, 4)


def test_in_asyncio_reports_wait_for_room_and_are_refused_when_it_is_closed(
    dsn: str, conn: Connection, session: Session
) -> None:
    workflow, tasks = at_work(conn, 4)
    holder = session()

    async def main() -> None:
        with pytest.raises(ValueError, match="size and capacity are 1 or more"):
            await pyapp.aio.TaskReporter(dsn, size=0).__aenter__()
        async with pyapp.aio.TaskReporter(f"{dsn} {REPORTER}", capacity=1) as reporter:
            with held(holder, workflow):
                first = await reporter.report(workflow, tasks[0], "completed")
                await asyncio.to_thread(wait_until_held, conn, holder)
                await reporter.report(workflow, tasks[1], "completed")
                late = asyncio.create_task(reporter.report(workflow, tasks[2], "completed"))
                fourth = asyncio.create_task(reporter.report(workflow, tasks[3], "completed"))
                await asyncio.sleep(0.05)  # a reporter that does not wait would have taken them by now
                assert not late.done()
                assert not fourth.done()
            assert (await first).status == (await (await late)).status == "completed"
            await (await fourth)
            await reporter.close()
            with pytest.raises(RuntimeError, match="closed"):
                await reporter.report(workflow, tasks[3], "failed")
            await reporter.close()

    asyncio.run(main())
    assert progress(conn, workflow) == (100, 4, 4)


def test_in_asyncio_what_was_refused_is_told_by_its_future_by_flush_and_by_the_block(
    dsn: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    workflow, (one,) = at_work(conn, 1)

    async def main() -> None:
        async with pyapp.aio.TaskReporter(dsn) as reporter:
            await reporter.report(workflow, one, "completed")
            refused = await reporter.report(workflow, uuid4(), "failed")
            with pytest.raises(TaskNotFound):
                await refused
            with pytest.raises(ExceptionGroup, match="1 report failed"):
                await reporter.flush()
            await reporter.report(workflow, uuid4(), "failed")

    with pytest.raises(ExceptionGroup, match="1 report failed"):
        asyncio.run(main())
    gc.collect()
    assert not caplog.records  # asyncio does not warn of errors that were told already
    assert progress(conn, workflow) == (100, 1, 1)


def test_in_asyncio_nobody_who_stops_waiting_calls_a_report_back(dsn: str, conn: Connection) -> None:
    workflow, (one, two) = at_work(conn, 2)

    async def main() -> None:
        outside = pyapp.aio.TaskReporter(dsn)
        with pytest.raises(RuntimeError, match="async with"):
            await outside.report(workflow, one, "completed")
        async with pyapp.aio.TaskReporter(dsn, linger=60) as reporter:
            (await reporter.report(workflow, one, "completed")).cancel()
            await reporter.flush()
            assert progress(conn, workflow) == (50, 1, 2)
            await reporter.report(workflow, two, "completed")
            flushing = asyncio.create_task(reporter.flush())
            await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.wait([flushing])
            await reporter.flush()
            assert await asyncio.to_thread(progress, conn, workflow) == (100, 2, 2)
            await reporter.report(workflow, two, "failed")
            raise asyncio.CancelledError  # as when the program is told to end

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert counters(conn, workflow) == (2, 1, 1, 0)


def python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return finished(sys.executable, "-c", code, *arguments, timeout=PATIENCE)


def test_what_was_reported_is_committed_when_the_interpreter_ends(dsn: str, conn: Connection) -> None:
    workflow, (task,) = at_work(conn, 1)
    code = """
import sys, pyapp
dsn, workflow, task = sys.argv[1:]
reporter = pyapp.TaskReporter(dsn, linger=60)
reporter.report(workflow, task, "completed")
reporter.report(workflow, workflow, "completed")
"""
    done = python(code, dsn, workflow, task)
    assert progress(conn, workflow) == (100, 1, 1), done.stderr
    assert "1 report failed" in done.stderr


def test_a_forked_process_leaves_the_reporter_to_its_parent(dsn: str, conn: Connection) -> None:
    workflow, (task,) = at_work(conn, 1)
    code = """
import os, signal, sys, pyapp
dsn, workflow, task = sys.argv[1:]
with pyapp.TaskReporter(dsn, linger=60) as reporter:
    reporter.report(workflow, task, "completed")
    with reporter._room:  # as another thread may
        child = os.fork()
        if not child:
            signal.alarm(60)
            reporter.close()
            for act in (lambda: reporter.report(workflow, task, "failed"), reporter.flush):
                try:
                    act()
                except RuntimeError as error:
                    print(error, flush=True)
            sys.exit(7)  # through the end of the block
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    reporter.flush()
    done = reporter.report(workflow, task, "completed", 1)
    reporter.flush()
    assert done.result().result == 1
"""
    done = python(code, dsn, workflow, task)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "this TaskReporter belongs to the parent process: make one in each\n" * 2
    assert progress(conn, workflow) == (100, 1, 1)


# --- What it outlives -------------------------------------------------------------------------------------------


def test_serialization_failures_are_tried_again(conn: Connection, session: Session, start: Start) -> None:
    workflow, (one, two) = at_work(conn, 2)
    conn.execute(f"alter database {conn.info.dbname} set default_transaction_isolation = 'repeatable read'")
    other = session()
    with start() as reporter:
        report_task(other, workflow, one, "completed")
        done = reporter.report(workflow, two, "completed")
        wait_until_held(conn, other)
        other.commit()  # the reporter's snapshot is older
        assert done.result(60).status == "completed"
    assert progress(conn, workflow) == (100, 2, 2)


def test_a_report_whose_answer_was_lost_is_neither_lost_nor_written_over_what_others_did_since(
    own_server: Callable[[], Any], start: Start
) -> None:
    dsn = own_server().dsn
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("create database busy")
        busy = f"{dsn} dbname=busy"
        migrate(busy)
        with psycopg.connect(busy, autocommit=True) as conn, ExitStack() as closing:
            conn.execute("set synchronous_commit = local")
            workflow = new_workflow(conn)
            failed, opened = new_tasks(conn, workflow, "running", "completed")
            reporter: Any = closing.enter_context(start(f"{busy} {REPORTER}", linger=60, size=2))
            with unanswered_commits(admin):
                done = [
                    reporter.report(workflow, failed, "failed", "late"),
                    reporter.report(workflow, opened, "running", reopen=True),
                ]
                waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
                (pid,) = wait_for(lambda: admin.execute(waiting).fetchone())
                # It does not come back before others have been at work.
                admin.execute("alter database busy allow_connections false")
                admin.execute("select pg_terminate_backend(%s, 60000)", [pid])
                report_task(conn, workflow, failed, "running", reopen=True)
                report_task(conn, workflow, opened, "completed")
            admin.execute("alter database busy allow_connections true")
            assert [each.result(60).status for each in done] == ["failed", "running"]
            outcome = {task.id: (task.status, task.result, task.retry_count) for task in list_tasks(conn, workflow)}
            assert outcome == {failed: ("running", None, 1), opened: ("completed", None, 1)}
            assert conn.execute("select * from workflow_progress_drift").fetchall() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_only_the_server_that_took_a_transaction_can_tell_what_became_of_it(
    conn: Connection, session: Session, end: str
) -> None:
    sends, writing = Sends(psycopg.Connection, conn.info.dsn, None), session()
    sends.conn = conn
    batches: Batches = Batches(sends, size=1, linger=0, capacity=1, patience=0, schema=None)
    [(number, server)] = complete(fetch(writing, batches._statements([])[0]))
    told = in_background(batches._committed, number, server)
    assert not told.done()
    getattr(writing, end)()
    assert told.result(60) == (end == "commit")
    # It was restarted after a crash since.
    assert not batches._committed(number, datetime.now(UTC))


def test_reports_are_kept_though_the_server_crashes_under_load(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        tasks = new_tasks(conn, workflow, *["pending"] * 160)
        obstacles = {"first": tasks[40], "second": tasks[120]}
        for name, task in obstacles.items():
            obstruct(conn, f"new.id = '{task}' and new.status = 'failed'", name)

    with TaskReporter(server.dsn, size=20) as reporter, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> None:
            for task in tasks[number::8]:
                reporter.report(workflow, task, "running")
                reporter.report(workflow, task, "failed", "first")
                if number % 2 == 1:
                    reporter.report(workflow, task, "running", reopen=True)
                    reporter.report(workflow, task, "completed", number)
                reporter.report(workflow, task, "running")  # late
                reporter.flush()

        working = [pool.submit(work, number) for number in range(8)]
        for name in obstacles:
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                wait_until_obstructed(conn)
            kill(server)
            server = own_server()
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute("delete from obstacle where name = %s", [name])
        for each in working:
            each.result(60)
    with psycopg.connect(server.dsn) as conn:
        outcome = {task.id: (task.status, task.result, task.retry_count) for task in list_tasks(conn, workflow)}
        for number in range(8):
            expected = ("completed", number, 1) if number % 2 else ("failed", "first", 0)
            assert {outcome[task] for task in tasks[number::8]} == {expected}
        assert conn.execute("select * from workflow_progress_drift").fetchall() == []


def test_a_database_that_stays_away_is_told_to_all(own_server: Callable[[], Any], start: Start) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn, ExitStack() as closing:
        reporter: Any = closing.enter_context(start(f"{server.dsn} {REPORTER}", patience=0.1, capacity=2, size=1))
        workflow, tasks = at_work(conn, 4)
        pid = backend(conn)
        os.kill(server.pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)  # it may else get some more done before it finds that its server is gone
        late = [in_background(reporter.report, workflow, task, "completed") for task in tasks]
        for each in late:
            error = each.exception(60) or each.result().exception(60)
            told = error.__cause__ if isinstance(error, RuntimeError) else error
            assert isinstance(told, psycopg.OperationalError)
        with pytest.raises(RuntimeError, match="given up"):
            reporter.report(workflow, tasks[0], "completed")
        with pytest.raises(ExceptionGroup, match="report"):
            reporter.flush()
    with pytest.raises(psycopg.OperationalError):
        start(server.dsn)
