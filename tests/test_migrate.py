"""Installing, upgrading and removing the schema: twice at once, after a crash, beside writers, in odd places."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyapp import MigrationError, mark, migrate, pending, rollback
from pyapp.schema import missing_objects

from .helpers import counters, in_background, new_tasks, new_workflow, progress, wait_until_blocked
from .test_schema import FORWARD, ROOT, dump, install_with_psql, objects

ALL = [file.stem for file in FORWARD]
Empty = Callable[[], str]


def agent_progress(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pyapp", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def yoyo(dsn: str, tmp_path: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run yoyo itself, as somebody does who has no use for our command line."""
    url = "postgresql+psycopg:///?" + urlencode(conninfo_to_dict(dsn))
    return subprocess.run(
        [Path(sys.executable).parent / "yoyo", command, "--batch", *arguments, "--database", url, ROOT / "migrations"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    )


def drift(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("select * from public.workflow_progress_drift").fetchall()


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def down_to(dsn: str, applied: int) -> None:
    """Take back migrations until only the first so many are left."""
    while len(pending(dsn)) < len(ALL) - applied:
        rollback(dsn)


def assert_whole(dsn: str, expected: str, bin_dir: Path) -> None:
    assert pending(dsn) == []
    assert dump(dsn, bin_dir) == expected


@pytest.fixture
def whole(dsn: str, bin_dir: Path) -> str:
    """The schema as it should be, dumped."""
    return dump(dsn, bin_dir)


# --- Applying -----------------------------------------------------------------------------------------------


def test_migrate_applies_all_in_order_and_then_nothing(empty: Empty) -> None:
    dsn, steps = empty(), []
    assert pending(dsn) == ALL
    assert objects(dsn) == []
    assert migrate(dsn, on_step=steps.append) == ALL
    assert steps == [f"applying {name}" for name in ALL]
    assert pending(dsn) == []
    assert migrate(dsn) == []


def test_pending_names_what_a_rollback_took_back(empty: Empty) -> None:
    dsn = empty()
    migrate(dsn)
    assert rollback(dsn) == ALL[-1:]
    assert pending(dsn) == ALL[-1:]
    assert migrate(dsn) == ALL[-1:]


@pytest.mark.parametrize("number", [2, 8])
def test_processes_that_migrate_at_once_all_succeed(empty: Empty, whole: str, bin_dir: Path, number: int) -> None:
    dsn = empty()
    started = [agent_progress("migrate", "--dsn", dsn) for _ in range(number)]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * number, outputs
    applied = [out for out, _ in outputs if out]
    assert applied == ["".join(f"applied {name}\n" for name in ALL)]
    assert_whole(dsn, whole, bin_dir)


def test_a_second_migrate_waits_however_long_the_first_one_takes(
    dsn: str, conn: psycopg.Connection, session: Callable[[], psycopg.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    down_to(dsn, 2)
    # Yoyo's own lock counts as left behind at once.
    monkeypatch.setattr(sys.modules["pyapp.migrate"], "_YOYO_PATIENCE", 0.1)
    long = session()
    long.execute("lock table agent_task")
    first_steps: list[str] = []
    second_steps: list[str] = []
    first = in_background(lambda: migrate(dsn, on_step=first_steps.append))
    wait_until(lambda: len(first_steps) > 1)
    second = in_background(lambda: migrate(dsn, on_step=second_steps.append))
    # It asks again and again, for longer than yoyo's lock would have stopped it.
    asked: set[Any] = set()
    query = (
        "select query_start from pg_stat_activity"
        " where datname = current_database() and query = 'select pg_try_advisory_lock($1)'"
    )
    wait_until(lambda: asked.update(conn.execute(query).fetchall()) or len(asked) >= 10)
    assert second_steps == []
    long.rollback()
    assert first.result(20) == ALL[2:]
    assert second.result(20) == []


def test_migrations_are_found_wherever_the_process_stands(
    empty: Empty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOGNAME", raising=False)
    assert migrate(empty()) == ALL
    assert list(tmp_path.iterdir()) == []


# --- Crashes ------------------------------------------------------------------------------------------------

# Each dies as by kill -9: before a migration is recorded, within one, before anything is applied.
CRASHES = {
    "between applying and recording the first": """
from yoyo.backends.base import DatabaseBackend
DatabaseBackend.mark_one = lambda *_, **__: os.kill(os.getpid(), 9)
""",
    "between applying and recording a later one": """
from yoyo.backends.base import DatabaseBackend
mark_one = DatabaseBackend.mark_one
def crash(self, migration, log=True):
    if migration.id.startswith("0004"):
        os.kill(os.getpid(), 9)
    return mark_one(self, migration, log)
DatabaseBackend.mark_one = crash
""",
    "within a migration": """
execute = psycopg.Cursor.execute
def crash(self, query, *args, **options):
    if "create or replace trigger agent_task_progress_delete" in str(query):
        os.kill(os.getpid(), 9)
    return execute(self, query, *args, **options)
psycopg.Cursor.execute = crash
""",
}


def test_migrate_succeeds_after_a_crash(empty: Empty, whole: str, bin_dir: Path) -> None:
    databases = {name: empty() for name in CRASHES}
    crashes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os, psycopg\n{code}\nfrom pyapp import migrate\nmigrate({databases[name]!r})",
            ],
            cwd=ROOT,
        )
        for name, code in CRASHES.items()
    ]
    assert [process.wait(60) for process in crashes] == [-9] * 3
    assert [len(pending(dsn)) for dsn in databases.values()] == [len(ALL), len(ALL) - 3, len(ALL) - 2]
    for dsn in databases.values():
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.execute("select count(*) from yoyo_lock").fetchone() == (1,)
    # At once, since each first waits a while for the owner of the lock that was left behind.
    again = [agent_progress("migrate", "--dsn", dsn) for dsn in databases.values()]
    for process, dsn in zip(again, databases.values(), strict=True):
        assert (process.communicate(timeout=60)[1].count("Traceback"), process.returncode) == (0, 0)
        assert_whole(dsn, whole, bin_dir)


def test_a_crash_after_the_first_task_was_counted_loses_no_count(empty: Empty) -> None:
    dsn = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "running")
        # As after a crash between applying and recording: all is there, and the back-fill runs again.
        conn.execute("delete from _yoyo_migration where migration_id >= '0003'")
    assert migrate(dsn) == ALL[2:]
    with psycopg.connect(dsn) as conn:
        assert progress(conn, workflow) == (50, 1, 2)
    assert drift(dsn) == []


# --- Databases that are not ours ----------------------------------------------------------------------------

FOREIGN = {
    "create table workflow (id integer primary key, title text)": "table workflow",
    "create table agent_task (id integer)": "table agent_task",
    "create table workflow_event (id integer, workflow_id integer)": "table workflow_event",
    "create view workflow as select 1 as id": "table workflow",
    "create type task_status as enum ('todo', 'done')": "type task_status",
    "create type stage_status as enum ('a'); create type workflow_status as enum ('b')": "type stage_status,"
    " type workflow_status",
}


@pytest.mark.parametrize(("sql", "named"), FOREIGN.items(), ids=FOREIGN.values())
def test_tables_and_types_of_others_are_refused_and_untouched(empty: Empty, sql: str, named: str) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql)
    before = objects(dsn)
    with pytest.raises(MigrationError) as error:
        migrate(dsn)
    assert str(error.value) == (
        f"nothing changed: schema public has {named} already, which agent-progress did not make"
    )
    assert objects(dsn) == before


