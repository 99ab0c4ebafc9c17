"""Presets: tables of known systems are adopted without another option, and the numbers are right all their life."""

from collections.abc import Mapping

import psycopg
import pytest

from pyapp.adopt.request import list_presets, read_preset

from .application import cli, refuse, succeed
from .systems import AIRFLOW, DBOS, HATCHET, OBAN, PREFECT, PROCRASTINATE, RUN, SYSTEMS, Numbers, System

systems = pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.preset)
SAYS = "workflow_id::text, progress, agents_completed, agents_total, agents_failed, agents_cancelled"


def says(conn: psycopg.Connection) -> Mapping[str, Numbers]:
    """Read what is stored, after seeing that it is what is counted afresh."""
    assert conn.execute("select * from agent_progress.workflow_progress_drift").fetchall() == []
    return {row[0]: row[1:] for row in conn.execute(f"select {SAYS} from agent_progress.workflow_progress".encode())}


def live(conn: psycopg.Connection, system: System, *, prunes: bool) -> None:
    """Let a system do what it does, and see the numbers after each step."""
    for step in system.life:
        if step.prunes == prunes:
            conn.execute(step.sql.encode())
            assert says(conn) == step.says, step.what


def adopt(conn: psycopg.Connection, system: System) -> None:
    ran = succeed(conn.info.dsn, "adopt", "--preset", system.preset)
    assert "nobody named it" not in ran.out


def test_there_is_a_preset_for_each_system() -> None:
    assert list_presets() == sorted(system.preset for system in SYSTEMS)


@systems
def test_a_life_is_counted_exactly(conn: psycopg.Connection, system: System) -> None:
    conn.execute(system.ddl.encode())
    adopt(conn, system)
    live(conn, system, prunes=False)
    listed = succeed(conn.info.dsn, "list", "--schema", "agent_progress", "--json").out
    shown = {
        row[0]: row[1:]
        for row in conn.execute(b"select workflow_id::text, name, status from agent_progress.workflow_progress")
    }
    for key, name in system.names.items():
        assert f'"{name}"' in listed
        assert shown[key] == (name, system.status[key])
    tasks = conn.execute(
        b"select agent_type, status, retry_count from agent_progress.agent_task where workflow_id is not null"
    )
    assert sorted(tasks.fetchall(), key=str) == sorted(system.tasks, key=str)
    live(conn, system, prunes=True)
    succeed(conn.info.dsn, "adopt")  # partitions that are new get triggers of their own
    succeed(conn.info.dsn, "check", "--schema", "agent_progress")


@systems
def test_what_is_there_is_counted_the_same(conn: psycopg.Connection, system: System) -> None:
    conn.execute(system.ddl.encode())
    steps = [step for step in system.life if not step.prunes]
    for step in steps:
        conn.execute(step.sql.encode())
    adopt(conn, system)
    assert says(conn) == steps[-1].says
    live(conn, system, prunes=True)


@systems
def test_each_task_shows_with_every_column(conn: psycopg.Connection, system: System) -> None:
    conn.execute(system.ddl.encode())
    adopt(conn, system)
    for step in system.life[:2]:
        conn.execute(step.sql.encode())
    for key in system.names:
        if key in system.life[1].says:
            assert cli(conn.info.dsn, "show", key, "--tasks", "--timeline", "--schema", "agent_progress").code == 0


def test_options_given_win_over_those_of_the_preset(conn: psycopg.Connection) -> None:
    conn.execute(PROCRASTINATE.ddl.encode())
    succeed(
        conn.info.dsn, "adopt", "--preset", "procrastinate", "--key-sql", "args ->> 'order_id'", "--no-keep-finished"
    )
    conn.execute("""insert into procrastinate_jobs (args, status) values ('{"order_id": 5}', 'succeeded')""")
    assert says(conn) == {"5": (100, 1, 1, 0, 0)}
    conn.execute("delete from procrastinate_jobs")
    assert says(conn) == {}


def test_a_key_given_takes_the_place_of_that_of_the_preset(conn: psycopg.Connection) -> None:
    conn.execute(OBAN.ddl.encode())
    succeed(conn.info.dsn, "adopt", "--preset", "oban", "--key", "worker")
    conn.execute("insert into oban_jobs (worker, state) values ('A', 'completed')")
    assert says(conn) == {"A": (100, 1, 1, 0, 0)}


def test_a_word_given_loses_the_meaning_that_the_preset_gave_it(conn: psycopg.Connection) -> None:
    conn.execute(AIRFLOW.ddl.encode())
    succeed(conn.info.dsn, "adopt", "--preset", "airflow", "--cancelled", "skipped")
    for step in AIRFLOW.life[:3]:
        conn.execute(step.sql.encode())
    assert list(says(conn).values()) == [(43, 3, 7, 0, 1)]


def test_tasks_that_name_no_workflow_are_told(conn: psycopg.Connection) -> None:
    conn.execute(PROCRASTINATE.ddl.encode())
    conn.execute("insert into procrastinate_jobs (args) values ('{}')")
    ran = succeed(conn.info.dsn, "adopt", "--preset", "procrastinate")
    assert "note: none of the tasks names a workflow by (args ->> 'workflow_id')" in ran.err


