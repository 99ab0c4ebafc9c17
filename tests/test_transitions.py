"""Status, stage and version of a workflow: where it may go, who wins a race, and what readers see."""

from datetime import UTC, datetime
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pyapp import (
    TransitionNotAllowed,
    VersionConflict,
    WorkflowNotFound,
    create_workflow,
    get_state,
    get_workflow,
    transition,
)
from tests.helpers import (
    counters,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    row_version,
    set_status,
    wait_until_blocked_by,
)

STATUSES = ("initiated", "running", "paused", "completed", "failed", "cancelled")
ALLOWED = {
    "initiated": ("running", "paused", "completed", "failed", "cancelled"),
    "running": ("paused", "completed", "failed", "cancelled"),
    "paused": ("running", "completed", "failed", "cancelled"),
    "completed": (),
    "failed": ("running",),
    "cancelled": ("running",),
}
SETTLED = ("completed", "failed", "cancelled")
LEGAL = [(old, new) for old, new in product(STATUSES, repeat=2) if new in ALLOWED[old]]
ILLEGAL = [(old, new) for old, new in product(STATUSES, repeat=2) if new not in ALLOWED[old] and new != old]
NO_ONE = "00000000-0000-0000-0000-000000000000"


def state(conn: psycopg.Connection, workflow: Any) -> tuple[str, str, int]:
    return conn.execute("select status, current_stage, version from workflow where id = %s", [workflow]).fetchone()


def move(conn: psycopg.Connection, workflow: Any, status: str) -> None:
    conn.execute("update workflow set status = %s where id = %s", [status, workflow])


# --- What is allowed ----------------------------------------------------------------------------------------


def test_every_pair_of_states_is_legal_or_illegal_as_the_table_says(conn: psycopg.Connection) -> None:
    rows = conn.execute("select from_status, to_status from workflow_transition").fetchall()
    assert sorted(rows) == sorted(LEGAL)
    assert len(LEGAL) + len(ILLEGAL) + len(STATUSES) == 36


@pytest.mark.parametrize("old", STATUSES)
def test_each_legal_transition_is_made(conn: psycopg.Connection, old: str) -> None:
    for new in ALLOWED[old]:
        by_sql, by_helper = new_workflow(conn, status=old), new_workflow(conn, status=old)
        move(conn, by_sql, new)
        assert state(conn, by_sql) == (new, "initialization", 2)
        moved = transition(conn, by_helper, new)
        assert (moved.status, moved.current_stage, moved.version) == state(conn, by_helper)
        assert state(conn, by_helper) == (new, "initialization", 2)
        for workflow in (by_sql, by_helper):
            assert (get_state(conn, workflow).completed_at is not None) == (new in SETTLED)


@pytest.mark.parametrize("old", STATUSES)
def test_each_illegal_transition_is_refused_and_names_both_states_and_what_is_allowed(
    conn: psycopg.Connection, old: str
) -> None:
    workflow = new_workflow(conn, status=old)
    (task,) = new_tasks(conn, workflow, "running")
    before = row_version(conn, workflow)
    allowed = ", ".join(ALLOWED[old]) or "none"
    for new in {new for was, new in ILLEGAL if was == old}:
        message = f"workflow {workflow} cannot go from {old} to {new}; allowed from {old}: {allowed}"
        with pytest.raises(psycopg.Error) as caught:
            move(conn, workflow, new)
        assert (caught.value.sqlstate, caught.value.diag.message_primary) == ("WP002", message)
        assert "workflow_transition" in caught.value.diag.message_hint
        with pytest.raises(TransitionNotAllowed) as refused:
            transition(conn, workflow, new)
        assert str(refused.value) == message
        assert row_version(conn, workflow) == before
        assert conn.execute("select status from agent_task where id = %s", [task]).fetchone() == ("running",)


def test_rows_of_the_table_change_the_rule(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="completed")
    conn.execute("insert into workflow_transition values ('completed', 'running')")
    assert transition(conn, workflow, "running").status == "running"
    conn.execute("delete from workflow_transition where from_status = 'running' and to_status <> 'failed'")
    with pytest.raises(TransitionNotAllowed, match=r"allowed from running: failed$"):
        transition(conn, workflow, "paused")


