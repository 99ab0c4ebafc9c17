"""Whatever becomes of our objects and of the application's columns: its writes go through, check tells, adopt mends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from .application import App, cli, succeed
from .schemas import DJANGO, LOOSE, PRISMA

Make = Callable[..., App]
both_modes = pytest.mark.parametrize("columns", [False, True], ids=["side", "columns"])

# The ways to break it: what is done, and how the application goes on; the last may no longer name a column.
OURS = {
    "a function": "drop function agent_progress.maintain_progress cascade",
    "the formula": "drop function agent_progress.progress_percentage cascade",
    "the counting of views": "drop function agent_progress.count_tasks cascade",
    "a trigger": "drop trigger agent_task_progress_update on <tasks>",
    "a disabled trigger": "alter table <tasks> disable trigger agent_task_progress_insert",
    "a view": "drop view agent_progress.workflow_progress",
}
SIDE = {
    "the table of counters": "drop table agent_progress.workflow_counter cascade",
    "its trigger": "drop trigger workflow_counter_publish on agent_progress.workflow_counter",
    "the trigger that follows": "drop trigger workflow_progress_follow_insert on <workflows>",
    "the guard of progress": "drop trigger zz_workflow_progress_guard on <workflows>",
}
COLUMNS = {
    "all columns": "alter table <workflows> drop column agents_completed, drop column agents_total,"
    " drop column agents_planned, drop column agents_created, drop column agents_failed, drop column agents_cancelled,"
    " drop column progress_updated_at, drop column progress_frozen_at",
    "a counter": "alter table <workflows> drop column agents_completed",
    "the mark of what is frozen": "alter table <workflows> drop column progress_frozen_at",
    "the guard": "drop trigger zz_workflow_progress_guard on <workflows>",
}
BROKEN = [
    *(pytest.param(False, text, id=f"side-{what}") for what, text in {**OURS, **SIDE}.items()),
    *(pytest.param(True, text, id=f"columns-{what}") for what, text in {**OURS, **COLUMNS}.items()),
]


def work(app: App) -> None:
    """Write as the application always does, in the sessions that it has already."""
    app.workflow(60, "pending", "completed")
    app.move(app.key(1), "completed", 2)
    app.move(app.key(2), "running")
    app.tasks(app.key(3), "pending", 2)
    app.run("delete from <tasks> where <t_workflow> = %(w)s and <n> = 1", w=app.key(5))
    app.run("update <workflows> set <version> = <version> + 1")
    if app.shape.w_done and app.shape.w_done != "gone":
        app.finish(app.key(1))
    with app.conn.transaction():
        app.run("delete from <tasks> where <t_workflow> = %(w)s", w=app.key(4))
        app.run("delete from <workflows> where <w_id> = %(w)s", w=app.key(4))


@pytest.mark.parametrize(("columns", "broken"), BROKEN)
def test_without_a_part_of_ours_writes_go_on_and_adopt_again_mends(make: Make, columns: bool, broken: str) -> None:
    app = make(DJANGO, columns=columns)
    work_once(app)
    app.run(broken)
    work(app)
    told = cli(app.dsn, "check", "--name", "default")
    assert (told.code, "missing: " in told.out) == (1, True)
    assert "agent-progress adopt --name default" in told.err
    succeed(app.dsn, "adopt")
    app.assert_exact()
    app.check()
    app.move(app.key(2), "completed")
    app.assert_exact()


def work_once(app: App) -> None:
    """Let this session plan and cache what our triggers do."""
    app.move(app.key(1), "running", 1)
    app.run("update <workflows> set <version> = <version>")
    app.workflow(61, "completed")


@both_modes
def test_without_the_whole_schema_writes_go_on_and_adopt_anew_counts(make: Make, columns: bool) -> None:
    app = make(PRISMA, columns=columns)
    work_once(app)
    app.run("drop schema agent_progress cascade")
    work(app)
    assert cli(app.dsn, "check", "--name", "default").code == 2
    app.adopt()
    app.assert_exact()
    app.check()


@both_modes
def test_without_the_record_adopt_finds_its_things_and_recounts(make: Make, columns: bool) -> None:
    app = make(PRISMA, columns=columns)
    app.run("drop trigger agent_task_progress_update on <tasks>")
    app.run("drop table agent_progress.adoption")
    work(app)
    app.adopt()
    app.assert_exact()
    app.check()


@both_modes
@pytest.mark.parametrize("column", ["progress", "t_status", "w_status"])
def test_without_a_column_of_the_application_writes_go_on(make: Make, columns: bool, column: str) -> None:
    app = make(DJANGO, columns=columns)
    work_once(app)
    table = "<tasks>" if column.startswith("t") else "<workflows>"
    app.run(f"alter table {table} rename column <{column}> to was")
    app.run("insert into <workflows> (<w_id>) values (70)")
    app.run("insert into <tasks> (<t_workflow>) values (70)")
    app.run("update <tasks> set urgent = true")
    app.run("update <workflows> set <version> = <version> + 1")
    app.run("delete from <tasks> where <t_workflow> = %(w)s", w=app.key(4))
    app.run("delete from <workflows> where <w_id> = %(w)s", w=app.key(4))
    told = cli(app.dsn, "check", "--name", "default")
    assert (told.code, f'"{app.shape.names[column]}"' in told.out) == (1, True)
    app.run("select * from agent_progress.workflow_progress")
    if not (columns and column == "progress"):  # that one we add, as any other of the columns
        refused = cli(app.dsn, "adopt")
        assert (refused.code, "is gone: put it back" in refused.err) == (2, True)
    app.run(f"alter table {table} rename column was to <{column}>")
    succeed(app.dsn, "adopt")
    app.assert_exact()
    app.check()


@both_modes
def test_a_status_under_a_new_name_is_told_to_adopt(make: Make, columns: bool) -> None:
    app = make(DJANGO, columns=columns)
    work_once(app)
    app.run("alter table <tasks> rename column <t_status> to phase")
    app.run("update <tasks> set phase = 'completed' where <n> <= 2")
    app.shape = replace(app.shape, names={**app.shape.names, "t_status": "phase"})
    app.adopt()
    app.assert_exact()
    app.move(app.key(1), "failed")
    app.assert_exact()
    app.check()


@both_modes
def test_the_status_enum_is_retyped_as_prisma_does_it_and_open_sessions_count_on(
    make: Make, columns: bool, session: Callable[[], Any]
) -> None:
    app = make(PRISMA, columns=columns)
    work_once(app)
    for table, column, type_, labels in (
        ("tasks", "t_status", "t_type", [*app.shape.labels.values(), "PAUSED"]),
        ("workflows", "w_status", "w_type", ["RUNNING", "COMPLETED", "CANCELLED"]),
    ):
        listed = ", ".join(f"'{label}'" for label in labels)
        with app.conn.transaction():
            app.run(f'create type "{type_}_new" as enum ({listed})')
            app.run(f"alter table <{table}> alter column <{column}> drop default")
            app.run(
                f'alter table <{table}> alter column <{column}> type "{type_}_new"'
                f' using (<{column}>::text::"{type_}_new")'
            )
            app.run(f'alter type <{type_}> rename to "{type_}_old"')
            app.run(f'alter type "{type_}_new" rename to <{type_}>')
            app.run(f'drop type "{type_}_old"')
            app.run(f"alter table <{table}> alter column <{column}> set default '{labels[0]}'")
    counters = "<workflows>" if columns else "agent_progress.workflow_counter"
    app.plans[str(app.key(2))] = 50
    app.run(f"update {counters} set agents_planned = 50 where {'<w_id>' if columns else 'id'} = %(w)s", w=app.key(2))
    app.assert_exact()
    app.workflow(62, "completed", "running")
    app.move(app.key(1), "completed", 2)
    app.run("update <tasks> set <t_status> = 'PAUSED' where <t_workflow> = %(w)s", w=app.key(3))
    app.finish(app.key(2))  # its plan no longer counts
    app.assert_exact()
    app.check()


@both_modes
def test_other_columns_are_added_dropped_and_retyped_without_cascade(make: Make, columns: bool) -> None:
    app = make(DJANGO, columns=columns)
    work_once(app)
    app.run("alter table <workflows> add column extra jsonb, alter column name type text, drop column created")
    app.run("alter table <tasks> add column extra jsonb default '{}', drop column urgent")
    app.run("alter table <tasks> alter column <t_status> type text, alter column <n> type bigint")
    app.run("alter table <workflows> alter column <w_status> type text")
    app.run("alter table <workflows> alter column <touched> type date")
    work(app)
    app.assert_exact()
    assert app.run("select name from agent_progress.workflow_progress limit 1").fetchall() == [("w",)]
    succeed(app.dsn, "list", "--name", "default")
    app.check()


def test_progress_retyped_to_text_is_written_no_more_but_counted(make: Make) -> None:
    app = make(LOOSE)
    work_once(app)
    app.run("alter table <workflows> alter column <progress> type text")
    work(app)
    app.run("alter table <workflows> alter column <progress> type integer using (<progress>::numeric::integer)")
    counted, stored = app.counted(), app.stored()
    frozen = {str(key) for key in app.frozen}
    assert {k: v for k, v in stored.items() if k not in frozen} == {k: v for k, v in counted.items() if k not in frozen}
    succeed(app.dsn, "adopt")
    app.assert_exact()
