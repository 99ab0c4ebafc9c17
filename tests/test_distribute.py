"""distribute: what it prints is run here; the part that Citus itself does, where the server has Citus."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pglast
import psycopg
import pytest
from pglast import ast

import pyapp
from pyapp.adopt import Wanted, install, look
from pyapp.cli import main
from pyapp.scale.distribute import DistributeError, distribution, own_statements, require_ready, way_back
from pyapp.schema import listed_objects, resource
from tests.adopt.counted import APP
from tests.helpers import new_tasks, new_workflow, progress
from tests.test_schema import SQL, dump, statements

Run = Callable[..., tuple[int, str, str]]
PLAIN = distribution(citus=False)
# Numbers that workers of Citus give: each node has 2^48 of them.
OF_A_WORKER = 281474976710656
TABLES = ["workflow", "agent_task", "workflow_stage", "workflow_event", "workflow_transition", "stage_definition"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command within this process: exit status, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        return main(arguments), *capsys.readouterr()

    return call


@pytest.fixture
def filled(conn: psycopg.Connection) -> Any:
    """Rows of every kind; the id of a workflow with five tasks, two of them completed, in its second stage."""
    workflow = pyapp.create_workflow(conn, "shop", "app", agents_planned=8).workflow_id
    pyapp.advance(conn, workflow)
    new_tasks(conn, workflow, "completed", "completed", "failed", "running", "pending")
    frozen = new_workflow(conn, name="frozen")
    new_tasks(conn, frozen, "completed")
    conn.execute("update workflow set progress_frozen_at = now() where id = %s", [frozen])
    conn.execute("delete from agent_task where workflow_id = %s", [frozen])
    return workflow


def psql(bin_dir: Path, dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the page says, one statement at a time."""
    return subprocess.run(
        [bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}"],
        input=script,
        text=True,
        capture_output=True,
        check=False,
        env={"PGCLIENTENCODING": "UTF8"},
    )


def change(bin_dir: Path, dsn: str, script: str) -> None:
    done = psql(bin_dir, dsn, script)
    assert done.returncode == 0, done.stderr


def rows(conn: psycopg.Connection) -> dict[str, list[Any]]:
    """Read all that our tables hold."""
    return {table: conn.execute(f"select * from {table} as r order by r::text").fetchall() for table in TABLES}


# --- What is printed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [distribution(), PLAIN, way_back()], ids=["there", "plain", "back"])
def test_each_statement_is_sent_by_itself_and_all_are_one_transaction(script: str) -> None:
    parsed = [pglast.parse_sql(statement) for statement in pglast.split(script)]
    assert {len(one) for one in parsed} == {1}
    kinds = [one[0].stmt for one in parsed]
    transaction = [place for place, kind in enumerate(kinds) if isinstance(kind, ast.TransactionStmt)]
    assert transaction == [0, len(kinds) - 1]
    # What a DO block does, Citus sees as one statement: they only look.
    for kind in kinds:
        if isinstance(kind, ast.DoStmt):
            [body] = [arg.arg.sval for arg in kind.args if arg.defname == "as"]
            assert not re.search(r"^\s*(create|alter|drop|insert|update|delete|execute)\b", body, re.MULTILINE)


def test_what_is_split_here_is_what_postgresql_splits() -> None:
    split = [statement for file in SQL for statement in statements(file)]
    assert list(map(pglast.fingerprint, own_statements())) == list(map(pglast.fingerprint, split))


def test_the_checks_know_our_triggers() -> None:
    ours = {name for file in SQL for kind, name, _ in listed_objects(file.read_text("utf-8")) if kind == "trigger"}
    check = (resource("sql") / "distribute" / "01_check.sql").read_text("utf-8")
    listed = check.split("triggers constant text[] := array[")[1].split("];")[0]
    assert {line.strip(" ',") for line in listed.splitlines()} - {""} == ours


def test_print_needs_no_database(run: Run) -> None:
    there, back = run("distribute", "--print"), run("distribute", "--print", "--reverse")
    assert (there[0], there[2], back[0], back[2]) == (0, "", 0, "")
    assert distribution() in there[1]
    assert way_back() in back[1]
    assert all(text.startswith("-- agent-progress: ") for text in (there[1], back[1]))
    assert pglast.split(there[1])[-1].startswith("-- Nobody knows") or "analyze" in pglast.split(there[1])[-1]


def test_a_database_that_is_named_is_looked_at_before_anything_is_printed(
    conn: psycopg.Connection, dsn: str, run: Run
) -> None:
    [available] = conn.execute("select exists (select from pg_extension where extname = 'citus')").fetchone()
    assert not available
    for options in (["--print"], []):
        status, out, err = run("distribute", *options, "--dsn", dsn)
        assert (status, out) == (2, "")
        assert err == "agent-progress: cannot distribute: Citus is not installed in this database\n"
    assert run("distribute")[::2] == (
        2,
        "agent-progress: which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded\n",
    )


