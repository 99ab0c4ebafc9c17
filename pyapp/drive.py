"""Carrying out the generators of ``pyapp.queries`` on a connection of psycopg, sync or async.

``sync`` and ``asynchronous`` make a helper of such a generator.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, get_args

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import Format, PipelineStatus, TransactionStatus
from psycopg.rows import args_row, tuple_row
from psycopg.types.json import JsonbLoader
from psycopg.types.string import TextBinaryLoader

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to send; its rows come back as ``row``, or as tuples."""

    text: str
    values: Sequence[Any] = ()
    row: type[Any] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A step that waits."""

    seconds: float


@dataclass(slots=True)
class Transaction:
    """Statements to send in one pipeline, and to commit; ``results`` has their rows before the commit is sent."""

    statements: Sequence[Statement]
    results: list[list[Any]] = field(default_factory=list)


class Ask(Enum):
    """What else a query may yield: questions to the connection, and a rollback."""

    PROCESS = "the PID of the server's process, as the server told it when connecting"
    IN_TRANSACTION = "whether a transaction is open"
    ROLLBACK = "to roll back, which does nothing where no transaction is open"


Query: TypeAlias = Generator[Statement | Pause | Transaction | Ask, Any, T]
"""A helper without its I/O: it yields each step, is sent the rows or thrown the error, and returns the result."""


def is_pooled() -> Query[bool]:
    """Tell whether there is a pooler: the PID it gives when connecting is not that of the process that answers."""
    is_open = yield Ask.IN_TRANSACTION
    [(process,)] = yield Statement("select pg_backend_pid()")
    if not is_open:
        yield Ask.ROLLBACK
    return bool(process != (yield Ask.PROCESS))


def drive(steps: Generator[Any, Any, T], act: Callable[[Any], Any]) -> T:
    """Carry out the steps of a generator: what ``act`` returns is sent back, what it raises is thrown in."""
    try:
        step = next(steps)
        while True:
            try:
                answer = act(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def drive_async(steps: Generator[Any, Any, T], act: Callable[[Any], Awaitable[Any]]) -> T:
    """Carry out the steps of a generator as ``drive`` does."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await act(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def run(conn: Connection[Any], query: Query[T]) -> T:
    """Carry out a query on a connection, whatever its row factory, in its transaction or without one."""
    if not isinstance(conn, Connection):
        raise _wrong(conn, query, "pyapp", Connection)
    return drive(query, partial(act, conn))


async def run_async(conn: AsyncConnection[Any], query: Query[T]) -> T:
    """Carry out a query as ``run`` does."""
    if not isinstance(conn, AsyncConnection):
        raise _wrong(conn, query, "pyapp.aio", AsyncConnection)
    return await drive_async(query, partial(act_async, conn))


def act(conn: Connection[Any], step: Statement | Pause | Transaction | Ask) -> Any:
    """Carry out one step. Returns rows of a statement, the PID for ``PROCESS``, else whether a transaction is open."""
    match step:
        case Statement():
            with cursor(conn, step) as one:
                return one.execute(step.text, step.values).fetchall()
        case Transaction():
            with conn.pipeline(), conn.transaction():
                sent = [cursor(conn, each).execute(each.text, each.values) for each in step.statements]
                step.results = [one.fetchall() for one in sent]
        case Pause():
            time.sleep(step.seconds)
        case Ask.PROCESS:
            return conn.info.backend_pid
        case Ask.ROLLBACK:
            conn.rollback()
    return conn.info.transaction_status != TransactionStatus.IDLE


async def act_async(conn: AsyncConnection[Any], step: Statement | Pause | Transaction | Ask) -> Any:
    """Carry out one step as ``act`` does."""
    match step:
        case Statement():
            async with cursor_async(conn, step) as one:
                return await (await one.execute(step.text, step.values)).fetchall()
        case Transaction():
            async with conn.pipeline(), conn.transaction():
                sent = [await cursor_async(conn, each).execute(each.text, each.values) for each in step.statements]
                step.results = [await one.fetchall() for one in sent]
        case Pause():
            await asyncio.sleep(step.seconds)
        case Ask.PROCESS:
            return conn.info.backend_pid
        case Ask.ROLLBACK:
            await conn.rollback()
    return conn.info.transaction_status != TransactionStatus.IDLE


