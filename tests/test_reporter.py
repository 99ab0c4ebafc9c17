"""Reports of many threads over one connection: batches, order, what is refused, and what a TaskReporter outlives."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyapp import Task, TaskNotFound, TaskReport, TaskReporter, add_tasks, grant, list_tasks, migrate, report_task
from pyapp.batch import Waiting, report_all, take_batch

from .conftest import Role
from .helpers import counters, in_background, new_tasks, new_workflow, progress, wait_until_blocked_by
from .service import wait_for
from .test_recovery import deadlocks, meanwhile

REPORTER = "application_name=reporter"
STATUSES = ["pending", "assigned", "running", "completed", "failed", "cancelled"]
Session = Callable[[], psycopg.Connection]


@pytest.fixture
def reporter(dsn: str) -> Iterator[TaskReporter]:
    with TaskReporter(f"{dsn} {REPORTER}") as reporter:
        yield reporter


def backend(conn: psycopg.Connection) -> int:
    """Tell the process that serves the reporter."""
    query = (
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'reporter'"
        " order by backend_start desc limit 1"
    )
    return wait_for(lambda: conn.execute(query).fetchone())[0]


@contextmanager
def held(holder: psycopg.Connection, workflow: Any) -> Iterator[None]:
    """Keep whatever counts in a workflow waiting."""
    holder.execute("select from workflow where id = %s for no key update", [workflow])
    try:
        yield
    finally:
        holder.commit()


def wait_until_held(conn: psycopg.Connection, holder: psycopg.Connection) -> None:
    """Wait until the reporter waits for the holder: what is reported from now on goes into the next batch."""
    wait_until_blocked_by(conn, backend(conn), holder.info.backend_pid)


def transactions(conn: psycopg.Connection, tasks: list[Any]) -> int:
    """Count the transactions that wrote these tasks last."""
    return conn.execute("select count(distinct xmin::text) from agent_task where id = any(%s)", [tasks]).fetchone()[0]


# --- Batches ----------------------------------------------------------------------------------------------------


def test_a_report_is_sent_at_once_when_nothing_is_under_way(conn: psycopg.Connection, reporter: TaskReporter) -> None:
    workflow = new_workflow(conn)
    one, two = new_tasks(conn, workflow, "running", "running")
    task = reporter.report(workflow, one, "completed", {"files": 3}).result(10)
    assert isinstance(task, Task)
    assert (task.id, task.status, task.result) == (one, "completed", {"files": 3})
    assert progress(conn, workflow) == (50, 1, 2)
    assert reporter.report(str(workflow), str(two), "failed").result(10).status == "failed"
    assert counters(conn, workflow) == (2, 1, 1, 0)


def test_reports_of_many_threads_over_two_reporters_are_all_counted_and_never_deadlock(
    dsn: str, conn: psycopg.Connection
) -> None:
    workflows = [new_workflow(conn) for _ in range(3)]
    tasks = {workflow: new_tasks(conn, workflow, *["pending"] * 100) for workflow in workflows}
    before = deadlocks(conn)
    with TaskReporter(f"{dsn} {REPORTER}", size=17) as forth, TaskReporter(f"{dsn} {REPORTER}", size=19) as back:

        def work(number: int) -> None:
            reporter, order = (forth, 1) if number % 2 else (back, -1)
            for workflow in workflows[::order]:
                for task in tasks[workflow][::order][number // 2 :: 10]:
                    reporter.report(workflow, task, "running")
                    assert reporter.report(workflow, task, "completed", "done").result(30).result == "done"

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(work, range(20)))
        assert [progress(conn, workflow) for workflow in workflows] == [(100, 100, 100)] * 3
    wait_for(lambda: conn.execute("select from pg_stat_activity where application_name = 'reporter'").rowcount == 0)
    assert deadlocks(conn) == before


def test_what_comes_while_a_commit_is_under_way_is_one_commit(
    conn: psycopg.Connection, session: Session, reporter: TaskReporter
) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    first, *rest = new_tasks(conn, one, *["running"] * 30)
    others = new_tasks(conn, other, *["running"] * 30)
    holder = session()
    with held(holder, one):
        reporter.report(one, first, "completed")
        wait_until_held(conn, holder)
        for workflow, tasks in ((other, others), (one, rest)):
            for task in tasks:
                reporter.report(workflow, task, "completed")
    reporter.flush()
    assert transactions(conn, [*rest, *others]) == 1
    assert transactions(conn, [first, *rest, *others]) == 2
    assert progress(conn, one) == progress(conn, other) == (100, 30, 30)


def test_a_batch_counts_in_its_workflows_in_the_order_of_their_ids(
    conn: psycopg.Connection, session: Session, reporter: TaskReporter
) -> None:
    gate, *workflows = sorted(new_workflow(conn) for _ in range(6))
    tasks = {workflow: new_tasks(conn, workflow, "running")[0] for workflow in (gate, *workflows)}
    holder, second = session(), session()
    with held(second, workflows[2]):
        with held(holder, gate):
            reporter.report(gate, tasks[gate], "completed")
            wait_until_held(conn, holder)
            for workflow in reversed(workflows):
                reporter.report(workflow, tasks[workflow], "completed")
        wait_until_held(conn, second)
        free = conn.execute("select id from workflow for no key update skip locked").fetchall()
        assert sorted(row[0] for row in free) == [gate, *workflows[3:]]
    reporter.flush()


def test_a_batch_is_no_larger_than_its_size(dsn: str, conn: psycopg.Connection, session: Session) -> None:
    workflow = new_workflow(conn)
    first, *rest = new_tasks(conn, workflow, *["running"] * 11)
    holder = session()
    with TaskReporter(f"{dsn} {REPORTER}", size=5) as reporter, held(holder, workflow):
        reporter.report(workflow, first, "completed")
        wait_until_held(conn, holder)
        for task in rest:
            reporter.report(workflow, task, "completed")
        holder.commit()
    assert [transactions(conn, tasks) for tasks in (rest[:5], rest[5:], rest)] == [1, 1, 2]


def test_a_report_that_may_linger_waits_until_the_batch_is_full(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 4)
    with TaskReporter(dsn, size=4, linger=60) as reporter:
        for task in tasks:
            assert progress(conn, workflow) == (0, 0, 4)  # and time for a reporter that does not wait
            done = reporter.report(workflow, task, "completed")
        assert done.result(10).status == "completed"
    assert transactions(conn, tasks) == 1


def test_a_report_lingers_no_longer_than_it_may(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with TaskReporter(dsn, linger=0.01) as reporter:
        assert reporter.report(workflow, task, "completed").result(10).status == "completed"


@pytest.mark.parametrize("hurry", [TaskReporter.flush, TaskReporter.close])
def test_nothing_lingers_when_it_is_waited_for(
    dsn: str, conn: psycopg.Connection, hurry: Callable[[TaskReporter], None]
) -> None:
    workflow = new_workflow(conn)
    one, two = new_tasks(conn, workflow, "running", "running")
    with TaskReporter(dsn, linger=60) as reporter:
        for task in (one, two):
            reporter.report(workflow, task, "completed")
        in_background(hurry, reporter).result(10)
        assert progress(conn, workflow) == (100, 2, 2)


# --- Order ------------------------------------------------------------------------------------------------------

Reports = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(STATUSES),
        st.one_of(st.none(), st.integers(), st.just({"a": [1]})),
        st.booleans(),
    ),
    max_size=12,
)
PROPERTY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def essence(task: Task) -> tuple[Any, ...]:
    times = (task.assigned_at, task.started_at, task.completed_at)
    return task.status, task.result, task.retry_count, *(time is None for time in times)


def test_reports_come_out_as_if_each_had_been_committed_alone(dsn: str, conn: psycopg.Connection) -> None:
    with TaskReporter(dsn, size=5) as reporter:

        @PROPERTY
        @given(reports=Reports)
        def check(reports: list[tuple[int, str, Any, bool]]) -> None:
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


def test_a_batch_that_is_sent_again_changes_no_more_than_times(conn: psycopg.Connection) -> None:
    @PROPERTY
    @given(before=st.lists(st.sampled_from(STATUSES), min_size=3, max_size=3), reports=Reports)
    def check(before: list[str], reports: list[tuple[int, str, Any, bool]]) -> None:
        workflow = new_workflow(conn)
        tasks = new_tasks(conn, workflow, *before)
        waiting = deque(Waiting(workflow, TaskReport(tasks[number], *rest)) for number, *rest in reports)
        while batch := take_batch(waiting, 500):
            report_all(conn, batch)
            once = [essence(task) for task in list_tasks(conn, workflow)]
            report_all(conn, batch)
            assert [essence(task) for task in list_tasks(conn, workflow)] == once

    check()


# --- What is refused --------------------------------------------------------------------------------------------


@pytest.fixture
def other_task(conn: psycopg.Connection) -> UUID:
    """A task of another workflow."""
    return new_tasks(conn, new_workflow(conn), "running")[0]


BAD: dict[str, tuple[Callable[[Any, Any], tuple[Any, ...]], type[Exception]]] = {
    "unknown task": (lambda task, other: (uuid4(), "completed"), TaskNotFound),
    "task of another workflow": (lambda task, other: (other, "completed"), TaskNotFound),
    "a result that is no JSON": (lambda task, other: (task, "completed", {1j}), TypeError),
    "a result PostgreSQL does not take": (lambda task, other: (task, "completed", "\0"), psycopg.DataError),
    "no number": (lambda task, other: (task, "completed", float("nan")), psycopg.DataError),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_report_that_is_wrong_fails_alone_and_is_told(
    conn: psycopg.Connection, session: Session, reporter: TaskReporter, other_task: UUID, kind: str
) -> None:
    make, error = BAD[kind]
    workflow = new_workflow(conn)
    first, bad, *good = new_tasks(conn, workflow, *["running"] * 12)
    holder = session()
    with held(holder, workflow):
        done = [reporter.report(workflow, first, "completed")]
        wait_until_held(conn, holder)
        done += [reporter.report(workflow, task, "completed") for task in good[:5]]
        failed = reporter.report(workflow, *make(bad, other_task))
        done += [reporter.report(workflow, task, "completed") for task in good[5:]]
    assert [each.result(10).status for each in done] == ["completed"] * 11
    with pytest.raises(error):
        failed.result(10)
    with pytest.raises(ExceptionGroup, match=r"^1 report failed$") as told:
        reporter.flush()
    assert told.value.exceptions == (failed.exception(),)
    assert f"of workflow {workflow}" in told.value.exceptions[0].__notes__[0]
    reporter.flush()  # told once
    assert counters(conn, workflow) == (12, 11, 0, 0)


def test_a_wrong_report_does_not_disturb_the_others_of_its_task(
    conn: psycopg.Connection, session: Session, reporter: TaskReporter
) -> None:
    workflow = new_workflow(conn)
    first, task = new_tasks(conn, workflow, "running", "pending")
    holder = session()
    with held(holder, workflow):
        reporter.report(workflow, first, "completed")
        wait_until_held(conn, holder)
        for status, result in (("running", None), ("failed", 1), ("failed", "\0"), ("completed", {1j})):
            reporter.report(workflow, task, status, result)
    with pytest.raises(ExceptionGroup, match="2 reports failed"):
        reporter.flush()
    (found,) = [each for each in list_tasks(conn, workflow) if each.id == task]
    assert (found.status, found.result) == ("failed", 1)


def test_what_failed_is_raised_at_the_end_of_the_block(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with pytest.raises(ExceptionGroup, match="1 report failed"), TaskReporter(dsn) as reporter:  # noqa: PT012
        reporter.report(workflow, task, "completed")
        reporter.report(workflow, uuid4(), "failed")
    assert progress(conn, workflow) == (100, 1, 1)


def test_an_error_in_the_block_ends_it_after_what_was_reported_is_committed(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with pytest.raises(ZeroDivisionError) as raised, TaskReporter(dsn, linger=60) as reporter:  # noqa: PT012
        reporter.report(workflow, task, "completed")
        reporter.report(workflow, uuid4(), "failed")
        1 / 0  # noqa: B018
    assert "1 report failed" in raised.value.__notes__[0]
    assert "not found in workflow" in raised.value.__notes__[0]
    assert progress(conn, workflow) == (100, 1, 1)


@pytest.mark.parametrize("status", ["done", "", None, "Completed"])
def test_an_unknown_status_is_refused_at_once(reporter: TaskReporter, status: Any) -> None:
    with pytest.raises(ValueError, match=f"^{status!r} is no status of a task: pending, assigned, running, completed"):
        reporter.report(uuid4(), uuid4(), status)


def test_what_is_no_id_is_refused_at_once(reporter: TaskReporter) -> None:
    for ids in ((1, uuid4()), (uuid4(), "x")):
        with pytest.raises(ValueError, match="UUID"):
            reporter.report(*ids, "completed")


def test_a_result_is_what_it_was_when_it_was_reported(
    conn: psycopg.Connection, session: Session, reporter: TaskReporter
) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    holder, result = session(), {"files": [1]}
    with held(holder, workflow):
        reporter.report(workflow, task, "failed", result)
        wait_until_held(conn, holder)
        done = reporter.report(workflow, task, "completed", result)
        result["files"].append(2)
    assert done.result(10).result == {"files": [1]}


def test_a_report_cannot_be_cancelled(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with TaskReporter(dsn, linger=60) as reporter:
        done = reporter.report(workflow, task, "completed")
        assert not done.cancel()
    assert done.result(0).status == "completed"


@pytest.mark.parametrize("wrong", [{"size": 0}, {"capacity": 0}, {"linger": -1}])
def test_a_reporter_that_could_not_work_is_not_made(dsn: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        TaskReporter(dsn, **wrong)


# --- Waiting for room, and the end ------------------------------------------------------------------------------


def test_a_report_waits_for_room(dsn: str, conn: psycopg.Connection, session: Session) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 5)
    holder = session()
    with TaskReporter(f"{dsn} {REPORTER}", capacity=2) as reporter:
        with held(holder, workflow):
            reporter.report(workflow, tasks[0], "completed")
            wait_until_held(conn, holder)
            for task in tasks[1:3]:
                reporter.report(workflow, task, "completed")
            late = [in_background(reporter.report, workflow, task, "completed") for task in tasks[3:]]
            wait_for(lambda: len(reporter._room._waiters) == 2)
            assert len(reporter._waiting) == 2
        assert [each.result(10).result(10).status for each in late] == ["completed"] * 2
    assert progress(conn, workflow) == (100, 5, 5)


def test_a_reporter_that_is_closed_refuses_those_who_wait_for_room_and_those_who_come(
    dsn: str, conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 3)
    holder = session()
    reporter = TaskReporter(f"{dsn} {REPORTER}", capacity=1)
    with held(holder, workflow):
        reporter.report(workflow, tasks[0], "completed")
        wait_until_held(conn, holder)
        reporter.report(workflow, tasks[1], "completed")
        late = in_background(reporter.report, workflow, tasks[2], "completed")
        wait_for(lambda: reporter._room._waiters)
        closing = in_background(reporter.close)
        with pytest.raises(RuntimeError, match="closed"):
            late.result(10)
    closing.result(10)
    with pytest.raises(RuntimeError, match="closed"):
        reporter.report(workflow, tasks[2], "completed")
    reporter.close()
    assert counters(conn, workflow) == (3, 2, 0, 0)
    wait_for(lambda: conn.execute("select from pg_stat_activity where application_name = 'reporter'").rowcount == 0)


def test_a_callback_reports_even_where_there_is_no_room_and_cannot_wait_for_reports(
    dsn: str, conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 4)
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
        in_background(reporter.flush).result(10)
        assert len(further) == 2
    assert refused == ["a callback of a report cannot wait for reports"]
    assert progress(conn, workflow) == (100, 4, 4)


def python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_what_was_reported_is_committed_when_the_interpreter_ends(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
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


def test_a_forked_process_leaves_the_reporter_to_its_parent(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    code = """
import os, signal, sys, pyapp
dsn, workflow, task = sys.argv[1:]
with pyapp.TaskReporter(dsn, linger=60) as reporter:
    reporter.report(workflow, task, "completed")
    with reporter._room:  # as another thread may
        child = os.fork()
        if not child:
            signal.alarm(20)
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


