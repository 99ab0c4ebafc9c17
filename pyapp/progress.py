"""Reading progress: short selects on the views."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from time import perf_counter
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import class_row

from pyapp.models import Drift, Key, ProgressMetrics, Task, Workflow, WorkflowNotFound
from pyapp.source import OWN, Source, verbatim


def columns(of: type[Any]) -> sql.Composable:
    """List the columns that a model is made of."""
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(of))


def get_workflow(conn: Connection[Any], workflow_id: Key, *, source: Source = OWN) -> Workflow:
    """Get one workflow with its progress.

    ``source`` is where to read it, our own tables or an adopted pair, here as in the functions below. Returns what was
    last committed, by primary key. Raises WorkflowNotFound.
    """
    found = get_workflows(conn, [workflow_id], source=source)
    if not found:
        raise WorkflowNotFound(workflow_id)
    return found[0]


def get_workflows(conn: Connection[Any], workflow_ids: Sequence[Key], *, source: Source = OWN) -> list[Workflow]:
    """Get several workflows with their progress, by primary key.

    Returns those that exist, newest first.
    """
    query = sql.SQL(
        "select {columns} from {progress} as p where p.workflow_id = any (%s::text[]::{key_type}[]) order by {newest}"
    ).format(
        columns=columns(Workflow),
        progress=verbatim(source.progress),
        key_type=verbatim(source.key_type),
        newest=_newest(source),
    )
    with conn.cursor(row_factory=class_row(Workflow)) as cursor:
        return cursor.execute(query, [list(map(str, workflow_ids))]).fetchall()


def list_workflows(
    conn: Connection[Any],
    *,
    status: str | Sequence[str] | None = None,
    type: str | None = None,
    priority: str | None = None,
    limit: int = 50,
    after: Workflow | tuple[datetime, Key] | None = None,
    source: Source = OWN,
) -> list[Workflow]:
    """List workflows, newest first.

    ``status`` takes one status or several. ``after`` takes the last workflow of the page before, or its creation time
    and id: the next page costs as much as the first. Returns at most ``limit`` workflows.
    """
    conditions: list[sql.Composable] = []
    values: list[Any] = []
    if status is not None:
        conditions.append(sql.SQL("p.status = any (%s::{}[])").format(verbatim(source.status_type)))
        values.append([status] if isinstance(status, str) else list(status))
    if type is not None:
        conditions.append(sql.SQL("p.type = %s"))
        values.append(type)
    if priority is not None:
        conditions.append(sql.SQL("p.priority = %s::{}").format(verbatim(source.priority_type)))
        values.append(priority)
    if after is not None:
        created_at, key = (after.created_at, after.workflow_id) if isinstance(after, Workflow) else after
        place = (
            "(p.created_at, p.workflow_id) < (%s, %s::text::{})"
            if source.by_creation
            else "p.workflow_id < %s::text::{}"
        )
        conditions.append(sql.SQL(place).format(verbatim(source.key_type)))
        values += [created_at, str(key)] if source.by_creation else [str(key)]
    where = sql.SQL(" and ").join(conditions or [sql.SQL("true")])
    query = sql.SQL("select {} from {} as p where {} order by {} limit %s").format(
        columns(Workflow), verbatim(source.progress), where, _newest(source)
    )
    with conn.cursor(row_factory=class_row(Workflow)) as cursor:
        return cursor.execute(query, [*values, limit]).fetchall()


def list_tasks(conn: Connection[Any], workflow_id: Key, *, source: Source = OWN) -> list[Task]:
    """List the tasks of a workflow in the order in which they were created.

    Raises WorkflowNotFound.
    """
    query = sql.SQL("select {} from {} as t where t.workflow_id = %s::text::{} order by t.created_at, t.id").format(
        columns(Task), verbatim(source.tasks), verbatim(source.key_type)
    )
    with conn.cursor(row_factory=class_row(Task)) as cursor:
        tasks = cursor.execute(query, [str(workflow_id)]).fetchall()
    if not tasks:
        get_workflow(conn, workflow_id, source=source)
    return tasks


def find_drift(
    conn: Connection[Any], workflow_ids: Sequence[Key] | None = None, *, source: Source = OWN
) -> list[Drift]:
    """Find the workflows whose stored progress differs from their tasks, counted afresh.

    Looks at all workflows or at those given, and reads each of their tasks. Returns an empty list if all is well.
    """
    query = sql.SQL("select {} from {} as d").format(columns(Drift), verbatim(source.drift))
    with conn.cursor(row_factory=class_row(Drift)) as cursor:
        if workflow_ids is None:
            return cursor.execute(query + sql.SQL(" order by d.workflow_id"), []).fetchall()
        # One by one: only the count of a single workflow is taken by index.
        one = query + sql.SQL(" where d.workflow_id = %s::text::{}").format(verbatim(source.key_type))
        return [drift for workflow_id in workflow_ids for drift in cursor.execute(one, [str(workflow_id)])]


def progress_metrics(conn: Connection[Any], workflow_id: Key, *, source: Source = OWN) -> ProgressMetrics:
    """Measure the progress of one workflow.

    Returns progress, how long it took to read it in milliseconds, and whether the stored numbers are stale: for that
    the tasks of the workflow are counted. Raises WorkflowNotFound.
    """
    started = perf_counter()
    workflow = get_workflow(conn, workflow_id, source=source)
    elapsed = (perf_counter() - started) * 1000
    return ProgressMetrics(
        workflow_id=workflow.workflow_id,
        progress_percentage=workflow.progress_percentage,
        agents_completed=workflow.agents_completed,
        agents_total=workflow.agents_total,
        calculation_time_ms=elapsed,
        stale_data=bool(find_drift(conn, [workflow_id], source=source)),
    )


def _newest(source: Source) -> sql.SQL:
    return sql.SQL("p.created_at desc, p.workflow_id desc" if source.by_creation else "p.workflow_id desc")
