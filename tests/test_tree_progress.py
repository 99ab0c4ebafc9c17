"""Progress of a workflow with all that is below it, in every snapshot; that sums are right: see test_state_machine."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pyapp
from pyapp.watch import watch_changes

from .helpers import as_replica, new_tasks, new_workflow

Session = Callable[[], psycopg.Connection]
NUMBERS = (
    "progress, progress_percentage, agents_completed, agents_total, agents_created, agents_failed, agents_cancelled,"
    " agents_open, agents_planned, settled_percentage"
)


def grow_wide(conn: psycopg.Connection, analyzed: bool) -> None:
    """Insert trees of 20; analyzed, where the statistics are those of one wide tree."""
    conn.execute("alter table workflow set (autovacuum_enabled = off)")
    if analyzed:
        wide = new_workflow(conn)
        many = "insert into workflow (name, type, parent_id) select 'wide', 'app', %s from generate_series(1, 3000)"
        as_replica(conn, many, [wide])
        conn.execute("analyze")
        conn.execute("delete from workflow")
    as_replica(conn, "insert into workflow (name, type) select 'root', 'app' from generate_series(1, 300)")
    children = "insert into workflow (name, type, parent_id) select 'child', 'app', id from workflow"
    as_replica(conn, children + ", generate_series(1, 19)")


def numbers(conn: psycopg.Connection, workflow: Any) -> tuple[int, int, int, int, int]:
    """Read the number of workflows, depth, progress, completed and total of a tree."""
    return conn.execute(
        "select workflows, depth, progress, agents_completed, agents_total from workflow_tree_progress"
        " where workflow_id = %s",
        [workflow],
    ).fetchone()


def buffers(conn: psycopg.Connection, query: str, *values: Any) -> int:
    """Count the pages that a query reads."""
    [explained] = conn.execute(f"explain (analyze, buffers, format json) {query}", values).fetchone()
    return int(explained[0]["Plan"]["Shared Hit Blocks"] + explained[0]["Plan"]["Shared Read Blocks"])


def test_a_workflow_alone_is_a_tree_of_one_with_its_own_numbers(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, agents_planned=10)
    new_tasks(conn, workflow, *["completed"] * 4, "failed", "cancelled", "running")
    alone = conn.execute(f"select {NUMBERS}, last_updated_at from workflow_progress").fetchone()
    tree = conn.execute(f"select {NUMBERS}, last_updated_at from workflow_tree_progress").fetchone()
    assert tree == alone
    conn.execute("update workflow set agents_planned = null")
    assert conn.execute("select agents_planned, agents_total from workflow_tree_progress").fetchone() == (None, 7)
    assert numbers(conn, workflow)[:2] == (1, 1)


def test_a_tree_has_the_numbers_of_all_below_its_top(conn: psycopg.Connection) -> None:
    root = new_workflow(conn, agents_planned=4)
    child, other = new_workflow(conn, parent_id=root), new_workflow(conn, parent_id=root)
    leaf = new_workflow(conn, parent_id=child, agents_planned=2)
    new_tasks(conn, root, "completed")
    new_tasks(conn, child, "completed", "failed")
    new_tasks(conn, leaf, "completed", "cancelled", "running")
    assert numbers(conn, root) == (4, 3, 33, 3, 9)
    assert numbers(conn, child) == (2, 2, 40, 2, 5)
    assert numbers(conn, other) == (1, 1, 0, 0, 0)
    row = conn.execute(f"select {NUMBERS} from workflow_tree_progress where workflow_id = %s", [root]).fetchone()
    assert row == (33, 33, 3, 9, 6, 1, 1, 1, 6, 56)


def test_plans_that_no_integer_holds_together_make_a_tree_nevertheless(conn: psycopg.Connection) -> None:
    root = new_workflow(conn, agents_planned=2_000_000_000)
    new_tasks(conn, new_workflow(conn, agents_planned=2_000_000_000, parent_id=root), "completed")
    tree = conn.execute(f"select {NUMBERS} from workflow_tree_progress where workflow_id = %s", [root]).fetchone()
    assert tree == (1, 1, 1, 2_147_483_647, 1, 0, 0, 0, 2_147_483_647, 1)


@pytest.mark.parametrize("analyzed", [False, True])
def test_reading_a_tree_costs_its_own_workflows_whether_or_not_there_are_statistics(
    conn: psycopg.Connection, analyzed: bool
) -> None:
    grow_wide(conn, analyzed)
    [(root,)] = conn.execute("select id from workflow where parent_id is null limit 1").fetchall()
    assert buffers(conn, "select * from workflow_tree where root_id = %s", root) < 20 * 10  # also to compare paths
    assert buffers(conn, "select * from workflow_tree_progress where workflow_id = %s", root) < 20 * 6
    page = (
        "select t.* from ("
        "select id from workflow where parent_id is null order by created_at desc, id desc limit 50) as p"
        " join workflow_tree_progress as t on t.workflow_id = p.id"
    )
    assert buffers(conn, page) < 50 * 20 * 6


def test_reading_a_tree_reads_no_task(conn: psycopg.Connection) -> None:
    [plan] = conn.execute("explain (format json) select * from workflow_tree_progress").fetchone()
    assert "agent_task" not in str(plan)


def test_a_cycle_that_was_written_past_the_triggers_ends_the_reading(conn: psycopg.Connection) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    as_replica(conn, "update workflow set parent_id = case id when %s then %s else %s end::uuid", [one, other, one])
    assert numbers(conn, one)[:2] == (64, 64)


def test_a_workflow_that_waits_for_others_below_it_is_not_stalled(conn: psycopg.Connection) -> None:
    root = new_workflow(conn, status="running")
    leaf = new_workflow(conn, parent_id=new_workflow(conn, parent_id=root, status="running"), status="running")
    new_tasks(conn, root, "running")
    as_replica(conn, "update workflow set progress_updated_at = now() - interval '1 hour'")
    as_replica(conn, "update workflow_event set occurred_at = now() - interval '1 hour'")
    as_replica(conn, "update agent_task set started_at = now() - interval '1 hour', assigned_at = null")
    stalled = "select count(*) from workflow_forecast where stalled"
    assert conn.execute(stalled).fetchone() == (3,)
    new_tasks(conn, leaf, "running")
    assert conn.execute(stalled).fetchone() == (0,)


# --- In Python ------------------------------------------------------------------------------------------------


def test_get_tree_lists_a_workflow_and_all_below_it_depth_first(conn: psycopg.Connection) -> None:
    root = new_workflow(conn, name="root")
    first, second = (new_workflow(conn, name=name, parent_id=root) for name in ("first", "second"))
    new_workflow(conn, name="deep", parent_id=first)
    new_tasks(conn, first, "completed", "running")
    nodes = pyapp.get_tree(conn, root)
    assert [(node.name, node.level, node.progress) for node in nodes] == [
        ("root", 1, 0),
        ("first", 2, 50),
        ("deep", 3, 0),
        ("second", 2, 0),
    ]
    assert [node.parent_id for node in nodes] == [None, root, first, root]
    assert [node.name for node in pyapp.get_tree(conn, root, limit=2)] == ["root", "first"]
    assert [(node.name, node.level) for node in pyapp.get_tree(conn, second)] == [("second", 1)]


def test_watch_follows_roots_and_with_below_whole_trees(conn: psycopg.Connection, dsn: str) -> None:
    root = new_workflow(conn, name="root", status="running")
    child = new_workflow(conn, name="child", status="running", parent_id=root)

    def named(**options: Any) -> set[str]:
        return {workflow.name for workflow in next(watch_changes(dsn, interval=0.01, **options))}

    assert named(workflow_ids=None) == {"root"}
    assert named(workflow_ids=None, below=True) == {"root", "child"}
    assert named(workflow_ids=[root]) == {"root"}
    assert named(workflow_ids=[root], below=True) == {"root", "child"}
    changes = pyapp.watch(dsn, [root], 0.01, below=True)
    assert {next(changes).name, next(changes).name} == {"root", "child"}
    conn.execute("update workflow set status = 'completed', completed_at = now() where id = %s", [root])
    assert next(changes).status == "completed"
    conn.execute("delete from workflow where id = %s", [child])
    assert list(changes) == []
    alone = new_workflow(conn, name="alone", status="running")
    changes = pyapp.watch(dsn, [alone], 0.01, below=True)
    assert next(changes).name == "alone"
    conn.execute("delete from workflow where id = %s", [alone])
    assert list(changes) == []
