"""What the service reads beside the core's helpers: short selects on the same views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, LiteralString, TypeAlias

from psycopg import sql
from psycopg.abc import Params

from pyapp import WorkflowNotFound, aio
from pyapp.db import quoted_name
from pyapp.models import WORKFLOW_STATUSES, BurnupPoint, Forecast, Stage, TimelineEntry, Trend, Workflow
from pyapp.reading import ATTENTION, ORDER_OF_TRENDS
from pyapp.statements import array as as_array
from pyapp.watch import ACTIVE
from pyapp.web.answers import Event, Listed
from pyapp.web.rows import Select, columns, selected
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn, fetch_values

NEWEST = sql.SQL("p.created_at desc, p.workflow_id desc")
FOLLOWED = 200
"""So many of the active workflows are followed."""
_ROOTS = sql.SQL("p.parent_id is null and p.status in ({})").format(sql.SQL(", ").join(map(sql.Literal, ACTIVE)))


@dataclass(frozen=True)
class Part:
    """Rows of a relation that belong to a workflow, in an order."""

    relation: str
    of: Any
    order: LiteralString
    rows: LiteralString = "{relation}"


EVENTS = Part("workflow_event", Event, "p.id desc")
TIMELINE = Part("workflow_timeline", TimelineEntry, "p.at, p.kind, p.place, p.name")
STAGES = Part("workflow_stage_agents", Stage, "p.position, p.name")
FORECAST = Part("workflow_forecast", Forecast, "p.workflow_id")
# Thinned out to what a chart can show; the first and the last point are always in it.
BURNUP = Part(
    "workflow_burnup",
    BurnupPoint,
    "p.at",
    "(select b.* from (select b.*, row_number() over (order by b.at) as place, count(*) over () as points"
    " from {relation} as b where b.workflow_id = %(key)s) as b"
    " where b.place in (1, b.points) or b.place %% greatest(1, b.points / 400) = 0)",
)
_COUNTED = ("completed", "total", "created", "failed", "cancelled")
_OF_TREE = ("workflows", "progress", *(f"agents_{what}" for what in _COUNTED))


# --- Workflows --------------------------------------------------------------------------------------------------


def listed(shape: Shape, rows: sql.Composable, order: sql.Composable, summed: LiteralString = "true") -> sql.Composed:
    """Select workflows as they are shown: ``rows`` of workflow_progress, and those that are ``summed`` with a tree."""
    stages, trees = shape.has("workflow_stage_progress"), shape.has("workflow_tree_progress")
    query: LiteralString = "select {columns}, p.workflow_id::text as id, {stage}, {tree} from {rows} as p"
    if stages:
        query += " left join {workflow_stage_progress} as s on s.workflow_id = p.workflow_id"
    if trees:
        # With offset 0 one after the other, by index, whatever the statistics say.
        query += (
            " left join lateral (select t.* from {workflow_tree_progress} as t"
            " where t.workflow_id = p.workflow_id and {summed} offset 0) as t on true"
        )
    form = "t.{} as tree_{}" if trees else "null::integer as tree_{1}"
    return shape.query(
        query + " order by {order}",
        columns=columns(Workflow),
        stage=sql.SQL("s.progress_percentage as stage_progress" if stages else "null::integer as stage_progress"),
        tree=sql.SQL(", ".join(form.format(name, name.removeprefix("agents_")) for name in _OF_TREE)),
        rows=rows,
        summed=sql.SQL(summed),
        order=order,
    )


def apart(parts: Sequence[tuple[sql.Composable, sql.Composable]], order: sql.Composable, limit: int) -> sql.Composed:
    """Read the rows of each condition by themselves, each from where it says, so that an index gives the order."""
    one = sql.SQL("(select p.* from {} as p where {} order by {} limit {})")
    found = [one.format(rows, condition, order, limit) for rows, condition in parts]
    if len(found) == 1:
        return found[0]
    return one.format(sql.SQL("({})").format(sql.SQL(" union all ").join(found)), sql.SQL("true"), order, limit)


@cache
def _by_key(shape: Shape) -> Select:
    rows = shape.query("(select p.* from {workflow_progress} as p where p.workflow_id = %(key)s)")
    return Select(Listed, listed(shape, rows, NEWEST))


@cache
def _by_keys(shape: Shape) -> Select:
    rows = shape.query("(select p.* from {workflow_progress} as p where p.workflow_id = any (%(keys)s))")
    query = listed(shape, rows, NEWEST, "p.workflow_id = any (%(summed)s)")
    return Select(Listed, query, key=sql.SQL("p.id"))


async def read_workflow(conn: Conn, shape: Shape, key: str, *, sent: bool = False) -> list[Any]:
    """Read a workflow by its key; an empty list where there is none."""
    return await _by_key(shape).fetch(conn, {"key": key}, sent=sent)


async def require_workflow(conn: Conn, shape: Shape, key: str) -> Listed:
    """Read a workflow by its key. Raises WorkflowNotFound."""
    found: list[Listed] = await read_workflow(conn, shape, key)
    if not found:
        raise WorkflowNotFound(key)
    return found[0]


async def read_workflows(
    conn: Conn, shape: Shape, keys: Iterable[str], summed: Iterable[str], *, sent: bool = False
) -> dict[str, Any]:
    """Read workflows by their keys, with the trees of those ``summed``: those that exist, the newest first."""
    values = {"keys": as_array(keys), "summed": as_array(summed)}
    return dict(await _by_keys(shape).fetch(conn, values, sent=sent))


async def active_ids(conn: Conn, shape: Shape) -> set[str]:
    """Find the newest workflows that no other started and that have not ended."""
    return set(await fetch_values(conn, _active(shape)))


@cache
def _active(shape: Shape) -> bytes:
    one = "p.status = {status} and p.parent_id is null"
    parts = [(shape.query("{workflow_progress}"), shape.query(one, status=sql.Literal(status))) for status in ACTIVE]
    query = "select p.workflow_id::text from {rows} as p order by {order}"
    return shape.query(query, rows=apart(parts, NEWEST, FOLLOWED), order=NEWEST).as_bytes()


async def read_attention(
    conn: Conn, shape: Shape, limit: int = 20
) -> tuple[list[Listed], list[Listed], dict[str, Forecast]]:
    """Read what the overview shows: active workflows, those first that need attention, recent failures, forecasts.

    The active ones are those that no other started; what failed may be anywhere in a tree.
    """
    of_active, of_failed = _attention(shape, limit)
    active, failed = await of_active.fetch(conn), await of_failed.fetch(conn)
    found = await aio.get_forecasts(conn, [workflow.workflow_id for workflow in active], schema=shape.schema)
    forecasts = {str(key): forecast for key, forecast in found.items()}
    stalled = {key for key, forecast in forecasts.items() if forecast.stalled}
    # The order is kept within those that need the same attention.
    active.sort(key=lambda one: (not one.whole.agents_failed, one.id not in stalled))
    return active, failed, forecasts


@cache
def _attention(shape: Shape, limit: int) -> list[Select]:
    all_rows = shape.query("{workflow_progress}")
    first = sql.SQL("{}, {}").format(sql.SQL(ATTENTION), NEWEST)
    active = apart([(all_rows, _ROOTS)], first, limit)
    failed = apart([(all_rows, sql.SQL("p.status = 'failed'"))], NEWEST, 5)
    return [Select(Listed, listed(shape, rows, NEWEST)) for rows in (active, failed)]


# --- Parts of a workflow ----------------------------------------------------------------------------------------


@cache
def _part(shape: Shape, part: Part) -> Select:
    query = shape.query(
        "select {columns} from {rows} as p where p.workflow_id = %(key)s order by {order}"
        " limit %(limit)s offset %(offset)s",
        columns=columns(part.of),
        rows=shape.query(part.rows, relation=quoted_name(shape.schema, part.relation)),
        order=sql.SQL(part.order),
    )
    return Select(part.of, query)


async def read_part(
    conn: Conn, shape: Shape, key: str, part: Part, limit: int = 1000, offset: int = 0, *, sent: bool = False
) -> list[Any]:
    """Read a part of a workflow in its order; nothing where the schema does not have it."""
    if not shape.has(part.relation):
        return []
    return await _part(shape, part).fetch(conn, {"key": key, "limit": limit, "offset": offset}, sent=sent)


async def read_archived_at(conn: Conn, shape: Shape, workflow: Listed) -> datetime | None:
    """Tell since when a workflow is frozen, and whether that was to archive it: none of its tasks is left."""
    if not shape.has("workflow") or not workflow.agents_created:
        return None
    query = shape.query(
        "select w.progress_frozen_at from {workflow} as w where w.id = %(key)s"
        " and not exists (select from {agent_task} as a where a.workflow_id = w.id)"
    )
    return next(iter(await fetch_values(conn, query, {"key": workflow.id})), None)


async def read_slow(conn: Conn, shape: Shape, workflow: Listed, now: datetime) -> dict[str, float] | None:
    """Compare a running workflow with those of its type that were completed, of the last 30 days.

    Where it is slow, returns how long 95 of 100 took at most, and by how much it is over that, in seconds.
    """
    if workflow.status != "running" or workflow.created_at is None or workflow.type is None:
        return None
    # The last 1,000 are enough, and bound what is read; of fewer than 20, the slowest is no measure.
    query = shape.query("""
        select percentile_cont(0.95) within group (order by extract(epoch from p.completed_at - p.created_at))
        from (
            select p.created_at, p.completed_at
            from {workflow_progress} as p
            where
                p.type = %s
                and p.status = 'completed'
                and p.completed_at is not null
                and p.created_at >= %s::timestamptz - interval '30 days'
            order by p.created_at desc
            limit 1000
        ) as p
        having count(*) >= 20
    """)
    found = await fetch_values(conn, query, [workflow.type, now])
    took = (now - workflow.created_at) / timedelta(seconds=1)
    return next(({"usual": usual, "over": took - usual} for usual in map(float, found) if took > usual), None)


# --- All of them ------------------------------------------------------------------------------------------------


async def count_rows(conn: Conn, rows: sql.Composed, values: Params = ()) -> int:
    """Count rows."""
    [found] = await fetch_values(conn, sql.SQL("select count(*) from {}").format(rows), values)
    return int(found)


async def count_roots(conn: Conn, shape: Shape) -> int:
    """Count the active workflows that no other started."""
    return await count_rows(conn, shape.query("{workflow_progress} as p where {roots}", roots=_ROOTS))


def stalled(shape: Shape) -> sql.Composed:
    """Write the condition that a workflow ``p`` has come to a halt."""
    # Whether it is takes its tasks to tell; only those whose progress rests can be.
    return shape.query(
        "p.status = 'running' and p.last_updated_at < now() - coalesce("
        "nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval"
        " and exists (select from {workflow_forecast} as f where f.workflow_id = p.workflow_id and f.stalled)"
    )


async def count_stalled(conn: Conn, shape: Shape) -> int:
    """Count the workflows that have come to a halt."""
    return await count_rows(conn, shape.query("{workflow_progress} as p where {stalled}", stalled=stalled(shape)))


async def count_drift(conn: Conn, shape: Shape) -> int:
    """Count the workflows whose stored progress is wrong, which reads every task."""
    return await count_rows(conn, shape.query("{workflow_progress_drift}"))


async def send_overview(conn: Conn, shape: Shape) -> bytes:
    """Count workflows by status, and the tasks of all of them, as JSON."""
    [found] = await fetch_values(conn, _overview(shape))
    return bytes(found)


@cache
def _overview(shape: Shape) -> bytes:
    counts = {f"{status}_workflows": f"count(*) filter (where p.status = '{status}')" for status in WORKFLOW_STATUSES}
    counts["total_workflows"] = "count(*)"
    outcomes = ("created", "completed", "failed", "cancelled", "open")
    sums = {outcome: f"coalesce(sum(p.agents_{outcome}), 0)" for outcome in outcomes}
    counted = ", ".join(f"{value} as {name}" for name, value in (counts | sums).items())
    return shape.query(
        "select row_to_json(r) from (select {counted} from {workflow_progress} as p) as c"
        " cross join lateral (select {counts}) as o cross join lateral (select {sums}) as a"
        " cross join lateral (select o as overview, a as agents) as r",
        counted=sql.SQL(counted),
        counts=sql.SQL(", ".join(f"c.{name}" for name in counts)),
        sums=sql.SQL(", ".join(f"c.{name}" for name in sums)),
    ).as_bytes()


By: TypeAlias = Literal["type", "agent_type"]


_TRENDS: LiteralString = "select {columns} from {workflow_trend} as p order by " + ORDER_OF_TRENDS  # noqa: S608 (fixed)


async def read_trends(conn: Conn, shape: Shape, by: By, *, sent: bool = False) -> list[Any]:
    """Read the trends of workflows by their type, or of tasks by the type of their agents."""
    query = _TRENDS if by == "type" else _TRENDS.replace("workflow_trend", "task_trend")
    return await selected(shape, Trend, query).fetch(conn, sent=sent)
