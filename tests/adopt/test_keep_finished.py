"""Finished work stays finished where the application deletes it, for every deletion that a queue's pruner does."""

import json
from collections.abc import Callable
from hashlib import md5

import psycopg
import pytest

from .application import App
from .shapes import AIRFLOW, BY_TRIGGER, JSON_JOBS, ONE_TABLE, PARTITIONED, SHARDED, SOFT, Shape

SHAPES = (AIRFLOW, JSON_JOBS, ONE_TABLE, PARTITIONED, BY_TRIGGER, SHARDED)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.title)
Make = Callable[..., App]
KEEP = "--keep-finished"


def numbers(app: App, n: int) -> tuple[int, ...] | None:
    """Progress, completed and total of a workflow."""
    from .application import workflow_id

    stored = app.stored().get(workflow_id(app.key(n)))
    assert app.drift() == []
    return stored[:3] if stored else None


@shapes
def test_completed_and_cancelled_tasks_of_a_finished_workflow_stay_counted(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, *["completed"] * 7, *["failed"] * 3)
    app.run(f"delete from {shape.tasks} as t where {shape.keyed()} and {shape.test('completed')}", **app.bind(20))
    assert numbers(app, 20) == (70, 7, 10)
    app.remove(20)  # the failed ones: gone, as they may be tried again
    assert numbers(app, 20) == (100, 7, 7)
    app.workflow(21, *["completed"] * 2, "cancelled")
    for _ in range(3):
        app.run(
            f"delete from {shape.tasks} where ctid ="
            f" (select ctid from {shape.tasks} as t where {shape.keyed()} limit 1)",
            **app.bind(21),
        )
        assert numbers(app, 21) == (67, 2, 3)
    succeeded = app.run("select * from agent_progress.repair_progress()").fetchall()
    assert succeeded == []
    assert app.check().code == 0


@shapes
def test_open_tasks_deleted_by_the_same_statement_are_gone_first(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, "completed", "completed", "pending", "failed")
    app.remove(20)
    assert numbers(app, 20) == (100, 2, 2)


@shapes
def test_completed_tasks_of_an_open_workflow_are_gone_with_their_rows(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, "completed", "completed", "pending")
    app.run(f"delete from {shape.tasks} as t where {shape.keyed()} and {shape.test('completed')}", **app.bind(20))
    assert numbers(app, 20) == (0, 0, 1)


@shapes
def test_deleted_and_inserted_anew_in_a_transaction_is_tried_again(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, "completed", "completed")
    with app.conn.transaction():
        app.remove(20)
        app.tasks(20, "pending", 2)
    assert numbers(app, 20) == (0, 0, 2)
    app.move(20, "completed")
    assert numbers(app, 20) == (100, 2, 2)
    with app.conn.transaction():
        app.remove(20, 1)
        app.tasks(20, "completed")
        app.tasks(20, "pending")
    assert numbers(app, 20) == (67, 2, 3)


@shapes
def test_what_was_kept_goes_along_with_a_change_of_key(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, "completed", "completed", "failed")
    app.workflow(21)
    app.run(f"delete from {shape.tasks} as t where {shape.keyed()} and {shape.test('completed')}", **app.bind(20))
    assert numbers(app, 20) == (67, 2, 3)
    app.rekey(20, 21)
    assert numbers(app, 21) == (67, 2, 3)
    assert numbers(app, 20) in (None, (0, 0, 0))


@shapes
def test_truncation_starts_anew(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    app.workflow(20, "completed", "completed")
    app.remove(20)
    assert numbers(app, 20) == (100, 2, 2)
    app.run(f"truncate {shape.tasks} cascade")
    app.workflow(20, "pending", again="on conflict do nothing")
    assert numbers(app, 20) == (0, 0, 1)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.workflows], ids=lambda shape: shape.title)
def test_a_deleted_workflow_leaves_nothing_of_what_was_kept(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP)
    for n in (20, 21, 22):
        app.workflow(n, "completed", "completed", "failed")
    app.run(f"delete from {shape.tasks} as t where {shape.keyed()} and {shape.test('completed')}", **app.bind(20))
    app.drop(20)
    with app.conn.transaction():  # the workflow first
        app.run(f"delete from {shape.workflows} where {shape.workflow_keyed()}", **app.bind(21))
        app.remove(21)
    with app.conn.transaction():  # the tasks first
        app.remove(22)
        app.run(f"delete from {shape.workflows} where {shape.workflow_keyed()}", **app.bind(22))
    kept = app.run("select * from agent_progress.workflow_counter where removed_completed > 0").fetchall()
    assert kept == []
    app.assert_exact()


def test_a_workflow_that_says_that_it_ended_keeps_its_tasks_though_some_are_open(conn: psycopg.Connection) -> None:
    app = App(conn, AIRFLOW)
    app.create()
    app.adopt(KEEP)
    app.workflow(20, "completed", "completed", "pending")
    app.run("update dag_run set state = 'FAILED'")
    app.run("delete from task_instance where state = 'success'")
    assert numbers(app, 20) == (67, 2, 3)


