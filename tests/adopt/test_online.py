"""Adopting while everybody goes on writing: nobody waits for long, and every number is exact afterwards."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from pyapp import embedded
from pyapp.adopt import Counted, Findings, Wanted, backfill, get_adoption, install, look, uncounted
from pyapp.adopt.backfill import _Steps
from pyapp.cli import main
from tests.adopt.counted import APP, SEARCH_PATH, assert_exact
from tests.databases import Databases, template
from tests.helpers import (
    counters,
    in_background,
    keeper,
    new_tasks,
    new_workflow,
    progress,
    row_version,
    set_status,
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]


def create_tables(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(APP.read_text("utf-8"))


application = template(create_tables, "application")


@pytest.fixture
def dsn(databases: Databases, application: Any) -> Iterator[str]:
    """Where an application's database is that has not been adopted."""
    with databases.copy(application, search_path=SEARCH_PATH) as dsn:
        yield dsn


@pytest.fixture(params=[False, True], ids=["beside", "in columns"])
def columns(request: pytest.FixtureRequest) -> bool:
    """Where the counters are kept."""
    return bool(request.param)


@pytest.fixture(autouse=True)
def no_drift(request: pytest.FixtureRequest) -> Iterator[None]:
    """End each test by comparing what is stored with what is counted by hand; all has been counted by then."""
    dsn = request.getfixturevalue("dsn") if "dsn" in request.fixturenames else None
    yield
    if dsn is None:
        return
    with psycopg.connect(dsn) as conn:
        assert uncounted(conn, get_adoption(conn, "default").pair) == 0
        assert_exact(conn)


@pytest.fixture
def other(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection for what runs beside: it commits each statement."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def find(conn: psycopg.Connection, columns: bool) -> Findings:
    wanted = Wanted("app.workflow", "app.agent_task", "default", "agent_progress", "workflow_id", columns=columns)
    return look(conn, wanted)


def count_all(conn: psycopg.Connection, **callbacks: Any) -> Counted:
    """Do what adopt --continue does."""
    return backfill(conn, get_adoption(conn, "default").pair, **callbacks)


class Waited:
    """Is told what an adoption waits for; the test goes on once it does."""

    def __init__(self, what: str = "waiting for") -> None:
        self._what, self._told = what, threading.Event()

    def __call__(self, what: str) -> None:
        if self._what in what:
            self._told.set()

    def wait(self) -> None:
        assert self._told.wait(20), "nothing was waited for"


def many_workflows(conn: psycopg.Connection, number: int) -> None:
    """Insert workflows with two tasks each, one of them completed."""
    conn.execute("insert into workflow (name, type) select 'w', 'app' from generate_series(1, %s)", [number])
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status)"
        " select w.id, 'agent', s from workflow as w, unnest(array['completed', 'running']::task_status[]) as s"
    )


# Before there are triggers


def test_installing_waits_for_a_transaction_that_changed_a_task_and_lets_others_through(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session, columns: bool
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 4)
    writer, waited = session(), Waited()
    set_status(writer, tasks[0], "completed")
    installing = in_background(install, other, find(conn, columns), waited)
    waited.wait()
    set_status(conn, tasks[1], "completed")
    assert not installing.done()
    writer.commit()
    installing.result(20)
    count_all(conn)
    assert progress(conn, workflow) == (50, 2, 4)


def exists(conn: psycopg.Connection, query: str) -> bool:
    return conn.execute(query).fetchone() is not None


def wait_for(conn: psycopg.Connection, query: str) -> None:
    give_up = time.monotonic() + 20
    while not exists(conn, query):
        assert time.monotonic() < give_up, f"nothing found: {query}"
        time.sleep(0.005)


