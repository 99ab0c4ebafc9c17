"""The tasks of a workflow: a page at a time in the order of their creation, filtered; and one with all that it has."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, DataError, sql
from psycopg.rows import class_row, dict_row

from pyapp.models import Key, Task
from pyapp.web.answers import columns
from pyapp.web.paging import BadCursor
from pyapp.web.shape import Shape

WITHOUT = ("payload",)
"""What agents were given may be large: one task by itself has it."""
_LAST = 2**63 - 1  # behind each ordinal: adopted tasks may have none
_LONGEST: LiteralString = "20000"  # characters of JSON on a page
# What agents report, and what adopted tables have in it: a text, or an object that says what went wrong.
_ERROR: LiteralString = """
    case
        when p.status <> 'failed' then null
        when jsonb_typeof(p.result) = 'string' then p.result #>> '{}'
        when jsonb_typeof(p.result -> 'error') = 'object'
            then coalesce(p.result #>> '{error,message}', p.result ->> 'error')
        else coalesce(p.result ->> 'error', p.result ->> 'message')
    end
"""
# The first line; of a traceback the last one.
_LINE: LiteralString = """
    (select left(substring(btrim(e.error, e' \\n\\r\\t') from
        case when starts_with(btrim(e.error), 'Traceback') then '[^\\n]*$' else '^[^\\n]*' end), 500)
    from (select {error}) as e (error))
""".replace("{error}", _ERROR)


@dataclass(frozen=True, slots=True)
class ReportedTask(Task):
    """A task; where it has failed, ``error`` is what its result says of that, in lists a line of it."""

    error: str | None


@dataclass(frozen=True, slots=True)
class TaskPage(ReportedTask):
    """A task as its page shows it: JSON is text, written for people, and cut; its whole length is beside it."""

    payload_length: int | None
    result_length: int | None


@dataclass(frozen=True)
class Wanted:
    """Which tasks: filters, and where the page before, or the one behind, ended."""

    status: Sequence[str] = ()
    agent_type: str | None = None
    stage: str | None = None
    text: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True)
class Page:
    """Tasks, and the cursors of the pages before and behind them, None where there is none."""

    tasks: list[dict[str, Any]]
    previous: str | None
    next: str | None


def list_page(
    conn: Connection[Any], shape: Shape, workflow_id: str, wanted: Wanted, without: tuple[str, ...] = WITHOUT
) -> Page:
    """List a page of tasks, with these columns left out. Raises BadCursor."""
    if not shape.has("agent_task"):
        return Page([], None, None)
    backwards, place = (False, None) if wanted.cursor is None else _read_cursor(wanted.cursor)
    query, values = _page_query(shape, workflow_id, wanted, backwards, place, without)
    try:
        with conn.cursor(row_factory=dict_row) as reader:
            rows = reader.execute(query, values, prepare=False).fetchall()
    except DataError:
        if place is None:
            raise
        raise BadCursor from None
    tasks, is_more = rows[: wanted.limit], len(rows) > wanted.limit
    if backwards:
        tasks.reverse()
    before, behind = (is_more, True) if backwards else (place is not None, is_more)
    return Page(
        tasks,
        _write_cursor(True, tasks[0]) if before and tasks else None,
        _write_cursor(False, tasks[-1]) if behind and tasks else None,
    )


def _page_query(
    shape: Shape,
    workflow_id: str,
    wanted: Wanted,
    backwards: bool,
    place: tuple[int, str] | None,
    without: tuple[str, ...],
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is another one."""
    ordinal = sql.SQL("p.ordinal" if shape.has("workflow") else f"coalesce(p.ordinal, {_LAST})")
    filters: list[sql.Composable] = [sql.SQL("p.workflow_id = %(workflow)s")]
    values: dict[str, Any] = {"workflow": workflow_id, "limit": wanted.limit + 1}
    if wanted.status:
        filters.append(sql.SQL("p.status in ({})").format(sql.SQL(", ").join(map(sql.Literal, wanted.status))))
    for column in ("agent_type", "stage"):
        if given := getattr(wanted, column):
            values[column] = given
            filters.append(sql.SQL("{} = {}").format(sql.Identifier("p", column), sql.Placeholder(column)))
    if wanted.text:
        escaped = wanted.text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        values["text"] = f"%{escaped}%"
        searched = ("p.agent_type", "p.external_id", "p.id::text", _ERROR)
        found = [sql.SQL("{} ilike %(text)s").format(sql.SQL(where)) for where in searched]
        filters.append(sql.SQL("({})").format(sql.SQL(" or ").join(found)))
    if place is not None:
        values |= {"ordinal": place[0], "id": place[1]}
        beyond = sql.SQL("({}, p.id) {} (%(ordinal)s, %(id)s)")
        filters.append(beyond.format(ordinal, sql.SQL("<" if backwards else ">")))
    direction = sql.SQL(" desc" if backwards else "")
    query = sql.SQL("select {} from {} as p where {} order by {}{}, p.id{} limit %(limit)s").format(
        columns(ReportedTask, without, error=_LINE),
        shape.name("agent_task"),
        sql.SQL(" and ").join(filters),
        ordinal,
        direction,
        direction,
    )
    return query, values


def read_task(
    conn: Connection[Any], shape: Shape, workflow_id: str, task_id: Key, *, for_page: bool = False
) -> ReportedTask | TaskPage | None:
    """Read a task of a workflow."""
    if not shape.has("agent_task"):
        return None
    of: type[ReportedTask] = ReportedTask
    instead: dict[str, LiteralString] = {"error": _ERROR}
    if for_page:
        of = TaskPage
        for name in ("payload", "result"):
            instead[name] = f"left(jsonb_pretty(p.{name}), {_LONGEST})"
            instead[f"{name}_length"] = f"length(jsonb_pretty(p.{name}))"
    query = sql.SQL("select {} from {} as p where p.workflow_id = %s and p.id = %s").format(
        columns(of, **instead),  # type: ignore[arg-type]  # mypy does not know that classes hash
        shape.name("agent_task"),
    )
    with conn.cursor(row_factory=class_row(of)) as reader:
        return reader.execute(query, [workflow_id, task_id]).fetchone()


def _write_cursor(backwards: bool, row: dict[str, Any]) -> str:
    ordinal = _LAST if row["ordinal"] is None else row["ordinal"]
    return base64.urlsafe_b64encode(json.dumps([backwards, ordinal, row["id"]]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[bool, tuple[int, str]]:
    try:
        backwards, ordinal, key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if type(backwards) is not bool or type(ordinal) is not int or abs(ordinal) > _LAST or "\0" in key:
            raise ValueError
        key.encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadCursor from None
    return backwards, (ordinal, key)
