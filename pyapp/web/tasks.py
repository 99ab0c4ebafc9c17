"""The tasks of a workflow: a page at a time in the order of their creation, filtered; and one with all that it has."""

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql

from pyapp.models import Key, Task
from pyapp.reading import ERROR, ERROR_LINE
from pyapp.web.answers import columns
from pyapp.web.cursors import Page, Place, as_page, fetch_page, read_place
from pyapp.web.parameters import WantedTasks
from pyapp.web.reads import as_json, count_rows
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_rows, fetch_values

WITHOUT = ("payload",)
"""What agents were given may be large: one task by itself has it."""
_AT_WORK = ("assigned", "running")
_LAST = 2**63 - 1  # behind each ordinal: adopted tasks may have none
_LONGEST: LiteralString = "20000"  # characters of JSON on a page


@dataclass(frozen=True, slots=True)
class ReportedTask(Task):
    """A task; where it has failed, ``error`` is what its result says of that, in lists a line of it."""

    error: str | None


@dataclass(frozen=True, slots=True)
class TaskPage(ReportedTask):
    """A task as its page shows it: JSON is text, written for people, and cut; its whole length is beside it."""

    payload_length: int | None
    result_length: int | None


async def list_page(
    conn: AsyncConnection[Any], shape: Shape, workflow_id: str, wanted: WantedTasks, limit: int, *, sent: bool = False
) -> Page:
    """List a page of tasks without what they were given; as JSON to be sent, else without results. Raises BadCursor."""
    place = read_place("tasks", 2, wanted.cursor)
    if not shape.has("agent_task"):
        return Page([], None, None)
    query, values = _page_query(shape, workflow_id, wanted, place, sent=sent)
    return await fetch_page(conn, query, values | {"limit": limit + 1}, place, limit, None if sent else ReportedTask)


def _page_query(
    shape: Shape, workflow_id: str, wanted: WantedTasks, place: Place, *, sent: bool
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more."""
    keys = [sql.SQL("p.ordinal" if shape.has("workflow") else f"coalesce(p.ordinal, {_LAST})"), sql.SQL("p.id")]
    filters: list[sql.Composable] = [sql.SQL("p.workflow_id = %(workflow)s")]
    values: dict[str, Any] = {"workflow": workflow_id}
    if wanted.status:
        filters.append(sql.SQL("p.status in ({})").format(sql.SQL(", ").join(map(sql.Literal, wanted.status))))
    for column in ("agent_type", "stage"):
        if given := getattr(wanted, column):
            values[column] = given
            filters.append(sql.SQL("{} = {}").format(sql.Identifier("p", column), sql.Placeholder(column)))
    if wanted.text:
        escaped = wanted.text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        values["text"] = f"%{escaped}%"
        searched = ("p.agent_type", "p.external_id", "p.id::text", ERROR)
        found = [sql.SQL("{} ilike %(text)s").format(sql.SQL(where)) for where in searched]
        filters.append(sql.SQL("({})").format(sql.SQL(" or ").join(found)))
    if place.keys:
        values |= {"ordinal": place.keys[0], "id": place.keys[1]}
        beyond = sql.SQL("({}) {} (%(ordinal)s, %(id)s)")
        filters.append(beyond.format(sql.SQL(", ").join(keys), sql.SQL("<" if place.backwards else ">")))
    direction = sql.SQL(" desc" if place.backwards else "")
    order = sql.SQL("order by {}").format(sql.SQL(", ").join(key + direction for key in keys))
    # What went wrong is looked for in the rows of the page only.
    query = sql.SQL("select {} from (select p.* from {} as p where {} {} limit %(limit)s) as p {}").format(
        columns(ReportedTask, payload="null", error=ERROR_LINE, **({} if sent else {"result": "null"})),
        shape.name("agent_task"),
        sql.SQL(" and ").join(filters),
        order,
        order,
    )
    return as_page(query, keys, ReportedTask, WITHOUT, sent=sent), values


async def read_first(
    conn: AsyncConnection[Any], shape: Shape, workflow_id: str, limit: int
) -> tuple[list[ReportedTask], int]:
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
        columns(ReportedTask, payload="null", result="left(p.result::text, 1000)", error=ERROR_LINE), rows
    )
    running = sql.SQL("p.workflow_id = %(workflow)s and p.status in ({})").format(
        sql.SQL(", ").join(map(sql.Literal, _AT_WORK))
    )
    values = {"workflow": workflow_id, "limit": limit}
    tasks = await fetch_rows(conn, ReportedTask, query, values)
    return tasks, await count_rows(conn, shape.name("agent_task"), running, values)


async def send_task(conn: AsyncConnection[Any], shape: Shape, workflow_id: str, task_id: Key) -> list[bytes]:
    """Read a task of a workflow, as JSON."""
    if not shape.has("agent_task"):
        return []
    query = as_json(_one(shape, columns(ReportedTask, error=ERROR)), ReportedTask)
    return await fetch_values(conn, query, [workflow_id, task_id])


async def read_task(conn: AsyncConnection[Any], shape: Shape, workflow_id: str, task_id: Key) -> TaskPage | None:
    """Read a task of a workflow for its page."""
    if not shape.has("agent_task"):
        return None
    instead: dict[str, LiteralString] = {"error": ERROR}
    for name in ("payload", "result"):
        instead[name] = f"left(jsonb_pretty(p.{name}), {_LONGEST})"
        instead[f"{name}_length"] = f"length(jsonb_pretty(p.{name}))"
    found = await fetch_rows(conn, TaskPage, _one(shape, columns(TaskPage, **instead)), [workflow_id, task_id])
    return next(iter(found), None)


def _one(shape: Shape, selected: sql.Composable) -> sql.Composed:
    query = sql.SQL("select {} from {} as p where p.workflow_id = %s and p.id = %s")
    return query.format(selected, shape.name("agent_task"))
