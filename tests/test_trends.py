"""Trends by type: the numbers of both views, and what the service shows of them."""

import csv
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pyapp import Trend, list_task_trends, list_workflow_trends
from tests.adopt.application import succeed
from tests.helpers import new_workflow
from tests.service import Conn, Service, serving, shared

FORMULA = "=cmd|'/C calc'!A1"
Ended = tuple[str, str, str, int]
WORKFLOWS: list[Ended] = [  # type, status, how long ago it ended, seconds it took
    ("app", "completed", "1 hour", 10),
    ("app", "completed", "23 hours", 30),
    ("app", "failed", "2 hours", 5000),
    ("app", "cancelled", "3 days", 7000),
    ("app", "completed", "29 days", 50),
    ("app", "completed", "31 days", 9000),
    ("docs", "failed", "10 days", 60),
    ("gone", "completed", "40 days", 60),
    ("later", "completed", "-1 hour", 60),
]
service_dsn, service, conn = shared()


def short(trends: list[Trend]) -> list[tuple[Any, ...]]:
    rates = [(t.per_hour, t.failure_rate, t.p50_seconds, t.p95_seconds) for t in trends]
    ended = [(t.type, t.period, t.ended, t.completed, t.failed, t.cancelled) for t in trends]
    return [
        (*counts, *(None if rate is None else float(rate) for rate in of))
        for counts, of in zip(ended, rates, strict=True)
    ]


EXPECTED = [
    ("app", "24 h", 3, 2, 1, 0, 0.125, 0.3333, 20, 29),
    ("app", "7 d", 4, 2, 1, 1, 0.0238, 0.25, 20, 29),
    ("app", "30 d", 5, 3, 1, 1, 0.0069, 0.2, 30, 48),
    ("docs", "24 h", 0, 0, 0, 0, 0, None, None, None),
    ("docs", "7 d", 0, 0, 0, 0, 0, None, None, None),
    ("docs", "30 d", 1, 0, 1, 0, 0.0014, 1, None, None),
]


def insert(conn: Conn, of: str, rows: list[Ended], **more: Any) -> None:
    """Insert rows into a table with the columns of workflow or of agent_task."""
    kind, began = ("type", "created_at") if of.endswith("workflow") else ("agent_type", "started_at")
    names, values = ", ".join(["", *more]), ", %s" * len(more)
    for type_, status, ago, took in rows:
        conn.execute(
            f"insert into {of} ({kind}, status, completed_at, {began}{names})"
            f" values (%s, %s, now() - %s::interval, now() - %s::interval - %s * interval '1 s'{values})".encode(),
            [type_, status, ago, ago, took, *more.values()],
        )


def test_workflows_of_each_type_are_counted_and_measured_by_period(conn: Conn) -> None:
    assert list_workflow_trends(conn) == []
    insert(conn, "workflow", WORKFLOWS, name="w")
    new_workflow(conn, type="running", status="running")
    found = list_workflow_trends(conn)
    assert short(found) == EXPECTED
    assert not any(trend.sampled for trend in found)


def test_tasks_are_counted_and_measured_alike_from_their_start(conn: Conn) -> None:
    assert list_task_trends(conn) == []
    insert(conn, "agent_task", WORKFLOWS, workflow_id=new_workflow(conn))
    insert(
        conn, "agent_task", [("old", "completed", "1 hour", 1)], workflow_id=new_workflow(conn, created_at="2020-01-01")
    )
    found = list_task_trends(conn)
    assert short(found) == EXPECTED
    assert not any(trend.sampled for trend in found)


def test_of_many_tasks_the_last_ones_are_read_whatever_their_status(conn: Conn) -> None:
    workflow = new_workflow(conn)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at) select %s, 'a',"
        " (array['completed', 'failed'])[1 + n %% 2]::task_status,"
        " now() - n * interval '1 s' from generate_series(1, 300) as n",
        [workflow],
    )
    day, *_ = list_task_trends(conn)
    assert (day.ended, day.completed, day.failed, day.sampled) == (100, 50, 50, True)


