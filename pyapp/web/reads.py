"""What the service reads beside the core's helpers: short selects on the same views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql
from psycopg.abc import Params

from pyapp import WorkflowNotFound, aio
from pyapp.models import WORKFLOW_STATUSES, BurnupPoint, Forecast, Stage, TimelineEntry, Workflow
from pyapp.reading import ATTENTION
from pyapp.statements import array as as_array
from pyapp.watch import ACTIVE
from pyapp.web.answers import Event, Listed, columns
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_rows, fetch_values

NEWEST = sql.SQL("p.created_at desc, p.workflow_id desc")
FOLLOWED = 200
"""So many of the active workflows are followed."""


# Which workflows are stalled takes their tasks to tell; only those whose progress rests can be.
_RESTS = sql.SQL(
    "p.status = 'running' and p.last_updated_at < now() - coalesce("
    "nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval"
)


@dataclass(frozen=True)
class Part:
    """Rows of a relation that belong to a workflow, in an order."""

    relation: str
    of: type[Any]
    order: LiteralString
    query: LiteralString = "select {columns} from {relation} as p"


EVENTS = Part("workflow_event", Event, "p.id desc")
TIMELINE = Part("workflow_timeline", TimelineEntry, "p.at, p.kind, p.place, p.name")
STAGES = Part("workflow_stage_agents", Stage, "p.position, p.name")
FORECAST = Part("workflow_forecast", Forecast, "p.workflow_id")
# Thinned out to what a chart can show; the first and the last point are always in it.
BURNUP = Part(
    "workflow_burnup",
    BurnupPoint,
    "p.at",
    query="select {columns} from (select b.* from"
    " (select b.*, row_number() over (order by b.at) as place, count(*) over () as points"
    " from {relation} as b where b.workflow_id = %(key)s) as b"
    " where b.place in (1, b.points) or b.place %% greatest(1, b.points / 400) = 0) as p",
)


_OF_TREE = {
    "tree_workflows": "workflows",
    "tree_progress": "progress",
    **{f"tree_{what}": f"agents_{what}" for what in ("completed", "total", "created", "failed", "cancelled")},
}


def as_json(
    query: sql.Composable, of: type[Any], without: tuple[str, ...] = (), *, key: sql.Composable | None = None
) -> sql.Composed:
    """Select each row of a query as JSON, which is sent as the database writes it; behind its ``key``, if wanted."""
    chosen = sql.SQL(", ").join([*([] if key is None else [key]), sql.SQL("row_to_json(r)")])
    sent = columns(of, without, sent=True)  # type: ignore[arg-type]  # that classes hash
    return sql.SQL("select {} from ({}) as p cross join lateral (select {}) as r").format(chosen, query, sent)


def listed(shape: Shape, rows: sql.Composable, order: sql.Composable, summed: LiteralString = "true") -> sql.Composed:
    """Select workflows as they are shown: ``rows`` of workflow_progress, and those that are ``summed`` with a tree."""
    stages, trees = shape.has("workflow_stage_progress"), shape.has("workflow_tree_progress")
    joins: list[sql.Composable] = []
    if stages:
        join: LiteralString = "left join {} as s on s.workflow_id = p.workflow_id"
        joins.append(sql.SQL(join).format(shape.name("workflow_stage_progress")))
    if trees:
        # With offset 0 one after the other, by index, whatever the statistics say.
        join = "left join lateral (select t.* from {} as t where t.workflow_id = p.workflow_id and {} offset 0) as t"
        joins.append(sql.SQL(join + " on true").format(shape.name("workflow_tree_progress"), sql.SQL(summed)))
    values = (
        sql.SQL("{} as {}").format(
            sql.Identifier("t", theirs) if trees else sql.SQL("null::integer"), sql.Identifier(ours)
        )
        for ours, theirs in _OF_TREE.items()
    )
    return sql.SQL("select {}, p.workflow_id::text as id, {} as stage_progress, {} from {} as p {} order by {}").format(
        columns(Workflow),
        sql.SQL("s.progress_percentage" if stages else "null::integer"),
        sql.SQL(", ").join(values),
        rows,
        sql.SQL(" ").join(joins),
        order,
    )


def apart(shape: Shape, conditions: Sequence[sql.Composable], order: sql.Composable, limit: int) -> sql.Composed:
    """Read the workflows of each condition by themselves, so that an index gives the order, wherever in it they lie."""
    return apart_from([(shape.name("workflow_progress"), condition) for condition in conditions], order, limit)


def apart_from(
    parts: Sequence[tuple[sql.Composable, sql.Composable]], order: sql.Composable, limit: int
) -> sql.Composed:
    """Read the rows of each condition by themselves, each from where it says."""
    one = sql.SQL("(select p.* from {} as p where {} order by {} limit {})")
    found = [one.format(rows, condition, order, limit) for rows, condition in parts]
    if len(found) == 1:
        return found[0]
    rows = sql.SQL(" union all ").join(found)
    return sql.SQL("(select p.* from ({}) as p order by {} limit {})").format(rows, order, limit)


@cache
def _by_key(shape: Shape) -> sql.Composed:
    rows = sql.SQL("(select p.* from {} as p where p.workflow_id = %(key)s)")
    return listed(shape, rows.format(shape.name("workflow_progress")), NEWEST)


@cache
def _workflow_json(shape: Shape) -> bytes:
    return as_json(_by_key(shape), Listed).as_bytes()


@cache
def _followed_json(shape: Shape) -> bytes:
    rows = sql.SQL("(select p.* from {} as p where p.workflow_id = any (%(keys)s))")
    of = rows.format(shape.name("workflow_progress"))
    return as_json(
        listed(shape, of, NEWEST, "p.workflow_id = any (%(summed)s)"), Listed, key=sql.SQL("p.id")
    ).as_bytes()


async def send_workflow(conn: AsyncConnection[Any], shape: Shape, workflow_id: str) -> list[bytes]:
    """Read a workflow by its key, as JSON."""
    return await fetch_values(conn, _workflow_json(shape), {"key": workflow_id})


async def find_workflow(conn: AsyncConnection[Any], shape: Shape, workflow_id: str) -> Listed | None:
    """Read a workflow by its key."""
    return next(iter(await fetch_rows(conn, Listed, _by_key(shape), {"key": workflow_id})), None)


async def require_workflow(conn: AsyncConnection[Any], shape: Shape, workflow_id: str) -> Listed:
    """Read a workflow by its key. Raises WorkflowNotFound."""
    if (found := await find_workflow(conn, shape, workflow_id)) is None:
        raise WorkflowNotFound(workflow_id)
    return found


async def read_workflows(conn: AsyncConnection[Any], shape: Shape, workflow_ids: Iterable[str]) -> list[Listed]:
    """Read workflows by their keys."""
    rows = sql.SQL("(select p.* from {} as p where p.workflow_id = any (%s))").format(shape.name("workflow_progress"))
    return await fetch_rows(conn, Listed, listed(shape, rows, NEWEST), [as_array(workflow_ids)])


async def follow_workflows(
    conn: AsyncConnection[Any], shape: Shape, workflow_ids: Iterable[str], summed: Iterable[str]
) -> dict[str, bytes]:
    """Read workflows by their keys, with the trees of those ``summed``: JSON of those that exist, newest first."""
    values = {"keys": as_array(workflow_ids), "summed": as_array(summed)}
    return dict(await (await conn.execute(_followed_json(shape), values)).fetchall())


async def active_ids(conn: AsyncConnection[Any], shape: Shape) -> set[str]:
    """Find the newest workflows that no other started and that have not ended."""
    return set(await fetch_values(conn, _active(shape)))


@cache
def _active(shape: Shape) -> sql.Composed:
    conditions = [sql.SQL("p.status = {} and p.parent_id is null").format(status) for status in ACTIVE]
    rows = apart(shape, conditions, NEWEST, FOLLOWED)
    return sql.SQL("select p.workflow_id::text from {} as p order by {}").format(rows, NEWEST)


async def read_attention(
    conn: AsyncConnection[Any], shape: Shape, limit: int = 20
) -> tuple[list[Listed], list[Listed], dict[str, Forecast]]:
    """Read what the overview shows: active workflows, those first that need attention, recent failures, forecasts.

    The active ones are those that no other started; what failed may be anywhere in a tree.
    """
    first = sql.SQL("{}, {}").format(sql.SQL(ATTENTION), NEWEST)
    statuses = sql.SQL(", ").join(map(sql.Literal, ACTIVE))
    of_active = apart(shape, [sql.SQL("p.status in ({}) and p.parent_id is null").format(statuses)], first, limit)
    of_failed = apart(shape, [sql.SQL("p.status = 'failed'")], NEWEST, 5)
    failed = await fetch_rows(conn, Listed, listed(shape, of_failed, NEWEST))
    active = await fetch_rows(conn, Listed, listed(shape, of_active, NEWEST))
    found = await aio.get_forecasts(conn, [workflow.workflow_id for workflow in active], schema=shape.schema)
    forecasts = {str(key): forecast for key, forecast in found.items()}

    def is_stalled(workflow: Listed) -> bool:
        return bool((forecast := forecasts.get(str(workflow.workflow_id))) and forecast.stalled)

    # The order is kept within those that need the same attention.
    return sorted(active, key=lambda one: (not one.whole.agents_failed, not is_stalled(one))), failed, forecasts


async def count_rows(
    conn: AsyncConnection[Any], of: sql.Composable, condition: sql.Composable, values: Params = ()
) -> int:
    """Count rows ``p``."""
    query = sql.SQL("select count(*) from {} as p where {}").format(of, condition)
    [found] = await fetch_values(conn, query, values)
    return int(found)


async def count_active_roots(conn: AsyncConnection[Any], shape: Shape) -> int:
    """Count the workflows that no other started and that have not ended."""
    active = sql.SQL(", ").join(map(sql.Literal, ACTIVE))
    condition = sql.SQL("p.parent_id is null and p.status in ({})").format(active)
    return await count_rows(conn, shape.name("workflow_progress"), condition)


@cache
def _part(shape: Shape, part: Part) -> sql.Composed:
    query = sql.SQL(part.query + " where p.workflow_id = %(key)s order by {order} limit %(limit)s offset %(offset)s")
    return query.format(
        columns=columns(part.of),  # type: ignore[arg-type]  # that classes hash
        relation=shape.name(part.relation),
        order=sql.SQL(part.order),
    )


@cache
def _part_json(shape: Shape, part: Part) -> bytes:
    return as_json(_part(shape, part), part.of).as_bytes()


async def send_part(
    conn: AsyncConnection[Any], shape: Shape, workflow_id: str, part: Part, limit: int = 1000, offset: int = 0
) -> list[bytes]:
    """Read a part of a workflow in its order, as JSON; nothing where the schema does not have it."""
    if not shape.has(part.relation):
        return []
    return await fetch_values(conn, _part_json(shape, part), {"key": workflow_id, "limit": limit, "offset": offset})


async def read_part(
    conn: AsyncConnection[Any], shape: Shape, workflow_id: str, part: Part, limit: int = 1000
) -> list[Any]:
    """Read a part of a workflow as ``send_part`` does, for a page."""
    if not shape.has(part.relation):
        return []
    return await fetch_rows(conn, part.of, _part(shape, part), {"key": workflow_id, "limit": limit, "offset": 0})


async def read_archived_at(conn: AsyncConnection[Any], shape: Shape, workflow: Listed) -> datetime | None:
    """Tell since when a workflow is frozen, and whether that was to archive it: none of its tasks is left."""
    if not shape.has("workflow") or not workflow.agents_created:
        return None
    query = sql.SQL(
        "select w.progress_frozen_at from {} as w where w.id = %(workflow)s"
        " and not exists (select from {} as a where a.workflow_id = w.id)"
    ).format(shape.name("workflow"), shape.name("agent_task"))
    return next(iter(await fetch_values(conn, query, {"workflow": workflow.id})), None)


@cache
def _overview(shape: Shape) -> bytes:
    counts: dict[str, sql.Composable] = {
        f"{status}_workflows": sql.SQL("count(*) filter (where p.status = {})").format(status)
        for status in WORKFLOW_STATUSES
    }
    counts["total_workflows"] = sql.SQL("count(*)")
    sums: dict[str, sql.Composable] = {
        outcome: sql.SQL("coalesce(sum(p.{}), 0)").format(sql.Identifier(f"agents_{outcome}"))
        for outcome in ("created", "completed", "failed", "cancelled", "open")
    }
    counted = (sql.SQL("{} as {}").format(what, sql.Identifier(name)) for name, what in (counts | sums).items())
    query = sql.SQL(
        "select row_to_json(r) from (select {} from {} as p) as c cross join lateral (select {}) as o"
        " cross join lateral (select {}) as a cross join lateral (select o as overview, a as agents) as r"
    ).format(
        sql.SQL(", ").join(counted),
        shape.name("workflow_progress"),
        *(sql.SQL(", ").join(sql.Identifier("c", name) for name in names) for names in (counts, sums)),
    )
    return query.as_bytes()


async def send_overview(conn: AsyncConnection[Any], shape: Shape) -> bytes:
    """Count workflows by status, and the tasks of all of them, as JSON."""
    [found] = await fetch_values(conn, _overview(shape))
    return bytes(found)


def stalled(shape: Shape) -> sql.Composed:
    """Write the condition that a workflow ``p`` has come to a halt."""
    return sql.SQL("{} and exists (select from {} as f where f.workflow_id = p.workflow_id and f.stalled)").format(
        _RESTS, shape.name("workflow_forecast")
    )


async def count_stalled(conn: AsyncConnection[Any], shape: Shape) -> int:
    """Count the workflows that have come to a halt."""
    return await count_rows(conn, shape.name("workflow_progress"), stalled(shape))


async def count_drift(conn: AsyncConnection[Any], shape: Shape) -> int:
    """Count the workflows whose stored progress is wrong, which reads every task."""
    return await count_rows(conn, shape.name("workflow_progress_drift"), sql.SQL("true"))
