"""The service's way to the database: read-only, with a time limit, from a pool."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from pyapp.db import connect

T = TypeVar("T")
_LIMIT = "-c default_transaction_read_only=on -c statement_timeout=5s -c TimeZone=UTC"
_WAIT = 3.0  # seconds to wait for a connection before the answer is 503


class Database:
    """Runs queries on pooled connections."""

    def __init__(self, dsn: str, observe: Callable[[float], None]) -> None:
        """Prepare a pool; ``observe`` is told the seconds that each use took."""
        options = f"{conninfo_to_dict(dsn).get('options') or ''} {_LIMIT}".strip()
        self._arguments: dict[str, Any] = {"options": options, "autocommit": True, "connect_timeout": 3}
        self._dsn = dsn
        self._observe = observe
        self._pool = ConnectionPool(
            dsn,
            kwargs=self._arguments | {"application_name": "agent-progress serve"},
            min_size=1,
            max_size=10,
            timeout=_WAIT,
            max_waiting=200,
            reconnect_timeout=30,
            check=ConnectionPool.check_connection,
            open=False,
        )

    def open(self) -> None:
        """Start the pool; it connects on its own, also later."""
        self._pool.open(wait=False)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close(timeout=2)

    def run(self, query: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run a query. Raises psycopg's errors; ``PoolTimeout`` where no connection is to be had."""
        with self._pool.connection() as conn:
            began = time.perf_counter()
            try:
                return query(conn)
            finally:
                self._observe(time.perf_counter() - began)

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection beside the pool, for the stream."""
        return connect(self._dsn, **self._arguments)