def test_times_that_no_clock_tells_do_no_harm(conn: Conn) -> None:
    insert(conn, "workflow", [("odd", "completed", "1 hour", -7200)], name="from the future")
    new_workflow(conn, type="odd", status="completed", created_at="-infinity", completed_at="2020-01-01")
    conn.execute("update workflow set completed_at = now() where created_at = '-infinity'")
    new_workflow(conn, type="odd", status="completed", completed_at="infinity")
    day, *_ = list_workflow_trends(conn)
    assert (day.ended, day.p50_seconds) == (2, None)


@pytest.fixture
def adopted(empty: Callable[[], str]) -> str:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "create table run (id bigint primary key, type text, status text, created_at timestamptz,"
            " completed_at timestamptz);"
            "create table job (id bigint generated always as identity primary key, run_id bigint references run,"
            " agent_type text, status text, started_at timestamptz, completed_at timestamptz);"
            "create index on job (run_id);"
        )
        succeed(dsn, "adopt", "--workflows", "run", "--tasks", "job", "--key", "run_id", "--task-noun", "job", "--yes")
        conn.execute("insert into run values (100, 'a', 'running', now(), null)")
        for key, (type_, status, ago, took) in enumerate(WORKFLOWS):
            values = [type_, status, ago, ago, took]
            conn.execute(
                "insert into run (type, status, completed_at, created_at, id)"
                " values (%s, %s, now() - %s::interval, now() - %s::interval - %s * interval '1 s', %s)",
                [*values, key],
            )
        insert(conn, "job", WORKFLOWS, run_id=100)
    return dsn


def test_adopted_tables_have_the_same_trends(adopted: str) -> None:
    with psycopg.connect(adopted) as conn:
        assert short(list_workflow_trends(conn, schema="agent_progress")) == EXPECTED
        assert short(list_task_trends(conn, schema="agent_progress")) == EXPECTED
    with serving(adopted, "--schema", "agent_progress") as service:
        assert "Jobs by type" in service.page("/trends")
        assert len(service.get("/stats/trends", by="agent_type")) == len(EXPECTED)


def test_the_page_shows_both_and_says_where_there_is_nothing(service: Service, conn: Conn) -> None:
    empty = service.page("/trends")
    for nouns in ("workflows", "agents"):
        assert f"None of the {nouns} ended" in empty
    insert(conn, "workflow", [*WORKFLOWS, ("<script>", "completed", "1 hour", 3700)], name="w")
    page = service.page("/trends")
    for shown in ('<a href="/trends" aria-current="page">Trends</a>', "33.3 %", "1 h 1 min", "&lt;script&gt;"):
        assert shown in page
    assert "<script>" not in page
    assert service.page("/trends?by=type", 422)


def test_the_api_has_them_as_json_and_as_csv_that_no_spreadsheet_runs(service: Service, conn: Conn) -> None:
    insert(conn, "workflow", WORKFLOWS, name="w")
    insert(
        conn,
        "workflow",
        [(start, "failed", "1 hour", 1) for start in (FORMULA, "+1", "-1", "@a", "\tb", "\rc")],
        name="w",
    )
    found = service.get("/stats/trends", by="type")
    helpers = list_workflow_trends(conn)
    assert [row["type"] for row in found] == [t.type for t in helpers]
    assert found[0] == {
        **dict(zip(("type", "period", "ended", "completed", "failed", "cancelled"), EXPECTED[0][:6], strict=True)),
        **dict(zip(("per_hour", "failure_rate", "p50_seconds", "p95_seconds"), EXPECTED[0][6:], strict=True)),
        "sampled": False,
    }
    with service.client() as client:
        answer = client.get("/api/v1/stats/trends", params={"by": "type", "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(answer.text.splitlines(keepends=True)))
    assert [row["type"].removeprefix("'") for row in rows] == [t.type for t in helpers]
    assert f"'{FORMULA}" in [row["type"] for row in rows]
    assert not [row for row in rows if row["type"][:1] in "=+-@\t\r"]
    assert service.get("/stats/trends", by="agent_type") == []


@pytest.mark.parametrize("given", [{}, {"by": "name"}, {"by": "type", "format": "xml"}, {"by": "type", "limit": 1}])
def test_other_parameters_are_refused(service: Service, given: dict[str, Any]) -> None:
    service.get("/stats/trends", 422, **given)
