"""Servers that are away, slow, full, closed, read-only, too new, too old or half there: one clear line each."""

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyapp import MigrationError, db, embedded, get_workflow, list_workflows, migrate
from pyapp.cli import main
from pyapp.demo.files import SAMPLE
from pyapp.migrate import require_version

from .conftest import Role
from .crash import disk_of
from .helpers import new_tasks, new_workflow
from .service import wait_for
from .test_trace import instance

ID = str(UUID(int=1))
PASSWORD = "to$p se'cret"
SCHEMA = (["migrate"], ["migrate", "--mark"], ["rollback"], ["rollback", "--all"], ["pending"])
READS = (["list"], ["show", ID], ["watch", ID], ["check"])
WRITES = (
    ["transition", ID, "running"],
    ["advance", ID],
    ["replay", str(SAMPLE)],
    ["demo", "--speed", "400"],
    ["notify", "on"],
)
ALL = (*SCHEMA, *READS, ["repair"], *WRITES)
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command within this process: exit status, stdout, and the line on stderr that says why it failed."""

    def run(dsn: str, *arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--dsn", dsn])
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("playing in the database")]
        assert "Traceback" not in err
        assert PASSWORD not in err
        if status == 2:
            assert len(lines) == 1, err
            assert lines[0].startswith("agent-progress: ")
        return status, out, "\n".join(lines)

    return run


def options(dsn: str, settings: str) -> str:
    return make_conninfo(dsn, options=settings)


@pytest.fixture
def outsider(new_role: Callable[..., Role]) -> Role:
    """A role that may connect and nothing more."""
    role = new_role()
    return Role(role.name, make_conninfo(role.dsn, password=PASSWORD))


# --- Away and slow ----------------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_server_that_never_answers_is_given_up_in_one_line(
    silent: int, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT")
    monkeypatch.setitem(db._NETWORK, "connect_timeout", 2)
    status, out, line = call(f"host=127.0.0.1 port={silent} user=u password='to$p se\\'cret'", "list")
    assert (status, out) == (2, "")
    assert re.search("no connection to the database: .*timeout", line)


def test_a_server_that_goes_away_in_mid_command_is_one_line(
    own_server: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    dsn = own_server().dsn
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("begin; lock table workflow")
        with psycopg.connect(dsn, autocommit=True) as conn:
            ended: list[int] = []
            thread = threading.Thread(target=lambda: ended.append(main(["check", "--dsn", dsn])))
            thread.start()
            waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
            (pid,) = wait_for(lambda: conn.execute(waiting).fetchone())
            conn.execute("select pg_terminate_backend(%s)", [pid])
            thread.join(60)
    assert ended == [2]
    assert capfd.readouterr().err.endswith(
        "agent-progress: terminating connection due to administrator command;"
        " the server stops or restarts: do it again later\n"
    )


# --- Full and closed --------------------------------------------------------------------------------------------


def test_a_server_out_of_connections_is_one_line(outsider: Role, conn: psycopg.Connection, call: Call) -> None:
    conn.execute(f"alter role {outsider.name} connection limit 0")
    for command in ALL:
        status, out, line = call(outsider.dsn, *command)
        assert (status, out) == (2, ""), command
        assert re.search("no connection to the database: .*too many connections for role", line)


def test_a_role_without_rights_is_told_so_and_what_to_do(outsider: Role, call: Call, conn: psycopg.Connection) -> None:
    new_workflow(conn, id=ID)
    for command in (*ALL, ["repair", ID]):
        status, out, line = call(outsider.dsn, *command)
        assert (status, out) == (2, ""), command
        can_grant = "(permission denied for .*|only its owner can do that); the owner of the schema can grant it"
        assert re.search(rf"{can_grant}|by role \w+: migrate as \w+", line), command
    assert get_workflow(conn, ID).status == "initiated"


# --- Read-only --------------------------------------------------------------------------------------------------


def test_a_read_only_database_serves_readers_and_tells_writers_why(
    dsn: str, conn: psycopg.Connection, call: Call
) -> None:
    new_workflow(conn, id=ID, status="completed")
    read_only = options(dsn, "-c default_transaction_read_only=on")
    for command in (*READS, ["pending"], ["repair"]):
        assert call(read_only, *command)[0] == 0, command
    for command in (*(c for c in SCHEMA if c != ["pending"]), *WRITES):
        status, out, line = call(read_only, *command)
        assert (status, out) == (2, ""), command
        assert re.search("(hot standby, or a session that may only read).*name the primary$", line), command
    assert len(list_workflows(conn)) == 1


# --- Disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with disk_of(100, Path("/tmp", f"ap-disk-{os.getpid()}")) as disk:
        yield disk


def test_a_full_disk_is_one_line_and_leaves_exact_numbers(
    small_disk: Path, bin_dir: Path, tmp_path: Path, call: Call
) -> None:
    with embedded.server(small_disk / "data", bin_dir=bin_dir, settings={"fsync": "off"}) as server:
        migrate(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            workflow = new_workflow(conn)
            filler = small_disk / "filler"
            with filler.open("wb") as file:
                file.write(bytes(shutil.disk_usage(small_disk).free - 2_000_000))
            with pytest.raises(psycopg.errors.DiskFull):
                conn.execute("create table filler as select repeat('x', 900) from generate_series(1, 100000)")
            names = [f"{n:05d}" * 50 for n in range(6_000)]
            run = tmp_path / "run.json"
            run.write_text(json.dumps(instance(*((name, [], 1) for name in names))))
            status, _, line = call(server.dsn, "replay", str(run))
            assert status == 2
            assert re.search("No space left on device; make room on the server's disk$", line)
            assert [(w.agents_total - w.agents_planned, w.status) for w in list_workflows(conn)[:1]] == [
                (0, "cancelled")
            ]
            assert call(server.dsn, "check")[0] == 0
            filler.unlink()
            new_tasks(conn, workflow, "completed")
            assert get_workflow(conn, workflow).progress == 100
            assert call(server.dsn, "check")[0] == 0


# --- Versions, and schemas that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "told"), [(90624, "9.6"), (100023, "10"), (130014, "13"), (140000, "14"), (149999, "14")]
)
def test_an_old_server_is_refused(number: int, told: str) -> None:
    with pytest.raises(MigrationError, match=rf"needs PostgreSQL 15 or newer, this is {told}$"):
        require_version(number)


@pytest.mark.parametrize("number", [150000, 150008, 160014, 180004, 190000, 200001])
def test_a_new_enough_server_is_not(number: int) -> None:
    require_version(number)


def test_a_schema_of_a_newer_version_is_refused_by_all_that_changes_it(
    dsn: str, conn: psycopg.Connection, call: Call
) -> None:
    conn.execute("insert into _yoyo_migration values ('f', '0999_agent_progress_x', now())")
    for command in SCHEMA:
        status, out, line = call(dsn, *command)
        assert (status, out) == (2, ""), command
        assert "newer agent-progress (0999_agent_progress_x): upgrade first" in line


def test_a_table_that_was_dropped_since_is_one_line_of_every_command(
    dsn: str, conn: psycopg.Connection, call: Call
) -> None:
    conn.execute("drop table workflow cascade")
    status, out, line = call(dsn, "migrate")
    assert (status, out) == (2, "")
    assert line == (
        "agent-progress: the migrations are applied, but schema public lacks table workflow: restore it, or take all"
        " back with agent-progress rollback --all --drop-data"
    )
    for command in (*READS, *WRITES, ["repair"]):
        assert call(dsn, *command)[0] != 0, command
    assert call(dsn, "rollback", "--all", "--drop-data")[0] == 0
    assert call(dsn, "migrate")[0] == 0
    assert call(dsn, "check")[0] == 0


def test_a_database_without_a_schema_public_is_one_line(empty: Callable[[], str], call: Call) -> None:
    there = empty()
    with psycopg.connect(there, autocommit=True) as conn:
        conn.execute("alter schema public rename to private")
    assert "the database has no schema public: create it first" in call(there, "migrate")[2]
    for command in (*READS, ["repair"], *WRITES):
        assert call(there, *command)[::2] == (
            2,
            "agent-progress: no agent-progress in schema public of this database (--schema names another):"
            " run agent-progress migrate",
        ), command


# --- Defaults of a role or a database -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "DateStyle=German",
        "client_encoding=SQL_ASCII",
        "client_encoding=LATIN1",
        "TimeZone=<+05:30>-05:30",
        "search_path=nowhere",
    ],
)
def test_whatever_a_session_begins_with_does_no_harm(
    setting: str, dsn: str, conn: psycopg.Connection, call: Call
) -> None:
    new_workflow(conn, id=ID, name="日本 caffè", status="completed")
    odd = options(dsn, f"-c {setting}")
    for command in (["migrate"], ["pending"], *READS, ["show", ID, "--timeline"], ["repair"], WRITES[2]):
        status, out, _ = call(odd, *command)
        assert status == 0, command
        assert "�" not in out
