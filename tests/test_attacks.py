"""What an agent tries in a session of its own to move a number by other means than its tasks, and how each try ends."""

from collections.abc import Callable, Iterator
from functools import partial
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors, sql

from pyapp import add_tasks, advance, create_workflow, grant, migrate, repair, report_task, report_tasks, transition
from pyapp.shipped import resource
from tests.conftest import Role
from tests.helpers import counters, new_tasks, new_workflow, progress, set_status

ID = "00000000-0000-0000-0000-00000000000a"
MAINTAINED = (
    "progress",
    "agents_completed",
    "agents_total",
    "agents_created",
    "agents_failed",
    "agents_cancelled",
    "progress_updated_at",
)
NotAllowed = errors.InsufficientPrivilege


@pytest.fixture
def workflow(conn: psycopg.Connection) -> UUID:
    """A workflow of four tasks, one completed."""
    workflow = new_workflow(conn, id=ID)
    new_tasks(conn, workflow, "completed", "running", "running", "failed")
    return workflow


@pytest.fixture
def role(conn: psycopg.Connection, new_role: Callable[..., Role]) -> Role:
    """An agent."""
    role = new_role()
    grant(conn, agents=[role.name])
    return role


@pytest.fixture
def agent(role: Role) -> psycopg.Connection:
    """A session of an agent."""
    return role.connect()


# --- What is refused ----------------------------------------------------------------------------------------

ON_WORKFLOW = [
    *(f"update public.workflow set {column} = default" for column in MAINTAINED),
    *(f"update public.workflow set {column} = {column}" for column in MAINTAINED),
    "update public.workflow set progress_frozen_at = now()",
    "update public.workflow set agents_planned = 1",
    "update public.workflow set status = 'completed'",
    "update public.workflow set id = gen_random_uuid()",
    "update public.workflow_progress set progress = 100",
    "insert into public.workflow (name, type) values ('w', 'app')",
    f"insert into public.workflow (id, name, type) values ('{ID}', 'w', 'a') on conflict (id) do update set name = 'x'",
    "insert into public.workflow (name, type, progress, progress_frozen_at) values ('w', 'app', 100, now())",
    "insert into public.workflow_progress (name, type) values ('w', 'app')",
    "delete from public.workflow",
    "delete from public.workflow_progress",
    "merge into public.workflow as w using (select) as s on true when matched then update set progress = 100",
    "with t as (update public.agent_task set status = 'completed' returning workflow_id)"
    " update public.workflow as w set agents_completed = 4 from t where w.id = t.workflow_id",
    "truncate public.workflow cascade",
    "select id from public.workflow for no key update",
    "select id from public.workflow for key share",
    "begin; lock table public.workflow in share mode",
    "copy public.workflow (name, type) from stdin",
    "select input_data from public.workflow",
    f"select public.transition_workflow('{ID}', 'completed')",
    f"select public.transition_workflow('{ID}', 'cancelled')",
    f"select public.advance_workflow('{ID}')",
    "select public.create_workflow('w', 'app')",
    "select public.archive_workflows('0 days')",
    "update public.workflow set parent_id = null",
    "select from public.workflow_event",
    "insert into public.workflow_transition values ('completed', 'running')",
    "insert into public.workflow_event (workflow_id, event_type) select workflow_id, 'x' from public.workflow_progress",
    "update public.workflow_stage set status = 'completed'",
    "update public.stage_definition set agents = 1",
]
ON_TASKS = [
    "delete from public.agent_task",
    "truncate public.agent_task",
    "update public.agent_task set workflow_id = gen_random_uuid()",
    "update public.agent_task set id = gen_random_uuid()",
    "update public.agent_task set payload = '{}'",
    "update public.agent_task set ordinal = 1",
    "merge into public.agent_task as t using (select) as s on true when matched then delete",
    "begin; lock table public.agent_task in share row exclusive mode",
]
FUNCTIONS = [
    "select public.repair_progress()",
    f"select public.repair_progress('{ID}')",
    "select public.maintain_progress()",
    "select public.guard_progress()",
    "select public.guard_transition()",
    "select public.follow_stages()",
    "select public.record_event()",
]
# What rights might allow; what the owner alone may do, whoever was granted what, is not for us to prove.
DEFINITIONS = [
    "create trigger mine before update on public.workflow for each row execute function pg_temp.mine()",
    "create trigger mine after update on public.agent_task for each row execute function pg_temp.mine()",
    "create trigger mine instead of update on public.workflow_progress for each row execute function pg_temp.mine()",
    "create table public.mine ()",
    "create function public.mine() returns integer language sql as 'select 1'",
    "create schema mine",
    "set session_replication_role = replica",
]


