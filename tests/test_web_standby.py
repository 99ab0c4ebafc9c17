"""The service with two databases: it reads from a standby, says how far that is behind, and outlives it."""

# ruff: noqa: F811 (fixtures of another module)

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pyapp
from pyapp import report_task, wait_for_position, wal_position
from pyapp.cli import main
from pyapp.watch import watch_changes
from pyapp.web.lag import LagMeter

from .crash import CrashableServer
from .helpers import in_background, new_tasks, new_workflow, set_status, wait_for
from .service import Service, content, following, serving
from .service import client as client
from .test_dashboard import PHONE, browser, live, visit  # noqa: F401 (fixtures)
from .test_readers import conn, pair, paused, primary, reader, running, standby, standby_setting, waiting_for_locks  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def service(pair: tuple[CrashableServer, CrashableServer]) -> Iterator[Service]:
    """Two databases, and so long an interval that only notifications make it look."""
    primary, standby = pair
    patient = make_conninfo(standby.dsn("app"), options="-c statement_timeout=60s")
    with serving(primary.dsn("app"), "--read-dsn", patient, "--interval", "60") as running:
        yield running


def either(*choice: CrashableServer) -> str:
    """Name several servers in one DSN, a standby first."""
    hosts = ",".join(str(conninfo_to_dict(server.dsn())["host"]) for server in choice)
    ports = ",".join(["5432"] * len(choice))
    return make_conninfo(
        choice[0].dsn("app"), host=hosts, port=ports, hostaddr=None, target_session_attrs="prefer-standby"
    )


def looks(service: Service) -> float:
    return service.metrics()["stream_queries_total",]


def grows(service: Service) -> bool:
    before = looks(service)
    return threading.Event().wait(0.3) or looks(service) > before


def listening(conn: psycopg.Connection) -> list[Any]:
    return conn.execute("select from pg_stat_activity where query ~ '^listen' and state = 'idle'").fetchall()


