"""The service on other schemas: an installation beside public, and views over an application's own tables."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import psycopg
import pytest
from psycopg import sql

from pyapp import Drift, Forecast, Task, Workflow, add_tasks, create_workflow, migrate, report_task, transition
from pyapp.cli import main
from pyapp.watch import channel
from tests.service import Conn, Service, command, environment, following, serving, wait_for
from tests.test_dashboard import PAYLOAD, PHONE, Visit, browser, live, visit  # noqa: F401 (fixtures)

SORTS = ["created", "-created", "name", "-name", "status", "-status"]
LACKING = ["events", "timeline", "stages", "burnup"]
KEYS = [
    "a/tasks",
    "a",
    "100% sure?#x",
    "%2F%25",
    "two words",
    "日本/ü",
    PAYLOAD,
    'a\\b"{,}',
    "x&id=y",
    "..a",
    ";",
    "\u202e",
]
BIG = 9_007_199_254_740_993  # more than a number of JavaScript holds
LISTENING = "select count(*) from pg_stat_activity where query like 'listen %My%Agents%'"
TABLES = """
    create table {s}.runs (
        id {key} primary key, name text, kind text, status text, urgency text, made timestamptz, is_counted boolean
    );
    create table {s}.steps (
        id bigint generated always as identity primary key,
        run {key} not null references {s}.runs on delete cascade,
        status text
    );
    create view {s}.counted as
    select
        r.*,
        case when r.is_counted then coalesce(100 * c.completed / nullif(c.created, 0), 0)::integer end as percentage,
        case when r.is_counted then c.created end as created,
        c.completed,
        c.failed
    from {s}.runs as r
    cross join lateral (
        select
            count(*)::integer as created,
            count(*) filter (where s.status = 'completed')::integer as completed,
            count(*) filter (where s.status = 'failed')::integer as failed
        from {s}.steps as s
        where s.run = r.id
    ) as c;
