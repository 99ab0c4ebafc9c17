"""Finding the database, connecting to it, and retrying a transaction."""

import os
import random
from collections.abc import Callable
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from pyapp.both import Conn, Statement, complete, fetch, maybe_await, pause

T = TypeVar("T")

_LIBPQ_TARGET = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
# So that a server that accepts connections and does not answer is noticed, and a network that drops packets. In
# seconds, the last in milliseconds. The DSN overrides them.
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_LONGEST = 1.0  # seconds between two tries, at most


def find_dsn(dsn: str | None = None) -> str | None:
    """Find the connection string to use.

    Returns the argument, else ``DATABASE_URL``, else an empty string where libpq's own environment variables say which
    server is meant, else None: nobody said which.
    """
    if dsn:
        return dsn
    if url := os.environ.get("DATABASE_URL"):
        return url
    return "" if any(os.environ.get(name) for name in _LIBPQ_TARGET) else None


def find_read_dsn(read_dsn: str | None = None, dsn: str | None = None) -> str | None:
    """Find the connection string of a server to read from, beside the one that find_dsn finds.

    Returns the argument, else ``AGENT_PROGRESS_READ_DSN``, which belongs to ``DATABASE_URL`` and is ignored where a
    ``dsn`` was given; else None: read from the same server.
    """
    return read_dsn or (os.environ.get("AGENT_PROGRESS_READ_DSN") if not dsn else None) or None


def find_schema(schema: str | None = None) -> str:
    """Find the schema to work in: the argument, else ``AGENT_PROGRESS_SCHEMA``, else ``public``."""
    return schema or os.environ.get("AGENT_PROGRESS_SCHEMA") or "public"


