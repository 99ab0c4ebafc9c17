"""Whatever is missing, the application's writes go on; reading says what is missing, and adopting again repairs it."""

from collections.abc import Callable

import psycopg
import pytest

from ..conftest import Role
from .application import App, cli, refuse, succeed
from .shapes import AIRFLOW, DJANGO, JSON_JOBS, PRISMA, UNIQUE_NULLABLE, Shape

Make = Callable[..., App]
some = pytest.mark.parametrize("shape", [AIRFLOW, JSON_JOBS, UNIQUE_NULLABLE, DJANGO], ids=lambda shape: shape.title)
MISSING = (
    "drop table agent_progress.workflow_counter cascade",
    "drop table agent_progress.counting cascade",
    "drop function agent_progress.progress_percentage cascade",
    "drop view agent_progress.workflow_progress_drift cascade",
    "drop function agent_progress.repair_progress",
)


def writes(app: App) -> None:
    """Do all that an application does."""
    shape = app.shape
    app.workflow(80, "completed", "pending")
    app.workflow(81, "completed", "pending")
    app.move(1, "completed", 2)
    app.move(4, "failed")
    app.rekey(2, 3)
    app.remove(3, 1)
    if shape.workflows:
        app.drop(80)
        if shape.progress:
            app.run(f"update {shape.workflows} set {shape.progress} = 17")


@some
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("keep", [(), ("--keep-finished",)], ids=["", "kept"])
def test_a_missing_object_of_the_adoption_stops_no_write(
    make: Make, shape: Shape, missing: str, keep: tuple[str, ...]
) -> None:
    app = make(shape, *keep)
    app.run(missing)
    writes(app)
    assert app.check().code in (1, 2)
    app.adopt(*keep)
    assert app.drift() == []
    assert app.check().code == 0