@pytest.fixture(scope="module")
def refusing(empty: Callable[[], str]) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """A session of the owner and one of an agent, on a database that many refusals leave as it is."""
    dsn = empty()
    migrate(dsn)
    name = f"agent_{uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create role {name} login password 'pw'")
        grant(conn, agents=[name])
        new_tasks(conn, new_workflow(conn, id=ID), "completed", "running", "running", "failed")
        new_tasks(conn, new_workflow(conn, status="completed"), "completed")  # which could be archived
        with psycopg.connect(dsn, user=name, password="pw", autocommit=True) as agent:
            agent.execute(
                "create function pg_temp.mine() returns trigger language plpgsql as $$ begin return new; end $$"
            )
            yield conn, agent
        conn.execute("select pg_terminate_backend(pid, 60000) from pg_stat_activity where usename = %s", [name])
        conn.execute(f"drop owned by {name} cascade")
        conn.execute(f"drop role {name}")


@pytest.mark.parametrize("statement", ON_WORKFLOW + ON_TASKS + FUNCTIONS + DEFINITIONS)
def test_an_agent_is_refused(refusing: tuple[psycopg.Connection, psycopg.Connection], statement: str) -> None:
    conn, agent = refusing
    all_of_it = "select w::text from public.workflow as w union all select t::text from public.agent_task as t"
    before = conn.execute(all_of_it).fetchall()
    act = agent.cursor().copy(statement).__enter__ if "from stdin" in statement else partial(agent.execute, statement)
    with pytest.raises(NotAllowed):
        act()
    agent.rollback()
    assert conn.execute(all_of_it).fetchall() == before


@pytest.mark.parametrize(
    "function", ["maintain_progress", "guard_progress", "guard_transition", "follow_stages", "record_event"]
)
def test_no_trigger_function_can_be_hung_on_a_table_of_the_agent(agent: psycopg.Connection, function: str) -> None:
    agent.execute("create temp table mine (like public.agent_task)")
    with pytest.raises(NotAllowed):
        agent.execute(
            "create trigger mine after insert on mine referencing new table as changed_task"
            f" for each statement execute function public.{function}()"
        )
    with pytest.raises(NotAllowed):
        agent.execute(f"create trigger mine before insert on mine for each row execute function public.{function}()")


def notify(conn: psycopg.Connection) -> None:
    """Turn notifications on, which fire an internal trigger function while tasks are counted."""
    conn.execute((resource("sql") / "optional" / "notify_on.sql").read_bytes())


# --- What it may do, and what counts then -------------------------------------------------------------------

SETTINGS = [
    "search_path = pg_temp, public",
    "search_path = public, pg_catalog",
    "row_security = off",
    "row_security = on",
    "agent_progress.drop_data = 'on'",
    "agent_progress.stalled_after = 'no interval'",
    "agent_progress.anything = 'off'",
    "transform_null_equals = on",
    "standard_conforming_strings = off",
    "plpgsql.extra_errors = 'all'",
    "plpgsql.check_asserts = off",
    "check_function_bodies = off",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "plan_cache_mode = force_generic_plan",
    "enable_indexscan = off",
    "enable_sort = off",
    "work_mem = 64",
    "cursor_tuple_fraction = 0",
    "TimeZone = 'Pacific/Kiritimati'",
    "DateStyle = 'German'",
    "quote_all_identifiers = on",
]


def test_no_setting_of_a_session_changes_what_is_counted(
    conn: psycopg.Connection, workflow: UUID, agent: psycopg.Connection
) -> None:
    for number, setting in enumerate(SETTINGS, start=1):
        agent.execute(f"set {setting}")
        count(agent, workflow)
        assert counters(conn, workflow) == (4 + 3 * number, 1 + number, 1 + number, 0), setting
        agent.execute(f"reset {setting.partition(' ')[0]}")


