"""The service on adopted tables: keys of any type, statuses in other words, columns that come and go."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import psycopg
import pytest

from pyapp.adopt.source import find_source
from pyapp.cli import main
from pyapp.progress import get_workflow, list_tasks, progress_metrics
from pyapp.web import queries
from tests.service import Service, command, environment, following, serving
from tests.test_dashboard import DESK, PHONE, browser, live, visit  # noqa: F401 (fixtures)

PAYLOAD = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&amp;"
KEYS = [
    "a/tasks",
    "a",
    "100% sure?#x",
    "%2F%25",
    "two words",
    "日本/ü",
    PAYLOAD,
    "a\\b",
    "x&id=y",
    "..a",
    ";",
    "ab\u202ecd",
]
PRISMA = """
    create type "RunStatus" as enum ('QUEUED', 'RUNNING', 'On Hold', 'AWAITING_APPROVAL', 'COMPLETED', 'FAILED');
    create type "StepStatus" as enum ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED');
    create table "Workflow" (
        id text primary key,
        name text,
        "workflowType" text,
        status "RunStatus",
        priority text,
        progress integer not null default 0,
        "createdAt" timestamp(3) default current_timestamp,
        "completedAt" timestamp(3)
    );
    create table "AgentTask" (
        id text primary key,
        "workflowId" text not null references "Workflow" on delete restrict,
        "agentType" text,
        status "StepStatus" not null default 'PENDING',
        "startedAt" timestamp(3)
    );
"""
BIGINT = """
    create table "the ""runs"", 100%" (id bigint primary key, title text, state text);
    create table "its steps" (
        id bigint generated always as identity primary key,
        run bigint not null references "the ""runs"", 100%" on delete cascade,
        done_at timestamptz
    );
