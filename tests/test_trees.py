"""Workflows started by workflows: no cycle and at most 64 levels, also where two sessions re-parent at once."""

from collections.abc import Callable
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from pyapp.db import interrupted

from .helpers import in_background, new_workflow, wait_until_blocked_by

Session = Callable[[], psycopg.Connection]
PUT = "update workflow set parent_id = %s where id = %s"
DEEPEST = 64


def chain(conn: psycopg.Connection, length: int, parent: Any = None) -> list[Any]:
    """Insert workflows of which each is below the one before."""
    made: list[Any] = []
    with conn.transaction():
        for _ in range(length):
            made.append(new_workflow(conn, parent_id=made[-1] if made else parent))
    return made


def refused(conn: psycopg.Connection, parent: Any, workflow: Any) -> str:
    with pytest.raises(psycopg.Error) as error:
        conn.execute(PUT, [parent, workflow])
    assert error.value.sqlstate == "WP004"
    assert error.value.diag.message_hint
    return str(error.value.diag.message_primary)


def levels(conn: psycopg.Connection) -> int:
    """Count the levels of the deepest tree; a cycle shows as more than there are workflows."""
    return conn.execute(
        "with recursive t as (select id, 1 as level from workflow where parent_id is null"
        " union all select w.id, t.level + 1 from t join workflow as w on w.parent_id = t.id) select max(level) from t"
    ).fetchone()[0]


def reachable(conn: psycopg.Connection) -> int:
    """Count the workflows that hang below a root: all of them, where there is no cycle."""
    return conn.execute(
        "with recursive t as (select id from workflow where parent_id is null"
        " union select w.id from t join workflow as w on w.parent_id = t.id) select count(*) from t"
    ).fetchone()[0]


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_no_workflow_comes_below_itself(conn: psycopg.Connection, length: int) -> None:
    line = chain(conn, length)
    assert refused(conn, line[-1], line[0]) == f"workflow {line[0]} cannot come below itself"
    assert (levels(conn), reachable(conn)) == (length, length)


def test_a_workflow_inserted_below_itself_is_refused(conn: psycopg.Connection) -> None:
    key = uuid4()
    with pytest.raises(psycopg.Error, match="cannot come below itself"):
        new_workflow(conn, id=key, parent_id=key)


def test_a_cycle_within_one_statement_is_refused(conn: psycopg.Connection) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    with pytest.raises(psycopg.Error) as error:
        conn.execute(
            "update workflow set parent_id = case id when %(one)s then %(other)s else %(one)s end::uuid",
            {"one": one, "other": other},
        )
    assert error.value.sqlstate == "WP004"
    assert reachable(conn) == 2


@pytest.mark.parametrize("by", ["insert", "update", "create_workflow"])
def test_a_tree_has_at_most_64_levels(conn: psycopg.Connection, by: str) -> None:
    line = chain(conn, DEEPEST)
    loose = new_workflow(conn)
    ways = {
        "insert": ("insert into workflow (name, type, parent_id) values ('w', 'a', %s)", [line[-1]]),
        "update": (PUT, [line[-1], loose]),
        "create_workflow": ("select create_workflow('w', 'a', parent_id => %s)", [line[-1]]),
    }
    with pytest.raises(psycopg.Error, match="a tree has at most 64 levels") as error:
        conn.execute(*ways[by])
    assert error.value.sqlstate == "WP004"
    conn.execute(PUT, [line[-2], loose])
    assert levels(conn) == DEEPEST


@pytest.mark.parametrize(("above", "below", "fits"), [(32, 32, True), (33, 32, False), (1, 63, True), (1, 64, False)])
def test_a_subtree_that_moves_is_measured_with_what_hangs_below_it(
    conn: psycopg.Connection, above: int, below: int, fits: bool
) -> None:
    upper, lower = chain(conn, above), chain(conn, below)
    chain(conn, min(below, 3) - 1, lower[0])  # a shorter branch beside it
    if fits:
        conn.execute(PUT, [upper[-1], lower[0]])
        assert levels(conn) == above + below
    else:
        assert refused(conn, upper[-1], lower[0]) == (
            f"workflow {lower[0]} cannot come below {upper[-1]}: a tree has at most 64 levels"
        )


def test_a_parent_that_stays_and_progress_that_moves_cost_no_walk(conn: psycopg.Connection) -> None:
    root, leaf = chain(conn, 2)
    conn.execute("update workflow set parent_task_id = %s where id = %s", [uuid4(), leaf])
    conn.execute("create table walked (n integer)")
    conn.execute("alter function guard_parent() rename to guard_parent_of_old")
    conn.execute(PUT, [root, leaf])
    conn.execute("insert into agent_task (workflow_id, agent_type, status) select id, 'a', 'completed' from workflow")
    assert conn.execute("select progress from workflow where id = %s", [leaf]).fetchone() == (100,)


# --- Two sessions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["READ_COMMITTED", "REPEATABLE_READ"])
def test_two_sessions_never_close_a_cycle_together(conn: psycopg.Connection, session: Session, level: str) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    first, second = session(), session()
    for opened in (first, second):
        opened.isolation_level = psycopg.IsolationLevel[level]
        opened.execute("select 1 from workflow")
    first.execute(PUT, [other, one])
    waiting = in_background(second.execute, PUT, [one, other])
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    error = waiting.exception(60)
    assert isinstance(error, psycopg.Error)
    assert error.sqlstate in ("WP004", "40001", "40P01")
    assert reachable(conn) == 2


def put_each(conn: psycopg.Connection, moves: list[tuple[UUID, UUID]]) -> None:
    try:
        for parent, workflow in moves:
            conn.execute(PUT, [parent, workflow])
        conn.commit()
    except psycopg.Error as error:
        conn.rollback()
        if error.sqlstate != "WP004" and not interrupted(error):
            raise


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_three_sessions_never_close_a_longer_cycle(
    conn: psycopg.Connection, session: Session, order: tuple[int, ...]
) -> None:
    conn.execute(f"alter database {conn.info.dbname} set deadlock_timeout = '20ms'")
    keys = [new_workflow(conn) for _ in range(3)]
    waiting = [in_background(put_each, session(), [(keys[(n + 1) % 3], keys[n])]) for n in order]
    for future in waiting:
        future.result(60)
    assert reachable(conn) == 3


def test_two_sessions_never_make_a_tree_too_deep_together(conn: psycopg.Connection, session: Session) -> None:
    conn.execute(f"alter database {conn.info.dbname} set deadlock_timeout = '20ms'")
    upper, middle, lower = chain(conn, 30), chain(conn, 30), chain(conn, 30)
    first, second = session(), session()
    first.execute(PUT, [upper[-1], middle[0]])
    waiting = in_background(put_each, second, [(middle[-1], lower[0])])
    # It sees the middle as a root, or waits for the other to commit.
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    waiting.result(60)
    assert levels(conn) <= DEEPEST
    assert reachable(conn) == 90
