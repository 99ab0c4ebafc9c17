"""Searching, filtering and paging both ways, on our own tables and on adopted ones, in the API and on the page."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from pyapp import migrate
from tests.adopt.application import succeed
from tests.helpers import as_replica, new_tasks, new_workflow
from tests.pages import page
from tests.service import Conn, Service, content, serving, shared
from tests.service import client as client

service_dsn, service, conn = shared()
PATH = "/api/v1/workflows"
SORTS = [
    f"{direction}{order}" for order in ("created", "name", "status", "progress", "duration") for direction in ("", "-")
]


def names(client: httpx.Client, expected: int = 200, **parameters: Any) -> Any:
    response = client.get(PATH, params=parameters)
    assert response.status_code == expected, response.text[:500]
    return [row["name"] for row in response.json()] if expected == 200 else content(response)["error"]


def test_a_search_finds_what_a_name_contains_literally_and_whatever_its_case(client: httpx.Client, conn: Conn) -> None:
    for name in ("Nightly BUILD", "rebuild", "100% sure", "100 sure", "a_b", "aXb", r"c:\temp"):
        new_workflow(conn, name=name)
    for text, found in (
        ("build", ["rebuild", "Nightly BUILD"]),
        ("  TLY b ", ["Nightly BUILD"]),
        ("0% S", ["100% sure"]),
        ("a_b", ["a_b"]),
        (":\\T", [r"c:\temp"]),
        ("nothing", []),
    ):
        assert names(client, match=text) == found
    assert names(client, match="build", sort="name", limit=1) == ["Nightly BUILD"]


def test_a_search_finds_ids_external_ids_and_traces(client: httpx.Client, conn: Conn) -> None:
    parent = new_workflow(conn, name="parent", trace_id="Trace-7")
    one = new_workflow(conn, id="abcdef12-0000-4000-8000-000000000001", name="one", parent_id=parent)
    new_workflow(conn, id="abcdef13-0000-4000-8000-000000000001", name="named abcdef12")
    conn.execute("insert into agent_task (workflow_id, agent_type, external_id) values (%s, 'a', 'job/%%7')", [one])
    assert (
        names(client, match=str(one)) == names(client, match="ABCDEF12-00") == names(client, match="job/%7") == ["one"]
    )
    assert names(client, match="abcdef12") == ["named abcdef12", "one"]
    assert names(client, match="abcdef1") == ["named abcdef12", "one"]
    assert names(client, match="Trace-7") == ["parent"]
    assert names(client, match="Trace-") == names(client, match="job/") == names(client, match="abc-") == []
    assert names(client, match="Trace-7", status="failed") == []


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"status": ["failed", "completed"]}, ["quick", "slow"]),
        ({"failures": True}, ["slow"]),
        ({"longer": "1 h"}, ["old", "slow"]),
        ({"longer": "90min", "shorter": "1 d"}, ["slow"]),
        ({"shorter": "60.5 s"}, ["quick"]),
        ({"created_from": "2026-02-01", "created_to": "2026-03-01"}, ["quick", "slow"]),
        ({"created_from": "2026-03-01T10:00:00Z", "created_to": "2026-03-01T13:00:00+02:00"}, ["quick"]),
        ({"created_to": "2026-02-28"}, ["old", "slow"]),
        ({"created_from": "9999-12-31", "created_to": "9999-12-31"}, []),
        ({"sort": "duration"}, ["quick", "slow", "old"]),
        ({"sort": "-duration", "status": ["failed", "completed", "running"]}, ["old", "slow", "quick"]),
        ({"sort": "-progress"}, ["quick", "slow", "old"]),
        ({"sort": "progress", "stalled": True}, ["old"]),
    ],
)
@pytest.mark.parametrize("adopted", [False, True])
def test_filters_and_orders_by_time_progress_and_failures(
    both: Callable[[bool], httpx.Client], parameters: dict[str, Any], found: list[str], adopted: bool
) -> None:
    listed = names(both(adopted), **parameters)
    assert (listed if "sort" in parameters else sorted(listed)) == found


ROWS = [  # name, status, created, completed, statuses of tasks
    ("old", "running", "2026-01-01", None, ["pending"] * 4),
    ("slow", "failed", "2026-02-01 12:00", "2026-02-01 14:00", ["completed", "failed"]),
    ("quick", "completed", "2026-03-01 10:30", "2026-03-01 10:31", ["completed"]),
]


@pytest.fixture(scope="module")
def both(empty: Callable[[], str]) -> Iterator[Callable[[bool], httpx.Client]]:
    """Serve the same rows in our own tables and in those of an application, which gets adopted."""
    from pyapp import migrate

    dsn = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "create table run (id text primary key, name text, status text, created_at timestamptz,"
            " finished_at timestamptz);"
            "create table step (id serial primary key, run_id text references run, status text, job_id text);"
            "create index on step (run_id)"
        )
        for name, status, created, completed, tasks in ROWS:
            own = new_workflow(conn, name=name, status=status, created_at=created, completed_at=completed)
            new_tasks(conn, own, *tasks)
            conn.execute("insert into run values (%s, %s, %s, %s, %s)", [f"r/{name}", name, status, created, completed])
            conn.execute(
                "insert into step (run_id, status, job_id) select %s, s, 'j-' || %s from unnest(%s::text[]) as s",
                [f"r/{name}", name, tasks],
            )
        as_replica(conn, "update workflow set progress_updated_at = now() - interval '1 h'")
        columns = ["created_at=created_at", "completed_at=finished_at", "updated_at=created_at"]
        succeed(
            dsn,
            *("adopt", "--workflows", "run", "--tasks", "step", "--key", "run_id", "--yes", "--no-publish"),
            *(part for column in columns for part in ("--column", column)),
            *("--task-column", "external_id=job_id"),
        )
        conn.execute("update agent_progress.workflow_counter set progress_updated_at = now() - interval '1 h'")
    other = serving(dsn, "--schema", "agent_progress")
    with serving(dsn) as ours, other as theirs, ours.client() as one, theirs.client() as two:
        yield lambda adopted: two if adopted else one


def test_a_search_in_adopted_tables_finds_names_keys_and_external_ids(both: Callable[[bool], httpx.Client]) -> None:
    for text, found in (("LO", ["slow"]), ("r/o", ["old"]), ("r/old", ["old"]), ("j-quick", ["quick"]), ("j-", [])):
        assert names(both(True), match=text) == found


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("filters", [{}, {"match": "w"}, {"status": ["running", "failed"], "type": "app", "name": "w"}])
def test_pages_lead_on_and_back_over_equal_keys_and_any_times(
    service: Service, conn: Conn, sort: str, filters: dict[str, Any]
) -> None:
    conn.execute(
        "insert into workflow (name, type, status, created_at, completed_at)"
        " select 'w' || n % 3, 'app', (array['running', 'failed'])[1 + n % 2]::workflow_status,"
        " (array['infinity', '-infinity', '0044-03-15 BC', '20000-01-01', '2026-01-01'])[1 + n % 5]::timestamptz,"
        " case when n % 2 = 1 then timestamptz '2026-01-02' end from generate_series(1, 23) as n"
    )
    (response,) = service.walk(PATH, sort=sort, limit=23, **filters)
    whole = [workflow["id"] for workflow in response.json()]
    assert len(set(whole)) == 23
    forwards = list(service.walk(PATH, sort=sort, limit=4, **filters))
    assert "prev" not in forwards[0].links
    assert [workflow["id"] for page in forwards for workflow in page.json()] == whole
    backwards = service.walk(forwards[-1].request.url.raw_path.decode(), "prev")
    assert [page.text for page in backwards] == [page.text for page in forwards[::-1]]


def test_the_optional_indexes_find_the_same(empty: Callable[[], str]) -> None:
    dsn = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        if not conn.execute("select from pg_available_extensions where name = 'pg_trgm'").fetchall():
            pytest.skip("this server has no pg_trgm")
        for statement in re.sub("--.*", "", page("sql/optional/search.sql")).strip(" \n;").split(";"):
            conn.execute(statement.encode())
        workflow = new_workflow(conn, name="Nightly Build")
        conn.execute("insert into agent_task (workflow_id, agent_type, external_id) values (%s, 'a', 'x1')", [workflow])
    with serving(dsn) as service:
        assert "Searched: names by index" in service.page("/workflows?match=build")
        for text in ("tly b", "x1", "bu"):
            assert [found["id"] for found in service.get("/workflows", match=text)] == [str(workflow)]


@pytest.mark.parametrize(("age", "completed", "slow"), [("3 h", 20, True), ("90 s", 20, False), ("3 h", 19, False)])
def test_a_page_says_by_how_much_a_workflow_is_slower_than_usual(
    client: httpx.Client, conn: Conn, age: str, completed: int, slow: bool
) -> None:
    conn.execute(
        "insert into workflow (name, type, status, created_at, completed_at)"
        " select 'w', 'etl', 'completed', now() - interval '2 d', now() - interval '2 d' + interval '1 h'"
        " from generate_series(1, %s)",
        [completed],
    )
    workflow = new_workflow(conn, name="late", type="etl", status="running")
    conn.execute("update workflow set created_at = now() - %s::interval where id = %s", [age, workflow])
    shown = client.get(f"/workflows/{workflow}").text
    assert ("slower than usual</span> by 2 h 0 min: 95 of 100 of this type take at most 1 h 0 min" in shown) is slow