def gone(conn: Connection[Any] | AsyncConnection[Any], error: BaseException) -> bool:
    """Tell whether a connection is useless after an error: lost, or about to be, or stuck in a pipeline."""
    ending = psycopg.errors.AdminShutdown | psycopg.errors.CrashShutdown
    return conn.closed or conn.info.pipeline_status != PipelineStatus.OFF or isinstance(error, ending)


def cursor(conn: Connection[Any], statement: Statement) -> Cursor[Any]:
    """Make a cursor for a statement: psycopg's plain one, whatever cursor and row factories the connection has."""
    made = Cursor(conn, row_factory=args_row(statement.row) if statement.row else tuple_row)
    _fit(made)
    return made


def cursor_async(conn: AsyncConnection[Any], statement: Statement) -> AsyncCursor[Any]:
    """Make a cursor as ``cursor`` does."""
    made = AsyncCursor(conn, row_factory=args_row(statement.row) if statement.row else tuple_row)
    _fit(made)
    return made


def _fit(made: Cursor[Any] | AsyncCursor[Any]) -> None:
    """Make the cursor parse JSON where the connection does not, as Django's, and times whatever the DateStyle."""
    if not (made.connection.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        # psycopg parses times in text format only in ISO style. To set that would affect a pooler's other sessions.
        made.format = Format.BINARY
        made.adapters.register_loader(0, TextBinaryLoader)  # of enums
    adapters = made.connection.adapters
    oids = psycopg.adapters.types
    loads_text = adapters.get_loader(oids["text"].oid, Format.TEXT)
    if adapters.get_loader(oids["jsonb"].oid, Format.TEXT) is loads_text:
        made.adapters.register_loader("jsonb", JsonbLoader)


def sync(query: Callable[P, Query[T]]) -> Callable[Concatenate[Connection[Any], P], T]:
    """Make a helper of a query: a function that takes a connection before the other arguments."""

    def helper(conn: Connection[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(conn, query(*args, **kwargs))

    _describe(helper, query, "pyapp.helpers", Connection[Any])
    return helper


def asynchronous(
    query: Callable[P, Query[T]],
) -> Callable[Concatenate[AsyncConnection[Any], P], Coroutine[Any, Any, T]]:
    """Make a helper of a query: a coroutine function that takes a connection before the other arguments."""

    async def helper(conn: AsyncConnection[Any], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_async(conn, query(*args, **kwargs))

    _describe(helper, query, "pyapp.aio", AsyncConnection[Any])
    return helper


def _describe(helper: Any, query: Callable[..., Any], module: str, connection: Any) -> None:
    """Give a helper the documentation and signature of its query, for pydoc and editors, with the connection added."""
    wraps(query)(helper)
    signature = inspect.signature(query)
    conn = inspect.Parameter("conn", inspect.Parameter.POSITIONAL_ONLY, annotation=connection)
    returned = get_args(signature.return_annotation)[2]
    helper.__signature__ = signature.replace(
        parameters=[conn, *signature.parameters.values()], return_annotation=returned
    )
    helper.__annotations__ = {"conn": connection, **query.__annotations__, "return": returned}
    helper.__module__ = module
    del helper.__wrapped__


def _wrong(conn: Any, query: Query[Any], module: str, wanted: type) -> TypeError:
    """Make the error for a connection of the wrong kind, which says what to pass instead."""
    name = getattr(query, "__name__", "this")
    query.close()
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
    return TypeError(f"{module}.{name} needs a psycopg.{wanted.__name__}, not {given}: {advice}")