def test_a_foreign_key_is_told_though_the_key_was_given(conn: psycopg.Connection) -> None:
    conn.execute(AIRFLOW.ddl.encode())
    assert "references it, on delete cascade" in succeed(conn.info.dsn, "adopt", "--preset", "airflow").out


def test_another_name_is_refused_with_those_that_there_are(dsn: str) -> None:
    assert "'procrastinate'" in refuse(dsn, "adopt", "--preset", "procrastinating")


def test_a_preset_without_its_tables_says_which_is_missing(dsn: str) -> None:
    assert "dbos.workflow_status" in refuse(dsn, "adopt", "--preset", "dbos")


@systems
def test_a_preset_says_what_its_workflows_and_tasks_are(system: System) -> None:
    import tomllib

    from pyapp.adopt.request import PRESETS

    values = tomllib.loads((PRESETS / f"{system.preset}.toml").read_text("utf-8"))
    assert {"title", "about", "workflow_noun", "task_noun"} <= values.keys()
    preset = read_preset(system.preset)
    assert (preset.tasks, preset.task_noun) == (values["tasks"], values["task_noun"])


def test_each_pass_of_a_prefect_flow_can_be_a_workflow_or_the_first_alone(conn: psycopg.Connection) -> None:
    conn.execute(PREFECT.ddl.encode())
    conn.execute("alter table task_run add flow_run_run_count integer not null default 0")
    first = ["--preset", "prefect", "--where", "flow_run_run_count <= 1", "--schema", "first"]
    each = ["--tasks", "task_run", "--key", "flow_run_id,flow_run_run_count", "--status", "state_type"]
    succeed(conn.info.dsn, "adopt", "--preset", "prefect")
    succeed(conn.info.dsn, "adopt", *first)
    succeed(conn.info.dsn, "adopt", *each, "--failed", "failed,crashed", "--schema", "passes")
    conn.execute(f"insert into flow_run (id, name, state_type) values ('{RUN}1', 'wise-otter', 'RUNNING')".encode())
    for number, state in ((1, "COMPLETED"), (1, "FAILED"), (2, "COMPLETED"), (2, "COMPLETED")):
        conn.execute(
            "insert into task_run (name, state_type, flow_run_id, flow_run_run_count) values ('a', %s, %s, %s)",
            [state, f"{RUN}1", number],
        )
    assert says(conn) == {f"{RUN}1": (75, 3, 4, 1, 0)}
    numbers = "select workflow_id::text, agents_completed, agents_total from {}.workflow_progress order by 1"
    assert conn.execute(numbers.format("first").encode()).fetchall() == [(f"{RUN}1", 1, 2)]
    assert conn.execute(numbers.format("passes").encode()).fetchall() == [(f"{RUN}1/1", 1, 2), (f"{RUN}1/2", 2, 2)]


def test_the_steps_of_dbos_make_progress_where_their_number_is_known(conn: psycopg.Connection) -> None:
    conn.execute(DBOS.ddl.encode())
    conn.execute("alter table dbos.workflow_status add attributes jsonb")
    conn.execute(
        "create table dbos.operation_outputs (workflow_uuid text, function_id integer, function_name text, error text,"
        " primary key (workflow_uuid, function_id))"
    )
    ways = ["--completed-when", "error is null", "--failed-when", "error is not null"]
    tables = ["--workflows", "dbos.workflow_status", "--tasks", "dbos.operation_outputs", "--key", "workflow_uuid"]
    planned = ["--workflow-key", "workflow_uuid", "--column", "agents_planned=(attributes ->> 'steps')::integer"]
    succeed(conn.info.dsn, "adopt", *tables, *ways, *planned)
    conn.execute(
        "insert into dbos.workflow_status (workflow_uuid, status, attributes)"
        """ values ('w', 'PENDING', '{"steps": 4}')"""
    )
    conn.execute("insert into dbos.operation_outputs values ('w', 1, 'fetch', null), ('w', 2, 'store', 'no')")
    assert says(conn) == {"w": (25, 1, 4, 1, 0)}


def test_partitions_that_hatchet_drops_leave_the_numbers_until_they_are_repaired(conn: psycopg.Connection) -> None:
    conn.execute(HATCHET.ddl.encode())
    adopt(conn, HATCHET)
    live(conn, HATCHET, prunes=False)
    succeed(conn.info.dsn, "adopt")
    conn.execute("drop table v1_tasks_olap_20260115")
    stored = "select progress, agents_completed, agents_total from agent_progress.workflow_progress"
    assert conn.execute(stored).fetchall() == [(80, 4, 5)]
    assert cli(conn.info.dsn, "check", "--schema", "agent_progress").code == 1
    succeed(conn.info.dsn, "repair", "--schema", "agent_progress")
    assert says(conn) == {f"{RUN}1": (100, 1, 1, 0, 0)}
