"""The list of workflows, a page at a time: filtered, in an order that an index gives where there is one."""

from functools import lru_cache
from typing import Any

from psycopg import sql

from pyapp.web import filters
from pyapp.web.answers import Listed
from pyapp.web.cursors import Page, Place, read_place
from pyapp.web.parameters import Sort, Wanted
from pyapp.web.reads import apart, listed
from pyapp.web.rows import Select
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

_KEY, _CREATED, _STATUS = (sql.Identifier("p", name) for name in ("workflow_id", "created_at", "status"))
# On all pages as of the first one, so that what still runs keeps its place. In seconds, which there are of any time.
_DURATION = sql.SQL(
    "(extract(epoch from least(coalesce(p.completed_at, %(as_of)s), %(as_of)s)) - extract(epoch from p.created_at))"
)
_ORDERS: dict[str, tuple[sql.Composable, ...]] = {
    "created": (_CREATED, _KEY),
    "name": (filters.NAME, _KEY),
    "status": (_STATUS, _CREATED, _KEY),
    "progress": (sql.Identifier("p", "progress"), _CREATED, _KEY),
    "duration": (_DURATION, _KEY),
}


async def list_page(conn: Conn, shape: Shape, wanted: Wanted, limit: int, *, sent: bool = False) -> Page:
    """List a page of workflows, as Listed, or each as JSON to be sent. Raises HTTPException."""
    place = _place(wanted)
    if sent and wanted == Wanted(sort=wanted.sort) and "duration" not in wanted.sort:
        return await place.fetch(conn, _unfiltered(shape, wanted.sort, limit), {}, limit, sent=sent)
    query, values = page_query(shape, wanted, limit, place)
    return await place.fetch(conn, Select(Listed, query, key=place.key), values, limit, sent=sent)


@lru_cache
def _unfiltered(shape: Shape, sort: Sort, limit: int) -> Select:
    place = _place(Wanted(sort=sort))
    return Select(Listed, page_query(shape, Wanted(sort=sort), limit, place)[0], key=place.key)


def _place(wanted: Wanted) -> Place:
    name = wanted.sort.removeprefix("-")
    return read_place(wanted.sort, _ORDERS[name], wanted.cursor, descending=wanted.sort != name)


def page_query(
    shape: Shape, wanted: Wanted, limit: int, place: Place | None = None
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is another one. Raises HTTPException."""
    place = place or _place(wanted)
    first, *_ = place.columns
    all_of, values = filters.conditions(shape, wanted)
    values |= place.values
    if first is _DURATION:
        values["as_of"] = place.as_of
    # Each status is read by itself, since the index begins with it, and so is each part of what is left.
    chosen = {f"status{number}": status for number, status in enumerate(dict.fromkeys(wanted.status or ()))}
    statuses: list[sql.Composable] = [sql.SQL("p.status = {}").format(sql.Placeholder(name)) for name in chosen]
    if first not in (_STATUS, _CREATED) and statuses:
        statuses = [sql.SQL("({})").format(sql.SQL(" or ").join(statuses))]
    values |= chosen
    both = [(one, rest) for one in statuses or [sql.SQL("true")] for rest in place.beyond]
    parts = [sql.SQL(" and ").join([*all_of, *one]) for one in both]
    if not wanted.match:
        everywhere = shape.query("{workflow_progress}")
        return listed(shape, apart([(everywhere, part) for part in parts], place.by, limit + 1), place.by), values
    hits, finds, searched = filters.search(shape, wanted.match)
    found = [(where, sql.SQL("{} and {}").format(part, one)) for part in parts for where, one in finds]
    query = listed(shape, apart(found, place.by, limit + 1), place.by)
    return sql.SQL("with hits as materialized ({}) {}").format(hits, query), values | searched