def test_failed_tasks_of_a_workflow_that_says_that_it_ended_stay_counted(conn: psycopg.Connection) -> None:
    app = App(conn, AIRFLOW)
    app.create()
    app.adopt(KEEP)
    app.workflow(20, "completed", "completed", "failed")
    app.run("update dag_run set state = 'FAILED'")
    app.remove(20)
    assert numbers(app, 20) == (67, 2, 3)
    assert app.run("select agents_failed from agent_progress.workflow_progress").fetchone() == (1,)
    assert app.run("select * from agent_progress.repair_progress()").fetchall() == []
    assert app.check().code == 0
    app.tasks(20, "failed", 2)
    with app.conn.transaction():  # tried again
        app.remove(20)
        app.tasks(20, "pending", 2)
    assert numbers(app, 20) == (40, 2, 5)
    app.workflow(21)
    app.rekey(20, 21)
    app.move(21, "completed")
    app.run("delete from task_instance; delete from dag_run")
    assert app.run("select * from agent_progress.workflow_counter where removed_failed > 0").fetchall() == []


@pytest.mark.parametrize("shape", [JSON_JOBS, ONE_TABLE, PARTITIONED], ids=lambda shape: shape.title)
def test_failed_tasks_stay_counted_where_the_system_tries_none_again(make: Make, shape: Shape) -> None:
    app = make(shape, KEEP, "--keep-failed")
    app.workflow(20, "completed", "failed", "failed", "pending")
    app.run(f"delete from {shape.tasks} as t where {shape.keyed()} and {shape.test('failed')}", **app.bind(20))
    assert numbers(app, 20) == (50, 1, 2)  # one is open: nothing is kept
    app.move(20, "failed")
    app.workflow(21)
    app.remove(20)
    assert numbers(app, 20) == (0, 0, 2)
    app.tasks(20, "completed", 2)
    assert numbers(app, 20) == (50, 2, 4)
    app.run("select * from agent_progress.repair_progress()")
    assert numbers(app, 20) == (50, 2, 4)
    app.rekey(20, 21)
    assert numbers(app, 21) == (50, 2, 4)


def test_failed_tasks_that_were_kept_go_with_their_workflow_though_others_stay(make: Make) -> None:
    app = make(SOFT, KEEP, "--keep-failed")
    app.workflow(20, "completed", "failed")
    app.run("delete from job where owner_id = 20 and status = 'failed'")
    assert numbers(app, 20) == (50, 1, 2)
    app.run("delete from flow where id = 20")
    left = "select agents_created, agents_failed, removed_failed from agent_progress.workflow_counter where key_1 = 20"
    assert app.run(left).fetchall() == [(1, 0, 0)]


def test_without_the_option_deleted_tasks_are_gone(make: Make) -> None:
    app = make(JSON_JOBS)
    app.workflow(20, *["completed"] * 7, *["failed"] * 3)
    app.run("delete from jobs where state = 'completed'")
    assert numbers(app, 20) == (0, 0, 3)
    app.assert_exact()


def test_savepoints_undo_what_was_kept(make: Make) -> None:
    app = make(JSON_JOBS, KEEP)
    app.workflow(20, "completed", "completed")
    with app.conn.transaction():
        with app.conn.transaction(force_rollback=True):
            app.remove(20)
        app.tasks(20, "pending")
        app.remove(20, 1)
    assert numbers(app, 20) == (100, 2, 2)


@pytest.mark.parametrize(
    "reset", ["delete from flow where id = %(k1)s", "truncate flow_task_2"], ids=["workflow", "partition"]
)
def test_what_is_not_kept_any_more_is_not_taken_back(make: Make, reset: str) -> None:
    app = make(PARTITIONED, KEEP)
    app.workflow(20, "completed", "completed", "failed")
    with app.conn.transaction():
        app.run("delete from flow_task where flow_id = %(k1)s and status = 'completed'", **app.bind(20))
        app.run(reset, **(app.bind(20) if "%" in reset else {}))
        app.tasks(20, "pending")
    columns = "agents_created, agents_completed, agents_failed, removed_completed"
    left = f"select {columns} from agent_progress.workflow_counter"
    assert app.run(f"{left} where key_1 = %(k1)s", **app.bind(20)).fetchall() == [(2, 0, 1, 0)]


def test_what_a_former_release_kept_is_kept_by_the_next(make: Make) -> None:
    app = make(AIRFLOW, KEEP)
    app.workflow(20, "completed", "completed", "failed")
    app.remove(20)
    kept = numbers(app, 20)
    [(adoption,)] = app.run("select agent_progress.adoption()").fetchall()
    counted = {name: adoption[name] for name in ("tasks", "keys", "where", "status", "outcomes", "words")}
    former = md5(json.dumps(counted, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    app.run("update agent_progress.counting set counts = %(former)s where live", former=former)
    for _ in range(2):
        app.adopt(KEEP)
        assert numbers(app, 20) == kept == (100, 2, 2)
    assert app.run("select from agent_progress.counting where counts = %(former)s", former=former).fetchall() == []
