"""Times and retry count of tasks, kept by triggers: the same for a plain UPDATE, an upsert, a COPY or a report."""

from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyapp import migrate
from pyapp.installed import differences

from .helpers import new_tasks, new_workflow, progress, run_script, set_status

LONG_AGO = datetime(2020, 2, 2, tzinfo=UTC)
STATUSES = ["pending", "assigned", "running", "completed", "failed", "cancelled"]
OPEN, SETTLED = STATUSES[:3], STATUSES[3:]
Times = tuple[datetime | None, datetime | None, datetime | None]


def times(conn: psycopg.Connection, task: Any) -> Times:
    """Read assigned_at, started_at and completed_at."""
    return conn.execute("select assigned_at, started_at, completed_at from agent_task where id = %s", [task]).fetchone()


def retries(conn: psycopg.Connection, task: Any) -> int:
    return conn.execute("select retry_count from agent_task where id = %s", [task]).fetchone()[0]


def given(conn: psycopg.Connection, status: str, **columns: Any) -> Any:
    """Insert a task that brings its times along."""
    names = ", ".join(columns)
    values = ", ".join(f"%({name})s" for name in columns)
    return conn.execute(
        f"insert into agent_task (workflow_id, agent_type, status, {names})"
        f" values (%(w)s, 'a', %(s)s, {values}) returning id",
        {"w": new_workflow(conn), "s": status, **columns},
    ).fetchone()[0]


