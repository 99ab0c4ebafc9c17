"""What the service reads: short selects on the views, as dictionaries ready for JSON."""

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, get_args
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import dict_row

from pyapp.web.types import Row, Status

_COLUMNS = sql.SQL(
    "p.workflow_id, p.workflow_id as id, p.name, p.description, p.type, p.status, p.current_stage, p.priority,"
    " p.progress, p.progress_percentage, p.agents_completed, p.agents_total, p.agents_created, p.agents_failed,"
    " p.agents_cancelled, p.agents_open, p.agents_planned, p.settled_percentage, p.progress_calculation_method,"
    " s.progress_percentage as stage_progress, p.trace_id, p.created_at, p.updated_at, p.completed_at,"
    " p.last_updated_at"
)
_STAGES = sql.SQL("left join public.workflow_stage_progress as s on s.workflow_id = p.workflow_id")


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""


class _Sort(NamedTuple):
    """An order that an index gives: its columns, and the condition for what comes after the keys k0, k1, ..."""

    order: LiteralString
    after: LiteralString
    keys: tuple[str, ...]


# The index on name has text_pattern_ops, which sort by code point (~<~) and serve the search by prefix as well.
_SORTS = {
    "created": _Sort(
        "created_at, workflow_id",
        "(created_at, workflow_id) > (%(k0)s::timestamptz, %(k1)s::uuid)",
        ("created_at", "workflow_id"),
    ),
    "-created": _Sort(
        "created_at desc, workflow_id desc",
        "(created_at, workflow_id) < (%(k0)s::timestamptz, %(k1)s::uuid)",
        ("created_at", "workflow_id"),
    ),
    "name": _Sort(
        "name using ~<~, workflow_id",
        "name ~>=~ %(k0)s and (name ~>~ %(k0)s or workflow_id > %(k1)s::uuid)",
        ("name", "workflow_id"),
    ),
    "-name": _Sort(
        "name using ~>~, workflow_id",
        "name ~<=~ %(k0)s and (name ~<~ %(k0)s or workflow_id > %(k1)s::uuid)",
        ("name", "workflow_id"),
    ),
    "status": _Sort(
        "status, created_at, workflow_id",
        "(status, created_at, workflow_id) > (%(k0)s::public.workflow_status, %(k1)s::timestamptz, %(k2)s::uuid)",
        ("status", "created_at", "workflow_id"),
    ),
    "-status": _Sort(
        "status desc, created_at desc, workflow_id desc",
        "(status, created_at, workflow_id) < (%(k0)s::public.workflow_status, %(k1)s::timestamptz, %(k2)s::uuid)",
        ("status", "created_at", "workflow_id"),
    ),
}


def list_page(
    conn: Connection[Any],
    *,
    status: Sequence[str] = (),
    type: str | None = None,
    priority: str | None = None,
    name: str | None = None,
    sort: str = "-created",
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Row], str | None]:
    """List a page of workflows; ``name`` is the beginning of the names wanted.

    Returns the workflows and the cursor of the next page, None on the last one. Raises BadCursor.
    """
    chosen = _SORTS[sort]
    values: dict[str, Any] = {
        "status": list(status),
        "type": type,
        "priority": priority,
        "name": None if name is None else _escape_like(name) + "%",
        "limit": limit + 1,
    }
    conditions = [
        sql.SQL(condition)
        for given, condition in (
            (status, "status = any (%(status)s::public.workflow_status[])"),
            (type, "type = %(type)s"),
            (priority, "priority = %(priority)s::public.priority_level"),
            (name, "name like %(name)s"),
        )
        if given
    ]
    if cursor is not None:
        values |= {f"k{place}": key for place, key in enumerate(_read_cursor(cursor, sort))}
        conditions.append(sql.SQL(chosen.after))
    # The limit comes first: stages are read for the rows of the page only, whose order the outside repeats.
    query = sql.SQL(
        "select {columns}, p.place from (select w.*, row_number() over (order by {order}) as place"
        " from public.workflow_progress as w where {where} order by {order} limit %(limit)s) as p {stages}"
        " order by p.place"
    ).format(
        columns=_COLUMNS,
        order=sql.SQL(chosen.order),
        where=sql.SQL(" and ").join(conditions or [sql.SQL("true")]),
        stages=_STAGES,
    )
    with conn.cursor(row_factory=dict_row) as reader:
        rows = reader.execute(query, values).fetchall()
    for row in rows:
        del row["place"]
    page = rows[:limit]
    return page, _write_cursor(page[-1], sort) if len(rows) > limit else None


def read_workflows(conn: Connection[Any], workflow_ids: Sequence[UUID]) -> list[Row]:
    """Read workflows by primary key. Returns those that exist."""
    query = sql.SQL("select {} from public.workflow_progress as p {} where p.workflow_id = any (%s)")
    with conn.cursor(row_factory=dict_row) as reader:
        return reader.execute(query.format(_COLUMNS, _STAGES), [list(workflow_ids)]).fetchall()


