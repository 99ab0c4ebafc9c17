"""The list of workflows, a page at a time: filtered, in an order that an index gives where there is one."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from psycopg import AsyncConnection, sql

from pyapp.web import filters
from pyapp.web.answers import Listed
from pyapp.web.cursors import Page, Place, as_page, fetch_page, read_place
from pyapp.web.filters import NAME
from pyapp.web.parameters import Sort, Wanted
from pyapp.web.reads import apart_from, listed
from pyapp.web.shape import Shape

# The columns that make an order; the key is the last, and the only one that is never null.
_ORDERS = {
    "created": ("created_at", "workflow_id"),
    "name": ("name", "workflow_id"),
    "status": ("status", "created_at", "workflow_id"),
    "progress": ("progress", "created_at", "workflow_id"),
    "duration": ("duration", "workflow_id"),
}
# On all pages as of the first one, so that what still runs keeps its place. In seconds, which there are of any time.
_DURATION = sql.SQL(
    "(extract(epoch from least(coalesce(p.completed_at, %(as_of)s), %(as_of)s)) - extract(epoch from p.created_at))"
)


async def list_page(
    conn: AsyncConnection[Any], shape: Shape, wanted: Wanted, limit: int, *, sent: bool = False
) -> Page:
    """List a page of workflows, as Listed, or each as JSON to be sent. Raises BadCursor and NotAValue."""
    place = read_place(wanted.sort, len(_order_of(wanted.sort)), wanted.cursor)
    query: sql.Composed | bytes
    values: dict[str, Any] = {}
    if sent and wanted == Wanted(sort=wanted.sort) and "duration" not in wanted.sort:
        query = _unfiltered(shape, wanted.sort, limit)
    else:
        plain, values = page_query(shape, wanted, limit, place)
        query = _as_page(plain, wanted.sort, sent=sent)
    return await fetch_page(conn, query, values, place, limit, None if sent else Listed)


def _as_page(query: sql.Composed, sort: Sort, *, sent: bool) -> sql.Composed:
    return as_page(query, [_column(column) for column in _order_of(sort)], Listed, sent=sent)


@lru_cache
def _unfiltered(shape: Shape, sort: Sort, limit: int) -> bytes:
    plain, _ = page_query(shape, Wanted(sort=sort), limit)
    return _as_page(plain, sort, sent=True).as_bytes()


def page_query(
    shape: Shape, wanted: Wanted, limit: int, place: Place | None = None
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is another one. Raises NotAValue."""
    columns = _order_of(wanted.sort)
    place = place or read_place(wanted.sort, len(columns), wanted.cursor)
    descending = wanted.sort.startswith("-") is not place.backwards
    order = sql.SQL(", ").join(_column(column) + sql.SQL(" desc" if descending else "") for column in columns)
    all_of, values = filters.conditions(shape, wanted)
    if columns[0] == "duration":
        values["as_of"] = place.as_of
    # Each status is read by itself, since the index begins with it, and so is each part of what is left.
    chosen = {f"status{number}": status for number, status in enumerate(dict.fromkeys(wanted.status or ()))}
    statuses: list[sql.Composable] = [_is("status", parameter) for parameter in chosen]
    if columns[0] not in ("status", "created_at") and statuses:
        statuses = [sql.SQL("({})").format(sql.SQL(" or ").join(statuses))]
    keys = {f"key{number}": key for number, key in enumerate(place.keys)}
    left = _after(list(zip(columns, keys.items(), strict=True)), descending) if keys else [sql.SQL("true")]
    parts = [sql.SQL(" and ").join([*all_of, one, rest]) for one in statuses or [sql.SQL("true")] for rest in left]
    if not wanted.match:
        rows = apart_from([(shape.name("workflow_progress"), part) for part in parts], order, limit + 1)
        return listed(shape, rows, order), {**values, **chosen, **keys}
    search = filters.search(shape, wanted.match)
    both = [(where, sql.SQL("{} and {}").format(part, one)) for part in parts for where, one in search.parts]
    query = listed(shape, apart_from(both, order, limit + 1), order)
    hits = sql.SQL("with hits as materialized ({}) {}").format(search.keys, query)
    return hits, {**values, **chosen, **keys, **search.values}


def _order_of(sort: Sort) -> tuple[str, ...]:
    return _ORDERS[sort.removeprefix("-")]


def _column(name: str) -> sql.Composable:
    return {"name": NAME, "duration": _DURATION}.get(name) or sql.Identifier("p", name)


def _is(column: str, parameter: str) -> sql.Composed:
    return sql.SQL("{} = {}").format(_column(column), sql.Placeholder(parameter))


def _after(keys: Sequence[tuple[str, tuple[str, str | None]]], descending: bool) -> list[sql.Composable]:
    """Write what comes after a row, in parts that have no row in common and are each a piece of an index.

    ``keys`` are columns with the parameter that has the row's value, and the value itself. What is null counts as
    greater than all else, as in ``order by``.
    """
    (name, (parameter, value)), *others = keys
    column = _column(name)
    beyond = sql.SQL("{} {} {}").format(column, sql.SQL("<" if descending else ">"), sql.Placeholder(parameter))
    if not others:
        return [beyond]
    null = sql.SQL("{} is null").format(column)
    same = null if value is None else _is(name, parameter)
    parts: list[sql.Composable] = [sql.SQL("{} and {}").format(same, rest) for rest in _after(others, descending)]
    if value is not None:
        return [*parts, beyond] if descending else [*parts, beyond, null]
    return [*parts, sql.SQL("{} is not null").format(column)] if descending else parts
