"""The tasks of a workflow: a page at a time in the order of their creation, filtered; and one with all that it has."""

from dataclasses import dataclass
from functools import cache
from typing import Any, LiteralString

from psycopg import sql

from pyapp.models import Key, Task
from pyapp.reading import ERROR, ERROR_LINE
from pyapp.web.cursors import Page, read_place
from pyapp.web.filters import literally
from pyapp.web.parameters import WantedTasks
from pyapp.web.reads import count_rows
from pyapp.web.rows import Select, columns
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

WITHOUT = ("payload",)
"""What agents were given may be large: one task by itself has it."""
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
    conn: Conn, shape: Shape, workflow_id: str, wanted: WantedTasks, limit: int, *, sent: bool = False
) -> Page:
    """List a page of tasks without what they were given; as JSON to be sent, else without results."""
    ordinal = sql.SQL("p.ordinal" if shape.has("workflow") else f"coalesce(p.ordinal, {_LAST})")
    place = read_place("tasks", (ordinal, sql.SQL("p.id")), wanted.cursor, descending=False)
    if not shape.has("agent_task"):
        return Page([], None, None)
    given = {name: value for name in ("agent_type", "stage") if (value := getattr(wanted, name))}
    filters: list[sql.Composable] = [sql.SQL(f"p.{name} = %({name})s") for name in given]
    if wanted.status:
        filters.append(sql.SQL("p.status in ({})").format(sql.SQL(", ").join(map(sql.Literal, wanted.status))))
    if wanted.text:
        given["text"] = f"%{literally(wanted.text)}%"
        searched = ("p.agent_type", "p.external_id", "p.id::text", ERROR)
        filters.append(sql.SQL("({})").format(sql.SQL(" or ".join(f"{where} ilike %(text)s" for where in searched))))
    filters.append(sql.SQL("({})").format(sql.SQL(" or ").join(place.beyond)))
    # What went wrong is looked for in the rows of the page only.
    query = shape.query(
        "select {columns} from (select p.* from {agent_task} as p where p.workflow_id = %(workflow)s and {filters}"
        " order by {by} limit %(limit)s) as p order by {by}",
        columns=columns(ReportedTask, payload="null", error=ERROR_LINE, **({} if sent else {"result": "null"})),
        filters=sql.SQL(" and ").join(filters),
        by=place.by,
    )
    values = {"workflow": workflow_id, "limit": limit + 1} | given | place.values
    select = Select(ReportedTask, query, key=place.key, without=WITHOUT)
    return await place.fetch(conn, select, values, limit, sent=sent)


async def read_first(conn: Conn, shape: Shape, workflow_id: str, limit: int) -> tuple[list[ReportedTask], int]:
    """Read tasks for a page, failed ones and those at work first; return them and the number of those at work.

    With thousands of tasks these would not be among the oldest.
    """
    values = {"workflow": workflow_id, "limit": limit}
    running = "{agent_task} as p where p.workflow_id = %(workflow)s and p.status in ('assigned', 'running')"
    return await _first(shape).fetch(conn, values), await count_rows(conn, shape.query(running), values)


@cache
def _first(shape: Shape) -> Select:
    groups = (("'failed'", 50), ("'assigned', 'running'", 50), ("'pending', 'completed', 'cancelled'", 200))
    one: LiteralString = (
        "(select p.*, {} as place from {{agent_task}} as p where p.workflow_id = %(workflow)s and p.status in ({})"
        " order by p.ordinal, p.created_at, p.id limit {})"
    )
    rows = " union all ".join(one.format(place, statuses, most) for place, (statuses, most) in enumerate(groups))
    query = shape.query(
        "select {columns} from ({rows}) as p order by p.place, p.ordinal, p.created_at, p.id limit %(limit)s",
        columns=columns(ReportedTask, payload="null", result="left(p.result::text, 1000)", error=ERROR_LINE),
        rows=shape.query(rows),
    )
    return Select(ReportedTask, query)


async def read_task(conn: Conn, shape: Shape, workflow_id: str, task_id: Key, *, sent: bool = False) -> list[Any]:
    """Read a task of a workflow, as TaskPage, or as JSON to be sent; an empty list where there is none."""
    if not shape.has("agent_task"):
        return []
    return await _one(shape, sent).fetch(conn, [workflow_id, task_id], sent=sent)


@cache
def _one(shape: Shape, sent: bool) -> Select:
    instead: dict[str, LiteralString] = {"error": ERROR}
    for name in () if sent else ("payload", "result"):
        instead[name] = f"left(jsonb_pretty(p.{name}), {_LONGEST})"
        instead[f"{name}_length"] = f"length(jsonb_pretty(p.{name}))"
    of = ReportedTask if sent else TaskPage
    query = "select {columns} from {agent_task} as p where p.workflow_id = %s and p.id = %s"
    return Select(of, shape.query(query, columns=columns(of, **instead)))
