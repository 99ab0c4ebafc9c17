"""The queries behind the helpers, each written once: generators that yield statements and are sent their rows.

``pyapp.helpers`` makes functions of them, and ``pyapp.aio`` coroutines. Without ``schema``, they work in the schema
that ``AGENT_PROGRESS_SCHEMA`` names, else in ``public``. What also works on adopted tables, whose keys may be of any
type, sends ids as text without a type.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pyapp.db import find_schema
from pyapp.drive import Query, Statement
from pyapp.errors import UnknownStatus, WorkflowNotFound, translate
from pyapp.models import (
    TASK_STATUSES,
    Archived,
    BurnupPoint,
    Drift,
    Forecast,
    Key,
    NewTask,
    Priority,
    ProgressMetrics,
    Stage,
    StageProgress,
    Task,
    TaskReport,
    TaskStatus,
    TimelineEntry,
    TreeNode,
    TreeProgress,
    Workflow,
    WorkflowState,
    WorkflowStatus,
)

R = TypeVar("R")

_REPORTED = [field.name for field in fields(TaskReport)]

# How to select a column of a model from a row of the table ``workflow``, where the view has it under another name or
# computes it: for a workflow that has no tasks yet.
_OF_WORKFLOW = {
    "workflow_id": "id",
    "progress_percentage": "progress",
    "agents_open": "agents_created",
    "settled_percentage": "progress",
    "progress_calculation_method": "'agent-based'",
    "last_updated_at": "progress_updated_at",
}

_OF_NODE = ", ".join(f"p.{field.name}" for field in fields(Workflow))


def get_workflow(workflow_id: Key, *, schema: str | None = None) -> Query[Workflow]:
    """Get one workflow with its progress.

    Returns what was last committed, by primary key. Raises WorkflowNotFound.
    """
    found = yield from get_workflows([workflow_id], schema=schema)
    if not found:
        raise WorkflowNotFound(workflow_id)
    return found[0]


def get_workflows(workflow_ids: Iterable[Key], *, schema: str | None = None) -> Query[list[Workflow]]:
    """Get several workflows with their progress, by primary key.

    Returns those that exist, newest first.
    """
    query = (
        "select {columns} from {schema}.workflow_progress"
        " where workflow_id = any (%s) order by created_at desc, workflow_id desc"
    )
    return (yield from _fetch(Workflow, query, [_array(workflow_ids)], schema))


def list_workflows(
    *,
    status: str | Sequence[str] | None = None,
    type: str | None = None,
    priority: str | None = None,
    parent_id: Key | None = None,
    roots: bool = False,
    limit: int = 50,
    after: Workflow | tuple[datetime, Key] | None = None,
    schema: str | None = None,
) -> Query[list[Workflow]]:
    """List workflows, newest first.

    ``status`` takes one status or several. ``parent_id`` lists those that this workflow started, ``roots`` those that
    no other started. ``after`` takes the last workflow of the page before, or its creation time
    and id: the next page costs as much as the first. Returns at most ``limit`` workflows.
    """
    conditions = ["true"]
    values: list[Any] = []
    if status is not None:
        conditions.append("status = any (%s)")
        values.append(_array([status] if isinstance(status, str) else status))
    if type is not None:
        conditions.append("type = %s")
        values.append(type)
    if priority is not None:
        conditions.append("priority = %s")
        values.append(priority)
    if parent_id is not None:
        conditions.append("parent_id = %s")
        values.append(str(parent_id))
    if roots:
        conditions.append("parent_id is null")
    if after is not None:
        created_at, key = (after.created_at, after.workflow_id) if isinstance(after, Workflow) else after
        conditions.append("(created_at, workflow_id) < (%s, %s)")
        values += [created_at, str(key)]
    where = " and ".join(conditions)
    query = "select {columns} from {schema}.workflow_progress where " + where  # noqa: S608 (of the literals above)
    query += " order by created_at desc, workflow_id desc limit %s"
    return (yield from _fetch(Workflow, query, [*values, limit], schema))


def get_tree(workflow_id: Key, *, limit: int | None = None, schema: str | None = None) -> Query[list[TreeNode]]:
    """Get a workflow and all that is below it, each with its own progress.

    Returns the workflow itself first, and below each one what it started, the oldest first: the first ``limit`` of
    them, None for all. Raises WorkflowNotFound.
    """
    # As in workflow_tree_progress: by a range of one and offset 0, an index finds the children.
    query = (
        f"with recursive tree as (select {_OF_NODE}, 1 as level"  # noqa: S608 (columns of a model)
        " from {schema}.workflow_progress as p where p.workflow_id = %s"
        f" union all select {_OF_NODE}, n.level + 1 from tree as n cross join lateral"
        " (select c.* from {schema}.workflow_progress as c where c.parent_id between n.workflow_id and n.workflow_id"
        " offset 0) as p"
        " where n.level < 64) search depth first by created_at, workflow_id set place"
        " select {columns} from tree order by place limit %s"
    )
    nodes = yield from _fetch(TreeNode, query, [str(workflow_id), limit], schema)
    if not nodes:
        raise WorkflowNotFound(workflow_id)
    return nodes


def tree_progress(workflow_id: Key, *, schema: str | None = None) -> Query[TreeProgress]:
    """Get the progress of a workflow with all that is below it, summed up.

    Reads a row for each workflow of the tree and no task. Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.workflow_tree_progress where workflow_id = %s"
    rows = yield from _fetch(TreeProgress, query, [str(workflow_id)], schema)
    if not rows:
        raise WorkflowNotFound(workflow_id)
    return rows[0]


