"""The scripts sql/optional/partition.sql and citus.sql: what they change, what they keep, and what stops them."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pglast
import psycopg
import pytest
from hypothesis.stateful import rule
from psycopg import errors
from psycopg.types.json import Jsonb

from pyapp import MigrationError, installed, migrate, rollback

from . import test_state_machine as machine
from .conftest import programs
from .helpers import counters, new_tasks, new_workflow, progress, run_script

PARTITION, CITUS = "sql/optional/partition.sql", "sql/optional/citus.sql"


def partition(dsn: str) -> None:
    migrate(dsn)
    run_script(programs(), dsn, PARTITION, partitions=4)


partitioned = pytest.mark.parametrize("dsn", [partition], indirect=True)
MERGE = """
    merge into {} as t
    using unnest(%(ids)s::uuid[]) as s (id) on t.workflow_id = %(workflow)s and t.id = s.id
    when matched then update set status = 'completed'
    when not matched then
        insert (id, workflow_id, agent_type, status) values (s.id, %(workflow)s, 'agent', 'failed')
"""
# All that is known of the objects of the schema, but what makes a table a partitioned one.
OBJECTS = """
    select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid), obj_description(p.oid),
        array(select a::text from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) as a order by 1)::text,
        p.proowner::regrole::text
    from pg_proc as p where p.pronamespace = 'public'::regnamespace
    union all
    select 'relation', c.relname, pg_get_viewdef(c.oid), obj_description(c.oid), c.relacl::text, c.reloptions::text
    from pg_class as c where c.relnamespace = 'public'::regnamespace and c.relname !~ '^agent_task_p[0-9]'
    union all
    select 'column', a.attname, format_type(a.atttypid, a.atttypmod), col_description(a.attrelid, a.attnum),
        a.attacl::text, concat(a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid))
    from pg_attribute as a left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = 'agent_task'::regclass and a.attnum > 0
    union all
    select 'trigger', t.tgname, pg_get_triggerdef(t.oid), obj_description(t.oid), t.tgenabled::text, null
    from pg_trigger as t where t.tgrelid = 'agent_task'::regclass and not t.tgisinternal
    union all
    select 'constraint', k.conname, pg_get_constraintdef(k.oid), null, null, null
    from pg_constraint as k where k.conrelid = 'agent_task'::regclass and k.contype in ('f', 'c', 'u')
    union all
    select 'index', i.indexrelid::regclass::text, replace(pg_get_indexdef(i.indexrelid), ' ONLY ', ' '),
        obj_description(i.indexrelid), null, null
    from pg_index as i where i.indrelid = 'agent_task'::regclass and not i.indisprimary
    order by 1, 2
