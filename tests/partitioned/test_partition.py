"""A database whose tasks are partitioned: writes to partitions, MERGE, plans, check, migrations, copies, roles."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

import pyapp
from pyapp.migrate import migrate, rollback
from pyapp.schema import missing_objects
from tests.adopt.application import cli, succeed
from tests.conftest import Role
from tests.helpers import counters, new_tasks, new_workflow, progress, row_version
from tests.test_migrate import ALL

MERGE = """
    merge into {} as t
    using unnest(%(ids)s::uuid[]) as s (id) on t.workflow_id = %(workflow)s and t.id = s.id
    when matched then update set status = 'completed'
    when not matched then
        insert (id, workflow_id, agent_type, status) values (s.id, %(workflow)s, 'agent', 'failed')
"""


def home(conn: psycopg.Connection, workflow: Any) -> str:
    """Name the partition that the tasks of a workflow are in."""
    row = conn.execute(
        "select distinct tableoid::regclass::text from agent_task where workflow_id = %s", [workflow]
    ).fetchone()
    assert row is not None
    assert row[0].startswith("agent_task_p")
    return str(row[0])


def two_homes(conn: psycopg.Connection) -> tuple[Any, Any]:
    """Make two workflows whose tasks, two each, are in different partitions."""
    first = new_workflow(conn)
    new_tasks(conn, first, "running", "completed")
    while True:
        other = new_workflow(conn)
        new_tasks(conn, other, "running", "completed")
        if home(conn, other) != home(conn, first):
            return first, other


# --- Counting -----------------------------------------------------------------------------------------------


def test_writes_to_a_partition_are_counted_as_those_to_the_whole(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    part = home(conn, workflow)
    before = row_version(conn, other)
    conn.execute(f"insert into {part} (workflow_id, agent_type, status) values (%s, 'a', 'failed')", [workflow])
    assert counters(conn, workflow) == (3, 1, 1, 0)
    conn.execute(f"insert into {part} (workflow_id, agent_type) select %s, 'a' from generate_series(1, 3)", [workflow])
    assert counters(conn, workflow) == (6, 1, 1, 0)
    conn.execute(f"update {part} set status = 'completed' where status = 'running'")
    assert counters(conn, workflow) == (6, 2, 1, 0)
    conn.execute(f"update {part} set status = 'cancelled' where status = 'pending'")
    assert counters(conn, workflow) == (6, 2, 1, 3)
    with conn.cursor().copy(f"copy {part} (workflow_id, agent_type, status) from stdin") as copy:
        copy.write_row((workflow, "a", "completed"))
    assert counters(conn, workflow) == (7, 3, 1, 3)
    conn.execute(f"delete from {part} where status = 'cancelled'")
    assert counters(conn, workflow) == (4, 3, 1, 0)
    assert row_version(conn, other) == before


def test_a_write_to_a_partition_that_is_not_its_own_is_refused_and_counts_nothing(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    with pytest.raises(errors.CheckViolation):
        conn.execute(f"insert into {home(conn, other)} (workflow_id, agent_type) values (%s, 'a')", [workflow])
    assert progress(conn, workflow) == (50, 1, 2)


def test_a_task_that_moves_to_another_partition_is_counted_there(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    conn.execute("update agent_task set workflow_id = %s where workflow_id = %s", [other, workflow])
    assert (counters(conn, workflow), counters(conn, other)) == ((0, 0, 0, 0), (4, 2, 0, 0))


@pytest.mark.parametrize("direct", [False, True], ids=["whole", "partition"])
def test_a_merge_that_inserts_before_it_updates_is_counted(conn: psycopg.Connection, direct: bool) -> None:
    conn.execute("set enable_hashjoin = off; set enable_mergejoin = off")  # row by row, in the order that is given
    workflow = new_workflow(conn)
    there = new_tasks(conn, workflow, "running", "running")
    new = [row[0] for row in conn.execute("select gen_random_uuid() from generate_series(1, 3)")]
    ids = [new[0], there[0], new[1], there[1], new[2]]
    conn.execute(MERGE.format(home(conn, workflow) if direct else "agent_task"), {"ids": ids, "workflow": workflow})
    assert counters(conn, workflow) == (5, 2, 3, 0)


def test_truncating_one_partition_counts_what_is_left(conn: psycopg.Connection) -> None:
    workflow, other = two_homes(conn)
    conn.execute(f"truncate {home(conn, workflow)}")
    assert (progress(conn, workflow), progress(conn, other)) == ((0, 0, 0), (50, 1, 2))


def test_times_are_filled_in_whichever_table_is_named(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "running", "pending")
    conn.execute(f"update {home(conn, workflow)} set status = 'completed'")
    assert conn.execute("select count(completed_at) from agent_task").fetchone() == (2,)


def test_an_agent_a_reader_and_an_operator_can_do_what_they_could(
    conn: psycopg.Connection, dsn: str, new_role: Callable[..., Role]
) -> None:
    agent, operator = new_role(), new_role()
    pyapp.grant(conn, agents=[agent.name], operators=[operator.name])
    workflow = pyapp.create_workflow(operator.connect(), "w", "app").workflow_id
    session = agent.connect()
    one, two = pyapp.add_tasks(session, workflow, ["a", {"agent_type": "b", "external_id": "k"}])
    pyapp.report_tasks(session, workflow, [(one.id, "completed"), (two.id, "failed")])
    assert pyapp.get_workflow(session, workflow).progress == 50
    with pytest.raises(errors.InsufficientPrivilege):
        session.execute(f"update {home(conn, workflow)} set status = 'completed'")
    pyapp.transition(operator.connect(), workflow, "cancelled")
    succeed(operator.dsn, "check")
    succeed(operator.dsn, "show", str(workflow), "--tasks", "--timeline")
    operator.connect().execute("delete from workflow")
    assert conn.execute("select count(*) from agent_task").fetchone() == (0,)


# --- Plans --------------------------------------------------------------------------------------------------


def read(conn: psycopg.Connection, query: str, values: Any = None) -> set[str]:
    """Run a query and tell which tables of tasks it read, or, where all of a table was read, that."""
    [[[plan]]] = conn.execute(f"explain (analyze, format json) {query}", values).fetchall()
    found: set[str] = set()

    def look(node: dict[str, Any]) -> None:
        if (
            node.get("Actual Loops")
            and node["Node Type"] != "ModifyTable"
            and str(node.get("Relation Name", "")).startswith("agent_task")
        ):
            found.add(node["Relation Name"] + (" whole" if node["Node Type"] == "Seq Scan" else ""))
        for child in node.get("Plans", []):
            look(child)

    look(plan["Plan"])
    return found


@pytest.fixture
def many(conn: psycopg.Connection) -> Any:
    """Make a workflow among others with many tasks; return its id."""
    conn.execute("insert into workflow (name, type, status) select 'w', 'app', 'running' from generate_series(1, 100)")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, stage, status) select w.id, 'a', 'validation',"
        " (enum_range(null::task_status))[1 + g %% 6] from workflow as w, generate_series(1, 100) as g".replace(
            "%%", "%"
        )
    )
    conn.execute("vacuum analyze agent_task, workflow")
    return conn.execute("select id from workflow limit 1").fetchone()[0]


@pytest.mark.parametrize(
    "view",
    [
        "workflow_progress_calculated",
        "workflow_progress_drift",
        "workflow_forecast",
        "workflow_timeline",
        "workflow_burnup",
        "workflow_stage_agents",
    ],
)
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_a_view_of_one_workflow_reads_one_partition_by_index(
    conn: psycopg.Connection, many: Any, view: str, plan: str
) -> None:
    conn.execute("insert into workflow_stage (workflow_id, name, position) values (%s, 'validation', 0)", [many])
    conn.execute(f"set plan_cache_mode = {plan}")
    conn.execute(f"prepare one (uuid) as select * from {view} where workflow_id = $1")
    assert read(conn, f"execute one ('{many}')") == {home(conn, many)}


def test_the_helpers_read_one_partition_by_index(
    conn: psycopg.Connection, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = home(conn, many)
    tasks = pyapp.list_tasks(conn, many)
    assert len(tasks) == 100
    seen: list[set[str]] = []
    execute = psycopg.Cursor.execute

    def explained(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        text = query if isinstance(query, str) else query.as_string(self)
        if "agent_task" in text and not text.lstrip().startswith("explain"):
            with self.connection.transaction(force_rollback=True):
                monkeypatch.setattr(psycopg.Cursor, "execute", execute)
                seen.append(read(self.connection, text, params))
                monkeypatch.setattr(psycopg.Cursor, "execute", explained)
        return execute(self, query, params, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", explained)
    pyapp.report_task(conn, many, tasks[0].id, "completed")
    pyapp.report_tasks(conn, many, [(task.id, "failed") for task in tasks[:5]])
    pyapp.list_tasks(conn, many)
    pyapp.find_drift(conn, [many])
    monkeypatch.undo()
    assert len(seen) >= 3
    assert [found for found in seen if found != {part}] == []
    # Who names the task alone finds it by index as well, in each partition.
    assert [name for name in read(conn, "select from agent_task where id = %s", [tasks[0].id]) if " " in name] == []


# --- The schema ---------------------------------------------------------------------------------------------


def test_check_tells_a_trigger_that_a_partition_lacks_and_partition_or_migrate_mends(
    conn: psycopg.Connection, dsn: str
) -> None:
    succeed(dsn, "check")
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "running")
    part = home(conn, workflow)
    for mend in ("partition", "migrate"):
        conn.execute(f"drop trigger agent_task_progress_update on {part}")
        conn.execute("drop trigger agent_task_progress_merge on agent_task")
        told = cli(dsn, "check")
        assert told.code == 1
        assert f"missing: trigger agent_task_progress_update on public.{part}\n" in told.out
        assert "missing: trigger agent_task_progress_merge\n" in told.out
        succeed(dsn, mend)
        succeed(dsn, "check")
        conn.execute(
            f"update {part} set status = case status when 'running' then 'failed' else 'running' end::task_status"
        )
        assert progress(conn, workflow)[2] == 1
    conn.execute(f"alter table {part} disable trigger agent_task_progress_insert")
    for name in ("agent_task_reopened", "agent_task_times", "agent_task_times_insert"):
        conn.execute(f"alter table {part} disable trigger {name}")
    assert missing_objects(conn) == [
        f"trigger agent_task_progress_insert on public.{part} disabled",
        f"trigger agent_task_reopened on public.{part} disabled",
        f"trigger agent_task_times on public.{part} disabled",
        f"trigger agent_task_times_insert on public.{part} disabled",
    ]
    assert migrate(dsn) == []  # somebody's intention
    assert len(missing_objects(conn)) == 4


def test_a_trigger_of_another_form_is_told_and_renewed(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create or replace trigger agent_task_progress_update after update on agent_task"
        " referencing old table as old_task new table as new_task for each statement when (true)"
        " execute function maintain_progress()"
    )
    assert len(missing_objects(conn)) == 4
    migrate(dsn)
    assert missing_objects(conn) == []


def test_partitioning_again_says_that_it_is_done(dsn: str) -> None:
    assert succeed(dsn, "partition").out == "nothing to do: agent_task has 4 partitions\n"
    assert json.loads(succeed(dsn, "partition", "--partitions", "8", "--json").out) == {"partitions": 4}
    assert succeed(dsn, "partition", "--dry-run").out == "nothing to do: agent_task has 4 partitions\n"


def test_migrations_go_down_and_up_again(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    while "0003" not in (gone := rollback(dsn))[0]:
        assert len(gone) == 1
    conn.execute("update agent_task set status = 'completed'")
    assert migrate(dsn) == ALL[2:]
    assert missing_objects(conn) == []
    assert progress(conn, workflow) == (100, 2, 2)


def test_rollback_of_all_leaves_nothing(conn: psycopg.Connection, dsn: str) -> None:
    new_tasks(conn, new_workflow(conn), "completed", "running")
    rollback(dsn, all=True, drop_data=True)
    left = conn.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace"
        " union all select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " union all select typname from pg_type where typnamespace = 'public'::regnamespace"
    ).fetchall()
    assert left == []


def test_later_migrations_can_change_the_table(conn: psycopg.Connection) -> None:
    conn.execute("alter table public.agent_task add column cost numeric not null default 0")
    conn.execute("create index agent_task_cost_idx on public.agent_task (cost)")
    conn.execute("alter table public.agent_task drop column cost")
    new_tasks(conn, new_workflow(conn), "completed", "running")


def test_a_dump_restores_into_the_same(conn: psycopg.Connection, dsn: str, empty: Any, bin_dir: Path) -> None:
    workflow, other = two_homes(conn)
    dump = subprocess.run([bin_dir / "pg_dump", f"--dbname={dsn}"], capture_output=True, check=True).stdout
    copy = empty()
    psql = [bin_dir / "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]
    subprocess.run([*psql, f"--dbname={copy}"], input=dump, check=True, capture_output=True)
    with psycopg.connect(copy, autocommit=True) as restored:
        assert missing_objects(restored) == []
        assert (progress(restored, workflow), progress(restored, other)) == ((50, 1, 2), (50, 1, 2))
        restored.execute(f"update {home(restored, workflow)} set status = 'completed'")
        assert progress(restored, workflow) == (100, 2, 2)
    succeed(copy, "check")
    assert migrate(copy) == []


def test_a_data_only_restore_counts_itself(conn: psycopg.Connection, dsn: str, bin_dir: Path) -> None:
    workflow, _ = two_homes(conn)
    arguments = ["--data-only", "--table=agent_task*", f"--dbname={dsn}"]
    dump = subprocess.run([bin_dir / "pg_dump", *arguments], capture_output=True, check=True).stdout
    conn.execute("truncate agent_task")
    psql = [bin_dir / "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]
    subprocess.run([*psql, f"--dbname={dsn}"], input=dump, check=True, capture_output=True)
    assert progress(conn, workflow) == (50, 1, 2)
