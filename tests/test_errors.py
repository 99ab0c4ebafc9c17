"""Errors: what they say, what they carry, and that they cross processes."""

import copy
import pickle
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Connection

import pyapp
from pyapp import (
    AgentProgressError,
    MigrationError,
    ParentNotAllowed,
    RoleNotFound,
    StandbyBehind,
    TaskNotFound,
    TransitionNotAllowed,
    UnknownStatus,
    VersionConflict,
    WorkflowNotFound,
    errors,
)

from .helpers import at_work, new_workflow

NOWHERE = UUID(int=0)
EXAMPLES: list[tuple[AgentProgressError, str | None, type[Exception], dict[str, Any]]] = [
    (WorkflowNotFound(NOWHERE), "P0002", LookupError, {"workflow_id": NOWHERE}),
    (TaskNotFound(7, ["x"]), "WP003", LookupError, {"workflow_id": 7, "task_ids": ["x"]}),
    (RoleNotFound("who"), None, LookupError, {"role": "who"}),
    (VersionConflict("moved"), "WP001", Exception, {"workflow_id": None}),
    (TransitionNotAllowed("no"), "WP002", Exception, {"workflow_id": None}),
    (ParentNotAllowed("cycle"), "WP004", Exception, {"workflow_id": None}),
    (UnknownStatus("done"), "22P02", ValueError, {"status": "done"}),
    (MigrationError("held"), None, Exception, {}),
    (StandbyBehind("0/1"), None, Exception, {"position": "0/1"}),
]


@pytest.mark.parametrize(("error", "sqlstate", "base", "attributes"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_carries_its_attributes_also_to_another_process(
    error: AgentProgressError, sqlstate: str | None, base: type[Exception], attributes: dict[str, Any]
) -> None:
    error.add_note("report: completed")
    for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(one) is type(error)
        assert isinstance(one, base)
        assert isinstance(one, AgentProgressError)
        assert one.sqlstate == sqlstate
        assert {name: getattr(one, name) for name in attributes} == attributes
        assert (str(one), one.__notes__) == (str(error), ["report: completed"])


def test_every_error_is_an_example_here_and_a_name_of_the_package() -> None:
    kinds = {
        error for error in vars(errors).values() if isinstance(error, type) and error.__module__ == errors.__name__
    }
    public = {kind for kind in kinds if not kind.__name__.startswith("_")} - {AgentProgressError}
    assert public == {type(error) for error, *_ in EXAMPLES}
    assert {kind.__name__ for kind in public} <= set(pyapp.__all__)


def test_the_database_says_what_is_missing(conn: Connection) -> None:
    workflow, (task,) = at_work(conn, 1)
    missing = uuid4()
    with pytest.raises(TaskNotFound) as raised:
        pyapp.report_tasks(
            conn,
            workflow,
            [
                (task, "completed"),
                (missing, "completed"),
                {"external_id": "k", "status": "failed"},
                {"external_id": str(missing), "status": "failed"},
            ],
        )
    assert raised.value.workflow_id == workflow
    assert set(raised.value.task_ids) == {missing, "k"}
    assert isinstance(raised.value.__cause__, psycopg.Error)
    assert raised.value.__cause__.sqlstate == raised.value.sqlstate
    with pytest.raises(WorkflowNotFound, match=f"^workflow {NOWHERE} not found$") as lacking:
        pyapp.report_task(conn, NOWHERE, task, "completed")
    assert lacking.value.workflow_id == NOWHERE


def test_the_database_says_why_a_workflow_may_not_move(conn: Connection) -> None:
    workflow = new_workflow(conn)
    with pytest.raises(VersionConflict, match="not version 9") as moved:
        pyapp.transition(conn, workflow, "running", expected_version=9)
    conn.execute("update workflow set status = 'completed' where id = %s", [workflow])
    with pytest.raises(TransitionNotAllowed, match="completed") as refused:
        pyapp.transition(conn, workflow, "running")
    for error in (moved.value, refused.value, pickle.loads(pickle.dumps(moved.value))):
        assert error.workflow_id == workflow


def test_a_tree_that_is_too_deep_is_no_place_for_a_workflow(conn: Connection) -> None:
    parent = None
    with pytest.raises(ParentNotAllowed, match="64") as refused:  # noqa: PT012
        for _ in range(70):
            last, parent = parent, pyapp.create_workflow(conn, "w", "other", parent_id=parent).workflow_id
    assert refused.value.workflow_id == parent
    assert last is not None