@pytest.mark.parametrize(
    ("shape", "change", "back"),
    [
        (DJANGO, "alter table app_step rename status to state", "alter table app_step rename state to status"),
        (DJANGO, "alter table app_run rename progress to share", "alter table app_run rename share to progress"),
        (DJANGO, "alter table app_run rename status to state", "alter table app_run rename state to status"),
        (DJANGO, "alter table app_run rename name to title", "alter table app_run rename title to name"),
        (DJANGO, "alter table app_run rename id to run_no", "alter table app_run rename run_no to id"),
        (JSON_JOBS, "alter table jobs rename meta to data", "alter table jobs rename data to meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("keep", [(), ("--keep-finished",)], ids=["", "kept"])
def test_a_column_that_is_gone_stops_no_write(
    make: Make, shape: Shape, change: str, back: str, keep: tuple[str, ...]
) -> None:
    app = make(shape, *keep)
    app.run(change)
    app.run(f"delete from {shape.tasks} where n = 1")
    app.run(f"update {shape.tasks} set n = n + 1")
    columns, values = ("n, state", "5, 'x'") if shape is JSON_JOBS else ("n", "5")
    app.run(f"insert into {shape.tasks} ({columns}) values ({values})")
    if shape.workflows:
        app.run(f"insert into {shape.workflows} default values")
    ran = app.check()
    assert ran.code == 1
    assert "cannot be read" in ran.out
    app.run(back)
    app.adopt(*keep)
    assert app.drift() == []
    assert app.check().code == 0


@pytest.mark.parametrize(
    "change",
    [
        'alter table "AgentTask" alter status type text',
        'alter table "Workflow" alter status type varchar(30)',
        'alter table "Workflow" alter progress type numeric(6, 2)',
        "alter type \"TaskStatus\" rename value 'PENDING' to 'WAITING'",
        'alter table "Workflow" drop name',
        'alter table "AgentTask" drop n cascade',
    ],
)
def test_migrations_of_the_application_go_through(make: Make, change: str) -> None:
    app = make(PRISMA)
    app.move(1, "completed", 1)
    app.run(change)
    text = "status" in change and "AgentTask" in change
    app.run('update "AgentTask" set status = \'COMPLETED\' where "workflowId" = %(key)s', key=app.key(1)[0])
    name = "drop name" in change
    assert app.check().code == (1 if name else 0)
    if name:
        app.adopt()
    assert app.drift() == []
    assert app.run('select progress from "Workflow" where id = %(key)s', key=app.key(1)[0]).fetchone() == (100,), text


@pytest.mark.parametrize("shape", [AIRFLOW, DJANGO], ids=lambda shape: shape.title)
def test_keys_of_another_type_are_told_and_taken_over(make: Make, shape: Shape, new_role: Callable[..., Role]) -> None:
    app, reader = make(shape, "--keep-finished"), new_role()
    app.run(f"grant select on agent_progress.workflow_progress to {reader.name}")
    app.workflow(40, "completed", "completed")
    app.remove(40)
    before = app.stored()
    if shape is DJANGO:
        for table in ("app_run", "app_step"):
            app.run(f"alter table {table} alter id drop identity")
            app.run(f"alter table {table} alter {'run_id' if table == 'app_step' else 'id'} type numeric")
        app.run("alter table app_step alter id type text")
    else:
        app.run("alter table task_instance alter id type text")
        app.run("alter table task_instance alter dag_id type name, alter run_id type name")
        app.run("alter table dag_run alter dag_id type name, alter run_id type name")
    assert "of another type" in app.check().out
    succeed(app.dsn, "adopt")
    assert app.check().code == 0
    assert app.stored() == before
    app.move(1, "completed", 2)
    succeed(app.dsn, "adopt", *shape.options, "--keep-finished", "--yes")
    assert app.drift() == []
    granted = "select has_table_privilege(%(role)s, 'agent_progress.workflow_progress', 'select')"
    assert app.run(granted, role=reader.name).fetchone() == (True,)


def test_keys_that_outgrew_their_type_are_counted_once_they_are_taken_over(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, progress integer);"
        "create table step (id serial primary key, run_id integer references run, status text);"
        "insert into run values (1, 0); insert into step (run_id, status) values (1, 'done')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    conn.execute("create view mine as select workflow_id from agent_progress.workflow_progress")
    conn.execute("alter table run alter id type bigint; alter table step alter run_id type bigint")
    conn.execute(
        "insert into run values (5000000000, 0); insert into step (run_id, status) values (5000000000, 'done')"
    )
    ran = cli(dsn, "check", "--schema", "agent_progress")
    assert ran.code == 1
    assert "of another type by now" in ran.out
    assert "nothing could be counted: integer out of range" in ran.out
    assert "view mine depends on" in refuse(dsn, "adopt")
    conn.execute("drop view mine")
    succeed(dsn, "adopt")
    assert conn.execute("select id, progress from run order by id").fetchall() == [(1, 100), (5000000000, 100)]


@pytest.mark.parametrize("column", ["done", "title", "kind", "expected"])
def test_a_column_that_is_gone_is_named(conn: psycopg.Connection, dsn: str, column: str) -> None:
    conn.execute(
        "create table run (id integer primary key, title text, expected integer, progress integer, done integer);"
        "create table step (run_id integer references run, status text, kind text); insert into run (id) values (1)"
    )
    options = ("--workflows", "run", "--tasks", "step", "--publish", "progress=progress,completed=done")
    shown = ("--column", "name=title", "--column", "agents_planned=expected", "--task-column", "agent_type=kind")
    succeed(dsn, "adopt", *options, *shown)
    conn.execute(f"alter table {'step' if column == 'kind' else 'run'} drop column {column}".encode())
    conn.execute("insert into step values (1, 'done')")
    ran = cli(dsn, "check", "--schema", "agent_progress")
    assert ran.code == 1
    for said in (ran.out, refuse(dsn, "adopt")):
        assert f"{column} does not exist (adopt with --tasks and the like says how to read them now)" in said
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert conn.execute("select progress from run").fetchone() == (100,)


def test_triggers_that_always_fire_go_on_doing_so(make: Make) -> None:
    app = make(DJANGO)
    app.run("alter table app_step enable always trigger agent_progress_update")
    app.run("alter table app_run enable replica trigger zz_agent_progress_guard")
    assert 'zz_agent_progress_guard on "public"."app_run" is disabled' in app.check().out
    app.adopt()
    states = app.run("select tgname, tgenabled::text from pg_trigger where not tgisinternal and tgenabled <> 'O'")
    assert states.fetchall() == [("agent_progress_update", "A")]
    assert app.check().code == 0
    app.run("alter table app_run enable always trigger zz_agent_progress_guard")
    app.adopt("--no-publish")  # which has no such trigger
    assert app.check().code == 0


def test_the_adoption_can_be_dropped_at_any_time(make: Make) -> None:
    app = make(AIRFLOW)
    app.run("drop schema agent_progress cascade")
    writes(app)
    app.adopt()
    app.assert_exact()


def test_a_policy_for_rows_hides_none_from_counting(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(UNIQUE_NULLABLE)
    role = new_role()
    app.run(
        "alter table item enable row level security; create policy own on item using (n <= 2);"
        f"grant all on item, batch to {role.name}; grant usage on sequence item_id_seq to {role.name}"
    )
    conn = role.connect()
    App(conn, UNIQUE_NULLABLE).move(4, "completed")
    App(conn, UNIQUE_NULLABLE).remove(1)
    app.assert_exact()


def test_an_owner_who_sees_only_some_rows_is_told(make: Make, new_role: Callable[..., Role]) -> None:
    app, role = make(DJANGO, adopt=False), new_role()
    app.run(f"grant create on database {app.conn.info.dbname} to {role.name}")
    app.run(f"alter table app_run owner to {role.name}; alter table app_step owner to {role.name}")
    forced = "alter table app_step enable row level security, force row level security"
    app.run(forced)
    assert "hides rows from its owner" in refuse(role.dsn, "adopt", *DJANGO.options, "--yes")
    app.run("alter table app_step no force row level security")
    succeed(role.dsn, "adopt", *DJANGO.options, "--yes")
    app.run(forced)
    ran = cli(role.dsn, "check", "--schema", "agent_progress")
    assert ran.code == 1
    assert "row-level security" in ran.out


def test_names_of_the_application_that_look_like_ours_do_no_harm(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        'create table "run{0}" (keys integer primary key, "progress" integer, the_key_1 integer, key_1 integer,'
        " now_created integer, c text);"
        'create table "st%ep""$$" (the_key_1 integer references "run{0}", task text, outcome text, changes text,'
        " single integer, sign integer, tasks integer, status text, t integer);"
        'insert into "run{0}" (keys) values (1); insert into "st%ep""$$" (the_key_1, status) values (1, \'done\')'
    )
    succeed(dsn, "adopt", "--workflows", '"run{0}"', "--tasks", '"st%ep""$$"', "--keep-finished")
    conn.execute("insert into \"st%ep\"\"$$\" (the_key_1, status) values (1, 'failed'), (1, 'pending')")
    conn.execute("update \"st%ep\"\"$$\" set status = 'done' where status = 'pending'")
    assert conn.execute('select progress from "run{0}"').fetchone() == (67,)
    conn.execute('delete from "st%ep""$$" where status = \'done\'')
    conn.execute('insert into "run{0}" (keys, progress) values (2, 5)')
    assert conn.execute('select progress from "run{0}" order by keys').fetchall() == [(67,), (0,)]
