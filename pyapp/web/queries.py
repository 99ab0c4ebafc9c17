"""What the service reads of workflows: short selects on the views, as dictionaries ready for JSON.

Each takes the source: our own tables, or an adopted pair. Keys are text, whatever their type is in the database.
"""

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, get_args

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import dict_row

from pyapp.source import OWN, Source, verbatim
from pyapp.web.types import Row, Status

_COLUMNS: LiteralString = (
    "p.workflow_id::text as workflow_id, p.workflow_id::text as id, p.name, p.description, p.type, p.status,"
    " p.current_stage, p.priority, p.progress, p.progress_percentage, p.agents_completed, p.agents_total,"
    " p.agents_created, p.agents_failed, p.agents_cancelled, p.agents_open, p.agents_planned, p.settled_percentage,"
    " p.progress_calculation_method, {} as stage_progress, p.trace_id, p.created_at, p.updated_at, p.completed_at,"
    " p.last_updated_at"
)
# Which of them are stalled takes their tasks to tell; only those whose progress rests can be.
_OUR_ATTENTION: LiteralString = (
    "select {columns}, f.estimated_completion_at, f.stalled, f.last_activity_at"
    " from (select p.* from public.workflow_progress as p where {active}"
    " order by p.status = 'running' and p.last_updated_at < now() - coalesce("
    "nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval desc,"
    " p.agents_failed > 0 desc, {newest} limit %(limit)s) as p {stages}"
    " left join public.workflow_forecast as f on f.workflow_id = p.workflow_id"
    " order by f.stalled desc nulls last, p.agents_failed > 0 desc, {newest}"
)
_ATTENTION: LiteralString = (
    "select {columns} from {progress} as p where {active} order by p.agents_failed > 0 desc, {newest} limit %(limit)s"
)


def pieces(source: Source) -> dict[str, sql.Composable]:
    """Say what the queries are made of: adopted pairs have no stages, and may not tell when a workflow was created."""
    stages = "left join public.workflow_stage_progress as s on s.workflow_id = p.workflow_id" if source is OWN else ""
    stage = "s.progress_percentage" if source is OWN else "null::integer"
    ours = sql.SQL("p.status in ({})").format(sql.SQL(", ").join(map(sql.Literal, source.active or ())))
    theirs = sql.SQL("coalesce(lower(p.status), '') <> all (%(settled)s::text[])")
    newest = "p.created_at desc, p.workflow_id desc" if source.by_creation else "p.workflow_id desc"
    return {
        "columns": sql.SQL(_COLUMNS).format(sql.SQL(stage)),
        "stages": sql.SQL(stages),
        "progress": verbatim(source.progress),
        "tasks": verbatim(source.tasks),
        "drift": verbatim(source.drift),
        "key_type": verbatim(source.key_type),
        "newest": sql.SQL(newest),
        "active": ours if source is OWN else theirs,
    }


def by_status(statuses: Iterable[str], where: sql.Composable, order: sql.Composable) -> sql.Composable:
    """Read each of our statuses by itself, so that the index gives the order, wherever in it the rows lie."""
    one = "(select p.* from public.workflow_progress as p where p.status = {} and {} order by {} limit %(limit)s)"
    listed = [sql.SQL(one).format(sql.Literal(status), where, order) for status in statuses]
    return sql.SQL("({}) as p").format(sql.SQL(" union all ").join(listed))


def keys(conn: Connection[Any], source: Source, given: Sequence[str]) -> list[str]:
    """Write keys as the database does. Raises DataError where one is not of the type that keys have."""
    query = sql.SQL("select (%s::text[]::{key_type}[])::text[]").format(**pieces(source))
    row = conn.execute(query, [list(given)]).fetchone()
    return list(row[0]) if row else []


def _by_keys(source: Source) -> sql.Composed:
    return sql.SQL(
        "select {columns} from {progress} as p {stages} where p.workflow_id = any (%s::text[]::{key_type}[])"
        " order by {newest}"
    ).format(**pieces(source))