def list_tree_progress(workflow_ids: Iterable[Key], *, schema: str | None = None) -> Query[dict[Key, TreeProgress]]:
    """Get the progress of several trees, by the id of the workflow at the top, of those that exist."""
    query = "select {columns} from {schema}.workflow_tree_progress where workflow_id = any (%s)"
    rows = yield from _fetch(TreeProgress, query, [_array(workflow_ids)], schema)
    return {tree.workflow_id: tree for tree in rows}


def list_tasks(workflow_id: Key, *, schema: str | None = None) -> Query[list[Task]]:
    """List the tasks of a workflow in the order in which they were created.

    Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.agent_task where workflow_id = %s order by ordinal, created_at, id"
    return (yield from _fetch_of(workflow_id, Task, query, [str(workflow_id)], schema))


def get_state(workflow_id: Key, *, schema: str | None = None) -> Query[WorkflowState]:
    """Get status, stage and version of a workflow, to compare and swap on. Raises WorkflowNotFound."""
    query = "select {of_workflow} from {schema}.workflow where id = %s"
    states = yield from _fetch(WorkflowState, query, [str(workflow_id)], schema)
    if not states:
        raise WorkflowNotFound(workflow_id)
    return states[0]


def list_stages(workflow_id: Key, *, schema: str | None = None) -> Query[list[Stage]]:
    """List the stages of a workflow in their order, with their agents. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_stage_agents where workflow_id = %s order by position, name"
    return (yield from _fetch_of(workflow_id, Stage, query, [str(workflow_id)], schema))


