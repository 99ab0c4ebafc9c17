"""archive_workflows and the command: numbers stay, tasks go, and nobody waits for it."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from .commands import Run
from .commands import run as run
from .helpers import in_background, new_tasks, new_workflow, wait_until_blocked, wait_until_blocked_by

Session = Callable[[], psycopg.Connection]
ENDED = ["completed", "failed", "cancelled"]
NUMBERS = (
    "select progress, agents_completed, agents_total, agents_created, agents_failed, agents_cancelled,"
    " progress_updated_at, status, version, updated_at, completed_at from workflow where id = %s"
)


def ended(conn: psycopg.Connection, status: str = "completed", *tasks: str) -> Any:
    """Make a workflow that ended a hundred days ago, by default with two tasks."""
    workflow = new_workflow(conn, agents_planned=10)
    new_tasks(conn, workflow, *tasks or ("completed", "running"))
    conn.execute(
        "update workflow set status = %s, completed_at = now() - interval '100 days' where id = %s", [status, workflow]
    )
    return workflow


def archive(conn: psycopg.Connection, older_than: str | None = "90 days", **options: Any) -> list[Any]:
    """Call it; a pair of workflow and number of tasks for each one."""
    named = "".join(f", {name} => %({name})s" for name in options)
    query = f"select * from archive_workflows(%(older_than)s{named})"
    return conn.execute(query, {"older_than": older_than, **options}).fetchall()


def state(conn: psycopg.Connection, workflow: Any) -> tuple[bool, int]:
    """Tell whether it is frozen, and how many tasks are left."""
    return conn.execute(
        "select progress_frozen_at is not null, (select count(*) from agent_task where workflow_id = w.id)"
        " from workflow as w where id = %s",
        [workflow],
    ).fetchone()


@pytest.mark.parametrize("status", ENDED)
def test_a_workflow_that_ended_long_ago_is_frozen_with_its_numbers_and_emptied(
    conn: psycopg.Connection, status: str
) -> None:
    workflow, running = ended(conn, status, "completed", "failed", "running"), new_workflow(conn, status="running")
    new_tasks(conn, running, "completed")
    conn.execute("update workflow set updated_at = '2001-01-01' where id = %s", [running])
    before = conn.execute(NUMBERS, [workflow]).fetchone()
    assert archive(conn, "101 days") == []
    assert archive(conn) == [(workflow, 3)]
    assert conn.execute(NUMBERS, [workflow]).fetchone() == before
    assert (state(conn, workflow), state(conn, running)) == ((True, 0), (False, 1))
    event = "select event_type, payload ->> 'tasks', payload ->> 'by' = current_user from workflow_event"
    assert conn.execute(f"{event} order by id desc limit 1").fetchone() == ("archived", "3", True)
    assert archive(conn) == []


def test_repair_and_truncate_leave_archived_numbers_alone(conn: psycopg.Connection) -> None:
    workflow = ended(conn)
    before = conn.execute(NUMBERS, [workflow]).fetchone()
    archive(conn)
    assert conn.execute("select * from repair_progress()").fetchall() == []
    conn.execute("truncate agent_task")
    assert conn.execute(NUMBERS, [workflow]).fetchone() == before


def test_a_task_that_comes_late_is_not_counted_and_goes_with_the_next_call(conn: psycopg.Connection) -> None:
    workflow = ended(conn)
    before = conn.execute(NUMBERS, [workflow]).fetchone()
    archive(conn)
    new_tasks(conn, workflow, "completed")
    assert archive(conn) == [(workflow, 1)]
    assert conn.execute(NUMBERS, [workflow]).fetchone() == before
    assert conn.execute("select count(*) from workflow_event where event_type = 'archived'").fetchone() == (1,)


def test_a_batch_takes_the_first_workflows_by_key_and_the_next_one_the_rest(conn: psycopg.Connection) -> None:
    ids = sorted(ended(conn) for _ in range(5))
    assert [archive(conn, batch=2) for _ in range(4)] == [[(key, 2) for key in ids[n : n + 2]] for n in (0, 2, 4, 6)]


def test_a_workflow_of_many_tasks_goes_in_one_call(conn: psycopg.Connection) -> None:
    workflow = ended(conn, "completed", *["completed"] * 20_000)
    assert archive(conn) == [(workflow, 20_000)]


def test_only_the_given_statuses_are_archived(conn: psycopg.Connection) -> None:
    workflows = [ended(conn, status) for status in ENDED]
    archive(conn, statuses=["failed", "cancelled"])
    assert [state(conn, workflow) for workflow in workflows] == [(False, 2), (True, 0), (True, 0)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"older_than": None},
        {"older_than": "-1 day"},
        {"older_than": "1 month -40 days"},
        {"older_than": "infinity"},
        {"older_than": "300000 years"},
        {"statuses": ["completed", "running"]},
        {"statuses": None},
        {"batch": 0},
        {"batch": None},
    ],
)
def test_what_makes_no_sense_is_refused(conn: psycopg.Connection, arguments: dict[str, Any]) -> None:
    workflow = ended(conn)
    with pytest.raises(errors.DataError):
        archive(conn, **arguments)
    assert state(conn, workflow) == (False, 2)


@pytest.mark.parametrize("held", ["agent_task where workflow_id", "workflow where id"])
def test_what_somebody_uses_is_skipped_without_waiting(conn: psycopg.Connection, session: Session, held: str) -> None:
    used, free = sorted(ended(conn) for _ in range(2))
    user = session()
    user.execute(f"select from {held} = %s for no key update", [used])
    conn.execute("set log_lock_waits = on")
    conn.execute("set deadlock_timeout = '1ms'")  # says of each wait that lasts
    waits: list[str] = []
    conn.add_notice_handler(lambda notice: waits.append(notice.message_primary or ""))
    conn.execute("set client_min_messages = log")
    assert archive(conn) == [(free, 2)]
    assert [wait for wait in waits if "waiting" in wait] == []
    user.rollback()
    assert archive(conn) == [(used, 2)]


def test_the_command_goes_on_to_the_last_batch_and_says_what_it_left_alone(
    conn: psycopg.Connection, session: Session, run: Run
) -> None:
    used, *_ = [ended(conn) for _ in range(102)]
    user = session()
    user.execute("select from workflow where id = %s for no key update", [used])
    would = "102 workflows would be archived, 204 tasks removed\nnothing was changed\n"
    assert run("archive", "--older-than", "90d", "--dry-run") == (0, would, "")
    left = "1 workflow left alone, since others hold their rows: run it again\n"
    assert run("archive", "--older-than", "90d") == (0, "101 workflows archived, 202 tasks removed\n", left)
    user.rollback()
    status, out, err = run("archive", "--older-than", "90d", "--status", "completed", "--json")
    assert (status, json.loads(out), err) == (0, {"workflows": 1, "tasks": 2, "in_use": 0}, "")


@pytest.fixture
def stopped(conn: psycopg.Connection, session: Session) -> Callable[[], tuple[psycopg.Connection, Any]]:
    """Start a call that stops within its first workflow until the session that is returned ends its transaction."""
    conn.execute(
        "create function stop() returns trigger language plpgsql set lock_timeout = 0"
        " as 'begin perform pg_advisory_xact_lock(7); return old; end';"
        " create trigger stop before delete on agent_task for each row execute function stop()"
    )

    def start() -> tuple[psycopg.Connection, Any]:
        holder, archiver = session(), session()
        archiver.autocommit = True
        holder.execute("select pg_advisory_xact_lock(7)")
        done = in_background(archive, archiver)
        wait_until_blocked_by(conn, archiver.info.backend_pid, holder.info.backend_pid)
        return holder, done

    return start


def test_a_workflow_that_is_opened_again_meanwhile_is_left_alone(conn: psycopg.Connection, stopped: Any) -> None:
    first, second, third = sorted(ended(conn, "failed") for _ in range(3))
    holder, done = stopped()
    conn.execute("update workflow set status = 'running' where id = %s", [second])
    holder.commit()
    assert done.result(60) == [(first, 2), (third, 2)]
    assert state(conn, second) == (False, 2)


def test_two_calls_at_once_share_the_work(conn: psycopg.Connection, stopped: Any) -> None:
    first, second, third = sorted(ended(conn) for _ in range(3))
    holder, done = stopped()
    assert archive(holder) == [(second, 2), (third, 2)]
    holder.commit()
    assert done.result(60) == [(first, 2)]


def test_an_agent_that_reports_late_on_two_workflows_never_deadlocks_with_it(
    conn: psycopg.Connection, session: Session, stopped: Any
) -> None:
    first, second = sorted(ended(conn) for _ in range(2))
    holder, done = stopped()
    agent = session()
    complete = "update agent_task set status = 'completed' where workflow_id = %s"
    agent.execute(complete, [second])
    late = in_background(lambda: agent.execute(complete, [first]).rowcount)
    wait_until_blocked(conn, agent.info.backend_pid)
    holder.commit()
    assert (done.result(60), late.result(60)) == ([(first, 2)], 0)
    agent.commit()
    assert conn.execute("select agents_completed from workflow where id = %s", [second]).fetchone() == (2,)
