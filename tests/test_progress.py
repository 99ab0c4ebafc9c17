"""Reading through the helpers: one workflow, pages of them, their tasks, drift and metrics, also of adopted tables."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection

import pyapp
from pyapp import (
    Archived,
    BurnupPoint,
    Drift,
    Forecast,
    ProgressMetrics,
    Stage,
    Task,
    TimelineEntry,
    TreeProgress,
    Trend,
    Vocabulary,
    Workflow,
    WorkflowNotFound,
    add_tasks,
    find_drift,
    get_workflow,
    get_workflows,
    list_tasks,
    list_workflows,
    progress_metrics,
    repair,
    report_task,
)

from .helpers import as_replica, new_tasks, new_workflow

NOWHERE = UUID(int=0)


def names(workflows: list[Workflow]) -> list[str]:
    return [workflow.name for workflow in workflows]


# --- Models and their rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "relation"),
    [
        (Workflow, "workflow_progress"),
        (TreeProgress, "workflow_tree_progress"),
        (Drift, "workflow_progress_drift"),
        (Stage, "workflow_stage_agents"),
        (Forecast, "workflow_forecast"),
        (TimelineEntry, "workflow_timeline"),
        (BurnupPoint, "workflow_burnup"),
        (Vocabulary, "vocabulary"),
        (Trend, "workflow_trend"),
        (Trend, "task_trend"),
        (Archived, "archive_workflows('0')"),
        (Task, "agent_task"),
    ],
)
def test_a_model_has_the_columns_of_its_relation(conn: Connection, model: Any, relation: str) -> None:
    stored = [column.name for column in conn.execute(f"select * from {relation}").description]
    assert sorted(field.name for field in fields(model)) == sorted(stored)
    assert model.__dataclass_params__.frozen


def test_a_new_column_in_the_database_does_no_harm(conn: Connection) -> None:
    conn.execute("alter table agent_task add column region text")
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    assert report_task(conn, workflow, task.id, "completed").status == "completed"
    assert len(list_tasks(conn, workflow)) == 1


# --- Workflows ----------------------------------------------------------------------------------------------


def test_workflows_that_are_not_there_are_left_out_or_an_error(conn: Connection) -> None:
    one = new_workflow(conn, name="one", created_at="2020-01-01")
    two = new_workflow(conn, name="two", created_at="2020-01-02")
    assert names(get_workflows(conn, iter([one, NOWHERE, str(two), one]))) == ["two", "one"]
    assert get_workflows(conn, []) == []
    for read in (get_workflow, list_tasks, progress_metrics):
        with pytest.raises(WorkflowNotFound, match=f"^workflow {NOWHERE} not found$"):
            read(conn, NOWHERE)
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            read(conn, 'no id, "}')
    assert list_tasks(conn, one) == []


def test_filters_are_joined_by_and_and_the_newest_come_first(conn: Connection) -> None:
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
    assert names(list_workflows(conn)) == ["d", "c", "b", "a"]
    assert names(list_workflows(conn, limit=2)) == ["d", "c"]
    assert list_workflows(conn, limit=0) == []
    assert names(list_workflows(conn, status="running")) == ["b", "a"]
    assert names(list_workflows(conn, status=["running", "paused"])) == ["c", "b", "a"]
    assert names(list_workflows(conn, type="app")) == ["d", "c", "a"]
    assert names(list_workflows(conn, priority="low")) == ["c", "b"]
    assert names(list_workflows(conn, status=("running", "failed"), type="app", priority="high")) == ["d", "a"]
    assert list_workflows(conn, status=[]) == []
    assert list_workflows(conn, type="' or true --") == []
    (c,) = list_workflows(conn, status="paused")
    assert names(list_workflows(conn, type="app", after=c)) == ["a"]
    for wrong in ({"status": "done"}, {"status": ["running", "done"]}, {"priority": "urgent"}):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            list_workflows(conn, **wrong)


@pytest.mark.parametrize("page", [1, 2, 3, 7])
@pytest.mark.parametrize("by", ["workflow", "time and id"])
def test_pages_lose_and_repeat_nothing_where_times_are_equal(conn: Connection, page: int, by: str) -> None:
    for day in (1, 1, 1, 1, 2, 2, 3):
        new_workflow(conn, created_at=f"2020-01-0{day}")
    everything = list_workflows(conn)
    seen: list[Workflow] = []
    after: Any = None
    while found := list_workflows(conn, limit=page, after=after):
        assert len(found) <= page
        seen += found
        after = found[-1] if by == "workflow" else (found[-1].created_at, found[-1].workflow_id)
        new_workflow(conn, name="newer")  # pages stay put
    assert seen == everything
    assert len(seen) == 7


def test_a_later_page_is_read_by_index(conn: Connection) -> None:
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


def test_tasks_are_listed_as_they_were_created_though_their_times_are_equal(conn: Connection) -> None:
    workflow = new_workflow(conn)
    times = [{"agent_type": str(n), "created_at": "2020-01-01"} for n in range(50)]
    added = add_tasks(conn, workflow, times[:30]) + add_tasks(conn, workflow, times[30:])
    new_tasks(conn, new_workflow(conn), "running")
    assert [task.agent_type for task in list_tasks(conn, workflow)] == [str(n) for n in range(50)]
    assert list_tasks(conn, workflow) == added


# --- Drift and metrics --------------------------------------------------------------------------------------


def test_drift_is_found_in_all_workflows_or_in_those_asked_for(conn: Connection) -> None:
    wrong, right = (new_workflow(conn, name="wrong") for _ in range(2))
    for workflow in (wrong, right):
        new_tasks(conn, workflow, "completed", "failed", "cancelled", "running")
    assert find_drift(conn) == []
    assert progress_metrics(conn, wrong).stale_data is False
    as_replica(conn, "update agent_task set status = 'completed' where workflow_id = %s", [wrong])
    (found,) = find_drift(conn)
    assert found == Drift(wrong, "wrong", 25, 100, 1, 4, 4, 4, 4, 4, 1, 0, 1, 0, stale_data=True)
    assert find_drift(conn, [right, NOWHERE]) == []
    assert find_drift(conn, [str(wrong), right]) == [found]
    assert find_drift(conn, []) == []
    stale = progress_metrics(conn, wrong)
    assert stale == ProgressMetrics(wrong, 25, 1, 4, stale.calculation_time_ms, stale_data=True)
    assert stale.calculation_time_ms > 0
    assert progress_metrics(conn, right).stale_data is False
    assert repair(conn) == [found]
    assert find_drift(conn) == []
    assert progress_metrics(conn, wrong).progress_percentage == 100


# --- Tables of another application --------------------------------------------------------------------------


@pytest.mark.parametrize(("key_type", "keys"), [("bigint", (7, 70)), ("text", ('a "b", {c}', "NULL")), ("uuid", None)])
def test_a_schema_whose_views_have_the_columns_is_read_whatever_its_keys_are(
    conn: Connection, key_type: str, keys: tuple[Any, Any] | None
) -> None:
    one, two = new_workflow(conn, name="one", status="running"), new_workflow(conn, name="two", status="completed")
    for workflow in (one, two):
        new_tasks(conn, workflow, "completed", "running")
    conn.execute(f"create schema adopted; create table adopted.key (id uuid, key {key_type})")
    first, second = keys or (one, two)
    conn.execute("insert into adopted.key values (%s, %s), (%s, %s)", [one, str(first), two, str(second)])
    for relation in ("workflow_progress", "workflow_progress_drift", "workflow_forecast", "agent_task"):
        columns = [column.name for column in conn.execute(f"select * from {relation}").description]
        shown = {"workflow_id": "k.key as workflow_id", "status": "upper(v.status::text) as status"}
        listed = ", ".join(shown.get(name, f"v.{name}") for name in columns)
        conn.execute(
            f"create view adopted.{relation} as select {listed} from public.{relation} as v"
            " join adopted.key as k on k.id = v.workflow_id"
        )
    conn.execute('alter schema adopted rename to "100%s; --"')
    at = {"schema": "100%s; --"}
    found = get_workflow(conn, first, **at)
    assert (found.workflow_id, found.name, found.status, found.progress) == (first, "one", "RUNNING", 50)
    assert names(get_workflows(conn, [first, second], **at)) == names(list_workflows(conn, **at)) == ["two", "one"]
    assert names(list_workflows(conn, status="COMPLETED", **at)) == ["two"]
    assert list_workflows(conn, after=found, **at) == []
    assert [(task.workflow_id, task.status) for task in list_tasks(conn, first, **at)] == [
        (first, "COMPLETED"),
        (first, "RUNNING"),
    ]
    assert set(pyapp.get_forecasts(conn, [first, second], **at)) == {first, second}
    assert progress_metrics(conn, first, **at).stale_data is False
    as_replica(conn, "update workflow set agents_completed = 0 where id = %s", [two])
    assert [drift.workflow_id for drift in find_drift(conn, [first, second], **at)] == [second]
    repair(conn)