def active_ids(conn: Connection[Any], limit: int = 200) -> list[UUID]:
    """List the ids of the newest workflows that have not ended."""
    rows = conn.execute(
        "select workflow_id from public.workflow_progress where status in ('initiated', 'running', 'paused')"
        " order by created_at desc, workflow_id desc limit %s",
        [limit],
    ).fetchall()
    return [row[0] for row in rows]


def read_overview(conn: Connection[Any]) -> dict[str, Row]:
    """Count workflows by status, and the agents of all of them."""
    with conn.cursor(row_factory=dict_row) as reader:
        counts = reader.execute("select status, count(*) as n from public.workflow_progress group by status").fetchall()
        agents = reader.execute(
            "select coalesce(sum(agents_created), 0) as created, coalesce(sum(agents_completed), 0) as completed,"
            " coalesce(sum(agents_failed), 0) as failed, coalesce(sum(agents_cancelled), 0) as cancelled,"
            " coalesce(sum(agents_open), 0) as open from public.workflow_progress"
        ).fetchone()
    by_status = {row["status"]: row["n"] for row in counts}
    overview = {"total_workflows": sum(by_status.values())}
    overview |= {f"{status}_workflows": by_status.get(status, 0) for status in get_args(Status)}
    return {"overview": overview, "agents": agents or {}}


def read_attention(conn: Connection[Any], limit: int = 20) -> tuple[list[Row], list[Row]]:
    """Read what the overview shows: active workflows with their forecast, stalled ones first, and recent failures."""
    with conn.cursor(row_factory=dict_row) as reader:
        failed = reader.execute(
            sql.SQL(
                "select {} from (select w.* from public.workflow_progress as w where status = 'failed'"
                " order by created_at desc, workflow_id desc limit 5) as p {} order by p.created_at desc"
            ).format(_COLUMNS, _STAGES)
        ).fetchall()
        active = reader.execute(
            sql.SQL(
                "select {}, f.estimated_completion_at, f.stalled, f.last_activity_at"
                " from (select w.* from public.workflow_progress as w"
                " where status in ('initiated', 'running', 'paused')"
                " order by created_at desc, workflow_id desc limit %s) as p {}"
                " left join public.workflow_forecast as f on f.workflow_id = p.workflow_id"
                " order by f.stalled desc nulls last, p.agents_failed > 0 desc, p.created_at desc"
            ).format(_COLUMNS, _STAGES),
            [limit],
        ).fetchall()
    return active, failed


def list_rows(
    conn: Connection[Any], query: LiteralString, workflow_id: UUID, *, limit: int, offset: int = 0
) -> list[Row]:
    """Run a query on one workflow for at most ``limit`` rows."""
    with conn.cursor(row_factory=dict_row) as reader:
        return reader.execute(
            sql.SQL(query) + sql.SQL(" limit %(limit)s offset %(offset)s"),
            {"workflow": workflow_id, "limit": limit, "offset": offset},
        ).fetchall()


TASKS: LiteralString = (
    "select id, workflow_id, external_id, agent_type, stage, status, priority, created_at, assigned_at, started_at,"
    " completed_at, retry_count, max_retries, result, trace_id from public.agent_task"
    " where workflow_id = %(workflow)s order by created_at, id"
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
# Thinned out to what a chart can show; the last point is always among them.
BURNUP: LiteralString = (
    "select at, agents_completed, agents_total from (select b.*, row_number() over (order by at) as place,"
    " count(*) over () as points from public.workflow_burnup as b where workflow_id = %(workflow)s) as p"
    " where place = points or place %% greatest(1, points / 400) = 0 order by at"
)
FORECAST: LiteralString = (
    "select workflow_id, completed_per_minute::float, estimated_completion_at, basis_completions, basis_seconds::float,"
    " last_activity_at, stalled from public.workflow_forecast where workflow_id = %(workflow)s"
)


def _escape_like(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _write_cursor(row: Row, sort: str) -> str:
    keys = [row[name] for name in _SORTS[sort].keys]
    text = json.dumps([sort, *(key.isoformat() if isinstance(key, datetime) else str(key) for key in keys)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, sort: str) -> list[str]:
    read: dict[str, Callable[[str], object]] = {
        "workflow_id": UUID,
        "created_at": datetime.fromisoformat,
        "name": _text,
        "status": _status,
    }
    try:
        decoded = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, *keys = json.loads(decoded)
        if given != sort or not all(isinstance(key, str) for key in keys):
            raise ValueError
        for name, key in zip(_SORTS[sort].keys, keys, strict=True):
            read[name](key)
    except (ValueError, TypeError, RecursionError):
        raise BadCursor("cursor: not one of this list and order; start again without it") from None
    return list(keys)


def _text(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError
    return text


def _status(text: str) -> str:
    if text not in get_args(Status):
        raise ValueError
    return text