def test_a_deadlock_is_tried_again(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    one, two = new_tasks(conn, workflow, "running", "running")
    before = deadlocks(conn)
    # Who looks for a deadlock while the circle is closed is the victim: the reporter, since the other looks much later.
    with (
        TaskReporter(f"{dsn} {REPORTER} options='-c deadlock_timeout=10ms'") as reporter,
        psycopg.connect(f"{dsn} options='-c deadlock_timeout=20s'") as other,
        psycopg.connect(dsn) as gate,
    ):
        gate.execute("select from agent_task where id = %s for update", [two])
        other.execute("update workflow set description = 'x' where id = %s", [workflow])
        done = [reporter.report(workflow, two, "completed")]
        wait_until_held(conn, gate)
        locking = in_background(other.execute, "select from agent_task where id = %s for update", [two])
        wait_until_blocked_by(conn, other.info.backend_pid, backend(conn))
        done.append(reporter.report(workflow, one, "completed"))
        gate.commit()  # the reporter has the task and waits for the workflow, whose holder waits for the task
        locking.result(10)
        other.commit()
        assert [each.result(10).status for each in done] == ["completed"] * 2
    wait_for(lambda: deadlocks(conn) == before + 1)
    assert progress(conn, workflow) == (100, 2, 2)


def work_hard(reporter: TaskReporter, tasks: dict[UUID, list[UUID]], agents: int) -> None:
    """Take every task through its life, once more where the number of the agent is odd, each waiting for an answer."""

    def work(number: int) -> None:
        reopens = number % 2 == 1
        for workflow, of_workflow in tasks.items():
            for task in of_workflow[number::agents]:
                reporter.report(workflow, task, "running")
                reporter.report(workflow, task, "failed", "first")
                if reopens:
                    reporter.report(workflow, task, "running", reopen=True)
                    reporter.report(workflow, task, "completed", number)
                reporter.report(workflow, task, "running")  # late
                reporter.flush()

    with ThreadPoolExecutor(agents) as pool:
        list(pool.map(work, range(agents)))


def assert_worked(dsn: str, tasks: dict[UUID, list[UUID]], agents: int) -> None:
    with psycopg.connect(dsn) as conn:
        for workflow, of_workflow in tasks.items():
            outcome = {task.id: (task.status, task.result, task.retry_count) for task in list_tasks(conn, workflow)}
            for number in range(agents):
                expected = ("completed", number, 1) if number % 2 else ("failed", "first", 0)
                assert {outcome[task] for task in of_workflow[number::agents]} == {expected}
        assert conn.execute("select * from workflow_progress_drift").fetchall() == []


def test_reports_are_kept_though_sessions_are_ended_at_any_moment(dsn: str, conn: psycopg.Connection) -> None:
    chance, ended, seen = random.Random(1), [], []
    workflows = [new_workflow(conn) for _ in range(2)]
    tasks = {workflow: new_tasks(conn, workflow, *["pending"] * 32) for workflow in workflows}

    def terminate() -> None:
        now = conn.execute("select sum(agents_failed), sum(agents_completed) from workflow").fetchone()
        if now in seen[-1:]:
            return  # it must get on in between
        seen.append(now)
        time.sleep(chance.uniform(0, 0.01))
        ended.extend(
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'reporter' and datname = current_database()"
            ).fetchall()
        )

    with TaskReporter(f"{dsn} {REPORTER}", size=20) as reporter:
        with meanwhile(terminate):
            work_hard(reporter, tasks, agents=8)
        assert len(ended) > 3
    assert_worked(dsn, tasks, 8)


