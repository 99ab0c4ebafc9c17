"""Reading from a standby: one's own writes, and what a standby interrupts, on both kinds of connection."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import dict_row

import pyapp
from pyapp import StandbyBehind, get_workflow, report_task, wait_for_position, wal_position
from pyapp.cli import main
from pyapp.watch import watch_changes

from .crash import QUICK, CrashableServer, servers
from .helpers import in_background, new_tasks, new_workflow, wait_for
from .test_standby import standby_of


@pytest.fixture(scope="module")
def pair(bin_dir: Path) -> Iterator[tuple[CrashableServer, CrashableServer]]:
    with servers(bin_dir) as make:
        primary = make("primary", **QUICK, wal_writer_delay="10ms").start()
        primary.create_migrated("app")
        assert main(["--dsn", primary.dsn("app"), "notify", "on"]) == 0
        yield primary, standby_of(primary, make)


@pytest.fixture
def primary(pair: tuple[CrashableServer, CrashableServer]) -> CrashableServer:
    return pair[0]


@pytest.fixture
def standby(pair: tuple[CrashableServer, CrashableServer]) -> CrashableServer:
    return pair[1]


@pytest.fixture
def conn(primary: CrashableServer) -> Iterator[Connection]:
    """A connection to the primary."""
    with primary.connect("app") as connection:
        yield connection
        assert connection.execute("select * from workflow_progress_drift").fetchall() == []


@pytest.fixture
def reader(standby: CrashableServer) -> Iterator[Connection]:
    """A connection to the standby."""
    with standby.connect("app") as connection:
        yield connection


@contextmanager
def standby_setting(reader: Connection, name: str, value: str) -> Iterator[None]:
    """Change a setting of the standby."""
    before = reader.execute(f"show {name}").fetchone()[0]
    for wanted in (value, before):
        reader.execute(f"alter system set {name} = '{wanted}'")
        reader.execute("select pg_reload_conf()")
        wait_for(lambda wanted=wanted: reader.execute(f"show {name}").fetchone()[0] == wanted)
        if wanted == value:
            yield


def waiting_for_locks(reader: Connection) -> list[Any]:
    """Our sessions that wait for a lock."""
    query = "select from pg_stat_activity where wait_event_type = 'Lock' and application_name ~ '^agent-progress'"
    return reader.execute(query).fetchall()


@contextmanager
def paused(reader: Connection) -> Iterator[Callable[[], Any]]:
    """Let the standby receive and not replay; yield what lets it go on."""

    def go_on() -> None:
        reader.execute("select pg_wal_replay_resume()")

    reader.execute("select pg_wal_replay_pause()")
    wait_for(lambda: reader.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
    try:
        yield go_on
    finally:
        go_on()


def running(conn: Connection, reader: Connection, tasks: int = 4) -> tuple[Any, list[Any]]:
    """Create a running workflow that the standby shows."""
    workflow = new_workflow(conn, name="shop", status="running")
    made = new_tasks(conn, workflow, *["running"] * tasks)
    wait_for_position(reader, wal_position(conn), 30)
    return workflow, made


# --- Reading one's own writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", ["on", "local", "off"])
def test_what_was_written_is_read_on_the_standby_once_its_position_is_replayed(
    conn: Connection, reader: Connection, commit: Any
) -> None:
    workflow, tasks = running(conn, reader, 20)
    conn.execute(f"set synchronous_commit = {commit}")
    for done, task in enumerate(tasks, 1):
        report_task(conn, workflow, task, "completed")
        wait_for_position(reader, wal_position(conn), 30)
        assert get_workflow(reader, workflow).agents_completed == done


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_wait_lasts_until_it_is_replayed_and_ends_in_an_error_when_that_takes_too_long(
    conn: Connection, reader: Connection, standby: CrashableServer, way: Any
) -> None:
    workflow, (task, *_) = running(conn, reader)

    def wait(position: str, timeout: float) -> pyapp.Workflow:
        if way == "sync":
            with standby.connect("app", row_factory=dict_row) as waiting:
                waiting.execute("set application_name = 'waiting'")
                wait_for_position(waiting, position, timeout)
                return get_workflow(waiting, workflow)

        async def act() -> pyapp.Workflow:
            async with await pyapp.aio.connect(standby.dsn("app"), row_factory=dict_row) as waiting:
                await waiting.execute("set application_name = 'waiting'")
                await waiting.commit()
                await pyapp.aio.wait_for_position(waiting, position, timeout)
                assert waiting.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                return await pyapp.aio.get_workflow(waiting, workflow)

        return asyncio.run(act())

    with paused(reader) as go_on:
        report_task(conn, workflow, task, "completed")
        position = wal_position(conn)
        with pytest.raises(StandbyBehind, match=position) as behind:
            wait(position, 0.05)
        assert behind.value.position == position
        assert get_workflow(reader, workflow).agents_completed == 0
        waited = in_background(wait, position, 60)
        looking = "select query ~ 'replay_lsn' from pg_stat_activity where application_name = 'waiting'"
        wait_for(lambda: reader.execute(looking).fetchone() == (True,))
        assert not waited.done()
        go_on()
        assert waited.result(60).agents_completed == 1


def test_a_position_at_the_end_of_a_page_does_not_wait_for_the_next_record(
    conn: Connection, reader: Connection
) -> None:
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


def test_a_position_is_told_of_what_is_committed_only(conn: Connection, primary: CrashableServer) -> None:
    workflow = new_workflow(conn)
    with primary.connect("app", autocommit=False) as writing:
        report = "insert into agent_task (workflow_id, agent_type) values (%s, 'a')"
        writing.execute(report, [workflow])
        with pytest.raises(ValueError, match="commit it"):
            wal_position(writing)
        writing.commit()
        assert wal_position(writing) <= wal_position(conn)


def test_waiting_within_a_transaction_that_sees_one_moment_is_refused(
    conn: Connection, reader: Connection, standby: CrashableServer
) -> None:
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


def test_a_primary_and_a_position_told_by_a_standby_need_no_wait(conn: Connection, reader: Connection) -> None:
    running(conn, reader)
    wait_for_position(conn, "FFFFFFFF/FFFFFFFF", 0)
    wait_for_position(reader, wal_position(reader), 0)
    wait_for_position(conn, wal_position(reader), 0)
    with pytest.raises(psycopg.DataError):
        wait_for_position(reader, "soon")


def test_watching_goes_on_where_a_standby_interrupts_it(
    conn: Connection, reader: Connection, standby: CrashableServer, primary: CrashableServer
) -> None:
    """It waits for one table and keeps the standby from replaying a lock on another, until that cancels it."""
    workflow, _ = running(conn, reader)
    replayed = "select from pg_locks where relation = 'workflow'::regclass and mode = 'AccessExclusiveLock' and granted"
    commit = "select pg_logical_emit_message(true, '', '')"  # takes along what others have written
    losses: list[Any] = []

    def look(conn: Connection, _: Any) -> None:
        conn.execute("select from workflow, agent_task limit 1")

    changes = watch_changes(standby.dsn("app"), [workflow], 0.02, look, losses.append)
    with (
        standby_setting(reader, "max_standby_streaming_delay", "0"),
        primary.connect("app") as other,
        primary.connect("app") as writer,
    ):
        with conn.transaction():
            conn.execute("lock table agent_task, workflow_stage")
            writer.execute(commit)
            wait_for_position(reader, wal_position(writer), 60)
            watched = in_background(next, changes)
            wait_for(lambda: len(waiting_for_locks(reader)) == 1)
            with other.transaction():
                other.execute("lock table workflow")
                writer.execute(commit)
                wait_for(lambda: reader.execute(replayed).fetchall())
                assert not watched.done()
        assert [one.progress for one in watched.result(60)] == [0]
    assert losses == []
