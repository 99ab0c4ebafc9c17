"""The HTTP API, asked of a real server process."""

import json
import re
from dataclasses import fields
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings

from pyapp.web.answers import Listed
from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import Conn, Service, content, serving, shared
from tests.service import client as client

PARTS = ["tree", "tasks", "events", "timeline", "stages", "burnup", "forecast", "metrics", "link", "stream"]
STATUSES = ["initiated", "running", "paused", "completed", "failed", "cancelled"]
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
]
HOSTILE = [
    "<script>alert(1)</script>",
    "'; drop table workflow; --",
    "\u202etxt.exe\x1b[31m",
    "line\nbreak\r\n\r\nevent: deleted\ndata: {}",
    "%_\\",
    "\ud7ff\ue000\U0010ffff\u2028",
    "x" * 100_000,
    "",
]

service_dsn, service, conn = shared()


def get(client: httpx.Client, path: str, expected: int = 200, /, **parameters: Any) -> Any:
    response = client.get(f"/api/v1{path}", params=parameters)
    assert response.status_code == expected, response.text[:500]
    return content(response)


def names(client: httpx.Client, **parameters: Any) -> list[str]:
    return [workflow["name"] for workflow in get(client, "/workflows", **parameters)]


# --- Workflows --------------------------------------------------------------------------------------------------


def test_a_workflow_has_the_columns_of_the_view_and_its_progress_by_stages(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn, name="shop", type="unplanned", agents_planned=8)
    new_tasks(conn, workflow, "completed", "completed", "failed", "cancelled", "running")
    found = get(client, f"/workflows/{workflow}")
    assert set(found) == {field.name for field in fields(Listed)}
    assert found["workflow_id"] == found["id"] == str(workflow)
    assert found["progress"] == found["progress_percentage"] == 25
    assert {name: count for name, count in found.items() if name.startswith("agents_")} == {
        "agents_completed": 2,
        "agents_total": 8,
        "agents_created": 5,
        "agents_failed": 1,
        "agents_cancelled": 1,
        "agents_open": 1,
        "agents_planned": 8,
    }
    assert (found["settled_percentage"], found["progress_calculation_method"]) == (50, "agent-based")
    assert found["description"] is found["trace_id"] is found["completed_at"] is found["stage_progress"] is None
    assert get(client, "/workflows") == [found]


def test_times_are_iso_8601_in_utc_whatever_the_database_prefers(conn: Conn, service_dsn: str) -> None:
    conn.execute(f'alter database "{conn.info.dbname}" set timezone = "Asia/Kolkata"')
    workflow = new_workflow(conn, created_at="2026-02-03 04:05:06.7+09")
    with serving(service_dsn) as fresh:
        found = fresh.get(f"/workflows/{workflow}")
    conn.execute(f'alter database "{conn.info.dbname}" reset timezone')
    assert found["created_at"] == "2026-02-02T19:05:06.700000+00:00"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", found["last_updated_at"])


def test_times_that_json_clients_cannot_have_are_clamped(client: httpx.Client, conn: Conn) -> None:
    for created in ("infinity", "-infinity", "0044-03-15 BC", "20000-01-01"):
        workflow = new_workflow(conn, created_at=created)
        found = get(client, f"/workflows/{workflow}")["created_at"]
        assert found[:4] == ("0001" if created.startswith(("-", "0")) else "9999")


def test_an_unknown_workflow_is_404_and_a_malformed_id_422(client: httpx.Client) -> None:
    for part in ["", *(f"/{part}" for part in PARTS)]:
        assert get(client, f"/workflows/{uuid4()}{part}", 404) == {"error": "Workflow not found"}
        for malformed in ("x", "1", "' or 1=1", "00000000-0000-0000-0000-00000000000g", "%00", "%ED%A0%80"):
            assert get(client, f"/workflows/{malformed}{part}", 422)["error"].startswith("workflow_id: ")