"""


def refused(bin_dir: Path, dsn: str, file: str) -> str:
    """Run a script that refuses; what it says."""
    with pytest.raises(RuntimeError) as caught:
        run_script(bin_dir, dsn, file)
    return str(caught.value)


def home(conn: psycopg.Connection, workflow: Any) -> str:
    """Name the partition that the tasks of a workflow are in."""
    query = "select distinct tableoid::regclass::text from agent_task where workflow_id = %s"
    return str(conn.execute(query, [workflow]).fetchone()[0])


def two_homes(conn: psycopg.Connection) -> tuple[Any, Any]:
    """Make two workflows whose tasks, two each, are in different partitions."""
    first = new_workflow(conn)
    new_tasks(conn, first, "running", "completed")
    while True:
        other = new_workflow(conn)
        new_tasks(conn, other, "running", "completed")
        if home(conn, other) != home(conn, first):
            return first, other


# --- partition.sql --------------------------------------------------------------------------------------------


def test_partitioning_keeps_rows_and_all_that_hangs_on_the_table(
    conn: psycopg.Connection, dsn: str, bin_dir: Path
) -> None:
    first, second = new_workflow(conn), new_workflow(conn)
    new_tasks(conn, first, "completed", "running")
    new_tasks(conn, second, *["completed"] * 50)
    conn.execute("delete from agent_task where ordinal > 50")
    conn.execute("create view mine with (security_barrier) as select id, upper(agent_type) as kind from agent_task")
    conn.execute("create function open_tasks() returns setof agent_task language sql as 'select * from agent_task'")
    conn.execute("grant select on agent_task to pg_monitor; grant update (status) on agent_task to pg_monitor")
    conn.execute("revoke execute on function add_tasks from public; grant execute on function add_tasks to pg_monitor")
    conn.execute("alter default privileges grant all on tables to pg_read_all_data")
    conn.execute("alter default privileges grant all on functions to pg_read_all_data")
    conn.execute("alter table agent_task add column cost numeric not null default 0 check (cost >= 0)")
    conn.execute("alter table agent_task add column doubled numeric generated always as (cost * 2) stored")
    conn.execute("alter table agent_task enable always trigger agent_task_times")
    conn.execute("alter table agent_task set (fillfactor = 90)")
    rows, objects = "select * from agent_task order by ordinal", conn.execute(OBJECTS).fetchall()
    before = conn.execute(rows).fetchall()
    run_script(bin_dir, dsn, PARTITION, partitions=3)
    assert conn.execute(rows).fetchall() == before
    options = "'{fillfactor=90}'"  # of a partitioned table, its partitions have them
    moved = conn.execute(
        OBJECTS.replace(
            "c.reloptions::text", f"coalesce(c.reloptions::text, case c.relkind when 'p' then {options} end)"
        )
    )
    assert moved.fetchall() == objects
    conn.execute("select from open_tasks()")
    assert conn.execute(
        "select distinct reloptions from pg_class where relname like 'agent\\_task\\_p_'"
    ).fetchall() == [(["fillfactor=90"],)]
    assert conn.execute("select count(*) from pg_partition_tree('agent_task') where isleaf").fetchone() == (3,)
    key = (
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'agent_task'::regclass and contype = 'p'"
    )
    assert conn.execute(key).fetchone() == ("PRIMARY KEY (id, workflow_id)",)
    # Numbers of tasks that are gone are not given again.
    assert conn.execute(
        "insert into agent_task (workflow_id, agent_type) values (%s, 'a') returning ordinal", [first]
    ).fetchone() == (53,)
    grantees = "select distinct a.grantee <> c.relowner from pg_class as c, aclexplode(c.relacl) as a"
    assert conn.execute(f"{grantees} where relname = 'agent_task_p0'").fetchall() == [(False,)]


IN_THE_WAY = {
    "foreign key": (
        "create table t (task uuid references agent_task)",
        "constraint t_task_fkey on table t depends on it",
    ),
    "unique": ("create unique index once on agent_task (agent_type)", "once is unique without workflow_id"),
    "policy": ("create policy mine on agent_task", "policy mine on table agent_task depends on it"),
    "row security": ("alter table agent_task enable row level security", "it has row-level security"),
    "materialized view": ("create materialized view m as table agent_task", "materialized view m depends on it"),
    "parsed function": ("create function f() returns bigint return (select count(*) from agent_task)", "function f()"),
    "heir": ("create table heir () inherits (agent_task)", "table heir depends on it"),
    "column": ("create table t (task agent_task)", "column task of table t depends on it"),
    "rule": ("create rule r as on delete to agent_task do also nothing", "rule r on table agent_task depends on it"),
    "publication": ("create publication p for table agent_task", "in publication p depends on it"),
    "nothing": ("drop function maintain_progress cascade", "agent-progress is not installed"),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_stops_partitioning_is_named_and_nothing_is_changed(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, what: str
) -> None:
    hindrance, message = IN_THE_WAY[what]
    conn.execute(hindrance.encode())
    told = refused(bin_dir, dsn, PARTITION)
    assert "ERROR:  cannot partition" in told
    assert message in told.replace("public.", "")
    assert conn.execute("select relkind from pg_class where relname = 'agent_task'").fetchone() == ("r",)


def test_a_schema_of_another_name_is_partitioned_by_the_script_with_that_name(
    dsn: str, bin_dir: Path, tmp_path: Path
) -> None:
    migrate(dsn, schema="agents")
    script = tmp_path / "partition.sql"
    script.write_text((Path(__file__).parents[1] / PARTITION).read_text("utf-8").replace("public.", "agents."), "utf-8")
    for _ in range(2):
        run_script(bin_dir, dsn, str(script))
    with psycopg.connect(dsn, autocommit=True) as conn:
        query = "select relnamespace::regnamespace::text, relkind from pg_class where relname = 'agent_task' order by 1"
        assert conn.execute(query).fetchall() == [("agents", "p"), ("public", "r")]
        assert installed.differences(conn, "agents") == []
        conn.execute("set search_path = agents")
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "running")
        assert progress(conn, workflow) == (50, 1, 2)


@partitioned
def test_writes_to_a_partition_are_counted_as_those_to_the_whole(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    part = home(conn, workflow)
    conn.execute(f"insert into {part} (workflow_id, agent_type, status) values (%s, 'a', 'failed')", [workflow])
    conn.execute(f"insert into {part} (workflow_id, agent_type) select %s, 'a' from generate_series(1, 3)", [workflow])
    assert counters(conn, workflow) == (6, 1, 1, 0)
    conn.execute(f"update {part} set status = 'completed' where status = 'running'")
    conn.execute(f"update {part} set status = 'cancelled' where status = 'pending'")
    assert counters(conn, workflow) == (6, 2, 1, 3)
    conn.execute(f"delete from {part} where status = 'cancelled'")
    assert counters(conn, workflow) == (3, 2, 1, 0)
    assert conn.execute(
        f"select count(*) from {part} where completed_at is null and status >= 'completed'"
    ).fetchone() == (0,)
    conn.execute("update agent_task set workflow_id = %s where workflow_id = %s", [other, workflow])
    assert (counters(conn, workflow), counters(conn, other)) == ((0, 0, 0, 0), (5, 3, 1, 0))


@partitioned
@pytest.mark.parametrize("direct", [False, True], ids=["whole", "partition"])
def test_a_merge_that_inserts_before_it_updates_is_counted(conn: psycopg.Connection, direct: bool) -> None:
    conn.execute("set enable_hashjoin = off; set enable_mergejoin = off")  # row by row, in the order that is given
    workflow = new_workflow(conn)
    there = new_tasks(conn, workflow, "running", "running")
    new = [row[0] for row in conn.execute("select gen_random_uuid() from generate_series(1, 3)")]
    ids = [new[0], there[0], new[1], there[1], new[2]]
    conn.execute(MERGE.format(home(conn, workflow) if direct else "agent_task"), {"ids": ids, "workflow": workflow})
    assert counters(conn, workflow) == (5, 2, 3, 0)


@partitioned
def test_truncating_one_partition_counts_what_is_left(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    conn.execute(f"truncate {home(conn, workflow)}")
    assert (progress(conn, workflow), progress(conn, other)) == ((0, 0, 0), (50, 1, 2))


@partitioned
def test_running_the_script_again_gives_a_partition_the_triggers_that_it_lacks(
    conn: psycopg.Connection, dsn: str, bin_dir: Path
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "running")
    query = (
        "select tgrelid::regclass::text, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1, 2"
    )
    before = conn.execute(query).fetchall()
    for event in ("insert", "update", "delete", "truncate"):
        conn.execute(f"drop trigger agent_task_progress_{event} on {home(conn, workflow)}")
    run_script(bin_dir, dsn, PARTITION)
    assert conn.execute(query).fetchall() == before
    # As those of the whole, but for the name of the table.
    [whole] = conn.execute(
        "select array_agg(replace(pg_get_triggerdef(oid), 'public.agent_task ', 'public.x ') order by tgname)"
        " from pg_trigger where tgrelid = 'agent_task'::regclass and not tgisinternal"
    ).fetchone()
    [part] = conn.execute(
        "select array_agg(replace(pg_get_triggerdef(oid), %s, 'public.x ') order by tgname)"
        " from pg_trigger where tgrelid = %s::regclass and not tgisinternal",
        [f"public.{home(conn, workflow)} ", home(conn, workflow)],
    ).fetchone()
    assert part == whole


@partitioned
def test_migrate_renews_a_partitioned_database_and_rollback_leaves_nothing(conn: psycopg.Connection, dsn: str) -> None:
    assert installed.differences(conn) == []
    new_tasks(conn, new_workflow(conn), "completed", "running")
    conn.execute("delete from installed_object")
    assert migrate(dsn) == []
    assert installed.differences(conn) == []
    conn.execute("update agent_task set status = 'failed' where status = 'running'")
    rollback(dsn, all=True, drop_data=True)
    left = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace"
        " union all select proname from pg_proc where pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert left == []


@partitioned
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_what_names_a_workflow_reads_one_partition(conn: psycopg.Connection, plan: str) -> None:
    workflow, _ = two_homes(conn)
    conn.execute(f"set plan_cache_mode = {plan}")
    for view in ("workflow_progress_calculated", "workflow_forecast", "workflow_timeline", "workflow_burnup"):
        conn.execute(f"prepare one (uuid) as select * from {view} where workflow_id = $1")
        told = "\n".join(line for (line,) in conn.execute(f"explain (analyze) execute one ('{workflow}')"))
        scans = [line for line in told.splitlines() if "Scan" in line and "never executed" not in line]
        assert set(re.findall(r"agent_task_p\d", "\n".join(scans))) == {home(conn, workflow)}, view
        conn.execute("deallocate one")


class Partitioned(machine.Tables):
    """The same statements, but that an upsert names the whole key, and so moves no task."""

    def stay(self, places: list[Any]) -> dict[Any, Any]:
        return {key: (self.tasks[key][0], status) for key, (_, status) in self.moved(places).items()}

    @rule(new=machine.places, old=machine.places)
    def upsert(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.stay(old)
        update = " on conflict (id, workflow_id) do update set status = excluded.status"
        self.conn.execute(machine.INSERT + update, self.columns(rows))
        self.tasks |= rows

    @rule(new=machine.places, old=machine.places)
    def insert_unless_there(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.stay(old)
        self.conn.execute(machine.INSERT + " on conflict do nothing", self.columns(rows))
        self.tasks = rows | self.tasks


@partitioned
def test_stored_calculated_and_model_agree_after_any_statements(conn: psycopg.Connection) -> None:
    machine.compare(conn, 25, Partitioned)


@partitioned
@pytest.mark.parametrize("event", ["insert", "update"])
def test_a_partition_without_its_trigger_is_named_and_gets_it_from_migrate(
    event: str, conn: psycopg.Connection, dsn: str
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, *["running"] * 8)
    assert installed.differences(conn) == []
    query = "select relid::regclass::text from pg_partition_tree('agent_task') where level = 1"
    parts = [part for (part,) in conn.execute(query)]
    conn.execute(f"drop trigger agent_task_progress_{event} on {parts[1]}")
    assert installed.differences(conn) == [f"trigger agent_task_progress_{event} on partition {parts[1]} is missing"]
    for part in parts:
        conn.execute(f"update {part} set status = 'completed'")
    migrate(dsn)
    assert installed.differences(conn) == []
    assert progress(conn, workflow) == (100, 8, 8)


@partitioned
def test_the_triggers_of_partitions_are_renewed_with_those_of_the_whole(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create or replace trigger agent_task_progress_insert after insert on agent_task"
        " referencing new table as changed for each statement execute function maintain_progress()"
    )
    conn.execute(
        "create or replace trigger agent_task_progress_insert after insert on agent_task_p0"
        " referencing new table as other for each statement execute function maintain_progress()"
    )
    migrate(dsn)
    query = (
        "select pg_get_triggerdef(oid) from pg_trigger"
        " where tgrelid = 'agent_task_p0'::regclass and tgname = 'agent_task_progress_insert'"
    )
    [definition] = conn.execute(query).fetchone()
    assert "changed_task" in definition


# --- citus.sql ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [PARTITION, CITUS])
def test_what_psql_sends_is_sql(file: str) -> None:
    text = (Path(__file__).parents[1] / file).read_text("utf-8")
    text = re.sub(r"^ *\\(if|else|endif|set).*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" \\(gexec|gset|g /dev/null)$", ";", text, flags=re.MULTILINE).replace(":partitions", "16")
    first, *_ = pglast.parse_sql(text)
    assert isinstance(first.stmt, pglast.ast.DoStmt)


def test_rollback_refuses_what_citus_has_distributed(conn: psycopg.Connection, dsn: str) -> None:
    text = (Path(__file__).parents[1] / CITUS).read_text("utf-8")
    [function] = re.findall(r"^create function public\.refuse_truncate.*?^\$\$;", text, re.M | re.S)
    conn.execute(function)
    before = conn.execute(OBJECTS).fetchall()
    for options in ({}, {"all": True, "drop_data": True}):
        with pytest.raises(MigrationError, match="nothing changed: Citus has distributed the tables of schema public"):
            rollback(dsn, **options)
    assert conn.execute(OBJECTS).fetchall() == before


def test_without_citus_the_script_says_so_and_changes_nothing(
    conn: psycopg.Connection, dsn: str, bin_dir: Path, empty: Callable[[], str]
) -> None:
    before = conn.execute(OBJECTS).fetchall()
    assert "cannot distribute: the extension citus is missing in this database" in refused(bin_dir, dsn, CITUS)
    assert conn.execute(OBJECTS).fetchall() == before
    assert "cannot distribute: agent-progress is not installed in this schema" in refused(bin_dir, empty(), CITUS)


def test_what_changes_for_citus_knows_our_functions(conn: psycopg.Connection) -> None:
    text = (Path(__file__).parents[1] / CITUS).read_text("utf-8")
    [found] = re.findall(r"'(a\.workflow_id is not distinct from .*)',", text)
    [body] = conn.execute("select prosrc from pg_proc where proname = 'report_tasks'").fetchone()
    assert body.count("is not distinct from") == body.count(found) == 3
    called = (
        "select proname::text from pg_proc where pronamespace = 'public'::regnamespace and prolang <> 14"  # not sql
    )
    names = conn.execute(called + " and prorettype <> 'trigger'::regtype").fetchall()
    assert [name for (name,) in names if f"'{name}'" not in text] == []


def test_on_citus_a_tree_is_the_workflow_alone(conn: psycopg.Connection) -> None:
    text = (Path(__file__).parents[1] / CITUS).read_text("utf-8")
    [view] = re.findall(r"^create or replace view public\.workflow_tree_progress.*?;", text, re.M | re.S)
    child = new_workflow(conn, parent_id=new_workflow(conn))
    new_tasks(conn, child, "completed", "running")
    conn.execute(view)
    rows = conn.execute("select workflows, depth, progress from workflow_tree_progress order by progress").fetchall()
    assert rows == [(1, 1, 0), (1, 1, 50)]


@pytest.fixture
def citus(server: str, own_server: Callable[..., Any]) -> Iterator[psycopg.Connection]:
    """A connection to a node of Citus that holds shards itself, with our schema, not yet distributed."""
    with psycopg.connect(server, dbname="postgres") as conn:
        query = "select exists (select from pg_available_extensions where name = 'citus')"
        if conn.execute(query).fetchone() != (True,):
            pytest.skip("this server has no Citus: TEST_POSTGRES may name the programs of one that has")
    settings = {
        "shared_preload_libraries": "citus",
        "max_prepared_transactions": "50",
        "citus.shard_count": "4",
        "citus.enable_statistics_collection": "off",  # it would call home
    }
    node = own_server(**settings)
    migrate(node.dsn)
    with psycopg.connect(node.dsn, autocommit=True) as conn:
        conn.execute("create extension citus")
        where = conn.info
        conn.execute("select citus_set_coordinator_host(%s, %s)", [where.host, where.port])
        conn.execute("select citus_set_node_property(%s, %s, 'shouldhaveshards', true)", [where.host, where.port])
        yield conn
        assert conn.execute("select * from workflow_progress_drift").fetchall() == []


def test_on_citus_rows_are_kept_and_every_function_works(citus: psycopg.Connection, bin_dir: Path) -> None:
    conn, dsn = citus, citus.info.dsn
    there = new_workflow(conn)
    new_tasks(conn, there, "completed", "running")
    conn.execute(
        "create trigger mine after insert on workflow_stage execute function suppress_redundant_updates_trigger()"
    )
    assert "trigger mine on workflow_stage is yours" in refused(bin_dir, dsn, CITUS)
    conn.execute("drop trigger mine on workflow_stage")
    for _ in range(2):
        run_script(bin_dir, dsn, CITUS)
        assert conn.execute("select count(*) from pg_dist_partition").fetchone() == (6,)
    assert installed.differences(conn) == []
    assert migrate(dsn) == []
    assert counters(conn, there) == (2, 1, 0, 0)
    assert_counted_in_every_way(conn)
    for statement in ("truncate agent_task", "truncate workflow cascade"):
        with pytest.raises(errors.FeatureNotSupported, match="cannot be truncated"):
            conn.execute(statement)
    with pytest.raises(errors.FeatureNotSupported, match="partition value"):
        conn.execute("update agent_task set workflow_id = %s", [there])


def assert_counted_in_every_way(conn: psycopg.Connection) -> None:
    [root] = conn.execute("select id from create_workflow('root', 'app', agents_planned => 9)").fetchone()
    ids = [
        conn.execute("select id from create_workflow('w', 'bugfix', parent_id => %s)", [root]).fetchone()[0]
        for _ in range(8)
    ]
    tasks = Jsonb(["a", {"agent_type": "b", "external_id": "k"}, "c", "d"])
    for workflow in ids:
        added = conn.execute("select id, agent_type from add_tasks(%s, %s)", [workflow, tasks]).fetchall()
        assert [kind for _, kind in added] == ["a", "b", "c", "d"]
        conn.execute("select report_task(%s, %s, 'completed')", [workflow, added[0][0]])
        conn.execute("select report_task(%s, %s, 'running')", [workflow, added[0][0]])  # late
        conn.execute("select report_task(%s, %s, 'running', null, true)", [workflow, added[0][0]])
        reports = [{"external_id": "k", "status": "completed"}, {"task_id": str(added[2][0]), "status": "failed"}]
        conn.execute("select report_tasks(%s, %s)", [workflow, Jsonb(reports)])
        assert counters(conn, workflow) == (4, 1, 1, 0)
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("select report_tasks(%s, %s)", [workflow, Jsonb([{"external_id": "x", "status": "failed"}])])
        assert caught.value.sqlstate == "WP003"
    conn.execute("update agent_task set status = 'completed' where status = 'running'")
    conn.execute("insert into agent_task (workflow_id, agent_type) select id, 'one more' from workflow")
    assert counters(conn, ids[0]) == (5, 2, 1, 0)
    assert conn.execute("select current_stage from advance_workflow(%s)", [ids[0]]).fetchone() == ("validation",)
    conn.execute("select transition_workflow(%s, 'cancelled')", [ids[0]])
    assert counters(conn, ids[0]) == (5, 2, 1, 2)
    for view in ("timeline", "forecast", "burnup", "stage_agents", "stage_progress", "progress"):
        conn.execute(f"select * from workflow_{view} where workflow_id = %s", [ids[0]])
    assert conn.execute("select tasks from archive_workflows('0 days')").fetchall() == [(5,)]
    assert conn.execute("select * from repair_progress()").fetchall() == []
    conn.execute("delete from workflow where id = %s", [ids[1]])
    assert conn.execute("select count(*) from agent_task where workflow_id = %s", [ids[1]]).fetchone() == (0,)
    threads = [threading.Thread(target=complete_all, args=(conn.info.dsn, ids[2:])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def complete_all(dsn: str, workflows: list[Any]) -> None:
    """Complete the open tasks of one workflow after the other, one by one."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for workflow in workflows:
            for (task,) in conn.execute("select id from agent_task where workflow_id = %s", [workflow]).fetchall():
                conn.execute("select report_task(%s, %s, 'completed')", [workflow, task])
