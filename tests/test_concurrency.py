"""Two sessions at a time: hold, wait until the other is blocked, release, and look at the numbers.

That any two statements are counted beside each other, and the deadlocks that are admitted: see test_interleavings.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from .helpers import (
    counters,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    set_status,
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]
Statement = tuple[str, Sequence[Any]]

COMPLETE = "update agent_task set status = 'completed' where id = any(%s)"
SET_STAGE = "update workflow set current_stage = 'build' where id = %s"
HOLD_WORKFLOW = "select from workflow where id = %s for no key update"
OLD_SNAPSHOT = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
HOLD_TASK = "select from agent_task where id = %s for update"


@pytest.fixture(autouse=True)
def quick_deadlocks(conn: psycopg.Connection) -> None:
    """Let sessions opened from now on notice a deadlock soon, and never hang a test."""
    conn.execute(f"alter database {conn.info.dbname} set deadlock_timeout = '50ms'")
    conn.execute(f"alter database {conn.info.dbname} set lock_timeout = '60s'")


@pytest.fixture
def blocked(conn: psycopg.Connection) -> Callable[[psycopg.Connection, psycopg.Connection], None]:
    """Wait until the first session waits for the second."""

    def wait(waiting: psycopg.Connection, holder: psycopg.Connection) -> None:
        wait_until_blocked_by(conn, waiting.info.backend_pid, holder.info.backend_pid)

    return wait


Blocked = Callable[[psycopg.Connection, psycopg.Connection], None]


def execute(session: psycopg.Connection, statement: Statement) -> Future[Any]:
    return in_background(session.execute, *statement)


# What waits for what


@pytest.mark.parametrize(
    "statement",
    [
        "update agent_task set status = 'completed' where external_id = 'mine'",
        "delete from agent_task where external_id = 'mine'",
        "insert into agent_task (workflow_id, agent_type) select id, 'agent' from workflow order by name",
        "insert into agent_task (workflow_id, agent_type) select id, 'agent' from workflow order by name desc",
    ],
)
def test_workflows_are_locked_in_the_order_of_their_ids(
    conn: psycopg.Connection, session: Session, blocked: Blocked, statement: str
) -> None:
    workflows = [new_workflow(conn, name=f"{number:02}") for number in range(30)]
    conn.execute("insert into agent_task (workflow_id, agent_type, external_id) select id, 'a', 'mine' from workflow")
    in_order = sorted(workflows)
    holder, writer = session(), session()
    holder.execute(HOLD_WORKFLOW, [in_order[15]])
    writing = execute(writer, (statement, ()))
    blocked(writer, holder)
    free = conn.execute("select id from workflow for no key update skip locked").fetchall()
    assert sorted(row[0] for row in free) == in_order[16:]
    holder.commit()
    writing.result(60)
    writer.commit()


# The foreign key's lock


def test_a_task_is_inserted_beside_a_foreign_key_lock_without_waiting(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    one, other = session(), session()
    one.execute("select from workflow where id = %s for key share", [workflow])
    other.execute("set lock_timeout = '60s'")
    [task] = new_tasks(other, workflow, "running")
    set_status(other, task, "completed")
    other.commit()
    one.commit()
    assert progress(conn, workflow) == (100, 1, 1)


# An orchestrator that changes its workflow row


@pytest.mark.parametrize("workflow_first", [True, False])
def test_an_orchestrator_that_updates_its_workflow_and_adds_a_task_never_deadlocks_with_an_agent(
    conn: psycopg.Connection, session: Session, blocked: Blocked, workflow_first: bool
) -> None:
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "running")
    orchestrator, agent = session(), session()
    steps: list[Statement] = [
        (SET_STAGE, [workflow]),
        ("insert into agent_task (workflow_id, agent_type) values (%s, 'agent')", [workflow]),
    ]
    first, second = steps if workflow_first else reversed(steps)
    orchestrator.execute(*first)
    waiting = execute(agent, (COMPLETE, [[task]]))
    blocked(agent, orchestrator)
    orchestrator.execute(*second)
    orchestrator.commit()
    waiting.result(60)
    agent.commit()
    assert progress(conn, workflow) == (50, 1, 2)


@pytest.mark.parametrize("last", ["status = 'completed'", "agents_planned = 4", "progress = 15"])
def test_an_orchestrator_that_updates_its_workflow_twice_never_deadlocks_with_an_agent(
    conn: psycopg.Connection, session: Session, blocked: Blocked, last: str
) -> None:
    workflow = new_workflow(conn, agents_planned=2)
    [task] = new_tasks(conn, workflow, "running")
    orchestrator, agent = session(), session()
    orchestrator.execute(SET_STAGE, [workflow])
    waiting = execute(agent, (COMPLETE, [[task]]))
    blocked(agent, orchestrator)
    orchestrator.execute(f"update workflow set {last} where id = %s", [workflow])
    orchestrator.commit()
    waiting.result(60)
    agent.commit()
    assert progress(conn, workflow)[1] == 1


# Snapshots that are too old


@pytest.mark.parametrize("level", OLD_SNAPSHOT, ids=["repeatable read", "serializable"])
def test_a_truncate_with_an_old_snapshot_never_leaves_a_wrong_number(
    conn: psycopg.Connection, session: Session, level: IsolationLevel
) -> None:
    workflow = new_workflow(conn)
    other = session()
    other.isolation_level = level
    assert progress(other, workflow) == (0, 0, 0)
    new_tasks(conn, workflow, "completed")
    try:
        other.execute("truncate agent_task")
        other.commit()
    except (errors.SerializationFailure, errors.FeatureNotSupported):
        other.rollback()
    [(tasks,)] = conn.execute("select count(*) from agent_task").fetchall()
    assert counters(conn, workflow)[0] == tasks


# Freezing and thawing


@pytest.mark.parametrize("act", ["freeze", "thaw"])
@pytest.mark.parametrize("agent_first", [True, False], ids=["after the agent", "before the agent"])
def test_freezing_or_thawing_beside_a_completion_is_exact(
    conn: psycopg.Connection, session: Session, blocked: Blocked, act: str, agent_first: bool
) -> None:
    workflow = new_workflow(conn)
    task, _ = new_tasks(conn, workflow, "running", "running")
    if act == "thaw":
        conn.execute("update workflow set progress_frozen_at = now()")
    statements: dict[str, Statement] = {
        "agent": (COMPLETE, [[task]]),
        "act": ("update workflow set progress_frozen_at = %s", ["now" if act == "freeze" else None]),
    }
    one, other = session(), session()
    first, second = ("agent", "act") if agent_first else ("act", "agent")
    one.execute(*statements[first])
    waiting = execute(other, statements[second])
    blocked(other, one)
    one.commit()
    waiting.result(60)
    other.commit()
    missed = act == "freeze" and not agent_first
    assert progress(conn, workflow) == ((0, 0, 2) if missed else (50, 1, 2))
    conn.execute("update workflow set progress_frozen_at = null")
    assert progress(conn, workflow) == (50, 1, 2)


@pytest.mark.parametrize("act", ["now", None], ids=["freezing", "thawing"])
def test_freezing_or_thawing_amid_a_statement_that_has_not_counted_yet_is_exact(
    conn: psycopg.Connection, session: Session, blocked: Blocked, act: str | None
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, "running", "running")
    conn.execute("update workflow set progress_frozen_at = %s", [None if act else "now"])
    holder, agent = session(), session()
    holder.execute(HOLD_TASK, [tasks[1]])
    waiting = execute(agent, (COMPLETE, [tasks]))
    blocked(agent, holder)
    conn.execute("update workflow set progress_frozen_at = %s", [act])
    holder.commit()
    waiting.result(60)
    agent.commit()
    assert progress(conn, workflow) == ((0, 0, 2) if act else (100, 2, 2))
