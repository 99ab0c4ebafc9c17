"""Reading through the helpers: one workflow, pages of them, their tasks, drift and metrics."""

from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pyapp import (
    Drift,
    ProgressMetrics,
    Task,
    Workflow,
    WorkflowNotFound,
    add_tasks,
    find_drift,
    get_workflow,
    list_tasks,
    list_workflows,
    progress_metrics,
    repair,
    report_task,
)
from pyapp import get_workflows

from .helpers import new_tasks, new_workflow
from .test_tasks import as_replica

NOWHERE = UUID(int=0)


def names(workflows: list[Workflow]) -> list[str]:
    return [workflow.name for workflow in workflows]


# --- Models and their rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "relation"),
    [(Workflow, "workflow_progress"), (Drift, "workflow_progress_drift"), (Task, "agent_task")],
)
def test_a_model_has_the_columns_of_its_relation(conn: psycopg.Connection, model: Any, relation: str) -> None:
    stored = [column.name for column in conn.execute(f"select * from {relation}").description]
    assert [field.name for field in fields(model)] == stored


def test_rows_cannot_be_changed(conn: psycopg.Connection) -> None:
    workflow = get_workflow(conn, new_workflow(conn))
    with pytest.raises(FrozenInstanceError):
        workflow.progress = 100  # type: ignore[misc]


def test_a_new_column_in_the_database_does_no_harm(conn: psycopg.Connection) -> None:
    conn.execute("alter table agent_task add column region text")
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    assert report_task(conn, workflow, task.id, "completed").status == "completed"
    assert len(list_tasks(conn, workflow)) == 1


# --- get_workflow -------------------------------------------------------------------------------------------


def test_get_workflow_returns_every_number(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, name="checkout", agents_planned=10, trace_id="t")
    new_tasks(conn, workflow, "completed", "completed", "failed", "cancelled", "running")
    got = get_workflow(conn, workflow)
    assert (got.workflow_id, got.name, got.trace_id) == (workflow, "checkout", "t")
    assert (got.progress, got.progress_percentage, got.settled_percentage) == (20, 20, 40)
    assert (got.agents_completed, got.agents_failed, got.agents_cancelled, got.agents_open) == (2, 1, 1, 1)
    assert (got.agents_created, got.agents_total, got.agents_planned) == (5, 10, 10)
    assert got.progress_calculation_method == "agent-based"
    assert got.last_updated_at > got.created_at
    assert got == get_workflow(conn, str(workflow))


def test_get_workflow_raises_for_an_unknown_id(conn: psycopg.Connection) -> None:
    with pytest.raises(WorkflowNotFound, match=f"^workflow {NOWHERE} not found$"):
        get_workflow(conn, NOWHERE)
    assert issubclass(WorkflowNotFound, LookupError)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        get_workflow(conn, "no id")


def test_get_workflows_leaves_out_what_is_not_there(conn: psycopg.Connection) -> None:
    one = new_workflow(conn, name="one", created_at="2020-01-01")
    two = new_workflow(conn, name="two", created_at="2020-01-02")
    assert names(get_workflows(conn, [one, NOWHERE, two, one])) == ["two", "one"]
    assert get_workflows(conn, []) == []


