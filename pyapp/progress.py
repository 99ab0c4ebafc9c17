"""Reading progress: short selects on the views."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from time import perf_counter
from typing import Any
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row

from pyapp.models import Drift, ProgressMetrics, Task, Workflow, WorkflowNotFound


def columns(of: type[Any]) -> sql.Composable:
    """List the columns that a model is made of."""
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(of))


def get_workflow(conn: Connection[Any], workflow_id: UUID | str) -> Workflow:
    """Get one workflow with its progress.

    Returns what was last committed, by primary key. Raises WorkflowNotFound.
    """
    found = get_workflows(conn, [workflow_id])
    if not found:
        raise WorkflowNotFound(workflow_id)
    return found[0]


def get_workflows(conn: Connection[Any], workflow_ids: Sequence[UUID | str]) -> list[Workflow]:
    """Get several workflows with their progress, by primary key.

    Returns those that exist, newest first.
    """
    query = sql.SQL(
        "select {} from public.workflow_progress where workflow_id = any (%s::uuid[])"
        " order by created_at desc, workflow_id desc"
    )
    with conn.cursor(row_factory=class_row(Workflow)) as cursor:
        return cursor.execute(query.format(columns(Workflow)), [list(map(str, workflow_ids))]).fetchall()


def list_workflows(
    conn: Connection[Any],
    *,
    status: str | Sequence[str] | None = None,
    type: str | None = None,
    priority: str | None = None,
    limit: int = 50,
    after: Workflow | tuple[datetime, UUID] | None = None,
) -> list[Workflow]:
    """List workflows, newest first.

    ``status`` takes one status or several. ``after`` takes the last workflow of the page before, or its creation time
    and id: the next page costs as much as the first. Returns at most ``limit`` workflows.
    """
    conditions: list[sql.Composable] = []
    values: list[Any] = []
    if status is not None:
        conditions.append(sql.SQL("status = any (%s::public.workflow_status[])"))
        values.append([status] if isinstance(status, str) else list(status))
    if type is not None:
        conditions.append(sql.SQL("type = %s"))
        values.append(type)
    if priority is not None:
        conditions.append(sql.SQL("priority = %s::public.priority_level"))
        values.append(priority)
    if after is not None:
        conditions.append(sql.SQL("(created_at, workflow_id) < (%s, %s)"))
        values += (after.created_at, after.workflow_id) if isinstance(after, Workflow) else after
    query = sql.SQL(
        "select {} from public.workflow_progress where {} order by created_at desc, workflow_id desc limit %s"
    ).format(columns(Workflow), sql.SQL(" and ").join(conditions or [sql.SQL("true")]))
    with conn.cursor(row_factory=class_row(Workflow)) as cursor:
        return cursor.execute(query, [*values, limit]).fetchall()


def list_tasks(conn: Connection[Any], workflow_id: UUID | str) -> list[Task]:
    """List the tasks of a workflow in the order in which they were created.

    Raises WorkflowNotFound.
    """
    query = sql.SQL("select {} from public.agent_task where workflow_id = %s order by created_at, id")
    with conn.cursor(row_factory=class_row(Task)) as cursor:
        tasks = cursor.execute(query.format(columns(Task)), [workflow_id]).fetchall()
    if not tasks:
        get_workflow(conn, workflow_id)
    return tasks


def find_drift(conn: Connection[Any], workflow_ids: Sequence[UUID | str] | None = None) -> list[Drift]:
    """Find the workflows whose stored progress differs from their tasks, counted afresh.

    Looks at all workflows or at those given, and reads each of their tasks. Returns an empty list if all is well.
    """
    query = sql.SQL("select {} from public.workflow_progress_drift").format(columns(Drift))
    with conn.cursor(row_factory=class_row(Drift)) as cursor:
        if workflow_ids is None:
            return cursor.execute(query + sql.SQL(" order by workflow_id")).fetchall()
        # One by one: only the count of a single workflow is taken by index.
        one = query + sql.SQL(" where workflow_id = %s")
        return [drift for workflow_id in workflow_ids for drift in cursor.execute(one, [workflow_id])]


def progress_metrics(conn: Connection[Any], workflow_id: UUID | str) -> ProgressMetrics:
    """Measure the progress of one workflow.

    Returns progress, how long it took to read it in milliseconds, and whether the stored numbers are stale: for that
    the tasks of the workflow are counted. Raises WorkflowNotFound.
    """
    started = perf_counter()
    workflow = get_workflow(conn, workflow_id)
    elapsed = (perf_counter() - started) * 1000
    return ProgressMetrics(
        workflow_id=workflow.workflow_id,
        progress_percentage=workflow.progress_percentage,
        agents_completed=workflow.agents_completed,
        agents_total=workflow.agents_total,
        calculation_time_ms=elapsed,
        stale_data=bool(find_drift(conn, [workflow_id])),
    )
