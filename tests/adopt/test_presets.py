"""Presets: tables of known systems are adopted without another option, and the numbers are right all their life."""

from collections.abc import Mapping

import psycopg
import pytest

from pyapp.adopt.request import list_presets, read_preset

from .application import cli, refuse, succeed
from .systems import AIRFLOW, OBAN, PROCRASTINATE, SYSTEMS, Numbers, System

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
    assert read_preset(system.preset).tasks == values["tasks"]
