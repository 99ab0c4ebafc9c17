"""What went wrong with adoptions before: leftovers, restores, disabled triggers, capitals, renamed tables."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyapp.adopt.install import list_adoptions

from ..conftest import Role
from ..databases import Databases
from .application import App, cli, refuse, succeed
from .shapes import AIRFLOW, DJANGO, JSON_JOBS, PRISMA, UNIQUE_NULLABLE, Shape
from .systems import SYSTEMS

Make = Callable[..., App]
some = pytest.mark.parametrize("shape", [AIRFLOW, JSON_JOBS, UNIQUE_NULLABLE, PRISMA], ids=lambda shape: shape.title)


def dump(bin_dir: Path, dsn: str, *options: str) -> bytes:
    return subprocess.run([str(bin_dir / "pg_dump"), *options, dsn], check=True, capture_output=True).stdout


def restore(bin_dir: Path, dsn: str, text: bytes) -> None:
    command = [bin_dir / "psql", "--quiet", "--set=ON_ERROR_STOP=1", dsn]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@some
def test_tables_made_anew_are_counted_anew(make: Make, shape: Shape) -> None:
    app = make(shape)
    for table in filter(None, (shape.tasks, shape.workflows)):
        app.run(f"drop table {table} cascade")
    for kind in ('"TaskStatus"',) if shape is PRISMA else ():
        app.run(f"drop type {kind}")
    app.create()
    app.workflow(2, "completed", "pending")
    assert app.check().code == 1
    app.run(app.adopt("--print").out)  # as the migration that is run again
    assert {numbers[1] for numbers in app.stored().values()} == ({None} if shape.workflows else set())
    app.move(2, "failed", 1)
    succeed(app.dsn, "adopt", "--continue")
    app.assert_exact()


@some
def test_rows_that_vanish_behind_the_triggers_are_found_and_repaired(make: Make, shape: Shape) -> None:
    app = make(shape)
    app.run(f"alter table {shape.tasks} disable trigger user")
    assert app.check().code == 1  # though every number is right
    app.run(f"truncate {shape.tasks} cascade")
    app.run(f"alter table {shape.tasks} enable trigger user")
    app.workflow(2, "completed", "pending", again="on conflict do nothing")
    assert app.check().code == 1
    succeed(app.dsn, "repair", "--schema", "agent_progress")
    assert app.check().code == 0
    app.assert_exact()


@some
def test_tasks_that_came_unseen_are_found_and_repaired(make: Make, shape: Shape) -> None:
    app = make(shape)
    app.workflow(70)
    app.run(f"alter table {shape.tasks} disable trigger user")
    app.tasks(70, "completed", 3)
    app.run(f"alter table {shape.tasks} enable trigger user")
    assert app.check().code == 1
    succeed(app.dsn, "repair", "--schema", "agent_progress")
    app.assert_exact()


@some
@pytest.mark.parametrize("tasks_first", [True, False])
def test_data_restored_into_a_schema_with_counters_count_themselves(
    make: Make, shape: Shape, tasks_first: bool, databases: Databases, bin_dir: Path
) -> None:
    app = make(shape, "--keep-finished")
    app.workflow(40, "completed", "completed")
    app.remove(40)
    before = app.stored()
    structure = dump(bin_dir, app.dsn, "--schema-only")
    parts = [
        dump(bin_dir, app.dsn, "--data-only", "--schema=public"),
        dump(bin_dir, app.dsn, "--data-only", "--schema=agent_progress"),
    ]
    with databases.copy("template0") as dsn:
        restore(bin_dir, dsn, structure)
        for part in parts if tasks_first else reversed(parts):
            restore(bin_dir, dsn, part)
        with psycopg.connect(dsn, autocommit=True) as conn:
            other = App(conn, shape)
            assert other.drift() == []
            assert other.stored() == before
            other.move(2, "completed")
            assert other.drift() == []
            for n in (1, 2):  # and once more, into tables that hold something
                other.run("update agent_progress.workflow_counter set agents_created = agents_created")
                assert other.drift() == [], n


@some
def test_a_full_restore_brings_counters_and_triggers_along(
    make: Make, shape: Shape, databases: Databases, bin_dir: Path
) -> None:
    app = make(shape)
    with databases.copy("template0") as dsn:
        restore(bin_dir, dsn, dump(bin_dir, app.dsn))
        with psycopg.connect(dsn, autocommit=True) as conn:
            other = App(conn, shape)
            other.assert_exact()
            other.move(2, "completed")
            other.assert_exact()
            assert other.check().code == 0
            assert "live" in other.adopt("--json").out or other.drift() == []
            other.assert_exact()


def test_a_dump_of_the_schema_alone_keeps_the_record_of_the_adoption(
    make: Make, databases: Databases, bin_dir: Path
) -> None:
    app = make(AIRFLOW)
    with databases.copy("template0") as dsn:
        restore(bin_dir, dsn, dump(bin_dir, app.dsn, "--schema-only"))
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert list_adoptions(conn) == list_adoptions(app.conn)
            other = App(conn, AIRFLOW)
            assert other.check().code == 0
            other.workflow(1, "completed", "pending")
            other.assert_exact()


def test_statuses_in_capitals_are_understood(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, status text, progress integer);"
        "create table step (id serial primary key, run_id integer references run, status text);"
        "insert into run values (1, 'RUNNING', 50);"
        "insert into step (run_id, status) values (1, 'COMPLETED'), (1, 'Pending')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert conn.execute("select progress from run").fetchone() == (50,)
    conn.execute("insert into step (run_id, status) values (1, 'compLETED')")
    assert conn.execute("select progress from run").fetchone() == (67,)


@pytest.mark.parametrize(
    "made_with",
    [
        "encoding UTF8 locale 'C'",
        "encoding SQL_ASCII locale 'C'",
        "encoding UTF8 locale_provider icu icu_locale 'tr' locale 'C'",
    ],
)
def test_statuses_mean_the_same_whatever_the_locale_of_the_server(
    server: str, databases: Databases, made_with: str
) -> None:
    name = f"{databases._prefix}locale"
    with psycopg.connect(server, dbname="postgres", autocommit=True) as admin:
        try:
            admin.execute(f"create database {name} template template0 {made_with}".encode())
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this server has no ICU")
        try:
            dsn = make_conninfo(server, dbname=name)
            with psycopg.connect(dsn, autocommit=True, client_encoding="utf-8") as conn:
                conn.execute(
                    "create table job (batch integer, status text); insert into job select 1, s from unnest("
                    "'{FINISHED,FINISHED,terminé,TERMINÉ,TERMINÉ,Pending,PENDING,RUNNING,échoué,ÉCHOUÉ,FAILED}'::text[]"
                    ") as s"
                )
            ran = succeed(
                *(dsn, "adopt", "--tasks", "job", "--key", "batch"),
                *("--completed", "finished,terminé", "--failed", "FAILED,Échoué"),
            )
            assert "ÉCHOUÉ    1      failed" in ran.out
            assert "nobody named it" not in ran.out
            shown = "select agents_completed, agents_failed, agents_open from agent_progress.workflow_progress"
            with psycopg.connect(dsn) as conn:
                assert conn.execute(shown).fetchone() == (5, 3, 3)
        finally:
            admin.execute(f"drop database if exists {name} with (force)".encode())


def test_percentages_that_would_mostly_fall_to_zero_are_left_alone_without_yes(
    conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute(
        "create table run (id integer primary key, progress integer);"
        "create table step (id serial primary key, run_id integer references run, status text);"
        "insert into run select n, 45 from generate_series(1, 5) as n;"
        "insert into step (run_id, status) select n, 'fertig' from generate_series(1, 5) as n"
    )
    said = refuse(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert "no task is completed" in said
    assert "5 of 5 workflows would fall to 0 %" in said
    assert "fertig" in said
    assert list_adoptions(conn) == []
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step", "--completed", "fertig")
    assert conn.execute("select distinct progress from run").fetchall() == [(100,)]


def test_history_that_says_100_without_any_report_stays(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, status text, progress integer);"
        "create table step (id serial primary key, run_id integer references run, status text);"
        "insert into run values (1, 'done', 100), (2, 'done', 100), (3, 'running', 30);"
        "insert into step (run_id, status) values (1, 'pending'), (2, 'completed'), (2, 'pending'), (3, 'completed')"
    )
    ran = succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert "1 finished workflow without any report left at 100 %" in ran.out
    conn.execute("update run set progress = 7")
    query = "select progress from run order by id"
    assert conn.execute(query).fetchall() == [(100,), (50,), (100,)]
    assert [
        row[0] for row in conn.execute("select progress from agent_progress.workflow_progress order by workflow_id")
    ] == [100, 50, 100]
    succeed(dsn, "adopt")
    assert conn.execute(query).fetchall() == [(100,), (50,), (100,)]


def test_a_time_that_is_a_number_is_shown_as_a_time(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, created_at bigint);"
        "create table step (id serial primary key, run_id integer references run, status text, created_at integer);"
        "insert into run values (1, 1780000000123);"
        "insert into step (run_id, status, created_at) values (1, 'done', 1780000000)"
    )
    ran = succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert "a time in seconds, milliseconds or microseconds" in ran.out
    row = conn.execute(
        "select p.created_at = '2026-05-28 20:26:40.123+00', t.created_at = '2026-05-28 20:26:40+00'"
        " from agent_progress.workflow_progress as p, agent_progress.agent_task as t"
    ).fetchone()
    assert row == (True, True)


@pytest.mark.parametrize(
    "index",
    [
        "create index on item (batch_id) where batch_id is not null",
        "create index on item (batch_id, status)",
        "create index on item using hash (batch_id)",
    ],
)
def test_an_index_that_serves_is_recognized(conn: psycopg.Connection, dsn: str, index: str) -> None:
    conn.execute("create table item (id serial, batch_id uuid, status text)")
    adopt = ("adopt", "--tasks", "item", "--key", "batch_id", "--dry-run")
    assert "no index" in succeed(dsn, *adopt).err
    conn.execute(index.encode())
    assert "no index" not in succeed(dsn, *adopt).err


def test_an_index_on_text_read_as_json_serves_and_asks_writers_for_no_right(
    conn: psycopg.Connection, dsn: str, new_role: Callable[..., Role]
) -> None:
    conn.execute("create table job (id serial primary key, meta text, status text)")
    adopt = ("adopt", "--tasks", "job", "--key-sql", "as_json(meta) ->> 'run'")
    assert "no index" in succeed(dsn, *adopt).err
    conn.execute("create index on job ((agent_progress.as_json(meta) ->> 'run'))")
    assert "no index" not in succeed(dsn, *adopt).err
    role = new_role()
    conn.execute(f"grant insert on job to {role.name}; grant usage on sequence job_id_seq to {role.name}".encode())
    role.connect().execute("""insert into job (meta) values ('{"run": "a"}'), ('no json')""")
    conn.execute("set enable_seqscan = off")
    plan = conn.execute("explain select * from agent_progress.agent_task where workflow_id = 'a'").fetchall()
    assert "job_expr_idx" in str(plan)


def test_a_dry_run_announces_no_change_of_a_column_that_nobody_writes(make: Make) -> None:
    app = make(DJANGO, adopt=False)
    app.run("update app_run set progress = 45")
    assert "rise" in succeed(app.dsn, "adopt", *DJANGO.options, "--dry-run").out
    assert "rise" not in succeed(app.dsn, "adopt", *DJANGO.options, "--dry-run", "--no-publish").out
    assert "none of it is written" in succeed(app.dsn, "adopt", *DJANGO.options, "--dry-run", "--shadow").out
    assert list_adoptions(app.conn) == []


def test_a_renamed_table_gets_a_clear_word_and_is_adopted_under_its_new_name(make: Make) -> None:
    app = make(DJANGO)
    app.run("alter table app_step rename to app_task")
    app.run("update app_task set status = 'completed' where run_id = 1001")
    ran = app.check()
    assert ran.code == 1
    assert "app_step" in ran.out
    assert "--tasks" in ran.out
    succeed(app.dsn, "adopt", "--workflows", "app_run", "--tasks", "app_task", "--yes")
    assert app.drift() == []
    assert app.check().code == 0
    assert app.run("select progress from app_run where id = 1001").fetchone() == (100,)


@pytest.mark.parametrize(
    ("option", "condition", "word"),
    [
        ("--completed-when", "exists (select from app_run)", "its own row alone"),
        ("--where", "created < now()", "now changes by itself"),
        ("--where", "created < current_timestamp", "current_timestamp changes by itself"),
        ("--where", "random() < 0.5", "random changes by itself"),
        ("--where", "true; drop table app_run", "syntax error"),
        ("--where", "no_such_column", "does not exist"),
        ("--key-sql", "(select 1)", "its own row alone"),
    ],
)
def test_conditions_that_cannot_be_counted_get_a_clear_word(make: Make, option: str, condition: str, word: str) -> None:
    app = make(DJANGO, adopt=False)
    app.run("alter table app_step add column created timestamptz")
    assert word in refuse(app.dsn, "adopt", *DJANGO.options, option, condition)
    assert cli(app.dsn, "list", "--schema", "agent_progress").code == 2


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("preset", ["celery", "dagster", "solid-queue"])
def test_a_row_that_holds_no_json_hides_no_other(conn: psycopg.Connection, dsn: str, preset: str, before: bool) -> None:
    system = SYSTEMS[preset]
    spoil = {
        "celery": b"update django_celery_results_taskresult set meta = repeat('[', 100000) where task_id = 'a'",
        "dagster": b"update runs set run_body = 'no json' where run_id = 'r1'",
        "solid-queue": b"update solid_queue_jobs set arguments = 'no json' where id = 1",
    }[preset]
    conn.execute(system.ddl.encode())
    conn.execute(system.life[0].sql.encode())
    if before:
        conn.execute(spoil)
    succeed(dsn, "adopt", "--preset", preset)
    conn.execute(spoil)
    for key in system.life[0].says:
        assert key in succeed(dsn, "list", "--schema", "agent_progress", "--json").out
        succeed(dsn, "show", key, "--tasks", "--timeline", "--schema", "agent_progress")
    succeed(dsn, "check", "--schema", "agent_progress")


@pytest.mark.parametrize("key", [("--key", "dag,run"), ("--key-sql", "meta ->> 'run'"), ("--key", "dag")])
def test_the_index_that_finds_the_tasks_of_a_workflow_is_told(
    conn: psycopg.Connection, dsn: str, key: tuple[str, str]
) -> None:
    conn.execute("create table job (id serial primary key, dag text, run text, meta jsonb, status text)")
    preview = ("adopt", "--tasks", "job", *key, "--dry-run")
    told = re.search(r"create index concurrently on .*\)", succeed(dsn, *preview).err)
    assert told is not None
    conn.execute(told[0].encode())
    assert "create index" not in succeed(dsn, *preview).err


def test_a_cast_to_json_that_can_fail_is_told_with_its_remedy(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute("create table job (id serial primary key, meta text, args jsonb, status text)")
    adopt = ("adopt", "--tasks", "job", "--dry-run", "--key-sql")
    assert "write as_json(" in succeed(dsn, *adopt, "(meta::jsonb) ->> 'run'").err
    assert "write as_json(" in succeed(dsn, *adopt, "coalesce(args ->> 'run', cast(meta as json) ->> 'run')").err
    assert "write as_json(" not in succeed(dsn, *adopt, "coalesce(args ->> 'run', as_json(meta) ->> 'run')").err


@pytest.mark.parametrize(
    "options",
    [
        ("--key-sql", "coalesce(run_id, (meta::jsonb ->> 'run')::integer)", "--keep-finished"),
        ("--key", "run_id", "--column", "name=meta::jsonb ->> 'name'"),
        ("--key", "run_id", "--completed-when", "meta::jsonb ? 'done'"),
        ("--workflows", "run", "--column", "agents_planned=(meta::jsonb ->> 'steps')::integer"),
        ("--workflows", "run", "--workflow-completed-when", "meta::jsonb ? 'done'", "--keep-finished"),
    ],
    ids=" ".join,
)
def test_a_row_whose_text_cannot_be_cast_stops_no_write(
    conn: psycopg.Connection, dsn: str, options: tuple[str, ...]
) -> None:
    conn.execute(
        "create table run (id integer primary key, meta text default '{}', status text, progress integer);"
        "create table step (id serial primary key, run_id integer references run, meta text default '{}', status text)"
    )
    succeed(dsn, "adopt", "--tasks", "step", *options)
    conn.execute("insert into run (id, meta) values (1, '{}'), (2, 'no json')")
    conn.execute("insert into step (run_id, meta) values (2, 'no json')")
    conn.execute("insert into step (run_id) values (1)")
    conn.execute("insert into step (run_id, meta, status) values (1, 'no json', 'done'), (2, '{}', 'done')")
    conn.execute("update step set status = 'completed'")
    conn.execute("delete from step where run_id = 2")
    conn.execute("update run set status = 'done', progress = 5")
    conn.execute("delete from run where id = 2")
    conn.execute("update step set meta = '{}'; update run set meta = '{}'")
    succeed(dsn, "repair", "--schema", "agent_progress")


def test_a_workflow_whose_name_cannot_be_read_gets_none(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute("create table job (id serial primary key, batch integer, meta text, status text)")
    succeed(dsn, "adopt", "--tasks", "job", "--key", "batch", "--column", "name=meta::jsonb ->> 'name'")
    conn.execute("""insert into job (batch, meta) values (1, '{"name": "first"}'), (2, 'no json')""")
    shown = conn.execute("select workflow_id, name from agent_progress.workflow_progress order by 1").fetchall()
    assert shown == [(1, "first"), (2, "2")]


@pytest.mark.parametrize("option", ["--workflow-noun", "--task-noun"])
@pytest.mark.parametrize("noun", ["", "  ", "a\tb", "a\nb", "\x1b[31mred"])
def test_a_noun_that_nobody_can_read_is_refused(make: Make, option: str, noun: str) -> None:
    app = make(JSON_JOBS)
    assert "a word or a few" in refuse(app.dsn, "adopt", option, noun)
    assert "a word or a few" in refuse(app.dsn, "adopt", *JSON_JOBS.options, option, noun)
