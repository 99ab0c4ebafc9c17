"""Presets: tables of known systems are adopted without another option, and the numbers are right all their life."""

import json
from collections import Counter
from collections.abc import Mapping

import psycopg
import pytest

from pyapp import list_tasks
from pyapp.adopt.request import list_presets, read_preset
from pyapp.cli.show import read_errors

from .application import cli, percent, refuse, succeed
from .systems import RUN, SYSTEMS, Numbers, System, Words

systems = pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.preset)
AIRFLOW, DBOS, HATCHET, OBAN, PREFECT, PROCRASTINATE = (
    SYSTEMS[preset] for preset in ("airflow", "dbos", "hatchet", "oban", "prefect", "procrastinate")
)
SAYS = "workflow_id::text, progress, agents_completed, agents_total, agents_failed, agents_cancelled"
TIMES = ("created", "started", "completed")


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


def make_every(conn: psycopg.Connection, words: Words) -> list[tuple[str, str]]:
    """Make a row of every word; return what the last statement returns."""
    conn.execute("create temporary table if not exists every (word text)")
    conn.execute("truncate every")
    conn.cursor().executemany("insert into every values (%s)", [[word] for word in words.meanings])
    cursor = conn.execute(words.sql.encode())
    while cursor.nextset():
        pass
    return cursor.fetchall() if cursor.description else []


def adopt(conn: psycopg.Connection, system: System) -> None:
    notes = succeed(conn.info.dsn, "adopt", "--preset", system.preset).out.splitlines()
    assert len(notes) == len(set(notes))


def test_there_is_a_life_for_each_preset() -> None:
    assert list_presets() == list(SYSTEMS)


@systems
def test_a_life_is_counted_exactly(conn: psycopg.Connection, system: System) -> None:
    conn.execute(system.ddl.encode())
    adopt(conn, system)
    live(conn, system, prunes=False)
    listed = succeed(conn.info.dsn, "list", "--schema", "agent_progress", "--json").out
    rows = conn.execute(b"select workflow_id::text, name, status from agent_progress.workflow_progress").fetchall()
    assert {row[0]: row[1:] for row in rows} == system.workflows
    tasks = set()
    for key, (name, _) in system.workflows.items():
        assert f'"{name}"' in listed
        assert succeed(conn.info.dsn, "show", key, "--tasks", "--timeline", "--schema", "agent_progress").err == ""
        errors = read_errors(conn, "agent_progress", key)
        for task in list_tasks(conn, key, schema="agent_progress"):
            times = " ".join(time for time in TIMES if getattr(task, f"{time}_at") is not None)
            retries = "" if task.retry_count is None else str(task.retry_count)
            tasks.add((task.agent_type, task.status, retries, times, errors.get(task.id) or ""))
    assert tasks == system.tasks
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
def test_every_status_of_a_task_is_known_and_counted(conn: psycopg.Connection, system: System) -> None:
    conn.execute(system.ddl.encode())
    words = system.task_words
    make_every(conn, words)
    dry = succeed(conn.info.dsn, "adopt", "--preset", system.preset, "--dry-run", "--json")
    found = json.loads(dry.out)["values"]
    assert {value["value"]: value["meaning"] for value in found if value["known"]} == words.meanings
    adopt(conn, system)
    many = Counter(words.meanings.values())
    total = many.total() - many["ignored"]
    for rows in (1, 2):  # what is there, and what comes
        counted = (rows * many["completed"], rows * total, rows * many["failed"], rows * many["cancelled"])
        assert list(says(conn).values()) == [(percent(many["completed"], total), *counted)]
        make_every(conn, words)


@pytest.mark.parametrize("preset", [system.preset for system in SYSTEMS.values() if system.workflow_words])
def test_every_status_of_a_workflow_is_known(conn: psycopg.Connection, preset: str) -> None:
    system = SYSTEMS[preset]
    assert system.workflow_words is not None
    conn.execute(system.ddl.encode())
    made = dict(make_every(conn, system.workflow_words))
    assert succeed(conn.info.dsn, "adopt", "--preset", preset).err.count("note: status") == 0
    rows = conn.execute(b"select workflow_id::text, status from agent_progress.workflow_progress").fetchall()
    assert {made[key]: status for key, status in rows} == system.workflow_words.meanings


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


def test_task_instances_are_listed_as_they_started(conn: psycopg.Connection) -> None:
    conn.execute(AIRFLOW.ddl.encode())
    adopt(conn, AIRFLOW)
    conn.execute("insert into dag_run (dag_id, run_id) values ('etl', 'now')")
    for number, task, started in ((1, "waits", None), (2, "second", "2026-01-02"), (3, "first", "2026-01-01")):
        conn.execute(
            "insert into task_instance (id, task_id, dag_id, run_id, start_date) values (%s, %s, 'etl', 'now', %s)",
            [f"{RUN}{number}", task, started],
        )
    listed = list_tasks(conn, "etl/now", schema="agent_progress")
    assert [task.agent_type for task in listed] == ["first", "second", "waits"]


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


def test_the_index_that_a_partitioned_table_lacks_can_be_made_as_it_is_told(conn: psycopg.Connection) -> None:
    conn.execute(HATCHET.ddl.encode())
    conn.execute("drop table v1_tasks_olap_20260115")
    told = succeed(conn.info.dsn, "adopt", "--preset", "hatchet").err
    conn.execute(told[told.index("create index") :].splitlines()[0].encode())
    assert "create index" not in succeed(conn.info.dsn, "adopt").err


