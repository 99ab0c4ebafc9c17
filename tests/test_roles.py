"""agent-progress grant, and what each kind of role can do after it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection, errors, sql

import pyapp
from pyapp.cli import main
from pyapp.roles import KINDS, grants, loopholes
from pyapp.shipped import resource
from tests.conftest import Role
from tests.helpers import as_replica, counters, give_away, new_tasks, new_workflow
from tests.pages import psql

NewRole = Callable[..., Role]
Run = Callable[..., tuple[int, str, str]]
SessionOf = Callable[[str], Connection]
ODD_NAMES = ['we"ird; Röle', "Select", "a b", "it's", "%s {}", "\\d"]
RIGHTS = """
    select c.relname::text, a.privilege_type, null from pg_class as c cross join aclexplode(c.relacl) as a
    where a.grantee = %(role)s::regrole
    union all
    select c.relname, a.privilege_type, t.attname from pg_attribute as t join pg_class as c on c.oid = t.attrelid
    cross join aclexplode(t.attacl) as a where a.grantee = %(role)s::regrole
    union all
    select p.proname, a.privilege_type, null from pg_proc as p cross join aclexplode(p.proacl) as a
    where a.grantee = %(role)s::regrole
    union all
    select n.nspname, a.privilege_type, null from pg_namespace as n cross join aclexplode(n.nspacl) as a
    where a.grantee = %(role)s::regrole
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on a database within this process: exit status, stdout, stderr."""

    def call(dsn: str | None, *arguments: Any) -> tuple[int, str, str]:
        status = main([*(["--dsn", dsn] if dsn else []), *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def closed(conn: Connection) -> None:
    """Leave nobody a right that was not granted to him: as careful administrators do."""
    conn.execute(
        "revoke all on schema public from public; revoke execute on all functions in schema public from public"
    )


def rights(conn: Connection, role: str) -> set[tuple[Any, ...]]:
    """Tell all rights that a role was granted: on what, which, and on which column."""
    return set(conn.execute(RIGHTS, {"role": sql.Identifier(role).as_string()}).fetchall())


# --- The command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_grant_what_it_prints_and_the_files_do_the_same_and_may_be_repeated(
    conn: Connection, dsn: str, bin_dir: Path, run: Run, new_role: NewRole, kind: str
) -> None:
    one, two, three = new_role(), new_role(name=f"{ODD_NAMES[0]} {kind} {conn.info.dbname}"), new_role()
    for _ in range(2):
        status, out, err = run(dsn, "grant", f"--{kind}", one.name)
        assert (status, err) == (0, "")
        assert out.splitlines() == grants(kind, one.name)
    granted = rights(conn, one.name)
    assert len(granted) > 10
    for revoke in ([], ["--revoke"]):
        status, script, _ = run(None, "grant", f"--{kind}", two.name, "--print", *revoke)
        assert (status, rights(conn, two.name)) == (0, granted if revoke else set())
        psql(bin_dir, dsn, script)
        assert rights(conn, two.name) == (set() if revoke else granted)
    for file in KINDS[kind]:
        text = (resource("sql") / "optional" / f"grant_{file}.sql").read_text()
        psql(bin_dir, dsn, text, f"--set=role={three.name}")
    assert rights(conn, three.name) == granted


def test_several_roles_of_any_name_are_granted_to_at_once_and_revoke_takes_all_of_it_back(
    conn: Connection, dsn: str, run: Run, new_role: NewRole
) -> None:
    odd = [new_role(name=f"{name} {conn.info.dbname}").name for name in ODD_NAMES]
    reader, both = new_role().name, new_role().name
    options = [f"--agent={name}" for name in (*odd, odd[0], both)] + ["--reader", reader, "--operator", both]
    assert run(dsn, "grant", *options)[::2] == (0, "")
    assert len({frozenset(rights(conn, name)) for name in odd}) == 1
    assert rights(conn, both) > rights(conn, odd[0])
    status, out, err = run(dsn, "grant", *options, "--revoke")
    assert (status, err) == (0, "")
    assert all(re.match("revoke .* from ", line) for line in out.splitlines())
    assert [rights(conn, name) for name in (*odd, reader, both)] == [set()] * (len(odd) + 2)
    assert run(dsn, "grant", *options, "--revoke")[0] == 0


@pytest.mark.parametrize("name", ["nobody_of_this_name", "public", "none", "current_user", "", "x" * 70, "two\nlines"])
def test_an_unknown_role_ends_in_one_line_and_nobody_gets_anything(
    conn: Connection, dsn: str, run: Run, new_role: NewRole, name: str
) -> None:
    other = new_role().name
    shown = name.replace("\n", "\N{REPLACEMENT CHARACTER}")
    refusal = (2, "", f'agent-progress: role "{shown}" does not exist\n')
    assert run(dsn, "grant", "--agent", other, f"--reader={name}") == refusal
    assert run(dsn, "grant", "--agent", other, f"--reader={name}", "--revoke") == refusal
    assert rights(conn, other) == set()


@pytest.mark.parametrize("has", [None, "agents", "operators"])
@pytest.mark.parametrize("revoke", [False, True])
def test_only_the_owner_grants_and_others_are_told_so(
    conn: Connection, dsn: str, run: Run, new_role: NewRole, has: str | None, revoke: bool
) -> None:
    granter, role = new_role(), new_role()
    conn.execute(f"alter role {granter.name} set client_min_messages = 'error'")  # PostgreSQL only warns
    if has:
        pyapp.grant(conn, **{has: [granter.name]})
    if revoke:
        pyapp.grant(conn, operators=[role.name])
    before = rights(conn, role.name)
    status, out, err = run(granter.dsn, "grant", "--operator", role.name, *(["--revoke"] if revoke else []))
    assert (status, out) == (2, "")
    assert re.fullmatch("agent-progress: .*(permission denied for|only its owner can).*\n", err)
    assert rights(conn, role.name) == before


def test_an_owner_of_the_tables_who_does_not_own_the_schema_grants_where_it_is_open(
    conn: Connection, dsn: str, run: Run, new_role: NewRole
) -> None:
    owner, role, other = new_role(), new_role(), new_role()
    give_away(conn, owner.name)
    assert run(owner.dsn, "grant", "--operator", role.name)[::2] == (0, "")
    assert pyapp.create_workflow(role.connect(), "w", "app").progress == 0
    assert run(owner.dsn, "grant", "--operator", role.name, "--revoke")[::2] == (0, "")
    assert rights(conn, role.name) == set()
    conn.execute("revoke all on schema public from public")
    status, out, err = run(owner.dsn, "grant", "--operator", other.name)
    assert (status, out) == (2, "")
    assert f'"{other.name}" may not use' in err
    with pytest.raises(errors.InsufficientPrivilege):
        pyapp.grant(owner.connect(), operators=[other.name])  # each statement of this session commits by itself
    assert rights(conn, other.name) == set()


def test_grant_tells_where_a_role_can_do_more_than_that(
    conn: Connection, dsn: str, run: Run, new_role: NewRole
) -> None:
    creates, owns = new_role(), new_role("superuser")
    conn.execute(f"grant create on schema public to {creates.name}")
    status, _, err = run(dsn, "grant", "--agent", creates.name, "--reader", owns.name)
    assert status == 0
    assert [line.split(":")[1] for line in err.splitlines()] == [
        f" {creates.name} may create objects in schema public, which sessions of others may come to run",
        f" {owns.name} is the owner of the tables, a member of it or a superuser",
    ]
    assert run(dsn, "grant", "--operator", creates.name)[2] == ""


def test_the_helper_grants_within_the_callers_transaction_and_leaves_its_session_alone(
    conn: Connection, session: Callable[[], Connection], new_role: NewRole
) -> None:
    name, caller = new_role().name, session()
    caller.execute("set client_min_messages = 'error'")
    caller.commit()
    assert len(pyapp.grant(caller, readers=[name])) == 3
    assert caller.execute("show client_min_messages").fetchone() == ("error",)
    with pytest.raises(pyapp.RoleNotFound):
        pyapp.grant(caller, readers=[name, "nobody_of_this_name"])
    assert rights(conn, name) == set()
    caller.rollback()
    assert rights(conn, name) == set()


def test_each_table_and_view_is_granted_or_left_out_on_purpose(conn: Connection, new_role: NewRole) -> None:
    roles = {kind: new_role().name for kind in KINDS}
    pyapp.grant(conn, **{f"{kind}s": [name] for kind, name in roles.items()})
    relations = (
        "relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'p', 'm') and relname not like '%%yoyo%%'"
    )

    def out_of_reach(kind: str, right: str) -> set[str]:
        query = f"select relname::text from pg_class where {relations} and not has_table_privilege(%s, oid, %s)"
        return {name for (name,) in conn.execute(query, [roles[kind], right])}

    views = {name for (name,) in conn.execute("select viewname::text from pg_views where schemaname = 'public'")}
    rules = {"workflow_transition", "stage_definition", "installed_object"}
    # An agent reads most columns of workflow.
    assert out_of_reach("agent", "select") == rules | {"workflow", "workflow_stage", "workflow_event"} | {
        view for view in views if not view.startswith(("workflow_progress", "workflow_tree"))
    }
    assert out_of_reach("reader", "select") == {"workflow_transition"}
    assert out_of_reach("operator", "select") == set()
    assert out_of_reach("operator", "delete") == views | rules
    for kind in KINDS:
        for right in ("truncate", "references", "trigger"):
            assert not rights(conn, roles[kind]) & {(name, right.upper(), None) for name in views | {"agent_task"}}


def test_each_function_is_granted_or_left_out_on_purpose(conn: Connection, closed: None, new_role: NewRole) -> None:
    query = (
        "select proname::text from pg_proc where pronamespace = 'public'::regnamespace"
        " and prorettype <> 'trigger'::regtype and has_function_privilege(%s, oid, 'execute')"
    )
    may: dict[str, set[str]] = {}
    for kind in KINDS:
        role = new_role().name
        pyapp.grant(conn, **{f"{kind}s": [role]})
        may[kind] = {name for (name,) in conn.execute(query, [role])}
    formula = {"progress_percentage", "progress_total"}
    assert may["agent"] == {"add_tasks", "report_task", "report_tasks"} | formula
    assert may["reader"] == formula
    # The guard's own half (05) is its owner's alone.
    everything = {name for (name,) in conn.execute(query, [conn.info.user])}
    assert may["operator"] == everything - {"settle_workflow"}


@pytest.mark.parametrize("schema", ['My "own" Agents', "public"])
def test_rights_are_given_in_the_schema_that_is_meant_and_no_other(
    conn: Connection, dsn: str, new_role: NewRole, schema: str
) -> None:
    pyapp.migrate(dsn, schema='My "own" Agents')
    other = {"public": 'My "own" Agents'}.get(schema, "public")
    role = new_role()
    granted = pyapp.grant(conn, agents=[role.name], readers=[role.name], schema=schema)
    assert sorted(granted) == sorted(
        text for kind in ("agent", "reader") for text in grants(kind, role.name, schema=schema)
    )
    workflow = pyapp.create_workflow(conn, "w", "app", schema=schema).workflow_id
    agent = role.connect()
    (task,) = pyapp.add_tasks(agent, workflow, ["a"], schema=schema)
    pyapp.report_task(agent, workflow, task.id, "completed", schema=schema)
    assert pyapp.get_workflow(agent, workflow, schema=schema).progress == 100
    with pytest.raises(errors.InsufficientPrivilege):
        pyapp.list_workflows(agent, schema=other)
    conn.execute(sql.SQL("grant create on schema {} to {}").format(sql.Identifier(schema), sql.Identifier(role.name)))
    assert [schema in line for line in loopholes(conn, [role.name], schema=schema)] == [True]
    pyapp.grant(conn, agents=[role.name], readers=[role.name], revoke=True, schema=schema)
    assert {right for _, right, _ in rights(conn, role.name)} <= {"CREATE"}


# --- What each can do ---------------------------------------------------------------------------------------


@pytest.fixture
def session_of(conn: Connection, closed: None, new_role: NewRole) -> SessionOf:
    """Open a session of a new role that has the rights of a kind, in a schema that is closed to all others."""

    def open_session(kind: str) -> Connection:
        role = new_role()
        pyapp.grant(conn, **{f"{kind}s": [role.name]})
        return role.connect()

    return open_session


def test_an_agent_does_its_whole_work_by_functions(conn: Connection, session_of: SessionOf) -> None:
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


def test_an_operator_creates_moves_repairs_and_archives_by_functions(conn: Connection, session_of: SessionOf) -> None:
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


def test_a_reader_reads_all_and_calls_nothing_that_writes(conn: Connection, session_of: SessionOf) -> None:
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


def test_a_reader_reads_by_every_command_and_writes_nothing(
    conn: Connection, closed: None, new_role: NewRole, run: Run
) -> None:
    role = new_role()
    pyapp.grant(conn, readers=[role.name])
    workflow = pyapp.create_workflow(conn, "w", "bugfix").workflow_id
    (task,) = new_tasks(conn, workflow, "running")
    pyapp.transition(conn, workflow, "cancelled")
    for command in (
        ["list", "--json"],
        ["show", workflow, "--tasks", "--timeline", "--metrics"],
        ["watch", workflow],
        ["watch", workflow, "--json"],
        ["check"],
        ["check", workflow],
    ):
        status, out, err = run(role.dsn, *command)
        assert (status, err) == (0, ""), command
        assert out
    as_replica(conn, "update agent_task set status = 'completed' where id = %s", [task])
    for command in (["repair"], ["transition", workflow, "running"], ["advance", workflow], ["notify", "on"]):
        status, out, err = run(role.dsn, *command)
        assert (status, out, len(err.splitlines())) == (2, "", 1), command
    assert len(pyapp.repair(conn)) == 1


def test_an_operator_changes_neither_rules_nor_schema(conn: Connection, session_of: SessionOf) -> None:
    operator = session_of("operator")
    for statement in (
        "truncate workflow cascade",
        "truncate agent_task",
        "update stage_definition set agents = 1",
        "insert into workflow_transition values ('completed', 'running')",
        "alter table agent_task disable trigger agent_task_progress_update",
        "create trigger t before update on workflow for each row execute function guard_progress()",
        "set session_replication_role = replica",
        "select maintain_progress()",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            operator.execute(statement)