def read_workflows(conn: Connection[Any], source: Source, workflow_ids: Sequence[str]) -> list[Row]:
    """Read workflows by primary key. Returns those that exist, newest first."""
    with conn.cursor(row_factory=dict_row) as reader:
        return reader.execute(_by_keys(source), [list(workflow_ids)]).fetchall()


async def follow_workflows(conn: AsyncConnection[Any], source: Source, workflow_ids: Iterable[str]) -> list[Row]:
    """Read workflows by primary key, as read_workflows does."""
    async with conn.cursor(row_factory=dict_row) as reader:
        return await (await reader.execute(_by_keys(source), [list(workflow_ids)])).fetchall()


def active_query(source: Source) -> sql.Composed:
    """Compose the query for the keys of the newest workflows that have not ended."""
    if source is OWN:
        rows = by_status(source.active or (), sql.SQL("true"), pieces(source)["newest"])
    else:
        rows = sql.SQL("{progress} as p where {active}").format(**pieces(source))
    return sql.SQL("select p.workflow_id::text from {rows} order by {newest} limit %(limit)s").format(
        **pieces(source), rows=rows
    )


async def active_ids(conn: AsyncConnection[Any], source: Source, limit: int = 200) -> set[str]:
    """Find the newest workflows that have not ended."""
    values = {"limit": limit, "settled": list(source.settled)}
    return {row[0] for row in await (await conn.execute(active_query(source), values)).fetchall()}


def read_overview(conn: Connection[Any], source: Source = OWN) -> dict[str, Row]:
    """Count workflows by status, and the agents of all of them; an application's statuses are its own words."""
    with conn.cursor(row_factory=dict_row) as reader:
        rows = reader.execute(
            sql.SQL(
                "select p.status, count(*) as workflows, sum(p.agents_created) as created,"
                " sum(p.agents_completed) as completed, sum(p.agents_failed) as failed,"
                " sum(p.agents_cancelled) as cancelled, sum(p.agents_open) as open"
                " from {progress} as p group by p.status order by workflows desc, p.status"
            ).format(**pieces(source)),
            [],
        ).fetchall()
    by_status = {row["status"]: row["workflows"] for row in rows}
    known = get_args(Status) if source is OWN else filter(None, by_status)
    return {
        "overview": {
            **{f"{status}_workflows": by_status.get(status, 0) for status in known},
            "total_workflows": sum(by_status.values()),
        },
        "agents": {
            outcome: sum(row[outcome] for row in rows)
            for outcome in ("created", "completed", "failed", "cancelled", "open")
        },
    }


def count_drift(conn: Connection[Any], source: Source = OWN) -> float:
    """Count the workflows whose stored progress is wrong, which reads every task."""
    row = conn.execute(sql.SQL("select count(*) from {drift} as d").format(**pieces(source)), []).fetchone()
    return float(row[0]) if row else float("nan")


def readable(conn: Connection[Any], source: Source = OWN) -> None:
    """See that what the service reads is there."""
    conn.execute(sql.SQL("select from {progress} as p limit 0").format(**pieces(source)), [])


def read_attention(conn: Connection[Any], source: Source = OWN, limit: int = 20) -> tuple[list[Row], list[Row]]:
    """Read what the overview shows: active workflows with their forecast, stalled ones first, and recent failures."""
    failures = [status for status, outcome in source.outcomes.items() if outcome == "failed"]
    failed = "p.status = 'failed'" if source is OWN else "lower(p.status) = any (%(failed)s::text[])"
    values = {"limit": limit, "settled": list(source.settled), "failed": failures}
    with conn.cursor(row_factory=dict_row) as reader:
        ended = reader.execute(
            sql.SQL(
                "select {columns} from (select p.* from {progress} as p where {failed} order by {newest} limit 5) as p"
                " {stages} order by {newest}"
            ).format(**pieces(source), failed=sql.SQL(failed)),
            values,
        ).fetchall()
        attention = sql.SQL(_OUR_ATTENTION if source is OWN else _ATTENTION)
        active = reader.execute(attention.format(**pieces(source)), values).fetchall()
    return active, ended