def test_a_read_sees_what_was_committed_and_nothing_else(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    writer = session()
    writer.execute("update agent_task set status = 'completed' where id = %s", [task])
    assert get_workflow(conn, workflow).progress == 0
    assert get_workflow(writer, workflow).progress == 100
    writer.commit()
    assert get_workflow(conn, workflow).progress == 100


# --- list_workflows -----------------------------------------------------------------------------------------


def test_workflows_are_listed_newest_first(conn: psycopg.Connection) -> None:
    for day in (2, 3, 1):
        new_workflow(conn, name=str(day), created_at=f"2020-01-0{day}")
    assert names(list_workflows(conn)) == ["3", "2", "1"]
    assert names(list_workflows(conn, limit=2)) == ["3", "2"]
    assert list_workflows(conn, limit=0) == []


def test_filters_are_joined_by_and(conn: psycopg.Connection) -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    rows = [
        ("a", "running", "app", "high"),
        ("b", "running", "bugfix", "low"),
        ("c", "paused", "app", "low"),
        ("d", "failed", "app", "high"),
    ]
    for place, (name, status, kind, priority) in enumerate(rows):
        created = moment + timedelta(days=place)
        new_workflow(conn, name=name, status=status, type=kind, priority=priority, created_at=created)
    assert names(list_workflows(conn, status="running")) == ["b", "a"]
    assert names(list_workflows(conn, status=["running", "paused"])) == ["c", "b", "a"]
    assert names(list_workflows(conn, type="app")) == ["d", "c", "a"]
    assert names(list_workflows(conn, priority="low")) == ["c", "b"]
    assert names(list_workflows(conn, status=("running", "failed"), type="app", priority="high")) == ["d", "a"]
    assert list_workflows(conn, status=[]) == []
    assert list_workflows(conn, type="' or true --") == []
    (c,) = list_workflows(conn, status="paused")
    assert names(list_workflows(conn, type="app", after=c)) == ["a"]


def test_an_unknown_status_or_priority_is_an_error(conn: psycopg.Connection) -> None:
    for wrong in ({"status": "done"}, {"status": ["running", "done"]}, {"priority": "urgent"}):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            list_workflows(conn, **wrong)


@pytest.mark.parametrize("page", [1, 2, 3, 7])
@pytest.mark.parametrize("by", ["workflow", "time and id"])
def test_pages_lose_and_repeat_nothing_where_times_are_equal(conn: psycopg.Connection, page: int, by: str) -> None:
    for day in (1, 1, 1, 1, 2, 2, 3):
        new_workflow(conn, created_at=f"2020-01-0{day}")
    everything = list_workflows(conn)
    seen: list[Workflow] = []
    after: Any = None
    while found := list_workflows(conn, limit=page, after=after):
        assert len(found) <= page
        seen += found
        after = found[-1] if by == "workflow" else (found[-1].created_at, found[-1].workflow_id)
    assert seen == everything
    assert len(seen) == 7


def test_pages_stay_put_while_newer_workflows_come(conn: psycopg.Connection) -> None:
    for day in (1, 2, 3, 4):
        new_workflow(conn, name=str(day), created_at=f"2020-01-0{day}")
    first = list_workflows(conn, limit=2)
    new_workflow(conn, name="new")
    assert names(list_workflows(conn, limit=2, after=first[-1])) == ["2", "1"]


def test_a_later_page_is_read_by_index(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into workflow (name, type, created_at)"
        " select 'w', 'app', timestamptz '2020-01-01' + n * interval '1 minute' from generate_series(1, 5000) as n"
    )
    conn.execute("analyze workflow")
    (last,) = conn.execute("select created_at, id from workflow order by created_at, id offset 100 limit 1").fetchall()
    plan = conn.execute(
        "explain (analyze, costs off, timing off, summary off) select * from workflow_progress"
        " where (created_at, workflow_id) < (%s, %s) order by created_at desc, workflow_id desc limit 20",
        last,
    ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan Backward using workflow_created_at_id_idx" in text
    assert "Sort" not in text


# --- list_tasks ---------------------------------------------------------------------------------------------


def test_tasks_are_listed_as_they_were_created(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    for name in "abc":
        add_tasks(conn, workflow, [name])
    new_tasks(conn, new_workflow(conn), "running")
    assert [task.agent_type for task in list_tasks(conn, workflow)] == ["a", "b", "c"]


def test_a_workflow_without_tasks_has_none_and_an_unknown_one_raises(conn: psycopg.Connection) -> None:
    assert list_tasks(conn, new_workflow(conn)) == []
    with pytest.raises(WorkflowNotFound):
        list_tasks(conn, NOWHERE)


# --- find_drift and progress_metrics ------------------------------------------------------------------------


def test_drift_is_found_in_all_workflows_or_in_those_asked_for(conn: psycopg.Connection) -> None:
    wrong, right = sorted([new_workflow(conn, name="wrong"), new_workflow(conn, name="wrong")])
    for workflow in (wrong, right):
        new_tasks(conn, workflow, "completed", "failed", "cancelled", "running")
    assert find_drift(conn) == []
    as_replica(conn, "update agent_task set status = 'completed' where workflow_id = %s", [wrong])
    (found,) = find_drift(conn)
    assert found == Drift(
        workflow_id=wrong,
        name="wrong",
        stored_progress=25,
        calculated_progress=100,
        stored_completed=1,
        calculated_completed=4,
        stored_total=4,
        calculated_total=4,
        stored_created=4,
        calculated_created=4,
        stored_failed=1,
        calculated_failed=0,
        stored_cancelled=1,
        calculated_cancelled=0,
        stale_data=True,
    )
    assert find_drift(conn, [right, NOWHERE]) == []
    assert find_drift(conn, [str(wrong), right]) == [found]
    assert find_drift(conn, []) == []
    assert repair(conn) == [found]
    assert find_drift(conn) == []


def test_metrics_say_when_stored_numbers_are_stale(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    new_tasks(conn, other, "running")
    metrics = progress_metrics(conn, workflow)
    assert metrics == ProgressMetrics(workflow, 50, 1, 2, metrics.calculation_time_ms, False)
    assert 0 < metrics.calculation_time_ms < 5000
    as_replica(conn, "update agent_task set status = 'completed'")
    stale = progress_metrics(conn, workflow)
    assert (stale.progress_percentage, stale.agents_completed, stale.stale_data) == (50, 1, True)
    assert len(repair(conn, workflow)) == 1
    mended = progress_metrics(conn, workflow)
    assert (mended.progress_percentage, mended.agents_completed, mended.stale_data) == (100, 2, False)
    assert progress_metrics(conn, other).stale_data is True
    repair(conn)


def test_metrics_raise_for_an_unknown_workflow(conn: psycopg.Connection) -> None:
    with pytest.raises(WorkflowNotFound):
        progress_metrics(conn, NOWHERE)


def test_a_role_that_may_only_read_reads_all_this(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed")
    with psycopg.connect(dsn) as reader:
        reader.execute("set role pg_read_all_data")
        assert get_workflow(reader, workflow).progress == 100
        assert len(list_workflows(reader)) == len(list_tasks(reader, workflow)) == 1
        assert progress_metrics(reader, workflow).stale_data is False
