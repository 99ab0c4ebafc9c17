"""What the service reads of one workflow: tasks, and what only our own tables have."""

from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import dict_row

from pyapp.source import OWN, Source
from pyapp.web import looks, queries
from pyapp.web.types import Row
from pyapp.web.values import keep_json

TASKS: LiteralString = (
    "select t.id::text as id, t.workflow_id::text as workflow_id, t.external_id, t.agent_type, t.stage, t.status,"
    " t.priority, t.created_at, t.assigned_at, t.started_at, t.completed_at, t.retry_count, t.max_retries, t.result,"
    " t.trace_id from {tasks} as t where t.workflow_id = %(workflow)s::text::{key_type} order by t.created_at, t.id"
)
EVENTS: LiteralString = (
    "select id, workflow_id, event_type, payload, occurred_at, trace_id from public.workflow_event"
    " where workflow_id = %(workflow)s order by id desc"
)
TIMELINE: LiteralString = (
    "select workflow_id, at, kind, name, what, detail from public.workflow_timeline where workflow_id = %(workflow)s"
)
STAGES: LiteralString = (
    "select workflow_id, name, position, status, weight, started_at, completed_at, retry_count, agents_completed,"
    " agents_failed, agents_total from public.workflow_stage_agents where workflow_id = %(workflow)s"
    " order by position, name"
)
# Thinned out to what a chart can show; the first and the last point are always among them.
BURNUP: LiteralString = (
    "select at, agents_completed, agents_total from (select b.*, row_number() over (order by at) as place,"
    " count(*) over () as points from public.workflow_burnup as b where workflow_id = %(workflow)s) as p"
    " where place in (1, points) or place %% greatest(1, points / 400) = 0 order by at"
)
FORECAST: LiteralString = (
    "select workflow_id, completed_per_minute::float, estimated_completion_at, basis_completions, basis_seconds::float,"
    " last_activity_at, stalled from public.workflow_forecast where workflow_id = %(workflow)s"
)
_ONLY_OURS = (EVENTS, TIMELINE, STAGES, BURNUP, FORECAST)
# Those that failed and those at work come first: with thousands of tasks they would not be among the oldest.
_OUR_PAGE: LiteralString = (
    "select id, external_id, agent_type, stage, status, priority, created_at, started_at, completed_at, retry_count,"
    " left(result::text, 1000) as result from ("
    "(select a.*, 0 as place from public.agent_task as a where workflow_id = %(workflow)s and status = 'failed'"
    " order by created_at, id limit 50) union all"
    " (select a.*, 1 as place from public.agent_task as a where workflow_id = %(workflow)s"
    " and status in ('assigned', 'running') order by created_at, id limit 50) union all"
    " (select a.*, 2 as place from public.agent_task as a where workflow_id = %(workflow)s"
    " and status in ('pending', 'completed', 'cancelled') order by created_at, id limit 200)"
    ") as t order by place, created_at, id"
)
_PAGE: LiteralString = (
    "select t.id::text as id, t.external_id, t.agent_type, t.stage, t.status, t.priority, t.created_at, t.started_at,"
    " t.completed_at, t.retry_count, null as result from {tasks} as t"
    " where t.workflow_id = %(workflow)s::text::{key_type} order by"
    " coalesce(lower(t.status) = any (%(failed)s::text[]), false) desc,"
    " coalesce(lower(t.status) = any (%(at_work)s::text[]), false) desc, t.created_at, t.id"
)
_AT_WORK: LiteralString = (
    "select count(*) as running from {tasks} as t where t.workflow_id = %(workflow)s::text::{key_type}"
    " and lower(t.status::text) = any (%(at_work)s::text[])"
)
_OUR_AT_WORK: LiteralString = (
    "select count(*) as running from public.agent_task"
    " where workflow_id = %(workflow)s and status in ('assigned', 'running')"
)


def list_rows(
    conn: Connection[Any],
    source: Source,
    query: LiteralString,
    workflow_id: str,
    *,
    limit: int,
    offset: int = 0,
    raw_json: bool = False,
) -> list[Row]:
    """Run a query on one workflow for at most ``limit`` rows; with ``raw_json`` JSON is passed on as it stands.

    Adopted pairs have no rows for what only our own tables have.
    """
    if source is not OWN and query in _ONLY_OURS:
        return []
    seen = looks.of(source.task_outcomes)
    values = {
        "workflow": workflow_id,
        "limit": limit,
        "offset": offset,
        "failed": [status for status, look in seen.items() if look == "failed"],
        "at_work": [status for status, look in seen.items() if look in ("assigned", "running")],
    }
    with conn.cursor(row_factory=dict_row) as reader:
        if raw_json:
            keep_json(reader)
        return reader.execute(
            sql.SQL(query).format(**queries.pieces(source)) + sql.SQL(" limit %(limit)s offset %(offset)s"), values
        ).fetchall()


def list_for_page(conn: Connection[Any], source: Source, workflow_id: str, limit: int) -> tuple[list[Row], int]:
    """List tasks for a page, failed ones and those at work first; return them and the number of those at work."""
    ours = source is OWN
    tasks = list_rows(conn, source, _OUR_PAGE if ours else _PAGE, workflow_id, limit=limit)
    at_work = list_rows(conn, source, _OUR_AT_WORK if ours else _AT_WORK, workflow_id, limit=1)
    return tasks, at_work[0]["running"]
