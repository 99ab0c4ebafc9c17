"""The commands around an adoption: what they print, refuse, continue, renew and take back."""

import json
import time
from collections.abc import Callable

import psycopg
import pytest

from pyapp import find_drift, get_vocabulary, get_workflow, list_burnup, list_tasks, list_timeline, list_workflows
from pyapp.adopt.install import get_adoption, install, list_adoptions, renew_adoptions

from ..conftest import Role
from .application import App, cli, refuse, succeed
from .shapes import AIRFLOW, DJANGO, GROUPS, JSON_JOBS, PRISMA, SHAPES, TIMES, UNIQUE_NULLABLE, Shape

Make = Callable[..., App]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.title)
SCHEMA = ("--schema", "agent_progress")


def objects(conn: psycopg.Connection) -> list[tuple[str, ...]]:
    """List all that is in the database: relations, functions, types, triggers."""
    return conn.execute(
        "select 'relation', oid::regclass::text from pg_class where relnamespace::regnamespace::text !~ '^(pg_|info)'"
        " union all select 'function', oid::regprocedure::text from pg_proc"
        " where pronamespace::regnamespace::text !~ '^(pg_|info)'"
        " union all select 'trigger', tgname from pg_trigger where not tgisinternal"
        " union all select 'schema', nspname from pg_namespace where nspname !~ '^pg_' order by 1, 2"
    ).fetchall()


@shapes
def test_everything_that_reads_ours_reads_an_adoption(make: Make, shape: Shape) -> None:
    app = make(shape)
    found = list_workflows(app.conn, schema="agent_progress")
    assert {str(w.workflow_id) for w in found} == app.stored().keys()
    for workflow in found:
        key = workflow.workflow_id
        assert get_workflow(app.conn, key, schema="agent_progress") == workflow
        assert get_workflow(app.conn, str(key), schema="agent_progress") == workflow
        tasks = list_tasks(app.conn, key, schema="agent_progress")
        assert len(tasks) == workflow.agents_created
        assert sum(task.status == "completed" for task in tasks) == workflow.agents_completed
        assert find_drift(app.conn, [key], schema="agent_progress") == []
        list_timeline(app.conn, key, schema="agent_progress")
        list_burnup(app.conn, key, schema="agent_progress")
    one = max(found, key=lambda workflow: workflow.agents_created)
    assert str(one.agents_total) in succeed(app.dsn, "show", str(one.workflow_id), *SCHEMA).out
    assert str(one.workflow_id) in succeed(app.dsn, "list", *SCHEMA, "--json").out
    told = succeed(app.dsn, "check", *SCHEMA).err
    assert told == "" or (len(shape.workflow_read) > 1 and "create index concurrently" in told)
    assert "nothing to repair" in succeed(app.dsn, "repair", *SCHEMA).out


def test_workflows_and_tasks_are_called_what_people_call_them(make: Make) -> None:
    app = make(JSON_JOBS)

    def words() -> tuple[str, ...]:
        said = get_vocabulary(app.conn, schema="agent_progress")
        return said.workflow_noun, said.workflow_nouns, said.task_noun, said.task_nouns

    assert words() == ("workflow", "workflows", "task", "tasks")
    succeed(app.dsn, "adopt", "--workflow-noun", "batch", "--task-noun", "Bob's story")
    assert words() == ("batch", "batches", "Bob's story", "Bob's stories")
    succeed(app.dsn, "adopt")
    assert words() == ("batch", "batches", "Bob's story", "Bob's stories")


def test_one_workflow_of_several_columns_is_read_by_the_index_that_adopt_names(make: Make) -> None:
    app = make(AIRFLOW, adopt=False)
    told = app.adopt().err
    index = told[told.index("create index concurrently") :].splitlines()[0]
    assert index in app.check().err
    app.run(index)
    assert "create index concurrently" not in app.adopt().err + app.check().err
    app.run("set enable_seqscan = off")
    plan = app.run("explain select * from agent_progress.workflow_progress where workflow_id = 'a/b'").fetchall()
    scans = [line for (line,) in plan if " on dag_run" in line]
    assert scans
    assert all("Index Scan" in line for line in scans)


