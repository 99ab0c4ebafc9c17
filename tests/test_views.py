"""What everyone reads, the same counted afresh, and where they differ."""

import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from .helpers import as_replica, new_tasks, new_workflow

STATUSES = ["pending", "assigned", "running", "completed", "failed", "cancelled"]


def fill(conn: psycopg.Connection, workflows: int) -> list[Any]:
    """Insert workflows of every status, with and without a plan, and tasks of every status."""
    rng = random.Random(1)
    ids = []
    with conn.transaction():
        for index in range(workflows):
            status = ["initiated", "running", "paused", "completed", "failed", "cancelled"][index % 6]
            ids.append(new_workflow(conn, status=status, agents_planned=rng.choice([None, 0, 3, 30])))
            new_tasks(conn, ids[-1], *rng.choices(STATUSES, k=rng.randrange(12)))
    conn.execute("analyze")
    return ids


def plan_nodes(conn: psycopg.Connection, query: str, workflow: Any) -> list[dict[str, Any]]:
    """Explain, executed, and return the nodes of the plan."""
    [explained] = conn.execute(f"explain (analyze, format json) {query}", [workflow]).fetchone()
    nodes = [explained[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


def test_workflow_progress_shows_one_row_per_workflow(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, agents_planned=10, trace_id="trace")
    new_workflow(conn)
    new_tasks(conn, workflow, *["completed"] * 4, "failed", "cancelled", "running")
    assert conn.execute("select count(*) from workflow_progress").fetchone() == (2,)
    row = conn.execute(
        "select progress, progress_percentage, agents_completed, agents_total, agents_created, agents_failed,"
        " agents_cancelled, agents_open, agents_planned, settled_percentage, progress_calculation_method, trace_id"
        " from workflow_progress where workflow_id = %s",
        [workflow],
    ).fetchone()
    assert row == (40, 40, 4, 10, 7, 1, 1, 1, 10, 60, "agent-based", "trace")


def test_last_updated_at_is_when_a_number_last_moved(conn: psycopg.Connection) -> None:
    new_workflow(conn)
    query = "select v.last_updated_at = w.progress_updated_at from workflow_progress as v, workflow as w"
    assert conn.execute(query).fetchone() == (True,)


@pytest.mark.parametrize("frozen", [False, True])
def test_drift_shows_any_number_that_is_off_unless_the_workflow_is_frozen(
    conn: psycopg.Connection, frozen: bool
) -> None:
    columns = ["progress", *(f"agents_{number}" for number in ("completed", "total", "created", "failed", "cancelled"))]
    for column in columns:
        workflow = new_workflow(conn, name=column)
        frozen_at = "now" if frozen else None
        update = f"update workflow set {column} = 5, progress_frozen_at = %s where id = %s"
        as_replica(conn, update, [frozen_at, workflow])
    found = [name for (name,) in conn.execute("select name from workflow_progress_drift")]
    assert sorted(found) == ([] if frozen else sorted(columns))
    conn.execute("select repair_progress()")


def test_reading_progress_of_one_workflow_uses_its_primary_key_and_reads_no_task(conn: psycopg.Connection) -> None:
    workflow = fill(conn, 300)[150]
    nodes = plan_nodes(conn, "select * from workflow_progress where workflow_id = %s", workflow)
    assert [(node["Node Type"], node.get("Index Name")) for node in nodes] == [("Index Scan", "workflow_pkey")]
    assert "agent_task" not in json.dumps(nodes)


@pytest.mark.parametrize("view", ["workflow_progress_calculated", "workflow_progress_drift"])
def test_calculating_one_workflow_reads_its_tasks_only(conn: psycopg.Connection, view: str) -> None:
    workflow = fill(conn, 300)[150]
    new_tasks(conn, workflow, *["completed"] * 20)
    nodes = plan_nodes(conn, f"select * from {view} where workflow_id = %s", workflow)
    tasks = [node for node in nodes if node.get("Relation Name") == "agent_task"]
    indexes = [node["Index Name"] for node in nodes if "agent_task" in node.get("Index Name", "")]
    [(count,)] = conn.execute("select count(*) from agent_task where workflow_id = %s", [workflow]).fetchall()
    assert [(node["Actual Rows"], node.get("Rows Removed by Filter", 0)) for node in tasks] == [(count, 0)]
    assert indexes == ["agent_task_workflow_id_status_completed_at_idx"]


@pytest.mark.parametrize("view", ["workflow_progress_calculated", "workflow_progress_drift"])
def test_calculating_all_workflows_reads_the_tasks_once(conn: psycopg.Connection, view: str) -> None:
    busy = new_workflow(conn)
    conn.execute("insert into workflow (name, type) select 'idle', 'app' from generate_series(1, 200)")
    new_tasks(conn, busy, *["completed"] * 2000)
    conn.execute("analyze")
    nodes = plan_nodes(conn, f"select * from {view} where workflow_id <> %s", uuid.uuid4())
    loops = [node["Actual Loops"] for node in nodes if node.get("Relation Name") == "agent_task"]
    assert loops == [1]


# Each statement that an orchestrator sends, or the function that it calls, on a workflow and the one above it.
CALLS = """
    update agent_task set status = 'completed' where id = %(t)s
    update agent_task set status = 'failed' where id = %(t)s
    insert into agent_task (workflow_id, agent_type) values (%(w)s, 'b')
    insert into agent_task (workflow_id, agent_type) values (%(w)s, 'b'), (%(w)s, 'c')
    delete from agent_task where workflow_id = %(w)s and agent_type = 'b'
    select from report_task(%(w)s, %(t)s, 'completed')
    select from report_tasks(%(w)s, jsonb_build_array(jsonb_build_object('task_id', %(t)s::uuid, 'status', 'failed')))
    select from add_tasks(%(w)s, '["b"]')
    update workflow set status = 'running' where id = %(w)s
    select from transition_workflow(%(w)s, 'paused')
    select from transition_workflow(%(w)s, 'running')
    select from advance_workflow(%(w)s)
    select from create_workflow('w', 'app', parent_id => %(w)s)
    insert into workflow (name, type) values ('w', 'app')
    update workflow set progress_frozen_at = now() where id = %(w)s
    update workflow set progress_frozen_at = null where id = %(w)s
    update workflow set parent_id = %(above)s where id = %(w)s
    select from repair_progress(%(w)s)
    select from transition_workflow(%(w)s, 'cancelled')
    select from archive_workflows('0')
""".strip().splitlines()


def test_no_session_keeps_a_plan_that_reads_a_whole_table_once_it_has_grown(
    conn: psycopg.Connection, session: Callable[[], psycopg.Connection]
) -> None:
    tables = ["workflow", "agent_task", "workflow_stage", "workflow_event"]
    for table in tables:
        conn.execute(f"alter table {table} set (autovacuum_enabled = off)")
    conn.prepare_threshold = None  # what the test sends is planned each time

    def whole_tables_read() -> dict[str, list[str]]:
        ended, workflow = new_workflow(conn), new_workflow(conn)
        new_tasks(conn, ended, "completed")
        conn.execute("update workflow set status = 'completed' where id = %s", [ended])
        [task] = new_tasks(conn, workflow, "running")
        read = (
            "select relname, seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables"
            " where relname = any (%s)"
        )
        found = {}
        for call in CALLS:
            with conn.transaction():
                before = dict(conn.execute(read, [tables]).fetchall())
                conn.execute(call, {"w": workflow, "t": task, "above": ended})
                after = dict(conn.execute(read, [tables]).fetchall())
            if many := [table for table in tables if after[table] - before.get(table, 0) > 1000]:
                found[call] = many
        return found

    whole_tables_read()
    conn.execute(f"vacuum analyze {', '.join(tables)}")
    for _ in range(7):
        whole_tables_read()
    other = session()  # to fire no triggers makes a session forget its plans
    grow = (
        "insert into workflow (name, type, progress_frozen_at) select 'w', 'app', now() from generate_series(1, 2000)"
    )
    as_replica(other, grow)
    of_each = "select id, n from workflow, generate_series(100, 101) as n where progress_frozen_at is not null"
    as_replica(other, f"insert into agent_task (workflow_id, agent_type) {of_each}")
    as_replica(other, f"insert into workflow_event (workflow_id, event_type) {of_each}")
    as_replica(
        other, f"insert into workflow_stage (workflow_id, position, name) {of_each.replace('n from', 'n, n from')}"
    )
    other.commit()
    assert whole_tables_read() == {}


def test_a_user_may_add_columns_of_any_name(conn: psycopg.Connection) -> None:
    ended, workflow = new_workflow(conn), new_workflow(conn)
    new_tasks(conn, ended, "completed")
    conn.execute("update workflow set status = 'completed' where id = %s", [ended])
    [task] = new_tasks(conn, workflow, "running")
    # What the functions call their arguments and variables; and some other first words of lines.
    names = conn.execute(
        "select distinct n from pg_proc, lateral (select unnest(proargnames) as n"
        " union select (regexp_matches(prosrc, '^ *(\\w+) [^;]*;', 'gn'))[1]) as v"
        " where pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert {"operation", "cancelled_at", "candidate", "sign"} < {name for (name,) in names}
    columns = ", ".join(f'add column if not exists "{name}" uuid default gen_random_uuid()' for (name,) in names)
    for table in ("workflow", "agent_task", "workflow_stage", "workflow_event"):
        conn.execute(f"alter table {table} {columns}")
    for call in CALLS:
        conn.execute(call, {"w": workflow, "t": task, "above": ended})
    assert conn.execute("select count(*) from agent_task where workflow_id = %s", [ended]).fetchone() == (0,)
    conn.execute("truncate agent_task")
