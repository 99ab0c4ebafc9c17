"""agent-progress archive: numbers stay, task rows go, and whoever writes meanwhile is not in the way."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

import pyapp
from pyapp.scale import archive as module
from pyapp.scale.archive import Archive, moment
from tests.adopt.application import cli, succeed
from tests.conftest import Role
from tests.helpers import (
    counters,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    set_status,
)

Session = Callable[[], psycopg.Connection]
ENDED = ["cancelled", "completed", "failed"]


def ended(conn: psycopg.Connection, status: str = "completed", days: float = 100, tasks: int = 3) -> Any:
    """Make a workflow that ended so many days ago, with a completed, a failed and other open tasks."""
    workflow = new_workflow(conn, agents_planned=10)
    new_tasks(conn, workflow, "completed", "failed", *["running"] * (tasks - 2))
    conn.execute(
        "update workflow set status = %s, completed_at = now() - make_interval(hours => %s) where id = %s",
        [status, int(days * 24), workflow],
    )
    return workflow


def left(conn: psycopg.Connection, workflow: Any) -> int:
    return int(conn.execute("select count(*) from agent_task where workflow_id = %s", [workflow]).fetchone()[0])


def frozen(conn: psycopg.Connection, workflow: Any) -> bool:
    row = conn.execute("select progress_frozen_at is not null from workflow where id = %s", [workflow]).fetchone()
    return row == (True,)


def numbers(conn: psycopg.Connection, workflow: Any) -> tuple[Any, ...]:
    return conn.execute(
        "select progress, agents_completed, agents_total, agents_created, agents_failed, agents_cancelled,"
        " progress_updated_at, status, version, updated_at, completed_at from workflow where id = %s",
        [workflow],
    ).fetchone()


def run(dsn: str, older_than: str = "90d", **options: Any) -> Archive:
    with psycopg.connect(dsn, autocommit=True) as conn:
        work = Archive(moment(conn, older_than), ENDED, **options)
        work.run(conn)
    return work


@pytest.mark.parametrize("status", ENDED)
def test_numbers_are_frozen_and_tasks_removed_of_workflows_that_ended_long_ago(
    conn: psycopg.Connection, dsn: str, status: str
) -> None:
    old, young, running = ended(conn, status), ended(conn, status, days=89), new_workflow(conn, status="running")
    new_tasks(conn, running, "completed")
    conn.execute("update workflow set created_at = '2001-01-01', updated_at = '2001-01-01' where id = %s", [running])
    before = [numbers(conn, workflow) for workflow in (old, young, running)]
    out = succeed(dsn, "archive", "--older-than", "90d").out
    assert out == "1 workflow archived, 3 tasks removed\n"
    assert [numbers(conn, workflow) for workflow in (old, young, running)] == before
    assert [left(conn, workflow) for workflow in (old, young, running)] == [0, 3, 1]
    assert [frozen(conn, workflow) for workflow in (old, young, running)] == [True, False, False]
    assert succeed(dsn, "archive", "--older-than", "90d").out == "0 workflows archived, 0 tasks removed\n"


def test_only_workflows_of_the_given_statuses_are_archived(conn: psycopg.Connection, dsn: str) -> None:
    workflows = {status: ended(conn, status) for status in ENDED}
    assert json.loads(succeed(dsn, "archive", "--older-than", "1d", "--status", "failed", "--json").out) == {
        "workflows": 1,
        "tasks": 3,
        "in_use": 0,
    }
    succeed(dsn, "archive", "--older-than", "1d", "--status", "failed", "--status", "completed")
    assert [status for status in ENDED if frozen(conn, workflows[status])] == ["completed", "failed"]


def test_a_dry_run_tells_how_much_it_would_be_and_changes_nothing(conn: psycopg.Connection, dsn: str) -> None:
    workflow = ended(conn, tasks=7)
    ended(conn)
    ended(conn, days=1)
    new_workflow(conn, status="completed", completed_at="2020-01-01")  # without tasks: nothing to remove
    out = succeed(dsn, "archive", "--older-than", "2w", "--dry-run").out
    assert out == "2 workflows would be archived, 10 tasks removed\nnothing was changed\n"
    assert (left(conn, workflow), frozen(conn, workflow)) == (7, False)
    assert json.loads(succeed(dsn, "archive", "--older-than", "2w", "--json").out)["tasks"] == 10


@pytest.mark.parametrize(
    ("given", "days"),
    [("90d", 90), ("48h", 2), ("2w", 14), ("2 days 12:00", 2.5), ("P3D", 3), ("0d", 0), (" 1 day ", 1)],
)
def test_lengths_of_time_are_those_of_postgres(conn: psycopg.Connection, given: str, days: float) -> None:
    query = "select extract(epoch from now() - %s)"
    [seconds] = conn.execute(query, [moment(conn, given)]).fetchone()
    assert abs(float(seconds) - days * 86400) < 3700  # a change of the clocks


@pytest.mark.parametrize(
    "given",
    [
        "",
        " ",
        "90",
        "-1",
        "1.5",
        "x",
        "90 bananas",
        "-3d",
        "1 day ago",
        "3d -4d",
        "infinity",
        "9999999999y",
        "5000y",
        "d90",
        "1d d90",
        "1 day ago 3d",
        "1 2",
        "%s",
    ],
)
def test_nonsense_is_refused_in_one_line_with_nothing_done(conn: psycopg.Connection, dsn: str, given: str) -> None:
    workflow = ended(conn)
    for more in ([], ["--dry-run"]):
        told = cli(dsn, "archive", f"--older-than={given}", *more)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("agent-progress: --older-than ")
        assert len(told.err.splitlines()) == 1
    assert left(conn, workflow) == 3


def test_an_unknown_status_is_refused(dsn: str) -> None:
    assert cli(dsn, "archive", "--older-than", "1d", "--status", "running").code == 2


# --- What an archived workflow tells ------------------------------------------------------------------------


@pytest.fixture
def archived(conn: psycopg.Connection, dsn: str) -> Any:
    """Make a workflow with stages and events, complete it, and archive it."""
    workflow = pyapp.create_workflow(conn, "old", "bugfix").workflow_id
    tasks = pyapp.add_tasks(conn, workflow, [{"agent_type": "a", "stage": "validation"}] * 4)
    pyapp.transition(conn, workflow, "running")
    pyapp.report_tasks(conn, workflow, [(task.id, "completed") for task in tasks[:3]])
    pyapp.report_task(conn, workflow, tasks[3].id, "failed")
    pyapp.transition(conn, workflow, "completed")
    conn.execute("update workflow set completed_at = now() - interval '1 year'")
    succeed(dsn, "archive", "--older-than", "90d")
    return workflow


def test_all_commands_and_helpers_tell_what_it_was(conn: psycopg.Connection, dsn: str, archived: Any) -> None:
    shown = succeed(dsn, "show", str(archived), "--tasks", "--timeline", "--metrics").out
    assert "75 %  (3 of 4 agents)" in shown
    assert "1 failed" in shown
    assert "\nfrozen  " in shown
    assert "not stale" in shown
    assert " archived" in shown
    assert json.loads(succeed(dsn, "show", str(archived), "--json").out)["progress_frozen_at"]
    assert "75 %" in succeed(dsn, "list").out
    assert pyapp.find_drift(conn) == []
    assert pyapp.list_tasks(conn, archived) == []
    assert pyapp.stage_progress(conn, archived).progress_percentage == 100
    assert pyapp.get_forecasts(conn, [archived])[archived].completed_per_minute is None
    assert [m.name for m in pyapp.list_timeline(conn, archived) if m.kind == "event"][-1] == "archived"
    assert conn.execute("select count(*) from workflow_burnup").fetchone() == (0,)
    event = "select payload ->> 'tasks' from workflow_event where event_type = 'archived'"
    assert conn.execute(event).fetchall() == [("4",)]


def test_check_and_repair_and_truncate_leave_it_alone(conn: psycopg.Connection, dsn: str, archived: Any) -> None:
    before = numbers(conn, archived)
    assert "stored equals counted" in succeed(dsn, "check").out
    succeed(dsn, "check", str(archived))
    assert succeed(dsn, "repair").out == "nothing to repair\n"
    assert succeed(dsn, "repair", str(archived)).out == "nothing to repair\n"
    conn.execute("truncate agent_task")
    pyapp.migrate(dsn)
    assert numbers(conn, archived) == before
    # The one way to lose its numbers.
    conn.execute("update workflow set progress_frozen_at = null")
    assert progress(conn, archived) == (0, 0, 0)


def test_a_late_report_finds_no_task_and_a_late_task_is_not_counted(
    conn: psycopg.Connection, dsn: str, archived: Any
) -> None:
    with pytest.raises(pyapp.TaskNotFound):
        pyapp.report_task(conn, archived, archived, "completed")
    before = numbers(conn, archived)
    [task] = new_tasks(conn, archived, "running")
    set_status(conn, task, "completed")
    assert numbers(conn, archived) == before
    succeed(dsn, "check")
    assert succeed(dsn, "archive", "--older-than", "90d").out == "1 workflow archived, 1 tasks removed\n"
    assert numbers(conn, archived) == before
    assert conn.execute("select count(*) from workflow_event where event_type = 'archived'").fetchone() == (1,)


# --- While others write, and broken off ---------------------------------------------------------------------


def test_a_workflow_that_is_opened_again_at_the_last_moment_is_left_alone(
    conn: psycopg.Connection, dsn: str, session: Session
) -> None:
    workflow = ended(conn, "failed")
    agent = session()
    agent.execute("select from agent_task where workflow_id = %s for update", [workflow])
    other = ended(conn)
    running = in_background(run, dsn)
    # It has read that the workflow has ended, and waits for its tasks.
    blocked = f"select pid from pg_stat_activity where {agent.info.backend_pid} = any (pg_blocking_pids(pid))"
    while not conn.execute(blocked).fetchall():
        assert not running.done()
    conn.execute("update workflow set status = 'running' where id = %s", [workflow])
    agent.commit()
    running.result(30)
    assert (left(conn, workflow), frozen(conn, workflow)) == (3, False)
    assert (left(conn, other), frozen(conn, other)) == (0, True)


def test_a_workflow_in_use_is_left_alone_and_told(
    conn: psycopg.Connection, dsn: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIES", 1)
    workflow, other, third = sorted(ended(conn) for _ in range(3))
    agent, orchestrator = session(), session()
    agent.execute("update agent_task set result = '1' where workflow_id = %s", [workflow])
    orchestrator.execute("update workflow set name = 'x' where id = %s", [other])
    told = succeed(dsn, "archive", "--older-than", "90d")
    assert told.out == "1 workflow archived, 3 tasks removed\n"
    assert "2 workflows left alone, since others hold their rows: run it again\n" in told.err
    assert [left(conn, key) for key in (workflow, other, third)] == [3, 3, 0]
    agent.execute("update agent_task set status = 'completed' where workflow_id = %s", [workflow])
    agent.commit()
    orchestrator.rollback()
    run(dsn)
    assert counters(conn, workflow) == (3, 3, 0, 0)
    assert [left(conn, key) for key in (workflow, other, third)] == [0, 0, 0]


def test_a_late_writer_waits_a_moment_and_is_counted_before_it_is_frozen(
    conn: psycopg.Connection, dsn: str, session: Session
) -> None:
    workflow = ended(conn)
    agent = session()
    agent.execute("update agent_task set status = 'completed' where workflow_id = %s", [workflow])
    running = in_background(run, dsn)
    blocked = f"select pid from pg_stat_activity where {agent.info.backend_pid} = any (pg_blocking_pids(pid))"
    while not conn.execute(blocked).fetchall():
        assert not running.done()
    agent.commit()
    running.result(30)
    assert counters(conn, workflow) == (3, 3, 0, 0)
    assert left(conn, workflow) == 0


def test_killed_amid_it_nothing_is_lost_and_the_next_run_goes_on(
    conn: psycopg.Connection, dsn: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_BATCH", 100)
    monkeypatch.setattr(module, "_LARGEST_BATCH", 100)
    workflow = ended(conn, tasks=300)
    before = numbers(conn, workflow)

    class BrokenOff(Exception):
        pass

    def stop(_: int) -> None:
        raise BrokenOff

    with pytest.raises(BrokenOff):
        run(dsn, on_batch=stop)
    assert (left(conn, workflow), frozen(conn, workflow)) == (200, True)
    assert numbers(conn, workflow) == before
    # And once more by kill -9, while it waits.
    holder = session()
    holder.execute("lock table agent_task in share row exclusive mode")
    command = [sys.executable, "-m", "pyapp", "--dsn", dsn, "archive", "--older-than", "90d"]
    blocked = f"select pid from pg_stat_activity where {holder.info.backend_pid} = any (pg_blocking_pids(pid))"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not conn.execute(blocked).fetchall():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    holder.rollback()
    assert numbers(conn, workflow) == before
    succeed(dsn, "check")
    work = run(dsn)
    assert work.tasks == 200
    assert (left(conn, workflow), numbers(conn, workflow)) == (0, before)


def test_many_workflows_go_in_few_transactions_and_one_large_one_in_several(
    conn: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_BATCH", 100)
    monkeypatch.setattr(module, "_LARGEST_BATCH", 100)
    for _ in range(40):
        ended(conn)
    ended(conn, tasks=250)
    batches: list[int] = []
    work = run(dsn, on_batch=batches.append)
    assert (len(work.workflows), work.tasks, sum(batches)) == (41, 370, 370)
    assert max(batches) <= 100
    assert len(batches) <= 8


# --- Rights -------------------------------------------------------------------------------------------------


def test_an_operator_archives_and_agents_and_readers_do_not(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    agent, reader, operator = new_role(), new_role(), new_role()
    pyapp.grant(conn, agents=[agent.name], readers=[reader.name], operators=[operator.name])
    workflow = ended(conn)
    for role in (agent, reader):
        told = cli(role.dsn, "archive", "--older-than", "90d")
        assert (told.code, "permission denied" in told.err) == (2, True)
    assert left(conn, workflow) == 3
    assert succeed(operator.dsn, "archive", "--older-than", "90d").out == "1 workflow archived, 3 tasks removed\n"
    [by] = conn.execute("select payload ->> 'by' from workflow_event where event_type = 'archived'").fetchone()
    assert by == operator.name
    with pytest.raises(errors.InsufficientPrivilege):
        agent.connect().execute("update workflow set progress_frozen_at = null")


def test_workflows_of_a_partitioned_table_are_archived(conn: psycopg.Connection, dsn: str) -> None:
    succeed(dsn, "partition", "--partitions", "2")
    workflows = [ended(conn) for _ in range(5)]
    assert run(dsn).tasks == 15
    assert {progress(conn, workflow) for workflow in workflows} == {(33, 1, 3)}
