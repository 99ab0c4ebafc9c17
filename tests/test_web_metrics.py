"""What the service says of itself."""

import json
import math
from datetime import datetime
from uuid import uuid4

import httpx
import psycopg

from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import Conn, Service, following, serving, shared, wait_for
from tests.service import client as client

service_dsn, service, conn = shared()


def test_the_metrics_hold_what_the_database_does(service: Service, conn: Conn) -> None:
    for status in ("running", "running", "failed"):
        new_tasks(conn, new_workflow(conn, status=status), "completed", "failed", "pending")
    found = service.metrics()
    by_status = {"initiated": 0, "running": 2, "paused": 0, "completed": 0, "failed": 1, "cancelled": 0}
    assert {key[1]: value for key, value in found.items() if key[0] == "workflows"} == by_status
    by_outcome = {"created": 9, "completed": 3, "failed": 3, "cancelled": 0, "open": 3}
    assert {key[1]: value for key, value in found.items() if key[0] == "tasks"} == by_outcome
    assert found["database_up",] == 1
    assert found["drifting_workflows",] == 0
    assert found["process_resident_memory_bytes",] > 10_000_000


def test_drift_and_what_has_come_to_a_halt_show_as_gauges_and_are_listed(service_dsn: str, conn: Conn) -> None:
    quiet, busy = (new_workflow(conn, name=name, status="running") for name in ("quiet", "busy"))
    conn.execute("alter table workflow disable trigger user")
    conn.execute("update workflow set progress_updated_at = now() - interval '1 hour' where id = %s", [quiet])
    conn.execute("alter table workflow enable trigger user")
    (task,) = new_tasks(conn, busy, "completed")
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        set_status(conn, task, "failed")
    with serving(service_dsn) as fresh:
        found = fresh.metrics()
        assert found["drifting_workflows",] == found["stalled_workflows",] == 1
        assert [workflow["name"] for workflow in fresh.get("/workflows?stalled=true")] == ["quiet"]
        assert len(fresh.get("/workflows?stalled=false")) == 2
        page = fresh.page("/workflows?stalled=true")
        assert "quiet" in page
        assert "busy" not in page
    conn.execute("select repair_progress()")


def test_drift_that_takes_too_long_to_count_is_not_a_number(service_dsn: str, conn: Conn) -> None:
    with (
        psycopg.connect(service_dsn) as other,
        serving(f"{service_dsn} options='-c statement_timeout=200ms'") as fresh,
    ):
        other.execute("lock table agent_task")
        assert math.isnan(fresh.metrics()["drifting_workflows",])


def test_requests_are_counted_by_route_and_not_by_path(service: Service, client: httpx.Client, conn: Conn) -> None:
    before = service.metrics()
    for _ in range(3):
        client.get(f"/api/v1/workflows/{uuid4()}")
    client.get(f"/api/v1/workflows/{new_workflow(conn)}")
    for path in ("/api/v1/workflows/malformed", "/nothing/here", "/static/favicon.svg"):
        client.get(path)
    grown = {key: value - before.get(key, 0) for key, value in service.metrics().items() if value != before.get(key, 0)}
    route = "/api/v1/workflows/{workflow_id}"
    total = "http_requests_total"
    assert {status: grown[total, route, status] for status in ("200", "404", "422")} == {"200": 1, "404": 3, "422": 1}
    assert grown["http_request_seconds_count", route] == 5
    assert grown["query_seconds_count",] >= 4
    assert {key[1] for key in grown if key[0] == total} == {route, "/metrics", "other"}


def test_streams_and_their_queries_are_counted(service: Service) -> None:
    before = service.metrics()
    assert before["stream_clients",] == 0
    with following(service, "/api/v1/stream") as stream:
        stream.next()
        after = service.metrics()
    assert after["stream_clients",] == 1
    assert after["stream_queries_total",] - before["stream_queries_total",] >= 3
    # A client that left is forgotten.
    wait_for(lambda: service.metrics()["stream_clients",] == 0)


def test_each_request_is_a_line_of_json_without_its_query(service: Service, client: httpx.Client) -> None:
    known = len(service.said())
    client.get("/api/v1/workflows", params={"name": "secret plan\n"}, headers={"X-Note": "secret note"})
    client.get("/api/v1/nothing%0Ahere%22", headers={"Cookie": "a=secret"})
    said = wait_for(lambda: service.said()[known:].count("\n") == 2 and service.said()[known:])
    lines = [json.loads(line) for line in said.splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/api/v1/workflows", 200),
        ("GET", '/api/v1/nothing\nhere"', 404),
    ]
    for line in lines:
        assert set(line) == {"time", "event", "method", "path", "status", "ms"}
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["ms"] > 0
    assert "secret" not in said
