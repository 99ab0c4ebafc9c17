"""Writing through the helpers: what they take, what they return, and that trying again never doubles anything."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import Connection

import pyapp
from pyapp import (
    NewTask,
    Task,
    TaskReport,
    add_tasks,
    archive,
    create_workflow,
    get_workflow,
    list_tasks,
    report_tasks,
    retry,
    transition,
)

from .helpers import counters, new_tasks, new_workflow

Session = Callable[[], Connection]
LONG_AGO = datetime(2020, 2, 2, 12, tzinfo=UTC)


# --- create_workflow ----------------------------------------------------------------------------------------


def test_create_workflow_returns_what_is_stored(conn: Connection) -> None:
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


@pytest.mark.parametrize("table", ["workflow", "workflow_stage"])
def test_retry_of_what_was_interrupted_makes_one_workflow(conn: Connection, table: str) -> None:
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


def test_add_tasks_takes_tasks_mappings_and_names_and_keeps_their_order(conn: Connection) -> None:
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


# --- report_task and report_tasks ---------------------------------------------------------------------------


def test_reports_come_in_any_form_and_the_id_may_be_text(conn: Connection) -> None:
    workflow = new_workflow(conn)
    a, b, c, d, e, _ = add_tasks(conn, workflow, ["a"] * 4 + [NewTask("a", external_id=key) for key in ("e", "f")])
    done = report_tasks(
        conn,
        str(workflow),
        iter(
            [
                TaskReport(str(a.id).upper(), "completed", {"a": [1, "ü", None]}),
                {"task_id": b.id, "status": "failed", "result": False},
                (str(c.id), "running"),
                (d.id, "cancelled", 0, False),
                TaskReport(None, "completed", external_id="e"),
                {"external_id": "f", "status": "running"},
                {"task_id": e.id, "status": "pending", "reopen": True},
            ]
        ),
    )
    assert [(task.status, task.result, task.external_id) for task in done] == [
        ("completed", {"a": [1, "ü", None]}, None),
        ("failed", False, None),
        ("running", None, None),
        ("cancelled", 0, None),
        ("pending", None, "e"),
        ("running", None, "f"),
    ]
    assert report_tasks(conn, workflow, []) == []


# --- repair and archive -------------------------------------------------------------------------------------


def test_archive_takes_a_batch_at_a_time_of_what_ended_long_enough_ago(conn: Connection) -> None:
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
def test_retry_tries_again_what_the_server_interrupted(dsn: str, conn: Connection, kind: str, way: str) -> None:
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
def test_retry_raises_other_errors_at_once(conn: Connection, statement: str) -> None:
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
