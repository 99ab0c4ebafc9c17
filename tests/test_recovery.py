"""What the long-running parts outlive: ended sessions, lost answers, crashes, deadlocks, serialization failures."""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from pyapp.agent import Agent, Once

from pyapp import agent as agents
from pyapp import get_workflow, list_tasks, list_workflows, migrate, retry, watch
from pyapp.cli import main
from pyapp.replay.player import Player
from pyapp.replay.trace import SAMPLE_PATH, read_trace

from .helpers import in_background, new_tasks, new_workflow, progress, set_status, wait_until_blocked
from .service import following, serving, wait_for
from .test_cli import outcome, start

SAMPLE = read_trace(SAMPLE_PATH)
# A session looks for a deadlock once, so long after it began to wait: who looks first while the circle is closed is the
# victim. The other one closes it within this time, and would else find it itself.
VICTIM = "options='-c deadlock_timeout=400ms'"
OTHER = "options='-c deadlock_timeout=5s'"
OWN_TABLES = ("workflow", "agent_task", "workflow_stage", "workflow_event", "stage_definition")


def assert_exact(conn: psycopg.Connection) -> None:
    """The sample was played once, and nothing of it twice."""
    (workflow,) = list_workflows(conn)
    assert (workflow.agents_created, workflow.agents_completed) == (24, 22)
    assert (workflow.agents_failed, workflow.agents_cancelled, workflow.status) == (1, 1, "failed")
    tasks = list_tasks(conn, workflow.workflow_id)
    assert sorted(task.external_id for task in tasks) == sorted(task.key for task in SAMPLE.tasks)
    retries = {task.key: len(task.attempts) - 1 for task in SAMPLE.tasks}
    assert {task.external_id: task.retry_count for task in tasks} == retries
    events = conn.execute(
        "select payload ->> 'to' from workflow_event where event_type = 'status' order by 1"
    ).fetchall()
    assert len(events) == len(set(events))
    assert conn.execute("select * from workflow_progress_drift").fetchall() == []


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread of its own until the block ends."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            act()

    going = in_background(run)
    try:
        yield
    finally:
        done.set()
        going.result(30)


def deadlocks(conn: psycopg.Connection) -> int:
    row = conn.execute("select deadlocks from pg_stat_database where datname = current_database()").fetchone()
    return row[0]


def deadlock_with(other: psycopg.Connection, conn: psycopg.Connection, application: str, table: str) -> None:
    """Make a statement of an application that reads ``table`` and others the victim of a deadlock."""
    waiting = (
        "select pid from pg_stat_activity where datname = current_database() and application_name = %s"
        " and wait_event_type = 'Lock'"
    )
    holding = (
        "select relation::regclass::text from pg_locks where pid = %s and granted and relation = any (%s::regclass[])"
    )
    other.execute(f"lock table {table}")
    (pid,) = wait_for(lambda: conn.execute(waiting, [application]).fetchone())
    (held,) = conn.execute(holding, [pid, list(OWN_TABLES)]).fetchone()
    other.execute(f"lock table {held}")  # granted once the victim is gone
    other.rollback()


# --- replay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_whose_sessions_are_ended_at_any_moment_counts_nothing_twice(
    dsn: str, conn: psycopg.Connection, seed: int
) -> None:
    chance = random.Random(seed)
    ended: list[Any] = []
    seen: list[Any] = []  # how far it was when each of them was ended

    def terminate() -> None:
        rows = conn.execute(
            "select pid from pg_stat_activity where application_name = 'agent-progress'"
            " and datname = current_database() order by pid"
        ).fetchall()
        far = conn.execute("select count(*), count(started_at), count(completed_at) from agent_task").fetchone()
        # However slow the machine is, it gets on between two dozens of losses: an agent gives up after a hundred.
        if rows and seen[-24:].count(far) < 24:
            seen.append(far)
            ended.append(conn.execute("select pg_terminate_backend(%s)", chance.choice(rows)).fetchone())
        time.sleep(chance.uniform(0, 0.06))

    player = Player(dsn, [SAMPLE], agents=5, speed=SAMPLE.duration / 1.0)
    with meanwhile(terminate):
        player.start()
        assert player.join(60)
    assert len(ended) > 15
    assert_exact(conn)


