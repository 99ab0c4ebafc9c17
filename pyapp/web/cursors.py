"""Pages of a list, and the cursors between them: what a row has its place by, as the database writes it."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from psycopg import DataError, sql

from pyapp.web.rows import Select
from pyapp.web.wire import Conn

_LONGEST = 4_000_000  # bytes that a cursor may unfold to
_UNKNOWN = "cursor: not one of this list and order; start again without it"


@dataclass(frozen=True)
class Page:
    """Rows, and the cursors of the pages before and behind them, None where there is none."""

    rows: list[Any]
    previous: str | None
    next: str | None


@dataclass(frozen=True)
class Place:
    """Where a page of an order begins: behind a row, or before it where it goes ``backwards``.

    ``columns`` are what is sorted by, expressions on ``p`` that tell its rows apart, the last of which is never null;
    ``keys`` are those of the row, none on the first page. Durations are ``as_of`` a time.
    """

    order: str
    columns: tuple[sql.Composable, ...]
    is_descending: bool
    backwards: bool
    as_of: str
    keys: list[str | None]

    @property
    def by(self) -> sql.Composed:
        """The order in which the rows of the page are read."""
        return sql.SQL(", ").join(key + sql.SQL(" desc" if self._descending else "") for key in self.columns)

    @property
    def key(self) -> sql.Composed:
        """What a row has its place by, as an array of texts."""
        texts = (sql.SQL("({})::text").format(key) for key in self.columns)
        return sql.SQL("array[{}]").format(sql.SQL(", ").join(texts))

    @property
    def values(self) -> dict[str, str | None]:
        """The values of the parameters in ``beyond``."""
        return {f"key{number}": key for number, key in enumerate(self.keys)}

    @property
    def beyond(self) -> list[sql.Composable]:
        """What comes after the row, in conditions that have no row in common and are each a piece of an index."""
        return self._beyond(0) if self.keys else [sql.SQL("true")]

    def _beyond(self, number: int) -> list[sql.Composable]:
        # What is null counts as greater than all else, as in ``order by``.
        key, is_null = self.columns[number], self.keys[number] is None
        value = sql.Placeholder(f"key{number}")
        greater = sql.SQL("{} < {}" if self._descending else "{} > {}").format(key, value)
        if number == len(self.keys) - 1:
            return [greater]
        null, not_null = sql.SQL("{} is null").format(key), sql.SQL("{} is not null").format(key)
        same = null if is_null else sql.SQL("{} = {}").format(key, value)
        parts: list[sql.Composable] = [sql.SQL("{} and {}").format(same, rest) for rest in self._beyond(number + 1)]
        if is_null:
            return [*parts, not_null] if self._descending else parts
        return [*parts, greater] if self._descending else [*parts, greater, null]

    @property
    def _descending(self) -> bool:
        return self.is_descending is not self.backwards

    def cursor(self, backwards: bool, keys: list[str | None]) -> str:
        """Write a cursor to another place in the same order."""
        text = json.dumps([self.order, backwards, self.as_of, *keys])
        # A name may be long; one that an index takes is short when compressed.
        return base64.urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")

    async def fetch(self, conn: Conn, select: Select, values: Mapping[str, Any], limit: int, *, sent: bool) -> Page:
        """Read the page by a select, with this key, of one row more, which tells whether there is another page."""
        try:
            # Planned anew where it depends on values: a rare type wants another plan than a frequent one.
            rows = await select.fetch(conn, values, sent=sent, prepare=False if values else None)
        except DataError:
            if not self.keys:
                raise
            raise HTTPException(400, _UNKNOWN) from None
        found, is_more = rows[:limit], len(rows) > limit
        if self.backwards:
            found.reverse()
        before, behind = (is_more, True) if self.backwards else (bool(self.keys), is_more)
        return Page(
            [row for _, row in found],
            self.cursor(True, found[0][0]) if before and found else None,
            self.cursor(False, found[-1][0]) if behind and found else None,
        )


def read_place(order: str, columns: tuple[sql.Composable, ...], cursor: str | None, *, descending: bool) -> Place:
    """Read where a page begins. Raises HTTPException where the cursor is none of this order."""
    if cursor is None:
        return Place(order, columns, descending, False, datetime.now(UTC).isoformat(), [])
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        of, backwards, as_of, *keys = json.loads(zlib.decompressobj().decompress(packed, _LONGEST))
        texts = [key.encode().decode() for key in keys if key is not None]  # no lone surrogates
        is_ours = of == order and len(keys) == len(columns) and keys[-1] is not None
        if not is_ours or "\0" in "".join(texts) or type(backwards) is not bool:
            raise ValueError
        datetime.fromisoformat(as_of)
    except (ValueError, TypeError, AttributeError, RecursionError, zlib.error):
        raise HTTPException(400, _UNKNOWN) from None
    return Place(order, columns, descending, backwards, as_of, keys)
