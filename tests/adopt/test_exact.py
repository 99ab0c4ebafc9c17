"""Adoptions of every shape: each number is what an independent count gives, whatever the application does."""

from collections.abc import Callable

import psycopg
import pytest

from .application import App
from .shapes import SHAPES, TIMES, Shape

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.title)
with_workflows = pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.workflows], ids=lambda shape: shape.title
)
Make = Callable[..., App]


@shapes
def test_what_is_there_is_counted(make: Make, shape: Shape) -> None:
    make(shape).assert_exact()


@shapes
def test_tables_without_rows_are_live_at_once(conn: psycopg.Connection, shape: Shape) -> None:
    if conn.info.server_version < shape.major * 10000:
        pytest.skip(f"needs PostgreSQL {shape.major}")
    app = App(conn, shape)
    app.create()
    app.run(f"delete from {shape.workflows}") if shape.workflows else None
    script = app.adopt("--print").out
    app.run(script)
    app.fill()
    app.assert_exact()


@shapes
def test_each_change_of_tasks_is_counted(make: Make, shape: Shape) -> None:
    app = make(shape)
    for n in (1, 2, 3):
        app.tasks(n, "pending")
        app.assert_exact()
        for state in ("running", "completed", "failed", "cancelled", "completed", "pending"):
            app.move(n, state, 2)
            app.assert_exact()
        app.move(n, "completed")
        app.assert_exact()
        app.rekey(n, 4, 2)
        app.assert_exact()
        app.remove(n, 2)
        app.assert_exact()
    app.run(f"update {shape.tasks} set n = n + 0")
    app.run(f"delete from {shape.tasks} where n > 100")
    app.assert_exact()


@shapes
def test_statements_over_many_workflows_are_counted(make: Make, shape: Shape) -> None:
    app = make(shape)
    for state in ("completed", "pending", "failed"):
        app.run(
            f"update {shape.tasks} as t set {shape.status} = {shape.states[state]} where n % 2 = 0 and {shape.counts}"
        )
        app.assert_exact()
    app.run(f"delete from {shape.tasks} where n = 1")
    app.assert_exact()
    app.run(f"truncate {shape.tasks} cascade")
    app.assert_exact()
    app.workflow(1, "completed", again="on conflict do nothing")
    app.assert_exact()


@shapes
def test_what_is_rolled_back_is_not_counted(make: Make, shape: Shape) -> None:
    app = make(shape)
    with app.conn.transaction(force_rollback=True):
        app.move(2, "completed")
        app.tasks(3, "failed", 4)
        app.remove(1)
    app.assert_exact()
    with app.conn.transaction():
        app.tasks(3, "failed", 4)
        with app.conn.transaction(force_rollback=True):
            app.move(3, "completed")
        app.move(1, "running")
    app.assert_exact()


@with_workflows
def test_deleting_a_workflow_leaves_nothing_of_it(make: Make, shape: Shape) -> None:
    app = make(shape)
    for n in (0, 2, 4):
        app.drop(n)
        app.assert_exact()
    if shape.deletes == "stay":
        app.run(f"delete from {shape.tasks} as t where {shape.keyed()}", **app.bind(2))
    where = " and ".join(f"key_{i + 1} = %(k{i + 1})s" for i in range(len(shape.read)))
    assert app.run(f"select from agent_progress.workflow_counter where {where}", **app.bind(2)).fetchall() == []
    app.workflow(2, "completed", "pending")
    app.assert_exact()


@with_workflows
def test_a_workflow_can_come_after_its_tasks(make: Make, shape: Shape) -> None:
    if shape.deletes not in ("stay", "refuse") or "restrict" in shape.ddl:
        pytest.skip("its key refuses that")
    app = make(shape)
    with app.conn.transaction():
        app.tasks(77, "completed", 2)
        app.tasks(77, "pending", 2)
        app.workflow(77, again="on conflict do nothing" if "make_flow" in shape.ddl else "")
    app.assert_exact()


@shapes
def test_one_statement_can_do_it_all(make: Make, shape: Shape) -> None:
    app = make(shape)
    app.run(
        f"with gone as (delete from {shape.tasks} as t where {shape.keyed()} and n > 1 returning n)"
        f" update {shape.tasks} as t set {shape.status} = {shape.states['completed']}"
        f" where {shape.keyed('m')}",
        **app.bind(4),
        **app.bind(2, "m"),
    )
    app.assert_exact()


@shapes
def test_repair_repairs_whatever_went_unseen(make: Make, shape: Shape) -> None:
    app = make(shape)
    app.run(f"alter table {shape.tasks} disable trigger user")
    app.move(1, "completed", 2)
    app.remove(2)
    app.tasks(3, "pending", 5)
    if not shape.workflows or shape.deletes == "stay":
        app.tasks(50, "completed", 2)
    app.run("delete from agent_progress.workflow_counter where agents_created = 200 and agents_completed = 1")
    app.run(f"alter table {shape.tasks} enable trigger user")
    assert len(app.drift()) >= 2
    app.run("select agent_progress.repair_progress()")
    app.assert_exact()


def test_three_published_columns_say_what_was_counted(make: Make) -> None:
    app = make(TIMES)
    app.run("update build set done = 77, percent = 3")
    app.move(4, "completed", 100)
    rows = app.run('select id, percent, done, "all" from build order by id').fetchall()
    stored = app.run(
        "select workflow_id, progress, agents_completed, agents_total from agent_progress.workflow_progress order by 1"
    )
    assert rows == stored.fetchall()
