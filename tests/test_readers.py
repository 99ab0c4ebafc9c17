"""Reading from a standby: one's own writes, how far it is behind, and the service with two databases."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pyapp
from pyapp import StandbyBehind, get_workflow, report_task, wait_for_position, wal_position
from pyapp.cli import main
from pyapp.watch import watch_changes
from pyapp.web.database import LagMeter

from .crash import QUICK, CrashableServer, servers, wait_for
from .helpers import in_background, new_tasks, new_workflow, set_status
from .service import Service, following, serving
from .test_dashboard import PHONE, browser, live, visit  # noqa: F401 (fixtures)
from .test_standby import standby_of
from .test_web_metrics import metrics


@pytest.fixture(scope="module")
def pair(bin_dir: Path) -> Iterator[tuple[CrashableServer, CrashableServer]]:
    with servers(bin_dir) as make:
        primary = make("primary", **QUICK, wal_writer_delay="10ms").start()
        primary.create_migrated("app")
        assert main(["notify", "on", "--dsn", primary.dsn("app")]) == 0
        yield primary, standby_of(primary, make)


@pytest.fixture
def primary(pair: tuple[CrashableServer, CrashableServer]) -> CrashableServer:
    return pair[0]


@pytest.fixture
def standby(pair: tuple[CrashableServer, CrashableServer]) -> CrashableServer:
    return pair[1]


@pytest.fixture
def conn(primary: CrashableServer) -> Iterator[psycopg.Connection]:
    """A connection to the primary."""
    with primary.connect("app") as connection:
        yield connection
        assert connection.execute("select * from workflow_progress_drift").fetchall() == []


@pytest.fixture
def reader(standby: CrashableServer) -> Iterator[psycopg.Connection]:
    """A connection to the standby."""
    with standby.connect("app") as connection:
        yield connection


@pytest.fixture(scope="module")
def service(pair: tuple[CrashableServer, CrashableServer]) -> Iterator[Service]:
    """Two databases, and so long an interval that only notifications make it look."""
    primary, standby = pair
    patient = make_conninfo(standby.dsn("app"), options="-c statement_timeout=60s")
    with serving(primary.dsn("app"), "--read-dsn", patient, "--interval", "60") as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


@contextmanager
def standby_setting(reader: psycopg.Connection, name: str, value: str) -> Iterator[None]:
    """Change a setting of the standby."""
    before = reader.execute(f"show {name}").fetchone()[0]
    for wanted in (value, before):
        reader.execute(f"alter system set {name} = '{wanted}'")
        reader.execute("select pg_reload_conf()")
        wait_for(lambda wanted=wanted: reader.execute(f"show {name}").fetchone()[0] == wanted)
        if wanted == value:
            yield


def waiting_for_locks(reader: psycopg.Connection) -> list[Any]:
    """Our sessions that wait for a lock."""
    query = "select from pg_stat_activity where wait_event_type = 'Lock' and application_name ~ '^agent-progress'"
    return reader.execute(query).fetchall()


def either(*choice: CrashableServer) -> str:
    """Name several servers in one DSN, a standby first."""
    hosts = ",".join(str(conninfo_to_dict(server.dsn())["host"]) for server in choice)
    ports = ",".join(["5432"] * len(choice))
    return make_conninfo(
        choice[0].dsn("app"), host=hosts, port=ports, hostaddr=None, target_session_attrs="prefer-standby"
    )


@contextmanager
def paused(reader: psycopg.Connection) -> Iterator[Callable[[], Any]]:
    """Let the standby receive and not replay; yield what lets it go on."""

    def go_on() -> None:
        reader.execute("select pg_wal_replay_resume()")

    reader.execute("select pg_wal_replay_pause()")
    wait_for(lambda: reader.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
    try:
        yield go_on
    finally:
        go_on()


def running(conn: psycopg.Connection, reader: psycopg.Connection, tasks: int = 4) -> tuple[Any, list[Any]]:
    """Create a running workflow that the standby shows."""
    workflow = new_workflow(conn, name="shop", status="running")
    made = new_tasks(conn, workflow, *["running"] * tasks)
    wait_for_position(reader, wal_position(conn), 30)
    return workflow, made


def looks(client: httpx.Client) -> float:
    return metrics(client)["agent_progress_stream_queries_total",]


def grows(client: httpx.Client) -> bool:
    before = looks(client)
    return threading.Event().wait(0.3) or looks(client) > before


def listening(conn: psycopg.Connection) -> list[Any]:
    return conn.execute("select from pg_stat_activity where query ~ '^listen' and state = 'idle'").fetchall()


# --- Reading one's own writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", ["on", "local", "off"])
def test_what_was_written_is_read_on_the_standby_once_its_position_is_replayed(conn, reader, commit):
    workflow, tasks = running(conn, reader, 20)
    conn.execute(f"set synchronous_commit = {commit}")
    for done, task in enumerate(tasks, 1):
        report_task(conn, workflow, task, "completed")
        wait_for_position(reader, wal_position(conn), 30)
        assert get_workflow(reader, workflow).agents_completed == done


def test_the_wait_lasts_until_it_is_replayed_and_ends_in_an_error_when_that_takes_too_long(conn, reader, standby):
    workflow, (task, *_) = running(conn, reader)
    with paused(reader) as go_on, standby.connect("app") as waiting:
        report_task(conn, workflow, task, "completed")
        position = wal_position(conn)
        with pytest.raises(StandbyBehind, match=position):
            wait_for_position(reader, position, 0.05)
        assert get_workflow(reader, workflow).agents_completed == 0
        waited = in_background(wait_for_position, waiting, position, 30)
        wait_for(
            lambda: (
                reader.execute(
                    "select query ~ 'replay_lsn' from pg_stat_activity where pid = %s", [waiting.info.backend_pid]
                ).fetchone()
                == (True,)
            )
        )
        assert not waited.done()
        go_on()
        waited.result(30)
        assert get_workflow(waiting, workflow).agents_completed == 1


def test_a_position_at_the_end_of_a_page_does_not_wait_for_the_next_record(conn, reader):
    """What is inserted next would go behind the header of the next page; nothing that is replayed ends there."""
    inserted = "select mod(pg_current_wal_insert_lsn() - '0/0', 8192)"

    def at_the_end_of_a_page() -> bool:
        (place,) = conn.execute(inserted).fetchone()
        room = 8192 - place
        # Of a record are 24 bytes its header, then (where it is long) 5, and of the message 26 in front of its text.
        conn.execute("select pg_logical_emit_message(false, 'p', repeat('x', %s))", [max(1, int(room) - 55)])
        return conn.execute(inserted).fetchone()[0] in (24, 40)

    conn.execute("set synchronous_commit = off")
    wait_for(at_the_end_of_a_page)
    position = wal_position(conn)
    conn.execute("set synchronous_commit = on")
    wait_for_position(reader, position, 5)


def test_a_position_is_told_of_what_is_committed_only(conn, primary):
    workflow = new_workflow(conn)
    with primary.connect("app", autocommit=False) as writing:
        report = "insert into agent_task (workflow_id, agent_type) values (%s, 'a')"
        writing.execute(report, [workflow])
        with pytest.raises(ValueError, match="commit it"):
            wal_position(writing)
        writing.commit()
        assert wal_position(writing) <= wal_position(conn)


def test_waiting_within_a_transaction_that_sees_one_moment_is_refused(conn, reader, standby):
    position = wal_position(conn)
    with standby.connect("app", autocommit=False) as reading:
        reading.execute("select 1")
        wait_for_position(reading, position)
        reading.rollback()
        reading.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        wait_for_position(reading, position)  # its transaction begins after it
        assert reading.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        reading.execute("select 1")
        with pytest.raises(ValueError, match="will not see it"):
            wait_for_position(reading, position)


def test_a_primary_and_a_position_told_by_a_standby_need_no_wait(conn, reader):
    running(conn, reader)
    wait_for_position(conn, "FFFFFFFF/FFFFFFFF", 0)
    wait_for_position(reader, wal_position(reader), 0)
    wait_for_position(conn, wal_position(reader), 0)
    with pytest.raises(psycopg.DataError):
        wait_for_position(reader, "soon")


def test_the_example_of_reading_ones_own_writes_runs(primary, standby):
    text = Path(pyapp.__file__).parent.joinpath("web", "README.md").read_text()
    example = next(block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    for name, server in (("primary", primary), ("standby", standby)):
        example = example.replace(f'"postgresql://{name}/mydb"', repr(server.dsn("app")))
    found: dict[str, Any] = {}
    exec(example, found)
    assert (found["workflow"].name, found["workflow"].progress) == ("search", 0)


# --- The service ------------------------------------------------------------------------------------------------


def test_a_request_with_a_position_is_answered_when_the_standby_has_replayed_it(conn, reader, client):
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
        assert answers[0].json() == {"error": "The standby has not got to after_position yet"}
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


def test_a_notification_is_not_answered_with_an_older_state_of_the_standby(conn, reader, service, client):
    """With so long an interval, whoever read too early would not look again."""
    workflow, tasks = running(conn, reader)
    with following(service, f"/api/v1/workflows/{workflow}/stream") as stream:
        assert stream.next().data[0]["progress"] == 0
        wait_for(lambda: listening(conn))
        for done, task in enumerate(tasks[:2], 1):
            with paused(reader) as go_on:
                before = looks(client)
                set_status(conn, task, "completed")
                # It has heard of it, and goes on looking while it sees the old state: oftener than every 10 s.
                wait_for(lambda before=before: looks(client) >= before + 12, 8)
                go_on()
                stream.until(lambda event, done=done: event.name == "workflow" and event.data["progress"] == 25 * done)
        # Back to rest, with the replay up to date.
        wait_for(lambda: not grows(client))


def test_the_service_says_how_far_behind_the_standby_is(conn, reader, client):
    _, (task, *_) = running(conn, reader)
    caught_up = wait_for(lambda: (found := client.get("/readyz").json()["standby"])["lag_seconds"] < 0.1 and found)
    # However long ago the last transaction was: the primary is idle.
    assert caught_up["following"] is True
    found = metrics(client)
    assert found["agent_progress_in_recovery",] == 1
    assert found["agent_progress_standby_lag_seconds",] == 0
    assert "standby, &lt; 1 s behind" in client.get("/").text
    with paused(reader):
        set_status(conn, task, "completed")
        # What came last is replayed later.
        wait_for(lambda: reader.execute("select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()").fetchone()[0])
        first = metrics(client)["agent_progress_standby_lag_seconds",]
        assert 0 < first < metrics(client)["agent_progress_standby_lag_seconds",]


def test_an_open_page_shows_how_far_behind_the_standby_is(conn, reader, service, visit):  # noqa: F811
    _, (task, *_) = running(conn, reader)
    page = live(visit(service.url))
    page.wait_for_selector("#standby:not([data-late]) >> text=standby, < 1 s behind")
    with paused(reader):
        set_status(conn, task, "completed")
        page.wait_for_selector("#standby >> text=/standby, [1-9] s behind/")
        phone = visit(service.url, js=False, size=PHONE)
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


def test_readers_do_again_what_a_standby_breaks_off(conn, reader, standby, service, client, primary):
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


def test_commands_that_read_go_to_the_standby(conn, reader, primary, standby, capsys, monkeypatch):
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
        with pytest.raises(SystemExit):
            main(["migrate", "--read-dsn", standby.dsn("app")])


def test_while_the_standby_is_away_the_primary_is_read_where_the_dsn_names_it_as_well(conn, reader, primary, standby):
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
