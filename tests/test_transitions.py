"""Status, stage and version of a workflow: where it may go, who wins a race, and what readers see."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from .conftest import Role
from .helpers import (
    counters,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    read_row,
    row_version,
    set_status,
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]
STATUSES = ("initiated", "running", "paused", "completed", "failed", "cancelled")
SETTLED = ("completed", "failed", "cancelled")
ALLOWED = {
    "initiated": ("running", "paused", "completed", "failed", "cancelled"),
    "running": ("paused", "completed", "failed", "cancelled"),
    "paused": ("running", "completed", "failed", "cancelled"),
    "completed": (),
    "failed": ("running",),
    "cancelled": ("running",),
}
NO_ONE = "00000000-0000-0000-0000-000000000000"
HIGHEST = 2147483647


def state(conn: psycopg.Connection, workflow: Any) -> tuple[str, str, int]:
    return conn.execute("select status, current_stage, version from workflow where id = %s", [workflow]).fetchone()


def move(conn: psycopg.Connection, workflow: Any, status: str) -> None:
    conn.execute("update workflow set status = %s where id = %s", [status, workflow])


def transition(conn: psycopg.Connection, workflow: Any, status: str, *rest: Any) -> dict[str, Any]:
    """Call the function, with a stage and an expected version if they are given; return its row."""
    with conn.cursor(row_factory=dict_row) as cursor:
        casts = "".join([", %s::text", ", %s::integer"][: len(rest)])
        query = f"select * from transition_workflow(%s, %s{casts})"
        return cursor.execute(query, [workflow, status, *rest]).fetchone()


def refusal(act: Callable[..., Any], *arguments: Any) -> tuple[str | None, str | None]:
    """Return the SQLSTATE and the message of a refusal."""
    with pytest.raises(psycopg.Error) as refused:
        act(*arguments)
    return refused.value.sqlstate, refused.value.diag.message_primary


# --- What is allowed ----------------------------------------------------------------------------------------


def test_every_pair_of_states_is_allowed_or_refused_as_the_table_says(conn: psycopg.Connection) -> None:
    for old, new, way in product(STATUSES, STATUSES, (move, transition)):
        workflow = new_workflow(conn, status=old)
        [task] = new_tasks(conn, workflow, "running")
        before = row_version(conn, workflow)
        if new in ALLOWED[old]:
            way(conn, workflow, new)
            assert state(conn, workflow) == (new, "initialization", 2)
            row = conn.execute("select completed_at is not null from workflow where id = %s", [workflow]).fetchone()
            assert row == (new in SETTLED,)
        elif new == old:
            way(conn, workflow, new)
            assert state(conn, workflow) == (old, "initialization", 1)
        else:
            allowed = ", ".join(ALLOWED[old]) or "none"
            message = f"workflow {workflow} cannot go from {old} to {new}; allowed from {old}: {allowed}"
            assert refusal(way, conn, workflow, new) == ("WP002", message)
            assert row_version(conn, workflow) == before
            assert conn.execute("select status from agent_task where id = %s", [task]).fetchone() == ("running",)


def test_rows_of_the_table_change_the_rule(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="completed")
    conn.execute("insert into workflow_transition values ('completed', 'running')")
    assert transition(conn, workflow, "running")["status"] == "running"
    conn.execute("delete from workflow_transition where from_status = 'running' and to_status <> 'failed'")
    assert str(refusal(transition, conn, workflow, "paused")[1]).endswith("allowed from running: failed")


@pytest.mark.parametrize("status", ["initiated", "running", "cancelled"])
def test_an_unknown_workflow_is_not_found(conn: psycopg.Connection, status: str) -> None:
    not_found = ("P0002", f"workflow {NO_ONE} not found")
    assert refusal(transition, conn, NO_ONE, status) == not_found
    assert refusal(transition, conn, NO_ONE, status, None, 1) == not_found
    assert refusal(conn.execute, "select transition_workflow(null, 'running')")[0] == "P0002"


def test_an_unknown_status_is_refused_as_what_it_is(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    assert refusal(transition, conn, workflow, "done")[0] == "22P02"
    assert refusal(conn.execute, "update workflow set status = null")[0] == "23502"


def test_a_refused_transition_ends_the_statement_for_all_its_workflows(conn: psycopg.Connection) -> None:
    good, bad = new_workflow(conn, status="running"), new_workflow(conn, status="completed")
    assert refusal(conn.execute, "update workflow set status = 'paused'")[0] == "WP002"
    assert (state(conn, good)[0], state(conn, bad)[0]) == ("running", "completed")


def test_what_a_before_trigger_makes_of_a_status_is_checked(conn: psycopg.Connection) -> None:
    conn.execute("""
        create function reopen() returns trigger language plpgsql as $$ begin
            if new.status = 'failed' then new.status := 'initiated'; end if;
            return new;
        end $$;
        create trigger z_reopen before update on workflow for each row execute function reopen();
    """)
    workflow = new_workflow(conn, status="running")
    assert "cannot go from running to initiated" in str(refusal(move, conn, workflow, "failed")[1])


# --- Version and updated_at ---------------------------------------------------------------------------------


def stamps(conn: psycopg.Connection, workflow: Any) -> tuple[int, datetime]:
    return conn.execute("select version, updated_at from workflow where id = %s", [workflow]).fetchone()


def test_a_change_of_status_or_stage_moves_version_and_updated_at(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    seen = [stamps(conn, workflow)]
    for change in ("status = 'running'", "current_stage = 'validation'", "status = 'paused', current_stage = 'x'"):
        conn.execute(f"update workflow set {change}")
        seen.append(stamps(conn, workflow))
    assert [version for version, _ in seen] == [1, 2, 3, 4]
    assert [at for _, at in seen] == sorted({at for _, at in seen})


@pytest.mark.parametrize("status", STATUSES)
def test_the_same_status_again_changes_nothing(conn: psycopg.Connection, status: str) -> None:
    workflow = new_workflow(conn, status=status)
    columns = "select status, current_stage, version, updated_at, completed_at from workflow"
    before = conn.execute(columns).fetchone()
    transition(conn, workflow, status)
    transition(conn, workflow, status, "initialization", 1)
    move(conn, workflow, status)
    assert conn.execute(columns).fetchone() == before
    assert conn.execute("select count(*) from workflow_event").fetchone() == (0,)


MOVES = ["status = 'paused'", "current_stage = 'validation'", "status = 'paused', current_stage = 'validation'"]
STAYS = ["name = 'w'", "status = 'running'", "status = 'running', current_stage = 'initialization'"]


@pytest.mark.parametrize(
    "form",
    [
        "update workflow set version = {}, {}",
        "insert into workflow (id, name, type, version) select id, name, type, {} from workflow"
        " on conflict (id) do update set version = excluded.version, {}",
    ],
    ids=["update", "upsert"],
)
def test_a_version_that_a_client_writes_neither_falls_nor_jumps(conn: psycopg.Connection, form: str) -> None:
    workflow = new_workflow(conn, status="running", version=5)
    for written, assignments in product((-1, 1, 4, 5, 6, 7, 100, HIGHEST), (*MOVES, *STAYS)):
        moves = assignments in MOVES
        statement = form.format(written, assignments)
        with conn.transaction(force_rollback=True):
            if moves and written < 5:
                assert refusal(conn.execute, statement) == (
                    "WP001",
                    f"workflow {workflow} has moved on: it is running, stage initialization, version 5,"
                    f" and not as in version {written}",
                )
            else:
                conn.execute(statement)
                # Who counts versions himself writes the next one, and it is kept.
                expected = 6 if moves or written == 6 else 5
                assert stamps(conn, workflow)[0] == expected, (written, assignments)


def test_a_stale_swap_fails_whatever_was_written_to_the_version_in_between(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    swap = "update workflow set status = %s, version = version + 1 where version = %s"
    assert conn.execute(swap, ["paused", 1]).rowcount == 1
    conn.execute("update workflow set version = 1")
    conn.execute("update workflow set version = 0, name = 'other'")
    assert conn.execute(swap, ["failed", 1]).rowcount == 0
    assert refusal(transition, conn, workflow, "failed", None, 1)[0] == "WP001"
    assert conn.execute(swap, ["running", 2]).rowcount == 1
    assert state(conn, workflow) == ("running", "initialization", 3)


@pytest.mark.parametrize("version", [HIGHEST - 1, HIGHEST])
def test_a_workflow_with_the_highest_version_is_not_stuck(conn: psycopg.Connection, version: int) -> None:
    workflow = new_workflow(conn, status="running", version=version)
    for statement in (
        "update workflow set status = 'paused'",
        "update workflow set status = status, current_stage = current_stage, version = version, name = 'saved whole'",
        "update workflow set current_stage = 'validation'",
        "update workflow set version = 1",
        "update workflow set version = 2147483647",
    ):
        conn.execute(statement)
    assert state(conn, workflow) == ("paused", "validation", HIGHEST)


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
    assert transition(conn, workflow, "paused", None, before[0])["version"] == 2


def test_a_status_set_by_a_trigger_on_tasks_moves_the_version_and_is_checked(conn: psycopg.Connection) -> None:
    conn.execute("""
        create function end_workflow() returns trigger language plpgsql as $$ begin
            update workflow set status = 'failed' where id = new.workflow_id;
            return null;
        end $$;
        create trigger end_workflow after update on agent_task for each row
            when (new.status = 'failed') execute function end_workflow();
    """)
    workflow = new_workflow(conn, status="running")
    [task, other] = new_tasks(conn, workflow, "running", "running")
    set_status(conn, task, "failed")
    assert (state(conn, workflow), counters(conn, workflow)) == (("failed", "initialization", 2), (2, 0, 1, 0))
    assert conn.execute("select payload ->> 'to' from workflow_event").fetchall() == [("failed",)]
    conn.execute("update workflow set status = 'running'")
    conn.execute("delete from workflow_transition where to_status = 'failed'")
    assert "cannot go from running to failed" in str(refusal(set_status, conn, other, "failed")[1])


# --- Rows written back --------------------------------------------------------------------------------------


def write_back(conn: psycopg.Connection, row: dict[str, Any], **changes: Any) -> None:
    """Save a row as ORMs do: every column, as it was read but for the changes."""
    row = row | changes
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in row if name != "id"
    )
    conn.execute(sql.SQL("update workflow set {} where id = %(id)s").format(assignments), row)


@pytest.mark.parametrize("change", [{"status": "running"}, {"current_stage": "scaffolding"}])
def test_a_stale_row_written_back_does_not_revert_what_happened_since(
    conn: psycopg.Connection, change: dict[str, str]
) -> None:
    workflow = new_workflow(conn, status="running", current_stage="scaffolding")
    stale = read_row(conn, "workflow", workflow)
    transition(conn, workflow, "paused", "validation")
    before = row_version(conn, workflow)
    saved = stale | {"status": "paused", "current_stage": "validation"} | change
    assert refusal(write_back, conn, saved)[0] == "WP001"
    assert row_version(conn, workflow) == before


def test_a_stale_row_with_the_same_status_and_stage_changes_the_rest_and_not_the_version(
    conn: psycopg.Connection,
) -> None:
    workflow = new_workflow(conn, status="running")
    stale = read_row(conn, "workflow", workflow)
    transition(conn, workflow, "paused")
    transition(conn, workflow, "running")
    new_tasks(conn, workflow, "completed")
    before = stamps(conn, workflow)
    write_back(conn, stale, description="told")
    assert stamps(conn, workflow) == before
    assert read_row(conn, "workflow", workflow)["description"] == "told"
    assert progress(conn, workflow) == (100, 1, 1)


def test_a_current_row_written_back_whole_moves_status_and_version(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    write_back(conn, read_row(conn, "workflow", workflow), status="completed")
    assert state(conn, workflow) == ("completed", "initialization", 2)
    later = datetime(2999, 1, 1, tzinfo=UTC)
    write_back(conn, read_row(conn, "workflow", workflow), updated_at=later)
    assert stamps(conn, workflow) == (2, later)
    write_back(conn, read_row(conn, "workflow", workflow), updated_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert stamps(conn, workflow) == (2, later)


# --- completed_at -------------------------------------------------------------------------------------------


def test_completed_at_comes_and_goes_with_the_status(conn: psycopg.Connection) -> None:
    given = datetime(2020, 2, 2, tzinfo=UTC)
    workflow = new_workflow(conn, status="running")
    seen: list[datetime | None] = []
    for assignments in (
        "status = 'failed'",
        "status = 'failed', completed_at = null",
        "status = 'running'",
        "status = 'running', completed_at = now()",
        "status = 'completed', completed_at = '2020-02-02 00:00Z'",
    ):
        conn.execute(f"update workflow set {assignments}")
        seen.append(read_row(conn, "workflow", workflow)["completed_at"])
    assert seen[0] is not None
    assert seen == [seen[0], seen[0], None, None, given]


def test_a_workflow_ended_again_has_the_time_of_that(conn: psycopg.Connection) -> None:
    conn.execute("insert into workflow_transition values ('failed', 'cancelled')")
    workflow = new_workflow(conn, status="failed")
    before = read_row(conn, "workflow", workflow)["completed_at"]
    move(conn, workflow, "cancelled")
    assert read_row(conn, "workflow", workflow)["completed_at"] > before


@pytest.mark.parametrize("status", STATUSES)
def test_an_inserted_workflow_has_the_completed_at_of_its_status(conn: psycopg.Connection, status: str) -> None:
    given = datetime(2020, 2, 2, tzinfo=UTC)
    left_out = read_row(conn, "workflow", new_workflow(conn, status=status))["completed_at"]
    told = read_row(conn, "workflow", new_workflow(conn, status=status, completed_at=given))["completed_at"]
    assert ((left_out is not None), told) == (status in SETTLED, given if status in SETTLED else None)


# --- Compare and swap ---------------------------------------------------------------------------------------


def test_a_swap_succeeds_with_the_version_that_is_stored_and_only_with_that(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    assert transition(conn, workflow, "running", None, 1)["version"] == 2
    moved_on = f"workflow {workflow} has moved on: it is running, stage initialization, version 2, and not version "
    for version in (1, 3):
        assert refusal(transition, conn, workflow, "paused", None, version) == ("WP001", f"{moved_on}{version}")
    assert transition(conn, workflow, "paused", None, 2)["version"] == 3


def test_a_lost_swap_to_cancelled_leaves_the_tasks_alone(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, status="running")
    new_tasks(conn, workflow, "running", "completed")
    assert refusal(transition, conn, workflow, "cancelled", None, 5)[0] == "WP001"
    assert counters(conn, workflow) == (2, 1, 0, 0)


def test_a_transition_returns_the_row_as_it_is_committed(conn: psycopg.Connection, session: Session) -> None:
    workflow = new_workflow(conn, type="planned")
    conn.execute("insert into stage_definition values ('planned', 0, 'initialization', 1, 4)")
    new_tasks(conn, workflow, "completed")
    writer = session()
    returned = writer.execute("select w::text from transition_workflow(%s, 'running') as w", [workflow]).fetchone()
    writer.commit()
    assert conn.execute("select w::text from workflow as w").fetchone() == returned
    assert progress(conn, workflow) == (25, 1, 4)


# --- Two sessions -------------------------------------------------------------------------------------------


# What one does, how it ends, what the other then does, and how that ends: a status, or an error.
RACES = [
    pytest.param("failed", "rollback", ("paused", None, 1), "paused", id="a swap after one who gave up"),
    pytest.param("completed", "commit", ("completed",), "completed", id="the same transition"),
    pytest.param("completed", "commit", ("failed",), "WP002", id="another one that is not allowed any more"),
    pytest.param("paused", "commit", ("failed",), "failed", id="another one that still is"),
    pytest.param("paused", "commit", ("failed", None, 1), "WP001", id="a stale swap"),
    pytest.param("completed", "commit", ("completed", None, 1), "WP001", id="the same swap"),
]


@pytest.mark.parametrize(("first_move", "end", "second_move", "outcome"), RACES)
def test_who_waited_is_judged_by_what_the_other_left(
    conn: psycopg.Connection, session: Session, first_move: str, end: str, second_move: tuple[Any, ...], outcome: str
) -> None:
    workflow = new_workflow(conn, status="running")
    first, second = session(), session()
    transition(first, workflow, first_move)
    waiting = in_background(transition, second, workflow, *second_move)
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    getattr(first, end)()
    if outcome.startswith("WP"):
        assert refusal(waiting.result, 60)[0] == outcome
        second.rollback()
    else:
        assert waiting.result(60)["status"] == outcome
        second.commit()
    expected = first_move if outcome.startswith("WP") else outcome
    made = len({*([first_move] if end == "commit" else []), *([] if outcome.startswith("WP") else [outcome])})
    assert state(conn, workflow) == (expected, "initialization", 1 + made)
    assert conn.execute("select count(*) from workflow_event").fetchone() == (made,)


# --- Cancelling ---------------------------------------------------------------------------------------------


def test_cancelling_settles_the_open_tasks_and_no_others(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn, status="running"), new_workflow(conn, status="running")
    new_tasks(conn, workflow, "pending", "assigned", "running", "completed", "failed", "cancelled")
    new_tasks(conn, other, "running")
    settled = "select id, completed_at from agent_task where id = any (%s) order by id"
    kept = [row[0] for row in conn.execute("select id from agent_task where status >= 'completed'").fetchall()]
    before = conn.execute(settled, [kept]).fetchall()
    moved = transition(conn, workflow, "cancelled")
    assert (moved["status"], moved["version"], moved["completed_at"] is not None) == ("cancelled", 2, True)
    assert (counters(conn, workflow), counters(conn, other)) == ((6, 1, 1, 4), (1, 0, 0, 0))
    assert conn.execute(settled, [kept]).fetchall() == before
    # Those that come later are settled by the next.
    new_tasks(conn, workflow, "pending")
    assert transition(conn, workflow, "cancelled")["version"] == 2
    assert counters(conn, workflow) == (7, 1, 1, 5)


@pytest.mark.parametrize("reports_first", [True, False])
def test_cancelling_waits_for_an_agent_that_holds_its_task_and_keeps_what_it_reports(
    conn: psycopg.Connection, session: Session, reports_first: bool
) -> None:
    # The other way round, workflow first and tasks later, the two would deadlock.
    workflow = new_workflow(conn, status="running")
    task, _ = new_tasks(conn, workflow, "assigned", "running")
    agent, orchestrator = session(), session()
    set_status(agent, task, "completed" if reports_first else "running")
    waiting = in_background(transition, orchestrator, workflow, "cancelled")
    wait_until_blocked_by(conn, orchestrator.info.backend_pid, agent.info.backend_pid)
    set_status(agent, task, "completed")
    agent.commit()
    assert waiting.result(60)["status"] == "cancelled"
    orchestrator.commit()
    assert counters(conn, workflow) == (2, 1, 0, 1)


def test_a_cancel_locks_tasks_in_the_order_in_which_batches_do(conn: psycopg.Connection, session: Session) -> None:
    workflow = new_workflow(conn, status="running")
    low, high = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
    for task in (high, low):  # the other way round in the table and in every index but that of ids
        conn.execute("insert into agent_task (id, workflow_id, agent_type) values (%s, %s, 'a')", [task, workflow])
    agent, orchestrator = session(), session()
    agent.execute("select from agent_task where id = %s for no key update", [low])
    waiting = in_background(transition, orchestrator, workflow, "cancelled")
    wait_until_blocked_by(conn, orchestrator.info.backend_pid, agent.info.backend_pid)
    agent.execute("select from agent_task where id = %s for no key update nowait", [high])
    agent.commit()
    assert waiting.result(60)["status"] == "cancelled"
    orchestrator.commit()


# --- Rights -------------------------------------------------------------------------------------------------


def test_an_orchestrator_needs_no_rights_on_what_the_triggers_write(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    workflow, role = new_workflow(conn), new_role()
    conn.execute(f"grant select, insert, update on workflow, agent_task to {role.name}")
    orchestrator = role.connect()
    orchestrator.execute("set search_path = pg_temp")
    for version, status in ((2, "running"), (3, "cancelled")):
        query = "select version from public.transition_workflow(%s, %s)"
        assert orchestrator.execute(query, [workflow, status]).fetchone() == (version,)
    assert conn.execute("select count(*) from workflow_stage where status = 'failed'").fetchone() == (1,)
    assert conn.execute("select distinct payload ->> 'by' from workflow_event").fetchall() == [(role.name,)]
