"""What is written: one call of a function of the schema each.

Without ``schema`` it is called in the schema that ``AGENT_PROGRESS_SCHEMA`` names, else in ``public``. Each argument is
cast, so that no other function of the same name is a better match.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Literal, TypeAlias
from uuid import UUID

from psycopg.types.json import Jsonb

from pyapp.both import Conn
from pyapp.errors import UnknownStatus
from pyapp.models import (
    TASK_STATUSES,
    WORKFLOW_STATUSES,
    Archived,
    Drift,
    Key,
    NewTask,
    Priority,
    Task,
    TaskReport,
    TaskStatus,
    Workflow,
    WorkflowState,
    WorkflowStatus,
)
from pyapp.reading import get_workflow
from pyapp.statements import array, fetch_row, fetch_rows, json

Report: TypeAlias = TaskReport | Mapping[str, Any] | tuple[Any, ...]

REPORT_TASKS = "select {columns} from {schema}.report_tasks(%s::uuid, %s)"
_REPORTED = [field.name for field in fields(TaskReport)]
_told = attrgetter(*_REPORTED)


async def create_workflow(
    conn: Conn,
    name: str,
    type: str,
    *,
    description: str | None = None,
    status: WorkflowStatus = "initiated",
    current_stage: str | None = None,
    priority: Priority = "medium",
    agents_planned: int | None = None,
    trace_id: str | None = None,
    input_data: Any = None,
    created_by: str = "system",
    parent_id: Key | None = None,
    schema: str | None = None,
) -> Workflow:
    """Create a workflow without tasks, with the stages that ``stage_definition`` has for its type.

    It begins in the first of them, unless ``current_stage`` says otherwise; a type without stages begins in
    ``initialization``. ``agents_planned`` is the number of tasks that will come, if it is known: progress is measured
    against it until more are created or the workflow is completed. ``parent_id`` is the workflow that started this one.
    Returns the workflow. Raises UnknownStatus, ParentNotAllowed, ``psycopg.errors.ForeignKeyViolation`` for a parent
    that is not there, and ``psycopg.errors.CheckViolation`` for a negative plan.
    """
    # One statement cannot read the view as well: its snapshot is older than the new row. These are the other columns of
    # the view for a workflow without tasks.
    query = (
        "select {columns} from {schema}.create_workflow(%s::text, %s::text, %s::text, %s::{schema}.workflow_status,"
        " %s::text, %s::{schema}.priority_level, %s::integer, %s::text, %s::jsonb, %s::text, %s::uuid)"
        " as w (workflow_id), lateral (values (0, 0, 0, 'agent-based', progress_updated_at)) as p (progress_percentage,"
        " agents_open, settled_percentage, progress_calculation_method, last_updated_at)"
    )
    sent = check_status(status, "workflow")
    values = [name, type, description, sent, current_stage, priority, agents_planned, trace_id, json(input_data)]
    values += [created_by, None if parent_id is None else str(parent_id)]
    return await fetch_row(conn, schema, Workflow, query, *values, about=parent_id)


async def add_tasks(
    conn: Conn, workflow_id: Key, tasks: Iterable[NewTask | Mapping[str, Any] | str], *, schema: str | None = None
) -> list[Task]:
    """Add tasks to a workflow, in one statement.

    A task is a NewTask, a mapping of columns of ``agent_task``, or just the type of its agent. Returns the tasks in the
    order given. Raises WorkflowNotFound, and ``psycopg.errors.UniqueViolation`` if the workflow has a task with the
    same ``external_id``.
    """
    if isinstance(tasks, str | Mapping):
        raise TypeError("tasks are a list, also where there is one: [task]")
    query = "select {columns} from {schema}.add_tasks(%s::uuid, %s)"
    sent = Jsonb([_new_task(task) for task in tasks])
    return await fetch_rows(conn, schema, Task, query, str(workflow_id), sent, about=workflow_id)


async def report_task(
    conn: Conn,
    workflow_id: Key,
    task_id: Key,
    status: TaskStatus,
    result: Any = None,
    reopen: bool = False,
    *,
    schema: str | None = None,
) -> Task:
    """Report the status of one task, as report_tasks does. Returns the task as it stands now."""
    query = "select {columns} from {schema}.report_task(%s::uuid, %s::uuid, %s::{schema}.task_status, %s::jsonb, %s)"
    values = [str(workflow_id), _uuid(task_id), check_status(status), json(result), reopen]
    return await fetch_row(conn, schema, Task, query, *values, about=workflow_id)


async def report_tasks(
    conn: Conn, workflow_id: Key, reports: Iterable[Report], *, schema: str | None = None
) -> list[Task]:
    """Report the status of many tasks of one workflow in one statement, which counts them at once.

    A report is a TaskReport, a mapping with the same names, or a tuple (task id, status, result, reopen) whose last two
    may be missing. The outcome is as if they were reported one by one: the last report of a task wins, but a settled
    task (completed, failed, cancelled) goes back to an open status only with ``reopen``; without it, a late report of
    that kind is passed over. A report without a result leaves the one that the task has, except that opening a task
    again clears it. Timestamps are filled in.

    Returns the tasks as they stand now, in the order of their first report. Raises UnknownStatus, and ValueError for
    what is no id, before anything is sent; WorkflowNotFound; and TaskNotFound if the workflow lacks one of the tasks:
    then none is changed.
    """
    return await fetch_rows(conn, schema, Task, REPORT_TASKS, str(workflow_id), as_json(reports), about=workflow_id)


async def transition(
    conn: Conn,
    workflow_id: Key,
    status: WorkflowStatus,
    *,
    stage: str | None = None,
    expected_version: int | None = None,
    schema: str | None = None,
) -> WorkflowState:
    """Move a workflow to a status, and to a stage if one is given.

    The same status again changes nothing; ``cancelled`` cancels the open tasks as well. Returns the state as it will be
    committed. Raises UnknownStatus before anything is sent; WorkflowNotFound, TransitionNotAllowed, and VersionConflict
    if ``expected_version`` is given and the workflow has another one by now, after which the transaction has to be
    rolled back.
    """
    query = (
        "select {columns} from {schema}.transition_workflow(%s::uuid, %s::{schema}.workflow_status, %s::text,"
        " %s::integer) as w (workflow_id)"
    )
    values = [str(workflow_id), check_status(status, "workflow"), stage, expected_version]
    return await fetch_row(conn, schema, WorkflowState, query, *values, about=workflow_id)


async def advance(
    conn: Conn, workflow_id: Key, *, expected_version: int | None = None, schema: str | None = None
) -> WorkflowState:
    """Move a workflow to the next stage of its plan; after the last one it is completed.

    From a stage that is not in the plan it goes to the first that was not begun yet. Returns and raises as transition
    does; also ``psycopg.errors.ObjectNotInPrerequisiteState`` if there is no plan, or the current stage is not in it
    and none is left to begin.
    """
    query = "select {columns} from {schema}.advance_workflow(%s::uuid, %s::integer) as w (workflow_id)"
    return await fetch_row(conn, schema, WorkflowState, query, str(workflow_id), expected_version, about=workflow_id)


async def repair(conn: Conn, workflow_id: Key | None = None, *, schema: str | None = None) -> list[Drift]:
    """Recount one workflow, or all, and repair the numbers that are wrong, while others go on writing.

    Returns what was repaired: the numbers that were stored, and the calculated ones that are stored now. The rows stay
    locked until the caller commits. Raises WorkflowNotFound, and ``psycopg.errors.InsufficientPrivilege`` for a role
    that was not granted the function.
    """
    query = "select {columns} from {schema}.repair_progress(%s)"
    key = None if workflow_id is None else str(workflow_id)
    repaired = await fetch_rows(conn, schema, Drift, query, key, about=workflow_id)
    if workflow_id is not None and not repaired:
        await get_workflow(conn, workflow_id, schema=schema)
    return repaired


async def archive(
    conn: Conn,
    older_than: timedelta | str,
    *,
    statuses: Sequence[WorkflowStatus] = ("completed", "failed", "cancelled"),
    batch: int = 100,
    schema: str | None = None,
) -> list[Archived]:
    """Archive one batch of workflows that ended longer ago than ``older_than``: freeze them and delete their tasks.

    Workflows that others have locked are passed over. Returns those that were archived, at most ``batch``: call it
    until it returns none, with a commit after each call.
    """
    query = (
        "select {columns} from {schema}.archive_workflows(%s::interval, %s::{schema}.workflow_status[], %s::integer)"
    )
    return await fetch_rows(conn, schema, Archived, query, older_than, array(statuses), batch)


def check_status(status: Any, of: Literal["task", "workflow"] = "task") -> str:
    """Return the status if tasks, or workflows, have it. Raises UnknownStatus otherwise, before anything is sent."""
    if status not in (TASK_STATUSES if of == "task" else WORKFLOW_STATUSES):
        raise UnknownStatus(status, of)
    return str(status)


def as_json(reports: Iterable[Report]) -> Jsonb:
    """Write reports as the function takes them. Raises UnknownStatus, and ValueError for what is no id."""
    return Jsonb([_report(report) for report in reports])


def _new_task(given: NewTask | Mapping[str, Any] | str) -> dict[str, Any] | str:
    if isinstance(given, str):
        return given
    task = asdict(given) if isinstance(given, NewTask) else dict(given)
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in task.items()}


def _report(given: Report) -> dict[str, Any]:
    if isinstance(given, Mapping):
        sent = {name: value for name, value in given.items() if value is not None}
    else:  # not by asdict(), which copies the result part by part
        told = _told(given if isinstance(given, TaskReport) else TaskReport(*given))
        sent = {name: value for name, value in zip(_REPORTED, told, strict=True) if value is not None}
    check_status(sent.get("status"))
    if "task_id" in sent:
        sent["task_id"] = _uuid(sent["task_id"])
    return sent


def _uuid(given: Any) -> str:
    return str(given if isinstance(given, UUID) else UUID(str(given)))
