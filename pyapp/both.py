"""Code that is written once, for psycopg's Connection and its AsyncConnection, and helpers made of it.

It consists of coroutines. On a Connection nothing in them waits for an event loop, so ``complete`` runs them to their
end like functions; on an AsyncConnection they are awaited.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader, Transformer
from psycopg.pq import Format
from psycopg.rows import args_row, tuple_row
from psycopg.types.json import JsonbLoader
from psycopg.types.string import TextBinaryLoader

P = ParamSpec("P")
T = TypeVar("T")
Conn: TypeAlias = Connection[Any] | AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to send; its rows come back as objects of ``model``, or as tuples."""

    text: str
    values: Sequence[Any] = ()
    model: type[Any] | None = None


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that works on a Connection; returns what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("this waits for an event loop")


async def maybe_await(called: Any) -> Any:
    """Return what a call returned, or what it will return where that is to be awaited."""
    return await called if isinstance(called, Awaitable) else called


async def pause(kind: type[Conn], seconds: float) -> None:
    """Wait, as is right beside connections of this kind."""
    if issubclass(kind, AsyncConnection):
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)


async def fetch(conn: Conn, statement: Statement) -> Any:
    """Send a statement and return its rows."""
    return await _rows(await maybe_await(_cursor(conn, statement).execute(statement.text, statement.values)))


def commit(conn: Connection[Any], statements: Sequence[Statement], rows: list[list[Any]]) -> None:
    """Send statements in one pipeline and commit them. ``rows`` gets the rows of each before the commit is sent."""
    with conn.pipeline(), conn.transaction():
        sent = [_cursor(conn, each).execute(each.text, each.values) for each in statements]
        rows += [complete(_rows(cursor)) for cursor in sent]


async def hear(conn: Conn, seconds: float) -> bool:
    """Wait for a notification, for so long at most; returns whether there was one."""
    if isinstance(conn, AsyncConnection):
        return bool([notice async for notice in conn.notifies(timeout=seconds, stop_after=1)])
    return bool(list(conn.notifies(timeout=seconds, stop_after=1)))


class TimeLoader(Loader):
    """Loads times as psycopg does, and those that Python has not as the nearest it has: infinity, BC, year 10000."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        """Take psycopg's own loader along."""
        super().__init__(oid, context)
        self._loader = psycopg.adapters.get_loader(oid, self.format)(oid, context)  # type: ignore[misc]

    def load(self, data: Buffer) -> Any:
        """Load a time."""
        try:
            return self._loader.load(data)
        except psycopg.DataError:
            sent, day = bytes(data), timedelta(days=1)  # which leaves room for time zones
            is_early = sent[0] > 127 if self.format else sent.startswith(b"-") or sent.endswith(b"BC")
            return (datetime.min + day if is_early else datetime.max - day).replace(tzinfo=UTC)


class _BinaryTimeLoader(TimeLoader):
    format = Format.BINARY


async def _rows(cursor: Any) -> Any:
    """Fetch the rows of a cursor. TimeLoader is slower than psycopg's: it reads what that refused."""
    try:
        return await maybe_await(cursor.fetchall())
    except psycopg.DataError as error:
        if error.sqlstate:
            raise
    for loader in (TimeLoader, _BinaryTimeLoader):
        cursor.adapters.register_loader("timestamptz", loader)
    again = Transformer(cursor)
    again.set_pgresult(cursor.pgresult)
    return again.load_rows(0, cursor.rowcount, cursor.row_factory(cursor))


def _cursor(conn: Conn, statement: Statement) -> Any:
    """Make psycopg's plain cursor, whatever cursor and row factories the connection has.

    It parses JSON where the connection does not, as Django's, and times whatever the DateStyle.
    """
    kind: Any = AsyncCursor if isinstance(conn, AsyncConnection) else Cursor
    made = kind(conn, row_factory=args_row(statement.model) if statement.model else tuple_row)
    if not (conn.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        # psycopg parses times in text format only in ISO style. To set that would affect a pooler's other sessions.
        made.format = Format.BINARY
        made.adapters.register_loader(0, TextBinaryLoader)  # oid 0: types that have no loader, such as these enums
    oids = psycopg.adapters.types
    loads_text = conn.adapters.get_loader(oids["text"].oid, Format.TEXT)
    if conn.adapters.get_loader(oids["jsonb"].oid, Format.TEXT) is loads_text:
        made.adapters.register_loader("jsonb", JsonbLoader)
    return made


Query: TypeAlias = Callable[Concatenate[Conn, P], Coroutine[Any, Any, T]]


def sync(query: Query[P, T]) -> Callable[Concatenate[Connection[Any], P], T]:
    """Make a helper for a Connection: a function."""

    def helper(conn: Connection[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not isinstance(conn, Connection):
            raise _wrong(conn, f"pyapp.{query.__name__}", Connection)
        return complete(query(conn, *args, **kwargs))

    _describe(helper, query, "pyapp", Connection[Any])
    return helper


def asynchronous(query: Query[P, T]) -> Callable[Concatenate[AsyncConnection[Any], P], Coroutine[Any, Any, T]]:
    """Make a helper for an AsyncConnection: a coroutine function."""

    async def helper(conn: AsyncConnection[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not isinstance(conn, AsyncConnection):
            raise _wrong(conn, f"pyapp.aio.{query.__name__}", AsyncConnection)
        return await query(conn, *args, **kwargs)

    _describe(helper, query, "pyapp.aio", AsyncConnection[Any])
    return helper


def _describe(helper: Any, query: Callable[..., Any], module: str, kind: Any) -> None:
    """Give a helper the documentation and signature of its query, for pydoc and editors, with its kind of conn."""
    wraps(query)(helper)
    signature = inspect.signature(query)
    conn, *others = signature.parameters.values()
    conn = conn.replace(kind=inspect.Parameter.POSITIONAL_ONLY, annotation=kind)
    helper.__signature__ = signature.replace(parameters=[conn, *others])
    helper.__annotations__ = {**query.__annotations__, "conn": kind}
    helper.__module__ = module
    del helper.__wrapped__


def _wrong(conn: Any, helper: str, wanted: type) -> TypeError:
    """Make the error for a connection of the wrong kind, which says what to pass instead."""
    name = helper.rpartition(".")[2]
    if isinstance(conn, AsyncConnection):
        advice = f"with an AsyncConnection, await pyapp.aio.{name}(…)"
    elif isinstance(conn, Connection):
        advice = f"with a Connection, call pyapp.{name}(…)"
    else:
        advice = (
            "pass what pool.connection() yields, session.connection().connection.driver_connection of SQLAlchemy, or"
            " connection.connection of Django after connection.ensure_connection()"
        )
    given = f"{type(conn).__module__}.{type(conn).__qualname__}"
    return TypeError(f"{helper} needs a psycopg.{wanted.__name__}, not {given}: {advice}")