def stage_progress(workflow_id: Key, *, schema: str | None = None) -> Query[StageProgress]:
    """Get the progress of a workflow by its stages. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_stage_progress where workflow_id = %s"
    rows = yield from _fetch(StageProgress, query, [str(workflow_id)], schema)
    if not rows:
        raise WorkflowNotFound(workflow_id)
    return rows[0]


def get_forecasts(workflow_ids: Iterable[Key], *, schema: str | None = None) -> Query[dict[Key, Forecast]]:
    """Get the forecasts of workflows, by id, of those that exist.

    Reads the last 100 completions and the tasks at work of each, however many tasks there are.
    """
    query = "select {columns} from {schema}.workflow_forecast where workflow_id = any (%s)"
    rows = yield from _fetch(Forecast, query, [_array(workflow_ids)], schema)
    return {forecast.workflow_id: forecast for forecast in rows}


def list_timeline(
    workflow_id: Key, *, limit: int | None = 1000, after: TimelineEntry | None = None, schema: str | None = None
) -> Query[list[TimelineEntry]]:
    """List what happened to a workflow, in time order: its events, stages and tasks.

    ``after`` takes the last entry of the page before. Returns the first ``limit`` entries of the rest, None for all.
    Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.workflow_timeline where workflow_id = %s"
    values: list[Any] = [str(workflow_id)]
    if after is not None:
        query += " and (at, kind, place, name) > (%s, %s, %s, %s)"
        values += [after.at, after.kind, after.place, after.name]
    query += " order by at, kind, place, name limit %s"
    return (yield from _fetch_of(workflow_id, TimelineEntry, query, [*values, limit], schema))


