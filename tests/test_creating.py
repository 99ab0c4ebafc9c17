"""create_workflow and add_tasks as any client calls them: what they return, what they refuse, one statement each."""

import json
from datetime import UTC, datetime
from itertools import product
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from .helpers import counters, new_workflow, progress

LONG_AGO = datetime(2020, 2, 2, tzinfo=UTC)
STAGES = "select name, status::text from workflow_stage where workflow_id = %s order by position"


def add(conn: psycopg.Connection, workflow: Any, tasks: Any) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("select * from add_tasks(%s, %s)", [workflow, json.dumps(tasks)]).fetchall()


# --- create_workflow ----------------------------------------------------------------------------------------


def test_two_arguments_are_enough(conn: psycopg.Connection) -> None:
    row = conn.execute(
        "select status, current_stage, priority, agents_planned, version, created_by, parent_id, progress,"
        " created_at = updated_at or created_at < updated_at from create_workflow('w', 'bugfix')"
    ).fetchone()
    assert row == ("initiated", "initialization", "medium", None, 1, "system", None, 0, True)
    [(workflow,)] = conn.execute("select id from workflow").fetchall()
    pending = [(name, "pending") for name in ("initialization", "validation", "e2e_testing")]
    assert conn.execute(STAGES, [workflow]).fetchall() == pending


def test_every_argument_reaches_its_column_by_place_and_by_name(conn: psycopg.Connection) -> None:
    parent = new_workflow(conn)
    values = ["w", "app", "told", "running", "validation", "high", 7, "trace", '{"a": 1}', "me", parent]
    names = ["name", "type", "description", "status", "current_stage", "priority", "agents_planned", "trace_id"]
    names += ["input_data", "created_by", "parent_id"]
    columns = f"select {', '.join(names)} from "
    by_place = conn.execute(
        columns + "create_workflow(%s, %s, %s, %s, %s, %s, %s::integer, %s, %s, %s, %s)", values
    ).fetchone()
    notation = ", ".join(f"{name} => %({name})s" for name in names).replace("%(agents_planned)s", "7")
    by_name = conn.execute(f"{columns} create_workflow({notation})", dict(zip(names, values, strict=True))).fetchone()
    assert by_place == by_name == (*values[:8], {"a": 1}, *values[9:])


def test_what_is_returned_is_what_is_stored(conn: psycopg.Connection) -> None:
    conn.execute("insert into stage_definition values ('etl', 0, 'extract', 1, 2), ('etl', 1, 'load', 1, 3)")
    # The plan is known by the stages of the type, and fills in the total.
    returned = conn.execute("select w, w.agents_total from create_workflow('w', 'etl') as w").fetchone()
    assert returned == conn.execute("select w, 5 from workflow as w").fetchone()


@pytest.mark.parametrize("status", ["initiated", "running"])
@pytest.mark.parametrize(("given", "stage"), [(None, "extract"), ("load", "load"), ("elsewhere", "elsewhere")])
def test_a_workflow_begins_in_the_first_stage_of_its_type_unless_told_otherwise(
    conn: psycopg.Connection, given: str | None, status: str, stage: str
) -> None:
    # The order is that of positions, not of names or of insertion.
    conn.execute(
        "insert into stage_definition values ('etl', 5, 'extract'), ('etl', 9, 'a last one'), ('etl', 7, 'load')"
    )
    create = "select current_stage from create_workflow('w', 'etl', status => %s, current_stage => %s)"
    assert conn.execute(create, [status, given]).fetchone() == (stage,)