@shapes
def test_unadopting_leaves_nothing(make: Make, shape: Shape) -> None:
    app = make(shape, adopt=False)
    before = objects(app.conn)
    app.adopt()
    app.run(succeed(app.dsn, "unadopt", "--print").out)
    assert objects(app.conn) == before
    app.adopt()
    said = app.said() if shape.progress else None
    succeed(app.dsn, "unadopt", *SCHEMA)
    assert objects(app.conn) == before
    assert not shape.progress or app.said() == said
    app.move(1, "completed")


@shapes
def test_adopting_again_changes_nothing(make: Make, shape: Shape) -> None:
    app = make(shape)
    before, made = app.stored(), app.run("select * from agent_progress.workflow_counter order by 1").fetchall()
    for arguments in ((), shape.options):
        succeed(app.dsn, "adopt", *arguments)
        assert app.stored() == before
    assert app.run("select * from agent_progress.workflow_counter order by 1").fetchall() == made
    assert renew_adoptions(app.dsn) == []


@shapes
def test_the_printed_sql_adopts_and_the_rest_is_counted_later(make: Make, shape: Shape) -> None:
    app = make(shape, adopt=False)
    before = objects(app.conn)
    script = succeed(app.dsn, "adopt", *shape.options, "--print").out
    assert objects(app.conn) == before
    with app.conn.transaction():  # as Prisma, Rails, Django, Alembic and Flyway run it
        app.run(script)
    app.move(1, "completed", 2)
    ran = app.check()
    assert ran.code == 0
    assert "adopt --continue" in ran.err
    assert app.drift() == []
    [(uncounted,)] = app.run(
        "select workflow_id::text from agent_progress.workflow_progress where agents_total is null limit 1"
    ).fetchall() or [(None,)]
    if uncounted:
        for how in ([], ["--tree"], ["--tasks"], ["--timeline"], ["--metrics"]):
            assert "not counted" in succeed(app.dsn, "show", uncounted, *how, *SCHEMA).out
        assert "not counted" in succeed(app.dsn, "list", *SCHEMA).out
    succeed(app.dsn, "adopt", "--continue")
    app.assert_exact()
    app.run(script)  # once more, as in a database that was reset by halves
    app.assert_exact()


def test_what_statuses_mean_is_printed_before_anything_is_installed(make: Make) -> None:
    app = make(AIRFLOW, adopt=False)
    app.run("update task_instance set state = 'up_for_retry' where state is null and n = 1")
    app.run("update task_instance set state = 'quux' where state = 'failed'")
    ran = succeed(app.dsn, "adopt", *AIRFLOW.options, "--dry-run")
    said = {line.split()[0]: line.split()[2] for line in ran.out.splitlines() if len(line.split()) == 3}
    assert said["success"] == "completed"
    assert said["skipped"] == "ignored"
    assert said["up_for_retry"] == "open"
    assert "status quux is taken for open" in ran.err
    assert list_adoptions(app.conn) == []


def test_naming_one_meaning_leaves_the_usual_words_of_the_others(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table job (run text, state text);"
        "insert into job select 'r', s from unnest("
        "'{archived,DONE,Discarded,timed out,upstream_failed,revoked,parked}'::text[]) as s"
    )
    succeed(
        dsn,
        "adopt",
        "--tasks",
        "job",
        "--key",
        "run",
        "--status",
        "state",
        "--completed",
        "Archived",
        "--ignored",
        "PARKED",
    )
    row = conn.execute(
        "select agents_completed, agents_failed, agents_cancelled, agents_created from agent_progress.workflow_progress"
    )
    assert row.fetchone() == (1, 3, 1, 6)  # DONE is open: what means completed was named