def count(agent: psycopg.Connection, workflow: UUID) -> None:
    """Add three tasks, complete one and let one fail, by statements of each path of the trigger."""
    with agent.transaction():
        (task,) = new_tasks(agent, workflow, "pending")
        set_status(agent, task, "running")
        set_status(agent, task, "completed")
        tasks = new_tasks(agent, workflow, "completed", "pending")
        agent.execute("update public.agent_task set status = 'failed' where id = any (%s)", [tasks])
        set_status(agent, tasks[0], "pending")


def test_tasks_written_by_a_trigger_of_the_agent_are_counted(
    conn: psycopg.Connection, workflow: UUID, agent: psycopg.Connection
) -> None:
    agent.execute("""
        create temp table mine (id integer);
        create function pg_temp.report() returns trigger language plpgsql as $$ begin
            update public.agent_task set status = 'completed' where status = 'running';
            return null;
        end $$;
        create trigger mine after insert on mine for each row execute function pg_temp.report();
        insert into mine values (1), (2);
    """)
    assert counters(conn, workflow) == (4, 3, 1, 0)


def test_counting_leaves_no_cursor_of_the_owner_behind(workflow: UUID, agent: psycopg.Connection) -> None:
    with agent.transaction():
        agent.execute("update public.agent_task set status = 'completed'")
        assert agent.execute("select name from pg_cursors where name <> ''").fetchall() == []


# --- Objects of its own in the way of the shipped ones ------------------------------------------------------

# Whatever of this runs says so. Types are in the temporary schema, relations in it or a schema of the agent's, and
# operators and functions in a schema of its own or, where it may create there, in public, beside ours.
TYPES = {
    "uuid": "pg_catalog.uuid",
    "text": "pg_catalog.text",
    "int4": "pg_catalog.int4",
    "int8": "pg_catalog.int8",
    "bool": "pg_catalog.bool",
    "jsonb": "pg_catalog.jsonb",
    "timestamptz": "pg_catalog.timestamptz",
    "record": "pg_catalog.uuid",
    "refcursor": "pg_catalog.uuid",
    "task_status": "public.task_status",
    "workflow_status": "public.workflow_status",
    "stage_status": "public.stage_status",
}
RELATIONS = (
    "workflow",
    "agent_task",
    "workflow_stage",
    "workflow_event",
    "workflow_transition",
    "stage_definition",
    "workflow_progress_calculated",
    "workflow_progress_drift",
    "old_task",
    "new_task",
    "changed_task",
)
COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
COMPARED = (
    *((name, name) for name in ("public.task_status", "public.workflow_status", "public.stage_status")),
    *((name, name) for name in ("uuid", "integer", "bigint", "text", "timestamptz", "boolean")),
    ("integer", "bigint"),
    ("bigint", "integer"),
    ("public.task_status", "text"),
    ("public.workflow_status", "text"),
)
SPY = "language plpgsql as $$ begin raise notice 'run as %', current_user; return {}; end $$"
BUILT_IN = (
    ("pg_trigger_depth()", "integer", "7"),
    ("clock_timestamp()", "timestamptz", "'epoch'::timestamptz"),
    ("now()", "timestamptz", "'epoch'::timestamptz"),
    ("current_setting(text)", "text", "'none'"),
    ("current_setting(text, boolean)", "text", "'none'"),
    ("pg_notify(text, text)", "void", ""),
    ("format(text, variadic text[])", "text", "'x'"),
    ("jsonb_build_object(variadic text[])", "jsonb", "'{}'::jsonb"),
    ("count(integer)", "bigint", "7"),
)
# Nearer to the arguments that come than ours are, or with fewer of them.
OVERLOADS = (
    ("progress_percentage(integer, integer)", "integer", "100"),
    ("progress_percentage(integer, bigint)", "integer", "100"),
    ("progress_percentage(bigint, integer)", "integer", "100"),
    ("progress_percentage(numeric, numeric)", "integer", "100"),
    ("progress_total(public.workflow_status, integer, integer)", "bigint", "1"),
    ("progress_total(public.workflow_status, bigint, integer)", "bigint", "1"),
    ("progress_total(text, bigint, bigint)", "bigint", "1"),
    ("repair_progress()", "setof integer", ""),
    ("plan_stages(uuid)", "integer", "1"),
    ("create_workflow(text, text)", "public.workflow", "null"),
    ("add_tasks(text, jsonb)", "setof integer", ""),
    ("report_task(text, text, text, jsonb, boolean)", "public.agent_task", "null"),
    ("report_task(uuid, uuid, public.task_status)", "public.agent_task", "null"),
    ("report_tasks(text, jsonb)", "setof integer", ""),
    ("report_tasks(uuid, json)", "setof integer", ""),
    ("transition_workflow(uuid, public.workflow_status)", "public.workflow", "null"),
    ("transition_workflow(uuid, public.workflow_status, text)", "public.workflow", "null"),
    ("transition_workflow(text, public.workflow_status, text, integer)", "public.workflow", "null"),
    ("advance_workflow(uuid)", "public.workflow", "null"),
    ("advance_workflow(text, integer)", "public.workflow", "null"),
)


