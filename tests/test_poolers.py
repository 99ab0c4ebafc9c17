"""Behind a pooler in transaction mode: a real pgbouncer."""

import asyncio
import multiprocessing
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest

import pyapp
from pyapp import lock
from pyapp.cli import main
from tests.commands import outcome, start
from tests.helpers import PATIENCE, in_background, new_tasks, new_workflow, progress, wait_for
from tests.pooler import pooler

Through = Callable[..., str]


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Iterator[Through]:
    """Put a pgbouncer before a database: each call starts one and returns the DSN of the database through it."""
    monkeypatch.setattr(lock, "ANSWER", PATIENCE)
    with ExitStack() as running:
        yield lambda dsn, **settings: running.enter_context(pooler(dsn, **settings))


def locks(dsn: str) -> list[Any]:
    """List what was left behind on the sessions of the server."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(
            "select * from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        ).fetchall()


@pytest.mark.parametrize("schema", ["public", "My 100%s Agents"])
def test_migrate_and_rollback_work_through_a_pooler_and_leave_nothing_on_its_sessions(
    schema: str, empty: Callable[[], str], through: Through
) -> None:
    dsn = empty()
    pooled = through(dsn, default_pool_size=2)
    assert len(pyapp.migrate(pooled, schema=schema)) == 3
    assert pyapp.migrate(pooled, schema=schema) == pyapp.pending(pooled, schema=schema) == []
    with pyapp.connect(pooled, autocommit=True) as conn:
        workflow = pyapp.create_workflow(conn, "w", "app", schema=schema)
        [task] = pyapp.add_tasks(conn, workflow.workflow_id, ["agent"], schema=schema)
        pyapp.report_task(conn, workflow.workflow_id, task.id, "completed", schema=schema)
        assert pyapp.get_workflow(conn, workflow.workflow_id, schema=schema).progress == 100
    assert len(pyapp.rollback(pooled, schema=schema, all=True, drop_data=True)) == 3
    assert locks(dsn) == []
    with psycopg.connect(dsn) as conn:
        left = conn.execute("select relname from pg_class where relnamespace::regnamespace::text !~ '^(pg_|info)'")
        assert left.fetchall() == []


@pytest.mark.parametrize("act", [pyapp.migrate, pyapp.rollback, pyapp.mark])
def test_a_pool_of_one_connection_is_refused_with_a_clear_line(
    act: Callable[[str], object], dsn: str, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "ANSWER", 0.5)
    pooled = through(dsn, default_pool_size=1)
    with pytest.raises(pyapp.MigrationError, match="nothing changed: the pooler had no second server connection"):
        act(pooled)
    wait_for(lambda: locks(dsn) == [])
    assert pyapp.pending(pooled) == []


def test_runs_at_once_through_two_connections_all_end(empty: Callable[[], str], through: Through) -> None:
    dsn = empty()
    pooled = through(dsn, default_pool_size=2)
    processes = [start("migrate", "--dsn", pooled) for _ in range(4)]
    ends = [outcome(process) for process in processes]
    # Whoever holds the lock may find the other connection taken, and says so; nobody hangs, and it is done at last.
    assert {end[0] for end in ends} <= {0, 2}, ends
    assert all("no second server connection" in end[2] for end in ends if end[0]), ends
    pyapp.migrate(pooled)
    assert pyapp.pending(pooled) == []
    assert locks(dsn) == []


def _report(dsn: str, workflow: str, tasks: list[str], how: str) -> None:
    if how == "reporter":
        with pyapp.TaskReporter(dsn) as reporter:
            for task in tasks:
                reporter.report(workflow, task, "completed")
    else:
        with pyapp.connect(dsn, autocommit=True) as conn:
            for task in tasks:
                pyapp.retry(lambda: pyapp.report_task(conn, workflow, task, "completed"))  # noqa: B023


def test_processes_that_report_side_by_side_are_all_counted(
    conn: psycopg.Connection, dsn: str, through: Through
) -> None:
    pooled = through(dsn, default_pool_size=3)
    workflow = new_workflow(conn)
    tasks = [str(task) for task in new_tasks(conn, workflow, *["running"] * 400)]
    spawn = multiprocessing.get_context("spawn")
    hows = ["reporter", "reporter", "helper", "helper"]
    processes = [
        spawn.Process(target=_report, args=(pooled, str(workflow), tasks[part::4], how))
        for part, how in enumerate(hows)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert progress(conn, workflow) == (100, 400, 400)


def test_a_pooler_is_recognised_and_nothing_is_prepared_there(
    dsn: str, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = through(dsn)
    for autocommit in (False, True):
        with pyapp.connect(pooled, autocommit=autocommit) as behind, pyapp.connect(dsn, autocommit=autocommit) as there:
            assert behind.prepare_threshold is None
            assert there.prepare_threshold == 5
            assert behind.info.transaction_status == there.info.transaction_status == 0
    with pyapp.connect(pooled, prepare=True) as behind, pyapp.connect(dsn, prepare=False) as there:
        assert (behind.prepare_threshold, there.prepare_threshold) == (5, None)
    monkeypatch.setenv("AGENT_PROGRESS_PREPARE", "off")
    with pyapp.connect(dsn) as there, pyapp.connect(dsn, prepare_threshold=1) as chosen:
        assert (there.prepare_threshold, chosen.prepare_threshold) == (None, 1)


def test_the_asynchronous_helpers_watch_and_reporter_work(conn: psycopg.Connection, dsn: str, through: Through) -> None:
    pooled = through(dsn, default_pool_size=2)
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 20)

    async def work() -> list[int]:
        async with await pyapp.aio.connect(pooled, autocommit=True) as behind:
            assert behind.prepare_threshold is None
            for _ in range(20):
                await pyapp.aio.get_workflow(behind, workflow)
            async with pyapp.aio.TaskReporter(pooled) as reporter:
                for task in tasks:
                    await reporter.report(workflow, task, "completed")
            await pyapp.aio.transition(behind, workflow, "running")
            await pyapp.aio.transition(behind, workflow, "completed")
            return [now.progress async for now in pyapp.aio.watch(pooled, [workflow], 0.01)]

    assert asyncio.run(work()) == [100]


def test_watch_polls_where_notifications_would_not_come(conn: psycopg.Connection, dsn: str, through: Through) -> None:
    assert main(["--dsn", dsn, "notify", "on"]) == 0
    pooled = through(dsn, default_pool_size=1)
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "running")
    seen = pyapp.watch(pooled, [workflow], 0.01)
    assert next(seen).progress == 0
    report = in_background(conn.execute, "update agent_task set status = 'completed' where id = %s", [task])
    assert next(seen).progress == 100
    report.result(60)
    seen.close()
    with psycopg.connect(pooled, autocommit=True) as behind:
        assert behind.execute("select pg_listening_channels()").fetchall() == []


def test_sessions_with_another_style_of_dates_are_read_and_left_as_they_are(
    conn: psycopg.Connection, dsn: str, through: Through
) -> None:
    name = conn.info.dbname
    conn.execute(f"alter database \"{name}\" set datestyle = 'SQL, DMY'".encode())
    workflow = new_workflow(conn, name="w")
    pooled = through(dsn, default_pool_size=1)
    for where in (dsn, pooled):
        with pyapp.connect(where, autocommit=True) as one:
            assert pyapp.get_workflow(one, workflow).created_at == pyapp.get_workflow(conn, workflow).created_at
            pyapp.list_timeline(one, workflow)
            assert pyapp.get_state(one, workflow).status == "initiated"
    with psycopg.connect(pooled) as other:
        assert other.execute("show datestyle").fetchone() == ("SQL, DMY",)


def test_archive_and_the_commands_work(conn: psycopg.Connection, dsn: str, through: Through) -> None:
    pooled = through(dsn, default_pool_size=1)
    workflow = new_workflow(conn, status="completed")
    new_tasks(conn, workflow, "completed")
    conn.execute("update workflow set completed_at = now() - interval '1 year'")
    workflow = str(workflow)
    for command in (
        ["list"], ["show", workflow, "--tasks", "--timeline", "--metrics"], ["watch", workflow], ["check"], ["repair"],
        ["notify", "on"], ["notify", "off"], ["archive", "--older-than", "90d"], ["check"],
    ):  # fmt: skip
        assert main(["--dsn", pooled, *command]) == 0, command
    assert conn.execute("select count(*) from agent_task").fetchone() == (0,)


def test_adopt_works(empty: Callable[[], str], through: Through) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table run (id int primary key, name text, status text)")
        conn.execute("create table job (id int primary key, run_id int references run, state text)")
        conn.execute("insert into run values (1, 'one', 'running')")
        conn.execute(
            "insert into job values (1, 1, 'completed'), (2, 1, 'completed'), (3, 1, 'running'), (4, 1, 'new')"
        )
    pooled = through(dsn, default_pool_size=1)
    adopted = ["adopt", "--workflows", "run", "--tasks", "job", "--yes"]
    assert main(["--dsn", pooled, *adopted]) == 0
    with psycopg.connect(pooled) as conn:
        assert conn.execute("select progress from agent_progress.workflow_progress").fetchone() == (50,)
    assert main(["--dsn", pooled, "unadopt", "--schema", "agent_progress", "--yes"]) in (0, 2)
    assert locks(dsn) == []


def test_serve_says_why_it_cannot_read_through_a_pooler(
    dsn: str, through: Through, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--dsn", through(dsn), "--port", "0"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search("pooler.*options|options.*pooler", line)


def test_serve_reads_through_a_pooler_that_ignores_its_options(
    conn: psycopg.Connection, dsn: str, through: Through
) -> None:
    new_workflow(conn, name="w")
    pooled = through(dsn, ignore_startup_parameters="options")
    process = start("serve", "--dsn", pooled, "--port", "0")
    try:
        assert process.stderr is not None
        url = re.search(r"http\S+", process.stderr.readline())[0]  # type: ignore[index]
        for _ in range(20):
            assert b'"w"' in urlopen(url + "api/v1/workflows", timeout=60).read()
    finally:
        process.terminate()
        outcome(process)
