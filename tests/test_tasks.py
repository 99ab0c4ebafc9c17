"""Writing through the helpers: workflows, tasks, what agents report, and repair."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pyapp import (
    Drift,
    NewTask,
    Task,
    TaskNotFound,
    TaskReport,
    WorkflowNotFound,
    add_tasks,
    create_workflow,
    get_workflow,
    list_tasks,
    list_workflows,
    progress_metrics,
    repair,
    report_task,
    report_tasks,
    retry,
)
from pyapp.models import SETTLED

from .helpers import (
    counters,
    examples,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    row_version,
    wait_until_blocked,
)

Session = Callable[[], psycopg.Connection]
STATUSES = ["pending", "assigned", "running", "completed", "failed", "cancelled"]


def as_replica(conn: psycopg.Connection, query: str, values: Any = None) -> None:
    """Write past all triggers, as logical replication does."""
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        conn.execute(query, values)


# --- create_workflow ----------------------------------------------------------------------------------------


def test_create_workflow_returns_what_is_stored(conn: psycopg.Connection) -> None:
    workflow = create_workflow(
        conn,
        "checkout",
        "feature",
        description="two\nlines",
        status="running",
        current_stage="plan",
        priority="critical",
        agents_planned=7,
        trace_id="t-1",
        input_data={"a": [1, None]},
        created_by="me",
    )
    assert get_workflow(conn, workflow.workflow_id) == workflow
    assert (workflow.name, workflow.type, workflow.description) == ("checkout", "feature", "two\nlines")
    assert (workflow.status, workflow.current_stage, workflow.priority) == ("running", "plan", "critical")
    assert (workflow.progress, workflow.agents_total, workflow.agents_planned) == (0, 7, 7)
    row = conn.execute("select input_data, created_by, trace_id from workflow").fetchone()
    assert row == ({"a": [1, None]}, "me", "t-1")


def test_create_workflow_needs_a_name_and_a_type_only(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "app")
    assert (workflow.status, workflow.current_stage, workflow.priority) == ("initiated", "initialization", "medium")
    assert (workflow.agents_total, workflow.agents_planned, workflow.trace_id) == (0, None, None)
    assert conn.execute("select input_data, created_by from workflow").fetchone() == (None, "system")


@pytest.mark.parametrize("name", ["", "'; drop table workflow; --", "%s %(x)s {}", "a\tb\nc", "进度 🚀"])
def test_create_workflow_keeps_any_name(conn: psycopg.Connection, name: str) -> None:
    assert create_workflow(conn, name, name).name == name


def test_create_workflow_refuses_a_negative_plan_and_an_unknown_status(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="agents_planned is -1"):
        create_workflow(conn, "w", "app", agents_planned=-1)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        create_workflow(conn, "w", "app", status="done")
    assert conn.execute("select count(*) from workflow").fetchone() == (0,)


# --- add_tasks ----------------------------------------------------------------------------------------------


def test_add_tasks_takes_tasks_mappings_and_names_and_keeps_their_order(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    full = NewTask(
        "reviewer",
        external_id="r-1",
        stage="review",
        status="running",
        priority="high",
        payload={"file": "a.py"},
        trace_id="t",
        span_id="s",
        parent_span_id="p",
        max_retries=5,
        timeout_ms=1000,
    )
    added = add_tasks(conn, workflow, ["writer", full, {"agent_type": "tester", "stage": "test"}, NewTask("writer")])
    assert [task.agent_type for task in added] == ["writer", "reviewer", "tester", "writer"]
    stored = asdict(added[1])
    assert {name: stored[name] for name in asdict(full)} == asdict(full)
    assert (added[2].stage, added[0].stage, added[0].payload, added[0].max_retries) == ("test", None, {}, 3)
    assert added[0].timeout_ms == 300_000
    assert all(isinstance(task, Task) and task.workflow_id == workflow for task in added)
    assert {task.id for task in list_tasks(conn, workflow)} == {task.id for task in added}
    assert progress(conn, workflow) == (0, 0, 4)


def test_tasks_added_in_any_status_have_the_times_of_that_status(conn: psycopg.Connection) -> None:
    added = add_tasks(conn, new_workflow(conn), [NewTask("a", status=status) for status in STATUSES])
    times = [
        tuple(time is not None for time in (task.assigned_at, task.started_at, task.completed_at)) for task in added
    ]
    settled = (False, False, True)
    assert times == [(False, False, False), (True, False, False), (True, True, False), settled, settled, settled]
    assert {task.retry_count for task in added} == {0}


def test_thousands_of_tasks_are_added_in_order_by_one_statement(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    with conn.transaction():
        before = row_version(conn, workflow)
        added = add_tasks(conn, workflow, (NewTask("a", external_id=str(n)) for n in range(5000)))
        after = row_version(conn, workflow)
        updates = conn.execute("select n_tup_upd from pg_stat_xact_user_tables where relname = 'workflow'").fetchone()
    assert [task.external_id for task in added] == [str(n) for n in range(5000)]
    assert before != after
    assert updates == (1,)
    assert progress(conn, workflow) == (0, 0, 5000)


def test_adding_no_tasks_adds_none(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    assert add_tasks(conn, workflow, []) == []
    assert progress(conn, workflow) == (0, 0, 0)


@pytest.mark.parametrize("tasks", [["a"], []])
def test_add_tasks_raises_for_an_unknown_workflow(conn: psycopg.Connection, tasks: list[str]) -> None:
    with pytest.raises(WorkflowNotFound, match=r"^workflow 00000000-0000-0000-0000-000000000000 not found$"):
        add_tasks(conn, UUID(int=0), tasks)
    assert conn.execute("select count(*) from agent_task").fetchone() == (0,)


def test_an_external_id_is_unique_in_its_workflow_only(conn: psycopg.Connection) -> None:
    one, two = new_workflow(conn), new_workflow(conn)
    add_tasks(conn, one, [NewTask("a", external_id="x")])
    add_tasks(conn, two, [NewTask("a", external_id="x"), "b", "b"])
    with pytest.raises(psycopg.errors.UniqueViolation):
        add_tasks(conn, one, ["b", NewTask("a", external_id="x")])
    assert progress(conn, one) == (0, 0, 1)
    assert progress(conn, two) == (0, 0, 3)


def test_a_mapping_with_an_unknown_name_is_an_error(conn: psycopg.Connection) -> None:
    with pytest.raises(TypeError, match="agent"):
        add_tasks(conn, new_workflow(conn), [{"agent": "a"}])


# --- report_task and report_tasks ---------------------------------------------------------------------------


def test_a_task_reported_step_by_step_has_a_time_for_each_step(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    assigned = report_task(conn, workflow, task.id, "assigned")
    assert (assigned.assigned_at is not None, assigned.started_at) == (True, None)
    running = report_task(conn, workflow, task.id, "running")
    assert running.assigned_at == assigned.assigned_at < running.started_at
    assert report_task(conn, workflow, task.id, "running") == running
    done = report_task(conn, workflow, task.id, "completed", {"lines": 12})
    assert (done.assigned_at, done.started_at) == (running.assigned_at, running.started_at)
    assert done.started_at < done.completed_at
    assert done.result == {"lines": 12}
    assert progress(conn, workflow) == (100, 1, 1)


def test_steps_that_were_never_reported_have_no_time(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    one, two = add_tasks(conn, workflow, ["a", "a"])
    running = report_task(conn, workflow, one.id, "running")
    assert running.assigned_at == running.started_at
    done = report_task(conn, workflow, two.id, "failed")
    assert (done.assigned_at, done.started_at) == (None, None)
    assert done.completed_at is not None


def test_a_running_task_given_back_loses_its_times(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, [NewTask("a", status="running")])
    assigned = report_task(conn, workflow, task.id, "assigned")
    assert (assigned.assigned_at, assigned.started_at) == (task.assigned_at, None)
    pending = report_task(conn, workflow, task.id, "pending")
    assert (pending.assigned_at, pending.started_at, pending.completed_at) == (None, None, None)
    assert pending.retry_count == 0


@pytest.mark.parametrize("settled", sorted(SETTLED))
@pytest.mark.parametrize("late", ["pending", "assigned", "running"])
def test_a_late_report_of_a_settled_task_is_passed_over(conn: psycopg.Connection, settled: str, late: str) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    done = report_task(conn, workflow, task.id, settled, "result")
    before = row_version(conn, workflow)
    assert report_task(conn, workflow, task.id, late, "late") == done
    assert row_version(conn, workflow) == before


def test_a_task_is_opened_again_with_reopen_and_counts_as_a_retry(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, [NewTask("a", status="running")])
    report_task(conn, workflow, task.id, "completed", {"ok": True})
    again = report_task(conn, workflow, task.id, "running", reopen=True)
    assert (again.status, again.result, again.completed_at, again.retry_count) == ("running", None, None, 1)
    assert again.started_at > task.started_at
    assert again.assigned_at > task.assigned_at
    assert progress(conn, workflow) == (0, 0, 1)
    report_task(conn, workflow, task.id, "failed", reopen=True)
    back = report_task(conn, workflow, task.id, "pending", reopen=True)
    assert (back.assigned_at, back.started_at, back.retry_count) == (None, None, 2)


def test_a_settled_task_moves_to_another_settled_status_without_reopen(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    failed = report_task(conn, workflow, task.id, "failed", "why")
    done = report_task(conn, workflow, task.id, "completed")
    assert (done.status, done.result, done.retry_count) == ("completed", "why", 0)
    assert done.completed_at > failed.completed_at
    assert counters(conn, workflow) == (1, 1, 0, 0)


def test_the_same_report_again_changes_nothing_but_a_new_result(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    done = report_task(conn, workflow, task.id, "completed", 1)
    assert report_task(conn, workflow, task.id, "completed") == done
    better = report_task(conn, workflow, task.id, "completed", 2)
    assert (better.result, better.completed_at) == (2, done.completed_at)
    assert progress(conn, workflow) == (100, 1, 1)


@pytest.mark.parametrize("result", [{"a": [1, "ü", None]}, [], "text", 0, False, 1.5])
def test_any_json_is_a_result(conn: psycopg.Connection, result: Any) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    assert report_task(conn, workflow, task.id, "completed", result).result == result


def test_a_batch_is_one_statement_and_writes_the_workflow_once(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = add_tasks(conn, workflow, ["a"] * 300)
    with conn.transaction():
        before = conn.execute("select n_tup_upd from pg_stat_xact_user_tables where relname = 'workflow'").fetchone()[0]
        done = report_tasks(conn, workflow, [(task.id, "completed") for task in reversed(tasks)])
        after = conn.execute("select n_tup_upd from pg_stat_xact_user_tables where relname = 'workflow'").fetchone()[0]
    assert after - before == 1
    assert [task.id for task in done] == [task.id for task in reversed(tasks)]
    assert {task.status for task in done} == {"completed"}
    assert progress(conn, workflow) == (100, 300, 300)


def test_reports_come_in_any_form_and_the_id_may_be_text(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    a, b, c, d = add_tasks(conn, workflow, ["a"] * 4)
    done = report_tasks(
        conn,
        str(workflow),
        [
            TaskReport(str(a.id).upper(), "completed", [1]),
            {"task_id": b.id, "status": "failed", "result": "why"},
            (str(c.id), "running"),
            (d.id, "cancelled", None, False),
        ],
    )
    assert [(task.status, task.result) for task in done] == [
        ("completed", [1]),
        ("failed", "why"),
        ("running", None),
        ("cancelled", None),
    ]


def test_the_last_report_of_a_task_wins_in_list_order(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    a, b = add_tasks(conn, workflow, ["a", "b"])
    done = report_tasks(
        conn,
        workflow,
        [
            (a.id, "running"),
            (b.id, "failed", "first"),
            (a.id, "completed", {"n": 1}),
            (str(b.id), "completed"),
            (a.id, "running"),  # late: passed over
        ],
    )
    assert [(task.id, task.status, task.result) for task in done] == [
        (a.id, "completed", {"n": 1}),
        (b.id, "completed", "first"),
    ]
    assert progress(conn, workflow) == (100, 2, 2)


def test_no_reports_change_nothing(conn: psycopg.Connection) -> None:
    assert report_tasks(conn, new_workflow(conn), []) == []


def test_an_unknown_task_leaves_the_whole_batch_undone(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    (foreign,) = add_tasks(conn, other, ["a"])
    for missing in (uuid4(), foreign.id):
        with pytest.raises(TaskNotFound, match=f"^task {missing} not found in workflow {workflow}$"):
            report_tasks(conn, workflow, [(task.id, "completed"), (missing, "completed")])
        with pytest.raises(TaskNotFound):
            report_task(conn, workflow, missing, "running")
    with pytest.raises(TaskNotFound):
        report_task(conn, uuid4(), task.id, "completed")
    with pytest.raises(TaskNotFound, match=r"^task (\S+, ){2}\S+ … not found"):
        report_tasks(conn, workflow, [(uuid4(), "completed") for _ in range(9)])
    assert list_tasks(conn, workflow) == [task]
    assert list_tasks(conn, other) == [foreign]
    assert progress(conn, workflow) == (0, 0, 1)


def test_a_status_that_is_none_is_an_error_and_changes_nothing(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    a, b = add_tasks(conn, workflow, ["a", "b"])
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="done"):
        report_tasks(conn, workflow, [(a.id, "completed"), (b.id, "done")])
    with pytest.raises(ValueError):
        report_task(conn, workflow, "no id", "completed")
    assert progress(conn, workflow) == (0, 0, 2)


REPORT = st.tuples(
    st.integers(0, 2), st.sampled_from(STATUSES), st.none() | st.integers(0, 9), st.booleans() | st.just(False)
)


@given(
    first=st.lists(st.sampled_from(STATUSES), min_size=3, max_size=3),
    batches=st.lists(st.lists(REPORT, max_size=8), max_size=3),
)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_has_the_outcome_of_single_reports(conn: psycopg.Connection, first: list[str], batches: Any) -> None:
    with conn.transaction(force_rollback=True):
        workflows = [new_workflow(conn), new_workflow(conn)]
        batched, single = (
            [t.id for t in add_tasks(conn, w, [NewTask("a", status=status) for status in first])] for w in workflows
        )
        for batch in batches:
            report_tasks(conn, workflows[0], [(batched[n], *rest) for n, *rest in batch])
            for n, *rest in batch:
                report_task(conn, workflows[1], single[n], *rest)
        outcome = [
            [
                (
                    t.status,
                    t.result,
                    t.retry_count,
                    *(at is None for at in (t.assigned_at, t.started_at, t.completed_at)),
                )
                for t in sorted(list_tasks(conn, w), key=lambda t, ids=ids: ids.index(t.id))
            ]
            for w, ids in zip(workflows, (batched, single), strict=True)
        ]
        assert outcome[0] == outcome[1]
        assert counters(conn, workflows[0]) == counters(conn, workflows[1])
        assert progress(conn, workflows[0]) == progress(conn, workflows[1])
        assert conn.execute("select * from workflow_progress_drift").fetchall() == []


def test_a_task_that_is_started_and_settled_in_one_batch_has_all_its_times(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    (done,) = report_tasks(conn, workflow, [(task.id, "assigned"), (task.id, "running"), (task.id, "completed")])
    assert done.assigned_at == done.started_at == done.completed_at
    assert done.completed_at is not None
    (again,) = report_tasks(conn, workflow, [(task.id, "running", None, True), (task.id, "failed")])
    assert done.completed_at < again.assigned_at == again.started_at == again.completed_at
    (last,) = report_tasks(conn, workflow, [(task.id, "pending", None, True), (task.id, "cancelled")])
    assert (last.assigned_at, last.started_at, last.retry_count) == (None, None, 2)


def test_batches_in_opposite_order_do_not_deadlock(conn: psycopg.Connection, session: Session) -> None:
    workflow = new_workflow(conn)
    tasks = [task.id for task in add_tasks(conn, workflow, ["a"] * 2)]
    low, high = sorted(tasks)
    holder, first, second = session(), session(), session()
    # Both are stopped at the task that comes first; neither can have locked the other one by then.
    holder.execute("select from agent_task where id = %s for update", [low])
    forth = in_background(lambda: report_tasks(first, workflow, [(low, "completed"), (high, "completed")]))
    wait_until_blocked(conn, first.info.backend_pid)
    back = in_background(lambda: report_tasks(second, workflow, [(high, "failed"), (low, "failed")]))
    wait_until_blocked(conn, second.info.backend_pid)
    assert conn.execute("select 1 from agent_task where id = %s for update nowait", [high]).fetchone() == (1,)
    holder.commit()
    assert [task.status for task in forth.result(10)] == ["completed"] * 2
    first.commit()
    assert [task.status for task in back.result(10)] == ["failed"] * 2
    second.commit()
    assert counters(conn, workflow) == (2, 0, 2, 0)


def test_batches_in_opposite_order_never_deadlock_however_often(dsn: str, conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = [task.id for task in add_tasks(conn, workflow, ["a"] * 40)]

    def report(ids: list[UUID]) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            for place in range(30):
                status = "completed" if place % 2 else "running"
                report_tasks(own, workflow, [TaskReport(task, status, reopen=True) for task in ids])

    done = [in_background(report, ids) for ids in (tasks, tasks[::-1])]
    for each in done:
        each.result(30)
    assert progress(conn, workflow) == (100, 40, 40)


def test_a_report_waits_for_another_of_the_same_task_and_then_sees_it(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, ["a"])
    one, two = session(), session()
    report_task(one, workflow, task.id, "completed", "first")
    late = in_background(lambda: report_task(two, workflow, task.id, "running"))
    wait_until_blocked(conn, two.info.backend_pid)
    one.commit()
    late.result(10)
    two.commit()
    (stored,) = list_tasks(conn, workflow)
    assert (stored.status, stored.result) == ("completed", "first")
    assert progress(conn, workflow) == (100, 1, 1)


# --- repair -------------------------------------------------------------------------------------------------


def test_repair_mends_and_returns_both_numbers(conn: psycopg.Connection) -> None:
    workflow, right = new_workflow(conn), new_workflow(conn)
    new_tasks(conn, workflow, "completed", "pending")
    new_tasks(conn, right, "completed")
    as_replica(conn, "update workflow set progress = 7, agents_completed = 9 where id = %s", [workflow])
    assert repair(conn, right) == []
    (mended,) = repair(conn, workflow)
    assert isinstance(mended, Drift)
    assert (mended.workflow_id, mended.name, mended.stale_data) == (workflow, "w", True)
    assert (mended.stored_progress, mended.calculated_progress) == (7, 50)
    assert (mended.stored_completed, mended.calculated_completed) == (9, 1)
    assert repair(conn) == []
    assert progress(conn, workflow) == (50, 1, 2)


def test_repair_without_an_id_mends_all(conn: psycopg.Connection) -> None:
    workflows = [new_workflow(conn) for _ in range(3)]
    for workflow in workflows:
        new_tasks(conn, workflow, "completed")
    as_replica(conn, "update workflow set agents_completed = 0, progress = 0 where id <> %s", [workflows[0]])
    assert {mended.workflow_id for mended in repair(conn)} == set(workflows[1:])
    assert repair(conn) == []


def test_repair_raises_for_an_unknown_workflow_and_for_a_role_without_the_right(conn: psycopg.Connection) -> None:
    with pytest.raises(WorkflowNotFound):
        repair(conn, UUID(int=0))
    conn.execute("set role pg_read_all_data")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        repair(conn)


# --- Every helper: transactions and connections -------------------------------------------------------------


def call_every_helper(conn: psycopg.Connection) -> tuple[UUID, UUID]:
    workflow = create_workflow(conn, "w", "app").workflow_id
    a, _ = add_tasks(conn, workflow, ["a", "b"])
    report_task(conn, workflow, a.id, "running")
    report_tasks(conn, workflow, [(a.id, "completed", {"x": 1})])
    assert repair(conn) == []
    assert get_workflow(conn, workflow).progress == 50
    assert len(list_workflows(conn)) == 1
    assert [task.status for task in list_tasks(conn, workflow)].count("completed") == 1
    assert progress_metrics(conn, workflow).stale_data is False
    return workflow, a.id


def test_helpers_never_commit(conn: psycopg.Connection, session: Session) -> None:
    transaction = session()
    call_every_helper(transaction)
    assert transaction.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    transaction.rollback()
    assert conn.execute("select count(*) from workflow").fetchone() == (0,)
    assert conn.execute("select count(*) from agent_task").fetchone() == (0,)


def test_errors_of_ours_leave_the_transaction_usable(session: Session) -> None:
    conn = session()
    workflow, _ = call_every_helper(conn)
    for failing, error in (
        (lambda: get_workflow(conn, UUID(int=0)), WorkflowNotFound),
        (lambda: list_tasks(conn, UUID(int=0)), WorkflowNotFound),
        (lambda: progress_metrics(conn, UUID(int=0)), WorkflowNotFound),
        (lambda: add_tasks(conn, UUID(int=0), ["a"]), WorkflowNotFound),
        (lambda: repair(conn, UUID(int=0)), WorkflowNotFound),
        (lambda: report_task(conn, workflow, UUID(int=0), "completed"), TaskNotFound),
        (lambda: report_task(conn, workflow, "no id", "completed"), ValueError),
        (lambda: add_tasks(conn, workflow, [{"no": "such"}]), TypeError),
    ):
        with pytest.raises(error):
            failing()
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert get_workflow(conn, workflow).progress == 50
    conn.commit()


def test_errors_of_postgres_are_left_to_the_caller_s_savepoint(session: Session) -> None:
    conn = session()
    workflow, task = call_every_helper(conn)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation), conn.transaction():
        report_task(conn, workflow, task, "done")
    assert get_workflow(conn, workflow).progress == 50
    conn.commit()


def test_helpers_work_whatever_rows_the_connection_makes(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        workflow, _ = call_every_helper(conn)
        as_replica(conn, "update workflow set agents_completed = 0")
        assert progress_metrics(conn, workflow).stale_data is True
        assert len(repair(conn)) == 1
        with pytest.raises(TaskNotFound):
            report_task(conn, workflow, workflow, "running")
        assert conn.execute("select 1 as one").fetchone() == {"one": 1}


def test_helpers_work_whatever_the_search_path_is(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=pg_catalog") as conn:
        call_every_helper(conn)


def test_helpers_work_where_statements_cannot_be_prepared(dsn: str) -> None:
    # As behind a pooler in transaction mode.
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        call_every_helper(conn)
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as conn:
        conn.execute("delete from workflow")
        call_every_helper(conn)


def test_retry_tries_again_what_the_server_broke_off(conn: psycopg.Connection) -> None:
    tries = []

    def write() -> str:
        tries.append(1)
        if len(tries) < 3:
            conn.execute("do $$ begin raise deadlock_detected; end $$")
        return "done"

    assert retry(write) == "done"
    assert len(tries) == 3
    with pytest.raises(psycopg.errors.DivisionByZero):
        retry(lambda: conn.execute("select 1 / 0"))


def test_the_times_of_reports_are_the_server_s(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    (task,) = add_tasks(conn, workflow, [NewTask("a", payload=Jsonb({"k": 1}).obj)])
    now = conn.execute("select now()").fetchone()[0]
    done = report_task(conn, workflow, task.id, "completed")
    assert timedelta(0) <= done.completed_at - now < timedelta(seconds=10)
    assert done.completed_at.astimezone(UTC) == done.completed_at
    assert isinstance(done.created_at, datetime)
    assert all(early <= late for early, late in pairwise([task.created_at, now, done.completed_at]))