@contextmanager
def unanswered_commits(conn: psycopg.Connection) -> Iterator[None]:
    """Let commits wait for a standby which is not there: they are done, and the answer is lost with the session."""
    conn.execute("set synchronous_commit = local")
    conn.execute("alter system set synchronous_standby_names = 'nobody'")
    conn.execute("select pg_reload_conf()")
    wait_for(lambda: conn.execute("show synchronous_standby_names").fetchone() == ("nobody",))
    try:
        yield
    finally:
        conn.execute("alter system reset synchronous_standby_names")
        conn.execute("select pg_reload_conf()")


def test_a_report_whose_answer_was_lost_is_neither_lost_nor_written_over_what_others_did_since(
    own_server: Callable[[], Any],
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
            reporter = closing.enter_context(TaskReporter(f"{busy} {REPORTER}", linger=60, size=2))
            with unanswered_commits(admin):
                done = [
                    reporter.report(workflow, failed, "failed", "late"),
                    reporter.report(workflow, opened, "running", reopen=True),
                ]
                waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
                (pid,) = wait_for(lambda: admin.execute(waiting).fetchone())
                # It does not come back before others have been at work.
                admin.execute("alter database busy allow_connections false")
                admin.execute("select pg_terminate_backend(%s, 10000)", [pid])
                report_task(conn, workflow, failed, "running", reopen=True)
                report_task(conn, workflow, opened, "completed")
            admin.execute("alter database busy allow_connections true")
            assert [each.result(30).status for each in done] == ["failed", "running"]
            outcome = {task.id: (task.status, task.result, task.retry_count) for task in list_tasks(conn, workflow)}
            assert outcome == {failed: ("running", None, 1), opened: ("completed", None, 1)}
            assert conn.execute("select * from workflow_progress_drift").fetchall() == []


def test_reports_are_kept_though_the_server_crashes_under_load(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        tasks = {workflow: new_tasks(conn, workflow, *["pending"] * 160) for workflow in [new_workflow(conn)]}
    with TaskReporter(server.dsn, size=20) as reporter:
        working = in_background(work_hard, reporter, tasks, 8)
        for settled in (10, 40):
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                query = f"select from agent_task where status >= 'completed' offset {settled}"
                wait_for(lambda conn=conn, query=query: conn.execute(query).rowcount)
            os.kill(server.pid, signal.SIGKILL)
            server = own_server()
        assert not working.done()
        working.result(100)
    assert_worked(server.dsn, tasks, 8)


def test_a_database_that_stays_away_is_told_to_all(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    reporter = TaskReporter(f"{server.dsn} {REPORTER}", patience=0.1, capacity=2, size=1)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        tasks = new_tasks(conn, workflow, *["running"] * 4)
        pid = backend(conn)
    os.kill(server.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)  # it may else get some more done before it finds that its server is gone
    late = [in_background(reporter.report, workflow, task, "completed") for task in tasks]
    for each in late:
        error = each.exception(30) or each.result().exception(30)
        told = error.__cause__ if isinstance(error, RuntimeError) else error
        assert isinstance(told, psycopg.OperationalError)
    with pytest.raises(RuntimeError, match="given up"):
        reporter.report(workflow, tasks[0], "completed")
    with pytest.raises(ExceptionGroup, match="report"):
        reporter.flush()
    reporter.close()
    with pytest.raises(psycopg.OperationalError):
        TaskReporter(server.dsn)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_serialization_failures_are_tried_again(
    dsn: str, conn: psycopg.Connection, session: Session, level: str
) -> None:
    workflow = new_workflow(conn)
    one, two = new_tasks(conn, workflow, "running", "running")
    conn.execute(f"alter database {conn.info.dbname} set default_transaction_isolation = '{level}'")
    other = session()
    with TaskReporter(f"{dsn} {REPORTER}") as reporter:
        report_task(other, workflow, one, "completed")
        done = reporter.report(workflow, two, "completed")
        wait_until_held(conn, other)
        other.commit()  # the reporter's snapshot is older
        assert done.result(10).status == "completed"
    assert progress(conn, workflow) == (100, 2, 2)


def test_the_role_of_an_agent_may_report(dsn: str, conn: psycopg.Connection, new_role: Callable[..., Role]) -> None:
    role = new_role()
    grant(conn, agents=[role.name])
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with TaskReporter(role.dsn) as reporter:
        reporter.report(workflow, task, "completed")
    assert progress(conn, workflow) == (100, 1, 1)