def test_what_is_not_there_or_not_allowed_is_json_as_well(client: httpx.Client) -> None:
    assert get(client, "/nothing", 404) == {"error": "Not Found"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = client.request(method, "/api/v1/workflows", json={"name": "x"})
        assert (response.status_code, content(response)) == (405, {"error": "Method Not Allowed"})


# --- Filters and orders -----------------------------------------------------------------------------------------


def test_filters_by_status_type_and_priority(client: httpx.Client, conn: Conn) -> None:
    for status in STATUSES:
        new_workflow(conn, name=status, status=status)
    assert names(client, status="failed") == ["failed"]
    assert names(client, status=["running", "failed", "running"]) == ["failed", "running"]
    for sort, expected in (("status", ["running", "completed"]), ("name", ["completed", "running"])):
        assert names(client, status=["completed", "running"], sort=sort) == expected
        assert names(client, status=["completed", "running"], sort=f"-{sort}") == expected[::-1]
    new_workflow(conn, name="c", type="bug", priority="high", status="running")
    new_workflow(conn, name="d", type="bug", priority="low", status="failed")
    assert names(client, type="bug") == ["d", "c"]
    assert names(client, priority="low") == ["d"]
    assert names(client, type="bug", priority="high", status="running", name="c") == ["c"]
    assert names(client, type="BUG") == names(client, type="nothing") == []


def test_filters_by_the_beginning_of_the_name_taken_literally(client: httpx.Client, conn: Conn) -> None:
    for name in ("100% sure", "100 percent", "a_b", "aXb", "back\\slash", "backXslash", "Über", "über"):
        new_workflow(conn, name=name)
    for prefix, found in (("100%", "100% sure"), ("a_", "a_b"), ("back\\", "back\\slash"), ("ü", "über")):
        assert names(client, name=prefix) == [found]
    assert names(client, name="b_") == names(client, name="%") == names(client, name="ack") == []
    assert len(names(client, name="")) == 8


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"status": "finished"}, "status: should be one of initiated, running, paused, completed, failed or cancelled"),
        ({"priority": "urgent"}, "priority: should be one of low, medium, high, critical"),
        ({"sort": "agents"}, "sort: should be one of created, -created"),
        ({"limit": "0"}, "limit: should be at least 1"),
        ({"limit": "1001"}, "limit: should be at most 1000"),
        ({"limit": "many"}, "limit: should be a whole number"),
        ({"limit": "9" * 5000}, "limit: should be a smaller number"),
        ({"stalled": "maybe"}, "stalled: should be true or false"),
        ({"longer": "5 weeks"}, "longer: should be seconds, or 5 min, 2 h, 1 d"),
        ({"created_to": "soon"}, "created_to: should be a date, as 2026-03-01"),
        ({"after_position": "0/1'"}, "after_position: should be a position in the log, as 0/16B3748"),
        ({"name": "a\0b"}, "name: should not contain the character NUL"),
        ({"serch": "a"}, "serch: no such parameter here"),
        ({"name": "x" * 501}, "name: should have at most 500 characters"),
    ],
)
def test_a_malformed_filter_is_a_clear_422(client: httpx.Client, parameters: dict[str, str], says: str) -> None:
    assert get(client, "/workflows", 422, **parameters)["error"].startswith(says)


def test_lone_surrogates_in_parameters_do_no_harm(client: httpx.Client) -> None:
    for where in ("name", "type"):
        assert client.get(f"/api/v1/workflows?{where}=%ED%A0%80").json() == []
    assert client.get("/api/v1/workflows?cursor=%ED%A0%80").status_code == 400


@pytest.mark.parametrize("sort", ["created", "name", "status"])
def test_sorts_both_ways(client: httpx.Client, conn: Conn, sort: str) -> None:
    for name, status in (("b", "failed"), ("a", "running"), ("B", "initiated"), ("ä", "running")):
        new_workflow(conn, name=name, status=status)
    expected = {"created": ["b", "a", "B", "ä"], "name": ["B", "a", "b", "ä"], "status": ["B", "a", "ä", "b"]}[sort]
    assert names(client, sort=sort) == expected
    assert names(client, sort=f"-{sort}") == expected[::-1]


# --- Pages ------------------------------------------------------------------------------------------------------


