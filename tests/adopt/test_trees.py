"""Runs that start runs: an adoption shows their tree as our own tables do."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pyapp

from ..service import serving
from .application import App, succeed
from .shapes import SHAPES, Shape

SCHEMA = "agent_progress"
PIPELINES = Shape(
    "two tables with a parent",
    """
    create table pipeline (id text primary key, started_by text, status text default 'running');
    create index on pipeline (started_by);
    create table job (id serial primary key, pipeline_id text not null references pipeline, n integer, status text);
    create index on job (pipeline_id);
    """,
    tasks="job",
    workflows="pipeline",
    options=("--workflows", "pipeline", "--tasks", "job", "--column", "parent_id=started_by"),
    key=lambda n: (f"p{n}",),
    read=("t.pipeline_id",),
    put=("pipeline_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
)
Make = Callable[..., App]


def adopted(conn: psycopg.Connection, shape: Shape) -> App:
    app = App(conn, shape)
    app.create()
    app.adopt()
    return app


def levels(conn: psycopg.Connection, workflow: Any) -> list[tuple[Any, int, int | None]]:
    return [(node.workflow_id, node.level, node.progress) for node in pyapp.get_tree(conn, workflow, schema=SCHEMA)]


def test_one_table_in_both_roles_is_a_tree_of_the_runs_that_have_children(conn: psycopg.Connection) -> None:
    [shape] = [shape for shape in SHAPES if shape.title == "one table in both roles"]
    app = adopted(conn, shape)
    app.run(
        "insert into run (id, parent_id, status) values (1, null, 'running'), (2, 1, 'running'), (3, 1, 'completed')"
    )
    app.run("insert into run (id, parent_id, status) values (4, 2, 'completed'), (5, 2, 'completed'), (6, 2, 'failed')")
    # A run counts as an agent of the run that started it, and has agents of its own.
    assert [one[:2] for one in levels(conn, 1)][:2] == [(1, 1), (2, 2)]
    tree = pyapp.tree_progress(conn, 1, schema=SCHEMA)
    assert (tree.agents_completed, tree.agents_total, tree.agents_failed, tree.progress) == (3, 5, 1, 60)
    assert [w.workflow_id for w in pyapp.list_workflows(conn, roots=True, schema=SCHEMA)] == [1]
    assert 2 in [w.workflow_id for w in pyapp.list_workflows(conn, parent_id=1, schema=SCHEMA)]


def test_a_column_that_names_the_parent_makes_a_tree(conn: psycopg.Connection) -> None:
    app = adopted(conn, PIPELINES)
    app.run("insert into pipeline (id, started_by) values ('p1', null), ('p2', 'p1'), ('p3', 'p2'), ('p4', null)")
    app.tasks(1, "completed", 1)
    app.tasks(3, "completed", 1)
    app.tasks(3, "pending", 2)
    assert levels(conn, "p1") == [("p1", 1, 100), ("p2", 2, 0), ("p3", 3, 33)]
    tree = pyapp.tree_progress(conn, "p1", schema=SCHEMA)
    assert (tree.workflows, tree.depth, tree.progress, tree.agents_total) == (3, 3, 50, 4)
    assert {w.workflow_id for w in pyapp.list_workflows(conn, roots=True, schema=SCHEMA)} == {"p1", "p4"}


@pytest.mark.parametrize("shape", [SHAPES[0]], ids=lambda shape: shape.title)
def test_where_nothing_names_a_parent_each_workflow_is_a_tree_of_one(make: Make, shape: Shape) -> None:
    app = make(shape)
    [workflow, *_] = pyapp.list_workflows(app.conn, schema=SCHEMA)
    tree = pyapp.tree_progress(app.conn, workflow.workflow_id, schema=SCHEMA)
    assert (workflow.parent_id, tree.workflows, tree.progress) == (None, 1, workflow.progress)


def test_a_tree_with_a_workflow_that_is_not_counted_has_no_numbers(conn: psycopg.Connection) -> None:
    app = adopted(conn, PIPELINES)
    app.run("insert into pipeline (id, started_by) values ('p1', null), ('p2', 'p1')")
    app.tasks(1, "completed", 1)
    app.tasks(2, "completed", 1)
    conn.execute(
        "update agent_progress.workflow_counter set agents_created = null, agents_completed = null,"
        " agents_failed = null, agents_cancelled = null where key_1 = 'p2'"
    )
    tree = pyapp.tree_progress(conn, "p1", schema=SCHEMA)
    assert (tree.workflows, tree.progress, tree.agents_total) == (2, None, None)
    conn.execute("select agent_progress.repair_progress()")
    assert pyapp.tree_progress(conn, "p1", schema=SCHEMA).progress == 100


def test_a_page_shows_a_tree_that_is_not_counted_yet(conn: psycopg.Connection) -> None:
    app = App(conn, PIPELINES)
    app.create()
    app.run("insert into pipeline (id, started_by) values ('p1', null), ('p2', 'p1')")
    app.tasks(2, "completed", 1)
    app.run(succeed(app.dsn, "adopt", *PIPELINES.options, "--print").out)
    with serving(app.dsn, "--schema", SCHEMA) as service:
        for path in ("/", "/workflows", "/workflows/p1", "/workflows/p1/tasks", "/workflows/p1/timeline"):
            assert "None" not in service.page(path)
        assert service.page("/workflows/p1").count("tasks not counted") > 1
    succeed(app.dsn, "adopt", "--continue")
    assert levels(conn, "p1") == [("p1", 1, 0), ("p2", 2, 100)]
