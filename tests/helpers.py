"""One-line helpers to arrange tests with."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

PATIENCE = 120.0  # seconds: what is waited for comes, also on a machine with much to do


def wrong_numbers(of: str = "") -> str:
    """Write the query for workflows and trees whose numbers are not those of their tasks; ``of`` begins all names.

    Frozen workflows are left out. What ``workflow_tree_progress`` sums up is compared with a recursion of its own,
    which ends where there is a cycle.
    """
    numbers = ("completed", "total", "created", "failed", "cancelled")
    columns = ", ".join(f"agents_{number}" for number in numbers)
    summed = ", ".join(f"sum(c.agents_{number})" for number in numbers)
    thawed = f"where workflow_id in (select id from {of}workflow where progress_frozen_at is null)"
    return f"""
        select 'workflow' as what, w.*
        from (
            with stored as (
                select workflow_id, progress, {columns} from {of}workflow_progress {thawed}
            ), counted as (
                select workflow_id, progress, {columns} from {of}workflow_progress_calculated {thawed}
            )
            (table stored except all table counted) union all (table counted except all table stored)
        ) as w
        union all
        select 'tree' as what, t.*
        from (
            with recursive below as (
                select id as top, id from {of}workflow
                union
                select b.top, w.id from below as b join {of}workflow as w on w.parent_id = b.id
            ), frozen as (
                select id from {of}workflow where progress_frozen_at is not null
            ), counted as (
                select workflow_id, {columns} from {of}workflow_progress_calculated
                where workflow_id not in (select id from frozen)
                union all
                select workflow_id, {columns} from {of}workflow_progress where workflow_id in (select id from frozen)
            ), trees as (
                select b.top, {of}progress_percentage(sum(c.agents_completed)::bigint, sum(c.agents_total)::bigint),
                    {summed}
                from below as b join counted as c on c.workflow_id = b.id
                group by b.top
            ), stored as (
                select workflow_id, progress, {columns} from {of}workflow_tree_progress
            )
            (table stored except all table trees) union all (table trees except all table stored)
        ) as t
    """


def examples(number: int) -> int:
    """Say how many examples Hypothesis tries: EXAMPLES times that number; by default 0.4, in CI 1."""
    return max(1, round(number * float(os.environ.get("EXAMPLES") or 0.4)))


def new_workflow(conn: psycopg.Connection, **columns: Any) -> Any:
    """Insert a workflow and return its id."""
    columns = {"name": "w", "type": "app", **columns}
    names = ", ".join(columns)
    places = ", ".join(f"%({name})s" for name in columns)
    return conn.execute(f"insert into workflow ({names}) values ({places}) returning id", columns).fetchone()[0]


def new_tasks(conn: psycopg.Connection, workflow: Any, *statuses: str) -> list[Any]:
    """Insert a task of each status in one statement and return their ids."""
    rows = conn.execute(
        "insert into agent_task (workflow_id, agent_type, status)"
        " select %s, 'agent', s from unnest(%s::task_status[]) as s returning id",
        [workflow, list(statuses)],
    ).fetchall()
    return [row[0] for row in rows]


def at_work(conn: psycopg.Connection, tasks: int, **columns: Any) -> tuple[Any, list[Any]]:
    """Insert a workflow with so many running tasks, and return their ids."""
    workflow = new_workflow(conn, **columns)
    return workflow, new_tasks(conn, workflow, *["running"] * tasks)


def progress(conn: psycopg.Connection, workflow: Any) -> tuple[int, int, int]:
    """Read progress, agents_completed and agents_total as stored."""
    return conn.execute(
        "select progress, agents_completed, agents_total from workflow where id = %s", [workflow]
    ).fetchone()


def allow_all_transitions(conn: psycopg.Connection) -> None:
    """Let workflows go from any status to any other."""
    conn.execute(
        "insert into workflow_transition select f, t from unnest(enum_range(null::workflow_status)) as f,"
        " unnest(enum_range(null::workflow_status)) as t where f <> t on conflict do nothing"
    )


def as_replica(conn: psycopg.Connection, query: str, values: Any = None) -> None:
    """Write past all triggers, as logical replication does."""
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        conn.execute(query, values)


def set_status(conn: psycopg.Connection, task: Any, status: str) -> None:
    conn.execute("update agent_task set status = %s where id = %s", [status, task])


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait until something is so, and return it."""
    give_up = time.monotonic() + seconds
    while not (outcome := condition()):
        assert time.monotonic() < give_up, "did not come about"
        time.sleep(0.005)
    return outcome


def kill(server: Any) -> None:
    """Kill a server, and wait until it is gone."""
    os.kill(server.pid, signal.SIGKILL)

    def refuses() -> bool:
        try:
            psycopg.connect(server.dsn).close()
        except psycopg.OperationalError:
            return True
        return False

    wait_for(refuses)