def test_every_move_fills_in_and_clears_the_times_and_counts_a_retry(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    for before, after in product(STATUSES, repeat=2):
        [task] = new_tasks(conn, workflow, before)
        old = times(conn, task)
        begun = [before in ("assigned", "running"), before == "running", before in SETTLED]
        assert [moment is not None for moment in old] == begun
        set_status(conn, task, after)
        new = times(conn, task)
        opened = before in SETTLED and after in OPEN
        assert retries(conn, task) == int(opened), (before, after)
        if after in SETTLED:
            # The times of its course stay.
            assert new[:2] == old[:2]
            assert new[2] is not None
            assert (new[2] == old[2]) == (before == after)
        else:
            begun = [after in ("assigned", "running"), after == "running", False]
            assert [moment is not None for moment in new] == begun, (before, after)
            if before == "running" and after == "running":
                assert new == old
            if before == "assigned":
                assert new[0] in (old[0], None)


def test_a_task_opened_again_begins_anew(conn: psycopg.Connection) -> None:
    [task] = new_tasks(conn, new_workflow(conn), "pending")
    for status in ("assigned", "running", "completed"):
        set_status(conn, task, status)
    first = times(conn, task)
    set_status(conn, task, "running")
    again = times(conn, task)
    assert again[2] is None
    assert again[0] == again[1] > first[1]
    for status, expected in (("failed", 1), ("assigned", 2), ("cancelled", 2), ("pending", 3)):
        set_status(conn, task, status)
        assert retries(conn, task) == expected
    assert times(conn, task) == (None, None, None)


@pytest.mark.parametrize("assignment", ["retry_count = retry_count + 1", "retry_count = 7", "retry_count = 0"])
def test_a_writer_who_counts_retries_himself_is_not_counted_twice(conn: psycopg.Connection, assignment: str) -> None:
    [task] = new_tasks(conn, new_workflow(conn), "failed")
    conn.execute("update agent_task set retry_count = 3")
    conn.execute(f"update agent_task set status = 'pending', {assignment}")
    assert retries(conn, task) == {"retry_count + 1": 4}.get(assignment.partition("= ")[2], int(assignment[-1]))


def test_times_that_are_given_are_kept(conn: psycopg.Connection) -> None:
    later, last = LONG_AGO + timedelta(hours=1), LONG_AGO + timedelta(hours=2)
    task = given(conn, "running", started_at=LONG_AGO)
    assert times(conn, task) == (LONG_AGO, LONG_AGO, None)
    set_status(conn, task, "running")
    assert times(conn, task) == (LONG_AGO, LONG_AGO, None)
    conn.execute("update agent_task set status = 'completed', completed_at = %s", [later])
    conn.execute("update agent_task set status = 'completed', result = '{}'")
    assert times(conn, task) == (LONG_AGO, LONG_AGO, later)
    conn.execute("update agent_task set status = 'failed', completed_at = %s", [last])
    assert times(conn, task) == (LONG_AGO, LONG_AGO, last)
    conn.execute("update agent_task set status = 'running', assigned_at = %s, started_at = %s", [later, last])
    assert times(conn, task) == (later, last, None)
    assert retries(conn, task) == 1


@pytest.mark.parametrize("after", ["failed", "cancelled"])
def test_a_task_that_is_settled_otherwise_has_the_time_of_that(conn: psycopg.Connection, after: str) -> None:
    [task] = new_tasks(conn, new_workflow(conn), "completed")
    first = times(conn, task)[2]
    set_status(conn, task, after)
    assert times(conn, task)[2] > first
    conn.execute("update agent_task set status = 'completed', completed_at = null")
    assert times(conn, task)[2] > first


def test_times_within_one_transaction_differ_and_stand_in_their_order(conn: psycopg.Connection) -> None:
    with conn.transaction():
        workflow = new_workflow(conn)
        [task] = new_tasks(conn, workflow, "pending")
        for status in ("assigned", "running", "completed"):
            set_status(conn, task, status)
        [other] = new_tasks(conn, workflow, "pending")
        moved = conn.execute("update workflow set status = 'running' returning updated_at").fetchone()
    created = [conn.execute("select created_at from workflow").fetchone()[0]]
    created += [row[0] for row in conn.execute("select created_at from agent_task order by ordinal")]
    told = [created[0], created[1], *times(conn, task), created[2], moved[0]]
    assert told == sorted(set(told))
    assert other


@pytest.mark.parametrize("status", STATUSES)
def test_a_restored_task_keeps_what_it_was_dumped_with(conn: psycopg.Connection, status: str) -> None:
    columns = {
        "created_at": LONG_AGO,
        "assigned_at": LONG_AGO + timedelta(hours=1),
        "started_at": LONG_AGO + timedelta(hours=2),
        "retry_count": 4,
        "ordinal": 77,
    }
    if status in SETTLED:
        columns["completed_at"] = LONG_AGO + timedelta(hours=3)
    if status == "pending":
        del columns["assigned_at"], columns["started_at"]
    if status == "assigned":
        del columns["started_at"]
    task = given(conn, status, **columns)
    row = conn.execute(f"select {', '.join(columns)} from agent_task where id = %s", [task]).fetchone()
    assert row == tuple(columns.values())


def test_every_way_of_writing_fills_the_times_in(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, *["running"] * 50)
    conn.execute("update agent_task set status = 'completed'")
    with conn.cursor().copy("copy agent_task (workflow_id, agent_type, status) from stdin") as copy:
        for status in ("completed", "running"):
            copy.write_row((workflow, "copied", status))
    for status in ("pending", "failed", "running"):
        conn.execute(
            "insert into agent_task (workflow_id, external_id, agent_type, status) values (%s, 'k', 'upserted', %s)"
            " on conflict (workflow_id, external_id) where external_id is not null"
            " do update set status = excluded.status",
            [workflow, status],
        )
    for status in ("running", "cancelled"):
        conn.execute(
            "merge into agent_task as t using (values (%s::uuid, %s::task_status)) as s (w, status)"
            " on t.workflow_id = s.w and t.external_id = 'm'"
            " when matched then update set status = s.status"
            " when not matched then insert (workflow_id, external_id, agent_type, status)"
            " values (s.w, 'm', 'merged', s.status)",
            [workflow, status],
        )
    rows = conn.execute(
        "select agent_type, status, count(*), count(started_at), count(completed_at), sum(retry_count) from agent_task"
        " group by agent_type, status order by 1, 2"
    ).fetchall()
    assert rows == [
        ("agent", "completed", 50, 50, 50, 0),
        ("copied", "running", 1, 1, 0, 0),
        ("copied", "completed", 1, 0, 1, 0),
        ("merged", "cancelled", 1, 1, 1, 0),
        ("upserted", "running", 1, 1, 0, 1),
    ]


def test_an_update_that_leaves_the_status_out_changes_no_time(conn: psycopg.Connection) -> None:
    task = given(conn, "completed", started_at=LONG_AGO)
    before = times(conn, task), retries(conn, task)
    conn.execute("update agent_task set priority = 'high', payload = '[]', result = '1'")
    assert (times(conn, task), retries(conn, task)) == before


def test_times_can_be_left_to_their_writers_and_migrate_keeps_that(
    conn: psycopg.Connection, dsn: str, bin_dir: Path
) -> None:
    run_script(bin_dir, dsn, "sql/optional/task_times_off.sql")
    conn.execute("update installed_object set shipped_md5 = 'older' where name like 'agent_task_times%'")
    migrate(dsn)
    named = [f"trigger {name} on agent_task is disabled" for name in ("agent_task_times", "agent_task_times_insert")]
    assert sorted(differences(conn)) == named
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "running")
    set_status(conn, task, "completed")
    assert (times(conn, task), progress(conn, workflow)) == ((None, None, None), (100, 1, 1))
    run_script(bin_dir, dsn, "sql/optional/task_times_on.sql")
    assert differences(conn) == []
    set_status(conn, task, "running")
    assert times(conn, task)[1] is not None
