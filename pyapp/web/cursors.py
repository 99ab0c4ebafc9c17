"""Pages of a list, and the cursors between them: what a row has its place by, as the database writes it."""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection, DataError, sql
from psycopg.rows import args_row

from pyapp.web.answers import columns
from pyapp.web.reads import as_json

_LONGEST = 4_000_000  # bytes that a cursor may unfold to


class BadCursor(ValueError):
    """The cursor is not one that this service gave out for this order."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__("cursor: not one of this list and order; start again without it")


@dataclass(frozen=True)
class Page:
    """Rows, and the cursors of the pages before and behind them, None where there is none."""

    rows: list[Any]
    previous: str | None
    next: str | None


@dataclass(frozen=True)
class Place:
    """Where a page of an order begins: behind a row, whose keys it has, or before it; and as of when durations are."""

    order: str
    backwards: bool
    as_of: str
    keys: list[str | None]

    def cursor(self, backwards: bool, keys: list[str | None]) -> str:
        """Write a cursor to another place in the same order."""
        text = json.dumps([self.order, backwards, self.as_of, *keys])
        # A name may be long; one that an index takes is short when compressed.
        return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


def read_place(order: str, length: int, cursor: str | None) -> Place:
    """Read where a page begins, in an order by so many keys. Raises BadCursor."""
    if cursor is None:
        return Place(order, False, datetime.now(UTC).isoformat(), [])
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        of, backwards, as_of, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        if of != order or len(keys) != length or keys[-1] is None:
            raise ValueError
        if any("\0" in key.encode().decode() for key in keys if key is not None):
            raise ValueError
        if type(backwards) is not bool or datetime.fromisoformat(as_of).tzinfo is None:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
        raise BadCursor from None
    return Place(order, backwards, as_of, keys)


def as_page(
    query: sql.Composable, keys: Iterable[sql.Composable], of: type[Any], without: tuple[str, ...] = (), *, sent: bool
) -> sql.Composed:
    """Select the rows of a query behind their keys, for ``fetch_page``: the columns of a kind, or JSON to be sent."""
    place = sql.SQL("array[{}]").format(sql.SQL(", ").join(sql.SQL("({})::text").format(key) for key in keys))
    if sent:
        return as_json(query, of, without, key=place)
    return sql.SQL("select {}, {} from ({}) as p").format(place, columns(of), query)  # type: ignore[arg-type]  # that classes hash


async def fetch_page(
    conn: AsyncConnection[Any],
    query: sql.Composed | bytes,
    values: Mapping[str, Any],
    place: Place,
    limit: int,
    of: type[Any] | None,
) -> Page:
    """Read a page by a query for one row more, which tells whether there is another one; None is of JSON."""
    reader = conn.cursor(row_factory=args_row(lambda keys, *row: (keys, of(*row) if of else row[0])))
    try:
        # Planned anew where it depends on values: a page of a rare type wants another plan than a frequent one's.
        rows = await (await reader.execute(query, values, prepare=False if values else None)).fetchall()
    except DataError:
        if not place.keys:
            raise
        raise BadCursor from None
    found, is_more = rows[:limit], len(rows) > limit
    if place.backwards:
        found.reverse()
    before, behind = (is_more, True) if place.backwards else (bool(place.keys), is_more)
    return Page(
        [row for _, row in found],
        place.cursor(True, found[0][0]) if before and found else None,
        place.cursor(False, found[-1][0]) if behind and found else None,
    )
