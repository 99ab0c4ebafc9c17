"""kill -9 of servers, backends and clients, with fsync on, in the middle of everything that writes.

CRASH_ROUNDS=20 (4 by default) says how often, CRASH_TRANSACTIONS how many are acknowledged from one crash to the next,
CRASH_DIR=/tmp where the data are (by default in memory, if there is room: fsync is on there too, and costs nothing);
CRASH_SEED repeats what the clients did, but for their timing.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyapp import find_drift

from .commands import outcome, start
from .crash import SHORT_DEADLOCKS, CrashableServer, servers, wait_for
from .helpers import counters, in_background, wait_until_blocked_by
from .ledger import Ledger, assert_exact

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "4"))
TRANSACTIONS = int(os.environ.get("CRASH_TRANSACTIONS", "400"))
SEED = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def crashing(bin_dir: Path) -> Iterator[CrashableServer]:
    """A server with all its durability."""
    with servers(bin_dir, os.environ.get("CRASH_DIR")) as make:
        yield make("crash", **SHORT_DEADLOCKS).start()


@pytest.fixture
def server(crashing: CrashableServer) -> CrashableServer:
    """The same, running whatever the test before did to it."""
    return crashing if crashing.is_ready() else crashing.start()


# --- In mid load --------------------------------------------------------------------------------------------

BLOWS: list[Callable[[CrashableServer], None]] = [
    CrashableServer.kill,
    lambda server: server.kill_one("application_name = 'load' and state = 'active'"),
    CrashableServer.kill_everything,
    lambda server: server.kill_one("backend_type = 'checkpointer'"),
]


def test_nothing_acknowledged_is_lost_and_nothing_counted_twice(server: CrashableServer) -> None:
    server.create_migrated("load")
    with server.connect("load") as conn:
        durable = "select current_setting(s) from unnest(array['fsync', 'synchronous_commit', 'full_page_writes']) as s"
        assert conn.execute(durable).fetchall() == [("on",)] * 3
        ledger = Ledger(conn, SEED)
    doubts = 0
    for turn in range(ROUNDS):
        with ledger.load(server.dsn("load")):
            ledger.go_on(TRANSACTIONS)
            BLOWS[turn % len(BLOWS)](server)
            ledger.wait_until_all_stopped()
        doubts += ledger.doubts
        server.start()
        with server.connect("load") as conn:
            ledger.assert_kept(conn)
    print(f"{ROUNDS} crashes: {ledger}, {doubts} without an answer; 0 lost, 0 counted twice")


# --- During repair ------------------------------------------------------------------------------------------


@pytest.fixture
def drifted(server: CrashableServer) -> list[Any]:
    """A database of many workflows whose numbers are wrong; return them in the order in which they are repaired."""
    server.create_migrated("repair")
    with server.connect("repair") as conn, conn.transaction():
        conn.execute("set local session_replication_role = replica")
        conn.execute("insert into workflow (name, type) select 'w', 'app' from generate_series(1, 300)")
        conn.execute(
            "insert into agent_task (workflow_id, agent_type, status)"
            " select w.id, 'agent', s from workflow as w, unnest(enum_range(null::task_status)) as s"
        )
        return [row[0] for row in conn.execute("select id from workflow order by id").fetchall()]


# Not the postmaster alone: the holder of the lock may notice first, and let the repair end.
@pytest.mark.parametrize("blow", BLOWS[1:3], ids=["its backend", "all processes"])
def test_a_repair_that_was_killed_has_changed_nothing_and_the_next_one_is_exact(
    server: CrashableServer, drifted: list[Any], blow: Callable[[CrashableServer], None]
) -> None:
    with closing(server.connect("repair", autocommit=False)) as holder, closing(server.connect()) as watcher:
        # In the middle: half is repaired, and not committed.
        holder.execute("select from workflow where id = %s for update", [drifted[len(drifted) // 2]])
        repairer = server.connect("repair", application_name="load")
        repairing = in_background(repairer.execute, "select from repair_progress()")
        wait_until_blocked_by(watcher, repairer.info.backend_pid, holder.info.backend_pid)
        blow(server)
        assert isinstance(repairing.exception(60), psycopg.OperationalError)
    server.start()
    with server.connect("repair") as conn:
        assert [wrong.workflow_id for wrong in find_drift(conn)] == drifted
        assert len(conn.execute("select from repair_progress()").fetchall()) == len(drifted)
        assert {counters(conn, workflow) for workflow in drifted} == {(6, 1, 1, 1)}
        assert_exact(conn)


def test_a_repair_from_the_command_line_that_was_killed_is_continued_by_the_next_one(
    server: CrashableServer, drifted: list[Any]
) -> None:
    dsn = server.dsn("repair")
    with closing(server.connect("repair", autocommit=False)) as holder, closing(server.connect()) as watcher:
        holder.execute("select from workflow where id = %s for update", [drifted[100]])
        repairing = start("repair", "--dsn", dsn)
        blocked = "select from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
        wait_for(lambda: watcher.execute(blocked, [holder.info.backend_pid]).fetchall())
        server.kill_everything()
        status, out, err = outcome(repairing)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("agent-progress: no connection to the database: ")
    server.start()
    with server.connect("repair") as conn:
        assert [wrong.workflow_id for wrong in find_drift(conn)] == drifted[100:]
        status, out, err = outcome(start("repair", "--dsn", dsn))
        assert (status, out.count("\n")) == (0, 1 + len(drifted) - 100), err
        assert_exact(conn)