def test_installing_takes_one_table_at_a_time_where_others_never_leave_both(
    conn: psycopg.Connection,
    other: psycopg.Connection,
    session: Session,
    columns: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["pyapp.adopt.install"], "_PATIENCE_FOR_BOTH", 0.2)
    old = new_workflow(conn)
    [task] = new_tasks(conn, old, "running")
    on_tasks, on_workflows = session(), session()
    set_status(on_tasks, task, "completed")
    new_workflow(on_workflows)
    waited = Waited("one table at a time")
    installing = in_background(install, other, find(conn, columns), waited)
    waited.wait()
    on_workflows.commit()
    wait_for(conn, "select from pg_class where relname = 'adoption'")
    between, gone = new_workflow(on_workflows), new_workflow(conn)
    on_tasks.commit()
    wait_for(conn, "select from pg_trigger where tgname = 'agent_task_progress_truncate'")
    new_tasks(on_workflows, between, "completed", "running")
    new_tasks(conn, gone, "completed")
    conn.execute("delete from workflow where id = %s", [gone])
    assert not installing.done()
    on_workflows.commit()
    installing.result(20)
    after = new_workflow(conn)
    new_tasks(conn, after, "completed", "running", "running")
    assert count_all(conn).workflows == 3
    assert [progress(conn, workflow)[0] for workflow in (old, between, after)] == [100, 50, 33]


@pytest.mark.parametrize("level", [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ])
@pytest.mark.parametrize("acts", ["before the back-fill", "after the back-fill"])
def test_a_transaction_that_began_before_all_is_counted_or_told_to_retry(
    conn: psycopg.Connection, session: Session, columns: bool, level: IsolationLevel, acts: str
) -> None:
    workflow = new_workflow(conn)
    task, _ = new_tasks(conn, workflow, "running", "running")
    writer = session()
    writer.isolation_level = level
    writer.execute("select pg_current_xact_id()")
    install(conn, find(conn, columns))
    waited = Waited()
    if acts == "after the back-fill":
        count_all(conn)
    try:
        set_status(writer, task, "completed")
    except errors.SerializationFailure:
        assert (acts, level) == ("after the back-fill", IsolationLevel.REPEATABLE_READ)
        writer.rollback()
        set_status(writer, task, "completed")
    if acts == "before the back-fill":
        counting = in_background(lambda: count_all(conn, on_step=waited))
        waited.wait()
        writer.commit()
        counting.result(20)
    writer.commit()
    assert progress(conn, workflow) == (50, 1, 2)


# While it is being counted


def test_a_completion_that_is_not_committed_holds_up_its_own_workflow_only(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session, columns: bool
) -> None:
    workflows = sorted(new_workflow(conn) for _ in range(9))
    tasks = {workflow: new_tasks(conn, workflow, "running", "running") for workflow in workflows}
    install(conn, find(conn, columns))
    writer, waited = session(), Waited()
    set_status(writer, tasks[workflows[4]][0], "completed")
    counting = in_background(lambda: count_all(other, on_step=waited))
    waited.wait()
    assert uncounted(conn, get_adoption(conn, "default").pair) == 1
    assert progress(conn, workflows[8]) == (0, 0, 2)
    writer.commit()
    assert counting.result(20).workflows == 9
    assert progress(conn, workflows[4]) == (50, 1, 2)


def test_a_completion_waits_for_the_batch_that_counts_its_workflow(
    conn: psycopg.Connection, session: Session, columns: bool
) -> None:
    workflow = new_workflow(conn)
    task, _ = new_tasks(conn, workflow, "running", "running")
    findings = find(conn, columns)
    install(conn, findings)
    counting, writer = session(), session()
    _Steps(findings.pair).count(counting, [str(workflow)])
    completing = in_background(set_status, writer, task, "completed")
    wait_until_blocked_by(conn, writer.info.backend_pid, counting.info.backend_pid)
    counting.commit()
    completing.result(20)
    writer.commit()
    count_all(conn)
    assert progress(conn, workflow) == (50, 1, 2)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_status_that_is_not_committed_is_heeded_by_the_count(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session, columns: bool, end: str
) -> None:
    workflow = new_workflow(conn, agents_planned=8)
    new_tasks(conn, workflow, "completed", "running")
    install(conn, find(conn, columns))
    writer, waited = session(), Waited()
    writer.execute("update workflow set status = 'completed', version = version + 1 where id = %s", [workflow])
    counting = in_background(lambda: count_all(other, on_step=waited))
    waited.wait()
    getattr(writer, end)()
    counting.result(20)
    assert progress(conn, workflow) == ((50, 1, 2) if end == "commit" else (13, 1, 8))