def test_the_way_back_of_what_was_never_distributed_is_refused(dsn: str, bin_dir: Path, run: Run) -> None:
    whole = dump(dsn, bin_dir)
    expected = "cannot go back: agent-progress distribute was never run in this database"
    assert run("distribute", "--reverse", "--print", "--dsn", dsn) == (2, "", f"agent-progress: {expected}\n")
    assert expected in psql(bin_dir, dsn, way_back()).stderr
    assert dump(dsn, bin_dir) == whole


# --- There and back, as far as it is plain PostgreSQL ---------------------------------------------------------


def test_there_and_back_leaves_schema_and_rows_as_they_were(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any
) -> None:
    whole, before = dump(dsn, bin_dir), rows(conn)
    change(bin_dir, dsn, PLAIN)
    assert dump(dsn, bin_dir) != whole
    assert rows(conn) == before
    assert conn.execute(
        "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint"
        " where contype = 'p' and conrelid::regclass::text = any (%s) order by 1",
        [TABLES[:4]],
    ).fetchall() == [
        ("agent_task", "PRIMARY KEY (workflow_id, id)"),
        ("workflow", "PRIMARY KEY (id)"),
        ("workflow_event", "PRIMARY KEY (workflow_id, id)"),
        ("workflow_stage", "PRIMARY KEY (workflow_id, id)"),
    ]
    change(bin_dir, dsn, way_back())
    assert dump(dsn, bin_dir) == whole
    assert rows(conn) == before
    pyapp.advance(conn, filled)
    assert conn.execute("select count(distinct id) from workflow_event").fetchone() == (
        len(before["workflow_event"]) + 1,
    )


def test_it_goes_there_and_back_again(conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any) -> None:
    whole = dump(dsn, bin_dir)
    for _ in range(2):
        change(bin_dir, dsn, PLAIN)
        change(bin_dir, dsn, way_back())
    assert dump(dsn, bin_dir) == whole


def test_counting_and_moving_go_on_with_the_changed_keys(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any
) -> None:
    change(bin_dir, dsn, PLAIN)
    tasks = [task.id for task in pyapp.list_tasks(conn, filled)]
    pyapp.report_tasks(conn, filled, [(task, "completed") for task in tasks])
    assert progress(conn, filled) == (63, 5, 8)
    assert pyapp.advance(conn, filled).current_stage == "dependency_installation"
    conn.execute("delete from agent_task where workflow_id = %s and id = %s", [filled, tasks[0]])
    assert progress(conn, filled) == (50, 4, 8)
    conn.execute("delete from workflow where id = %s", [filled])
    assert conn.execute("select count(*) from agent_task where workflow_id = %s", [filled]).fetchone() == (0,)


@pytest.mark.parametrize("statement", ["truncate agent_task", "truncate workflow cascade"])
def test_tasks_that_could_not_be_counted_afresh_cannot_be_truncated(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any, statement: str
) -> None:
    change(bin_dir, dsn, PLAIN)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="a distributed agent_task cannot be truncated"):
        conn.execute(statement)
    change(bin_dir, dsn, way_back())
    conn.execute(statement)


def test_check_finds_the_schema_whole_with_the_changed_keys(dsn: str, bin_dir: Path, filled: Any, run: Run) -> None:
    change(bin_dir, dsn, PLAIN)
    assert run("check", "--dsn", dsn)[:2] == (0, "2 workflows checked, stored equals counted\n")


def test_nothing_is_rolled_back_before_the_tables_are_back(dsn: str, bin_dir: Path, run: Run) -> None:
    change(bin_dir, dsn, PLAIN)
    whole = dump(dsn, bin_dir)
    status, out, err = run("rollback", "--all", "--drop-data", "--dsn", dsn)
    assert (status, out) == (2, "")
    assert "the tables are distributed" in err
    assert dump(dsn, bin_dir) == whole


def test_events_that_workers_numbered_follow_the_others_in_time(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any
) -> None:
    change(bin_dir, dsn, PLAIN)
    [last] = conn.execute("select max(id) from workflow_event").fetchone()
    conn.execute(
        "insert into workflow_event (id, workflow_id, event_type, occurred_at) overriding system value values"
        " (%(base)s * 2 + 1, %(id)s, 'second', now() + interval '2 s'),"
        " (%(base)s + 7, %(id)s, 'third', now() + interval '3 s'),"
        " (%(base)s + 6, %(id)s, 'first', now() + interval '1 s')",
        {"base": OF_A_WORKER, "id": filled},
    )
    change(bin_dir, dsn, way_back())
    query = "select id - %s, event_type from workflow_event where id > %s order by id"
    assert conn.execute(query, [last, last]).fetchall() == [(1, "first"), (2, "second"), (3, "third")]
    conn.execute("insert into workflow_event (workflow_id, event_type) values (%s, 'next')", [filled])
    assert conn.execute("select max(id) - %s from workflow_event", [last]).fetchone() == (4,)


