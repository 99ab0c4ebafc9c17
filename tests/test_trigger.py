"""Every way in which tasks come, change and go, and what it does to the numbers of their workflows."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from .helpers import counters, new_tasks, new_workflow, progress, row_version, set_status

Session = Callable[[], psycopg.Connection]

FROZEN_ROW = (70, 7, 10)


def new_frozen_workflow(conn: psycopg.Connection) -> Any:
    frozen = {
        "progress_frozen_at": "2024-01-01",
        "progress": 70,
        "agents_completed": 7,
        "agents_total": 10,
        "agents_created": 10,
    }
    return new_workflow(conn, **frozen)


# The numbers themselves: see test_state_machine.


def test_an_update_that_joins_a_task_twice_counts_it_once(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    [task, _] = new_tasks(conn, workflow, "running", "running")
    conn.execute(
        "update agent_task as t set status = 'completed' from (values (%s), (%s)) as v (id) where t.id = v.id",
        [task, task],
    )
    assert progress(conn, workflow) == (50, 1, 2)


def test_tasks_that_come_before_their_workflow_are_counted_where_the_foreign_key_is_deferred(
    conn: psycopg.Connection,
) -> None:
    conn.execute("alter table agent_task alter constraint agent_task_workflow_id_fkey deferrable initially deferred")
    workflow = uuid.uuid4()
    with conn.transaction():
        new_tasks(conn, workflow, "completed", "running")
        new_workflow(conn, id=workflow)
    assert progress(conn, workflow) == (50, 1, 2)


def test_tasks_are_counted_after_their_table_was_altered_in_the_same_session(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, "running", "running")
    set_status(conn, tasks[0], "completed")
    conn.execute("alter table agent_task add column cost integer")
    conn.execute("alter table agent_task drop column payload")
    set_status(conn, tasks[1], "completed")
    new_tasks(conn, workflow, "completed", "failed")
    conn.execute("delete from agent_task where id = %s", [tasks[0]])
    assert counters(conn, workflow) == (3, 2, 1, 0)


# Frozen workflows


@pytest.mark.parametrize(
    "statement",
    [
        "update agent_task set status = 'completed'",
        "insert into agent_task (workflow_id, agent_type) select id, 'agent' from workflow",
        "delete from agent_task",
        "truncate agent_task",
        "update workflow set status = 'completed'",
        "update workflow set agents_planned = 100",
        "update workflow set progress = 1, agents_completed = 1, agents_total = 1, agents_created = 1",
        "select repair_progress()",
    ],
)
def test_a_frozen_workflow_keeps_its_counters(conn: psycopg.Connection, statement: str) -> None:
    workflow = new_frozen_workflow(conn)
    new_tasks(conn, workflow, "running", "failed")
    before = conn.execute("select progress_updated_at from workflow").fetchone()
    conn.execute(statement)
    assert progress(conn, workflow) == FROZEN_ROW
    assert conn.execute("select progress_updated_at from workflow").fetchone() == before
    assert conn.execute("select count(*) from workflow_progress_drift").fetchone() == (0,)


# What is written


@pytest.mark.parametrize(
    "statement",
    [
        "update agent_task set payload = '{}', retry_count = 2",
        "update agent_task set status = status",
        "update agent_task set status = 'assigned' where status = 'pending'",
        "update agent_task set status = 'running' where status in ('pending', 'assigned')",
        "update agent_task set workflow_id = workflow_id, status = status where status >= 'completed'",
        "update agent_task set status = 'completed' where false",
        "insert into agent_task (workflow_id, agent_type) select id, 'agent' from workflow where false",
        "delete from agent_task where false",
        "merge into agent_task as t using (select) as s on false when matched then delete",
    ],
)
def test_a_statement_that_settles_no_task_writes_nothing(conn: psycopg.Connection, statement: str) -> None:
    workflow = new_workflow(conn)
    for more in (["completed"], ["pending", "assigned"]):
        new_tasks(conn, workflow, *more)
        before = row_version(conn, workflow)
        conn.execute(statement)
        assert row_version(conn, workflow) == before


def test_changes_that_cancel_out_write_nothing(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "failed")
    before = row_version(conn, workflow)
    conn.execute(
        "update agent_task set status = case status when 'completed' then 'failed'::task_status else 'completed' end"
    )
    assert row_version(conn, workflow) == before


@pytest.mark.parametrize(
    "statement",
    [
        "update agent_task set status = 'completed' where id = %(task)s",
        "update agent_task set status = 'failed' where id = %(task)s",
        "update agent_task set status = 'completed'",
        "insert into agent_task (workflow_id, agent_type) values (%(workflow)s, 'agent')",
        "insert into agent_task (workflow_id, agent_type) select %(workflow)s, 'agent' from generate_series(1, 9)",
        "delete from agent_task where id = %(task)s",
        "delete from agent_task",
    ],
)
def test_a_statement_writes_its_workflow_once_and_heap_only(conn: psycopg.Connection, statement: str) -> None:
    workflow = new_workflow(conn)
    task, *_ = new_tasks(conn, workflow, "running", "running", "running")
    updates = "select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'workflow'"
    with conn.transaction():
        all_before, hot_before = conn.execute(updates).fetchone()
        conn.execute(statement, {"task": task, "workflow": workflow})
        all_after, hot_after = conn.execute(updates).fetchone()
    assert (all_after - all_before, hot_after - hot_before) == (1, 1)


@pytest.mark.parametrize(
    ("statement", "moves"),
    [
        ("update agent_task set status = 'completed' where status = 'running'", True),
        ("update agent_task set status = 'failed' where status = 'running'", True),
        ("update agent_task set status = 'failed' where status = 'cancelled'", True),
        ("update agent_task set status = 'running' where status = 'pending'", False),
        ("update agent_task set status = status", False),
        ("delete from agent_task where status = 'pending'", True),
        ("update workflow set agents_planned = 9", True),
        ("update workflow set agents_planned = 2", False),
        ("update workflow set status = 'running', current_stage = 'build'", False),
        ("update workflow set progress = 99, agents_failed = 9, progress_updated_at = '1999-01-01'", False),
        ("update workflow set progress_frozen_at = now()", False),
        ("update workflow set progress_frozen_at = null", False),
    ],
)
def test_progress_updated_at_moves_exactly_when_a_number_does(
    conn: psycopg.Connection, statement: str, moves: bool
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running", "pending", "cancelled")
    [before] = conn.execute("select progress_updated_at from workflow").fetchone()
    conn.execute(statement)
    [after] = conn.execute("select progress_updated_at from workflow").fetchone()
    assert after > before if moves else after == before


def test_tasks_inserted_before_their_workflow_by_one_statement_are_the_known_limit_that_repair_corrects(
    conn: psycopg.Connection,
) -> None:
    conn.execute(
        "with key as (select gen_random_uuid() as id)"
        ", task as (insert into agent_task (workflow_id, agent_type) select id, 'agent' from key returning workflow_id)"
        " insert into workflow (id, name, type) select workflow_id, 'w', 'app' from task"
    )
    assert conn.execute("select calculated_created from workflow_progress_drift").fetchall() == [(1,)]
    conn.execute("select repair_progress()")