def test_a_status_changed_during_the_batch_is_heeded(conn: psycopg.Connection, session: Session, columns: bool) -> None:
    workflow = new_workflow(conn, agents_planned=8)
    new_tasks(conn, workflow, "completed", "running")
    findings = find(conn, columns)
    install(conn, findings)
    counting, writer = session(), session()
    _Steps(findings.pair).count(counting, [str(workflow)])
    changing = in_background(writer.execute, "update workflow set status = 'completed'")
    wait_until_blocked_by(conn, writer.info.backend_pid, counting.info.backend_pid)
    counting.commit()
    changing.result(20)
    writer.commit()
    count_all(conn)
    assert progress(conn, workflow) == (50, 1, 2)


def test_workflows_that_come_and_go_before_the_back_fill_are_right(conn: psycopg.Connection, columns: bool) -> None:
    gone, stays, moves = sorted(new_workflow(conn) for _ in range(3))
    for workflow in (gone, stays, moves):
        new_tasks(conn, workflow, "completed", "running", "failed")
    install(conn, find(conn, columns))
    conn.execute("delete from workflow where id = %s", [gone])
    new = new_workflow(conn)
    new_tasks(conn, new, "completed")
    [task] = new_tasks(conn, moves, "completed")
    conn.execute("update agent_task set workflow_id = %s where id = %s", [new, task])
    assert (progress(conn, new), counters(conn, new)) == ((100, 2, 2), (2, 2, 0, 0))
    assert count_all(conn).workflows == 2
    assert counters(conn, stays) == (3, 1, 1, 0)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_workflow_that_is_being_deleted_is_waited_for(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session, columns: bool, end: str
) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    install(conn, find(conn, columns))
    owner, waited = session(), Waited()
    owner.execute("delete from workflow where id = %s", [workflow])
    counting = in_background(lambda: count_all(other, on_step=waited))
    waited.wait()
    getattr(owner, end)()
    assert counting.result(20).workflows == int(end == "rollback")


def test_a_workflow_that_changes_its_key_behind_the_back_fill_is_counted(
    conn: psycopg.Connection, columns: bool
) -> None:
    conn.execute("""
        alter table agent_task drop constraint agent_task_workflow_id_fkey;
        alter table agent_task add foreign key (workflow_id) references workflow (id) on update cascade;
    """)
    for number in range(100, 260):
        new_tasks(conn, new_workflow(conn, id=uuid.UUID(int=number)), "completed", "running")
    install(conn, find(conn, columns))
    behind = uuid.UUID(int=1)

    def change_key(_: int) -> None:
        if conn.execute("select from workflow where id = %s", [behind]).fetchone() is None:
            conn.execute("update workflow set id = %s where id = %s", [behind, uuid.UUID(int=259)])

    count_all(conn, on_batch=change_key)
    assert progress(conn, behind) == (50, 1, 2)


def test_finished_workflows_that_were_never_reported_are_frozen_and_twenty_of_them_named(
    conn: psycopg.Connection, columns: bool
) -> None:
    for _ in range(30):
        new_tasks(conn, new_workflow(conn, status="completed", progress=100), "pending", "pending")
    new_tasks(conn, new_workflow(conn, status="completed", progress=100), "pending", "completed")
    install(conn, find(conn, columns))
    counted = count_all(conn)
    assert (counted.workflows, counted.frozen, len(counted.examples)) == (31, 30, 20)
    assert conn.execute("select progress, count(*) from workflow group by 1 order by 1").fetchall() == [
        (50, 1),
        (100, 30),
    ]


# Where there is no foreign key


@pytest.fixture
def no_foreign_key(conn: psycopg.Connection) -> None:
    conn.execute("alter table agent_task drop constraint agent_task_workflow_id_fkey")


@pytest.mark.usefixtures("no_foreign_key")
@pytest.mark.parametrize("tasks_are_there", ["before the adoption", "after it"])
def test_tasks_committed_before_their_workflow_are_counted(
    conn: psycopg.Connection, columns: bool, tasks_are_there: str
) -> None:
    workflow, findings = uuid.uuid4(), find(conn, columns)
    if tasks_are_there == "after it":
        install(conn, findings)
    [task, _] = new_tasks(conn, workflow, "running", "completed")
    install(conn, findings)
    set_status(conn, task, "failed")
    count_all(conn)
    new_workflow(conn, id=workflow, agents_planned=4)
    assert (progress(conn, workflow), counters(conn, workflow)) == ((25, 1, 4), (2, 1, 1, 0))


