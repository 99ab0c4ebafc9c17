"""The service's way to the database: read-only, with time limits, from a pool."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from pyapp import aio
from pyapp.db import avoid_preparing
from pyapp.web.lag import LagMeter
from pyapp.web.shape import Shape, find_shape
from pyapp.web.wire import Conn, adapters

T = TypeVar("T")
Read: TypeAlias = Callable[[Conn, Shape], Awaitable[T]]
"""Reads on a connection, and is told what the schema has."""
log = logging.getLogger("agent_progress")
AWAY = (psycopg.Error, PoolTimeout, TooManyRequests)
"""What reading ends in where the database does not answer, or lacks something."""
_CONNECTIONS = 10
_MOST_WAITING = 20  # where the database is slow, the rest is refused at once
_WAIT = 2.0  # seconds to wait for a connection before the answer is 503
_PATIENCE = 1.0  # seconds to wait for a standby before the answer is 503
_TRIES = 5  # of a query that a standby cancels
# A network that swallows packets is noticed; what the DSN says of these goes first.
_NETWORK = {"connect_timeout": 3, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_NETWORK["tcp_user_timeout"] = 15000
# What the DSN may say otherwise, and what not.
_DEFAULTS = "-c statement_timeout=5s"
_FIXED = "-c default_transaction_read_only=on -c search_path=pg_catalog -c TimeZone=UTC -c DateStyle=ISO"


def reason(error: Exception) -> str:
    """Say why there is no connection, in a line that names nothing of the DSN."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = next((line.rpartition("failed: ")[2] for line in lines if "failed: " in line), lines[0])
    return re.sub(r"""(["']).*?\1""", '"..."', told).strip()


def arguments(dsn: str) -> dict[str, Any]:
    """Say how the service connects: read-only, with a limit of time, and with names and times that nothing changes."""
    given = conninfo_to_dict(dsn)
    options = given.get("options") or os.environ.get("PGOPTIONS") or ""
    return {
        **_NETWORK,
        "application_name": "agent-progress serve",
        **given,
        "options": f"{_DEFAULTS} {options} {_FIXED}",
        "client_encoding": "utf8",
        "autocommit": True,
        "context": adapters(),
    }


async def _prepare(conn: Conn) -> None:
    await avoid_preparing(conn)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)  # in transactions: a page is of one moment


class Database:
    """Runs queries on the connections of a pool."""

    def __init__(
        self, dsn: str, schema: str = "public", primary: str | None = None, observe: Callable[[float], object] = float
    ) -> None:
        """Prepare a pool; ``observe`` is told the seconds that each use took.

        ``primary`` is the DSN of the primary where the other one is that of a standby.
        """
        self.schema = schema
        self.meter = LagMeter()
        self._arguments = arguments(dsn)
        self._primary = self._arguments if primary is None else arguments(primary)
        self._observe = observe
        self._shape: Shape | None = None
        # Connections are not checked before their use, which would cost each answer a way to the server and back.
        self._pool = AsyncConnectionPool(
            kwargs=self._arguments,
            configure=_prepare,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_WAIT,
            max_waiting=_MOST_WAITING,
            reconnect_timeout=0,  # the next request tries again: the pool would leave ever longer pauses
            open=False,
        )
        self._away, self._told = False, ""
        self._probing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Begin to connect; a connection that fails is tried again later."""
        await self._pool.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._pool.close(timeout=0.2)

    async def ask(self, query: Read[T], after: str | None = None) -> T:
        """Run a query, ``after`` a position of the log that is replayed first.

        Raises psycopg's errors; ``PoolTimeout`` where no connection is to be had, StandbyBehind where it takes longer
        until the position is replayed.
        """
        if self._away:
            await self._probe()
        try:
            # On a standby, what is replayed may cancel what reads, and end its session.
            return await aio.retry(lambda: self._ask(query, after), tries=_TRIES)
        except PoolTimeout:
            self._away = True
            raise
        except psycopg.ProgrammingError:
            self.forget()
            raise

    async def _ask(self, query: Read[T], after: str | None, again: bool = True) -> T:
        conn = await self._pool.getconn()
        began = time.perf_counter()
        try:
            if after is not None:
                await aio.wait_for_position(conn, after, _PATIENCE)
            return await query(conn, await self.shape(conn))
        except psycopg.OperationalError:
            if not (again and conn.closed):
                raise
        finally:
            self._observe(time.perf_counter() - began)
            await self._pool.putconn(conn)
        # The session had ended before, as others may have: it only reads, so that it can be done again.
        await self._pool.check()
        return await self._ask(query, after, again=False)

    async def shape(self, conn: Conn) -> Shape:
        """Tell what the schema has, which is found out once. Raises psycopg's errors."""
        self._shape = self._shape or await find_shape(conn, self.schema)
        return self._shape

    def forget(self) -> None:
        """Find out anew what the schema has, where something that it had is gone."""
        self._shape = None

    async def connect(self, *, to_primary: bool = False) -> Conn:
        """Open a connection beside the pool: to read, or to where notifications come from."""
        conn = await psycopg.AsyncConnection.connect(**(self._primary if to_primary else self._arguments))
        await avoid_preparing(conn)
        return conn

    async def _probe(self) -> None:
        """See whether the database is back. One request at a time looks, all others are refused meanwhile."""
        if self._probing.locked():
            raise PoolTimeout("the database is away")
        async with self._probing:
            try:
                await (await self.connect()).close()
            except psycopg.Error as error:
                if (why := reason(error)) != self._told:
                    log.warning("the database is away, answers are 503: %s", why)
                self._told = why
                raise
            self._away = False
            log.warning("the database is back")