def test_an_unknown_status_is_refused_as_what_it_is(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        transition(conn, workflow, "done")
    with pytest.raises(psycopg.errors.NotNullViolation):
        conn.execute("update workflow set status = null")


@pytest.mark.parametrize("status", ["initiated", "running", "cancelled"])
def test_an_unknown_workflow_is_not_found(conn: psycopg.Connection, status: str) -> None:
    with pytest.raises(WorkflowNotFound, match=NO_ONE):
        transition(conn, NO_ONE, status, expected_version=1)
    with pytest.raises(WorkflowNotFound):
        get_state(conn, NO_ONE)
    with pytest.raises(psycopg.errors.NoDataFound):
        conn.execute("select transition_workflow(%s, %s)", [NO_ONE, status])


def test_errors_leave_an_autocommit_connection_usable(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="completed")
    for error, arguments in (
        (TransitionNotAllowed, {}),
        (VersionConflict, {"expected_version": 7}),
    ):
        with pytest.raises(error):
            transition(conn, workflow, "running", **arguments)
        assert get_workflow(conn, workflow).status == "completed"


def test_a_refused_transition_ends_the_statement_for_all_its_workflows(conn: psycopg.Connection) -> None:
    good, bad = new_workflow(conn, status="running"), new_workflow(conn, status="completed")
    with pytest.raises(psycopg.Error):
        conn.execute("update workflow set status = 'paused'")
    assert (state(conn, good)[0], state(conn, bad)[0]) == ("running", "completed")


def test_what_a_before_trigger_makes_of_a_status_is_checked(conn: psycopg.Connection) -> None:
    conn.execute(
        """
        create function reopen() returns trigger language plpgsql as $$
        begin
            if new.status = 'failed' then new.status := 'initiated'; end if;
            return new;
        end $$;
        create trigger z_reopen before update on workflow for each row execute function reopen();
        """
    )
    workflow = new_workflow(conn, status="running")
    with pytest.raises(psycopg.Error, match="cannot go from running to initiated"):
        move(conn, workflow, "failed")


# --- Version and updated_at ---------------------------------------------------------------------------------


def stamps(conn: psycopg.Connection, workflow: Any) -> tuple[int, datetime]:
    return conn.execute("select version, updated_at from workflow where id = %s", [workflow]).fetchone()


@pytest.mark.parametrize("status", STATUSES)
def test_the_same_status_again_changes_nothing(conn: psycopg.Connection, status: str) -> None:
    workflow = new_workflow(conn, status=status)
    before = get_state(conn, workflow)
    assert transition(conn, workflow, status) == before
    assert transition(conn, workflow, status, stage="initialization", expected_version=1) == before
    move(conn, workflow, status)
    assert get_state(conn, workflow) == before
    assert conn.execute("select count(*) from workflow_event").fetchone() == (0,)


def test_a_change_of_status_or_stage_moves_version_and_updated_at(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    old = stamps(conn, workflow)
    for version, change in enumerate(
        ("status = 'running'", "current_stage = 'validation'", "status = 'paused', current_stage = 'scaffolding'"), 2
    ):
        conn.execute(f"update workflow set {change}")
        now = stamps(conn, workflow)
        assert now[0] == version
        assert now[1] > old[1]
        old = now


def test_a_version_that_the_writer_moves_on_is_kept(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    conn.execute("update workflow set status = 'running', version = version + 1 where version = 1")
    assert stamps(conn, workflow)[0] == 2
    conn.execute("update workflow set status = 'paused', version = 10")
    assert stamps(conn, workflow)[0] == 10
    conn.execute("update workflow set status = 'paused', version = version + 1")
    assert stamps(conn, workflow)[0] == 11


def test_progress_leaves_version_and_updated_at_alone(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    before = stamps(conn, workflow)
    first, second = new_tasks(conn, workflow, "pending", "running")
    set_status(conn, first, "completed")
    set_status(conn, second, "failed")
    conn.execute("delete from agent_task where id = %s", [second])
    conn.execute("update workflow set agents_planned = 5, progress = 77")
    assert progress(conn, workflow) == (20, 1, 5)
    assert stamps(conn, workflow) == before
    assert transition(conn, workflow, "paused", expected_version=before[0]).version == 2


def test_a_status_set_by_a_trigger_on_tasks_moves_the_version(conn: psycopg.Connection) -> None:
    conn.execute(
        """
        create function end_workflow() returns trigger language plpgsql as $$
        begin
            update workflow set status = 'failed' where id = new.workflow_id;
            return null;
        end $$;
        create trigger end_workflow after update on agent_task for each row
            when (new.status = 'failed') execute function end_workflow();
        """
    )
    workflow = new_workflow(conn, status="running")
    before = stamps(conn, workflow)
    (task,) = new_tasks(conn, workflow, "running")
    set_status(conn, task, "failed")
    after = stamps(conn, workflow)
    assert (state(conn, workflow), counters(conn, workflow)) == (("failed", "initialization", 2), (1, 0, 1, 0))
    assert after[1] > before[1]
    events = conn.execute("select payload ->> 'to' from workflow_event").fetchall()
    assert events == [("failed",)]
    conn.execute("update workflow set status = 'running'")
    conn.execute("delete from workflow_transition where to_status = 'failed'")
    (task,) = new_tasks(conn, workflow, "running")
    with pytest.raises(psycopg.Error, match="cannot go from running to failed"):
        set_status(conn, task, "failed")


# --- Rows written back --------------------------------------------------------------------------------------


def write_back(conn: psycopg.Connection, row: dict[str, Any], **changes: Any) -> None:
    """Save a row as ORMs do: every column, as it was read but for the changes."""
    row = row | changes
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in row if name != "id"
    )
    conn.execute(sql.SQL("update workflow set {} where id = %(id)s").format(assignments), row)


def read_row(conn: psycopg.Connection, workflow: Any) -> dict[str, Any]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from workflow where id = %s", [workflow]).fetchone()


@pytest.mark.parametrize("change", [{"status": "running"}, {"current_stage": "scaffolding"}])
def test_a_stale_row_written_back_does_not_revert_what_happened_since(
    conn: psycopg.Connection, change: dict[str, str]
) -> None:
    workflow = new_workflow(conn, status="running", current_stage="scaffolding")
    stale = read_row(conn, workflow)
    transition(conn, workflow, "paused", stage="validation")
    before = row_version(conn, workflow)
    with pytest.raises(psycopg.Error) as caught:
        write_back(conn, stale | {"status": "paused", "current_stage": "validation"} | change, name="new")
    assert caught.value.sqlstate == "WP001"
    assert caught.value.diag.message_primary == (
        f"workflow {workflow} has moved on: it is paused, stage validation, version 2, and not as in version 1"
    )
    assert row_version(conn, workflow) == before


def test_a_stale_row_with_the_same_status_and_stage_changes_the_rest_and_not_the_version(
    conn: psycopg.Connection,
) -> None:
    workflow = new_workflow(conn, status="running")
    stale = read_row(conn, workflow)
    transition(conn, workflow, "paused")
    transition(conn, workflow, "running")
    new_tasks(conn, workflow, "completed")
    before = stamps(conn, workflow)
    write_back(conn, stale, description="told")
    assert stamps(conn, workflow) == before
    assert get_workflow(conn, workflow).description == "told"
    assert progress(conn, workflow) == (100, 1, 1)


def test_a_current_row_written_back_whole_moves_status_and_version(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    write_back(conn, read_row(conn, workflow), status="completed")
    assert state(conn, workflow) == ("completed", "initialization", 2)
    later = datetime(2999, 1, 1, tzinfo=UTC)
    write_back(conn, read_row(conn, workflow), updated_at=later)
    assert stamps(conn, workflow) == (2, later)


def test_an_upsert_of_a_stale_row_is_refused(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    transition(conn, workflow, "paused")
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            "insert into workflow (id, name, type, status, version) values (%s, 'w', 'app', 'running', 1)"
            " on conflict (id) do update set status = excluded.status, version = excluded.version",
            [workflow],
        )
    assert caught.value.sqlstate == "WP001"
    assert state(conn, workflow) == ("paused", "initialization", 2)


# --- completed_at -------------------------------------------------------------------------------------------


def test_completed_at_comes_and_goes_with_the_status(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)

    def completed_at() -> datetime | None:
        return conn.execute("select completed_at from workflow").fetchone()[0]

    move(conn, workflow, "running")
    assert completed_at() is None
    move(conn, workflow, "failed")
    first = completed_at()
    assert first is not None
    move(conn, workflow, "failed")
    conn.execute("update workflow set status = 'failed', completed_at = null")
    assert completed_at() == first
    move(conn, workflow, "running")
    assert completed_at() is None
    conn.execute("update workflow set status = 'running', completed_at = now()")
    assert completed_at() is None
    conn.execute("update workflow set status = 'completed', completed_at = '2020-02-02 00:00Z'")
    assert completed_at() == datetime(2020, 2, 2, tzinfo=UTC)


def test_an_inserted_workflow_has_the_completed_at_of_its_status(conn: psycopg.Connection) -> None:
    given = datetime(2020, 2, 2, tzinfo=UTC)
    for status in STATUSES:
        left_out = get_state(conn, new_workflow(conn, status=status)).completed_at
        told = get_state(conn, new_workflow(conn, status=status, completed_at=given)).completed_at
        assert ((left_out is not None), told) == (status in SETTLED, given if status in SETTLED else None)


def test_a_frozen_workflow_moves_and_keeps_its_counters(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running", agents_planned=4)
    new_tasks(conn, workflow, "completed", "running")
    conn.execute("update workflow set progress_frozen_at = now()")
    conn.execute("delete from agent_task")
    assert transition(conn, workflow, "completed", stage="monitoring").version == 2
    assert progress(conn, workflow) == (25, 1, 4)


# --- Compare and swap ---------------------------------------------------------------------------------------


def test_a_swap_succeeds_with_the_version_that_is_stored_and_only_with_that(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    first = transition(conn, workflow, "running", expected_version=1)
    assert first.version == 2
    for version in (1, 3):
        with pytest.raises(
            VersionConflict,
            match=f"has moved on: it is running, stage initialization, version 2, and not version {version}$",
        ):
            transition(conn, workflow, "paused", expected_version=version)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select transition_workflow(%s, 'paused', null, 1)", [workflow])
    assert caught.value.sqlstate == "WP001"
    assert transition(conn, workflow, "paused", expected_version=first.version).version == 3


def test_a_lost_swap_to_cancelled_leaves_the_tasks_alone(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    new_tasks(conn, workflow, "running", "completed")
    with pytest.raises(VersionConflict):
        transition(conn, workflow, "cancelled", expected_version=5)
    assert counters(conn, workflow) == (2, 1, 0, 0)


def test_a_transition_returns_the_row_as_it_is_committed(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, type="planned")
    conn.execute("insert into stage_definition values ('planned', 0, 'initialization', 1, 4)")
    new_tasks(conn, workflow, "completed")
    writer = session()
    returned = writer.execute("select w::text from transition_workflow(%s, 'running') as w", [workflow]).fetchone()
    writer.commit()
    assert conn.execute("select w::text from workflow as w").fetchone() == returned
    assert progress(conn, workflow) == (25, 1, 4)


def test_a_transition_is_one_statement_to_the_server(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    sent: list[str] = []

    class Counting(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            sent.append(query.as_string(conn))
            return super().execute(query, *args, **kwargs)

    conn.cursor_factory = Counting
    transition(conn, workflow, "running", stage="validation", expected_version=1)
    assert len(sent) == 1
    assert "transition_workflow" in sent[0]


# --- Two sessions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_helper", [True, False])
def test_of_two_who_swap_at_once_exactly_one_wins(conn: psycopg.Connection, session: Any, by_helper: bool) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()

    def swap(connection: psycopg.Connection) -> int:
        if by_helper:
            return transition(connection, workflow, "completed", expected_version=1).version
        return connection.execute(
            "update workflow set status = 'completed', version = 2 where id = %s and version = 1", [workflow]
        ).rowcount

    assert swap(first) == (2 if by_helper else 1)
    waiting = in_background(swap, second)
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    if by_helper:
        with pytest.raises(
            VersionConflict, match="it is completed, stage initialization, version 2, and not version 1"
        ):
            waiting.result(10)
    else:
        assert waiting.result(10) == 0
    assert state(conn, workflow) == ("completed", "initialization", 2)


def test_a_swap_that_waited_for_one_who_gave_up_wins(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()
    transition(first, workflow, "failed", expected_version=1)
    waiting = in_background(lambda: transition(second, workflow, "paused", expected_version=1))
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.rollback()
    assert waiting.result(10).version == 2
    second.commit()
    assert state(conn, workflow) == ("paused", "initialization", 2)


def test_two_who_make_the_same_transition_make_it_once(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()
    won = transition(first, workflow, "completed")
    waiting = in_background(transition, second, workflow, "completed")
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    assert waiting.result(10) == won
    second.commit()
    assert conn.execute("select count(*) from workflow_event").fetchone() == (1,)


def test_of_two_who_make_different_transitions_the_second_is_judged_by_the_first(
    conn: psycopg.Connection, session: Any
) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()
    transition(first, workflow, "completed")
    waiting = in_background(transition, second, workflow, "failed")
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    with pytest.raises(TransitionNotAllowed, match="from completed to failed; allowed from completed: none"):
        waiting.result(10)


def test_a_stale_row_that_waited_is_refused(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()
    stale = read_row(second, workflow)
    transition(first, workflow, "paused")
    waiting = in_background(write_back, second, stale | {"status": "failed"})
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    with pytest.raises(psycopg.Error) as caught:
        waiting.result(10)
    assert caught.value.sqlstate == "WP001"


def test_a_repeatable_read_transaction_is_told_to_retry(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, status="running")
    late = session()
    late.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    assert state(late, workflow)[0] == "running"
    transition(conn, workflow, "paused")
    with pytest.raises(psycopg.errors.SerializationFailure):
        transition(late, workflow, "failed")
    late.rollback()
    assert transition(late, workflow, "failed").version == 3


def test_a_reader_is_never_behind_the_commit(conn: psycopg.Connection, session: Any) -> None:
    writer = session()
    workflow = new_workflow(conn, status="running")
    tasks = new_tasks(conn, workflow, *["running"] * 8)
    for done, task in enumerate(tasks, 1):
        set_status(writer, task, "completed")
        moved = transition(writer, workflow, "paused" if done % 2 else "running", stage=f"stage {done}")
        seen = get_workflow(conn, workflow)
        assert (seen.agents_completed, seen.current_stage) == (
            done - 1,
            f"stage {done - 1}" if done > 1 else "initialization",
        )
        writer.commit()
        seen = get_workflow(conn, workflow)
        assert (seen.agents_completed, seen.status, seen.current_stage) == (done, moved.status, f"stage {done}")
        assert get_state(conn, workflow) == moved


# --- Cancelling ---------------------------------------------------------------------------------------------


def test_cancelling_settles_the_open_tasks_and_no_others(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn, status="running"), new_workflow(conn, status="running")
    new_tasks(conn, workflow, "pending", "assigned", "running", "completed", "failed", "cancelled")
    new_tasks(conn, other, "running")
    settled = conn.execute("select id, completed_at from agent_task where status >= 'completed' order by id").fetchall()
    moved = transition(conn, workflow, "cancelled")
    assert (moved.status, moved.version) == ("cancelled", 2)
    assert moved.completed_at is not None
    assert counters(conn, workflow) == (6, 1, 1, 4)
    assert counters(conn, other) == (1, 0, 0, 0)
    assert conn.execute("select count(*) from agent_task where completed_at is null").fetchone() == (1,)
    kept = [row[0] for row in settled]
    assert (
        settled
        == conn.execute("select id, completed_at from agent_task where id = any (%s) order by id", [kept]).fetchall()
    )


def test_cancelling_waits_for_an_agent_that_reports_and_keeps_what_it_reported(
    conn: psycopg.Connection, session: Any
) -> None:
    workflow = new_workflow(conn, status="running")
    first, _ = new_tasks(conn, workflow, "running", "running")
    agent, orchestrator = session(), session()
    set_status(agent, first, "completed")  # holds the task, and the workflow's row by counting
    waiting = in_background(transition, orchestrator, workflow, "cancelled")
    wait_until_blocked_by(conn, orchestrator.info.backend_pid, agent.info.backend_pid)
    agent.commit()
    assert waiting.result(10).status == "cancelled"
    orchestrator.commit()
    assert counters(conn, workflow) == (2, 1, 0, 1)


def test_an_agent_that_holds_its_task_and_a_cancel_do_not_deadlock(conn: psycopg.Connection, session: Any) -> None:
    # Workflow first, tasks later would: the agent counts in the row that the other holds.
    workflow = new_workflow(conn, status="running")
    (task,) = new_tasks(conn, workflow, "assigned")
    agent, orchestrator = session(), session()
    set_status(agent, task, "running")  # holds the task only
    waiting = in_background(transition, orchestrator, workflow, "cancelled")
    wait_until_blocked_by(conn, orchestrator.info.backend_pid, agent.info.backend_pid)
    set_status(agent, task, "completed")
    agent.commit()
    assert waiting.result(10).status == "cancelled"
    orchestrator.commit()
    assert counters(conn, workflow) == (1, 1, 0, 0)


def test_a_cancel_locks_tasks_in_the_order_in_which_batches_do(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, status="running")
    low, high = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
    for task in (high, low):  # the other way round in the table and in every index but that of ids
        conn.execute("insert into agent_task (id, workflow_id, agent_type) values (%s, %s, 'a')", [task, workflow])
    agent, orchestrator = session(), session()
    agent.execute("select from agent_task where id = %s for no key update", [low])
    waiting = in_background(transition, orchestrator, workflow, "cancelled")
    wait_until_blocked_by(conn, orchestrator.info.backend_pid, agent.info.backend_pid)
    agent.execute("set local lock_timeout = '2s'")
    agent.execute("select from agent_task where id = %s for no key update", [high])
    agent.commit()
    assert waiting.result(10).status == "cancelled"
    orchestrator.commit()


def test_tasks_that_come_after_a_cancel_are_settled_by_the_next(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    transition(conn, workflow, "cancelled")
    new_tasks(conn, workflow, "pending")
    assert transition(conn, workflow, "cancelled").version == 2
    assert counters(conn, workflow) == (1, 0, 0, 1)


# --- Rights -------------------------------------------------------------------------------------------------


@pytest.fixture
def role(conn: psycopg.Connection, dsn: str) -> Any:
    """A login role without any rights yet, and how to connect as it."""
    name = f"role_{conn.info.dbname}"
    conn.execute(f"create role {name} login")
    yield name
    conn.execute(f"drop owned by {name}")
    conn.execute(f"drop role {name}")


def test_an_agent_with_rights_on_tasks_only_reports_and_moves_no_workflow(
    conn: psycopg.Connection, dsn: str, role: str
) -> None:
    workflow = new_workflow(conn, status="running")
    conn.execute(f"grant select, insert, update on agent_task to {role}")
    with psycopg.connect(dsn, autocommit=True) as agent:
        agent.execute(f"set role {role}")
        (task,) = new_tasks(agent, workflow, "running")
        set_status(agent, task, "completed")
        times = "select started_at is not null, completed_at is not null from agent_task"
        assert agent.execute(times).fetchone() == (True, True)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            transition(agent, workflow, "completed")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            transition(agent, workflow, "cancelled")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("select advance_workflow(%s)", [workflow])
    assert progress(conn, workflow) == (100, 1, 1)


def test_an_orchestrator_needs_no_rights_on_what_the_triggers_write(
    conn: psycopg.Connection, dsn: str, role: str
) -> None:
    workflow = new_workflow(conn)
    conn.execute(f"grant select, insert, update on workflow, agent_task to {role}")
    with psycopg.connect(dsn, autocommit=True) as orchestrator:
        orchestrator.execute(f"set role {role}")
        orchestrator.execute("set search_path = pg_temp")
        assert transition(orchestrator, workflow, "running", stage="validation").version == 2
        assert transition(orchestrator, workflow, "cancelled").version == 3
    assert conn.execute("select count(*) from workflow_stage where status = 'failed'").fetchone() == (1,)
    by = conn.execute("select distinct payload ->> 'by' from workflow_event").fetchall()
    assert by == [(role,)]