def spying_functions(schema: str) -> Iterator[str]:
    for signature, returns, value in BUILT_IN + (OVERLOADS if schema == "public" else ()):
        yield f"create function {schema}.{signature} returns {returns} {SPY.format(value)}"


def spying_operators(schema: str) -> Iterator[str]:
    for left, right in COMPARED:
        yield f"create function {schema}.compare({left}, {right}) returns boolean {SPY.format('false')}"
        sides = f"leftarg = {left}, rightarg = {right}"
        yield from (
            f"create operator {schema}.{symbol} (function = {schema}.compare, {sides})" for symbol in COMPARISONS
        )
    for left, right in [("integer", "integer"), ("integer", "bigint"), ("bigint", "bigint"), ("bigint", "integer")]:
        yield f"create function {schema}.reckon({left}, {right}) returns {left} {SPY.format(42)}"
        sides = f"leftarg = {left}, rightarg = {right}"
        yield from (f"create operator {schema}.{symbol} (function = {schema}.reckon, {sides})" for symbol in "+-*/")


def spying_types() -> Iterator[str]:
    yield "create function pg_temp.spy(anyelement) returns boolean " + SPY.format("true")
    for name, base in TYPES.items():
        yield f"create domain pg_temp.{name} as {base} check (pg_temp.spy(value))"


def shadows(schema: str) -> Iterator[str]:
    for name in RELATIONS:
        columns = "id uuid, workflow_id uuid, status public.task_status, progress integer"
        yield f"create {'temp ' if schema == 'pg_temp' else ''}table {schema}.{name} ({columns})"


@pytest.fixture
def heard() -> list[str]:
    """What code of the agent's said when it ran."""
    return []


@pytest.fixture(params=["own", "public", "temporary", "casts"])
def hostile(
    request: pytest.FixtureRequest, conn: psycopg.Connection, role: Role, workflow: UUID, heard: list[str]
) -> psycopg.Connection:
    """A session of an agent that has put its own objects before or beside ours."""
    notify(conn)
    agent = role.connect()
    name = sql.Identifier(role.name)
    statements: list[str] = []
    if request.param == "own":
        conn.execute(sql.SQL("create schema own authorization {}").format(name))
        agent.execute("set search_path = own, pg_catalog, public")
        statements = [*spying_functions("own"), *spying_operators("own"), *shadows("own")]
    elif request.param == "public":
        conn.execute(sql.SQL("grant create on schema public to {}").format(name))
        statements = [*spying_functions("public"), *spying_operators("public")]
    elif request.param == "temporary":
        agent.execute("set search_path = pg_temp, public, pg_catalog")
        statements = [*shadows("pg_temp"), *spying_types()]
    else:
        conn.execute(sql.SQL("create schema own authorization {}").format(name))
        statements = [
            "create type own.mine as (a integer)",
            f"create function own.cast(public.task_status) returns own.mine {SPY.format('null')}",
            f"create function own.cast(uuid) returns own.mine {SPY.format('null')}",
            f"create function own.cast(own.mine) returns uuid {SPY.format('null')}",
            "create cast (public.task_status as own.mine) with function own.cast(public.task_status) as implicit",
            "create cast (uuid as own.mine) with function own.cast(uuid) as implicit",
            "create cast (own.mine as uuid) with function own.cast(own.mine) as implicit",
            f"create function own.compare(own.mine, own.mine) returns boolean {SPY.format('false')}",
            *(
                f"create operator own.{symbol} (function = own.compare, leftarg = own.mine, rightarg = own.mine)"
                for symbol in COMPARISONS
            ),
        ]
        agent.execute("set search_path = own, pg_catalog, public")
    for statement in statements:
        agent.execute(statement)
    agent.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
    return agent