def test_a_replay_finds_out_whether_a_transaction_was_committed_whose_answer_was_lost(
    own_server: Callable[[], Any],
) -> None:
    # A commit that waits for a standby which is not there is done, and its answer is lost when the session is ended.
    dsn = own_server().dsn
    migrate(dsn)
    chance, lost, answered = random.Random(1), [], set()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set synchronous_commit = local")
        conn.execute("alter system set synchronous_standby_names = 'nobody'")
        conn.execute("select pg_reload_conf()")
        wait_for(lambda: conn.execute("show synchronous_standby_names").fetchone() == ("nobody",))

        def answer() -> None:
            waiting = "select pid, query_start from pg_stat_activity where wait_event = 'SyncRep'"
            for commit in set(conn.execute(waiting).fetchall()) - answered:
                answered.add(commit)
                if not lost or chance.random() < 0.5:
                    lost.append(commit)
                    conn.execute("select pg_terminate_backend(%s)", commit[:1])
                else:
                    conn.execute("select pg_cancel_backend(%s)", commit[:1])  # the answer comes: committed

        player = Player(dsn, [SAMPLE], agents=5)
        with meanwhile(answer):
            player.start()
            assert player.join(100)
        assert len(lost) > 40
        assert_exact(conn)


def test_a_transaction_is_done_once_whatever_became_of_its_first_attempt(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create table mark (n integer)")
    once = Once(lambda c: c.execute("insert into mark values (1) returning n").fetchone())
    with psycopg.connect(dsn, autocommit=True) as first:
        assert once(first) == (1,)
        assert once(first) == (1,)
    assert conn.execute("select count(*) from mark").fetchone() == (1,)

    # The first attempt is still under way in a session that nobody hears any more.
    with psycopg.connect(dsn) as first:
        slow = Once(lambda c: c.execute("insert into mark values (2) returning n").fetchone())
        first.execute("select 1")  # begins a transaction, of which the attempt is a part: not committed yet
        slow(first)
        waiting = in_background(slow, conn)
        assert not waiting.done()
        first.commit()
        assert waiting.result(10) == (2,)
    with psycopg.connect(dsn) as first:
        undone = Once(lambda c: c.execute("insert into mark values (3) returning n").fetchone())
        first.execute("select 1")
        undone(first)
        first.rollback()
        assert undone(conn) == (3,)
    assert conn.execute("select n, count(*) from mark group by n order by n").fetchall() == [(1, 1), (2, 1), (3, 1)]


def test_a_transaction_is_done_again_whose_number_the_server_gave_to_another_after_a_crash(
    own_server: Callable[[], Any],
) -> None:
    server, numbers = own_server(), []
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("create table mark (n integer)")

    def act(conn: psycopg.Connection) -> None:
        numbers.append(int(conn.execute("select pg_current_xact_id()::text").fetchone()[0]))
        conn.execute("insert into mark values (1)")
        if len(numbers) == 1:
            os.kill(server.pid, signal.SIGKILL)
            os.kill(conn.info.backend_pid, signal.SIGKILL)  # before the commit comes

    once = Once(act)
    with psycopg.connect(server.dsn, autocommit=True) as first, pytest.raises(psycopg.OperationalError):
        once(first)
    server = own_server()
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        others = [0]
        while others[-1] < numbers[0]:
            others.append(int(conn.execute("select pg_current_xact_id()::text").fetchone()[0]))
        assert numbers[0] in others
        once(conn)
        assert conn.execute("select n from mark").fetchall() == [(1,)]


def test_a_replay_goes_on_after_the_server_crashed_and_restarted(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    process = start("replay", SAMPLE_PATH, "--speed", "80", "--dsn", server.dsn)
    # A line for each look that found a change: none is certain to be printed.
    while not re.search(r"\b(?:[2-9]|1[0-5]) of 24 agents", process.stdout.readline()):
        assert process.poll() is None
    os.kill(server.pid, signal.SIGKILL)
    line = process.stderr.readline()
    assert re.fullmatch(r"the database is away, trying again for 60 s: [^\n]+\n", line)
    own_server()
    status, out, err = outcome(process)
    assert (status, err) == (0, "the database is back\n")
    assert "stored equals counted for all" in out
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        assert_exact(conn)


def test_a_replay_whose_database_stays_away_ends_in_one_clear_line(
    own_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = own_server()
    migrate(server.dsn)
    monkeypatch.setattr(agents, "PATIENCE", 0.5)
    monkeypatch.setattr("pyapp.replay.player._LAST_PATIENCE", 0.1)
    ending = in_background(main, ["replay", str(SAMPLE_PATH), "--speed", "20", "--dsn", server.dsn])
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        wait_for(lambda: conn.execute("select from agent_task where status = 'completed'").fetchone())
    os.kill(server.pid, signal.SIGKILL)
    assert ending.result(60) == 2
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith("agent-progress: no connection to the database: ")
    assert len(err) <= 2


def test_an_agent_gives_up_where_each_session_is_ended(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_MOST_LOSSES", 3)
    with Agent(dsn) as agent, pytest.raises(psycopg.errors.AdminShutdown):
        agent.persist(lambda conn: conn.execute("select pg_terminate_backend(pg_backend_pid())"))


def test_a_replay_that_is_always_the_victim_of_deadlocks_counts_exactly(dsn: str, conn: psycopg.Connection) -> None:
    before, rounds = deadlocks(conn), []
    player = Player(f"{dsn} {VICTIM}", [SAMPLE], agents=3, speed=SAMPLE.duration / 2, upfront=True)
    with psycopg.connect(f"{dsn} {OTHER}") as other:

        def cross() -> None:
            if len(rounds) == 4:
                time.sleep(0.05)
                return
            # An agent locks its task and waits for the workflow: here it is the other way round.
            with suppress(AssertionError, psycopg.errors.DeadlockDetected):
                other.execute("update workflow set description = 'x' where status = 'running'")
                wait_for(lambda: conn.execute("select from pg_locks where not granted").fetchone(), 0.3)
                other.execute("select from agent_task order by id for no key update")
                rounds.append(1)
            other.rollback()

        with meanwhile(cross):
            player.start()
            assert player.join(60)
    wait_for(lambda: deadlocks(conn) > before)
    assert_exact(conn)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_replay_in_a_stricter_isolation_takes_serialization_failures_again(
    dsn: str, conn: psycopg.Connection, level: str
) -> None:
    setting = f"options='-c default_transaction_isolation={level.replace(' ', chr(92) * 2 + ' ')}'"
    player = Player(f"{dsn} {setting}", [SAMPLE], agents=8, upfront=True)
    player.start()
    assert player.join(60)
    assert_exact(conn)


# --- watch ------------------------------------------------------------------------------------------------------


def test_watch_goes_on_after_a_crash_and_says_so_once(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        workflow = new_workflow(conn, name="checkout", status="running")
        (task,) = new_tasks(conn, workflow, "running")
    process = start("watch", workflow, "--interval", "0.05", "--dsn", server.dsn)
    assert "0 of 1 agents" in process.stdout.readline()
    os.kill(server.pid, signal.SIGKILL)
    assert process.stderr.readline().startswith("the database is away, trying again: ")
    server = own_server()
    assert process.stderr.readline() == "the database is back\n"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        set_status(conn, task, "completed")
        conn.execute("update workflow set status = 'completed'")
    status, out, err = outcome(process)
    assert (status, err) == (0, "")
    assert "1 of 1 agents  completed" in out


def test_watch_goes_on_without_a_word_after_it_was_the_victim_of_a_deadlock(dsn: str, conn: psycopg.Connection) -> None:
    workflow, before = new_workflow(conn, name="checkout", status="running"), deadlocks(conn)
    (task,) = new_tasks(conn, workflow, "running")
    process = start("watch", workflow, "--interval", "0.05", "--dsn", f"{dsn} {VICTIM} application_name=victim")
    assert "0 of 1 agents" in process.stdout.readline()
    with psycopg.connect(f"{dsn} {OTHER}") as other:
        deadlock_with(other, conn, "victim", "agent_task")
    wait_for(lambda: deadlocks(conn) > before)
    set_status(conn, task, "completed")
    conn.execute("update workflow set status = 'completed'")
    status, out, err = outcome(process)
    assert (status, err) == (0, "")
    assert "1 of 1 agents  completed" in out


def test_a_loss_does_not_make_watch_wait_for_its_whole_interval(dsn: str, conn: psycopg.Connection) -> None:
    assert main(["notify", "on", "--dsn", dsn]) == 0
    workflow = new_workflow(conn, status="running")
    (task,) = new_tasks(conn, workflow, "running")
    changes = watch(dsn, [workflow], interval=3600)
    next(changes)
    following_it = in_background(lambda: next(changes))
    watching = "from pg_stat_activity where datname = current_database() and application_name = 'agent-progress'"
    wait_for(lambda: conn.execute(f"select {watching} and wait_event = 'ClientRead'").fetchone())
    assert conn.execute(f"select pg_terminate_backend(pid, 5000) {watching}").fetchall() == [(True,)]
    set_status(conn, task, "completed")
    assert following_it.result(10).progress == 100
    changes.close()


# --- serve ------------------------------------------------------------------------------------------------------


def test_serve_answers_the_victim_of_a_deadlock_at_its_second_try(dsn: str, conn: psycopg.Connection) -> None:
    workflow, before = new_workflow(conn, status="running"), deadlocks(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with (
        psycopg.connect(f"{dsn} {OTHER}") as other,
        serving(f"{dsn} {VICTIM} application_name=victim", "--interval", "0.1") as service,
        service.client() as client,
    ):
        where = f"/api/v1/workflows/{workflow}/timeline"
        assert client.get(where).status_code == 200
        locking = in_background(deadlock_with, other, conn, "victim", "agent_task")
        wait_for(lambda: conn.execute("select from pg_locks where mode = 'AccessExclusiveLock' and granted").fetchone())
        answer = client.get(where)
        locking.result(10)
        assert answer.status_code == 200
        wait_for(lambda: deadlocks(conn) > before)

        with following(service, f"/api/v1/workflows/{workflow}/stream") as stream:
            stream.next()
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'")
            set_status(conn, task, "completed")
            stream.until(lambda _: stream.latest[str(workflow)]["progress"] == 100)


# --- Users' own ---------------------------------------------------------------------------------------------------


def test_retry_brings_the_victim_of_a_real_deadlock_through(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    tries = []
    with psycopg.connect(f"{dsn} {OTHER}") as other, psycopg.connect(f"{dsn} {VICTIM}", autocommit=True) as mine:
        other.execute("update workflow set description = 'x'")

        def complete() -> None:
            tries.append(1)
            set_status(mine, task, "completed")

        done = in_background(retry, complete)
        wait_until_blocked(conn, mine.info.backend_pid)
        other.execute("select from agent_task for update")  # granted once the victim is gone
        other.commit()
        done.result(10)
    assert len(tries) == 2
    assert progress(conn, workflow) == (100, 1, 1)


def test_retry_gives_up_with_the_error_itself(conn: psycopg.Connection) -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        conn.execute("do $$ begin raise serialization_failure; end $$")

    with pytest.raises(psycopg.errors.SerializationFailure):
        retry(fail, tries=4)
    assert len(tries) == 4
    assert get_workflow(conn, new_workflow(conn)).progress == 0
