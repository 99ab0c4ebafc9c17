"""What the service reads beside the core's helpers: short selects on the same views."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, LiteralString, TypeAlias

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import class_row, dict_row

from pyapp import WorkflowNotFound, get_forecasts
from pyapp.models import WORKFLOW_STATUSES, BurnupPoint, Forecast, Stage, Task, TimelineEntry, Workflow
from pyapp.statements import array as as_array
from pyapp.watch import ACTIVE
from pyapp.web.answers import Event, Listed, columns
from pyapp.web.shape import Shape

NEWEST = sql.SQL("p.created_at desc, p.workflow_id desc")
FOLLOWED = 200
"""So many of the active workflows are followed."""


_AT_WORK = ("assigned", "running")
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


Asked: TypeAlias = tuple[bytes, Mapping[str, Any]]
"""A query and its values."""


def as_json(query: sql.Composable) -> bytes:
    """Select each row of a query as JSON, which is sent as the database writes it."""
    return sql.SQL("select row_to_json(r) from ({}) as r").format(query).as_bytes()


async def fetch(conn: AsyncConnection[Any], asked: Asked, prepare: bool | None = None) -> list[bytes]:
    """Read rows of one column: JSON."""
    return [row for (row,) in await (await conn.execute(*asked, prepare=prepare)).fetchall()]


def listed(
    shape: Shape,
    rows: sql.Composable,
    order: sql.Composable,
    summed: LiteralString = "true",
    *,
    sent: bool = False,
) -> sql.Composed:
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
        columns(Workflow, sent=sent),
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
def _by_key(shape: Shape, *, sent: bool) -> sql.Composed:
    rows = sql.SQL("(select p.* from {} as p where p.workflow_id = %(key)s)")
    return listed(shape, rows.format(shape.name("workflow_progress")), NEWEST, sent=sent)


@cache
def _workflow_json(shape: Shape) -> bytes:
    return as_json(_by_key(shape, sent=True))


@cache
def _followed_json(shape: Shape) -> bytes:
    rows = sql.SQL("(select p.* from {} as p where p.workflow_id = any (%(keys)s))")
    of = rows.format(shape.name("workflow_progress"))
    query = listed(shape, of, NEWEST, "p.workflow_id = any (%(summed)s)", sent=True)
    return sql.SQL("select r.id, row_to_json(r) from ({}) as r").format(query).as_bytes()


def ask_workflow(shape: Shape, workflow_id: str) -> Asked:
    """Ask for a workflow by its key."""
    return _workflow_json(shape), {"key": workflow_id}


def find_workflow(conn: Connection[Any], shape: Shape, workflow_id: str) -> Listed | None:
    """Read a workflow by its key."""
    with conn.cursor(row_factory=class_row(Listed)) as reader:
        return reader.execute(_by_key(shape, sent=False), {"key": workflow_id}).fetchone()


def require_workflow(conn: Connection[Any], shape: Shape, workflow_id: str) -> Listed:
    """Read a workflow by its key. Raises WorkflowNotFound."""
    if (found := find_workflow(conn, shape, workflow_id)) is None:
        raise WorkflowNotFound(workflow_id)
    return found


async def follow_workflows(
    conn: AsyncConnection[Any], shape: Shape, workflow_ids: Iterable[str], summed: Iterable[str]
) -> dict[str, bytes]:
    """Read workflows by their keys, with the trees of those ``summed``: JSON of those that exist, newest first."""
    values = {"keys": as_array(workflow_ids), "summed": as_array(summed)}
    return dict(await (await conn.execute(_followed_json(shape), values)).fetchall())


async def active_ids(conn: AsyncConnection[Any], shape: Shape) -> set[str]:
    """Find the newest workflows that no other started and that have not ended."""
    return {row[0] for row in await (await conn.execute(active_query(shape), [])).fetchall()}


@cache
def active_query(shape: Shape) -> sql.Composed:
    """Compose the query for the keys of the newest workflows that no other started and that have not ended."""
    conditions = [sql.SQL("p.status = {} and p.parent_id is null").format(status) for status in ACTIVE]
    rows = apart(shape, conditions, NEWEST, FOLLOWED)
    return sql.SQL("select p.workflow_id::text from {} as p order by {}").format(rows, NEWEST)


def read_attention(
    conn: Connection[Any], shape: Shape, limit: int = 20
) -> tuple[list[Listed], list[Listed], dict[str, Forecast]]:
    """Read what the overview shows: active workflows, those first that need attention, recent failures, forecasts.

    The active ones are those that no other started; what failed may be anywhere in a tree.
    """
    first = sql.SQL("{} desc, p.agents_failed > 0 desc, {}").format(_RESTS, NEWEST)
    statuses = sql.SQL(", ").join(map(sql.Literal, ACTIVE))
    of_active = apart(shape, [sql.SQL("p.status in ({}) and p.parent_id is null").format(statuses)], first, limit)
    of_failed = apart(shape, [sql.SQL("p.status = 'failed'")], NEWEST, 5)
    with conn.cursor(row_factory=class_row(Listed)) as reader:
        failed = reader.execute(listed(shape, of_failed, NEWEST), []).fetchall()
        active = reader.execute(listed(shape, of_active, NEWEST), []).fetchall()
    found = get_forecasts(conn, [workflow.workflow_id for workflow in active], schema=shape.schema)
    forecasts = {str(key): forecast for key, forecast in found.items()}

    def is_stalled(workflow: Listed) -> bool:
        return bool((forecast := forecasts.get(str(workflow.workflow_id))) and forecast.stalled)

    # The order is kept within those that need the same attention.
    return sorted(active, key=lambda one: (not is_stalled(one), not one.whole.agents_failed)), failed, forecasts


def count_active_roots(conn: Connection[Any], shape: Shape) -> int:
    """Count the workflows that no other started and that have not ended."""
    query = sql.SQL("select count(*) from {} as p where p.parent_id is null and p.status in ({})").format(
        shape.name("workflow_progress"), sql.SQL(", ").join(map(sql.Literal, ACTIVE))
    )
    row = conn.execute(query, []).fetchone()
    return row[0] if row else 0


@cache
def _part(shape: Shape, part: Part, *, sent: bool) -> sql.Composed:
    query = sql.SQL(part.query + " where p.workflow_id = %(key)s order by {order} limit %(limit)s offset %(offset)s")
    return query.format(
        columns=columns(part.of, sent=sent),  # type: ignore[arg-type]  # that classes hash
        relation=shape.name(part.relation),
        order=sql.SQL(part.order),
    )


def ask_part(shape: Shape, workflow_id: str, part: Part, limit: int = 1000, offset: int = 0) -> Asked:
    """Ask for a part of a workflow in its order."""
    return as_json(_part(shape, part, sent=True)), {"key": workflow_id, "limit": limit, "offset": offset}


def read_part(
    conn: Connection[Any], shape: Shape, workflow_id: str, part: Part, limit: int = 1000, offset: int = 0
) -> list[Any]:
    """Read a part of a workflow in its order; nothing where the schema does not have it."""
    if not shape.has(part.relation):
        return []
    with conn.cursor(row_factory=class_row(part.of)) as reader:
        values = {"key": workflow_id, "limit": limit, "offset": offset}
        return reader.execute(_part(shape, part, sent=False), values).fetchall()


def read_forecast(conn: Connection[Any], shape: Shape, workflow_id: str) -> Forecast | None:
    """Read the forecast of a workflow."""
    return next(iter(get_forecasts(conn, [workflow_id], schema=shape.schema).values()), None)


def read_archived_at(conn: Connection[Any], shape: Shape, workflow: Listed) -> datetime | None:
    """Tell since when a workflow is frozen, and whether that was to archive it: none of its tasks is left."""
    if not shape.has("workflow") or not workflow.agents_created:
        return None
    query = sql.SQL(
        "select w.progress_frozen_at from {} as w where w.id = %(workflow)s"
        " and not exists (select from {} as a where a.workflow_id = w.id)"
    ).format(shape.name("workflow"), shape.name("agent_task"))
    row = conn.execute(query, {"workflow": workflow.id}).fetchone()
    return row[0] if row else None


def read_page_of_tasks(
    conn: Connection[Any], shape: Shape, workflow_id: str, limit: int
) -> tuple[list[dict[str, Any]], int]:
    """Read tasks for a page, failed ones and those at work first; return them and the number of those at work.

    With thousands of tasks these would not be among the oldest.
    """
    one = sql.SQL(
        "(select p.*, {} as place from {} as p where p.workflow_id = %(workflow)s and p.status in ({})"
        " order by p.ordinal, p.created_at, p.id limit {})"
    )
    groups = ((("failed",), 50), (_AT_WORK, 50), (("pending", "completed", "cancelled"), 200))
    rows = sql.SQL(" union all ").join(
        one.format(place, shape.name("agent_task"), sql.SQL(", ").join(map(sql.Literal, statuses)), most)
        for place, (statuses, most) in enumerate(groups)
    )
    query = sql.SQL("select {} from ({}) as p order by p.place, p.ordinal, p.created_at, p.id limit %(limit)s").format(
        columns(Task, ("payload",), result="left(p.result::text, 1000)"), rows
    )
    count = sql.SQL("select count(*) from {} where workflow_id = %(workflow)s and status in ({})").format(
        shape.name("agent_task"), sql.SQL(", ").join(map(sql.Literal, _AT_WORK))
    )
    values = {"workflow": workflow_id, "limit": limit}
    with conn.cursor(row_factory=dict_row) as reader:
        tasks = reader.execute(query, values).fetchall()
    row = conn.execute(count, values).fetchone()
    return tasks, row[0] if row else 0


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
    return as_json(
        sql.SQL(
            "select row_to_json(o) as overview, row_to_json(a) as agents from (select {} from {} as p) as c"
            " cross join lateral (select {}) as o cross join lateral (select {}) as a"
        ).format(
            sql.SQL(", ").join(counted),
            shape.name("workflow_progress"),
            *(sql.SQL(", ").join(sql.Identifier("c", name) for name in names) for names in (counts, sums)),
        )
    )


def ask_overview(shape: Shape) -> Asked:
    """Ask for the number of workflows by status, and of the tasks of all of them."""
    return _overview(shape), {}


def read_overview(conn: Connection[Any], shape: Shape) -> dict[str, dict[str, int]]:
    """Count as ``ask_overview`` does."""
    row = conn.execute(*ask_overview(shape)).fetchone()
    found: dict[str, dict[str, int]] = row[0] if row else {}
    return found


def stalled(shape: Shape) -> sql.Composed:
    """Write the condition that a workflow ``p`` has come to a halt."""
    return sql.SQL("{} and exists (select from {} as f where f.workflow_id = p.workflow_id and f.stalled)").format(
        _RESTS, shape.name("workflow_forecast")
    )


def count_stalled(conn: Connection[Any], shape: Shape) -> float:
    """Count the workflows that have come to a halt."""
    query = sql.SQL("select count(*) from {} as p where {}").format(shape.name("workflow_progress"), stalled(shape))
    row = conn.execute(query, []).fetchone()
    return float(row[0]) if row else float("nan")


def count_drift(conn: Connection[Any], shape: Shape) -> float:
    """Count the workflows whose stored progress is wrong, which reads every task."""
    query = sql.SQL("select count(*) from {}").format(shape.name("workflow_progress_drift"))
    row = conn.execute(query, []).fetchone()
    return float(row[0]) if row else float("nan")
