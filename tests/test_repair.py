"""Repairing what was miscounted while triggers were off, exactly, while others write."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from .conftest import Role
from .helpers import (
    as_replica,
    counters,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    row_version,
    set_status,
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]


def complete_unseen(conn: psycopg.Connection, *tasks: Any) -> None:
    """Complete tasks while triggers are off: what repair is for."""
    as_replica(conn, "update agent_task set status = 'completed' where id = any(%s)", [list(tasks)])


def repaired(conn: psycopg.Connection, workflow: Any = None) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select workflow_id, stored_progress, calculated_progress, stored_completed, calculated_completed"
        " from repair_progress(%s)",
        [workflow],
    ).fetchall()


def test_repair_repairs_every_workflow_that_drifted_and_returns_what_changed(conn: psycopg.Connection) -> None:
    workflows = sorted(new_workflow(conn) for _ in range(4))
    tasks = [new_tasks(conn, workflow, "running", "completed") for workflow in workflows]
    complete_unseen(conn, tasks[3][0], tasks[1][0])
    assert repaired(conn) == [(workflows[1], 50, 100, 1, 2), (workflows[3], 50, 100, 1, 2)]
    assert [progress(conn, workflow)[0] for workflow in workflows] == [50, 100, 50, 100]
    assert repaired(conn) == []


def test_repair_of_one_workflow_leaves_the_others(conn: psycopg.Connection) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    tasks = [*new_tasks(conn, one, "running"), *new_tasks(conn, other, "running")]
    complete_unseen(conn, *tasks)
    assert repaired(conn, one) == [(one, 0, 100, 0, 1)]
    assert (progress(conn, one)[0], progress(conn, other)[0]) == (100, 0)
    assert repaired(conn, other) == [(other, 0, 100, 0, 1)]


def test_repair_of_an_unknown_workflow_changes_nothing(conn: psycopg.Connection) -> None:
    assert repaired(conn, uuid.uuid4()) == []


def test_repair_repairs_every_counter(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, agents_planned=8)
    new_tasks(conn, workflow, "completed", "failed", "failed", "cancelled", "running")
    wrong = (
        "update workflow set progress = 1, agents_completed = 2, agents_total = 3, agents_created = 4,"
        " agents_failed = 5, agents_cancelled = 6, progress_updated_at = '1999-01-01'"
    )
    as_replica(conn, wrong)
    assert len(repaired(conn)) == 1
    assert (progress(conn, workflow), counters(conn, workflow)) == ((13, 1, 8), (5, 1, 2, 1))
    row = conn.execute("select progress_frozen_at, progress_updated_at > '2020-01-01' from workflow").fetchone()
    assert row == (None, True)


def test_repair_leaves_right_workflows_untouched(conn: psycopg.Connection) -> None:
    right, wrong = new_workflow(conn), new_workflow(conn)
    new_tasks(conn, right, "completed", "running")
    complete_unseen(conn, *new_tasks(conn, wrong, "running"))
    before = row_version(conn, right)
    repaired(conn)
    repaired(conn, right)
    assert row_version(conn, right) == before


def test_repair_skips_frozen_workflows(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "running")
    conn.execute("update workflow set progress_frozen_at = now()")
    complete_unseen(conn, *new_tasks(conn, workflow, "running"))
    before = row_version(conn, workflow)
    assert (repaired(conn), repaired(conn, workflow)) == ([], [])
    assert row_version(conn, workflow) == before


def test_repair_leaves_status_version_and_updated_at_alone(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    complete_unseen(conn, *new_tasks(conn, workflow, "running"))
    before = conn.execute("select status, version, updated_at, completed_at from workflow").fetchone()
    assert len(repaired(conn)) == 1
    assert conn.execute("select status, version, updated_at, completed_at from workflow").fetchone() == before


def test_repair_is_for_those_who_were_granted_it_whatever_else_they_may_do(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    workflow, role = new_workflow(conn), new_role()
    complete_unseen(conn, *new_tasks(conn, workflow, "running"))
    with pytest.raises(errors.InsufficientPrivilege):
        repaired(role.connect())
    conn.execute(f"grant execute on function repair_progress to {role.name}")
    assert repaired(role.connect()) == [(workflow, 0, 100, 0, 1)]
    assert progress(conn, workflow) == (100, 1, 1)


def test_repair_waits_for_an_uncommitted_completion_and_counts_it_once(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, "running", "running", "running", "running")
    complete_unseen(conn, tasks[0])
    agent, repairer = session(), session()
    set_status(agent, tasks[1], "completed")
    repairing = in_background(repaired, repairer, workflow)
    wait_until_blocked_by(conn, repairer.info.backend_pid, agent.info.backend_pid)
    agent.commit()
    assert repairing.result(60) == [(workflow, 25, 50, 1, 2)]
    repairer.commit()
    assert progress(conn, workflow) == (50, 2, 4)


def test_truncate_recounts_and_repairs_what_had_drifted(conn: psycopg.Connection) -> None:
    drifted, empty = new_workflow(conn), new_workflow(conn)
    complete_unseen(conn, *new_tasks(conn, drifted, "running", "running"))
    before = row_version(conn, empty)
    conn.execute("truncate agent_task")
    assert counters(conn, drifted) == (0, 0, 0, 0)
    assert row_version(conn, empty) == before


def test_truncating_a_part_of_the_tasks_counts_those_that_are_left(conn: psycopg.Connection) -> None:
    conn.execute("""
        create table other_part () inherits (agent_task);
        create trigger agent_task_progress_insert after insert on other_part
            referencing new table as changed_task for each statement execute function maintain_progress();
    """)
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "running", "completed")
    conn.execute(
        "insert into other_part (workflow_id, agent_type, status, ordinal) values (%s, 'agent', 'completed', 7)",
        [workflow],
    )
    assert progress(conn, workflow) == (67, 2, 3)
    conn.execute("truncate only agent_task")
    assert progress(conn, workflow) == (100, 1, 1)