def test_rows_inserted_meanwhile_neither_repeat_nor_hide_any(service: Service, conn: Conn) -> None:
    before = [new_workflow(conn, name=f"w{n:02}") for n in range(20)]
    for sort in ("-created", "name"):
        seen = []
        for page in service.walk("/api/v1/workflows", sort=sort, limit=3):
            seen += [workflow["id"] for workflow in page.json()]
            new_workflow(conn, name="a newcomer")
            new_workflow(conn, name="z newcomer", created_at="2020-01-01")
        assert len(seen) == len(set(seen))
        assert {str(workflow) for workflow in before} <= set(seen)


@pytest.mark.parametrize(
    "cursor", ["x", "", "====", "bnVsbA", "W10", "eJyLVlDQAAAB", "A" * 4400, "\u00fc", "%00", "../.."]
)
def test_a_malformed_cursor_is_a_clear_400(client: httpx.Client, cursor: str) -> None:
    assert get(client, "/workflows", 400, cursor=cursor)["error"].startswith("cursor: not one of this list")


def test_a_cursor_of_another_order_or_of_other_values_is_a_400(client: httpx.Client, conn: Conn) -> None:
    import base64
    import zlib

    new_workflow(conn)
    new_workflow(conn)
    for sort in ("-created", "name", "status"):
        link = client.get("/api/v1/workflows", params={"sort": sort, "limit": 1}).headers["link"]
        other = link[1:].partition(">")[0].replace(f"sort={sort}", "sort=created")
        assert client.get(other).status_code == 400
    for keys in (["never", str(uuid4())], ["2026-01-01", "x"], ["2026-01-01", None], ["2026-01-01"], [1, 2], [{}, "x"]):
        made = base64.urlsafe_b64encode(zlib.compress(json.dumps(["created", *keys]).encode())).decode().rstrip("=")
        get(client, "/workflows", 400, sort="created", cursor=made)


@pytest.mark.parametrize("path", ["/api/v1/workflows", "/workflows"])
def test_sessions_that_have_ended_are_replaced_without_an_error(client: httpx.Client, conn: Conn, path: str) -> None:
    client.get(path)
    ended = conn.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'agent-progress serve'"
    ).fetchall()
    assert ended
    assert client.get(path).status_code == 200


# --- Entity tags, and content of any kind -----------------------------------------------------------------------


def test_what_a_client_has_already_is_304_until_a_task_completes(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    for path in (f"/workflows/{workflow}", "/workflows", "/stats/overview", f"/workflows/{workflow}/tasks"):
        set_status(conn, task, "running")
        first = client.get(f"/api/v1{path}").headers["etag"]
        for known in (first, f'"x", {first}', first.removeprefix("W/"), "*"):
            again = client.get(f"/api/v1{path}", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first)
        set_status(conn, task, "completed")
        fresh = client.get(f"/api/v1{path}", headers={"If-None-Match": first})
        assert (fresh.status_code, fresh.headers["etag"] == first) == (200, False)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_pass_unchanged_whatever_is_in_them(service: Service, conn: Conn, name: str) -> None:
    workflow = new_workflow(conn, name=name, description=name, type=name[:200], current_stage=name, trace_id=name[:200])
    assert service.get(f"/workflows/{workflow}")["name"] == name
    new_workflow(conn, name=name, type=name[:200])
    for sort in ("name", "-name", "-created"):
        # The link keeps filters as they were.
        filters = {"name": name[:500], "type": name[:200], "status": ["initiated", "failed"]}
        found = service.walk("/api/v1/workflows", limit=1, sort=sort, **filters)
        assert [[workflow["name"] for workflow in page.json()] for page in found] == [[name]] * 2


@pytest.mark.parametrize(
    "stored",
    ['{"a": [1, null, "\\u2028</script>"]}', "1" + "0" * 5000, "12345678901234567890.10", "[" * 3000 + "]" * 3000],
    ids=["plain", "long number", "exact number", "deep"],
)
def test_what_agents_report_passes_unchanged_and_can_be_shown(client: httpx.Client, conn: Conn, stored: str) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "completed")
    conn.execute("update agent_task set result = %s::jsonb where id = %s", [stored, task])
    conn.execute(
        "insert into workflow_event (workflow_id, event_type, payload) values (%s, 'x', %s)", [workflow, stored]
    )
    (text,) = conn.execute("select result::text from agent_task where id = %s", [task]).fetchone()
    for path, key in (("tasks", "result"), ("events", "payload"), ("timeline", "detail")):
        assert f'"{key}":{text}' in client.get(f"/api/v1/workflows/{workflow}/{path}").text
    assert client.get(f"/workflows/{workflow}").status_code == 200