def test_oban_for_python_keeps_its_errors_in_one_jsonb(conn: psycopg.Connection) -> None:
    array = "errors jsonb[] not null default '{}'"
    assert array in OBAN.ddl
    conn.execute(OBAN.ddl.replace(array, "errors jsonb not null default '[]'").encode())
    adopt(conn, OBAN)
    live(conn, OBAN, prunes=False)
    assert list(read_errors(conn, "agent_progress", "w").values()) == ["never"]


def test_steps_of_spring_batch_4_are_adopted_though_they_do_not_say_when_they_were_made(
    conn: psycopg.Connection,
) -> None:
    system = SYSTEMS["spring-batch"]
    conn.execute(system.ddl.encode())
    conn.execute("alter table batch_step_execution drop create_time")
    adopt(conn, system)
    live(conn, system, prunes=False)
    assert {task.created_at for task in list_tasks(conn, "101", schema="agent_progress")} == {None}


def test_the_workflows_of_oban_pro_are_a_tree(conn: psycopg.Connection) -> None:
    conn.execute(OBAN.ddl.encode())
    conn.execute("create table oban_workflows (id text primary key, name text, parent_id text, state text)")
    conn.execute("alter table oban_workflows add inserted_at timestamp not null default now()")
    key = ["--workflow-key", "id", "--workflow-status", "state", "--key-sql", "meta ->> 'workflow_id'"]
    columns = ["--column", "name=name", "--column", "parent_id=parent_id"]
    succeed(conn.info.dsn, "adopt", "--preset", "oban", "--workflows", "oban_workflows", *key, *columns)
    conn.execute("insert into oban_workflows values ('w', 'all', null, 'executing'), ('s', 'part', 'w', 'completed')")
    conn.execute(
        "insert into oban_jobs (meta, state) values"
        """ ('{"workflow_id": "w"}', 'available'), ('{"workflow_id": "s", "sup_workflow_id": "w"}', 'completed')"""
    )
    assert says(conn) == {"w": (0, 0, 1, 0, 0), "s": (100, 1, 1, 0, 0)}
    tree = "select agents_completed, agents_total from agent_progress.workflow_tree_progress where workflow_id = 'w'"
    assert conn.execute(tree.encode()).fetchall() == [(1, 2)]


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


def test_the_tasks_of_pgflow_steps_are_adopted_by_the_preset_as_well(conn: psycopg.Connection) -> None:
    system = SYSTEMS["pgflow"]
    conn.execute(system.ddl.encode())
    conn.execute(
        "create table pgflow.step_tasks (run_id uuid references pgflow.runs, step_slug text, task_index integer,"
        " status text default 'queued', queued_at timestamptz, started_at timestamptz, completed_at timestamptz,"
        " failed_at timestamptz, error_message text, attempts_count integer default 3,"
        " primary key (run_id, step_slug, task_index))"
    )
    retries = ["--task-column", "retry_count=greatest(attempts_count - 1, 0)"]
    succeed(
        conn.info.dsn, "adopt", "--preset", "pgflow", "--tasks", "pgflow.step_tasks", "--task-noun", "task", *retries
    )
    conn.execute(f"insert into pgflow.runs (run_id) values ('{RUN}1')".encode())
    for number, status in enumerate(("queued", "started", "completed", "failed")):
        conn.execute("insert into pgflow.step_tasks values (%s, 'page', %s, %s)", [f"{RUN}1", number, status])
    assert says(conn) == {f"{RUN}1": (25, 1, 4, 1, 0)}
    assert "1 of 4 tasks" in succeed(conn.info.dsn, "show", f"{RUN}1", "--schema", "agent_progress").out
    assert {task.retry_count for task in list_tasks(conn, f"{RUN}1", schema="agent_progress")} == {2}


def test_batches_of_trigger_dev_are_adopted_by_the_preset_as_well(conn: psycopg.Connection) -> None:
    conn.execute(SYSTEMS["trigger-dev"].ddl.encode())
    conn.execute(
        'create table "BatchTaskRun" (id text primary key, "friendlyId" text, status text, "runCount" integer)'
    )
    conn.execute('alter table "TaskRun" add "batchId" text references "BatchTaskRun"')
    columns = ["--column", "name=friendlyId", "--column", "agents_planned=runCount"]
    tables = ["--workflows", '"BatchTaskRun"', "--key", "batchId", *columns]
    words = ["--workflow-completed", "completed,partial_failed", "--workflow-failed", "aborted"]
    nouns = ["--workflow-noun", "batch", "--task-noun", "run"]
    succeed(conn.info.dsn, "adopt", "--preset", "trigger-dev", *tables, *words, *nouns)
    conn.execute("""insert into "BatchTaskRun" values ('b', 'batch_1', 'PROCESSING', 4)""")
    conn.execute(
        """insert into "TaskRun" ("batchId", status) values ('b', 'COMPLETED_SUCCESSFULLY'), ('b', 'CRASHED')"""
    )
    assert says(conn) == {"b": (25, 1, 4, 1, 0)}
    conn.execute("""update "BatchTaskRun" set status = 'COMPLETED'""")  # two of its runs were there before
    assert says(conn) == {"b": (50, 1, 2, 1, 0)}
    shown = conn.execute(b"select name, status from agent_progress.workflow_progress").fetchall()
    assert shown == [("batch_1", "completed")]
