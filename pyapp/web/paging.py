"""The list of workflows, a page at a time: filtered, in an order that an index gives where there is one."""

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from psycopg import AsyncConnection, Connection, DataError, sql
from psycopg.rows import class_row

from pyapp.web import filters
from pyapp.web.answers import Listed
from pyapp.web.filters import NAME, Sort, Wanted
from pyapp.web.reads import Asked, apart_from, as_json, fetch, listed
from pyapp.web.shape import Shape

_LONGEST = 4_000_000  # bytes that a cursor may unfold to
# The columns that make an order; the key is the last, and the only one that is never null.
_ORDERS = {
    "created": ("created_at", "workflow_id"),
    "name": ("name", "workflow_id"),
    "status": ("status", "created_at", "workflow_id"),
    "progress": ("progress", "created_at", "workflow_id"),
    "duration": ("duration", "workflow_id"),
}
# On all pages as of the first one, so that what still runs keeps its place.
_DURATION = sql.SQL("(least(coalesce(p.completed_at, %(as_of)s), %(as_of)s) - p.created_at)")


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__("cursor: not one of this list and order; start again without it")


@dataclass(frozen=True)
class Page:
    """Workflows, and the cursors of the pages before and behind them, None where there is none."""

    rows: list[Any]
    previous: str | None
    next: str | None


@dataclass(frozen=True)
class _Place:
    """Where a page begins: behind a row, whose keys it has, or before it; and the time that durations are as of."""

    backwards: bool
    as_of: str
    keys: list[str | None]


def list_page(conn: Connection[Any], shape: Shape, wanted: Wanted) -> Page:
    """List a page of workflows, as Listed. Raises BadCursor and NotAValue."""
    place = _place(wanted)
    query, values = page_query(shape, wanted, place)
    with _reading(wanted), conn.cursor(row_factory=class_row(Listed)) as reader:
        rows = reader.execute(query, values, prepare=_prepare(values)).fetchall()
    return _turn(rows, wanted, place, lambda row: {name: getattr(row, name) for name in _KEPT})


async def send_page(conn: AsyncConnection[Any], shape: Shape, wanted: Wanted) -> Page:
    """List a page of workflows as ``list_page`` does, each of them as JSON."""
    place = _place(wanted)
    if wanted == Wanted(sort=wanted.sort, limit=wanted.limit) and "duration" not in wanted.sort:
        asked: Asked = _unfiltered(shape, wanted.sort, wanted.limit), {}
    else:
        query, values = page_query(shape, wanted, place, sent=True)
        asked = as_json(query), values
    with _reading(wanted):
        rows = await fetch(conn, asked, prepare=_prepare(asked[1]))
    return _turn(rows, wanted, place, json.loads)


def _turn(rows: list[Any], wanted: Wanted, place: _Place, read: Callable[[Any], Mapping[str, Any]]) -> Page:
    """Put a page in its order and say what is around it; ``read`` tells the columns of a row."""
    found, is_more = rows[: wanted.limit], len(rows) > wanted.limit
    if place.backwards:
        found.reverse()
    before, behind = (is_more, True) if place.backwards else (wanted.cursor is not None, is_more)
    return Page(
        found,
        _write_cursor(wanted.sort, True, place.as_of, read(found[0])) if before and found else None,
        _write_cursor(wanted.sort, False, place.as_of, read(found[-1])) if behind and found else None,
    )


@contextmanager
def _reading(wanted: Wanted) -> Iterator[None]:
    try:
        yield
    except DataError:
        if wanted.cursor is None:
            raise
        raise BadCursor from None


def _prepare(values: Mapping[str, Any]) -> bool | None:
    """Plan anew each time what depends on values: a page of a rare type wants another plan than a frequent one's."""
    return False if values else None


@lru_cache
def _unfiltered(shape: Shape, sort: Sort, limit: int) -> bytes:
    wanted = Wanted(sort=sort, limit=limit)
    return as_json(page_query(shape, wanted, _place(wanted), sent=True)[0])


def page_query(
    shape: Shape, wanted: Wanted, place: _Place | None = None, *, sent: bool = False
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is another one. Raises NotAValue."""
    place = place or _place(wanted)
    columns = _order_of(wanted.sort)
    descending = wanted.sort.startswith("-") is not place.backwards
    order = sql.SQL(", ").join(_column(column) + sql.SQL(" desc" if descending else "") for column in columns)
    all_of, values = filters.conditions(shape, wanted)
    if columns[0] == "duration":
        values["as_of"] = place.as_of
    # Each status is read by itself, since the index begins with it, and so is each part of what is left.
    chosen = {f"status{number}": status for number, status in enumerate(dict.fromkeys(wanted.status))}
    statuses: list[sql.Composable] = [_is("status", parameter) for parameter in chosen]
    if columns[0] not in ("status", "created_at") and statuses:
        statuses = [sql.SQL("({})").format(sql.SQL(" or ").join(statuses))]
    keys = {f"key{number}": key for number, key in enumerate(place.keys)}
    left = _after(list(zip(columns, keys.items(), strict=True)), descending) if keys else [sql.SQL("true")]
    parts = [sql.SQL(" and ").join([*all_of, one, rest]) for one in statuses or [sql.SQL("true")] for rest in left]
    if not wanted.match:
        rows = apart_from([(shape.name("workflow_progress"), part) for part in parts], order, wanted.limit + 1)
        return listed(shape, rows, order, sent=sent), {**values, **chosen, **keys}
    search = filters.search(shape, wanted.match)
    both = [(where, sql.SQL("{} and {}").format(part, one)) for part in parts for where, one in search.parts]
    query = listed(shape, apart_from(both, order, wanted.limit + 1), order, sent=sent)
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


_KEPT = ("completed_at", *{column for order in _ORDERS.values() for column in order if column != "duration"})


def _write_cursor(sort: Sort, backwards: bool, as_of: str, row: Mapping[str, Any]) -> str:
    keys = [_duration(row, as_of) if column == "duration" else row[column] for column in _order_of(sort)]
    texts = (key.isoformat() if isinstance(key, datetime) else None if key is None else str(key) for key in keys)
    text = json.dumps([sort, backwards, as_of, *texts])
    # A name may be long; one that an index takes is short when compressed.
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _duration(row: Mapping[str, Any], as_of: str) -> str | None:
    """Write what _DURATION is of a row."""
    began, ended = (
        datetime.fromisoformat(value) if isinstance(value, str) else value
        for value in (row["created_at"], row["completed_at"])
    )
    end = datetime.fromisoformat(as_of)
    return None if began is None else f"{(min(ended or end, end) - began) // timedelta(microseconds=1)} microseconds"


def _place(wanted: Wanted) -> _Place:
    """Read where a page begins. Raises BadCursor."""
    if wanted.cursor is None:
        return _Place(False, datetime.now(UTC).isoformat(), [])
    try:
        packed = base64.b64decode(wanted.cursor + "=" * (-len(wanted.cursor) % 4), altchars=b"-_", validate=True)
        sort, backwards, as_of, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        if sort != wanted.sort or len(keys) != len(_order_of(wanted.sort)) or keys[-1] is None:
            raise ValueError
        if any("\0" in key.encode().decode() for key in keys if key is not None):
            raise ValueError
        if type(backwards) is not bool or datetime.fromisoformat(as_of).tzinfo is None:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
        raise BadCursor from None
    return _Place(backwards, as_of, keys)
