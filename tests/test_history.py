"""What was and what will be: events, timeline, burn-up, forecast, and the times of tasks."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pyapp import (
    TimelineEntry,
    add_tasks,
    advance,
    create_workflow,
    get_forecasts,
    list_burnup,
    list_tasks,
    list_timeline,
    report_task,
    transition,
)
from tests.helpers import new_tasks, new_workflow, set_status

NO_ONE = "00000000-0000-0000-0000-000000000000"
LONG_AGO = datetime(2020, 2, 2, tzinfo=UTC)


# --- Events -------------------------------------------------------------------------------------------------


def events(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select event_type, payload ->> 'from', payload ->> 'to', (payload ->> 'version')::int from workflow_event"
        " order by id"
    ).fetchall()


def test_each_change_of_status_and_stage_is_recorded(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix", trace_id="trace-1").workflow_id
    transition(conn, workflow, "running")
    conn.execute("update workflow set current_stage = 'validation'")
    moved = transition(conn, workflow, "failed", stage="e2e_testing")
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
    assert times[-1] == moved.updated_at
    assert len(set(times)) == 3


def test_progress_and_what_changes_nothing_are_not_recorded(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix", status="running").workflow_id
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
    conn: psycopg.Connection, session: Any
) -> None:
    workflow = new_workflow(conn, status="running")
    early = session()
    early.execute("select 1")  # its now() is before what follows
    transition(conn, workflow, "paused")
    transition(early, workflow, "running")
    early.commit()
    told = [m.what for m in list_timeline(conn, workflow) if m.kind == "event"]
    assert told == ["running -> paused", "paused -> running"]


# --- Timeline -----------------------------------------------------------------------------------------------


def test_the_timeline_tells_events_stages_and_tasks_in_time_order(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running")
    (task,) = new_tasks(conn, workflow, "pending")
    set_status(conn, task, "running")
    set_status(conn, task, "failed")
    advance(conn, workflow)
    create_workflow(conn, "another", "bugfix", status="running")
    moments = list_timeline(conn, workflow)
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
    assert {m.workflow_id for m in moments} == {workflow}
    assert moments[2].detail["task_id"] == str(task)
    assert list_timeline(conn, workflow, limit=3) == moments[:3]
    assert list_timeline(conn, workflow, limit=None) == moments


def test_pages_of_the_timeline_lose_and_repeat_nothing_where_times_are_equal(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    long_ago = LONG_AGO.isoformat()
    add_tasks(conn, workflow, [{"agent_type": f"a{n % 3}", "created_at": long_ago} for n in range(100)])
    conn.execute("update agent_task set status = 'failed', started_at = created_at, completed_at = created_at")
    ended = "update workflow_stage set status = 'completed', started_at = %s, completed_at = %s"
    conn.execute(ended, [long_ago, long_ago])
    events = "insert into workflow_event (workflow_id, event_type, occurred_at) select %s, 'note', %s from agent_task"
    conn.execute(events, [workflow, LONG_AGO])
    seen: list[TimelineEntry] = []
    while page := list_timeline(conn, workflow, limit=7, after=seen[-1] if seen else None):
        seen += page
    everything = list_timeline(conn, workflow)
    assert seen == everything
    assert len({(m.kind, m.place, m.name) for m in seen}) == len(seen) == 406
    assert [m.what for m in seen if m.name == "validation"] == ["started", "completed"]
    told = [(m.detail["task_id"], m.what) for m in seen if m.kind == "task"]
    assert told == [(str(t.id), what) for t in list_tasks(conn, workflow) for what in ("created", "started", "failed")]


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
    rows = [  # created, completed (minutes), status
        (0, 3, "completed"),
        (0, 1, "completed"),
        (1, 3, "completed"),
        (2, 4, "failed"),
        (2, None, "running"),
        (6, None, "pending"),
    ]
    for created, completed, status in rows:
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
    points = [
        ((p.at - LONG_AGO) // timedelta(minutes=1), p.agents_completed, p.agents_total)
        for p in list_burnup(conn, workflow)
    ]
    assert points == [(0, 0, 2), (1, 1, 3), (2, 1, 5), (3, 3, 5), (6, 3, 6)]
    last = conn.execute("select agents_completed, agents_total from workflow where id = %s", [workflow]).fetchone()
    assert points[-1][1:] == last
    assert list_burnup(conn, new_workflow(conn)) == []


# --- Forecast -----------------------------------------------------------------------------------------------


def completed_ago(conn: psycopg.Connection, workflow: Any, *seconds: float) -> None:
    """Add completed tasks, by how long before the beginning of this transaction they were completed."""
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', 'completed', now() - make_interval(secs => s) from unnest(%s::float[]) as s",
        [workflow, [float(ago) for ago in seconds]],
    )


def test_a_forecast_tells_rate_time_and_basis_exactly(session: Any) -> None:
    conn = session()  # in one transaction, now() stands still
    workflow = new_workflow(conn, status="running", agents_planned=12)
    completed_ago(conn, workflow, 120, 90, 60, 30)
    new_tasks(conn, workflow, "failed", "cancelled", "running", "pending")
    unknown = new_workflow(conn, status="running", agents_planned=9)
    new_tasks(conn, unknown, *["completed"] * 5)
    conn.execute("update agent_task set completed_at = '-infinity' where workflow_id = %s", [unknown])
    assert get_forecasts(conn, [unknown])[unknown].basis_completions == 0
    forecast = get_forecasts(conn, [workflow])[workflow]
    (now,) = conn.execute("select now()").fetchone()
    # 3 in the 120 seconds since the first of them; 12 planned, of which 4 completed, 1 failed, 1 cancelled
    assert forecast.completed_per_minute == Decimal("1.5")
    assert forecast.estimated_completion_at == now + timedelta(seconds=6 * 40)
    assert (forecast.basis_completions, forecast.basis_seconds) == (4, 120)
    assert (forecast.workflow_id, forecast.stalled) == (workflow, False)
    conn.commit()


DAY = 86_400
OTHERS = ("initiated", "paused", "completed", "failed", "cancelled")
# Status, plan, when tasks were completed and the workflow moved, in seconds before now; the seconds in which it ran
# since the first completion that counts, None where too little is known for a forecast; and how many tasks remain.
FORECASTS: list[tuple[str, int | None, tuple[float, ...], dict[int, str], int | None, int | None]] = [
    ("running", 10, (), {}, None, None),
    ("running", 10, (60, 30), {}, None, None),
    ("running", 10, (0.5, 0.4, 0.3, 0.2), {}, None, None),
    *((status, 10, (60, 40, 30), {}, None, None) for status in OTHERS),
    ("running", 4, (1, 0.5, 0), {}, 1, 1),  # it begins with the third completion, over a second
    ("running", None, (30, 20, 10), {}, 30, None),  # nothing remains
    ("running", 1000, (*range(250), *range(10_000, 10_100)), {}, 99, 650),  # the last hundred
    ("running", 5, (2 * DAY, DAY, DAY), {}, 2 * DAY, 2),
    ("running", 2_000_000_000, (2 * DAY, DAY, DAY), {}, 2 * DAY, None),  # beyond any calendar
    ("running", 8, (50_900, 50_700, 50_600, 200), {50_500: "paused", 250: "running"}, 650, 4),
    ("running", 6, (900, 800, 600), {850: "paused", 700: "running"}, 800, 3),  # agents end in it what they began
    (
        "running", 6, (900, 800, 600),
        {850: "failed", 840: "paused", 820: "running", 500: "paused", 400: "running"}, 770, 3,
    ),
    ("running", 6, (900, 800, 800), {950: "paused", 850: "running", 700: "paused", 600: "running"}, 750, 3),
    ("running", 6, (900, 800, 600), {500: "initialization", 400: "validation"}, 900, 3),  # stages are no pauses
]  # fmt: skip


def test_a_forecast_is_made_of_the_last_completions_while_the_workflow_ran(session: Any) -> None:
    conn = session()
    (now,) = conn.execute("select now()").fetchone()
    for status, planned, ago, moves, seconds, remaining in FORECASTS:
        workflow = new_workflow(conn, status=status, agents_planned=planned)
        completed_ago(conn, workflow, *ago)
        before = "running"
        for at, to in moves.items():
            conn.execute(
                "insert into workflow_event (workflow_id, event_type, payload, occurred_at) values"
                " (%s, %s, jsonb_build_object('from', %s::text, 'to', %s::text), now() - make_interval(secs => %s))",
                [workflow, "status_changed" if to in (*OTHERS, "running") else "stage_changed", before, to, at],
            )
            before = to
        forecast = get_forecasts(conn, [workflow])[workflow]
        told = forecast.completed_per_minute, forecast.estimated_completion_at
        completions = min(100, len(ago))
        assert forecast.basis_completions == completions
        if seconds is None:
            assert told == (None, None), (status, ago)
        else:
            assert forecast.basis_seconds == seconds
            assert float(told[0] or 0) == round(60 * (completions - 1) / seconds, 4)
            assert (told[1] is None) == (remaining is None)
            left = timedelta(seconds=(remaining or 0) * seconds / (completions - 1))
            assert told[1] is None or abs(told[1] - now - left) < timedelta(milliseconds=1), moves
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
        forecasts = get_forecasts(conn, [idle_long, idle_short, paused])
        return [forecasts[workflow].stalled for workflow in (idle_long, idle_short, paused)]

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
    old = get_forecasts(conn, [workflow])[workflow]
    assert old.stalled
    if act == "start":
        set_status(conn, task, "running")
    elif act == "assign":
        report_task(conn, workflow, task, "assigned")
    else:
        transition(conn, workflow, "paused")
        transition(conn, workflow, "running")
    now = get_forecasts(conn, [workflow])[workflow]
    assert not now.stalled
    assert now.last_activity_at > old.last_activity_at
    counted = new_workflow(conn, status="running")
    (task,) = new_tasks(conn, counted, "running")
    before = get_forecasts(conn, [counted])[counted].last_activity_at
    set_status(conn, task, "failed")
    assert get_forecasts(conn, [counted])[counted].last_activity_at > before


def test_the_forecast_of_a_huge_workflow_reads_few_of_its_tasks(conn: psycopg.Connection) -> None:
    small = new_workflow(conn, status="running")
    new_tasks(conn, small, "running", "completed")
    huge = new_workflow(conn, status="running")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', s::task_status, case s when 'completed' then now() - n * interval '1 ms' end"
        " from generate_series(1, 50000) as n,"
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
        assert all_pages > 500
        assert pages("workflow_id = %s", [huge]) < 300
        assert pages("workflow_id = any (%s)", [[huge, small]]) < 300
        conn.execute("analyze agent_task, workflow")
    conn.execute("update agent_task set status = 'completed' where status = 'assigned' and workflow_id = %s", [huge])
    assert pages("workflow_id = any (%s)", [[huge, small]]) < 300
    assert get_forecasts(conn, [huge])[huge].basis_completions == 100
