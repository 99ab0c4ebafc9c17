"""Moving a workflow along: status and stage, in one round trip, for callers who compare and swap."""

from typing import Any, NoReturn

import psycopg
from psycopg import Connection, sql
from psycopg.rows import class_row

from pyapp.models import (
    Key,
    Stage,
    StageProgress,
    TransitionNotAllowed,
    VersionConflict,
    WorkflowNotFound,
    WorkflowState,
)
from pyapp.progress import columns, get_workflow

_STATE = sql.SQL("w.id as workflow_id, w.status, w.current_stage, w.version, w.updated_at, w.completed_at")


def get_state(conn: Connection[Any], workflow_id: Key) -> WorkflowState:
    """Get status, stage and version of a workflow. Raises WorkflowNotFound."""
    query = sql.SQL("select {} from public.workflow as w where w.id = %s").format(_STATE)
    with conn.cursor(row_factory=class_row(WorkflowState)) as cursor:
        state = cursor.execute(query, [workflow_id]).fetchone()
    if state is None:
        raise WorkflowNotFound(workflow_id)
    return state


def transition(
    conn: Connection[Any],
    workflow_id: Key,
    status: str,
    *,
    stage: str | None = None,
    expected_version: int | None = None,
) -> WorkflowState:
    """Move a workflow to a status, and to a stage if one is given.

    The same status again changes nothing; ``cancelled`` cancels the open tasks as well. Returns the state as it will be
    committed. Raises WorkflowNotFound, TransitionNotAllowed, and VersionConflict if ``expected_version`` is given and
    the workflow has another one by now. After an error the transaction has to be rolled back.
    """
    query = sql.SQL(
        "select {} from public.transition_workflow(%s::uuid, %s::public.workflow_status, %s::text, %s::integer) as w"
    ).format(_STATE)
    return _move(conn, query, workflow_id, [workflow_id, status, stage, expected_version])


def advance(conn: Connection[Any], workflow_id: Key, *, expected_version: int | None = None) -> WorkflowState:
    """Move a workflow to the next stage of its plan; after the last one it is completed.

    From a stage that is not in the plan it goes to the first that was not begun yet. Returns and raises as transition
    does; also ``psycopg.errors.ObjectNotInPrerequisiteState`` if the workflow has no plan, or no such stage.
    """
    query = sql.SQL("select {} from public.advance_workflow(%s::uuid, %s::integer) as w").format(_STATE)
    return _move(conn, query, workflow_id, [workflow_id, expected_version])


def list_stages(conn: Connection[Any], workflow_id: Key) -> list[Stage]:
    """List the stages of a workflow in their order, with their agents. Raises WorkflowNotFound."""
    query = sql.SQL("select {} from public.workflow_stage_agents where workflow_id = %s order by position, name")
    with conn.cursor(row_factory=class_row(Stage)) as cursor:
        stages = cursor.execute(query.format(columns(Stage)), [workflow_id]).fetchall()
    if not stages:
        get_workflow(conn, workflow_id)
    return stages


def stage_progress(conn: Connection[Any], workflow_id: Key) -> StageProgress:
    """Get the progress of a workflow by its stages. Raises WorkflowNotFound."""
    query = sql.SQL("select {} from public.workflow_stage_progress where workflow_id = %s")
    with conn.cursor(row_factory=class_row(StageProgress)) as cursor:
        row = cursor.execute(query.format(columns(StageProgress)), [workflow_id]).fetchone()
    if row is None:
        raise WorkflowNotFound(workflow_id)
    return row


def _move(conn: Connection[Any], query: sql.Composed, workflow_id: Key, values: list[Any]) -> WorkflowState:
    try:
        with conn.cursor(row_factory=class_row(WorkflowState)) as cursor:
            state = cursor.execute(query, values).fetchone()
    except psycopg.Error as error:
        _raise_ours(error, workflow_id)
    assert state is not None, "a function that returns a row gave none"
    return state


def _raise_ours(error: psycopg.Error, workflow_id: Key) -> NoReturn:
    message = error.diag.message_primary or str(error)
    if error.sqlstate == "WP001":
        raise VersionConflict(message) from error
    if error.sqlstate == "WP002":
        raise TransitionNotAllowed(message) from error
    if error.sqlstate == "P0002":
        raise WorkflowNotFound(workflow_id) from error
    raise error
