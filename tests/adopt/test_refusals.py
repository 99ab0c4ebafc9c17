"""What cannot be adopted is refused, before anything is changed, in one line that says why."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from .application import cli, succeed

TABLES = """
create type task_state as enum ('todo', 'done', 'broken');
create table run (
    id uuid primary key,
    status text not null default 'running',
    progress integer not null default 0
);
create table step (
    id bigint generated always as identity primary key,
    run_id uuid references run (id),
    status text not null default 'pending',
    done_at timestamptz
);
create table "Upper" (id uuid primary key);
create view seen as select * from run;
create table heir (id bigint, run_id uuid references run (id), status text);
create table heir_1 () inherits (heir);
create table family (id uuid primary key);
create table child () inherits (family);
create table parts (id uuid not null, run_id uuid references run (id), status text) partition by hash (id);
create table part_0 partition of parts for values with (modulus 1, remainder 0);
create table pair (a integer, b integer, status text, primary key (a, b));
create table pair_step (a integer, b integer, status text, foreign key (a, b) references pair (a, b));
create table keyless (id uuid, status text);
create table text_step (run_id text, status text);
create table mute_step (run_id uuid references run (id), what text);
create table enum_step (run_id uuid references run (id), status task_state);
create table code_step (run_id uuid references run (id), status smallint);
create table bool_step (run_id uuid references run (id), status boolean);
create table twice_step (run_id uuid references run (id), other_id uuid references run (id), status text);
create table words (id uuid primary key, progress text);
create table share (id uuid primary key, progress numeric(3, 2));
create table made (id uuid primary key, a integer, progress integer generated always as (a + 1) stored);
create table checked (id uuid primary key, progress integer check (progress <= 1));
create table odd (id uuid primary key, agents_total text);
create table loose_step (run uuid, status text, found boolean, change integer);
create schema busy;
create table busy.thing (id integer);
create schema idle;
"""


@pytest.fixture(scope="module")
def refusing(empty: Callable[[], str]) -> Iterator[psycopg.Connection[Any]]:
    """Tables for all tests that change nothing."""
    with psycopg.connect(empty(), autocommit=True) as conn:
        conn.execute(TABLES.encode())
        yield conn


@pytest.fixture
def tables(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    conn.execute(TABLES.encode())
    return conn


def catalog(conn: psycopg.Connection[Any]) -> list[Any]:
    """List what there is."""
    return conn.execute(
        "select 'relation', relname::text, relnamespace::regnamespace::text from pg_class where oid >= 16384 union all"
        " select 'function', proname, pronamespace::regnamespace::text from pg_proc where oid >= 16384 union all"
        " select 'trigger', tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal union all"
        " select 'schema', nspname, '' from pg_namespace where oid >= 16384 and nspname !~ '^pg_' order by 1, 2, 3"
    ).fetchall()


LOOSE = ("--task-workflow", "run")
REFUSED = [
    ("nothing", "step", (), "--workflows nothing: there is no such table"),
    ("Upper", "step", (), "'\"Upper\"'"),
    ("run", "elsewhere.step", (), "--tasks elsewhere.step: there is no such table"),
    ("a.b.c.d", "step", (), "--workflows a.b.c.d: that is no name of a table"),
    ("seen", "step", (), "--workflows seen is a view"),
    ("run", "seen", (), "--tasks seen is a view"),
    ("run", "part_0", (), "is a partition: adopt the partitioned table"),
    ("run", "heir", (), "has heirs"),
    ("family", "enum_step", (), "has heirs"),
    ("run", "run", (), "same table"),
    ("pair", "pair_step", (), "composite keys cannot be adopted"),
    ("pair", "loose_step", LOOSE, "composite keys cannot be adopted"),
    ("keyless", "loose_step", LOOSE, "has no primary key"),
    ("run", "text_step", ("--task-workflow", "run_id"), "they cannot be compared"),
    ("run", "loose_step", (), "no foreign key"),
    ("run", "loose_step", ("--task-workflow", "nix"), "--task-workflow nix"),
    ("run", "twice_step", (), "by several columns (other_id, run_id): say --task-workflow"),
    ("run", "mute_step", (), "has no column status"),
    ("run", "mute_step", ("--status", "nix"), "--status nix"),
    ("run", "enum_step", ("--completed", "finished"), "it can be todo, done, broken"),
    ("run", "code_step", (), "which values of"),
    ("run", "code_step", ("--completed", "done"), "is no number"),
    ("run", "bool_step", (), "it can be true, false"),
    ("run", "enum_step", ("--completed", "done", "--failed", "done"), "one meaning only"),
    ("run", "enum_step", ("--completed", "done", "--completed-when", "true"), "only one of them"),
    ("run", "enum_step", ("--progress-column", "nix"), "--progress-column nix"),
    ("words", "loose_step", LOOSE, "needs a number"),
    ("share", "loose_step", LOOSE, "cannot hold 0 to 100"),
    ("made", "loose_step", LOOSE, "generated column"),
    ("checked", "loose_step", LOOSE, "does not allow 0 to 100"),
    ("odd", "loose_step", (*LOOSE, "--columns"), "--columns needs integer"),
    ("run", "enum_step", ("--columns", "--no-progress-column"), "does not go with it"),
    ("run", "enum_step", ("--completed-when", "status = "), "syntax error"),
    ("run", "enum_step", ("--completed-when", "status = 'done' --"), "syntax error"),
    ("run", "enum_step", ("--completed-when", "count(*) > 1"), "aggregate"),
    ("run", "enum_step", ("--completed-when", "true; drop table run"), "syntax error"),
    ("run", "enum_step", ("--completed-when", "true) is true; select (1"), "cannot insert multiple commands"),
    ("run", "enum_step", ("--completed-when", "nix is null"), "nix"),
    ("run", "enum_step", ("--completed-when", "status"), "boolean"),
    ("run", "enum_step", ("--completed-when", "exists (select from other where id = 1)"), "other"),
    ("run", "enum_step", ("--completed-when", "exists (select from public.run where progress = 1)"), "subquery"),
    ("run", "step", ("--completed-when", "done_at < now()"), "by time alone"),
    ("run", "loose_step", (*LOOSE, "--completed-when", "found"), "write task.found"),
    ("run", "loose_step", (*LOOSE, "--completed-when", '"change" = 1'), "write task.change"),
    ("run", "enum_step", ("--schema", "Mine"), "small letters, digits and _ only"),
    ("run", "enum_step", ("--schema", "pg_mine"), "small letters, digits and _ only"),
    ("run", "enum_step", ("--name", "a-b"), "small letters, digits and _ only"),
    ("run", "enum_step", ("--schema", "public"), "give another one"),
    ("run", "enum_step", ("--schema", "busy"), "schema busy has other things in it (thing)"),
    ("run", "enum_step", ("--column", "nix=status"), "there is no column nix"),
    ("run", "enum_step", ("--column", "name=nix"), "no such column"),
    ("run", "enum_step", ("--column", "name"), "is not OURS=THEIRS"),
]


@pytest.mark.parametrize(("workflows", "tasks", "options", "reason"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line(
    refusing: psycopg.Connection[Any], workflows: str, tasks: str, options: tuple[str, ...], reason: str
) -> None:
    before = catalog(refusing)
    ran = cli(refusing.info.dsn, "adopt", "--workflows", workflows, "--tasks", tasks, *options)
    assert (ran.code, ran.out) == (2, "")
    last = ran.err.strip().splitlines()
    assert reason in last[-1]
    assert len(last) == 1 or "usage:" in ran.err
    assert catalog(refusing) == before


def test_a_temporary_table_is_refused(tables: psycopg.Connection[Any]) -> None:
    # Those of another session: nobody else sees them by a name without their schema.
    tables.execute("create temporary table run (id uuid primary key)")
    [schema] = tables.execute("select pg_my_temp_schema()::regnamespace::text").fetchone() or [""]
    ran = cli(tables.info.dsn, "adopt", "--workflows", f"{schema}.run", "--tasks", "enum_step")
    assert (ran.code, "is a temporary table" in ran.err) == (2, True)


def test_tables_of_another_role_are_refused(tables: psycopg.Connection[Any]) -> None:
    role = f"guest_{tables.info.dbname}"
    tables.execute(f"create role {role} login")
    try:
        tables.execute(f"grant create on database {tables.info.dbname} to {role}")
        dsn = psycopg.conninfo.make_conninfo(tables.info.dsn, user=role)
        ran = cli(dsn, "adopt", "--workflows", "run", "--tasks", "enum_step")
        assert (ran.code, "only its owner can adopt it" in ran.err) == (2, True)
    finally:
        tables.execute(f"drop owned by {role}")
        tables.execute(f"drop role {role}")


def test_tables_that_are_counted_already_are_refused(tables: psycopg.Connection[Any]) -> None:
    succeed(tables.info.dsn, "adopt", "--workflows", "run", "--tasks", "enum_step")
    for workflows, others in (("run", "code_step"), ("family", "enum_step"), ("run", "enum_step")):
        for more in ((), ("--shadow",), ("--no-progress-column",)):
            options = ("--completed", "3", *more) if others == "code_step" else more
            tables.execute("drop table if exists child")
            key = ("--task-workflow", "run_id")
            ran = cli(
                tables.info.dsn,
                *("adopt", "--name", "other", "--workflows", workflows, "--tasks", others, *key, *options),
            )
            assert (ran.code, "is adopted already, by schema agent_progress" in ran.err) == (2, True), ran
    ran = cli(tables.info.dsn, "adopt", "--workflows", "family", "--tasks", "mute_step", "--completed-when", "true")
    assert ran.code == 2
    ran = cli(
        tables.info.dsn,
        *("adopt", "--workflows", "family", "--tasks", "loose_step", *LOOSE),
    )
    assert (ran.code, "was adopted in another way" in ran.err) == (2, True)


def test_an_empty_schema_can_be_given(tables: psycopg.Connection[Any]) -> None:
    succeed(tables.info.dsn, "adopt", "--workflows", "run", "--tasks", "enum_step", "--schema", "idle")
    assert tables.execute("select count(*) from idle.workflow_progress").fetchone() == (0,)


def test_nothing_is_adopted_without_both_tables(tables: psycopg.Connection[Any]) -> None:
    for options, reason in (
        ((), "which tables?"),
        (("--workflows", "run"), "needs both tables"),
        (("--continue",), "nothing was adopted as default"),
        (("--live",), "which tables?"),
    ):
        ran = cli(tables.info.dsn, "adopt", *options)
        assert (ran.code, reason in ran.err) == (2, True), ran
    for command in ("unadopt", "list", "check", "repair"):
        ran = cli(tables.info.dsn, command, "--name", "nix")
        assert (ran.code, "nothing was adopted as nix" in ran.err) == (2, True)
