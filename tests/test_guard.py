"""Nobody writes progress: what others write is put back, and status and plan move it as they should."""

import uuid

import psycopg
import pytest
from psycopg import errors

from .helpers import counters, new_tasks, new_workflow, progress, read_row, set_status

MADE_UP = {
    "progress": 77,
    "agents_completed": 7,
    "agents_total": 9,
    "agents_created": 9,
    "agents_failed": 1,
    "agents_cancelled": 1,
}


def test_a_workflow_inserted_with_null_counters_starts_at_zero(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, progress_updated_at=None, **dict.fromkeys(MADE_UP))
    assert (progress(conn, workflow), counters(conn, workflow)) == ((0, 0, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("column", [*MADE_UP, "progress_updated_at"])
def test_a_maintained_column_keeps_its_value_whatever_is_written(conn: psycopg.Connection, column: str) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "failed", "cancelled", "running", "running")
    before = read_row(conn, "workflow", workflow)
    for value in ["1999-01-01" if column == "progress_updated_at" else "77", None]:
        conn.execute(f"update workflow set {column} = %s", [value])
        assert read_row(conn, "workflow", workflow) == before


def test_the_mark_of_the_task_trigger_is_of_no_use_to_others(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    before = read_row(conn, "workflow", workflow)
    forged = ", ".join(f"{name} = {value}" for name, value in MADE_UP.items())
    for more in ("", ", name = name", ", status = status, version = version"):
        conn.execute(f"update workflow set progress_updated_at = 'epoch', {forged}{more}")
        assert read_row(conn, "workflow", workflow) == before


def test_a_trigger_on_another_table_cannot_write_counters_either(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed", "running")
    conn.execute("create table note (workflow_id uuid)")
    conn.execute(
        "create function touch() returns trigger language plpgsql as $$ begin"
        " update workflow set agents_completed = 7, agents_created = 9, progress_updated_at = now()"
        " where id = new.workflow_id; return null; end $$"
    )
    conn.execute("create trigger touch after insert on note for each row execute function touch()")
    before = read_row(conn, "workflow", workflow)
    conn.execute("insert into note values (%s)", [workflow])
    assert read_row(conn, "workflow", workflow) == before


def test_a_workflow_that_a_trigger_inserts_with_the_mark_starts_at_zero(conn: psycopg.Connection) -> None:
    conn.execute("""
        create table note (name text);
        create function make() returns trigger language plpgsql as $$ begin
            insert into workflow (name, type, agents_created, agents_completed, progress_updated_at)
            values (new.name, 'app', 9, 7, 'epoch');
            return null;
        end $$;
        create trigger make after insert on note for each row execute function make();
        insert into note values ('made');
    """)
    made = conn.execute("select id from workflow").fetchone()
    assert made is not None
    assert (progress(conn, made[0]), counters(conn, made[0])) == ((0, 0, 0), (0, 0, 0, 0))


def test_an_upsert_of_a_workflow_that_is_there_reads_none_of_its_tasks(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, *["completed"] * 50)
    upsert = (
        "insert into workflow (id, name, type) values (%s, 'again', 'app')"
        " on conflict (id) do update set name = excluded.name"
    )
    read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'agent_task'"
    with conn.transaction():
        before = conn.execute(read).fetchone()
        conn.execute(upsert, [workflow])
        assert conn.execute(read).fetchone() == before
    assert progress(conn, workflow) == (100, 50, 50)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ("status = 'completed'", 50),
        ("status = 'completed', progress = 100", 50),
        ("agents_planned = 8", 13),
        ("agents_planned = null, progress = 15", 50),
        ("current_stage = 'build', progress = 0", 25),
    ],
)
def test_what_an_update_returns_is_the_number_after_it(
    conn: psycopg.Connection, assignments: str, expected: int
) -> None:
    workflow = new_workflow(conn, agents_planned=4)
    new_tasks(conn, workflow, "completed", "running")
    assert conn.execute(f"update workflow set {assignments} returning progress").fetchone() == (expected,)
    assert progress(conn, workflow)[0] == expected


def test_thawing_moves_progress_updated_at_where_any_number_moves(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    task, *_ = new_tasks(conn, workflow, *["running"] * 500, *["completed"] * 501)
    for status in ("failed", "running", "completed", "running", "cancelled", "running"):
        conn.execute("update workflow set progress_frozen_at = now()")
        set_status(conn, task, status)
        before = read_row(conn, "workflow", workflow)
        conn.execute("update workflow set progress_frozen_at = null")
        after = read_row(conn, "workflow", workflow)
        # One of a thousand is not seen in the percentage.
        assert (after["progress"], after["agents_total"]) == (before["progress"], before["agents_total"])
        assert after["progress_updated_at"] > before["progress_updated_at"]


def test_thawing_keeps_progress_updated_at_from_being_written(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed")
    conn.execute("update workflow set progress_frozen_at = now()")
    before = read_row(conn, "workflow", workflow)
    conn.execute("update workflow set progress_frozen_at = null, progress_updated_at = '1999-01-01'")
    assert read_row(conn, "workflow", workflow) == before | {"progress_frozen_at": None}


# Triggers of the user's


def test_a_status_set_by_a_trigger_on_tasks_moves_total_and_progress(conn: psycopg.Connection) -> None:
    conn.execute("""
        create function finish() returns trigger language plpgsql as $$ begin
            update workflow as w set status = 'completed' where w.status <> 'completed' and not exists (
                select from agent_task as t where t.workflow_id = w.id and t.status < 'completed');
            return null;
        end $$;
        create trigger zz_finish after update on agent_task for each statement execute function finish();
    """)
    workflow = new_workflow(conn, agents_planned=10)
    tasks = new_tasks(conn, workflow, "running", "failed")
    set_status(conn, tasks[0], "completed")
    assert progress(conn, workflow) == (50, 1, 2)


def test_a_before_trigger_that_writes_progress_is_overruled(conn: psycopg.Connection) -> None:
    conn.execute("""
        create function by_stage() returns trigger language plpgsql as $$ begin
            new.progress := 15;
            return new;
        end $$;
        create trigger z_by_stage before insert or update on workflow for each row execute function by_stage();
        create function by_hand() returns trigger language plpgsql as $$ begin
            new.agents_total := 3;
            return new;
        end $$;
    """)
    conn.execute("create trigger z_by_hand before insert or update on workflow for each row execute function by_hand()")
    workflow = new_workflow(conn)
    assert progress(conn, workflow) == (0, 0, 0)
    tasks = new_tasks(conn, workflow, "running", "running")
    set_status(conn, tasks[0], "completed")
    assert progress(conn, workflow) == (50, 1, 2)
    conn.execute("update workflow set current_stage = 'build'")
    assert progress(conn, workflow) == (50, 1, 2)


def test_a_before_trigger_that_changes_the_plan_is_heeded(conn: psycopg.Connection) -> None:
    conn.execute("""
        create function at_least_four() returns trigger language plpgsql as $$ begin
            new.agents_planned := greatest(new.agents_planned, 4);
            return new;
        end $$;
        create trigger plan before insert or update on workflow for each row execute function at_least_four();
    """)
    workflow = new_workflow(conn)
    new_tasks(conn, workflow, "completed")
    assert progress(conn, workflow) == (25, 1, 4)


# What is refused


def test_a_negative_plan_is_refused_with_a_hint(conn: psycopg.Connection) -> None:
    new_workflow(conn, agents_planned=3)
    for statement in (
        "insert into workflow (name, type, agents_planned) values ('w', 'app', -1)",
        "insert into workflow (name, type, agents_planned, progress_frozen_at) values ('w', 'app', -1, now())",
        "update workflow set agents_planned = -1",
        "update workflow set agents_planned = -1, progress_frozen_at = now()",
    ):
        with pytest.raises(errors.CheckViolation, match="agents_planned is -1") as refused:
            conn.execute(statement)
        assert refused.value.diag.message_hint
    assert conn.execute("select agents_planned from workflow").fetchall() == [(3,)]


# Keys that change


@pytest.mark.parametrize("frozen", [False, True], ids=["as it is", "while it thaws"])
def test_a_workflow_whose_id_changes_keeps_exact_numbers_where_keys_cascade(
    conn: psycopg.Connection, frozen: bool
) -> None:
    conn.execute("""
        alter table agent_task drop constraint agent_task_workflow_id_fkey;
        alter table agent_task add constraint agent_task_workflow_id_fkey
            foreign key (workflow_id) references workflow (id) on update cascade on delete cascade;
    """)
    workflow, renamed = new_workflow(conn, agents_planned=5), uuid.uuid4()
    new_tasks(conn, workflow, "completed", "completed", "failed", "running")
    conn.execute("update workflow set progress_frozen_at = %s", ["now" if frozen else None])
    conn.execute("update workflow set id = %s, progress_frozen_at = null, agents_created = 9", [renamed])
    assert (progress(conn, renamed), counters(conn, renamed)) == ((40, 2, 5), (4, 2, 1, 0))


def test_a_frozen_workflow_whose_id_changes_keeps_its_counters(conn: psycopg.Connection) -> None:
    workflow, renamed = new_workflow(conn, progress_frozen_at="now", **MADE_UP), uuid.uuid4()
    conn.execute("update workflow set id = %s, progress = 1 where id = %s", [renamed, workflow])
    assert progress(conn, renamed) == (77, 7, 9)