def test_half_a_schema_is_refused(empty: Empty, bin_dir: Path) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("drop table workflow_stage cascade")
    before = objects(dsn)
    with pytest.raises(MigrationError, match=r"^nothing changed: schema public has table agent_task"):
        migrate(dsn)
    assert objects(dsn) == before


def test_tables_of_the_same_name_in_another_schema_do_not_matter(empty: Empty) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create schema theirs; create table theirs.workflow (id integer)")
    assert migrate(dsn) == ALL


def test_the_refusal_is_one_line_on_stderr_and_exit_2(empty: Empty) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table workflow (id integer)")
    process = agent_progress("migrate", "--dsn", dsn)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 2)
    assert err == (
        "agent-progress: nothing changed: schema public has table workflow already, which agent-progress did not make\n"
    )


def test_a_database_of_a_newer_version_is_refused(empty: Empty) -> None:
    dsn = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "insert into _yoyo_migration (migration_hash, migration_id, applied_at_utc)"
            " values ('f', '0099_agent_progress_x', now())"
        )
    for act in (migrate, pending, rollback):
        with pytest.raises(MigrationError, match=r"newer agent-progress \(0099_agent_progress_x\): upgrade first$"):
            act(dsn)
    assert drift(dsn) == []


def test_migrations_of_another_application_are_left_alone(empty: Empty, tmp_path: Path) -> None:
    dsn = empty()
    (tmp_path / "0001_shop.sql").write_text("create table shop (id integer);")
    url = "postgresql+psycopg:///?" + urlencode(conninfo_to_dict(dsn))
    subprocess.run(
        [sys.executable, "-m", "yoyo", "apply", "--batch", "--no-config-file", "--database", url, tmp_path],
        check=True,
        capture_output=True,
    )
    before = objects(dsn)
    assert pending(dsn) == ALL
    assert rollback(dsn, all=True) == []
    assert migrate(dsn) == ALL
    assert rollback(dsn, all=True) == ALL[::-1]
    assert objects(dsn) == before
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select migration_id from _yoyo_migration").fetchall() == [("0001_shop",)]