def list_burnup(workflow_id: Key, *, schema: str | None = None) -> Query[list[BurnupPoint]]:
    """List the numbers of tasks completed and created over time, for plotting. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_burnup where workflow_id = %s order by at"
    return (yield from _fetch_of(workflow_id, BurnupPoint, query, [str(workflow_id)], schema))


def find_drift(workflow_ids: Iterable[Key] | None = None, *, schema: str | None = None) -> Query[list[Drift]]:
    """Find the workflows whose stored progress differs from their tasks, counted afresh.

    Looks at all workflows or at those given, and reads each of their tasks. Returns an empty list if all is well.
    """
    query = "select {columns} from {schema}.workflow_progress_drift"
    if workflow_ids is None:
        return (yield from _fetch(Drift, query + " order by workflow_id", [], schema))
    found: list[Drift] = []
    # One by one: PostgreSQL uses the index on tasks only where one workflow is asked for.
    for workflow_id in workflow_ids:
        found += yield from _fetch(Drift, query + " where workflow_id = %s", [str(workflow_id)], schema)
    return found


def progress_metrics(workflow_id: Key, *, schema: str | None = None) -> Query[ProgressMetrics]:
    """Measure the progress of one workflow.

    Returns progress, how long it took to read it in milliseconds, and whether the stored numbers are stale: for that
    the tasks of the workflow are counted. Raises WorkflowNotFound.
    """
    started = perf_counter()
    workflow = yield from get_workflow(workflow_id, schema=schema)
    elapsed = (perf_counter() - started) * 1000
    drift = yield from find_drift([workflow_id], schema=schema)
    return ProgressMetrics(
        workflow_id=workflow.workflow_id,
        progress_percentage=workflow.progress_percentage,
        agents_completed=workflow.agents_completed,
        agents_total=workflow.agents_total,
        calculation_time_ms=elapsed,
        stale_data=bool(drift),
    )


def create_workflow(
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
) -> Query[Workflow]:
    """Create a workflow without tasks, with the stages that ``stage_definition`` has for its type.

    It begins in the first of them, unless ``current_stage`` says otherwise; a type without stages begins in
    ``initialization``. ``agents_planned`` is the number of tasks that will come, if it is known: progress is measured
    against it until more are created or the workflow is completed. ``parent_id`` is the workflow that started this one.
    Returns the workflow. Raises ParentNotAllowed, ``psycopg.errors.ForeignKeyViolation`` for a parent that is not
    there, and ``psycopg.errors.CheckViolation`` for a negative plan.
    """
    # Here and below each argument is cast, so that no other function of the same name is a better match.
    query = (
        "select {of_workflow} from {schema}.create_workflow(%s::text, %s::text, %s::text, %s::{schema}.workflow_status,"
        " %s::text, %s::{schema}.priority_level, %s::integer, %s::text, %s::jsonb, %s::text, %s::uuid)"
    )
    values: list[Any] = [name, type, description, status, current_stage, priority, agents_planned, trace_id]
    values += [_json(input_data), created_by, None if parent_id is None else str(parent_id)]
    rows = yield from _fetch(Workflow, query, values, schema, parent_id)
    return rows[0]


def add_tasks(
    workflow_id: Key, tasks: Iterable[NewTask | Mapping[str, Any] | str], *, schema: str | None = None
) -> Query[list[Task]]:
    """Add tasks to a workflow, in one statement.

    A task is a NewTask, a mapping of columns of ``agent_task``, or just the type of its agent. Returns the tasks in the
    order given. Raises WorkflowNotFound, and ``psycopg.errors.UniqueViolation`` if the workflow has a task with the
    same ``external_id``.
    """
    query = "select {columns} from {schema}.add_tasks(%s::uuid, %s)"
    values = [str(workflow_id), Jsonb([_new_task(task) for task in tasks])]
    return (yield from _fetch(Task, query, values, schema, workflow_id))


def report_task(
    workflow_id: Key,
    task_id: Key,
    status: TaskStatus,
    result: Any = None,
    reopen: bool = False,
    *,
    schema: str | None = None,
) -> Query[Task]:
    """Report the status of one task, as report_tasks does. Returns the task as it stands now."""
    query = "select {columns} from {schema}.report_task(%s::uuid, %s::uuid, %s::{schema}.task_status, %s::jsonb, %s)"
    values = [str(workflow_id), _task_id(task_id), check_status(status), _json(result), reopen]
    return (yield from _fetch(Task, query, values, schema, workflow_id))[0]


def report_tasks(
    workflow_id: Key,
    reports: Iterable[TaskReport | Mapping[str, Any] | tuple[Any, ...]],
    *,
    schema: str | None = None,
) -> Query[list[Task]]:
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
    tasks: list[Task] = yield from _send(report_statement(workflow_id, reports, schema), workflow_id)
    return tasks


def transition(
    workflow_id: Key,
    status: WorkflowStatus,
    *,
    stage: str | None = None,
    expected_version: int | None = None,
    schema: str | None = None,
) -> Query[WorkflowState]:
    """Move a workflow to a status, and to a stage if one is given.

    The same status again changes nothing; ``cancelled`` cancels the open tasks as well. Returns the state as it will be
    committed. Raises WorkflowNotFound, TransitionNotAllowed, and VersionConflict if ``expected_version`` is given and
    the workflow has another one by now. After an error the transaction has to be rolled back.
    """
    query = (
        "select {of_workflow} from"
        " {schema}.transition_workflow(%s::uuid, %s::{schema}.workflow_status, %s::text, %s::integer)"
    )
    values = [str(workflow_id), status, stage, expected_version]
    return (yield from _fetch(WorkflowState, query, values, schema, workflow_id))[0]


def advance(
    workflow_id: Key, *, expected_version: int | None = None, schema: str | None = None
) -> Query[WorkflowState]:
    """Move a workflow to the next stage of its plan; after the last one it is completed.

    From a stage that is not in the plan it goes to the first that was not begun yet. Returns and raises as transition
    does; also ``psycopg.errors.ObjectNotInPrerequisiteState`` if there is no plan, or the current stage is not in it
    and none is left to begin.
    """
    query = "select {of_workflow} from {schema}.advance_workflow(%s::uuid, %s::integer)"
    return (yield from _fetch(WorkflowState, query, [str(workflow_id), expected_version], schema, workflow_id))[0]


def repair(workflow_id: Key | None = None, *, schema: str | None = None) -> Query[list[Drift]]:
    """Recount one workflow, or all, and repair the numbers that are wrong, while others go on writing.

    Returns what was repaired: the numbers that were stored, and the calculated ones that are stored now. The rows stay
    locked until the caller commits. Raises WorkflowNotFound, and ``psycopg.errors.InsufficientPrivilege`` for a role
    that was not granted the function.
    """
    query = "select {columns} from {schema}.repair_progress(%s)"
    if workflow_id is not None:
        return (yield from _fetch_of(workflow_id, Drift, query, [str(workflow_id)], schema))
    return (yield from _fetch(Drift, query, [None], schema))


def archive(
    older_than: timedelta | str,
    *,
    statuses: Sequence[WorkflowStatus] = ("completed", "failed", "cancelled"),
    batch: int = 100,
    schema: str | None = None,
) -> Query[list[Archived]]:
    """Archive one batch of workflows that ended longer ago than ``older_than``: freeze them and delete their tasks.

    Workflows that others have locked are passed over. Returns those that were archived, at most ``batch``: call it
    until it returns none, with a commit after each call.
    """
    query = (
        "select {columns} from {schema}.archive_workflows(%s::interval, %s::{schema}.workflow_status[], %s::integer)"
    )
    return (yield from _fetch(Archived, query, [older_than, _array(statuses), batch], schema))


def check_status(status: Any) -> str:
    """Return the status if tasks have it. Raises UnknownStatus otherwise, before anything is sent."""
    if status not in TASK_STATUSES:
        raise UnknownStatus(status)
    return str(status)


def report_statement(
    workflow_id: Key, reports: Iterable[TaskReport | Mapping[str, Any] | tuple[Any, ...]], schema: str | None
) -> Statement:
    """Write the statement of report_tasks."""
    values = [str(workflow_id), Jsonb([_report(report) for report in reports])]
    return _statement(Task, "select {columns} from {schema}.report_tasks(%s::uuid, %s)", values, schema)


def _statement(row: Any, query: str, values: Sequence[Any], schema: str | None) -> Statement:
    """Write a statement for rows of a model, in a schema.

    In the query, {columns} stands for the columns of a view, named as in the model, and {of_workflow} for the same from
    a row of the table ``workflow``.
    """
    return Statement(_text(row, query, find_schema(schema)), values, row)


@lru_cache
def _text(row: Any, query: str, schema: str) -> str:
    names = [field.name for field in fields(row)]
    return query.format(
        columns=", ".join(names),
        of_workflow=", ".join(f"{_OF_WORKFLOW[name]} as {name}" if name in _OF_WORKFLOW else name for name in names),
        schema=sql.Identifier(schema).as_string().replace("%", "%%"),
    )


def _send(statement: Statement, workflow_id: Key | None) -> Query[Any]:
    """Send a statement; its errors become those of this package, with the id of the workflow that it is about."""
    try:
        return (yield statement)
    except psycopg.Error as error:
        if meant := translate(error, workflow_id):
            raise meant from error
        raise


def _fetch(
    row: type[R], query: str, values: Sequence[Any], schema: str | None, workflow_id: Key | None = None
) -> Query[list[R]]:
    rows: list[R] = yield from _send(_statement(row, query, values, schema), workflow_id)
    return rows


def _fetch_of(workflow_id: Key, row: type[R], query: str, values: Sequence[Any], schema: str | None) -> Query[list[R]]:
    """Send a statement for rows of a workflow. Raises WorkflowNotFound where there are none, nor the workflow."""
    rows = yield from _fetch(row, query, values, schema, workflow_id)
    if not rows:
        yield from get_workflow(workflow_id, schema=schema)
    return rows


def _array(items: Iterable[object]) -> str:
    """Write an array as text without a type, which PostgreSQL infers from what it is compared with."""
    quoted = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(value)


def _new_task(given: NewTask | Mapping[str, Any] | str) -> dict[str, Any] | str:
    if isinstance(given, str):
        return given
    task = asdict(given) if isinstance(given, NewTask) else dict(given)
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in task.items()}


def _report(given: TaskReport | Mapping[str, Any] | tuple[Any, ...]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        sent = {name: value for name, value in given.items() if value is not None}
    else:  # not by asdict(), which copies the result part by part
        told = given if isinstance(given, TaskReport) else TaskReport(*given)
        sent = {name: value for name in _REPORTED if (value := getattr(told, name)) is not None}
    check_status(sent.get("status"))
    if "task_id" in sent:
        sent["task_id"] = _task_id(sent["task_id"])
    return sent


def _task_id(given: Any) -> str:
    return str(given if isinstance(given, UUID) else UUID(str(given)))
