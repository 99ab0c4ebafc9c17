"""Writing through the helpers: what they take, what they return, and that trying again never doubles anything."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import pyapp
from pyapp import (
    Drift,
    NewTask,
    Task,
    TaskNotFound,
    TaskReport,
    UnknownStatus,
    WorkflowNotFound,
    add_tasks,
    archive,
    create_workflow,
    get_workflow,
    list_tasks,
    repair,
    report_task,
    report_tasks,
    retry,
    transition,
)

from .helpers import as_replica, counters, new_tasks, new_workflow, progress, row_version

Session = Callable[[], psycopg.Connection]
LONG_AGO = datetime(2020, 2, 2, 12, tzinfo=UTC)


# --- create_workflow ----------------------------------------------------------------------------------------


def test_create_workflow_returns_what_is_stored(conn: psycopg.Connection) -> None:
    parent = create_workflow(conn, "w", "app")
    assert (parent.status, parent.current_stage, parent.priority) == ("initiated", "initialization", "medium")
    assert (parent.agents_total, parent.agents_planned, parent.trace_id) == (0, None, None)
    workflow = create_workflow(
        conn,
        "checkout",
        "feature",
        description="two\nlines",
        status="running",
        current_stage="plan",
        priority="critical",
        agents_planned=7,
        trace_id="t-1",
        input_data={"a": [1, None]},
        created_by="me",
        parent_id=str(parent.workflow_id),
    )
    assert [get_workflow(conn, each.workflow_id) for each in (parent, workflow)] == [parent, workflow]
    assert (workflow.name, workflow.type, workflow.description) == ("checkout", "feature", "two\nlines")
    assert (workflow.status, workflow.current_stage, workflow.priority) == ("running", "plan", "critical")
    assert (workflow.progress, workflow.agents_total, workflow.agents_planned) == (0, 7, 7)
    row = conn.execute("select input_data, created_by, trace_id, parent_id from workflow order by created_at desc")
    assert row.fetchone() == ({"a": [1, None]}, "me", "t-1", parent.workflow_id)


@pytest.mark.parametrize("name", ["", "'; drop table workflow; --", "%s %(x)s {}", "a\tb\nc", "进度 🚀"])
def test_create_workflow_keeps_any_name(conn: psycopg.Connection, name: str) -> None:
    assert create_workflow(conn, name, name).name == name


def test_what_is_refused_leaves_nothing(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="agents_planned is -1"):
        create_workflow(conn, "w", "app", agents_planned=-1)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        create_workflow(conn, "w", "app", status="done")  # type: ignore[arg-type]
    assert conn.execute("select count(*) from workflow").fetchone() == (0,)


@pytest.mark.parametrize("table", ["workflow", "workflow_stage"])
def test_retry_of_what_was_interrupted_makes_one_workflow(conn: psycopg.Connection, table: str) -> None:
    conn.execute(
        f"""
        create sequence attempt;
        create function interrupt() returns trigger language plpgsql as $$
        begin
            if nextval('public.attempt') <= 5 then
                raise deadlock_detected;
            end if;
            return null;
        end $$;
        create trigger interrupt after insert on {table} execute function interrupt();
        """
    )
    workflow = retry(lambda: create_workflow(conn, "once", "app"))
    assert conn.execute("select id from workflow").fetchall() == [(workflow.workflow_id,)]
    assert conn.execute("select count(*), count(distinct name) from workflow_stage").fetchone() == (8, 8)


# --- add_tasks ----------------------------------------------------------------------------------------------


def test_add_tasks_takes_tasks_mappings_and_names_and_keeps_their_order(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    full = NewTask(
        "reviewer",
        external_id="r-1",
        stage="review",
        status="running",
        priority="high",
        payload={"file": "a.py"},
        trace_id="t",
        span_id="s",
        parent_span_id="p",
        max_retries=5,
        timeout_ms=1000,
    )
    past = {"started_at": LONG_AGO, "completed_at": LONG_AGO + timedelta(hours=1), "retry_count": 2, "result": [1]}
    added = add_tasks(
        conn, workflow, iter(["writer", full, {"agent_type": "tester", "status": "failed", **past}, NewTask("writer")])
    )
    assert [task.agent_type for task in added] == ["writer", "reviewer", "tester", "writer"]
    stored = asdict(added[1])
    assert {name: stored[name] for name in asdict(full)} == asdict(full)
    assert {name: getattr(added[2], name) for name in past} == past
    assert (added[0].stage, added[0].payload, added[0].max_retries, added[0].timeout_ms) == (None, {}, 3, 300_000)
    assert all(isinstance(task, Task) and task.workflow_id == workflow for task in added)
    assert list_tasks(conn, workflow) == added
    assert counters(conn, workflow) == (4, 0, 1, 0)
    assert add_tasks(conn, workflow, []) == []


def test_an_external_id_is_unique_in_its_workflow_only(conn: psycopg.Connection) -> None:
    one, two = new_workflow(conn), new_workflow(conn)
    add_tasks(conn, one, [NewTask("a", external_id="x")])
    add_tasks(conn, two, [NewTask("a", external_id="x"), "b", "b"])
    with pytest.raises(psycopg.errors.UniqueViolation):
        add_tasks(conn, one, ["b", NewTask("a", external_id="x")])
    assert (progress(conn, one), progress(conn, two)) == ((0, 0, 1), (0, 0, 3))


def test_a_mapping_with_an_unknown_name_is_an_error_that_names_it(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="agent"):
        add_tasks(conn, new_workflow(conn), [{"agent": "a"}])


# --- report_task and report_tasks ---------------------------------------------------------------------------


def test_a_task_reported_step_by_step_has_a_time_for_each_step(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    running = report_task(conn, workflow, task.id, "running")
    assert report_task(conn, workflow, task.id, "running") == running
    done = report_task(conn, workflow, task.id, "completed", {"lines": 12})
    assert (done.started_at, done.result) == (running.started_at, {"lines": 12})
    assert task.created_at < done.started_at < done.completed_at
    assert progress(conn, workflow) == (100, 1, 1)
    before = row_version(conn, workflow)
    assert report_task(conn, workflow, task.id, "running", "late") == done
    assert row_version(conn, workflow) == before
    again = report_task(conn, workflow, task.id, "running", reopen=True)
    assert (again.status, again.result, again.completed_at, again.retry_count) == ("running", None, None, 1)
    assert progress(conn, workflow) == (0, 0, 1)


@pytest.mark.parametrize("result", [{"a": [1, "ü", None]}, [], "text", 0, False, 1.5])
def test_any_json_is_a_result(conn: psycopg.Connection, result: Any) -> None:
    workflow = new_workflow(conn)
    one, two = add_tasks(conn, workflow, ["a", "a"])
    assert report_task(conn, workflow, one.id, "completed", result).result == result
    assert report_tasks(conn, workflow, [(two.id, "completed", result)])[0].result == result


def test_reports_come_in_any_form_and_the_id_may_be_text(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    a, b, c, d, e, _ = add_tasks(conn, workflow, ["a"] * 4 + [NewTask("a", external_id=key) for key in ("e", "f")])
    done = report_tasks(
        conn,
        str(workflow),
        iter(
            [
                TaskReport(str(a.id).upper(), "completed", [1]),
                {"task_id": b.id, "status": "failed", "result": "why"},
                (str(c.id), "running"),
                (d.id, "cancelled", None, False),
                TaskReport(None, "completed", external_id="e"),
                {"external_id": "f", "status": "running"},
                {"task_id": e.id, "status": "pending", "reopen": True},
            ]
        ),
    )
    assert [(task.status, task.result, task.external_id) for task in done] == [
        ("completed", [1], None),
        ("failed", "why", None),
        ("running", None, None),
        ("cancelled", None, None),
        ("pending", None, "e"),
        ("running", None, "f"),
    ]
    assert report_tasks(conn, workflow, []) == []


def test_an_unknown_task_leaves_the_whole_batch_undone(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    (foreign,) = add_tasks(conn, other, ["a"])
    with pytest.raises(TaskNotFound, match=f"^task {foreign.id} not found in workflow {workflow}$"):
        report_tasks(conn, workflow, [(task.id, "completed"), (foreign.id, "completed")])
    with pytest.raises(TaskNotFound):
        report_task(conn, workflow, foreign.id, "running")
    assert list_tasks(conn, workflow) + list_tasks(conn, other) == [task, foreign]
    assert progress(conn, workflow) == (0, 0, 1)


def test_an_unknown_status_and_what_is_no_id_are_refused_before_anything_is_sent(session: Session) -> None:
    conn = session()
    workflow = create_workflow(conn, "w", "app").workflow_id
    a, b = add_tasks(conn, workflow, ["a", "b"])
    odd: Any = "done"
    for call, error in (
        (lambda: report_task(conn, workflow, a.id, odd), UnknownStatus),
        (lambda: report_tasks(conn, workflow, [(a.id, "completed"), (b.id, odd)]), UnknownStatus),
        (lambda: report_tasks(conn, workflow, [{"task_id": a.id}]), UnknownStatus),
        (lambda: report_task(conn, workflow, "no id", "completed"), ValueError),
        (lambda: report_tasks(conn, workflow, [TaskReport("no id", "completed")]), ValueError),
    ):
        with pytest.raises(error):
            call()
        assert conn.info.transaction_status == TransactionStatus.INTRANS
    assert get_workflow(conn, workflow).progress == 0
    conn.commit()


def test_errors_of_the_server_are_left_to_the_caller_s_savepoint(session: Session) -> None:
    conn = session()
    workflow = create_workflow(conn, "w", "app").workflow_id
    with pytest.raises(TaskNotFound), conn.transaction():
        report_task(conn, workflow, UUID(int=0), "completed")
    assert get_workflow(conn, workflow).progress == 0
    conn.commit()


# --- repair and archive -------------------------------------------------------------------------------------


def test_repair_returns_what_was_stored_and_what_is_stored_now(conn: psycopg.Connection) -> None:
    workflow, other, right = (new_workflow(conn) for _ in range(3))
    for each in (workflow, other, right):
        new_tasks(conn, each, "completed", "pending")
    as_replica(conn, "update workflow set progress = 7, agents_completed = 9 where id <> %s", [right])
    assert repair(conn, right) == []
    (repaired,) = repair(conn, str(workflow))
    assert isinstance(repaired, Drift)
    assert (repaired.workflow_id, repaired.name, repaired.stale_data) == (workflow, "w", True)
    assert (repaired.stored_progress, repaired.calculated_progress) == (7, 50)
    assert (repaired.stored_completed, repaired.calculated_completed) == (9, 1)
    assert [drift.workflow_id for drift in repair(conn)] == [other]
    assert repair(conn) == []
    with pytest.raises(WorkflowNotFound):
        repair(conn, UUID(int=0))
    conn.execute("set role pg_read_all_data")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        repair(conn)


def test_archive_takes_a_batch_at_a_time_of_what_ended_long_enough_ago(conn: psycopg.Connection) -> None:
    workflows = sorted(new_workflow(conn) for _ in range(3))
    for workflow in workflows:
        new_tasks(conn, workflow, "completed", "failed")
        transition(conn, workflow, "completed")
    assert archive(conn, timedelta(hours=1)) == archive(conn, "0", statuses=["failed"]) == []
    batches = [archive(conn, timedelta(0), batch=2) for _ in range(3)]
    assert [[(each.workflow_id, each.tasks) for each in batch] for batch in batches] == [
        [(workflow, 2) for workflow in workflows[:2]],
        [(workflows[2], 2)],
        [],
    ]
    assert list_tasks(conn, workflows[0]) == []
    assert counters(conn, workflows[0]) == (2, 1, 1, 0)


# --- retry --------------------------------------------------------------------------------------------------

INTERRUPTED = {
    "deadlock": "raise deadlock_detected",
    "serialization": "raise serialization_failure",
    "multixact": "raise internal_error using message = 'new multixact has more than one updating member: 7 (upd)'",
}


@pytest.mark.parametrize("kind", INTERRUPTED)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_retry_tries_again_what_the_server_interrupted(dsn: str, conn: psycopg.Connection, kind: str, way: str) -> None:
    tries = []
    error = f"do $$ begin {INTERRUPTED[kind]}; end $$"

    def write() -> str:
        tries.append(1)
        if len(tries) < 4:
            conn.execute(error.encode())
        return "done"

    async def write_async() -> str:
        async with await pyapp.aio.connect(dsn, autocommit=True) as own:
            tries.append(1)
            if len(tries) < 4:
                await own.execute(error.encode())
            return "done"

    assert (retry(write) if way == "sync" else asyncio.run(pyapp.aio.retry(write_async))) == "done"
    assert len(tries) == 4
    tries.clear()
    with pytest.raises(psycopg.Error) as last:
        retry(write, tries=2) if way == "sync" else asyncio.run(pyapp.aio.retry(write_async, tries=2))
    assert len(tries) == 2
    assert last.value.sqlstate in ("40P01", "40001", "XX000")


@pytest.mark.parametrize("statement", ["select 1 / 0", "do $$ begin raise internal_error; end $$"])
def test_retry_raises_other_errors_at_once(conn: psycopg.Connection, statement: str) -> None:
    tries = []

    def act() -> None:
        tries.append(1)
        conn.execute(statement)

    with pytest.raises(psycopg.Error):
        retry(act)

    async def act_async() -> None:
        act()

    with pytest.raises(psycopg.Error):
        asyncio.run(pyapp.aio.retry(act_async))
    assert len(tries) == 2