def test_shadow_leaves_the_column_alone_until_live(make: Make) -> None:
    app = make(DJANGO, adopt=False)
    app.run("update app_run set progress = 45")
    app.adopt("--shadow")
    app.move(1, "completed", 2)
    assert set(app.said().values()) == {45}
    ran = app.check()
    assert ran.code == 0
    assert "6 workflows say something else" in ran.err
    succeed(app.dsn, "adopt", "--live")
    app.assert_exact()


def test_another_version_is_renewed_by_migrate(make: Make) -> None:
    app = make(AIRFLOW)
    app.run(
        "create or replace function agent_progress.follow_deletions() returns trigger language plpgsql as"
        " 'begin return null; end'"
    )
    assert "function follow_deletions differs" in app.check().out
    assert "adoption in agent_progress" in succeed(app.dsn, "migrate").out
    assert app.check().code == 0
    app.drop(2)
    app.assert_exact()


def test_several_adoptions_share_a_table_of_workflows(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key); create table step (run_id integer references run, status text);"
        "create table step_task (run_id integer references run, step text, status text);"
        "insert into run values (1), (2);"
        "insert into step values (1, 'done'); insert into step_task values (1, 'a', 'pending')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    assert "holds another adoption" in refuse(dsn, "adopt", "--workflows", "run", "--tasks", "step_task")
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step_task", "--schema", "step_tasks")
    succeed(dsn, "adopt", "--tasks", "step_task", "--key", "run_id,step", "--schema", "per_step")
    conn.execute("insert into step_task values (1, 'a/b', 'done'), (2, 'b', 'done')")
    rows = {
        schema: conn.execute(
            f"select workflow_id::text, progress from {schema}.workflow_progress order by 1".encode()
        ).fetchall()
        for schema in ("agent_progress", "step_tasks", "per_step")
    }
    assert rows == {
        "agent_progress": [("1", 100), ("2", 0)],
        "step_tasks": [("1", 50), ("2", 100)],
        "per_step": [("1/a", 0), ("1/a%2Fb", 100), ("2/b", 100)],
    }
    assert "1/a%2Fb" in succeed(dsn, "show", "1/a%2Fb", "--schema", "per_step").out
    succeed(dsn, "unadopt", "--schema", "per_step")
    conn.execute("delete from step_task")
    assert [adoption.schema for adoption in list_adoptions(conn)] == ["agent_progress", "step_tasks"]


