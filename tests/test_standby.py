"""Physical standbys: exact in every snapshot while the primary is under load, and after their promotion."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pyapp import (
    find_drift,
    list_tasks,
    stage_progress,
    wait_for_position,
    wal_position,
    watch,
)
from pyapp.cli import main

from .crash import QUICK, CrashableServer, run, servers, wait_for
from .helpers import at_work, in_background, set_status
from .ledger import Ledger, difference
from .service import following, serving
from .test_copies import assert_goes_on, fill

Make = Callable[..., CrashableServer]


@pytest.fixture
def make(bin_dir: Path) -> Iterator[Make]:
    with servers(bin_dir) as make:
        yield make


@pytest.fixture
def primary(make: Make) -> CrashableServer:
    server = make("primary", **QUICK).start()
    server.create_migrated("app")
    return server


def standby_of(primary: CrashableServer, make: Make) -> CrashableServer:
    """Copy a running server to one that follows it, under the name standby."""
    standby = make("standby", **QUICK, hot_standby_feedback="on")
    source = psycopg.conninfo.make_conninfo(primary.dsn(), application_name="standby")
    to = ("--pgdata", standby.data_dir, "--write-recovery-conf")
    run(primary.bin_dir, "pg_basebackup", f"--dbname={source}", *to, "--checkpoint=fast", "--no-sync")
    return standby.start()


def assert_exact_in_every_snapshot(dsn: str, go_on: Callable[[], object]) -> int:
    """Compare again and again while it moves; return how often."""
    seen, compared = set(), 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        while compared < 50 or len(seen) < 10:
            assert difference(conn) == []
            seen.add(conn.execute("select sum(agents_created), sum(agents_completed) from workflow").fetchone())
            compared += 1
            if compared % 5 == 0:
                go_on()
    return compared


def wait_until_replayed(primary: CrashableServer) -> None:
    """Wait until the standby shows all that the primary has written until now."""
    query = "select replay_lsn >= %s from pg_stat_replication where application_name = 'standby'"
    with primary.connect() as conn:
        lsn = conn.execute("select pg_current_wal_lsn()").fetchone()
        wait_for(lambda: conn.execute(query, lsn).fetchone() == (True,))


def test_a_synchronous_standby_has_all_that_was_acknowledged_when_the_primary_dies(
    primary: CrashableServer, make: Make
) -> None:
    with primary.connect("app") as conn:
        ledger = Ledger(conn, seed=3)
    with ledger.load(primary.dsn("app")):
        ledger.go_on(50)
        standby = standby_of(primary, make)
        with primary.connect() as conn:
            conn.execute("alter system set synchronous_standby_names = 'standby'")
            conn.execute("select pg_reload_conf()")
            state = "select from pg_stat_replication where sync_state = 'sync'"
            wait_for(lambda: conn.execute(state).fetchall())
        # Each client's transactions, from its next one on, are acknowledged by both.
        ledger.go_on(50)
        assert_exact_in_every_snapshot(standby.dsn("app"), lambda: ledger.go_on(10))
        primary.kill_everything()
        ledger.wait_until_all_stopped()
    with standby.connect("app") as conn:
        assert conn.execute("select pg_promote()").fetchone() == (True,)
        ledger.assert_kept(conn)
    with ledger.load(standby.dsn("app")):
        ledger.go_on(100)
    with standby.connect("app") as conn:
        ledger.assert_kept(conn)
        assert_goes_on(conn)
    print(f"a synchronous standby, promoted: {ledger}; 0 lost")


def test_reading_watching_and_checking_work_on_a_standby(
    primary: CrashableServer, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(primary.dsn("app"))
    # Where notifications are on, a standby cannot listen all the same.
    assert main(["notify", "on", "--dsn", primary.dsn("app")]) == 0
    with primary.connect("app") as conn:
        workflow, tasks = at_work(conn, 2, type="bugfix", status="running")
    standby = standby_of(primary, make)
    wait_until_replayed(primary)
    dsn = standby.dsn("app")

    with standby.connect("app") as conn:
        assert find_drift(conn) == []
        assert stage_progress(conn, workflow).stages == 3
        assert len(list_tasks(conn, workflow)) == 2
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("update agent_task set status = 'completed'")

    changes = watch(dsn, [workflow], 0.02)
    assert next(changes).progress == 0
    following = in_background(lambda: [change.progress for change in changes])
    with primary.connect("app") as conn:
        conn.execute("update agent_task set status = 'completed' where id = any (%s)", [tasks])
        conn.execute("update workflow set status = 'completed' where id = %s", [workflow])
    assert following.result(60)[-1] == 100

    assert main(["check", "--dsn", dsn]) == 0
    assert main(["show", str(workflow), "--dsn", dsn]) == 0
    capsys.readouterr()
    # With nothing to repair, repair writes nothing.
    assert main(["repair", "--dsn", dsn]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"
    assert main(["migrate", "--dsn", dsn]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_watching_and_serving_go_on_when_the_standby_is_promoted(primary: CrashableServer, make: Make) -> None:
    with primary.connect("app") as conn:
        workflow, (first, second) = at_work(conn, 2, status="running")
    standby = standby_of(primary, make)
    changes = watch(standby.dsn("app"), [workflow], 0.02)
    assert next(changes).progress == 0
    with (
        serving(None, "--read-dsn", standby.dsn("app"), "--interval", "0.1") as service,
        service.client() as client,
        following(service, f"/api/v1/workflows/{workflow}/stream") as stream,
    ):
        with primary.connect("app") as conn:
            set_status(conn, first, "completed")
            position = wal_position(conn)
        stream.until(lambda event: stream.latest[str(workflow)]["progress"] == 50)
        assert next(changes).progress == 50
        primary.kill_everything()
        wait_for(lambda: "cut off" in client.get("/").text)
        with standby.connect("app") as conn:
            assert conn.execute("select pg_promote()").fetchone() == (True,)
            wait_for_position(conn, position)
            set_status(conn, second, "completed")
        stream.until(lambda event: event == ("standby", None))
        wait_for(lambda: stream.latest[str(workflow)]["progress"] == 100 or (stream.next() and False))
        assert next(changes).progress == 100
        assert client.get("/readyz").json() == {"status": "ready"}
        assert "standby, " not in client.get("/").text
        assert service.said().count("away") == 0