"""
# More than a number of JavaScript holds.
BIG = 9_007_199_254_740_993


@pytest.fixture(scope="module")
def dsn(empty) -> str:
    created = empty()
    with psycopg.connect(created, autocommit=True) as conn:
        conn.execute(PRISMA + BIGINT)
    adopt(created, "prisma", "--workflows", '"Workflow"', "--tasks", '"AgentTask"')
    adopt_bigint(created)
    return created


def adopt(dsn: str, name: str, *arguments: str) -> None:
    assert main(["--dsn", dsn, "adopt", "--name", name, "--json", *arguments]) == 0


def adopt_bigint(dsn: str) -> None:
    tables = ["--workflows", '"the ""runs"", 100%"', "--tasks", '"its steps"']
    adopt(dsn, "runs", *tables, "--workflow-completed", "shipped", "--completed-when", "done_at is not null")


@pytest.fixture(scope="module")
def prisma(dsn: str) -> Iterator[Service]:
    with serving(dsn, "--name", "prisma", "--interval", "0.1") as running:
        yield running


@pytest.fixture(scope="module")
def runs(dsn: str) -> Iterator[Service]:
    with serving(dsn, "--name", "runs", "--interval", "0.1") as running:
        yield running


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('truncate "Workflow", "AgentTask", "the ""runs"", 100%", "its steps"')
        yield connection
        for name in ("prisma", "runs"):
            assert main(["--dsn", dsn, "check", "--name", name]) == 0


def new_workflow(conn: psycopg.Connection, key: str, *statuses: str, **columns: Any) -> str:
    """Insert a workflow with tasks of these statuses."""
    columns = {"name": "w", "status": "RUNNING", **columns}
    names = "".join(f', "{name}"' for name in columns)
    conn.execute(f'insert into "Workflow" (id{names}) values (%s{", %s" * len(columns)})', [key, *columns.values()])
    for place, status in enumerate(statuses):
        values = [f"{key}:{place}", key, status]
        conn.execute('insert into "AgentTask" (id, "workflowId", status) values (%s, %s, %s)', values)
    return key


def new_run(conn: psycopg.Connection, key: int, *, done: int = 0, open: int = 0, **columns: Any) -> int:
    values = {"title": "run", "state": "sailing", **columns}
    conn.execute('insert into "the ""runs"", 100%%" values (%s, %s, %s)', [key, values["title"], values["state"]])
    conn.execute('insert into "its steps" (run, done_at) select %s, now() from generate_series(1, %s)', [key, done])
    conn.execute('insert into "its steps" (run) select %s from generate_series(1, %s)', [key, open])
    return key


def complete(conn: psycopg.Connection, task: str) -> None:
    conn.execute("""update "AgentTask" set status = 'COMPLETED' where id = %s""", [task])


def get(service: Service, path: str, status: int = 200, **parameters: Any) -> Any:
    with service.client() as client:
        response = client.get(f"/api/v1{path}", params=parameters or None)
    assert response.status_code == status, response.text
    return response.json()


def page(service: Service, path: str, status: int = 200) -> str:
    with service.client() as client:
        response = client.get(path, headers={"Accept": "text/html"})
    assert response.status_code == status, response.text
    return response.text


def walk(service: Service, **parameters: Any) -> list[str]:
    """Follow the list from page to page."""
    found: list[str] = []
    address: Any = f"/api/v1/workflows?{httpx.QueryParams(parameters)}"
    with service.client() as client:
        while address:
            response = client.get(address)
            assert response.status_code == 200, response.text
            found += [workflow["id"] for workflow in response.json()]
            address = response.links.get("next", {}).get("url")
    return found


# --- Keys -------------------------------------------------------------------------------------------------------


def test_a_key_of_any_characters_has_an_address(prisma, conn):
    for key in KEYS:
        new_workflow(conn, key, "COMPLETED", "PENDING", name=f"name of {key}")
    for key in KEYS:
        found = get(prisma, f"/workflows/{quote(key, safe='')}")
        assert (found["id"], found["workflow_id"], found["name"]) == (key, key, f"name of {key}")
        assert (found["progress"], found["agents_completed"], found["agents_total"]) == (50, 1, 2)
        tasks = get(prisma, f"/workflows/{quote(key, safe='')}/tasks")
        assert [(task["id"], task["status"]) for task in tasks] == [(f"{key}:0", "COMPLETED"), (f"{key}:1", "PENDING")]
        assert get(prisma, f"/workflows/{quote(key, safe='')}/metrics")["workflow_id"] == key
    with prisma.client() as client:
        addresses = re.findall(r'<a class="name" href="([^"]+)"', client.get("/workflows").text)
        assert len(addresses) == len(KEYS)
        for address in addresses:
            assert client.get(address, headers={"Accept": "text/html"}).status_code == 200, address
    with following(prisma, f"/api/v1/stream?{httpx.QueryParams([('id', key) for key in KEYS])}") as stream:
        assert {workflow["id"] for workflow in stream.next().data} == set(KEYS)


def test_keys_are_text_also_where_they_are_numbers(runs, conn):
    new_run(conn, BIG, done=1, open=1)
    assert get(runs, f"/workflows/{BIG}")["id"] == str(BIG)
    assert get(runs, f"/workflows/0{BIG}")["id"] == str(BIG)
    assert [workflow["workflow_id"] for workflow in get(runs, "/workflows")] == [str(BIG)]
    tasks = get(runs, f"/workflows/{BIG}/tasks")
    assert [task["workflow_id"] for task in tasks] == [str(BIG)] * 2
    assert [task["status"] for task in tasks] == ["completed", "open"]
    assert get(runs, f"/workflows/{BIG}/metrics") | {"calculation_time_ms": 0} == {
        "workflow_id": str(BIG),
        "progress_percentage": 50,
        "agents_completed": 1,
        "agents_total": 2,
        "calculation_time_ms": 0,
        "stale_data": False,
    }


@pytest.mark.parametrize("key", ["x", "1.5", "", "9" * 30, "1 or 1=1", "a\0b", "a/tasks", "%", "\ud83d\ude00"])
def test_a_key_of_another_type_is_not_found(runs, conn, key):
    new_run(conn, 1, open=1)
    escaped = quote(key.encode("utf-16", "surrogatepass").decode("utf-16"), safe="")
    for part in ("/tasks", "/events", "/forecast", "/metrics", "/stream", *([""] if key else [])):
        assert get(runs, f"/workflows/{escaped}{part}", 404)["error"] in ("Workflow not found", "Not Found")
    if key:
        page(runs, f"/workflows/{escaped}", 404)
        get(runs, f"/stream?id=1&id={escaped}", 404)


def test_a_key_that_is_not_there_is_not_found(prisma, conn):
    new_workflow(conn, "a/tasks")
    for part in ("", "/tasks", "/events", "/timeline", "/stages", "/burnup", "/forecast", "/metrics", "/stream"):
        assert get(prisma, f"/workflows/a{part}", 404) == {"error": "Workflow not found"}


# --- What an application has, and what not -------------------------------------------------------------------------


def test_what_an_application_has_not_is_empty_or_null(runs, conn):
    new_run(conn, 7, done=1)
    for part in ("events", "timeline", "stages", "burnup"):
        assert get(runs, f"/workflows/7/{part}") == []
    forecast = get(runs, "/workflows/7/forecast")
    assert forecast.pop("workflow_id") == "7"
    assert set(forecast.values()) == {None}
    found = get(runs, "/workflows/7")
    assert (found["status"], found["progress"], found["agents_open"]) == ("sailing", 100, 0)
    for name in ("type", "priority", "current_stage", "stage_progress", "created_at", "completed_at", "trace_id"):
        assert found[name] is None
    shown = page(runs, "/workflows/7")
    for panel in ("stages", "events", "burnup"):
        assert f'id="{panel}"' not in shown
    assert "None" not in shown
    assert "Forecast" not in page(runs, "/")


def test_the_description_fits_the_answers(runs, conn):
    new_run(conn, 7, done=1, title=None, state="at sea")
    with runs.client() as client:
        described = client.get("/openapi.json").json()
    for path, kind in (
        ("/workflows/7", "Workflow"),
        ("/workflows/7/forecast", "Forecast"),
        ("/workflows/7/metrics", "Metrics"),
        ("/stats/overview", "Overview"),
    ):
        schema = {"$ref": f"#/components/schemas/{kind}", "components": described["components"]}
        jsonschema_rs.validate(schema, get(runs, path))
    (task,) = get(runs, "/workflows/7/tasks")
    jsonschema_rs.validate({"$ref": "#/components/schemas/Task", "components": described["components"]}, task)
    assert "uuid" not in json.dumps(described)


def test_a_workflow_that_was_not_counted_yet_has_the_application_s_percentage(prisma, dsn, conn):
    for table in ("Workflow", "AgentTask"):
        conn.execute(f'alter table "{table}" disable trigger user')
    new_workflow(conn, "old", "COMPLETED", "PENDING", progress=45)
    for table in ("Workflow", "AgentTask"):
        conn.execute(f'alter table "{table}" enable trigger user')
    found = get(prisma, "/workflows/old")
    assert (found["progress"], found["agents_completed"], found["agents_total"]) == (45, 0, 0)
    assert "agents not counted" in page(prisma, "/workflows/old")
    adopt(dsn, "prisma", "--continue")
    assert get(prisma, "/workflows/old")["progress"] == 50


# --- Lists ------------------------------------------------------------------------------------------------------


def test_filters_take_the_application_s_own_words(prisma, conn):
    new_workflow(conn, "1", status="On Hold", priority="P1", workflowType="etl", name="100% sure")
    new_workflow(conn, "2", status="RUNNING", priority="P1", workflowType="etl")
    new_workflow(conn, "3", status="RUNNING", priority="P2", workflowType=PAYLOAD)
    new_workflow(conn, "4", status=None, priority=None, name=None)
    assert walk(prisma, status="On Hold") == ["1"]
    assert set(walk(prisma, status=["On Hold", "RUNNING"])) == {"1", "2", "3"}
    assert walk(prisma, status="running") == walk(prisma, status="no such") == []
    assert walk(prisma, status="RUNNING", priority="P1", type="etl", name="w") == ["2"]
    assert walk(prisma, type=PAYLOAD) == ["3"]
    assert walk(prisma, name="100%") == ["1"]
    assert walk(prisma, priority="'; drop table x --") == []
    assert 'value="P2"' in page(prisma, "/workflows?status=RUNNING&priority=&type=&name=")
    assert "NUL" in get(prisma, "/workflows?status=a%00b", 422)["error"]


@pytest.mark.parametrize("sort", ["created", "-created", "name", "-name", "status", "-status"])
def test_each_order_comes_in_pages_with_what_is_null_as_the_greatest(prisma, runs, conn, sort):
    column = {"created": "createdAt"}.get(sort.strip("-"), sort.strip("-"))
    times = ["2026-01-01 10:00:00.001", "2026-01-01 10:00:00.002", None]
    kinds = [(name, status, at) for name in ("a", "b", None) for status in ("FAILED", None) for at in times]
    for place, (name, status, at) in enumerate([*kinds, *kinds]):
        new_workflow(conn, f"k{place:02}", name=name, status=status, createdAt=at)
    found = walk(prisma, sort=sort, limit=4)
    assert len(found) == len(set(found)) == 36
    assert found == [workflow["id"] for workflow in get(prisma, "/workflows", sort=sort)]
    values = dict(conn.execute(f'select id, "{column}"::text from "Workflow"').fetchall())
    keys = [(values[key] is None, values[key] or "") for key in found]
    assert keys == sorted(keys, reverse=sort.startswith("-"))

    for key in (10, 9, 100):
        new_run(conn, key, title=None if key == 9 else "run", state=None)
    by_key = {"name": ["10", "100", "9"], "-name": ["9", "100", "10"]}
    expected = by_key.get(sort, ["100", "10", "9"] if sort.startswith("-") else ["9", "10", "100"])
    assert walk(runs, sort=sort, limit=1) == expected


@pytest.mark.parametrize("cursor", ["x", "eJw", "eJyLVtJNLkpNLElNUdLBwlAqVYoFAJ9_B_0"])
def test_a_cursor_of_another_list_is_refused(runs, conn, cursor):
    get(runs, "/workflows", 400, cursor=cursor)


def test_the_overview_counts_by_the_application_s_statuses(prisma, conn):
    new_workflow(conn, "1", "COMPLETED", "FAILED", status="On Hold")
    new_workflow(conn, "2", "PENDING", status="RUNNING")
    new_workflow(conn, "3", status="RUNNING")
    new_workflow(conn, "4", status="FAILED", name="broken")
    new_workflow(conn, "5", status=None)
    assert get(prisma, "/stats/overview") == {
        "overview": {"total_workflows": 5, "RUNNING_workflows": 2, "FAILED_workflows": 1, "On Hold_workflows": 1},
        "agents": {"created": 3, "completed": 1, "failed": 1, "cancelled": 0, "open": 1},
    }
    shown = page(prisma, "/")
    assert 'href="/workflows?status=On%20Hold" data-status="paused"' in shown
    assert "broken" in shown.partition('id="failures"')[2]
    active = shown.partition('id="active"')[2].partition("</section>")[0]
    assert re.findall(r'data-key="([^"]*)"', active) == ["1", "5", "3", "2"]  # those with failed tasks first
    with prisma.client() as client:
        metrics = client.get("/metrics").text
        assert client.get("/readyz").json() == {"status": "ready"}
    assert 'agent_progress_workflows{status="On Hold"} 1.0' in metrics
    assert 'agent_progress_tasks{outcome="created"} 3.0' in metrics
    assert "agent_progress_database_up 1.0" in metrics
    assert re.search(r"agent_progress_drifting_workflows 0\.0", metrics)


def test_names_statuses_and_keys_are_text_on_every_page(prisma, runs, conn):
    key = new_workflow(conn, PAYLOAD, "FAILED", "RUNNING", name=PAYLOAD, workflowType=PAYLOAD, priority=PAYLOAD)
    conn.execute('update "AgentTask" set "agentType" = %s', [PAYLOAD])
    new_run(conn, 1, open=1, title=PAYLOAD, state=PAYLOAD)
    for service, address in ((prisma, quote(key, safe="")), (runs, "1")):
        for path in ("/", "/workflows", f"/workflows/{address}", f"/workflows?status={quote(PAYLOAD)}"):
            shown = page(service, path)
            assert "<script>window" not in shown
            assert "<img" not in shown
    assert "&lt;script&gt;" in page(runs, "/workflows/1")


# --- Live -------------------------------------------------------------------------------------------------------


def test_a_stream_tells_when_a_task_completes(prisma, conn):
    key = new_workflow(conn, "日本/%2F 'x'", "RUNNING", "RUNNING", name="live")
    with (
        following(prisma, f"/api/v1/workflows/{quote(key, safe='')}/stream") as one,
        following(prisma, "/api/v1/stream") as active,
    ):
        assert [workflow["id"] for workflow in one.next().data] == [key]
        assert [workflow["id"] for workflow in active.next().data] == [key]
        complete(conn, f"{key}:0")
        for stream in (one, active):
            told = stream.until(lambda event: event.name == "workflow")
            assert (told.data["id"], told.data["progress"]) == (key, 50)
        conn.execute("""update "Workflow" set status = 'COMPLETED' where id = %s""", [key])
        for stream in (one, active):
            assert stream.until(lambda event: event.name == "workflow").data["status"] == "COMPLETED"
    with following(prisma, "/api/v1/stream") as later:
        assert later.next().data == []


def test_what_the_adoption_calls_completed_is_not_active(runs, conn):
    new_run(conn, 1, state="Shipped")
    new_run(conn, 2, state="sailing")
    with following(runs, "/api/v1/stream") as stream:
        assert [workflow["id"] for workflow in stream.next().data] == ["2"]
        conn.execute('delete from "the ""runs"", 100%" where id = 2')
        assert stream.next() == ("deleted", {"workflow_id": "2"})


# --- The application's migrations ---------------------------------------------------------------------------------


def test_a_column_that_is_dropped_reads_as_null_and_comes_back(prisma, conn):
    new_workflow(conn, "1", "RUNNING", "RUNNING", name="named")
    conn.execute('update "AgentTask" set "agentType" = %s', ["builder"])
    table = 'alter table "Workflow"'
    with following(prisma, "/api/v1/workflows/1/stream") as stream:
        assert stream.next().data[0]["name"] == "named"
        conn.execute(f'{table} drop column name, drop column "createdAt", drop column priority')
        conn.execute('alter table "AgentTask" drop column "agentType", drop column "startedAt"')
        complete(conn, "1:0")
        told: dict[str, Any] = {}
        while told.get("progress") != 50:
            event = stream.next()
            assert event is not None
            assert event.name == "workflow"  # the stream was not away for it
            told = event.data
        assert (told["name"], told["created_at"], told["priority"]) == (None, None, None)
    assert get(prisma, "/workflows/1") == told
    assert get(prisma, "/workflows/1/tasks")[0]["agent_type"] is None
    assert walk(prisma, sort="-created") == walk(prisma, sort="name") == ["1"]
    for path in ("/", "/workflows", "/workflows/1"):
        assert "None" not in page(prisma, path)
    conn.execute(f"{table} add column name text default %s" % "'again'")
    conn.execute(f'{table} add column "createdAt" timestamp(3) default current_timestamp, add column priority text')
    conn.execute('alter table "AgentTask" add column "agentType" text, add column "startedAt" timestamp(3)')
    assert get(prisma, "/workflows/1")["name"] == "again"


def test_a_status_that_is_retyped_or_gone_does_not_end_the_service(prisma, conn):
    new_workflow(conn, "1", "RUNNING", "RUNNING")
    table = 'alter table "Workflow"'
    conn.execute(f"{table} alter column status type text")
    assert get(prisma, "/workflows/1")["status"] == "RUNNING"
    assert walk(prisma, status="RUNNING", sort="status") == ["1"]
    conn.execute(f"{table} drop column status")
    assert get(prisma, "/workflows/1")["status"] is None
    assert "no status" in page(prisma, "/workflows/1")
    assert page(prisma, "/")
    conn.execute(f"""{table} add column status "RunStatus" """)
    conn.execute('alter table "AgentTask" rename column status to condition')
    assert [task["status"] for task in get(prisma, "/workflows/1/tasks")] == [None, None]
    assert page(prisma, "/workflows/1")
    conn.execute('alter table "AgentTask" rename column condition to status')


def test_a_service_waits_for_what_was_taken_back(runs, dsn, conn):
    new_run(conn, 1, done=1, open=1)
    assert main(["--dsn", dsn, "unadopt", "--name", "runs"]) == 0
    try:
        assert get(runs, "/workflows/1", 503)["error"] == "nothing was adopted as runs; there are: prisma"
        assert "nothing was adopted" in page(runs, "/", 503)
        with runs.client() as client:
            assert client.get("/readyz").status_code == 503
            assert "agent_progress_database_up 0.0" in client.get("/metrics").text
        get(runs, "/stream", 503)
    finally:
        adopt_bigint(dsn)
    assert get(runs, "/workflows/1")["progress"] == 50


def test_a_table_that_is_gone_is_told(runs, conn):
    conn.execute('alter table "the ""runs"", 100%" rename to elsewhere')
    try:
        assert "agent-progress check --name runs says" in get(runs, "/workflows", 503)["error"]
        with runs.client() as client:
            assert client.get("/metrics").status_code == 200
    finally:
        conn.execute('alter table elsewhere rename to "the ""runs"", 100%"')
    assert get(runs, "/workflows") == []


# --- Who may read, and how it starts --------------------------------------------------------------------------------


def test_a_role_that_may_read_the_tables_and_our_schema_suffices(dsn, conn):
    key = new_workflow(conn, "1", "COMPLETED", "RUNNING")
    conn.execute("""
        drop role if exists board;
        create role board;
        grant usage on schema agent_progress to board;
        grant select on all tables in schema agent_progress to board;
        grant select on "Workflow", "AgentTask" to board
    """)
    try:
        with psycopg.connect(dsn, autocommit=True) as reader:
            reader.execute("set role board")
            source = find_source(reader, "prisma")
            queries.readable(reader, source)
            assert queries.read_overview(reader, source)["overview"]["total_workflows"] == 1
            assert queries.count_drift(reader, source) == 0
            assert get_workflow(reader, key, source=source).progress == 50
            assert len(list_tasks(reader, key, source=source)) == 2
            assert progress_metrics(reader, key, source=source).stale_data is False
    finally:
        conn.execute("drop owned by board; drop role board")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "x"], "nothing was adopted as x; there are: prisma, runs"),
        (["--name", "prisma"], "which database? Give --dsn"),
    ],
)
def test_it_does_not_start_without_the_tables(dsn, arguments, says):
    database = [] if says.startswith("which") else ["--dsn", dsn]
    line = command(*database, "serve", "--port", "0", *arguments)
    ended = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"agent-progress: {says}")


# --- In a browser -----------------------------------------------------------------------------------------------


def test_the_pages_follow_adopted_tables(visit, prisma, conn, tmp_path):  # noqa: F811
    key = new_workflow(conn, f"run/1 {PAYLOAD}", "COMPLETED", "RUNNING", "FAILED", "PENDING", name="nightly import")
    new_workflow(conn, "c2", *["COMPLETED"] * 3, status="COMPLETED", workflowType="etl", priority="P1")
    new_workflow(conn, "c3", "FAILED", status="FAILED", name=PAYLOAD)
    new_workflow(conn, "c4", status="On Hold", name=None)
    new_workflow(conn, "c5", "COMPLETED", "RUNNING", status="AWAITING_APPROVAL", name="one that waits")
    opened = live(visit(prisma.url))
    opened.screenshot(path=tmp_path / "overview.png", full_page=True)
    row = opened.locator("#active [data-workflow]").filter(has_text="nightly import")
    assert row.locator("[data-f=progress]").inner_text() == "25"
    complete(conn, f"{key}:1")
    row.locator("[data-f=progress]", has_text="50").wait_for()
    conn.execute("""update "Workflow" set status = 'On Hold' where id = %s""", [key])
    row.locator(".status[data-status=paused]", has_text="On Hold").wait_for()
    opened.locator("[data-tile='On Hold_workflows']", has_text="2").wait_for()
    row.locator(".name").click()
    opened.wait_for_selector("#tasks")
    live(opened)
    complete(conn, f"{key}:3")
    opened.wait_for_selector("[data-bar][aria-valuenow='75']")
    opened.locator("#tasks .status[data-status=completed]").nth(2).wait_for()
    assert opened.locator("#about code.id").first.inner_text() == key
    opened.screenshot(path=tmp_path / "workflow.png", full_page=True)
    listed = live(visit(f"{prisma.url}workflows", size=DESK))
    complete(conn, "c3:0")
    listed.locator("[data-workflow=c3] [data-f=progress]", has_text="100").wait_for()
    complete(conn, f"{key}:2")
    row = listed.locator("[data-workflow]").filter(has_text="nightly import")
    row.locator("[data-f=progress]", has_text="100").wait_for()
    # This page is not loaded again: the script knows how the application's words look.
    conn.execute("""update "Workflow" set status = 'COMPLETED' where id = %s""", [key])
    row.locator(".status[data-status=completed]", has_text="COMPLETED").wait_for()
    row.locator(".bar[data-state=done]").wait_for()
    listed.screenshot(path=tmp_path / "list.png", full_page=True)
    narrow = live(visit(f"{prisma.url}workflows", size=PHONE))
    assert narrow.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    narrow.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert opened.evaluate("window.hacked") is None