@pytest.mark.usefixtures("no_foreign_key")
@pytest.mark.parametrize("first", ["tasks", "workflow"])
def test_tasks_and_workflow_that_come_at_the_same_time_are_counted_beside(
    conn: psycopg.Connection, session: Session, first: str
) -> None:
    install(conn, find(conn, columns=False))
    workflow = uuid.uuid4()
    one, other = session(), session()
    acts: list[Callable[[psycopg.Connection], Any]] = [
        lambda session: new_tasks(session, workflow, "completed", "running"),
        lambda session: new_workflow(session, id=workflow),
    ]
    former, latter = acts if first == "tasks" else reversed(acts)
    former(one)
    waiting = in_background(latter, other)
    wait_until_blocked_by(conn, other.info.backend_pid, one.info.backend_pid)
    one.commit()
    waiting.result(20)
    other.commit()
    assert progress(conn, workflow) == (50, 1, 2)


@pytest.mark.usefixtures("no_foreign_key")
@pytest.mark.parametrize("first", ["tasks", "workflow"])
def test_in_columns_tasks_that_come_while_their_workflow_does_are_missed_until_repair(
    conn: psycopg.Connection, session: Session, first: str
) -> None:
    """The limit of --columns without a foreign key: there is no row yet that both could wait for."""
    install(conn, find(conn, columns=True))
    workflow = uuid.uuid4()
    one, other = session(), session()
    acts: list[Callable[[psycopg.Connection], Any]] = [
        lambda session: new_tasks(session, workflow, "completed", "running"),
        lambda session: new_workflow(session, id=workflow),
    ]
    former, latter = acts if first == "tasks" else reversed(acts)
    former(one)
    latter(other)
    one.commit()
    other.commit()
    assert progress(conn, workflow) == (0, 0, 0)
    assert conn.execute("select workflow_id from repair_progress()").fetchall() == [(workflow,)]
    assert progress(conn, workflow) == (50, 1, 2)


# Locks in the way


def test_a_locked_workflow_is_passed_over_and_counted_last(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session, columns: bool
) -> None:
    workflows = sorted(new_workflow(conn) for _ in range(200))
    for workflow in workflows:
        new_tasks(conn, workflow, "completed", "running")
    install(conn, find(conn, columns))
    holder, waited = session(), Waited()
    holder.execute("select from workflow where id = any(%s) for update", [workflows[3:6]])
    counting = in_background(lambda: count_all(other, on_step=waited))
    waited.wait()
    assert uncounted(conn, get_adoption(conn, "default").pair) == 3
    conn.execute("set lock_timeout = '5s'")
    conn.execute("update workflow set current_stage = 'build' where id = %s", [workflows[0]])
    holder.commit()
    assert counting.result(20).workflows == 200


