"""Rows as the service reads them: as a kind of row for a page, or as JSON that the database makes, to be sent."""

from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from functools import cache, cached_property
from typing import Any, LiteralString, get_args, get_type_hints
from uuid import UUID

from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import args_row, scalar_row, tuple_row

from pyapp.models import Key
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

KEYS = (Key, UUID)
# As datetime.isoformat() has it; what Python has no time for, as infinity, becomes the nearest that there is.
_TIME: LiteralString = (
    "replace(to_char(case when {value} < '0001-01-01' then '0001-01-01' when {value} >= '10000-01-01'"
    " then '9999-12-31 23:59:59.999999' else {value} end, 'YYYY-MM-DD\"T\"HH24:MI:SS.US+00:00'), '.000000', '')"
)


@cache
def columns(of: type[Any], without: tuple[str, ...] = (), *, sent: bool = False, **instead: LiteralString) -> sql.SQL:
    """List the columns of ``p`` that a row consists of, keys as text; ``instead`` has SQL for some of them.

    ``sent`` writes times and numbers as the API sends them.
    """
    hints = get_type_hints(of)

    def column(name: str) -> sql.Composable:
        value = sql.SQL(instead[name]) if name in instead else sql.Identifier("p", name)
        kinds = {hints[name], *get_args(hints[name])}
        form: LiteralString = "{value}"
        if hints[name] in (*KEYS, Key | None):
            form = "{value}::text"
        elif sent and datetime in kinds:
            form = _TIME
        elif sent and Decimal in kinds:
            form = "{value}::float8"
        return sql.SQL(form + " as {name}").format(value=value, name=sql.Identifier(name))

    names = (field.name for field in fields(of) if field.name not in without)
    return sql.SQL(sql.SQL(", ").join(map(column, names)).as_string())


class Select:
    """A query for rows ``p`` of a kind: each is read as that kind, or sent as JSON, in pairs where it has a ``key``."""

    def __init__(
        self, of: Any, query: sql.Composed, *, key: sql.Composable | None = None, without: tuple[str, ...] = ()
    ) -> None:
        """Take the query, an expression on ``p`` that is the key, and what is left out of JSON."""
        self.of, self.query, self.without = of, query, without
        self.key: list[sql.Composable] = [] if key is None else [key]

    @cached_property
    def _read(self) -> bytes:
        chosen = sql.SQL(", ").join([*self.key, columns(self.of)])
        return sql.SQL("select {} from ({}) as p").format(chosen, self.query).as_bytes()

    @cached_property
    def _sent(self) -> bytes:
        chosen = sql.SQL(", ").join([*self.key, sql.SQL("row_to_json(r)")])
        sent = columns(self.of, self.without, sent=True)
        query = "select {} from ({}) as p cross join lateral (select {}) as r"
        return sql.SQL(query).format(chosen, self.query, sent).as_bytes()

    async def fetch(
        self, conn: Conn, values: Params = (), *, sent: bool = False, prepare: bool | None = None
    ) -> list[Any]:
        """Read all rows, or JSON of each."""
        if sent:
            reader = conn.cursor(row_factory=tuple_row if self.key else scalar_row)
        elif self.key:
            reader = conn.cursor(row_factory=args_row(lambda key, *row: (key, self.of(*row))))
        else:
            reader = conn.cursor(row_factory=args_row(self.of))
        query = self._sent if sent else self._read
        return await (await reader.execute(query, values, prepare=prepare)).fetchall()


@cache
def selected(shape: Shape, of: Any, text: LiteralString) -> Select:
    """Write a select of rows of a kind, whose columns ``{columns}`` are."""
    return Select(of, shape.query(text, columns=columns(of)))
