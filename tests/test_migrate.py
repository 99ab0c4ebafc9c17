"""Installing, upgrading and removing the schema: twice at once, after a crash, beside writers, in odd places."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyapp import MigrationError, connect, installed, lock, mark, migrate, pending, rollback

from .commands import finished, start
from .conftest import Role
from .helpers import counters, in_background, new_tasks, new_workflow, progress, wait_for
from .pages import driver_url
from .test_schema import ALL, ROOT, dump, install_with_psql, objects

Empty = Callable[[], str]


def yoyo(
    dsn: str, tmp_path: Path, command: str, *arguments: str, migrations: Path = ROOT / "migrations"
) -> subprocess.CompletedProcess[str]:
    """Run yoyo itself, as somebody does who has no use for our command line."""
    program = Path(sys.executable).parent / "yoyo"
    where = ["--database", driver_url(dsn), migrations]
    env = {**os.environ, "HOME": str(tmp_path)}
    return finished(program, command, "--batch", *arguments, *where, cwd=tmp_path, env=env)


def down_to(dsn: str, applied: int) -> None:
    """Take back migrations until only the first so many are left."""
    while len(pending(dsn)) < len(ALL) - applied:
        rollback(dsn)


def query(dsn: str, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def drift(dsn: str) -> list[Any]:
    return query(dsn, "select * from public.workflow_progress_drift")


def assert_whole(dsn: str, expected: str, bin_dir: Path) -> None:
    assert pending(dsn) == []
    with psycopg.connect(dsn) as conn:
        assert installed.differences(conn) == []
    assert dump(dsn, bin_dir) == expected


@pytest.fixture
def whole(dsn: str, bin_dir: Path) -> str:
    """The schema as it should be, dumped."""
    return dump(dsn, bin_dir)


# --- Applying -----------------------------------------------------------------------------------------------


def test_migrate_applies_all_in_order_and_then_nothing(empty: Empty) -> None:
    dsn, steps = empty(), []
    nothing = objects(dsn)
    assert pending(dsn) == ALL
    assert objects(dsn) == nothing
    assert migrate(dsn, on_step=steps.append) == ALL
    assert [step for step in steps if step.startswith("applying")] == [f"applying {name}" for name in ALL]
    assert pending(dsn) == []
    before = query(dsn, "select oid, xmin::text from pg_proc union all select oid, xmin::text from pg_trigger")
    assert migrate(dsn) == []
    # Nothing was made anew.
    assert before == query(dsn, "select oid, xmin::text from pg_proc union all select oid, xmin::text from pg_trigger")


def test_twenty_that_migrate_at_once_all_succeed_and_one_of_them_applies(
    empty: Empty, whole: str, bin_dir: Path
) -> None:
    dsn = empty()
    processes = [start("migrate", "--dsn", dsn) for _ in range(2)]
    threads = [in_background(migrate, dsn) for _ in range(20)]
    outcomes = [thread.result(60) for thread in threads]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    outcomes += [[line.removeprefix("applied ") for line in out.splitlines()] for out, _ in outputs]
    assert sorted(outcomes) == [[]] * 21 + [ALL]
    assert_whole(dsn, whole, bin_dir)


# --- Locks --------------------------------------------------------------------------------------------------


def test_a_second_run_waits_for_the_first_and_says_for_whom(
    dsn: str, session: Callable[[], psycopg.Connection]
) -> None:
    down_to(dsn, 0)
    migrate(dsn)
    down_to(dsn, 2)
    long, first_steps, second_steps = session(), [], []
    long.execute("lock table agent_task")
    first = in_background(lambda: migrate(dsn, on_step=first_steps.append))
    wait_for(lambda: any("waiting: other transactions" in step for step in first_steps))
    second = in_background(lambda: migrate(dsn, on_step=second_steps.append))
    wait_for(lambda: second_steps)
    assert second_steps[0].startswith("waiting: another run, agent-progress (session ")
    assert second_steps[0].endswith("migrates schema public")
    assert not second.done()
    long.rollback()
    assert (first.result(60), second.result(60)) == (ALL[2:], [])


def test_waiting_for_another_run_ends_with_who_holds_the_lock(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with (
        lock.alone(make_conninfo(dsn, application_name="somebody"), "public", print),
        pytest.raises(MigrationError, match=r"^waited 0 s: another run, somebody \(session \d+ of \w+\), migrates"),
    ):
        migrate(dsn)
    assert migrate(dsn) == []


def test_the_lock_of_a_run_that_died_is_broken_and_that_of_a_living_program_is_respected(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = "insert into public.yoyo_lock (locked, ctime, pid) values (1, now(), %s)"
    query(dsn, locked, -4711)
    assert migrate(dsn) == []
    assert query(dsn, "select * from public.yoyo_lock") == []
    query(dsn, locked, os.getpid())
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    with pytest.raises(MigrationError, match=rf"another program migrates with yoyo \(process {os.getpid()}\)"):
        rollback(dsn)
    monkeypatch.undo()
    waiting = in_background(migrate, dsn)
    query(dsn, "delete from public.yoyo_lock where pid = %s", os.getpid())
    assert waiting.result(60) == []


def test_a_run_needs_no_setting_of_the_session_and_leaves_none_behind(
    dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As behind a pooler: whatever was set would reach the next one who is given the connection.
    down_to(dsn, 2)
    # Each transaction sets its own transaction_isolation.
    settings = (
        "select name, setting from pg_settings"
        " where source not in ('default', 'override') and name <> 'transaction_isolation' order by 1"
    )
    used: list[tuple[psycopg.Connection, Any]] = []

    @contextmanager
    def kept(*args: Any, **options: Any) -> Iterator[psycopg.Connection]:
        """Connections that stay open, as a pooler keeps them."""
        made = connect(*args, **options)
        used.append((made, made.execute(settings).fetchall()))
        yield made

    monkeypatch.setattr(lock, "connect", kept)
    assert migrate(dsn) == ALL[2:]
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = any (%s)"
    assert conn.execute(held, [[made.info.backend_pid for made, _ in used]]).fetchone() == (0,)
    for made, before in used:
        assert made.execute(settings).fetchall() == before
        made.close()


# --- Crashes ------------------------------------------------------------------------------------------------


def kill_at(dsn: str, step: int, action: str = "migrate", **options: Any) -> subprocess.Popen[str]:
    """Start a run that dies as by kill -9 when it tells its n-th step."""
    code = (
        "import os, itertools\nfrom pyapp import migrate, rollback\nsteps = itertools.count(1)\n"
        f"{action}({dsn!r}, on_step=lambda _: next(steps) == {step} and os.kill(os.getpid(), 9), **{options!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize(
    ("action", "options", "steps"), [("migrate", {}, 3), ("rollback", {"all": True}, 3)], ids=["migrate", "rollback"]
)
def test_a_run_that_was_killed_at_any_step_is_finished_by_the_next(
    empty: Empty, whole: str, bin_dir: Path, action: str, options: dict[str, Any], steps: int
) -> None:
    databases = {step: empty() for step in range(1, steps + 1)}
    for dsn in databases.values() if action == "rollback" else ():
        migrate(dsn)
    killed = [kill_at(dsn, step, action, **options) for step, dsn in databases.items()]
    assert [process.wait(60) for process in killed] == [-9] * steps
    for dsn in databases.values():
        if action == "rollback":
            rollback(dsn, all=True)
            assert objects(dsn) == objects(empty())
        migrate(dsn)
        assert_whole(dsn, whole, bin_dir)


def test_what_was_applied_and_not_recorded_is_applied_again_and_counts_nothing_twice(
    dsn: str, conn: psycopg.Connection, whole: str, bin_dir: Path
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    conn.execute("update stage_definition set weight = 7 where workflow_type = 'app'")
    for applied in range(len(ALL)):
        conn.execute("delete from _yoyo_migration where migration_id = any (%s)", [ALL[applied:]])
        assert migrate(dsn) == ALL[applied:]
        assert progress(conn, workflow) == (50, 1, 2)
    assert_whole(dsn, whole, bin_dir)


# --- Databases that are not ours ----------------------------------------------------------------------------

FOREIGN = {
    "create table workflow (id integer primary key, title text)": "table workflow",
    "create table agent_task (id integer)": "table agent_task",
    "create view workflow as select 1 as id": "table workflow",
    "create type task_status as enum ('todo', 'done')": "type task_status",
    "create type stage_status as enum ('a'); create type workflow_status as enum ('b')": "type stage_status,"
    " type workflow_status",
    "create table installed_object (id integer)": "table installed_object",
    "create view workflow_progress as select 1 as workflow_id": "view workflow_progress",
    "create function record_event() returns trigger language plpgsql as 'begin return new; end'": "function"
    " record_event",
}


@pytest.mark.parametrize(("statement", "named"), FOREIGN.items(), ids=FOREIGN.values())
def test_what_others_made_is_refused_and_untouched(empty: Empty, statement: str, named: str) -> None:
    dsn = empty()
    query(dsn, statement)
    before = objects(dsn)
    with pytest.raises(MigrationError) as error:
        migrate(dsn)
    assert str(error.value) == (
        f"nothing changed: schema public has {named} already, which agent-progress did not make;"
        " migrate --schema NAME installs into another one"
    )
    assert objects(dsn) == before


def test_objects_of_others_beside_ours_stay_as_they_are(empty: Empty) -> None:
    dsn = empty()
    query(
        dsn,
        """
        create schema theirs; create table theirs.workflow (id integer);
        create function public.add_tasks(text) returns integer language sql as 'select 1';
        create function public.progress_percentage(integer, integer) returns integer language sql as 'select 7';
        create view public.report as select 1 as n;
        create table public.note (id integer);
        create role reader_of_notes; grant select on public.note, public.report to reader_of_notes;
        """,
    )
    try:
        before = objects(dsn)
        assert migrate(dsn) == ALL
        with psycopg.connect(dsn) as conn:
            assert installed.differences(conn) == []
        assert set(before) <= set(objects(dsn))
        rollback(dsn, all=True)
        assert objects(dsn) == before
    finally:
        query(dsn, "drop owned by reader_of_notes; drop role reader_of_notes")


def test_migrations_of_another_application_are_left_alone(empty: Empty, tmp_path: Path) -> None:
    dsn = empty()
    (tmp_path / "0001_shop.sql").write_text("create table shop (id integer);")
    assert yoyo(dsn, tmp_path, "apply", "--no-config-file", migrations=tmp_path).returncode == 0
    before = objects(dsn)
    assert pending(dsn) == ALL
    assert rollback(dsn, all=True) == []
    assert migrate(dsn) == ALL
    assert rollback(dsn, all=True) == ALL[::-1]
    assert objects(dsn) == before
    assert query(dsn, "select migration_id from _yoyo_migration") == [("0001_shop",)]


# --- psql and plain yoyo ------------------------------------------------------------------------------------


def test_mark_records_a_schema_that_psql_installed(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    nothing = objects(dsn)
    install_with_psql(dsn, bin_dir)
    assert pending(dsn) == ALL
    assert (mark(dsn), mark(dsn), migrate(dsn)) == (ALL, [], [])
    assert_whole(dsn, whole, bin_dir)
    assert rollback(dsn, all=True) == ALL[::-1]
    assert objects(dsn) == nothing


def test_migrate_takes_over_a_schema_that_psql_installed(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    with psycopg.connect(dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "failed", "running")
        assert migrate(dsn) == ALL
        assert progress(conn, workflow) == (33, 1, 3)
    assert_whole(dsn, whole, bin_dir)
    assert drift(dsn) == []


@pytest.mark.parametrize(
    ("damage", "lacks"),
    [
        ("drop trigger agent_task_progress_insert on agent_task", "trigger agent_task_progress_insert on agent_task"),
        ("drop function repair_progress", "function repair_progress"),
        ("drop table workflow_event cascade", "table workflow_event"),
    ],
)
def test_mark_refuses_where_something_is_missing(empty: Empty, bin_dir: Path, damage: str, lacks: str) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    query(dsn, damage)
    before = objects(dsn)
    with pytest.raises(MigrationError) as error:
        mark(dsn)
    assert str(error.value).startswith(f"nothing recorded: the schema is not whole, it lacks {lacks}")
    assert objects(dsn) == before


def test_plain_yoyo_applies_and_takes_back_the_same(empty: Empty, whole: str, bin_dir: Path, tmp_path: Path) -> None:
    dsn = empty()
    done = yoyo(dsn, tmp_path, "apply")
    assert done.returncode == 0, done.stderr
    assert_whole(dsn, whole, bin_dir)
    assert migrate(dsn) == []
    done = yoyo(dsn, tmp_path, "rollback", "--all")
    assert done.returncode == 0, done.stderr
    assert pending(dsn) == ALL
    assert [row for row in objects(dsn) if "yoyo" not in row[1]] == objects(empty())
    assert list(tmp_path.iterdir()) == []


def test_plain_yoyo_does_not_drop_rows_either_and_counts_what_came_without_triggers(
    dsn: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "pending")
    done = yoyo(dsn, tmp_path, "rollback", "--all")
    assert done.returncode != 0
    assert "table workflow holds rows, which would be lost" in done.stderr
    new_tasks(conn, workflow, "failed")
    assert yoyo(dsn, tmp_path, "apply").returncode == 0
    assert (progress(conn, workflow), counters(conn, workflow)) == ((33, 1, 3), (3, 1, 1, 0))


# --- Taking back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "insert into stage_definition values ('etl', 0, 'extract')",
        "update stage_definition set weight = weight + 1",
        "delete from stage_definition where workflow_type = 'bugfix'",
        "insert into workflow_transition values ('completed', 'running')",
        "insert into workflow (name, type) values ('w', 'app')",
    ],
)
@pytest.mark.parametrize("all_at_once", [True, False])
def test_a_rollback_loses_nothing_of_the_users_unless_it_is_told_to(
    dsn: str, empty: Empty, change: str, all_at_once: bool
) -> None:
    query(dsn, change)
    if not all_at_once:
        down_to(dsn, 1 if "into workflow (" in change else 2)
    before = objects(dsn)
    with pytest.raises(MigrationError, match=r"which would be lost; --drop-data drops them"):
        rollback(dsn, all=all_at_once)
    assert objects(dsn) == before
    rollback(dsn, all=True, drop_data=True)
    assert objects(dsn) == objects(empty())


def test_stage_plans_that_shipped_are_the_users_and_stay_after_migrate(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("update stage_definition set weight = 99 where workflow_type = 'app' and name = 'validation'")
    conn.execute("delete from stage_definition where workflow_type = 'bugfix'")
    conn.execute("delete from workflow_transition where to_status = 'paused'")
    rules = (
        "select d::text from stage_definition as d union all select t::text from workflow_transition as t order by 1"
    )
    before = conn.execute(rules).fetchall()
    assert migrate(dsn) == []
    down_to(dsn, 2)
    assert migrate(dsn) == ALL[2:]
    assert conn.execute(rules).fetchall() == before


# --- Where the database is ----------------------------------------------------------------------------------


SETTINGS = [
    "quote_all_identifiers = on",
    "array_nulls = off",
    "search_path = nowhere",
    "check_function_bodies = off",
    "default_transaction_isolation = serializable",
    "standard_conforming_strings = off",
    "default_tablespace = pg_default",
    "DateStyle = German",
    "statement_timeout = '30s'",
    "idle_in_transaction_session_timeout = '30s'",
    "lock_timeout = '30s'",
    "enable_seqscan = off",
    "plpgsql.variable_conflict = use_column",
]


def test_whatever_a_database_presets_the_schema_is_the_same_and_counts(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    name = conninfo_to_dict(dsn)["dbname"]
    for setting in SETTINGS:
        query(dsn, f"alter database {name} set {setting}")
    assert migrate(dsn) == ALL
    assert migrate(dsn) == []
    with psycopg.connect(dsn) as conn:
        assert installed.differences(conn) == []
        conn.execute("set search_path = public")
        workflow = conn.execute("select id from create_workflow('w', 'app')").fetchone()[0]
        tasks = conn.execute('select count(*) from add_tasks(%s, \'["a", "b"]\')', [workflow]).fetchone()
        reports = "select json_agg(json_build_object('task_id', id, 'status', 'completed')) from agent_task"
        conn.execute(f"select report_tasks(%s, ({reports})::jsonb)", [workflow])
        assert (tasks, progress(conn, workflow)) == ((2,), (100, 2, 2))
        conn.rollback()
    query(dsn, f"alter database {name} reset all")
    assert dump(dsn, bin_dir) == whole
    query(dsn, f"alter database {name} set quote_all_identifiers = on")
    assert rollback(dsn, all=True) == ALL[::-1]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252"])
def test_a_database_of_any_encoding_migrates_and_counts(server: str, encoding: str, databases: Any) -> None:
    name = f"{databases._prefix}{encoding.lower()}"
    with psycopg.connect(server, dbname="postgres", autocommit=True) as admin:
        admin.execute(f"create database {name} template template0 encoding '{encoding}' locale 'C'")
        try:
            dsn = make_conninfo(server, dbname=name)
            assert migrate(dsn) == ALL
            with connect(dsn, autocommit=True) as conn:
                assert installed.differences(conn) == []
                workflow = new_workflow(conn, name="plain")
                [task] = new_tasks(conn, workflow, "running")
                conn.execute("update workflow set status = 'running'")
                conn.execute("select report_task(%s, %s, 'completed')", [workflow, task])
                assert progress(conn, workflow) == (100, 1, 1)
                for view in ("workflow_timeline", "workflow_forecast", "workflow_burnup", "workflow_progress"):
                    assert conn.execute(f"select * from {view}").fetchall() != []
            assert rollback(dsn, all=True, drop_data=True) == ALL[::-1]
        finally:
            admin.execute(f"drop database {name} with (force)")


# --- Rights -------------------------------------------------------------------------------------------------


def test_default_privileges_open_nothing_of_ours_and_that_is_said(empty: Empty) -> None:
    dsn, anon = empty(), f"anon_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role {anon}")
        try:
            for kind in ("tables", "functions", "sequences", "types"):
                admin.execute(f"alter default privileges in schema public grant all on {kind} to {anon}")
            admin.execute(f"grant usage on schema public to {anon}")
            admin.execute("create table note (id integer)")
            steps: list[str] = []

            def somebody_creates(step: str) -> None:
                if not steps:
                    admin.execute("create table note_of_others (id integer); create sequence seq_of_others")
                steps.append(step)

            migrate(dsn, on_step=somebody_creates)
            assert f"revoked what default privileges grant to {anon} (agent-progress grant gives rights)" in steps
            new_tasks(admin, new_workflow(admin), "completed")
            admin.execute(f"set role {anon}")
            for statement in (
                "select repair_progress()",
                "select * from workflow",
                "delete from workflow",
                "select * from workflow_progress",
                "insert into workflow_transition values ('completed', 'running')",
                "select setval('agent_task_ordinal_seq', 1)",
                "select create_workflow('w', 'app')",
                "select maintain_progress()",
                "select * from _yoyo_migration",
                "select * from installed_object",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    admin.execute(statement)
            for table in ("note", "note_of_others"):
                assert admin.execute(f"select * from {table}").fetchall() == []
            admin.execute("select nextval('seq_of_others')")
            admin.execute("reset role")
            # What the owner grants himself stays, also where the object is made anew.
            admin.execute(f"grant execute on function repair_progress(uuid) to {anon}")
            admin.execute(f"grant select on workflow_progress to {anon}")
            admin.execute("update installed_object set shipped_md5 = 'older'")
            migrate(dsn)
            admin.execute(f"set role {anon}")
            assert admin.execute("select repair_progress()").fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="table workflow"):
                admin.execute("select * from workflow_progress")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                admin.execute("select create_workflow('w', 'app')")
        finally:
            admin.execute("reset role")
            admin.execute(f"drop owned by {anon}")
            admin.execute(f"drop role {anon}")


def test_a_role_that_may_not_create_is_told_so_and_nothing_is_left(empty: Empty, new_role: Callable[..., Role]) -> None:
    dsn, name = empty(), new_role().name
    before = objects(dsn)
    with pytest.raises(MigrationError, match=rf"role {name} may not create tables: .*create on schema public"):
        migrate(make_conninfo(dsn, user=name))
    assert objects(dsn) == before


def test_a_role_that_does_not_own_the_schema_is_told_who_does(
    dsn: str, conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    (owner,) = conn.execute("select current_user").fetchone()
    other = new_role()
    for act in (migrate, rollback):
        with pytest.raises(MigrationError, match=f"by role {owner}: migrate as {owner}"):
            act(other.dsn)