# --- The other resources ----------------------------------------------------------------------------------------


def test_the_overview_counts_workflows_and_agents(client: httpx.Client, conn: Conn) -> None:
    empty = get(client, "/stats/overview")
    assert set(empty["overview"].values()) == set(empty["agents"].values()) == {0}
    for status in ("running", "running", "completed", "failed"):
        new_tasks(conn, new_workflow(conn, status=status), "completed", "failed", "cancelled", "pending", "running")
    counts = {"running": 2, "completed": 1, "failed": 1, "total": 4}
    assert get(client, "/stats/overview") == {
        "overview": {f"{status}_workflows": counts.get(status, 0) for status in [*STATUSES, "total"]},
        "agents": {"created": 20, "completed": 4, "failed": 4, "cancelled": 4, "open": 8},
    }


def test_tasks_come_in_the_order_of_their_creation_without_what_they_were_given(
    client: httpx.Client, conn: Conn
) -> None:
    workflow = new_workflow(conn)
    read = partial(get, client, f"/workflows/{workflow}/tasks")
    assert read() == []
    tasks = [str(task) for task in new_tasks(conn, workflow, "completed", "failed", *["pending"] * 7)]
    conn.execute("update agent_task set payload = '{\"secret\": 1}'")
    found = read()
    assert [task["id"] for task in found] == tasks
    assert [task["status"] for task in found[:3]] == ["completed", "failed", "pending"]
    assert found[2]["completed_at"] is found[2]["result"] is None
    assert "payload" not in found[0]


def test_events_timeline_and_stages_tell_what_happened(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn, type="unplanned")
    (task,) = new_tasks(conn, workflow, "completed")
    conn.execute("update agent_task set stage = 'build' where id = %s", [task])
    conn.execute("update workflow set status = 'running' where id = %s", [workflow])
    conn.execute("update workflow set current_stage = 'build' where id = %s", [workflow])
    events = get(client, f"/workflows/{workflow}/events")
    assert [event["event_type"] for event in events] == ["stage_changed", "status_changed"]
    assert events[1]["payload"]["to"] == "running"
    moments = get(client, f"/workflows/{workflow}/timeline")
    assert [(moment["kind"], moment["what"]) for moment in moments] == [
        ("task", "created"),
        ("task", "completed"),
        ("event", "initiated -> running"),
        ("event", "initialization -> build"),
    ]
    assert get(client, f"/workflows/{workflow}/timeline", limit=1, offset=2) == moments[2:3]
    for position, (name, status) in enumerate((("plan", "completed"), ("build", "running"))):
        conn.execute(
            "insert into workflow_stage (workflow_id, name, position, status) values (%s, %s, %s, %s)",
            [workflow, name, position, status],
        )
    stages = get(client, f"/workflows/{workflow}/stages")
    assert [(stage["name"], stage["status"], stage["agents_total"]) for stage in stages] == [
        ("plan", "completed", 0),
        ("build", "running", 1),
    ]
    assert get(client, f"/workflows/{workflow}")["stage_progress"] == 100


def test_the_burnup_is_thinned_out_and_keeps_both_ends(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, created_at, completed_at)"
        " select %s, 'agent', 'completed', '2026-01-01', '2026-01-01'::timestamptz + n * interval '1 minute'"
        " from generate_series(1, 5000) as n",
        [workflow],
    )
    points = get(client, f"/workflows/{workflow}/burnup")
    assert 400 <= len(points) <= 802
    assert (points[0]["at"], points[0]["agents_total"]) == ("2026-01-01T00:00:00+00:00", 5000)
    completed = [point["agents_completed"] for point in points]
    assert (completed[0], completed[-1]) == (0, 5000)
    assert completed == sorted(completed)


