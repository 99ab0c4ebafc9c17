"""The tasks of a workflow over HTTP: in pages, filtered, one by itself, and over time."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg
import pytest

from pyapp.web import gantt
from tests.adopt.application import succeed
from tests.helpers import new_tasks, new_workflow
from tests.service import Conn, Service, serving, shared

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py"\nValueError: no\n'
HOSTILE = "</code><script>alert(1)</script>"
service_dsn, service, conn = shared("--trace-url", "https://traces.example/{trace_id}")


def add_tasks(conn: Conn, workflow: Any, number: int, **columns: str) -> None:
    """Insert tasks; each column is SQL that may use ``n``, from 1."""
    columns = {"agent_type": "'builder'", "external_id": "'job-' || n", **columns}
    conn.execute(
        f"insert into agent_task (workflow_id, {', '.join(columns)})"
        f" select '{workflow}', {', '.join(columns.values())} from generate_series(1, {number}) as n"
    )


def ids(response: httpx.Response) -> list[str]:
    return [task["external_id"] for task in response.json()]


def names(page: str) -> list[str]:
    return re.findall(r'<a class="name"[^>]*><bdi[^>]*>([^<]*)<', page)


# --- Pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordinal", ["n", "1"])
def test_pages_lead_on_and_back_with_each_task_once(service: Service, conn: Conn, ordinal: str) -> None:
    workflow = new_workflow(conn)
    add_tasks(conn, workflow, 25, status="(array['pending', 'running'])[1 + n % 2]::task_status", ordinal=ordinal)
    onwards = list(service.walk(f"/api/v1/workflows/{workflow}/tasks?limit=4&status=running&text=JOB"))
    assert [len(page.json()) for page in onwards] == [4, 4, 4, 1]
    found, wanted = [name for page in onwards for name in ids(page)], [f"job-{n}" for n in range(1, 26, 2)]
    assert (found if ordinal == "n" else sorted(found, key=wanted.index)) == wanted
    assert "prev" not in onwards[0].links
    last = onwards[-1].request.url.raw_path.decode()
    assert [ids(page) for page in service.walk(last, "prev")] == [ids(page) for page in reversed(onwards)]


def test_tasks_added_or_settled_meanwhile_neither_repeat_nor_hide_any(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    add_tasks(conn, workflow, 6)
    seen = []
    for page in service.walk(f"/api/v1/workflows/{workflow}/tasks?limit=2"):
        seen += ids(page)
        if len(seen) < 8:
            conn.execute("update agent_task set status = 'completed' where external_id = %s", [seen[0]])
            add_tasks(conn, workflow, 1, external_id=f"'late-{len(seen)}'")
    assert seen == [*(f"job-{n}" for n in range(1, 7)), "late-2", "late-4", "late-6"]


def test_a_cursor_of_another_list_is_a_clear_400(service: Service, conn: Conn) -> None:
    workflow, _ = new_workflow(conn), new_workflow(conn)
    with service.client() as client:
        other = client.get("/api/v1/workflows?limit=1").links["next"]["url"]
    cursor = httpx.URL(other).params["cursor"]
    assert service.get(f"/workflows/{workflow}/tasks", 400, cursor=cursor)["error"].startswith("cursor: ")


# --- Filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("status=failed", ["b"]),
        ("status=failed&status=running", ["b", "c"]),
        ("agent_type=Builder", ["a"]),
        ("stage=test", ["b"]),
        ("text=BUILD", ["a", "c"]),
        ("text=e_1%25", ["d"]),
        ("text=e%5C1", []),
        ("text=value+TOO", ["b"]),
        ("text=secret", []),
        ("status=running&text=build&stage=build", ["c"]),
        ("text=&agent_type=&stage=", ["a", "b", "c", "d"]),
    ],
)
def test_filters_are_the_same_in_the_api_and_on_the_page(
    service: Service, conn: Conn, asked: str, expected: list[str]
) -> None:
    workflow = new_workflow(conn)
    conn.execute(
        "insert into agent_task (workflow_id, external_id, agent_type, stage, status, payload, result) values"
        " (%(w)s, 'a', 'Builder', null, 'completed', '{\"secret\": 1}', '\"value too\"'),"
        " (%(w)s, 'b', 'tester', 'test', 'failed', '{}', '{\"error\": \"value too long\"}'),"
        " (%(w)s, 'c', 'rebuilder', 'build', 'running', '{}', null),"
        " (%(w)s, 'd', 'e_1%%', null, 'pending', '{}', null)",
        {"w": workflow},
    )
    with service.client(headers={"Accept": "text/html"}) as client:
        assert ids(client.get(f"/api/v1/workflows/{workflow}/tasks?{asked}")) == expected
        assert names(client.get(f"/workflows/{workflow}/tasks?{asked}").text) == expected
        found = conn.execute("select id from agent_task where external_id = 'a'").fetchone()
        assert ids(client.get(f"/api/v1/workflows/{workflow}/tasks?text={str(found and found[0])[4:20].upper()}")) == [
            "a"
        ]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/workflows?x=1",
        "/api/v1/workflows/{w}?status=failed",
        "/api/v1/workflows/{w}/tasks?offset=1",
        "/api/v1/workflows/{w}/tasks?workflow_id=1",
        "/api/v1/workflows/{w}/tasks?status=done",
        "/api/v1/workflows/{w}/tasks?text=%00",
        "/api/v1/stream?x=1",
        "/workflows?x=1",
        "/workflows/{w}?x=1",
        "/workflows/{w}/tasks?limit=1",
        "/workflows/{w}/timeline?by=agents",
    ],
)
def test_a_parameter_or_value_that_is_not_known_is_422(service: Service, conn: Conn, path: str) -> None:
    with service.client() as client:
        response = client.get(path.format(w=new_workflow(conn)))
    assert response.status_code == 422, response.text
    assert re.match(r"\w+(\.\d)?: ", response.json()["error"])


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ("disk full", "disk full"),
        ({"error": "\n first\nsecond"}, "first"),
        ({"error": {"message": "no such file", "code": 2}}, "no such file"),
        ({"error": {"code": 2}}, '{"code": 2}'),
        ({"message": "gone", "stack": "..."}, "gone"),
        ({"error": TRACEBACK}, "ValueError: no"),
        ({"error": "x" * 3000}, "x" * 500),
        ({"error": None}, None),
        ({"files": 3}, None),
        ([1], None),
        (None, None),
    ],
)
def test_a_failed_task_says_in_a_line_what_went_wrong(
    service: Service, conn: Conn, result: Any, line: str | None
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "failed", "completed")
    conn.execute("update agent_task set result = %s", [json.dumps(result)])
    failed, completed = service.get(f"/workflows/{workflow}/tasks")
    assert (failed["error"], completed["error"]) == (line, None)
    for page in ("/tasks", ""):
        assert service.page(f"/workflows/{workflow}{page}").count('class="failure"') == (line is not None)


# --- One task ---------------------------------------------------------------------------------------------------


def test_a_task_has_all_that_is_known_of_it(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn, trace_id="4bf9/2f")
    add_tasks(conn, workflow, 1, stage="'build'", trace_id="'4bf9'", created_at="now() - interval '1 hour'")
    (task,) = [row[0] for row in conn.execute("select id from agent_task")]
    path = f"/workflows/{workflow}/tasks/{task}"
    assert "Nothing reported so far" in service.page(path)
    conn.execute("update agent_task set status = 'running', payload = '{\"deep\": {\"list\": [1, 2]}}'")
    conn.execute("update agent_task set started_at = created_at + interval '90 seconds'")
    conn.execute("update agent_task set status = 'failed', result = %s", [json.dumps({"error": TRACEBACK})])
    conn.execute("update agent_task set completed_at = started_at + interval '2 hours', retry_count = 2")
    found = service.get(path)
    assert (found["payload"], found["error"], found["retry_count"]) == ({"deep": {"list": [1, 2]}}, TRACEBACK, 2)
    shown = service.page(path)
    for said in ("queued for 1 min 30 s", "ran for 2 h 0 min", "retried 2 times, at most 3 allowed", "ValueError: no"):
        assert said in shown
    assert 'href="https://traces.example/4bf9"' in shown
    assert 'href="https://traces.example/4bf9%2F2f"' in service.page(f"/workflows/{workflow}")
    for copied in (task, workflow, "job-1", "4bf9"):
        assert f'data-copy="{copied}"' in shown
    assert "&#34;list&#34;: [" in shown


@pytest.mark.parametrize(("external_id", "title"), [("'job-1'", "job-1"), ("null", "builder"), ("'17'", "builder 17")])
def test_the_page_of_a_task_is_not_titled_by_a_number(
    service: Service, conn: Conn, external_id: str, title: str
) -> None:
    workflow = new_workflow(conn)
    add_tasks(conn, workflow, 1, external_id=external_id, agent_type="'builder'")
    (task,) = [row[0] for row in conn.execute("select id from agent_task")]
    assert f"<title>{title} · pending" in service.page(f"/workflows/{workflow}/tasks/{task}")


def test_json_on_the_page_is_text_and_cut_where_it_is_long(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "completed")
    conn.execute("update agent_task set result = %s", [json.dumps([HOSTILE, "y" * 30_000, "the end"])])
    shown = service.page(f"/workflows/{workflow}/tasks/{task}")
    assert "<script>alert" not in shown
    assert "the end" not in shown
    assert re.search(
        rf'the first 20,000 of 30,\d+ characters; all in <a href="/api/v1/workflows/{workflow}/tasks/', shown
    )


def test_a_task_of_another_workflow_is_not_found(service: Service, conn: Conn) -> None:
    (task,) = new_tasks(conn, new_workflow(conn), "pending")
    other = new_workflow(conn)
    assert service.get(f"/workflows/{other}/tasks/{task}", 404) == {"error": "Task not found"}
    assert service.get(f"/workflows/{uuid4()}/tasks/{task}", 404) == {"error": "Workflow not found"}
    assert "Task not found" in service.page(f"/workflows/{other}/tasks/{task}", 404)
    service.get(f"/workflows/{other}/tasks/x", 422)


# --- Over time --------------------------------------------------------------------------------------------------


def bars(page: str) -> list[str]:
    return re.findall(r"<rect class=\"seg task-\w+\" x=.*?<title>(.*?)</title>", page)


def test_a_timeline_has_a_bar_for_each_task_in_the_lane_of_its_stage_or_agent(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    assert "Nothing has begun yet" in service.page(f"/workflows/{workflow}/timeline")
    add_tasks(conn, workflow, 4, agent_type="'agent-' || n", stage="(array['build', 'test'])[1 + n % 2]")
    conn.execute("alter table agent_task disable trigger user")
    conn.execute(
        "update agent_task set status = (array['completed', 'failed', 'running', 'pending'])[n]::task_status,"
        " started_at = case when n < 4 then timestamptz '2026-01-01' + n * interval '1 min' end,"
        " completed_at = case when n < 3 then timestamptz '2026-01-01 00:10' end"
        " from (select id as task, row_number() over (order by ordinal) as n from agent_task) as t where id = t.task"
    )
    conn.execute("alter table agent_task enable trigger user")
    conn.execute("update workflow set status = status")
    shown = service.page(f"/workflows/{workflow}/timeline")
    told = ["agent-1 job-1: completed", "agent-3 job-3: running", "agent-2 job-2: failed"]
    assert [said.partition(", ")[0] for said in bars(shown)] == told
    assert "agent-2 job-2: failed, 8 min 0 s, from 2026-01-01 00:02:00 UTC" in shown
    assert re.findall(r"<p class=\"lane\"><b><bdi[^>]*>(\w+)", shown) == ["test", "build"]
    by_agent = service.page(f"/workflows/{workflow}/timeline?by=agent")
    assert re.findall(r"<p class=\"lane\"><b><bdi[^>]*>([\w-]+)", by_agent) == ["agent-1", "agent-2", "agent-3"]
    conn.execute("select repair_progress()")


def test_of_thousands_at_most_200_are_bars_and_the_rest_is_density(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    add_tasks(
        conn,
        workflow,
        5000,
        agent_type="'agent-' || n % 40",
        status="case when n % 500 = 0 then 'failed' else 'completed' end::task_status",
        started_at="timestamptz '2026-01-01' + n * interval '1 second'",
        completed_at="timestamptz '2026-01-01' + (n + n % 60) * interval '1 second'",
    )
    shown = service.page(f"/workflows/{workflow}/timeline")
    assert 100 < len(bars(shown)) <= gantt.BARS
    assert sum(": failed" in said for said in bars(shown)) == 10
    lanes = re.findall(r"<p class=\"lane\"><b>(.*?)</b> <span class=\"sub\">([\d,]+)", shown)
    assert (len(lanes), lanes[-1][0]) == (20, "21 others")
    assert sum(int(tasks.replace(",", "")) for _, tasks in lanes) == 5000
    assert shown.count('<path class="density"') == 20
    assert len(shown) < 300_000


def test_bars_of_a_lane_do_not_overlap(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    at = "timestamptz '2026-01-01' + n * interval '{} second'"
    add_tasks(conn, workflow, 60, status="'completed'", started_at=at.format(3), completed_at=at.format(4))
    drawn = re.findall(
        r'<rect class="seg task-\w+" x="([\d.]+)%" y="(\d+)" width="([\d.]+)%"',
        service.page(f"/workflows/{workflow}/timeline"),
    )
    assert len(drawn) == 60
    for line in {y for _, y, _ in drawn}:
        bars = sorted((float(x), float(width)) for x, y, width in drawn if y == line)
        assert all(x + width <= following + 0.01 for (x, width), (following, _) in pairwise(bars))
        assert all(0 <= x <= x + width <= 100.001 for x, width in bars)


def test_times_that_nobody_can_draw_are_left_out(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    add_tasks(
        conn,
        workflow,
        4,
        status="'completed'",
        started_at="(array['infinity', '-infinity', '20000-01-01', 'now'])[n]::timestamptz",
    )
    assert len(bars(service.page(f"/workflows/{workflow}/timeline"))) == 1


def test_what_is_at_work_in_a_workflow_that_has_ended_ends_with_it(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn)
    add_tasks(conn, workflow, 1, status="'running'", started_at="timestamptz '2026-01-01'")
    conn.execute("update workflow set status = 'failed', completed_at = '2026-01-01 02:00Z'")
    assert bars(service.page(f"/workflows/{workflow}/timeline"))[0].startswith(
        "builder job-1: running, 2 h 0 min, from"
    )


# --- Workflows without tasks, and adopted ones ------------------------------------------------------------------


def test_an_archived_workflow_says_where_its_tasks_are(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn, status="completed")
    new_tasks(conn, workflow, "completed", "failed")
    conn.execute("update workflow set status = 'completed', completed_at = now() - interval '9 days'")
    conn.execute("select archive_workflows('1 day')")
    for page in ("tasks", "timeline"):
        assert "The tasks were archived" in service.page(f"/workflows/{workflow}/{page}")
    shown = service.page(f"/workflows/{workflow}")
    assert "the numbers are kept as they were, the tasks are not" in shown
    assert "2 tasks were archived" in shown
    assert "No tasks yet" not in shown


def test_adopted_tasks_have_pages_a_timeline_and_the_error_that_the_adoption_names(empty: Callable[[], str]) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "create table jobs"
            " (key text primary key, batch int, kind text, state text, failure text, begun timestamptz);"
            "insert into jobs select 'a/' || n, 7, 'mail', case n when 5 then 'failed' else 'completed' end,"
            " case n when 5 then 'Mailbox full' end, now() from generate_series(1, 9) as n"
        )
    columns = ("result=failure", "agent_type=kind", "started_at=begun", "completed_at=begun")
    given = [part for column in columns for part in ("--task-column", column)]
    given += ["--task-noun", "job"]
    succeed(dsn, "adopt", "--tasks", "jobs", "--key", "batch", "--status", "state", *given, "--yes")
    with serving(dsn, "--schema", "agent_progress") as service:
        onwards = list(service.walk("/api/v1/workflows/7/tasks?limit=4"))
        assert [task["id"] for page in onwards for task in page.json()] == [f"a/{n}" for n in range(1, 10)]
        last = onwards[-1].request.url.raw_path.decode()
        assert [len(page.json()) for page in service.walk(last, "prev")] == [1, 4, 4]
        (failed,) = service.get("/workflows/7/tasks", text="mailbox")
        assert (failed["id"], failed["error"], failed["ordinal"]) == ("a/5", "Mailbox full", None)
        assert "Mailbox full" in service.page("/workflows/7/tasks")
        assert service.get(f"/workflows/7/tasks/{quote('a/5', safe='')}")["result"] == "Mailbox full"
        assert "Mailbox full" in service.page("/workflows/7/tasks/a%2F5")
        assert service.get("/workflows/7/tasks/b", 404) == {"error": "Task not found"}
        assert len(bars(service.page("/workflows/7/timeline"))) == 9
        for page in ("", "/tasks", "/tasks/a%2F1", "/timeline"):
            shown = service.page(f"/workflows/7{page}")
            assert not re.findall(r"None|\bagents?\b(?!-)", re.sub(r"<[^>]*>", "", shown))
        assert "8 of 9 jobs complete" in shown


def test_a_workflow_without_tasks_says_so_and_not_0_percent(service: Service, conn: Conn) -> None:
    workflow, planned = new_workflow(conn, name="shop"), new_workflow(conn, name="shop", agents_planned=3)
    for path in ("", "/badge.svg", "/embed", "/tasks"):
        shown = service.page(f"/workflows/{workflow}{path}")
        assert "no agents" in shown, path
        assert not re.search(r"\b0(</b>)?(<[^>]*>)?(&nbsp;| )%", shown.split('id="stages"')[0]), path
        assert "no agents" not in service.page(f"/workflows/{planned}{path}")
    assert "<title>no agents · shop" in service.page(f"/workflows/{workflow}")
    assert "<title>0 % · shop" in service.page(f"/workflows/{planned}")
