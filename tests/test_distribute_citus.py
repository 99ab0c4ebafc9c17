"""distribute on Citus itself: one node that holds all shards. Skipped where the server under test has no Citus."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pyapp
from pyapp.embedded import Server
from pyapp.scale.distribute import DistributeError, distribution, require_ready, way_back
from tests.conftest import TestServer
from tests.helpers import new_tasks, new_workflow
from tests.test_distribute import change, rows
from tests.test_schema import dump

SETTINGS = {
    "fsync": "off",
    "shared_preload_libraries": "citus",
    "max_prepared_transactions": "50",
    "citus.shard_count": "4",
    "citus.enable_statistics_collection": "off",  # it would call home
}


@pytest.fixture
def available(server: TestServer) -> None:
    with psycopg.connect(server.dsn("postgres")) as conn:
        query = "select exists (select from pg_available_extensions where name = 'citus')"
        if conn.execute(query).fetchone() != (True,):
            pytest.skip("this server has no Citus: TEST_POSTGRES may name the programs of one that has")


@pytest.fixture
def node(available: None, own_server: Callable[..., Server]) -> Server:
    """A server that has Citus, with our schema."""
    node = own_server(**SETTINGS)
    pyapp.migrate(node.dsn)
    return node


@pytest.fixture
def citus(node: Server) -> Iterator[psycopg.Connection]:
    """A connection to a node of Citus that holds shards itself, with our schema, not yet distributed."""
    with psycopg.connect(node.dsn, autocommit=True) as conn:
        conn.execute("create extension citus")
        where = conn.info
        conn.execute("select citus_set_coordinator_host(%s, %s)", [where.host, where.port])
        conn.execute("select citus_set_node_property(%s, %s, 'shouldhaveshards', true)", [where.host, where.port])
        yield conn
        assert pyapp.find_drift(conn) == []


@pytest.fixture
def filled(citus: psycopg.Connection) -> list[Any]:
    """Twelve workflows of five tasks each, in their second stage; their ids."""
    ids = [pyapp.create_workflow(citus, f"w{number}", "app").workflow_id for number in range(12)]
    for workflow in ids:
        new_tasks(citus, workflow, "completed", "failed", "running", "pending", "pending")
        pyapp.advance(citus, workflow)
    return ids


def test_what_citus_lacks_is_said(citus: psycopg.Connection) -> None:
    where = citus.info
    citus.execute("select citus_set_node_property(%s, %s, 'shouldhaveshards', false)", [where.host, where.port])
    with pytest.raises(DistributeError, match="no node may hold shards"):
        require_ready(citus)


def test_there_every_way_of_counting_and_back(
    node: Server, citus: psycopg.Connection, bin_dir: Path, filled: list[Any]
) -> None:
    dsn = node.dsn
    whole, before = dump(dsn, bin_dir), rows(citus)
    require_ready(citus)
    change(bin_dir, dsn, distribution())
    assert citus.execute("select count(*) from pg_dist_partition").fetchone() == (6,)
    assert rows(citus) == before
    with pytest.raises(DistributeError, match="it is distributed, or partitioned"):
        require_ready(citus)

    first, second, *others = filled
    count_in_every_way(citus, dsn, first)
    move_in_every_way(citus, second, others)
    assert pyapp.find_drift(citus) == []
    # The statements that met all workflows were counted in this one as well.
    assert pyapp.get_workflow(citus, others[-1]).agents_completed == 2
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="a distributed agent_task cannot be truncated"):
        citus.execute("truncate agent_task")

    before = rows(citus)
    change(bin_dir, dsn, way_back())
    assert citus.execute("select count(*) from pg_dist_partition").fetchone() == (0,)
    assert dump(dsn, bin_dir) == whole
    assert rows(citus) == before


def count_in_every_way(conn: psycopg.Connection, dsn: str, workflow: Any) -> None:
    """Insert, settle, reopen and delete tasks of one workflow and of all, and see each time that it was counted."""
    added = pyapp.add_tasks(conn, workflow, ["a", {"agent_type": "b", "external_id": "k"}])
    ids = [task.id for task in pyapp.list_tasks(conn, workflow)]
    pyapp.report_task(conn, workflow, added[0].id, "completed", {"files": 1})
    pyapp.report_tasks(conn, workflow, [(ids[2], "completed"), (ids[3], "running"), (ids[4], "failed")])
    pyapp.report_task(conn, workflow, ids[4], "running", reopen=True)
    for statement in (
        "update agent_task set status = 'completed' where status = 'running'",
        "update agent_task set status = 'cancelled' where id = any (%(ids)s)",
        "insert into agent_task (workflow_id, agent_type) select id, 'one more' from workflow",
        "insert into agent_task (workflow_id, agent_type, external_id, status) values (%(id)s, 'b', 'k', 'failed')"
        " on conflict (workflow_id, external_id) where external_id is not null do update set status = 'completed'",
        "delete from agent_task where agent_type = 'one more' and workflow_id = %(id)s",
        "update workflow set agents_planned = 40, progress = 99, agents_completed = 40 where id = %(id)s",
        "update workflow set progress_frozen_at = now() where id = %(id)s",
        "delete from agent_task where workflow_id = %(id)s and status = 'cancelled'",
        "update workflow set progress_frozen_at = null where id = %(id)s",
    ):
        conn.execute(statement.encode(), {"id": workflow, "ids": ids[:2]})
        assert pyapp.find_drift(conn) == [], statement
    with conn.cursor().copy("copy agent_task (workflow_id, agent_type) from stdin") as copy:
        for _ in range(3):
            copy.write_row((workflow, "copied"))
    one = pyapp.get_workflow(conn, workflow)
    assert (one.agents_total, one.agents_created) == (40, len(pyapp.list_tasks(conn, workflow)))
    # Two agents report the same tasks at once.
    threads = [threading.Thread(target=complete_all, args=(dsn, workflow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pyapp.get_workflow(conn, workflow).agents_open == 0


def complete_all(dsn: str, workflow: Any) -> None:
    with pyapp.connect(dsn, autocommit=True) as conn:
        for task in pyapp.list_tasks(conn, workflow):
            pyapp.retry(lambda id=task.id: pyapp.report_task(conn, workflow, id, "completed"))


def move_in_every_way(conn: psycopg.Connection, workflow: Any, others: list[Any]) -> None:
    """Move workflows by helper and by hand, read all that there is to read of them, repair and delete."""
    created = pyapp.create_workflow(conn, "new", "app", agents_planned=3)
    assert len(pyapp.list_stages(conn, created.workflow_id)) == 8
    by_hand = new_workflow(conn, type="bugfix")
    conn.execute("update workflow set status = 'running', current_stage = 'validation' where id = %s", [by_hand])
    assert [stage.status for stage in pyapp.list_stages(conn, by_hand)] == ["completed", "running", "pending"]
    assert pyapp.stage_progress(conn, by_hand).progress_percentage == 20
    with pytest.raises(pyapp.VersionConflict):
        pyapp.advance(conn, workflow, expected_version=1)
    with pytest.raises(pyapp.TransitionNotAllowed):
        pyapp.transition(conn, workflow, "initiated")
    assert pyapp.transition(conn, workflow, "cancelled").status == "cancelled"
    assert pyapp.get_workflow(conn, workflow).agents_open == 0
    moments = [moment.kind for moment in pyapp.list_timeline(conn, workflow)]
    assert set(moments) == {"event", "stage", "task"}
    assert pyapp.get_forecasts(conn, [workflow])[workflow].completed_per_minute is None
    assert pyapp.list_burnup(conn, workflow)[-1].agents_total == 6
    assert len(pyapp.list_workflows(conn, status=["running", "cancelled"], type="app", limit=5)) == 5
    assert not pyapp.progress_metrics(conn, workflow).stale_data
    assert pyapp.repair(conn) == []
    conn.execute("delete from workflow where id = %s", [others[0]])
    assert conn.execute("select count(*) from agent_task where workflow_id = %s", [others[0]]).fetchone() == (0,)