def test_the_forecast_says_when(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn, status="running")
    tasks = new_tasks(conn, workflow, *["running"] * 10)
    conn.execute(
        "update agent_task set status = 'completed', completed_at = now() - interval '60 min' where id = any (%s)",
        [tasks[:6]],
    )
    found = get(client, f"/workflows/{workflow}/forecast")
    assert 0 < found["completed_per_minute"] < 0.2
    assert found["estimated_completion_at"] is not None
    assert (found["basis_completions"], found["stalled"]) == (6, False)
    assert get(client, f"/workflows/{new_workflow(conn)}/forecast")["completed_per_minute"] is None


def test_the_metrics_of_a_workflow_say_whether_it_is_stale(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "completed")
    found = get(client, f"/workflows/{workflow}/metrics")
    assert found.pop("calculation_time_ms") > 0
    assert found == {
        "workflow_id": str(workflow),
        "progress_percentage": 100,
        "agents_completed": 1,
        "agents_total": 1,
        "stale_data": False,
    }
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        set_status(conn, task, "failed")
    assert get(client, f"/workflows/{workflow}/metrics")["stale_data"] is True
    conn.execute("select repair_progress()")


# --- HTTP -------------------------------------------------------------------------------------------------------


def test_head_answers_as_get_does_without_a_body(client: httpx.Client, conn: Conn) -> None:
    workflow = new_workflow(conn)
    for path in ("/", "/api/v1/workflows", f"/api/v1/workflows/{uuid4()}", "/static/favicon.svg", "/healthz"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        for name in ("content-type", "etag"):
            assert head.headers.get(name) == got.headers.get(name), path
    for path in ("/api/v1/stream", f"/api/v1/workflows/{workflow}/stream"):
        assert client.head(path).headers["content-type"].startswith("text/event-stream")


def test_long_answers_are_compressed_and_streams_are_not(client: httpx.Client, conn: Conn) -> None:
    for _ in range(5):
        new_workflow(conn)
    assert client.get("/api/v1/workflows").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/api/v1/workflows", headers={"Accept-Encoding": "identity"}).headers
    with client.stream("GET", "/api/v1/stream") as stream:
        assert "content-encoding" not in stream.headers


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize("is_told", [True, False])
def test_below_a_prefix_every_address_has_it(service_dsn: str, conn: Conn, strips: bool, is_told: bool) -> None:
    options = () if is_told else ("--base-path", "/a/progress/")
    workflow, _ = new_workflow(conn, trace_id="/x"), new_workflow(conn)
    with serving(service_dsn, *options, AGENT_PROGRESS_TOKEN="open") as running:
        headers = {"Accept": "text/html", **({"X-Forwarded-Prefix": "/a/progress"} if is_told else {})}
        where = "" if strips else "/a/progress"
        with running.client(headers=headers) as client:
            to_login = client.get(f"{where}/workflows")
            assert to_login.headers["location"] == "/a/progress/login?next=%2Fworkflows"
            entered = client.post(f"{where}/login", data={"token": "open", "next": "/workflows"})
            assert entered.headers["location"] == "/a/progress/workflows"
            assert "path=/a/progress" in entered.headers["set-cookie"].lower()
            headers = {"Authorization": "Bearer open"}
            for path in ("/", "/workflows", f"/workflows/{workflow}", "/docs", "/nothing", "/login"):
                page = client.get(where + path, headers=headers)
                addresses = re.findall(r'(?:href|src|action)="([^"#]+)', page.text)
                assert addresses
                assert all(address.startswith("/a/progress/") for address in addresses), (path, addresses)
            linked = client.get(f"{where}/api/v1/workflows?limit=1", headers=headers).headers["link"]
            assert linked.startswith("</a/progress/api/v1/workflows?limit=1&cursor=")
            described = client.get(f"{where}/openapi.json", headers=headers).json()
            assert described["servers"] == [{"url": "/a/progress"}]


def test_a_prefix_that_is_no_path_is_not_believed(client: httpx.Client) -> None:
    for prefix in ("//evil.example", "https://evil.example", '/"><script>', "progress", "/a b"):
        page = client.get("/workflows", headers={"X-Forwarded-Prefix": prefix})
        assert 'href="/workflows"' in page.text


# --- The description --------------------------------------------------------------------------------------------


def test_the_description_is_complete(client: httpx.Client, conn: Conn) -> None:
    described = client.get("/openapi.json").json()
    one = "/api/v1/workflows/{workflow_id}"
    ours = {
        "/api/v1/workflows",
        one,
        *(f"{one}/{part}" for part in [*PARTS, "tasks/{task_id}"]),
        "/api/v1/stats/overview",
        "/api/v1/stats/trends",
        "/api/v1/stream",
    }
    assert set(described["paths"]) == {*ours, "/healthz", "/readyz", "/metrics"}
    for path, operations in described["paths"].items():
        assert list(operations) == ["get"], path
        assert operations["get"]["summary"], path
        if path in ours:
            assert {"200", "422", "503"} <= set(operations["get"]["responses"]), path
            assert ("404" in operations["get"]["responses"]) == ("{" in path), path
    properties = described["components"]["schemas"]["Workflow"]["properties"]
    assert set(properties) == set(get(client, f"/workflows/{new_workflow(conn)}"))
    assert properties["status"]["enum"] == STATUSES
    assert "HTTPValidationError" not in json.dumps(described)
    assert "security" not in described
    operations = [operation["get"] for operation in described["paths"].values()]
    assert {"list_workflows", "get_workflow", "stream_workflow", "readyz"} < {one["operationId"] for one in operations}
    assert all("application/json" not in one["responses"].get("503", {}).get("content", {}) for one in operations)
    events = described["paths"]["/api/v1/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    names = [kind["properties"]["event"]["const"] for kind in events["itemSchema"]["oneOf"]]
    assert names == ["snapshot", "workflow", "deleted", "ping", "away", "standby"]


def test_with_a_token_the_description_says_so(service_dsn: str) -> None:
    bearer = {"Authorization": "Bearer open"}
    with serving(service_dsn, AGENT_PROGRESS_TOKEN="open") as guarded, guarded.client(headers=bearer) as client:
        described = client.get("/openapi.json").json()
        assert "Bearer TOKEN" in client.get("/docs").text
    assert described["security"] == [{"bearer": []}]
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert described["paths"]["/readyz"]["get"]["security"] == []


def test_the_page_of_the_api_shows_every_operation(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "<script>" not in page
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"GET {path}</code>" in page


def test_no_request_that_can_be_thought_of_breaks_it(service: Service, conn: Conn) -> None:
    """Schema fuzzing: no 5xx, and all answers as described."""
    # Here: it takes a second, which each process of a run would spend.
    import schemathesis
    from schemathesis.checks import load_all_checks

    load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    # A cursor is opaque: what a schema can say of it makes none.
    of_cursors = schemathesis.checks.CHECKS.get_by_names([name for name in CHECKS if "positive" not in name])
    conn.execute("insert into workflow (id, name, type) values (%s, 'w', 'app')", [UUID(int=0)])
    new_tasks(conn, UUID(int=0), "completed", "failed")
    schema = schemathesis.openapi.from_url(f"{service.url}openapi.json")
    # Streams do not end; they have tests of their own.
    operations = [found.ok() for found in schema.exclude(path_regex="stream$").get_all_operations()]
    assert len(operations) == 17
    bounded = settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            if mode is schemathesis.GenerationMode.NEGATIVE and not list(operation.iter_parameters()):
                continue

            @seed(4)
            @bounded
            @given(case=operation.as_strategy(mode))
            def ask(case: Any) -> None:
                case.validate_response(case.call(), checks=of_cursors if "cursor" in case.query else checks)

            ask()