def test_names_times_attempts_and_errors_of_tasks_come_from_their_columns(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table job (id uuid primary key default gen_random_uuid(), batch text, args jsonb, status text,"
        " attempts smallint, last_error text, enqueued_at timestamp default '2026-01-01', finished_at timestamptz);"
        "insert into job (batch, args, status, attempts, last_error)"
        " values ('b', '{\"class\": \"Mail\"}', 'failed', 3, 'no route')"
    )
    succeed(dsn, "adopt", "--tasks", "job", "--key", "batch", "--task-column", "agent_type=args->>'class'", "--yes")
    [task] = list_tasks(conn, "b", schema="agent_progress")
    assert (task.agent_type, task.retry_count, task.result, task.status) == ("Mail", 3, "no route", "failed")
    assert task.created_at.isoformat() == "2026-01-01T00:00:00+00:00"


def test_json_says_what_was_done(make: Make) -> None:
    app = make(GROUPS, adopt=False)
    assert json.loads(app.adopt("--json").out) == {"schema": "agent_progress", "workflows": 5, "frozen": 0}
    assert json.loads(succeed(app.dsn, "adopt", *GROUPS.options, "--dry-run", "--json").out)["doubts"] == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "which tables?"),
        (("--tasks", "nowhere", "--key", "x"), "no such table"),
        (("--tasks", "app_step"), "say which workflow a task belongs to"),
        (("--tasks", "app_step", "--key", "nothing"), "no such column"),
        (("--tasks", "app_step", "--workflows", "other"), "no foreign key"),
        (
            ("--tasks", "app_step", "--workflows", "app_run", "--key", "run_id", "--workflow-key", "name"),
            "no unique index",
        ),
        (("--tasks", "app_step", "--workflows", "other", "--key", "run_id"), "cannot be compared"),
        (("--tasks", "app_step", "--workflows", "app_run", "--completed", "x", "--failed", "X"), "one meaning only"),
        (
            ("--tasks", "app_step", "--workflows", "app_run", "--completed", "x", "--completed-when", "true"),
            "only one of them",
        ),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "progress=name"), "it needs a number"),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "progress=small"), "does not allow 0 to 100"),
        (
            ("--tasks", "app_step", "--workflows", "app_run", "--publish", "share=progress"),
            "progress, completed or total",
        ),
        (("--tasks", "app_step", "--workflows", "app_run", "--column", "colour=name"), "no column colour"),
        (("--tasks", "app_step", "--workflows", "app_run", "--schema", "public"), "has other things in it"),
        (("--tasks", "app_step", "--workflows", "app_run", "--schema", "My Schema"), "small letters"),
        (("--tasks", "a_view", "--key", "run_id"), "only tables can be adopted"),
        (("--tasks", "parent", "--key", "id"), "inherits from a table, or has heirs"),
        (("--tasks", "heir", "--key", "id"), "inherits from a table, or has heirs"),
        (("--tasks", "app_step", "--workflows", "app_run", "--workflow-key", "name"), "no unique index"),
        (("--tasks", "app_step", "--key-sql", "to_json(n)"), "json cannot be a key"),
        (("--tasks", "app_step", "--key-sql", "point(n, n)"), "point cannot be a key"),
        (("--tasks", "app_step", "--key-sql", "row(n)"), "record cannot be a key"),
        (("--tasks", "app_step", "--key", "run_id", "--completed-when", ""), "--completed-when : "),
        (
            ("--tasks", "app_step", "--key", "run_id", "--completed-when", "status::bigint = 2"),
            "cannot be read as asked",
        ),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "completed=id"), "part of a unique key"),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "total=small"), "cannot hold 0 to 2147483647"),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "total=few"), "does not allow 0 to 2147483647"),
        (("--tasks", "app_step", "--workflows", "app_run", "--publish", "progress=share"), "cannot hold 0 to 100"),
        (
            ("--tasks", "app_step", "--workflows", "app_run", "--publish", "completed=progress,total=progress"),
            "a column can say one thing only",
        ),
        (("--preset", "nothing"), "nothing"),
        (("--continue",), "nothing was adopted"),
    ],
)
def test_what_cannot_work_is_refused(make: Make, arguments: tuple[str, ...], word: str) -> None:
    app = make(DJANGO, adopt=False)
    app.run("create table other (id text primary key, n integer); create view a_view as select * from app_step")
    app.run("create table parent (id text); create table heir () inherits (parent)")
    app.run(
        "alter table app_run add column small smallint check (small < 50), add column few integer check (few < 1000),"
        " add column share numeric(3, 2)"
    )
    before = objects(app.conn)
    assert word in refuse(app.dsn, "adopt", *arguments)
    assert objects(app.conn) == before


def test_a_partition_in_another_place_is_refused_before_anything_is_installed(
    conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute(
        "create foreign data wrapper away; create server there foreign data wrapper away;"
        "create table step (run integer, status text, at date) partition by range (at);"
        "create foreign table step_1 partition of step for values from ('2026-01-01') to ('2027-01-01') server there"
    )
    assert "has foreign tables as partitions" in refuse(dsn, "adopt", "--tasks", "step", "--key", "run")
    assert list_adoptions(conn) == []


def test_a_column_is_written_by_one_adoption_only(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, progress integer); insert into run values (1, 0);"
        "create table step (run_id integer references run, status text); insert into step values (1, 'done');"
        "create table job (run_id integer references run, status text); insert into job values (1, 'pending')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step")
    other = ("adopt", "--workflows", "run", "--tasks", "job", "--schema", "jobs")
    told = '"progress" is written by the adoption in schema agent_progress'
    assert told in refuse(dsn, *other, "--publish", "progress=progress")
    assert told in succeed(dsn, *other).out
    conn.execute("insert into job values (1, 'done')")
    assert conn.execute("select progress from run").fetchone() == (100,)


