"""What the service reads: short selects on the views, as dictionaries ready for JSON."""

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple, get_args
from uuid import UUID

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import dict_row

from pyapp.web.types import Row, Status
from pyapp.web.values import keep_json

_COLUMNS = sql.SQL(
    "p.workflow_id, p.workflow_id as id, p.name, p.description, p.type, p.status, p.current_stage, p.priority,"
    " p.progress, p.progress_percentage, p.agents_completed, p.agents_total, p.agents_created, p.agents_failed,"
    " p.agents_cancelled, p.agents_open, p.agents_planned, p.settled_percentage, p.progress_calculation_method,"
    " s.progress_percentage as stage_progress, p.trace_id, p.created_at, p.updated_at, p.completed_at,"
    " p.last_updated_at"
)
_STAGES = sql.SQL("left join public.workflow_stage_progress as s on s.workflow_id = p.workflow_id")
ACTIVE = ("initiated", "running", "paused")
_BY_IDS = sql.SQL(
    "select {} from public.workflow_progress as p {} where p.workflow_id = any (%s)"
    " order by p.created_at desc, p.workflow_id desc"
).format(_COLUMNS, _STAGES)
_LONGEST = 4_000_000  # bytes that a cursor may unfold to
_NEWEST = sql.SQL("p.created_at desc, p.workflow_id desc")


def _by_status(statuses: Iterable[str], where: sql.Composable, order: sql.Composable) -> sql.Composable:
    """Read each status by itself, so that the index gives the order, wherever in it the rows lie."""
    one = "(select p.* from public.workflow_progress as p where p.status = {} and {} order by {} limit %(limit)s)"
    parts = [sql.SQL(one).format(sql.Literal(status), where, order) for status in statuses]
    return sql.SQL("({}) as p").format(sql.SQL(" union all ").join(parts))


ACTIVE_IDS = sql.SQL("select p.workflow_id from {} order by {} limit %(limit)s").format(
    _by_status(ACTIVE, sql.SQL("true"), _NEWEST), _NEWEST
)


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""


class _Sort(NamedTuple):
    """An order that an index gives: its columns, and the condition for what comes after the keys k0, k1, ..."""

    order: LiteralString
    after: LiteralString
    keys: tuple[str, ...]