def test_the_example_of_reading_ones_own_writes_runs(primary: CrashableServer, standby: CrashableServer) -> None:
    text = Path(pyapp.__file__).parent.joinpath("web", "README.md").read_text()
    example = next(block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    for name, server in (("primary", primary), ("standby", standby)):
        example = example.replace(f'"postgresql://{name}/mydb"', repr(server.dsn("app")))
    found: dict[str, Any] = {}
    exec(example, found)
    assert (found["workflow"].name, found["workflow"].progress) == ("search", 0)


# --- The service ------------------------------------------------------------------------------------------------


def test_a_request_with_a_position_is_answered_when_the_standby_has_replayed_it(
    conn: psycopg.Connection, reader: psycopg.Connection, client: Any
) -> None:
    workflow, (task, *_) = running(conn, reader)
    where = f"/api/v1/workflows/{workflow}"
    with paused(reader) as go_on:
        report_task(conn, workflow, task, "completed")
        new = new_workflow(conn)
        position = {"after_position": wal_position(conn)}
        assert client.get(where).json()["agents_completed"] == 0
        paths = (where, f"/workflows/{workflow}", "/workflows", f"/api/v1/workflows/{new}/stream")
        asked = [in_background(lambda path=path: client.get(path, params=position)) for path in paths]
        answers = [answer.result(30) for answer in asked]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
        assert content(answers[0]) == {"error": "The standby has not got to after_position yet"}
        answer = in_background(lambda: client.get(f"/api/v1/workflows/{new}", params=position))
        go_on()
        assert answer.result(30).status_code == 200
    assert client.get(where, params=position).json()["agents_completed"] == 1
    with client.stream("GET", f"/api/v1/workflows/{new}/stream", params=position) as stream:
        assert stream.status_code == 200
    response = client.get(where, params={"after_position": "0/1'"})
    assert (response.status_code, "after_position" in response.json()["error"]) == (422, True)
    described = client.get("/openapi.json").json()["paths"]["/api/v1/workflows/{workflow_id}"]["get"]["parameters"]
    assert "after_position" in [parameter["name"] for parameter in described]


def test_a_notification_is_not_answered_with_an_older_state_of_the_standby(
    conn: psycopg.Connection, reader: psycopg.Connection, service: Service
) -> None:
    """With so long an interval, whoever read too early would not look again."""
    workflow, tasks = running(conn, reader)
    with following(service, f"/api/v1/workflows/{workflow}/stream") as stream:
        assert stream.next().data[0]["progress"] == 0
        wait_for(lambda: listening(conn))
        for done, task in enumerate(tasks[:2], 1):
            with paused(reader) as go_on:
                before = looks(service)
                set_status(conn, task, "completed")
                # It has heard of it, and goes on looking while it sees the old state: oftener than every 10 s.
                wait_for(lambda before=before: looks(service) >= before + 12, 8)
                go_on()
                stream.until(lambda event, done=done: event.name == "workflow" and event.data["progress"] == 25 * done)
        # Back to rest, with the replay up to date.
        wait_for(lambda: not grows(service))


def test_the_service_says_how_far_behind_the_standby_is(
    conn: psycopg.Connection, reader: psycopg.Connection, service: Service, client: Any
) -> None:
    _, (task, *_) = running(conn, reader)
    caught_up = wait_for(lambda: (found := client.get("/readyz").json()["standby"])["lag_seconds"] < 0.1 and found)
    # However long ago the last transaction was: the primary is idle.
    assert caught_up["following"] is True
    found = service.metrics()
    assert found["in_recovery",] == 1
    assert found["standby_lag_seconds",] == 0
    assert "standby, &lt; 1 s behind" in client.get("/").text
    with paused(reader):
        set_status(conn, task, "completed")
        # What came last is replayed later.
        wait_for(lambda: reader.execute("select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()").fetchone()[0])
        first = service.metrics()["standby_lag_seconds",]
        assert 0 < first < service.metrics()["standby_lag_seconds",]


def test_an_open_page_shows_how_far_behind_the_standby_is(
    conn: psycopg.Connection, reader: psycopg.Connection, service: Any, visit: Any
) -> None:
    _, (task, *_) = running(conn, reader)
    page = live(visit(service))
    page.wait_for_selector("#standby:not([data-late]) >> text=standby, < 1 s behind")
    with paused(reader):
        set_status(conn, task, "completed")
        page.wait_for_selector("#standby >> text=/standby, [1-9] s behind/")
        phone = visit(service, js=False, size=PHONE)
        assert phone.locator("#standby").text_content().endswith("s behind")
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.wait_for_selector("#standby:not([data-late]) >> text=standby, < 1 s behind")
    page.wait_for_selector("text=1 of 4 agents complete")


def test_the_lag_is_the_age_of_what_had_been_received_when_it_was_read_last() -> None:
    now = 100.0
    meter = LagMeter(lambda: now)

    def lag(received: int, replayed: int, since_transaction: float | None, following: bool = True) -> float | None:
        standby = meter.take((True, following, received, replayed, since_transaction))
        assert standby is not None
        assert standby.following is following
        return standby.lag_seconds

    assert lag(10, 5, None) is None  # it has just started
    assert lag(10, 10, 3600) == 0  # the primary is idle
    now = 101
    assert lag(20, 10, 3601) == 1  # a long transaction arrives, of which nothing is committed
    now = 102
    assert lag(30, 15, 3602) == 2
    now = 103
    assert lag(40, 25, 3603) == 2  # what had been received at 101 is replayed
    assert lag(40, 25, 0.25) == 0.25  # and a transaction was
    now = 104
    assert lag(40, 40, 5, following=False) == 3  # there may be more
    assert meter.take((False, False, 40, 40, 9)) is None


def test_readers_do_again_what_a_standby_breaks_off(
    conn: psycopg.Connection,
    reader: psycopg.Connection,
    standby: CrashableServer,
    service: Any,
    client: Any,
    primary: CrashableServer,
) -> None:
    """They wait for one table and keep the standby from replaying a lock on another, until it cancels them."""
    workflow, _ = running(conn, reader)
    replayed = "select from pg_locks where relation = 'workflow'::regclass and mode = 'AccessExclusiveLock' and granted"
    commit = "select pg_logical_emit_message(true, '', '')"  # takes along what others have written
    losses: list[Any] = []

    def look(conn: psycopg.Connection, _: Any) -> None:
        conn.execute("select from workflow, agent_task limit 1")

    with (
        standby_setting(reader, "max_standby_streaming_delay", "0"),
        primary.connect("app") as other,
        primary.connect("app") as writer,
        following(service, f"/api/v1/workflows/{workflow}/stream") as stream,
    ):
        stream.next()
        wait_for(lambda: listening(conn))
        with conn.transaction():
            conn.execute("lock table agent_task, workflow_stage")
            writer.execute(commit)
            wait_for_position(reader, wal_position(writer), 30)
            page = in_background(lambda: client.get(f"/workflows/{workflow}"))
            changes = watch_changes(standby.dsn("app"), [workflow], 0.02, look, losses.append)
            watched = in_background(next, changes)
            writer.execute("notify agent_progress, 'look'")
            wait_for(lambda: len(waiting_for_locks(reader)) == 3)
            with other.transaction():
                other.execute("lock table workflow")
                writer.execute(commit)
                wait_for(lambda: reader.execute(replayed).fetchall())
                assert not page.done()
                assert not watched.done()
        assert page.result(30).status_code == 200
        assert [one.progress for one in watched.result(30)] == [0]
        assert losses == []
        set_status(conn, new_tasks(conn, workflow, "running")[0], "completed")
        heard = []
        stream.until(
            lambda event: heard.append(event.name) or (event.name == "workflow" and event.data["progress"] == 20)
        )
        assert "away" not in heard


def test_commands_that_read_go_to_the_standby(
    conn: psycopg.Connection,
    reader: psycopg.Connection,
    primary: CrashableServer,
    standby: CrashableServer,
    capsys: Any,
    monkeypatch: Any,
) -> None:
    with paused(reader):
        later = new_workflow(conn, name="later")
        monkeypatch.setenv("DATABASE_URL", primary.dsn("app"))

        def found(*arguments: str) -> int:
            status = main([*arguments, str(later)])
            assert capsys.readouterr().err.count("\n") == (0 if status == 0 else 1)
            return status

        both = ("--dsn", primary.dsn("app"), "--read-dsn", standby.dsn("app"))
        for command in ("show", "watch", "check"):
            assert found(command, "--read-dsn", standby.dsn("app")) == 1
            assert found(command, *both) == 1
        assert found("show") == found("check") == 0
        monkeypatch.setenv("AGENT_PROGRESS_READ_DSN", standby.dsn("app"))
        assert found("show") == found("check") == found("watch") == 1
        # A database that was named is meant.
        assert found("show", "--dsn", primary.dsn("app")) == 0
        # What writes does so where it can, and says what it wrote.
        assert main(["transition", str(later), "running"]) == 0
        assert main(["list"]) == 0
        assert "later" not in capsys.readouterr().out.split("running\n")[-1]
        assert main(["list", "--embedded", "--read-dsn", standby.dsn("app")]) == 2
        assert "leave out --read-dsn" in capsys.readouterr().err
        assert main(["migrate", "--read-dsn", standby.dsn("app")]) == 2


def test_while_the_standby_is_away_the_primary_is_read_where_the_dsn_names_it_as_well(
    conn: psycopg.Connection, reader: psycopg.Connection, primary: CrashableServer, standby: CrashableServer
) -> None:
    workflow, (task, *_) = running(conn, reader)
    with (
        serving(primary.dsn("app"), "--read-dsn", either(standby, primary), "--interval", "0.1") as service,
        service.client() as client,
        following(service, f"/api/v1/workflows/{workflow}/stream") as stream,
    ):
        assert stream.until(lambda event: event.name == "standby").data["following"] is True
        standby.stop()
        try:
            set_status(conn, task, "completed")
            stream.until(lambda event: event == ("standby", None))
            wait_for(lambda: stream.latest[str(workflow)]["progress"] == 25 or (stream.next() and False))
            assert client.get(f"/api/v1/workflows/{workflow}").json()["progress"] == 25
            assert client.get("/readyz").json() == {"status": "ready"}
        finally:
            standby.start()
