"""What was and what will be: events, timeline, burn-up and forecast, as the views tell them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest

from .helpers import new_tasks, new_workflow, set_status

Session = Callable[[], psycopg.Connection]
LONG_AGO = datetime(2020, 2, 2, tzinfo=UTC)
ORDER = "order by at, kind, place, name"


def transition(conn: psycopg.Connection, workflow: Any, status: str, stage: str | None = None) -> datetime:
    """Move a workflow; return when it was."""
    query = "select updated_at from transition_workflow(%s, %s, %s)"
    return conn.execute(query, [workflow, status, stage]).fetchone()[0]


# --- Events -------------------------------------------------------------------------------------------------


def events(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select event_type, payload ->> 'from', payload ->> 'to', (payload ->> 'version')::int from workflow_event"
        " order by id"
    ).fetchall()


def test_each_change_of_status_and_stage_is_recorded(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="bugfix", trace_id="trace-1")
    transition(conn, workflow, "running")
    conn.execute("update workflow set current_stage = 'validation'")
    moved = transition(conn, workflow, "failed", "e2e_testing")
    assert events(conn) == [
        ("status_changed", "initiated", "running", 2),
        ("stage_changed", "initialization", "validation", 3),
        ("status_changed", "running", "failed", 4),
        ("stage_changed", "validation", "e2e_testing", 4),
    ]
    rows = conn.execute(
        "select workflow_id, trace_id, payload ->> 'by', occurred_at from workflow_event order by id"
    ).fetchall()
    assert {row[:3] for row in rows} == {(workflow, "trace-1", conn.info.user)}
    times = [row[3] for row in rows]
    assert times == sorted(times)
    assert times[-1] == moved
    assert len(set(times)) == 3


def test_progress_and_what_changes_nothing_are_not_recorded(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="bugfix", status="running")
    for task in new_tasks(conn, workflow, "running", "pending", "failed"):
        set_status(conn, task, "completed")
    transition(conn, workflow, "running")
    conn.execute(
        "update workflow set status = status, current_stage = current_stage, name = 'other', agents_planned = 9"
    )
    assert events(conn) == []


def test_the_role_that_was_set_is_who_did_it(conn: psycopg.Connection) -> None:
    new_workflow(conn)
    conn.execute("set role pg_write_all_data")
    conn.execute("update workflow set status = 'running'")
    conn.execute("reset role")
    conn.execute("update workflow set status = 'paused'")
    by = conn.execute("select payload ->> 'by' from workflow_event order by id").fetchall()
    assert by == [("pg_write_all_data",), (conn.info.user,)]


def test_events_of_transactions_that_waited_stand_in_the_order_of_the_changes(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn, status="running")
    early = session()
    early.execute("select 1")  # its now() is before what follows
    transition(conn, workflow, "paused")
    transition(early, workflow, "running")
    early.commit()
    told = [moment.what for moment in timeline(conn, workflow) if moment.kind == "event"]
    assert told == ["running -> paused", "paused -> running"]


# --- Timeline -----------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    at: datetime
    kind: str
    place: int
    name: str
    what: str
    detail: Any


def timeline(conn: psycopg.Connection, workflow: Any) -> list[Moment]:
    columns = ", ".join(Moment._fields)
    query = f"select {columns} from workflow_timeline where workflow_id = %s {ORDER}"
    return [Moment(*row) for row in conn.execute(query, [workflow])]


def test_the_timeline_tells_events_stages_and_tasks_in_time_order(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="bugfix")
    transition(conn, workflow, "running")
    (task,) = new_tasks(conn, workflow, "pending")
    set_status(conn, task, "running")
    set_status(conn, task, "failed")
    conn.execute("select advance_workflow(%s)", [workflow])
    new_workflow(conn, type="bugfix", status="running")
    moments = timeline(conn, workflow)
    assert [(m.kind, m.name, m.what) for m in moments] == [
        ("event", "status_changed", "initiated -> running"),
        ("stage", "initialization", "started"),
        ("task", "agent", "created"),
        ("task", "agent", "started"),
        ("task", "agent", "failed"),
        ("event", "stage_changed", "initialization -> validation"),
        ("stage", "initialization", "completed"),
        ("stage", "validation", "started"),
    ]
    assert [m.at for m in moments] == sorted(m.at for m in moments)
    assert moments[2].detail == {"task_id": str(task), "external_id": None, "stage": None}


def test_what_happened_at_the_same_time_has_an_order_without_ties_and_pages_miss_nothing(
    conn: psycopg.Connection,
) -> None:
    workflow = new_workflow(conn, type="app")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, created_at, started_at, completed_at)"
        " select %(w)s, case n %% 3 when 0 then 'a' else 'b' end, 'completed', %(t)s, %(t)s, %(t)s"
        " from generate_series(1, 300) as n",
        {"w": workflow, "t": LONG_AGO},
    )
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position, status, started_at, completed_at)"
        " select %(w)s, 'stage ' || n, n / 3, 'completed', %(t)s, %(t)s from generate_series(1, 30) as n",
        {"w": workflow, "t": LONG_AGO},
    )
    conn.execute(
        "insert into workflow_event (workflow_id, event_type, occurred_at)"
        " select %(w)s, 'note', %(t)s from generate_series(1, 50)",
        {"w": workflow, "t": LONG_AGO},
    )
    moments = timeline(conn, workflow)
    keys = [(m.at, m.kind, m.place, m.name) for m in moments]
    assert len(keys) == len(set(keys)) == 3 * 300 + 2 * 30 + 50
    # Of one task, it is created before it is started, and started before it is completed; tasks in order of creation.
    tasks = [m.what for m in moments if m.kind == "task"]
    assert tasks == ["created", "started", "completed"] * 300
    stages = [m.what for m in moments if m.kind == "stage" and m.name == "stage 7"]
    assert stages == ["started", "completed"]
    pages: list[Moment] = []
    query = f"select {', '.join(Moment._fields)} from workflow_timeline where workflow_id = %s"
    while True:
        last = pages[-1] if pages else None
        after = " and (at, kind, place, name) > (%s, %s, %s, %s)" if last else ""
        values = [workflow, *(last[:4] if last else ())]
        page = conn.execute(f"{query}{after} {ORDER} limit 100", values).fetchall()
        pages += [Moment(*row) for row in page]
        if not page:
            break
    assert pages == moments


def test_the_view_of_the_timeline_sorts_nothing_by_itself(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, *["completed"] * 5)
    plan = str(
        conn.execute("explain select count(*) from workflow_timeline where workflow_id = %s", [workflow]).fetchall()
    )
    assert "Sort" not in plan
    assert conn.execute("select count(*) from workflow_timeline").fetchone() == (10,)


# --- Burn-up ------------------------------------------------------------------------------------------------


def test_burnup_accumulates_completed_and_created_tasks(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    tasks = [  # created, completed (minutes), status
        (0, 3, "completed"),
        (0, 1, "completed"),
        (1, 3, "completed"),
        (2, 4, "failed"),
        (2, None, "running"),
        (6, None, "pending"),
    ]
    for created, completed, status in tasks:
        for target in (workflow, other):
            conn.execute(
                "insert into agent_task (workflow_id, agent_type, status, created_at, completed_at)"
                " values (%s, 'a', %s, %s, %s)",
                [
                    target,
                    status,
                    LONG_AGO + timedelta(minutes=created),
                    None if completed is None else LONG_AGO + timedelta(minutes=completed),
                ],
            )
    query = "select at, agents_completed, agents_total from workflow_burnup where workflow_id = %s order by at"
    rows = conn.execute(query, [workflow]).fetchall()
    points = [((at - LONG_AGO) // timedelta(minutes=1), completed, total) for at, completed, total in rows]
    assert points == [(0, 0, 2), (1, 1, 3), (2, 1, 5), (3, 3, 5), (6, 3, 6)]
    last = conn.execute("select agents_completed, agents_total from workflow where id = %s", [workflow]).fetchone()
    assert points[-1][1:] == last
    assert conn.execute(query, [new_workflow(conn)]).fetchall() == []


# --- Forecast -----------------------------------------------------------------------------------------------


class Forecast(NamedTuple):
    workflow_id: Any
    completed_per_minute: Decimal | None
    estimated_completion_at: datetime | None
    basis_completions: int
    basis_seconds: Decimal | None
    last_activity_at: datetime
    stalled: bool


def forecast_of(conn: psycopg.Connection, workflow: Any) -> Forecast:
    columns = ", ".join(Forecast._fields)
    query = f"select {columns} from workflow_forecast where workflow_id = %s"
    return Forecast(*conn.execute(query, [workflow]).fetchone())


def completed_ago(conn: psycopg.Connection, workflow: Any, *seconds: float) -> None:
    """Add completed tasks, by how long before the beginning of this transaction they were completed."""
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', 'completed', now() - make_interval(secs => s) from unnest(%s::float[]) as s",
        [workflow, [float(ago) for ago in seconds]],
    )


def test_a_forecast_tells_rate_time_and_basis_exactly(session: Session) -> None:
    conn = session()  # in one transaction, now() stands still
    workflow = new_workflow(conn, status="running", agents_planned=12)
    completed_ago(conn, workflow, 120, 90, 60, 30)
    new_tasks(conn, workflow, "failed", "cancelled", "running", "pending")
    forecast = forecast_of(conn, workflow)
    (now,) = conn.execute("select now()").fetchone()
    # 3 in the 120 seconds since the first of them; 12 planned, of which 4 completed, 1 failed, 1 cancelled
    assert forecast.completed_per_minute == Decimal("1.5")
    assert forecast.estimated_completion_at == now + timedelta(seconds=6 * 40)
    assert (forecast.basis_completions, forecast.basis_seconds) == (4, 120)
    assert (forecast.workflow_id, forecast.stalled) == (workflow, False)
    conn.commit()


@pytest.mark.parametrize(
    ("ago", "status"),
    [
        ((), "running"),
        ((60, 30), "running"),
        ((0.5, 0.4, 0.3, 0.2), "running"),
        ((60, 40, 30), "initiated"),
        ((60, 40, 30), "paused"),
        ((60, 40, 30), "completed"),
        ((60, 40, 30), "failed"),
        ((60, 40, 30), "cancelled"),
    ],
)
def test_there_is_no_forecast_while_too_little_is_known_or_nothing_runs(
    session: Session, ago: tuple[float, ...], status: str
) -> None:
    conn = session()
    workflow = new_workflow(conn, status=status, agents_planned=10)
    completed_ago(conn, workflow, *ago)
    forecast = forecast_of(conn, workflow)
    assert (forecast.completed_per_minute, forecast.estimated_completion_at) == (None, None)
    assert forecast.basis_completions == len(ago)
    assert (forecast.basis_seconds is None) == (not ago)
    conn.commit()


def test_a_forecast_begins_with_the_third_completion_over_a_second(session: Session) -> None:
    conn = session()
    workflow = new_workflow(conn, status="running", agents_planned=4)
    completed_ago(conn, workflow, 1, 0.5, 0)
    forecast = forecast_of(conn, workflow)
    assert (forecast.completed_per_minute, forecast.basis_seconds) == (120, 1)
    assert forecast.estimated_completion_at is not None
    conn.commit()


def test_nothing_remains_to_be_forecast_where_all_is_settled(session: Session) -> None:
    conn = session()
    workflow = new_workflow(conn, status="running")
    completed_ago(conn, workflow, 30, 20, 10)
    new_tasks(conn, workflow, "failed")
    forecast = forecast_of(conn, workflow)
    assert (forecast.completed_per_minute, forecast.estimated_completion_at) == (4, None)
    conn.commit()


def test_the_basis_is_the_last_hundred_completions(session: Session) -> None:
    conn = session()
    workflow = new_workflow(conn, status="running", agents_planned=1000)
    completed_ago(conn, workflow, *range(0, 250), *range(10_000, 10_100))
    forecast = forecast_of(conn, workflow)
    assert (forecast.basis_completions, forecast.basis_seconds, forecast.completed_per_minute) == (100, 99, 60)
    conn.commit()


def test_slow_workflows_are_forecast_exactly_and_endless_ones_not_at_all(session: Session) -> None:
    conn = session()
    day = 86400
    slow, endless = new_workflow(conn, status="running", agents_planned=5), new_workflow(conn, status="running")
    conn.execute("update workflow set agents_planned = 2000000000 where id = %s", [endless])
    for workflow in (slow, endless):
        completed_ago(conn, workflow, 2 * day, day, day)
    forecasts = {workflow: forecast_of(conn, workflow) for workflow in (slow, endless)}
    (now,) = conn.execute("select now()").fetchone()
    assert forecasts[slow].completed_per_minute == Decimal("0.0007")
    assert forecasts[slow].estimated_completion_at == now + timedelta(days=2)
    assert forecasts[endless].estimated_completion_at is None
    conn.commit()


def idle(conn: psycopg.Connection, status: str = "running", minutes: int = 11) -> Any:
    """Insert a workflow in which nothing has happened for some minutes."""
    frozen = datetime.now(UTC)
    return new_workflow(
        conn, status=status, progress_frozen_at=frozen, progress_updated_at=frozen - timedelta(minutes=minutes)
    )


def test_a_workflow_in_which_nothing_happens_is_stalled_after_the_time_that_is_set(conn: psycopg.Connection) -> None:
    idle_long, idle_short, paused = idle(conn), idle(conn, minutes=9), idle(conn, "paused")

    def stalled() -> list[bool]:
        return [forecast_of(conn, workflow).stalled for workflow in (idle_long, idle_short, paused)]

    assert stalled() == [True, False, False]
    conn.execute("set agent_progress.stalled_after = '8 minutes'")
    assert stalled() == [True, True, False]
    conn.execute("set agent_progress.stalled_after = '1 hour'")
    assert stalled() == [False, False, False]
    conn.execute("set agent_progress.stalled_after = ''")
    assert stalled() == [True, False, False]


@pytest.mark.parametrize("act", ["start", "assign", "resume"])
def test_what_happens_ends_a_stall(conn: psycopg.Connection, act: str) -> None:
    workflow = idle(conn)
    (task,) = new_tasks(conn, workflow, "pending")
    old = forecast_of(conn, workflow)
    assert old.stalled
    if act == "start":
        set_status(conn, task, "running")
    elif act == "assign":
        set_status(conn, task, "assigned")
    else:
        transition(conn, workflow, "paused")
        transition(conn, workflow, "running")
    now = forecast_of(conn, workflow)
    assert not now.stalled
    assert now.last_activity_at > old.last_activity_at


def test_counting_is_activity(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    (task,) = new_tasks(conn, workflow, "running")
    before = forecast_of(conn, workflow).last_activity_at
    set_status(conn, task, "failed")
    assert forecast_of(conn, workflow).last_activity_at > before


def test_the_forecast_of_a_huge_workflow_reads_few_of_its_tasks(conn: psycopg.Connection) -> None:
    small = new_workflow(conn, status="running")
    new_tasks(conn, small, "running", "completed")
    huge = new_workflow(conn, status="running")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', s::task_status, case s when 'completed' then now() - n * interval '1 ms' end"
        " from generate_series(1, 100000) as n,"
        " lateral (select case when n %% 3 = 0 then 'assigned' else 'completed' end) as t (s)",
        [huge],
    )

    def pages(condition: str, values: list[Any]) -> int:
        query = f"explain (analyze, buffers, timing off, format json) select * from workflow_forecast where {condition}"
        for _ in range(2):  # the first look may tidy up
            (found,) = conn.execute(query, values).fetchone()
        plan = (found if isinstance(found, list) else json.loads(found))[0]["Plan"]
        assert plan["Actual Rows"] == len(values[0] if isinstance(values[0], list) else values)
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    (all_pages,) = conn.execute("select pg_relation_size('agent_task') / 8192").fetchone()
    for _ in range(2):
        assert all_pages > 1000
        assert pages("workflow_id = %s", [huge]) < 300
        assert pages("workflow_id = any (%s)", [[huge, small]]) < 300
        conn.execute("analyze agent_task, workflow")
    conn.execute("update agent_task set status = 'completed' where status = 'assigned' and workflow_id = %s", [huge])
    assert pages("workflow_id = any (%s)", [[huge, small]]) < 300
    assert forecast_of(conn, huge).basis_completions == 100
