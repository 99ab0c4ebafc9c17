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
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]
Statement = tuple[str, Sequence[Any]]

COMPLETE = "update agent_task set status = 'completed' where id = any(%s)"
SET_STAGE = "update workflow set current_stage = 'build' where id = %s"
HOLD_WORKFLOW = "select from workflow where id = %s for no key update"
OLD_SNAPSHOT = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


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