def test_the_command_goes_on_where_its_session_was_ended(
    conn: psycopg.Connection,
    session: Session,
    columns: bool,
    dsn: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    many_workflows(conn, 200)
    install(conn, find(conn, columns))
    holder = session()
    [[locked]] = conn.execute("select id from workflow order by id offset 100 limit 1").fetchall()
    holder.execute("select from workflow where id = %s for update", [locked])
    running = in_background(main, ["adopt", "--continue", "--dsn", dsn])
    theirs = "select pid from pg_stat_activity where application_name = 'agent-progress' and query ilike %s"
    while uncounted(conn, get_adoption(conn, "default").pair) > 1 or not (
        found := conn.execute(theirs, ["%workflow%"]).fetchall()
    ):
        assert not running.done(), running.result()
    for (pid,) in found:
        conn.execute("select pg_terminate_backend(%s)", [pid])
    holder.commit()
    assert running.result(20) == 0
    out, _ = capfd.readouterr()
    assert out == "counted 200 workflows\n"
    assert progress(conn, locked) == (50, 1, 2)


def test_a_writer_who_locks_in_another_order_goes_first(
    conn: psycopg.Connection, other: psycopg.Connection, session: Session
) -> None:
    workflow, last = sorted(new_workflow(conn) for _ in range(2))
    tasks = new_tasks(conn, last, "running", "completed")
    new_tasks(conn, workflow, "completed", "running")
    install(conn, find(conn, columns=False))
    set_status(conn, tasks[0], "running")
    new_tasks(conn, last, "running")
    writer = session()
    writer.execute("update workflow_counter set agents_planned = 9 where id = %s", [last])
    counting = in_background(count_all, other)
    wait_until_blocked_by(conn, other.info.backend_pid, writer.info.backend_pid)
    # The batch has this row, and waits for the writer: it is the one to step back.
    writer.execute("update workflow set current_stage = 'build' where id = %s", [workflow])
    writer.commit()
    assert counting.result(20).workflows == 2


# Several at once


def test_several_adoptions_at_once_end_in_one(dsn: str, conn: psycopg.Connection, columns: bool) -> None:
    for _ in range(40):
        new_tasks(conn, new_workflow(conn), "completed", "running")
    start = threading.Barrier(4)

    def adopt() -> int:
        with psycopg.connect(dsn, autocommit=True) as connection:
            findings = find(connection, columns)
            start.wait(20)
            install(connection, findings)
            return backfill(connection, findings.pair).workflows

    results = [in_background(adopt) for _ in range(4)]
    assert sum(result.result(30) for result in results) == 40
    assert conn.execute("select count(*), count(counted_at), count(position) from adoption").fetchall() == [(1, 1, 0)]


def test_two_back_fills_at_once_count_each_workflow_once(
    dsn: str, conn: psycopg.Connection, other: psycopg.Connection, columns: bool
) -> None:
    for _ in range(300):
        new_tasks(conn, new_workflow(conn), "completed", "running")
    install(conn, find(conn, columns))
    turn = threading.Barrier(2)

    def in_step(_: int) -> None:
        try:
            turn.wait(1)
        except threading.BrokenBarrierError:
            return  # the other one is done

    results = [in_background(lambda c=c: count_all(c, on_batch=in_step)) for c in (conn, other)]
    assert sum(result.result(30).workflows for result in results) == 300


# Broken off

DIE = """
import os, signal, sys
import psycopg
from pyapp.adopt import backfill, get_adoption
from pyapp.adopt.backfill import _Steps

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def count(self, conn, keys, count=_Steps.count):
    result = count(self, conn, keys)
    batches.append(keys)
    return die() if len(batches) == 3 and sys.argv[2] == "amid a batch" else result

batches = []
_Steps.count = count
sys.modules["pyapp.adopt.backfill"]._MOST = 100
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    pair = get_adoption(conn, "default").pair
    backfill(conn, pair, lambda _: die() if len(batches) == 2 and sys.argv[2] == "between two" else None)
"""


@pytest.mark.parametrize("when", ["amid a batch", "between two"])
def test_a_back_fill_that_was_killed_is_taken_up_where_it_was(
    dsn: str, conn: psycopg.Connection, columns: bool, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    many_workflows(conn, 1500)
    install(conn, find(conn, columns))
    process = subprocess.run([sys.executable, "-c", DIE, dsn, when], check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    [(position,)] = conn.execute("select position from adoption").fetchall()
    done = f"select id from {keeper(conn)} where progress_frozen_at is null order by id"
    counted = [row[0] for row in conn.execute(done)]
    assert 0 < len(counted) < 1500
    assert str(counted[-1]) == position
    before = [row_version(conn, counted[0]), row_version(conn, counted[-1])]
    assert main(["adopt", "--continue", "--dsn", dsn]) == 0
    assert f"counted {1500 - len(counted)} workflows" in capsys.readouterr().out
    assert [row_version(conn, counted[0]), row_version(conn, counted[-1])] == before


def test_a_back_fill_goes_on_after_the_server_was_killed(columns: bool, bin_dir: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ap-") as parent:
        Path(parent).chmod(0o755)
        with embedded.server(Path(parent) / "data", bin_dir=bin_dir) as running:
            with psycopg.connect(running.dsn, autocommit=True) as conn:
                conn.execute(APP.read_text("utf-8"))
                conn.execute(f"alter database {conn.info.dbname} set search_path = {SEARCH_PATH}")
            with psycopg.connect(running.dsn, autocommit=True) as conn:
                many_workflows(conn, 600)
                install(conn, find(conn, columns))

                def die(_: int) -> None:
                    with suppress(ProcessLookupError):
                        os.kill(running.pid, signal.SIGKILL)

                with pytest.raises(psycopg.OperationalError):
                    count_all(conn, on_batch=die)
        with (
            embedded.server(Path(parent) / "data", bin_dir=bin_dir) as running,
            psycopg.connect(running.dsn, autocommit=True) as conn,
        ):
            left = uncounted(conn, get_adoption(conn, "default").pair)
            assert 0 < left < 600
            assert count_all(conn).workflows == left
            assert_exact(conn)


# An extra, not a proof

HAMMER = [
    "update agent_task set status = %(status)s where id in ("
    "select id from agent_task where workflow_id = %(one)s limit 1)",
    "update agent_task set status = %(status)s where workflow_id = any(%(some)s) and status <> %(status)s",
    "insert into agent_task (workflow_id, agent_type, status) values (%(one)s, 'agent', %(status)s)",
    "insert into agent_task (workflow_id, agent_type, status)"
    " select id, 'agent', %(status)s from workflow where id = any(%(some)s)",
    "delete from agent_task where id in (select id from agent_task where workflow_id = %(one)s limit 1)",
    "update agent_task set workflow_id = %(other)s where id in ("
    "select id from agent_task where workflow_id = %(one)s limit 1)",
    "update workflow set progress = 15, version = version + 1 where id = %(one)s and version > 0 returning progress",
    "update workflow set agents_planned = %(plan)s, status = %(workflow_status)s where id = %(one)s",
    "with w as (insert into workflow (name, type, agents_planned) values ('new', 'app', %(plan)s) returning id)"
    " insert into agent_task (workflow_id, agent_type, status) select id, 'agent', %(status)s from w",
    "delete from workflow where id in (select id from workflow where name = 'new' limit 1 for update skip locked)",
    "insert into workflow (id, name, type, progress) values (%(one)s, 'w', 'app', 90)"
    " on conflict (id) do update set progress = excluded.progress, current_stage = 'build'",
]


def test_numbers_are_exact_after_six_sessions_wrote_during_the_adoption(
    dsn: str, conn: psycopg.Connection, columns: bool
) -> None:
    conn.execute("insert into workflow (name, type) select 'w', 'app' from generate_series(1, 3000)")
    conn.execute("insert into agent_task (workflow_id, agent_type) select id, 'agent' from workflow")
    workflows = [row[0] for row in conn.execute("select id from workflow")]
    adopted, unexpected = threading.Event(), list[psycopg.Error]()
    written = [[0, 0] for _ in range(6)]

    def hammer(seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(dsn) as connection:
            while not adopted.is_set() or written[seed][1] < 20:
                status = rng.choice(["running", "completed", "completed", "failed", "cancelled"])
                some = rng.sample(workflows, 5)
                names = {"one": some[0], "other": some[1], "some": some, "status": status}
                names |= {"plan": rng.randrange(9), "workflow_status": rng.choice(["running", "completed"])}
                try:
                    for statement in rng.choices(HAMMER, k=rng.choice([1, 1, 2, 3])):
                        connection.execute(statement, names)
                    connection.commit()
                    written[seed][adopted.is_set()] += 1
                except (errors.DeadlockDetected, errors.SerializationFailure):
                    connection.rollback()
                except psycopg.Error as error:
                    unexpected.append(error)
                    return

    threads = [threading.Thread(target=hammer, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 20
    while not unexpected and min(count for count, _ in written) < 5 and time.monotonic() < give_up:
        time.sleep(0.01)
    try:
        tables = ["--workflows", "workflow", "--tasks", "agent_task", *(["--columns"] if columns else [])]
        assert main(["adopt", "--dsn", dsn, *tables]) == 0
    finally:
        adopted.set()
        for thread in threads:
            thread.join(30)
    assert unexpected == []
    assert min(after for _, after in written) >= 20