def sessions(conn: psycopg.Connection, application: str = "agent-progress") -> list[int]:
    """List the processes that serve an application in this database, in the order in which they began."""
    rows = conn.execute(
        "select pid from pg_stat_activity where datname = current_database() and application_name = %s"
        " order by backend_start",
        [application],
    ).fetchall()
    return [pid for (pid,) in rows]


def wait_until_gone(conn: psycopg.Connection, application: str = "agent-progress") -> None:
    """Wait for the server to notice that the connections of an application are closed."""
    wait_for(lambda: not sessions(conn, application))


def wait_until_blocked(conn: psycopg.Connection, pid: int) -> None:
    """Wait until the backend with this pid waits for a lock; ``conn`` must be in autocommit mode."""
    query = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    wait_for(lambda: conn.execute(query, [pid]).fetchall())


def wait_until_blocked_by(conn: psycopg.Connection, pid: int, holder: int) -> None:
    """Wait until the backend with this pid waits for the holder; ``conn`` must be in autocommit mode."""
    wait_for(lambda: conn.execute("select where %s = any (pg_blocking_pids(%s))", [holder, pid]).fetchall())


def read_row(conn: psycopg.Connection, table: str, key: Any) -> dict[str, Any]:
    """Read a row by its id, with all its columns."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f"select * from {table} where id = %s", [key]).fetchone()


def counters(conn: psycopg.Connection, workflow: Any) -> tuple[int, int, int, int]:
    """Read agents_created, agents_completed, agents_failed and agents_cancelled as stored."""
    return conn.execute(
        "select agents_created, agents_completed, agents_failed, agents_cancelled from workflow where id = %s",
        [workflow],
    ).fetchone()


def deadlocks(conn: psycopg.Connection) -> int:
    """Tell how many deadlocks the database has seen."""
    return conn.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()[0]


def row_version(conn: psycopg.Connection, workflow: Any) -> tuple[Any, ...]:
    """Tell the stored version of a workflow's row: any update makes another."""
    return conn.execute("select ctid, xmin from workflow where id = %s", [workflow]).fetchone()


def in_background(act: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call in a thread of its own, for a statement that is expected to wait."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(act(*args))
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


@contextmanager
def unanswered_commits(conn: psycopg.Connection) -> Iterator[None]:
    """Let commits wait for a standby which is not there: they are done, and the answer is lost with the session."""
    waits = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' and pid = %s"
    conn.execute("set synchronous_commit = local")
    conn.execute("alter system set synchronous_standby_names = 'nobody'")
    conn.execute("select pg_reload_conf()")
    with psycopg.connect(conn.info.dsn, autocommit=True) as other:

        def waited() -> bool:
            commit = in_background(other.execute, "select pg_logical_emit_message(true, '', '')")
            cancelled = wait_for(lambda: commit.done() or conn.execute(waits, [other.info.backend_pid]).fetchall())
            commit.result(60)
            return cancelled is not True

        wait_for(waited)  # since nobody else waits until the checkpointer has read the setting
    try:
        yield
    finally:
        conn.execute("alter system reset synchronous_standby_names")
        conn.execute("select pg_reload_conf()")


def obstruct(conn: psycopg.Connection, condition: str, name: str = "obstacle") -> None:
    """Let updates of tasks of which a condition holds wait while that name is in a table."""
    conn.execute(f"""
        create table if not exists obstacle (name text);
        insert into obstacle values ('{name}');
        create or replace function wait_for_obstacle() returns trigger language plpgsql as $$ begin
            while exists (select from public.obstacle as o where o.name = tg_argv[0]) loop
                perform pg_sleep(0.01);
            end loop;
            return new;
        end $$;
        create trigger {name} before update on agent_task for each row when ({condition})
            execute function wait_for_obstacle({name})
    """)


def wait_until_obstructed(conn: psycopg.Connection) -> None:
    """Wait until an update waits for an obstacle."""
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    wait_for(lambda: conn.execute(waiting).fetchall())


def give_away(conn: psycopg.Connection, owner: str) -> None:
    """Make a role the owner of our tables, views and functions."""
    name = sql.Identifier(owner).as_string()
    rows = conn.execute(
        """
        select 'alter table ' || oid::regclass from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'v') and relname not like '%yoyo%'
        union all
        select 'alter function ' || oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace
        """
    ).fetchall()
    conn.execute(f"grant usage, create on schema public to {name}")
    for (alter,) in rows:
        conn.execute(f"{alter} owner to {name}")


def run_script(bin_dir: Path, dsn: str, file: str, **variables: object) -> None:
    """Run a script of sql/optional as its page says; raises RuntimeError with what psql said."""
    options = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": 1, **variables}.items()]
    path = Path(__file__).parents[1] / file
    done = subprocess.run(
        [bin_dir / "psql", "-X", "-q", "-1", *options, f"--file={path}", f"--dbname={dsn}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PGCLIENTENCODING": "UTF8"},
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