# --- psql and plain yoyo ------------------------------------------------------------------------------------


def test_mark_records_a_schema_that_psql_installed(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    assert pending(dsn) == ALL
    assert mark(dsn) == ALL
    assert mark(dsn) == []
    assert migrate(dsn) == []
    assert_whole(dsn, whole, bin_dir)
    assert rollback(dsn, all=True) == ALL[::-1]
    assert objects(dsn) == []


def test_migrate_takes_over_a_schema_that_psql_installed(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    with psycopg.connect(dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "failed", "running")
    assert migrate(dsn) == ALL
    assert_whole(dsn, whole, bin_dir)
    with psycopg.connect(dsn) as conn:
        assert progress(conn, workflow) == (33, 1, 3)
    assert drift(dsn) == []


@pytest.mark.parametrize(
    ("damage", "lacks"),
    [
        ("drop trigger agent_task_progress_insert on agent_task", "trigger agent_task_progress_insert"),
        ("drop function repair_progress", "function public.repair_progress(uuid)"),
        (
            "alter table workflow disable trigger zz_workflow_progress_guard",
            "trigger zz_workflow_progress_guard disabled",
        ),
    ],
)
def test_mark_refuses_where_something_is_missing(empty: Empty, bin_dir: Path, damage: str, lacks: str) -> None:
    dsn = empty()
    install_with_psql(dsn, bin_dir)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(damage)
    before = objects(dsn)
    with pytest.raises(MigrationError) as error:
        mark(dsn)
    assert str(error.value) == f"nothing recorded: the schema is not whole, it lacks {lacks}"
    assert objects(dsn) == before


def test_mark_refuses_an_empty_database_and_leaves_it_empty(empty: Empty) -> None:
    dsn = empty()
    with pytest.raises(MigrationError, match=r"^nothing recorded"):
        mark(dsn)
    assert objects(dsn) == []


def test_plain_yoyo_applies_and_takes_back_the_same(empty: Empty, whole: str, bin_dir: Path, tmp_path: Path) -> None:
    dsn = empty()
    done = yoyo(dsn, tmp_path, "apply")
    assert done.returncode == 0, done.stderr
    assert_whole(dsn, whole, bin_dir)
    assert migrate(dsn) == []
    done = yoyo(dsn, tmp_path, "rollback", "--all")
    assert done.returncode == 0, done.stderr
    assert pending(dsn) == ALL
    assert {name for _, name in objects(dsn) if "yoyo" not in name} == set()
    assert list(tmp_path.iterdir()) == []


def test_plain_yoyo_does_not_drop_rows_either(empty: Empty, tmp_path: Path) -> None:
    dsn = empty()
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "pending")
    done = yoyo(dsn, tmp_path, "rollback", "--all")
    assert done.returncode != 0
    assert "table workflow holds rows, which would be lost" in done.stderr
    assert migrate(dsn) == ALL[1:]
    with psycopg.connect(dsn) as conn:
        assert progress(conn, workflow) == (50, 1, 2)


# --- Taking back --------------------------------------------------------------------------------------------


def test_rollback_goes_one_step_at_a_time_and_in_the_end_leaves_nothing(empty: Empty) -> None:
    dsn, steps = empty(), []
    migrate(dsn)
    for name in reversed(ALL):
        assert rollback(dsn, on_step=steps.append) == [name]
    assert steps == [f"rolling back {name}" for name in reversed(ALL)]
    assert objects(dsn) == []
    assert rollback(dsn) == []
    assert objects(dsn) == []


def test_rollback_all_leaves_nothing(empty: Empty) -> None:
    dsn = empty()
    migrate(dsn)
    assert rollback(dsn, all=True) == ALL[::-1]
    assert objects(dsn) == []


def test_steps_that_lose_no_rows_are_taken_back_beside_rows(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "pending")
    down_to(dsn, 1)
    with pytest.raises(MigrationError, match=r"^nothing changed: table workflow holds rows, which would be lost"):
        rollback(dsn)
    assert migrate(dsn) == ALL[1:]
    assert progress(conn, workflow) == (50, 1, 2)


def test_rollback_of_all_refuses_before_the_first_step(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    with pytest.raises(MigrationError, match=r"^nothing changed: table workflow holds rows"):
        rollback(dsn, all=True)
    assert pending(dsn) == []
    new_tasks(conn, workflow, "completed")
    assert progress(conn, workflow) == (100, 1, 1)


def test_drop_data_drops_the_rows(empty: Empty) -> None:
    for options in ({"all": True}, {"all": False}):
        dsn = empty()
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            new_tasks(conn, new_workflow(conn), "completed")
        if not options["all"]:
            down_to(dsn, 1)
        assert rollback(dsn, drop_data=True, **options)[-1] == ALL[0]
        assert objects(dsn) == []


# --- Rows that are there already ----------------------------------------------------------------------------


def test_rows_from_before_the_triggers_are_counted(dsn: str, conn: psycopg.Connection) -> None:
    down_to(dsn, 2)
    made_up = {"progress": 77, "agents_completed": 9, "agents_total": -3, "agents_created": 4, "agents_failed": 8}
    mixed = new_workflow(conn, **made_up)
    new_tasks(conn, mixed, "completed", "failed", "cancelled", "running", "failed", "completed")
    planned = new_workflow(conn, agents_planned=10, progress=100)
    new_tasks(conn, planned, "completed")
    over = new_workflow(conn, agents_planned=10, status="completed", agents_total=10)
    new_tasks(conn, over, "completed")
    without = new_workflow(conn, **made_up)
    right = new_workflow(conn)
    frozen = new_workflow(conn, **made_up, progress_frozen_at="2020-01-01")
    new_tasks(conn, frozen, "completed")
    many = new_workflow(conn)
    new_tasks(conn, many, *["completed"] * 199, "pending")
    moved = conn.execute("select progress_updated_at from workflow where id = %s", [right]).fetchone()
    assert migrate(dsn) == ALL[2:]
    assert progress(conn, mixed) == (33, 2, 6)
    assert counters(conn, mixed) == (6, 2, 2, 1)
    assert progress(conn, planned) == (10, 1, 10)
    assert progress(conn, over) == (100, 1, 1)
    assert progress(conn, without) == (0, 0, 0)
    assert counters(conn, without) == (0, 0, 0, 0)
    assert progress(conn, frozen) == (77, 9, -3)
    assert progress(conn, many) == (99, 199, 200)
    assert drift(dsn) == []
    # What was right is not written.
    assert conn.execute("select progress_updated_at from workflow where id = %s", [right]).fetchone() == moved


class Writers:
    """Applications that go on writing whatever happens to the schema, and retry only what one always has to."""

    def __init__(self, dsn: str, workflows: list[Any], number: int) -> None:
        self.dsn = dsn
        self.workflows = workflows
        self.stop = threading.Event()
        self.added = dict.fromkeys(workflows, 0)
        self.statements = [0] * number
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(place,)) for place in range(number)]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def go_on(self, statements: int = 20) -> None:
        """Wait until each has written something."""
        goal = [done + statements for done in self.statements]
        give_up = time.monotonic() + 30
        while any(done < wanted for done, wanted in zip(self.statements, goal, strict=True)) and not self.errors:
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def work(self, place: int) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                while not self.stop.is_set():
                    workflow = self.workflows[(self.statements[place] + place) % len(self.workflows)]
                    self.transiently(lambda: self.write(conn, workflow, place == 0))  # noqa: B023 (called at once)
                    with self.lock:
                        self.added[workflow] += 2
                    self.statements[place] += 1
        except BaseException as error:
            self.errors.append(error)

    def write(self, conn: psycopg.Connection, workflow: Any, workflow_first: bool) -> None:
        with conn.transaction():
            if workflow_first:
                conn.execute("update workflow set current_stage = 'next' where id = %s", [workflow])
            tasks = new_tasks(conn, workflow, "pending", "running", "completed")
            conn.execute("update agent_task set status = 'completed' where id = %s", [tasks[1]])
            conn.execute("update agent_task set status = 'failed' where id = %s", [tasks[0]])
            conn.execute("delete from agent_task where id = %s", [tasks[2]])

    def transiently(self, act: Callable[[], None]) -> None:
        while True:
            try:
                return act()
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                continue