def test_a_key_of_an_enum_is_counted(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        'create schema "a b"; create type "a b"."Lane" as enum (\'fast\', \'slow\');'
        'create table lane (id "a b"."Lane" primary key);'
        'create table job (lane "a b"."Lane" references lane, status text);'
        "insert into lane values ('fast'), ('slow'); insert into job values ('fast', 'done')"
    )
    conn.execute(f'alter database {conn.info.dbname} set search_path = public, "a b"')
    succeed(dsn, "adopt", "--workflows", "lane", "--tasks", "job")
    conn.execute("insert into job values ('fast', 'pending'), ('slow', 'done')")
    shown = conn.execute("select workflow_id::text, progress from agent_progress.workflow_progress order by 1")
    assert shown.fetchall() == [("fast", 50), ("slow", 100)]


def test_only_the_owner_adopts(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(DJANGO, adopt=False)
    role = new_role()
    app.run(f"grant all on all tables in schema public to {role.name}")
    assert "belongs to another role" in refuse(role.dsn, "adopt", *DJANGO.options)
    app.run(f"alter table app_run owner to {role.name}; alter table app_step owner to {role.name}")
    assert f'grant create on database "{app.conn.info.dbname}" to "{role.name}"' in refuse(
        role.dsn, "adopt", *DJANGO.options
    )


def test_an_owner_who_may_make_no_temporary_tables_adopts(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(DJANGO, adopt=False)
    role, database = new_role(), app.conn.info.dbname
    app.run(f"revoke temporary on database {database} from public; grant create on database {database} to {role.name}")
    app.run(f"grant usage, create on schema public to {role.name}")
    app.run(f"alter table app_run owner to {role.name}; alter table app_step owner to {role.name}")
    succeed(role.dsn, "adopt", *DJANGO.options, "--yes")
    app.assert_exact()


def test_readers_need_rights_to_read_and_writers_none(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(PRISMA)
    writer, reader = new_role(), new_role()
    app.run(f'grant insert, update, select on "AgentTask" to {writer.name}')
    app.run(
        f'grant select on "AgentTask", "Workflow" to {reader.name};'
        f" grant usage on schema agent_progress to {reader.name};"
        f" grant select on all tables in schema agent_progress to {reader.name}"
    )
    App(writer.connect(), PRISMA).move(1, "completed", 2)
    app.assert_exact()
    assert len(list_workflows(reader.connect(), schema="agent_progress")) == 6
    assert cli(reader.dsn, "check", *SCHEMA).code == 0
    assert cli(reader.dsn, "repair", *SCHEMA).code == 0


def test_installing_waits_for_nobody_longer_than_its_lock_timeout(make: Make, dsn: str) -> None:
    """A transaction that holds the tables is waited for, and those behind it go on meanwhile."""
    import threading

    app = make(UNIQUE_NULLABLE, adopt=False)
    steps: list[str] = []
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as other:
        App(holder, UNIQUE_NULLABLE).move(1, "completed")
        adopting = threading.Thread(target=lambda: steps.append(app.adopt().err))
        adopting.start()
        for _ in range(20):
            App(other, UNIQUE_NULLABLE).tasks(2, "completed")
            time.sleep(0.1)
        assert adopting.is_alive()
        holder.commit()
        adopting.join(60)
    assert "waiting for other transactions" in steps[0]
    app.assert_exact()


def test_what_others_made_of_an_adoption_keeps_it(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute("create table job (id serial primary key, batch text, meta text, status text)")
    succeed(dsn, "adopt", "--tasks", "job", "--key", "batch", "--where", "as_json(meta) is null")
    conn.execute(
        "create index on job (agent_progress.as_json(meta));"
        "create view mine as select * from agent_progress.workflow_progress;"
        "create function ours() returns setof agent_progress.workflow_progress language sql as"
        " 'select * from agent_progress.workflow_progress';"
        "create table note (status agent_progress.workflow_status)"
    )
    said = refuse(dsn, "unadopt")
    assert all(word in said for word in ("view mine", "function ours()", "column status of table note"))
    assert "index" not in said
    conn.execute("drop view mine; drop function ours; drop table note")
    succeed(dsn, "unadopt")


def test_publishing_can_be_taken_back(make: Make) -> None:
    app = make(TIMES)
    succeed(app.dsn, "adopt", *TIMES.options[:-2], "--no-publish")
    app.run("update build set percent = 3")
    app.move(1, "completed")
    assert set(app.said().values()) == {3}
    assert app.drift() == []
    assert app.run("select from pg_trigger where tgname = 'zz_agent_progress_guard'").fetchall() == []
    install(app.conn, get_adoption(app.conn, "agent_progress"))
    app.adopt()
    app.assert_exact()


def test_a_plan_makes_the_total(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table run (id integer primary key, expected integer, status text, progress integer);"
        "create table step (run_id integer references run, status text); insert into run values (1, 4, 'running', 0);"
        "insert into step values (1, 'done')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step", "--column", "agents_planned=expected")
    query = "select r.progress, p.progress, p.agents_total from run as r, agent_progress.workflow_progress as p"
    assert conn.execute(query).fetchone() == (25, 25, 4)
    conn.execute("update run set expected = 2")
    assert conn.execute(query).fetchone() == (50, 50, 2)
    conn.execute("update run set status = 'completed'")
    assert conn.execute(query).fetchone() == (100, 100, 1)


def test_json_keys_name_their_workflow(make: Make) -> None:
    app = make(JSON_JOBS)
    assert {w.name for w in list_workflows(app.conn, schema="agent_progress")} == {f"flow wf-{n}" for n in range(1, 6)}
    app.tasks(9, "pending")
    assert get_workflow(app.conn, "wf-9", schema="agent_progress").name == "flow wf-9"


def test_default_privileges_open_nothing(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(DJANGO, adopt=False)
    anybody = new_role()
    for what in ("tables", "functions", "schemas"):
        app.run(f"alter default privileges grant all on {what} to {anybody.name}")
    app.adopt()
    conn = anybody.connect()
    for statement in (
        "select agent_progress.repair_progress()",
        "update agent_progress.workflow_counter set agents_created = 0",
        "update agent_progress.counting set live = false",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement)
    app.run(f"grant select on agent_progress.workflow_counter, agent_progress.counting to {anybody.name}")
    app.adopt()
    assert len(conn.execute("select from agent_progress.workflow_counter").fetchall()) == 5


@pytest.mark.parametrize(
    ("shape", "index"),
    [(AIRFLOW, "task_instance_dag_id_run_id_idx"), (JSON_JOBS, "jobs_expr_idx"), (PRISMA, "AgentTask_workflowId_idx")],
    ids=lambda value: getattr(value, "title", ""),
)
def test_tasks_of_a_workflow_are_read_by_the_index_of_the_application(make: Make, shape: Shape, index: str) -> None:
    app = make(shape)
    app.run("set enable_seqscan = off")
    key = next(iter(app.stored()))
    for view in ("agent_task", "workflow_progress_drift"):
        plan = app.run(
            f"explain select * from agent_progress.{view} where workflow_id = '{key.replace('%', '%%')}'", x=1
        )
        found = [line for (line,) in plan if index in line]
        assert found or (view == "workflow_progress_drift" and shape is AIRFLOW), view
