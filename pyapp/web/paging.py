"""The list of workflows, a page at a time: filtered, in an order that an index gives where there is one."""

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import dict_row

from pyapp.source import OWN, Source, verbatim
from pyapp.web.queries import by_status, pieces
from pyapp.web.types import Row, Status

_LONGEST = 4_000_000  # bytes that a cursor may unfold to
_ORDERS = {"created": ("created_at",), "name": ("name",), "status": ("status", "created_at")}


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""


def list_page(
    conn: Connection[Any],
    source: Source = OWN,
    *,
    status: Sequence[str] = (),
    type: str | None = None,
    priority: str | None = None,
    name: str | None = None,
    sort: str = "-created",
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Row], str | None]:
    """List a page of workflows; ``name`` is the beginning of the names wanted.

    Returns the workflows and the cursor of the next page, None on the last one. Raises BadCursor.
    """
    query, values = page_query(status, type, priority, name, sort, limit, cursor, source)
    with conn.cursor(row_factory=dict_row) as reader:
        # Planned anew each time: a page of a rare type wants another plan than one of a frequent type.
        rows = reader.execute(query, values, prepare=False).fetchall()
    page = rows[:limit]
    return page, _write_cursor(page[-1], sort, source) if len(rows) > limit else None


def page_query(
    status: Iterable[str],
    type: str | None,
    priority: str | None,
    name: str | None,
    sort: str,
    limit: int,
    cursor: str | None,
    source: Source = OWN,
) -> tuple[sql.Composed, dict[str, Any]]:
    """Compose the query for a page and one row more, which tells whether there is a next one. Raises BadCursor."""
    statuses = list(dict.fromkeys(status))
    values: dict[str, Any] = {
        "status": statuses,
        "type": type,
        "priority": priority,
        "name": None if name is None else _escape_like(name) + "%",
        "limit": limit + 1,
    }
    # Each of our statuses is read by itself: the index begins with it.
    apart = bool(statuses) and source is OWN and _columns(sort, source)[0] != "name"
    conditions: list[sql.Composable] = [
        sql.SQL(condition).format(
            status_type=verbatim(source.status_type), priority_type=verbatim(source.priority_type)
        )
        for given, condition in (
            (statuses and not apart, "p.status = any (%(status)s::{status_type}[])"),
            (type, "p.type = %(type)s"),
            (priority, "p.priority = %(priority)s::{priority_type}"),
            (name, 'p.name collate "C" like %(name)s'),
        )
        if given
    ]
    if cursor is not None:
        values |= {f"k{place}": key for place, key in enumerate(_read_cursor(cursor, sort, source))}
        conditions.append(_after(sort, source))
    order, where = _order(sort, source), sql.SQL(" and ").join(conditions or [sql.SQL("true")])
    if apart:
        rows = by_status(statuses, where, order)
    else:
        rows = sql.SQL("{} as p where {}").format(verbatim(source.progress), where)
    # The limit comes first: stages are read for the rows of the page only, whose order the outside repeats.
    query = sql.SQL(
        "select {columns} from (select p.* from {rows} order by {order} limit %(limit)s) as p {stages} order by {order}"
    ).format(**pieces(source), rows=rows, order=order)
    return query, values


def _columns(sort: str, source: Source) -> list[str]:
    """List the columns that make an order; the key is the last."""
    listed = _ORDERS[sort.removeprefix("-")]
    return [*(name for name in listed if name != "created_at" or source.by_creation), "workflow_id"]


def _expression(name: str) -> str:
    return f'p.{name} collate "C"' if name == "name" else f"p.{name}"


def _order(sort: str, source: Source) -> sql.SQL:
    direction = " desc" if sort.startswith("-") else ""
    return verbatim(", ".join(f"{_expression(name)}{direction}" for name in _columns(sort, source)))


def _after(sort: str, source: Source) -> sql.SQL:
    """Write the condition for what comes after the keys k0, k1, ...

    What is null counts as greater than all else, as in ``order by``; our own columns never are.
    """
    types = {"created_at": "timestamptz", "status": source.status_type, "workflow_id": source.key_type}
    left, right = [], []
    for place, name in enumerate(_columns(sort, source)):
        type_ = types.get(name, "text")
        column, key = _expression(name), f"%(k{place})s::text::{type_}"
        if source is not OWN and name != "workflow_id":
            least = "'epoch'" if type_ == "timestamptz" else "''"
            left += [f"{column} is null", f"coalesce({column}, {least})"]
            right += [f"{key} is null", f"coalesce({key}, {least})"]
        else:
            left.append(column)
            right.append(key)
    sign = "<" if sort.startswith("-") else ">"
    return verbatim(f"({', '.join(left)}) {sign} ({', '.join(right)})")


def _escape_like(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _write_cursor(row: Row, sort: str, source: Source) -> str:
    keys = [row[name] for name in _columns(sort, source)]
    text = json.dumps([sort, *(key.isoformat() if isinstance(key, datetime) else key for key in keys)])
    # A name may be long; one that an index takes is short when compressed.
    return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def _read_cursor(cursor: str, sort: str, source: Source) -> list[str | None]:
    read: dict[str, Callable[[str], object]] = {
        "workflow_id": UUID if source is OWN else _text,
        "created_at": datetime.fromisoformat,
        "name": _text,
        "status": _status if source is OWN else _text,
    }
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        if given != sort:
            raise ValueError
        for name, key in zip(_columns(sort, source), keys, strict=True):
            may_lack = source is not OWN and name != "workflow_id"
            if not isinstance(key, str) and not (key is None and may_lack):
                raise ValueError
            if key is not None:
                read[name](key)
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise BadCursor("cursor: not one of this list and order; start again without it") from None
    return list(keys)


def _text(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError
    return text


def _status(text: str) -> str:
    if text not in get_args(Status):
        raise ValueError
    return text