# --- What is in the way ---------------------------------------------------------------------------------------

IN_THE_WAY = {
    "update_workflow": (
        "alter table workflow disable trigger zz_workflow_progress_guard",
        "triggers are missing or disabled: zz_workflow_progress_guard",
    ),
    "notify": (
        (resource("sql") / "optional" / "notify_on.sql").read_text("utf-8"),
        "notifications are on, and would be sent where nobody listens: agent-progress notify off",
    ),
    "trigger": (
        "create trigger mine after insert on workflow_stage execute function suppress_redundant_updates_trigger()",
        "triggers of your own: mine on workflow_stage",
    ),
    "foreign_key_to": (
        "create table theirs (task uuid references agent_task (id))",
        "foreign keys of your own: theirs_task_fkey on theirs",
    ),
    "foreign_key_from": (
        "create table kind (name text primary key); alter table workflow add foreign key (trace_id) references kind",
        "foreign keys of your own: workflow_trace_id_fkey on workflow",
    ),
    "unique": (
        "create unique index once on agent_task (external_id, agent_type)",
        "unique without the id of the workflow: once",
    ),
    "row_security": ("alter table workflow enable row level security", "row-level security on workflow"),
    "drift": (
        "alter table workflow disable trigger user; update workflow set agents_completed = 7, agents_failed = 1;"
        " alter table workflow enable trigger user",
        "stored and counted progress differ: agent-progress repair",
    ),
    "columns": (
        "grant select (id, name) on workflow to pg_monitor",
        "rights on single columns, which Citus has not: pg_monitor; agent-progress grant --agent",
    ),
    "keys": (PLAIN, "agent_task has the key (workflow_id, id) already"),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_in_the_way_is_named_and_nothing_is_changed(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any, what: str
) -> None:
    hindrance, message = IN_THE_WAY[what]
    conn.execute(hindrance.encode())
    whole = dump(dsn, bin_dir)
    done = psql(bin_dir, dsn, PLAIN)
    assert done.returncode == 3
    assert "ERROR:  cannot distribute: " in done.stderr
    assert message in done.stderr
    assert dump(dsn, bin_dir) == whole
    if what != "update_workflow":  # found before, by its absence
        with pytest.raises(DistributeError, match=re.escape(message)):
            require_ready(conn)
    pyapp.repair(conn)


def test_all_that_is_in_the_way_is_said_at_once(conn: psycopg.Connection, dsn: str) -> None:
    for what in ("notify", "unique", "row_security"):
        conn.execute(IN_THE_WAY[what][0].encode())
    with pytest.raises(DistributeError) as caught:
        require_ready(conn)
    assert str(caught.value).count("; ") == 2 + 1  # one stands inside of a message


def test_adopted_tables_are_in_the_way(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(APP.read_text("utf-8"))
    install(conn, look(conn, Wanted("app.workflow", "app.agent_task", "default", "agent_progress")))
    with pytest.raises(DistributeError, match=r"adopted tables in this database \(agent_progress.adoption\)"):
        require_ready(conn)


def test_an_empty_database_is_told_to_migrate(empty: Callable[[], str], bin_dir: Path) -> None:
    assert "the schema is not installed in this database" in psql(bin_dir, empty(), PLAIN).stderr


@pytest.mark.parametrize(
    ("mine", "named"),
    [
        ("alter table workflow add column tenant text", "column tenant of workflow"),
        ("create index mine on agent_task (agent_type)", "index mine of agent_task"),
        ("alter table agent_task add constraint mine check (max_retries < 100)", "constraint mine of agent_task"),
        ("create policy mine on workflow_event", "policy mine of workflow_event"),
    ],
)
def test_the_way_back_loses_nothing_that_is_not_of_the_schema(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any, mine: str, named: str
) -> None:
    change(bin_dir, dsn, PLAIN)
    conn.execute(mine.encode())
    whole, before = dump(dsn, bin_dir), rows(conn)
    done = psql(bin_dir, dsn, way_back())
    assert done.returncode == 3
    assert f"these of yours would be lost: {named}\n" in done.stderr
    assert (dump(dsn, bin_dir), rows(conn)) == (whole, before)


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ("workflow_progress", "cannot drop view workflow_progress because other objects depend on it"),
        ("agent_task", "cannot drop table agent_progress_distributed.agent_task because other objects depend on it"),
    ],
)
def test_a_view_of_the_users_stops_the_way_back(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, filled: Any, relation: str, message: str
) -> None:
    change(bin_dir, dsn, PLAIN)
    conn.execute(f"create view mine as select workflow_id from {relation}")
    whole = dump(dsn, bin_dir)
    assert message in psql(bin_dir, dsn, way_back()).stderr
    assert dump(dsn, bin_dir) == whole
