"""What is read: one select each.

Without ``schema`` it reads in the schema that ``AGENT_PROGRESS_SCHEMA`` names, else in ``public``. Since that may be
one of adopted tables, whose keys may be of any type, ids are sent as text without a type.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from time import perf_counter
from typing import Any, LiteralString, TypeVar

from pyapp.both import Conn
from pyapp.models import (
    BurnupPoint,
    Drift,
    Forecast,
    Key,
    ProgressMetrics,
    Stage,
    StageProgress,
    Task,
    TimelineEntry,
    TreeNode,
    TreeProgress,
    Trend,
    Vocabulary,
    Workflow,
    WorkflowState,
)
from pyapp.statements import array, fetch_row, fetch_rows

R = TypeVar("R")

# A type after the other, those first of which most ended, from the shortest period to the longest.
ORDER_OF_TRENDS: LiteralString = (
    "max(ended) over (partition by type) desc, type, array_position(array['24 h', '7 d', '30 d'], period)"
)
# Why a task p failed: what agents report, and adopted tables have, is a text, or an object that says what went wrong.
ERROR: LiteralString = """
    case
        when p.status <> 'failed' then null
        when jsonb_typeof(p.result) = 'string' then p.result #>> '{}'
        when jsonb_typeof(p.result -> 'error') = 'object'
            then coalesce(p.result #>> '{error,message}', p.result ->> 'error')
        else coalesce(p.result ->> 'error', p.result ->> 'message')
    end
"""
# The first line; of a traceback the last one.
ERROR_LINE: LiteralString = """
    (select left(substring(btrim(e.error, e' \\n\\r\\t') from
        case when starts_with(btrim(e.error), 'Traceback') then '[^\\n]*$' else '^[^\\n]*' end), 500)
    from (select {error}) as e (error))
""".replace("{error}", ERROR)
_NEWEST = "created_at desc, workflow_id desc"
_RESTS: LiteralString = "status = 'running' and last_updated_at < now() - interval '1 minute'"
ATTENTION: LiteralString = f"agents_failed > 0 is true desc, ({_RESTS}) is true desc"
"""Order of active workflows: those with failed tasks, then those that may have come to a halt, then the others."""


async def get_vocabulary(conn: Conn, *, schema: str | None = None) -> Vocabulary:
    """Get what workflows and tasks are called where people read of them.

    Returns ``agents`` for tasks in the tables that migrate creates, and what was said when others were adopted.
    """
    query = "select {columns} from {schema}.vocabulary"
    return (await fetch_rows(conn, schema, Vocabulary, query))[0]


async def get_workflow(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> Workflow:
    """Get one workflow with its progress.

    Returns what was last committed, by primary key. Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.workflow_progress where workflow_id = %s"
    return await fetch_row(conn, schema, Workflow, query, str(workflow_id), about=workflow_id)


async def get_workflows(conn: Conn, workflow_ids: Iterable[Key], *, schema: str | None = None) -> list[Workflow]:
    """Get several workflows with their progress, by primary key.

    Returns those that exist, newest first.
    """
    query = (
        "select {columns} from {schema}.workflow_progress"
        " where workflow_id = any (%s) order by created_at desc, workflow_id desc"
    )
    return await fetch_rows(conn, schema, Workflow, query, array(workflow_ids))


async def list_workflows(
    conn: Conn,
    *,
    status: str | Sequence[str] | None = None,
    type: str | None = None,
    priority: str | None = None,
    match: str | None = None,
    parent_id: Key | None = None,
    roots: bool = False,
    attention_first: bool = False,
    limit: int = 50,
    after: Workflow | tuple[datetime, Key] | None = None,
    schema: str | None = None,
) -> list[Workflow]:
    """List workflows, newest first.

    ``status`` takes one status or several. ``match`` lists those whose name contains it, without regard to case.
    ``parent_id`` lists those that this workflow started, ``roots`` those that no other started. ``attention_first``
    puts those first that have failed tasks, then running ones in which nothing was counted for a minute. ``after``
    takes the last workflow of the page before, or its creation time and id: the next page costs as much as the first.
    Returns at most ``limit`` workflows.
    """
    given = {
        "status = any (%s)": None if status is None else array([status] if isinstance(status, str) else status),
        "type = %s": type,
        "priority = %s": priority,
        "name ilike %s": None if match is None else "%" + re.sub(r"([\\%_])", r"\\\1", match) + "%",
        "parent_id = %s": None if parent_id is None else str(parent_id),
    }
    conditions = ["true"] + [condition for condition, value in given.items() if value is not None]
    values: list[Any] = [value for value in given.values() if value is not None]
    if roots:
        conditions.append("parent_id is null")
    if after is not None:
        created_at, key = (after.created_at, after.workflow_id) if isinstance(after, Workflow) else after
        conditions.append("(created_at, workflow_id) < (%s, %s)")
        values += [created_at, str(key)]
    query = "select {columns} from {schema}.workflow_progress where " + " and ".join(conditions)  # noqa: S608 (of these)
    order = f"{ATTENTION}, {_NEWEST}" if attention_first else _NEWEST
    query += f" order by {order} limit %s"
    return await fetch_rows(conn, schema, Workflow, query, *values, limit)


async def get_tree(
    conn: Conn, workflow_id: Key, *, limit: int | None = None, schema: str | None = None
) -> list[TreeNode]:
    """Get a workflow and all that is below it, each with its own progress.

    Returns the workflow itself first, and below each one what it started, the oldest first: the first ``limit`` of
    them, None for all. Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.workflow_tree where root_id = %s order by place limit %s"
    return await _fetch_of(conn, schema, workflow_id, TreeNode, query, str(workflow_id), limit)


async def tree_progress(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> TreeProgress:
    """Get the progress of a workflow with all that is below it, summed up.

    Reads a row for each workflow of the tree and no task. Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.workflow_tree_progress where workflow_id = %s"
    return await fetch_row(conn, schema, TreeProgress, query, str(workflow_id), about=workflow_id)


async def list_tree_progress(
    conn: Conn, workflow_ids: Iterable[Key], *, schema: str | None = None
) -> dict[Key, TreeProgress]:
    """Get the progress of several trees, by the id of the workflow at the top, of those that exist."""
    query = "select {columns} from {schema}.workflow_tree_progress where workflow_id = any (%s)"
    rows = await fetch_rows(conn, schema, TreeProgress, query, array(workflow_ids))
    return {tree.workflow_id: tree for tree in rows}


async def list_tasks(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> list[Task]:
    """List the tasks of a workflow in the order in which they were created.

    Raises WorkflowNotFound.
    """
    query = "select {columns} from {schema}.agent_task where workflow_id = %s order by ordinal, created_at, id"
    return await _fetch_of(conn, schema, workflow_id, Task, query, str(workflow_id))


async def get_state(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> WorkflowState:
    """Get status, stage and version of a workflow, to compare and swap on. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow as w (workflow_id) where workflow_id = %s"
    return await fetch_row(conn, schema, WorkflowState, query, str(workflow_id), about=workflow_id)


async def list_stages(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> list[Stage]:
    """List the stages of a workflow in their order, with their agents. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_stage_agents where workflow_id = %s order by position, name"
    return await _fetch_of(conn, schema, workflow_id, Stage, query, str(workflow_id))


async def stage_progress(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> StageProgress:
    """Get the progress of a workflow by its stages. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_stage_progress where workflow_id = %s"
    return await fetch_row(conn, schema, StageProgress, query, str(workflow_id), about=workflow_id)


async def get_forecasts(conn: Conn, workflow_ids: Iterable[Key], *, schema: str | None = None) -> dict[Key, Forecast]:
    """Get the forecasts of workflows, by id, of those that exist.

    Reads the last 100 completions and the tasks at work of each, however many tasks there are.
    """
    query = "select {columns} from {schema}.workflow_forecast where workflow_id = any (%s)"
    rows = await fetch_rows(conn, schema, Forecast, query, array(workflow_ids))
    return {forecast.workflow_id: forecast for forecast in rows}


async def list_timeline(
    conn: Conn,
    workflow_id: Key,
    *,
    limit: int | None = 1000,
    after: TimelineEntry | None = None,
    schema: str | None = None,
) -> list[TimelineEntry]:
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
    return await _fetch_of(conn, schema, workflow_id, TimelineEntry, query, *values, limit)


async def list_burnup(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> list[BurnupPoint]:
    """List the numbers of tasks completed and created over time, for plotting. Raises WorkflowNotFound."""
    query = "select {columns} from {schema}.workflow_burnup where workflow_id = %s order by at"
    return await _fetch_of(conn, schema, workflow_id, BurnupPoint, query, str(workflow_id))


async def list_workflow_trends(conn: Conn, *, schema: str | None = None) -> list[Trend]:
    """List how workflows ended in the last 24 hours, 7 days and 30 days, by their type, the most frequent first.

    Reads all workflows.
    """
    query = "select {columns} from {schema}.workflow_trend order by " + ORDER_OF_TRENDS  # noqa: S608 (a constant)
    return await fetch_rows(conn, schema, Trend, query)


async def list_task_trends(conn: Conn, *, schema: str | None = None) -> list[Trend]:
    """List the same of tasks, by the type of their agents.

    Reads at most the 100 tasks that were settled last of each of the newest 1,000 workflows.
    """
    query = "select {columns} from {schema}.task_trend order by " + ORDER_OF_TRENDS  # noqa: S608 (a constant)
    return await fetch_rows(conn, schema, Trend, query)


async def find_drift(
    conn: Conn, workflow_ids: Iterable[Key] | None = None, *, schema: str | None = None
) -> list[Drift]:
    """Find the workflows whose stored progress differs from their tasks, counted afresh.

    Looks at all workflows or at those given, and reads each of their tasks. Returns an empty list if all is well.
    """
    query = "select {columns} from {schema}.workflow_progress_drift"
    if workflow_ids is None:
        return await fetch_rows(conn, schema, Drift, query + " order by workflow_id")
    found: list[Drift] = []
    # One by one: PostgreSQL uses the index on tasks only where one workflow is asked for.
    for workflow_id in workflow_ids:
        found += await fetch_rows(conn, schema, Drift, query + " where workflow_id = %s", str(workflow_id))
    return found


async def progress_metrics(conn: Conn, workflow_id: Key, *, schema: str | None = None) -> ProgressMetrics:
    """Measure the progress of one workflow.

    Returns progress, how long it took to read it in milliseconds, and whether the stored numbers are stale: for that
    the tasks of the workflow are counted. Raises WorkflowNotFound.
    """
    started = perf_counter()
    workflow = await get_workflow(conn, workflow_id, schema=schema)
    elapsed = (perf_counter() - started) * 1000
    drift = await find_drift(conn, [workflow_id], schema=schema)
    return ProgressMetrics(
        workflow_id=workflow.workflow_id,
        progress_percentage=workflow.progress_percentage,
        agents_completed=workflow.agents_completed,
        agents_total=workflow.agents_total,
        calculation_time_ms=elapsed,
        stale_data=bool(drift),
    )


async def _fetch_of(
    conn: Conn, schema: str | None, workflow_id: Key, row: type[R], query: str, *values: Any
) -> list[R]:
    """Fetch rows of a workflow. Raises WorkflowNotFound where there are none, nor the workflow."""
    rows = await fetch_rows(conn, schema, row, query, *values)
    if not rows:
        await get_workflow(conn, workflow_id, schema=schema)
    return rows