_SORTS = {
    "created": _Sort(
        "p.created_at, p.workflow_id",
        "(p.created_at, p.workflow_id) > (%(k0)s::timestamptz, %(k1)s::uuid)",
        ("created_at", "workflow_id"),
    ),
    "-created": _Sort(
        "p.created_at desc, p.workflow_id desc",
        "(p.created_at, p.workflow_id) < (%(k0)s::timestamptz, %(k1)s::uuid)",
        ("created_at", "workflow_id"),
    ),
    "name": _Sort(
        'p.name collate "C", p.workflow_id',
        '(p.name collate "C", p.workflow_id) > (%(k0)s::text, %(k1)s::uuid)',
        ("name", "workflow_id"),
    ),
    "-name": _Sort(
        'p.name collate "C" desc, p.workflow_id desc',
        '(p.name collate "C", p.workflow_id) < (%(k0)s::text, %(k1)s::uuid)',
        ("name", "workflow_id"),
    ),
    "status": _Sort(
        "p.status, p.created_at, p.workflow_id",
        "(p.status, p.created_at, p.workflow_id) > (%(k0)s::public.workflow_status, %(k1)s::timestamptz, %(k2)s::uuid)",
        ("status", "created_at", "workflow_id"),
    ),
    "-status": _Sort(
        "p.status desc, p.created_at desc, p.workflow_id desc",
        "(p.status, p.created_at, p.workflow_id) < (%(k0)s::public.workflow_status, %(k1)s::timestamptz, %(k2)s::uuid)",
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
    query, values = page_query(status, type, priority, name, sort, limit, cursor)
    with conn.cursor(row_factory=dict_row) as reader:
        # Planned anew each time: a page of a rare type wants another plan than one of a frequent type.
        rows = reader.execute(query, values, prepare=False).fetchall()
    page = rows[:limit]
    return page, _write_cursor(page[-1], sort) if len(rows) > limit else None


def page_query(
    status: Iterable[str],
    type: str | None,
    priority: str | None,
    name: str | None,
    sort: str,
    limit: int,
    cursor: str | None,
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is a next one. Raises BadCursor."""
    chosen = _SORTS[sort]
    statuses = list(dict.fromkeys(status))
    values: dict[str, Any] = {
        "status": statuses,
        "type": type,
        "priority": priority,
        "name": None if name is None else _escape_like(name) + "%",
        "limit": limit + 1,
    }
    by_name = chosen.keys[0] == "name"
    conditions = [
        sql.SQL(condition)
        for given, condition in (
            (statuses and by_name, "p.status = any (%(status)s::public.workflow_status[])"),
            (type, "p.type = %(type)s"),
            (priority, "p.priority = %(priority)s::public.priority_level"),
            (name, 'p.name collate "C" like %(name)s'),
        )
        if given
    ]
    if cursor is not None:
        values |= {f"k{place}": key for place, key in enumerate(_read_cursor(cursor, sort))}
        conditions.append(sql.SQL(chosen.after))
    order = sql.SQL(chosen.order)
    where = sql.SQL(" and ").join(conditions or [sql.SQL("true")])
    if statuses and not by_name:
        rows = _by_status(statuses, where, order)
    else:
        rows = sql.SQL("public.workflow_progress as p where {}").format(where)
    # The limit comes first: stages are read for the rows of the page only, whose order the outside repeats.
    query = sql.SQL(
        "select {columns} from (select p.* from {rows} order by {order} limit %(limit)s) as p {stages} order by {order}"
    ).format(columns=_COLUMNS, rows=rows, order=order, stages=_STAGES)
    return query, values


def read_workflows(conn: Connection[Any], workflow_ids: Sequence[UUID]) -> list[Row]:
    """Read workflows by primary key. Returns those that exist, newest first."""
    with conn.cursor(row_factory=dict_row) as reader:
        return reader.execute(_BY_IDS, [list(workflow_ids)]).fetchall()


async def follow_workflows(conn: AsyncConnection[Any], workflow_ids: Iterable[UUID]) -> list[Row]:
    """Read workflows by primary key, as read_workflows does."""
    async with conn.cursor(row_factory=dict_row) as reader:
        return await (await reader.execute(_BY_IDS, [list(workflow_ids)])).fetchall()


async def active_ids(conn: AsyncConnection[Any], limit: int = 200) -> set[UUID]:
    """Find the newest workflows that have not ended."""
    return {row[0] for row in await (await conn.execute(ACTIVE_IDS, {"limit": limit})).fetchall()}


def read_overview(conn: Connection[Any]) -> dict[str, Row]:
    """Count workflows by status, and the agents of all of them."""
    with conn.cursor(row_factory=dict_row) as reader:
        rows = reader.execute(
            "select status, count(*) as workflows, sum(agents_created) as created, sum(agents_completed) as completed,"
            " sum(agents_failed) as failed, sum(agents_cancelled) as cancelled, sum(agents_open) as open"
            " from public.workflow_progress group by status"
        ).fetchall()
    by_status = {row["status"]: row["workflows"] for row in rows}
    return {
        "overview": {
            "total_workflows": sum(by_status.values()),
            **{f"{status}_workflows": by_status.get(status, 0) for status in get_args(Status)},
        },
        "agents": {
            outcome: sum(row[outcome] for row in rows)
            for outcome in ("created", "completed", "failed", "cancelled", "open")
        },
    }


def read_attention(conn: Connection[Any], limit: int = 20) -> tuple[list[Row], list[Row]]:
    """Read what the overview shows: active workflows with their forecast, stalled ones first, and recent failures."""
    with conn.cursor(row_factory=dict_row) as reader:
        failed = reader.execute(
            sql.SQL(
                "select {} from (select p.* from public.workflow_progress as p where p.status = 'failed'"
                " order by {} limit 5) as p {} order by {}"
            ).format(_COLUMNS, _NEWEST, _STAGES, _NEWEST)
        ).fetchall()
        # Which of them are stalled takes their tasks to tell; only those whose progress rests can be.
        active = reader.execute(
            sql.SQL(
                "select {}, f.estimated_completion_at, f.stalled, f.last_activity_at"
                " from (select p.* from public.workflow_progress as p where p.status in ({})"
                " order by p.status = 'running' and p.last_updated_at < now() - coalesce("
                "nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval desc,"
                " p.agents_failed > 0 desc, {} limit %s) as p {}"
                " left join public.workflow_forecast as f on f.workflow_id = p.workflow_id"
                " order by f.stalled desc nulls last, p.agents_failed > 0 desc, {}"
            ).format(_COLUMNS, sql.SQL(", ").join(map(sql.Literal, ACTIVE)), _NEWEST, _STAGES, _NEWEST),
            [limit],
        ).fetchall()
    return active, failed


def list_rows(
    conn: Connection[Any],
    query: LiteralString,
    workflow_id: UUID,
    *,
    limit: int,
    offset: int = 0,
    raw_json: bool = False,
) -> list[Row]:
    """Run a query on one workflow for at most ``limit`` rows; with ``raw_json`` JSON is passed on as it stands."""
    with conn.cursor(row_factory=dict_row) as reader:
        if raw_json:
            keep_json(reader)
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


def _escape_like(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _write_cursor(row: Row, sort: str) -> str:
    keys = [row[name] for name in _SORTS[sort].keys]
    text = json.dumps([sort, *(key.isoformat() if isinstance(key, datetime) else str(key) for key in keys)])
    # A name may be long; one that an index takes is short when compressed.
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _read_cursor(cursor: str, sort: str) -> list[str]:
    read: dict[str, Callable[[str], object]] = {
        "workflow_id": UUID,
        "created_at": datetime.fromisoformat,
        "name": _text,
        "status": _status,
    }
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        if given != sort or not all(isinstance(key, str) for key in keys):
            raise ValueError
        for name, key in zip(_SORTS[sort].keys, keys, strict=True):
            read[name](key)
    except (ValueError, TypeError, RecursionError, zlib.error):
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
