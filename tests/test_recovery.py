"""What the long-running parts outlive: ended sessions, lost answers, crashes, deadlocks, serialization failures."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest
from psycopg import Connection, errors

from pyapp import migrate, watch
from pyapp.both import complete
from pyapp.cli import main
from pyapp.db import Session

from .commands import outcome, start
from .helpers import at_work, deadlocks, in_background, new_tasks, new_workflow, set_status
from .service import following, serving, wait_for

# A session looks for a deadlock once, so long after it began to wait: who looks first while the circle is closed is the
# victim. The other one closes it within this time; where it is too slow, it becomes the victim, and tries again.
VICTIM = "options='-c deadlock_timeout=400ms'"
OTHER = "options='-c deadlock_timeout=1s'"
OWN_TABLES = ("workflow", "agent_task", "workflow_stage", "workflow_event", "stage_definition")


def is_victim(application: str, reading: Future[Any], other: Connection, conn: Connection) -> bool:
    """Close a circle of waits with a statement of an application that waits for ``other``; tell who was the victim."""
    waiting = (
        "select pid from pg_stat_activity where datname = current_database() and application_name = %s"
        " and wait_event_type = 'Lock'"
    )
    holding = (
        "select relation::regclass::text from pg_locks where pid = %s and granted and relation = any (%s::regclass[])"
    )
    found = wait_for(lambda: reading.done() or conn.execute(waiting, [application]).fetchone())
    held = found is not True and conn.execute(holding, [*found, list(OWN_TABLES)]).fetchone()
    try:
        if held:
            other.execute(f"lock table {held[0]}")  # granted once the victim is gone
    except errors.DeadlockDetected:
        return False
    finally:
        other.rollback()
    return bool(held)


# --- watch ------------------------------------------------------------------------------------------------------


def test_watch_goes_on_after_a_crash_and_says_so_once(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        workflow, (task,) = at_work(conn, 1, name="checkout", status="running")
    process = start("watch", workflow, "--interval", "0.05", "--dsn", server.dsn)
    assert "0 of 1 agents" in process.stdout.readline()
    os.kill(server.pid, signal.SIGKILL)
    assert process.stderr.readline().startswith("the database is away, trying again: ")
    server = own_server()
    assert process.stderr.readline() == "the database is back\n"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        set_status(conn, task, "completed")
        conn.execute("update workflow set status = 'completed'")
    status, out, err = outcome(process)
    assert (status, err) == (0, "")
    assert "1 of 1 agents  completed" in out


@pytest.mark.parametrize(
    ("error", "useless"),
    [(errors.AdminShutdown(), True), (errors.CrashShutdown(), True), (errors.DeadlockDetected(), False)],
    ids=["AdminShutdown", "CrashShutdown", "DeadlockDetected"],
)
def test_a_connection_that_the_server_is_about_to_end_is_given_up(
    dsn: str, error: psycopg.Error, useless: bool
) -> None:
    session = Session(Connection, dsn, None)
    complete(session.connect())
    complete(session.close_if_useless(error))
    assert session.lost is useless
    complete(session.close())


def test_a_loss_does_not_make_watch_wait_for_its_whole_interval(dsn: str, conn: Connection) -> None:
    assert main(["notify", "on", "--dsn", dsn]) == 0
    workflow, (task,) = at_work(conn, 1, status="running")
    changes = watch(dsn, [workflow], interval=3600)
    next(changes)
    following_it = in_background(lambda: next(changes))
    watching = "from pg_stat_activity where datname = current_database() and application_name = 'agent-progress'"
    wait_for(lambda: conn.execute(f"select {watching} and wait_event = 'ClientRead'").fetchall())
    assert conn.execute(f"select pg_terminate_backend(pid, 60000) {watching}").fetchall() == [(True,)]
    set_status(conn, task, "completed")
    assert following_it.result(60).progress == 100
    changes.close()


# --- serve ------------------------------------------------------------------------------------------------------


def test_serve_answers_the_victim_of_a_deadlock_at_its_second_try(dsn: str, conn: Connection) -> None:
    workflow, before = new_workflow(conn, status="running"), deadlocks(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with (
        psycopg.connect(f"{dsn} {OTHER}") as other,
        serving(f"{dsn} {VICTIM} application_name=victim", "--interval", "0.1") as service,
        service.client() as client,
    ):
        where = f"/api/v1/workflows/{workflow}/timeline"
        assert client.get(where).status_code == 200

        def answers() -> bool:
            other.execute("lock table agent_task")
            reading = in_background(client.get, where)
            return is_victim("victim", reading, other, conn) and reading.result(60).status_code == 200

        assert any(answers() for _ in range(10))  # what is slow is no victim, or has no answer

        with following(service, f"/api/v1/workflows/{workflow}/stream") as stream:
            stream.next()
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'")
            set_status(conn, task, "completed")
            stream.until(lambda _: stream.latest[str(workflow)]["progress"] == 100)
    # Counted by the end of the session, and else up to ten seconds later.
    wait_for(lambda: deadlocks(conn) > before)
