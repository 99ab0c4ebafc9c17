"""The list of workflows, a page at a time: filtered, in an order that an index gives where there is one."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from psycopg import AsyncConnection, Connection, DataError, sql
from psycopg.rows import class_row

from pyapp.web.answers import Listed
from pyapp.web.reads import Asked, apart, as_json, fetch, listed, stalled
from pyapp.web.shape import NotAValue, Shape

Sort = Literal["created", "-created", "name", "-name", "status", "-status"]
_LONGEST = 4_000_000  # bytes that a cursor may unfold to
# The columns that make an order; the key is the last, and the only one that is never null.
_ORDERS = {
    "created": ("created_at", "workflow_id"),
    "name": ("name", "workflow_id"),
    "status": ("status", "created_at", "workflow_id"),
}
_NAME = sql.SQL('p.name collate "C"')


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__("cursor: not one of this list and order; start again without it")


@dataclass(frozen=True)
class Wanted:
    """Which page: filters, an order, and where the page before ended.

    ``name`` is the beginning of the names, ``parent`` the key of what started them, ``none`` for what nothing did.
    """

    status: Sequence[str] = ()
    type: str | None = None
    priority: str | None = None
    name: str | None = None
    parent: str | None = None
    stalled: bool = False
    sort: Sort = "-created"
    limit: int = 50
    cursor: str | None = None

    @property
    def order(self) -> tuple[str, ...]:
        """The columns that make the order."""
        return _ORDERS[self.sort.removeprefix("-")]


def list_page(conn: Connection[Any], shape: Shape, wanted: Wanted) -> tuple[list[Listed], str | None]:
    """List a page of workflows.

    Returns them and the cursor of the next page, None on the last one. Raises BadCursor and NotAValue.
    """
    query, values = page_query(shape, wanted)
    with _reading(wanted), conn.cursor(row_factory=class_row(Listed)) as reader:
        rows = reader.execute(query, values, prepare=_prepare(values)).fetchall()
    page = rows[: wanted.limit]
    if len(rows) == len(page):
        return page, None
    return page, _write_cursor([getattr(page[-1], column) for column in wanted.order], wanted.sort)


async def send_page(conn: AsyncConnection[Any], shape: Shape, wanted: Wanted) -> tuple[list[bytes], str | None]:
    """List a page of workflows as ``list_page`` does, each of them as JSON."""
    if wanted == Wanted(sort=wanted.sort, limit=wanted.limit):
        asked: Asked = _unfiltered(shape, wanted.sort, wanted.limit), {}
    else:
        query, values = page_query(shape, wanted, sent=True)
        asked = as_json(query), values
    with _reading(wanted):
        rows = await fetch(conn, asked, prepare=_prepare(asked[1]))
    page = rows[: wanted.limit]
    if len(rows) == len(page):
        return page, None
    last = json.loads(page[-1])
    return page, _write_cursor([last[column] for column in wanted.order], wanted.sort)


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
    return as_json(page_query(shape, Wanted(sort=sort, limit=limit), sent=True)[0])


def page_query(shape: Shape, wanted: Wanted, *, sent: bool = False) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is a next one.

    Raises BadCursor and NotAValue.
    """
    if wanted.priority and shape.priorities and wanted.priority not in shape.priorities:
        raise NotAValue(f"priority: should be one of {', '.join(shape.priorities)}")
    columns, descending = wanted.order, wanted.sort.startswith("-")
    order = sql.SQL(", ").join(_column(column) + sql.SQL(" desc" if descending else "") for column in columns)
    values: dict[str, Any] = {}
    filters: list[sql.Composable] = []
    for name in ("type", "priority"):
        if value := getattr(wanted, name):
            values[name] = value
            filters.append(_is(name, name))
    if wanted.stalled:
        filters.append(stalled(shape))
    if wanted.name:
        values["name"] = wanted.name.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
        filters.append(sql.SQL("{} like %(name)s").format(_NAME))
    if wanted.parent == "none":
        filters.append(sql.SQL("p.parent_id is null"))
    elif wanted.parent:
        values["parent"] = shape.key(wanted.parent)
        filters.append(sql.SQL("p.parent_id = %(parent)s"))
    # Each status is read by itself, since the index begins with it, and so is each part of what is left.
    chosen = {f"status{place}": status for place, status in enumerate(dict.fromkeys(wanted.status))}
    statuses: list[sql.Composable] = [_is("status", parameter) for parameter in chosen]
    if columns[0] == "name" and statuses:
        statuses = [sql.SQL("({})").format(sql.SQL(" or ").join(statuses))]
    keys: dict[str, str | None] = {}
    left: list[sql.Composable] = [sql.SQL("true")]
    if wanted.cursor is not None:
        keys = {f"key{place}": key for place, key in enumerate(_read_cursor(wanted.cursor, wanted.sort))}
        left = _after(list(zip(columns, keys.items(), strict=True)), descending)
    parts = [sql.SQL(" and ").join([*filters, one, rest]) for one in statuses or [sql.SQL("true")] for rest in left]
    return listed(shape, apart(shape, parts, order, wanted.limit + 1), order, sent=sent), {**values, **chosen, **keys}


def _column(name: str) -> sql.Composable:
    return _NAME if name == "name" else sql.Identifier("p", name)


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


def _write_cursor(keys: Sequence[Any], sort: Sort) -> str:
    text = json.dumps([sort, *(key.isoformat() if isinstance(key, datetime) else key for key in keys)])
    # A name may be long; one that an index takes is short when compressed.
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _read_cursor(cursor: str, sort: Sort) -> list[str | None]:
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        if given != sort or len(keys) != len(_ORDERS[sort.removeprefix("-")]) or keys[-1] is None:
            raise ValueError
        if any("\0" in key.encode().decode() for key in keys if key is not None):
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
        raise BadCursor from None
    return list(keys)
