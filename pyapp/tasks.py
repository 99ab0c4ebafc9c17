"""Writing: workflows, their tasks, and what agents report. Progress follows by itself, in the same transaction."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row, tuple_row
from psycopg.types.json import Jsonb

from pyapp.models import SETTLED, Drift, Key, NewTask, Task, TaskNotFound, TaskReport, Workflow
from pyapp.progress import columns, get_workflow
from pyapp.source import OWN, Source, verbatim


def create_workflow(
    conn: Connection[Any],
    name: str,
    type: str,
    *,
    description: str | None = None,
    status: str = "initiated",
    current_stage: str | None = None,
    priority: str = "medium",
    agents_planned: int | None = None,
    trace_id: str | None = None,
    input_data: Any = None,
    created_by: str = "system",
) -> Workflow:
    """Create a workflow without tasks, with the stages that ``stage_definition`` has for its type.

    It begins in the first of them, unless ``current_stage`` says otherwise; a type without stages begins in
    ``initialization``. ``agents_planned`` is the number of tasks that will come, if it is known: progress is measured
    against it until more are created or the workflow is completed. Returns the workflow. Raises
    ``psycopg.errors.CheckViolation`` for a negative plan.
    """
    values = {
        "name": name,
        "type": type,
        "description": description,
        "status": status,
        "priority": priority,
        "agents_planned": agents_planned,
        "trace_id": trace_id,
        "input_data": None if input_data is None else Jsonb(input_data),
        "created_by": created_by,
    }
    query = sql.SQL(
        """
        insert into public.workflow as w ({}, current_stage)
        select {}, coalesce(
            %(current_stage)s,
            (
                select d.name from public.stage_definition as d
                where d.workflow_type = %(type)s order by d.position limit 1
            ),
            'initialization'
        )
        returning w.id, w::text
        """
    ).format(sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(map(sql.Placeholder, values)))
    row = conn.cursor(row_factory=tuple_row).execute(query, values | {"current_stage": current_stage}).fetchone()
    assert row is not None, "insert ... returning gave no row"
    # Its row goes along as text: where tables are distributed, the function is to run here and not where the row is.
    conn.execute("select public.plan_stages(%s::public.workflow)", [row[1]])
    return get_workflow(conn, row[0])


def add_tasks(
    conn: Connection[Any],
    workflow_id: Key,
    tasks: Iterable[NewTask | Mapping[str, Any] | str],
) -> list[Task]:
    """Add tasks to a workflow, in one statement.

    A task is a NewTask, a mapping with the same names, or just the type of its agent. Returns the tasks in the order
    given. Raises WorkflowNotFound, and ``psycopg.errors.UniqueViolation`` if the workflow has a task with the same
    ``external_id``.
    """
    given = [asdict(_new_task(task)) for task in tasks]
    query = sql.SQL(
        """
        insert into public.agent_task (
            workflow_id, external_id, agent_type, stage, status, priority, payload,
            trace_id, span_id, parent_span_id, max_retries, timeout_ms,
            assigned_at, started_at, completed_at
        )
        select
            w.id, t.external_id, t.agent_type, t.stage, t.status, t.priority, t.payload,
            t.trace_id, t.span_id, t.parent_span_id, t.max_retries, t.timeout_ms,
            case when t.status in ('assigned', 'running') then now() end,
            case when t.status = 'running' then now() end,
            case when t.status >= 'completed' then now() end
        from rows from (
            jsonb_to_recordset(%s) as (
                external_id text, agent_type text, stage text, status public.task_status,
                priority public.priority_level, payload jsonb, trace_id text, span_id text,
                parent_span_id text, max_retries integer, timeout_ms integer
            )
        ) with ordinality as t
        cross join public.workflow as w
        where w.id = %s
        order by t.ordinality
        returning {}
        """
    ).format(columns(Task))
    with conn.cursor(row_factory=class_row(Task)) as cursor:
        added = cursor.execute(query, [Jsonb(given), workflow_id]).fetchall()
    if not added:
        get_workflow(conn, workflow_id)
    return added


def report_task(
    conn: Connection[Any],
    workflow_id: Key,
    task_id: Key,
    status: str,
    result: Any = None,
    reopen: bool = False,
) -> Task:
    """Report the status of one task: report_tasks for a single report. Returns the task as it stands now."""
    return report_tasks(conn, workflow_id, [TaskReport(task_id, status, result, reopen)])[0]


def report_tasks(
    conn: Connection[Any],
    workflow_id: Key,
    reports: Iterable[TaskReport | Mapping[str, Any] | tuple[Any, ...]],
) -> list[Task]:
    """Report the status of many tasks of one workflow in one statement, which counts them at once.

    A report is a TaskReport, a mapping with the same names, or a tuple (task id, status, result, reopen) whose last two
    may be missing. The outcome is as if they were reported one by one: the last report of a task wins, but a settled
    task (completed, failed, cancelled) goes back to an open status only with ``reopen``; without it, a late report of
    that kind is passed over. A report without a result leaves the one that the task has. Timestamps are filled in.

    Returns the tasks as they stand now, in the order of their first report. Raises TaskNotFound if the workflow lacks
    one of the tasks: then none is changed.
    """
    given: dict[UUID, list[TaskReport]] = {}
    for report in map(_task_report, reports):
        task_id = report.task_id if isinstance(report.task_id, UUID) else UUID(str(report.task_id))
        given.setdefault(task_id, []).append(report)
    query = sql.SQL(
        """
        with report as (
            select r.task_id, r.settled, r.status, r.result, r.retries, now() as at
            from unnest(
                %(ids)s::uuid[], %(settled)s::boolean[], %(statuses)s::public.task_status[], %(results)s::jsonb[],
                %(retries)s::integer[]
            ) as r (task_id, settled, status, result, retries)
        ), task as (
            -- locked in the order of their ids: two batches never deadlock on tasks
            select t.*
            from public.agent_task as t
            where t.workflow_id = %(workflow)s and t.id = any (%(ids)s::uuid[])
            order by t.id
            for no key update
        ), changed as (
            update public.agent_task as t
            set
                status = r.status,
                result = case when r.retries > 0 then r.result else coalesce(r.result, old.result) end,
                assigned_at = case when r.status = 'pending' then null
                    when r.status >= 'completed' then old.assigned_at
                    when r.retries > 0 then r.at
                    else coalesce(old.assigned_at, r.at) end,
                started_at = case when r.status < 'running' then null
                    when r.status >= 'completed' then old.started_at
                    when r.retries > 0 then r.at
                    else coalesce(old.started_at, r.at) end,
                completed_at = case when r.status < 'completed' then null
                    when r.status = old.status and r.retries = 0 then old.completed_at
                    else r.at end,
                retry_count = old.retry_count + r.retries
            from task as old
            join report as r on r.task_id = old.id and r.settled = (old.status >= 'completed')
            where
                t.id = old.id
                and t.workflow_id = %(workflow)s
                and (select count(*) from task) = %(tasks)s
                and (r.status <> old.status or r.result is not null or r.retries > 0)
            returning t.*
        )
        select {columns} from changed
        union all
        select {columns} from task where id not in (select c.id from changed as c)
        """
    ).format(columns=columns(Task))
    # Whether a task is settled is known once it is locked: both outcomes go along.
    outcomes = [
        (task_id, settled, *_outcome(of_task, settled))
        for task_id, of_task in given.items()
        for settled in (False, True)
    ]
    values = {
        "workflow": workflow_id,
        "tasks": len(given),
        "ids": [outcome[0] for outcome in outcomes],
        "settled": [outcome[1] for outcome in outcomes],
        "statuses": [outcome[2] for outcome in outcomes],
        "results": [None if outcome[3] is None else Jsonb(outcome[3]) for outcome in outcomes],
        "retries": [outcome[4] for outcome in outcomes],
    }
    with conn.cursor(row_factory=class_row(Task)) as cursor:
        found = {task.id: task for task in cursor.execute(query, values)}
    if missing := [task_id for task_id in given if task_id not in found]:
        raise TaskNotFound(workflow_id, missing)
    return [found[task_id] for task_id in given]


def repair(conn: Connection[Any], workflow_id: Key | None = None, *, source: Source = OWN) -> list[Drift]:
    """Recount one workflow, or all, and mend the numbers that are wrong, while others go on writing.

    Returns what was mended: the numbers that were stored, and the calculated ones that are stored now. The rows stay
    locked until the caller commits. Raises WorkflowNotFound, and ``psycopg.errors.InsufficientPrivilege`` for a role
    that was not granted the function.
    """
    query = sql.SQL("select {} from {}.repair_progress(%s::text::{})").format(
        columns(Drift), sql.Identifier(source.schema), verbatim(source.key_type)
    )
    with conn.cursor(row_factory=class_row(Drift)) as cursor:
        mended = cursor.execute(query, [None if workflow_id is None else str(workflow_id)]).fetchall()
    if workflow_id is not None and not mended:
        get_workflow(conn, workflow_id, source=source)
    return mended


def _new_task(given: NewTask | Mapping[str, Any] | str) -> NewTask:
    if isinstance(given, NewTask):
        return given
    return NewTask(given) if isinstance(given, str) else NewTask(**given)


def _task_report(given: TaskReport | Mapping[str, Any] | tuple[Any, ...]) -> TaskReport:
    if isinstance(given, TaskReport):
        return given
    return TaskReport(**given) if isinstance(given, Mapping) else TaskReport(*given)


def _outcome(reports: list[TaskReport], settled: bool) -> tuple[str | None, Any, int]:
    """Say where reports lead a task that is settled or not: status (None: as it is), result, and times reopened."""
    status, result, retries = None, None, 0
    for report in reports:
        opens = report.status not in SETTLED
        if settled and opens:
            if not report.reopen:
                continue  # late
            result, retries = None, retries + 1
        status, settled = report.status, not opens
        result = result if report.result is None else report.result
    return status, result, retries
