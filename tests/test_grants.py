"""The files sql/optional/grant_*.sql: what each kind of role can do by the functions of the schema, and no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection, errors

from .conftest import Role
from .helpers import counters, new_tasks, new_workflow

OPTIONAL = Path(__file__).parents[1] / "sql" / "optional"
FILES = {"agent": ["agent"], "reader": ["reader"], "operator": ["reader", "operator"]}
Grant = Callable[[str], Connection]


@pytest.fixture
def session_of(conn: Connection, new_role: Callable[..., Role]) -> Grant:
    """Open a session of a new role that has the rights of a kind, in a schema that is closed to all others."""
    conn.execute("revoke all on schema public from public")
    conn.execute("revoke execute on all functions in schema public from public")

    def open_session(kind: str) -> Connection:
        role = new_role()
        for file in FILES[kind]:
            script = (OPTIONAL / f"grant_{file}.sql").read_text("utf-8")
            conn.execute(script.replace(':"role"', role.name).encode())
        return role.connect()

    return open_session


def test_an_agent_does_its_whole_work_by_functions(conn: Connection, session_of: Grant) -> None:
    agent, workflow = session_of("agent"), new_workflow(conn)
    tasks = """["a", {"agent_type": "b", "external_id": "k", "status": "running", "payload": {"x": 1}}, "c"]"""
    one, two, three = (row[0] for row in agent.execute("select id from add_tasks(%s, %s)", [workflow, tasks]))
    agent.execute("select report_task(%s, %s, 'running')", [workflow, one])
    agent.execute("""select report_task(%s, %s, 'completed', '{"files": 3}')""", [workflow, one])
    agent.execute("select report_task(%s, %s, 'failed')", [workflow, two])
    agent.execute("select report_task(%s, %s, 'running', null, true)", [workflow, two])
    reports = f"""[{{"external_id": "k", "status": "completed"}}, {{"task_id": "{three}", "status": "cancelled"}}]"""
    agent.execute("select report_tasks(%s, %s)", [workflow, reports])
    assert agent.execute("select from agent_task where status = 'pending' for update skip locked").fetchall() == []
    agent.execute(
        "insert into agent_task (workflow_id, external_id, agent_type, status) values (%s, 'k', 'b', 'completed')"
        " on conflict (workflow_id, external_id) where external_id is not null do update set status = excluded.status",
        [workflow],
    )
    assert counters(conn, workflow) == (3, 2, 0, 1)
    assert agent.execute("select progress, settled_percentage from workflow_progress").fetchall() == [(67, 100)]
    assert agent.execute("select parent_id, parent_task_id from workflow").fetchall() == [(None, None)]
    rows = agent.execute("select id, retry_count from agent_task order by ordinal").fetchall()
    assert rows == [(one, 0), (two, 1), (three, 0)]
    assert agent.execute("select * from workflow_progress_drift").fetchall() == []


@pytest.mark.parametrize(
    "statement",
    [
        "select create_workflow('w', 'app')",
        "select transition_workflow(%(id)s, 'cancelled')",
        "select advance_workflow(%(id)s)",
        "select repair_progress()",
        "select archive_workflows('0 days')",
        "insert into workflow (name, type) values ('w', 'app')",
        "update workflow set progress = 100",
        "update workflow set parent_id = null",
        "delete from workflow",
        "select input_data from workflow",
        "select from workflow_event",
        "delete from agent_task",
        "truncate agent_task",
        "update agent_task set workflow_id = workflow_id",
        "update agent_task set payload = '{}'",
        "update agent_task set ordinal = 1",
        "select maintain_progress()",
    ],
)
def test_an_agent_does_nothing_else(conn: Connection, session_of: Grant, statement: str) -> None:
    workflow = new_workflow(conn, status="completed")
    new_tasks(conn, workflow, "running")
    with pytest.raises(errors.InsufficientPrivilege):
        session_of("agent").execute(statement, {"id": workflow})
    assert conn.execute("select status, agents_created from workflow").fetchall() == [("completed", 1)]


def test_an_operator_creates_moves_repairs_and_archives_by_functions(conn: Connection, session_of: Grant) -> None:
    operator = session_of("operator")
    [root] = operator.execute("select id from create_workflow('root', 'app')").fetchone()
    query = "select id, parent_id, current_stage from create_workflow('w', 'bugfix', parent_id => %s)"
    workflow, parent, stage = operator.execute(query, [root]).fetchone()
    assert (parent, stage) == (root, "initialization")
    [task] = operator.execute("""select id from add_tasks(%s, '["a"]')""", [workflow]).fetchone()
    operator.execute("select report_task(%s, %s, 'completed')", [workflow, task])
    operator.execute("""select report_tasks(%s, '[]')""", [workflow])
    operator.execute("select advance_workflow(%s)", [workflow])
    operator.execute("select transition_workflow(%s, 'completed')", [workflow])
    # Written back whole, as some libraries do, the numbers stay as they are.
    operator.execute("update workflow set progress = 9, agents_completed = 9, name = 'x' where id = %s", [workflow])
    by = conn.execute("select distinct payload ->> 'by' from workflow_event where payload ? 'by'").fetchall()
    assert by == [(operator.info.user,)]
    assert operator.execute("select * from repair_progress()").fetchall() == []
    assert operator.execute("select * from archive_workflows('0 days')").fetchall() == [(workflow, 1)]
    assert counters(conn, workflow) == (1, 1, 0, 0)
    operator.execute("delete from workflow where id = %s", [root])
    assert conn.execute("select from workflow").fetchall() == []


def test_a_reader_reads_all_and_calls_nothing_that_writes(conn: Connection, session_of: Grant) -> None:
    reader, workflow = session_of("reader"), new_workflow(conn, status="completed")
    new_tasks(conn, workflow, "completed")
    views = conn.execute("select viewname from pg_views where schemaname = 'public'").fetchall()
    for (view,) in views:
        reader.execute(f"select * from {view}")
    calls = [
        f"select {call}" for call in ("create_workflow('w', 'app')", "archive_workflows('0')", "repair_progress()")
    ]
    for table in ("workflow", "agent_task", "workflow_stage", "workflow_event", "stage_definition"):
        calls += [f"delete from {table}", f"truncate {table} cascade", f"insert into {table} default values"]
    for call in calls:
        with pytest.raises(errors.InsufficientPrivilege):
            reader.execute(call)


def test_each_function_is_granted_or_left_out_on_purpose(conn: Connection, session_of: Grant) -> None:
    query = (
        "select proname::text from pg_proc where pronamespace = 'public'::regnamespace"
        " and prorettype <> 'trigger'::regtype{}"
    )
    may: dict[str, set[Any]] = {}
    for kind in FILES:
        granted = session_of(kind).execute(query.format(" and has_function_privilege(oid, 'execute')"))
        may[kind] = {name for (name,) in granted}
    formula = {"progress_percentage", "progress_total"}
    assert may["agent"] == {"add_tasks", "report_task", "report_tasks"} | formula
    assert may["reader"] == formula
    # The guard's own half (05) is its owner's alone.
    assert may["operator"] == {name for (name,) in conn.execute(query.format(""))} - {"settle_workflow"}