@pytest.mark.parametrize(
    ("columns", "stage"),
    [
        ("(name, type) values ('w', 'etl')", "extract"),
        ("(name, type, status) values ('w', 'etl', 'running')", "extract"),
        ("(name, type, current_stage) values ('w', 'etl', default)", "extract"),
        ("(name, type, current_stage) values ('w', 'etl', 'load')", "load"),
        ("(name, type, current_stage) values ('w', 'other', null)", "initialization"),
        ("(name, type) values ('w', 'other')", "initialization"),
        # The default, sent by an ORM, where a stage of that name is there though not the first.
        ("(name, type, current_stage) values ('w', 'late', 'initialization')", "initialization"),
        ("(name, type, current_stage) values ('w', 'late', null)", "early"),
        # A restored row: it has moved on before.
        ("(name, type, current_stage, version) values ('w', 'etl', 'initialization', 3)", "initialization"),
    ],
)
def test_an_insert_without_a_stage_is_given_the_first_and_one_with_a_stage_keeps_it(
    conn: psycopg.Connection, columns: str, stage: str
) -> None:
    conn.execute(
        "insert into stage_definition values"
        " ('etl', 1, 'extract'), ('etl', 2, 'load'), ('late', 0, 'early'), ('late', 1, 'initialization')"
    )
    assert conn.execute(f"insert into workflow {columns} returning current_stage").fetchone() == (stage,)


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ("null, 'app'", "23502"),
        ("'w', null", "23502"),
        ("'w', 'app', status => 'done'", "22P02"),
        ("'w', 'app', priority => 'urgent'", "22P02"),
        ("'w', 'app', agents_planned => -1", "23514"),
        ("'w', 'app', parent_id => gen_random_uuid()", "23503"),
        ("'w', 'app', parent_id => 'no id'", "22P02"),
        ("'w', 'app', input_data => '{'", "22P02"),
    ],
)
def test_what_is_refused_leaves_nothing(conn: psycopg.Connection, arguments: str, state: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        conn.execute(f"select create_workflow({arguments})")
    assert refused.value.sqlstate == state
    assert conn.execute("select count(*) from workflow").fetchone() == (0,)
    assert conn.execute("select count(*) from workflow_stage").fetchone() == (0,)


# --- add_tasks ----------------------------------------------------------------------------------------------


def test_tasks_are_strings_or_objects_and_come_back_in_the_order_given(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    added = add(conn, workflow, ["coder", {"agent_type": "tester", "external_id": "7"}, "coder"])
    assert [(task["agent_type"], task["external_id"], task["status"]) for task in added] == [
        ("coder", None, "pending"),
        ("tester", "7", "pending"),
        ("coder", None, "pending"),
    ]
    assert {task["workflow_id"] for task in added} == {workflow}
    assert [task["ordinal"] for task in added] == sorted(task["ordinal"] for task in added)
    assert progress(conn, workflow) == (0, 0, 3)


def test_every_column_of_a_task_can_be_given_and_each_has_its_default(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    given = {
        "agent_type": "coder",
        "external_id": "7",
        "stage": "build",
        "status": "completed",
        "priority": "high",
        "payload": {"a": [1]},
        "result": {"ok": True},
        "trace_id": "t",
        "span_id": "s",
        "parent_span_id": "p",
        "created_at": LONG_AGO,
        "assigned_at": LONG_AGO,
        "started_at": LONG_AGO,
        "completed_at": LONG_AGO,
        "retry_count": 2,
        "max_retries": 5,
        "timeout_ms": 10,
    }
    sent = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in given.items()}
    full, bare = add(conn, workflow, [sent, {"agent_type": "coder", "payload": None, "status": None, "priority": None}])
    assert {name: full[name] for name in given} == given
    expected = {"status": "pending", "priority": "medium", "payload": {}, "result": None, "retry_count": 0}
    expected |= {"max_retries": 3, "timeout_ms": 300000, "started_at": None, "external_id": None}
    assert {name: bare[name] for name in expected} == expected
    assert bare["created_at"] > LONG_AGO
    assert counters(conn, workflow) == (2, 1, 0, 0)


def test_thousands_of_tasks_keep_their_order_whatever_the_plan(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    names = [f"agent {number}" for number in range(3000)]
    assert [task["agent_type"] for task in add(conn, workflow, names)] == names
    # The order of creation has no ties, though many were created at the same time.
    conn.execute("update agent_task set created_at = %s", [LONG_AGO])
    conn.execute("update agent_task set priority = 'high' where id in (select id from agent_task limit 1000)")
    rows = conn.execute("select agent_type, ordinal from agent_task order by ordinal").fetchall()
    assert [name for name, _ in rows] == names
    assert len({ordinal for _, ordinal in rows}) == 3000


def test_a_column_of_the_users_that_admits_no_null_is_filled_by_its_default(conn: psycopg.Connection) -> None:
    conn.execute("create domain size as integer not null check (value > 0)")
    conn.execute("alter table agent_task add column size size default 5")
    assert [task["size"] for task in add(conn, new_workflow(conn), ["a"])] == [5]


def test_tasks_are_added_and_counted_by_one_statement(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    updates = "select n_tup_upd from pg_stat_xact_user_tables where relname = 'workflow'"
    with conn.transaction():
        [before] = conn.execute(updates).fetchone()
        add(conn, workflow, ["a"] * 50)
        assert conn.execute(updates).fetchone() == (before + 1,)


def test_no_tasks_are_no_error(conn: psycopg.Connection) -> None:
    assert add(conn, new_workflow(conn), []) == []


MALFORMED = [
    (None, "22023", "tasks are given as a JSON array"),
    ("null", "22023", "tasks are given as a JSON array"),
    ('"coder"', "22023", "tasks are given as a JSON array"),
    ('{"agent_type": "coder"}', "22023", "tasks are given as a JSON array"),
    ('["coder", {"agent_type": "a", "colour": "red"}]', "22023", "a new task has no colour"),
    ('[{"agent_type": "a", "ordinal": 7}]', "22023", "a new task has no ordinal"),
    ('[{"agent_type": "a", "id": "x"}]', "22023", "a new task has no id"),
    ('["coder", 7]', "22023", "tasks are given as a JSON array of strings and objects"),
    ('["coder", ["a"]]', "22023", "tasks are given as a JSON array of strings and objects"),
    ('["coder", null]', "22023", "tasks are given as a JSON array of strings and objects"),
    ('["coder", {}]', "23502", "agent_type"),
    ('[{"agent_type": "a", "status": "done"}]', "22P02", "task_status"),
    ('[{"agent_type": "a", "priority": "urgent"}]', "22P02", "priority_level"),
    ('[{"agent_type": "a", "retry_count": "many"}]', "22P02", "integer"),
    (
        '["coder", {"agent_type": "a", "external_id": "7"}, {"agent_type": "a", "external_id": "7"}]',
        "23505",
        "external",
    ),
    ("[", "22P02", "json"),
]


def test_malformed_tasks_are_refused_with_what_is_wrong_and_none_is_added(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    for tasks, state, told in MALFORMED:
        with pytest.raises(psycopg.Error) as refused:
            conn.execute("select add_tasks(%s, %s)", [workflow, tasks])
        assert refused.value.sqlstate == state, (tasks, refused.value)
        assert told in str(refused.value)
    assert conn.execute("select count(*) from agent_task").fetchone() == (0,)


def test_an_unknown_workflow_is_said_to_be_not_found(conn: psycopg.Connection) -> None:
    for workflow, tasks in product([uuid4(), None], ["[]", '["coder"]']):
        with pytest.raises(psycopg.errors.NoDataFound, match="not found"):
            conn.execute("select add_tasks(%s, %s)", [workflow, tasks])