def test_nothing_of_the_agents_runs_while_its_tasks_are_counted(
    conn: psycopg.Connection, workflow: UUID, hostile: psycopg.Connection, heard: list[str]
) -> None:
    insert = "insert into public.agent_task (workflow_id, agent_type, status) values (%s, 'a', %s)"
    hostile.execute(insert, [workflow, "pending"])
    hostile.execute(insert + ", (%s, 'a', %s)", [workflow, "completed", workflow, "failed"])
    assert counters(conn, workflow) == (7, 2, 2, 0)
    for status in ("pending", "assigned", "running", "failed", "completed"):
        hostile.execute(f"update public.agent_task set status = '{status}'")
    assert progress(conn, workflow) == (100, 7, 7)
    hostile.execute("update public.agent_task set status = 'running'")
    assert counters(conn, workflow) == (7, 0, 0, 0)
    assert heard == []


def test_nothing_of_an_operators_runs_with_the_rights_of_the_owner(
    conn: psycopg.Connection, role: Role, workflow: UUID, hostile: psycopg.Connection, heard: list[str]
) -> None:
    grant(conn, operators=[role.name])
    conn.execute(sql.SQL("grant truncate on agent_task to {}").format(sql.Identifier(role.name)))
    run_a_workflow(hostile)
    hostile.execute("truncate public.agent_task")
    assert [line for line in heard if line != f"run as {role.name}"] == []
    assert counters(conn, workflow) == (0, 0, 0, 0)


def test_nothing_of_an_agents_runs_in_the_sessions_of_others(
    conn: psycopg.Connection,
    workflow: UUID,
    hostile: psycopg.Connection,
    heard: list[str],
    new_role: Callable[..., Role],
) -> None:
    operator = new_role()
    grant(conn, operators=[operator.name])
    conn.execute("update stage_definition set agents = 2 where workflow_type = 'bugfix'")
    for session in (operator.connect(), conn):
        session.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        run_a_workflow(session)
    assert heard == []
    # The owner alone empties the table, which repairs.
    conn.execute("truncate public.agent_task")
    assert heard == []
    assert counters(conn, workflow) == (0, 0, 0, 0)


def run_a_workflow(session: psycopg.Connection) -> None:
    """Do what orchestrators do, in statements that have no operator and no call of their own but ours."""
    with session.transaction():
        row = session.execute(
            "insert into public.workflow (name, type) values ('w', 'bugfix') returning id::pg_catalog.text"
        ).fetchone()
        assert row is not None
        task = (
            "insert into public.agent_task (workflow_id, agent_type, status) values (%s, 'a', 'running')"
            " on conflict (id) do nothing"
        )
        session.execute(task, row)
        session.execute(task, row)
        session.execute("select public.plan_stages(w) from public.workflow as w")
        session.execute("update public.workflow set agents_planned = 5, priority = 'high'")
        advance(session, row[0])
        transition(session, row[0], "paused")
        (added, _) = add_tasks(session, create_workflow(session, "w", "bugfix").workflow_id, ["a", "b"])
        report_task(session, added.workflow_id, added.id, "completed")
        report_tasks(session, added.workflow_id, [(added.id, "failed", {"n": 1})])
        transition(session, row[0], "cancelled")
        session.execute("update public.agent_task set status = 'running'")
        session.execute("update public.agent_task set status = 'completed', result = '1'")
        session.execute("update public.agent_task set status = 'failed', completed_at = null")
        session.execute("update public.workflow set progress_frozen_at = pg_catalog.now()")
        session.execute("update public.workflow set progress_frozen_at = null")
        repair(session)
        session.execute("delete from public.agent_task")
        session.execute(
            "select from public.workflow_progress_drift, public.workflow_forecast, public.workflow_timeline"
        )
        raise psycopg.Rollback