def test_rows_are_counted_exactly_while_others_write(dsn: str, conn: psycopg.Connection) -> None:
    down_to(dsn, 2)
    workflows = [new_workflow(conn, agents_completed=5, progress=50) for _ in range(3)]
    with Writers(dsn, workflows, 4) as writers:
        assert migrate(dsn) == ALL[2:]
        writers.go_on()
        # And while all of it goes away and comes back.
        down_to(dsn, 2)
        writers.go_on()
        assert migrate(dsn) == ALL[2:]
        writers.go_on()
    assert writers.errors == []
    assert drift(dsn) == []
    for workflow, added in writers.added.items():
        assert counters(conn, workflow) == (added, added // 2, added // 2, 0)
        assert progress(conn, workflow)[0] == 50


@pytest.mark.parametrize("applied", [2, 3], ids=["the trigger", "the guard"])
def test_migrate_waits_for_a_long_transaction_and_stands_in_nobodys_way(
    dsn: str, conn: psycopg.Connection, session: Callable[[], psycopg.Connection], applied: int
) -> None:
    down_to(dsn, applied)
    workflow = new_workflow(conn)
    task, other = new_tasks(conn, workflow, "running", "running")
    long = session()
    long.execute("update agent_task set status = 'completed' where id = %s", [task])
    steps: list[str] = []
    waiting = f"waiting for other transactions: {ALL[applied]}"
    migrating = in_background(lambda: migrate(dsn, on_step=steps.append))
    wait_until(lambda: waiting in steps or migrating.done())
    assert not migrating.done()
    # Well below any deadlock: whatever the transaction still needs, migrate lets go of it.
    long.execute("set local lock_timeout = '5s'")
    long.execute("update workflow set current_stage = 'late' where id = %s", [workflow])
    long.execute("update agent_task set status = 'completed' where id = %s", [other])
    new_workflow(long)
    assert not migrating.done()
    long.commit()
    assert migrating.result(20) == ALL[applied:]
    assert progress(conn, workflow) == (100, 2, 2)


def test_a_writer_that_waits_behind_the_back_fill_is_counted_once(
    dsn: str, conn: psycopg.Connection, session: Callable[[], psycopg.Connection]
) -> None:
    down_to(dsn, 3)
    workflow, another = new_workflow(conn), new_workflow(conn)
    task, _ = new_tasks(conn, workflow, "running", "running")
    conn.execute("update workflow set agents_completed = 5, agents_created = 9")
    orchestrator, agent = session(), session()
    orchestrator.execute("update workflow set current_stage = 'next' where id = %s", [another])
    migrating = in_background(lambda: migrate(dsn))
    waiting = "select from pg_locks where not granted and relation = 'workflow'::regclass and database = (%s)"
    database = conn.execute("select oid from pg_database where datname = current_database()").fetchone()[0]
    wait_until(lambda: conn.execute(waiting, [database]).fetchall())
    # Its task is changed, its count is not: the trigger stands behind migrate.
    completing = in_background(
        lambda: agent.execute("update agent_task set status = 'completed' where id = %s", [task])
    )
    wait_until_blocked(conn, agent.info.backend_pid)
    orchestrator.commit()
    completing.result(20)
    agent.commit()
    assert migrating.result(20) == ALL[3:]
    assert progress(conn, workflow) == (50, 1, 2)
    assert counters(conn, another) == (0, 0, 0, 0)


def test_others_write_while_migrate_waits(
    dsn: str, conn: psycopg.Connection, session: Callable[[], psycopg.Connection]
) -> None:
    down_to(dsn, 2)
    task, other = new_tasks(conn, new_workflow(conn), "running", "running")
    long = session()
    long.execute("update agent_task set status = 'completed' where id = %s", [task])
    migrating = in_background(lambda: migrate(dsn))
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    wait_until(lambda: conn.execute(waiting).fetchall())
    with session() as brief:
        # It queues behind migrate, which steps back within half a second.
        in_time = in_background(
            lambda: brief.execute("update agent_task set status = 'completed' where id = %s", [other])
        )
        wait_until_blocked(conn, brief.info.backend_pid)
        in_time.result(5)
        assert not migrating.done()
        brief.commit()
    long.commit()
    assert migrating.result(20) == ALL[2:]


# --- Where the database is ----------------------------------------------------------------------------------


def can_connect(dsn: str, **options: str) -> bool:
    try:
        psycopg.connect(dsn, **options).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def role(dsn: str, name: str, options: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login {options}")
        try:
            yield
        finally:
            admin.execute(f"drop owned by {name} cascade")
            admin.execute(f"drop role {name}")


def test_a_password_may_hold_any_character(empty: Empty) -> None:
    dsn = empty()
    password = "p@ss:/?#[]%20 &=+'\"\\;é"
    where = conninfo_to_dict(dsn)
    with psycopg.connect(dsn, autocommit=True) as admin:
        row = admin.execute(
            "select current_setting('hba_file'), rolsuper from pg_roles where rolname = user"
        ).fetchone()
        if not row[1] or not os.access(row[0], os.W_OK):
            pytest.skip("the server's pg_hba.conf cannot be written from here")
        file = Path(row[0])
        before = file.read_text()
        literal = admin.execute("select quote_literal(%s)", [password]).fetchone()[0]
        with role(dsn, '"us er@x"', f"superuser password {literal}"):
            try:
                file.write_text(f'local all "us er@x" scram-sha-256\nhost all "us er@x" all scram-sha-256\n{before}')
                admin.execute("select pg_reload_conf()")
                user = quote("us er@x", safe="")
                place = urlencode({"host": where["host"], "port": where["port"]})
                url = f"postgresql://{user}:{quote(password, safe='')}@/{where['dbname']}?{place}"
                pairs = make_conninfo(dsn, user="us er@x", password=password)
                wait_until(lambda: not can_connect(pairs, password="wrong"))
                for given in (url, pairs):
                    assert migrate(given) == ALL
                    assert pending(given) == []
                    assert rollback(given, all=True) == ALL[::-1]
            finally:
                file.write_text(before)
                admin.execute("select pg_reload_conf()")


@pytest.mark.parametrize("path", ["elsewhere", "", "elsewhere, public", "nowhere, pg_catalog"])
def test_a_role_with_an_odd_search_path_migrates_into_public(
    empty: Empty, whole: str, bin_dir: Path, path: str
) -> None:
    dsn = empty()
    name = f"odd_{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as admin, role(dsn, name, ""):
        admin.execute(f"create schema elsewhere authorization {name}")
        admin.execute(f"create table elsewhere.workflow (id integer); grant all on elsewhere.workflow to {name}")
        admin.execute(f"grant create, usage on schema public to {name}")
        admin.execute(f"alter role {name} set search_path = {path or repr('')}")
        odd = make_conninfo(dsn, user=name)
        assert migrate(odd) == ALL
        assert pending(odd) == []
        assert missing_objects(admin) == []
        with psycopg.connect(odd, autocommit=True) as conn:
            conn.execute("insert into public.workflow (name, type) values ('w', 'app')")
            conn.execute("insert into public.agent_task (workflow_id, agent_type) select id, 'a' from public.workflow")
            conn.execute("update public.agent_task set status = 'completed'")
            assert conn.execute("select progress from public.workflow").fetchall() == [(100,)]
        assert drift(dsn) == []
        assert rollback(odd, all=True, drop_data=True) == ALL[::-1]
        assert {name for _, name in objects(dsn)} - {"elsewhere"} == set()


def test_a_session_default_search_path_in_the_dsn_does_no_harm(empty: Empty, whole: str, bin_dir: Path) -> None:
    dsn = empty()
    assert migrate(make_conninfo(dsn, options="-c search_path=pg_catalog -c statement_timeout=30s")) == ALL
    assert_whole(dsn, whole, bin_dir)