def quoted_name(*names: str) -> sql.SQL:
    """Quote a name for a statement with values, in which psycopg would take a percent sign for a placeholder."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


def rows(conn: Connection[Any], schema: str, query: LiteralString, *values: Any) -> list[Any]:
    """Read rows; in the query, {schema} stands for the schema, and {name} for its name as text.

    A question is a ``select where …``: one row without columns means yes.
    """
    literal = sql.SQL(sql.Literal(sql.Identifier(schema).as_string()).as_string().replace("%", "%%"))
    composed = sql.SQL(query).format(schema=quoted_name(schema), name=literal)
    return conn.cursor(row_factory=tuple_row).execute(composed, values).fetchall()


def exists(conn: Connection[Any], schema: str, relation: str) -> bool:
    """Tell whether a schema has a table or view of a name."""
    return bool(rows(conn, schema, "select where to_regclass({name} || '.' || quote_ident(%s)) is not null", relation))


def connection_parameters(dsn: str | None = None) -> dict[str, Any]:
    """Return the parameters to connect with: those of the DSN, and defaults for what it leaves out.

    Raises ``psycopg.ProgrammingError`` where the DSN cannot be read.
    """
    given = conninfo_to_dict(find_dsn(dsn) or "")
    network: dict[str, Any] = dict(_NETWORK)
    if os.environ.get("PGCONNECT_TIMEOUT"):
        del network["connect_timeout"]
    # Text is Unicode in Python, whatever the environment, the role or the database prefers.
    return {**network, "application_name": "agent-progress", **given, "client_encoding": "utf8"}


def connect(dsn: str | None = None, *, prepare: bool | None = None, **options: Any) -> Connection[TupleRow]:
    """Connect to the database.

    The server is the one that ``dsn`` names, else ``DATABASE_URL``, else libpq's environment and defaults. ``options``
    go to psycopg's ``connect``, for example ``autocommit=True``. ``prepare`` says whether psycopg may prepare
    statements, which fails behind many poolers: by default ``AGENT_PROGRESS_PREPARE`` (on or off), else it does unless
    there is a pooler. Returns an open connection; the caller commits and closes it. Raises
    ``psycopg.OperationalError`` if the server cannot be reached, also where it does not answer within 10 seconds
    (``connect_timeout`` in the DSN, or ``PGCONNECT_TIMEOUT``, says otherwise).
    """
    conn: Connection[TupleRow] = complete(open_connection(Connection, dsn, prepare, options))
    return conn


async def open_connection(kind: type[Conn], dsn: str | None, prepare: bool | None, options: dict[str, Any]) -> Any:
    """Open a connection of a kind as ``connect`` does."""
    conn = await maybe_await(kind.connect(**(connection_parameters(dsn) | options)))
    if "prepare_threshold" not in options:
        await avoid_preparing(conn, prepare)
    return conn


async def avoid_preparing(conn: Conn, prepare: bool | None = None) -> None:
    """Keep psycopg from preparing statements where it may not: a pooler would mix them up between its clients."""
    if prepare is None:
        prepare = {"on": True, "off": False}.get(os.environ.get("AGENT_PROGRESS_PREPARE", "").lower())
    if prepare is False or (prepare is None and await is_pooled(conn)):
        conn.prepare_threshold = None


def in_transaction(conn: Conn) -> bool:
    """Tell whether a transaction is open."""
    return conn.info.transaction_status != TransactionStatus.IDLE


async def is_pooled(conn: Conn) -> bool:
    """Tell whether there is a pooler: the PID it gives when connecting is not that of the process that answers."""
    was_open = in_transaction(conn)
    [(process,)] = await fetch(conn, Statement("select pg_backend_pid()"))
    if not was_open:
        await maybe_await(conn.rollback())  # which does nothing where the connection commits by itself
    return bool(process != conn.info.backend_pid)


class Session:
    """A connection that commits by itself, and is made anew when it was lost; there is none at first."""

    def __init__(self, kind: type[Conn], dsn: str | None, prepare: bool | None) -> None:
        """Say where to connect, and in which of the two ways."""
        self.kind, self._dsn, self._prepare = kind, dsn, prepare
        self.conn: Any = None

    @property
    def lost(self) -> bool:
        """Whether there is no connection."""
        return self.conn is None or bool(self.conn.closed)

    async def connect(self) -> None:
        """Connect, or connect anew."""
        self.conn = await open_connection(self.kind, self._dsn, self._prepare, {"autocommit": True})

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await pause(self.kind, seconds)

    async def close(self) -> None:
        """Close the connection if there is one."""
        if self.conn is not None:
            await maybe_await(self.conn.close())

    async def close_if_useless(self, error: Exception) -> None:
        """Close the connection if it is of no use after an error: about to be lost, or stuck in a pipeline."""
        ending = psycopg.errors.AdminShutdown | psycopg.errors.CrashShutdown
        if not self.lost and (isinstance(error, ending) or self.conn.info.pipeline_status != PipelineStatus.OFF):
            await self.close()


def interrupted(error: BaseException) -> bool:
    """Tell whether PostgreSQL interrupted a transaction in favour of another, so that the client should retry.

    That is SQLSTATE 40P01 and 40001 (on a standby also where a query is in the way of replay), and one XX000: where
    several sessions had locked a row, and two updated it at once.
    """
    if isinstance(error, psycopg.errors.InternalError_):
        return "new multixact has more than one updating member" in str(error)
    return isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)


def pause_after(attempt: int) -> float:
    """Return how long to wait before a retry, in seconds: random, and longer with each attempt."""
    return random.uniform(0, min(_LONGEST, 0.005 * 2 ** min(attempt, 20)))  # noqa: S311 (no secret)


def retry(transaction: Callable[[], T], *, tries: int = 10) -> T:
    """Do a transaction, and retry it where PostgreSQL interrupted it in favour of another (40P01, 40001, a rare XX000).

    ``transaction`` has to begin and end it: a helper on a connection with autocommit, or a function that does its work
    in ``with conn.transaction():`` or on a connection of its own. On a standby, replay interrupts queries as well.
    Returns what ``transaction`` returns. Raises what it raises; at the last of ``tries`` also these errors.
    """
    result: T = complete(try_again(transaction, tries, Connection))
    return result


async def try_again(transaction: Callable[[], Any], tries: int, kind: type[Conn]) -> Any:
    """Do a transaction as ``retry`` does; it is a function or a coroutine function."""
    for attempt in range(tries - 1):
        try:
            return await maybe_await(transaction())
        except psycopg.Error as error:
            if not interrupted(error):
                raise
        await pause(kind, pause_after(attempt))
    return await maybe_await(transaction())