"""
OF_RUN = {
    "workflow_id": "id",
    "name": "name",
    "type": "kind",
    "status": "status",
    "priority": "urgency",
    "progress": "percentage",
    "progress_percentage": "percentage",
    "settled_percentage": "percentage",
    "agents_completed": "completed",
    "agents_total": "created",
    "agents_created": "created",
    "agents_failed": "failed",
    "agents_cancelled": "0",
    "agents_open": "created - completed - failed",
    "progress_calculation_method": "'agent-based'::text",
    "created_at": "made",
}
OF_STEP = {"id": "id", "workflow_id": "run", "status": "status", "ordinal": "id"}
OF_FORECAST = {"workflow_id": "id", "stalled": "false"}


def view(schema: str, name: str, row: type[Any], columns: dict[str, str], table: str) -> str:
    """Write a view with the columns of a row, null where the application has none."""
    types = {"_at": "timestamptz", "_planned": "integer", "payload": "jsonb", "result": "jsonb"}

    def column(name: str) -> str:
        type_ = next((type_ for end, type_ in types.items() if name.endswith(end)), "text")
        return f"{columns.get(name, f'null::{type_}')} as {name}"

    listed = ", ".join(column(field.name) for field in fields(row))
    return f"create view {schema}.{name} as select {listed} from {schema}.{table};"


def views(schema: str, key: str) -> str:
    """Write what an adoption is: a schema with views of our names, without stages and events."""
    return "".join(
        [
            f"create schema {schema};",
            TABLES.format(s=schema, key=key),
            view(schema, "workflow_progress", Workflow, OF_RUN, "counted"),
            view(schema, "workflow_progress_drift", Drift, {"workflow_id": "id"}, "counted where false"),
            view(schema, "workflow_forecast", Forecast, OF_FORECAST, "counted"),
            view(schema, "agent_task", Task, OF_STEP, "steps"),
        ]
    )


@pytest.fixture(scope="module")
def dsn_of_many(empty: Any) -> str:
    dsn: str = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(views("texts", "text") + views("numbers", "bigint"))
    return dsn


@pytest.fixture(scope="module")
def texts(dsn_of_many: str) -> Iterator[Service]:
    with serving(dsn_of_many, "--schema", "texts", "--interval", "0.1") as running:
        yield running


@pytest.fixture(scope="module")
def numbers(dsn_of_many: str) -> Iterator[Service]:
    with serving(dsn_of_many, AGENT_PROGRESS_SCHEMA="numbers") as running:
        yield running


@pytest.fixture
def conn(dsn_of_many: str) -> Iterator[Conn]:
    with psycopg.connect(dsn_of_many, autocommit=True) as connection:
        connection.execute("truncate texts.runs, numbers.runs cascade")
        yield connection


def new_run(conn: Conn, key: str | int, *statuses: str, **columns: Any) -> str:
    """Insert a run with steps of these statuses; return its key as text."""
    columns = {"name": "w", "status": "running", "made": "2026-01-01", "is_counted": True, **columns}
    schema = "texts" if isinstance(key, str) else "numbers"
    names, places = ", ".join(columns), ", %s" * len(columns)
    conn.execute(f"insert into {schema}.runs (id, {names}) values (%s{places})", [key, *columns.values()])
    for status in statuses:
        conn.execute(f"insert into {schema}.steps (run, status) values (%s, %s)", [key, status])
    return str(key)


def complete(conn: Conn, key: str) -> None:
    """Complete one step of a run."""
    conn.execute(
        "update texts.steps set status = 'completed'"
        " where id = (select min(id) from texts.steps where run = %s and status <> 'completed')",
        [key],
    )


def walk(service: Service, path: str = "/workflows", /, **parameters: Any) -> list[str]:
    """Follow a list from page to page; return the ids in it."""
    return [one["id"] for page in service.walk(f"/api/v1{path}", **parameters) for one in page.json()]


# --- An installation in a schema of its own ---------------------------------------------------------------------


def test_the_service_reads_and_hears_of_the_schema_that_it_is_told(dsn_of_many: str, conn: Conn) -> None:
    schema = 'My "own" Agents'
    migrate(dsn_of_many, schema=schema)
    create_workflow(conn, "elsewhere", "app")
    workflow = create_workflow(conn, "here", "app", schema=schema)
    first, second = add_tasks(conn, workflow.workflow_id, ["builder", "tester"], schema=schema)
    assert main(["notify", "on", "--dsn", dsn_of_many, "--schema", schema]) == 0
    one = f"/workflows/{workflow.workflow_id}"
    # A minute between two looks: what is told is told by notifications.
    with serving(dsn_of_many, "--schema", schema, "--interval", "60") as service:
        with following(service, "/api/v1/stream") as stream:
            assert [found["name"] for found in stream.next().data] == ["here"]
            wait_for(lambda: conn.execute(LISTENING).fetchone() == (1,))
            report_task(conn, workflow.workflow_id, first.id, "completed", schema=schema)
            assert stream.until(lambda event: event.name == "workflow").data["progress"] == 50
            # Nothing is lost when notifications end.
            assert main(["notify", "off", "--dsn", dsn_of_many, "--schema", schema]) == 0
            transition(conn, workflow.workflow_id, "running", schema=schema)
            report_task(conn, workflow.workflow_id, second.id, "completed", schema=schema)
        assert [found["name"] for found in service.get("/workflows")] == ["here"]
        for part in ("", "/tasks", "/events", "/timeline", "/stages", "/burnup", "/forecast", "/metrics"):
            assert service.get(one + part), part
        for path in ("/", "/workflows", one):
            assert "My &#34;own&#34; Agents" in service.page(path)
        assert [found["progress"] for found in service.get("/workflows", status="running", sort="name")] == [100]


@pytest.mark.parametrize("schema", ["agents", "My Agents", "s" * 48, "s" * 49, "ü" * 31])
def test_the_channel_of_a_schema_is_a_channel(dsn_of_many: str, conn: Conn, schema: str) -> None:
    migrate(dsn_of_many, schema=schema)
    for switch in ("on", "on"):
        assert main(["notify", switch, "--dsn", dsn_of_many, "--schema", schema]) == 0
    assert len(channel(schema).encode()) <= 63
    conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel(schema))))
    workflow = create_workflow(conn, "w", "app", schema=schema)
    create_workflow(conn, "w", "app")
    for switch in ("off", "off"):
        assert main(["notify", switch, "--dsn", dsn_of_many, "--schema", schema]) == 0
    heard = [notice.payload for notice in conn.notifies(timeout=60, stop_after=3)]
    assert heard == [str(workflow.workflow_id), "off", "off"]


@pytest.mark.parametrize("schema", ["nowhere", "pg_catalog"])
def test_a_schema_without_progress_is_refused_in_one_line(dsn_of_many: str, schema: str) -> None:
    line = command("--dsn", dsn_of_many, "serve", "--port", "0", "--schema", schema)
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"agent-progress: .*{schema}.*\n", ended.stderr)


# --- Keys -------------------------------------------------------------------------------------------------------


def test_a_key_of_any_characters_has_an_address(texts: Service, conn: Conn) -> None:
    for key in KEYS:
        new_run(conn, key, "completed", "pending", name=f"name of {key}")
    for key in KEYS:
        one = f"/workflows/{quote(key, safe='')}"
        found = texts.get(one)
        assert (found["id"], found["workflow_id"], found["name"]) == (key, key, f"name of {key}")
        assert (found["progress"], found["agents_completed"], found["agents_total"]) == (50, 1, 2)
        tasks = texts.get(f"{one}/tasks")
        assert [task["status"] for task in tasks] == ["completed", "pending"]
        assert walk(texts, f"{one}/tasks", limit=1) == [task["id"] for task in tasks]
        assert texts.get(f"{one}/metrics")["workflow_id"] == key
    assert set(walk(texts, limit=5)) == set(KEYS)
    addresses = re.findall(r'<a class="name" href="([^"]+)"', texts.page("/workflows"))
    assert len(addresses) == len(KEYS)
    for address in addresses:
        texts.page(address)
    with following(texts, f"/api/v1/stream?{httpx.QueryParams([('id', key) for key in KEYS])}") as stream:
        assert {workflow["id"] for workflow in stream.next().data} == set(KEYS)


def test_keys_are_text_also_where_they_are_numbers(numbers: Service, conn: Conn) -> None:
    new_run(conn, BIG, "completed", "pending")
    for written in (BIG, f"0{BIG}"):
        assert numbers.get(f"/workflows/{written}")["id"] == str(BIG)
    assert [workflow["workflow_id"] for workflow in numbers.get("/workflows")] == [str(BIG)]
    assert [task["workflow_id"] for task in numbers.get(f"/workflows/{BIG}/tasks")] == [str(BIG)] * 2
    for part in ("metrics", "forecast"):
        assert numbers.get(f"/workflows/{BIG}/{part}")["workflow_id"] == str(BIG)
    assert str(BIG) in numbers.page("/")
    with following(numbers, f"/api/v1/workflows/0{BIG}/stream") as stream:
        assert stream.next().data[0]["workflow_id"] == str(BIG)


@pytest.mark.parametrize("key", ["x", "1.5", "9" * 30, "1 or 1=1", "a\0b", "a/tasks", "%", "\U0001f600"])
def test_a_key_of_another_type_is_a_clear_422(numbers: Service, conn: Conn, key: str) -> None:
    new_run(conn, 1, "pending")
    for part in ("/tasks", "/events", "/forecast", "/metrics", "/stream", ""):
        numbers.get(f"/workflows/{quote(key, safe='')}{part}", 422)
    with following(numbers, "/api/v1/stream") as others:
        others.next()
        numbers.get("/stream", 422, id=["1", key])
        new_run(conn, 2)
        assert others.next().data["id"] == "2"
    numbers.page(f"/workflows/{quote(key, safe='')}", 422)


def test_a_key_that_is_not_there_is_not_found(texts: Service, conn: Conn) -> None:
    new_run(conn, "a/tasks")
    for part in ("", "/tasks", *(f"/{part}" for part in LACKING), "/forecast", "/metrics", "/stream"):
        assert texts.get(f"/workflows/a{part}", 404) == {"error": "Workflow not found"}


# --- What an application has, and what not ----------------------------------------------------------------------


def test_what_an_application_has_not_is_empty_or_null(texts: Service, conn: Conn) -> None:
    new_run(conn, "7", "completed", name=None, made=None)
    for part in LACKING:
        assert texts.get(f"/workflows/7/{part}") == []
    assert texts.get("/workflows/7/forecast")["completed_per_minute"] is None
    found = texts.get("/workflows/7")
    assert (found["progress"], found["agents_open"]) == (100, 0)
    for name in ("type", "priority", "current_stage", "stage_progress", "created_at", "trace_id"):
        assert found[name] is None
    shown = texts.page("/workflows/7")
    for panel in ("stages", "events", "burnup"):
        assert f'id="{panel}"' not in shown
    (task,) = texts.get("/workflows/7/tasks")
    for path in ("/", "/workflows", "/workflows/7", f"/workflows/7/tasks/{task['id']}"):
        assert "None" not in texts.page(path)
    assert f"<title>task {task['id']} · completed" in texts.page(f"/workflows/7/tasks/{task['id']}")


def test_a_workflow_that_was_not_counted_yet_has_no_numbers(texts: Service, conn: Conn) -> None:
    new_run(conn, "7", "completed", is_counted=False)
    found = texts.get("/workflows/7")
    assert found["progress"] is found["agents_total"] is None
    for path in ("/", "/workflows", "/workflows/7"):
        shown = texts.page(path)
        assert "tasks not counted" in shown
        assert "None" not in shown
    assert texts.get("/stats/overview")["agents"]["created"] == 0


def test_the_description_fits_the_answers(texts: Service, conn: Conn) -> None:
    new_run(conn, "not a uuid", "pending", name=None, urgency="P1", is_counted=False)
    with texts.client() as client:
        described = client.get("/openapi.json").json()
    for path, kind in (
        ("/workflows/not%20a%20uuid", "Workflow"),
        ("/workflows/not%20a%20uuid/forecast", "Forecast"),
        ("/stats/overview", "Overview"),
    ):
        schema = {"$ref": f"#/components/schemas/{kind}", "components": described["components"]}
        jsonschema_rs.validate(schema, texts.get(path))
    (task,) = texts.get("/workflows/not%20a%20uuid/tasks")
    jsonschema_rs.validate({"$ref": "#/components/schemas/Task", "components": described["components"]}, task)
    assert '"uuid"' not in json.dumps(described)


def test_filters_take_the_application_s_own_words(texts: Service, conn: Conn) -> None:
    new_run(conn, "1", status="paused", urgency="P1", kind="etl", name="100% sure")
    new_run(conn, "2", urgency="P1", kind="etl")
    new_run(conn, "3", urgency="P2", kind=PAYLOAD)
    new_run(conn, "4", urgency=None, name=None)
    assert walk(texts, status="paused") == walk(texts, name="100%") == ["1"]
    assert set(walk(texts, priority="P1")) == {"1", "2"}
    assert walk(texts, status="running", priority="P1", type="etl", name="w") == ["2"]
    assert walk(texts, priority="'; drop table x --") == []
    assert walk(texts, type=PAYLOAD) == ["3"]
    assert 'value="P2"' in texts.page("/workflows?status=running&priority=&type=&name=")
    texts.get("/workflows", 422, status="no such")


@pytest.mark.parametrize("sort", SORTS)
def test_each_order_comes_in_pages_with_what_is_null_as_the_greatest(
    texts: Service, numbers: Service, conn: Conn, sort: str
) -> None:
    times = ["2026-01-01 10:00:00.001", "2026-01-01 10:00:00.002", None]
    kinds = [(name, status, at) for name in ("a", "b", None) for status in ("failed", "running") for at in times]
    for place, (name, status, at) in enumerate([*kinds, *kinds]):
        new_run(conn, f"k{place:02}", name=name, status=status, made=at)
    found = walk(texts, sort=sort, limit=4)
    assert len(found) == len(set(found)) == 36
    assert found == walk(texts, sort=sort, limit=100)
    column = {"created": "made"}.get(sort.strip("-"), sort.strip("-"))
    values = dict(conn.execute(f'select id, "{column}"::text from texts.runs').fetchall())
    keys = [(values[key] is None, values[key] or "") for key in found]
    assert keys == sorted(keys, reverse=sort.startswith("-"))

    for key in (10, 9, 100):
        new_run(conn, key, name=None, made=None)
    assert walk(numbers, sort=sort, limit=1) == (["100", "10", "9"] if sort.startswith("-") else ["9", "10", "100"])


def test_the_overview_shows_what_needs_attention_first(texts: Service, conn: Conn) -> None:
    new_run(conn, "1", "completed", "failed", status="paused")
    for key, status, name in (("2", "running", "w"), ("3", "running", None), ("4", "failed", "broken")):
        new_run(conn, key, name=name, status=status)
    shown = texts.page("/")
    assert "broken" in shown.partition('id="failures"')[2]
    active = shown.partition('id="active"')[2].partition("</section>")[0]
    assert re.findall(r'data-key="([^"]*)"', active) == ["1", "3", "2"]
    with texts.client() as client:
        metrics = client.get("/metrics").text
    assert 'agent_progress_workflows{status="running"} 2.0' in metrics
    assert "agent_progress_drifting_workflows 0.0" in metrics


# --- Live, and what goes away -----------------------------------------------------------------------------------


def test_a_stream_follows_a_workflow_to_its_end(texts: Service, conn: Conn) -> None:
    key = new_run(conn, "日本/%2F 'x'", "running", "running")
    other = new_run(conn, "other", status="cancelled")
    with (
        following(texts, f"/api/v1/workflows/{quote(key, safe='')}/stream") as one,
        following(texts, "/api/v1/stream") as active,
    ):
        assert [found["id"] for found in one.next().data] == [found["id"] for found in active.next().data] == [key]
        complete(conn, key)
        for stream in (one, active):
            told = stream.until(lambda event: event.name == "workflow")
            assert (told.data["id"], told.data["progress"]) == (key, 50)
        conn.execute("update texts.runs set status = 'failed' where id = %s", [key])
        for stream in (one, active):
            assert stream.until(lambda event: event.name == "workflow").data["status"] == "failed"
        conn.execute("delete from texts.runs where id in (%s, %s)", [key, other])
        assert one.next() == ("deleted", {"workflow_id": key})
    with following(texts, "/api/v1/stream") as later:
        assert later.next().data == []


def test_a_view_that_is_gone_is_told_and_may_come_back(texts: Service, conn: Conn) -> None:
    key = new_run(conn, "1", "completed", "running")
    with following(texts, "/api/v1/stream") as stream:
        stream.next()
        conn.execute("alter view texts.workflow_progress rename to elsewhere")
        assert stream.next() == ("away", {})
        assert '"texts" has no agent-progress' in texts.get("/workflows", 503)["error"]
        assert "has no agent-progress" in texts.page("/", 503)
        with texts.client() as client:
            assert client.get("/readyz").status_code == 503
            assert "agent_progress_database_up 0.0" in client.get("/metrics").text
        conn.execute("alter view texts.elsewhere rename to workflow_progress")
        # What it had not had before is seen as well.
        conn.execute(
            "create view texts.workflow_stage_progress as select id as workflow_id, 7 as progress_percentage"
            " from texts.runs"
        )
        assert stream.until(lambda event: event.name == "snapshot").data[0]["stage_progress"] == 7
    assert texts.get(f"/workflows/{key}")["stage_progress"] == 7
    conn.execute("drop view texts.workflow_stage_progress")
    texts.get("/workflows", 503)
    assert texts.get(f"/workflows/{key}")["stage_progress"] is None


# --- In a browser -----------------------------------------------------------------------------------------------


def test_the_pages_follow_an_application_s_tables(visit: Visit, texts: Service, conn: Conn) -> None:  # noqa: F811
    key = new_run(conn, f"run/1 {PAYLOAD}", "completed", "running", "failed", "pending", name="nightly import")
    new_run(conn, "c3", "failed", status="failed", name=PAYLOAD, kind=PAYLOAD, urgency=PAYLOAD)
    new_run(conn, "c4", "completed", name=None, is_counted=False)
    opened = live(visit(texts))
    row = opened.locator("#active [data-workflow]").filter(has_text="nightly import")
    assert row.locator("[data-f=progress]").inner_text() == "25"
    complete(conn, key)
    row.locator("[data-f=progress]", has_text="50").wait_for()
    conn.execute("update texts.runs set status = 'paused' where id = %s", [key])
    row.locator(".status[data-status=paused]", has_text="paused").wait_for()
    opened.locator("[data-tile=paused_workflows]", has_text="1").wait_for()
    row.locator(".name").click()
    opened.wait_for_selector("#tasks")
    complete(conn, key)
    opened.wait_for_selector("[data-bar][aria-valuenow='75']")
    opened.locator("#tasks .status[data-status=completed]").nth(2).wait_for()
    assert opened.locator("#about code.id").first.inner_text() == key
    listed = live(visit(texts, "/workflows"))
    complete(conn, key)
    row = listed.locator("[data-workflow]").filter(has_text="nightly import")
    row.locator("[data-f=progress]", has_text="100").wait_for()
    conn.execute("update texts.runs set status = 'completed' where id = %s", [key])
    row.locator(".status[data-status=completed]", has_text="completed").wait_for()
    row.locator(".bar[data-state=done]").wait_for()
    narrow = live(visit(texts, "/workflows", size=PHONE))
    assert narrow.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for page in (opened, listed, narrow):
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script").count() == 0
